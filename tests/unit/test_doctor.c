/* What `essaim doctor` makes of figures. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/doctor.h"
#include "proto/err.h"

#define GIB (1ull << 30)

static struct doctor_list list;

static const char *how(int why)
{
	return why ? "it does not answer" : "it answers";
}

static int set_up(void **state)
{
	memset(&list, 0, sizeof list);
	return 0;
}

static const struct doctor_check *only(void)
{
	assert_int_equal(list.n, 1);
	return &list.checks[0];
}

/* Whatever is not good says what to do. */
static void bad_is(const char *part)
{
	assert_int_equal(only()->state, DOCTOR_BAD);
	assert_non_null(strstr(only()->text.text, part));
	assert_string_not_equal(only()->remedy.text, "");
	assert_true(doctor_is_bad(&list));
}

static void a_disk_too_small_for_what_is_to_come_is_bad(void **state)
{
	doctor_disk(&list, "/h", 10 * GIB, 11 * GIB);
	bad_is("11 GiB of weights are still to come");
}

static void a_full_disk_is_bad_also_when_nothing_is_to_come(void **state)
{
	doctor_disk(&list, "/h", 100 << 20, 0);
	bad_is("100 MiB free");
}

static void disks_with_room_are_good(void **state)
{
	doctor_disk(&list, "/h", 10 * GIB, 8 * GIB);
	assert_int_equal(only()->state, DOCTOR_GOOD);
	set_up(NULL);
	doctor_disk(&list, "/h", 9 * GIB, 8 * GIB + GIB / 2);
	assert_int_equal(only()->state, DOCTOR_WARNING);
}

static void a_budget_past_the_machine_is_bad(void **state)
{
	doctor_memory(&list, 16 * GIB, 15 * GIB, 17 * GIB, 0);
	bad_is("17 GiB are shared");
}

static void what_is_loaded_already_needs_no_free_memory(void **state)
{
	doctor_memory(&list, 16 * GIB, 2 * GIB, 8 * GIB, 7 * GIB);
	assert_int_equal(only()->state, DOCTOR_GOOD);
	set_up(NULL);
	doctor_memory(&list, 16 * GIB, 2 * GIB, 8 * GIB, 0);
	assert_int_equal(only()->state, DOCTOR_WARNING);
}

static void our_clock_is_wrong_when_the_others_agree(void **state)
{
	const struct doctor_clock clocks[] = {{"a", -3600}, {"b", -3598}, {"c", -3601}};
	doctor_clocks(&list, clocks, 3, 1);
	bad_is("ahead of those of 3 of 3");
	assert_non_null(strstr(only()->remedy.text, "set-ntp"));
}

static void their_clock_is_wrong_when_the_others_agree_with_us(void **state)
{
	const struct doctor_clock clocks[] = {{"a", 0}, {"b", 3600}, {"c", -1}};
	doctor_clocks(&list, clocks, 3, -1);
	assert_int_equal(list.n, 2);
	assert_int_equal(list.checks[0].state, DOCTOR_GOOD);
	assert_int_equal(list.checks[1].state, DOCTOR_WARNING);
	assert_non_null(strstr(list.checks[1].text.text, "b's clock is"));
	assert_false(doctor_is_bad(&list));
}

static void of_two_clocks_nobody_says_which_is_wrong(void **state)
{
	const struct doctor_clock one = {"a", 600};
	doctor_clocks(&list, &one, 1, 1);
	bad_is("no third");
}

static void a_minute_is_a_warning_and_extremes_do_not_overflow(void **state)
{
	const struct doctor_clock one = {"a", 61}, far[] = {{"a", INT64_MIN}, {"b", INT64_MAX}, {"c", 0}};
	doctor_clocks(&list, &one, 1, 1);
	assert_int_equal(only()->state, DOCTOR_WARNING);
	set_up(NULL);
	doctor_clocks(&list, far, 3, 1);
	assert_int_equal(list.checks[0].state, DOCTOR_GOOD);
	assert_int_equal(list.n, 3);
}

static void alone_the_system_is_believed(void **state)
{
	doctor_clocks(&list, NULL, 0, 0);
	assert_int_equal(only()->state, DOCTOR_WARNING);
	set_up(NULL);
	doctor_clocks(&list, NULL, 0, -1);
	assert_int_equal(only()->state, DOCTOR_SKIPPED);
}

static void another_engine_is_named(void **state)
{
	const struct doctor_version peers[] = {{"a", "llama 1"}, {"b", "llama 2"}, {"c", ""}};
	doctor_versions(&list, "llama 1", peers, 3);
	assert_int_equal(only()->state, DOCTOR_WARNING);
	assert_non_null(strstr(only()->text.text, "1 of 2"));
	assert_non_null(strstr(only()->text.text, "b has 'llama 2'"));
	set_up(NULL);
	doctor_versions(&list, "llama 1", peers, 1);
	assert_int_equal(only()->state, DOCTOR_GOOD);
	set_up(NULL);
	doctor_versions(&list, "", peers, 3);
	assert_int_equal(only()->state, DOCTOR_SKIPPED);
}

