/* server.c: see server.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/server_internal.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/device.h"
#include "engine/embed.h"
#include "engine/grammar.h"
#include "engine/inspect.h"
#include "engine/quirks.h"
#include "engine/render.h"
#include "proto/err.h"
#include "proto/log.h"
#include "proto/text.h"

void server_engine_name(char *out, size_t size)
{
	snprintf(out, size, "llama %s q%08" PRIx32 " %s", llama_version(), quirk_hash(), device_back_end());
}

/* --- answers --------------------------------------------------------------------------------------- */

int server_send(struct server *s)
{
	return wire_send(&s->wire, &s->out, NULL, 0);
}

static int request_fault(struct server *s, uint32_t request, int code, const char *detail)
{
	struct engine_fault m = { .request = request, .code = code };
	int err;

	text_copy(m.detail, sizeof m.detail, detail[0] ? detail : err_str(code));
	err = engine_fault_encode(&s->out, &m);
	return err ? err : server_send(s);
}

int server_fault(struct server *s, const uint8_t *session, uint32_t epoch, uint32_t stage, int code, uint32_t position, const char *detail)
{
	struct fault_message m = { .epoch = epoch, .stage = stage, .code = code, .position = position };
	int err;

	memcpy(m.session, session, SESSION_BYTES);
	text_copy(m.detail, sizeof m.detail, detail[0] ? detail : err_str(code));
	err = fault_encode(&s->out, &m);
	return err ? err : server_send(s);
}

static bool on_progress(void *arg, float done)
{
	struct server *s = arg;
	struct engine_progress m = { .request = s->request };
	unsigned permille = (unsigned)(done * 1000);

	/* one frame a percent: a load is thousands of tensors */
	if (permille / 10 == s->permille / 10 && permille < 1000)
		return true;
	s->permille = permille;
	m.permille = permille > 1000 ? 1000 : permille;
	return engine_progress_encode(&s->out, &m) == 0 && server_send(s) == 0;
}

/* --- inspect --------------------------------------------------------------------------------------- */

static int on_inspect(struct server *s, const struct frame *frame)
{
	struct engine_inspected answer = { 0 };
	struct directory directory = { 0 };
	struct engine_inspect *m = calloc(1, sizeof *m);
	const char *names[MODEL_FILES_MAX];
	struct source source = { 0 };
	int fds[MODEL_FILES_MAX];
	char why[WHY] = "";
	uint32_t request;
	int err;

	if (!m)
		return -ENOMEM;
	err = engine_inspect_decode(frame, m);
	request = m->request;
	if (!err)
		err = wire_take_fds(&s->wire, fds, m->n_files);
	if (err) {
		free(m);
		return err;              /* not a frame that our daemon makes: framing is broken */
	}
	for (uint32_t i = 0; i < m->n_files; i++)
		names[i] = m->names[i];
	err = source_init(&source, fds, names, m->n_files, NULL, 0, why, sizeof why);
	if (err)
		goto out;
	s->request = request;
	s->permille = 0;
	err = directory_read(&directory, &source, why, sizeof why);
	if (!err)
		err = inspect_model(&answer.manifest, &source, &directory, m->context, why, sizeof why);
	answer.request = request;
	if (!err)
		err = engine_inspected_encode(&s->out, &answer);
out:
	manifest_free(&answer.manifest);
	directory_release(&directory);
	source_release(&source);
	free(m);
	return err ? request_fault(s, request, err, why) : server_send(s);
}

/* --- load ------------------------------------------------------------------------------------------ */

static void unload(struct server *s)
{
	for (size_t i = 0; i < s->n_shards; i++)
		shard_free(s->shards[i]);
	s->n_shards = 0;
	if (s->vocabulary)
		llama_model_free(s->vocabulary);
	s->vocabulary = NULL;
	for (size_t i = 0; s->grammars && i < s->sessions.n; i++)
		grammar_free(s->grammars[i]);
	free(s->grammars);
	s->grammars = NULL;
	lines_release(&s->lines);
	sessions_release(&s->sessions);
	sample_release(&s->sample);
	free(s->embedding);
	s->embedding = NULL;
	directory_release(&s->directory);
	source_release(&s->source);
	s->loaded = false;
}

