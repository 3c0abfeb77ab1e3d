/* home.c: a question asked here, from its tickets to its last token.
 *
 *   SETUP     tickets and ENGINE_OPENs are out, from the tail to the head; every stage must say READY
 *   RUNNING   blocks of tokens enter stage 0, TOKENS come back from the last stage, in order
 *   WAITING   a stage was lost and nobody has its layers yet (lost.c)
 *   CLOSING   answered; the stages were told; shortly waiting for what they counted
 *   KEPT      on_end was called; what the stages hold may serve another question (kept.c)
 *   ENDED     on_end was called; receipts may still come
 *
 * Home commits a token when it comes out of the last stage, at exactly the position that is next. That, and not any care
 * taken with frames, is why no token is ever delivered twice.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/ring/ring_internal.h"
#include "proto/text.h"

#define TOKENS_FIRST 256

static uint32_t context_of(const struct ring_session *s)
{
	/* No more than this question can need: a stage that promises less than we do may still serve it. */
	uint64_t need = (uint64_t)s->ask.n_prompt + s->ask.max_tokens;
	return need < s->ask.context ? (uint32_t)need : s->ask.context;
}

int home_check_plan(const struct ring *ring, const struct ring_plan *plan)
{
	if (!plan->n_stages || plan->n_stages > RING_STAGES_MAX)
		return ERR_LIMIT;
	uint32_t at = 0;
	for (size_t i = 0; i < plan->n_stages; i++) {
		const struct layer_range *range = &plan->stages[i].range;
		if (range->first != at || range->end <= range->first)
			return -EINVAL;
		at = range->end;
	}
	if (at != plan->n_layer)
		return -EINVAL;
	/* Text exists at home only (DESIGN D6): another node at either end would be gateway mode, which is not this. */
	if (!ring_is_self(ring, plan->stages[0].node) || !ring_is_self(ring, plan->stages[plan->n_stages - 1].node))
		return ERR_DENIED;
	return 0;
}

/* --- asking ----------------------------------------------------------------------------------------- */

static int push_token(struct ring_session *s, int32_t id)
{
	if (s->n_tokens == s->capacity) {
		size_t capacity = s->capacity * 2;
		int32_t *tokens = malloc(capacity * sizeof *tokens);
		if (!tokens)
			return -ENOMEM;
		memcpy(tokens, s->tokens, s->n_tokens * sizeof *tokens);
		sodium_memzero(s->tokens, s->capacity * sizeof *tokens);     /* what was said is not left in freed memory */
		free(s->tokens);
		s->tokens = tokens;
		s->capacity = capacity;
	}
	s->tokens[s->n_tokens++] = id;
	return 0;
}

static struct ring_session *new_session(struct ring *ring)
{
	struct ring_session *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->ring = ring;
	s->began = ring_ms(ring);
	ring->config.random(ring->config.arg, s->id, sizeof s->id);
	s->next = ring->sessions;
	ring->sessions = s;
	return s;
}

/* A question for a session that is new or kept. */
static int take_question(struct ring_session *s, const struct ring_ask *ask)
{
	size_t capacity = ask->n_prompt + TOKENS_FIRST;
	int32_t *tokens = malloc(capacity * sizeof *tokens);
	if (!tokens)
		return -ENOMEM;
	memcpy(tokens, ask->prompt, ask->n_prompt * sizeof *tokens);
	if (s->tokens)
		sodium_memzero(s->tokens, s->capacity * sizeof *s->tokens);
	free(s->tokens);
	s->tokens = tokens;
	s->capacity = capacity;
	s->n_tokens = ask->n_prompt;
	s->ask = *ask;
	s->ask.prompt = NULL;
	s->generated = s->cached = 0;
	s->lost = s->barren = s->replays = 0;
	s->lost_since = 0;
	s->n_failed = 0;
	s->err = 0;
	s->finished = NULL;
	s->detail[0] = 0;
	for (size_t i = 0; i < s->n_nodes; i++) {
		s->nodes[i].rows_before = s->nodes[i].rows;
		s->nodes[i].microseconds_before = s->nodes[i].microseconds;
		s->nodes[i].closes = s->nodes[i].receipts = 0;
	}
	for (size_t i = 0; i < s->ask.plan.n_stages; i++)
		s->stages[i].rows = s->stages[i].microseconds = 0;
	return 0;
}

