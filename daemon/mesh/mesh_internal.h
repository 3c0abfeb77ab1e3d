/* mesh_internal.h: what the files of this folder share; nobody else includes it.
 *
 *   mesh.c          opening, closing, the tick, what others ask
 *   neighbours.c    links coming and going, who is let in, which of two is kept, what frame goes where
 *   join.c          the use of an invitation, on both sides
 *   lapsed.c        what is told to nodes whose records, or ours in their eyes, have ended by time
 *   probe.c         whether others can reach us: asking, and dialling for who asks
 *   gossip*.c, dialing.c, reach.c   pure
 *
 * Thread: loop. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef MESH_MESH_INTERNAL_H
#define MESH_MESH_INTERNAL_H

#include "daemon/link/address.h"
#include "daemon/mesh/dialing.h"
#include "daemon/mesh/gossip.h"
#include "daemon/mesh/mesh.h"

#define NEIGHBOURS_MAX DIALING_TARGETS_MAX
#define TICK_MS 100
#define EXPIRE_MS 1000
#define BOTH_DIALLED_MS 5000               /* two links so close in time were dialled at once */
#define CLOCKS_DIFFER_MAX_S 300
#define AGREED_MS 600000                   /* so long a node whose clock agreed counts after it has gone */
#define JOIN_ANSWER_MS 20000               /* for JOIN or JOINED once the channel stands */
#define JOIN_TAIL_MAX (4u << 20)           /* bytes of records in JOIN and JOINED */
#define TROUBLE_SIZE 160

enum port_role {
	PORT_NEIGHBOUR,
	PORT_JOINER,                       /* we use an invitation */
	PORT_INVITED,                      /* the other side uses one of ours */
	PORT_PROBE,                        /* we see for a neighbour whether it can be reached */
	PORT_LAPSED,                       /* to a node that would be let in if nothing ended by time */
};

struct port {                              /* what the mesh knows of one link; the link's user */
	struct port *next;
	struct mesh *mesh;
	struct link *link;
	enum port_role role;
	enum link_kind kind;
	bool dialled, up;
	uint8_t node[KEY_BYTES];
	char address[ADDRESS_SIZE];        /* dialled */
	char why[TROUBLE_SIZE];            /* what we have against the node that answered; "" nothing */
	uint64_t up_ms;
	uint64_t deadline_ms;              /* of all but PORT_NEIGHBOUR */
	/* PORT_INVITED */
	enum invitation_role invited_as;
	uint8_t invitation[16], association[KEY_BYTES];
	struct buf card;
	bool answered;
	/* PORT_PROBE */
	struct probing *probing;
	size_t probe;                      /* which of its results */
};

struct neighbour {
	uint8_t node[KEY_BYTES];
	char name[2 * NAME_SIZE + 4];      /* as trust last knew it */
	struct port *ports[2];             /* in use: latency, bulk */
	bool up;
	uint64_t since;                    /* Unix seconds */
	uint64_t bytes_in, bytes_out;      /* of links that are gone */
	char address[ADDRESS_SIZE];        /* of the latency link, or the last one */
	char proven[ADDRESS_SIZE];         /* dialled with success */
	char seen_host[ADDRESS_HOST_SIZE]; /* it dialled us from there */
	char trouble[TROUBLE_SIZE];
	bool clock_known;
	int64_t clock_off;                 /* seconds that its clock is ahead of ours, at the last handshake */
	uint64_t probed_ms;                /* it asked last whether it can be reached; 0: never */
};

struct joining;                            /* join.c */
struct asking;                             /* probe.c */
struct probing;

struct mesh {
	struct mesh_config config;
	struct link_config link_config;
	struct link_server *server;
	struct gossip *gossip;
	struct dialing *dialing;
	uv_timer_t tick;
	uv_idle_t work;                    /* active while records wait to be taken */
	unsigned open_handles;
	bool closing;
	void (*on_closed)(void *arg);
	void *on_closed_arg;

	struct port *ports;
	size_t n_neighbours;
	struct neighbour *neighbours[NEIGHBOURS_MAX];
	struct buf own_card;               /* as published last, whether the roster names us yet or not */
	char observed[ADDRESS_SIZE];       /* from where another node saw us last */

