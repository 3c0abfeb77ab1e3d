/* test_ring.c: rings of one to five nodes against the whole model; what is lost, forged, old, doubled or withdrawn.
 *
 *      0 -> 1 -> 2 -> ... -> 0        node 0 asks; 0 has the first and the last layers
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "daemon/ring/seen.h"
#include "tests/unit/ring_world.h"

static const size_t ring_of_three[] = {0, 1, 2, 0};

/* Asserts that the answer is the whole model's. */
static void assert_whole(const struct world_answer *a, const int32_t *prompt, size_t n_prompt, uint32_t max_tokens, uint64_t seed)
{
	int32_t expected[WORLD_CONTEXT];
	const char *finished;
	size_t n = whole_answer(prompt, n_prompt, max_tokens, seed, expected, &finished);
	assert_true(a->ended);
	assert_string_equal(a->detail, "");
	assert_int_equal(a->err, 0);
	assert_int_equal(a->n, n);
	assert_memory_equal(a->tokens, expected, n * sizeof *expected);
	assert_string_equal(a->finished, finished);
}

static bool is_beginning_of_whole(const struct world_answer *a, const int32_t *prompt, size_t n_prompt, uint32_t max_tokens, uint64_t seed)
{
	int32_t expected[WORLD_CONTEXT];
	const char *finished;
	size_t n = whole_answer(prompt, n_prompt, max_tokens, seed, expected, &finished);
	return a->n <= n && !memcmp(a->tokens, expected, a->n * sizeof *expected);
}

/* Nothing is left open anywhere once receipts have come and gone. */
static void assert_nothing_left(struct world *w)
{
	world_run_ms(w, 30000);
	for (size_t i = 0; i < w->n_nodes; i++) {
		struct ring_counts counts = ring_counts(w->nodes[i].ring);
		assert_int_equal(counts.home, 0);
		assert_int_equal(counts.serving, 0);
		if (!w->nodes[i].engine_dead)
			assert_int_equal(world_engine_sessions(w, i), 0);
	}
}

/* --- the answer --------------------------------------------------------------------------------------- */

static void a_ring_of_one_to_five_nodes_answers_as_the_whole_model(void **state)
{
	static const size_t prompts[] = {1, 2, 31, 32, 33, 64, 100, 150};
	for (uint64_t seed = 0; seed < 80; seed++) {
		struct world w;
		struct world_answer a = {0};
		int32_t prompt[WORLD_CONTEXT];
		size_t n_nodes = 1 + seed % 5, n_prompt = prompts[seed % 8], stages[] = {0, 1, 2, 3, 4, 0};
		world_init(&w, seed, n_nodes);
		w.full_permille = seed % 3 ? 0 : 200;
		stages[n_nodes] = 0;
		struct ring_plan plan = world_plan(&w, stages, n_nodes == 1 ? 1 : n_nodes + 1);
		world_prompt(&w, prompt, n_prompt);
		world_ask(&w, &a, &plan, prompt, n_prompt, 60, seed);
		world_run(&w, &a);
		assert_whole(&a, prompt, n_prompt, 60, seed);
		assert_int_equal(a.lost, 0);
		assert_nothing_left(&w);
		world_release(&w);
	}
}

static void a_node_may_have_several_stages_even_one_after_the_other(void **state)
{
	static const size_t plans[][6] = {{0, 0, 1, 1, 2, 0}, {0, 1, 0, 1, 0, 0}, {0, 1, 1, 1, 0, 0}, {0, 0, 0, 0, 0, 0}};
	for (size_t i = 0; i < 4; i++) {
		struct world w;
		struct world_answer a = {0};
		int32_t prompt[70];
		world_init(&w, i, 3);
		struct ring_plan plan = world_plan(&w, plans[i], 6);
		world_prompt(&w, prompt, 70);
		world_ask(&w, &a, &plan, prompt, 70, 40, i);
		world_run(&w, &a);
		assert_whole(&a, prompt, 70, 40, i);
		assert_nothing_left(&w);
		world_release(&w);
	}
}

static void many_questions_at_once_do_not_disturb_each_other(void **state)
{
	struct world w;
	static struct world_answer answers[12];
	int32_t prompts[12][40];
	world_init(&w, 5, 4);
	memset(answers, 0, sizeof answers);
	for (size_t i = 0; i < 12; i++) {
		size_t stages[] = {0, 1 + i % 3, 1 + (i + 1) % 3, 0};
		struct ring_plan plan = world_plan(&w, stages, 4);
		world_prompt(&w, prompts[i], 40);
		world_ask(&w, &answers[i], &plan, prompts[i], 20 + i, 30, i);
		world_run_ms(&w, 40);
	}
	for (size_t i = 0; i < 12; i++)
		world_run(&w, &answers[i]);
	for (size_t i = 0; i < 12; i++)
		assert_whole(&answers[i], prompts[i], 20 + i, 30, i);
	assert_nothing_left(&w);
	world_release(&w);
}

static void no_more_than_four_chunks_are_in_flight(void **state)
{
	struct world w;
	struct world_answer a = {0};
	int32_t prompt[240];
	world_init(&w, 9, 3);
	w.nodes[2].engine_silent = true;       /* nothing comes back */
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 240);
	world_ask(&w, &a, &plan, prompt, 240, 4, lasting_seed(prompt, 240, 4));
	w.nodes[2].engine_silent = false;
	world_run_ms(&w, 15);
	w.nodes[2].engine_silent = true;
	world_run_ms(&w, 2000);
	assert_true(w.nodes[0].blocks <= 4);
	world_release(&w);
}

static void the_answer_ends_when_the_asker_has_enough(void **state)
{
	struct world w;
	struct world_answer a = {.enough = 3};
	int32_t prompt[10];
	world_init(&w, 11, 3);
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 10);
	world_ask(&w, &a, &plan, prompt, 10, 60, lasting_seed(prompt, 10, 60));
	world_run(&w, &a);
	assert_int_equal(a.err, 0);
	assert_int_equal(a.n, 3);
	assert_string_equal(a.finished, "stop");
	assert_nothing_left(&w);
	world_release(&w);
}

