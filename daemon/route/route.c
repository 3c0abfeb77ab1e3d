/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/route/route.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/route/gateway.h"
#include "proto/buf.h"
#include "proto/log.h"
#include "proto/text.h"

#define NODES_MAX 257
#define RETRY_BUSY_MOST_S 60
#define RETRY_BUDGET_S 600               /* a day's quota does not come back soon */

struct route_question {
	struct route *route;
	struct route_question *next;
	struct route_ask ask;               /* pointers of the caller's are replaced by copies below */
	char *name;
	struct render_message *messages;
	char *text;                         /* what messages point into */
	void *sampling;                     /* what ask.sampling points into */
	struct stops *stops;
	struct route_model model;
	struct ring_session *session;
	struct gateway_call *call;          /* another node answers */
	uint8_t via[KEY_BYTES];             /* that node */
	bool is_far;
	struct gateway_end *far;            /* what it said at the end; heap */
	uint8_t (*failed)[KEY_BYTES];       /* what the last plan avoids; for plans to come */
	struct ring_plan plan;
	int32_t *prompt;                    /* while it waits for a place; wiped */
	uint64_t waiting_us;                /* since then; 0: it does not */
	unsigned pass;                      /* it was last looked at in */
	bool rendering, telling, cancelled, enough;   /* telling: inside a callback of the asker's, who may cancel there */
	int fed;                               /* stops_feed() of the last piece: over 0 it stopped the answer, under 0 it is lost */
	uint64_t asked_us, first_us, last_us;
	uint32_t prompt_tokens, tokens;
};

struct route {
	struct route_config config;
	struct gateway *gateway;            /* NULL: none */
	struct route_question *questions;
	struct route_counts counts;
	uint64_t answer_us;                 /* how long answers take, a moving average */
	bool serving;                       /* those that wait; not from inside itself */
	unsigned pass;                      /* of serving them */
	char why[300];                      /* of the last question that could not be asked; "" when its model says enough */
};

static void stop_waiting(struct route_question *q)
{
	if (q->waiting_us && q->route)
		q->route->counts.waiting--;
	q->waiting_us = 0;
	if (q->prompt)
		sodium_memzero(q->prompt, q->prompt_tokens * sizeof *q->prompt);
	free(q->prompt);
	q->prompt = NULL;
}

static void question_free(struct route_question *q)
{
	struct route *r = q->route;
	struct route_question **at = r ? &r->questions : NULL;
	while (at && *at && *at != q)
		at = &(*at)->next;
	if (at && *at) {
		*at = q->next;
		r->counts.running--;
	}
	stop_waiting(q);
	stops_free(q->stops);
	free(q->far);
	free(q->messages);
	free(q->text);
	free(q->sampling);
	free(q->name);
	free(q);
}

/* --- models ---------------------------------------------------------------------------------------- */

size_t route_models(struct route *route, struct route_model *out, size_t max)
{
	return route->config.models(route->config.arg, out, max);
}

static void alias(const struct route_model *m, char *out, size_t size)
{
	snprintf(out, size, m->association[0] ? "%s@%s" : "%s", m->name, m->association);
}

/* How many letters two names begin with together: enough for "did you mean". */
static size_t common(const char *a, const char *b)
{
	size_t n = 0;
	while (a[n] && a[n] == b[n])
		n++;
	return n;
}

