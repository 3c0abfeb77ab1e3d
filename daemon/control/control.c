/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/control/control.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/control/json.h"
#include "proto/log.h"
#include "proto/text.h"

#define BACKLOG 16
/* A client that does not read is dropped when this much waits for it. */
#define QUEUE_MAX (8u << 20)

struct client {
	uv_pipe_t pipe;
	struct control *control;
	struct client *next;
	struct buf in;
	struct control_request *request;         /* the one in progress; NULL: none */
	bool running;                            /* inside client_next(): answers that come at once do not recurse */
	bool closing;
};

struct control_request {
	struct client *client;                   /* NULL: it went away */
};

struct control {
	uv_loop_t *loop;
	uv_pipe_t pipe;
	uv_pipe_t refused;                       /* takes a client off the queue for whom there is no memory: else nobody was ever accepted again */
	bool refusing, refuse_again;
	char path[108];
	const struct control_command *commands;
	void *arg;
	struct client *clients;
	size_t n_clients;
	bool pipe_open, closing;
	bool shared;                             /* with the members of group */
	gid_t group;
	void (*on_closed)(void *arg);
	void *on_closed_arg;
};

static void client_next(struct client *client);

/* --- closing --------------------------------------------------------------------------------------- */

static void maybe_closed(struct control *c)
{
	if (!c->closing || c->pipe_open || c->n_clients || c->refusing)
		return;
	void (*on_closed)(void *) = c->on_closed;
	void *arg = c->on_closed_arg;
	free(c);
	if (on_closed)
		on_closed(arg);
}

static void on_client_closed(uv_handle_t *handle)
{
	struct client *client = handle->data;
	struct control *c = client->control;
	for (struct client **at = &c->clients; *at; at = &(*at)->next)
		if (*at == client) {
			*at = client->next;
			break;
		}
	c->n_clients--;
	buf_release(&client->in);
	free(client);
	maybe_closed(c);
}

static void client_close(struct client *client)
{
	if (client->closing)
		return;
	client->closing = true;
	if (client->request)
		client->request->client = NULL;
	client->request = NULL;
	uv_close((uv_handle_t *)&client->pipe, on_client_closed);
}

static void on_pipe_closed(uv_handle_t *handle)
{
	struct control *c = handle->data;
	c->pipe_open = false;
	maybe_closed(c);
}

void control_close(struct control *c, void (*on_closed)(void *arg), void *arg)
{
	c->closing = true;
	c->on_closed = on_closed;
	c->on_closed_arg = arg;
	for (struct client *client = c->clients; client; client = client->next)
		client_close(client);
	unlink(c->path);
	uv_close((uv_handle_t *)&c->pipe, on_pipe_closed);
}

/* --- answering ------------------------------------------------------------------------------------- */

struct writing {
	uv_write_t request;
	char *text;
};

static void on_written(uv_write_t *request, int status)
{
	struct writing *w = request->data;
	struct client *client = request->handle->data;
	free(w->text);
	free(w);
	if (status && client)
		client_close(client);
}

/* In place of an answer, and without any memory: there is none. What waits to be written first would take some. */
static void say_no_memory(struct client *client)
{
	static const char message[] = N_("essaimd has no memory left to answer; what was asked for may have been done");
	static const char remedy[] = N_("end what else runs on this machine, or share less memory ([share] memory), then look again");
	char line[600];
	int n = snprintf(line, sizeof line, "{\"ok\":false,\"error\":{\"code\":\"ENOMEM\",\"message\":\"%s\",\"template\":\"%s\",\"values\":[],"
			 "\"remedy\":\"%s\",\"remedy_template\":\"%s\",\"remedy_values\":[]}}\n", message, message, remedy, remedy);
	uv_buf_t b = uv_buf_init(line, (unsigned)n);
	if (uv_try_write((uv_stream_t *)&client->pipe, &b, 1) != n)
		client_close(client);
}

/* Frees doc. last: what ends a request; a step that finds no memory is left out. */
static void client_write(struct client *client, yyjson_mut_doc *doc, bool last)
{
	size_t n = 0;
	char *text = json_line(doc, &n);
	struct writing *w = text ? calloc(1, sizeof *w) : NULL;
	if (!w) {
		free(text);
		if (last)
			say_no_memory(client);
		return;
	}
	w->text = text;
	w->request.data = w;
	/* The NUL behind the text becomes the newline. */
	text[n] = '\n';
	uv_buf_t b = uv_buf_init(text, (unsigned)n + 1);
	if (uv_stream_get_write_queue_size((uv_stream_t *)&client->pipe) > QUEUE_MAX || uv_write(&w->request, (uv_stream_t *)&client->pipe, &b, 1, on_written)) {
		free(w->text);
		free(w);
		client_close(client);
	}
}

