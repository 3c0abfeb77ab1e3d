/* record_bodies.c: what each kind of record says, but for manifests (manifest.c).
 *
 * Writers put down what the struct says; the limits stand in the readers alone, because record_sign() reads back
 * whatever it signs.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "proto/fields.h"
#include "proto/record.h"
#include "proto/signed.h"
#include "proto/text.h"

/* Opens a record's payload for reading. On failure there is nothing to release. */
static int body_open(const struct record *r, enum record_kind kind, struct pack_doc *doc, struct pack_cursor *c, int *err)
{
	*err = 0;
	if (r->kind != kind)
		return ERR_MALFORMED;
	int failed = pack_parse(doc, r->payload, r->payload_length, &pack_limits_record);
	if (!failed)
		*c = pack_root(doc, err);
	return failed;
}

static void get_name(struct pack_cursor c, const char *key, char out[NAME_SIZE])
{
	pack_get_str(c, key, out, NAME_SIZE);
	if (!text_is_name(out)) {
		memset(out, 0, NAME_SIZE);
		field_fail(c, ERR_MALFORMED);
	}
}

/* A root speaks for itself: association and subject are its own key. */
static void head_of_root(struct record *head, enum record_kind kind, const uint8_t *root_secret)
{
	head->kind = kind;
	crypto_sign_ed25519_sk_to_pk(head->association, root_secret);
	memcpy(head->subject, head->association, KEY_BYTES);
}

static void head_of_node(struct record *head, enum record_kind kind, const uint8_t *node_secret)
{
	head->kind = kind;
	crypto_sign_ed25519_sk_to_pk(head->subject, node_secret);
}

/* --- association ------------------------------------------------------------------------------------- */

static void association_write(struct pack_writer *w, const void *arg)
{
	const struct association_body *b = arg;
	pack_kv_str(w, "name", b->name);
}

int association_sign(struct buf *out, struct record *head, const struct association_body *b, const uint8_t *root_secret)
{
	head_of_root(head, RECORD_ASSOCIATION, root_secret);
	return record_sign(out, head, root_secret, 1, association_write, b);
}

int association_read(const struct record *r, struct association_body *b)
{
	struct pack_doc doc;
	struct pack_cursor c;
	int err;
	*b = (struct association_body){ 0 };
	int failed = body_open(r, RECORD_ASSOCIATION, &doc, &c, &err);
	if (failed)
		return failed;
	get_name(c, "name", b->name);
	pack_release(&doc);
	return err;
}

/* --- steward ----------------------------------------------------------------------------------------- */

static void steward_write(struct pack_writer *w, const void *arg)
{
	const struct steward_body *b = arg;
	pack_kv_bin(w, "steward", b->steward, KEY_BYTES);
}

int steward_sign(struct buf *out, struct record *head, const struct steward_body *b, const uint8_t *root_secret)
{
	head_of_root(head, RECORD_STEWARD, root_secret);
	return record_sign(out, head, root_secret, 1, steward_write, b);
}

int steward_read(const struct record *r, struct steward_body *b)
{
	struct pack_doc doc;
	struct pack_cursor c;
	int err;
	*b = (struct steward_body){ 0 };
	int failed = body_open(r, RECORD_STEWARD, &doc, &c, &err);
	if (failed)
		return failed;
	pack_get_exact(c, "steward", b->steward, KEY_BYTES);
	if (r->expires - r->issued > STEWARD_DAYS_MAX * 86400ull)
		field_fail(c, ERR_LIMIT);
	pack_release(&doc);
	return err;
}

/* --- roster ------------------------------------------------------------------------------------------ */

static void roster_write(struct pack_writer *w, const void *arg)
{
	const struct roster_body *b = arg;
	pack_str(w, "nodes");
	pack_array(w, b->n_nodes);
	for (size_t i = 0; i < b->n_nodes; i++)
		pack_bin(w, b->nodes[i], KEY_BYTES);
}

int roster_sign(struct buf *out, struct record *head, const struct roster_body *b, const uint8_t *steward_secret)
{
	head->kind = RECORD_ROSTER;
	memcpy(head->subject, head->association, KEY_BYTES);
	return record_sign(out, head, steward_secret, 1, roster_write, b);
}

