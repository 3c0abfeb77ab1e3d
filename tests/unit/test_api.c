/* test_api.c: the server: who may ask, limits, what is where, how it ends. See api_world.h.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>


#include "tests/unit/api_world.h"

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
		{"GET /", 404, "not_found"}, {"GET /v1/embeddings", 405, "method_not_allowed"}, {"GET /tokenize", 405, "method_not_allowed"}, {"POST /v1/embedding", 404, "not_found"}, {"GET /v1/models/", 404, "not_found"},
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

/* How many descriptors this process has open, from 0 on without a hole. */
static rlim_t first_free_descriptor(void)
{
	int fd = dup(0);
	assert_true(fd >= 0);
	close(fd);
	return (rlim_t)fd;
}

static void who_came_when_there_were_too_few_descriptors_is_served_later(void **state)
{
	struct world *w = new_world();
	struct client *first = get(w, "GET /health"), *late;
	struct rlimit usual, few;
	uint64_t since = uv_hrtime();
	await(w, first, "200 OK");
	late = dial(w);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
	few = usual;
	few.rlim_cur = first_free_descriptor();
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	send_text(w, late, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
	while (uv_hrtime() - since < UINT64_C(1000000000))
		turn(w, uv_hrtime());
	assert_false(has(late, "200 OK"));
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
	hang_up(first);
	await(w, late, "200 OK");
	hang_up(late);
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
		cmocka_unit_test(a_body_past_the_limit_is_refused),
		cmocka_unit_test(headers_without_end_are_cut_off),
		cmocka_unit_test(what_is_no_http_is_cut_off),
		cmocka_unit_test(unknown_resources_and_methods_are_named),
		cmocka_unit_test(models_are_listed),
		cmocka_unit_test(metrics_are_given),
		cmocka_unit_test(a_model_that_is_arriving_says_how_much_and_how_long),
		cmocka_unit_test(several_questions_follow_each_other_on_a_connection),
		cmocka_unit_test(many_questions_run_beside_each_other),
		cmocka_unit_test(a_client_that_leaves_cancels_its_answer),
		cmocka_unit_test(a_client_that_does_not_read_loses_its_answer_not_our_memory),
		cmocka_unit_test(a_whole_answer_past_the_limit_is_given_up),
		cmocka_unit_test(draining_lets_answers_end_and_takes_no_more),
		cmocka_unit_test(who_came_when_there_were_too_few_descriptors_is_served_later),
		cmocka_unit_test(closing_ends_what_runs_and_what_just_came),
		cmocka_unit_test(an_address_in_use_is_said),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
