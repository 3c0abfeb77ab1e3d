/* Every encoding of the published msgpack-test-suite (github.com/kawanet/msgpack-test-suite) is read as the value
 * that the suite says it is. The suite is data beside the source tree: without it this test is skipped
 * (exit status 77), and says so.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

#include "proto/err.h"
#include "proto/pack.h"

#define SUITE "vectors/msgpack-test-suite.json"

static yyjson_doc *suite;

/* "c4-01-01" to bytes. */
static size_t unhex(const char *text, uint8_t *out, size_t size)
{
	size_t n = 0;
	unsigned byte;
	while (*text) {
		assert_int_equal(sscanf(text, "%2x", &byte), 1);
		assert_true(n < size);
		out[n++] = (uint8_t)byte;
		text += 2;
		if (*text)
			assert_int_equal(*text++, '-');
	}
	return n;
}

/* Is the element i of the array at c what the suite says? */
static void compare(struct pack_cursor c, size_t i, bool is_float, const char *kind, yyjson_val *expected);

static void compare_inner(struct pack_cursor c, size_t i, yyjson_val *expected)
{
	const char *kind = yyjson_is_arr(expected) ? "array" : yyjson_is_obj(expected) ? "map" : yyjson_is_str(expected) ? "string" : "number";
	compare(c, i, false, kind, expected);
}

static void compare(struct pack_cursor c, size_t i, bool is_float, const char *kind, yyjson_val *expected)
{
	char text[64];
	if (!strcmp(kind, "binary")) {
		uint8_t bytes[64];
		size_t n, length = unhex(yyjson_get_str(expected), bytes, sizeof(bytes));
		const uint8_t *got = pack_at_borrow_bin(c, i, sizeof(bytes), &n);
		assert_non_null(got);
		assert_int_equal(n, length);
		assert_memory_equal(got, bytes, n);
	} else if (!strcmp(kind, "string")) {
		pack_at_str(c, i, text, sizeof(text));
		assert_string_equal(text, yyjson_get_str(expected));
	} else if (is_float) {
		double want = yyjson_is_str(expected) ? strtod(yyjson_get_str(expected), NULL) : yyjson_get_num(expected);
		assert_true(pack_at_double(c, i) == want);
	} else if (!strcmp(kind, "number") || !strcmp(kind, "bignum")) {
		const char *digits = yyjson_get_str(expected);
		if (!digits) {
			snprintf(text, sizeof(text), "%" PRId64, yyjson_get_sint(expected));
			digits = text;
			assert_true(yyjson_is_int(expected));
		}
		char got[32];
		if (*digits == '-')
			snprintf(got, sizeof(got), "%" PRId64, pack_at_int(c, i));
		else
			snprintf(got, sizeof(got), "%" PRIu64, pack_at_uint(c, i, UINT64_MAX));
		assert_string_equal(got, digits);
	} else if (!strcmp(kind, "array")) {
		struct pack_cursor list = pack_at(c, i);
		assert_true(pack_is_array(list));
		assert_int_equal(pack_count(list), yyjson_arr_size(expected));
		for (size_t k = 0; k < yyjson_arr_size(expected); k++)
			compare_inner(list, k, yyjson_arr_get(expected, k));
	} else if (!strcmp(kind, "map")) {
		struct pack_cursor map = pack_at(c, i);
		assert_true(pack_is_map(map));
		assert_int_equal(pack_count(map), yyjson_obj_size(expected));
		size_t at, all;
		yyjson_val *key, *value;
		yyjson_obj_foreach(expected, at, all, key, value) {
			const char *name = yyjson_get_str(key);
			if (yyjson_is_str(value)) {
				pack_get_str(map, name, text, sizeof(text));
				assert_string_equal(text, yyjson_get_str(value));
			} else if (yyjson_is_int(value)) {
				assert_true(pack_get_int(map, name) == yyjson_get_sint(value));
			} else {
				struct pack_cursor below = pack_get(map, name);
				assert_int_equal(pack_count(below), 0); /* the suite's are empty */
				assert_true(yyjson_is_arr(value) ? pack_is_array(below) : pack_is_map(below));
			}
		}
	} else {
		fail_msg("the suite has a kind that this test does not know: %s", kind);
	}
	assert_int_equal(*c.err, 0);
}

