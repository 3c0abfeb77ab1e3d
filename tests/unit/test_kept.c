/* test_kept.c: what a question begins with; sessions between two questions; places in engines and who waits for them.
 *
 *      0 -> 1 -> 2 -> 0        node 0 asks; in some tests 3 asks too: 3 -> 1 -> 3
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "daemon/ring/prefix.h"
#include "tests/unit/ring_world.h"

/* --- the rule ------------------------------------------------------------------------------------------- */

static int32_t numbers[512];

static struct prefix_entry entry(size_t n_asked, size_t n_computed, bool idle, uint64_t used)
{
	for (size_t i = 0; i < 512; i++)
		numbers[i] = (int32_t)i;
	return (struct prefix_entry){.tokens = numbers, .n_computed = n_computed, .n_asked = n_asked, .idle = idle, .used = used};
}

static void rows_count_up_to_the_last_common_chunk_boundary(void **state)
{
	struct prefix_entry e = entry(40, 100, true, 0);
	int32_t prompt[200];
	memcpy(prompt, numbers, sizeof prompt);
	assert_int_equal(prefix_common(&e, prompt, 200), 96);
	assert_int_equal(prefix_common(&e, prompt, 97), 96);
	assert_int_equal(prefix_common(&e, prompt, 96), 64);         /* the last token is computed: its output is wanted */
	assert_int_equal(prefix_common(&e, prompt, 33), 32);
	assert_int_equal(prefix_common(&e, prompt, 32), 0);
	assert_int_equal(prefix_common(&e, prompt, 0), 0);
	prompt[64] = -1;
	assert_int_equal(prefix_common(&e, prompt, 200), 64);
	prompt[63] = -1;
	assert_int_equal(prefix_common(&e, prompt, 200), 32);
	prompt[0] = -1;
	assert_int_equal(prefix_common(&e, prompt, 200), 0);
	e.n_computed = 31;
	assert_int_equal(prefix_common(&e, numbers, 200), 0);
}

static void a_follow_up_takes_over_and_another_conversation_copies(void **state)
{
	struct prefix_entry e = entry(70, 100, true, 0);
	struct prefix_choice c;
	int32_t prompt[200];
	memcpy(prompt, numbers, sizeof prompt);
	assert_true(prefix_choose(&e, 1, prompt, 200, true, &c));
	assert_false(c.fork);
	assert_int_equal(c.position, 96);
	prompt[80] = -1;                       /* it was answered, but the answer is told otherwise */
	assert_true(prefix_choose(&e, 1, prompt, 200, true, &c));
	assert_false(c.fork);
	assert_int_equal(c.position, 64);
	prompt[69] = -1;                       /* it was asked something else */
	assert_true(prefix_choose(&e, 1, prompt, 200, true, &c));
	assert_true(c.fork);
	assert_int_equal(c.position, 64);
	assert_true(prefix_choose(&e, 1, prompt, 200, false, &c));
	assert_false(c.fork);                  /* where no other place is to be had it gives way */
	e.idle = false;
	assert_false(prefix_choose(&e, 1, prompt, 200, false, &c));
	assert_true(prefix_choose(&e, 1, numbers, 200, true, &c));
	assert_true(c.fork);                   /* one that is being answered is never taken */
	prompt[0] = -1;
	assert_false(prefix_choose(&e, 1, prompt, 200, true, &c));
}

static void the_longest_wins_then_the_one_to_take_over_then_the_latest(void **state)
{
	struct prefix_entry e[] = {entry(64, 64, true, 9), entry(200, 128, false, 5), entry(90, 128, true, 1), entry(90, 128, true, 3)};
	struct prefix_choice c;
	assert_true(prefix_choose(e, 4, numbers, 300, true, &c));
	assert_int_equal(c.index, 3);
	assert_false(c.fork);
	assert_true(prefix_choose(e, 2, numbers, 300, true, &c));
	assert_int_equal(c.index, 1);
	assert_true(c.fork);
	assert_true(prefix_choose(e, 2, numbers, 300, false, &c));
	assert_int_equal(c.index, 0);
	assert_false(prefix_choose(e, 0, numbers, 300, true, &c));
}

