/* One request to essaimd, a line of JSON each way. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/cli.h"

#define ANSWER_MAX (64u << 20)

int cli_fail(struct cli *cli, int status, const char *code, const char *remedy, const char *format, ...)
{
	char text[2048];
	va_list ap;
	va_start(ap, format);
	vsnprintf(text, sizeof text, cli->json ? format : _(format), ap);
	va_end(ap);
	if (!cli->json) {
		fold_print(stderr, 0, 0, "essaim: %s", plain_text(text));        /* it may quote what a peer said */
		if (remedy && *remedy)
			fold_print(stderr, 0, 5, "  -> %s", translated(remedy));
		return status;
	}
	yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
	yyjson_mut_val *root = yyjson_mut_obj(doc), *error = yyjson_mut_obj(doc);
	yyjson_mut_doc_set_root(doc, root);
	yyjson_mut_obj_add_val(doc, root, "error", error);
	yyjson_mut_obj_add_str(doc, error, "code", code);
	yyjson_mut_obj_add_str(doc, error, "message", text);
	if (remedy)
		yyjson_mut_obj_add_str(doc, error, "remedy", remedy);
	char *json = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
	puts(json ? json : "{}");
	free(json);
	yyjson_mut_doc_free(doc);
	return status;
}

static int cli_fail_json(int status, yyjson_val *error)
{
	char *json = yyjson_val_write(error, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
	printf("{\"error\":%s}\n", json ? json : "{}");
	free(json);
	return status;
}

static int status_of(const char *code)
{
	static const struct {
		const char *code;
		int status;
	} table[] = {{"UNKNOWN", EXIT_UNKNOWN}, {"AMBIGUOUS", EXIT_UNKNOWN}, {"BUSY", EXIT_LATER}, {"ARRIVING", EXIT_LATER}};
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (!strcmp(table[i].code, code))
			return table[i].status;
	return EXIT_REFUSED;
}

/* Through /proc, so that a home with a long path fits into a socket's address. 0, or errno; *home: it is the folder that cannot be opened. */
static int connect_home(struct cli *cli, int *out, bool *home)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int folder = open(cli->home, O_PATH | O_DIRECTORY | O_CLOEXEC);
	*home = folder < 0;
	if (folder < 0)
		return errno;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/control.sock", folder);
	int failed = fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) ? errno : 0;
	close(folder);
	if (failed && fd >= 0)
		close(fd);
	*out = fd;
	return failed;
}

static int open_socket(struct cli *cli, int *out)
{
	bool home;
	int failed = connect_home(cli, out, &home);
	if (failed && home)
		return cli_fail(cli, EXIT_NO_DAEMON, "ENOENT", "make it with: essaim --home DIR init; or name another with --home DIR",
				"there is no home folder %s: %s", cli->home, strerror(failed));
	if (failed == EACCES)
		return cli_fail(cli, EXIT_NO_DAEMON, "EACCES",
				"run essaim as the user that runs essaimd, or as root; a service lets the members of its group in: usermod -aG essaim YOU",
				"you may not speak to the node of %s", cli->home);
	if (failed)
		return cli_fail(cli, EXIT_NO_DAEMON, "ENODAEMON", "start it: essaimd --home DIR, or systemctl start essaimd", "no essaimd runs on %s", cli->home);
	return 0;
}

bool client_has_daemon(struct cli *cli)
{
	int fd;
	bool home;
	if (connect_home(cli, &fd, &home))
		return false;
	close(fd);
	return true;
}

yyjson_mut_doc *client_args(yyjson_mut_val **root)
{
	yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
	*root = yyjson_mut_obj(doc);
	yyjson_mut_doc_set_root(doc, *root);
	return doc;
}

static int send_request(int fd, const char *command, yyjson_mut_doc *args)
{
	yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
	yyjson_mut_val *root = yyjson_mut_obj(doc);
	yyjson_mut_doc_set_root(doc, root);
	yyjson_mut_obj_add_str(doc, root, "command", command);
	yyjson_mut_obj_add_val(doc, root, "args", args ? yyjson_mut_val_mut_copy(doc, yyjson_mut_doc_get_root(args)) : yyjson_mut_obj(doc));
	size_t n = 0, done = 0;
	char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, &n);
	yyjson_mut_doc_free(doc);
	if (!text)
		return -1;
	text[n++] = '\n';
	while (done < n) {
		ssize_t k = send(fd, text + done, n - done, MSG_NOSIGNAL);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			break;
		done += (size_t)k;
	}
	free(text);
	return done == n ? 0 : -1;
}

