/* directory.c: reading a GGUF header with limits.
 *
 *   "GGUF" u32 version  u64 n_tensors  u64 n_keys
 *   n_keys  x  string key, u32 type, value      (string: u64 length, bytes; array: u32 type, u64 count, values)
 *   n_tensors x  string name, u32 n_dims, u64 ne[n_dims], u32 type, u64 offset
 *   padding to the alignment, then tensor data
 *
 * The header's length is not known beforehand, so it is fetched in steps as the walk needs it, and never past what
 * was verified. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/directory.h"

#include <errno.h>
#include <ggml.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define STEP (1u << 20)

struct walk {
	const struct source *source;
	uint32_t file;
	struct buf *bytes;
	size_t at;
	int err;                     /* sticky */
	char *why;
	size_t why_size;
};

static void fail(struct walk *w, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void fail(struct walk *w, int err, const char *format, ...)
{
	va_list args;
	int n;

	if (w->err)
		return;
	w->err = err;
	n = snprintf(w->why, w->why_size, "%s: ", w->source->files[w->file].name);
	if (n < 0 || (size_t)n >= w->why_size)
		return;
	va_start(args, format);
	vsnprintf(w->why + n, w->why_size - (size_t)n, format, args);
	va_end(args);
}

/* n more bytes at w->at, fetched if need be; NULL once anything went wrong. */
static const uint8_t *take(struct walk *w, uint64_t n)
{
	const uint8_t *p;

	if (w->err)
		return NULL;
	if (n > DIRECTORY_HEADER_MAX || w->at + n > DIRECTORY_HEADER_MAX) {
		fail(w, ERR_LIMIT, "the header is larger than %u MiB", DIRECTORY_HEADER_MAX >> 20);
		return NULL;
	}
	while (w->bytes->length < w->at + n) {
		uint64_t have = w->bytes->length;
		uint64_t want = w->at + n - have < STEP ? STEP : w->at + n - have;
		uint64_t available = source_available(w->source, w->file, have);
		uint8_t *to;
		int err;

		if (want > available)
			want = available;
		if (have + want < w->at + n) {
			if (have + want >= w->source->files[w->file].size)
				fail(w, ERR_MODEL, "ends inside its header (truncated download? fetch it again)");
			else
				fail(w, ERR_ARRIVING, "its header is not wholly on this node yet");
			return NULL;
		}
		to = buf_reserve(w->bytes, want);
		if (!to) {
			fail(w, -ENOMEM, "no memory for a header of %zu bytes", (size_t)(have + want));
			return NULL;
		}
		err = source_read(w->source, w->file, have, to, want, w->why, w->why_size);
		if (err) {
			w->err = err;
			return NULL;
		}
		buf_grow(w->bytes, want);
	}
	p = w->bytes->data + w->at;
	w->at += n;
	return p;
}

static uint32_t take_u32(struct walk *w)
{
	const uint8_t *p = take(w, 4);
	return p ? get_u32(p) : 0;
}

static uint64_t take_u64(struct walk *w)
{
	const uint8_t *p = take(w, 8);
	return p ? get_u64(p) : 0;
}

static void take_name(struct walk *w, char *out, size_t size, const char *what)
{
	uint64_t n = take_u64(w);
	const uint8_t *p;

	out[0] = 0;
	if (!w->err && (n == 0 || n >= size))
		fail(w, ERR_LIMIT, "the name of a %s has %" PRIu64 " bytes (1 to %zu are allowed)", what, n, size - 1);
	p = take(w, n);
	if (!p)
		return;
	if (memchr(p, 0, n)) {
		fail(w, ERR_MODEL, "the name of a %s has a NUL in it", what);
		return;
	}
	memcpy(out, p, n);
	out[n] = 0;
}

size_t value_size(uint32_t type)
{
	switch (type) {
	case VALUE_U8: case VALUE_I8: case VALUE_BOOL: return 1;
	case VALUE_U16: case VALUE_I16: return 2;
	case VALUE_U32: case VALUE_I32: case VALUE_F32: return 4;
	case VALUE_U64: case VALUE_I64: case VALUE_F64: return 8;
	default: return 0;
	}
}

static void take_value(struct walk *w, struct directory_key *key)
{
	key->type = take_u32(w);
	key->item = key->type;
	key->count = 1;
	if (key->type == VALUE_ARRAY) {
		key->item = take_u32(w);
		key->count = take_u64(w);
	}
	key->at = w->at;
	if (w->err)
		return;
	if (key->item == VALUE_STRING) {
		/* each string costs 8 bytes at least, so the walk ends long before a made-up count does */
		for (uint64_t i = 0; i < key->count && !w->err; i++)
			take(w, take_u64(w));
	} else if (value_size(key->item)) {
		if (key->count > DIRECTORY_HEADER_MAX)
			fail(w, ERR_LIMIT, "key %s has %" PRIu64 " elements", key->name, key->count);
		else
			take(w, key->count * value_size(key->item));
	} else {
		fail(w, ERR_UNSUPPORTED, "key %s has a value of an unknown type (%u)", key->name, key->item);
	}
	key->length = w->at - key->at;
}

static void take_tensor(struct walk *w, struct directory_tensor *t)
{
	uint64_t elements = 1, rows;
	int end = 0, layer = 0;

	take_name(w, t->name, sizeof t->name, "tensor");
	t->n_dims = take_u32(w);
	if (!w->err && (t->n_dims == 0 || t->n_dims > DIRECTORY_DIMS))
		fail(w, ERR_MODEL, "tensor %s has %u dimensions (1 to %d are allowed)", t->name, t->n_dims, DIRECTORY_DIMS);
	for (unsigned i = 0; i < DIRECTORY_DIMS; i++) {
		uint64_t n = !w->err && i < t->n_dims ? take_u64(w) : 1;

		if (!w->err && (n == 0 || n > INT64_C(1) << 40 || elements > (UINT64_C(1) << 48) / n))
			fail(w, ERR_MODEL, "tensor %s has an impossible shape", t->name);
		t->ne[i] = (int64_t)n;
		if (!w->err)
			elements *= n;
	}
	t->type = take_u32(w);
	t->offset = take_u64(w);
	if (w->err)
		return;
	if (t->type >= GGML_TYPE_COUNT || ggml_type_size((enum ggml_type)t->type) == 0 ||
	    ggml_blck_size((enum ggml_type)t->type) <= 0) {
		fail(w, ERR_UNSUPPORTED, "tensor %s has type %u, which this build of ggml does not know", t->name, t->type);
		return;
	}
	if (t->ne[0] % ggml_blck_size((enum ggml_type)t->type)) {
		fail(w, ERR_MODEL, "tensor %s: rows of %" PRId64 " are not whole blocks of %s", t->name, t->ne[0],
		     ggml_type_name((enum ggml_type)t->type));
		return;
	}
	rows = elements / (uint64_t)t->ne[0];
	t->size = rows * ggml_row_size((enum ggml_type)t->type, t->ne[0]);
	t->layer = -1;
	t->file = w->file;
	if (!strncmp(t->name, "blk.", 4)) {
		if (sscanf(t->name, "blk.%9d.%n", &layer, &end) != 1 || !end || layer < 0 || !t->name[end])
			fail(w, ERR_MODEL, "tensor %s: not a layer's name", t->name);
		t->layer = layer;
	}
}

/* Offsets count from the end of the header, padded; from here on they are the file's. */
static void place_tensors(struct walk *w, struct directory_tensor *tensors, size_t n, uint64_t alignment)
{
	uint64_t base = (w->at + alignment - 1) / alignment * alignment, size = w->source->files[w->file].size;

	for (size_t i = 0; i < n && !w->err; i++) {
		struct directory_tensor *t = &tensors[i];

		if (t->offset % alignment)
			fail(w, ERR_MODEL, "tensor %s is not aligned", t->name);
		else if (base > size || t->offset > size - base || t->size > size - base - t->offset)
			fail(w, ERR_MODEL, "tensor %s ends past the file (truncated download? fetch it again)", t->name);
		t->offset += base;
	}
}

static bool alignment_of(const struct directory_key *keys, size_t n, const uint8_t *header, uint64_t *out)
{
	*out = 32;
	for (size_t i = 0; i < n; i++)
		if (!strcmp(keys[i].name, "general.alignment")) {
			if (keys[i].type != VALUE_U32)
				return false;
			*out = get_u32(header + keys[i].at);
			return *out >= 8 && *out <= 65536 && (*out & (*out - 1)) == 0;
		}
	return true;
}

static int key_compare(const void *a, const void *b)
{
	return strcmp((*(const struct directory_key *const *)a)->name, (*(const struct directory_key *const *)b)->name);
}

static int tensor_compare(const void *a, const void *b)
{
	return strcmp((*(const struct directory_tensor *const *)a)->name, (*(const struct directory_tensor *const *)b)->name);
}

/* One file: keys go to *keys (heap), tensors are appended to the directory. */
static int read_file(struct directory *d, const struct source *source, uint32_t file, struct buf *header,
		     struct directory_key **keys, size_t *n_keys, char *why, size_t why_size)
{
	struct walk w = { .source = source, .file = file, .bytes = header, .why = why, .why_size = why_size };
	uint64_t n_tensors, n_kv, alignment;
	const uint8_t *magic = take(&w, 4);
	struct directory_tensor *more;
	uint32_t version;

	if (!magic)
		return w.err;
	if (memcmp(magic, "GGUF", 4)) {
		fail(&w, ERR_MODEL, "is not a GGUF file");
		return w.err;
	}
	version = take_u32(&w);
	if (!w.err && (version < 2 || version > 3)) {
		fail(&w, ERR_UNSUPPORTED, version == 1 ? "is GGUF version 1, from before August 2023; convert it again"
			: version > 0xffff ? "is a big-endian GGUF file; convert it for this machine"
			: "has an unknown GGUF version");
		return w.err;
	}
	n_tensors = take_u64(&w);
	n_kv = take_u64(&w);
	if (!w.err && n_kv > DIRECTORY_KEYS_MAX)
		fail(&w, ERR_LIMIT, "claims %" PRIu64 " metadata keys (at most %d)", n_kv, DIRECTORY_KEYS_MAX);
	if (!w.err && n_tensors > DIRECTORY_TENSORS_MAX - d->n_tensors)
		fail(&w, ERR_LIMIT, "claims %" PRIu64 " tensors (at most %d)", n_tensors, DIRECTORY_TENSORS_MAX);
	if (w.err)
		return w.err;
	*keys = calloc(n_kv ? n_kv : 1, sizeof **keys);
	if (!*keys)
		return -ENOMEM;
	for (uint64_t i = 0; i < n_kv && !w.err; i++) {
		take_name(&w, (*keys)[i].name, sizeof (*keys)[i].name, "key");
		take_value(&w, &(*keys)[i]);
		*n_keys = i + 1;
	}
	if (!w.err && !alignment_of(*keys, *n_keys, header->data, &alignment))
		fail(&w, ERR_MODEL, "has an impossible general.alignment");
	if (w.err)
		return w.err;
	more = reallocarray(d->tensors, d->n_tensors + n_tensors + 1, sizeof *more);
	if (!more)
		return -ENOMEM;
	d->tensors = more;
	memset(more + d->n_tensors, 0, n_tensors * sizeof *more);
	for (uint64_t i = 0; i < n_tensors && !w.err; i++)
		take_tensor(&w, &more[d->n_tensors + i]);
	place_tensors(&w, more + d->n_tensors, n_tensors, alignment);
	d->n_tensors += n_tensors;
	d->header_lengths[file] = w.at;
	return w.err;
}

/* A name twice makes "which one" a matter of who reads, so it is refused. */
static int refuse_twins(const struct directory *d, const struct source *source, char *why, size_t why_size)
{
	const struct directory_key **keys = calloc(d->n_keys + 1, sizeof *keys);
	const struct directory_tensor **tensors = calloc(d->n_tensors + 1, sizeof *tensors);
	int err = keys && tensors ? 0 : -ENOMEM;

	if (err)
		goto out;
	for (size_t i = 0; i < d->n_keys; i++)
		keys[i] = &d->keys[i];
	for (size_t i = 0; i < d->n_tensors; i++)
		tensors[i] = &d->tensors[i];
	qsort(keys, d->n_keys, sizeof *keys, key_compare);
	qsort(tensors, d->n_tensors, sizeof *tensors, tensor_compare);
	for (size_t i = 1; i < d->n_keys && !err; i++)
		if (!strcmp(keys[i - 1]->name, keys[i]->name)) {
			snprintf(why, why_size, "%s: has the key %s twice", source->files[0].name, keys[i]->name);
			err = ERR_MODEL;
		}
	for (size_t i = 1; i < d->n_tensors && !err; i++)
		if (!strcmp(tensors[i - 1]->name, tensors[i]->name)) {
			snprintf(why, why_size, "%s: has the tensor %s twice", source->files[tensors[i]->file].name, tensors[i]->name);
			err = ERR_MODEL;
		}
out:
	free(keys);
	free(tensors);
	return err;
}

static bool same_string(const uint8_t *a, const uint8_t *b)
{
	return get_u64(a) == get_u64(b) && !memcmp(a + 8, b + 8, get_u64(a));
}

/* libllama asserts that no token is there twice, and an assertion would end the process. Open addressing over FNV-1a. */
static int refuse_twin_tokens(const struct directory *d, const struct source *source, char *why, size_t why_size)
{
	const struct directory_key *tokens = directory_find(d, "tokenizer.ggml.tokens");
	const uint8_t **slots, *p;
	size_t n_slots = 64;
	int err = 0;

	if (!tokens || tokens->type != VALUE_ARRAY || tokens->item != VALUE_STRING)
		return 0;
	while (n_slots < tokens->count * 2)
		n_slots *= 2;
	slots = calloc(n_slots, sizeof *slots);
	if (!slots)
		return -ENOMEM;
	p = directory_value(d, tokens);
	for (uint64_t i = 0; i < tokens->count && !err; i++, p += 8 + get_u64(p)) {
		uint64_t hash = UINT64_C(14695981039346656037);
		size_t at;

		for (uint64_t k = 0; k < get_u64(p); k++)
			hash = (hash ^ p[8 + k]) * UINT64_C(1099511628211);
		for (at = hash & (n_slots - 1); slots[at] && !same_string(slots[at], p); at = (at + 1) & (n_slots - 1))
			;
		if (slots[at]) {
			snprintf(why, why_size, "%s: its vocabulary has token %" PRIu64 " twice", source->files[0].name, i);
			err = ERR_MODEL;
		}
		slots[at] = p;
	}
	free(slots);
	return err;
}

static bool number(const struct directory *d, const char *name, uint64_t max, uint32_t *out)
{
	uint64_t v;

	if (!directory_uint(d, directory_find_own(d, name), &v) || v == 0 || v > max)
		return false;
	*out = (uint32_t)v;
	return true;
}

/* What every model says, and what the rest of the engine relies on. */
static int read_basics(struct directory *d, const struct source *source, char *why, size_t why_size)
{
	const char *file = source->files[0].name;
	const struct directory_tensor *embedding = directory_tensor(d, "token_embd.weight");
	const struct directory_key *tokens = directory_find(d, "tokenizer.ggml.tokens");
	uint64_t count;

	if (!directory_str(d, directory_find(d, "general.architecture"), d->architecture, sizeof d->architecture)) {
		snprintf(why, why_size, "%s: does not say its general.architecture", file);
		return ERR_MODEL;
	}
	if (!number(d, "block_count", MODEL_LAYERS_MAX, &d->n_layer)) {
		snprintf(why, why_size, "%s: has no %s.block_count between 1 and %d", file, d->architecture, MODEL_LAYERS_MAX);
		return ERR_MODEL;
	}
	if (!number(d, "embedding_length", DIRECTORY_EMBD_MAX, &d->n_embd)) {
		snprintf(why, why_size, "%s: has no %s.embedding_length between 1 and %d", file, d->architecture, DIRECTORY_EMBD_MAX);
		return ERR_MODEL;
	}
	if (!number(d, "context_length", UINT32_MAX, &d->context)) {
		snprintf(why, why_size, "%s: has no %s.context_length", file, d->architecture);
		return ERR_MODEL;
	}
	if (!embedding || embedding->n_dims != 2 || embedding->ne[0] != d->n_embd || embedding->ne[1] > INT32_MAX) {
		snprintf(why, why_size, "%s: has no usable token_embd.weight (is it a part of a split model, or an adapter?)", file);
		return ERR_MODEL;
	}
	d->n_vocab = (uint32_t)embedding->ne[1];
	if (tokens && tokens->type == VALUE_ARRAY && tokens->count != d->n_vocab) {
		snprintf(why, why_size, "%s: has %" PRIu64 " tokens but %u embedding rows", file, tokens->count, d->n_vocab);
		return ERR_MODEL;
	}
	for (size_t i = 0; i < d->n_tensors; i++)
		if (d->tensors[i].layer >= (int32_t)d->n_layer) {
			snprintf(why, why_size, "%s: tensor %s belongs to a layer past block_count %u",
				 source->files[d->tensors[i].file].name, d->tensors[i].name, d->n_layer);
			return ERR_MODEL;
		}
	if (directory_uint(d, directory_find(d, "split.count"), &count) && count > 1 && count != source->n_files) {
		snprintf(why, why_size, "%s: is split into %" PRIu64 " files, but %zu were given; give all of them, in order", file, count,
			 source->n_files);
		return ERR_MODEL;
	}
	d->tied = !directory_tensor(d, "output.weight");
	return 0;
}

int directory_read(struct directory *d, const struct source *source, char *why, size_t why_size)
{
	int err;

	memset(d, 0, sizeof *d);
	buf_init(&d->header, DIRECTORY_HEADER_MAX + STEP);
	err = read_file(d, source, 0, &d->header, &d->keys, &d->n_keys, why, why_size);
	for (uint32_t i = 1; i < source->n_files && !err; i++) {
		struct directory part = { 0 };
		uint64_t number_of = 0;

		buf_init(&part.header, DIRECTORY_HEADER_MAX + STEP);
		err = read_file(d, source, i, &part.header, &part.keys, &part.n_keys, why, why_size);
		if (!err && (!directory_uint(&part, directory_find(&part, "split.no"), &number_of) || number_of != i)) {
			snprintf(why, why_size, "%s: is not part %u of a split model; give the files in order", source->files[i].name, i + 1);
			err = ERR_MODEL;
		}
		directory_release(&part);
	}
	if (!err)
		err = refuse_twins(d, source, why, why_size);
	if (!err)
		err = refuse_twin_tokens(d, source, why, why_size);
	if (!err)
		err = read_basics(d, source, why, why_size);
	if (err == -ENOMEM)
		snprintf(why, why_size, "%s: no memory for its directory", source->files[0].name);
	return err;
}

void directory_release(struct directory *d)
{
	buf_release(&d->header);
	free(d->keys);
	free(d->tensors);
	d->keys = NULL;
	d->tensors = NULL;
	d->n_keys = d->n_tensors = 0;
}

const struct directory_key *directory_find(const struct directory *d, const char *name)
{
	for (size_t i = 0; i < d->n_keys; i++)
		if (!strcmp(d->keys[i].name, name))
			return &d->keys[i];
	return NULL;
}

const struct directory_key *directory_find_own(const struct directory *d, const char *name)
{
	char key[DIRECTORY_KEY_SIZE];

	snprintf(key, sizeof key, "%s.%s", d->architecture, name);
	return directory_find(d, key);
}

const uint8_t *directory_value(const struct directory *d, const struct directory_key *key)
{
	return d->header.data + key->at;
}

bool directory_uint_at(const struct directory *d, const struct directory_key *key, uint64_t i, uint64_t *out)
{
	const uint8_t *p;
	int64_t v;

	*out = 0;
	if (!key || i >= key->count || !value_size(key->item))
		return false;
	p = directory_value(d, key) + i * value_size(key->item);
	switch (key->item) {
	case VALUE_U8: case VALUE_BOOL: v = p[0]; break;
	case VALUE_I8: v = (int8_t)p[0]; break;
	case VALUE_U16: v = get_u16(p); break;
	case VALUE_I16: v = (int16_t)get_u16(p); break;
	case VALUE_U32: v = get_u32(p); break;
	case VALUE_I32: v = (int32_t)get_u32(p); break;
	case VALUE_U64: case VALUE_I64: v = (int64_t)get_u64(p); break;
	default: return false;
	}
	if (v < 0)
		return false;
	*out = (uint64_t)v;
	return true;
}

bool directory_uint(const struct directory *d, const struct directory_key *key, uint64_t *out)
{
	*out = 0;
	return key && key->type != VALUE_ARRAY && directory_uint_at(d, key, 0, out);
}

bool directory_str_at(const struct directory *d, const struct directory_key *key, uint64_t i, char *out, size_t size)
{
	const uint8_t *p;
	uint64_t n;

	out[0] = 0;
	if (!key || key->item != VALUE_STRING || i >= key->count)
		return false;
	p = directory_value(d, key);
	for (uint64_t skip = 0; skip < i; skip++)
		p += 8 + get_u64(p);
	n = get_u64(p);
	if (n >= size)
		n = size - 1;
	memcpy(out, p + 8, n);
	out[n] = 0;
	return true;
}

bool directory_str(const struct directory *d, const struct directory_key *key, char *out, size_t size)
{
	out[0] = 0;
	return key && key->type == VALUE_STRING && directory_str_at(d, key, 0, out, size) && out[0];
}

const struct directory_tensor *directory_tensor(const struct directory *d, const char *name)
{
	for (size_t i = 0; i < d->n_tensors; i++)
		if (!strcmp(d->tensors[i].name, name))
			return &d->tensors[i];
	return NULL;
}
