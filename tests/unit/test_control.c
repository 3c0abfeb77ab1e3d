/* test_control.c: the control socket, with clients that are impatient, silent, wrong or gone.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/control/control.h"

#define DEADLINE_NS (UINT64_C(30) * 1000000000)

struct world {
	uv_loop_t loop;
	uv_timer_t wake;
	struct control *control;
	char home[64];
	bool closed;
	struct control_request *held;          /* of "hold" */
	unsigned asked;
};

static yyjson_mut_doc *object(const char *key, const char *text)
{
	yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
	yyjson_mut_val *root = yyjson_mut_obj(doc);
	yyjson_mut_doc_set_root(doc, root);
	yyjson_mut_obj_add_strcpy(doc, root, key, text);
	return doc;
}

static void on_echo(void *arg, struct control_request *request, yyjson_val *args)
{
	struct world *w = arg;
	const char *text = yyjson_get_str(yyjson_obj_get(args, "text"));
	w->asked++;
	control_done(request, object("text", text ? text : "nothing"));
}

static void on_hold(void *arg, struct control_request *request, yyjson_val *args)
{
	struct world *w = arg;
	w->asked++;
	w->held = request;
}

static void on_refuse(void *arg, struct control_request *request, yyjson_val *args)
{
	control_fail(request, ERR_DENIED, "ask \"nicely\"", "no: %s", "never");
}

/* What json_object() gives without memory; tests/inject has the rest. */
static void on_short_of_memory(void *arg, struct control_request *request, yyjson_val *args)
{
	control_progress(request, NULL);
	control_done(request, NULL);
}

static const struct control_command commands[] = {{"echo", on_echo}, {"hold", on_hold}, {"refuse", on_refuse}, {"short", on_short_of_memory}, {NULL, NULL}};

static void on_wake(uv_timer_t *timer)
{
	(void)timer;
}

static void on_closed(void *arg)
{
	((struct world *)arg)->closed = true;
}

static struct world *new_world(void)
{
	struct world *w = calloc(1, sizeof *w);
	char why[200] = "";
	assert_non_null(w);
	strcpy(w->home, "/tmp/essaim-control-XXXXXX");
	assert_non_null(mkdtemp(w->home));
	uv_loop_init(&w->loop);
	uv_timer_init(&w->loop, &w->wake);
	uv_timer_start(&w->wake, on_wake, 2, 2);
	if (control_open(&w->control, &w->loop, w->home, commands, w, why, sizeof why))
		fail_msg("%s", why);
	return w;
}

static void free_world(struct world *w)
{
	if (w->control)
		control_close(w->control, on_closed, w);
	uv_close((uv_handle_t *)&w->wake, NULL);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	assert_true(w->closed || !w->control);
	assert_int_equal(uv_loop_close(&w->loop), 0);
	assert_int_equal(rmdir(w->home), 0);     /* the socket is gone too */
	free(w);
}

struct client {
	int fd;
	struct buf in;
	bool closed;
};

static void turn(struct world *w, uint64_t since)
{
	uv_run(&w->loop, UV_RUN_ONCE);
	if (uv_hrtime() - since > DEADLINE_NS)
		fail_msg("nothing came of it");
}

static struct client *dial(struct world *w)
{
	struct client *c = calloc(1, sizeof *c);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	uint64_t since = uv_hrtime();
	assert_non_null(c);
	buf_init(&c->in, 64 << 20);
	snprintf(address.sun_path, sizeof address.sun_path, "%s/control.sock", w->home);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	while (connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
		assert_int_equal(errno, EAGAIN);       /* its backlog is full for a moment */
		turn(w, since);
	}
	return c;
}

static void hang_up(struct client *c)
{
	close(c->fd);
	buf_release(&c->in);
	free(c);
}

static void say_bytes(struct world *w, struct client *c, const void *bytes, size_t n)
{
	uint64_t since = uv_hrtime();
	for (size_t at = 0; at < n;) {
		ssize_t sent = send(c->fd, (const char *)bytes + at, n - at, MSG_NOSIGNAL);
		if (sent > 0)
			at += (size_t)sent;
		else if (errno != EAGAIN)
			break;
		turn(w, since);
	}
}

static void say(struct world *w, struct client *c, const char *text)
{
	say_bytes(w, c, text, strlen(text));
}

static void receive(struct client *c)
{
	char block[65536];
	ssize_t n;
	while (!c->closed && (n = recv(c->fd, block, sizeof block, 0)) != -1) {
		if (n)
			assert_int_equal(buf_append(&c->in, block, (size_t)n), 0);
		else
			c->closed = true;
	}
	if (!c->closed && errno != EAGAIN)
		c->closed = true;
}

