/* test_stops.c: text on its way out, cut into tokens anywhere.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/route/route.h"
#include "proto/text.h"

#define SEEDS 20000

static uint64_t splitmix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static uint64_t below(uint64_t *state, uint64_t n)
{
	return splitmix(state) % n;
}

struct shown {
	char text[1024];
	size_t n;
	bool stopped;
};

static void show(struct shown *shown, const char *text, size_t n)
{
	assert_true(shown->n + n < sizeof shown->text);
	assert_int_equal(text_utf8_whole(text, n), n);
	memcpy(shown->text + shown->n, text, n);
	shown->n += n;
	shown->text[shown->n] = '\0';
}

static void feed(struct stops *s, struct shown *shown, const char *bytes, size_t length)
{
	const char *out;
	size_t n;
	int fed = stops_feed(s, (const uint8_t *)bytes, length, &out, &n);
	assert_true(fed >= 0);
	shown->stopped = fed > 0;
	show(shown, out, n);
}

static void flush(struct stops *s, struct shown *shown)
{
	const char *out;
	size_t n;
	stops_flush(s, &out, &n);
	show(shown, out, n);
}

static void text_passes_at_once_when_nothing_may_stop_it(void **state)
{
	struct stops *s = stops_new(NULL, 0);
	struct shown shown = {0};
	feed(s, &shown, "Il pleut", 8);
	assert_string_equal(shown.text, "Il pleut");
	feed(s, &shown, "", 0);
	feed(s, &shown, ".", 1);
	assert_string_equal(shown.text, "Il pleut.");
	assert_false(shown.stopped);
	flush(s, &shown);
	assert_string_equal(shown.text, "Il pleut.");
	stops_free(s);
}

static void a_character_is_shown_when_it_is_whole(void **state)
{
	static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x9d";     /* a e-acute euro bee */
	static const size_t shown_after[] = {1, 1, 3, 3, 3, 6, 6, 6, 6, 10};
	struct stops *s = stops_new(NULL, 0);
	struct shown shown = {0};
	for (size_t i = 0; i < sizeof text - 1; i++) {
		feed(s, &shown, text + i, 1);
		assert_int_equal(shown.n, shown_after[i]);
	}
	assert_string_equal(shown.text, text);
	stops_free(s);
}

static void half_a_character_at_the_end_is_left_out(void **state)
{
	struct stops *s = stops_new(NULL, 0);
	struct shown shown = {0};
	feed(s, &shown, "ab\xf0\x9f\x90", 5);
	flush(s, &shown);
	assert_string_equal(shown.text, "ab");
	stops_free(s);
}

static void bytes_that_are_no_text_are_not_held_back(void **state)
{
	struct stops *s = stops_new(NULL, 0);
	struct shown shown = {0};
	feed(s, &shown, "\xff\xfe", 2);
	assert_int_equal(shown.n, 2);
	feed(s, &shown, "\x80", 1);
	assert_int_equal(shown.n, 3);
	stops_free(s);
}

static void a_stop_string_ends_the_text_and_is_not_shown(void **state)
{
	struct stops *s = stops_new((const char *const[]){"FIN"}, 1);
	struct shown shown = {0};
	feed(s, &shown, "voil\xc3\xa0 FIN et plus", 17);
	assert_true(shown.stopped);
	assert_string_equal(shown.text, "voil\xc3\xa0 ");
	flush(s, &shown);
	assert_string_equal(shown.text, "voil\xc3\xa0 ");
	stops_free(s);
}

static void a_stop_string_is_seen_across_tokens(void **state)
{
	struct stops *s = stops_new((const char *const[]){"\n\nFIN"}, 1);
	struct shown shown = {0};
	feed(s, &shown, "a\n", 2);
	assert_string_equal(shown.text, "a");
	feed(s, &shown, "\nF", 2);
	assert_string_equal(shown.text, "a");
	feed(s, &shown, "INI", 3);
	assert_true(shown.stopped);
	flush(s, &shown);
	assert_string_equal(shown.text, "a");
	stops_free(s);
}

static void what_only_looked_like_a_stop_string_is_shown_after_all(void **state)
{
	struct stops *s = stops_new((const char *const[]){"FIN"}, 1);
	struct shown shown = {0};
	feed(s, &shown, "FI", 2);
	assert_int_equal(shown.n, 0);
	feed(s, &shown, "FIL", 3);
	assert_string_equal(shown.text, "FIFIL");
	feed(s, &shown, " F", 2);
	assert_string_equal(shown.text, "FIFIL ");
	flush(s, &shown);
	assert_string_equal(shown.text, "FIFIL F");
	stops_free(s);
}

static void the_stop_string_that_is_complete_first_counts(void **state)
{
	const char *const stops[] = {"abc", "b"};
	for (size_t cut = 1; cut < 4; cut++) {
		struct stops *s = stops_new(stops, 2);
		struct shown shown = {0};
		feed(s, &shown, "xabc", cut);
		if (!shown.stopped)
			feed(s, &shown, &"xabc"[cut], 4 - cut);
		assert_true(shown.stopped);
		assert_string_equal(shown.text, "xa");
		stops_free(s);
	}
}

