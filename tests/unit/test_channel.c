/* Noise IKpsk2 against cacophony's vectors ($ESSAIM_SHARED/vectors) and against a peer that cheats.
 *
 *   initiator --1--> responder      every byte of 1 and 2 is flipped and cut; keys, PSK and prologue are swapped
 *   initiator <--2-- responder
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

#include "proto/channel.h"
#include "proto/text.h"

#define SUITE "Noise_IKpsk2_25519_ChaChaPoly_SHA256"
#define PROLOGUE "essaim/1 test"

static const uint8_t zero_psk[CHANNEL_KEY];

/* Both ends of one handshake, from fixed secrets. */
struct pair {
	uint8_t initiator_secret[CHANNEL_KEY], responder_secret[CHANNEL_KEY], responder_public[CHANNEL_KEY];
	uint8_t initiator_ephemeral[CHANNEL_KEY], responder_ephemeral[CHANNEL_KEY];
	struct channel i, r;
	struct buf first, second, got;
};

static void pair_init(struct pair *p)
{
	memset(p, 0, sizeof(*p));
	memset(p->initiator_secret, 0x11, CHANNEL_KEY);
	memset(p->responder_secret, 0x22, CHANNEL_KEY);
	memset(p->initiator_ephemeral, 0x33, CHANNEL_KEY);
	memset(p->responder_ephemeral, 0x44, CHANNEL_KEY);
	assert_int_equal(crypto_scalarmult_curve25519_base(p->responder_public, p->responder_secret), 0);
	buf_init(&p->first, CHANNEL_MESSAGE_MAX);
	buf_init(&p->second, CHANNEL_MESSAGE_MAX);
	buf_init(&p->got, 1u << 20);
}

static void pair_release(struct pair *p)
{
	channel_release(&p->i);
	channel_release(&p->r);
	buf_release(&p->first);
	buf_release(&p->second);
	buf_release(&p->got);
}

static void begin(struct pair *p, const char *initiator_prologue, const char *responder_prologue)
{
	assert_int_equal(channel_init(&p->i, CHANNEL_INITIATOR, initiator_prologue, strlen(initiator_prologue),
				      p->initiator_secret, p->initiator_ephemeral, p->responder_public), 0);
	assert_int_equal(channel_init(&p->r, CHANNEL_RESPONDER, responder_prologue, strlen(responder_prologue),
				      p->responder_secret, p->responder_ephemeral, NULL), 0);
}

static void write_first(struct pair *p)
{
	buf_clear(&p->first);
	assert_int_equal(channel_write_1(&p->i, "card", 4, &p->first), 0);
}

static void write_second(struct pair *p)
{
	buf_clear(&p->got);
	buf_clear(&p->second);
	assert_int_equal(channel_read_1(&p->r, p->first.data, p->first.length, &p->got), 0);
	assert_int_equal(channel_write_2(&p->r, "welcome", 7, &p->second), 0);
}

static void join(struct pair *p)
{
	begin(p, PROLOGUE, PROLOGUE);
	write_first(p);
	write_second(p);
	buf_clear(&p->got);
	assert_int_equal(channel_read_2(&p->i, p->second.data, p->second.length, &p->got), 0);
}

static bool is_dead(struct channel *c)
{
	static const uint8_t zeros[CHANNEL_KEY];
	struct buf out;
	buf_init(&out, 1024);
	bool refuses = channel_seal(c, "x", 1, &out) == ERR_CRYPTO && channel_open(c, zeros, 32, &out) == ERR_CRYPTO &&
		       channel_write_1(c, "", 0, &out) == ERR_CRYPTO && channel_read_1(c, zeros, 32, &out) == ERR_CRYPTO &&
		       channel_write_2(c, "", 0, &out) == ERR_CRYPTO && channel_read_2(c, zeros, 32, &out) == ERR_CRYPTO &&
		       out.length == 0 && !channel_handshake_hash(c);
	bool wiped = sodium_is_zero(c->static_secret, CHANNEL_KEY) && sodium_is_zero(c->ephemeral_secret, CHANNEL_KEY) &&
		     sodium_is_zero(c->send.key, CHANNEL_KEY) && sodium_is_zero(c->receive.key, CHANNEL_KEY) &&
		     sodium_is_zero(c->chaining_key, CHANNEL_KEY) && sodium_is_zero(c->psk, CHANNEL_KEY);
	buf_release(&out);
	return refuses && wiped;
}

