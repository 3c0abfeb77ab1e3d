/* ring_world.c: see ring_world.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "tests/unit/ring_world.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EPOCH_S 1800000000u
#define N_EMBD 4

struct engine_session {
	struct engine_session *next;
	uint8_t id[SESSION_BYTES];
	uint32_t stage, epoch, context;
	struct layer_range range;
	struct sampling sampling;
	uint64_t next_sequence;
	uint32_t have;
	bool faulted;
	uint64_t sums[WORLD_LAYERS][WORLD_CONTEXT + 1];      /* of all rows before a position, a layer */
};

enum event_kind { TO_NODE, TO_ENGINE, FROM_ENGINE };
struct event {
	struct event *next;
	uint64_t at, order;
	enum event_kind kind;
	size_t from, to;
	struct buf bytes;
};

/* --- numbers ---------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)              /* splitmix64's finisher (Steele, Lea, Flood 2014) */
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

uint64_t world_random(struct world *w)
{
	w->random += UINT64_C(0x9e3779b97f4a7c15);
	return mix(w->random);
}

uint64_t world_below(struct world *w, uint64_t n)
{
	return world_random(w) % n;
}

static uint64_t embed(int32_t token)
{
	return mix((uint64_t)(uint32_t)token + 1);
}

static uint64_t layer(uint32_t l, uint64_t row, uint64_t *sums, uint32_t position)
{
	sums[position + 1] = mix(sums[position] ^ mix(row + l));
	return mix(row ^ mix(sums[position + 1] + l));
}

static int32_t sample(uint64_t row, uint64_t seed, uint32_t position)
{
	return (int32_t)(mix(row ^ mix(seed + position)) % 200);
}

static void put_row(uint8_t *at, uint64_t row)
{
	for (size_t i = 0; i < N_EMBD; i++) {
		float value = (float)(row >> 16 * i & 0xffff);
		memcpy(at + 4 * i, &value, 4);
	}
}

static uint64_t get_row(const uint8_t *at)
{
	uint64_t row = 0;
	for (size_t i = 0; i < N_EMBD; i++) {
		float value;
		memcpy(&value, at + 4 * i, 4);
		row |= (uint64_t)value << 16 * i;
	}
	return row;
}

uint64_t lasting_seed(const int32_t *prompt, size_t n_prompt, uint32_t max_tokens)
{
	int32_t tokens[WORLD_CONTEXT];
	const char *finished;
	for (uint64_t seed = 0;; seed++)
		if (whole_answer(prompt, n_prompt, max_tokens, seed, tokens, &finished) == max_tokens)
			return seed;
}

size_t whole_answer(const int32_t *prompt, size_t n_prompt, uint32_t max_tokens, uint64_t seed, int32_t *out, const char **finished)
{
	static uint64_t sums[WORLD_LAYERS][WORLD_CONTEXT + 1];
	memset(sums, 0, sizeof sums);
	size_t n = 0;
	*finished = "length";
	for (uint32_t position = 0; n < max_tokens; position++) {
		uint64_t row = embed(position < n_prompt ? prompt[position] : out[position - n_prompt]);
		for (uint32_t l = 0; l < WORLD_LAYERS; l++)
			row = layer(l, row, sums[l], position);
		if (position + 1 < n_prompt)
			continue;
		int32_t token = sample(row, seed, position + 1);
		if (token == WORLD_END_TOKEN) {
			*finished = "stop";
			break;
		}
		out[n++] = token;
	}
	return n;
}

/* --- events ----------------------------------------------------------------------------------------- */

static void add_event(struct world *w, enum event_kind kind, size_t from, size_t to, struct buf *bytes, uint64_t delay)
{
	struct event *e = calloc(1, sizeof *e);
	assert(e);
	size_t channel = kind == TO_NODE ? 2 * WORLD_NODES + from * WORLD_NODES + to : kind == TO_ENGINE ? to : WORLD_NODES + from;
	e->kind = kind;
	e->from = from;
	e->to = to;
	e->at = w->ms + delay;
	if (e->at < w->last_at[channel])
		e->at = w->last_at[channel];
	w->last_at[channel] = e->at;
	e->order = w->order++;
	buf_move(&e->bytes, bytes);
	struct event **at = &w->events;
	while (*at && ((*at)->at < e->at || ((*at)->at == e->at && (*at)->order < e->order)))
		at = &(*at)->next;
	e->next = *at;
	*at = e;
}

