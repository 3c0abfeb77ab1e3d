/* embedding.h: rows of the token embedding, looked up outside libllama.
 *
 * The shard that starts a model without ending it takes hidden states like every later one; the engine makes them: it reads
 * the token's row from the file, widens it to float32 with ggml's own routine (what GGML_OP_GET_ROWS does on a CPU) and
 * scales it where the architecture asks for that. No copy of the matrix is kept in memory.
 *
 * Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_EMBEDDING_H
#define ENGINE_EMBEDDING_H

#include "engine/directory.h"

/* out: (n, n_embd) float32. ERR_MALFORMED for an id outside the vocabulary, or what source_read() says. */
int embedding_rows(const struct directory *directory, const struct source *source, const int32_t *tokens, size_t n, float *out,
		   char *why, size_t why_size);

#endif