/* NULL: no memory. */
static yyjson_mut_doc *wrap(const char *key, yyjson_mut_doc *inner)
{
	yyjson_mut_val *from = yyjson_mut_doc_get_root(inner), *root;
	yyjson_mut_doc *doc = from ? json_object(&root) : NULL;
	if (doc && strcmp(key, "progress"))
		yyjson_mut_obj_add_bool(doc, root, "ok", !strcmp(key, "result"));
	if (doc)
		yyjson_mut_obj_add_val(doc, root, key, yyjson_mut_val_mut_copy(doc, from));
	yyjson_mut_doc_free(inner);
	return doc;
}

void control_progress(struct control_request *request, yyjson_mut_doc *doc)
{
	if (!request->client) {
		yyjson_mut_doc_free(doc);
		return;
	}
	client_write(request->client, wrap("progress", doc), false);
}

static void finish(struct control_request *request, yyjson_mut_doc *doc)
{
	struct client *client = request->client;
	free(request);
	if (!client) {
		yyjson_mut_doc_free(doc);
		return;
	}
	client->request = NULL;
	client_write(client, doc, true);
	if (!client->closing && !client->running)
		client_next(client);
}

void control_done(struct control_request *request, yyjson_mut_doc *doc)
{
	finish(request, wrap("result", doc));
}

struct saying {
	yyjson_mut_doc *doc;
	yyjson_mut_val *values;
};

static void on_value(void *arg, const char *value)
{
	struct saying *s = arg;
	yyjson_mut_arr_add_strcpy(s->doc, s->values, value);
}

void control_vsay(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *key, const char *format, va_list ap)
{
	char text[1024];
	va_list copy;
	va_copy(copy, ap);
	vsnprintf(text, sizeof text, format, copy);
	va_end(copy);
	text[text_utf8_whole(text, strlen(text))] = 0;          /* it may have been cut */
	yyjson_mut_obj_add_strcpy(doc, object, key, text);
	struct saying saying = {doc, yyjson_mut_arr(doc)};
	if (template_values(format, ap, on_value, &saying))
		return;         /* then it is said in English */
	bool remedy = !strcmp(key, "remedy");
	yyjson_mut_obj_add_strcpy(doc, object, remedy ? "remedy_template" : "template", format);
	yyjson_mut_obj_add_val(doc, object, remedy ? "remedy_values" : "values", saying.values);
}

void control_say(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *key, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	control_vsay(doc, object, key, format, ap);
	va_end(ap);
}

void control_refuse(struct control_request *request, yyjson_mut_doc *error)
{
	finish(request, wrap("error", error));
}

void control_fail(struct control_request *request, int err, const char *remedy, const char *format, ...)
{
	yyjson_mut_val *error;
	yyjson_mut_doc *doc = json_object(&error);
	yyjson_mut_obj_add_str(doc, error, "code", err_name(err));
	va_list ap;
	va_start(ap, format);
	control_vsay(doc, error, "message", format, ap);
	va_end(ap);
	if (remedy)
		yyjson_mut_obj_add_strcpy(doc, error, "remedy", remedy);
	control_refuse(request, doc);
}

bool control_is_gone(const struct control_request *request)
{
	return !request->client;
}

/* --- asking ---------------------------------------------------------------------------------------- */

static void run_line(struct client *client, const uint8_t *line, size_t n)
{
	struct control *c = client->control;
	struct control_request *request = calloc(1, sizeof *request);
	if (!request) {
		say_no_memory(client);
		return;
	}
	request->client = client;
	client->request = request;
	yyjson_read_err wrong;
	yyjson_doc *doc = yyjson_read_opts((char *)line, n, 0, NULL, &wrong);
	yyjson_val *root = yyjson_doc_get_root(doc);
	const char *name = yyjson_get_str(yyjson_obj_get(root, "command"));
	yyjson_val *args = yyjson_obj_get(root, "args");
	const struct control_command *command = c->commands;
	while (name && command->name && strcmp(command->name, name))
		command++;
	if (!doc && wrong.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION)
		finish(request, NULL);
	else if (!name || (args && !yyjson_is_obj(args)))
		control_fail(request, ERR_MALFORMED, NULL, "a request is one line: {\"command\": NAME, \"args\": {...}}");
	else if (!command->name)
		control_fail(request, ERR_UNKNOWN, "is `essaim` newer than the running essaimd? restart the service", "there is no command %s", name);
	else
		command->handler(c->arg, request, args);
	yyjson_doc_free(doc);
}

