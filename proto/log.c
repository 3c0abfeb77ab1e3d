/* log.c: one line, one write(2).
 *
 * What comes from peers (names, addresses, reasons) ends up in lines, so control characters are replaced: no
 * peer can forge a line, a priority or a terminal's escape sequence.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/err.h"
#include "proto/text.h"

#define LINE_SIZE 2048

enum sink { SINK_PLAIN, SINK_TERMINAL, SINK_JOURNAL };

/* Written by log_open() before there are threads; only the level may change later. */
static char program_name[32];
static enum sink sink = SINK_PLAIN;
static atomic_int level_max = LOG_LEVEL_INFO;

static const struct {
	const char *name;
	const char *word;   /* before the text, where no priority says it */
	const char *colour; /* of the word; SGR parameters */
} levels[] = {
	[LOG_LEVEL_ERROR] = { "error", "error: ", "1;31" },
	[LOG_LEVEL_WARNING] = { "warning", "warning: ", "1;33" },
	[LOG_LEVEL_NOTICE] = { "notice", "", "" },
	[LOG_LEVEL_INFO] = { "info", "", "" },
	[LOG_LEVEL_DEBUG] = { "debug", "debug: ", "2" },
};

/* $JOURNAL_STREAM is "device:inode" of the journal's socket (systemd.exec(5)); a child that sends its standard
 * error elsewhere inherits the variable all the same, hence the comparison. */
static bool is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;
	return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
	       st.st_dev == device && st.st_ino == inode;
}

static bool wants_colour(void)
{
	const char *term = getenv("TERM");
	const char *no_colour = getenv("NO_COLOR");
	return isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0 && !(no_colour && *no_colour);
}

void log_open(const char *program, enum log_level level)
{
	text_copy(program_name, sizeof(program_name), program ? program : "");
	sink = is_journal() ? SINK_JOURNAL : wants_colour() ? SINK_TERMINAL : SINK_PLAIN;
	log_set_level(level);
}

void log_set_level(enum log_level level)
{
	atomic_store(&level_max, (int)level);
}

int log_level_parse(const char *text, enum log_level *out)
{
	for (int i = LOG_LEVEL_ERROR; i <= LOG_LEVEL_DEBUG; i++)
		if (!strcmp(text, levels[i].name)) {
			*out = (enum log_level)i;
			return 0;
		}
	return ERR_UNKNOWN;
}

static size_t put(char *line, size_t at, const char *text)
{
	size_t n = strlen(text), room = LINE_SIZE - 1 - at;
	if (n > room)
		n = room;
	memcpy(line + at, text, n);
	return at + n;
}

/* Control characters become '?', the C1 ones (C2 80 .. C2 9F in UTF-8) too. */
static void make_printable(char *text, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint8_t c = (uint8_t)text[i];
		bool c1 = c == 0xc2 && i + 1 < n && (uint8_t)text[i + 1] >= 0x80 && (uint8_t)text[i + 1] <= 0x9f;
		if (c1)
			text[i + 1] = '?';
		if (c < 0x20 || c == 0x7f || c1)
			text[i] = '?';
	}
}

void log_line(enum log_level level, const char *format, ...)
{
	if ((int)level > atomic_load(&level_max) || level < LOG_LEVEL_ERROR || level > LOG_LEVEL_DEBUG)
		return;

	int saved = errno;
	char line[LINE_SIZE]; /* the last byte is the newline's */
	size_t at = 0;

	if (sink == SINK_JOURNAL) {
		line[at++] = '<';
		line[at++] = (char)('0' + (int)level);
		line[at++] = '>';
	}
	if (program_name[0]) {
		at = put(line, at, program_name);
		at = put(line, at, ": ");
	}
	if (sink != SINK_JOURNAL && levels[level].word[0]) {
		bool colour = sink == SINK_TERMINAL;
		if (colour) {
			at = put(line, at, "\033[");
			at = put(line, at, levels[level].colour);
			at = put(line, at, "m");
		}
		at = put(line, at, levels[level].word);
		if (colour)
			at = put(line, at, "\033[0m");
	}

	size_t room = LINE_SIZE - 1 - at;
	va_list args;
	va_start(args, format);
	int n = vsnprintf(line + at, room, format, args);
	va_end(args);
	if (n < 0)
		n = 0;
	size_t length = (size_t)n;
	if (length >= room) { /* cut between characters, and say so */
		static const char dots[] = " ...";
		length = text_utf8_whole(line + at, room - sizeof(dots));
		memcpy(line + at + length, dots, sizeof(dots) - 1);
		length += sizeof(dots) - 1;
	}
	make_printable(line + at, length);
	at += length;
	line[at++] = '\n';

	ssize_t written;
	do
		written = write(STDERR_FILENO, line, at);
	while (written < 0 && errno == EINTR);
	errno = saved; /* whoever logs an errno may still want it */
}
