/* test_extents.c: which pieces lie under the wanted layers, and which bytes under the pieces that are here. Pure.
 *
 * The model of most tests: one file of 10 pieces of 16 KiB and 1,000 bytes more (piece 10), four layers.
 *
 *   piece    0        1        2..3     4..5     6..7     8..9     10
 *   bytes    header   embed.   layer 0  layer 1  layer 2  layer 3  output
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/store/extents.h"

#define PIECE (16u << 10)
#define SIZE (10 * PIECE + 1000)

static struct model_file one_file[] = {{.name = "m.gguf", .size = SIZE}};
static struct model_extent aligned[] = {
	{GROUP_HEADER, 0, 0, 900},
	{GROUP_EMBEDDING, 0, PIECE, PIECE},
	{GROUP_OUTPUT, 0, 10 * PIECE, 1000},
	{GROUP_LAYER + 0, 0, 2 * PIECE, 2 * PIECE},
	{GROUP_LAYER + 1, 0, 4 * PIECE, 2 * PIECE},
	{GROUP_LAYER + 2, 0, 6 * PIECE, 2 * PIECE},
	{GROUP_LAYER + 3, 0, 8 * PIECE, 2 * PIECE},
};

static struct manifest_body body_of(struct model_extent *extents, size_t n)
{
	return (struct manifest_body){.n_layer = 4, .n_files = 1, .files = one_file, .n_extents = n, .extents = extents, .splittable = true};
}
static struct layout layout_of(void)
{
	return (struct layout){.piece_length = PIECE, .n_pieces = 11, .n_files = 1, .files = {{SIZE, 0}}};
}

/* Pieces as a string: "xx..x......". */
static const char *drawn(const uint8_t *bits, uint32_t n)
{
	static char text[256];

	for (uint32_t i = 0; i < n; i++)
		text[i] = pieces_get(bits, i) ? 'x' : '.';
	text[n] = 0;
	return text;
}
static void draw(const char *text, uint8_t *bits)
{
	memset(bits, 0, PIECES_BYTES(strlen(text)));
	for (uint32_t i = 0; text[i]; i++) {
		if (text[i] == 'x')
			pieces_set(bits, i);
	}
}

static void a_middle_range_wants_header_and_its_layers_only(void **state)
{
	struct layout layout = layout_of();
	struct manifest_body body = body_of(aligned, 7);
	uint8_t want[2], first[2];

	assert_int_equal(extents_wanted(&layout, &body, &(struct layer_range){1, 3}, 1, want, first), 0);
	assert_string_equal(drawn(want, 11), "x...xxxx...");
	assert_string_equal(drawn(first, 11), "x..........");
}

static void the_first_range_brings_the_embedding_and_the_last_the_output(void **state)
{
	struct layout layout = layout_of();
	struct manifest_body body = body_of(aligned, 7);
	uint8_t want[2];

	assert_int_equal(extents_wanted(&layout, &body, &(struct layer_range){0, 1}, 1, want, NULL), 0);
	assert_string_equal(drawn(want, 11), "xxxx.......");
	assert_int_equal(extents_wanted(&layout, &body, &(struct layer_range){3, 4}, 1, want, NULL), 0);
	assert_string_equal(drawn(want, 11), "x.......xxx");
	assert_int_equal(extents_wanted(&layout, &body, &(struct layer_range){0, 4}, 1, want, NULL), 0);
	assert_string_equal(drawn(want, 11), "xxxxxxxxxxx");
}

static void several_ranges_add_up(void **state)
{
	struct layout layout = layout_of();
	struct manifest_body body = body_of(aligned, 7);
	struct layer_range ranges[] = {{0, 1}, {3, 4}};
	uint8_t want[2];

	assert_int_equal(extents_wanted(&layout, &body, ranges, 2, want, NULL), 0);
	assert_string_equal(drawn(want, 11), "xxxx....xxx");
}

static void no_range_wants_nothing_not_even_the_header(void **state)
{
	struct layout layout = layout_of();
	struct manifest_body body = body_of(aligned, 7);
	uint8_t want[2] = {0xff, 0xff};

	assert_int_equal(extents_wanted(&layout, &body, NULL, 0, want, NULL), 0);
	assert_string_equal(drawn(want, 11), "...........");
}

