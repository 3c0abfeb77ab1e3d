/* signed.h: [payload: bin, signature: bin 64], the shape that records and tickets share.
 *
 * Both travel as this msgpack array in its one shortest encoding: another encoding of the same values would be
 * the same statement under another hash, which gossip would carry for ever, so it is refused. The signature is
 * Ed25519 (RFC 8032, as libsodium verifies it: no small-order keys, S reduced) over  domain payload,  where the
 * domain names what is signed and ends with NUL, so that no signature can serve for another kind of thing.
 * Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_SIGNED_H
#define PROTO_SIGNED_H

#include "proto/buf.h"
#include "proto/err.h"

#define SIGNED_KEY 32
#define SIGNED_SECRET 64
#define SIGNED_SIGNATURE 64
#define SIGNED_DOMAIN_MAX 64

struct signed_view {              /* points into the bytes it was split from */
	const uint8_t *payload;
	size_t payload_length;
	const uint8_t *signature;
};

/* Shape only. ERR_MALFORMED. */
int signed_split(struct signed_view *out, const uint8_t *bytes, size_t n);

/* A signature over  domain payload.  domain_length counts the NUL or NULs; at most SIGNED_DOMAIN_MAX. */
int signed_make(uint8_t out[SIGNED_SIGNATURE], const char *domain, size_t domain_length, const void *payload, size_t n,
		const uint8_t secret[SIGNED_SECRET]);
/* ERR_SIGNATURE when it does not verify. */
int signed_check(const uint8_t signature[SIGNED_SIGNATURE], const char *domain, size_t domain_length,
		 const void *payload, size_t n, const uint8_t signer[SIGNED_KEY]);

/* Signs and appends the whole array, of at most max bytes: all of it or nothing. */
int signed_append(struct buf *out, size_t max, const char *domain, size_t domain_length, const struct buf *payload,
		  const uint8_t secret[SIGNED_SECRET]);

#endif
