/* ticket.h: what lets a node open a session on a stage (DESIGN D5).
 *
 * Home signs one ticket for every stage of a ring. On the wire: msgpack array [payload: bin, signature: bin 64],
 * Ed25519 over "essaim-ticket-1" NUL payload. A stage takes rows for (session, epoch) only from `previous`
 * and sends its own only to `next`. A ticket is good once: a stage remembers (session, epoch, stage) until `expires`.
 * Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_TICKET_H
#define PROTO_TICKET_H

#include "proto/buf.h"
#include "proto/record.h"

#define SESSION_BYTES 16
#define TICKET_MAX 4096              /* bytes of one ticket */
#define TICKET_LIFE_S 3600           /* the longest life of a session; home asks again for more */
#define RING_STAGES_MAX 32

struct ticket {
	uint8_t session[SESSION_BYTES];  /* random, from home */
	uint32_t epoch;                  /* grows with every new set of stages of one session */
	uint8_t home[KEY_BYTES];         /* node key: the signer */
	uint8_t home_association[KEY_BYTES];
	uint8_t model[KEY_BYTES];
	uint32_t stage;                  /* 0 .. n_stages - 1; stage 0 and the last are home's where it holds them */
	uint32_t n_stages;
	struct layer_range range;
	uint8_t node[KEY_BYTES];         /* whose stage this is */
	uint8_t previous[KEY_BYTES];
	uint8_t next[KEY_BYTES];
	uint32_t context;                /* most positions of this session */
	uint64_t issued, expires;        /* Unix seconds */
};

int ticket_sign(struct buf *out, const struct ticket *ticket, const uint8_t home_secret[SIGN_SECRET_BYTES]);
/* Shape, limits, signature by ticket->home. Whether home may ask, whether it expired and whether it was
 * seen before is the ring's and trust's business. */
int ticket_open(struct ticket *out, const uint8_t *bytes, size_t n);

#endif
