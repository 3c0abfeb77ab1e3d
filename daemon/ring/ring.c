/* ring.c: tables, dispatch, time, and what is sent.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/ring/ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/ring/ring_internal.h"
#include "proto/log.h"

bool key_equal(const uint8_t a[KEY_BYTES], const uint8_t b[KEY_BYTES])
{
	return !memcmp(a, b, KEY_BYTES);
}

bool ring_is_self(const struct ring *ring, const uint8_t node[KEY_BYTES])
{
	return key_equal(ring->config.node, node);
}

int ring_new(struct ring **out, const struct ring_config *config)
{
	struct ring *ring = calloc(1, sizeof *ring);
	if (!ring)
		return -ENOMEM;
	ring->config = *config;
	seen_init(&ring->seen);
	*out = ring;
	return 0;
}

void ring_free(struct ring *ring)
{
	if (!ring)
		return;
	ring->depth++;
	for (struct ring_session *s = ring->sessions; s; s = s->next) {
		if (s->state == SESSION_SETUP || s->state == SESSION_RUNNING || s->state == SESSION_KEPT)
			home_close_stages(s, ERR_CANCELLED);
		receipts_keep(s);
	}
	transit_reap(ring, true);
	while (ring->sessions) {
		struct ring_session *s = ring->sessions;
		ring->sessions = s->next;
		home_free(s);
	}
	while (ring->outbox) {
		struct outgoing *o = ring->outbox;
		ring->outbox = o->next;
		buf_release(&o->frame);
		free(o);
	}
	seen_release(&ring->seen);
	free(ring);
}

/* --- entries ---------------------------------------------------------------------------------------- */

void ring_enter(struct ring *ring)
{
	ring->depth++;
}

static void reap_sessions(struct ring *ring)
{
	for (struct ring_session **at = &ring->sessions; *at;) {
		struct ring_session *s = *at;
		if (s->state != SESSION_DEAD) {
			at = &s->next;
			continue;
		}
		*at = s->next;
		home_free(s);
	}
}

void ring_leave(struct ring *ring)
{
	if (ring->depth > 1) {
		ring->depth--;
		return;
	}
	for (bool again = true; again;) {
		again = ring->recheck_due;
		if (ring->recheck_due) {
			ring->recheck_due = false;
			transit_recheck(ring);
		}
		transit_serve_queue(ring);
		for (struct ring_session *s = ring->sessions; s; s = s->next) {
			if (!s->trouble || (s->state != SESSION_SETUP && s->state != SESSION_RUNNING))
				continue;
			home_settle(s);
			again = true;
		}
		again |= ring->recheck_due;
	}
	receipt_issue_due(ring);
	transit_reap(ring, false);
	reap_sessions(ring);
	ring->depth--;
}

struct ring_session *ring_find_session(const struct ring *ring, const uint8_t id[SESSION_BYTES])
{
	for (struct ring_session *s = ring->sessions; s; s = s->next)
		if (s->state <= SESSION_CLOSING && !memcmp(s->id, id, SESSION_BYTES))
			return s;
	return NULL;
}

/* --- sending ---------------------------------------------------------------------------------------- */

/* Frames to one node keep their order: once one waits, all later ones wait behind it. */
static bool waits(const struct ring *ring, const uint8_t node[KEY_BYTES])
{
	for (const struct outgoing *o = ring->outbox; o; o = o->next)
		if (key_equal(o->node, node))
			return true;
	return false;
}

static int put_aside(struct ring *ring, const uint8_t node[KEY_BYTES], struct buf *frame)
{
	if (frame->length > OUTBOX_MAX - ring->outbox_bytes)
		return ERR_BUSY;
	struct outgoing *o = calloc(1, sizeof *o);
	if (!o)
		return -ENOMEM;
	memcpy(o->node, node, KEY_BYTES);
	ring->outbox_bytes += frame->length;
	buf_move(&o->frame, frame);
	struct outgoing **at = &ring->outbox;
	while (*at)
		at = &(*at)->next;
	*at = o;
	return 0;
}

int ring_to_node(struct ring *ring, const uint8_t node[KEY_BYTES], struct buf *frame)
{
	int err = -EAGAIN;
	if (!waits(ring, node))
		err = ring->config.send(ring->config.arg, node, frame);
	if (err == -EAGAIN && frame->length)
		err = put_aside(ring, node, frame);
	buf_release(frame);
	return err;
}

int ring_to_engine(struct ring *ring, const uint8_t model[KEY_BYTES], struct buf *frame)
{
	int err = ring->config.engine(ring->config.arg, model, frame);
	buf_release(frame);
	return err;
}

/* Sends what waits, as far as the links take it; drops what waits for `gone`. */
static void flush_outbox(struct ring *ring, const uint8_t *gone)
{
	const uint8_t (*full)[KEY_BYTES] = NULL;
	for (struct outgoing **at = &ring->outbox; *at;) {
		struct outgoing *o = *at;
		size_t size = o->frame.length;
		int err = 0;
		if (!gone && full && key_equal(*full, o->node))
			err = -EAGAIN;
		else if (!gone)
			err = ring->config.send(ring->config.arg, o->node, &o->frame);
		if (err == -EAGAIN || (gone && !key_equal(gone, o->node))) {
			if (!gone)
				full = (const uint8_t (*)[KEY_BYTES])&o->node;
			at = &o->next;
			continue;
		}
		*at = o->next;
		ring->outbox_bytes -= size;
		buf_release(&o->frame);
		free(o);
	}
}

