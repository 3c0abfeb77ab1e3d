/* embed.c: see embed.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/embed.h"

#include <llama.h>
#include <math.h>
#include <string.h>

#include "proto/err.h"

static int check(const struct directory *d, const struct shard *shard, size_t n, enum llama_pooling_type *pooling, char *why, size_t why_size)
{
	const struct directory_key *causal = directory_find_own(d, "attention.causal");
	uint64_t type = LLAMA_POOLING_TYPE_MEAN, is_causal = 1;

	directory_uint(d, directory_find_own(d, "pooling_type"), &type);
	if (causal)
		directory_uint(d, causal, &is_causal);
	*pooling = type == LLAMA_POOLING_TYPE_NONE ? LLAMA_POOLING_TYPE_MEAN : (enum llama_pooling_type)type;
	if (*pooling != LLAMA_POOLING_TYPE_MEAN && *pooling != LLAMA_POOLING_TYPE_CLS && *pooling != LLAMA_POOLING_TYPE_LAST) {
		snprintf(why, why_size, "the model does not embed texts (its pooling type is %u)", (unsigned)type);
		return ERR_UNSUPPORTED;
	}
	if (!is_causal) {
		snprintf(why, why_size, "the model reads a text as a whole; Essaim computes it from its beginning on, and cannot embed with it");
		return ERR_UNSUPPORTED;
	}
	if (n == 0) {
		snprintf(why, why_size, "there is nothing to embed");
		return ERR_MALFORMED;
	}
	if (n > shard_context(shard)) {
		snprintf(why, why_size, "the text has %zu tokens; with this node's context at most %u fit", n, shard_context(shard));
		return ERR_CONTEXT;
	}
	return 0;
}

/* One chunk's rows into the sum, or the one row that counts. */
static int pool(struct shard *shard, unsigned sequence, const uint8_t *tokens, size_t at, size_t count, enum llama_pooling_type pooling, float *out,
		char *why, size_t why_size)
{
	uint32_t n_embd = shard_directory(shard)->n_embd;
	int32_t ids[CHUNK_ROWS];
	struct shard_rows in = { .sequence = sequence, .position = (uint32_t)at, .count = (uint32_t)count, .want = (uint32_t)count, .tokens = ids };
	const float *rows;
	int err;

	for (size_t i = 0; i < count; i++)
		ids[i] = (int32_t)get_u32(tokens + 4 * (at + i));
	err = shard_add(shard, &in, why, why_size);
	if (!err)
		err = shard_compute(shard, 0, why, why_size);
	if (err)
		return err;
	rows = shard_output(shard, 0, (uint32_t)count);
	if (!rows) {
		snprintf(why, why_size, "the model computed values that are not finite");
		return ERR_MODEL;
	}
	for (size_t i = 0; i < count; i++)
		for (uint32_t k = 0; k < n_embd && (pooling != LLAMA_POOLING_TYPE_CLS || at + i == 0); k++)
			out[k] = pooling == LLAMA_POOLING_TYPE_MEAN ? out[k] + rows[i * n_embd + k] : rows[i * n_embd + k];
	return 0;
}

int embed(struct shard *shard, unsigned sequence, const uint8_t *tokens, size_t n, float *out, char *why, size_t why_size)
{
	const struct directory *d = shard_directory(shard);
	enum llama_pooling_type pooling;
	double length = 0;
	int err;

	err = check(d, shard, n, &pooling, why, why_size);
	for (size_t i = 0; i < n && !err; i++)
		if (get_u32(tokens + 4 * i) >= d->n_vocab) {
			snprintf(why, why_size, "a token id is outside the vocabulary of %u", d->n_vocab);
			err = ERR_MALFORMED;
		}
	if (err)
		return err;
	memset(out, 0, d->n_embd * sizeof *out);
	shard_clear(shard, sequence);
	shard_end_at_norm(shard, true);
	for (size_t at = 0; at < n && !err; at += CHUNK_ROWS)
		err = pool(shard, sequence, tokens, at, n - at < CHUNK_ROWS ? n - at : CHUNK_ROWS, pooling, out, why, why_size);
	shard_end_at_norm(shard, false);
	shard_clear(shard, sequence);
	for (uint32_t k = 0; k < d->n_embd && !err; k++)
		length += (double)out[k] * (double)out[k];
	if (!err && (!isfinite(length) || length == 0)) {
		snprintf(why, why_size, "the model computed values that are not finite, or nothing but zeros");
		err = ERR_MODEL;
	}
	for (uint32_t k = 0; k < d->n_embd && !err; k++)
		out[k] = (float)((double)out[k] / sqrt(length));
	return err;
}
