/* fields.h: values that several schemas of proto share, each with one rule.
 *
 * Only for the files of proto that read and write schemas (record_*, manifest, ticket, message*). Readers set the
 * cursor's sticky error, as pack.h's do. Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_FIELDS_H
#define PROTO_FIELDS_H

#include "proto/record.h"

/* Sets a cursor's error unless it has one already. */
void field_fail(struct pack_cursor c, int err);

/* Text that ends up in a terminal or a log: UTF-8 without control characters; may be empty. */
bool field_is_plain(const char *text);
void field_get_plain(struct pack_cursor c, const char *key, char *out, size_t size);
void field_get_plain_or(struct pack_cursor c, const char *key, char *out, size_t size);       /* "" where it is not there */
/* Makes any bytes plain: what is not becomes '?', what does not fit is cut between characters. */
void field_make_plain(char *out, size_t size, const char *text);

/* A base name that can be made in a folder without surprises: 1 to 255 bytes, plain, no '/', no '.' in front. */
bool field_is_file_name(const char *text);

uint64_t field_get_range(struct pack_cursor c, const char *key, uint64_t min, uint64_t max);  /* below min: ERR_MALFORMED */
/* An error's number: INT32_MIN .. max, where max is -1, or 0 when there may be no error. */
int field_get_code(struct pack_cursor c, const char *key, int max);

/* Layer ranges as [first, end, first, end, ...]: each first < end <= n_layer. */
bool field_is_range(const struct layer_range *range, uint32_t n_layer);
void field_get_layers(struct pack_cursor c, const char *key, struct layer_range *out, size_t max, size_t *n, uint32_t n_layer);
void field_at_layers(struct pack_cursor c, size_t i, struct layer_range *out, size_t max, size_t *n, uint32_t n_layer);
void field_put_layers(struct pack_writer *w, const struct layer_range *ranges, size_t n);

#endif
