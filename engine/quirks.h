/* quirks.h: what libllama does differently for each architecture: a table, one line each.
 *
 * What is not in the table, or is there with a reason, runs whole on one node and is refused, with a reason, where a ring would have to
 * split it: never a wrong answer (DESIGN D1). Pure. Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_QUIRKS_H
#define ENGINE_QUIRKS_H

#include "engine/directory.h"

#define QUIRK_KEYS 2
#define QUIRK_COUNTS 3
struct quirk {
	const char *architecture;
	bool scaled;              /* the embedding is multiplied by sqrt(n_embd), once, before layer 0 */
	unsigned window_period;   /* of period layers the last has full attention, the others a sliding window; 0: all alike */
	bool always_window;       /* windows also where the file does not say how wide; where it says 0, layers depend on their count */
	unsigned state_period;    /* of period layers the last has attention, the others a recurrent state; 0: the file says which */
	bool past_dense;          /* each shard needs a layer behind the leading dense ones (leading_dense_block_count) */
	unsigned step;            /* what a layer does depends on its number modulo this: cuts at multiples only; 0: all alike */
	unsigned counts[QUIRK_COUNTS];        /* layer counts from which libllama takes constants: neither whole nor shard may have one */
	const char *zero_key;     /* where the file lacks this key shards say 0, and then counts do not matter */
	bool tied;                /* libllama has no output.weight here: the last shard holds the embedding under its own name */
	const char *must_say[QUIRK_KEYS];     /* keys for which libllama has a default that is wrong for a shard; NULL: no more */
	const char *entry;        /* the graph's tensor that rows from another shard replace, where something acts once on the embedding */
	bool by_id;               /* rows instead of ids are taken for pictures: ids go in, and rows replace entry in every shard */
	bool whole_blocks;        /* a row's bits depend on which rows are computed with it: blocks are neither cut nor joined */
	const char *exit;         /* the tensor that leaves the last layer, its number behind a final '-'; NULL: "l_out-" */
	const char *whole;        /* why it cannot be split at all; NULL: it can */
};

/* NULL: not known to be exact in shards, or known not to be. */
const struct quirk *quirk_find(const char *architecture);
/* The table's line i, in order of names; NULL past its end. */
const struct quirk *quirk_at(size_t i);

/* True when the model may be cut at all; otherwise why says the reason. */
bool quirk_splittable(const struct directory *directory, char *why, size_t why_size);
/* True when a shard of a splittable model may begin or end before layer c. */
bool quirk_may_cut(const struct directory *directory, uint32_t c);

/* True when the last shard keeps the embedding under its own name, since there is no other matrix to multiply by. */
bool quirk_holds_embedding(const struct directory *directory);

/* Changes whenever the table's meaning does: a ring mixes only engines with the same one (D2). */
uint32_t quirk_hash(void);

#endif
