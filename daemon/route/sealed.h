/* sealed.h: streams of frames between two nodes, sealed end to end, over a link or by way of one neighbour (DESIGN D6, D13).
 *
 * A stream is a Noise channel of its own (proto/channel.h), with the two nodes' link keys and a prologue that names both nodes and
 * the stream, inside SEALED frames on latency links. Where no link stands between the two, a neighbour of both passes the frames on:
 * it sees who speaks with whom, sizes and times, and keeps no state but a bucket for each neighbour. It can drop or hold back;
 * anything else ends the stream.
 *
 *   opener                              (neighbour)                              other side
 *   SEALED 1: e, es, s, ss                  -->      knows `from` by its card; a key that differs is refused
 *   SEALED 2                                <--
 *   SEALED 3: the stream of frames          <->      on_open() with the first that is good, as message 1 can be replayed
 *
 * An empty message every SEALED_ALIVE_MS while nothing else is said; SEALED_SILENCE_MS of silence end a stream. One that cannot be
 * set up over one neighbour is tried over the next.
 *
 * Pure: frames, time and randomness come by callbacks. Callbacks may call any verb here. Thread: loop. Owner: gateway.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ROUTE_SEALED_H
#define ROUTE_SEALED_H

#include "proto/gateway.h"

#define SEALED_STREAMS_MAX 64            /* of all; half of them may be of others' making */
#define SEALED_STREAMS_NODE_MAX 8        /* that one node has open with us */
#define SEALED_TRIES_MAX 8               /* neighbours that are asked to pass on, one after the other */
#define SEALED_SETUP_MS 4000             /* for each */
#define SEALED_ALIVE_MS 5000
#define SEALED_SILENCE_MS 20000
#define SEALED_FRAME_MAX (GATEWAY_TEXT_MAX + FRAME_HEAD_MAX + FRAME_HEADER)
#define SEALED_RELAY_BURST (4u << 20)    /* bytes passed on for a neighbour at once, ... */
#define SEALED_RELAY_RATE (128u << 10)   /* ... and a second in the long run */
#define SEALED_BUCKETS_MAX 256

struct sealed;
struct sealed_stream;

struct sealed_config {
	uint8_t node[KEY_BYTES];
	const uint8_t *link_secret;          /* CHANNEL_KEY bytes */
	const char *network;
	uint64_t (*monotonic_ms)(void *arg);
	void (*random)(void *arg, void *out, size_t n);
	/* Latency link; takes the frame on success. */
	int (*send)(void *arg, const uint8_t neighbour[KEY_BYTES], struct buf *frame);
	bool (*is_up)(void *arg, const uint8_t node[KEY_BYTES]);
	size_t (*neighbours)(void *arg, uint8_t (*out)[KEY_BYTES], size_t max);      /* with links, the best to ask first */
	/* Of a node that may speak with us, by its card: ERR_UNKNOWN, ERR_DENIED. */
	int (*link_key)(void *arg, const uint8_t node[KEY_BYTES], uint8_t out[KEY_BYTES]);
	bool (*relays)(void *arg);           /* do we pass on? */
	void *arg;
	/* --- whose streams they are --- */
	/* The other side began one and proved who it is: what is its user? NULL: closed with ERR_BUSY. */
	void *(*on_open)(void *owner, struct sealed_stream *stream, const uint8_t node[KEY_BYTES]);
	void (*on_up)(void *owner, void *user);              /* ours stands: say something */
	int (*on_frame)(void *owner, void *user, const struct frame *frame);   /* an error closes the stream, with that word */
	/* Exactly once unless sealed_close() was called, never from inside sealed_open(). The stream is gone when it returns. */
	void (*on_closed)(void *owner, void *user, int why, const char *detail);
	void *owner;
};

int sealed_new(struct sealed **out, const struct sealed_config *config);
void sealed_free(struct sealed *sealed);               /* streams end without a callback */

/* ERR_UNREACHABLE when nobody can be asked to carry it, ERR_UNKNOWN, ERR_DENIED, ERR_BUSY. */
int sealed_open(struct sealed *sealed, const uint8_t node[KEY_BYTES], void *user, struct sealed_stream **out);
int sealed_send(struct sealed_stream *stream, const struct buf *frame);      /* any frame of at most SEALED_FRAME_MAX; -EAGAIN: queue full */
void sealed_close(struct sealed_stream *stream, int why);        /* says BYE; no callback any more */
const uint8_t *sealed_via(const struct sealed_stream *stream);   /* the neighbour in between, or the other side itself */

/* Inputs: a SEALED frame from a neighbour, a neighbour that went, time. */
void sealed_on_frame(struct sealed *sealed, const uint8_t neighbour[KEY_BYTES], const struct frame *frame);
void sealed_on_down(struct sealed *sealed, const uint8_t neighbour[KEY_BYTES]);
void sealed_tick(struct sealed *sealed);

struct sealed_counts { size_t streams; uint64_t relayed_frames, relayed_bytes, refused; };
struct sealed_counts sealed_counts(const struct sealed *sealed);

#endif