static struct frame decode(const struct buf *bytes)
{
	struct frame frame;
	size_t used;
	int err = frame_decode(bytes->data, bytes->length, &frame, &used);
	assert(!err && used == bytes->length);
	(void)err;
	return frame;
}

/* --- the engine ------------------------------------------------------------------------------------- */

static struct engine_session *find_session(struct world_node *node, const uint8_t *id, uint32_t stage)
{
	for (struct engine_session *s = node->sessions; s; s = s->next)
		if (s->stage == stage && !memcmp(s->id, id, SESSION_BYTES))
			return s;
	return NULL;
}

size_t world_engine_sessions(const struct world *w, size_t node)
{
	size_t n = 0;
	for (const struct engine_session *s = w->nodes[node].sessions; s; s = s->next)
		n++;
	return n;
}

static void forget_sessions(struct world_node *node)
{
	while (node->sessions) {
		struct engine_session *s = node->sessions;
		node->sessions = s->next;
		free(s);
	}
	node->n_taken = 0;
}

static void engine_says(struct world_node *node, struct buf *frame, uint64_t ms)
{
	struct world *w = node->world;
	if (node->engine_silent)
		buf_release(frame);
	else
		add_event(w, FROM_ENGINE, node->index, node->index, frame, ms + world_below(w, 5));
}

