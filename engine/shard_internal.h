/* shard_internal.h: what shard_load.c makes, shard.c computes with and shard_trial.c tries. Only these three include it.
 *
 * Owner and thread: as in shard.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_SHARD_INTERNAL_H
#define ENGINE_SHARD_INTERNAL_H

#include <llama.h>

#include "engine/shard.h"

#define POSITION_AXES 4      /* M-RoPE: time, height, width and one more, axis by axis; one axis otherwise */

/* What leaves a graph, and what is written into it. */
struct capture {
	char exit[32];           /* the tensor that leaves the shard; empty: none does */
	float *rows;             /* (SHARD_ROWS_MAX, n_embd) */
	const char *entry;       /* the tensor that is replaced by what came from the shard before; NULL: none is */
	const float *in;         /* by this, (SHARD_ROWS_MAX, n_embd) */
	size_t bytes;            /* of either, expected this time; 0: not armed */
	unsigned left, entered;  /* how often each was seen */
	bool odd;                /* one came with another size */
};

struct shard {
	const struct source *source;
	const struct directory *directory;
	struct layer_range range;
	enum virtual_kind kind;
	struct llama_model *model;
	struct llama_context *context;
	struct memory_use memory;
	struct capture capture;
	bool norm;               /* computes end at the last norm */
	bool tried;              /* it has computed its trial rows */
	uint32_t device_layers;  /* as in the configuration */
	uint32_t context_positions, layer_microseconds, joins;
	uint64_t output_bytes, layer_bytes;
	uint32_t sessions;
	bool doubtful[SHARD_SESSIONS_MAX];   /* its memory may hold what is not finite: computed, and no output of it looked at since */

	/* the batch, row by row */
	uint32_t n_rows;
	llama_token tokens[SHARD_ROWS_MAX];
	float *rows;             /* (SHARD_ROWS_MAX, n_embd) */
	llama_pos positions[SHARD_ROWS_MAX * POSITION_AXES];
	int32_t n_sequences[SHARD_ROWS_MAX];
	llama_seq_id sequence[SHARD_ROWS_MAX];
	llama_seq_id *sequences[SHARD_ROWS_MAX];
	int8_t outputs[SHARD_ROWS_MAX];
};

/* Of a llama_context whose graphs are watched; arg: its capture. */
bool shard_on_eval(struct ggml_tensor *t, bool ask, void *arg);
/* Measures a layer, and how many rows may share a batch: shard_layer_microseconds(), shard_joins(). */
int shard_try_rows(struct shard *shard, char *why, size_t why_size);

#endif