static struct shard_config config_of(struct server *s, const struct engine_load *m, struct layer_range range)
{
	return (struct shard_config){ .source = &s->source, .directory = &s->directory, .range = range, .context = m->context,
				      .sessions = m->sessions, .threads = m->threads, .progress = on_progress, .arg = s };
}

static double mib(uint64_t bytes)
{
	return (double)bytes / 1048576.0;
}

/* Is it read by one of the ranges: their layers, and at the end what makes logits. */
static bool is_loaded(const struct server *s, const struct engine_load *m, const struct directory_tensor *t)
{
	for (size_t i = 0; i < m->n_ranges; i++) {
		if (t->layer >= 0 ? t->layer >= (int32_t)m->ranges[i].first && t->layer < (int32_t)m->ranges[i].end
				  : m->ranges[i].end == s->directory.n_layer)
			return true;
	}
	return false;
}

/* ggml aborts when an allocation fails, so whether everything fits is known before anything is allocated. Besides what stays, a
 * load needs room for the largest tensor (repacking reads it whole), thread stacks, and the vocabulary and the like. */
static int compare_budget(struct server *s, const struct engine_load *m, const struct memory_use *sum, uint64_t granted, char *why,
			  size_t why_size)
{
	uint64_t limit, used = memory_data(&limit), total = sum->weights + sum->kv + sum->compute - sum->device, largest = 0, passing;

	for (size_t i = 0; i < s->directory.n_tensors; i++)
		if (s->directory.tensors[i].size > largest && is_loaded(s, m, &s->directory.tensors[i]))
			largest = s->directory.tensors[i].size;
	passing = sum->planned + largest + (uint64_t)m->threads * (8u << 20) + (8u << 20);
	if (granted && total > granted) {
		snprintf(why, why_size, "needs %.1f MiB (weights %.1f, %u sessions of %u positions %.1f, compute %.1f, of which %.1f are on the device), "
			 "but %.1f MiB are granted", mib(total), mib(sum->weights), m->sessions, m->context, mib(sum->kv), mib(sum->compute),
			 mib(sum->device), mib(granted));
		return ERR_BUDGET;
	}
	if (device_needs() == SANDBOX_FOR_SOFTWARE)
		total += sum->device;            /* it is this process's memory, too */
	if (limit != UINT64_MAX && used + total + passing > limit) {
		snprintf(why, why_size, "needs %.1f MiB (weights %.1f, %u sessions of %u positions %.1f, compute %.1f) and %.1f MiB to plan and load, "
			 "but the process is limited to %.1f MiB and uses %.1f already", mib(total), mib(sum->weights), m->sessions, m->context,
			 mib(sum->kv), mib(sum->compute), mib(passing), mib(limit), mib(used));
		return ERR_BUDGET;
	}
	return 0;
}

/* First by arithmetic, so that the simulated loads themselves have room; then by what those say. The device takes what fits there, range
 * by range. */
static int check_budget(struct server *s, const struct engine_load *m, char *why, size_t why_size)
{
	uint64_t room = device_handle() ? m->device_max : 0, all = m->memory_max ? m->memory_max + room : 0;
	int err = 0;

	for (size_t way = 0; way < 2 && !err; way++) {
		struct memory_use sum = { 0 };

		for (size_t i = 0; i < m->n_ranges && !err; i++) {
			struct shard_config config = config_of(s, m, m->ranges[i]);
			struct memory_use use;

			err = way ? shard_fit(&config, &room, &use, why, why_size) : shard_lower_bound(&config, &use, why, why_size);
			s->device_layers[i] = config.device_layers;
			sum.weights += use.weights;
			sum.kv += use.kv;
			sum.compute += use.compute;
			sum.device += use.device;
			sum.planned += use.planned;
		}
		if (!err)
			err = compare_budget(s, m, &sum, way ? m->memory_max : all, why, why_size);
	}
	return err;
}

