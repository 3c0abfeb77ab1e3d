/* fuzz_gateway.c: what another node says in gateway mode.
 *
 * The input is a frame. What must hold: what a decoder takes, its encoder takes too, and it encodes to the same bytes again; and a node that
 * is given the frame by a neighbour, or finds it inside an open stream, goes on: it passes nothing on for others than the neighbour
 * itself, opens no stream for a handshake that is none, and holds no more streams than its limit.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <sodium.h>
#include <string.h>

#include "daemon/route/sealed.h"
#include "proto/err.h"
#include "tests/fuzz/fuzz.h"

static struct frame frame_of(const struct buf *bytes)
{
	struct frame f;
	size_t used;
	must(frame_decode(bytes->data, bytes->length, &f, &used) == 0 && used == bytes->length);
	return f;
}

#define ROUND_TRIP(name, message)                                                \
	static void name##_round_trip(const struct frame *f)                     \
	{                                                                        \
		static struct message m;                                         \
		memset(&m, 0xa5, sizeof(m));                                     \
		if (name##_decode(f, &m))                                        \
			return;                                                  \
		struct buf first, second;                                        \
		buf_init(&first, FRAME_MAX);                                     \
		buf_init(&second, FRAME_MAX);                                    \
		must(name##_encode(&first, &m) == 0);                            \
		struct frame again = frame_of(&first);                           \
		memset(&m, 0x5a, sizeof(m));                                     \
		must(name##_decode(&again, &m) == 0);                            \
		must(name##_encode(&second, &m) == 0);                           \
		must(first.length == second.length && !memcmp(first.data, second.data, first.length)); \
		buf_release(&first);                                             \
		buf_release(&second);                                            \
	}
ROUND_TRIP(sealed, sealed_message)
ROUND_TRIP(gateway_ask, gateway_ask)
ROUND_TRIP(gateway_start, gateway_start)
ROUND_TRIP(gateway_end, gateway_end)

/* --- a node with two neighbours ---------------------------------------------------------------------- */

static const uint8_t self[KEY_BYTES] = {1}, left[KEY_BYTES] = {2}, right[KEY_BYTES] = {3};
static uint8_t secret[KEY_BYTES] = {4};
static size_t passed_on;

