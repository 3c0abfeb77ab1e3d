/* channel.c: Noise_IKpsk2_25519_ChaChaPoly_SHA256.
 *
 *   IKpsk2:
 *     <- s                       responder's static key, known beforehand
 *     ...
 *     -> e, es, s, ss            message 1
 *     <- e, ee, se, psk          message 2
 *
 * Names follow revision 34 of the specification: the symmetric state is (chaining_key, hash, cipher) with MixHash,
 * MixKey, MixKeyAndHash, EncryptAndHash, DecryptAndHash and Split (5.2). With a PSK, every "e" token also mixes the
 * ephemeral public key into the key (9.2). ChaChaPoly's nonce is 32 zero bits and the counter as little-endian
 * 64 bits (12.3), which is what crypto_aead_chacha20poly1305_ietf takes.
 *
 * A handshake step works on a copy of the state and keeps it only when all went well, so that a full buffer changes
 * nothing and a forged message leaves no half-mixed state behind, only a dead channel.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/channel.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#define HASH 32
#define REKEY_MESSAGES (UINT64_C(1) << 16)
#define REKEY_BYTES (UINT64_C(1) << 30)
#define NONCE_REKEY UINT64_MAX                 /* reserved by the specification (5.1) */

enum { STEP_FRESH = 0, STEP_FIRST = 1, STEP_TRANSPORT = 2, STEP_DEAD = -1 };

static const char protocol_name[] = "Noise_IKpsk2_25519_ChaChaPoly_SHA256";

/* --- HKDF (4.3) -------------------------------------------------------------------------------------- */

static void hmac(uint8_t out[HASH], const uint8_t key[HASH], const void *a, size_t a_length, uint8_t last)
{
	crypto_auth_hmacsha256_state state;
	crypto_auth_hmacsha256_init(&state, key, HASH);
	crypto_auth_hmacsha256_update(&state, a, a_length);
	if (last)
		crypto_auth_hmacsha256_update(&state, &last, 1);
	crypto_auth_hmacsha256_final(&state, out);
	sodium_memzero(&state, sizeof(state));
}

/* n outputs of 32 bytes each, 2 or 3. */
static void hkdf(uint8_t (*out)[HASH], uint8_t n, const uint8_t chaining_key[HASH], const void *material, size_t length)
{
	uint8_t temporary[HASH], chain[HASH + 1];
	hmac(temporary, chaining_key, material, length, 0);
	hmac(out[0], temporary, NULL, 0, 1);
	for (uint8_t i = 1; i < n; i++) {
		memcpy(chain, out[i - 1], HASH);
		hmac(out[i], temporary, chain, HASH, (uint8_t)(i + 1));
	}
	sodium_memzero(temporary, sizeof(temporary));
	sodium_memzero(chain, sizeof(chain));
}

/* --- cipher state (5.1) ------------------------------------------------------------------------------ */

static void cipher_set(struct channel_cipher *cipher, const uint8_t key[CHANNEL_KEY])
{
	*cipher = (struct channel_cipher){ .has_key = true };
	memcpy(cipher->key, key, CHANNEL_KEY);
}

static void nonce_bytes(uint8_t out[12], uint64_t counter)
{
	put_u32(out, 0);
	put_u64(out + 4, counter);
}

/* out has n + CHANNEL_TAG bytes. */
static int cipher_encrypt(struct channel_cipher *cipher, const void *ad, size_t ad_length, const void *plain, size_t n,
			  uint8_t *out)
{
	uint8_t nonce[12];
	if (!cipher->has_key || cipher->nonce == NONCE_REKEY)
		return ERR_CRYPTO;
	nonce_bytes(nonce, cipher->nonce++);
	crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, plain, n, ad, ad_length, NULL, nonce, cipher->key);
	return 0;
}

/* n counts the tag; out has n - CHANNEL_TAG bytes. */
static int cipher_decrypt(struct channel_cipher *cipher, const void *ad, size_t ad_length, const uint8_t *message, size_t n,
			  uint8_t *out)
{
	uint8_t nonce[12];
	if (!cipher->has_key || cipher->nonce == NONCE_REKEY)
		return ERR_CRYPTO;
	nonce_bytes(nonce, cipher->nonce);
	if (crypto_aead_chacha20poly1305_ietf_decrypt(out, NULL, NULL, message, n, ad, ad_length, nonce, cipher->key))
		return ERR_SIGNATURE;
	cipher->nonce++;
	return 0;
}

