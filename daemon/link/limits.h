/* limits.h: the rules of a link that need neither socket nor clock (DESIGN D16): how many handshakes one source address
 * may have open, when to ping, when to give up.
 *
 * Times are milliseconds of any monotonic clock, given by the caller. Owner: the caller's storage. Thread: one at a time.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef LINK_LIMITS_H
#define LINK_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "daemon/link/link.h"

#define HEARTBEAT_PING_MS 5000
#define HEARTBEAT_SILENCE_MS 15000
#define HEARTBEAT_STALL_MS 15000

/* --- open handshakes by source ------------------------------------------------------------------- */

#define SOURCE_BYTES 16
struct source {
	uint8_t bytes[SOURCE_BYTES];       /* an IPv4 address as ::ffff:a.b.c.d; of IPv6 the first 64 bits */
};
#define SOURCE_FAILED_MS 1000              /* a place is kept taken that long behind a handshake that failed: 8 a second each */
struct sources {
	size_t n, open;                    /* entries in use; handshakes in all */
	struct {
		struct source source;
		unsigned open;
	} entries[LINK_HANDSHAKES_MAX];
	size_t n_failed;
	struct {
		struct source source;
		uint64_t until;
	} failed[LINK_HANDSHAKES_MAX];     /* places that nobody has, but for a moment nobody gets */
};

struct source source_of(const struct sockaddr *address);
bool sources_take(struct sources *s, struct source source, uint64_t now);     /* false: too many, close it */
/* Once for each take that was true, when the handshake is over. */
void sources_give(struct sources *s, struct source source, bool failed, uint64_t now);

/* --- heartbeat ----------------------------------------------------------------------------------- */

struct heartbeat {
	uint64_t heard_at;                 /* the last valid message of the other side: bytes alone do not count */
	uint64_t pinged_at;
	uint64_t moved_at;                 /* the last time that what waits to be sent became less */
	bool waiting;                      /* something waits to be sent */
};
enum heartbeat_action { HEARTBEAT_NONE, HEARTBEAT_PING, HEARTBEAT_SILENT, HEARTBEAT_STALLED };

void heartbeat_init(struct heartbeat *h, uint64_t now);
void heartbeat_heard(struct heartbeat *h, uint64_t now);
void heartbeat_waits(struct heartbeat *h, uint64_t now);          /* something was put into the queue */
void heartbeat_moved(struct heartbeat *h, uint64_t now, bool still_waiting);
enum heartbeat_action heartbeat_tick(struct heartbeat *h, uint64_t now);      /* PING: it counts as sent */

/* --- credit -------------------------------------------------------------------------------------- */

/* Both directions of one link. Bytes of frames of type 16 and above count; the link's own frames do not, so that a
 * CREDIT can always be sent. A frame is begun only when the whole of it fits. */
struct credit {
	uint64_t window;                   /* how much the other side lets us have unread there */
	uint64_t sent, allowed;            /* to the other side, since the link came up */
	uint64_t consumed, granted;        /* from it: what our consumer has read; what it was told of that */
};
#define CREDIT_STEP (LINK_WINDOW / 4)      /* tell of what was consumed after this much */

/* ERR_UNSUPPORTED for a window that the largest frame might not get through. */
int credit_init(struct credit *c, uint64_t window);
bool credit_may_send(const struct credit *c, size_t n);
bool credit_is_due(const struct credit *c);                       /* then send `consumed` and call credit_told() */
void credit_told(struct credit *c);
/* The other side says that it has consumed so much in all: 0, or ERR_MALFORMED when that cannot be. */
int credit_received(struct credit *c, uint64_t total);

#endif
