/* pack.c: the validator in front of msgpack-c, a writer, and a cursor over what was parsed.
 *
 * Source: the msgpack specification (github.com/msgpack/msgpack, spec.md).
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/pack.h"

#include <errno.h>
#include <math.h>
#include <msgpack.h>
#include <string.h>

#include "proto/err.h"
#include "proto/text.h"

const struct pack_limits pack_limits_head = { .bytes = 64u << 10, .depth = 6, .nodes = 4096 };
const struct pack_limits pack_limits_record = { .bytes = 256u << 10, .depth = 8, .nodes = 65536 };

/* --- validating -----------------------------------------------------------------------------------------
 *
 * One pass, front to back: a count is believed only as far as values really follow, and one that the remaining
 * bytes cannot cover, at one byte a value, is refused at its own header. What passes is exactly as large as it
 * says, so that msgpack-c, which reserves by counts, reserves no more than the limits allow.
 *
 * The keys of the maps that are open at one time lie on one small stack of (hash, offset), so that a key
 * twice is found without memory; its size is what bounds the work an unkind peer can ask for. */

struct key {
	uint32_t hash;
	uint32_t length;
	size_t offset;
};
struct level {
	size_t left;      /* values not seen yet; a pair is two */
	bool is_map;
	unsigned first;   /* keys[first ..] are this map's */
};
struct walk {
	const uint8_t *bytes;
	size_t n, at;
	unsigned depth, n_keys;
	struct level levels[PACK_DEPTH_MAX];
	struct key keys[PACK_KEYS_MAX];
};

/* What one header byte announces. */
enum shape { SHAPE_SCALAR, SHAPE_STR, SHAPE_BYTES, SHAPE_ARRAY, SHAPE_MAP };
struct header {
	enum shape shape;
	unsigned field;   /* bytes of a big-endian length or count behind the first byte */
	size_t extra;     /* fixed bytes behind that: a number's, or an ext's type */
	size_t count;     /* when field is 0: length or count */
};

/* c0 .. df, in the order of the specification's table. */
static const struct {
	uint8_t shape, field, extra;
} headers[32] = {
	{ SHAPE_SCALAR, 0, 0 },                                                     /* c0 nil */
	{ 0, 0, 0 },                                                                /* c1 never used, refused */
	{ SHAPE_SCALAR, 0, 0 }, { SHAPE_SCALAR, 0, 0 },                             /* c2 c3 bool */
	{ SHAPE_BYTES, 1, 0 },  { SHAPE_BYTES, 2, 0 },  { SHAPE_BYTES, 4, 0 },      /* c4 .. c6 bin */
	{ SHAPE_BYTES, 1, 1 },  { SHAPE_BYTES, 2, 1 },  { SHAPE_BYTES, 4, 1 },      /* c7 .. c9 ext */
	{ SHAPE_SCALAR, 0, 4 }, { SHAPE_SCALAR, 0, 8 },                             /* ca cb float */
	{ SHAPE_SCALAR, 0, 1 }, { SHAPE_SCALAR, 0, 2 }, { SHAPE_SCALAR, 0, 4 }, { SHAPE_SCALAR, 0, 8 }, /* cc .. cf uint */
	{ SHAPE_SCALAR, 0, 1 }, { SHAPE_SCALAR, 0, 2 }, { SHAPE_SCALAR, 0, 4 }, { SHAPE_SCALAR, 0, 8 }, /* d0 .. d3 int */
	{ SHAPE_SCALAR, 0, 2 }, { SHAPE_SCALAR, 0, 3 }, { SHAPE_SCALAR, 0, 5 }, { SHAPE_SCALAR, 0, 9 }, /* d4 .. d7 fixext */
	{ SHAPE_SCALAR, 0, 17 },                                                    /* d8 fixext 16 */
	{ SHAPE_STR, 1, 0 },    { SHAPE_STR, 2, 0 },    { SHAPE_STR, 4, 0 },        /* d9 .. db str */
	{ SHAPE_ARRAY, 2, 0 },  { SHAPE_ARRAY, 4, 0 },                              /* dc dd array */
	{ SHAPE_MAP, 2, 0 },    { SHAPE_MAP, 4, 0 },                                /* de df map */
};

static struct header header_of(uint8_t byte)
{
	if (byte <= 0x7f || byte >= 0xe0)
		return (struct header){ .shape = SHAPE_SCALAR };
	if (byte <= 0x8f)
		return (struct header){ .shape = SHAPE_MAP, .count = byte & 0x0f };
	if (byte <= 0x9f)
		return (struct header){ .shape = SHAPE_ARRAY, .count = byte & 0x0f };
	if (byte <= 0xbf)
		return (struct header){ .shape = SHAPE_STR, .count = byte & 0x1f };
	return (struct header){
		.shape = (enum shape)headers[byte - 0xc0].shape,
		.field = headers[byte - 0xc0].field,
		.extra = headers[byte - 0xc0].extra,
	};
}

