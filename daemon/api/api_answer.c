/* OpenAI's objects, written straight into a buffer: an answer's tokens come one at a time and each is a few dozen bytes.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdio.h>
#include <string.h>

#include "daemon/api/api_internal.h"
#include "proto/err.h"
#include "proto/text.h"

/* Bytes of the UTF-8 character that begins at text (RFC 3629); 0 when none does. */
static size_t character(const char *text, size_t n)
{
	unsigned char c = (unsigned char)text[0];
	size_t length = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 0;
	return length && length <= n && (length == 1 || text_is_utf8(text, length)) ? length : 0;
}

/* A model may say bytes that are no text: each becomes U+FFFD, as a terminal would show it. */
void api_json_string(struct buf *out, const char *text, size_t n)
{
	static const char hex[] = "0123456789abcdef";
	size_t from = 0;
	buf_append(out, "\"", 1);
	for (size_t i = 0; i < n;) {
		unsigned char c = (unsigned char)text[i];
		size_t length = character(text + i, n - i);
		if (length && c >= 0x20 && c != '"' && c != '\\') {
			i += length;
			continue;
		}
		buf_append(out, text + from, i - from);
		from = ++i;
		if (!length) {
			buf_append(out, "\xef\xbf\xbd", 3);
		} else if (c == '"' || c == '\\') {
			char escaped[2] = {'\\', (char)c};
			buf_append(out, escaped, 2);
		} else if (c == '\n') {
			buf_append(out, "\\n", 2);
		} else {
			char escaped[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
			buf_append(out, escaped, 6);
		}
	}
	buf_append(out, text + from, n - from);
	buf_append(out, "\"", 1);
}

static void string(struct buf *out, const char *text)
{
	api_json_string(out, text, strlen(text));
}

void api_error_json(const struct api_error *e, struct buf *out)
{
	buf_append_str(out, "{\"error\":{\"message\":");
	string(out, e->message);
	buf_append_str(out, ",\"type\":");
	string(out, e->type);
	buf_append_str(out, ",\"param\":");
	if (e->param[0])
		string(out, e->param);
	else
		buf_append_str(out, "null");
	buf_append_str(out, ",\"code\":");
	string(out, e->code);
	buf_append_str(out, "}}");
}

void api_error_from(struct api_error *e, int err, const char *detail, uint32_t retry_after)
{
	static const struct {
		int err;
		unsigned status;
		const char *type, *code;
	} table[] = {
		{ERR_UNKNOWN, 404, "invalid_request_error", "model_not_found"},
		{ERR_AMBIGUOUS, 400, "invalid_request_error", "model_ambiguous"},
		{ERR_CONTEXT, 400, "invalid_request_error", "context_length_exceeded"},
		{ERR_MALFORMED, 400, "invalid_request_error", "invalid_value"},
		{ERR_UNSUPPORTED, 400, "invalid_request_error", "unsupported"},
		{ERR_LIMIT, 413, "invalid_request_error", "too_large"},
		{ERR_ARRIVING, 503, "server_error", "model_arriving"},
		{ERR_UNREACHABLE, 503, "server_error", "model_unavailable"},
		{ERR_DENIED, 503, "server_error", "not_permitted"},
		{ERR_BUSY, 429, "rate_limit_error", "busy"},
		{ERR_BUDGET, 429, "rate_limit_error", "busy"},
		{ERR_ENGINE, 502, "server_error", "engine_lost"},
		{ERR_MODEL, 502, "server_error", "model_broken"},
	};
	unsigned status = 500;
	const char *type = "server_error", *code = "internal_error";
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (table[i].err == err) {
			status = table[i].status;
			type = table[i].type;
			code = table[i].code;
		}
	api_error_set(e, status, type, code, err == ERR_UNKNOWN || err == ERR_AMBIGUOUS ? "model" : NULL, "%s",
		      detail && *detail ? detail : err_str(err));
	e->retry_after = retry_after;
}

static void head_into(struct buf *out, const struct api_head *head, const char *object)
{
	buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%llu,\"model\":", head->id, object, (unsigned long long)head->created);
	string(out, head->model);
}

static const char *chunk_object(const struct api_head *head)
{
	return head->chat ? "chat.completion.chunk" : "text_completion";
}

static void usage_into(struct buf *out, const struct api_choice *choices, size_t n)
{
	uint64_t prompt = 0, completion = 0, cached = 0;
	for (size_t i = 0; i < n; i++) {
		prompt = choices[i].result.prompt_tokens;        /* the same text for all, counted once */
		cached = choices[i].result.cached_tokens > cached ? choices[i].result.cached_tokens : cached;
		completion += choices[i].result.completion_tokens;
	}
	buf_printf(out, ",\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
		   (unsigned long long)prompt, (unsigned long long)completion, (unsigned long long)(prompt + completion), (unsigned long long)cached);
}

static void stages_into(struct buf *out, const struct route_result *r, size_t choice, bool several)
{
	for (size_t i = 0; i < r->n_stages; i++) {
		const struct route_stage *s = &r->stages[i];
		buf_append_str(out, i || choice ? ",{" : "{");
		if (several)
			buf_printf(out, "\"choice\":%zu,", choice);
		buf_append_str(out, "\"node\":");
		string(out, s->name);
		buf_append_str(out, ",\"association\":");
		string(out, s->association);
		buf_printf(out, ",\"layers\":[%u,%u],\"rows\":%llu,\"compute_seconds\":%.6f,\"saw\":\"%s\"}", s->range.first, s->range.end,
			   (unsigned long long)s->rows, (double)s->microseconds * 1e-6, s->text ? "text" : "activations");
	}
}