static void a_question_that_cannot_be_asked_is_refused_at_once(void **state)
{
	struct world w;
	struct world_answer a = {0};
	struct ring_session *session;
	int32_t prompt[WORLD_CONTEXT] = {0};
	static const size_t remote_tail[] = {0, 1}, remote_head[] = {1, 0};
	world_init(&w, 1, 2);
	struct ring_plan whole = world_plan(&w, ring_of_three, 1), tail = world_plan(&w, remote_tail, 2), head = world_plan(&w, remote_head, 2);
	world_ask(&w, &a, &whole, prompt, 4, 4, 1);
	struct ring_ask ask = {.plan = tail, .prompt = prompt, .n_prompt = 4, .max_tokens = 4, .context = 64, .arg = &a};
	assert_int_equal(ring_ask(w.nodes[0].ring, &ask, &session), -EINVAL);        /* no callbacks */
	world_run(&w, &a);
	world_release(&w);

	bool (*on_token)(void *, const struct token *) = (bool (*)(void *, const struct token *))1;      /* never called */
	void (*on_end)(void *, int, const char *, const char *) = (void (*)(void *, int, const char *, const char *))1;
	world_init(&w, 1, 2);
	ask.on_token = on_token;
	ask.on_end = on_end;
	assert_int_equal(ring_ask(w.nodes[0].ring, &ask, &session), ERR_DENIED);
	ask.plan = head;
	assert_int_equal(ring_ask(w.nodes[0].ring, &ask, &session), ERR_DENIED);
	ask.plan = whole;
	ask.n_prompt = 64;
	assert_int_equal(ring_ask(w.nodes[0].ring, &ask, &session), ERR_CONTEXT);
	ask.n_prompt = 0;
	assert_int_equal(ring_ask(w.nodes[0].ring, &ask, &session), -EINVAL);
	ask.n_prompt = 4;
	ask.plan.n_layer++;
	assert_int_equal(ring_ask(w.nodes[0].ring, &ask, &session), -EINVAL);
	assert_int_equal(ring_counts(w.nodes[0].ring).home, 0);
	world_release(&w);
}

/* --- cancelling --------------------------------------------------------------------------------------- */

static void a_cancelled_question_leaves_nothing_and_says_nothing(void **state)
{
	for (size_t at = 0; at < 12; at++) {
		struct world w;
		struct world_answer a = {.cancel_at = at > 5 ? at : 0};
		int32_t prompt[100];
		world_init(&w, at, 3);
		struct ring_plan plan = world_plan(&w, ring_of_three, 4);
		world_prompt(&w, prompt, 100);
		world_ask(&w, &a, &plan, prompt, 100, 60, lasting_seed(prompt, 100, 60));
		if (at <= 5) {
			world_run_ms(&w, 20 * at);
			assert_false(a.ended);
			a.cancelled = true;
			ring_cancel(a.session);
		} else {
			world_run(&w, &a);       /* from inside on_token */
			assert_true(a.cancelled);
		}
		assert_nothing_left(&w);
		assert_false(a.ended);
		world_release(&w);
	}
}

/* --- losing stages ------------------------------------------------------------------------------------ */

static size_t lost_node;
static void lose_at_ten(struct world_answer *a)
{
	if (a->n == 10)
		world_isolate(a->world, lost_node, false);
}

static void a_stage_lost_in_mid_answer_is_replaced_and_no_token_comes_twice(void **state)
{
	for (lost_node = 1; lost_node <= 2; lost_node++) {
		struct world w;
		struct world_answer a = {.use_spares = true, .on_token = lose_at_ten};
		int32_t prompt[50];
		world_init(&w, lost_node, 5);
		struct ring_plan plan = world_plan(&w, ring_of_three, 4);
		world_prompt(&w, prompt, 50);
		world_ask(&w, &a, &plan, prompt, 50, 60, lasting_seed(prompt, 50, 60));
		world_run(&w, &a);
		assert_whole(&a, prompt, 50, 60, lasting_seed(prompt, 50, 60));
		assert_int_equal(a.lost, 1);
		assert_int_equal(a.n_failed, 1);
		assert_memory_equal(a.failed[0], w.nodes[lost_node].key, KEY_BYTES);
		world_isolate(&w, lost_node, true);
		assert_nothing_left(&w);
		world_release(&w);
	}
}

static void break_link_at_ten(struct world_answer *a)
{
	if (a->n == 10)
		world_link(a->world, 1, 2, false);
}

static void a_broken_link_between_two_stages_is_told_to_home(void **state)
{
	struct world w;
	struct world_answer a = {.use_spares = true, .on_token = break_link_at_ten};
	int32_t prompt[50];
	world_init(&w, 3, 4);
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 50);
	world_ask(&w, &a, &plan, prompt, 50, 60, lasting_seed(prompt, 50, 60));
	world_run(&w, &a);
	assert_whole(&a, prompt, 50, 60, lasting_seed(prompt, 50, 60));
	assert_int_equal(a.lost, 1);
	assert_nothing_left(&w);
	world_release(&w);
}

static void without_a_spare_the_answer_ends_with_what_the_stage_said(void **state)
{
	struct world w;
	struct world_answer a = {.on_token = lose_at_ten};
	int32_t prompt[50];
	lost_node = 2;
	world_init(&w, 2, 3);
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 50);
	world_ask(&w, &a, &plan, prompt, 50, 60, lasting_seed(prompt, 50, 60));
	world_run(&w, &a);
	assert_true(a.ended);
	assert_int_equal(a.err, ERR_UNREACHABLE);
	assert_non_null(strstr(a.detail, "link to a stage went down"));
	assert_true(is_beginning_of_whole(&a, prompt, 50, 60, lasting_seed(prompt, 50, 60)));
	world_isolate(&w, 2, true);
	assert_nothing_left(&w);
	world_release(&w);
}

static void whatever_links_do_tokens_are_right_or_the_answer_ends(void **state)
{
	unsigned whole = 0, ended = 0;
	for (uint64_t seed = 0; seed < 150; seed++) {
		struct world w;
		struct world_answer a = {.use_spares = true};
		int32_t prompt[80];
		world_init(&w, seed, 6);
		struct ring_plan plan = world_plan(&w, ring_of_three, 4);
		w.full_permille = seed % 2 ? 50 : 0;
		world_prompt(&w, prompt, 80);
		world_ask(&w, &a, &plan, prompt, 80, 50, seed);
		for (unsigned i = 0; i < 200 && !a.ended; i++) {
			size_t from = world_below(&w, 6), to = world_below(&w, 6);
			world_run_ms(&w, 20 + world_below(&w, 200));
			if (from != to)
				world_link(&w, from, to, world_below(&w, seed % 2 ? 3 : 12) != 0);
		}
		for (size_t i = 0; i < 6; i++)
			world_isolate(&w, i, true);
		world_run(&w, &a);
		assert_true(a.ended);
		assert_true(a.lost <= 8 * (a.n + 1));
		if (a.err)
			assert_true(is_beginning_of_whole(&a, prompt, 80, 50, seed));
		else
			assert_whole(&a, prompt, 80, 50, seed);
		*(a.err ? &ended : &whole) += 1;
		assert_nothing_left(&w);
		world_release(&w);
	}
	/* The seeds must reach both ends, or the test above tests nothing. */
	assert_true(whole > 20 && ended > 5);
}

