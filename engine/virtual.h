/* virtual.h: a shard as a GGUF file that does not exist (DESIGN D1).
 *
 * A header made in memory (block_count of the range, "blk.a" renamed "blk.0", per-layer arrays cut) is followed by tensor
 * bytes that are read on demand from the model's own files. libllama loads it through a stdio stream and streams
 * each tensor once; the whole file is never in memory.
 *
 *   kind      for                        vocabulary       embedding               output norm and matrix
 *   WHOLE     [0, n)                     real             real                    real
 *   END       [a, n), a > 0              real             zeros of a small type   real; the embedding when tied
 *   INNER     [a, b), b < n              none (32 rows)   zeros, 32 rows          zeros, 32 rows
 *   TEXT      tokens and templates only  real             no tensors at all
 *
 * What acts once on the embedding (position embeddings, a scale) does nothing in shards that do not start the model, and counts from
 * layer 0 (leading dense layers) are moved along. Where libllama knows no output matrix but the embedding, END keeps that under its name.
 *
 * A shard that starts the model without ending it is an INNER one: the engine itself looks up the embedding's rows
 * (embedding.h), so no copy of the matrix is held.
 *
 * Owner: the caller's storage; source and directory must outlive it. Thread: one.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_VIRTUAL_H
#define ENGINE_VIRTUAL_H

#include <stdio.h>

#include "engine/directory.h"

#define VIRTUAL_VOCAB 32          /* rows of a vocabulary that nobody reads */
#define VIRTUAL_ALIGNMENT 32

enum virtual_kind { VIRTUAL_WHOLE, VIRTUAL_END, VIRTUAL_INNER, VIRTUAL_TEXT };
enum virtual_kind virtual_kind_of(const struct directory *directory, struct layer_range range);

#define VIRTUAL_ZEROS UINT32_MAX
struct virtual_extent {
	uint64_t at, length;      /* in the virtual file */
	uint32_t file;            /* of the source, or VIRTUAL_ZEROS */
	uint64_t offset;          /* in that file */
};
struct virtual_file {
	const struct source *source;
	struct buf header;
	struct virtual_extent *extents;   /* heap; in order of at, one a tensor */
	size_t n_extents;
	uint64_t size, position;
	uint64_t tensor_bytes;            /* of which are not zeros */
	int err;                          /* the first failed read: libllama only says "read error" */
	char why[400];
};

/* Also when it fails the file may be released. */
int virtual_init(struct virtual_file *file, const struct source *source, const struct directory *directory,
		 struct layer_range range, enum virtual_kind kind, char *why, size_t why_size);
void virtual_release(struct virtual_file *file);

/* At most n bytes at `at`: how many, 0 at the end, or an error (kept in file->err too). */
ssize_t virtual_read(struct virtual_file *file, void *out, size_t n, uint64_t at);
/* A stream over it, to be closed before the file is released. NULL without memory. */
FILE *virtual_open(struct virtual_file *file);

#endif