static void a_stop_string_may_begin_inside_a_token_of_half_characters(void **state)
{
	struct stops *s = stops_new((const char *const[]){"\xc3\xa9t\xc3\xa9"}, 1);
	struct shown shown = {0};
	feed(s, &shown, "l'\xc3", 3);
	assert_string_equal(shown.text, "l'");
	feed(s, &shown, "\xa9t\xc3", 3);
	assert_string_equal(shown.text, "l'");
	feed(s, &shown, "\xaa", 1);
	assert_string_equal(shown.text, "l'\xc3\xa9t\xc3\xaa");
	stops_free(s);
}

static void stop_strings_past_the_limits_are_refused(void **state)
{
	char longest[1026];
	memset(longest, 'x', sizeof longest - 1);
	longest[sizeof longest - 1] = '\0';
	const char *const stops[STOPS_MAX + 1] = {longest + 1, "a", "b", "c", "d"}, *const too_long[] = {longest}, *const empty[] = {""};
	struct stops *s = stops_new(stops, STOPS_MAX);
	assert_non_null(s);
	stops_free(s);
	assert_null(stops_new(stops, STOPS_MAX + 1));
	assert_null(stops_new(too_long, 1));
	assert_null(stops_new(empty, 1));
	stops_free(NULL);
}

static void a_flood_within_one_token_is_an_error(void **state)
{
	struct stops *s = stops_new((const char *const[]){"FIN"}, 1);
	size_t length = 70u << 10, n;
	const char *out;
	uint8_t *flood = calloc(1, length);
	assert_non_null(flood);
	assert_int_equal(stops_feed(s, flood, length, &out, &n), ERR_LIMIT);
	assert_int_equal(n, 0);
	free(flood);
	stops_free(s);
}

/* The same, by looking at the whole text: what is before the stop string that ends first. */
static size_t cut_off(const char *text, size_t length, const char *const *stops, size_t n_stops, bool *stopped)
{
	*stopped = true;
	for (size_t end = 1; end <= length; end++) {
		size_t longest = 0;
		for (size_t i = 0; i < n_stops; i++) {
			size_t n = strlen(stops[i]);
			if (n <= end && n > longest && !memcmp(text + end - n, stops[i], n))
				longest = n;
		}
		if (longest)
			return end - longest;
	}
	*stopped = false;
	return length;
}

static void where_tokens_end_makes_no_difference(void **state)
{
	static const char *const letters[] = {"a", "b", "\xc3\xa9", "\xf0\x9f\x90\x9d"};
	unsigned stops_seen = 0;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		uint64_t random = seed;
		char text[256] = "", words[STOPS_MAX][32] = {""};
		const char *stops[STOPS_MAX];
		size_t n_stops = below(&random, STOPS_MAX + 1);
		for (size_t i = 0; i < n_stops; i++) {
			for (uint64_t k = 1 + below(&random, 4); k--;)
				strcat(words[i], letters[below(&random, 4)]);
			stops[i] = words[i];
		}
		for (uint64_t k = below(&random, 40); k--;)
			strcat(text, letters[below(&random, 4)]);
		size_t length = strlen(text);
		bool stopped;
		size_t want = cut_off(text, length, stops, n_stops, &stopped);

		struct stops *s = stops_new(stops, n_stops);
		struct shown shown = {0};
		for (size_t at = 0; at < length && !shown.stopped;) {
			size_t n = 1 + below(&random, 6);
			if (n > length - at)
				n = length - at;
			feed(s, &shown, text + at, n);
			at += n;
		}
		assert_int_equal(shown.stopped, stopped);
		if (!shown.stopped)
			flush(s, &shown);
		assert_int_equal(shown.n, want);
		assert_memory_equal(shown.text, text, want);
		stops_seen += stopped;
		stops_free(s);
	}
	assert_true(stops_seen > SEEDS / 4 && stops_seen < SEEDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_passes_at_once_when_nothing_may_stop_it),
		cmocka_unit_test(a_character_is_shown_when_it_is_whole),
		cmocka_unit_test(half_a_character_at_the_end_is_left_out),
		cmocka_unit_test(bytes_that_are_no_text_are_not_held_back),
		cmocka_unit_test(a_stop_string_ends_the_text_and_is_not_shown),
		cmocka_unit_test(a_stop_string_is_seen_across_tokens),
		cmocka_unit_test(what_only_looked_like_a_stop_string_is_shown_after_all),
		cmocka_unit_test(the_stop_string_that_is_complete_first_counts),
		cmocka_unit_test(a_stop_string_may_begin_inside_a_token_of_half_characters),
		cmocka_unit_test(stop_strings_past_the_limits_are_refused),
		cmocka_unit_test(a_flood_within_one_token_is_an_error),
		cmocka_unit_test(where_tokens_end_makes_no_difference),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
