/* test_session.c: order, epochs and places of an engine's sessions.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "engine/session.h"
#include "proto/err.h"

/* Two shards with two sequences each. */
struct world {
	struct sessions sessions;
	struct session *session;
	bool fresh;
	int err;
	char why[200];
};

static int setup(void **state)
{
	static struct world world;

	memset(&world, 0, sizeof world);
	*state = &world;
	return sessions_init(&world.sessions, 2, 2);
}

static int teardown(void **state)
{
	sessions_release(&((struct world *)*state)->sessions);
	return 0;
}

static int open_session(struct world *w, uint8_t id, uint32_t stage, uint32_t epoch, size_t shard)
{
	struct engine_open m = { .session = { id }, .stage = stage, .epoch = epoch, .context = 100 };

	return sessions_open(&w->sessions, &m, shard, &w->session, &w->fresh);
}

static enum session_verdict take(struct world *w, uint32_t epoch, uint64_t sequence, uint32_t position, uint32_t count)
{
	struct rows_block b = { .epoch = epoch, .sequence = sequence, .position = position, .count = count };

	return session_take(w->session, &b, &w->err, w->why, sizeof w->why);
}

static void blocks_are_taken_strictly_in_order(void **state)
{
	struct world *w = *state;

	assert_int_equal(open_session(w, 1, 0, 5, 0), 0);
	assert_int_equal(take(w, 5, 0, 0, 32), SESSION_COMPUTE);
	assert_int_equal(take(w, 5, 1, 32, 10), SESSION_COMPUTE);
	assert_int_equal(take(w, 5, 2, 20, 1), SESSION_COMPUTE);     /* going back is a matter of the shard's */
}

static void duplicates_are_dropped_without_a_word(void **state)
{
	struct world *w = *state;

	open_session(w, 1, 0, 5, 0);
	assert_int_equal(take(w, 5, 0, 0, 32), SESSION_COMPUTE);
	assert_int_equal(take(w, 5, 0, 0, 32), SESSION_DROP);
	assert_int_equal(w->err, 0);
	assert_int_equal(take(w, 5, 1, 32, 1), SESSION_COMPUTE);
	assert_int_equal(take(w, 5, 0, 0, 32), SESSION_DROP);
}

static void a_gap_is_a_fault_once_and_then_silence(void **state)
{
	struct world *w = *state;

	open_session(w, 1, 0, 5, 0);
	assert_int_equal(take(w, 5, 1, 0, 1), SESSION_FAULT);
	assert_int_equal(w->err, ERR_MALFORMED);
	assert_int_equal(take(w, 5, 2, 1, 1), SESSION_DROP);
	assert_int_equal(take(w, 5, 0, 0, 1), SESSION_DROP);
	assert_int_equal(open_session(w, 1, 0, 6, 0), 0);            /* a new epoch starts over */
	assert_int_equal(take(w, 6, 0, 0, 1), SESSION_COMPUTE);
}

static void frames_of_another_epoch_change_nothing(void **state)
{
	struct world *w = *state;

	open_session(w, 1, 0, 5, 0);
	assert_int_equal(take(w, 4, 0, 0, 1), SESSION_FAULT);
	assert_int_equal(w->err, ERR_STALE);
	assert_int_equal(take(w, 6, 0, 0, 1), SESSION_FAULT);
	assert_int_equal(w->err, ERR_UNKNOWN);
	assert_int_equal(take(w, 5, 0, 0, 1), SESSION_COMPUTE);
}

static void positions_past_the_context_are_refused(void **state)
{
	struct world *w = *state;

	open_session(w, 1, 0, 5, 0);
	assert_int_equal(take(w, 5, 0, 99, 1), SESSION_COMPUTE);
	assert_int_equal(take(w, 5, 1, 99, 2), SESSION_FAULT);
	assert_int_equal(w->err, ERR_CONTEXT);
	assert_int_equal(open_session(w, 2, 0, 5, 0), 0);
	assert_int_equal(take(w, 5, 0, UINT32_MAX, 1), SESSION_FAULT);
	assert_int_equal(w->err, ERR_CONTEXT);
}

static void an_older_epoch_cannot_be_opened(void **state)
{
	struct world *w = *state;

	const uint8_t id[SESSION_BYTES] = { 1 };

	assert_int_equal(open_session(w, 1, 0, 5, 0), 0);
	assert_int_equal(open_session(w, 1, 0, 4, 0), ERR_STALE);
	assert_int_equal(sessions_find(&w->sessions, id, 0)->epoch, 5);
}

static void opening_again_is_harmless(void **state)
{
	struct world *w = *state;
	struct session *first;

	assert_int_equal(open_session(w, 1, 0, 5, 0), 0);
	assert_true(w->fresh);
	first = w->session;
	assert_int_equal(take(w, 5, 0, 0, 1), SESSION_COMPUTE);
	assert_int_equal(open_session(w, 1, 0, 5, 0), 0);
	assert_ptr_equal(w->session, first);
	assert_false(w->fresh);
	assert_int_equal(take(w, 5, 1, 1, 1), SESSION_COMPUTE);      /* the numbering went on */
	assert_int_equal(sessions_open_count(&w->sessions), 1);
	assert_int_equal(open_session(w, 1, 0, 5, 1), ERR_MALFORMED);
}

