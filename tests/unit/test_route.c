/* test_route.c: one question from its text to its answer, on a ring that is a script.
 *
 *      asker --- route.c --- ring_ask() below: keeps what it was asked; the test says which tokens come
 *                  |
 *                render(): keeps the text; the test hands the tokens back when it likes
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/route/route.h"
#include "proto/text.h"

/* --- a ring that does what the test says ------------------------------------------------------------------ */

struct ring_session {
	struct ring_ask ask;
	int32_t first;                         /* of its prompt */
	bool cancelled;
};

static struct ring {
	int err;                               /* what ring_ask() answers */
	bool recalls;                          /* this plan, for this tenant's first byte */
	struct ring_plan recalled;
	uint8_t tenant;
	uint32_t *places;                      /* each question takes one */
	size_t n;
	struct ring_session sessions[ROUTE_RUNNING_MAX + 1];
} the_ring;

int ring_ask(struct ring *ring, const struct ring_ask *ask, struct ring_session **out)
{
	if (ring->err)
		return ring->err;
	*out = &ring->sessions[ring->n++];
	**out = (struct ring_session){.ask = *ask, .first = ask->prompt[0]};
	if (ring->places)
		--*ring->places;
	return 0;
}

bool ring_make_room(struct ring *ring, const uint8_t model[KEY_BYTES])
{
	(void)ring;
	(void)model;
	return true;
}

bool ring_recall(const struct ring *ring, const uint8_t tenant[KEY_BYTES], const uint8_t model[KEY_BYTES], const int32_t *prompt,
		 size_t n_prompt, struct ring_plan *plan)
{
	if (!ring->recalls || tenant[0] != ring->tenant)
		return false;
	*plan = ring->recalled;
	return true;
}

uint32_t ring_session_cached(const struct ring_session *session)
{
	return 64;
}

void ring_cancel(struct ring_session *session)
{
	assert_false(session->cancelled);
	session->cancelled = true;
}

size_t ring_session_use(const struct ring_session *session, struct ring_use *out, size_t max)
{
	size_t n = session->ask.plan.n_stages < max ? session->ask.plan.n_stages : max;
	for (size_t i = 0; i < n; i++)
		out[i] = (struct ring_use){.rows = 10 + i, .microseconds = 1000 * i};
	return n;
}

/* --- a node with two models and a neighbour --------------------------------------------------------------- */

struct world {
	struct route *route;
	uint64_t us;
	size_t n_models;
	struct route_model models[4];
	size_t n_nodes;
	struct routing_node nodes[4];
	/* rendering */
	int render_err;
	unsigned renders;
	bool rendered_chat;
	char rendered[64];                     /* the last message's content */
	void (*done)(void *arg, int err, const int32_t *tokens, size_t n, const char *why);
	void *done_arg;
	unsigned answered;
	struct route_result last;
};

static uint64_t on_clock(void *arg)
{
	return ((struct world *)arg)->us;
}

static size_t on_models(void *arg, struct route_model *out, size_t max)
{
	struct world *w = arg;
	assert_true(w->n_models <= max);
	memcpy(out, w->models, w->n_models * sizeof *out);
	return w->n_models;
}

static size_t on_nodes(void *arg, const uint8_t model[KEY_BYTES], struct routing_node *out, size_t max)
{
	struct world *w = arg;
	assert_true(w->n_nodes <= max);
	memcpy(out, w->nodes, w->n_nodes * sizeof *out);
	return w->n_nodes;
}

static int on_render(void *arg, const uint8_t model[KEY_BYTES], const struct engine_render *render,
		     void (*done)(void *arg, int err, const int32_t *tokens, size_t n, const char *why), void *done_arg)
{
	struct world *w = arg;
	const struct render_message *last = &render->messages[render->n_messages - 1];
	w->renders++;
	w->rendered_chat = render->chat;
	snprintf(w->rendered, sizeof w->rendered, "%.*s:%.*s", (int)last->role_length, last->role, (int)last->content_length, last->content);
	w->done = done;
	w->done_arg = done_arg;
	return w->render_err;
}

static void on_describe(void *arg, const uint8_t node[KEY_BYTES], char name[NAME_SIZE], char association[NAME_SIZE])
{
	snprintf(name, NAME_SIZE, "node %u", node[0]);
	snprintf(association, NAME_SIZE, "Ruche");
}

static void on_answered(void *arg, const struct route_result *result)
{
	struct world *w = arg;
	w->answered++;
	w->last = *result;
}

