/* server.c: see server.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/server.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/grammar.h"
#include "engine/inspect.h"
#include "engine/quirks.h"
#include "engine/render.h"
#include "engine/sample.h"
#include "engine/session.h"
#include "engine/shard.h"
#include "engine/wire.h"
#include "proto/err.h"
#include "proto/log.h"
#include "proto/text.h"

#define WHY 400

struct server {
	const struct server_config *config;
	struct wire wire;
	struct buf out;
	bool loaded;
	struct source source;              /* of the loaded model */
	struct directory directory;
	size_t n_shards;
	struct shard *shards[RANGES_MAX];
	struct sessions sessions;
	struct grammar **grammars;         /* one for each of sessions.all, NULL where it has none */
	struct llama_model *vocabulary;    /* NULL when a shard has one, or none is needed */
	struct sample sample;
	float *rows;                       /* (CHUNK_ROWS, n_embd): what came, aligned */
	uint32_t request;                  /* being worked on, for progress */
	unsigned permille;
};

void server_engine_name(char *out, size_t size)
{
	char backend[24] = "cpu";

	/* Only the CPU is used so far; when devices are, their back end's name stands here. */
	snprintf(out, size, "llama %s q%08" PRIx32 " %s", llama_version(), quirk_hash(), backend);
}

/* --- answers --------------------------------------------------------------------------------------- */

static int send_out(struct server *s)
{
	return wire_send(&s->wire, &s->out, NULL, 0);
}

static int request_fault(struct server *s, uint32_t request, int code, const char *detail)
{
	struct engine_fault m = { .request = request, .code = code };
	int err;

	text_copy(m.detail, sizeof m.detail, detail[0] ? detail : err_str(code));
	err = engine_fault_encode(&s->out, &m);
	return err ? err : send_out(s);
}

