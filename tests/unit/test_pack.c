/* The allocators and msgpack_zone_new() are wrapped by the linker (--wrap) and counted: whatever is refused is
 * refused before anything was reserved for it.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"
#include "proto/pack.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static unsigned allocations;
static int no_zone;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
	allocations++;
	return __real_malloc(size);
}
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size)
{
	allocations++;
	return __real_calloc(n, size);
}
void *__real_realloc(void *data, size_t size);
void *__wrap_realloc(void *data, size_t size);
void *__wrap_realloc(void *data, size_t size)
{
	allocations++;
	return __real_realloc(data, size);
}
void *__real_msgpack_zone_new(size_t chunk);
void *__wrap_msgpack_zone_new(size_t chunk);
void *__wrap_msgpack_zone_new(size_t chunk)
{
	allocations++;
	return no_zone ? NULL : __real_msgpack_zone_new(chunk);
}

/* Validates exactly n bytes of heap, so that a sanitizer sees a read past them. */
static int validate(const void *bytes, size_t n, const struct pack_limits *limits)
{
	uint8_t *copy = malloc(n ? n : 1);
	assert_non_null(copy);
	memcpy(copy, bytes, n);
	unsigned before = allocations;
	int err = pack_validate(copy, n, limits);
	assert_int_equal(allocations, before);
	if (err) {
		struct pack_doc doc;
		assert_int_equal(pack_parse(&doc, copy, n, limits), err);
		assert_null(doc.zone);
		assert_int_equal(allocations, before);
	}
	free(copy);
	return err;
}

#define assert_validates(bytes) assert_int_equal(validate(bytes, sizeof(bytes) - 1, &pack_limits_head), 0)
#define assert_refused(err, bytes) assert_int_equal(validate(bytes, sizeof(bytes) - 1, &pack_limits_head), err)

/* One of everything. */
static void write_sample(struct buf *out)
{
	struct pack_writer w;
	pack_writer_init(&w, out);
	pack_map(&w, 12);
	pack_kv_bool(&w, "yes", true);
	pack_kv_uint(&w, "large", UINT64_MAX);
	pack_kv_int(&w, "negative", INT64_MIN);
	pack_kv_double(&w, "double", -0.1);
	pack_kv_str(&w, "name", "d\xc3\xa9j\xc3\xa0");
	pack_kv_bin(&w, "key", "\0\1\2\3", 4);
	pack_kv_bin(&w, "empty", NULL, 0);
	pack_kv_str(&w, "", "the empty key");
	pack_str(&w, "nil");
	pack_nil(&w);
	pack_str(&w, "list");
	pack_array(&w, 5);
	pack_uint(&w, 7);
	pack_int(&w, -7);
	pack_double(&w, 7.5);
	pack_strn(&w, "seven!", 5);
	pack_bin(&w, "777", 3);
	pack_str(&w, "nested");
	pack_map(&w, 1);
	pack_str(&w, "list");
	pack_array(&w, 1);
	pack_array(&w, 0);
	pack_kv_uint(&w, "last", 300);
	assert_int_equal(w.err, 0);
}

/* --- validating --- */

static void validator_refuses_counts_that_the_bytes_do_not_cover(void **state)
{
	assert_refused(ERR_MALFORMED, "\xdd\x10\x00\x00\x00"); /* makes msgpack-c reserve gigabytes */
	assert_refused(ERR_MALFORMED, "\xdd\xff\xff\xff\xff");
	assert_refused(ERR_MALFORMED, "\xdf\x10\x00\x00\x00");
	assert_refused(ERR_MALFORMED, "\xdf\xff\xff\xff\xff");
	assert_refused(ERR_MALFORMED, "\xdf\x80\x00\x00\x00"); /* twice this is 0 in 32 bits */
	assert_refused(ERR_MALFORMED, "\xdc\xff\xff");
	assert_refused(ERR_MALFORMED, "\xde\xff\xff");
	assert_refused(ERR_MALFORMED, "\x9f");
	assert_refused(ERR_MALFORMED, "\x8f");
	assert_refused(ERR_MALFORMED, "\xdb\x10\x00\x00\x00");
	assert_refused(ERR_MALFORMED, "\xdb\xff\xff\xff\xff");
	assert_refused(ERR_MALFORMED, "\xc6\xff\xff\xff\xff");
	assert_refused(ERR_MALFORMED, "\xc9\xff\xff\xff\xff\x05");
	assert_refused(ERR_MALFORMED, "\x93\x01\x02");     /* three promised, two there */
	assert_refused(ERR_MALFORMED, "\x81\xa1k");        /* a key, no value */
	assert_refused(ERR_MALFORMED, "\x82\xa1k\x01\xa1"); /* enough bytes, not enough values */
}

