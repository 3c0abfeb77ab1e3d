/* trust.h: who may say what, and who may ask whom for what (DESIGN D9). Pure: no clock, no sockets, no files.
 *
 * Holds the newest valid record of every (kind, association, subject) of the associations in reach: our own,
 * those introduced by an invitation that was used, and whoever they are tied to by agreements, and so on (the mesh). Records of
 * others are refused with ERR_DENIED; gossip offers them again when they have come into reach.
 *
 * Who may sign: ASSOCIATION and STEWARD the root; ROSTER, AGREEMENT, ACCEPTANCE and APPROVAL the current steward;
 * CARD, ADVERT, MANIFEST and RECEIPT a node on the current roster. An agreement is in force while it is neither expired nor
 * revoked and its grantee's current acceptance names its hash. Own nodes need no agreement.
 *
 * Only the *current* steward's signature counts: a steward record with another key takes all that the former one signed
 * out of force at once, so renewal signs everything anew (trust_each_to_renew()) and publishes it together. Only who is on the roster
 * outlasts that, for TRUST_HANDOVER_S: without it nobody could bring the new one to anybody. In the same way a
 * node left out of the newest roster, and all that it signed, counts for nothing from that call on. Where two associations
 * claim one node, the one that the node's newest card names answers for it.
 *
 * Reach (trust_reach.c): from our own and the introduced associations along each agreement offered and each acceptance given by
 * somebody in reach. A revoked or expired one no longer reaches; own revocation also ends an introduction.
 * "now" is Unix seconds and comes from the caller. It may be wrong for a while, by hours or years, and come right later. So what ends
 * by time only stops to count: it stays held, is saved, and counts again when the time is right. It goes when something newer takes its
 * place, when its signer has lost his say otherwise, when room is needed, or after 30 days of running (jumps of the clock are not
 * counted); our own association, steward and roster never do. Adverts and receipts go at their end. And whether a record was issued in the future is asked when it comes, not again.
 * Owner: main. Thread: loop.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TRUST_TRUST_H
#define TRUST_TRUST_H

#include "proto/record.h"

#define TRUST_RECORDS_MAX 20000              /* in all */
#define TRUST_ASSOCIATIONS_MAX 256
#define TRUST_RECORDS_ASSOCIATION_MAX 4096   /* of one association; of all the others together that much less than in all */
#define TRUST_BYTES_MAX (256u << 20)
#define TRUST_BYTES_ASSOCIATION_MAX (32u << 20)
#define TRUST_HANDOVER_S 10                  /* a former steward's roster goes on naming nodes, so that the new one can reach them */
#define TRUST_ANY_TIME UINT64_MAX            /* as "now" of a view: as if nothing ended by time. For whom to ask what time it is; decides nothing else */
#define TRUST_DEGREE_MAX 64                  /* associations that one other association brings into reach */

struct trust;

struct trust *trust_new(const uint8_t association[KEY_BYTES], const uint8_t node[KEY_BYTES]);
void trust_free(struct trust *trust);

/* 1: new and kept; 0: already known; ERR_STALE: an older sequence, or the same one with other bytes whose hash is greater;
 * ERR_DENIED: out of reach, or the signer may not say so *by what is known yet*: offer it again later; ERR_EXPIRED (issued too far
 * in the future, too); ERR_SIGNATURE; ERR_MALFORMED, ERR_LIMIT: never to be accepted, but for a set that is full. */
int trust_accept(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now);
/* As trust_accept(), for records from our own disk: they were judged when they came, so what has ended is held again, in force for
 * nobody. What a former steward of our own association signed is kept too, so that it can be signed again. */
int trust_restore(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now);
/* An association that an invitation vouches for: its records are accepted from now on. ERR_LIMIT. */
int trust_introduce(struct trust *trust, const uint8_t association[KEY_BYTES]);
/* Takes that back; it stays in reach where an agreement ties it. */
void trust_forget(struct trust *trust, const uint8_t association[KEY_BYTES]);
/* Drops what lost its signer's authority, what is no longer in reach other than by time, and what has been over for long; returns how
 * many. Agreements that end by time leave reach here: call it every second or so, it costs nothing while nothing is due. */
size_t trust_expire(struct trust *trust, uint64_t now);
/* The association that it was made for. */
const uint8_t *trust_own(const struct trust *trust);
/* Grows with every change: callers that derive from trust compare and recompute. */
uint64_t trust_generation(const struct trust *trust);
/* Grows with every change after which a node may be admitted that was not, or the other way round: seldom. */
uint64_t trust_grounds(const struct trust *trust);