static uint64_t now(void *arg)
{
	(void)arg;
	return 1000;
}
static void random_bytes(void *arg, void *out, size_t n)
{
	(void)arg;
	memset(out, 6, n);
}
static int on_send(void *arg, const uint8_t neighbour[KEY_BYTES], struct buf *frame)
{
	struct sealed_message m;
	struct frame f = frame_of(frame);
	(void)arg;
	must(sealed_decode(&f, &m) == 0);
	must(!memcmp(neighbour, left, KEY_BYTES) || !memcmp(neighbour, right, KEY_BYTES));
	/* For a neighbour, what it says itself; otherwise our own, or that it failed. */
	if (memcmp(m.from, self, KEY_BYTES) && m.step != SEALED_FAILED) {
		must(!memcmp(m.from, left, KEY_BYTES));
		passed_on++;
	}
	buf_release(frame);
	return 0;
}
static bool is_up(void *arg, const uint8_t node[KEY_BYTES])
{
	(void)arg;
	return !memcmp(node, left, KEY_BYTES) || !memcmp(node, right, KEY_BYTES);
}
static size_t neighbours(void *arg, uint8_t (*out)[KEY_BYTES], size_t max)
{
	(void)arg;
	must(max >= 2);
	memcpy(out[0], left, KEY_BYTES);
	memcpy(out[1], right, KEY_BYTES);
	return 2;
}
static int link_key(void *arg, const uint8_t node[KEY_BYTES], uint8_t out[KEY_BYTES])
{
	(void)arg;
	(void)node;
	return crypto_scalarmult_base(out, secret) ? ERR_CRYPTO : 0;
}
static bool relays(void *arg)
{
	(void)arg;
	return true;
}
static void *on_open(void *owner, struct sealed_stream *stream, const uint8_t node[KEY_BYTES])
{
	(void)owner;
	(void)stream;
	(void)node;
	must(!"a stream opened that nobody can have opened");
	return NULL;
}
static void on_up(void *owner, void *user)
{
	(void)owner;
	(void)user;
	must(!"a stream stands to which nobody has the key");
}
static int on_frame(void *owner, void *user, const struct frame *frame)
{
	(void)owner;
	(void)user;
	(void)frame;
	must(!"a frame came out of nothing");
	return 0;
}
static void on_closed(void *owner, void *user, int why, const char *detail)
{
	(void)owner;
	(*(int *)user)++;
	must(why < 0 && detail[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct frame f;
	size_t used;
	int why, closed = 0;
	if (frame_decode(data, n, &f, &used))
		return 0;
	sealed_round_trip(&f);
	gateway_ask_round_trip(&f);
	gateway_start_round_trip(&f);
	gateway_end_round_trip(&f);
	if (!gateway_bye_decode(&f, &why))
		must(why <= 0 && why >= -4096);

	struct sealed_config config = {.link_secret = secret, .network = "fuzz", .monotonic_ms = now, .random = random_bytes, .send = on_send, .is_up = is_up,
				       .neighbours = neighbours, .link_key = link_key, .relays = relays, .on_open = on_open, .on_up = on_up,
				       .on_frame = on_frame, .on_closed = on_closed};
	struct sealed *sealed;
	struct sealed_stream *stream;
	memcpy(config.node, self, KEY_BYTES);
	must(sealed_new(&sealed, &config) == 0);
	must(sealed_open(sealed, right, &closed, &stream) == 0);
	passed_on = 0;
	sealed_on_frame(sealed, left, &f);
	sealed_on_frame(sealed, left, &f);
	must(passed_on <= 2);
	must(sealed_counts(sealed).streams <= SEALED_STREAMS_NODE_MAX + 1);
	sealed_tick(sealed);
	must(closed <= 1);
	sealed_free(sealed);
	return 0;
}

bool fuzz_seed(size_t i, struct buf *out)
{
	static const uint8_t message[96] = {5};
	struct sealed_message m = {.step = SEALED_FIRST, .bytes = message, .n = sizeof message};
	struct gateway_end end = {.err = ERR_ARRIVING, .detail = "still arriving", .retry_after = 41, .n_stages = 1,
				  .stages = {{.node = {7}, .text = true, .range = {0, 8}, .rows = 12, .microseconds = 34}}};
	switch (i) {
	case 0:                                         /* a handshake that is none */
		memcpy(m.from, left, KEY_BYTES);
		memcpy(m.to, self, KEY_BYTES);
		return sealed_encode(out, &m) == 0;
	case 1:                                         /* to be passed on */
		memcpy(m.from, left, KEY_BYTES);
		memcpy(m.to, right, KEY_BYTES);
		m.step = SEALED_DATA;
		return sealed_encode(out, &m) == 0;
	case 2:                                         /* not to be passed on */
		memcpy(m.from, right, KEY_BYTES);
		memcpy(m.to, left, KEY_BYTES);
		m.step = SEALED_SECOND;
		return sealed_encode(out, &m) == 0;
	case 3:                                         /* an answer to the stream that is being set up: its id is the random one */
		memcpy(m.from, right, KEY_BYTES);
		memcpy(m.to, self, KEY_BYTES);
		memset(m.channel, 6, sizeof m.channel);
		m.step = SEALED_SECOND;
		return sealed_encode(out, &m) == 0;
	case 4:
		memcpy(m.from, right, KEY_BYTES);
		memcpy(m.to, self, KEY_BYTES);
		memset(m.channel, 6, sizeof m.channel);
		m.step = SEALED_FAILED;
		m.code = ERR_DENIED;
		m.n = 0;
		return sealed_encode(out, &m) == 0;
	case 5:
		return gateway_ask_encode(out, &(struct gateway_ask){.model = "tiny@Abeilles", .max_tokens = 77}) == 0;
	case 6:
		return gateway_start_encode(out, &(struct gateway_start){.model = "tiny", .association = "Abeilles", .prompt_tokens = 9}) == 0;
	case 7:
		return gateway_end_encode(out, &end) == 0;
	case 8:
		return gateway_bye_encode(out, ERR_CANCELLED) == 0;
	default:
		return false;
	}
}
