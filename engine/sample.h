/* sample.h: one token out of a row of logits.
 *
 * Pure and repeatable: the random number comes from (seed, position) alone, so a replay on another machine with the same
 * logits gives the same token. The order is llama.cpp's: penalties, top_k, top_p, min_p, temperature, draw. Ties go to
 * the lower id. Temperature 0 is the largest logit after penalties.
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

int sample_init(struct sample *sample, uint32_t n_vocab);
void sample_release(struct sample *sample);

/* ERR_MALFORMED: a parameter that means nothing (not finite, negative). why: a sentence. */
int sample_check(const struct sampling *sampling, char *why, size_t why_size);

/* position: where the token will stand. recent: up to SAMPLE_WINDOW tokens before it. logits are finite. */
int32_t sample_choose(struct sample *sample, const float *logits, const struct sampling *sampling, uint32_t position,
		      const int32_t *recent, size_t n_recent, float *logprob);

/* In [0, 1), from (seed, position). */
double sample_random(uint64_t seed, uint32_t position);

#endif
