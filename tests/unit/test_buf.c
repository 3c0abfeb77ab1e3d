/* realloc() is wrapped by the linker (--wrap), so that running out of memory happens when a test says so.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "proto/buf.h"
#include "proto/err.h"

static int no_memory;
static size_t largest_asked;

void *__real_realloc(void *data, size_t size);
void *__wrap_realloc(void *data, size_t size);
void *__wrap_realloc(void *data, size_t size)
{
	if (size > largest_asked)
		largest_asked = size;
	return no_memory ? NULL : __real_realloc(data, size);
}

static void buf_holds_what_was_appended(void **state)
{
	struct buf buf;
	buf_init(&buf, 1000);
	assert_int_equal(buf_append(&buf, "abc", 3), 0);
	assert_int_equal(buf_append(&buf, NULL, 0), 0);
	assert_int_equal(buf_append_str(&buf, "def"), 0);
	assert_int_equal(buf_printf(&buf, "-%d-%s", 42, "x"), 0);
	assert_int_equal(buf.length, 11);
	assert_memory_equal(buf.data, "abcdef-42-x", 11);
	buf_release(&buf);
	assert_null(buf.data);
	assert_int_equal(buf.length, 0);
	assert_int_equal(buf_append(&buf, "again", 5), 0);
	assert_memory_equal(buf.data, "again", 5);
	buf_release(&buf);
}

static void buf_fills_to_its_maximum_and_refuses_one_byte_more(void **state)
{
	for (size_t max = 0; max < 300; max++) {
		struct buf buf;
		buf_init(&buf, max);
		for (size_t i = 0; i < max; i++) {
			uint8_t byte = (uint8_t)i;
			assert_int_equal(buf_append(&buf, &byte, 1), 0);
		}
		assert_false(buf.lost);
		assert_int_equal(buf_append(&buf, "x", 1), ERR_LIMIT);
		assert_true(buf.lost);
		assert_int_equal(buf_printf(&buf, "x"), ERR_LIMIT);
		assert_null(buf_reserve(&buf, 1));
		assert_int_equal(buf.length, max);
		assert_true(buf.capacity <= max + 1);
		for (size_t i = 0; i < max; i++)
			assert_int_equal(buf.data[i], (uint8_t)i);
		buf_release(&buf);
	}
}

static void buf_refuses_a_length_past_the_maximum_before_asking_for_memory(void **state)
{
	struct buf buf;
	buf_init(&buf, 1000);
	assert_int_equal(buf_append(&buf, "kept", 4), 0);
	largest_asked = 0;
	assert_null(buf_reserve(&buf, SIZE_MAX));
	assert_null(buf_reserve(&buf, SIZE_MAX - 3));
	assert_null(buf_reserve(&buf, 997));
	assert_int_equal(buf_append(&buf, "x", SIZE_MAX), ERR_LIMIT);
	assert_int_equal(largest_asked, 0);
	assert_int_equal(buf.length, 4);
	assert_memory_equal(buf.data, "kept", 4);
	buf_release(&buf);
}

static void buf_keeps_its_contents_when_memory_runs_out(void **state)
{
	struct buf buf;
	buf_init(&buf, SIZE_MAX);
	assert_int_equal(buf_append(&buf, "kept", 4), 0);
	no_memory = 1;
	assert_null(buf_reserve(&buf, 5000));
	buf.lost = false;
	assert_int_equal(buf_printf(&buf, "%5000s", ""), -ENOMEM);
	assert_true(buf.lost);
	uint8_t big[5000] = { 0 };
	assert_int_equal(buf_append(&buf, big, sizeof(big)), -ENOMEM);
	no_memory = 0;
	assert_int_equal(buf.length, 4);
	assert_memory_equal(buf.data, "kept", 4);
	assert_int_equal(buf_append(&buf, big, sizeof(big)), 0);
	assert_memory_equal(buf.data, "kept\0", 5);
	buf_release(&buf);
}

static void buf_consume_drops_from_the_front(void **state)
{
	struct buf buf;
	buf_init(&buf, 10);
	assert_int_equal(buf_append_str(&buf, "0123456789"), 0);
	buf_consume(&buf, 0);
	buf_consume(&buf, 4);
	assert_int_equal(buf.length, 6);
	assert_memory_equal(buf.data, "456789", 6);
	assert_int_equal(buf_append_str(&buf, "abcd"), 0);
	assert_memory_equal(buf.data, "456789abcd", 10);
	buf_consume(&buf, 10);
	assert_int_equal(buf.length, 0);
	buf_release(&buf);
	buf_consume(&buf, 0); /* of a buffer that never had memory */
}

