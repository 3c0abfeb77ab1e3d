/* test_virtual.c: reading GGUF files with limits, and shards as files that do not exist.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ggml.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/embedding.h"
#include "engine/quirks.h"
#include "engine/virtual.h"
#include "proto/err.h"
#include "tests/unit/tiny_model.h"

static char why[400];

static const struct tiny_model llama6 = { .architecture = "llama", .n_layer = 6, .type = GGML_TYPE_Q8_0 };

struct opened {
	struct source source;
	struct directory directory;
};

static void open_fds(struct opened *o, const int *fds, size_t n)
{
	assert_int_equal(source_init(&o->source, fds, NULL, n, NULL, 0, why, sizeof why), 0);
	assert_int_equal(directory_read(&o->directory, &o->source, why, sizeof why), 0);
}

static void open_model(struct opened *o, const struct tiny_model *model)
{
	int fd = tiny_model_open(model);

	open_fds(o, &fd, 1);
}

static void close_model(struct opened *o)
{
	directory_release(&o->directory);
	source_release(&o->source);
}

/* What directory_read() says to these bytes. */
static int read_bytes(const void *bytes, size_t n)
{
	struct opened o;
	int fd = tiny_file(bytes, n), err;

	why[0] = 0;
	assert_int_equal(source_init(&o.source, &fd, NULL, 1, NULL, 0, why, sizeof why), 0);
	err = directory_read(&o.directory, &o.source, why, sizeof why);
	close_model(&o);
	return err;
}

/* --- source ---------------------------------------------------------------------------------------- */

static void reading_outside_verified_bytes_is_an_error(void **state)
{
	struct model_extent extents[] = { { .offset = 100, .length = 50 }, { .offset = 10, .length = 20 }, { .offset = 30, .length = 10 },
					  { .offset = 110, .length = 20 } };
	struct source source;
	char bytes[200], out[64];
	int fd;

	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (char)i;
	fd = tiny_file(bytes, sizeof bytes);
	assert_int_equal(source_init(&source, &fd, NULL, 1, extents, 4, why, sizeof why), 0);
	assert_int_equal(source_available(&source, 0, 10), 30);      /* two extents that touch are one */
	assert_int_equal(source_available(&source, 0, 100), 50);     /* one inside another too */
	assert_int_equal(source_available(&source, 0, 9), 0);
	assert_int_equal(source_available(&source, 0, 40), 0);
	assert_int_equal(source_available(&source, 0, 149), 1);
	assert_int_equal(source_available(&source, 1, 10), 0);
	assert_int_equal(source_read(&source, 0, 12, out, 28, why, sizeof why), 0);
	assert_memory_equal(out, bytes + 12, 28);
	assert_int_equal(source_read(&source, 0, 12, out, 29, why, sizeof why), ERR_ARRIVING);
	assert_int_equal(source_read(&source, 0, 0, out, 1, why, sizeof why), ERR_ARRIVING);
	source_release(&source);
}

static void an_extent_past_the_file_is_refused(void **state)
{
	struct model_extent extent = { .offset = 5, .length = 6 };
	struct source source;
	int fd = tiny_file("0123456789", 10);

	assert_int_equal(source_init(&source, &fd, NULL, 1, &extent, 1, why, sizeof why), ERR_CHANGED);
}

static void a_file_that_shrinks_is_an_error_not_a_signal(void **state)
{
	struct source source;
	char out[10];
	int fd = tiny_file("0123456789", 10);

	assert_int_equal(source_init(&source, &fd, NULL, 1, NULL, 0, why, sizeof why), 0);
	assert_int_equal(ftruncate(fd, 4), 0);
	assert_int_equal(source_read(&source, 0, 0, out, 10, why, sizeof why), ERR_CHANGED);
	source_release(&source);
}

static void a_pipe_is_not_a_model(void **state)
{
	struct source source;
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(source_init(&source, &ends[0], NULL, 1, NULL, 0, why, sizeof why), ERR_MODEL);
	close(ends[1]);
}

/* --- directory ------------------------------------------------------------------------------------- */

static void a_model_says_what_it_is(void **state)
{
	struct opened o;

	open_model(&o, &llama6);
	assert_string_equal(o.directory.architecture, "llama");
	assert_int_equal(o.directory.n_layer, 6);
	assert_int_equal(o.directory.n_embd, TINY_EMBD);
	assert_int_equal(o.directory.n_vocab, TINY_VOCAB);
	assert_int_equal(o.directory.context, TINY_CONTEXT);
	assert_false(o.directory.tied);
	assert_int_equal(directory_tensor(&o.directory, "blk.5.ffn_down.weight")->layer, 5);
	assert_null(directory_tensor(&o.directory, "blk.6.ffn_down.weight"));
	close_model(&o);
}

