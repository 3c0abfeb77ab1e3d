/* test_schema.c: what the grammar of a JSON Schema accepts, by a small matcher of GBNF that knows nothing of how it was made.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/api/schema.h"
#include "proto/err.h"

/* --- the matcher: sets of places in the input, one ASCII character a place ------------------------------------------ */

#define INPUT_MAX 160

struct set {
	bool at[INPUT_MAX + 1];
};
static const char *grammar, *input;

static struct set alternatives(const char **p, struct set from);

static int one_of(const char **p)
{
	int c = (unsigned char)*(*p)++;
	unsigned code;
	int n;

	if (c != '\\')
		return c;
	c = *(*p)++;
	if (c == 'x') {
		sscanf(*p, "%2x%n", &code, &n);
		*p += 2;
		return (int)code;
	}
	return c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
}

static bool is_word(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
}

static void blanks(const char **p)
{
	while (**p == ' ')
		(*p)++;
}

static const char *rule_named(const char *name, size_t n)
{
	for (const char *line = grammar; *line; line = strchr(line, '\n') + 1)
		if (!strncmp(line, name, n) && !strncmp(line + n, " ::= ", 5))
			return line + n + 5;
	fail_msg("no rule %.*s", (int)n, name);
	return NULL;
}

static struct set element(const char **p, struct set from)
{
	struct set to = { { false } };

	if (**p == '"') {
		to = from;
		for ((*p)++; **p != '"';) {
			int c = one_of(p);

			for (int i = INPUT_MAX; i > 0; i--)
				to.at[i] = to.at[i - 1] && (unsigned char)input[i - 1] == c;
			to.at[0] = false;
		}
		(*p)++;
	} else if (**p == '[') {
		bool not = *++*p == '^', in[256] = { false };

		*p += not;
		while (**p != ']') {
			int low = one_of(p), high = low;

			if (**p == '-' && (*p)[1] != ']') {
				(*p)++;
				high = one_of(p);
			}
			for (int c = low; c <= high; c++)
				in[c] = true;
		}
		(*p)++;
		for (size_t i = 0; input[i]; i++)
			to.at[i + 1] = from.at[i] && in[(unsigned char)input[i]] != not;
	} else if (**p == '(') {
		(*p)++;
		to = alternatives(p, from);
		assert_int_equal(*(*p)++, ')');
	} else {
		const char *name = *p, *body;

		while (is_word(**p))
			(*p)++;
		body = rule_named(name, (size_t)(*p - name));
		if (memchr(from.at, true, sizeof from.at))
			to = alternatives(&body, from);
	}
	return to;
}

static struct set repeated(const char **p, struct set from)
{
	const char *begin = *p;
	struct set none = { { false } }, to;
	int low = 1, high = 1, n;

	element(p, none);
	if (**p == '*' || **p == '?' || **p == '+') {
		low = **p == '+';
		high = **p == '?' ? 1 : INPUT_MAX;
		(*p)++;
	} else if (**p == '{') {
		assert_int_equal(sscanf(*p, "{%d%n", &low, &n), 1);
		*p += n;
		high = low;
		if (**p == ',' && sscanf(++*p, "%d%n", &high, &n) == 1)
			*p += n;
		else if ((*p)[-1] == ',')
			high = INPUT_MAX;
		assert_int_equal(*(*p)++, '}');
	}
	to = low ? none : from;
	for (int i = 1; i <= high && memchr(from.at, true, sizeof from.at); i++) {
		const char *again = begin;

		from = element(&again, from);
		for (int k = 0; i >= low && k <= INPUT_MAX; k++)
			to.at[k] = to.at[k] || from.at[k];
	}
	return to;
}

static struct set alternatives(const char **p, struct set from)
{
	struct set to = { { false } };

	for (;;) {
		struct set here = from;

		for (blanks(p); **p != '|' && **p != ')' && **p != '\n'; blanks(p))
			here = repeated(p, here);
		for (int k = 0; k <= INPUT_MAX; k++)
			to.at[k] = to.at[k] || here.at[k];
		if (**p != '|')
			return to;
		(*p)++;
	}
}

