/* virtual.c: synthesising a shard's header, and reading through it. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef _GNU_SOURCE
#endif
#include "engine/virtual.h"

#include <errno.h>
#include <ggml.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quirks.h"
#include "proto/err.h"

#define VERSION 3

enum virtual_kind virtual_kind_of(const struct directory *d, struct layer_range range)
{
	if (range.end < d->n_layer)
		return VIRTUAL_INNER;
	return range.first == 0 ? VIRTUAL_WHOLE : VIRTUAL_END;
}

/* --- the header ------------------------------------------------------------------------------------ */

struct writer {
	struct buf *out;
	int err;                   /* sticky */
};

static void put(struct writer *w, const void *bytes, size_t n)
{
	if (!w->err)
		w->err = buf_append(w->out, bytes, n);
}

static void put32(struct writer *w, uint32_t v)
{
	uint8_t b[4];

	put_u32(b, v);
	put(w, b, sizeof b);
}

static void put64(struct writer *w, uint64_t v)
{
	uint8_t b[8];

	put_u64(b, v);
	put(w, b, sizeof b);
}

static void put_text(struct writer *w, const char *text)
{
	put64(w, strlen(text));
	put(w, text, strlen(text));
}

static void put_key_u32(struct writer *w, const char *name, uint32_t v)
{
	put_text(w, name);
	put32(w, VALUE_U32);
	put32(w, v);
}

static bool is_own(const struct directory *d, const struct directory_key *key, const char *name)
{
	return key == directory_find_own(d, name);
}

/* A per-layer array: one number a layer, under the architecture's own prefix. Rope has four sections, also where there are four layers. */
static bool is_per_layer(const struct directory *d, const struct directory_key *key)
{
	size_t prefix = strlen(d->architecture);

	return key->type == VALUE_ARRAY && value_size(key->item) && key->count == d->n_layer && !strncmp(key->name, d->architecture, prefix) &&
	       key->name[prefix] == '.' && !is_own(d, key, "rope.dimension_sections");
}

/* Keys about the whole model that a shard says differently, and how:
 *   leading_dense_block_count   of the first layers, how many have no experts: as many as lie in the range
 *   embedding_scale             acts once, before layer 0; afterwards 1
 *   n_deepstack_layers          rows of pictures for the first layers come beside the embedding: Essaim sends text only */
static bool is_rewritten(const struct directory *d, const struct directory_key *key, struct layer_range range, enum virtual_kind kind,
			 uint8_t value[8])
{
	uint64_t v = 0;
	float scale = 0;

	if (kind != VIRTUAL_INNER && kind != VIRTUAL_END)
		return false;
	if (key->type == VALUE_F32 && is_own(d, key, "embedding_scale")) {
		memcpy(&scale, directory_value(d, key), sizeof scale);
		if (range.first == 0 || scale == 0)
			return false;
		scale = 1;
		memcpy(value, &scale, sizeof scale);
		return true;
	}
	if (!directory_uint(d, key, &v) || v > UINT32_MAX)
		return false;
	if (is_own(d, key, "leading_dense_block_count"))
		v = v > range.end ? range.end - range.first : v > range.first ? v - range.first : 0;
	else if (is_own(d, key, "n_deepstack_layers"))
		v = 0;
	else
		return false;
	put_u64(value, v);       /* little-endian: its first bytes are any narrower number */
	return true;
}

/* Keys that a shard does not take over as they are: dropped, or written anew. */
static bool is_dropped(const struct directory *d, const struct directory_key *key, enum virtual_kind kind)
{
	if (!strncmp(key->name, "split.", 6) || !strcmp(key->name, "general.alignment") || is_own(d, key, "block_count"))
		return true;
	return kind == VIRTUAL_INNER && (!strncmp(key->name, "tokenizer.", 10) || is_own(d, key, "vocab_size"));
}

