/* check.h: `essaim-engine --check`: one model whole and as K shards on this machine, compared.
 *
 * The same chunking on both sides (DESIGN D2): prefill in chunks that end at multiples of CHUNK_ROWS, then one row a token.
 * Every shard is an engine process of its own, forked before anything is loaded, sandboxed, and driven over a socketpair by the
 * frames that essaimd sends, with the bytes that a node with its layers holds: what is compared is what a ring computes.
 *
 * With `every` it is done anew for each legal cut alone and for all of them at once, each time with prompts of 1, 7 and 64 tokens and
 * 16 more one by one, in two sessions whose blocks alternate. The shards compute prompts in parts
 * of changing size, as they do beside answers; the whole model computes each block at once. Then the longest session is sent back, into its answer and into its prompt:
 * truncation must change nothing, or be refused with NEED_REPLAY by a shard that declared so.
 *
 * exact: every token the same and no logit further off than 1e-5 of the largest. Source: DESIGN D2. With a device, whose kernels add up
 * otherwise, the whole model is still computed by the CPU; close: no logit further off than CHECK_CLOSE of the largest, so that another
 * token was as good as tied.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_CHECK_H
#define ENGINE_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#define CHECK_STAGES_MAX 32
#define CHECK_CLOSE 0.05

struct check_options {
	const char *paths[64];         /* of one model, in order */
	size_t n_paths;
	unsigned stages;               /* 0: 2 */
	unsigned tokens;               /* to generate; 0: 64 */
	unsigned threads;              /* of each engine; 0: the processors there are */
	unsigned pairs;                /* timed runs of each side, alternating; 0: 1 */
	const char *prompt;            /* NULL: a text of its own */
	const char *gpu;               /* the shards' device; NULL: none */
	bool every;                    /* all legal cuts; stages, tokens, pairs and prompt do not matter */
	bool json;
};

/* Prints; 0 exact (with a device: close), 1 not exact, 2 could not be checked. Does not return in the children that it forks. */
int check_run(const struct check_options *options);

/* What each engine process does: back ends, sandbox, server. In main.c. */
struct server_config;
int engine_serve(struct server_config *config);

#endif
