/* trust_world.h: associations with keys made from a name, and short ways to have them sign things, for tests.
 * Everything signed goes into world_bytes; time is world_now. Included by one test program at a time.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_TRUST_WORLD_H
#define TESTS_TRUST_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "daemon/trust/trust.h"

#define DAY 86400ull
#define MORNING 1800000000ull

struct pair {
	uint8_t secret[SIGN_SECRET_BYTES], key[KEY_BYTES];
};
struct people {                     /* one association with a steward and four nodes */
	char name[NAME_SIZE];
	struct pair root, steward, steward2, node[4];
};

static uint64_t world_now = MORNING;
static uint64_t world_life = 30 * DAY;         /* expires = issued + life */
static struct buf world_bytes;                 /* the record signed last */

static inline struct pair pair_of(const char *name)
{
	uint8_t seed[32];
	struct pair p;

	crypto_generichash(seed, sizeof seed, (const uint8_t *)name, strlen(name), NULL, 0);
	crypto_sign_seed_keypair(p.key, p.secret, seed);
	return p;
}

static inline struct people people_of(const char *name)
{
	struct people p = { 0 };
	char text[100];

	snprintf(p.name, sizeof p.name, "%s", name);
	snprintf(text, sizeof text, "%s root", name);
	p.root = pair_of(text);
	snprintf(text, sizeof text, "%s steward", name);
	p.steward = pair_of(text);
	snprintf(text, sizeof text, "%s steward 2", name);
	p.steward2 = pair_of(text);
	for (int i = 0; i < 4; i++) {
		snprintf(text, sizeof text, "%s node %d", name, i);
		p.node[i] = pair_of(text);
	}
	return p;
}

static inline struct record head_of(const struct people *p, const uint8_t *subject, uint64_t sequence)
{
	struct record head = { .sequence = sequence, .issued = world_now, .expires = world_now + world_life };

	memcpy(head.association, p->root.key, KEY_BYTES);
	if (subject)
		memcpy(head.subject, subject, KEY_BYTES);
	buf_release(&world_bytes);
	buf_init(&world_bytes, RECORD_MAX);
	return head;
}

static inline void sign_association(const struct people *p, uint64_t sequence)
{
	struct record head = head_of(p, NULL, sequence);
	struct association_body b = { 0 };

	strcpy(b.name, p->name);
	assert_int_equal(association_sign(&world_bytes, &head, &b, p->root.secret), 0);
}

static inline void sign_steward(const struct people *p, const struct pair *steward, uint64_t sequence)
{
	struct record head = head_of(p, NULL, sequence);
	struct steward_body b;

	memcpy(b.steward, steward->key, KEY_BYTES);
	assert_int_equal(steward_sign(&world_bytes, &head, &b, p->root.secret), 0);
}

/* Bits of `which` choose among p's nodes. */
static inline void sign_roster_by(const struct people *p, const struct pair *signer, unsigned which, uint64_t sequence)
{
	struct record head = head_of(p, NULL, sequence);
	uint8_t nodes[4][KEY_BYTES];
	struct roster_body b = { .nodes = nodes };

	for (int i = 0; i < 4; i++)
		if (which & 1u << i)
			memcpy(nodes[b.n_nodes++], p->node[i].key, KEY_BYTES);
	assert_int_equal(roster_sign(&world_bytes, &head, &b, signer->secret), 0);
}

static inline void sign_roster(const struct people *p, unsigned which, uint64_t sequence)
{
	sign_roster_by(p, &p->steward, which, sequence);
}

static inline void sign_card_saying(const struct people *p, const struct pair *node, const char *name, bool left, uint64_t sequence)
{
	struct record head = head_of(p, NULL, sequence);
	struct card_body b = { .version_low = 1, .version_high = 1, .n_addresses = 1, .left = left };

	snprintf(b.name, sizeof b.name, "%s", name);
	memcpy(b.link_key, node->key, KEY_BYTES);
	strcpy(b.addresses[0], "192.0.2.1:7740");
	assert_int_equal(card_sign(&world_bytes, &head, &b, node->secret), 0);
}

static inline void sign_card_as(const struct people *p, const struct pair *node, const char *name, uint64_t sequence)
{
	sign_card_saying(p, node, name, false, sequence);
}

static inline void sign_last_card(const struct people *p, int node, uint64_t sequence)
{
	sign_card_saying(p, &p->node[node], "one", true, sequence);
}

static inline void sign_card(const struct people *p, int node, uint64_t sequence)
{
	sign_card_as(p, &p->node[node], "one", sequence);
}

