/* fuzz_manifest.c: a manifest's body as an engine hands it over, and the sums made of it.
 *
 * The input is the msgpack map. What must hold of every body that is taken:
 *   - file names are base names, all different; extents lie inside their files, in order, without overlap in a group;
 *   - the bytes of a shard never exceed the files, grow with the range, and those of two ranges that meet are those
 *     of their union;
 *   - packed again it is taken again, and packs to the same bytes.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "proto/err.h"
#include "proto/record.h"
#include "tests/fuzz/fuzz.h"
#include "tests/samples.h"

static int unpack(const uint8_t *bytes, size_t n, struct manifest_body *b)
{
	struct pack_doc doc;
	int err = pack_parse(&doc, bytes, n, &pack_limits_record), sticky;
	if (err)
		return err;
	err = manifest_unpack(pack_root(&doc, &sticky), b);
	pack_release(&doc);
	return err;
}

static void check_files(const struct manifest_body *b)
{
	must(b->n_files >= 1 && b->n_files <= MODEL_FILES_MAX);
	for (size_t i = 0; i < b->n_files; i++) {
		const char *name = b->files[i].name;
		size_t length = strnlen(name, sizeof(b->files[i].name));
		must(length >= 1 && length < sizeof(b->files[i].name));
		must(!strchr(name, '/') && name[0] != '.');
		for (size_t k = 0; k < length; k++)
			must((uint8_t)name[k] >= 0x20 && name[k] != 0x7f);
		must(b->files[i].size >= 1 && b->files[i].size <= MODEL_FILE_MAX);
		for (size_t k = 0; k < i; k++)
			must(strcmp(name, b->files[k].name) != 0);
	}
}

static void check_extents(const struct manifest_body *b)
{
	must(b->n_extents <= MODEL_EXTENTS_MAX);
	for (size_t i = 0; i < b->n_extents; i++) {
		const struct model_extent *e = &b->extents[i];
		must(e->file < b->n_files && e->length >= 1);
		must(e->length <= b->files[e->file].size && e->offset <= b->files[e->file].size - e->length);
		must(e->group <= GROUP_SHARED || (e->group >= GROUP_LAYER && e->group < GROUP_LAYER + b->n_layer));
		if (i == 0)
			continue;
		const struct model_extent *before = e - 1;
		if (e->group == before->group && e->file == before->file)
			must(e->offset >= before->offset + before->length);
		else
			must(e->group > before->group || (e->group == before->group && e->file > before->file));
	}
}

static uint64_t bytes_of(const struct manifest_body *b, uint32_t first, uint32_t end)
{
	struct layer_range range = { first, end };
	return manifest_bytes(b, &range, 1);
}

static void check_bytes(const struct manifest_body *b)
{
	uint64_t all = 0, whole = bytes_of(b, 0, b->n_layer), always = manifest_bytes(b, NULL, 0);
	for (size_t i = 0; i < b->n_files; i++)
		all += b->files[i].size;
	must(whole <= all && always <= whole);

	uint32_t n = b->n_layer < 16 ? b->n_layer : 16;
	uint64_t before = always;
	for (uint32_t cut = 1; cut < n; cut++) {
		struct layer_range halves[] = { { cut, b->n_layer }, { 0, cut } };
		must(manifest_bytes(b, halves, 2) == whole);
		uint64_t head = bytes_of(b, 0, cut), tail = bytes_of(b, cut, b->n_layer);
		must(head >= before && head <= whole && tail >= always && tail <= whole);
		must(head + tail >= whole);
		before = head;
		(void)manifest_may_cut(b, cut);
	}
	must(manifest_may_cut(b, 0) && manifest_may_cut(b, b->n_layer) && !manifest_may_cut(b, b->n_layer + 1));
}

static void check_again(const struct manifest_body *b)
{
	struct buf first, second;
	struct pack_writer w;
	struct manifest_body again;
	buf_init(&first, RECORD_MAX);
	buf_init(&second, RECORD_MAX);
	pack_writer_init(&w, &first);
	int err = manifest_pack(&w, b);
	must(err == 0 || err == ERR_LIMIT);      /* a body just below the limit, without the keys that may be left out */
	if (err) {
		buf_release(&first);
		return;
	}
	must(unpack(first.data, first.length, &again) == 0);
	pack_writer_init(&w, &second);
	must(manifest_pack(&w, &again) == 0);
	must(first.length == second.length && memcmp(first.data, second.data, first.length) == 0);
	manifest_free(&again);
	buf_release(&first);
	buf_release(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct manifest_body b;
	memset(&b, 0xa5, sizeof(b));
	int err = unpack(data, n, &b);
	if (err) {
		must(err == ERR_MALFORMED || err == ERR_LIMIT);
		return 0;
	}
	check_files(&b);
	check_extents(&b);
	check_bytes(&b);
	check_again(&b);
	manifest_free(&b);
	return 0;
}

bool fuzz_seed(size_t i, struct buf *out)
{
	if (i >= 3)
		return false;
	struct manifest_body b;
	struct pack_writer w;
	sample_manifest(&b);
	if (i >= 1) {            /* a model that stays whole, in one file */
		b.splittable = false;
		strcpy(b.why_whole, "layers share state");
		b.n_files = 1;
		b.n_extents = 0;
	}
	if (i == 2) {            /* as many layers as there may be, some that must stay together */
		b.splittable = true;
		b.n_layer = MODEL_LAYERS_MAX;
		memset(b.no_cut, 0x55, sizeof(b.no_cut));
		b.info_length = 0;
	}
	pack_writer_init(&w, out);
	must(manifest_pack(&w, &b) == 0);
	manifest_free(&b);
	return true;
}
