/* test_api.c: the HTTP API over real sockets, in front of a route that is a script.
 *
 *      client (raw socket) --- api.c on a libuv loop --- route_ask() below: the test says what is answered, and when
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
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

#include "daemon/api/api_internal.h"

#define KEY "sk-essaim-test"
#define DEADLINE_NS (UINT64_C(30) * 1000000000)

/* --- a route that does what the test says ------------------------------------------------------------------- */

struct route_question {
	struct route_ask ask;
	bool cancelled, over;
};

static struct route {
	int err;                               /* what route_ask() answers */
	size_t n, cancelled;
	struct route_question questions[64];
	/* of the last question, copied: the views last for the call only */
	char model[128], role[16], content[512], stop[STOPS_MAX][32];
	size_t n_messages, content_length;
	struct route_model models[2];
} the_route;

int route_ask(struct route *route, const struct route_ask *ask, struct route_question **out)
{
	if (route->err)
		return route->err;
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

const char *route_why(const struct route *route)
{
	(void)route;
	return "";
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

struct route_counts route_counts(const struct route *route)
{
	return (struct route_counts){.questions = 7, .failed = 1, .prompt_tokens = 100, .completion_tokens = 200, .running = route->n};
}

static void say(struct route_question *q, const char *text)
{
	static const struct token token = {.id = 1};
	q->ask.on_text(q->ask.arg, text, strlen(text), &token);
}

static void end(struct route_question *q, int err, const char *detail)
{
	struct route_result result = {.err = err, .finish = err ? NULL : "stop", .prompt_tokens = 5, .completion_tokens = 3, .cached_tokens = 2, .n_stages = 2, .prefill_us = 1500000};
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
	q->ask.on_end(q->ask.arg, &result);
}

/* --- the API on a loop -------------------------------------------------------------------------------------- */

struct world {
	uv_loop_t loop;
	uv_timer_t wake;                       /* so that waiting looks at its sockets now and then */
	struct api *api;
	bool closed;
};

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

static struct world *new_world_with(const char *cors, const char *hosts)
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

static struct world *new_world(void)
{
	return new_world_with("", "");
}

static void free_world(struct world *w)
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

struct client {
	int fd;
	struct buf in;
	bool closed;
};

static struct client *dial(struct world *w)
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

static void hang_up(struct client *c)
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

static void turn(struct world *w, uint64_t since)
{
	uv_run(&w->loop, UV_RUN_ONCE);
	if (uv_hrtime() - since > DEADLINE_NS)
		fail_msg("nothing came of it");
}

/* Sends all of it, however slowly it is taken; an answer may come, and the connection close, before. */
static void send_bytes(struct world *w, struct client *c, const void *bytes, size_t n)
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

static void send_text(struct world *w, struct client *c, const char *text)
{
	send_bytes(w, c, text, strlen(text));
}

static bool has(struct client *c, const char *text)
{
	return c->in.length && memmem(c->in.data, c->in.length, text, strlen(text));
}

static void await(struct world *w, struct client *c, const char *text)
{
	uint64_t since = uv_hrtime();
	for (receive(c); !has(c, text) && !c->closed; receive(c))
		turn(w, since);
	if (!has(c, text))
		fail_msg("\"%s\" is not in: %.*s", text, (int)c->in.length, (const char *)c->in.data);
}

static void await_question(struct world *w, size_t n)
{
	for (uint64_t since = uv_hrtime(); the_route.n < n;)
		turn(w, since);
}

static void await_closing(struct world *w, struct client *c)
{
	uint64_t since = uv_hrtime();
	for (receive(c); !c->closed; receive(c))
		turn(w, since);
}

static unsigned status_of(struct client *c)
{
	return c->in.length > 12 ? (unsigned)atoi((const char *)c->in.data + 9) : 0;
}

/* The body of an answer with a length, once it is all here. */
static yyjson_doc *json_of(struct world *w, struct client *c)
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

static void head_into(char *out, size_t size, const char *what, size_t length)
{
	snprintf(out, size, "%s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " KEY "\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		 what, length);
}

static struct client *get(struct world *w, const char *what)
{
	struct client *c = dial(w);
	char head[512];
	head_into(head, sizeof head, what, 0);
	send_text(w, c, head);
	return c;
}

static struct client *post_bytes(struct world *w, const char *path, const void *body, size_t n)
{
	struct client *c = dial(w);
	char head[512], what[100];
	snprintf(what, sizeof what, "POST %s", path);
	head_into(head, sizeof head, what, n);
	send_text(w, c, head);
	send_bytes(w, c, body, n);
	return c;
}

static struct client *post(struct world *w, const char *path, const char *body)
{
	return post_bytes(w, path, body, strlen(body));
}

static const char *at(yyjson_doc *doc, const char *pointer)
{
	const char *text = yyjson_get_str(yyjson_doc_ptr_get(doc, pointer));
	if (!text)
		fail_msg("nothing at %s", pointer);
	return text;
}

/* Posts to chat, expects the status and the error's param (NULL: none) and code, and nothing asked. */
static void must_refuse(const char *path, const char *body, unsigned status, const char *param, const char *code)
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

#define CHAT "/v1/chat/completions"
#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"Bonjour\"}]"
#define ASK "{\"model\":\"histoires\"," MESSAGES

/* --- who may ask -------------------------------------------------------------------------------------------- */

static void health_needs_no_key(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w);
	send_text(w, c, "GET /health HTTP/1.1\r\nHost: localhost:7741\r\n\r\n");
	yyjson_doc *doc = json_of(w, c);
	assert_int_equal(status_of(c), 200);
	assert_string_equal(at(doc, "/status"), "ok");
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

static void everything_else_needs_the_key(void **state)
{
	static const char *const wrong[] = {"", "Authorization: Bearer \r\n", "Authorization: Bearer sk-essaim-tesT\r\n", "Authorization: " KEY "\r\n",
					    "Authorization: Bearer " KEY "x\r\n", "Authorization: Basic " KEY "\r\n"};
	static const char *const paths[] = {"GET /v1/models", "GET /metrics", "GET /", ("POST " CHAT)};
	struct world *w = new_world();
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		for (size_t k = 0; k < sizeof paths / sizeof *paths; k++) {
			struct client *c = dial(w);
			char text[400];
			snprintf(text, sizeof text, "%s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: 0\r\n\r\n", paths[k], wrong[i]);
			send_text(w, c, text);
			yyjson_doc *doc = json_of(w, c);
			assert_int_equal(status_of(c), 401);
			assert_string_equal(at(doc, "/error/code"), "invalid_api_key");
			assert_true(has(c, "WWW-Authenticate: Bearer"));
			yyjson_doc_free(doc);
			hang_up(c);
		}
	assert_int_equal(the_route.n, 0);
	free_world(w);
}

static void unknown_host_names_are_refused(void **state)
{
	static const struct { const char *host; unsigned status; } hosts[] = {
		{"localhost", 200}, {"LocalHost:80", 200}, {"127.0.0.1:7741", 200}, {"[::1]:7741", 200}, {"192.0.2.7", 200}, {"ruche.example", 200},
		{"RUCHE.example:1", 200}, {"autre.example:80", 200}, {"evil.example", 403}, {"localhost.evil.example", 403}, {"127.0.0.1.evil.example", 403},
		{"ruche.example.evil", 403}, {"ruche", 403}, {"", 403}, {"[", 403}, {":80", 403}, {"localhost@evil.example", 403},
	};
	struct world *w = new_world_with("", "ruche.example, autre.example");
	for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
		struct client *c = dial(w);
		char text[300];
		snprintf(text, sizeof text, "GET /v1/models HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer " KEY "\r\n\r\n", hosts[i].host);
		send_text(w, c, text);
		yyjson_doc_free(json_of(w, c));
		if (status_of(c) != hosts[i].status)
			fail_msg("%s: %u", hosts[i].host, status_of(c));
		hang_up(c);
	}
	struct client *c = dial(w);
	send_text(w, c, "GET /health HTTP/1.0\r\n\r\n");
	yyjson_doc_free(json_of(w, c));
	assert_int_equal(status_of(c), 403);
	hang_up(c);
	free_world(w);
}

static const char *const preflight = "OPTIONS " CHAT " HTTP/1.1\r\nHost: localhost\r\nOrigin: %s\r\nAccess-Control-Request-Method: POST\r\n\r\n";

static void pages_of_other_origins_are_not_let_in_unless_configured(void **state)
{
	static const struct { const char *cors, *origin; bool allowed; } cases[] = {
		{"", "https://page.example", false}, {"https://page.example", "https://page.example", true},
		{"https://a.example, https://page.example", "https://page.example", true}, {"https://page.example", "https://page.exampl", false},
		{"https://page.example", "https://page.example.evil", false}, {"*", "https://any.example", true},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct world *w = new_world_with(cases[i].cors, "");
		struct client *c = dial(w);
		char text[400];
		snprintf(text, sizeof text, preflight, cases[i].origin);
		send_text(w, c, text);
		await(w, c, "\r\n\r\n");
		assert_int_equal(status_of(c), 204);
		assert_int_equal(has(c, "Access-Control-Allow-Origin: "), cases[i].allowed);
		hang_up(c);
		free_world(w);
	}
}

/* --- bad input ---------------------------------------------------------------------------------------------- */

static void a_body_that_is_no_json_is_refused(void **state)
{
	static const char *const bodies[] = {"", "{", "nonsense", ASK "} trailing", "{\"model\":\"\xff\xfe\"}", ASK ",\"user\":\"\xc3\"}", ASK ",}"};
	for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
		must_refuse(CHAT, bodies[i], 400, NULL, "invalid_json");
	must_refuse(CHAT, "[]", 400, "body", "invalid_value");
	must_refuse(CHAT, "\"text\"", 400, "body", "invalid_value");
}

static void a_field_of_a_wrong_type_or_size_is_named(void **state)
{
	static const struct { const char *rest, *param; } cases[] = {
		{",\"temperature\":\"warm\"", "temperature"}, {",\"temperature\":2.1", "temperature"}, {",\"temperature\":-0.1", "temperature"},
		{",\"top_p\":1.5", "top_p"}, {",\"top_p\":true", "top_p"}, {",\"max_tokens\":-1", "max_tokens"}, {",\"max_tokens\":0", "max_tokens"},
		{",\"max_tokens\":1.5", "max_tokens"}, {",\"max_tokens\":\"10\"", "max_tokens"}, {",\"max_tokens\":99999999999", "max_tokens"},
		{",\"max_completion_tokens\":-3", "max_completion_tokens"}, {",\"stream\":1", "stream"}, {",\"stream\":\"true\"", "stream"},
		{",\"seed\":1.5", "seed"}, {",\"seed\":\"x\"", "seed"}, {",\"stop\":5", "stop"}, {",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", "stop"},
		{",\"stop\":[1]", "stop"}, {",\"stop\":{}", "stop"}, {",\"stop\":\"a\\u0000b\"", "stop"}, {",\"presence_penalty\":3", "presence_penalty"},
		{",\"frequency_penalty\":-3", "frequency_penalty"}, {",\"stream_options\":{}", "stream_options"},
		{",\"stream\":true,\"stream_options\":7", "stream_options"}, {",\"stream\":true,\"stream_options\":{\"include_usage\":1}", "include_usage"},
		{",\"top_k\":-1", "top_k"}, {",\"min_p\":2", "min_p"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char body[400];
		snprintf(body, sizeof body, ASK "%s}", cases[i].rest);
		must_refuse(CHAT, body, 400, cases[i].param, "invalid_value");
	}
	must_refuse(CHAT, "{" MESSAGES "}", 400, "model", "invalid_value");
	must_refuse(CHAT, "{\"model\":\"\"," MESSAGES "}", 400, "model", "invalid_value");
	must_refuse(CHAT, "{\"model\":7," MESSAGES "}", 400, "model", "invalid_value");
}

static void messages_that_are_none_are_refused(void **state)
{
	static const struct { const char *messages, *param; } cases[] = {
		{"null", "messages"}, {"[]", "messages"}, {"\"hi\"", "messages"}, {"[7]", "messages[0]"}, {"[{}]", "messages[0]"},
		{"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"pirate\",\"content\":\"b\"}]", "messages[1]"},
		{"[{\"role\":7,\"content\":\"a\"}]", "messages[0]"}, {"[{\"role\":\"user\",\"content\":7}]", "messages[0]"},
		{"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:\"}}]}]", "messages[0]"},
		{"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", "messages[0]"}, {"[{\"role\":\"user\",\"content\":[\"text\"]}]", "messages[0]"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char body[400];
		snprintf(body, sizeof body, "{\"model\":\"histoires\",\"messages\":%s}", cases[i].messages);
		must_refuse(CHAT, body, 400, cases[i].param, "invalid_value");
	}
	must_refuse("/v1/completions", "{\"model\":\"histoires\"}", 400, "prompt", "invalid_value");
	must_refuse("/v1/completions", "{\"model\":\"histoires\",\"prompt\":[\"a\",\"b\"]}", 400, "prompt", "invalid_value");
	must_refuse("/v1/completions", "{\"model\":\"histoires\",\"prompt\":[1,2]}", 400, "prompt", "invalid_value");
}

static void what_this_version_cannot_do_is_said(void **state)
{
	static const char *const fields[] = {"tools", "functions", "logit_bias", "logprobs"};
	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
		char body[300];
		snprintf(body, sizeof body, ASK ",\"%s\":%s}", fields[i], i < 2 ? "[{}]" : i == 2 ? "{\"1\":5}" : "true");
		must_refuse(CHAT, body, 400, fields[i], "unsupported_parameter");
	}
	must_refuse(CHAT, ASK ",\"n\":2}", 400, "n", "unsupported_parameter");
	must_refuse(CHAT, ASK ",\"n\":\"1\"}", 400, "n", "unsupported_parameter");
	must_refuse(CHAT, ASK ",\"response_format\":{\"type\":\"json_object\"}}", 400, "response_format", "unsupported_parameter");
}

static void a_body_past_the_limit_is_refused(void **state)
{
	struct world *w = new_world();
	size_t n = 10u << 20;
	char *body = malloc(n), head[300];
	assert_non_null(body);
	memset(body, ' ', n);
	struct client *c = post_bytes(w, CHAT, body, n);         /* says so in its head: refused before it is read */
	await(w, c, "too_large");
	assert_int_equal(status_of(c), 413);
	hang_up(c);

	c = dial(w);                                             /* does not say it: refused when it is too much */
	snprintf(head, sizeof head, "POST " CHAT " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " KEY "\r\nTransfer-Encoding: chunked\r\n\r\n");
	send_text(w, c, head);
	snprintf(head, sizeof head, "%zx\r\n", n);
	send_text(w, c, head);
	send_bytes(w, c, body, n);
	send_text(w, c, "\r\n0\r\n\r\n");
	await(w, c, "too_large");
	assert_int_equal(status_of(c), 413);
	assert_int_equal(the_route.n, 0);
	hang_up(c);
	free(body);
	free_world(w);
}

static void headers_without_end_are_cut_off(void **state)
{
	struct world *w = new_world();
	struct client *c = dial(w), *other;
	char line[1024];
	memset(line, 'a', sizeof line);
	memcpy(line, "X-Long: ", 8);
	memcpy(line + sizeof line - 2, "\r\n", 2);
	send_text(w, c, "GET /health HTTP/1.1\r\nHost: localhost\r\n");
	for (int i = 0; i < 64; i++)
		send_bytes(w, c, line, sizeof line);
	await_closing(w, c);
	assert_true(!c->in.length || status_of(c) >= 400);
	hang_up(c);

	c = dial(w);                                             /* one that only dawdles holds up nobody */
	send_text(w, c, "GET /health HTTP/1.1\r\nHo");
	other = get(w, "GET /v1/models");
	yyjson_doc_free(json_of(w, other));
	assert_int_equal(status_of(other), 200);
	hang_up(other);
	hang_up(c);
	free_world(w);
}

static void what_is_no_http_is_cut_off(void **state)
{
	static const char *const noise[] = {"GARBAGE\r\n\r\n", "\x16\x03\x01\x02\x01\xfc\x03\x03\r\n\r\n",
					    "POST " CHAT " HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
					    "POST " CHAT " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n"};
	struct world *w = new_world();
	for (size_t i = 0; i < sizeof noise / sizeof *noise; i++) {
		struct client *c = dial(w);
		send_text(w, c, noise[i]);
		await_closing(w, c);
		assert_true(!c->in.length || status_of(c) >= 400);
		hang_up(c);
	}
	assert_int_equal(the_route.n, 0);
	free_world(w);
}

static void unknown_resources_and_methods_are_named(void **state)
{
	static const struct { const char *what; unsigned status; const char *code; } cases[] = {
		{"GET /", 404, "not_found"}, {"GET /v1/embeddings", 404, "not_found"}, {"GET /v1/models/", 404, "not_found"},
		{"GET " CHAT, 405, "method_not_allowed"}, {"DELETE " CHAT, 405, "method_not_allowed"}, {"POST /v1/models", 405, "method_not_allowed"},
		{"GET /v1/models/nulle%20part", 404, "model_not_found"}, {"GET /v1/../keys/api.key", 404, "not_found"},
	};
	struct world *w = new_world();
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct client *c = get(w, cases[i].what);
		yyjson_doc *doc = json_of(w, c);
		if (status_of(c) != cases[i].status)
			fail_msg("%s: %u", cases[i].what, status_of(c));
		assert_string_equal(at(doc, "/error/code"), cases[i].code);
		if (strstr(cases[i].what, CHAT))
			assert_non_null(strstr(at(doc, "/error/message"), "POST"));
		yyjson_doc_free(doc);
		hang_up(c);
	}
	free_world(w);
}

/* --- answers ------------------------------------------------------------------------------------------------- */

static void models_are_listed(void **state)
{
	struct world *w = new_world();
	struct client *c = get(w, "GET /v1/models");
	yyjson_doc *doc = json_of(w, c);
	assert_string_equal(at(doc, "/object"), "list");
	assert_string_equal(at(doc, "/data/0/id"), "histoires");
	assert_string_equal(at(doc, "/data/0/object"), "model");
	assert_string_equal(at(doc, "/data/0/owned_by"), "Ruche");
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/data/0/created")), 1700000000);
	assert_string_equal(at(doc, "/data/0/essaim/alias"), "histoires@Ruche");
	assert_string_equal(at(doc, "/data/1/essaim/state"), "arriving");
	yyjson_doc_free(doc);
	hang_up(c);
	c = get(w, "GET /v1/models/histoires");
	doc = json_of(w, c);
	assert_string_equal(at(doc, "/id"), "histoires");
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

static void metrics_are_given(void **state)
{
	struct world *w = new_world();
	struct client *c = get(w, "GET /metrics");
	await(w, c, "essaim_peers_up 2\n");
	assert_true(has(c, "Content-Type: text/plain; version=0.0.4"));
	assert_true(has(c, "\nessaim_questions_total 7\n"));
	assert_true(has(c, "\nessaim_tokens_total{kind=\"completion\"} 200\n"));
	hang_up(c);
	free_world(w);
}

static void a_chat_is_answered_whole(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"unknown_field\":{\"x\":1},\"temperature\":null,\"stop\":[\"FIN\",\"\"],\"max_tokens\":9,"
					     "\"seed\":-4,\"top_p\":0.5,\"user\":\"moi\"}");
	await_question(w, 1);
	struct route_question *q = &the_route.questions[0];
	assert_true(q->ask.chat);
	assert_string_equal(the_route.model, "histoires");
	assert_string_equal(the_route.role, "user");
	assert_string_equal(the_route.content, "Bonjour");
	assert_int_equal(q->ask.n_stops, 1);
	assert_string_equal(the_route.stop[0], "FIN");
	assert_int_equal(q->ask.max_tokens, 9);
	assert_int_equal(q->ask.sampling.seed, (uint64_t)-4);
	assert_true(q->ask.sampling.temperature == 1 && q->ask.sampling.top_p == 0.5f);
	assert_int_equal(api_running(w->api), 1);
	q->ask.on_start(q->ask.arg, "histoires@Ruche", 5);
	say(q, "Il dit \"oui\"\n");
	say(q, "\xc3\xa9t\xc3\xa9\x01");
	end(q, 0, NULL);
	yyjson_doc *doc = json_of(w, c);
	assert_int_equal(status_of(c), 200);
	assert_string_equal(at(doc, "/object"), "chat.completion");
	assert_string_equal(at(doc, "/model"), "histoires@Ruche");
	assert_true(!strncmp(at(doc, "/id"), "chatcmpl-", 9));
	assert_string_equal(at(doc, "/choices/0/message/role"), "assistant");
	assert_string_equal(at(doc, "/choices/0/message/content"), "Il dit \"oui\"\n\xc3\xa9t\xc3\xa9\x01");
	assert_string_equal(at(doc, "/choices/0/finish_reason"), "stop");
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/usage/total_tokens")), 8);
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/usage/prompt_tokens_details/cached_tokens")), 2);
	static const uint8_t nobody[KEY_BYTES];
	assert_memory_not_equal(q->ask.tenant, nobody, KEY_BYTES);    /* whose key it was */
	assert_string_equal(at(doc, "/essaim/stages/0/saw"), "text");
	assert_string_equal(at(doc, "/essaim/stages/1/saw"), "activations");
	assert_string_equal(at(doc, "/essaim/stages/1/node"), "Abeille \"deux\"");
	assert_int_equal(api_running(w->api), 0);
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

static void contents_in_parts_are_put_together(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, "{\"model\":\"histoires\",\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"Sois "
					 "\"},{\"type\":\"text\",\"text\":\"bref\\u00e9\"}]},{\"role\":\"assistant\",\"content\":null}]}");
	await_question(w, 1);
	assert_int_equal(the_route.n_messages, 2);
	assert_string_equal(the_route.content, "");
	end(&the_route.questions[0], 0, NULL);
	hang_up(c);
	c = post(w, CHAT, "{\"model\":\"histoires\",\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"Sois "
			  "\"},{\"type\":\"text\",\"text\":\"bref\\u00e9\"}]}]}");
	await_question(w, 2);
	assert_string_equal(the_route.role, "system");
	assert_string_equal(the_route.content, "Sois bref\xc3\xa9");
	end(&the_route.questions[1], 0, NULL);
	hang_up(c);
	free_world(w);
}

static void a_completion_is_answered_whole(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, "/v1/completions", "{\"model\":\"histoires\",\"prompt\":[\"Il \\u00e9tait\"]}");
	await_question(w, 1);
	struct route_question *q = &the_route.questions[0];
	assert_false(q->ask.chat);
	assert_string_equal(the_route.content, "Il \xc3\xa9tait");
	assert_int_equal(q->ask.max_tokens, 16);
	say(q, " une fois");
	end(q, 0, NULL);
	yyjson_doc *doc = json_of(w, c);
	assert_string_equal(at(doc, "/object"), "text_completion");
	assert_string_equal(at(doc, "/choices/0/text"), " une fois");
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

/* The data of the i-th event of a stream, chunked transfer taken off. */
static char *events_of(struct client *c)
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

static yyjson_doc *event(const char *events, size_t i)
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

static void a_chat_is_streamed(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
	await_question(w, 1);
	struct route_question *q = &the_route.questions[0];
	q->ask.on_start(q->ask.arg, "histoires@Ruche", 5);
	say(q, "Bon");
	await(w, c, "\"Bon\"");                                  /* at once, not when it ends */
	assert_true(has(c, "Content-Type: text/event-stream"));
	assert_false(has(c, "[DONE]"));
	say(q, "jo");
	say(q, "ur");
	await(w, c, "\"ur\"");
	end(q, 0, NULL);
	await(w, c, "data: [DONE]\n\n");
	char *events = events_of(c);
	static const char *const deltas[] = {"", "Bon", "jo", "ur"};
	for (size_t i = 0; i < 4; i++) {
		yyjson_doc *doc = event(events, i);
		assert_string_equal(at(doc, "/object"), "chat.completion.chunk");
		assert_string_equal(at(doc, "/choices/0/delta/content"), deltas[i]);
		assert_true(yyjson_is_null(yyjson_doc_ptr_get(doc, "/choices/0/finish_reason")));
		if (!i)
			assert_string_equal(at(doc, "/choices/0/delta/role"), "assistant");
		yyjson_doc_free(doc);
	}
	yyjson_doc *doc = event(events, 4);
	assert_string_equal(at(doc, "/choices/0/finish_reason"), "stop");
	assert_string_equal(at(doc, "/essaim/stages/1/saw"), "activations");
	yyjson_doc_free(doc);
	doc = event(events, 5);
	assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, "/choices")), 0);
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/usage/prompt_tokens")), 5);
	yyjson_doc_free(doc);
	free(events);
	hang_up(c);
	free_world(w);
}

