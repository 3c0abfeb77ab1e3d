/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/route/placement.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

/* Spare copies of the middle go as far as this many nodes a layer; beyond it a node keeps its memory and its bandwidth. */
#define COVERAGE_ENOUGH 2

uint64_t placement_cost(const struct placement_model *model, const struct layer_range *ranges, size_t n)
{
	const struct manifest_body *m = model->manifest;
	uint64_t cost = 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t weights = manifest_bytes(m, &ranges[i], 1);     /* each shard has its own copy in memory */
		if (model->weights_only) {
			cost += weights;
			continue;
		}
		uint32_t permille = m->memory_permille > model->memory_permille ? m->memory_permille : model->memory_permille;
		cost += permille > 1000 ? weights / 1000 * permille + weights % 1000 * permille / 1000 : weights;
		cost += (uint64_t)(ranges[i].end - ranges[i].first) * m->kv_bytes_token_layer * model->context * model->sessions;
		cost += m->compute_bytes;
	}
	return cost;
}

/* --- the model, and each node's part of the picture ------------------------------------------------------ */

struct slot {
	const struct placement_node *node;
	bool ends;                       /* takes the two ends */
	bool fixed;                      /* a home with the whole model: nothing to choose */
	uint64_t room;                   /* bytes for a window of the middle */
	uint32_t share;                  /* about so many layers of average size fit there; 0: not one does */
	struct layer_range window;       /* of the middle; empty: first == end */
};

struct picture {
	struct placement_model model;    /* as everyone counts */
	uint32_t low, high;              /* the middle is [low, high) */
	uint64_t base;                   /* what any window of the middle takes besides its layers */
	uint64_t *before;                /* n_layer + 1: bytes of the middle's layers before that one */
	size_t n;
	struct slot *slots;              /* sorted by key */
	uint32_t *coverage;              /* n_layer: windows on that layer */
};

static int by_key(const void *a, const void *b)
{
	return memcmp(((const struct slot *)a)->node->node, ((const struct slot *)b)->node->node, KEY_BYTES);
}

static uint32_t next_cut(const struct picture *p, uint32_t at, uint32_t most)
{
	while (at < most && !manifest_may_cut(p->model.manifest, at))
		at++;
	return at;
}

static uint32_t previous_cut(const struct picture *p, uint32_t at, uint32_t least)
{
	while (at > least && !manifest_may_cut(p->model.manifest, at))
		at--;
	return at;
}

/* Costs of single layers, so that a window's cost need not be summed from extents each time. Memory factors round: good for
 * choosing, while what is chosen is checked with placement_cost(). */
static void measure(struct picture *p)
{
	struct layer_range first = {p->low, p->low + 1}, second = {p->low + 1, p->low + 2}, both = {p->low, p->low + 2};
	if (p->low + 2 <= p->high)
		p->base = placement_cost(&p->model, &first, 1) + placement_cost(&p->model, &second, 1) - placement_cost(&p->model, &both, 1);
	for (uint32_t i = p->low; i < p->high; i++)
		p->before[i + 1] = p->before[i] + placement_cost(&p->model, &(struct layer_range){i, i + 1}, 1) - p->base;
}

/* The furthest place up to which this node's room lasts when its window begins at `at`; `at` when not one step. */
static uint32_t reach(const struct picture *p, const struct slot *s, uint32_t at, uint32_t most)
{
	uint32_t low = at, high = most;
	while (low < high) {
		uint32_t end = low + (high - low + 1) / 2;
		if (p->base + p->before[end] - p->before[at] <= s->room)
			low = end;
		else
			high = end - 1;
	}
	return previous_cut(p, low, at);
}

/* The window of the middle among a node's placed ranges, when it is one that the node could have chosen. */
static struct layer_range window_of(const struct picture *p, const struct slot *s)
{
	for (size_t i = 0; i < s->node->n_placed; i++) {
		struct layer_range r = s->node->placed[i];
		if (r.first >= p->low && r.end <= p->high && r.first < r.end && manifest_may_cut(p->model.manifest, r.first) &&
		    manifest_may_cut(p->model.manifest, r.end) && placement_cost(&p->model, &r, 1) <= s->room)
			return r;
	}
	return (struct layer_range){0, 0};
}

static void slot_init(const struct picture *p, struct slot *s, const struct placement_node *node, uint64_t budget)
{
	uint32_t n_layer = p->model.manifest->n_layer, middle = p->high - p->low;
	const struct layer_range three[3] = {{0, p->low}, {p->high, n_layer}, {p->low, p->high}}, all = {0, n_layer};
	uint64_t ends = placement_cost(&p->model, three, 2);
	*s = (struct slot){.node = node, .room = budget};
	if (node->home && ends <= budget) {
		s->ends = true;
		s->room -= ends;
	}
	uint64_t mean = p->before[p->high] / middle;
	if (s->room > p->base && mean)
		s->share = (s->room - p->base) / mean < middle ? (uint32_t)((s->room - p->base) / mean) : middle;
	for (uint32_t at = p->low; at < p->high && !s->share; at = next_cut(p, at + 1, p->high))
		s->share = reach(p, s, at, p->high) > at;        /* layers differ: a small one may fit */
	s->window = window_of(p, s);
	/* A home that fits everything holds it in three ranges when another home needs its middle (see placement_choose()). */
	if (node->home && placement_cost(&p->model, &all, 1) <= budget) {
		s->fixed = true;
		s->window = placement_cost(&p->model, three, 3) <= budget ? three[2] : (struct layer_range){0, 0};
	}
}