static void validator_refuses_counts_that_are_covered_one_by_one_but_not_together(void **state)
{
	/* Each array alone is covered by the bytes that remain; both together are not. */
	assert_refused(ERR_MALFORMED, "\x94\x94\x01\x02\x03\x04\x05");
	assert_validates("\x94\x94\x01\x02\x03\x04\x05\x06\x07");
	/* A string takes bytes that the outer array was promised. */
	assert_refused(ERR_MALFORMED, "\x94\xa3xyz\x01\x02");
	assert_validates("\x94\xa3xyz\x01\x02\x03");
}

static void validator_refuses_nesting_past_its_limit(void **state)
{
	uint8_t bytes[1001];
	memset(bytes, 0x91, sizeof(bytes));
	bytes[1000] = 0xc0;
	assert_int_equal(validate(bytes, sizeof(bytes), &pack_limits_head), ERR_LIMIT);
	assert_int_equal(validate(bytes, sizeof(bytes), &pack_limits_record), ERR_LIMIT);
	struct pack_limits deep = { .bytes = 2000, .depth = 5000, .nodes = 5000 };
	assert_int_equal(validate(bytes, sizeof(bytes), &deep), ERR_LIMIT); /* PACK_DEPTH_MAX holds all the same */

	for (unsigned depth = 1; depth < 20; depth++) {
		bytes[depth] = 0xc0;
		assert_int_equal(validate(bytes, depth + 1, &pack_limits_head), depth <= 6 ? 0 : ERR_LIMIT);
		assert_int_equal(validate(bytes, depth + 1, &pack_limits_record), depth <= 8 ? 0 : ERR_LIMIT);
		assert_int_equal(validate(bytes, depth + 1, &deep), depth <= PACK_DEPTH_MAX ? 0 : ERR_LIMIT);
		bytes[depth] = 0x91;
	}

	uint8_t maps[3001];
	for (size_t i = 0; i < 1000; i++)
		memcpy(maps + 3 * i, "\x81\xa1k", 3);
	maps[3000] = 0xc0;
	assert_int_equal(validate(maps, sizeof(maps), &pack_limits_head), ERR_LIMIT);

	/* Depth is of what is open: siblings do not add up. */
	uint8_t wide[1 + 15 * 2];
	wide[0] = 0x9f;
	for (size_t i = 0; i < 15; i++)
		memcpy(wide + 1 + 2 * i, "\x91\x01", 2);
	assert_int_equal(validate(wide, sizeof(wide), &pack_limits_head), 0);
}

static void validator_refuses_a_key_twice(void **state)
{
	assert_refused(ERR_MALFORMED, "\x82\xa1k\x01\xa1k\x02");
	assert_refused(ERR_MALFORMED, "\x82\xa1k\x01\xd9\x01k\x02");             /* spelt with another header */
	assert_refused(ERR_MALFORMED, "\x82\xda\x00\x01k\x01\xdb\x00\x00\x00\x01k\x02");
	assert_refused(ERR_MALFORMED, "\x82\xa0\x01\xa0\x02");                   /* the empty key is a key */
	assert_refused(ERR_MALFORMED, "\x83\xa1k\x81\xa1x\x01\xa1y\x02\xa1k\x03"); /* a map in between */
	assert_refused(ERR_MALFORMED, "\x91\x82\xa1k\x01\xa1k\x02");
	assert_validates("\x82\xa1k\x81\xa1k\x01\xa1l\x81\xa1k\x02");            /* the same key in other maps */
	assert_validates("\x92\x81\xa1k\x01\x81\xa1k\x01");
	assert_validates("\x82\xa1k\xa1v\xa1l\xa1v");                            /* values may repeat */
	assert_validates("\x82\xa1k\x01\xa2kk\x01");
}

static void validator_refuses_keys_that_are_no_strings(void **state)
{
	static const char *const keys[] = { "\x01", "\xff", "\xc2", "\x90", "\x80", "\xca\x01\x01\x01\x01", "\xc4\x01k", "\xd4\x01\x01" };
	for (size_t i = 0; i < COUNT(keys); i++) {
		uint8_t bytes[16] = { 0x81 };
		size_t n = strlen(keys[i]);
		memcpy(bytes + 1, keys[i], n);
		bytes[1 + n] = 0x01;
		assert_int_equal(validate(bytes, n + 2, &pack_limits_head), ERR_MALFORMED);
	}
}

