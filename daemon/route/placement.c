/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/route/placement.h"

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

/* --- one node's part of the picture ------------------------------------------------------------------ */

struct slot {
	const struct placement_node *node;
	bool ends;                       /* takes the two ends */
	bool placed;                     /* its window stays */
	uint32_t cap;                    /* most layers of the middle that its budget allows */
	struct layer_range window;       /* of the middle; empty: first == end */
};

struct picture {
	const struct placement_model *model;
	uint32_t n_layer, low, high;     /* the middle is [low, high) */
	size_t n;
	struct slot *slots;              /* sorted by key */
	uint32_t *coverage;              /* n_layer */
};

static int by_key(const void *a, const void *b)
{
	return memcmp(((const struct slot *)a)->node->node, ((const struct slot *)b)->node->node, KEY_BYTES);
}

static size_t ends_of(const struct picture *p, struct layer_range out[2])
{
	out[0] = (struct layer_range){0, p->low};
	out[1] = (struct layer_range){p->high, p->n_layer};
	return 2;
}

static uint32_t cap_of(const struct picture *p, const struct placement_node *node, bool ends)
{
	struct layer_range ranges[2];
	uint64_t largest = 1, used = ends ? placement_cost(p->model, ranges, ends_of(p, ranges)) : 0;
	uint64_t none = 0;
	for (uint32_t i = p->low; i < p->high; i++) {
		uint64_t one = placement_cost(p->model, &(struct layer_range){i, i + 1}, 1);
		struct layer_range two = {i, i + 2};
		uint64_t step = i + 2 <= p->high ? placement_cost(p->model, &two, 1) - one : one;
		if (i + 2 <= p->high && step > largest)
			largest = step;
		if (one > none)
			none = one;              /* a window's first layer brings what every shard has */
	}
	if (p->low == p->high || node->budget < used || node->budget - used < none)
		return 0;
	uint64_t cap = 1 + (node->budget - used - none) / largest;
	return cap > p->high - p->low ? p->high - p->low : (uint32_t)cap;
}

static bool fits(const struct picture *p, const struct placement_node *node, const struct layer_range *ranges, size_t n)
{
	return placement_cost(p->model, ranges, n) <= node->budget;
}

/* The window of the middle among a node's placed ranges. */
static struct layer_range window_of(const struct picture *p, const struct placement_node *node)
{
	for (size_t i = 0; i < node->n_placed; i++) {
		struct layer_range r = node->placed[i];
		if (r.first >= p->low && r.end <= p->high && r.first < r.end)
			return r;
	}
	return (struct layer_range){0, 0};
}

static bool has_ends(const struct picture *p, const struct placement_node *node)
{
	bool head = false, tail = false;
	for (size_t i = 0; i < node->n_placed; i++) {
		head |= node->placed[i].first == 0;
		tail |= node->placed[i].end == p->n_layer;
	}
	return head && tail;
}

static void slot_init(const struct picture *p, struct slot *s, const struct placement_node *node)
{
	struct layer_range ends[2];
	*s = (struct slot){.node = node};
	s->ends = node->home && p->low < p->high && fits(p, node, ends, ends_of(p, ends));
	s->cap = cap_of(p, node, s->ends);
	s->window = window_of(p, node);
	/* What was placed stays while it still fits and the ends are as they should be. */
	s->placed = node->n_placed && fits(p, node, node->placed, node->n_placed) && has_ends(p, node) == s->ends;
	if (!s->placed)
		s->window = (struct layer_range){0, 0};
	/* A home that fits everything holds it in three ranges when another home needs its middle (see placement_choose()). */
	struct layer_range all = {0, p->n_layer}, three[3] = {{0, p->low}, {p->low, p->high}, {p->high, p->n_layer}};
	if (node->home && fits(p, node, &all, 1)) {
		s->placed = true;
		s->window = fits(p, node, three, 3) ? three[1] : (struct layer_range){0, 0};
	}
}

static void cover(struct picture *p, struct layer_range window)
{
	for (uint32_t i = window.first; i < window.end; i++)
		p->coverage[i]++;
}

static uint32_t next_cut(const struct picture *p, uint32_t at, uint32_t most)
{
	while (at < most && !manifest_may_cut(p->model->manifest, at))
		at++;
	return at;
}

static uint32_t previous_cut(const struct picture *p, uint32_t at, uint32_t least)
{
	while (at > least && !manifest_may_cut(p->model->manifest, at))
		at--;
	return at;
}

/* Fills [a, b) with the fewest free slots, in proportion to what each can take. Returns false when no free slot is left. */
static bool fill(struct picture *p, uint32_t a, uint32_t b, uint32_t level)
{
	size_t chosen[PLACEMENT_NODES_MAX], n = 0;
	uint64_t total = 0;
	while (total < b - a) {
		size_t best = p->n;
		for (size_t i = 0; i < p->n; i++) {
			const struct slot *s = &p->slots[i];
			bool taken = s->placed || s->window.end || !s->cap || (level && s->ends);    /* spare copies are for those without ends */
			for (size_t k = 0; k < n && !taken; k++)
				taken = chosen[k] == i;
			if (!taken && (best == p->n || s->cap > p->slots[best].cap))
				best = i;
		}
		if (best == p->n)
			break;
		chosen[n++] = best;
		total += p->slots[best].cap;
	}
	if (!n)
		return false;
	/* In order of key along the model, so that every node that computes this arrives at the same. */
	for (size_t i = 1; i < n; i++)
		for (size_t k = i; k && chosen[k - 1] > chosen[k]; k--) {
			size_t swap = chosen[k];
			chosen[k] = chosen[k - 1];
			chosen[k - 1] = swap;
		}
	uint32_t at = a;
	uint64_t left = total;
	bool any = false;
	for (size_t i = 0; i < n && at < b; i++) {
		struct slot *s = &p->slots[chosen[i]];
		uint32_t rest = b - at, size = s->cap;
		left -= s->cap;
		if (left + s->cap >= rest) {
			/* its share of what is to be filled, and at least what those behind it cannot take */
			uint64_t share = ((uint64_t)rest * s->cap + left + s->cap - 1) / (left + s->cap);
			uint64_t need = rest > left ? rest - left : 0;
			size = (uint32_t)(share > need ? share : need);
			if (size > s->cap)
				size = s->cap;
		}
		uint32_t end = at + size > b ? b : at + size;
		uint32_t cut = previous_cut(p, end, at);
		if (cut == at)
			cut = next_cut(p, end, b);
		if (cut == at || cut - at > s->cap) {
			s->cap = 0;              /* no legal window of a size that it can hold begins here */
			any = true;
			continue;
		}
		s->window = (struct layer_range){at, cut};
		cover(p, s->window);
		at = cut;
		any = true;
	}
	return any;
}

