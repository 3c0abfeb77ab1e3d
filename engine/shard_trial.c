/* shard_trial.c: some rows of no meaning, when a shard is loaded. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/shard_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quirks.h"
#include "proto/err.h"

#define TRIAL_ROWS 8         /* decodes of one row at load, to measure a layer; the fastest counts */
#define QUANT_BLOCK_MAX 256  /* numbers */
#define FEW_ROWS 3           /* repacked weights have kernels for four rows and for one */

static uint32_t microseconds_now(void)
{
	return (uint32_t)ggml_time_us();
}

/* Some number in [-1, 1), without a pattern: sums of what lies on a grid are exact in any order, and hide what the order does. */
static float some_number(uint32_t position, size_t column)
{
	uint32_t x = (position * 40503u + (uint32_t)column) * 2654435761u;      /* multiplicative hashing (Knuth) */

	x = (x ^ x >> 15) * 2246822519u;
	return (float)((int32_t)(x ^ x >> 13) / 2147483648.0);
}

/* Rows [from, from + n) of something into the batch; the last one is wanted. */
static int add_trial(struct shard *shard, uint32_t from, uint32_t n, char *why, size_t why_size)
{
	size_t n_embd = shard->directory->n_embd;
	int32_t tokens[SHARD_ROWS_MAX];
	struct shard_rows in = { .position = from, .count = n, .want = 1 };
	float *rows = calloc(n * n_embd, sizeof *rows);
	int err;

	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)((from + i) * 7 % shard->directory->n_vocab);
	for (size_t k = 0; rows && k < n * n_embd; k++)
		rows[k] = some_number(from + (uint32_t)(k / n_embd), k % n_embd);
	if (shard->range.first == 0)
		in.tokens = tokens;
	else
		in.rows = rows;
	err = rows ? shard_add(shard, &in, why, why_size) : -ENOMEM;
	free(rows);
	return err;
}

/* What the batch makes of its row: *out lasts until the next batch. */
static int compute_trial(struct shard *shard, uint32_t row, const float **out, char *why, size_t why_size)
{
	int err = shard_compute(shard, 0, why, why_size);

	if (err)
		return err;
	*out = shard_ends(shard) ? shard_logits(shard, row) : shard_output(shard, row, 1);
	if (*out)
		return 0;
	snprintf(why, why_size, "the model computed values that are not finite");
	return ERR_MODEL;
}

/* Kernels for the quantisations of 256 numbers a block (K-quants, IQ4_XS) round activations in fours otherwise than alone, now and then by one
 * step, so that a few rows need not show it. AMX has one way for all. */
static bool rounds_in_fours(const struct shard *shard)
{
	const struct directory *d = shard->directory;

#if defined(__x86_64__)
	if (__builtin_cpu_supports("amx-int8"))
		return false;
#endif
	for (size_t i = 0; i < d->n_tensors; i++)
		if (ggml_blck_size(d->tensors[i].type) == QUANT_BLOCK_MAX)
			return true;
	return false;
}

/* A few rows through the shard, so that adverts can say how fast it is; also proves that the capture works at all. A row reads every
 * weight once, so the output matrix's share of the time is taken to be its share of the bytes.
 *
 * Then the same rows at once, and among many: kernels differ by CPU and quantisation, and some add up in another order for four rows
 * than for one. How many rows may share a batch is what this shows (shard_joins()). */
int shard_try_rows(struct shard *shard, char *why, size_t why_size)
{
	size_t width = shard_ends(shard) ? shard->directory->n_vocab : shard->directory->n_embd;
	uint32_t n_layer = shard->range.end - shard->range.first, best = UINT32_MAX, n = TRIAL_ROWS, have;
	const uint32_t most = shard->context_positions < SHARD_ROWS_MAX ? shard->context_positions : SHARD_ROWS_MAX;
	const uint32_t ends[] = { FEW_ROWS, TRIAL_ROWS }, counts[] = { FEW_ROWS, most };
	float *alone[] = { calloc(width, sizeof(float)), calloc(width, sizeof(float)) };
	const struct quirk *quirk = quirk_find(shard->directory->architecture);
	const bool joins = shard_can_truncate(shard) == TRUNCATE_ANY && !(quirk && quirk->whole_blocks);
	const float *out;
	int err = alone[0] && alone[1] ? 0 : -ENOMEM;

	shard->joins = 1;
	if (n > shard->context_positions)
		n = shard->context_positions;
	for (uint32_t i = 0; i < n && !err; i++) {
		uint32_t begin = microseconds_now(), took;

		err = shard_truncate(shard, 0, i, &have);
		if (!err)
			err = add_trial(shard, i, 1, why, why_size);
		if (!err)
			err = compute_trial(shard, 0, &out, why, why_size);
		took = microseconds_now() - begin;
		if (took < best)
			best = took;
		for (size_t k = 0; k < 2 && !err; k++)
			if (i + 1 == ends[k])
				memcpy(alone[k], out, width * sizeof *out);
	}
	if (!err) {
		double share = (double)shard->layer_bytes / (double)(shard->layer_bytes + shard->output_bytes);

		shard->layer_microseconds = (uint32_t)(best * share / n_layer + 0.999);
	}
	for (size_t k = 0; k < 2 && !err && n == TRIAL_ROWS && joins; k++) {
		shard_clear(shard, 0);
		err = add_trial(shard, 0, ends[k], why, why_size);
		if (!err && counts[k] > ends[k])
			err = add_trial(shard, ends[k], counts[k] - ends[k], why, why_size);
		if (!err)
			err = compute_trial(shard, ends[k] - 1, &out, why, why_size);
		if (!err && memcmp(out, alone[k], width * sizeof *out))
			break;
		shard->joins = k && !rounds_in_fours(shard) ? SHARD_ROWS_MAX : FEW_ROWS;
	}
	shard_clear(shard, 0);
	/* A device takes memory and compiles for a block when it sees the first: now, where a lack of memory is a refusal. */
	if (!err && shard->device_layers) {
		err = add_trial(shard, 0, most < CHUNK_ROWS ? most : CHUNK_ROWS, why, why_size);
		if (!err)
			err = compute_trial(shard, (most < CHUNK_ROWS ? most : CHUNK_ROWS) - 1, &out, why, why_size);
		shard_clear(shard, 0);
	}
	free(alone[0]);
	free(alone[1]);
	return err;
}
