/* This node's own records, and the saving of all.
 *
 * A card lives 30 days and is signed anew every day; an advert lives three minutes and is signed every minute or as soon as something in it
 * changed (at most once a second); the roster lives 90 days and is signed anew every week where the steward key is.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"
#include "daemon/trust/records_file.h"
#include "proto/log.h"
#include "proto/text.h"

#define DAY_S 86400u
#define CARD_LIFE_S (30 * DAY_S)
#define CARD_AGAIN_MS (DAY_S * 1000ull)
#define ADVERT_LIFE_S 180
#define ADVERT_AGAIN_MS 60000
#define ADVERT_LEAST_MS 1000
#define ROSTER_LIFE_S (90 * DAY_S)
#define ROSTER_AGAIN_MS (7ull * DAY_S * 1000)
#define ROSTER_RETRY_MS 60000
#define SAVE_AFTER_MS 500
#define ADDRESSES_AGAIN_MS 10000
#define LOAD_MOST 1000           /* permille; more says nothing more */

/* Larger than any that this node has used, also when the clock was set back since: what it said last may come from its disk, or from
 * other nodes when it was not saved. */
static uint64_t next_sequence(struct daemon *d, const struct record *head)
{
	uint64_t now = daemon_now_ms(d), held = trust_sequence(d->trust, head->kind, head->association, head->subject);
	if (held > d->last_sequence)
		d->last_sequence = held;
	d->last_sequence = now > d->last_sequence ? now : d->last_sequence + 1;
	return d->last_sequence;
}

struct record records_head(struct daemon *d, enum record_kind kind, const uint8_t *subject, uint64_t life)
{
	struct record head = {.kind = kind};
	memcpy(head.association, d->keys.association, KEY_BYTES);
	memcpy(head.subject, subject ? subject : d->keys.association, KEY_BYTES);
	head.issued = daemon_now(d);
	head.expires = head.issued + life;
	head.sequence = next_sequence(d, &head);
	return head;
}

int records_publish(struct daemon *d, struct buf *record)
{
	int err = d->mesh ? mesh_publish(d->mesh, record->data, record->length)
			  : trust_accept(d->trust, record->data, record->length, daemon_now(d));
	buf_release(record);
	if (err < 0) {
		/* Who belongs to no association yet is listed by nobody. */
		if (!sodium_is_zero(d->keys.association, KEY_BYTES))
			log_warning("a record of our own was not accepted: %s", err_str(err));
		return err;
	}
	records_changed(d);
	return 0;
}

static int write_file(struct daemon *d, const struct buf *all, uint64_t version)
{
	pthread_mutex_lock(&d->save_lock);
	/* A worker's copy may be older than what was written meanwhile. */
	int err = version < d->saved_version ? 0 : records_file_write(d->home, all->data, all->length);
	if (!err && version > d->saved_version)
		d->saved_version = version;
	pthread_mutex_unlock(&d->save_lock);
	return err;
}

int records_publish_saved(struct daemon *d, struct buf *record)
{
	struct buf all;
	buf_init(&all, RECORDS_FILE_MAX);
	int err = records_file_collect(d->trust, &all);
	if (!err)
		err = records_file_append(&all, record->data, record->length);
	if (!err)
		err = write_file(d, &all, ++d->save_version);
	buf_release(&all);
	if (!err)
		return records_publish(d, record);
	log_error("nothing is signed, because it cannot be saved in %s/records: %s (free some space or mend the folder's rights)", d->home, err_str(err));
	buf_release(record);
	return err;
}

void records_changed(struct daemon *d)
{
	d->save_due = true;
	uint64_t at = daemon_ms(d) + SAVE_AFTER_MS;
	if (!d->save_at || d->save_at > at)
		d->save_at = at;
	uint64_t generation = trust_generation(d->trust);
	if (generation == d->trust_generation)
		return;
	d->trust_generation = generation;
	records_look_at_steward(d);
	records_drop_left(d);
	if (d->ring)
		ring_recheck(d->ring);
	if (d->gateway)
		gateway_recheck(d->gateway);
	residency_refresh(d);
}