static struct world *new_world(void)
{
	struct world *w = calloc(1, sizeof *w);
	assert_non_null(w);
	memset(&the_ring, 0, sizeof the_ring);
	w->us = 1000000;
	w->n_models = 2;
	w->models[0] = (struct route_model){.id = {0xab, 0xcd, 0xef, 0x01}, .name = "histoires", .association = "Ruche", .n_layer = 12, .context = 100};
	w->models[1] = (struct route_model){.id = {0xab, 0xcd, 0xef, 0x02}, .name = "autre", .association = "Ruche", .n_layer = 12, .context = 100};
	for (uint8_t i = 0; i < 3; i++) {
		w->nodes[i] = (struct routing_node){.node = {i + 1u}, .self = !i, .usable = true, .sessions_free = 1, .rtt_ms = i};
		w->nodes[i].n_resident = i ? 1 : 2;
		w->nodes[i].resident[0] = i ? (struct layer_range){1, 11} : (struct layer_range){0, 1};
		w->nodes[i].resident[1] = (struct layer_range){11, 12};
	}
	w->n_nodes = 3;
	const struct route_config config = {.ring = &the_ring, .monotonic_us = on_clock, .models = on_models, .nodes = on_nodes, .render = on_render,
					    .describe = on_describe, .answered = on_answered, .arg = w};
	assert_int_equal(route_new(&w->route, &config), 0);
	return w;
}

static void free_world(struct world *w)
{
	route_free(w->route);
	free(w);
}

static void come_back(struct world *w, size_t n)
{
	int32_t tokens[256] = {100};
	assert_true(n <= 256);
	w->done(w->done_arg, 0, tokens, n, NULL);
}

/* --- somebody who asks ---------------------------------------------------------------------------------- */

struct asker {
	struct route_question *question;
	unsigned starts, texts, ends;
	uint32_t prompt_tokens;
	char model[2 * NAME_SIZE];
	char text[256];
	struct route_result result;
	bool cancels_at_start, cancels_at_text;
};

static void on_start(void *arg, const char *model, uint32_t prompt_tokens)
{
	struct asker *a = arg;
	a->starts++;
	a->prompt_tokens = prompt_tokens;
	snprintf(a->model, sizeof a->model, "%s", model);
	if (a->cancels_at_start)
		route_cancel(a->question);
}

static void on_text(void *arg, const char *text, size_t n, const struct token *token)
{
	struct asker *a = arg;
	size_t used = strlen(a->text);
	a->texts++;
	assert_true(used + n < sizeof a->text);
	memcpy(a->text + used, text, n);
	a->text[used + n] = '\0';
	if (a->cancels_at_text)
		route_cancel(a->question);
}

static void on_end(void *arg, const struct route_result *result)
{
	struct asker *a = arg;
	a->ends++;
	a->result = *result;
}

static const struct render_message one_message = {"user", 4, "Bonjour !", 9};

static struct route_ask asking(struct asker *a)
{
	*a = (struct asker){0};
	return (struct route_ask){.model = "histoires", .chat = true, .n_messages = 1, .messages = &one_message, .max_tokens = 20, .on_start = on_start,
				  .on_text = on_text, .on_end = on_end, .arg = a};
}

/* Asked, rendered to ten tokens, on the ring. */
static struct ring_session *running(struct world *w, struct asker *a, const struct route_ask *ask)
{
	assert_int_equal(route_ask(w->route, ask, &a->question), 0);
	come_back(w, 10);
	assert_true(the_ring.n > 0);
	return &the_ring.sessions[the_ring.n - 1];
}

static bool say(struct ring_session *s, const char *piece)
{
	struct token token = {.piece = (const uint8_t *)piece, .piece_length = strlen(piece)};
	return s->ask.on_token(s->ask.arg, &token);
}

static void end(struct ring_session *s, int err, const char *finished, const char *detail)
{
	s->ask.on_end(s->ask.arg, err, finished, detail);
}

/* --- names -------------------------------------------------------------------------------------------- */

static int find(struct world *w, const char *name, struct route_model *out, char why[300])
{
	memset(out, 0, sizeof *out);
	why[0] = '\0';
	return route_find(w->route, name, out, why, 300);
}

