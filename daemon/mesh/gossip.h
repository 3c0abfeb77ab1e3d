/* gossip.h: how records reach everybody who may see them (DESIGN D12, D16). Pure: frames go in and out through callbacks, time and
 * randomness are parameters.
 *
 * Two ways at once. *Rumour*: a record that is new here is passed on in the same turn (an own or urgent one to every other
 * neighbour, the rest to a few), so that a revocation needs one network delay a hop. *Anti-entropy*: every few seconds each pair compares what it has and mends what
 * rumour lost. Records fall into buckets by (kind, association). An exchange:
 *
 *   A                                           B
 *   DIGEST 0: root over all buckets        -->  equal: silence, the usual case (about 60 bytes)
 *             <-- DIGEST 1: bucket, count, sum of each
 *   DIGEST 2: hashes in those that differ  -->  WANT what is lacking
 *             <-- DIGEST 2 (answer): its own hashes there; A too sends WANT
 *   RECORDS   in the order of kinds, since a steward is believed before what he signs
 *
 * DIGEST: head {"level" 0|1|2, "root" bin 32, "answer" bool}; tail of level 1: entries of kind u8, association 32, count u32,
 * sum 16; of level 2: kind u8, association 32, count u32, then count hashes of 32. WANT: tail of hashes. RECORDS: head {"last" bool},
 * tail of records, each behind its u32 length.
 *
 * A bucket's sum is the sum of its records' hashes, modulo 2^256, hashed. Only the association itself can make records
 * for its buckets, so all that somebody who finds colliding sums gains is that anti-entropy overlooks his own records.
 *
 * Each neighbour sees only what trust_may_see() lets it; nothing is sent to a node that trust does not admit. Received records wait
 * in an inbox and are taken a few at a time (a signature costs 76 us), so that the loop is never held up.
 *
 * Thread: one at a time. Owner: mesh.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef MESH_GOSSIP_H
#define MESH_GOSSIP_H

#include "daemon/trust/trust.h"
#include "proto/frame.h"

#define GOSSIP_PEERS_MAX 512
#define GOSSIP_ROUND_MS 5000                /* between two digests to one neighbour, +-50 % */
#define GOSSIP_EACH_MS 500                  /* with over ten neighbours: a round lasts that long for each */
#define GOSSIP_FANOUT 4                     /* neighbours that a rumour of no urgency is passed on to */
#define GOSSIP_NEAR_MAX 16                  /* with more neighbours, adverts that come from their signer are not passed on */
#define GOSSIP_WANT_MAX 1024                /* hashes in one WANT */
#define GOSSIP_FRAME_BYTES (512u << 10)     /* records in one frame, about */
#define GOSSIP_INBOX_MAX (8u << 20)         /* bytes of records that wait, of one neighbour */
#define GOSSIP_BATCH 8                      /* records taken in one gossip_work() */

struct gossip;

struct gossip_clock {
	uint64_t now;                       /* Unix seconds, for expiry */
	uint64_t ms;                        /* monotonic, for rounds */
};

struct gossip_config {
	struct trust *trust;
	uint8_t node[KEY_BYTES];
	int (*send)(void *arg, const uint8_t node[KEY_BYTES], struct buf *frame);    /* takes the frame on success */
	void (*random)(void *arg, void *out, size_t n);
	void (*changed)(void *arg);         /* trust took a record; comes before it is passed on; no gossip_peer_down() inside */
	void *arg;
};

struct gossip *gossip_new(const struct gossip_config *config);
void gossip_free(struct gossip *g);

/* A neighbour can be written to from now on. Of the two the smaller node key begins the first exchange. */
int gossip_peer_up(struct gossip *g, const uint8_t node[KEY_BYTES], struct gossip_clock clock);
void gossip_peer_down(struct gossip *g, const uint8_t node[KEY_BYTES]);

/* DIGEST, WANT or RECORDS from a neighbour: 0, or an error for which its link must be closed. */
int gossip_frame(struct gossip *g, const uint8_t node[KEY_BYTES], const struct frame *frame, struct gossip_clock clock);
/* Takes at most GOSSIP_BATCH records from inboxes and passes on what was new. True: more wait. *bad: a neighbour that
 * sent what does not verify, to be disconnected, or NULL. */
bool gossip_work(struct gossip *g, struct gossip_clock clock, const uint8_t **bad);
/* Its link has ended: takes at most GOSSIP_BATCH records of what it said last. gossip_peer_down() comes next. */
void gossip_finish(struct gossip *g, const uint8_t node[KEY_BYTES], struct gossip_clock clock);
bool gossip_has_work(const struct gossip *g);
/* Begins the exchanges that are due. Call it several times a second. */
void gossip_tick(struct gossip *g, struct gossip_clock clock);

/* Takes a record of our own into trust and passes it on: trust_accept()'s result. */
int gossip_publish(struct gossip *g, const uint8_t *record, size_t n, struct gossip_clock clock);
/* The same for a record that a neighbour or joiner showed otherwise (its card in a handshake): not sent back to it. */
int gossip_accept(struct gossip *g, const uint8_t *record, size_t n, const uint8_t *from, struct gossip_clock clock);

/* Records as RECORDS, JOIN and JOINED carry them. append: ERR_LIMIT when it does not fit. next: false at the end, *err when malformed. */
int gossip_append_record(struct buf *tail, const uint8_t *record, size_t n);
bool gossip_next_record(const uint8_t **at, size_t *left, const uint8_t **record, size_t *n, int *err);

/* RECORDS with what our own association said last to another: steward, roster, agreement, acceptance. For nodes that are no longer admitted, or that no longer
 * admit us: see trust_owes() and lapsed.c. Appends a frame. */
int gossip_last_word(struct buf *frame, const struct trust *trust, const uint8_t other[KEY_BYTES], uint64_t now);

struct gossip_counts {
	uint64_t digests_sent, records_sent, records_taken, records_refused, bytes_sent;
};
struct gossip_counts gossip_counts(const struct gossip *g);

#endif
