/* embed.h: a text's embedding: what the whole model makes of its tokens, pooled into one vector of length 1.
 *
 * Pooled as the file says (attention to the last token, to the first, or the mean), by the mean where it says nothing. Computed in
 * chunks of CHUNK_ROWS in a sequence that no session has, so nobody's bits move; but whoever decodes beside it waits meanwhile.
 *
 * Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_EMBED_H
#define ENGINE_EMBED_H

#include "engine/shard.h"

/* out: n_embd floats. shard: the whole model; sequence: a free one, emptied before and after. ERR_UNSUPPORTED: a model that reads a text
 * as a whole, or ranks; ERR_CONTEXT: more tokens than a session has positions; ERR_MALFORMED: an id that is none; ERR_ENGINE, ERR_MODEL. */
int embed(struct shard *shard, unsigned sequence, const uint8_t *tokens, size_t n, float *out, char *why, size_t why_size);

#endif
