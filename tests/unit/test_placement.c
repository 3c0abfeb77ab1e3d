/* test_placement.c: which layers each node takes, over many meshes drawn from seeds.
 *
 *      node 0 (home)   [0,1) [1,4)                 [11,12)
 *      node 1                     [4,8)
 *      node 2                           [8,11)
 *
 * Every node computes its own part from what the others advertise. A mesh here is a list of adverts; a round lets nodes choose and
 * advertise, all at once or one after the other, until nobody changes anything. What must hold then is checked against room_of(),
 * which counts by trying, not as placement.c does.
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

#include "daemon/route/placement.h"
#include "daemon/route/routing.h"

#define SEEDS 400
#define NODES_MOST 12
#define LAYERS_MOST 40
#define ROUNDS_MOST 8              /* by then nobody may change anything any more */

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

/* --- a model and a mesh ------------------------------------------------------------------------------ */

struct scene {
	uint64_t random;
	struct manifest_body manifest;
	struct model_extent extents[LAYERS_MOST + 3];
	struct placement_model model;
	uint32_t block;                        /* cuts are legal at its multiples only */
	size_t n;
	struct placement_node nodes[NODES_MOST];
	bool here[NODES_MOST];                 /* in the mesh; others see the adverts of those only */
};

static void add_extent(struct scene *s, uint32_t group, uint64_t length)
{
	struct model_extent *e = &s->extents[s->manifest.n_extents++];
	uint64_t offset = s->manifest.n_extents > 1 ? e[-1].offset + e[-1].length : 0;
	*e = (struct model_extent){.group = group, .file = 0, .offset = offset, .length = length};
}

/* Layers of layer_bytes and up to `uneven` more each. */
static void make_model(struct scene *s, uint32_t n_layer, uint64_t end_bytes, uint64_t layer_bytes, uint64_t uneven, uint32_t block)
{
	struct manifest_body *m = &s->manifest;
	*m = (struct manifest_body){.name = "modele", .n_layer = n_layer, .n_embd = 8, .context = 512, .splittable = true, .row_bytes = 32,
				    .kv_bytes_token_layer = 16, .compute_bytes = 1000, .extents = s->extents};
	add_extent(s, GROUP_HEADER, 500);
	add_extent(s, GROUP_EMBEDDING, end_bytes);
	add_extent(s, GROUP_OUTPUT, end_bytes);
	for (uint32_t i = 0; i < n_layer; i++)
		add_extent(s, GROUP_LAYER + i, layer_bytes + (uneven ? below(&s->random, uneven) : 0));
	s->block = block;
	for (uint32_t c = 1; c < n_layer; c++)
		if (c % block)
			m->no_cut[c / 8] |= 1u << c % 8;
	s->model = (struct placement_model){.manifest = m, .weights_only = true, .context = 512, .sessions = 2};
}

static void add_node(struct scene *s, uint64_t budget, bool home)
{
	struct placement_node *node = &s->nodes[s->n];
	*node = (struct placement_node){.budget = budget, .home = home};
	for (size_t i = 0; i < KEY_BYTES; i++)
		node->node[i] = (uint8_t)splitmix(&s->random);
	s->here[s->n++] = true;
}

static uint64_t whole_bytes(const struct scene *s)
{
	return placement_cost(&s->model, &(struct layer_range){0, s->manifest.n_layer}, 1);
}

static uint32_t low_of(const struct scene *s)
{
	return s->block;
}

static uint32_t high_of(const struct scene *s)
{
	return (s->manifest.n_layer - 1) / s->block * s->block;
}

/* --- choosing ---------------------------------------------------------------------------------------- */

struct choice {
	int err;
	size_t n;
	struct layer_range ranges[RANGES_MAX];
};