/* nil, bool, timestamps and ext have no getter by index: bool by key, and of the others only that they pass the
 * validator and that no getter takes them for something else. */
static void compare_by_key(const uint8_t *encoded, size_t n, const char *kind, yyjson_val *expected)
{
	uint8_t bytes[64] = { 0x81, 0xa1, 'k' };
	memcpy(bytes + 3, encoded, n);
	struct pack_doc doc;
	int err;
	assert_int_equal(pack_parse(&doc, bytes, n + 3, &pack_limits_head), 0);
	struct pack_cursor c = pack_root(&doc, &err);
	assert_true(pack_has(c, "k"));
	if (!strcmp(kind, "bool")) {
		assert_int_equal(pack_get_bool_or(c, "k", !yyjson_get_bool(expected)), yyjson_get_bool(expected));
		assert_int_equal(err, 0);
	} else {
		uint8_t out[16];
		size_t length;
		err = 0, pack_get_uint(c, "k", UINT64_MAX);
		assert_int_equal(err, ERR_MALFORMED);
		err = 0, pack_get_int(c, "k");
		assert_int_equal(err, ERR_MALFORMED);
		err = 0, pack_get_bool_or(c, "k", true);
		assert_int_equal(err, ERR_MALFORMED);
		err = 0, pack_get_double_or(c, "k", 1);
		assert_int_equal(err, ERR_MALFORMED);
		err = 0, pack_get_exact(c, "k", out, sizeof(out));
		assert_int_equal(err, ERR_MALFORMED);
		err = 0, pack_borrow_str(c, "k", 64, &length);
		assert_int_equal(err, ERR_MALFORMED);
		err = 0, pack_get(c, "k");
		assert_int_equal(err, ERR_MALFORMED);
	}
	pack_release(&doc);
}

static void check_encoding(const char *kind, yyjson_val *expected, const char *hex)
{
	uint8_t bytes[64];
	size_t n = unhex(hex, bytes + 1, sizeof(bytes) - 1);
	bytes[0] = 0x91; /* an array around it: getters are by index or key */

	assert_int_equal(pack_validate(bytes + 1, n, &pack_limits_head), 0);
	for (size_t part = 0; part < n; part++)
		assert_int_equal(pack_validate(bytes + 1, part, &pack_limits_head), ERR_MALFORMED);

	if (!strcmp(kind, "nil") || !strcmp(kind, "bool") || !strcmp(kind, "timestamp") || !strcmp(kind, "ext")) {
		compare_by_key(bytes + 1, n, kind, expected);
		return;
	}
	struct pack_doc doc;
	int err;
	assert_int_equal(pack_parse(&doc, bytes, n + 1, &pack_limits_head), 0);
	struct pack_cursor c = pack_root(&doc, &err);
	bool is_float = bytes[1] == 0xca || bytes[1] == 0xcb;
	if (strcmp(kind, "bignum") || !is_float || yyjson_is_str(expected))
		compare(c, 0, is_float, kind, expected);
	pack_release(&doc);
}

static bool is_kind(const char *key)
{
	static const char *const kinds[] = { "nil", "bool", "binary", "number", "bignum", "string", "array", "map", "timestamp", "ext" };
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(key, kinds[i]))
			return true;
	return false;
}