/* Addresses for the card: the router's, where it passes on; then the configured ones, or those of the interfaces that are up. Loopback
 * counts only when the daemon listens on nothing else. */
static void own_addresses(struct daemon *d, struct card_body *card)
{
	uint16_t port = mesh_port(d->mesh);
	const struct config *c = &d->config;
	if (d->mapped[0])
		text_copy(card->addresses[card->n_addresses++], ADDRESS_SIZE, d->mapped);
	for (size_t i = 0; i < c->n_addresses && card->n_addresses < CARD_ADDRESSES_MAX; i++)
		if (strcmp(c->addresses[i], d->mapped))
			text_copy(card->addresses[card->n_addresses++], ADDRESS_SIZE, c->addresses[i]);
	if (c->n_addresses)
		return;
	bool any = !strcmp(c->link_listen, "::") || !strcmp(c->link_listen, "0.0.0.0");
	if (!any) {
		snprintf(card->addresses[card->n_addresses++], ADDRESS_SIZE, strchr(c->link_listen, ':') ? "[%s]:%u" : "%s:%u",
			 c->link_listen, port);
		return;
	}
	struct ifaddrs *list = NULL;
	if (getifaddrs(&list))
		return;
	for (int family_pass = 0; family_pass < 2; family_pass++) {
		int family = family_pass ? AF_INET6 : AF_INET;
		for (struct ifaddrs *i = list; i && card->n_addresses < CARD_ADDRESSES_MAX; i = i->ifa_next) {
			char host[64];
			if (!i->ifa_addr || i->ifa_addr->sa_family != family || !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK))
				continue;
			if (getnameinfo(i->ifa_addr, family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6), host,
					sizeof host, NULL, 0, NI_NUMERICHOST) ||
			    strchr(host, '%'))         /* link-local addresses mean nothing elsewhere */
				continue;
			snprintf(card->addresses[card->n_addresses++], ADDRESS_SIZE, family == AF_INET ? "%s:%u" : "[%s]:%u", host, port);
		}
	}
	freeifaddrs(list);
	if (!card->n_addresses)
		snprintf(card->addresses[card->n_addresses++], ADDRESS_SIZE, "127.0.0.1:%u", port);
}

static void hash_addresses(const struct card_body *card, uint8_t out[16])
{
	crypto_generichash(out, 16, (const uint8_t *)card->addresses, sizeof card->addresses, NULL, 0);
}

/* A line was renumbered, an interface came up: others are told at once, not tomorrow. */
static void look_at_addresses(struct daemon *d)
{
	struct card_body card = {0};
	uint8_t hash[16];
	own_addresses(d, &card);
	hash_addresses(&card, hash);
	d->card_due |= memcmp(hash, d->card_addresses, sizeof hash) != 0;
}

static int publish_card(struct daemon *d, bool left)
{
	struct card_body card = {.left = left, .version_low = PROTOCOL_VERSION, .version_high = PROTOCOL_VERSION, .torrent_port = store_port(d->store)};
	text_copy(card.name, sizeof card.name, d->config.node_name);
	memcpy(card.link_key, d->keys.link, KEY_BYTES);
	own_addresses(d, &card);
	hash_addresses(&card, d->card_addresses);
	struct record head = records_head(d, RECORD_CARD, d->keys.node, CARD_LIFE_S);
	struct buf out;
	buf_init(&out, RECORD_MAX);
	int err = card_sign(&out, &head, &card, d->keys.node_secret);
	if (err) {
		log_error("this node's card cannot be made: %s", err_str(err));
		buf_release(&out);
		return err;
	}
	return records_publish(d, &out);
}

int records_leave(struct daemon *d)
{
	int err = publish_card(d, true);
	d->left = !err;
	return err;
}