/* What node `self` would take, told of the others in a random order. */
static struct choice choose(struct scene *s, size_t self)
{
	struct placement_node seen[NODES_MOST];
	size_t order[NODES_MOST], n = 0, at = 0;
	struct choice c = {0};
	for (size_t i = 0; i < s->n; i++)
		if (s->here[i])
			order[n++] = i;
	for (size_t i = n; i-- > 1;) {
		size_t k = below(&s->random, i + 1), swap = order[i];
		order[i] = order[k];
		order[k] = swap;
	}
	for (size_t i = 0; i < n; i++) {
		seen[i] = s->nodes[order[i]];
		if (order[i] == self)
			at = i;
	}
	c.err = placement_choose(&s->model, seen, n, at, c.ranges, &c.n);
	return c;
}

/* Whatever the mesh looks like, this must hold for what a node chooses. */
static void must_be_legal(const struct scene *s, size_t self, const struct choice *c)
{
	const struct placement_node *node = &s->nodes[self];
	assert_true(c->n <= RANGES_MAX);
	assert_true(!c->err || !c->n);
	for (size_t i = 0; i < c->n; i++) {
		assert_true(c->ranges[i].first < c->ranges[i].end && c->ranges[i].end <= s->manifest.n_layer);
		assert_true(!i || c->ranges[i - 1].end <= c->ranges[i].first);
		assert_true(manifest_may_cut(&s->manifest, c->ranges[i].first) && manifest_may_cut(&s->manifest, c->ranges[i].end));
		if (!node->home)
			assert_true(c->ranges[i].first > 0 && c->ranges[i].end < s->manifest.n_layer);
	}
	assert_true(placement_cost(&s->model, c->ranges, c->n) <= node->budget);
}

static bool advertise(struct placement_node *node, const struct choice *c)
{
	bool changed = node->n_placed != c->n || memcmp(node->placed, c->ranges, c->n * sizeof *c->ranges);
	node->n_placed = c->n;
	memcpy(node->placed, c->ranges, sizeof node->placed);
	return changed;
}

/* Everyone chooses at once, from the same adverts. Returns whether anyone changed. */
static bool round_at_once(struct scene *s)
{
	struct choice choices[NODES_MOST];
	bool changed = false;
	for (size_t i = 0; i < s->n; i++)
		if (s->here[i]) {
			choices[i] = choose(s, i);
			must_be_legal(s, i, &choices[i]);
		}
	for (size_t i = 0; i < s->n; i++)
		changed |= s->here[i] && advertise(&s->nodes[i], &choices[i]);
	return changed;
}

/* One after the other, each seeing what those before it took; several may not get a turn this time. */
static bool round_in_turn(struct scene *s)
{
	bool changed = false;
	for (size_t k = 0; k < 4 * s->n; k++) {
		size_t i = below(&s->random, s->n);
		if (!s->here[i])
			continue;
		struct choice c = choose(s, i);
		must_be_legal(s, i, &c);
		changed |= advertise(&s->nodes[i], &c);
	}
	return changed;
}

static void settle(struct scene *s, bool in_turn)
{
	int rounds = 0;
	while (in_turn && rounds++ < ROUNDS_MOST && round_in_turn(s))
		;
	for (rounds = 0; round_at_once(s); rounds++)
		assert_true(rounds < ROUNDS_MOST);
}

/* --- what must come of it ---------------------------------------------------------------------------- */

/* Any one layer that some node here has placed? */
static bool covered(const struct scene *s, uint32_t layer)
{
	for (size_t i = 0; i < s->n; i++)
		for (size_t k = 0; s->here[i] && k < s->nodes[i].n_placed; k++)
			if (layer >= s->nodes[i].placed[k].first && layer < s->nodes[i].placed[k].end)
				return true;
	return false;
}

static bool takes_ends(const struct scene *s, size_t i)
{
	struct layer_range ends[2] = {{0, low_of(s)}, {high_of(s), s->manifest.n_layer}};
	return s->nodes[i].home && placement_cost(&s->model, ends, 2) <= s->nodes[i].budget;
}

static bool holds_whole(const struct scene *s, size_t i)
{
	return s->nodes[i].home && whole_bytes(s) <= s->nodes[i].budget;
}

