/* test_keys.c: the keys of a home folder.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sodium.h>
#include <sys/resource.h>
#include <signal.h>

#include "daemon/trust/keys.h"
#include "tests/unit/temp_home.h"

static char why[600];
static const char *const secrets[] = { "keys/root.key", "keys/steward.key", "keys/node.key", "keys/link.key", "keys/api.key" };

static int setup(void **state)
{
	(void)state;
	why[0] = '\0';
	return temp_home_make();
}

static int teardown(void **state)
{
	(void)state;
	temp_home_remove();
	return 0;
}

static void created_keys_load_again(void **state)
{
	struct keys made, loaded;
	uint8_t root[KEY_BYTES];

	(void)state;
	assert_int_equal(keys_create(temp_home, true, &made, why, sizeof why), 0);
	assert_true(made.has_root && made.has_steward);
	crypto_sign_ed25519_sk_to_pk(root, made.root_secret);
	assert_memory_equal(root, made.association, KEY_BYTES);
	assert_int_equal(strlen(made.api_key), strlen("essaim-") + 43);
	assert_int_equal(keys_load(temp_home, &loaded, why, sizeof why), 0);
	assert_memory_equal(&made, &loaded, sizeof made);
	keys_wipe(&made);
	assert_true(sodium_is_zero((uint8_t *)&made, sizeof made));
}

static void every_secret_is_for_its_owner_only(void **state)
{
	struct keys keys;
	mode_t before = umask(0);

	(void)state;
	assert_int_equal(keys_create(temp_home, true, &keys, why, sizeof why), 0);
	umask(before);
	for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
		assert_int_equal(temp_mode(secrets[i]), 0600);
	assert_int_equal(temp_mode("keys"), 0700);
	assert_int_equal(temp_count("keys"), 6);                      /* and no temporary file */
}

static void a_secret_that_others_may_read_is_refused_with_a_remedy(void **state)
{
	struct keys keys;

	(void)state;
	assert_int_equal(keys_create(temp_home, true, &keys, why, sizeof why), 0);
	for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
		for (int mode = 0; mode < 2; mode++) {
			assert_int_equal(chmod(temp_path(secrets[i]), mode ? 0640 : 0604), 0);
			assert_int_equal(keys_load(temp_home, &keys, why, sizeof why), ERR_DENIED);
			assert_non_null(strstr(why, "chmod 600"));
			assert_non_null(strstr(why, secrets[i]));
			assert_true(sodium_is_zero((uint8_t *)&keys, sizeof keys));
			assert_int_equal(chmod(temp_path(secrets[i]), 0600), 0);
			assert_int_equal(keys_load(temp_home, &keys, why, sizeof why), 0);
		}
	assert_int_equal(chmod(temp_path("keys"), 0777), 0);
	assert_int_equal(keys_load(temp_home, &keys, why, sizeof why), ERR_DENIED);
	assert_non_null(strstr(why, "chmod 700"));
}

static void a_second_creation_changes_nothing(void **state)
{
	struct keys first, second;

	(void)state;
	assert_int_equal(keys_create(temp_home, true, &first, why, sizeof why), 0);
	assert_int_equal(keys_create(temp_home, true, &second, why, sizeof why), 0);
	assert_memory_equal(&first, &second, sizeof first);
}

static void what_a_cut_off_creation_lacks_is_made_by_the_next(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++) {
		struct keys first, second;
		uint8_t root[KEY_BYTES];

		assert_int_equal(keys_create(temp_home, true, &first, why, sizeof why), 0);
		assert_int_equal(unlink(temp_path("keys/association")), 0);       /* the last to be written */
		assert_int_equal(unlink(temp_path(secrets[i])), 0);
		assert_int_equal(keys_create(temp_home, true, &second, why, sizeof why), 0);
		assert_true(second.has_root && second.has_steward);
		crypto_sign_ed25519_sk_to_pk(root, second.root_secret);
		assert_memory_equal(root, second.association, KEY_BYTES);
		if (i)
			assert_memory_equal(first.association, second.association, KEY_BYTES);
		temp_remove(temp_path("keys"));
	}
}

static void a_root_key_that_was_moved_away_is_not_made_again(void **state)
{
	struct keys first, second;

	(void)state;
	assert_int_equal(keys_create(temp_home, true, &first, why, sizeof why), 0);
	assert_int_equal(unlink(temp_path("keys/root.key")), 0);
	assert_int_equal(keys_create(temp_home, true, &second, why, sizeof why), 0);
	assert_false(second.has_root);
	assert_true(second.has_steward);
	assert_memory_equal(first.association, second.association, KEY_BYTES);
	assert_int_equal(access(temp_path("keys/root.key"), F_OK), -1);
	assert_int_equal(keys_load(temp_home, &second, why, sizeof why), 0);
	assert_false(second.has_root);
}

