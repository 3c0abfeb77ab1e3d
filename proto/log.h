/* log.h: lines on standard error with sd-daemon(3) priorities ("<6>...") when it is the journal,
 * with plain words and colours when it is a terminal.
 *
 * Nothing said is kept (DESIGN D18): no prompt, completion, token, key, invitation or activation is
 * ever an argument of these functions, at any level. Thread: any; a line is one write(2).
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_LOG_H
#define PROTO_LOG_H

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARNING = 4, LOG_LEVEL_NOTICE = 5, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

void log_open(const char *program, enum log_level level);     /* NULL: no prefix. Reads $JOURNAL_STREAM, isatty */
void log_set_level(enum log_level level);
int log_level_parse(const char *text, enum log_level *out);   /* "error" .. "debug" */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_line(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
