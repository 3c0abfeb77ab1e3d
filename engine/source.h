/* source.h: the files of one model, as the engine was handed them: descriptors and verified extents.
 *
 * The files may be sparse: the store fetches only the pieces under the layers that this node runs. A read
 * that leaves what was verified is an error, never the zeros of a hole (DESIGN D3). Only pread(2) is used, so a
 * file that shrinks while it is read gives an error and not a SIGBUS.
 *
 * Owner: the caller's storage; the descriptors belong to the source. Thread: one.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_SOURCE_H
#define ENGINE_SOURCE_H

#include "proto/record.h"

struct source_file {
	int fd;
	uint64_t size;
	char name[256];                /* base name, for messages */
};
struct source {
	size_t n_files;
	struct source_file files[MODEL_FILES_MAX];
	bool everything;               /* the publisher's own files: no extents needed */
	struct model_extent *extents;  /* heap; sorted by file and offset, touching ones joined */
	size_t n_extents;
};

/* Takes the descriptors also when it fails. extents NULL: every byte counts as verified (inspection of the
 * publisher's own file). Descriptors must be regular files. why: a sentence for people. */
int source_init(struct source *source, const int *fds, const char *const *names, size_t n_files,
		const struct model_extent *extents, size_t n_extents, char *why, size_t why_size);
void source_release(struct source *source);

/* Verified bytes that follow offset without a gap, inside the file. */
uint64_t source_available(const struct source *source, uint32_t file, uint64_t offset);

/* Exactly n bytes, or ERR_ARRIVING (not verified), ERR_CHANGED (the file became shorter) or -EIO and the like. */
int source_read(const struct source *source, uint32_t file, uint64_t offset, void *out, size_t n, char *why, size_t why_size);

#endif
