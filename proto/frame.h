/* frame.h: the one unit that crosses a socketpair to an engine or a link to a peer.
 *
 *   offset  size  what
 *   0       4     length of everything behind this field, little-endian; 8 .. FRAME_MAX - 4
 *   4       1     type (enum frame_type)
 *   5       1     flags, 0 in version 1; a receiver refuses bits it does not know
 *   6       2     reserved, 0
 *   8       4     head length; the head is msgpack and validated before it is parsed
 *   12      ...   head, then tail: raw bytes (activations, tokens, records), never msgpack
 *
 * A type that the receiver does not know: below 128 it closes the connection (ERR_UNSUPPORTED), from 128 it
 * is ignored, so that later versions can add what older nodes may skip. Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_FRAME_H
#define PROTO_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"

#define FRAME_HEADER 12
#define FRAME_HEAD_MAX (64u << 10)
#define FRAME_TAIL_MAX (8u << 20)       /* 32 rows of 65,536 float32 */
#define FRAME_MAX (FRAME_HEADER + FRAME_HEAD_MAX + FRAME_TAIL_MAX)
#define FRAME_IGNORABLE 128             /* types from here on */

enum frame_type {
	/* link, between neighbours (link/ answers these itself) */
	FRAME_HELLO = 1,          /* versions and limits, first frame each way */
	FRAME_PING = 2,
	FRAME_PONG = 3,
	FRAME_CREDIT = 4,
	FRAME_BYE = 5,            /* authenticated close, with a reason */

	/* mesh: records (bulk connection) */
	FRAME_DIGEST = 16,        /* what I have */
	FRAME_WANT = 17,          /* what I lack */
	FRAME_RECORDS = 18,       /* tail: records, each preceded by its u32 length */
	FRAME_JOIN = 19,          /* joiner to inviter: my records, my role */
	FRAME_JOINED = 20,        /* inviter to joiner: what you are now, my records */
	FRAME_OBSERVED = 21,      /* the address you are seen from */

	/* ring: between home and stages, and between daemon and engine (latency connection) */
	FRAME_TICKET = 32,        /* head: `from` or an empty map; tail: one signed ticket */
	FRAME_READY = 33,
	FRAME_ROWS = 34,
	FRAME_TOKENS = 35,
	FRAME_FAULT = 36,
	FRAME_CLOSE = 37,
	FRAME_RECEIPT = 38,       /* tail: one signed receipt */
	FRAME_SEALED = 39,        /* between two nodes, sealed end to end, perhaps by way of a third */

	/* engine, over the socketpair only; a link that carries one is closed */
	FRAME_ENGINE_HELLO = 64,
	FRAME_ENGINE_INSPECT = 65,
	FRAME_ENGINE_INSPECTED = 66,
	FRAME_ENGINE_LOAD = 67,
	FRAME_ENGINE_LOADED = 68,
	FRAME_ENGINE_OPEN = 69,
	FRAME_ENGINE_RENDER = 70,
	FRAME_ENGINE_RENDERED = 71,
	FRAME_ENGINE_FAULT = 72,  /* about a request or the whole engine, not one session */
	FRAME_ENGINE_PROGRESS = 73,

	/* inside SEALED only (proto/gateway.h); a link that carries one is closed */
	FRAME_GATEWAY_ASK = 80,
	FRAME_GATEWAY_START = 81,
	FRAME_GATEWAY_END = 82,

	/* bulk connection */
	FRAME_REACH = 128,        /* dial the addresses of my card, please */
	FRAME_REACHED = 129,      /* how each of them answered */
};

struct frame {                 /* a view: the bytes belong to whoever decoded them */
	enum frame_type type;
	uint8_t flags;
	const uint8_t *head;
	size_t head_length;
	const uint8_t *tail;
	size_t tail_length;
};

/* The first frame in n bytes. *used is its whole size. -EAGAIN: not all there yet (only after the
 * header passed its checks); ERR_LIMIT or ERR_MALFORMED: close the connection. */
int frame_decode(const uint8_t *bytes, size_t n, struct frame *out, size_t *used);

/* Appends a frame. head and tail may be NULL with length 0. */
int frame_encode(struct buf *out, enum frame_type type, const void *head, size_t head_length, const void *tail,
		 size_t tail_length);

#endif
