/* schema.c: each schema becomes an expression; objects, and what $ref names, become rules of their own. The rules for any JSON are a
 * fixed text at the end. White space is one blank, or a new line and at most 20 blanks: a model that is free to write more may do nothing else.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/api/schema.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

struct converter {
	yyjson_val *root;
	struct buf *out;
	unsigned n_rules, n_refs, depth;
	struct {
		yyjson_val *schema;
		unsigned rule;
	} refs[SCHEMA_REFS_MAX];
	char path[160];                      /* where we are, for messages */
	int err;
	char *why;
	size_t why_size;
};

static const char any_json[] =
	"value ::= object | array | string | number | \"true\" | \"false\" | \"null\"\n"
	"object ::= \"{\" ws (string ws \":\" ws value ws (\",\" ws string ws \":\" ws value ws)*)? \"}\"\n"
	"array ::= \"[\" ws (value ws (\",\" ws value ws)*)? \"]\"\n"
	"string ::= \"\\\"\" char* \"\\\"\"\n"
	"char ::= [^\"\\\\\\x00-\\x1F\\x7F] | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" ([0-9a-cefA-CEF] hex | [dD] [0-7]) hex hex)\n"
	"hex ::= [0-9a-fA-F]\n"
	"number ::= \"-\"? positive\n"
	"positive ::= natural (\".\" [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?\n"
	"natural ::= \"0\" | [1-9] [0-9]{0,15}\n"
	"ws ::= (\" \" | \"\\n\" [ \\t]{0,20})?\n"
	"date ::= [0-9]{4} \"-\" (\"02-\" day | (\"0\" [469] | \"11\") \"-\" (day | \"30\") | (\"0\" [13578] | \"1\" [02]) \"-\" (day | \"3\" [01]))\n"
	"day ::= \"0\" [1-9] | [12] [0-9]\n"
	"time ::= ([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9] \":\" [0-5] [0-9] (\".\" [0-9]{1,6})? (\"Z\" | [-+] ([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9])\n"
	"uuid ::= hex{8} \"-\" hex{4} \"-\" hex{4} \"-\" hex{4} \"-\" hex{12}\n";

__attribute__((format(printf, 3, 4)))
static void fail(struct converter *c, int err, const char *format, ...)
{
	va_list args;
	int n;
	if (c->err)
		return;
	c->err = err;
	n = snprintf(c->why, c->why_size, "schema%s: ", c->path);
	va_start(args, format);
	if (n >= 0 && (size_t)n < c->why_size)
		vsnprintf(c->why + n, c->why_size - (size_t)n, format, args);
	va_end(args);
}

static void put_bytes(struct converter *c, struct buf *out, const void *bytes, size_t n)
{
	if (!c->err && buf_append(out, bytes, n))
		fail(c, ERR_LIMIT, "its grammar is larger than %u KiB", GBNF_BYTES_MAX >> 10);
}

static void put(struct converter *c, struct buf *out, const char *text)
{
	put_bytes(c, out, text, strlen(text));
}

__attribute__((format(printf, 3, 4)))
static void putf(struct converter *c, struct buf *out, const char *format, ...)
{
	char text[128];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	put(c, out, text);
}

/* A value's JSON as a GBNF literal. */
static void put_literal(struct converter *c, struct buf *out, yyjson_val *value)
{
	size_t n = 0;
	char *json = yyjson_val_write(value, 0, &n);
	if (!json) {
		fail(c, ERR_MALFORMED, "a value cannot be written");
		return;
	}
	put(c, out, "\"");
	for (size_t i = 0; i < n && !c->err; i++) {
		unsigned char b = (unsigned char)json[i];
		if (b == '"' || b == '\\')
			putf(c, out, "\\%c", b);
		else if (b < 0x20 || b == 0x7f)
			putf(c, out, "\\x%02X", b);
		else
			put_bytes(c, out, &json[i], 1);
	}
	put(c, out, "\"");
	free(json);
}

/* --- what a schema may say ------------------------------------------------------------------------------ */

enum { ANNOTATION = 1, ANY = 2, OBJECT = 4, ARRAY = 8, STRING = 16, NUMBER = 32, INTEGER = 64, BOOLEAN = 128, NIL = 256 };

