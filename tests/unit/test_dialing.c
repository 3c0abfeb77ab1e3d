/* Whom to dial when: pure, with a clock of plain numbers.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "daemon/mesh/dialing.h"
#include "proto/err.h"

static const uint8_t own[KEY_BYTES] = {5};
static const uint8_t larger[KEY_BYTES] = {9}, smaller[KEY_BYTES] = {1};
static const struct dialing_address one[] = {{"192.0.2.1:1"}};
static const struct dialing_address three[] = {{"192.0.2.1:1"}, {"192.0.2.2:2"}, {"192.0.2.3:3"}};

static void list(struct dialing *d, const uint8_t *node, const struct dialing_address *addresses, size_t n, uint64_t now)
{
	dialing_begin(d);
	assert_int_equal(dialing_target(d, node, addresses, n, now, 0), 0);
	dialing_end(d);
}

static void both_kinds_are_dialled_once(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial a, b, c;
	list(d, larger, one, 1, 1000);
	assert_true(dialing_next(d, 1000, &a));
	assert_true(dialing_next(d, 1000, &b));
	assert_false(dialing_next(d, 1000, &c));
	assert_int_not_equal(a.kind, b.kind);
	assert_memory_equal(a.node, larger, KEY_BYTES);
	assert_string_equal(a.address, "192.0.2.1:1");
	/* a renewed list without change starts nothing anew */
	list(d, larger, one, 1, 1000);
	assert_false(dialing_next(d, 100000, &c));
	dialing_free(d);
}

static void the_smaller_key_begins(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial dial;
	list(d, smaller, one, 1, 1000);
	assert_false(dialing_next(d, 1599, &dial));
	assert_true(dialing_next(d, 1600, &dial));
	dialing_free(d);
}

static void addresses_are_tried_in_turn_and_then_there_is_a_pause(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial dial;
	list(d, larger, three, 3, 0);
	dialing_up(d, larger, LINK_BULK, false, 0);
	for (int i = 0; i < 3; i++) {
		assert_true(dialing_next(d, 1000 + 100 * (uint64_t)i, &dial));
		assert_string_equal(dial.address, three[i].text);
		dialing_failed(d, larger, LINK_LATENCY, 1000 + 100 * (uint64_t)i, 0);
	}
	assert_false(dialing_next(d, 1200 + 499, &dial));
	assert_true(dialing_next(d, 1200 + 500, &dial));
	assert_string_equal(dial.address, three[0].text);
	dialing_free(d);
}

static void pauses_double_up_to_a_minute_with_jitter(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial dial;
	uint64_t now = 0;
	list(d, larger, one, 1, now);
	dialing_up(d, larger, LINK_BULK, false, 0);
	static const uint64_t pauses[] = {1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000};
	for (size_t i = 0; i < sizeof pauses / sizeof *pauses; i++) {
		uint32_t random = (uint32_t)(i % 2 ? 0 : pauses[i] - 1);
		uint64_t pause = i % 2 ? pauses[i] / 2 : pauses[i] / 2 + pauses[i] - 1;
		assert_true(dialing_next(d, now, &dial));
		dialing_failed(d, larger, LINK_LATENCY, now, random);
		assert_false(dialing_next(d, now + pause - 1, &dial));
		now += pause;
	}
	assert_true(dialing_next(d, now, &dial));
	dialing_free(d);
}

static void a_lost_link_is_dialled_again_at_once_where_it_worked(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial dial;
	list(d, larger, three, 3, 0);
	dialing_up(d, larger, LINK_BULK, false, 0);
	assert_true(dialing_next(d, 0, &dial));
	dialing_failed(d, larger, LINK_LATENCY, 0, 0);
	assert_true(dialing_next(d, 100, &dial));
	dialing_up(d, larger, LINK_LATENCY, true, 100);
	assert_false(dialing_next(d, 50000, &dial));
	dialing_lost(d, larger, LINK_LATENCY, 50000, 0);
	assert_true(dialing_next(d, 50000, &dial));
	assert_string_equal(dial.address, three[1].text);
	dialing_free(d);
}

