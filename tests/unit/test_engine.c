/* test_engine.c: essaim-engine as a program, over a socketpair, as essaimd drives it.
 *
 *      test --[3]-- essaim-engine (home:  layers [0, 2) and [4, 6))
 *           --[3]-- essaim-engine (other: layers [2, 4))
 *           --[3]-- essaim-engine (whole: layers [0, 6))
 *
 * Models are made in memory (tiny_model.h). Where $ESSAIM_SHARED/models has the stories, a real one tells its story too.
 * The program is $ESSAIM_ENGINE, or engine/essaim-engine below the build folder.
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

#include <errno.h>
#include <fcntl.h>
#include <ggml.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/engine_environment.h"
#include "proto/err.h"
#include "tests/unit/engine_driver.h"

/* --- a ring of three stages ------------------------------------------------------------------------ */

struct ring {
	struct engine whole, home, other;
	uint64_t sequence;
};

static void ring_start(struct ring *r, const struct tiny_model *model, uint32_t a, uint32_t b, uint32_t sessions)
{
	const struct layer_range all = { 0, model->n_layer }, ends[] = { { 0, a }, { b, model->n_layer } }, middle = { a, b };
	struct engine_loaded whole, home, other;

	engine_start(&r->whole, NULL);
	engine_start(&r->home, NULL);
	engine_start(&r->other, NULL);
	whole = load(&r->whole, model, &all, 1, sessions);
	home = load(&r->home, model, ends, 2, sessions);
	other = load(&r->other, model, &middle, 1, sessions);
	assert_int_equal(whole.n_embd, TINY_EMBD);
	assert_int_equal(whole.n_vocab, TINY_VOCAB);
	assert_int_equal(home.n_vocab, TINY_VOCAB);
	assert_true(other.weight_bytes < whole.weight_bytes);
	/* nobody's positions are counted twice */
	assert_true(whole.kv_bytes > 0 && labs((long)(home.kv_bytes + other.kv_bytes) - (long)whole.kv_bytes) < (64 << 10));
}

static void ring_open(struct ring *r, const struct tiny_model *model, uint32_t a, uint32_t b, uint8_t session, const struct sampling *sampling)
{
	open_stage(&r->whole, session, 1, 0, (struct layer_range){ 0, model->n_layer }, sampling);
	open_stage(&r->home, session, 1, 2, (struct layer_range){ b, model->n_layer }, sampling);
	open_stage(&r->other, session, 1, 1, (struct layer_range){ a, b }, NULL);
	open_stage(&r->home, session, 1, 0, (struct layer_range){ 0, a }, NULL);
}

/* One block through both sides; they must agree, to the last bit of the probability. */
static struct token ring_block(struct ring *r, uint8_t session, uint64_t sequence, uint32_t position, uint32_t count, bool want, const int32_t *ids)
{
	struct ids block = { .session = session, .epoch = 1, .sequence = sequence, .position = position, .count = count, .want = want };
	struct token token = { 0 };
	struct tokens_message *m;

	post_ids(&r->whole, block, ids);
	m = tokens(&r->whole);
	assert_int_equal(m->n_tokens, want);
	if (want)
		token = m->tokens[0];
	post_ids(&r->home, block, ids);
	forward(&r->home, &r->other);
	forward(&r->other, &r->home);
	m = tokens(&r->home);
	assert_int_equal(m->n_tokens, want);
	assert_int_equal(m->sequence, sequence);
	assert_int_equal(m->position, position + count - want + 1);
	if (want) {
		assert_int_equal(m->tokens[0].id, token.id);
		assert_memory_equal(&m->tokens[0].logprob, &token.logprob, sizeof token.logprob);
	}
	return token;
}

static void ring_stop(struct ring *r)
{
	assert_int_equal(engine_stop(&r->whole), 0);
	assert_int_equal(engine_stop(&r->home), 0);
	assert_int_equal(engine_stop(&r->other), 0);
}

static void tell(struct ring *r, uint8_t session, unsigned n)
{
	int32_t id = 0;
	uint64_t sequence = 0;
	uint32_t at = 0;

	for (; at < PROMPT; at += 32)
		id = ring_block(r, session, sequence++, at, PROMPT - at < 32 ? PROMPT - at : 32, at + 32 >= PROMPT, prompt() + at).id;
	for (at = PROMPT; at < PROMPT + n; at++)
		id = ring_block(r, session, sequence++, at, 1, true, &id).id;
}

static void ring_says_what_the_whole_says(const struct tiny_model *model, uint32_t a, uint32_t b)
{
	const struct sampling warm = { .temperature = 0.8f, .top_p = 0.95f, .top_k = 40, .repeat_penalty = 1.1f, .seed = 5, .ignore_end = true };
	struct ring r;

	ring_start(&r, model, a, b, 2);
	ring_open(&r, model, a, b, 1, NULL);
	ring_open(&r, model, a, b, 2, &warm);
	tell(&r, 1, 20);
	tell(&r, 2, 20);
	ring_stop(&r);
}

static void a_ring_of_llama_says_what_the_whole_model_says(void **state)
{
	ring_says_what_the_whole_says(&(struct tiny_model){ .architecture = "llama", .n_layer = 6, .type = GGML_TYPE_Q8_0 }, 2, 4);
}

static void a_ring_of_qwen2_says_what_the_whole_model_says(void **state)
{
	ring_says_what_the_whole_says(&(struct tiny_model){ .architecture = "qwen2", .n_layer = 5, .type = GGML_TYPE_Q4_0, .tied = true }, 1, 4);
}

static void a_ring_of_qwen3_says_what_the_whole_model_says(void **state)
{
	ring_says_what_the_whole_says(&(struct tiny_model){ .architecture = "qwen3", .n_layer = 4, .type = GGML_TYPE_F16, .tied = true,
							    .kv_heads_array = true }, 1, 2);
}

static void a_ring_of_gemma3_says_what_the_whole_model_says(void **state)
{
	ring_says_what_the_whole_says(&(struct tiny_model){ .architecture = "gemma3", .n_layer = 20, .type = GGML_TYPE_BF16, .tied = true,
							    .window = 24 }, 6, 12);
}

/* libllama scales the embedding in every shard: the rows of the shard before replace what that makes. */
static void a_ring_of_gemma_says_what_the_whole_model_says(void **state)
{
	ring_says_what_the_whole_says(&(struct tiny_model){ .architecture = "gemma", .n_layer = 5, .type = GGML_TYPE_Q8_0, .tied = true }, 2, 4);
}

static void a_session_may_end_before_its_shard_does(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 6, .type = GGML_TYPE_Q8_0 };
	const struct layer_range all = { 0, 6 }, ends[] = { { 0, 2 }, { 4, 6 } }, longer = { 2, 5 };
	struct ring r;

	engine_start(&r.whole, NULL);
	engine_start(&r.home, NULL);
	engine_start(&r.other, NULL);
	load(&r.whole, &model, &all, 1, 1);
	load(&r.home, &model, ends, 2, 1);
	load(&r.other, &model, &longer, 1, 1);
	ring_open(&r, &model, 2, 4, 1, NULL);
	tell(&r, 1, 12);
	ring_stop(&r);
}

