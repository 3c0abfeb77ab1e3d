/* kept.c: sessions between two questions, and who gets the places in the own engine.
 *
 * As home a kept session is one whose answer ended: remote stages have settled (CLOSE with `keep`), the own engine was told nothing. Its
 * tokens stay in memory, and nowhere else, until it is closed: when its time is over, when its place is wanted and it was
 * used longest ago, when a node of its ring or an engine goes, when keeping is turned off. As a stage it is a transit in state KEPT.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdlib.h>
#include <string.h>

#include "daemon/ring/ring_internal.h"

size_t kept_computed(const struct ring_session *s)
{
	size_t n = s->n_flight ? s->flight[0].position : s->sent;
	return n < s->n_tokens ? n : s->n_tokens;
}

/* --- what a question may begin with -------------------------------------------------------------------- */

static bool is_nobody(const uint8_t tenant[KEY_BYTES])
{
	static const uint8_t nobody[KEY_BYTES];
	return key_equal(tenant, nobody);
}

static bool same_plan(const struct ring_plan *a, const struct ring_plan *b)
{
	if (a->n_layer != b->n_layer || a->n_stages != b->n_stages || !key_equal(a->model, b->model))
		return false;
	for (size_t i = 0; i < a->n_stages; i++)
		if (!key_equal(a->stages[i].node, b->stages[i].node) || a->stages[i].range.first != b->stages[i].range.first ||
		    a->stages[i].range.end != b->stages[i].range.end)
			return false;
	return true;
}

struct pick {
	struct ring_session *session;
	uint32_t position;
	bool fork;
};

/* plan NULL: any. */
static bool pick(const struct ring *ring, const uint8_t tenant[KEY_BYTES], const uint8_t model[KEY_BYTES], const struct ring_plan *plan,
		 const int32_t *prompt, size_t n_prompt, struct pick *out)
{
	struct prefix_entry entries[KEPT_MAX];
	struct ring_session *sessions[KEPT_MAX];
	struct prefix_choice choice;
	size_t n = 0;
	if (!ring->config.keep_s || is_nobody(tenant))
		return false;
	for (struct ring_session *s = ring->sessions; s && n < KEPT_MAX; s = s->next) {
		if ((s->state != SESSION_KEPT && (s->state != SESSION_RUNNING || s->trouble)) || !key_equal(s->ask.tenant, tenant) ||
		    !key_equal(s->ask.plan.model, model) || (plan && !same_plan(&s->ask.plan, plan)))
			continue;
		entries[n] = (struct prefix_entry){.tokens = s->tokens, .n_computed = kept_computed(s), .n_asked = s->ask.n_prompt,
						   .idle = s->state == SESSION_KEPT, .used = s->used_at};
		sessions[n++] = s;
	}
	bool room = !ring->config.room || ring->config.room(ring->config.arg, model) || ring_kept(ring, model) > 1;
	if (!prefix_choose(entries, n, prompt, n_prompt, room, &choice))
		return false;
	*out = (struct pick){sessions[choice.index], choice.position, choice.fork};
	return true;
}

bool ring_recall(const struct ring *ring, const uint8_t tenant[KEY_BYTES], const uint8_t model[KEY_BYTES], const int32_t *prompt,
		 size_t n_prompt, struct ring_plan *plan)
{
	struct pick found;
	if (!pick(ring, tenant, model, NULL, prompt, n_prompt, &found))
		return false;
	*plan = found.session->ask.plan;
	return true;
}

struct ring_session *kept_find(struct ring *ring, const struct ring_ask *ask, uint32_t *position, bool *fork)
{
	struct pick found;
	if (!pick(ring, ask->tenant, ask->plan.model, &ask->plan, ask->prompt, ask->n_prompt, &found))
		return NULL;
	found.session->used_at = ring_ms(ring);
	*position = found.position;
	*fork = found.fork;
	return found.session;
}

/* --- keeping and forgetting ----------------------------------------------------------------------------- */

bool kept_may_keep(const struct ring_session *s)
{
	return s->ring->config.keep_s && !is_nobody(s->ask.tenant) && s->state == SESSION_RUNNING && !s->trouble &&
	       kept_computed(s) >= CHUNK_ROWS;
}

void kept_keep(struct ring_session *s)
{
	struct ring *ring = s->ring;
	size_t n = 0;
	struct ring_session *oldest = NULL;
	s->state = SESSION_KEPT;
	s->used_at = ring_ms(ring);
	s->deadline = s->used_at + (uint64_t)ring->config.keep_s * 1000;
	for (struct ring_session *other = ring->sessions; other; other = other->next)
		if (other->state == SESSION_KEPT && ++n && (!oldest || other->used_at < oldest->used_at))
			oldest = other;
	if (n > KEPT_MAX)
		kept_forget(oldest);
}

