/* sample.h: one token out of a row of logits.
 *
 * Pure and repeatable: the random number comes from (seed, position) alone, so a replay on another machine with the same
 * logits gives the same token. The order is llama.cpp's: bias, penalties, top_k, top_p, min_p, temperature, draw. Ties go to
 * the lower id. Temperature 0 is the largest logit after bias and penalties.
 *
 * A filter (a grammar) says which tokens may come at all. It is asked about the drawn token first, because that is usually
 * enough; only when it refuses are all tokens shown to it, and another is drawn from what is left with a second random number.
 * The probability of each is the same as if all had been shown first.
 *
 * Penalties (repetition: Keskar et al. 2019, arXiv 1909.05858; presence and frequency: as OpenAI's API documents them) count
 * the tokens of the last SAMPLE_WINDOW positions that the engine knows.
 *
 * Thread: one a struct sample. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_SAMPLE_H
#define ENGINE_SAMPLE_H

#include "proto/message.h"

#define SAMPLE_WINDOW 64

struct candidate {
	float logit;
	int32_t id;
};
struct sample {
	uint32_t n_vocab;
	struct candidate *candidates;      /* heap; n_vocab */
};

struct sample_filter {
	bool (*allows)(void *arg, int32_t id);
	/* Logits of what may not come become -INFINITY. 0, or an error that ends the session. */
	int (*forbid)(void *arg, struct candidate *candidates, size_t n);
	void *arg;
};

int sample_init(struct sample *sample, uint32_t n_vocab);
void sample_release(struct sample *sample);

/* ERR_MALFORMED: a parameter that means nothing (not finite, negative, a token that is none). why: a sentence. */
int sample_check(const struct sampling *sampling, uint32_t n_vocab, char *why, size_t why_size);

/* position: where the token will stand. recent: up to SAMPLE_WINDOW tokens before it. logits are finite. filter may be NULL.
 * The token's id; SAMPLE_NONE when the filter lets nothing come; the filter's error. logprob: of the bare logits. */
#define SAMPLE_NONE (-1)
int32_t sample_choose(struct sample *sample, const float *logits, const struct sampling *sampling, uint32_t position,
		      const int32_t *recent, size_t n_recent, const struct sample_filter *filter, float *logprob);
/* The likeliest tokens of the bare logits, best first, each with its logprob in `logit`: how many (max at most). */
size_t sample_top(const float *logits, uint32_t n_vocab, struct candidate *out, size_t max);

/* In [0, 1), from (seed, position). */
double sample_random(uint64_t seed, uint32_t position);

#endif