static void a_model_answers_to_its_name_its_alias_and_its_id(void **state)
{
	struct world *w = new_world();
	struct route_model m;
	char why[300];
	static const char *const names[] = {"histoires", "histoires@Ruche", "abcdef01", "abcdef0100000000"};
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(find(w, names[i], &m, why), 0);
		assert_int_equal(m.id[3], 1);
	}
	assert_int_equal(find(w, "abcdef0", &m, why), ERR_UNKNOWN);
	assert_int_equal(find(w, "histoires@Essaim", &m, why), ERR_UNKNOWN);
	assert_int_equal(find(w, "", &m, why), ERR_UNKNOWN);
	free_world(w);
}

static void a_name_that_several_models_have_wants_the_association(void **state)
{
	struct world *w = new_world();
	struct route_model m;
	char why[300];
	strcpy(w->models[1].name, "histoires");
	strcpy(w->models[1].association, "Alv\xc3\xa9ole");
	assert_int_equal(find(w, "histoires", &m, why), ERR_AMBIGUOUS);
	assert_non_null(strstr(why, "histoires@Ruche"));
	assert_non_null(strstr(why, "histoires@Alv\xc3\xa9ole"));
	assert_int_equal(find(w, "histoires@Alv\xc3\xa9ole", &m, why), 0);
	assert_int_equal(m.id[3], 2);
	free_world(w);
}

static void a_name_that_nothing_answers_to_gets_the_nearest(void **state)
{
	struct world *w = new_world();
	struct route_model m;
	char why[300];
	assert_int_equal(find(w, "autruche", &m, why), ERR_UNKNOWN);
	assert_non_null(strstr(why, "'autre'"));
	w->n_models = 0;
	assert_int_equal(find(w, "autre", &m, why), ERR_UNKNOWN);
	assert_non_null(strstr(why, "no model yet"));
	free_world(w);
}

static void many_models_of_one_name_fit_the_message(void **state)
{
	struct world *w = new_world();
	struct route_model m;
	char why[300];
	w->n_models = 4;
	for (size_t i = 0; i < 4; i++) {
		w->models[i] = w->models[0];
		memset(w->models[i].association, 'a', NAME_SIZE - 1);
		memset(w->models[i].name, 'n', NAME_SIZE - 1);
	}
	assert_int_equal(find(w, w->models[0].name, &m, why), ERR_AMBIGUOUS);
	assert_true(strlen(why) < 300 && strlen(why) > 100);
	free_world(w);
}

/* --- answers ------------------------------------------------------------------------------------------- */

static void a_question_is_answered(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	ask.sampling.seed = 77;
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	assert_true(w->rendered_chat);
	assert_string_equal(w->rendered, "user:Bonjour !");
	assert_int_equal(a.starts, 0);
	come_back(w, 10);
	struct ring_session *s = &the_ring.sessions[0];
	assert_int_equal(a.starts, 1);
	assert_string_equal(a.model, "histoires@Ruche");
	assert_int_equal(a.prompt_tokens, 10);
	assert_int_equal(s->ask.n_prompt, 10);
	assert_int_equal(s->ask.max_tokens, 20);
	assert_int_equal(s->ask.context, 100);
	assert_int_equal(s->ask.sampling.seed, 77);
	assert_int_equal(s->ask.plan.n_stages, 3);
	w->us += 500;
	assert_true(say(s, "Bon"));
	w->us += 300;
	assert_true(say(s, "jour"));
	assert_string_equal(a.text, "Bonjour");
	assert_int_equal(route_counts(w->route).running, 1);
	end(s, 0, "stop", NULL);
	assert_int_equal(a.ends, 1);
	assert_int_equal(a.result.err, 0);
	assert_string_equal(a.result.finish, "stop");
	assert_string_equal(a.result.model, "histoires@Ruche");
	assert_int_equal(a.result.prompt_tokens, 10);
	assert_int_equal(a.result.completion_tokens, 2);
	assert_int_equal(a.result.prefill_us, 500);
	assert_int_equal(a.result.decode_us, 300);
	assert_int_equal(route_counts(w->route).running, 0);
	assert_int_equal(route_counts(w->route).questions, 1);
	assert_int_equal(route_counts(w->route).failed, 0);
	assert_int_equal(route_counts(w->route).completion_tokens, 2);
	assert_int_equal(w->answered, 1);
	free_world(w);
}

