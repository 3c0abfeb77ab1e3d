/* text.c: bytes as text people can copy, UTF-8, and amounts as people write them.
 *
 * Sources: RFC 4648 section 5 (base64url), RFC 3629 section 4 (the table of valid UTF-8 sequences).
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/err.h"

#define NAME_BYTES_MAX 63

/* --- hexadecimal and base64url --- */

void text_hex(const uint8_t *bytes, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < n; i++) {
		*out++ = digits[bytes[i] >> 4];
		*out++ = digits[bytes[i] & 15];
	}
	*out = '\0';
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int text_unhex(const char *text, uint8_t *out, size_t n)
{
	for (size_t i = 0; i < 2 * n; i++) /* stops at the NUL, which is no digit */
		if (hex_value(text[i]) < 0)
			return ERR_MALFORMED;
	if (text[2 * n])
		return ERR_MALFORMED;
	for (size_t i = 0; i < n; i++)
		out[i] = (uint8_t)(hex_value(text[2 * i]) << 4 | hex_value(text[2 * i + 1]));
	return 0;
}

size_t text_base64_size(size_t n)
{
	return n / 3 * 4 + (n % 3 ? n % 3 + 1 : 0) + 1;
}

void text_base64(const uint8_t *bytes, size_t n, char *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	uint32_t bits = 0;
	unsigned count = 0;
	for (size_t i = 0; i < n; i++) {
		bits = bits << 8 | bytes[i];
		count += 8;
		while (count >= 6) {
			count -= 6;
			*out++ = digits[bits >> count & 63];
		}
	}
	if (count)
		*out++ = digits[bits << (6 - count) & 63];
	*out = '\0';
}

static int base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

int text_unbase64(const char *text, size_t length, uint8_t *out, size_t size, size_t *n)
{
	*n = 0;
	if (length % 4 == 1)
		return ERR_MALFORMED;
	if (length / 4 * 3 + (length % 4 ? length % 4 - 1 : 0) > size)
		return ERR_LIMIT;

	for (size_t i = 0; i < length; i++)
		if (base64_value(text[i]) < 0)
			return ERR_MALFORMED;
	/* The bits that the last character leaves over carry nothing: anything but zeros would be a second spelling. */
	unsigned over = length % 4 == 2 ? 4 : length % 4 == 3 ? 2 : 0;
	if (over && (base64_value(text[length - 1]) & ((1 << over) - 1)))
		return ERR_MALFORMED;

	uint32_t bits = 0;
	unsigned count = 0;
	size_t written = 0;
	for (size_t i = 0; i < length; i++) {
		bits = bits << 6 | (uint32_t)base64_value(text[i]);
		count += 6;
		if (count >= 8) {
			count -= 8;
			out[written++] = (uint8_t)(bits >> count);
		}
	}
	*n = written;
	return 0;
}

int text_copy(char *out, size_t size, const char *text)
{
	if (size == 0)
		return ERR_LIMIT;
	size_t n = strnlen(text, size);
	bool cut = n == size;
	if (cut)
		n--;
	memmove(out, text, n);
	out[n] = '\0';
	return cut ? ERR_LIMIT : 0;
}

/* --- UTF-8 --- */

/* What a lead byte announces: the length of the sequence and the range of its second byte, which is narrower
 * than 80..BF where overlong forms, surrogates and values past U+10FFFF would begin. 0: no lead byte. */
static size_t utf8_lead(uint8_t lead, uint8_t *low, uint8_t *high)
{
	*low = 0x80;
	*high = 0xbf;
	if (lead < 0x80)
		return 1;
	if (lead >= 0xc2 && lead <= 0xdf)
		return 2;
	if (lead >= 0xe0 && lead <= 0xef) {
		if (lead == 0xe0)
			*low = 0xa0;
		if (lead == 0xed)
			*high = 0x9f;
		return 3;
	}
	if (lead >= 0xf0 && lead <= 0xf4) {
		if (lead == 0xf0)
			*low = 0x90;
		if (lead == 0xf4)
			*high = 0x8f;
		return 4;
	}
	return 0;
}

/* Of the character that starts at bytes: its whole length when n bytes hold all of it, 0 when they can never be
 * one, and -k when they are the first k bytes of one. */
static int utf8_next(const uint8_t *bytes, size_t n)
{
	uint8_t low, high;
	size_t length = utf8_lead(bytes[0], &low, &high);
	if (length == 0)
		return 0;
	for (size_t i = 1; i < length; i++) {
		if (i == n)
			return -(int)i;
		if (bytes[i] < low || bytes[i] > high)
			return 0;
		low = 0x80;
		high = 0xbf;
	}
	return (int)length;
}

bool text_is_utf8(const char *text, size_t n)
{
	const uint8_t *at = (const uint8_t *)text, *end = at + n;
	while (at < end) {
		int length = utf8_next(at, (size_t)(end - at));
		if (length <= 0 || *at == 0)
			return false;
		at += length;
	}
	return true;
}

size_t text_utf8_whole(const char *text, size_t n)
{
	const uint8_t *bytes = (const uint8_t *)text;
	for (size_t back = 1; back <= 3 && back <= n; back++)
		if (utf8_next(bytes + n - back, back) < 0)
			return n - back;
	return n;
}

static uint32_t utf8_value(const uint8_t *bytes, int length)
{
	static const uint8_t lead_bits[] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
	uint32_t value = bytes[0] & lead_bits[length];
	for (int i = 1; i < length; i++)
		value = value << 6 | (bytes[i] & 0x3fu);
	return value;
}

