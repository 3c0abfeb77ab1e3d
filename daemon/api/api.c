/* libmicrohttpd on the libuv loop.
 *
 * MHD's own epoll descriptor is watched by a uv_poll; its timeout drives a uv_timer; a uv_prepare runs it once more before the loop sleeps when
 * something was resumed, so that a token leaves in the turn in which it came. A request is suspended while it waits for the ring, and a stream while it
 * waits for tokens. MHD does not look at a suspended connection's socket, so a timer looks whether its client is still there.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/api/api_internal.h"
#include "proto/log.h"
#include "proto/text.h"

#define CLIENT_SILENCE_S 60
#define CLIENT_LOOK_MS 250
#define CONNECTION_MEMORY (24u << 10)     /* MHD's pool for one connection: bounds the headers */
#define STREAM_BLOCK 4096

/* --- MHD and the loop ------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer)
{
	struct api *api = timer->data;
	api->run_due = true;
}

static void schedule(struct api *api)
{
	MHD_UNSIGNED_LONG_LONG ms;
	api->run_due = false;
	MHD_run(api->mhd);
	if (MHD_get_timeout(api->mhd, &ms) == MHD_YES)
		uv_timer_start(&api->timer, on_timer, ms, 0);
	else
		uv_timer_stop(&api->timer);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	struct api *api = poll->data;
	if (!api->closing)
		schedule(api);
}

static void on_prepare(uv_prepare_t *prepare)
{
	struct api *api = prepare->data;
	/* MHD_run() may resume further connections: a few rounds, then the loop gets its turn. */
	for (int i = 0; i < 4 && api->run_due && !api->closing; i++)
		schedule(api);
}

void api_resume(struct request *r)
{
	if (!r->suspended)
		return;
	r->suspended = false;
	MHD_resume_connection(r->connection);
	r->api->run_due = true;
}

void api_suspend(struct request *r)
{
	r->suspended = true;
	MHD_suspend_connection(r->connection);
}

/* --- responses --------------------------------------------------------------------------------------- */

static void common_headers(struct request *r, struct MHD_Response *response)
{
	const char *origins = r->api->config.cors_origins;
	const char *origin = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Origin");
	if (origin && origins && *origins) {
		bool allowed = !strcmp(origins, "*");
		for (const char *p = origins; *p && !allowed;) {
			size_t n = strcspn(p, ", ");
			allowed = n && n == strlen(origin) && !strncmp(p, origin, n);
			p += n + strspn(p + n, ", ");
		}
		if (allowed) {
			MHD_add_response_header(response, "Access-Control-Allow-Origin", !strcmp(origins, "*") ? "*" : origin);
			MHD_add_response_header(response, "Access-Control-Allow-Headers", "Authorization, Content-Type");
			MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
			MHD_add_response_header(response, "Vary", "Origin");
		}
	}
	MHD_add_response_header(response, "Cache-Control", "no-store");
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
}

enum MHD_Result api_reply(struct request *r, unsigned status, const char *type, const struct buf *body)
{
	static char no_memory[] = "{\"error\":{\"message\":\"" ROUTE_NO_MEMORY "\",\"type\":\"server_error\",\"param\":null,\"code\":\"internal_error\"}}";
	if (body->lost) {                        /* half of it is not to be taken for the whole */
		status = 500;
		type = "application/json";
	}
	struct MHD_Response *response = body->lost ? MHD_create_response_from_buffer(sizeof no_memory - 1, no_memory, MHD_RESPMEM_PERSISTENT)
						   : MHD_create_response_from_buffer(body->length, body->data, MHD_RESPMEM_MUST_COPY);
	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	common_headers(r, response);
	if (status == 401)
		MHD_add_response_header(response, "WWW-Authenticate", "Bearer realm=\"essaim\"");
	if (r->error.retry_after) {
		char text[16];
		snprintf(text, sizeof text, "%u", r->error.retry_after);
		MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, text);
	}
	r->answering = true;
	r->api->counts[status / 100 % 6]++;
	enum MHD_Result ok = MHD_queue_response(r->connection, status, response);
	MHD_destroy_response(response);
	return ok;
}