static int load_shards(struct server *s, const struct engine_load *m, char *why, size_t why_size)
{
	bool text = false, starts = false;
	int err;

	for (size_t i = 0; i < m->n_ranges; i++) {
		struct shard_config config = config_of(s, m, m->ranges[i]);

		s->permille = 0;
		config.device_layers = s->device_layers[i];
		err = shard_load(&s->shards[i], &config, why, why_size);
		if (err)
			return err;
		s->n_shards = i + 1;
		text = text || shard_vocab(s->shards[i]);
		starts = starts || m->ranges[i].first == 0;
	}
	/* Home renders prompts, and home has the first layers or the last. */
	if (!text && starts) {
		err = render_load_vocabulary(&s->vocabulary, &s->source, &s->directory, why, why_size);
		if (err)
			return err;
	}
	err = sessions_init(&s->sessions, s->n_shards, m->sessions);
	if (!err)
		err = lines_init(&s->lines, &s->sessions, s->n_shards, s->config->uneven);
	for (size_t i = 0; i < s->n_shards && !err; i++) {
		s->lines.paces[i].joins = shard_joins(s->shards[i]);
		s->lines.paces[i].unfelt_us = LINES_UNFELT_US * (m->ranges[i].end - m->ranges[i].first) / s->directory.n_layer;
	}
	if (!err)
		err = sample_init(&s->sample, s->directory.n_vocab);
	s->grammars = calloc(s->sessions.n, sizeof *s->grammars);
	s->embedding = calloc(s->directory.n_embd, sizeof *s->embedding);
	return err ? err : s->grammars && s->embedding ? 0 : -ENOMEM;
}

static void fill_loaded(const struct server *s, struct engine_loaded *answer)
{
	uint64_t time = 0, layers = 0;

	answer->n_embd = s->directory.n_embd;
	answer->n_vocab = s->directory.n_vocab;
	for (size_t i = 0; i < s->n_shards; i++) {
		const struct memory_use *use = shard_memory(s->shards[i]);
		struct layer_range range = shard_range(s->shards[i]);

		answer->weight_bytes += use->weights;
		answer->kv_bytes += use->kv;
		answer->compute_bytes += use->compute;
		answer->device_bytes += use->device;
		answer->device_layers += shard_device_layers(s->shards[i]);
		time += (uint64_t)shard_layer_microseconds(s->shards[i]) * (range.end - range.first);
		layers += range.end - range.first;
		if (shard_can_truncate(s->shards[i]) > answer->truncate)
			answer->truncate = shard_can_truncate(s->shards[i]);
	}
	answer->layer_microseconds = (uint32_t)(time / layers);
}

static int on_load(struct server *s, const struct frame *frame)
{
	struct engine_loaded answer = { 0 };
	const struct model_extent none = { 0 };
	int fds[MODEL_FILES_MAX];
	struct engine_load m;
	char why[WHY] = "";
	int err;

	err = engine_load_decode(frame, &m);
	if (!err)
		err = wire_take_fds(&s->wire, fds, m.n_files);
	if (err) {
		engine_load_free(&m);
		return err;
	}
	if (s->loaded) {
		for (uint32_t i = 0; i < m.n_files; i++)
			close(fds[i]);
		snprintf(why, sizeof why, "this engine has a model already; start another process");
		err = ERR_BUSY;
		goto out;
	}
	s->request = m.request;
	/* no extents: nothing is verified */
	err = source_init(&s->source, fds, NULL, m.n_files, m.extents ? m.extents : &none, m.n_extents, why, sizeof why);
	if (err)
		goto out;
	err = directory_read(&s->directory, &s->source, why, sizeof why);
	if (!err && m.n_layer != s->directory.n_layer) {
		snprintf(why, sizeof why, "the file has %u layers, not the %u of its manifest", s->directory.n_layer, m.n_layer);
		err = ERR_MODEL;
	}
	if (!err)
		err = check_budget(s, &m, why, sizeof why);
	if (!err)
		err = load_shards(s, &m, why, sizeof why);
	if (err) {
		unload(s);
		goto out;
	}
	s->loaded = true;
	answer.request = m.request;
	fill_loaded(s, &answer);
	err = engine_loaded_encode(&s->out, &answer);
out:
	err = err ? request_fault(s, m.request, err, why) : server_send(s);
	engine_load_free(&m);
	return err;
}