/* The daemon's error, in the reader's language: the message, each of its details, the remedy. */
static int refused(struct cli *cli, yyjson_val *error)
{
	yyjson_val *details = yyjson_obj_get(error, "details"), *detail;
	char said[2048], remedy[2048];
	size_t i, n;
	int status = status_of(json_text(error, "code"));
	if (cli->json)
		return cli_fail_json(status, error);
	json_said(error, "remedy", remedy, sizeof remedy);
	cli_fail(cli, status, json_text(error, "code"), NULL, "%s", json_said(error, "message", said, sizeof said));
	yyjson_arr_foreach(details, i, n, detail)
		fold_print(stderr, 0, 4, "  %s", plain_text((char *)json_said(detail, "text", said, sizeof said)));
	if (*remedy)
		fold_print(stderr, 0, 5, "  -> %s", plain_text(remedy));
	return status;
}

int client_call(struct cli *cli, const char *command, yyjson_mut_doc *args, client_progress *progress, void *arg, yyjson_doc **out)
{
	int fd = -1, status = open_socket(cli, &fd);
	if (status) {
		yyjson_mut_doc_free(args);
		return status;
	}
	int sent = send_request(fd, command, args);
	yyjson_mut_doc_free(args);
	char *text = NULL;
	size_t length = 0, capacity = 0;
	*out = NULL;
	while (!sent && !*out) {
		char *end = length ? memchr(text, '\n', length) : NULL;
		if (!end) {
			if (capacity - length < 65536) {
				char *more = capacity < ANSWER_MAX ? realloc(text, capacity * 2 + 131072) : NULL;
				if (!more)
					break;
				text = more;
				capacity = capacity * 2 + 131072;
			}
			ssize_t n = recv(fd, text + length, capacity - length, 0);
			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				break;
			length += (size_t)n;
			continue;
		}
		yyjson_doc *doc = yyjson_read(text, (size_t)(end - text), 0);
		size_t used = (size_t)(end - text) + 1;
		memmove(text, text + used, length - used);
		length -= used;
		yyjson_val *step = yyjson_obj_get(yyjson_doc_get_root(doc), "progress");
		if (step) {
			if (progress)
				progress(cli, step, arg);
			yyjson_doc_free(doc);
		} else {
			*out = doc;
			if (!doc)
				break;
		}
	}
	free(text);
	close(fd);
	if (!*out)
		return cli_fail(cli, EXIT_REFUSED, "EPIPE", "look into its log", "essaimd ended before it answered");
	yyjson_val *root = yyjson_doc_get_root(*out);
	if (json_bool(root, "ok"))
		return 0;
	status = refused(cli, yyjson_obj_get(root, "error"));
	yyjson_doc_free(*out);
	*out = NULL;
	return status;
}

yyjson_val *client_result(yyjson_doc *doc)
{
	return yyjson_obj_get(yyjson_doc_get_root(doc), "result");
}

bool client_print_json(struct cli *cli, yyjson_doc *doc)
{
	if (!cli->json)
		return false;
	char *text = yyjson_val_write(client_result(doc), YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
	puts(text ? text : "{}");
	free(text);
	yyjson_doc_free(doc);
	return true;
}

const char *json_text(yyjson_val *object, const char *key)
{
	const char *text = yyjson_get_str(yyjson_obj_get(object, key));
	return text ? text : "";
}

uint64_t json_uint(yyjson_val *object, const char *key)
{
	return yyjson_get_uint(yyjson_obj_get(object, key));
}

double json_real(yyjson_val *object, const char *key)
{
	return yyjson_get_num(yyjson_obj_get(object, key));
}

bool json_bool(yyjson_val *object, const char *key)
{
	return yyjson_get_bool(yyjson_obj_get(object, key));
}
