/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/sharing.h"

#include <string.h>
#include <strings.h>

#include "proto/err.h"

#define DAY_MINUTES (24 * 60)

/* --- hours ------------------------------------------------------------------------------------------ */

static const char *skip_spaces(const char *p)
{
	while (*p == ' ' || *p == '\t')
		p++;
	return p;
}

static const char *read_day(const char *p, unsigned *day)
{
	static const char *const names[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};
	for (unsigned i = 0; i < 7; i++)
		if (!strncasecmp(p, names[i], 3)) {
			*day = i;
			return p + 3;
		}
	return NULL;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* HH:MM, at most 24:00 */
static const char *read_time(const char *p, unsigned *minute)
{
	if (!is_digit(p[0]) || !is_digit(p[1]) || p[2] != ':' || !is_digit(p[3]) || !is_digit(p[4]))
		return NULL;
	unsigned hours = (unsigned)(p[0] - '0') * 10 + (unsigned)(p[1] - '0'), minutes = (unsigned)(p[3] - '0') * 10 + (unsigned)(p[4] - '0');
	*minute = hours * 60 + minutes;
	return minutes < 60 && *minute <= DAY_MINUTES ? p + 5 : NULL;
}

static const char *read_window(const char *p, struct sharing_hours *hours)
{
	unsigned first = 0, last = 6, from, to;
	const char *after = read_day(p, &first);
	if (after) {
		last = first;
		if (*after == '-' && !(after = read_day(after + 1, &last)))
			return NULL;
		p = skip_spaces(after);
	}
	p = read_time(p, &from);
	if (!p || *p != '-' || !(p = read_time(p + 1, &to)) || from == to)
		return NULL;
	unsigned length = to > from ? to - from : DAY_MINUTES - from + to;
	for (unsigned day = first;; day = (day + 1) % 7) {
		for (unsigned i = 0; i < length; i++) {
			unsigned minute = (day * DAY_MINUTES + from + i) % WEEK_MINUTES;
			hours->bits[minute / 8] |= (uint8_t)(1u << minute % 8);
		}
		if (day == last)
			return p;
	}
}

int sharing_parse_hours(const char *text, struct sharing_hours *out)
{
	if (!strcmp(text, "always")) {
		memset(out, 0xff, sizeof *out);
		return 0;
	}
	struct sharing_hours hours = {0};
	const char *p = skip_spaces(text);
	for (;;) {
		p = read_window(p, &hours);
		if (!p)
			return ERR_CONFIG;
		p = skip_spaces(p);
		if (!*p)
			break;
		if (*p != ',')
			return ERR_CONFIG;
		p = skip_spaces(p + 1);
	}
	*out = hours;
	return 0;
}

bool sharing_in_hours(const struct sharing_hours *hours, unsigned week_minute)
{
	return hours->bits[week_minute / 8] >> week_minute % 8 & 1;
}

unsigned sharing_next_change(const struct sharing_hours *hours, unsigned week_minute)
{
	bool now = sharing_in_hours(hours, week_minute);
	for (unsigned i = 1; i < WEEK_MINUTES; i++)
		if (sharing_in_hours(hours, (week_minute + i) % WEEK_MINUTES) != now)
			return i;
	return 0;
}

/* --- one look ----------------------------------------------------------------------------------------- */

static void look_at_load(struct sharing *sharing, const struct sharing_rule *rule, uint64_t ms, const struct sharing_load *load)
{
	/* What cannot be measured cannot be called idle. */
	if (!load->known || load->others_percent > rule->busy_percent || load->pressure_percent > SHARING_PRESSURE_BUSY)
		sharing->calm_since = 0;
	else if (!sharing->calm_since)
		sharing->calm_since = ms ? ms : 1;
}

bool sharing_look(struct sharing *sharing, const struct sharing_rule *rule, uint64_t ms, uint64_t now, unsigned week_minute,
		  const struct sharing_load *load)
{
	enum sharing_state before = sharing->state;
	if (load)
		look_at_load(sharing, rule, ms, load);
	if (sharing->paused_until && sharing->paused_until <= now)
		sharing->paused_until = 0;
	bool calm = sharing->calm_since && ms - sharing->calm_since >= rule->idle_minutes * 60000ull;
	/* Once idle, it stays so until somebody works: then calm_since is 0. */
	if (rule->paused || sharing->paused_until)
		sharing->state = SHARING_PAUSED;
	else if (!sharing_in_hours(&rule->hours, week_minute))
		sharing->state = SHARING_HOURS;
	else if (rule->idle_only && !calm)
		sharing->state = SHARING_BUSY;
	else
		sharing->state = SHARING_OPEN;
	return sharing->state != before;
}
