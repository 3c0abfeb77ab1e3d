/* test_routing.c: the cheapest chain of stages, against a search that tries every chain.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/route/routing.h"

#define SEEDS 3000

static const uint8_t model[KEY_BYTES] = {7};

static uint64_t splitmix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static uint64_t below(uint64_t *state, uint64_t n)
{
	return splitmix(state) % n;
}

/* --- nodes by hand ----------------------------------------------------------------------------------- */

struct scene {
	uint32_t n_layer;
	size_t n;
	struct routing_node nodes[64];
};

/* Node i's key is i + 1; node 0 asks. Every node computes a layer in 100 us and is 1 ms away. */
static struct routing_node *add(struct scene *s)
{
	struct routing_node *node = &s->nodes[s->n];
	*node = (struct routing_node){.self = !s->n, .usable = true, .rtt_ms = s->n ? 1 : 0, .layer_microseconds = 100, .sessions_free = 1};
	node->node[0] = (uint8_t)++s->n;
	return node;
}

static void holds(struct routing_node *node, uint32_t first, uint32_t end)
{
	node->resident[node->n_resident++] = (struct layer_range){first, end};
}

static struct scene home_with_ends(uint32_t n_layer)
{
	struct scene s = {.n_layer = n_layer};
	struct routing_node *home = add(&s);
	holds(home, 0, 1);
	holds(home, n_layer - 1, n_layer);
	return s;
}

static int plan_of(const struct scene *s, struct ring_plan *plan, struct layer_range *missing)
{
	return routing_plan(model, s->n_layer, s->nodes, s->n, NULL, 0, plan, missing);
}

static void stage_is(const struct ring_plan *plan, size_t i, uint8_t node, uint32_t first, uint32_t end)
{
	assert_true(i < plan->n_stages);
	assert_int_equal(plan->stages[i].node[0], node);
	assert_int_equal(plan->stages[i].range.first, first);
	assert_int_equal(plan->stages[i].range.end, end);
}

static void a_home_with_everything_asks_nobody(void **state)
{
	struct scene s = {.n_layer = 12};
	struct ring_plan plan;
	struct layer_range missing;
	holds(add(&s), 0, 12);
	holds(add(&s), 1, 11);
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	assert_int_equal(plan.n_stages, 1);
	assert_int_equal(plan.n_layer, 12);
	assert_memory_equal(plan.model, model, KEY_BYTES);
	stage_is(&plan, 0, 1, 0, 12);
}

static void text_begins_and_ends_at_home(void **state)
{
	struct scene s = home_with_ends(12);
	struct ring_plan plan;
	struct layer_range missing;
	struct routing_node *b = add(&s);
	holds(b, 0, 12);               /* tempting, but it would read along */
	holds(b, 1, 12);
	holds(add(&s), 1, 11);
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	assert_int_equal(plan.n_stages, 3);
	stage_is(&plan, 0, 1, 0, 1);
	stage_is(&plan, 1, 3, 1, 11);
	stage_is(&plan, 2, 1, 11, 12);
}

static void a_home_without_an_end_is_told_that_text_would_leave(void **state)
{
	struct ring_plan plan;
	struct layer_range missing;
	struct scene s = {.n_layer = 12};
	holds(add(&s), 0, 1);
	holds(add(&s), 0, 12);
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_DENIED);
	s.nodes[0].resident[0] = (struct layer_range){11, 12};
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_DENIED);
	s.nodes[0].n_resident = 0;
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_DENIED);
	s.n = 0;
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_DENIED);
}

static void a_stage_may_end_early_but_not_begin_late(void **state)
{
	struct scene s = home_with_ends(12);
	struct ring_plan plan;
	struct layer_range missing;
	holds(add(&s), 1, 8);
	holds(add(&s), 5, 11);
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	assert_int_equal(plan.n_stages, 4);
	stage_is(&plan, 1, 2, 1, 5);
	stage_is(&plan, 2, 3, 5, 11);
	s.nodes[2].resident[0].first = 9;      /* nobody begins at 8 */
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_UNREACHABLE);
	assert_int_equal(missing.first, 8);
	assert_int_equal(missing.end, 9);
}

