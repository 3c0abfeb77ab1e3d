/* transit.c: a stage served here for a question asked at another node.
 *
 *   ticket --> permit, once only --> a place in the engine --> ENGINE_OPEN --> READY of the engine --> the way to `next` is up --> READY to home
 *   rows of `previous`, in order --> engine --> rows to `next`
 *   CLOSE with `keep` --> settled, but the engine keeps what it holds: a ticket of a later epoch goes on with it
 *
 * Places go to those with a higher priority first, then in order of arrival; after QUEUE_MS home hears ERR_BUSY.
 *
 * Nothing but a ticket makes a session, and after that nothing but its `previous` feeds it and its home closes it. What is
 * unknown, of an old epoch or a duplicate is dropped without a word: an answer would only serve who guesses.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/ring/ring_internal.h"
#include "proto/log.h"
#include "proto/text.h"

struct transit *transit_find(const struct ring *ring, const uint8_t session[SESSION_BYTES], uint32_t stage)
{
	for (struct transit *t = ring->transits; t; t = t->next)
		if (t->state != TRANSIT_DEAD && t->ticket.stage == stage && !memcmp(t->ticket.session, session, SESSION_BYTES))
			return t;
	return NULL;
}

static bool next_is_up(const struct ring *ring, const struct transit *t)
{
	return ring_is_self(ring, t->ticket.next) || ring->config.is_up(ring->config.arg, t->ticket.next);
}

/* --- telling home ----------------------------------------------------------------------------------- */

/* stage: the one that is lost, ours or a neighbour (lost.c). */
static void send_fault(struct ring *ring, const struct ticket *ticket, uint32_t stage, int code, uint32_t position, const char *detail)
{
	struct fault_message fault = {.epoch = ticket->epoch, .stage = stage, .code = code, .position = position};
	memcpy(fault.session, ticket->session, SESSION_BYTES);
	text_copy(fault.detail, sizeof fault.detail, detail);
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err = fault_encode(&frame, &fault);
	if (!err)
		err = ring_to_node(ring, ticket->home, &frame);
	buf_release(&frame);
	if (err)
		log_debug("ring: home was not told of a fault: %s", err_str(err));
	ring->faults++;
}

static void tell_use(struct ring *ring, struct transit *t, bool final)
{
	struct ring_use use = {.rows = t->rows, .microseconds = t->microseconds};
	memcpy(use.session, t->ticket.session, SESSION_BYTES);
	memcpy(use.home, t->ticket.home, KEY_BYTES);
	memcpy(use.home_association, t->ticket.home_association, KEY_BYTES);
	memcpy(use.model, t->ticket.model, KEY_BYTES);
	memcpy(use.node, ring->config.node, KEY_BYTES);
	t->told += t->rows;
	t->rows = t->microseconds = 0;
	if (ring->config.used)
		ring->config.used(ring->config.arg, &use, final);
}

static void close_transit(struct ring *ring, struct transit *t, bool tell_engine, int reason)
{
	if (t->state == TRANSIT_DEAD)
		return;
	bool kept = t->state == TRANSIT_KEPT;
	tell_engine &= t->state != TRANSIT_QUEUED;
	t->state = TRANSIT_DEAD;
	t->tally->kept -= kept;
	if (!kept) {
		t->tally->open--;
		t->tally->receipt_due = true;
	}
	if (tell_engine) {
		struct close_message close = {.epoch = t->ticket.epoch, .stage = t->ticket.stage, .reason = reason};
		memcpy(close.session, t->ticket.session, SESSION_BYTES);
		ring_send_close(ring, NULL, t->ticket.model, &close);
	}
	if (!kept)
		tell_use(ring, t, true);
}

static void keep(struct ring *ring, struct transit *t, uint32_t seconds)
{
	t->state = TRANSIT_KEPT;
	t->used_at = ring_ms(ring);
	t->deadline = t->used_at + (uint64_t)(seconds < ring->config.keep_s ? seconds : ring->config.keep_s) * 1000;
	t->tally->open--;
	t->tally->kept++;
	t->tally->receipt_due = true;
	tell_use(ring, t, true);
}

