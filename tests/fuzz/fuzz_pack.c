/* fuzz_pack.c: the validator, msgpack-c behind it, every getter, and the writer.
 *
 * The first byte chooses the limits, the rest is the encoding. What must hold:
 *   - what the validator takes, msgpack-c parses, whole, and stays inside the limits that were asked for;
 *   - no proper prefix of something valid is valid, nor is it with a byte behind;
 *   - no getter reads outside the bytes or leaves an output unset, whatever the type is;
 *   - what is written again from what was read is valid, and reads as the same.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <math.h>
#include <msgpack.h>
#include <string.h>

#include "proto/err.h"
#include "proto/pack.h"
#include "proto/text.h"
#include "tests/fuzz/fuzz.h"

/* What is seen of a document, counted without the library under test. */
struct seen {
	unsigned nodes, depth;
	bool text;      /* every string is UTF-8: the writer takes them */
	bool known;     /* no ext anywhere: the writer has none */
};

static void look(const msgpack_object *object, unsigned depth, struct seen *seen)
{
	seen->nodes++;
	if (object->type == MSGPACK_OBJECT_STR && object->via.str.size && !text_is_utf8(object->via.str.ptr, object->via.str.size))
		seen->text = false;
	if (object->type == MSGPACK_OBJECT_EXT)
		seen->known = false;
	if (object->type != MSGPACK_OBJECT_MAP && object->type != MSGPACK_OBJECT_ARRAY)
		return;
	if (depth + 1 > seen->depth)
		seen->depth = depth + 1;
	if (object->type == MSGPACK_OBJECT_ARRAY) {
		for (uint32_t i = 0; i < object->via.array.size; i++)
			look(&object->via.array.ptr[i], depth + 1, seen);
		return;
	}
	for (uint32_t i = 0; i < object->via.map.size; i++) {
		const msgpack_object *key = &object->via.map.ptr[i].key;
		must(key->type == MSGPACK_OBJECT_STR);
		for (uint32_t k = 0; k < i; k++)
			must(!msgpack_object_equal(*key, object->via.map.ptr[k].key));
		look(key, depth + 1, seen);
		look(&object->via.map.ptr[i].val, depth + 1, seen);
	}
}

static void rewrite(struct pack_writer *w, const msgpack_object *object)
{
	switch (object->type) {
	case MSGPACK_OBJECT_NIL:
		pack_nil(w);
		break;
	case MSGPACK_OBJECT_BOOLEAN:
		pack_bool(w, object->via.boolean);
		break;
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		pack_uint(w, object->via.u64);
		break;
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		pack_int(w, object->via.i64);
		break;
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		pack_double(w, object->via.f64);
		break;
	case MSGPACK_OBJECT_STR:
		pack_strn(w, object->via.str.size ? object->via.str.ptr : "", object->via.str.size);
		break;
	case MSGPACK_OBJECT_BIN:
		pack_bin(w, object->via.bin.ptr, object->via.bin.size);
		break;
	case MSGPACK_OBJECT_ARRAY:
		pack_array(w, object->via.array.size);
		for (uint32_t i = 0; i < object->via.array.size; i++)
			rewrite(w, &object->via.array.ptr[i]);
		break;
	case MSGPACK_OBJECT_MAP:
		pack_map(w, object->via.map.size);
		for (uint32_t i = 0; i < object->via.map.size; i++) {
			rewrite(w, &object->via.map.ptr[i].key);
			rewrite(w, &object->via.map.ptr[i].val);
		}
		break;
	case MSGPACK_OBJECT_EXT:
		abort();
	}
}

/* The same values; a float of 32 bits comes back as one of 64. */
static bool same(const msgpack_object *a, const msgpack_object *b)
{
	bool a_float = a->type == MSGPACK_OBJECT_FLOAT32 || a->type == MSGPACK_OBJECT_FLOAT64;
	if (a_float)
		return b->type == MSGPACK_OBJECT_FLOAT64 && (a->via.f64 == b->via.f64 || (isnan(a->via.f64) && isnan(b->via.f64)));
	if (a->type != b->type)
		return false;
	if (a->type == MSGPACK_OBJECT_ARRAY) {
		bool all = a->via.array.size == b->via.array.size;
		for (uint32_t i = 0; all && i < a->via.array.size; i++)
			all = same(&a->via.array.ptr[i], &b->via.array.ptr[i]);
		return all;
	}
	if (a->type == MSGPACK_OBJECT_MAP) {
		bool all = a->via.map.size == b->via.map.size;
		for (uint32_t i = 0; all && i < a->via.map.size; i++)
			all = same(&a->via.map.ptr[i].key, &b->via.map.ptr[i].key) &&
			      same(&a->via.map.ptr[i].val, &b->via.map.ptr[i].val);
		return all;
	}
	return msgpack_object_equal(*a, *b);
}

static void must_point_inside(int err, const uint8_t *got, size_t length, const uint8_t *bytes, size_t n)
{
	must(err ? !got && !length : got && length <= 100);
	must(!length || (got >= bytes && got + length <= bytes + n));
}