/* A key that the whole model does without and a shard does not; NULL: none. */
static const char *added_key(const struct directory *d, enum virtual_kind kind)
{
	const struct quirk *quirk = quirk_find(d->architecture);

	if ((kind != VIRTUAL_INNER && kind != VIRTUAL_END) || !quirk || !quirk->zero_key || directory_find_own(d, quirk->zero_key))
		return NULL;
	return quirk->zero_key;
}

static void put_keys(struct writer *w, const struct directory *d, struct layer_range range, enum virtual_kind kind)
{
	char name[DIRECTORY_KEY_SIZE];
	uint8_t other[8];

	for (size_t i = 0; i < d->n_keys; i++) {
		const struct directory_key *key = &d->keys[i];
		const uint8_t *value = directory_value(d, key);
		size_t item = value_size(key->item);

		if (is_dropped(d, key, kind))
			continue;
		put_text(w, key->name);
		put32(w, key->type);
		if (key->type == VALUE_ARRAY) {
			bool cut = is_per_layer(d, key);

			put32(w, key->item);
			put64(w, cut ? range.end - range.first : key->count);
			if (cut)
				put(w, value + item * range.first, item * (range.end - range.first));
			else
				put(w, value, key->length);
		} else if (is_rewritten(d, key, range, kind, other)) {
			put(w, other, key->length);
		} else {
			put(w, value, key->length);
		}
	}
	snprintf(name, sizeof name, "%s.block_count", d->architecture);
	put_key_u32(w, name, range.end - range.first);
	if (added_key(d, kind)) {
		snprintf(name, sizeof name, "%s.%s", d->architecture, added_key(d, kind));
		put_key_u32(w, name, 0);
	}
	if (kind == VIRTUAL_INNER) {
		put_text(w, "tokenizer.ggml.model");
		put32(w, VALUE_STRING);
		put_text(w, "none");
		snprintf(name, sizeof name, "%s.vocab_size", d->architecture);
		put_key_u32(w, name, VIRTUAL_VOCAB);
	}
}

static size_t count_keys(const struct directory *d, enum virtual_kind kind)
{
	size_t n = 1 + (kind == VIRTUAL_INNER ? 2 : 0) + (added_key(d, kind) != NULL);

	for (size_t i = 0; i < d->n_keys; i++)
		n += !is_dropped(d, &d->keys[i], kind);
	return n;
}

/* --- the tensors ----------------------------------------------------------------------------------- */

struct entry {
	char name[DIRECTORY_NAME_SIZE];
	uint32_t n_dims, type;
	int64_t ne[DIRECTORY_DIMS];
	uint32_t file;
	uint64_t offset, size;
};

/* The type in which rows of n zeros take the least room. libllama insists on a token embedding of full height also where
 * nothing is ever looked up in it. */
static enum ggml_type smallest_type(int64_t n)
{
	static const enum ggml_type types[] = { GGML_TYPE_Q1_0, GGML_TYPE_Q2_K, GGML_TYPE_Q4_0, GGML_TYPE_F16 };

	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
		if (n % ggml_blck_size(types[i]) == 0)
			return types[i];
	return GGML_TYPE_F16;
}

static void make_zeros(struct entry *e, enum ggml_type type, int64_t ne0, int64_t ne1)
{
	e->type = type;
	e->n_dims = ne1 > 1 ? 2 : 1;
	e->ne[0] = ne0;
	e->ne[1] = ne1;
	e->ne[2] = e->ne[3] = 1;
	e->file = VIRTUAL_ZEROS;
	e->offset = 0;
	e->size = ggml_row_size(type, ne0) * (uint64_t)ne1;
}

/* False: the tensor is not part of this shard. */
static bool make_entry(struct entry *e, const struct directory *d, const struct directory_tensor *t, struct layer_range range,
		       enum virtual_kind kind)
{
	bool embedding = !strcmp(t->name, "token_embd.weight"), output = !strcmp(t->name, "output.weight");