static void a_stage_that_is_never_ready_is_replaced_after_ten_seconds(void **state)
{
	struct world w;
	struct world_answer a = {.use_spares = true};
	int32_t prompt[5];
	world_init(&w, 21, 4);
	w.nodes[1].engine_swallows_opens = true;
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 5);
	world_ask(&w, &a, &plan, prompt, 5, 20, lasting_seed(prompt, 5, 20));
	world_run_ms(&w, 9000);
	assert_int_equal(a.lost, 0);
	world_run(&w, &a);
	assert_whole(&a, prompt, 5, 20, lasting_seed(prompt, 5, 20));
	assert_int_equal(a.lost, 1);
	assert_memory_equal(a.failed[0], w.nodes[1].key, KEY_BYTES);
	assert_nothing_left(&w);
	world_release(&w);
}

static void a_place_is_given_up_later_where_there_is_no_memory_to_close(void **state)
{
	struct world w;
	struct world_answer a = {0};
	int32_t prompt[5];
	world_init(&w, 23, 3);
	for (size_t i = 0; i < 3; i++)
		w.nodes[i].no_memory_to_close = 3;
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 5);
	world_ask(&w, &a, &plan, prompt, 5, 20, lasting_seed(prompt, 5, 20));
	world_run(&w, &a);
	assert_whole(&a, prompt, 5, 20, lasting_seed(prompt, 5, 20));
	world_run_ms(&w, 5000);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(w.nodes[i].no_memory_to_close, 0);
		assert_int_equal(w.nodes[i].n_taken, 0);
	}
	assert_nothing_left(&w);
	world_release(&w);
}

static void hush_at_ten(struct world_answer *a)
{
	if (a->n == 10) {
		a->world->nodes[1].engine_silent = true;
		a->world->nodes[1].engine_swallows_opens = true;
	}
}

static void a_silent_stage_is_found_by_the_next_set_up_and_replaced(void **state)
{
	struct world w;
	struct world_answer a = {.use_spares = true, .on_token = hush_at_ten};
	int32_t prompt[5];
	world_init(&w, 22, 4);
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 5);
	world_ask(&w, &a, &plan, prompt, 5, 30, lasting_seed(prompt, 5, 30));
	world_run(&w, &a);
	assert_whole(&a, prompt, 5, 30, lasting_seed(prompt, 5, 30));
	assert_int_equal(a.lost, 2);
	assert_memory_equal(a.failed[0], w.nodes[1].key, KEY_BYTES);
	world_release(&w);
}

static void a_stage_without_a_way_to_the_next_is_not_ready(void **state)
{
	struct world w;
	struct world_answer a = {.use_spares = true};
	int32_t prompt[5];
	world_init(&w, 23, 4);
	world_link(&w, 1, 2, false);
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 5);
	world_ask(&w, &a, &plan, prompt, 5, 20, lasting_seed(prompt, 5, 20));
	world_run_ms(&w, 3000);
	assert_int_equal(a.n, 0);
	assert_int_equal(a.lost, 0);           /* it may come up yet */
	world_run(&w, &a);
	assert_whole(&a, prompt, 5, 20, lasting_seed(prompt, 5, 20));
	assert_int_equal(a.lost, 1);
	assert_memory_equal(a.failed[0], w.nodes[2].key, KEY_BYTES);
	world_release(&w);

	struct world_answer b = {0};
	world_init(&w, 24, 3);
	world_link(&w, 1, 2, false);
	world_ask(&w, &b, &plan, prompt, 5, 20, lasting_seed(prompt, 5, 20));
	world_run_ms(&w, 2000);
	world_link(&w, 1, 2, true);
	world_run(&w, &b);
	assert_whole(&b, prompt, 5, 20, lasting_seed(prompt, 5, 20));
	assert_int_equal(b.lost, 0);
	world_release(&w);
}

static size_t engine_node;
static void kill_engine_at_ten(struct world_answer *a)
{
	if (a->n == 10) {
		a->world->nodes[engine_node].engine_dead = true;
		ring_on_engine_lost(a->world->nodes[engine_node].ring, a->world->model, "it crashed");
	}
}

static void an_engine_that_dies_elsewhere_costs_a_pause_here_the_answer(void **state)
{
	for (engine_node = 0; engine_node < 3; engine_node++) {
		struct world w;
		struct world_answer a = {.use_spares = true, .on_token = kill_engine_at_ten};
		int32_t prompt[40];
		world_init(&w, 25, 4);
		struct ring_plan plan = world_plan(&w, ring_of_three, 4);
		world_prompt(&w, prompt, 40);
		world_ask(&w, &a, &plan, prompt, 40, 40, lasting_seed(prompt, 40, 40));
		world_run(&w, &a);
		if (engine_node) {
			assert_whole(&a, prompt, 40, 40, lasting_seed(prompt, 40, 40));
			assert_int_equal(a.lost, 1);
		} else {
			assert_int_equal(a.err, ERR_ENGINE);
			assert_int_equal(a.lost, 0);
			assert_non_null(strstr(a.detail, "it crashed"));
		}
		assert_nothing_left(&w);
		world_release(&w);
	}
}

/* node 1's engine dies at token 10 and is back when its node has loaded it anew */
static void restart_engine_at_ten(struct world_answer *a)
{
	struct world_node *node = &a->world->nodes[1];
	if (a->n != 10)
		return;
	node->engine_dead = true;
	node->engine_back_at = a->world->ms + 3000;
	ring_on_engine_lost(node->ring, a->world->model, "it crashed");
}

static void an_engine_that_comes_back_gets_its_stage_again(void **state)
{
	struct world w;
	struct world_answer a = {.forgives = true, .on_token = restart_engine_at_ten};
	int32_t prompt[40];
	world_init(&w, 28, 3);
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 40);
	world_ask(&w, &a, &plan, prompt, 40, 40, lasting_seed(prompt, 40, 40));
	world_run(&w, &a);
	assert_whole(&a, prompt, 40, 40, lasting_seed(prompt, 40, 40));
	assert_true(a.lost > 1);
	assert_nothing_left(&w);
	world_release(&w);
}