static bool matches(const char *text, const char *json)
{
	const char *root;

	grammar = text;
	input = json;
	assert_true(strlen(json) < INPUT_MAX);
	root = rule_named("root", 4);
	return alternatives(&root, (struct set){ { true } }).at[strlen(json)];
}

/* --- schemas --------------------------------------------------------------------------------------------------- */

static char why[300];

static char *convert(const char *schema, int *err)
{
	yyjson_doc *doc = yyjson_read(schema, strlen(schema), 0);
	struct buf out;

	if (!doc)
		fail_msg("no JSON: %s", schema);
	buf_init(&out, GBNF_BYTES_MAX);
	why[0] = 0;
	*err = schema_to_grammar(yyjson_doc_get_root(doc), &out, why, sizeof why);
	yyjson_doc_free(doc);
	assert_int_equal(buf_append(&out, "", 1), 0);
	return (char *)out.data;
}

/* Each of `yes` (ends with NULL) matches, none of `no`. */
static void accepts(const char *schema, const char *const *yes, const char *const *no)
{
	int err;
	char *text = convert(schema, &err);

	if (err)
		fail_msg("%s: %s", schema, why);
	for (; *yes; yes++)
		if (!matches(text, *yes))
			fail_msg("%s refuses %s:\n%s", schema, *yes, text);
	for (; *no; no++)
		if (matches(text, *no))
			fail_msg("%s accepts %s:\n%s", schema, *no, text);
	free(text);
}
#define LIST(...) (const char *const[]){ __VA_ARGS__, NULL }

static void any_json_is_json(void **state)
{
	const char *const *yes = LIST("{}", "[]", "null", "true", "-12.5e+3", "\"\"", "\"a\\n\\u00e9\\\"\"", "{\"a\": [1, {\"b\":null}], \"c\":\"d\"}", "[1,2 ,3]",
				      "0.5", "\"\\uD7ff\"");
	const char *const *no = LIST("", "{", "{\"a\"}", "{a:1}", "[1,]", "01", "tru", "\"\n\"", "'a'", "+1", "1.", ".5", "nan", "\"\\ud800\"", "{}{}", " {}");

	accepts("{}", yes, no);
	accepts("true", yes, no);
	accepts("{\"title\":\"anything\",\"description\":\"at all\"}", yes, no);
}

static void simple_types(void **state)
{
	accepts("{\"type\":\"string\"}", LIST("\"\"", "\"abc\""), LIST("abc", "1", "null", "\"a"));
	accepts("{\"type\":\"boolean\"}", LIST("true", "false"), LIST("0", "\"true\""));
	accepts("{\"type\":\"null\"}", LIST("null"), LIST("nul", "{}"));
	accepts("{\"type\":\"integer\"}", LIST("0", "-7", "123"), LIST("1.5", "01", "1e3", "\"1\"", "-"));
	accepts("{\"type\":\"number\"}", LIST("0", "-7", "1.25", "1e-3"), LIST("01", "1.", "\"1\""));
	accepts("{\"type\":[\"string\",\"null\"]}", LIST("null", "\"a\""), LIST("1"));
	accepts("{\"type\":[\"integer\",\"number\"]}", LIST("1", "1.5"), LIST("\"\""));
	accepts("{\"type\":\"object\"}", LIST("{}", "{\"a\":1}"), LIST("[]", "1"));
	accepts("{\"type\":\"array\"}", LIST("[]", "[1,\"a\"]"), LIST("{}"));
}

