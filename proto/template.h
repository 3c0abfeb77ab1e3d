/* template.h: a text for people apart from the values in it, so that whoever shows it can say it in his own language.
 *
 * The daemon speaks English and does not know who reads. It sends what a printf format gives and, beside that, the format and
 * its values as text; the command line looks the format up in its translations and puts the values in. Pure. Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_TEMPLATE_H
#define PROTO_TEMPLATE_H

#include <stdarg.h>
#include <stddef.h>

/* Marks a text for the translators that stands where xgettext does not look by itself (po/Makefile.inc says where it does). */
#define N_(text) text

#define TEMPLATE_VALUES_MAX 12
#define TEMPLATE_VALUE_SIZE 1024         /* a longer value is cut */

/* Calls on_value for each value that printf would write, as printf would write it. Directives: d i u x o c s f g e, with flags,
 * numeric width and precision, and the length modifiers hh h l ll z j t. ERR_UNSUPPORTED for others (also '*' and %N$), ERR_LIMIT
 * past TEMPLATE_VALUES_MAX. */
int template_values(const char *format, va_list ap, void (*on_value)(void *arg, const char *value), void *arg);

/* The format with its directives replaced by values in order; %N$s takes the Nth (from 1). Never reads past n values and never
 * gives the format to printf: it may come from elsewhere. ERR_MALFORMED when the values do not suffice, ERR_LIMIT when out is too small (out then
 * holds what fits). */
int template_fill(char *out, size_t size, const char *format, const char *const *values, size_t n);

/* The other way, for a sentence that came without its format: whether text is format with values put in, and which; n of them. Each value is
 * the shortest that lets the next words follow; those of numbers are digits. 0, or ERR_MALFORMED. */
int template_match(const char *format, const char *text, char (*values)[TEMPLATE_VALUE_SIZE], size_t *n);

#endif
