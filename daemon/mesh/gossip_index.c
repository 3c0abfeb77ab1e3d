/* gossip_index.c: buckets, their sums, and what of them one neighbour may see.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "daemon/mesh/gossip_index.h"

#define TABLE_SIZE (4 * BUCKETS_MAX)

static int compare_key(const struct bucket *b, uint8_t kind, const uint8_t *association)
{
	if (b->kind != kind)
		return b->kind < kind ? -1 : 1;
	return memcmp(b->association, association, KEY_BYTES);
}

static int compare_buckets(const void *a, const void *b)
{
	const struct bucket *y = b;
	return compare_key(a, y->kind, y->association);
}

/* Keys are chosen by strangers, who can thus make this table slow for at most BUCKETS_MAX steps. */
static size_t place_of(uint8_t kind, const uint8_t *association)
{
	uint64_t head;
	memcpy(&head, association, sizeof head);
	return (size_t)((head + kind * 0x9e3779b97f4a7c15ull) % TABLE_SIZE);
}

static struct bucket *bucket_for(struct gossip_index *index, uint8_t kind, const uint8_t *association)
{
	size_t at = place_of(kind, association);
	for (; index->table[at]; at = (at + 1) % TABLE_SIZE) {
		struct bucket *b = &index->buckets[index->table[at] - 1];
		if (!compare_key(b, kind, association))
			return b;
	}
	if (index->n_buckets == BUCKETS_MAX)
		return NULL;
	struct bucket *b = &index->buckets[index->n_buckets++];
	*b = (struct bucket){.kind = kind, .first = INDEX_END};
	memcpy(b->association, association, KEY_BYTES);
	index->table[at] = (uint32_t)index->n_buckets;
	return b;
}

static void sum_add(uint64_t sum[4], const uint8_t hash[KEY_BYTES])
{
	unsigned __int128 carry = 0;
	for (int i = 0; i < 4; i++) {
		carry += (unsigned __int128)sum[i] + get_u64(hash + 8 * i);
		sum[i] = (uint64_t)carry;
		carry >>= 64;
	}
}

static void sum_digest(const uint64_t sum[4], uint32_t count, uint8_t out[BUCKET_SUM_BYTES])
{
	uint8_t bytes[4 * 8 + 4];
	for (int i = 0; i < 4; i++)
		put_u64(bytes + 8 * i, sum[i]);
	put_u32(bytes + 32, count);
	crypto_generichash(out, BUCKET_SUM_BYTES, bytes, sizeof bytes, NULL, 0);
}

struct making {
	struct gossip_index *index;
	int err;
};

static bool add_record(const struct record *r, void *arg)
{
	struct making *m = arg;
	struct gossip_index *index = m->index;
	if (index->n_records == index->room) {
		size_t room = index->room ? index->room * 2 : 256;
		struct index_record *records = realloc(index->records, room * sizeof *records);
		if (!records) {
			m->err = -ENOMEM;
			return false;
		}
		index->records = records;
		index->room = room;
	}
	struct bucket *b = bucket_for(index, (uint8_t)r->kind, r->association);
	if (!b)
		return true;               /* more associations than trust keeps: it will drop some */
	uint32_t number = (uint32_t)index->n_records++;
	memcpy(index->records[number].hash, r->hash, KEY_BYTES);
	index->records[number].next = b->first;
	b->first = number;
	b->count++;
	sum_add(b->sum, r->hash);
	return true;
}

int gossip_index_update(struct gossip_index *index, const struct trust *trust)
{
	uint64_t generation = trust_generation(trust);
	if (index->valid && index->generation == generation)
		return 0;
	struct making m = {.index = index};
	index->valid = false;
	index->n_buckets = index->n_records = 0;
	memset(index->table, 0, sizeof index->table);
	trust_each(trust, 0, add_record, &m);
	trust_each_last_word(trust, add_record, &m);
	for (size_t i = 0; i < index->n_buckets; i++)
		index->buckets[i].own = !trust_in_reach(trust, index->buckets[i].association);
	if (m.err)
		return m.err;
	qsort(index->buckets, index->n_buckets, sizeof *index->buckets, compare_buckets);
	index->generation = generation;
	index->valid = true;
	return 0;
}

void gossip_index_release(struct gossip_index *index)
{
	free(index->records);
	index->records = NULL;
	index->room = index->n_records = index->n_buckets = 0;
	index->valid = false;
}

const struct bucket *gossip_index_find(const struct gossip_index *index, uint8_t kind, const uint8_t association[KEY_BYTES])
{
	struct bucket key = {.kind = kind};
	memcpy(key.association, association, KEY_BYTES);
	return bsearch(&key, index->buckets, index->n_buckets, sizeof key, compare_buckets);
}

/* Only these are not for everybody: the rest need not be looked at one by one. */
static bool is_restricted(const struct bucket *bucket)
{
	return bucket->own || bucket->kind == RECORD_MANIFEST || bucket->kind == RECORD_RECEIPT;
}

bool gossip_index_shows(const struct bucket *bucket, const struct trust *trust, const uint8_t hash[KEY_BYTES], const uint8_t viewer[KEY_BYTES], uint64_t now)
{
	if (!is_restricted(bucket))
		return true;
	const struct record *r = trust_by_hash(trust, hash);
	return r && trust_may_see(trust, r, viewer, now);
}

bool gossip_index_view(const struct gossip_index *index, const struct bucket *bucket, const struct trust *trust,
		       const uint8_t viewer[KEY_BYTES], uint64_t now, uint32_t *count, uint8_t digest[BUCKET_SUM_BYTES])
{
	*count = bucket->count;
	if (!is_restricted(bucket)) {
		sum_digest(bucket->sum, bucket->count, digest);
		return *count > 0;
	}
	uint64_t sum[4] = {0};
	*count = 0;
	for (uint32_t i = bucket->first; i != INDEX_END; i = index->records[i].next) {
		if (!gossip_index_shows(bucket, trust, index->records[i].hash, viewer, now))
			continue;
		sum_add(sum, index->records[i].hash);
		++*count;
	}
	sum_digest(sum, *count, digest);
	return *count > 0;
}

void gossip_index_root(const struct gossip_index *index, const struct trust *trust, const uint8_t viewer[KEY_BYTES], uint64_t now,
		       uint8_t root[KEY_BYTES])
{
	crypto_generichash_state state;
	crypto_generichash_init(&state, NULL, 0, KEY_BYTES);
	for (size_t i = 0; i < index->n_buckets; i++) {
		const struct bucket *b = &index->buckets[i];
		uint8_t digest[BUCKET_SUM_BYTES];
		uint32_t count;
		if (!gossip_index_view(index, b, trust, viewer, now, &count, digest))
			continue;
		crypto_generichash_update(&state, &b->kind, 1);
		crypto_generichash_update(&state, b->association, KEY_BYTES);
		crypto_generichash_update(&state, digest, sizeof digest);
	}
	crypto_generichash_final(&state, root, KEY_BYTES);
}
