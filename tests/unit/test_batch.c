/* test_batch.c: several sessions at once say, to the last bit, what each says alone.
 *
 *   test --[3]-- essaim-engine (whole)            alone: one session after the other
 *                                                 together: every prompt posted at once, then rows as answers come
 *   test --[3]-- essaim-engine (home)  <-+        the same in a ring of three stages
 *        --[3]-- essaim-engine (other) <-+
 *
 * A token's logprob is computed from all logits of its row, so equal bits of it are taken for equal logits.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ggml.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"
#include "tests/unit/engine_driver.h"

#define LONG 512            /* positions of a session: past 256, where attention has more than one stretch */
#define SPEAKERS 6
#define SAID 14

/* What a session is asked, and what it said. Prompts of less than a block, of several, and up to where only SAID fit behind. */
struct speaker {
	uint32_t prompt, max;
	uint8_t id;
	struct sampling sampling;
	int32_t text[LONG];
	struct token said[SAID];
	uint32_t n_said, sent;
	uint64_t sequence;
};

static void speakers_init(struct speaker *s)
{
	static const uint32_t prompts[SPEAKERS] = { 3, 33, 100, 1, 257, LONG - SAID };

	memset(s, 0, SPEAKERS * sizeof *s);
	for (unsigned i = 0; i < SPEAKERS; i++) {
		s[i].id = (uint8_t)(i + 1);
		s[i].prompt = prompts[i];
		s[i].max = i == 3 ? 4 : SAID;            /* one leaves early */
		s[i].sampling = (struct sampling){ .temperature = i % 2 ? 0.9f : 0, .top_p = 0.95f, .top_k = 40, .repeat_penalty = 1.1f,
						   .seed = i, .ignore_end = true };
		for (uint32_t k = 0; k < prompts[i]; k++)
			s[i].text[k] = (int32_t)((k * 37 + i * 101 + 11) % TINY_VOCAB);
	}
}

static void load_long(struct engine *e, const struct tiny_model *model, const struct layer_range *ranges, size_t n, uint32_t sessions)
{
	int fd = tiny_model_open(model);
	struct model_extent extent;
	struct engine_load m = load_of(ranges, n, model->n_layer, sessions, fd, &extent);

	m.context = LONG;
	post_load(e, fd, &m);
	expect(e, FRAME_ENGINE_LOADED);
}

static void open_long(struct engine *e, const struct speaker *s, uint32_t epoch, uint32_t stage, struct layer_range range)
{
	struct engine_open m = { .session = { s->id }, .epoch = epoch, .stage = stage, .range = range, .context = LONG, .sampling = s->sampling };

	assert_int_equal(engine_open_encode(&e->out, &m), 0);
	post(e);
	expect(e, FRAME_READY);
}

/* Home's work: blocks end at multiples of CHUNK_ROWS, everything known is sent. */
static void pump(struct engine *e, struct speaker *s, uint32_t epoch)
{
	while (s->sent < s->prompt + s->n_said && s->n_said < s->max) {
		uint32_t count = CHUNK_ROWS - s->sent % CHUNK_ROWS;

		if (count > s->prompt + s->n_said - s->sent)
			count = s->prompt + s->n_said - s->sent;
		post_ids(e, (struct ids){ .session = s->id, .epoch = epoch, .sequence = s->sequence++, .position = s->sent, .count = count,
					  .want = s->sent + count == s->prompt + s->n_said }, s->text + s->sent);
		s->sent += count;
	}
}

static void hear(struct speaker *s, const struct tokens_message *m)
{
	for (uint32_t i = 0; i < m->n_tokens; i++) {
		assert_true(s->n_said < s->max);
		assert_int_equal(m->position, s->prompt + s->n_said);
		s->said[s->n_said] = m->tokens[i];
		s->text[s->prompt + s->n_said++] = m->tokens[i].id;
	}
}

static struct speaker *whose(struct speaker *all, const uint8_t *session)
{
	assert_true(session[0] >= 1 && session[0] <= SPEAKERS);
	return &all[session[0] - 1];
}