static void validator_bounds_the_keys_that_are_open_together(void **state)
{
	static uint8_t bytes[8000];
	for (unsigned pairs = PACK_KEYS_MAX - 1; pairs <= PACK_KEYS_MAX + 1; pairs++) {
		size_t n = 0;
		bytes[n++] = 0xde;
		bytes[n++] = (uint8_t)(pairs >> 8);
		bytes[n++] = (uint8_t)pairs;
		for (unsigned i = 0; i < pairs; i++) {
			bytes[n++] = 0xa3;
			bytes[n++] = 'a' + i % 26;
			bytes[n++] = 'a' + i / 26 % 26;
			bytes[n++] = 'a' + i / 676;
			bytes[n++] = 0x01;
		}
		assert_int_equal(validate(bytes, n, &pack_limits_head), pairs <= PACK_KEYS_MAX ? 0 : ERR_LIMIT);
		if (pairs == PACK_KEYS_MAX) {
			memcpy(bytes + n - 4, "aaa", 3); /* the last key again the first */
			assert_int_equal(validate(bytes, n, &pack_limits_head), ERR_MALFORMED);
		}
	}

	/* Closed maps give their keys back: nine maps of 200 keys in one array. */
	size_t n = 0;
	bytes[n++] = 0x99;
	for (unsigned map = 0; map < 9; map++) {
		memcpy(bytes + n, "\xde\x00\xc8", 3);
		n += 3;
		for (unsigned i = 0; i < 200; i++) {
			bytes[n++] = 0xa2;
			bytes[n++] = 'a' + i % 26;
			bytes[n++] = 'a' + i / 26;
			bytes[n++] = 0x01;
		}
	}
	assert_true(n > 7000 && n <= sizeof(bytes));
	assert_int_equal(validate(bytes, n, &pack_limits_head), 0);

	/* Open ones do not: 200 keys, the last one's value a map of 100. */
	n = 0;
	memcpy(bytes, "\xde\x00\xc8", 3);
	n += 3;
	for (unsigned i = 0; i < 300; i++) {
		if (i == 200) {
			memcpy(bytes + n - 1, "\xde\x00\x64", 3); /* instead of the value 1 */
			n += 2;
		}
		bytes[n++] = 0xa2;
		bytes[n++] = 'a' + i % 26;
		bytes[n++] = 'a' + i / 26;
		bytes[n++] = 0x01;
	}
	assert_int_equal(validate(bytes, n, &pack_limits_head), ERR_LIMIT);
}

static void validator_bounds_bytes_and_nodes(void **state)
{
	static uint8_t bytes[5000] = { 0xdc, 0x0f, 0xff }; /* 4,095 zeros */
	assert_int_equal(validate(bytes, 3 + 4095, &pack_limits_head), 0);
	bytes[1] = 0x10;
	bytes[2] = 0x00;
	assert_int_equal(validate(bytes, 3 + 4096, &pack_limits_head), ERR_LIMIT);

	size_t n = (64u << 10) + 1;
	uint8_t *large = calloc(1, n);
	assert_non_null(large);
	memcpy(large, "\xc5\xff\xfd", 3); /* bin of 65,533 bytes: 64 KiB in all */
	assert_int_equal(validate(large, n - 1, &pack_limits_head), 0);
	memcpy(large, "\xc6\x00\x00\xff\xfc", 5); /* one byte more in all */
	assert_int_equal(validate(large, n, &pack_limits_head), ERR_LIMIT);
	assert_int_equal(validate(large, n, &pack_limits_record), 0);
	free(large);
}

static void validator_refuses_nothing_two_values_and_the_unused_byte(void **state)
{
	assert_refused(ERR_MALFORMED, "");
	assert_refused(ERR_MALFORMED, "\x01\x01");
	assert_refused(ERR_MALFORMED, "\x80\x00");
	assert_refused(ERR_MALFORMED, "\xc1");
	assert_refused(ERR_MALFORMED, "\x91\xc1");
}