/* As many layers of the middle as fit wherever they lie, beside the ends where the node takes them. */
static uint32_t room_of(const struct scene *s, size_t i)
{
	uint32_t low = low_of(s), high = high_of(s), room = 0;
	bool ends = takes_ends(s, i);
	struct layer_range parts[3] = {{0, low}, {low, high}, {high, s->manifest.n_layer}};
	if (holds_whole(s, i) && placement_cost(&s->model, parts, 3) > s->nodes[i].budget)
		return 0;                      /* keeps it in one piece: a middle within it helps nobody else */
	for (uint32_t w = s->block; w <= high - low; w += s->block) {
		for (uint32_t first = low; first + w <= high; first += s->block) {
			struct layer_range three[3] = {{first, first + w}, {0, low}, {high, s->manifest.n_layer}};
			if (placement_cost(&s->model, three, ends ? 3 : 1) > s->nodes[i].budget)
				return room;
		}
		room = w;
	}
	return room;
}

static bool plan_for(struct scene *s, size_t home, struct ring_plan *plan)
{
	struct routing_node nodes[NODES_MOST];
	struct layer_range missing;
	uint8_t model[KEY_BYTES] = {1};
	size_t n = 0;
	for (size_t i = 0; i < s->n; i++) {
		if (!s->here[i])
			continue;
		struct routing_node *node = &nodes[n++];
		*node = (struct routing_node){.self = i == home, .usable = true, .rtt_ms = i == home ? 0 : 1 + (double)below(&s->random, 50),
					      .sessions_free = 1, .n_resident = s->nodes[i].n_placed};
		memcpy(node->node, s->nodes[i].node, KEY_BYTES);
		memcpy(node->resident, s->nodes[i].placed, sizeof node->resident);
	}
	return !routing_plan(model, s->manifest.n_layer, nodes, n, NULL, 0, plan, &missing);
}

static void every_home_must_have_a_plan(struct scene *s)
{
	struct ring_plan plan;
	for (size_t i = 0; i < s->n; i++)
		if (s->here[i] && takes_ends(s, i))
			assert_true(plan_for(s, i, &plan));
}

/* Does what the nodes share suffice for the middle, with one unit to spare for each that is cut off? */
static bool suffices(const struct scene *s)
{
	uint64_t room = 0;
	for (size_t i = 0; i < s->n; i++)
		if (s->here[i])
			room += room_of(s, i);
	return room >= high_of(s) - low_of(s);
}

static struct scene *random_scene(uint64_t seed)
{
	struct scene *s = calloc(1, sizeof *s);
	assert_non_null(s);
	s->random = seed;
	uint32_t n_layer = 3 + (uint32_t)below(&s->random, LAYERS_MOST - 2);
	uint32_t block = n_layer > 12 && !below(&s->random, 4) ? 2 + (uint32_t)below(&s->random, 3) : 1;
	uint64_t layer = 1000 + below(&s->random, 100000);
	make_model(s, n_layer, below(&s->random, 3 * layer) + 1, layer, below(&s->random, 2) ? layer / 2 : 0, block);
	s->model.weights_only = below(&s->random, 2);
	size_t n = 1 + below(&s->random, NODES_MOST);
	for (size_t i = 0; i < n; i++) {
		/* from next to nothing to more than everything, mostly a part */
		uint64_t most = below(&s->random, 4) ? whole_bytes(s) : 3 * whole_bytes(s);
		add_node(s, below(&s->random, most), !i || below(&s->random, 2));
	}
	return s;
}

/* --- many meshes ------------------------------------------------------------------------------------- */

static void check_fixed_point(bool in_turn)
{
	unsigned planned = 0;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct scene *s = random_scene(seed);
		settle(s, in_turn);
		if (suffices(s)) {
			for (uint32_t layer = low_of(s); layer < high_of(s); layer++)
				if (!covered(s, layer))
					fail_msg("seed %llu: layer %u has nobody", (unsigned long long)seed, layer);
			every_home_must_have_a_plan(s);
			planned++;
		}
		free(s);
	}
	assert_true(planned > SEEDS / 3);      /* the seeds did try it */
}

