/* test_trust.c: who may say what, who is in reach, who may ask whom (DESIGN D9).
 *
 *   Abeille --grants--> Bourdon --grants--> Colibri        (each test says which of these it has)
 *   we are Abeille's node 0
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "tests/unit/trust_world.h"

#include <stdlib.h>

#include "proto/signed.h"

static struct people abeille, bourdon, colibri;
static uint8_t model[KEY_BYTES] = "a model";
static uint8_t other_model[KEY_BYTES] = "another model";

static int setup(void **state)
{
	world_now = MORNING;
	world_life = 30 * DAY;
	abeille = people_of("Abeille");
	bourdon = people_of("Bourdon");
	colibri = people_of("Colibri");
	*state = trust_new(abeille.root.key, abeille.node[0].key);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	trust_free(*state);
	buf_release(&world_bytes);
	return 0;
}

/* Abeille grants Bourdon `model`; Bourdon's acceptance makes it be in force. */
static void tie(struct trust *t, struct grant g)
{
	uint8_t hash[KEY_BYTES];

	take_people(t, &abeille);
	sign_agreement(&abeille, &bourdon, g, 1);
	hash_last(hash);
	assert_int_equal(take(t), 1);
	take_people(t, &bourdon);
	sign_acceptance(&bourdon, &abeille, hash, false, 1);
	assert_int_equal(take(t), 1);
}

static int may(struct trust *t, const struct people *user, const struct people *grantor, const uint8_t *which, struct trust_terms *terms)
{
	return trust_may_use(t, user->root.key, grantor->root.key, which, world_now, terms);
}

/* What no honest signer makes: signs a payload as it is, past the checks of record_sign(). */
static void forge(const struct record *head, enum record_kind kind, const struct pair *signer, size_t pairs,
		  void (*body)(struct pack_writer *w))
{
	struct buf payload;
	struct pack_writer w;
	char domain[SIGNED_DOMAIN_MAX] = "essaim-record-1";
	size_t length = strlen(domain) + 1;

	strcpy(domain + length, record_kind_name(kind));
	length += strlen(record_kind_name(kind)) + 1;
	buf_init(&payload, RECORD_MAX);
	pack_writer_init(&w, &payload);
	pack_map(&w, 7 + pairs);
	pack_kv_uint(&w, "kind", kind);
	pack_kv_bin(&w, "signer", signer->key, KEY_BYTES);
	pack_kv_bin(&w, "association", head->association, KEY_BYTES);
	pack_kv_bin(&w, "subject", head->subject, KEY_BYTES);
	pack_kv_uint(&w, "sequence", head->sequence);
	pack_kv_uint(&w, "issued", head->issued);
	pack_kv_uint(&w, "expires", head->expires);
	body(&w);
	assert_int_equal(w.err, 0);
	buf_clear(&world_bytes);
	assert_int_equal(signed_append(&world_bytes, RECORD_MAX, domain, length, &payload, signer->secret), 0);
	buf_release(&payload);
}

/* --- taking ------------------------------------------------------------------------------------------ */

static void a_record_is_new_once_and_known_after(void **state)
{
	struct trust *t = *state;
	uint64_t before = trust_generation(t);

	sign_association(&abeille, 1);
	assert_int_equal(take(t), 1);
	assert_true(trust_generation(t) > before);
	before = trust_generation(t);
	assert_int_equal(take(t), 0);
	assert_true(trust_generation(t) == before);
	assert_string_equal(trust_association_name(t, abeille.root.key), "Abeille");
	assert_string_equal(trust_association_name(t, bourdon.root.key), "");
}

static void strangers_are_denied_until_they_come_into_reach(void **state)
{
	struct trust *t = *state;

	sign_association(&bourdon, 1);
	assert_int_equal(take(t), ERR_DENIED);
	assert_int_equal(trust_introduce(t, bourdon.root.key), 0);
	assert_int_equal(take(t), 1);
}

/* Every order of six records that build on one another ends in the same set, by offering again what was denied. */
static void the_order_of_arrival_does_not_matter(void **state)
{
	struct buf records[7];
	uint8_t hash[KEY_BYTES];
	size_t n = 0, order[7];

	(void)state;
#define KEEP() do { buf_init(&records[n], RECORD_MAX); buf_move(&records[n], &world_bytes); n++; } while (0)
	sign_steward(&abeille, &abeille.steward, 1);
	KEEP();
	sign_roster(&abeille, 3, 1);
	KEEP();
	sign_card(&abeille, 1, 1);
	KEEP();
	sign_agreement(&abeille, &bourdon, (struct grant){ .model = model }, 1);
	hash_last(hash);
	KEEP();
	sign_steward(&bourdon, &bourdon.steward, 1);
	KEEP();
	sign_acceptance(&bourdon, &abeille, hash, false, 1);
	KEEP();
	sign_roster(&bourdon, 1, 1);
	KEEP();
#undef KEEP
	for (unsigned permutation = 0; permutation < 5040; permutation++) {
		struct trust *t = trust_new(abeille.root.key, abeille.node[0].key);
		unsigned rest = permutation;
		size_t accepted = 0;
		struct trust_terms terms;

		for (size_t i = 0; i < n; i++)
			order[i] = i;
		for (size_t i = n; i > 1; i--) {
			size_t k = rest % i, other = order[i - 1];

			rest /= (unsigned)i;
			order[i - 1] = order[k];
			order[k] = other;
		}
		for (size_t round = 0; round < n && accepted < n; round++)
			for (size_t i = 0; i < n; i++) {
				int got = trust_accept(t, records[order[i]].data, records[order[i]].length, world_now);

				assert_true(got == 1 || got == 0 || got == ERR_DENIED);
				accepted += got == 1;
			}
		assert_int_equal(accepted, n);
		assert_int_equal(may(t, &bourdon, &abeille, model, &terms), 0);
		assert_int_equal(trust_admits(t, bourdon.node[0].key, world_now), 0);
		trust_free(t);
	}
	for (size_t i = 0; i < n; i++)
		buf_release(&records[i]);
}

static void the_newest_sequence_wins(void **state)
{
	struct trust *t = *state;
	struct card_body card;

	take_people(t, &abeille);
	sign_card_as(&abeille, &abeille.node[1], "new", 2);
	assert_int_equal(take(t), 1);
	sign_card_as(&abeille, &abeille.node[1], "old", 1);
	assert_int_equal(take(t), ERR_STALE);
	assert_int_equal(trust_card_of(t, abeille.node[1].key, world_now, &card), 0);
	assert_string_equal(card.name, "new");
	sign_card_as(&abeille, &abeille.node[1], "newer", 3);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_card_of(t, abeille.node[1].key, world_now, &card), 0);
	assert_string_equal(card.name, "newer");
	assert_int_equal(count_of(t, RECORD_CARD), 1);
}

static void of_one_sequence_the_smaller_hash_wins_in_any_order(void **state)
{
	char first[NAME_SIZE] = "", second[NAME_SIZE] = "";

	(void)state;
	for (int turn = 0; turn < 2; turn++) {
		struct trust *t = trust_new(abeille.root.key, abeille.node[0].key);
		struct card_body card;
		int a, b;

		take_people(t, &abeille);
		sign_card_as(&abeille, &abeille.node[1], turn ? "y" : "x", 5);
		a = take(t);
		sign_card_as(&abeille, &abeille.node[1], turn ? "x" : "y", 5);
		b = take(t);
		assert_int_equal(a, 1);
		assert_true(b == 1 || b == ERR_STALE);
		assert_int_equal(trust_card_of(t, abeille.node[1].key, world_now, &card), 0);
		strcpy(turn ? second : first, card.name);
		trust_free(t);
	}
	assert_string_equal(first, second);
}

