/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/route/gateway.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"

enum party_kind { PARTY_CALL, PARTY_SERVED };

struct party {                               /* a stream's user: the first member of both kinds */
	enum party_kind kind;
	struct gateway *gateway;
	struct sealed_stream *stream;
};

struct gateway_call {
	struct party party;
	struct gateway_call *next;
	struct gateway_question question;    /* model and messages are not kept: they are in frames */
	struct buf frames[3];                /* until the stream stands */
	bool enough;
};

struct served {
	struct party party;
	struct served *next;
	uint8_t node[KEY_BYTES], session[SESSION_BYTES];
	bool asked;
	struct gateway_ask ask;
	struct buf open;                     /* the frame with the sampling, until the text is there */
	struct route_question *question;
	uint8_t model[KEY_BYTES];
	uint32_t prompt_tokens, tokens;
};

struct gateway {
	struct gateway_config config;
	struct sealed *sealed;
	struct gateway_call *calls;
	struct served *served;
	struct gateway_counts counts;
};

static int send_frame(struct party *party, int err, struct buf *frame)
{
	if (!err)
		err = sealed_send(party->stream, frame);
	buf_release(frame);
	return err;
}

/* --- asking elsewhere --------------------------------------------------------------------------------- */

static void call_free(struct gateway_call *call)
{
	struct gateway_call **at = &call->party.gateway->calls;
	while (*at && *at != call)
		at = &(*at)->next;
	if (*at)
		*at = call->next;
	for (size_t i = 0; i < 3; i++)
		buf_release(&call->frames[i]);
	free(call);
}

static void call_end(struct gateway_call *call, const struct gateway_end *end)
{
	struct gateway_question question = call->question;
	call_free(call);
	question.on_end(question.arg, end);
}

static void call_failed(struct gateway_call *call, int why, const char *detail)
{
	struct gateway_end end = {.err = why < 0 ? why : ERR_UNREACHABLE};
	text_copy(end.detail, sizeof end.detail, detail);
	call_end(call, &end);
}

int gateway_ask(struct gateway *g, const uint8_t node[KEY_BYTES], const struct gateway_question *question, struct gateway_call **out)
{
	struct gateway_call *call = calloc(1, sizeof *call);
	struct gateway_ask ask = {.max_tokens = question->max_tokens};
	struct engine_open open = {.range = {0, 1}, .context = 1, .sampling = question->sampling};
	struct engine_render render = {.chat = question->chat, .add_special = true, .parse_special = question->chat,
				       .n_messages = question->n_messages, .messages = (struct render_message *)question->messages};
	*out = NULL;
	if (!call)
		return -ENOMEM;
	call->party = (struct party){.kind = PARTY_CALL, .gateway = g};
	call->question = *question;
	call->question.model = NULL;
	call->question.messages = NULL;
	for (size_t i = 0; i < 3; i++)
		buf_init(&call->frames[i], SEALED_FRAME_MAX);
	int err = text_copy(ask.model, sizeof ask.model, question->model);
	if (!err)
		err = gateway_ask_encode(&call->frames[0], &ask);
	if (!err)
		err = engine_open_encode(&call->frames[1], &open);
	if (!err)
		err = engine_render_encode(&call->frames[2], &render);
	if (!err)
		err = sealed_open(g->sealed, node, &call->party, &call->party.stream);
	if (err) {
		call_free(call);
		return err;
	}
	call->next = g->calls;
	g->calls = call;
	g->counts.asked++;
	*out = call;
	return 0;
}

void gateway_cancel(struct gateway_call *call)
{
	sealed_close(call->party.stream, ERR_CANCELLED);
	call_free(call);
}

static void call_up(struct gateway_call *call)
{
	int err = 0;
	for (size_t i = 0; i < 3; i++) {
		if (!err)
			err = sealed_send(call->party.stream, &call->frames[i]);
		buf_release(&call->frames[i]);       /* nothing said is kept longer than it is needed */
	}
	if (err) {
		sealed_close(call->party.stream, ERR_CANCELLED);
		call_failed(call, err, "the way there is too busy for the question");
	}
}

static void say_enough(struct gateway_call *call)
{
	struct buf frame;
	struct close_message m = {.stage = UINT32_MAX};
	buf_init(&frame, 4096);
	call->enough = true;
	send_frame(&call->party, close_encode(&frame, &m), &frame);
}

static int call_frame(struct gateway_call *call, const struct frame *f)
{
	struct gateway_start start;
	struct tokens_message tokens;
	struct gateway_end end;
	int err;
	switch (f->type) {
	case FRAME_GATEWAY_START:
		err = gateway_start_decode(f, &start);
		if (!err)
			call->question.on_start(call->question.arg, &start);
		return err;
	case FRAME_TOKENS:
		err = tokens_decode(f, &tokens);
		for (size_t i = 0; !err && i < tokens.n_tokens && !call->enough; i++)
			if (!call->question.on_token(call->question.arg, &tokens.tokens[i]))
				say_enough(call);
		return err;
	case FRAME_GATEWAY_END:
		err = gateway_end_decode(f, &end);
		if (err)
			return err;
		sealed_close(call->party.stream, 0);
		call_end(call, &end);
		return 0;
	default:
		return f->type < FRAME_IGNORABLE ? ERR_UNSUPPORTED : 0;
	}
}

