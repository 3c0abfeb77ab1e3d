/* trust.h: who may say what, and who may ask whom for what (DESIGN D9). Pure: no clock, no sockets, no files.
 *
 * Holds the newest valid record of every (kind, association, subject) of the associations in reach: our own,
 * those introduced by an invitation that was used, and whoever they are tied to by agreements, and so on (the mesh). Records of
 * others are refused with ERR_DENIED; gossip offers them again when they have come into reach.
 *
 * Who may sign: ASSOCIATION and STEWARD the root; ROSTER, AGREEMENT, ACCEPTANCE and APPROVAL the current steward;
 * CARD, ADVERT, MANIFEST and RECEIPT a node on the current roster. An agreement is in force while it is neither expired nor
 * revoked and its grantee's current acceptance names its hash. Own nodes need no agreement.
 * "now" is Unix seconds and comes from the caller. Owner: main. Thread: loop.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TRUST_TRUST_H
#define TRUST_TRUST_H

#include "proto/record.h"

#define TRUST_RECORDS_MAX 20000              /* in all */
#define TRUST_ASSOCIATIONS_MAX 256
#define TRUST_RECORDS_ASSOCIATION_MAX 4096   /* of one association */

struct trust;

struct trust *trust_new(const uint8_t association[KEY_BYTES], const uint8_t node[KEY_BYTES]);
void trust_free(struct trust *trust);

/* 1: new and kept; 0: already known; ERR_STALE: an older sequence; ERR_DENIED, ERR_EXPIRED, ERR_SIGNATURE, ERR_LIMIT, ... */
int trust_accept(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now);
/* An association that an invitation vouches for: its records are accepted from now on. */
int trust_introduce(struct trust *trust, const uint8_t association[KEY_BYTES]);
/* Drops what has expired and what is no longer in reach; returns how many. */
size_t trust_expire(struct trust *trust, uint64_t now);
/* Grows with every change: callers that derive from trust compare and recompute. */
uint64_t trust_generation(const struct trust *trust);

/* Views stay valid until the next accept, expire or free. NULL when there is none (expired ones are none). */
const struct record *trust_find(const struct trust *trust, enum record_kind kind, const uint8_t association[KEY_BYTES],
				const uint8_t subject[KEY_BYTES], uint64_t now);
const struct record *trust_by_hash(const struct trust *trust, const uint8_t hash[KEY_BYTES]);
/* Every record of a kind (0: all kinds), in a stable order; stops when fn returns false. */
void trust_each(const struct trust *trust, enum record_kind kind, bool (*fn)(const struct record *r, void *arg), void *arg);

/* Which association answers for a node by its current roster; ERR_UNKNOWN. */
int trust_association_of(const struct trust *trust, const uint8_t node[KEY_BYTES], uint64_t now, uint8_t association[KEY_BYTES]);
/* May this node hold a link with us: 0 when its roster is current and its association is in reach. */
int trust_admits(const struct trust *trust, const uint8_t node[KEY_BYTES], uint64_t now);
/* May `user` (an association) have our nodes compute `model`? 0 and the terms (own association: priority 10, no
 * limits); ERR_DENIED. */
struct trust_terms {
	uint32_t priority;
	uint64_t tokens_per_day, stage_seconds_per_day;   /* UINT64_MAX: unlimited */
};
int trust_may_use(const struct trust *trust, const uint8_t user[KEY_BYTES], const uint8_t grantor[KEY_BYTES],
		  const uint8_t model[KEY_BYTES], uint64_t now, struct trust_terms *terms);
int trust_card_of(const struct trust *trust, const uint8_t node[KEY_BYTES], uint64_t now, struct card_body *card);
const char *trust_association_name(const struct trust *trust, const uint8_t association[KEY_BYTES]);  /* "" when unknown */
/* May this association's nodes run the model (approval not withdrawn)? */
bool trust_approved(const struct trust *trust, const uint8_t association[KEY_BYTES], const uint8_t model[KEY_BYTES], uint64_t now);

#endif
