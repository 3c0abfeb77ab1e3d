/* test_invitation.c: one URL that lets one node in, once (DESIGN D10).
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sodium.h>

#include "daemon/trust/invitation.h"
#include "proto/text.h"
#include "tests/unit/temp_home.h"

#define NOW 1800000000ull

static char why[300];

static struct invitation sample(void)
{
	struct invitation v = { .role = INVITATION_PARTNER, .name = "Abeille", .network = "essaim", .expires = NOW + 3600, .n_addresses = 3 };

	memset(v.id, 1, sizeof v.id);
	memset(v.secret, 2, sizeof v.secret);
	memset(v.link_key, 3, sizeof v.link_key);
	memset(v.node, 4, sizeof v.node);
	memset(v.association, 5, sizeof v.association);
	strcpy(v.addresses[0], "192.0.2.1:7740");
	strcpy(v.addresses[1], "[2001:db8::1]:7740");
	strcpy(v.addresses[2], "abeille.example:443");
	invitation_psk(v.secret, v.psk);
	return v;
}

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

/* --- the URL */

static void the_psk_is_blake2b_of_the_domain_and_the_secret(void **state)
{
	uint8_t secret[32], psk[32], plain[15 + 32], expected[32];

	(void)state;
	randombytes_buf(secret, sizeof secret);
	memcpy(plain, "essaim-invite-1", 15);
	memcpy(plain + 15, secret, 32);
	assert_int_equal(crypto_generichash_blake2b(expected, 32, plain, sizeof plain, NULL, 0), 0);
	invitation_psk(secret, psk);
	assert_memory_equal(psk, expected, 32);
}

static void a_url_reads_back_as_it_was_written(void **state)
{
	struct invitation v = sample(), read;
	char url[INVITATION_URL_MAX];

	(void)state;
	for (int role = INVITATION_NODE; role <= INVITATION_PARTNER; role++) {
		v.role = (enum invitation_role)role;
		assert_int_equal(invitation_url(&v, url, sizeof url), 0);
		assert_int_equal(strncmp(url, "essaim://join/#", 15), 0);
		assert_int_equal(invitation_parse(url, &read, why, sizeof why), 0);
		assert_memory_equal(&v, &read, sizeof v);
	}
}

static void the_largest_invitation_fits(void **state)
{
	struct invitation v = sample(), read;
	char url[INVITATION_URL_MAX];

	(void)state;
	v.n_addresses = CARD_ADDRESSES_MAX;
	for (size_t i = 0; i < CARD_ADDRESSES_MAX; i++) {
		memset(v.addresses[i], 'a', ADDRESS_SIZE - 1);
		memcpy(v.addresses[i] + 30, ".", 1);
		memcpy(v.addresses[i] + ADDRESS_SIZE - 7, ":65535", 7);
	}
	memset(v.name, 'n', NAME_SIZE - 1);
	memset(v.network, 'w', NAME_SIZE - 1);
	assert_int_equal(invitation_url(&v, url, sizeof url), 0);
	assert_int_equal(invitation_parse(url, &read, why, sizeof why), 0);
	assert_memory_equal(&v, &read, sizeof v);
	assert_int_equal(invitation_url(&v, url, 200), ERR_LIMIT);
}

static void white_space_around_a_url_does_no_harm_but_inside_is_told(void **state)
{
	struct invitation v = sample(), read;
	char url[INVITATION_URL_MAX], copy[INVITATION_URL_MAX + 10];

	(void)state;
	assert_int_equal(invitation_url(&v, url, sizeof url), 0);
	snprintf(copy, sizeof copy, " \t%s\r\n", url);
	assert_int_equal(invitation_parse(copy, &read, why, sizeof why), 0);
	snprintf(copy, sizeof copy, "%.60s\n%s", url, url + 60);
	assert_int_equal(invitation_parse(copy, &read, why, sizeof why), ERR_MALFORMED);
	assert_non_null(strstr(why, "line break"));
}

static void every_truncation_is_refused_with_a_sentence(void **state)
{
	struct invitation v = sample(), read;
	char url[INVITATION_URL_MAX];
	size_t n;

	(void)state;
	assert_int_equal(invitation_url(&v, url, sizeof url), 0);
	n = strlen(url);
	while (n--) {
		url[n] = '\0';
		why[0] = '\0';
		assert_int_equal(invitation_parse(url, &read, why, sizeof why), ERR_MALFORMED);
		assert_non_null(strstr(why, n ? "cut short" : "not an invitation"));
		assert_true(sodium_is_zero((uint8_t *)&read, sizeof read));
	}
}

/* A changed character may leave a well-formed URL; then what it says has changed, and the handshake fails by key or PSK. */
static void a_changed_url_is_never_the_same_invitation(void **state)
{
	struct invitation v = sample(), read;
	char url[INVITATION_URL_MAX];

	(void)state;
	assert_int_equal(invitation_url(&v, url, sizeof url), 0);
	for (size_t i = 0; url[i]; i++) {
		char before = url[i];

		url[i] = before == 'A' ? 'B' : 'A';
		if (invitation_parse(url, &read, why, sizeof why) == 0)
			assert_memory_not_equal(&v, &read, sizeof v);
		url[i] = before;
	}
}