static void buf_reserve_and_grow_write_in_place(void **state)
{
	struct buf buf;
	buf_init(&buf, 100);
	uint8_t *at = buf_reserve(&buf, 50);
	assert_non_null(at);
	memset(at, 'a', 50);
	buf_grow(&buf, 20);
	assert_int_equal(buf.length, 20);
	at = buf_reserve(&buf, 80);
	assert_ptr_equal(at, buf.data + 20);
	memset(at, 'b', 80);
	buf_grow(&buf, 80);
	assert_int_equal(buf.data[19], 'a');
	assert_int_equal(buf.data[99], 'b');
	buf_release(&buf);
}

static void buf_move_takes_memory_and_maximum(void **state)
{
	struct buf from, to;
	buf_init(&from, 100);
	buf_init(&to, 5);
	assert_int_equal(buf_append_str(&from, "what is moved"), 0);
	assert_int_equal(buf_append_str(&to, "old"), 0);
	const uint8_t *memory = from.data;
	buf_move(&to, &from);
	assert_ptr_equal(to.data, memory);
	assert_int_equal(to.length, 13);
	assert_int_equal(to.max, 100);
	assert_null(from.data);
	assert_int_equal(from.length, 0);
	assert_int_equal(buf_append_str(&from, "usable again"), 0);
	buf_move(&to, &to);
	assert_memory_equal(to.data, "what is moved", 13);
	buf_release(&from);
	buf_release(&to);
}

static void buf_cstr_ends_with_nul_even_when_the_buffer_is_full(void **state)
{
	struct buf buf;
	buf_init(&buf, 0);
	assert_string_equal(buf_cstr(&buf), "");
	buf_release(&buf);

	buf_init(&buf, 64); /* a power of two: full to the last byte of the first allocation */
	char text[65];
	memset(text, 'x', 64);
	text[64] = '\0';
	assert_int_equal(buf_append(&buf, text, 64), 0);
	assert_string_equal(buf_cstr(&buf), text);
	assert_int_equal(buf.length, 64);
	buf_clear(&buf);
	assert_string_equal(buf_cstr(&buf), "");
	assert_int_equal(buf_printf(&buf, "%s", text), 0);
	assert_int_equal(buf.length, 64);
	buf_release(&buf);

	no_memory = 1;
	assert_null(buf_cstr(&buf));
	no_memory = 0;
}

static void numbers_are_little_endian_at_any_alignment(void **state)
{
	static const uint8_t wire[] = { 0xff, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x87, 0xf8 };
	assert_int_equal(get_u16(wire + 1), 0x0201);
	assert_int_equal(get_u32(wire + 1), 0x04030201);
	assert_true(get_u64(wire + 1) == UINT64_C(0xf887060504030201));
	assert_true(get_u32(wire + 5) == UINT32_C(0xf8870605));
	uint8_t out[9] = { 0xff };
	put_u64(out + 1, UINT64_C(0xf887060504030201));
	assert_memory_equal(out, wire, sizeof(wire));
	put_u32(out + 1, UINT32_MAX);
	put_u16(out + 3, 0x8000);
	assert_memory_equal(out, "\xff\xff\xff\x00\x80\x05", 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buf_holds_what_was_appended),
		cmocka_unit_test(buf_fills_to_its_maximum_and_refuses_one_byte_more),
		cmocka_unit_test(buf_refuses_a_length_past_the_maximum_before_asking_for_memory),
		cmocka_unit_test(buf_keeps_its_contents_when_memory_runs_out),
		cmocka_unit_test(buf_consume_drops_from_the_front),
		cmocka_unit_test(buf_reserve_and_grow_write_in_place),
		cmocka_unit_test(buf_move_takes_memory_and_maximum),
		cmocka_unit_test(buf_cstr_ends_with_nul_even_when_the_buffer_is_full),
		cmocka_unit_test(numbers_are_little_endian_at_any_alignment),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
