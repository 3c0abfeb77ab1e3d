/* lost.c: a question whose ring lost a stage: who is to blame, a new plan, and what was committed is computed again (DESIGN D7).
 *
 * A FAULT names the stage that is lost. A stage reports itself, or a neighbour: "the next went away", "what the previous
 * sends is no rows". It can blame nobody else; with its neighbours it could break the ring anyway, by being silent.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/ring/ring_internal.h"
#include "proto/log.h"
#include "proto/text.h"

static void blame(struct ring_session *s, const uint8_t node[KEY_BYTES])
{
	for (size_t i = 0; i < s->n_failed; i++)
		if (key_equal(s->failed[i], node))
			return;
	if (s->n_failed < RING_STAGES_MAX)
		memcpy(s->failed[s->n_failed++], node, KEY_BYTES);
}

void home_trouble(struct ring_session *s, size_t stage, int code, const char *format, ...)
{
	if (s->state != SESSION_SETUP && s->state != SESSION_RUNNING)
		return;
	if (stage != SIZE_MAX && !s->stages[stage].self)
		blame(s, s->ask.plan.stages[stage].node);
	if (s->trouble)
		return;                  /* the first reason is the one told */
	va_list args;
	va_start(args, format);
	vsnprintf(s->trouble_detail, sizeof s->trouble_detail, format, args);
	va_end(args);
	s->trouble = true;
	s->trouble_code = code < 0 ? code : ERR_UNREACHABLE;
	s->ring->faults++;
}

void home_trouble_ends(struct ring_session *s, int code, const char *format, ...)
{
	if (s->state != SESSION_SETUP && s->state != SESSION_RUNNING)
		return;
	va_list args;
	va_start(args, format);
	vsnprintf(s->trouble_detail, sizeof s->trouble_detail, format, args);
	va_end(args);
	s->ring->faults += !s->trouble;
	s->trouble = s->trouble_ends = true;
	s->trouble_code = code < 0 ? code : ERR_ENGINE;
}

void home_on_peer_down(struct ring_session *s, const uint8_t node[KEY_BYTES])
{
	if (s->state != SESSION_SETUP && s->state != SESSION_RUNNING)
		return;
	for (size_t i = 0; i < s->ask.plan.n_stages; i++)
		if (!s->stages[i].self && key_equal(node, s->ask.plan.stages[i].node))
			home_trouble(s, i, ERR_UNREACHABLE, "the link to a stage went down");
}

/* --- NEED_REPLAY ------------------------------------------------------------------------------------ */

/* A stage lacks the positions before some block: everything from there is sent again. Blocks behind that one met the same gap, and
 * the stages after it never saw it, so the numbering starts anew with a new epoch. */
static void replay(struct ring_session *s, size_t stage, uint32_t position)
{
	if (s->state != SESSION_RUNNING || s->trouble)
		return;
	if (++s->replays > REPLAYS_MAX) {
		home_trouble(s, stage, ERR_NEED_REPLAY, "a stage forgets positions again and again");
		return;
	}
	log_debug("ring: stage %zu needs a replay from position %u", stage, position);
	home_set_up_again(s, position < s->n_tokens ? position : s->n_tokens - 1);
}

/* --- FAULT ------------------------------------------------------------------------------------------ */

static void own_fault(struct ring_session *s, const struct fault_message *fault)
{
	size_t at = fault->stage;
	if (!s->stages[at].self)
		return;
	if (fault->code == ERR_NEED_REPLAY)
		replay(s, at, fault->position);
	else if (fault->code == ERR_MALFORMED && at && !s->stages[at - 1].self)
		home_trouble(s, at - 1, fault->code, "what a stage computed is not usable (%s)", fault->detail);
	else
		home_trouble_ends(s, fault->code, "this node's engine: %s", fault->detail[0] ? fault->detail : err_str(fault->code));
}