static void other_texts_are_no_invitations(void **state)
{
	static const char *const texts[] = { "", " ", "hello", "https://example.org/", "essaim://", "essaim://join/", "essaim://join/#",
					     "essaim://join/#!!!!", "essaim://join/#AAAA", "ESSAIM://JOIN/#AAAA" };
	struct invitation read;
	char *long_one = malloc(100000);

	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		assert_int_equal(invitation_parse(texts[i], &read, why, sizeof why), ERR_MALFORMED);
	memset(long_one, 'A', 99999);
	long_one[99999] = '\0';
	memcpy(long_one, "essaim://join/#", 15);
	assert_int_equal(invitation_parse(long_one, &read, why, sizeof why), ERR_MALFORMED);
	free(long_one);
}

static void an_invitation_of_a_later_version_asks_for_an_upgrade(void **state)
{
	struct invitation read;
	struct pack_writer w;
	struct buf map;
	char url[200] = "essaim://join/#";

	(void)state;
	buf_init(&map, 100);
	pack_writer_init(&w, &map);
	pack_map(&w, 1);
	pack_kv_uint(&w, "v", 2);
	text_base64(map.data, map.length, url + strlen(url));
	assert_int_equal(invitation_parse(url, &read, why, sizeof why), ERR_VERSION);
	assert_non_null(strstr(why, "upgrade"));
	buf_release(&map);
}

static void what_cannot_be_dialled_is_not_invited(void **state)
{
	struct invitation v = sample();
	char url[INVITATION_URL_MAX];

	(void)state;
	v.n_addresses = 0;
	assert_int_equal(invitation_url(&v, url, sizeof url), ERR_MALFORMED);
	v = sample();
	strcpy(v.addresses[1], "no port");
	assert_int_equal(invitation_url(&v, url, sizeof url), ERR_MALFORMED);
	v = sample();
	v.role = (enum invitation_role)3;
	assert_int_equal(invitation_url(&v, url, sizeof url), ERR_MALFORMED);
	v = sample();
	strcpy(v.name, "");
	assert_int_equal(invitation_url(&v, url, sizeof url), ERR_MALFORMED);
}

/* --- the inviter's folder */

static char *kept_name(const struct invitation *v, const char *suffix)
{
	static char name[80];
	char hex[2 * INVITATION_ID_BYTES + 1];

	text_hex(v->id, INVITATION_ID_BYTES, hex);
	snprintf(name, sizeof name, "invitations/%s%s", hex, suffix);
	return name;
}

static void the_inviter_keeps_the_psk_and_not_the_secret(void **state)
{
	struct invitation v = sample(), found;
	uint8_t bytes[1000];
	size_t n;

	(void)state;
	assert_int_equal(invitation_keep(temp_home, &v), 0);
	assert_int_equal(temp_mode(kept_name(&v, "")), 0600);
	n = temp_read(kept_name(&v, ""), bytes, sizeof bytes);
	assert_null(memmem(bytes, n, v.secret, sizeof v.secret));
	assert_non_null(memmem(bytes, n, v.psk, sizeof v.psk));
	assert_int_equal(invitation_find(temp_home, v.id, NOW, &found), 0);
	assert_memory_equal(found.psk, v.psk, sizeof v.psk);
	assert_memory_equal(found.id, v.id, sizeof v.id);
	assert_int_equal(found.role, v.role);
	assert_int_equal(found.expires, v.expires);
	assert_true(sodium_is_zero(found.secret, sizeof found.secret));
}

static void an_unknown_or_expired_invitation_is_not_found(void **state)
{
	struct invitation v = sample(), found;
	uint8_t forged[INVITATION_ID_BYTES] = { 0 };

	(void)state;
	assert_int_equal(invitation_find(temp_home, v.id, NOW, &found), ERR_UNKNOWN);
	assert_int_equal(invitation_keep(temp_home, &v), 0);
	assert_int_equal(invitation_find(temp_home, forged, NOW, &found), ERR_UNKNOWN);
	assert_int_equal(invitation_consume(temp_home, forged), ERR_UNKNOWN);
	assert_int_equal(invitation_find(temp_home, v.id, v.expires, &found), 0);
	assert_int_equal(invitation_find(temp_home, v.id, v.expires + 1, &found), ERR_EXPIRED);
	assert_true(sodium_is_zero(found.psk, sizeof found.psk));
}

static void an_invitation_is_used_once(void **state)
{
	struct invitation v = sample(), found;
	uint8_t bytes[1000];
	size_t n;

	(void)state;
	assert_int_equal(invitation_keep(temp_home, &v), 0);
	assert_int_equal(invitation_consume(temp_home, v.id), 0);
	assert_int_equal(invitation_consume(temp_home, v.id), ERR_USED);
	assert_int_equal(invitation_find(temp_home, v.id, NOW, &found), ERR_USED);
	assert_int_equal(invitation_keep(temp_home, &v), ERR_USED);
	n = temp_read(kept_name(&v, ".used"), bytes, sizeof bytes);
	assert_true(n > 0);
	assert_null(memmem(bytes, n, v.psk, sizeof v.psk));
	assert_int_equal(temp_count("invitations"), 1);
}

