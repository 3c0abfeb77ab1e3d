/* trust.c: the set of records: what is kept, replaced and dropped.
 *
 * A record is taken in the order: known already? well formed? current? association in reach? signer entitled? newer
 * than what is held? signature sound? body sound? room? Whatever fails leaves the set as it was. A record that comes
 * before the one that entitles its signer is ERR_DENIED and comes again by gossip, so that the order of arrival
 * does not matter in the end.
 *
 * A held record whose signer has lost his say (a former steward, a node left out) binds nobody: a new one takes
 * its place whatever the sequence numbers. An expired one still binds until all those it replaced have expired,
 * else an older one with a longer life would come back. Then it is asleep: should the clock be set back it counts again.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/trust/trust_set.h"

#define STEP_S 60                         /* a larger step of the clock is a jump */
#define LOOK_S 3600                       /* so often at least everything is looked at */

static size_t kind_max(enum record_kind kind)
{
	switch (kind) {
	case RECORD_ASSOCIATION:
	case RECORD_STEWARD:
	case RECORD_ROSTER:
		return 1;
	case RECORD_CARD:
	case RECORD_ADVERT:
		return 2 * ROSTER_NODES_MAX;      /* those left out wait for trust_expire() */
	case RECORD_AGREEMENT:
	case RECORD_ACCEPTANCE:
		return TRUST_ASSOCIATIONS_MAX;
	default:
		return 1024;
	}
}

/* --- slots of associations and entries of records --------------------------------------------------- */

uint32_t trust_slot(const struct trust *trust, const uint8_t *association)
{
	uint64_t hash = index_hash(&trust->by_association, association, KEY_BYTES);
	struct index_walk walk;
	uint32_t i;

	for (i = index_first(&trust->by_association, hash, &walk); i != INDEX_NONE; i = index_next(&trust->by_association, &walk))
		if (!memcmp(trust->slots[i].key, association, KEY_BYTES))
			break;
	return i;
}

uint32_t trust_slot_make(struct trust *trust, const uint8_t *association)
{
	uint32_t i = trust_slot(trust, association);

	if (i != INDEX_NONE)
		return i;
	for (i = 0; i < SLOTS_MAX && trust->slots[i].used; i++)
		;
	if (i == SLOTS_MAX ||
	    index_put(&trust->by_association, index_hash(&trust->by_association, association, KEY_BYTES), i))
		return INDEX_NONE;
	trust->slots[i] = (struct association){ .used = true, .card = INDEX_NONE, .steward = INDEX_NONE,
						.roster = INDEX_NONE, .edges = INDEX_NONE };
	memcpy(trust->slots[i].key, association, KEY_BYTES);
	return i;
}

static void slot_free(struct trust *trust, uint32_t i)
{
	index_remove(&trust->by_association, index_hash(&trust->by_association, trust->slots[i].key, KEY_BYTES), i);
	memset(&trust->slots[i], 0, sizeof trust->slots[i]);
}

uint64_t trust_key_hash(const struct trust *trust, enum record_kind kind, const uint8_t *association, const uint8_t *subject)
{
	uint8_t key[1 + 2 * KEY_BYTES] = { (uint8_t)kind };

	memcpy(key + 1, association, KEY_BYTES);
	memcpy(key + 1 + KEY_BYTES, subject, KEY_BYTES);
	return index_hash(&trust->by_key, key, sizeof key);
}

struct entry *trust_entry(const struct trust *trust, enum record_kind kind, const uint8_t *association, const uint8_t *subject)
{
	struct index_walk walk;
	uint32_t i = index_first(&trust->by_key, trust_key_hash(trust, kind, association, subject), &walk);

	for (; i != INDEX_NONE; i = index_next(&trust->by_key, &walk)) {
		const struct record *r = &trust->entries[i]->record;

		if (r->kind == kind && !memcmp(r->association, association, KEY_BYTES) && !memcmp(r->subject, subject, KEY_BYTES))
			return trust->entries[i];
	}
	return NULL;
}

static struct entry *entry_by_hash(const struct trust *trust, const uint8_t *hash)
{
	struct index_walk walk;
	uint32_t i = index_first(&trust->by_hash, index_hash(&trust->by_hash, hash, KEY_BYTES), &walk);