static void properties_come_in_order_and_only_the_optional_may_be_missing(void **state)
{
	accepts("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"}},\"required\":[\"a\",\"b\"],\"additionalProperties\":false}",
		LIST("{\"a\":1,\"b\":\"x\"}", "{ \"a\" : 1 , \"b\" : \"x\" }", "{\n  \"a\": 1,\n  \"b\": \"x\"\n}"),
		LIST("{}", "{\"a\":1}", "{\"b\":\"x\",\"a\":1}", "{\"a\":1,\"b\":\"x\",\"c\":1}", "{\"a\":1,\"b\":\"x\",}", "{\"a\":\"1\",\"b\":\"x\"}"));
	accepts("{\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"},\"c\":{\"type\":\"null\"}},\"required\":[\"b\"]}",
		LIST("{\"b\":null}", "{\"a\":null,\"b\":null}", "{\"b\":null,\"c\":null}", "{\"a\":null,\"b\":null,\"c\":null}"),
		LIST("{}", "{\"a\":null}", "{\"c\":null}", "{\"a\":null,\"c\":null}", "{,\"b\":null}", "{\"b\":null\"c\":null}"));
	accepts("{\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"}}}",
		LIST("{}", "{\"a\":null}", "{\"b\":null}", "{\"a\":null,\"b\":null}"), LIST("{,}", "{\"a\":null,}", "{\"b\":null,\"a\":null}"));
	accepts("{\"type\":\"object\",\"properties\":{},\"additionalProperties\":false}", LIST("{}", "{ }"), LIST("{\"a\":1}"));
	accepts("{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}", LIST("{}", "{\"a\":1}", "{\"a\":1,\"b\":2}"), LIST("{\"a\":\"1\"}", "{\"a\":1,}"));
	accepts("{\"type\":\"object\",\"required\":[\"k\"]}", LIST("{\"k\":[1]}"), LIST("{}", "{\"a\":1}"));
	accepts("{\"properties\":{\"q\\\"\\\\\\n\\u0001\":{\"const\":1}},\"required\":[\"q\\\"\\\\\\n\\u0001\"]}", LIST("{\"q\\\"\\\\\\n\\u0001\":1}"), LIST("{}"));
}

static void arrays(void **state)
{
	accepts("{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", LIST("[]", "[1]", "[1, 2,3]"), LIST("[\"a\"]", "[1,]", "[,1]", "[1 2]"));
	accepts("{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2}", LIST("[1,2]", "[1,2,3]"), LIST("[]", "[1]"));
	accepts("{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"maxItems\":2}", LIST("[]", "[1]", "[1,2]"), LIST("[1,2,3]"));
	accepts("{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":1}", LIST("[1]"), LIST("[]", "[1,2]"));
	accepts("{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}", LIST("[1,2]", "[1,2,3]"), LIST("[]", "[1]", "[1,2,3,4]"));
	accepts("{\"type\":\"array\",\"maxItems\":0}", LIST("[]"), LIST("[1]"));
	accepts("{\"type\":\"array\",\"items\":false}", LIST("[]"), LIST("[1]"));
	accepts("{\"prefixItems\":[{\"const\":1},{\"type\":\"string\"}]}", LIST("[1,\"a\"]"), LIST("[]", "[1]", "[1,\"a\",2]", "[\"a\",1]"));
	accepts("{\"prefixItems\":[{\"const\":1}],\"items\":{\"const\":2},\"minItems\":2,\"maxItems\":3}", LIST("[1,2]", "[1,2,2]"), LIST("[1]", "[1,2,2,2]", "[2,2]"));
	accepts("{\"prefixItems\":[{\"const\":1},{\"const\":2}],\"maxItems\":1}", LIST("[1]"), LIST("[]", "[1,2]"));
}

