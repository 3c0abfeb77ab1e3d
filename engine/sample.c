/* sample.c: see sample.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/sample.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

int sample_init(struct sample *sample, uint32_t n_vocab)
{
	sample->n_vocab = n_vocab;
	sample->candidates = calloc(n_vocab, sizeof *sample->candidates);
	return sample->candidates ? 0 : -ENOMEM;
}

void sample_release(struct sample *sample)
{
	free(sample->candidates);
	sample->candidates = NULL;
}

int sample_check(const struct sampling *s, uint32_t n_vocab, char *why, size_t why_size)
{
	const char *bad = NULL;

	if (!isfinite(s->temperature) || s->temperature < 0)
		bad = "temperature";
	else if (!isfinite(s->top_p) || s->top_p < 0 || s->top_p > 1)
		bad = "top_p";
	else if (!isfinite(s->min_p) || s->min_p < 0 || s->min_p > 1)
		bad = "min_p";
	else if (s->top_k < 0)
		bad = "top_k";
	else if (!isfinite(s->repeat_penalty) || s->repeat_penalty <= 0)
		bad = "repeat_penalty";
	else if (!isfinite(s->presence_penalty))
		bad = "presence_penalty";
	else if (!isfinite(s->frequency_penalty))
		bad = "frequency_penalty";
	if (bad) {
		snprintf(why, why_size, "%s is out of range", bad);
		return ERR_MALFORMED;
	}
	for (size_t i = 0; i < s->n_bias; i++) {
		struct logit_bias bias = logit_bias_get(s, i);

		if (bias.id < 0 || (uint32_t)bias.id >= n_vocab || !isfinite(bias.bias)) {
			snprintf(why, why_size, "logit_bias: the model has tokens 0 to %u, and %d is none of them", n_vocab - 1, bias.id);
			return ERR_MALFORMED;
		}
	}
	return 0;
}

/* The finaliser of SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

double sample_random(uint64_t seed, uint32_t position)
{
	uint64_t x = mix(mix(seed + UINT64_C(0x9e3779b97f4a7c15)) + (uint64_t)(position + 1ull) * UINT64_C(0x9e3779b97f4a7c15));

	return (double)(x >> 11) * 0x1p-53;
}

static bool ahead(const struct candidate *a, const struct candidate *b)
{
	return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void swap(struct candidate *a, struct candidate *b)
{
	struct candidate t = *a;

	*a = *b;
	*b = t;
}

static void sift(struct candidate *heap, size_t n, size_t i)
{
	for (;;) {
		size_t first = i, left = 2 * i + 1;

		if (left < n && ahead(&heap[left], &heap[first]))
			first = left;
		if (left + 1 < n && ahead(&heap[left + 1], &heap[first]))
			first = left + 1;
		if (first == i)
			return;
		swap(&heap[i], &heap[first]);
		i = first;
	}
}

/* --- exponentials ----------------------------------------------------------------------------------- */

#define BLOCK 64
#define SUMS 4                  /* at once: an addition waits for the one before it */

/* exp(x) for -87 <= x <= 0, within 3 parts in 10^7; exp(-87), which is nothing, below. A vocabulary has up to some 250,000 tokens, each of
 * which is asked about for each token of an answer. expf() takes 5 ns; this has no branch, no call and no memcpy(), so that compilers make
 * vectors of it. 2^n times a polynomial of the rest: method and coefficients are those of expf() in Cephes (Moshier 1992). */
static inline float exponential(float x)
{
	const float within = x < -87 ? -87 : x, round = 12582912;        /* 1.5 * 2^23: what is added to it loses its fraction */
	const float n = (within * 1.44269504f + round) - round, r = within - n * 0.693359375f + n * 2.12194440e-4f;
	const union { uint32_t bits; float value; } power = { .bits = (uint32_t)((int32_t)n + 127) << 23 };
	float p = 1.9875691500e-4f;

	p = p * r + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * r * r + r + 1;
	return p * power.value;
}