/* --- vectors ----------------------------------------------------------------------------------------- */

struct bytes {
	uint8_t data[1024];
	size_t length;
};

static struct bytes unhex(yyjson_val *object, const char *key)
{
	struct bytes out = { .length = 0 };
	const char *text = yyjson_get_str(yyjson_obj_get(object, key));
	if (!text)
		return out;
	out.length = strlen(text) / 2;
	assert_true(out.length <= sizeof(out.data));
	assert_int_equal(text_unhex(text, out.data, out.length), 0);
	return out;
}

static struct bytes first_psk(yyjson_val *vector, const char *key)
{
	struct bytes out = { .length = CHANNEL_KEY };
	yyjson_val *list = yyjson_obj_get(vector, key);
	assert_int_equal(yyjson_arr_size(list), 1);
	assert_int_equal(text_unhex(yyjson_get_str(yyjson_arr_get(list, 0)), out.data, CHANNEL_KEY), 0);
	return out;
}

/* Sends message number i of a vector and compares every byte on the way and at the end. */
static void pass_message(struct channel *from, struct channel *to, size_t i, const struct bytes *payload,
			 const struct bytes *ciphertext)
{
	struct buf wire, got;
	buf_init(&wire, CHANNEL_MESSAGE_MAX);
	buf_init(&got, CHANNEL_MESSAGE_MAX);
	int (*write)(struct channel *, const void *, size_t, struct buf *) =
		i == 0 ? channel_write_1 : i == 1 ? channel_write_2 : channel_seal;
	int (*read)(struct channel *, const uint8_t *, size_t, struct buf *) =
		i == 0 ? channel_read_1 : i == 1 ? channel_read_2 : channel_open;

	assert_int_equal(write(from, payload->data, payload->length, &wire), 0);
	assert_int_equal(wire.length, ciphertext->length);
	assert_memory_equal(wire.data, ciphertext->data, wire.length);
	assert_int_equal(read(to, ciphertext->data, ciphertext->length, &got), 0);
	assert_int_equal(got.length, payload->length);
	assert_memory_equal(got.data, payload->data, got.length);
	buf_release(&wire);
	buf_release(&got);
}

static void pass_vector(yyjson_val *vector)
{
	struct bytes ip = unhex(vector, "init_prologue"), rp = unhex(vector, "resp_prologue");
	struct bytes is = unhex(vector, "init_static"), rs = unhex(vector, "resp_static");
	struct bytes ie = unhex(vector, "init_ephemeral"), re = unhex(vector, "resp_ephemeral");
	struct bytes remote = unhex(vector, "init_remote_static"), hash = unhex(vector, "handshake_hash");
	struct bytes ipsk = first_psk(vector, "init_psks"), rpsk = first_psk(vector, "resp_psks");
	struct channel i, r;
	assert_int_equal(channel_init(&i, CHANNEL_INITIATOR, ip.data, ip.length, is.data, ie.data, remote.data), 0);
	assert_int_equal(channel_init(&r, CHANNEL_RESPONDER, rp.data, rp.length, rs.data, re.data, NULL), 0);
	channel_set_psk(&i, ipsk.data);
	channel_set_psk(&r, rpsk.data);

	yyjson_val *messages = yyjson_obj_get(vector, "messages");
	size_t n = yyjson_arr_size(messages);
	assert_true(n >= 4);
	for (size_t k = 0; k < n; k++) {
		yyjson_val *message = yyjson_arr_get(messages, k);
		struct bytes payload = unhex(message, "payload"), ciphertext = unhex(message, "ciphertext");
		pass_message(k % 2 ? &r : &i, k % 2 ? &i : &r, k, &payload, &ciphertext);
		if (k == 0)
			assert_memory_equal(r.remote_static, i.static_public, CHANNEL_KEY);
	}
	assert_int_equal(hash.length, 32);
	assert_memory_equal(channel_handshake_hash(&i), hash.data, 32);
	assert_memory_equal(channel_handshake_hash(&r), hash.data, 32);
	channel_release(&i);
	channel_release(&r);
}