static void validator_knows_the_size_of_every_kind_of_value(void **state)
{
	/* c0 .. df with all zeros behind: the whole size of the value, from the specification's table */
	static const uint8_t sizes[32] = {
		[0x00] = 1, [0x01] = 0, [0x02] = 1, [0x03] = 1,              /* nil, unused, bools */
		[0x04] = 2, [0x05] = 3, [0x06] = 5,                          /* bin */
		[0x07] = 3, [0x08] = 4, [0x09] = 6,                          /* ext */
		[0x0a] = 5, [0x0b] = 9,                                      /* floats */
		[0x0c] = 2, [0x0d] = 3, [0x0e] = 5, [0x0f] = 9,              /* uint */
		[0x10] = 2, [0x11] = 3, [0x12] = 5, [0x13] = 9,              /* int */
		[0x14] = 3, [0x15] = 4, [0x16] = 6, [0x17] = 10, [0x18] = 18, /* fixext */
		[0x19] = 2, [0x1a] = 3, [0x1b] = 5,                          /* str */
		[0x1c] = 3, [0x1d] = 5, [0x1e] = 3, [0x1f] = 5,              /* array, map */
	};
	for (unsigned first = 0; first < 256; first++) {
		uint8_t bytes[64] = { (uint8_t)first };
		size_t size = first <= 0x7f || first >= 0xe0 ? 1
			    : first >= 0xc0 ? sizes[first - 0xc0]
			    : first >= 0xa0 ? 1 + (first & 31u) /* fixstr */
			    : first >= 0x90 ? 1 + (first & 15u) /* fixarray of zeros */
					    : 1; /* fixmap: a zero is no key */
		for (size_t n = 1; n < sizeof(bytes); n++) {
			bool good = n == size && !(first > 0x80 && first <= 0x8f);
			assert_int_equal(validate(bytes, n, &pack_limits_head), good ? 0 : ERR_MALFORMED);
		}
	}
}

static void validator_refuses_truncation_at_every_length(void **state)
{
	struct buf out;
	buf_init(&out, 1000);
	write_sample(&out);
	assert_int_equal(validate(out.data, out.length, &pack_limits_head), 0);
	for (size_t n = 0; n < out.length; n++)
		assert_int_equal(validate(out.data, n, &pack_limits_head), ERR_MALFORMED);
	assert_int_equal(buf_append(&out, "", 1), 0);
	assert_int_equal(validate(out.data, out.length, &pack_limits_head), ERR_MALFORMED);
	buf_release(&out);
}

static void whatever_validates_msgpack_c_can_parse(void **state)
{
	/* Every input of two bytes, and the sample with every byte set to every value. */
	unsigned valid = 0;
	for (unsigned i = 0; i < 0x10000; i++) {
		uint8_t bytes[2] = { (uint8_t)i, (uint8_t)(i >> 8) };
		struct pack_doc doc;
		if (pack_validate(bytes, 2, &pack_limits_head) == 0) {
			valid++;
			assert_int_equal(pack_parse(&doc, bytes, 2, &pack_limits_head), 0);
			pack_release(&doc);
		}
	}
	/* by the specification: cc and d0 (256 each), 91 with the 197 bytes that are whole values, a1 (256),
	 * c4 00, d9 00; 81 and c7 need three bytes */
	unsigned single = 128 + 32 + 3 + 1 + 1 + 1; /* fixints, nil and bools, empty fixmap, fixarray, fixstr */
	assert_int_equal(valid, 256 + 256 + single + 256 + 1 + 1);

	struct buf out;
	buf_init(&out, 1000);
	write_sample(&out);
	for (size_t at = 0; at < out.length; at++) {
		uint8_t was = out.data[at];
		for (unsigned value = 0; value < 256; value++) {
			out.data[at] = (uint8_t)value;
			if (validate(out.data, out.length, &pack_limits_head) == 0) {
				struct pack_doc doc;
				assert_int_equal(pack_parse(&doc, out.data, out.length, &pack_limits_head), 0);
				pack_release(&doc);
			}
		}
		out.data[at] = was;
	}
	buf_release(&out);
}

/* --- writing and reading --- */

