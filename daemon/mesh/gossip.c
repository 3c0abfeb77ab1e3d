/* gossip.c: rumour and anti-entropy; gossip.h says how an exchange goes.
 *
 * Where nothing moves any more although two sides differ (a record that one of them may not accept), the pair is
 * *settled*: the same root of the other side is not answered again until something changes here, or a minute has passed.
 * A record that was refused is not asked for again at once either: a denied one soon (who entitles its signer may be on
 * the way), any other much later.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/mesh/gossip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "daemon/mesh/gossip_index.h"
#include "proto/err.h"
#include "proto/pack.h"

#define SETTLED_MS 60000
#define REFUSED_SLOTS 2048
#define REFUSED_MS 60000                   /* stale, expired: the other side will soon know better */
#define REFUSED_LONG_MS 600000             /* never to be right */
#define DENIED_FIRST_MS 1000
#define DENIED_MOST 6                      /* doublings */
#define ANSWER_BYTES (4u << 20)            /* records for one WANT */
#define TOKENS_MAX_PEER 64                 /* requests of one neighbour at once */
#define TOKEN_MS 100                       /* and one more each */
#define HASHES_MAX (2u * TRUST_RECORDS_MAX)

struct gossip_peer {
	uint8_t node[KEY_BYTES];
	uint64_t next_ms;                  /* of the next round */
	struct buf inbox;                  /* records, each behind its length; inbox_at of it are done */
	size_t inbox_at;
	/* the exchange in progress */
	bool more;                         /* more is lacking than was asked for, or was dropped here */
	bool denied, gained;
	uint64_t authority_seen;
	bool ended;                        /* the last answer to our WANT is in the inbox */
	/* settled */
	bool settled;
	uint8_t settled_root[KEY_BYTES];
	uint64_t settled_generation, settled_ms;
	/* how often it asks */
	unsigned tokens;
	uint64_t tokens_ms;
};

struct news {                              /* a record that was just taken */
	uint8_t hash[KEY_BYTES], from[KEY_BYTES];
	bool own;
};

struct refused {
	uint8_t hash[KEY_BYTES];
	uint64_t until_ms;
	unsigned times;
};

struct gossip {
	struct gossip_config config;
	struct gossip_index index;
	size_t n_peers, turn;
	struct gossip_peer *peers[GOSSIP_PEERS_MAX];
	uint64_t authority;                /* records taken that may entitle others */
	struct refused refused[REFUSED_SLOTS];
	struct gossip_counts counts;
	uint8_t bad[KEY_BYTES];
};

struct gossip *gossip_new(const struct gossip_config *config)
{
	struct gossip *g = calloc(1, sizeof *g);
	if (g)
		g->config = *config;
	return g;
}

static void peer_free(struct gossip_peer *p)
{
	buf_release(&p->inbox);
	free(p);
}

void gossip_free(struct gossip *g)
{
	if (!g)
		return;
	for (size_t i = 0; i < g->n_peers; i++)
		peer_free(g->peers[i]);
	gossip_index_release(&g->index);
	free(g);
}

static struct gossip_peer *find_peer(const struct gossip *g, const uint8_t *node)
{
	for (size_t i = 0; i < g->n_peers; i++)
		if (!memcmp(g->peers[i]->node, node, KEY_BYTES))
			return g->peers[i];
	return NULL;
}

static uint32_t random_u32(struct gossip *g)
{
	uint32_t r;
	g->config.random(g->config.arg, &r, sizeof r);
	return r;
}

/* A round's length, between half and one and a half. Who has many neighbours asks each of them less often. */
static uint64_t jittered(struct gossip *g)
{
	uint64_t round = (uint64_t)g->n_peers * GOSSIP_EACH_MS;
	if (round < GOSSIP_ROUND_MS)
		round = GOSSIP_ROUND_MS;
	return round / 2 + random_u32(g) % round;
}