/* REKEY (4.2, 11.3): the first 32 bytes of 32 zeros encrypted under the reserved nonce. The counter goes on. */
static void cipher_rekey(struct channel_cipher *cipher)
{
	static const uint8_t zeros[CHANNEL_KEY];
	uint8_t nonce[12], out[CHANNEL_KEY + CHANNEL_TAG];
	nonce_bytes(nonce, NONCE_REKEY);
	crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, zeros, sizeof(zeros), NULL, 0, NULL, nonce, cipher->key);
	memcpy(cipher->key, out, CHANNEL_KEY);
	sodium_memzero(out, sizeof(out));
	cipher->messages = cipher->bytes = 0;
}

static void cipher_count(struct channel_cipher *cipher, size_t plain)
{
	cipher->messages++;
	cipher->bytes += plain;
	if (cipher->messages >= REKEY_MESSAGES || cipher->bytes >= REKEY_BYTES)
		cipher_rekey(cipher);
}

/* --- symmetric state (5.2) --------------------------------------------------------------------------- */

static void mix_hash(struct channel *c, const void *bytes, size_t n)
{
	crypto_hash_sha256_state state;
	crypto_hash_sha256_init(&state);
	crypto_hash_sha256_update(&state, c->hash, HASH);
	crypto_hash_sha256_update(&state, bytes, n);
	crypto_hash_sha256_final(&state, c->hash);
}

static void mix_key(struct channel *c, const uint8_t material[CHANNEL_KEY])
{
	uint8_t out[2][HASH];
	hkdf(out, 2, c->chaining_key, material, CHANNEL_KEY);
	memcpy(c->chaining_key, out[0], HASH);
	cipher_set(&c->cipher, out[1]);
	sodium_memzero(out, sizeof(out));
}

static void mix_key_and_hash(struct channel *c, const uint8_t psk[CHANNEL_KEY])
{
	uint8_t out[3][HASH];
	hkdf(out, 3, c->chaining_key, psk, CHANNEL_KEY);
	memcpy(c->chaining_key, out[0], HASH);
	mix_hash(c, out[1], HASH);
	cipher_set(&c->cipher, out[2]);
	sodium_memzero(out, sizeof(out));
}

/* A low-order point gives zero, which libsodium refuses. */
static int mix_dh(struct channel *c, const uint8_t secret[CHANNEL_KEY], const uint8_t public[CHANNEL_KEY])
{
	uint8_t shared[CHANNEL_KEY];
	int err = crypto_scalarmult_curve25519(shared, secret, public) ? ERR_CRYPTO : 0;
	if (!err)
		mix_key(c, shared);
	sodium_memzero(shared, sizeof(shared));
	return err;
}

static int encrypt_and_hash(struct channel *c, const void *plain, size_t n, uint8_t *out)
{
	int err = cipher_encrypt(&c->cipher, c->hash, HASH, plain, n, out);
	if (!err)
		mix_hash(c, out, n + CHANNEL_TAG);
	return err;
}

static int decrypt_and_hash(struct channel *c, const uint8_t *message, size_t n, uint8_t *out)
{
	int err = cipher_decrypt(&c->cipher, c->hash, HASH, message, n, out);
	if (!err)
		mix_hash(c, message, n);
	return err;
}

static void split(struct channel *c)
{
	uint8_t out[2][HASH];
	bool initiator = c->role == CHANNEL_INITIATOR;
	hkdf(out, 2, c->chaining_key, NULL, 0);
	cipher_set(&c->send, out[initiator ? 0 : 1]);
	cipher_set(&c->receive, out[initiator ? 1 : 0]);
	sodium_memzero(out, sizeof(out));

	/* What only the handshake needed: gone, so that a memory dump tells nothing of the past. */
	sodium_memzero(c->chaining_key, sizeof(c->chaining_key));
	sodium_memzero(&c->cipher, sizeof(c->cipher));
	sodium_memzero(c->static_secret, sizeof(c->static_secret));
	sodium_memzero(c->ephemeral_secret, sizeof(c->ephemeral_secret));
	sodium_memzero(c->psk, sizeof(c->psk));
	c->step = STEP_TRANSPORT;
}

/* --- life -------------------------------------------------------------------------------------------- */