/* --- rings ---------------------------------------------------------------------------------------------- */

static const size_t ring_of_three[] = {0, 1, 2, 0};
static const size_t others_ring[] = {3, 1, 3};

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
}

static void assert_nothing_left(struct world *w)
{
	world_run_ms(w, (WORLD_KEEP_S + 30) * 1000);
	for (size_t i = 0; i < w->n_nodes; i++) {
		struct ring_counts counts = ring_counts(w->nodes[i].ring);
		assert_int_equal(counts.home + counts.serving + counts.waiting + counts.kept, 0);
		assert_int_equal(ring_kept(w->nodes[i].ring, w->model), 0);
		if (!w->nodes[i].engine_dead) {
			assert_int_equal(world_engine_sessions(w, i), 0);
			assert_int_equal(w->nodes[i].n_taken, 0);
		}
	}
}

struct conversation {
	struct world *world;
	struct ring_plan plan;
	struct world_answer answer;
	int32_t tokens[WORLD_CONTEXT];
	size_t n;
	uint8_t tenant;
	uint64_t seed;
	uint64_t rows;                         /* computed by node 1's engine for the last turn */
};

static struct conversation begin(struct world *w, const size_t *stages, size_t n_stages, uint8_t tenant, size_t n_prompt)
{
	struct conversation c = {.world = w, .plan = world_plan(w, stages, n_stages), .n = n_prompt, .tenant = tenant};
	world_prompt(w, c.tokens, n_prompt);
	return c;
}

static void ask(struct conversation *c, uint32_t max_tokens)
{
	c->seed = lasting_seed(c->tokens, c->n, max_tokens);
	c->answer = (struct world_answer){.tenant = c->tenant};
	c->rows = c->world->nodes[1].engine_rows;
	size_t home = 0;
	while (memcmp(c->world->nodes[home].key, c->plan.stages[0].node, KEY_BYTES))
		home++;
	world_ask_at(c->world, home, &c->answer, &c->plan, c->tokens, c->n, max_tokens, c->seed);
}

/* Asks, checks the answer, and makes it part of what the next turn begins with; `more` new tokens follow. */
static void turn(struct conversation *c, uint32_t max_tokens, size_t more)
{
	ask(c, max_tokens);
	world_run(c->world, &c->answer);
	assert_whole(&c->answer, c->tokens, c->n, max_tokens, c->seed);
	c->rows = c->world->nodes[1].engine_rows - c->rows;
	memcpy(c->tokens + c->n, c->answer.tokens, c->answer.n * sizeof *c->tokens);
	c->n += c->answer.n;
	assert_true(c->n + more < WORLD_CONTEXT);
	world_prompt(c->world, c->tokens + c->n, more);
	c->n += more;
}

static void a_follow_up_computes_only_what_is_new(void **state)
{
	struct world w;
	world_init(&w, 1, 3);
	struct conversation c = begin(&w, ring_of_three, 4, 1, 50);
	turn(&c, 20, 30);
	assert_int_equal(c.answer.cached, 0);
	assert_int_equal(c.rows, 50 + 19);
	assert_int_equal(ring_counts(w.nodes[0].ring).kept, 1);
	assert_int_equal(ring_counts(w.nodes[1].ring).kept, 1);
	assert_int_equal(ring_counts(w.nodes[0].ring).home + ring_counts(w.nodes[1].ring).serving, 0);
	turn(&c, 20, 40);                      /* 100 tokens now, 69 are held: from 64 on */
	assert_int_equal(c.answer.cached, 64);
	assert_int_equal(c.rows, 100 - 64 + 19);
	turn(&c, 20, 10);                      /* 160 now, 119 are held: from 96 on */
	assert_int_equal(c.answer.cached, 96);
	assert_int_equal(c.rows, 160 - 96 + 19);
	assert_int_equal(c.answer.n_use, 4);
	for (size_t i = 0; i < 4; i++)         /* each answer says what it cost, not the session */
		assert_int_equal(c.answer.use[i].rows, 160 - 96 + 19);
	assert_int_equal(ring_counts(w.nodes[0].ring).cached, 64 + 96);
	assert_int_equal(w.nodes[1].forks, 0);

	/* What the quota is charged, and what both have signed, is what was computed. */
	assert_nothing_left(&w);
	for (size_t i = 1; i < 3; i++) {
		assert_int_equal(w.nodes[i].used_rows, w.nodes[i].engine_rows);
		assert_int_equal(w.nodes[i].used_final, 3);
	}
	uint64_t last[3] = {0};
	for (unsigned i = 0; i < w.nodes[0].receipts; i++) {
		const struct receipt_body *r = &w.nodes[0].receipt[i];
		assert_true(w.nodes[0].receipt_countersigned[i]);
		size_t node = !memcmp(r->node, w.nodes[1].key, KEY_BYTES) ? 1 : 2;
		assert_true(r->rows >= last[node]);
		last[node] = r->rows;
	}
	assert_int_equal(last[1], w.nodes[1].engine_rows);
	assert_int_equal(last[2], w.nodes[2].engine_rows);
	world_release(&w);
}