static void strings_and_their_bounds(void **state)
{
	accepts("{\"type\":\"string\",\"minLength\":2}", LIST("\"ab\"", "\"abc\"", "\"\\u00e9a\""), LIST("\"\"", "\"a\"", "\"\\n\""));
	accepts("{\"type\":\"string\",\"maxLength\":2}", LIST("\"\"", "\"a\"", "\"ab\""), LIST("\"abc\""));
	accepts("{\"type\":\"string\",\"minLength\":1,\"maxLength\":1}", LIST("\"a\"", "\"\\n\""), LIST("\"\"", "\"ab\""));
	accepts("{\"type\":\"string\",\"maxLength\":0}", LIST("\"\""), LIST("\"a\""));
	accepts("{\"type\":\"string\",\"maxLength\":100000}", LIST("\"\"", "\"abc\""), LIST("1"));
	accepts("{\"type\":\"string\",\"format\":\"date\"}", LIST("\"2026-11-21\"", "\"2024-02-29\"", "\"2024-12-31\"", "\"2024-04-30\""),
		LIST("\"2026-13-01\"", "\"2026-02-30\"", "\"2026-04-31\"", "\"2026-00-01\"", "\"2026-01-00\"", "\"21.11.2026\""));
	accepts("{\"type\":\"string\",\"format\":\"date-time\"}", LIST("\"2026-11-21T22:05:00Z\"", "\"2026-11-21T22:05:00.5+01:00\""),
		LIST("\"2026-11-21 22:05:00Z\"", "\"2026-11-21T24:05:00Z\"", "\"2026-11-21T22:05:00\""));
	accepts("{\"type\":\"string\",\"format\":\"time\"}", LIST("\"23:59:59Z\""), LIST("\"23:60:00Z\""));
	accepts("{\"type\":\"string\",\"format\":\"uuid\"}", LIST("\"0189ab12-0000-7fff-8000-0123456789AB\""), LIST("\"0189ab12-0000-7fff-8000-0123456789A\""));
}

static void numbers_and_their_bounds(void **state)
{
	accepts("{\"type\":\"integer\",\"minimum\":1,\"maximum\":5}", LIST("1", "5"), LIST("0", "6", "-1", "15", "1.5"));
	accepts("{\"type\":\"integer\",\"exclusiveMinimum\":-3,\"exclusiveMaximum\":1}", LIST("-2", "0"), LIST("-3", "1"));
	accepts("{\"type\":\"integer\",\"minimum\":0}", LIST("0", "12"), LIST("-1"));
	accepts("{\"type\":\"integer\",\"exclusiveMinimum\":0}", LIST("1", "12"), LIST("0", "-1"));
	accepts("{\"type\":\"number\",\"minimum\":0}", LIST("0", "1.5"), LIST("-1.5"));
}

static void values_and_choices(void **state)
{
	accepts("{\"enum\":[\"red\",\"a\\\"b\",1,null,{\"a\":[1]}]}", LIST("\"red\"", "\"a\\\"b\"", "1", "null", "{\"a\":[1]}"), LIST("\"blue\"", "red", "2"));
	accepts("{\"type\":\"string\",\"enum\":[\"x\",1]}", LIST("\"x\""), LIST("1"));
	accepts("{\"const\":\"only\"}", LIST("\"only\""), LIST("\"other\""));
	accepts("{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"null\"}],\"default\":null,\"title\":\"T\"}", LIST("1", "null"), LIST("\"a\""));
	accepts("{\"oneOf\":[{\"const\":1},{\"const\":2}]}", LIST("1", "2"), LIST("3"));
	accepts("{\"allOf\":[{\"const\":1}]}", LIST("1"), LIST("2"));
}

static void references_even_to_oneself(void **state)
{
	accepts("{\"$defs\":{\"p\":{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"integer\"}},\"required\":[\"x\"]}},"
		"\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/p\"}}", LIST("[]", "[{\"x\":1},{\"x\":2}]"), LIST("[{}]", "[1]"));
	accepts("{\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}",
		LIST("{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"), LIST("{\"v\":1}", "{\"v\":1,\"next\":{}}"));
	accepts("{\"$ref\":\"#/definitions/a\",\"definitions\":{\"a\":{\"$ref\":\"#/definitions/b\"},\"b\":{\"const\":7}}}", LIST("7"), LIST("8"));
}

