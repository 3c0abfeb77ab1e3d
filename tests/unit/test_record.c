/* Records: every kind signed, read, bent and broken.
 *
 * Most of the negative cases start from an honest record, exchange one key of its payload and sign it again, so that
 * nothing but that key can be the reason for the refusal.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <msgpack.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "proto/signed.h"
#include "tests/samples.h"

#define FIRST_KIND RECORD_ASSOCIATION
#define LAST_KIND RECORD_RECEIPT
#define RAW(bytes) (bytes), sizeof(bytes) - 1

static struct buf record_of(enum record_kind kind)
{
	struct buf out;
	buf_init(&out, RECORD_MAX);
	sample_record(&out, kind);
	return out;
}

/* --- bending a payload --------------------------------------------------------------------------------- */

static int to_buf(void *data, const char *bytes, size_t n)
{
	return buf_append(data, bytes, n);
}

/* A payload with the value of one key exchanged for raw msgpack, without the key when raw is NULL, or with one key more
 * when it has no such key. */
static struct buf bend_payload(const uint8_t *payload, size_t length, const char *key, const void *raw, size_t n)
{
	struct buf out;
	msgpack_unpacked doc;
	buf_init(&out, 4 * RECORD_MAX);
	msgpack_unpacked_init(&doc);
	assert_int_equal(msgpack_unpack_next(&doc, (const char *)payload, length, NULL), MSGPACK_UNPACK_SUCCESS);
	msgpack_object_map map = doc.data.via.map;
	msgpack_packer packer;
	msgpack_packer_init(&packer, &out, to_buf);

	bool has = false;
	for (uint32_t i = 0; i < map.size; i++)
		has |= map.ptr[i].key.via.str.size == strlen(key) && !memcmp(map.ptr[i].key.via.str.ptr, key, strlen(key));
	msgpack_pack_map(&packer, map.size - (has && !raw) + (!has && raw));
	for (uint32_t i = 0; i < map.size; i++) {
		const msgpack_object_str *name = &map.ptr[i].key.via.str;
		bool this = name->size == strlen(key) && !memcmp(name->ptr, key, name->size);
		if (this && !raw)
			continue;
		msgpack_pack_object(&packer, map.ptr[i].key);
		if (this)
			assert_int_equal(buf_append(&out, raw, n), 0);
		else
			msgpack_pack_object(&packer, map.ptr[i].val);
	}
	if (!has && raw) {
		msgpack_pack_str_with_body(&packer, key, strlen(key));
		assert_int_equal(buf_append(&out, raw, n), 0);
	}
	msgpack_unpacked_destroy(&doc);
	return out;
}

/* The payload of an honest record, bent. */
static struct buf bend(enum record_kind kind, const char *key, const void *raw, size_t n)
{
	struct buf honest = record_of(kind);
	struct signed_view view;
	assert_int_equal(signed_split(&view, honest.data, honest.length), 0);
	struct buf out = bend_payload(view.payload, view.payload_length, key, raw, n);
	buf_release(&honest);
	return out;
}

/* What everybody does with a record: 0, or the first refusal. */
static int open_and_read(const struct buf *bytes)
{
	struct record r;
	int err = record_open(&r, bytes->data, bytes->length);
	return err ? err : record_check_body(&r);
}

static int bent(enum record_kind kind, const char *key, const void *raw, size_t n)
{
	struct buf payload = bend(kind, key, raw, n), bytes;
	buf_init(&bytes, 4 * RECORD_MAX);
	sample_forge(&bytes, kind, &payload, sample_signer(kind));
	int err = open_and_read(&bytes);
	buf_release(&payload);
	buf_release(&bytes);
	return err;
}

/* --- bytes and signatures ------------------------------------------------------------------------------- */

static void record_of_every_kind_opens_as_it_was_signed(void **state)
{
	for (enum record_kind kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
		struct buf bytes = record_of(kind);
		struct record r;
		uint8_t hash[KEY_BYTES];
		assert_int_equal(record_open(&r, bytes.data, bytes.length), 0);
		assert_int_equal(r.kind, kind);
		assert_memory_equal(r.signer, sample_signer(kind)->public, KEY_BYTES);
		assert_memory_equal(r.association, sample_root.public, KEY_BYTES);
		assert_int_equal(r.sequence, 7);
		assert_int_equal(r.issued, SAMPLE_ISSUED);
		assert_int_equal(r.expires, SAMPLE_EXPIRES);
		crypto_generichash(hash, sizeof(hash), bytes.data, bytes.length, NULL, 0);
		assert_memory_equal(r.hash, hash, KEY_BYTES);
		assert_ptr_equal(r.bytes, bytes.data);
		assert_int_equal(r.length, bytes.length);
		assert_true(r.payload > bytes.data && r.payload + r.payload_length + 66 == bytes.data + bytes.length);
		assert_int_equal(record_check_body(&r), 0);

		struct record parsed;
		assert_int_equal(record_parse(&parsed, bytes.data, bytes.length), 0);
		assert_memory_equal(parsed.hash, r.hash, KEY_BYTES);
		buf_release(&bytes);
	}
}