static const struct keyword {
	const char *name;
	unsigned types;                      /* which types it speaks of */
} keywords[] = {
	{"title", ANNOTATION}, {"description", ANNOTATION}, {"default", ANNOTATION}, {"examples", ANNOTATION}, {"deprecated", ANNOTATION},
	{"readOnly", ANNOTATION}, {"writeOnly", ANNOTATION}, {"$schema", ANNOTATION}, {"$id", ANNOTATION}, {"$comment", ANNOTATION},
	{"$defs", ANNOTATION}, {"definitions", ANNOTATION}, {"discriminator", ANNOTATION},
	{"type", ANY}, {"enum", ANY}, {"const", ANY}, {"anyOf", ANY}, {"oneOf", ANY}, {"allOf", ANY}, {"$ref", ANY},
	{"properties", OBJECT}, {"required", OBJECT}, {"additionalProperties", OBJECT},
	{"items", ARRAY}, {"prefixItems", ARRAY}, {"minItems", ARRAY}, {"maxItems", ARRAY}, {"uniqueItems", ARRAY},
	{"minLength", STRING}, {"maxLength", STRING}, {"format", STRING},
	{"minimum", NUMBER | INTEGER}, {"maximum", NUMBER | INTEGER}, {"exclusiveMinimum", NUMBER | INTEGER}, {"exclusiveMaximum", NUMBER | INTEGER},
};

static unsigned type_named(const char *name)
{
	static const char *const names[] = {"object", "array", "string", "number", "integer", "boolean", "null"};
	for (unsigned i = 0; name && i < sizeof names / sizeof *names; i++)
		if (!strcmp(name, names[i]))
			return OBJECT << i;
	return 0;
}

/* Which kinds of keywords are there, all types together; fails at one that is not known. */
static unsigned kinds_of(struct converter *c, yyjson_val *schema)
{
	unsigned kinds = 0;
	yyjson_val *key, *value;
	size_t i, n;
	yyjson_obj_foreach(schema, i, n, key, value)
	{
		const struct keyword *known = NULL;
		for (size_t k = 0; k < sizeof keywords / sizeof *keywords && !known; k++)
			if (!strcmp(keywords[k].name, yyjson_get_str(key)))
				known = &keywords[k];
		if (!known) {
			fail(c, ERR_UNSUPPORTED, "\"%.40s\" is not supported (doc/API.md lists what is)", yyjson_get_str(key));
			return 0;
		}
		kinds |= known->types;
	}
	return kinds;
}

/* Words that must stand alone, because what stands beside them would have to hold as well. */
static bool alone(struct converter *c, yyjson_val *schema, const char *word, const char *also)
{
	yyjson_val *key, *value;
	size_t i, n;
	yyjson_obj_foreach(schema, i, n, key, value)
	{
		const char *name = yyjson_get_str(key);
		for (size_t k = 0; k < sizeof keywords / sizeof *keywords; k++)
			if (!strcmp(keywords[k].name, name) && keywords[k].types != ANNOTATION && strcmp(name, word) && (!also || strcmp(name, also))) {
				fail(c, ERR_UNSUPPORTED, "\"%s\" beside \"%s\" is not supported", name, word);
				return false;
			}
	}
	return true;
}

/* A bound: a whole number from 0 on. */
static uint64_t bound(struct converter *c, yyjson_val *schema, const char *name, uint64_t otherwise)
{
	yyjson_val *v = yyjson_obj_get(schema, name);
	if (!v)
		return otherwise;
	if (!yyjson_is_uint(v))
		fail(c, ERR_MALFORMED, "\"%s\" must be a whole number of at least 0", name);
	return yyjson_get_uint(v);
}

/* --- expressions ---------------------------------------------------------------------------------------- */

static void expression(struct converter *c, yyjson_val *schema, struct buf *out);

/* The expression of a part, with its name added to the path for messages. */
static void part(struct converter *c, const char *name, yyjson_val *schema, struct buf *out)
{
	size_t length = strlen(c->path);
	snprintf(c->path + length, sizeof c->path - length, ".%.40s", name);
	expression(c, schema, out);
	c->path[length] = 0;
}

/* Ends a rule's text that was gathered in body, and names it in out. */
static void put_rule(struct converter *c, unsigned rule, struct buf *body)
{
	putf(c, c->out, "s%u ::= ", rule);
	put_bytes(c, c->out, body->data, body->length);
	put(c, c->out, "\n");
}

