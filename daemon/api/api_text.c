/* Text and tokens without an answer: tokenize and detokenize as llama-server has them, embeddings as OpenAI has them. Inputs go to the
 * engine one after the other.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/api/api_internal.h"
#include "proto/err.h"
#include "proto/text.h"

#define INPUTS_MAX 256                       /* of one request for embeddings */

struct api_text_job {
	struct request *request;
	enum api_kind kind;
	yyjson_doc *doc;                     /* inputs are views into it */
	struct route_text *running;
	const char *model;                   /* NULL: the only one */
	bool with_pieces, base64;
	bool add_special, parse_special;
	size_t n, at;                        /* inputs, and the one that is asked about */
	yyjson_val *inputs[INPUTS_MAX];
	uint8_t *tokens;                     /* of the input that is asked about, when it is ids */
	size_t n_tokens;
	uint64_t prompt_tokens;
};

void api_text_stop(struct request *r)
{
	struct api_text_job *job = r->text;
	if (!job)
		return;
	r->text = NULL;
	if (job->running)
		route_text_cancel(job->running);
	r->api->running--;
	yyjson_doc_free(job->doc);
	free(job->tokens);
	free(job);
}

/* --- what is answered ---------------------------------------------------------------------------------------- */

static void put_tokens(struct buf *out, const struct engine_rendered *m, bool pieces)
{
	size_t at = 0, n;
	buf_append_str(out, "{\"tokens\":[");
	for (size_t i = 0; i < m->n_tokens; i++) {
		buf_append_str(out, i ? "," : "");
		if (!pieces) {
			buf_printf(out, "%u", get_u32(m->tokens + 4 * i));
			continue;
		}
		const uint8_t *piece = rendered_piece(m, &at, &n);
		buf_printf(out, "{\"id\":%u,\"piece\":", get_u32(m->tokens + 4 * i));
		if (text_is_utf8((const char *)piece, n)) {
			api_json_string(out, (const char *)piece, n);
		} else {                             /* a part of a character: its bytes */
			for (size_t k = 0; k < n; k++)
				buf_printf(out, k ? ",%u" : "[%u", piece[k]);
			buf_append_str(out, "]");
		}
		buf_append_str(out, "}");
	}
	buf_append_str(out, "]}");
}

static int put_text(struct buf *out, const struct engine_rendered *m)
{
	struct buf text;
	size_t at = 0, n;
	int err = 0;
	buf_init(&text, FRAME_TAIL_MAX);
	for (size_t i = 0; i < m->n_tokens && m->pieces_length && !err; i++) {
		const uint8_t *piece = rendered_piece(m, &at, &n);
		err = buf_append(&text, piece, n);
	}
	buf_append_str(out, "{\"content\":");
	api_json_string(out, text.length ? (const char *)text.data : "", text.length);
	buf_release(&text);
	return err ? err : buf_append_str(out, "}");
}

static void put_embedding(struct buf *out, const struct engine_rendered *m, size_t index, bool base64)
{
	buf_append_str(out, index ? "," : "");
	buf_printf(out, "{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", index);
	if (base64) {
		size_t size = sodium_base64_encoded_len(4 * (size_t)m->n_embd, sodium_base64_VARIANT_ORIGINAL);
		char *text = malloc(size);
		if (text)
			sodium_bin2base64(text, size, m->embedding, 4 * (size_t)m->n_embd, sodium_base64_VARIANT_ORIGINAL);
		buf_printf(out, "\"%s\"", text ? text : "");
		free(text);
	} else {
		for (uint32_t i = 0; i < m->n_embd; i++) {
			uint32_t bits = get_u32(m->embedding + 4 * (size_t)i);
			float value;
			memcpy(&value, &bits, sizeof value);
			buf_printf(out, i ? ",%.9g" : "[%.9g", (double)value);
		}
		buf_append_str(out, "]");
	}
	buf_append_str(out, "}");
}