static void the_same_question_again_costs_its_last_chunk(void **state)
{
	struct world w;
	world_init(&w, 2, 3);
	struct conversation c = begin(&w, ring_of_three, 4, 1, 100), again = c;
	turn(&c, 20, 0);
	turn(&again, 30, 0);
	assert_int_equal(again.answer.cached, 96);
	assert_int_equal(again.rows, 4 + 29);
	assert_int_equal(ring_counts(w.nodes[0].ring).kept, 1);
	assert_nothing_left(&w);
	world_release(&w);
}

static void what_one_key_asked_serves_no_other(void **state)
{
	struct world w;
	world_init(&w, 3, 3);
	struct conversation c = begin(&w, ring_of_three, 4, 1, 100), other = c, nobody = c;
	turn(&c, 10, 0);
	other.tenant = 2;
	turn(&other, 10, 0);
	assert_int_equal(other.answer.cached, 0);
	assert_int_equal(other.rows, 109);
	nobody.tenant = 0;
	turn(&nobody, 10, 0);
	turn(&nobody, 10, 0);
	assert_int_equal(nobody.answer.cached, 0);
	assert_int_equal(ring_counts(w.nodes[0].ring).kept, 2);
	assert_int_equal(w.nodes[1].forks, 0);
	assert_nothing_left(&w);
	world_release(&w);
}

/* Three conversations with one system prompt of 70 tokens: it is computed once, and each goes on in a session of its own. */
static void a_shared_beginning_is_computed_once_and_copied(void **state)
{
	struct world w;
	struct conversation c[3];
	world_init(&w, 4, 3);
	c[0] = begin(&w, ring_of_three, 4, 1, 70);
	c[1] = c[2] = c[0];
	for (size_t i = 0; i < 3; i++) {
		world_prompt(&w, c[i].tokens + 70, 40);
		c[i].n = 110;
		turn(&c[i], 10, 5);
		assert_int_equal(c[i].answer.cached, i ? 64 : 0);
		assert_int_equal(c[i].rows, 110 + 9 - (i ? 64 : 0));
	}
	assert_int_equal(w.nodes[1].forks, 2);
	assert_int_equal(w.nodes[2].forks, 2);
	assert_int_equal(w.nodes[0].forks, 4);         /* two stages */
	for (size_t i = 0; i < 3; i++) {
		turn(&c[i], 10, 5);
		assert_int_equal(c[i].answer.cached, 96);
	}
	assert_int_equal(w.nodes[1].forks, 2);
	assert_nothing_left(&w);
	world_release(&w);
}

static void a_beginning_is_copied_from_a_question_that_is_being_answered(void **state)
{
	struct world w;
	world_init(&w, 5, 3);
	struct conversation c = begin(&w, ring_of_three, 4, 1, 70), other = c;
	world_prompt(&w, other.tokens + 66, 4);
	ask(&c, 60);
	while (!c.answer.n)
		world_run_ms(&w, 1);
	assert_false(c.answer.ended);
	turn(&other, 10, 0);
	assert_int_equal(other.answer.cached, 64);
	world_run(&w, &c.answer);
	assert_whole(&c.answer, c.tokens, 70, 60, c.seed);
	assert_nothing_left(&w);
	world_release(&w);
}