static void nodes_that_choose_at_once_cover_the_model_when_their_budgets_suffice(void **state)
{
	check_fixed_point(false);
}

static void nodes_that_choose_in_turn_cover_the_model_when_their_budgets_suffice(void **state)
{
	check_fixed_point(true);
}

static void nodes_that_arrive_one_by_one_cover_the_model_when_their_budgets_suffice(void **state)
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct scene *s = random_scene(seed);
		memset(s->here, 0, sizeof s->here);
		for (size_t i = 0; i < s->n; i++) {
			s->here[i] = true;
			settle(s, false);
			if (suffices(s))
				every_home_must_have_a_plan(s);
		}
		free(s);
	}
}

static void what_a_node_leaves_is_taken_over_when_the_others_budgets_suffice(void **state)
{
	unsigned taken_over = 0;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct scene *s = random_scene(seed);
		settle(s, false);
		while (s->n > 1) {
			size_t gone = below(&s->random, s->n);
			s->nodes[gone] = s->nodes[s->n - 1];
			s->n--;
			settle(s, below(&s->random, 2));
			if (suffices(s)) {
				every_home_must_have_a_plan(s);
				taken_over++;
			}
		}
		free(s);
	}
	assert_true(taken_over > SEEDS);
}

static void a_budget_that_changes_is_kept_to(void **state)
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct scene *s = random_scene(seed);
		settle(s, false);
		for (int change = 0; change < 3; change++) {
			s->nodes[below(&s->random, s->n)].budget = below(&s->random, 2 * whole_bytes(s));
			settle(s, below(&s->random, 2));
			if (suffices(s))
				every_home_must_have_a_plan(s);
		}
		free(s);
	}
}

static void a_node_that_comes_later_moves_nobody_while_nothing_is_missing(void **state)
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct scene *s = random_scene(seed);
		if (s->n < 2) {
			free(s);
			continue;
		}
		size_t late = s->n - 1;
		s->nodes[late].home = false;   /* a home may want middles that others keep whole for themselves */
		s->here[late] = false;
		settle(s, false);
		struct placement_node before[NODES_MOST];
		memcpy(before, s->nodes, sizeof before);
		if (suffices(s)) {
			s->here[late] = true;
			settle(s, false);
			for (size_t i = 0; i < late; i++) {
				assert_int_equal(before[i].n_placed, s->nodes[i].n_placed);
				assert_memory_equal(before[i].placed, s->nodes[i].placed, before[i].n_placed * sizeof *before[i].placed);
			}
		}
		free(s);
	}
}

/* --- meshes by hand ---------------------------------------------------------------------------------- */

/* Colibri answers its members; Abeille and Bourdon lend layers. */
static void three_nodes(struct scene *s, uint32_t n_layer, uint64_t end_bytes, unsigned colibri, unsigned abeille, unsigned bourdon)
{
	memset(s, 0, sizeof *s);
	s->random = n_layer + colibri * 1000 + abeille * 100000 + bourdon;
	make_model(s, n_layer, end_bytes, 100000, 0, 1);
	uint64_t whole = whole_bytes(s);
	add_node(s, whole * colibri / 100, true);
	add_node(s, whole * abeille / 100, false);
	add_node(s, whole * bourdon / 100, false);
}

static void must_be_a_ring_of_three(struct scene *s)
{
	struct ring_plan plan;
	assert_true(plan_for(s, 0, &plan));
	assert_memory_equal(plan.stages[0].node, s->nodes[0].node, KEY_BYTES);
	assert_memory_equal(plan.stages[plan.n_stages - 1].node, s->nodes[0].node, KEY_BYTES);
	uint32_t layers[3] = {0};
	for (size_t i = 0; i < plan.n_stages; i++)
		for (size_t k = 0; k < 3; k++)
			if (!memcmp(plan.stages[i].node, s->nodes[k].node, KEY_BYTES))
				layers[k] += plan.stages[i].range.end - plan.stages[i].range.first;
	for (size_t k = 0; k < 3; k++) {
		assert_true(layers[k] > 0);
		assert_true(layers[k] < s->manifest.n_layer * 6 / 10 + 1);
	}
}