/* Views stay valid until the next accept, expire or free. NULL when there is none (expired ones are none). */
const struct record *trust_find(const struct trust *trust, enum record_kind kind, const uint8_t association[KEY_BYTES],
				const uint8_t subject[KEY_BYTES], uint64_t now);
/* The sequence number that a new record of that place must pass: of the one held, in force or not; 0: none is. */
uint64_t trust_sequence(const struct trust *trust, enum record_kind kind, const uint8_t association[KEY_BYTES], const uint8_t subject[KEY_BYTES]);
/* Also of what trust_each_last_word() tells. */
const struct record *trust_by_hash(const struct trust *trust, const uint8_t hash[KEY_BYTES]);
/* Every record of a kind (0: all kinds) that was in force at the last accept or expire, in a stable order; stops when fn
 * returns false. fn must not change trust. */
void trust_each(const struct trust *trust, enum record_kind kind, bool (*fn)(const struct record *r, void *arg), void *arg);

void trust_each_at(const struct trust *trust, enum record_kind kind, uint64_t now, bool (*fn)(const struct record *r, void *arg), void *arg);

/* The last words of those whom a revocation put out of reach: that they revoked what we had accepted, and who may sign for them. They count for reach
 * alone, and the nodes of our own association pass them on to each other, for not each of them may be told by a node of the other side. */
void trust_each_last_word(const struct trust *trust, bool (*fn)(const struct record *r, void *arg), void *arg);
/* The same for one subject, whatever the association: the manifests of a model, the approvals of it, ... */
void trust_each_subject(const struct trust *trust, enum record_kind kind, const uint8_t subject[KEY_BYTES], uint64_t now,
			bool (*fn)(const struct record *r, void *arg), void *arg);
/* Our association's roster, agreements, acceptances and approvals, whichever of its stewards signed them: what a renewal
 * signs again, with higher sequence numbers. */
void trust_each_to_renew(const struct trust *trust, bool (*fn)(const struct record *r, void *arg), void *arg);
/* Every association in reach, our own first. */
void trust_each_association(const struct trust *trust, bool (*fn)(const uint8_t association[KEY_BYTES], bool introduced, void *arg), void *arg);
bool trust_in_reach(const struct trust *trust, const uint8_t association[KEY_BYTES]);

/* Which association answers for a node by its current roster; ERR_UNKNOWN. */
int trust_association_of(const struct trust *trust, const uint8_t node[KEY_BYTES], uint64_t now, uint8_t association[KEY_BYTES]);
/* May this node hold a link with us: 0 when its roster is current, its association is in reach and it has not left; ERR_DENIED, for
 * our own node as well. */
int trust_admits(const struct trust *trust, const uint8_t node[KEY_BYTES], uint64_t now);
/* Is it a node of an association with which we ended an agreement, and which may not know? It is not admitted, but what we said last is
 * told to it when it comes: with the agreement the way ended by which it would have heard. */
bool trust_owes(const struct trust *trust, const uint8_t node[KEY_BYTES], uint8_t association[KEY_BYTES]);
/* May this record be sent to that node? Private manifests stay among the nodes of their association, receipts between the
 * two associations they are about, last words of others among the nodes of our own. */
bool trust_may_see(const struct trust *trust, const struct record *record, const uint8_t node[KEY_BYTES], uint64_t now);

/* May `user` (an association) have `grantor`'s nodes compute `model`? 0 and the terms (own association: priority 10, no
 * limits); ERR_DENIED. A model that the agreement names needs no approval, but an approval withdrawn by the grantor
 * ends it; where it names none, both must have approved. */
struct trust_terms {
	uint32_t priority;
	uint64_t tokens_per_day, stage_seconds_per_day;   /* UINT64_MAX: unlimited */
};
int trust_may_use(const struct trust *trust, const uint8_t user[KEY_BYTES], const uint8_t grantor[KEY_BYTES],
		  const uint8_t model[KEY_BYTES], uint64_t now, struct trust_terms *terms);
bool trust_agreement_in_force(const struct trust *trust, const uint8_t grantor[KEY_BYTES], const uint8_t grantee[KEY_BYTES], uint64_t now);
int trust_card_of(const struct trust *trust, const uint8_t node[KEY_BYTES], uint64_t now, struct card_body *card);
const char *trust_association_name(const struct trust *trust, const uint8_t association[KEY_BYTES]);  /* "" when unknown */
/* May this association's nodes run the model (approval not withdrawn)? */
bool trust_approved(const struct trust *trust, const uint8_t association[KEY_BYTES], const uint8_t model[KEY_BYTES], uint64_t now);

#endif
