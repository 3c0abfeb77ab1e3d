/* gbnf.c: reads a grammar into symbols: a group becomes a rule without a name. Then two questions about the rules: which may match
 * nothing (a fixed point), and which may begin with which (a walk that must not come back to where it is).
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/gbnf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"
#include "proto/text.h"

#define SYMBOLS_MAX 32768
#define NO_RULE UINT32_MAX

struct symbol {
	uint32_t rule;               /* NO_RULE: characters, which are never empty */
	bool optional;               /* repeated from 0 times on; or a literal of no characters */
	bool ends;                   /* the last of its alternative; an empty alternative is one optional symbol */
};
struct rule {
	const char *name;            /* NULL: a group */
	size_t length;
	uint32_t line;               /* where it is first mentioned */
	uint32_t first, end;         /* its symbols */
	bool defined, empty;         /* empty: it may match nothing */
	uint8_t walked;              /* 1: on the way, 2: done */
	uint32_t at;                 /* while walked: the symbol that is next */
};
struct grammar {
	const char *text, *end, *at;
	uint32_t line;
	struct rule *rules;
	struct symbol *symbols;      /* those of finished rules; what is being read stands in `open` */
	struct symbol *open;
	uint32_t n_rules, n_symbols, n_open, copies;
	uint32_t *name_hash;         /* 1 + rule, by hash of the name */
	int err;
	char *why;
	size_t why_size;
};
#define HASH_SIZE (2 * GBNF_RULES_MAX)

__attribute__((format(printf, 4, 5)))
static bool fail(struct grammar *g, int err, uint32_t line, const char *format, ...)
{
	va_list args;
	int n;

	if (g->err)
		return false;
	g->err = err;
	n = snprintf(g->why, g->why_size, "line %u of the grammar: ", line);
	va_start(args, format);
	if (n >= 0 && (size_t)n < g->why_size)
		vsnprintf(g->why + n, g->why_size - (size_t)n, format, args);
	va_end(args);
	return false;
}

/* --- reading ------------------------------------------------------------------------------------------ */

static int peek(const struct grammar *g)
{
	return g->at < g->end ? (unsigned char)*g->at : -1;
}

static int take(struct grammar *g)
{
	int c = peek(g);

	if (c >= 0)
		g->at++;
	if (c == '\n')
		g->line++;
	return c;
}

static void skip(struct grammar *g, bool lines)
{
	for (;;) {
		int c = peek(g);

		if (c == '#')
			while (peek(g) >= 0 && peek(g) != '\n' && peek(g) != '\r')
				take(g);
		else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r')))
			take(g);
		else
			return;
	}
}

static bool is_word(int c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
}

static bool push(struct grammar *g, struct symbol symbol)
{
	if (g->n_open + g->n_symbols == SYMBOLS_MAX)
		return fail(g, ERR_LIMIT, g->line, "there are more than %d symbols", SYMBOLS_MAX);
	g->open[g->n_open++] = symbol;
	return true;
}

static uint32_t add_rule(struct grammar *g, const char *name, size_t length)
{
	if (g->n_rules == GBNF_RULES_MAX) {
		fail(g, ERR_LIMIT, g->line, "there are more than %d rules and groups", GBNF_RULES_MAX);
		return NO_RULE;
	}
	g->rules[g->n_rules] = (struct rule){ .name = name, .length = length, .line = g->line };
	return g->n_rules++;
}

/* The rule of a name that begins here, new when it was never mentioned. */
static uint32_t take_name(struct grammar *g)
{
	const char *name = g->at;
	uint32_t hash = 2166136261u;
	size_t n;

	while (is_word(peek(g)))
		hash = (hash ^ (uint32_t)take(g)) * 16777619u;       /* FNV-1a */
	n = (size_t)(g->at - name);
	if (n == 0 || n > GBNF_NAME_MAX) {
		fail(g, n ? ERR_LIMIT : ERR_MALFORMED, g->line, n ? "a name has more than %d characters" : "a name, \"text\", [characters] or ( was expected",
		     GBNF_NAME_MAX);
		return NO_RULE;
	}
	for (uint32_t i = hash % HASH_SIZE;; i = (i + 1) % HASH_SIZE) {
		uint32_t rule = g->name_hash[i];

		if (rule && g->rules[rule - 1].length == n && !memcmp(g->rules[rule - 1].name, name, n))
			return rule - 1;
		if (rule)
			continue;
		rule = add_rule(g, name, n);
		if (rule != NO_RULE)
			g->name_hash[i] = rule + 1;
		return rule;
	}
}

