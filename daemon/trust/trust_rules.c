/* trust_rules.c: what each kind of record says that trust must know, and who may sign it. That the bytes are sound,
 * lifetimes within their limits and a model's id the hash of its files, proto/record.h sees to.
 *
 * Whether a signer may speak is asked anew whenever a record is used, never remembered: a roster that
 * leaves a node out, a new steward, an expired one take effect with the same call that brought them.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/trust/trust_set.h"

static int compare_keys(const void *a, const void *b)
{
	return memcmp(a, b, KEY_BYTES);
}

static int decode_roster(const struct record *r, struct roster_body *roster)
{
	int err = roster_read(r, roster);

	if (err)
		return err;
	if (roster->n_nodes > 1)
		qsort(roster->nodes, roster->n_nodes, KEY_BYTES, compare_keys);
	for (size_t i = 1; i < roster->n_nodes; i++)
		if (!memcmp(roster->nodes[i - 1], roster->nodes[i], KEY_BYTES)) {
			roster_free(roster);
			return ERR_MALFORMED;
		}
	return 0;
}

static int decode_manifest(struct entry *e)
{
	struct manifest_body b;
	int err = manifest_read(&e->record, &b);

	if (err)
		return err;
	e->private_ = b.private_;
	manifest_free(&b);
	return 0;
}

static int decode_receipt(struct entry *e)
{
	static const uint8_t zero[SIGNATURE_BYTES];
	struct receipt_body b;
	int err = receipt_read(&e->record, &b);

	if (err)
		return err;
	memcpy(e->key, b.home_association, KEY_BYTES);
	if (memcmp(b.countersignature, zero, sizeof zero))
		return receipt_verify_countersignature(&b);
	return 0;
}

static int decode_agreement(struct entry *e)
{
	struct agreement_body b;
	int err = agreement_read(&e->record, &b);

	if (err)
		return err;
	e->negative = b.revoked;
	return 0;
}

int trust_decode(struct entry *e, struct roster_body *roster)
{
	const struct record *r = &e->record;
	struct acceptance_body acceptance;
	struct approval_body approval;
	struct steward_body steward;
	struct card_body card;
	int err;

	switch (r->kind) {
	case RECORD_ASSOCIATION:
	case RECORD_ADVERT:
		return record_check_body(r);
	case RECORD_CARD:
		err = card_read(r, &card);
		e->negative = card.left;
		return err;
	case RECORD_STEWARD:
		err = steward_read(r, &steward);
		memcpy(e->key, steward.steward, KEY_BYTES);
		return err;
	case RECORD_ROSTER:
		return decode_roster(r, roster);
	case RECORD_AGREEMENT:
	case RECORD_ACCEPTANCE:
		if (!memcmp(r->association, r->subject, KEY_BYTES))
			return ERR_MALFORMED;
		if (r->kind == RECORD_AGREEMENT)
			return decode_agreement(e);
		err = acceptance_read(r, &acceptance);
		if (err)
			return err;
		e->negative = acceptance.declined;
		memcpy(e->key, acceptance.agreement, KEY_BYTES);
		return 0;
	case RECORD_MANIFEST:
		return decode_manifest(e);
	case RECORD_APPROVAL:
		err = approval_read(r, &approval);
		if (!err)
			e->negative = approval.withdrawn;
		return err;
	case RECORD_RECEIPT:
		return decode_receipt(e);
	}
	return ERR_MALFORMED;
}

/* That it was not issued in the future is asked when it comes, not for ever after: a clock that was ours then and is set back by hours
 * must not take away what everything else rests on. */
bool trust_is_over(const struct record *r, uint64_t now)
{
	return now != TRUST_ANY_TIME && now > r->expires;
}

bool trust_reached(const struct association *a, uint64_t now)
{
	return now == TRUST_ANY_TIME ? a->kept : a->in_reach;
}

static bool is_current(const struct trust *trust, uint32_t entry, uint64_t now)
{
	return entry != INDEX_NONE && !trust_is_over(&trust->entries[entry]->record, now);
}

