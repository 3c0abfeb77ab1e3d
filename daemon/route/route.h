/* route.h: one question, from its text to its answer: names the model, plans the ring, turns text into tokens, asks, cuts stop strings
 * and whole UTF-8 characters out of the stream, plans anew when a stage is lost, and says who saw what.
 *
 * The rooms it reads from come in as callbacks (main connects them), so that a test or the simulator can stand in.
 * Thread: loop. Owner: main. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ROUTE_ROUTE_H
#define ROUTE_ROUTE_H

#include "daemon/ring/ring.h"
#include "daemon/route/routing.h"

#define ROUTE_MODELS_MAX 256
#define ROUTE_RETRY_BUSY_S 2             /* at least; about how long an answer takes */
#define ROUTE_RUNNING_MAX 64            /* answers at once; past it ERR_BUSY with retry_after */
#define ROUTE_WAITING_MAX 32            /* of them, questions that wait for a place, in order of arrival; past it ERR_BUSY */
#define ROUTE_WAIT_MS 20000             /* at most so long */
#define ROUTE_NO_MEMORY "this node has no memory left for the answer"

struct route;
struct route_question;                  /* one in progress */

enum route_state { ROUTE_READY, ROUTE_ARRIVING, ROUTE_UNAVAILABLE };
struct route_model {
	uint8_t id[KEY_BYTES];
	char name[NAME_SIZE], association[NAME_SIZE];       /* alias: name@association */
	uint64_t created;               /* Unix seconds: its manifest's "issued" */
	uint32_t n_layer, context;      /* context: what this node promises */
	bool chat_template;
	bool truncates;                 /* a session can go back: follow-ups begin where they differ */
	enum route_state state;
	uint64_t bytes_wanted, bytes_have, seconds_left;    /* while arriving; UINT64_MAX: unknown */
	char why[200];                  /* when not ready: what is missing and what to do */
};

struct route_stage {                    /* of the ring that answered, home first */
	uint8_t node[KEY_BYTES];
	char name[NAME_SIZE], association[NAME_SIZE];
	bool text;                      /* saw text; otherwise activations only */
	struct layer_range range;
	uint64_t rows, microseconds;    /* compute time; 0 while unknown */
};
struct route_result {
	int err;                        /* 0, or why there is no (more) answer */
	char detail[300];               /* for people: what is wrong and what to do; never anything said */
	uint32_t retry_after;           /* seconds; 0: do not say */
	const char *finish;             /* "stop", "length" */
	uint32_t prompt_tokens, completion_tokens;
	uint32_t cached_tokens;         /* of the prompt's, those that an earlier question had computed */
	uint64_t prefill_us, decode_us; /* to the first token; from it to the last */
	size_t n_stages;
	struct route_stage stages[RING_STAGES_MAX];
	char model[2 * NAME_SIZE];      /* alias that answered */
	char via[NAME_SIZE], via_association[NAME_SIZE];    /* the node that answered in this one's place, and saw the text; "" none */
};

struct route_config {
	struct ring *ring;
	uint64_t (*monotonic_us)(void *arg);
	void (*random)(void *arg, void *out, size_t n);
	size_t (*models)(void *arg, struct route_model *out, size_t max);
	/* every node that advertises the model, this one included */
	size_t (*nodes)(void *arg, const uint8_t model[KEY_BYTES], struct routing_node *out, size_t max);
	int (*render)(void *arg, const uint8_t model[KEY_BYTES], const struct engine_render *render,
		      void (*done)(void *arg, int err, const int32_t *tokens, size_t n, const char *why), void *done_arg);
	/* the same with pieces or an embedding; route_text() needs it */
	int (*text)(void *arg, const uint8_t model[KEY_BYTES], const struct engine_render *render,
		    void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *why), void *done_arg);
	/* for disclosures and tables */
	void (*describe)(void *arg, const uint8_t node[KEY_BYTES], char name[NAME_SIZE], char association[NAME_SIZE]);
	/* every question's end: figures for the disclosure, never text. May be NULL. */
	void (*answered)(void *arg, const struct route_result *result);
	/* Another node as people write it; ERR_UNKNOWN, ERR_AMBIGUOUS with words. May be NULL, as the next. */
	int (*find_node)(void *arg, const char *name, uint8_t node[KEY_BYTES], char *why, size_t why_size);
	const char *(*gateway)(void *arg);      /* the node that is asked where this one cannot answer; "" none */
	void *arg;
};

