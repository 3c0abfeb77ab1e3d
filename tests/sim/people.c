/* people.c: what administrators do, with the verbs that the command line's commands use; and the world's first records.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/mesh/gossip.h"
#include "daemon/trust/records_file.h"
#include "proto/text.h"
#include "tests/sim/sim.h"

#define DAY_S 86400u
#define ACCEPT_EVERY_MS 3000

/* --- the beginning ------------------------------------------------------------------------------------------ */

static struct pair pair_new(void)
{
	struct pair p;
	crypto_sign_keypair(p.key, p.secret);
	return p;
}

static void must(int err, const char *what)
{
	if (err)
		sim_fail(NULL, "%s: %s", what, err_str(err));
}

static uint64_t sequence;

static struct record head_of(size_t association, const uint8_t *subject, uint64_t days)
{
	struct record head = {.sequence = (sim.epoch_s - 3600) * 1000 + sequence++, .issued = sim.epoch_s - 3600};
	head.expires = head.issued + days * DAY_S;
	memcpy(head.association, sim.associations[association].root.key, KEY_BYTES);
	if (subject)
		memcpy(head.subject, subject, KEY_BYTES);
	return head;
}

struct first {                                 /* the first records of one association, in the order in which they are believed */
	struct buf own, card;                  /* as gossip_append_record() makes them */
};

static void add(struct buf *all, struct buf *record)
{
	must(gossip_append_record(all, record->data, record->length), "a first record");
	buf_release(record);
	buf_init(record, RECORD_MAX);
}

static void first_card(struct buf *all, size_t association, const struct node *node)
{
	struct card_body card = {.version_low = PROTOCOL_VERSION, .version_high = PROTOCOL_VERSION, .n_addresses = 1, .torrent_port = 7741};
	struct record head = head_of(association, node->keys.node, 30);
	struct buf record;
	buf_init(&record, RECORD_MAX);
	text_copy(card.name, sizeof card.name, node->name);
	text_copy(card.addresses[0], ADDRESS_SIZE, node->address);
	memcpy(card.link_key, node->keys.link, KEY_BYTES);
	must(card_sign(&record, &head, &card, node->keys.node_secret), "a first card");
	add(all, &record);
}

static void first_records(size_t k, struct first *out)
{
	const struct association_truth *a = &sim.associations[k];
	struct buf record;
	buf_init(&record, RECORD_MAX);
	buf_init(&out->own, 4u << 20);
	buf_init(&out->card, RECORD_MAX);

	struct association_body name = {0};
	text_copy(name.name, sizeof name.name, a->name);
	struct record head = head_of(k, NULL, 3650);
	must(association_sign(&record, &head, &name, a->root.secret), "an association");
	add(&out->own, &record);
	struct steward_body steward;
	memcpy(steward.steward, a->steward.key, KEY_BYTES);
	head = head_of(k, NULL, STEWARD_DAYS_MAX);
	must(steward_sign(&record, &head, &steward, a->root.secret), "a steward");
	add(&out->own, &record);

	uint8_t nodes[SIM_NODES_MAX][KEY_BYTES];
	struct roster_body roster = {.nodes = nodes};
	for (size_t i = 0; i < sim.n_nodes; i++)
		if (!memcmp(sim.nodes[i].keys.association, a->root.key, KEY_BYTES))
			memcpy(nodes[roster.n_nodes++], sim.nodes[i].keys.node, KEY_BYTES);
	head = head_of(k, NULL, 90);
	must(roster_sign(&record, &head, &roster, a->steward.secret), "a roster");
	add(&out->own, &record);
	for (size_t m = 0; m < sim.n_models; m++) {
		struct approval_body approval = {0};
		head = head_of(k, sim.models[m].id, 365);
		must(approval_sign(&record, &head, &approval, a->steward.secret), "an approval");
		add(&out->own, &record);
		const struct node *publisher = &sim.nodes[sim.models[m].publisher];
		if (memcmp(publisher->keys.association, a->root.key, KEY_BYTES))
			continue;
		head = head_of(k, sim.models[m].id, 365);
		must(manifest_sign(&record, &head, &sim.models[m].body, publisher->keys.node_secret), "a manifest");
		add(&out->own, &record);
	}
	first_card(&out->own, k, &sim.nodes[a->founder]);
	buf_release(&record);
}