/* The machine's load of the last minute, per thread that it shares: what others' rows would wait behind. */
static uint32_t load_permille(const struct daemon *d)
{
	double average[3] = {0};
	uv_loadavg(average);
	double permille = average[0] * 1000.0 / d->config.share_threads;
	return permille > LOAD_MOST ? LOAD_MOST : (uint32_t)permille;
}

static void publish_advert(struct daemon *d)
{
	struct advert_body advert = {.budget_bytes = residency_budget(d), .paused = !sharing_is_open(&d->sharing) || d->draining,
				      .home = d->config.share_home};
	advert.load_permille = load_permille(d);
	uint64_t used = residency_used(d);
	advert.free_bytes = used < advert.budget_bytes ? advert.budget_bytes - used : 0;
	text_copy(advert.engine, sizeof advert.engine, stage_engine_name(d->stage));
	struct advert_model *models = calloc(d->n_models + 1, sizeof *models);
	if (!models)
		return;
	advert.models = models;
	for (size_t i = 0; i < d->n_models && advert.n_models < ADVERT_MODELS_MAX; i++) {
		const struct residency *r = &d->models[i];
		struct stage_info info;
		struct store_status status;
		bool resident = !stage_info(d->stage, r->model, &info) && info.state == STAGE_READY;
		bool complete = !store_status(d->store, r->model, &status) && status.complete;
		if (!r->n_placed && !resident && !complete)
			continue;
		struct advert_model *m = &models[advert.n_models++];
		memcpy(m->model, r->model, KEY_BYTES);
		m->n_placed = r->n_placed;
		memcpy(m->placed, r->placed, sizeof m->placed);
		m->complete = complete;
		if (resident) {
			m->n_resident = info.n_ranges;
			memcpy(m->resident, info.ranges, sizeof m->resident);
			m->layer_microseconds = info.layer_microseconds;
			m->sessions_free = views_sessions_free(d, r->model, &info);
		}
	}
	struct record head = records_head(d, RECORD_ADVERT, d->keys.node, ADVERT_LIFE_S);
	struct buf out;
	buf_init(&out, RECORD_MAX);
	int err = advert_sign(&out, &head, &advert, d->keys.node_secret);
	free(models);
	if (err) {
		log_error("this node's advert cannot be made: %s", err_str(err));
		buf_release(&out);
		return;
	}
	records_publish(d, &out);
}

/* By how many seconds the clock has gone otherwise than time did, since the last tick. */
static int64_t jumped(const struct daemon *d)
{
	int64_t by = (int64_t)daemon_now(d) - (int64_t)(daemon_ms(d) / 1000) - d->clock_ahead;
	return by > RECORD_FUTURE_S || by < -(int64_t)RECORD_FUTURE_S ? by : 0;
}

int records_may_sign(const struct daemon *d)
{
	const struct record *r = trust_find(d->trust, RECORD_STEWARD, d->keys.association, d->keys.association, daemon_now(d));
	if (!d->keys.has_steward)
		return ERR_DENIED;
	/* With a clock that is behind, what is signed has ended before others see it; but it was ahead if another node agrees with it now. */
	return r && record_is_current(r, daemon_now(d)) && (jumped(d) || !mesh_agrees(d->mesh)) ? ERR_CLOCK : 0;
}

int records_publish_roster(struct daemon *d, const uint8_t (*nodes)[KEY_BYTES], size_t n)
{
	int err = records_may_sign(d);
	if (err)
		return err;
	struct roster_body roster = {.n_nodes = n, .nodes = (uint8_t(*)[KEY_BYTES])nodes};
	struct record head = records_head(d, RECORD_ROSTER, NULL, ROSTER_LIFE_S);
	struct buf out;
	buf_init(&out, RECORD_MAX);
	err = roster_sign(&out, &head, &roster, d->keys.steward_secret);
	if (err) {
		buf_release(&out);
		return err;
	}
	return records_publish_saved(d, &out);
}