/* Besides control characters proper: those that break a line or turn the direction of the text that follows,
 * with which one name can be made to look like another in a list. */
static bool is_control(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x2028 || c == 0x2029 || (c >= 0x202a && c <= 0x202e) ||
	       (c >= 0x2066 && c <= 0x2069) || c == 0x200e || c == 0x200f || c == 0xfeff;
}

bool text_is_name(const char *text)
{
	size_t n = strnlen(text, NAME_BYTES_MAX + 1);
	if (n == 0 || n > NAME_BYTES_MAX || text[0] == ' ' || text[n - 1] == ' ')
		return false;

	const uint8_t *at = (const uint8_t *)text, *end = at + n;
	while (at < end) {
		int length = utf8_next(at, (size_t)(end - at));
		if (length <= 0)
			return false;
		uint32_t c = utf8_value(at, length);
		if (is_control(c) || c == '/' || c == '@')
			return false;
		at += length;
	}
	return true;
}

/* --- amounts --- */

char *text_bytes(uint64_t n, char *out, size_t size)
{
	static const char units[] = "KMGTPE";
	if (n < 1024) {
		snprintf(out, size, "%" PRIu64 " B", n);
		return out;
	}

	/* Tenths of the unit, rounded; what rounds up to 1,024 of one unit is 1.0 of the next. */
	for (unsigned i = 0;; i++) {
		unsigned shift = 10 * (i + 1);
		uint64_t whole = n >> shift;
		uint64_t rest = n & ((UINT64_C(1) << shift) - 1);
		uint64_t tenths = whole * 10 + ((rest * 10 + (UINT64_C(1) << (shift - 1))) >> shift); /* < 2^64: rest < 2^60 */
		if (tenths < 100) {
			snprintf(out, size, "%" PRIu64 ".%" PRIu64 " %ciB", tenths / 10, tenths % 10, units[i]);
			return out;
		}
		uint64_t rounded = whole + (rest >> (shift - 1));
		if (rounded < 1024 || !units[i + 1]) {
			snprintf(out, size, "%" PRIu64 " %ciB", rounded, units[i]);
			return out;
		}
	}
}

char *text_count(uint64_t n, char *out, size_t size)
{
	char digits[24];
	int length = snprintf(digits, sizeof digits, "%" PRIu64, n);
	size_t used = 0;
	for (int i = 0; i < length && used + 4 < size; i++) {
		if (i && (length - i) % 3 == 0) {
			memcpy(out + used, "\u00a0", 2);
			used += 2;
		}
		out[used++] = digits[i];
	}
	out[used] = 0;
	return out;
}

char *text_duration(uint64_t seconds, char *out, size_t size)
{
	const uint64_t minute = 60, hour = 60 * minute, day = 24 * hour;
	if (seconds < minute)
		snprintf(out, size, "%" PRIu64 " s", seconds);
	else if (seconds < hour)
		snprintf(out, size, "%" PRIu64 " min %02" PRIu64 " s", seconds / minute, seconds % minute);
	else if (seconds < day)
		snprintf(out, size, "%" PRIu64 " h %02" PRIu64 " min", seconds / hour, seconds % hour / minute);
	else if (seconds / day <= 99999)
		snprintf(out, size, "%" PRIu64 " d %02" PRIu64 " h", seconds / day, seconds % day / hour);
	else
		snprintf(out, size, "over 99999 d");
	return out;
}

/* The power of two that a suffix stands for, or -1. */
static int unit_shift(const char *unit)
{
	static const char letters[] = "KMGT";
	if (!unit[0] || !strcmp(unit, "B"))
		return 0;
	char c = unit[0] >= 'a' && unit[0] <= 'z' ? (char)(unit[0] - 'a' + 'A') : unit[0];
	const char *letter = strchr(letters, c);
	if (!letter)
		return -1;
	const char *rest = unit + 1;
	if (rest[0] && strcmp(rest, "B") && strcmp(rest, "iB"))
		return -1;
	return (int)(letter - letters + 1) * 10;
}

int text_parse_bytes(const char *text, uint64_t *out)
{
	*out = 0;
	uint64_t whole = 0, fraction = 0, scale = 1;
	const char *at = text;

	if (*at < '0' || *at > '9')
		return ERR_MALFORMED;
	for (; *at >= '0' && *at <= '9'; at++)
		if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *at - '0', &whole))
			return ERR_LIMIT;
	bool has_fraction = *at == '.';
	if (has_fraction) {
		at++;
		if (*at < '0' || *at > '9')
			return ERR_MALFORMED;
		for (; *at >= '0' && *at <= '9'; at++) {
			if (scale >= 1000000)
				continue; /* beyond a millionth of the unit nobody means it */
			fraction = fraction * 10 + (uint64_t)(*at - '0');
			scale *= 10;
		}
	}
	if (*at == ' ')
		at++;

	int shift = unit_shift(at);
	if (shift < 0 || (has_fraction && shift == 0) || (at[0] == '\0' && at[-1] == ' '))
		return ERR_MALFORMED;
	if (whole > UINT64_MAX >> shift)
		return ERR_LIMIT;
	/* 2^40 * 10^6 fits, and the fraction adds less than one unit: no bit of it reaches the whole part. */
	*out = (whole << shift) + (fraction << shift) / scale;
	return 0;
}
