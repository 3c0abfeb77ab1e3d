/* api_world.c: see api_world.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>


#include "tests/unit/api_world.h"

#define DEADLINE_NS (UINT64_C(30) * 1000000000)

/* --- a route that does what the test says ------------------------------------------------------------------- */

struct route the_route;

int route_ask(struct route *route, const struct route_ask *ask, struct route_question **out)
{
	if (route->err)
		return route->err;
	if (route->busy_from && route->n - route->over >= route->busy_from)
		return ERR_BUSY;
	assert_true(route->n < 64);
	*out = &route->questions[route->n++];
	**out = (struct route_question){.ask = *ask};
	const struct render_message *last = &ask->messages[ask->n_messages - 1];
	snprintf(route->model, sizeof route->model, "%s", ask->model);
	snprintf(route->role, sizeof route->role, "%.*s", (int)last->role_length, last->role);
	snprintf(route->content, sizeof route->content, "%.*s", (int)(last->content_length < 500 ? last->content_length : 500), last->content);
	route->n_messages = ask->n_messages;
	route->content_length = last->content_length;
	for (size_t i = 0; i < ask->n_stops; i++)
		snprintf(route->stop[i], sizeof route->stop[i], "%s", ask->stops[i]);
	return 0;
}

void route_cancel(struct route_question *question)
{
	assert_false(question->cancelled || question->over);
	question->cancelled = true;
	the_route.cancelled++;
}

size_t route_models(struct route *route, struct route_model *out, size_t max)
{
	memcpy(out, route->models, sizeof route->models);
	return 2;
}

int route_find(struct route *route, const char *name, struct route_model *out, char *why, size_t why_size)
{
	for (size_t i = 0; i < 2; i++)
		if (!strcmp(name, route->models[i].name)) {
			*out = route->models[i];
			return 0;
		}
	snprintf(why, why_size, "no such model here; did you mean 'histoires'");
	return ERR_UNKNOWN;
}

int route_text(struct route *route, const char *name, const struct engine_render *render,
	       void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *model, const char *why), void *arg,
	       struct route_text **out)
{
	if (route->err)
		return route->err;
	struct route_text *t = *out = &route->texts[route->n_texts++ % 8];
	*t = (struct route_text){.render = *render, .done = done, .arg = arg, .named = name != NULL};
	if (render->n_messages)
		snprintf(t->content, sizeof t->content, "%.*s", (int)render->messages[0].content_length, render->messages[0].content);
	for (size_t i = 0; i < render->n_tokens && i < 8; i++)
		t->ids[i] = get_u32(render->tokens + 4 * i);
	return 0;
}

void route_text_cancel(struct route_text *text)
{
	text->cancelled = true;
	the_route.cancelled++;
}

const char *route_why(const struct route *route)
{
	(void)route;
	return "";
}

struct route_counts route_counts(const struct route *route)
{
	return (struct route_counts){.questions = 7, .failed = 1, .prompt_tokens = 100, .completion_tokens = 200, .running = route->n};
}

void say(struct route_question *q, const char *text)
{
	static const struct token token = {.id = 1};
	q->ask.on_text(q->ask.arg, text, strlen(text), &token);
}

void say_token(struct route_question *q, const char *shown, const struct token *token)
{
	q->ask.on_text(q->ask.arg, shown ? shown : "", shown ? strlen(shown) : 0, token);
}

void end(struct route_question *q, int err, const char *detail)
{
	struct route_result result = {.err = err, .finish = err ? NULL : "stop", .prompt_tokens = 5, .completion_tokens = err ? 0 : 3, .cached_tokens = 2, .n_stages = 2, .prefill_us = 1500000};
	if (detail)
		snprintf(result.detail, sizeof result.detail, "%s", detail);
	if (err == ERR_BUSY)
		result.retry_after = 3;
	for (size_t i = 0; i < 2; i++) {
		snprintf(result.stages[i].name, NAME_SIZE, i ? "Abeille \"deux\"" : "Colibri");
		snprintf(result.stages[i].association, NAME_SIZE, "Ruche");
		result.stages[i].text = !i;
		result.stages[i].range = i ? (struct layer_range){1, 4} : (struct layer_range){0, 1};
	}
	q->over = true;
	the_route.over++;
	q->ask.on_end(q->ask.arg, &result);
}