/* --- answering for others ----------------------------------------------------------------------------- */

static void served_free(struct served *served)
{
	struct served **at = &served->party.gateway->served;
	while (*at && *at != served)
		at = &(*at)->next;
	if (*at)
		*at = served->next;
	buf_release(&served->open);
	free(served);
}

static void charge(struct served *s, uint64_t rows, uint64_t microseconds)
{
	struct gateway *g = s->party.gateway;
	struct gateway_use use = {.rows = rows, .microseconds = microseconds};
	memcpy(use.node, s->node, KEY_BYTES);
	memcpy(use.model, s->model, KEY_BYTES);
	memcpy(use.session, s->session, SESSION_BYTES);
	if (rows)
		g->config.used(g->config.arg, &use);
}

/* The last word, and the stream's end. */
static void served_end(struct served *s, const struct gateway_end *end)
{
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	send_frame(&s->party, gateway_end_encode(&frame, end), &frame);
	sealed_close(s->party.stream, 0);
	served_free(s);
}

/* Stops what runs for them; its stages are not known any more, so each token counts once. */
static void stop_question(struct served *s)
{
	if (!s->question)
		return;
	route_cancel(s->question);
	s->question = NULL;
	charge(s, s->prompt_tokens + s->tokens, 0);
}

static void served_fail(struct served *s, int err, const char *detail, uint32_t retry_after)
{
	struct gateway_end end = {.err = err, .retry_after = retry_after, .prompt_tokens = s->prompt_tokens, .completion_tokens = s->tokens};
	text_copy(end.detail, sizeof end.detail, detail);
	stop_question(s);
	served_end(s, &end);
}

static void on_start(void *arg, const char *model, uint32_t prompt_tokens)
{
	struct served *s = arg;
	struct buf frame;
	struct gateway_start start = {.prompt_tokens = prompt_tokens};
	const char *at = strchr(model, '@');
	size_t n = at ? (size_t)(at - model) : strlen(model);
	snprintf(start.model, sizeof start.model, "%.*s", (int)n, model);
	text_copy(start.association, sizeof start.association, at ? at + 1 : "");
	s->prompt_tokens = prompt_tokens;
	buf_init(&frame, 4096);
	send_frame(&s->party, gateway_start_encode(&frame, &start), &frame);
}

/* Tokens go as they are: the asker makes text of them, as it does with those of its own engine. */
static void on_text(void *arg, const char *text, size_t n, const struct token *token)
{
	struct served *s = arg;
	struct gateway *g = s->party.gateway;
	struct tokens_message m = {.sequence = s->tokens, .position = s->prompt_tokens + s->tokens, .n_tokens = 1};
	struct buf frame;
	char detail[200] = "";
	(void)text;
	(void)n;
	if (!token)
		return;
	m.tokens[0] = *token;
	s->tokens++;
	buf_init(&frame, FRAME_MAX);
	int err = send_frame(&s->party, tokens_encode(&frame, &m), &frame);
	if (err) {
		served_fail(s, ERR_BUSY, "the answer is not read", 0);
		return;
	}
	if (s->tokens % GATEWAY_PERMIT_TOKENS == 0 && (err = g->config.permit(g->config.arg, s->node, s->model, detail, sizeof detail)))
		served_fail(s, err, detail, 0);
}

static void on_end(void *arg, const struct route_result *result)
{
	struct served *s = arg;
	struct gateway_end end = {
		.err = result->err, .length = result->finish && !strcmp(result->finish, "length"), .retry_after = result->retry_after,
		.prompt_tokens = result->prompt_tokens, .completion_tokens = result->completion_tokens,
		.prefill_us = result->prefill_us, .decode_us = result->decode_us,
	};
	uint64_t rows = 0, microseconds = 0;
	text_copy(end.detail, sizeof end.detail, result->detail);
	for (size_t i = 0; i < result->n_stages; i++) {
		const struct route_stage *from = &result->stages[i];
		struct gateway_stage *to = &end.stages[end.n_stages++];
		memcpy(to->node, from->node, KEY_BYTES);
		to->text = from->text;
		to->range = from->range;
		to->rows = from->rows;
		to->microseconds = from->microseconds;
		rows += from->rows;
		microseconds += from->microseconds;
	}
	s->question = NULL;
	charge(s, rows, microseconds);
	served_end(s, &end);
}

