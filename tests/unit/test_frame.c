/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"
#include "proto/frame.h"

/* A header as a stranger might write it. */
static void header(uint8_t out[FRAME_HEADER], uint32_t length, uint8_t type, uint32_t head_length)
{
	memset(out, 0, FRAME_HEADER);
	put_u32(out, length);
	out[4] = type;
	put_u32(out + 8, head_length);
}

static int decode(const uint8_t *bytes, size_t n)
{
	/* Exactly n bytes of heap, so that a sanitizer sees a read past them. */
	uint8_t *copy = malloc(n ? n : 1);
	assert_non_null(copy);
	memcpy(copy, bytes, n);
	struct frame f;
	size_t used;
	int err = frame_decode(copy, n, &f, &used);
	if (err) {
		assert_int_equal(used, 0);
		assert_null(f.head);
		assert_null(f.tail);
	}
	free(copy);
	return err;
}

static void frame_round_trips_with_head_and_tail(void **state)
{
	struct buf out;
	buf_init(&out, FRAME_MAX);
	assert_int_equal(frame_encode(&out, FRAME_ROWS, "\x80", 1, "activations", 11), 0);
	static const uint8_t wire[] = { 20, 0, 0, 0, 34, 0, 0, 0, 1, 0, 0, 0, 0x80, 'a', 'c', 't' };
	assert_int_equal(out.length, 24);
	assert_memory_equal(out.data, wire, sizeof(wire));

	struct frame f;
	size_t used;
	assert_int_equal(frame_decode(out.data, out.length, &f, &used), 0);
	assert_int_equal(used, 24);
	assert_int_equal(f.type, FRAME_ROWS);
	assert_int_equal(f.flags, 0);
	assert_int_equal(f.head_length, 1);
	assert_ptr_equal(f.head, out.data + 12);
	assert_int_equal(f.tail_length, 11);
	assert_ptr_equal(f.tail, out.data + 13);
	buf_release(&out);
}

static void frame_may_be_empty(void **state)
{
	struct buf out;
	buf_init(&out, FRAME_HEADER);
	assert_int_equal(frame_encode(&out, FRAME_PING, NULL, 0, NULL, 0), 0);
	struct frame f;
	size_t used;
	assert_int_equal(frame_decode(out.data, out.length, &f, &used), 0);
	assert_int_equal(used, FRAME_HEADER);
	assert_int_equal(f.head_length, 0);
	assert_int_equal(f.tail_length, 0);
	buf_release(&out);
}

static void frame_waits_for_every_missing_byte(void **state)
{
	struct buf out;
	buf_init(&out, 1000);
	assert_int_equal(frame_encode(&out, FRAME_TOKENS, "head", 4, "tail", 4), 0);
	for (size_t n = 0; n < out.length; n++)
		assert_int_equal(decode(out.data, n), -EAGAIN);
	assert_int_equal(decode(out.data, out.length), 0);
	buf_release(&out);
}

static void frame_stream_is_cut_into_the_same_frames(void **state)
{
	struct buf out;
	buf_init(&out, 100000);
	uint8_t bytes[600];
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7);
	for (size_t i = 0; i < 50; i++)
		assert_int_equal(frame_encode(&out, (enum frame_type)(i + 1), bytes, i * 3, bytes + i, i * 11), 0);

	for (size_t i = 0; i < 50; i++) {
		struct frame f;
		size_t used;
		assert_int_equal(frame_decode(out.data, out.length, &f, &used), 0);
		assert_int_equal(f.type, i + 1);
		assert_int_equal(f.head_length, i * 3);
		assert_memory_equal(f.head, bytes, i * 3);
		assert_int_equal(f.tail_length, i * 11);
		assert_memory_equal(f.tail, bytes + i, i * 11);
		buf_consume(&out, used);
	}
	assert_int_equal(out.length, 0);
	buf_release(&out);
}

static void frame_rejects_a_length_past_the_limit(void **state)
{
	static const uint32_t lengths[] = { FRAME_MAX - 3, FRAME_MAX, 16u << 20, 1u << 31, UINT32_MAX };
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		uint8_t bytes[FRAME_HEADER];
		header(bytes, lengths[i], FRAME_ROWS, 0);
		for (size_t n = 4; n <= FRAME_HEADER; n++) /* with the length alone, not later */
			assert_int_equal(decode(bytes, n), ERR_LIMIT);
	}
}

static void frame_rejects_a_length_shorter_than_its_header(void **state)
{
	for (uint32_t length = 0; length < 8; length++) {
		uint8_t bytes[FRAME_HEADER];
		header(bytes, length, FRAME_ROWS, 0);
		for (size_t n = 4; n <= FRAME_HEADER; n++)
			assert_int_equal(decode(bytes, n), ERR_MALFORMED);
	}
}

static void frame_rejects_flags_reserved_bits_and_no_type(void **state)
{
	uint8_t bytes[FRAME_HEADER];
	for (size_t at = 5; at <= 7; at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			header(bytes, 8, FRAME_PING, 0);
			bytes[at] = (uint8_t)(1u << bit);
			assert_int_equal(decode(bytes, at), -EAGAIN);
			for (size_t n = at + 1; n <= FRAME_HEADER; n++)
				assert_int_equal(decode(bytes, n), ERR_MALFORMED);
		}
	header(bytes, 8, 0, 0);
	assert_int_equal(decode(bytes, 5), ERR_MALFORMED);
}

