/* index.h: a hash table from 64-bit hashes to small numbers, with open addressing.
 *
 * One hash may have several numbers; who asks compares the thing itself. Hashes come from index_hash(), SipHash-2-4
 * with a key of this process, since keys and subjects are chosen by peers who might like them to collide. No answer
 * depends on that key: only how long it takes. Owner: the caller's storage. Thread: one at a time.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TRUST_INDEX_H
#define TRUST_INDEX_H

#include <stddef.h>
#include <stdint.h>

#define INDEX_NONE UINT32_MAX

struct index_slot {
	uint64_t hash;
	uint32_t value;      /* INDEX_NONE: free */
};
struct index {
	struct index_slot *slots;
	size_t capacity;     /* a power of two, or 0 */
	size_t used;
	uint8_t key[16];
};
struct index_walk {
	uint64_t hash;
	size_t at, seen;
};

void index_init(struct index *index);
void index_release(struct index *index);
uint64_t index_hash(const struct index *index, const void *bytes, size_t n);

int index_put(struct index *index, uint64_t hash, uint32_t value);     /* -ENOMEM */
void index_remove(struct index *index, uint64_t hash, uint32_t value); /* nothing when it is not there */

/* The numbers of a hash one after the other, then INDEX_NONE. No put or remove in between. */
uint32_t index_first(const struct index *index, uint64_t hash, struct index_walk *walk);
uint32_t index_next(const struct index *index, struct index_walk *walk);

#endif
