/* test_lines.c: who is computed next, without an engine.
 *
 *   shard 0: sequences 0 .. 7        shard 1: sequences 0 .. 7
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "engine/lines.h"
#include "proto/err.h"

#define SEQUENCES 8
#define EMBD 4

struct world {
	struct sessions sessions;
	struct lines lines;
	struct lines_batch batch;
	int64_t now;
};

static int setup(void **state)
{
	static struct world w;

	memset(&w, 0, sizeof w);
	assert_int_equal(sessions_init(&w.sessions, 2, SEQUENCES), 0);
	assert_int_equal(lines_init(&w.lines, &w.sessions, 2, false), 0);
	w.lines.paces[0].joins = w.lines.paces[1].joins = SHARD_ROWS_MAX;
	w.lines.paces[0].unfelt_us = w.lines.paces[1].unfelt_us = LINES_UNFELT_US;
	w.now = 1000000;
	*state = &w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	lines_release(&w->lines);
	sessions_release(&w->sessions);
	return 0;
}

/* Session n sits in sequence n of the shard: they are opened in order. */
static struct session *open_on(struct world *w, size_t shard, uint8_t id, uint32_t layers)
{
	struct engine_open open = { .session = { id }, .epoch = 1, .range = { 0, layers }, .context = 4096, .sampling = { .top_p = 1 } };
	struct session *session;
	bool fresh;

	assert_int_equal(sessions_open(&w->sessions, &open, shard, &session, &fresh), 0);
	assert_true(fresh);
	return session;
}

static void push(struct world *w, struct session *s, uint32_t position, uint32_t count, uint32_t want)
{
	uint8_t ids[CHUNK_ROWS * 4] = { 0 };
	struct rows_block b = { .epoch = 1, .position = position, .count = count, .want = want, .encoding = ENCODING_TOKEN, .rows = ids,
				.rows_length = count * 4 };

	memcpy(b.session, s->id, SESSION_BYTES);
	assert_int_equal(lines_push(&w->lines, s, &b, EMBD, true, w->now), 0);
}

/* What the server does with a batch, without computing. */
static void serve(struct world *w, int64_t took)
{
	lines_took(&w->lines, &w->batch, w->now, w->now + took);
	w->now += took;
	for (size_t i = 0; i < w->batch.n; i++)
		for (uint32_t rows = w->batch.parts[i].rows; rows;) {
			struct waiting *first = lines_first(&w->lines, w->batch.parts[i].session);
			uint32_t n = first->block.count - first->done;

			n = n < rows ? n : rows;
			first->done += n;
			rows -= n;
			if (first->done == first->block.count)
				lines_pop(&w->lines, w->batch.parts[i].session, first->block.want > 0, w->now);
		}
}

static bool next(struct world *w)
{
	return lines_next(&w->lines, w->now, &w->batch);
}

static void nothing_waits_at_first(void **state)
{
	struct world *w = *state;

	assert_false(next(w));
	open_on(w, 0, 1, 2);
	assert_false(next(w));
}

/* For tests: parts of every size, one after the other, and no row is lost or doubled. Where blocks are not cut it changes nothing. */
static void uneven_parts_have_every_size(void **state)
{
	struct world *w = *state;
	struct session *s = open_on(w, 0, 1, 2), *whole = open_on(w, 1, 2, 2);
	uint32_t sizes = 0, rows = 0;

	w->lines.uneven = 1;
	w->lines.paces[1].joins = 1;
	for (uint32_t i = 0; i < 20; i++) {
		push(w, s, 32 * i, 32, 0);
		push(w, whole, 32 * i, 32, 0);
	}
	while (next(w)) {
		assert_int_equal(w->batch.n, 1);
		if (w->batch.parts[0].session == whole) {
			assert_int_equal(w->batch.n_rows, 32);
		} else {
			sizes |= UINT32_C(1) << w->batch.n_rows;
			rows += w->batch.n_rows;
		}
		serve(w, 1000);
	}
	assert_int_equal(rows, 20 * 32);
	assert_int_equal(sizes, 0x1fffe);              /* 1 to 16 */
}

