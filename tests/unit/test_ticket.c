/* Tickets: signed, read, bent and broken.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "proto/signed.h"
#include "tests/samples.h"

static const char domain[] = "essaim-ticket-1";

static struct buf ticket_bytes(void)
{
	struct buf out;
	struct ticket t = sample_ticket();
	buf_init(&out, TICKET_MAX);
	assert_int_equal(ticket_sign(&out, &t, sample_home.secret), 0);
	return out;
}

/* A ticket's payload with one number exchanged, and signed as home would. */
struct bend {
	const char *key;
	uint64_t value;
};

static int bent_by(const struct bend *bend, size_t skip_key, const struct sample_key *signer)
{
	const struct ticket t = sample_ticket();
	const struct { const char *key; const uint8_t *bytes; size_t n; uint64_t number; } fields[] = {
		{ "session", t.session, SESSION_BYTES, 0 },
		{ "epoch", NULL, 0, t.epoch },
		{ "home", t.home, KEY_BYTES, 0 },
		{ "home_association", t.home_association, KEY_BYTES, 0 },
		{ "model", t.model, KEY_BYTES, 0 },
		{ "stage", NULL, 0, t.stage },
		{ "n_stages", NULL, 0, t.n_stages },
		{ "first", NULL, 0, t.range.first },
		{ "end", NULL, 0, t.range.end },
		{ "node", t.node, KEY_BYTES, 0 },
		{ "previous", t.previous, KEY_BYTES, 0 },
		{ "next", t.next, KEY_BYTES, 0 },
		{ "context", NULL, 0, t.context },
		{ "issued", NULL, 0, t.issued },
		{ "expires", NULL, 0, t.expires },
	};
	size_t n = sizeof(fields) / sizeof(*fields);
	struct buf payload, bytes;
	struct pack_writer w;
	buf_init(&payload, TICKET_MAX);
	buf_init(&bytes, TICKET_MAX);
	pack_writer_init(&w, &payload);
	pack_map(&w, n + 1 - (skip_key < n));
	for (size_t i = 0; i < n; i++) {
		if (i == skip_key)
			continue;
		if (fields[i].bytes)
			pack_kv_bin(&w, fields[i].key, fields[i].bytes, fields[i].n);
		else
			pack_kv_uint(&w, fields[i].key, bend && !strcmp(bend->key, fields[i].key) ? bend->value : fields[i].number);
	}
	pack_kv_str(&w, "of a later version", "ignored");
	assert_int_equal(w.err, 0);
	assert_int_equal(signed_append(&bytes, TICKET_MAX, domain, sizeof(domain), &payload, signer->secret), 0);

	struct ticket got;
	int err = ticket_open(&got, bytes.data, bytes.length);
	buf_release(&payload);
	buf_release(&bytes);
	return err;
}

static void ticket_round_trips(void **state)
{
	struct buf bytes = ticket_bytes();
	struct ticket t = sample_ticket(), got;
	assert_int_equal(ticket_open(&got, bytes.data, bytes.length), 0);
	assert_memory_equal(got.session, t.session, SESSION_BYTES);
	assert_memory_equal(got.home, t.home, KEY_BYTES);
	assert_memory_equal(got.home_association, t.home_association, KEY_BYTES);
	assert_memory_equal(got.model, t.model, KEY_BYTES);
	assert_memory_equal(got.node, t.node, KEY_BYTES);
	assert_memory_equal(got.previous, t.previous, KEY_BYTES);
	assert_memory_equal(got.next, t.next, KEY_BYTES);
	assert_int_equal(got.epoch, 2);
	assert_int_equal(got.stage, 1);
	assert_int_equal(got.n_stages, 3);
	assert_int_equal(got.range.first, 8);
	assert_int_equal(got.range.end, 16);
	assert_int_equal(got.context, 4096);
	assert_int_equal(got.issued, SAMPLE_ISSUED);
	assert_int_equal(got.expires, SAMPLE_ISSUED + 600);
	buf_release(&bytes);
}

