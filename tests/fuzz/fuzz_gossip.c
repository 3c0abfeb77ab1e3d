/* fuzz_gossip.c: what an admitted neighbour may send over a bulk link: digests, wants and records, one after the other.
 *
 * Input: frames as (type u8: 0 DIGEST, 1 WANT, 2 RECORDS, 3 time passes; head length u8, tail length u16, head, tail). What
 * must hold: nothing is sent to anybody but the neighbour, records that were taken are current and verify, memory is bounded by
 * the inbox, and two sets that are the same stay silent.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include <sodium.h>

#include "daemon/mesh/gossip.h"
#include "proto/err.h"
#include "proto/pack.h"
#include "tests/fuzz/fuzz.h"

#define NOW 1800000000ull
#define LIFE 2592000ull

struct pair {
	uint8_t key[KEY_BYTES], secret[SIGN_SECRET_BYTES];
};
static struct pair root, steward, own, other;
static struct trust *trust;
static size_t sent_bytes;
static uint64_t draws;

static struct pair pair_of(uint8_t which)
{
	uint8_t seed[32] = {which};
	struct pair p;
	crypto_sign_seed_keypair(p.key, p.secret, seed);
	return p;
}

static struct record head_of(const uint8_t *subject, uint64_t sequence)
{
	struct record head = {.sequence = sequence, .issued = NOW, .expires = NOW + LIFE};
	memcpy(head.association, root.key, KEY_BYTES);
	memcpy(head.subject, subject, KEY_BYTES);
	return head;
}

/* Record i of what there is to say: association, steward, roster of both nodes, own card, the neighbour's card and advert. */
static bool record_of(size_t i, struct buf *out)
{
	struct record head = head_of(i == 3 ? own.key : i > 3 ? other.key : root.key, 1);
	int err = ERR_UNKNOWN;
	if (i == 0)
		err = association_sign(out, &head, &(struct association_body){.name = "Abeille"}, root.secret);
	if (i == 1) {
		struct steward_body b;
		memcpy(b.steward, steward.key, KEY_BYTES);
		err = steward_sign(out, &head, &b, root.secret);
	}
	if (i == 2) {
		uint8_t nodes[2][KEY_BYTES];
		memcpy(nodes[0], own.key, KEY_BYTES);
		memcpy(nodes[1], other.key, KEY_BYTES);
		err = roster_sign(out, &head, &(struct roster_body){.n_nodes = 2, .nodes = nodes}, steward.secret);
	}
	if (i == 3 || i == 4) {
		struct card_body b = {.name = "n", .version_low = 1, .version_high = 1, .n_addresses = 1, .addresses = {"192.0.2.1:7740"}};
		memcpy(b.link_key, own.key, KEY_BYTES);
		err = card_sign(out, &head, &b, i == 3 ? own.secret : other.secret);
	}
	if (i == 5)
		err = advert_sign(out, &head, &(struct advert_body){.budget_bytes = 1, .engine = "llama 0.7.0 q1a2b3c4 cpu"}, other.secret);
	return !err;
}

static int on_send(void *arg, const uint8_t node[KEY_BYTES], struct buf *frame)
{
	struct frame f;
	size_t used;
	must(!memcmp(node, other.key, KEY_BYTES));
	must(!frame_decode(frame->data, frame->length, &f, &used) && used == frame->length);
	must(f.type == FRAME_DIGEST || f.type == FRAME_WANT || f.type == FRAME_RECORDS);
	sent_bytes += frame->length;
	buf_release(frame);
	return 0;
}

static void on_random(void *arg, void *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)out)[i] = (uint8_t)(draws++ * 37);
}

static bool check_record(const struct record *r, void *arg)
{
	struct record again;
	must(!record_open(&again, r->bytes, r->length));
	must(!memcmp(again.hash, r->hash, KEY_BYTES));
	return true;
}

static void begin(void)
{
	static struct buf records[4];              /* the same for every input, and dear, as is a trust that nothing was added to */
	static uint64_t generation;
	if (!records[0].length) {
		if (sodium_init() < 0)
			abort();
		root = pair_of(1);
		steward = pair_of(2);
		own = pair_of(3);
		other = pair_of(4);
		for (size_t i = 0; i < 4; i++) {
			buf_init(&records[i], RECORD_MAX);
			must(record_of(i, &records[i]));
		}
	}
	if (!trust || trust_generation(trust) != generation) {
		trust_free(trust);
		trust = trust_new(root.key, own.key);
		must(trust);
		for (size_t i = 0; i < 4; i++)
			must(trust_accept(trust, records[i].data, records[i].length, NOW) == 1);
		generation = trust_generation(trust);
	}
	must(!trust_admits(trust, other.key, NOW));
	sent_bytes = draws = 0;
}