static bool matches_type(yyjson_val *value, unsigned types)
{
	unsigned is = yyjson_is_obj(value) ? OBJECT : yyjson_is_arr(value) ? ARRAY : yyjson_is_str(value) ? STRING : yyjson_is_bool(value) ? BOOLEAN :
		      yyjson_is_null(value) ? NIL : yyjson_is_int(value) ? INTEGER | NUMBER : NUMBER;
	return types & is;
}

static void put_values(struct converter *c, yyjson_val *values, unsigned types, struct buf *out)
{
	yyjson_val *value;
	size_t i, n, used = 0;
	if (!yyjson_is_arr(values) || yyjson_arr_size(values) > SCHEMA_VALUES_MAX) {
		fail(c, ERR_MALFORMED, "\"enum\" must be an array of at most %d values", SCHEMA_VALUES_MAX);
		return;
	}
	yyjson_arr_foreach(values, i, n, value)
		if (matches_type(value, types)) {
			put(c, out, used++ ? " | " : "(");
			put_literal(c, out, value);
		}
	put(c, out, ")");
	if (!used)
		fail(c, ERR_MALFORMED, "no value of \"enum\" has the type that \"type\" asks for");
}

static void put_choice(struct converter *c, const char *word, yyjson_val *list, struct buf *out)
{
	yyjson_val *one;
	size_t i, n;
	if (!yyjson_is_arr(list) || !yyjson_arr_size(list)) {
		fail(c, ERR_MALFORMED, "\"%s\" must be an array with at least one schema", word);
		return;
	}
	if (!strcmp(word, "allOf") && yyjson_arr_size(list) != 1) {
		fail(c, ERR_UNSUPPORTED, "\"allOf\" of several schemas is not supported");
		return;
	}
	yyjson_arr_foreach(list, i, n, one)
	{
		char name[64];
		snprintf(name, sizeof name, "%s[%zu]", word, i);
		put(c, out, i ? " | " : "(");
		part(c, name, one, out);
		if (c->err)
			return;
	}
	put(c, out, ")");
}

/* "#" and "#/a/b" of the schema itself. */
static void put_reference(struct converter *c, yyjson_val *reference, struct buf *out)
{
	const char *pointer = yyjson_get_str(reference);
	yyjson_val *to = NULL;
	struct buf body;
	char path[sizeof c->path];
	unsigned rule, depth = c->depth;
	if (pointer && pointer[0] == '#' && (!pointer[1] || pointer[1] == '/'))
		to = yyjson_ptr_getn(c->root, pointer + 1, yyjson_get_len(reference) - 1);
	if (!to) {
		fail(c, ERR_UNSUPPORTED, "\"$ref\" must name a part of this schema, as in \"#/$defs/name\"");
		return;
	}
	for (unsigned i = 0; i < c->n_refs; i++)
		if (c->refs[i].schema == to) {
			putf(c, out, "s%u", c->refs[i].rule);
			return;
		}
	if (c->n_refs == SCHEMA_REFS_MAX) {
		fail(c, ERR_LIMIT, "more than %d different \"$ref\"", SCHEMA_REFS_MAX);
		return;
	}
	rule = c->n_rules++;
	c->refs[c->n_refs].schema = to;
	c->refs[c->n_refs++].rule = rule;
	putf(c, out, "s%u", rule);
	buf_init(&body, GBNF_BYTES_MAX);
	snprintf(path, sizeof path, "%s", c->path);
	snprintf(c->path, sizeof c->path, ".%.100s", pointer + (pointer[1] ? 2 : 1));
	expression(c, to, &body);
	c->depth = depth;
	snprintf(c->path, sizeof c->path, "%s", path);
	put_rule(c, rule, &body);
	buf_release(&body);
}