static void what_is_not_gguf_is_refused(void **state)
{
	static const char version1[] = "GGUF\1\0\0\0\0\0\0\0\0\0\0\0", big_endian[] = "GGUF\0\0\0\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

	assert_int_equal(read_bytes("", 0), ERR_MODEL);
	assert_int_equal(read_bytes("GGU", 3), ERR_MODEL);
	assert_int_equal(read_bytes("PK\3\4 not a model at all, but long enough", 30), ERR_MODEL);
	assert_int_equal(read_bytes(version1, sizeof version1), ERR_UNSUPPORTED);
	assert_non_null(strstr(why, "version 1"));
	assert_int_equal(read_bytes(big_endian, sizeof big_endian), ERR_UNSUPPORTED);
	assert_non_null(strstr(why, "big-endian"));
}

static void counts_that_the_bytes_do_not_cover_are_refused(void **state)
{
	uint8_t header[64] = "GGUF\3";

	put_u64(header + 8, 1);
	put_u64(header + 16, UINT64_MAX);        /* keys */
	assert_int_equal(read_bytes(header, sizeof header), ERR_LIMIT);
	put_u64(header + 8, UINT64_MAX);         /* tensors */
	put_u64(header + 16, 0);
	assert_int_equal(read_bytes(header, sizeof header), ERR_LIMIT);
	put_u64(header + 8, 0);
	put_u64(header + 16, 1);
	put_u64(header + 24, UINT64_MAX - 3);    /* a key's length */
	assert_int_equal(read_bytes(header, sizeof header), ERR_LIMIT);
	put_u64(header + 24, 1);
	header[32] = 'k';
	put_u32(header + 33, VALUE_ARRAY);
	put_u32(header + 37, VALUE_U64);
	put_u64(header + 41, UINT64_C(1) << 62); /* elements */
	assert_int_equal(read_bytes(header, sizeof header), ERR_LIMIT);
	put_u32(header + 37, VALUE_STRING);
	assert_int_equal(read_bytes(header, sizeof header), ERR_MODEL);
	put_u32(header + 37, VALUE_ARRAY);       /* an array of arrays */
	assert_int_equal(read_bytes(header, sizeof header), ERR_UNSUPPORTED);
}

static void every_truncation_is_refused(void **state)
{
	struct tiny_model small = { .architecture = "llama", .n_layer = 1, .type = GGML_TYPE_F32 };
	struct buf bytes;

	buf_init(&bytes, 16u << 20);
	tiny_model_write(&small, &bytes);
	assert_int_equal(read_bytes(bytes.data, bytes.length), 0);
	for (size_t n = 0; n < bytes.length; n += n < 16384 ? 7 : 997)
		assert_int_equal(read_bytes(bytes.data, n), ERR_MODEL);
	assert_int_equal(read_bytes(bytes.data, bytes.length - 33), ERR_MODEL);
	assert_non_null(strstr(why, "ends past the file"));
	buf_release(&bytes);
}