static void the_range_that_ends_the_model_cannot_end_early(void **state)
{
	struct scene s = {.n_layer = 12};
	struct ring_plan plan;
	struct layer_range missing;
	struct routing_node *home = add(&s);
	holds(home, 0, 4);
	holds(home, 11, 12);
	holds(add(&s), 4, 12);                 /* its last layers come with the output matrix */
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_UNREACHABLE);
	holds(home, 4, 12);
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	assert_int_equal(plan.n_stages, 2);
	stage_is(&plan, 1, 1, 4, 12);
}

static void missing_layers_are_named(void **state)
{
	struct scene s = home_with_ends(12);
	struct ring_plan plan;
	struct layer_range missing;
	holds(add(&s), 1, 4);
	holds(add(&s), 7, 11);
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_UNREACHABLE);
	assert_int_equal(missing.first, 4);
	assert_int_equal(missing.end, 7);
	s.nodes[1].usable = false;
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_UNREACHABLE);
	assert_int_equal(missing.first, 1);
	assert_int_equal(missing.end, 7);
}

static void nodes_without_a_free_session_make_it_busy_rather_than_unreachable(void **state)
{
	struct scene s = home_with_ends(12);
	struct ring_plan plan;
	struct layer_range missing;
	holds(add(&s), 1, 11);
	s.nodes[1].sessions_free = 0;
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_BUSY);
	assert_int_equal(missing.first, 1);
	assert_int_equal(missing.end, 11);
	s.nodes[1].sessions_free = 1;
	s.nodes[0].sessions_free = 0;
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_BUSY);
	s.nodes[1].usable = false;
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_UNREACHABLE);
}

static void nodes_to_avoid_are_left_out(void **state)
{
	struct scene s = home_with_ends(12);
	struct ring_plan plan;
	struct layer_range missing;
	uint8_t avoid[2][KEY_BYTES] = {{2}, {3}};
	holds(add(&s), 1, 11);
	holds(add(&s), 1, 11);
	s.nodes[2].rtt_ms = 80;
	assert_int_equal(routing_plan(model, 12, s.nodes, s.n, avoid, 0, &plan, &missing), 0);
	stage_is(&plan, 1, 2, 1, 11);
	assert_int_equal(routing_plan(model, 12, s.nodes, s.n, avoid, 1, &plan, &missing), 0);
	stage_is(&plan, 1, 3, 1, 11);
	assert_int_equal(routing_plan(model, 12, s.nodes, s.n, avoid, 2, &plan, &missing), ERR_UNREACHABLE);
}

static void a_near_node_is_better_than_a_far_one_and_an_idle_one_than_a_loaded_one(void **state)
{
	struct scene s = home_with_ends(12);
	struct ring_plan plan;
	struct layer_range missing;
	for (int i = 0; i < 2; i++)
		holds(add(&s), 1, 11);
	s.nodes[1].rtt_ms = 20;
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	stage_is(&plan, 1, 3, 1, 11);
	s.nodes[2].layer_microseconds = 100000;
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	stage_is(&plan, 1, 2, 1, 11);
	s.nodes[2].layer_microseconds = 100;
	s.nodes[1].rtt_ms = 1;
	s.nodes[2].load_permille = 1000;
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	stage_is(&plan, 1, 2, 1, 11);
}

static void a_hop_is_taken_only_when_it_saves_more_than_it_costs(void **state)
{
	struct scene s = home_with_ends(12);
	struct ring_plan plan;
	struct layer_range missing;
	holds(&s.nodes[0], 1, 11);             /* home could do it all, slowly */
	holds(add(&s), 1, 11);
	s.nodes[0].layer_microseconds = 200;
	s.nodes[1].layer_microseconds = 100;
	s.nodes[1].rtt_ms = 20;
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	stage_is(&plan, 1, 1, 1, 11);
	s.nodes[0].layer_microseconds = 20000;
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	stage_is(&plan, 1, 2, 1, 11);
}