static void records_from_the_future_and_expired_ones_are_refused(void **state)
{
	struct trust *t = *state;

	sign_association(&abeille, 1);
	world_now -= RECORD_FUTURE_S + 1;
	assert_int_equal(take(t), ERR_EXPIRED);
	world_now += 1;
	assert_int_equal(take(t), 1);
	world_now = MORNING;
	sign_steward(&abeille, &abeille.steward, 1);
	world_now += world_life + 1;
	assert_int_equal(take(t), ERR_EXPIRED);
	world_now -= 1;
	assert_int_equal(take(t), 1);
}

static void a_forged_record_is_refused(void **state)
{
	struct trust *t = *state;

	take_people(t, &abeille);
	sign_card(&abeille, 0, 1);
	for (size_t i = 0; i < world_bytes.length; i++) {
		world_bytes.data[i] ^= 1;
		assert_true(take(t) < 0);
		world_bytes.data[i] ^= 1;
	}
	for (size_t i = 0; i < world_bytes.length; i++)
		assert_true(trust_accept(t, world_bytes.data, i, world_now) < 0);
	assert_int_equal(take(t), 1);
}

static void the_wrong_signer_is_denied(void **state)
{
	struct trust *t = *state;
	struct record head;

	take_people(t, &abeille);
	sign_roster_by(&abeille, &abeille.root, 7, 2);                /* root signs stewards, not rosters */
	assert_int_equal(take(t), ERR_DENIED);
	sign_roster_by(&abeille, &abeille.node[0], 7, 2);
	assert_int_equal(take(t), ERR_DENIED);
	sign_roster_by(&abeille, &bourdon.steward, 7, 2);
	assert_int_equal(take(t), ERR_DENIED);
	sign_agreement(&abeille, &bourdon, (struct grant){ .signer = &abeille.node[0] }, 1);
	assert_int_equal(take(t), ERR_DENIED);
	sign_agreement(&abeille, &bourdon, (struct grant){ .signer = &bourdon.steward }, 1);
	assert_int_equal(take(t), ERR_DENIED);
	sign_card(&abeille, 3, 1);                                    /* not on the roster */
	assert_int_equal(take(t), ERR_DENIED);
	sign_advert(&abeille, 3, 1);
	assert_int_equal(take(t), ERR_DENIED);
	head = head_of(&abeille, model, 1);
	head.kind = RECORD_APPROVAL;
	assert_int_equal(approval_sign(&world_bytes, &head, &(struct approval_body){ 0 }, abeille.node[0].secret), 0);
	assert_int_equal(take(t), ERR_DENIED);
}

static void steward_body(struct pack_writer *w)
{
	pack_kv_bin(w, "steward", abeille.steward2.key, KEY_BYTES);
}

static void a_steward_of_more_than_ninety_days_is_refused(void **state)
{
	struct trust *t = *state;
	struct record head = head_of(&abeille, abeille.root.key, 2);

	head.expires = head.issued + STEWARD_DAYS_MAX * DAY + 1;
	forge(&head, RECORD_STEWARD, &abeille.root, 1, steward_body);
	assert_int_equal(take(t), ERR_LIMIT);
	head.expires--;
	forge(&head, RECORD_STEWARD, &abeille.root, 1, steward_body);
	assert_int_equal(take(t), 1);
}

static void a_steward_that_root_did_not_sign_is_refused(void **state)
{
	struct trust *t = *state;
	struct record head;

	take_people(t, &abeille);
	head = head_of(&abeille, abeille.root.key, 2);
	forge(&head, RECORD_STEWARD, &abeille.steward, 1, steward_body);
	assert_true(take(t) < 0);
	sign_roster_by(&abeille, &abeille.steward2, 1, 9);
	assert_int_equal(take(t), ERR_DENIED);
}

static void wide_agreement_body(struct pack_writer *w)
{
	pack_kv_bool(w, "revoked", false);
	pack_str(w, "models");
	pack_array(w, 0);
	pack_kv_uint(w, "tokens_per_day", 1);
	pack_kv_uint(w, "stage_seconds_per_day", 1);
	pack_kv_uint(w, "priority", 10);
}

static void an_agreement_wider_than_a_steward_may_give_is_refused(void **state)
{
	struct trust *t = *state;
	struct record head;

	take_people(t, &abeille);
	head = head_of(&abeille, bourdon.root.key, 1);
	forge(&head, RECORD_AGREEMENT, &abeille.steward, 5, wide_agreement_body);       /* our own members' priority */
	assert_int_equal(take(t), ERR_LIMIT);
	sign_agreement(&abeille, &abeille, (struct grant){ 0 }, 1);                     /* with oneself */
	assert_int_equal(take(t), ERR_MALFORMED);
	/* in another's name */
	head = head_of(&bourdon, abeille.root.key, 1);
	assert_int_equal(trust_introduce(t, bourdon.root.key), 0);
	head.kind = RECORD_AGREEMENT;
	assert_int_equal(agreement_sign(&world_bytes, &head, &(struct agreement_body){ 0 }, abeille.steward.secret), 0);
	assert_int_equal(take(t), ERR_DENIED);
}

static void twice_in_a_roster_is_refused(void **state)
{
	struct trust *t = *state;
	uint8_t nodes[2][KEY_BYTES];
	struct record head;

	take_people(t, &abeille);
	memcpy(nodes[0], abeille.node[0].key, KEY_BYTES);
	memcpy(nodes[1], abeille.node[0].key, KEY_BYTES);
	head = head_of(&abeille, NULL, 2);
	if (roster_sign(&world_bytes, &head, &(struct roster_body){ 2, nodes }, abeille.steward.secret) == 0)
		assert_int_equal(take(t), ERR_MALFORMED);
}

/* --- stewards and rosters ----------------------------------------------------------------------------- */

static void a_new_steward_ends_what_the_old_one_signed(void **state)
{
	struct trust *t = *state;
	uint8_t found[KEY_BYTES];
	size_t to_renew = 0;

	take_people(t, &abeille);
	sign_card(&abeille, 1, 1);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_association_of(t, abeille.node[1].key, world_now, found), 0);
	sign_steward(&abeille, &abeille.steward2, 2);
	assert_int_equal(take(t), 1);
	assert_null(trust_find(t, RECORD_ROSTER, abeille.root.key, abeille.root.key, world_now));
	assert_int_equal(count_of(t, RECORD_ROSTER), 0);
	/* Who was on it can still bring the new one, for a moment. */
	assert_int_equal(trust_association_of(t, abeille.node[1].key, world_now + TRUST_HANDOVER_S, found), 0);
	assert_int_equal(trust_expire(t, world_now), 0);
	sign_roster_by(&abeille, &abeille.steward, 15, 98);           /* but the old one names nobody any more */
	assert_int_equal(take(t), ERR_DENIED);
	world_now += TRUST_HANDOVER_S + 1;
	assert_null(trust_find(t, RECORD_CARD, abeille.root.key, abeille.node[1].key, world_now));
	assert_int_equal(trust_association_of(t, abeille.node[1].key, world_now, found), ERR_UNKNOWN);
	trust_each_to_renew(t, count_one, &to_renew);                 /* but it can still be signed again */
	assert_int_equal(to_renew, 1);
	assert_int_equal(trust_expire(t, world_now), 1);              /* the card */
	to_renew = 0;
	trust_each_to_renew(t, count_one, &to_renew);
	assert_int_equal(to_renew, 1);
	sign_roster_by(&abeille, &abeille.steward, 15, 99);           /* the old one says nothing any more */
	assert_int_equal(take(t), ERR_DENIED);
	sign_roster_by(&abeille, &abeille.steward2, 3, 2);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_association_of(t, abeille.node[1].key, world_now, found), 0);
}

