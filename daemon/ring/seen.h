/* seen.h: tickets that were used; each is good once until it expires (DESIGN D5). Pure.
 *
 * Bounded: SEEN_MAX in all and SEEN_HOME_MAX for one home, so that no partner uses up the memory that keeps the others
 * safe. A plain array: one pass over it costs less than verifying the ticket's signature did.
 * Owner: the caller's storage. Thread: one.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef RING_SEEN_H
#define RING_SEEN_H

#include "proto/ticket.h"

#define SEEN_MAX 10000
#define SEEN_HOME_MAX 2500

struct seen_ticket;
struct seen {
	struct seen_ticket *tickets;     /* heap */
	size_t n, capacity;
};

void seen_init(struct seen *seen);
void seen_release(struct seen *seen);

/* Remembers the ticket: 0; ERR_REPLAYED when it was there; ERR_BUSY when there is no room until others expire; -ENOMEM. */
int seen_add(struct seen *seen, const struct ticket *ticket, uint64_t now);

#endif