	for (; i != INDEX_NONE; i = index_next(&trust->by_hash, &walk))
		if (!memcmp(trust->entries[i]->record.hash, hash, KEY_BYTES))
			return trust->entries[i];
	return NULL;
}

static void entry_free(struct entry *e)
{
	if (e)
		free(e->bytes);
	free(e);
}

/* --- what is derived from a record, put in and taken out -------------------------------------------- */

static void nodes_drop(struct trust *trust, uint32_t slot)
{
	struct association *a = &trust->slots[slot];
	struct roster_body body = { .n_nodes = a->n_nodes, .nodes = a->nodes };

	for (size_t i = 0; i < a->n_nodes; i++)
		index_remove(&trust->by_node, index_hash(&trust->by_node, a->nodes[i], KEY_BYTES), slot);
	roster_free(&body);
	a->nodes = NULL;
	a->n_nodes = 0;
}

static int nodes_put(struct trust *trust, uint32_t slot, const struct roster_body *roster)
{
	struct association *a = &trust->slots[slot];

	a->nodes = roster->nodes;
	for (a->n_nodes = 0; a->n_nodes < roster->n_nodes; a->n_nodes++) {
		int err = index_put(&trust->by_node, index_hash(&trust->by_node, a->nodes[a->n_nodes], KEY_BYTES), slot);

		if (err)
			return err;
	}
	return 0;
}

static void entry_remove(struct trust *trust, uint32_t number)
{
	struct entry *e = trust->entries[number];
	const struct record *r = &e->record;
	struct association *a = &trust->slots[e->slot];

	index_remove(&trust->by_key, trust_key_hash(trust, r->kind, r->association, r->subject), number);
	index_remove(&trust->by_hash, index_hash(&trust->by_hash, r->hash, KEY_BYTES), number);
	index_remove(&trust->by_subject, index_hash(&trust->by_subject, r->subject, KEY_BYTES), number);
	if (a->card == number)
		a->card = INDEX_NONE;
	if (a->steward == number)
		a->steward = INDEX_NONE;
	if (a->roster == number) {
		nodes_drop(trust, e->slot);
		a->roster = INDEX_NONE;
	}
	for (uint32_t *at = &a->edges; *at != INDEX_NONE; at = &trust->entries[*at]->edge_next)
		if (*at == number) {
			*at = e->edge_next;
			break;
		}
	a->n_kind[r->kind]--;
	a->n_records--;
	a->n_bytes -= r->length;
	trust->n_records--;
	trust->n_bytes -= r->length;
	trust->entries[number] = NULL;
	if (number < trust->first_hole)
		trust->first_hole = number;
	entry_free(e);
}

static uint32_t entry_number(struct trust *trust)
{
	size_t i = trust->first_hole;

	while (i < trust->n_entries && trust->entries[i])
		i++;
	trust->first_hole = i;
	if (i == trust->n_entries) {
		size_t n = trust->n_entries ? trust->n_entries * 2 : 64;
		struct entry **entries = realloc(trust->entries, n * sizeof *entries);

		if (!entries)
			return INDEX_NONE;
		memset(entries + trust->n_entries, 0, (n - trust->n_entries) * sizeof *entries);
		trust->entries = entries;
		trust->n_entries = n;
	}
	return (uint32_t)i;
}

/* Takes e and roster's nodes on success. */
static int entry_insert(struct trust *trust, struct entry *e, struct roster_body *roster)
{
	const struct record *r = &e->record;
	struct association *a = &trust->slots[e->slot];
	struct association_body body;
	uint32_t number = entry_number(trust);
	int err;

	if (number == INDEX_NONE)
		return -ENOMEM;
	err = index_put(&trust->by_key, trust_key_hash(trust, r->kind, r->association, r->subject), number);
	if (!err)
		err = index_put(&trust->by_hash, index_hash(&trust->by_hash, r->hash, KEY_BYTES), number);
	if (!err)
		err = index_put(&trust->by_subject, index_hash(&trust->by_subject, r->subject, KEY_BYTES), number);
	if (!err && r->kind == RECORD_ROSTER) {
		err = nodes_put(trust, e->slot, roster);
		if (err) {
			nodes_drop(trust, e->slot);
			roster->nodes = NULL;
		}
	}
	if (err) {
		index_remove(&trust->by_key, trust_key_hash(trust, r->kind, r->association, r->subject), number);
		index_remove(&trust->by_hash, index_hash(&trust->by_hash, r->hash, KEY_BYTES), number);
		index_remove(&trust->by_subject, index_hash(&trust->by_subject, r->subject, KEY_BYTES), number);
		return err;
	}
	trust->entries[number] = e;
	if (r->kind == RECORD_ROSTER)
		a->roster = number;
	if (r->kind == RECORD_STEWARD)
		a->steward = number;
	if (r->kind == RECORD_ASSOCIATION && !association_read(r, &body)) {
		a->card = number;
		memcpy(a->name, body.name, sizeof a->name);
	}
	if (r->kind == RECORD_AGREEMENT || r->kind == RECORD_ACCEPTANCE) {
		e->edge_next = a->edges;
		a->edges = number;
	}
	a->n_kind[r->kind]++;
	a->n_records++;
	a->n_bytes += r->length;
	trust->n_records++;
	trust->n_bytes += r->length;
	return 0;
}