/* FNV-1a. It only saves comparisons: equal hashes are compared byte by byte. */
static uint32_t hash_of(const uint8_t *bytes, size_t n)
{
	uint32_t hash = 2166136261u;
	for (size_t i = 0; i < n; i++)
		hash = (hash ^ bytes[i]) * 16777619u;
	return hash;
}

static int remember_key(struct walk *w, const struct level *map, size_t offset, size_t length)
{
	uint32_t hash = hash_of(w->bytes + offset, length);
	for (unsigned i = map->first; i < w->n_keys; i++) {
		const struct key *key = &w->keys[i];
		if (key->hash == hash && key->length == length &&
		    memcmp(w->bytes + key->offset, w->bytes + offset, length) == 0)
			return ERR_MALFORMED;
	}
	if (w->n_keys == PACK_KEYS_MAX)
		return ERR_LIMIT;
	w->keys[w->n_keys++] = (struct key){ .hash = hash, .length = (uint32_t)length, .offset = offset };
	return 0;
}

/* One value's header, and its bytes unless it is a map or an array: those are left in *count. */
static int walk_value(struct walk *w, enum shape *shape, size_t *count, size_t *offset)
{
	if (w->at == w->n)
		return ERR_MALFORMED;
	uint8_t byte = w->bytes[w->at++];
	if (byte == 0xc1)
		return ERR_MALFORMED;

	struct header header = header_of(byte);
	if (header.field > w->n - w->at)
		return ERR_MALFORMED;
	for (unsigned i = 0; i < header.field; i++)
		header.count = header.count << 8 | w->bytes[w->at++];
	*shape = header.shape;
	*count = header.count;

	size_t body = header.extra;
	if (header.shape == SHAPE_STR || header.shape == SHAPE_BYTES)
		body += header.count; /* at most 2^32, in a size_t of 64 bits or checked below on 32 */
	if (body < header.extra || body > w->n - w->at)
		return ERR_MALFORMED;
	*offset = w->at;
	w->at += body;
	return 0;
}

static int walk_open(struct walk *w, const struct pack_limits *limits, bool is_map, size_t count)
{
	size_t per = is_map ? 2 : 1;
	if (count > (w->n - w->at) / per)
		return ERR_MALFORMED;
	if (w->depth == PACK_DEPTH_MAX || w->depth == limits->depth)
		return ERR_LIMIT;
	w->levels[w->depth++] = (struct level){ .left = count * per, .is_map = is_map, .first = w->n_keys };
	return 0;
}

int pack_validate(const uint8_t *bytes, size_t n, const struct pack_limits *limits)
{
	if (n > limits->bytes)
		return ERR_LIMIT;

	struct walk w;
	w.bytes = bytes;
	w.n = n;
	w.at = 0;
	w.depth = w.n_keys = 0; /* levels and keys are written before they are read */

	for (unsigned nodes = 1;; nodes++) {
		if (nodes > limits->nodes)
			return ERR_LIMIT;

		struct level *level = w.depth ? &w.levels[w.depth - 1] : NULL;
		bool is_key = level && level->is_map && level->left % 2 == 0;
		enum shape shape;
		size_t count, offset;
		int err = walk_value(&w, &shape, &count, &offset);
		if (err)
			return err;
		if (level)
			level->left--;

		if (is_key) {
			if (shape != SHAPE_STR)
				return ERR_MALFORMED;
			err = remember_key(&w, level, offset, count);
		} else if (shape == SHAPE_ARRAY || shape == SHAPE_MAP) {
			err = walk_open(&w, limits, shape == SHAPE_MAP, count);
		}
		if (err)
			return err;

		while (w.depth && w.levels[w.depth - 1].left == 0)
			w.n_keys = w.levels[--w.depth].first;
		if (w.depth == 0)
			return w.at == n ? 0 : ERR_MALFORMED;
	}
}

/* --- writing ------------------------------------------------------------------------------------------ */

static int write_bytes(void *data, const char *bytes, size_t n)
{
	struct pack_writer *w = data;
	if (!w->err)
		w->err = buf_append(w->out, bytes, n);
	return w->err;
}

static msgpack_packer packer_of(struct pack_writer *w)
{
	msgpack_packer packer;
	msgpack_packer_init(&packer, w, write_bytes);
	return packer;
}

