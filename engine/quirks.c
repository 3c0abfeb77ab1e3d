/* quirks.c: the table. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/quirks.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Why an architecture stays whole. */
#define KINDS "each shard would need layers of several kinds"
#define BY_COUNT "libllama takes constants from the number of layers"
#define ONCE "what acts once on the embedding would act again in every shard"
#define WIDE "what goes from layer to layer is more than one row a token"
#define NOT_TEXT "it does not continue text token by token"

/* Found with llama.cpp's own suite of tiny models (tests/peers/test_architectures.py), each of them also stacked to a dozen layers
 * and cut at every legal place; what is left out because of constants was seen in the same way at other layer counts.
 *
 * gemma3 with 62 layers (27B): libllama recognises it by the layer count and scales attention by n_embd / n_head instead
 * of the head's width; a shard has another count and would be computed with the wrong scale. command-r with 64 has norms more.
 * A window_period of 1: libllama has no period of its own, so the file must say it layer by layer. */
static const struct quirk table[] = {
	{ .architecture = "afmoe", .whole = ONCE },
	{ .architecture = "arcee" },
	{ .architecture = "arctic" },
	{ .architecture = "baichuan", .whole = BY_COUNT },
	{ .architecture = "bailingmoe" },
	{ .architecture = "bailingmoe2" },
	{ .architecture = "bailingmoe3", .whole = KINDS },
	{ .architecture = "bloom", .whole = ONCE },
	{ .architecture = "chatglm" },
	{ .architecture = "codeshell" },
	{ .architecture = "cogvlm", .whole = "rows that come instead of ids are taken for pictures" },
	{ .architecture = "cohere2", .window_period = 4, .tied = true },
	{ .architecture = "cohere2moe", .window_period = 4, .tied = true },
	{ .architecture = "command-r", .whole_n_layer = 64, .tied = true },
	{ .architecture = "dbrx" },
	{ .architecture = "deci", .whole = "a shard might begin with a layer without attention" },
	{ .architecture = "deepseek" },
	{ .architecture = "deepseek2", .whole = BY_COUNT },
	{ .architecture = "deepseek32" },
	{ .architecture = "deepseek4", .whole = WIDE },
	{ .architecture = "dots1" },
	{ .architecture = "dots3note", .whole = KINDS },
	{ .architecture = "dream", .whole = NOT_TEXT },
	{ .architecture = "ernie4_5" },
	{ .architecture = "ernie4_5-moe" },
	{ .architecture = "exaone" },
	{ .architecture = "exaone-moe", .window_period = 4 },
	{ .architecture = "exaone4", .whole = BY_COUNT },
	{ .architecture = "falcon" },
	{ .architecture = "falcon-h1" },
	{ .architecture = "gemma", .whole = ONCE },
	{ .architecture = "gemma2", .whole = ONCE },
	{ .architecture = "gemma3", .scaled = true, .window_period = 6, .whole_n_layer = 62 },
	{ .architecture = "glm-dsa", .whole = "layers share what an earlier one looked up" },
	{ .architecture = "glm4" },
	{ .architecture = "glm4moe" },
	{ .architecture = "glm5-next", .whole = WIDE },
	{ .architecture = "gpt-oss", .window_period = 2 },
	{ .architecture = "gpt2" },
	{ .architecture = "gptneox" },
	{ .architecture = "granite" },
	{ .architecture = "granite_swa", .window_period = 1 },
	{ .architecture = "granitehybrid", .whole = KINDS },
	{ .architecture = "granitemoe" },
	{ .architecture = "grok", .must_say = { "embedding_scale" } },
	{ .architecture = "grovemoe" },
	{ .architecture = "hrm_text", .whole = "its layers run several times" },
	{ .architecture = "hunyuan-dense" },
	{ .architecture = "hunyuan-moe" },
	{ .architecture = "hunyuan_vl" },
	{ .architecture = "hy_v3" },
	{ .architecture = "hy_v4", .whole = WIDE },
	{ .architecture = "internlm2" },
	{ .architecture = "jais" },
	{ .architecture = "jais2" },
	{ .architecture = "jamba", .whole = KINDS },
	{ .architecture = "k2-horizon" },
	{ .architecture = "kimi-k3", .whole = KINDS },
	{ .architecture = "kimi-linear", .whole = KINDS },
	{ .architecture = "laguna", .whole = KINDS },
	{ .architecture = "lfm2", .whole = KINDS },
	{ .architecture = "lfm2moe", .whole = KINDS },
	{ .architecture = "llada", .whole = NOT_TEXT },
	{ .architecture = "llada-moe", .whole = NOT_TEXT },
	{ .architecture = "llama" },
	{ .architecture = "llama4", .whole = KINDS },
	{ .architecture = "maincoder" },
	{ .architecture = "maion-coder", .whole = "libllama gives what leaves its layers no name" },
	{ .architecture = "mamba" },
	{ .architecture = "mamba2" },
	{ .architecture = "maple", .whole = KINDS },
	{ .architecture = "mellum", .window_period = 4 },
	{ .architecture = "mimo2", .whole = KINDS },
	{ .architecture = "minicpm", .must_say = { "embedding_scale", "residual_scale" } },
	{ .architecture = "minicpm3", .whole = BY_COUNT },
	{ .architecture = "minimax-01", .whole = KINDS },
	{ .architecture = "minimax-m2" },
	{ .architecture = "minimax-m3", .whole = KINDS },
	{ .architecture = "mistral3" },
	{ .architecture = "mistral4", .whole = BY_COUNT },
	{ .architecture = "mpt" },
	{ .architecture = "muse-glimmer", .whole = KINDS },
	{ .architecture = "nanbeige", .whole = "its layers run several times" },
	{ .architecture = "nemotron" },
	{ .architecture = "nemotron_h", .whole = KINDS },
	{ .architecture = "nemotron_h_moe", .whole = KINDS },
	{ .architecture = "olmo" },
	{ .architecture = "olmo2", .window_period = 4 },
	{ .architecture = "olmoe" },
	{ .architecture = "openelm", .tied = true },
	{ .architecture = "orion" },
	{ .architecture = "paddleocr" },
	{ .architecture = "pangu-embedded" },
	{ .architecture = "phi2" },
	{ .architecture = "phi3" },
	{ .architecture = "phimoe" },
	{ .architecture = "plamo" },
	{ .architecture = "plamo2", .whole = KINDS },
	{ .architecture = "plamo3", .window_period = 8 },
	{ .architecture = "pockettts", .whole = NOT_TEXT },
	{ .architecture = "qwen" },
	{ .architecture = "qwen2" },
	{ .architecture = "qwen2moe" },
	{ .architecture = "qwen2vl" },
	{ .architecture = "qwen3" },
	{ .architecture = "qwen35", .whole = KINDS },
	{ .architecture = "qwen35moe", .whole = KINDS },
	{ .architecture = "qwen3moe" },
	{ .architecture = "qwen3next", .whole = KINDS },
	{ .architecture = "qwen3tts", .whole = NOT_TEXT },
	{ .architecture = "qwen3vl" },
	{ .architecture = "qwen3vlmoe" },
	{ .architecture = "qwen4exp", .whole = WIDE },
	{ .architecture = "refact" },
	{ .architecture = "rnd1", .whole = NOT_TEXT },
	{ .architecture = "seed_oss" },
	{ .architecture = "smallthinker", .whole = KINDS },
	{ .architecture = "smollm3", .step = 4 },
	{ .architecture = "spark2_5", .whole = KINDS },
	{ .architecture = "stablelm" },
	{ .architecture = "starcoder" },
	{ .architecture = "starcoder2" },
	{ .architecture = "talkie", .whole = ONCE },
	{ .architecture = "xverse" },
};