/* No crash, whatever is flipped: sanitizers watch. What is still accepted must still be a whole model. */
static void no_flipped_bit_in_the_header_breaks_the_reader(void **state)
{
	struct tiny_model small = { .architecture = "llama", .n_layer = 2, .type = GGML_TYPE_Q8_0, .kv_heads_array = true };
	unsigned accepted = 0, refused = 0;
	struct opened o;
	struct buf bytes;
	size_t header;

	open_model(&o, &small);
	header = o.directory.header_lengths[0];
	close_model(&o);
	buf_init(&bytes, 16u << 20);
	tiny_model_write(&small, &bytes);
	for (size_t bit = 0; bit < header * 8; bit += bit < 4096 ? 1 : 61) {
		bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (read_bytes(bytes.data, bytes.length) == 0)
			accepted++;
		else
			refused++;
		bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_true(refused > 100 && accepted > 100);
	buf_release(&bytes);
}

static void a_key_a_token_or_a_tensor_twice_is_refused(void **state)
{
	struct buf bytes;
	uint8_t *at;

	buf_init(&bytes, 16u << 20);
	tiny_model_write(&llama6, &bytes);
	at = memmem(bytes.data, bytes.length, "tokenizer.ggml.bos_token_id", 27);
	assert_non_null(at);
	memcpy(at, "tokenizer.ggml.eos_token_id", 27);
	assert_int_equal(read_bytes(bytes.data, bytes.length), ERR_MODEL);
	assert_non_null(strstr(why, "twice"));
	buf_clear(&bytes);
	tiny_model_write(&llama6, &bytes);
	at = memmem(bytes.data, bytes.length, "<0x41>", 6);
	assert_non_null(at);
	memcpy(at, "<0x42>", 6);
	assert_int_equal(read_bytes(bytes.data, bytes.length), ERR_MODEL);
	assert_non_null(strstr(why, "twice"));
	buf_clear(&bytes);
	tiny_model_write(&llama6, &bytes);
	at = memmem(bytes.data, bytes.length, "blk.1.attn_q.weight", 19);
	assert_non_null(at);
	memcpy(at, "blk.0.attn_q.weight", 19);
	assert_int_equal(read_bytes(bytes.data, bytes.length), ERR_MODEL);
	assert_non_null(strstr(why, "twice"));
	buf_release(&bytes);
}

static void a_header_that_is_not_here_yet_is_not_read_as_zeros(void **state)
{
	struct model_extent some = { .length = 1000 };
	struct opened o;
	int fd = tiny_model_open(&llama6);

	assert_int_equal(source_init(&o.source, &fd, NULL, 1, &some, 1, why, sizeof why), 0);
	assert_int_equal(directory_read(&o.directory, &o.source, why, sizeof why), ERR_ARRIVING);
	close_model(&o);
}

static void split_files_are_one_model(void **state)
{
	struct tiny_model part = llama6;
	struct opened o;
	int fds[3], swapped[3];

	part.parts = 3;
	for (part.part = 0; part.part < 3; part.part++)
		fds[part.part] = tiny_model_open(&part);
	for (int i = 0; i < 3; i++)
		swapped[i] = dup(fds[i == 0 ? 0 : 3 - i]);
	open_fds(&o, fds, 3);
	assert_int_equal(directory_tensor(&o.directory, "token_embd.weight")->file, 0);
	assert_int_equal(directory_tensor(&o.directory, "output.weight")->file, 2);
	assert_int_equal(o.directory.n_layer, 6);
	close_model(&o);

	assert_int_equal(source_init(&o.source, swapped, NULL, 3, NULL, 0, why, sizeof why), 0);
	assert_int_equal(directory_read(&o.directory, &o.source, why, sizeof why), ERR_MODEL);
	assert_non_null(strstr(why, "in order"));
	close_model(&o);

	part.part = 0;
	fds[0] = tiny_model_open(&part);
	assert_int_equal(source_init(&o.source, fds, NULL, 1, NULL, 0, why, sizeof why), 0);
	assert_int_equal(directory_read(&o.directory, &o.source, why, sizeof why), ERR_MODEL);
	assert_non_null(strstr(why, "give all of them"));
	close_model(&o);
}

/* --- virtual --------------------------------------------------------------------------------------- */

/* The whole virtual file, read in odd steps, as a file of its own. */
static void materialise(struct virtual_file *file, struct opened *out)
{
	uint8_t *bytes = malloc(file->size);
	uint64_t at = 0;
	int fd;

	assert_non_null(bytes);
	while (at < file->size) {
		size_t step = 1 + at % 4093;
		ssize_t n = virtual_read(file, bytes + at, step < file->size - at ? step : file->size - at, at);

		assert_true(n > 0);
		at += (uint64_t)n;
	}
	assert_int_equal(virtual_read(file, bytes, 1, file->size), 0);
	fd = tiny_file(bytes, file->size);
	free(bytes);
	open_fds(out, &fd, 1);
}

static void assert_same_tensor(const struct opened *a, const char *in_a, const struct opened *b, const char *in_b)
{
	const struct directory_tensor *x = directory_tensor(&a->directory, in_a), *y = directory_tensor(&b->directory, in_b);
	uint8_t *bytes_x, *bytes_y;

	assert_non_null(x);
	assert_non_null(y);
	assert_int_equal(x->size, y->size);
	bytes_x = malloc(x->size);
	bytes_y = malloc(y->size);
	assert_int_equal(source_read(&a->source, x->file, x->offset, bytes_x, x->size, why, sizeof why), 0);
	assert_int_equal(source_read(&b->source, y->file, y->offset, bytes_y, y->size, why, sizeof why), 0);
	assert_memory_equal(bytes_x, bytes_y, x->size);
	free(bytes_x);
	free(bytes_y);
}

static void assert_zeros(const struct opened *o, const char *name, int64_t rows)
{
	const struct directory_tensor *t = directory_tensor(&o->directory, name);
	uint8_t *bytes;

	assert_non_null(t);
	assert_int_equal(t->ne[1], rows);
	bytes = malloc(t->size);
	assert_int_equal(source_read(&o->source, 0, t->offset, bytes, t->size, why, sizeof why), 0);
	for (uint64_t i = 0; i < t->size; i++)
		assert_int_equal(bytes[i], 0);
	free(bytes);
}

static void an_inner_shard_has_its_layers_renamed_and_no_vocabulary(void **state)
{
	struct tiny_model arrays = llama6;
	struct opened o, shard;
	struct virtual_file file;
	uint64_t v;

	arrays.kv_heads_array = true;
	open_model(&o, &arrays);
	assert_int_equal(virtual_init(&file, &o.source, &o.directory, (struct layer_range){ 2, 4 }, VIRTUAL_INNER, why, sizeof why), 0);
	materialise(&file, &shard);
	assert_int_equal(shard.directory.n_layer, 2);
	assert_int_equal(shard.directory.n_vocab, VIRTUAL_VOCAB);
	assert_same_tensor(&o, "blk.2.attn_q.weight", &shard, "blk.0.attn_q.weight");
	assert_same_tensor(&o, "blk.3.ffn_down.weight", &shard, "blk.1.ffn_down.weight");
	assert_null(directory_tensor(&shard.directory, "blk.2.attn_q.weight"));
	assert_zeros(&shard, "token_embd.weight", VIRTUAL_VOCAB);
	assert_zeros(&shard, "output.weight", VIRTUAL_VOCAB);
	assert_null(directory_find(&shard.directory, "tokenizer.ggml.tokens"));
	assert_int_equal(directory_find(&shard.directory, "llama.attention.head_count_kv")->count, 2);
	assert_true(directory_uint(&shard.directory, directory_find(&shard.directory, "llama.vocab_size"), &v) && v == VIRTUAL_VOCAB);
	/* one shard's bytes are about its layers' only */
	assert_true(file.tensor_bytes < o.source.files[0].size / 2);
	virtual_release(&file);
	close_model(&shard);
	close_model(&o);
}

static void the_last_shard_has_the_output_matrix_and_the_vocabulary(void **state)
{
	struct opened o, shard;
	struct virtual_file file;

	open_model(&o, &llama6);
	assert_int_equal(virtual_kind_of(&o.directory, (struct layer_range){ 4, 6 }), VIRTUAL_END);
	assert_int_equal(virtual_init(&file, &o.source, &o.directory, (struct layer_range){ 4, 6 }, VIRTUAL_END, why, sizeof why), 0);
	materialise(&file, &shard);
	assert_same_tensor(&o, "output.weight", &shard, "output.weight");
	assert_same_tensor(&o, "output_norm.weight", &shard, "output_norm.weight");
	assert_same_tensor(&o, "blk.5.attn_v.weight", &shard, "blk.1.attn_v.weight");
	assert_zeros(&shard, "token_embd.weight", TINY_VOCAB);
	assert_int_equal(directory_find(&shard.directory, "tokenizer.ggml.tokens")->count, TINY_VOCAB);
	virtual_release(&file);
	close_model(&shard);
	close_model(&o);
}

static float scale_of(const struct opened *o)
{
	const struct directory_key *key = directory_find(&o->directory, "llama.embedding_scale");
	float scale;

	assert_non_null(key);
	memcpy(&scale, directory_value(&o->directory, key), sizeof scale);
	return scale;
}

static void what_acts_once_does_nothing_in_later_shards(void **state)
{
	static const struct layer_range ranges[] = { { 0, 2 }, { 2, 4 }, { 4, 6 } };
	static const uint64_t dense[] = { 2, 1, 0 };
	struct tiny_model once = llama6;
	struct opened o, shard;
	struct virtual_file file;
	uint64_t v;

	once.once = true;
	open_model(&o, &once);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(virtual_init(&file, &o.source, &o.directory, ranges[i], virtual_kind_of(&o.directory, ranges[i]), why,
					      sizeof why), 0);
		materialise(&file, &shard);
		assert_true(directory_uint(&shard.directory, directory_find(&shard.directory, "llama.leading_dense_block_count"), &v));
		assert_int_equal(v, dense[i]);
		assert_true(scale_of(&shard) == (i ? 1 : 12));
		if (i)
			assert_zeros(&shard, "position_embd.weight", TINY_CONTEXT);
		else
			assert_same_tensor(&o, "position_embd.weight", &shard, "position_embd.weight");
		virtual_release(&file);
		close_model(&shard);
	}
	close_model(&o);
}