/* What has ended is kept for as long as nothing needs its room: of the same place, else of the same association, else of anybody but us. */
static bool drop_one_asleep(struct trust *trust, const struct entry *for_, const struct entry *held)
{
	uint32_t best = INDEX_NONE;
	int best_rank = 0;

	for (uint32_t i = 0; i < trust->n_entries; i++) {
		const struct entry *e = trust->entries[i];
		int rank;

		if (!e || !e->asleep || e == held)
			continue;
		rank = e->slot != for_->slot ? e->slot != 0 : e->record.kind == for_->record.kind ? 3 : 2;
		if (rank > best_rank || (rank && rank == best_rank && e->asleep < trust->entries[best]->asleep)) {
			best = i;
			best_rank = rank;
		}
	}
	if (best == INDEX_NONE)
		return false;
	entry_remove(trust, best);
	return true;
}

/* --- accepting -------------------------------------------------------------------------------------- */

static void tell_time(struct trust *trust, uint64_t now)
{
	if (now > trust->now)
		trust->lived += now - trust->now < STEP_S ? now - trust->now : STEP_S;
	trust->dirty |= now < trust->now;        /* what was over may not be any more */
	trust->now = now;
}

static bool by_steward(enum record_kind kind)
{
	return kind == RECORD_ROSTER || kind == RECORD_AGREEMENT || kind == RECORD_ACCEPTANCE || kind == RECORD_APPROVAL;
}

/* Of our own association, kept although nobody vouches for it just now: a lapsed steward must not cost the work of
 * signing or publishing it all from memory. In force it is for nobody. */
static bool is_kept(enum record_kind kind)
{
	return by_steward(kind) || kind == RECORD_MANIFEST;
}

/* Said anew all the time: once over it is of no use to anybody. */
static bool passes(enum record_kind kind)
{
	return kind == RECORD_ADVERT || kind == RECORD_RECEIPT;
}

/* By which the nodes of an association are known to whom our last word is still to be told. */
static bool names_the_owed(const struct trust *trust, const struct entry *e)
{
	return trust->slots[e->slot].owed && (e->record.kind == RECORD_STEWARD || e->record.kind == RECORD_ROSTER) &&
	       trust_signer_may(trust, e, TRUST_ANY_TIME);
}

static bool is_authority(enum record_kind kind)
{
	return kind == RECORD_STEWARD || kind == RECORD_ROSTER || kind == RECORD_AGREEMENT || kind == RECORD_ACCEPTANCE;
}

static int check_room(const struct trust *trust, const struct entry *e, const struct entry *held)
{
	const struct association *a = &trust->slots[e->slot];
	size_t bytes = e->record.length, gone = held ? held->record.length : 0, reserve = e->slot ? TRUST_RECORDS_ASSOCIATION_MAX : 0;

	if (!held && (a->n_kind[e->record.kind] >= kind_max(e->record.kind) || a->n_records >= TRUST_RECORDS_ASSOCIATION_MAX))
		return ERR_LIMIT;
	if (!held && trust->n_records - trust->slots[0].n_records >= TRUST_RECORDS_MAX - TRUST_RECORDS_ASSOCIATION_MAX && reserve)
		return ERR_LIMIT;
	if (a->n_bytes - gone + bytes > TRUST_BYTES_ASSOCIATION_MAX)
		return ERR_LIMIT;
	if (reserve && trust->n_bytes - trust->slots[0].n_bytes - gone + bytes > TRUST_BYTES_MAX - TRUST_BYTES_ASSOCIATION_MAX)
		return ERR_LIMIT;
	return 0;
}