/* Two sessions in turn, block by block, say what each says alone. */
static void sessions_do_not_move_each_other(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 4, .type = GGML_TYPE_Q8_0 };
	const struct layer_range all = { 0, 4 };
	int32_t alone[2][16], ids[2];
	struct engine e;

	engine_start(&e, NULL);
	load(&e, &model, &all, 1, 3);
	for (uint8_t s = 0; s < 2; s++) {
		open_stage(&e, (uint8_t)(s + 1), 1, 0, all, NULL);
		for (uint32_t i = 0; i < 16; i++) {
			post_ids(&e, (struct ids){ .session = (uint8_t)(s + 1), .epoch = 1, .sequence = i, .position = i ? 9 + s + i : 0,
						   .count = i ? 1 : 10 + s, .want = 1 }, i ? &ids[s] : prompt() + s);
			alone[s][i] = ids[s] = tokens(&e)->tokens[0].id;
		}
	}
	for (uint8_t s = 0; s < 2; s++)       /* again: a new epoch, written from the start */
		open_stage(&e, (uint8_t)(s + 1), 2, 0, all, NULL);
	for (uint32_t i = 0; i < 16; i++)
		for (uint8_t s = 0; s < 2; s++) {
			post_ids(&e, (struct ids){ .session = (uint8_t)(s + 1), .epoch = 2, .sequence = i, .position = i ? 9 + s + i : 0,
						   .count = i ? 1 : 10 + s, .want = 1 }, i ? &ids[s] : prompt() + s);
			ids[s] = tokens(&e)->tokens[0].id;
			assert_int_equal(ids[s], alone[s][i]);
		}
	assert_int_equal(engine_stop(&e), 0);
}

/* Several sessions in one frame, and several frames before the first answer is read. */
static void frames_with_several_blocks_are_answered_one_by_one(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 2, .type = GGML_TYPE_F32 };
	const struct layer_range all = { 0, 2 };
	struct rows_message m = { .n_blocks = 2 };
	uint8_t bytes[4];
	struct engine e;

	engine_start(&e, NULL);
	load(&e, &model, &all, 1, 2);
	open_stage(&e, 1, 1, 0, all, NULL);
	open_stage(&e, 2, 1, 0, all, NULL);
	put_u32(bytes, 5);
	for (uint32_t i = 0; i < 3; i++) {
		for (uint8_t s = 0; s < 2; s++)
			m.blocks[s] = (struct rows_block){ .session = { (uint8_t)(s + 1) }, .epoch = 1, .sequence = i, .position = i, .count = 1,
							   .want = 1, .encoding = ENCODING_TOKEN, .rows = bytes, .rows_length = 4 };
		assert_int_equal(rows_encode(&e.out, &m), 0);
		post(&e);
	}
	for (uint32_t i = 0; i < 3; i++)
		for (uint8_t s = 0; s < 2; s++) {
			struct tokens_message *t = tokens(&e);

			assert_int_equal(t->session[0], s + 1);
			assert_int_equal(t->sequence, i);
			assert_int_equal(t->n_tokens, 1);
		}
	assert_int_equal(engine_stop(&e), 0);
}

/* --- one engine, one session: a fixture ------------------------------------------------------------ */

static const struct tiny_model small = { .architecture = "llama", .n_layer = 3, .type = GGML_TYPE_Q8_0, .chat = true };

static int setup(void **state)
{
	static const struct layer_range ranges[] = { { 0, 3 }, { 1, 2 } };
	static struct engine e;

	engine_start(&e, NULL);
	load(&e, &small, ranges, 2, 1);
	open_stage(&e, 1, 1, 0, ranges[0], NULL);
	*state = &e;
	return 0;
}

static int teardown(void **state)
{
	return engine_stop(*state);     /* whatever the test did, the engine lived and ended cleanly */
}

static struct ids at(struct engine *e, uint32_t position, uint32_t count, uint32_t want)
{
	return (struct ids){ .session = 1, .epoch = 1, .sequence = e->sequence++, .position = position, .count = count, .want = want };
}

static void writing_again_from_a_position_truncates(void **state)
{
	struct engine *e = *state;
	int32_t first, again, other;

	post_ids(e, at(e, 0, 20, 1), prompt());
	first = tokens(e)->tokens[0].id;
	post_ids(e, at(e, 20, 1, 1), &first);
	other = tokens(e)->tokens[0].id;
	post_ids(e, at(e, 12, 8, 1), prompt() + 12);      /* the last eight again */
	again = tokens(e)->tokens[0].id;
	assert_int_equal(first, again);
	post_ids(e, at(e, 20, 1, 1), &again);
	assert_int_equal(tokens(e)->tokens[0].id, other);
	post_ids(e, at(e, 0, 20, 1), prompt());           /* and all of it */
	assert_int_equal(tokens(e)->tokens[0].id, first);
}

static void verifying_five_rows_says_what_single_steps_say(void **state)
{
	struct engine *e = *state;
	int32_t draft[5], said[5];
	struct tokens_message *m;

	post_ids(e, at(e, 0, 20, 1), prompt());
	draft[0] = tokens(e)->tokens[0].id;
	for (uint32_t i = 0; i < 5; i++) {
		post_ids(e, at(e, 20 + i, 1, 1), &draft[i]);
		said[i] = tokens(e)->tokens[0].id;
		if (i < 4)
			draft[i + 1] = said[i];
	}
	post_ids(e, at(e, 20, 5, 5), draft);
	m = tokens(e);
	assert_int_equal(m->n_tokens, 5);
	assert_int_equal(m->position, 21);
	for (int i = 0; i < 5; i++)
		assert_int_equal(m->tokens[i].id, said[i]);
	post_ids(e, at(e, 20, 5, 2), draft);              /* only the last two are wanted */
	m = tokens(e);
	assert_int_equal(m->n_tokens, 2);
	assert_int_equal(m->position, 24);
	assert_int_equal(m->tokens[0].id, said[3]);
	assert_int_equal(m->tokens[1].id, said[4]);
}

static void prefill_is_acknowledged_without_tokens(void **state)
{
	struct engine *e = *state;
	struct tokens_message *m;

	post_ids(e, at(e, 0, 32, 0), prompt());
	m = tokens(e);
	assert_int_equal(m->n_tokens, 0);
	assert_int_equal(m->sequence, 0);
}

static void a_hole_in_the_positions_asks_for_a_replay(void **state)
{
	struct engine *e = *state;

	post_ids(e, at(e, 0, 10, 0), prompt());
	tokens(e);
	post_ids(e, at(e, 12, 1, 1), prompt());
	assert_int_equal(expect_fault(e, ERR_NEED_REPLAY).position, 10);
	post_ids(e, at(e, 10, 2, 0), prompt() + 10);      /* the session goes on */
	tokens(e);
	post_ids(e, at(e, 12, 1, 1), prompt() + 12);
	assert_int_equal(tokens(e)->n_tokens, 1);
}

static void duplicates_are_dropped_and_gaps_are_faults(void **state)
{
	struct engine *e = *state;
	struct ids block = at(e, 0, 10, 1);

	post_ids(e, block, prompt());
	assert_int_equal(tokens(e)->sequence, 0);
	post_ids(e, block, prompt());                     /* no answer to this one */
	post_ids(e, at(e, 10, 1, 1), prompt());
	assert_int_equal(tokens(e)->sequence, 1);
	e->sequence++;
	post_ids(e, at(e, 11, 1, 1), prompt());
	expect_fault(e, ERR_MALFORMED);
}

static void other_sessions_epochs_and_stages_are_faults(void **state)
{
	struct engine *e = *state;

	post_ids(e, (struct ids){ .session = 7, .epoch = 1, .count = 1 }, prompt());
	assert_int_equal(expect_fault(e, ERR_UNKNOWN).session[0], 7);
	post_ids(e, (struct ids){ .session = 1, .epoch = 1, .stage = 1, .count = 1 }, prompt());
	assert_int_equal(expect_fault(e, ERR_UNKNOWN).stage, 1);
	post_ids(e, (struct ids){ .session = 1, .epoch = 0, .count = 1 }, prompt());
	assert_int_equal(expect_fault(e, ERR_STALE).epoch, 0);
	post_open(e, 1, 0, 0, (struct layer_range){ 0, 3 }, NULL);
	expect_fault(e, ERR_STALE);
	post_open(e, 2, 1, 0, (struct layer_range){ 0, 2 }, NULL);       /* not loaded */
	expect_fault(e, ERR_UNKNOWN);
	post_ids(e, at(e, 0, 1, 1), prompt());            /* the good session never noticed */
	assert_int_equal(tokens(e)->n_tokens, 1);
}

