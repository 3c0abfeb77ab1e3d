/* test_api_answer.c: answers, whole and streamed, and errors in them. See api_world.h.
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


#include "tests/unit/api_world.h"

static void a_chat_is_answered_whole(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"temperature\":null,\"stop\":[\"FIN\",\"\"],\"max_tokens\":9,"
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

/* --- several choices --- */

static void choices_are_questions_of_their_own_with_seeds_of_their_own(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"n\":3,\"seed\":40}");
	await_question(w, 3);
	struct route_question *q = the_route.questions;
	assert_int_equal(api_running(w->api), 1);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(q[i].ask.sampling.seed, 40 + i);
	q[2].ask.on_start(q[2].ask.arg, "histoires@Ruche", 5);
	say(&q[2], "trois");
	end(&q[2], 0, NULL);
	say(&q[0], "un");
	say(&q[1], "deux");
	end(&q[0], 0, NULL);
	end(&q[1], 0, NULL);
	yyjson_doc *doc = json_of(w, c);
	assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, "/choices")), 3);
	assert_string_equal(at(doc, "/choices/0/message/content"), "un");
	assert_string_equal(at(doc, "/choices/1/message/content"), "deux");
	assert_string_equal(at(doc, "/choices/2/message/content"), "trois");
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/choices/2/index")), 2);
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/usage/prompt_tokens")), 5);
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/usage/completion_tokens")), 9);
	assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, "/essaim/stages")), 6);
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/essaim/stages/5/choice")), 2);
	assert_int_equal(api_running(w->api), 0);
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

static void choices_share_a_stream(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"n\":2,\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
	await_question(w, 2);
	struct route_question *q = the_route.questions;
	say(&q[1], "b1");
	say(&q[0], "a1");
	end(&q[0], 0, NULL);
	await(w, c, "\"finish_reason\":\"stop\"");
	assert_false(has(c, "[DONE]"));
	assert_false(has(c, "\"essaim\""));
	say(&q[1], "b2");
	end(&q[1], 0, NULL);
	await(w, c, "data: [DONE]\n\n");
	char *events = events_of(c);
	static const struct { unsigned index; const char *content; } want[] = {{1, ""}, {1, "b1"}, {0, ""}, {0, "a1"}, {0, NULL}, {1, "b2"}, {1, NULL}};
	for (size_t i = 0; i < 7; i++) {
		yyjson_doc *doc = event(events, i);
		assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/choices/0/index")), want[i].index);
		if (want[i].content)
			assert_string_equal(at(doc, "/choices/0/delta/content"), want[i].content);
		else
			assert_string_equal(at(doc, "/choices/0/finish_reason"), "stop");
		assert_int_equal(yyjson_doc_ptr_get(doc, "/essaim") != NULL, i == 6);
		yyjson_doc_free(doc);
	}
	yyjson_doc *doc = event(events, 7);
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/usage/completion_tokens")), 6);
	yyjson_doc_free(doc);
	free(events);
	hang_up(c);
	free_world(w);
}

