/* dialing.h: whom to dial when. Pure: time and randomness are parameters (DESIGN D16).
 *
 * A target is a node with addresses; two links of each kind are wanted to it. Addresses are tried in turn; when all have
 * failed there is a pause that doubles from one second to a minute, with jitter. Of two nodes that lost each other
 * the one with the smaller key dials first, so that they seldom dial at once. Times are monotonic milliseconds.
 *
 * Owner: mesh. Thread: one at a time. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef MESH_DIALING_H
#define MESH_DIALING_H

#include <stdbool.h>

#include "daemon/link/link.h"

#define DIALING_TARGETS_MAX 512
#define DIALING_ADDRESSES_MAX 16
#define DIALING_FLYING_MAX 32              /* connections being made at once */
#define DIALING_PAUSE_FIRST_MS 1000
#define DIALING_PAUSE_MAX_MS 60000
#define DIALING_STABLE_MS 10000            /* a link that lived so long is worth dialling again at once */

struct dialing;
struct dialing_address { char text[ADDRESS_SIZE]; };     /* zeros behind the NUL: they are compared whole */

struct dialing *dialing_new(const uint8_t own[KEY_BYTES]);
void dialing_free(struct dialing *d);

/* The list anew: begin, each target once, end; those not named are forgotten. An unchanged target keeps its pauses; one
 * with other addresses is tried at once. ERR_LIMIT, -ENOMEM. */
void dialing_begin(struct dialing *d);
int dialing_target(struct dialing *d, const uint8_t node[KEY_BYTES], const struct dialing_address *addresses, size_t n, uint64_t now, uint32_t random);
void dialing_end(struct dialing *d);
void dialing_forget(struct dialing *d, const uint8_t node[KEY_BYTES]);

struct dial {
	uint8_t node[KEY_BYTES];
	enum link_kind kind;
	char address[ADDRESS_SIZE];
};
/* The next to dial now, which then counts as flying until one of the calls below. */
bool dialing_next(struct dialing *d, uint64_t now, struct dial *out);

/* What became of it. up also for links that the other side dialled. */
void dialing_up(struct dialing *d, const uint8_t node[KEY_BYTES], enum link_kind kind, bool dialled, uint64_t now);
void dialing_failed(struct dialing *d, const uint8_t node[KEY_BYTES], enum link_kind kind, uint64_t now, uint32_t random);
void dialing_lost(struct dialing *d, const uint8_t node[KEY_BYTES], enum link_kind kind, uint64_t now, uint32_t random);
/* The other side was just seen to be there (it dialled us): no more pauses. */
void dialing_hurry(struct dialing *d, const uint8_t node[KEY_BYTES], uint64_t now);

#endif
