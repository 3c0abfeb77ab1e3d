/* link_server.c: listens, and lets only so many strangers knock at once.
 *
 * A connection counts against its source address until its handshake is done, and a second longer when it failed, so that
 * nobody has us compute handshakes without end; past the limit it is closed at once, before anything is read. Links that are up no longer know the server.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <netinet/in.h>

#include "daemon/link/link_internal.h"
#include "proto/err.h"

#define BACKLOG 128

struct link_server {
	struct link_config config;
	uv_tcp_t tcp;
	uv_tcp_t refused;                  /* takes a connection off the queue that is not wanted, also where there is no memory: else */
	bool refusing, refuse_again;       /* nobody was ever accepted again */
	uint16_t port;
	struct sources sources;
	size_t n_shaking;
	struct link *shaking[LINK_HANDSHAKES_MAX];
	unsigned refs;                     /* the open handles and each handshake */
};

static void server_unref(struct link_server *server)
{
	if (--server->refs == 0)
		free(server);
}

void link_server_handshake_done(struct link *link)
{
	struct link_server *server = link->server;
	if (!server)
		return;
	link->server = NULL;
	sources_give(&server->sources, link->source, link->state != LINK_UP, uv_now(server->config.loop));
	for (size_t i = 0; i < server->n_shaking; i++)
		if (server->shaking[i] == link)
			server->shaking[i] = server->shaking[--server->n_shaking];
	server_unref(server);
}

static void refuse(struct link_server *server);

static void on_refused_closed(uv_handle_t *handle)
{
	struct link_server *server = handle->data;
	server->refusing = false;
	if (server->refuse_again && !uv_is_closing((uv_handle_t *)&server->tcp))
		refuse(server);
	server_unref(server);
}

/* Takes the connection off the kernel's queue and resets it: no memory, no TIME_WAIT. */
static void refuse(struct link_server *server)
{
	server->refuse_again = server->refusing;
	if (server->refusing)
		return;
	server->refusing = true;
	server->refs++;
	uv_tcp_init(server->config.loop, &server->refused);
	server->refused.data = server;
	if (uv_accept((uv_stream_t *)&server->tcp, (uv_stream_t *)&server->refused) || uv_tcp_close_reset(&server->refused, on_refused_closed))
		uv_close((uv_handle_t *)&server->refused, on_refused_closed);
}

static void on_connection(uv_stream_t *stream, int status)
{
	struct link_server *server = stream->data;
	if (status)
		return;
	if (server->n_shaking >= LINK_HANDSHAKES_MAX) {
		refuse(server);
		return;
	}
	struct link *link = link_new(&server->config);
	if (!link) {
		refuse(server);
		return;
	}
	/* Nobody heard of this link yet, and until its handshake is done nobody will. */
	struct sockaddr_storage name;
	int n = sizeof name;
	int err = uv_accept(stream, (uv_stream_t *)&link->tcp);
	if (!err)
		err = uv_tcp_getpeername(&link->tcp, (struct sockaddr *)&name, &n);
	if (!err) {
		link->source = source_of((struct sockaddr *)&name);
		if (!sources_take(&server->sources, link->source, uv_now(server->config.loop)))
			err = ERR_BUSY;
	}
	if (err) {
		link->config.events.on_closed = NULL;
		link_destroy(link);
		return;
	}
	link->server = server;
	server->shaking[server->n_shaking++] = link;   /* sources_take() was true: there is room */
	server->refs++;
	link_connected(link);
}

static int bind_to(struct link_server *server, const char *host, uint16_t port)
{
	struct sockaddr_storage address;
	int err = uv_ip6_addr(host, port, (struct sockaddr_in6 *)&address);
	if (err)
		err = uv_ip4_addr(host, port, (struct sockaddr_in *)&address);
	if (!err)
		err = uv_tcp_bind(&server->tcp, (struct sockaddr *)&address, 0);
	if (!err)
		err = uv_listen((uv_stream_t *)&server->tcp, BACKLOG, on_connection);
	if (!err) {
		int n = sizeof address;
		err = uv_tcp_getsockname(&server->tcp, (struct sockaddr *)&address, &n);
		server->port = ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
								   : ((struct sockaddr_in *)&address)->sin_port);
	}
	return err;
}

static void on_server_closed(uv_handle_t *handle)
{
	server_unref(handle->data);
}

static struct link_server *server_new(const struct link_config *config)
{
	struct link_server *server = calloc(1, sizeof *server);
	if (!server)
		return NULL;
	server->config = *config;
	if (uv_tcp_init(config->loop, &server->tcp)) {
		free(server);
		return NULL;
	}
	server->tcp.data = server;
	server->refs = 1;
	return server;
}

static void explain(int err, const char *host, uint16_t port, char *why, size_t why_size)
{
	if (err == UV_EADDRINUSE)
		snprintf(why, why_size, "port %u at %s is taken by another program: stop it (`ss -ltnp` names it), or set another port under [link] in "
			 "essaim.conf", port, host);
	else if (err == UV_EADDRNOTAVAIL)
		snprintf(why, why_size, "this machine has no address %s: correct `listen` under [link] in essaim.conf (:: is every address)", host);
	else if (err == UV_EACCES)
		snprintf(why, why_size, "port %u is reserved for root: set one from 1024 under [link] in essaim.conf", port);
	else if (err == UV_EINVAL)
		snprintf(why, why_size, "\"%s\" is not an IP address: correct `listen` under [link] in essaim.conf (:: is every address)", host);
	else
		snprintf(why, why_size, "cannot listen for links on %s port %u: %s", host, port, err_str(err));
}

int link_listen(struct link_server **out, const struct link_config *config, const char *host, uint16_t port, char *why, size_t why_size)
{
	*out = NULL;
	struct link_server *server = server_new(config);
	if (!server) {
		snprintf(why, why_size, "no memory to listen for links");
		return UV_ENOMEM;
	}
	int err = bind_to(server, host, port);
	if ((err == UV_EAFNOSUPPORT || err == UV_EADDRNOTAVAIL) && !strcmp(host, "::")) {
		/* A machine without IPv6: every address is then every IPv4 address. */
		uv_close((uv_handle_t *)&server->tcp, on_server_closed);
		server = server_new(config);
		if (!server)
			return UV_ENOMEM;
		err = bind_to(server, "0.0.0.0", port);
	}
	if (err) {
		explain(err, host, port, why, why_size);
		uv_close((uv_handle_t *)&server->tcp, on_server_closed);
		return err;
	}
	*out = server;
	return 0;
}

uint16_t link_server_port(const struct link_server *server)
{
	return server->port;
}

void link_server_close(struct link_server *server)
{
	if (!server || uv_is_closing((uv_handle_t *)&server->tcp))
		return;
	/* The owner may be gone before these are. */
	for (size_t i = 0; i < server->n_shaking; i++) {
		server->shaking[i]->config.events = (struct link_events){0};
		link_destroy(server->shaking[i]);
	}
	uv_close((uv_handle_t *)&server->tcp, on_server_closed);
}
