/* trust_reach.c: which associations belong to the mesh as seen from ours.
 *
 * Reach grows from our own association and those introduced along what an association in reach has said itself: an
 * AGREEMENT that is neither expired nor revoked reaches its grantee, accepted or not, so that the acceptance can
 * travel; an ACCEPTANCE that is neither expired nor declined reaches its grantor. An agreement in force thus ties both
 * ways. Nobody comes into reach by what he says himself: a stranger's agreement with us counts for nothing until
 * somebody in reach has answered it.
 *
 * When a grantor revokes, its grantee's acceptance stops to reach it, whatever the two clocks say. The grantor's records
 * may then be dropped, the revocation with them, and the acceptance would reach it again: so revocations are remembered
 * apart until they expire. Only an acceptance issued later than the revocation counts again, or of the offer that is held.
 *
 * The same walk, as if no agreement ended by time, says whose records are kept although they count for nothing just now: the
 * clock may be wrong (trust.h).
 *
 * The walk is breadth first, so that those near us stay when TRUST_ASSOCIATIONS_MAX is too small; another association
 * brings at most TRUST_DEGREE_MAX, so that one that signs without measure crowds out few.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "daemon/trust/trust_set.h"

struct walk {
	struct trust *trust;
	uint64_t now;                          /* or TRUST_ANY_TIME */
	bool reached[SLOTS_MAX];
	uint32_t queue[TRUST_ASSOCIATIONS_MAX];
	size_t n, max;
};

static void visit(struct walk *w, uint32_t slot)
{
	if (w->n < w->max && !w->reached[slot]) {
		w->reached[slot] = true;
		w->queue[w->n++] = slot;
	}
}

static bool was_revoked(const struct trust *trust, const uint8_t *grantor, const uint8_t *grantee, uint64_t since, uint64_t now)
{
	for (size_t i = 0; i < trust->n_revoked; i++) {
		const struct revoked *r = &trust->revoked[i];

		if (r->issued >= since && (now == TRUST_ANY_TIME || r->until >= now) && !memcmp(r->grantor, grantor, KEY_BYTES) &&
		    !memcmp(r->grantee, grantee, KEY_BYTES))
			return true;
	}
	return false;
}

/* Does an acceptance still stand, as far as its grantor is concerned. */
static bool stands(const struct walk *w, const struct entry *acceptance)
{
	const struct record *r = &acceptance->record;
	const struct entry *offer = trust_entry(w->trust, RECORD_AGREEMENT, r->subject, r->association);

	if (offer && offer->negative && !trust_is_over(&offer->record, w->now) && trust_by_steward(w->trust, offer, w->now))
		return false;
	return (offer && !offer->negative && !memcmp(offer->record.hash, acceptance->key, KEY_BYTES)) ||
	       !was_revoked(w->trust, r->subject, r->association, r->issued, w->now);
}

static bool reaches(const struct walk *w, const struct entry *e)
{
	const struct record *r = &e->record;

	/* Where the walk is, its association is in reach. */
	if (e->negative || trust_is_over(r, w->now) || !trust_by_steward(w->trust, e, w->now))
		return false;
	return r->kind == RECORD_AGREEMENT || stands(w, e);
}

static void follow(struct walk *w, uint32_t slot)
{
	struct trust *trust = w->trust;
	size_t degree = 0;

	for (uint32_t i = trust->slots[slot].edges; i != INDEX_NONE; i = trust->entries[i]->edge_next) {
		const struct entry *e = trust->entries[i];
		uint32_t next;

		if (w->n == w->max || (slot && degree == TRUST_DEGREE_MAX))
			return;
		if (!reaches(w, e))
			continue;
		next = trust_slot_make(trust, e->record.subject);
		if (next == INDEX_NONE)
			return;
		degree++;
		visit(w, next);
	}
}

static void walk(struct walk *w, struct trust *trust, uint64_t now, size_t max)
{
	*w = (struct walk){ .trust = trust, .now = now, .max = max };
	visit(w, 0);
	for (uint32_t i = 1; i < SLOTS_MAX; i++)
		if (trust->slots[i].introduced)
			visit(w, i);
	for (size_t i = 0; i < w->n; i++)
		follow(w, w->queue[i]);
}

/* Whom we no longer deal with by our own word, which they may not have heard; and whose word we took, which they may have taken back. */
static void note_own_words(struct trust *trust, uint64_t now)
{
	for (size_t i = 0; i < SLOTS_MAX; i++)
		trust->slots[i].owed = trust->slots[i].accepted = false;
	for (uint32_t i = trust->slots[0].edges; i != INDEX_NONE; i = trust->entries[i]->edge_next) {
		const struct entry *e = trust->entries[i];
		bool counts = !trust_is_over(&e->record, now) && (e->negative || e->record.kind == RECORD_ACCEPTANCE);
		uint32_t slot = counts ? trust_slot_make(trust, e->record.subject) : INDEX_NONE;

		if (slot == INDEX_NONE)
			continue;
		trust->slots[slot].owed |= e->negative;
		trust->slots[slot].accepted |= !e->negative;
	}
}

void trust_reach(struct trust *trust, uint64_t now)
{
	struct walk now_, any;
	bool changed = false;

	note_own_words(trust, now);
	walk(&now_, trust, now, TRUST_ASSOCIATIONS_MAX);
	walk(&any, trust, TRUST_ANY_TIME, KEPT_MAX);
	for (size_t i = 0; i < SLOTS_MAX; i++) {
		struct association *a = &trust->slots[i];

		changed |= a->in_reach != now_.reached[i];
		a->in_reach = now_.reached[i];
		a->kept = now_.reached[i] || any.reached[i];
	}
	trust->generation += changed;
	trust->grounds++;
}

void trust_note_revoked(struct trust *trust, const struct entry *agreement)
{
	const struct record *r = &agreement->record;
	struct revoked *to = NULL;

	for (size_t i = 0; i < trust->n_revoked && !to; i++)
		if (!memcmp(trust->revoked[i].grantor, r->association, KEY_BYTES) &&
		    !memcmp(trust->revoked[i].grantee, r->subject, KEY_BYTES))
			to = &trust->revoked[i];
	if (!to && trust->n_revoked < REVOKED_MAX)
		to = &trust->revoked[trust->n_revoked++];
	if (!to) {              /* the one that would be forgotten first makes room */
		to = &trust->revoked[0];
		for (size_t i = 1; i < trust->n_revoked; i++)
			if (trust->revoked[i].until < to->until)
				to = &trust->revoked[i];
	}
	*to = (struct revoked){ .issued = r->issued, .until = agreement->remember };
	memcpy(to->grantor, r->association, KEY_BYTES);
	memcpy(to->grantee, r->subject, KEY_BYTES);
}
