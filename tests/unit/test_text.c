/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"
#include "proto/text.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void hex_round_trips_every_byte(void **state)
{
	uint8_t bytes[256], back[256];
	char text[513];
	for (size_t i = 0; i < 256; i++)
		bytes[i] = (uint8_t)i;
	text_hex(bytes, 256, text);
	assert_int_equal(strlen(text), 512);
	assert_memory_equal(text, "000102030405060708090a0b", 24);
	assert_string_equal(text + 508, "feff");
	assert_int_equal(text_unhex(text, back, 256), 0);
	assert_memory_equal(back, bytes, 256);
	text_hex(NULL, 0, text);
	assert_string_equal(text, "");
	assert_int_equal(text_unhex("", back, 0), 0);
}

static void unhex_takes_only_the_exact_length_in_lower_case(void **state)
{
	static const char *const bad[] = { "", "0", "00", "000", "00000", "000000", "00G0", "ABCD", "00 0", "0x00", " 0000", "0000 ", "00\xc3\xa9" };
	for (size_t i = 0; i < COUNT(bad); i++) {
		uint8_t out[2] = { 7, 8 };
		assert_int_equal(text_unhex(bad[i], out, 2), ERR_MALFORMED);
		assert_memory_equal(out, "\7\10", 2);
	}
}

static void base64_gives_the_examples_of_rfc_4648_without_padding(void **state)
{
	static const struct {
		const char *plain, *text;
	} examples[] = {
		{ "", "" },          { "f", "Zg" },         { "fo", "Zm8" },         { "foo", "Zm9v" },
		{ "foob", "Zm9vYg" }, { "fooba", "Zm9vYmE" }, { "foobar", "Zm9vYmFy" }, { "\xfb\xff\xbf", "-_-_" },
	};
	for (size_t i = 0; i < COUNT(examples); i++) {
		char text[16];
		uint8_t out[16];
		size_t n, length = strlen(examples[i].plain);
		text_base64((const uint8_t *)examples[i].plain, length, text);
		assert_string_equal(text, examples[i].text);
		assert_int_equal(text_base64_size(length), strlen(text) + 1);
		assert_int_equal(text_unbase64(text, strlen(text), out, length, &n), 0);
		assert_int_equal(n, length);
		assert_memory_equal(out, examples[i].plain, length);
		if (length)
			assert_int_equal(text_unbase64(text, strlen(text), out, length - 1, &n), ERR_LIMIT);
	}
}

static void unbase64_takes_one_spelling_only(void **state)
{
	/* a wrong length, padding, the other alphabet, spaces, and bits behind the last byte */
	static const char *const bad[] = { "A", "AAAAA", "Zg==", "Zm8=", "+/+/", "Zm 9v", "Zm9v\n", "Zh", "Zm9", "Z\xc3", "Zm9vYh" };
	for (size_t i = 0; i < COUNT(bad); i++) {
		uint8_t out[16] = { 9 };
		size_t n = 5;
		assert_int_equal(text_unbase64(bad[i], strlen(bad[i]), out, sizeof(out), &n), ERR_MALFORMED);
		assert_int_equal(n, 0);
		assert_int_equal(out[0], 9);
	}
	uint8_t out[4];
	size_t n;
	assert_int_equal(text_unbase64("Zg\0A", 4, out, sizeof(out), &n), ERR_MALFORMED);
}

static void copy_cuts_and_says_so(void **state)
{
	char out[4] = "xyz";
	assert_int_equal(text_copy(out, 4, "abc"), 0);
	assert_string_equal(out, "abc");
	assert_int_equal(text_copy(out, 4, "defg"), ERR_LIMIT);
	assert_string_equal(out, "def");
	assert_int_equal(text_copy(out, 1, ""), 0);
	assert_string_equal(out, "");
	assert_int_equal(text_copy(out, 0, "a"), ERR_LIMIT);
}

/* The definition of UTF-8 as arithmetic, to compare with the table in text.c. */
static size_t encode(uint32_t c, uint8_t out[4])
{
	if (c < 0x80)
		return out[0] = (uint8_t)c, 1;
	if (c < 0x800)
		return out[0] = (uint8_t)(0xc0 | c >> 6), out[1] = (uint8_t)(0x80 | (c & 63)), 2;
	if (c < 0x10000)
		return out[0] = (uint8_t)(0xe0 | c >> 12), out[1] = (uint8_t)(0x80 | (c >> 6 & 63)),
		       out[2] = (uint8_t)(0x80 | (c & 63)), 3;
	return out[0] = (uint8_t)(0xf0 | c >> 18), out[1] = (uint8_t)(0x80 | (c >> 12 & 63)),
	       out[2] = (uint8_t)(0x80 | (c >> 6 & 63)), out[3] = (uint8_t)(0x80 | (c & 63)), 4;
}