static void frame_leaves_unknown_types_to_the_receiver(void **state)
{
	static const uint8_t types[] = { 6, 99, 127, 128, 255 };
	for (size_t i = 0; i < sizeof(types); i++) {
		uint8_t bytes[FRAME_HEADER];
		header(bytes, 8, types[i], 0);
		assert_int_equal(decode(bytes, FRAME_HEADER), 0);
	}
}

static void frame_rejects_a_head_past_its_limit_or_past_the_frame(void **state)
{
	uint8_t bytes[FRAME_HEADER];
	header(bytes, 8 + FRAME_HEAD_MAX + 1, FRAME_ROWS, FRAME_HEAD_MAX + 1);
	assert_int_equal(decode(bytes, FRAME_HEADER), ERR_LIMIT);
	header(bytes, 100, FRAME_ROWS, UINT32_MAX);
	assert_int_equal(decode(bytes, FRAME_HEADER), ERR_LIMIT);
	header(bytes, 100, FRAME_ROWS, 93);
	assert_int_equal(decode(bytes, FRAME_HEADER), ERR_MALFORMED);
	header(bytes, 100, FRAME_ROWS, 92);
	assert_int_equal(decode(bytes, FRAME_HEADER), -EAGAIN);
}

static void frame_rejects_a_tail_past_its_limit(void **state)
{
	uint8_t bytes[FRAME_HEADER];
	header(bytes, 8 + FRAME_TAIL_MAX + 1, FRAME_ROWS, 0);
	assert_int_equal(decode(bytes, FRAME_HEADER), ERR_LIMIT);
	header(bytes, 8 + FRAME_TAIL_MAX, FRAME_ROWS, 0);
	assert_int_equal(decode(bytes, FRAME_HEADER), -EAGAIN);
}

static void frame_of_the_largest_size_round_trips(void **state)
{
	uint8_t *bytes = calloc(1, FRAME_TAIL_MAX + 1);
	assert_non_null(bytes);
	memset(bytes, 0x5a, FRAME_TAIL_MAX);
	struct buf out;
	buf_init(&out, FRAME_MAX);
	assert_int_equal(frame_encode(&out, FRAME_ROWS, bytes, FRAME_HEAD_MAX, bytes, FRAME_TAIL_MAX), 0);
	assert_int_equal(out.length, FRAME_MAX);
	struct frame f;
	size_t used;
	assert_int_equal(frame_decode(out.data, out.length - 1, &f, &used), -EAGAIN);
	assert_int_equal(frame_decode(out.data, out.length, &f, &used), 0);
	assert_int_equal(used, FRAME_MAX);
	assert_int_equal(f.tail[f.tail_length - 1], 0x5a);

	buf_clear(&out);
	assert_int_equal(frame_encode(&out, FRAME_ROWS, bytes, FRAME_HEAD_MAX + 1, NULL, 0), ERR_LIMIT);
	assert_int_equal(frame_encode(&out, FRAME_ROWS, NULL, 0, bytes, FRAME_TAIL_MAX + 1), ERR_LIMIT);
	assert_int_equal(frame_encode(&out, (enum frame_type)0, NULL, 0, NULL, 0), ERR_MALFORMED);
	assert_int_equal(frame_encode(&out, (enum frame_type)256, NULL, 0, NULL, 0), ERR_MALFORMED);
	assert_int_equal(out.length, 0);
	buf_release(&out);
	free(bytes);
}

static void frame_that_does_not_fit_the_buffer_leaves_no_part_behind(void **state)
{
	struct buf out;
	buf_init(&out, 40);
	assert_int_equal(frame_encode(&out, FRAME_PING, NULL, 0, NULL, 0), 0);
	assert_int_equal(frame_encode(&out, FRAME_PONG, "0123456789", 10, "abcdefg", 7), ERR_LIMIT);
	assert_int_equal(out.length, FRAME_HEADER);
	assert_int_equal(frame_encode(&out, FRAME_PONG, "0123456789", 10, "abcdef", 6), 0);
	assert_int_equal(out.length, 40);
	buf_release(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frame_round_trips_with_head_and_tail),
		cmocka_unit_test(frame_may_be_empty),
		cmocka_unit_test(frame_waits_for_every_missing_byte),
		cmocka_unit_test(frame_stream_is_cut_into_the_same_frames),
		cmocka_unit_test(frame_rejects_a_length_past_the_limit),
		cmocka_unit_test(frame_rejects_a_length_shorter_than_its_header),
		cmocka_unit_test(frame_rejects_flags_reserved_bits_and_no_type),
		cmocka_unit_test(frame_leaves_unknown_types_to_the_receiver),
		cmocka_unit_test(frame_rejects_a_head_past_its_limit_or_past_the_frame),
		cmocka_unit_test(frame_rejects_a_tail_past_its_limit),
		cmocka_unit_test(frame_of_the_largest_size_round_trips),
		cmocka_unit_test(frame_that_does_not_fit_the_buffer_leaves_no_part_behind),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