/* The eleventh token's row kills whatever engine computes it at stage 1. */
static unsigned killed;
static unsigned poison(struct world *w, size_t from, size_t to, const struct frame *frame)
{
	struct rows_message m;
	if (frame->type != FRAME_ROWS || to != 1 || rows_decode(frame, &m) || m.blocks[0].position + m.blocks[0].count <= 50)
		return 1;
	killed++;
	w->nodes[1].engine_dead = true;
	w->nodes[1].engine_back_at = w->ms + 1000;
	ring_on_engine_lost(w->nodes[1].ring, w->model, "it crashed");
	return 0;
}

static void a_question_that_kills_engines_ends_before_they_are_quarantined(void **state)
{
	struct world w;
	struct world_answer a = {.forgives = true};
	int32_t prompt[40];
	killed = 0;
	world_init(&w, 29, 3);
	w.filter = poison;
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 40);
	world_ask(&w, &a, &plan, prompt, 40, 40, lasting_seed(prompt, 40, 40));
	world_run(&w, &a);
	assert_int_equal(a.err, ERR_ENGINE);
	assert_int_equal(killed, 2);
	assert_true(is_beginning_of_whole(&a, prompt, 40, 40, lasting_seed(prompt, 40, 40)));
	assert_nothing_left(&w);
	world_release(&w);
}

static void a_stage_that_forgot_positions_gets_them_again(void **state)
{
	for (size_t forgets = 0; forgets < 3; forgets++)
		for (int at = 1; at < 150; at += 29) {
			struct world w;
			struct world_answer a = {0};
			int32_t prompt[100];
			world_init(&w, 26, 3);
			w.nodes[forgets].forget_at = at;
			struct ring_plan plan = world_plan(&w, ring_of_three, 4);
			world_prompt(&w, prompt, 100);
			world_ask(&w, &a, &plan, prompt, 100, 60, lasting_seed(prompt, 100, 60));
			world_run(&w, &a);
			assert_whole(&a, prompt, 100, 60, lasting_seed(prompt, 100, 60));
			assert_int_equal(a.lost, 0);
			assert_int_equal(w.nodes[1].opens, 2);
			assert_int_equal(w.nodes[1].closes, 1);        /* the second epoch did not throw away what the others hold */
			assert_nothing_left(&w);
			world_release(&w);
		}
}

static void a_session_outlives_its_tickets(void **state)
{
	struct world w;
	struct world_answer a = {0};
	int32_t prompt[5];
	world_init(&w, 27, 3);
	w.nodes[1].engine_ms = 25000;          /* slow enough that 180 tokens take longer than a ticket lives */
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 5);
	world_ask(&w, &a, &plan, prompt, 5, 180, lasting_seed(prompt, 5, 180));
	world_run(&w, &a);
	assert_whole(&a, prompt, 5, 180, lasting_seed(prompt, 5, 180));
	assert_int_equal(a.lost, 0);
	assert_int_equal(w.nodes[1].opens, 2);
	assert_int_equal(w.nodes[1].closes, 1);
	world_release(&w);
}

/* --- wires that lie ----------------------------------------------------------------------------------- */

static unsigned drop_one(struct world *w, size_t from, size_t to, const struct frame *frame)
{
	unsigned *rows = w->user;
	return frame->type == FRAME_ROWS && ++*rows == 20 ? 0 : 1;
}

static void a_missing_block_is_noticed_and_nothing_wrong_comes_out(void **state)
{
	struct world w;
	struct world_answer a = {.use_spares = true};
	int32_t prompt[100];
	unsigned rows = 0;
	world_init(&w, 31, 5);
	w.filter = drop_one;
	w.user = &rows;
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 100);
	world_ask(&w, &a, &plan, prompt, 100, 60, lasting_seed(prompt, 100, 60));
	world_run(&w, &a);
	assert_whole(&a, prompt, 100, 60, lasting_seed(prompt, 100, 60));
	assert_int_equal(a.lost, 1);
	world_release(&w);
}

static unsigned double_all(struct world *w, size_t from, size_t to, const struct frame *frame)
{
	return 2;
}

static void frames_that_come_twice_count_once(void **state)
{
	struct world w;
	struct world_answer a = {0};
	int32_t prompt[100];
	world_init(&w, 32, 3);
	w.filter = double_all;
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 100);
	world_ask(&w, &a, &plan, prompt, 100, 60, lasting_seed(prompt, 100, 60));
	world_run(&w, &a);
	assert_whole(&a, prompt, 100, 60, lasting_seed(prompt, 100, 60));
	assert_int_equal(a.lost, 0);
	assert_int_equal(w.nodes[1].opens, 1);
	assert_int_equal(w.nodes[1].used_rows, 100 + a.n - (strcmp(a.finished, "length") ? 0 : 1));
	assert_nothing_left(&w);
	world_release(&w);
}