static void a_stage_that_forgot_is_told_again_and_the_answer_is_right(void **state)
{
	for (int fork = 0; fork < 2; fork++) {
		struct world w;
		world_init(&w, 6, 3);
		struct conversation c = begin(&w, ring_of_three, 4, 1, 100);
		turn(&c, 10, 20);
		w.nodes[2].forget_at = 0;
		if (fork)
			world_prompt(&w, c.tokens + 80, 20);
		turn(&c, 10, 20);
		assert_int_equal(c.answer.cached, 0);
		turn(&c, 10, 20);
		assert_true(c.answer.cached >= 96);
		assert_nothing_left(&w);
		world_release(&w);
	}
}

static void a_stage_keeps_no_longer_than_it_likes(void **state)
{
	struct world w;
	world_init(&w, 7, 3);
	ring_set_keep(w.nodes[1].ring, 0);
	ring_set_keep(w.nodes[2].ring, 20);
	struct conversation c = begin(&w, ring_of_three, 4, 1, 100);
	turn(&c, 10, 20);
	assert_int_equal(ring_counts(w.nodes[1].ring).kept, 0);
	assert_int_equal(world_engine_sessions(&w, 1), 0);
	assert_int_equal(ring_counts(w.nodes[2].ring).kept, 1);
	world_run_ms(&w, 21000);
	assert_int_equal(ring_counts(w.nodes[2].ring).kept, 0);
	assert_int_equal(world_engine_sessions(&w, 2), 0);
	assert_int_equal(ring_counts(w.nodes[0].ring).kept, 1);
	turn(&c, 10, 20);
	assert_int_equal(c.answer.cached, 0);
	ring_set_keep(w.nodes[0].ring, 0);
	assert_int_equal(ring_counts(w.nodes[0].ring).kept, 0);
	turn(&c, 10, 20);
	assert_int_equal(ring_counts(w.nodes[0].ring).kept, 0);
	assert_nothing_left(&w);
	world_release(&w);
}

static void what_is_kept_goes_with_its_ring(void **state)
{
	for (int how = 0; how < 4; how++) {
		struct world w;
		world_init(&w, 8, 3);
		struct conversation c = begin(&w, ring_of_three, 4, 1, 100);
		turn(&c, 10, 20);
		assert_int_equal(ring_counts(w.nodes[1].ring).kept, 1);
		switch (how) {
		case 0:
			world_isolate(&w, 1, false);
			assert_int_equal(ring_counts(w.nodes[1].ring).kept, 0);       /* its home went */
			assert_int_equal(ring_counts(w.nodes[0].ring).kept, 0);
			break;
		case 1:
			ring_on_engine_lost(w.nodes[0].ring, w.model, "killed");
			assert_int_equal(ring_counts(w.nodes[0].ring).kept, 0);
			world_run_ms(&w, 100);
			assert_int_equal(ring_counts(w.nodes[1].ring).kept, 0);       /* home told it */
			break;
		case 2:
			ring_on_engine_lost(w.nodes[1].ring, w.model, "killed");
			assert_int_equal(ring_counts(w.nodes[1].ring).kept, 0);
			break;
		case 3:
			w.nodes[1].permit = ERR_DENIED;                               /* the agreement ended */
			ring_recheck(w.nodes[1].ring);
			assert_int_equal(ring_counts(w.nodes[1].ring).kept, 0);
			break;
		}
		w.nodes[1].permit = 0;
		world_isolate(&w, 1, true);
		turn(&c, 10, 20);
		assert_nothing_left(&w);
		world_release(&w);
	}
}

static bool stop_at_five;
static void cancel_at_five(struct world_answer *a)
{
	if (a->n == 5 && stop_at_five)
		a->cancel_at = 5;
}

