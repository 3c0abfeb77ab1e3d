/* grammar.c: see grammar.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/grammar.h"

#include <errno.h>
#include <llama.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

struct grammar {
	struct llama_sampler *sampler;
	llama_token_data *all;             /* n_vocab, for forbid() */
	uint32_t n_vocab;
	int32_t *followed;                 /* the tokens that the sampler has seen */
	size_t n_followed, capacity;
};

int grammar_new(struct grammar **out, const struct llama_vocab *vocab, const char *text, char *why, size_t why_size)
{
	struct grammar *g;
	int err;

	*out = NULL;
	if (!vocab || llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
		snprintf(why, why_size, "the model has no vocabulary, so a grammar cannot guide it");
		return ERR_UNSUPPORTED;
	}
	err = gbnf_check(text, strlen(text), why, why_size);
	if (err)
		return err;
	g = calloc(1, sizeof *g);
	if (!g)
		return -ENOMEM;
	g->n_vocab = (uint32_t)llama_vocab_n_tokens(vocab);
	g->sampler = llama_sampler_init_grammar(vocab, text, "root");
	if (!g->sampler) {
		snprintf(why, why_size, "the grammar cannot be used");
		grammar_free(g);
		return ERR_MALFORMED;
	}
	*out = g;
	return 0;
}

void grammar_free(struct grammar *g)
{
	if (!g)
		return;
	if (g->sampler)
		llama_sampler_free(g->sampler);
	free(g->all);
	free(g->followed);
	free(g);
}

static bool allows(void *arg, int32_t id)
{
	struct grammar *g = arg;
	llama_token_data one = { .id = id, .logit = 0 };
	llama_token_data_array array = { .data = &one, .size = 1, .selected = -1 };

	llama_sampler_apply(g->sampler, &array);
	return one.logit != -INFINITY;
}

static int forbid(void *arg, struct candidate *candidates, size_t n)
{
	struct grammar *g = arg;
	llama_token_data_array array = { .size = n, .selected = -1 };

	if (!g->all)
		g->all = calloc(g->n_vocab, sizeof *g->all);
	if (!g->all)
		return -ENOMEM;
	if (n > g->n_vocab)
		return ERR_LIMIT;
	for (size_t i = 0; i < n; i++)
		g->all[i] = (llama_token_data){ .id = candidates[i].id, .logit = candidates[i].logit };
	array.data = g->all;
	llama_sampler_apply(g->sampler, &array);
	for (size_t i = 0; i < n; i++)
		candidates[i].logit = g->all[i].logit;
	return 0;
}

static int remember(struct grammar *g, int32_t token)
{
	if (g->n_followed == g->capacity) {
		size_t capacity = g->capacity ? 2 * g->capacity : 64;
		int32_t *more = reallocarray(g->followed, capacity, sizeof *more);

		if (!more)
			return -ENOMEM;
		g->followed = more;
		g->capacity = capacity;
	}
	g->followed[g->n_followed++] = token;
	return 0;
}

int grammar_follow(struct grammar *g, const int32_t *tokens, size_t n, char *why, size_t why_size)
{
	if (n < g->n_followed || (g->n_followed && memcmp(tokens, g->followed, g->n_followed * sizeof *tokens))) {
		llama_sampler_reset(g->sampler);
		g->n_followed = 0;
	}
	while (g->n_followed < n) {
		int32_t token = tokens[g->n_followed];
		int err;

		if (token < 0 || (uint32_t)token >= g->n_vocab || !allows(g, token)) {
			snprintf(why, why_size, "the answer so far does not match the grammar");
			return ERR_MALFORMED;
		}
		err = remember(g, token);
		if (err)
			return err;
		llama_sampler_accept(g->sampler, token);
	}
	return 0;
}

struct sample_filter grammar_filter(struct grammar *g)
{
	return (struct sample_filter){ allows, forbid, g };
}
