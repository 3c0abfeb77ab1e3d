/* signed.c: [payload, signature] in its one shortest encoding.
 *
 * Written and read by hand, because msgpack-c takes every encoding of a length for the same value. Source: the
 * msgpack specification, "array format family" and "bin format family".
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/signed.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define ARRAY_OF_2 0x92
#define BIN_8 0xc4
#define BIN_16 0xc5
#define BIN_32 0xc6

/* The shortest header of a bin of n bytes; how many bytes it has (2, 3 or 5). */
static size_t bin_header(uint8_t out[5], size_t n)
{
	if (n <= UINT8_MAX) {
		out[0] = BIN_8;
		out[1] = (uint8_t)n;
		return 2;
	}
	if (n <= UINT16_MAX) {
		out[0] = BIN_16;
		out[1] = (uint8_t)(n >> 8);
		out[2] = (uint8_t)n;
		return 3;
	}
	out[0] = BIN_32;
	out[1] = (uint8_t)(n >> 24);
	out[2] = (uint8_t)(n >> 16);
	out[3] = (uint8_t)(n >> 8);
	out[4] = (uint8_t)n;
	return 5;
}

/* How many bytes the array has around a payload of n. */
static size_t around(size_t n)
{
	uint8_t header[5];
	return 1 + bin_header(header, n) + 2 + SIGNED_SIGNATURE;
}

int signed_split(struct signed_view *out, const uint8_t *bytes, size_t n)
{
	*out = (struct signed_view){ 0 };

	/* What the payload's length must be follows from n alone, but for the three sizes of its header. */
	static const size_t header_sizes[] = { 2, 3, 5 };
	for (size_t i = 0; i < sizeof(header_sizes) / sizeof(*header_sizes); i++) {
		size_t fixed = 1 + header_sizes[i] + 2 + SIGNED_SIGNATURE;
		if (n < fixed || n - fixed > UINT32_MAX || around(n - fixed) != fixed)
			continue;

		size_t length = n - fixed;
		uint8_t header[5];
		bin_header(header, length);
		const uint8_t *payload = bytes + 1 + header_sizes[i];
		if (bytes[0] != ARRAY_OF_2 || memcmp(bytes + 1, header, header_sizes[i]) != 0 ||
		    payload[length] != BIN_8 || payload[length + 1] != SIGNED_SIGNATURE)
			continue;
		out->payload = payload;
		out->payload_length = length;
		out->signature = payload + length + 2;
		return 0;
	}
	return ERR_MALFORMED;
}

/* domain payload in one piece, because Ed25519 reads its message twice. Freed by the caller. */
static int join(uint8_t **out, const char *domain, size_t domain_length, const void *payload, size_t n)
{
	if (domain_length > SIGNED_DOMAIN_MAX || n > SIZE_MAX - domain_length)
		return ERR_LIMIT;
	*out = malloc(domain_length + n + 1);
	if (!*out)
		return -ENOMEM;
	memcpy(*out, domain, domain_length);
	if (n)
		memcpy(*out + domain_length, payload, n);
	return 0;
}

int signed_make(uint8_t out[SIGNED_SIGNATURE], const char *domain, size_t domain_length, const void *payload, size_t n,
		const uint8_t secret[SIGNED_SECRET])
{
	uint8_t *message;
	int err = join(&message, domain, domain_length, payload, n);
	if (err)
		return err;
	if (crypto_sign_detached(out, NULL, message, domain_length + n, secret))
		err = ERR_CRYPTO;
	free(message);
	return err;
}

int signed_check(const uint8_t signature[SIGNED_SIGNATURE], const char *domain, size_t domain_length,
		 const void *payload, size_t n, const uint8_t signer[SIGNED_KEY])
{
	uint8_t *message;
	int err = join(&message, domain, domain_length, payload, n);
	if (err)
		return err;
	if (crypto_sign_verify_detached(signature, message, domain_length + n, signer))
		err = ERR_SIGNATURE;
	free(message);
	return err;
}

int signed_append(struct buf *out, size_t max, const char *domain, size_t domain_length, const struct buf *payload,
		  const uint8_t secret[SIGNED_SECRET])
{
	size_t n = payload->length;
	if (n > UINT32_MAX || n > max || around(n) > max - n)
		return ERR_LIMIT;
	size_t size = n + around(n);
	if (size > out->max - out->length)
		return ERR_LIMIT;

	uint8_t signature[SIGNED_SIGNATURE];
	int err = signed_make(signature, domain, domain_length, payload->data, n, secret);
	if (err)
		return err;
	uint8_t *at = buf_reserve(out, size);
	if (!at)
		return -ENOMEM;

	*at++ = ARRAY_OF_2;
	at += bin_header(at, n);
	if (n)
		memcpy(at, payload->data, n);
	at += n;
	*at++ = BIN_8;
	*at++ = SIGNED_SIGNATURE;
	memcpy(at, signature, sizeof(signature));
	buf_grow(out, size);
	return 0;
}