static void arrays_of_one_number_a_layer_are_cut_and_no_others(void **state)
{
	struct tiny_model four = llama6;
	struct opened o, shard;
	struct virtual_file file;
	uint64_t v;

	four.n_layer = 4;                /* as many as rope has sections */
	four.once = four.kv_heads_array = true;
	four.attention_every = 3;        /* heads in layers 0 and 3 */
	open_model(&o, &four);
	assert_int_equal(virtual_init(&file, &o.source, &o.directory, (struct layer_range){ 2, 4 }, VIRTUAL_END, why, sizeof why), 0);
	materialise(&file, &shard);
	assert_int_equal(directory_find(&shard.directory, "llama.attention.head_count_kv")->count, 2);
	assert_true(directory_uint_at(&shard.directory, directory_find(&shard.directory, "llama.attention.head_count_kv"), 0, &v) && v == 0);
	assert_true(directory_uint_at(&shard.directory, directory_find(&shard.directory, "llama.attention.head_count_kv"), 1, &v) && v > 0);
	assert_int_equal(directory_find(&shard.directory, "llama.rope.dimension_sections")->count, 4);
	virtual_release(&file);
	close_model(&shard);
	close_model(&o);
}

static void a_key_that_the_small_ones_lack_is_said_in_their_shards(void **state)
{
	struct tiny_model lite = llama6;
	struct opened o, shard;
	struct virtual_file file;
	uint64_t v;

	lite.architecture = "deepseek2";
	open_model(&o, &lite);
	assert_int_equal(virtual_init(&file, &o.source, &o.directory, (struct layer_range){ 0, 4 }, VIRTUAL_INNER, why, sizeof why), 0);
	materialise(&file, &shard);
	assert_true(directory_uint(&shard.directory, directory_find_own(&shard.directory, "attention.q_lora_rank"), &v));
	assert_int_equal(v, 0);
	virtual_release(&file);
	close_model(&shard);
	assert_int_equal(virtual_init(&file, &o.source, &o.directory, (struct layer_range){ 0, 6 }, VIRTUAL_WHOLE, why, sizeof why), 0);
	materialise(&file, &shard);
	assert_null(directory_find_own(&shard.directory, "attention.q_lora_rank"));
	virtual_release(&file);
	close_model(&shard);
	close_model(&o);
}

