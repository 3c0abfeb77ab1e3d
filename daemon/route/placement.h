/* placement.h: which layers a node should hold (DESIGN D8). Pure; minutes-scale; every node computes its own part from the same
 * adverts and arrives at the same picture.
 *
 * A shard is a loaded layer range that always starts at its first layer and may stop early, so ranges are chosen to
 * follow each other:
 *   - a node that answers its own members (home) first takes the two ends, [0,1) and [L-1,L): text then exists only there;
 *   - then the window of the middle [1,L-1) that the mesh lacks most, as long as its budget allows;
 *   - a node that fits the whole model takes [0,L) when no other home depends on its middle, and otherwise
 *     [0,1) [1,L-1) [L-1,L);
 *   - what was placed before stays (no needless downloads). When a layer has nobody and free room does not fill it, nodes whose
 *     layers others have too move, lowest key first; when that does not do and everyone choosing anew does, everyone chooses anew;
 *   - text stays at home: a node that is no home takes nothing of a model that has no middle or cannot be split.
 * Only the node's owner decides what it may take: no peer can make it download or evict.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ROUTE_PLACEMENT_H
#define ROUTE_PLACEMENT_H

#include "proto/record.h"

#define PLACEMENT_NODES_MAX 256

struct placement_model {
	const struct manifest_body *manifest;
	bool weights_only;              /* budgets count weights alone (the demo says so) */
	uint32_t context, sessions;     /* KV is promised for these */
	uint32_t memory_permille;       /* weights in memory over weights in the file, as this node's engine found; 0: as the manifest says */
};
struct placement_node {
	uint8_t node[KEY_BYTES];
	uint64_t budget;                /* bytes for this model */
	bool home;                      /* wants the ends */
	size_t n_placed;                /* what it advertises as placed; 0: has not chosen yet */
	struct layer_range placed[RANGES_MAX];
};

/* Memory that these ranges take: weights, and unless weights_only KV of the promised context and sessions and the compute
 * buffers (one set a range). */
uint64_t placement_cost(const struct placement_model *model, const struct layer_range *ranges, size_t n);

/* Fills ranges (at most RANGES_MAX) for nodes[self]; 0 ranges when nothing fits. 0, or ERR_UNSUPPORTED (cannot be split and
 * does not fit whole), ERR_BUDGET (not even the smallest useful part fits). Order of nodes does not matter. */
int placement_choose(const struct placement_model *model, const struct placement_node *nodes, size_t n_nodes, size_t self,
		     struct layer_range ranges[RANGES_MAX], size_t *n_ranges);

#endif
