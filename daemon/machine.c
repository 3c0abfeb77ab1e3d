/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/err.h"

int machine_parse_stat(const char *text, uint64_t *busy)
{
	/* cpu user nice system idle iowait irq softirq steal ...; guests' time is in user already */
	uint64_t user, nice, system, idle, iowait, irq, softirq;
	if (sscanf(text, "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &user, &nice, &system, &idle,
		   &iowait, &irq, &softirq) != 7)
		return ERR_MALFORMED;
	*busy = user + nice + system + irq + softirq;
	return 0;
}

int machine_parse_process(const char *text, bool ended, uint64_t *ticks)
{
	/* A program's name may hold spaces and parentheses: fields are counted from behind the last one. utime is field 14. */
	const char *p = strrchr(text, ')');
	uint64_t user, system, ended_user, ended_system;
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &user, &system,
			 &ended_user, &ended_system) != 4)
		return ERR_MALFORMED;
	*ticks = user + system + (ended ? ended_user + ended_system : 0);
	return 0;
}

int machine_parse_pressure(const char *text, uint32_t *percent)
{
	unsigned whole;
	if (sscanf(text, "some avg10=%u.", &whole) != 1 || whole > 100)
		return ERR_MALFORMED;
	*percent = whole;
	return 0;
}

/* The beginning of a file in /proc, as text. */
static int read_text(const char *path, char *out, size_t size)
{
	FILE *file = fopen(path, "re");
	if (!file)
		return -EIO;
	size_t n = fread(out, 1, size - 1, file);
	fclose(file);
	out[n] = 0;
	return n ? 0 : -EIO;
}

int machine_ticks(const pid_t *own, size_t n, struct machine_ticks *out)
{
	char text[1024], path[64];
	memset(out, 0, sizeof *out);
	if (read_text("/proc/stat", text, sizeof text) || machine_parse_stat(text, &out->busy) ||
	    read_text("/proc/self/stat", text, sizeof text) || machine_parse_process(text, true, &out->own))
		return -EIO;
	for (size_t i = 0; i < n; i++) {
		uint64_t ticks;
		snprintf(path, sizeof path, "/proc/%d/stat", (int)own[i]);
		if (!read_text(path, text, sizeof text) && !machine_parse_process(text, true, &ticks))
			out->own += ticks;
	}
	return 0;
}

uint32_t machine_memory_pressure(void)
{
	char text[256];
	uint32_t percent;
	return read_text("/proc/pressure/memory", text, sizeof text) || machine_parse_pressure(text, &percent) ? 0 : percent;
}
