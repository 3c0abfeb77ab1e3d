/* Manifests: which bytes a shard reads, and every lie about files and extents.
 *
 *   file 0 |header 0..4096|embedding = output ..69632|layer 0 ..79632|layer 1 ..89632|
 *   file 1 |header|shared|layer 1|layer 2 ......|layer 3 ......|   |7 bytes of layer 3|   |256 of output|
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/samples.h"

enum { HEADERS = 4096 + 512, EMBEDDING = 65536, OUTPUT_OWN = 256, SHARED = 128,
       LAYER_0 = 10000, LAYER_1 = 10100, LAYER_2 = 20000, LAYER_3 = 20007 };

static uint64_t bytes_of(const struct manifest_body *b, uint32_t first, uint32_t end)
{
	struct layer_range range = { first, end };
	return manifest_bytes(b, &range, 1);
}

/* --- which bytes ----------------------------------------------------------------------------------------- */

static void manifest_bytes_of_a_shard_are_its_groups(void **state)
{
	struct manifest_body b;
	sample_manifest(&b);
	assert_int_equal(bytes_of(&b, 0, 1), HEADERS + SHARED + EMBEDDING + LAYER_0);
	assert_int_equal(bytes_of(&b, 1, 2), HEADERS + SHARED + LAYER_1);
	assert_int_equal(bytes_of(&b, 1, 3), HEADERS + SHARED + LAYER_1 + LAYER_2);
	assert_int_equal(bytes_of(&b, 3, 4), HEADERS + SHARED + LAYER_3 + EMBEDDING + OUTPUT_OWN);
	assert_int_equal(manifest_bytes(&b, NULL, 0), HEADERS + SHARED);
	manifest_free(&b);
}

static void manifest_bytes_count_tied_embeddings_once(void **state)
{
	struct manifest_body b;
	sample_manifest(&b);
	uint64_t whole = HEADERS + SHARED + EMBEDDING + OUTPUT_OWN + LAYER_0 + LAYER_1 + LAYER_2 + LAYER_3;
	assert_int_equal(bytes_of(&b, 0, 4), whole);

	/* The same from two ranges that meet, that leave a hole, and that overlap. */
	struct layer_range meeting[] = { { 0, 2 }, { 2, 4 } }, ends[] = { { 3, 4 }, { 0, 1 } }, overlapping[] = { { 0, 3 }, { 1, 4 } };
	assert_int_equal(manifest_bytes(&b, meeting, 2), whole);
	assert_int_equal(manifest_bytes(&b, ends, 2), whole - LAYER_1 - LAYER_2);
	assert_int_equal(manifest_bytes(&b, overlapping, 2), whole);
	manifest_free(&b);
}

/* Against a map of every byte: random extents from a seed, overlapping between groups in every way. */
static void manifest_bytes_equal_a_count_byte_by_byte(void **state)
{
	enum { SIZE = 2000, FILES = 2, LAYERS = 6 };
	uint8_t seed[randombytes_SEEDBYTES] = { 42 }, noise[4096];
	for (unsigned round = 0; round < 300; round++) {
		seed[1] = (uint8_t)round;
		seed[2] = (uint8_t)(round >> 8);
		randombytes_buf_deterministic(noise, sizeof(noise), seed);

		struct manifest_body b = { .n_layer = LAYERS };
		struct model_extent extents[200];
		static const uint32_t groups[] = { 0, 1, 2, 3, 16, 17, 18, 19, 20, 21 };
		const uint8_t *at = noise;
		b.extents = extents;
		for (size_t g = 0; g < sizeof(groups) / sizeof(*groups); g++) {
			for (uint32_t file = 0; file < FILES; file++) {
				uint64_t offset = 0;
				for (unsigned k = *at++ % 4; k; k--) {
					offset += *at++;
					uint64_t length = 1u + *at++;
					extents[b.n_extents++] = (struct model_extent){ groups[g], file, offset, length };
					offset += length;
				}
			}
		}
		struct layer_range ranges[2];
		for (unsigned k = 0; k < 2; k++) {
			ranges[k].first = *at++ % LAYERS;
			ranges[k].end = ranges[k].first + 1 + *at++ % (LAYERS - ranges[k].first);
		}

		static uint8_t seen[FILES][SIZE];
		memset(seen, 0, sizeof(seen));
		for (size_t i = 0; i < b.n_extents; i++)
			if (manifest_group_in(&b, extents[i].group, ranges, 2))
				memset(&seen[extents[i].file][extents[i].offset], 1, extents[i].length);
		uint64_t expected = 0;
		for (size_t i = 0; i < sizeof(seen); i++)
			expected += ((uint8_t *)seen)[i];
		assert_int_equal(manifest_bytes(&b, ranges, 2), expected);
	}
}

