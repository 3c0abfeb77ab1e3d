/* render.h: text to tokens and back, by the model's own vocabulary and chat template.
 *
 * Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_RENDER_H
#define ENGINE_RENDER_H

#include "engine/directory.h"
#include "proto/message.h"

struct llama_model;
struct llama_vocab;

/* A model that has a vocabulary and nothing else, for an engine whose shards have none. llama_model_free() it. */
int render_load_vocabulary(struct llama_model **out, const struct source *source, const struct directory *directory, char *why,
			   size_t why_size);

/* Appends int32 little-endian token ids. ERR_UNSUPPORTED: no vocabulary, no chat template, or one that libllama cannot apply.
 * No message ever repeats what was said (D18). */
int render_tokens(const struct llama_model *model, const struct engine_render *render, struct buf *out, char *why, size_t why_size);

/* Appends each token's text (control tokens too): u16 length, bytes. ERR_MALFORMED: an id that the vocabulary does not have. */
int render_pieces(const struct llama_model *model, const uint8_t *tokens, size_t n, struct buf *out, char *why, size_t why_size);

/* A token's bytes into out (PIECE_MAX): how many, or ERR_LIMIT. Control tokens have none. *end: generation is over. */
int render_piece(const struct llama_vocab *vocab, int32_t token, uint8_t *out, bool *end);

#endif