/* Every getter on every value below c, each with a fresh error. */
static void read_all(const msgpack_object *object, const uint8_t *bytes, size_t n)
{
	if (object->type != MSGPACK_OBJECT_MAP && object->type != MSGPACK_OBJECT_ARRAY)
		return;
	int err = 0;
	struct pack_cursor c = { .object = object, .err = &err };
	bool is_map = pack_is_map(c);
	must(is_map != pack_is_array(c));
	size_t count = pack_count(c);
	must(err == 0);

	for (size_t i = 0; i < count; i++) {
		char key[64], text[8];
		uint8_t exact[4];
		size_t length;
		const msgpack_object *value = is_map ? &object->via.map.ptr[i].val : &object->via.array.ptr[i];
		if (is_map) {
			const msgpack_object_str *str = &object->via.map.ptr[i].key.via.str;
			/* msgpack-c's pointer means nothing where the size is 0 */
			if (str->size < sizeof(key) && !(str->size && memchr(str->ptr, 0, str->size))) {
				if (str->size)
					memcpy(key, str->ptr, str->size);
				key[str->size] = '\0';
				must(pack_has(c, key));
				err = 0;
				must(pack_get_uint(c, key, 1000) <= 1000);
				must(!err || pack_get_uint(c, key, 1000) == 0);
				err = 0, (void)pack_get_uint_or(c, key, UINT64_MAX, 1);
				err = 0, (void)pack_get_int(c, key);
				err = 0, (void)pack_get_bool_or(c, key, true);
				err = 0;
				must(isfinite(pack_get_double_or(c, key, 0)));
				err = 0, memset(text, 'x', sizeof(text)), pack_get_str(c, key, text, sizeof(text));
				must(text_is_utf8(text, strnlen(text, sizeof(text))) && text[sizeof(text) - 1] == 0);
				must(!err || !memcmp(text, "\0\0\0\0\0\0\0", 8));
				err = 0, pack_get_str_or(c, key, text, sizeof(text), "?");
				err = 0, memset(exact, 'x', sizeof(exact)), pack_get_exact(c, key, exact, sizeof(exact));
				must(!err || !memcmp(exact, "\0\0\0\0", 4));
				err = 0;
				const uint8_t *bin = pack_borrow_bin(c, key, 100, &length);
				must_point_inside(err, bin, length, bytes, n);
				err = 0;
				const uint8_t *str_bytes = (const uint8_t *)pack_borrow_str(c, key, 100, &length);
				must_point_inside(err, str_bytes, length, bytes, n);
				err = 0;
				must((pack_get(c, key).object != NULL) == (err == 0));
			}
		} else {
			err = 0, (void)pack_at_uint(c, i, UINT64_MAX);
			err = 0, (void)pack_at_int(c, i);
			err = 0, (void)pack_at_double(c, i);
			err = 0, pack_at_str(c, i, text, sizeof(text));
			err = 0, pack_at_exact(c, i, exact, sizeof(exact));
			err = 0;
			const uint8_t *bin = pack_at_borrow_bin(c, i, 100, &length);
			must_point_inside(err, bin, length, bytes, n);
			err = 0;
			must((pack_at(c, i).object != NULL) == (err == 0));
		}
		err = 0;
		read_all(value, bytes, n);
	}
	must(!pack_at(c, count).object && err == ERR_MALFORMED);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const struct pack_limits tight = { .bytes = 64, .depth = 2, .nodes = 8 };
	static const struct pack_limits *const choices[] = { &pack_limits_head, &pack_limits_record, &tight };
	if (n == 0)
		return 0;
	const struct pack_limits *limits = choices[*data % 3];
	const uint8_t *bytes = data + 1;
	n--;

	struct pack_doc doc;
	int err = pack_validate(bytes, n, limits);
	must(err == 0 || err == ERR_LIMIT || err == ERR_MALFORMED);
	must(pack_parse(&doc, bytes, n, limits) == err); /* nothing valid is refused later, nothing refused is parsed */
	if (err) {
		must(!doc.zone && !doc.root);
		return 0;
	}

	must(pack_validate(bytes, n - 1, limits) == ERR_MALFORMED);
	must(pack_validate(bytes, n / 2, limits) == ERR_MALFORMED);

	struct seen seen = { .text = true, .known = true };
	look(doc.root, 0, &seen);
	must(n <= limits->bytes && seen.nodes <= limits->nodes && seen.depth <= limits->depth);
	read_all(doc.root, bytes, n);

	struct buf again;
	buf_init(&again, 2 * n + 16 + 9 * (size_t)seen.nodes);
	if (seen.known) {
		struct pack_writer w;
		pack_writer_init(&w, &again);
		rewrite(&w, doc.root);
		must(w.err == (seen.text ? 0 : ERR_MALFORMED));
		if (!w.err) {
			/* floats may have grown from 4 bytes to 8: only the byte limit is not the same any more */
			struct pack_limits wide = *limits;
			wide.bytes = again.max;
			struct pack_doc second;
			must(pack_parse(&second, again.data, again.length, &wide) == 0);
			must(same(doc.root, second.root));
			pack_release(&second);
			uint8_t *more = buf_reserve(&again, 1);
			must(more);
			*more = 0xc0;
			must(pack_validate(again.data, again.length + 1, &wide) == ERR_MALFORMED);
		}
	}
	buf_release(&again);
	pack_release(&doc);
	return 0;
}