/* Sixty quick nodes of one layer each would be too many stages; two slow ones will do. */
static void a_plan_of_too_many_stages_is_not_the_end_when_a_shorter_one_exists(void **state)
{
	struct scene s = home_with_ends(62);
	struct ring_plan plan;
	struct layer_range missing;
	for (uint32_t i = 1; i < 61; i++) {
		struct routing_node *quick = add(&s);
		quick->layer_microseconds = 1;
		quick->rtt_ms = 0;
		holds(quick, i, i + 1);
	}
	struct routing_node *first = add(&s), *second = add(&s);
	first->layer_microseconds = second->layer_microseconds = 100000;
	holds(first, 1, 31);
	holds(second, 31, 61);
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	assert_true(plan.n_stages <= RING_STAGES_MAX);
	s.n -= 2;
	assert_int_equal(plan_of(&s, &plan, &missing), ERR_UNREACHABLE);
}

static void numbers_that_make_no_sense_are_refused(void **state)
{
	struct scene s = home_with_ends(12);
	struct ring_plan plan;
	struct layer_range missing;
	assert_int_equal(routing_plan(model, 0, s.nodes, s.n, NULL, 0, &plan, &missing), ERR_LIMIT);
	assert_int_equal(routing_plan(model, MODEL_LAYERS_MAX + 1, s.nodes, s.n, NULL, 0, &plan, &missing), ERR_LIMIT);
	struct routing_node *other = add(&s);      /* an advert of a longer model than the manifest's */
	holds(other, 1, 900);
	holds(other, 1, 8);
	holds(other, 4000000000u, 4000000001u);
	holds(other, 5, 5);
	holds(other, 8, 3);
	holds(add(&s), 5, 11);
	assert_int_equal(plan_of(&s, &plan, &missing), 0);
	stage_is(&plan, 1, 2, 1, 5);
	stage_is(&plan, 2, 3, 5, 11);
}

/* --- against a search that tries everything ------------------------------------------------------------ */

static double price(const struct scene *s, const struct ring_plan *plan)
{
	double us = 0;
	const struct routing_node *at = &s->nodes[0];
	for (size_t i = 0; i <= plan->n_stages; i++) {
		const struct routing_node *next = &s->nodes[0];
		if (i < plan->n_stages)
			next = &s->nodes[plan->stages[i].node[0] - 1];
		else if (at == next)
			break;                         /* nothing travels when the last stage is home's */
		us += at == next ? 50 : 300 + 1000 * (at->rtt_ms + next->rtt_ms) / 2;
		if (i < plan->n_stages) {
			double layer = next->layer_microseconds ? next->layer_microseconds : 1000;
			us += layer * (plan->stages[i].range.end - plan->stages[i].range.first) * (1 + next->load_permille / 1000.0);
		}
		at = next;
	}
	return us;
}

static void try_all(const struct scene *s, struct ring_plan *plan, uint32_t position, double *best)
{
	if (position == s->n_layer) {
		double us = price(s, plan);
		if (us < *best)
			*best = us;
		return;
	}
	for (size_t i = 0; i < s->n; i++)
		for (size_t k = 0; k < s->nodes[i].n_resident; k++) {
			const struct routing_node *node = &s->nodes[i];
			struct layer_range r = node->resident[k];
			if (r.first != position || !node->usable || !node->sessions_free)
				continue;
			if ((r.first == 0 || r.end == s->n_layer) && !node->self)
				continue;
			for (uint32_t end = r.end == s->n_layer ? r.end : r.first + 1; end <= r.end; end++) {
				struct ring_stage *stage = &plan->stages[plan->n_stages++];
				memcpy(stage->node, node->node, KEY_BYTES);
				stage->range = (struct layer_range){position, end};
				try_all(s, plan, end, best);
				plan->n_stages--;
			}
		}
}

static void must_be_sound(const struct scene *s, const struct ring_plan *plan)
{
	uint32_t at = 0;
	assert_true(plan->n_stages && plan->n_stages <= RING_STAGES_MAX);
	for (size_t i = 0; i < plan->n_stages; i++) {
		const struct ring_stage *stage = &plan->stages[i];
		const struct routing_node *node = &s->nodes[stage->node[0] - 1];
		bool resident = false;
		assert_int_equal(stage->range.first, at);
		assert_true(stage->range.end > at);
		assert_true(node->usable && node->sessions_free);
		if (stage->range.first == 0 || stage->range.end == s->n_layer)
			assert_true(node->self);
		for (size_t k = 0; k < node->n_resident; k++)
			resident |= node->resident[k].first == at &&
				    (stage->range.end == node->resident[k].end ||
				     (stage->range.end < node->resident[k].end && node->resident[k].end < s->n_layer));
		assert_true(resident);
		at = stage->range.end;
	}
	assert_int_equal(at, s->n_layer);
}

