/* fuzz_handshake.c: both messages of the handshake, and a conversation with a wire that cheats.
 *
 * The first byte chooses:
 *   0  the rest is message 1, read by a responder
 *   1  the rest is message 2, read by an initiator
 *   2  two bytes say what the sides disagree about, the rest is a script of what happens to their messages
 *
 * What must hold:
 *   - no bytes but the honest message are taken, and a channel that refused is dead and wiped;
 *   - sides that agree about PSK, prologue and keys meet, and no others do;
 *   - what arrives is what was sent, in order and once; the first message that was tampered with, replayed, left out or
 *     reflected ends the channel, and nothing is delivered after it.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <sodium.h>
#include <string.h>

#include "proto/channel.h"
#include "tests/fuzz/fuzz.h"

#define PROLOGUE "essaim/1 fuzz"

static uint8_t initiator_secret[CHANNEL_KEY], responder_secret[CHANNEL_KEY], responder_public[CHANNEL_KEY];
static uint8_t initiator_ephemeral[CHANNEL_KEY], responder_ephemeral[CHANNEL_KEY], psk[CHANNEL_KEY];
static struct buf honest_1, honest_2;

struct pair {
	struct channel i, r;
	struct buf one, two, got;
};

static void pair_init(struct pair *p, const char *initiator_prologue)
{
	must(channel_init(&p->i, CHANNEL_INITIATOR, initiator_prologue, strlen(initiator_prologue), initiator_secret,
			  initiator_ephemeral, responder_public) == 0);
	must(channel_init(&p->r, CHANNEL_RESPONDER, PROLOGUE, strlen(PROLOGUE), responder_secret, responder_ephemeral, NULL) == 0);
	channel_set_psk(&p->i, psk);
	channel_set_psk(&p->r, psk);
	buf_init(&p->one, CHANNEL_MESSAGE_MAX);
	buf_init(&p->two, CHANNEL_MESSAGE_MAX);
	buf_init(&p->got, 2 * CHANNEL_MESSAGE_MAX);
}

static void pair_release(struct pair *p)
{
	channel_release(&p->i);
	channel_release(&p->r);
	buf_release(&p->one);
	buf_release(&p->two);
	buf_release(&p->got);
}

static void prepare(void)
{
	static bool ready;
	if (ready)
		return;
	ready = true;
	must(sodium_init() >= 0);
	memset(initiator_secret, 0x11, CHANNEL_KEY);
	memset(responder_secret, 0x22, CHANNEL_KEY);
	memset(initiator_ephemeral, 0x33, CHANNEL_KEY);
	memset(responder_ephemeral, 0x44, CHANNEL_KEY);
	memset(psk, 0x55, CHANNEL_KEY);
	must(crypto_scalarmult_curve25519_base(responder_public, responder_secret) == 0);

	struct pair p;
	pair_init(&p, PROLOGUE);
	buf_init(&honest_1, CHANNEL_MESSAGE_MAX);
	buf_init(&honest_2, CHANNEL_MESSAGE_MAX);
	must(channel_write_1(&p.i, "card", 4, &honest_1) == 0);
	must(channel_read_1(&p.r, honest_1.data, honest_1.length, &p.got) == 0);
	must(channel_write_2(&p.r, "welcome", 7, &honest_2) == 0);
	pair_release(&p);
}

static void check_dead(struct channel *c)
{
	struct buf out;
	buf_init(&out, 256);
	must(channel_seal(c, "x", 1, &out) == ERR_CRYPTO);
	must(channel_open(c, honest_1.data, honest_1.length, &out) == ERR_CRYPTO);
	must(!channel_handshake_hash(c));
	must(sodium_is_zero(c->static_secret, CHANNEL_KEY) && sodium_is_zero(c->send.key, CHANNEL_KEY) &&
	     sodium_is_zero(c->receive.key, CHANNEL_KEY) && sodium_is_zero(c->chaining_key, CHANNEL_KEY));
	buf_release(&out);
}

static bool is_same(const struct buf *honest, const uint8_t *bytes, size_t n)
{
	return n == honest->length && memcmp(bytes, honest->data, n) == 0;
}

static void try_message(const uint8_t *message, size_t n, bool first)
{
	struct pair p;
	pair_init(&p, PROLOGUE);
	int err;
	if (first) {
		err = channel_read_1(&p.r, message, n, &p.got);
	} else {
		must(channel_write_1(&p.i, "card", 4, &p.one) == 0);
		err = channel_read_2(&p.i, message, n, &p.got);
	}
	must((err == 0) == is_same(first ? &honest_1 : &honest_2, message, n));
	if (err) {
		must(err == ERR_SIGNATURE || err == ERR_CRYPTO || err == ERR_MALFORMED || err == ERR_LIMIT);
		must(p.got.length == 0);
		check_dead(first ? &p.r : &p.i);
	} else {
		must(p.got.length == (first ? 4 : 7));
	}
	pair_release(&p);
}

/* --- a conversation ---------------------------------------------------------------------------------------- */

enum { DIFFERENT_PSK = 1, DIFFERENT_PROLOGUE = 2, DIFFERENT_KEY = 4 };