/* The first n of a block become their exponentials. -> their sum */
static double exponentials(float x[BLOCK], size_t n)
{
	double sums[SUMS] = { 0 };

	for (size_t i = n; i < BLOCK; i++)
		x[i] = -INFINITY;
	for (size_t i = 0; i < BLOCK; i++)
		x[i] = exponential(x[i]);
	for (size_t i = 0; i < BLOCK; i += SUMS)
		for (size_t k = 0; k < SUMS; k++)
			sums[k] += x[i + k];
	return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* Weights of the candidates, exp((logit - top) / temperature): their sum, and, when replace says so, in place of the logits. */
static double weigh(struct candidate *c, size_t n, float top, float temperature, bool replace)
{
	double sum = 0;
	float x[BLOCK];

	for (size_t i = 0; i < n; i += BLOCK) {
		size_t m = n - i < BLOCK ? n - i : BLOCK;

		for (size_t k = 0; k < m; k++)
			x[k] = (c[i + k].logit - top) / temperature;
		sum += exponentials(x, m);
		for (size_t k = 0; replace && k < m; k++)
			c[i + k].logit = x[k];
	}
	return sum;
}

/* --- candidates ------------------------------------------------------------------------------------- */

/* Keeps the best ones, in order: at most k, and no more than reach the share p of the probability. A heap, because a
 * vocabulary of 150,000 is not worth sorting when a few hundred are wanted. The kept ones end up at the array's front. */
static size_t keep_best(struct candidate *c, size_t n, size_t k, double p)
{
	double total = 0, sum = 0;
	size_t kept = 0;
	float top;

	for (size_t i = n / 2; i-- > 0;)
		sift(c, n, i);
	top = c[0].logit;
	/* popped ones gather at the back, best last */
	while (kept < k && kept < n) {
		swap(&c[0], &c[n - 1 - kept]);
		kept++;
		sift(c, n - kept, 0);
		if (k == n && p < 1) {       /* top_p alone: its total is that of all candidates */
			if (kept == 1)
				total = weigh(c, n, top, 1, false);
			sum += exponential(c[n - kept].logit - top);
			if (sum >= p * total)
				break;
		}
	}
	for (size_t i = 0; i < kept; i++) {  /* to the front, best first; source and place may overlap */
		size_t from = n - 1 - i;

		if (from <= i)
			break;
		swap(&c[i], &c[from]);
	}
	if (k < n && p < 1) {                /* top_p of what top_k left */
		total = weigh(c, kept, top, 1, false);
		for (size_t i = 0; i < kept; i++) {
			sum += exponential(c[i].logit - top);
			if (sum >= p * total)
				return i + 1;
		}
	}
	return kept;
}

static void penalise(struct candidate *c, const struct sampling *s, const int32_t *recent, size_t n_recent, uint32_t n_vocab)
{
	if (s->repeat_penalty == 1 && s->presence_penalty == 0 && s->frequency_penalty == 0)
		return;
	for (size_t i = 0; i < n_recent; i++) {
		int32_t id = recent[i];
		unsigned count = 0;
		bool earlier = false;

		for (size_t k = 0; k < n_recent; k++) {
			count += recent[k] == id;
			earlier = earlier || (k < i && recent[k] == id);
		}
		if (earlier || id < 0 || (uint32_t)id >= n_vocab)
			continue;
		c[id].logit = c[id].logit > 0 ? c[id].logit / s->repeat_penalty : c[id].logit * s->repeat_penalty;
		c[id].logit -= s->presence_penalty + (float)count * s->frequency_penalty;
	}
}

/* Where the best one stands. */
static size_t largest(const struct candidate *c, size_t n)
{
	size_t best = 0;

	for (size_t i = 1; i < n; i++)
		if (c[i].logit > c[best].logit)
			best = i;
	return best;
}

/* The logarithm of the sum of all exponentials: what makes a logit a logprob. */
static double log_total(const float *logits, uint32_t n)
{
	float top = logits[0], x[BLOCK];
	double sum = 0;

	for (uint32_t i = 1; i < n; i++)
		if (logits[i] > top)
			top = logits[i];
	for (uint32_t i = 0; i < n; i += BLOCK) {
		uint32_t m = n - i < BLOCK ? n - i : BLOCK;

		for (uint32_t k = 0; k < m; k++)
			x[k] = logits[i + k] - top;
		sum += exponentials(x, m);
	}
	return top + log(sum);
}

size_t sample_top(const float *logits, uint32_t n_vocab, struct candidate *out, size_t max)
{
	double total = log_total(logits, n_vocab);
	size_t n = 0;

	for (uint32_t i = 0; i < n_vocab && max; i++) {
		struct candidate c = { logits[i], (int32_t)i };
		size_t at;

		if (n == max && !ahead(&c, &out[n - 1]))
			continue;
		at = n < max ? n++ : n - 1;
		for (; at && ahead(&c, &out[at - 1]); at--)
			out[at] = out[at - 1];
		out[at] = c;
	}
	for (size_t i = 0; i < n; i++)
		out[i].logit = (float)(out[i].logit - total);
	return n;
}

/* Every token with its logit, bias and penalties applied. */
static void fill(struct sample *sample, const float *logits, const struct sampling *s, const int32_t *recent, size_t n_recent)
{
	struct candidate *c = sample->candidates;

	for (uint32_t i = 0; i < sample->n_vocab; i++)
		c[i] = (struct candidate){ logits[i], (int32_t)i };
	for (size_t i = 0; i < s->n_bias; i++) {
		struct logit_bias bias = logit_bias_get(s, i);

		c[bias.id].logit += bias.bias;
	}
	penalise(c, s, recent, n_recent, sample->n_vocab);
}

/* One of n candidates; random in [0, 1). */
static int32_t draw(struct candidate *c, size_t n, const struct sampling *s, double random)
{
	size_t k = s->top_k > 0 && (size_t)s->top_k < n ? (size_t)s->top_k : n, kept = 0;
	double sum = 0, mark;
	float top, least;

	if (s->temperature <= 0)
		return c[largest(c, n)].id;
	top = c[largest(c, n)].logit;
	if (k < n || s->top_p < 1)
		n = keep_best(c, n, k, s->top_p);
	least = s->min_p > 0 ? top + logf(s->min_p) : -INFINITY;
	for (size_t i = 0; i < n; i++)
		if (c[i].logit >= least)
			c[kept++] = c[i];
	/* from here on the kept ones' logits are their weights */
	mark = random * weigh(c, kept, top, s->temperature, true);
	for (size_t i = 0; i < kept; i++) {
		sum += c[i].logit;
		if (sum > mark)
			return c[i].id;
	}
	return c[kept - 1].id;
}

int32_t sample_choose(struct sample *sample, const float *logits, const struct sampling *s, uint32_t position,
		      const int32_t *recent, size_t n_recent, const struct sample_filter *filter, float *logprob)
{
	struct candidate *c = sample->candidates;
	size_t left = 0;
	int32_t id;
	int err;

	fill(sample, logits, s, recent, n_recent);
	id = draw(c, sample->n_vocab, s, sample_random(s->seed, position));
	if (filter && !filter->allows(filter->arg, id)) {
		fill(sample, logits, s, recent, n_recent);
		err = filter->forbid(filter->arg, c, sample->n_vocab);
		if (err)
			return err;
		for (uint32_t i = 0; i < sample->n_vocab; i++)
			if (c[i].logit != -INFINITY)
				c[left++] = c[i];
		if (!left)
			return SAMPLE_NONE;
		id = draw(c, left, s, sample_random(~s->seed, position));
	}
	*logprob = (float)(logits[id] - log_total(logits, sample->n_vocab));
	return id;
}