/* grantor's agreement goes to grantor's records, grantee's acceptance to grantee's. */
static void tie(size_t grantor, size_t grantee, struct first *firsts, uint64_t tokens_per_day)
{
	struct agreement_body terms = {.tokens_per_day = tokens_per_day, .stage_seconds_per_day = 36000, .priority = 5};
	struct record head = head_of(grantor, sim.associations[grantee].root.key, 365);
	struct buf record;
	buf_init(&record, RECORD_MAX);
	must(agreement_sign(&record, &head, &terms, sim.associations[grantor].steward.secret), "an agreement");
	struct acceptance_body acceptance = {0};
	crypto_generichash(acceptance.agreement, KEY_BYTES, record.data, record.length, NULL, 0);
	add(&firsts[grantor].own, &record);
	head = head_of(grantee, sim.associations[grantor].root.key, 365);
	must(acceptance_sign(&record, &head, &acceptance, sim.associations[grantee].steward.secret), "an acceptance");
	add(&firsts[grantee].own, &record);
	buf_release(&record);
	witness_granted(grantor, grantee, tokens_per_day);
}

static void believe(struct trust *trust, const struct buf *records, uint64_t now)
{
	const uint8_t *at = records->data, *record;
	size_t left = records->length, n;
	int err;
	while (gossip_next_record(&at, &left, &record, &n, &err))
		trust_accept(trust, record, n, now);
}

void people_found(void)
{
	struct first firsts[SIM_ASSOCIATIONS_MAX];
	bool tied[SIM_ASSOCIATIONS_MAX][SIM_ASSOCIATIONS_MAX] = {0};
	sequence = 0;
	for (size_t k = 0; k < sim.n_associations; k++) {
		struct association_truth *a = &sim.associations[k];
		snprintf(a->name, sizeof a->name, "association %zu", k);
		a->root = pair_new();
		a->steward = pair_new();
	}
	for (size_t i = 0; i < sim.n_nodes; i++) {
		struct node *node = &sim.nodes[i];
		struct pair p = pair_new();
		memcpy(node->keys.node, p.key, KEY_BYTES);
		memcpy(node->keys.node_secret, p.secret, SIGN_SECRET_BYTES);
		randombytes_buf(node->keys.link_secret, KEY_BYTES);
		crypto_scalarmult_base(node->keys.link, node->keys.link_secret);
		if (!node->joiner)
			memcpy(node->keys.association, sim.associations[i % sim.n_associations].root.key, KEY_BYTES);
	}
	for (size_t k = 0; k < sim.n_associations; k++) {
		struct association_truth *a = &sim.associations[k];
		struct keys *keys = &sim.nodes[a->founder].keys;
		keys->has_steward = true;
		memcpy(keys->steward, a->steward.key, KEY_BYTES);
		memcpy(keys->steward_secret, a->steward.secret, SIGN_SECRET_BYTES);
		first_records(k, &firsts[k]);
	}
	for (size_t a = 0; a < sim.n_associations; a++)
		for (size_t b = 0; b < sim.n_associations; b++)
			if (a != b && (tied[b][a] || sim_chance(500))) {
				tied[a][b] = tied[b][a] = true;
				tie(a, b, firsts, sim.thirsty || sim_chance(400) ? 40 + sim_below(300) : 1000000);
			}
	for (size_t i = 0; i < sim.n_nodes; i++) {
		struct node *node = &sim.nodes[i];
		if (node->joiner)
			continue;
		size_t own = i % sim.n_associations;
		struct trust *trust = trust_new(node->keys.association, node->keys.node);
		assert(trust);
		believe(trust, &firsts[own].own, sim.epoch_s);
		for (size_t k = 0; k < sim.n_associations; k++)
			if (tied[own][k] && sim.associations[own].founder == i)
				believe(trust, &firsts[k].own, sim.epoch_s);
		buf_init(&node->disk.records, RECORDS_FILE_MAX);
		must(records_file_collect(trust, &node->disk.records), "the first records");
		trust_free(trust);
	}
	for (size_t m = 0; m < sim.n_models; m++)
		for (uint32_t l = 0; l < sim.models[m].body.n_layer; l++)
			sim.nodes[sim.models[m].publisher].disk.have[m][l] = true;
	for (size_t k = 0; k < sim.n_associations; k++) {
		buf_release(&firsts[k].own);
		buf_release(&firsts[k].card);
	}
}

size_t people_association_of(const uint8_t key[KEY_BYTES])
{
	size_t k = 0;
	while (k < sim.n_associations && memcmp(sim.associations[k].root.key, key, KEY_BYTES))
		k++;
	return k;
}

/* --- what they do later: at the node with the steward key, if it runs ------------------------------------------- */

static struct daemon *office(size_t association)
{
	struct node *founder = &sim.nodes[sim.associations[association].founder];
	return founder->boot ? daemon_of(founder) : NULL;
}

