/* record.c: the bytes and signatures of records; bodies are in record_bodies.c and manifest.c.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/record.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "proto/fields.h"
#include "proto/signed.h"

#define COMMON_KEYS 7
static const char domain_prefix[] = "essaim-record-1";  /* its NUL belongs to the domain */

/* What the table in record.h says of each kind's signer and subject, as far as a record shows it by itself. */
enum subject_rule { SUBJECT_ANY, SUBJECT_ROOT, SUBJECT_SIGNER };
static const struct kind_rule {
	const char *name;
	enum subject_rule subject;
	bool by_root;              /* the signer is the association's root key */
} kind_rules[] = {
	[RECORD_ASSOCIATION] = { "association", SUBJECT_ROOT, true },
	[RECORD_STEWARD] = { "steward", SUBJECT_ROOT, true },
	[RECORD_ROSTER] = { "roster", SUBJECT_ROOT, false },
	[RECORD_CARD] = { "card", SUBJECT_SIGNER, false },
	[RECORD_ADVERT] = { "advert", SUBJECT_SIGNER, false },
	[RECORD_AGREEMENT] = { "agreement", SUBJECT_ANY, false },
	[RECORD_ACCEPTANCE] = { "acceptance", SUBJECT_ANY, false },
	[RECORD_MANIFEST] = { "manifest", SUBJECT_ANY, false },      /* its model id: manifest_read() */
	[RECORD_APPROVAL] = { "approval", SUBJECT_ANY, false },
	[RECORD_RECEIPT] = { "receipt", SUBJECT_ANY, false },        /* its session: receipt_read() */
};
#define N_KINDS (sizeof(kind_rules) / sizeof(*kind_rules))

static const struct kind_rule *rule_of(uint64_t kind)
{
	return kind < N_KINDS && kind_rules[kind].name ? &kind_rules[kind] : NULL;
}

const char *record_kind_name(enum record_kind kind)
{
	const struct kind_rule *rule = rule_of((uint64_t)kind);
	return rule ? rule->name : "unknown";
}

/* "essaim-record-1" NUL kind-name NUL. Its length. */
static size_t domain_of(char out[SIGNED_DOMAIN_MAX], const struct kind_rule *rule)
{
	size_t prefix = sizeof(domain_prefix), name = strlen(rule->name) + 1;
	memcpy(out, domain_prefix, prefix);
	memcpy(out + prefix, rule->name, name);
	return prefix + name;
}

static bool same_key(const uint8_t a[KEY_BYTES], const uint8_t b[KEY_BYTES])
{
	return memcmp(a, b, KEY_BYTES) == 0;
}

static int check_shape(const struct record *r, const struct kind_rule *rule)
{
	if (r->expires <= r->issued)
		return ERR_MALFORMED;
	if (rule->by_root && !same_key(r->signer, r->association))
		return ERR_MALFORMED;
	if (rule->subject == SUBJECT_ROOT && !same_key(r->subject, r->association))
		return ERR_MALFORMED;
	if (rule->subject == SUBJECT_SIGNER && !same_key(r->subject, r->signer))
		return ERR_MALFORMED;
	return 0;
}

static int read_common(struct record *out, const uint8_t *payload, size_t n)
{
	struct pack_doc doc;
	int err = pack_parse(&doc, payload, n, &pack_limits_record);
	if (err)
		return err;

	struct pack_cursor c = pack_root(&doc, &err);
	uint64_t kind = pack_get_uint(c, "kind", UINT16_MAX);
	pack_get_exact(c, "signer", out->signer, KEY_BYTES);
	pack_get_exact(c, "association", out->association, KEY_BYTES);
	pack_get_exact(c, "subject", out->subject, KEY_BYTES);
	out->sequence = pack_get_uint(c, "sequence", UINT64_MAX);
	out->issued = pack_get_uint(c, "issued", UINT64_MAX);
	out->expires = pack_get_uint(c, "expires", UINT64_MAX);
	pack_release(&doc);
	if (err)
		return err;

	const struct kind_rule *rule = rule_of(kind);
	if (!rule)
		return ERR_UNSUPPORTED;
	out->kind = (enum record_kind)kind;
	return check_shape(out, rule);
}

/* Everything but the signature; the record stays zero on failure. */
static int parse(struct record *out, struct signed_view *view, const uint8_t *bytes, size_t n)
{
	struct record r = { .bytes = bytes, .length = n };
	*out = (struct record){ 0 };
	if (n > RECORD_MAX)
		return ERR_LIMIT;
	int err = signed_split(view, bytes, n);
	if (!err)
		err = read_common(&r, view->payload, view->payload_length);
	if (err)
		return err;
	r.payload = view->payload;
	r.payload_length = view->payload_length;
	crypto_generichash(r.hash, sizeof(r.hash), bytes, n, NULL, 0);
	*out = r;
	return 0;
}

int record_parse(struct record *out, const uint8_t *bytes, size_t n)
{
	struct signed_view view;
	return parse(out, &view, bytes, n);
}

int record_open(struct record *out, const uint8_t *bytes, size_t n)
{
	struct signed_view view;
	int err = parse(out, &view, bytes, n);
	if (err)
		return err;

	char domain[SIGNED_DOMAIN_MAX];
	size_t domain_length = domain_of(domain, rule_of(out->kind));
	err = signed_check(view.signature, domain, domain_length, view.payload, view.payload_length, out->signer);
	if (err)
		*out = (struct record){ 0 };
	return err;
}

int record_is_current(const struct record *record, uint64_t now)
{
	if (now > record->expires)
		return ERR_EXPIRED;
	if (record->issued > now && record->issued - now > RECORD_FUTURE_S)
		return ERR_EXPIRED;
	return 0;
}

int record_sign(struct buf *out, const struct record *head, const uint8_t secret[SIGN_SECRET_BYTES], size_t pairs,
		void (*body)(struct pack_writer *w, const void *arg), const void *arg)
{
	const struct kind_rule *rule = rule_of((uint64_t)head->kind);
	if (!rule)
		return ERR_UNSUPPORTED;
	uint8_t signer[KEY_BYTES];
	crypto_sign_ed25519_sk_to_pk(signer, secret);

	struct buf payload;
	struct pack_writer w;
	buf_init(&payload, RECORD_MAX);
	pack_writer_init(&w, &payload);
	pack_map(&w, COMMON_KEYS + pairs);
	pack_kv_uint(&w, "kind", head->kind);
	pack_kv_bin(&w, "signer", signer, KEY_BYTES);
	pack_kv_bin(&w, "association", head->association, KEY_BYTES);
	pack_kv_bin(&w, "subject", head->subject, KEY_BYTES);
	pack_kv_uint(&w, "sequence", head->sequence);
	pack_kv_uint(&w, "issued", head->issued);
	pack_kv_uint(&w, "expires", head->expires);
	if (body)
		body(&w, arg);

	size_t start = out->length;
	char domain[SIGNED_DOMAIN_MAX];
	size_t domain_length = domain_of(domain, rule);
	int err = w.err;
	if (!err)
		err = signed_append(out, RECORD_MAX, domain, domain_length, &payload, secret);
	if (err)
		goto out;

	/* Read it back by the rules that everyone else reads it by: what they would refuse is not signed. */
	struct record r;
	err = record_parse(&r, out->data + start, out->length - start);
	if (!err)
		err = record_check_body(&r);
	if (err)
		out->length = start;
out:
	buf_release(&payload);
	return err;
}
