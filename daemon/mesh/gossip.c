/* gossip.c: neighbours, rumour, and the taking of records; gossip_exchange.c compares sets, gossip.h says how.
 *
 * A record that was refused is not asked for again at once: a denied one soon, and as soon as something that entitles was
 * taken; any other much later.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/mesh/gossip_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "proto/err.h"
#include "proto/pack.h"

#define REFUSED_MS 60000                   /* stale, expired: the other side will soon know better */
#define REFUSED_LONG_MS 600000             /* never to be right */
#define DENIED_FIRST_MS 1000
#define DENIED_MOST 6                      /* doublings */

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

int gossip_send_frame(struct gossip *g, struct gossip_peer *p, enum frame_type type, const struct buf *head, const struct buf *tail,
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

int gossip_send_digest(struct gossip *g, struct gossip_peer *p, unsigned level, bool answer, const struct buf *tail, struct gossip_clock clock)
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
	int err = w.err ? w.err : gossip_send_frame(g, p, FRAME_DIGEST, &head, tail, clock);
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
		gossip_send_digest(g, p, 0, false, NULL, clock);
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

static int records_head(struct buf *head, bool last)
{
	struct pack_writer w;
	buf_init(head, 64);
	pack_writer_init(&w, head);
	pack_map(&w, 1);
	pack_kv_bool(&w, "last", last);
	return w.err;
}

int gossip_send_records(struct gossip *g, struct gossip_peer *p, const struct buf *tail, bool last, struct gossip_clock clock)
{
	struct buf head;
	int err = records_head(&head, last);
	if (!err)
		err = gossip_send_frame(g, p, FRAME_RECORDS, &head, tail, clock);
	buf_release(&head);
	return err;
}

int gossip_last_word(struct buf *frame, const struct trust *trust, const uint8_t other[KEY_BYTES], uint64_t now)
{
	const uint8_t *own = trust_own(trust);
	/* The roster, too: the other side may still admit a node that is no longer on it. */
	const struct record *said[] = {trust_find(trust, RECORD_STEWARD, own, own, now), trust_find(trust, RECORD_ROSTER, own, own, now),
				       trust_find(trust, RECORD_AGREEMENT, own, other, now), trust_find(trust, RECORD_ACCEPTANCE, own, other, now)};
	struct buf head, tail;
	int err = records_head(&head, false);
	buf_init(&tail, FRAME_TAIL_MAX);
	for (size_t i = 0; !err && i < sizeof said / sizeof *said; i++)
		if (said[i])
			err = gossip_append_record(&tail, said[i]->bytes, said[i]->length);
	if (!err)
		err = frame_encode(frame, FRAME_RECORDS, head.data, head.length, tail.data, tail.length);
	buf_release(&head);
	buf_release(&tail);
	return err;
}

/* What others wait for, and what somebody may no longer do, goes to everybody at once. */
static bool is_urgent(enum record_kind kind)
{
	return kind == RECORD_STEWARD || kind == RECORD_ROSTER || kind == RECORD_AGREEMENT || kind == RECORD_ACCEPTANCE || kind == RECORD_APPROVAL;
}

/* Who signs an advert tells it to all his neighbours himself. Where there are many, they are each other's, too: passed on it would come to each a
 * dozen times, every minute, from everybody. */
static bool is_told_to_all(const struct gossip *g, const struct record *r, const struct news *news)
{
	return r->kind == RECORD_ADVERT && g->n_peers > GOSSIP_NEAR_MAX && !memcmp(news->from, r->signer, KEY_BYTES);
}

static void spread_to(struct gossip *g, struct gossip_peer *p, const struct news *news, size_t n, bool chosen, struct gossip_clock clock)
{
	struct buf tail;
	buf_init(&tail, FRAME_TAIL_MAX);
	for (size_t i = 0; i < n; i++) {
		const struct record *r = trust_by_hash(g->config.trust, news[i].hash);
		if (!r || !((chosen && !is_told_to_all(g, r, &news[i])) || news[i].own || is_urgent(r->kind)) || !memcmp(news[i].from, p->node, KEY_BYTES) ||
		    !trust_may_see(g->config.trust, r, p->node, clock.now))
			continue;
		if (!gossip_append_record(&tail, r->bytes, r->length))
			g->counts.records_sent++;
	}
	if (tail.length)
		gossip_send_records(g, p, &tail, false, clock);
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

bool gossip_is_refused(struct gossip *g, const uint8_t hash[KEY_BYTES], uint64_t ms)
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
	r->denied = why == ERR_DENIED;
	/* The first time nothing is waited for: the records are on their way, only in another order. */
	if (r->denied)
		r->until_ms = r->times ? ms + ((uint64_t)DENIED_FIRST_MS << (r->times - 1)) : 0;
	else
		r->until_ms = ms + (why == ERR_MALFORMED || why == ERR_SIGNATURE ? REFUSED_LONG_MS : REFUSED_MS);
	if (r->times < DENIED_MOST)
		r->times++;
	g->counts.records_refused++;
}

/* Who may say what has changed: what was denied may be right now. */
static void forgive_denied(struct gossip *g)
{
	for (size_t i = 0; i < REFUSED_SLOTS; i++)
		if (g->refused[i].denied)
			g->refused[i] = (struct refused){0};
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
	if (trust_by_hash(g->config.trust, hash) || gossip_is_refused(g, hash, clock.ms))
		return 0;
	int err = trust_accept(g->config.trust, bytes, n, clock.now);
	if (err < 0) {
		refuse(g, hash, err, clock.ms);
		return err;
	}
	if (err == 1) {
		g->counts.records_taken++;
		const struct record *r = trust_by_hash(g->config.trust, hash);
		if (r && entitles(r->kind)) {
			g->authority++;
			forgive_denied(g);
		}
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
	*err = *left < 4 ? ERR_MALFORMED : get_u32(*at) > RECORD_MAX ? ERR_LIMIT : get_u32(*at) > *left - 4 ? ERR_MALFORMED : 0;
	if (*err)
		return false;
	*n = get_u32(*at);
	*record = *at + 4;
	*at += 4 + *n;
	*left -= 4 + *n;
	return true;
}

/* One record of one inbox. Its result, as take()'s. */
static int take_next(struct gossip *g, struct gossip_peer *p, uint8_t hash[KEY_BYTES], struct gossip_clock clock)
{
	const uint8_t *at = p->inbox.data + p->inbox_at, *record = NULL;
	size_t left = p->inbox.length - p->inbox_at, n = 0;
	int err;
	gossip_next_record(&at, &left, &record, &n, &err);     /* checked when it came in */
	p->inbox_at = p->inbox.length - left;
	err = take(g, record, n, hash, clock);
	p->gained |= err == 1;
	p->denied |= err == ERR_DENIED;
	return err;
}

void gossip_inbox_done(struct gossip *g, struct gossip_peer *p, struct gossip_clock clock)
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
			gossip_inbox_done(g, p, clock);
	}
	if (taken)
		spread(g, news, taken, clock);
	return gossip_has_work(g);
}

void gossip_finish(struct gossip *g, const uint8_t node[KEY_BYTES], struct gossip_clock clock)
{
	struct gossip_peer *p = find_peer(g, node);
	struct news news[GOSSIP_BATCH] = {0};
	size_t taken = 0;
	int err = 0;

	for (int i = 0; p && i < GOSSIP_BATCH && p->inbox_at < p->inbox.length && err != ERR_SIGNATURE && !trust_admits(g->config.trust, node, clock.now); i++) {
		err = take_next(g, p, news[taken].hash, clock);
		if (err == 1)
			memcpy(news[taken++].from, node, KEY_BYTES);
	}
	if (taken)
		spread(g, news, taken, clock);
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
		return gossip_on_digest(g, p, frame, clock);
	case FRAME_WANT:
		return gossip_on_want(g, p, frame, clock);
	case FRAME_RECORDS:
		return gossip_on_records(g, p, frame, clock);
	default:
		return ERR_UNSUPPORTED;
	}
}

struct gossip_counts gossip_counts(const struct gossip *g)
{
	return g->counts;
}