void transit_close_kept(struct ring *ring, const uint8_t session[SESSION_BYTES])
{
	for (struct transit *t = ring->transits; t; t = t->next)
		if (t->state == TRANSIT_KEPT && !memcmp(t->ticket.session, session, SESSION_BYTES))
			close_transit(ring, t, true, 0);
}

static void fail(struct ring *ring, struct transit *t, uint32_t stage, int code, const char *detail)
{
	if (t->state == TRANSIT_DEAD)
		return;
	if (t->state != TRANSIT_KEPT)    /* nobody waits for anything of it */
		send_fault(ring, &t->ticket, stage, code, 0, detail);
	close_transit(ring, t, true, code);
}

/* --- tallies ---------------------------------------------------------------------------------------- */

static void drop_tally(struct ring *ring, struct tally *dropped)
{
	for (struct tally **at = &ring->tallies; *at; at = &(*at)->next)
		if (*at == dropped) {
			*at = dropped->next;
			ring->n_tallies--;
			free(dropped);
			return;
		}
}

static struct tally *find_tally(const struct ring *ring, const uint8_t session[SESSION_BYTES])
{
	for (struct tally *tally = ring->tallies; tally; tally = tally->next)
		if (!memcmp(tally->session, session, SESSION_BYTES))
			return tally;
	return NULL;
}

static struct tally *make_tally(struct ring *ring, const struct ticket *ticket)
{
	if (ring->n_tallies >= TALLIES_MAX) {
		struct tally *oldest = NULL;
		for (struct tally *tally = ring->tallies; tally; tally = tally->next)
			if (!tally->open && !tally->kept && !tally->receipt_due && (!oldest || tally->expires < oldest->expires))
				oldest = tally;
		if (!oldest)
			return NULL;
		drop_tally(ring, oldest);
	}
	struct tally *tally = calloc(1, sizeof *tally);
	if (!tally)
		return NULL;
	memcpy(tally->session, ticket->session, SESSION_BYTES);
	memcpy(tally->home, ticket->home, KEY_BYTES);
	memcpy(tally->home_association, ticket->home_association, KEY_BYTES);
	memcpy(tally->model, ticket->model, KEY_BYTES);
	tally->next = ring->tallies;
	ring->tallies = tally;
	ring->n_tallies++;
	return tally;
}

/* --- tickets ---------------------------------------------------------------------------------------- */

static bool same_range(const struct transit *t, const struct ticket *ticket)
{
	return !memcmp(&t->ticket.range, &ticket->range, sizeof ticket->range);
}

/* What it may cost. `old` is the stage's transit of before, or NULL. */
static struct ring_claim claim_of(const struct ring *ring, const struct ticket *ticket, const struct transit *old)
{
	uint32_t held = old && same_range(old, ticket) ? old->reach : 0;
	struct ring_claim claim = {.opens = true, .rows = ticket->context > held ? ticket->context - held : 0};
	for (const struct transit *t = ring->transits; t; t = t->next) {
		uint64_t spent = t->held + t->told;
		if (t != old && t->state != TRANSIT_DEAD && t->state != TRANSIT_KEPT && spent < t->ticket.context &&
		    key_equal(t->ticket.home_association, ticket->home_association))
			claim.reserved += t->ticket.context - spent;
	}
	return claim;
}