/* Counts and lengths are 32 bits on the wire. */
static bool fits(struct pack_writer *w, size_t n)
{
	if (!w->err && n > UINT32_MAX)
		w->err = ERR_LIMIT;
	return !w->err;
}

void pack_writer_init(struct pack_writer *w, struct buf *out)
{
	*w = (struct pack_writer){ .out = out };
}

void pack_map(struct pack_writer *w, size_t n)
{
	msgpack_packer packer = packer_of(w);
	if (fits(w, n))
		msgpack_pack_map(&packer, n);
}

void pack_array(struct pack_writer *w, size_t n)
{
	msgpack_packer packer = packer_of(w);
	if (fits(w, n))
		msgpack_pack_array(&packer, n);
}

void pack_nil(struct pack_writer *w)
{
	msgpack_packer packer = packer_of(w);
	msgpack_pack_nil(&packer);
}

void pack_bool(struct pack_writer *w, bool v)
{
	msgpack_packer packer = packer_of(w);
	if (v)
		msgpack_pack_true(&packer);
	else
		msgpack_pack_false(&packer);
}

void pack_uint(struct pack_writer *w, uint64_t v)
{
	msgpack_packer packer = packer_of(w);
	msgpack_pack_uint64(&packer, v);
}

void pack_int(struct pack_writer *w, int64_t v)
{
	msgpack_packer packer = packer_of(w);
	msgpack_pack_int64(&packer, v);
}

void pack_double(struct pack_writer *w, double v)
{
	msgpack_packer packer = packer_of(w);
	msgpack_pack_double(&packer, v);
}

void pack_str(struct pack_writer *w, const char *text)
{
	pack_strn(w, text, strlen(text));
}

void pack_strn(struct pack_writer *w, const char *text, size_t n)
{
	msgpack_packer packer = packer_of(w);
	/* Every reader would refuse it, so it is better not sent. */
	if (!w->err && !text_is_utf8(text, n))
		w->err = ERR_MALFORMED;
	if (fits(w, n))
		msgpack_pack_str_with_body(&packer, n ? text : "", n);
}

void pack_bin(struct pack_writer *w, const void *bytes, size_t n)
{
	msgpack_packer packer = packer_of(w);
	if (fits(w, n))
		msgpack_pack_bin_with_body(&packer, n ? bytes : "", n);
}

void pack_kv_bool(struct pack_writer *w, const char *key, bool v)
{
	pack_str(w, key);
	pack_bool(w, v);
}

void pack_kv_uint(struct pack_writer *w, const char *key, uint64_t v)
{
	pack_str(w, key);
	pack_uint(w, v);
}

void pack_kv_int(struct pack_writer *w, const char *key, int64_t v)
{
	pack_str(w, key);
	pack_int(w, v);
}

void pack_kv_double(struct pack_writer *w, const char *key, double v)
{
	pack_str(w, key);
	pack_double(w, v);
}

void pack_kv_str(struct pack_writer *w, const char *key, const char *text)
{
	pack_str(w, key);
	pack_str(w, text);
}

void pack_kv_bin(struct pack_writer *w, const char *key, const void *bytes, size_t n)
{
	pack_str(w, key);
	pack_bin(w, bytes, n);
}

/* --- parsing ------------------------------------------------------------------------------------------ */

int pack_parse(struct pack_doc *doc, const uint8_t *bytes, size_t n, const struct pack_limits *limits)
{
	*doc = (struct pack_doc){ 0 };
	int err = pack_validate(bytes, n, limits);
	if (err)
		return err;

	msgpack_zone *zone = msgpack_zone_new(MSGPACK_ZONE_CHUNK_SIZE);
	if (!zone)
		return -ENOMEM;
	msgpack_object *root = msgpack_zone_malloc(zone, sizeof(*root));
	if (!root) {
		err = -ENOMEM;
		goto out;
	}

	size_t offset = 0;
	switch (msgpack_unpack((const char *)bytes, n, &offset, zone, root)) {
	case MSGPACK_UNPACK_SUCCESS:
		break;
	case MSGPACK_UNPACK_NOMEM_ERROR:
		err = -ENOMEM;
		break;
	default: /* the validator let pass what msgpack-c does not: still only bad input */
		err = ERR_MALFORMED;
	}
out:
	if (err) {
		msgpack_zone_free(zone);
		return err;
	}
	doc->zone = zone;
	doc->root = root;
	return 0;
}

void pack_release(struct pack_doc *doc)
{
	if (doc->zone)
		msgpack_zone_free(doc->zone);
	*doc = (struct pack_doc){ 0 };
}

