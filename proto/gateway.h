/* gateway.h: what a node says to the one that answers a question for it (DESIGN D6), and the envelope in which it travels.
 *
 * SEALED is the only one of these on a link. It carries one message of a Noise channel between two nodes, `from` and `to`, of
 * which a neighbour in the middle reads the addresses and the length. Inside the channel runs a stream of frames:
 *
 *   asker to gateway    GATEWAY_ASK, ENGINE_RENDER (the text), ENGINE_OPEN (of which only the sampling counts)
 *   gateway to asker    GATEWAY_START, TOKENS (one token each, as an engine would say them), GATEWAY_END
 *   either              BYE {"why"}: no more; an empty message: still here
 *
 * So everything that a question can ask of an engine goes through in the form that engines are asked in. All encoders append a whole
 * frame; decoders check every field. Views point into the frame's bytes. Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_GATEWAY_H
#define PROTO_GATEWAY_H

#include "proto/channel.h"
#include "proto/message.h"

#define CHANNEL_ID_BYTES 16
#define GATEWAY_MODEL_MAX (2 * NAME_SIZE)       /* "name@association", or digits of an id */
#define GATEWAY_TEXT_MAX (1u << 20)             /* bytes of a question: its ENGINE_RENDER frame is not much larger */

enum sealed_step { SEALED_FIRST = 1, SEALED_SECOND = 2, SEALED_DATA = 3, SEALED_FAILED = 4 };

struct sealed_message {
	uint8_t from[KEY_BYTES], to[KEY_BYTES];     /* node keys */
	uint8_t channel[CHANNEL_ID_BYTES];          /* random, of the node that began */
	enum sealed_step step;
	int code;                                   /* SEALED_FAILED: an enum err; otherwise 0 */
	const uint8_t *bytes;                       /* a Noise message; none with SEALED_FAILED */
	size_t n;
};
int sealed_encode(struct buf *out, const struct sealed_message *m);
int sealed_decode(const struct frame *f, struct sealed_message *m);

struct gateway_ask {
	char model[GATEWAY_MODEL_MAX];
	uint32_t max_tokens;                        /* 0: as many as there is room for */
};
int gateway_ask_encode(struct buf *out, const struct gateway_ask *m);
int gateway_ask_decode(const struct frame *f, struct gateway_ask *m);

struct gateway_start {
	char model[NAME_SIZE], association[NAME_SIZE];      /* the alias that answers */
	uint32_t prompt_tokens;
};
int gateway_start_encode(struct buf *out, const struct gateway_start *m);
int gateway_start_decode(const struct frame *f, struct gateway_start *m);

struct gateway_stage {
	uint8_t node[KEY_BYTES];
	bool text;                                  /* saw text */
	struct layer_range range;
	uint64_t rows, microseconds;
};
struct gateway_end {
	int err;                                    /* 0, or an enum err with detail */
	char detail[300];
	bool length;                                /* ended because the length was reached, not of itself */
	uint32_t retry_after;
	uint32_t prompt_tokens, completion_tokens;
	uint64_t prefill_us, decode_us;
	size_t n_stages;
	struct gateway_stage stages[RING_STAGES_MAX];
};
int gateway_end_encode(struct buf *out, const struct gateway_end *m);
int gateway_end_decode(const struct frame *f, struct gateway_end *m);

int gateway_bye_encode(struct buf *out, int why);       /* 0 .. -4096 */
int gateway_bye_decode(const struct frame *f, int *why);

#endif