/* 0; an error to tell home, with detail; or an error to keep silent about (detail stays empty). */
static int check_ticket(struct ring *ring, const uint8_t from[KEY_BYTES], const struct ticket *t, struct tally *tally, const struct transit *old,
			uint32_t *priority, char *detail, size_t size)
{
	uint64_t now = ring_now(ring);
	if (!key_equal(from, t->home) || !ring_is_self(ring, t->node) || ring_is_self(ring, t->home))
		return ERR_DENIED;
	if (t->expires <= now || t->issued > now + RECORD_FUTURE_S) {
		text_copy(detail, size, "the ticket is not valid now: are both clocks right?");
		return ERR_EXPIRED;
	}
	/* The permit first: who may not ask at all takes no memory here. */
	struct ring_claim claim = claim_of(ring, t, old);
	int err = ring->config.permit(ring->config.arg, t, &claim, priority, detail, size);
	if (err) {
		if (!detail[0])
			text_copy(detail, size, err_str(err));
		return err;
	}
	if (!t->stage || t->stage + 1 >= t->n_stages) {
		text_copy(detail, size, "the first and the last stage are the asking node's own");
		return ERR_UNSUPPORTED;
	}
	if (ring_find_session(ring, t->session) || (tally && !key_equal(tally->home, t->home)))
		return ERR_DENIED;       /* somebody else's session */
	if (tally && t->epoch < tally->epoch)
		return ERR_STALE;
	err = seen_add(&ring->seen, t, now);
	if (err == ERR_REPLAYED)
		return err;
	if (!err && ring->n_transits >= TRANSITS_MAX)
		err = ERR_BUSY;
	if (err)
		text_copy(detail, size, "this node serves too many sessions just now");
	return err;
}

/* Another session of home's, whose stage here computed the same layers: what it holds may be begun with. */
static struct transit *find_source(const struct ring *ring, const struct transit *t)
{
	struct transit *from = t->forks ? transit_find(ring, t->from, t->ticket.stage) : NULL;
	bool fits = from && (from->state == TRANSIT_READY || from->state == TRANSIT_KEPT) && key_equal(from->ticket.home, t->ticket.home) &&
		    key_equal(from->ticket.model, t->ticket.model) && same_range(from, &t->ticket);
	return fits ? from : NULL;
}

/* It has a place in the engine. */
static void start_transit(struct ring *ring, struct transit *t)
{
	const struct ticket *ticket = &t->ticket;
	struct transit *from = find_source(ring, t);
	struct engine_open open = {.epoch = ticket->epoch, .stage = ticket->stage, .range = ticket->range, .context = ticket->context,
				   .forks = from != NULL};
	memcpy(open.session, ticket->session, SESSION_BYTES);
	if (from) {
		memcpy(open.from, t->from, SESSION_BYTES);
		from->used_at = ring_ms(ring);
	}
	/* Unused in the middle of a model, but a whole one: an engine refuses senseless sampling. */
	open.sampling = (struct sampling){.top_p = 1, .repeat_penalty = 1};
	t->state = TRANSIT_OPENING;
	t->deadline = ring_ms(ring) + SETUP_MS;
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err = engine_open_encode(&frame, &open);
	if (!err)
		err = ring_to_engine(ring, ticket->model, &frame);
	buf_release(&frame);
	if (err)
		fail(ring, t, ticket->stage, err, "the engine here takes no session just now");
}

static struct transit *first_in_line(const struct ring *ring, const uint8_t model[KEY_BYTES])
{
	struct transit *first = NULL;
	for (struct transit *t = ring->transits; t; t = t->next)
		if (t->state == TRANSIT_QUEUED && key_equal(t->ticket.model, model) &&
		    (!first || t->priority > first->priority || (t->priority == first->priority && t->arrived < first->arrived)))
			first = t;
	return first;
}

void transit_serve_queue(struct ring *ring)
{
	for (struct transit *t = ring->transits; t; t = t->next)
		while (t->state == TRANSIT_QUEUED) {
			struct transit *first = first_in_line(ring, t->ticket.model);
			if (!kept_make_room(ring, t->ticket.model, first->forks ? first->from : NULL))
				break;
			start_transit(ring, first);
		}
}

/* Has the session a sequence in the engine, at this stage or another: then it needs no other place. */
static bool has_place(const struct ring *ring, const struct ticket *ticket)
{
	for (const struct transit *t = ring->transits; t; t = t->next)
		if (t->state != TRANSIT_QUEUED && t->state != TRANSIT_DEAD && !memcmp(t->ticket.session, ticket->session, SESSION_BYTES))
			return true;
	return false;
}