/* --- reach ------------------------------------------------------------------------------------------- */

static struct doctor_reached from(const char *name, int link_code, int weights_code)
{
	struct doctor_reached r = {.name = name, .answer = {.n_results = 2, .results = {
		{.address = "192.168.1.5:7740", .code = link_code}, {.address = "192.168.1.5:7742", .weights = true, .code = weights_code}}}};
	if (link_code)
		strcpy(r.answer.results[0].detail, "connection refused, by somebody");
	return r;
}

static void a_card_beside_processors_is_no_other_engine(void **state)
{
	const struct doctor_version peers[] = {{"a", "llama 1 q0 cpu"}, {"b", "llama 1 q0 vulkan"}};
	doctor_versions(&list, "llama 1 q0 cpu", peers, 2);
	assert_int_equal(only()->state, DOCTOR_GOOD);
}

static void one_who_reaches_us_is_enough(void **state)
{
	const struct doctor_reached asked[] = {from("near", 0, 0), from("far", -ETIMEDOUT, -ETIMEDOUT)};
	doctor_reach(&list, asked, 2, "203.0.113.9:51000", 7740, 7742, how);
	assert_int_equal(list.n, 6);
	assert_int_equal(list.checks[0].state, DOCTOR_GOOD);
	assert_string_equal(list.checks[1].text.text, "192.168.1.5:7740 from near: it answers");
	assert_string_equal(list.checks[2].text.text, "192.168.1.5:7740 from far: it does not answer");
	assert_int_equal(list.checks[2].state, DOCTOR_SKIPPED);
	assert_int_equal(list.checks[3].state, DOCTOR_GOOD);
}

static void behind_a_router_the_remedy_names_port_and_address(void **state)
{
	const struct doctor_reached asked[] = {from("far", -ETIMEDOUT, 0)};
	doctor_reach(&list, asked, 1, "203.0.113.9:51000", 7740, 7742, how);
	assert_int_equal(list.n, 4);
	assert_int_equal(list.checks[0].state, DOCTOR_BAD);
	assert_non_null(strstr(list.checks[0].remedy.text, "forward TCP port 7740"));
	assert_non_null(strstr(list.checks[0].remedy.text, "addresses = 203.0.113.9:7740"));
	assert_int_equal(list.checks[2].state, DOCTOR_GOOD);
}

static void an_observed_v6_address_is_written_with_brackets(void **state)
{
	const struct doctor_reached asked[] = {from("far", -ETIMEDOUT, 0)};
	doctor_reach(&list, asked, 1, "[2001:db8::5]:51000", 7740, 7742, how);
	assert_non_null(strstr(list.checks[0].remedy.text, "addresses = [2001:db8::5]:7740"));
}

static void closed_weights_are_said_apart(void **state)
{
	const struct doctor_reached asked[] = {from("far", 0, -ECONNREFUSED)};
	doctor_reach(&list, asked, 1, "", 7740, 7742, how);
	assert_int_equal(list.checks[0].state, DOCTOR_GOOD);
	assert_int_equal(list.checks[2].state, DOCTOR_BAD);
	assert_non_null(strstr(list.checks[2].remedy.text, "7742"));
}

static void silence_is_no_verdict(void **state)
{
	const struct doctor_reached asked[] = {{.name = "old", .err = -ETIMEDOUT}, {.name = "busy", .err = ERR_BUSY}};
	doctor_reach(&list, asked, 2, "", 7740, 7742, how);
	assert_int_equal(list.n, 2);
	assert_int_equal(list.checks[0].state, DOCTOR_SKIPPED);
	assert_non_null(strstr(list.checks[1].text.text, "a moment ago"));
	set_up(NULL);
	doctor_reach(&list, NULL, 0, "", 7740, 7742, how);
	assert_int_equal(only()->state, DOCTOR_SKIPPED);
}

static void a_card_without_addresses_is_bad(void **state)
{
	const struct doctor_reached asked[] = {{.name = "far"}};
	doctor_reach(&list, asked, 1, "", 7740, 7742, how);
	bad_is("names no address");
}

static void a_card_that_nobody_uses_is_told_of_and_is_no_fault(void **state)
{
	doctor_gpu(&list, &(struct doctor_gpu){.node = "/dev/dri/renderD128", .may_open = true});
	assert_int_equal(only()->state, DOCTOR_SKIPPED);
	assert_non_null(strstr(only()->remedy.text, "gpu = auto"));
	set_up(NULL);
	doctor_gpu(&list, &(struct doctor_gpu){0});
	assert_int_equal(list.n, 0);
}