/* --- render ---------------------------------------------------------------------------------------- */

static const struct llama_model *text_model(const struct server *s)
{
	for (size_t i = 0; i < s->n_shards; i++)
		if (shard_vocab(s->shards[i]))
			return shard_model(s->shards[i]);
	return s->vocabulary;
}

/* In a sequence that no session has, of a shard that is the whole model. */
static int embed_tokens(struct server *s, const uint8_t *tokens, size_t n, float *out, char *why, size_t why_size)
{
	for (size_t i = 0; i < s->sessions.n; i++) {
		struct shard *shard = s->shards[i / s->sessions.per_shard];
		struct layer_range range = shard_range(shard);

		if (range.first == 0 && range.end == s->directory.n_layer && !s->sessions.all[i].open)
			return embed(shard, (unsigned)(i % s->sessions.per_shard), tokens, n, out, why, why_size);
	}
	for (size_t i = 0; i < s->n_shards; i++)
		if (shard_range(s->shards[i]).first == 0 && shard_range(s->shards[i]).end == s->directory.n_layer) {
			snprintf(why, why_size, "all %zu sessions are taken", s->sessions.per_shard);
			return ERR_BUSY;
		}
	snprintf(why, why_size, "embeddings need the whole model on this node in one piece, and it does not have that");
	return ERR_UNSUPPORTED;
}

/* What is asked for, into the answer's views, which point into the two buffers. */
static int render(struct server *s, const struct engine_render *m, struct engine_rendered *answer, struct buf *tokens, struct buf *rest, char *why,
		  size_t why_size)
{
	const struct llama_model *model = text_model(s);
	int err = 0;

	if (!model) {
		snprintf(why, why_size, s->loaded ? "only the first or the last layers come with the vocabulary, and neither is loaded here"
						  : "no model is loaded");
		return ERR_UNSUPPORTED;
	}
	err = m->n_messages ? render_tokens(model, m, tokens, why, why_size) : buf_append(tokens, m->tokens, 4 * m->n_tokens);
	answer->tokens = tokens->data;
	answer->n_tokens = tokens->length / 4;
	if (!err && m->pieces)
		err = render_pieces(model, tokens->data, answer->n_tokens, rest, why, why_size);
	answer->pieces_length = rest->length;
	if (!err && m->embed) {
		err = buf_reserve(rest, 4 * (size_t)s->directory.n_embd) ? 0 : -ENOMEM;
		if (!err)
			err = embed_tokens(s, answer->tokens, answer->n_tokens, s->embedding, why, why_size);
		for (uint32_t i = 0; i < s->directory.n_embd && !err; i++) {
			uint32_t bits;

			memcpy(&bits, &s->embedding[i], sizeof bits);
			put_u32(rest->data + rest->length + 4 * (size_t)i, bits);
		}
		answer->n_embd = s->directory.n_embd;
	}
	answer->pieces = rest->data;
	answer->embedding = rest->data ? rest->data + answer->pieces_length : NULL;
	return err;
}

