/* tiny_model.h: small GGUF models with random weights, made in memory, so that engine tests need no file.
 *
 * Deterministic: the same options give the same bytes. The vocabulary is a sentencepiece one of bytes and a few words.
 * Vocabulary 288, width 64, 4 heads of 16, 2 of them for keys and values.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/buf.h"

#define TINY_VOCAB 288
#define TINY_EMBD 64
#define TINY_CONTEXT 512

struct tiny_model {
	const char *architecture;       /* llama, qwen2, qwen3, gemma3, mamba (F32); others get llama's tensors */
	uint32_t n_layer;
	uint32_t type;                  /* enum ggml_type of matrices */
	bool tied;
	bool chat;                      /* with a chat template */
	bool kv_heads_array;            /* attention.head_count_kv as an array, one a layer */
	unsigned attention_every;       /* in that array: of so many layers the first alone has heads; 0: all have */
	uint32_t window;                /* gemma3: attention.sliding_window */
	uint32_t seed;
	bool once;                      /* with what acts once or counts from layer 0: leading_dense_block_count 3, embedding_scale 12 and
					 * position_embd.weight; with rope.dimension_sections too */
	unsigned part, parts;           /* of a split model: part 0 .. parts - 1; parts 0: one file */
};

void tiny_model_write(const struct tiny_model *model, struct buf *out);
/* The same in an anonymous file. */
int tiny_model_open(const struct tiny_model *model);
int tiny_file(const void *bytes, size_t n);

#endif