static void a_node_that_will_join_has_neither_root_nor_steward(void **state)
{
	struct keys keys;
	char hex[2 * KEY_BYTES + 1];

	(void)state;
	assert_int_equal(keys_create(temp_home, false, &keys, why, sizeof why), 0);
	assert_false(keys.has_root || keys.has_steward);
	assert_true(sodium_is_zero(keys.association, KEY_BYTES));
	assert_int_equal(keys_load(temp_home, &keys, why, sizeof why), 0);
	assert_true(sodium_is_zero(keys.association, KEY_BYTES));
	memset(hex, 'a', sizeof hex);
	assert_int_equal(keys_write_file(temp_home, "keys/association", hex, sizeof hex - 1, why, sizeof why), 0);
	assert_int_equal(keys_create(temp_home, true, &keys, why, sizeof why), 0);    /* it has one now: none is made */
	assert_false(keys.has_root || keys.has_steward);
	assert_int_equal(keys.association[0], 0xaa);
}

static void damaged_keys_are_refused(void **state)
{
	struct keys keys;
	char text[300];
	size_t n;

	(void)state;
	assert_int_equal(keys_create(temp_home, true, &keys, why, sizeof why), 0);
	for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++) {
		const char *name = secrets[i];

		n = temp_read(name, text, sizeof text);
		assert_true(n > 0);
		for (size_t cut = 0; cut < n - 1; cut++) {
			assert_int_equal(temp_write(name, text, cut), 0);
			assert_true(keys_load(temp_home, &keys, why, sizeof why) < 0);
			assert_non_null(strstr(why, name));
		}
		assert_int_equal(temp_write(name, text, n), 0);
	}
	n = temp_read("keys/node.key", text, sizeof text);
	text[100] = text[100] == '0' ? '1' : '0';                     /* the two halves no longer fit */
	assert_int_equal(temp_write("keys/node.key", text, n), 0);
	assert_int_equal(keys_load(temp_home, &keys, why, sizeof why), ERR_CRYPTO);
}

static void another_associations_root_key_is_refused(void **state)
{
	struct keys keys;
	char hex[2 * KEY_BYTES + 1];

	(void)state;
	assert_int_equal(keys_create(temp_home, true, &keys, why, sizeof why), 0);
	memset(hex, 'b', sizeof hex);
	assert_int_equal(keys_write_file(temp_home, "keys/association", hex, sizeof hex - 1, why, sizeof why), 0);
	assert_int_equal(keys_load(temp_home, &keys, why, sizeof why), ERR_CRYPTO);
}

static void a_missing_key_names_the_way_out(void **state)
{
	struct keys keys;

	(void)state;
	assert_int_equal(keys_load(temp_home, &keys, why, sizeof why), -ENOENT);
	assert_non_null(strstr(why, "init"));
}

static void a_file_is_replaced_whole_or_not_at_all(void **state)
{
	char text[100];
	struct rlimit before, small;

	(void)state;
	assert_int_equal(keys_write_file(temp_home, "some/file", "old", 3, why, sizeof why), 0);
	assert_int_equal(temp_mode("some/file"), 0600);
	/* a writer that was cut off left this */
	assert_int_equal(temp_write("some/file.new", "half", 4), 0);
	assert_int_equal(keys_write_file(temp_home, "some/file", "new text", 8, why, sizeof why), 0);
	assert_int_equal(temp_read("some/file", text, sizeof text), 8);
	assert_int_equal(temp_count("some"), 1);
	/* no room for it: the old one stays, and nothing beside it */
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	signal(SIGXFSZ, SIG_IGN);
	small = (struct rlimit){ .rlim_cur = 10, .rlim_max = before.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	memset(text, 'x', sizeof text);
	assert_int_equal(keys_write_file(temp_home, "some/file", text, sizeof text, why, sizeof why), -EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(temp_read("some/file", text, sizeof text), 8);
	assert_memory_equal(text, "new text", 8);
	assert_int_equal(temp_count("some"), 1);
}

#define FACT(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		FACT(created_keys_load_again),
		FACT(every_secret_is_for_its_owner_only),
		FACT(a_secret_that_others_may_read_is_refused_with_a_remedy),
		FACT(a_second_creation_changes_nothing),
		FACT(what_a_cut_off_creation_lacks_is_made_by_the_next),
		FACT(a_root_key_that_was_moved_away_is_not_made_again),
		FACT(a_node_that_will_join_has_neither_root_nor_steward),
		FACT(damaged_keys_are_refused),
		FACT(another_associations_root_key_is_refused),
		FACT(a_missing_key_names_the_way_out),
		FACT(a_file_is_replaced_whole_or_not_at_all),
	};

	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