static void everything_written_reads_back(void **state)
{
	struct buf out;
	buf_init(&out, 1000);
	write_sample(&out);
	struct pack_doc doc;
	assert_int_equal(pack_parse(&doc, out.data, out.length, &pack_limits_head), 0);
	int err = 77;
	struct pack_cursor c = pack_root(&doc, &err);
	assert_int_equal(err, 0);

	assert_true(pack_is_map(c));
	assert_false(pack_is_array(c));
	assert_int_equal(pack_count(c), 12);
	assert_true(pack_get_bool_or(c, "yes", false));
	assert_true(pack_get_uint(c, "large", UINT64_MAX) == UINT64_MAX);
	assert_true(pack_get_int(c, "negative") == INT64_MIN);
	assert_true(pack_get_int(c, "last") == 300);
	assert_true(pack_get_double_or(c, "double", 0) == -0.1);
	char text[16];
	memset(text, 'x', sizeof(text));
	pack_get_str(c, "name", text, sizeof(text));
	assert_memory_equal(text, "d\xc3\xa9j\xc3\xa0\0\0\0\0\0\0\0\0\0\0", 16);
	pack_get_str(c, "", text, sizeof(text));
	assert_string_equal(text, "the empty key");
	uint8_t key[4];
	pack_get_exact(c, "key", key, sizeof(key));
	assert_memory_equal(key, "\0\1\2\3", 4);
	size_t n;
	const uint8_t *bin = pack_borrow_bin(c, "key", 4, &n);
	assert_int_equal(n, 4);
	assert_true(bin > out.data && bin < out.data + out.length);
	assert_non_null(pack_borrow_bin(c, "empty", 0, &n));
	assert_int_equal(n, 0);
	const char *name = pack_borrow_str(c, "name", 6, &n);
	assert_int_equal(n, 6);
	assert_memory_equal(name, "d\xc3\xa9j\xc3\xa0", 6);
	assert_true(pack_has(c, "nil"));
	assert_false(pack_has(c, "ni"));
	assert_false(pack_has(c, "nill"));

	struct pack_cursor list = pack_get(c, "list");
	assert_true(pack_is_array(list));
	assert_int_equal(pack_count(list), 5);
	assert_true(pack_at_uint(list, 0, 7) == 7);
	assert_true(pack_at_int(list, 0) == 7);
	assert_true(pack_at_int(list, 1) == -7);
	assert_true(pack_at_double(list, 2) == 7.5);
	pack_at_str(list, 3, text, sizeof(text));
	assert_string_equal(text, "seven");
	pack_at_exact(list, 4, key, 3);
	assert_memory_equal(key, "777", 3);
	assert_memory_equal(pack_at_borrow_bin(list, 4, 3, &n), "777", 3);
	struct pack_cursor inner = pack_at(pack_get(pack_get(c, "nested"), "list"), 0);
	assert_true(pack_is_array(inner));
	assert_int_equal(pack_count(inner), 0);
	assert_int_equal(err, 0);
	pack_release(&doc);
	pack_release(&doc);
	buf_release(&out);
}

/* {"n": 300, "neg": -1, "s": "abc", "bad": "\xff", "nul": "a\0b", "b": bin "abc", "d": NaN, "l": [1], "t": true,
 *  "x": ext} */
static const char odd[] = "\x8a\xa1n\xcd\x01\x2c\xa3neg\xff\xa1s\xa3"
			  "abc\xa3"
			  "bad\xa1\xff\xa3nul\xa3"
			  "a\0b\xa1"
			  "b\xc4\x03"
			  "abc\xa1"
			  "d\xcb\x7f\xf8\0\0\0\0\0\0\xa1l\x91\x01\xa1t\xc3\xa1x\xd4\x05\x06";

static struct pack_doc odd_doc;
static int odd_err;
static struct pack_cursor fresh(void)
{
	return pack_root(&odd_doc, &odd_err);
}