static void a_node_that_has_left_is_not_admitted_until_a_later_roster(void **state)
{
	struct trust *t = *state;
	uint8_t found[KEY_BYTES];

	take_people(t, &abeille);
	sign_card(&abeille, 1, 1);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), 0);
	sign_last_card(&abeille, 1, 2);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), ERR_DENIED);
	assert_int_equal(trust_association_of(t, abeille.node[1].key, world_now, found), 0);   /* what it signed before stands */
	sign_card(&abeille, 1, 1);                                    /* an older word does not bring it back */
	assert_true(take(t) < 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), ERR_DENIED);
	sign_roster(&abeille, 3, 50);                                 /* within the same second */
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), 0);
	sign_last_card(&abeille, 1, 51);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), ERR_DENIED);
	world_now += 1;
	sign_roster(&abeille, 3, 52);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), 0);
}

static void what_a_stolen_steward_key_numbered_high_does_not_bind_the_next(void **state)
{
	struct trust *t = *state;

	take_people(t, &abeille);
	sign_roster(&abeille, 8, UINT64_MAX);
	assert_int_equal(take(t), 1);
	sign_steward(&abeille, &abeille.steward2, 2);
	assert_int_equal(take(t), 1);
	sign_roster_by(&abeille, &abeille.steward2, 3, 5);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), 0);
	assert_int_equal(trust_admits(t, abeille.node[3].key, world_now), ERR_DENIED);
}

static void an_expired_steward_stops_everything_he_signed(void **state)
{
	struct trust *t = *state;

	sign_steward(&abeille, &abeille.steward, 1);
	assert_int_equal(take(t), 1);
	world_life = 60 * DAY;
	sign_roster(&abeille, 3, 1);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), 0);
	world_now += 30 * DAY + 1;
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), ERR_DENIED);
	trust_expire(t, world_now);
	sign_steward(&abeille, &abeille.steward, 2);                  /* the same key again: what it signed counts again */
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), 0);
}

static void a_node_left_out_of_the_roster_is_out_with_all_it_said(void **state)
{
	struct trust *t = *state;
	uint8_t id[KEY_BYTES];
	struct card_body card;

	take_people(t, &abeille);
	sign_card(&abeille, 1, 1);
	assert_int_equal(take(t), 1);
	sign_advert(&abeille, 1, 1);
	assert_int_equal(take(t), 1);
	sign_manifest(&abeille, 1, "m", false, 1, id);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), 0);
	assert_non_null(trust_find(t, RECORD_MANIFEST, abeille.root.key, id, world_now));
	sign_roster(&abeille, 1, 2);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), ERR_DENIED);
	assert_int_equal(trust_card_of(t, abeille.node[1].key, world_now, &card), ERR_UNKNOWN);
	assert_null(trust_find(t, RECORD_CARD, abeille.root.key, abeille.node[1].key, world_now));
	assert_null(trust_find(t, RECORD_ADVERT, abeille.root.key, abeille.node[1].key, world_now));
	assert_null(trust_find(t, RECORD_MANIFEST, abeille.root.key, id, world_now));
	assert_int_equal(count_of(t, 0), 3);
	assert_true(trust_expire(t, world_now) >= 2);
	sign_card(&abeille, 1, 2);
	assert_int_equal(take(t), ERR_DENIED);
	sign_roster(&abeille, 3, 1);                                  /* the older roster does not bring it back */
	assert_int_equal(take(t), ERR_STALE);
}

static void our_own_node_needs_no_link_to_itself(void **state)
{
	take_people(*state, &abeille);
	assert_int_equal(trust_admits(*state, abeille.node[0].key, world_now), ERR_DENIED);
	assert_int_equal(trust_admits(*state, abeille.node[1].key, world_now), 0);
}

static void of_two_associations_that_claim_a_node_its_card_decides(void **state)
{
	struct trust *t = *state;
	uint8_t nodes[1][KEY_BYTES], found[KEY_BYTES];
	struct record head;

	tie(t, (struct grant){ 0 });
	memcpy(nodes[0], abeille.node[1].key, KEY_BYTES);             /* Bourdon puts Abeille's node 1 on its roster */
	head = head_of(&bourdon, NULL, 2);
	assert_int_equal(roster_sign(&world_bytes, &head, &(struct roster_body){ 1, nodes }, bourdon.steward.secret), 0);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_association_of(t, abeille.node[1].key, world_now, found), ERR_UNKNOWN);
	sign_card(&abeille, 1, 1);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_association_of(t, abeille.node[1].key, world_now, found), 0);
	assert_memory_equal(found, abeille.root.key, KEY_BYTES);
	/* it moves: its newer card names the other */
	sign_card_as(&bourdon, &abeille.node[1], "one", 2);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_association_of(t, abeille.node[1].key, world_now, found), 0);
	assert_memory_equal(found, bourdon.root.key, KEY_BYTES);
}

/* --- reach ------------------------------------------------------------------------------------------- */

static void an_offer_brings_its_grantee_into_reach(void **state)
{
	struct trust *t = *state;

	take_people(t, &abeille);
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 1);
	assert_int_equal(take(t), 1);
	assert_true(trust_in_reach(t, bourdon.root.key));
	take_people(t, &bourdon);
	assert_int_equal(trust_admits(t, bourdon.node[0].key, world_now), 0);
}

static void an_acceptance_brings_its_grantor_into_reach(void **state)
{
	struct trust *t = *state;

	take_people(t, &abeille);
	sign_acceptance(&abeille, &bourdon, model, false, 1);
	assert_int_equal(take(t), 1);
	assert_true(trust_in_reach(t, bourdon.root.key));
	sign_acceptance(&abeille, &bourdon, model, true, 2);          /* declined in the end */
	assert_int_equal(take(t), 1);
	assert_false(trust_in_reach(t, bourdon.root.key));
}

static void reach_is_transitive_and_nobody_forces_his_way_in(void **state)
{
	struct trust *t = *state;

	tie(t, (struct grant){ 0 });
	sign_association(&colibri, 1);
	assert_int_equal(take(t), ERR_DENIED);
	sign_agreement(&colibri, &abeille, (struct grant){ 0 }, 1);   /* a stranger grants us something */
	assert_int_equal(take(t), ERR_DENIED);
	assert_false(trust_in_reach(t, colibri.root.key));
	sign_agreement(&bourdon, &colibri, (struct grant){ 0 }, 1);
	assert_int_equal(take(t), 1);
	assert_true(trust_in_reach(t, colibri.root.key));
	take_people(t, &colibri);
	assert_int_equal(trust_admits(t, colibri.node[0].key, world_now), 0);
}

