/* sharing: hours, pauses, idleness; and what /proc says. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/machine.h"
#include "daemon/sharing.h"

enum { MON, TUE, WED, THU, FRI, SAT, SUN };

static unsigned at(unsigned day, unsigned hour, unsigned minute)
{
	return day * 24 * 60 + hour * 60 + minute;
}

static void hours_are_read_as_they_are_written(void **state)
{
	(void)state;
	struct sharing_hours h;
	assert_int_equal(sharing_parse_hours("22:00-07:00", &h), 0);
	assert_true(sharing_in_hours(&h, at(MON, 22, 0)));
	assert_true(sharing_in_hours(&h, at(TUE, 6, 59)));
	assert_false(sharing_in_hours(&h, at(TUE, 7, 0)));
	assert_false(sharing_in_hours(&h, at(MON, 21, 59)));
	assert_true(sharing_in_hours(&h, at(MON, 0, 0)));      /* Sunday's window lasts into Monday */
	assert_int_equal(sharing_parse_hours("mon-fri 18:00-24:00, sat-sun 00:00-24:00", &h), 0);
	assert_false(sharing_in_hours(&h, at(FRI, 17, 59)));
	assert_true(sharing_in_hours(&h, at(FRI, 23, 59)));
	assert_true(sharing_in_hours(&h, at(SAT, 0, 0)));
	assert_true(sharing_in_hours(&h, at(SUN, 23, 59)));
	assert_false(sharing_in_hours(&h, at(MON, 0, 0)));
	assert_int_equal(sharing_parse_hours("Fri 22:00-08:00,sun-mon 12:00-13:00", &h), 0);
	assert_true(sharing_in_hours(&h, at(SAT, 7, 59)));
	assert_false(sharing_in_hours(&h, at(SUN, 7, 59)));
	assert_true(sharing_in_hours(&h, at(MON, 12, 30)));
	assert_false(sharing_in_hours(&h, at(TUE, 12, 30)));
}

static void hours_that_make_no_sense_are_refused_and_change_nothing(void **state)
{
	(void)state;
	static const char *const bad[] = {"", " ", "22-7", "22:00", "22:00-", "22:00-22:00", "25:00-26:00", "24:01-03:00", "12:60-13:00", "8:00-9:00", "never",
					  "mon", "mon- 10:00-11:00", "mon-xyz 10:00-11:00", "10:00-11:00,", "10:00-11:00 12:00-13:00", "10:00-11:00;"};
	struct sharing_hours h, before;
	memset(&h, 0x5a, sizeof h);
	before = h;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_not_equal(sharing_parse_hours(bad[i], &h), 0);
		assert_memory_equal(&h, &before, sizeof h);
	}
}

static void the_next_change_is_found_over_the_week_s_end(void **state)
{
	(void)state;
	struct sharing_hours h;
	sharing_parse_hours("always", &h);
	assert_int_equal(sharing_next_change(&h, 77), 0);
	sharing_parse_hours("wed 10:00-11:00", &h);
	assert_int_equal(sharing_next_change(&h, at(WED, 10, 0)), 60);
	assert_int_equal(sharing_next_change(&h, at(WED, 11, 0)), WEEK_MINUTES - 60);
	assert_int_equal(sharing_next_change(&h, at(TUE, 10, 0)), 24 * 60);
}

static struct sharing_rule rule_of(const char *hours)
{
	struct sharing_rule rule = {.idle_minutes = 5, .busy_percent = 30};
	assert_int_equal(sharing_parse_hours(hours, &rule.hours), 0);
	return rule;
}

static void a_pause_ends_when_it_was_said_to(void **state)
{
	(void)state;
	struct sharing_rule rule = rule_of("always");
	struct sharing s = {0};
	assert_false(sharing_look(&s, &rule, 0, 1000, 0, NULL));
	s.paused_until = 1060;
	assert_true(sharing_look(&s, &rule, 1, 1000, 0, NULL));
	assert_int_equal(s.state, SHARING_PAUSED);
	assert_false(sharing_look(&s, &rule, 2, 1059, 0, NULL));
	assert_true(sharing_look(&s, &rule, 3, 1060, 0, NULL));
	assert_true(sharing_is_open(&s));
	s.paused_until = SHARING_FOR_EVER;
	sharing_look(&s, &rule, 4, UINT64_MAX - 1, 0, NULL);
	assert_int_equal(s.state, SHARING_PAUSED);
	rule.paused = true;
	s.paused_until = 0;
	sharing_look(&s, &rule, 5, 1100, 0, NULL);
	assert_int_equal(s.state, SHARING_PAUSED);
}

static void hours_close_and_open(void **state)
{
	(void)state;
	struct sharing_rule rule = rule_of("mon 10:00-11:00");
	struct sharing s = {0};
	assert_false(sharing_look(&s, &rule, 0, 1, at(MON, 10, 59), NULL));
	assert_true(sharing_look(&s, &rule, 0, 1, at(MON, 11, 0), NULL));
	assert_int_equal(s.state, SHARING_HOURS);
	assert_true(sharing_look(&s, &rule, 0, 1, at(MON, 10, 0), NULL));
	assert_true(sharing_is_open(&s));
}

