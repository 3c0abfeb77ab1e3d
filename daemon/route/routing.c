/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/route/routing.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define HOP_FIXED_US 300.0         /* frames, encryption and wake-ups of one hop, whatever the distance */
#define STAGE_FIXED_US 50.0        /* one more pass through an engine */
#define STAGE_DEAREST_US 1e13
#define LAYER_UNKNOWN_US 1000.0    /* a layer that nobody measured yet */

bool routing_engines_join(const char *a, const char *b)
{
	static const char *const tested[][2] = {{"cpu", "vulkan"}};
	const char *end_a = strrchr(a, ' '), *end_b = strrchr(b, ' ');
	if (!strcmp(a, b))
		return true;
	if (!end_a || !end_b || end_a - a != end_b - b || memcmp(a, b, (size_t)(end_a - a)))
		return false;
	for (size_t i = 0; i < sizeof tested / sizeof *tested; i++)
		if ((!strcmp(end_a + 1, tested[i][0]) && !strcmp(end_b + 1, tested[i][1])) || (!strcmp(end_a + 1, tested[i][1]) && !strcmp(end_b + 1, tested[i][0])))
			return true;
	return false;
}

struct step {
	double cost;
	uint32_t from;             /* position before this stage */
	size_t node, previous;     /* previous: node of the stage before; n for none */
	size_t stages;
};

struct search {
	uint32_t n_layer;
	const struct routing_node *nodes;
	size_t n, self;
	const uint8_t (*avoid)[KEY_BYTES];
	size_t n_avoid;
	bool any_sessions;         /* count nodes without a free session too */
	double stage_us;           /* price of one more pass through an engine */
	bool cut_short;            /* some chain had no room for another stage */
	struct step *steps;        /* (n_layer + 1, n): the cheapest way to stand at a position behind that node */
	bool *starts;              /* n_layer + 1: some range starts here */
};

/* Adverts come from others, who may know another model by that name. */
static bool is_sane(const struct search *s, struct layer_range r)
{
	return r.first < r.end && r.end <= s->n_layer;
}

static bool may_use(const struct search *s, size_t i)
{
	const struct routing_node *node = &s->nodes[i];
	if (!node->usable || (!s->any_sessions && !node->sessions_free))
		return false;
	for (size_t k = 0; k < s->n_avoid; k++)
		if (!memcmp(s->avoid[k], node->node, KEY_BYTES))
			return false;
	return true;
}

static double hop_us(const struct search *s, size_t a, size_t b)
{
	if (a == b)
		return s->stage_us;
	return s->stage_us + HOP_FIXED_US - STAGE_FIXED_US + 1000.0 * (s->nodes[a].rtt_ms + s->nodes[b].rtt_ms) / 2;
}

static double compute_us(const struct routing_node *node, uint32_t layers)
{
	double layer = node->layer_microseconds ? node->layer_microseconds : LAYER_UNKNOWN_US;
	return layer * layers * (1.0 + node->load_permille / 1000.0);
}

/* From (position, behind) through a range of `node` to `end`. */
static void relax(struct search *s, uint32_t position, size_t behind, size_t node, uint32_t end)
{
	double cost = hop_us(s, behind == s->n ? s->self : behind, node) + compute_us(&s->nodes[node], end - position);
	size_t stages = 1;
	if (behind < s->n) {
		const struct step *before = &s->steps[(size_t)position * s->n + behind];
		cost += before->cost;
		stages += before->stages;
	}
	if (end == s->n_layer)
		cost += hop_us(s, node, s->self);
	struct step *step = &s->steps[(size_t)end * s->n + node];
	s->cut_short |= stages > RING_STAGES_MAX;
	if (stages <= RING_STAGES_MAX && cost < step->cost)
		*step = (struct step){.cost = cost, .from = position, .node = node, .previous = behind, .stages = stages};
}

static void expand(struct search *s, uint32_t position, size_t behind)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct routing_node *node = &s->nodes[i];
		if (!may_use(s, i))
			continue;
		for (size_t k = 0; k < node->n_resident; k++) {
			struct layer_range r = node->resident[k];
			/* Text stays at home: it begins and ends there. */
			if (!is_sane(s, r) || r.first != position || ((r.first == 0 || r.end == s->n_layer) && !node->self))
				continue;
			if (r.end == s->n_layer) {
				relax(s, position, behind, i, r.end);
				continue;
			}
			for (uint32_t end = position + 1; end <= r.end; end++)
				if (end == r.end || s->starts[end])
					relax(s, position, behind, i, end);
		}
	}
}