static void manifest_bytes_of_the_largest_manifest(void **state)
{
	/* As many extents as there may be, in 16 files, in an order that is not the files'. */
	struct manifest_body b = { .n_layer = 1024, .n_extents = MODEL_EXTENTS_MAX };
	b.extents = calloc(MODEL_EXTENTS_MAX, sizeof(*b.extents));
	for (uint32_t i = 0; i < MODEL_EXTENTS_MAX; i++)
		b.extents[i] = (struct model_extent){ GROUP_LAYER + i / 4, i * 7 % 16, (uint64_t)(MODEL_EXTENTS_MAX - i) << 20, 1u << 20 };
	assert_int_equal(bytes_of(&b, 0, 1024), (uint64_t)MODEL_EXTENTS_MAX << 20);
	assert_int_equal(bytes_of(&b, 10, 20), UINT64_C(40) << 20);
	free(b.extents);
}

static void manifest_groups_belong_to_the_ranges_that_need_them(void **state)
{
	struct manifest_body b = { .n_layer = 4 };
	struct layer_range middle = { 1, 3 }, first = { 0, 1 }, last = { 3, 4 }, two[] = { { 0, 1 }, { 3, 4 } };
	assert_true(manifest_group_in(&b, GROUP_HEADER, &middle, 1));
	assert_true(manifest_group_in(&b, GROUP_SHARED, NULL, 0));
	assert_false(manifest_group_in(&b, GROUP_EMBEDDING, &middle, 1));
	assert_true(manifest_group_in(&b, GROUP_EMBEDDING, &first, 1));
	assert_false(manifest_group_in(&b, GROUP_OUTPUT, &first, 1));
	assert_true(manifest_group_in(&b, GROUP_OUTPUT, &last, 1));
	assert_true(manifest_group_in(&b, GROUP_OUTPUT, two, 2) && manifest_group_in(&b, GROUP_EMBEDDING, two, 2));
	assert_false(manifest_group_in(&b, GROUP_LAYER + 0, &middle, 1));
	assert_true(manifest_group_in(&b, GROUP_LAYER + 1, &middle, 1));
	assert_true(manifest_group_in(&b, GROUP_LAYER + 2, &middle, 1));
	assert_false(manifest_group_in(&b, GROUP_LAYER + 3, &middle, 1));
	assert_false(manifest_group_in(&b, 7, &middle, 1));            /* no group of this version */
}

static void manifest_cuts_where_it_may(void **state)
{
	struct manifest_body b = { .n_layer = 16, .splittable = true };
	b.no_cut[9 / 8] |= 1 << 9 % 8;
	assert_true(manifest_may_cut(&b, 8));
	assert_false(manifest_may_cut(&b, 9));
	assert_false(manifest_may_cut(&b, 17));
	b.splittable = false;
	assert_false(manifest_may_cut(&b, 8));
	assert_true(manifest_may_cut(&b, 0) && manifest_may_cut(&b, 16));
}

