/* quirks.c: the table. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/quirks.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Why several stay whole. */
#define WIDE "what goes from layer to layer is more than one row a token"
#define NOT_TEXT "it does not continue text token by token"

/* Found with llama.cpp's own suite of tiny models (tests/peers/test_architectures.py), each of them also stacked to a dozen layers
 * and cut at every legal place; what is left out because of constants was seen in the same way at other layer counts.
 *
 * Layer counts: gemma2 with 46 and gemma3 with 62 (27B) scale attention by n_embd / n_head instead of the head's width,
 * command-r with 64 has norms more, exaone4 with 64 has windows, baichuan with 32 (7B) turns positions and with 40 (13B) slopes by
 * them. smallthinker with as many layers as its period, 4, turns positions in all of them. deepseek2 and mistral4 with 26, 27 or 48
 * are taken for the small ones, which have no q_lora_rank: those say none, and their shards say 0.
 * A window_period of 1: libllama has no period of its own, so the file must say it layer by layer. */
static const struct quirk table[] = {
	{ .architecture = "afmoe", .window_period = 4, .step = 4, .entry = "inp_embd_scaled" },
	{ .architecture = "arcee" },
	{ .architecture = "arctic" },
	{ .architecture = "baichuan", .step = 3, .counts = { 32, 40 } },
	{ .architecture = "bailingmoe" },
	{ .architecture = "bailingmoe2" },
	{ .architecture = "bailingmoe3" },
	{ .architecture = "bloom", .entry = "inp_norm-0" },
	{ .architecture = "chatglm" },
	{ .architecture = "codeshell" },
	{ .architecture = "cogvlm", .entry = "embd", .by_id = true },
	{ .architecture = "cohere2", .window_period = 4, .tied = true },
	{ .architecture = "cohere2moe", .window_period = 4, .tied = true },
	{ .architecture = "command-r", .counts = { 64 }, .tied = true },
	{ .architecture = "dbrx" },
	{ .architecture = "deci" },
	{ .architecture = "deepseek" },
	{ .architecture = "deepseek2", .step = 4, .counts = { 26, 27, 48 }, .zero_key = "attention.q_lora_rank",
	  .must_say = { "expert_gating_func" } },
	{ .architecture = "deepseek32" },
	{ .architecture = "deepseek4", .whole = WIDE },
	{ .architecture = "dots1" },
	{ .architecture = "dots3note", .window_period = 1 },
	{ .architecture = "dream", .whole = NOT_TEXT },
	{ .architecture = "ernie4_5" },
	{ .architecture = "ernie4_5-moe" },
	{ .architecture = "exaone" },
	{ .architecture = "exaone-moe", .window_period = 4 },
	{ .architecture = "exaone4", .counts = { 64 } },
	{ .architecture = "falcon" },
	{ .architecture = "falcon-h1" },
	{ .architecture = "gemma", .entry = "inp_scaled", .tied = true },
	{ .architecture = "gemma2", .window_period = 2, .always_window = true, .counts = { 46 }, .tied = true,
	  .entry = "inp_scaled" },
	{ .architecture = "gemma3", .scaled = true, .window_period = 6, .counts = { 62 } },
	{ .architecture = "glm-dsa", .whole = "layers share what an earlier one looked up" },
	{ .architecture = "glm4" },
	{ .architecture = "glm4moe" },
	{ .architecture = "glm5-next", .whole = WIDE },
	{ .architecture = "gpt-oss", .window_period = 2 },
	{ .architecture = "gpt2" },
	{ .architecture = "gptneox" },
	{ .architecture = "granite" },
	{ .architecture = "granite_swa", .window_period = 1 },
	{ .architecture = "granitehybrid" },
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
	{ .architecture = "jamba" },
	{ .architecture = "k2-horizon" },
	{ .architecture = "kimi-k3", .whole = WIDE },
	{ .architecture = "kimi-linear" },
	{ .architecture = "laguna", .window_period = 1 },
	{ .architecture = "lfm2" },
	{ .architecture = "lfm2moe" },
	{ .architecture = "llada", .whole = NOT_TEXT },
	{ .architecture = "llada-moe", .whole = NOT_TEXT },
	{ .architecture = "llama" },
	{ .architecture = "llama4", .window_period = 4, .always_window = true, .step = 4 },
	{ .architecture = "maincoder" },
	{ .architecture = "maion-coder", .whole = "libllama gives what leaves its layers no name" },
	{ .architecture = "mamba" },
	{ .architecture = "mamba2" },
	{ .architecture = "maple", .window_period = 1 },
	{ .architecture = "mellum", .window_period = 4 },
	{ .architecture = "mimo2", .window_period = 1, .exit = "h_nextn" },
	{ .architecture = "minicpm", .must_say = { "embedding_scale", "residual_scale" } },
	{ .architecture = "minicpm3", .whole = "libllama takes constants from the number of layers" },
	{ .architecture = "minimax-01", .whole = "a layer decays by its place among all of them" },
	{ .architecture = "minimax-m2" },
	{ .architecture = "minimax-m3", .past_dense = true, .whole_blocks = true },
	{ .architecture = "mistral3" },
	{ .architecture = "mistral4", .step = 4, .counts = { 26, 27, 48 }, .zero_key = "attention.q_lora_rank",
	  .must_say = { "expert_gating_func" } },
	{ .architecture = "mpt" },
	{ .architecture = "muse-glimmer", .window_period = 1, .entry = "embd_norm" },
	{ .architecture = "nanbeige", .whole = "its layers run several times" },
	{ .architecture = "nemotron" },
	{ .architecture = "nemotron_h", .exit = "nemotron_h_block_out-" },
	{ .architecture = "nemotron_h_moe", .exit = "nemotron_h_block_out-" },
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
	{ .architecture = "plamo2", .exit = "ffn_residual-" },
	{ .architecture = "plamo3", .window_period = 8 },
	{ .architecture = "pockettts", .whole = NOT_TEXT },
	{ .architecture = "qwen" },
	{ .architecture = "qwen2" },
	{ .architecture = "qwen2moe" },
	{ .architecture = "qwen2vl" },
	{ .architecture = "qwen3" },
	{ .architecture = "qwen35", .state_period = 4 },
	{ .architecture = "qwen35moe", .state_period = 4 },
	{ .architecture = "qwen3moe" },
	{ .architecture = "qwen3next", .state_period = 4 },
	{ .architecture = "qwen3tts", .whole = NOT_TEXT },
	{ .architecture = "qwen3vl" },
	{ .architecture = "qwen3vlmoe" },
	{ .architecture = "qwen4exp", .whole = WIDE },
	{ .architecture = "refact" },
	{ .architecture = "rnd1", .whole = NOT_TEXT },
	{ .architecture = "seed_oss" },
	{ .architecture = "smallthinker", .window_period = 4, .step = 4, .counts = { 4 } },
	{ .architecture = "smollm3", .step = 4 },
	{ .architecture = "spark2_5", .window_period = 1 },
	{ .architecture = "stablelm" },
	{ .architecture = "starcoder" },
	{ .architecture = "starcoder2" },
	{ .architecture = "talkie", .whole = "each layer looks at the embedding again" },
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

/* What a layer is, as far as libllama gives layers of one kind a memory or an input of their own: a bit each. */
#define KIND_WINDOW 1          /* attention that looks back over a sliding window */
#define KIND_STATE 2           /* a state that is carried along instead of attention, or neither of the two */
#define KIND_BARE 4            /* no feed-forward network, where the file says so layer by layer */

struct layers {
	const struct directory *directory;
	const struct directory_key *window, *state, *kv, *heads, *feed_forward;    /* NULL: not said */
	uint64_t window_period, state_period;     /* of so many layers the last has full attention; 0: none, or said layer by layer */
	uint64_t dense;                           /* the first shard must hold more than so many; 0: any */
	uint64_t step;                            /* what a layer is depends on its number modulo this */
};

static const struct directory_key *find_array(const struct directory *d, const char *name)
{
	const struct directory_key *key = directory_find_own(d, name);

	return key && key->type == VALUE_ARRAY ? key : NULL;
}

static uint64_t number_or(const struct directory *d, const char *name, uint64_t otherwise)
{
	uint64_t n;

	return directory_uint(d, directory_find_own(d, name), &n) ? n : otherwise;
}

static void add_step(struct layers *l, uint64_t other)
{
	if (other > 1 && l->step <= l->directory->n_layer && l->step % other != 0)      /* past the model there is no cut anyway */
		l->step = other > l->directory->n_layer ? other : l->step * other;
}

static void layers_init(struct layers *l, const struct directory *d, const struct quirk *quirk)
{
	static const char *const steps[] = { "interleave_moe_layer_step", "moe_every_n_layers" };
	uint64_t n;

	*l = (struct layers){ .directory = d, .step = quirk->step ? quirk->step : 1, .state = find_array(d, "attention.recurrent_layers"),
			      .kv = find_array(d, "attention.head_count_kv"), .heads = find_array(d, "attention.head_count"),
			      .feed_forward = find_array(d, "feed_forward_length") };
	if (quirk->window_period && number_or(d, "attention.sliding_window", quirk->always_window) > 0) {
		l->window = find_array(d, "attention.sliding_window_pattern");
		if (!l->window)
			l->window_period = number_or(d, "attention.sliding_window_pattern", quirk->window_period);
	}
	if (quirk->state_period && !l->state)
		l->state_period = number_or(d, "full_attention_interval", quirk->state_period);
	if (quirk->past_dense)
		l->dense = number_or(d, "leading_dense_block_count", 0);
	/* a period's phase is not written in the file: shards begin where one does */
	add_step(l, l->window_period);
	add_step(l, l->state_period);
	for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
		if (directory_uint(d, directory_find_own(d, steps[i]), &n))
			add_step(l, n);
}

/* Not the last of its period. */
static bool is_inside(uint32_t layer, uint64_t period)
{
	return period && layer % period + 1 < period;
}

static unsigned layer_kind(const struct layers *l, uint32_t i)
{
	unsigned kind = 0;
	uint64_t n;

	if (l->window ? directory_uint_at(l->directory, l->window, i, &n) && n : is_inside(i, l->window_period))
		kind |= KIND_WINDOW;
	if (l->state ? directory_uint_at(l->directory, l->state, i, &n) && n :
	    l->kv ? directory_uint_at(l->directory, l->kv, i, &n) && !n : is_inside(i, l->state_period))
		kind |= KIND_STATE;
	if (l->feed_forward && directory_uint_at(l->directory, l->feed_forward, i, &n) && !n)
		kind |= KIND_BARE;
	return kind;
}

/* libllama takes the width of a head from the first layer, so that one must have some. */
static bool may_begin(const struct layers *l, uint32_t i)
{
	uint64_t n;

	return !l->heads || (directory_uint_at(l->directory, l->heads, i, &n) && n > 0);
}

/* Would a shard between a cut here and either end, or an earlier cut, have a layer count that libllama takes for another model's? */
static bool is_mistaken(const struct directory *d, const struct quirk *quirk, const bool *cuts, uint32_t c)
{
	if (quirk->zero_key && !directory_find_own(d, quirk->zero_key))
		return false;
	for (size_t i = 0; i < QUIRK_COUNTS && quirk->counts[i]; i++)
		if (d->n_layer - c == quirk->counts[i] || c == quirk->counts[i] || (c > quirk->counts[i] && cuts[c - quirk->counts[i]]))
			return true;
	return false;
}

/* Where shards may meet: the shortest pieces, from the front, that hold every kind of layer that the model has. Each shard is
 * made of whole pieces and so holds every kind too; one without a kind trips assertions in libllama. A step counts as a whole. */
static void find_cuts(const struct directory *d, const struct quirk *quirk, bool cuts[MODEL_LAYERS_MAX + 1])
{
	unsigned all = 0, seen = 0;
	struct layers layers;
	uint32_t c;

	layers_init(&layers, d, quirk);
	memset(cuts, 0, (MODEL_LAYERS_MAX + 1) * sizeof *cuts);
	for (uint32_t i = 0; i < d->n_layer; i++)
		all |= 1u << layer_kind(&layers, i);
	for (c = 1; c < d->n_layer; c++) {
		seen |= 1u << layer_kind(&layers, c - 1);
		if (seen == all && c > layers.dense && c % layers.step == 0 && d->n_layer - c >= layers.step && may_begin(&layers, c) &&
		    !is_mistaken(d, quirk, cuts, c)) {
			cuts[c] = true;
			seen = 0;
		}
	}
	/* what is behind the last cut must hold every kind too */
	for (seen = 0; c > 0 && seen != all; c--) {
		cuts[c] = false;
		seen |= 1u << layer_kind(&layers, c - 1);
	}
}

bool quirk_holds_embedding(const struct directory *d)
{
	const struct quirk *quirk = quirk_find(d->architecture);

	return d->tied && quirk && quirk->tied;
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
	for (size_t i = 0; i < QUIRK_COUNTS && quirk->counts[i]; i++)
		if (d->n_layer == quirk->counts[i] && (!quirk->zero_key || directory_find_own(d, quirk->zero_key))) {
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
	if (quirk->always_window && number_or(d, "attention.sliding_window", 1) == 0) {
		snprintf(why, why_size, "%s without windows has layers that depend on how many there are; it runs whole on one node", d->architecture);
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
	bool cuts[MODEL_LAYERS_MAX + 1];

	if (c == 0 || c == d->n_layer)
		return true;
	if (!quirk || c > d->n_layer)
		return false;
	find_cuts(d, quirk, cuts);
	return cuts[c];
}

static const char *text(const char *or_null)
{
	return or_null ? or_null : "";
}

static uint32_t hash_text(uint32_t hash, const char *text)
{
	for (const char *p = text; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 16777619u;
	return hash;
}

/* FNV-1a, 32 bits (Fowler, Noll, Vo), over the table as text, and over what else of ours moves bits: how shard_load.c keeps keys. */
uint32_t quirk_hash(void)
{
	uint32_t hash = hash_text(2166136261u, "keys q8_0, flash;");

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		const struct quirk *q = &table[i];
		char line[256];

		snprintf(line, sizeof line, "%s %d %u %d %d %u %u %u %u %u %s %d %d %s %s %s %s %d %d;", q->architecture, q->scaled, q->window_period,
			 q->always_window, q->past_dense, q->state_period, q->step, q->counts[0], q->counts[1], q->counts[2], text(q->zero_key), q->tied, q->whole != NULL,
			 text(q->must_say[0]), text(q->must_say[1]), text(q->entry), text(q->exit), q->by_id,
			 q->whole_blocks);
		hash = hash_text(hash, line);
	}
	return hash;
}
