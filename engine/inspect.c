/* inspect.c: see inspect.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/inspect.h"

#include <errno.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quirks.h"
#include "engine/shard.h"
#include "proto/err.h"
#include "proto/text.h"

/* Text from a file for people: what is not printable or not UTF-8 is left out. */
static void copy_plain(char *out, size_t size, const char *text)
{
	size_t n = 0;

	for (const unsigned char *p = (const unsigned char *)text; *p && n + 1 < size; p++)
		if (*p >= 0x20 && *p != 0x7f)
			out[n++] = (char)*p;
	out[n] = 0;
	while (n && !text_is_utf8(out, n))
		out[--n] = 0;
}

/* An alias people can type: general.name, or the file's name without ".gguf". */
static void take_name(struct manifest_body *b, const struct source *source, const struct directory *d)
{
	char text[256];
	size_t n;

	if (!directory_str(d, directory_find(d, "general.name"), text, sizeof text)) {
		text_copy(text, sizeof text, source->files[0].name);
		n = strlen(text);
		if (n > 5 && !strcmp(text + n - 5, ".gguf"))
			text[n - 5] = 0;
	}
	copy_plain(b->name, sizeof b->name, text);
	for (char *p = b->name; *p; p++)
		if (*p == '/' || *p == '@' || *p == ' ')
			*p = '-';
	if (!text_is_name(b->name))
		snprintf(b->name, sizeof b->name, "model");
}

static void take_languages(struct manifest_body *b, const struct directory *d)
{
	const struct directory_key *key = directory_find(d, "general.languages");
	size_t n = 0;

	for (uint64_t i = 0; key && key->type == VALUE_ARRAY && key->item == VALUE_STRING && i < key->count && i < 64; i++) {
		char one[16], plain[16];

		directory_str_at(d, key, i, one, sizeof one);
		copy_plain(plain, sizeof plain, one);
		if (!plain[0] || n + strlen(plain) + 2 > sizeof b->languages)
			continue;
		n += (size_t)snprintf(b->languages + n, sizeof b->languages - n, "%s%s", n ? "," : "", plain);
	}
}

/* As the file says, or the type that most of its bytes have. */
static void take_quantisation(struct manifest_body *b, const struct directory *d)
{
	uint64_t bytes[GGML_TYPE_COUNT] = { 0 }, file_type;
	size_t most = 0;

	if (directory_uint(d, directory_find(d, "general.file_type"), &file_type) && file_type < LLAMA_FTYPE_GUESSED) {
		const char *name = llama_ftype_name((enum llama_ftype)file_type);

		if (name && name[0] && !strstr(name, "nknown")) {
			copy_plain(b->quantisation, sizeof b->quantisation, name);
			return;
		}
	}
	for (size_t i = 0; i < d->n_tensors; i++)
		bytes[d->tensors[i].type] += d->tensors[i].size;
	for (size_t i = 0; i < GGML_TYPE_COUNT; i++)
		if (bytes[i] > bytes[most])
			most = i;
	copy_plain(b->quantisation, sizeof b->quantisation, ggml_type_name((enum ggml_type)most));
}

/* --- extents --------------------------------------------------------------------------------------- */

static bool starts(const char *text, const char *prefix)
{
	return !strncmp(text, prefix, strlen(prefix));
}

/* What acts once before the first layer, once after the last, or is read by every shard: the norm of the embedding too (token_embd_norm),
 * which is behind the last layer in some architectures. */
static uint32_t group_of(const struct directory_tensor *t)
{
	if (t->layer >= 0)
		return GROUP_LAYER + (uint32_t)t->layer;
	if (starts(t->name, "token_embd.") || starts(t->name, "position_embd") || starts(t->name, "token_types") ||
	    starts(t->name, "per_layer_"))
		return GROUP_EMBEDDING;
	if (starts(t->name, "output") || starts(t->name, "dec.output") || starts(t->name, "cls"))
		return GROUP_OUTPUT;
	return GROUP_SHARED;
}