static void model_id_is_the_hash_of_the_ordered_roots(void **state)
{
	struct model_file files[2] = { { .name = "a", .root = { 1 } }, { .name = "b", .root = { 2 } } };
	uint8_t message[14 + 2 * KEY_BYTES] = "essaim-model-1", expected[KEY_BYTES], id[KEY_BYTES], other[KEY_BYTES];
	memcpy(message + 14, files[0].root, KEY_BYTES);
	memcpy(message + 14 + KEY_BYTES, files[1].root, KEY_BYTES);
	crypto_generichash(expected, KEY_BYTES, message, sizeof(message), NULL, 0);
	model_id(id, files, 2);
	assert_memory_equal(id, expected, KEY_BYTES);

	files[0].name[0] = 'z';                  /* names do not count, order does */
	model_id(other, files, 2);
	assert_memory_equal(id, other, KEY_BYTES);
	struct model_file swapped[2] = { files[1], files[0] };
	model_id(other, swapped, 2);
	assert_memory_not_equal(id, other, KEY_BYTES);
}

/* --- on the wire ------------------------------------------------------------------------------------------ */

/* Packed, parsed and unpacked: 0 or why not. */
static int pass(const struct manifest_body *b, struct manifest_body *got)
{
	struct buf out;
	struct pack_writer w;
	struct pack_doc doc;
	int sticky, err;
	buf_init(&out, RECORD_MAX);
	pack_writer_init(&w, &out);
	err = manifest_pack(&w, b);
	if (!err)
		err = pack_parse(&doc, out.data, out.length, &pack_limits_record);
	if (!err) {
		err = manifest_unpack(pack_root(&doc, &sticky), got);
		pack_release(&doc);
	}
	buf_release(&out);
	return err;
}

static void manifest_round_trips(void **state)
{
	struct manifest_body b, got;
	sample_manifest(&b);
	b.private_ = true;
	strcpy(b.why_whole, "because");
	b.no_cut[0] = 0x04;
	memset(b.files[1].sha256, 0x83, KEY_BYTES);
	assert_int_equal(pass(&b, &got), 0);

	assert_string_equal(got.name, "stories");
	assert_string_equal(got.architecture, "llama");
	assert_string_equal(got.licence, "MIT");
	assert_true(got.private_);
	assert_string_equal(got.quantisation, "Q8_0");
	assert_string_equal(got.languages, "en");
	assert_int_equal(got.n_layer, 4);
	assert_int_equal(got.n_embd, 64);
	assert_int_equal(got.n_vocab, 512);
	assert_int_equal(got.context, 2048);
	assert_int_equal(got.parameters, 260000);
	assert_true(got.splittable);
	assert_string_equal(got.why_whole, "because");
	assert_int_equal(got.no_cut[0], 0x04);
	assert_int_equal(got.row_bytes, 256);
	assert_int_equal(got.kv_bytes_token_layer, 512);
	assert_int_equal(got.memory_permille, 1120);
	assert_int_equal(got.compute_bytes, 1u << 20);
	assert_true(got.chat_template);
	assert_int_equal(got.n_files, 2);
	assert_memory_equal(got.files, b.files, 2 * sizeof(*b.files));
	assert_int_equal(got.n_extents, b.n_extents);
	assert_memory_equal(got.extents, b.extents, b.n_extents * sizeof(*b.extents));
	assert_int_equal(got.info_length, 9);
	assert_memory_equal(got.info, "d4:infode", 9);
	manifest_free(&got);
	manifest_free(&got);             /* twice does no harm */
	manifest_free(&b);
}

