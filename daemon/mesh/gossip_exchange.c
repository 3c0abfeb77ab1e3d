/* gossip_exchange.c: two neighbours find out what one of them lacks; gossip.h draws the exchange.
 *
 * Where nothing moves any more although two sides differ (a record that one of them may not accept), the pair is
 * *settled*: the same root of the other side is not answered again until something changes here, or a minute has passed.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/mesh/gossip_internal.h"

#include <errno.h>
#include <string.h>

#include "proto/err.h"
#include "proto/pack.h"

#define SETTLED_MS 60000
#define ANSWER_BYTES (4u << 20)            /* records for one WANT */
#define TOKEN_MS 100                       /* and one more each */
#define HASHES_MAX (2u * TRUST_RECORDS_MAX)

static int bucket_head(struct buf *tail, uint8_t kind, const uint8_t association[KEY_BYTES], uint32_t count)
{
	uint8_t bytes[1 + KEY_BYTES + 4] = {kind};
	memcpy(bytes + 1, association, KEY_BYTES);
	put_u32(bytes + 1 + KEY_BYTES, count);
	return buf_append(tail, bytes, sizeof bytes);
}

static int answer_root(struct gossip *g, struct gossip_peer *p, const uint8_t root[KEY_BYTES], struct gossip_clock clock)
{
	uint8_t own[KEY_BYTES];
	gossip_index_root(&g->index, g->config.trust, p->node, clock.now, own);
	if (!memcmp(own, root, KEY_BYTES))
		return 0;
	if (p->settled && !memcmp(p->settled_root, root, KEY_BYTES) && p->settled_generation == trust_generation(g->config.trust) &&
	    clock.ms < p->settled_ms + SETTLED_MS)
		return 0;

	struct buf tail;
	buf_init(&tail, FRAME_TAIL_MAX);
	int err = 0;
	for (size_t i = 0; !err && i < g->index.n_buckets; i++) {
		const struct bucket *b = &g->index.buckets[i];
		uint8_t sum[BUCKET_SUM_BYTES];
		uint32_t count;
		if (!gossip_index_view(&g->index, b, g->config.trust, p->node, clock.now, &count, sum))
			continue;
		err = bucket_head(&tail, b->kind, b->association, count);
		if (!err)
			err = buf_append(&tail, sum, sizeof sum);
	}
	if (!err)
		gossip_send_digest(g, p, 1, false, &tail, clock);
	buf_release(&tail);
	return err;
}

static int append_hashes(struct gossip *g, struct gossip_peer *p, struct buf *tail, uint8_t kind, const uint8_t *association, struct gossip_clock clock)
{
	const struct bucket *b = gossip_index_find(&g->index, kind, association);
	size_t at = tail->length;
	uint32_t count = 0;
	int err = bucket_head(tail, kind, association, 0);
	for (uint32_t i = b ? b->first : INDEX_END; !err && i != INDEX_END; i = g->index.records[i].next) {
		const uint8_t *hash = g->index.records[i].hash;
		if (!gossip_index_shows(b, g->config.trust, hash, p->node, clock.now))
			continue;
		err = buf_append(tail, hash, KEY_BYTES);
		count++;
	}
	if (!err)
		put_u32(tail->data + at + 1 + KEY_BYTES, count);
	return err;
}

#define SUMMARY_BYTES (1 + KEY_BYTES + 4 + BUCKET_SUM_BYTES)