static void revocation_shrinks_reach_and_expire_drops_what_is_out(void **state)
{
	struct trust *t = *state;
	struct trust_terms terms;
	uint8_t found[KEY_BYTES];

	tie(t, (struct grant){ .model = model });
	sign_agreement(&bourdon, &colibri, (struct grant){ 0 }, 1);
	assert_int_equal(take(t), 1);
	take_people(t, &colibri);
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), 0);
	world_now += 10;
	sign_agreement(&abeille, &bourdon, (struct grant){ .revoked = true, .model = model }, 2);
	assert_int_equal(take(t), 1);
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), ERR_DENIED);
	assert_false(trust_in_reach(t, bourdon.root.key));
	assert_false(trust_in_reach(t, colibri.root.key));
	assert_int_equal(trust_admits(t, bourdon.node[0].key, world_now), ERR_DENIED);
	assert_int_equal(trust_admits(t, colibri.node[0].key, world_now), ERR_DENIED);
	assert_int_equal(trust_expire(t, world_now), 1 + 1 + 1 + 3);  /* their association, acceptance, agreement; people */
	assert_true(trust_owes(t, bourdon.node[0].key, found));       /* steward and roster tell who is to hear it */
	assert_memory_equal(found, bourdon.root.key, KEY_BYTES);
	assert_false(trust_owes(t, colibri.node[0].key, found));
	assert_false(trust_owes(t, abeille.node[1].key, found));
	assert_int_equal(count_of(t, 0), 4);                          /* ours, and the revocation */
	sign_association(&bourdon, 2);
	assert_int_equal(take(t), ERR_DENIED);
}

/* We are Bourdon here: once the revocation has put Abeille out of reach and its records are gone, our own acceptance must
 * not reach it again, but a later one does. */
static void a_revocation_is_remembered_when_its_signer_is_out_of_reach(void **state)
{
	struct trust *t = trust_new(bourdon.root.key, bourdon.node[0].key);
	uint8_t hash[KEY_BYTES];

	(void)state;
	take_people(t, &bourdon);
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 1);
	hash_last(hash);
	sign_acceptance(&bourdon, &abeille, hash, false, 1);
	assert_int_equal(take(t), 1);
	take_people(t, &abeille);
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 1);
	assert_int_equal(take(t), 1);
	world_now += 10;
	sign_agreement(&abeille, &bourdon, (struct grant){ .revoked = true }, 2);
	assert_int_equal(take(t), 1);
	assert_false(trust_in_reach(t, abeille.root.key));
	for (int i = 0; i < 3; i++) {
		world_now += 100;
		trust_expire(t, world_now);
		assert_false(trust_in_reach(t, abeille.root.key));
	}
	assert_int_equal(count_of(t, 0), 4);
	/* Neither does a later acceptance of what was revoked: whose clock is ahead may have signed it before. */
	sign_acceptance(&bourdon, &abeille, hash, false, 2);
	assert_int_equal(take(t), 1);
	assert_false(trust_in_reach(t, abeille.root.key));
	/* A new offer may. */
	assert_int_equal(trust_introduce(t, abeille.root.key), 0);
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 3);
	assert_int_equal(take(t), 1);
	hash_last(hash);
	sign_acceptance(&bourdon, &abeille, hash, false, 3);
	assert_int_equal(take(t), 1);
	assert_true(trust_in_reach(t, abeille.root.key));
	assert_true(trust_agreement_in_force(t, abeille.root.key, bourdon.root.key, world_now));
	trust_free(t);
}

struct told {
	uint8_t bytes[2][RECORD_MAX];
	size_t length[2], n;
};

static bool hear_one(const struct record *r, void *arg)
{
	struct told *told = arg;
	int i = r->kind == RECORD_AGREEMENT;

	assert_true(r->kind == RECORD_STEWARD || r->kind == RECORD_AGREEMENT);
	memcpy(told->bytes[i], r->bytes, r->length);
	told->length[i] = r->length;
	told->n++;
	return true;
}

static struct told last_words_of(const struct trust *t)
{
	struct told told = { .n = 0 };

	trust_each_last_word(t, hear_one, &told);
	return told;
}

/* Two nodes of Bourdon, which had accepted what Abeille offered; only one hears from Abeille that this is over. Colibri is in reach of the first. */
static void what_ended_our_reach_is_told_among_our_own(void **state)
{
	struct trust *t = trust_new(bourdon.root.key, bourdon.node[0].key), *u = trust_new(bourdon.root.key, bourdon.node[1].key);
	uint8_t hash[KEY_BYTES];
	struct told told;
	struct pair successor = abeille.steward2;

	(void)state;
	take_people(t, &bourdon);
	take_people(u, &bourdon);
	assert_int_equal(trust_introduce(t, colibri.root.key), 0);
	take_people(t, &colibri);
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 1);
	hash_last(hash);
	sign_steward(&abeille, &abeille.steward, 1);
	assert_int_equal(take(u), ERR_DENIED);
	sign_acceptance(&bourdon, &abeille, hash, false, 1);
	assert_int_equal(take(t), 1);
	assert_int_equal(take(u), 1);
	take_people(t, &abeille);
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 1);
	assert_int_equal(take(t), 1);
	assert_int_equal(last_words_of(t).n, 0);
	world_now += 10;
	sign_agreement(&abeille, &bourdon, (struct grant){ .revoked = true }, 2);
	assert_int_equal(take(t), 1);
	world_now += 10;
	trust_expire(t, world_now);
	assert_false(trust_in_reach(t, abeille.root.key));

	told = last_words_of(t);
	assert_int_equal(told.n, 2);
	for (int i = 0; i < 2; i++) {
		struct record r;

		assert_int_equal(record_parse(&r, told.bytes[i], told.length[i]), 0);
		assert_non_null(trust_by_hash(t, r.hash));
		assert_null(trust_find(t, r.kind, r.association, r.subject, world_now));
		assert_true(trust_may_see(t, &r, bourdon.node[1].key, world_now));
		assert_int_equal(trust_admits(t, colibri.node[0].key, world_now), 0);
		assert_false(trust_may_see(t, &r, colibri.node[0].key, world_now));
	}
	/* The other one takes these two, and of Abeille nothing else that it has no use for once it has them. */
	for (int i = 0; i < 2; i++)
		assert_int_equal(trust_accept(u, told.bytes[i], told.length[i], world_now), 1);
	assert_false(trust_in_reach(u, abeille.root.key));
	for (int i = 0; i < 2; i++)
		assert_int_equal(trust_accept(u, told.bytes[i], told.length[i], world_now), 0);
	sign_roster(&abeille, 3, 2);
	assert_int_equal(take(u), ERR_DENIED);
	sign_association(&abeille, 2);
	assert_int_equal(take(u), ERR_DENIED);
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 3);
	assert_int_equal(take(u), ERR_DENIED);
	sign_agreement(&abeille, &colibri, (struct grant){ .revoked = true }, 3);
	assert_int_equal(take(u), ERR_DENIED);
	sign_agreement(&abeille, &bourdon, (struct grant){ .revoked = true }, 1);
	assert_int_equal(take(u), ERR_STALE);
	sign_agreement(&abeille, &bourdon, (struct grant){ .revoked = true, .signer = &successor }, 4);
	assert_int_equal(take(u), ERR_DENIED);
	/* A steward's successor takes over what was said: until he has said it again, nothing is. */
	sign_steward(&abeille, &successor, 2);
	assert_int_equal(take(u), 1);
	assert_int_equal(last_words_of(u).n, 1);
	sign_agreement(&abeille, &bourdon, (struct grant){ .revoked = true, .signer = &successor }, 4);
	assert_int_equal(take(u), 1);
	assert_int_equal(last_words_of(u).n, 2);
	assert_false(trust_in_reach(u, abeille.root.key));
	/* An acceptance that has ended reaches nobody: nothing need be remembered. */
	world_now += 31 * DAY;
	trust_expire(u, world_now);
	assert_int_equal(last_words_of(u).n, 0);
	trust_free(t);
	trust_free(u);
}