static void say_alone(struct engine *e, struct speaker *s, uint32_t epoch, struct layer_range all)
{
	open_long(e, s, epoch, 0, all);
	while (s->n_said < s->max) {
		pump(e, s, epoch);
		hear(s, tokens(e));
	}
}

static void close_it(struct engine *e, uint8_t id, uint32_t epoch)
{
	struct close_message m = { .session = { id }, .epoch = epoch, .stage = UINT32_MAX };

	assert_int_equal(close_encode(&e->out, &m), 0);
	post(e);
}

static void assert_same(const struct speaker *alone, const struct speaker *together)
{
	for (unsigned i = 0; i < SPEAKERS; i++) {
		assert_int_equal(together[i].n_said, alone[i].max);
		for (uint32_t k = 0; k < alone[i].max; k++) {
			if (together[i].said[k].id != alone[i].said[k].id || together[i].said[k].logprob != alone[i].said[k].logprob)
				print_error("session %u, token %u: %d (%.9g) alone, %d (%.9g) together\n", i, k, alone[i].said[k].id,
					    alone[i].said[k].logprob, together[i].said[k].id, together[i].said[k].logprob);
			assert_int_equal(together[i].said[k].id, alone[i].said[k].id);
			assert_memory_equal(&together[i].said[k].logprob, &alone[i].said[k].logprob, sizeof(float));
		}
	}
}

static unsigned unfinished(const struct speaker *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SPEAKERS; i++)
		n += s[i].n_said < s[i].max;
	return n;
}

/* longest: positions of a prompt */
static void together_as_alone(const struct tiny_model *model, uint32_t longest)
{
	const struct layer_range all = { 0, model->n_layer };
	static struct speaker alone[SPEAKERS], together[SPEAKERS];
	struct engine e;

	engine_start(&e, NULL);
	load_long(&e, model, &all, 1, SPEAKERS);
	speakers_init(alone);
	speakers_init(together);
	for (unsigned i = 0; i < SPEAKERS; i++) {
		if (alone[i].prompt > longest)
			alone[i].prompt = together[i].prompt = longest;
		say_alone(&e, &alone[i], 1, all);
		close_it(&e, alone[i].id, 1);
	}
	/* all but one at once; that one joins when the first has said five tokens */
	for (unsigned i = 1; i < SPEAKERS; i++)
		open_long(&e, &together[i], 1, 0, all);
	for (unsigned i = 1; i < SPEAKERS; i++)
		pump(&e, &together[i], 1);
	while (unfinished(together)) {
		struct tokens_message *m = tokens(&e);
		struct speaker *s = whose(together, m->session);

		hear(s, m);
		pump(&e, s, 1);
		if (s->n_said == s->max)
			close_it(&e, s->id, 1);
		if (s == &together[1] && s->n_said == 5 && !together[0].sent) {
			struct engine_open open = { .session = { together[0].id }, .epoch = 1, .range = all, .context = LONG,
						    .sampling = together[0].sampling };

			assert_int_equal(engine_open_encode(&e.out, &open), 0);
			post(&e);
			do {                     /* others' tokens may come before READY */
				assert_int_equal(wire_next(&e.wire, &e.frame), 0);
				if (e.frame.type == FRAME_TOKENS) {
					assert_int_equal(tokens_decode(&e.frame, m), 0);
					s = whose(together, m->session);
					hear(s, m);
					pump(&e, s, 1);
				}
			} while (e.frame.type != FRAME_READY);
			pump(&e, &together[0], 1);
		}
	}
	assert_int_equal(engine_stop(&e), 0);
	assert_same(alone, together);
}