static void no_chain_of_stages_is_cheaper_than_the_plan(void **state)
{
	unsigned planned = 0, none = 0;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		uint64_t random = seed;
		struct scene s = home_with_ends(3 + (uint32_t)below(&random, 5));
		size_t n = 1 + below(&random, 4);
		for (size_t i = 0; i < n; i++) {
			struct routing_node *node = add(&s);
			node->usable = below(&random, 8);
			node->sessions_free = (uint32_t)below(&random, 5);
			node->rtt_ms = (double)below(&random, 40) / 2;
			node->load_permille = (uint32_t)below(&random, 1001);
			node->layer_microseconds = (uint32_t)below(&random, 8) * 1000;
		}
		for (size_t i = 0; i < s.n; i++)
			for (size_t k = below(&random, 4); k-- > 0;) {
				uint32_t first = (uint32_t)below(&random, s.n_layer);
				holds(&s.nodes[i], first, first + 1 + (uint32_t)below(&random, s.n_layer - first));
			}
		struct ring_plan plan, tried = {0};
		struct layer_range missing;
		double best = INFINITY;
		try_all(&s, &tried, 0, &best);
		int err = plan_of(&s, &plan, &missing);
		if (isinf(best)) {
			assert_true(err == ERR_UNREACHABLE || err == ERR_BUSY);
			assert_true(missing.first < missing.end && missing.end <= s.n_layer);
			none++;
		} else {
			assert_int_equal(err, 0);
			must_be_sound(&s, &plan);
			if (price(&s, &plan) > best * (1 + 1e-9))
				fail_msg("seed %llu: %f us, but %f us is possible", (unsigned long long)seed, price(&s, &plan), best);
			planned++;
		}
	}
	assert_true(planned > SEEDS / 4 && none > SEEDS / 20);
}

static void only_equal_engines_and_tested_pairs_join(void **state)
{
	assert_true(routing_engines_join("llama 0.7.0 q1 cpu", "llama 0.7.0 q1 cpu"));
	assert_true(routing_engines_join("llama 0.7.0 q1 cpu", "llama 0.7.0 q1 vulkan"));
	assert_true(routing_engines_join("llama 0.7.0 q1 vulkan", "llama 0.7.0 q1 cpu"));
	assert_false(routing_engines_join("llama 0.7.0 q1 cpu", "llama 0.7.1 q1 vulkan"));
	assert_false(routing_engines_join("llama 0.7.0 q1 cpu", "llama 0.7.0 q2 cpu"));
	assert_false(routing_engines_join("llama 0.7.0 q1 cpu", "llama 0.7.0 q1 cuda"));
	assert_false(routing_engines_join("cpu", "vulkan"));
	assert_false(routing_engines_join("llama 0.7.0 q1 cpu", ""));
	assert_true(routing_engines_join("", ""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_home_with_everything_asks_nobody),
		cmocka_unit_test(text_begins_and_ends_at_home),
		cmocka_unit_test(a_home_without_an_end_is_told_that_text_would_leave),
		cmocka_unit_test(a_stage_may_end_early_but_not_begin_late),
		cmocka_unit_test(the_range_that_ends_the_model_cannot_end_early),
		cmocka_unit_test(missing_layers_are_named),
		cmocka_unit_test(nodes_without_a_free_session_make_it_busy_rather_than_unreachable),
		cmocka_unit_test(nodes_to_avoid_are_left_out),
		cmocka_unit_test(a_near_node_is_better_than_a_far_one_and_an_idle_one_than_a_loaded_one),
		cmocka_unit_test(a_hop_is_taken_only_when_it_saves_more_than_it_costs),
		cmocka_unit_test(a_plan_of_too_many_stages_is_not_the_end_when_a_shorter_one_exists),
		cmocka_unit_test(numbers_that_make_no_sense_are_refused),
		cmocka_unit_test(no_chain_of_stages_is_cheaper_than_the_plan),
		cmocka_unit_test(only_equal_engines_and_tested_pairs_join),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