/* Who computed what and who saw what (DESIGN D18), of each choice; clients of OpenAI's API pass over keys they do not know. */
static void disclosure_into(struct buf *out, const struct api_choice *choices, size_t n)
{
	uint64_t prefill = 0, decode = 0;
	const struct route_result *any = &choices[n - 1].result;
	buf_append_str(out, ",\"essaim\":{");
	if (any->via[0]) {                       /* it answered in this node's place, and saw the text */
		buf_append_str(out, "\"via\":{\"node\":");
		string(out, any->via);
		buf_append_str(out, ",\"association\":");
		string(out, any->via_association);
		buf_append_str(out, "},");
	}
	buf_append_str(out, "\"stages\":[");
	for (size_t i = 0; i < n; i++) {
		const struct route_result *r = &choices[i].result;
		stages_into(out, r, i, n > 1);
		prefill = r->prefill_us > prefill ? r->prefill_us : prefill;
		decode = r->decode_us > decode ? r->decode_us : decode;
	}
	buf_printf(out, "],\"prefill_seconds\":%.6f,\"decode_seconds\":%.6f}", (double)prefill * 1e-6, (double)decode * 1e-6);
}

static void chunk_begin(struct buf *out, const struct api_head *head)
{
	buf_append_str(out, "data: ");
	head_into(out, head, chunk_object(head));
}

void api_chunk_start(struct buf *out, const struct api_head *head, size_t index)
{
	if (!head->chat)
		return;
	chunk_begin(out, head);
	buf_printf(out, ",\"choices\":[{\"index\":%zu,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
		   index);
}

void api_chunk_text(struct buf *out, const struct api_head *head, size_t index, const char *text, size_t n, struct api_logprobs *logprobs)
{
	chunk_begin(out, head);
	buf_printf(out, head->chat ? ",\"choices\":[{\"index\":%zu,\"delta\":{\"content\":" : ",\"choices\":[{\"index\":%zu,\"text\":", index);
	api_json_string(out, text, n);
	buf_append_str(out, head->chat ? "},\"logprobs\":" : ",\"logprobs\":");
	api_logprobs_write(out, logprobs);
	buf_append_str(out, ",\"finish_reason\":null}]}\n\n");
}

void api_chunk_end(struct buf *out, const struct api_head *head, const struct api_choice *choices, size_t index, size_t n)
{
	chunk_begin(out, head);
	buf_printf(out, ",\"choices\":[{\"index\":%zu,%s,\"logprobs\":null,\"finish_reason\":\"%s\"}]", index,
		   head->chat ? "\"delta\":{}" : "\"text\":\"\"", choices[index].result.finish);
	bool last = true;
	for (size_t i = 0; i < n; i++)
		last = last && choices[i].ended;
	if (last)
		disclosure_into(out, choices, n);
	buf_append_str(out, "}\n\n");
}

void api_chunk_done(struct buf *out, const struct api_head *head, const struct api_choice *choices, size_t n, bool usage)
{
	if (usage) {
		chunk_begin(out, head);
		buf_append_str(out, ",\"choices\":[]");
		usage_into(out, choices, n);
		buf_append_str(out, "}\n\n");
	}
	buf_append_str(out, "data: [DONE]\n\n");
}

void api_chunk_error(struct buf *out, const struct api_error *error)
{
	buf_append_str(out, "data: ");
	api_error_json(error, out);
	buf_append_str(out, "\n\n");
}

void api_whole(struct buf *out, const struct api_head *head, struct api_choice *choices, size_t n, bool logprobs)
{
	head_into(out, head, head->chat ? "chat.completion" : "text_completion");
	buf_append_str(out, ",\"choices\":[");
	for (size_t i = 0; i < n; i++) {
		struct api_choice *c = &choices[i];
		buf_printf(out, "%s{\"index\":%zu,%s", i ? "," : "", i,
			   head->chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
		api_json_string(out, c->text.length ? (const char *)c->text.data : "", c->text.length);
		buf_append_str(out, head->chat ? ",\"refusal\":null},\"logprobs\":" : ",\"logprobs\":");
		api_logprobs_write(out, logprobs ? &c->logprobs : NULL);
		buf_printf(out, ",\"finish_reason\":\"%s\"}", c->result.finish);
	}
	buf_append_str(out, "]");
	usage_into(out, choices, n);
	disclosure_into(out, choices, n);
	buf_append_str(out, "}");
}

void api_model(struct buf *out, const struct route_model *m)
{
	char alias[2 * NAME_SIZE], id[2 * KEY_BYTES + 1];
	snprintf(alias, sizeof alias, m->association[0] ? "%s@%s" : "%s", m->name, m->association);
	text_hex(m->id, KEY_BYTES, id);
	buf_append_str(out, "{\"id\":");
	string(out, m->name);
	buf_printf(out, ",\"object\":\"model\",\"created\":%llu,\"owned_by\":", (unsigned long long)m->created);
	string(out, m->association);
	buf_append_str(out, ",\"essaim\":{\"alias\":");
	string(out, alias);
	buf_printf(out, ",\"model_id\":\"%s\",\"state\":\"%s\",\"context\":%u,\"chat\":%s,\"why\":", id,
		   m->state == ROUTE_READY ? "ready" : m->state == ROUTE_ARRIVING ? "arriving" : "unavailable", m->context,
		   m->chat_template ? "true" : "false");
	string(out, m->why);
	buf_append_str(out, "}}");
}

void api_models(struct buf *out, const struct route_model *models, size_t n)
{
	buf_append_str(out, "{\"object\":\"list\",\"data\":[");
	for (size_t i = 0; i < n; i++) {
		if (i)
			buf_append_str(out, ",");
		api_model(out, &models[i]);
	}
	buf_append_str(out, "]}");
}
