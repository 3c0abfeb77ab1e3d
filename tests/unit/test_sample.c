/* test_sample.c: choosing tokens.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sample.h"
#include "proto/err.h"

static const struct sampling greedy = { .top_p = 1, .repeat_penalty = 1 };
static const struct sampling plain = { .temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 42 };

static int32_t choose(const float *logits, uint32_t n, struct sampling s, uint32_t position)
{
	struct sample sample;
	float logprob;
	int32_t id;

	assert_int_equal(sample_init(&sample, n), 0);
	id = sample_choose(&sample, logits, &s, position, NULL, 0, NULL, &logprob);
	sample_release(&sample);
	return id;
}

static void greedy_takes_the_largest_and_of_equals_the_first(void **state)
{
	const float logits[] = { 0, 3, 1, 3, 2 };

	for (uint32_t position = 0; position < 50; position++)
		assert_int_equal(choose(logits, 5, greedy, position), 1);
}

static void the_same_seed_and_position_give_the_same_token(void **state)
{
	struct sampling other = plain;
	unsigned differ = 0, differ_by_seed = 0;
	float logits[100];

	for (int i = 0; i < 100; i++)
		logits[i] = (float)(i % 7) * 0.1f;
	other.seed = 43;
	for (uint32_t p = 0; p < 200; p++) {
		assert_int_equal(choose(logits, 100, plain, p), choose(logits, 100, plain, p));
		differ += choose(logits, 100, plain, p) != choose(logits, 100, plain, p + 1);
		differ_by_seed += choose(logits, 100, plain, p) != choose(logits, 100, other, p);
	}
	assert_true(differ > 150);
	assert_true(differ_by_seed > 150);
}

static void random_numbers_are_even(void **state)
{
	unsigned tenth[10] = { 0 };

	for (uint32_t p = 0; p < 10000; p++) {
		double r = sample_random(7, p);

		assert_true(r >= 0 && r < 1);
		tenth[(int)(r * 10)]++;
	}
	for (int i = 0; i < 10; i++)
		assert_true(tenth[i] >= 880 && tenth[i] <= 1120);    /* four standard deviations */
}

static void frequencies_follow_the_probabilities(void **state)
{
	const float logits[] = { logf(0.5f), logf(0.3f), logf(0.2f) };
	unsigned count[3] = { 0 };

	for (uint32_t p = 0; p < 10000; p++)
		count[choose(logits, 3, plain, p)]++;
	assert_true(count[0] >= 4800 && count[0] <= 5200);
	assert_true(count[1] >= 2816 && count[1] <= 3184);
	assert_true(count[2] >= 1840 && count[2] <= 2160);
}

static void temperature_sharpens(void **state)
{
	const float logits[] = { logf(0.5f), logf(0.3f), logf(0.2f) };
	struct sampling cold = plain;
	unsigned first = 0;

	cold.temperature = 0.5f;          /* probabilities squared: 25 : 9 : 4 */
	for (uint32_t p = 0; p < 10000; p++)
		first += choose(logits, 3, cold, p) == 0;
	assert_true(first >= 6580 - 190 && first <= 6580 + 190);
}

static void top_k_and_top_p_and_min_p_cut_the_tail(void **state)
{
	const float logits[] = { logf(0.1f), logf(0.4f), logf(0.2f), logf(0.3f) };
	struct sampling k = plain, p = plain, m = plain, both = plain;
	unsigned seen_k = 0, seen_p = 0, seen_m = 0, seen_both = 0;

	k.top_k = 2;
	p.top_p = 0.75f;          /* 0.4 and 0.3 are not enough; 0.2 is taken in */
	m.min_p = 0.6f;           /* at least 0.24 */
	both.top_k = 3;
	both.top_p = 0.5f;        /* of 0.4, 0.3 and 0.2, which are all there is then: 0.4 is too little */
	for (uint32_t i = 0; i < 2000; i++) {
		seen_k |= 1u << choose(logits, 4, k, i);
		seen_p |= 1u << choose(logits, 4, p, i);
		seen_m |= 1u << choose(logits, 4, m, i);
		seen_both |= 1u << choose(logits, 4, both, i);
	}
	assert_int_equal(seen_k, 1u << 1 | 1u << 3);
	assert_int_equal(seen_p, 1u << 1 | 1u << 3 | 1u << 2);
	assert_int_equal(seen_m, 1u << 1 | 1u << 3);
	assert_int_equal(seen_both, 1u << 1 | 1u << 3);
}

static int by_logit(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->logit != y->logit)
		return x->logit > y->logit ? -1 : 1;
	return x->id < y->id ? -1 : 1;
}