static void an_answer_says_who_saw_what(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	struct ring_session *s = running(w, &a, &ask);
	end(s, 0, "length", NULL);
	assert_int_equal(a.result.n_stages, 3);
	const struct route_stage *stages = a.result.stages;
	assert_string_equal(stages[0].name, "node 1");
	assert_true(stages[0].text && stages[2].text);
	assert_false(stages[1].text);
	assert_string_equal(stages[1].name, "node 2");
	assert_string_equal(stages[1].association, "Ruche");
	assert_int_equal(stages[1].range.first, 1);
	assert_int_equal(stages[1].range.end, 11);
	assert_int_equal(stages[1].rows, 11);
	assert_int_equal(stages[2].microseconds, 2000);
	free_world(w);
}

static void a_node_that_saw_text_at_one_stage_saw_it(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	w->nodes[0].resident[w->nodes[0].n_resident++] = (struct layer_range){1, 6};
	w->nodes[1].resident[0].first = 6;
	w->n_nodes = 2;
	end(running(w, &a, &ask), 0, "length", NULL);
	assert_int_equal(a.result.n_stages, 4);
	assert_true(a.result.stages[1].text);
	assert_false(a.result.stages[2].text);
	free_world(w);
}

static void a_prompt_of_its_own_is_not_put_into_a_template(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	ask.chat = false;
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	assert_false(w->rendered_chat);
	come_back(w, 1);
	end(&the_ring.sessions[0], 0, "stop", NULL);
	free_world(w);
}

static void no_limit_means_the_rest_of_the_context(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	ask.max_tokens = 0;
	struct ring_session *s = running(w, &a, &ask);
	assert_int_equal(s->ask.max_tokens, 90);
	end(s, 0, "length", NULL);
	free_world(w);
}

static void a_prompt_past_the_context_is_refused_with_both_numbers(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	ask.max_tokens = 0;
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	come_back(w, 100);
	assert_int_equal(a.ends, 1);
	assert_int_equal(a.result.err, ERR_CONTEXT);
	assert_non_null(strstr(a.result.detail, "has 100 tokens"));
	assert_non_null(strstr(a.result.detail, "at most 99"));

	ask = asking(&a);
	ask.max_tokens = 11;
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	come_back(w, 90);
	assert_int_equal(a.result.err, ERR_CONTEXT);
	assert_non_null(strstr(a.result.detail, "ask for 10 at most"));
	assert_int_equal(the_ring.n, 0);
	assert_int_equal(route_counts(w->route).failed, 2);
	free_world(w);
}

static void an_empty_prompt_is_refused(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	come_back(w, 0);
	assert_int_equal(a.result.err, ERR_MALFORMED);
	assert_int_equal(the_ring.n, 0);
	free_world(w);
}

static void an_engine_that_cannot_render_says_why(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	w->done(w->done_arg, ERR_UNSUPPORTED, NULL, 0, "the model has no chat template");
	assert_int_equal(a.result.err, ERR_UNSUPPORTED);
	assert_string_equal(a.result.detail, "the model has no chat template");

	ask = asking(&a);
	w->render_err = ERR_ENGINE;
	assert_int_equal(route_ask(w->route, &ask, &a.question), ERR_ENGINE);
	assert_null(a.question);
	assert_int_equal(a.ends, 0);
	assert_int_equal(route_counts(w->route).running, 0);
	free_world(w);
}

static void a_ring_that_refuses_ends_the_question(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	the_ring.err = ERR_CONTEXT;
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	come_back(w, 10);
	assert_int_equal(a.ends, 1);
	assert_int_equal(a.result.err, ERR_CONTEXT);
	assert_true(a.result.detail[0]);
	free_world(w);
}

/* --- places ----------------------------------------------------------------------------------------------- */

/* So many questions fit at once on this node. */
static void set_places(struct world *w, uint32_t n)
{
	w->nodes[0].sessions_free = n;
	the_ring.places = &w->nodes[0].sessions_free;
}

static void put(struct world *w, struct asker *a, size_t n_prompt)
{
	struct route_ask ask = asking(a);
	assert_int_equal(route_ask(w->route, &ask, &a->question), 0);
	come_back(w, n_prompt);
}