static int try_close(struct ring *ring, const uint8_t *node, const uint8_t model[KEY_BYTES], const struct close_message *close)
{
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err = close_encode(&frame, close);
	if (err)
		buf_release(&frame);
	else
		err = node ? ring_to_node(ring, node, &frame) : ring_to_engine(ring, model, &frame);
	return err;
}

/* No memory just now, or a queue that is full: a session that nobody closes would keep its place. */
static bool comes_again(int err)
{
	return err == -ENOMEM || err == ERR_BUSY;
}

int ring_send_close(struct ring *ring, const uint8_t *node, const uint8_t model[KEY_BYTES], const struct close_message *close)
{
	int err = try_close(ring, node, model, close);
	if (comes_again(err) && ring->n_late == LATE_MAX) {
		log_warning("ring: out of memory: a session could not be closed and keeps its place");
	} else if (comes_again(err)) {
		struct late_close *late = &ring->late[ring->n_late++];
		*late = (struct late_close){.far = node != NULL, .close = *close};
		memcpy(late->model, model, KEY_BYTES);
		if (node)
			memcpy(late->node, node, KEY_BYTES);
	}
	return err;
}

static void send_late(struct ring *ring)
{
	for (size_t i = ring->n_late; i-- > 0;) {
		struct late_close *late = &ring->late[i];
		if (!comes_again(try_close(ring, late->far ? late->node : NULL, late->model, &late->close)))
			*late = ring->late[--ring->n_late];
	}
}

int ring_send_block(struct ring *ring, const uint8_t *node, const uint8_t model[KEY_BYTES], const struct rows_block *block)
{
	struct rows_message m;
	struct buf frame;
	m.n_blocks = 1;
	m.blocks[0] = *block;
	m.blocks[0].microseconds = 0;    /* nobody's business on a link */
	buf_init(&frame, FRAME_MAX);
	int err = buf_reserve(&frame, FRAME_HEADER + 256 + block->rows_length) ? rows_encode(&frame, &m) : -ENOMEM;
	if (err)
		buf_release(&frame);
	else
		err = node ? ring_to_node(ring, node, &frame) : ring_to_engine(ring, model, &frame);
	return err;
}

/* --- frames from neighbours ------------------------------------------------------------------------- */

static void on_rows(struct ring *ring, const uint8_t from[KEY_BYTES], const struct rows_message *m)
{
	for (size_t i = 0; i < m->n_blocks; i++) {
		const struct rows_block *block = &m->blocks[i];
		struct ring_session *s = ring_find_session(ring, block->session);
		struct transit *t = s ? NULL : transit_find(ring, block->session, block->stage);
		if (s)
			home_on_rows(s, from, block);
		else if (t)
			transit_on_rows(ring, t, from, block);
	}
}

int ring_on_frame(struct ring *ring, const uint8_t from[KEY_BYTES], const struct frame *frame)
{
	struct ring_session *s;
	struct rows_message rows;
	struct ready_message ready;
	struct fault_message fault;
	struct close_message close;
	int err = 0;

	ring_enter(ring);
	switch (frame->type) {
	case FRAME_ROWS:
		err = rows_decode(frame, &rows);
		if (!err)
			on_rows(ring, from, &rows);
		break;
	case FRAME_TICKET:
		transit_on_ticket(ring, from, frame);
		break;
	case FRAME_READY:
		err = ready_decode(frame, &ready);
		s = err ? NULL : ring_find_session(ring, ready.session);
		if (s)
			home_on_ready(s, from, &ready);
		break;
	case FRAME_FAULT:
		err = fault_decode(frame, &fault);
		s = err ? NULL : ring_find_session(ring, fault.session);
		if (s)
			home_on_fault(s, from, &fault);
		break;
	case FRAME_CLOSE:
		err = close_decode(frame, &close);
		if (!err)
			transit_on_close(ring, from, &close);
		break;
	case FRAME_RECEIPT:
		receipt_on_frame(ring, from, frame);
		break;
	default:
		err = ERR_UNSUPPORTED;
	}
	if (err)
		log_debug("ring: a frame of type %d from a neighbour is dropped: %s", frame->type, err_str(err));
	ring_leave(ring);
	return err == -ENOMEM ? err : 0;
}

/* --- frames from the own engine --------------------------------------------------------------------- */

/* An engine answers for its own model only: one that went mad must not reach into another's sessions. */
static struct ring_session *own_session(const struct ring *ring, const uint8_t model[KEY_BYTES], const uint8_t id[SESSION_BYTES])
{
	struct ring_session *s = ring_find_session(ring, id);
	return s && key_equal(s->ask.plan.model, model) ? s : NULL;
}

