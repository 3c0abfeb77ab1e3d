/* api.h: the OpenAI HTTP API on localhost (DESIGN D17), by libmicrohttpd on the libuv loop (its epoll descriptor).
 *
 *   GET  /v1/models               POST /v1/chat/completions     GET /health   (no key)
 *   GET  /v1/models/{id}          POST /v1/completions          GET /metrics  (key; Prometheus text)
 *   POST /tokenize, /detokenize   POST /v1/embeddings
 *
 * doc/API.md says what each takes and answers.
 *
 * A key is always required ("Authorization: Bearer"), on loopback too; an unknown Host header is refused (DNS rebinding); CORS is off
 * unless origins are configured. Errors are OpenAI's object {"error": {"message", "type", "param", "code"}} with its status codes.
 * A model that is still arriving: 503 with what is downloading and how long it will take, and Retry-After.
 * Limits: body API_BODY_MAX, headers 16 KiB, API_CONNECTIONS_MAX connections, 60 s without a byte from a client that owes one, a
 * bounded queue of text for a client that reads slowly (API_QUEUE_MAX, then the answer is cancelled).
 * A client that goes away cancels its answer. Nothing said is logged. Thread: loop. Owner: main.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef API_API_H
#define API_API_H

#include <uv.h>

#include "daemon/route/route.h"

#define API_BODY_MAX (8u << 20)
#define API_CONNECTIONS_MAX 2200
#define API_QUEUE_MAX (4u << 20)

struct api;
struct api_config {
	uv_loop_t *loop;
	struct route *route;
	const char *host;               /* "127.0.0.1" */
	uint16_t port;                  /* 0: any */
	const char *api_key;
	const char *cors_origins;       /* comma-separated; "" off; "*" any */
	const char *hosts;              /* more Host names to accept, comma-separated; localhost and addresses are known */
	/* Prometheus lines of the other rooms, appended to api's own. May be NULL. */
	void (*metrics)(void *arg, struct buf *out);
	void *arg;
};
int api_open(struct api **out, const struct api_config *config, char *why, size_t why_size);
void api_drain(struct api *api);        /* no new requests (503); what runs goes on */
size_t api_running(const struct api *api);
void api_close(struct api *api, void (*on_closed)(void *arg), void *arg);
uint16_t api_port(const struct api *api);

#endif
