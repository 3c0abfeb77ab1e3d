/* Probabilities of tokens, as OpenAI's API says them. Each is the natural logarithm, by the model's own distribution: before bias,
 * penalties, temperature and grammar. A token whose text is no UTF-8 by itself shows U+FFFD in a chat, where `bytes` tells, and
 * "bytes:\xf0\x9f" in a completion, where the text is the key of an object.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "daemon/api/api_internal.h"
#include "proto/err.h"
#include "proto/text.h"

#define TOKEN_ROOM (128u << 10)      /* more than one token and its neighbours can take */

void api_logprobs_init(struct api_logprobs *l, bool chat)
{
	memset(l, 0, sizeof *l);
	l->chat = chat;
	buf_init(&l->tokens, API_QUEUE_MAX);
	buf_init(&l->values, API_QUEUE_MAX);
	buf_init(&l->tops, API_QUEUE_MAX);
	buf_init(&l->offsets, API_QUEUE_MAX);
}

void api_logprobs_release(struct api_logprobs *l)
{
	buf_release(&l->tokens);
	buf_release(&l->values);
	buf_release(&l->tops);
	buf_release(&l->offsets);
}

/* {"token", "logprob", "bytes": open at its end, so that top_logprobs can follow. */
static int entry(struct buf *out, const uint8_t *piece, uint32_t n, float logprob)
{
	buf_append_str(out, "{\"token\":");
	api_json_string(out, n ? (const char *)piece : "", n);
	buf_printf(out, ",\"logprob\":%.6f,\"bytes\":[", (double)logprob);
	for (uint32_t i = 0; i < n; i++)
		buf_printf(out, i ? ",%u" : "%u", piece[i]);
	return buf_append_str(out, "]");
}

static int add_chat(struct api_logprobs *l, const struct token *t)
{
	struct buf *out = &l->tokens;
	if (out->length)
		buf_append_str(out, ",");
	entry(out, t->piece, t->piece_length, t->logprob);
	buf_append_str(out, ",\"top_logprobs\":[");
	for (uint32_t i = 0; i < t->n_top; i++) {
		buf_append_str(out, i ? "," : "");
		entry(out, t->top[i].piece, t->top[i].piece_length, t->top[i].logprob);
		buf_append_str(out, "}");
	}
	return buf_append_str(out, "]}");
}

static void name(struct buf *out, const uint8_t *piece, uint32_t n)
{
	if (!n || text_is_utf8((const char *)piece, n)) {
		api_json_string(out, n ? (const char *)piece : "", n);
		return;
	}
	buf_append_str(out, "\"bytes:");
	for (uint32_t i = 0; i < n; i++)
		buf_printf(out, "\\\\x%02x", piece[i]);
	buf_append_str(out, "\"");
}

static void add_completion(struct api_logprobs *l, const struct token *t)
{
	const char *comma = l->tokens.length ? "," : "";
	buf_append_str(&l->tokens, comma);
	name(&l->tokens, t->piece, t->piece_length);
	buf_printf(&l->values, "%s%.6f", comma, (double)t->logprob);
	buf_append_str(&l->tops, comma);
	buf_append_str(&l->tops, t->n_top ? "{" : "null");
	for (uint32_t i = 0; i < t->n_top; i++) {
		buf_append_str(&l->tops, i ? "," : "");
		name(&l->tops, t->top[i].piece, t->top[i].piece_length);
		buf_printf(&l->tops, ":%.6f", (double)t->top[i].logprob);
	}
	if (t->n_top)
		buf_append_str(&l->tops, "}");
	for (uint32_t i = 0; i < t->piece_length; i++)
		l->characters += (t->piece[i] & 0xc0) != 0x80;
}

int api_logprobs_add(struct api_logprobs *l, const struct token *t)
{
	size_t at = l->characters;
	if (l->tokens.length > API_QUEUE_MAX - TOKEN_ROOM || l->tops.length > API_QUEUE_MAX - TOKEN_ROOM)
		return ERR_LIMIT;
	l->n++;
	if (l->chat)
		return add_chat(l, t);
	add_completion(l, t);
	return buf_printf(&l->offsets, l->offsets.length ? ",%zu" : "%zu", at);
}

void api_logprobs_keep(struct api_logprobs *l)
{
	const struct buf *parts[] = {&l->tokens, &l->values, &l->tops, &l->offsets};
	l->kept = l->n;
	for (size_t i = 0; i < 4; i++)
		l->ends[i] = parts[i]->length;
}

void api_logprobs_write(struct buf *out, struct api_logprobs *l)
{
	static const char *const names[] = {"{\"tokens\":[", ",\"token_logprobs\":[", ",\"top_logprobs\":[", ",\"text_offset\":["};
	if (!l) {
		buf_append_str(out, "null");
		return;
	}
	struct buf *parts[] = {&l->tokens, &l->values, &l->tops, &l->offsets};
	for (size_t i = 0; i < (l->chat ? 1 : 4); i++) {
		buf_append_str(out, l->chat ? "{\"content\":[" : names[i]);
		buf_append(out, parts[i]->data, l->ends[i]);
		buf_append_str(out, "]");
	}
	buf_append_str(out, l->chat ? ",\"refusal\":null}" : "}");
	/* What was not shown yet begins anew, without the comma that parted it from what was. */
	for (size_t i = 0; i < 4; i++) {
		size_t comma = l->ends[i] && parts[i]->length > l->ends[i];
		buf_consume(parts[i], l->ends[i] + comma);
		l->ends[i] = 0;
	}
	l->n -= l->kept;
	l->kept = 0;
}