static void bad_tokens_rows_and_shapes_are_faults(void **state)
{
	static const int32_t outside = TINY_VOCAB, negative = -1;
	static float rows[2 * TINY_EMBD];
	struct engine *e = *state;
	uint32_t epoch = 1;

	post_ids(e, at(e, 0, 1, 1), &outside);
	expect_fault(e, ERR_MALFORMED);
	open_stage(e, 1, ++epoch, 0, (struct layer_range){ 0, 3 }, NULL);
	post_ids(e, (struct ids){ .session = 1, .epoch = epoch, .count = 1, .want = 1 }, &negative);
	expect_fault(e, ERR_MALFORMED);
	open_stage(e, 1, ++epoch, 0, (struct layer_range){ 0, 3 }, NULL);
	post_floats(e, (struct ids){ .session = 1, .epoch = epoch, .count = 1 }, rows, TINY_EMBD);      /* states where ids are due */
	expect_fault(e, ERR_MALFORMED);

	open_stage(e, 2, epoch, 1, (struct layer_range){ 1, 2 }, NULL);
	post_floats(e, (struct ids){ .session = 2, .epoch = epoch, .stage = 1, .count = 1 }, rows, TINY_EMBD / 2);
	expect_fault(e, ERR_MALFORMED);
	open_stage(e, 2, ++epoch, 1, (struct layer_range){ 1, 2 }, NULL);
	post_ids(e, (struct ids){ .session = 2, .epoch = epoch, .stage = 1, .count = 1 }, prompt());     /* ids where states are due */
	expect_fault(e, ERR_MALFORMED);
	for (int i = 0; i < 3; i++) {
		rows[TINY_EMBD + 5] = i == 0 ? NAN : i == 1 ? INFINITY : -INFINITY;
		open_stage(e, 2, ++epoch, 1, (struct layer_range){ 1, 2 }, NULL);
		post_floats(e, (struct ids){ .session = 2, .epoch = epoch, .stage = 1, .count = 2 }, rows, TINY_EMBD);
		expect_fault(e, ERR_MALFORMED);
	}
	rows[TINY_EMBD + 5] = 1;
	open_stage(e, 2, ++epoch, 1, (struct layer_range){ 1, 2 }, NULL);
	post_floats(e, (struct ids){ .session = 2, .epoch = epoch, .stage = 1, .count = 2 }, rows, TINY_EMBD);
	expect(e, FRAME_ROWS);
}

static void positions_past_the_context_are_faults(void **state)
{
	struct engine *e = *state;

	post_ids(e, at(e, CONTEXT - 1, 2, 0), prompt());
	expect_fault(e, ERR_CONTEXT);
}

static void a_session_that_is_closed_makes_room(void **state)
{
	struct close_message close_it = { .session = { 1 }, .epoch = 1, .stage = UINT32_MAX };
	struct engine *e = *state;
	int32_t first;

	post_ids(e, at(e, 0, 10, 1), prompt());
	first = tokens(e)->tokens[0].id;
	post_open(e, 2, 1, 0, (struct layer_range){ 0, 3 }, NULL);
	expect_fault(e, ERR_BUSY);
	close_it.epoch = 0;                               /* an older epoch closes nothing */
	assert_int_equal(close_encode(&e->out, &close_it), 0);
	post(e);
	post_open(e, 2, 1, 0, (struct layer_range){ 0, 3 }, NULL);
	expect_fault(e, ERR_BUSY);
	close_it.epoch = 1;
	assert_int_equal(close_encode(&e->out, &close_it), 0);
	post(e);
	open_stage(e, 2, 1, 0, (struct layer_range){ 0, 3 }, NULL);
	post_ids(e, (struct ids){ .session = 1, .epoch = 1, .sequence = 1, .position = 10, .count = 1 }, prompt());
	expect_fault(e, ERR_UNKNOWN);
	/* nothing of the one before is left in the sequence */
	post_ids(e, (struct ids){ .session = 2, .epoch = 1, .position = 3, .count = 1 }, prompt());
	assert_int_equal(expect_fault(e, ERR_NEED_REPLAY).position, 0);
	post_ids(e, (struct ids){ .session = 2, .epoch = 1, .sequence = 1, .count = 10, .want = 1 }, prompt());
	assert_int_equal(tokens(e)->tokens[0].id, first);
}

static void sampling_is_the_same_after_a_replay(void **state)
{
	const struct sampling warm = { .temperature = 1.2f, .top_p = 1, .repeat_penalty = 1.2f, .frequency_penalty = 0.3f, .seed = 99, .ignore_end = true };
	int32_t said[12], ids[32];
	struct engine *e = *state;

	open_stage(e, 1, 2, 0, (struct layer_range){ 0, 3 }, &warm);
	for (uint32_t i = 0; i < 12; i++) {
		post_ids(e, (struct ids){ .session = 1, .epoch = 2, .sequence = i, .position = i ? 15 + i : 0, .count = i ? 1 : 16, .want = 1 },
			 i ? &said[i - 1] : prompt());
		said[i] = tokens(e)->tokens[0].id;
	}
	/* prompt and the first eleven again as a prompt, as home does when a stage was lost */
	memcpy(ids, prompt(), 16 * sizeof *ids);
	memcpy(ids + 16, said, 11 * sizeof *ids);
	open_stage(e, 1, 3, 0, (struct layer_range){ 0, 3 }, &warm);
	post_ids(e, (struct ids){ .session = 1, .epoch = 3, .count = 27, .want = 1 }, ids);
	assert_int_equal(tokens(e)->tokens[0].id, said[11]);
}

static void open_fork(struct engine *e, uint8_t session, uint8_t from, struct layer_range range, uint32_t context)
{
	struct engine_open m = { .session = { session }, .epoch = 1, .range = range, .context = context, .forks = true, .from = { from },
				 .sampling = { .top_p = 1, .repeat_penalty = 1.2f, .ignore_end = true } };

	assert_int_equal(engine_open_encode(&e->out, &m), 0);
	post(e);
	expect(e, FRAME_READY);
}

static void close_session(struct engine *e, uint8_t session)
{
	const struct close_message m = { .session = { session }, .epoch = 9, .stage = UINT32_MAX };

	assert_int_equal(close_encode(&e->out, &m), 0);
	post(e);
}