static void what_is_not_in_the_subset_is_refused_by_name(void **state)
{
	static const struct {
		const char *schema, *says;
		int err;
	} bad[] = {
		{ "{\"type\":\"string\",\"pattern\":\"a*\"}", "\"pattern\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"string\",\"format\":\"email\"}", "\"format\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"string\",\"format\":\"date\",\"maxLength\":5}", "\"format\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"contentEncoding\":\"base64\"}}}", "schema.a: \"contentEncoding\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"object\",\"patternProperties\":{}}", "\"patternProperties\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"object\",\"minProperties\":1}", "\"minProperties\"", ERR_UNSUPPORTED },
		{ "{\"not\":{}}", "\"not\"", ERR_UNSUPPORTED },
		{ "{\"if\":{},\"then\":{}}", "\"if\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"array\",\"uniqueItems\":true}", "\"uniqueItems\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"array\",\"contains\":{}}", "\"contains\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"number\",\"maximum\":1}", "\"number\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"number\",\"multipleOf\":2}", "\"multipleOf\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"integer\",\"minimum\":1,\"maximum\":1000}", "bounds", ERR_UNSUPPORTED },
		{ "{\"type\":\"integer\",\"minimum\":0.5}", "\"minimum\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"integer\",\"minimum\":18446744073709551615}", "\"minimum\"", ERR_UNSUPPORTED },
		{ "{\"type\":\"integer\",\"minimum\":2,\"maximum\":1}", "no whole number", ERR_MALFORMED },
		{ "{\"allOf\":[{},{}]}", "\"allOf\"", ERR_UNSUPPORTED },
		{ "{\"anyOf\":[{}],\"type\":\"string\"}", "\"type\" beside \"anyOf\"", ERR_UNSUPPORTED },
		{ "{\"$ref\":\"#/$defs/a\",\"minLength\":1,\"$defs\":{\"a\":{}}}", "beside \"$ref\"", ERR_UNSUPPORTED },
		{ "{\"enum\":[1],\"minimum\":0}", "beside \"enum\"", ERR_UNSUPPORTED },
		{ "{\"$ref\":\"#/nowhere\"}", "\"$ref\"", ERR_UNSUPPORTED },
		{ "{\"$ref\":\"https://example.org/s\"}", "\"$ref\"", ERR_UNSUPPORTED },
		{ "{\"$ref\":7}", "\"$ref\"", ERR_UNSUPPORTED },
		{ "{\"$ref\":\"#\"}", "leads back to itself", ERR_MALFORMED },
		{ "{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"anyOf\":[{\"$ref\":\"#/$defs/a\"},{\"const\":1}]}}}", "leads back to itself", ERR_MALFORMED },
		{ "false", "lets nothing", ERR_MALFORMED },
		{ "7", "a schema is an object", ERR_MALFORMED },
		{ "{\"type\":\"strin\"}", "\"type\"", ERR_MALFORMED },
		{ "{\"type\":[]}", "\"type\"", ERR_MALFORMED },
		{ "{\"type\":7}", "\"type\"", ERR_MALFORMED },
		{ "{\"enum\":[]}", "\"enum\"", ERR_MALFORMED },
		{ "{\"enum\":7}", "\"enum\"", ERR_MALFORMED },
		{ "{\"type\":\"string\",\"enum\":[1]}", "\"enum\"", ERR_MALFORMED },
		{ "{\"type\":\"string\",\"const\":1}", "\"const\"", ERR_MALFORMED },
		{ "{\"anyOf\":[]}", "\"anyOf\"", ERR_MALFORMED },
		{ "{\"properties\":[]}", "\"properties\"", ERR_MALFORMED },
		{ "{\"properties\":{\"a\":7}}", "schema.a: a schema is an object", ERR_MALFORMED },
		{ "{\"required\":{}}", "\"required\"", ERR_MALFORMED },
		{ "{\"required\":[1]}", "\"required\"", ERR_MALFORMED },
		{ "{\"type\":\"object\",\"additionalProperties\":7}", "\"additionalProperties\"", ERR_MALFORMED },
		{ "{\"type\":\"array\",\"minItems\":-1}", "\"minItems\"", ERR_MALFORMED },
		{ "{\"type\":\"array\",\"minItems\":2,\"maxItems\":1}", "\"minItems\"", ERR_MALFORMED },
		{ "{\"type\":\"array\",\"items\":false,\"minItems\":1}", "\"minItems\"", ERR_MALFORMED },
		{ "{\"prefixItems\":7}", "\"prefixItems\"", ERR_MALFORMED },
		{ "{\"type\":\"array\",\"minItems\":1001}", "\"minItems\"", ERR_LIMIT },
		{ "{\"type\":\"string\",\"minLength\":2,\"maxLength\":1}", "\"minLength\"", ERR_MALFORMED },
		{ "{\"type\":\"string\",\"minLength\":1001}", "\"minLength\"", ERR_LIMIT },
		{ "{\"type\":\"string\",\"maxLength\":1.5}", "\"maxLength\"", ERR_MALFORMED },
	};

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		int err;

		free(convert(bad[i].schema, &err));
		if (err != bad[i].err || !strstr(why, bad[i].says))
			fail_msg("%s: %d %s", bad[i].schema, err, why);
	}
}