void kept_forget(struct ring_session *s)
{
	home_close_stages(s, 0);
	s->state = s->n_nodes && !receipts_are_final(s) ? SESSION_ENDED : SESSION_DEAD;
	s->deadline = s->used_at + LINGER_MS;
	receipts_keep(s);
}

void kept_tick(struct ring_session *s)
{
	uint64_t ms = ring_ms(s->ring);
	if (ms >= s->used_at + LINGER_MS || receipts_are_final(s))
		receipts_keep(s);
	if (ms >= s->deadline)
		kept_forget(s);
}

void ring_set_keep(struct ring *ring, uint32_t seconds)
{
	ring_enter(ring);
	ring->config.keep_s = seconds;
	for (struct ring_session *s = ring->sessions; s && !seconds; s = s->next)
		if (s->state == SESSION_KEPT)
			kept_forget(s);
	for (struct transit *t = ring->transits; t && !seconds; t = t->next)
		transit_close_kept(ring, t->ticket.session);
	ring_leave(ring);
}

void kept_on_engine_lost(struct ring *ring, const uint8_t model[KEY_BYTES])
{
	for (struct ring_session *s = ring->sessions; s; s = s->next)
		if (s->state == SESSION_KEPT && key_equal(s->ask.plan.model, model))
			kept_forget(s);
}

void kept_on_own_fault(struct ring *ring, const uint8_t model[KEY_BYTES], const struct fault_message *fault)
{
	for (struct ring_session *s = ring->sessions; s; s = s->next)
		if (s->state == SESSION_KEPT && key_equal(s->ask.plan.model, model) && !memcmp(s->id, fault->session, SESSION_BYTES))
			kept_forget(s);
}

void kept_on_peer_down(struct ring *ring, const uint8_t node[KEY_BYTES])
{
	for (struct ring_session *s = ring->sessions; s; s = s->next)
		for (size_t i = 0; s->state == SESSION_KEPT && i < s->ask.plan.n_stages; i++)
			if (key_equal(s->ask.plan.stages[i].node, node))
				kept_forget(s);
}

/* --- places --------------------------------------------------------------------------------------------- */

uint32_t ring_kept(const struct ring *ring, const uint8_t model[KEY_BYTES])
{
	uint32_t n = 0;
	for (const struct ring_session *s = ring->sessions; s; s = s->next)
		n += s->state == SESSION_KEPT && key_equal(s->ask.plan.model, model);
	for (const struct transit *t = ring->transits; t; t = t->next) {
		bool counts = t->state == TRANSIT_KEPT && key_equal(t->ticket.model, model);
		for (const struct transit *u = ring->transits; counts && u != t; u = u->next)       /* another stage of it was counted */
			counts = u->state != TRANSIT_KEPT || memcmp(u->ticket.session, t->ticket.session, SESSION_BYTES);
		n += counts;
	}
	return n;
}

/* Closes the kept session that was used longest ago. */
static bool evict(struct ring *ring, const uint8_t model[KEY_BYTES], const uint8_t *except)
{
	struct ring_session *session = NULL;
	struct transit *transit = NULL;
	for (struct ring_session *s = ring->sessions; s; s = s->next)
		if (s->state == SESSION_KEPT && key_equal(s->ask.plan.model, model) && (!except || memcmp(s->id, except, SESSION_BYTES)) &&
		    (!session || s->used_at < session->used_at))
			session = s;
	for (struct transit *t = ring->transits; t; t = t->next)
		if (t->state == TRANSIT_KEPT && key_equal(t->ticket.model, model) &&
		    (!except || memcmp(t->ticket.session, except, SESSION_BYTES)) && (!transit || t->used_at < transit->used_at))
			transit = t;
	if (transit && (!session || transit->used_at < session->used_at))
		transit_close_kept(ring, transit->ticket.session);
	else if (session)
		kept_forget(session);
	return session || transit;
}

bool kept_make_room(struct ring *ring, const uint8_t model[KEY_BYTES], const uint8_t *except)
{
	while (ring->config.room && !ring->config.room(ring->config.arg, model))
		if (!evict(ring, model, except) && !evict(ring, model, NULL))
			return false;
	return true;
}

bool ring_make_room(struct ring *ring, const uint8_t model[KEY_BYTES])
{
	ring_enter(ring);
	bool room = kept_make_room(ring, model, NULL);
	ring_leave(ring);
	return room;
}
