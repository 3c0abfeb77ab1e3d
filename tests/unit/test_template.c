/* template: what printf writes, apart from its values. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "proto/err.h"
#include "proto/template.h"

struct taken {
	size_t n;
	char text[TEMPLATE_VALUES_MAX][TEMPLATE_VALUE_SIZE];
};

static void take(void *arg, const char *value)
{
	struct taken *t = arg;
	snprintf(t->text[t->n++], TEMPLATE_VALUE_SIZE, "%s", value);
}

__attribute__((format(printf, 3, 4))) static int values_of(struct taken *t, char *whole, const char *format, ...)
{
	va_list ap;
	t->n = 0;
	va_start(ap, format);
	int err = template_values(format, ap, take, t);
	vsnprintf(whole, 4096, format, ap);
	va_end(ap);
	return err;
}

static void same_as_printf(const struct taken *t, const char *format, const char *whole)
{
	const char *values[TEMPLATE_VALUES_MAX];
	char filled[4096];
	for (size_t i = 0; i < t->n; i++)
		values[i] = t->text[i];
	assert_int_equal(template_fill(filled, sizeof filled, format, values, t->n), 0);
	assert_string_equal(filled, whole);
}

#define ROUND_TRIP(...) \
	do { \
		struct taken t_; \
		char whole_[4096]; \
		assert_int_equal(values_of(&t_, whole_, __VA_ARGS__), 0); \
		same_as_printf(&t_, FIRST(__VA_ARGS__, ), whole_); \
	} while (0)
#define FIRST(a, ...) a

static void filled_again_it_is_what_printf_writes(void **state)
{
	(void)state;
	ROUND_TRIP("nothing in it");
	ROUND_TRIP("%s", "");
	ROUND_TRIP("100 %% of %s and %d%%", "it", -7);
	ROUND_TRIP("%u %zu %llu %lu %hhu %x", 4000000000u, (size_t)12, 1ull << 63, 5ul, (unsigned char)200, 0xbeefu);
	ROUND_TRIP("%.1f s, %5.2f, %g", 1.25, 3.14159, 1e9);
	ROUND_TRIP("%.16s...|%-6s|%6s|%c", "0123456789abcdefgh", "ab", "cd", 'x');
	ROUND_TRIP("%d %jd %td", INT32_MIN, (intmax_t)-5, (ptrdiff_t)-9);
	ROUND_TRIP("%d%d%d%d%d%d%d%d%d%d%d%d", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
}

static void a_translation_may_take_the_values_in_another_order(void **state)
{
	(void)state;
	const char *values[] = {"un", "deux"};
	char out[64];
	assert_int_equal(template_fill(out, sizeof out, "%2$s avant %1$s", values, 2), 0);
	assert_string_equal(out, "deux avant un");
}

static void a_format_that_asks_for_more_than_there_is_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = {"%s %s", "%2$s", "%0$s", "%", "%n", "%*d", "%5", "%lls%q", "%999$s", "%hhhd"};
	const char *values[] = {"one"};
	char out[64];
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_not_equal(template_fill(out, sizeof out, bad[i], values, 1), 0);
}

static void what_does_not_fit_is_cut_and_said(void **state)
{
	(void)state;
	const char *values[] = {"0123456789"};
	char out[8];
	assert_int_equal(template_fill(out, sizeof out, "%s", values, 1), ERR_LIMIT);
	assert_string_equal(out, "0123456");
	assert_int_equal(template_fill(out, sizeof out, "abcdefg", NULL, 0), 0);
	assert_int_equal(template_fill(out, sizeof out, "abcdefgh", NULL, 0), ERR_LIMIT);
}

static void refuse(const char *format, int expected, ...)
{
	struct taken t = {0};
	va_list ap;
	va_start(ap, expected);
	assert_int_equal(template_values(format, ap, take, &t), expected);
	va_end(ap);
}

static void directives_it_does_not_know_are_refused(void **state)
{
	(void)state;
	refuse("%p", ERR_UNSUPPORTED, NULL);
	refuse("%*d", ERR_UNSUPPORTED, 1, 2);
	refuse("%1$d", ERR_UNSUPPORTED, 1);
	refuse("%Lf", ERR_UNSUPPORTED, 0);
	refuse("%", ERR_UNSUPPORTED, 0);
	refuse("%d%d%d%d%d%d%d%d%d%d%d%d%d", ERR_LIMIT, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13);
}

/* --- and back ---------------------------------------------------------------------------------------- */

static char found[TEMPLATE_VALUES_MAX][TEMPLATE_VALUE_SIZE];
static size_t n_found;

static void a_sentence_gives_back_its_values(void **state)
{
	assert_int_equal(template_match("%s cannot answer for this node: %.220s", "ruche cannot answer for this node: it shares nothing", found, &n_found), 0);
	assert_int_equal(n_found, 2);
	assert_string_equal(found[0], "ruche");
	assert_string_equal(found[1], "it shares nothing");
	assert_int_equal(template_match("layers %u to %u are not there", "layers 3 to 12 are not there", found, &n_found), 0);
	assert_string_equal(found[1], "12");
	assert_int_equal(template_match("checking: %u %%", "checking: 7 %", found, &n_found), 0);
	assert_string_equal(found[0], "7");
	assert_int_equal(template_match("no value", "no value", found, &n_found), 0);
	assert_int_equal(n_found, 0);
	/* the last words end the text, also where they come earlier, too */
	assert_int_equal(template_match("%s; again", "a; again and b; again", found, &n_found), 0);
	assert_string_equal(found[0], "a; again and b");
}

static void another_sentence_is_no_match(void **state)
{
	static const char *const pairs[][2] = {
		{"layers %u to %u", "layers a to b"}, {"layers %u to %u", "layers 1 to 2 and more"}, {"%s ends", "it begins"}, {"no value", "no value at all"},
		{"begins %s", "it begins"}, {"%u", ""}, {"%1$s", "positions"}, {"%q", "odd"}, {"%s%s", "two without words between"},
	};
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
		assert_int_equal(template_match(pairs[i][0], pairs[i][1], found, &n_found), ERR_MALFORMED);
}

static void a_value_too_long_is_no_match(void **state)
{
	char text[TEMPLATE_VALUE_SIZE + 20];
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = 0;
	assert_int_equal(template_match("%s", text, found, &n_found), ERR_MALFORMED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(filled_again_it_is_what_printf_writes),
		cmocka_unit_test(a_translation_may_take_the_values_in_another_order),
		cmocka_unit_test(a_format_that_asks_for_more_than_there_is_is_refused),
		cmocka_unit_test(what_does_not_fit_is_cut_and_said),
		cmocka_unit_test(directives_it_does_not_know_are_refused),
		cmocka_unit_test(a_sentence_gives_back_its_values),
		cmocka_unit_test(another_sentence_is_no_match),
		cmocka_unit_test(a_value_too_long_is_no_match),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