static void sessions_at_once_say_what_each_says_alone(void **state)
{
	static const struct tiny_model models[] = {
		{ .architecture = "llama", .n_layer = 3, .type = GGML_TYPE_Q8_0 },
		{ .architecture = "llama", .n_layer = 3, .type = GGML_TYPE_F32 },
		{ .architecture = "qwen2", .n_layer = 2, .type = GGML_TYPE_Q4_0, .tied = true },
		{ .architecture = "qwen3", .n_layer = 2, .type = GGML_TYPE_F16, .tied = true },
		{ .architecture = "gemma3", .n_layer = 6, .type = GGML_TYPE_BF16, .tied = true, .window = 24 },
		/* never shares a batch; with random weights its state grows past all bounds in a hundred rows */
		{ .architecture = "mamba", .n_layer = 2, .type = GGML_TYPE_F32 },
	};

	for (size_t i = 0; i < sizeof models / sizeof *models; i++)
		together_as_alone(&models[i], i + 1 == sizeof models / sizeof *models ? 20 : LONG);
}

/* ROWS of the home go to the other, its ROWS back to home's last layers. */
static void in_a_ring_they_say_it_too(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 6, .type = GGML_TYPE_Q8_0 };
	const struct layer_range all = { 0, 6 }, ends[] = { { 0, 1 }, { 4, 6 } }, longer = { 1, 5 }, middle = { 1, 4 };
	static struct speaker alone[SPEAKERS], together[SPEAKERS];
	unsigned at_home = 0, at_other = 0;      /* answers that are due */
	struct engine whole, home, other;

	engine_start(&whole, NULL);
	engine_start(&home, NULL);
	engine_start(&other, NULL);
	load_long(&whole, &model, &all, 1, 1);
	load_long(&home, &model, ends, 2, SPEAKERS);
	load_long(&other, &model, &longer, 1, SPEAKERS);         /* sessions end before the shard does */
	speakers_init(alone);
	speakers_init(together);
	for (unsigned i = 0; i < SPEAKERS; i++) {
		say_alone(&whole, &alone[i], 1, all);
		close_it(&whole, alone[i].id, 1);
	}
	for (unsigned i = 0; i < SPEAKERS; i++) {
		open_long(&home, &together[i], 1, 2, ends[1]);
		open_long(&other, &together[i], 1, 1, middle);
		open_long(&home, &together[i], 1, 0, ends[0]);
	}
	for (unsigned i = 0; i < SPEAKERS; i++) {
		uint64_t before = together[i].sequence;

		pump(&home, &together[i], 1);
		at_home += (unsigned)(together[i].sequence - before);
	}
	while (at_home || at_other) {
		/* home first, as long as it owes something: so that many rows wait at the other */
		if (at_home) {
			assert_int_equal(wire_next(&home.wire, &home.frame), 0);
			at_home--;
			if (home.frame.type == FRAME_ROWS) {
				assert_int_equal(frame_encode(&other.out, FRAME_ROWS, home.frame.head, home.frame.head_length, home.frame.tail,
							      home.frame.tail_length), 0);
				post(&other);
				at_other++;
			} else {
				static struct tokens_message m;
				struct speaker *s;
				uint64_t before;

				assert_int_equal(home.frame.type, FRAME_TOKENS);
				assert_int_equal(tokens_decode(&home.frame, &m), 0);
				s = whose(together, m.session);
				hear(s, &m);
				before = s->sequence;
				pump(&home, s, 1);
				at_home += (unsigned)(s->sequence - before);
			}
		} else {
			forward(&other, &home);
			at_other--;
			at_home++;
		}
	}
	assert_int_equal(engine_stop(&whole), 0);
	assert_int_equal(engine_stop(&home), 0);
	assert_int_equal(engine_stop(&other), 0);
	assert_same(alone, together);
}

/* What was said one by one is sent again in blocks, as home does when a stage was lost: past position 256 too. */
static void a_replay_far_into_a_text_says_the_same(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 2, .type = GGML_TYPE_Q8_0 };
	const struct layer_range all = { 0, 2 };
	static struct speaker first[SPEAKERS], again;
	struct engine e;

	engine_start(&e, NULL);
	load_long(&e, &model, &all, 1, 1);
	speakers_init(first);
	say_alone(&e, &first[4], 1, all);
	again = first[4];
	again.n_said--;
	again.sent = 0;
	again.sequence = 0;
	open_long(&e, &again, 2, 0, all);
	pump(&e, &again, 2);
	while (again.n_said < SAID)
		hear(&again, tokens(&e));
	assert_int_equal(again.said[SAID - 1].id, first[4].said[SAID - 1].id);
	assert_memory_equal(&again.said[SAID - 1].logprob, &first[4].said[SAID - 1].logprob, sizeof(float));
	assert_int_equal(engine_stop(&e), 0);
}