static void a_stream_without_any_text_is_whole_too(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"stream\":true}");
	await_question(w, 1);
	end(&the_route.questions[0], 0, NULL);
	await(w, c, "data: [DONE]\n\n");
	assert_true(has(c, "\"role\":\"assistant\""));
	assert_false(has(c, "\"usage\""));
	hang_up(c);
	free_world(w);
}

static void an_error_before_the_first_token_has_its_status(void **state)
{
	static const struct { int err; unsigned status; const char *code; } cases[] = {
		{ERR_CONTEXT, 400, "context_length_exceeded"}, {ERR_BUSY, 429, "busy"}, {ERR_UNREACHABLE, 503, "model_unavailable"},
		{ERR_ENGINE, 502, "engine_lost"}, {-ENOMEM, 500, "internal_error"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		for (int stream = 0; stream < 2; stream++) {
			struct world *w = new_world();
			struct client *c = post(w, CHAT, stream ? ASK ",\"stream\":true}" : ASK "}");
			await_question(w, 1);
			end(&the_route.questions[0], cases[i].err, "why and what to do");
			yyjson_doc *doc = json_of(w, c);
			assert_int_equal(status_of(c), cases[i].status);
			assert_string_equal(at(doc, "/error/code"), cases[i].code);
			assert_string_equal(at(doc, "/error/message"), "why and what to do");
			assert_int_equal(has(c, "Retry-After: 3"), cases[i].err == ERR_BUSY);
			yyjson_doc_free(doc);
			hang_up(c);
			free_world(w);
		}
}

static void an_error_within_a_stream_is_an_event(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"stream\":true}");
	await_question(w, 1);
	say(&the_route.questions[0], "Bon");
	await(w, c, "\"Bon\"");
	end(&the_route.questions[0], ERR_UNREACHABLE, "Abeille went away");
	await(w, c, "\r\n0\r\n\r\n");
	assert_true(has(c, "data: {\"error\":{\"message\":\"Abeille went away\""));
	assert_false(has(c, "[DONE]"));
	hang_up(c);
	free_world(w);
}

static void an_unfinished_answer_that_fails_is_not_shown_as_whole(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK "}");
	await_question(w, 1);
	say(&the_route.questions[0], "Bon");
	end(&the_route.questions[0], ERR_UNREACHABLE, "Abeille went away");
	yyjson_doc_free(json_of(w, c));
	assert_int_equal(status_of(c), 503);
	hang_up(c);
	free_world(w);
}