int ring_ask(struct ring *ring, const struct ring_ask *ask, struct ring_session **out)
{
	if (!ask->n_prompt || !ask->max_tokens || !ask->on_token || !ask->on_end)
		return -EINVAL;
	if (ask->n_prompt >= ask->context)
		return ERR_CONTEXT;
	int err = home_check_plan(ring, &ask->plan);
	if (err)
		return err;
	uint32_t position = 0;
	bool fork = false;
	struct ring_session *from = kept_find(ring, ask, &position, &fork), *s = from && !fork ? from : new_session(ring);
	err = s ? take_question(s, ask) : -ENOMEM;
	if (err) {
		if (s && s != from)
			s->state = SESSION_DEAD;
		return err;
	}
	*out = s;
	s->cached = position;
	s->forks = fork;
	if (fork)
		memcpy(s->from, from->id, SESSION_BYTES);
	/* No ring_leave(): trouble found here waits for the next entry, so that on_end never comes from inside ring_ask(). */
	ring->depth++;
	if (s == from)
		home_set_up_again(s, position);
	else
		home_set_up(s);
	ring->depth--;
	return 0;
}

/* The asker will hear nothing more. */
static void leave_asker(struct ring_session *s)
{
	s->ring->cached += s->cached;
	s->n_flight = 0;
	s->ask.sampling = (struct sampling){0};      /* what it points to is the asker's */
	s->state = s->n_nodes ? SESSION_ENDED : SESSION_DEAD;
	s->deadline = ring_ms(s->ring) + LINGER_MS;
	if (s->keeps)
		kept_keep(s);
}

void ring_cancel(struct ring_session *s)
{
	struct ring *ring = s->ring;
	if (s->state > SESSION_CLOSING)
		return;
	ring_enter(ring);
	if (s->state != SESSION_CLOSING && kept_may_keep(s)) {
		/* Who stops an answer often goes on from there. */
		s->sent = kept_computed(s);
		home_keep_stages(s);
		s->keeps = true;
	} else if (s->state != SESSION_CLOSING) {
		home_close_stages(s, ERR_CANCELLED);
		s->keeps = false;
	}
	leave_asker(s);
	ring_leave(ring);
}

void home_free(struct ring_session *s)
{
	for (size_t i = 0; i < s->n_nodes; i++)
		buf_release(&s->nodes[i].receipt);
	if (s->tokens)
		sodium_memzero(s->tokens, s->capacity * sizeof *s->tokens);
	free(s->tokens);
	free(s);
}

const uint8_t *ring_session_id(const struct ring_session *s)
{
	return s->id;
}

size_t ring_session_use(const struct ring_session *s, struct ring_use *out, size_t max)
{
	size_t n = s->ask.plan.n_stages < max ? s->ask.plan.n_stages : max;
	for (size_t i = 0; i < n; i++) {
		const struct home_stage *stage = &s->stages[i];
		out[i] = (struct ring_use){.rows = stage->rows, .microseconds = stage->microseconds};
		memcpy(out[i].session, s->id, SESSION_BYTES);
		memcpy(out[i].home, s->ring->config.node, KEY_BYTES);
		memcpy(out[i].home_association, s->ring->config.association, KEY_BYTES);
		memcpy(out[i].model, s->ask.plan.model, KEY_BYTES);
		memcpy(out[i].node, s->ask.plan.stages[i].node, KEY_BYTES);
		/* A node's receipt is one figure for all its stages and epochs: shared out by rows. */
		const struct home_node *node = stage->node;
		if (node && node->rows > node->rows_before)
			out[i].microseconds = (uint64_t)((double)(node->microseconds - node->microseconds_before) * (double)stage->rows /
							 (double)(node->rows - node->rows_before));
	}
	return n;
}

uint32_t ring_session_cached(const struct ring_session *s)
{
	return s->cached;
}

