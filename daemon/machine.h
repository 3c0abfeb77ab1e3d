/* machine.h: what Linux says of this machine's load, and who causes it. Read from /proc; each parser is pure.
 *
 * Thread: loop. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef DAEMON_MACHINE_H
#define DAEMON_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Clock ticks (sysconf(_SC_CLK_TCK) a second) since the machine started. */
struct machine_ticks {
	uint64_t busy;             /* all cores, all programs: not idle, not waiting for a disk */
	uint64_t own;              /* this process, its ended children, and the processes asked about */
};

/* First line of /proc/stat, proc(5). ERR_MALFORMED. */
int machine_parse_stat(const char *text, uint64_t *busy);
/* /proc/PID/stat: the process's ticks, and with ended those of children that it waited for. ERR_MALFORMED. */
int machine_parse_process(const char *text, bool ended, uint64_t *ticks);
/* /proc/pressure/memory: "some avg10=1.23 ...", in whole percent. ERR_MALFORMED. */
int machine_parse_pressure(const char *text, uint32_t *percent);

/* -EIO when /proc says nothing. A process that is gone counts as nothing: it will stand among the ended children. */
int machine_ticks(const pid_t *own, size_t n, struct machine_ticks *out);
uint32_t machine_memory_pressure(void);      /* percent; 0 where the kernel does not measure it */

#endif
