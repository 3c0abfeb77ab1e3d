/* index.c: open addressing with linear probing; removal moves what follows back, so that there are no
 * graves and a search ends at the first free slot (Knuth, volume 3, section 6.4, algorithm R).
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/trust/index.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 64

void index_init(struct index *index)
{
	memset(index, 0, sizeof *index);
	randombytes_buf(index->key, sizeof index->key);
}

void index_release(struct index *index)
{
	free(index->slots);
	index->slots = NULL;
	index->capacity = index->used = 0;
}

uint64_t index_hash(const struct index *index, const void *bytes, size_t n)
{
	uint64_t hash;

	_Static_assert(crypto_shorthash_BYTES == sizeof hash && crypto_shorthash_KEYBYTES == sizeof index->key, "SipHash");
	crypto_shorthash((unsigned char *)&hash, bytes, n, index->key);
	return hash;
}

static void place(struct index_slot *slots, size_t capacity, uint64_t hash, uint32_t value)
{
	size_t at = hash & (capacity - 1);

	while (slots[at].value != INDEX_NONE)
		at = (at + 1) & (capacity - 1);
	slots[at] = (struct index_slot){ hash, value };
}

static int grow(struct index *index)
{
	size_t capacity = index->capacity ? index->capacity * 2 : FIRST_CAPACITY;
	struct index_slot *slots = malloc(capacity * sizeof *slots);

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < capacity; i++)
		slots[i] = (struct index_slot){ 0, INDEX_NONE };
	for (size_t i = 0; i < index->capacity; i++)
		if (index->slots[i].value != INDEX_NONE)
			place(slots, capacity, index->slots[i].hash, index->slots[i].value);
	free(index->slots);
	index->slots = slots;
	index->capacity = capacity;
	return 0;
}

int index_put(struct index *index, uint64_t hash, uint32_t value)
{
	if ((index->used + 1) * 4 > index->capacity * 3) {
		int err = grow(index);

		if (err)
			return err;
	}
	place(index->slots, index->capacity, hash, value);
	index->used++;
	return 0;
}

void index_remove(struct index *index, uint64_t hash, uint32_t value)
{
	size_t mask = index->capacity - 1, hole, at;

	if (!index->capacity)
		return;
	for (hole = hash & mask; index->slots[hole].value != INDEX_NONE; hole = (hole + 1) & mask)
		if (index->slots[hole].hash == hash && index->slots[hole].value == value)
			break;
	if (index->slots[hole].value == INDEX_NONE)
		return;
	for (at = (hole + 1) & mask; index->slots[at].value != INDEX_NONE; at = (at + 1) & mask) {
		size_t home = index->slots[at].hash & mask;

		/* it may move back to the hole unless its home lies behind the hole */
		if (((at - home) & mask) >= ((at - hole) & mask)) {
			index->slots[hole] = index->slots[at];
			hole = at;
		}
	}
	index->slots[hole].value = INDEX_NONE;
	index->used--;
}

uint32_t index_first(const struct index *index, uint64_t hash, struct index_walk *walk)
{
	*walk = (struct index_walk){ .hash = hash, .at = index->capacity ? hash & (index->capacity - 1) : 0 };
	return index_next(index, walk);
}

uint32_t index_next(const struct index *index, struct index_walk *walk)
{
	while (walk->seen < index->capacity) {
		const struct index_slot *slot = &index->slots[walk->at];

		if (slot->value == INDEX_NONE)
			break;
		walk->at = (walk->at + 1) & (index->capacity - 1);
		walk->seen++;
		if (slot->hash == walk->hash)
			return slot->value;
	}
	return INDEX_NONE;
}