int route_find(struct route *route, const char *name, struct route_model *out, char *why, size_t why_size)
{
	struct route_model *models = calloc(ROUTE_MODELS_MAX, sizeof *models);
	if (!models)
		return -ENOMEM;
	size_t n = route_models(route, models, ROUTE_MODELS_MAX), found = 0, nearest = n, letters = 0;
	char candidates[300] = "";
	for (size_t i = 0; i < n; i++) {
		char full[2 * NAME_SIZE], hex[2 * KEY_BYTES + 1];
		alias(&models[i], full, sizeof full);
		text_hex(models[i].id, KEY_BYTES, hex);
		if (!strcmp(name, models[i].name) || !strcmp(name, full) || (strlen(name) >= 8 && !strncmp(name, hex, strlen(name)))) {
			*out = models[i];
			size_t used = strlen(candidates);
			snprintf(candidates + used, sizeof candidates - used, "%s%s", found ? ", " : "", full);
			found++;
		}
		if (common(name, models[i].name) > letters) {
			letters = common(name, models[i].name);
			nearest = i;
		}
	}
	int err = found == 1 ? 0 : found ? ERR_AMBIGUOUS : ERR_UNKNOWN;
	if (found > 1)
		snprintf(why, why_size, "several models are called that: %s; write the one you mean in full", candidates);
	else if (!found && !n)
		snprintf(why, why_size, "this node runs no model yet (essaim model list)");
	else if (!found && nearest < n)
		snprintf(why, why_size, "no such model here; did you mean '%s'", models[nearest].name);
	else if (!found)
		snprintf(why, why_size, "no such model here; there is '%s'", models[0].name);
	free(models);
	return err;
}

/* --- plans ----------------------------------------------------------------------------------------- */

static int plan_avoiding(struct route *route, const struct route_model *m, const uint8_t (*avoid)[KEY_BYTES], size_t n_avoid,
			 struct ring_plan *plan, char *why, size_t why_size)
{
	struct routing_node *nodes = calloc(NODES_MAX, sizeof *nodes);
	struct layer_range missing;
	if (!nodes)
		return -ENOMEM;
	size_t n = route->config.nodes(route->config.arg, m->id, nodes, NODES_MAX);
	int err = routing_plan(m->id, m->n_layer, nodes, n, avoid, n_avoid, plan, &missing);
	/* What others advertise of free sessions is a second old: the stage itself is asked, and says if it is full. */
	for (size_t i = 0; err == ERR_BUSY && i < n; i++)
		nodes[i].sessions_free += !nodes[i].self && !nodes[i].sessions_free;
	if (err == ERR_BUSY)
		err = routing_plan(m->id, m->n_layer, nodes, n, avoid, n_avoid, plan, &missing);
	free(nodes);
	if (err == ERR_UNREACHABLE)
		snprintf(why, why_size, "layers %u to %u of %s are ready on no node that answers this association just now (see: essaim ring %s)",
			 missing.first, missing.end - 1, m->name, m->name);
	else if (err == ERR_BUSY)
		snprintf(why, why_size, "every node that holds layers %u to %u is busy with as many conversations as it takes", missing.first,
			 missing.end - 1);
	else if (err == ERR_DENIED)
		snprintf(why, why_size, "this node does not hold the first and last layers of %s, so text would have to leave it", m->name);
	else if (err)
		snprintf(why, why_size, "%s", err_str(err));
	return err;
}

/* Is a plan of before still what its nodes offer? Another one may be better by now, but it would begin with nothing. */
static bool is_still_good(struct route *route, const struct route_model *m, const struct ring_plan *plan)
{
	struct routing_node *nodes = calloc(NODES_MAX, sizeof *nodes);
	struct ring_plan now;
	struct layer_range missing;
	size_t n = nodes ? route->config.nodes(route->config.arg, m->id, nodes, NODES_MAX) : 0, kept = 0;
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < plan->n_stages; k++)
			if (!memcmp(nodes[i].node, plan->stages[k].node, KEY_BYTES)) {
				nodes[kept++] = nodes[i];
				break;
			}
	int err = routing_plan(m->id, m->n_layer, nodes, kept, NULL, 0, &now, &missing);
	free(nodes);
	bool same = !err && now.n_stages == plan->n_stages;
	for (size_t k = 0; same && k < now.n_stages; k++)
		same = !memcmp(now.stages[k].node, plan->stages[k].node, KEY_BYTES) && now.stages[k].range.first == plan->stages[k].range.first &&
		       now.stages[k].range.end == plan->stages[k].range.end;
	return same;
}

