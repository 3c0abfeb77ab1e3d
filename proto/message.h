/* message.h: the heads of ring and engine frames, as structs with one encoder and one decoder each.
 *
 * The same ROWS frame goes to an engine over a socketpair and to a peer over a link (DESIGN: everything that
 * computes is a stage). All encoders append a whole frame to a buffer; all decoders take a decoded frame and check every
 * field against its limit (ERR_LIMIT, ERR_MALFORMED). Views point into the frame's bytes. An encoder refuses what the decoder
 * would, but for the detail of faults, which it makes plain. After a failure a message holds nothing to free. Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_MESSAGE_H
#define PROTO_MESSAGE_H

#include "proto/frame.h"
#include "proto/gbnf.h"
#include "proto/ticket.h"

#define PROTOCOL_VERSION 1
#define CHUNK_ROWS 32                /* prefill: chunks end at multiples of this position, always (D2) */
#define ROWS_BLOCKS_MAX 64           /* sessions in one frame */
#define TOKENS_MAX 64                /* tokens in one TOKENS frame */
#define PIECE_MAX 256                /* bytes of one token's text */
#define STOPS_MAX 4
#define KEEP_S_MAX 86400             /* a session without a question */

enum encoding {                       /* of a block's rows in the tail; others may be negotiated later */
	ENCODING_TOKEN = 1,               /* int32 token ids: only to a shard with the embedding */
	ENCODING_F32 = 2,                 /* float32, (count, n_embd) */
	ENCODING_F16 = 3,                 /* reserved */
};

/* One session's share of a ROWS frame. Positions [position, position + count); writing is truncating (D4). */
struct rows_block {
	uint8_t session[SESSION_BYTES];
	uint32_t epoch;
	uint32_t stage;                   /* who is to compute it; a stage sends its result with stage + 1 */
	uint64_t sequence;                /* grows by one for each block of a (session, epoch), from 0 */
	uint32_t position;
	uint32_t count;                   /* 1 .. CHUNK_ROWS */
	uint32_t want;                    /* of the last rows, how many need an output: 0 prefill, 1 decode, k verify */
	enum encoding encoding;
	uint32_t microseconds;            /* compute time of the stage that sent it; 0 on links */
	const uint8_t *rows;              /* in the tail */
	size_t rows_length;
};
struct rows_message {
	size_t n_blocks;
	struct rows_block blocks[ROWS_BLOCKS_MAX];
};
int rows_encode(struct buf *out, const struct rows_message *m);
int rows_decode(const struct frame *f, struct rows_message *m);

/* What the last shard says after each block: want tokens sampled (0 or more), as ids and text. */
#define TOP_LOGPROBS_MAX 20          /* likeliest tokens named beside each token */
#define TOPS_MAX (CHUNK_ROWS * TOP_LOGPROBS_MAX)     /* of one frame */
struct token_top {
	int32_t id;
	float logprob;
	uint32_t piece_length;
	const uint8_t *piece;
};
struct token {
	int32_t id;
	float logprob;                    /* natural logarithm, of the model's own distribution: before bias, penalties, temperature */
	bool end;                         /* end of generation: its text is not part of the answer */
	uint32_t piece_length;
	const uint8_t *piece;             /* bytes; may be a part of a UTF-8 character */
	uint32_t n_top;                   /* as many as sampling.top asked for, likeliest first */
	struct token_top top[TOP_LOGPROBS_MAX];
};
struct tokens_message {
	uint8_t session[SESSION_BYTES];
	uint32_t epoch;
	uint64_t sequence;                /* of the block that this answers */
	uint32_t position;                /* of the first token here: block position + count - want + 1 */
	uint32_t microseconds;
	size_t n_tokens;
	struct token tokens[TOKENS_MAX];
};
int tokens_encode(struct buf *out, const struct tokens_message *m);
int tokens_decode(const struct frame *f, struct tokens_message *m);

struct ticket_message {               /* home to stage */
	const uint8_t *ticket;            /* view; ticket.h */
	size_t ticket_length;
	bool forks;
	uint8_t from[SESSION_BYTES];      /* begin with what the stage holds of this session of home's, if it does (D4: fork) */
};
int ticket_message_encode(struct buf *out, const struct ticket_message *m);
int ticket_message_decode(const struct frame *f, struct ticket_message *m);

struct ready_message {                /* stage to home: the session is open here and my way to `next` is up */
	uint8_t session[SESSION_BYTES];
	uint32_t epoch, stage;
};
int ready_encode(struct buf *out, const struct ready_message *m);
int ready_decode(const struct frame *f, struct ready_message *m);