static uint32_t walk_once(struct search *s)
{
	uint32_t furthest = 0;
	s->cut_short = false;
	for (size_t i = 0; i < ((size_t)s->n_layer + 1) * s->n; i++)
		s->steps[i] = (struct step){.cost = INFINITY};
	expand(s, 0, s->n);
	for (uint32_t position = 1; position <= s->n_layer; position++)
		for (size_t i = 0; i < s->n; i++) {
			if (isinf(s->steps[(size_t)position * s->n + i].cost))
				continue;
			furthest = position;
			if (position < s->n_layer)
				expand(s, position, i);
		}
	return furthest;
}

/* Returns the furthest position that can be reached; n_layer when there is a plan. A cheap way there may have had too many stages to
 * go on from: then stages become dearer, in the end so dear that the fewest win. */
static uint32_t walk(struct search *s)
{
	uint32_t furthest = 0;
	for (s->stage_us = STAGE_FIXED_US; s->stage_us < STAGE_DEAREST_US; s->stage_us *= 100) {
		furthest = walk_once(s);
		if (furthest == s->n_layer || !s->cut_short)
			break;
	}
	return furthest;
}

static void read_plan(const struct search *s, struct ring_plan *plan)
{
	const struct step *step = NULL;
	for (size_t i = 0; i < s->n; i++) {
		const struct step *last = &s->steps[(size_t)s->n_layer * s->n + i];
		if (!isinf(last->cost) && (!step || last->cost < step->cost))
			step = last;
	}
	plan->n_stages = step->stages;
	uint32_t end = s->n_layer;
	for (size_t i = step->stages; i-- > 0;) {
		memcpy(plan->stages[i].node, s->nodes[step->node].node, KEY_BYTES);
		plan->stages[i].range = (struct layer_range){step->from, end};
		end = step->from;
		if (step->previous < s->n)
			step = &s->steps[(size_t)end * s->n + step->previous];
	}
}

/* The layers from `furthest` on that nobody usable begins with, up to where somebody could go on. */
static struct layer_range gap(const struct search *s, uint32_t furthest)
{
	uint32_t end = s->n_layer;
	for (size_t i = 0; i < s->n; i++)
		for (size_t k = 0; may_use(s, i) && k < s->nodes[i].n_resident; k++) {
			uint32_t first = s->nodes[i].resident[k].first;
			if (first > furthest && first < end)
				end = first;
		}
	return (struct layer_range){furthest, end};
}

int routing_plan(const uint8_t model[KEY_BYTES], uint32_t n_layer, const struct routing_node *nodes, size_t n,
		 const uint8_t (*avoid)[KEY_BYTES], size_t n_avoid, struct ring_plan *plan, struct layer_range *missing)
{
	struct search s = {.n_layer = n_layer, .nodes = nodes, .n = n, .self = n, .avoid = avoid, .n_avoid = n_avoid};
	memset(plan, 0, sizeof *plan);
	memcpy(plan->model, model, KEY_BYTES);
	plan->n_layer = n_layer;
	*missing = (struct layer_range){0, n_layer};
	bool head = false, tail = false;
	if (!n_layer || n_layer > MODEL_LAYERS_MAX)
		return ERR_LIMIT;
	for (size_t i = 0; i < n; i++) {
		if (!nodes[i].self)
			continue;
		s.self = i;
		for (size_t k = 0; k < nodes[i].n_resident; k++) {
			head |= nodes[i].resident[k].first == 0;
			tail |= nodes[i].resident[k].end == n_layer;
		}
	}
	if (!head || !tail)
		return ERR_DENIED;

	int err = 0;
	s.steps = malloc(((size_t)n_layer + 1) * n * sizeof *s.steps);
	s.starts = calloc((size_t)n_layer + 1, sizeof *s.starts);
	if (!s.steps || !s.starts) {
		err = -ENOMEM;
		goto out;
	}
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < nodes[i].n_resident; k++)
			if (is_sane(&s, nodes[i].resident[k]))
				s.starts[nodes[i].resident[k].first] = true;
	uint32_t furthest = walk(&s);
	if (furthest == n_layer) {
		read_plan(&s, plan);
	} else {
		*missing = gap(&s, furthest);
		s.any_sessions = true;
		err = walk(&s) == n_layer ? ERR_BUSY : ERR_UNREACHABLE;
	}
out:
	free(s.steps);
	free(s.starts);
	return err;
}
