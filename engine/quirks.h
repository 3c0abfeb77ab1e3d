/* quirks.h: what libllama does differently for each architecture that may be split: a table, one line each.
 *
 * What is not in the table runs whole on one node and is refused, with a reason, where a ring would have to
 * split it: never a wrong answer (DESIGN D1). Pure. Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_QUIRKS_H
#define ENGINE_QUIRKS_H

#include "engine/directory.h"

struct quirk {
	const char *architecture;
	bool scaled;              /* the embedding is multiplied by sqrt(n_embd), once, before layer 0 */
	unsigned window_period;   /* of period layers the last has full attention, the others a sliding window; 0: all alike */
	unsigned whole_n_layer;   /* libllama takes constants from this layer count: not splittable; 0: none */
};

/* NULL: not known to be exact in shards. */
const struct quirk *quirk_find(const char *architecture);

/* True when the model may be cut at all; otherwise why says the reason. */
bool quirk_splittable(const struct directory *directory, char *why, size_t why_size);
/* True when a shard of a splittable model may begin or end before layer c. */
bool quirk_may_cut(const struct directory *directory, uint32_t c);

/* Changes whenever the table's meaning does: a ring mixes only engines with the same one (D2). */
uint32_t quirk_hash(void);

#endif
