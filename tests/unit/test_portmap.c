/* When the router is asked and when it has its ports back; the asking itself is a plan here. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "daemon/portmap/portmap.h"

static uv_loop_t loop;
static struct portmap *map;
static struct portmap_answer plan;         /* what the next asking finds */
static unsigned asked, taken_back, changes, closed;
static bool back[PORTMAP_PORTS];           /* of these, the last time */

static void ask(const uint16_t ports[PORTMAP_PORTS], struct portmap_answer *out)
{
	assert_int_equal(ports[0], 7740);
	asked++;
	*out = plan;
}

static void take_back(const uint16_t ports[PORTMAP_PORTS], const struct portmap_answer *given)
{
	(void)ports;
	taken_back++;
	memcpy(back, given->given, sizeof back);
}

static void on_change(void *arg)
{
	(void)arg;
	changes++;
}

static void on_closed(void *arg)
{
	(void)arg;
	closed++;
}

static int set_up(void **state)
{
	(void)state;
	struct portmap_config config = {.loop = &loop, .ports = {7740, 7742}, .on_change = on_change, .ask = ask, .take_back = take_back};
	asked = taken_back = changes = closed = 0;
	plan = (struct portmap_answer){.by = "UPnP", .host = "203.0.113.9", .given = {true, true}};
	uv_loop_init(&loop);
	return portmap_open(&map, &config);
}

static int tear_down(void **state)
{
	(void)state;
	if (!closed)
		portmap_close(map, on_closed, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(closed, 1);
	return uv_loop_close(&loop);
}

static enum portmap_state at(uint64_t ms, bool wanted, struct portmap_answer *out)
{
	struct portmap_answer ignored;
	portmap_tick(map, wanted, ms);
	uv_run(&loop, UV_RUN_DEFAULT);
	return portmap_state(map, out ? out : &ignored);
}

static void nothing_is_asked_unless_it_is_wanted(void **state)
{
	assert_int_equal(at(1, false, NULL), PORTMAP_OFF);
	assert_int_equal(asked + taken_back + changes, 0);
}

static void what_was_given_is_asked_for_again_and_taken_back_at_the_end(void **state)
{
	struct portmap_answer answer;
	assert_int_equal(at(1, true, &answer), PORTMAP_MAPPED);
	assert_string_equal(answer.host, "203.0.113.9");
	at(PORTMAP_RENEW_MS, true, NULL);
	assert_int_equal(asked, 1);
	unsigned before = changes;
	assert_int_equal(at(PORTMAP_RENEW_MS + 1, true, NULL), PORTMAP_MAPPED);
	assert_int_equal(asked, 2);
	assert_int_equal(changes, before);
	portmap_close(map, on_closed, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(taken_back, 1);
	assert_true(back[0] && back[1]);
}

static void another_address_is_told(void **state)
{
	at(1, true, NULL);
	unsigned before = changes;
	strcpy(plan.host, "203.0.113.10");
	at(PORTMAP_RENEW_MS + 1, true, NULL);
	assert_int_equal(changes, before + 1);
}

static void after_a_failure_it_is_tried_again_and_what_is_still_held_is_taken_back(void **state)
{
	at(1, true, NULL);
	plan = (struct portmap_answer){.by = "UPnP", .trouble = PORTMAP_TAKEN, .port = 7742, .given = {true, false}};
	assert_int_equal(at(PORTMAP_RENEW_MS + 1, true, NULL), PORTMAP_FAILED);
	plan = (struct portmap_answer){.by = "", .trouble = PORTMAP_NO_ROUTER};
	assert_int_equal(at(PORTMAP_RENEW_MS + 1 + PORTMAP_AGAIN_MS, true, NULL), PORTMAP_FAILED);
	assert_int_equal(asked, 3);
	assert_int_equal(at(PORTMAP_RENEW_MS + 2 + PORTMAP_AGAIN_MS, false, NULL), PORTMAP_OFF);
	assert_int_equal(taken_back, 1);
	assert_true(back[0] && back[1]);
}

static void what_another_machine_has_is_never_taken_back(void **state)
{
	plan = (struct portmap_answer){.by = "UPnP", .trouble = PORTMAP_TAKEN, .port = 7740};
	assert_int_equal(at(1, true, NULL), PORTMAP_FAILED);
	assert_int_equal(at(2, false, NULL), PORTMAP_OFF);
	assert_int_equal(taken_back, 0);
}

static void closing_while_it_asks_takes_back_what_that_brings(void **state)
{
	portmap_tick(map, true, 1);
	portmap_close(map, on_closed, NULL);
	assert_int_equal(closed, 0);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(taken_back, 1);
	assert_int_equal(closed, 1);
}

static void switched_off_while_it_asks_it_stays_off(void **state)
{
	portmap_tick(map, true, 1);
	portmap_tick(map, false, 2);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(at(3, false, NULL), PORTMAP_OFF);
	assert_int_equal(taken_back, 1);
}

static void addresses_behind_another_router_are_not_public(void **state)
{
	static const char *const public[] = {"203.0.113.9", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.167.1.1"},
				 *const private[] = {"10.1.2.3", "100.64.0.1", "100.127.255.255", "172.16.0.1", "172.31.9.9", "192.168.0.1", "169.254.1.1", "127.0.0.1",
						     "0.0.0.0", "", "nonsense"};
	for (size_t i = 0; i < sizeof public / sizeof *public; i++)
		assert_true(portmap_is_public(public[i]));
	for (size_t i = 0; i < sizeof private / sizeof *private; i++)
		assert_false(portmap_is_public(private[i]));
}

#define FACT(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FACT(nothing_is_asked_unless_it_is_wanted),
		FACT(what_was_given_is_asked_for_again_and_taken_back_at_the_end),
		FACT(another_address_is_told),
		FACT(after_a_failure_it_is_tried_again_and_what_is_still_held_is_taken_back),
		FACT(what_another_machine_has_is_never_taken_back),
		FACT(closing_while_it_asks_takes_back_what_that_brings),
		FACT(switched_off_while_it_asks_it_stays_off),
		FACT(addresses_behind_another_router_are_not_public),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
