/* test_api_request.c: what a body may say, and what becomes of it. See api_world.h.
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
		{",\"top_k\":-1", "top_k"}, {",\"top_k\":1.5", "top_k"}, {",\"top_k\":1000001", "top_k"}, {",\"min_p\":2", "min_p"}, {",\"min_p\":-0.1", "min_p"},
		{",\"repeat_penalty\":0", "repeat_penalty"}, {",\"repeat_penalty\":11", "repeat_penalty"}, {",\"presence_penalty\":-2.1", "presence_penalty"},
		{",\"frequency_penalty\":\"1\"", "frequency_penalty"}, {",\"n\":0", "n"}, {",\"n\":9", "n"}, {",\"n\":\"1\"", "n"},
		{",\"logit_bias\":[]", "logit_bias"}, {",\"logit_bias\":{\"a\":1}", "logit_bias"}, {",\"logit_bias\":{\"-1\":1}", "logit_bias"},
		{",\"logit_bias\":{\"\":1}", "logit_bias"}, {",\"logit_bias\":{\"1\":101}", "logit_bias"}, {",\"logit_bias\":{\"1\":\"1\"}", "logit_bias"},
		{",\"logit_bias\":{\"2147483648\":1}", "logit_bias"}, {",\"logit_bias\":{\"99999999999999999999999\":1}", "logit_bias"},
		{",\"logit_bias\":{\" 1\":1}", "logit_bias"}, {",\"logprobs\":5", "logprobs"}, {",\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"},
		{",\"top_logprobs\":2", "top_logprobs"}, {",\"logprobs\":false,\"top_logprobs\":2", "top_logprobs"}, {",\"logprobs\":true,\"top_logprobs\":-1", "top_logprobs"},
		{",\"ignore_eos\":1", "ignore_eos"}, {",\"ignore_eos\":true,\"grammar\":\"root ::= .\"", "ignore_eos"},
		{",\"grammar\":7", "grammar"}, {",\"grammar\":\"nonsense\"", "grammar"}, {",\"grammar\":\"root ::= root\"", "grammar"},
		{",\"grammar\":\"root ::= .\",\"response_format\":{\"type\":\"json_object\"}", "grammar"},
		{",\"response_format\":\"json\"", "response_format"}, {",\"response_format\":{}", "response_format"}, {",\"response_format\":{\"type\":\"xml\"}", "response_format"},
		{",\"response_format\":{\"type\":\"json_object\",\"schema\":{}}", "response_format"}, {",\"response_format\":{\"type\":\"json_schema\"}", "response_format"},
		{",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":7}}", "response_format"},
		{",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{},\"x\":1}}", "response_format"},
		{",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":[]}", "response_format"},
		{",\"modalities\":\"text\"", "modalities"}, {",\"via\":7", "via"}, {",\"stream\":true,\"stream_options\":{\"x\":1}", "stream_options"},
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
	static const struct { const char *rest, *param; } cases[] = {
		{",\"tools\":[{}]", "tools"}, {",\"functions\":[{}]", "functions"}, {",\"tool_choice\":\"required\"", "tool_choice"},
		{",\"tool_choice\":{\"type\":\"function\"}", "tool_choice"}, {",\"function_call\":{\"name\":\"f\"}", "function_call"},
		{",\"store\":true", "store"}, {",\"modalities\":[\"text\",\"audio\"]", "modalities"}, {",\"audio\":{\"voice\":\"x\"}", "audio"},
		{",\"reasoning_effort\":\"high\"", "reasoning_effort"}, {",\"prediction\":{\"type\":\"content\"}", "prediction"},
		{",\"web_search_options\":{\"a\":1}", "web_search_options"},
		{",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"pattern\":\"a\"}}}", "response_format"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char body[400];
		snprintf(body, sizeof body, ASK "%s}", cases[i].rest);
		must_refuse(CHAT, body, 400, cases[i].param, "unsupported_parameter");
	}
	must_refuse("/v1/completions", "{\"model\":\"histoires\",\"prompt\":\"a\",\"echo\":true}", 400, "echo", "unsupported_parameter");
	must_refuse("/v1/completions", "{\"model\":\"histoires\",\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "suffix", "unsupported_parameter");
	must_refuse("/v1/completions", "{\"model\":\"histoires\",\"prompt\":\"a\",\"best_of\":2}", 400, "best_of", "unsupported_parameter");
	must_refuse(CHAT, "{\"model\":\"histoires\",\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{}]}]}", 400, "messages[0]",
		    "unsupported_parameter");
}

static void fields_that_nobody_knows_are_refused(void **state)
{
	static const char *const rests[] = {"temprature", "mirostat", "prompt", "best_of", "echo", "input", "x\\u0000y", "model "};
	for (size_t i = 0; i < sizeof rests / sizeof *rests; i++) {
		char body[400];
		snprintf(body, sizeof body, ASK ",\"%s\":null}", rests[i]);
		must_refuse(CHAT, body, 400, i == 6 ? "x" : rests[i], "unknown_parameter");
	}
	must_refuse("/v1/completions", "{\"model\":\"histoires\",\"prompt\":\"a\",\"messages\":[]}", 400, "messages", "unknown_parameter");
	must_refuse("/v1/completions", "{\"model\":\"histoires\",\"prompt\":\"a\",\"top_logprobs\":1}", 400, "top_logprobs", "unknown_parameter");
}

/* Each as it is in the range's middle and at its ends is taken; api_parse() is enough for that. */
static struct api_question parsed(const char *path, const char *rest)
{
	struct api_question q;
	struct api_error e;
	bool chat = !strcmp(path, CHAT);
	static char body[200000];
	snprintf(body, sizeof body, "{\"model\":\"histoires\",%s%s}", chat ? MESSAGES : "\"prompt\":\"a\"", rest);
	if (api_parse((const uint8_t *)body, strlen(body), chat, &q, &e))
		fail_msg("%s: %s", rest, e.message);
	return q;
}

