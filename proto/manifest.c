/* manifest.c: what a model file is made of (DESIGN D15), and which bytes a shard reads.
 *
 * A manifest comes from another association's machine and decides what a node writes to disk under which name and
 * what its engine may read, so every number in it is checked against the files it speaks of.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "proto/fields.h"
#include "proto/record.h"
#include "proto/text.h"

enum { MANIFEST_KEYS = 22 };
enum { FILE_FIELDS = 4, EXTENT_FIELDS = 4 };       /* of the arrays; later versions may append */

/* --- writing ----------------------------------------------------------------------------------------- */

static void write_files(struct pack_writer *w, const struct manifest_body *b)
{
	pack_str(w, "files");
	pack_array(w, b->n_files);
	for (size_t i = 0; i < b->n_files; i++) {
		const struct model_file *f = &b->files[i];
		pack_array(w, FILE_FIELDS);
		pack_str(w, f->name);
		pack_uint(w, f->size);
		pack_bin(w, f->root, KEY_BYTES);
		pack_bin(w, f->sha256, KEY_BYTES);
	}
}

static void write_extents(struct pack_writer *w, const struct manifest_body *b)
{
	pack_str(w, "extents");
	pack_array(w, b->n_extents);
	for (size_t i = 0; i < b->n_extents; i++) {
		const struct model_extent *e = &b->extents[i];
		pack_array(w, EXTENT_FIELDS);
		pack_uint(w, e->group);
		pack_uint(w, e->file);
		pack_uint(w, e->offset);
		pack_uint(w, e->length);
	}
}

/* MANIFEST_KEYS pairs. */
static void write_pairs(struct pack_writer *w, const void *arg)
{
	const struct manifest_body *b = arg;
	pack_kv_str(w, "name", b->name);
	pack_kv_str(w, "architecture", b->architecture);
	pack_kv_str(w, "licence", b->licence);
	pack_kv_bool(w, "private", b->private_);
	pack_kv_str(w, "quantisation", b->quantisation);
	pack_kv_str(w, "languages", b->languages);
	pack_kv_uint(w, "n_layer", b->n_layer);
	pack_kv_uint(w, "n_embd", b->n_embd);
	pack_kv_uint(w, "n_vocab", b->n_vocab);
	pack_kv_uint(w, "context", b->context);
	pack_kv_uint(w, "parameters", b->parameters);
	pack_kv_bool(w, "splittable", b->splittable);
	pack_kv_str(w, "why_whole", b->why_whole);
	pack_kv_bin(w, "no_cut", b->no_cut, b->n_layer <= MODEL_LAYERS_MAX ? b->n_layer / 8 + 1 : 0);
	pack_kv_uint(w, "row_bytes", b->row_bytes);
	pack_kv_uint(w, "kv_bytes", b->kv_bytes_token_layer);
	pack_kv_uint(w, "memory_permille", b->memory_permille ? b->memory_permille : 1000);
	pack_kv_uint(w, "compute_bytes", b->compute_bytes);
	pack_kv_bool(w, "chat_template", b->chat_template);
	write_files(w, b);
	write_extents(w, b);
	pack_kv_bin(w, "info", b->info, b->info_length);
}

int manifest_pack(struct pack_writer *w, const struct manifest_body *b)
{
	pack_map(w, MANIFEST_KEYS);
	write_pairs(w, b);
	return w->err;
}

int manifest_sign(struct buf *out, struct record *head, const struct manifest_body *b, const uint8_t *node_secret)
{
	head->kind = RECORD_MANIFEST;
	model_id(head->subject, b->files, b->n_files);
	return record_sign(out, head, node_secret, MANIFEST_KEYS, write_pairs, b);
}

/* --- reading ----------------------------------------------------------------------------------------- */

static void read_files(struct pack_cursor c, struct manifest_body *b)
{
	struct pack_cursor list = pack_get(c, "files");
	size_t n = pack_count(list);
	if (n > MODEL_FILES_MAX)
		field_fail(c, ERR_LIMIT);
	if (!*c.err && n == 0)
		field_fail(c, ERR_MALFORMED);
	if (*c.err)
		return;
	b->files = calloc(n, sizeof(*b->files));
	if (!b->files) {
		field_fail(c, -ENOMEM);
		return;
	}

	for (size_t i = 0; !*c.err && i < n; i++) {
		struct pack_cursor item = pack_at(list, i);
		struct model_file *f = &b->files[i];
		if (!*c.err && !pack_is_array(item))
			field_fail(c, ERR_MALFORMED);
		pack_at_str(item, 0, f->name, sizeof(f->name));
		f->size = pack_at_uint(item, 1, MODEL_FILE_MAX);
		pack_at_exact(item, 2, f->root, KEY_BYTES);
		pack_at_exact(item, 3, f->sha256, KEY_BYTES);
		if (!*c.err && (!field_is_file_name(f->name) || f->size == 0))
			field_fail(c, ERR_MALFORMED);
		for (size_t k = 0; k < i; k++)
			if (strcmp(b->files[k].name, f->name) == 0)
				field_fail(c, ERR_MALFORMED);      /* they would be one file on disk */
	}
	b->n_files = n;
}