static void an_answer_that_was_stopped_is_gone_on_with(void **state)
{
	struct world w;
	world_init(&w, 9, 3);
	struct conversation c = begin(&w, ring_of_three, 4, 1, 100);
	c.seed = lasting_seed(c.tokens, 100, 60);
	c.answer = (struct world_answer){.tenant = 1, .on_token = cancel_at_five};
	stop_at_five = true;
	world_ask(&w, &c.answer, &c.plan, c.tokens, 100, 60, c.seed);
	world_run(&w, &c.answer);
	assert_true(c.answer.cancelled && !c.answer.ended);
	world_run_ms(&w, 1000);
	assert_int_equal(ring_counts(w.nodes[0].ring).home, 0);
	memcpy(c.tokens + 100, c.answer.tokens, 5 * sizeof *c.tokens);
	world_prompt(&w, c.tokens + 105, 20);
	c.n = 125;
	turn(&c, 10, 0);
	assert_int_equal(c.answer.cached, 96);
	assert_nothing_left(&w);
	world_release(&w);
}

static void a_refused_follow_up_and_one_that_loses_a_stage_are_answered_anew(void **state)
{
	struct world w;
	world_init(&w, 10, 4);
	struct conversation c = begin(&w, ring_of_three, 4, 1, 100);
	turn(&c, 10, 20);
	w.nodes[2].permit = ERR_BUSY;          /* another one takes its place */
	c.seed = lasting_seed(c.tokens, c.n, 10);
	c.answer = (struct world_answer){.tenant = 1, .use_spares = true};
	world_ask(&w, &c.answer, &c.plan, c.tokens, c.n, 10, c.seed);
	world_run(&w, &c.answer);
	assert_whole(&c.answer, c.tokens, c.n, 10, c.seed);
	assert_int_equal(c.answer.lost, 1);
	assert_int_equal(c.answer.cached, 0);
	assert_nothing_left(&w);
	world_release(&w);
}

/* --- places --------------------------------------------------------------------------------------------- */

static void what_was_used_longest_ago_gives_its_place(void **state)
{
	struct world w;
	struct conversation c[3];
	world_init(&w, 11, 3);
	w.nodes[0].places = 2;
	for (size_t i = 0; i < 3; i++)
		c[i] = begin(&w, ring_of_three, 4, 1, 60);
	turn(&c[0], 10, 5);
	turn(&c[1], 10, 5);
	turn(&c[0], 10, 5);
	assert_int_equal(c[0].answer.cached, 64);
	turn(&c[2], 10, 5);                    /* in the place of 1 */
	assert_int_equal(ring_counts(w.nodes[0].ring).kept, 2);
	assert_int_equal(ring_kept(w.nodes[0].ring, w.model), 2);
	turn(&c[0], 10, 5);
	assert_true(c[0].answer.cached);
	turn(&c[1], 10, 5);
	assert_int_equal(c[1].answer.cached, 0);
	assert_nothing_left(&w);
	world_release(&w);
}

static void with_one_place_a_shared_beginning_is_taken_over(void **state)
{
	struct world w;
	world_init(&w, 12, 3);
	w.nodes[0].places = w.nodes[1].places = w.nodes[2].places = 1;
	struct conversation c = begin(&w, ring_of_three, 4, 1, 100), other = c;
	world_prompt(&w, other.tokens + 70, 30);
	turn(&c, 10, 5);
	turn(&other, 10, 5);
	assert_int_equal(other.answer.cached, 64);
	assert_int_equal(w.nodes[1].forks, 0);
	assert_nothing_left(&w);
	world_release(&w);
}

static void a_home_without_a_place_says_so(void **state)
{
	struct world w;
	world_init(&w, 13, 3);
	w.nodes[0].places = 1;
	struct conversation c = begin(&w, ring_of_three, 4, 1, 60), other = begin(&w, ring_of_three, 4, 1, 60);
	ask(&c, 60);
	world_run_ms(&w, 100);
	ask(&other, 10);
	world_run(&w, &other.answer);
	assert_int_equal(other.answer.err, ERR_BUSY);
	assert_non_null(strstr(other.answer.detail, "try again"));
	world_run(&w, &c.answer);
	assert_whole(&c.answer, c.tokens, 60, 60, c.seed);
	assert_nothing_left(&w);
	world_release(&w);
}