int gossip_peer_up(struct gossip *g, const uint8_t node[KEY_BYTES], struct gossip_clock clock)
{
	struct gossip_peer *p = find_peer(g, node);
	if (p)
		gossip_peer_down(g, node);
	if (g->n_peers == GOSSIP_PEERS_MAX)
		return ERR_LIMIT;
	p = calloc(1, sizeof *p);
	if (!p)
		return -ENOMEM;
	memcpy(p->node, node, KEY_BYTES);
	buf_init(&p->inbox, GOSSIP_INBOX_MAX);
	p->tokens = TOKENS_MAX_PEER;
	p->tokens_ms = clock.ms;
	p->next_ms = memcmp(g->config.node, node, KEY_BYTES) < 0 ? clock.ms : clock.ms + jittered(g);
	g->peers[g->n_peers++] = p;
	return 0;
}

void gossip_peer_down(struct gossip *g, const uint8_t node[KEY_BYTES])
{
	for (size_t i = 0; i < g->n_peers; i++) {
		if (memcmp(g->peers[i]->node, node, KEY_BYTES))
			continue;
		peer_free(g->peers[i]);
		g->peers[i] = g->peers[--g->n_peers];
		return;
	}
}

/* --- sending ------------------------------------------------------------------------------------- */

static int send_frame(struct gossip *g, struct gossip_peer *p, enum frame_type type, const struct buf *head, const struct buf *tail,
		      struct gossip_clock clock)
{
	if (trust_admits(g->config.trust, p->node, clock.now))
		return ERR_DENIED;
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err = frame_encode(&frame, type, head->data, head->length, tail ? tail->data : NULL, tail ? tail->length : 0);
	size_t length = frame.length;
	if (!err)
		err = g->config.send(g->config.arg, p->node, &frame);
	buf_release(&frame);
	if (!err)
		g->counts.bytes_sent += length;
	return err;
}

static int send_digest(struct gossip *g, struct gossip_peer *p, unsigned level, bool answer, const struct buf *tail, struct gossip_clock clock)
{
	uint8_t root[KEY_BYTES];
	gossip_index_root(&g->index, g->config.trust, p->node, clock.now, root);
	struct buf head;
	buf_init(&head, 128);
	struct pack_writer w;
	pack_writer_init(&w, &head);
	pack_map(&w, 3);
	pack_kv_uint(&w, "level", level);
	pack_kv_bin(&w, "root", root, sizeof root);
	pack_kv_bool(&w, "answer", answer);
	int err = w.err ? w.err : send_frame(g, p, FRAME_DIGEST, &head, tail, clock);
	buf_release(&head);
	if (!err)
		g->counts.digests_sent++;
	return err;
}

static void begin_exchange(struct gossip *g, struct gossip_peer *p, struct gossip_clock clock)
{
	p->more = p->denied = p->gained = p->ended = false;
	p->authority_seen = g->authority;
	p->next_ms = clock.ms + jittered(g);
	if (!gossip_index_update(&g->index, g->config.trust))
		send_digest(g, p, 0, false, NULL, clock);
}

void gossip_tick(struct gossip *g, struct gossip_clock clock)
{
	for (size_t i = 0; i < g->n_peers; i++)
		if (clock.ms >= g->peers[i]->next_ms)
			begin_exchange(g, g->peers[i], clock);
}

int gossip_append_record(struct buf *tail, const uint8_t *record, size_t n)
{
	uint8_t length[4];
	put_u32(length, (uint32_t)n);
	if (n > RECORD_MAX || sizeof length + n > tail->max - tail->length)
		return ERR_LIMIT;
	int err = buf_append(tail, length, sizeof length);
	return err ? err : buf_append(tail, record, n);
}

static int send_records(struct gossip *g, struct gossip_peer *p, const struct buf *tail, bool last, struct gossip_clock clock)
{
	struct buf head;
	buf_init(&head, 64);
	struct pack_writer w;
	pack_writer_init(&w, &head);
	pack_map(&w, 1);
	pack_kv_bool(&w, "last", last);
	int err = w.err ? w.err : send_frame(g, p, FRAME_RECORDS, &head, tail, clock);
	buf_release(&head);
	return err;
}

/* What others wait for, and what somebody may no longer do, goes to everybody at once. */
static bool is_urgent(enum record_kind kind)
{
	return kind == RECORD_STEWARD || kind == RECORD_ROSTER || kind == RECORD_AGREEMENT || kind == RECORD_ACCEPTANCE || kind == RECORD_APPROVAL;
}