	if (kind == VIRTUAL_TEXT || (t->layer >= 0 && ((uint32_t)t->layer < range.first || (uint32_t)t->layer >= range.end)))
		return false;
	memset(e, 0, sizeof *e);
	if (t->layer >= 0) {
		const char *rest = strchr(t->name + 4, '.');

		snprintf(e->name, sizeof e->name, "blk.%u%s", (uint32_t)t->layer - range.first, rest);
	} else {
		memcpy(e->name, t->name, sizeof e->name);
	}
	e->n_dims = t->n_dims;
	e->type = t->type;
	memcpy(e->ne, t->ne, sizeof e->ne);
	e->file = t->file;
	e->offset = t->offset;
	e->size = t->size;
	if (kind == VIRTUAL_INNER) {
		if (embedding || output)
			make_zeros(e, GGML_TYPE_F32, d->n_embd, VIRTUAL_VOCAB);
		else if (!strcmp(t->name, "output.bias"))
			make_zeros(e, GGML_TYPE_F32, VIRTUAL_VOCAB, 1);
		else if (!strncmp(t->name, "output", 6) && t->n_dims == 1)
			make_zeros(e, (enum ggml_type)t->type, t->ne[0], 1);
		else if (!strncmp(t->name, "cls", 3) && t->n_dims <= 2)
			make_zeros(e, (enum ggml_type)t->type, t->ne[0], t->ne[1]);
	} else if (kind == VIRTUAL_END && embedding && !quirk_holds_embedding(d)) {
		make_zeros(e, smallest_type(t->ne[0]), t->ne[0], t->ne[1]);
	}
	if (range.first > 0 && !strcmp(t->name, "position_embd.weight"))     /* was added before layer 0 */
		make_zeros(e, (enum ggml_type)t->type, t->ne[0], t->ne[1]);
	return true;
}

/* Where the embedding is the output matrix too, the last shard only multiplies by it: under its own name it is held once, while
 * libllama would otherwise keep it twice, once for looking up rows. */
static void make_output(struct entry *e, const struct directory_tensor *embedding)
{
	*e = (struct entry){ .name = "output.weight", .n_dims = embedding->n_dims, .type = embedding->type, .file = embedding->file,
			     .offset = embedding->offset, .size = embedding->size };
	memcpy(e->ne, embedding->ne, sizeof e->ne);
}

static uint64_t aligned(uint64_t n)
{
	return (n + VIRTUAL_ALIGNMENT - 1) / VIRTUAL_ALIGNMENT * VIRTUAL_ALIGNMENT;
}

int virtual_init(struct virtual_file *file, const struct source *source, const struct directory *d, struct layer_range range,
		 enum virtual_kind kind, char *why, size_t why_size)
{
	struct writer w = { .out = &file->header };
	struct entry *entries = NULL;
	uint64_t at = 0;
	size_t n = 0;

	memset(file, 0, sizeof *file);
	file->source = source;
	buf_init(&file->header, (size_t)DIRECTORY_HEADER_MAX + (16u << 20));
	if (range.first >= range.end || range.end > d->n_layer) {
		snprintf(why, why_size, "layers [%u, %u) are not part of a model with %u layers", range.first, range.end, d->n_layer);
		return ERR_LIMIT;
	}
	entries = calloc(d->n_tensors + 2, sizeof *entries);
	file->extents = calloc(d->n_tensors + 2, sizeof *file->extents);
	if (!entries || !file->extents) {
		w.err = -ENOMEM;
		goto out;
	}
	for (size_t i = 0; i < d->n_tensors; i++)
		n += make_entry(&entries[n], d, &d->tensors[i], range, kind);
	if (kind == VIRTUAL_END && d->tied && !quirk_holds_embedding(d))
		make_output(&entries[n++], directory_tensor(d, "token_embd.weight"));