	bool targets_due, records_changed;
	uint64_t expire_ms, targets_ms, clock_warned_ms;
	uint64_t generation;               /* of trust, when others were told last */
	uint64_t grounds;                  /* of trust, as of the last recheck */
	uint64_t agreed_ms;                /* when a node last dialled or answered whose clock agrees with ours; 0: none, or ours was set since */
	int64_t clock_ahead;               /* seconds, of the wall clock before the loop's, at the last tick; 0: no tick yet */
	struct joining *joining;
	size_t n_join_failures;
	struct mesh_join_failure join_failures[CARD_ADDRESSES_MAX];
	struct asking *askings;
	struct probing *probings;
};

/* mesh.c */
struct gossip_clock mesh_clock(const struct mesh *mesh);
uint64_t mesh_now(const struct mesh *mesh);                                   /* Unix seconds */
uint64_t mesh_ms(const struct mesh *mesh);                                    /* of the loop */
uint32_t mesh_random(void);
void mesh_changed(struct mesh *mesh);                                         /* trust did: recheck now, tell main soon */
void mesh_work_soon(struct mesh *mesh);
void mesh_closed_maybe(struct mesh *mesh);
const uint8_t *mesh_card(void *owner, size_t *n);
/* "pi (Bourdon)", or the key's first digits. */
const char *mesh_name(const struct mesh *mesh, const uint8_t node[KEY_BYTES], char out[2 * NAME_SIZE + 4]);

/* neighbours.c */
int neighbours_admit(void *owner, const struct link_peer *peer, uint8_t psk[CHANNEL_KEY]);
void neighbours_on_up(void *owner, struct link *link, const struct link_peer *peer);
void neighbours_on_frame(void *owner, struct link *link, const struct frame *frame);
void neighbours_on_closed(void *owner, struct link *link, int why, const char *detail);
void neighbours_recheck(struct mesh *mesh);                                   /* disconnects whom trust no longer admits */
void neighbours_relink(struct mesh *mesh);                                    /* ends every link and dials anew, at once */
void neighbours_refresh(struct mesh *mesh);                                   /* whom to dial, from the cards */
void neighbours_dial(struct mesh *mesh);                                      /* what is due */
struct neighbour *neighbours_find(const struct mesh *mesh, const uint8_t node[KEY_BYTES]);
struct neighbour *neighbours_get(struct mesh *mesh, const uint8_t node[KEY_BYTES]);    /* makes it; NULL without memory */
bool neighbours_clock_differs(const struct neighbour *n);                     /* as of the last handshake that came so far */
void neighbours_disconnect(struct mesh *mesh, const uint8_t node[KEY_BYTES], int why);
struct port *port_new(struct mesh *mesh, enum port_role role, enum link_kind kind, const uint8_t node[KEY_BYTES]);
void port_free(struct port *port);                                            /* takes it off the list */
/* A claimed card: its shape, signature and expiry, that it is its signer's own, and that it names the proven link key. why: for logs. */
int neighbours_read_card(const struct mesh *mesh, const struct link_peer *peer, struct record *out, char *why, size_t why_size);

/* join.c */
/* Inviter, message 1: is there such an invitation? Changes nothing. */
int join_admit(struct mesh *mesh, const struct link_peer *peer, uint8_t psk[CHANNEL_KEY], char *why, size_t why_size);
void join_up(struct port *port, const struct link_peer *peer, const struct record *card);
void join_frame(struct port *port, const struct frame *frame);
void join_closed(struct port *port, int why, const char *detail);
void join_tick(struct mesh *mesh);
void join_cancel(struct mesh *mesh);

/* lapsed.c */
void lapsed_say_last_word(struct mesh *mesh, struct link *link, const uint8_t association[KEY_BYTES]);
void lapsed_up(struct port *port, const uint8_t association[KEY_BYTES]);      /* association: the one that answered for it when nothing had ended */
void lapsed_frame(struct port *port, const struct frame *frame);
void lapsed_closed(struct port *port);

/* probe.c */
int probe_frame(struct port *port, const struct frame *frame);
void probe_closed(struct port *port, int why, const char *detail);
void probe_tick(struct mesh *mesh);
void probe_cancel(struct mesh *mesh);

#endif