static void record_has_the_subject_of_its_kind(void **state)
{
	for (enum record_kind kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
		struct buf bytes = record_of(kind);
		struct record r;
		assert_int_equal(record_open(&r, bytes.data, bytes.length), 0);
		if (kind <= RECORD_ROSTER)
			assert_memory_equal(r.subject, sample_root.public, KEY_BYTES);
		else if (kind <= RECORD_ADVERT)
			assert_memory_equal(r.subject, sample_node.public, KEY_BYTES);
		else if (kind == RECORD_AGREEMENT || kind == RECORD_ACCEPTANCE || kind == RECORD_APPROVAL)
			assert_memory_equal(r.subject, sample_other.public, KEY_BYTES);
		buf_release(&bytes);
	}
}

static void record_refuses_every_bit_flip(void **state)
{
	for (enum record_kind kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
		struct buf bytes = record_of(kind);
		for (size_t bit = 0; bit < bytes.length * 8; bit++) {
			struct record r;
			bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_true(record_open(&r, bytes.data, bytes.length) < 0);
			assert_null(r.bytes);
			assert_int_equal(r.kind, 0);
			bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		assert_int_equal(open_and_read(&bytes), 0);
		buf_release(&bytes);
	}
}

static void record_refuses_every_truncation_and_a_byte_more(void **state)
{
	for (enum record_kind kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
		struct buf bytes = record_of(kind);
		for (size_t n = 0; n <= bytes.length + 1; n++) {
			if (n == bytes.length)
				continue;
			struct record r;
			uint8_t *cut = calloc(1, n + 1);
			memcpy(cut, bytes.data, n < bytes.length ? n : bytes.length);
			assert_int_equal(record_open(&r, cut, n), ERR_MALFORMED);
			free(cut);
		}
		buf_release(&bytes);
	}
}

static void record_refuses_another_encoding_of_the_same_values(void **state)
{
	struct buf bytes = record_of(RECORD_CARD), other;
	buf_init(&other, RECORD_MAX);

	/* An array of two as dc 00 02 */
	static const uint8_t array_16[] = { 0xdc, 0, 2 };
	buf_append(&other, array_16, sizeof(array_16));
	buf_append(&other, bytes.data + 1, bytes.length - 1);
	assert_int_equal(open_and_read(&other), ERR_MALFORMED);

	/* The payload, which bin 16 holds, as bin 32 */
	assert_int_equal(bytes.data[1], 0xc5);
	uint8_t bin_32[] = { 0x92, 0xc6, 0, 0, bytes.data[2], bytes.data[3] };
	buf_clear(&other);
	buf_append(&other, bin_32, sizeof(bin_32));
	buf_append(&other, bytes.data + 4, bytes.length - 4);
	assert_int_equal(open_and_read(&other), ERR_MALFORMED);
	buf_release(&bytes);
	buf_release(&other);
}

static void record_refuses_the_domain_of_another_kind(void **state)
{
	for (enum record_kind kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
		for (enum record_kind other = FIRST_KIND; other <= LAST_KIND; other++) {
			struct buf honest = record_of(kind), payload, forged;
			struct signed_view view;
			buf_init(&payload, RECORD_MAX);
			buf_init(&forged, RECORD_MAX);
			assert_int_equal(signed_split(&view, honest.data, honest.length), 0);
			buf_append(&payload, view.payload, view.payload_length);
			sample_forge(&forged, other, &payload, sample_signer(kind));
			assert_int_equal(open_and_read(&forged), kind == other ? 0 : ERR_SIGNATURE);
			buf_release(&honest);
			buf_release(&payload);
			buf_release(&forged);
		}
	}
}

static void record_refuses_a_ticket_s_signature_and_a_bare_one(void **state)
{
	static const char *const domains[] = { "essaim-ticket-1", "", "essaim-record-1" };
	struct buf honest = record_of(RECORD_CARD), payload, forged;
	struct signed_view view;
	buf_init(&payload, RECORD_MAX);
	buf_init(&forged, RECORD_MAX);
	assert_int_equal(signed_split(&view, honest.data, honest.length), 0);
	buf_append(&payload, view.payload, view.payload_length);
	for (size_t i = 0; i < 3; i++) {
		buf_clear(&forged);
		assert_int_equal(signed_append(&forged, RECORD_MAX, domains[i], strlen(domains[i]) + 1, &payload, sample_node.secret), 0);
		assert_int_equal(open_and_read(&forged), ERR_SIGNATURE);
	}
	buf_release(&honest);
	buf_release(&payload);
	buf_release(&forged);
}

static void record_refuses_the_signature_of_another_key(void **state)
{
	for (enum record_kind kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
		struct buf honest = record_of(kind), payload, forged;
		struct signed_view view;
		buf_init(&payload, RECORD_MAX);
		buf_init(&forged, RECORD_MAX);
		assert_int_equal(signed_split(&view, honest.data, honest.length), 0);
		buf_append(&payload, view.payload, view.payload_length);
		sample_forge(&forged, kind, &payload, &sample_other);
		assert_int_equal(open_and_read(&forged), ERR_SIGNATURE);
		buf_release(&honest);
		buf_release(&payload);
		buf_release(&forged);
	}
}

/* A signer of small order would let one signature fit many payloads. */
static void record_refuses_a_signer_of_small_order(void **state)
{
	uint8_t raw[2 + KEY_BYTES] = { 0xc4, KEY_BYTES, 1 };        /* y = 1: the neutral element */
	struct buf payload = bend(RECORD_AGREEMENT, "signer", raw, sizeof(raw)), bytes;
	buf_init(&bytes, RECORD_MAX);
	sample_forge(&bytes, RECORD_AGREEMENT, &payload, &sample_steward);
	/* R = neutral element, S = 0 verifies under such a key where it is let in. */
	memset(bytes.data + bytes.length - SIGNATURE_BYTES, 0, SIGNATURE_BYTES);
	bytes.data[bytes.length - SIGNATURE_BYTES] = 1;
	assert_int_equal(open_and_read(&bytes), ERR_SIGNATURE);
	buf_release(&payload);
	buf_release(&bytes);
}

static void record_past_its_limit_is_refused_before_it_is_read(void **state)
{
	struct record r;
	uint8_t *bytes = calloc(1, RECORD_MAX + 1);
	assert_int_equal(record_open(&r, bytes, RECORD_MAX + 1), ERR_LIMIT);
	assert_int_equal(record_open(&r, bytes, RECORD_MAX), ERR_MALFORMED);
	free(bytes);
}

static void record_of_a_later_version_s_kind_is_unsupported(void **state)
{
	assert_int_equal(bent(RECORD_CARD, "kind", RAW("\x0b")), ERR_UNSUPPORTED);
	assert_int_equal(bent(RECORD_CARD, "kind", RAW("\x00")), ERR_UNSUPPORTED);
	assert_int_equal(bent(RECORD_CARD, "kind", RAW("\xce\x00\x01\x00\x00")), ERR_LIMIT);
	assert_string_equal(record_kind_name((enum record_kind)99), "unknown");
	assert_string_equal(record_kind_name(RECORD_CARD), "card");
}

/* --- time ------------------------------------------------------------------------------------------------ */

static void record_is_current_between_issue_and_expiry(void **state)
{
	struct record r = { .issued = SAMPLE_ISSUED, .expires = SAMPLE_EXPIRES };
	assert_int_equal(record_is_current(&r, SAMPLE_ISSUED), 0);
	assert_int_equal(record_is_current(&r, SAMPLE_EXPIRES), 0);
	assert_int_equal(record_is_current(&r, SAMPLE_EXPIRES + 1), ERR_EXPIRED);
	assert_int_equal(record_is_current(&r, SAMPLE_ISSUED - RECORD_FUTURE_S), 0);
	assert_int_equal(record_is_current(&r, SAMPLE_ISSUED - RECORD_FUTURE_S - 1), ERR_EXPIRED);
	assert_int_equal(record_is_current(&r, 0), ERR_EXPIRED);

	r = (struct record){ .issued = UINT64_MAX - 1, .expires = UINT64_MAX };
	assert_int_equal(record_is_current(&r, SAMPLE_ISSUED), ERR_EXPIRED);
	assert_int_equal(record_is_current(&r, UINT64_MAX), 0);
}

static void record_that_expires_before_it_is_issued_is_refused(void **state)
{
	static const char same[] = "\xce\x65\x53\xf1\x00";          /* SAMPLE_ISSUED */
	for (enum record_kind kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
		assert_int_equal(bent(kind, "expires", RAW(same)), ERR_MALFORMED);
		assert_int_equal(bent(kind, "expires", RAW("\x00")), ERR_MALFORMED);
		assert_int_equal(bent(kind, "issued", RAW("\xcf\xff\xff\xff\xff\xff\xff\xff\xff")), ERR_MALFORMED);
	}
}

static void steward_of_more_than_ninety_days_is_refused(void **state)
{
	struct steward_body b = { { 0 } };
	struct record head = sample_head();
	struct buf out;
	buf_init(&out, RECORD_MAX);
	head.expires = head.issued + 90 * 86400;
	assert_int_equal(steward_sign(&out, &head, &b, sample_root.secret), 0);
	size_t before = out.length;
	head.expires++;
	assert_int_equal(steward_sign(&out, &head, &b, sample_root.secret), ERR_LIMIT);
	assert_int_equal(out.length, before);
	assert_int_equal(bent(RECORD_STEWARD, "expires", RAW("\xcf\x00\x00\x00\x01\x00\x00\x00\x00")), ERR_LIMIT);
	buf_release(&out);
}

/* --- shapes ---------------------------------------------------------------------------------------------- */

static void record_with_another_s_subject_is_refused(void **state)
{
	uint8_t other[2 + KEY_BYTES] = { 0xc4, KEY_BYTES };
	memcpy(other + 2, sample_other.public, KEY_BYTES);
	for (enum record_kind kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
		bool any = kind == RECORD_AGREEMENT || kind == RECORD_ACCEPTANCE || kind == RECORD_APPROVAL;
		assert_int_equal(bent(kind, "subject", other, sizeof(other)), any ? 0 : ERR_MALFORMED);
	}
	/* and a root speaks for its own association only */
	assert_int_equal(bent(RECORD_ASSOCIATION, "association", other, sizeof(other)), ERR_MALFORMED);
	assert_int_equal(bent(RECORD_STEWARD, "association", other, sizeof(other)), ERR_MALFORMED);
	for (enum record_kind kind = RECORD_ASSOCIATION; kind <= RECORD_STEWARD; kind++) {
		struct buf half = bend(kind, "association", other, sizeof(other)), bytes;
		struct buf payload = bend_payload(half.data, half.length, "subject", other, sizeof(other));
		buf_init(&bytes, RECORD_MAX);
		sample_forge(&bytes, kind, &payload, &sample_root);
		assert_int_equal(open_and_read(&bytes), ERR_MALFORMED);
		buf_release(&half);
		buf_release(&payload);
		buf_release(&bytes);
	}
}

static bool is_optional(enum record_kind kind, const char *key)
{
	static const struct { enum record_kind kind; const char *key; } optional[] = {
		{ RECORD_ADVERT, "paused" }, { RECORD_ADVERT, "home" },
		{ RECORD_MANIFEST, "private" }, { RECORD_MANIFEST, "splittable" }, { RECORD_MANIFEST, "chat_template" },
		{ RECORD_MANIFEST, "no_cut" }, { RECORD_MANIFEST, "memory_permille" }, { RECORD_RECEIPT, "measured" },
	};
	for (size_t i = 0; i < sizeof(optional) / sizeof(*optional); i++)
		if (optional[i].kind == kind && strcmp(optional[i].key, key) == 0)
			return true;
	return false;
}

/* Every key of every kind: gone, of another type, and twice. */
static void record_needs_every_key_in_its_type(void **state)
{
	for (enum record_kind kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
		struct buf honest = record_of(kind);
		struct signed_view view;
		msgpack_unpacked doc;
		msgpack_unpacked_init(&doc);
		assert_int_equal(signed_split(&view, honest.data, honest.length), 0);
		assert_int_equal(msgpack_unpack_next(&doc, (const char *)view.payload, view.payload_length, NULL),
				 MSGPACK_UNPACK_SUCCESS);
		msgpack_object_map map = doc.data.via.map;
		assert_true(map.size >= 8);
		for (uint32_t i = 0; i < map.size; i++) {
			char key[64] = "";
			memcpy(key, map.ptr[i].key.via.str.ptr, map.ptr[i].key.via.str.size);
			assert_int_equal(bent(kind, key, NULL, 0), is_optional(kind, key) ? 0 : ERR_MALFORMED);
			assert_int_equal(bent(kind, key, RAW("\xc0")), ERR_MALFORMED);      /* nil */
			assert_int_equal(bent(kind, key, RAW("\xff")), ERR_MALFORMED);      /* -1 */
			assert_int_equal(bent(kind, key, RAW("\xd4\x01\x00")), ERR_MALFORMED);  /* an extension type */
			assert_int_equal(bent(kind, key, RAW("\xcb\x3f\xf0\0\0\0\0\0\0")), ERR_MALFORMED);  /* 1.0 */
		}
		assert_int_equal(bent(kind, "of a later version", RAW("\x93\x01\x02\xc0")), 0);
		msgpack_unpacked_destroy(&doc);
		buf_release(&honest);
	}
}

static void record_whose_payload_is_no_map_is_refused(void **state)
{
	static const char *const payloads[] = { "", "\x90", "\xc0", "\x81", "\xdd\x10\x00\x00\x00", "\x80\x80" };
	for (size_t i = 0; i < sizeof(payloads) / sizeof(*payloads); i++) {
		struct buf payload, bytes;
		buf_init(&payload, 64);
		buf_init(&bytes, RECORD_MAX);
		size_t n = i == 4 ? 5 : strlen(payloads[i]);
		buf_append(&payload, payloads[i], n);
		sample_forge(&bytes, RECORD_CARD, &payload, &sample_node);
		assert_int_equal(open_and_read(&bytes), ERR_MALFORMED);
		buf_release(&payload);
		buf_release(&bytes);
	}
}

/* --- bodies ---------------------------------------------------------------------------------------------- */

static void names_that_could_deceive_are_refused(void **state)
{
	static const struct { const char *raw; size_t n; int err; } names[] = {
		{ RAW("\xa0"), ERR_MALFORMED },                               /* empty */
		{ RAW("\xa3" "a/b"), ERR_MALFORMED },
		{ RAW("\xa3" "a@b"), ERR_MALFORMED },
		{ RAW("\xa2" " a"), ERR_MALFORMED },
		{ RAW("\xa4" "\x1b[2J"), ERR_MALFORMED },                     /* clears a terminal */
		{ RAW("\xa3" "a\0b"), ERR_MALFORMED },
		{ RAW("\xa1" "\xff"), ERR_MALFORMED },
		{ RAW("\xc4\x01" "a"), ERR_MALFORMED },                       /* bytes, not text */
		{ RAW("\xa6" "Ab\xc3\xa9il"), 0 },
		{ RAW("\xd9\x3f" "123456789012345678901234567890123456789012345678901234567890123"), 0 },
		{ RAW("\xd9\x40" "1234567890123456789012345678901234567890123456789012345678901234"), ERR_LIMIT },
	};
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		assert_int_equal(bent(RECORD_ASSOCIATION, "name", names[i].raw, names[i].n), names[i].err);
		assert_int_equal(bent(RECORD_CARD, "name", names[i].raw, names[i].n), names[i].err);
		assert_int_equal(bent(RECORD_MANIFEST, "name", names[i].raw, names[i].n), names[i].err);
	}
}