/* Runs the next complete line unless a command is in progress. */
static void client_next(struct client *client)
{
	client->running = true;
	while (!client->request && !client->closing) {
		uint8_t *end = client->in.length ? memchr(client->in.data, '\n', client->in.length) : NULL;
		if (!end)
			break;
		size_t n = (size_t)(end - client->in.data);
		uint8_t *line = malloc(n + 1);
		if (line)
			memcpy(line, client->in.data, n);
		buf_consume(&client->in, n + 1);
		if (!line) {
			say_no_memory(client);
			continue;
		}
		run_line(client, line, n);
		free(line);
	}
	client->running = false;
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
	struct client *client = handle->data;
	(void)suggested;
	uint8_t *at = buf_reserve(&client->in, 4096);
	*out = uv_buf_init((char *)at, at ? 4096 : 0);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
	struct client *client = stream->data;
	(void)b;
	if (n == UV_ENOBUFS) {
		if (client->in.length < CONTROL_LINE_MAX / 2)
			say_no_memory(client);
		else
			log_warning("control: a request is longer than %u bytes and is refused", CONTROL_LINE_MAX);
		client_close(client);
	} else if (n < 0) {
		client_close(client);
	} else if (n > 0) {
		buf_grow(&client->in, (size_t)n);
		client_next(client);
	}
}

static bool is_member(int fd, gid_t group)
{
	gid_t groups[1024];                      /* a caller in more of them is refused */
	socklen_t size = sizeof groups;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size))
		return false;
	for (size_t i = 0; i < size / sizeof *groups; i++)
		if (groups[i] == group)
			return true;
	return false;
}

static bool may_ask(struct client *client)
{
	struct ucred credentials;
	socklen_t size = sizeof credentials;
	uv_os_fd_t fd;
	if (uv_fileno((uv_handle_t *)&client->pipe, &fd) || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size))
		return false;
	if (credentials.uid == geteuid() || credentials.uid == 0)
		return true;
	return client->control->shared && (credentials.gid == client->control->group || is_member(fd, client->control->group));
}

static void refuse(struct control *c);

static void on_refused_closed(uv_handle_t *handle)
{
	struct control *c = handle->data;
	c->refusing = false;
	if (c->refuse_again && !c->closing)
		refuse(c);
	else
		maybe_closed(c);
}

static void refuse(struct control *c)
{
	c->refuse_again = c->refusing;
	if (c->refusing)
		return;
	c->refusing = true;
	uv_pipe_init(c->loop, &c->refused, 0);
	c->refused.data = c;
	uv_accept((uv_stream_t *)&c->pipe, (uv_stream_t *)&c->refused);
	uv_close((uv_handle_t *)&c->refused, on_refused_closed);
}

static void on_connection(uv_stream_t *server, int status)
{
	struct control *c = server->data;
	if (status || c->closing)
		return;
	struct client *client = calloc(1, sizeof *client);
	if (!client) {
		log_warning("control: out of memory, a command was turned away");
		refuse(c);
		return;
	}
	client->control = c;
	buf_init(&client->in, CONTROL_LINE_MAX + 4096);
	uv_pipe_init(c->loop, &client->pipe, 0);
	client->pipe.data = client;
	client->next = c->clients;
	c->clients = client;
	c->n_clients++;
	if (uv_accept(server, (uv_stream_t *)&client->pipe) || c->n_clients > CONTROL_CLIENTS_MAX || !may_ask(client) ||
	    uv_read_start((uv_stream_t *)&client->pipe, on_allocate, on_read))
		client_close(client);
}

int control_open(struct control **out, uv_loop_t *loop, const char *home, const struct control_command *commands, void *arg, char *why,
		 size_t why_size)
{
	struct control *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->loop = loop;
	c->commands = commands;
	c->arg = arg;
	/* The daemon's working folder is the home: a long path does not fit sun_path, the short name does. */
	int n = snprintf(c->path, sizeof c->path, "%s/control.sock", home);
	if (n >= (int)sizeof c->path) {
		char here[4096];
		if (getcwd(here, sizeof here) && !strcmp(here, home)) {
			snprintf(c->path, sizeof c->path, "control.sock");
		} else {
			snprintf(why, why_size, "the home folder's path is too long for a socket: %zu characters at most", sizeof c->path - 14);
			free(c);
			return -ENAMETOOLONG;
		}
	}
	unlink(c->path);                         /* the lock on the home says that nobody listens there */
	uv_pipe_init(loop, &c->pipe, 0);
	c->pipe.data = c;
	c->pipe_open = true;
	struct stat folder;
	if (!stat(home, &folder) && folder.st_mode & S_ISGID && folder.st_mode & S_IXGRP) {
		c->shared = true;
		c->group = folder.st_gid;        /* the socket's too, by the folder's bit */
	}
	mode_t before = umask(c->shared ? 0117 : 0177);
	int err = uv_pipe_bind(&c->pipe, c->path);
	umask(before);
	if (!err)
		err = uv_listen((uv_stream_t *)&c->pipe, BACKLOG, on_connection);
	if (err) {
		snprintf(why, why_size, "%s/control.sock cannot be made: %s", home, uv_strerror(err));
		c->closing = true;
		uv_close((uv_handle_t *)&c->pipe, on_pipe_closed);
		return err;
	}
	*out = c;
	return 0;
}