static int on_render(struct server *s, const struct frame *frame)
{
	struct engine_rendered answer = { 0 };
	struct engine_render m;
	struct buf tokens, rest;
	char why[WHY] = "";
	int err;

	err = engine_render_decode(frame, &m);
	if (err)
		return err;
	buf_init(&tokens, FRAME_TAIL_MAX);
	buf_init(&rest, FRAME_TAIL_MAX);
	err = render(s, &m, &answer, &tokens, &rest, why, sizeof why);
	answer.request = m.request;
	if (!err)
		err = engine_rendered_encode(&s->out, &answer);
	err = err ? request_fault(s, m.request, err, why) : server_send(s);
	buf_release(&tokens);
	buf_release(&rest);
	engine_render_free(&m);
	return err;
}

/* --- sessions -------------------------------------------------------------------------------------- */

/* Where the other session is gone or computes other layers the new one stays empty: its first rows are answered NEED_REPLAY. */
static int fork_session(struct server *s, struct session *session, const struct engine_open *m)
{
	const struct session *from = sessions_find(&s->sessions, m->from, m->stage);
	int err;

	if (!from || from->shard != session->shard || from->range.end != session->range.end)
		return 0;
	err = rows_finish(s, from);           /* what it was given before this counts */
	if (!err && shard_copy(s->shards[session->shard], from->sequence, session->sequence))
		session_fork(session, from);
	return err;
}

/* A session that ends the model gets its grammar, or loses the one of the session before it. */
static int set_grammar(struct server *s, const struct session *session, char *why, size_t why_size)
{
	struct grammar **at = &s->grammars[session - s->sessions.all];
	const struct shard *shard = s->shards[session->shard];

	grammar_free(*at);
	*at = NULL;
	if (!shard_ends(shard) || !session->sampling.grammar_length)
		return 0;
	return grammar_new(at, shard_vocab(shard), session->sampling.grammar, why, why_size);
}

static int open_session(struct server *s, const struct engine_open *m, char *why, size_t why_size)
{
	struct session *session, *before = s->loaded ? sessions_find(&s->sessions, m->session, m->stage) : NULL;
	size_t shard = SIZE_MAX, was = before ? before->shard : SIZE_MAX;
	unsigned sequence = before ? before->sequence : 0;
	uint32_t have;
	bool fresh;
	int err;

	if (!s->loaded) {
		snprintf(why, why_size, "no model is loaded");
		return ERR_UNKNOWN;
	}
	for (size_t i = 0; i < s->n_shards; i++) {
		struct layer_range range = shard_range(s->shards[i]);

		/* The hidden state can be taken out after any layer, so a session may end before its shard does (not before the output). */
		if (range.first == m->range.first && (range.end == m->range.end || (m->range.end < range.end && range.end < s->directory.n_layer)))
			shard = i;
	}
	if (shard == SIZE_MAX) {
		snprintf(why, why_size, "layers [%u, %u) are not loaded here", m->range.first, m->range.end);
		return ERR_UNKNOWN;
	}
	err = shard_permitted(&s->directory, m->range, why, why_size);
	if (err)
		return err;
	if (m->context > shard_context(s->shards[shard])) {
		snprintf(why, why_size, "a session of %u positions is longer than the %u that were loaded for", m->context,
			 shard_context(s->shards[shard]));
		return ERR_CONTEXT;
	}
	err = sample_check(&m->sampling, s->directory.n_vocab, why, why_size);
	if (err)
		return err;
	if (before && m->epoch > before->epoch) {      /* what came before this frame is answered before it */
		err = rows_finish(s, before);
		if (err)
			return err;
		lines_clear(&s->lines, before);
	}
	err = sessions_open(&s->sessions, m, shard, &session, &fresh);
	if (err == ERR_BUSY)
		snprintf(why, why_size, "all %zu sessions of layers [%u, %u) are taken", s->sessions.per_shard, m->range.first, m->range.end);
	if (err == ERR_STALE)
		snprintf(why, why_size, "a newer epoch is open");
	if (fresh && was != SIZE_MAX)
		shard_clear(s->shards[was], sequence);
	if (!err && fresh)
		err = shard_truncate(s->shards[shard], session->sequence, 0, &have);
	if (!err && fresh && m->forks)
		err = fork_session(s, session, m);
	if (!err) {
		err = set_grammar(s, session, why, why_size);
		if (err)
			session_close(session);
	}
	return err;
}