static void three_nodes_of_about_half_a_model_of_twelve_layers_make_one_ring(void **state)
{
	struct scene s;
	for (unsigned colibri = 45; colibri <= 60; colibri += 5)
		for (unsigned abeille = 45; abeille <= 60; abeille++)
			for (unsigned bourdon = 45; bourdon <= 60; bourdon++)
				for (int in_turn = 0; in_turn < 2; in_turn++) {
					three_nodes(&s, 12, 60000, colibri, abeille, bourdon);
					settle(&s, in_turn);
					must_be_a_ring_of_three(&s);
				}
}

static void three_nodes_of_about_half_a_model_of_five_layers_make_one_ring(void **state)
{
	struct scene s;
	for (unsigned abeille = 33; abeille <= 48; abeille++)
		for (unsigned bourdon = 33; bourdon <= 48; bourdon++) {
			three_nodes(&s, 5, 60000, 59, abeille, bourdon);
			settle(&s, false);
			must_be_a_ring_of_three(&s);
		}
}

static void a_home_that_fits_the_model_keeps_it_in_one_range(void **state)
{
	struct scene s = {.random = 1};
	make_model(&s, 12, 60000, 100000, 0, 1);
	add_node(&s, whole_bytes(&s), true);
	add_node(&s, whole_bytes(&s) / 2, false);      /* no home: needs nothing of the first one's middle */
	settle(&s, false);
	assert_int_equal(s.nodes[0].n_placed, 1);
	assert_int_equal(s.nodes[0].placed[0].first, 0);
	assert_int_equal(s.nodes[0].placed[0].end, 12);
}

static void a_home_that_fits_the_model_lends_its_middle_to_one_that_does_not(void **state)
{
	struct scene s = {.random = 1};
	struct ring_plan plan;
	make_model(&s, 12, 60000, 100000, 0, 1);
	add_node(&s, 2 * whole_bytes(&s), true);
	add_node(&s, whole_bytes(&s) / 3, true);
	settle(&s, false);
	assert_int_equal(s.nodes[0].n_placed, 3);
	assert_int_equal(s.nodes[0].placed[1].first, 1);
	assert_int_equal(s.nodes[0].placed[1].end, 11);
	assert_true(plan_for(&s, 1, &plan));
	assert_int_equal(plan.n_stages, 3);
}

static void a_gap_is_filled_by_who_has_room_before_anyone_moves(void **state)
{
	struct scene s = {.random = 3};
	make_model(&s, 12, 60000, 100000, 0, 1);
	uint64_t layer = 100000, ends = 2 * (60000 + layer) + 2 * 500;
	add_node(&s, ends + 500 + 5 * layer, true);
	add_node(&s, 500 + 5 * layer, false);
	add_node(&s, 500 + 5 * layer, false);
	settle(&s, false);
	assert_int_equal(s.nodes[0].n_placed, 2);      /* nobody needs home's room yet */
	struct placement_node stays = s.nodes[1];
	s.n = 2;                                       /* the second of the two leaves */
	settle(&s, false);
	assert_int_equal(s.nodes[1].n_placed, stays.n_placed);
	assert_memory_equal(s.nodes[1].placed, stays.placed, sizeof *stays.placed);
	assert_int_equal(s.nodes[0].n_placed, 3);
	every_home_must_have_a_plan(&s);
}

static void a_spare_copy_moves_where_somebody_is_missing(void **state)
{
	struct scene s = {.random = 3};
	make_model(&s, 12, 60000, 100000, 0, 1);
	uint64_t layer = 100000, ends = 2 * (60000 + layer) + 2 * 500;
	add_node(&s, ends, true);
	for (int i = 0; i < 3; i++)
		add_node(&s, 500 + 5 * layer, false);
	/* 1 and 2 hold the same layers, 3 held the others and left */
	s.nodes[0].n_placed = 2;
	s.nodes[0].placed[0] = (struct layer_range){0, 1};
	s.nodes[0].placed[1] = (struct layer_range){11, 12};
	for (int i = 1; i < 3; i++) {
		s.nodes[i].n_placed = 1;
		s.nodes[i].placed[0] = (struct layer_range){6, 11};
	}
	s.n = 3;
	settle(&s, false);
	every_home_must_have_a_plan(&s);
	unsigned stayed = 0;
	for (int i = 1; i < 3; i++)
		stayed += s.nodes[i].placed[0].first == 6;
	assert_int_equal(stayed, 1);
}