/* Session 1 holds 45 + 8 positions; 2 begins with them, keeps 32 and goes on otherwise, as if it had come alone. */
static void a_fork_says_what_a_session_of_its_own_says(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 3, .type = GGML_TYPE_F32 };
	const struct sampling warm = { .top_p = 1, .repeat_penalty = 1.2f, .ignore_end = true };
	const struct layer_range all = { 0, 3 };
	struct token first, forked, alone, next, next_alone;
	int32_t other[16], id;
	struct engine e;

	engine_start(&e, NULL);
	load(&e, &model, &all, 1, 2);
	open_stage(&e, 1, 1, 0, all, &warm);
	post_ids(&e, (struct ids){ .session = 1, .epoch = 1, .count = 32 }, prompt());
	tokens(&e);
	post_ids(&e, (struct ids){ .session = 1, .epoch = 1, .sequence = 1, .position = 32, .count = 13, .want = 1 }, prompt() + 32);
	first = tokens(&e)->tokens[0];
	id = first.id;
	for (uint32_t i = 0; i < 8; i++) {
		post_ids(&e, (struct ids){ .session = 1, .epoch = 1, .sequence = 2 + i, .position = 45 + i, .count = 1, .want = 1 }, &id);
		id = tokens(&e)->tokens[0].id;
	}
	for (int i = 0; i < 16; i++)
		other[i] = (i * 11 + 3) % TINY_VOCAB;
	open_fork(&e, 2, 1, all, CONTEXT);
	post_ids(&e, (struct ids){ .session = 2, .epoch = 1, .position = 32, .count = 16, .want = 1 }, other);
	forked = tokens(&e)->tokens[0];
	post_ids(&e, (struct ids){ .session = 2, .epoch = 1, .sequence = 1, .position = 48, .count = 1, .want = 1 }, &forked.id);
	next = tokens(&e)->tokens[0];
	/* the one that was copied goes on as if nothing had been */
	post_ids(&e, (struct ids){ .session = 1, .epoch = 1, .sequence = 10, .position = 32, .count = 13, .want = 1 }, prompt() + 32);
	alone = tokens(&e)->tokens[0];
	assert_int_equal(alone.id, first.id);
	assert_memory_equal(&alone.logprob, &first.logprob, sizeof first.logprob);

	close_session(&e, 1);
	open_stage(&e, 3, 1, 0, all, &warm);
	post_ids(&e, (struct ids){ .session = 3, .epoch = 1, .count = 32 }, prompt());
	tokens(&e);
	post_ids(&e, (struct ids){ .session = 3, .epoch = 1, .sequence = 1, .position = 32, .count = 16, .want = 1 }, other);
	alone = tokens(&e)->tokens[0];
	post_ids(&e, (struct ids){ .session = 3, .epoch = 1, .sequence = 2, .position = 48, .count = 1, .want = 1 }, &alone.id);
	next_alone = tokens(&e)->tokens[0];
	assert_int_equal(forked.id, alone.id);
	assert_memory_equal(&forked.logprob, &alone.logprob, sizeof alone.logprob);
	assert_int_equal(next.id, next_alone.id);
	assert_memory_equal(&next.logprob, &next_alone.logprob, sizeof next.logprob);

	close_session(&e, 2);                     /* nobody to fork from: it begins empty, and says so */
	open_fork(&e, 4, 2, all, CONTEXT);
	post_ids(&e, (struct ids){ .session = 4, .epoch = 1, .position = 32, .count = 16, .want = 1 }, other);
	assert_int_equal(expect_fault(&e, ERR_NEED_REPLAY).position, 0);
	assert_int_equal(engine_stop(&e), 0);
}

static void a_recurrent_model_does_not_fork(void **state)
{
	const struct tiny_model model = { .architecture = "mamba", .n_layer = 2, .type = GGML_TYPE_F32 };
	const struct layer_range all = { 0, 2 };
	struct engine e;

	engine_start(&e, NULL);
	load(&e, &model, &all, 1, 2);
	open_stage(&e, 1, 1, 0, all, NULL);
	post_ids(&e, (struct ids){ .session = 1, .epoch = 1, .count = 32, .want = 1 }, prompt());
	tokens(&e);
	open_fork(&e, 2, 1, all, CONTEXT);
	post_ids(&e, (struct ids){ .session = 2, .epoch = 1, .position = 32, .count = 1, .want = 1 }, prompt());
	assert_int_equal(expect_fault(&e, ERR_NEED_REPLAY).position, 0);
	assert_int_equal(engine_stop(&e), 0);
}

/* The follow-up is longer than the first question promised to become. */
static void a_new_epoch_with_a_longer_context_keeps_what_is_held(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 3, .type = GGML_TYPE_F32 };
	const struct layer_range all = { 0, 3 };
	struct engine e;
	struct engine_open m = { .session = { 1 }, .epoch = 1, .range = all, .context = 40,
				 .sampling = { .top_p = 1, .repeat_penalty = 1, .ignore_end = true } };

	engine_start(&e, NULL);
	load(&e, &model, &all, 1, 1);
	for (m.epoch = 1; m.epoch <= 2; m.epoch++) {
		assert_int_equal(engine_open_encode(&e.out, &m), 0);
		post(&e);
		expect(&e, FRAME_READY);
		post_ids(&e, (struct ids){ .session = 1, .epoch = m.epoch, .position = m.epoch == 1 ? 0 : 32, .count = m.epoch == 1 ? 32 : 20 },
			 prompt());
		expect(&e, FRAME_TOKENS);
		m.context = CONTEXT;
	}
	assert_int_equal(engine_stop(&e), 0);
}

/* A grammar: the model is random, so what comes out is the grammar's doing. */
static struct sampling guided(const char *grammar)
{
	return (struct sampling){ .temperature = 1.5f, .top_p = 1, .repeat_penalty = 1, .seed = 7, .grammar = grammar, .grammar_length = strlen(grammar) };
}

static void post_guided(struct engine *e, uint32_t epoch, const struct sampling *sampling)
{
	struct engine_open m = { .session = { 1 }, .epoch = epoch, .range = { 0, 3 }, .context = CONTEXT, .prompt = 16, .sampling = *sampling };

	assert_int_equal(engine_open_encode(&e->out, &m), 0);
	post(e);
}

/* The answer's text until it ends, at most max tokens; ids of it as well. */
static size_t say_guided(struct engine *e, uint32_t epoch, const struct sampling *sampling, size_t max, char *text, int32_t *said, bool *end)
{
	size_t n = 0;

	post_guided(e, epoch, sampling);
	expect(e, FRAME_READY);
	text[0] = 0;
	for (*end = false; n < max; n++) {
		struct token *t;

		post_ids(e, (struct ids){ .session = 1, .epoch = epoch, .sequence = n, .position = n ? 15 + (uint32_t)n : 0, .count = n ? 1 : 16, .want = 1 },
			 n ? &said[n - 1] : prompt());
		t = &tokens(e)->tokens[0];
		*end = t->end;
		if (t->end)
			break;
		said[n] = t->id;
		strncat(text, (const char *)t->piece, t->piece_length);
	}
	return n;
}

static void a_grammar_decides_what_comes(void **state)
{
	struct sampling s = guided("root ::= \"{\" [a-c]{3,5} \"}\" (\"x\" | \"yz\")");
	struct engine *e = *state;
	int32_t said[32];
	char text[64];
	bool end;
	size_t n;

	for (uint32_t epoch = 2; epoch < 12; epoch++) {
		s.seed = epoch;
		say_guided(e, epoch, &s, 32, text, said, &end);
		assert_true(end);
		n = strspn(text + 1, "abc");
		assert_true(text[0] == '{' && n >= 3 && n <= 5 && text[1 + n] == '}');
		assert_true(!strcmp(text + 2 + n, "x") || !strcmp(text + 2 + n, "yz"));
	}
}

static void a_grammar_is_followed_anew_after_a_replay(void **state)
{
	struct sampling s = guided("root ::= ([a-f]{2} [0-9]{3}){6}");
	int32_t said[32], ids[32];
	struct engine *e = *state;
	char text[64];
	bool end;

	s.frequency_penalty = 0.5f;
	assert_int_equal(say_guided(e, 2, &s, 12, text, said, &end), 12);
	memcpy(ids, prompt(), 16 * sizeof *ids);
	memcpy(ids + 16, said, 11 * sizeof *ids);
	post_guided(e, 3, &s);                  /* home sends everything again, as when a stage was lost */
	expect(e, FRAME_READY);
	post_ids(e, (struct ids){ .session = 1, .epoch = 3, .count = 27, .want = 1 }, ids);
	assert_int_equal(tokens(e)->tokens[0].id, said[11]);
	/* back by four tokens, and on another way from there */
	post_ids(e, (struct ids){ .session = 1, .epoch = 3, .sequence = 1, .position = 22, .count = 1, .want = 1 }, ids + 22);
	assert_int_equal(tokens(e)->tokens[0].id, said[7]);
	/* an answer that the grammar does not know: a fault of this session, not the engine's end */
	ids[20] = ids[16];
	post_guided(e, 4, &s);
	expect(e, FRAME_READY);
	post_ids(e, (struct ids){ .session = 1, .epoch = 4, .count = 27, .want = 1 }, ids);
	expect_fault(e, ERR_MALFORMED);
	assert_int_equal(say_guided(e, 5, &s, 12, text, ids, &end), 12);
	assert_memory_equal(ids, said, 12 * sizeof *ids);
}