static struct buf rows_frame(const uint8_t *session, uint32_t epoch, uint32_t stage, uint64_t sequence, uint32_t position, size_t row_bytes)
{
	static uint8_t zeros[CHUNK_ROWS * 64];
	struct rows_message m = {.n_blocks = 1};
	struct buf frame;
	m.blocks[0] = (struct rows_block){.epoch = epoch, .stage = stage, .sequence = sequence, .position = position, .count = 1, .want = 1,
					  .encoding = ENCODING_F32, .rows = zeros, .rows_length = row_bytes};
	memcpy(m.blocks[0].session, session, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	assert_int_equal(rows_encode(&frame, &m), 0);
	return frame;
}

static struct buf close_frame(const uint8_t *session, uint32_t epoch)
{
	struct close_message m = {.epoch = epoch, .stage = UINT32_MAX};
	struct buf frame;
	memcpy(m.session, session, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	assert_int_equal(close_encode(&frame, &m), 0);
	return frame;
}

static struct buf fault_frame(const uint8_t *session, uint32_t epoch, uint32_t stage, int code)
{
	struct fault_message m = {.epoch = epoch, .stage = stage, .code = code};
	struct buf frame;
	memcpy(m.session, session, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	assert_int_equal(fault_encode(&frame, &m), 0);
	return frame;
}

static struct buf ready_frame(const uint8_t *session, uint32_t epoch, uint32_t stage)
{
	struct ready_message m = {.epoch = epoch, .stage = stage};
	struct buf frame;
	memcpy(m.session, session, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	assert_int_equal(ready_encode(&frame, &m), 0);
	return frame;
}

/* At token 10 a stranger (node 3), who guessed the session, and wrong neighbours say all they can. */
static void disturb_at_ten(struct world_answer *a)
{
	if (a->n != 10)
		return;
	const uint8_t *id = ring_session_id(a->session);
	for (uint64_t sequence = 0; sequence < 30; sequence++)
		for (size_t to = 0; to < 3; to++)
			for (uint32_t stage = 1; stage < 4; stage++) {
				struct buf frame = rows_frame(id, 0, stage, sequence, 5, 16);
				world_inject(a->world, 3, to, &frame);
			}
	struct buf frame = rows_frame(id, 0, 2, 13, 17, 16);
	world_inject(a->world, 0, 2, &frame);  /* home is not stage 2's previous */
	frame = rows_frame(id, 0, 3, 13, 17, 16);
	world_inject(a->world, 1, 0, &frame);
	for (size_t to = 1; to < 3; to++) {
		frame = close_frame(id, 0);
		world_inject(a->world, 3, to, &frame);
	}
	frame = close_frame(id, 0);
	world_inject(a->world, 2, 1, &frame);  /* a neighbour is not home */
	frame = fault_frame(id, 0, 1, ERR_ENGINE);
	world_inject(a->world, 3, 0, &frame);
	frame = fault_frame(id, 7, 1, ERR_ENGINE);
	world_inject(a->world, 1, 0, &frame);  /* another epoch */
	frame = fault_frame(id, 0, 31, ERR_ENGINE);
	world_inject(a->world, 1, 0, &frame);
	frame = ready_frame(id, 0, 1);
	world_inject(a->world, 3, 0, &frame);
}

static void frames_from_a_wrong_node_change_nothing(void **state)
{
	struct world w;
	struct world_answer a = {.on_token = disturb_at_ten};
	int32_t prompt[5];
	world_init(&w, 33, 4);
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 5);
	world_ask(&w, &a, &plan, prompt, 5, 60, lasting_seed(prompt, 5, 60));
	world_run(&w, &a);
	assert_whole(&a, prompt, 5, 60, lasting_seed(prompt, 5, 60));
	assert_int_equal(a.lost, 0);
	assert_int_equal(w.nodes[1].blocks, a.n + (strcmp(a.finished, "length") ? 1 : 0));      /* one a row, none of the stranger's */
	assert_int_equal(w.nodes[1].closes, 1);
	assert_nothing_left(&w);
	world_release(&w);
}

static void ready_from_a_wrong_node_does_not_announce_the_ring(void **state)
{
	struct world w;
	struct world_answer a = {0};
	int32_t prompt[5];
	world_init(&w, 34, 4);
	w.nodes[1].engine_swallows_opens = true;
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 5);
	world_ask(&w, &a, &plan, prompt, 5, 60, lasting_seed(prompt, 5, 60));
	world_run_ms(&w, 1000);
	struct buf frame = ready_frame(ring_session_id(a.session), 0, 1);
	world_inject(&w, 2, 0, &frame);
	frame = ready_frame(ring_session_id(a.session), 1, 1);
	world_inject(&w, 1, 0, &frame);
	world_run_ms(&w, 1000);
	assert_int_equal(w.nodes[0].blocks, 0);
	world_release(&w);
}

/* After the ring was set up anew, what belongs to epoch 0 comes again. */
static void old_epoch_at_twenty(struct world_answer *a)
{
	lose_at_ten(a);
	if (a->n != 20)
		return;
	const uint8_t *id = ring_session_id(a->session);
	for (uint64_t sequence = 0; sequence < 40; sequence++) {
		struct buf frame = rows_frame(id, 0, 1, sequence, 3, 16);
		world_inject(a->world, 0, 1, &frame);
		frame = rows_frame(id, 0, 3, sequence, 3, 16);
		world_inject(a->world, 3, 0, &frame);
	}
	struct buf frame = close_frame(id, 0);
	world_inject(a->world, 0, 1, &frame);
	frame = fault_frame(id, 0, 1, ERR_ENGINE);
	world_inject(a->world, 1, 0, &frame);
}

static void frames_of_an_old_epoch_change_nothing(void **state)
{
	struct world w;
	struct world_answer a = {.use_spares = true, .on_token = old_epoch_at_twenty};
	int32_t prompt[5];
	lost_node = 2;
	world_init(&w, 35, 4);
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 5);
	world_ask(&w, &a, &plan, prompt, 5, 60, lasting_seed(prompt, 5, 60));
	world_run(&w, &a);
	assert_whole(&a, prompt, 5, 60, lasting_seed(prompt, 5, 60));
	assert_true(a.n > 20);
	assert_int_equal(a.lost, 1);
	world_release(&w);
}

static void rows_of_another_size_are_their_senders_fault(void **state)
{
	struct world w;
	struct world_answer a = {.use_spares = true};
	int32_t prompt[5];
	world_init(&w, 36, 5);
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 5);
	world_ask(&w, &a, &plan, prompt, 5, 60, lasting_seed(prompt, 5, 60));
	while (!a.n)
		world_run_ms(&w, 1);
	struct buf frame = rows_frame(ring_session_id(a.session), 0, 3, 1, 5, 12);
	world_inject(&w, 2, 0, &frame);
	world_run(&w, &a);
	assert_whole(&a, prompt, 5, 60, lasting_seed(prompt, 5, 60));
	assert_int_equal(a.lost, 1);
	assert_memory_equal(a.failed[0], w.nodes[2].key, KEY_BYTES);
	world_release(&w);
}

/* --- tickets ------------------------------------------------------------------------------------------ */

static struct ticket good_ticket(const struct world *w)
{
	struct ticket t = {.epoch = 0, .stage = 1, .n_stages = 3, .range = {4, 8}, .context = 64};
	memset(t.session, 0x77, SESSION_BYTES);
	memcpy(t.home, w->nodes[0].key, KEY_BYTES);
	memcpy(t.home_association, w->nodes[0].association, KEY_BYTES);
	memcpy(t.model, w->model, KEY_BYTES);
	memcpy(t.node, w->nodes[1].key, KEY_BYTES);
	memcpy(t.previous, w->nodes[0].key, KEY_BYTES);
	memcpy(t.next, w->nodes[0].key, KEY_BYTES);
	t.issued = 1800000000u + w->ms / 1000;
	t.expires = t.issued + 60;
	return t;
}

