/* fuzz_request.c: the body of a question to the HTTP API, from whoever holds the key.
 *
 * The first byte says whether it is a chat or a completion; the rest is the body. What must hold:
 *   - a refusal is a client error with words, and its object is JSON whatever the body quoted;
 *   - what is taken names a model, has messages whose roles are known and whose texts are UTF-8 within the body, and
 *     numbers that the engine can use;
 *   - any bytes at all, as an answer's text, make a JSON string.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <math.h>
#include <string.h>

#include "daemon/api/api_internal.h"
#include "proto/text.h"
#include "tests/fuzz/fuzz.h"

static const char *const seeds[] = {
	"\1{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
	"\1{\"model\":\"m@a\",\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"\\u00e9\"}]},"
	"{\"role\":\"assistant\",\"content\":null}],\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
	"\1{\"model\":\"m\",\"messages\":[{\"role\":\"tool\",\"content\":\"\"}],\"temperature\":0.5,\"top_p\":1,\"min_p\":0.1,\"top_k\":40,"
	"\"presence_penalty\":-2,\"frequency_penalty\":2,\"repeat_penalty\":1.1,\"max_tokens\":5,\"max_completion_tokens\":6,\"seed\":-1}",
	"\0{\"model\":\"m\",\"prompt\":\"a\",\"stop\":\"x\",\"n\":1,\"best_of\":1,\"ignore_eos\":true}",
	"\0{\"model\":\"m\",\"prompt\":[\"a\"],\"stop\":[\"x\",\"\",\"yy\"],\"echo\":false,\"logprobs\":null}",
	"\1{\"model\":\"m\",\"messages\":[],\"tools\":[1],\"response_format\":{\"type\":\"text\"}}",
	"\1{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"n\":8,\"logprobs\":true,\"top_logprobs\":20,"
	"\"logit_bias\":{\"0\":-100,\"77\":5.5},\"tool_choice\":\"none\",\"modalities\":[\"text\"]}",
	"\0{\"model\":\"m\",\"prompt\":\"a\",\"grammar\":\"root ::= \\\"a\\\" | [b-d]{2,3}\",\"logprobs\":3,\"best_of\":2,\"n\":2}",
	"\1{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":\"json_schema\",\"json_schema\":"
	"{\"name\":\"n\",\"schema\":{\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]}}}}",
	"\1{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"name\":\"x\"}],\"response_format\":{\"type\":\"json_object\"}}",
};

bool fuzz_seed(size_t i, struct buf *out)
{
	if (i >= sizeof seeds / sizeof *seeds)
		return false;
	must(buf_append(out, seeds[i], 1) == 0 && buf_append_str(out, seeds[i] + 1) == 0);
	return true;
}

static void must_be_json(const struct buf *text)
{
	yyjson_doc *doc = yyjson_read((const char *)text->data, text->length, 0);
	must(doc);
	yyjson_doc_free(doc);
}

static void must_be_refused(const struct api_error *e)
{
	struct buf text;
	buf_init(&text, 1 << 20);
	must(e->status >= 400 && e->status < 500);
	must(e->message[0] && e->type && e->code);
	must(memchr(e->message, 0, sizeof e->message) && memchr(e->param, 0, sizeof e->param));
	api_error_json(e, &text);
	must_be_json(&text);
	buf_release(&text);
}

static void must_be_sound(const struct api_question *q, size_t body_length)
{
	const struct sampling *s = &q->sampling;
	size_t total = 0;
	must(q->model && q->model[0] && strlen(q->model) <= 2 * NAME_SIZE);
	must(q->n_messages >= 1 && q->n_messages <= RENDER_MESSAGES_MAX);
	for (size_t i = 0; i < q->n_messages; i++) {
		const struct render_message *m = &q->messages[i];
		static const char *const roles[] = { "", "system", "user", "assistant", "tool" };
		bool known = false;
		for (size_t k = 0; k < 5; k++)
			known |= strlen(roles[k]) == m->role_length && !memcmp(roles[k], m->role, m->role_length);
		must(known && (m->role_length || !q->chat));
		for (size_t at = 0; at < m->content_length;) {       /* UTF-8 but for NULs, which JSON can say */
			const char *end = memchr(m->content + at, 0, m->content_length - at);
			size_t n = end ? (size_t)(end - m->content) - at : m->content_length - at;
			must(text_is_utf8(m->content + at, n));
			at += n + 1;
		}
		total += m->content_length;
	}
	must(total <= body_length);
	must(q->max_tokens <= CONTEXT_MAX);
	must(q->n_stops <= STOPS_MAX);
	for (size_t i = 0; i < q->n_stops; i++)
		must(q->stops[i][0] && strlen(q->stops[i]) <= API_STOP_BYTES_MAX);
	must(s->temperature >= 0 && s->temperature <= 2 && s->top_p >= 0 && s->top_p <= 1 && s->min_p >= 0 && s->min_p <= 1);
	must(s->top_k >= 0 && isfinite(s->repeat_penalty) && s->repeat_penalty > 0);
	must(fabsf(s->presence_penalty) <= 2 && fabsf(s->frequency_penalty) <= 2);
	must(!q->include_usage || q->stream);
	must(q->n_choices >= 1 && q->n_choices <= API_CHOICES_MAX);
	must(s->top <= TOP_LOGPROBS_MAX && (q->logprobs || !s->top));
	must(s->n_bias <= LOGIT_BIAS_MAX);
	for (size_t i = 0; i < s->n_bias; i++)
		must(logit_bias_get(s, i).id >= 0 && fabsf(logit_bias_get(s, i).bias) <= 100);
	char why[200];
	must(!s->grammar_length || gbnf_check(s->grammar, s->grammar_length, why, sizeof why) == 0);
	must(!s->grammar_length || !s->ignore_end);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct api_question q;
	struct api_error e;
	struct buf text;
	bool chat = n && data[0] & 1;

	buf_init(&text, 16 << 20);
	api_json_string(&text, (const char *)data, n);
	must_be_json(&text);
	buf_release(&text);

	memset(&e, 0, sizeof e);
	if (n) {
		data++;
		n--;
	}
	if (api_parse(data, n, chat, &q, &e))
		must_be_refused(&e);
	else
		must_be_sound(&q, n);
	api_question_release(&q);
	return 0;
}