int route_plan(struct route *route, const uint8_t model[KEY_BYTES], struct ring_plan *plan, char *why, size_t why_size)
{
	struct route_model *models = calloc(ROUTE_MODELS_MAX, sizeof *models);
	if (!models)
		return -ENOMEM;
	size_t n = route_models(route, models, ROUTE_MODELS_MAX);
	int err = ERR_UNKNOWN;
	snprintf(why, why_size, "this association has not approved the model (essaim model pull)");
	for (size_t i = 0; i < n; i++)
		if (!memcmp(models[i].id, model, KEY_BYTES)) {
			why[0] = 0;
			err = plan_avoiding(route, &models[i], NULL, 0, plan, why, why_size);
			if (err && models[i].why[0])
				snprintf(why, why_size, "%s", models[i].why);
		}
	free(models);
	return err;
}

/* --- a question's end -------------------------------------------------------------------------------- */

/* What the node that answered says of its ring. That it saw the text itself needs no saying. */
static void fill_far_stages(struct route_question *q, struct route_result *result)
{
	struct route *r = q->route;
	r->config.describe(r->config.arg, q->via, result->via, result->via_association);
	for (size_t i = 0; q->far && i < q->far->n_stages; i++) {
		const struct gateway_stage *from = &q->far->stages[i];
		struct route_stage *to = &result->stages[result->n_stages++];
		memcpy(to->node, from->node, KEY_BYTES);
		to->text = from->text || !memcmp(from->node, q->via, KEY_BYTES);
		to->range = from->range;
		to->rows = from->rows;
		to->microseconds = from->microseconds;
		r->config.describe(r->config.arg, to->node, to->name, to->association);
	}
}

static void fill_stages(struct route_question *q, struct route_result *result)
{
	struct route *r = q->route;
	if (q->is_far) {
		fill_far_stages(q, result);
		return;
	}
	struct ring_use uses[RING_STAGES_MAX];
	size_t n_uses = q->session ? ring_session_use(q->session, uses, RING_STAGES_MAX) : 0;
	result->n_stages = q->plan.n_stages;
	for (size_t i = 0; i < q->plan.n_stages; i++) {
		struct route_stage *s = &result->stages[i];
		memcpy(s->node, q->plan.stages[i].node, KEY_BYTES);
		s->range = q->plan.stages[i].range;
		s->text = s->range.first == 0 || s->range.end == q->plan.n_layer;
		if (i < n_uses) {
			s->rows = uses[i].rows;
			s->microseconds = uses[i].microseconds;
		}
		r->config.describe(r->config.arg, s->node, s->name, s->association);
	}
	/* A node that saw text at one stage saw it. */
	for (size_t i = 0; i < result->n_stages; i++)
		for (size_t k = 0; k < result->n_stages; k++)
			if (!memcmp(result->stages[i].node, result->stages[k].node, KEY_BYTES))
				result->stages[i].text |= result->stages[k].text;
}

static uint32_t retry_after(const struct route_question *q, int err)
{
	uint64_t s;
	switch (err) {
	case ERR_BUSY:
		s = q->route->answer_us / 1000000;
		return (uint32_t)(s < ROUTE_RETRY_BUSY_S ? ROUTE_RETRY_BUSY_S : s > RETRY_BUSY_MOST_S ? RETRY_BUSY_MOST_S : s);
	case ERR_BUDGET:
		return RETRY_BUDGET_S;
	case ERR_ARRIVING:
		return route_seconds_until(&q->model);
	default:
		return 0;
	}
}

static void serve_waiting(struct route *r);

/* Tells the asker and forgets the question. */
static void finish(struct route_question *q, int err, const char *finished, const char *detail)
{
	struct route *r = q->route;
	struct route_result result = {.err = err, .finish = finished, .prompt_tokens = q->prompt_tokens, .completion_tokens = q->tokens,
				      .cached_tokens = q->session ? ring_session_cached(q->session) : 0, .retry_after = retry_after(q, err)};
	if (detail)
		text_copy(result.detail, sizeof result.detail, detail);
	if (q->far && q->far->retry_after)
		result.retry_after = q->far->retry_after;
	if (q->first_us) {
		result.prefill_us = q->first_us - q->asked_us;
		result.decode_us = q->last_us - q->first_us;
		uint64_t took = q->last_us - q->asked_us;
		r->answer_us = r->answer_us ? (7 * r->answer_us + took) / 8 : took;
	}
	alias(&q->model, result.model, sizeof result.model);
	fill_stages(q, &result);
	r->counts.prompt_tokens += q->prompt_tokens;
	r->counts.completion_tokens += q->tokens;
	r->counts.failed += err != 0;
	void (*on_end)(void *, const struct route_result *) = q->cancelled ? NULL : q->ask.on_end;
	void *arg = q->ask.arg;
	question_free(q);
	if (r->config.answered)
		r->config.answered(r->config.arg, &result);
	if (on_end)
		on_end(arg, &result);
	serve_waiting(r);
}

