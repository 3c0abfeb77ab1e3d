/* A request's body, checked field by field. Fields that Essaim does not know are ignored, as OpenAI-compatible servers do; fields it knows
 * but cannot honour yet are refused rather than ignored, so that nobody relies on what did not happen.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/api/api_internal.h"
#include "proto/text.h"

#define COMPLETION_TOKENS 16         /* OpenAI's default for /v1/completions */

void api_error_set(struct api_error *e, unsigned status, const char *type, const char *code, const char *param, const char *format, ...)
{
	va_list ap;
	memset(e, 0, sizeof *e);
	e->status = status;
	e->type = type;
	e->code = code;
	if (param)
		text_copy(e->param, sizeof e->param, param);
	va_start(ap, format);
	vsnprintf(e->message, sizeof e->message, format, ap);
	va_end(ap);
}

static int bad(struct api_error *e, const char *param, const char *text)
{
	api_error_set(e, 400, "invalid_request_error", "invalid_value", param, "%s: %s", param, text);
	return -1;
}

static int get_number(yyjson_val *root, const char *key, double low, double high, double otherwise, double *out, struct api_error *e)
{
	yyjson_val *v = yyjson_obj_get(root, key);
	char text[80];
	*out = otherwise;
	if (!v || yyjson_is_null(v))
		return 0;
	if (!yyjson_is_num(v))
		return bad(e, key, "it must be a number");
	*out = yyjson_get_num(v);
	if (isfinite(*out) && *out >= low && *out <= high)
		return 0;
	snprintf(text, sizeof text, "it must lie between %g and %g", low, high);
	return bad(e, key, text);
}

static int get_count(yyjson_val *root, const char *key, uint32_t *out, struct api_error *e)
{
	yyjson_val *v = yyjson_obj_get(root, key);
	if (!v || yyjson_is_null(v))
		return 0;
	if (!yyjson_is_uint(v) || !yyjson_get_uint(v) || yyjson_get_uint(v) > CONTEXT_MAX)
		return bad(e, key, "it must be a whole number of at least 1");
	*out = (uint32_t)yyjson_get_uint(v);
	return 0;
}

static int get_bool(yyjson_val *root, const char *key, bool *out, struct api_error *e)
{
	yyjson_val *v = yyjson_obj_get(root, key);
	if (!v || yyjson_is_null(v))
		return 0;
	if (!yyjson_is_bool(v))
		return bad(e, key, "it must be true or false");
	*out = yyjson_get_bool(v);
	return 0;
}

static bool is_set(yyjson_val *v)
{
	return v && !yyjson_is_null(v) && !yyjson_is_false(v) && !(yyjson_is_ctn(v) && !unsafe_yyjson_get_len(v));
}

/* Known to OpenAI's clients, not to this version. */
static int refuse_unsupported(yyjson_val *root, bool chat, struct api_error *e)
{
	static const char *const fields[] = {"tools", "functions", "logit_bias", "logprobs", "top_logprobs", "audio", "prediction", "suffix", "echo"};
	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
		if (is_set(yyjson_obj_get(root, fields[i])) && !(chat && !strcmp(fields[i], "echo"))) {
			api_error_set(e, 400, "invalid_request_error", "unsupported_parameter", fields[i], "%s is not supported by this version of Essaim",
				      fields[i]);
			return -1;
		}
	yyjson_val *format = yyjson_obj_get(yyjson_obj_get(root, "response_format"), "type");
	if (format && (!yyjson_get_str(format) || strcmp(yyjson_get_str(format), "text"))) {
		api_error_set(e, 400, "invalid_request_error", "unsupported_parameter", "response_format",
			      "response_format: only {\"type\": \"text\"} is supported by this version of Essaim");
		return -1;
	}
	static const char *const ones[] = {"n", "best_of"};
	for (size_t i = 0; i < 2; i++) {
		yyjson_val *v = yyjson_obj_get(root, ones[i]);
		if (v && !yyjson_is_null(v) && (!yyjson_is_uint(v) || yyjson_get_uint(v) != 1)) {
			api_error_set(e, 400, "invalid_request_error", "unsupported_parameter", ones[i],
				      "%s: this version of Essaim gives one answer a request", ones[i]);
			return -1;
		}
	}
	return 0;
}