static bool signed_by_steward(const struct trust *trust, const struct association *a, const uint8_t *signer, uint64_t now)
{
	return is_current(trust, a->steward, now) && !memcmp(trust->entries[a->steward]->key, signer, KEY_BYTES);
}

bool trust_by_steward(const struct trust *trust, const struct entry *e, uint64_t now)
{
	return signed_by_steward(trust, &trust->slots[e->slot], e->record.signer, now);
}

bool trust_handed_over(const struct trust *trust, const struct association *a, uint64_t now)
{
	/* Not longer than it may last, either: the clock may have been set back since. */
	return now <= a->handover_until && a->handover_until - now <= TRUST_HANDOVER_S && a->roster != INDEX_NONE &&
	       !memcmp(trust->entries[a->roster]->record.signer, a->former, KEY_BYTES);
}

bool trust_rostered(const struct trust *trust, const struct association *a, const uint8_t *node, uint64_t now)
{
	return is_current(trust, a->roster, now) &&
	       (signed_by_steward(trust, a, trust->entries[a->roster]->record.signer, now) || trust_handed_over(trust, a, now)) &&
	       a->n_nodes && bsearch(node, a->nodes, a->n_nodes, KEY_BYTES, compare_keys);
}

bool trust_authorised(const struct trust *trust, const struct entry *e, uint64_t now)
{
	struct entry *known = (struct entry *)(uintptr_t)e;     /* what is remembered in it changes nothing */

	if (now != TRUST_ANY_TIME && trust_holds(trust, e->judged, e->judged_at, now))
		return e->may_say;
	bool may = trust_reached(&trust->slots[e->slot], now) && trust_signer_may(trust, e, now);
	if (now != TRUST_ANY_TIME) {
		known->judged = trust->grounds;
		known->judged_at = now;
		known->may_say = may;
	}
	return may;
}

bool trust_signer_may(const struct trust *trust, const struct entry *e, uint64_t now)
{
	const struct association *a = &trust->slots[e->slot];
	const struct record *r = &e->record;

	switch (r->kind) {
	case RECORD_ASSOCIATION:
	case RECORD_STEWARD:
		return !memcmp(r->signer, a->key, KEY_BYTES);
	case RECORD_ROSTER:
	case RECORD_AGREEMENT:
	case RECORD_ACCEPTANCE:
	case RECORD_APPROVAL:
		return trust_by_steward(trust, e, now);
	case RECORD_CARD:
	case RECORD_ADVERT:
	case RECORD_MANIFEST:
	case RECORD_RECEIPT:
		return trust_rostered(trust, a, r->signer, now);
	}
	return false;
}

bool trust_may_be_last_word(const struct trust *trust, const struct entry *e, uint64_t now)
{
	const struct association *a = &trust->slots[e->slot];

	if (!a->accepted || a->in_reach)
		return false;
	if (e->record.kind != RECORD_STEWARD && (e->record.kind != RECORD_AGREEMENT || memcmp(e->record.subject, trust->slots[0].key, KEY_BYTES)))
		return false;
	return !trust_is_over(&e->record, now) && trust_signer_may(trust, e, now);
}

bool trust_is_last_word(const struct trust *trust, const struct entry *e, uint64_t now)
{
	return (e->negative || e->record.kind == RECORD_STEWARD) && trust_may_be_last_word(trust, e, now);
}

bool trust_valid(const struct trust *trust, const struct entry *e, uint64_t now)
{
	return !trust_is_over(&e->record, now) && trust_authorised(trust, e, now);
}

bool trust_in_force(const struct trust *trust, const struct entry *agreement, uint64_t now)
{
	const struct record *r = &agreement->record;
	const struct entry *acceptance;

	if (agreement->negative || !trust_valid(trust, agreement, now))
		return false;
	acceptance = trust_entry(trust, RECORD_ACCEPTANCE, r->subject, r->association);
	return acceptance && !acceptance->negative && trust_valid(trust, acceptance, now) &&
	       !memcmp(acceptance->key, r->hash, KEY_BYTES);
}