/* --- one input after the other -------------------------------------------------------------------------------- */

static int next(struct api_text_job *job);

static void finish(struct request *r, int err, const char *why)
{
	if (err)
		api_error_from(&r->error, err, why, err == ERR_BUSY ? 2 : 0);
	api_text_stop(r);
	r->ended = true;
	api_resume(r);
}

static void on_done(void *arg, int err, const struct engine_rendered *m, const char *model, const char *why)
{
	struct api_text_job *job = arg;
	struct request *r = job->request;
	job->running = NULL;
	if (err) {
		finish(r, err, why);
		return;
	}
	if (job->kind == API_TOKENIZE)
		put_tokens(&r->out, m, job->with_pieces);
	else if (job->kind == API_DETOKENIZE)
		err = put_text(&r->out, m);
	else
		put_embedding(&r->out, m, job->at, job->base64);
	job->prompt_tokens += m->n_tokens;
	if (!err && ++job->at < job->n) {
		err = next(job);
		if (err)
			finish(r, err, NULL);
		return;
	}
	if (job->kind == API_EMBEDDINGS) {
		buf_append_str(&r->out, "],\"model\":");
		api_json_string(&r->out, model, strlen(model));
		buf_printf(&r->out, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}", (unsigned long long)job->prompt_tokens,
			   (unsigned long long)job->prompt_tokens);
		err = buf_append_str(&r->out, "}");
	}
	if (r->out.length > API_QUEUE_MAX)
		err = ERR_LIMIT;
	finish(r, err, "the answer would be too large: ask for less at once");
}

/* Ids of an array, checked by ids_are_sound(). */
static int take_ids(struct api_text_job *job, yyjson_val *list)
{
	yyjson_val *one;
	size_t i, n;
	free(job->tokens);
	job->n_tokens = yyjson_arr_size(list);
	job->tokens = malloc(4 * job->n_tokens + 1);
	if (!job->tokens)
		return -ENOMEM;
	yyjson_arr_foreach(list, i, n, one)
		put_u32(job->tokens + 4 * i, (uint32_t)yyjson_get_uint(one));
	return 0;
}

static int next(struct api_text_job *job)
{
	yyjson_val *input = job->inputs[job->at];
	struct render_message message = {.role = "", .content = ""};
	struct engine_render render = {.add_special = job->add_special, .parse_special = job->parse_special, .embed = job->kind == API_EMBEDDINGS,
				       .pieces = job->with_pieces || job->kind == API_DETOKENIZE};
	if (yyjson_is_str(input)) {
		message.content = yyjson_get_str(input);
		message.content_length = yyjson_get_len(input);
		render.messages = &message;
		render.n_messages = 1;
	} else {
		int err = take_ids(job, input);
		if (err)
			return err;
		render.tokens = job->tokens;
		render.n_tokens = job->n_tokens;
	}
	return route_text(job->request->api->config.route, job->model, &render, on_done, job, &job->running);
}

/* --- what is asked --------------------------------------------------------------------------------------------- */

static bool ids_are_sound(yyjson_val *list)
{
	yyjson_val *one;
	size_t i, n;
	if (!yyjson_is_arr(list) || yyjson_arr_size(list) > RENDER_TOKENS_MAX)
		return false;
	yyjson_arr_foreach(list, i, n, one)
		if (!yyjson_is_uint(one) || yyjson_get_uint(one) > INT32_MAX)
			return false;
	return true;
}

static bool text_is_sound(yyjson_val *text)
{
	return yyjson_is_str(text) && yyjson_get_len(text) <= RENDER_BYTES_MAX && text_is_utf8(yyjson_get_str(text), yyjson_get_len(text));
}

