/* api_world.h: the HTTP API over real sockets, in front of a route that is a script.
 *
 *      client (raw socket) --- daemon/api on a libuv loop --- route_ask() of api_world.c: the test says what is answered, and when
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_API_WORLD_H
#define TESTS_API_WORLD_H

#include "daemon/api/api_internal.h"

#define KEY "sk-essaim-test"
#define CHAT "/v1/chat/completions"
#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"Bonjour\"}]"
#define ASK "{\"model\":\"histoires\"," MESSAGES

struct route_question {
	struct route_ask ask;
	bool cancelled, over;
};

struct route_text {
	struct engine_render render;           /* its views last for the call only: */
	char content[256];
	uint32_t ids[8];
	void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *model, const char *why);
	void *arg;
	bool named, cancelled;
};

struct route {
	size_t n_texts;
	struct route_text texts[8];
	int err;                               /* what route_ask() answers */
	size_t busy_from;                      /* 0, or how many questions there is room for */
	size_t n, cancelled, over;             /* questions asked; of them cancelled, ended */
	struct route_question questions[64];
	/* of the last question, copied: the views last for the call only */
	char model[128], role[16], content[512], stop[STOPS_MAX][32];
	size_t n_messages, content_length;
	struct route_model models[2];
};
extern struct route the_route;

struct world {
	uv_loop_t loop;
	uv_timer_t wake;                       /* so that waiting looks at its sockets now and then */
	struct api *api;
	bool closed;
};

struct client {
	int fd;
	struct buf in;
	bool closed;
};

void say(struct route_question *q, const char *text);
/* A token with its text, as it is shown; shown NULL: held back. */
void say_token(struct route_question *q, const char *shown, const struct token *token);
void end(struct route_question *q, int err, const char *detail);
/* cors, hosts: as configured */
struct world *new_world_with(const char *cors, const char *hosts);
struct world *new_world(void);
void free_world(struct world *w);
struct client *dial(struct world *w);
void head_into(char *out, size_t size, const char *what, size_t length);
void turn(struct world *w, uint64_t since);
void hang_up(struct client *c);
void send_bytes(struct world *w, struct client *c, const void *bytes, size_t n);
void send_text(struct world *w, struct client *c, const char *text);
bool has(struct client *c, const char *text);
void await(struct world *w, struct client *c, const char *text);
void await_question(struct world *w, size_t n);
void await_closing(struct world *w, struct client *c);
unsigned status_of(struct client *c);
/* The body of an answer with a length, once it is all here. */
yyjson_doc *json_of(struct world *w, struct client *c);
struct client *get(struct world *w, const char *what);
struct client *post_bytes(struct world *w, const char *path, const void *body, size_t n);
struct client *post(struct world *w, const char *path, const char *body);
const char *at(yyjson_doc *doc, const char *pointer);
/* Posts, expects the status and the error's param (NULL: none) and code, and nothing asked. */
void must_refuse(const char *path, const char *body, unsigned status, const char *param, const char *code);
/* All events of a stream, chunked transfer taken off; the i-th one's JSON. */
char *events_of(struct client *c);
yyjson_doc *event(const char *events, size_t i);

#endif