static void expiry_shrinks_reach_without_any_record(void **state)
{
	struct trust *t = *state;

	take_people(t, &abeille);
	world_life = DAY;
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 1);
	assert_int_equal(take(t), 1);
	world_life = 30 * DAY;
	take_people(t, &bourdon);
	world_now += DAY;
	assert_int_equal(trust_expire(t, world_now), 0);
	assert_true(trust_in_reach(t, bourdon.root.key));
	world_now += 1;
	trust_expire(t, world_now);
	assert_false(trust_in_reach(t, bourdon.root.key));
	assert_int_equal(trust_admits(t, bourdon.node[0].key, world_now), ERR_DENIED);
	assert_int_equal(count_of(t, 0), 3);
	sign_association(&bourdon, 2);                                /* nothing of theirs comes any more */
	assert_int_equal(take(t), ERR_DENIED);
}

/* --- clocks that are wrong for a while ------------------------------------------------------------------ */

/* Two associations with an agreement, cards and a manifest; a node of the other is admitted. */
static size_t tied_world(struct trust *t, uint8_t id[KEY_BYTES])
{
	tie(t, (struct grant){ 0 });
	sign_card(&abeille, 1, 1);
	assert_int_equal(take(t), 1);
	sign_card(&bourdon, 0, 1);
	assert_int_equal(take(t), 1);
	sign_manifest(&bourdon, 0, "m", false, 1, id);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_admits(t, bourdon.node[0].key, world_now), 0);
	return count_of(t, 0);
}

static void a_clock_that_was_ahead_or_behind_for_a_while_costs_nothing(void **state)
{
	static const int64_t offs[] = { 3600, -3600, 730 * (int64_t)DAY, -730 * (int64_t)DAY };
	struct trust *t = *state;
	uint8_t id[KEY_BYTES];
	size_t all = tied_world(t, id);

	for (size_t i = 0; i < sizeof offs / sizeof *offs; i++) {
		uint64_t wrong = world_now + (uint64_t)offs[i], before = trust_generation(t);

		for (int s = 0; s < 300; s++)
			assert_int_equal(trust_expire(t, wrong + (uint64_t)s), 0);
		if (offs[i] > 30 * (int64_t)DAY) {                    /* nothing that has ended counts */
			assert_int_equal(count_of(t, 0), 0);
			assert_false(trust_in_reach(t, bourdon.root.key));
			assert_int_equal(trust_admits(t, bourdon.node[0].key, wrong), ERR_DENIED);
			assert_int_equal(trust_admits(t, bourdon.node[0].key, TRUST_ANY_TIME), 0);
			assert_true(trust_generation(t) > before);
		}
		world_now += 300;
		assert_int_equal(trust_expire(t, world_now), 0);
		assert_int_equal(count_of(t, 0), all);
		assert_true(trust_agreement_in_force(t, abeille.root.key, bourdon.root.key, world_now));
		assert_int_equal(trust_admits(t, bourdon.node[0].key, world_now), 0);
	}
}

static void what_was_revoked_does_not_come_back_with_the_clock(void **state)
{
	struct trust *t = *state;
	uint8_t id[KEY_BYTES];
	struct buf old;

	tied_world(t, id);
	buf_init(&old, RECORD_MAX);
	sign_roster(&abeille, 3, 2);
	assert_int_equal(take(t), 1);
	assert_int_equal(buf_append(&old, world_bytes.data, world_bytes.length), 0);
	sign_roster(&abeille, 1, 3);                                  /* without node 1 */
	assert_int_equal(take(t), 1);
	sign_agreement(&abeille, &bourdon, (struct grant){ .revoked = true }, 9);
	assert_int_equal(take(t), 1);
	trust_expire(t, world_now + 800 * DAY);
	trust_expire(t, world_now - 800 * DAY);
	assert_int_equal(trust_accept(t, old.data, old.length, world_now), ERR_STALE);
	trust_expire(t, world_now);
	assert_int_equal(trust_accept(t, old.data, old.length, world_now), ERR_STALE);
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), ERR_DENIED);
	assert_int_equal(trust_admits(t, abeille.node[1].key, TRUST_ANY_TIME), ERR_DENIED);
	assert_int_equal(trust_admits(t, bourdon.node[0].key, world_now), ERR_DENIED);
	assert_int_equal(trust_admits(t, bourdon.node[0].key, TRUST_ANY_TIME), ERR_DENIED);
	buf_release(&old);
}

/* A clock that was ahead let records of the future in. They stay when it is right, and a newer one takes their place. */
static void what_came_while_the_clock_was_ahead_stays_and_binds(void **state)
{
	struct trust *t = *state;

	take_people(t, &abeille);
	world_now += 2 * DAY;
	sign_roster(&abeille, 7, 5);
	assert_int_equal(take(t), 1);
	world_now -= 2 * DAY;
	trust_expire(t, world_now);
	assert_int_equal(trust_admits(t, abeille.node[2].key, world_now), 0);
	sign_roster(&abeille, 3, 4);
	assert_int_equal(take(t), ERR_STALE);
	sign_roster(&abeille, 3, 6);
	assert_int_equal(take(t), 1);
	world_now += DAY;
	sign_card(&abeille, 1, 9);
	world_now -= DAY;
	assert_int_equal(take(t), ERR_EXPIRED);                       /* nobody else's of the future */
	world_now += DAY;
	assert_int_equal(take(t), 1);
	world_now -= DAY;
	sign_card(&abeille, 1, 2);                                    /* it lost power meanwhile, and knows nothing of that one */
	assert_int_equal(take(t), 1);
}

static void what_has_ended_goes_after_a_month_of_running_but_for_our_own_ground(void **state)
{
	struct trust *t = *state;
	uint8_t id[KEY_BYTES];
	size_t dropped = 0;

	tied_world(t, id);
	trust_expire(t, world_now);
	world_now += 31 * DAY;
	for (int i = 0; i < 29 * 24 * 60; i++)
		dropped += trust_expire(t, world_now += 60);
	assert_int_equal(dropped, 0);
	for (int i = 0; i < 3 * 24 * 60; i++)
		dropped += trust_expire(t, world_now += 60);
	assert_true(dropped > 5);
	world_now -= 63 * DAY;
	trust_expire(t, world_now);
	assert_int_equal(count_of(t, 0), 3);                          /* our association, steward and roster */
	assert_int_equal(trust_admits(t, abeille.node[1].key, world_now), 0);
}

