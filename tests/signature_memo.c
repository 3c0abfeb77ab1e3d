/* signature_memo.c: Ed25519 remembered, for programs that run the same worlds again and again (tests/sim, tests/fuzz/fuzz_peer.c).
 *
 * The linker's --wrap leads libsodium's calls here. Both are functions of their arguments alone, so that a hash of those stands for them;
 * what is not remembered is computed. Thread: one.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <sodium.h>
#include <stdbool.h>
#include <string.h>

#include "proto/buf.h"

#define CHECKS (1u << 16)
#define SIGNATURES (1u << 12)
#define HASH_BYTES 16

static struct { uint8_t hash[HASH_BYTES]; bool known; int result; } checks[CHECKS];
static struct { uint8_t hash[HASH_BYTES]; bool known; uint8_t signature[crypto_sign_BYTES]; } signatures[SIGNATURES];

/* Of a fixed part and a message. */
static uint32_t hash_of(uint8_t hash[HASH_BYTES], const void *a, size_t n_a, const void *b, size_t n_b, const void *message, size_t n)
{
	crypto_generichash_state state;
	crypto_generichash_init(&state, NULL, 0, HASH_BYTES);
	crypto_generichash_update(&state, a, n_a);
	crypto_generichash_update(&state, b, n_b);
	crypto_generichash_update(&state, message, n);
	crypto_generichash_final(&state, hash, HASH_BYTES);
	return get_u32(hash);
}

int __real_crypto_sign_verify_detached(const unsigned char *signature, const unsigned char *message, unsigned long long n,
				       const unsigned char *key);
int __wrap_crypto_sign_verify_detached(const unsigned char *signature, const unsigned char *message, unsigned long long n,
				       const unsigned char *key);
int __wrap_crypto_sign_verify_detached(const unsigned char *signature, const unsigned char *message, unsigned long long n,
				       const unsigned char *key)
{
	uint8_t hash[HASH_BYTES];
	uint32_t i = hash_of(hash, signature, crypto_sign_BYTES, key, crypto_sign_PUBLICKEYBYTES, message, n) % CHECKS;
	if (!checks[i].known || memcmp(checks[i].hash, hash, HASH_BYTES)) {
		checks[i].result = __real_crypto_sign_verify_detached(signature, message, n, key);
		memcpy(checks[i].hash, hash, HASH_BYTES);
		checks[i].known = true;
	}
	return checks[i].result;
}

int __real_crypto_sign_detached(unsigned char *signature, unsigned long long *length, const unsigned char *message, unsigned long long n,
				const unsigned char *secret);
int __wrap_crypto_sign_detached(unsigned char *signature, unsigned long long *length, const unsigned char *message, unsigned long long n,
				const unsigned char *secret);
int __wrap_crypto_sign_detached(unsigned char *signature, unsigned long long *length, const unsigned char *message, unsigned long long n,
				const unsigned char *secret)
{
	uint8_t hash[HASH_BYTES];
	uint32_t i = hash_of(hash, secret, crypto_sign_SECRETKEYBYTES, NULL, 0, message, n) % SIGNATURES;
	if (!signatures[i].known || memcmp(signatures[i].hash, hash, HASH_BYTES)) {
		int err = __real_crypto_sign_detached(signatures[i].signature, NULL, message, n, secret);
		if (err)
			return err;
		memcpy(signatures[i].hash, hash, HASH_BYTES);
		signatures[i].known = true;
	}
	memcpy(signature, signatures[i].signature, crypto_sign_BYTES);
	if (length)
		*length = crypto_sign_BYTES;
	return 0;
}