static bool take_hex(struct grammar *g, int digits)
{
	uint32_t value = 0;

	for (int i = 0; i < digits; i++) {
		int c = take(g);
		int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;

		if (digit < 0)
			return fail(g, ERR_MALFORMED, g->line, "\\%c is followed by %d hexadecimal digits", digits == 2 ? 'x' : digits == 4 ? 'u' : 'U', digits);
		value = value << 4 | (uint32_t)digit;
	}
	if (value > 0x10ffff)
		return fail(g, ERR_MALFORMED, g->line, "there is no such character");
	return true;
}

/* One character of a literal or a class. */
static bool take_character(struct grammar *g)
{
	int c = take(g);

	if (c < 0 || c == '\n')
		return fail(g, ERR_MALFORMED, g->line, "a text or a set of characters is not closed");
	while (c != '\\' && (peek(g) & 0xc0) == 0x80 && peek(g) >= 0)
		take(g);                 /* the rest of a UTF-8 character */
	if (c != '\\')
		return true;
	switch (take(g)) {
	case 'x': return take_hex(g, 2);
	case 'u': return take_hex(g, 4);
	case 'U': return take_hex(g, 8);
	case 't': case 'r': case 'n': case '\\': case '"': case '[': case ']': return true;
	default: return fail(g, ERR_MALFORMED, g->line, "what follows \\ is none of x u U t r n \\ \" [ ]");
	}
}

static bool take_literal(struct grammar *g)
{
	bool none = true;

	take(g);
	while (peek(g) != '"') {
		none = false;
		if (!take_character(g))
			return false;
	}
	take(g);
	return push(g, (struct symbol){ .rule = NO_RULE, .optional = none });
}

static bool take_class(struct grammar *g)
{
	bool none = true;

	take(g);
	if (peek(g) == '^')
		take(g);
	while (peek(g) != ']') {
		none = false;
		if (!take_character(g))
			return false;
		if (peek(g) == '-' && g->at + 1 < g->end && g->at[1] != ']') {
			take(g);
			if (!take_character(g))
				return false;
		}
	}
	take(g);
	if (none)
		return fail(g, ERR_MALFORMED, g->line, "a set of characters is empty");
	return push(g, (struct symbol){ .rule = NO_RULE });
}

static bool take_number(struct grammar *g, uint32_t *out)
{
	*out = 0;
	if (peek(g) < '0' || peek(g) > '9')
		return fail(g, ERR_MALFORMED, g->line, "a repetition is written {m}, {m,} or {m,n}");
	while (peek(g) >= '0' && peek(g) <= '9') {
		*out = *out * 10 + (uint32_t)(take(g) - '0');
		if (*out > GBNF_REPEAT_MAX)
			return fail(g, ERR_LIMIT, g->line, "something is repeated more than %d times", GBNF_REPEAT_MAX);
	}
	return true;
}

/* {m}, {m,} or {m,n}, behind the brace. */
static bool take_bounds(struct grammar *g, uint32_t *low, bool *endless)
{
	uint32_t high;

	skip(g, false);
	if (!take_number(g, low))
		return false;
	skip(g, false);
	high = *low;
	if (peek(g) == ',') {
		take(g);
		skip(g, false);
		*endless = peek(g) == '}';
		if (!*endless && !take_number(g, &high))
			return false;
		skip(g, false);
	}
	if (take(g) != '}')
		return fail(g, ERR_MALFORMED, g->line, "a repetition is written {m}, {m,} or {m,n}");
	if (high < *low)
		return fail(g, ERR_MALFORMED, g->line, "a repetition ends below where it begins");
	if (!*endless && high == 0)
		return fail(g, ERR_MALFORMED, g->line, "something is repeated 0 times at most");
	g->copies += high;
	if (g->copies > GBNF_COPIES_MAX)
		return fail(g, ERR_LIMIT, g->line, "all repetitions together come to more than %d copies", GBNF_COPIES_MAX);
	return true;
}

/* *, +, ? and {} behind the last symbol. Twice is allowed. What is repeated without end gets a rule of its own that begins with itself
 * when the symbol may be empty, so that the walk finds it. */