static void ranges_are_taken_up_to_their_ends(void **state)
{
	static const char *const fine[] = {
		",\"temperature\":0", ",\"temperature\":2", ",\"top_p\":0", ",\"top_p\":1", ",\"min_p\":0", ",\"min_p\":1", ",\"top_k\":0", ",\"top_k\":1000000",
		",\"repeat_penalty\":0.1", ",\"repeat_penalty\":10", ",\"presence_penalty\":-2", ",\"presence_penalty\":2", ",\"frequency_penalty\":-2",
		",\"frequency_penalty\":2", ",\"max_tokens\":1", ",\"max_tokens\":16777216", ",\"max_completion_tokens\":16777216", ",\"n\":1", ",\"n\":8",
		",\"seed\":-9223372036854775808", ",\"seed\":18446744073709551615", ",\"logit_bias\":{\"0\":-100,\"2147483647\":100}", ",\"logit_bias\":{}",
		",\"stop\":[\"a\",\"b\",\"c\",\"d\"]", ",\"user\":\"x\",\"metadata\":{\"a\":\"b\"},\"service_tier\":\"auto\"", ",\"response_format\":{\"type\":\"text\"}",
		",\"grammar\":\"\"", ",\"grammar\":null", ",\"response_format\":null", ",\"stream\":true,\"stream_options\":{}", ",\"n\":null,\"temperature\":null",
	};
	for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
		struct api_question q = parsed(CHAT, fine[i]);
		api_question_release(&q);
		q = parsed("/v1/completions", fine[i]);
		api_question_release(&q);
	}
	struct api_question q = parsed(CHAT, ",\"tools\":[],\"tool_choice\":\"none\",\"store\":false,\"modalities\":[\"text\"],\"parallel_tool_calls\":true");
	api_question_release(&q);
	q = parsed("/v1/completions", ",\"n\":3,\"best_of\":3,\"echo\":false,\"suffix\":null");
	api_question_release(&q);
}

