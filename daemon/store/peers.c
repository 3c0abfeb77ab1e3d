/* peers.c: the peers that may exchange pieces, as the torrent session wants them. Numeric addresses count at once; names
 * are resolved beside the loop, and count when the answer is there.
 *
 * Thread: loop. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/store/catalog.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/log.h"

#define PEERS_MAX 1024

struct peers {
	unsigned generation;                 /* of the list; late answers for an older one are dropped */
	size_t n;
	struct sockaddr_storage list[PEERS_MAX];
};

struct resolving {
	uv_getaddrinfo_t request;
	struct store *store;
	unsigned generation;
	uint16_t port;
	char host[256];
};

static void put(struct peers *peers, const struct sockaddr *address, uint16_t port)
{
	struct sockaddr_storage *at = &peers->list[peers->n];

	if (peers->n == PEERS_MAX)
		return;
	memset(at, 0, sizeof *at);
	if (address->sa_family == AF_INET) {
		memcpy(at, address, sizeof(struct sockaddr_in));
		((struct sockaddr_in *)at)->sin_port = htons(port);
	} else if (address->sa_family == AF_INET6) {
		memcpy(at, address, sizeof(struct sockaddr_in6));
		((struct sockaddr_in6 *)at)->sin6_port = htons(port);
	} else {
		return;
	}
	peers->n++;
}

static void apply(struct store *store)
{
	if (store->torrents && store->phase == STORE_OPEN)
		torrent_session_set_peers(store->torrents, store->peers->list, store->peers->n);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
	struct resolving *r = request->data;
	struct store *store = r->store;

	store->works--;
	if (status == 0 && r->generation == store->peers->generation) {
		for (struct addrinfo *a = found; a; a = a->ai_next)
			put(store->peers, a->ai_addr, r->port);
		apply(store);
	} else if (status != 0 && status != UV_ECANCELED) {
		log_debug("torrent peer %s: %s", r->host, uv_strerror(status));
	}
	uv_freeaddrinfo(found);
	free(r);
	store_close_step(store);
}

static void resolve(struct store *store, const char *host, uint16_t port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
	struct resolving *r = calloc(1, sizeof *r);

	if (!r)
		return;
	r->request.data = r;
	r->store = store;
	r->generation = store->peers->generation;
	r->port = port;
	snprintf(r->host, sizeof r->host, "%s", host);
	if (uv_getaddrinfo(store->loop, &r->request, on_resolved, r->host, NULL, &hints) != 0)
		free(r);
	else
		store->works++;
}

/* "host:port", "[v6]:port": the two halves. */
static int split(const char *text, char *host, size_t size, uint16_t *port)
{
	const char *colon = strrchr(text, ':'), *from = text;
	char *end;
	size_t n;
	unsigned long number;

	if (!colon || colon == text)
		return ERR_MALFORMED;
	n = (size_t)(colon - text);
	if (text[0] == '[') {
		if (n < 3 || text[n - 1] != ']')
			return ERR_MALFORMED;
		from++;
		n -= 2;
	}
	number = strtoul(colon + 1, &end, 10);
	if (*end || end == colon + 1 || number > UINT16_MAX || n >= size)
		return ERR_MALFORMED;
	memcpy(host, from, n);
	host[n] = 0;
	*port = (uint16_t)number;
	return 0;
}

int store_set_peers(struct store *store, const char *const *addresses, size_t n)
{
	int bad = 0;

	if (store->phase != STORE_OPEN)
		return ERR_CANCELLED;
	if (n > PEERS_MAX)
		return ERR_LIMIT;
	if (!store->peers) {
		store->peers = calloc(1, sizeof *store->peers);
		if (!store->peers)
			return -ENOMEM;
	}
	store->peers->generation++;
	store->peers->n = 0;
	for (size_t i = 0; i < n; i++) {
		struct sockaddr_in four;
		struct sockaddr_in6 six;
		char host[256];
		uint16_t port;
		int err = split(addresses[i], host, sizeof host, &port);

		if (err)
			bad = err;       /* the others count all the same */
		else if (uv_ip4_addr(host, port, &four) == 0)
			put(store->peers, (struct sockaddr *)&four, port);
		else if (uv_ip6_addr(host, port, &six) == 0)
			put(store->peers, (struct sockaddr *)&six, port);
		else
			resolve(store, host, port);
	}
	apply(store);
	return bad;
}

void peers_release(struct store *store)
{
	free(store->peers);
	store->peers = NULL;
}