/* --- windows ---------------------------------------------------------------------------------------- */

static void cover(struct picture *p, struct layer_range window, int by)
{
	for (uint32_t i = window.first; i < window.end; i++)
		p->coverage[i] += (uint32_t)by;
}

static uint32_t missing_count(const struct picture *p)
{
	uint32_t n = 0;
	for (uint32_t i = p->low; i < p->high; i++)
		n += !p->coverage[i];
	return n;
}

/* How far these get from `at`, one behind the other, each with all its room. */
static uint32_t reach_together(const struct picture *p, const size_t *chosen, size_t n, uint32_t at, uint32_t most)
{
	for (size_t i = 0; i < n && at < most; i++)
		at = reach(p, &p->slots[chosen[i]], at, most);
	return at;
}

/* The free slots that it takes to fill [a, b): as few as will do, the largest first, then in order of key along the model, so that
 * every node that computes this arrives at the same. */
static size_t choose_slots(const struct picture *p, uint32_t a, uint32_t b, uint32_t level, size_t chosen[PLACEMENT_NODES_MAX])
{
	size_t n = 0;
	while (reach_together(p, chosen, n, a, b) < b) {
		size_t best = p->n, at = n;
		for (size_t i = 0; i < p->n; i++) {
			const struct slot *s = &p->slots[i];
			bool taken = s->fixed || s->window.end || !s->share || (level && s->ends);    /* spare copies are for those without ends */
			for (size_t k = 0; k < n && !taken; k++)
				taken = chosen[k] == i;
			if (!taken && (best == p->n || s->share > p->slots[best].share))
				best = i;
		}
		if (best == p->n)
			break;
		for (; at && chosen[at - 1] > best; at--)
			chosen[at] = chosen[at - 1];
		chosen[at] = best;
		n++;
	}
	return n;
}

/* Fills [a, b) in proportion to what each can take; false when nobody can take anything there. */
static bool fill(struct picture *p, uint32_t a, uint32_t b, uint32_t level)
{
	size_t chosen[PLACEMENT_NODES_MAX], n = choose_slots(p, a, b, level, chosen);
	uint32_t goal = reach_together(p, chosen, n, a, b), at = a;
	uint64_t shares = 0;
	for (size_t i = 0; i < n; i++)
		shares += p->slots[chosen[i]].share;
	for (size_t i = 0; i < n && at < goal; i++) {
		struct slot *s = &p->slots[chosen[i]];
		uint32_t most = reach(p, s, at, goal);
		uint64_t layers = ((uint64_t)(goal - at) * s->share + shares - 1) / shares;
		uint32_t end = next_cut(p, layers < most - at ? at + (uint32_t)layers : most, most);
		shares -= s->share;
		/* its share, and at least what those behind it cannot take */
		while (end < most && reach_together(p, chosen + i + 1, n - i - 1, end, goal) < goal)
			end = next_cut(p, end + 1, most);
		while (end > at && placement_cost(&p->model, &(struct layer_range){at, end}, 1) > s->room)
			end = previous_cut(p, end - 1, at);
		if (end == at)
			continue;
		s->window = (struct layer_range){at, end};
		cover(p, s->window, 1);
		at = end;
	}
	return at > a;
}

/* Gives windows to the free slots where fewer than `enough` have one; slots with one keep it. */
static void assign(struct picture *p, uint32_t enough)
{
	memset(p->coverage, 0, p->model.manifest->n_layer * sizeof *p->coverage);
	for (size_t i = 0; i < p->n; i++)
		cover(p, p->slots[i].window, 1);
	for (uint32_t level = 0; level < enough; level++)
		for (uint32_t a = p->low; a < p->high;) {
			uint32_t b = a;
			while (b < p->high && p->coverage[b] <= level)
				b++;
			if (a == b || !fill(p, a, b, level))
				a = next_cut(p, a + 1, p->high);
		}
}

/* The first node, in order of key, all of whose layers somebody else has too. */
static struct slot *find_spare(struct picture *p)
{
	for (size_t i = 0; i < p->n; i++) {
		struct slot *s = &p->slots[i];
		bool spare = s->window.end && !s->fixed;
		for (uint32_t k = s->window.first; k < s->window.end && spare; k++)
			spare = p->coverage[k] > 1;
		if (spare)
			return s;
	}
	return NULL;
}

