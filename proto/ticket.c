/* ticket.c: what lets a node open a session on a stage (DESIGN D5).
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/ticket.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "proto/fields.h"
#include "proto/signed.h"

enum { TICKET_KEYS = 15 };
static const char domain[] = "essaim-ticket-1";       /* with its NUL */

/* What a ticket must be to mean anything, whoever signs it. */
static int check(const struct ticket *t)
{
	if (t->n_stages < 1 || t->stage >= t->n_stages || t->context < 1)
		return ERR_MALFORMED;
	if (t->n_stages > RING_STAGES_MAX || t->context > CONTEXT_MAX)
		return ERR_LIMIT;
	if (!field_is_range(&t->range, MODEL_LAYERS_MAX))
		return ERR_MALFORMED;
	if (t->expires <= t->issued)
		return ERR_MALFORMED;
	return t->expires - t->issued > TICKET_LIFE_S ? ERR_LIMIT : 0;
}

int ticket_sign(struct buf *out, const struct ticket *t, const uint8_t home_secret[SIGN_SECRET_BYTES])
{
	uint8_t home[KEY_BYTES];
	crypto_sign_ed25519_sk_to_pk(home, home_secret);
	if (memcmp(home, t->home, KEY_BYTES) != 0)
		return ERR_DENIED;
	int err = check(t);
	if (err)
		return err;

	struct buf payload;
	struct pack_writer w;
	buf_init(&payload, TICKET_MAX);
	pack_writer_init(&w, &payload);
	pack_map(&w, TICKET_KEYS);
	pack_kv_bin(&w, "session", t->session, SESSION_BYTES);
	pack_kv_uint(&w, "epoch", t->epoch);
	pack_kv_bin(&w, "home", t->home, KEY_BYTES);
	pack_kv_bin(&w, "home_association", t->home_association, KEY_BYTES);
	pack_kv_bin(&w, "model", t->model, KEY_BYTES);
	pack_kv_uint(&w, "stage", t->stage);
	pack_kv_uint(&w, "n_stages", t->n_stages);
	pack_kv_uint(&w, "first", t->range.first);
	pack_kv_uint(&w, "end", t->range.end);
	pack_kv_bin(&w, "node", t->node, KEY_BYTES);
	pack_kv_bin(&w, "previous", t->previous, KEY_BYTES);
	pack_kv_bin(&w, "next", t->next, KEY_BYTES);
	pack_kv_uint(&w, "context", t->context);
	pack_kv_uint(&w, "issued", t->issued);
	pack_kv_uint(&w, "expires", t->expires);
	err = w.err;
	if (!err)
		err = signed_append(out, TICKET_MAX, domain, sizeof(domain), &payload, home_secret);
	buf_release(&payload);
	return err;
}

static int read_payload(struct ticket *t, const uint8_t *payload, size_t n)
{
	struct pack_doc doc;
	int err = pack_parse(&doc, payload, n, &pack_limits_head);
	if (err)
		return err;
	struct pack_cursor c = pack_root(&doc, &err);
	pack_get_exact(c, "session", t->session, SESSION_BYTES);
	t->epoch = (uint32_t)pack_get_uint(c, "epoch", UINT32_MAX);
	pack_get_exact(c, "home", t->home, KEY_BYTES);
	pack_get_exact(c, "home_association", t->home_association, KEY_BYTES);
	pack_get_exact(c, "model", t->model, KEY_BYTES);
	t->stage = (uint32_t)pack_get_uint(c, "stage", RING_STAGES_MAX - 1);
	t->n_stages = (uint32_t)pack_get_uint(c, "n_stages", RING_STAGES_MAX);
	t->range.first = (uint32_t)pack_get_uint(c, "first", MODEL_LAYERS_MAX);
	t->range.end = (uint32_t)pack_get_uint(c, "end", MODEL_LAYERS_MAX);
	pack_get_exact(c, "node", t->node, KEY_BYTES);
	pack_get_exact(c, "previous", t->previous, KEY_BYTES);
	pack_get_exact(c, "next", t->next, KEY_BYTES);
	t->context = (uint32_t)pack_get_uint(c, "context", CONTEXT_MAX);
	t->issued = pack_get_uint(c, "issued", UINT64_MAX);
	t->expires = pack_get_uint(c, "expires", UINT64_MAX);
	pack_release(&doc);
	return err ? err : check(t);
}

int ticket_open(struct ticket *out, const uint8_t *bytes, size_t n)
{
	struct ticket t = { 0 };
	struct signed_view view;
	*out = t;
	if (n > TICKET_MAX)
		return ERR_LIMIT;
	int err = signed_split(&view, bytes, n);
	if (!err)
		err = read_payload(&t, view.payload, view.payload_length);
	if (!err)
		err = signed_check(view.signature, domain, sizeof(domain), view.payload, view.payload_length, t.home);
	if (!err)
		*out = t;
	return err;
}
