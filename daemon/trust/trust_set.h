/* trust_set.h: the inside of struct trust, shared by trust.c (keeps), trust_rules.c (judges), trust_reach.c (who is
 * in the mesh) and trust_views.c (answers). Nobody else includes it.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TRUST_TRUST_SET_H
#define TRUST_TRUST_SET_H

#include "daemon/trust/index.h"
#include "daemon/trust/trust.h"

#define KINDS (RECORD_RECEIPT + 1)
#define SLOTS_MAX (2 * TRUST_ASSOCIATIONS_MAX)   /* those in reach, and those whose records wait for trust_expire() */
#define KEPT_MAX (TRUST_ASSOCIATIONS_MAX / 2)    /* associations that are looked at as if nothing ended by time */
#define REVOKED_MAX 256
#define ADMITTED 512
#define ASLEEP_S (30 * 86400u)               /* of running; what has ended is dropped then */

struct entry {
	struct record record;          /* a view of bytes */
	uint8_t *bytes;
	uint32_t slot;                 /* association */
	uint32_t edge_next;            /* agreements and acceptances of one association */
	uint64_t remember;             /* its sequence number binds until then: the latest expiry of those it replaced */
	uint64_t asleep;               /* trust->lived when it was first seen past that; 0: it is not */
	bool over;                     /* as of the last trust_expire(): past its expiry */
	uint64_t judged, judged_at;    /* when and on what grounds may_say was found */
	bool may_say;
	bool negative;                 /* revoked, declined, withdrawn; CARD: has left */
	bool private_;                 /* a manifest for its own association only */
	uint8_t key[KEY_BYTES];        /* STEWARD: its key; ACCEPTANCE: the agreement's hash; RECEIPT: who asked */
};

struct association {
	bool used, in_reach, introduced;
	bool kept;                             /* would be in reach if nothing ended by time: see trust.h */
	bool owed;                             /* we revoked or declined: see trust_owes() */
	bool accepted;                         /* our acceptance names it: see trust_is_last_word() */
	uint8_t key[KEY_BYTES];
	uint32_t card, steward, roster;        /* entries, or INDEX_NONE */
	uint8_t former[KEY_BYTES];             /* the steward whose roster still names the nodes ... */
	uint64_t handover_until;               /* ... until then, or until the new one has signed his */
	char name[NAME_SIZE];                  /* of card */
	size_t n_nodes;
	uint8_t (*nodes)[KEY_BYTES];           /* of roster, sorted */
	uint32_t edges;                        /* first agreement or acceptance */
	size_t n_kind[KINDS], n_records, n_bytes;
};

struct revoked {                       /* remembered when the grantor itself is out of reach, see trust_reach.c */
	uint8_t grantor[KEY_BYTES], grantee[KEY_BYTES];
	uint64_t issued, until;
};

/* A node was admitted or not, on these grounds, from then on. */
struct admitted {
	uint8_t node[KEY_BYTES];
	uint64_t grounds, at;
	uint32_t slot;                         /* of the association that answers for it, or INDEX_NONE */
	bool admits;
};

struct trust {
	uint8_t node[KEY_BYTES];
	uint64_t now;                          /* the last time that anyone told us */
	uint64_t lived;                        /* seconds that went by in small steps: jumps of the clock do not count */
	uint64_t generation;
	uint64_t due;                          /* nothing ends before this time */
	uint64_t grounds;                      /* grows with whatever may change who has a say or is admitted; from 1 */
	struct admitted *admitted;             /* ADMITTED of them, by the key's first bytes: what does not change is not found out again */
	bool dirty;                            /* something may have lost its ground */
	struct association slots[SLOTS_MAX];   /* 0 is our own */
	struct entry **entries;                /* with holes */
	size_t n_entries, n_records, n_bytes, first_hole;
	struct index by_key, by_hash, by_subject, by_node, by_association;
	struct revoked revoked[REVOKED_MAX];
	size_t n_revoked;
};

/* --- trust.c */
uint64_t trust_key_hash(const struct trust *trust, enum record_kind kind, const uint8_t *association, const uint8_t *subject);
uint32_t trust_slot(const struct trust *trust, const uint8_t *association);             /* INDEX_NONE */
uint32_t trust_slot_make(struct trust *trust, const uint8_t *association);              /* INDEX_NONE when there is no room */
struct entry *trust_entry(const struct trust *trust, enum record_kind kind, const uint8_t *association, const uint8_t *subject);

/* --- trust_rules.c */
/* Reads the body into e's facts and, for a roster, its nodes (sorted, heap); ERR_MALFORMED, ERR_LIMIT. */
int trust_decode(struct entry *e, struct roster_body *roster);
/* May the signer say so, by what we hold now? Not whether the record itself has expired. All of these take TRUST_ANY_TIME. */
bool trust_authorised(const struct trust *trust, const struct entry *e, uint64_t now);
bool trust_valid(const struct trust *trust, const struct entry *e, uint64_t now);
bool trust_by_steward(const struct trust *trust, const struct entry *e, uint64_t now);  /* signed by its association's current steward */
bool trust_is_over(const struct record *r, uint64_t now);      /* past its expiry */
bool trust_reached(const struct association *a, uint64_t now);
/* What was found at that time on those grounds still holds. */
static inline bool trust_holds(const struct trust *trust, uint64_t grounds, uint64_t at, uint64_t now)
{
	return grounds == trust->grounds && at <= now && now <= trust->due;
}
bool trust_signer_may(const struct trust *trust, const struct entry *e, uint64_t now);         /* trust_authorised(), wherever its association is */
bool trust_handed_over(const struct trust *trust, const struct association *a, uint64_t now);   /* the former steward's roster still names nodes */
bool trust_rostered(const struct trust *trust, const struct association *a, const uint8_t *node, uint64_t now);
bool trust_in_force(const struct trust *trust, const struct entry *agreement, uint64_t now);
/* A revocation of what we had accepted, or the word on who may sign it, from an association that this put out of reach. It is kept and passed on
 * among our own association's nodes: else our acceptance would reach that association again after a restart, and at a node that only hears of it from
 * its own. Takes TRUST_ANY_TIME. */
bool trust_is_last_word(const struct trust *trust, const struct entry *e, uint64_t now);
bool trust_may_be_last_word(const struct trust *trust, const struct entry *e, uint64_t now);  /* as far as can be said before trust_decode() */

/* --- trust_reach.c */
void trust_reach(struct trust *trust, uint64_t now);
void trust_note_revoked(struct trust *trust, const struct entry *agreement);

#endif
