/* peers.c: the peers that may exchange pieces, as the torrent session wants them. Numeric addresses count at once; names
 * are resolved beside the loop and count when the answer is there. The answer is kept: the same list said again every few
 * seconds must not drop its names until they are resolved anew.
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
#define NAMES_MAX 32
#define NAME_ADDRESSES_MAX 8
#define NAME_MS 60000                /* an answer is asked for again after so long */

struct name {
	char host[256];
	uint64_t at;                 /* the loop's ms */
	size_t n;
	struct sockaddr_storage list[NAME_ADDRESSES_MAX];
};

struct peers {
	unsigned generation;                 /* of the list; late answers for an older one are dropped */
	size_t n;
	struct sockaddr_storage list[PEERS_MAX];
	size_t n_names;              /* ever kept; the oldest makes room */
	struct name names[NAMES_MAX];
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

static struct name *name_of(struct peers *peers, const char *host)
{
	for (size_t i = 0; i < NAMES_MAX; i++) {
		if (peers->names[i].n && strcmp(peers->names[i].host, host) == 0)
			return &peers->names[i];
	}
	return NULL;
}

static void keep(struct store *store, const char *host, const struct addrinfo *found)
{
	struct name *name = name_of(store->peers, host);

	if (!name)
		name = &store->peers->names[store->peers->n_names++ % NAMES_MAX];
	snprintf(name->host, sizeof name->host, "%s", host);
	name->at = uv_now(store->loop);
	name->n = 0;
	for (; found && name->n < NAME_ADDRESSES_MAX; found = found->ai_next) {
		if (found->ai_addrlen <= sizeof name->list[0])
			memcpy(&name->list[name->n++], found->ai_addr, found->ai_addrlen);
	}
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
	struct resolving *r = request->data;
	struct store *store = r->store;

	store->works--;
	if (status == 0) {
		keep(store, r->host, found);
		for (struct addrinfo *a = found; a && r->generation == store->peers->generation; a = a->ai_next)
			put(store->peers, a->ai_addr, r->port);
		apply(store);
	} else if (status != UV_ECANCELED) {
		log_debug("torrent peer %s: %s", r->host, uv_strerror(status));
	}
	uv_freeaddrinfo(found);
	free(r);
	store_close_step(store);
}

static void resolve(struct store *store, const char *host, uint16_t port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	const struct name *name = name_of(store->peers, host);
	struct resolving *r;

	for (size_t i = 0; name && i < name->n; i++)
		put(store->peers, (const struct sockaddr *)&name->list[i], port);
	if (name && uv_now(store->loop) < name->at + NAME_MS)
		return;
	r = calloc(1, sizeof *r);
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
	struct peers *peers;
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
	peers = store->peers;
	peers->generation++;
	peers->n = 0;
	for (size_t i = 0; i < n; i++) {
		struct sockaddr_in four;
		struct sockaddr_in6 six;
		char host[256];
		uint16_t port;
		int err = split(addresses[i], host, sizeof host, &port);

		if (err)
			bad = err;       /* the others count all the same */
		else if (uv_ip4_addr(host, port, &four) == 0)
			put(peers, (struct sockaddr *)&four, port);
		else if (uv_ip6_addr(host, port, &six) == 0)
			put(peers, (struct sockaddr *)&six, port);
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
