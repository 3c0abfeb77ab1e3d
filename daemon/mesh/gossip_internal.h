/* gossip_internal.h: what gossip.c and gossip_exchange.c share; nobody else includes it.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef MESH_GOSSIP_INTERNAL_H
#define MESH_GOSSIP_INTERNAL_H

#include "daemon/mesh/gossip.h"
#include "daemon/mesh/gossip_index.h"

#define REFUSED_SLOTS 2048
#define TOKENS_MAX_PEER 64                 /* requests of one neighbour at once */

struct gossip_peer {
	uint8_t node[KEY_BYTES];
	uint64_t next_ms;                  /* of the next round */
	struct buf inbox;                  /* records, each behind its length; inbox_at of it are done */
	size_t inbox_at;
	/* the exchange in progress */
	bool more;                         /* more is lacking than was asked for, or was dropped here */
	bool denied, gained;
	uint64_t authority_seen;
	bool ended;                        /* the last answer to our WANT is in the inbox */
	/* settled */
	bool settled;
	uint8_t settled_root[KEY_BYTES];
	uint64_t settled_generation, settled_ms;
	/* how often it asks */
	unsigned tokens;
	uint64_t tokens_ms;
};

struct news {                              /* a record that was just taken */
	uint8_t hash[KEY_BYTES], from[KEY_BYTES];
	bool own;
};

struct refused {
	uint8_t hash[KEY_BYTES];
	uint64_t until_ms;
	unsigned times;
	bool denied;                       /* not entitled, as far as was known: may change */
};

struct gossip {
	struct gossip_config config;
	struct gossip_index index;
	size_t n_peers, turn;
	struct gossip_peer *peers[GOSSIP_PEERS_MAX];
	uint64_t authority;                /* records taken that may entitle others */
	struct refused refused[REFUSED_SLOTS];
	struct gossip_counts counts;
	uint8_t bad[KEY_BYTES];
	bool seen[BUCKETS_MAX];            /* while summaries are compared: buckets that both have */
};

/* gossip.c */
int gossip_send_frame(struct gossip *g, struct gossip_peer *p, enum frame_type type, const struct buf *head, const struct buf *tail,
		      struct gossip_clock clock);
int gossip_send_digest(struct gossip *g, struct gossip_peer *p, unsigned level, bool answer, const struct buf *tail, struct gossip_clock clock);
int gossip_send_records(struct gossip *g, struct gossip_peer *p, const struct buf *tail, bool last, struct gossip_clock clock);
bool gossip_is_refused(struct gossip *g, const uint8_t hash[KEY_BYTES], uint64_t ms);
void gossip_inbox_done(struct gossip *g, struct gossip_peer *p, struct gossip_clock clock);    /* it is empty: on with the exchange? */

/* gossip_exchange.c: 0, or an error that ends the link */
int gossip_on_digest(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock);
int gossip_on_want(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock);
int gossip_on_records(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock);

#endif