static void a_used_invitation_that_a_backup_brings_back_stays_used(void **state)
{
	struct invitation v = sample(), found;
	uint8_t bytes[1000];
	size_t n;

	(void)state;
	assert_int_equal(invitation_keep(temp_home, &v), 0);
	n = temp_read(kept_name(&v, ""), bytes, sizeof bytes);
	assert_int_equal(invitation_consume(temp_home, v.id), 0);
	assert_int_equal(temp_write(kept_name(&v, ""), bytes, n), 0);
	assert_int_equal(invitation_consume(temp_home, v.id), ERR_USED);
	assert_int_equal(invitation_find(temp_home, v.id, NOW, &found), ERR_USED);
}

static void *consume_in_a_thread(void *arg)
{
	struct invitation v = sample();

	*(int *)arg = invitation_consume(temp_home, v.id);
	return NULL;
}

static void of_many_at_once_one_uses_it(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		struct invitation v = sample();
		pthread_t threads[8];
		int got[8], used = 0;

		temp_home_remove();
		assert_int_equal(temp_home_make(), 0);
		assert_int_equal(invitation_keep(temp_home, &v), 0);
		for (int i = 0; i < 8; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, consume_in_a_thread, &got[i]), 0);
		for (int i = 0; i < 8; i++)
			pthread_join(threads[i], NULL);
		for (int i = 0; i < 8; i++) {
			assert_true(got[i] == 0 || got[i] == ERR_USED);
			used += got[i] == 0;
		}
		assert_int_equal(used, 1);
	}
}

static void a_kept_file_that_others_may_read_invites_nobody(void **state)
{
	struct invitation v = sample(), found;

	(void)state;
	assert_int_equal(invitation_keep(temp_home, &v), 0);
	assert_int_equal(chmod(temp_path(kept_name(&v, "")), 0644), 0);
	assert_int_equal(invitation_find(temp_home, v.id, NOW, &found), ERR_DENIED);
	assert_true(sodium_is_zero(found.psk, sizeof found.psk));
}

static void a_damaged_kept_file_invites_nobody(void **state)
{
	struct invitation v = sample(), found;
	uint8_t bytes[1000];
	size_t n;

	(void)state;
	assert_int_equal(invitation_keep(temp_home, &v), 0);
	n = temp_read(kept_name(&v, ""), bytes, sizeof bytes);
	while (n--) {
		assert_int_equal(temp_write(kept_name(&v, ""), bytes, n), 0);
		assert_true(invitation_find(temp_home, v.id, NOW, &found) < 0);
	}
}

struct seen {
	int all, used;
};
static bool count(const struct invitation *v, bool used, void *arg)
{
	struct seen *seen = arg;

	assert_int_equal(v->role, INVITATION_PARTNER);
	seen->all++;
	seen->used += used;
	return true;
}

static void invitations_are_listed_and_other_files_are_not(void **state)
{
	struct invitation v = sample();
	struct seen seen = { 0 };

	(void)state;
	assert_int_equal(invitation_list(temp_home, count, &seen), 0);
	assert_int_equal(seen.all, 0);
	for (uint8_t i = 0; i < 5; i++) {
		v.id[0] = i;
		assert_int_equal(invitation_keep(temp_home, &v), 0);
		if (i < 2)
			assert_int_equal(invitation_consume(temp_home, v.id), 0);
	}
	assert_int_equal(temp_write("invitations/readme", "x", 1), 0);
	assert_int_equal(temp_write(kept_name(&v, ".new"), "x", 1), 0);
	assert_int_equal(invitation_list(temp_home, count, &seen), 0);
	assert_int_equal(seen.all, 5);
	assert_int_equal(seen.used, 2);
}

#define FACT(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		FACT(the_psk_is_blake2b_of_the_domain_and_the_secret),
		FACT(a_url_reads_back_as_it_was_written),
		FACT(the_largest_invitation_fits),
		FACT(white_space_around_a_url_does_no_harm_but_inside_is_told),
		FACT(every_truncation_is_refused_with_a_sentence),
		FACT(a_changed_url_is_never_the_same_invitation),
		FACT(other_texts_are_no_invitations),
		FACT(an_invitation_of_a_later_version_asks_for_an_upgrade),
		FACT(what_cannot_be_dialled_is_not_invited),
		FACT(the_inviter_keeps_the_psk_and_not_the_secret),
		FACT(an_unknown_or_expired_invitation_is_not_found),
		FACT(an_invitation_is_used_once),
		FACT(a_used_invitation_that_a_backup_brings_back_stays_used),
		FACT(of_many_at_once_one_uses_it),
		FACT(a_kept_file_that_others_may_read_invites_nobody),
		FACT(a_damaged_kept_file_invites_nobody),
		FACT(invitations_are_listed_and_other_files_are_not),
	};

	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