enum MHD_Result api_reply_error(struct request *r)
{
	struct buf text;
	buf_init(&text, 64 << 10);
	api_error_json(&r->error, &text);
	enum MHD_Result ok = api_reply(r, r->error.status, "application/json", &text);
	buf_release(&text);
	return ok;
}

static ssize_t on_stream_read(void *arg, uint64_t position, char *out, size_t max)
{
	(void)position;
	struct request *r = arg;
	if (r->out.lost)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (r->out.length) {
		size_t n = r->out.length < max ? r->out.length : max;
		memcpy(out, r->out.data, n);
		buf_consume(&r->out, n);
		return (ssize_t)n;
	}
	if (r->ended)
		return r->gone ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
	api_suspend(r);
	return 0;
}

enum MHD_Result api_reply_stream(struct request *r)
{
	struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, on_stream_read, r, NULL);
	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream; charset=utf-8");
	common_headers(r, response);
	r->answering = true;
	r->api->counts[2]++;
	enum MHD_Result ok = MHD_queue_response(r->connection, 200, response);
	MHD_destroy_response(response);
	return ok;
}

/* --- who may ask --------------------------------------------------------------------------------------- */

/* A name that resolves to us in an attacker's DNS must not reach us: only addresses, localhost and configured names. */
static bool host_is_ours(const struct api *api, const char *host)
{
	char name[256];
	struct in6_addr any;
	size_t n;
	if (!host)
		return false;
	if (host[0] == '[') {
		host++;
		n = strcspn(host, "]");
	} else {
		n = strcspn(host, ":");
	}
	if (!n || n >= sizeof name)
		return false;
	memcpy(name, host, n);
	name[n] = 0;
	if (inet_pton(AF_INET, name, &any) == 1 || inet_pton(AF_INET6, name, &any) == 1 || !strcasecmp(name, "localhost") ||
	    !strcasecmp(name, api->config.host))
		return true;
	for (const char *p = api->config.hosts ? api->config.hosts : ""; *p;) {
		size_t k = strcspn(p, ", ");
		if (k == n && !strncasecmp(p, name, k))
			return true;
		p += k + strspn(p + k, ", ");
	}
	return false;
}

static bool key_is_right(const struct api *api, const char *given)
{
	const char *key = api->config.api_key;
	if (!given || strncasecmp(given, "Bearer ", 7))
		return false;
	given += 7;
	size_t n = strlen(key);
	return n && strlen(given) == n && !sodium_memcmp(given, key, n);
}

