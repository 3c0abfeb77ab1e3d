/* pack.h: msgpack, written and read with limits.
 *
 * msgpack-c reserves memory for whatever count a header claims ("dd 10 00 00 00" asks for gigabytes), so
 * nothing reaches it before pack_validate(), a walk that allocates nothing and checks that every count is
 * covered by the bytes that remain. Maps have string keys; unknown keys are ignored (room for later
 * versions), a key twice is ERR_MALFORMED.
 *
 * Reading is a cursor with a sticky error: read everything, test once. After an error every getter returns
 * zero and leaves outputs zeroed.
 *
 * Source: the msgpack specification (github.com/msgpack/msgpack, spec.md). Thread: one at a time.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_PACK_H
#define PROTO_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"

struct pack_limits {
	size_t bytes;      /* whole encoding */
	unsigned depth;    /* nested maps and arrays */
	unsigned nodes;    /* values in all, keys included */
};
extern const struct pack_limits pack_limits_head;    /* frames' heads: 64 KiB, depth 6, 4,096 nodes */
extern const struct pack_limits pack_limits_record;  /* record payloads: 256 KiB, depth 8, 65,536 nodes */

#define PACK_DEPTH_MAX 16    /* whatever the limits say: msgpack-c's own stack has 32 */
#define PACK_KEYS_MAX 256    /* keys of the maps that are open at one point of the walk, in all */

/* Exactly one value and nothing behind it: 0, ERR_LIMIT or ERR_MALFORMED. Never allocates or recurses.
 * Extension types are let through, for later versions; no getter returns one. */
int pack_validate(const uint8_t *bytes, size_t n, const struct pack_limits *limits);

/* --- writing: straight into a buffer; err is sticky --- */

struct pack_writer {
	struct buf *out;
	int err;
};
void pack_writer_init(struct pack_writer *w, struct buf *out);
void pack_map(struct pack_writer *w, size_t n);
void pack_array(struct pack_writer *w, size_t n);
void pack_nil(struct pack_writer *w);
void pack_bool(struct pack_writer *w, bool v);
void pack_uint(struct pack_writer *w, uint64_t v);
void pack_int(struct pack_writer *w, int64_t v);
void pack_double(struct pack_writer *w, double v);
void pack_str(struct pack_writer *w, const char *text);
void pack_strn(struct pack_writer *w, const char *text, size_t n);
void pack_bin(struct pack_writer *w, const void *bytes, size_t n);
/* key and value in one call */
void pack_kv_bool(struct pack_writer *w, const char *key, bool v);
void pack_kv_uint(struct pack_writer *w, const char *key, uint64_t v);
void pack_kv_int(struct pack_writer *w, const char *key, int64_t v);
void pack_kv_double(struct pack_writer *w, const char *key, double v);
void pack_kv_str(struct pack_writer *w, const char *key, const char *text);
void pack_kv_bin(struct pack_writer *w, const char *key, const void *bytes, size_t n);

/* --- reading --- */

struct pack_doc {          /* one parsed value; the bytes must outlive it */
	void *zone;            /* msgpack-c's memory */
	void *root;            /* msgpack_object */
};
struct pack_cursor {       /* a map or an array inside a doc; copy freely */
	const void *object;
	int *err;              /* shared with the cursor it came from */
};

/* Validates, then parses. On failure doc needs no release. */
int pack_parse(struct pack_doc *doc, const uint8_t *bytes, size_t n, const struct pack_limits *limits);
void pack_release(struct pack_doc *doc);
struct pack_cursor pack_root(const struct pack_doc *doc, int *err /* set to 0 */);

size_t pack_count(struct pack_cursor c);                          /* elements or pairs */
bool pack_is_map(struct pack_cursor c);
bool pack_is_array(struct pack_cursor c);

/* By key in a map. A missing key is ERR_MALFORMED except for the _or forms. */
bool pack_has(struct pack_cursor c, const char *key);
uint64_t pack_get_uint(struct pack_cursor c, const char *key, uint64_t max);      /* above max: ERR_LIMIT */
uint64_t pack_get_uint_or(struct pack_cursor c, const char *key, uint64_t max, uint64_t otherwise);
int64_t pack_get_int(struct pack_cursor c, const char *key);
bool pack_get_bool_or(struct pack_cursor c, const char *key, bool otherwise);
double pack_get_double_or(struct pack_cursor c, const char *key, double otherwise); /* finite, or ERR_MALFORMED */
void pack_get_str(struct pack_cursor c, const char *key, char *out, size_t size);   /* UTF-8, no NUL; too long: ERR_LIMIT */
void pack_get_str_or(struct pack_cursor c, const char *key, char *out, size_t size, const char *otherwise);
void pack_get_exact(struct pack_cursor c, const char *key, void *out, size_t n);    /* bin of exactly n bytes */
const uint8_t *pack_borrow_bin(struct pack_cursor c, const char *key, size_t max, size_t *n);  /* points into the bytes, unless it is empty */
const char *pack_borrow_str(struct pack_cursor c, const char *key, size_t max, size_t *n);     /* UTF-8, not NUL-ended */
struct pack_cursor pack_get(struct pack_cursor c, const char *key);                 /* a map or array below */

/* By index in an array; the same rules. */
struct pack_cursor pack_at(struct pack_cursor c, size_t i);
uint64_t pack_at_uint(struct pack_cursor c, size_t i, uint64_t max);
int64_t pack_at_int(struct pack_cursor c, size_t i);
double pack_at_double(struct pack_cursor c, size_t i);
void pack_at_exact(struct pack_cursor c, size_t i, void *out, size_t n);
void pack_at_str(struct pack_cursor c, size_t i, char *out, size_t size);
const uint8_t *pack_at_borrow_bin(struct pack_cursor c, size_t i, size_t max, size_t *n);

#endif