void home_on_fault(struct ring_session *s, const uint8_t *from, const struct fault_message *fault)
{
	const struct ring_plan *plan = &s->ask.plan;
	size_t at = fault->stage;
	if ((s->state != SESSION_SETUP && s->state != SESSION_RUNNING) || fault->epoch != s->epoch || at >= plan->n_stages)
		return;
	if (!from) {
		own_fault(s, fault);
		return;
	}
	const char *detail = fault->detail[0] ? fault->detail : err_str(fault->code);
	if (key_equal(from, plan->stages[at].node)) {
		if (fault->code == ERR_NEED_REPLAY)
			replay(s, at, fault->position);
		else
			home_trouble(s, at, fault->code, "%s", detail);
		return;
	}
	bool neighbour = (at && key_equal(from, plan->stages[at - 1].node)) || (at + 1 < plan->n_stages && key_equal(from, plan->stages[at + 1].node));
	if (neighbour)
		home_trouble(s, at, fault->code == ERR_NEED_REPLAY ? ERR_MALFORMED : fault->code, "%s", detail);
}

/* --- a new plan ------------------------------------------------------------------------------------- */

/* Denials and full houses do not go away by waiting a few seconds. */
static bool may_pass(int code)
{
	return code != ERR_DENIED && code != ERR_BUSY && code != ERR_BUDGET && code != ERR_VERSION && code != ERR_EXPIRED;
}

/* Asks for a new plan, and goes on with it; without one waits, as long as there is hope and patience. */
void home_try_again(struct ring_session *s)
{
	uint64_t ms = ring_ms(s->ring);
	char detail[sizeof s->detail];
	struct ring_plan plan = {0};
	int err = s->ask.on_lost(s->ask.arg, (const uint8_t (*)[KEY_BYTES])s->failed, s->n_failed, &plan);
	if (s->state != SESSION_SETUP && s->state != SESSION_RUNNING && s->state != SESSION_WAITING)
		return;                  /* cancelled from inside */
	if (!err)
		err = home_check_plan(s->ring, &plan);
	if (!err && (plan.n_layer != s->ask.plan.n_layer || !key_equal(plan.model, s->ask.plan.model)))
		err = -EINVAL;
	if (!err) {
		log_info("ring: a stage was lost (%s); set up anew", s->trouble_detail);
		s->lost++;
		s->ask.plan = plan;
		s->epoch++;
		s->forks = false;
		s->cached = 0;
		home_set_up(s);
	} else if (may_pass(s->trouble_code) && ms < s->lost_since + PATIENCE_MS) {
		s->state = SESSION_WAITING;
		s->deadline = ms + AGAIN_MS;
	} else {
		/* What the stage said tells more than that no other can take its place. */
		snprintf(detail, sizeof detail, "%s; no other node can take over", s->trouble_detail);
		home_finish(s, s->trouble_code, NULL, detail);
	}
}

void home_settle(struct ring_session *s)
{
	uint64_t ms = ring_ms(s->ring);
	char detail[sizeof s->detail];
	bool ends = s->trouble_ends, setup = s->state == SESSION_SETUP;
	s->trouble = s->trouble_ends = false;
	home_close_stages(s, s->trouble_code);
	if (!s->lost_since)
		s->lost_since = ms;
	if (ends || !s->ask.on_lost) {
		text_copy(detail, sizeof detail, s->trouble_detail);
		home_finish(s, s->trouble_code, NULL, detail);
	} else if (!setup && s->trouble_code == ERR_ENGINE && s->lost && ++s->barren == BARREN_MAX) {
		/* Perhaps this very question is what kills the engines: it must not go on until models are quarantined. */
		snprintf(detail, sizeof detail, "%s; it happened %u times at the same place", s->trouble_detail, s->barren + 1);
		home_finish(s, s->trouble_code, NULL, detail);
	} else if (s->lost == LOST_MAX || (s->lost && ms >= s->lost_since + PATIENCE_MS)) {
		snprintf(detail, sizeof detail, "%s; the ring was set up anew %u times already", s->trouble_detail, s->lost);
		home_finish(s, s->trouble_code, NULL, detail);
	} else if (s->lost && setup && may_pass(s->trouble_code)) {
		s->state = SESSION_WAITING;      /* it was tried just now: give it a moment */
		s->deadline = ms + AGAIN_MS;
	} else {
		home_try_again(s);
	}
}