static struct buf ticket_frame(const struct ticket *t, const uint8_t *secret)
{
	struct buf bytes, frame;
	static const uint8_t empty = 0x80;
	buf_init(&bytes, TICKET_MAX);
	buf_init(&frame, FRAME_MAX);
	assert_int_equal(ticket_sign(&bytes, t, secret), 0);
	assert_int_equal(frame_encode(&frame, FRAME_TICKET, &empty, 1, bytes.data, bytes.length), 0);
	buf_release(&bytes);
	return frame;
}

static struct world *ticket_world;
static unsigned faults_seen;
static int fault_code;
static unsigned see_faults(struct world *w, size_t from, size_t to, const struct frame *frame)
{
	struct fault_message fault;
	if (frame->type == FRAME_FAULT && !fault_decode(frame, &fault)) {
		faults_seen++;
		fault_code = fault.code;
	}
	return 1;
}

/* Gives node 1 a ticket; says whether its engine was asked to open a session. */
static bool opens(const struct ticket *t, size_t signer, size_t from)
{
	unsigned before = ticket_world->nodes[1].opens;
	struct buf frame = ticket_frame(t, ticket_world->nodes[signer].secret);
	world_inject(ticket_world, from, 1, &frame);
	world_run_ms(ticket_world, 300);
	return ticket_world->nodes[1].opens > before;
}

static void only_homes_own_fresh_ticket_opens_a_session(void **state)
{
	struct world w;
	struct ticket t;
	ticket_world = &w;
	world_init(&w, 41, 4);
	w.filter = see_faults;

	t = good_ticket(&w);
	struct buf frame = ticket_frame(&t, w.nodes[0].secret);
	frame.data[frame.length - 1] ^= 1;     /* forged */
	world_inject(&w, 0, 1, &frame);
	world_run_ms(&w, 300);
	assert_int_equal(w.nodes[1].opens, 0);
	assert_int_equal(w.nodes[1].permits, 0);

	assert_false(opens(&t, 0, 2));         /* somebody else brings home's ticket */
	memcpy(t.node, w.nodes[2].key, KEY_BYTES);
	assert_false(opens(&t, 0, 0));         /* for another node */
	t = good_ticket(&w);
	t.stage = 0;
	assert_false(opens(&t, 0, 0));         /* would see text */
	t.stage = 2;
	assert_false(opens(&t, 0, 0));
	assert_int_equal(fault_code, ERR_UNSUPPORTED);
	t = good_ticket(&w);
	t.issued -= 100;
	t.expires = t.issued + 99;
	assert_false(opens(&t, 0, 0));         /* expired */
	assert_int_equal(fault_code, ERR_EXPIRED);
	t = good_ticket(&w);
	t.issued += RECORD_FUTURE_S + 10;
	t.expires = t.issued + 60;
	assert_false(opens(&t, 0, 0));         /* from the future */
	t = good_ticket(&w);
	w.nodes[1].permit = ERR_DENIED;
	assert_false(opens(&t, 0, 0));
	assert_int_equal(fault_code, ERR_DENIED);
	w.nodes[1].permit = 0;
	assert_true(opens(&t, 0, 0));          /* a refused ticket was not used up */
	assert_int_equal(ring_counts(w.nodes[1].ring).serving, 1);

	unsigned faults = faults_seen, closes = w.nodes[1].closes;
	assert_false(opens(&t, 0, 0));         /* once only */
	assert_int_equal(faults_seen, faults); /* and a replay does not hurt the session that is open */
	assert_int_equal(w.nodes[1].closes, closes);
	assert_int_equal(ring_counts(w.nodes[1].ring).serving, 1);

	memcpy(t.home, w.nodes[2].key, KEY_BYTES);
	assert_false(opens(&t, 2, 2));         /* another home, the same session */
	t.epoch = 5;
	assert_false(opens(&t, 2, 2));
	assert_int_equal(ring_counts(w.nodes[1].ring).serving, 1);

	t = good_ticket(&w);
	t.epoch = 2;
	assert_true(opens(&t, 0, 0));          /* a new epoch takes the place of the old one */
	assert_int_equal(ring_counts(w.nodes[1].ring).serving, 1);
	t.epoch = 1;
	assert_false(opens(&t, 0, 0));         /* an older one comes too late */

	frame = close_frame(t.session, 2);
	world_inject(&w, 0, 1, &frame);
	world_run_ms(&w, 300);
	assert_int_equal(ring_counts(w.nodes[1].ring).serving, 0);
	t = good_ticket(&w);
	assert_false(opens(&t, 0, 0));         /* also when the session is closed */
	assert_nothing_left(&w);
	world_release(&w);
}

static void a_served_session_ends_with_its_ticket(void **state)
{
	struct world w;
	ticket_world = &w;
	world_init(&w, 42, 3);
	w.filter = see_faults;
	struct ticket t = good_ticket(&w);
	assert_true(opens(&t, 0, 0));
	world_run_ms(&w, 58000);
	assert_int_equal(ring_counts(w.nodes[1].ring).serving, 1);
	world_run_ms(&w, 3000);
	assert_int_equal(ring_counts(w.nodes[1].ring).serving, 0);
	assert_int_equal(fault_code, ERR_EXPIRED);
	assert_int_equal(world_engine_sessions(&w, 1), 0);
	world_release(&w);
}

static void used_tickets_are_remembered_within_bounds(void **state)
{
	struct seen seen;
	struct ticket t = {.expires = 1000};
	seen_init(&seen);
	for (uint32_t home = 0; home < 5; home++)
		for (uint32_t i = 0; i < SEEN_HOME_MAX; i++) {
			memset(t.home, (int)home, KEY_BYTES);
			put_u32(t.session, i);
			assert_int_equal(seen_add(&seen, &t, 10), home < 4 ? 0 : ERR_BUSY);
		}
	memset(t.home, 0, KEY_BYTES);
	put_u32(t.session, SEEN_HOME_MAX);
	assert_int_equal(seen_add(&seen, &t, 10), ERR_BUSY);
	put_u32(t.session, 17);
	assert_int_equal(seen_add(&seen, &t, 999), ERR_REPLAYED);
	t.stage = 1;
	assert_int_equal(seen_add(&seen, &t, 999), ERR_BUSY);
	assert_int_equal(seen_add(&seen, &t, 1000), 0);        /* all others expired */
	assert_int_equal(seen.n, 1);
	seen_release(&seen);
}