static void rows_of_neighbours_are_one_batch(void **state)
{
	struct world *w = *state;
	struct session *s[4];

	for (uint8_t i = 0; i < 4; i++) {
		s[i] = open_on(w, 0, i, 2);
		if (i != 2)
			push(w, s[i], 10, 1, 1);
	}
	assert_true(next(w));
	assert_true(w->batch.urgent);
	assert_int_equal(w->batch.n, 2);                 /* 0 and 1; 2 has nothing, and libllama wants them in a row */
	assert_ptr_equal(w->batch.parts[1].session, s[1]);
	serve(w, 100);
	assert_true(next(w));
	assert_int_equal(w->batch.n, 1);
	assert_ptr_equal(w->batch.parts[0].session, s[3]);
	serve(w, 100);
	assert_false(next(w));
}

static void a_prompt_between_two_of_them_gives_its_first_row(void **state)
{
	struct world *w = *state;
	struct session *s[4];

	for (uint8_t i = 0; i < 4; i++)
		s[i] = open_on(w, 0, i, 2);
	push(w, s[0], 10, 1, 1);
	push(w, s[1], 0, 32, 0);
	push(w, s[2], 10, 1, 1);
	push(w, s[3], 0, 32, 0);                         /* nobody stands behind this one */
	assert_true(next(w));
	assert_int_equal(w->batch.n, 3);
	assert_int_equal(w->batch.n_rows, 3);
	assert_int_equal(w->batch.parts[1].rows, 1);
	serve(w, 100);
	assert_int_equal(lines_first(&w->lines, s[1])->done, 1);
	assert_int_equal(lines_first(&w->lines, s[3])->done, 0);
}

static void another_exit_or_shard_is_another_batch(void **state)
{
	struct world *w = *state;

	push(w, open_on(w, 0, 1, 2), 0, 1, 1);
	push(w, open_on(w, 0, 2, 3), 0, 1, 1);
	push(w, open_on(w, 1, 3, 3), 0, 1, 1);
	for (size_t i = 0; i < 3; i++) {
		assert_true(next(w));
		assert_int_equal(w->batch.n, 1);
		assert_int_equal(w->batch.shard, i == 2);
		assert_int_equal(w->batch.layers, i ? 3 : 2);
		serve(w, 100);
	}
	assert_false(next(w));
}

static void a_draft_that_is_verified_stays_whole(void **state)
{
	struct world *w = *state;
	struct session *a = open_on(w, 0, 1, 2), *b = open_on(w, 0, 2, 2);

	push(w, a, 10, 5, 5);
	push(w, b, 10, 1, 1);
	assert_true(next(w));
	assert_true(w->batch.urgent);
	assert_int_equal(w->batch.n, 1);
	assert_int_equal(w->batch.n_rows, 5);
	serve(w, 100);
	assert_true(next(w));
	assert_ptr_equal(w->batch.parts[0].session, b);
}

static void prompts_take_turns_and_never_keep_an_urgent_row_waiting(void **state)
{
	struct world *w = *state;
	struct session *said = open_on(w, 0, 0, 2), *prompts[3];
	unsigned served[3] = { 0 };

	for (uint8_t i = 0; i < 3; i++) {
		prompts[i] = open_on(w, 0, 1 + i, 2);
		for (uint32_t k = 0; k < 4; k++)
			push(w, prompts[i], k * 32, 32, 0);
	}
	push(w, said, 0, 1, 1);
	for (uint32_t k = 0; k < 12; k++) {
		assert_true(next(w));
		assert_true(w->batch.urgent);
		serve(w, 100000);
		push(w, said, k + 1, 1, 1);              /* it came back while the prompt's part was computed */
		assert_true(next(w));
		assert_false(w->batch.urgent);
		for (int i = 0; i < 3; i++)
			served[i] += w->batch.parts[0].session == prompts[i];
		serve(w, 150000);
	}
	for (int i = 0; i < 3; i++)
		assert_int_equal(served[i], 4);
}