static int parse_stops(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	yyjson_val *stop = yyjson_obj_get(root, "stop"), *value;
	if (!stop || yyjson_is_null(stop))
		return 0;
	if (!yyjson_is_str(stop) && !yyjson_is_arr(stop))
		return bad(e, "stop", "it must be a string or an array of strings");
	if (yyjson_is_arr(stop) && yyjson_arr_size(stop) > STOPS_MAX)
		return bad(e, "stop", "at most 4 strings");
	size_t n = yyjson_is_str(stop) ? 1 : yyjson_arr_size(stop);
	for (size_t i = 0; i < n; i++) {
		value = yyjson_is_str(stop) ? stop : yyjson_arr_get(stop, i);
		if (!yyjson_is_str(value) || yyjson_get_len(value) > API_STOP_BYTES_MAX || strlen(yyjson_get_str(value)) != yyjson_get_len(value))
			return bad(e, "stop", "each must be a string of at most 1024 bytes");
		if (yyjson_get_len(value))
			q->stops[q->n_stops++] = yyjson_get_str(value);
	}
	return 0;
}

/* A content: a string, or parts of type text that are put together. */
static int parse_content(yyjson_val *content, const char *where, char **joined, size_t *used, struct render_message *out, struct api_error *e)
{
	if (yyjson_is_str(content)) {
		out->content = yyjson_get_str(content);
		out->content_length = yyjson_get_len(content);
		return 0;
	}
	/* What an assistant said with tools has none. */
	if (!content || yyjson_is_null(content)) {
		out->content = "";
		return strcmp(out->role, "assistant") ? bad(e, where, "content is missing") : 0;
	}
	if (!yyjson_is_arr(content))
		return bad(e, where, "content must be a string or an array of parts");
	out->content = *joined + *used;
	yyjson_val *part;
	size_t i, n;
	yyjson_arr_foreach(content, i, n, part)
	{
		const char *type = yyjson_get_str(yyjson_obj_get(part, "type"));
		yyjson_val *text = yyjson_obj_get(part, "text");
		if (!type || strcmp(type, "text") || !yyjson_is_str(text))
			return bad(e, where, "only parts of type text are supported");
		memcpy(*joined + *used, yyjson_get_str(text), yyjson_get_len(text));
		*used += yyjson_get_len(text);
		out->content_length += yyjson_get_len(text);
	}
	return 0;
}

static int parse_messages(yyjson_val *root, size_t body_length, struct api_question *q, struct api_error *e)
{
	yyjson_val *messages = yyjson_obj_get(root, "messages"), *message;
	if (!yyjson_is_arr(messages) || !yyjson_arr_size(messages))
		return bad(e, "messages", "it must be an array with at least one message");
	if (yyjson_arr_size(messages) > RENDER_MESSAGES_MAX)
		return bad(e, "messages", "at most 1024 messages");
	q->messages = calloc(yyjson_arr_size(messages), sizeof *q->messages);
	q->joined = malloc(body_length + 1);     /* decoded text is never longer than its JSON */
	if (!q->messages || !q->joined)
		return bad(e, "messages", "out of memory");
	size_t i, n, used = 0;
	yyjson_arr_foreach(messages, i, n, message)
	{
		char where[48];
		snprintf(where, sizeof where, "messages[%zu]", i);
		const char *role = yyjson_get_str(yyjson_obj_get(message, "role"));
		static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
		bool known = false;
		for (size_t k = 0; role && k < 5; k++)
			known |= !strcmp(role, roles[k]);
		if (!known)
			return bad(e, where, "role must be system, user, assistant or tool");
		if (!strcmp(role, "developer"))
			role = "system";
		struct render_message *m = &q->messages[q->n_messages++];
		m->role = role;
		m->role_length = strlen(role);
		if (parse_content(yyjson_obj_get(message, "content"), where, &q->joined, &used, m, e))
			return -1;
	}
	return 0;
}