int route_new(struct route **out, const struct route_config *config);
void route_free(struct route *route);   /* cancels what runs; no callbacks */
struct gateway;
void route_set_gateway(struct route *route, struct gateway *gateway);   /* gateway.h; NULL: none any more */

struct route_ask {
	uint8_t tenant[KEY_BYTES];      /* of whose earlier questions this one may go on; zeros: of nobody's */
	const char *model;              /* "name", "name@association" or the id's hexadecimal (8 digits or more) */
	bool chat;
	size_t n_messages;              /* 1 when not chat: messages[0].content is the prompt */
	const struct render_message *messages;  /* copied */
	uint32_t max_tokens;            /* 0: as many as the context has room for */
	struct sampling sampling;       /* copied, with what it points to */
	size_t n_stops;
	const char *stops[STOPS_MAX];
	bool logprobs;
	const char *via;                /* have that node answer, whatever this one could do; NULL or "": this one, where it can */
	bool here;                      /* this node or none: somebody else asks us to answer for him */
	/* before any text: the model is found, the prompt is counted */
	void (*on_start)(void *arg, const char *model, uint32_t prompt_tokens);
	/* whole characters; n may be 0 for a token that has no text yet. token: the latest. */
	void (*on_text)(void *arg, const char *text, size_t n, const struct token *token);
	void (*on_end)(void *arg, const struct route_result *result);   /* exactly once, last; never from inside route_ask() */
	void *arg;
};
/* What went wrong at once, route_explain() says in words. */
int route_ask(struct route *route, const struct route_ask *ask, struct route_question **out);
void route_cancel(struct route_question *question);     /* the client went away: no callbacks any more */
void route_stop(struct route_question *question);       /* enough: ends after the next token as after a stop string */
/* Why route_ask() has just answered err for that model: what is missing, how far it has come, what to do. Seconds after which asking
 * again may help; 0: not said. */
uint32_t route_explain(struct route *route, const char *model, int err, char *out, size_t size);
const char *route_why(const struct route *route);       /* of that, what the model's own state does not say; "" nothing */
uint32_t route_seconds_until(const struct route_model *model);  /* until it may be here */
/* Text and tokens by a model of this node, without an answer (text.c): ids, pieces, an embedding. name NULL: the only model there is. */
struct route_text;
int route_text(struct route *route, const char *name, const struct engine_render *render,
	       void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *model, const char *why), void *arg,
	       struct route_text **out);
/* config.text, for text.c */
int route_engine_text(struct route *route, const uint8_t model[KEY_BYTES], const struct engine_render *render,
		      void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *why), void *arg);
void route_text_cancel(struct route_text *text);        /* done() is not called any more */
size_t route_models(struct route *route, struct route_model *out, size_t max);
/* A name as people write it: 0, ERR_UNKNOWN (why names the nearest), ERR_AMBIGUOUS (why lists the candidates). */
int route_find(struct route *route, const char *name, struct route_model *out, char *why, size_t why_size);
void route_tick(struct route *route);   /* about every 250 ms: questions that wait */
/* The plan that a question would get now; for `essaim ring`. */
int route_plan(struct route *route, const uint8_t model[KEY_BYTES], struct ring_plan *plan, char *why, size_t why_size);

struct route_counts { uint64_t questions, failed, prompt_tokens, completion_tokens; size_t running, waiting; };
struct route_counts route_counts(const struct route *route);

/* Text as it is streamed (pure; stops.c): holds back what may become a stop string or is half a character. */
struct stops;
struct stops *stops_new(const char *const *stops, size_t n);
void stops_free(struct stops *stops);
/* Feeds bytes; *out, *n: what may be shown now (valid until the next call). 1: a stop string was found, end here. 0: go on. -ENOMEM, ERR_LIMIT (nothing
 * honest holds back 64 KiB): these bytes are lost, and with them the answer. */
int stops_feed(struct stops *stops, const uint8_t *bytes, size_t length, const char **out, size_t *n);
void stops_flush(struct stops *stops, const char **out, size_t *n);     /* at the end: what was held back */

#endif