static bool meet(struct pair *p, uint8_t differences)
{
	static const uint8_t other_key[CHANNEL_KEY] = { 9 };
	pair_init(p, differences & DIFFERENT_PROLOGUE ? "essaim/2 fuzz" : PROLOGUE);
	if (differences & DIFFERENT_PSK)
		channel_set_psk(&p->r, other_key);
	if (differences & DIFFERENT_KEY) {
		channel_release(&p->r);
		must(channel_init(&p->r, CHANNEL_RESPONDER, PROLOGUE, strlen(PROLOGUE), other_key, responder_ephemeral, NULL) == 0);
		channel_set_psk(&p->r, psk);
	}

	must(channel_write_1(&p->i, NULL, 0, &p->one) == 0);
	if (channel_read_1(&p->r, p->one.data, p->one.length, &p->got))
		return false;
	must(channel_write_2(&p->r, NULL, 0, &p->two) == 0);
	if (channel_read_2(&p->i, p->two.data, p->two.length, &p->got))
		return false;
	must(memcmp(channel_handshake_hash(&p->i), channel_handshake_hash(&p->r), 32) == 0);
	return true;
}

enum fate { ARRIVES, FLIPPED, CUT, LENGTHENED, REPLAYED, REFLECTED, LOST_BEFORE, FATES };

/* One message from one side to the other: false when the receiver must have died of it. */
static bool pass(struct channel *from, struct channel *to, enum fate fate, uint8_t size, struct buf *wire, struct buf *got)
{
	uint8_t plain[256];
	memset(plain, size, sizeof(plain));
	buf_clear(wire);
	buf_clear(got);
	if (fate == LOST_BEFORE) {
		must(channel_seal(from, "lost", 4, wire) == 0);
		buf_clear(wire);
	}
	must(channel_seal(from, plain, size, wire) == 0);
	must(wire->length == (size_t)size + CHANNEL_TAG);

	struct channel *reader = fate == REFLECTED ? from : to;
	int err;
	switch (fate) {
	case FLIPPED:
		wire->data[size % wire->length] ^= (uint8_t)(1 << size % 8);
		break;
	case CUT:
		wire->length -= 1 + size % wire->length;
		break;
	case LENGTHENED:
		must(buf_append(wire, "", 1) == 0);
		break;
	case REPLAYED:
		must(channel_open(to, wire->data, wire->length, got) == 0);
		buf_clear(got);
		break;
	case ARRIVES:
	case REFLECTED:
	case LOST_BEFORE:
	case FATES:
		break;
	}
	err = channel_open(reader, wire->data, wire->length, got);
	if (fate == ARRIVES) {
		must(err == 0 && got->length == size && memcmp(got->data, plain, size) == 0);
		return true;
	}
	must(err == ERR_SIGNATURE || err == ERR_MALFORMED);
	must(got->length == 0);
	check_dead(reader);
	return false;
}

static void talk(const uint8_t *script, size_t n)
{
	if (n < 2)
		return;
	uint8_t differences = script[0] & 7, jump = script[1];
	struct pair p;
	bool met = meet(&p, differences);
	must(met == (differences == 0));

	/* Not far from the boundary, the two sides change keys on the way. */
	if (met && jump) {
		uint64_t messages = (UINT64_C(1) << 16) - jump;
		p.i.send.messages = p.r.receive.messages = messages;
		p.r.send.bytes = p.i.receive.bytes = (UINT64_C(1) << 30) - 100 * jump;
	}
	for (size_t at = 2; met && at + 1 < n && at < 600; at += 2) {
		bool forth = script[at] & 0x80;
		enum fate fate = (script[at] & 0x7f) < FATES ? (enum fate)(script[at] & 0x7f) : ARRIVES;
		met = pass(forth ? &p.i : &p.r, forth ? &p.r : &p.i, fate, script[at + 1], &p.one, &p.got);
	}
	pair_release(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	prepare();
	if (n == 0)
		return 0;
	if (*data % 3 == 2)
		talk(data + 1, n - 1);
	else
		try_message(data + 1, n - 1, *data % 3 == 0);
	return 0;
}

bool fuzz_seed(size_t i, struct buf *out)
{
	static const uint8_t scripts[][13] = {
		{ 2, 0, 0, 0x80, 5, 0x00, 0, 0x80, 255, 0x80 | FLIPPED, 3, 0, 0 },
		{ 2, 0, 3, 0x80, 5, 0x80, 5, 0x80, 5, 0x80, 5, 0x80 | REPLAYED, 9 },
		{ 2, 0, 1, 0x00, 99, 0x00, 99, 0x00, 1, 0x00 | LOST_BEFORE, 1, 0, 0 },
		{ 2, 0, 0, 0x00, 1, 0x80 | CUT, 7, 0, 0, 0, 0, 0, 0 },
		{ 2, 0, 0, 0x80 | REFLECTED, 1, 0, 0, 0, 0, 0, 0, 0, 0 },
		{ 2, 0, 0, 0x00 | LENGTHENED, 1, 0, 0, 0, 0, 0, 0, 0, 0 },
		{ 2, DIFFERENT_PSK, 0 }, { 2, DIFFERENT_PROLOGUE, 0 }, { 2, DIFFERENT_KEY, 0 },
	};
	prepare();
	if (i < 2) {
		const struct buf *honest = i ? &honest_2 : &honest_1;
		uint8_t mode = (uint8_t)i;
		must(buf_append(out, &mode, 1) == 0 && buf_append(out, honest->data, honest->length) == 0);
		return true;
	}
	if (i - 2 >= sizeof(scripts) / sizeof(*scripts))
		return false;
	must(buf_append(out, scripts[i - 2], sizeof(*scripts)) == 0);
	return true;
}