static void an_extent_that_ends_on_a_boundary_does_not_want_the_next_piece(void **state)
{
	struct layout layout = layout_of();
	struct model_extent extents[] = {{GROUP_HEADER, 0, 0, PIECE}, {GROUP_LAYER, 0, 3 * PIECE, 1}, {GROUP_LAYER, 0, 5 * PIECE - 1, 2}};
	struct manifest_body body = body_of(extents, 3);
	uint8_t want[2];

	assert_int_equal(extents_wanted(&layout, &body, &(struct layer_range){0, 1}, 1, want, NULL), 0);
	assert_string_equal(drawn(want, 11), "x..xxx.....");
}

static void an_empty_extent_wants_nothing_even_at_the_end_of_the_file(void **state)
{
	struct layout layout = layout_of();
	struct model_extent extents[] = {{GROUP_HEADER, 0, SIZE, 0}, {GROUP_LAYER, 0, 3 * PIECE, 0}};
	struct manifest_body body = body_of(extents, 2);
	uint8_t want[2];

	assert_int_equal(extents_wanted(&layout, &body, &(struct layer_range){0, 4}, 1, want, NULL), 0);
	assert_string_equal(drawn(want, 11), "...........");
}

static void extents_outside_their_file_are_refused(void **state)
{
	struct layout layout = layout_of();
	struct model_extent bad[] = {
		{GROUP_LAYER, 0, SIZE, 1}, {GROUP_LAYER, 0, SIZE - 1, 2}, {GROUP_LAYER, 0, UINT64_MAX, 2},
		{GROUP_LAYER, 0, 1, UINT64_MAX}, {GROUP_LAYER, 1, 0, 1}, {GROUP_LAYER, UINT32_MAX, 0, 0},
	};
	uint8_t want[2];

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct manifest_body body = body_of(&bad[i], 1);

		assert_int_equal(extents_wanted(&layout, &body, &(struct layer_range){0, 4}, 1, want, NULL), ERR_MALFORMED);
		/* also when nothing is wanted: such a manifest is never taken */
		assert_int_equal(extents_wanted(&layout, &body, NULL, 0, want, NULL), ERR_MALFORMED);
	}
}

static void ranges_that_are_empty_or_past_the_model_are_refused(void **state)
{
	struct layout layout = layout_of();
	struct manifest_body body = body_of(aligned, 7);
	struct layer_range bad[] = {{0, 5}, {2, 2}, {3, 1}, {0, UINT32_MAX}};
	struct layer_range many[RANGES_MAX + 1] = {{0, 1}};
	uint8_t want[2];

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(extents_wanted(&layout, &body, &bad[i], 1, want, NULL), ERR_LIMIT);
	assert_int_equal(extents_wanted(&layout, &body, many, RANGES_MAX + 1, want, NULL), ERR_LIMIT);
}