static int session_fault(struct server *s, const uint8_t *session, uint32_t epoch, uint32_t stage, int code, uint32_t position,
			 const char *detail)
{
	struct fault_message m = { .epoch = epoch, .stage = stage, .code = code, .position = position };
	int err;

	memcpy(m.session, session, SESSION_BYTES);
	text_copy(m.detail, sizeof m.detail, detail[0] ? detail : err_str(code));
	err = fault_encode(&s->out, &m);
	return err ? err : send_out(s);
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
	return engine_progress_encode(&s->out, &m) == 0 && send_out(s) == 0;
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
	return err ? request_fault(s, request, err, why) : send_out(s);
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
	sessions_release(&s->sessions);
	sample_release(&s->sample);
	free(s->rows);
	s->rows = NULL;
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
static int compare_budget(struct server *s, const struct engine_load *m, const struct memory_use *sum, char *why, size_t why_size)
{
	uint64_t limit, used = memory_data(&limit), total = sum->weights + sum->kv + sum->compute, largest = 0, passing;

	for (size_t i = 0; i < s->directory.n_tensors; i++)
		if (s->directory.tensors[i].size > largest && is_loaded(s, m, &s->directory.tensors[i]))
			largest = s->directory.tensors[i].size;
	passing = sum->planned + largest + (uint64_t)m->threads * (8u << 20) + (8u << 20);
	if (m->memory_max && total > m->memory_max) {
		snprintf(why, why_size, "needs %.1f MiB (weights %.1f, %u sessions of %u positions %.1f, compute %.1f), but %.1f MiB are granted",
			 mib(total), mib(sum->weights), m->sessions, m->context, mib(sum->kv), mib(sum->compute), mib(m->memory_max));
		return ERR_BUDGET;
	}
	if (limit != UINT64_MAX && used + total + passing > limit) {
		snprintf(why, why_size, "needs %.1f MiB (weights %.1f, %u sessions of %u positions %.1f, compute %.1f) and %.1f MiB to plan and load, "
			 "but the process is limited to %.1f MiB and uses %.1f already", mib(total), mib(sum->weights), m->sessions, m->context,
			 mib(sum->kv), mib(sum->compute), mib(passing), mib(limit), mib(used));
		return ERR_BUDGET;
	}
	return 0;
}

/* First by arithmetic, so that the simulated loads themselves have room; then by what those say. */
static int check_budget(struct server *s, const struct engine_load *m, char *why, size_t why_size)
{
	int (*const ways[])(const struct shard_config *, struct memory_use *, char *, size_t) = { shard_lower_bound, shard_estimate };
	int err = 0;

	for (size_t way = 0; way < 2 && !err; way++) {
		struct memory_use sum = { 0 };

		for (size_t i = 0; i < m->n_ranges && !err; i++) {
			struct shard_config config = config_of(s, m, m->ranges[i]);
			struct memory_use use;

			err = ways[way](&config, &use, why, why_size);
			sum.weights += use.weights;
			sum.kv += use.kv;
			sum.compute += use.compute;
			sum.planned += use.planned;
		}
		if (!err)
			err = compare_budget(s, m, &sum, why, why_size);
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
		err = sample_init(&s->sample, s->directory.n_vocab);
	s->rows = calloc((size_t)CHUNK_ROWS * s->directory.n_embd, sizeof *s->rows);
	s->grammars = calloc(s->sessions.n, sizeof *s->grammars);
	return err ? err : s->rows && s->grammars ? 0 : -ENOMEM;
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
	err = err ? request_fault(s, m.request, err, why) : send_out(s);
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

static int on_render(struct server *s, const struct frame *frame)
{
	struct engine_rendered answer = { 0 };
	struct engine_render m;
	char why[WHY] = "";
	struct buf tokens;
	int err;

	err = engine_render_decode(frame, &m);
	if (err)
		return err;
	buf_init(&tokens, FRAME_TAIL_MAX);
	if (!text_model(s)) {
		snprintf(why, sizeof why, s->loaded ? "only the first or the last layers come with the vocabulary, and neither is loaded here"
						    : "no model is loaded");
		err = ERR_UNSUPPORTED;
	} else {
		err = render_tokens(text_model(s), &m, &tokens, why, sizeof why);
	}
	answer.request = m.request;
	answer.n_tokens = tokens.length / 4;
	answer.tokens = tokens.data;
	if (!err)
		err = engine_rendered_encode(&s->out, &answer);
	err = err ? request_fault(s, m.request, err, why) : send_out(s);
	buf_release(&tokens);
	engine_render_free(&m);
	return err;
}

/* --- sessions -------------------------------------------------------------------------------------- */

/* Where the other session is gone or computes other layers the new one stays empty: its first rows are answered NEED_REPLAY. */
static void fork_session(struct server *s, struct session *session, const struct engine_open *m)
{
	const struct session *from = sessions_find(&s->sessions, m->from, m->stage);

	if (from && from->shard == session->shard && from->range.end == session->range.end &&
	    shard_copy(s->shards[session->shard], from->sequence, session->sequence))
		session_fork(session, from);
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
		fork_session(s, session, m);
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
		return session_fault(s, m.session, m.epoch, m.stage, err, 0, why);
	memcpy(ready.session, m.session, SESSION_BYTES);
	ready.epoch = m.epoch;
	ready.stage = m.stage;
	err = ready_encode(&s->out, &ready);
	return err ? err : send_out(s);
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
		shard_clear(s->shards[session->shard], session->sequence);
		session_close(session);
	}
	return err;
}

/* --- rows ------------------------------------------------------------------------------------------ */

/* The pieces of one answer, while it is written: each token's own, and its neighbours'. */
struct pieces {
	size_t n;
	uint8_t bytes[CHUNK_ROWS * (1 + TOP_LOGPROBS_MAX)][PIECE_MAX];
};

static int take_piece(struct shard *shard, int32_t id, struct pieces *pieces, const uint8_t **piece, uint32_t *length,
		      bool *end, char *why, size_t why_size)
{
	uint8_t *at = pieces->bytes[pieces->n++];
	int n = render_piece(shard_vocab(shard), id, at, end);

	if (n < 0) {
		snprintf(why, why_size, "a token's text is longer than %d bytes", PIECE_MAX);
		return n;
	}
	*piece = at;
	*length = (uint32_t)n;
	return 0;
}

static int tell_top(struct server *s, struct shard *shard, const float *logits, size_t max, struct token *token, struct pieces *pieces,
		    char *why, size_t why_size)
{
	struct candidate top[TOP_LOGPROBS_MAX];
	size_t n = sample_top(logits, s->directory.n_vocab, top, max);
	bool end;
	int err = 0;

	for (size_t i = 0; i < n && !err; i++) {
		struct token_top *t = &token->top[i];

		t->id = top[i].id;
		t->logprob = top[i].logit;
		err = take_piece(shard, t->id, pieces, &t->piece, &t->piece_length, &end, why, why_size);
	}
	token->n_top = (uint32_t)n;
	return err;
}

/* What may stand at position by the session's grammar: *filter, or NULL without one. */
static int follow_grammar(struct server *s, const struct session *session, uint32_t position, struct sample_filter *filter,
			  const struct sample_filter **out, uint32_t *missing, char *why, size_t why_size)
{
	struct grammar *grammar = s->grammars[session - s->sessions.all];
	const int32_t *answer;
	size_t n;
	int err;

	*out = NULL;
	if (!grammar)
		return 0;
	err = session_answer(session, position, &answer, &n, missing);
	if (!err)
		err = grammar_follow(grammar, answer, n, why, why_size);
	*filter = grammar_filter(grammar);
	*out = filter;
	return err;
}

/* The wanted tokens, sampled one after the other: each may lean on those before it. *missing: with ERR_NEED_REPLAY, from where. */
static int sample_tokens(struct server *s, struct session *session, const struct rows_block *b, struct tokens_message *m,
			 struct pieces *pieces, uint32_t *missing, char *why, size_t why_size)
{
	struct shard *shard = s->shards[session->shard];

	session_reached(session, b->position + b->count);
	for (uint32_t i = 0; i < b->want; i++) {
		uint32_t position = b->position + b->count - b->want + 1 + i;
		struct token *token = &m->tokens[i];
		const float *logits = shard_logits(shard, i);
		int32_t recent[SAMPLE_WINDOW];
		size_t n = session_recent(session, position, recent, SAMPLE_WINDOW);
		const struct sample_filter *filter;
		struct sample_filter grammar;
		int err;

		err = follow_grammar(s, session, position, &grammar, &filter, missing, why, why_size);
		if (err)
			return err;
		token->id = sample_choose(&s->sample, logits, &session->sampling, position, recent, n, filter, &token->logprob);
		if (token->id == SAMPLE_NONE) {          /* a grammar that is complete, and a vocabulary that cannot say so */
			*token = (struct token){ .end = true };
			continue;
		}
		if (token->id < 0)
			return token->id;
		err = take_piece(shard, token->id, pieces, &token->piece, &token->piece_length, &token->end, why, why_size);
		if (!err)
			err = tell_top(s, shard, logits, session->sampling.top, token, pieces, why, why_size);
		if (err)
			return err;
		token->end = token->end && !session->sampling.ignore_end;
		session_sampled(session, position, token->id);
		if (s->config->logits && s->config->n_logits >= s->directory.n_vocab && i + 1 == b->want)
			memcpy(s->config->logits, logits, s->directory.n_vocab * sizeof *logits);
	}
	m->n_tokens = b->want;
	return 0;
}

static int answer_tokens(struct server *s, struct session *session, const struct rows_block *b, int64_t begin, uint32_t *missing, char *why,
			 size_t why_size)
{
	static struct pieces pieces;
	static struct tokens_message m;
	int err;

	m = (struct tokens_message){ .epoch = b->epoch, .sequence = b->sequence, .position = b->position + b->count - b->want + 1 };
	pieces.n = 0;
	memcpy(m.session, b->session, SESSION_BYTES);
	err = sample_tokens(s, session, b, &m, &pieces, missing, why, why_size);
	if (err)
		return err;
	m.microseconds = (uint32_t)(ggml_time_us() - begin);
	return tokens_encode(&s->out, &m);
}

static int answer_rows(struct server *s, struct session *session, const struct rows_block *b, int64_t begin)
{
	struct rows_message m = { .n_blocks = 1 };
	struct rows_block *to = &m.blocks[0];

	*to = *b;
	to->stage = b->stage + 1;
	to->encoding = ENCODING_F32;
	to->rows = (const uint8_t *)shard_output(s->shards[session->shard]);
	to->rows_length = (size_t)b->count * s->directory.n_embd * sizeof(float);
	to->microseconds = (uint32_t)(ggml_time_us() - begin);
	return rows_encode(&s->out, &m);
}

/* What came, as the shard wants it: aligned, and of the right shape for this model. */
static int take_rows(struct server *s, const struct rows_block *b, struct shard_rows *in, int32_t *tokens, char *why, size_t why_size)
{
	*in = (struct shard_rows){ .position = b->position, .count = b->count, .want = b->want };
	if (b->encoding == ENCODING_TOKEN && b->rows_length == b->count * sizeof(int32_t)) {
		for (uint32_t i = 0; i < b->count; i++)
			tokens[i] = (int32_t)get_u32(b->rows + 4 * i);
		in->tokens = tokens;
		return 0;
	}
	if (b->encoding == ENCODING_F32 && b->rows_length == (size_t)b->count * s->directory.n_embd * sizeof(float)) {
		memcpy(s->rows, b->rows, b->rows_length);
		in->rows = s->rows;
		return 0;
	}
	snprintf(why, why_size, "the rows are not %u rows of %u", b->count, s->directory.n_embd);
	return ERR_MALFORMED;
}

/* One session's block: 0 with an answer in s->out, or an error for that session with *position for a replay. */
static int compute_block(struct server *s, struct session *session, const struct rows_block *b, uint32_t *position, char *why, size_t why_size)
{
	struct shard *shard = s->shards[session->shard];
	int32_t tokens[CHUNK_ROWS];
	int64_t begin = ggml_time_us();
	struct shard_rows in;
	int err;

	err = take_rows(s, b, &in, tokens, why, why_size);
	if (err)
		return err;
	in.layers = session->range.end - session->range.first;
	err = shard_truncate(shard, session->sequence, b->position, position);
	if (err) {
		snprintf(why, why_size, "positions from %u on are needed again", *position);
		return err;
	}
	err = shard_compute(shard, session->sequence, &in, why, why_size);
	if (err)
		return err;
	if (in.tokens)
		session_given(session, b->position, in.tokens, b->count);
	return shard_ends(shard) ? answer_tokens(s, session, b, begin, position, why, why_size) : answer_rows(s, session, b, begin);
}

static int server_block(struct server *s, const struct rows_block *b)
{
	struct session *session = s->loaded ? sessions_find(&s->sessions, b->session, b->stage) : NULL;
	uint32_t position = 0;
	char why[WHY] = "";
	int err;

	if (!session) {
		snprintf(why, sizeof why, "the session is not open here");
		return session_fault(s, b->session, b->epoch, b->stage, ERR_UNKNOWN, 0, why);
	}
	switch (session_take(session, b, &err, why, sizeof why)) {
	case SESSION_DROP:
		return 0;
	case SESSION_FAULT:
		return session_fault(s, b->session, b->epoch, b->stage, err, 0, why);
	case SESSION_COMPUTE:
		break;
	}
	err = compute_block(s, session, b, &position, why, sizeof why);
	if (!err)
		return send_out(s);
	buf_clear(&s->out);
	if (err != ERR_NEED_REPLAY)
		session->faulted = true;
	return session_fault(s, b->session, b->epoch, b->stage, err, position, why);
}

static int on_rows(struct server *s, const struct frame *frame)
{
	static struct rows_message m;
	int err = rows_decode(frame, &m);

	for (size_t i = 0; i < m.n_blocks && !err; i++)
		err = server_block(s, &m.blocks[i]);
	return err;
}

/* --- the loop -------------------------------------------------------------------------------------- */

static int say_hello(struct server *s)
{
	struct engine_hello m = { .sandboxed = s->config->sandboxed };
	int err;

	server_engine_name(m.engine, sizeof m.engine);
	err = engine_hello_encode(&s->out, &m);
	return err ? err : send_out(s);
}

static int dispatch(struct server *s, const struct frame *frame)
{
	switch (frame->type) {
	case FRAME_ENGINE_INSPECT: return on_inspect(s, frame);
	case FRAME_ENGINE_LOAD: return on_load(s, frame);
	case FRAME_ENGINE_OPEN: return on_open(s, frame);
	case FRAME_ENGINE_RENDER: return on_render(s, frame);
	case FRAME_ROWS: return on_rows(s, frame);
	case FRAME_CLOSE: return on_close(s, frame);
	default: return frame->type >= 128 ? 0 : ERR_UNSUPPORTED;
	}
}

int server_run(const struct server_config *config)
{
	struct server *s = calloc(1, sizeof *s);
	struct frame frame;
	int err;

	if (!s)
		return -ENOMEM;
	s->config = config;
	wire_init(&s->wire, config->fd);
	buf_init(&s->out, FRAME_MAX);
	err = say_hello(s);
	while (!err) {
		err = wire_next(&s->wire, &frame);
		if (!err)
			err = dispatch(s, &frame);
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