static void a_model_that_is_arriving_says_how_much_and_how_long(void **state)
{
	struct world *w = new_world();
	the_route.err = ERR_ARRIVING;
	struct client *c = post(w, CHAT, "{\"model\":\"grand\"," MESSAGES "}");
	yyjson_doc *doc = json_of(w, c);
	assert_int_equal(status_of(c), 503);
	assert_true(has(c, "Retry-After: 42"));
	assert_non_null(strstr(at(doc, "/error/message"), "1.0 MiB of 3.0 MiB"));
	assert_non_null(strstr(at(doc, "/error/message"), "41 s"));
	assert_string_equal(at(doc, "/error/code"), "model_arriving");
	yyjson_doc_free(doc);
	hang_up(c);

	the_route.err = ERR_UNKNOWN;
	c = post(w, CHAT, "{\"model\":\"nulle part\"," MESSAGES "}");
	doc = json_of(w, c);
	assert_int_equal(status_of(c), 404);
	assert_non_null(strstr(at(doc, "/error/message"), "did you mean 'histoires'"));
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

static void bytes_that_are_no_text_do_not_break_the_json(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK "}");
	await_question(w, 1);
	say(&the_route.questions[0], "a\xff\xc3(\xed\xa0\x80\xf5z\x7f\\");
	end(&the_route.questions[0], 0, NULL);
	yyjson_doc *doc = json_of(w, c);
	assert_true(!strncmp(at(doc, "/choices/0/message/content"), "a\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd", 11));
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

static void several_questions_follow_each_other_on_a_connection(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK "}");
	for (size_t i = 0; i < 3; i++) {
		await_question(w, i + 1);
		say(&the_route.questions[i], "oui");
		end(&the_route.questions[i], 0, NULL);
		yyjson_doc_free(json_of(w, c));
		buf_clear(&c->in);
		char head[512];
		head_into(head, sizeof head, "POST " CHAT, strlen(ASK "}"));
		send_text(w, c, head);
		send_text(w, c, ASK "}");
	}
	await_question(w, 4);
	hang_up(c);
	free_world(w);
	assert_int_equal(the_route.cancelled, 1);
}