/* A plain reference: sort everything, cut, draw. Vocabularies, cuts and ties of all sorts must agree with the heap. */
static int32_t reference(const float *logits, uint32_t n, struct sampling s, uint32_t position)
{
	struct candidate *c = calloc(n, sizeof *c);
	double total = 0, sum = 0, mark;
	size_t kept = n, out = 0;
	int32_t id;

	for (uint32_t i = 0; i < n; i++)
		c[i] = (struct candidate){ logits[i], (int32_t)i };
	qsort(c, n, sizeof *c, by_logit);
	if (s.top_k > 0 && (size_t)s.top_k < kept)
		kept = (size_t)s.top_k;
	if (s.top_p < 1) {
		for (size_t i = 0; i < kept; i++)
			total += expf(c[i].logit - c[0].logit);
		for (size_t i = 0; i < kept; i++) {
			sum += expf(c[i].logit - c[0].logit);
			if (sum >= s.top_p * total) {
				kept = i + 1;
				break;
			}
		}
	}
	for (size_t i = 0; i < kept; i++)
		if (s.min_p <= 0 || expf(c[i].logit - c[0].logit) >= s.min_p)
			c[out++] = c[i];
	total = sum = 0;
	for (size_t i = 0; i < out; i++)
		total += expf((c[i].logit - c[0].logit) / s.temperature);
	mark = sample_random(s.seed, position) * total;
	id = c[out - 1].id;
	for (size_t i = 0; i < out; i++) {
		sum += expf((c[i].logit - c[0].logit) / s.temperature);
		if (sum > mark) {
			id = c[i].id;
			break;
		}
	}
	free(c);
	return id;
}

static void the_heap_agrees_with_sorting(void **state)
{
	float logits[300];
	uint32_t random = 1;

	for (uint32_t round = 0; round < 3000; round++) {
		uint32_t n = 1 + round % 300;
		struct sampling s = plain;

		for (uint32_t i = 0; i < n; i++) {
			random = random * 1664525u + 1013904223u;
			logits[i] = (float)(random >> 24) / 32;      /* 256 values: many ties */
		}
		s.top_k = round % 3 ? (int32_t)(1 + random % 320) : 0;
		s.top_p = round % 2 ? (float)(random >> 8 & 255) / 256 : 1;
		s.min_p = round % 5 == 0 ? 0.01f : 0;
		if (s.top_k == 0 && s.top_p >= 1)
			continue;        /* nothing is ordered then: drawn in the order of ids */
		if (s.top_k >= (int32_t)n && s.top_p >= 1)
			continue;
		s.temperature = 0.7f;
		s.seed = round;
		assert_int_equal(choose(logits, n, s, round), reference(logits, n, s, round));
	}
}

static void penalties_make_repetition_unlikely(void **state)
{
	const float logits[] = { 1.0f, 3.0f, 2.9f, -1.0f };
	const int32_t recent[] = { 1, 1, 3 }, outside[] = { 4, -1, INT32_MAX };
	struct sampling s = greedy;
	struct sample sample;
	float logprob, plain_logprob;

	assert_int_equal(sample_init(&sample, 4), 0);
	assert_int_equal(sample_choose(&sample, logits, &s, 0, recent, 3, NULL, &plain_logprob), 1);
	s.repeat_penalty = 1.1f;          /* 3.0 becomes 2.73 */
	assert_int_equal(sample_choose(&sample, logits, &s, 0, recent, 3, NULL, &logprob), 2);
	s.repeat_penalty = 1;
	s.presence_penalty = 0.05f;
	assert_int_equal(sample_choose(&sample, logits, &s, 0, recent, 3, NULL, &logprob), 1);
	s.frequency_penalty = 0.05f;      /* twice: 3.0 - 0.05 - 0.1 */
	assert_int_equal(sample_choose(&sample, logits, &s, 0, recent, 3, NULL, &logprob), 2);
	s.presence_penalty = -5;          /* negative ones encourage */
	s.frequency_penalty = 0;
	assert_int_equal(sample_choose(&sample, logits, &s, 0, (int32_t[]){ 0 }, 1, NULL, &logprob), 0);
	assert_int_equal(sample_choose(&sample, logits, &s, 0, outside, 3, NULL, &logprob), 1);
	assert_true(logprob == plain_logprob);   /* penalties do not touch what is reported */
	sample_release(&sample);
}