static void channel_passes_every_ikpsk2_vector(void **state)
{
	const char *shared = getenv("ESSAIM_SHARED");
	char path[4096];
	snprintf(path, sizeof(path), "%s/vectors/noise-ikpsk2-cacophony.json", shared ? shared : "");
	if (!shared || !*shared || access(path, F_OK)) {
		print_message("no vectors/noise-ikpsk2-cacophony.json (set ESSAIM_SHARED to the folder that has it)\n");
		skip();
	}
	yyjson_doc *doc = yyjson_read_file(path, 0, NULL, NULL);
	assert_non_null(doc);

	size_t passed = 0, i, n;
	yyjson_val *vector;
	yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "vectors"), i, n, vector) {
		if (strcmp(yyjson_get_str(yyjson_obj_get(vector, "protocol_name")), SUITE) != 0)
			continue;
		pass_vector(vector);
		passed++;
	}
	assert_true(passed > 0);
	yyjson_doc_free(doc);
}

/* --- the honest path ---------------------------------------------------------------------------------- */

static void channel_carries_payloads_both_ways(void **state)
{
	struct pair p;
	pair_init(&p);
	begin(&p, PROLOGUE, PROLOGUE);
	assert_null(channel_handshake_hash(&p.i));
	write_first(&p);
	assert_int_equal(channel_read_1(&p.r, p.first.data, p.first.length, &p.got), 0);
	assert_memory_equal(p.got.data, "card", 4);
	assert_memory_equal(p.r.remote_static, p.i.static_public, CHANNEL_KEY);
	assert_int_equal(channel_write_2(&p.r, "welcome", 7, &p.second), 0);
	buf_clear(&p.got);
	assert_int_equal(channel_read_2(&p.i, p.second.data, p.second.length, &p.got), 0);
	assert_memory_equal(p.got.data, "welcome", 7);
	assert_memory_equal(channel_handshake_hash(&p.i), channel_handshake_hash(&p.r), 32);

	/* The longest message that Noise allows, and an empty one, in both directions. */
	static const uint8_t plain[CHANNEL_PLAIN_MAX] = { 1, 2, 3 };
	struct channel *ends[2] = { &p.i, &p.r };
	size_t sizes[] = { 0, 1, CHANNEL_PLAIN_MAX };
	for (size_t k = 0; k < 6; k++) {
		buf_clear(&p.first);
		buf_clear(&p.got);
		assert_int_equal(channel_seal(ends[k % 2], plain, sizes[k / 2], &p.first), 0);
		assert_int_equal(p.first.length, sizes[k / 2] + CHANNEL_TAG);
		assert_int_equal(channel_open(ends[1 - k % 2], p.first.data, p.first.length, &p.got), 0);
		assert_int_equal(p.got.length, sizes[k / 2]);
		assert_memory_equal(p.got.data, plain, p.got.length);
	}
	assert_int_equal(channel_seal(&p.i, plain, CHANNEL_PLAIN_MAX + 1, &p.first), ERR_LIMIT);
	pair_release(&p);
}

static void channel_forgets_the_secrets_of_the_handshake(void **state)
{
	struct pair p;
	pair_init(&p);
	join(&p);
	struct channel *ends[2] = { &p.i, &p.r };
	for (size_t k = 0; k < 2; k++) {
		assert_true(sodium_is_zero(ends[k]->static_secret, CHANNEL_KEY));
		assert_true(sodium_is_zero(ends[k]->ephemeral_secret, CHANNEL_KEY));
		assert_true(sodium_is_zero(ends[k]->chaining_key, 32));
		assert_true(sodium_is_zero((const uint8_t *)&ends[k]->cipher, sizeof(ends[k]->cipher)));
	}
	pair_release(&p);
}

static void channel_with_the_same_psk_joins(void **state)
{
	uint8_t psk[CHANNEL_KEY];
	memset(psk, 0x5a, sizeof(psk));
	struct pair p;
	pair_init(&p);
	begin(&p, PROLOGUE, PROLOGUE);
	write_first(&p);
	channel_set_psk(&p.i, psk);             /* after message 1: it does not matter before message 2 */
	assert_int_equal(channel_read_1(&p.r, p.first.data, p.first.length, &p.got), 0);
	channel_set_psk(&p.r, psk);
	assert_int_equal(channel_write_2(&p.r, "", 0, &p.second), 0);
	buf_clear(&p.got);
	assert_int_equal(channel_read_2(&p.i, p.second.data, p.second.length, &p.got), 0);
	assert_int_equal(p.got.length, 0);
	pair_release(&p);
}

