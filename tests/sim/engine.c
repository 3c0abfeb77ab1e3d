/* engine.c: what stage.h promises, by arithmetic. A row is 64 bits in four float32. A layer mixes its row with everything that it saw
 * at the positions before, so that one row lost, doubled or computed on old state gives another answer; a token follows from
 * the last layer's row, the seed and the position. engine_whole() is the same without any ring, engine or frame.
 *
 * Sessions are kept and refused as engine/session.c and engine/server.c do it.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/stage/watch.h"
#include "proto/text.h"
#include "tests/sim/sim.h"

#define N_EMBD 4
#define ENGINE_NAME "sim 1 arithmetic"

struct session {
	struct session *next;
	uint8_t id[SESSION_BYTES];
	uint32_t stage, epoch, context, have;
	struct layer_range range;
	struct sampling sampling;
	uint64_t next_sequence;
	bool faulted;
	uint64_t sums[SIM_LAYERS_MAX][SIM_CONTEXT + 1];        /* of all rows before a position, a layer */
};

struct engine {
	enum stage_state state;
	unsigned life;                         /* jobs of an earlier process come to nothing */
	size_t n_ranges;
	struct layer_range ranges[RANGES_MAX];
	uint32_t context, sessions_max, layer_us;
	struct session *sessions;
	struct crashes crashes;
	uint64_t free_at, hangs_until;
	bool forgets;
};

struct job {                                   /* a frame to the engine or from it, or text to be rendered */
	struct job *next;
	size_t model;
	unsigned life;
	struct buf bytes;
	uint64_t number, n;                    /* a prompt */
	void (*done)(void *arg, int err, const int32_t *tokens, size_t n, const char *why);
	void (*text)(void *arg, int err, const struct engine_rendered *rendered, const char *why);    /* instead of done */
	void *arg;
};

struct stage {
	struct stage_config config;
	struct node *node;
	struct engine engines[SIM_MODELS_MAX];
	struct job *jobs;
};

/* --- the model ------------------------------------------------------------------------------------------- */

static uint64_t embed(int32_t token)
{
	return sim_mix((uint64_t)(uint32_t)token + 1);
}

static uint64_t layer(uint32_t l, uint64_t row, uint64_t *sums, uint32_t position)
{
	sums[position + 1] = sim_mix(sums[position] ^ sim_mix(row + l));
	return sim_mix(row ^ sim_mix(sums[position + 1] + l));
}

static int32_t sample(uint64_t row, uint64_t seed, uint32_t position)
{
	return (int32_t)(sim_mix(row ^ sim_mix(seed + position)) % SIM_VOCABULARY);
}

void engine_prompt(uint64_t number, size_t n, int32_t *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (int32_t)(sim_mix(number * 1000 + i) % SIM_VOCABULARY);
}