struct fault_message {                /* stage to home, or engine to daemon */
	uint8_t session[SESSION_BYTES];
	uint32_t epoch, stage;
	int code;                         /* an enum err */
	uint32_t position;                /* ERR_NEED_REPLAY: from here */
	char detail[200];                 /* for people; never anything that was said */
};
int fault_encode(struct buf *out, const struct fault_message *m);
int fault_decode(const struct frame *f, struct fault_message *m);

struct close_message {                /* home to stage, daemon to engine */
	uint8_t session[SESSION_BYTES];
	uint32_t epoch, stage;            /* stage UINT32_MAX: all of the session's */
	int reason;                       /* 0 done, or an enum err */
	uint32_t keep_s;                  /* home may go on with it within so many seconds; a wish. 0: it will not */
};
int close_encode(struct buf *out, const struct close_message *m);
int close_decode(const struct frame *f, struct close_message *m);

/* --- engine only -------------------------------------------------------------------------------- */

/* INTEGRATED computes in the machine's memory; SOFTWARE is a driver that computes on the CPU, for tests. */
enum device_kind { DEVICE_NONE, DEVICE_CARD, DEVICE_INTEGRATED, DEVICE_SOFTWARE };
struct engine_device {
	enum device_kind kind;
	char name[NAME_SIZE];             /* what its driver calls it */
	uint64_t bytes, free_bytes;       /* of its memory, when it was opened */
};
struct engine_hello {                 /* engine to daemon, once the sandbox stands */
	char engine[NAME_SIZE];           /* as in an advert: "llama 0.7.0 q1a2b3c4 cpu" */
	bool sandboxed;
	struct engine_device device;      /* that it was asked to use */
	char no_device[200];              /* why there is none though it was asked; "" otherwise */
};
int engine_hello_encode(struct buf *out, const struct engine_hello *m);
int engine_hello_decode(const struct frame *f, struct engine_hello *m);

/* Files of a model travel as descriptors (SCM_RIGHTS) with the first byte of INSPECT or LOAD, in order. */
struct engine_inspect {
	uint32_t request;
	uint32_t n_files;
	uint32_t context;                 /* to measure compute buffers for; 0: the model's own */
	char names[MODEL_FILES_MAX][256]; /* base names, for messages */
};
int engine_inspect_encode(struct buf *out, const struct engine_inspect *m);
int engine_inspect_decode(const struct frame *f, struct engine_inspect *m);

struct engine_inspected {             /* roots, sha256 and torrent are the store's to fill */
	uint32_t request;
	struct manifest_body manifest;    /* manifest_free() */
};
int engine_inspected_encode(struct buf *out, const struct engine_inspected *m);  /* the body is the tail */
int engine_inspected_decode(const struct frame *f, struct engine_inspected *m);

struct engine_load {
	uint32_t request;
	uint32_t n_files;
	size_t n_ranges;
	struct layer_range ranges[RANGES_MAX];
	uint32_t n_layer;                 /* of the whole model; must match the file */
	uint32_t context;                 /* positions of one session */
	uint32_t sessions;                /* KV for this many at once */
	uint32_t threads;
	uint64_t memory_max;              /* weights + KV + compute outside the device; 0: no limit. Past it: ERR_BUDGET */
	uint64_t device_max;              /* the same on the device, which takes what fits; 0: nothing goes there */
	size_t n_extents;                 /* verified bytes; a read outside is an error. Tail: (file u32, offset u64, length u64)* */
	struct model_extent *extents;     /* heap; group unused; engine_load_free() */
};
int engine_load_encode(struct buf *out, const struct engine_load *m);
int engine_load_decode(const struct frame *f, struct engine_load *m);
void engine_load_free(struct engine_load *m);

enum truncate { TRUNCATE_ANY = 0, TRUNCATE_LAST = 1, TRUNCATE_NONE = 2 };
struct engine_loaded {
	uint32_t request;
	uint64_t weight_bytes, kv_bytes, compute_bytes;      /* in memory, of all ranges */
	uint64_t device_bytes;            /* of them, on the device */
	uint32_t device_layers;           /* of the ranges' layers, on the device */
	uint32_t n_embd, n_vocab;
	enum truncate truncate;
	uint32_t layer_microseconds;      /* one row through one layer, measured at load */
};
int engine_loaded_encode(struct buf *out, const struct engine_loaded *m);
int engine_loaded_decode(const struct frame *f, struct engine_loaded *m);