static void a_new_epoch_keeps_what_the_sequence_holds(void **state)
{
	struct world *w = *state;
	unsigned sequence;

	open_session(w, 1, 0, 5, 1);
	sequence = w->session->sequence;
	assert_int_equal(open_session(w, 1, 0, 6, 1), 0);
	assert_false(w->fresh);
	assert_int_equal(w->session->sequence, sequence);
	assert_int_equal(open_session(w, 1, 0, 7, 0), 0);            /* other layers: nothing of use */
	assert_true(w->fresh);
	assert_int_equal(sessions_open_count(&w->sessions), 1);
}

static void every_sequence_of_a_shard_can_be_taken_and_freed(void **state)
{
	struct world *w = *state;
	struct session *second;

	assert_int_equal(open_session(w, 1, 0, 0, 0), 0);
	assert_int_equal(w->session->sequence, 0);
	assert_int_equal(open_session(w, 2, 0, 0, 0), 0);
	assert_int_equal(w->session->sequence, 1);
	second = w->session;
	assert_int_equal(open_session(w, 3, 0, 0, 0), ERR_BUSY);
	assert_int_equal(open_session(w, 3, 0, 0, 1), 0);            /* the other shard has room */
	session_close(second);
	assert_int_equal(open_session(w, 3, 1, 0, 0), 0);
	assert_int_equal(w->session->sequence, 1);
	assert_true(w->fresh);
}

static void stages_of_one_session_are_apart_but_share_its_history(void **state)
{
	struct world *w = *state;
	const int32_t given[] = { 10, 11, 12 };
	struct session *first, *last;
	int32_t recent[4];

	open_session(w, 1, 0, 0, 0);
	first = w->session;
	open_session(w, 1, 2, 0, 1);
	last = w->session;
	assert_ptr_not_equal(first, last);
	assert_ptr_equal(first->history, last->history);
	session_given(first, 0, given, 3);
	session_reached(last, 3);
	session_sampled(last, 3, 13);
	assert_int_equal(session_recent(last, 4, recent, 4), 4);
	assert_int_equal(recent[0], 10);
	assert_int_equal(recent[3], 13);
	assert_int_equal(session_recent(last, 4, recent, 2), 2);
	assert_int_equal(recent[0], 12);
	session_close(first);
	assert_int_equal(session_recent(last, 3, recent, 4), 3);     /* still there for the other */
}

static void history_forgets_what_was_taken_back(void **state)
{
	struct world *w = *state;
	const int32_t given[] = { 10, 11, 12, 13, 14 }, other[] = { 20 };
	int32_t recent[8];

	open_session(w, 1, 0, 0, 0);
	session_given(w->session, 0, given, 5);
	session_given(w->session, 2, other, 1);
	assert_int_equal(session_recent(w->session, 8, recent, 8), 3);
	assert_int_equal(recent[2], 20);
}

static void a_last_stage_alone_knows_what_it_sampled(void **state)
{
	struct world *w = *state;
	int32_t recent[8];

	open_session(w, 1, 2, 0, 1);
	session_reached(w->session, 40);
	session_sampled(w->session, 40, 7);
	session_reached(w->session, 41);
	session_sampled(w->session, 41, 8);
	assert_int_equal(session_recent(w->session, 42, recent, 8), 2);
	session_reached(w->session, 40);         /* written again from the prompt's end */
	assert_int_equal(session_recent(w->session, 42, recent, 8), 0);
}

/* First and last stage in one engine: the next chunk goes through the first before the last sees the one before. */
static void blocks_in_flight_do_not_erase_each_others_history(void **state)
{
	struct world *w = *state;
	int32_t given[32], recent[64];
	struct session *first;

	for (int i = 0; i < 32; i++)
		given[i] = 100 + i;
	open_session(w, 1, 0, 0, 0);
	first = w->session;
	open_session(w, 1, 2, 0, 1);
	session_given(first, 0, given, 32);
	session_given(first, 32, given, 32);
	session_reached(w->session, 32);
	assert_int_equal(session_recent(w->session, 64, recent, 64), 64);
}

static void unknown_sessions_are_not_found(void **state)
{
	struct world *w = *state;
	const uint8_t one[SESSION_BYTES] = { 1 }, two[SESSION_BYTES] = { 2 };

	open_session(w, 1, 3, 0, 0);
	assert_ptr_equal(sessions_find(&w->sessions, one, 3), w->session);
	assert_null(sessions_find(&w->sessions, one, 2));
	assert_null(sessions_find(&w->sessions, two, 3));
	session_close(w->session);
	assert_null(sessions_find(&w->sessions, one, 3));
}

int main(void)
{
#define SESSION_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		SESSION_TEST(blocks_are_taken_strictly_in_order),
		SESSION_TEST(duplicates_are_dropped_without_a_word),
		SESSION_TEST(a_gap_is_a_fault_once_and_then_silence),
		SESSION_TEST(frames_of_another_epoch_change_nothing),
		SESSION_TEST(positions_past_the_context_are_refused),
		SESSION_TEST(an_older_epoch_cannot_be_opened),
		SESSION_TEST(opening_again_is_harmless),
		SESSION_TEST(a_new_epoch_keeps_what_the_sequence_holds),
		SESSION_TEST(every_sequence_of_a_shard_can_be_taken_and_freed),
		SESSION_TEST(stages_of_one_session_are_apart_but_share_its_history),
		SESSION_TEST(history_forgets_what_was_taken_back),
		SESSION_TEST(a_last_stage_alone_knows_what_it_sampled),
		SESSION_TEST(blocks_in_flight_do_not_erase_each_others_history),
		SESSION_TEST(unknown_sessions_are_not_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
