/* extents.h: which pieces lie under the layers that are wanted, and which bytes lie under the pieces that are here.
 *
 * Pure: no files, no torrents, no clock. A layout says how the manifest's files lie in the torrent's pieces. In a hybrid
 * torrent (BEP 52) each file begins on a piece boundary and padding follows it, so that a piece belongs to one file.
 *
 * Sets of pieces are bit strings: bit i of byte i / 8, lowest first, PIECES_BYTES(n) bytes, spare bits zero.
 * Thread: any. Owner: the caller's storage. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef STORE_EXTENTS_H
#define STORE_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/record.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PIECES_MAX 7000u                 /* more cannot fit a manifest: 52 bytes of hashes a piece, RECORD_MAX */
#define PIECES_BYTES(n) (((size_t)(n) + 7) / 8)

struct layout_file {
	uint64_t size;                   /* bytes */
	uint32_t first_piece;
};
struct layout {
	uint32_t piece_length;           /* bytes; a power of two, at least 16 KiB */
	uint32_t n_pieces;
	size_t n_files;
	struct layout_file files[MODEL_FILES_MAX];       /* in the manifest's order, which need not be the torrent's */
};

static inline bool pieces_get(const uint8_t *bits, uint32_t i) { return bits[i / 8] >> (i % 8) & 1; }
static inline void pieces_set(uint8_t *bits, uint32_t i) { bits[i / 8] = (uint8_t)(bits[i / 8] | 1u << (i % 8)); }
uint32_t pieces_count(const uint8_t *bits, uint32_t n);
bool pieces_cover(const uint8_t *have, const uint8_t *want, uint32_t n);           /* every wanted piece is there */

/* The piece length for files of these sizes: about a 2,048th of the whole, a power of two from 16 KiB (the least BEP 52
 * allows) on, so that a layer of a small model is still several pieces; larger when more pieces than a manifest
 * carries would come out (3,600: 190 KiB of hashes). */
uint32_t extents_piece_length(const uint64_t *sizes, size_t n);

/* Files that overlap, lie outside the pieces, or do not begin on a boundary: ERR_MALFORMED. */
int extents_check_layout(const struct layout *layout);

/* Fills want (PIECES_BYTES(n_pieces), cleared first): pieces under the groups of the ranges. n 0: none at all.
 * first, of the same size or NULL: the headers and shared groups among them, to be fetched before the rest.
 * An extent past its file, or of an unknown one: ERR_MALFORMED; a range past the last layer: ERR_LIMIT. */
int extents_wanted(const struct layout *layout, const struct manifest_body *body, const struct layer_range *ranges,
		   size_t n, uint8_t *want, uint8_t *first);

/* Bytes of files (padding is not counted) in one piece; in the pieces of a AND b (b may be NULL: of a). */
uint64_t extents_piece_bytes(const struct layout *layout, uint32_t piece);
uint64_t extents_bytes(const struct layout *layout, const uint8_t *a, const uint8_t *b);

/* The verified bytes of the files as few, sorted extents (by file, offset; group 0, which nobody reads): heap, the
 * caller frees; NULL when there are none. More than MODEL_EXTENTS_MAX: ERR_LIMIT. */
int extents_verified(const struct layout *layout, const uint8_t *have, struct model_extent **out, size_t *n_out);

#ifdef __cplusplus
}
#endif

#endif