static void who_finds_no_place_waits_and_nobody_overtakes(void **state)
{
	struct world *w = new_world();
	struct asker a[4];
	set_places(w, 1);
	for (size_t i = 0; i < 4; i++)
		put(w, &a[i], 10 + i);
	assert_int_equal(the_ring.n, 1);
	assert_int_equal(route_counts(w->route).waiting, 3);
	route_tick(w->route);
	assert_int_equal(the_ring.n, 1);
	for (size_t i = 0; i < 3; i++) {
		set_places(w, 1);
		end(&the_ring.sessions[i], 0, "stop", NULL);              /* the next one comes at once */
		assert_int_equal(the_ring.n, i + 2);
		assert_int_equal(the_ring.sessions[i + 1].ask.n_prompt, 11 + i);
		assert_int_equal(the_ring.sessions[i + 1].first, 100);
		assert_int_equal(a[i].ends, 1);
		assert_int_equal(a[i + 1].starts, 1);
	}
	set_places(w, 1);
	put(w, &a[0], 20);                     /* and when nobody waits, at once again */
	assert_int_equal(the_ring.n, 5);
	assert_int_equal(route_counts(w->route).waiting, 0);
	free_world(w);
}

static void who_waits_too_long_is_sent_away_with_a_time_to_come_back(void **state)
{
	struct world *w = new_world();
	struct asker a;
	set_places(w, 0);
	put(w, &a, 10);
	w->us += ROUTE_WAIT_MS * UINT64_C(1000) - 1;
	route_tick(w->route);
	assert_int_equal(a.ends, 0);
	w->us++;
	route_tick(w->route);
	assert_int_equal(a.ends, 1);
	assert_int_equal(a.starts, 0);
	assert_int_equal(a.result.err, ERR_BUSY);
	assert_true(a.result.retry_after > 0);
	assert_non_null(strstr(a.result.detail, "[share] sessions"));
	assert_int_equal(route_counts(w->route).waiting, 0);
	assert_int_equal(route_counts(w->route).running, 0);
	free_world(w);
}

static void only_so_many_wait(void **state)
{
	struct world *w = new_world();
	static struct asker a[ROUTE_WAITING_MAX + 1];
	set_places(w, 0);
	for (size_t i = 0; i <= ROUTE_WAITING_MAX; i++)
		put(w, &a[i], 10);
	assert_int_equal(a[ROUTE_WAITING_MAX - 1].ends, 0);
	assert_int_equal(a[ROUTE_WAITING_MAX].ends, 1);
	assert_int_equal(a[ROUTE_WAITING_MAX].result.err, ERR_BUSY);
	assert_non_null(strstr(a[ROUTE_WAITING_MAX].result.detail, "wait"));
	set_places(w, ROUTE_WAITING_MAX);
	route_tick(w->route);
	assert_int_equal(the_ring.n, ROUTE_WAITING_MAX);
	free_world(w);
}

static void who_leaves_while_waiting_makes_way(void **state)
{
	struct world *w = new_world();
	struct asker a[3];
	set_places(w, 0);
	for (size_t i = 0; i < 3; i++)
		put(w, &a[i], 10 + i);
	route_cancel(a[0].question);
	a[1].cancels_at_start = true;          /* this one leaves when it hears that it may start */
	set_places(w, 1);
	route_tick(w->route);
	assert_int_equal(the_ring.n, 1);
	assert_int_equal(the_ring.sessions[0].ask.n_prompt, 12);
	assert_int_equal(a[0].ends + a[1].ends, 0);
	assert_int_equal(route_counts(w->route).waiting, 0);
	assert_int_equal(route_counts(w->route).running, 1);
	free_world(w);
}

/* --- going on with what was asked before -------------------------------------------------------------------- */

static struct ring_plan plan_by(uint8_t middle)
{
	struct ring_plan plan = {.model = {0xab, 0xcd, 0xef, 0x01}, .n_layer = 12, .n_stages = 3};
	plan.stages[0] = (struct ring_stage){{1}, {0, 1}};
	plan.stages[1] = (struct ring_stage){{middle}, {1, 11}};
	plan.stages[2] = (struct ring_stage){{1}, {11, 12}};
	return plan;
}

static void a_follow_up_goes_where_its_conversation_is_kept(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	w->models[0].truncates = true;
	the_ring.recalls = true;
	the_ring.tenant = 9;
	the_ring.recalled = plan_by(3);        /* the farther node */
	ask.tenant[0] = 9;
	struct ring_session *s = running(w, &a, &ask);
	assert_int_equal(s->ask.plan.stages[1].node[0], 3);
	assert_int_equal(s->ask.tenant[0], 9);
	end(s, 0, "stop", NULL);
	assert_int_equal(a.result.cached_tokens, 64);

	w->nodes[2].usable = false;            /* it is paused, say */
	s = running(w, &a, &ask);
	assert_int_equal(s->ask.plan.stages[1].node[0], 2);
	w->nodes[2].usable = true;
	w->nodes[2].resident[0] = (struct layer_range){1, 6};
	s = running(w, &a, &ask);
	assert_int_equal(s->ask.plan.stages[1].node[0], 2);
	w->nodes[2].resident[0] = (struct layer_range){1, 11};
	ask.tenant[0] = 8;
	s = running(w, &a, &ask);
	assert_int_equal(s->ask.plan.stages[1].node[0], 2);
	w->models[0].truncates = false;        /* nothing can be gone on with: nobody's question */
	ask.tenant[0] = 9;
	s = running(w, &a, &ask);
	assert_int_equal(s->ask.tenant[0], 0);
	assert_int_equal(s->ask.plan.stages[1].node[0], 2);
	free_world(w);
}

