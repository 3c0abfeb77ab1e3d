/* Questions: one body, one or several choices, one answer. Each choice is a question of its own to route: choice i is answered as if
 * it alone had been asked with seed + i. A choice for which there is no room waits until another of the same request has ended.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/api/api_internal.h"
#include "proto/err.h"
#include "proto/text.h"

/* --- the end of it all ------------------------------------------------------------------------------------- */

static void cancel_choices(struct request *r)
{
	for (size_t i = 0; r->choices && i < r->q.n_choices; i++) {
		struct api_choice *c = &r->choices[i];
		struct route_question *question = c->question;
		c->question = NULL;
		c->waits = false;
		if (question)
			route_cancel(question);
	}
	if (r->running)
		r->api->running--;
	r->running = false;
}

static void release(struct request *r)
{
	for (size_t i = 0; r->choices && i < r->q.n_choices; i++) {
		buf_release(&r->choices[i].text);
		api_logprobs_release(&r->choices[i].logprobs);
	}
	free(r->choices);
	r->choices = NULL;
	api_question_release(&r->q);
}

void api_stop(struct request *r)
{
	api_text_stop(r);
	cancel_choices(r);
	r->ended = true;
}

/* No more of it: what is wrong stands in error, or the client is gone. */
static void give_up(struct request *r)
{
	bool said = false;
	for (size_t i = 0; i < r->q.n_choices; i++)
		said |= r->choices[i].started;
	cancel_choices(r);
	r->ended = true;
	if (r->q.stream && said && !r->gone && r->error.status)
		api_chunk_error(&r->out, &r->error);
	if (r->q.stream && said)
		r->error.status = 0;             /* told as an event, not by a status */
	api_resume(r);
}

/* --- what route says ----------------------------------------------------------------------------------------- */

static int start(struct request *r, size_t index);

static void on_start(void *arg, const char *model, uint32_t prompt_tokens)
{
	struct api_choice *c = arg;
	(void)prompt_tokens;
	text_copy(c->request->head.model, sizeof c->request->head.model, model);
}

static size_t index_of(const struct api_choice *c)
{
	return (size_t)(c - c->request->choices);
}

static void start_stream(struct api_choice *c)
{
	if (!c->started)
		api_chunk_start(&c->request->out, &c->request->head, index_of(c));
	c->started = true;
}

static size_t bytes_kept(const struct request *r)
{
	size_t n = r->out.length;
	for (size_t i = 0; i < r->q.n_choices; i++) {
		const struct api_logprobs *l = &r->choices[i].logprobs;
		n += r->choices[i].text.length + l->tokens.length + l->values.length + l->tops.length + l->offsets.length;
	}
	return n;
}

static void on_text(void *arg, const char *text, size_t n, const struct token *token)
{
	struct api_choice *c = arg;
	struct request *r = c->request;
	struct api_logprobs *logprobs = r->q.logprobs ? &c->logprobs : NULL;
	int err = logprobs && token ? api_logprobs_add(logprobs, token) : 0;
	if (n && logprobs)
		api_logprobs_keep(logprobs);
	if (n && r->q.stream) {
		start_stream(c);
		api_chunk_text(&r->out, &r->head, index_of(c), text, n, logprobs);
	} else if (!err) {
		err = buf_append(&c->text, text, n);
	}
	if (err || bytes_kept(r) > API_QUEUE_MAX) {
		/* The client does not read its stream: its answer is given up rather than kept in memory. */
		r->gone = r->q.stream;
		if (err == -ENOMEM)
			api_error_from(&r->error, err, ROUTE_NO_MEMORY, 0);
		else if (!r->q.stream)
			api_error_set(&r->error, 500, "server_error", "answer_too_large", NULL,
				      "the answer grew past %u MiB: ask for fewer tokens or with stream: true", API_QUEUE_MAX >> 20);
		give_up(r);
	} else if (n && r->q.stream) {
		api_resume(r);
	}
}

/* Choices that wait get the places that have become free. */
static void start_waiting(struct request *r)
{
	for (size_t i = 0; i < r->q.n_choices; i++) {
		if (!r->choices[i].waits)
			continue;
		int err = start(r, i);
		if (err) {
			api_explain(r, r->q.model, err);
			give_up(r);
		}
		if (err || r->choices[i].waits)
			return;
	}
}

static bool others_run(const struct request *r)
{
	for (size_t i = 0; i < r->q.n_choices; i++)
		if (r->choices[i].question)
			return true;
	return false;
}

static void on_end(void *arg, const struct route_result *result)
{
	struct api_choice *c = arg;
	struct request *r = c->request;
	bool all = true;
	c->question = NULL;
	if ((result->err == ERR_BUSY || result->err == ERR_BUDGET) && !result->completion_tokens && others_run(r)) {
		c->waits = true;
		return;
	}
	c->result = *result;
	if (result->err) {
		api_error_from(&r->error, result->err, result->detail, result->retry_after);
		give_up(r);
		return;
	}
	c->ended = true;
	for (size_t i = 0; i < r->q.n_choices; i++)
		all = all && r->choices[i].ended;
	if (r->q.stream) {
		start_stream(c);
		api_chunk_end(&r->out, &r->head, r->choices, index_of(c), r->q.n_choices);
	}
	if (!all) {
		if (r->q.stream)
			api_resume(r);
		start_waiting(r);
		return;
	}
	if (r->q.stream)
		api_chunk_done(&r->out, &r->head, r->choices, r->q.n_choices, r->q.include_usage);
	r->ended = true;
	r->running = false;
	r->api->running--;
	api_resume(r);
}

