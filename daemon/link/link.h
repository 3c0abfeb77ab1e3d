/* link.h: one authenticated, encrypted stream to one peer, over TCP, dual-stack (DESIGN D11).
 *
 * A neighbour has two: LINK_LATENCY (ring frames) and LINK_BULK (records, replay), so that neither a sync nor a replay
 * delays a token. On the wire: Noise messages, each preceded by its u16 little-endian length; after the handshake the
 * plaintext is a stream of frames (proto/frame.h) cut into messages. Prologue: "essaim/1 " network-name.
 * Message 1's payload: msgpack {"kind", "time", "card": bin, "invitation": bin 16 (absent in steady state)}; message 2's:
 * {"time", "card"}. HELLO, PING, PONG, CREDIT and BYE are handled here and never reach on_frame.
 *
 * Limits: handshake 5 s; LINK_HANDSHAKES_PER_SOURCE open handshakes for one source address (v6: /64); silence 15 s closes
 * (PING every 5 s); queue to send LINK_QUEUE_MAX bytes, past it link_send() is -EAGAIN and the caller waits for on_drain; credit:
 * a peer may have LINK_WINDOW bytes unread by our consumer.
 *
 * Thread: loop only. Owner: mesh. Closing is asynchronous; on_closed fires last, exactly once.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef LINK_LINK_H
#define LINK_LINK_H

#include <uv.h>

#include "proto/channel.h"
#include "proto/frame.h"
#include "proto/record.h"

#define LINK_QUEUE_MAX (32u << 20)
#define LINK_WINDOW (16u << 20)
#define LINK_HANDSHAKES_PER_SOURCE 8
#define LINK_HANDSHAKES_MAX 128

enum link_kind { LINK_LATENCY = 1, LINK_BULK = 2 };

struct link;
struct link_server;

struct link_peer {                         /* what the handshake proved and what the other side claims */
	uint8_t link_key[KEY_BYTES];       /* proven: X25519 static key */
	const uint8_t *card;               /* claimed: a CARD record; verify before use */
	size_t card_length;
	uint64_t time;                     /* Unix seconds there */
	enum link_kind kind;
	bool invited;                      /* an invitation id was given */
	uint8_t invitation[16];
};

struct link_events {
	/* Responder, message 1 read: 0 to go on (psk preset to zeros; fill it for an invitation), or an error, which the
	 * other side is told. Must reserve nothing: message 1 can be replayed. */
	int (*admit)(void *owner, const struct link_peer *peer, uint8_t psk[CHANNEL_KEY]);
	/* Both: the first valid transport message of the other side is there. user pointer: link_set_user(). */
	void (*on_up)(void *owner, struct link *link, const struct link_peer *peer);
	void (*on_frame)(void *owner, struct link *link, const struct frame *frame);
	void (*on_drain)(void *owner, struct link *link);
	/* why, of a link that was dialled and did not come up: UV_ECONNREFUSED and others of connect(2); UV_ETIMEDOUT: no connection; -ETIME:
	 * connected, then silence; UV_EOF, UV_ECONNRESET: connected, then closed; ERR_MALFORMED: no Essaim; ERR_CRYPTO: another key or
	 * network; ERR_SIGNATURE: it cannot prove its key; or what it says why it refuses: ERR_USED, ERR_EXPIRED, ERR_UNKNOWN, ERR_DENIED, ...
	 * Also for accepted links that never came up (link_user() is NULL then). The link is freed when it returns. */
	void (*on_closed)(void *owner, struct link *link, int why, const char *detail);
};

struct link_config {
	uv_loop_t *loop;
	const char *network;               /* prologue */
	const uint8_t *link_secret;        /* X25519, CHANNEL_KEY bytes */
	/* our current card record, asked for at each handshake; the view must last until it returns */
	const uint8_t *(*card)(void *owner, size_t *n);
	uint64_t (*now)(void *owner);      /* Unix seconds, as the other side is told; NULL: this machine's clock */
	struct link_events events;
	void *owner;
};

/* Listens on "host", port (0: any; "::" is dual-stack). why: a sentence with a remedy. */
int link_listen(struct link_server **out, const struct link_config *config, const char *host, uint16_t port, char *why, size_t why_size);
uint16_t link_server_port(const struct link_server *server);
void link_server_close(struct link_server *server);           /* links that are up go on; the others end without a callback */

/* Dials "host:port" (names are resolved). psk NULL: zeros. invitation NULL: none. */
int link_dial(struct link **out, const struct link_config *config, const char *address, const uint8_t remote_link_key[KEY_BYTES],
	      enum link_kind kind, const uint8_t *psk, const uint8_t *invitation);
/* Sees whether "host:port" answers, with that link key, or with any program when it is NULL: on_closed follows, with why 0 if it does. The other
 * side never sees a link come up. */
int link_probe(struct link **out, const struct link_config *config, const char *address, const uint8_t *remote_link_key);
int link_send(struct link *link, struct buf *frame);          /* takes the frame's memory on success; -EAGAIN: queue is full */
void link_close(struct link *link, int why);                  /* idempotent; says BYE when it can */
void link_set_user(struct link *link, void *user);
void *link_user(const struct link *link);

enum link_kind link_kind(const struct link *link);
bool link_dialled(const struct link *link);                   /* we dialled it */
double link_rtt_ms(const struct link *link);                  /* smoothed; 0: not measured yet */
const char *link_address(const struct link *link);            /* "[::1]:7740", the other end */
uint64_t link_bytes_in(const struct link *link);
uint64_t link_bytes_out(const struct link *link);

#endif