static void a_stop_string_across_tokens_ends_the_answer(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	ask.n_stops = 1;
	ask.stops[0] = "FIN";
	struct ring_session *s = running(w, &a, &ask);
	assert_true(say(s, "oui F"));
	assert_string_equal(a.text, "oui ");
	assert_false(say(s, "IN et"));
	end(s, 0, "stop", NULL);
	assert_string_equal(a.text, "oui ");
	assert_string_equal(a.result.finish, "stop");
	assert_int_equal(a.result.completion_tokens, 2);
	free_world(w);
}

static void what_was_held_back_is_said_at_the_end(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	ask.n_stops = 1;
	ask.stops[0] = "FIN";
	struct ring_session *s = running(w, &a, &ask);
	say(s, "oui F");
	end(s, 0, "length", NULL);
	assert_string_equal(a.text, "oui F");
	free_world(w);
}

static void an_end_token_is_neither_said_nor_counted(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	struct ring_session *s = running(w, &a, &ask);
	struct token token = {.piece = (const uint8_t *)"</s>", .piece_length = 4, .end = true};
	assert_true(s->ask.on_token(s->ask.arg, &token));
	end(s, 0, "stop", NULL);
	assert_string_equal(a.text, "");
	assert_int_equal(a.result.completion_tokens, 0);
	free_world(w);
}

static void messages_are_copied(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	char *role = strdup("user"), *content = strdup("secret");
	struct render_message *message = malloc(sizeof *message);
	assert_true(role && content && message);
	*message = (struct render_message){role, 4, content, 6};
	ask.messages = message;
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	free(role);
	free(content);
	free(message);
	come_back(w, 10);
	end(&the_ring.sessions[0], 0, "stop", NULL);
	assert_string_equal(w->rendered, "user:secret");
	free_world(w);
}

/* --- losses -------------------------------------------------------------------------------------------- */

static void a_lost_stage_is_replaced_by_another_node(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	struct ring_session *s = running(w, &a, &ask);
	struct ring_plan plan;
	uint8_t failed[1][KEY_BYTES];
	assert_int_equal(s->ask.plan.stages[1].node[0], 2);
	memcpy(failed[0], w->nodes[1].node, KEY_BYTES);
	assert_int_equal(s->ask.on_lost(s->ask.arg, failed, 1, &plan), 0);
	assert_int_equal(plan.stages[1].node[0], 3);
	s->ask.plan = plan;
	end(s, 0, "stop", NULL);
	assert_string_equal(a.result.stages[1].name, "node 3");
	free_world(w);
}

static void a_lost_stage_that_nobody_replaces_may_be_back(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	struct ring_plan plan;
	uint8_t failed[1][KEY_BYTES];
	w->n_nodes = 2;
	struct ring_session *s = running(w, &a, &ask);
	memcpy(failed[0], w->nodes[1].node, KEY_BYTES);
	assert_int_equal(s->ask.on_lost(s->ask.arg, failed, 1, &plan), 0);
	assert_int_equal(plan.stages[1].node[0], 2);
	w->nodes[1].usable = false;
	assert_int_equal(s->ask.on_lost(s->ask.arg, failed, 1, &plan), ERR_UNREACHABLE);
	end(s, ERR_UNREACHABLE, NULL, "node 2 went away");
	assert_int_equal(a.result.err, ERR_UNREACHABLE);
	assert_string_equal(a.result.detail, "node 2 went away");
	assert_int_equal(route_counts(w->route).failed, 1);
	free_world(w);
}

