/* fields.c: values that several schemas of proto share, each with one rule.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/fields.h"

#include <string.h>

#include "proto/text.h"

void field_fail(struct pack_cursor c, int err)
{
	if (!*c.err)
		*c.err = err;
}

/* C0, DEL and C1 (c2 80 .. c2 9f): what a terminal could obey. */
static bool is_control(const uint8_t *at)
{
	return *at < 0x20 || *at == 0x7f || (at[0] == 0xc2 && at[1] >= 0x80 && at[1] <= 0x9f);
}

bool field_is_plain(const char *text)
{
	if (!text_is_utf8(text, strlen(text)))
		return false;
	for (const uint8_t *at = (const uint8_t *)text; *at; at++)
		if (is_control(at))
			return false;
	return true;
}

void field_get_plain(struct pack_cursor c, const char *key, char *out, size_t size)
{
	pack_get_str(c, key, out, size);
	if (!field_is_plain(out)) {
		memset(out, 0, size);
		field_fail(c, ERR_MALFORMED);
	}
}

void field_get_plain_or(struct pack_cursor c, const char *key, char *out, size_t size)
{
	pack_get_str_or(c, key, out, size, "");
	if (!field_is_plain(out)) {
		memset(out, 0, size);
		field_fail(c, ERR_MALFORMED);
	}
}

void field_make_plain(char *out, size_t size, const char *text)
{
	size_t n = strnlen(text, size - 1);
	memset(out, 0, size);
	if (text[n])
		n = text_utf8_whole(text, n);
	memcpy(out, text, n);
	bool valid = text_is_utf8(out, n);
	for (size_t i = 0; i < n; i++) {
		uint8_t *at = (uint8_t *)out + i;
		if (is_control(at) || (!valid && *at >= 0x80))
			*at = '?';
		if (i && at[-1] == '?' && *at >= 0x80 && *at < 0xc0)
			*at = '?';      /* the second byte of a C1 control, whose first is gone */
	}
}

bool field_is_file_name(const char *text)
{
	size_t n = strnlen(text, 256);
	return n > 0 && n < 256 && text[0] != '.' && !strchr(text, '/') && field_is_plain(text);
}

uint64_t field_get_range(struct pack_cursor c, const char *key, uint64_t min, uint64_t max)
{
	uint64_t v = pack_get_uint(c, key, max);
	if (v >= min)
		return v;
	field_fail(c, ERR_MALFORMED);
	return 0;
}

int field_get_code(struct pack_cursor c, const char *key, int max)
{
	int64_t v = pack_get_int(c, key);
	if (v >= INT32_MIN && v <= max)
		return (int)v;
	field_fail(c, ERR_MALFORMED);
	return max;
}

bool field_is_range(const struct layer_range *range, uint32_t n_layer)
{
	return range->first < range->end && range->end <= n_layer;
}

static void read_layers(struct pack_cursor list, struct layer_range *out, size_t max, size_t *n, uint32_t n_layer)
{
	size_t count = pack_count(list);
	*n = 0;
	if (count % 2)
		field_fail(list, ERR_MALFORMED);
	if (count / 2 > max)
		field_fail(list, ERR_LIMIT);
	if (*list.err)
		return;
	for (size_t i = 0; i < count / 2; i++) {
		out[i].first = (uint32_t)pack_at_uint(list, 2 * i, n_layer);
		out[i].end = (uint32_t)pack_at_uint(list, 2 * i + 1, n_layer);
		if (!field_is_range(&out[i], n_layer))
			field_fail(list, ERR_MALFORMED);
	}
	if (!*list.err)
		*n = count / 2;
}

void field_get_layers(struct pack_cursor c, const char *key, struct layer_range *out, size_t max, size_t *n, uint32_t n_layer)
{
	struct pack_cursor list = pack_get(c, key);
	if (!*c.err && !pack_is_array(list))
		field_fail(c, ERR_MALFORMED);
	read_layers(list, out, max, n, n_layer);
}

void field_at_layers(struct pack_cursor c, size_t i, struct layer_range *out, size_t max, size_t *n, uint32_t n_layer)
{
	struct pack_cursor list = pack_at(c, i);
	if (!*c.err && !pack_is_array(list))
		field_fail(c, ERR_MALFORMED);
	read_layers(list, out, max, n, n_layer);
}

void field_put_layers(struct pack_writer *w, const struct layer_range *ranges, size_t n)
{
	pack_array(w, 2 * n);
	for (size_t i = 0; i < n; i++) {
		pack_uint(w, ranges[i].first);
		pack_uint(w, ranges[i].end);
	}
}
