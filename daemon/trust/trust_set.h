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
#define REVOKED_MAX 256

struct entry {
	struct record record;          /* a view of bytes */
	uint8_t *bytes;
	uint32_t slot;                 /* association */
	uint32_t edge_next;            /* agreements and acceptances of one association */
	uint64_t remember;             /* its sequence number binds until then: the latest expiry of those it replaced */
	bool negative;                 /* revoked, declined, withdrawn; CARD: has left */
	bool private_;                 /* a manifest for its own association only */
	uint8_t key[KEY_BYTES];        /* STEWARD: its key; ACCEPTANCE: the agreement's hash; RECEIPT: who asked */
};

struct association {
	bool used, in_reach, introduced;
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

struct trust {
	uint8_t node[KEY_BYTES];
	uint64_t now;                          /* the last time that anyone told us */
	uint64_t generation;
	uint64_t due;                          /* nothing ends before this time */
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
/* May the signer say so, by what we hold now? Not whether the record itself has expired. */
bool trust_authorised(const struct trust *trust, const struct entry *e, uint64_t now);
bool trust_valid(const struct trust *trust, const struct entry *e, uint64_t now);
bool trust_handed_over(const struct trust *trust, const struct association *a, uint64_t now);   /* the former steward's roster still names nodes */
bool trust_rostered(const struct trust *trust, const struct association *a, const uint8_t *node, uint64_t now);
bool trust_in_force(const struct trust *trust, const struct entry *agreement, uint64_t now);

/* --- trust_reach.c */
void trust_reach(struct trust *trust, uint64_t now);
void trust_note_revoked(struct trust *trust, const struct entry *agreement);
void trust_forget_revoked(struct trust *trust, uint64_t now);

#endif