static void many_questions_run_beside_each_other(void **state)
{
	struct world *w = new_world();
	struct client *clients[40];
	for (size_t i = 0; i < 40; i++)
		clients[i] = post(w, CHAT, i % 2 ? ASK ",\"stream\":true}" : ASK "}");
	await_question(w, 40);
	assert_int_equal(api_running(w->api), 40);
	for (size_t i = 40; i-- > 0;)
		say(&the_route.questions[i], "oui");
	for (size_t i = 0; i < 40; i++)
		end(&the_route.questions[i], 0, NULL);
	for (size_t i = 0; i < 40; i++) {
		await(w, clients[i], i % 2 ? "[DONE]" : "\"oui\"");
		hang_up(clients[i]);
	}
	assert_int_equal(api_running(w->api), 0);
	free_world(w);
}

/* --- clients that leave, or do not read ------------------------------------------------------------------------ */

static void a_client_that_leaves_cancels_its_answer(void **state)
{
	for (int stream = 0; stream < 2; stream++)
		for (int said = 0; said < 2; said++) {
			struct world *w = new_world();
			struct client *c = post(w, CHAT, stream ? ASK ",\"stream\":true}" : ASK "}");
			await_question(w, 1);
			if (said)
				say(&the_route.questions[0], "Bon");
			if (said && stream)
				await(w, c, "\"Bon\"");
			hang_up(c);
			for (uint64_t since = uv_hrtime(); !the_route.cancelled;)
				turn(w, since);
			assert_int_equal(api_running(w->api), 0);
			free_world(w);
			assert_int_equal(the_route.cancelled, 1);
		}
}