static void put_string(struct converter *c, yyjson_val *schema, struct buf *out)
{
	uint64_t low = bound(c, schema, "minLength", 0), high = bound(c, schema, "maxLength", UINT64_MAX);
	yyjson_val *format = yyjson_obj_get(schema, "format");
	const char *name = yyjson_get_str(format);
	if (format) {
		if (!name || (strcmp(name, "date") && strcmp(name, "time") && strcmp(name, "date-time") && strcmp(name, "uuid")))
			fail(c, ERR_UNSUPPORTED, "\"format\" is date, time, date-time or uuid here");
		else if (low || high != UINT64_MAX)
			fail(c, ERR_UNSUPPORTED, "\"format\" goes without \"minLength\" and \"maxLength\"");
		else
			putf(c, out, "\"\\\"\" %s \"\\\"\"", !strcmp(name, "date-time") ? "date \"T\" time" : name);
		return;
	}
	if (low > high || low > GBNF_REPEAT_MAX)
		fail(c, low > high ? ERR_MALFORMED : ERR_LIMIT, low > high ? "\"minLength\" is more than \"maxLength\"" : "\"minLength\" is at most %d", GBNF_REPEAT_MAX);
	else if (high == UINT64_MAX && !low)
		put(c, out, "string");
	else if (high == UINT64_MAX)
		putf(c, out, "\"\\\"\" char{%u,} \"\\\"\"", (unsigned)low);
	else if (!high)
		put(c, out, "\"\\\"\\\"\"");
	else                                 /* shorter than the schema allows is fine with the schema */
		putf(c, out, "\"\\\"\" char{%u,%u} \"\\\"\"", (unsigned)low, (unsigned)(high < GBNF_REPEAT_MAX ? high : GBNF_REPEAT_MAX));
}

/* Bounds of whole numbers, -1 apart from exclusive ones. True when there are any. */
static bool whole_bounds(struct converter *c, yyjson_val *schema, bool *has_low, int64_t *low, bool *has_high, int64_t *high)
{
	static const char *const names[] = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"};
	*has_low = *has_high = false;
	for (size_t i = 0; i < 4; i++) {
		yyjson_val *v = yyjson_obj_get(schema, names[i]);
		int64_t bound = yyjson_get_sint(v);
		if (!v)
			continue;
		if (!yyjson_is_int(v) || (yyjson_is_uint(v) && yyjson_get_uint(v) > 1ull << 53) || bound < -(1ll << 53)) {
			fail(c, ERR_UNSUPPORTED, "\"%s\" must be a whole number, within 2^53", names[i]);
			return false;
		}
		bound += i == 1 ? 1 : i == 3 ? -1 : 0;
		if (i < 2) {
			*low = *has_low && *low > bound ? *low : bound;
			*has_low = true;
		} else {
			*high = *has_high && *high < bound ? *high : bound;
			*has_high = true;
		}
	}
	return *has_low || *has_high;
}

static void put_integer(struct converter *c, yyjson_val *schema, struct buf *out)
{
	bool has_low, has_high;
	int64_t low = 0, high = 0;
	if (!whole_bounds(c, schema, &has_low, &low, &has_high, &high)) {
		put(c, out, "\"-\"? natural");
	} else if (has_low && has_high && low > high) {
		fail(c, ERR_MALFORMED, "no whole number lies within its bounds");
	} else if (has_low && has_high && high - low < SCHEMA_RANGE_MAX) {
		for (int64_t i = low; i <= high; i++)
			putf(c, out, i > low ? " | \"%lld\"" : "(\"%lld\"", (long long)i);
		put(c, out, ")");
	} else if (has_low && !has_high && low == 0) {
		put(c, out, "natural");
	} else if (has_low && !has_high && low == 1) {
		put(c, out, "[1-9] [0-9]{0,15}");
	} else {
		fail(c, ERR_UNSUPPORTED, "whole numbers may lie within bounds at most %d apart, or have a minimum of 0 or 1 and no maximum", SCHEMA_RANGE_MAX - 1);
	}
}

static void put_number(struct converter *c, yyjson_val *schema, struct buf *out)
{
	yyjson_val *low = yyjson_obj_get(schema, "minimum");
	if (yyjson_obj_get(schema, "maximum") || yyjson_obj_get(schema, "exclusiveMinimum") || yyjson_obj_get(schema, "exclusiveMaximum") ||
	    (low && (!yyjson_is_num(low) || yyjson_get_num(low) != 0)))
		fail(c, ERR_UNSUPPORTED, "the only bound of a \"number\" can be a minimum of 0");
	else
		put(c, out, low ? "positive" : "number");
}