/* --- the ring's callbacks ------------------------------------------------------------------------------ */

static bool on_token(void *arg, const struct token *token)
{
	struct route_question *q = arg;
	q->last_us = q->route->config.monotonic_us(q->route->config.arg);
	if (!q->first_us)
		q->first_us = q->last_us;
	const char *text;
	size_t n;
	if (token->end)
		return true;
	q->tokens++;
	q->fed = stops_feed(q->stops, token->piece, token->piece_length, &text, &n);
	if (q->fed < 0)
		return false;
	if (!q->cancelled && (n || q->ask.logprobs)) {
		q->telling = true;
		q->ask.on_text(q->ask.arg, text, n, token);
		q->telling = false;
	}
	return !q->fed && !q->cancelled && !q->enough;
}

static int on_lost(void *arg, const uint8_t (*failed)[KEY_BYTES], size_t n_failed, struct ring_plan *plan)
{
	struct route_question *q = arg;
	char why[300] = "";
	int err = plan_avoiding(q->route, &q->model, failed, n_failed, plan, why, sizeof why);
	/* Nobody else has those layers: perhaps the one that failed is back (an engine restarts within a second). */
	if (err)
		err = plan_avoiding(q->route, &q->model, NULL, 0, plan, why, sizeof why);
	if (!err)
		q->plan = *plan;
	return err;
}

static void on_ring_end(void *arg, int err, const char *finished, const char *detail)
{
	struct route_question *q = arg;
	const char *text;
	size_t n;
	if (!err && q->fed < 0) {
		bool memory = q->fed == -ENOMEM;
		finish(q, memory ? -ENOMEM : ERR_MODEL, NULL, memory ? ROUTE_NO_MEMORY : "the model wrote 64 KiB that end nowhere");
		return;
	}
	if (!err && !q->fed && !q->cancelled) {
		stops_flush(q->stops, &text, &n);
		if (n) {
			q->telling = true;
			q->ask.on_text(q->ask.arg, text, n, NULL);
			q->telling = false;
		}
	}
	finish(q, err, finished, detail);
}

/* 0: on the ring, it tells its end itself. 1: the asker left, and it is gone. An error is the caller's to tell; ERR_BUSY: there is no place
 * for it just now. */
static int start(struct route_question *q, const int32_t *tokens, char *why, size_t why_size)
{
	struct route *r = q->route;
	uint32_t n = q->prompt_tokens, context = q->model.context;
	struct ring_ask ask = {
		.prompt = tokens, .n_prompt = n, .max_tokens = q->ask.max_tokens ? q->ask.max_tokens : context - n,
		.context = context, .sampling = q->ask.sampling, .on_token = on_token, .on_lost = on_lost, .on_end = on_ring_end, .arg = q,
	};
	if (q->model.truncates)
		memcpy(ask.tenant, q->ask.tenant, KEY_BYTES);
	why[0] = 0;
	int err = 0;
	if (!ring_recall(r->config.ring, ask.tenant, q->model.id, tokens, n, &q->plan) || !is_still_good(r, &q->model, &q->plan))
		err = plan_avoiding(r, &q->model, NULL, 0, &q->plan, why, why_size);
	if (err)
		return err;
	if (q->ask.on_start) {
		char full[2 * NAME_SIZE];
		alias(&q->model, full, sizeof full);
		q->telling = true;
		q->ask.on_start(q->ask.arg, full, n);
		q->telling = false;
		if (q->cancelled) {
			question_free(q);
			return 1;
		}
	}
	ask.plan = q->plan;
	return ring_ask(r->config.ring, &ask, &q->session);
}