static void limits_are_kept(void **state)
{
	char *text = malloc(1 << 20);
	size_t n = 0;
	int err;

	for (int i = 0; i < SCHEMA_DEPTH_MAX; i++)
		n += (size_t)sprintf(text + n, "{\"items\":");
	n += (size_t)sprintf(text + n, "{}");
	memset(text + n, '}', SCHEMA_DEPTH_MAX);
	text[n + SCHEMA_DEPTH_MAX] = 0;
	free(convert(text, &err));
	assert_int_equal(err, ERR_LIMIT);

	for (int count = SCHEMA_PROPERTIES_MAX; count <= SCHEMA_PROPERTIES_MAX + 1; count++) {
		n = (size_t)sprintf(text, "{\"properties\":{\"x\":{}");
		for (int i = 1; i < count; i++)
			n += (size_t)sprintf(text + n, ",\"p%d\":{\"type\":\"integer\"}", i);
		sprintf(text + n, "}}");
		free(convert(text, &err));
		assert_int_equal(err, count > SCHEMA_PROPERTIES_MAX ? ERR_LIMIT : 0);

		n = (size_t)sprintf(text, "{\"required\":[\"x\"");
		for (int i = 1; i < count; i++)
			n += (size_t)sprintf(text + n, ",\"p%d\"", i);
		sprintf(text + n, "]}");
		free(convert(text, &err));
		assert_int_equal(err, count > SCHEMA_PROPERTIES_MAX ? ERR_MALFORMED : 0);
	}

	n = (size_t)sprintf(text, "{\"enum\":[0");
	for (int i = 1; i <= SCHEMA_VALUES_MAX; i++)
		n += (size_t)sprintf(text + n, ",%d", i);
	sprintf(text + n, "]}");
	free(convert(text, &err));
	assert_int_equal(err, ERR_MALFORMED);

	n = (size_t)sprintf(text, "{\"enum\":[\"");          /* one value larger than a grammar may be */
	memset(text + n, 'x', GBNF_BYTES_MAX);
	sprintf(text + n + GBNF_BYTES_MAX, "\"]}");
	free(convert(text, &err));
	assert_int_equal(err, ERR_LIMIT);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_json_is_json),
		cmocka_unit_test(simple_types),
		cmocka_unit_test(properties_come_in_order_and_only_the_optional_may_be_missing),
		cmocka_unit_test(arrays),
		cmocka_unit_test(strings_and_their_bounds),
		cmocka_unit_test(numbers_and_their_bounds),
		cmocka_unit_test(values_and_choices),
		cmocka_unit_test(references_even_to_oneself),
		cmocka_unit_test(what_is_not_in_the_subset_is_refused_by_name),
		cmocka_unit_test(limits_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