static void give(struct gossip *g, const uint8_t *data, size_t n)
{
	static const enum frame_type types[] = {FRAME_DIGEST, FRAME_WANT, FRAME_RECORDS};
	struct gossip_clock clock = {.now = NOW, .ms = 1000};
	while (n >= 4) {
		size_t head = data[1], tail = get_u16(data + 2), type = data[0] % 4;
		data += 4;
		n -= 4;
		if (head > n)
			head = n;
		if (tail > n - head)
			tail = n - head;
		if (type == 3) {
			clock.ms += 3000;
			gossip_tick(g, clock);
		} else {
			struct frame frame = {.type = types[type], .head = data, .head_length = head, .tail = data + head, .tail_length = tail};
			if (gossip_frame(g, other.key, &frame, clock))
				return;            /* the link is closed */
		}
		const uint8_t *bad;
		while (gossip_work(g, clock, &bad))
			if (bad)
				return;
		data += head + tail;
		n -= head + tail;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	begin();
	struct gossip_config config = {.trust = trust, .send = on_send, .random = on_random};
	memcpy(config.node, own.key, KEY_BYTES);
	struct gossip *g = gossip_new(&config);
	must(g && !gossip_peer_up(g, other.key, (struct gossip_clock){.now = NOW, .ms = 1000}));
	give(g, data, n);
	must(sent_bytes < 64u << 20);
	struct gossip_counts counts = gossip_counts(g);
	if (counts.records_taken)
		trust_each(trust, 0, check_record, NULL);
	/* what can be taken at all are the neighbour's own card and advert */
	must(counts.records_taken <= 2);
	gossip_free(g);
	return 0;
}

/* --- honest examples ------------------------------------------------------------------------------ */

static void put(struct buf *out, uint8_t type, const struct buf *head, const struct buf *tail)
{
	uint8_t bytes[4] = {type, (uint8_t)head->length};
	put_u16(bytes + 2, (uint16_t)tail->length);
	must(!buf_append(out, bytes, 4) && !buf_append(out, head->data, head->length) && !buf_append(out, tail->data, tail->length));
}

static void put_digest(struct buf *out, unsigned level, bool answer, const struct buf *tail)
{
	struct buf head;
	struct pack_writer w;
	uint8_t root_hash[KEY_BYTES] = {(uint8_t)level};
	buf_init(&head, 128);
	pack_writer_init(&w, &head);
	pack_map(&w, 3);
	pack_kv_uint(&w, "level", level);
	pack_kv_bin(&w, "root", root_hash, sizeof root_hash);
	pack_kv_bool(&w, "answer", answer);
	must(!w.err);
	put(out, 0, &head, tail);
	buf_release(&head);
}

bool fuzz_seed(size_t i, struct buf *out)
{
	if (i > 6)
		return false;
	begin();
	struct buf head, tail, record;
	uint8_t bucket[1 + KEY_BYTES + 4] = {RECORD_CARD}, hash[KEY_BYTES];
	buf_init(&head, 64);
	buf_init(&tail, 1 << 16);
	buf_init(&record, RECORD_MAX);
	must(!buf_append(&head, "\x80", 1));
	memcpy(bucket + 1, root.key, KEY_BYTES);
	put_u32(bucket + 1 + KEY_BYTES, 1);
	must(record_of(3, &record));
	crypto_generichash(hash, sizeof hash, record.data, record.length, NULL, 0);
	if (i == 0) {                              /* a root, summaries, hashes */
		put_digest(out, 0, false, &tail);
		must(!buf_append(&tail, bucket, sizeof bucket) && !buf_append(&tail, hash, 16));
		put_digest(out, 1, false, &tail);
		buf_clear(&tail);
		must(!buf_append(&tail, bucket, sizeof bucket) && !buf_append(&tail, root.key, KEY_BYTES));
		put_digest(out, 2, false, &tail);
		put_digest(out, 2, true, &tail);
	} else if (i == 1) {                       /* wants what there is, and what there is not */
		must(!buf_append(&tail, hash, sizeof hash) && !buf_append(&tail, root.key, KEY_BYTES));
		put(out, 1, &head, &tail);
	} else if (i == 2 || i == 3) {             /* its card and advert, in both orders */
		for (size_t k = 0; k < 2; k++) {
			buf_clear(&record);
			must(record_of(4 + (k + i) % 2, &record));
			must(!gossip_append_record(&tail, record.data, record.length));
		}
		put(out, 2, &head, &tail);
	} else if (i == 4) {                       /* a forged one */
		buf_clear(&record);
		must(record_of(4, &record));
		record.data[record.length - 1] ^= 1;
		must(!gossip_append_record(&tail, record.data, record.length));
		put(out, 2, &head, &tail);
	} else if (i == 5) {                       /* what did you say last */
		put(out, 1, &head, &tail);
	} else {                                   /* rounds go by */
		for (int k = 0; k < 5; k++) {
			put(out, 3, &head, &tail);
			put_digest(out, 0, false, &tail);
		}
	}
	buf_release(&head);
	buf_release(&tail);
	buf_release(&record);
	return true;
}