/* A row takes 100 ms and so does each row of a prompt: two are more than 150 ms. Then a row of a prompt takes 3 ms. */
static void a_prompts_part_is_as_long_as_urgent_rows_allow(void **state)
{
	struct world *w = *state;
	struct session *said = open_on(w, 0, 0, 2), *prompt = open_on(w, 0, 1, 2);
	uint32_t rows = 0;

	for (uint32_t k = 0; k < 128; k++)
		push(w, prompt, k * 32, 32, 0);
	assert_true(next(w));
	assert_int_equal(w->batch.n_rows, SHARD_ROWS_MAX);       /* nobody else is here: two blocks at once */
	serve(w, SHARD_ROWS_MAX * 100000);
	for (uint32_t k = 0; k < 40; k++) {
		bool slow = k < 5;

		push(w, said, k, 1, 1);
		assert_true(next(w));
		assert_true(w->batch.urgent);
		serve(w, 100000);
		assert_true(next(w));
		rows = w->batch.n_rows;
		if (slow)
			assert_int_equal(rows, LINES_PART_MIN);
		serve(w, rows * (slow ? 100000 : 3000));
	}
	assert_true(rows >= 32 && rows * 3000 <= 150000);
	w->now += 2 * LINES_URGENT_US;                           /* nobody is answered any more */
	assert_true(next(w));
	assert_true(w->batch.n_rows >= CHUNK_ROWS);
}

/* An urgent row takes 104 ms; a prompt's take 50 ms in fours: 12 rows are 150 ms, 16 would be 200. */
static void parts_between_two_measured_sizes_use_what_is_allowed(void **state)
{
	struct world *w = *state;
	struct session *said = open_on(w, 0, 0, 2), *prompt = open_on(w, 0, 1, 2);
	unsigned twelve = 0, over = 0;

	for (uint32_t k = 0; k < 128; k++)
		push(w, prompt, k * 32, 32, 0);
	for (uint32_t k = 0; k < 200; k++) {
		push(w, said, k, 1, 1);
		assert_true(next(w));
		assert_true(w->batch.urgent);
		serve(w, 104000);
		assert_true(next(w));
		if (k >= 100) {
			twelve += w->batch.n_rows == 12;
			over += w->batch.n_rows > 12;
		}
		serve(w, (w->batch.n_rows + 3) / 4 * 50000);
	}
	assert_true(twelve > 80);
	assert_true(over < 5);                           /* tried now and then: it may have become faster */
}

/* An urgent row takes 1 ms and so does each row of a prompt: a dozen of them between two words are more than three times the usual, and nobody
 * can tell. */
static void what_nobody_feels_is_allowed(void **state)
{
	struct world *w = *state;
	struct session *said = open_on(w, 0, 0, 2), *prompt = open_on(w, 0, 1, 2);
	unsigned many = 0;

	for (uint32_t k = 0; k < 128; k++)
		push(w, prompt, k * 32, 32, 0);
	for (uint32_t k = 0; k < 100; k++) {
		push(w, said, k, 1, 1);
		assert_true(next(w));
		serve(w, 1000);
		assert_true(next(w));
		assert_true(w->batch.n_rows <= 32);
		many += w->batch.n_rows >= 16 && w->batch.n_rows <= 20;
		serve(w, w->batch.n_rows * 1000);
	}
	assert_true(many > 80);
}

static void blocks_are_joined_only_where_they_follow_each_other(void **state)
{
	struct world *w = *state;
	struct session *s = open_on(w, 0, 1, 2);

	push(w, s, 0, 20, 1);
	push(w, s, 20, 12, 0);                           /* the one before is sampled first */
	push(w, s, 0, 20, 0);                            /* from the start again */
	push(w, s, 20, 12, 0);
	push(w, s, 32, 5, 1);
	for (size_t i = 0; i < 3; i++) {
		static const uint32_t rows[] = { 20, 12, 37 };

		assert_true(next(w));
		assert_int_equal(w->batch.n_rows, rows[i]);
		serve(w, 100);
	}
	assert_false(next(w));
}