/* True when the request may go on; otherwise error is filled. */
static bool admit(struct request *r, const char *url, const char *method)
{
	struct api *api = r->api;
	if (!host_is_ours(api, MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Host"))) {
		api_error_set(&r->error, 403, "invalid_request_error", "host_not_allowed", NULL,
			      "this node does not answer to that Host name; if it is yours, put it into [http] hosts of essaim.conf");
		return false;
	}
	if (!strcmp(url, "/health") || !strcmp(method, "OPTIONS"))
		return true;
	if (!key_is_right(api, MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Authorization"))) {
		api_error_set(&r->error, 401, "invalid_request_error", "invalid_api_key", NULL,
			      "an API key is needed: send \"Authorization: Bearer KEY\" with the key in keys/api.key of the node's home folder");
		return false;
	}
	const char *length = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Content-Length");
	if (length && strtoull(length, NULL, 10) > API_BODY_MAX) {
		api_error_set(&r->error, 413, "invalid_request_error", "too_large", NULL, "a request has at most %u MiB", API_BODY_MAX >> 20);
		return false;
	}
	return true;
}

/* 0: none of them. llama-server has the first two without a version. */
static enum api_kind text_kind(const char *url)
{
	if (!strcmp(url, "/v1/embeddings"))
		return API_EMBEDDINGS;
	url += strncmp(url, "/v1/", 4) ? 0 : 3;
	return !strcmp(url, "/tokenize") ? API_TOKENIZE : !strcmp(url, "/detokenize") ? API_DETOKENIZE : 0;
}

static enum MHD_Result dispatch(struct request *r, const char *url, const char *method)
{
	bool get = !strcmp(method, "GET") || !strcmp(method, "HEAD"), post = !strcmp(method, "POST");
	bool chat = !strcmp(url, "/v1/chat/completions");
	struct buf empty = {0};
	if (r->too_large) {
		api_error_set(&r->error, 413, "invalid_request_error", "too_large", NULL, "a request has at most %u MiB", API_BODY_MAX >> 20);
		return api_reply_error(r);
	}
	if (!strcmp(method, "OPTIONS"))
		return api_reply(r, 204, "text/plain", &empty);
	enum api_kind text = text_kind(url);
	if (chat || !strcmp(url, "/v1/completions")) {
		if (post)
			return api_ask(r, chat);
	} else if (text) {
		if (post)
			return api_text(r, text);
	} else if (!strcmp(url, "/v1/models")) {
		if (get)
			return api_get_models(r, NULL);
	} else if (!strncmp(url, "/v1/models/", 11) && url[11]) {
		if (get)
			return api_get_models(r, url + 11);
	} else if (!strcmp(url, "/health")) {
		if (get)
			return api_get_health(r);
	} else if (!strcmp(url, "/metrics")) {
		if (get)
			return api_get_metrics(r);
	} else {
		api_error_set(&r->error, 404, "invalid_request_error", "not_found", NULL,
			      "there is no such resource here; there are /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings, "
			      "/tokenize, /detokenize, /health and /metrics");
		return api_reply_error(r);
	}
	api_error_set(&r->error, 405, "invalid_request_error", "method_not_allowed", NULL, "that resource takes %s",
		      chat || text || !strcmp(url, "/v1/completions") ? "POST" : "GET");
	return api_reply_error(r);
}

/* --- MHD's callbacks ------------------------------------------------------------------------------------ */

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
				  const char *upload, size_t *upload_size, void **state)
{
	struct api *api = cls;
	struct request *r = *state;
	(void)version;
	if (!r) {
		r = calloc(1, sizeof *r);
		if (!r)
			return MHD_NO;
		r->api = api;
		r->connection = connection;
		buf_init(&r->body, API_BODY_MAX);
		buf_init(&r->out, API_OUT_MAX);
		r->next = api->requests;
		api->requests = r;
		*state = r;
		return admit(r, url, method) ? MHD_YES : api_reply_error(r);
	}
	if (r->answering)
		return MHD_YES;
	if (*upload_size) {
		if (!r->too_large && buf_append(&r->body, upload, *upload_size)) {
			r->too_large = true;
			buf_release(&r->body);
		}
		*upload_size = 0;
		return MHD_YES;
	}
	return r->asked ? api_answer(r) : dispatch(r, url, method);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode why)
{
	struct api *api = cls;
	struct request *r = *state;
	(void)connection;
	(void)why;
	if (!r)
		return;
	*state = NULL;
	r->suspended = false;
	api_forget(r);
	for (struct request **at = &api->requests; *at; at = &(*at)->next)
		if (*at == r) {
			*at = r->next;
			break;
		}
	buf_release(&r->body);
	buf_release(&r->out);
	free(r);
}

static void on_look(uv_timer_t *timer)
{
	struct api *api = timer->data;
	/* When accept() finds no descriptor, MHD looks at its socket again in the first run after a connection has ended, of which nothing tells us. */
	api->run_due = true;
	for (struct request *r = api->requests; r; r = r->next) {
		if (!r->suspended)
			continue;
		const union MHD_ConnectionInfo *info = MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
		char byte;
		ssize_t n = info ? recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) : 1;
		if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)))
			continue;
		r->gone = true;
		api_stop(r);
		api_resume(r);
	}
}

