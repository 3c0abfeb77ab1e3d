/* trust_views.c: what the other rooms ask of the set of records. Nothing here changes it.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "daemon/trust/trust_set.h"

const struct record *trust_find(const struct trust *trust, enum record_kind kind, const uint8_t association[KEY_BYTES],
				const uint8_t subject[KEY_BYTES], uint64_t now)
{
	const struct entry *e = trust_entry(trust, kind, association, subject);

	return e && trust_valid(trust, e, now) ? &e->record : NULL;
}

uint64_t trust_sequence(const struct trust *trust, enum record_kind kind, const uint8_t association[KEY_BYTES], const uint8_t subject[KEY_BYTES])
{
	const struct entry *e = trust_entry(trust, kind, association, subject);

	return e ? e->record.sequence : 0;
}

void trust_each_at(const struct trust *trust, enum record_kind kind, uint64_t now, bool (*fn)(const struct record *r, void *arg), void *arg)
{
	for (size_t i = 0; i < trust->n_entries; i++) {
		const struct entry *e = trust->entries[i];

		if (e && (!kind || e->record.kind == kind) && trust_valid(trust, e, now) && !fn(&e->record, arg))
			return;
	}
}

void trust_each(const struct trust *trust, enum record_kind kind, bool (*fn)(const struct record *r, void *arg), void *arg)
{
	trust_each_at(trust, kind, trust->now, fn, arg);
}

void trust_each_last_word(const struct trust *trust, bool (*fn)(const struct record *r, void *arg), void *arg)
{
	for (size_t i = 0; i < trust->n_entries; i++) {
		const struct entry *e = trust->entries[i];

		if (e && trust_is_last_word(trust, e, trust->now) && !fn(&e->record, arg))
			return;
	}
}

void trust_each_subject(const struct trust *trust, enum record_kind kind, const uint8_t subject[KEY_BYTES], uint64_t now,
			bool (*fn)(const struct record *r, void *arg), void *arg)
{
	struct index_walk walk;
	uint32_t i = index_first(&trust->by_subject, index_hash(&trust->by_subject, subject, KEY_BYTES), &walk);

	for (; i != INDEX_NONE; i = index_next(&trust->by_subject, &walk)) {
		const struct entry *e = trust->entries[i];

		if (e->record.kind == kind && !memcmp(e->record.subject, subject, KEY_BYTES) && trust_valid(trust, e, now) &&
		    !fn(&e->record, arg))
			return;
	}
}

void trust_each_to_renew(const struct trust *trust, bool (*fn)(const struct record *r, void *arg), void *arg)
{
	for (size_t i = 0; i < trust->n_entries; i++) {
		const struct entry *e = trust->entries[i];

		if (!e || e->slot || trust_is_over(&e->record, trust->now))
			continue;
		if (e->record.kind != RECORD_ROSTER && e->record.kind != RECORD_AGREEMENT &&
		    e->record.kind != RECORD_ACCEPTANCE && e->record.kind != RECORD_APPROVAL)
			continue;
		if (!fn(&e->record, arg))
			return;
	}
}

void trust_each_association(const struct trust *trust, bool (*fn)(const uint8_t association[KEY_BYTES], bool introduced, void *arg), void *arg)
{
	for (size_t i = 0; i < SLOTS_MAX; i++) {
		const struct association *a = &trust->slots[i];

		if (a->used && a->in_reach && !fn(a->key, a->introduced, arg))
			return;
	}
}

bool trust_in_reach(const struct trust *trust, const uint8_t association[KEY_BYTES])
{
	uint32_t slot = trust_slot(trust, association);

	return slot != INDEX_NONE && trust->slots[slot].in_reach;
}

/* Of several associations that claim one node, the one that the node's own newest card names. */
static uint32_t claimed_by(const struct trust *trust, const uint8_t *node, uint64_t now)
{
	struct index_walk walk;
	uint32_t i = index_first(&trust->by_node, index_hash(&trust->by_node, node, KEY_BYTES), &walk);
	const struct association *only = NULL, *named = NULL;
	const struct record *newest = NULL;
	size_t claims = 0;

	for (; i != INDEX_NONE; i = index_next(&trust->by_node, &walk)) {
		const struct association *a = &trust->slots[i];
		const struct record *card;

		if (!trust_reached(a, now) || !trust_rostered(trust, a, node, now))
			continue;
		claims++;
		only = a;
		card = trust_find(trust, RECORD_CARD, a->key, node, now);
		if (card && (!newest || card->sequence > newest->sequence ||
			     (card->sequence == newest->sequence && memcmp(card->hash, newest->hash, KEY_BYTES) < 0))) {
			newest = card;
			named = a;
		}
	}
	if (claims > 1)
		only = named;
	return only ? (uint32_t)(only - trust->slots) : INDEX_NONE;
}