static void a_link_that_falls_at_once_is_paced(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial dial;
	list(d, larger, one, 1, 0);
	dialing_up(d, larger, LINK_BULK, false, 0);
	unsigned dials = 0;
	for (uint64_t now = 0; now < 600000; now += 10)
		if (dialing_next(d, now, &dial)) {
			dials++;
			dialing_up(d, larger, LINK_LATENCY, true, now);
			dialing_lost(d, larger, LINK_LATENCY, now + 5, 1000000007u);
		}
	assert_true(dials > 5 && dials < 30);
	dialing_free(d);
}

static void new_addresses_are_tried_at_once(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial dial;
	list(d, larger, one, 1, 0);
	dialing_up(d, larger, LINK_BULK, false, 0);
	assert_true(dialing_next(d, 0, &dial));
	dialing_failed(d, larger, LINK_LATENCY, 0, 999);
	assert_false(dialing_next(d, 100, &dial));
	list(d, larger, three + 1, 1, 100);
	assert_true(dialing_next(d, 100, &dial));
	assert_string_equal(dial.address, three[1].text);
	dialing_free(d);
}

static void who_dials_us_is_not_waited_for(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial dial;
	list(d, larger, one, 1, 0);
	for (int i = 0; i < 2; i++)
		assert_true(dialing_next(d, 0, &dial));
	for (unsigned i = 0; i < 10; i++) {
		dialing_failed(d, larger, LINK_LATENCY, 0, 0);
		dialing_failed(d, larger, LINK_BULK, 0, 0);
	}
	assert_false(dialing_next(d, 10000, &dial));
	dialing_up(d, larger, LINK_BULK, false, 10000);
	dialing_hurry(d, larger, 10000);
	assert_true(dialing_next(d, 10600, &dial));
	assert_int_equal(dial.kind, LINK_LATENCY);
	assert_false(dialing_next(d, 10600, &dial));
	dialing_free(d);
}

static void forgotten_targets_are_left_alone(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial dial;
	list(d, larger, one, 1, 0);
	assert_true(dialing_next(d, 0, &dial));
	list(d, smaller, one, 1, 0);
	dialing_failed(d, larger, LINK_LATENCY, 0, 0);
	assert_true(dialing_next(d, 1000, &dial));
	assert_memory_equal(dial.node, smaller, KEY_BYTES);
	dialing_forget(d, smaller);
	assert_false(dialing_next(d, 100000, &dial));
	dialing_free(d);
}

static void only_so_many_fly_at_once(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial dial, dials[DIALING_FLYING_MAX];
	dialing_begin(d);
	for (unsigned i = 0; i < DIALING_TARGETS_MAX; i++) {
		uint8_t node[KEY_BYTES] = {200, (uint8_t)i, (uint8_t)(i >> 8)};
		assert_int_equal(dialing_target(d, node, one, 1, 0, 0), 0);
	}
	assert_int_equal(dialing_target(d, larger, one, 1, 0, 0), ERR_LIMIT);
	dialing_end(d);
	for (unsigned i = 0; i < DIALING_FLYING_MAX; i++)
		assert_true(dialing_next(d, 0, &dials[i]));
	assert_false(dialing_next(d, 0, &dial));
	dialing_failed(d, dials[3].node, dials[3].kind, 0, 0);
	assert_true(dialing_next(d, 0, &dial));
	/* and each gets its turn before any gets a second one */
	assert_false(dial.kind == dials[3].kind && !memcmp(dial.node, dials[3].node, KEY_BYTES));
	dialing_free(d);
}

static void targets_without_addresses_wait_for_being_dialled(void **state)
{
	struct dialing *d = dialing_new(own);
	struct dial dial;
	list(d, larger, NULL, 0, 0);
	assert_false(dialing_next(d, 100000, &dial));
	dialing_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_kinds_are_dialled_once),
		cmocka_unit_test(the_smaller_key_begins),
		cmocka_unit_test(addresses_are_tried_in_turn_and_then_there_is_a_pause),
		cmocka_unit_test(pauses_double_up_to_a_minute_with_jitter),
		cmocka_unit_test(a_lost_link_is_dialled_again_at_once_where_it_worked),
		cmocka_unit_test(a_link_that_falls_at_once_is_paced),
		cmocka_unit_test(new_addresses_are_tried_at_once),
		cmocka_unit_test(who_dials_us_is_not_waited_for),
		cmocka_unit_test(forgotten_targets_are_left_alone),
		cmocka_unit_test(only_so_many_fly_at_once),
		cmocka_unit_test(targets_without_addresses_wait_for_being_dialled),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