static void where_bits_follow_the_shape_blocks_stay_whole(void **state)
{
	struct world *w = *state;
	struct session *s[5];

	w->lines.paces[0].joins = 3;
	for (uint8_t i = 0; i < 5; i++)
		s[i] = open_on(w, 0, i, 2);
	for (uint8_t i = 0; i < 4; i++)
		push(w, s[i], 0, 1, 1);
	push(w, s[4], 0, 32, 0);
	push(w, s[4], 32, 32, 0);
	assert_true(next(w));
	assert_int_equal(w->batch.n_rows, 3);
	serve(w, 100);
	assert_true(next(w));
	assert_int_equal(w->batch.n_rows, 1);
	serve(w, 100);
	for (int i = 0; i < 2; i++) {
		assert_true(next(w));
		assert_int_equal(w->batch.n_rows, 32);
		serve(w, 100);
	}
	w->lines.paces[0].joins = 1;
	push(w, s[0], 1, 1, 1);
	push(w, s[1], 1, 1, 1);
	assert_true(next(w));
	assert_int_equal(w->batch.n_rows, 1);
}

static void it_pays_to_wait_for_those_who_come_back_at_once(void **state)
{
	struct world *w = *state;
	struct session *quick = open_on(w, 0, 0, 2), *slow = open_on(w, 0, 1, 2);

	push(w, quick, 0, 1, 1);
	push(w, slow, 0, 1, 1);
	while (next(w))
		serve(w, 8000);
	for (uint32_t k = 1; k < 8; k++) {
		w->now += 100;
		push(w, quick, k, 1, 1);
		w->now += 500000;
		push(w, slow, k, 1, 1);
		while (next(w))
			serve(w, 8000);
	}
	w->now += 50;
	assert_true(lines_gather(&w->lines, w->now) > w->now);
	assert_true(lines_gather(&w->lines, w->now) <= w->now + 1000);
	assert_int_equal(lines_gather(&w->lines, w->now + 1000), 0);
	lines_clear(&w->lines, quick);                   /* closed */
	assert_int_equal(lines_gather(&w->lines, w->now), 0);
}

static void what_waits_is_counted_and_forgotten(void **state)
{
	struct world *w = *state;
	struct session *s = open_on(w, 0, 1, 2);

	push(w, s, 0, 32, 0);
	push(w, s, 32, 32, 0);
	assert_int_equal(w->lines.blocks, 2);
	assert_true(w->lines.bytes >= 2 * 32 * (4 + EMBD * 4));
	lines_clear(&w->lines, s);
	assert_int_equal(w->lines.blocks, 0);
	assert_int_equal(w->lines.bytes, 0);
	assert_false(next(w));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_waits_at_first, setup, teardown),
		cmocka_unit_test_setup_teardown(uneven_parts_have_every_size, setup, teardown),
		cmocka_unit_test_setup_teardown(rows_of_neighbours_are_one_batch, setup, teardown),
		cmocka_unit_test_setup_teardown(a_prompt_between_two_of_them_gives_its_first_row, setup, teardown),
		cmocka_unit_test_setup_teardown(another_exit_or_shard_is_another_batch, setup, teardown),
		cmocka_unit_test_setup_teardown(a_draft_that_is_verified_stays_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(prompts_take_turns_and_never_keep_an_urgent_row_waiting, setup, teardown),
		cmocka_unit_test_setup_teardown(a_prompts_part_is_as_long_as_urgent_rows_allow, setup, teardown),
		cmocka_unit_test_setup_teardown(parts_between_two_measured_sizes_use_what_is_allowed, setup, teardown),
		cmocka_unit_test_setup_teardown(what_nobody_feels_is_allowed, setup, teardown),
		cmocka_unit_test_setup_teardown(blocks_are_joined_only_where_they_follow_each_other, setup, teardown),
		cmocka_unit_test_setup_teardown(where_bits_follow_the_shape_blocks_stay_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(it_pays_to_wait_for_those_who_come_back_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(what_waits_is_counted_and_forgotten, setup, teardown),
	};

	return cmocka_run_group_tests_name("lines", tests, NULL, NULL);
}
