/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <uv.h>

#include "proto/err.h"

static void every_essaim_error_has_its_own_name_and_sentence(void **state)
{
	for (int err = ERR_LIMIT; err >= ERR_CHANGED; err--) {
		assert_string_not_equal(err_name(err), "ERROR");
		assert_string_not_equal(err_str(err), "unknown error");
		for (int other = ERR_LIMIT; other > err; other--) {
			assert_string_not_equal(err_name(err), err_name(other));
			assert_string_not_equal(err_str(err), err_str(other));
		}
	}
}

static void every_libuv_error_is_known(void **state)
{
#define KNOWN(name, text)                                       \
	assert_string_not_equal(err_name(UV_##name), "ERROR");      \
	assert_string_not_equal(err_str(UV_##name), "unknown error");
	UV_ERRNO_MAP(KNOWN)
#undef KNOWN
}

static void errno_keeps_its_name(void **state)
{
	assert_string_equal(err_name(-ENOENT), "ENOENT");
	assert_string_equal(err_name(-ENOSPC), "ENOSPC");
	assert_string_equal(err_name(-EXDEV), "EXDEV");
	assert_string_equal(err_name(UV_EOF), "EOF");
	assert_string_equal(err_name(0), "OK");
}

static void numbers_that_mean_nothing_still_have_words(void **state)
{
	static const int odd[] = { 1, 77, -999, -1000, -1026, -5000, INT32_MIN, INT32_MAX };
	for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		assert_string_equal(err_name(odd[i]), "ERROR");
		assert_string_equal(err_str(odd[i]), "unknown error");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_essaim_error_has_its_own_name_and_sentence),
		cmocka_unit_test(every_libuv_error_is_known),
		cmocka_unit_test(errno_keeps_its_name),
		cmocka_unit_test(numbers_that_mean_nothing_still_have_words),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
