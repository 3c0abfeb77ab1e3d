/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/template.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "proto/err.h"
#include "proto/text.h"

struct directive {
	char text[24];                  /* "%-5.1f" */
	unsigned position;              /* of %N$..., from 1; 0: in order */
	char length[3];                 /* "", "hh", "h", "l", "ll", "z", "j", "t" */
	char conversion;
};

/* Reads the directive that p, behind '%', begins; NULL when it is none. */
static const char *read_directive(const char *p, struct directive *out)
{
	const char *begin = p;
	memset(out, 0, sizeof *out);
	size_t digits = strspn(p, "0123456789");
	if (digits && digits < 4 && p[digits] == '$') {
		for (size_t i = 0; i < digits; i++)
			out->position = out->position * 10 + (unsigned)(p[i] - '0');
		if (!out->position)
			return NULL;
		begin = p = p + digits + 1;
	}
	p += strspn(p, "-+ 0#");
	p += strspn(p, "0123456789");
	if (*p == '.')
		p += 1 + strspn(p + 1, "0123456789");
	size_t n = strspn(p, "hlzjt");
	if (n > 2)
		return NULL;
	memcpy(out->length, p, n);
	p += n;
	if (!*p || !strchr("diuxocsfge", *p))
		return NULL;
	out->conversion = *p++;
	if ((size_t)(p - begin) > sizeof out->text - 2)
		return NULL;
	out->text[0] = '%';
	memcpy(out->text + 1, begin, (size_t)(p - begin));
	return p;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
/* The directive was checked: its conversion and length say which type stands in ap. */
static int write_value(const struct directive *d, va_list *ap, char *out, size_t size)
{
	const char *l = d->length;
	if (strchr("fge", d->conversion)) {
		if (*l)
			return ERR_UNSUPPORTED;
		snprintf(out, size, d->text, va_arg(*ap, double));
	} else if (d->conversion == 's') {
		if (*l)
			return ERR_UNSUPPORTED;
		const char *text = va_arg(*ap, const char *);
		snprintf(out, size, d->text, text ? text : "");
	} else if (!strcmp(l, "ll")) {
		snprintf(out, size, d->text, va_arg(*ap, unsigned long long));
	} else if (!strcmp(l, "l")) {
		snprintf(out, size, d->text, va_arg(*ap, unsigned long));
	} else if (!strcmp(l, "z")) {
		snprintf(out, size, d->text, va_arg(*ap, size_t));
	} else if (!strcmp(l, "j")) {
		snprintf(out, size, d->text, va_arg(*ap, uintmax_t));
	} else if (!strcmp(l, "t")) {
		snprintf(out, size, d->text, va_arg(*ap, ptrdiff_t));
	} else if (!*l || !strcmp(l, "h") || !strcmp(l, "hh")) {
		snprintf(out, size, d->text, va_arg(*ap, unsigned));
	} else {
		return ERR_UNSUPPORTED;
	}
	return 0;
}
#pragma GCC diagnostic pop

int template_values(const char *format, va_list ap, void (*on_value)(void *arg, const char *value), void *arg)
{
	char value[TEMPLATE_VALUE_SIZE] = "";
	size_t n = 0;
	va_list copy;
	int err = 0;
	va_copy(copy, ap);
	for (const char *p = format; !err && (p = strchr(p, '%'));) {
		struct directive d;
		if (*++p == '%') {
			p++;
			continue;
		}
		p = read_directive(p, &d);
		if (!p || d.position)
			err = ERR_UNSUPPORTED;
		else if (n++ == TEMPLATE_VALUES_MAX)
			err = ERR_LIMIT;
		else
			err = write_value(&d, &copy, value, sizeof value);
		value[text_utf8_whole(value, strlen(value))] = 0;       /* it may have been cut */
		if (!err)
			on_value(arg, value);
	}
	va_end(copy);
	return err;
}

int template_fill(char *out, size_t size, const char *format, const char *const *values, size_t n)
{
	size_t used = 0, next = 0;
	const char *p = format;
	while (*p) {
		const char *part = p;
		size_t length = strcspn(p, "%");
		p += length;
		if (!length && p[1] == '%') {
			length = 1;
			p += 2;
		} else if (!length) {
			struct directive d;
			p = read_directive(p + 1, &d);
			size_t index = !p ? n : d.position ? d.position - 1 : next++;
			if (index >= n) {
				out[used] = 0;
				return ERR_MALFORMED;
			}
			part = values[index];
			length = strlen(part);
		}
		size_t room = size - 1 - used;
		memcpy(out + used, part, length < room ? length : room);
		used += length < room ? length : room;
		if (length > room) {
			out[used] = 0;
			return ERR_LIMIT;
		}
	}
	out[used] = 0;
	return 0;
}

/* The words from p to the next directive or the end, into out; what is behind them. */
static const char *read_words(const char *p, char *out, size_t size)
{
	size_t n = 0;
	while (*p && (*p != '%' || p[1] == '%')) {
		if (n < size - 1)
			out[n++] = *p;
		p += *p == '%' ? 2 : 1;
	}
	out[n] = 0;
	return p;
}

int template_match(const char *format, const char *text, char (*values)[TEMPLATE_VALUE_SIZE], size_t *n)
{
	char words[TEMPLATE_VALUE_SIZE];
	*n = 0;
	const char *p = read_words(format, words, sizeof words);
	size_t length = strlen(words);
	if (strncmp(text, words, length))
		return ERR_MALFORMED;
	text += length;
	while (*p) {
		struct directive d;
		p = read_directive(p + 1, &d);
		if (!p || d.position || *n == TEMPLATE_VALUES_MAX)
			return ERR_MALFORMED;
		p = read_words(p, words, sizeof words);
		length = strlen(words);
		/* The last words must end the text. */
		const char *end = !*p ? strlen(text) >= length && !strcmp(text + strlen(text) - length, words) ? text + strlen(text) - length : NULL
				: length ? strstr(text, words) : NULL;
		size_t size = end ? (size_t)(end - text) : 0;
		if (!end || size >= TEMPLATE_VALUE_SIZE || (d.conversion != 's' && (!size || strspn(text, "-0123456789.") < size)))
			return ERR_MALFORMED;
		memcpy(values[*n], text, size);
		values[(*n)++][size] = 0;
		text = end + length;
	}
	return *text ? ERR_MALFORMED : 0;
}
