/* The body of a question: its text, how long the answer may be and how it is sent. api_fields.c has the rest.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
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

static int parse_stops(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	yyjson_val *stop = yyjson_obj_get(root, "stop"), *value;
	if (!stop || yyjson_is_null(stop))
		return 0;
	if (!yyjson_is_str(stop) && !yyjson_is_arr(stop))
		return api_bad(e, "stop", "it must be a string or an array of strings");
	if (yyjson_is_arr(stop) && yyjson_arr_size(stop) > STOPS_MAX)
		return api_bad(e, "stop", "at most 4 strings");
	size_t n = yyjson_is_str(stop) ? 1 : yyjson_arr_size(stop);
	for (size_t i = 0; i < n; i++) {
		value = yyjson_is_str(stop) ? stop : yyjson_arr_get(stop, i);
		if (!yyjson_is_str(value) || yyjson_get_len(value) > API_STOP_BYTES_MAX || strlen(yyjson_get_str(value)) != yyjson_get_len(value))
			return api_bad(e, "stop", "each must be a string of at most 1024 bytes");
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
		return strcmp(out->role, "assistant") ? api_bad(e, where, "content is missing") : 0;
	}
	if (!yyjson_is_arr(content))
		return api_bad(e, where, "content must be a string or an array of parts");
	out->content = *joined + *used;
	yyjson_val *part;
	size_t i, n;
	yyjson_arr_foreach(content, i, n, part)
	{
		const char *type = yyjson_get_str(yyjson_obj_get(part, "type"));
		yyjson_val *text = yyjson_obj_get(part, "text");
		if (!type || strcmp(type, "text") || !yyjson_is_str(text))
			return api_bad(e, where, "only parts of type text are supported");
		memcpy(*joined + *used, yyjson_get_str(text), yyjson_get_len(text));
		*used += yyjson_get_len(text);
		out->content_length += yyjson_get_len(text);
	}
	return 0;
}

/* What else a message may carry: what answers come with and clients send back. */
static int check_message(yyjson_val *message, const char *where, struct api_error *e)
{
	static const char *const known[] = {"role", "content", "name", "tool_call_id", "refusal", "annotations", "reasoning_content"};
	yyjson_val *key, *value;
	size_t i, n;
	yyjson_obj_foreach(message, i, n, key, value)
	{
		bool fine = yyjson_is_null(value) || (yyjson_is_arr(value) && !yyjson_arr_size(value) && !yyjson_equals_str(key, "content"));
		for (size_t k = 0; k < sizeof known / sizeof *known && !fine; k++)
			fine = !strcmp(yyjson_get_str(key), known[k]);
		if (!fine) {
			api_error_set(e, 400, "invalid_request_error", "unsupported_parameter", where, "%s: \"%.40s\" is not supported", where,
				      yyjson_get_str(key));
			return -1;
		}
	}
	return 0;
}

static int parse_messages(yyjson_val *root, size_t body_length, struct api_question *q, struct api_error *e)
{
	yyjson_val *messages = yyjson_obj_get(root, "messages"), *message;
	if (!yyjson_is_arr(messages) || !yyjson_arr_size(messages))
		return api_bad(e, "messages", "it must be an array with at least one message");
	if (yyjson_arr_size(messages) > RENDER_MESSAGES_MAX)
		return api_bad(e, "messages", "at most 1024 messages");
	q->messages = calloc(yyjson_arr_size(messages), sizeof *q->messages);
	q->joined = malloc(body_length + 1);     /* decoded text is never longer than its JSON */
	if (!q->messages || !q->joined)
		return api_bad(e, "messages", "out of memory");
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
			return api_bad(e, where, "role must be system, user, assistant or tool");
		if (!strcmp(role, "developer"))
			role = "system";
		if (check_message(message, where, e))
			return -1;
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
		return api_bad(e, "prompt", "it must be one string");
	q->messages = calloc(1, sizeof *q->messages);
	if (!q->messages)
		return api_bad(e, "prompt", "out of memory");
	q->n_messages = 1;
	q->messages[0].role = "";
	q->messages[0].content = yyjson_get_str(prompt);
	q->messages[0].content_length = yyjson_get_len(prompt);
	return 0;
}