static void the_embedding_keeps_its_name_where_libllama_knows_no_other_output(void **state)
{
	struct tiny_model command = llama6;
	struct opened o, shard;
	struct virtual_file file;

	command.architecture = "command-r";
	command.tied = true;
	open_model(&o, &command);
	assert_int_equal(virtual_init(&file, &o.source, &o.directory, (struct layer_range){ 4, 6 }, VIRTUAL_END, why, sizeof why), 0);
	materialise(&file, &shard);
	assert_same_tensor(&o, "token_embd.weight", &shard, "token_embd.weight");
	assert_null(directory_tensor(&shard.directory, "output.weight"));
	virtual_release(&file);
	close_model(&shard);
	close_model(&o);
}

static void a_tied_last_shard_has_the_embedding_for_output(void **state)
{
	struct tiny_model tied = llama6;
	struct opened o, shard;
	struct virtual_file file;

	tied.tied = true;
	open_model(&o, &tied);
	assert_int_equal(virtual_init(&file, &o.source, &o.directory, (struct layer_range){ 4, 6 }, VIRTUAL_END, why, sizeof why), 0);
	materialise(&file, &shard);
	assert_same_tensor(&o, "token_embd.weight", &shard, "output.weight");
	assert_zeros(&shard, "token_embd.weight", TINY_VOCAB);
	virtual_release(&file);
	close_model(&shard);
	close_model(&o);
}

static void a_whole_split_model_is_one_virtual_file(void **state)
{
	struct tiny_model part = llama6;
	struct opened whole, split, shard;
	struct virtual_file file;
	int fds[2];

	open_model(&whole, &llama6);
	part.parts = 2;
	for (part.part = 0; part.part < 2; part.part++)
		fds[part.part] = tiny_model_open(&part);
	open_fds(&split, fds, 2);
	assert_int_equal(virtual_init(&file, &split.source, &split.directory, (struct layer_range){ 0, 6 }, VIRTUAL_WHOLE, why, sizeof why), 0);
	materialise(&file, &shard);
	assert_null(directory_find(&shard.directory, "split.count"));
	assert_int_equal(shard.directory.n_tensors, whole.directory.n_tensors);
	for (size_t i = 0; i < whole.directory.n_tensors; i++)
		assert_same_tensor(&whole, whole.directory.tensors[i].name, &shard, whole.directory.tensors[i].name);
	virtual_release(&file);
	close_model(&shard);
	close_model(&split);
	close_model(&whole);
}