static void put_array(struct converter *c, yyjson_val *schema, struct buf *out)
{
	yyjson_val *items = yyjson_obj_get(schema, "items"), *prefix = yyjson_obj_get(schema, "prefixItems"), *one;
	uint64_t low = bound(c, schema, "minItems", 0), high = bound(c, schema, "maxItems", UINT64_MAX);
	size_t i, n, written = 0;
	if (prefix && (!yyjson_is_arr(prefix) || yyjson_arr_size(prefix) > SCHEMA_PROPERTIES_MAX))
		fail(c, ERR_MALFORMED, "\"prefixItems\" must be an array of at most %d schemas", SCHEMA_PROPERTIES_MAX);
	if (yyjson_is_true(yyjson_obj_get(schema, "uniqueItems")))
		fail(c, ERR_UNSUPPORTED, "\"uniqueItems\" is not supported");
	if (low > high || low > GBNF_REPEAT_MAX)
		fail(c, low > high ? ERR_MALFORMED : ERR_LIMIT, low > high ? "\"minItems\" is more than \"maxItems\"" : "\"minItems\" is at most %d", GBNF_REPEAT_MAX);
	if (c->err)
		return;
	put(c, out, "\"[\" ws ");
	if (prefix)
		yyjson_arr_foreach(prefix, i, n, one)
		{
			char name[40];
			if (written == high)
				break;
			snprintf(name, sizeof name, "prefixItems[%zu]", i);
			put(c, out, written++ ? "\",\" ws " : "");
			part(c, name, one, out);
			put(c, out, " ws ");
		}
	bool more = !yyjson_is_false(items) && (items || !prefix || low > written) && written < high;
	if (!more && low > written)
		fail(c, ERR_MALFORMED, "\"minItems\" asks for more than there can be");
	if (more) {
		struct buf item;
		unsigned rule = c->n_rules++;
		uint64_t least = low > written ? low - written : 0, most = high == UINT64_MAX ? high : high - written;
		buf_init(&item, GBNF_BYTES_MAX);
		if (items)
			part(c, "items", items, &item);
		else
			put(c, &item, "value");
		put(c, &item, " ws");
		put_rule(c, rule, &item);
		buf_release(&item);
		if (written) {                       /* each behind a comma */
			putf(c, out, most == UINT64_MAX ? "(\",\" ws s%u){%u,} " : "(\",\" ws s%u){%u,%u} ", rule, (unsigned)least,
			     (unsigned)(most < GBNF_REPEAT_MAX ? most : GBNF_REPEAT_MAX));
		} else {
			unsigned again = least ? (unsigned)least - 1 : 0, last = (unsigned)(most < GBNF_REPEAT_MAX ? most : GBNF_REPEAT_MAX) - 1;
			putf(c, out, "(s%u", rule);
			if (most == UINT64_MAX)
				putf(c, out, " (\",\" ws s%u){%u,}", rule, again);
			else if (last)
				putf(c, out, " (\",\" ws s%u){%u,%u}", rule, again, last);
			put(c, out, least ? ") " : ")? ");
		}
	}
	put(c, out, "\"]\"");
}

struct property {
	yyjson_val *key, *schema;            /* schema NULL: any value, required without being described */
	bool required;
};

/* key ":" value, as it stands in the object. */
static void put_member(struct converter *c, const struct property *p, struct buf *out)
{
	put_literal(c, out, p->key);
	put(c, out, " ws \":\" ws ");
	if (p->schema)
		part(c, yyjson_get_str(p->key), p->schema, out);
	else
		put(c, out, "value");
	put(c, out, " ws");
}

/* Two rules a property: what may follow when something was written before (with a comma), and when nothing was. So the text grows with
 * the number of properties only, however many of them are optional. */