static void manifest_of_the_largest_size_fits_a_record(void **state)
{
	struct manifest_body b, got;
	sample_manifest(&b);
	free(b.extents);
	free(b.info);
	b.n_layer = MODEL_LAYERS_MAX;
	b.files[0].size = MODEL_FILE_MAX;
	b.n_extents = MODEL_EXTENTS_MAX;
	b.extents = calloc(MODEL_EXTENTS_MAX + 1, sizeof(*b.extents));
	for (uint64_t i = 0; i < MODEL_EXTENTS_MAX; i++)
		b.extents[i] = (struct model_extent){ GROUP_LAYER + (uint32_t)i / 4, 0, (MODEL_FILE_MAX - (UINT64_C(1) << 40)) + (i << 20), 1u << 20 };
	b.info_length = 100000;
	b.info = calloc(1, b.info_length);

	struct record head = sample_head(), r;
	struct buf out;
	buf_init(&out, RECORD_MAX);
	assert_int_equal(manifest_sign(&out, &head, &b, sample_node.secret), 0);
	assert_int_equal(record_open(&r, out.data, out.length), 0);
	assert_int_equal(manifest_read(&r, &got), 0);
	assert_int_equal(got.n_extents, MODEL_EXTENTS_MAX);
	assert_memory_equal(got.extents, b.extents, MODEL_EXTENTS_MAX * sizeof(*b.extents));
	manifest_free(&got);

	buf_clear(&out);
	b.n_extents++;
	b.extents[MODEL_EXTENTS_MAX] = b.extents[MODEL_EXTENTS_MAX - 1];
	b.extents[MODEL_EXTENTS_MAX].offset += 1u << 20;
	assert_int_equal(manifest_sign(&out, &head, &b, sample_node.secret), ERR_LIMIT);
	b.n_extents = 0;
	b.info_length = 0;
	assert_int_equal(manifest_sign(&out, &head, &b, sample_node.secret), 0);        /* nothing known of extents: allowed */
	free(b.info);
	b.info = malloc(RECORD_MAX);
	b.info_length = RECORD_MAX;
	memset(b.info, 0, RECORD_MAX);
	assert_int_equal(manifest_sign(&out, &head, &b, sample_node.secret), ERR_LIMIT);
	buf_release(&out);
	manifest_free(&b);
}

static void manifest_subject_is_the_model_id_of_its_files(void **state)
{
	struct buf bytes;
	struct record r;
	struct manifest_body b;
	buf_init(&bytes, RECORD_MAX);
	sample_record(&bytes, RECORD_MANIFEST);
	assert_int_equal(record_open(&r, bytes.data, bytes.length), 0);
	assert_int_equal(manifest_read(&r, &b), 0);
	uint8_t id[KEY_BYTES];
	model_id(id, b.files, b.n_files);
	assert_memory_equal(r.subject, id, KEY_BYTES);
	manifest_free(&b);

	r.subject[0] ^= 1;
	assert_int_equal(manifest_read(&r, &b), ERR_MALFORMED);
	assert_null(b.files);
	buf_release(&bytes);
}

/* --- lies ------------------------------------------------------------------------------------------------- */

/* What the reader says of the sample after change(). */
static int changed(void (*change)(struct manifest_body *b, size_t i), size_t i)
{
	struct manifest_body b, got = { .n_files = 99 };
	sample_manifest(&b);
	change(&b, i);
	int err = pass(&b, &got);
	if (err) {
		assert_null(got.files);
		assert_null(got.extents);
		assert_null(got.info);
		assert_int_equal(got.n_files, 0);
	} else {
		manifest_free(&got);
	}
	manifest_free(&b);
	return err;
}

static const char *const bad_names[] = { "", ".", "..", "../x.gguf", "/etc/passwd", "a/b.gguf", ".hidden", "a\nb.gguf", "\x1b[2Jx", "a/", "\xc2\x85" };
static const char *const good_names[] = { "m.gguf", "mod\xc3\xa8le.gguf", "a b.gguf", "a..b", "-x" };

static void set_bad_name(struct manifest_body *b, size_t i) { strcpy(b->files[1].name, bad_names[i]); }
static void set_good_name(struct manifest_body *b, size_t i) { strcpy(b->files[1].name, good_names[i]); }
static void set_same_name(struct manifest_body *b, size_t i) { strcpy(b->files[1].name, b->files[0].name); }
static void set_long_name(struct manifest_body *b, size_t i)
{
	memset(b->files[1].name, 'x', 255);
	b->files[1].name[i] = '\0';
}

static void manifest_file_names_stay_in_their_folder(void **state)
{
	for (size_t i = 0; i < sizeof(bad_names) / sizeof(*bad_names); i++)
		assert_int_equal(changed(set_bad_name, i), ERR_MALFORMED);
	for (size_t i = 0; i < sizeof(good_names) / sizeof(*good_names); i++)
		assert_int_equal(changed(set_good_name, i), 0);
	assert_int_equal(changed(set_same_name, 0), ERR_MALFORMED);
	assert_int_equal(changed(set_long_name, 255), 0);
}