static void a_grammar_that_cannot_be_used_is_a_fault_of_its_session(void **state)
{
	static const char *const bad[] = { "root ::= \"a", "other ::= \"a\"", "root ::= root \"a\"", "root ::= nowhere" };
	struct sampling s;
	struct engine *e = *state;
	struct fault_message fault;

	for (uint32_t i = 0; i < 4; i++) {
		s = guided(bad[i]);
		post_guided(e, 2 + i, &s);
		fault = expect_fault(e, ERR_MALFORMED);
		assert_non_null(strstr(fault.detail, "grammar"));
		assert_null(strstr(fault.detail, bad[i]));
	}
	open_stage(e, 1, 9, 0, (struct layer_range){ 0, 3 }, NULL);
}

static void the_likeliest_tokens_come_along_when_asked_for(void **state)
{
	const struct sampling s = { .top_p = 1, .repeat_penalty = 1, .ignore_end = true, .top = 5 };
	struct engine *e = *state;
	struct token *t;

	open_stage(e, 1, 2, 0, (struct layer_range){ 0, 3 }, &s);
	post_ids(e, (struct ids){ .session = 1, .epoch = 2, .count = 16, .want = 1 }, prompt());
	t = &tokens(e)->tokens[0];
	assert_int_equal(t->n_top, 5);
	assert_int_equal(t->top[0].id, t->id);           /* greedy */
	assert_true(t->top[0].logprob == t->logprob);
	for (size_t i = 1; i < 5; i++)
		assert_true(t->top[i].logprob <= t->top[i - 1].logprob);
	assert_int_equal(t->top[0].piece_length, t->piece_length);
}

static void a_bias_for_a_token_that_is_none_is_refused(void **state)
{
	uint8_t bias[LOGIT_BIAS_BYTES];
	struct sampling s = { .top_p = 1, .repeat_penalty = 1, .ignore_end = true, .n_bias = 1, .bias = bias };
	struct engine *e = *state;

	logit_bias_put(bias, (struct logit_bias){ 7, 100 });
	open_stage(e, 1, 2, 0, (struct layer_range){ 0, 3 }, &s);
	post_ids(e, (struct ids){ .session = 1, .epoch = 2, .count = 16, .want = 1 }, prompt());
	assert_int_equal(tokens(e)->tokens[0].id, 7);
	logit_bias_put(bias, (struct logit_bias){ TINY_VOCAB, 1 });
	post_open(e, 1, 3, 0, (struct layer_range){ 0, 3 }, &s);
	assert_non_null(strstr(expect_fault(e, ERR_MALFORMED).detail, "logit_bias"));
}

static void post_render(struct engine *e, bool chat, const char *text)
{
	struct render_message message = { .role = "user", .role_length = 4, .content = text, .content_length = strlen(text) };
	struct engine_render m = { .request = 4, .chat = chat, .add_special = true, .n_messages = 1, .messages = &message };

	assert_int_equal(engine_render_encode(&e->out, &m), 0);
	post(e);
}

static void text_becomes_tokens_with_and_without_the_chat_template(void **state)
{
	struct engine_rendered plain, chat;
	struct engine *e = *state;
	size_t n;

	post_render(e, false, "ab");
	expect(e, FRAME_ENGINE_RENDERED);
	assert_int_equal(engine_rendered_decode(&e->frame, &plain), 0);
	assert_int_equal(plain.request, 4);
	n = plain.n_tokens;
	assert_true(n >= 3);
	assert_int_equal(get_u32(plain.tokens), 1);                              /* beginning of text */
	assert_int_equal(get_u32(plain.tokens + 4 * (n - 1)), 3 + 'b');          /* bytes, in this vocabulary */
	post_render(e, true, "ab");
	expect(e, FRAME_ENGINE_RENDERED);
	assert_int_equal(engine_rendered_decode(&e->frame, &chat), 0);
	assert_true(chat.n_tokens > n + 30);                                     /* <|im_start|>user ... assistant */
	post_render(e, false, "");
	expect(e, FRAME_ENGINE_RENDERED);
}

static float embedding_of(struct engine *e, const char *text, float out[TINY_EMBD])
{
	struct render_message message = { .role = "", .content = text, .content_length = strlen(text) };
	struct engine_render m = { .request = 8, .add_special = true, .embed = true, .n_messages = 1, .messages = &message };
	struct engine_rendered got;
	float square = 0;

	assert_int_equal(engine_render_encode(&e->out, &m), 0);
	post(e);
	expect(e, FRAME_ENGINE_RENDERED);
	assert_int_equal(engine_rendered_decode(&e->frame, &got), 0);
	assert_int_equal(got.n_embd, TINY_EMBD);
	for (uint32_t i = 0; i < got.n_embd; i++) {
		uint32_t bits = get_u32(got.embedding + 4 * i);

		memcpy(&out[i], &bits, sizeof bits);
		square += out[i] * out[i];
	}
	return square;
}

static void a_text_is_embedded_and_nobody_beside_it_is_moved(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 3, .seed = 3 };
	const struct layer_range all = { 0, 3 };
	float a[TINY_EMBD], b[TINY_EMBD], again[TINY_EMBD];
	struct engine e;
	int32_t first;

	engine_start(&e, NULL);
	load(&e, &model, &all, 1, 2);
	open_stage(&e, 1, 1, 0, all, NULL);
	post_ids(&e, (struct ids){ .session = 1, .epoch = 1, .count = 16, .want = 1 }, prompt());
	first = tokens(&e)->tokens[0].id;
	assert_true(fabsf(embedding_of(&e, "a text that is longer than thirty-two tokens, because it has that many bytes and more", a) - 1) < 1e-4f);
	assert_true(fabsf(embedding_of(&e, "another", b) - 1) < 1e-4f);
	embedding_of(&e, "a text that is longer than thirty-two tokens, because it has that many bytes and more", again);
	assert_memory_equal(a, again, sizeof a);
	assert_memory_not_equal(a, b, sizeof a);
	post_ids(&e, (struct ids){ .session = 1, .epoch = 1, .sequence = 1, .count = 16, .want = 1 }, prompt());
	assert_int_equal(tokens(&e)->tokens[0].id, first);
	open_stage(&e, 2, 1, 0, all, NULL);              /* no place left */
	post_render(&e, false, "x");
	expect(&e, FRAME_ENGINE_RENDERED);
	struct render_message message = { .role = "", .content = "x", .content_length = 1 };
	struct engine_render m = { .request = 8, .embed = true, .n_messages = 1, .messages = &message };
	assert_int_equal(engine_render_encode(&e.out, &m), 0);
	post(&e);
	expect_engine_fault(&e, ERR_BUSY);
	assert_int_equal(engine_stop(&e), 0);
}

static void tokens_are_spelled(void **state)
{
	const uint8_t ids[] = { 3 + 'a', 0, 0, 0, 1, 0, 0, 0, 3 + 'b', 0, 0, 0 }, wrong[] = { 0, 2, 0, 0 };
	struct engine_render m = { .request = 8, .pieces = true, .n_tokens = 3, .tokens = ids };
	struct engine_rendered got;
	struct engine *e = *state;
	size_t at = 0, n;

	assert_int_equal(engine_render_encode(&e->out, &m), 0);
	post(e);
	expect(e, FRAME_ENGINE_RENDERED);
	assert_int_equal(engine_rendered_decode(&e->frame, &got), 0);
	assert_int_equal(got.n_tokens, 3);
	assert_int_equal(*rendered_piece(&got, &at, &n), 'a');
	assert_int_equal(n, 1);
	rendered_piece(&got, &at, &n);                   /* control tokens have a text here */
	assert_true(n > 1);
	assert_int_equal(*rendered_piece(&got, &at, &n), 'b');
	assert_int_equal(at, got.pieces_length);
	m.tokens = wrong;                                /* 512 of 288 */
	m.n_tokens = 1;
	assert_int_equal(engine_render_encode(&e->out, &m), 0);
	post(e);
	expect_engine_fault(e, ERR_MALFORMED);
}