static void what_is_asleep_makes_room(void **state)
{
	struct trust *t = *state;
	uint8_t id[KEY_BYTES];
	char name[40];

	world_life = 80 * DAY;
	take_people(t, &abeille);
	world_life = DAY;
	for (int i = 0; i < 1024; i++) {
		snprintf(name, sizeof name, "m%d", i);
		sign_manifest(&abeille, 0, name, false, 1, id);
		assert_int_equal(take(t), 1);
	}
	sign_manifest(&abeille, 0, "one more", false, 1, id);
	assert_int_equal(take(t), ERR_LIMIT);
	world_now += 2 * DAY;
	trust_expire(t, world_now);
	sign_manifest(&abeille, 0, "one more", false, 1, id);
	assert_int_equal(take(t), 1);
	assert_int_equal(count_of(t, RECORD_MANIFEST), 1);
	world_now -= 2 * DAY;
	trust_expire(t, world_now);
	assert_int_equal(count_of(t, RECORD_MANIFEST), 1024);         /* all but the one that made room; the new one is of the future, and was taken */
}

static void the_introduced_stay_until_forgotten_or_revoked(void **state)
{
	struct trust *t = *state;

	take_people(t, &abeille);
	assert_int_equal(trust_introduce(t, bourdon.root.key), 0);
	take_people(t, &bourdon);
	assert_int_equal(trust_expire(t, world_now + 20), 0);
	assert_true(trust_in_reach(t, bourdon.root.key));
	trust_forget(t, bourdon.root.key);
	assert_false(trust_in_reach(t, bourdon.root.key));
	assert_int_equal(trust_introduce(t, bourdon.root.key), 0);
	assert_true(trust_in_reach(t, bourdon.root.key));
	sign_agreement(&abeille, &bourdon, (struct grant){ .revoked = true }, 2);
	assert_int_equal(take(t), 1);
	assert_false(trust_in_reach(t, bourdon.root.key));
	assert_int_equal(trust_introduce(t, bourdon.root.key), 0);    /* a new invitation */
	assert_true(trust_in_reach(t, bourdon.root.key));
}

/* An older, longer-lived agreement must not come back when the revocation that replaced it has expired. */
static void an_expired_revocation_still_binds_what_it_replaced(void **state)
{
	struct trust *t = *state;
	struct buf old;

	take_people(t, &abeille);
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 1);
	assert_int_equal(take(t), 1);
	buf_init(&old, RECORD_MAX);
	buf_move(&old, &world_bytes);
	world_life = DAY;
	sign_agreement(&abeille, &bourdon, (struct grant){ .revoked = true }, 2);
	assert_int_equal(take(t), 1);
	world_now += 2 * DAY;
	assert_int_equal(trust_expire(t, world_now), 0);
	assert_int_equal(trust_accept(t, old.data, old.length, world_now), ERR_STALE);
	assert_false(trust_in_reach(t, bourdon.root.key));
	buf_release(&old);
}

static void one_that_signs_without_measure_brings_in_a_bounded_number(void **state)
{
	struct trust *t = *state;
	struct people crowd = people_of("crowd");
	size_t reached = 0;

	tie(t, (struct grant){ 0 });
	for (int i = 0; i < 100; i++) {
		char name[20];

		snprintf(name, sizeof name, "crowd %d", i);
		crowd.root = pair_of(name);
		sign_agreement(&bourdon, &crowd, (struct grant){ 0 }, 1);
		assert_int_equal(take(t), 1);
	}
	for (int i = 0; i < 100; i++) {
		char name[20];

		snprintf(name, sizeof name, "crowd %d", i);
		reached += trust_in_reach(t, pair_of(name).key);
	}
	assert_true(reached > 0 && reached <= TRUST_DEGREE_MAX);
}

static void one_association_cannot_fill_the_set(void **state)
{
	struct trust *t = *state;
	uint8_t which[KEY_BYTES] = { 0 };
	size_t taken = 0;
	int got = 0;

	tie(t, (struct grant){ 0 });
	for (uint32_t i = 0; i < 3000 && got >= 0; i++) {
		put_u32(which, i);
		sign_approval(&bourdon, which, false, 1);
		got = take(t);
		taken += got == 1;
	}
	assert_int_equal(got, ERR_LIMIT);
	assert_int_equal(taken, 1024);
	sign_card(&abeille, 1, 1);
	assert_int_equal(take(t), 1);
	sign_card(&bourdon, 1, 1);
	assert_int_equal(take(t), 1);
}

/* --- use --------------------------------------------------------------------------------------------- */

static void an_agreement_is_one_way_and_bounded(void **state)
{
	struct trust *t = *state;
	struct trust_terms terms;

	tie(t, (struct grant){ .model = model, .tokens = 1000, .seconds = 60, .priority = 4 });
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), 0);
	assert_int_equal(terms.priority, 4);
	assert_int_equal(terms.tokens_per_day, 1000);
	assert_int_equal(terms.stage_seconds_per_day, 60);
	assert_int_equal(may(t, &bourdon, &abeille, other_model, &terms), ERR_DENIED);
	assert_int_equal(may(t, &abeille, &bourdon, model, &terms), ERR_DENIED);
	assert_int_equal(may(t, &colibri, &abeille, model, &terms), ERR_DENIED);
	assert_true(trust_agreement_in_force(t, abeille.root.key, bourdon.root.key, world_now));
	assert_false(trust_agreement_in_force(t, bourdon.root.key, abeille.root.key, world_now));
}

static void an_offer_alone_grants_nothing(void **state)
{
	struct trust *t = *state;
	struct trust_terms terms;
	uint8_t hash[KEY_BYTES];

	take_people(t, &abeille);
	sign_agreement(&abeille, &bourdon, (struct grant){ .model = model }, 1);
	hash_last(hash);
	assert_int_equal(take(t), 1);
	take_people(t, &bourdon);
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), ERR_DENIED);
	sign_acceptance(&bourdon, &abeille, other_model, false, 1);   /* of something else */
	assert_int_equal(take(t), 1);
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), ERR_DENIED);
	sign_acceptance(&bourdon, &abeille, hash, true, 2);           /* declined */
	assert_int_equal(take(t), 1);
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), ERR_DENIED);
	sign_acceptance(&bourdon, &abeille, hash, false, 3);
	assert_int_equal(take(t), 1);
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), 0);
	sign_agreement(&abeille, &bourdon, (struct grant){ .model = other_model }, 2);        /* other terms want another acceptance */
	assert_int_equal(take(t), 1);
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), ERR_DENIED);
	assert_int_equal(may(t, &bourdon, &abeille, other_model, &terms), ERR_DENIED);
}

static void an_expired_agreement_grants_nothing(void **state)
{
	struct trust *t = *state;
	struct trust_terms terms;

	tie(t, (struct grant){ .model = model });
	world_now += world_life;
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), 0);
	world_now += 1;
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), ERR_DENIED);
}

static void own_members_have_priority_ten_and_no_limits(void **state)
{
	struct trust *t = *state;
	struct trust_terms terms;

	assert_int_equal(may(t, &abeille, &abeille, model, &terms), 0);
	assert_int_equal(terms.priority, 10);
	assert_true(terms.tokens_per_day == UINT64_MAX && terms.stage_seconds_per_day == UINT64_MAX);
	assert_int_equal(may(t, &bourdon, &bourdon, model, &terms), ERR_DENIED);      /* nobody we know */
}