static const struct model_extent bad_extents[] = {
	{ GROUP_LAYER + 4, 0, 0, 1 },                          /* a layer that the model does not have */
	{ 4, 0, 0, 1 }, { 15, 0, 0, 1 },                       /* between the groups */
	{ GROUP_LAYER + 3, 2, 0, 1 },                          /* a file that the manifest does not have */
	{ GROUP_LAYER + 3, 1, 90256, 1 },                      /* behind the end */
	{ GROUP_LAYER + 3, 1, 90255, 2 },                      /* across the end */
	{ GROUP_LAYER + 3, 1, 60000, 0 },                      /* nothing */
	{ GROUP_LAYER + 3, 1, 50006, 1 },                      /* within the one before */
	{ GROUP_LAYER + 3, 1, 49999, 1 },                      /* before the one before */
	{ GROUP_LAYER + 3, 0, 60000, 1 },                      /* an earlier file */
	{ GROUP_LAYER + 2, 1, 60000, 1 },                      /* an earlier group */
	{ GROUP_LAYER + 3, 1, 50000, 7 },                      /* the same again */
};
static const struct model_extent huge_extents[] = {
	{ GROUP_LAYER + 3, 1, UINT64_MAX, 2 },                 /* offset + length wraps to 1 */
	{ GROUP_LAYER + 3, 1, 60000, UINT64_MAX },
	{ GROUP_LAYER + 3, 1, 60000, UINT64_MAX - 60000 + 2 },
	{ GROUP_LAYER + 3, 1, MODEL_FILE_MAX + 1, 1 },
	{ GROUP_LAYER + 3, MODEL_FILES_MAX, 0, 1 },
	{ GROUP_LAYER + MODEL_LAYERS_MAX, 0, 0, 1 },
	{ UINT32_MAX, 0, 0, 1 },
};

static void append(struct manifest_body *b, const struct model_extent *e)
{
	b->extents = realloc(b->extents, (b->n_extents + 1) * sizeof(*b->extents));
	b->extents[b->n_extents++] = *e;
}
static void add_bad(struct manifest_body *b, size_t i) { append(b, &bad_extents[i]); }
static void add_huge(struct manifest_body *b, size_t i) { append(b, &huge_extents[i]); }
static void add_touching(struct manifest_body *b, size_t i) { append(b, &(struct model_extent){ GROUP_LAYER + 3, 1, 50007, 40249 }); }

static void manifest_extents_lie_inside_their_files_in_order(void **state)
{
	for (size_t i = 0; i < sizeof(bad_extents) / sizeof(*bad_extents); i++)
		assert_int_equal(changed(add_bad, i), ERR_MALFORMED);
	for (size_t i = 0; i < sizeof(huge_extents) / sizeof(*huge_extents); i++)
		assert_int_equal(changed(add_huge, i), ERR_LIMIT);
	assert_int_equal(changed(add_touching, 0), 0);         /* up to the very end of the file */
}

static void set_number(struct manifest_body *b, size_t i)
{
	switch (i) {
	case 0: b->n_layer = 0; break;
	case 1: b->n_embd = b->row_bytes = 0; break;
	case 2: b->n_vocab = 0; break;
	case 3: b->context = 0; break;
	case 4: b->row_bytes = 255; break;
	case 5: b->files[0].size = 0; break;
	case 6: b->n_files = 0; b->n_extents = 0; break;
	case 7: strcpy(b->architecture, "a\tb"); break;
	case 8: strcpy(b->why_whole, "\x1b]0;x"); break;
	case 9: b->n_layer = MODEL_LAYERS_MAX + 1; break;
	case 10: b->n_embd = MODEL_EMBD_MAX + 1; b->row_bytes = b->n_embd * 4; break;
	case 11: b->n_vocab = MODEL_VOCAB_MAX + 1; break;
	case 12: b->context = CONTEXT_MAX + 1; break;
	case 13: b->files[0].size = MODEL_FILE_MAX + 1; break;
	case 14: b->kv_bytes_token_layer = UINT64_MAX; break;
	case 15: b->compute_bytes = UINT64_MAX; break;
	case 16: b->parameters = UINT64_MAX; break;
	case 17: b->memory_permille = 4001; break;
	case 18: b->memory_permille = 999; break;
	}
}