/* State that sums up all positions cannot go back to one of them. */
static void a_recurrent_model_asks_for_a_replay_from_the_start(void **state)
{
	const struct tiny_model model = { .architecture = "mamba", .n_layer = 2, .type = GGML_TYPE_F32 };
	const struct layer_range all = { 0, 2 };
	struct engine_loaded loaded;
	struct engine e;
	int32_t id;

	engine_start(&e, NULL);
	loaded = load(&e, &model, &all, 1, 1);
	assert_int_equal(loaded.truncate, TRUNCATE_NONE);
	open_stage(&e, 1, 1, 0, all, NULL);
	post_ids(&e, at(&e, 0, 20, 1), prompt());
	id = tokens(&e)->tokens[0].id;
	post_ids(&e, at(&e, 20, 1, 1), &id);
	tokens(&e);
	post_ids(&e, at(&e, 15, 5, 1), prompt() + 15);
	assert_int_equal(expect_fault(&e, ERR_NEED_REPLAY).position, 0);
	post_ids(&e, at(&e, 0, 20, 1), prompt());
	assert_int_equal(tokens(&e)->tokens[0].id, id);
	assert_int_equal(engine_stop(&e), 0);
}

static void garbage_ends_the_engine_cleanly(void **state)
{
	struct engine e;

	engine_start(&e, NULL);
	assert_int_equal(buf_append(&e.out, "GET / HTTP/1.1\r\n\r\n", 18), 0);
	post(&e);
	assert_int_equal(wire_next(&e.wire, &e.frame), ERR_CANCELLED);
	assert_int_equal(engine_stop(&e), 1);
}

/* --- loading --------------------------------------------------------------------------------------- */

/* Loads that are refused, one after the other, in one engine: then one that is not. */
static void loads_that_cannot_be_are_refused_with_a_reason(void **state)
{
	const struct tiny_model gemma = { .architecture = "gemma3", .n_layer = 12, .type = GGML_TYPE_F32, .tied = true, .window = 32 };
	const struct tiny_model unknown = { .architecture = "arctic-fox", .n_layer = 3, .type = GGML_TYPE_F32 };
	const struct layer_range all = { 0, 3 }, inner = { 1, 2 }, bad_cut = { 0, 5 };
	struct model_extent extent;
	struct engine_load m;
	struct engine e;
	int fd;

	engine_start(&e, NULL);
	fd = tiny_model_open(&small);
	m = load_of(&all, 1, 4, 1, fd, &extent);                 /* another layer count than the file's */
	post_load(&e, fd, &m);
	expect_engine_fault(&e, ERR_MODEL);

	fd = tiny_model_open(&small);
	m = load_of(&all, 1, 3, 1, fd, &extent);
	m.n_extents = 0;                                         /* nothing is verified */
	post_load(&e, fd, &m);
	expect_engine_fault(&e, ERR_ARRIVING);

	fd = tiny_model_open(&small);
	m = load_of(&all, 1, 3, 1, fd, &extent);
	extent.length -= 5000;                                   /* the last tensors are not */
	post_load(&e, fd, &m);
	assert_non_null(strstr(expect_engine_fault(&e, ERR_ARRIVING).detail, "not verified"));

	fd = tiny_model_open(&small);
	m = load_of(&all, 1, 3, 1, fd, &extent);
	m.memory_max = 100000;
	post_load(&e, fd, &m);
	assert_non_null(strstr(expect_engine_fault(&e, ERR_BUDGET).detail, "MiB"));

	fd = tiny_model_open(&gemma);
	m = load_of(&bad_cut, 1, 12, 1, fd, &extent);
	post_load(&e, fd, &m);
	assert_non_null(strstr(expect_engine_fault(&e, ERR_UNSUPPORTED).detail, "kinds of its layers"));

	fd = tiny_model_open(&unknown);
	m = load_of(&inner, 1, 3, 1, fd, &extent);
	post_load(&e, fd, &m);
	assert_non_null(strstr(expect_engine_fault(&e, ERR_UNSUPPORTED).detail, "whole on one node"));

	fd = tiny_model_open(&unknown);                          /* nor does libllama know it */
	m = load_of(&all, 1, 3, 1, fd, &extent);
	post_load(&e, fd, &m);
	expect_engine_fault(&e, ERR_MODEL);

	fd = tiny_file("not a model", 11);
	m = load_of(&all, 1, 3, 1, fd, &extent);
	post_load(&e, fd, &m);
	expect_engine_fault(&e, ERR_MODEL);

	post_open(&e, 1, 1, 0, all, NULL);
	expect_fault(&e, ERR_UNKNOWN);
	post_render(&e, false, "x");
	expect_engine_fault(&e, ERR_UNSUPPORTED);

	load(&e, &small, &inner, 1, 1);
	post_render(&e, false, "x");                             /* inner layers have no vocabulary */
	expect_engine_fault(&e, ERR_UNSUPPORTED);
	fd = tiny_model_open(&small);
	m = load_of(&all, 1, 3, 1, fd, &extent);                 /* one model an engine */
	post_load(&e, fd, &m);
	expect_engine_fault(&e, ERR_BUSY);
	assert_int_equal(engine_stop(&e), 0);
}

/* 60 layers with 64 sessions are more than the process's limit, which is found out before anything is allocated; 15 layers with 16
 * sessions fit under the same limit. */
static void the_process_limit_refuses_what_a_shard_of_it_allows(void **state)
{
	const struct tiny_model large = { .architecture = "llama", .n_layer = 60, .type = GGML_TYPE_F32 };
	const struct layer_range all = { 0, 60 }, quarter = { 15, 30 };
	struct engine_loaded loaded;
	struct model_extent extent;
	struct engine_load m;
	struct engine e;
	int fd;

	engine_start(&e, "160M");
	fd = tiny_model_open(&large);
	m = load_of(&all, 1, 60, 64, fd, &extent);               /* 64 sessions: 60 layers of KV are more than the limit */
	post_load(&e, fd, &m);
	assert_non_null(strstr(expect_engine_fault(&e, ERR_BUDGET).detail, "limited to 160.0 MiB"));
	fd = tiny_model_open(&large);
	m = load_of(&quarter, 1, 60, 16, fd, &extent);
	post_load(&e, fd, &m);
	expect(&e, FRAME_ENGINE_LOADED);
	assert_int_equal(engine_loaded_decode(&e.frame, &loaded), 0);
	assert_true(loaded.kv_bytes > 1 << 20);
	assert_int_equal(engine_stop(&e), 0);
}

static void a_split_model_loads_from_its_parts(void **state)
{
	struct tiny_model part = small;
	const struct layer_range all = { 0, 3 };
	struct model_extent extents[2];
	struct engine_load m;
	struct engine whole, split;
	int32_t id;
	int fds[2];

	engine_start(&whole, NULL);
	load(&whole, &small, &all, 1, 1);
	open_stage(&whole, 1, 1, 0, all, NULL);
	post_ids(&whole, at(&whole, 0, 10, 1), prompt());
	id = tokens(&whole)->tokens[0].id;
	assert_int_equal(engine_stop(&whole), 0);

	part.parts = 2;
	for (part.part = 0; part.part < 2; part.part++) {
		fds[part.part] = tiny_model_open(&part);
		m = load_of(&all, 1, 3, 1, fds[part.part], &extents[part.part]);
		extents[part.part].file = part.part;
	}
	m.n_files = 2;
	m.n_extents = 2;
	m.extents = extents;
	engine_start(&split, NULL);
	assert_int_equal(engine_load_encode(&split.out, &m), 0);
	assert_int_equal(wire_send(&split.wire, &split.out, fds, 2), 0);
	close(fds[0]);
	close(fds[1]);
	expect(&split, FRAME_ENGINE_LOADED);
	open_stage(&split, 1, 1, 0, all, NULL);
	post_ids(&split, at(&split, 0, 10, 1), prompt());
	assert_int_equal(tokens(&split)->tokens[0].id, id);
	assert_int_equal(engine_stop(&split), 0);
}

