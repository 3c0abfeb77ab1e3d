/* test_records_file.c: what a node knew it knows again after a restart, however the file was hurt.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "tests/unit/trust_world.h"

#include <errno.h>

#include "daemon/trust/records_file.h"
#include "tests/unit/temp_home.h"

static struct people abeille, bourdon, colibri;
static struct records_file_report report;
static struct buf all;
static char why[300];

static int setup(void **state)
{
	world_now = MORNING;
	world_life = 30 * DAY;
	abeille = people_of("Abeille");
	bourdon = people_of("Bourdon");
	colibri = people_of("Colibri");
	buf_init(&all, RECORDS_FILE_MAX);
	*state = trust_new(abeille.root.key, abeille.node[0].key);
	return *state && !temp_home_make() ? 0 : -1;
}

static int teardown(void **state)
{
	trust_free(*state);
	buf_release(&world_bytes);
	buf_release(&all);
	temp_home_remove();
	return 0;
}

/* Abeille tied to Bourdon, Colibri introduced: 3 x 3 records, a card, an agreement, its acceptance. */
static void fill(struct trust *t)
{
	uint8_t hash[KEY_BYTES];

	take_people(t, &abeille);
	sign_card(&abeille, 0, 1);
	assert_int_equal(take(t), 1);
	sign_agreement(&abeille, &bourdon, (struct grant){ .tokens = 5 }, 1);
	hash_last(hash);
	assert_int_equal(take(t), 1);
	take_people(t, &bourdon);
	sign_acceptance(&bourdon, &abeille, hash, false, 1);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_introduce(t, colibri.root.key), 0);
	take_people(t, &colibri);
	assert_int_equal(count_of(t, 0), 12);
}

static void save(struct trust *t)
{
	buf_clear(&all);
	assert_int_equal(records_file_collect(t, &all), 0);
	assert_int_equal(records_file_write(temp_home, all.data, all.length), 0);
}

static struct trust *load(void)
{
	struct trust *t = trust_new(abeille.root.key, abeille.node[0].key);

	assert_int_equal(records_file_load(temp_home, t, world_now, &report, why, sizeof why), 0);
	return t;
}

static void what_was_saved_is_known_again(void **state)
{
	struct trust *t;

	fill(*state);
	save(*state);
	assert_int_equal(temp_mode("records/all"), 0600);
	assert_int_equal(temp_count("records"), 1);
	t = load();
	assert_int_equal(report.kept, 12);
	assert_int_equal(report.refused + report.damaged + report.damaged_bytes, 0);
	assert_int_equal(count_of(t, 0), 12);
	assert_true(trust_in_reach(t, colibri.root.key));
	assert_true(trust_agreement_in_force(t, abeille.root.key, bourdon.root.key, world_now));
	trust_free(t);
}

static void no_file_is_an_empty_one(void **state)
{
	struct trust *t = load();

	(void)state;
	assert_int_equal(report.kept, 0);
	assert_int_equal(report.damaged, 0);
	trust_free(t);
}

static void the_order_in_the_file_does_not_matter(void **state)
{
	struct buf back;
	struct trust *t;

	buf_init(&back, RECORDS_FILE_MAX);
	sign_card(&abeille, 1, 1);
	assert_int_equal(records_file_append(&back, world_bytes.data, world_bytes.length), 0);
	sign_roster(&abeille, 3, 1);
	assert_int_equal(records_file_append(&back, world_bytes.data, world_bytes.length), 0);
	sign_steward(&abeille, &abeille.steward, 1);
	assert_int_equal(records_file_append(&back, world_bytes.data, world_bytes.length), 0);
	assert_int_equal(records_file_write(temp_home, back.data, back.length), 0);
	t = load();
	assert_int_equal(report.kept, 3);
	assert_int_equal(report.refused, 0);
	trust_free(t);
	buf_release(&back);
	(void)state;
}

/* All of it, but it counts only while the clock says so. */
static void what_has_ended_is_known_again_when_the_clock_is_right(void **state)
{
	struct trust *t;

	fill(*state);
	save(*state);
	world_now += world_life + 1;
	t = load();
	assert_int_equal(report.kept, 12);
	trust_expire(t, world_now);
	assert_int_equal(count_of(t, 0), 0);
	assert_false(trust_agreement_in_force(t, abeille.root.key, bourdon.root.key, world_now));
	save(t);
	trust_free(t);
	world_now -= 800 * DAY;                        /* and behind */
	t = load();
	assert_int_equal(report.kept, 12);
	trust_expire(t, world_now);
	save(t);
	trust_free(t);
	world_now += 800 * DAY - world_life;
	t = load();
	assert_int_equal(report.kept, 12);
	assert_int_equal(count_of(t, 0), 12);
	assert_true(trust_agreement_in_force(t, abeille.root.key, bourdon.root.key, world_now));
	trust_free(t);
}

/* Bourdon withdrew what we had accepted. Our acceptance is still there, and must not reach it again. */
static void what_a_partner_revoked_binds_after_a_restart(void **state)
{
	struct trust *t = *state;
	uint8_t hash[KEY_BYTES];

	take_people(t, &abeille);
	sign_agreement(&bourdon, &abeille, (struct grant){ 0 }, 1);
	hash_last(hash);
	sign_acceptance(&abeille, &bourdon, hash, false, 1);
	assert_int_equal(take(t), 1);
	take_people(t, &bourdon);
	sign_agreement(&bourdon, &abeille, (struct grant){ 0 }, 1);
	assert_int_equal(take(t), 1);
	world_now += 10;
	sign_agreement(&bourdon, &abeille, (struct grant){ .revoked = true }, 2);
	assert_int_equal(take(t), 1);
	world_now += 100;
	trust_expire(t, world_now);
	assert_false(trust_in_reach(t, bourdon.root.key));
	save(t);
	t = load();
	trust_expire(t, world_now);
	assert_false(trust_in_reach(t, bourdon.root.key));
	assert_int_equal(trust_admits(t, bourdon.node[0].key, world_now), ERR_DENIED);
	trust_free(t);
}

