/* The steward's office beyond the single record: who has left comes off the roster; a key that was replaced; a new key signs everything again.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "daemon/daemon.h"
#include "proto/log.h"

/* Who said that he has left comes off, with the call that brought his word. */
void records_drop_left(struct daemon *d)
{
	uint64_t now = daemon_now(d);
	const struct record *r = trust_find(d->trust, RECORD_ROSTER, d->keys.association, d->keys.association, now);
	struct roster_body roster = {0};
	size_t kept = 0;
	if (!d->keys.has_steward || !r || roster_read(r, &roster))
		return;
	for (size_t i = 0; i < roster.n_nodes; i++) {
		const struct record *card = trust_find(d->trust, RECORD_CARD, d->keys.association, roster.nodes[i], now);
		struct card_body body;
		if (card && card->issued >= r->issued && !card_read(card, &body) && body.left) {
			log_notice("%s has left the association: it comes off the roster", body.name);
			continue;
		}
		memmove(roster.nodes[kept++], roster.nodes[i], KEY_BYTES);
	}
	if (kept < roster.n_nodes)
		records_publish_roster(d, (const uint8_t(*)[KEY_BYTES])roster.nodes, kept);
	roster_free(&roster);
}

/* Another node may have been given a new steward key: what is here signs nothing that counts then. */
void records_look_at_steward(struct daemon *d)
{
	const struct record *r = trust_find(d->trust, RECORD_STEWARD, d->keys.association, d->keys.association, daemon_now(d));
	struct steward_body steward;
	if (!d->keys.has_steward || !r || steward_read(r, &steward) || !memcmp(steward.steward, d->keys.steward, KEY_BYTES))
		return;
	d->keys.has_steward = false;
	d->steward_replaced = true;
	log_warning("this node's steward key was replaced by another one, which is elsewhere: delete keys/steward.key here");
}

/* Copies, since signing changes the set: (length u32, record) each. */
static bool keep_to_renew(const struct record *record, void *arg)
{
	struct buf *all = arg;
	uint8_t length[4];
	put_u32(length, (uint32_t)record->length);
	return !buf_append(all, length, 4) && !buf_append(all, record->bytes, record->length);
}

/* A record for the same time from now on, with the same content. */
static int sign_one_again(struct daemon *d, const struct record *old, uint64_t life, struct records_renewed *out)
{
	struct record head = records_head(d, old->kind, old->subject, life);
	struct agreement_body agreement;
	struct acceptance_body acceptance;
	struct approval_body approval;
	struct roster_body roster = {0};
	struct manifest_body manifest = {0};
	struct buf bytes;
	size_t *counted = NULL;
	int err;
	buf_init(&bytes, RECORD_MAX);
	switch (old->kind) {
	case RECORD_ROSTER:
		err = roster_read(old, &roster);
		if (!err)
			err = records_publish_roster(d, (const uint8_t(*)[KEY_BYTES])roster.nodes, roster.n_nodes);
		out->nodes = err ? 0 : roster.n_nodes;
		roster_free(&roster);
		return err;
	case RECORD_AGREEMENT:
		err = agreement_read(old, &agreement);
		err = err ? err : agreement_sign(&bytes, &head, &agreement, d->keys.steward_secret);
		counted = &out->agreements;
		break;
	case RECORD_ACCEPTANCE:
		err = acceptance_read(old, &acceptance);
		err = err ? err : acceptance_sign(&bytes, &head, &acceptance, d->keys.steward_secret);
		counted = &out->acceptances;
		break;
	case RECORD_MANIFEST:
		err = manifest_read(old, &manifest);
		err = err ? err : manifest_sign(&bytes, &head, &manifest, d->keys.node_secret);
		manifest_free(&manifest);
		break;
	default:
		err = approval_read(old, &approval);
		err = err ? err : approval_sign(&bytes, &head, &approval, d->keys.steward_secret);
		counted = &out->approvals;
	}
	if (!err)
		err = records_publish_saved(d, &bytes);
	buf_release(&bytes);
	if (counted)
		*counted += !err;
	return err;
}

int records_sign_again(struct daemon *d, const uint8_t root_secret[SIGN_SECRET_BYTES], struct records_renewed *out)
{
	struct buf all;
	buf_init(&all, TRUST_BYTES_ASSOCIATION_MAX);
	if (!out->fresh)
		trust_each_to_renew(d->trust, keep_to_renew, &all);
	d->steward_replaced = false;
	int err = records_renew_steward(d, root_secret);
	if (!err && out->fresh) {
		err = records_publish_roster(d, (const uint8_t(*)[KEY_BYTES])d->keys.node, 1);
		out->nodes = 1;
	}
	/* The roster first: everything else is nothing without it. */
	for (int pass = 0; !err && pass < 2; pass++)
		for (size_t at = 0; at < all.length;) {
			size_t n = get_u32(all.data + at);
			struct record record;
			if (!record_parse(&record, all.data + at + 4, n) && (record.kind == RECORD_ROSTER) == !pass)
				out->failed += sign_one_again(d, &record, record.expires > daemon_now(d) ? record.expires - daemon_now(d) : 0, out) != 0;
			at += 4 + n;
		}
	buf_release(&all);
	return err;
}

struct future {
	const struct daemon *daemon;
	struct buf all;
};

static bool keep_future(const struct record *r, void *arg)
{
	struct future *f = arg;
	const struct daemon *d = f->daemon;
	const uint8_t *self = r->kind == RECORD_MANIFEST ? d->keys.node : d->keys.has_steward ? d->keys.steward : NULL;
	if (r->kind == RECORD_CARD || r->kind == RECORD_ADVERT || !self || memcmp(r->signer, self, KEY_BYTES) || !record_is_current(r, daemon_now(d)))
		return true;
	return keep_to_renew(r, &f->all);
}

bool records_sign_future(struct daemon *d)
{
	struct future f = {.daemon = d};
	struct records_renewed again = {0};
	size_t n = 0;
	buf_init(&f.all, TRUST_BYTES_ASSOCIATION_MAX);
	trust_each(d->trust, 0, keep_future, &f);
	for (size_t at = 0; at < f.all.length; n++) {
		size_t length = get_u32(f.all.data + at);
		struct record record;
		if (!record_parse(&record, f.all.data + at + 4, length))
			/* Until the same day: should this clock be behind after all, and the others' with it, it still holds when they are right. */
			again.failed += sign_one_again(d, &record, record.expires - daemon_now(d), &again) != 0;
		at += 4 + length;
	}
	buf_release(&f.all);
	if (n)
		log_notice("%zu records that a clock which was ahead had dated in the future are signed again (%zu cannot be)", n, again.failed);
	return !again.failed;
}