int channel_init(struct channel *c, enum channel_role role, const void *prologue, size_t prologue_length,
		 const uint8_t static_secret[CHANNEL_KEY], const uint8_t ephemeral_secret[CHANNEL_KEY],
		 const uint8_t *remote_static)
{
	memset(c, 0, sizeof(*c));
	c->step = STEP_DEAD;
	c->role = role;
	if ((role == CHANNEL_INITIATOR) != (remote_static != NULL))
		return ERR_CRYPTO;

	memcpy(c->static_secret, static_secret, CHANNEL_KEY);
	memcpy(c->ephemeral_secret, ephemeral_secret, CHANNEL_KEY);
	if (crypto_scalarmult_curve25519_base(c->static_public, static_secret) ||
	    crypto_scalarmult_curve25519_base(c->ephemeral_public, ephemeral_secret)) {
		channel_release(c);
		return ERR_CRYPTO;
	}
	if (remote_static)
		memcpy(c->remote_static, remote_static, CHANNEL_KEY);

	/* The name is longer than a hash, so the hash is of it (5.2). */
	crypto_hash_sha256(c->hash, (const unsigned char *)protocol_name, sizeof(protocol_name) - 1);
	memcpy(c->chaining_key, c->hash, HASH);
	mix_hash(c, prologue, prologue_length);
	mix_hash(c, remote_static ? c->remote_static : c->static_public, CHANNEL_KEY);
	c->step = STEP_FRESH;
	return 0;
}

void channel_release(struct channel *c)
{
	sodium_memzero(c, sizeof(*c));
	c->step = STEP_DEAD;
}

void channel_set_psk(struct channel *c, const uint8_t psk[CHANNEL_KEY])
{
	memcpy(c->psk, psk, CHANNEL_KEY);
}

/* A handshake step's result: the copy becomes the state, or the channel is as it was or dead. */
static int settle(struct channel *c, struct channel *work, int err, bool fatal)
{
	if (!err)
		*c = *work;
	else if (fatal)
		channel_release(c);
	sodium_memzero(work, sizeof(*work));
	return err;
}

/* Room for n bytes behind what out has, or why there is none. */
static int reserve(struct buf *out, size_t n, uint8_t **at)
{
	if (n > out->max - out->length)
		return ERR_LIMIT;
	*at = buf_reserve(out, n);
	return *at ? 0 : -ENOMEM;
}

/* --- message 1: e, es, s, ss, payload ----------------------------------------------------------------- */

#define FIRST_FIXED (CHANNEL_KEY + CHANNEL_KEY + CHANNEL_TAG + CHANNEL_TAG)
#define SECOND_FIXED (CHANNEL_KEY + CHANNEL_TAG)

int channel_write_1(struct channel *c, const void *payload, size_t n, struct buf *out)
{
	if (c->role != CHANNEL_INITIATOR || c->step != STEP_FRESH)
		return ERR_CRYPTO;
	if (n > CHANNEL_MESSAGE_MAX - FIRST_FIXED)
		return ERR_LIMIT;
	uint8_t *at;
	int err = reserve(out, FIRST_FIXED + n, &at);
	if (err)
		return err;

	struct channel work = *c;
	memcpy(at, work.ephemeral_public, CHANNEL_KEY);
	mix_hash(&work, work.ephemeral_public, CHANNEL_KEY);
	mix_key(&work, work.ephemeral_public);
	err = mix_dh(&work, work.ephemeral_secret, work.remote_static);
	if (!err)
		err = encrypt_and_hash(&work, work.static_public, CHANNEL_KEY, at + CHANNEL_KEY);
	if (!err)
		err = mix_dh(&work, work.static_secret, work.remote_static);
	if (!err)
		err = encrypt_and_hash(&work, payload, n, at + 2 * CHANNEL_KEY + CHANNEL_TAG);
	if (!err) {
		work.step = STEP_FIRST;
		buf_grow(out, FIRST_FIXED + n);
	}
	return settle(c, &work, err, true);
}

int channel_read_1(struct channel *c, const uint8_t *message, size_t n, struct buf *payload)
{
	if (c->role != CHANNEL_RESPONDER || c->step != STEP_FRESH)
		return ERR_CRYPTO;
	struct channel work = *c;
	if (n < FIRST_FIXED || n > CHANNEL_MESSAGE_MAX)
		return settle(c, &work, n < FIRST_FIXED ? ERR_MALFORMED : ERR_LIMIT, true);
	uint8_t *at;
	int err = reserve(payload, n - FIRST_FIXED, &at);
	if (err)
		return settle(c, &work, err, false);

	memcpy(work.remote_ephemeral, message, CHANNEL_KEY);
	mix_hash(&work, work.remote_ephemeral, CHANNEL_KEY);
	mix_key(&work, work.remote_ephemeral);
	err = mix_dh(&work, work.static_secret, work.remote_ephemeral);
	if (!err)
		err = decrypt_and_hash(&work, message + CHANNEL_KEY, CHANNEL_KEY + CHANNEL_TAG, work.remote_static);
	if (!err)
		err = mix_dh(&work, work.static_secret, work.remote_static);
	if (!err)
		err = decrypt_and_hash(&work, message + 2 * CHANNEL_KEY + CHANNEL_TAG, n - 2 * CHANNEL_KEY - CHANNEL_TAG, at);
	if (!err) {
		work.step = STEP_FIRST;
		buf_grow(payload, n - FIRST_FIXED);
	}
	return settle(c, &work, err, true);
}