/* --- set-up ----------------------------------------------------------------------------------------- */

static int open_own(struct ring_session *s, size_t i)
{
	struct engine_open open = {
		.epoch = s->epoch, .stage = (uint32_t)i, .range = s->ask.plan.stages[i].range, .context = context_of(s), .prompt = (uint32_t)s->ask.n_prompt,
		.sampling = s->ask.sampling, .forks = s->forks,
	};
	memcpy(open.session, s->id, SESSION_BYTES);
	memcpy(open.from, s->from, SESSION_BYTES);
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err = engine_open_encode(&frame, &open);
	if (err)
		buf_release(&frame);
	return err ? err : ring_to_engine(s->ring, s->ask.plan.model, &frame);
}

static int send_ticket(struct ring_session *s, size_t i)
{
	struct ring *ring = s->ring;
	const struct ring_plan *plan = &s->ask.plan;
	struct ticket ticket = {
		.epoch = s->epoch, .stage = (uint32_t)i, .n_stages = (uint32_t)plan->n_stages, .range = plan->stages[i].range,
		.context = context_of(s), .issued = ring_now(ring),
	};
	ticket.expires = ticket.issued + TICKET_LIFE_S;
	memcpy(ticket.session, s->id, SESSION_BYTES);
	memcpy(ticket.home, ring->config.node, KEY_BYTES);
	memcpy(ticket.home_association, ring->config.association, KEY_BYTES);
	memcpy(ticket.model, plan->model, KEY_BYTES);
	memcpy(ticket.node, plan->stages[i].node, KEY_BYTES);
	memcpy(ticket.previous, plan->stages[i - 1].node, KEY_BYTES);    /* home is at both ends: 0 < i < n - 1 */
	memcpy(ticket.next, plan->stages[i + 1].node, KEY_BYTES);

	struct buf bytes, frame;
	buf_init(&bytes, TICKET_MAX);
	buf_init(&frame, FRAME_MAX);
	int err = ticket_sign(&bytes, &ticket, ring->config.node_secret);
	struct ticket_message message = {.ticket = bytes.data, .ticket_length = bytes.length, .forks = s->forks};
	memcpy(message.from, s->from, SESSION_BYTES);
	if (!err)
		err = ticket_message_encode(&frame, &message);
	buf_release(&bytes);
	if (err)
		buf_release(&frame);
	else
		err = ring_to_node(ring, plan->stages[i].node, &frame);
	return err;
}

static void open_stages(struct ring_session *s)
{
	const struct ring_plan *plan = &s->ask.plan;
	s->state = SESSION_SETUP;
	s->deadline = ring_ms(s->ring) + SETUP_MS;
	s->renew_at = ring_now(s->ring) + TICKET_LIFE_S - RENEW_S;
	s->n_flight = 0;
	s->sequence = 0;
	for (size_t i = plan->n_stages; i-- > 0;) {
		int err = s->stages[i].self ? open_own(s, i) : send_ticket(s, i);
		if (err && s->stages[i].self)
			home_trouble_ends(s, err, "this node's engine takes no session just now (%s)", err_str(err));
		else if (err)
			home_trouble(s, i, err, "a stage could not be asked: %s", err_str(err));
		if (err)
			return;
		s->stages[i].asked = true;
	}
}

void home_set_up(struct ring_session *s)
{
	const struct ring_plan *plan = &s->ask.plan;
	memset(s->stages, 0, sizeof s->stages);
	for (size_t i = 0; i < plan->n_stages; i++) {
		s->stages[i].self = ring_is_self(s->ring, plan->stages[i].node);
		if (!s->stages[i].self)
			s->stages[i].node = home_node(s, plan->stages[i].node, true);
	}
	s->sent = s->cached;
	if (kept_make_room(s->ring, plan->model, s->forks ? s->from : NULL)) {
		open_stages(s);
	} else {
		s->state = SESSION_SETUP;
		home_trouble_ends(s, ERR_BUSY, "this node answers as many questions at once as it has memory for ([share] sessions): try again shortly");
	}
}