int roster_read(const struct record *r, struct roster_body *b)
{
	struct pack_doc doc;
	struct pack_cursor c;
	int err;
	*b = (struct roster_body){ 0 };
	int failed = body_open(r, RECORD_ROSTER, &doc, &c, &err);
	if (failed)
		return failed;

	struct pack_cursor list = pack_get(c, "nodes");
	size_t n = pack_count(list);
	if (n > ROSTER_NODES_MAX)
		field_fail(c, ERR_LIMIT);
	if (!err && n) {
		b->nodes = calloc(n, KEY_BYTES);
		if (!b->nodes)
			field_fail(c, -ENOMEM);
	}
	for (size_t i = 0; !err && i < n; i++)
		pack_at_exact(list, i, b->nodes[i], KEY_BYTES);
	b->n_nodes = n;
	pack_release(&doc);
	if (err)
		roster_free(b);
	return err;
}

void roster_free(struct roster_body *b)
{
	free(b->nodes);
	*b = (struct roster_body){ 0 };
}

/* --- card -------------------------------------------------------------------------------------------- */

static bool is_port(const char *text)
{
	size_t n = strspn(text, "0123456789");
	return n >= 1 && n <= 5 && text[n] == '\0' && text[0] != '0' && atoi(text) <= UINT16_MAX;
}