/* --- waiting for a place ------------------------------------------------------------------------------- */

static bool waits_for(const struct route_question *q, const struct route_model *m)
{
	return q->waiting_us && !memcmp(q->model.id, m->id, KEY_BYTES);
}

static bool somebody_waits(const struct route *r, const struct route_model *m)
{
	for (const struct route_question *q = r->questions; q; q = q->next)
		if (waits_for(q, m))
			return true;
	return false;
}

static int wait_for_place(struct route_question *q, const int32_t *tokens)
{
	if (q->route->counts.waiting == ROUTE_WAITING_MAX)
		return ERR_BUSY;
	q->prompt = malloc(q->prompt_tokens * sizeof *q->prompt);
	if (!q->prompt)
		return -ENOMEM;
	memcpy(q->prompt, tokens, q->prompt_tokens * sizeof *q->prompt);
	q->waiting_us = q->route->config.monotonic_us(q->route->config.arg);
	q->route->counts.waiting++;
	return 0;
}

/* The one that came first of those that this pass has not looked at. */
static struct route_question *next_to_serve(const struct route *r)
{
	struct route_question *first = NULL;
	for (struct route_question *q = r->questions; q; q = q->next)     /* the newest stands first */
		if (q->waiting_us && q->pass != r->pass)
			first = q;
	return first;
}

/* Did one that came earlier find no place on the same model. */
static bool is_behind(const struct route_question *late)
{
	for (const struct route_question *q = late->next; q; q = q->next)
		if (waits_for(q, &late->model))
			return true;
	return false;
}

static void serve_waiting(struct route *r)
{
	char why[300];
	if (r->serving || !r->counts.waiting)
		return;
	r->serving = true;
	r->pass++;
	uint64_t now = r->config.monotonic_us(r->config.arg);
	for (struct route_question *q; (q = next_to_serve(r));) {
		q->pass = r->pass;
		int err = is_behind(q) ? ERR_BUSY : start(q, q->prompt, why, sizeof why);
		if (err > 0 || (err == ERR_BUSY && now - q->waiting_us < ROUTE_WAIT_MS * UINT64_C(1000)))
			continue;
		stop_waiting(q);
		if (err == ERR_BUSY)
			snprintf(why, sizeof why, "no place was free within %d s: this node answers as many questions at once as it has memory for "
				 "([share] sessions)", ROUTE_WAIT_MS / 1000);
		if (err)
			finish(q, err, NULL, why[0] ? why : err_str(err));
	}
	r->serving = false;
}

void route_tick(struct route *r)
{
	serve_waiting(r);
}

/* --- by way of another node ----------------------------------------------------------------------------- */

static void on_far_start(void *arg, const struct gateway_start *start)
{
	struct route_question *q = arg;
	char full[2 * NAME_SIZE];
	text_copy(q->model.name, sizeof q->model.name, start->model);
	text_copy(q->model.association, sizeof q->model.association, start->association);
	q->prompt_tokens = start->prompt_tokens;
	if (!q->ask.on_start)
		return;
	alias(&q->model, full, sizeof full);
	q->telling = true;
	q->ask.on_start(q->ask.arg, full, q->prompt_tokens);
	q->telling = false;
}

/* What the asker cancelled from inside on_start or on_text ends with what comes next. */
static void on_far_end(void *arg, const struct gateway_end *end)
{
	struct route_question *q = arg;
	char detail[300], name[NAME_SIZE] = "", association[NAME_SIZE] = "";
	q->call = NULL;
	q->far = malloc(sizeof *q->far);
	if (q->far)
		*q->far = *end;
	if (!end->err) {
		on_ring_end(q, 0, end->length && !q->fed ? "length" : "stop", NULL);
		return;
	}
	q->route->config.describe(q->route->config.arg, q->via, name, association);
	snprintf(detail, sizeof detail, "%s cannot answer for this node: %.200s", name, end->detail[0] ? end->detail : err_str(end->err));
	finish(q, end->err, NULL, detail);
}