static void engine_fault(struct world_node *node, const uint8_t *id, uint32_t epoch, uint32_t stage, int code, uint32_t position)
{
	struct fault_message m = {.epoch = epoch, .stage = stage, .code = code, .position = position};
	struct buf frame;
	memcpy(m.session, id, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	int err = fault_encode(&frame, &m);
	assert(!err);
	(void)err;
	engine_says(node, &frame, 0);
}

static void engine_open(struct world_node *node, const struct engine_open *m)
{
	node->opens++;
	if (node->engine_swallows_opens)
		return;
	struct engine_session *s = find_session(node, m->session, m->stage);
	if (s && m->epoch < s->epoch) {
		engine_fault(node, m->session, m->epoch, m->stage, ERR_STALE, 0);
		return;
	}
	if (!s) {
		s = calloc(1, sizeof *s);
		assert(s);
		struct engine_session *from = m->forks ? find_session(node, m->from, m->stage) : NULL;
		if (from && from->range.first == m->range.first && from->range.end == m->range.end) {
			memcpy(s->sums, from->sums, sizeof s->sums);
			s->have = from->have;
			node->forks++;
		}
		memcpy(s->id, m->session, SESSION_BYTES);
		s->stage = m->stage;
		s->next = node->sessions;
		node->sessions = s;
	}
	s->epoch = m->epoch;
	s->range = m->range;
	s->context = m->context;
	s->sampling = m->sampling;
	s->next_sequence = 0;
	s->faulted = false;
	struct ready_message ready = {.epoch = m->epoch, .stage = m->stage};
	struct buf frame;
	memcpy(ready.session, m->session, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	int err = ready_encode(&frame, &ready);
	assert(!err);
	(void)err;
	engine_says(node, &frame, 0);
}

static void engine_close(struct world_node *node, const struct close_message *m)
{
	node->closes++;
	for (struct engine_session **at = &node->sessions; *at;) {
		struct engine_session *s = *at;
		if (memcmp(s->id, m->session, SESSION_BYTES) || s->epoch > m->epoch || (m->stage != UINT32_MAX && m->stage != s->stage)) {
			at = &s->next;
			continue;
		}
		*at = s->next;
		free(s);
	}
}

static void engine_block(struct world_node *node, const struct rows_block *b)
{
	node->blocks++;
	struct engine_session *s = find_session(node, b->session, b->stage);
	if (!s) {
		engine_fault(node, b->session, b->epoch, b->stage, ERR_UNKNOWN, 0);
		return;
	}
	if (s->faulted || (b->epoch == s->epoch && b->sequence < s->next_sequence))
		return;
	if (b->epoch != s->epoch || b->sequence > s->next_sequence || b->position + b->count > s->context) {
		s->faulted = true;
		engine_fault(node, b->session, b->epoch, b->stage, ERR_MALFORMED, 0);
		return;
	}
	s->next_sequence++;
	if (node->forget_at >= 0 && b->position >= (uint32_t)node->forget_at) {
		node->forget_at = -1;
		s->have = 0;
	}
	if (b->position > s->have) {
		engine_fault(node, b->session, b->epoch, b->stage, ERR_NEED_REPLAY, s->have);
		return;
	}
	uint64_t rows[CHUNK_ROWS];
	for (uint32_t i = 0; i < b->count; i++) {
		rows[i] = b->encoding == ENCODING_TOKEN ? embed((int32_t)get_u32(b->rows + 4 * i)) : get_row(b->rows + 4 * N_EMBD * i);
		for (uint32_t l = s->range.first; l < s->range.end; l++)
			rows[i] = layer(l, rows[i], s->sums[l], b->position + i);
	}
	s->have = b->position + b->count;
	node->engine_rows += b->count;
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err;
	if (s->range.end == WORLD_LAYERS) {
		static const uint8_t piece[] = "x";
		struct tokens_message m = {.epoch = b->epoch, .sequence = b->sequence, .position = b->position + b->count - b->want + 1,
					   .microseconds = 100 * b->count, .n_tokens = b->want};
		memcpy(m.session, b->session, SESSION_BYTES);
		for (uint32_t i = 0; i < b->want; i++) {
			m.tokens[i] = (struct token){.id = sample(rows[b->count - b->want + i], s->sampling.seed, m.position + i), .logprob = -1,
						     .piece_length = 1, .piece = piece};
			m.tokens[i].end = m.tokens[i].id == WORLD_END_TOKEN;
		}
		err = tokens_encode(&frame, &m);
	} else {
		uint8_t bytes[CHUNK_ROWS * N_EMBD * 4];
		for (uint32_t i = 0; i < b->count; i++)
			put_row(bytes + 4 * N_EMBD * i, rows[i]);
		struct rows_message m = {.n_blocks = 1, .blocks[0] = *b};
		m.blocks[0].stage++;
		m.blocks[0].encoding = ENCODING_F32;
		m.blocks[0].rows = bytes;
		m.blocks[0].rows_length = b->count * N_EMBD * 4;
		m.blocks[0].microseconds = 100 * b->count;
		err = rows_encode(&frame, &m);
	}
	assert(!err);
	(void)err;
	engine_says(node, &frame, node->engine_ms);
}

static void engine_gets(struct world_node *node, const struct frame *frame)
{
	struct engine_open open;
	struct close_message close;
	struct rows_message rows;
	int err = 0;
	if (node->engine_dead)
		return;
	if (frame->type == FRAME_ENGINE_OPEN) {
		err = engine_open_decode(frame, &open);
		engine_open(node, &open);
	} else if (frame->type == FRAME_CLOSE) {
		err = close_decode(frame, &close);
		engine_close(node, &close);
	} else {
		assert(frame->type == FRAME_ROWS);
		err = rows_decode(frame, &rows);
		for (size_t i = 0; i < rows.n_blocks; i++)
			engine_block(node, &rows.blocks[i]);
	}
	assert(!err);
	(void)err;
}

/* --- what a ring asks of its node ------------------------------------------------------------------- */

static uint64_t cb_now(void *arg)
{
	return EPOCH_S + ((struct world_node *)arg)->world->ms / 1000;
}

static uint64_t cb_ms(void *arg)
{
	return ((struct world_node *)arg)->world->ms;
}

static void cb_random(void *arg, void *out, size_t n)
{
	uint8_t *at = out;
	for (size_t i = 0; i < n; i++)
		at[i] = (uint8_t)world_random(((struct world_node *)arg)->world);
}

static size_t index_of(const struct world *w, const uint8_t key[KEY_BYTES])
{
	for (size_t i = 0; i < w->n_nodes; i++)
		if (!memcmp(w->nodes[i].key, key, KEY_BYTES))
			return i;
	return SIZE_MAX;
}

static void travel(struct world *w, size_t from, size_t to, struct buf *frame)
{
	struct frame view = decode(frame);
	unsigned times = w->filter ? w->filter(w, from, to, &view) : 1;
	w->frames++;
	for (unsigned i = 1; i < times; i++) {
		struct buf again;
		buf_init(&again, FRAME_MAX);
		int err = buf_append(&again, frame->data, frame->length);
		assert(!err);
		(void)err;
		add_event(w, TO_NODE, from, to, &again, 1 + world_below(w, 20));
	}
	if (times)
		add_event(w, TO_NODE, from, to, frame, 1 + world_below(w, 20));
	else
		buf_release(frame);
}

static int cb_send(void *arg, const uint8_t key[KEY_BYTES], struct buf *frame)
{
	struct world_node *node = arg;
	struct world *w = node->world;
	size_t to = index_of(w, key);
	if (to == SIZE_MAX || w->down[node->index][to])
		return ERR_UNREACHABLE;
	if (world_below(w, 1000) < w->full_permille)
		return -EAGAIN;
	travel(w, node->index, to, frame);
	return 0;
}

/* What an engine with so many places will have when it has read all that it was sent; a session has one place, whatever stages. */
static void take_places(struct world_node *node, const struct frame *frame)
{
	struct engine_open open;
	struct close_message close;
	size_t i = 0;
	bool opens = frame->type == FRAME_ENGINE_OPEN && !engine_open_decode(frame, &open);
	bool closes = frame->type == FRAME_CLOSE && !close_decode(frame, &close);
	if (!opens && !closes)
		return;
	while (i < node->n_taken && memcmp(node->taken[i].session, opens ? open.session : close.session, SESSION_BYTES))
		i++;
	if (opens) {
		if (i == node->n_taken) {
			assert(i < 64 && (!node->places || i < node->places));        /* the ring must have made room */
			memcpy(node->taken[node->n_taken++].session, open.session, SESSION_BYTES);
			node->taken[i].stages = 0;
		}
		node->taken[i].stages |= UINT32_C(1) << open.stage;
	} else if (i < node->n_taken) {
		node->taken[i].stages &= close.stage == UINT32_MAX ? 0 : ~(UINT32_C(1) << close.stage);
		if (!node->taken[i].stages)
			node->taken[i] = node->taken[--node->n_taken];
	}
}

static uint32_t cb_room(void *arg, const uint8_t model[KEY_BYTES])
{
	const struct world_node *node = arg;
	(void)model;
	return !node->places ? 1 : node->places > node->n_taken ? node->places - (uint32_t)node->n_taken : 0;
}

static int cb_engine(void *arg, const uint8_t model[KEY_BYTES], struct buf *frame)
{
	struct world_node *node = arg;
	if (node->engine_dead || memcmp(model, node->world->model, KEY_BYTES)) {
		buf_release(frame);
		return ERR_ENGINE;
	}
	struct frame view = decode(frame);
	if (view.type == FRAME_CLOSE && node->no_memory_to_close) {
		node->no_memory_to_close--;
		buf_release(frame);
		return -ENOMEM;
	}
	take_places(node, &view);
	add_event(node->world, TO_ENGINE, node->index, node->index, frame, 0);
	return 0;
}

static bool cb_is_up(void *arg, const uint8_t key[KEY_BYTES])
{
	struct world_node *node = arg;
	size_t to = index_of(node->world, key);
	return to != SIZE_MAX && !node->world->down[node->index][to];
}

static int cb_permit(void *arg, const struct ticket *ticket, const struct ring_claim *claim, uint32_t *priority, char *detail, size_t size)
{
	struct world_node *node = arg;
	node->permits++;
	*priority = node->priority[index_of(node->world, ticket->home)];
	if (claim->opens)
		node->claim = *claim;
	if (node->permit)
		snprintf(detail, size, "not any more");
	return node->permit;
}

static void cb_used(void *arg, const struct ring_use *use, bool final)
{
	struct world_node *node = arg;
	node->used_rows += use->rows;
	node->used_us += use->microseconds;
	node->used_final += final;
	if (!final && node->quota && node->used_rows >= node->quota) {
		node->permit = ERR_BUDGET;
		ring_recheck(node->ring);        /* as main does: from inside */
	}
}

static void cb_receipt(void *arg, const uint8_t *bytes, size_t n)
{
	struct world_node *node = arg;
	struct record record;
	size_t i = node->receipts++;
	assert(i < 64);
	int err = record_open(&record, bytes, n);
	if (!err)
		err = receipt_read(&record, &node->receipt[i]);
	assert(!err);
	(void)err;
	node->receipt_countersigned[i] = !receipt_verify_countersignature(&node->receipt[i]);
}

/* --- the world -------------------------------------------------------------------------------------- */

void world_init(struct world *w, uint64_t seed, size_t n_nodes)
{
	memset(w, 0, sizeof *w);
	w->random = seed;
	w->n_nodes = n_nodes;
	w->tick_ms = 250;
	memset(w->model, 0x4d, KEY_BYTES);
	for (size_t i = 0; i < n_nodes; i++) {
		struct world_node *node = &w->nodes[i];
		uint8_t seed_bytes[crypto_sign_SEEDBYTES] = {(uint8_t)(i + 1)};
		node->world = w;
		node->index = i;
		node->forget_at = -1;
		crypto_sign_seed_keypair(node->key, node->secret, seed_bytes);
		memset(node->association, 0xa0 + (int)i, KEY_BYTES);
		struct ring_config config = {
			.node_secret = node->secret, .now = cb_now, .monotonic_ms = cb_ms, .random = cb_random, .send = cb_send, .engine = cb_engine,
			.keep_s = WORLD_KEEP_S, .room = cb_room, .is_up = cb_is_up, .permit = cb_permit, .used = cb_used, .receipt = cb_receipt, .arg = node,
		};
		memcpy(config.node, node->key, KEY_BYTES);
		memcpy(config.association, node->association, KEY_BYTES);
		int err = ring_new(&node->ring, &config);
		assert(!err);
		(void)err;
	}
}

void world_release(struct world *w)
{
	for (size_t i = 0; i < w->n_nodes; i++) {
		struct world_node *node = &w->nodes[i];
		ring_free(node->ring);
		forget_sessions(node);
	}
	while (w->events) {
		struct event *e = w->events;
		w->events = e->next;
		buf_release(&e->bytes);
		free(e);
	}
}

static void handle(struct world *w, struct event *e)
{
	struct frame frame = decode(&e->bytes);
	if (e->kind != TO_ENGINE && !w->nodes[e->to].ring)
		return;                          /* that node has stopped */
	switch (e->kind) {
	case TO_NODE:
		ring_on_frame(w->nodes[e->to].ring, w->nodes[e->from].key, &frame);
		break;
	case TO_ENGINE:
		engine_gets(&w->nodes[e->to], &frame);
		break;
	case FROM_ENGINE:
		if (!w->nodes[e->from].engine_dead)
			ring_on_engine(w->nodes[e->from].ring, w->model, &frame);
		break;
	}
}

static void step(struct world *w)
{
	if (w->events && w->events->at <= w->next_tick) {
		struct event *e = w->events;
		w->events = e->next;
		w->ms = e->at;
		handle(w, e);
		buf_release(&e->bytes);
		free(e);
		return;
	}
	w->ms = w->next_tick;
	w->next_tick += w->tick_ms;
	for (size_t i = 0; i < w->n_nodes; i++) {
		struct world_node *node = &w->nodes[i];
		if (node->engine_back_at && w->ms >= node->engine_back_at) {
			node->engine_back_at = 0;
			node->engine_dead = false;
			forget_sessions(node);
		}
		if (node->ring)
			ring_tick(node->ring);
	}
}

void world_run_ms(struct world *w, uint64_t ms)
{
	uint64_t until = w->ms + ms;
	while (w->ms < until)
		step(w);
}

void world_run(struct world *w, const struct world_answer *answer)
{
	uint64_t until = w->ms + UINT64_C(100000000);
	while (!answer->ended && !answer->cancelled && w->ms < until)
		step(w);
}

void world_link(struct world *w, size_t a, size_t b, bool up)
{
	if (w->down[a][b] == !up)
		return;
	w->down[a][b] = w->down[b][a] = !up;
	for (struct event **at = &w->events; !up && *at;) {
		struct event *e = *at;
		if (e->kind != TO_NODE || !((e->from == a && e->to == b) || (e->from == b && e->to == a))) {
			at = &e->next;
			continue;
		}
		*at = e->next;                   /* what was on the wire is lost with it */
		buf_release(&e->bytes);
		free(e);
	}
	ring_on_peer(w->nodes[a].ring, w->nodes[b].key, up);
	ring_on_peer(w->nodes[b].ring, w->nodes[a].key, up);
}

void world_isolate(struct world *w, size_t node, bool up)
{
	for (size_t i = 0; i < w->n_nodes; i++)
		if (i != node)
			world_link(w, node, i, up);
}

void world_inject(struct world *w, size_t from, size_t to, struct buf *frame)
{
	add_event(w, TO_NODE, from, to, frame, 0);
}

/* --- questions -------------------------------------------------------------------------------------- */

struct ring_plan world_plan(struct world *w, const size_t *nodes, size_t n)
{
	struct ring_plan plan = {.n_layer = WORLD_LAYERS, .n_stages = n};
	memcpy(plan.model, w->model, KEY_BYTES);
	for (size_t i = 0; i < n; i++) {
		memcpy(plan.stages[i].node, w->nodes[nodes[i]].key, KEY_BYTES);
		plan.stages[i].range = (struct layer_range){(uint32_t)(WORLD_LAYERS * i / n), (uint32_t)(WORLD_LAYERS * (i + 1) / n)};
	}
	return plan;
}

void world_prompt(struct world *w, int32_t *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (int32_t)world_below(w, 200);
}

static bool on_token(void *arg, const struct token *token)
{
	struct world_answer *a = arg;
	assert(!a->ended && !a->cancelled && a->n < WORLD_CONTEXT);
	assert(token->piece_length == 1 && token->piece[0] == 'x');
	a->tokens[a->n++] = token->id;
	if (a->on_token)
		a->on_token(a);
	if (a->cancel_at && a->n == a->cancel_at) {
		a->cancelled = true;
		ring_cancel(a->session);
		return true;
	}
	return !a->enough || a->n < a->enough;
}

static int on_lost(void *arg, const uint8_t (*failed)[KEY_BYTES], size_t n_failed, struct ring_plan *plan)
{
	struct world_answer *a = arg;
	struct world *w = a->world;
	a->lost++;
	a->n_failed = n_failed;
	memcpy(a->failed, failed, n_failed * KEY_BYTES);
	if (!a->use_spares && !a->forgives)
		return ERR_UNREACHABLE;
	*plan = a->plan;
	if (a->forgives)
		return 0;
	for (size_t i = 0; i < plan->n_stages; i++) {
		bool bad = false;
		size_t node = index_of(w, plan->stages[i].node);
		for (size_t k = 0; k < n_failed; k++)
			bad |= !memcmp(failed[k], plan->stages[i].node, KEY_BYTES);
		if (node == 0 || (!bad && !w->down[0][node]))
			continue;
		size_t spare;
		for (spare = 1; spare < w->n_nodes; spare++) {
			bool taken = w->down[0][spare];
			for (size_t k = 0; k < n_failed; k++)
				taken |= !memcmp(failed[k], w->nodes[spare].key, KEY_BYTES);
			for (size_t k = 0; k < plan->n_stages; k++)
				taken |= !memcmp(plan->stages[k].node, w->nodes[spare].key, KEY_BYTES);
			if (!taken)
				break;
		}
		if (spare == w->n_nodes)
			return ERR_UNREACHABLE;
		memcpy(plan->stages[i].node, w->nodes[spare].key, KEY_BYTES);
	}
	a->plan = *plan;
	return 0;
}

static void on_end(void *arg, int err, const char *finished, const char *detail)
{
	struct world_answer *a = arg;
	assert(!a->ended && !a->cancelled);
	a->ended = true;
	a->err = err;
	a->finished = finished;
	snprintf(a->detail, sizeof a->detail, "%s", detail);
	a->n_use = ring_session_use(a->session, a->use, RING_STAGES_MAX);
	a->cached = ring_session_cached(a->session);
}

void world_ask(struct world *w, struct world_answer *a, const struct ring_plan *plan, const int32_t *prompt, size_t n_prompt,
	       uint32_t max_tokens, uint64_t seed)
{
	world_ask_at(w, 0, a, plan, prompt, n_prompt, max_tokens, seed);
}

void world_ask_at(struct world *w, size_t home, struct world_answer *a, const struct ring_plan *plan, const int32_t *prompt, size_t n_prompt,
		  uint32_t max_tokens, uint64_t seed)
{
	a->world = w;
	a->plan = *plan;
	struct ring_ask ask = {
		.plan = *plan, .prompt = prompt, .n_prompt = n_prompt, .max_tokens = max_tokens, .context = WORLD_CONTEXT,
		.sampling = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = seed}, .on_token = on_token, .on_lost = on_lost,
		.on_end = on_end, .arg = a,
	};
	memset(ask.tenant, a->tenant, KEY_BYTES);
	int err = ring_ask(w->nodes[home].ring, &ask, &a->session);
	assert(!err && !a->ended);
	(void)err;
}
