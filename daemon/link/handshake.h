/* handshake.h: what messages 1 and 2 say, without sockets (fuzzed and tested as it is).
 *
 * Message 1 is {"kind": 1|2, "time": Unix seconds, "card": bin, "invitation": bin 16 or absent}, message 2 {"time", "card"}.
 * Thread: any. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef LINK_HANDSHAKE_H
#define LINK_HANDSHAKE_H

#include "daemon/link/link.h"

#define HANDSHAKE_CARD_MAX 4096
#define HANDSHAKE_REFUSAL 16

struct handshake_payload {
	enum link_kind kind;               /* message 1 only */
	uint64_t time;
	const uint8_t *card;               /* view */
	size_t card_length;
	bool invited;                      /* message 1 only */
	uint8_t invitation[16];
};

int handshake_encode(struct buf *out, const struct handshake_payload *p, bool first);
int handshake_decode(const uint8_t *bytes, size_t n, bool first, struct handshake_payload *out);

/* In place of message 2: why there is none, as an error. Nothing proves who says so. decode: 0 unless it is one. */
void handshake_refusal_encode(uint8_t out[HANDSHAKE_REFUSAL], int err);
int handshake_refusal_decode(const uint8_t *message, size_t n);

/* A fresh channel with this network's prologue; remote NULL: responder. The ephemeral key is the caller's randomness. */
int handshake_channel(struct channel *c, const char *network, const uint8_t link_secret[CHANNEL_KEY],
		      const uint8_t ephemeral[CHANNEL_KEY], const uint8_t *remote);

/* Responder: reads message 1 on a fresh channel. payload keeps the bytes that out points into. Nothing else is changed. */
int handshake_read_1(struct channel *c, const uint8_t *message, size_t n, struct buf *payload, struct link_peer *out);

#endif