/* The bytes of layers 2 and 3 and the header are here; the rest of the file is a hole. */
static void a_shard_reads_only_its_own_bytes(void **state)
{
	struct model_extent extents[64];
	struct opened o, sparse;
	struct virtual_file file;
	uint8_t bytes[4096];
	size_t n = 0;
	ssize_t r = 0;
	int fd;

	open_model(&o, &llama6);
	extents[n++] = (struct model_extent){ .length = o.directory.header_lengths[0] };
	for (size_t i = 0; i < o.directory.n_tensors; i++)
		if (o.directory.tensors[i].layer == 2 || o.directory.tensors[i].layer == 3)
			extents[n++] = (struct model_extent){ .offset = o.directory.tensors[i].offset, .length = o.directory.tensors[i].size };
	fd = tiny_model_open(&llama6);
	assert_int_equal(source_init(&sparse.source, &fd, NULL, 1, extents, n, why, sizeof why), 0);
	assert_int_equal(directory_read(&sparse.directory, &sparse.source, why, sizeof why), 0);

	assert_int_equal(virtual_init(&file, &sparse.source, &sparse.directory, (struct layer_range){ 2, 4 }, VIRTUAL_INNER, why, sizeof why), 0);
	for (uint64_t at = 0; at < file.size; at += (uint64_t)r) {
		r = virtual_read(&file, bytes, sizeof bytes, at);
		assert_true(r > 0);
	}
	virtual_release(&file);

	assert_int_equal(virtual_init(&file, &sparse.source, &sparse.directory, (struct layer_range){ 2, 5 }, VIRTUAL_INNER, why, sizeof why), 0);
	r = 1;
	for (uint64_t at = 0; at < file.size && r > 0; at += (uint64_t)r)
		r = virtual_read(&file, bytes, sizeof bytes, at);
	assert_int_equal(r, ERR_ARRIVING);
	assert_int_equal(file.err, ERR_ARRIVING);
	virtual_release(&file);
	close_model(&sparse);
	close_model(&o);
}

static void a_range_outside_the_model_is_refused(void **state)
{
	struct virtual_file file;
	struct opened o;

	open_model(&o, &llama6);
	assert_int_equal(virtual_init(&file, &o.source, &o.directory, (struct layer_range){ 3, 3 }, VIRTUAL_INNER, why, sizeof why), ERR_LIMIT);
	virtual_release(&file);
	assert_int_equal(virtual_init(&file, &o.source, &o.directory, (struct layer_range){ 3, 7 }, VIRTUAL_END, why, sizeof why), ERR_LIMIT);
	virtual_release(&file);
	close_model(&o);
}

/* --- embedding and quirks -------------------------------------------------------------------------- */

static void embedding_rows_are_widened_and_scaled(void **state)
{
	struct tiny_model plain = { .architecture = "llama", .n_layer = 2, .type = GGML_TYPE_F32 }, scaled = plain;
	float rows[2 * TINY_EMBD], scaled_rows[2 * TINY_EMBD], wanted[TINY_EMBD];
	const int32_t ids[] = { 7, TINY_VOCAB - 1 }, outside[] = { TINY_VOCAB }, negative[] = { -1 };
	const struct directory_tensor *t;
	struct opened o, g;

	scaled.architecture = "gemma3";
	open_model(&o, &plain);
	assert_int_equal(embedding_rows(&o.directory, &o.source, ids, 2, rows, why, sizeof why), 0);
	t = directory_tensor(&o.directory, "token_embd.weight");
	assert_int_equal(source_read(&o.source, 0, t->offset + 7 * sizeof wanted, wanted, sizeof wanted, why, sizeof why), 0);
	assert_memory_equal(rows, wanted, sizeof wanted);
	assert_int_equal(embedding_rows(&o.directory, &o.source, outside, 1, rows, why, sizeof why), ERR_MALFORMED);
	assert_int_equal(embedding_rows(&o.directory, &o.source, negative, 1, rows, why, sizeof why), ERR_MALFORMED);
	assert_int_equal(embedding_rows(&o.directory, &o.source, ids, 2, rows, why, sizeof why), 0);
	open_model(&g, &scaled);
	assert_int_equal(embedding_rows(&g.directory, &g.source, ids, 2, scaled_rows, why, sizeof why), 0);
	for (size_t i = 0; i < 2 * TINY_EMBD; i++)
		assert_true(scaled_rows[i] == rows[i] * sqrtf(TINY_EMBD));
	close_model(&g);
	close_model(&o);
}