static int on_open(struct server *s, const struct frame *frame)
{
	struct ready_message ready = { 0 };
	struct engine_open m;
	char why[WHY] = "";
	int err;

	err = engine_open_decode(frame, &m);
	if (err)
		return err;
	err = open_session(s, &m, why, sizeof why);
	if (err)
		return server_fault(s, m.session, m.epoch, m.stage, err, 0, why);
	memcpy(ready.session, m.session, SESSION_BYTES);
	ready.epoch = m.epoch;
	ready.stage = m.stage;
	err = ready_encode(&s->out, &ready);
	return err ? err : server_send(s);
}

static int on_close(struct server *s, const struct frame *frame)
{
	struct close_message m;
	int err = close_decode(frame, &m);

	for (size_t i = 0; !err && i < s->sessions.n; i++) {
		struct session *session = &s->sessions.all[i];

		if (!session->open || memcmp(session->id, m.session, SESSION_BYTES) || session->epoch > m.epoch ||
		    (m.stage != UINT32_MAX && m.stage != session->stage))
			continue;
		lines_clear(&s->lines, session);
		shard_clear(s->shards[session->shard], session->sequence);
		session_close(session);
	}
	return err;
}

/* --- the loop -------------------------------------------------------------------------------------- */

static int say_hello(struct server *s)
{
	struct engine_hello m = { .sandboxed = s->config->sandboxed, .device = *device_info() };
	int err;

	server_engine_name(m.engine, sizeof m.engine);
	text_copy(m.no_device, sizeof m.no_device, s->config->no_device);
	err = engine_hello_encode(&s->out, &m);
	return err ? err : server_send(s);
}

static int dispatch(struct server *s, const struct frame *frame)
{
	switch (frame->type) {
	case FRAME_ENGINE_INSPECT: return on_inspect(s, frame);
	case FRAME_ENGINE_LOAD: return on_load(s, frame);
	case FRAME_ENGINE_OPEN: return on_open(s, frame);
	case FRAME_ENGINE_RENDER: return on_render(s, frame);
	case FRAME_ROWS: return rows_take(s, frame);
	case FRAME_CLOSE: return on_close(s, frame);
	default: return frame->type >= FRAME_IGNORABLE ? 0 : ERR_UNSUPPORTED;
	}
}

/* Everything that came, without waiting for more while there is work: only for those who were just answered and are about to come
 * back, so that they go together. */
static int read_frames(struct server *s)
{
	struct frame frame;
	int err = s->lines.blocks ? 0 : wire_next(&s->wire, &frame);

	if (!err && !s->lines.blocks)
		err = dispatch(s, &frame);
	while (!err && s->lines.blocks && s->lines.bytes < LINES_BYTES_MAX) {
		int64_t now, until;

		err = wire_try(&s->wire, &frame);
		if (!err)
			err = dispatch(s, &frame);
		if (err != -EAGAIN)
			continue;
		now = ggml_time_us();
		until = lines_gather(&s->lines, now);
		if (until <= now || !wire_wait(&s->wire, until - now))
			return 0;
		err = 0;
	}
	return err;
}

int server_run(const struct server_config *config)
{
	struct server *s = calloc(1, sizeof *s);
	int err;

	if (!s)
		return -ENOMEM;
	s->config = config;
	wire_init(&s->wire, config->fd);
	buf_init(&s->out, FRAME_MAX);
	err = say_hello(s);
	while (!err) {
		err = read_frames(s);
		if (!err)
			err = rows_step(s);
	}
	if (err == ERR_CANCELLED)        /* the other side closed: that is how an engine ends */
		err = 0;
	else
		log_error("the connection to the daemon ended: %s", err_str(err));
	unload(s);
	buf_release(&s->out);
	wire_release(&s->wire);
	free(s);
	return err;
}