static bool is_group(uint32_t group, uint32_t n_layer)
{
	if (group <= GROUP_SHARED)
		return true;
	return group >= GROUP_LAYER && group - GROUP_LAYER < n_layer;
}

/* Behind what came before it: by group, then file, then bytes that nothing before has. */
static bool is_behind(const struct model_extent *e, const struct model_extent *before)
{
	if (e->group != before->group)
		return e->group > before->group;
	if (e->file != before->file)
		return e->file > before->file;
	return e->offset >= before->offset && e->offset - before->offset >= before->length;
}

static void read_extents(struct pack_cursor c, struct manifest_body *b)
{
	struct pack_cursor list = pack_get(c, "extents");
	size_t n = pack_count(list);
	if (n > MODEL_EXTENTS_MAX)
		field_fail(c, ERR_LIMIT);
	if (*c.err || n == 0)
		return;
	b->extents = calloc(n, sizeof(*b->extents));
	if (!b->extents) {
		field_fail(c, -ENOMEM);
		return;
	}

	for (size_t i = 0; !*c.err && i < n; i++) {
		struct pack_cursor item = pack_at(list, i);
		struct model_extent *e = &b->extents[i];
		if (!*c.err && !pack_is_array(item))
			field_fail(c, ERR_MALFORMED);
		e->group = (uint32_t)pack_at_uint(item, 0, GROUP_LAYER + MODEL_LAYERS_MAX - 1);
		e->file = (uint32_t)pack_at_uint(item, 1, MODEL_FILES_MAX - 1);
		e->offset = pack_at_uint(item, 2, MODEL_FILE_MAX);
		e->length = pack_at_uint(item, 3, MODEL_FILE_MAX);
		if (*c.err)
			break;
		/* The sum cannot wrap: each is at most 2^46. */
		if (!is_group(e->group, b->n_layer) || e->file >= b->n_files || e->length == 0 ||
		    e->offset + e->length > b->files[e->file].size || (i && !is_behind(e, e - 1)))
			field_fail(c, ERR_MALFORMED);
	}
	b->n_extents = n;
}

static void read_info(struct pack_cursor c, struct manifest_body *b)
{
	size_t n;
	const uint8_t *info = pack_borrow_bin(c, "info", RECORD_MAX, &n);
	if (*c.err || n == 0)
		return;
	b->info = malloc(n);
	if (!b->info) {
		field_fail(c, -ENOMEM);
		return;
	}
	memcpy(b->info, info, n);
	b->info_length = n;
}

int manifest_unpack(struct pack_cursor c, struct manifest_body *b)
{
	*b = (struct manifest_body){ 0 };
	pack_get_str(c, "name", b->name, sizeof(b->name));
	if (!*c.err && !text_is_name(b->name))
		field_fail(c, ERR_MALFORMED);
	field_get_plain(c, "architecture", b->architecture, sizeof(b->architecture));
	field_get_plain(c, "licence", b->licence, sizeof(b->licence));
	/* Without the key nothing is public. */
	b->private_ = pack_get_bool_or(c, "private", true);
	field_get_plain(c, "quantisation", b->quantisation, sizeof(b->quantisation));
	field_get_plain(c, "languages", b->languages, sizeof(b->languages));
	b->n_layer = (uint32_t)field_get_range(c, "n_layer", 1, MODEL_LAYERS_MAX);
	b->n_embd = (uint32_t)field_get_range(c, "n_embd", 1, MODEL_EMBD_MAX);
	b->n_vocab = (uint32_t)field_get_range(c, "n_vocab", 1, MODEL_VOCAB_MAX);
	b->context = (uint32_t)field_get_range(c, "context", 1, CONTEXT_MAX);
	b->parameters = pack_get_uint(c, "parameters", INT64_MAX);
	b->splittable = pack_get_bool_or(c, "splittable", false);
	field_get_plain(c, "why_whole", b->why_whole, sizeof(b->why_whole));
	if (pack_has(c, "no_cut") && b->n_layer)
		pack_get_exact(c, "no_cut", b->no_cut, b->n_layer / 8 + 1);
	b->row_bytes = (uint32_t)pack_get_uint(c, "row_bytes", MODEL_EMBD_MAX * 4);
	b->kv_bytes_token_layer = pack_get_uint(c, "kv_bytes", MODEL_FILE_MAX);
	b->memory_permille = pack_has(c, "memory_permille") ? (uint32_t)field_get_range(c, "memory_permille", 1000, 4000) : 1000;
	b->compute_bytes = pack_get_uint(c, "compute_bytes", MODEL_FILE_MAX);
	b->chat_template = pack_get_bool_or(c, "chat_template", false);
	if (!*c.err && b->row_bytes != b->n_embd * 4)
		field_fail(c, ERR_MALFORMED);
	read_files(c, b);
	read_extents(c, b);
	read_info(c, b);

	int err = *c.err;
	if (err)
		manifest_free(b);
	return err;
}