static void a_client_that_does_not_read_loses_its_answer_not_our_memory(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"stream\":true}");
	await_question(w, 1);
	static char text[32 << 10];
	memset(text, 'a', sizeof text - 1);
	unsigned said = 0;
	for (uint64_t since = uv_hrtime(); !the_route.cancelled; said++) {
		say(&the_route.questions[0], text);
		turn(w, since);
	}
	/* the sockets' buffers and API_QUEUE_MAX, no more */
	assert_true(said > API_QUEUE_MAX / sizeof text && said < 4 * (API_QUEUE_MAX + (16u << 20)) / sizeof text);
	await_closing(w, c);
	assert_false(has(c, "[DONE]"));
	hang_up(c);
	free_world(w);
}

static void a_whole_answer_past_the_limit_is_given_up(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK "}");
	await_question(w, 1);
	static char text[32 << 10];
	memset(text, 'a', sizeof text - 1);
	for (size_t i = 0; i <= API_QUEUE_MAX / sizeof text + 2 && !the_route.cancelled; i++)
		say(&the_route.questions[0], text);
	assert_int_equal(the_route.cancelled, 1);
	await(w, c, "answer_too_large");
	assert_int_equal(status_of(c), 500);
	hang_up(c);
	free_world(w);
}

static void draining_lets_answers_end_and_takes_no_more(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK "}"), *late;
	await_question(w, 1);
	api_drain(w->api);
	late = post(w, CHAT, ASK "}");
	yyjson_doc *doc = json_of(w, late);
	assert_int_equal(status_of(late), 503);
	assert_string_equal(at(doc, "/error/code"), "stopping");
	assert_true(has(late, "Retry-After"));
	yyjson_doc_free(doc);
	say(&the_route.questions[0], "oui");
	end(&the_route.questions[0], 0, NULL);
	await(w, c, "\"oui\"");
	hang_up(late);
	hang_up(c);
	free_world(w);
}