static int extent_compare(const void *a, const void *b)
{
	const struct model_extent *x = a, *y = b;

	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* One extent a tensor, then neighbours of a group are joined across the padding between them. */
static int take_extents(struct manifest_body *b, const struct source *source, const struct directory *d, char *why, size_t why_size)
{
	size_t n = 0, kept = 0, most = d->n_tensors + source->n_files + 1;
	struct model_extent *e = calloc(most, sizeof *e);

	if (!e)
		return -ENOMEM;
	for (uint32_t i = 0; i < source->n_files; i++)
		e[n++] = (struct model_extent){ .group = GROUP_HEADER, .file = i, .length = d->header_lengths[i] };
	for (size_t i = 0; i < d->n_tensors; i++) {
		const struct directory_tensor *t = &d->tensors[i];

		e[n++] = (struct model_extent){ .group = group_of(t), .file = t->file, .offset = t->offset, .length = t->size };
		if (d->tied && !strcmp(t->name, "token_embd.weight"))        /* the output matrix too */
			e[n++] = (struct model_extent){ .group = GROUP_OUTPUT, .file = t->file, .offset = t->offset, .length = t->size };
	}
	qsort(e, n, sizeof *e, extent_compare);
	for (size_t i = 0; i < n; i++) {
		struct model_extent *last = kept ? &e[kept - 1] : NULL;

		if (last && last->group == e[i].group && last->file == e[i].file) {
			uint64_t end = last->offset + last->length;

			if (e[i].offset < end) {
				snprintf(why, why_size, "%s: tensors overlap", source->files[e[i].file].name);
				free(e);
				return ERR_MODEL;
			}
			if (e[i].offset - end < 64) {        /* padding */
				last->length = e[i].offset + e[i].length - last->offset;
				continue;
			}
		}
		e[kept++] = e[i];
	}
	if (kept > MODEL_EXTENTS_MAX) {
		snprintf(why, why_size, "%s: its layers are scattered over %zu places (at most %d); write it again with llama-quantize or gguf-split",
			 source->files[0].name, kept, MODEL_EXTENTS_MAX);
		free(e);
		return ERR_LIMIT;
	}
	b->extents = e;
	b->n_extents = kept;
	return 0;
}

/* True when the file has a template and libllama can apply it: it knows a list of them rather than the language they are
 * written in. */
static bool has_template(const struct directory *d)
{
	const struct directory_key *key = directory_find(d, "tokenizer.chat_template");
	struct llama_chat_message hello[] = { { "user", "?" } };
	bool works = false;
	char *text;

	if (!key || key->type != VALUE_STRING || key->length <= 8 || key->length > 1u << 20)
		return false;
	text = malloc(key->length);
	if (text && directory_str(d, key, text, key->length - 7))
		works = llama_chat_apply_template(text, hello, 1, true, NULL, 0) > 0;
	free(text);
	return works;
}

/* --- all of it ------------------------------------------------------------------------------------- */

static int take_files(struct manifest_body *b, const struct source *source)
{
	b->files = calloc(source->n_files, sizeof *b->files);
	if (!b->files)
		return -ENOMEM;
	b->n_files = source->n_files;
	for (size_t i = 0; i < source->n_files; i++) {
		text_copy(b->files[i].name, sizeof b->files[i].name, source->files[i].name);
		b->files[i].size = source->files[i].size;
	}
	return 0;
}

/* Buffers come from a simulated load of the whole model with one session: the largest compute buffer that a shard can need. */
static int take_measures(struct manifest_body *b, const struct source *source, const struct directory *d, uint32_t context, char *why,
			 size_t why_size)
{
	struct shard_config config = { .source = source, .directory = d, .range = { 0, d->n_layer }, .sessions = 1, .threads = 1 };
	struct memory_use use;
	int err;

	config.context = context ? context : d->context < INSPECT_CONTEXT ? d->context : INSPECT_CONTEXT;
	err = shard_estimate(&config, &use, why, why_size);
	if (err)
		return err;
	b->compute_bytes = use.compute;
	uint64_t stored = 0, permille;
	for (size_t i = 0; i < d->n_tensors; i++)
		stored += d->tensors[i].size;
	permille = stored ? (use.weights * 1000 + stored - 1) / stored : 1000;
	b->memory_permille = permille < 1000 ? 1000 : permille > 4000 ? 4000 : (uint32_t)permille;
	for (uint32_t i = 0; i < d->n_layer; i++)
		if (shard_kv_bytes(d, i) > b->kv_bytes_token_layer)
			b->kv_bytes_token_layer = shard_kv_bytes(d, i);
	if (!b->kv_bytes_token_layer)        /* recurrent and the like: what it took, spread over positions and layers */
		b->kv_bytes_token_layer = use.kv / config.context / d->n_layer + 1;
	return 0;
}

int inspect_model(struct manifest_body *b, const struct source *source, const struct directory *d, uint32_t context, char *why, size_t why_size)
{
	char text[256];
	int err;

	memset(b, 0, sizeof *b);
	take_name(b, source, d);
	copy_plain(b->architecture, sizeof b->architecture, d->architecture);
	if (directory_str(d, directory_find(d, "general.license"), text, sizeof text))
		copy_plain(b->licence, sizeof b->licence, text);
	take_languages(b, d);
	take_quantisation(b, d);
	b->n_layer = d->n_layer;
	b->n_embd = d->n_embd;
	b->n_vocab = d->n_vocab;
	b->context = d->context < CONTEXT_MAX ? d->context : CONTEXT_MAX;
	for (size_t i = 0; i < d->n_tensors; i++)
		b->parameters += (uint64_t)d->tensors[i].ne[0] * (uint64_t)d->tensors[i].ne[1] * (uint64_t)d->tensors[i].ne[2] *
				 (uint64_t)d->tensors[i].ne[3];
	b->row_bytes = d->n_embd * 4;
	b->chat_template = has_template(d);
	b->splittable = quirk_splittable(d, b->why_whole, sizeof b->why_whole);
	for (uint32_t c = 1; c < d->n_layer; c++)
		if (b->splittable && !quirk_may_cut(d, c))
			b->no_cut[c / 8] |= (uint8_t)(1 << c % 8);
	err = take_files(b, source);
	if (!err)
		err = take_extents(b, source, d, why, why_size);
	if (!err)
		err = take_measures(b, source, d, context, why, why_size);
	return err;
}