/* --- asking ------------------------------------------------------------------------------------------------- */

/* Why the model cannot answer now, in words. */
void api_explain(struct request *r, const char *name, int err)
{
	char text[512];
	uint32_t retry = route_explain(r->api->config.route, name, err, text, sizeof text);
	api_error_from(&r->error, err, text, retry);
}

static int start(struct request *r, size_t index)
{
	const struct api_question *q = &r->q;
	struct api_choice *c = &r->choices[index];
	struct route_ask a = {
		.model = q->model, .chat = q->chat, .n_messages = q->n_messages, .messages = q->messages, .max_tokens = q->max_tokens,
		.sampling = q->sampling, .n_stops = q->n_stops, .logprobs = q->logprobs, .via = q->via, .on_start = on_start, .on_text = on_text, .on_end = on_end,
		.arg = c,
	};
	memcpy(a.stops, q->stops, sizeof a.stops);
	memcpy(a.tenant, r->tenant, sizeof a.tenant);
	a.sampling.seed += index;
	int err = route_ask(r->api->config.route, &a, &c->question);
	c->waits = err == ERR_BUSY && others_run(r);
	return c->waits ? 0 : err;
}

bool api_refuse_stopping(struct request *r)
{
	if (!r->api->draining && !r->api->closing)
		return false;
	api_error_set(&r->error, 503, "server_error", "stopping", NULL, "this node is stopping");
	r->error.retry_after = 10;
	return true;
}

static void fill_head(struct request *r)
{
	uint8_t id[12];
	char hex[2 * sizeof id + 1];
	randombytes_buf(id, sizeof id);
	text_hex(id, sizeof id, hex);
	snprintf(r->head.id, sizeof r->head.id, "%s-%s", r->q.chat ? "chatcmpl" : "cmpl", hex);
	r->head.chat = r->q.chat;
	r->head.created = (uint64_t)time(NULL);
}

enum MHD_Result api_ask(struct request *r, bool chat)
{
	r->asked = true;
	if (api_refuse_stopping(r))
		return api_reply_error(r);
	if (api_parse(r->body.data ? r->body.data : (uint8_t *)"", r->body.length, chat, &r->q, &r->error)) {
		api_question_release(&r->q);
		return api_reply_error(r);
	}
	buf_release(&r->body);                   /* nothing said is kept longer than it is needed */
	r->choices = calloc(r->q.n_choices, sizeof *r->choices);
	if (!r->choices) {
		api_question_release(&r->q);
		api_error_from(&r->error, -ENOMEM, NULL, 0);
		return api_reply_error(r);
	}
	fill_head(r);
	/* Only who has the same key goes on with what was asked with it. admit() found it right. */
	const char *key = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Authorization");
	crypto_generichash(r->tenant, sizeof r->tenant, (const uint8_t *)key, strlen(key), NULL, 0);
	if (!r->q.has_seed)
		randombytes_buf(&r->q.sampling.seed, sizeof r->q.sampling.seed);
	int err = 0;
	for (size_t i = 0; i < r->q.n_choices; i++) {
		r->choices[i].request = r;
		buf_init(&r->choices[i].text, API_OUT_MAX);
		api_logprobs_init(&r->choices[i].logprobs, chat);
	}
	r->running = true;
	r->api->running++;
	for (size_t i = 0; i < r->q.n_choices && !err; i++)
		err = start(r, i);
	if (err) {
		api_explain(r, r->q.model, err);
		cancel_choices(r);
		release(r);
		return api_reply_error(r);
	}
	api_suspend(r);
	return MHD_YES;
}

/* After the ring has something to say: called by MHD when the connection was resumed. */
enum MHD_Result api_answer(struct request *r)
{
	if (r->answering)
		return MHD_YES;
	if (r->gone)
		return MHD_NO;
	if (r->ended && r->error.status)
		return api_reply_error(r);
	if (r->choices && r->q.stream)
		return api_reply_stream(r);
	if (!r->ended) {                         /* resumed for nothing */
		api_suspend(r);
		return MHD_YES;
	}
	struct buf whole;
	buf_init(&whole, 8 * (size_t)API_QUEUE_MAX);
	if (r->choices)
		api_whole(&whole, &r->head, r->choices, r->q.n_choices, r->q.logprobs);
	enum MHD_Result ok = api_reply(r, 200, "application/json", r->choices ? &whole : &r->out);
	buf_release(&whole);
	return ok;
}

void api_forget(struct request *r)
{
	api_text_stop(r);
	cancel_choices(r);
	release(r);
}