static void layers_that_are_not_ready_are_named(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	w->n_nodes = 1;
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	come_back(w, 10);
	assert_int_equal(a.result.err, ERR_UNREACHABLE);
	assert_non_null(strstr(a.result.detail, "layers 1 to 10 of histoires"));
	w->nodes[0].n_resident = 1;
	ask = asking(&a);
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	come_back(w, 10);
	assert_int_equal(a.result.err, ERR_DENIED);
	free_world(w);
}

static void a_model_that_is_not_ready_is_refused_at_once(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	w->models[0].state = ROUTE_ARRIVING;
	assert_int_equal(route_ask(w->route, &ask, &a.question), ERR_ARRIVING);
	w->models[0].state = ROUTE_UNAVAILABLE;
	assert_int_equal(route_ask(w->route, &ask, &a.question), ERR_UNREACHABLE);
	ask.model = "nulle part";
	assert_int_equal(route_ask(w->route, &ask, &a.question), ERR_UNKNOWN);
	ask.model = NULL;
	assert_int_equal(route_ask(w->route, &ask, &a.question), ERR_UNKNOWN);
	assert_null(a.question);
	assert_int_equal(w->renders, 0);
	assert_int_equal(route_counts(w->route).running, 0);
	free_world(w);
}

static void a_plan_can_be_had_without_asking(void **state)
{
	struct world *w = new_world();
	struct ring_plan plan;
	char why[300] = "";
	assert_int_equal(route_plan(w->route, w->models[0].id, &plan, why, sizeof why), 0);
	assert_int_equal(plan.n_stages, 3);
	assert_string_equal(why, "");
	uint8_t unknown[KEY_BYTES] = {9};
	assert_int_equal(route_plan(w->route, unknown, &plan, why, sizeof why), ERR_UNKNOWN);
	assert_true(why[0]);
	for (size_t i = 0; i < 3; i++)
		w->nodes[i].sessions_free = 0;
	assert_int_equal(route_plan(w->route, w->models[0].id, &plan, why, sizeof why), ERR_BUSY);
	assert_non_null(strstr(why, "busy"));
	free_world(w);
}

/* --- leaving ------------------------------------------------------------------------------------------- */

static void who_leaves_while_the_ring_runs_hears_nothing_more(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	struct ring_session *s = running(w, &a, &ask);
	say(s, "Bon");
	route_cancel(a.question);
	assert_true(s->cancelled);
	assert_int_equal(a.ends, 0);
	assert_int_equal(route_counts(w->route).running, 0);
	assert_int_equal(route_counts(w->route).completion_tokens, 1);
	free_world(w);
}

static void who_leaves_while_text_becomes_tokens_hears_nothing_more(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	route_cancel(a.question);
	come_back(w, 10);
	assert_int_equal(the_ring.n, 0);
	assert_int_equal(a.starts + a.ends, 0);
	assert_int_equal(route_counts(w->route).running, 0);
	free_world(w);
}

static void who_leaves_at_the_start_is_not_put_on_the_ring(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	a.cancels_at_start = true;
	assert_int_equal(route_ask(w->route, &ask, &a.question), 0);
	come_back(w, 10);
	assert_int_equal(a.starts, 1);
	assert_int_equal(the_ring.n, 0);
	assert_int_equal(a.ends, 0);
	assert_int_equal(route_counts(w->route).running, 0);
	free_world(w);
}

static void who_leaves_at_a_token_hears_nothing_more(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	struct ring_session *s = running(w, &a, &ask);
	a.cancels_at_text = true;
	assert_false(say(s, "Bon"));
	assert_false(s->cancelled);              /* it ends by itself: on_token said so */
	end(s, 0, "stop", NULL);
	assert_int_equal(a.texts, 1);
	assert_int_equal(a.ends, 0);
	assert_int_equal(route_counts(w->route).running, 0);
	free_world(w);
}

static void a_route_that_is_closed_cancels_what_runs(void **state)
{
	struct world *w = new_world();
	struct asker a, b;
	struct route_ask ask = asking(&a);
	struct ring_session *s = running(w, &a, &ask);
	ask = asking(&b);
	assert_int_equal(route_ask(w->route, &ask, &b.question), 0);
	void (*done)(void *, int, const int32_t *, size_t, const char *) = w->done;
	void *done_arg = w->done_arg;
	free_world(w);
	assert_true(s->cancelled);
	done(done_arg, ERR_CANCELLED, NULL, 0, NULL);        /* the text that was being rendered comes back too late */
	assert_int_equal(a.ends + b.ends, 0);
}