/* The next line as JSON, taken off. */
static yyjson_doc *answer(struct world *w, struct client *c)
{
	uint64_t since = uv_hrtime();
	uint8_t *newline;
	for (;; turn(w, since)) {
		receive(c);
		newline = c->in.length ? memchr(c->in.data, '\n', c->in.length) : NULL;
		if (newline)
			break;
		if (c->closed)
			fail_msg("closed without an answer");
	}
	yyjson_doc *doc = yyjson_read((char *)c->in.data, (size_t)(newline - c->in.data), 0);
	if (!doc)
		fail_msg("no JSON: %.*s", (int)(newline - c->in.data), (char *)c->in.data);
	buf_consume(&c->in, (size_t)(newline - c->in.data) + 1);
	return doc;
}

static void must_answer(struct world *w, struct client *c, const char *pointer, const char *text)
{
	yyjson_doc *doc = answer(w, c);
	const char *got = yyjson_get_str(yyjson_doc_ptr_get(doc, pointer));
	assert_non_null(got);
	assert_string_equal(got, text);
	assert_int_equal(yyjson_get_bool(yyjson_doc_ptr_get(doc, "/ok")), !strncmp(pointer, "/result", 7));
	yyjson_doc_free(doc);
}

static void must_be_closed(struct world *w, struct client *c)
{
	uint64_t since = uv_hrtime();
	for (receive(c); !c->closed; receive(c))
		turn(w, since);
}

/* --- tests -------------------------------------------------------------------------------------------------- */

static void only_its_owner_may_open_the_socket(void **state)
{
	struct world *w = new_world();
	struct stat st;
	char path[100];
	snprintf(path, sizeof path, "%s/control.sock", w->home);
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0600);
	free_world(w);
}

static void a_home_that_lets_its_group_in_opens_the_socket_to_it(void **state)
{
	struct world *w = new_world();
	struct stat st;
	char path[100], why[200] = "";
	snprintf(path, sizeof path, "%s/control.sock", w->home);
	/* the group's right alone is not enough, nor is the bit: a folder in a shared place inherits it */
	static const mode_t modes[] = {0750, 02700, 02750};
	for (int i = 0; i < 3; i++) {
		struct control *c;
		assert_int_equal(chmod(w->home, modes[i]), 0);
		assert_int_equal(control_open(&c, &w->loop, w->home, commands, w, why, sizeof why), 0);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 07777, i == 2 ? 0660 : 0600);
		control_close(c, NULL, NULL);
	}
	uv_run(&w->loop, UV_RUN_NOWAIT);
	chmod(w->home, 0700);
	free_world(w);
}

static void a_socket_left_by_a_crash_is_replaced(void **state)
{
	struct world *w = calloc(1, sizeof *w);
	char path[100], why[200] = "";
	assert_non_null(w);
	strcpy(w->home, "/tmp/essaim-control-XXXXXX");
	assert_non_null(mkdtemp(w->home));
	snprintf(path, sizeof path, "%s/control.sock", w->home);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	int left = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(left, (struct sockaddr *)&address, sizeof address), 0);
	close(left);
	uv_loop_init(&w->loop);
	uv_timer_init(&w->loop, &w->wake);
	uv_timer_start(&w->wake, on_wake, 2, 2);
	assert_int_equal(control_open(&w->control, &w->loop, w->home, commands, w, why, sizeof why), 0);
	struct client *c = dial(w);
	say(w, c, "{\"command\":\"echo\"}\n");
	must_answer(w, c, "/result/text", "nothing");
	hang_up(c);
	free_world(w);
}

static void a_home_that_is_not_there_is_said(void **state)
{
	struct world *w = new_world();
	struct control *second = NULL;
	char why[300] = "", home[200];
	assert_true(control_open(&second, &w->loop, "/tmp/essaim-nowhere", commands, w, why, sizeof why) < 0);
	assert_non_null(strstr(why, "/tmp/essaim-nowhere/control.sock"));
	memset(home, 'x', sizeof home - 1);
	home[0] = '/';
	home[sizeof home - 1] = '\0';
	assert_int_equal(control_open(&second, &w->loop, home, commands, w, why, sizeof why), -ENAMETOOLONG);
	assert_non_null(strstr(why, "too long"));
	assert_null(second);
	free_world(w);
}