static bool take_repetition(struct grammar *g)
{
	for (;;) {
		struct symbol *last = &g->open[g->n_open - 1];
		int c = peek(g);
		uint32_t low = c == '+', rule;
		bool endless = c == '*' || c == '+';

		if (c != '*' && c != '+' && c != '?' && c != '{')
			return true;
		take(g);
		if (c == '{' && !take_bounds(g, &low, &endless))
			return false;
		if (endless) {
			rule = add_rule(g, NULL, 0);
			if (rule == NO_RULE)
				return false;
			if (g->n_open + g->n_symbols + 2 > SYMBOLS_MAX)
				return fail(g, ERR_LIMIT, g->line, "there are more than %d symbols", SYMBOLS_MAX);
			g->rules[rule].defined = true;
			g->rules[rule].first = g->n_symbols;
			g->symbols[g->n_symbols++] = *last;
			g->symbols[g->n_symbols++] = (struct symbol){ .rule = rule, .optional = true, .ends = true };
			g->rules[rule].end = g->n_symbols;
			*last = (struct symbol){ .rule = rule };
		}
		last->optional = last->optional || low == 0;
		skip(g, false);
	}
}

static bool take_alternatives(struct grammar *g, uint32_t rule, unsigned depth);

static bool take_group(struct grammar *g, unsigned depth)
{
	uint32_t rule = add_rule(g, NULL, 0);

	take(g);
	if (rule == NO_RULE)
		return false;
	if (depth == GBNF_DEPTH_MAX)
		return fail(g, ERR_LIMIT, g->line, "more than %d groups lie in each other", GBNF_DEPTH_MAX);
	skip(g, true);
	if (!take_alternatives(g, rule, depth + 1))
		return false;
	if (take(g) != ')')
		return fail(g, ERR_MALFORMED, g->line, "a ( is not closed");
	return push(g, (struct symbol){ .rule = rule });
}

/* Everything up to the rule's end, or the group's. */
static bool take_alternatives(struct grammar *g, uint32_t rule, unsigned depth)
{
	uint32_t first = g->n_open, alternative = first;
	bool nested = depth > 0;

	for (;;) {
		int c;

		skip(g, nested);
		c = peek(g);
		if (c == '"' ? !take_literal(g) : c == '[' ? !take_class(g) : c == '(' ? !take_group(g, depth) : false)
			return false;
		if (c == '.') {
			take(g);
			if (!push(g, (struct symbol){ .rule = NO_RULE }))
				return false;
		}
		if (is_word(c)) {
			uint32_t name = take_name(g);

			if (name == NO_RULE || !push(g, (struct symbol){ .rule = name }))
				return false;
		}
		if (c == '"' || c == '[' || c == '(' || c == '.' || is_word(c)) {
			skip(g, nested);
			if (!take_repetition(g))
				return false;
			continue;
		}
		if (g->n_open == alternative && !push(g, (struct symbol){ .rule = NO_RULE, .optional = true }))
			return false;
		g->open[g->n_open - 1].ends = true;
		alternative = g->n_open;
		if (c != '|')
			break;
		take(g);
		skip(g, true);
	}
	g->rules[rule].first = g->n_symbols;
	memcpy(g->symbols + g->n_symbols, g->open + first, (g->n_open - first) * sizeof *g->open);
	g->n_symbols += g->n_open - first;
	g->rules[rule].end = g->n_symbols;
	g->rules[rule].defined = true;
	g->n_open = first;
	return true;
}

static bool take_rule(struct grammar *g)
{
	uint32_t rule = take_name(g);

	if (rule == NO_RULE)
		return false;
	skip(g, false);
	if (g->end - g->at < 3 || memcmp(g->at, "::=", 3))
		return fail(g, ERR_MALFORMED, g->line, "a rule is written name ::= what it matches");
	if (g->rules[rule].defined)
		return fail(g, ERR_MALFORMED, g->line, "this rule was defined before");
	g->at += 3;
	skip(g, true);
	if (!take_alternatives(g, rule, 0))
		return false;
	if (peek(g) >= 0 && peek(g) != '\n' && peek(g) != '\r')
		return fail(g, ERR_MALFORMED, g->line, "a name, \"text\", [characters], ( or the line's end was expected");
	skip(g, true);
	return true;
}

/* --- the rules ------------------------------------------------------------------------------------------ */

static bool may_be_empty(const struct grammar *g, const struct symbol *s)
{
	return s->optional || (s->rule != NO_RULE && g->rules[s->rule].empty);
}