static void move_spares(struct picture *p)
{
	struct slot *s;
	for (size_t moves = 0; missing_count(p) && moves < p->n && (s = find_spare(p)); moves++) {
		s->window = (struct layer_range){0, 0};
		assign(p, 1);
	}
}

static void start_anew(struct picture *p)
{
	for (size_t i = 0; i < p->n; i++)
		if (!p->slots[i].fixed)
			p->slots[i].window = (struct layer_range){0, 0};
	assign(p, COVERAGE_ENOUGH);
}

/* What stands stays. When then a layer has nobody: would spare copies that move help, or everyone choosing anew? Everyone computes
 * the same answer, and what leaves less undone is done. 0 or -ENOMEM. */
static int settle(struct picture *p)
{
	size_t size = p->n * sizeof *p->slots;
	struct slot *as_said = malloc(size), *best = malloc(size);
	uint32_t missing;
	int err = -ENOMEM;
	if (!as_said || !best)
		goto out;
	memcpy(as_said, p->slots, size);
	assign(p, COVERAGE_ENOUGH);
	missing = missing_count(p);
	memcpy(best, p->slots, size);
	void (*const remedies[])(struct picture *) = {move_spares, start_anew};
	for (size_t i = 0; i < 2 && missing; i++) {
		memcpy(p->slots, as_said, size);
		assign(p, 1);
		remedies[i](p);
		uint32_t now = missing_count(p);
		if (now < missing) {
			missing = now;
			memcpy(best, p->slots, size);
		}
	}
	memcpy(p->slots, best, size);
	err = 0;
out:
	free(as_said);
	free(best);
	return err;
}

/* What this node's engine found about its memory holds for this node: the others' parts are counted as the others do, and its own
 * budget by as much less. */
static uint64_t budget_as_others_count(const struct placement_model *model, uint64_t budget)
{
	uint32_t usual = model->manifest->memory_permille > 1000 ? model->manifest->memory_permille : 1000;
	return model->weights_only || model->memory_permille <= usual ? budget : budget / model->memory_permille * usual;
}

int placement_choose(const struct placement_model *model, const struct placement_node *nodes, size_t n_nodes, size_t self,
		     struct layer_range ranges[RANGES_MAX], size_t *n_ranges)
{
	const struct manifest_body *m = model->manifest;
	const struct placement_node *me = &nodes[self];
	const struct layer_range all = {0, m->n_layer};
	*n_ranges = 0;
	if (n_nodes > PLACEMENT_NODES_MAX || !m->n_layer)
		return ERR_LIMIT;
	struct picture p = {.model = *model, .n = n_nodes};
	p.model.memory_permille = 0;
	p.low = next_cut(&p, 1, m->n_layer);
	p.high = previous_cut(&p, m->n_layer - 1, 0);
	bool whole = placement_cost(model, &all, 1) <= me->budget;
	if (!m->splittable || p.low >= p.high) {
		if (!whole)
			return m->splittable ? ERR_BUDGET : ERR_UNSUPPORTED;
		if (me->home)
			ranges[(*n_ranges)++] = all;
		return 0;
	}
	const struct layer_range three[3] = {{0, p.low}, {p.low, p.high}, {p.high, m->n_layer}};
	if (me->home && whole) {
		/* a home that cannot hold it whole would miss our middle */
		bool others_need = false;
		for (size_t i = 0; i < n_nodes; i++)
			others_need |= i != self && nodes[i].home && placement_cost(model, &all, 1) > nodes[i].budget;
		if (others_need && placement_cost(model, three, 3) <= me->budget) {
			memcpy(ranges, three, sizeof three);
			*n_ranges = 3;
		} else {
			ranges[(*n_ranges)++] = all;
		}
		return 0;
	}

	int err = -ENOMEM;
	p.slots = calloc(n_nodes, sizeof *p.slots);
	p.coverage = calloc(m->n_layer, sizeof *p.coverage);
	p.before = calloc((size_t)m->n_layer + 1, sizeof *p.before);
	if (!p.slots || !p.coverage || !p.before)
		goto out;
	measure(&p);
	for (size_t i = 0; i < n_nodes; i++)
		slot_init(&p, &p.slots[i], &nodes[i], i == self ? budget_as_others_count(model, me->budget) : nodes[i].budget);
	qsort(p.slots, n_nodes, sizeof *p.slots, by_key);
	err = settle(&p);
	for (size_t i = 0; i < n_nodes && !err; i++) {
		const struct slot *s = &p.slots[i];
		if (s->node != me)
			continue;
		if (s->ends)
			ranges[(*n_ranges)++] = three[0];
		if (s->window.end)
			ranges[(*n_ranges)++] = s->window;
		if (s->ends)
			ranges[(*n_ranges)++] = three[2];
		if (!*n_ranges && !s->share)
			err = ERR_BUDGET;
	}
out:
	free(p.slots);
	free(p.coverage);
	free(p.before);
	return err;
}