static void files_lie_where_the_torrent_put_them_not_where_the_manifest_lists_them(void **state)
{
	struct model_file files[] = {{.name = "b", .size = 3 * PIECE}, {.name = "a", .size = PIECE + 1}};
	struct model_extent extents[] = {{GROUP_HEADER, 0, 0, 10}, {GROUP_HEADER, 1, 0, 10}, {GROUP_LAYER, 1, PIECE, 1}};
	struct manifest_body body = {.n_layer = 4, .n_files = 2, .files = files, .n_extents = 3, .extents = extents};
	/* the torrent: a in pieces 0..1, b in 2..4 */
	struct layout layout = {.piece_length = PIECE, .n_pieces = 5, .n_files = 2, .files = {{3 * PIECE, 2}, {PIECE + 1, 0}}};
	uint8_t want[1], have[1];
	struct model_extent *out;
	size_t n;

	assert_int_equal(extents_check_layout(&layout), 0);
	assert_int_equal(extents_wanted(&layout, &body, &(struct layer_range){0, 1}, 1, want, NULL), 0);
	assert_string_equal(drawn(want, 5), "xxx..");
	assert_int_equal(extents_bytes(&layout, want, NULL), 2 * PIECE + 1);

	draw("xx..x", have);
	assert_int_equal(extents_verified(&layout, have, &out, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(out[0].file, 0);
	assert_int_equal(out[0].offset, 2 * PIECE);
	assert_int_equal(out[0].length, PIECE);
	assert_int_equal(out[1].file, 1);
	assert_int_equal(out[1].offset, 0);
	assert_int_equal(out[1].length, PIECE + 1);
	free(out);
}

static void verified_runs_are_joined_and_end_with_the_file(void **state)
{
	struct layout layout = layout_of();
	struct model_extent *out;
	uint8_t have[2];
	size_t n;

	draw("xx.xxx...xx", have);
	assert_int_equal(extents_verified(&layout, have, &out, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(out[0].offset, 0);
	assert_int_equal(out[0].length, 2 * PIECE);
	assert_int_equal(out[1].offset, 3 * PIECE);
	assert_int_equal(out[1].length, 3 * PIECE);
	assert_int_equal(out[2].offset, 9 * PIECE);
	assert_int_equal(out[2].length, PIECE + 1000);
	free(out);
	draw("x.x.x.x.x.x", have);
	assert_int_equal(extents_verified(&layout, have, &out, &n), 0);
	assert_int_equal(n, 6);
	free(out);
	draw("...........", have);
	assert_int_equal(extents_verified(&layout, have, &out, &n), 0);
	assert_int_equal(n, 0);
	assert_null(out);
}

/* The property that matters: after fetching exactly what is wanted, every wanted byte lies in a verified extent. */
static void what_is_wanted_is_verified_once_its_pieces_are_there(void **state)
{
	uint32_t seed = 12345;

	for (int round = 0; round < 2000; round++) {
		struct model_extent extents[24], *out;
		struct layout layout = {.piece_length = PIECE, .n_files = 2};
		struct model_file files[2] = {{.name = "a"}, {.name = "b"}};
		struct manifest_body body = {.n_layer = 6, .n_files = 2, .files = files, .n_extents = 24, .extents = extents};
		uint8_t want[8];
		size_t n;

		for (int f = 0; f < 2; f++) {
			seed = seed * 1664525 + 1013904223;
			files[f].size = 1 + seed % (20 * PIECE);
			layout.files[f] = (struct layout_file){files[f].size, layout.n_pieces};
			layout.n_pieces += (uint32_t)((files[f].size + PIECE - 1) / PIECE);
		}
		for (int e = 0; e < 24; e++) {
			struct model_extent *x = &extents[e];

			seed = seed * 1664525 + 1013904223;
			x->group = e < 4 ? (uint32_t)e : GROUP_LAYER + (uint32_t)e % 6;
			x->file = seed >> 31;
			x->offset = (seed >> 4) % files[x->file].size;
			seed = seed * 1664525 + 1013904223;
			x->length = (seed >> 4) % (files[x->file].size - x->offset + 1);
		}
		struct layer_range range = {.first = seed % 6};
		range.end = range.first + 1 + (seed >> 8) % (6 - range.first);
		assert_int_equal(extents_check_layout(&layout), 0);
		assert_int_equal(extents_wanted(&layout, &body, &range, 1, want, NULL), 0);
		assert_int_equal(extents_verified(&layout, want, &out, &n), 0);

		uint64_t verified = 0;
		for (size_t i = 0; i < n; i++) {
			verified += out[i].length;
			assert_true(out[i].offset + out[i].length <= files[out[i].file].size);
			if (i > 0 && out[i].file == out[i - 1].file)
				assert_true(out[i].offset > out[i - 1].offset + out[i - 1].length);
		}
		assert_int_equal(verified, extents_bytes(&layout, want, NULL));
		for (int e = 0; e < 24; e++) {
			const struct model_extent *x = &extents[e];
			bool inside = x->length == 0;

			for (size_t i = 0; i < n; i++)
				inside |= out[i].file == x->file && out[i].offset <= x->offset &&
					  x->offset + x->length <= out[i].offset + out[i].length;
			if (manifest_group_in(&body, x->group, &range, 1))
				assert_true(inside);
		}
		free(out);
	}
}

static void bytes_count_files_without_their_padding(void **state)
{
	struct layout layout = layout_of();
	uint8_t a[2], b[2];

	assert_int_equal(extents_piece_bytes(&layout, 0), PIECE);
	assert_int_equal(extents_piece_bytes(&layout, 10), 1000);
	draw("xx........x", a);
	draw(".xx.......x", b);
	assert_int_equal(extents_bytes(&layout, a, NULL), 2 * PIECE + 1000);
	assert_int_equal(extents_bytes(&layout, a, b), PIECE + 1000);
	draw("xxxxxxxxxxx", a);
	assert_int_equal(extents_bytes(&layout, a, NULL), SIZE);
}

static void impossible_layouts_are_refused(void **state)
{
	struct layout good = layout_of(), l;

	assert_int_equal(extents_check_layout(&good), 0);
	l = good, l.piece_length = 8 << 10;
	assert_int_equal(extents_check_layout(&l), ERR_MALFORMED);
	l = good, l.piece_length = 3 * PIECE;
	assert_int_equal(extents_check_layout(&l), ERR_MALFORMED);
	l = good, l.n_pieces = 10;
	assert_int_equal(extents_check_layout(&l), ERR_MALFORMED);
	l = good, l.n_pieces = PIECES_MAX + 1;
	assert_int_equal(extents_check_layout(&l), ERR_MALFORMED);
	l = good, l.files[0].size = 0;
	assert_int_equal(extents_check_layout(&l), ERR_MALFORMED);
	l = good, l.files[0].size = UINT64_MAX;
	assert_int_equal(extents_check_layout(&l), ERR_MALFORMED);
	l = good, l.files[0].first_piece = UINT32_MAX;
	assert_int_equal(extents_check_layout(&l), ERR_MALFORMED);
	l = good, l.n_files = 0;
	assert_int_equal(extents_check_layout(&l), ERR_MALFORMED);
	l = (struct layout){.piece_length = PIECE, .n_pieces = 4, .n_files = 2, .files = {{2 * PIECE, 0}, {2 * PIECE, 1}}};
	assert_int_equal(extents_check_layout(&l), ERR_MALFORMED);
	l.files[1].first_piece = 2;
	assert_int_equal(extents_check_layout(&l), 0);
}

static void pieces_are_small_for_small_models_and_few_enough_for_a_manifest(void **state)
{
	static const struct {
		uint64_t size;
		uint32_t length;
	} cases[] = {
		{1, PIECE}, {300 << 10, PIECE}, {32 << 20, PIECE}, {(32 << 20) + 1, 2 * PIECE}, {640 << 20, 512 << 10},
		{UINT64_C(8) << 30, 4 << 20}, {UINT64_C(16) << 30, 8 << 20}, {UINT64_C(40) << 30, 16 << 20}, {UINT64_C(400) << 30, 128 << 20},
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		assert_int_equal(extents_piece_length(&cases[i].size, 1), cases[i].length);
	for (uint64_t size = 1; size < UINT64_C(900) << 30; size = size * 3 / 2 + 1) {
		uint32_t length = extents_piece_length(&size, 1);

		assert_true((size + length - 1) / length <= 3600);
		assert_int_equal(length & (length - 1), 0);
	}
	uint64_t many[MODEL_FILES_MAX];
	for (size_t i = 0; i < MODEL_FILES_MAX; i++)
		many[i] = 100;
	assert_int_equal(extents_piece_length(many, MODEL_FILES_MAX), PIECE);
}

static void covering_looks_at_every_piece(void **state)
{
	uint8_t have[2], want[2];

	draw("xxxxxxxxxx.", have);
	draw("x.........x", want);
	assert_false(pieces_cover(have, want, 11));
	draw("x........x.", want);
	assert_true(pieces_cover(have, want, 11));
	assert_int_equal(pieces_count(have, 11), 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_middle_range_wants_header_and_its_layers_only),
		cmocka_unit_test(the_first_range_brings_the_embedding_and_the_last_the_output),
		cmocka_unit_test(several_ranges_add_up),
		cmocka_unit_test(no_range_wants_nothing_not_even_the_header),
		cmocka_unit_test(an_extent_that_ends_on_a_boundary_does_not_want_the_next_piece),
		cmocka_unit_test(an_empty_extent_wants_nothing_even_at_the_end_of_the_file),
		cmocka_unit_test(extents_outside_their_file_are_refused),
		cmocka_unit_test(ranges_that_are_empty_or_past_the_model_are_refused),
		cmocka_unit_test(files_lie_where_the_torrent_put_them_not_where_the_manifest_lists_them),
		cmocka_unit_test(verified_runs_are_joined_and_end_with_the_file),
		cmocka_unit_test(what_is_wanted_is_verified_once_its_pieces_are_there),
		cmocka_unit_test(bytes_count_files_without_their_padding),
		cmocka_unit_test(impossible_layouts_are_refused),
		cmocka_unit_test(pieces_are_small_for_small_models_and_few_enough_for_a_manifest),
		cmocka_unit_test(covering_looks_at_every_piece),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
