/* link_dial.c: from "host:port" to a connection: resolves names, tries what they stand for one after the other.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <netinet/in.h>

#include "daemon/link/link_internal.h"
#include "proto/err.h"
#include "proto/text.h"

/* Names are looked up on the loop's few worker threads, which others need, too: a card full of names that nobody answers for
 * must not take them all. Loop thread only. */
#define RESOLVING_MAX 2
static unsigned resolving;

static void connect_next(struct link *link);

/* A TCP handle whose connect failed cannot be used again: it makes place for a new one. */
static void on_tcp_reopened(uv_handle_t *handle)
{
	struct link *link = handle->data;
	if (link->state == LINK_CLOSED) {
		link_done(link);
		return;
	}
	int err = uv_tcp_init(link->config.loop, &link->tcp);
	link->tcp.data = link;
	link->reopening = false;
	if (err)
		link_fail(link, err, "no connection to %s: %s", link->target, err_str(err));
	else
		connect_next(link);
}

static void attempt_failed(struct link *link, int err)
{
	if (link->next_resolved < link->n_resolved) {
		link->reopening = true;
		uv_close((uv_handle_t *)&link->tcp, on_tcp_reopened);
		return;
	}
	const char *hint = err == UV_ECONNREFUSED ? " (nothing listens there: is the other node running, and is that its port?)"
		: err == UV_EHOSTUNREACH || err == UV_ENETUNREACH ? " (no route: is it on the network, and is the address right?)"
		: "";
	link_fail(link, err, "%s at %s%s", err_str(err), link->target, hint);
}

static void on_connect(uv_connect_t *request, int status)
{
	struct link *link = request->data;
	if (link->state == LINK_CONNECTING) {
		if (status)
			attempt_failed(link, status);
		else
			link_connected(link);
	}
	link_done(link);
}

static void connect_next(struct link *link)
{
	link->state = LINK_CONNECTING;
	const struct sockaddr *to = (const void *)&link->resolved[link->next_resolved++];
	address_text(to, link->address, sizeof link->address);
	uv_timer_start(&link->timer, link_on_timer, HANDSHAKE_MS, 0);
	int err = uv_tcp_connect(&link->connect, &link->tcp, to, on_connect);
	if (err)
		attempt_failed(link, err);
	else
		link->pending++;
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
	struct link *link = request->data;
	resolving--;
	if (link->state == LINK_RESOLVING) {
		for (struct addrinfo *i = status ? NULL : list; i && link->n_resolved < RESOLVED_MAX; i = i->ai_next)
			memcpy(&link->resolved[link->n_resolved++], i->ai_addr, i->ai_addrlen);
		if (link->n_resolved)
			connect_next(link);
		else
			link_fail(link, status ? status : UV_EAI_NONAME, "the name in %s is not known (%s): is it spelt right, and does this machine's "
				  "DNS work?", link->target, status ? uv_strerror(status) : "no address");
	}
	uv_freeaddrinfo(list);
	link_done(link);
}

/* An address in figures needs no resolver: it is tried in the next turn of the loop, so that no callback comes before
 * link_dial() has returned. */
static void on_first_turn(uv_idle_t *idle)
{
	struct link *link = idle->data;
	uv_idle_stop(idle);
	if (link->state == LINK_RESOLVING)
		connect_next(link);
}

static int resolve(struct link *link, const char *host, uint16_t port)
{
	struct sockaddr_storage *first = &link->resolved[0];
	if (!uv_ip4_addr(host, port, (struct sockaddr_in *)first) || !uv_ip6_addr(host, port, (struct sockaddr_in6 *)first)) {
		link->n_resolved = 1;
		return uv_idle_start(&link->flush, on_first_turn);
	}
	if (resolving >= RESOLVING_MAX)
		return UV_EAGAIN;
	char service[8];
	snprintf(service, sizeof service, "%u", port);
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG};
	int err = uv_getaddrinfo(link->config.loop, &link->resolve, on_resolved, host, service, &hints);
	if (!err) {
		link->pending++;
		resolving++;
	}
	return err;
}

/* The link of an address; nothing of it is sent before the next turn of the loop. */
static int prepare(struct link **out, const struct link_config *config, const char *address, const uint8_t *remote_link_key)
{
	char host[ADDRESS_HOST_SIZE];
	uint16_t port;
	*out = NULL;
	int err = address_split(address, host, &port);
	if (err)
		return err;
	struct link *link = link_new(config);
	if (!link)
		return UV_ENOMEM;
	link->dialled = true;
	link->kind = LINK_BULK;
	link->state = LINK_RESOLVING;
	text_copy(link->target, sizeof link->target, address);
	if (remote_link_key)
		memcpy(link->remote_link_key, remote_link_key, KEY_BYTES);
	err = resolve(link, host, port);
	if (err) {
		link->config.events.on_closed = NULL;
		link_destroy(link);
		return err;
	}
	*out = link;
	return 0;
}

int link_dial(struct link **out, const struct link_config *config, const char *address, const uint8_t remote_link_key[KEY_BYTES],
	      enum link_kind kind, const uint8_t *psk, const uint8_t *invitation)
{
	int err = prepare(out, config, address, remote_link_key);
	if (err)
		return err;
	struct link *link = *out;
	link->kind = kind;
	if (psk)
		memcpy(link->psk, psk, sizeof link->psk);
	if (invitation) {
		link->invited = true;
		memcpy(link->invitation, invitation, sizeof link->invitation);
	}
	return 0;
}

int link_probe(struct link **out, const struct link_config *config, const char *address, const uint8_t *remote_link_key)
{
	int err = prepare(out, config, address, remote_link_key);
	if (!err) {
		(*out)->probe = true;
		(*out)->probe_tcp = !remote_link_key;
	}
	return err;
}
