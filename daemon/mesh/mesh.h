/* mesh.h: who is there and what they offer: neighbours, gossip of records, adverts (DESIGN D9 to D13).
 *
 * The mesh keeps two links (latency, bulk) to every admitted node it has an address for, reconnects with backoff and jitter,
 * and spreads records by anti-entropy: DIGEST (hashes by kind), WANT, RECORDS. The rules that need no socket are apart and pure:
 * gossip.h (what to send whom), dialing.h (whom to dial when). A node that trust no longer admits is
 * disconnected within a second of the record that says so.
 *
 * Of two nodes the one with the smaller node key keeps the links it dialled when both dialled at once.
 * Thread: loop. Owner: main. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include "daemon/link/link.h"
#include "daemon/mesh/reach.h"
#include "daemon/trust/invitation.h"
#include "daemon/trust/keys.h"
#include "daemon/trust/trust.h"

struct mesh;

struct mesh_config {
	uv_loop_t *loop;
	struct trust *trust;
	const struct keys *keys;
	const char *home;                  /* folder: invitations */
	const char *network;
	const char *listen_host;
	uint16_t listen_port;              /* 0: any */
	uint64_t (*now)(void *arg);        /* Unix seconds */
	/* Ring frames and SEALED (TICKET .. SEALED) from an admitted neighbour. 0, or an error that ends the link. */
	int (*on_frame)(void *arg, const uint8_t node[KEY_BYTES], const struct frame *frame);
	void (*on_peer)(void *arg, const uint8_t node[KEY_BYTES], bool up);
	void (*on_records)(void *arg);     /* trust changed through gossip, joining or expiry: recompute, save */
	/* What a joiner of mine becomes: signs roster (INVITATION_NODE) or offers an agreement (PARTNER) with what the
	 * steward may; called once the invitation is consumed, with the joiner's card and association. */
	int (*on_join)(void *arg, enum invitation_role role, const uint8_t node[KEY_BYTES], const uint8_t association[KEY_BYTES],
		       const uint8_t invitation[16]);
	void *arg;
};

int mesh_open(struct mesh **out, const struct mesh_config *config, char *why, size_t why_size);
void mesh_close(struct mesh *mesh, void (*on_closed)(void *arg), void *arg);   /* asynchronous */
uint16_t mesh_port(const struct mesh *mesh);

/* Accepts an own record into trust and spreads it. */
int mesh_publish(struct mesh *mesh, const uint8_t *record, size_t n);
/* To a neighbour; takes the frame on success. ERR_UNREACHABLE when there is no such link now. */
int mesh_send(struct mesh *mesh, const uint8_t node[KEY_BYTES], enum link_kind kind, struct buf *frame);
bool mesh_is_up(const struct mesh *mesh, const uint8_t node[KEY_BYTES]);
/* More nodes' clocks agree with ours, since a link stands, than differ. One that came a moment ago counts, too, though it was only told what it
 * lacks: whoever revoked the only agreement it had, or whose records have ended, has no neighbour to ask. */
bool mesh_agrees(const struct mesh *mesh);
double mesh_rtt_ms(const struct mesh *mesh, const uint8_t node[KEY_BYTES]);    /* 0: unknown */

/* From where another node saw us come last: "192.0.2.1:40122"; false when none said so. The port is the outgoing one. */
bool mesh_observed(const struct mesh *mesh, char out[ADDRESS_SIZE]);

/* Asks a neighbour to dial the addresses of our card. On 0 done follows exactly once, later: with the answer on err 0, otherwise
 * UV_ETIMEDOUT (an older version passes the question over), ERR_BUSY (asked too often), ERR_CANCELLED. */
typedef void mesh_reach_done(void *arg, const uint8_t node[KEY_BYTES], int err, const struct reach_answer *answer);
int mesh_reach(struct mesh *mesh, const uint8_t node[KEY_BYTES], mesh_reach_done *done, void *arg);

/* Uses an invitation. On 0 done(err, sentence for people) follows exactly once, later; each address that failed is named with
 * how. ERR_BUSY: another is being used. A node that joins with INVITATION_NODE takes the inviter's association over
 * afterwards (main: keys, card); both need a card that was published. */
int mesh_join(struct mesh *mesh, const struct invitation *invitation, void (*done)(void *arg, int err, const char *detail), void *arg);
struct mesh_join_failure {
	char address[ADDRESS_SIZE];
	int why;                           /* as link.h's on_closed has it; ERR_CLOCK, ERR_VERSION */
};
/* Which addresses of the last invitation failed; n of them. */
const struct mesh_join_failure *mesh_join_failures(const struct mesh *mesh, size_t *n);

struct mesh_peer {
	uint8_t node[KEY_BYTES], association[KEY_BYTES];
	char name[NAME_SIZE];
	bool up;
	char address[ADDRESS_SIZE];
	double rtt_ms;
	uint64_t bytes_in, bytes_out;
	uint64_t since;                    /* Unix seconds of the last change of up */
	bool clock_differs;                /* that is why it is down */
	bool clock_known;
	int64_t clock_off;                 /* seconds that its clock was ahead of ours when the link came up */
	char trouble[160];                 /* why it is down: "connection refused at 192.0.2.1:7740", ... */
};
size_t mesh_peers(const struct mesh *mesh, struct mesh_peer *out, size_t max);

#endif