static void a_command_is_answered(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w);
	say(w, c, "{\"command\":\"echo\",\"args\":{\"text\":\"\xc3\xa9t\xc3\xa9 \\\"\\n\"}}\n");
	must_answer(w, c, "/result/text", "\xc3\xa9t\xc3\xa9 \"\n");
	say(w, c, "{\"command\":\"refuse\",\"args\":{}}\n");
	yyjson_doc *doc = answer(w, c);
	assert_false(yyjson_get_bool(yyjson_doc_ptr_get(doc, "/ok")));
	assert_string_equal(yyjson_get_str(yyjson_doc_ptr_get(doc, "/error/code")), "DENIED");
	assert_string_equal(yyjson_get_str(yyjson_doc_ptr_get(doc, "/error/message")), "no: never");
	assert_string_equal(yyjson_get_str(yyjson_doc_ptr_get(doc, "/error/remedy")), "ask \"nicely\"");
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

static void a_command_may_come_byte_by_byte(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w);
	const char *line = "{\"command\":\"echo\",\"args\":{\"text\":\"lent\"}}\n";
	for (const char *p = line; *p; p++)
		say_bytes(w, c, p, 1);
	must_answer(w, c, "/result/text", "lent");
	hang_up(c);
	free_world(w);
}

static void commands_follow_each_other_one_at_a_time(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w), *other = dial(w);
	say(w, c, "{\"command\":\"hold\"}\n{\"command\":\"echo\",\"args\":{\"text\":\"2\"}}\n{\"command\":\"echo\",\"args\":{\"text\":\"3\"}}\n");
	for (uint64_t since = uv_hrtime(); !w->held;)
		turn(w, since);
	say(w, other, "{\"command\":\"echo\",\"args\":{\"text\":\"autre\"}}\n");
	must_answer(w, other, "/result/text", "autre");          /* who waits holds up nobody else */
	assert_int_equal(w->asked, 2);
	control_progress(w->held, object("part", "half"));
	must_answer(w, c, "/progress/part", "half");
	control_done(w->held, object("text", "1"));
	must_answer(w, c, "/result/text", "1");
	must_answer(w, c, "/result/text", "2");
	must_answer(w, c, "/result/text", "3");
	hang_up(c);
	hang_up(other);
	free_world(w);
}

static void an_answer_without_memory_is_an_error_and_not_half_an_answer(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w);
	say(w, c, "{\"command\":\"short\"}\n{\"command\":\"echo\",\"args\":{\"text\":\"next\"}}\n");
	must_answer(w, c, "/error/code", "ENOMEM");
	must_answer(w, c, "/result/text", "next");
	hang_up(c);
	free_world(w);
}

static void lines_that_are_no_request_are_refused(void **state)
{
	static const char *const lines[] = {"", "{", "[]", "7", "\"echo\"", "{}", "{\"command\":7}", "{\"command\":null}", "{\"command\":\"echo\",\"args\":[]}",
					    "{\"command\":\"echo\",\"args\":\"x\"}", "{\"command\":\"\xff\"}", "{\"command\":\"echo\"} more"};
	struct world *w = new_world();
	struct client *c = dial(w);
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		say(w, c, lines[i]);
		say(w, c, "\n");
		must_answer(w, c, "/error/code", "MALFORMED");
	}
	assert_int_equal(w->asked, 0);
	say(w, c, "{\"command\":\"echo\"}\n");                  /* and the connection is as good as before */
	must_answer(w, c, "/result/text", "nothing");
	hang_up(c);
	free_world(w);
}

static void an_unknown_command_is_named(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w);
	say(w, c, "{\"command\":\"fly\"}\n");
	yyjson_doc *doc = answer(w, c);
	assert_string_equal(yyjson_get_str(yyjson_doc_ptr_get(doc, "/error/code")), "UNKNOWN");
	assert_non_null(strstr(yyjson_get_str(yyjson_doc_ptr_get(doc, "/error/message")), "fly"));
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

/* A message is cut where it is too long: never inside a character, or the client could not read the line. */
static void a_very_long_name_is_still_answered_in_json(void **state)
{
	struct world *w = new_world();
	for (size_t shift = 0; shift < 3; shift++) {
		struct client *c = dial(w);
		say(w, c, "{\"command\":\"");
		say(w, c, &"ab"[shift % 2]);
		if (shift == 2)
			say(w, c, "cd");
		for (int i = 0; i < 800; i++)
			say(w, c, "\xe2\x82\xac");
		say(w, c, "\"}\n");
		must_answer(w, c, "/error/code", "UNKNOWN");
		hang_up(c);
	}
	free_world(w);
}