/* A new epoch, because blocks of the old one may still be under way and every stage counts them strictly. No CLOSE: an
 * engine that opens a session it has, with a higher epoch, keeps the positions it holds. */
void home_set_up_again(struct ring_session *s, size_t position)
{
	for (size_t i = 0; i < s->ask.plan.n_stages; i++) {
		s->stages[i].ready = false;
		s->stages[i].next_sequence = 0;
	}
	s->epoch++;
	s->sent = position;
	s->forks = false;
	if (s->cached > position)
		s->cached = (uint32_t)position;
	open_stages(s);
}

void home_close_stages(struct ring_session *s, int reason)
{
	const struct ring_plan *plan = &s->ask.plan;
	struct close_message close = {.epoch = s->epoch, .stage = UINT32_MAX, .reason = reason};
	memcpy(close.session, s->id, SESSION_BYTES);
	for (size_t i = 0; i < plan->n_stages; i++) {
		struct home_stage *stage = &s->stages[i];
		if (!stage->asked)
			continue;
		for (size_t j = i; j < plan->n_stages; j++)     /* one CLOSE a node */
			if (key_equal(plan->stages[i].node, plan->stages[j].node))
				s->stages[j].asked = false;
		int err = ring_send_close(s->ring, stage->self ? NULL : plan->stages[i].node, plan->model, &close);
		if (!err && stage->node && stage->rows && s->state != SESSION_KEPT)      /* a kept one has settled */
			stage->node->closes++;
	}
}

void home_keep_stages(struct ring_session *s)
{
	const struct ring_plan *plan = &s->ask.plan;
	struct close_message close = {.epoch = s->epoch, .stage = UINT32_MAX, .keep_s = s->ring->config.keep_s};
	memcpy(close.session, s->id, SESSION_BYTES);
	for (size_t i = 0; i < plan->n_stages; i++) {
		bool told = s->stages[i].self;
		for (size_t j = 0; j < i && !told; j++)
			told = key_equal(plan->stages[i].node, plan->stages[j].node);
		if (!told && !ring_send_close(s->ring, plan->stages[i].node, plan->model, &close) && s->stages[i].rows)
			s->stages[i].node->closes++;
	}
}

void home_on_ready(struct ring_session *s, const uint8_t *from, const struct ready_message *ready)
{
	const struct ring_plan *plan = &s->ask.plan;
	if (s->state != SESSION_SETUP || s->trouble || ready->epoch != s->epoch || ready->stage >= plan->n_stages)
		return;
	struct home_stage *stage = &s->stages[ready->stage];
	if (!stage->asked || stage->self != !from || (from && !key_equal(from, plan->stages[ready->stage].node)))
		return;
	stage->ready = true;
	for (size_t i = 0; i < plan->n_stages; i++)
		if (!s->stages[i].ready)
			return;
	s->state = SESSION_RUNNING;
	home_pump(s);
}

/* --- blocks out ------------------------------------------------------------------------------------- */

static void await_answer(struct ring_session *s)
{
	uint64_t rows = 0;
	for (size_t i = 0; i < s->n_flight; i++)
		rows += s->flight[i].count;
	s->deadline = ring_ms(s->ring) + SILENCE_MS + (rows ? rows - 1 : 0) * SILENCE_ROW_MS;
}

/* Sends what may be sent. Chunks end where position is a multiple of CHUNK_ROWS, whatever the load and however often
 * they are sent again, because results follow a chunk's shape (DESIGN D2). */
