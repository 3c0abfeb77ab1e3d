/* fuzz_control.c: what comes in at the control socket, over a real one.
 *
 * What must hold: every line is answered by one line of JSON that says whether it went well, in order, whatever the line was; and
 * afterwards the next client is served.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/control/control.h"
#include "tests/fuzz/fuzz.h"

#define INPUT_MAX 65536
#define TURNS_MAX 100000

static char home[] = "/tmp/essaim-fuzz-XXXXXX";
static uv_loop_t loop;
static struct control *control;

bool fuzz_seed(size_t i, struct buf *out)
{
	static const char *const seeds[] = {
		"{\"command\":\"echo\",\"args\":{\"text\":\"a\\u00e9\\n\"}}\n",
		"{\"command\":\"echo\"}\n{\"command\":\"fail\",\"args\":{\"text\":\"why\"}}\n\n",
		"{\"args\":[],\"command\":\"\xc3\xa9\"}\r\n[{}]\n7\n",
	};
	if (i >= sizeof seeds / sizeof *seeds)
		return false;
	must(buf_append_str(out, seeds[i]) == 0);
	return true;
}

static void on_echo(void *arg, struct control_request *request, yyjson_val *args)
{
	(void)arg;
	must(!args || yyjson_is_obj(args));
	yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
	must(doc);
	yyjson_mut_doc_set_root(doc, args ? yyjson_val_mut_copy(doc, args) : yyjson_mut_obj(doc));
	control_done(request, doc);
}

static void on_fail(void *arg, struct control_request *request, yyjson_val *args)
{
	(void)arg;
	const char *text = yyjson_get_str(yyjson_obj_get(args, "text"));
	control_fail(request, ERR_DENIED, text, "%s", text ? text : "no");
}

static void close_all(void)
{
	control_close(control, NULL, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	uv_loop_close(&loop);
	rmdir(home);
}

static void open_once(void)
{
	static const struct control_command commands[] = { { "echo", on_echo }, { "fail", on_fail }, { NULL, NULL } };
	char why[200];
	if (control)
		return;
	must(mkdtemp(home));
	must(uv_loop_init(&loop) == 0);
	must(control_open(&control, &loop, home, commands, NULL, why, sizeof why) == 0);
	atexit(close_all);
}

static void must_be_an_answer(const char *line, size_t n)
{
	yyjson_doc *doc = yyjson_read(line, n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc), *ok = yyjson_obj_get(root, "ok"), *error = yyjson_obj_get(root, "error");
	must(yyjson_is_bool(ok));
	if (yyjson_get_bool(ok))
		must(yyjson_is_obj(yyjson_obj_get(root, "result")));
	else
		must(yyjson_is_str(yyjson_obj_get(error, "code")) && yyjson_is_str(yyjson_obj_get(error, "message")));
	yyjson_doc_free(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct buf in;
	size_t lines = 0, sent = 0, seen = 0;

	if (n > INPUT_MAX)
		return 0;
	open_once();
	buf_init(&in, 64 << 20);
	for (size_t i = 0; i < n; i++)
		lines += data[i] == '\n';
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	snprintf(address.sun_path, sizeof address.sun_path, "%s/control.sock", home);
	must(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
	for (unsigned turns = 0; sent < n || seen < lines; turns++) {
		char block[4096];
		must(turns < TURNS_MAX);
		ssize_t k = sent < n ? send(fd, data + sent, n - sent, MSG_NOSIGNAL) : 0;
		sent += k > 0 ? (size_t)k : 0;
		uv_run(&loop, UV_RUN_NOWAIT);
		while ((k = recv(fd, block, sizeof block, 0)) > 0)
			must(buf_append(&in, block, (size_t)k) == 0);
		must(k < 0 && errno == EAGAIN);                /* it does not hang up on anyone */
		uint8_t *end;
		while (in.length && (end = memchr(in.data, '\n', in.length))) {
			must_be_an_answer((char *)in.data, (size_t)(end - in.data));
			buf_consume(&in, (size_t)(end - in.data) + 1);
			seen++;
		}
	}
	must(seen == lines && !in.length);
	close(fd);
	for (int i = 0; i < 3; i++)
		uv_run(&loop, UV_RUN_NOWAIT);
	buf_release(&in);
	return 0;
}