static void a_card_that_may_not_be_opened_is_bad(void **state)
{
	doctor_gpu(&list, &(struct doctor_gpu){.wanted = true, .any = true, .node = "/dev/dri/renderD128"});
	bad_is("may not be opened");
	assert_non_null(strstr(only()->remedy.text, "render"));
}

static void a_card_that_is_wanted_and_not_there_is_bad(void **state)
{
	doctor_gpu(&list, &(struct doctor_gpu){.wanted = true, .any = true});
	bad_is("/dev/dri has no card");
	set_up(NULL);
	doctor_gpu(&list, &(struct doctor_gpu){.wanted = true});     /* a software device needs none */
	assert_int_equal(list.n, 0);
}

static void many_answers_leave_the_rest_out(void **state)
{
	struct doctor_reached asked[3];
	for (int i = 0; i < 3; i++) {
		asked[i] = (struct doctor_reached){.name = "a-name-that-is-as-long-as-names-may-be-which-is-sixty-three-byte", .answer = {.n_results = REACH_RESULTS_MAX}};
		for (size_t k = 0; k < REACH_RESULTS_MAX; k++) {
			struct reach_result *r = &asked[i].answer.results[k];
			strcpy(r->address, "a.host.with.a.long.name.example.org:7740");
			r->code = -ETIMEDOUT;
		}
	}
	doctor_reach(&list, asked, 3, "", 7740, 7742, how);
	assert_int_equal(list.n, DOCTOR_CHECKS_MAX);
	assert_non_null(strstr(list.checks[0].text.text, "nobody reaches"));
	char *json = doctor_json(&list);
	assert_non_null(json);
	assert_non_null(strstr(json, "\"ok\":false"));
	free(json);
}

static void what_is_said_can_be_said_in_another_language(void **state)
{
	doctor_add(&list, "x", DOCTOR_BAD, NULL, "%s of %d", "one", 2);
	doctor_remedy(&list, "do %s", "it");
	char *json = doctor_json(&list);
	assert_non_null(strstr(json, "\"text\":\"one of 2\",\"template\":\"%s of %d\",\"values\":[\"one\",\"2\"]"));
	assert_non_null(strstr(json, "\"remedy\":\"do it\",\"remedy_template\":\"do %s\",\"remedy_values\":[\"it\"]"));
	free(json);
}

static void a_value_too_long_is_cut_not_overrun(void **state)
{
	char word[5000];
	memset(word, 'x', sizeof word - 1);
	word[sizeof word - 1] = 0;
	doctor_add(&list, "x", DOCTOR_BAD, NULL, "%s %s", word, word);
	assert_int_equal(strlen(only()->text.text), sizeof only()->text.text - 1);
	char *json = doctor_json(&list);
	assert_null(strstr(json, "template"));
	free(json);
}

static void a_full_list_leaves_the_rest_out(void **state)
{
	for (int i = 0; i < 2 * DOCTOR_CHECKS_MAX; i++)
		doctor_add(&list, "x", DOCTOR_GOOD, NULL, "%d", i);
	assert_int_equal(list.n, DOCTOR_CHECKS_MAX);
}

#define FACT(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FACT(a_disk_too_small_for_what_is_to_come_is_bad),
		FACT(a_full_disk_is_bad_also_when_nothing_is_to_come),
		FACT(disks_with_room_are_good),
		FACT(a_budget_past_the_machine_is_bad),
		FACT(what_is_loaded_already_needs_no_free_memory),
		FACT(our_clock_is_wrong_when_the_others_agree),
		FACT(their_clock_is_wrong_when_the_others_agree_with_us),
		FACT(of_two_clocks_nobody_says_which_is_wrong),
		FACT(a_minute_is_a_warning_and_extremes_do_not_overflow),
		FACT(alone_the_system_is_believed),
		FACT(another_engine_is_named),
		FACT(a_card_beside_processors_is_no_other_engine),
		FACT(one_who_reaches_us_is_enough),
		FACT(behind_a_router_the_remedy_names_port_and_address),
		FACT(an_observed_v6_address_is_written_with_brackets),
		FACT(closed_weights_are_said_apart),
		FACT(silence_is_no_verdict),
		FACT(a_card_without_addresses_is_bad),
		FACT(a_card_that_nobody_uses_is_told_of_and_is_no_fault),
		FACT(a_card_that_may_not_be_opened_is_bad),
		FACT(a_card_that_is_wanted_and_not_there_is_bad),
		FACT(many_answers_leave_the_rest_out),
		FACT(what_is_said_can_be_said_in_another_language),
		FACT(a_value_too_long_is_cut_not_overrun),
		FACT(a_full_list_leaves_the_rest_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