static int parse_length(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	uint32_t otherwise = q->chat ? 0 : COMPLETION_TOKENS;
	return api_get_whole(root, "max_tokens", 1, CONTEXT_MAX, otherwise, &otherwise, e) ||
	       api_get_whole(root, "max_completion_tokens", 1, CONTEXT_MAX, otherwise, &q->max_tokens, e) ? -1 : 0;
}

static int parse_via(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	yyjson_val *via = yyjson_obj_get(root, "via");
	if (!via || yyjson_is_null(via))
		return 0;
	if (!yyjson_is_str(via) || yyjson_get_len(via) >= 2 * NAME_SIZE)
		return api_bad(e, "via", "it must be the name of a node (essaim peers)");
	q->via = yyjson_get_str(via);
	return 0;
}

static int parse_stream(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	yyjson_val *options = yyjson_obj_get(root, "stream_options"), *key, *value;
	size_t i, n;
	if (api_get_bool(root, "stream", &q->stream, e))
		return -1;
	if (!options || yyjson_is_null(options))
		return 0;
	if (!yyjson_is_obj(options))
		return api_bad(e, "stream_options", "it must be an object");
	if (!q->stream)
		return api_bad(e, "stream_options", "it goes with stream: true");
	yyjson_obj_foreach(options, i, n, key, value)
		if (strcmp(yyjson_get_str(key), "include_usage") && strcmp(yyjson_get_str(key), "include_obfuscation"))
			return api_bad(e, "stream_options", "it has include_usage");
	return api_get_bool(options, "include_usage", &q->include_usage, e);
}

int api_parse_body(const uint8_t *body, size_t n, enum api_kind kind, yyjson_doc **doc, struct api_error *e)
{
	yyjson_read_err read_error;
	*doc = yyjson_read_opts((char *)body, n, 0, NULL, &read_error);
	if (!*doc) {
		api_error_set(e, 400, "invalid_request_error", "invalid_json", NULL, "the body is not valid JSON: %s at byte %zu", read_error.msg,
			      read_error.pos);
		return -1;
	}
	yyjson_val *root = yyjson_doc_get_root(*doc);
	if (!yyjson_is_obj(root))
		return api_bad(e, "body", "it must be a JSON object");
	if (api_check_fields(root, kind, e))
		return -1;
	yyjson_val *model = yyjson_obj_get(root, "model");
	bool needed = kind != API_TOKENIZE && kind != API_DETOKENIZE;
	if ((needed || (model && !yyjson_is_null(model))) && (!yyjson_is_str(model) || !yyjson_get_len(model) || yyjson_get_len(model) > 2 * NAME_SIZE))
		return api_bad(e, "model", "say which model (GET /v1/models lists them)");
	return 0;
}

int api_parse(const uint8_t *body, size_t n, bool chat, struct api_question *q, struct api_error *e)
{
	memset(q, 0, sizeof *q);
	buf_init(&q->grammar, GRAMMAR_BYTES_MAX);
	q->chat = chat;
	if (api_parse_body(body, n, chat ? API_CHAT : API_COMPLETION, &q->doc, e))
		return -1;
	yyjson_val *root = yyjson_doc_get_root(q->doc);
	q->model = yyjson_get_str(yyjson_obj_get(root, "model"));
	if ((chat ? parse_messages(root, n, q, e) : parse_prompt(root, q, e)) || parse_stops(root, q, e) || parse_length(root, q, e) ||
	    parse_via(root, q, e) || parse_stream(root, q, e) || api_parse_sampling(root, q, e))
		return -1;
	return 0;
}

void api_question_release(struct api_question *q)
{
	yyjson_doc_free(q->doc);
	free(q->messages);
	free(q->joined);
	free(q->bias);
	buf_release(&q->grammar);
	memset(q, 0, sizeof *q);
}
