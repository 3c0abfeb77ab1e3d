/* api_internal.h: what the files of api/ share. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef API_INTERNAL_H
#define API_INTERNAL_H

#include <yyjson.h>

#include "daemon/api/api.h"
#include "proto/buf.h"

#define API_STOP_BYTES_MAX 1024
#define API_OUT_MAX (API_QUEUE_MAX + (64u << 10))

/* An error as OpenAI says it. */
struct api_error {
	unsigned status;                     /* HTTP */
	const char *type, *code;             /* "invalid_request_error", "model_not_found" */
	char param[64];                      /* "" none */
	char message[512];
	uint32_t retry_after;                /* seconds; 0: not said */
};

/* A body, checked. Views into doc. */
struct api_question {
	yyjson_doc *doc;
	bool chat, stream, include_usage;
	const char *model;
	size_t n_messages;
	struct render_message *messages;     /* heap */
	char *joined;                        /* contents that came in parts; heap */
	uint32_t max_tokens;
	struct sampling sampling;
	bool has_seed;
	size_t n_stops;
	const char *stops[STOPS_MAX];
	const char *via;                     /* the node that is to answer; NULL: not said */
};

/* 0, or -1 with error filled. */
int api_parse(const uint8_t *body, size_t n, bool chat, struct api_question *out, struct api_error *error);
void api_question_release(struct api_question *q);

void api_error_set(struct api_error *e, unsigned status, const char *type, const char *code, const char *param, const char *format, ...)
	__attribute__((format(printf, 6, 7)));
/* The HTTP face of an enum err; detail may be NULL. */
void api_error_from(struct api_error *e, int err, const char *detail, uint32_t retry_after);
void api_error_json(const struct api_error *e, struct buf *out);

/* --- answers: each appends to out ---------------------------------------------------------------- */

struct api_head {                            /* what every object of one answer repeats */
	char id[48];
	bool chat;
	uint64_t created;
	char model[2 * NAME_SIZE];
};
void api_json_string(struct buf *out, const char *text, size_t n);
void api_chunk_start(struct buf *out, const struct api_head *head);              /* chat: the role */
void api_chunk_text(struct buf *out, const struct api_head *head, const char *text, size_t n);
void api_chunk_end(struct buf *out, const struct api_head *head, const struct route_result *result, bool usage);
void api_chunk_error(struct buf *out, const struct api_error *error);
void api_whole(struct buf *out, const struct api_head *head, const char *text, size_t n, const struct route_result *result);
void api_models(struct buf *out, const struct route_model *models, size_t n);
void api_model(struct buf *out, const struct route_model *model);

#endif