static void only_known_architectures_may_be_cut(void **state)
{
	struct tiny_model other = llama6;
	struct opened o;

	open_model(&o, &llama6);
	assert_true(quirk_splittable(&o.directory, why, sizeof why));
	assert_true(quirk_may_cut(&o.directory, 1) && quirk_may_cut(&o.directory, 5) && quirk_may_cut(&o.directory, 0) && quirk_may_cut(&o.directory, 6));
	assert_false(quirk_may_cut(&o.directory, 7));
	close_model(&o);
	other.architecture = "arctic-fox";
	open_model(&o, &other);
	assert_false(quirk_splittable(&o.directory, why, sizeof why));
	assert_non_null(strstr(why, "arctic-fox"));
	close_model(&o);
	other.architecture = "talkie";   /* known, and known why not */
	open_model(&o, &other);
	assert_false(quirk_splittable(&o.directory, why, sizeof why));
	assert_non_null(strstr(why, "embedding"));
	assert_null(quirk_find("talkie"));
	close_model(&o);
}

static void the_table_is_in_order_and_says_each_architecture_once(void **state)
{
	const struct quirk *quirk;
	size_t n = 0;

	for (; (quirk = quirk_at(n)); n++) {
		if (n)
			assert_true(strcmp(quirk_at(n - 1)->architecture, quirk->architecture) < 0);
		assert_ptr_equal(quirk_find(quirk->architecture), quirk->whole ? NULL : quirk);
	}
	assert_true(n > 100);
}

static void layers_that_differ_by_number_are_cut_at_multiples(void **state)
{
	struct tiny_model smol = llama6;
	struct opened o;

	smol.architecture = "smollm3";   /* every fourth layer has no positions */
	smol.n_layer = 12;
	open_model(&o, &smol);
	assert_true(quirk_splittable(&o.directory, why, sizeof why));
	for (uint32_t c = 0; c <= 12; c++)
		assert_int_equal(quirk_may_cut(&o.directory, c), c % 4 == 0);
	close_model(&o);
	smol.n_layer = 11;               /* what follows 8 is no whole step */
	open_model(&o, &smol);
	assert_true(quirk_may_cut(&o.directory, 4) && !quirk_may_cut(&o.directory, 8));
	close_model(&o);
}

static void defaults_that_depend_on_the_layer_count_must_be_said(void **state)
{
	struct tiny_model grok = llama6;
	struct opened o;

	grok.architecture = "grok";
	open_model(&o, &grok);
	assert_false(quirk_splittable(&o.directory, why, sizeof why));
	assert_non_null(strstr(why, "grok.embedding_scale"));
	close_model(&o);
	grok.once = true;
	open_model(&o, &grok);
	assert_true(quirk_splittable(&o.directory, why, sizeof why));
	close_model(&o);
}

static void windows_are_cut_where_both_kinds_of_layers_stay(void **state)
{
	struct tiny_model gemma = { .architecture = "gemma3", .n_layer = 20, .type = GGML_TYPE_F32, .tied = true, .window = 32 };
	struct opened o;

	open_model(&o, &gemma);          /* full attention in layers 5, 11, 17 */
	assert_true(quirk_splittable(&o.directory, why, sizeof why));
	for (uint32_t c = 1; c < 20; c++)
		assert_int_equal(quirk_may_cut(&o.directory, c), c == 6 || c == 12);
	close_model(&o);
	gemma.n_layer = 8;               /* what follows a cut at 6 has windows alone */
	open_model(&o, &gemma);
	assert_false(quirk_splittable(&o.directory, why, sizeof why));
	close_model(&o);
	gemma.window = 0;                /* no window at all: every layer is alike */
	open_model(&o, &gemma);
	assert_true(quirk_may_cut(&o.directory, 3));
	close_model(&o);
	gemma.architecture = "gemma2";   /* has windows also where the file says nothing of them: every other layer */
	assert_false(gemma.window);
	open_model(&o, &gemma);
	assert_true(quirk_may_cut(&o.directory, 4) && !quirk_may_cut(&o.directory, 3));
	close_model(&o);
	gemma.architecture = "gemma3";
	gemma.n_layer = 62;              /* libllama takes another attention scale for it */
	open_model(&o, &gemma);
	assert_false(quirk_splittable(&o.directory, why, sizeof why));
	close_model(&o);
}