/* Its own word that it has left counts until a later roster names it again. Within a second sequence numbers tell: they are milliseconds. */
static bool has_left(const struct trust *trust, const uint8_t *node, uint32_t slot)
{
	const struct association *a = &trust->slots[slot];
	const struct entry *card = trust_entry(trust, RECORD_CARD, a->key, node);

	const struct record *roster = a->roster != INDEX_NONE ? &trust->entries[a->roster]->record : NULL;

	return card && card->negative && roster &&
	       (card->record.issued > roster->issued || (card->record.issued == roster->issued && card->record.sequence >= roster->sequence));
}

/* Asked for each frame of each neighbour. */
static struct admitted find_admitted(const struct trust *trust, const uint8_t *node, uint64_t now)
{
	struct admitted *known = &trust->admitted[(node[0] | node[1] << 8) % ADMITTED], found = { .at = now, .grounds = trust->grounds };

	if (now != TRUST_ANY_TIME && trust_holds(trust, known->grounds, known->at, now) && !memcmp(known->node, node, KEY_BYTES))
		return *known;
	memcpy(found.node, node, KEY_BYTES);
	found.slot = claimed_by(trust, node, now);
	found.admits = found.slot != INDEX_NONE && memcmp(node, trust->node, KEY_BYTES) && !has_left(trust, node, found.slot);
	if (now != TRUST_ANY_TIME)
		*known = found;
	return found;
}

int trust_association_of(const struct trust *trust, const uint8_t node[KEY_BYTES], uint64_t now, uint8_t association[KEY_BYTES])
{
	struct admitted a = find_admitted(trust, node, now);

	if (a.slot == INDEX_NONE)
		return ERR_UNKNOWN;
	memcpy(association, trust->slots[a.slot].key, KEY_BYTES);
	return 0;
}

int trust_admits(const struct trust *trust, const uint8_t node[KEY_BYTES], uint64_t now)
{
	return find_admitted(trust, node, now).admits ? 0 : ERR_DENIED;
}

uint64_t trust_grounds(const struct trust *trust)
{
	return trust->grounds;
}

bool trust_owes(const struct trust *trust, const uint8_t node[KEY_BYTES], uint8_t association[KEY_BYTES])
{
	struct index_walk walk;
	uint32_t i = index_first(&trust->by_node, index_hash(&trust->by_node, node, KEY_BYTES), &walk);

	for (; i != INDEX_NONE; i = index_next(&trust->by_node, &walk))
		if (trust->slots[i].owed && trust_rostered(trust, &trust->slots[i], node, TRUST_ANY_TIME)) {
			memcpy(association, trust->slots[i].key, KEY_BYTES);
			return true;
		}
	return false;
}

bool trust_approved(const struct trust *trust, const uint8_t association[KEY_BYTES], const uint8_t model[KEY_BYTES], uint64_t now)
{
	const struct entry *e = trust_entry(trust, RECORD_APPROVAL, association, model);

	return e && !e->negative && trust_valid(trust, e, now);
}

