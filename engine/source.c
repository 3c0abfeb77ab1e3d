/* source.c: reading a model's files inside what was verified. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/err.h"
#include "proto/text.h"

static int extent_compare(const void *a, const void *b)
{
	const struct model_extent *x = a, *y = b;

	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return 0;
}

/* Sorts, drops what lies outside the files, and joins what touches, so that one search answers how far a read may go. */
static int extents_take(struct source *source, const struct model_extent *extents, size_t n, char *why, size_t why_size)
{
	size_t kept = 0;

	source->extents = calloc(n ? n : 1, sizeof *source->extents);
	if (!source->extents)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const struct model_extent *e = &extents[i];

		if (e->file >= source->n_files || e->offset > source->files[e->file].size ||
		    e->length > source->files[e->file].size - e->offset) {
			snprintf(why, why_size, "a verified extent lies outside file %u (changed on disk?)", e->file);
			return ERR_CHANGED;
		}
		if (e->length)
			source->extents[kept++] = *e;
	}
	if (kept)
		qsort(source->extents, kept, sizeof *source->extents, extent_compare);
	for (size_t i = 0; i < kept; i++) {
		struct model_extent *last = source->n_extents ? &source->extents[source->n_extents - 1] : NULL;
		struct model_extent *e = &source->extents[i];

		if (last && last->file == e->file && e->offset <= last->offset + last->length) {
			uint64_t end = e->offset + e->length;

			if (end > last->offset + last->length)
				last->length = end - last->offset;
			continue;
		}
		source->extents[source->n_extents++] = *e;
	}
	return 0;
}

int source_init(struct source *source, const int *fds, const char *const *names, size_t n_files,
		const struct model_extent *extents, size_t n_extents, char *why, size_t why_size)
{
	int err = 0;

	memset(source, 0, sizeof *source);
	if (n_files == 0 || n_files > MODEL_FILES_MAX) {
		snprintf(why, why_size, "a model has 1 to %d files, not %zu", MODEL_FILES_MAX, n_files);
		for (size_t i = 0; i < n_files; i++)
			close(fds[i]);
		return ERR_LIMIT;
	}
	source->n_files = n_files;
	for (size_t i = 0; i < n_files; i++)
		source->files[i].fd = fds[i];
	for (size_t i = 0; i < n_files; i++) {
		struct source_file *file = &source->files[i];
		struct stat st;

		if (names && names[i])
			text_copy(file->name, sizeof file->name, names[i]);
		if (!file->name[0])
			snprintf(file->name, sizeof file->name, "file %zu", i + 1);
		if (fstat(file->fd, &st) < 0) {
			err = -errno;
			snprintf(why, why_size, "%s: cannot be examined: %s", file->name, err_str(err));
			goto out;
		}
		if (!S_ISREG(st.st_mode)) {
			err = ERR_MODEL;
			snprintf(why, why_size, "%s: is not a regular file", file->name);
			goto out;
		}
		file->size = (uint64_t)st.st_size;
	}
	if (!extents)
		source->everything = true;
	else
		err = extents_take(source, extents, n_extents, why, why_size);
out:
	if (err)
		source_release(source);
	return err;
}

void source_release(struct source *source)
{
	for (size_t i = 0; i < source->n_files; i++)
		if (source->files[i].fd >= 0)
			close(source->files[i].fd);
	free(source->extents);
	memset(source, 0, sizeof *source);
}

uint64_t source_available(const struct source *source, uint32_t file, uint64_t offset)
{
	size_t low = 0, high = source->n_extents;

	if (file >= source->n_files || offset >= source->files[file].size)
		return 0;
	if (source->everything)
		return source->files[file].size - offset;
	while (low < high) {     /* the first extent that ends behind offset */
		size_t middle = low + (high - low) / 2;
		const struct model_extent *e = &source->extents[middle];

		if (e->file < file || (e->file == file && e->offset + e->length <= offset))
			low = middle + 1;
		else
			high = middle;
	}
	if (low == source->n_extents || source->extents[low].file != file || source->extents[low].offset > offset)
		return 0;
	return source->extents[low].offset + source->extents[low].length - offset;
}

int source_read(const struct source *source, uint32_t file, uint64_t offset, void *out, size_t n, char *why, size_t why_size)
{
	size_t done = 0;

	if (source_available(source, file, offset) < n) {
		snprintf(why, why_size, "%s: bytes %" PRIu64 " to %" PRIu64 " are not verified on this node; they must be fetched first",
			 file < source->n_files ? source->files[file].name : "?", offset, offset + n);
		return ERR_ARRIVING;
	}
	while (done < n) {
		ssize_t r = pread(source->files[file].fd, (char *)out + done, n - done, (off_t)(offset + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) {
			int err = -errno;

			snprintf(why, why_size, "%s: cannot be read: %s", source->files[file].name, err_str(err));
			return err;
		}
		if (r == 0) {
			snprintf(why, why_size, "%s: became shorter while it was in use", source->files[file].name);
			return ERR_CHANGED;
		}
		done += (size_t)r;
	}
	return 0;
}
