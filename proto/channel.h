/* channel.h: Noise_IKpsk2_25519_ChaChaPoly_SHA256 without I/O (DESIGN D11).
 *
 * Source: The Noise Protocol Framework, revision 34 (noiseprotocol.org), sections 5 (processing rules), 7.5 (IK),
 * 9 (PSK), 11.3 (rekey). Primitives are libsodium's. Passes every IKpsk2 vector of cacophony
 * (tests/unit/test_channel.c).
 *
 *   initiator                                responder
 *   channel_init(.., INITIATOR)              channel_init(.., RESPONDER)
 *   channel_write_1(payload)   -- 1 -->      channel_read_1() -> static key, payload; choose the PSK
 *   channel_read_2() -> payload  <-- 2 --    channel_set_psk(); channel_write_2(payload)
 *   channel_seal / channel_open               ... transport ...
 *
 * Message 1 can be replayed by anyone who saw it: it carries only a card, a timestamp and an invitation's id,
 * and the responder reserves nothing for it. After a failed read the channel is dead (ERR_CRYPTO or ERR_SIGNATURE).
 * Rekey: both sides after every 2^16 messages or 2^30 bytes in a direction, whichever is first.
 * Owner: the caller's storage; secrets are wiped by channel_release(). Thread: one at a time.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_CHANNEL_H
#define PROTO_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/err.h"

#define CHANNEL_KEY 32
#define CHANNEL_TAG 16
#define CHANNEL_MESSAGE_MAX 65535               /* Noise's own limit, ciphertext */
#define CHANNEL_PLAIN_MAX (CHANNEL_MESSAGE_MAX - CHANNEL_TAG)

enum channel_role { CHANNEL_INITIATOR, CHANNEL_RESPONDER };

struct channel_cipher {
	uint8_t key[CHANNEL_KEY];
	uint64_t nonce;
	bool has_key;
	uint64_t messages, bytes;                   /* since the last rekey; unused in the handshake */
};

struct channel {
	enum channel_role role;
	int step;                                   /* 0 fresh, 1 after message 1, 2 transport, -1 dead */
	uint8_t hash[32], chaining_key[32];
	struct channel_cipher cipher;               /* handshake */
	struct channel_cipher send, receive;        /* transport */
	uint8_t static_secret[CHANNEL_KEY], static_public[CHANNEL_KEY];
	uint8_t ephemeral_secret[CHANNEL_KEY], ephemeral_public[CHANNEL_KEY];
	uint8_t remote_static[CHANNEL_KEY], remote_ephemeral[CHANNEL_KEY];
	uint8_t psk[CHANNEL_KEY];
};

/* remote_static is needed by the initiator and NULL for the responder. ephemeral_secret comes from the caller's
 * random source (D16). The PSK starts as zeros, the steady state. */
int channel_init(struct channel *c, enum channel_role role, const void *prologue, size_t prologue_length,
		 const uint8_t static_secret[CHANNEL_KEY], const uint8_t ephemeral_secret[CHANNEL_KEY],
		 const uint8_t *remote_static);
void channel_release(struct channel *c);
void channel_set_psk(struct channel *c, const uint8_t psk[CHANNEL_KEY]);      /* any time before message 2 */

int channel_write_1(struct channel *c, const void *payload, size_t n, struct buf *out);
int channel_read_1(struct channel *c, const uint8_t *message, size_t n, struct buf *payload);  /* then c->remote_static is known */
int channel_write_2(struct channel *c, const void *payload, size_t n, struct buf *out);
int channel_read_2(struct channel *c, const uint8_t *message, size_t n, struct buf *payload);

/* Transport: appends ciphertext (n + CHANNEL_TAG bytes) or plaintext. n is at most CHANNEL_PLAIN_MAX. */
int channel_seal(struct channel *c, const void *plain, size_t n, struct buf *out);
int channel_open(struct channel *c, const uint8_t *message, size_t n, struct buf *plain);
const uint8_t *channel_handshake_hash(const struct channel *c);               /* 32 bytes, after message 2 */

#endif
