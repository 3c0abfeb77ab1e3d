/* asker.c: questions, and what the whole model answers. A prompt is the text "NUMBER LENGTH", of which engine.c makes tokens.
 *
 * Every token is compared as it is delivered: the next one of the right answer, once, and none after the end.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

struct question {
	struct question *next;
	struct node *node;
	unsigned boots;
	struct route_question *running;        /* NULL: it has ended */
	unsigned number;
	int32_t expected[SIM_QUESTION_TOKENS];
	size_t n_expected, n_got;
	const char *finish;
	size_t cancel_at;                      /* 0: never */
	bool ended;
	int err;
	char detail[300];
};

static unsigned numbers;

static void on_text(void *arg, const char *text, size_t n, const struct token *token)
{
	struct question *q = arg;
	char expected[16];
	if (q->ended)
		sim_fail(q->node, "question %u: a token comes after the end", q->number);
	if (!token || q->n_got >= q->n_expected)
		sim_fail(q->node, "question %u: a token too many comes, number %zu", q->number, q->n_got + 1);
	int length = snprintf(expected, sizeof expected, "%d ", q->expected[q->n_got]);
	if (token->id != q->expected[q->n_got] || (size_t)length != n || memcmp(text, expected, n))
		sim_fail(q->node, "question %u: token %zu is %d (\"%.*s\"), the whole model says %d", q->number, q->n_got, token->id, (int)n, text,
			 q->expected[q->n_got]);
	q->n_got++;
	sim.tokens++;
	if (q->n_got == q->cancel_at) {
		struct route_question *running = q->running;
		q->running = NULL;
		q->ended = true;
		q->err = ERR_CANCELLED;
		sim_trace(q->node, "question %u is cancelled after %zu tokens", q->number, q->n_got);
		route_cancel(running);
	}
}

static void on_end(void *arg, const struct route_result *result)
{
	struct question *q = arg;
	if (q->ended)
		sim_fail(q->node, "question %u ends twice", q->number);
	q->ended = true;
	q->running = NULL;
	q->err = result->err;
	snprintf(q->detail, sizeof q->detail, "%s", result->detail);
	if (!result->err && (q->n_got != q->n_expected || strcmp(result->finish, q->finish) || result->completion_tokens != q->n_got))
		sim_fail(q->node, "question %u ends well (%s) with %zu of %zu tokens (%s)", q->number, result->finish, q->n_got, q->n_expected, q->finish);
	if (result->err)
		sim.failed_questions++;
	else
		sim.answered++;
	sim_trace(q->node, "question %u ends after %zu of %zu tokens: %s %s", q->number, q->n_got, q->n_expected, result->err ? err_str(result->err) : "answered",
		  result->detail);
}

struct question *asker_ask(struct node *node, size_t model, bool may_cancel)
{
	struct question *q = calloc(1, sizeof *q);
	char text[64];
	int32_t prompt[SIM_QUESTION_TOKENS];
	assert(q);
	/* Some conversations come up again and again: what was computed of them is used again. */
	uint64_t number = sim_below(sim_chance(500) ? 4 : 1000000), n_prompt = 1 + sim_below(sim.thirsty || sim_chance(300) ? 70 : 12);
	uint32_t max_tokens = 1 + (uint32_t)sim_below(SIM_CONTEXT - n_prompt < 24 ? SIM_CONTEXT - n_prompt : 24);
	uint64_t seed = sim_below(1000);
	engine_prompt(number, n_prompt, prompt);
	q->node = node;
	q->boots = node->boots;
	q->number = ++numbers;
	q->n_expected = engine_whole(&sim.models[model], prompt, n_prompt, max_tokens, seed, q->expected, &q->finish);
	q->cancel_at = may_cancel && sim_chance(100) ? 1 + sim_below(q->n_expected + 1) : 0;
	snprintf(text, sizeof text, "%llu %llu", (unsigned long long)number, (unsigned long long)n_prompt);
	struct render_message message = {.role = "", .content = text, .content_length = strlen(text)};
	struct route_ask ask = {.model = sim.models[model].body.name, .n_messages = 1, .messages = &message, .max_tokens = max_tokens,
				.sampling = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = seed}, .on_text = on_text, .on_end = on_end, .arg = q};
	memset(ask.tenant, 1 + (int)sim_below(2), KEY_BYTES);
	int err = route_ask(daemon_of(node)->route, &ask, &q->running);
	if (err) {
		sim_trace(node, "question %u is refused: %s", q->number, err_str(err));
		free(q);
		return NULL;
	}
	sim_trace(node, "question %u: model %zu, %llu tokens, at most %u more", q->number, model, (unsigned long long)n_prompt, max_tokens);
	q->next = sim.questions;
	sim.questions = q;
	return q;
}

bool asker_ended(const struct question *q, int *err)
{
	*err = q->err;
	return q->ended;
}

const char *asker_detail(const struct question *q)
{
	return q->detail;
}

void asker_node_gone(struct node *node)
{
	for (struct question *q = sim.questions; q; q = q->next)
		if (!q->ended && q->node == node) {
			q->ended = true;
			q->err = ERR_CANCELLED;
			q->running = NULL;
			sim_trace(node, "question %u goes with its node", q->number);
		}
}

size_t asker_open(void)
{
	size_t n = 0;
	for (const struct question *q = sim.questions; q; q = q->next)
		n += !q->ended;
	return n;
}

void asker_release(void)
{
	while (sim.questions) {
		struct question *q = sim.questions;
		sim.questions = q->next;
		free(q);
	}
	numbers = 0;
}