/* Shape only: whether the name resolves is the resolver's to say. */
bool card_address_is_valid(const char *address)
{
	if (strnlen(address, ADDRESS_SIZE) == ADDRESS_SIZE)
		return false;
	size_t host;
	if (address[0] == '[') {
		host = strspn(address + 1, "0123456789abcdefABCDEF:.");
		if (host < 2 || address[1 + host] != ']')
			return false;
		host += 2;
	} else {
		host = strspn(address, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_");
		if (host == 0 || address[0] == '-')
			return false;
	}
	return address[host] == ':' && is_port(address + host + 1);
}

static void card_write(struct pack_writer *w, const void *arg)
{
	const struct card_body *b = arg;
	pack_kv_str(w, "name", b->name);
	pack_kv_bin(w, "link_key", b->link_key, KEY_BYTES);
	pack_kv_uint(w, "version_low", b->version_low);
	pack_kv_uint(w, "version_high", b->version_high);
	pack_str(w, "addresses");
	pack_array(w, b->n_addresses);
	for (size_t i = 0; i < b->n_addresses; i++)
		pack_str(w, b->addresses[i]);
	pack_kv_uint(w, "torrent_port", b->torrent_port);
	if (b->left)
		pack_kv_bool(w, "left", true);
}

int card_sign(struct buf *out, struct record *head, const struct card_body *b, const uint8_t *node_secret)
{
	if (b->n_addresses > CARD_ADDRESSES_MAX)
		return ERR_LIMIT;
	head_of_node(head, RECORD_CARD, node_secret);
	return record_sign(out, head, node_secret, b->left ? 7 : 6, card_write, b);
}

int card_read(const struct record *r, struct card_body *b)
{
	struct pack_doc doc;
	struct pack_cursor c;
	int err;
	*b = (struct card_body){ 0 };
	int failed = body_open(r, RECORD_CARD, &doc, &c, &err);
	if (failed)
		return failed;

	get_name(c, "name", b->name);
	pack_get_exact(c, "link_key", b->link_key, KEY_BYTES);
	b->version_low = (unsigned)field_get_range(c, "version_low", 1, UINT16_MAX);
	b->version_high = (unsigned)field_get_range(c, "version_high", b->version_low, UINT16_MAX);
	b->torrent_port = (uint16_t)pack_get_uint(c, "torrent_port", UINT16_MAX);
	b->left = pack_get_bool_or(c, "left", false);
	struct pack_cursor list = pack_get(c, "addresses");
	size_t n = pack_count(list);
	if (n > CARD_ADDRESSES_MAX)
		field_fail(c, ERR_LIMIT);
	for (size_t i = 0; !err && i < n; i++) {
		pack_at_str(list, i, b->addresses[i], ADDRESS_SIZE);
		if (!card_address_is_valid(b->addresses[i]))
			field_fail(c, ERR_MALFORMED);
	}
	b->n_addresses = n;
	pack_release(&doc);
	if (err)
		*b = (struct card_body){ 0 };
	return err;
}

/* --- advert ------------------------------------------------------------------------------------------ */

enum { ADVERT_MODEL_FIELDS = 6 };     /* of the array that describes one model; later versions may append */

static void advert_write(struct pack_writer *w, const void *arg)
{
	const struct advert_body *b = arg;
	pack_kv_uint(w, "budget", b->budget_bytes);
	pack_kv_uint(w, "free", b->free_bytes);
	pack_kv_uint(w, "load", b->load_permille);
	pack_kv_bool(w, "paused", b->paused);
	pack_kv_bool(w, "home", b->home);
	pack_kv_str(w, "engine", b->engine);
	pack_str(w, "models");
	pack_array(w, b->n_models);
	for (size_t i = 0; i < b->n_models; i++) {
		const struct advert_model *m = &b->models[i];
		pack_array(w, ADVERT_MODEL_FIELDS);
		pack_bin(w, m->model, KEY_BYTES);
		field_put_layers(w, m->placed, m->n_placed);
		field_put_layers(w, m->resident, m->n_resident);
		pack_uint(w, m->complete);
		pack_uint(w, m->layer_microseconds);
		pack_uint(w, m->sessions_free);
	}
}

int advert_sign(struct buf *out, struct record *head, const struct advert_body *b, const uint8_t *node_secret)
{
	if (b->n_models > ADVERT_MODELS_MAX)
		return ERR_LIMIT;
	for (size_t i = 0; i < b->n_models; i++)
		if (b->models[i].n_placed > RANGES_MAX || b->models[i].n_resident > RANGES_MAX)
			return ERR_LIMIT;
	head_of_node(head, RECORD_ADVERT, node_secret);
	return record_sign(out, head, node_secret, 7, advert_write, b);
}

static void read_advert_model(struct pack_cursor c, struct advert_model *m)
{
	if (!*c.err && !pack_is_array(c))
		field_fail(c, ERR_MALFORMED);
	pack_at_exact(c, 0, m->model, KEY_BYTES);
	field_at_layers(c, 1, m->placed, RANGES_MAX, &m->n_placed, MODEL_LAYERS_MAX);
	field_at_layers(c, 2, m->resident, RANGES_MAX, &m->n_resident, MODEL_LAYERS_MAX);
	m->complete = pack_at_uint(c, 3, 1);
	m->layer_microseconds = (uint32_t)pack_at_uint(c, 4, UINT32_MAX);
	m->sessions_free = (uint32_t)pack_at_uint(c, 5, UINT32_MAX);
}

int advert_read(const struct record *r, struct advert_body *b)
{
	struct pack_doc doc;
	struct pack_cursor c;
	int err;
	*b = (struct advert_body){ 0 };
	int failed = body_open(r, RECORD_ADVERT, &doc, &c, &err);
	if (failed)
		return failed;

	b->budget_bytes = pack_get_uint(c, "budget", INT64_MAX);
	b->free_bytes = pack_get_uint(c, "free", INT64_MAX);
	b->load_permille = (uint32_t)pack_get_uint(c, "load", 1000);
	b->paused = pack_get_bool_or(c, "paused", false);
	b->home = pack_get_bool_or(c, "home", false);
	field_get_plain(c, "engine", b->engine, sizeof(b->engine));
	struct pack_cursor list = pack_get(c, "models");
	size_t n = pack_count(list);
	if (n > ADVERT_MODELS_MAX)
		field_fail(c, ERR_LIMIT);
	if (!err && n) {
		b->models = calloc(n, sizeof(*b->models));
		if (!b->models)
			field_fail(c, -ENOMEM);
	}
	for (size_t i = 0; !err && i < n; i++) {
		read_advert_model(pack_at(list, i), &b->models[i]);
		for (size_t k = 0; k < i; k++)
			if (memcmp(b->models[k].model, b->models[i].model, KEY_BYTES) == 0)
				field_fail(c, ERR_MALFORMED);   /* which of the two would count? */
	}
	b->n_models = n;
	pack_release(&doc);
	if (err)
		advert_free(b);
	return err;
}

void advert_free(struct advert_body *b)
{
	free(b->models);
	*b = (struct advert_body){ 0 };
}

/* --- agreement, acceptance, approval ----------------------------------------------------------------- */

static void agreement_write(struct pack_writer *w, const void *arg)
{
	const struct agreement_body *b = arg;
	pack_kv_bool(w, "revoked", b->revoked);
	pack_str(w, "models");
	pack_array(w, b->n_models);
	for (size_t i = 0; i < b->n_models; i++)
		pack_bin(w, b->models[i], KEY_BYTES);
	pack_kv_uint(w, "tokens_per_day", b->tokens_per_day);
	pack_kv_uint(w, "stage_seconds_per_day", b->stage_seconds_per_day);
	pack_kv_uint(w, "priority", b->priority);
}

int agreement_sign(struct buf *out, struct record *head, const struct agreement_body *b, const uint8_t *steward_secret)
{
	if (b->n_models > AGREEMENT_MODELS_MAX)
		return ERR_LIMIT;
	head->kind = RECORD_AGREEMENT;
	return record_sign(out, head, steward_secret, 5, agreement_write, b);
}

int agreement_read(const struct record *r, struct agreement_body *b)
{
	struct pack_doc doc;
	struct pack_cursor c;
	int err;
	*b = (struct agreement_body){ 0 };
	int failed = body_open(r, RECORD_AGREEMENT, &doc, &c, &err);
	if (failed)
		return failed;

	/* Not _or: a revocation that lost its key must not read as a grant. */
	if (!pack_has(c, "revoked"))
		field_fail(c, ERR_MALFORMED);
	b->revoked = pack_get_bool_or(c, "revoked", true);
	b->tokens_per_day = pack_get_uint(c, "tokens_per_day", INT64_MAX);
	b->stage_seconds_per_day = pack_get_uint(c, "stage_seconds_per_day", INT64_MAX);
	b->priority = (uint32_t)pack_get_uint(c, "priority", 9);
	struct pack_cursor list = pack_get(c, "models");
	size_t n = pack_count(list);
	if (n > AGREEMENT_MODELS_MAX)
		field_fail(c, ERR_LIMIT);
	for (size_t i = 0; !err && i < n; i++)
		pack_at_exact(list, i, b->models[i], KEY_BYTES);
	b->n_models = n;
	pack_release(&doc);
	if (err)
		*b = (struct agreement_body){ .revoked = true };
	return err;
}

static void acceptance_write(struct pack_writer *w, const void *arg)
{
	const struct acceptance_body *b = arg;
	pack_kv_bin(w, "agreement", b->agreement, KEY_BYTES);
	pack_kv_bool(w, "declined", b->declined);
}

int acceptance_sign(struct buf *out, struct record *head, const struct acceptance_body *b, const uint8_t *steward_secret)
{
	head->kind = RECORD_ACCEPTANCE;
	return record_sign(out, head, steward_secret, 2, acceptance_write, b);
}

int acceptance_read(const struct record *r, struct acceptance_body *b)
{
	struct pack_doc doc;
	struct pack_cursor c;
	int err;
	*b = (struct acceptance_body){ .declined = true };
	int failed = body_open(r, RECORD_ACCEPTANCE, &doc, &c, &err);
	if (failed)
		return failed;
	if (!pack_has(c, "declined"))
		field_fail(c, ERR_MALFORMED);
	pack_get_exact(c, "agreement", b->agreement, KEY_BYTES);
	b->declined = pack_get_bool_or(c, "declined", true) || err;
	pack_release(&doc);
	return err;
}

static void approval_write(struct pack_writer *w, const void *arg)
{
	const struct approval_body *b = arg;
	pack_kv_bool(w, "withdrawn", b->withdrawn);
}

int approval_sign(struct buf *out, struct record *head, const struct approval_body *b, const uint8_t *steward_secret)
{
	head->kind = RECORD_APPROVAL;
	return record_sign(out, head, steward_secret, 1, approval_write, b);
}

int approval_read(const struct record *r, struct approval_body *b)
{
	struct pack_doc doc;
	struct pack_cursor c;
	int err;
	*b = (struct approval_body){ .withdrawn = true };
	int failed = body_open(r, RECORD_APPROVAL, &doc, &c, &err);
	if (failed)
		return failed;
	if (!pack_has(c, "withdrawn"))
		field_fail(c, ERR_MALFORMED);
	b->withdrawn = pack_get_bool_or(c, "withdrawn", true) || err;
	pack_release(&doc);
	return err;
}

/* --- receipt ----------------------------------------------------------------------------------------- */

enum { RECEIPT_AGREED_KEYS = 8 };     /* what both sides sign, but for the node */

static void receipt_write_agreed(struct pack_writer *w, const struct receipt_body *b)
{
	pack_kv_bin(w, "session", b->session, sizeof(b->session));
	pack_kv_bin(w, "home", b->home, KEY_BYTES);
	pack_kv_bin(w, "home_association", b->home_association, KEY_BYTES);
	pack_kv_bin(w, "model", b->model, KEY_BYTES);
	pack_kv_uint(w, "rows", b->rows);
	pack_kv_uint(w, "microseconds", b->stage_microseconds);
	pack_kv_uint(w, "millijoules", b->millijoules);
	pack_kv_bool(w, "measured", b->joules_measured);
}

static void receipt_write(struct pack_writer *w, const void *arg)
{
	const struct receipt_body *b = arg;
	receipt_write_agreed(w, b);
	pack_kv_bin(w, "countersignature", b->countersignature, SIGNATURE_BYTES);
}

int receipt_sign(struct buf *out, struct record *head, const struct receipt_body *b, const uint8_t *node_secret)
{
	head->kind = RECORD_RECEIPT;
	memset(head->subject, 0, KEY_BYTES);
	memcpy(head->subject, b->session, sizeof(b->session));
	return record_sign(out, head, node_secret, RECEIPT_AGREED_KEYS + 1, receipt_write, b);
}

int receipt_read(const struct record *r, struct receipt_body *b)
{
	struct pack_doc doc;
	struct pack_cursor c;
	int err;
	*b = (struct receipt_body){ 0 };
	int failed = body_open(r, RECORD_RECEIPT, &doc, &c, &err);
	if (failed)
		return failed;

	memcpy(b->node, r->signer, KEY_BYTES);
	pack_get_exact(c, "session", b->session, sizeof(b->session));
	pack_get_exact(c, "home", b->home, KEY_BYTES);
	pack_get_exact(c, "home_association", b->home_association, KEY_BYTES);
	pack_get_exact(c, "model", b->model, KEY_BYTES);
	b->rows = pack_get_uint(c, "rows", INT64_MAX);
	b->stage_microseconds = pack_get_uint(c, "microseconds", INT64_MAX);
	b->millijoules = pack_get_uint(c, "millijoules", INT64_MAX);
	b->joules_measured = pack_get_bool_or(c, "measured", false);
	pack_get_exact(c, "countersignature", b->countersignature, SIGNATURE_BYTES);

	uint8_t subject[KEY_BYTES] = { 0 };
	memcpy(subject, b->session, sizeof(b->session));
	if (memcmp(subject, r->subject, KEY_BYTES) != 0)
		field_fail(c, ERR_MALFORMED);
	pack_release(&doc);
	if (err)
		*b = (struct receipt_body){ 0 };
	return err;
}

static const char countersignature_domain[] = "essaim-receipt-1";     /* with its NUL */

/* The node is in it, so that a neighbour on the ring cannot carry off the countersignature under its own name. */
static int write_agreed(struct buf *out, const struct receipt_body *b)
{
	struct pack_writer w;
	pack_writer_init(&w, out);
	pack_map(&w, RECEIPT_AGREED_KEYS + 1);
	pack_kv_bin(&w, "node", b->node, KEY_BYTES);
	receipt_write_agreed(&w, b);
	return w.err;
}

int receipt_countersign(const struct receipt_body *b, const uint8_t *home_secret, uint8_t out[SIGNATURE_BYTES])
{
	uint8_t home[KEY_BYTES];
	crypto_sign_ed25519_sk_to_pk(home, home_secret);
	if (memcmp(home, b->home, KEY_BYTES) != 0)
		return ERR_DENIED;      /* another node's session is not ours to confirm */

	struct buf agreed;
	buf_init(&agreed, RECORD_MAX);
	int err = write_agreed(&agreed, b);
	if (!err)
		err = signed_make(out, countersignature_domain, sizeof(countersignature_domain), agreed.data,
				  agreed.length, home_secret);
	buf_release(&agreed);
	return err;
}

int receipt_verify_countersignature(const struct receipt_body *b)
{
	struct buf agreed;
	buf_init(&agreed, RECORD_MAX);
	int err = write_agreed(&agreed, b);
	if (!err)
		err = signed_check(b->countersignature, countersignature_domain, sizeof(countersignature_domain),
				   agreed.data, agreed.length, b->home);
	buf_release(&agreed);
	return err;
}

/* --- any --------------------------------------------------------------------------------------------- */

int record_check_body(const struct record *r)
{
	union {
		struct association_body association;
		struct steward_body steward;
		struct roster_body roster;
		struct card_body card;
		struct advert_body advert;
		struct agreement_body agreement;
		struct acceptance_body acceptance;
		struct manifest_body manifest;
		struct approval_body approval;
		struct receipt_body receipt;
	} b;
	int err = ERR_UNSUPPORTED;
	switch (r->kind) {
	case RECORD_ASSOCIATION:
		return association_read(r, &b.association);
	case RECORD_STEWARD:
		return steward_read(r, &b.steward);
	case RECORD_ROSTER:
		err = roster_read(r, &b.roster);
		roster_free(&b.roster);
		break;
	case RECORD_CARD:
		return card_read(r, &b.card);
	case RECORD_ADVERT:
		err = advert_read(r, &b.advert);
		advert_free(&b.advert);
		break;
	case RECORD_AGREEMENT:
		return agreement_read(r, &b.agreement);
	case RECORD_ACCEPTANCE:
		return acceptance_read(r, &b.acceptance);
	case RECORD_MANIFEST:
		err = manifest_read(r, &b.manifest);
		manifest_free(&b.manifest);
		break;
	case RECORD_APPROVAL:
		return approval_read(r, &b.approval);
	case RECORD_RECEIPT:
		return receipt_read(r, &b.receipt);
	}
	return err;
}
