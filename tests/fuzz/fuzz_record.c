/* fuzz_record.c: signed records and tickets, of every kind.
 *
 * The first byte says what the rest is: a record as it travels; a record's payload (a signature is put around it, as
 * no fuzzer finds one by chance); or a ticket's payload, which is signed here. What must hold:
 *   - what reads, signs: a body that was read can be signed again by the same rules, opens, reads, and signs to the same
 *     bytes;
 *   - nothing opens under a signature that was not made for it.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "proto/err.h"
#include "proto/record.h"
#include "proto/signed.h"
#include "proto/ticket.h"
#include "tests/fuzz/fuzz.h"
#include "tests/samples.h"

enum { INPUT_RECORD, INPUT_PAYLOAD, INPUT_TICKET, INPUTS };

/* Who may sign it is in the record: put the samples' keys where the kind wants its signer's. */
static struct record head_for(const struct record *r)
{
	struct record head = *r;
	const uint8_t *signer = sample_signer(r->kind)->public;
	if (r->kind == RECORD_ASSOCIATION || r->kind == RECORD_STEWARD) {
		memcpy(head.association, signer, KEY_BYTES);
		memcpy(head.subject, signer, KEY_BYTES);
	}
	if (r->kind == RECORD_CARD || r->kind == RECORD_ADVERT)
		memcpy(head.subject, signer, KEY_BYTES);
	return head;
}

static void nothing_to_free(void *b)
{
}
static void free_roster(void *b)
{
	roster_free(b);
}
static void free_advert(void *b)
{
	advert_free(b);
}
static void free_manifest(void *b)
{
	manifest_free(b);
}