int manifest_read(const struct record *r, struct manifest_body *b)
{
	*b = (struct manifest_body){ 0 };
	if (r->kind != RECORD_MANIFEST)
		return ERR_MALFORMED;
	struct pack_doc doc;
	int err = pack_parse(&doc, r->payload, r->payload_length, &pack_limits_record);
	if (err)
		return err;
	err = manifest_unpack(pack_root(&doc, &err), b);
	pack_release(&doc);
	if (err)
		return err;

	/* The subject is the model's id: what the files say it is, not what the signer would like. */
	uint8_t id[KEY_BYTES];
	model_id(id, b->files, b->n_files);
	if (memcmp(id, r->subject, KEY_BYTES) != 0) {
		manifest_free(b);
		return ERR_MALFORMED;
	}
	return 0;
}

void manifest_free(struct manifest_body *b)
{
	free(b->files);
	free(b->extents);
	free(b->info);
	*b = (struct manifest_body){ 0 };
}

void model_id(uint8_t out[KEY_BYTES], const struct model_file *files, size_t n)
{
	static const char domain[] = "essaim-model-1";
	crypto_generichash_state state;
	crypto_generichash_init(&state, NULL, 0, KEY_BYTES);
	crypto_generichash_update(&state, (const unsigned char *)domain, sizeof(domain) - 1);
	for (size_t i = 0; i < n; i++)
		crypto_generichash_update(&state, files[i].root, KEY_BYTES);
	crypto_generichash_final(&state, out, KEY_BYTES);
}

/* --- which bytes a shard reads ----------------------------------------------------------------------- */

bool manifest_group_in(const struct manifest_body *b, uint32_t group, const struct layer_range *ranges, size_t n)
{
	if (group == GROUP_HEADER || group == GROUP_SHARED)
		return true;
	for (size_t i = 0; i < n; i++) {
		const struct layer_range *range = &ranges[i];
		if (group == GROUP_EMBEDDING ? range->first == 0 :
		    group == GROUP_OUTPUT    ? range->end == b->n_layer :
					       group >= GROUP_LAYER && group - GROUP_LAYER >= range->first &&
						       group - GROUP_LAYER < range->end)
			return true;
	}
	return false;
}

/* Where an extent lies, for sorting: 4,096 of these are 96 KiB of stack. */
struct span {
	uint32_t file;
	uint64_t from, to;
};

static int compare_spans(const void *a, const void *b)
{
	const struct span *x = a, *y = b;
	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	return x->from < y->from ? -1 : x->from > y->from;
}

uint64_t manifest_bytes(const struct manifest_body *b, const struct layer_range *ranges, size_t n)
{
	struct span spans[MODEL_EXTENTS_MAX];
	size_t n_spans = 0;
	bool sorted = true;
	for (size_t i = 0; i < b->n_extents && n_spans < MODEL_EXTENTS_MAX; i++) {
		const struct model_extent *e = &b->extents[i];
		if (!manifest_group_in(b, e->group, ranges, n))
			continue;
		spans[n_spans] = (struct span){ e->file, e->offset, e->offset + e->length };
		if (n_spans && compare_spans(&spans[n_spans - 1], &spans[n_spans]) > 0)
			sorted = false;
		n_spans++;
	}
	if (!sorted)
		qsort(spans, n_spans, sizeof(*spans), compare_spans);

	uint64_t bytes = 0, done = 0;         /* done: up to here this file is counted */
	for (size_t i = 0; i < n_spans; i++) {
		const struct span *s = &spans[i];
		if (i == 0 || s->file != s[-1].file)
			done = 0;
		if (s->to > done) {
			bytes += s->to - (s->from > done ? s->from : done);
			done = s->to;
		}
	}
	return bytes;
}