static void spread_to(struct gossip *g, struct gossip_peer *p, const struct news *news, size_t n, bool chosen, struct gossip_clock clock)
{
	struct buf tail;
	buf_init(&tail, FRAME_TAIL_MAX);
	for (size_t i = 0; i < n; i++) {
		const struct record *r = trust_by_hash(g->config.trust, news[i].hash);
		if (!r || !(chosen || news[i].own || is_urgent(r->kind)) || !memcmp(news[i].from, p->node, KEY_BYTES) ||
		    !trust_may_see(g->config.trust, r, p->node, clock.now))
			continue;
		if (!gossip_append_record(&tail, r->bytes, r->length))
			g->counts.records_sent++;
	}
	if (tail.length)
		send_records(g, p, &tail, false, clock);
	buf_release(&tail);
}

/* Passes on what was just taken. Who says something new, or something urgent, tells all his neighbours; the rest is passed on to
 * GOSSIP_FANOUT of them: where everybody is everybody's neighbour that is enough, and all to all would be far too much. What
 * does not get through is mended by the next exchange. */
static void spread(struct gossip *g, const struct news *news, size_t n, struct gossip_clock clock)
{
	size_t first = g->n_peers ? random_u32(g) % g->n_peers : 0;
	for (size_t i = 0; i < g->n_peers; i++) {
		size_t at = (first + i) % g->n_peers;
		/* one more than the fanout: it may be the one that told us */
		spread_to(g, g->peers[at], news, n, i <= GOSSIP_FANOUT, clock);
	}
}

/* --- taking -------------------------------------------------------------------------------------- */

static struct refused *refused_slot(struct gossip *g, const uint8_t hash[KEY_BYTES])
{
	return &g->refused[get_u16(hash) % REFUSED_SLOTS];
}

static bool is_refused(struct gossip *g, const uint8_t hash[KEY_BYTES], uint64_t ms)
{
	const struct refused *r = refused_slot(g, hash);
	return r->until_ms > ms && !memcmp(r->hash, hash, KEY_BYTES);
}

static void refuse(struct gossip *g, const uint8_t hash[KEY_BYTES], int why, uint64_t ms)
{
	struct refused *r = refused_slot(g, hash);
	if (memcmp(r->hash, hash, KEY_BYTES)) {
		*r = (struct refused){0};
		memcpy(r->hash, hash, KEY_BYTES);
	}
	/* The first time nothing is waited for: the records are on their way, only in another order. */
	if (why == ERR_DENIED)
		r->until_ms = r->times ? ms + ((uint64_t)DENIED_FIRST_MS << (r->times - 1)) : 0;
	else
		r->until_ms = ms + (why == ERR_MALFORMED || why == ERR_SIGNATURE ? REFUSED_LONG_MS : REFUSED_MS);
	if (r->times < DENIED_MOST)
		r->times++;
	g->counts.records_refused++;
}

static bool entitles(enum record_kind kind)
{
	return kind == RECORD_ASSOCIATION || kind == RECORD_STEWARD || kind == RECORD_ROSTER || kind == RECORD_AGREEMENT ||
	       kind == RECORD_ACCEPTANCE;
}

/* trust_accept(), and what follows from its answer; hash is filled in. */
static int take(struct gossip *g, const uint8_t *bytes, size_t n, uint8_t hash[KEY_BYTES], struct gossip_clock clock)
{
	crypto_generichash(hash, KEY_BYTES, bytes, n, NULL, 0);
	if (trust_by_hash(g->config.trust, hash) || is_refused(g, hash, clock.ms))
		return 0;
	int err = trust_accept(g->config.trust, bytes, n, clock.now);
	if (err < 0) {
		refuse(g, hash, err, clock.ms);
		return err;
	}
	if (err == 1) {
		g->counts.records_taken++;
		const struct record *r = trust_by_hash(g->config.trust, hash);
		if (r && entitles(r->kind))
			g->authority++;
		if (g->config.changed)
			g->config.changed(g->config.arg);
	}
	return err;
}