static struct transit *own_transit(const struct ring *ring, const uint8_t model[KEY_BYTES], const uint8_t id[SESSION_BYTES],
				   uint32_t stage, uint32_t epoch)
{
	struct transit *t = transit_find(ring, id, stage);
	return t && t->ticket.epoch == epoch && key_equal(t->ticket.model, model) ? t : NULL;
}

static void on_own_rows(struct ring *ring, const uint8_t model[KEY_BYTES], const struct rows_message *m)
{
	for (size_t i = 0; i < m->n_blocks; i++) {
		const struct rows_block *block = &m->blocks[i];
		struct ring_session *s = own_session(ring, model, block->session);
		struct transit *t = s ? NULL : own_transit(ring, model, block->session, block->stage - 1, block->epoch);
		if (s)
			home_on_own_rows(s, block);
		else if (t)
			transit_on_own_rows(ring, t, block);
	}
}

void ring_on_engine(struct ring *ring, const uint8_t model[KEY_BYTES], const struct frame *frame)
{
	struct ring_session *s;
	struct transit *t;
	struct rows_message rows;
	struct tokens_message tokens;
	struct ready_message ready;
	struct fault_message fault;
	int err = 0;

	ring_enter(ring);
	switch (frame->type) {
	case FRAME_ROWS:
		err = rows_decode(frame, &rows);
		if (!err)
			on_own_rows(ring, model, &rows);
		break;
	case FRAME_TOKENS:
		err = tokens_decode(frame, &tokens);
		s = err ? NULL : own_session(ring, model, tokens.session);
		if (s)
			home_on_own_tokens(s, &tokens);
		break;
	case FRAME_READY:
		err = ready_decode(frame, &ready);
		if (err)
			break;
		s = own_session(ring, model, ready.session);
		t = s ? NULL : own_transit(ring, model, ready.session, ready.stage, ready.epoch);
		if (s)
			home_on_ready(s, NULL, &ready);
		else if (t)
			transit_on_own_ready(ring, t);
		break;
	case FRAME_FAULT:
		err = fault_decode(frame, &fault);
		if (err)
			break;
		s = own_session(ring, model, fault.session);
		t = s ? NULL : own_transit(ring, model, fault.session, fault.stage, fault.epoch);
		if (s)
			home_on_fault(s, NULL, &fault);
		else if (t)
			transit_on_own_fault(ring, t, &fault);
		else
			kept_on_own_fault(ring, model, &fault);
		break;
	default:
		err = ERR_UNSUPPORTED;
	}
	if (err)
		log_warning("ring: a frame of type %d from an engine is dropped: %s", frame->type, err_str(err));
	ring_leave(ring);
}

void ring_on_engine_lost(struct ring *ring, const uint8_t model[KEY_BYTES], const char *why)
{
	ring_enter(ring);
	for (struct ring_session *s = ring->sessions; s; s = s->next) {
		if (!key_equal(s->ask.plan.model, model))
			continue;
		for (size_t i = 0; i < s->ask.plan.n_stages; i++)
			if (s->stages[i].self) {
				home_trouble_ends(s, ERR_ENGINE, "this node's engine ended: %.160s", why);
				break;
			}
	}
	kept_on_engine_lost(ring, model);
	transit_on_engine_lost(ring, model, why);
	ring_leave(ring);
}

/* --- neighbours, trust, time ------------------------------------------------------------------------ */

void ring_on_peer(struct ring *ring, const uint8_t node[KEY_BYTES], bool up)
{
	ring_enter(ring);
	flush_outbox(ring, up ? NULL : node);
	if (!up) {
		for (struct ring_session *s = ring->sessions; s; s = s->next)
			home_on_peer_down(s, node);
		kept_on_peer_down(ring, node);
	}
	transit_on_peer(ring, node, up);
	ring_leave(ring);
}

void ring_recheck(struct ring *ring)
{
	ring_enter(ring);
	ring->recheck_due = true;        /* done on leaving: used() may have brought us here */
	ring_leave(ring);
}

void ring_tick(struct ring *ring)
{
	ring_enter(ring);
	if (ring->outbox)
		flush_outbox(ring, NULL);
	send_late(ring);
	for (struct ring_session *s = ring->sessions; s; s = s->next)
		home_tick(s);
	transit_tick(ring);
	ring_leave(ring);
}

struct ring_counts ring_counts(const struct ring *ring)
{
	struct ring_counts counts = {.rows = ring->rows, .tokens = ring->tokens, .faults = ring->faults, .cached = ring->cached};
	for (const struct ring_session *s = ring->sessions; s; s = s->next) {
		counts.home += s->state <= SESSION_CLOSING;
		counts.kept += s->state == SESSION_KEPT;
	}
	for (const struct transit *t = ring->transits; t; t = t->next) {
		counts.serving += t->state != TRANSIT_DEAD && t->state != TRANSIT_KEPT;
		counts.waiting += t->state == TRANSIT_QUEUED;
		counts.kept += t->state == TRANSIT_KEPT;
	}
	return counts;
}