static void find_empty(struct grammar *g)
{
	for (bool changed = true; changed;) {
		changed = false;
		for (uint32_t r = 0; r < g->n_rules; r++) {
			struct rule *rule = &g->rules[r];
			bool empty = true;

			for (uint32_t i = rule->first; i < rule->end && !rule->empty; i++) {
				empty = empty && may_be_empty(g, &g->symbols[i]);
				if (g->symbols[i].ends && empty)
					rule->empty = changed = true;
				if (g->symbols[i].ends)
					empty = true;
			}
		}
	}
}

/* Is symbol i one that its rule may begin with: everything before it in the alternative may be empty. */
static bool may_begin(const struct grammar *g, const struct rule *rule, uint32_t i)
{
	return i == rule->first || g->symbols[i - 1].ends || may_be_empty(g, &g->symbols[i - 1]);
}

/* Depth first from one rule along "may begin with"; a stack of rules, because rules may be thousands deep. */
static bool walk(struct grammar *g, uint32_t from, uint32_t *stack)
{
	uint32_t n = 0;

	stack[n++] = from;
	g->rules[from].walked = 1;
	g->rules[from].at = g->rules[from].first;
	while (n) {
		struct rule *rule = &g->rules[stack[n - 1]], *to;

		if (rule->at == rule->end) {
			rule->walked = 2;
			n--;
			continue;
		}
		if (!may_begin(g, rule, rule->at)) {     /* nothing more in this alternative begins it */
			while (!g->symbols[rule->at].ends)
				rule->at++;
			rule->at++;
			continue;
		}
		to = g->symbols[rule->at].rule == NO_RULE ? NULL : &g->rules[g->symbols[rule->at].rule];
		rule->at++;
		if (!to || to->walked == 2)
			continue;
		if (to->walked == 1)
			return fail(g, ERR_MALFORMED, to->line, "a rule begins with itself, or repeats without end what may be empty");
		to->walked = 1;
		to->at = to->first;
		stack[n++] = (uint32_t)(to - g->rules);
	}
	return true;
}

static bool check_rules(struct grammar *g)
{
	uint32_t *stack = calloc(g->n_rules, sizeof *stack);
	bool root = false, fine = true;

	if (!stack)
		return fail(g, -ENOMEM, g->line, "out of memory");
	for (uint32_t r = 0; r < g->n_rules && fine; r++) {
		root = root || (g->rules[r].length == 4 && !memcmp(g->rules[r].name, "root", 4) && g->rules[r].defined);
		if (!g->rules[r].defined)
			fine = fail(g, ERR_MALFORMED, g->rules[r].line, "a rule is named that is defined nowhere");
	}
	if (fine && !root)
		fine = fail(g, ERR_MALFORMED, g->line, "there is no rule named root");
	if (fine)
		find_empty(g);
	for (uint32_t r = 0; r < g->n_rules && fine; r++)
		fine = g->rules[r].walked || walk(g, r, stack);
	free(stack);
	return fine;
}

int gbnf_check(const char *text, size_t n, char *why, size_t why_size)
{
	struct grammar g = { .text = text, .end = text + n, .at = text, .line = 1, .why = why, .why_size = why_size };

	if (n > GBNF_BYTES_MAX) {
		snprintf(why, why_size, "a grammar has at most %u KiB", GBNF_BYTES_MAX >> 10);
		return ERR_LIMIT;
	}
	if (!text_is_utf8(text, n)) {
		snprintf(why, why_size, "a grammar is UTF-8 text without NUL");
		return ERR_MALFORMED;
	}
	g.rules = calloc(GBNF_RULES_MAX, sizeof *g.rules);
	g.symbols = calloc(SYMBOLS_MAX, sizeof *g.symbols);
	g.open = calloc(SYMBOLS_MAX, sizeof *g.open);
	g.name_hash = calloc(HASH_SIZE, sizeof *g.name_hash);
	if (!g.rules || !g.symbols || !g.open || !g.name_hash)
		fail(&g, -ENOMEM, 1, "out of memory");
	skip(&g, true);
	while (!g.err && peek(&g) >= 0)
		take_rule(&g);
	if (!g.err)
		check_rules(&g);
	free(g.rules);
	free(g.symbols);
	free(g.open);
	free(g.name_hash);
	return g.err;
}
