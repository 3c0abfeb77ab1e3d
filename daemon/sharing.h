/* sharing.h: when this node shares: the owner's pause, the hours, and whether the machine is idle. Pure (D16, D19).
 *
 * What closes, in this order: a pause (by command or [share] paused), hours outside [share] hours, and, with [share] idle_only, somebody
 * else's work on the machine. Others' work closes at the first look that shows it, so that who comes back to the machine
 * has it back within two seconds; it opens again only after idle_minutes without any.
 *
 * Owner: daemon. Thread: loop. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef DAEMON_SHARING_H
#define DAEMON_SHARING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WEEK_MINUTES (7 * 24 * 60)
#define SHARING_FOR_EVER UINT64_MAX

/* One bit a minute of the week, local time, from Monday 00:00. */
struct sharing_hours {
	uint8_t bits[WEEK_MINUTES / 8];
};
/* "always", or windows separated by commas: [DAY[-DAY] ]HH:MM-HH:MM with mon, tue, wed, thu, fri, sat, sun. One that ends before it
 * begins lasts over midnight and belongs to the day it begins on. 24:00 is midnight. ERR_CONFIG. */
int sharing_parse_hours(const char *text, struct sharing_hours *out);
bool sharing_in_hours(const struct sharing_hours *hours, unsigned week_minute);
/* Minutes from week_minute to the next change; 0: there is none. */
unsigned sharing_next_change(const struct sharing_hours *hours, unsigned week_minute);

enum sharing_state { SHARING_OPEN, SHARING_PAUSED, SHARING_HOURS, SHARING_BUSY };

struct sharing_rule {
	bool paused;                   /* by configuration */
	struct sharing_hours hours;
	bool idle_only;
	uint32_t idle_minutes;
	uint32_t busy_percent;         /* of one core: what others may use of this machine and it still counts as idle */
};
/* How busy others keep the machine, over the last second or so. */
struct sharing_load {
	bool known;
	uint32_t others_percent;       /* of one core, without this node's own programs */
	uint32_t pressure_percent;     /* of time that some task waited for memory, last ten seconds (Linux PSI) */
};
#define SHARING_PRESSURE_BUSY 10

struct sharing {
	enum sharing_state state;
	uint64_t paused_until;         /* by command: Unix seconds; 0: not paused */
	uint64_t calm_since;           /* monotonic ms; 0: not calm, or not looked yet */
};
/* One look; ms is monotonic, now Unix seconds. Returns whether the state changed. load may be NULL when idle_only is off, or to
 * leave the verdict about others' work as it was. */
bool sharing_look(struct sharing *sharing, const struct sharing_rule *rule, uint64_t ms, uint64_t now, unsigned week_minute,
		  const struct sharing_load *load);
static inline bool sharing_is_open(const struct sharing *sharing)
{
	return sharing->state == SHARING_OPEN;
}

#endif
