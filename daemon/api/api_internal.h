/* api_internal.h: what the files of api/ share.
 *
 *   api.c           libmicrohttpd on the loop: who may ask, what is where, opening and closing
 *   api_ask.c       questions: their choices, streamed or whole
 *   api_text.c      tokenize, detokenize, embeddings
 *   api_models.c    models, health, metrics
 *   api_request.c   a body becomes a struct api_question; api_fields.c which fields there are, schema.c JSON Schemas
 *   api_answer.c    OpenAI's objects, into a buffer; api_logprobs.c the part about probabilities
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef API_INTERNAL_H
#define API_INTERNAL_H

#include <microhttpd.h>
#include <yyjson.h>

#include "daemon/api/api.h"
#include "proto/buf.h"

#define API_STOP_BYTES_MAX 1024
#define API_OUT_MAX (API_QUEUE_MAX + (64u << 10))
#define API_CHOICES_MAX 8

/* An error as OpenAI says it. */
struct api_error {
	unsigned status;                     /* HTTP */
	const char *type, *code;             /* "invalid_request_error", "model_not_found" */
	char param[64];                      /* "" none */
	char message[512];
	uint32_t retry_after;                /* seconds; 0: not said */
};

/* --- requests ------------------------------------------------------------------------------------- */

enum api_kind { API_CHAT = 1, API_COMPLETION = 2, API_EMBEDDINGS = 4, API_TOKENIZE = 8, API_DETOKENIZE = 16 };

/* A body, checked. Views into doc. */
struct api_question {
	yyjson_doc *doc;
	bool chat, stream, include_usage, logprobs;
	const char *model;
	size_t n_messages;
	struct render_message *messages;     /* heap */
	char *joined;                        /* contents that came in parts; heap */
	uint32_t max_tokens, n_choices;
	struct sampling sampling;            /* views into the next two */
	uint8_t *bias;
	struct buf grammar;
	bool has_seed;
	size_t n_stops;
	const char *stops[STOPS_MAX];
	const char *via;                     /* the node that is to answer; NULL: not said */
};

/* 0, or -1 with error filled. */
int api_parse(const uint8_t *body, size_t n, bool chat, struct api_question *out, struct api_error *error);
void api_question_release(struct api_question *q);
/* An object with a model and no field that its kind does not know. *doc is the caller's to free, in any case. */
int api_parse_body(const uint8_t *body, size_t n, enum api_kind kind, yyjson_doc **doc, struct api_error *error);

int api_check_fields(yyjson_val *root, enum api_kind kind, struct api_error *error);
int api_parse_sampling(yyjson_val *root, struct api_question *q, struct api_error *error);
int api_get_number(yyjson_val *root, const char *key, double low, double high, double otherwise, double *out, struct api_error *error);
int api_get_whole(yyjson_val *root, const char *key, uint32_t low, uint32_t high, uint32_t otherwise, uint32_t *out, struct api_error *error);
int api_get_bool(yyjson_val *root, const char *key, bool *out, struct api_error *error);
/* -1: "param: text", 400. */
int api_bad(struct api_error *error, const char *param, const char *text);

void api_error_set(struct api_error *e, unsigned status, const char *type, const char *code, const char *param, const char *format, ...)
	__attribute__((format(printf, 6, 7)));
/* The HTTP face of an enum err; detail may be NULL. */
void api_error_from(struct api_error *e, int err, const char *detail, uint32_t retry_after);
void api_error_json(const struct api_error *e, struct buf *out);

/* --- answers: each appends to out ---------------------------------------------------------------- */

/* Probabilities of an answer's tokens: of chats in OpenAI's newer shape, of completions in the older one. */
struct api_logprobs {
	bool chat;
	size_t n, kept;                      /* tokens; those whose text was shown */
	size_t characters;                   /* where the next token's text begins */
	struct buf tokens, values, tops, offsets;    /* of chats only `tokens`: whole objects */
	size_t ends[4];                      /* of each, what belongs to the kept ones */
};
void api_logprobs_init(struct api_logprobs *l, bool chat);
void api_logprobs_release(struct api_logprobs *l);
int api_logprobs_add(struct api_logprobs *l, const struct token *token);     /* ERR_LIMIT, -ENOMEM */
void api_logprobs_keep(struct api_logprobs *l);                              /* what was added so far has its text shown */
/* The object of the kept ones, and forgets them. l may be NULL: null. */
void api_logprobs_write(struct buf *out, struct api_logprobs *l);