static void getters_refuse_other_types_missing_keys_and_too_much(void **state)
{
	assert_int_equal(pack_parse(&odd_doc, (const uint8_t *)odd, sizeof(odd) - 1, &pack_limits_head), 0);
	char text[4];
	uint8_t bytes[3];
	size_t n;

#define REFUSES(err, call)                                     \
	do {                                                   \
		struct pack_cursor c = fresh();                \
		(void)(call);                                  \
		if (odd_err != (err))                          \
			fail_msg("%s gave %d", #call, odd_err); \
	} while (0)
	REFUSES(0, pack_get_uint(c, "n", 300));
	REFUSES(ERR_LIMIT, pack_get_uint(c, "n", 299));
	REFUSES(ERR_LIMIT, pack_get_uint_or(c, "n", 299, 1));
	REFUSES(ERR_MALFORMED, pack_get_uint(c, "neg", UINT64_MAX));
	REFUSES(ERR_MALFORMED, pack_get_uint(c, "none", UINT64_MAX));
	REFUSES(ERR_MALFORMED, pack_get_uint(c, "s", UINT64_MAX));
	REFUSES(ERR_MALFORMED, pack_get_uint(c, "x", UINT64_MAX));
	REFUSES(ERR_MALFORMED, pack_get_int(c, "s"));
	REFUSES(ERR_MALFORMED, pack_get_int(c, "none"));
	REFUSES(ERR_MALFORMED, pack_get_bool_or(c, "n", true));
	REFUSES(ERR_MALFORMED, pack_get_double_or(c, "d", 1)); /* not a number */
	REFUSES(ERR_MALFORMED, pack_get_double_or(c, "n", 1));
	REFUSES(0, (pack_get_str(c, "s", text, 4), 0));
	REFUSES(ERR_LIMIT, (pack_get_str(c, "s", text, 3), 0));
	REFUSES(ERR_MALFORMED, (pack_get_str(c, "bad", text, 4), 0));
	REFUSES(ERR_MALFORMED, (pack_get_str(c, "nul", text, 4), 0));
	REFUSES(ERR_MALFORMED, (pack_get_str(c, "b", text, 4), 0));
	REFUSES(ERR_MALFORMED, (pack_get_str(c, "none", text, 4), 0));
	REFUSES(ERR_MALFORMED, (pack_get_str_or(c, "n", text, 4, ""), 0));
	REFUSES(ERR_LIMIT, (pack_get_str_or(c, "none", text, 4, "long"), 0));
	REFUSES(ERR_LIMIT, pack_borrow_str(c, "s", 2, &n));
	REFUSES(ERR_MALFORMED, pack_borrow_str(c, "bad", 9, &n));
	REFUSES(ERR_MALFORMED, pack_borrow_str(c, "b", 9, &n));
	REFUSES(0, (pack_get_exact(c, "b", bytes, 3), 0));
	REFUSES(ERR_MALFORMED, (pack_get_exact(c, "b", bytes, 2), 0));
	REFUSES(ERR_MALFORMED, (pack_get_exact(c, "s", bytes, 3), 0));
	REFUSES(ERR_MALFORMED, (pack_get_exact(c, "x", bytes, 1), 0));
	REFUSES(ERR_LIMIT, pack_borrow_bin(c, "b", 2, &n));
	REFUSES(ERR_MALFORMED, pack_borrow_bin(c, "s", 9, &n));
	REFUSES(ERR_MALFORMED, pack_get(c, "n").object);
	REFUSES(ERR_MALFORMED, pack_get(c, "none").object);
	REFUSES(ERR_MALFORMED, pack_at(c, 0).object); /* a map has no elements */
	REFUSES(ERR_MALFORMED, pack_at(pack_get(c, "l"), 0).object);
	REFUSES(ERR_MALFORMED, pack_at_uint(pack_get(c, "l"), 1, 9));
	REFUSES(ERR_MALFORMED, pack_at_int(pack_get(c, "l"), SIZE_MAX));
	REFUSES(ERR_MALFORMED, pack_at_double(pack_get(c, "l"), 0));
	REFUSES(ERR_MALFORMED, (pack_at_str(pack_get(c, "l"), 0, text, 4), 0));
	REFUSES(ERR_MALFORMED, (pack_at_exact(pack_get(c, "l"), 0, bytes, 1), 0));
	REFUSES(ERR_MALFORMED, pack_at_borrow_bin(pack_get(c, "l"), 0, 9, &n));
	REFUSES(ERR_MALFORMED, pack_get_uint(pack_get(c, "l"), "n", 300));
	REFUSES(ERR_MALFORMED, pack_get_uint_or(pack_get(c, "l"), "n", 300, 5)); /* no map, so nothing is missing */
	REFUSES(ERR_MALFORMED, pack_get_uint_or(pack_get(c, "none"), "n", 300, 5));
	REFUSES(ERR_MALFORMED, pack_count(pack_get(c, "n")));
#undef REFUSES

	pack_release(&odd_doc);
}

static void missing_keys_take_the_other_value(void **state)
{
	assert_int_equal(pack_parse(&odd_doc, (const uint8_t *)odd, sizeof(odd) - 1, &pack_limits_head), 0);
	struct pack_cursor c = fresh();
	char text[8];
	assert_true(pack_get_uint_or(c, "none", 3, 12345) == 12345);
	assert_true(pack_get_bool_or(c, "none", true));
	assert_false(pack_get_bool_or(c, "none", false));
	assert_true(pack_get_double_or(c, "none", 2.5) == 2.5);
	pack_get_str_or(c, "none", text, sizeof(text), "other");
	assert_string_equal(text, "other");
	pack_get_str_or(c, "s", text, sizeof(text), "other");
	assert_string_equal(text, "abc");
	assert_int_equal(odd_err, 0);
	pack_release(&odd_doc);
}

static void after_an_error_every_getter_gives_zero(void **state)
{
	assert_int_equal(pack_parse(&odd_doc, (const uint8_t *)odd, sizeof(odd) - 1, &pack_limits_head), 0);
	struct pack_cursor c = fresh();
	struct pack_cursor list = pack_get(c, "l");
	assert_true(pack_get_uint(c, "n", 1) == 0);
	assert_int_equal(odd_err, ERR_LIMIT);

	char text[4] = "xyz";
	uint8_t bytes[3] = { 1, 2, 3 };
	size_t n = 9;
	assert_true(pack_get_uint(c, "n", 300) == 0);
	assert_true(pack_get_uint_or(c, "none", 300, 7) == 0);
	assert_true(pack_get_int(c, "neg") == 0);
	assert_false(pack_get_bool_or(c, "t", true));
	assert_false(pack_get_bool_or(c, "none", true));
	assert_true(pack_get_double_or(c, "none", 7) == 0);
	pack_get_str(c, "s", text, sizeof(text));
	assert_memory_equal(text, "\0\0\0\0", 4);
	memcpy(text, "xyz", 4);
	pack_get_str_or(c, "none", text, sizeof(text), "yes");
	assert_memory_equal(text, "\0\0\0\0", 4);
	pack_get_exact(c, "b", bytes, 3);
	assert_memory_equal(bytes, "\0\0\0", 3);
	assert_null(pack_borrow_bin(c, "b", 9, &n));
	assert_int_equal(n, 0);
	n = 9;
	assert_null(pack_borrow_str(c, "s", 9, &n));
	assert_int_equal(n, 0);
	assert_false(pack_has(c, "n"));
	assert_int_equal(pack_count(c), 0);
	assert_int_equal(pack_count(list), 0);
	assert_true(pack_at_uint(list, 0, 9) == 0);
	assert_null(pack_get(c, "l").object);
	assert_null(pack_at(list, 0).object);
	assert_int_equal(odd_err, ERR_LIMIT); /* the first one is kept */
	pack_release(&odd_doc);
}

static void getters_read_every_width_of_integer(void **state)
{
	static const char bytes[] = "\x9a\x05\xcc\x05\xcd\x00\x05\xce\0\0\0\x05\xcf\0\0\0\0\0\0\0\x05\xd0\x05\xd1\0\x05\xd2\0\0\0\x05\xd3\0\0\0\0\0\0\0\x05\xd0\xfb";
	struct pack_doc doc;
	int err;
	assert_int_equal(pack_parse(&doc, (const uint8_t *)bytes, sizeof(bytes) - 1, &pack_limits_head), 0);
	struct pack_cursor c = pack_root(&doc, &err);
	for (size_t i = 0; i < 9; i++) {
		assert_true(pack_at_uint(c, i, 5) == 5);
		assert_true(pack_at_int(c, i) == 5);
	}
	assert_true(pack_at_int(c, 9) == -5);
	assert_int_equal(err, 0);
	pack_release(&doc);

	static const char large[] = "\x91\xcf\x80\0\0\0\0\0\0\0"; /* 2^63: no int64 */
	assert_int_equal(pack_parse(&doc, (const uint8_t *)large, sizeof(large) - 1, &pack_limits_head), 0);
	c = pack_root(&doc, &err);
	assert_true(pack_at_uint(c, 0, UINT64_MAX) == UINT64_C(1) << 63);
	assert_true(pack_at_int(c, 0) == 0);
	assert_int_equal(err, ERR_LIMIT);
	pack_release(&doc);
}

static void empty_values_are_no_null_pointers(void **state)
{
	/* {"": ""}: nothing was read before them, and msgpack-c leaves NULL for both. */
	struct pack_doc doc;
	int err;
	size_t n = 9;
	assert_int_equal(pack_parse(&doc, (const uint8_t *)"\x81\xa0\xa0", 3, &pack_limits_head), 0);
	struct pack_cursor c = pack_root(&doc, &err);
	assert_true(pack_has(c, ""));
	assert_non_null(pack_borrow_str(c, "", 9, &n));
	assert_int_equal(n, 0);
	assert_int_equal(err, 0);
	pack_release(&doc);

	assert_int_equal(pack_parse(&doc, (const uint8_t *)"\x91\xc4\x00", 3, &pack_limits_head), 0);
	c = pack_root(&doc, &err);
	n = 9;
	assert_non_null(pack_at_borrow_bin(c, 0, 9, &n));
	assert_int_equal(n, 0);
	assert_int_equal(err, 0);
	pack_release(&doc);
}

static void doubles_that_are_not_finite_are_refused(void **state)
{
	static const double bad[] = { NAN, INFINITY, -INFINITY };
	for (size_t i = 0; i < COUNT(bad); i++) {
		struct buf out;
		buf_init(&out, 100);
		struct pack_writer w;
		pack_writer_init(&w, &out);
		pack_array(&w, 1);
		pack_double(&w, bad[i]);
		assert_int_equal(w.err, 0);
		struct pack_doc doc;
		int err;
		assert_int_equal(pack_parse(&doc, out.data, out.length, &pack_limits_head), 0);
		struct pack_cursor c = pack_root(&doc, &err);
		assert_true(pack_at_double(c, 0) == 0);
		assert_int_equal(err, ERR_MALFORMED);
		pack_release(&doc);
		buf_release(&out);
	}
}

static void a_scalar_document_gives_an_error_not_a_crash(void **state)
{
	struct pack_doc doc;
	int err;
	assert_int_equal(pack_parse(&doc, (const uint8_t *)"\x05", 1, &pack_limits_head), 0);
	struct pack_cursor c = pack_root(&doc, &err);
	assert_false(pack_is_map(c));
	assert_false(pack_is_array(c));
	assert_false(pack_has(c, "k"));
	assert_true(pack_get_uint_or(c, "k", 9, 5) == 0);
	assert_int_equal(err, ERR_MALFORMED);
	pack_release(&doc);
}

static void writer_keeps_its_first_error_and_writes_nothing_more(void **state)
{
	struct buf out;
	buf_init(&out, 10);
	struct pack_writer w;
	pack_writer_init(&w, &out);
	pack_kv_str(&w, "12345", "too long for it");
	assert_int_equal(w.err, ERR_LIMIT);
	size_t length = out.length;
	pack_nil(&w);
	pack_kv_uint(&w, "k", 1);
	pack_bin(&w, "", 0);
	assert_int_equal(out.length, length);
	assert_int_equal(w.err, ERR_LIMIT);
	buf_release(&out);
}

static void writer_refuses_what_no_reader_would_take(void **state)
{
	static const struct {
		const char *text;
		size_t n;
	} bad[] = { { "\xff", 1 }, { "a\0b", 3 }, { "\xc3", 1 } };
	for (size_t i = 0; i < COUNT(bad); i++) {
		struct buf out;
		buf_init(&out, 100);
		struct pack_writer w;
		pack_writer_init(&w, &out);
		pack_strn(&w, bad[i].text, bad[i].n);
		assert_int_equal(w.err, ERR_MALFORMED);
		assert_int_equal(out.length, 0);
		pack_writer_init(&w, &out);
		pack_map(&w, (size_t)UINT32_MAX + 1);
		assert_int_equal(w.err, ERR_LIMIT);
		pack_writer_init(&w, &out);
		pack_array(&w, (size_t)UINT32_MAX + 1);
		assert_int_equal(w.err, ERR_LIMIT);
		assert_int_equal(out.length, 0);
		buf_release(&out);
	}
}

static void parse_reports_missing_memory(void **state)
{
	struct pack_doc doc;
	no_zone = 1;
	assert_int_equal(pack_parse(&doc, (const uint8_t *)"\x90", 1, &pack_limits_head), -ENOMEM);
	no_zone = 0;
	assert_null(doc.zone);
	pack_release(&doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(validator_refuses_counts_that_the_bytes_do_not_cover),
		cmocka_unit_test(validator_refuses_counts_that_are_covered_one_by_one_but_not_together),
		cmocka_unit_test(validator_refuses_nesting_past_its_limit),
		cmocka_unit_test(validator_refuses_a_key_twice),
		cmocka_unit_test(validator_refuses_keys_that_are_no_strings),
		cmocka_unit_test(validator_bounds_the_keys_that_are_open_together),
		cmocka_unit_test(validator_bounds_bytes_and_nodes),
		cmocka_unit_test(validator_refuses_nothing_two_values_and_the_unused_byte),
		cmocka_unit_test(validator_knows_the_size_of_every_kind_of_value),
		cmocka_unit_test(validator_refuses_truncation_at_every_length),
		cmocka_unit_test(whatever_validates_msgpack_c_can_parse),
		cmocka_unit_test(everything_written_reads_back),
		cmocka_unit_test(getters_refuse_other_types_missing_keys_and_too_much),
		cmocka_unit_test(missing_keys_take_the_other_value),
		cmocka_unit_test(after_an_error_every_getter_gives_zero),
		cmocka_unit_test(getters_read_every_width_of_integer),
		cmocka_unit_test(empty_values_are_no_null_pointers),
		cmocka_unit_test(doubles_that_are_not_finite_are_refused),
		cmocka_unit_test(a_scalar_document_gives_an_error_not_a_crash),
		cmocka_unit_test(writer_keeps_its_first_error_and_writes_nothing_more),
		cmocka_unit_test(writer_refuses_what_no_reader_would_take),
		cmocka_unit_test(parse_reports_missing_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
