/* test_gbnf.c: which texts are grammars that may be given to libllama.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"
#include "proto/gbnf.h"

static char why[200];

static int check(const char *text)
{
	why[0] = 0;
	return gbnf_check(text, strlen(text), why, sizeof why);
}

static void grammars_pass(void **state)
{
	static const char *const good[] = {
		"root ::= \"a\"",
		"root ::= \"a\"\n",
		"# first\n\n  root ::= \"yes\" | \"no\" ws number{1,3}   # comment\nws ::= [ \\t\\n]*\nnumber ::= [0-9] | [^a-z\\]] | . | (ws \"-\")?\n",
		"root ::=\n  \"a\"\n",
		"root ::= a |\n  b\na ::= \"a\"\nb ::= \"b\"",
		"root ::= (\n\"a\" # in a group lines may end\n| \"b\"\n)+",
		"root ::= \"\\x41\\u00e9\\U0001F600\\t\\r\\n\\\\\\\"\\[\\]\"",
		"root ::= [a-] [-a] [^\\x00-\\x1F\"]",
		"root ::= \"\xc3\xa9\" [\xc3\xa9-\xe2\x82\xac]",
		"root ::= \"a\"{3} \"b\"{2,} \"c\"{0,7} \"d\"{ 1 , 2 }",
		"root ::= \"\" | \"a\"",
		"root ::= | \"a\"",
		"root ::= ()",
		"root ::= \"a\" root | \"b\"",
		"root ::= a root?\na ::= \"x\"\n",
		"root ::= \"a\"?? \"b\"*",
		"root ::= a-b-1\na-b-1 ::= \"x\"",
		"root ::= ((((\"a\"))))",
	};

	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		if (check(good[i]))
			fail_msg("%s: %s", good[i], why);
}

static void what_is_no_grammar_is_refused_with_its_line(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{ "", "no rule named root" },
		{ "# nothing", "no rule named root" },
		{ "other ::= \"a\"", "no rule named root" },
		{ "root", "line 1" },
		{ "root = \"a\"", "line 1" },
		{ "root ::= \"a", "line 1 of the grammar: a text or a set" },
		{ "root ::= [a", "not closed" },
		{ "root ::= \"a\nb\"", "not closed" },
		{ "root ::= []", "empty" },
		{ "root ::= (\"a\"", "( is not closed" },
		{ "root ::= \"a\")", "line 1" },
		{ "root ::= \"\\q\"", "\\" },
		{ "root ::= \"\\x4\"", "2 hexadecimal digits" },
		{ "root ::= \"\\u00g0\"", "4 hexadecimal digits" },
		{ "root ::= \"\\UFFFFFFFF\"", "no such character" },
		{ "root ::= *", "line 1" },
		{ "root ::= \"a\"{", "{m}, {m,} or {m,n}" },
		{ "root ::= \"a\"{x}", "{m}, {m,} or {m,n}" },
		{ "root ::= \"a\"{2,1}", "ends below" },
		{ "root ::= \"a\"{0}", "0 times" },
		{ "root ::= \"a\"\nroot ::= \"b\"", "line 2" },
		{ "root ::= a\n\nb ::= \"x\"", "line 1 of the grammar: a rule is named that is defined nowhere" },
		{ "root ::= <think>", "line 1" },
		{ "root ::= \"a\" ! \"b\"", "line 1" },
		{ "::= \"a\"", "a name" },
	};

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_equal(check(bad[i].text), ERR_MALFORMED);
		if (!strstr(why, bad[i].says))
			fail_msg("%s: %s", bad[i].text, why);
	}
	assert_int_equal(gbnf_check("root ::= \"\xff\"", 12, why, sizeof why), ERR_MALFORMED);
	assert_int_equal(gbnf_check("root ::= \"a\"\0", 13, why, sizeof why), ERR_MALFORMED);
}

static void rules_that_never_get_anywhere_are_refused(void **state)
{
	static const char *const bad[] = {
		"root ::= root",
		"root ::= root \"a\" | \"b\"",
		"root ::= a\na ::= b\nb ::= a",
		"root ::= \"x\" | (\"y\" | root)",
		"root ::= \"a\"? root \"b\" | \"c\"",
		"root ::= e e root \"b\"\ne ::= \"\" | \"e\"",
		"root ::= (\"a\"?)*",
		"root ::= (\"a\" | \"\")+",
		"root ::= e*\ne ::= [x]*",
		"root ::= \"a\"**",
		"root ::= \"x\"\nunused ::= unused \"a\"",
	};

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_equal(check(bad[i]), ERR_MALFORMED);
		assert_non_null(strstr(why, "begins with itself"));
	}
}

static void limits_are_kept(void **state)
{
	char *text = malloc(GBNF_BYTES_MAX + 100);
	size_t n;

	assert_int_equal(check("root ::= \"a\"{1000}"), 0);
	assert_int_equal(check("root ::= \"a\"{1001}"), ERR_LIMIT);
	assert_int_equal(check("root ::= \"a\"{99999999999999999999}"), ERR_LIMIT);
	assert_int_equal(check("root ::= aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), ERR_LIMIT);

	n = (size_t)sprintf(text, "root ::= ");
	for (int i = 0; i < 21; i++)
		n += (size_t)sprintf(text + n, "\"a\"{1000} ");
	assert_int_equal(check(text), ERR_LIMIT);

	n = (size_t)sprintf(text, "root ::= ");
	for (int i = 0; i < GBNF_DEPTH_MAX; i++)
		text[n++] = '(';
	text[n++] = '.';
	for (int i = 0; i < GBNF_DEPTH_MAX; i++)
		text[n++] = ')';
	assert_int_equal(gbnf_check(text, n, why, sizeof why), 0);
	n = (size_t)sprintf(text, "root ::= ");
	memset(text + n, '(', GBNF_BYTES_MAX - n);
	assert_int_equal(gbnf_check(text, GBNF_BYTES_MAX, why, sizeof why), ERR_LIMIT);

	n = (size_t)sprintf(text, "root ::= \"a\"\n");
	for (int i = 0; i < GBNF_RULES_MAX; i++)
		n += (size_t)sprintf(text + n, "r%d::=.\n", i);
	assert_int_equal(gbnf_check(text, n, why, sizeof why), ERR_LIMIT);

	n = (size_t)sprintf(text, "root ::= ");
	memset(text + n, '.', GBNF_BYTES_MAX - n);
	assert_int_equal(gbnf_check(text, GBNF_BYTES_MAX, why, sizeof why), ERR_LIMIT);
	n = (size_t)sprintf(text, "root ::= \"a\" #");
	memset(text + n, 'x', GBNF_BYTES_MAX + 1 - n);
	assert_int_equal(gbnf_check(text, GBNF_BYTES_MAX, why, sizeof why), 0);
	assert_int_equal(gbnf_check(text, GBNF_BYTES_MAX + 1, why, sizeof why), ERR_LIMIT);
	free(text);
}

/* A chain of rules in the worst order for the search of what may be empty; it must end, and find that the last may be. */
static void long_chains_of_rules_are_followed(void **state)
{
	char *text = malloc(GBNF_BYTES_MAX);
	size_t n = (size_t)sprintf(text, "root ::= r0*\n");

	for (int i = 0; i < 1000; i++)
		n += (size_t)sprintf(text + n, "r%d ::= r%d\n", i, i + 1);
	n += (size_t)sprintf(text + n, "r1000 ::= \"a\"?\n");
	assert_int_equal(check(text), ERR_MALFORMED);
	strcpy(strstr(text, "\"a\"?"), "\"a\"\n");
	assert_int_equal(check(text), 0);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grammars_pass),
		cmocka_unit_test(what_is_no_grammar_is_refused_with_its_line),
		cmocka_unit_test(rules_that_never_get_anywhere_are_refused),
		cmocka_unit_test(limits_are_kept),
		cmocka_unit_test(long_chains_of_rules_are_followed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