int gossip_accept(struct gossip *g, const uint8_t *record, size_t n, const uint8_t *from, struct gossip_clock clock)
{
	struct news news = {.own = !from};
	if (from)
		memcpy(news.from, from, KEY_BYTES);
	/* What gossip was refused once (our own card before the roster named us, those of an association that now
	 * invites us) may be right now. */
	crypto_generichash(news.hash, KEY_BYTES, record, n, NULL, 0);
	memset(refused_slot(g, news.hash), 0, sizeof(struct refused));
	int err = take(g, record, n, news.hash, clock);
	if (err == 1)
		spread(g, &news, 1, clock);
	return err;
}

int gossip_publish(struct gossip *g, const uint8_t *record, size_t n, struct gossip_clock clock)
{
	return gossip_accept(g, record, n, NULL, clock);
}

bool gossip_next_record(const uint8_t **at, size_t *left, const uint8_t **record, size_t *n, int *err)
{
	*err = 0;
	if (!*left)
		return false;
	if (*left < 4 || get_u32(*at) > RECORD_MAX || get_u32(*at) > *left - 4) {
		*err = ERR_MALFORMED;
		return false;
	}
	*n = get_u32(*at);
	*record = *at + 4;
	*at += 4 + *n;
	*left -= 4 + *n;
	return true;
}

/* One record of one inbox. Its result, as take()'s. */
static int take_next(struct gossip *g, struct gossip_peer *p, uint8_t hash[KEY_BYTES], struct gossip_clock clock)
{
	const uint8_t *at = p->inbox.data + p->inbox_at, *record;
	size_t left = p->inbox.length - p->inbox_at, n;
	int err;
	gossip_next_record(&at, &left, &record, &n, &err);     /* checked when it came in */
	p->inbox_at = p->inbox.length - left;
	err = take(g, record, n, hash, clock);
	p->gained |= err == 1;
	p->denied |= err == ERR_DENIED;
	return err;
}

static void inbox_done(struct gossip *g, struct gossip_peer *p, struct gossip_clock clock)
{
	buf_release(&p->inbox);
	p->inbox_at = 0;
	if (p->denied && p->authority_seen != g->authority)
		p->more = true;
	if (p->ended && p->more && p->gained)
		begin_exchange(g, p, clock);
}

bool gossip_has_work(const struct gossip *g)
{
	for (size_t i = 0; i < g->n_peers; i++)
		if (g->peers[i]->inbox.length)
			return true;
	return false;
}

/* `changed` may close links, but gossip_peer_down() comes later, from their ends: peers stay while this runs. */
bool gossip_work(struct gossip *g, struct gossip_clock clock, const uint8_t **bad)
{
	struct news news[GOSSIP_BATCH] = {0};
	size_t taken = 0, idle = 0;
	*bad = NULL;

	for (int i = 0; i < GOSSIP_BATCH && idle < g->n_peers && !*bad;) {
		struct gossip_peer *p = g->peers[g->turn++ % g->n_peers];
		if (p->inbox.length && trust_admits(g->config.trust, p->node, clock.now)) {
			buf_release(&p->inbox);
			p->inbox_at = 0;
		}
		if (!p->inbox.length) {
			idle++;
			continue;
		}
		idle = 0;
		i++;
		int err = take_next(g, p, news[taken].hash, clock);
		if (err == 1)
			memcpy(news[taken++].from, p->node, KEY_BYTES);
		if (err == ERR_SIGNATURE) {
			/* An honest node verifies before it passes on. */
			memcpy(g->bad, p->node, KEY_BYTES);
			*bad = g->bad;
		} else if (p->inbox_at == p->inbox.length)
			inbox_done(g, p, clock);
	}
	if (taken)
		spread(g, news, taken, clock);
	return gossip_has_work(g);
}

/* --- exchanges ----------------------------------------------------------------------------------- */

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
		send_digest(g, p, 1, false, &tail, clock);
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
		if (!gossip_index_shows(g->config.trust, kind, hash, p->node, clock.now))
			continue;
		err = buf_append(tail, hash, KEY_BYTES);
		count++;
	}
	if (!err)
		put_u32(tail->data + at + 1 + KEY_BYTES, count);
	return err;
}

#define SUMMARY_BYTES (1 + KEY_BYTES + 4 + BUCKET_SUM_BYTES)

/* Is this bucket among the other side's summaries? They come in our order or not: it must be found anyway. */
static bool summary_has(const uint8_t *tail, size_t n, const struct bucket *b)
{
	for (size_t at = 0; at < n; at += SUMMARY_BYTES)
		if (tail[at] == b->kind && !memcmp(tail + at + 1, b->association, KEY_BYTES))
			return true;
	return false;
}