static void put_properties(struct converter *c, const struct property *properties, size_t n, struct buf *out)
{
	unsigned first = c->n_rules;
	struct buf body;
	c->n_rules += 3 * (unsigned)n;               /* first + 3 i: the member; + 1: with what follows, first; + 2: not first */
	for (size_t i = n; i-- > 0 && !c->err;) {
		unsigned rule = first + 3 * (unsigned)i;
		bool last = i + 1 == n;
		buf_init(&body, GBNF_BYTES_MAX);
		put_member(c, &properties[i], &body);
		put_rule(c, rule, &body);
		buf_clear(&body);
		for (unsigned comma = 0; comma < 2; comma++) {
			putf(c, &body, comma ? "\",\" ws s%u" : "s%u", rule);
			if (!last)
				putf(c, &body, " s%u", rule + 5);
			if (!properties[i].required && last)
				put(c, &body, " | \"\"");
			else if (!properties[i].required)
				putf(c, &body, " | s%u", rule + 3 + 1 + comma);
			put_rule(c, rule + 1 + comma, &body);
			buf_clear(&body);
		}
		buf_release(&body);
	}
	putf(c, out, "\"{\" ws s%u \"}\"", first + 1);
}

/* yyjson's loops want a container, so that what is not there is asked about first. */
static size_t gather(struct converter *c, yyjson_val *schema, struct property *properties)
{
	yyjson_val *described = yyjson_obj_get(schema, "properties"), *required = yyjson_obj_get(schema, "required"), *key, *value;
	size_t i, max, n = 0;
	if ((described && !yyjson_is_obj(described)) || (required && !yyjson_is_arr(required))) {
		fail(c, ERR_MALFORMED, "\"properties\" must be an object and \"required\" an array");
		return 0;
	}
	if (described)
		yyjson_obj_foreach(described, i, max, key, value)
		{
			if (n == SCHEMA_PROPERTIES_MAX) {
				fail(c, ERR_LIMIT, "an object has at most %d properties", SCHEMA_PROPERTIES_MAX);
				return 0;
			}
			properties[n++] = (struct property){.key = key, .schema = value};
		}
	if (required)
		yyjson_arr_foreach(required, i, max, value)
		{
			size_t at = 0;
			while (at < n && !yyjson_equals(properties[at].key, value))
				at++;
			if (!yyjson_is_str(value) || at == SCHEMA_PROPERTIES_MAX) {
				fail(c, ERR_MALFORMED, "\"required\" must be an array of at most %d names", SCHEMA_PROPERTIES_MAX);
				return 0;
			}
			if (at == n)
				properties[n++] = (struct property){.key = value};
			properties[at].required = true;
		}
	return n;
}

static void put_object(struct converter *c, yyjson_val *schema, struct buf *out)
{
	yyjson_val *additional = yyjson_obj_get(schema, "additionalProperties");
	struct property *properties = calloc(SCHEMA_PROPERTIES_MAX, sizeof *properties);
	size_t n = properties ? gather(c, schema, properties) : 0;
	if (!properties)
		fail(c, -ENOMEM, "out of memory");
	if (additional && !yyjson_is_bool(additional) && !yyjson_is_obj(additional))
		fail(c, ERR_MALFORMED, "\"additionalProperties\" must be true, false or a schema");
	if (c->err) {
		free(properties);
		return;
	}
	if (n) {
		put_properties(c, properties, n, out);
	} else if (yyjson_is_false(additional) || yyjson_obj_get(schema, "properties")) {
		put(c, out, "\"{\" ws \"}\"");
	} else if (!yyjson_is_obj(additional)) {
		put(c, out, "object");
	} else {
		struct buf body;
		unsigned rule = c->n_rules++;
		buf_init(&body, GBNF_BYTES_MAX);
		put(c, &body, "string ws \":\" ws ");
		part(c, "additionalProperties", additional, &body);
		put(c, &body, " ws");
		put_rule(c, rule, &body);
		buf_release(&body);
		putf(c, out, "\"{\" ws (s%u (\",\" ws s%u)*)? \"}\"", rule, rule);
	}
	free(properties);
}

/* The types that a schema asks for, or what its words speak of. */
static unsigned types_of(struct converter *c, yyjson_val *schema, unsigned kinds)
{
	yyjson_val *type = yyjson_obj_get(schema, "type"), *one;
	unsigned types = 0;
	size_t i, n;
	if (!type) {
		unsigned said = kinds & (OBJECT | ARRAY | STRING | NUMBER | INTEGER);
		return said & OBJECT ? OBJECT : said & ARRAY ? ARRAY : said & STRING ? STRING : said ? INTEGER : ANY;
	}
	if (!yyjson_is_arr(type))
		types = type_named(yyjson_get_str(type));
	else
		yyjson_arr_foreach(type, i, n, one)
		{
			unsigned t = type_named(yyjson_get_str(one));
			types = t ? types | t : 0;
			if (!t)
				break;
		}
	if (!types)
		fail(c, ERR_MALFORMED, "\"type\" must be object, array, string, number, integer, boolean or null, or an array of them");
	return types;
}