/* False: it is due and cannot be signed now. */
static bool renew_roster(struct daemon *d)
{
	/* Also one that has lapsed, while this node was off or its clock was wrong. */
	const struct record *r = trust_find(d->trust, RECORD_ROSTER, d->keys.association, d->keys.association, TRUST_ANY_TIME);
	struct roster_body roster = {0};
	if (!r || daemon_now(d) < r->issued + 7 * DAY_S)
		return true;
	/* Another node may tell of the one that holds, after a full disk or a clock that was wrong. */
	if (!trust_find(d->trust, RECORD_STEWARD, d->keys.association, d->keys.association, daemon_now(d)))
		return false;
	if (roster_read(r, &roster))
		return true;
	int err = records_publish_roster(d, (const uint8_t(*)[KEY_BYTES])roster.nodes, roster.n_nodes);
	roster_free(&roster);
	return !err;
}

int records_renew_steward(struct daemon *d, const uint8_t root_secret[SIGN_SECRET_BYTES])
{
	struct steward_body steward;
	struct record head = records_head(d, RECORD_STEWARD, NULL, (uint64_t)STEWARD_DAYS_MAX * DAY_S);
	struct buf out;
	buf_init(&out, RECORD_MAX);
	memcpy(steward.steward, d->keys.steward, KEY_BYTES);
	int err = steward_sign(&out, &head, &steward, root_secret);
	if (err) {
		buf_release(&out);
		return err;
	}
	err = records_publish_saved(d, &out);
	d->roster_at = 0;                /* and the roster, which may have lapsed with it */
	return err;
}

int records_offer(struct daemon *d, const uint8_t association[KEY_BYTES], const struct agreement_body *terms, uint32_t days)
{
	int err = records_may_sign(d);
	if (err)
		return err;
	struct record head = records_head(d, RECORD_AGREEMENT, association, (uint64_t)days * DAY_S);
	struct buf out;
	buf_init(&out, RECORD_MAX);
	err = agreement_sign(&out, &head, terms, d->keys.steward_secret);
	if (err) {
		buf_release(&out);
		return err;
	}
	return records_publish_saved(d, &out);
}

int records_accept(struct daemon *d, const uint8_t grantor[KEY_BYTES], bool declined)
{
	int err = records_may_sign(d);
	if (err)
		return err;
	uint64_t now = daemon_now(d);
	const struct record *agreement = trust_find(d->trust, RECORD_AGREEMENT, grantor, d->keys.association, now);
	if (!agreement)
		return ERR_UNKNOWN;
	/* Dated later than that, as it must be, nobody else would take ours. */
	if (agreement->issued >= now + RECORD_FUTURE_S)
		return ERR_CLOCK;
	struct acceptance_body acceptance = {.declined = declined};
	memcpy(acceptance.agreement, agreement->hash, KEY_BYTES);
	struct record head = records_head(d, RECORD_ACCEPTANCE, grantor, agreement->expires > now ? agreement->expires - now : 0);
	/* Our clock may be behind theirs: what they revoked before they offered this must not look later (trust_reach.c). */
	if (head.issued <= agreement->issued)
		head.issued = agreement->issued + 1;
	struct buf out;
	buf_init(&out, RECORD_MAX);
	err = acceptance_sign(&out, &head, &acceptance, d->keys.steward_secret);
	if (err) {
		buf_release(&out);
		return err;
	}
	return records_publish_saved(d, &out);
}

int records_approve(struct daemon *d, const uint8_t model[KEY_BYTES], bool withdrawn)
{
	int err = records_may_sign(d);
	if (err)
		return err;
	struct approval_body approval = {.withdrawn = withdrawn};
	struct record head = records_head(d, RECORD_APPROVAL, model, 365ull * DAY_S);
	struct buf out;
	buf_init(&out, RECORD_MAX);
	err = approval_sign(&out, &head, &approval, d->keys.steward_secret);
	if (err) {
		buf_release(&out);
		return err;
	}
	return records_publish_saved(d, &out);
}