static int make_room(struct trust *trust, const struct entry *e, const struct entry *held)
{
	int err = check_room(trust, e, held);

	while (err && drop_one_asleep(trust, e, held))
		err = check_room(trust, e, held);
	return err;
}

static bool has_a_say(const struct trust *trust, const struct entry *e, uint64_t now)
{
	return trust_authorised(trust, e, now) || trust_authorised(trust, e, TRUST_ANY_TIME) || trust_is_last_word(trust, e, TRUST_ANY_TIME);
}

/* What a node said of itself while its clock and ours were ahead, and may have forgotten since. Others do not even take it. */
static bool is_unheard(const struct entry *held, uint64_t now)
{
	return (held->record.kind == RECORD_CARD || held->record.kind == RECORD_ADVERT) && !held->negative && record_is_current(&held->record, now);
}

/* 0 when the new one may take the held one's place. now: TRUST_ANY_TIME when both come from disk. */
static int check_newer(const struct trust *trust, const struct record *r, const struct entry *held, uint64_t now)
{
	if (!held || !has_a_say(trust, held, now))
		return 0;
	if (now != TRUST_ANY_TIME && (now > held->remember || is_unheard(held, now)))
		return 0;
	if (r->sequence != held->record.sequence)
		return r->sequence > held->record.sequence ? 0 : ERR_STALE;
	return memcmp(r->hash, held->record.hash, KEY_BYTES) < 0 ? 0 : ERR_STALE;
}

static int copy_bytes(struct entry *e)
{
	struct record *r = &e->record;

	e->bytes = malloc(r->length);
	if (!e->bytes)
		return -ENOMEM;
	memcpy(e->bytes, r->bytes, r->length);
	r->payload = e->bytes + (r->payload - r->bytes);
	r->bytes = e->bytes;
	return 0;
}

static uint32_t number_of(const struct trust *trust, const struct entry *e)
{
	struct index_walk walk;
	uint32_t i = index_first(&trust->by_hash, index_hash(&trust->by_hash, e->record.hash, KEY_BYTES), &walk);

	while (i != INDEX_NONE && trust->entries[i] != e)
		i = index_next(&trust->by_hash, &walk);
	return i;
}

/* Then its card decides who answers for it. */
static bool is_claimed_twice(const struct trust *trust, const uint8_t *node)
{
	struct index_walk walk;
	uint64_t hash = index_hash(&trust->by_node, node, KEY_BYTES);

	return index_first(&trust->by_node, hash, &walk) != INDEX_NONE && index_next(&trust->by_node, &walk) != INDEX_NONE;
}

static int store(struct trust *trust, const struct entry *judged, struct entry *held, struct roster_body *roster, uint64_t now)
{
	struct entry *e = malloc(sizeof *e);
	int err;

	if (!e)
		return -ENOMEM;
	*e = *judged;
	err = copy_bytes(e);
	if (err) {
		free(e);
		return err;
	}
	if (held && e->record.kind == RECORD_STEWARD && memcmp(held->key, e->key, KEY_BYTES)) {
		/* The new one's roster is on its way: until it is here, nodes must be able to bring it to each other. */
		struct association *a = &trust->slots[e->slot];
		memcpy(a->former, held->key, KEY_BYTES);
		a->handover_until = now + TRUST_HANDOVER_S;
		if (a->handover_until < trust->due)
			trust->due = a->handover_until;
	}
	if (is_authority(e->record.kind) || e->negative || (held && held->negative) || (e->record.kind == RECORD_CARD && is_claimed_twice(trust, e->record.subject)))
		trust->grounds++;
	if (held)
		entry_remove(trust, number_of(trust, held));
	err = entry_insert(trust, e, roster);
	if (err) {
		entry_free(e);
		return err;
	}
	trust->generation++;
	trust->dirty |= is_authority(e->record.kind);
	if (e->record.expires < trust->due)
		trust->due = e->record.expires;
	if (e->record.kind == RECORD_AGREEMENT && e->negative) {
		uint32_t subject = trust_slot(trust, e->record.subject);

		trust_note_revoked(trust, e);
		if (e->slot == 0 && subject != INDEX_NONE)
			trust->slots[subject].introduced = false;
	}
	if (is_authority(e->record.kind) && e->record.kind != RECORD_ROSTER)
		trust_reach(trust, now);
	return 1;
}