#define SIGN_AGAIN(name, release)                                                \
	static void name##_sign_again(const struct record *r)                    \
	{                                                                        \
		static struct name##_body b;                                     \
		memset(&b, 0xa5, sizeof(b));                                     \
		int err = name##_read(r, &b);                                    \
		must(err == record_check_body(r));                               \
		if (err)                                                         \
			return;                                                  \
		const uint8_t *secret = sample_signer(r->kind)->secret;          \
		struct record head = head_for(r), opened;                        \
		struct buf first, second;                                        \
		buf_init(&first, RECORD_MAX);                                    \
		buf_init(&second, RECORD_MAX);                                   \
		must(name##_sign(&first, &head, &b, secret) == 0);               \
		release(&b);                                                     \
		memset(&b, 0x5a, sizeof(b));                                     \
		must(record_open(&opened, first.data, first.length) == 0);       \
		must(opened.kind == r->kind && opened.sequence == r->sequence);  \
		must(name##_read(&opened, &b) == 0);                             \
		head = head_for(&opened);                                        \
		must(name##_sign(&second, &head, &b, secret) == 0);              \
		release(&b);                                                     \
		must(first.length == second.length);                             \
		must(memcmp(first.data, second.data, first.length) == 0);        \
		buf_release(&first);                                             \
		buf_release(&second);                                            \
	}
SIGN_AGAIN(association, nothing_to_free)
SIGN_AGAIN(steward, nothing_to_free)
SIGN_AGAIN(roster, free_roster)
SIGN_AGAIN(card, nothing_to_free)
SIGN_AGAIN(advert, free_advert)
SIGN_AGAIN(agreement, nothing_to_free)
SIGN_AGAIN(acceptance, nothing_to_free)
SIGN_AGAIN(manifest, free_manifest)
SIGN_AGAIN(approval, nothing_to_free)
SIGN_AGAIN(receipt, nothing_to_free)

static void sign_again(const struct record *r)
{
	switch (r->kind) {
	case RECORD_ASSOCIATION: association_sign_again(r); break;
	case RECORD_STEWARD: steward_sign_again(r); break;
	case RECORD_ROSTER: roster_sign_again(r); break;
	case RECORD_CARD: card_sign_again(r); break;
	case RECORD_ADVERT: advert_sign_again(r); break;
	case RECORD_AGREEMENT: agreement_sign_again(r); break;
	case RECORD_ACCEPTANCE: acceptance_sign_again(r); break;
	case RECORD_MANIFEST: manifest_sign_again(r); break;
	case RECORD_APPROVAL: approval_sign_again(r); break;
	case RECORD_RECEIPT: receipt_sign_again(r); break;
	}
}

static void try_record(const uint8_t *bytes, size_t n)
{
	struct record parsed, opened;
	int err = record_parse(&parsed, bytes, n);
	if (err) {
		must(record_open(&opened, bytes, n) == err);
		must(!opened.bytes && !opened.payload);
		return;
	}
	must(parsed.bytes == bytes && parsed.length == n);
	must(parsed.payload > bytes && parsed.payload + parsed.payload_length < bytes + n);
	err = record_open(&opened, bytes, n);
	must(err == 0 || err == ERR_SIGNATURE);
	(void)record_is_current(&parsed, SAMPLE_ISSUED);
	sign_again(&parsed);

	/* One bit of the signature, or of what is signed, and it no longer opens. */
	if (err)
		return;
	struct buf other;
	buf_init(&other, n);
	must(buf_append(&other, bytes, n) == 0);
	other.data[n - 1] ^= 0x01;
	must(record_open(&opened, other.data, n) == ERR_SIGNATURE);
	buf_release(&other);
}

static void try_payload(const uint8_t *payload, size_t n)
{
	static const uint8_t no_signature[SIGNED_SIGNATURE];
	struct buf bytes;
	struct pack_writer w;
	buf_init(&bytes, 2 * RECORD_MAX);
	pack_writer_init(&w, &bytes);
	pack_array(&w, 2);
	pack_bin(&w, payload, n);
	pack_bin(&w, no_signature, sizeof(no_signature));
	if (!w.err)
		try_record(bytes.data, bytes.length);
	buf_release(&bytes);
}

static void try_ticket(const uint8_t *payload, size_t n)
{
	static const char domain[] = "essaim-ticket-1"; /* with its NUL */
	struct buf view, bytes, again;
	struct ticket ticket;
	buf_init(&view, TICKET_MAX);
	buf_init(&bytes, TICKET_MAX);
	buf_init(&again, TICKET_MAX);
	if (buf_append(&view, payload, n) == 0 &&
	    signed_append(&bytes, TICKET_MAX, domain, sizeof(domain), &view, sample_home.secret) == 0) {
		int err = ticket_open(&ticket, bytes.data, bytes.length);
		if (err == 0) {
			must(memcmp(ticket.home, sample_home.public, KEY_BYTES) == 0);
			must(ticket.stage < ticket.n_stages && ticket.n_stages <= RING_STAGES_MAX);
			must(ticket_sign(&again, &ticket, sample_home.secret) == 0);
			struct ticket second;
			must(ticket_open(&second, again.data, again.length) == 0);
			struct buf third;
			buf_init(&third, TICKET_MAX);
			must(ticket_sign(&third, &second, sample_home.secret) == 0);
			must(third.length == again.length && !memcmp(third.data, again.data, again.length));
			buf_release(&third);
			bytes.data[bytes.length - 1] ^= 0x01;
			must(ticket_open(&ticket, bytes.data, bytes.length) == ERR_SIGNATURE);
		} else {
			must(ticket.context == 0 && ticket.n_stages == 0);
		}
	}
	buf_release(&view);
	buf_release(&bytes);
	buf_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static bool ready;
	if (!ready)
		samples_init();
	ready = true;

	if (n == 0)
		return 0;
	switch (*data % INPUTS) {
	case INPUT_RECORD:
		try_record(data + 1, n - 1);
		break;
	case INPUT_PAYLOAD:
		try_payload(data + 1, n - 1);
		break;
	case INPUT_TICKET:
		try_ticket(data + 1, n - 1);
		break;
	}
	return 0;
}

bool fuzz_seed(size_t i, struct buf *out)
{
	if (i == 0)
		samples_init();
	size_t kind = RECORD_ASSOCIATION + i / 2;
	if (kind > RECORD_RECEIPT + 1u || i > 2 * RECORD_RECEIPT)
		return false;

	struct buf bytes;
	struct signed_view view;
	buf_init(&bytes, RECORD_MAX);
	uint8_t input;
	if (kind <= RECORD_RECEIPT) { /* each kind as it travels and as a bare payload */
		sample_record(&bytes, (enum record_kind)kind);
		input = i % 2 ? INPUT_PAYLOAD : INPUT_RECORD;
	} else {
		struct ticket ticket = sample_ticket();
		must(ticket_sign(&bytes, &ticket, sample_home.secret) == 0);
		input = INPUT_TICKET;
	}
	must(signed_split(&view, bytes.data, bytes.length) == 0);
	must(buf_append(out, &input, 1) == 0);
	if (input == INPUT_RECORD)
		must(buf_append(out, bytes.data, bytes.length) == 0);
	else
		must(buf_append(out, view.payload, view.payload_length) == 0);
	buf_release(&bytes);
	return true;
}