struct api_head {                            /* what every object of one answer repeats */
	char id[48];
	bool chat;
	uint64_t created;
	char model[2 * NAME_SIZE];
};
struct api_choice {                          /* one of a question's answers */
	struct request *request;
	struct route_question *question;     /* NULL: not asked yet, or ended */
	bool waits, started, ended;          /* waits: for a place, behind the others */
	struct buf text;                     /* of a whole answer */
	struct api_logprobs logprobs;
	struct route_result result;
};
void api_json_string(struct buf *out, const char *text, size_t n);
/* Of one choice, by index: its role (chat), some text, its end; with the last choice's end, who computed it all. logprobs may be NULL. */
void api_chunk_start(struct buf *out, const struct api_head *head, size_t index);
void api_chunk_text(struct buf *out, const struct api_head *head, size_t index, const char *text, size_t n, struct api_logprobs *logprobs);
void api_chunk_end(struct buf *out, const struct api_head *head, const struct api_choice *choices, size_t index, size_t n);
/* Of all: what they took, when asked for, and the end of the stream. */
void api_chunk_done(struct buf *out, const struct api_head *head, const struct api_choice *choices, size_t n, bool usage);
void api_chunk_error(struct buf *out, const struct api_error *error);
void api_whole(struct buf *out, const struct api_head *head, struct api_choice *choices, size_t n, bool logprobs);
void api_models(struct buf *out, const struct route_model *models, size_t n);
void api_model(struct buf *out, const struct route_model *model);

/* --- a request on its connection ------------------------------------------------------------------- */

struct api {
	struct api_config config;
	struct MHD_Daemon *mhd;
	uv_poll_t poll;
	uv_timer_t timer, look;
	uv_prepare_t prepare;
	unsigned open_handles;
	bool run_due, draining, closing;
	uint16_t port;
	struct request *requests;
	size_t running;
	uint64_t counts[6];                  /* answers by status class: [2] 2xx ... */
	void (*on_closed)(void *arg);
	void *on_closed_arg;
};

struct request {
	struct api *api;
	struct MHD_Connection *connection;
	struct request *next;
	struct buf body;                     /* as it came */
	struct buf out;                      /* SSE bytes not sent yet, or the whole answer */
	bool too_large, asked, suspended, answering, ended, gone;
	struct api_error error;              /* status 0: none */
	/* a question */
	bool running;                        /* counted in api->running */
	struct api_question q;
	struct api_head head;
	uint8_t tenant[KEY_BYTES];           /* of the key that asks */
	struct api_choice *choices;          /* heap; q.n_choices */
	struct api_text_job *text;           /* tokenize and the like, while they run */
};

void api_suspend(struct request *r);         /* the answer is not there yet */
void api_resume(struct request *r);          /* it is, or a part of it */
enum MHD_Result api_reply(struct request *r, unsigned status, const char *type, const struct buf *body);
enum MHD_Result api_reply_error(struct request *r);
enum MHD_Result api_reply_stream(struct request *r);
/* True while this node is stopping: error is filled. */
bool api_refuse_stopping(struct request *r);

enum MHD_Result api_ask(struct request *r, bool chat);       /* a body has come */
enum MHD_Result api_answer(struct request *r);               /* resumed: after api_ask() suspended it */
void api_stop(struct request *r);                            /* cancels what runs for it; there will be no more of an answer */
void api_forget(struct request *r);                          /* the same, and frees it */
void api_explain(struct request *r, const char *model, int err);     /* why route refused, in words, into error */

enum MHD_Result api_text(struct request *r, enum api_kind kind);     /* a body has come; then api_answer() */
void api_text_stop(struct request *r);

enum MHD_Result api_get_models(struct request *r, const char *one);
enum MHD_Result api_get_health(struct request *r);
enum MHD_Result api_get_metrics(struct request *r);

#endif