static void card_round_trips(void **state)
{
	struct buf bytes = record_of(RECORD_CARD);
	struct record r;
	struct card_body b;
	assert_int_equal(record_open(&r, bytes.data, bytes.length), 0);
	assert_int_equal(card_read(&r, &b), 0);
	assert_string_equal(b.name, "ruche-1");
	assert_int_equal(b.link_key[31], 9);
	assert_int_equal(b.version_low, 1);
	assert_int_equal(b.version_high, 2);
	assert_int_equal(b.n_addresses, 2);
	assert_string_equal(b.addresses[0], "node.example.org:7740");
	assert_string_equal(b.addresses[1], "[2001:db8::1]:7740");
	assert_int_equal(b.torrent_port, 7742);
	buf_release(&bytes);
}

static void card_addresses_have_a_host_and_a_port(void **state)
{
	static const char *const good[] = { "a:1", "192.0.2.1:65535", "[::]:7740", "[::ffff:192.0.2.1]:1", "a-b.c_d:80" };
	static const char *const bad[] = { "", ":1", "a", "a:", "a:0", "a:65536", "a:01", "a:1 ", " a:1", "a:1:2", "::1:7740",
					   "[]:1", "[:]:1", "[::1]", "[::1]7740", "[::1]:", "[fe80::1%eth0]:1", "a/b:1", "-a:1",
					   "a\n:1", "h\xc3\xa9:1", "user@host:1", "a:+1", "a:123456" };
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_true(card_address_is_valid(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(card_address_is_valid(bad[i]));

	assert_int_equal(bent(RECORD_CARD, "addresses", RAW("\x91\xa3" "a:0")), ERR_MALFORMED);
	assert_int_equal(bent(RECORD_CARD, "addresses", RAW("\x81\xa3" "a:1\xa3" "b:1")), ERR_MALFORMED);
	assert_int_equal(bent(RECORD_CARD, "addresses", RAW("\x90")), 0);
	assert_int_equal(bent(RECORD_CARD, "addresses", RAW("\x98\xa3" "a:1\xa3" "a:2\xa3" "a:3\xa3" "a:4\xa3" "a:5\xa3" "a:6\xa3" "a:7\xa3" "a:8")), 0);
	assert_int_equal(bent(RECORD_CARD, "addresses", RAW("\x99\xa3" "a:1\xa3" "a:2\xa3" "a:3\xa3" "a:4\xa3" "a:5\xa3" "a:6\xa3" "a:7\xa3" "a:8\xa3" "a:9")), ERR_LIMIT);
}

static void card_versions_are_a_range(void **state)
{
	assert_int_equal(bent(RECORD_CARD, "version_low", RAW("\x00")), ERR_MALFORMED);
	assert_int_equal(bent(RECORD_CARD, "version_low", RAW("\x03")), ERR_MALFORMED);
	assert_int_equal(bent(RECORD_CARD, "version_high", RAW("\xcd\xff\xff")), 0);
	assert_int_equal(bent(RECORD_CARD, "version_high", RAW("\xce\x00\x01\x00\x00")), ERR_LIMIT);
	assert_int_equal(bent(RECORD_CARD, "torrent_port", RAW("\xce\x00\x01\x00\x00")), ERR_LIMIT);
}

static void roster_round_trips_up_to_its_limit(void **state)
{
	struct roster_body b = { .n_nodes = ROSTER_NODES_MAX }, got;
	b.nodes = calloc(ROSTER_NODES_MAX + 1, KEY_BYTES);
	for (size_t i = 0; i < ROSTER_NODES_MAX; i++)
		b.nodes[i][0] = (uint8_t)i;
	struct record head = sample_head(), r;
	struct buf out;
	buf_init(&out, RECORD_MAX);
	assert_int_equal(roster_sign(&out, &head, &b, sample_steward.secret), 0);
	assert_int_equal(record_open(&r, out.data, out.length), 0);
	assert_int_equal(roster_read(&r, &got), 0);
	assert_int_equal(got.n_nodes, ROSTER_NODES_MAX);
	assert_memory_equal(got.nodes, b.nodes, ROSTER_NODES_MAX * KEY_BYTES);
	roster_free(&got);

	size_t before = out.length;
	b.n_nodes++;
	assert_int_equal(roster_sign(&out, &head, &b, sample_steward.secret), ERR_LIMIT);
	assert_int_equal(out.length, before);

	b.n_nodes = 0;         /* an association that shut down */
	buf_clear(&out);
	assert_int_equal(roster_sign(&out, &head, &b, sample_steward.secret), 0);
	assert_int_equal(record_open(&r, out.data, out.length), 0);
	assert_int_equal(roster_read(&r, &got), 0);
	assert_int_equal(got.n_nodes, 0);
	roster_free(&got);
	free(b.nodes);
	buf_release(&out);

	assert_int_equal(bent(RECORD_ROSTER, "nodes", RAW("\x91\xc4\x01x")), ERR_MALFORMED);
	assert_int_equal(bent(RECORD_ROSTER, "nodes", RAW("\x91\x01")), ERR_MALFORMED);
}

static void advert_round_trips(void **state)
{
	struct buf bytes = record_of(RECORD_ADVERT);
	struct record r;
	struct advert_body b;
	assert_int_equal(record_open(&r, bytes.data, bytes.length), 0);
	assert_int_equal(advert_read(&r, &b), 0);
	assert_int_equal(b.budget_bytes, UINT64_C(8) << 30);
	assert_int_equal(b.free_bytes, UINT64_C(3) << 30);
	assert_int_equal(b.load_permille, 125);
	assert_false(b.paused);
	assert_true(b.home);
	assert_string_equal(b.engine, "llama 0.7.0 q1a2b3c4 cpu");
	assert_int_equal(b.n_models, 2);
	const struct advert_model *m = b.models;
	assert_int_equal(m[0].model[0], 0x51);
	assert_int_equal(m[0].n_placed, 2);
	assert_int_equal(m[0].placed[1].first, 24);
	assert_int_equal(m[0].placed[1].end, 32);
	assert_int_equal(m[0].n_resident, 1);
	assert_int_equal(m[0].resident[0].end, 8);
	assert_false(m[0].complete);
	assert_int_equal(m[0].layer_microseconds, 950);
	assert_int_equal(m[0].sessions_free, 3);
	assert_true(m[1].complete);
	assert_int_equal(m[1].n_placed, 0);
	advert_free(&b);
	assert_int_equal(card_read(&r, &(struct card_body){ 0 }), ERR_MALFORMED);     /* another kind's body */
	buf_release(&bytes);
}

static void advert_at_its_limits_fits_a_record(void **state)
{
	struct advert_body b = { .n_models = ADVERT_MODELS_MAX }, got;
	b.models = calloc(ADVERT_MODELS_MAX + 1, sizeof(*b.models));
	for (size_t i = 0; i < ADVERT_MODELS_MAX; i++) {
		b.models[i].model[0] = (uint8_t)i;
		b.models[i].n_placed = b.models[i].n_resident = RANGES_MAX;
		for (uint32_t k = 0; k < RANGES_MAX; k++)
			b.models[i].placed[k] = b.models[i].resident[k] = (struct layer_range){ 1000 + k, 1001 + k };
	}
	struct record head = sample_head(), r;
	struct buf out;
	buf_init(&out, RECORD_MAX);
	assert_int_equal(advert_sign(&out, &head, &b, sample_node.secret), 0);
	assert_int_equal(record_open(&r, out.data, out.length), 0);
	assert_int_equal(advert_read(&r, &got), 0);
	assert_int_equal(got.models[63].resident[7].end, 1008);
	advert_free(&got);

	buf_clear(&out);
	b.n_models++;
	assert_int_equal(advert_sign(&out, &head, &b, sample_node.secret), ERR_LIMIT);
	b.n_models = 2;
	b.models[1].model[0] = b.models[0].model[0];
	assert_int_equal(advert_sign(&out, &head, &b, sample_node.secret), ERR_MALFORMED);     /* one model twice */
	b.n_models = 1;
	b.models[0].placed[0] = (struct layer_range){ 5, 5 };
	assert_int_equal(advert_sign(&out, &head, &b, sample_node.secret), ERR_MALFORMED);
	b.models[0].placed[0] = (struct layer_range){ 5, MODEL_LAYERS_MAX + 1 };
	assert_int_equal(advert_sign(&out, &head, &b, sample_node.secret), ERR_LIMIT);
	b.models[0].n_placed = RANGES_MAX + 1;
	assert_int_equal(advert_sign(&out, &head, &b, sample_node.secret), ERR_LIMIT);
	assert_int_equal(out.length, 0);
	free(b.models);
	buf_release(&out);
}

static void advert_models_of_a_wrong_shape_are_refused(void **state)
{
#define ID "\xc4\x20" "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm"
	static const struct { const char *raw; size_t n; int err; } models[] = {
		{ RAW("\x91\x96" ID "\x90\x90\x00\x00\x00"), 0 },
		{ RAW("\x91\x97" ID "\x90\x90\x00\x00\x00\xc0"), 0 },             /* a field of a later version */
		{ RAW("\x91\x95" ID "\x90\x90\x00\x00"), ERR_MALFORMED },
		{ RAW("\x91\x90"), ERR_MALFORMED },
		{ RAW("\x91\x80"), ERR_MALFORMED },
		{ RAW("\x91\xc0"), ERR_MALFORMED },
		{ RAW("\x91\x96" ID "\x91\x01\x90\x00\x00\x00"), ERR_MALFORMED },       /* half a range */
		{ RAW("\x91\x96" ID "\x92\x02\x01\x90\x00\x00\x00"), ERR_MALFORMED },   /* backwards */
		{ RAW("\x91\x96" ID "\x81\xa1x\x01\x90\x00\x00\x00"), ERR_MALFORMED },  /* a map for a list */
		{ RAW("\x91\x96" ID "\x90\x90\x02\x00\x00"), ERR_LIMIT },               /* complete: 0 or 1 */
	};
	for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++)
		assert_int_equal(bent(RECORD_ADVERT, "models", models[i].raw, models[i].n), models[i].err);
	assert_int_equal(bent(RECORD_ADVERT, "engine", RAW("\xa2" "\x1b" "c")), ERR_MALFORMED);
	assert_int_equal(bent(RECORD_ADVERT, "engine", RAW("\xa2" "\xc2\x9b")), ERR_MALFORMED);    /* CSI as C1 */
	assert_int_equal(bent(RECORD_ADVERT, "engine", RAW("\xa0")), 0);                           /* none runs */
	assert_int_equal(bent(RECORD_ADVERT, "load", RAW("\xcd\x03\xe8")), 0);
	assert_int_equal(bent(RECORD_ADVERT, "load", RAW("\xcd\x03\xe9")), ERR_LIMIT);
	assert_int_equal(bent(RECORD_ADVERT, "budget", RAW("\xcf\xff\xff\xff\xff\xff\xff\xff\xff")), ERR_LIMIT);
}

static void agreement_round_trips_and_keeps_its_limits(void **state)
{
	struct buf bytes = record_of(RECORD_AGREEMENT);
	struct record r;
	struct agreement_body b;
	assert_int_equal(record_open(&r, bytes.data, bytes.length), 0);
	assert_int_equal(agreement_read(&r, &b), 0);
	assert_false(b.revoked);
	assert_int_equal(b.n_models, 1);
	assert_int_equal(b.models[0][5], 0x51);
	assert_int_equal(b.tokens_per_day, 1000000);
	assert_int_equal(b.stage_seconds_per_day, 36000);
	assert_int_equal(b.priority, 5);
	buf_release(&bytes);

	struct record head = sample_head();
	buf_init(&bytes, RECORD_MAX);
	b.n_models = AGREEMENT_MODELS_MAX;
	assert_int_equal(agreement_sign(&bytes, &head, &b, sample_steward.secret), 0);
	b.n_models++;
	assert_int_equal(agreement_sign(&bytes, &head, &b, sample_steward.secret), ERR_LIMIT);
	b.n_models = 0;
	b.priority = 10;
	assert_int_equal(agreement_sign(&bytes, &head, &b, sample_steward.secret), ERR_LIMIT);
	buf_release(&bytes);

	/* What cannot be read is no grant. */
	struct record broken = { .kind = RECORD_AGREEMENT };
	b.revoked = false;
	broken.payload = (const uint8_t *)"\x80";
	broken.payload_length = 1;
	assert_int_equal(agreement_read(&broken, &b), ERR_MALFORMED);
	assert_true(b.revoked);
	struct acceptance_body acceptance = { .declined = false };
	broken.kind = RECORD_ACCEPTANCE;
	assert_int_equal(acceptance_read(&broken, &acceptance), ERR_MALFORMED);
	assert_true(acceptance.declined);
	struct approval_body approval = { .withdrawn = false };
	broken.kind = RECORD_APPROVAL;
	assert_int_equal(approval_read(&broken, &approval), ERR_MALFORMED);
	assert_true(approval.withdrawn);
}

static void acceptance_and_approval_say_yes_and_no(void **state)
{
	for (int no = 0; no < 2; no++) {
		struct acceptance_body acceptance = { .declined = no };
		struct approval_body approval = { .withdrawn = no };
		struct record head = sample_head(), r;
		struct buf out;
		buf_init(&out, RECORD_MAX);
		memset(acceptance.agreement, 0x61, KEY_BYTES);
		assert_int_equal(acceptance_sign(&out, &head, &acceptance, sample_steward.secret), 0);
		assert_int_equal(record_open(&r, out.data, out.length), 0);
		memset(&acceptance, 0xff, sizeof(acceptance.agreement));
		acceptance.declined = !no;
		assert_int_equal(acceptance_read(&r, &acceptance), 0);
		assert_int_equal(acceptance.declined, no);
		assert_int_equal(acceptance.agreement[31], 0x61);

		buf_clear(&out);
		assert_int_equal(approval_sign(&out, &head, &approval, sample_steward.secret), 0);
		assert_int_equal(record_open(&r, out.data, out.length), 0);
		approval.withdrawn = !no;
		assert_int_equal(approval_read(&r, &approval), 0);
		assert_int_equal(approval.withdrawn, no);
		buf_release(&out);
	}
}

static void receipt_countersignature_covers_everything(void **state)
{
	struct buf bytes = record_of(RECORD_RECEIPT);
	struct record r;
	struct receipt_body b;
	assert_int_equal(record_open(&r, bytes.data, bytes.length), 0);
	assert_int_equal(receipt_read(&r, &b), 0);
	assert_memory_equal(b.node, sample_node.public, KEY_BYTES);
	assert_int_equal(b.rows, 300);
	assert_int_equal(b.stage_microseconds, 4500000);
	assert_int_equal(b.millijoules, 90000);
	assert_true(b.joules_measured);
	assert_int_equal(receipt_verify_countersignature(&b), 0);

	struct receipt_body changed[] = { b, b, b, b, b, b, b, b, b, b };
	changed[0].node[0] ^= 1;                 /* a neighbour that claims the work */
	changed[1].session[0] ^= 1;
	changed[2].home[0] ^= 1;
	changed[3].home_association[0] ^= 1;
	changed[4].model[0] ^= 1;
	changed[5].rows++;
	changed[6].stage_microseconds++;
	changed[7].millijoules++;
	changed[8].joules_measured = false;
	changed[9].countersignature[40] ^= 1;
	for (size_t i = 0; i < 10; i++)
		assert_int_equal(receipt_verify_countersignature(&changed[i]), ERR_SIGNATURE);

	uint8_t signature[SIGNATURE_BYTES];
	assert_int_equal(receipt_countersign(&b, sample_other.secret, signature), ERR_DENIED);

	/* Before home has countersigned it is a record too, but not proof. */
	struct record head = sample_head();
	memset(b.countersignature, 0, SIGNATURE_BYTES);
	buf_clear(&bytes);
	assert_int_equal(receipt_sign(&bytes, &head, &b, sample_node.secret), 0);
	assert_int_equal(open_and_read(&bytes), 0);
	assert_int_equal(receipt_verify_countersignature(&b), ERR_SIGNATURE);
	buf_release(&bytes);
}

static void record_sign_appends_or_leaves_the_buffer_alone(void **state)
{
	struct association_body b = { "ok" };
	struct record head = sample_head();
	struct buf out;
	buf_init(&out, RECORD_MAX);
	buf_append(&out, "before", 6);
	assert_int_equal(association_sign(&out, &head, &b, sample_root.secret), 0);
	size_t n = out.length;
	struct record r;
	assert_int_equal(record_open(&r, out.data + 6, n - 6), 0);

	strcpy(b.name, "not/ok");
	assert_int_equal(association_sign(&out, &head, &b, sample_root.secret), ERR_MALFORMED);
	strcpy(b.name, "ok");
	head.expires = head.issued;
	assert_int_equal(association_sign(&out, &head, &b, sample_root.secret), ERR_MALFORMED);
	head.kind = 0;
	assert_int_equal(record_sign(&out, &head, sample_root.secret, 0, NULL, NULL), ERR_UNSUPPORTED);
	head = sample_head();
	out.max = n + 10;
	assert_int_equal(association_sign(&out, &head, &b, sample_root.secret), ERR_LIMIT);
	assert_int_equal(out.length, n);
	assert_memory_equal(out.data, "before", 6);
	buf_release(&out);
}

static void too_many_pairs(struct pack_writer *w, const void *arg)
{
	pack_kv_uint(w, "one", 1);
	pack_kv_uint(w, "two", 2);
}

static void record_sign_refuses_a_body_of_other_than_the_promised_pairs(void **state)
{
	struct record head = sample_head();
	struct buf out;
	buf_init(&out, RECORD_MAX);
	head.kind = RECORD_APPROVAL;
	assert_int_equal(record_sign(&out, &head, sample_steward.secret, 1, too_many_pairs, NULL), ERR_MALFORMED);
	assert_int_equal(record_sign(&out, &head, sample_steward.secret, 3, too_many_pairs, NULL), ERR_MALFORMED);
	assert_int_equal(out.length, 0);
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
		cmocka_unit_test(record_of_every_kind_opens_as_it_was_signed),
		cmocka_unit_test(record_has_the_subject_of_its_kind),
		cmocka_unit_test(record_refuses_every_bit_flip),
		cmocka_unit_test(record_refuses_every_truncation_and_a_byte_more),
		cmocka_unit_test(record_refuses_another_encoding_of_the_same_values),
		cmocka_unit_test(record_refuses_the_domain_of_another_kind),
		cmocka_unit_test(record_refuses_a_ticket_s_signature_and_a_bare_one),
		cmocka_unit_test(record_refuses_the_signature_of_another_key),
		cmocka_unit_test(record_refuses_a_signer_of_small_order),
		cmocka_unit_test(record_past_its_limit_is_refused_before_it_is_read),
		cmocka_unit_test(record_of_a_later_version_s_kind_is_unsupported),
		cmocka_unit_test(record_is_current_between_issue_and_expiry),
		cmocka_unit_test(record_that_expires_before_it_is_issued_is_refused),
		cmocka_unit_test(steward_of_more_than_ninety_days_is_refused),
		cmocka_unit_test(record_with_another_s_subject_is_refused),
		cmocka_unit_test(record_needs_every_key_in_its_type),
		cmocka_unit_test(record_whose_payload_is_no_map_is_refused),
		cmocka_unit_test(names_that_could_deceive_are_refused),
		cmocka_unit_test(card_round_trips),
		cmocka_unit_test(card_addresses_have_a_host_and_a_port),
		cmocka_unit_test(card_versions_are_a_range),
		cmocka_unit_test(roster_round_trips_up_to_its_limit),
		cmocka_unit_test(advert_round_trips),
		cmocka_unit_test(advert_at_its_limits_fits_a_record),
		cmocka_unit_test(advert_models_of_a_wrong_shape_are_refused),
		cmocka_unit_test(agreement_round_trips_and_keeps_its_limits),
		cmocka_unit_test(acceptance_and_approval_say_yes_and_no),
		cmocka_unit_test(receipt_countersignature_covers_everything),
		cmocka_unit_test(record_sign_appends_or_leaves_the_buffer_alone),
		cmocka_unit_test(record_sign_refuses_a_body_of_other_than_the_promised_pairs),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