struct pack_cursor pack_root(const struct pack_doc *doc, int *err)
{
	*err = 0;
	return (struct pack_cursor){ .object = doc->root, .err = err };
}

/* --- reading ------------------------------------------------------------------------------------------
 *
 * Each getter is a lookup (by key or by index), which gives an object or NULL with the error set, and a
 * conversion that takes NULL for "nothing, and the error is set or does not matter". */

static const msgpack_object *fail(struct pack_cursor c, int err)
{
	if (!*c.err)
		*c.err = err;
	return NULL;
}

static const msgpack_object *find(struct pack_cursor c, const char *key)
{
	const msgpack_object *object = c.object;
	if (*c.err || !object || object->type != MSGPACK_OBJECT_MAP)
		return NULL;
	size_t n = strlen(key);
	for (uint32_t i = 0; i < object->via.map.size; i++) {
		const msgpack_object_kv *pair = &object->via.map.ptr[i];
		if (pair->key.type == MSGPACK_OBJECT_STR && pair->key.via.str.size == n &&
		    (n == 0 || memcmp(pair->key.via.str.ptr, key, n) == 0))
			return &pair->val;
	}
	return NULL;
}

static const msgpack_object *by_key(struct pack_cursor c, const char *key)
{
	const msgpack_object *value = find(c, key);
	return value ? value : fail(c, ERR_MALFORMED);
}

/* For the _or forms: a missing key is fine, but not in something that is no map. */
static const msgpack_object *by_key_or(struct pack_cursor c, const char *key)
{
	if (!*c.err && !pack_is_map(c))
		return fail(c, ERR_MALFORMED);
	return find(c, key);
}

static const msgpack_object *by_index(struct pack_cursor c, size_t i)
{
	const msgpack_object *object = c.object;
	if (*c.err || !object || object->type != MSGPACK_OBJECT_ARRAY || i >= object->via.array.size)
		return fail(c, ERR_MALFORMED);
	return &object->via.array.ptr[i];
}

static uint64_t as_uint(struct pack_cursor c, const msgpack_object *value, uint64_t max)
{
	if (!value)
		return 0;
	if (value->type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
		fail(c, ERR_MALFORMED);
		return 0;
	}
	if (value->via.u64 > max) {
		fail(c, ERR_LIMIT);
		return 0;
	}
	return value->via.u64;
}