static int parse_prompt(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	yyjson_val *prompt = yyjson_obj_get(root, "prompt");
	if (yyjson_is_arr(prompt) && yyjson_arr_size(prompt) == 1)
		prompt = yyjson_arr_get_first(prompt);
	if (!yyjson_is_str(prompt))
		return bad(e, "prompt", "it must be one string");
	q->messages = calloc(1, sizeof *q->messages);
	if (!q->messages)
		return bad(e, "prompt", "out of memory");
	q->n_messages = 1;
	q->messages[0].role = "";
	q->messages[0].content = yyjson_get_str(prompt);
	q->messages[0].content_length = yyjson_get_len(prompt);
	return 0;
}

int api_parse(const uint8_t *body, size_t n, bool chat, struct api_question *q, struct api_error *e)
{
	yyjson_read_err read_error;
	memset(q, 0, sizeof *q);
	q->chat = chat;
	q->doc = yyjson_read_opts((char *)body, n, 0, NULL, &read_error);
	if (!q->doc) {
		api_error_set(e, 400, "invalid_request_error", "invalid_json", NULL, "the body is not valid JSON: %s at byte %zu", read_error.msg,
			      read_error.pos);
		return -1;
	}
	yyjson_val *root = yyjson_doc_get_root(q->doc);
	if (!yyjson_is_obj(root))
		return bad(e, "body", "it must be a JSON object");
	yyjson_val *model = yyjson_obj_get(root, "model");
	if (!yyjson_is_str(model) || !yyjson_get_len(model) || yyjson_get_len(model) > 2 * NAME_SIZE)
		return bad(e, "model", "say which model (GET /v1/models lists them)");
	q->model = yyjson_get_str(model);
	double temperature, top_p, min_p, top_k, repeat, presence, frequency;
	if (refuse_unsupported(root, chat, e) || (chat ? parse_messages(root, n, q, e) : parse_prompt(root, q, e)) || parse_stops(root, q, e) ||
	    get_number(root, "temperature", 0, 2, 1, &temperature, e) || get_number(root, "top_p", 0, 1, 1, &top_p, e) ||
	    get_number(root, "min_p", 0, 1, 0, &min_p, e) || get_number(root, "top_k", 0, 1e6, 0, &top_k, e) ||
	    get_number(root, "repeat_penalty", 0.1, 10, 1, &repeat, e) || get_number(root, "presence_penalty", -2, 2, 0, &presence, e) ||
	    get_number(root, "frequency_penalty", -2, 2, 0, &frequency, e) || get_count(root, "max_tokens", &q->max_tokens, e) ||
	    get_count(root, "max_completion_tokens", &q->max_tokens, e) || get_bool(root, "stream", &q->stream, e) ||
	    get_bool(root, "ignore_eos", &q->sampling.ignore_end, e))
		return -1;
	yyjson_val *options = yyjson_obj_get(root, "stream_options");
	if (options && !yyjson_is_null(options)) {
		if (!yyjson_is_obj(options))
			return bad(e, "stream_options", "it must be an object");
		if (!q->stream)
			return bad(e, "stream_options", "it goes with stream: true");
		if (get_bool(options, "include_usage", &q->include_usage, e))
			return -1;
	}
	yyjson_val *via = yyjson_obj_get(root, "via");
	if (via && !yyjson_is_null(via)) {
		if (!yyjson_is_str(via) || yyjson_get_len(via) >= 2 * NAME_SIZE)
			return bad(e, "via", "it must be the name of a node (essaim peers)");
		q->via = yyjson_get_str(via);
	}
	yyjson_val *seed = yyjson_obj_get(root, "seed");
	if (seed && !yyjson_is_null(seed)) {
		if (!yyjson_is_int(seed))
			return bad(e, "seed", "it must be a whole number");
		q->has_seed = true;
		q->sampling.seed = (uint64_t)yyjson_get_sint(seed);
	}
	if (!chat && !q->max_tokens)
		q->max_tokens = COMPLETION_TOKENS;
	q->sampling.temperature = (float)temperature;
	q->sampling.top_p = (float)top_p;
	q->sampling.min_p = (float)min_p;
	q->sampling.top_k = (int32_t)top_k;
	q->sampling.repeat_penalty = (float)repeat;
	q->sampling.presence_penalty = (float)presence;
	q->sampling.frequency_penalty = (float)frequency;
	return 0;
}

void api_question_release(struct api_question *q)
{
	yyjson_doc_free(q->doc);
	free(q->messages);
	free(q->joined);
	memset(q, 0, sizeof *q);
}