/* One session's bad block does not touch those that are in the same batch. */
static void a_bad_block_is_its_own_sessions_fault(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 2, .type = GGML_TYPE_Q8_0 };
	const struct layer_range all = { 0, 2 };
	static const int32_t good = 5, bad = TINY_VOCAB;
	struct rows_message m = { .n_blocks = 3 };
	unsigned said = 0, faults = 0;
	uint8_t bytes[3][4];
	struct engine e;

	engine_start(&e, NULL);
	load(&e, &model, &all, 1, 3);
	for (uint8_t i = 0; i < 3; i++) {
		open_stage(&e, (uint8_t)(i + 1), 1, 0, all, NULL);
		put_u32(bytes[i], (uint32_t)(i == 1 ? bad : good));
		m.blocks[i] = (struct rows_block){ .session = { (uint8_t)(i + 1) }, .epoch = 1, .count = 1, .want = 1, .encoding = ENCODING_TOKEN,
						   .rows = bytes[i], .rows_length = 4 };
	}
	assert_int_equal(rows_encode(&e.out, &m), 0);
	post(&e);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(wire_next(&e.wire, &e.frame), 0);
		if (e.frame.type == FRAME_FAULT) {
			struct fault_message fault;

			assert_int_equal(fault_decode(&e.frame, &fault), 0);
			assert_int_equal(fault.session[0], 2);
			assert_int_equal(fault.code, ERR_MALFORMED);
			faults++;
		} else {
			assert_int_equal(e.frame.type, FRAME_TOKENS);
			said++;
		}
	}
	assert_int_equal(said, 2);
	assert_int_equal(faults, 1);
	assert_int_equal(engine_stop(&e), 0);
}

/* A session that is closed with blocks waiting leaves nothing behind, and its place is free at once. */
static void what_waits_goes_with_its_session(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 2, .type = GGML_TYPE_Q8_0 };
	const struct layer_range all = { 0, 2 };
	static struct speaker s[SPEAKERS], after;
	struct engine e;

	engine_start(&e, NULL);
	load_long(&e, &model, &all, 1, 1);
	speakers_init(s);
	after = s[1];
	say_alone(&e, &s[1], 1, all);
	close_it(&e, s[1].id, 1);
	open_long(&e, &s[5], 1, 0, all);
	pump(&e, &s[5], 1);
	close_it(&e, s[5].id, 1);
	{
		struct engine_open open = { .session = { after.id }, .epoch = 1, .range = all, .context = LONG, .sampling = after.sampling };

		assert_int_equal(engine_open_encode(&e.out, &open), 0);
		post(&e);
		do                               /* blocks that were computed before CLOSE was read are answered */
			assert_int_equal(wire_next(&e.wire, &e.frame), 0);
		while (e.frame.type == FRAME_TOKENS);
		assert_int_equal(e.frame.type, FRAME_READY);
	}
	while (after.n_said < after.max) {
		pump(&e, &after, 1);
		hear(&after, tokens(&e));
	}
	for (uint32_t k = 0; k < after.max; k++)
		assert_int_equal(after.said[k].id, s[1].said[k].id);
	assert_int_equal(engine_stop(&e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sessions_at_once_say_what_each_says_alone),
		cmocka_unit_test(in_a_ring_they_say_it_too),
		cmocka_unit_test(a_replay_far_into_a_text_says_the_same),
		cmocka_unit_test(a_bad_block_is_its_own_sessions_fault),
		cmocka_unit_test(what_waits_goes_with_its_session),
	};

	return cmocka_run_group_tests_name("batch", tests, NULL, NULL);
}