static int open_transit(struct ring *ring, const struct ticket *ticket, const struct ticket_message *message, uint32_t priority,
			struct tally *tally)
{
	if (!tally)
		tally = make_tally(ring, ticket);
	struct transit *t = tally ? calloc(1, sizeof *t) : NULL;
	if (!t)
		return ERR_BUSY;
	struct transit *old = transit_find(ring, ticket->session, ticket->stage);
	bool starts = has_place(ring, ticket);
	t->ticket = *ticket;
	t->tally = tally;
	t->state = TRANSIT_QUEUED;
	t->deadline = ring_ms(ring) + QUEUE_MS;
	t->priority = priority;
	t->arrived = ring->arrivals++;
	t->forks = message->forks;
	memcpy(t->from, message->from, SESSION_BYTES);
	t->held = t->reach = old && same_range(old, ticket) ? old->reach : 0;
	tally->open++;
	tally->epoch = ticket->epoch;
	if (tally->expires < ticket->expires)
		tally->expires = ticket->expires;
	/* A new epoch takes the place of the old one. For the same layers the engine keeps what it holds: home may want only the
	 * last positions again (another question, NEED_REPLAY, or new tickets for a long answer). */
	if (old)
		close_transit(ring, old, !same_range(old, ticket), ERR_STALE);
	t->next = ring->transits;
	ring->transits = t;
	ring->n_transits++;
	if (starts)
		start_transit(ring, t);          /* the others when the outermost entry leaves */
	return 0;
}

void transit_on_ticket(struct ring *ring, const uint8_t from[KEY_BYTES], const struct frame *frame)
{
	struct ticket_message message;
	struct ticket ticket;
	char detail[200] = "";
	uint32_t priority = 0;
	int err = ticket_message_decode(frame, &message);
	if (!err)
		err = ticket_open(&ticket, message.ticket, message.ticket_length);
	if (err) {
		log_debug("ring: a ticket is refused: %s", err_str(err));
		ring->faults++;
		return;
	}
	struct tally *tally = find_tally(ring, ticket.session);
	const struct transit *old = transit_find(ring, ticket.session, ticket.stage);
	err = check_ticket(ring, from, &ticket, tally, old, &priority, detail, sizeof detail);
	if (!err) {
		err = open_transit(ring, &ticket, &message, priority, tally);
		if (err)
			text_copy(detail, sizeof detail, "this node serves too many sessions just now");
	}
	if (err && detail[0])
		send_fault(ring, &ticket, ticket.stage, err, 0, detail);
	else if (err)
		log_debug("ring: a ticket is dropped: %s", err_str(err));
}

static void say_ready(struct ring *ring, struct transit *t)
{
	struct ready_message ready = {.epoch = t->ticket.epoch, .stage = t->ticket.stage};
	memcpy(ready.session, t->ticket.session, SESSION_BYTES);
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err = ready_encode(&frame, &ready);
	if (!err)
		err = ring_to_node(ring, t->ticket.home, &frame);
	buf_release(&frame);
	if (err)
		close_transit(ring, t, true, err);
	else
		t->state = TRANSIT_READY;
}

void transit_on_own_ready(struct ring *ring, struct transit *t)
{
	if (t->state != TRANSIT_OPENING)
		return;
	if (next_is_up(ring, t)) {
		say_ready(ring, t);
	} else {
		t->state = TRANSIT_WAITING;
		t->deadline = ring_ms(ring) + NEXT_UP_MS;
	}
}

/* --- rows ------------------------------------------------------------------------------------------- */