static int compare_summaries(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock)
{
	if (f->tail_length % SUMMARY_BYTES)
		return ERR_MALFORMED;
	if (f->tail_length / SUMMARY_BYTES > BUCKETS_MAX)
		return ERR_LIMIT;
	struct buf tail;
	buf_init(&tail, FRAME_TAIL_MAX);
	int err = 0;
	memset(g->seen, 0, sizeof g->seen);
	for (size_t at = 0; !err && at < f->tail_length; at += SUMMARY_BYTES) {
		const uint8_t *s = f->tail + at;
		const struct bucket *b = gossip_index_find(&g->index, s[0], s + 1);
		uint8_t sum[BUCKET_SUM_BYTES];
		uint32_t count;
		if (b)
			g->seen[b - g->index.buckets] = true;
		if (b && gossip_index_view(&g->index, b, g->config.trust, p->node, clock.now, &count, sum) &&
		    !memcmp(sum, s + 1 + KEY_BYTES + 4, sizeof sum))
			continue;
		err = append_hashes(g, p, &tail, s[0], s + 1, clock);
	}
	/* and those that only we have */
	for (size_t i = 0; !err && i < g->index.n_buckets; i++) {
		const struct bucket *b = &g->index.buckets[i];
		uint8_t sum[BUCKET_SUM_BYTES];
		uint32_t count;
		if (!g->seen[i] && gossip_index_view(&g->index, b, g->config.trust, p->node, clock.now, &count, sum))
			err = append_hashes(g, p, &tail, b->kind, b->association, clock);
	}
	if (!err && tail.length)
		gossip_send_digest(g, p, 2, false, &tail, clock);
	buf_release(&tail);
	return err;
}

static void send_want(struct gossip *g, struct gossip_peer *p, const struct buf *wanted, struct gossip_clock clock)
{
	static const uint8_t empty_map[] = {0x80};
	struct buf head;
	buf_init(&head, 16);
	if (!buf_append(&head, empty_map, sizeof empty_map))
		gossip_send_frame(g, p, FRAME_WANT, &head, wanted, clock);
	buf_release(&head);
}

/* The other side's hashes: asks for those that are lacking here, and shows ours when they were not an answer. */
static int compare_hashes(struct gossip *g, struct gossip_peer *p, const struct frame *f, const uint8_t root[KEY_BYTES], bool answer,
			  struct gossip_clock clock)
{
	struct buf tail, wanted;
	buf_init(&tail, FRAME_TAIL_MAX);
	buf_init(&wanted, GOSSIP_WANT_MAX * KEY_BYTES);
	size_t hashes = 0, lacking = 0;
	int err = 0;
	for (size_t at = 0; !err && at < f->tail_length;) {
		const uint8_t *b = f->tail + at;
		size_t left = f->tail_length - at;
		if (left < 1 + KEY_BYTES + 4 || get_u32(b + 1 + KEY_BYTES) > (left - (1 + KEY_BYTES + 4)) / KEY_BYTES) {
			err = ERR_MALFORMED;
			break;
		}
		uint32_t count = get_u32(b + 1 + KEY_BYTES);
		at += 1 + KEY_BYTES + 4 + (size_t)count * KEY_BYTES;
		hashes += count + 1;
		if (hashes > HASHES_MAX) {
			err = ERR_LIMIT;
			break;
		}
		for (uint32_t i = 0; !err && i < count; i++) {
			const uint8_t *hash = b + 1 + KEY_BYTES + 4 + (size_t)i * KEY_BYTES;
			if (trust_by_hash(g->config.trust, hash) || gossip_is_refused(g, hash, clock.ms))
				continue;
			lacking++;
			if (wanted.length < wanted.max)
				err = buf_append(&wanted, hash, KEY_BYTES);
		}
		if (!err && !answer)
			err = append_hashes(g, p, &tail, b[0], b + 1, clock);
	}
	if (!err && !answer && tail.length)
		gossip_send_digest(g, p, 2, true, &tail, clock);
	if (!err) {
		p->more = lacking > GOSSIP_WANT_MAX;
		p->authority_seen = g->authority;
		p->denied = p->gained = p->ended = false;
		if (wanted.length)
			send_want(g, p, &wanted, clock);
		p->settled = !lacking;
		memcpy(p->settled_root, root, KEY_BYTES);
		p->settled_generation = trust_generation(g->config.trust);
		p->settled_ms = clock.ms;
	}
	buf_release(&tail);
	buf_release(&wanted);
	return err;
}