static void on_mhd_log(void *arg, const char *format, va_list ap)
{
	(void)arg;
	(void)format;
	(void)ap;                                /* may quote what a client sent (D18) */
}

/* --- opening and closing -------------------------------------------------------------------------------- */

static int listen_on(const struct api_config *config, char *why, size_t why_size)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
	char port[8];
	snprintf(port, sizeof port, "%u", config->port);
	int err = getaddrinfo(config->host, port, &hints, &list);
	if (err) {
		snprintf(why, why_size, "[http] listen = %s is no address: %s", config->host, gai_strerror(err));
		return -EINVAL;
	}
	int fd = socket(list->ai_family, list->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) || listen(fd, 512)) {
		err = -errno;
		snprintf(why, why_size, "HTTP cannot listen on %s port %u: %s%s", config->host, config->port, strerror(errno),
			 err == -EADDRINUSE ? " (another program uses it: choose another [http] port in essaim.conf, or 0 for any)" : "");
		if (fd >= 0)
			close(fd);
		fd = err;
	}
	freeaddrinfo(list);
	return fd;
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct api *api = handle->data;
	if (--api->open_handles)
		return;
	void (*on_closed)(void *) = api->on_closed;
	void *arg = api->on_closed_arg;
	free(api);
	if (on_closed)
		on_closed(arg);
}

int api_open(struct api **out, const struct api_config *config, char *why, size_t why_size)
{
	struct api *api = calloc(1, sizeof *api);
	if (!api)
		return -ENOMEM;
	api->config = *config;
	int fd = listen_on(config, why, why_size);
	if (fd < 0) {
		free(api);
		return fd;
	}
	struct sockaddr_storage address;
	socklen_t size = sizeof address;
	getsockname(fd, (struct sockaddr *)&address, &size);
	api->port = ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port : ((struct sockaddr_in *)&address)->sin_port);
	api->mhd = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, api,
				    MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
				    api, MHD_OPTION_CONNECTION_LIMIT, (unsigned)API_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
				    (unsigned)CLIENT_SILENCE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_END);
	const union MHD_DaemonInfo *info = api->mhd ? MHD_get_daemon_info(api->mhd, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info) {
		snprintf(why, why_size, "the HTTP server cannot be started (too few descriptors? see ulimit -n)");
		if (api->mhd)
			MHD_stop_daemon(api->mhd);
		else
			close(fd);
		free(api);
		return -EMFILE;
	}
	uv_poll_init(config->loop, &api->poll, info->epoll_fd);
	uv_timer_init(config->loop, &api->timer);
	uv_timer_init(config->loop, &api->look);
	uv_prepare_init(config->loop, &api->prepare);
	api->poll.data = api->timer.data = api->look.data = api->prepare.data = api;
	api->open_handles = 4;
	uv_poll_start(&api->poll, UV_READABLE, on_poll);
	uv_timer_start(&api->look, on_look, CLIENT_LOOK_MS, CLIENT_LOOK_MS);
	uv_prepare_start(&api->prepare, on_prepare);
	*out = api;
	return 0;
}

void api_drain(struct api *api)
{
	api->draining = true;
}

size_t api_running(const struct api *api)
{
	return api->running;
}

uint16_t api_port(const struct api *api)
{
	return api->port;
}

void api_close(struct api *api, void (*on_closed)(void *arg), void *arg)
{
	api->closing = true;
	api->on_closed = on_closed;
	api->on_closed_arg = arg;
	for (struct request *r = api->requests; r; r = r->next) {
		r->gone = true;
		api_stop(r);
		api_resume(r);
	}
	MHD_run(api->mhd);                       /* lets the resumed connections notice; stop wants none suspended */
	uv_poll_stop(&api->poll);
	MHD_stop_daemon(api->mhd);
	uv_close((uv_handle_t *)&api->poll, on_handle_closed);
	uv_close((uv_handle_t *)&api->timer, on_handle_closed);
	uv_close((uv_handle_t *)&api->look, on_handle_closed);
	uv_close((uv_handle_t *)&api->prepare, on_handle_closed);
}