/* Node 1 has one place. Its own kept sessions give way; what is being computed does not: others wait for it, the higher priority first. */
static void who_waits_for_a_place_gets_it_by_priority(void **state)
{
	struct world w;
	world_init(&w, 14, 5);
	w.nodes[1].places = 1;
	w.nodes[1].priority[3] = 2;
	w.nodes[1].priority[4] = 7;
	static const size_t fourth[] = {4, 1, 4};
	struct conversation first = begin(&w, ring_of_three, 4, 1, 40), low = begin(&w, others_ring, 3, 1, 40), high = begin(&w, fourth, 3, 1, 40);
	turn(&first, 5, 5);
	assert_int_equal(ring_counts(w.nodes[1].ring).kept, 1);
	ask(&first, 30);
	while (!first.answer.n)
		world_run_ms(&w, 1);
	ask(&low, 10);
	world_run_ms(&w, 100);
	ask(&high, 10);
	world_run_ms(&w, 100);
	assert_false(first.answer.ended);
	assert_int_equal(ring_counts(w.nodes[1].ring).waiting, 2);
	while (!high.answer.ended)
		world_run_ms(&w, 1);
	assert_false(low.answer.ended);
	assert_int_equal(low.answer.n, 0);
	world_run(&w, &low.answer);
	assert_whole(&first.answer, first.tokens, first.n, 30, first.seed);
	assert_whole(&high.answer, high.tokens, 40, 10, high.seed);
	assert_whole(&low.answer, low.tokens, 40, 10, low.seed);
	assert_nothing_left(&w);
	world_release(&w);
}

static void who_waits_too_long_is_told_that_the_node_is_busy(void **state)
{
	struct world w;
	world_init(&w, 15, 4);
	w.nodes[1].places = 1;
	w.nodes[1].engine_ms = 400;
	struct conversation first = begin(&w, ring_of_three, 4, 1, 40), other = begin(&w, others_ring, 3, 1, 40);
	ask(&first, 60);
	world_run_ms(&w, 500);
	ask(&other, 10);
	world_run_ms(&w, 2500);
	assert_false(other.answer.ended);
	world_run(&w, &other.answer);
	assert_int_equal(other.answer.err, ERR_BUSY);
	assert_false(first.answer.ended);
	world_run(&w, &first.answer);
	assert_whole(&first.answer, first.tokens, 40, 60, first.seed);
	assert_nothing_left(&w);
	world_release(&w);
}

static void a_ticket_claims_what_it_may_cost_beside_what_others_may(void **state)
{
	struct world w;
	world_init(&w, 16, 4);
	struct conversation first = begin(&w, ring_of_three, 4, 1, 40), other = begin(&w, ring_of_three, 4, 2, 50);
	struct conversation stranger = begin(&w, others_ring, 3, 1, 40);
	turn(&first, 20, 10);
	assert_int_equal(w.nodes[1].claim.rows, 60);
	assert_int_equal(w.nodes[1].claim.reserved, 0);
	ask(&first, 30);                       /* 70 asked, 30 more; 59 are held */
	while (!first.answer.n)
		world_run_ms(&w, 1);
	assert_int_equal(w.nodes[1].claim.rows, 100 - 59);
	ask(&other, 10);
	ask(&stranger, 10);
	world_run_ms(&w, 100);
	assert_int_equal(w.nodes[1].claim.rows, 50);
	assert_int_equal(w.nodes[1].claim.reserved, 0);                           /* of another association */
	assert_int_equal(w.nodes[2].claim.reserved, 100 - 59);
	world_run(&w, &first.answer);
	world_run(&w, &other.answer);
	world_run(&w, &stranger.answer);
	assert_nothing_left(&w);
	world_release(&w);
}

/* --- everything at once --------------------------------------------------------------------------------- */