static bool may_ask(struct gossip_peer *p, uint64_t ms)
{
	uint64_t more = (ms - p->tokens_ms) / TOKEN_MS;
	p->tokens_ms += more * TOKEN_MS;
	p->tokens = p->tokens + more > TOKENS_MAX_PEER ? TOKENS_MAX_PEER : p->tokens + (unsigned)more;
	if (!p->tokens)
		return false;
	p->tokens--;
	return true;
}

int gossip_on_digest(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock)
{
	struct pack_doc doc;
	int err = pack_parse(&doc, f->head, f->head_length, &pack_limits_head);
	if (err)
		return err;
	uint8_t root[KEY_BYTES];
	struct pack_cursor c = pack_root(&doc, &err);
	unsigned level = (unsigned)pack_get_uint(c, "level", 2);
	bool answer = pack_get_bool_or(c, "answer", false);
	pack_get_exact(c, "root", root, sizeof root);
	pack_release(&doc);
	if (err)
		return err;
	if (!may_ask(p, clock.ms))
		return 0;
	err = gossip_index_update(&g->index, g->config.trust);
	if (err)
		return 0;                          /* no memory now: later */
	if (level == 0)
		err = answer_root(g, p, root, clock);
	else if (level == 1)
		err = compare_summaries(g, p, f, clock);
	else
		err = compare_hashes(g, p, f, root, answer, clock);
	return err == -ENOMEM ? 0 : err;
}

/* It asks what we said last, for it cannot let us in by what it has. */
static void say_last_word(struct gossip *g, struct gossip_peer *p, struct gossip_clock clock)
{
	uint8_t association[KEY_BYTES];
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	if (!trust_association_of(g->config.trust, p->node, clock.now, association) &&
	    !gossip_last_word(&frame, g->config.trust, association, clock.now))
		g->config.send(g->config.arg, p->node, &frame);
	buf_release(&frame);
}

int gossip_on_want(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock)
{
	if (f->tail_length % KEY_BYTES)
		return ERR_MALFORMED;
	if (f->tail_length / KEY_BYTES > GOSSIP_WANT_MAX)
		return ERR_LIMIT;
	if (!may_ask(p, clock.ms))
		return 0;
	if (!f->tail_length) {
		say_last_word(g, p, clock);
		return 0;
	}
	struct buf tail;
	buf_init(&tail, FRAME_TAIL_MAX);
	size_t sent = 0;
	int err = 0;
	for (size_t at = 0; !err && at < f->tail_length && sent < ANSWER_BYTES; at += KEY_BYTES) {
		const struct record *r = trust_by_hash(g->config.trust, f->tail + at);
		if (!r || !trust_may_see(g->config.trust, r, p->node, clock.now))
			continue;
		if (tail.length && tail.length + r->length > GOSSIP_FRAME_BYTES) {
			err = gossip_send_records(g, p, &tail, false, clock);
			buf_clear(&tail);
		}
		if (!err)
			err = gossip_append_record(&tail, r->bytes, r->length);
		sent += r->length;
		g->counts.records_sent++;
	}
	if (!err)
		gossip_send_records(g, p, &tail, true, clock);
	buf_release(&tail);
	return 0;                                  /* a full queue is not the asker's fault */
}

int gossip_on_records(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock)
{
	struct pack_doc doc;
	int err = pack_parse(&doc, f->head, f->head_length, &pack_limits_head);
	if (err)
		return err;
	bool last = pack_get_bool_or(pack_root(&doc, &err), "last", false);
	pack_release(&doc);
	if (err)
		return err;
	const uint8_t *at = f->tail, *record;
	size_t left = f->tail_length, n;
	while (gossip_next_record(&at, &left, &record, &n, &err))
		;
	if (err)
		return err;
	if (buf_append(&p->inbox, f->tail, f->tail_length))
		p->more = true;                    /* the inbox is full: another exchange brings it */
	p->ended |= last;
	if (last && !p->inbox.length)
		gossip_inbox_done(g, p, clock);
	return 0;
}