static void a_choice_without_a_place_waits_for_another_ones(void **state)
{
	struct world *w = new_world();
	the_route.busy_from = 2;
	struct client *c = post(w, CHAT, ASK ",\"n\":4,\"seed\":1}");
	await_question(w, 2);
	struct route_question *q = the_route.questions;
	say(&q[0], "0");
	end(&q[0], 0, NULL);
	assert_int_equal(the_route.n, 3);
	assert_int_equal(q[2].ask.sampling.seed, 3);
	end(&q[2], ERR_BUSY, "full");                   /* the stages had no room after all; the other one still runs */
	assert_int_equal(the_route.n, 3);
	say(&q[1], "1");
	end(&q[1], 0, NULL);
	assert_int_equal(the_route.n, 5);
	assert_int_equal(q[3].ask.sampling.seed, 3);
	say(&q[3], "2");
	end(&q[3], 0, NULL);
	assert_int_equal(q[4].ask.sampling.seed, 4);
	say(&q[4], "3");
	end(&q[4], 0, NULL);
	yyjson_doc *doc = json_of(w, c);
	assert_int_equal(status_of(c), 200);
	for (size_t i = 0; i < 4; i++) {
		char pointer[40], digit[2] = {(char)('0' + i), 0};
		snprintf(pointer, sizeof pointer, "/choices/%zu/message/content", i);
		assert_string_equal(at(doc, pointer), digit);
	}
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

static void an_error_of_one_choice_ends_them_all(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"n\":3}");
	await_question(w, 3);
	say(&the_route.questions[1], "a");
	end(&the_route.questions[1], ERR_ENGINE, "the engine ended");
	assert_int_equal(the_route.cancelled, 2);
	yyjson_doc_free(json_of(w, c));
	assert_int_equal(status_of(c), 502);
	assert_int_equal(api_running(w->api), 0);
	hang_up(c);

	the_route.busy_from = the_route.n - the_route.over;      /* no room for any: refused at once */
	c = post(w, CHAT, ASK ",\"n\":3}");
	yyjson_doc_free(json_of(w, c));
	assert_int_equal(status_of(c), 429);
	hang_up(c);

	the_route.busy_from = 0;
	c = post(w, CHAT, ASK ",\"n\":2}");                     /* gone: both are cancelled */
	await_question(w, 5);
	hang_up(c);
	for (uint64_t since = uv_hrtime(); the_route.cancelled < 4 && uv_hrtime() - since < 30000000000u;)
		uv_run(&w->loop, UV_RUN_ONCE);
	assert_int_equal(the_route.cancelled, 4);
	free_world(w);
}

/* --- probabilities --- */

static struct token spoken(const char *piece, float logprob)
{
	return (struct token){.id = 3, .logprob = logprob, .piece = (const uint8_t *)piece, .piece_length = (uint32_t)strlen(piece)};
}