void home_pump(struct ring_session *s)
{
	uint8_t rows[CHUNK_ROWS * 4];
	while (s->state == SESSION_RUNNING && !s->trouble && s->n_flight < FLIGHT_MAX && s->sent < s->n_tokens) {
		size_t count = CHUNK_ROWS - s->sent % CHUNK_ROWS;
		if (count > s->n_tokens - s->sent)
			count = s->n_tokens - s->sent;
		for (size_t i = 0; i < count; i++)
			put_u32(rows + 4 * i, (uint32_t)s->tokens[s->sent + i]);
		struct rows_block block = {
			.epoch = s->epoch, .stage = 0, .sequence = s->sequence, .position = (uint32_t)s->sent, .count = (uint32_t)count,
			.want = s->sent + count == s->n_tokens, .encoding = ENCODING_TOKEN, .rows = rows, .rows_length = 4 * count,
		};
		memcpy(block.session, s->id, SESSION_BYTES);
		int err = ring_send_block(s->ring, NULL, s->ask.plan.model, &block);
		sodium_memzero(rows, sizeof rows);
		if (err) {
			home_trouble_ends(s, err, "this node's engine does not take rows (%s)", err_str(err));
			return;
		}
		for (size_t i = 0; i < s->ask.plan.n_stages; i++)
			if (s->stages[i].node) {
				s->stages[i].node->asked += count;
				s->stages[i].rows += count;
			}
		s->flight[s->n_flight++] = (struct flight){block.sequence, block.position, block.count, block.want};
		s->sequence++;
		s->sent += count;
		await_answer(s);
	}
}

/* --- rows on their way ------------------------------------------------------------------------------ */

static bool are_rows(const struct ring_session *s, const struct rows_block *block)
{
	return block->encoding == ENCODING_F32 && block->count && block->rows_length && block->rows_length % (4 * (size_t)block->count) == 0 &&
	       (!s->row_bytes || block->rows_length == s->row_bytes * block->count);
}

void home_on_own_rows(struct ring_session *s, const struct rows_block *block)
{
	const struct ring_plan *plan = &s->ask.plan;
	uint32_t to = block->stage;
	if (s->state != SESSION_RUNNING || s->trouble || block->epoch != s->epoch || !to || to >= plan->n_stages || !s->stages[to - 1].self)
		return;
	if (!are_rows(s, block)) {
		home_trouble_ends(s, ERR_ENGINE, "this node's engine answered nonsense");
		return;
	}
	s->row_bytes = block->rows_length / block->count;
	s->stages[to - 1].rows += block->count;
	s->stages[to - 1].microseconds += block->microseconds;
	s->ring->rows += block->count;
	const uint8_t *node = s->stages[to].self ? NULL : plan->stages[to].node;
	int err = ring_send_block(s->ring, node, plan->model, block);
	if (err && node)
		home_trouble(s, to, err, "rows could not be sent on: %s", err_str(err));
	else if (err)
		home_trouble_ends(s, err, "this node's engine does not take rows (%s)", err_str(err));
}

void home_on_rows(struct ring_session *s, const uint8_t from[KEY_BYTES], const struct rows_block *block)
{
	const struct ring_plan *plan = &s->ask.plan;
	uint32_t at = block->stage;
	if (s->state != SESSION_RUNNING || s->trouble || block->epoch != s->epoch || !at || at >= plan->n_stages || !s->stages[at].self ||
	    s->stages[at - 1].self || !key_equal(from, plan->stages[at - 1].node))
		return;
	struct home_stage *stage = &s->stages[at];
	if (block->sequence < stage->next_sequence)
		return;                  /* a duplicate */
	bool asked = false;
	for (size_t i = 0; i < s->n_flight && block->sequence == stage->next_sequence; i++) {
		const struct flight *f = &s->flight[i];
		asked |= f->sequence == block->sequence && f->position == block->position && f->count == block->count && f->want == block->want;
	}
	if (!asked || !are_rows(s, block)) {
		home_trouble(s, at - 1, ERR_MALFORMED, "a stage sent rows that nobody asked for");
		return;
	}
	stage->next_sequence++;
	int err = ring_send_block(s->ring, NULL, plan->model, block);
	if (err)
		home_trouble_ends(s, err, "this node's engine does not take rows (%s)", err_str(err));
}

/* --- tokens in -------------------------------------------------------------------------------------- */

/* Commits one token; false when the answer ends with it. */
static bool commit(struct ring_session *s, const struct token *token)
{
	if (token->end && !s->ask.sampling.ignore_end) {
		home_finish(s, 0, "stop", "");
		return false;
	}
	int err = push_token(s, token->id);
	if (err) {
		home_trouble_ends(s, err, "no memory for the answer");
		return false;
	}
	s->generated++;
	s->lost = s->barren = 0;
	s->lost_since = 0;
	s->ring->tokens++;
	bool more = s->ask.on_token(s->ask.arg, token);
	if (s->state != SESSION_RUNNING)
		return false;            /* cancelled from inside */
	if (!more)
		home_finish(s, 0, "stop", "");
	else if (s->generated == s->ask.max_tokens || s->n_tokens >= s->ask.context)
		home_finish(s, 0, "length", "");
	return s->state == SESSION_RUNNING;
}