static int ask_far(struct route_question *q, const char *name)
{
	struct route *r = q->route;
	int err = r->gateway && r->config.find_node ? r->config.find_node(r->config.arg, name, q->via, r->why, sizeof r->why) : ERR_UNSUPPORTED;
	if (err) {
		if (!r->why[0])
			snprintf(r->why, sizeof r->why, "this node cannot have another one answer");
		return err == ERR_UNKNOWN ? ERR_UNREACHABLE : err;
	}
	struct gateway_question question = {
		.model = q->name, .chat = q->ask.chat, .n_messages = q->ask.n_messages, .messages = q->messages, .max_tokens = q->ask.max_tokens,
		.sampling = q->ask.sampling, .on_start = on_far_start, .on_token = on_token, .on_end = on_far_end, .arg = q,
	};
	q->is_far = true;
	err = gateway_ask(r->gateway, q->via, &question, &q->call);
	if (err == ERR_LIMIT)
		snprintf(r->why, sizeof r->why, "a question that another node answers has at most %u KiB of text", GATEWAY_TEXT_MAX >> 10);
	else if (err)
		snprintf(r->why, sizeof r->why, "%.60s cannot be asked in this node's place: %s, and no neighbour can pass it on (see `essaim peers`)", name,
			 err_str(err));
	return err;
}

/* --- asking ------------------------------------------------------------------------------------------- */

static void on_rendered(void *arg, int err, const int32_t *tokens, size_t n, const char *why)
{
	struct route_question *q = arg;
	struct route *r = q->route;              /* NULL when the route is gone */
	char text[300];
	q->rendering = false;
	if (q->cancelled) {
		question_free(q);
		return;
	}
	if (err) {
		finish(q, err, NULL, why && *why ? why : err_str(err));
		return;
	}
	if (!n) {
		finish(q, ERR_MALFORMED, NULL, "the prompt is empty");
		return;
	}
	q->prompt_tokens = (uint32_t)n;
	uint32_t context = q->model.context;
	if (n >= context || q->ask.max_tokens > context - n) {
		if (n >= context)
			snprintf(text, sizeof text, "the prompt has %zu tokens; with this node's context of %u at most %u fit", n, context, context - 1);
		else
			snprintf(text, sizeof text, "the prompt has %zu tokens and %u more were asked for; this node's context is %u: ask for %zu at most", n,
				 q->ask.max_tokens, context, context - n);
		finish(q, ERR_CONTEXT, NULL, text);
		return;
	}
	text[0] = 0;
	err = somebody_waits(r, &q->model) ? ERR_BUSY : start(q, tokens, text, sizeof text);
	if (err > 0)
		return;
	if (err == ERR_BUSY)
		err = wait_for_place(q, tokens);
	if (err == ERR_BUSY)
		snprintf(text, sizeof text, "this node answers as many questions at once as it has memory for, and %d wait for a place already",
			 ROUTE_WAITING_MAX);
	if (err)
		finish(q, err, NULL, text[0] ? text : err_str(err));
}

static int copy_messages(struct route_question *q, const struct route_ask *ask)
{
	size_t total = 0;
	if (ask->n_messages > RENDER_MESSAGES_MAX)
		return ERR_LIMIT;
	for (size_t i = 0; i < ask->n_messages; i++) {
		const struct render_message *m = &ask->messages[i];
		if (m->role_length > RENDER_BYTES_MAX || m->content_length > RENDER_BYTES_MAX)
			return ERR_LIMIT;
		total += m->role_length + m->content_length;
		if (total > RENDER_BYTES_MAX)
			return ERR_LIMIT;
	}
	q->messages = calloc(ask->n_messages + 1, sizeof *q->messages);
	q->text = malloc(total + 1);
	if (!q->messages || !q->text)
		return -ENOMEM;
	char *at = q->text;
	for (size_t i = 0; i < ask->n_messages; i++) {
		const struct render_message *from = &ask->messages[i];
		struct render_message *to = &q->messages[i];
		*to = (struct render_message){at, from->role_length, at + from->role_length, from->content_length};
		if (from->role_length)
			memcpy(at, from->role, from->role_length);
		if (from->content_length)
			memcpy(at + from->role_length, from->content, from->content_length);
		at += from->role_length + from->content_length;
	}
	return 0;
}