	put(&w, "GGUF", 4);
	put32(&w, VERSION);
	put64(&w, n);
	put64(&w, count_keys(d, kind));
	put_keys(&w, d, range, kind);
	for (size_t i = 0; i < n; i++) {
		put_text(&w, entries[i].name);
		put32(&w, entries[i].n_dims);
		for (unsigned k = 0; k < entries[i].n_dims; k++)
			put64(&w, (uint64_t)entries[i].ne[k]);
		put32(&w, entries[i].type);
		put64(&w, at);
		file->extents[i] = (struct virtual_extent){ .at = at, .length = entries[i].size, .file = entries[i].file,
							    .offset = entries[i].offset };
		at += aligned(entries[i].size);
		if (entries[i].file != VIRTUAL_ZEROS)
			file->tensor_bytes += entries[i].size;
	}
	while (!w.err && w.out->length % VIRTUAL_ALIGNMENT)
		put(&w, "", 1);
	file->n_extents = n;
	for (size_t i = 0; i < n; i++)
		file->extents[i].at += w.out->length;
	file->size = w.out->length + at;
out:
	if (w.err)
		snprintf(why, why_size, "no room for the header of layers [%u, %u)", range.first, range.end);
	free(entries);
	return w.err;
}

void virtual_release(struct virtual_file *file)
{
	buf_release(&file->header);
	free(file->extents);
	file->extents = NULL;
	file->n_extents = 0;
}

/* --- reading --------------------------------------------------------------------------------------- */

/* The last extent that starts at or before `at`; NULL when there is none. */
static const struct virtual_extent *extent_at(const struct virtual_file *file, uint64_t at)
{
	size_t low = 0, high = file->n_extents;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (file->extents[middle].at <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &file->extents[low - 1] : NULL;
}

ssize_t virtual_read(struct virtual_file *file, void *out, size_t n, uint64_t at)
{
	uint8_t *to = out;
	size_t done = 0;

	if (at >= file->size)
		return 0;
	if (n > file->size - at)
		n = file->size - at;
	while (done < n) {
		uint64_t p = at + done, k = n - done;
		const struct virtual_extent *e;

		if (p < file->header.length) {
			if (k > file->header.length - p)
				k = file->header.length - p;
			memcpy(to + done, file->header.data + p, k);
			done += k;
			continue;
		}
		e = extent_at(file, p);
		if (e && p < e->at + e->length) {
			if (k > e->at + e->length - p)
				k = e->at + e->length - p;
			if (e->file != VIRTUAL_ZEROS) {
				int err = source_read(file->source, e->file, e->offset + (p - e->at), to + done, k, file->why,
						      sizeof file->why);
				if (err) {
					file->err = err;
					return err;
				}
			} else {
				memset(to + done, 0, k);
			}
		} else {         /* padding up to the next tensor or the end */
			const struct virtual_extent *next = e ? e + 1 : file->extents;
			uint64_t end = next < file->extents + file->n_extents ? next->at : file->size;

			if (k > end - p)
				k = end - p;
			memset(to + done, 0, k);
		}
		done += k;
	}
	return (ssize_t)n;
}

static ssize_t stream_read(void *cookie, char *out, size_t n)
{
	struct virtual_file *file = cookie;
	ssize_t r = virtual_read(file, out, n, file->position);

	if (r < 0) {
		errno = EIO;
		return -1;
	}
	file->position += (uint64_t)r;
	return r;
}

static int stream_seek(void *cookie, off64_t *offset, int whence)
{
	struct virtual_file *file = cookie;
	int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? (int64_t)file->position : (int64_t)file->size;

	if (base + *offset < 0) {
		errno = EINVAL;
		return -1;
	}
	file->position = (uint64_t)(base + *offset);
	*offset = (off64_t)file->position;
	return 0;
}

FILE *virtual_open(struct virtual_file *file)
{
	cookie_io_functions_t io = { .read = stream_read, .seek = stream_seek };

	file->position = 0;
	return fopencookie(file, "rb", io);
}