/* A string, ids, or an array of either. */
static int parse_inputs(yyjson_val *root, struct api_text_job *job, struct api_error *e)
{
	yyjson_val *input = yyjson_obj_get(root, "input"), *one;
	const char *format = yyjson_get_str(yyjson_obj_get(root, "encoding_format"));
	bool list = yyjson_is_arr(input) && !yyjson_is_int(yyjson_arr_get_first(input));
	size_t i, n;
	if (yyjson_obj_get(root, "encoding_format") && (!format || (strcmp(format, "float") && strcmp(format, "base64"))))
		return api_bad(e, "encoding_format", "it must be float or base64");
	job->base64 = format && !strcmp(format, "base64");
	if (!list) {
		job->inputs[job->n++] = input;
	} else {
		if (!yyjson_arr_size(input) || yyjson_arr_size(input) > INPUTS_MAX)
			return api_bad(e, "input", "it must be a string, or an array of 1 to 256 strings");
		yyjson_arr_foreach(input, i, n, one)
			job->inputs[job->n++] = one;
	}
	for (i = 0; i < job->n; i++)
		if (!(text_is_sound(job->inputs[i]) && yyjson_get_len(job->inputs[i])) && !(ids_are_sound(job->inputs[i]) && yyjson_arr_size(job->inputs[i])))
			return api_bad(e, "input", "each input must be a text that is not empty, without NUL, or an array of token ids");
	return 0;
}

static int parse(struct request *r, struct api_text_job *job)
{
	struct api_error *e = &r->error;
	if (api_parse_body(r->body.data ? r->body.data : (uint8_t *)"", r->body.length, job->kind, &job->doc, e))
		return -1;
	yyjson_val *root = yyjson_doc_get_root(job->doc);
	job->model = yyjson_get_str(yyjson_obj_get(root, "model"));
	job->add_special = job->kind == API_EMBEDDINGS;
	job->parse_special = job->kind == API_TOKENIZE;
	if (job->kind == API_EMBEDDINGS)
		return parse_inputs(root, job, e);
	job->inputs[job->n++] = yyjson_obj_get(root, job->kind == API_TOKENIZE ? "content" : "tokens");
	if (job->kind == API_DETOKENIZE)
		return ids_are_sound(job->inputs[0]) ? 0 : api_bad(e, "tokens", "it must be an array of token ids");
	if (!text_is_sound(job->inputs[0]))
		return api_bad(e, "content", "it must be a string of at most 4 MiB, without NUL");
	return api_get_bool(root, "add_special", &job->add_special, e) || api_get_bool(root, "parse_special", &job->parse_special, e) ||
	       api_get_bool(root, "with_pieces", &job->with_pieces, e) ? -1 : 0;
}

enum MHD_Result api_text(struct request *r, enum api_kind kind)
{
	r->asked = true;
	if (api_refuse_stopping(r))
		return api_reply_error(r);
	struct api_text_job *job = calloc(1, sizeof *job);
	if (!job) {
		api_error_from(&r->error, -ENOMEM, NULL, 0);
		return api_reply_error(r);
	}
	*job = (struct api_text_job){.request = r, .kind = kind};
	r->text = job;
	r->api->running++;
	int err = parse(r, job);
	buf_release(&r->body);                   /* nothing said is kept longer than it is needed */
	if (err) {
		api_text_stop(r);
		return api_reply_error(r);
	}
	if (kind == API_EMBEDDINGS)
		buf_append_str(&r->out, "{\"object\":\"list\",\"data\":[");
	if (kind == API_DETOKENIZE && !yyjson_arr_size(job->inputs[0])) {
		buf_append_str(&r->out, "{\"content\":\"\"}");
		api_text_stop(r);
		return api_reply(r, 200, "application/json", &r->out);
	}
	err = next(job);
	if (err) {
		if (job->model)
			api_explain(r, job->model, err);
		else
			api_error_from(&r->error, err, err == ERR_AMBIGUOUS ? "this node has several models: say which (GET /v1/models lists them)" : NULL, 0);
		api_text_stop(r);
		return api_reply_error(r);
	}
	api_suspend(r);
	return MHD_YES;
}