int route_ask(struct route *r, const struct route_ask *ask, struct route_question **out)
{
	char why[300] = "";
	*out = NULL;
	if (r->counts.running >= ROUTE_RUNNING_MAX)
		return ERR_BUSY;
	struct route_question *q = calloc(1, sizeof *q);
	if (!q)
		return -ENOMEM;
	q->route = r;
	q->ask = *ask;
	q->ask.messages = NULL;
	q->asked_us = r->config.monotonic_us(r->config.arg);
	q->next = r->questions;
	r->questions = q;
	r->counts.running++;
	r->counts.questions++;
	r->why[0] = 0;
	int err = copy_messages(q, ask);
	if (!err)
		err = sampling_copy(&q->ask.sampling, &ask->sampling, &q->sampling);
	q->stops = err ? NULL : stops_new(ask->stops, ask->n_stops);
	q->name = strdup(ask->model ? ask->model : "");
	if (!err && (!q->stops || !q->name))
		err = -ENOMEM;
	const char *via = ask->via && *ask->via ? ask->via : NULL;
	bool copied = !err;
	if (copied && !via) {
		err = route_find(r, q->name, &q->model, why, sizeof why);
		if (!err && q->model.state != ROUTE_READY)
			err = q->model.state == ROUTE_ARRIVING ? ERR_ARRIVING : ERR_UNREACHABLE;
		if (err && !ask->here && r->config.gateway)
			via = r->config.gateway(r->config.arg);
		if (via && !*via)
			via = NULL;
	}
	if (via && copied) {
		err = ask_far(q, via);
		if (!err) {
			*out = q;
			return 0;
		}
	}
	if (err) {
		question_free(q);
		return err;
	}
	struct engine_render render = {
		.chat = ask->chat, .add_special = true, .parse_special = ask->chat, .n_messages = ask->n_messages, .messages = q->messages,
	};
	*out = q;
	q->rendering = true;
	err = r->config.render(r->config.arg, q->model.id, &render, on_rendered, q);
	if (err) {
		*out = NULL;
		question_free(q);
	}
	return err;
}

void route_cancel(struct route_question *q)
{
	q->cancelled = true;
	if (q->rendering || q->telling)
		return;                          /* freed when the text comes back, or by the ring's on_end */
	if (q->call)
		gateway_cancel(q->call);
	if (q->session)
		ring_cancel(q->session);
	struct route *r = q->route;
	r->counts.prompt_tokens += q->prompt_tokens;
	r->counts.completion_tokens += q->tokens;
	question_free(q);
}

void route_stop(struct route_question *q)
{
	q->enough = true;
}

const char *route_why(const struct route *r)
{
	return r->why;
}

void route_set_gateway(struct route *r, struct gateway *gateway)
{
	r->gateway = gateway;
}

int route_engine_text(struct route *route, const uint8_t model[KEY_BYTES], const struct engine_render *render,
		      void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *why), void *arg)
{
	/* An embedding takes a session's place in the engine for as long as it is computed. */
	if (render->embed && !ring_make_room(route->config.ring, model))
		return ERR_BUSY;
	return route->config.text(route->config.arg, model, render, done, arg);
}

struct route_counts route_counts(const struct route *route)
{
	return route->counts;
}

int route_new(struct route **out, const struct route_config *config)
{
	struct route *r = calloc(1, sizeof *r);
	if (!r)
		return -ENOMEM;
	r->config = *config;
	*out = r;
	return 0;
}

void route_free(struct route *r)
{
	while (r->questions) {
		struct route_question *q = r->questions;
		if (q->rendering) {              /* freed when its text comes back, or fails to */
			r->questions = q->next;
			q->cancelled = true;
			q->route = NULL;
			continue;
		}
		if (q->call)
			gateway_cancel(q->call);
		if (q->session)
			ring_cancel(q->session);
		question_free(q);
	}
	free(r);
}
