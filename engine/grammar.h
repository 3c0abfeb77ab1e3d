/* grammar.h: which tokens a grammar (GBNF) lets come next, by libllama's grammar sampler.
 *
 * The state is a function of the answer's tokens so far: grammar_follow() is given all of them each time, goes on from where it
 * was when they begin as before, and starts over when they do not. So a replay, or writing from an earlier position, needs no
 * care, and nothing is kept that the session's history does not have.
 *
 * libllama ends the process when a token comes that the grammar does not know; so each is asked about first. The text is checked
 * before libllama sees it (proto/gbnf.h), because it prints what it cannot read.
 *
 * Thread: one. Owner: a session. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_GRAMMAR_H
#define ENGINE_GRAMMAR_H

#include "engine/sample.h"

struct llama_vocab;
struct grammar;

/* text: ends with NUL. ERR_MALFORMED, ERR_LIMIT: it cannot be used. ERR_UNSUPPORTED: the model has no vocabulary. */
int grammar_new(struct grammar **out, const struct llama_vocab *vocab, const char *text, char *why, size_t why_size);
void grammar_free(struct grammar *grammar);         /* NULL is fine */

/* The answer's tokens so far. ERR_MALFORMED: they do not match the grammar. */
int grammar_follow(struct grammar *grammar, const int32_t *tokens, size_t n, char *why, size_t why_size);
/* What may come behind them. */
struct sample_filter grammar_filter(struct grammar *grammar);

#endif
