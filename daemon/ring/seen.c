/* seen.c: tickets that were used.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/ring/seen.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct seen_ticket {
	uint8_t session[SESSION_BYTES];
	uint8_t home[8];                 /* of the key; enough to share memory out */
	uint32_t epoch, stage;
	uint64_t expires;
};

void seen_init(struct seen *seen)
{
	*seen = (struct seen){0};
}

void seen_release(struct seen *seen)
{
	free(seen->tickets);
	seen_init(seen);
}

int seen_add(struct seen *seen, const struct ticket *ticket, uint64_t now)
{
	size_t of_home = 0;
	for (size_t i = 0; i < seen->n;) {
		struct seen_ticket *old = &seen->tickets[i];
		if (old->expires <= now) {
			*old = seen->tickets[--seen->n];
			continue;
		}
		if (!memcmp(old->home, ticket->home, sizeof old->home)) {
			of_home++;
			if (old->epoch == ticket->epoch && old->stage == ticket->stage && !memcmp(old->session, ticket->session, SESSION_BYTES))
				return ERR_REPLAYED;
		}
		i++;
	}
	if (seen->n == SEEN_MAX || of_home >= SEEN_HOME_MAX)
		return ERR_BUSY;
	if (seen->n == seen->capacity) {
		size_t capacity = seen->capacity ? seen->capacity * 2 : 16;
		struct seen_ticket *tickets = realloc(seen->tickets, capacity * sizeof *tickets);
		if (!tickets)
			return -ENOMEM;
		seen->tickets = tickets;
		seen->capacity = capacity;
	}
	struct seen_ticket *new = &seen->tickets[seen->n++];
	*new = (struct seen_ticket){.epoch = ticket->epoch, .stage = ticket->stage, .expires = ticket->expires};
	memcpy(new->session, ticket->session, SESSION_BYTES);
	memcpy(new->home, ticket->home, sizeof new->home);
	return 0;
}