static void answer(struct served *s, const struct engine_open *open, const struct engine_render *render)
{
	struct gateway *g = s->party.gateway;
	struct route_model model;
	char why[300] = "";
	int err = route_find(g->config.route, s->ask.model, &model, why, sizeof why);
	if (!err) {
		memcpy(s->model, model.id, KEY_BYTES);
		err = g->config.permit(g->config.arg, s->node, s->model, why, sizeof why);
	}
	if (err) {
		served_fail(s, err, why[0] ? why : err_str(err), 0);
		return;
	}
	struct route_ask ask = {
		.model = s->ask.model, .chat = render->chat, .n_messages = render->n_messages, .messages = render->messages,
		.max_tokens = s->ask.max_tokens, .sampling = open->sampling, .logprobs = true, .here = true,
		.on_start = on_start, .on_text = on_text, .on_end = on_end, .arg = s,
	};
	memcpy(ask.tenant, s->node, KEY_BYTES);
	err = route_ask(g->config.route, &ask, &s->question);
	if (err) {
		uint32_t retry = route_explain(g->config.route, s->ask.model, err, why, sizeof why);
		served_fail(s, err, why, retry);
	} else {
		g->counts.served++;
	}
}

static int served_frame(struct served *s, const struct frame *f)
{
	struct engine_open open;
	struct engine_render render;
	struct close_message closing;
	struct frame kept;
	size_t used;
	int err;
	switch (f->type) {
	case FRAME_GATEWAY_ASK:
		if (s->asked)
			return ERR_MALFORMED;
		s->asked = true;
		return gateway_ask_decode(f, &s->ask);
	case FRAME_ENGINE_OPEN:
		if (!s->asked || s->open.length)
			return ERR_MALFORMED;
		err = engine_open_decode(f, &open);
		return err ? err : frame_encode(&s->open, f->type, f->head, f->head_length, f->tail, f->tail_length);
	case FRAME_ENGINE_RENDER:
		if (!s->open.length || s->question)
			return ERR_MALFORMED;
		err = engine_render_decode(f, &render);
		if (err)
			return err;
		if (!frame_decode(s->open.data, s->open.length, &kept, &used) && !engine_open_decode(&kept, &open))
			answer(s, &open, &render);
		engine_render_free(&render);
		return 0;
	case FRAME_CLOSE:
		err = close_decode(f, &closing);
		if (!err && s->question)
			route_stop(s->question);
		return err;
	default:
		return f->type < FRAME_IGNORABLE ? ERR_UNSUPPORTED : 0;
	}
}

/* --- streams ------------------------------------------------------------------------------------------ */

static void *on_open(void *owner, struct sealed_stream *stream, const uint8_t node[KEY_BYTES])
{
	struct gateway *g = owner;
	struct served *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->party = (struct party){.kind = PARTY_SERVED, .gateway = g, .stream = stream};
	memcpy(s->node, node, KEY_BYTES);
	g->config.sealed.random(g->config.sealed.arg, s->session, sizeof s->session);
	buf_init(&s->open, FRAME_MAX);
	s->next = g->served;
	g->served = s;
	return &s->party;
}

static void on_up(void *owner, void *user)
{
	(void)owner;
	call_up(user);
}

static int on_frame(void *owner, void *user, const struct frame *f)
{
	struct party *party = user;
	(void)owner;
	return party->kind == PARTY_CALL ? call_frame(user, f) : served_frame(user, f);
}

static void on_closed(void *owner, void *user, int why, const char *detail)
{
	struct party *party = user;
	(void)owner;
	if (party->kind == PARTY_CALL) {
		call_failed(user, why, detail);
		return;
	}
	stop_question(user);
	served_free(user);
}

void gateway_on_frame(struct gateway *g, const uint8_t neighbour[KEY_BYTES], const struct frame *frame)
{
	sealed_on_frame(g->sealed, neighbour, frame);
}

void gateway_on_down(struct gateway *g, const uint8_t neighbour[KEY_BYTES])
{
	sealed_on_down(g->sealed, neighbour);
}

void gateway_recheck(struct gateway *g)
{
	char detail[200] = "";
	for (struct served *s = g->served, *next; s; s = next) {
		next = s->next;
		int err = s->question ? g->config.permit(g->config.arg, s->node, s->model, detail, sizeof detail) : 0;
		if (err)
			served_fail(s, err, detail, 0);
	}
}

void gateway_tick(struct gateway *g)
{
	sealed_tick(g->sealed);
}

struct gateway_counts gateway_counts(const struct gateway *g)
{
	struct gateway_counts counts = g->counts;
	for (const struct served *s = g->served; s; s = s->next)
		counts.serving += s->question != NULL;
	counts.sealed = sealed_counts(g->sealed);
	return counts;
}

int gateway_new(struct gateway **out, const struct gateway_config *config)
{
	struct gateway *g = calloc(1, sizeof *g);
	if (!g)
		return -ENOMEM;
	g->config = *config;
	struct sealed_config sealed = config->sealed;
	sealed.on_open = on_open;
	sealed.on_up = on_up;
	sealed.on_frame = on_frame;
	sealed.on_closed = on_closed;
	sealed.owner = g;
	int err = sealed_new(&g->sealed, &sealed);
	if (err) {
		free(g);
		return err;
	}
	*out = g;
	return 0;
}

void gateway_free(struct gateway *g)
{
	while (g->calls) {
		sealed_close(g->calls->party.stream, ERR_CANCELLED);
		call_failed(g->calls, ERR_CANCELLED, "this node is stopping");
	}
	while (g->served) {
		stop_question(g->served);
		served_free(g->served);
	}
	sealed_free(g->sealed);
	free(g);
}
