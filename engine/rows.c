/* rows.c: see server_internal.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <ggml.h>
#include <stdio.h>
#include <string.h>

#include "engine/grammar.h"
#include "engine/render.h"
#include "engine/server_internal.h"
#include "proto/err.h"

#define NOT_FINITE "the model computed values that are not finite"

/* --- answers --------------------------------------------------------------------------------------- */

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

/* The wanted tokens, sampled one after the other: each may lean on those before it. The first one's logits are that row's. *missing: with ERR_NEED_REPLAY, from where. */
static int sample_tokens(struct server *s, struct session *session, const struct rows_block *b, uint32_t row, struct tokens_message *m,
			 struct pieces *pieces, uint32_t *missing, char *why, size_t why_size)
{
	struct shard *shard = s->shards[session->shard];

	session_reached(session, b->position + b->count);
	for (uint32_t i = 0; i < b->want; i++) {
		uint32_t position = b->position + b->count - b->want + 1 + i;
		struct token *token = &m->tokens[i];
		const float *logits = shard_logits(shard, row + i);
		int32_t recent[SAMPLE_WINDOW];
		size_t n = session_recent(session, position, recent, SAMPLE_WINDOW);
		const struct sample_filter *filter;
		struct sample_filter grammar;
		int err;

		if (!logits) {
			snprintf(why, why_size, NOT_FINITE);
			return ERR_MODEL;
		}
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

static int answer_tokens(struct server *s, struct session *session, const struct waiting *w, uint32_t row, uint32_t *missing, char *why,
			 size_t why_size)
{
	static struct pieces pieces;
	static struct tokens_message m;
	const struct rows_block *b = &w->block;
	int64_t begin = ggml_time_us();
	int err;

	m = (struct tokens_message){ .epoch = b->epoch, .sequence = b->sequence, .position = b->position + b->count - b->want + 1 };
	pieces.n = 0;
	memcpy(m.session, b->session, SESSION_BYTES);
	err = sample_tokens(s, session, b, row, &m, &pieces, missing, why, why_size);
	if (err)
		return err;
	m.microseconds = (uint32_t)(w->microseconds + (uint64_t)(ggml_time_us() - begin));
	return tokens_encode(&s->out, &m);
}

static int answer_rows(struct server *s, const struct waiting *w)
{
	struct rows_message m = { .n_blocks = 1 };
	struct rows_block *to = &m.blocks[0];

	*to = w->block;
	to->stage++;
	to->encoding = ENCODING_F32;
	to->rows = (const uint8_t *)w->rows;
	to->rows_length = (size_t)to->count * s->directory.n_embd * sizeof(float);
	to->microseconds = (uint32_t)w->microseconds;
	return rows_encode(&s->out, &m);
}

/* The first block of a session's line cannot be computed. After a replay was asked for the session goes on, otherwise it is over
 * until it is opened again: what stands behind the block is not answered. */
static int fail_block(struct server *s, struct session *session, int code, uint32_t position, const char *why)
{
	const struct rows_block b = lines_first(&s->lines, session)->block;
	uint32_t have;

	buf_clear(&s->out);
	if (code == ERR_NEED_REPLAY) {
		lines_pop(&s->lines, session, false, 0);
	} else {
		lines_clear(&s->lines, session);
		session->faulted = true;
		shard_truncate(s->shards[session->shard], session->sequence, b.position, &have);
	}
	return server_fault(s, b.session, b.epoch, b.stage, code, position, why);
}

/* --- batches --------------------------------------------------------------------------------------- */

/* Rows of a session's line into its shard's batch. *position: where a replay would have to begin. */
static int add_part(struct server *s, const struct lines_part *part, uint32_t *position, char *why, size_t why_size)
{
	struct shard *shard = s->shards[part->session->shard];
	struct waiting *w = lines_first(&s->lines, part->session);
	int err = 0;

	*position = w->block.position;
	if (!w->done)
		err = shard_truncate(shard, part->session->sequence, w->block.position, position);
	if (err) {
		snprintf(why, why_size, "positions from %u on are needed again", *position);
		return err;
	}
	for (uint32_t rows = part->rows; rows && !err; w = w->next) {
		const struct rows_block *b = &w->block;
		uint32_t n = b->count - w->done < rows ? b->count - w->done : rows;
		struct shard_rows in = { .sequence = part->session->sequence, .position = b->position + w->done, .count = n,
					 .want = w->done + n == b->count ? b->want : 0, .tokens = w->tokens ? w->tokens + w->done : NULL };

		if (!w->tokens)
			in.rows = w->rows + (size_t)w->done * s->directory.n_embd;
		err = shard_add(shard, &in, why, why_size);
		rows -= n;
	}
	return err;
}

/* What a batch made of one session's rows, from `row` of the batch on. */
static int take_part(struct server *s, const struct lines_part *part, uint32_t row, double microseconds_row)
{
	struct session *session = part->session;
	struct shard *shard = s->shards[session->shard];
	size_t n_embd = s->directory.n_embd;
	char why[WHY] = "";
	int err = 0;

	for (uint32_t rows = part->rows; rows && !err;) {
		struct waiting *w = lines_first(&s->lines, session);
		const struct rows_block *b = &w->block;
		uint32_t n = b->count - w->done < rows ? b->count - w->done : rows, missing = 0;

		if (!shard_ends(shard)) {
			const float *out = shard_output(shard, row, n);

			if (!out)
				return fail_block(s, session, ERR_MODEL, 0, NOT_FINITE);
			memcpy(w->rows + w->done * n_embd, out, n * n_embd * sizeof *out);
		}
		w->done += n;
		w->microseconds += (uint64_t)(n * microseconds_row);
		row += n;
		rows -= n;
		if (w->done < b->count)
			break;
		if (w->tokens)
			session_given(session, b->position, w->tokens, b->count);
		if (shard_ends(shard))
			err = answer_tokens(s, session, w, row - b->want, &missing, why, sizeof why);
		else
			err = answer_rows(s, w);
		if (err)
			return fail_block(s, session, err, missing, why);
		lines_pop(&s->lines, session, b->count == 1 || b->want, ggml_time_us());
		err = server_send(s);
	}
	return err;
}

int rows_step(struct server *s)
{
	int64_t began = ggml_time_us(), ended;
	struct lines_batch batch;
	uint32_t position, row = 0;
	char why[WHY] = "";
	size_t n = 0;
	int err, computed;

	if (!lines_next(&s->lines, began, &batch))
		return 0;
	for (batch.n_rows = 0; n < batch.n; batch.n_rows += batch.parts[n++].rows) {
		err = add_part(s, &batch.parts[n], &position, why, sizeof why);
		if (!err)
			continue;
		/* Whoever stands behind it goes next: what was added so far must stay one piece. */
		if (n + 1 < batch.n)
			lines_again(&s->lines, batch.parts[n + 1].session);
		shard_drop(s->shards[batch.shard], batch.n_rows);
		err = fail_block(s, batch.parts[n].session, err, position, why);
		if (err)
			return err;
		break;
	}
	batch.n = n;
	if (!n)
		return 0;
	computed = shard_compute(s->shards[batch.shard], batch.layers, why, sizeof why);
	ended = ggml_time_us();
	if (!computed)
		lines_took(&s->lines, &batch, began, ended);
	err = 0;
	for (size_t i = 0; i < n && !err; row += batch.parts[i++].rows)
		err = computed ? fail_block(s, batch.parts[i].session, computed, 0, why)
			       : take_part(s, &batch.parts[i], row, (double)(ended - began) / batch.n_rows);
	return err;
}

int rows_finish(struct server *s, const struct session *session)
{
	int err = 0;

	while (!err && lines_first(&s->lines, session))
		err = rows_step(s);
	return err;
}

/* --- what comes ------------------------------------------------------------------------------------ */

static int check_shape(const struct server *s, const struct rows_block *b, char *why, size_t why_size)
{
	if ((b->encoding == ENCODING_TOKEN && b->rows_length == b->count * sizeof(int32_t)) ||
	    (b->encoding == ENCODING_F32 && b->rows_length == (size_t)b->count * s->directory.n_embd * sizeof(float)))
		return 0;
	snprintf(why, why_size, "the rows are not %u rows of %u", b->count, s->directory.n_embd);
	return ERR_MALFORMED;
}

static int take_block(struct server *s, const struct rows_block *b)
{
	struct session *session = s->loaded ? sessions_find(&s->sessions, b->session, b->stage) : NULL;
	char why[WHY] = "";
	int err, ended;

	if (!session) {
		snprintf(why, sizeof why, "the session is not open here");
		return server_fault(s, b->session, b->epoch, b->stage, ERR_UNKNOWN, 0, why);
	}
	switch (session_take(session, b, &err, why, sizeof why)) {
	case SESSION_DROP:
		return 0;
	case SESSION_FAULT:
		break;
	case SESSION_COMPUTE:
		err = check_shape(s, b, why, sizeof why);
		if (!err)
			err = lines_push(&s->lines, session, b, s->directory.n_embd, !shard_ends(s->shards[session->shard]), ggml_time_us());
		if (!err)
			return 0;
		if (err == -ENOMEM) {
			snprintf(why, sizeof why, "no memory for what waits here");
			err = ERR_BUSY;
		}
		session->faulted = true;
	}
	/* Answers come in the order of the blocks. */
	ended = rows_finish(s, session);
	return ended ? ended : server_fault(s, b->session, b->epoch, b->stage, err, 0, why);
}

int rows_take(struct server *s, const struct frame *frame)
{
	static struct rows_message m;
	int err = rows_decode(frame, &m);

	for (size_t i = 0; i < m.n_blocks && !err; i++)
		err = take_block(s, &m.blocks[i]);
	return err;
}