/* --- message 2: e, ee, se, psk, payload --------------------------------------------------------------- */

int channel_write_2(struct channel *c, const void *payload, size_t n, struct buf *out)
{
	if (c->role != CHANNEL_RESPONDER || c->step != STEP_FIRST)
		return ERR_CRYPTO;
	if (n > CHANNEL_MESSAGE_MAX - SECOND_FIXED)
		return ERR_LIMIT;
	uint8_t *at;
	int err = reserve(out, SECOND_FIXED + n, &at);
	if (err)
		return err;

	struct channel work = *c;
	memcpy(at, work.ephemeral_public, CHANNEL_KEY);
	mix_hash(&work, work.ephemeral_public, CHANNEL_KEY);
	mix_key(&work, work.ephemeral_public);
	err = mix_dh(&work, work.ephemeral_secret, work.remote_ephemeral);
	if (!err)
		err = mix_dh(&work, work.ephemeral_secret, work.remote_static);
	if (!err) {
		mix_key_and_hash(&work, work.psk);
		err = encrypt_and_hash(&work, payload, n, at + CHANNEL_KEY);
	}
	if (!err) {
		split(&work);
		buf_grow(out, SECOND_FIXED + n);
	}
	return settle(c, &work, err, true);
}

int channel_read_2(struct channel *c, const uint8_t *message, size_t n, struct buf *payload)
{
	if (c->role != CHANNEL_INITIATOR || c->step != STEP_FIRST)
		return ERR_CRYPTO;
	struct channel work = *c;
	if (n < SECOND_FIXED || n > CHANNEL_MESSAGE_MAX)
		return settle(c, &work, n < SECOND_FIXED ? ERR_MALFORMED : ERR_LIMIT, true);
	uint8_t *at;
	int err = reserve(payload, n - SECOND_FIXED, &at);
	if (err)
		return settle(c, &work, err, false);

	memcpy(work.remote_ephemeral, message, CHANNEL_KEY);
	mix_hash(&work, work.remote_ephemeral, CHANNEL_KEY);
	mix_key(&work, work.remote_ephemeral);
	err = mix_dh(&work, work.ephemeral_secret, work.remote_ephemeral);
	if (!err)
		err = mix_dh(&work, work.static_secret, work.remote_ephemeral);
	if (!err) {
		mix_key_and_hash(&work, work.psk);
		err = decrypt_and_hash(&work, message + CHANNEL_KEY, n - CHANNEL_KEY, at);
	}
	if (!err) {
		split(&work);
		buf_grow(payload, n - SECOND_FIXED);
	}
	return settle(c, &work, err, true);
}

/* --- transport --------------------------------------------------------------------------------------- */

int channel_seal(struct channel *c, const void *plain, size_t n, struct buf *out)
{
	if (c->step != STEP_TRANSPORT)
		return ERR_CRYPTO;
	if (n > CHANNEL_PLAIN_MAX)
		return ERR_LIMIT;
	uint8_t *at;
	int err = reserve(out, n + CHANNEL_TAG, &at);
	if (!err)
		err = cipher_encrypt(&c->send, NULL, 0, plain, n, at);
	if (err)
		return err;
	buf_grow(out, n + CHANNEL_TAG);
	cipher_count(&c->send, n);
	return 0;
}

int channel_open(struct channel *c, const uint8_t *message, size_t n, struct buf *plain)
{
	if (c->step != STEP_TRANSPORT)
		return ERR_CRYPTO;
	if (n < CHANNEL_TAG || n > CHANNEL_MESSAGE_MAX) {
		channel_release(c);
		return n < CHANNEL_TAG ? ERR_MALFORMED : ERR_LIMIT;
	}
	uint8_t *at;
	int err = reserve(plain, n - CHANNEL_TAG, &at);
	if (err)
		return err;
	err = cipher_decrypt(&c->receive, NULL, 0, message, n, at);
	if (err) {
		channel_release(c);
		return err;
	}
	buf_grow(plain, n - CHANNEL_TAG);
	cipher_count(&c->receive, n - CHANNEL_TAG);
	return 0;
}

const uint8_t *channel_handshake_hash(const struct channel *c)
{
	return c->step == STEP_TRANSPORT ? c->hash : NULL;
}