static void our_own_revocation_does_not_undo_a_later_introduction(void **state)
{
	struct trust *t = *state;

	take_people(t, &abeille);
	sign_agreement(&abeille, &colibri, (struct grant){ .revoked = true }, 1);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_introduce(t, colibri.root.key), 0);
	take_people(t, &colibri);
	save(t);
	t = load();
	assert_true(trust_in_reach(t, colibri.root.key));
	assert_int_equal(report.kept, 7);
	trust_free(t);
}

static void a_lapsed_stewards_agreements_survive_a_restart_to_be_signed_again(void **state)
{
	struct trust *t = *state;
	size_t to_renew = 0;

	world_life = 10 * DAY;
	sign_steward(&abeille, &abeille.steward, 1);
	assert_int_equal(take(t), 1);
	world_life = 60 * DAY;
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 1);
	assert_int_equal(take(t), 1);
	world_now += 11 * DAY;
	trust_expire(t, world_now);
	save(t);
	t = load();
	assert_int_equal(count_of(t, 0), 0);
	trust_each_to_renew(t, count_one, &to_renew);
	assert_int_equal(to_renew, 1);
	trust_free(t);
}

/* Wherever the file is cut, what stands whole before the cut is kept. */
static void a_file_cut_anywhere_keeps_what_stands_before(void **state)
{
	uint8_t bytes[16 << 10];
	size_t n, kept_before = 0;

	fill(*state);
	save(*state);
	n = temp_read("records/all", bytes, sizeof bytes);
	assert_true(n > 1000 && n < sizeof bytes);
	for (size_t cut = n % 7; cut <= n; cut += 7) {
		struct trust *t = trust_new(abeille.root.key, abeille.node[0].key);

		records_file_restore(t, bytes, cut, world_now, &report);
		assert_true(report.kept + report.refused >= kept_before);
		assert_true(report.damaged <= 1);
		kept_before = report.kept + report.refused;
		trust_free(t);
	}
	assert_int_equal(kept_before, 12);
}

/* A damaged byte costs the one record it is in (and those that only this one entitles), and is told. */
static void a_damaged_byte_costs_one_record(void **state)
{
	uint8_t bytes[16 << 10];
	size_t n, most_lost = 0;

	fill(*state);
	save(*state);
	n = temp_read("records/all", bytes, sizeof bytes);
	for (size_t at = 0; at < n; at += 3) {
		struct trust *t = trust_new(abeille.root.key, abeille.node[0].key);

		bytes[at] ^= 0x20;
		records_file_restore(t, bytes, n, world_now, &report);
		bytes[at] ^= 0x20;
		assert_int_equal(report.damaged, 1);
		assert_true(report.damaged_bytes > 0);
		if (at >= 16)
			assert_true(12 - report.kept - report.refused <= 1);
		most_lost = 12 - report.kept - report.refused > most_lost ? 12 - report.kept - report.refused : most_lost;
		trust_free(t);
	}
	assert_int_equal(most_lost, 1);
}

static void a_damaged_file_is_set_aside_and_the_rest_kept(void **state)
{
	uint8_t bytes[16 << 10], aside[16 << 10];
	struct trust *t;
	size_t n;

	fill(*state);
	save(*state);
	n = temp_read("records/all", bytes, sizeof bytes);
	bytes[n - 10] ^= 1;
	assert_int_equal(temp_write("records/all", bytes, n), 0);
	t = load();
	assert_int_equal(report.damaged, 1);
	assert_int_equal(report.kept, 11);
	save(t);
	assert_int_equal(temp_read("records/all.damaged", aside, sizeof aside), n);
	assert_memory_equal(aside, bytes, n);
	trust_free(t);
	t = load();
	assert_int_equal(report.damaged, 0);
	assert_int_equal(report.kept, 11);
	trust_free(t);
}

static void garbage_is_no_record(void **state)
{
	uint8_t bytes[5000];

	for (uint8_t seed = 0; seed < 20; seed++) {
		uint8_t key[randombytes_SEEDBYTES] = { seed };

		randombytes_buf_deterministic(bytes, sizeof bytes, key);
		records_file_restore(*state, bytes, sizeof bytes, world_now, &report);
		assert_int_equal(report.kept + report.refused, 0);
		assert_int_equal(report.damaged_bytes, sizeof bytes);
	}
	memset(bytes, 0xe5, sizeof bytes);
	records_file_restore(*state, bytes, sizeof bytes, world_now, &report);
	assert_int_equal(report.damaged_bytes, sizeof bytes);
}

#define FACT(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		FACT(what_was_saved_is_known_again),
		FACT(no_file_is_an_empty_one),
		FACT(the_order_in_the_file_does_not_matter),
		FACT(what_has_ended_is_known_again_when_the_clock_is_right),
		FACT(what_a_partner_revoked_binds_after_a_restart),
		FACT(our_own_revocation_does_not_undo_a_later_introduction),
		FACT(a_lapsed_stewards_agreements_survive_a_restart_to_be_signed_again),
		FACT(a_file_cut_anywhere_keeps_what_stands_before),
		FACT(a_damaged_byte_costs_one_record),
		FACT(a_damaged_file_is_set_aside_and_the_rest_kept),
		FACT(garbage_is_no_record),
	};

	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