static uint32_t missing_count(const struct picture *p)
{
	uint32_t n = 0;
	for (uint32_t i = p->low; i < p->high; i++)
		n += !p->coverage[i];
	return n;
}

/* Gives windows to the free slots: first where nobody is, then a spare copy. */
static void assign(struct picture *p)
{
	memset(p->coverage, 0, p->n_layer * sizeof *p->coverage);
	for (size_t i = 0; i < p->n; i++)
		if (p->slots[i].placed)
			cover(p, p->slots[i].window);
	for (uint32_t level = 0; level < COVERAGE_ENOUGH; level++) {
		for (uint32_t a = p->low; a < p->high;) {
			if (p->coverage[a] > level) {
				a++;
				continue;
			}
			uint32_t b = a;
			while (b < p->high && p->coverage[b] <= level)
				b++;
			/* A part may remain when the slots were used up or a cut was not legal: try the rest until nothing moves. */
			if (!fill(p, a, b, level))
				a = b;
		}
	}
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
	struct picture p = {.model = model, .n_layer = m->n_layer, .n = n_nodes};
	p.low = next_cut(&p, 1, m->n_layer);
	p.high = previous_cut(&p, m->n_layer - 1, 0);
	bool whole = fits(&p, me, &all, 1);
	if (!m->splittable || p.low >= p.high) {
		if (!whole)
			return m->splittable ? ERR_BUDGET : ERR_UNSUPPORTED;
		ranges[(*n_ranges)++] = all;
		return 0;
	}
	p.slots = calloc(n_nodes, sizeof *p.slots);
	p.coverage = calloc(m->n_layer, sizeof *p.coverage);
	if (!p.slots || !p.coverage) {
		free(p.slots);
		free(p.coverage);
		return -12;      /* ENOMEM */
	}
	for (size_t i = 0; i < n_nodes; i++)
		slot_init(&p, &p.slots[i], &nodes[i]);
	qsort(p.slots, n_nodes, sizeof *p.slots, by_key);

	int err = 0;
	bool others_need = false;        /* a home that cannot hold it whole would miss our middle */
	for (size_t i = 0; i < n_nodes; i++)
		others_need |= i != self && nodes[i].home && !fits(&p, &nodes[i], &all, 1);
	const struct layer_range three[3] = {{0, p.low}, {p.low, p.high}, {p.high, m->n_layer}};
	if (me->home && whole) {
		if (others_need && fits(&p, me, three, 3)) {
			memcpy(ranges, three, sizeof three);
			*n_ranges = 3;
		} else {
			ranges[(*n_ranges)++] = all;
		}
		goto out;
	}
	assign(&p);
	uint32_t missing = missing_count(&p);
	if (missing) {
		/* Would everyone choosing anew leave less undone? Then everyone does, and everyone computes the same. */
		struct slot *kept = malloc(n_nodes * sizeof *kept);
		if (kept) {
			memcpy(kept, p.slots, n_nodes * sizeof *kept);
			for (size_t i = 0; i < n_nodes; i++) {
				struct placement_node fresh = *p.slots[i].node;
				fresh.n_placed = 0;
				slot_init(&p, &p.slots[i], &fresh);
				p.slots[i].node = kept[i].node;
			}
			assign(&p);
			if (missing_count(&p) >= missing)
				memcpy(p.slots, kept, n_nodes * sizeof *kept);
			free(kept);
		}
	}
	for (size_t i = 0; i < n_nodes; i++) {
		const struct slot *s = &p.slots[i];
		if (s->node != me)
			continue;
		if (s->ends)
			ranges[(*n_ranges)++] = three[0];
		if (s->window.first < s->window.end)
			ranges[(*n_ranges)++] = s->window;
		if (s->ends)
			ranges[(*n_ranges)++] = three[2];
		if (!*n_ranges && !s->cap)
			err = ERR_BUDGET;
	}
out:
	free(p.slots);
	free(p.coverage);
	return err;
}

size_t placement_missing(const struct placement_model *model, const struct placement_node *nodes, size_t n_nodes,
			 struct layer_range *out, size_t max)
{
	size_t n = 0;
	for (uint32_t layer = 0; layer < model->manifest->n_layer; layer++) {
		bool there = false;
		for (size_t i = 0; i < n_nodes && !there; i++)
			for (size_t k = 0; k < nodes[i].n_placed && !there; k++)
				there = layer >= nodes[i].placed[k].first && layer < nodes[i].placed[k].end;
		if (there)
			continue;
		if (n && out[n - 1].end == layer)
			out[n - 1].end++;
		else if (n < max)
			out[n++] = (struct layer_range){layer, layer + 1};
	}
	return n;
}