static void ticket_refuses_every_bit_flip(void **state)
{
	struct buf bytes = ticket_bytes();
	struct ticket got;
	for (size_t bit = 0; bit < bytes.length * 8; bit++) {
		bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_true(ticket_open(&got, bytes.data, bytes.length) < 0);
		assert_int_equal(got.n_stages, 0);
		bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(ticket_open(&got, bytes.data, bytes.length), 0);
	buf_release(&bytes);
}

static void ticket_refuses_every_truncation_and_a_byte_more(void **state)
{
	struct buf bytes = ticket_bytes();
	for (size_t n = 0; n <= bytes.length + 1; n++) {
		struct ticket got;
		if (n == bytes.length)
			continue;
		uint8_t *cut = calloc(1, n + 1);
		memcpy(cut, bytes.data, n < bytes.length ? n : bytes.length);
		assert_int_equal(ticket_open(&got, cut, n), ERR_MALFORMED);
		free(cut);
	}
	buf_release(&bytes);
}

static void ticket_past_its_limit_is_refused(void **state)
{
	struct ticket got;
	uint8_t *bytes = calloc(1, TICKET_MAX + 1);
	assert_int_equal(ticket_open(&got, bytes, TICKET_MAX + 1), ERR_LIMIT);
	free(bytes);
}

static void ticket_signed_by_anyone_but_home_is_refused(void **state)
{
	assert_int_equal(bent_by(NULL, SIZE_MAX, &sample_home), 0);
	assert_int_equal(bent_by(NULL, SIZE_MAX, &sample_other), ERR_SIGNATURE);
	assert_int_equal(bent_by(NULL, SIZE_MAX, &sample_node), ERR_SIGNATURE);

	struct ticket t = sample_ticket();
	struct buf out;
	buf_init(&out, TICKET_MAX);
	assert_int_equal(ticket_sign(&out, &t, sample_other.secret), ERR_DENIED);
	assert_int_equal(out.length, 0);
	buf_release(&out);
}

static void ticket_is_no_record_and_no_record_a_ticket(void **state)
{
	struct buf bytes = ticket_bytes();
	struct record r;
	struct ticket got;
	assert_int_equal(record_open(&r, bytes.data, bytes.length), ERR_MALFORMED);
	buf_clear(&bytes);
	sample_record(&bytes, RECORD_APPROVAL);
	assert_int_equal(ticket_open(&got, bytes.data, bytes.length), ERR_MALFORMED);
	buf_release(&bytes);
}

static void ticket_needs_every_field(void **state)
{
	for (size_t key = 0; key < 15; key++)
		assert_int_equal(bent_by(NULL, key, &sample_home), ERR_MALFORMED);
}

static void ticket_fields_stay_in_their_limits(void **state)
{
	static const struct { struct bend bend; int err; } cases[] = {
		{ { "epoch", UINT32_MAX }, 0 },
		{ { "epoch", UINT64_C(1) << 32 }, ERR_LIMIT },
		{ { "stage", 0 }, 0 },
		{ { "stage", 2 }, 0 },
		{ { "stage", 3 }, ERR_MALFORMED },                       /* of 3 */
		{ { "stage", RING_STAGES_MAX }, ERR_LIMIT },
		{ { "n_stages", 0 }, ERR_MALFORMED },
		{ { "n_stages", 1 }, ERR_MALFORMED },                    /* stage 1 of 1 */
		{ { "n_stages", RING_STAGES_MAX }, 0 },
		{ { "n_stages", RING_STAGES_MAX + 1 }, ERR_LIMIT },
		{ { "first", 15 }, 0 },
		{ { "first", 16 }, ERR_MALFORMED },                      /* empty */
		{ { "first", 17 }, ERR_MALFORMED },                      /* backwards */
		{ { "end", MODEL_LAYERS_MAX }, 0 },
		{ { "end", MODEL_LAYERS_MAX + 1 }, ERR_LIMIT },
		{ { "context", 0 }, ERR_MALFORMED },
		{ { "context", CONTEXT_MAX }, 0 },
		{ { "context", CONTEXT_MAX + 1 }, ERR_LIMIT },
		{ { "expires", SAMPLE_ISSUED }, ERR_MALFORMED },
		{ { "expires", 0 }, ERR_MALFORMED },
		{ { "expires", SAMPLE_ISSUED + TICKET_LIFE_S }, 0 },
		{ { "expires", SAMPLE_ISSUED + TICKET_LIFE_S + 1 }, ERR_LIMIT },
		{ { "expires", UINT64_MAX }, ERR_LIMIT },
		{ { "issued", UINT64_MAX }, ERR_MALFORMED },
		{ { "issued", 0 }, ERR_LIMIT },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		assert_int_equal(bent_by(&cases[i].bend, SIZE_MAX, &sample_home), cases[i].err);
}

static void ticket_sign_keeps_the_same_limits(void **state)
{
	struct ticket good = sample_ticket(), bad[] = { good, good, good, good, good, good };
	static const int errs[] = { ERR_MALFORMED, ERR_MALFORMED, ERR_MALFORMED, ERR_LIMIT, ERR_LIMIT, ERR_MALFORMED };
	bad[0].stage = bad[0].n_stages;
	bad[1].range.end = bad[1].range.first;
	bad[2].context = 0;
	bad[3].expires = bad[3].issued + TICKET_LIFE_S + 1;
	bad[4].context = CONTEXT_MAX + 1;
	bad[5].expires = bad[5].issued;
	struct buf out;
	buf_init(&out, TICKET_MAX);
	for (size_t i = 0; i < 6; i++)
		assert_int_equal(ticket_sign(&out, &bad[i], sample_home.secret), errs[i]);
	assert_int_equal(out.length, 0);
	assert_int_equal(ticket_sign(&out, &good, sample_home.secret), 0);
	buf_release(&out);
}

static int setup(void **state)
{
	samples_init();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ticket_round_trips),
		cmocka_unit_test(ticket_refuses_every_bit_flip),
		cmocka_unit_test(ticket_refuses_every_truncation_and_a_byte_more),
		cmocka_unit_test(ticket_past_its_limit_is_refused),
		cmocka_unit_test(ticket_signed_by_anyone_but_home_is_refused),
		cmocka_unit_test(ticket_is_no_record_and_no_record_a_ticket),
		cmocka_unit_test(ticket_needs_every_field),
		cmocka_unit_test(ticket_fields_stay_in_their_limits),
		cmocka_unit_test(ticket_sign_keeps_the_same_limits),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