static void utf8_takes_every_character_and_no_surrogate(void **state)
{
	for (uint32_t c = 0; c < 0x1fffff; c++) {
		uint8_t bytes[4];
		size_t n = encode(c, bytes);
		bool good = c != 0 && c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
		if (text_is_utf8((const char *)bytes, n) != good)
			fail_msg("U+%04X: %s", c, good ? "refused" : "taken");
		bool character = good || c == 0;
		for (size_t part = 1; part < n; part++) {
			if (text_is_utf8((const char *)bytes, part))
				fail_msg("U+%04X: its first %zu bytes taken", c, part);
			if (character && text_utf8_whole((const char *)bytes, part) != 0)
				fail_msg("U+%04X: its first %zu bytes count as whole", c, part);
		}
		if (text_utf8_whole((const char *)bytes, n) != n)
			fail_msg("U+%04X is not whole", c);
	}
}

static void utf8_refuses_overlong_forms_and_stray_bytes(void **state)
{
	static const char *const bad[] = {
		"\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", /* overlong */
		"\x80", "\xbf", "a\x80", "\xc3\xa9\xa9",                                                     /* stray */
		"\xfe", "\xff", "\xf5\x80\x80\x80", "\xf8\x88\x80\x80\x80",                                  /* no lead */
		"\xc3", "\xc3z", "\xe2\x82", "\xe2\x82z", "\xf0\x9f\x90", "\xf0\x9f\x90z",                   /* cut */
	};
	for (size_t i = 0; i < COUNT(bad); i++)
		if (text_is_utf8(bad[i], strlen(bad[i])))
			fail_msg("example %zu taken", i);
	assert_false(text_is_utf8("a\0b", 3));
	assert_true(text_is_utf8("", 0));
	assert_true(text_is_utf8("\xf0\x9f\x90\x9d essaim d\xc3\xa9j\xc3\xa0", 16));
}

static void whole_keeps_back_only_what_may_still_become_a_character(void **state)
{
	static const struct {
		const char *text;
		size_t whole;
	} examples[] = {
		{ "", 0 },
		{ "abc", 3 },
		{ "ab\xc3", 2 },
		{ "ab\xc3\xa9", 4 },
		{ "ab\xe2", 2 },
		{ "ab\xe2\x82", 2 },
		{ "ab\xe2\x82\xac", 5 },
		{ "\xf0\x9f\x90", 0 },
		{ "x\xf0\x9f\x90", 1 },
		{ "x\xf0\x9f", 1 },
		{ "\xf0\x9f\x90\x9d", 4 },
		{ "\xc3\xa9\xc3", 2 },
		/* can never become UTF-8, so nobody waits for the rest */
		{ "ab\xff", 3 },
		{ "ab\xc0", 3 },
		{ "ab\x80", 3 },
		{ "ab\x80\x80\x80", 5 },
		{ "\xe0\x80", 2 },
		{ "\xed\xa0", 2 },
		{ "\xf4\x90", 2 },
		{ "\xf0\x80\x80", 3 },
		{ "\xc3\xa9\xa9\xa9", 4 },
		{ "\xe2z", 2 },
	};
	for (size_t i = 0; i < COUNT(examples); i++)
		if (text_utf8_whole(examples[i].text, strlen(examples[i].text)) != examples[i].whole)
			fail_msg("example %zu: %zu", i, text_utf8_whole(examples[i].text, strlen(examples[i].text)));
}

static void names_are_printable_and_leave_room_for_name_at_association(void **state)
{
	static const char *const good[] = { "a", "Abeille", "L'Essaim de Bourgogne", "d\xc3\xa9j\xc3\xa0 vu", "qwen2.5-0.5b", "\xf0\x9f\x90\x9d",
					    "x.y_z-0", "a  b" };
	static const char *const bad[] = {
		"", " a", "a ", " ", "a/b", "/", "a@b", "@", "a\nb", "a\tb", "\x1b[31m", "a\x7f", "a\xc2\x85", "\xff", "a\xc3",
		"a\xe2\x80\xae""b", /* right-to-left override */
		"a\xe2\x80\xa8""b", /* line separator */
		"\xef\xbb\xbf""a",  /* byte order mark */
	};
	for (size_t i = 0; i < COUNT(good); i++)
		if (!text_is_name(good[i]))
			fail_msg("\"%s\" refused", good[i]);
	for (size_t i = 0; i < COUNT(bad); i++)
		if (text_is_name(bad[i]))
			fail_msg("example %zu taken", i);
	char text[65];
	memset(text, 'n', 64);
	text[64] = '\0';
	assert_false(text_is_name(text));
	text[63] = '\0';
	assert_true(text_is_name(text));
}

static void bytes_are_told_in_binary_units(void **state)
{
	static const struct {
		uint64_t n;
		const char *text;
	} examples[] = {
		{ 0, "0 B" },
		{ 12, "12 B" },
		{ 1023, "1023 B" },
		{ 1024, "1.0 KiB" },
		{ 1536, "1.5 KiB" },
		{ 10188, "9.9 KiB" },
		{ 10189, "10 KiB" },
		{ 352256, "344 KiB" },
		{ 1023 * 1024, "1023 KiB" },
		{ 1024 * 1024 - 1, "1.0 MiB" },
		{ UINT64_C(1395864371), "1.3 GiB" },
		{ UINT64_C(1) << 40, "1.0 TiB" },
		{ UINT64_C(1) << 50, "1.0 PiB" },
		{ UINT64_MAX, "16 EiB" },
	};
	for (size_t i = 0; i < COUNT(examples); i++) {
		char out[16];
		assert_string_equal(text_bytes(examples[i].n, out, sizeof(out)), examples[i].text);
	}
}

