/* quirks.c: the table. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/quirks.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* gemma3 with 62 layers (27B): libllama recognises it by the layer count and scales attention by n_embd / n_head instead
 * of the head's width; a shard has another count and would be computed with the wrong scale. */
static const struct quirk table[] = {
	/* architecture  scaled  window  whole at */
	{ "llama",       false,  0,      0 },
	{ "qwen2",       false,  0,      0 },
	{ "qwen3",       false,  0,      0 },
	{ "gemma3",      true,   6,      62 },
};

const struct quirk *quirk_find(const char *architecture)
{
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		if (!strcmp(table[i].architecture, architecture))
			return &table[i];
	return NULL;
}

/* Is there a sliding window at all: without one every layer is alike. */
static bool is_patterned(const struct directory *d, const struct quirk *quirk)
{
	uint64_t window;

	return quirk->window_period && directory_uint(d, directory_find_own(d, "attention.sliding_window"), &window) && window > 0;
}

/* Which layers have a window: said layer by layer, or by a period whose last layer has none. */
static bool has_window(const struct directory *d, const struct quirk *quirk, uint32_t layer)
{
	const struct directory_key *pattern = directory_find_own(d, "attention.sliding_window_pattern");
	uint64_t v = quirk->window_period;

	if (pattern && pattern->type == VALUE_ARRAY)
		return directory_uint_at(d, pattern, layer, &v) && v != 0;
	if (pattern)
		directory_uint(d, pattern, &v);
	return v == 0 || layer % v < v - 1;
}

/* Where shards of a patterned model may meet: the shortest pieces, from the front, that hold both kinds; every shard made of
 * whole pieces then holds both. A period's phase is not written in the file, so such pieces must be whole periods. */
static bool patterned_cut(const struct directory *d, const struct quirk *quirk, uint32_t c)
{
	const struct directory_key *pattern = directory_find_own(d, "attention.sliding_window_pattern");
	bool with = false, without = false, here = false;
	uint64_t period = quirk->window_period;

	if (pattern && pattern->type != VALUE_ARRAY)
		directory_uint(d, pattern, &period);
	for (uint32_t i = 0; i < d->n_layer; i++) {
		if (i && with && without && (pattern && pattern->type == VALUE_ARRAY ? true : period && i % period == 0)) {
			here = here || i == c;
			with = without = false;
		}
		if (has_window(d, quirk, i))
			with = true;
		else
			without = true;
	}
	if (!here)
		return false;
	/* what is left behind the cut must hold both kinds too */
	with = without = false;
	for (uint32_t i = c; i < d->n_layer; i++)
		if (has_window(d, quirk, i))
			with = true;
		else
			without = true;
	return with && without;
}

bool quirk_splittable(const struct directory *d, char *why, size_t why_size)
{
	const struct quirk *quirk = quirk_find(d->architecture);
	uint64_t n;

	if (!quirk) {
		snprintf(why, why_size, "architecture %s is not known to be exact when it is split; it runs whole on one node", d->architecture);
		return false;
	}
	if (quirk->whole_n_layer && d->n_layer == quirk->whole_n_layer) {
		snprintf(why, why_size, "%s with %u layers has constants that depend on the layer count; it runs whole on one node",
			 d->architecture, d->n_layer);
		return false;
	}
	if (directory_uint(d, directory_find_own(d, "nextn_predict_layers"), &n) && n > 0) {
		snprintf(why, why_size, "the model has %" PRIu64 " extra prediction layers; it runs whole on one node", n);
		return false;
	}
	for (uint32_t c = 1; c < d->n_layer; c++)
		if (quirk_may_cut(d, c))
			return true;
	snprintf(why, why_size, "the model has too few layers to be split");
	return false;
}

bool quirk_may_cut(const struct directory *d, uint32_t c)
{
	const struct quirk *quirk = quirk_find(d->architecture);

	if (c == 0 || c == d->n_layer)
		return true;
	if (!quirk || c > d->n_layer)
		return false;
	return !is_patterned(d, quirk) || patterned_cut(d, quirk, c);
}

/* FNV-1a, 32 bits (Fowler, Noll, Vo), over the table as text. */
uint32_t quirk_hash(void)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		char line[96];

		snprintf(line, sizeof line, "%s %d %u %u;", table[i].architecture, table[i].scaled, table[i].window_period,
			 table[i].whole_n_layer);
		for (const char *p = line; *p; p++)
			hash = (hash ^ (uint8_t)*p) * 16777619u;
	}
	return hash;
}
