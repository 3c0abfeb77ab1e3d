/* test_quota.c: what is left of a day.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/ledger/quota.h"

static const struct quota_limits unlimited = { UINT64_MAX, UINT64_MAX };
static const struct quota_limits modest = { .tokens_per_day = 1000, .stage_seconds_per_day = 60 };

static struct ledger_sum used(uint64_t rows, uint64_t microseconds)
{
	return (struct ledger_sum){ .rows = rows, .stage_microseconds = microseconds };
}

static void what_was_used_is_no_longer_left(void **state)
{
	struct ledger_sum today = used(400, 10000000);
	struct quota_left left = quota_left(&modest, &today);

	assert_int_equal(left.rows, 600);
	assert_int_equal(left.stage_microseconds, 50000000);
	assert_int_equal(quota_check(&modest, &today), 0);
}

static void either_limit_ends_the_day(void **state)
{
	struct ledger_sum rows = used(1000, 0), time = used(0, 60000000), over = used(5000, UINT64_MAX), last = used(999, 59999999);

	assert_int_equal(quota_check(&modest, &rows), ERR_BUSY);
	assert_int_equal(quota_check(&modest, &time), ERR_BUSY);
	assert_int_equal(quota_check(&modest, &over), ERR_BUSY);
	assert_int_equal(quota_left(&modest, &over).rows, 0);
	assert_int_equal(quota_left(&modest, &over).stage_microseconds, 0);
	assert_int_equal(quota_check(&modest, &last), 0);
}

static void nothing_granted_is_nothing_left(void **state)
{
	struct quota_limits none = { 0, UINT64_MAX }, no_time = { UINT64_MAX, 0 };
	struct ledger_sum today = used(0, 0);

	assert_int_equal(quota_check(&none, &today), ERR_BUSY);
	assert_int_equal(quota_check(&no_time, &today), ERR_BUSY);
	assert_int_equal(quota_may_open(&none, &today, 0, 1), ERR_BUSY);
}

static void own_members_have_no_end(void **state)
{
	struct ledger_sum today = used(UINT64_MAX, UINT64_MAX);

	assert_int_equal(quota_check(&unlimited, &today), 0);
	assert_true(quota_left(&unlimited, &today).rows == UINT64_MAX);
	assert_int_equal(quota_may_open(&unlimited, &today, UINT64_MAX, UINT32_MAX), 0);
}

static void a_session_opens_where_its_whole_context_fits(void **state)
{
	struct ledger_sum today = used(400, 0);

	assert_int_equal(quota_may_open(&modest, &today, 0, 600), 0);
	assert_int_equal(quota_may_open(&modest, &today, 0, 601), ERR_BUDGET);
	assert_int_equal(quota_may_open(&modest, &today, 100, 500), 0);
	assert_int_equal(quota_may_open(&modest, &today, 100, 501), ERR_BUDGET);
	assert_int_equal(quota_may_open(&modest, &today, 600, 1), ERR_BUSY);
	assert_int_equal(quota_may_open(&modest, &today, UINT64_MAX, 1), ERR_BUSY);
}

/* Sessions that open and use all they may, in any order, never take more than the day has. */
static void sessions_together_never_exceed_the_day(void **state)
{
	for (uint32_t seed = 1; seed <= 200; seed++) {
		struct ledger_sum today = used(0, 0);
		uint32_t random = seed, open[64], n = 0;
		uint64_t reserved = 0;

		for (int step = 0; step < 200; step++) {
			random = random * 1664525u + 1013904223u;
			if (random >> 31 || !n) {
				uint32_t context = 1 + (random >> 8) % 200;

				if (n < 64 && quota_may_open(&modest, &today, reserved, context) == 0) {
					open[n++] = context;
					reserved += context;
				}
			} else {
				uint32_t which = (random >> 8) % n, rows = (random >> 16) % (open[which] + 1);

				today.rows += rows;
				reserved -= open[which];
				open[which] = open[--n];
			}
			assert_true(today.rows + reserved <= modest.tokens_per_day);
		}
	}
}

static void large_limits_do_not_wrap(void **state)
{
	struct quota_limits large = { .tokens_per_day = INT64_MAX - 1, .stage_seconds_per_day = INT64_MAX - 1 };
	struct ledger_sum today = used(INT64_MAX / 2, INT64_MAX / 2);

	assert_int_equal(quota_check(&large, &today), 0);
	assert_true(quota_left(&large, &today).stage_microseconds > INT64_MAX / 4);
}

static void the_day_is_utc(void **state)
{
	assert_int_equal(quota_resets_in(0), 86400);
	assert_int_equal(quota_resets_in(86399), 1);
	assert_int_equal(quota_resets_in(1800000000), 86400 - 1800000000 % 86400);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_used_is_no_longer_left),
		cmocka_unit_test(either_limit_ends_the_day),
		cmocka_unit_test(nothing_granted_is_nothing_left),
		cmocka_unit_test(own_members_have_no_end),
		cmocka_unit_test(a_session_opens_where_its_whole_context_fits),
		cmocka_unit_test(sessions_together_never_exceed_the_day),
		cmocka_unit_test(large_limits_do_not_wrap),
		cmocka_unit_test(the_day_is_utc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