static const struct quirk *find(const char *architecture)
{
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		if (!strcmp(table[i].architecture, architecture))
			return &table[i];
	return NULL;
}

const struct quirk *quirk_find(const char *architecture)
{
	const struct quirk *quirk = find(architecture);

	return quirk && !quirk->whole ? quirk : NULL;
}

const struct quirk *quirk_at(size_t i)
{
	return i < sizeof table / sizeof table[0] ? &table[i] : NULL;
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

bool quirk_holds_embedding(const struct directory *d)
{
	const struct quirk *quirk = quirk_find(d->architecture);

	return d->tied && quirk && quirk->tied;
}

/* Cuts lie at multiples of this: a period of the architecture's, or one that the file says. */
static uint64_t step_of(const struct directory *d, const struct quirk *quirk)
{
	static const char *const keys[] = { "interleave_moe_layer_step", "moe_every_n_layers" };
	uint64_t step = quirk->step ? quirk->step : 1, other;

	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
		if (directory_uint(d, directory_find_own(d, keys[i]), &other) && other > 1)
			step = step % other == 0 ? step : step * other;
	return step;
}

/* Where heads differ by layer and their width is not said, libllama divides by the first layer's count: another one in each shard. */
static bool has_width(const struct directory *d)
{
	const struct directory_key *heads = directory_find_own(d, "attention.head_count");
	uint64_t n;

	return !heads || heads->type != VALUE_ARRAY || (directory_uint(d, directory_find_own(d, "attention.key_length"), &n) &&
							directory_uint(d, directory_find_own(d, "attention.value_length"), &n));
}

bool quirk_splittable(const struct directory *d, char *why, size_t why_size)
{
	const struct quirk *quirk = find(d->architecture);
	uint64_t n;

	if (quirk && quirk->whole) {
		snprintf(why, why_size, "%s cannot be split exactly: %s; it runs whole on one node", d->architecture, quirk->whole);
		return false;
	}
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
	for (size_t i = 0; i < QUIRK_KEYS && quirk->must_say[i]; i++)
		if (!directory_find_own(d, quirk->must_say[i])) {
			snprintf(why, why_size, "the file does not say %s.%s, as a shard must; it runs whole on one node", d->architecture,
				 quirk->must_say[i]);
			return false;
		}
	if (!has_width(d)) {
		snprintf(why, why_size, "the file does not say how wide the heads of %s are; it runs whole on one node", d->architecture);
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
	return c % step_of(d, quirk) == 0 && (!is_patterned(d, quirk) || patterned_cut(d, quirk, c));
}

/* FNV-1a, 32 bits (Fowler, Noll, Vo), over the table as text. */
uint32_t quirk_hash(void)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		const struct quirk *q = &table[i];
		char line[256];

		snprintf(line, sizeof line, "%s %d %u %u %u %d %d %s %s;", q->architecture, q->scaled, q->window_period, q->whole_n_layer, q->step,
			 q->tied, q->whole != NULL, q->must_say[0] ? q->must_say[0] : "", q->must_say[1] ? q->must_say[1] : "");
		for (const char *p = line; *p; p++)
			hash = (hash ^ (uint8_t)*p) * 16777619u;
	}
	return hash;
}