static inline void sign_advert(const struct people *p, int node, uint64_t sequence)
{
	struct record head = head_of(p, NULL, sequence);
	struct advert_body b = { .budget_bytes = 1, .engine = "llama 0.7.0 q1a2b3c4 cpu" };

	assert_int_equal(advert_sign(&world_bytes, &head, &b, p->node[node].secret), 0);
}

struct grant {
	bool revoked;
	const uint8_t *model;
	uint64_t tokens, seconds;
	uint32_t priority;
	const struct pair *signer;     /* NULL: the steward */
};

static inline void sign_agreement(const struct people *p, const struct people *to, struct grant g, uint64_t sequence)
{
	struct record head = head_of(p, to->root.key, sequence);
	struct agreement_body b = { .revoked = g.revoked, .tokens_per_day = g.tokens, .stage_seconds_per_day = g.seconds, .priority = g.priority };

	if (g.model)
		memcpy(b.models[b.n_models++], g.model, KEY_BYTES);
	assert_int_equal(agreement_sign(&world_bytes, &head, &b, g.signer ? g.signer->secret : p->steward.secret), 0);
}

static inline void sign_acceptance(const struct people *p, const struct people *from, const uint8_t *agreement, bool declined, uint64_t sequence)
{
	struct record head = head_of(p, from->root.key, sequence);
	struct acceptance_body b = { .declined = declined };

	memcpy(b.agreement, agreement, KEY_BYTES);
	assert_int_equal(acceptance_sign(&world_bytes, &head, &b, p->steward.secret), 0);
}

static inline void sign_approval(const struct people *p, const uint8_t *model, bool withdrawn, uint64_t sequence)
{
	struct record head = head_of(p, model, sequence);
	struct approval_body b = { .withdrawn = withdrawn };

	assert_int_equal(approval_sign(&world_bytes, &head, &b, p->steward.secret), 0);
}

/* Returns the model's id in model. */
static inline void sign_manifest(const struct people *p, int node, const char *name, bool private_, uint64_t sequence, uint8_t model[KEY_BYTES])
{
	struct record head;
	struct model_file file = { .name = "m.gguf", .size = 1000 };
	struct manifest_body b = { .architecture = "llama", .licence = "Apache-2.0", .private_ = private_, .quantisation = "Q8_0",
				   .n_layer = 2, .n_embd = 4, .n_vocab = 8, .context = 16, .splittable = true, .row_bytes = 16,
				   .n_files = 1, .files = &file };

	crypto_generichash(file.root, KEY_BYTES, (const uint8_t *)name, strlen(name), NULL, 0);
	snprintf(b.name, sizeof b.name, "%s", name);
	model_id(model, &file, 1);
	head = head_of(p, model, sequence);
	assert_int_equal(manifest_sign(&world_bytes, &head, &b, p->node[node].secret), 0);
}

static inline void sign_receipt(const struct people *p, int node, const struct people *home, uint64_t sequence)
{
	struct record head = head_of(p, NULL, sequence);
	struct receipt_body b = { .session = { 1, 2, 3 }, .rows = 10 };

	memcpy(b.node, p->node[node].key, KEY_BYTES);
	memcpy(b.home, home->node[0].key, KEY_BYTES);
	memcpy(b.home_association, home->root.key, KEY_BYTES);
	assert_int_equal(receipt_sign(&world_bytes, &head, &b, p->node[node].secret), 0);
}

static inline int take(struct trust *t)
{
	return trust_accept(t, world_bytes.data, world_bytes.length, world_now);
}

static inline void hash_last(uint8_t hash[KEY_BYTES])
{
	crypto_generichash(hash, KEY_BYTES, world_bytes.data, world_bytes.length, NULL, 0);
}

/* Root's card, steward and a roster of nodes 0 and 1, all with sequence 1. */
static inline void take_people(struct trust *t, const struct people *p)
{
	sign_association(p, 1);
	assert_int_equal(take(t), 1);
	sign_steward(p, &p->steward, 1);
	assert_int_equal(take(t), 1);
	sign_roster(p, 3, 1);
	assert_int_equal(take(t), 1);
}

static inline size_t count_of(const struct trust *t, enum record_kind kind);
static bool count_one(const struct record *r, void *arg)
{
	(void)r;
	++*(size_t *)arg;
	return true;
}
static inline size_t count_of(const struct trust *t, enum record_kind kind)
{
	size_t n = 0;

	trust_each(t, kind, count_one, &n);
	return n;
}

#endif
