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

/* Layers of one period, 0 when all layers are alike; false when the file describes its pattern in a way the table does not
 * cover. */
static bool window_period(const struct directory *d, const struct quirk *quirk, uint64_t *period)
{
	const struct directory_key *pattern = directory_find_own(d, "attention.sliding_window_pattern");
	uint64_t window;

	*period = 0;
	if (!quirk->window_period)
		return true;
	if (!directory_uint(d, directory_find_own(d, "attention.sliding_window"), &window) || window == 0)
		return true;
	*period = quirk->window_period;
	return !pattern || (directory_uint(d, pattern, period) && *period > 1);
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
	if (!window_period(d, quirk, &n)) {
		snprintf(why, why_size, "the pattern of sliding windows is given layer by layer; it runs whole on one node");
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
	uint64_t period;

	if (c == 0 || c == d->n_layer)
		return true;
	if (!quirk || c > d->n_layer || !window_period(d, quirk, &period))
		return false;
	/* Cuts at whole periods keep the pattern's phase; the last shard needs one whole period for a full-attention layer. */
	return period == 0 || (c % period == 0 && d->n_layer - c >= period);
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