void transit_on_rows(struct ring *ring, struct transit *t, const uint8_t from[KEY_BYTES], const struct rows_block *block)
{
	const struct ticket *ticket = &t->ticket;
	if (t->state != TRANSIT_READY || block->epoch != ticket->epoch || ticket->epoch < t->tally->epoch ||
	    !key_equal(from, ticket->previous) || block->sequence < t->next_sequence)
		return;
	if (block->sequence > t->next_sequence) {
		fail(ring, t, ticket->stage - 1, ERR_MALFORMED, "a block of rows is missing");
		return;
	}
	bool whole = block->encoding == ENCODING_F32 && block->count && block->rows_length && block->rows_length % (4 * (size_t)block->count) == 0 &&
		     (!t->row_bytes || block->rows_length == t->row_bytes * block->count);
	if (!whole || block->position > ticket->context || block->count > ticket->context - block->position) {
		fail(ring, t, ticket->stage - 1, ERR_MALFORMED, "rows of a wrong size or past the ticket's context");
		return;
	}
	if (t->flight == TRANSIT_FLIGHT_MAX) {
		fail(ring, t, ticket->stage - 1, ERR_LIMIT, "more blocks at once than a session may send");
		return;
	}
	t->next_sequence++;
	t->flight++;
	int err = ring_send_block(ring, NULL, ticket->model, block);
	if (err)
		fail(ring, t, ticket->stage, ERR_ENGINE, "the engine does not take rows");
}

void transit_on_own_rows(struct ring *ring, struct transit *t, const struct rows_block *block)
{
	const struct ticket *ticket = &t->ticket;
	if (t->state != TRANSIT_READY || !t->flight)
		return;
	if (block->encoding != ENCODING_F32 || !block->count || block->rows_length % (4 * (size_t)block->count) != 0) {
		fail(ring, t, ticket->stage, ERR_ENGINE, "the engine answered nonsense");
		return;
	}
	t->flight--;
	t->row_bytes = block->rows_length / block->count;
	t->rows += block->count;
	t->microseconds += block->microseconds;
	t->tally->rows += block->count;
	t->tally->microseconds += block->microseconds;
	t->reach = block->position + block->count;
	ring->rows += block->count;
	if (ring_is_self(ring, ticket->next)) {
		struct transit *next = transit_find(ring, ticket->session, ticket->stage + 1);
		if (next)
			transit_on_rows(ring, next, ring->config.node, block);
	} else if (ring_send_block(ring, ticket->next, ticket->model, block)) {
		fail(ring, t, ticket->stage + 1, ERR_UNREACHABLE, "the way to the next stage is gone");
		return;
	}
	if (t->rows >= USED_ROWS && t->state != TRANSIT_DEAD)
		tell_use(ring, t, false);
}

void transit_on_own_fault(struct ring *ring, struct transit *t, const struct fault_message *fault)
{
	if (fault->code == ERR_NEED_REPLAY && t->state != TRANSIT_KEPT) {
		if (t->flight)
			t->flight--;
		send_fault(ring, &t->ticket, t->ticket.stage, fault->code, fault->position, fault->detail);
		return;
	}
	/* Rows that the engine refuses (infinities, say) are their sender's fault. */
	uint32_t lost = fault->code == ERR_MALFORMED && t->state == TRANSIT_READY ? t->ticket.stage - 1 : t->ticket.stage;
	fail(ring, t, lost, fault->code < 0 ? fault->code : ERR_ENGINE, fault->detail[0] ? fault->detail : "the engine gave up");
}

/* --- ends ------------------------------------------------------------------------------------------- */

void transit_on_close(struct ring *ring, const uint8_t from[KEY_BYTES], const struct close_message *close)
{
	for (struct transit *t = ring->transits; t; t = t->next)
		if (!memcmp(t->ticket.session, close->session, SESSION_BYTES) && key_equal(from, t->ticket.home) && t->ticket.epoch <= close->epoch &&
		    (close->stage == UINT32_MAX || close->stage == t->ticket.stage)) {
			if (close->keep_s && ring->config.keep_s && t->state == TRANSIT_READY)
				keep(ring, t, close->keep_s);
			else
				close_transit(ring, t, true, close->reason);
		}
}