static void text_stays_with_nodes_that_answer_their_members(void **state)
{
	struct scene s = {.random = 1};
	make_model(&s, 12, 60000, 100000, 0, 1);
	add_node(&s, 10 * whole_bytes(&s), false);
	struct choice c = choose(&s, 0);
	must_be_legal(&s, 0, &c);
	assert_int_equal(c.n, 1);
	/* nor where the model cannot be split, or is too short to have a middle */
	s.manifest.splittable = false;
	c = choose(&s, 0);
	assert_int_equal(c.n, 0);
	memset(&s, 0, sizeof s);
	make_model(&s, 2, 60000, 100000, 0, 1);
	add_node(&s, 10 * whole_bytes(&s), false);
	c = choose(&s, 0);
	assert_int_equal(c.n, 0);
}

static void a_model_that_cannot_be_split_runs_whole_or_not_at_all(void **state)
{
	struct scene s = {.random = 1};
	make_model(&s, 12, 60000, 100000, 0, 1);
	s.manifest.splittable = false;
	add_node(&s, whole_bytes(&s), true);
	add_node(&s, whole_bytes(&s) - 1, true);
	struct choice fits = choose(&s, 0), too_small = choose(&s, 1);
	assert_int_equal(fits.err, 0);
	assert_int_equal(fits.n, 1);
	assert_int_equal(fits.ranges[0].end, 12);
	assert_int_equal(too_small.err, ERR_UNSUPPORTED);
	assert_int_equal(too_small.n, 0);
}

static void a_model_of_one_or_two_layers_runs_whole_or_not_at_all(void **state)
{
	for (uint32_t n_layer = 1; n_layer <= 2; n_layer++) {
		struct scene s = {.random = 1};
		make_model(&s, n_layer, 60000, 100000, 0, 1);
		add_node(&s, whole_bytes(&s), true);
		add_node(&s, whole_bytes(&s) - 1, true);
		struct choice fits = choose(&s, 0), too_small = choose(&s, 1);
		assert_int_equal(fits.err, 0);
		assert_int_equal(fits.n, 1);
		assert_int_equal(too_small.err, ERR_BUDGET);
	}
}

static void a_budget_below_one_layer_is_said(void **state)
{
	struct scene s = {.random = 1};
	make_model(&s, 12, 60000, 100000, 0, 1);
	add_node(&s, 100499, false);
	add_node(&s, 100500, false);
	struct choice none = choose(&s, 0), one = choose(&s, 1);
	assert_int_equal(none.err, ERR_BUDGET);
	assert_int_equal(one.err, 0);
	assert_int_equal(one.n, 1);
	assert_int_equal(one.ranges[0].end - one.ranges[0].first, 1);
}

static void memory_counts_what_sessions_and_computing_take(void **state)
{
	struct scene s = {.random = 1};
	make_model(&s, 4, 60000, 100000, 0, 1);
	struct layer_range two[2] = {{0, 1}, {1, 3}};
	assert_int_equal(placement_cost(&s.model, two, 2), 500 + 60000 + 100000 + 500 + 200000);
	assert_int_equal(placement_cost(&s.model, two, 0), 0);
	s.model.weights_only = false;
	assert_int_equal(placement_cost(&s.model, two, 2), 500 + 60000 + 100000 + 500 + 200000 + 3 * 16 * 512 * 2 + 2 * 1000);
	s.model.memory_permille = 1500;
	assert_int_equal(placement_cost(&s.model, two, 2), 160500 / 2 * 3 + 200500 / 2 * 3 + 3 * 16 * 512 * 2 + 2 * 1000);
}