struct sampling {
	float temperature;                /* 0: greedy */
	float top_p, min_p;               /* 1, 0: off */
	int32_t top_k;                    /* 0: off */
	float repeat_penalty, presence_penalty, frequency_penalty;   /* 1, 0, 0: off */
	uint64_t seed;                    /* the random number for a position comes from (seed, position) alone */
	bool ignore_end;                  /* tests and benches: go on after an end token */
	uint32_t top;                     /* how many of the likeliest tokens are told beside each: 0 .. TOP_LOGPROBS_MAX */
	/* Views, in the tail of ENGINE_OPEN. */
	size_t n_bias;                    /* added to logits before anything else; 0 .. LOGIT_BIAS_MAX */
	const uint8_t *bias;              /* n_bias times int32 id, float32 bias, little-endian */
	size_t grammar_length;            /* 0: none; at most GRAMMAR_BYTES_MAX, UTF-8 without NUL */
	const char *grammar;              /* GBNF: what follows the prompt must match its rule "root" */
};
#define LOGIT_BIAS_MAX 1024
#define LOGIT_BIAS_BYTES 8
#define GRAMMAR_BYTES_MAX GBNF_BYTES_MAX
struct logit_bias {
	int32_t id;
	float bias;
};
void logit_bias_put(uint8_t out[LOGIT_BIAS_BYTES], struct logit_bias bias);
struct logit_bias logit_bias_get(const struct sampling *sampling, size_t i);
/* With views into memory of its own (*memory, to be freed), where the grammar ends with NUL. -ENOMEM. */
int sampling_copy(struct sampling *out, const struct sampling *from, void **memory);
struct engine_open {                  /* daemon to its engine: a session on one of its shards */
	uint8_t session[SESSION_BYTES];
	uint32_t epoch, stage;
	struct layer_range range;         /* one of those loaded, or inside one when the engine can */
	uint32_t context;
	uint32_t prompt;                  /* positions before it are the question: what a grammar does not look at */
	struct sampling sampling;         /* used when the range ends the model */
	bool forks;
	uint8_t from[SESSION_BYTES];      /* a new session begins with what this one's same stage holds, where the model permits */
};
int engine_open_encode(struct buf *out, const struct engine_open *m);    /* answered by READY or FAULT */
int engine_open_decode(const struct frame *f, struct engine_open *m);

#define RENDER_MESSAGES_MAX 1024
#define RENDER_BYTES_MAX (4u << 20)
struct render_message {               /* views */
	const char *role; size_t role_length;
	const char *content; size_t content_length;
};
struct engine_render {                /* text to tokens by the model's own vocabulary and chat template */
	uint32_t request;
	bool chat;                        /* messages through the template; otherwise messages[0].content as it is */
	bool add_special, parse_special;
	bool pieces;                      /* the text of each token comes back too */
	bool embed;                       /* and what the whole model makes of them: one vector */
	size_t n_tokens;                  /* ids instead of messages; at most RENDER_TOKENS_MAX */
	const uint8_t *tokens;            /* int32 little-endian, in the tail */
	size_t n_messages;
	struct render_message *messages;  /* heap; engine_render_free(). Contents travel in the tail */
};
int engine_render_encode(struct buf *out, const struct engine_render *m);
int engine_render_decode(const struct frame *f, struct engine_render *m);
void engine_render_free(struct engine_render *m);

#define RENDER_TOKENS_MAX (RENDER_BYTES_MAX / 4)
struct engine_rendered {              /* views into the tail, which may be unaligned */
	uint32_t request;
	size_t n_tokens;
	const uint8_t *tokens;            /* int32 little-endian */
	size_t pieces_length;             /* 0, or n_tokens pieces follow each other: */
	const uint8_t *pieces;            /* u16 length, bytes */
	uint32_t n_embd;                  /* 0, or the embedding's width */
	const uint8_t *embedding;         /* float32 little-endian, finite, of length 1 */
};
/* The piece at *at, which moves behind it. */
const uint8_t *rendered_piece(const struct engine_rendered *m, size_t *at, size_t *length);
int engine_rendered_encode(struct buf *out, const struct engine_rendered *m);
int engine_rendered_decode(const struct frame *f, struct engine_rendered *m);

struct engine_fault {
	uint32_t request;                 /* 0: the engine as a whole */
	int code;
	char detail[400];
};
int engine_fault_encode(struct buf *out, const struct engine_fault *m);
int engine_fault_decode(const struct frame *f, struct engine_fault *m);

struct engine_progress {              /* while loading or inspecting */
	uint32_t request;
	uint32_t permille;
};
int engine_progress_encode(struct buf *out, const struct engine_progress *m);
int engine_progress_decode(const struct frame *f, struct engine_progress *m);

#endif
