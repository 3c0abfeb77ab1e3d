/* limits.c: sources, heartbeat and credit. Pure.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/link/limits.h"

#include <netinet/in.h>
#include <string.h>

#include "proto/err.h"

struct source source_of(const struct sockaddr *address)
{
	static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	struct source source = {{0}};

	if (address->sa_family == AF_INET) {
		const struct sockaddr_in *v4 = (const void *)address;
		memcpy(source.bytes, mapped, sizeof mapped);
		memcpy(source.bytes + sizeof mapped, &v4->sin_addr, 4);
	} else if (address->sa_family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const void *)address;
		bool is_v4 = !memcmp(&v6->sin6_addr, mapped, sizeof mapped);
		/* Whoever has one IPv6 address has its whole /64. */
		memcpy(source.bytes, &v6->sin6_addr, is_v4 ? SOURCE_BYTES : 8);
	}
	return source;
}

static void give(struct sources *s, const struct source *source)
{
	for (size_t i = 0; i < s->n; i++) {
		if (memcmp(&s->entries[i].source, source, sizeof *source))
			continue;
		s->open--;
		if (--s->entries[i].open == 0)
			s->entries[i] = s->entries[--s->n];
		return;
	}
}

bool sources_take(struct sources *s, struct source source, uint64_t now)
{
	for (size_t i = s->n_failed; i-- > 0;)
		if (now >= s->failed[i].until) {
			give(s, &s->failed[i].source);
			s->failed[i] = s->failed[--s->n_failed];
		}
	if (s->open >= LINK_HANDSHAKES_MAX)
		return false;
	size_t i = 0;
	while (i < s->n && memcmp(&s->entries[i].source, &source, sizeof source))
		i++;
	if (i == s->n) {
		/* n <= open < LINK_HANDSHAKES_MAX: an entry has at least one open handshake */
		s->entries[s->n].source = source;
		s->entries[s->n++].open = 0;
	}
	if (s->entries[i].open >= LINK_HANDSHAKES_PER_SOURCE)
		return false;
	s->entries[i].open++;
	s->open++;
	return true;
}

void sources_give(struct sources *s, struct source source, bool failed, uint64_t now)
{
	if (!failed) {
		give(s, &source);
		return;
	}
	/* one of the open ones: n_failed < open <= LINK_HANDSHAKES_MAX */
	s->failed[s->n_failed].source = source;
	s->failed[s->n_failed++].until = now + SOURCE_FAILED_MS;
}

void heartbeat_init(struct heartbeat *h, uint64_t now)
{
	/* pinged_at lies back so that the first tick pings: the round trip is known early. */
	*h = (struct heartbeat){.heard_at = now, .pinged_at = now >= HEARTBEAT_PING_MS ? now - HEARTBEAT_PING_MS : 0, .moved_at = now};
}

void heartbeat_heard(struct heartbeat *h, uint64_t now)
{
	h->heard_at = now;
}

void heartbeat_waits(struct heartbeat *h, uint64_t now)
{
	if (h->waiting)
		return;
	h->waiting = true;
	h->moved_at = now;
}

void heartbeat_moved(struct heartbeat *h, uint64_t now, bool still_waiting)
{
	h->moved_at = now;
	h->waiting = still_waiting;
}

enum heartbeat_action heartbeat_tick(struct heartbeat *h, uint64_t now)
{
	if (now >= h->heard_at + HEARTBEAT_SILENCE_MS)
		return HEARTBEAT_SILENT;
	if (h->waiting && now >= h->moved_at + HEARTBEAT_STALL_MS)
		return HEARTBEAT_STALLED;
	if (now < h->pinged_at + HEARTBEAT_PING_MS)
		return HEARTBEAT_NONE;
	h->pinged_at = now;
	return HEARTBEAT_PING;
}

int credit_init(struct credit *c, uint64_t window)
{
	/* A quarter of the window may be consumed without our being told. */
	if (window / 4 * 3 < FRAME_MAX || window > UINT32_MAX)
		return ERR_UNSUPPORTED;
	*c = (struct credit){.window = window, .allowed = window};
	return 0;
}

bool credit_may_send(const struct credit *c, size_t n)
{
	return n <= c->allowed - c->sent;
}

bool credit_is_due(const struct credit *c)
{
	return c->consumed - c->granted >= CREDIT_STEP;
}

void credit_told(struct credit *c)
{
	c->granted = c->consumed;
}

int credit_received(struct credit *c, uint64_t total)
{
	uint64_t already = c->allowed - c->window;
	if (total > c->sent || total < already)
		return ERR_MALFORMED;
	c->allowed = total + c->window;
	return 0;
}