static int accept_record(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now, bool restoring)
{
	struct entry e = { .edge_next = INDEX_NONE }, *held;
	struct roster_body roster = { 0 };
	uint64_t judged = restoring ? TRUST_ANY_TIME : now;
	uint8_t hash[KEY_BYTES];
	bool last_word = false;
	int err;

	if (n > RECORD_MAX)
		return ERR_LIMIT;
	tell_time(trust, now);
	crypto_generichash(hash, sizeof hash, bytes, n, NULL, 0);
	held = entry_by_hash(trust, hash);
	if (held)
		return trust_valid(trust, held, judged) || trust_is_last_word(trust, held, judged) || (held->slot == 0 && is_kept(held->record.kind)) ? 0 :
		       trust_is_over(&held->record, now) ? ERR_EXPIRED : ERR_DENIED;
	err = record_parse(&e.record, bytes, n);
	if (!err && (!restoring || passes(e.record.kind)))
		err = record_is_current(&e.record, now);
	if (err)
		return err;
	e.slot = trust_slot(trust, e.record.association);
	if (e.slot == INDEX_NONE)
		return ERR_DENIED;
	if (!trust_authorised(trust, &e, judged) && !(restoring && ((e.slot == 0 && is_kept(e.record.kind)) || names_the_owed(trust, &e)))) {
		last_word = trust_may_be_last_word(trust, &e, judged);
		if (!last_word)
			return ERR_DENIED;
	}
	held = trust_entry(trust, e.record.kind, e.record.association, e.record.subject);
	err = check_newer(trust, &e.record, held, judged);
	if (err)
		return err;
	err = record_open(&e.record, bytes, n);         /* the dear part comes last: 76 us */
	if (err)
		return err;
	e.remember = e.record.expires;
	if (held && has_a_say(trust, held, now) && held->remember > e.remember)
		e.remember = held->remember;
	err = trust_decode(&e, &roster);
	if (!err && last_word && !trust_is_last_word(trust, &e, judged))
		err = ERR_DENIED;
	if (!err)
		err = make_room(trust, &e, held);
	if (!err)
		err = store(trust, &e, held, &roster, now);
	if (err < 0 && roster.nodes)
		roster_free(&roster);
	return err;
}

int trust_accept(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now)
{
	return accept_record(trust, bytes, n, now, false);
}

int trust_restore(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now)
{
	return accept_record(trust, bytes, n, now, true);
}

int trust_introduce(struct trust *trust, const uint8_t association[KEY_BYTES])
{
	size_t introduced = 0;
	uint32_t slot;

	for (size_t i = 1; i < SLOTS_MAX; i++)
		introduced += trust->slots[i].introduced;
	slot = trust_slot(trust, association);
	if (slot == 0 || (slot != INDEX_NONE && trust->slots[slot].introduced))
		return 0;
	if (introduced >= TRUST_ASSOCIATIONS_MAX - 1)
		return ERR_LIMIT;
	slot = trust_slot_make(trust, association);
	if (slot == INDEX_NONE)
		return ERR_LIMIT;
	trust->slots[slot].introduced = true;
	trust->generation++;
	trust->dirty = true;
	trust_reach(trust, trust->now);
	return 0;
}

void trust_forget(struct trust *trust, const uint8_t association[KEY_BYTES])
{
	uint32_t slot = trust_slot(trust, association);

	if (slot == INDEX_NONE || !trust->slots[slot].introduced)
		return;
	trust->slots[slot].introduced = false;
	trust->generation++;
	trust->dirty = true;
	trust_reach(trust, trust->now);
}

/* --- dropping --------------------------------------------------------------------------------------- */

/* Without these three there is nobody that we could learn from: not even an expired one is lost. */
static bool is_our_ground(const struct entry *e)
{
	return e->slot == 0 && (e->record.kind == RECORD_ASSOCIATION || e->record.kind == RECORD_STEWARD || e->record.kind == RECORD_ROSTER);
}