static void put_types(struct converter *c, yyjson_val *schema, unsigned types, struct buf *out)
{
	unsigned count = 0;
	if (types & NUMBER)
		types &= ~(unsigned)INTEGER;         /* which a number may be */
	put(c, out, "(");
	for (unsigned type = OBJECT; type <= NIL && !c->err; type <<= 1) {
		if (!(types & type))
			continue;
		put(c, out, count++ ? " | " : "");
		switch (type) {
		case OBJECT: put_object(c, schema, out); break;
		case ARRAY: put_array(c, schema, out); break;
		case STRING: put_string(c, schema, out); break;
		case NUMBER: put_number(c, schema, out); break;
		case INTEGER: put_integer(c, schema, out); break;
		case BOOLEAN: put(c, out, "\"true\" | \"false\""); break;
		default: put(c, out, "\"null\"");
		}
	}
	put(c, out, ")");
}

static void expression(struct converter *c, yyjson_val *schema, struct buf *out)
{
	static const char *const lists[] = {"anyOf", "oneOf", "allOf"};
	yyjson_val *value;
	unsigned kinds, types;
	if (c->err)
		return;
	if (yyjson_is_true(schema)) {
		put(c, out, "value");
		return;
	}
	if (!yyjson_is_obj(schema)) {
		fail(c, ERR_MALFORMED, yyjson_is_false(schema) ? "a schema that is false lets nothing be written" : "a schema is an object");
		return;
	}
	if (c->depth == SCHEMA_DEPTH_MAX) {
		fail(c, ERR_LIMIT, "more than %d schemas lie in each other", SCHEMA_DEPTH_MAX);
		return;
	}
	c->depth++;
	kinds = kinds_of(c, schema);
	types = c->err ? 0 : types_of(c, schema, kinds);
	if (c->err)
		return;
	if ((value = yyjson_obj_get(schema, "$ref"))) {
		if (alone(c, schema, "$ref", NULL))
			put_reference(c, value, out);
	} else if ((value = yyjson_obj_get(schema, "const"))) {
		if (alone(c, schema, "const", "type") && types != ANY && !matches_type(value, types))
			fail(c, ERR_MALFORMED, "\"const\" does not have the type that \"type\" asks for");
		put_literal(c, out, value);
	} else if ((value = yyjson_obj_get(schema, "enum"))) {
		if (alone(c, schema, "enum", "type"))
			put_values(c, value, types == ANY ? ~0u : types, out);
	} else {
		const char *list = NULL;
		for (size_t i = 0; i < 3 && !list; i++)
			if ((value = yyjson_obj_get(schema, lists[i])))
				list = lists[i];
		if (list && alone(c, schema, list, NULL))
			put_choice(c, list, value, out);
		else if (!list && types == ANY)
			put(c, out, "value");
		else if (!list)
			put_types(c, schema, types, out);
	}
	c->depth--;
}

int schema_to_grammar(yyjson_val *schema, struct buf *out, char *why, size_t why_size)
{
	struct converter c = {.root = schema, .out = out, .why = why, .why_size = why_size};
	struct buf root;
	size_t begin = out->length;
	buf_init(&root, GBNF_BYTES_MAX);
	expression(&c, schema, &root);
	put(&c, out, "root ::= ");
	put_bytes(&c, out, root.data, root.length);
	put(&c, out, "\n");
	put(&c, out, any_json);
	buf_release(&root);
	if (!c.err) {
		char found[200];
		c.err = gbnf_check((const char *)out->data + begin, out->length - begin, found, sizeof found);
		if (c.err == ERR_MALFORMED)
			snprintf(why, why_size, "schema: a \"$ref\" leads back to itself with nothing in between");
		else if (c.err)
			snprintf(why, why_size, "schema: it is too large (%s)", found);
	}
	return c.err;
}

int schema_any_object(struct buf *out)
{
	int err = buf_append_str(out, "root ::= object\n");
	return err ? err : buf_append_str(out, any_json);
}