/* --- the API on a loop -------------------------------------------------------------------------------------- */

static void on_wake(uv_timer_t *timer)
{
	(void)timer;
}

static void on_closed(void *arg)
{
	((struct world *)arg)->closed = true;
}

static void on_metrics(void *arg, struct buf *out)
{
	buf_append_str(out, "essaim_peers_up 2\n");
}

struct world *new_world_with(const char *cors, const char *hosts)
{
	struct world *w = calloc(1, sizeof *w);
	char why[200] = "";
	assert_non_null(w);
	memset(&the_route, 0, sizeof the_route);
	snprintf(the_route.models[0].name, NAME_SIZE, "histoires");
	snprintf(the_route.models[0].association, NAME_SIZE, "Ruche");
	the_route.models[0].created = 1700000000;
	the_route.models[0].context = 512;
	snprintf(the_route.models[1].name, NAME_SIZE, "grand");
	the_route.models[1].state = ROUTE_ARRIVING;
	the_route.models[1].bytes_wanted = 3 << 20;
	the_route.models[1].bytes_have = 1 << 20;
	the_route.models[1].seconds_left = 41;
	uv_loop_init(&w->loop);
	uv_timer_init(&w->loop, &w->wake);
	uv_timer_start(&w->wake, on_wake, 2, 2);
	const struct api_config config = {.loop = &w->loop, .route = &the_route, .host = "127.0.0.1", .port = 0, .api_key = KEY, .cors_origins = cors,
					  .hosts = hosts, .metrics = on_metrics};
	int err = api_open(&w->api, &config, why, sizeof why);
	if (err)
		fail_msg("%s", why);
	return w;
}

struct world *new_world(void)
{
	return new_world_with("", "");
}

void free_world(struct world *w)
{
	if (w->api)
		api_close(w->api, on_closed, w);
	uv_close((uv_handle_t *)&w->wake, NULL);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	assert_true(w->closed);
	assert_int_equal(uv_loop_close(&w->loop), 0);
	free(w);
}

/* --- clients ---------------------------------------------------------------------------------------------- */