static void without_a_list_both_must_have_approved(void **state)
{
	struct trust *t = *state;
	struct trust_terms terms;

	tie(t, (struct grant){ 0 });
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), ERR_DENIED);
	sign_approval(&abeille, model, false, 1);
	assert_int_equal(take(t), 1);
	assert_true(trust_approved(t, abeille.root.key, model, world_now));
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), ERR_DENIED);
	sign_approval(&bourdon, model, false, 1);
	assert_int_equal(take(t), 1);
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), 0);
	sign_approval(&abeille, model, true, 2);
	assert_int_equal(take(t), 1);
	assert_false(trust_approved(t, abeille.root.key, model, world_now));
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), ERR_DENIED);
}

static void a_withdrawn_approval_ends_what_a_list_granted(void **state)
{
	struct trust *t = *state;
	struct trust_terms terms;

	tie(t, (struct grant){ .model = model });
	sign_approval(&abeille, model, true, 1);
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), 0);
	assert_int_equal(take(t), 1);
	assert_int_equal(may(t, &bourdon, &abeille, model, &terms), ERR_DENIED);
}

/* --- who sees what, and the rest ---------------------------------------------------------------------- */

static void manifests_come_from_any_rostered_node_and_private_ones_stay_at_home(void **state)
{
	struct trust *t = *state;
	uint8_t open[KEY_BYTES], closed[KEY_BYTES], theirs[KEY_BYTES];
	const struct record *r;
	size_t n = 0;

	tie(t, (struct grant){ 0 });
	sign_manifest(&abeille, 0, "open", false, 1, open);
	assert_int_equal(take(t), 1);
	sign_manifest(&abeille, 1, "closed", true, 1, closed);
	assert_int_equal(take(t), 1);
	sign_manifest(&bourdon, 1, "theirs", false, 1, theirs);
	assert_int_equal(take(t), 1);
	sign_manifest(&bourdon, 2, "nobody's", false, 1, theirs);
	assert_int_equal(take(t), ERR_DENIED);
	r = trust_find(t, RECORD_MANIFEST, abeille.root.key, open, world_now);
	assert_non_null(r);
	assert_true(trust_may_see(t, r, abeille.node[1].key, world_now));
	assert_true(trust_may_see(t, r, bourdon.node[0].key, world_now));
	assert_false(trust_may_see(t, r, colibri.node[0].key, world_now));
	r = trust_find(t, RECORD_MANIFEST, abeille.root.key, closed, world_now);
	assert_non_null(r);
	assert_true(trust_may_see(t, r, abeille.node[1].key, world_now));
	assert_false(trust_may_see(t, r, bourdon.node[0].key, world_now));
	trust_each_subject(t, RECORD_MANIFEST, open, world_now, count_one, &n);
	assert_int_equal(n, 1);
}

static void another_models_id_is_not_taken_for_a_manifest(void **state)
{
	static const char domain[] = "essaim-record-1\0manifest";
	struct trust *t = *state;
	uint8_t id[KEY_BYTES], *at;
	struct signed_view view;
	struct buf payload;

	take_people(t, &abeille);
	sign_manifest(&abeille, 0, "m", false, 1, id);
	assert_int_equal(signed_split(&view, world_bytes.data, world_bytes.length), 0);
	buf_init(&payload, RECORD_MAX);
	assert_int_equal(buf_append(&payload, view.payload, view.payload_length), 0);
	at = memmem(payload.data, payload.length, id, KEY_BYTES);
	assert_non_null(at);
	memcpy(at, other_model, KEY_BYTES);
	buf_clear(&world_bytes);
	assert_int_equal(signed_append(&world_bytes, RECORD_MAX, domain, sizeof domain, &payload, abeille.node[0].secret), 0);
	assert_int_equal(take(t), ERR_MALFORMED);
	buf_release(&payload);
}

static void receipts_stay_between_the_two_they_are_about(void **state)
{
	struct trust *t = *state;
	struct record r;

	tie(t, (struct grant){ 0 });
	sign_agreement(&bourdon, &colibri, (struct grant){ 0 }, 1);
	assert_int_equal(take(t), 1);
	take_people(t, &colibri);
	sign_receipt(&abeille, 0, &bourdon, 1);
	assert_int_equal(take(t), 1);
	assert_int_equal(record_open(&r, world_bytes.data, world_bytes.length), 0);
	assert_true(trust_may_see(t, &r, abeille.node[1].key, world_now));
	assert_true(trust_may_see(t, &r, bourdon.node[0].key, world_now));
	assert_false(trust_may_see(t, &r, colibri.node[0].key, world_now));
}

static void a_false_countersignature_is_refused(void **state)
{
	struct trust *t = *state;
	struct record head;
	struct receipt_body b = { .session = { 9 }, .rows = 10 };

	tie(t, (struct grant){ 0 });
	memcpy(b.node, abeille.node[0].key, KEY_BYTES);
	memcpy(b.home, bourdon.node[0].key, KEY_BYTES);
	memcpy(b.home_association, bourdon.root.key, KEY_BYTES);
	assert_int_equal(receipt_countersign(&b, bourdon.node[0].secret, b.countersignature), 0);
	head = head_of(&abeille, NULL, 1);
	b.rows = 1000;                                                /* more than the home agreed to */
	assert_int_equal(receipt_sign(&world_bytes, &head, &b, abeille.node[0].secret), 0);
	assert_int_equal(take(t), ERR_SIGNATURE);
	head = head_of(&abeille, NULL, 1);
	b.rows = 10;
	assert_int_equal(receipt_sign(&world_bytes, &head, &b, abeille.node[0].secret), 0);
	assert_int_equal(take(t), 1);
}

static void what_is_held_is_found_by_its_hash(void **state)
{
	struct trust *t = *state;
	uint8_t hash[KEY_BYTES];
	const struct record *r;

	sign_association(&abeille, 1);
	hash_last(hash);
	assert_null(trust_by_hash(t, hash));
	assert_int_equal(take(t), 1);
	r = trust_by_hash(t, hash);
	assert_non_null(r);
	assert_int_equal(r->length, world_bytes.length);
	assert_memory_equal(r->bytes, world_bytes.data, r->length);
	sign_association(&abeille, 2);
	assert_int_equal(take(t), 1);
	assert_null(trust_by_hash(t, hash));
}

static void the_sequence_that_binds_is_told_also_when_the_clock_went_back(void **state)
{
	struct people own = people_of("Abeille");
	struct trust *t = trust_new(own.root.key, own.node[0].key);

	(void)state;
	take_people(t, &own);
	assert_int_equal(trust_sequence(t, RECORD_CARD, own.root.key, own.node[0].key), 0);
	sign_card(&own, 0, 7);
	assert_int_equal(take(t), 1);
	/* What it signed is of the future now; it still binds. */
	world_now -= 1000;
	assert_int_equal(trust_sequence(t, RECORD_CARD, own.root.key, own.node[0].key), 7);
	world_now += 1000;
	sign_card(&own, 0, 8);
	assert_int_equal(take(t), 1);
	assert_int_equal(trust_sequence(t, RECORD_CARD, own.root.key, own.node[0].key), 8);
	trust_free(t);
}