/* --- inspecting ------------------------------------------------------------------------------------ */

static void post_inspect(struct engine *e, int fd)
{
	struct engine_inspect m = { .request = 3, .n_files = 1, .names = { "tiny.gguf" } };

	assert_int_equal(engine_inspect_encode(&e->out, &m), 0);
	assert_int_equal(wire_send(&e->wire, &e->out, &fd, 1), 0);
	close(fd);
}

static void inspection_says_where_every_layer_lies(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 6, .type = GGML_TYPE_Q8_0, .chat = true };
	const struct layer_range one = { 2, 3 }, first = { 0, 1 }, last = { 5, 6 }, all = { 0, 6 };
	struct engine_inspected m;
	struct manifest_body *b = &m.manifest;
	struct engine e;

	engine_start(&e, NULL);
	post_inspect(&e, tiny_model_open(&model));
	expect(&e, FRAME_ENGINE_INSPECTED);
	assert_int_equal(engine_inspected_decode(&e.frame, &m), 0);
	assert_int_equal(m.request, 3);
	assert_string_equal(b->name, "tiny-test-model");         /* "tiny test/model" is not a name */
	assert_string_equal(b->architecture, "llama");
	assert_string_equal(b->licence, "mit");
	assert_string_equal(b->quantisation, "q8_0");            /* the file does not say */
	assert_int_equal(b->n_layer, 6);
	assert_int_equal(b->n_embd, TINY_EMBD);
	assert_int_equal(b->row_bytes, TINY_EMBD * 4);
	assert_int_equal(b->n_vocab, TINY_VOCAB);
	assert_int_equal(b->context, TINY_CONTEXT);
	assert_int_equal(b->kv_bytes_token_layer, 2 * 16 * 2 * 2);       /* two heads of 16, K and V, float16 */
	assert_true(b->compute_bytes > 10000);
	assert_true(b->parameters > 200000);
	assert_true(b->splittable);
	assert_true(b->chat_template);
	assert_int_equal(b->n_files, 1);
	assert_string_equal(b->files[0].name, "tiny.gguf");
	/* a layer is the same everywhere; ends cost more; everything is nearly the file */
	assert_true(manifest_bytes(b, &first, 1) > manifest_bytes(b, &one, 1));
	assert_true(manifest_bytes(b, &last, 1) > manifest_bytes(b, &one, 1));
	assert_true(manifest_bytes(b, &all, 1) <= b->files[0].size && b->files[0].size - manifest_bytes(b, &all, 1) < 1024);
	manifest_free(b);

	post_inspect(&e, tiny_file("GGUF is what it begins with", 27));
	expect_engine_fault(&e, ERR_UNSUPPORTED);
	post_inspect(&e, tiny_file("", 0));
	expect_engine_fault(&e, ERR_MODEL);
	assert_int_equal(engine_stop(&e), 0);
}

static void inspection_says_what_must_not_be_cut(void **state)
{
	const struct tiny_model gemma = { .architecture = "gemma3", .n_layer = 18, .type = GGML_TYPE_F32, .tied = true, .window = 32 };
	struct engine_inspected m;
	struct engine e;

	engine_start(&e, NULL);
	post_inspect(&e, tiny_model_open(&gemma));
	expect(&e, FRAME_ENGINE_INSPECTED);
	assert_int_equal(engine_inspected_decode(&e.frame, &m), 0);
	assert_true(m.manifest.splittable);
	assert_false(m.manifest.chat_template);
	for (uint32_t c = 0; c <= 18; c++)
		assert_int_equal(manifest_may_cut(&m.manifest, c), c % 6 == 0);
	/* tied: the last shard reads the embedding as its output matrix */
	assert_true(manifest_group_in(&m.manifest, GROUP_OUTPUT, (struct layer_range[]){ { 12, 18 } }, 1));
	assert_true(manifest_bytes(&m.manifest, (struct layer_range[]){ { 12, 18 } }, 1) >
		    manifest_bytes(&m.manifest, (struct layer_range[]){ { 6, 12 } }, 1) + TINY_VOCAB * TINY_EMBD * 4 - 1);
	manifest_free(&m.manifest);
	assert_int_equal(engine_stop(&e), 0);
}

/* One engine, many broken files: it answers each, and then still takes a good one. */
static void flipped_bits_in_a_header_never_end_the_engine(void **state)
{
	const struct tiny_model model = { .architecture = "llama", .n_layer = 1, .type = GGML_TYPE_Q8_0, .chat = true };
	unsigned refused = 0, random = 12345;
	struct buf bytes;
	struct engine e;

	buf_init(&bytes, 16u << 20);
	tiny_model_write(&model, &bytes);
	engine_start(&e, NULL);
	for (int i = 0; i < 150; i++) {
		unsigned bit;

		random = random * 1664525u + 1013904223u;
		bit = (random >> 8) % (7000 * 8);
		bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		post_inspect(&e, tiny_file(bytes.data, bytes.length));
		bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		do
			assert_int_equal(wire_next(&e.wire, &e.frame), 0);
		while (e.frame.type == FRAME_ENGINE_PROGRESS);
		refused += e.frame.type == FRAME_ENGINE_FAULT;
	}
	assert_true(refused > 30 && refused < 150);
	post_inspect(&e, tiny_file(bytes.data, bytes.length));
	expect(&e, FRAME_ENGINE_INSPECTED);
	assert_int_equal(engine_stop(&e), 0);
	buf_release(&bytes);
}

/* What inspection says a shard reads is enough to load it: everything else of the file is a hole. */
static void the_extents_of_a_manifest_are_enough_for_a_shard(void **state)
{
	static const struct layer_range ranges[] = { { 0, 1 }, { 1, 3 }, { 3, 4 } };
	const struct tiny_model model = { .architecture = "qwen3", .n_layer = 4, .type = GGML_TYPE_Q8_0, .tied = true };
	struct engine_inspected inspected;
	struct engine e;

	engine_start(&e, NULL);
	post_inspect(&e, tiny_model_open(&model));
	expect(&e, FRAME_ENGINE_INSPECTED);
	assert_int_equal(engine_inspected_decode(&e.frame, &inspected), 0);
	assert_int_equal(engine_stop(&e), 0);
	for (int i = 0; i < 3; i++) {
		int fd = tiny_model_open(&model);
		struct model_extent extent, extents[64];
		struct engine_load m = load_of(&ranges[i], 1, 4, 1, fd, &extent);

		m.n_extents = 0;
		m.extents = extents;
		for (size_t k = 0; k < inspected.manifest.n_extents; k++)
			if (manifest_group_in(&inspected.manifest, inspected.manifest.extents[k].group, &ranges[i], 1))
				extents[m.n_extents++] = inspected.manifest.extents[k];
		engine_start(&e, NULL);
		post_load(&e, fd, &m);
		expect(&e, FRAME_ENGINE_LOADED);
		assert_int_equal(engine_stop(&e), 0);
	}
	manifest_free(&inspected.manifest);
}

/* --- the program ----------------------------------------------------------------------------------- */