static void logprobs_are_of_the_distribution_before_temperature(void **state)
{
	const float logits[] = { logf(0.5f) + 3, logf(0.3f) + 3, logf(0.2f) + 3 };
	struct sampling hot = plain;
	struct sample sample;
	float logprob;
	int32_t id;

	hot.temperature = 5;
	assert_int_equal(sample_init(&sample, 3), 0);
	for (uint32_t p = 0; p < 20; p++) {
		id = sample_choose(&sample, logits, &hot, p, NULL, 0, NULL, &logprob);
		assert_true(fabsf(logprob - (logits[id] - 3)) < 1e-5f);
	}
	sample_release(&sample);
}

static void biases_come_before_everything_else(void **state)
{
	const float logits[] = { 1, 3, 2 };
	uint8_t bias[2 * LOGIT_BIAS_BYTES];
	struct sampling s = greedy;
	char why[200];

	logit_bias_put(bias, (struct logit_bias){ 1, -100 });
	logit_bias_put(bias + LOGIT_BIAS_BYTES, (struct logit_bias){ 0, 0.5f });
	s.bias = bias;
	s.n_bias = 2;
	assert_int_equal(sample_check(&s, 3, why, sizeof why), 0);
	assert_int_equal(choose(logits, 3, s, 0), 2);
	logit_bias_put(bias + LOGIT_BIAS_BYTES, (struct logit_bias){ 0, 1.5f });
	assert_int_equal(choose(logits, 3, s, 0), 0);
	s.temperature = 1;
	s.top_k = 1;                      /* chosen among what the biases left in front */
	for (uint32_t p = 0; p < 50; p++)
		assert_int_equal(choose(logits, 3, s, p), 0);
	assert_int_equal(sample_check(&s, 1, why, sizeof why), ERR_MALFORMED);    /* token 1 of a vocabulary of one */
	assert_non_null(strstr(why, "logit_bias"));
}

/* Against exp() of the C library, in a vocabulary that is no multiple of anything. */
static void logprobs_are_right_to_six_digits_however_large_the_logits_are(void **state)
{
	struct sampling s = { .top_p = 1, .repeat_penalty = 1 };
	static const float scales[] = { 0, 0.01f, 3, 40, 1e6f };
	enum { N = 1021 };
	struct sample sample;
	float logits[N], logprob;

	assert_int_equal(sample_init(&sample, N), 0);
	for (size_t k = 0; k < sizeof scales / sizeof *scales; k++) {
		double total = 0;
		int32_t id;

		for (uint32_t i = 0; i < N; i++)
			logits[i] = scales[k] * (float)(sample_random(k, i) - 0.5);
		id = sample_choose(&sample, logits, &s, 0, NULL, 0, NULL, &logprob);
		for (uint32_t i = 0; i < N; i++)
			total += exp((double)logits[i] - logits[id]);
		assert_true(fabs(logprob + log(total)) < 1e-6);
	}
	sample_release(&sample);
}

static void the_likeliest_are_told_in_order_with_their_logprobs(void **state)
{
	const float logits[] = { logf(0.1f) + 2, logf(0.4f) + 2, logf(0.1f) + 2, logf(0.3f) + 2, logf(0.1f) + 2 };
	struct candidate top[5];

	assert_int_equal(sample_top(logits, 5, top, 0), 0);
	assert_int_equal(sample_top(logits, 5, top, 3), 3);
	assert_int_equal(top[0].id, 1);
	assert_int_equal(top[1].id, 3);
	assert_int_equal(top[2].id, 0);           /* of equals the first */
	assert_true(fabsf(top[0].logit - logf(0.4f)) < 1e-5f && fabsf(top[2].logit - logf(0.1f)) < 1e-5f);
	assert_int_equal(sample_top(logits, 3, top, 5), 3);
}

/* --- filters --- */

struct only {                             /* lets come the ids of a mask */
	unsigned mask, asked, shown;
	int err;
};

static bool only_allows(void *arg, int32_t id)
{
	struct only *only = arg;

	only->asked++;
	return only->mask >> id & 1;
}

static int only_forbid(void *arg, struct candidate *c, size_t n)
{
	struct only *only = arg;

	only->shown++;
	for (size_t i = 0; i < n; i++)
		if (!(only->mask >> c[i].id & 1))
			c[i].logit = -INFINITY;
	return only->err;
}

static int32_t choose_only(struct only *only, const float *logits, uint32_t n, struct sampling s, uint32_t position)
{
	const struct sample_filter filter = { only_allows, only_forbid, only };
	struct sample sample;
	float logprob;
	int32_t id;

	assert_int_equal(sample_init(&sample, n), 0);
	id = sample_choose(&sample, logits, &s, position, NULL, 0, &filter, &logprob);
	sample_release(&sample);
	return id;
}