/* --- permits, receipts -------------------------------------------------------------------------------- */

static void withdraw_at_ten(struct world_answer *a)
{
	if (a->n == 10) {
		a->world->nodes[2].permit = ERR_DENIED;
		ring_recheck(a->world->nodes[2].ring);
	}
}

static void a_permit_withdrawn_in_mid_answer_ends_the_session_there(void **state)
{
	for (int spare = 0; spare < 2; spare++) {
		struct world w;
		struct world_answer a = {.use_spares = spare, .on_token = withdraw_at_ten};
		int32_t prompt[40];
		world_init(&w, 51, 4);
		struct ring_plan plan = world_plan(&w, ring_of_three, 4);
		world_prompt(&w, prompt, 40);
		world_ask(&w, &a, &plan, prompt, 40, 60, lasting_seed(prompt, 40, 60));
		world_run(&w, &a);
		assert_int_equal(a.lost, 1);
		assert_memory_equal(a.failed[0], w.nodes[2].key, KEY_BYTES);
		assert_int_equal(world_engine_sessions(&w, 2), 0);
		assert_int_equal(ring_counts(w.nodes[2].ring).serving, 0);
		if (spare) {
			assert_whole(&a, prompt, 40, 60, lasting_seed(prompt, 40, 60));
		} else {
			assert_int_equal(a.err, ERR_DENIED);
			assert_non_null(strstr(a.detail, "not any more"));
		}
		assert_nothing_left(&w);
		world_release(&w);
	}
}

static void a_quota_used_up_in_mid_answer_ends_the_session_from_inside(void **state)
{
	struct world w;
	struct world_answer a = {.use_spares = true};
	int32_t prompt[40];
	world_init(&w, 52, 4);
	w.nodes[1].quota = 64;
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 40);
	world_ask(&w, &a, &plan, prompt, 40, 60, lasting_seed(prompt, 40, 60));
	world_run(&w, &a);
	assert_whole(&a, prompt, 40, 60, lasting_seed(prompt, 40, 60));
	assert_int_equal(a.lost, 1);
	assert_int_equal(w.nodes[1].used_rows, 64);
	assert_int_equal(w.nodes[1].used_final, 1);
	assert_nothing_left(&w);
	world_release(&w);
}

static void a_stage_that_refuses_at_set_up_is_passed_over(void **state)
{
	for (int spare = 0; spare < 2; spare++) {
		struct world w;
		struct world_answer a = {.use_spares = spare};
		int32_t prompt[4];
		world_init(&w, 53, 4);
		w.nodes[1].permit = ERR_BUSY;
		struct ring_plan plan = world_plan(&w, ring_of_three, 4);
		world_prompt(&w, prompt, 4);
		world_ask(&w, &a, &plan, prompt, 4, 30, lasting_seed(prompt, 4, 30));
		world_run(&w, &a);
		assert_int_equal(a.lost, 1);
		if (spare)
			assert_whole(&a, prompt, 4, 30, lasting_seed(prompt, 4, 30));
		else
			assert_int_equal(a.err, ERR_BUSY);
		assert_nothing_left(&w);
		world_release(&w);
	}
}

static void receipts_say_what_was_computed_and_both_sides_sign(void **state)
{
	struct world w;
	struct world_answer a = {0};
	int32_t prompt[100];
	static const size_t stages[] = {0, 1, 2, 1, 0};
	world_init(&w, 54, 3);
	struct ring_plan plan = world_plan(&w, stages, 5);
	world_prompt(&w, prompt, 100);
	world_ask(&w, &a, &plan, prompt, 100, 30, lasting_seed(prompt, 100, 30));
	world_run(&w, &a);
	assert_whole(&a, prompt, 100, 30, lasting_seed(prompt, 100, 30));
	uint64_t rows = 100 + a.n - (strcmp(a.finished, "length") ? 0 : 1);
	assert_int_equal(a.n_use, 5);
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(a.use[i].rows, rows);
		assert_int_equal(a.use[i].microseconds, 100 * rows);    /* known when on_end is called, remote ones by receipt */
	}
	assert_nothing_left(&w);
	assert_int_equal(w.nodes[0].receipts, 2);
	for (size_t i = 0; i < 2; i++) {
		const struct receipt_body *r = &w.nodes[0].receipt[i];
		bool twice = !memcmp(r->node, w.nodes[1].key, KEY_BYTES);
		assert_true(w.nodes[0].receipt_countersigned[i]);
		assert_int_equal(r->rows, twice ? 2 * rows : rows);
		assert_int_equal(r->stage_microseconds, 100 * r->rows);
		assert_memory_equal(r->home, w.nodes[0].key, KEY_BYTES);
		assert_memory_equal(r->home_association, w.nodes[0].association, KEY_BYTES);
	}
	assert_int_equal(w.nodes[1].used_rows, 2 * rows);
	assert_int_equal(w.nodes[1].used_us, 200 * rows);
	assert_int_equal(w.nodes[1].used_final, 2);
	assert_int_equal(w.nodes[2].used_rows, rows);
	world_release(&w);
}

/* Node 1's receipts claim a row more than it was sent: the frame is signed anew with its own key. */
static struct world_node *greedy;
static unsigned make_greedy(struct world *w, size_t from, size_t to, const struct frame *frame)
{
	struct record record, head = {0};
	struct receipt_body body;
	static const uint8_t empty = 0x80;
	if (frame->type != FRAME_RECEIPT || from != 1 || !greedy)
		return 1;
	assert_int_equal(record_open(&record, frame->tail, frame->tail_length), 0);
	assert_int_equal(receipt_read(&record, &body), 0);
	head.sequence = record.sequence;
	head.issued = record.issued;
	head.expires = record.expires;
	memcpy(head.association, record.association, KEY_BYTES);
	if (w->user)
		body.stage_microseconds += UINT64_C(3600000000);
	else
		body.rows++;
	struct buf bytes, forged;
	buf_init(&bytes, RECORD_MAX);
	buf_init(&forged, FRAME_MAX);
	assert_int_equal(receipt_sign(&bytes, &head, &body, greedy->secret), 0);
	assert_int_equal(frame_encode(&forged, FRAME_RECEIPT, &empty, 1, bytes.data, bytes.length), 0);
	buf_release(&bytes);
	world_inject(w, 1, 0, &forged);
	return 0;
}