static int run(const char *argument, const char *value, char *out, size_t size)
{
	int ends[2], status;
	size_t n = 0;
	pid_t pid;

	assert_int_equal(pipe(ends), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(ends[1], 1);
		execl(program(), "essaim-engine", argument, value, NULL);
		_exit(127);
	}
	close(ends[1]);
	for (ssize_t r = 1; r > 0 && n < size - 1; n += (size_t)(r > 0 ? r : 0))
		r = read(ends[0], out + n, size - 1 - n);
	out[n] = 0;
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void the_sandbox_denies_files_sockets_and_programs(void **state)
{
	char out[4096];
	int status = run("--check-sandbox", NULL, out, sizeof out);

	if (status)
		print_error("%s", out);
	assert_int_equal(status, 0);
	assert_non_null(strstr(out, "denied: open a file"));
	assert_non_null(strstr(out, "denied: make an internet socket"));
	assert_non_null(strstr(out, "denied: execute a program"));
	assert_non_null(strstr(out, "denied: start a process"));
	assert_non_null(strstr(out, "allowed: start a thread"));
	assert_null(strstr(out, "ALLOWED"));
}

static void hello_says_version_quirks_and_that_the_sandbox_stands(void **state)
{
	struct engine_hello hello;
	struct engine e;
	char text[64];

	engine_start(&e, NULL);
	assert_int_equal(engine_hello_decode(&e.frame, &hello), 0);
	assert_true(hello.sandboxed);
	assert_int_equal(sscanf(hello.engine, "llama %*s q%8[0-9a-f] cpu", text), 1);
	assert_int_equal(strlen(text), 8);
	assert_int_equal(engine_stop(&e), 0);
}

/* Read before main() by the libraries; so it is there at a process's start, or never. */
static void what_its_libraries_read_when_they_are_loaded_is_set(void **state)
{
	char path[64], entry[4096];
	size_t n = 0, found = 0;
	struct engine e;
	FILE *file;

	unsetenv("OMP_PROC_BIND");
	for (size_t i = 0; i < ENGINE_ENVIRONMENT_N; i++)
		unsetenv(engine_environment[i].name);
	engine_start(&e, NULL);
	snprintf(path, sizeof path, "/proc/%d/environ", (int)e.pid);
	file = fopen(path, "r");
	if (!file && errno == EACCES) {                /* it may be looked into by nobody but root: no core dumps */
		engine_stop(&e);
		skip();
	}
	assert_non_null(file);
	for (int c; (c = fgetc(file)) != EOF;) {
		entry[n] = (char)c;
		n += n < sizeof entry - 1;
		if (c)
			continue;
		for (size_t i = 0; i < ENGINE_ENVIRONMENT_N; i++) {
			size_t length = strlen(engine_environment[i].name);

			found += !strncmp(entry, engine_environment[i].name, length) && entry[length] == '=' &&
				 !strcmp(entry + length + 1, engine_environment[i].value);
		}
		n = 0;
	}
	fclose(file);
	assert_int_equal(found, ENGINE_ENVIRONMENT_N);
	snprintf(path, sizeof path, "/proc/%d/comm", (int)e.pid);
	file = fopen(path, "r");
	assert_non_null(file);
	assert_non_null(fgets(entry, sizeof entry, file));
	assert_string_equal(entry, "essaim-engine\n");
	fclose(file);
	assert_int_equal(engine_stop(&e), 0);
}

/* The real model, when it is there: the text that other software made of it. */
static void the_stories_model_tells_its_story(void **state)
{
	static const char story[] = ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball";
	const char *shared = getenv("ESSAIM_SHARED");
	const struct layer_range all = { 0, 5 };
	struct model_extent extent;
	struct engine_rendered rendered;
	int32_t ids[64], id;
	char path[400], said[400] = "";
	struct engine_load m;
	struct engine e;
	size_t n;
	int fd;

	snprintf(path, sizeof path, "%s/models/stories260K-f32.gguf", shared ? shared : "");
	fd = shared ? open(path, O_RDONLY) : -1;
	if (fd < 0) {
		print_message("$ESSAIM_SHARED/models/stories260K-f32.gguf is not there\n");
		skip();
		return;
	}
	engine_start(&e, NULL);
	m = load_of(&all, 1, 5, 1, fd, &extent);
	post_load(&e, fd, &m);
	expect(&e, FRAME_ENGINE_LOADED);
	post_render(&e, false, "Once upon a time");
	expect(&e, FRAME_ENGINE_RENDERED);
	assert_int_equal(engine_rendered_decode(&e.frame, &rendered), 0);
	n = rendered.n_tokens;
	assert_true(n > 1 && n < 32);
	for (size_t i = 0; i < n; i++)
		ids[i] = (int32_t)get_u32(rendered.tokens + 4 * i);
	open_stage(&e, 1, 1, 0, all, NULL);
	for (uint32_t i = 0; strlen(said) < strlen(story); i++) {
		struct tokens_message *t;

		post_ids(&e, (struct ids){ .session = 1, .epoch = 1, .sequence = i, .position = i ? (uint32_t)n + i - 1 : 0,
					   .count = i ? 1 : (uint32_t)n, .want = 1 }, i ? &id : ids);
		t = tokens(&e);
		id = t->tokens[0].id;
		assert_true(t->tokens[0].piece_length > 0 && i < 100);
		strncat(said, (const char *)t->tokens[0].piece, t->tokens[0].piece_length);
	}
	assert_memory_equal(said, story, strlen(story));
	assert_int_equal(engine_stop(&e), 0);
}

int main(void)
{
#define SESSION_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hello_says_version_quirks_and_that_the_sandbox_stands),
		cmocka_unit_test(what_its_libraries_read_when_they_are_loaded_is_set),
		cmocka_unit_test(the_sandbox_denies_files_sockets_and_programs),
		cmocka_unit_test(a_ring_of_llama_says_what_the_whole_model_says),
		cmocka_unit_test(a_ring_of_qwen2_says_what_the_whole_model_says),
		cmocka_unit_test(a_ring_of_qwen3_says_what_the_whole_model_says),
		cmocka_unit_test(a_ring_of_gemma3_says_what_the_whole_model_says),
		cmocka_unit_test(a_ring_of_gemma_says_what_the_whole_model_says),
		cmocka_unit_test(a_session_may_end_before_its_shard_does),
		cmocka_unit_test(sessions_do_not_move_each_other),
		cmocka_unit_test(frames_with_several_blocks_are_answered_one_by_one),
		SESSION_TEST(writing_again_from_a_position_truncates),
		SESSION_TEST(verifying_five_rows_says_what_single_steps_say),
		SESSION_TEST(prefill_is_acknowledged_without_tokens),
		SESSION_TEST(a_hole_in_the_positions_asks_for_a_replay),
		SESSION_TEST(duplicates_are_dropped_and_gaps_are_faults),
		SESSION_TEST(other_sessions_epochs_and_stages_are_faults),
		SESSION_TEST(bad_tokens_rows_and_shapes_are_faults),
		SESSION_TEST(positions_past_the_context_are_faults),
		SESSION_TEST(a_session_that_is_closed_makes_room),
		SESSION_TEST(sampling_is_the_same_after_a_replay),
		cmocka_unit_test(a_text_is_embedded_and_nobody_beside_it_is_moved),
		SESSION_TEST(tokens_are_spelled),
		SESSION_TEST(a_grammar_decides_what_comes),
		SESSION_TEST(a_grammar_is_followed_anew_after_a_replay),
		SESSION_TEST(a_grammar_that_cannot_be_used_is_a_fault_of_its_session),
		SESSION_TEST(the_likeliest_tokens_come_along_when_asked_for),
		SESSION_TEST(a_bias_for_a_token_that_is_none_is_refused),
		SESSION_TEST(text_becomes_tokens_with_and_without_the_chat_template),
		cmocka_unit_test(a_recurrent_model_asks_for_a_replay_from_the_start),
		cmocka_unit_test(a_fork_says_what_a_session_of_its_own_says),
		cmocka_unit_test(a_recurrent_model_does_not_fork),
		cmocka_unit_test(a_new_epoch_with_a_longer_context_keeps_what_is_held),
		cmocka_unit_test(garbage_ends_the_engine_cleanly),
		cmocka_unit_test(loads_that_cannot_be_are_refused_with_a_reason),
		cmocka_unit_test(the_process_limit_refuses_what_a_shard_of_it_allows),
		cmocka_unit_test(a_split_model_loads_from_its_parts),
		cmocka_unit_test(inspection_says_where_every_layer_lies),
		cmocka_unit_test(inspection_says_what_must_not_be_cut),
		cmocka_unit_test(flipped_bits_in_a_header_never_end_the_engine),
		cmocka_unit_test(the_extents_of_a_manifest_are_enough_for_a_shard),
		cmocka_unit_test(the_stories_model_tells_its_story),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