static void fields_arrive_where_tokens_are_chosen(void **state)
{
	struct api_question q = parsed(CHAT, ",\"logit_bias\":{\"7\":-100,\"12\":0.5},\"logprobs\":true,\"top_logprobs\":20,\"n\":3,\"top_k\":40,"
					     "\"repeat_penalty\":1.5,\"grammar\":\"root ::= \\\"a\\\"\"");
	assert_int_equal(q.sampling.n_bias, 2);
	assert_int_equal(logit_bias_get(&q.sampling, 1).id, 12);
	assert_true(logit_bias_get(&q.sampling, 0).bias == -100 && logit_bias_get(&q.sampling, 1).bias == 0.5f);
	assert_true(q.logprobs && q.sampling.top == 20 && q.n_choices == 3 && q.sampling.top_k == 40 && q.sampling.repeat_penalty == 1.5f);
	assert_int_equal(q.sampling.grammar_length, 12);
	assert_memory_equal(q.sampling.grammar, "root ::= \"a\"", 12);
	api_question_release(&q);

	q = parsed(CHAT, ",\"logprobs\":true");
	assert_true(q.logprobs && q.sampling.top == 0);
	api_question_release(&q);
	q = parsed("/v1/completions", ",\"logprobs\":0");
	assert_true(q.logprobs && q.sampling.top == 0);
	api_question_release(&q);
	q = parsed("/v1/completions", "");
	assert_true(!q.logprobs && q.max_tokens == 16);
	api_question_release(&q);
	q = parsed(CHAT, ",\"max_tokens\":5,\"max_completion_tokens\":7");
	assert_int_equal(q.max_tokens, 7);
	api_question_release(&q);

	q = parsed(CHAT, ",\"response_format\":{\"type\":\"json_object\"}");
	assert_true(q.sampling.grammar_length > 100 && !memcmp(q.sampling.grammar, "root ::= object\n", 16));
	api_question_release(&q);
	q = parsed(CHAT, ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"strict\":true,\"schema\":{\"const\":7}}}");
	assert_true(!memcmp(q.sampling.grammar, "root ::= \"7\"\n", 13));
	api_question_release(&q);
}

static void as_many_biases_as_there_may_be_and_one_more(void **state)
{
	static char rest[100000];
	for (size_t count = LOGIT_BIAS_MAX; count <= LOGIT_BIAS_MAX + 1; count++) {
		size_t n = (size_t)sprintf(rest, ",\"logit_bias\":{");
		for (size_t i = 0; i < count; i++)
			n += (size_t)sprintf(rest + n, "%s\"%zu\":1", i ? "," : "", i);
		sprintf(rest + n, "}");
		if (count == LOGIT_BIAS_MAX) {
			struct api_question q = parsed(CHAT, rest);
			assert_int_equal(q.sampling.n_bias, LOGIT_BIAS_MAX);
			api_question_release(&q);
		} else {
			static char body[100200];
			snprintf(body, sizeof body, ASK "%s}", rest);
			must_refuse(CHAT, body, 400, "logit_bias", "invalid_value");
		}
	}
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

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_body_that_is_no_json_is_refused),
		cmocka_unit_test(a_field_of_a_wrong_type_or_size_is_named),
		cmocka_unit_test(messages_that_are_none_are_refused),
		cmocka_unit_test(what_this_version_cannot_do_is_said),
		cmocka_unit_test(fields_that_nobody_knows_are_refused),
		cmocka_unit_test(ranges_are_taken_up_to_their_ends),
		cmocka_unit_test(fields_arrive_where_tokens_are_chosen),
		cmocka_unit_test(as_many_biases_as_there_may_be_and_one_more),
		cmocka_unit_test(contents_in_parts_are_put_together),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