static void our_lapsed_stewards_work_comes_back_from_disk_only(void **state)
{
	struct trust *t = *state;
	size_t to_renew = 0;

	sign_steward(&abeille, &abeille.steward2, 2);
	assert_int_equal(take(t), 1);
	sign_agreement(&abeille, &bourdon, (struct grant){ 0 }, 1);   /* by the former steward */
	assert_int_equal(take(t), ERR_DENIED);
	assert_int_equal(trust_restore(t, world_bytes.data, world_bytes.length, world_now), 1);
	assert_false(trust_in_reach(t, bourdon.root.key));
	trust_each_to_renew(t, count_one, &to_renew);
	assert_int_equal(to_renew, 1);
	assert_int_equal(count_of(t, RECORD_AGREEMENT), 0);
	sign_association(&bourdon, 1);
	assert_int_equal(trust_restore(t, world_bytes.data, world_bytes.length, world_now), ERR_DENIED);
	assert_int_equal(trust_introduce(t, bourdon.root.key), 0);    /* nor do others' former stewards come back */
	sign_steward(&bourdon, &bourdon.steward2, 2);
	assert_int_equal(take(t), 1);
	sign_agreement(&bourdon, &colibri, (struct grant){ 0 }, 1);
	assert_int_equal(trust_restore(t, world_bytes.data, world_bytes.length, world_now), ERR_DENIED);
}

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

/* Records of three associations at random, some valid, some not, with time going on: what trust answers is at every step
 * covered by records it shows, and the set can always be emptied by time. */
static void random_histories_keep_the_rules(void **state)
{
	const struct people *all[3] = { &abeille, &bourdon, &colibri };

	(void)state;
	for (uint32_t seed = 1; seed <= 40; seed++) {
		struct trust *t = trust_new(abeille.root.key, abeille.node[0].key);
		uint32_t random = seed;

		world_now = MORNING;
		for (int step = 0; step < 250; step++) {
			const struct people *p = all[next_random(&random) % 3], *q = all[next_random(&random) % 3];
			uint64_t sequence = next_random(&random) % 6;
			const struct pair *steward = next_random(&random) % 4 ? &p->steward : &p->steward2;

			world_life = 1 + next_random(&random) % (3 * DAY);
			switch (next_random(&random) % 8) {
			case 0: sign_steward(p, steward, sequence); break;
			case 1: sign_roster_by(p, steward, next_random(&random) % 16, sequence); break;
			case 2: sign_card(p, (int)(next_random(&random) % 4), sequence); break;
			case 3: sign_advert(p, (int)(next_random(&random) % 4), sequence); break;
			case 4:
				if (p != q)
					sign_agreement(p, q, (struct grant){ .revoked = next_random(&random) % 3 == 0, .signer = steward }, sequence);
				break;
			case 5:
				if (p != q)
					sign_acceptance(p, q, model, next_random(&random) % 4 == 0, sequence);
				break;
			case 6: sign_approval(p, model, next_random(&random) & 1, sequence); break;
			case 7:
				world_now += next_random(&random) % (DAY / 4);
				trust_expire(t, world_now);
				break;
			}
			if (world_bytes.length)
				take(t);
			for (int i = 0; i < 3; i++)
				for (int k = 0; k < 4; k++) {
					uint8_t who[KEY_BYTES];
					const struct record *roster;

					if (trust_association_of(t, all[i]->node[k].key, world_now, who))
						continue;
					assert_memory_equal(who, all[i]->root.key, KEY_BYTES);
					assert_true(trust_in_reach(t, who));
					roster = trust_find(t, RECORD_ROSTER, who, who, world_now);
					if (!roster) {       /* handed over to a new steward, for a moment */
						assert_int_equal(trust_association_of(t, all[i]->node[k].key, world_now + TRUST_HANDOVER_S + 1, who), ERR_UNKNOWN);
						continue;
					}
					assert_int_equal(record_is_current(roster, world_now), 0);
					assert_non_null(trust_find(t, RECORD_STEWARD, who, who, world_now));
				}
			if (trust_find(t, RECORD_CARD, bourdon.root.key, bourdon.node[0].key, world_now))
				assert_true(trust_in_reach(t, bourdon.root.key));
		}
		world_now += 30 * DAY;
		trust_expire(t, world_now);
		assert_int_equal(count_of(t, 0), 0);
		assert_false(trust_in_reach(t, bourdon.root.key));
		trust_free(t);
	}
}

#define FACT(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		FACT(a_clock_that_was_ahead_or_behind_for_a_while_costs_nothing),
		FACT(what_was_revoked_does_not_come_back_with_the_clock),
		FACT(what_came_while_the_clock_was_ahead_stays_and_binds),
		FACT(what_has_ended_goes_after_a_month_of_running_but_for_our_own_ground),
		FACT(what_is_asleep_makes_room),
		FACT(a_record_is_new_once_and_known_after),
		FACT(strangers_are_denied_until_they_come_into_reach),
		FACT(the_order_of_arrival_does_not_matter),
		FACT(the_newest_sequence_wins),
		FACT(of_one_sequence_the_smaller_hash_wins_in_any_order),
		FACT(records_from_the_future_and_expired_ones_are_refused),
		FACT(a_forged_record_is_refused),
		FACT(the_wrong_signer_is_denied),
		FACT(a_steward_of_more_than_ninety_days_is_refused),
		FACT(a_steward_that_root_did_not_sign_is_refused),
		FACT(an_agreement_wider_than_a_steward_may_give_is_refused),
		FACT(twice_in_a_roster_is_refused),
		FACT(a_new_steward_ends_what_the_old_one_signed),
		FACT(a_node_that_has_left_is_not_admitted_until_a_later_roster),
		FACT(what_a_stolen_steward_key_numbered_high_does_not_bind_the_next),
		FACT(an_expired_steward_stops_everything_he_signed),
		FACT(a_node_left_out_of_the_roster_is_out_with_all_it_said),
		FACT(our_own_node_needs_no_link_to_itself),
		FACT(of_two_associations_that_claim_a_node_its_card_decides),
		FACT(an_offer_brings_its_grantee_into_reach),
		FACT(an_acceptance_brings_its_grantor_into_reach),
		FACT(reach_is_transitive_and_nobody_forces_his_way_in),
		FACT(revocation_shrinks_reach_and_expire_drops_what_is_out),
		FACT(a_revocation_is_remembered_when_its_signer_is_out_of_reach),
		FACT(what_ended_our_reach_is_told_among_our_own),
		FACT(expiry_shrinks_reach_without_any_record),
		FACT(the_introduced_stay_until_forgotten_or_revoked),
		FACT(an_expired_revocation_still_binds_what_it_replaced),
		FACT(one_that_signs_without_measure_brings_in_a_bounded_number),
		FACT(one_association_cannot_fill_the_set),
		FACT(an_agreement_is_one_way_and_bounded),
		FACT(an_offer_alone_grants_nothing),
		FACT(an_expired_agreement_grants_nothing),
		FACT(own_members_have_priority_ten_and_no_limits),
		FACT(without_a_list_both_must_have_approved),
		FACT(a_withdrawn_approval_ends_what_a_list_granted),
		FACT(manifests_come_from_any_rostered_node_and_private_ones_stay_at_home),
		FACT(another_models_id_is_not_taken_for_a_manifest),
		FACT(receipts_stay_between_the_two_they_are_about),
		FACT(a_false_countersignature_is_refused),
		FACT(what_is_held_is_found_by_its_hash),
		FACT(the_sequence_that_binds_is_told_also_when_the_clock_went_back),
		FACT(our_lapsed_stewards_work_comes_back_from_disk_only),
		FACT(random_histories_keep_the_rules),
	};

	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