static void durations_are_told_in_two_units(void **state)
{
	static const struct {
		uint64_t seconds;
		const char *text;
	} examples[] = {
		{ 0, "0 s" },
		{ 41, "41 s" },
		{ 60, "1 min 00 s" },
		{ 3599, "59 min 59 s" },
		{ 3600, "1 h 00 min" },
		{ 7500, "2 h 05 min" },
		{ 86399, "23 h 59 min" },
		{ 86400, "1 d 00 h" },
		{ 100 * 86400 + 3600 * 5, "100 d 05 h" },
		{ UINT64_MAX, "over 99999 d" },
	};
	for (size_t i = 0; i < COUNT(examples); i++) {
		char out[16];
		assert_string_equal(text_duration(examples[i].seconds, out, sizeof(out)), examples[i].text);
	}
}

static void parse_bytes_reads_what_people_write(void **state)
{
	static const struct {
		const char *text;
		uint64_t n;
	} good[] = {
		{ "0", 0 },
		{ "80000", 80000 },
		{ "80000 B", 80000 },
		{ "512M", UINT64_C(512) << 20 },
		{ "512m", UINT64_C(512) << 20 },
		{ "512MB", UINT64_C(512) << 20 },
		{ "512 MiB", UINT64_C(512) << 20 },
		{ "1.5 GiB", UINT64_C(3) << 29 },
		{ "1.50G", UINT64_C(3) << 29 },
		{ "0.001K", 1 },
		{ "2T", UINT64_C(2) << 40 },
		{ "1.0000000000000000000000000000K", 1024 },
		{ "18446744073709551615", UINT64_MAX },
		{ "16777215.999999T", (UINT64_C(16777215) << 40) + (UINT64_C(999999) << 40) / 1000000 },
	};
	static const char *const malformed[] = { "", " ", "-1", "+1", "x", "G", ".5G", "1.G", "1.5", "1.5 B", "1,5G", "1  G", " 1G", "1G ", "1 ",
						 "1GG", "1GiBs", "1Gi", "1E", "1KIB", "0x10", "1e3" };
	static const char *const past[] = { "18446744073709551616", "99999999999999999999999", "16777216T", "18014398509481984K" };
	for (size_t i = 0; i < COUNT(good); i++) {
		uint64_t n = 1;
		if (text_parse_bytes(good[i].text, &n))
			fail_msg("\"%s\" refused", good[i].text);
		assert_true(n == good[i].n);
	}
	for (size_t i = 0; i < COUNT(malformed); i++) {
		uint64_t n = 1;
		if (text_parse_bytes(malformed[i], &n) != ERR_MALFORMED)
			fail_msg("\"%s\" taken", malformed[i]);
		assert_true(n == 0);
	}
	for (size_t i = 0; i < COUNT(past); i++) {
		uint64_t n = 1;
		assert_int_equal(text_parse_bytes(past[i], &n), ERR_LIMIT);
		assert_true(n == 0);
	}
}

static void counts_are_read_by_thousands(void **state)
{
	(void)state;
	char out[40];
	assert_string_equal(text_count(0, out, sizeof out), "0");
	assert_string_equal(text_count(999, out, sizeof out), "999");
	assert_string_equal(text_count(1000, out, sizeof out), "1\u00a0000");
	assert_string_equal(text_count(12345678, out, sizeof out), "12\u00a0345\u00a0678");
	assert_string_equal(text_count(UINT64_MAX, out, sizeof out), "18\u00a0446\u00a0744\u00a0073\u00a0709\u00a0551\u00a0615");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_are_read_by_thousands),
		cmocka_unit_test(hex_round_trips_every_byte),
		cmocka_unit_test(unhex_takes_only_the_exact_length_in_lower_case),
		cmocka_unit_test(base64_gives_the_examples_of_rfc_4648_without_padding),
		cmocka_unit_test(unbase64_takes_one_spelling_only),
		cmocka_unit_test(copy_cuts_and_says_so),
		cmocka_unit_test(utf8_takes_every_character_and_no_surrogate),
		cmocka_unit_test(utf8_refuses_overlong_forms_and_stray_bytes),
		cmocka_unit_test(whole_keeps_back_only_what_may_still_become_a_character),
		cmocka_unit_test(names_are_printable_and_leave_room_for_name_at_association),
		cmocka_unit_test(bytes_are_told_in_binary_units),
		cmocka_unit_test(durations_are_told_in_two_units),
		cmocka_unit_test(parse_bytes_reads_what_people_write),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