/* An invitation of ours was used. A node enters the roster; a partner is offered the use of our nodes, within modest limits that the
 * administrator can change with `essaim agreement offer`. */
int records_on_join(void *arg, enum invitation_role role, const uint8_t node[KEY_BYTES], const uint8_t association[KEY_BYTES],
		    const uint8_t invitation[16])
{
	struct daemon *d = arg;
	if (role == INVITATION_PARTNER) {
		struct agreement_body terms = {.tokens_per_day = OFFER_TOKENS, .stage_seconds_per_day = OFFER_STAGE_SECONDS, .priority = OFFER_PRIORITY};
		int err = records_offer(d, association, &terms, OFFER_DAYS);
		return err ? err : records_save_now(d);
	}
	uint64_t now = daemon_now(d);
	const struct record *r = trust_find(d->trust, RECORD_ROSTER, d->keys.association, d->keys.association, now);
	struct roster_body roster = {0};
	uint8_t member_of[KEY_BYTES];
	/* On two rosters, and without a card yet that says which one it goes by, it would be nobody's and be let in nowhere. */
	if (!trust_admits(d->trust, node, now) && !trust_association_of(d->trust, node, now, member_of) && memcmp(member_of, d->keys.association, KEY_BYTES)) {
		log_warning("a node that asks to join is on the roster of %s: it is not taken in", trust_association_name(d->trust, member_of));
		return ERR_DENIED;
	}
	if (!r || roster_read(r, &roster))
		return ERR_DENIED;
	int err = 0;
	bool there = false;
	for (size_t i = 0; i < roster.n_nodes; i++)
		there |= !memcmp(roster.nodes[i], node, KEY_BYTES);
	if (!there && roster.n_nodes == ROSTER_NODES_MAX)
		err = ERR_LIMIT;
	if (!err && !there) {
		uint8_t(*nodes)[KEY_BYTES] = calloc(roster.n_nodes + 1, KEY_BYTES);
		if (!nodes)
			err = UV_ENOMEM;
		else {
			memcpy(nodes, roster.nodes, roster.n_nodes * KEY_BYTES);
			memcpy(nodes[roster.n_nodes], node, KEY_BYTES);
			err = records_publish_roster(d, (const uint8_t(*)[KEY_BYTES])nodes, roster.n_nodes + 1);
			free(nodes);
		}
	}
	roster_free(&roster);
	/* Who is told that he belongs here must still do so when this node loses power in the next moment: perhaps nobody else knows yet. */
	return err ? err : records_save_now(d);
}

/* --- saving -------------------------------------------------------------------------------------- */

struct saving {
	uv_work_t work;
	struct daemon *daemon;
	struct buf all;            /* records_file's form */
	uint64_t version;
	int err;
};

static void save_work(uv_work_t *work)
{
	struct saving *s = work->data;
	s->err = write_file(s->daemon, &s->all, s->version);
}

static void save_after(uv_work_t *work, int status)
{
	struct saving *s = work->data;
	struct daemon *d = s->daemon;
	d->saving = false;
	d->save_err = s->err;
	if (s->err) {
		log_error("records cannot be saved in %s/records: %s (free some space or mend the folder's rights; it is tried again)", d->home,
			  err_str(s->err));
		d->save_due = true;
		d->save_at = daemon_ms(d) + 30000;
	}
	buf_release(&s->all);
	free(s);
}

static void save_start(struct daemon *d)
{
	struct saving *s = calloc(1, sizeof *s);
	if (!s)
		return;
	s->daemon = d;
	s->version = ++d->save_version;
	s->work.data = s;
	buf_init(&s->all, RECORDS_FILE_MAX);
	if (records_file_collect(d->trust, &s->all) || uv_queue_work(d->loop, &s->work, save_work, save_after)) {
		buf_release(&s->all);
		free(s);
		return;
	}
	d->saving = true;
	d->save_due = false;
	d->save_at = 0;
}