static int compare_summaries(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock)
{
	if (f->tail_length % SUMMARY_BYTES)
		return ERR_MALFORMED;
	if (f->tail_length / SUMMARY_BYTES > BUCKETS_MAX)
		return ERR_LIMIT;
	struct buf tail;
	buf_init(&tail, FRAME_TAIL_MAX);
	int err = 0;
	for (size_t at = 0; !err && at < f->tail_length; at += SUMMARY_BYTES) {
		const uint8_t *s = f->tail + at;
		const struct bucket *b = gossip_index_find(&g->index, s[0], s + 1);
		uint8_t sum[BUCKET_SUM_BYTES];
		uint32_t count;
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
		if (gossip_index_view(&g->index, b, g->config.trust, p->node, clock.now, &count, sum) &&
		    !summary_has(f->tail, f->tail_length, b))
			err = append_hashes(g, p, &tail, b->kind, b->association, clock);
	}
	if (!err && tail.length)
		send_digest(g, p, 2, false, &tail, clock);
	buf_release(&tail);
	return err;
}

static void send_want(struct gossip *g, struct gossip_peer *p, const struct buf *wanted, struct gossip_clock clock)
{
	static const uint8_t empty_map[] = {0x80};
	struct buf head;
	buf_init(&head, 16);
	if (!buf_append(&head, empty_map, sizeof empty_map))
		send_frame(g, p, FRAME_WANT, &head, wanted, clock);
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
			if (trust_by_hash(g->config.trust, hash) || is_refused(g, hash, clock.ms))
				continue;
			lacking++;
			if (wanted.length < wanted.max)
				err = buf_append(&wanted, hash, KEY_BYTES);
		}
		if (!err && !answer)
			err = append_hashes(g, p, &tail, b[0], b + 1, clock);
	}
	if (!err && !answer && tail.length)
		send_digest(g, p, 2, true, &tail, clock);
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

static int on_digest(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock)
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

static int on_want(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock)
{
	if (f->tail_length % KEY_BYTES)
		return ERR_MALFORMED;
	if (f->tail_length / KEY_BYTES > GOSSIP_WANT_MAX)
		return ERR_LIMIT;
	if (!may_ask(p, clock.ms))
		return 0;
	struct buf tail;
	buf_init(&tail, FRAME_TAIL_MAX);
	size_t sent = 0;
	int err = 0;
	for (size_t at = 0; !err && at < f->tail_length && sent < ANSWER_BYTES; at += KEY_BYTES) {
		const struct record *r = trust_by_hash(g->config.trust, f->tail + at);
		if (!r || !trust_may_see(g->config.trust, r, p->node, clock.now))
			continue;
		if (tail.length && tail.length + r->length > GOSSIP_FRAME_BYTES) {
			err = send_records(g, p, &tail, false, clock);
			buf_clear(&tail);
		}
		if (!err)
			err = gossip_append_record(&tail, r->bytes, r->length);
		sent += r->length;
		g->counts.records_sent++;
	}
	if (!err)
		send_records(g, p, &tail, true, clock);
	buf_release(&tail);
	return 0;                                  /* a full queue is not the asker's fault */
}

static int on_records(struct gossip *g, struct gossip_peer *p, const struct frame *f, struct gossip_clock clock)
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
		inbox_done(g, p, clock);
	return 0;
}

int gossip_frame(struct gossip *g, const uint8_t node[KEY_BYTES], const struct frame *frame, struct gossip_clock clock)
{
	struct gossip_peer *p = find_peer(g, node);
	if (!p)
		return ERR_UNKNOWN;
	if (trust_admits(g->config.trust, node, clock.now))
		return ERR_DENIED;
	switch (frame->type) {
	case FRAME_DIGEST:
		return on_digest(g, p, frame, clock);
	case FRAME_WANT:
		return on_want(g, p, frame, clock);
	case FRAME_RECORDS:
		return on_records(g, p, frame, clock);
	default:
		return ERR_UNSUPPORTED;
	}
}

struct gossip_counts gossip_counts(const struct gossip *g)
{
	return g->counts;
}