static void home_does_not_agree_to_more_than_it_asked_for(void **state)
{
	for (int time = 0; time < 2; time++) {
		struct world w;
		struct world_answer a = {0};
		int32_t prompt[40];
		world_init(&w, 55, 3);
		greedy = &w.nodes[1];
		w.filter = make_greedy;
		w.user = time ? &w : NULL;
		struct ring_plan plan = world_plan(&w, ring_of_three, 4);
		world_prompt(&w, prompt, 40);
		world_ask(&w, &a, &plan, prompt, 40, 30, lasting_seed(prompt, 40, 30));
		world_run(&w, &a);
		assert_whole(&a, prompt, 40, 30, lasting_seed(prompt, 40, 30));
		assert_nothing_left(&w);
		assert_int_equal(w.nodes[0].receipts, 1);
		assert_memory_equal(w.nodes[0].receipt[0].node, w.nodes[2].key, KEY_BYTES);
		world_release(&w);
	}
	greedy = NULL;
}

static void the_receipt_of_a_replaced_stage_counts_too(void **state)
{
	struct world w;
	struct world_answer a = {.use_spares = true, .on_token = withdraw_at_ten};
	int32_t prompt[40];
	world_init(&w, 56, 4);
	struct ring_plan plan = world_plan(&w, ring_of_three, 4);
	world_prompt(&w, prompt, 40);
	world_ask(&w, &a, &plan, prompt, 40, 60, lasting_seed(prompt, 40, 60));
	world_run(&w, &a);
	assert_whole(&a, prompt, 40, 60, lasting_seed(prompt, 40, 60));
	assert_nothing_left(&w);
	assert_int_equal(w.nodes[0].receipts, 3);      /* the two of the last ring and the one that was lost */
	for (size_t i = 0; i < 3; i++) {
		const struct receipt_body *r = &w.nodes[0].receipt[i];
		assert_true(w.nodes[0].receipt_countersigned[i]);
		for (size_t k = 1; k < 4; k++)
			if (!memcmp(r->node, w.nodes[k].key, KEY_BYTES))
				assert_int_equal(r->rows, w.nodes[k].used_rows);
	}
	world_release(&w);
}

static void a_node_that_stops_tells_its_homes_and_stages(void **state)
{
	for (size_t stops = 0; stops < 2; stops++) {
		struct world w;
		struct world_answer a = {.use_spares = true};
		int32_t prompt[40];
		world_init(&w, 57, 4);
		struct ring_plan plan = world_plan(&w, ring_of_three, 4);
		world_prompt(&w, prompt, 40);
		world_ask(&w, &a, &plan, prompt, 40, 60, lasting_seed(prompt, 40, 60));
		while (a.n < 5)
			world_run_ms(&w, 1);
		ring_free(w.nodes[stops].ring);
		w.nodes[stops].ring = NULL;
		if (stops) {
			world_run(&w, &a);       /* home goes on elsewhere */
			assert_whole(&a, prompt, 40, 60, lasting_seed(prompt, 40, 60));
			assert_int_equal(a.lost, 1);
		} else {
			world_run_ms(&w, 1000);
			assert_false(a.ended);
			for (size_t i = 1; i < 4; i++)
				assert_int_equal(ring_counts(w.nodes[i].ring).serving, 0);
		}
		assert_int_equal(world_engine_sessions(&w, stops), 0);
		world_release(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_ring_of_one_to_five_nodes_answers_as_the_whole_model),
		cmocka_unit_test(a_node_may_have_several_stages_even_one_after_the_other),
		cmocka_unit_test(many_questions_at_once_do_not_disturb_each_other),
		cmocka_unit_test(no_more_than_four_chunks_are_in_flight),
		cmocka_unit_test(the_answer_ends_when_the_asker_has_enough),
		cmocka_unit_test(a_question_that_cannot_be_asked_is_refused_at_once),
		cmocka_unit_test(a_cancelled_question_leaves_nothing_and_says_nothing),
		cmocka_unit_test(a_stage_lost_in_mid_answer_is_replaced_and_no_token_comes_twice),
		cmocka_unit_test(a_broken_link_between_two_stages_is_told_to_home),
		cmocka_unit_test(without_a_spare_the_answer_ends_with_what_the_stage_said),
		cmocka_unit_test(whatever_links_do_tokens_are_right_or_the_answer_ends),
		cmocka_unit_test(a_stage_that_is_never_ready_is_replaced_after_ten_seconds),
		cmocka_unit_test(a_place_is_given_up_later_where_there_is_no_memory_to_close),
		cmocka_unit_test(a_silent_stage_is_found_by_the_next_set_up_and_replaced),
		cmocka_unit_test(a_stage_without_a_way_to_the_next_is_not_ready),
		cmocka_unit_test(an_engine_that_dies_elsewhere_costs_a_pause_here_the_answer),
		cmocka_unit_test(an_engine_that_comes_back_gets_its_stage_again),
		cmocka_unit_test(a_question_that_kills_engines_ends_before_they_are_quarantined),
		cmocka_unit_test(a_stage_that_forgot_positions_gets_them_again),
		cmocka_unit_test(a_session_outlives_its_tickets),
		cmocka_unit_test(a_missing_block_is_noticed_and_nothing_wrong_comes_out),
		cmocka_unit_test(frames_that_come_twice_count_once),
		cmocka_unit_test(frames_from_a_wrong_node_change_nothing),
		cmocka_unit_test(ready_from_a_wrong_node_does_not_announce_the_ring),
		cmocka_unit_test(frames_of_an_old_epoch_change_nothing),
		cmocka_unit_test(rows_of_another_size_are_their_senders_fault),
		cmocka_unit_test(only_homes_own_fresh_ticket_opens_a_session),
		cmocka_unit_test(a_served_session_ends_with_its_ticket),
		cmocka_unit_test(used_tickets_are_remembered_within_bounds),
		cmocka_unit_test(a_permit_withdrawn_in_mid_answer_ends_the_session_there),
		cmocka_unit_test(a_quota_used_up_in_mid_answer_ends_the_session_from_inside),
		cmocka_unit_test(a_stage_that_refuses_at_set_up_is_passed_over),
		cmocka_unit_test(receipts_say_what_was_computed_and_both_sides_sign),
		cmocka_unit_test(home_does_not_agree_to_more_than_it_asked_for),
		cmocka_unit_test(the_receipt_of_a_replaced_stage_counts_too),
		cmocka_unit_test(a_node_that_stops_tells_its_homes_and_stages),
	};
	if (sodium_init() < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