size_t engine_whole(const struct model_truth *model, const int32_t *prompt, size_t n_prompt, uint32_t max_tokens, uint64_t seed, int32_t *out,
		    const char **finish)
{
	static uint64_t sums[SIM_LAYERS_MAX][SIM_QUESTION_TOKENS + 1];
	memset(sums, 0, sizeof sums);
	size_t n = 0;
	*finish = "length";
	for (uint32_t position = 0; n < max_tokens; position++) {
		uint64_t row = embed(position < n_prompt ? prompt[position] : out[position - n_prompt]);
		for (uint32_t l = 0; l < model->body.n_layer; l++)
			row = layer(l, row, sums[l], position);
		if (position + 1 < n_prompt)
			continue;
		int32_t token = sample(row, seed, position + 1);
		if (token == SIM_END_TOKEN) {
			*finish = "stop";
			break;
		}
		out[n++] = token;
	}
	return n;
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

/* --- jobs --------------------------------------------------------------------------------------------------- */

static size_t model_index(const uint8_t id[KEY_BYTES])
{
	for (size_t i = 0; i < sim.n_models; i++)
		if (!memcmp(sim.models[i].id, id, KEY_BYTES))
			return i;
	return SIZE_MAX;
}

static struct job *job_new(struct stage *stage, size_t model, struct buf *bytes)
{
	struct job *job = calloc(1, sizeof *job);
	assert(job);
	job->model = model;
	job->life = stage->engines[model].life;
	if (bytes)
		buf_move(&job->bytes, bytes);
	job->next = stage->jobs;
	stage->jobs = job;
	return job;
}

static void job_free(struct stage *stage, struct job *job)
{
	struct job **at = &stage->jobs;
	while (*at != job)
		at = &(*at)->next;
	*at = job->next;
	buf_release(&job->bytes);
	free(job);
}

static void say_now(void *arg, uint64_t number)
{
	struct job *job = arg;
	struct stage *stage = ((struct node *)(uintptr_t)number)->boot->daemon.stage;
	struct engine *engine = &stage->engines[job->model];
	struct frame frame;
	size_t used;
	if (job->life == engine->life && engine->state == STAGE_READY) {
		if (engine->hangs_until > sim.ms) {
			sim_after(engine->hangs_until - sim.ms, stage->node, say_now, job, number);
			return;
		}
		int err = frame_decode(job->bytes.data, job->bytes.length, &frame, &used);
		assert(!err);
		(void)err;
		stage->config.on_frame(stage->config.arg, sim.models[job->model].id, &frame);
	}
	job_free(stage, job);
}

/* What one engine says keeps its order. */
static void say(struct stage *stage, size_t model, struct buf *frame, uint64_t compute_ms)
{
	struct engine *engine = &stage->engines[model];
	uint64_t at = (engine->free_at > sim.ms ? engine->free_at : sim.ms) + compute_ms;
	engine->free_at = at;
	sim_after(at - sim.ms, stage->node, say_now, job_new(stage, model, frame), (uintptr_t)stage->node);
}

/* --- sessions ------------------------------------------------------------------------------------------------ */

static struct session *find_session(struct engine *engine, const uint8_t *id, uint32_t stage)
{
	for (struct session *s = engine->sessions; s; s = s->next)
		if (s->stage == stage && !memcmp(s->id, id, SESSION_BYTES))
			return s;
	return NULL;
}

static bool is_first(const struct engine *engine, const struct session *s)
{
	for (const struct session *other = engine->sessions; other != s; other = other->next)
		if (!memcmp(other->id, s->id, SESSION_BYTES))
			return false;
	return true;
}

static void drop_session(struct engine *engine, struct session *dropped)
{
	struct session **at = &engine->sessions;
	while (*at != dropped)
		at = &(*at)->next;
	*at = dropped->next;
	free(dropped);
}

static void fault(struct stage *stage, size_t model, const uint8_t *id, uint32_t epoch, uint32_t number, int code, uint32_t position)
{
	struct fault_message m = {.epoch = epoch, .stage = number, .code = code, .position = position};
	struct buf frame;
	memcpy(m.session, id, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	int err = fault_encode(&frame, &m);
	assert(!err);
	(void)err;
	say(stage, model, &frame, 0);
}

static const struct layer_range *range_for(const struct engine *engine, uint32_t n_layer, struct layer_range wanted)
{
	for (size_t i = 0; i < engine->n_ranges; i++) {
		const struct layer_range *r = &engine->ranges[i];
		if (r->first == wanted.first && (r->end == wanted.end || (wanted.end < r->end && r->end < n_layer)))
			return r;
	}
	return NULL;
}

/* 0, or what the engine says instead of READY. */
static int open_session(struct engine *engine, uint32_t n_layer, const struct engine_open *m)
{
	struct session *s = find_session(engine, m->session, m->stage);
	const struct layer_range *range = range_for(engine, n_layer, m->range);
	if (!range)
		return ERR_UNKNOWN;
	if (m->context > engine->context)
		return ERR_CONTEXT;
	if (s && m->epoch < s->epoch)
		return ERR_STALE;
	if (s && m->epoch == s->epoch)
		return memcmp(&s->range, &m->range, sizeof s->range) ? ERR_MALFORMED : 0;
	bool keeps = s && !memcmp(&s->range, &m->range, sizeof s->range);
	if (s && !keeps) {
		drop_session(engine, s);
		s = NULL;
	}
	if (!s) {
		const struct session *from = m->forks ? find_session(engine, m->from, m->stage) : NULL;
		size_t open = 0;
		for (const struct session *other = engine->sessions; other; other = other->next)
			open += other->range.first == range->first;
		if (open >= engine->sessions_max)
			return ERR_BUSY;
		s = calloc(1, sizeof *s);
		assert(s);
		memcpy(s->id, m->session, SESSION_BYTES);
		s->stage = m->stage;
		if (from && !memcmp(&from->range, &m->range, sizeof from->range)) {
			memcpy(s->sums, from->sums, sizeof s->sums);
			s->have = from->have < m->context ? from->have : m->context;
		}
		s->next = engine->sessions;
		engine->sessions = s;
	}
	s->epoch = m->epoch;
	s->context = m->context;
	s->range = m->range;
	s->sampling = m->sampling;
	s->next_sequence = 0;
	s->faulted = false;
	return 0;
}

static void on_open(struct stage *stage, size_t model, const struct engine_open *m)
{
	struct engine *engine = &stage->engines[model];
	int err = open_session(engine, sim.models[model].body.n_layer, m);
	if (err) {
		fault(stage, model, m->session, m->epoch, m->stage, err, 0);
		return;
	}
	struct ready_message ready = {.epoch = m->epoch, .stage = m->stage};
	struct buf frame;
	memcpy(ready.session, m->session, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	err = ready_encode(&frame, &ready);
	assert(!err);
	say(stage, model, &frame, 1);
}

static void on_close(struct engine *engine, const struct close_message *m)
{
	for (struct session *s = engine->sessions, *next; s; s = next) {
		next = s->next;
		if (!memcmp(s->id, m->session, SESSION_BYTES) && s->epoch <= m->epoch && (m->stage == UINT32_MAX || m->stage == s->stage))
			drop_session(engine, s);
	}
}

static void answer_tokens(struct stage *stage, size_t model, const struct session *s, const struct rows_block *b, const uint64_t *rows, uint64_t ms)
{
	struct tokens_message m = {.epoch = b->epoch, .sequence = b->sequence, .position = b->position + b->count - b->want + 1,
				   .microseconds = (uint32_t)ms * 1000, .n_tokens = b->want};
	char pieces[8][16];
	struct buf frame;
	memcpy(m.session, b->session, SESSION_BYTES);
	assert(b->want <= 8);
	for (uint32_t i = 0; i < b->want; i++) {
		int32_t id = sample(rows[b->count - b->want + i], s->sampling.seed, m.position + i);
		int n = snprintf(pieces[i], sizeof pieces[i], "%d ", id);
		m.tokens[i] = (struct token){.id = id, .logprob = -1, .end = id == SIM_END_TOKEN, .piece_length = (uint32_t)n,
					     .piece = (const uint8_t *)pieces[i]};
	}
	buf_init(&frame, FRAME_MAX);
	int err = tokens_encode(&frame, &m);
	assert(!err);
	(void)err;
	say(stage, model, &frame, ms);
}

static void answer_rows(struct stage *stage, size_t model, const struct rows_block *b, const uint64_t *rows, uint64_t ms)
{
	uint8_t bytes[CHUNK_ROWS * N_EMBD * 4];
	struct rows_message m = {.n_blocks = 1};
	struct buf frame;
	for (uint32_t i = 0; i < b->count; i++)
		put_row(bytes + 4 * N_EMBD * i, rows[i]);
	m.blocks[0] = *b;
	m.blocks[0].stage++;
	m.blocks[0].encoding = ENCODING_F32;
	m.blocks[0].rows = bytes;
	m.blocks[0].rows_length = b->count * N_EMBD * 4;
	m.blocks[0].microseconds = (uint32_t)ms * 1000;
	buf_init(&frame, FRAME_MAX);
	int err = rows_encode(&frame, &m);
	assert(!err);
	(void)err;
	say(stage, model, &frame, ms);
}

static void on_block(struct stage *stage, size_t model, const struct rows_block *b)
{
	struct engine *engine = &stage->engines[model];
	struct session *s = find_session(engine, b->session, b->stage);
	uint64_t rows[CHUNK_ROWS];
	if (!s) {
		fault(stage, model, b->session, b->epoch, b->stage, ERR_UNKNOWN, 0);
		return;
	}
	if (s->faulted || (b->epoch == s->epoch && b->sequence < s->next_sequence))
		return;
	size_t size = b->encoding == ENCODING_TOKEN ? 4 : 4 * N_EMBD;
	if (b->epoch != s->epoch || b->sequence > s->next_sequence || b->position + b->count > s->context || b->count > CHUNK_ROWS ||
	    b->rows_length != size * b->count || (b->encoding == ENCODING_TOKEN) != (s->range.first == 0)) {
		s->faulted = true;
		fault(stage, model, b->session, b->epoch, b->stage, ERR_MALFORMED, 0);
		return;
	}
	s->next_sequence++;
	if (engine->forgets) {
		engine->forgets = false;
		s->have = 0;
	}
	if (b->position > s->have) {
		fault(stage, model, b->session, b->epoch, b->stage, ERR_NEED_REPLAY, s->have);
		return;
	}
	for (uint32_t i = 0; i < b->count; i++) {
		rows[i] = b->encoding == ENCODING_TOKEN ? embed((int32_t)get_u32(b->rows + 4 * i)) : get_row(b->rows + 4 * N_EMBD * i);
		for (uint32_t l = s->range.first; l < s->range.end; l++)
			rows[i] = layer(l, rows[i], s->sums[l], b->position + i);
	}
	s->have = b->position + b->count;
	uint64_t ms = 1 + (uint64_t)b->count * (s->range.end - s->range.first) * engine->layer_us / 1000;
	witness_computed(stage->node, b->session, b->stage, b->count);
	if (s->range.end == sim.models[model].body.n_layer)
		answer_tokens(stage, model, s, b, rows, ms);
	else
		answer_rows(stage, model, b, rows, ms);
}

static void take_now(void *arg, uint64_t number)
{
	struct job *job = arg;
	struct node *node = (struct node *)(uintptr_t)number;
	struct stage *stage = node->boot->daemon.stage;
	struct engine *engine = &stage->engines[job->model];
	struct frame frame;
	struct engine_open open;
	struct close_message close;
	static struct rows_message rows;
	size_t used;
	if (job->life == engine->life && engine->state == STAGE_READY) {
		int err = frame_decode(job->bytes.data, job->bytes.length, &frame, &used);
		if (!err && frame.type == FRAME_ENGINE_OPEN) {
			err = engine_open_decode(&frame, &open);
			if (!err)
				on_open(stage, job->model, &open);
		} else if (!err && frame.type == FRAME_CLOSE) {
			err = close_decode(&frame, &close);
			if (!err)
				on_close(engine, &close);
		} else if (!err && frame.type == FRAME_ROWS) {
			err = rows_decode(&frame, &rows);
			for (size_t i = 0; !err && i < rows.n_blocks; i++)
				on_block(stage, job->model, &rows.blocks[i]);
		} else if (!err)
			err = ERR_UNSUPPORTED;
		if (err)
			sim_fail(node, "its engine gets a frame of type %d that it cannot read: %s", frame.type, err_str(err));
	}
	job_free(stage, job);
}

/* --- stage.h --------------------------------------------------------------------------------------------------- */

int stage_open(struct stage **out, const struct stage_config *config)
{
	struct stage *stage = calloc(1, sizeof *stage);
	assert(stage);
	stage->config = *config;
	stage->node = node_of(config->arg);
	*out = stage;
	return 0;
}

static void end_life(struct engine *engine)
{
	engine->life++;
	engine->free_at = engine->hangs_until = 0;
	engine->forgets = false;
	while (engine->sessions)
		drop_session(engine, engine->sessions);
}

/* Who ends an engine tells its sessions, as stage.c does. */
static void stop_life(struct stage *stage, size_t model)
{
	struct engine *engine = &stage->engines[model];
	struct session *gone = engine->sessions;
	engine->sessions = NULL;
	end_life(engine);
	while (gone) {
		struct session *s = gone;
		struct fault_message m = {.epoch = s->epoch, .stage = s->stage, .code = ERR_ENGINE, .detail = "the engine was stopped"};
		struct frame frame;
		struct buf bytes;
		size_t used;
		gone = s->next;
		memcpy(m.session, s->id, SESSION_BYTES);
		buf_init(&bytes, FRAME_MAX);
		if (!fault_encode(&bytes, &m) && !frame_decode(bytes.data, bytes.length, &frame, &used))
			stage->config.on_frame(stage->config.arg, sim.models[model].id, &frame);
		buf_release(&bytes);
		free(s);
	}
}

void stage_close(struct stage *stage, void (*on_closed)(void *arg), void *arg)
{
	for (size_t i = 0; i < SIM_MODELS_MAX; i++)
		end_life(&stage->engines[i]);
	while (stage->jobs) {
		struct job *job = stage->jobs;
		if (job->done)
			job->done(job->arg, ERR_CANCELLED, NULL, 0, "stopping");
		if (job->text)
			job->text(job->arg, ERR_CANCELLED, NULL, "stopping");
		job_free(stage, job);
	}
	free(stage);
	if (on_closed)
		on_closed(arg);
}

static void set_state(struct stage *stage, size_t model, enum stage_state state, const char *why)
{
	stage->engines[model].state = state;
	sim_trace(stage->node, "engine of model %zu: %s", model,
		  (const char *[]){"none", "starting", "loading", "ready", "failed", "quarantined"}[state]);
	stage->config.on_state(stage->config.arg, sim.models[model].id, state, why);
}

static void loaded(void *arg, uint64_t number)
{
	struct node *node = arg;
	struct stage *stage = node->boot->daemon.stage;
	size_t model = number & 0xff;
	if (stage->engines[model].life == number >> 8 && stage->engines[model].state == STAGE_STARTING)
		set_state(stage, model, STAGE_READY, NULL);
}

int stage_start(struct stage *stage, struct stage_load *load)
{
	size_t model = model_index(load->model);
	struct engine *engine = &stage->engines[model];
	free(load->extents);
	if (engine->state == STAGE_QUARANTINED)
		return ERR_ENGINE;
	bool same = engine->n_ranges == load->n_ranges && !memcmp(engine->ranges, load->ranges, load->n_ranges * sizeof *load->ranges);
	if (same && (engine->state == STAGE_STARTING || engine->state == STAGE_READY))
		return 0;
	stop_life(stage, model);
	engine->n_ranges = load->n_ranges;
	memcpy(engine->ranges, load->ranges, sizeof engine->ranges);
	engine->context = load->context;
	engine->sessions_max = load->sessions;
	engine->layer_us = (uint32_t)(50 + sim_below(500)) * (1 + stage->node->slow);
	set_state(stage, model, STAGE_STARTING, NULL);
	sim_after(100 + sim_below(1500), stage->node, loaded, stage->node, (uint64_t)engine->life << 8 | model);
	return 0;
}

void stage_stop(struct stage *stage, const uint8_t id[KEY_BYTES])
{
	size_t model = model_index(id);
	struct engine *engine = &stage->engines[model];
	if (engine->state != STAGE_STARTING && engine->state != STAGE_READY)
		return;
	stop_life(stage, model);
	engine->n_ranges = 0;
	set_state(stage, model, STAGE_NONE, NULL);
}

int stage_quarantine(struct stage *stage, const uint8_t id[KEY_BYTES], const char *why)
{
	size_t model = model_index(id);
	if (model == SIZE_MAX || stage->engines[model].state == STAGE_READY || stage->engines[model].state == STAGE_STARTING)
		return ERR_BUSY;
	set_state(stage, model, STAGE_QUARANTINED, why);
	return 0;
}

void stage_clear(struct stage *stage, const uint8_t id[KEY_BYTES])
{
	size_t model = model_index(id);
	crashes_clear(&stage->engines[model].crashes);
	if (stage->engines[model].state == STAGE_QUARANTINED)
		set_state(stage, model, STAGE_NONE, NULL);
}

int stage_send(struct stage *stage, const uint8_t id[KEY_BYTES], struct buf *frame)
{
	size_t model = model_index(id);
	struct frame view;
	size_t used;
	int err = model == SIZE_MAX ? ERR_UNKNOWN : stage->engines[model].state != STAGE_READY ? ERR_ENGINE : 0;
	if (!err)
		err = frame_decode(frame->data, frame->length, &view, &used);
	if (!err) {
		witness_engine_gets(stage->node, model, &view);
		sim_after(0, stage->node, take_now, job_new(stage, model, frame), (uintptr_t)stage->node);
	}
	buf_release(frame);
	return err;
}

int stage_info(const struct stage *stage, const uint8_t id[KEY_BYTES], struct stage_info *out)
{
	size_t model = model_index(id);
	*out = (struct stage_info){0};
	if (model == SIZE_MAX || stage->engines[model].state == STAGE_NONE)
		return ERR_UNKNOWN;
	const struct engine *engine = &stage->engines[model];
	*out = (struct stage_info){.state = engine->state, .sandboxed = true, .n_ranges = engine->n_ranges, .context = engine->context,
				   .sessions = engine->sessions_max, .layer_microseconds = engine->layer_us, .crashes = engine->crashes.n};
	text_copy(out->engine, sizeof out->engine, ENGINE_NAME);
	memcpy(out->ranges, engine->ranges, sizeof out->ranges);
	for (const struct session *s = engine->sessions; s; s = s->next)
		out->sessions_open += is_first(engine, s);     /* each counts once, however many stages it has here */
	return 0;
}

const struct stage_device *stage_device(const struct stage *stage)
{
	static const struct stage_device none = {.known = true};
	(void)stage;
	return &none;
}

const char *stage_engine_name(const struct stage *stage)
{
	(void)stage;
	return ENGINE_NAME;
}

static void render_now(void *arg, uint64_t number)
{
	struct job *job = arg;
	struct stage *stage = ((struct node *)(uintptr_t)number)->boot->daemon.stage;
	int32_t tokens[SIM_QUESTION_TOKENS];
	bool lives = job->life == stage->engines[job->model].life;
	engine_prompt(job->number, job->n, tokens);
	if (job->text) {
		uint8_t bytes[4 * SIM_QUESTION_TOKENS];
		struct engine_rendered rendered = {.n_tokens = job->n, .tokens = bytes};
		for (size_t i = 0; i < job->n; i++)
			put_u32(bytes + 4 * i, (uint32_t)tokens[i]);
		job->text(job->arg, lives ? 0 : ERR_ENGINE, lives ? &rendered : NULL, lives ? NULL : "the engine ended");
	} else
		job->done(job->arg, lives ? 0 : ERR_ENGINE, lives ? tokens : NULL, lives ? job->n : 0, lives ? NULL : "the engine ended");
	job_free(stage, job);
}

/* The text is "NUMBER LENGTH": engine_prompt()'s arguments. */
static struct job *render_job(struct stage *stage, const uint8_t id[KEY_BYTES], const struct engine_render *render)
{
	size_t model = model_index(id);
	unsigned long long number, n;
	char text[64];
	snprintf(text, sizeof text, "%.*s", (int)render->messages[0].content_length, render->messages[0].content);
	if (model == SIZE_MAX || stage->engines[model].state != STAGE_READY || sscanf(text, "%llu %llu", &number, &n) != 2 || n >= SIM_QUESTION_TOKENS)
		return NULL;
	struct job *job = job_new(stage, model, NULL);
	job->number = number;
	job->n = n;
	sim_after(1 + sim_below(5), stage->node, render_now, job, (uintptr_t)stage->node);
	return job;
}

int stage_render(struct stage *stage, const uint8_t id[KEY_BYTES], const struct engine_render *render,
		 void (*done)(void *arg, int err, const int32_t *tokens, size_t n, const char *why), void *arg)
{
	struct job *job = render_job(stage, id, render);
	if (!job)
		return ERR_ENGINE;
	job->done = done;
	job->arg = arg;
	return 0;
}

int stage_text(struct stage *stage, const uint8_t id[KEY_BYTES], const struct engine_render *render,
	       void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *why), void *arg)
{
	struct job *job = render_job(stage, id, render);
	if (!job)
		return ERR_ENGINE;
	job->text = done;
	job->arg = arg;
	return 0;
}

/* --- what the story does to engines ------------------------------------------------------------------------------- */

void engine_crash(struct node *node, size_t model)
{
	struct stage *stage = node->boot->daemon.stage;
	struct engine *engine = &stage->engines[model];
	if (engine->state != STAGE_READY && engine->state != STAGE_STARTING)
		return;
	end_life(engine);
	set_state(stage, model, crashes_add(&engine->crashes, sim.ms / 1000) ? STAGE_QUARANTINED : STAGE_FAILED, "it crashed");
}

void engine_hang(struct node *node, size_t model, uint64_t ms)
{
	node->boot->daemon.stage->engines[model].hangs_until = sim.ms + ms;
	sim_trace(node, "engine of model %zu hangs for %llu ms", model, (unsigned long long)ms);
}

void engine_forget(struct node *node, size_t model)
{
	node->boot->daemon.stage->engines[model].forgets = true;
	sim_trace(node, "engine of model %zu forgets positions", model);
}

uint64_t engine_memory(const struct node *node)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < sim.n_models; i++) {
		const struct engine *engine = &node->boot->daemon.stage->engines[i];
		if (engine->state == STAGE_READY || engine->state == STAGE_STARTING)
			bytes += manifest_bytes(&sim.models[i].body, engine->ranges, engine->n_ranges);
	}
	return bytes;
}

size_t engine_sessions(const struct node *node)
{
	size_t n = 0;
	for (size_t i = 0; i < sim.n_models; i++)
		for (const struct session *s = node->boot->daemon.stage->engines[i].sessions; s; s = s->next)
			n++;
	return n;
}

bool engine_resident(const struct node *node, size_t model, struct layer_range *out, size_t *n)
{
	const struct engine *engine = &node->boot->daemon.stage->engines[model];
	if (engine->state != STAGE_READY)
		return false;
	memcpy(out, engine->ranges, engine->n_ranges * sizeof *out);
	*n = engine->n_ranges;
	return true;
}