static void a_line_past_the_limit_ends_the_connection(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w);
	size_t n = CONTROL_LINE_MAX + 8192;
	char *line = malloc(n);
	assert_non_null(line);
	memset(line, 'x', n);
	say_bytes(w, c, line, n);
	must_be_closed(w, c);
	hang_up(c);
	c = dial(w);                                             /* one below the limit is read */
	static const char head[] = "{\"command\":\"echo\",\"args\":{\"text\":\"oui\",\"x\":\"", tail[] = "\"}}\n";
	memcpy(line, head, strlen(head));
	n = CONTROL_LINE_MAX - 1;
	memcpy(line + n - strlen(tail), tail, strlen(tail));
	say_bytes(w, c, line, n);
	must_answer(w, c, "/result/text", "oui");
	hang_up(c);
	free(line);
	free_world(w);
}

static void a_client_that_leaves_is_known_to_be_gone(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w);
	say(w, c, "{\"command\":\"hold\"}\n");
	for (uint64_t since = uv_hrtime(); !w->held;)
		turn(w, since);
	assert_false(control_is_gone(w->held));
	hang_up(c);
	for (uint64_t since = uv_hrtime(); !control_is_gone(w->held);)
		turn(w, since);
	control_progress(w->held, object("part", "half"));
	control_done(w->held, object("text", "too late"));
	free_world(w);
}

static void a_client_that_does_not_read_is_dropped(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w);
	char *text = malloc(1 << 20);
	assert_non_null(text);
	memset(text, 'x', (1 << 20) - 1);
	text[(1 << 20) - 1] = '\0';
	say(w, c, "{\"command\":\"hold\"}\n");
	for (uint64_t since = uv_hrtime(); !w->held;)
		turn(w, since);
	unsigned written = 0;
	for (; !control_is_gone(w->held) && written < 100; written++)
		control_progress(w->held, object("part", text));
	assert_true(written > 4 && written < 20);
	control_done(w->held, object("text", "too late"));
	free(text);
	hang_up(c);
	free_world(w);
}

static void more_clients_than_the_limit_are_sent_away(void **state)
{
	struct world *w = new_world();
	struct client *clients[CONTROL_CLIENTS_MAX], *late;
	for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		clients[i] = dial(w);
		say(w, clients[i], "{\"command\":\"echo\"}\n");
		must_answer(w, clients[i], "/result/text", "nothing");
	}
	late = dial(w);
	must_be_closed(w, late);
	hang_up(late);
	hang_up(clients[0]);
	clients[0] = NULL;
	for (uint64_t since = uv_hrtime();;) {                 /* its place is free once it was seen to be gone */
		late = dial(w);
		say(w, late, "{\"command\":\"echo\"}\n");
		for (receive(late); !late->in.length && !late->closed; receive(late))
			turn(w, since);
		bool served = late->in.length > 0;
		hang_up(late);
		if (served)
			break;
	}
	for (size_t i = 1; i < CONTROL_CLIENTS_MAX; i++)
		hang_up(clients[i]);
	free_world(w);
}

static void closing_ends_connections_and_outlives_no_request(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w), *idle = dial(w);
	say(w, c, "{\"command\":\"hold\"}\n");
	for (uint64_t since = uv_hrtime(); !w->held;)
		turn(w, since);
	struct control_request *held = w->held;
	free_world(w);
	assert_true(control_is_gone(held));
	control_done(held, object("text", "too late"));
	receive(c);
	receive(idle);
	assert_true(c->closed && idle->closed);
	hang_up(c);
	hang_up(idle);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_its_owner_may_open_the_socket),
		cmocka_unit_test(a_home_that_lets_its_group_in_opens_the_socket_to_it),
		cmocka_unit_test(a_socket_left_by_a_crash_is_replaced),
		cmocka_unit_test(a_home_that_is_not_there_is_said),
		cmocka_unit_test(a_command_is_answered),
		cmocka_unit_test(a_command_may_come_byte_by_byte),
		cmocka_unit_test(commands_follow_each_other_one_at_a_time),
		cmocka_unit_test(an_answer_without_memory_is_an_error_and_not_half_an_answer),
		cmocka_unit_test(lines_that_are_no_request_are_refused),
		cmocka_unit_test(an_unknown_command_is_named),
		cmocka_unit_test(a_very_long_name_is_still_answered_in_json),
		cmocka_unit_test(a_line_past_the_limit_ends_the_connection),
		cmocka_unit_test(a_client_that_leaves_is_known_to_be_gone),
		cmocka_unit_test(a_client_that_does_not_read_is_dropped),
		cmocka_unit_test(more_clients_than_the_limit_are_sent_away),
		cmocka_unit_test(closing_ends_connections_and_outlives_no_request),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
