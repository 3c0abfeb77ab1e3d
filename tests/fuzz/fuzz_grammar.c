/* fuzz_grammar.c: a grammar, or a JSON Schema that becomes one, from whoever holds the key.
 *
 * The first byte says which; the rest is the text. What must hold:
 *   - a refusal has words;
 *   - a grammar that is taken is taken again, and with a comment behind it;
 *   - a schema that is taken gives a grammar that is taken.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "daemon/api/schema.h"
#include "tests/fuzz/fuzz.h"

static const char *const seeds[] = {
	"\0root ::= \"yes\" | \"no\" ws number{1,3}   # comment\nws ::= [ \\t\\n]*\nnumber ::= [0-9] | [^a-z\\]] | . | (ws \"-\")?\n",
	"\0root ::= \"\\x41\\u00e9\\U0001F600\\t\\r\\n\\\\\\\"\\[\\]\" (root | \"\"){2,}",
	"\0root ::= a? b+\na ::= \"x\"\nb ::= [a-z-] a{0,7} (\n\"(\" b \")\" )",
	"\1{}",
	"\1{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":5},\"b\":{\"enum\":[\"x\",null]}},\"required\":[\"a\"]}",
	"\1{\"$defs\":{\"p\":{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":2,\"maxItems\":7}},\"anyOf\":[{\"$ref\":\"#/$defs/p\"},{\"type\":\"null\"}]}",
	"\1{\"prefixItems\":[{\"const\":1},{\"type\":[\"string\",\"number\"],\"minLength\":2,\"maxLength\":9}],\"items\":true,\"minItems\":3}",
	"\1{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\",\"format\":\"date-time\"},\"title\":\"t\"}",
	"\1{\"required\":[\"a\",\"b\"],\"properties\":{\"b\":{\"oneOf\":[{\"allOf\":[{\"type\":\"boolean\"}]},{\"type\":\"number\",\"minimum\":0}]}}}",
};

bool fuzz_seed(size_t i, struct buf *out)
{
	if (i >= sizeof seeds / sizeof *seeds)
		return false;
	must(buf_append(out, seeds[i], 1) == 0 && buf_append_str(out, seeds[i] + 1) == 0);
	return true;
}

static void check_grammar(const char *text, size_t n)
{
	char why[200] = "";
	int err = gbnf_check(text, n, why, sizeof why);
	must(err ? why[0] != 0 : 1);
	if (err || n + 9 > GBNF_BYTES_MAX)
		return;
	struct buf more;
	buf_init(&more, GBNF_BYTES_MAX);
	must(buf_append(&more, text, n) == 0 && buf_append_str(&more, "\n# behind") == 0);
	must(gbnf_check((const char *)more.data, more.length, why, sizeof why) == 0);
	buf_release(&more);
}

static void check_schema(const char *text, size_t n)
{
	yyjson_doc *doc = yyjson_read(text, n, 0);
	char why[300] = "";
	struct buf out;
	if (!doc)
		return;
	buf_init(&out, GBNF_BYTES_MAX);
	if (schema_to_grammar(yyjson_doc_get_root(doc), &out, why, sizeof why))
		must(why[0]);
	else
		must(gbnf_check((const char *)out.data, out.length, why, sizeof why) == 0);
	buf_release(&out);
	yyjson_doc_free(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (!n)
		return 0;
	if (data[0] & 1)
		check_schema((const char *)data + 1, n - 1);
	else
		check_grammar((const char *)data + 1, n - 1);
	return 0;
}