static void manifest_numbers_stay_in_their_limits(void **state)
{
	for (size_t i = 0; i <= 18; i++)
		assert_int_equal(changed(set_number, i), i <= 8 || i == 18 ? ERR_MALFORMED : ERR_LIMIT);
}

static void set_many_files(struct manifest_body *b, size_t n)
{
	b->files = realloc(b->files, n * sizeof(*b->files));
	for (size_t i = 2; i < n; i++) {
		b->files[i] = b->files[0];
		snprintf(b->files[i].name, sizeof(b->files[i].name), "%zu.gguf", i);
	}
	b->n_files = n;
}

static void manifest_has_at_most_sixty_four_files(void **state)
{
	assert_int_equal(changed(set_many_files, MODEL_FILES_MAX), 0);
	assert_int_equal(changed(set_many_files, MODEL_FILES_MAX + 1), ERR_LIMIT);
}

/* Whatever memory is refused, nothing leaks (ASan) and nothing half-read comes out: every prefix of the bytes. */
static void manifest_cut_anywhere_is_refused(void **state)
{
	struct manifest_body b, got;
	struct buf out;
	struct pack_writer w;
	sample_manifest(&b);
	buf_init(&out, RECORD_MAX);
	pack_writer_init(&w, &out);
	assert_int_equal(manifest_pack(&w, &b), 0);
	for (size_t n = 0; n < out.length; n++) {
		struct pack_doc doc;
		int err = pack_parse(&doc, out.data, n, &pack_limits_record);
		assert_int_equal(err, ERR_MALFORMED);
	}
	/* and every byte exchanged for some others: read in full or refused in full */
	for (size_t i = 0; i < out.length; i++) {
		for (unsigned flip = 1; flip < 256; flip <<= 1) {
			struct pack_doc doc;
			int sticky;
			out.data[i] ^= (uint8_t)flip;
			if (pack_parse(&doc, out.data, out.length, &pack_limits_record) == 0) {
				if (manifest_unpack(pack_root(&doc, &sticky), &got) == 0) {
					for (size_t k = 0; k < got.n_extents; k++)
						assert_true(got.extents[k].file < got.n_files &&
							    got.extents[k].offset + got.extents[k].length <= got.files[got.extents[k].file].size);
					manifest_free(&got);
				} else {
					assert_null(got.files);
				}
				pack_release(&doc);
			}
			out.data[i] ^= (uint8_t)flip;
		}
	}
	buf_release(&out);
	manifest_free(&b);
}

static int setup(void **state)
{
	samples_init();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(manifest_bytes_of_a_shard_are_its_groups),
		cmocka_unit_test(manifest_bytes_count_tied_embeddings_once),
		cmocka_unit_test(manifest_bytes_equal_a_count_byte_by_byte),
		cmocka_unit_test(manifest_bytes_of_the_largest_manifest),
		cmocka_unit_test(manifest_groups_belong_to_the_ranges_that_need_them),
		cmocka_unit_test(manifest_cuts_where_it_may),
		cmocka_unit_test(model_id_is_the_hash_of_the_ordered_roots),
		cmocka_unit_test(manifest_round_trips),
		cmocka_unit_test(manifest_of_the_largest_size_fits_a_record),
		cmocka_unit_test(manifest_subject_is_the_model_id_of_its_files),
		cmocka_unit_test(manifest_file_names_stay_in_their_folder),
		cmocka_unit_test(manifest_extents_lie_inside_their_files_in_order),
		cmocka_unit_test(manifest_numbers_stay_in_their_limits),
		cmocka_unit_test(manifest_has_at_most_sixty_four_files),
		cmocka_unit_test(manifest_cut_anywhere_is_refused),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