void transit_on_engine_lost(struct ring *ring, const uint8_t model[KEY_BYTES], const char *why)
{
	for (struct transit *t = ring->transits; t; t = t->next) {
		if (t->state == TRANSIT_DEAD || !key_equal(t->ticket.model, model))
			continue;
		if (t->state != TRANSIT_KEPT)
			send_fault(ring, &t->ticket, t->ticket.stage, ERR_ENGINE, 0, "a stage's engine ended");
		close_transit(ring, t, false, ERR_ENGINE);
	}
	log_debug("ring: sessions on a lost engine are ended: %s", why);
}

void transit_on_peer(struct ring *ring, const uint8_t node[KEY_BYTES], bool up)
{
	for (struct transit *t = ring->transits; t; t = t->next) {
		if (t->state == TRANSIT_DEAD)
			continue;
		if (up) {
			if (t->state == TRANSIT_WAITING && key_equal(node, t->ticket.next))
				say_ready(ring, t);
		} else if (key_equal(node, t->ticket.home)) {
			close_transit(ring, t, true, ERR_CANCELLED);
		} else if (key_equal(node, t->ticket.next)) {
			/* Not ready yet: it may come back before the deadline. */
			if (t->state == TRANSIT_READY)
				fail(ring, t, t->ticket.stage + 1, ERR_UNREACHABLE, "the link to the next stage went down");
		} else if (key_equal(node, t->ticket.previous) && t->state == TRANSIT_READY) {
			fail(ring, t, t->ticket.stage - 1, ERR_UNREACHABLE, "the link to the previous stage went down");
		}
	}
}

void transit_recheck(struct ring *ring)
{
	for (struct transit *t = ring->transits; t; t = t->next) {
		char detail[200] = "";
		uint32_t priority;
		const struct ring_claim claim = {.opens = false};
		int err = t->state == TRANSIT_DEAD ? 0 : ring->config.permit(ring->config.arg, &t->ticket, &claim, &priority, detail, sizeof detail);
		if (err)
			fail(ring, t, t->ticket.stage, err, detail[0] ? detail : err_str(err));
	}
}

void transit_tick(struct ring *ring)
{
	uint64_t ms = ring_ms(ring), now = ring_now(ring);
	for (struct transit *t = ring->transits; t; t = t->next) {
		if (t->state == TRANSIT_DEAD)
			continue;
		if (t->ticket.expires <= now)
			fail(ring, t, t->ticket.stage, ERR_EXPIRED, "the ticket expired");
		else if (t->state == TRANSIT_KEPT && ms >= t->deadline)
			close_transit(ring, t, true, 0);
		else if (t->state == TRANSIT_QUEUED && ms >= t->deadline)
			fail(ring, t, t->ticket.stage, ERR_BUSY, "this node computes for as many conversations as it has memory for");
		else if (t->state == TRANSIT_OPENING && ms >= t->deadline)
			fail(ring, t, t->ticket.stage, ERR_ENGINE, "the engine did not open a session in time");
		else if (t->state == TRANSIT_WAITING && next_is_up(ring, t))
			say_ready(ring, t);
		else if (t->state == TRANSIT_WAITING && ms >= t->deadline)
			fail(ring, t, t->ticket.stage + 1, ERR_UNREACHABLE, "there is no link to the next stage");
	}
	for (struct tally *tally = ring->tallies, *next; tally; tally = next) {
		next = tally->next;
		if (!tally->open && !tally->kept && !tally->receipt_due && tally->expires <= now)
			drop_tally(ring, tally);
	}
}

void transit_reap(struct ring *ring, bool all)
{
	if (all) {
		for (struct transit *t = ring->transits; t; t = t->next)
			fail(ring, t, t->ticket.stage, ERR_UNREACHABLE, "the node is going away");
		receipt_issue_due(ring);
	}
	for (struct transit **at = &ring->transits; *at;) {
		struct transit *t = *at;
		if (t->state != TRANSIT_DEAD) {
			at = &t->next;
			continue;
		}
		*at = t->next;
		ring->n_transits--;
		free(t);
	}
	while (all && ring->tallies)
		drop_tally(ring, ring->tallies);
}