/* --- bytes that are not honest ------------------------------------------------------------------------ */

static void channel_refuses_every_bit_flip_of_message_1(void **state)
{
	struct pair p;
	pair_init(&p);
	begin(&p, PROLOGUE, PROLOGUE);
	write_first(&p);
	for (size_t bit = 0; bit < p.first.length * 8; bit++) {
		/* X25519 ignores the top bit of a point (RFC 7748), but the hash covers it. */
		struct channel r = p.r;
		p.first.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int err = channel_read_1(&r, p.first.data, p.first.length, &p.got);
		assert_true(err == ERR_SIGNATURE || err == ERR_CRYPTO);
		assert_int_equal(p.got.length, 0);
		assert_true(is_dead(&r));
		p.first.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(channel_read_1(&p.r, p.first.data, p.first.length, &p.got), 0);
	pair_release(&p);
}

static void channel_refuses_every_bit_flip_of_message_2(void **state)
{
	struct pair p;
	pair_init(&p);
	begin(&p, PROLOGUE, PROLOGUE);
	write_first(&p);
	write_second(&p);
	buf_clear(&p.got);
	for (size_t bit = 0; bit < p.second.length * 8; bit++) {
		struct channel i = p.i;
		p.second.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int err = channel_read_2(&i, p.second.data, p.second.length, &p.got);
		assert_true(err == ERR_SIGNATURE || err == ERR_CRYPTO);
		assert_int_equal(p.got.length, 0);
		assert_true(is_dead(&i));
		p.second.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(channel_read_2(&p.i, p.second.data, p.second.length, &p.got), 0);
	pair_release(&p);
}

static void channel_refuses_every_truncation_and_a_longer_message(void **state)
{
	struct pair p;
	pair_init(&p);
	begin(&p, PROLOGUE, PROLOGUE);
	write_first(&p);
	for (size_t n = 0; n <= p.first.length + 1; n++) {
		if (n == p.first.length)
			continue;
		struct channel r = p.r;
		uint8_t *message = calloc(1, n + 1);     /* its own memory, so that a read past it is seen */
		memcpy(message, p.first.data, n < p.first.length ? n : p.first.length);
		int err = channel_read_1(&r, message, n, &p.got);
		assert_int_equal(err, n < 2 * CHANNEL_KEY + 2 * CHANNEL_TAG ? ERR_MALFORMED : ERR_SIGNATURE);
		assert_true(is_dead(&r));
		free(message);
	}
	write_second(&p);
	buf_clear(&p.got);
	for (size_t n = 0; n <= p.second.length + 1; n++) {
		if (n == p.second.length)
			continue;
		struct channel i = p.i;
		uint8_t *message = calloc(1, n + 1);
		memcpy(message, p.second.data, n < p.second.length ? n : p.second.length);
		int err = channel_read_2(&i, message, n, &p.got);
		assert_int_equal(err, n < CHANNEL_KEY + CHANNEL_TAG ? ERR_MALFORMED : ERR_SIGNATURE);
		assert_true(is_dead(&i));
		free(message);
	}
	assert_int_equal(p.got.length, 0);
	pair_release(&p);
}

static void channel_refuses_another_psk(void **state)
{
	uint8_t psk[CHANNEL_KEY];
	memset(psk, 0x5a, sizeof(psk));
	struct pair p;
	pair_init(&p);
	begin(&p, PROLOGUE, PROLOGUE);
	write_first(&p);
	channel_set_psk(&p.r, psk);
	write_second(&p);
	buf_clear(&p.got);
	assert_int_equal(channel_read_2(&p.i, p.second.data, p.second.length, &p.got), ERR_SIGNATURE);
	assert_true(is_dead(&p.i));
	pair_release(&p);
}

static void channel_refuses_another_prologue(void **state)
{
	struct pair p;
	pair_init(&p);
	begin(&p, PROLOGUE, "essaim/2 test");
	write_first(&p);
	assert_int_equal(channel_read_1(&p.r, p.first.data, p.first.length, &p.got), ERR_SIGNATURE);
	assert_true(is_dead(&p.r));
	pair_release(&p);
}

static void channel_refuses_a_message_for_another_responder(void **state)
{
	struct pair p;
	pair_init(&p);
	begin(&p, PROLOGUE, PROLOGUE);
	write_first(&p);
	memset(p.responder_secret, 0x66, CHANNEL_KEY);
	assert_int_equal(channel_init(&p.r, CHANNEL_RESPONDER, PROLOGUE, strlen(PROLOGUE), p.responder_secret,
				      p.responder_ephemeral, NULL), 0);
	assert_int_equal(channel_read_1(&p.r, p.first.data, p.first.length, &p.got), ERR_SIGNATURE);
	pair_release(&p);
}

/* The points of small order on Curve25519, its twist, and what reduces to them (RFC 7748, section 7). */
static const char *const low_order[] = {
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
};
#define N_LOW_ORDER (sizeof(low_order) / sizeof(*low_order))

static void channel_refuses_low_order_points(void **state)
{
	struct pair p;
	pair_init(&p);
	for (size_t k = 0; k < 2 * N_LOW_ORDER; k++) {
		uint8_t point[CHANNEL_KEY];
		assert_int_equal(text_unhex(low_order[k / 2], point, CHANNEL_KEY), 0);
		if (k % 2)
			point[31] |= 0x80;               /* the bit that X25519 ignores */

		/* as the responder's static key */
		struct channel i;
		assert_int_equal(channel_init(&i, CHANNEL_INITIATOR, "", 0, p.initiator_secret, p.initiator_ephemeral, point), 0);
		buf_clear(&p.first);
		assert_int_equal(channel_write_1(&i, "", 0, &p.first), ERR_CRYPTO);
		assert_int_equal(p.first.length, 0);
		assert_true(is_dead(&i));

		/* as either ephemeral key */
		begin(&p, PROLOGUE, PROLOGUE);
		write_first(&p);
		struct channel r = p.r;
		struct buf forged;
		buf_init(&forged, CHANNEL_MESSAGE_MAX);
		assert_int_equal(buf_append(&forged, p.first.data, p.first.length), 0);
		memcpy(forged.data, point, CHANNEL_KEY);
		buf_clear(&p.got);
		assert_int_equal(channel_read_1(&r, forged.data, forged.length, &p.got), ERR_CRYPTO);
		assert_true(is_dead(&r));
		write_second(&p);
		memcpy(p.second.data, point, CHANNEL_KEY);
		buf_clear(&p.got);
		assert_int_equal(channel_read_2(&p.i, p.second.data, p.second.length, &p.got), ERR_CRYPTO);
		assert_true(is_dead(&p.i));
		buf_release(&forged);
	}
	pair_release(&p);
}

/* An initiator whose own static key is of small order encrypts it correctly: the responder's "ss" must see it. */
static void channel_refuses_a_low_order_static_key_of_the_initiator(void **state)
{
	struct pair p;
	pair_init(&p);
	begin(&p, PROLOGUE, PROLOGUE);
	memset(p.i.static_public, 0, CHANNEL_KEY);
	write_first(&p);
	assert_int_equal(channel_read_1(&p.r, p.first.data, p.first.length, &p.got), ERR_CRYPTO);
	assert_true(is_dead(&p.r));
	pair_release(&p);
}

static void channel_steps_out_of_order_are_refused(void **state)
{
	struct pair p;
	pair_init(&p);
	begin(&p, PROLOGUE, PROLOGUE);
	assert_int_equal(channel_write_1(&p.r, "", 0, &p.first), ERR_CRYPTO);
	assert_int_equal(channel_write_2(&p.r, "", 0, &p.first), ERR_CRYPTO);
	assert_int_equal(channel_seal(&p.i, "", 0, &p.first), ERR_CRYPTO);
	assert_int_equal(channel_read_2(&p.i, p.first.data, 0, &p.got), ERR_CRYPTO);
	write_first(&p);
	assert_int_equal(channel_write_1(&p.i, "", 0, &p.got), ERR_CRYPTO);      /* once only: nonces */
	write_second(&p);
	assert_int_equal(channel_read_1(&p.r, p.first.data, p.first.length, &p.got), ERR_CRYPTO);
	assert_int_equal(channel_write_2(&p.r, "", 0, &p.got), ERR_CRYPTO);
	buf_clear(&p.got);
	assert_int_equal(channel_read_2(&p.i, p.second.data, p.second.length, &p.got), 0);
	pair_release(&p);

	assert_int_equal(channel_init(&p.i, CHANNEL_INITIATOR, "", 0, zero_psk, zero_psk, NULL), ERR_CRYPTO);
	assert_true(is_dead(&p.i));
}

/* --- transport --------------------------------------------------------------------------------------- */

static void channel_dies_of_a_forged_message_only(void **state)
{
	struct pair p;
	pair_init(&p);
	join(&p);
	buf_clear(&p.first);
	assert_int_equal(channel_seal(&p.i, "hello", 5, &p.first), 0);
	for (size_t bit = 0; bit < p.first.length * 8; bit++) {
		struct channel r = p.r;
		p.first.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		buf_clear(&p.got);
		assert_int_equal(channel_open(&r, p.first.data, p.first.length, &p.got), ERR_SIGNATURE);
		assert_int_equal(p.got.length, 0);
		assert_true(is_dead(&r));
		p.first.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t n = 0; n < p.first.length; n++) {
		struct channel r = p.r;
		assert_int_equal(channel_open(&r, p.first.data, n, &p.got), n < CHANNEL_TAG ? ERR_MALFORMED : ERR_SIGNATURE);
		assert_true(is_dead(&r));
	}
	assert_int_equal(channel_open(&p.r, p.first.data, p.first.length, &p.got), 0);
	pair_release(&p);
}

static void channel_refuses_replayed_reordered_and_reflected_messages(void **state)
{
	struct pair p;
	pair_init(&p);
	join(&p);
	buf_clear(&p.first);
	buf_clear(&p.second);
	buf_clear(&p.got);
	assert_int_equal(channel_seal(&p.i, "a", 1, &p.first), 0);
	assert_int_equal(channel_seal(&p.i, "b", 1, &p.second), 0);

	struct channel r = p.r, i = p.i;
	assert_int_equal(channel_open(&r, p.second.data, p.second.length, &p.got), ERR_SIGNATURE);
	assert_int_equal(channel_open(&i, p.first.data, p.first.length, &p.got), ERR_SIGNATURE);
	assert_int_equal(channel_open(&p.r, p.first.data, p.first.length, &p.got), 0);
	assert_int_equal(channel_open(&p.r, p.first.data, p.first.length, &p.got), ERR_SIGNATURE);
	assert_true(is_dead(&p.r));
	pair_release(&p);
}

static void channel_with_a_full_buffer_changes_nothing(void **state)
{
	struct pair p;
	struct buf small;
	pair_init(&p);
	buf_init(&small, 8);

	begin(&p, PROLOGUE, PROLOGUE);
	assert_int_equal(channel_write_1(&p.i, "card", 4, &small), ERR_LIMIT);
	write_first(&p);
	buf_append(&small, "12345", 5);
	assert_int_equal(channel_read_1(&p.r, p.first.data, p.first.length, &small), ERR_LIMIT);
	assert_int_equal(channel_read_1(&p.r, p.first.data, p.first.length, &p.got), 0);
	assert_int_equal(channel_write_2(&p.r, "welcome", 7, &small), ERR_LIMIT);
	assert_int_equal(channel_write_2(&p.r, "welcome", 7, &p.second), 0);
	assert_int_equal(channel_read_2(&p.i, p.second.data, p.second.length, &small), ERR_LIMIT);
	assert_int_equal(channel_read_2(&p.i, p.second.data, p.second.length, &p.got), 0);

	assert_int_equal(channel_seal(&p.i, "x", 1, &small), ERR_LIMIT);
	buf_clear(&p.first);
	assert_int_equal(channel_seal(&p.i, "four", 4, &p.first), 0);
	assert_int_equal(channel_open(&p.r, p.first.data, p.first.length, &small), ERR_LIMIT);
	assert_int_equal(channel_open(&p.r, p.first.data, p.first.length, &p.got), 0);
	assert_int_equal(small.length, 5);
	buf_release(&small);
	pair_release(&p);
}

static void pass(struct pair *p, const uint8_t *plain, size_t n)
{
	buf_clear(&p->first);
	buf_clear(&p->got);
	assert_int_equal(channel_seal(&p->i, plain, n, &p->first), 0);
	assert_int_equal(channel_open(&p->r, p->first.data, p->first.length, &p->got), 0);
	assert_int_equal(p->got.length, n);
}

/* REKEY as the specification has it, not as channel.c has it. */
static void expected_rekey(uint8_t key[CHANNEL_KEY])
{
	uint8_t nonce[12] = { 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	uint8_t plain[CHANNEL_KEY] = { 0 }, out[CHANNEL_KEY + CHANNEL_TAG];
	crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, plain, sizeof(plain), NULL, 0, NULL, nonce, key);
	memcpy(key, out, CHANNEL_KEY);
}

static void channel_rekeys_after_two_to_the_sixteenth_messages(void **state)
{
	struct pair p;
	pair_init(&p);
	join(&p);
	uint8_t key[CHANNEL_KEY], other[CHANNEL_KEY];
	memcpy(key, p.i.send.key, CHANNEL_KEY);
	memcpy(other, p.i.receive.key, CHANNEL_KEY);
	for (unsigned k = 0; k < 65535; k++)
		pass(&p, (const uint8_t *)"x", 1);
	assert_memory_equal(p.i.send.key, key, CHANNEL_KEY);
	pass(&p, (const uint8_t *)"x", 1);
	expected_rekey(key);
	assert_memory_equal(p.i.send.key, key, CHANNEL_KEY);
	assert_memory_equal(p.r.receive.key, key, CHANNEL_KEY);
	assert_memory_equal(p.i.receive.key, other, CHANNEL_KEY);     /* each direction by itself */
	assert_int_equal(p.i.send.nonce, 65536);                      /* and the counter goes on */
	assert_int_equal(p.i.send.messages, 0);
	pass(&p, (const uint8_t *)"after", 5);
	pair_release(&p);
}

static void channel_rekeys_after_two_to_the_thirtieth_bytes(void **state)
{
	struct pair p;
	pair_init(&p);
	join(&p);
	uint8_t key[CHANNEL_KEY];
	memcpy(key, p.i.send.key, CHANNEL_KEY);
	/* A gigabyte has gone by, but for ten bytes. */
	p.i.send.bytes = p.r.receive.bytes = (UINT64_C(1) << 30) - 10;
	pass(&p, (const uint8_t *)"123456789", 9);
	assert_memory_equal(p.i.send.key, key, CHANNEL_KEY);
	pass(&p, (const uint8_t *)"1", 1);
	expected_rekey(key);
	assert_memory_equal(p.i.send.key, key, CHANNEL_KEY);
	assert_memory_equal(p.r.receive.key, key, CHANNEL_KEY);
	assert_int_equal(p.i.send.bytes, 0);
	pass(&p, (const uint8_t *)"after", 5);
	pair_release(&p);
}

static void channel_never_uses_the_reserved_nonce(void **state)
{
	struct pair p;
	pair_init(&p);
	join(&p);
	p.i.send.nonce = p.r.receive.nonce = UINT64_MAX - 1;
	pass(&p, (const uint8_t *)"last", 4);
	assert_int_equal(channel_seal(&p.i, "x", 1, &p.first), ERR_CRYPTO);
	pair_release(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(channel_passes_every_ikpsk2_vector),
		cmocka_unit_test(channel_carries_payloads_both_ways),
		cmocka_unit_test(channel_forgets_the_secrets_of_the_handshake),
		cmocka_unit_test(channel_with_the_same_psk_joins),
		cmocka_unit_test(channel_refuses_every_bit_flip_of_message_1),
		cmocka_unit_test(channel_refuses_every_bit_flip_of_message_2),
		cmocka_unit_test(channel_refuses_every_truncation_and_a_longer_message),
		cmocka_unit_test(channel_refuses_another_psk),
		cmocka_unit_test(channel_refuses_another_prologue),
		cmocka_unit_test(channel_refuses_a_message_for_another_responder),
		cmocka_unit_test(channel_refuses_low_order_points),
		cmocka_unit_test(channel_refuses_a_low_order_static_key_of_the_initiator),
		cmocka_unit_test(channel_steps_out_of_order_are_refused),
		cmocka_unit_test(channel_dies_of_a_forged_message_only),
		cmocka_unit_test(channel_refuses_replayed_reordered_and_reflected_messages),
		cmocka_unit_test(channel_with_a_full_buffer_changes_nothing),
		cmocka_unit_test(channel_rekeys_after_two_to_the_sixteenth_messages),
		cmocka_unit_test(channel_rekeys_after_two_to_the_thirtieth_bytes),
		cmocka_unit_test(channel_never_uses_the_reserved_nonce),
	};
	if (sodium_init() < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