struct client *dial(struct world *w)
{
	struct client *c = calloc(1, sizeof *c);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(api_port(w->api)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_non_null(c);
	buf_init(&c->in, 64 << 20);
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_true(c->fd >= 0);
	assert_int_equal(connect(c->fd, (struct sockaddr *)&address, sizeof address), 0);
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	return c;
}

void hang_up(struct client *c)
{
	close(c->fd);
	buf_release(&c->in);
	free(c);
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

void turn(struct world *w, uint64_t since)
{
	uv_run(&w->loop, UV_RUN_ONCE);
	if (uv_hrtime() - since > DEADLINE_NS)
		fail_msg("nothing came of it");
}

/* Sends all of it, however slowly it is taken; an answer may come, and the connection close, before. */
void send_bytes(struct world *w, struct client *c, const void *bytes, size_t n)
{
	uint64_t since = uv_hrtime();
	for (size_t at = 0; at < n && !c->closed;) {
		ssize_t sent = send(c->fd, (const char *)bytes + at, n - at, MSG_NOSIGNAL);
		if (sent > 0)
			at += (size_t)sent;
		else if (errno != EAGAIN)
			break;
		turn(w, since);
	}
}

void send_text(struct world *w, struct client *c, const char *text)
{
	send_bytes(w, c, text, strlen(text));
}

bool has(struct client *c, const char *text)
{
	return c->in.length && memmem(c->in.data, c->in.length, text, strlen(text));
}

void await(struct world *w, struct client *c, const char *text)
{
	uint64_t since = uv_hrtime();
	for (receive(c); !has(c, text) && !c->closed; receive(c))
		turn(w, since);
	if (!has(c, text))
		fail_msg("\"%s\" is not in: %.*s", text, (int)c->in.length, (const char *)c->in.data);
}

void await_question(struct world *w, size_t n)
{
	for (uint64_t since = uv_hrtime(); the_route.n < n;)
		turn(w, since);
}

void await_closing(struct world *w, struct client *c)
{
	uint64_t since = uv_hrtime();
	for (receive(c); !c->closed; receive(c))
		turn(w, since);
}

unsigned status_of(struct client *c)
{
	return c->in.length > 12 ? (unsigned)atoi((const char *)c->in.data + 9) : 0;
}

yyjson_doc *json_of(struct world *w, struct client *c)
{
	uint64_t since = uv_hrtime();
	for (;;) {
		receive(c);
		const char *text = c->in.length ? buf_cstr(&c->in) : "";
		const char *body = strstr(text, "\r\n\r\n"), *length = strcasestr(text, "Content-Length: ");
		if (body && length && strlen(body + 4) >= strtoul(length + 16, NULL, 10)) {
			yyjson_doc *doc = yyjson_read(body + 4, strtoul(length + 16, NULL, 10), 0);
			if (!doc)
				fail_msg("no JSON: %s", body + 4);
			return doc;
		}
		if (c->closed)
			fail_msg("closed after: %s", text);
		turn(w, since);
	}
}

void head_into(char *out, size_t size, const char *what, size_t length)
{
	snprintf(out, size, "%s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " KEY "\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		 what, length);
}

struct client *get(struct world *w, const char *what)
{
	struct client *c = dial(w);
	char head[512];
	head_into(head, sizeof head, what, 0);
	send_text(w, c, head);
	return c;
}

struct client *post_bytes(struct world *w, const char *path, const void *body, size_t n)
{
	struct client *c = dial(w);
	char head[512], what[100];
	snprintf(what, sizeof what, "POST %s", path);
	head_into(head, sizeof head, what, n);
	send_text(w, c, head);
	send_bytes(w, c, body, n);
	return c;
}

struct client *post(struct world *w, const char *path, const char *body)
{
	return post_bytes(w, path, body, strlen(body));
}

const char *at(yyjson_doc *doc, const char *pointer)
{
	const char *text = yyjson_get_str(yyjson_doc_ptr_get(doc, pointer));
	if (!text)
		fail_msg("nothing at %s", pointer);
	return text;
}

void must_refuse(const char *path, const char *body, unsigned status, const char *param, const char *code)
{
	struct world *w = new_world();
	struct client *c = post(w, path, body);
	yyjson_doc *doc = json_of(w, c);
	if (status_of(c) != status)
		fail_msg("%s: %u instead of %u", body, status_of(c), status);
	assert_true(strlen(at(doc, "/error/message")) > 10);
	assert_string_equal(at(doc, "/error/type"), "invalid_request_error");
	assert_string_equal(at(doc, "/error/code"), code);
	if (param)
		assert_string_equal(at(doc, "/error/param"), param);
	else
		assert_true(yyjson_is_null(yyjson_doc_ptr_get(doc, "/error/param")));
	assert_int_equal(the_route.n, 0);
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

char *events_of(struct client *c)
{
	char *text = strdup(buf_cstr(&c->in)), *out = calloc(1, c->in.length + 1), *p = strstr(text, "\r\n\r\n");
	assert_true(text && out && p);
	for (p += 4; *p;) {
		size_t n = strtoul(p, &p, 16);
		assert_true(!strncmp(p, "\r\n", 2));
		p += 2;
		if (!n)
			break;
		if (strlen(p) < n + 2)
			break;
		strncat(out, p, n);
		p += n + 2;
	}
	free(text);
	return out;
}

yyjson_doc *event(const char *events, size_t i)
{
	const char *p = events;
	for (;; i--) {
		p = strstr(p, "data: ");
		assert_non_null(p);
		p += 6;
		if (!i)
			break;
	}
	yyjson_doc *doc = yyjson_read(p, (size_t)(strstr(p, "\n\n") - p), 0);
	assert_non_null(doc);
	return doc;
}