static void every_encoding_of_the_suite_is_read_as_its_value(void **state)
{
	unsigned groups = 0, values = 0, encodings = 0;
	size_t i, n;
	yyjson_val *name, *group;
	yyjson_obj_foreach(yyjson_doc_get_root(suite), i, n, name, group) {
		groups++;
		size_t j, m;
		yyjson_val *value;
		yyjson_arr_foreach(group, j, m, value) {
			/* A number may be given twice, exactly as "bignum" and approximately as "number". */
			const char *kind = NULL;
			size_t k, q;
			yyjson_val *key, *v, *expected = NULL;
			yyjson_obj_foreach(value, k, q, key, v) {
				if (is_kind(yyjson_get_str(key)) && !(kind && !strcmp(kind, "bignum"))) {
					kind = yyjson_get_str(key);
					expected = v;
				}
			}
			if (!kind)
				fail_msg("%s: a value without a kind that this test knows", yyjson_get_str(name));
			values++;
			yyjson_val *list = yyjson_obj_get(value, "msgpack"), *hex;
			assert_true(yyjson_arr_size(list) > 0);
			yyjson_arr_foreach(list, k, q, hex) {
				check_encoding(kind, expected, yyjson_get_str(hex));
				encodings++;
			}
		}
	}
	print_message("%u groups, %u values, %u encodings\n", groups, values, encodings);
	assert_true(groups >= 15 && values >= 85 && encodings >= 233);
}

/* What the writer makes is one of the encodings that the suite lists. */
static void writer_makes_encodings_of_the_suite(void **state)
{
	unsigned written = 0;
	size_t i, n;
	yyjson_val *name, *group;
	yyjson_obj_foreach(yyjson_doc_get_root(suite), i, n, name, group) {
		size_t j, m;
		yyjson_val *value;
		yyjson_arr_foreach(group, j, m, value) {
			struct buf out;
			buf_init(&out, 200);
			struct pack_writer w;
			pack_writer_init(&w, &out);
			uint8_t bytes[64];
			yyjson_val *v;
			if (yyjson_obj_get(value, "nil"))
				pack_nil(&w);
			else if ((v = yyjson_obj_get(value, "bool")))
				pack_bool(&w, yyjson_get_bool(v));
			else if ((v = yyjson_obj_get(value, "binary")))
				pack_bin(&w, bytes, unhex(yyjson_get_str(v), bytes, sizeof(bytes)));
			else if ((v = yyjson_obj_get(value, "string")))
				pack_str(&w, yyjson_get_str(v));
			else if ((v = yyjson_obj_get(value, "bignum")) && *yyjson_get_str(v) == '-')
				pack_int(&w, strtoll(yyjson_get_str(v), NULL, 10));
			else if (v)
				pack_uint(&w, strtoull(yyjson_get_str(v), NULL, 10));
			else if ((v = yyjson_obj_get(value, "number")) && yyjson_is_int(v))
				pack_int(&w, yyjson_get_sint(v));
			else if (v)
				pack_double(&w, yyjson_get_num(v));
			assert_int_equal(w.err, 0);

			bool found = out.length == 0; /* containers, timestamps and ext: not written here */
			written += !found;
			size_t k, q;
			yyjson_val *hex;
			yyjson_arr_foreach(yyjson_obj_get(value, "msgpack"), k, q, hex) {
				size_t length = unhex(yyjson_get_str(hex), bytes, sizeof(bytes));
				found = found || (length == out.length && !memcmp(bytes, out.data, length));
			}
			if (!found)
				fail_msg("%s, value %zu: no encoding of the suite", yyjson_get_str(name), j);
			buf_release(&out);
		}
	}
	print_message("%u values written\n", written);
	assert_true(written >= 40);
}

int main(void)
{
	const char *shared = getenv("ESSAIM_SHARED");
	char path[4096];
	snprintf(path, sizeof(path), "%s/" SUITE, shared ? shared : "");
	if (!shared || !*shared || access(path, F_OK)) {
		fprintf(stderr, "skipped: no %s (set ESSAIM_SHARED to the folder that has it)\n", SUITE);
		return 77;
	}
	yyjson_read_err error;
	suite = yyjson_read_file(path, 0, NULL, &error);
	if (!suite) {
		fprintf(stderr, "%s: %s at byte %zu\n", path, error.msg, error.pos);
		return 1;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_encoding_of_the_suite_is_read_as_its_value),
		cmocka_unit_test(writer_makes_encodings_of_the_suite),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	yyjson_doc_free(suite);
	return failed;
}