void people_offer(size_t grantor, size_t grantee, uint64_t tokens_per_day, bool revoked)
{
	struct daemon *d = office(grantor);
	const uint8_t *key = sim.associations[grantee].root.key;
	struct agreement_body terms = {.revoked = revoked, .tokens_per_day = tokens_per_day, .stage_seconds_per_day = 36000, .priority = 5};
	/* `essaim agreement` names only associations in reach, and revokes only what was granted. */
	if (!d || !trust_in_reach(d->trust, key) || (revoked && !trust_find(d->trust, RECORD_AGREEMENT, d->keys.association, key, daemon_now(d))))
		return;
	if (revoked)
		terms = (struct agreement_body){.revoked = true};
	else
		witness_granted(grantor, grantee, tokens_per_day);
	int err = records_offer(d, key, &terms, 365);
	sim_trace(node_of(d), "%s %s the use of its nodes%s", revoked ? "withdraws from" : "offers", sim.associations[grantee].name,
		  err ? ", which fails" : "");
}

void people_roster(size_t association, size_t node, bool named)
{
	struct daemon *d = office(association);
	struct roster_body roster = {0};
	const struct record *r = d ? trust_find(d->trust, RECORD_ROSTER, d->keys.association, d->keys.association, daemon_now(d)) : NULL;
	if (!r || roster_read(r, &roster))
		return;
	uint8_t nodes[ROSTER_NODES_MAX + 1][KEY_BYTES];
	size_t n = 0;
	for (size_t i = 0; i < roster.n_nodes; i++)
		if (memcmp(roster.nodes[i], sim.nodes[node].keys.node, KEY_BYTES))
			memcpy(nodes[n++], roster.nodes[i], KEY_BYTES);
	if (named && n < ROSTER_NODES_MAX)
		memcpy(nodes[n++], sim.nodes[node].keys.node, KEY_BYTES);
	int err = records_publish_roster(d, (const uint8_t(*)[KEY_BYTES])nodes, n);
	roster_free(&roster);
	sim_trace(node_of(d), "%s %s the roster of %s%s", named ? "puts" : "takes", sim.nodes[node].name, sim.associations[association].name,
		  err ? ", which fails" : named ? " on it" : " off it");
}

void people_approve(size_t association, size_t model, bool withdrawn)
{
	struct daemon *d = office(association);
	if (!d)
		return;
	records_approve(d, sim.models[model].id, withdrawn);
	sim_trace(node_of(d), "%s model %zu", withdrawn ? "no longer approves" : "approves", model);
}

void people_renew_steward(size_t association)
{
	struct daemon *d = office(association);
	if (d && !records_may_sign(d) && !records_renew_steward(d, sim.associations[association].root.secret))
		sim_trace(node_of(d), "renews its steward");
}

/* What was offered and not answered yet is accepted. */
struct offers {
	struct daemon *daemon;
	uint8_t from[SIM_ASSOCIATIONS_MAX][KEY_BYTES];
	size_t n;
};

static bool on_offer(const struct record *r, void *arg)
{
	struct offers *o = arg;
	struct daemon *d = o->daemon;
	struct agreement_body terms;
	struct acceptance_body acceptance;
	if (memcmp(r->subject, d->keys.association, KEY_BYTES) || agreement_read(r, &terms) || terms.revoked)
		return true;
	const struct record *answer = trust_find(d->trust, RECORD_ACCEPTANCE, d->keys.association, r->association, daemon_now(d));
	if (answer && !acceptance_read(answer, &acceptance) && !memcmp(acceptance.agreement, r->hash, KEY_BYTES))
		return true;
	if (o->n < SIM_ASSOCIATIONS_MAX)
		memcpy(o->from[o->n++], r->association, KEY_BYTES);
	return true;
}

/* What `essaim status` asks for after a steward was renewed while the clock was ahead, or far behind. */
static void renew_what_is_of_another_time(struct daemon *d)
{
	const struct record *r = trust_find(d->trust, RECORD_STEWARD, d->keys.association, d->keys.association, daemon_now(d));
	if (r ? record_is_current(r, daemon_now(d)) != 0 : sim.calm)
		people_renew_steward(people_association_of(d->keys.association));
}

static bool on_ended(const struct record *r, void *arg)
{
	struct offers *o = arg;
	struct agreement_body terms;
	if (!memcmp(r->association, o->daemon->keys.association, KEY_BYTES) && r->expires < daemon_now(o->daemon) && !agreement_read(r, &terms) &&
	    !terms.revoked && o->n < SIM_ASSOCIATIONS_MAX)
		memcpy(o->from[o->n++], r->subject, KEY_BYTES);
	return true;
}

/* What `essaim status` and `essaim model list` ask for after long, or after it was signed by a clock that was far behind. */
static void say_again_what_has_ended(struct daemon *d)
{
	struct offers ended = {.daemon = d};
	size_t own = people_association_of(d->keys.association);
	if (!sim.calm)
		return;
	trust_each_at(d->trust, RECORD_AGREEMENT, TRUST_ANY_TIME, on_ended, &ended);
	for (size_t i = 0; i < ended.n; i++)
		people_offer(own, people_association_of(ended.from[i]), 400, false);
	for (size_t m = 0; m < sim.n_models; m++)
		if (!trust_approved(d->trust, d->keys.association, sim.models[m].id, daemon_now(d)))
			people_approve(own, m, false);
}

