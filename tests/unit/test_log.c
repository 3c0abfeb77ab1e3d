/* Standard error becomes one end of a datagram socket: each write(2) is one message, so that "a line is one
 * write" can be seen.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "proto/err.h"
#include "proto/log.h"
#include "proto/text.h"

static int real_stderr, ours, theirs;

static int capture(void **state)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair))
		return -1;
	real_stderr = dup(STDERR_FILENO);
	ours = pair[0];
	theirs = pair[1];
	unsetenv("JOURNAL_STREAM");
	setenv("TERM", "xterm", 1);
	unsetenv("NO_COLOR");
	return dup2(theirs, STDERR_FILENO) < 0 ? -1 : 0;
}

static int release(void **state)
{
	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	close(ours);
	close(theirs);
	return 0;
}

static void expect(const char *line)
{
	char got[8192];
	ssize_t n = recv(ours, got, sizeof(got) - 1, MSG_DONTWAIT);
	if (n < 0)
		fail_msg("no line; expected: %s", line);
	got[n] = '\0';
	assert_string_equal(got, line);
}

static void expect_nothing(void)
{
	char got[16];
	assert_int_equal(recv(ours, got, sizeof(got), MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static void log_writes_plain_words_where_no_journal_and_no_terminal_listens(void **state)
{
	log_open("essaimd", LOG_LEVEL_DEBUG);
	log_error("disk %s is full", "sda");
	expect("essaimd: error: disk sda is full\n");
	log_warning("slow");
	expect("essaimd: warning: slow\n");
	log_notice("started %d", 3);
	expect("essaimd: started 3\n");
	log_info("%s", "");
	expect("essaimd: \n");
	log_debug("detail");
	expect("essaimd: debug: detail\n");
	log_open(NULL, LOG_LEVEL_INFO);
	log_info("no prefix");
	expect("no prefix\n");
	expect_nothing();
}

static void log_gives_priorities_to_the_journal(void **state)
{
	struct stat st;
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	char stream[64];
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	log_open("essaimd", LOG_LEVEL_DEBUG);
	log_error("a");
	log_warning("b");
	log_notice("c");
	log_info("d");
	log_debug("e");
	expect("<3>essaimd: a\n");
	expect("<4>essaimd: b\n");
	expect("<5>essaimd: c\n");
	expect("<6>essaimd: d\n");
	expect("<7>essaimd: e\n");
}

static void log_is_plain_when_the_journal_variable_is_about_another_stream(void **state)
{
	static const char *const streams[] = { "1:1", "", "x", "12", "12:" };
	for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
		setenv("JOURNAL_STREAM", streams[i], 1);
		log_open(NULL, LOG_LEVEL_INFO);
		log_info("plain");
		expect("plain\n");
	}
}

static void log_colours_a_terminal_unless_asked_not_to(void **state)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	if (master < 0 || grantpt(master) || unlockpt(master)) {
		print_message("no pseudo-terminals here\n");
		skip();
	}
	int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
	if (terminal < 0)
		skip();
	struct termios raw;
	assert_int_equal(tcgetattr(terminal, &raw), 0);
	cfmakeraw(&raw);
	assert_int_equal(tcsetattr(terminal, TCSANOW, &raw), 0);
	assert_true(dup2(terminal, STDERR_FILENO) >= 0);

	static const struct {
		const char *term, *no_colour, *line;
	} cases[] = {
		{ "xterm", "", "e: \033[1;31merror: \033[0mx\n" },
		{ "xterm", "1", "e: error: x\n" },
		{ "dumb", "", "e: error: x\n" },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		setenv("TERM", cases[i].term, 1);
		setenv("NO_COLOR", cases[i].no_colour, 1);
		log_open("e", LOG_LEVEL_INFO);
		log_error("x");
		char got[64] = "";
		assert_true(read(master, got, sizeof(got) - 1) > 0);
		assert_string_equal(got, cases[i].line);
	}
	close(terminal);
	close(master);
}

static void log_keeps_quiet_below_its_level(void **state)
{
	log_open("e", LOG_LEVEL_WARNING);
	log_notice("x");
	log_info("x");
	log_debug("x");
	expect_nothing();
	log_warning("x");
	expect("e: warning: x\n");
	log_set_level(LOG_LEVEL_INFO);
	log_info("x");
	log_debug("x");
	expect("e: x\n");
	expect_nothing();
	log_line((enum log_level)2, "a level that does not exist");
	log_line((enum log_level)8, "a level that does not exist");
	expect_nothing();
}

static void log_lets_no_argument_forge_a_line_or_an_escape(void **state)
{
	log_open("e", LOG_LEVEL_INFO);
	log_info("peer %s", "Mallory\n<3>root: all is lost\r\033[2J\177\tx");
	expect("e: peer Mallory?<3>root: all is lost??[2J??x\n");
	log_info("%s", "csi \xc2\x9b"
		       "31m, accents d\xc3\xa9j\xc3\xa0 \xc2\xa0 stay");
	expect("e: csi ??31m, accents d\xc3\xa9j\xc3\xa0 \xc2\xa0 stay\n");
}

static void log_cuts_a_long_line_between_characters(void **state)
{
	log_open("e", LOG_LEVEL_INFO);
	char text[6001];
	for (size_t shift = 0; shift < 3; shift++) {
		memset(text, 'x', shift);
		for (size_t i = shift; i + 3 < sizeof(text); i += 3)
			memcpy(text + i, "\xe2\x82\xac", 4);
		log_info("%s", text);
		char got[8192];
		ssize_t n = recv(ours, got, sizeof(got), MSG_DONTWAIT);
		assert_true(n > 1900 && n < 2100);
		assert_memory_equal(got + n - 5, " ...\n", 5);
		assert_true(text_is_utf8(got, (size_t)n));
		expect_nothing();
	}
}

static void log_leaves_errno_alone(void **state)
{
	log_open("e", LOG_LEVEL_INFO);
	assert_int_equal(dup2(open("/dev/null", O_RDONLY), STDERR_FILENO), STDERR_FILENO); /* write() fails */
	errno = ENOSPC;
	log_info("x");
	assert_int_equal(errno, ENOSPC);
}

static void log_level_names_are_parsed_exactly(void **state)
{
	static const char *const names[] = { "error", "warning", "notice", "info", "debug" };
	static const char *const bad[] = { "", "Error", "warn", "trace", "6", " info" };
	for (size_t i = 0; i < 5; i++) {
		enum log_level level = (enum log_level)99;
		assert_int_equal(log_level_parse(names[i], &level), 0);
		assert_int_equal(level, 3 + i);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		enum log_level level = LOG_LEVEL_NOTICE;
		assert_int_equal(log_level_parse(bad[i], &level), ERR_UNKNOWN);
		assert_int_equal(level, LOG_LEVEL_NOTICE);
	}
}

int main(void)
{
#define CAPTURED(test) cmocka_unit_test_setup_teardown(test, capture, release)
	const struct CMUnitTest tests[] = {
		CAPTURED(log_writes_plain_words_where_no_journal_and_no_terminal_listens),
		CAPTURED(log_gives_priorities_to_the_journal),
		CAPTURED(log_is_plain_when_the_journal_variable_is_about_another_stream),
		CAPTURED(log_colours_a_terminal_unless_asked_not_to),
		CAPTURED(log_keeps_quiet_below_its_level),
		CAPTURED(log_lets_no_argument_forge_a_line_or_an_escape),
		CAPTURED(log_cuts_a_long_line_between_characters),
		CAPTURED(log_leaves_errno_alone),
		cmocka_unit_test(log_level_names_are_parsed_exactly),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
