/* extents.c: see extents.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/store/extents.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_LENGTH_MIN (16u << 10)
#define PIECE_LENGTH_EASY (16u << 20)    /* up to here a model has at most about PIECES_GOAL pieces */
#define PIECE_LENGTH_MAX (256u << 20)
#define PIECES_GOAL 2048
#define PIECES_LIMIT 3600

uint32_t pieces_count(const uint8_t *bits, uint32_t n)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < n; i++)
		count += pieces_get(bits, i);
	return count;
}

bool pieces_cover(const uint8_t *have, const uint8_t *want, uint32_t n)
{
	for (size_t i = 0; i < PIECES_BYTES(n); i++) {
		if (want[i] & ~have[i])
			return false;
	}
	return true;
}

static uint64_t pieces_of(uint64_t size, uint32_t piece_length)
{
	return size / piece_length + (size % piece_length != 0);
}

uint32_t extents_piece_length(const uint64_t *sizes, size_t n)
{
	uint32_t length = PIECE_LENGTH_MIN;

	for (; length < PIECE_LENGTH_MAX; length *= 2) {
		uint64_t pieces = 0;

		for (size_t i = 0; i < n; i++)
			pieces += pieces_of(sizes[i], length);
		if (pieces <= (length < PIECE_LENGTH_EASY ? PIECES_GOAL : PIECES_LIMIT))
			break;
	}
	return length;
}

int extents_check_layout(const struct layout *layout)
{
	if (layout->piece_length < PIECE_LENGTH_MIN || (layout->piece_length & (layout->piece_length - 1)))
		return ERR_MALFORMED;
	if (layout->n_pieces == 0 || layout->n_pieces > PIECES_MAX)
		return ERR_MALFORMED;
	if (layout->n_files == 0 || layout->n_files > MODEL_FILES_MAX)
		return ERR_MALFORMED;
	for (size_t i = 0; i < layout->n_files; i++) {
		const struct layout_file *a = &layout->files[i];
		uint64_t a_end = a->first_piece + pieces_of(a->size, layout->piece_length);

		if (a->size == 0 || a->size > (uint64_t)layout->piece_length * layout->n_pieces || a_end > layout->n_pieces)
			return ERR_MALFORMED;
		for (size_t j = 0; j < i; j++) {
			const struct layout_file *b = &layout->files[j];
			uint64_t b_end = b->first_piece + pieces_of(b->size, layout->piece_length);

			if (a->first_piece < b_end && b->first_piece < a_end)
				return ERR_MALFORMED;
		}
	}
	return 0;
}

int extents_wanted(const struct layout *layout, const struct manifest_body *body, const struct layer_range *ranges,
		   size_t n, uint8_t *want, uint8_t *first)
{
	memset(want, 0, PIECES_BYTES(layout->n_pieces));
	if (first)
		memset(first, 0, PIECES_BYTES(layout->n_pieces));
	if (n > RANGES_MAX)
		return ERR_LIMIT;
	for (size_t i = 0; i < n; i++) {
		if (ranges[i].first >= ranges[i].end || ranges[i].end > body->n_layer)
			return ERR_LIMIT;
	}
	for (size_t i = 0; i < body->n_extents; i++) {
		const struct model_extent *e = &body->extents[i];
		const struct layout_file *file;

		if (e->file >= layout->n_files)
			return ERR_MALFORMED;
		file = &layout->files[e->file];
		if (e->offset > file->size || e->length > file->size - e->offset)
			return ERR_MALFORMED;
		if (n == 0 || e->length == 0 || !manifest_group_in(body, e->group, ranges, n))
			continue;

		uint32_t from = file->first_piece + (uint32_t)(e->offset / layout->piece_length);
		uint32_t to = file->first_piece + (uint32_t)((e->offset + e->length - 1) / layout->piece_length);
		bool soon = e->group == GROUP_HEADER || e->group == GROUP_SHARED;

		for (uint32_t piece = from; piece <= to; piece++) {
			pieces_set(want, piece);
			if (first && soon)
				pieces_set(first, piece);
		}
	}
	return 0;
}

/* The file that a piece is of, and where in it the piece begins. NULL: of none (padding alone). */
static const struct layout_file *file_of(const struct layout *layout, uint32_t piece, uint64_t *offset)
{
	for (size_t i = 0; i < layout->n_files; i++) {
		const struct layout_file *file = &layout->files[i];

		if (piece < file->first_piece || piece - file->first_piece >= pieces_of(file->size, layout->piece_length))
			continue;
		*offset = (uint64_t)(piece - file->first_piece) * layout->piece_length;
		return file;
	}
	return NULL;
}

uint64_t extents_piece_bytes(const struct layout *layout, uint32_t piece)
{
	uint64_t offset;
	const struct layout_file *file = file_of(layout, piece, &offset);

	if (!file)
		return 0;
	return file->size - offset < layout->piece_length ? file->size - offset : layout->piece_length;
}

uint64_t extents_bytes(const struct layout *layout, const uint8_t *a, const uint8_t *b)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < layout->n_pieces; i++) {
		if (pieces_get(a, i) && (!b || pieces_get(b, i)))
			bytes += extents_piece_bytes(layout, i);
	}
	return bytes;
}

int extents_verified(const struct layout *layout, const uint8_t *have, struct model_extent **out, size_t *n_out)
{
	struct model_extent *extents;
	size_t n = 0;

	*out = NULL;
	*n_out = 0;
	if (pieces_count(have, layout->n_pieces) == 0)
		return 0;
	/* A gap lies between two extents of a file, so that there are at most half as many as pieces. */
	extents = calloc(layout->n_pieces / 2 + layout->n_files + 1, sizeof *extents);
	if (!extents)
		return -ENOMEM;
	for (size_t i = 0; i < layout->n_files; i++) {
		const struct layout_file *file = &layout->files[i];
		uint32_t pieces = (uint32_t)pieces_of(file->size, layout->piece_length);
		struct model_extent *open = NULL;

		for (uint32_t k = 0; k < pieces; k++) {
			uint64_t offset = (uint64_t)k * layout->piece_length;
			uint64_t left = file->size - offset;

			if (!pieces_get(have, file->first_piece + k)) {
				open = NULL;
				continue;
			}
			if (!open) {
				open = &extents[n++];
				open->file = (uint32_t)i;
				open->offset = offset;
			}
			open->length += left < layout->piece_length ? left : layout->piece_length;
		}
	}
	if (n > MODEL_EXTENTS_MAX) {
		free(extents);
		return ERR_LIMIT;
	}
	if (n == 0) {
		free(extents);
		return 0;
	}
	*out = extents;
	*n_out = n;
	return 0;
}
