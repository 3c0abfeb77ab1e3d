/* Text on its way out: whole characters only, and nothing that may yet turn out to be a stop string.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdlib.h>
#include <string.h>

#include "daemon/route/route.h"
#include "proto/buf.h"
#include "proto/text.h"

#define STOP_BYTES_MAX 1024         /* of one stop string; api checks it too */
#define HELD_MAX (64u << 10)

struct stops {
	size_t n;
	char *stops[STOPS_MAX];
	size_t lengths[STOPS_MAX];
	struct buf held;            /* bytes not shown yet */
	size_t shown;               /* bytes at held's start that were given out by the last call */
};

struct stops *stops_new(const char *const *stops, size_t n)
{
	struct stops *s = calloc(1, sizeof *s);
	if (!s || n > STOPS_MAX)
		goto fail;
	buf_init(&s->held, HELD_MAX);
	for (size_t i = 0; i < n; i++) {
		if (!stops[i][0] || strlen(stops[i]) > STOP_BYTES_MAX || !(s->stops[s->n] = strdup(stops[i])))
			goto fail;
		s->lengths[s->n] = strlen(stops[i]);
		s->n++;
	}
	return s;
fail:
	if (s)
		stops_free(s);
	return NULL;
}

void stops_free(struct stops *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++)
		free(s->stops[i]);
	buf_release(&s->held);
	free(s);
}

static void drop_shown(struct stops *s)
{
	buf_consume(&s->held, s->shown);
	s->shown = 0;
}

/* Where the stop string begins that is complete first, the longest of those; length when there is none. By its end, so that
 * where one token ends and the next begins makes no difference. */
static size_t find_stop(const struct stops *s)
{
	size_t best = s->held.length, best_end = s->held.length + 1;
	for (size_t i = 0; i < s->n; i++) {
		const uint8_t *found = s->held.length ? memmem(s->held.data, s->held.length, s->stops[i], s->lengths[i]) : NULL;
		size_t at = found ? (size_t)(found - s->held.data) : 0, end = at + s->lengths[i];
		if (found && (end < best_end || (end == best_end && at < best))) {
			best = at;
			best_end = end;
		}
	}
	return best;
}

/* How many bytes at the end could be the beginning of a stop string. */
static size_t tail_that_may_stop(const struct stops *s)
{
	size_t most = 0;
	for (size_t i = 0; i < s->n; i++) {
		size_t k = s->lengths[i] - 1;
		if (k > s->held.length)
			k = s->held.length;
		for (; k > most; k--)
			if (!memcmp(s->held.data + s->held.length - k, s->stops[i], k))
				most = k;
	}
	return most;
}

int stops_feed(struct stops *s, const uint8_t *bytes, size_t length, const char **out, size_t *n)
{
	drop_shown(s);
	*out = "";
	*n = 0;
	int err = buf_append(&s->held, bytes, length);
	if (err)
		return err;
	size_t stop = find_stop(s);
	bool found = stop < s->held.length;
	size_t ready = found ? stop : s->held.length - tail_that_may_stop(s);
	if (!found && ready)
		ready = text_utf8_whole((const char *)s->held.data, ready);
	*out = s->held.data ? (const char *)s->held.data : "";
	*n = s->shown = ready;
	if (found)
		s->held.length = ready;  /* what follows a stop string is never shown */
	return found;
}

void stops_flush(struct stops *s, const char **out, size_t *n)
{
	drop_shown(s);
	/* Half a character at the very end can no longer be completed: it is left out. */
	*out = s->held.data ? (const char *)s->held.data : "";
	*n = s->shown = s->held.length ? text_utf8_whole((const char *)s->held.data, s->held.length) : 0;
}