void people_tick(struct node *node)
{
	struct daemon *d = daemon_of(node);
	if (!node->keys.has_steward || !sim_chance(1000 * 250 / ACCEPT_EVERY_MS))
		return;
	struct offers offers = {.daemon = d};
	renew_what_is_of_another_time(d);
	say_again_what_has_ended(d);
	trust_each(d->trust, RECORD_AGREEMENT, on_offer, &offers);
	for (size_t i = 0; i < offers.n; i++)
		if (!records_accept(d, offers.from[i], false)) {
			const struct record *offer = trust_find(d->trust, RECORD_AGREEMENT, offers.from[i], d->keys.association, daemon_now(d));
			const struct record *answer = trust_find(d->trust, RECORD_ACCEPTANCE, d->keys.association, offers.from[i], daemon_now(d));
			sim_trace(node, "accepts what %s offers", trust_association_name(d->trust, offers.from[i]));
			if (!offer || !answer || answer->issued <= offer->issued)
				sim_fail(node, "an acceptance is not dated after the offer that it accepts");
		}
}

/* --- invitations ------------------------------------------------------------------------------------------------ */

struct joining {
	struct node *node;
	size_t association;
	enum invitation_role role;
};

static void restart(void *arg, uint64_t number)
{
	struct node *node = arg;
	(void)number;
	node_stop(node);
	node_start(node);
}

static void on_joined(void *arg, int err, const char *detail)
{
	struct joining *j = arg;
	struct node *node = j->node;
	sim_trace(node, "joining ends: %s", err ? err_str(err) : detail);
	if (!err) {
		char why[300], folder[300];
		sim.joined++;
		/* As command_join() does: it belongs to the inviter's association, when it has started again. */
		snprintf(folder, sizeof folder, "%s/keys", node->home);
		mkdir(folder, 0700);
		if (j->role == INVITATION_NODE && !records_take_over(daemon_of(node), sim.associations[j->association].root.key, why, sizeof why)) {
			memcpy(node->keys.association, sim.associations[j->association].root.key, KEY_BYTES);
			node->joiner = false;
			sim_after(500 + sim_below(1500), node, restart, node, 0);
		}
		records_changed(daemon_of(node));
	}
	free(j);
}

static void join(struct node *node, const char *url, size_t association, enum invitation_role role)
{
	struct joining *j = calloc(1, sizeof *j);
	struct invitation invitation;
	char why[300];
	assert(j);
	*j = (struct joining){.node = node, .association = association, .role = role};
	must(invitation_parse(url, &invitation, why, sizeof why), "an invitation");
	int err = records_save_now(daemon_of(node));       /* as command_join() does */
	if (!err)
		err = mesh_join(daemon_of(node)->mesh, &invitation, on_joined, j);
	sim_trace(node, "uses an invitation of %s%s", sim.associations[association].name, err ? ", in vain" : "");
	if (err)
		free(j);
}

void people_invite(size_t association, enum invitation_role role, struct node *a, struct node *b)
{
	struct daemon *d = office(association);
	struct invitation invitation = {.role = role, .n_addresses = 1};
	char url[INVITATION_URL_MAX], folder[300];
	if (!d)
		return;
	struct node *founder = node_of(d);
	/* Homes are real folders: invitation.c works on files. */
	snprintf(folder, sizeof folder, "%s/invitations", founder->home);
	mkdir(folder, 0700);
	randombytes_buf(invitation.id, sizeof invitation.id);
	randombytes_buf(invitation.secret, sizeof invitation.secret);
	invitation_psk(invitation.secret, invitation.psk);
	memcpy(invitation.link_key, d->keys.link, KEY_BYTES);
	memcpy(invitation.node, d->keys.node, KEY_BYTES);
	memcpy(invitation.association, d->keys.association, KEY_BYTES);
	text_copy(invitation.name, sizeof invitation.name, sim.associations[association].name);
	text_copy(invitation.network, sizeof invitation.network, d->config.network);
	text_copy(invitation.addresses[0], ADDRESS_SIZE, founder->address);
	invitation.expires = daemon_now(d) + 3600;
	must(invitation_url(&invitation, url, sizeof url), "an invitation's URL");
	must(invitation_keep(d->home, &invitation), "an invitation");
	sim_trace(founder, "invites a %s", role == INVITATION_NODE ? "node" : "partner");
	if (a->boot)
		join(a, url, association, role);
	if (b && b->boot)
		join(b, url, association, role);
}