static void layers_with_a_state_and_with_attention_stay_together(void **state)
{
	struct tiny_model jamba = { .architecture = "jamba", .n_layer = 12, .type = GGML_TYPE_F32, .kv_heads_array = true, .attention_every = 3 };
	struct opened o;

	open_model(&o, &jamba);          /* attention in layers 0, 3, 6, 9; the pieces from the front are [0, 2), [2, 4), [4, 7) and the rest */
	assert_true(quirk_splittable(&o.directory, why, sizeof why));
	for (uint32_t c = 1; c < 12; c++)
		assert_int_equal(quirk_may_cut(&o.directory, c), c == 2 || c == 4 || c == 7);
	close_model(&o);
	jamba.attention_every = 12;      /* a single layer with attention: no two shards can both have one */
	open_model(&o, &jamba);
	assert_false(quirk_splittable(&o.directory, why, sizeof why));
	close_model(&o);
	jamba.architecture = "qwen3next";        /* says nothing layer by layer: of four the last has attention */
	jamba.kv_heads_array = false;
	open_model(&o, &jamba);
	for (uint32_t c = 1; c < 12; c++)
		assert_int_equal(quirk_may_cut(&o.directory, c), c % 4 == 0);
	close_model(&o);
}

static void no_shard_has_a_layer_count_that_means_another_model(void **state)
{
	struct tiny_model model = { .architecture = "baichuan", .n_layer = 100, .type = GGML_TYPE_F32 };
	bool cuts[101];
	struct opened o;

	open_model(&o, &model);
	for (uint32_t c = 0; c <= 100; c++)
		cuts[c] = quirk_may_cut(&o.directory, c);
	for (uint32_t c = 0; c <= 100; c++)
		for (uint32_t e = c + 1; e <= 100; e++)
			assert_false(cuts[c] && cuts[e] && (e - c == 32 || e - c == 40));
	assert_true(cuts[48] && cuts[51]);
	close_model(&o);
	model.n_layer = 40;
	open_model(&o, &model);
	assert_false(quirk_splittable(&o.directory, why, sizeof why));
	close_model(&o);
	model.architecture = "smallthinker";     /* of four layers: has no other shards */
	model.n_layer = 8;
	model.window = 32;
	open_model(&o, &model);
	assert_false(quirk_splittable(&o.directory, why, sizeof why));
	close_model(&o);
}

static void the_first_shard_reaches_past_the_dense_layers(void **state)
{
	struct tiny_model model = llama6;
	struct opened o;

	model.architecture = "minimax-m3";
	model.once = true;               /* three dense layers */
	open_model(&o, &model);
	for (uint32_t c = 1; c < 6; c++)
		assert_int_equal(quirk_may_cut(&o.directory, c), c > 3);
	close_model(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reading_outside_verified_bytes_is_an_error),
		cmocka_unit_test(an_extent_past_the_file_is_refused),
		cmocka_unit_test(a_file_that_shrinks_is_an_error_not_a_signal),
		cmocka_unit_test(a_pipe_is_not_a_model),
		cmocka_unit_test(a_model_says_what_it_is),
		cmocka_unit_test(what_is_not_gguf_is_refused),
		cmocka_unit_test(counts_that_the_bytes_do_not_cover_are_refused),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(no_flipped_bit_in_the_header_breaks_the_reader),
		cmocka_unit_test(a_key_a_token_or_a_tensor_twice_is_refused),
		cmocka_unit_test(a_header_that_is_not_here_yet_is_not_read_as_zeros),
		cmocka_unit_test(split_files_are_one_model),
		cmocka_unit_test(an_inner_shard_has_its_layers_renamed_and_no_vocabulary),
		cmocka_unit_test(the_last_shard_has_the_output_matrix_and_the_vocabulary),
		cmocka_unit_test(a_tied_last_shard_has_the_embedding_for_output),
		cmocka_unit_test(a_whole_split_model_is_one_virtual_file),
		cmocka_unit_test(a_shard_reads_only_its_own_bytes),
		cmocka_unit_test(a_range_outside_the_model_is_refused),
		cmocka_unit_test(embedding_rows_are_widened_and_scaled),
		cmocka_unit_test(only_known_architectures_may_be_cut),
		cmocka_unit_test(the_table_is_in_order_and_says_each_architecture_once),
		cmocka_unit_test(layers_that_differ_by_number_are_cut_at_multiples),
		cmocka_unit_test(defaults_that_depend_on_the_layer_count_must_be_said),
		cmocka_unit_test(what_acts_once_does_nothing_in_later_shards),
		cmocka_unit_test(the_embedding_keeps_its_name_where_libllama_knows_no_other_output),
		cmocka_unit_test(windows_are_cut_where_both_kinds_of_layers_stay),
		cmocka_unit_test(arrays_of_one_number_a_layer_are_cut_and_no_others),
		cmocka_unit_test(a_key_that_the_small_ones_lack_is_said_in_their_shards),
		cmocka_unit_test(layers_with_a_state_and_with_attention_stay_together),
		cmocka_unit_test(the_first_shard_reaches_past_the_dense_layers),
		cmocka_unit_test(no_shard_has_a_layer_count_that_means_another_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