static int64_t as_int(struct pack_cursor c, const msgpack_object *value)
{
	if (value && value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
		return value->via.i64;
	return (int64_t)as_uint(c, value, INT64_MAX);
}

static double as_double(struct pack_cursor c, const msgpack_object *value)
{
	if (!value)
		return 0;
	if ((value->type != MSGPACK_OBJECT_FLOAT32 && value->type != MSGPACK_OBJECT_FLOAT64) || !isfinite(value->via.f64)) {
		fail(c, ERR_MALFORMED);
		return 0;
	}
	return value->via.f64;
}

static const uint8_t *as_bin(struct pack_cursor c, const msgpack_object *value, size_t max, size_t *n)
{
	*n = 0;
	if (!value)
		return NULL;
	if (value->type != MSGPACK_OBJECT_BIN) {
		fail(c, ERR_MALFORMED);
		return NULL;
	}
	if (value->via.bin.size > max) {
		fail(c, ERR_LIMIT);
		return NULL;
	}
	*n = value->via.bin.size;
	return (const uint8_t *)(*n ? value->via.bin.ptr : ""); /* msgpack-c may leave NULL where nothing is */
}

static const char *as_str(struct pack_cursor c, const msgpack_object *value, size_t max, size_t *n)
{
	*n = 0;
	if (!value)
		return NULL;
	if (value->type != MSGPACK_OBJECT_STR) {
		fail(c, ERR_MALFORMED);
		return NULL;
	}
	if (value->via.str.size > max) {
		fail(c, ERR_LIMIT);
		return NULL;
	}
	const char *text = value->via.str.size ? value->via.str.ptr : "";
	if (!text_is_utf8(text, value->via.str.size)) {
		fail(c, ERR_MALFORMED);
		return NULL;
	}
	*n = value->via.str.size;
	return text;
}

static void as_exact(struct pack_cursor c, const msgpack_object *value, void *out, size_t n)
{
	size_t length;
	memset(out, 0, n);
	const uint8_t *bytes = as_bin(c, value, SIZE_MAX, &length);
	if (!bytes)
		return;
	if (length == n)
		memcpy(out, bytes, n);
	else
		fail(c, ERR_MALFORMED);
}

static void as_text(struct pack_cursor c, const msgpack_object *value, char *out, size_t size)
{
	size_t length;
	memset(out, 0, size); /* all of it: what lies behind the NUL must not be an old secret */
	const char *text = as_str(c, value, size - 1, &length);
	if (text)
		memcpy(out, text, length);
}

static struct pack_cursor as_cursor(struct pack_cursor c, const msgpack_object *value)
{
	if (value && value->type != MSGPACK_OBJECT_MAP && value->type != MSGPACK_OBJECT_ARRAY)
		value = fail(c, ERR_MALFORMED);
	return (struct pack_cursor){ .object = value, .err = c.err };
}

size_t pack_count(struct pack_cursor c)
{
	const msgpack_object *object = c.object;
	if (!*c.err && pack_is_map(c))
		return object->via.map.size;
	if (!*c.err && pack_is_array(c))
		return object->via.array.size;
	fail(c, ERR_MALFORMED);
	return 0;
}

bool pack_is_map(struct pack_cursor c)
{
	const msgpack_object *object = c.object;
	return object && object->type == MSGPACK_OBJECT_MAP;
}

bool pack_is_array(struct pack_cursor c)
{
	const msgpack_object *object = c.object;
	return object && object->type == MSGPACK_OBJECT_ARRAY;
}

bool pack_has(struct pack_cursor c, const char *key)
{
	return find(c, key) != NULL;
}

uint64_t pack_get_uint(struct pack_cursor c, const char *key, uint64_t max)
{
	return as_uint(c, by_key(c, key), max);
}

uint64_t pack_get_uint_or(struct pack_cursor c, const char *key, uint64_t max, uint64_t otherwise)
{
	const msgpack_object *value = by_key_or(c, key);
	if (!value)
		return *c.err ? 0 : otherwise;
	return as_uint(c, value, max);
}

int64_t pack_get_int(struct pack_cursor c, const char *key)
{
	return as_int(c, by_key(c, key));
}

bool pack_get_bool_or(struct pack_cursor c, const char *key, bool otherwise)
{
	const msgpack_object *value = by_key_or(c, key);
	if (!value)
		return *c.err ? false : otherwise;
	if (value->type != MSGPACK_OBJECT_BOOLEAN) {
		fail(c, ERR_MALFORMED);
		return false;
	}
	return value->via.boolean;
}

double pack_get_double_or(struct pack_cursor c, const char *key, double otherwise)
{
	const msgpack_object *value = by_key_or(c, key);
	if (!value)
		return *c.err ? 0 : otherwise;
	return as_double(c, value);
}

void pack_get_str(struct pack_cursor c, const char *key, char *out, size_t size)
{
	as_text(c, by_key(c, key), out, size);
}

void pack_get_str_or(struct pack_cursor c, const char *key, char *out, size_t size, const char *otherwise)
{
	const msgpack_object *value = by_key_or(c, key);
	as_text(c, value, out, size);
	if (!value && !*c.err && text_copy(out, size, otherwise))
		fail(c, ERR_LIMIT);
}

void pack_get_exact(struct pack_cursor c, const char *key, void *out, size_t n)
{
	as_exact(c, by_key(c, key), out, n);
}

const uint8_t *pack_borrow_bin(struct pack_cursor c, const char *key, size_t max, size_t *n)
{
	return as_bin(c, by_key(c, key), max, n);
}

const char *pack_borrow_str(struct pack_cursor c, const char *key, size_t max, size_t *n)
{
	return as_str(c, by_key(c, key), max, n);
}

struct pack_cursor pack_get(struct pack_cursor c, const char *key)
{
	return as_cursor(c, by_key(c, key));
}

struct pack_cursor pack_at(struct pack_cursor c, size_t i)
{
	return as_cursor(c, by_index(c, i));
}

uint64_t pack_at_uint(struct pack_cursor c, size_t i, uint64_t max)
{
	return as_uint(c, by_index(c, i), max);
}

int64_t pack_at_int(struct pack_cursor c, size_t i)
{
	return as_int(c, by_index(c, i));
}

double pack_at_double(struct pack_cursor c, size_t i)
{
	return as_double(c, by_index(c, i));
}

void pack_at_exact(struct pack_cursor c, size_t i, void *out, size_t n)
{
	as_exact(c, by_index(c, i), out, n);
}

void pack_at_str(struct pack_cursor c, size_t i, char *out, size_t size)
{
	as_text(c, by_index(c, i), out, size);
}

const uint8_t *pack_at_borrow_bin(struct pack_cursor c, size_t i, size_t max, size_t *n)
{
	return as_bin(c, by_index(c, i), max, n);
}