static void a_chat_tells_probabilities(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"logprobs\":true,\"top_logprobs\":2}");
	await_question(w, 1);
	struct route_question *q = &the_route.questions[0];
	assert_true(q->ask.logprobs && q->ask.sampling.top == 2);
	struct token t = spoken("\xc3", -0.25f);
	t.n_top = 2;
	t.top[0] = (struct token_top){.id = 3, .logprob = -0.25f, .piece = (const uint8_t *)"\xc3", .piece_length = 1};
	t.top[1] = (struct token_top){.id = 4, .logprob = -1.5f, .piece = (const uint8_t *)" \"b\"", .piece_length = 4};
	say_token(q, NULL, &t);                          /* half a character: shown with the next */
	t = spoken("\xa9t", -2);
	say_token(q, "\xc3\xa9t", &t);
	t = spoken("FI", -3);
	say_token(q, NULL, &t);                          /* held back, and then part of a stop string: no text of the answer */
	end(q, 0, NULL);
	yyjson_doc *doc = json_of(w, c);
	assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/content")), 2);
	assert_string_equal(at(doc, "/choices/0/logprobs/content/0/token"), "\xef\xbf\xbd");
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/content/0/bytes/0")), 0xc3);
	assert_true(yyjson_get_num(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/content/0/logprob")) == -0.25);
	assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/content/0/top_logprobs")), 2);
	assert_string_equal(at(doc, "/choices/0/logprobs/content/0/top_logprobs/1/token"), " \"b\"");
	assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/content/1/bytes")), 2);
	assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/content/1/top_logprobs")), 0);
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

static void a_completion_tells_probabilities_in_the_older_shape(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, "/v1/completions", "{\"model\":\"histoires\",\"prompt\":\"Il\",\"logprobs\":1}");
	await_question(w, 1);
	struct route_question *q = &the_route.questions[0];
	struct token t = spoken(" \xc3\xa9t", -0.5f);
	t.n_top = 1;
	t.top[0] = (struct token_top){.id = 3, .logprob = -0.5f, .piece = (const uint8_t *)"\xff", .piece_length = 1};
	say_token(q, " \xc3\xa9t", &t);
	t = spoken("ait", -1);
	say_token(q, "ait", &t);
	end(q, 0, NULL);
	yyjson_doc *doc = json_of(w, c);
	assert_string_equal(at(doc, "/choices/0/logprobs/tokens/0"), " \xc3\xa9t");
	assert_true(yyjson_get_num(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/token_logprobs/1")) == -1);
	assert_true(yyjson_get_num(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/top_logprobs/0/bytes:\\xff")) == -0.5);
	assert_true(yyjson_is_null(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/top_logprobs/1")));
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/text_offset/1")), 3);
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

static void a_stream_tells_probabilities_with_the_text(void **state)
{
	for (int chat = 0; chat < 2; chat++) {
		struct world *w = new_world();
		struct client *c = chat ? post(w, CHAT, ASK ",\"stream\":true,\"logprobs\":true}")
					: post(w, "/v1/completions", "{\"model\":\"histoires\",\"prompt\":\"Il\",\"stream\":true,\"logprobs\":0}");
		await_question(w, 1);
		struct route_question *q = &the_route.questions[0];
		struct token t = spoken("a", -1);
		say_token(q, NULL, &t);
		t = spoken("b", -2);
		say_token(q, "ab", &t);
		t = spoken("c", -3);
		say_token(q, "c", &t);
		end(q, 0, NULL);
		await(w, c, "data: [DONE]\n\n");
		char *events = events_of(c);
		const char *list = chat ? "/choices/0/logprobs/content" : "/choices/0/logprobs/token_logprobs";
		yyjson_doc *doc = event(events, (size_t)chat);
		assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, list)), 2);
		yyjson_doc_free(doc);
		doc = event(events, (size_t)chat + 1);
		assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, list)), 1);
		if (!chat)
			assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/text_offset/0")), 2);
		yyjson_doc_free(doc);
		free(events);
		hang_up(c);
		free_world(w);
	}
}

/* The largest that a token can be, until the answer is given up: what is said is JSON or an error, never half of one. */
static void probabilities_without_end_are_given_up(void **state)
{
	struct world *w = new_world();
	struct client *c = post(w, CHAT, ASK ",\"logprobs\":true,\"top_logprobs\":20}");
	await_question(w, 1);
	struct route_question *q = &the_route.questions[0];
	uint8_t piece[PIECE_MAX];
	memset(piece, 1, sizeof piece);
	struct token t = {.piece = piece, .piece_length = PIECE_MAX, .n_top = TOP_LOGPROBS_MAX};
	for (size_t i = 0; i < TOP_LOGPROBS_MAX; i++)
		t.top[i] = (struct token_top){.piece = piece, .piece_length = PIECE_MAX};
	for (int i = 0; i < 1000 && !q->cancelled; i++)
		say_token(q, "x", &t);
	assert_true(q->cancelled);
	yyjson_doc *doc = json_of(w, c);
	assert_int_equal(status_of(c), 500);
	assert_string_equal(at(doc, "/error/code"), "answer_too_large");
	yyjson_doc_free(doc);
	hang_up(c);
	free_world(w);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_chat_is_answered_whole),
		cmocka_unit_test(a_completion_is_answered_whole),
		cmocka_unit_test(a_chat_is_streamed),
		cmocka_unit_test(a_stream_without_any_text_is_whole_too),
		cmocka_unit_test(an_error_before_the_first_token_has_its_status),
		cmocka_unit_test(an_error_within_a_stream_is_an_event),
		cmocka_unit_test(an_unfinished_answer_that_fails_is_not_shown_as_whole),
		cmocka_unit_test(bytes_that_are_no_text_do_not_break_the_json),
		cmocka_unit_test(choices_are_questions_of_their_own_with_seeds_of_their_own),
		cmocka_unit_test(choices_share_a_stream),
		cmocka_unit_test(a_choice_without_a_place_waits_for_another_ones),
		cmocka_unit_test(an_error_of_one_choice_ends_them_all),
		cmocka_unit_test(a_chat_tells_probabilities),
		cmocka_unit_test(a_completion_tells_probabilities_in_the_older_shape),
		cmocka_unit_test(a_stream_tells_probabilities_with_the_text),
		cmocka_unit_test(probabilities_without_end_are_given_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