static void who_comes_back_to_the_machine_has_it_at_the_first_look(void **state)
{
	(void)state;
	struct sharing_rule rule = rule_of("always");
	rule.idle_only = true;
	struct sharing s = {0};
	struct sharing_load calm = {.known = true, .others_percent = 30, .pressure_percent = 10}, busy = {.known = true, .others_percent = 31};
	sharing_look(&s, &rule, 1000, 1, 0, NULL);
	assert_int_equal(s.state, SHARING_BUSY);                /* not looked yet: not known to be idle */
	sharing_look(&s, &rule, 1000, 1, 0, &calm);
	sharing_look(&s, &rule, 1000 + 5 * 60000 - 1, 1, 0, &calm);
	assert_int_equal(s.state, SHARING_BUSY);
	assert_true(sharing_look(&s, &rule, 1000 + 5 * 60000, 1, 0, &calm));
	assert_true(sharing_is_open(&s));
	assert_false(sharing_look(&s, &rule, 400000, 1, 0, NULL));   /* between two measurements nothing changes */
	assert_true(sharing_look(&s, &rule, 400500, 1, 0, &busy));
	assert_int_equal(s.state, SHARING_BUSY);
	sharing_look(&s, &rule, 401000, 1, 0, &calm);
	assert_false(sharing_look(&s, &rule, 401000 + 5 * 60000 - 1, 1, 0, &calm));
	assert_true(sharing_look(&s, &rule, 401000 + 5 * 60000, 1, 0, &calm));
}

static void memory_pressure_is_somebody_s_work_and_so_is_what_cannot_be_measured(void **state)
{
	(void)state;
	struct sharing_rule rule = rule_of("always");
	rule.idle_only = true;
	rule.idle_minutes = 0;
	struct sharing s = {0};
	struct sharing_load calm = {.known = true}, pressed = {.known = true, .pressure_percent = 11}, unknown = {0};
	sharing_look(&s, &rule, 1, 1, 0, &calm);
	assert_true(sharing_is_open(&s));
	sharing_look(&s, &rule, 2, 1, 0, &pressed);
	assert_int_equal(s.state, SHARING_BUSY);
	sharing_look(&s, &rule, 3, 1, 0, &calm);
	assert_true(sharing_is_open(&s));
	sharing_look(&s, &rule, 4, 1, 0, &unknown);
	assert_int_equal(s.state, SHARING_BUSY);
	rule.idle_only = false;
	sharing_look(&s, &rule, 5, 1, 0, NULL);
	assert_true(sharing_is_open(&s));
}

static void proc_is_read(void **state)
{
	(void)state;
	uint64_t ticks;
	uint32_t percent;
	assert_int_equal(machine_parse_stat("cpu  10 20 30 4000 500 6 7 80 9 0\ncpu0 1 2", &ticks), 0);
	assert_int_equal(ticks, 10 + 20 + 30 + 6 + 7);
	assert_int_not_equal(machine_parse_stat("cpu 1 2 3", &ticks), 0);
	assert_int_not_equal(machine_parse_stat("intr 1 2 3 4 5 6 7 8", &ticks), 0);
	/* a program may call itself anything */
	const char *process = "42 (a) R 9) S 1 42 42 0 -1 4194560 100 200 0 0 70 8 600 5 20 0 1 0 300 0 0";
	assert_int_equal(machine_parse_process(process, false, &ticks), 0);
	assert_int_equal(ticks, 78);
	assert_int_equal(machine_parse_process(process, true, &ticks), 0);
	assert_int_equal(ticks, 683);
	assert_int_not_equal(machine_parse_process("42 (a) S 1", true, &ticks), 0);
	assert_int_not_equal(machine_parse_process("", true, &ticks), 0);
	assert_int_equal(machine_parse_pressure("some avg10=12.34 avg60=0.00 avg300=0.00 total=0\nfull avg10=1.00", &percent), 0);
	assert_int_equal(percent, 12);
	assert_int_not_equal(machine_parse_pressure("full avg10=1.00", &percent), 0);
	struct machine_ticks now;
	assert_int_equal(machine_ticks(NULL, 0, &now), 0);
	assert_true(now.busy > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hours_are_read_as_they_are_written),
		cmocka_unit_test(hours_that_make_no_sense_are_refused_and_change_nothing),
		cmocka_unit_test(the_next_change_is_found_over_the_week_s_end),
		cmocka_unit_test(a_pause_ends_when_it_was_said_to),
		cmocka_unit_test(hours_close_and_open),
		cmocka_unit_test(who_comes_back_to_the_machine_has_it_at_the_first_look),
		cmocka_unit_test(memory_pressure_is_somebody_s_work_and_so_is_what_cannot_be_measured),
		cmocka_unit_test(proc_is_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