static void closing_ends_what_runs_and_what_just_came(void **state)
{
	struct world *w = new_world();
	struct client *whole = post(w, CHAT, ASK "}"), *stream = post(w, CHAT, ASK ",\"stream\":true}"), *idle = dial(w), *fresh;
	char head[512];
	await_question(w, 2);
	say(&the_route.questions[1], "Bon");
	await(w, stream, "\"Bon\"");
	fresh = dial(w);                                         /* its question lies in the socket when we close */
	head_into(head, sizeof head, "POST " CHAT, strlen(ASK "}"));
	turn(w, uv_hrtime());
	assert_true(send(fresh->fd, head, strlen(head), MSG_NOSIGNAL) > 0);
	assert_true(send(fresh->fd, ASK "}", strlen(ASK "}"), MSG_NOSIGNAL) > 0);
	free_world(w);
	assert_int_equal(the_route.cancelled, 2);
	assert_int_equal(the_route.n, 2);
	hang_up(whole);
	hang_up(stream);
	hang_up(idle);
	hang_up(fresh);
}

static void an_address_in_use_is_said(void **state)
{
	struct world *w = new_world();
	struct api *second = NULL;
	char why[200] = "";
	struct api_config config = {.loop = &w->loop, .route = &the_route, .host = "127.0.0.1", .port = api_port(w->api), .api_key = KEY};
	assert_int_equal(api_open(&second, &config, why, sizeof why), -EADDRINUSE);
	assert_non_null(strstr(why, "[http] port"));
	config.host = "no address";
	assert_int_equal(api_open(&second, &config, why, sizeof why), -EINVAL);
	assert_non_null(strstr(why, "[http] listen"));
	assert_null(second);
	free_world(w);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(health_needs_no_key),
		cmocka_unit_test(everything_else_needs_the_key),
		cmocka_unit_test(unknown_host_names_are_refused),
		cmocka_unit_test(pages_of_other_origins_are_not_let_in_unless_configured),
		cmocka_unit_test(a_body_that_is_no_json_is_refused),
		cmocka_unit_test(a_field_of_a_wrong_type_or_size_is_named),
		cmocka_unit_test(messages_that_are_none_are_refused),
		cmocka_unit_test(what_this_version_cannot_do_is_said),
		cmocka_unit_test(a_body_past_the_limit_is_refused),
		cmocka_unit_test(headers_without_end_are_cut_off),
		cmocka_unit_test(what_is_no_http_is_cut_off),
		cmocka_unit_test(unknown_resources_and_methods_are_named),
		cmocka_unit_test(models_are_listed),
		cmocka_unit_test(metrics_are_given),
		cmocka_unit_test(a_chat_is_answered_whole),
		cmocka_unit_test(contents_in_parts_are_put_together),
		cmocka_unit_test(a_completion_is_answered_whole),
		cmocka_unit_test(a_chat_is_streamed),
		cmocka_unit_test(a_stream_without_any_text_is_whole_too),
		cmocka_unit_test(an_error_before_the_first_token_has_its_status),
		cmocka_unit_test(an_error_within_a_stream_is_an_event),
		cmocka_unit_test(an_unfinished_answer_that_fails_is_not_shown_as_whole),
		cmocka_unit_test(a_model_that_is_arriving_says_how_much_and_how_long),
		cmocka_unit_test(bytes_that_are_no_text_do_not_break_the_json),
		cmocka_unit_test(several_questions_follow_each_other_on_a_connection),
		cmocka_unit_test(many_questions_run_beside_each_other),
		cmocka_unit_test(a_client_that_leaves_cancels_its_answer),
		cmocka_unit_test(a_client_that_does_not_read_loses_its_answer_not_our_memory),
		cmocka_unit_test(a_whole_answer_past_the_limit_is_given_up),
		cmocka_unit_test(draining_lets_answers_end_and_takes_no_more),
		cmocka_unit_test(closing_ends_what_runs_and_what_just_came),
		cmocka_unit_test(an_address_in_use_is_said),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
