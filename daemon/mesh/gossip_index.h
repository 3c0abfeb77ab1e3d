/* gossip_index.h: what trust holds, counted and summed by (kind, association), for digests.
 *
 * Made anew when trust has changed and somebody asks: one pass over all records, no sorting of records.
 * Owner: gossip. Thread: one at a time. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef MESH_GOSSIP_INDEX_H
#define MESH_GOSSIP_INDEX_H

#include "daemon/trust/trust.h"

#define BUCKET_SUM_BYTES 16
#define BUCKETS_MAX (TRUST_ASSOCIATIONS_MAX * RECORD_RECEIPT)

struct bucket {
	uint8_t kind;
	uint8_t association[KEY_BYTES];
	bool own;                          /* of an association out of reach: for the nodes of our own only */
	uint32_t count;
	uint64_t sum[4];                   /* of the hashes, modulo 2^256 */
	uint32_t first;                    /* its first record, INDEX_END: none */
};
struct index_record {
	uint8_t hash[KEY_BYTES];
	uint32_t next;                     /* in the same bucket */
};
#define INDEX_END UINT32_MAX

struct gossip_index {
	uint64_t generation;
	bool valid;
	size_t n_buckets, n_records, room;
	struct bucket buckets[BUCKETS_MAX];      /* in the order of kind and association */
	struct index_record *records;            /* heap */
	uint32_t table[4 * BUCKETS_MAX];         /* hash table of buckets while it is made */
};

/* Brings it up to date; -ENOMEM. */
int gossip_index_update(struct gossip_index *index, const struct trust *trust);
void gossip_index_release(struct gossip_index *index);

/* What one neighbour may see of a bucket: count and digest. False: nothing. */
bool gossip_index_view(const struct gossip_index *index, const struct bucket *bucket, const struct trust *trust,
		       const uint8_t viewer[KEY_BYTES], uint64_t now, uint32_t *count, uint8_t sum[BUCKET_SUM_BYTES]);
/* The root over all that it may see. */
void gossip_index_root(const struct gossip_index *index, const struct trust *trust, const uint8_t viewer[KEY_BYTES], uint64_t now,
		       uint8_t root[KEY_BYTES]);
const struct bucket *gossip_index_find(const struct gossip_index *index, uint8_t kind, const uint8_t association[KEY_BYTES]);
/* May this neighbour see this record of that bucket? */
bool gossip_index_shows(const struct bucket *bucket, const struct trust *trust, const uint8_t hash[KEY_BYTES], const uint8_t viewer[KEY_BYTES], uint64_t now);

#endif