/* What one engine finds about its own memory says nothing of the others': their windows stand, however tightly they fit. */
static void an_engine_that_needs_more_memory_takes_less_and_leaves_the_others_windows(void **state)
{
	struct scene s = {.random = 5};
	make_model(&s, 12, 60000, 100000, 0, 1);
	s.model.weights_only = false;
	struct layer_range ends[2] = {{0, 1}, {11, 12}}, five = {1, 6}, two = {6, 8}, three = {8, 11};
	add_node(&s, placement_cost(&s.model, ends, 2), true);
	memcpy(s.nodes[0].placed, ends, sizeof ends);
	s.nodes[0].n_placed = 2;
	add_node(&s, placement_cost(&s.model, &five, 1), false);
	s.nodes[1].placed[0] = five;
	add_node(&s, placement_cost(&s.model, &three, 1), false);
	s.nodes[2].placed[0] = three;
	s.nodes[1].n_placed = s.nodes[2].n_placed = 1;
	add_node(&s, placement_cost(&s.model, &three, 1), false);
	s.model.memory_permille = 1250;
	struct choice c = choose(&s, 3);
	must_be_legal(&s, 3, &c);
	assert_int_equal(c.n, 1);
	assert_memory_equal(&c.ranges[0], &two, sizeof two);
}

/* Adverts come from others: what they say may be anything that record.h lets through. */
static void adverts_that_make_no_sense_do_no_harm(void **state)
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct scene *s = random_scene(seed);
		for (size_t i = 0; i < s->n; i++) {
			struct placement_node *node = &s->nodes[i];
			node->n_placed = below(&s->random, RANGES_MAX + 1);
			if (!below(&s->random, 4))
				node->budget = splitmix(&s->random);
			for (size_t k = 0; k < node->n_placed; k++)
				node->placed[k] = (struct layer_range){(uint32_t)below(&s->random, 2 * LAYERS_MOST),
								       (uint32_t)splitmix(&s->random) >> below(&s->random, 32)};
		}
		for (size_t i = 0; i < s->n; i++) {
			struct choice c = choose(s, i);
			must_be_legal(s, i, &c);
		}
		free(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nodes_that_choose_at_once_cover_the_model_when_their_budgets_suffice),
		cmocka_unit_test(nodes_that_choose_in_turn_cover_the_model_when_their_budgets_suffice),
		cmocka_unit_test(nodes_that_arrive_one_by_one_cover_the_model_when_their_budgets_suffice),
		cmocka_unit_test(what_a_node_leaves_is_taken_over_when_the_others_budgets_suffice),
		cmocka_unit_test(a_budget_that_changes_is_kept_to),
		cmocka_unit_test(a_node_that_comes_later_moves_nobody_while_nothing_is_missing),
		cmocka_unit_test(three_nodes_of_about_half_a_model_of_twelve_layers_make_one_ring),
		cmocka_unit_test(three_nodes_of_about_half_a_model_of_five_layers_make_one_ring),
		cmocka_unit_test(a_home_that_fits_the_model_keeps_it_in_one_range),
		cmocka_unit_test(a_home_that_fits_the_model_lends_its_middle_to_one_that_does_not),
		cmocka_unit_test(a_gap_is_filled_by_who_has_room_before_anyone_moves),
		cmocka_unit_test(a_spare_copy_moves_where_somebody_is_missing),
		cmocka_unit_test(text_stays_with_nodes_that_answer_their_members),
		cmocka_unit_test(a_model_that_cannot_be_split_runs_whole_or_not_at_all),
		cmocka_unit_test(a_model_of_one_or_two_layers_runs_whole_or_not_at_all),
		cmocka_unit_test(a_budget_below_one_layer_is_said),
		cmocka_unit_test(memory_counts_what_sessions_and_computing_take),
		cmocka_unit_test(an_engine_that_needs_more_memory_takes_less_and_leaves_the_others_windows),
		cmocka_unit_test(adverts_that_make_no_sense_do_no_harm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