static void whatever_happens_between_turns_answers_are_right(void **state)
{
	unsigned reused = 0, ended = 0;
	for (uint64_t seed = 0; seed < 60; seed++) {
		struct world w;
		struct conversation c[4];
		world_init(&w, seed, 4);
		for (size_t i = 0; i < 3; i++)
			w.nodes[i].places = 1 + (uint32_t)world_below(&w, 4);
		w.full_permille = seed % 3 ? 0 : 50;
		for (size_t i = 0; i < 4; i++) {
			c[i] = i < 2 ? begin(&w, ring_of_three, 4, 1, 50) : c[i - 2];
			c[i].tenant = 1 + i / 3;
		}
		for (unsigned step = 0; step < 16; step++) {
			struct conversation *now = &c[world_below(&w, 4)];
			if (now->n > WORLD_CONTEXT - 40)
				continue;
			switch (world_below(&w, 8)) {
			case 0: w.nodes[1 + world_below(&w, 2)].forget_at = 0; break;
			case 1: world_isolate(&w, 1 + world_below(&w, 2), false); break;
			case 2: ring_on_engine_lost(w.nodes[0].ring, w.model, "killed"); break;
			case 3: world_run_ms(&w, world_below(&w, 400000)); break;
			}
			for (size_t i = 1; i < 3; i++)
				world_isolate(&w, i, true);
			now->seed = lasting_seed(now->tokens, now->n, 8);
			now->answer = (struct world_answer){.tenant = now->tenant, .forgives = true};
			if (world_below(&w, 4) == 0)
				now->tokens[world_below(&w, now->n)] = (int32_t)world_below(&w, 200);       /* told otherwise */
			now->seed = lasting_seed(now->tokens, now->n, 8);
			world_ask(&w, &now->answer, &now->plan, now->tokens, now->n, 8, now->seed);
			world_run(&w, &now->answer);
			assert_true(now->answer.ended);
			if (now->answer.err) {
				ended++;
				continue;
			}
			assert_whole(&now->answer, now->tokens, now->n, 8, now->seed);
			reused += now->answer.cached > 0;
			memcpy(now->tokens + now->n, now->answer.tokens, 8 * sizeof *now->tokens);
			now->n += 8;
			world_prompt(&w, now->tokens + now->n, 12);
			now->n += 12;
		}
		for (size_t i = 1; i < 3; i++) {
			assert_true(w.nodes[i].used_rows <= w.nodes[i].engine_rows);
			w.nodes[i].forget_at = -1;
		}
		assert_nothing_left(&w);
		world_release(&w);
	}
	assert_true(reused > 100);             /* or the test above tests nothing */
	assert_true(ended < 60);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_count_up_to_the_last_common_chunk_boundary),
		cmocka_unit_test(a_follow_up_takes_over_and_another_conversation_copies),
		cmocka_unit_test(the_longest_wins_then_the_one_to_take_over_then_the_latest),
		cmocka_unit_test(a_follow_up_computes_only_what_is_new),
		cmocka_unit_test(the_same_question_again_costs_its_last_chunk),
		cmocka_unit_test(what_one_key_asked_serves_no_other),
		cmocka_unit_test(a_shared_beginning_is_computed_once_and_copied),
		cmocka_unit_test(a_beginning_is_copied_from_a_question_that_is_being_answered),
		cmocka_unit_test(a_stage_that_forgot_is_told_again_and_the_answer_is_right),
		cmocka_unit_test(a_stage_keeps_no_longer_than_it_likes),
		cmocka_unit_test(what_is_kept_goes_with_its_ring),
		cmocka_unit_test(an_answer_that_was_stopped_is_gone_on_with),
		cmocka_unit_test(a_refused_follow_up_and_one_that_loses_a_stage_are_answered_anew),
		cmocka_unit_test(what_was_used_longest_ago_gives_its_place),
		cmocka_unit_test(with_one_place_a_shared_beginning_is_taken_over),
		cmocka_unit_test(a_home_without_a_place_says_so),
		cmocka_unit_test(who_waits_for_a_place_gets_it_by_priority),
		cmocka_unit_test(who_waits_too_long_is_told_that_the_node_is_busy),
		cmocka_unit_test(a_ticket_claims_what_it_may_cost_beside_what_others_may),
		cmocka_unit_test(whatever_happens_between_turns_answers_are_right),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