/* A model that the agreement names is granted by that unless the grantor has withdrawn its approval. */
static bool covers(const struct trust *trust, const struct record *agreement, const struct agreement_body *b, const uint8_t *model, uint64_t now)
{
	const struct entry *approval = trust_entry(trust, RECORD_APPROVAL, agreement->association, model);

	if (!b->n_models)
		return trust_approved(trust, agreement->association, model, now) && trust_approved(trust, agreement->subject, model, now);
	if (approval && approval->negative && trust_valid(trust, approval, now))
		return false;
	for (size_t i = 0; i < b->n_models; i++)
		if (!memcmp(b->models[i], model, KEY_BYTES))
			return true;
	return false;
}

int trust_may_use(const struct trust *trust, const uint8_t user[KEY_BYTES], const uint8_t grantor[KEY_BYTES],
		  const uint8_t model[KEY_BYTES], uint64_t now, struct trust_terms *terms)
{
	struct agreement_body b;
	const struct entry *e;

	*terms = (struct trust_terms){ 0 };
	if (!memcmp(user, grantor, KEY_BYTES)) {
		if (!trust_in_reach(trust, user))
			return ERR_DENIED;
		*terms = (struct trust_terms){ .priority = 10, .tokens_per_day = UINT64_MAX, .stage_seconds_per_day = UINT64_MAX };
		return 0;
	}
	e = trust_entry(trust, RECORD_AGREEMENT, grantor, user);
	if (!e || !trust_in_force(trust, e, now) || agreement_read(&e->record, &b) || !covers(trust, &e->record, &b, model, now))
		return ERR_DENIED;
	*terms = (struct trust_terms){ .priority = b.priority, .tokens_per_day = b.tokens_per_day,
				       .stage_seconds_per_day = b.stage_seconds_per_day };
	return 0;
}

bool trust_agreement_in_force(const struct trust *trust, const uint8_t grantor[KEY_BYTES], const uint8_t grantee[KEY_BYTES], uint64_t now)
{
	const struct entry *e = trust_entry(trust, RECORD_AGREEMENT, grantor, grantee);

	return e && trust_in_force(trust, e, now);
}

int trust_card_of(const struct trust *trust, const uint8_t node[KEY_BYTES], uint64_t now, struct card_body *card)
{
	uint8_t association[KEY_BYTES];
	const struct record *r;

	memset(card, 0, sizeof *card);
	if (trust_association_of(trust, node, now, association))
		return ERR_UNKNOWN;
	r = trust_find(trust, RECORD_CARD, association, node, now);
	return r ? card_read(r, card) : ERR_UNKNOWN;
}

const char *trust_association_name(const struct trust *trust, const uint8_t association[KEY_BYTES])
{
	uint32_t slot = trust_slot(trust, association);

	if (slot == INDEX_NONE || trust->slots[slot].card == INDEX_NONE ||
	    !trust_valid(trust, trust->entries[trust->slots[slot].card], trust->now))
		return "";
	return trust->slots[slot].name;
}

static bool is_private(const struct trust *trust, const struct record *r)
{
	const struct entry *e = trust_entry(trust, r->kind, r->association, r->subject);
	struct manifest_body b;
	bool private_ = true;

	if (e && !memcmp(e->record.hash, r->hash, KEY_BYTES))
		return e->private_;
	if (!manifest_read(r, &b)) {
		private_ = b.private_;
		manifest_free(&b);
	}
	return private_;
}

bool trust_may_see(const struct trust *trust, const struct record *record, const uint8_t node[KEY_BYTES], uint64_t now)
{
	uint8_t association[KEY_BYTES];
	struct receipt_body receipt;

	if (trust_association_of(trust, node, now, association))
		return false;
	if (!memcmp(association, record->association, KEY_BYTES))
		return true;
	if (!trust_in_reach(trust, record->association))
		return !memcmp(association, trust->slots[0].key, KEY_BYTES);
	if (record->kind == RECORD_MANIFEST)
		return !is_private(trust, record);
	if (record->kind == RECORD_RECEIPT)
		return !receipt_read(record, &receipt) && !memcmp(association, receipt.home_association, KEY_BYTES);
	return true;
}