int records_save_now(struct daemon *d)
{
	struct buf all;
	if (d->left)
		return 0;
	buf_init(&all, RECORDS_FILE_MAX);
	int err = records_file_collect(d->trust, &all);
	if (!err)
		err = write_file(d, &all, ++d->save_version);
	if (err)
		log_error("records cannot be saved in %s/records: %s", d->home, err_str(err));
	buf_release(&all);
	return err;
}

int records_take_over(struct daemon *d, const uint8_t association[KEY_BYTES], char *why, size_t why_size)
{
	char hex[2 * KEY_BYTES + 2];
	/* First what was learned: a node that belongs to an association of which it knows nothing is let in nowhere, and lets nobody in. */
	int err = records_save_now(d);
	if (err) {
		snprintf(why, why_size, "%s/records cannot be written: %s (make room, then ask for another invitation)", d->home, err_str(err));
		return err;
	}
	text_hex(association, KEY_BYTES, hex);
	strcat(hex, "\n");
	return keys_write_file(d->home, "keys/association", hex, strlen(hex), why, why_size);
}

int records_load(struct daemon *d, char *why, size_t why_size)
{
	struct records_file_report report = {0};
	int err = records_file_load(d->home, d->trust, daemon_now(d), &report, why, why_size);
	if (!err && report.damaged)
		log_warning("%zu places of %s/records/all were damaged (%zu bytes): the rest is kept, and what was lost comes back from other nodes",
			    report.damaged, d->home, report.damaged_bytes);
	d->trust_generation = trust_generation(d->trust);
	records_look_at_steward(d);
	return err;
}

/* Cards and adverts that another clock dated are said anew at once. */
static void look_at_clock(struct daemon *d)
{
	char text[40];
	bool first = !d->clock_ahead;
	int64_t by = jumped(d);
	d->clock_ahead = (int64_t)daemon_now(d) - (int64_t)(daemon_ms(d) / 1000);
	if (!by)
		return;
	if (!first)
		log_notice("the clock went %s by %s (was it set, or did the machine sleep?): links are made anew", by > 0 ? "forward" : "back",
			   text_duration((uint64_t)(by > 0 ? by : -by), text, sizeof text));
	d->card_due = d->advert_due = d->future_due = true;
	d->roster_at = 0;
}

/* Nobody takes a card, not even here, while the roster that names us has ended. */
static bool lacks_its_card(const struct daemon *d)
{
	uint8_t association[KEY_BYTES];
	uint64_t now = daemon_now(d);
	return !trust_association_of(d->trust, d->keys.node, now, association) && !memcmp(association, d->keys.association, KEY_BYTES) &&
	       !trust_find(d->trust, RECORD_CARD, d->keys.association, d->keys.node, now);
}

void records_tick(struct daemon *d)
{
	uint64_t ms = daemon_ms(d);
	look_at_clock(d);
	if (ms >= d->addresses_at) {
		d->addresses_at = ms + ADDRESSES_AGAIN_MS;
		look_at_addresses(d);
		d->card_due |= lacks_its_card(d);
		if (d->future_due && mesh_agrees(d->mesh))
			d->future_due = !records_sign_future(d);
	}
	if (d->left)
		return;
	if (d->card_due || ms >= d->card_at) {
		d->card_due = false;
		d->card_at = ms + CARD_AGAIN_MS;
		publish_card(d, false);
	}
	if ((d->advert_due && ms + ADVERT_AGAIN_MS >= d->advert_at + ADVERT_LEAST_MS) || ms >= d->advert_at) {
		d->advert_due = false;
		d->advert_at = ms + ADVERT_AGAIN_MS;
		publish_advert(d);
	}
	if (d->keys.has_steward && ms >= d->roster_at) {
		d->roster_at = ms + (renew_roster(d) ? ROSTER_AGAIN_MS : ROSTER_RETRY_MS);
	}
	if (d->save_due && !d->saving && ms >= d->save_at)
		save_start(d);
}