static void a_filter_is_shown_all_tokens_only_when_it_refuses_one(void **state)
{
	const float logits[] = { 1, 3, 2, 0 };
	struct only good = { .mask = 2 }, other = { .mask = 1 | 8 }, nothing = { .mask = 0 }, broken = { .mask = 0, .err = ERR_LIMIT };

	assert_int_equal(choose_only(&good, logits, 4, greedy, 0), 1);
	assert_int_equal(good.shown, 0);
	assert_int_equal(choose_only(&other, logits, 4, greedy, 0), 0);
	assert_int_equal(other.shown, 1);
	assert_int_equal(choose_only(&nothing, logits, 4, greedy, 0), SAMPLE_NONE);
	assert_int_equal(choose_only(&broken, logits, 4, greedy, 0), ERR_LIMIT);
}

static void a_filter_leaves_the_shares_of_what_it_allows(void **state)
{
	const float logits[] = { logf(0.5f), logf(0.1f), logf(0.3f), logf(0.1f) };
	struct only only = { .mask = 2 | 4 };
	unsigned count[4] = { 0 };

	for (uint32_t p = 0; p < 10000; p++)
		count[choose_only(&only, logits, 4, plain, p)]++;
	assert_int_equal(count[0] + count[3], 0);
	assert_true(count[1] >= 2320 && count[1] <= 2680);       /* a quarter, within four standard deviations */
	for (uint32_t p = 0; p < 100; p++)
		assert_int_equal(choose_only(&only, logits, 4, plain, p), choose_only(&only, logits, 4, plain, p));
}

static void what_a_filter_refuses_is_no_candidate_of_top_k_and_the_like(void **state)
{
	const float logits[] = { 9, 8, 1, 0 };
	struct only only = { .mask = 4 | 8 };
	struct sampling s = plain;

	s.top_k = 2;
	s.top_p = 0.99f;
	s.min_p = 0.9f;
	for (uint32_t p = 0; p < 100; p++)
		assert_int_equal(choose_only(&only, logits, 4, s, p), 2);
}

static void a_vocabulary_of_one_and_extreme_logits_are_fine(void **state)
{
	const float one[] = { -1e30f }, extreme[] = { -1e30f, 1e30f, 0 };
	struct sampling s = plain;

	assert_int_equal(choose(one, 1, plain, 3), 0);
	assert_int_equal(choose(extreme, 3, plain, 3), 1);
	s.top_p = 0;
	assert_int_equal(choose(extreme, 3, s, 3), 1);
	s.top_k = 1;
	assert_int_equal(choose(extreme, 3, s, 3), 1);
	s.min_p = 1;
	assert_int_equal(choose(extreme, 3, s, 3), 1);
}

static void parameters_that_mean_nothing_are_refused(void **state)
{
	struct sampling bad[7] = { plain, plain, plain, plain, plain, plain, plain };
	char why[100];

	assert_int_equal(sample_check(&plain, 3, why, sizeof why), 0);
	bad[0].temperature = -1;
	bad[1].temperature = NAN;
	bad[2].top_p = 1.5f;
	bad[3].min_p = -0.1f;
	bad[4].top_k = -1;
	bad[5].repeat_penalty = 0;
	bad[6].frequency_penalty = INFINITY;
	for (int i = 0; i < 7; i++)
		assert_int_equal(sample_check(&bad[i], 3, why, sizeof why), ERR_MALFORMED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(greedy_takes_the_largest_and_of_equals_the_first),
		cmocka_unit_test(the_same_seed_and_position_give_the_same_token),
		cmocka_unit_test(random_numbers_are_even),
		cmocka_unit_test(frequencies_follow_the_probabilities),
		cmocka_unit_test(temperature_sharpens),
		cmocka_unit_test(top_k_and_top_p_and_min_p_cut_the_tail),
		cmocka_unit_test(the_heap_agrees_with_sorting),
		cmocka_unit_test(penalties_make_repetition_unlikely),
		cmocka_unit_test(logprobs_are_of_the_distribution_before_temperature),
		cmocka_unit_test(biases_come_before_everything_else),
		cmocka_unit_test(logprobs_are_right_to_six_digits_however_large_the_logits_are),
		cmocka_unit_test(the_likeliest_are_told_in_order_with_their_logprobs),
		cmocka_unit_test(a_filter_is_shown_all_tokens_only_when_it_refuses_one),
		cmocka_unit_test(a_filter_leaves_the_shares_of_what_it_allows),
		cmocka_unit_test(what_a_filter_refuses_is_no_candidate_of_top_k_and_the_like),
		cmocka_unit_test(a_vocabulary_of_one_and_extreme_logits_are_fine),
		cmocka_unit_test(parameters_that_mean_nothing_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