static void more_questions_than_may_run_are_sent_away(void **state)
{
	struct world *w = new_world();
	static struct asker askers[ROUTE_RUNNING_MAX + 1];
	struct route_ask ask;
	for (size_t i = 0; i < ROUTE_RUNNING_MAX; i++) {
		ask = asking(&askers[i]);
		running(w, &askers[i], &ask);
	}
	ask = asking(&askers[ROUTE_RUNNING_MAX]);
	assert_int_equal(route_ask(w->route, &ask, &askers[ROUTE_RUNNING_MAX].question), ERR_BUSY);
	end(&the_ring.sessions[5], 0, "stop", NULL);
	running(w, &askers[ROUTE_RUNNING_MAX], &ask);
	assert_int_equal(route_counts(w->route).running, ROUTE_RUNNING_MAX);
	free_world(w);
}

static void messages_past_the_limits_are_refused(void **state)
{
	struct world *w = new_world();
	struct asker a;
	struct route_ask ask = asking(&a);
	struct render_message *many = calloc(RENDER_MESSAGES_MAX + 1, sizeof *many);
	char *large = calloc(1, RENDER_BYTES_MAX + 1);
	assert_true(many && large);
	ask.messages = many;
	ask.n_messages = RENDER_MESSAGES_MAX + 1;
	assert_int_equal(route_ask(w->route, &ask, &a.question), ERR_LIMIT);
	many[0] = (struct render_message){"user", 4, large, RENDER_BYTES_MAX + 1};
	ask.n_messages = 1;
	assert_int_equal(route_ask(w->route, &ask, &a.question), ERR_LIMIT);
	many[0].content_length = SIZE_MAX - 2;         /* the sum must not wrap */
	assert_int_equal(route_ask(w->route, &ask, &a.question), ERR_LIMIT);
	assert_int_equal(route_counts(w->route).running, 0);
	free(many);
	free(large);
	free_world(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_model_answers_to_its_name_its_alias_and_its_id),
		cmocka_unit_test(a_name_that_several_models_have_wants_the_association),
		cmocka_unit_test(a_name_that_nothing_answers_to_gets_the_nearest),
		cmocka_unit_test(many_models_of_one_name_fit_the_message),
		cmocka_unit_test(a_question_is_answered),
		cmocka_unit_test(an_answer_says_who_saw_what),
		cmocka_unit_test(a_node_that_saw_text_at_one_stage_saw_it),
		cmocka_unit_test(a_prompt_of_its_own_is_not_put_into_a_template),
		cmocka_unit_test(no_limit_means_the_rest_of_the_context),
		cmocka_unit_test(a_prompt_past_the_context_is_refused_with_both_numbers),
		cmocka_unit_test(an_empty_prompt_is_refused),
		cmocka_unit_test(an_engine_that_cannot_render_says_why),
		cmocka_unit_test(a_ring_that_refuses_ends_the_question),
		cmocka_unit_test(who_finds_no_place_waits_and_nobody_overtakes),
		cmocka_unit_test(who_waits_too_long_is_sent_away_with_a_time_to_come_back),
		cmocka_unit_test(only_so_many_wait),
		cmocka_unit_test(who_leaves_while_waiting_makes_way),
		cmocka_unit_test(a_follow_up_goes_where_its_conversation_is_kept),
		cmocka_unit_test(a_stop_string_across_tokens_ends_the_answer),
		cmocka_unit_test(what_was_held_back_is_said_at_the_end),
		cmocka_unit_test(an_end_token_is_neither_said_nor_counted),
		cmocka_unit_test(messages_are_copied),
		cmocka_unit_test(a_lost_stage_is_replaced_by_another_node),
		cmocka_unit_test(a_lost_stage_that_nobody_replaces_may_be_back),
		cmocka_unit_test(layers_that_are_not_ready_are_named),
		cmocka_unit_test(a_model_that_is_not_ready_is_refused_at_once),
		cmocka_unit_test(a_plan_can_be_had_without_asking),
		cmocka_unit_test(who_leaves_while_the_ring_runs_hears_nothing_more),
		cmocka_unit_test(who_leaves_while_text_becomes_tokens_hears_nothing_more),
		cmocka_unit_test(who_leaves_at_the_start_is_not_put_on_the_ring),
		cmocka_unit_test(who_leaves_at_a_token_hears_nothing_more),
		cmocka_unit_test(a_route_that_is_closed_cancels_what_runs),
		cmocka_unit_test(more_questions_than_may_run_are_sent_away),
		cmocka_unit_test(messages_past_the_limits_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