static bool is_spent(const struct trust *trust, const struct entry *e, uint64_t now)
{
	if (now > e->remember && passes(e->record.kind))
		return true;
	if (e->asleep && trust->lived - e->asleep > ASLEEP_S && !is_our_ground(e))
		return true;
	if (e->slot == 0 && is_kept(e->record.kind))
		return false;
	if (e->record.kind == RECORD_ROSTER && trust_handed_over(trust, &trust->slots[e->slot], now))
		return false;
	return !has_a_say(trust, e, now) && !names_the_owed(trust, e);
}

/* Notes whether it is over; true when that has changed. */
static bool look_at(struct trust *trust, struct entry *e, uint64_t now)
{
	bool over = trust_is_over(&e->record, now), changed = over != e->over;

	e->over = over;
	if (now <= e->remember)
		e->asleep = 0;
	else if (!e->asleep)
		e->asleep = trust->lived;
	return changed;
}

size_t trust_expire(struct trust *trust, uint64_t now)
{
	size_t dropped = 0;
	bool changed = false;

	tell_time(trust, now);
	if (!trust->dirty && now <= trust->due)
		return 0;
	trust->dirty = false;
	trust_reach(trust, now);        /* new grounds, also for what has ended */
	/* Judged before anything goes: a spent roster takes its nodes' records with it all the same. */
	trust->due = now + LOOK_S;
	for (size_t i = 0; i < trust->n_entries; i++) {
		struct entry *e = trust->entries[i];
		uint64_t end;

		if (!e)
			continue;
		changed |= look_at(trust, e, now);
		if (is_spent(trust, e, now)) {
			entry_remove(trust, (uint32_t)i);
			dropped++;
			continue;
		}
		end = e->asleep ? UINT64_MAX : e->over ? e->remember : e->record.expires;
		if (e->record.kind == RECORD_ROSTER && trust_handed_over(trust, &trust->slots[e->slot], now))
			end = trust->slots[e->slot].handover_until;
		if (end < trust->due)
			trust->due = end;
	}
	for (uint32_t i = 1; i < SLOTS_MAX; i++)
		if (trust->slots[i].used && !trust->slots[i].in_reach && !trust->slots[i].kept && !trust->slots[i].owed && !trust->slots[i].accepted && !trust->slots[i].introduced && !trust->slots[i].n_records)
			slot_free(trust, i);
	trust->generation += dropped || changed;
	trust->grounds++;
	return dropped;
}

/* --- life ------------------------------------------------------------------------------------------- */

struct trust *trust_new(const uint8_t association[KEY_BYTES], const uint8_t node[KEY_BYTES])
{
	struct trust *trust = calloc(1, sizeof *trust);

	if (!trust)
		return NULL;
	memcpy(trust->node, node, KEY_BYTES);
	index_init(&trust->by_key);
	index_init(&trust->by_hash);
	index_init(&trust->by_subject);
	index_init(&trust->by_node);
	index_init(&trust->by_association);
	trust->due = UINT64_MAX;
	trust->grounds = 1;
	trust->admitted = calloc(ADMITTED, sizeof *trust->admitted);
	if (!trust->admitted || trust_slot_make(trust, association) != 0) {
		trust_free(trust);
		return NULL;
	}
	trust->slots[0].in_reach = trust->slots[0].kept = true;
	return trust;
}

void trust_free(struct trust *trust)
{
	if (!trust)
		return;
	for (size_t i = 0; i < trust->n_entries; i++)
		entry_free(trust->entries[i]);
	for (uint32_t i = 0; i < SLOTS_MAX; i++) {
		struct roster_body body = { .n_nodes = trust->slots[i].n_nodes, .nodes = trust->slots[i].nodes };

		if (body.nodes)
			roster_free(&body);
	}
	free(trust->entries);
	free(trust->admitted);
	index_release(&trust->by_key);
	index_release(&trust->by_hash);
	index_release(&trust->by_subject);
	index_release(&trust->by_node);
	index_release(&trust->by_association);
	free(trust);
}

const uint8_t *trust_own(const struct trust *trust)
{
	return trust->slots[0].key;
}

uint64_t trust_generation(const struct trust *trust)
{
	return trust->generation;
}

const struct record *trust_by_hash(const struct trust *trust, const uint8_t hash[KEY_BYTES])
{
	const struct entry *e = entry_by_hash(trust, hash);

	return e && (trust_valid(trust, e, trust->now) || trust_is_last_word(trust, e, trust->now)) ? &e->record : NULL;
}
