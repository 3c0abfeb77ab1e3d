/* fuzz_gguf.c: a model file as the engine reads it, and the files that shards of it are made of.
 *
 * The input is the beginning of a GGUF file, whose rest is zeros. What must hold of every one that the engine's reader takes:
 *   - every tensor lies inside the file; strings and numbers are found inside the header;
 *   - each kind of virtual file is refused with a reason, or reads as many bytes as it says, as long as the source has them;
 *   - ggml's own reader takes the header of a virtual file that was made, and finds the same tensors at the same places.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <ggml.h>
#include <gguf.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/virtual.h"
#include "proto/err.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/tiny_model.h"

#define FILE_SIZE (4u << 20)

static int anonymous(const uint8_t *data, size_t n)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	must(fd >= 0);
	for (size_t done = 0; done < n;) {
		ssize_t k = write(fd, data + done, n - done);
		must(k > 0);
		done += (size_t)k;
	}
	must(n >= FILE_SIZE || !ftruncate(fd, FILE_SIZE));
	return fd;
}

static void check_directory(const struct directory *d, uint64_t size)
{
	must(d->n_keys <= DIRECTORY_KEYS_MAX && d->n_tensors <= DIRECTORY_TENSORS_MAX);
	for (size_t i = 0; i < d->n_tensors; i++) {
		const struct directory_tensor *t = &d->tensors[i];
		must(t->file == 0 && t->size <= size && t->offset <= size - t->size);
		must(strnlen(t->name, sizeof t->name) < sizeof t->name);
		must(t->layer >= -1);
	}
	for (size_t i = 0; i < d->n_keys; i++) {
		const struct directory_key *k = &d->keys[i];
		must(k->at <= d->header.length && k->length <= d->header.length - k->at);
		uint64_t number;
		char text[64];
		(void)directory_uint(d, k, &number);
		(void)directory_uint_at(d, k, k->count ? k->count - 1 : 0, &number);
		(void)directory_uint_at(d, k, k->count, &number);
		(void)directory_str(d, k, text, sizeof text);
		(void)directory_str_at(d, k, 0, text, sizeof text);
	}
}

static void check_stream(struct virtual_file *v)
{
	uint8_t part[4096];
	uint64_t at = 0;
	ssize_t n;
	while ((n = virtual_read(v, part, sizeof part, at)) > 0 && at < 1u << 20)
		at += (uint64_t)n;
	must(n >= 0 || v->err);
	must(at <= v->size);
	FILE *stream = virtual_open(v);
	must(stream);
	struct gguf_context *gguf = gguf_init_from_file_ptr(stream, (struct gguf_init_params){.no_alloc = true});
	/* ggml refuses more than we do: odd types in metadata, alignments, names of tensors twice. */
	for (int64_t i = 0; gguf && i < gguf_get_n_tensors(gguf); i++)
		must(gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, i) <= v->size);
	if (gguf)
		gguf_free(gguf);
	fclose(stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct source source;
	struct directory directory;
	char why[400] = "";
	const char *name = "fuzz.gguf";
	int fd = anonymous(data, n);
	int err = source_init(&source, &fd, &name, 1, NULL, 0, why, sizeof why);
	if (!err) {
		err = directory_read(&directory, &source, why, sizeof why);
		must(!err || why[0]);
		if (!err) {
			uint32_t layers = directory.n_layer;
			const struct { struct layer_range range; enum virtual_kind kind; } shards[] = {
				{{0, layers}, VIRTUAL_WHOLE}, {{0, layers}, VIRTUAL_TEXT}, {{layers / 2, layers}, VIRTUAL_END},
				{{0, layers / 2}, VIRTUAL_INNER}, {{layers / 3, layers - layers / 3}, VIRTUAL_INNER},
			};
			check_directory(&directory, n < FILE_SIZE ? FILE_SIZE : n);
			for (size_t i = 0; i < sizeof shards / sizeof *shards; i++) {
				struct virtual_file v;
				if (shards[i].range.first >= shards[i].range.end)
					continue;
				why[0] = 0;
				err = virtual_init(&v, &source, &directory, shards[i].range, shards[i].kind, why, sizeof why);
				must(!err || why[0]);
				if (!err)
					check_stream(&v);
				virtual_release(&v);
			}
		}
		directory_release(&directory);
	}
	source_release(&source);
	return 0;
}

static void quiet(enum ggml_log_level level, const char *text, void *arg)
{
	(void)level, (void)text, (void)arg;
}

bool fuzz_seed(size_t i, struct buf *out)
{
	static const struct tiny_model models[] = {
		{.architecture = "llama", .n_layer = 3, .seed = 1, .chat = true},
		{.architecture = "qwen2", .n_layer = 2, .type = GGML_TYPE_Q8_0, .tied = true, .seed = 2},
		{.architecture = "gemma3", .n_layer = 6, .window = 16, .kv_heads_array = true, .seed = 3},
		{.architecture = "mamba", .n_layer = 2, .seed = 4},
		{.architecture = "llama", .n_layer = 2, .once = true, .seed = 5},
	};
	ggml_log_set(quiet, NULL);          /* it says on standard error what it refuses, a million times */
	if (i >= sizeof models / sizeof *models)
		return false;
	struct buf model;
	buf_init(&model, FILE_SIZE);
	tiny_model_write(&models[i], &model);
	/* Tensors' bytes are not what this looks at. */
	struct source source;
	struct directory directory;
	char why[400];
	const char *name = "seed.gguf";
	int fd = anonymous(model.data, model.length);
	must(!source_init(&source, &fd, &name, 1, NULL, 0, why, sizeof why));
	must(!directory_read(&directory, &source, why, sizeof why));
	must(!buf_append(out, model.data, directory.header_lengths[0]));
	directory_release(&directory);
	source_release(&source);
	buf_release(&model);
	return true;
}