void home_on_own_tokens(struct ring_session *s, const struct tokens_message *m)
{
	size_t last = s->ask.plan.n_stages - 1;
	if (s->state != SESSION_RUNNING || s->trouble || m->epoch != s->epoch)
		return;
	struct flight f = s->flight[0];
	if (!s->n_flight || m->sequence != f.sequence || m->n_tokens != f.want || (f.want && m->position != f.position + f.count - f.want + 1)) {
		home_trouble_ends(s, ERR_ENGINE, "this node's engine answered nonsense");
		return;
	}
	memmove(&s->flight[0], &s->flight[1], --s->n_flight * sizeof s->flight[0]);
	s->stages[last].rows += f.count;
	s->stages[last].microseconds += m->microseconds;
	s->ring->rows += f.count;
	await_answer(s);
	for (size_t i = 0; i < m->n_tokens; i++)
		if (m->position + i == s->n_tokens && !commit(s, &m->tokens[i]))
			return;
	home_pump(s);
}

/* --- the end ---------------------------------------------------------------------------------------- */

static void end(struct ring_session *s)
{
	leave_asker(s);
	s->ask.on_end(s->ask.arg, s->err, s->finished, s->detail);
}

void home_finish(struct ring_session *s, int err, const char *finished, const char *detail)
{
	s->err = err;
	s->finished = finished;
	text_copy(s->detail, sizeof s->detail, detail);
	s->keeps = !err && kept_may_keep(s);
	if (s->keeps) {
		s->sent = kept_computed(s);
		home_keep_stages(s);
	} else {
		home_close_stages(s, err);
	}
	s->state = SESSION_CLOSING;
	s->deadline = ring_ms(s->ring) + RECEIPT_WAIT_MS;
	if (err || receipts_are_in(s))
		end(s);
}

void home_end_if_counted(struct ring_session *s)
{
	if (s->state == SESSION_CLOSING && receipts_are_in(s))
		end(s);
}

void home_tick(struct ring_session *s)
{
	const struct ring_plan *plan = &s->ask.plan;
	uint64_t ms = ring_ms(s->ring);
	switch (s->state) {
	case SESSION_SETUP:
		if (ms < s->deadline || s->trouble)
			break;
		for (size_t i = 0; i < plan->n_stages; i++)
			if (!s->stages[i].ready && s->stages[i].self)
				home_trouble_ends(s, ERR_ENGINE, "this node's engine did not open a session within %d s", SETUP_MS / 1000);
			else if (!s->stages[i].ready)
				home_trouble(s, i, ERR_UNREACHABLE, "a stage was not ready within %d s", SETUP_MS / 1000);
		break;
	case SESSION_RUNNING:
		if (s->trouble)
			break;
		if (s->n_flight && ms >= s->deadline) {
			/* Nobody knows yet who is silent: the next set-up will show it. */
			home_trouble(s, SIZE_MAX, ERR_UNREACHABLE, "the ring was silent for %d s or more", SILENCE_MS / 1000);
		} else if (ring_now(s->ring) >= s->renew_at) {
			home_set_up_again(s, s->n_flight ? s->flight[0].position : s->sent);
		}
		break;
	case SESSION_WAITING:
		if (ms >= s->deadline)
			home_try_again(s);
		break;
	case SESSION_CLOSING:
		if (ms >= s->deadline)
			end(s);
		break;
	case SESSION_KEPT:
		kept_tick(s);
		break;
	case SESSION_ENDED:
		if (ms >= s->deadline || receipts_are_final(s)) {
			receipts_keep(s);
			s->state = SESSION_DEAD;
		}
		break;
	case SESSION_DEAD:
		break;
	}
}
