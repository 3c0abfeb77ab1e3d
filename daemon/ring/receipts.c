/* receipts.c: who did how much for whom, signed by both sides (DESIGN D9).
 *
 *   stage --> home   RECEIPT {}                                a record signed by the stage: all that the session used there so far
 *   home --> stage   RECEIPT {"countersignature": bin 64}      the same record; home agrees
 *   stage --> home   RECEIPT {}                                signed anew with home's signature in it
 *
 * The stage issues one when a session's last stage on it closes. Home agrees only with figures that can be: no more rows
 * than it sent that way, no more compute time than passed. Each node's newest receipt is kept, once, when the
 * session is forgotten.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "daemon/ring/ring_internal.h"
#include "proto/log.h"

#define CLOCK_GRACE_US 2000000u
#define MILLIJOULES_MICROSECOND 10u      /* 10 kW: no node of ours draws more */

static const uint8_t no_signature[SIGNATURE_BYTES];

struct home_node *home_node(struct ring_session *s, const uint8_t node[KEY_BYTES], bool make)
{
	for (size_t i = 0; i < s->n_nodes; i++)
		if (key_equal(s->nodes[i].node, node))
			return &s->nodes[i];
	if (!make || s->n_nodes == HOME_NODES_MAX)
		return NULL;
	struct home_node *new = &s->nodes[s->n_nodes++];
	memcpy(new->node, node, KEY_BYTES);
	buf_init(&new->receipt, RECORD_MAX);
	return new;
}

bool receipts_are_in(const struct ring_session *s)
{
	for (size_t i = 0; i < s->n_nodes; i++)
		if (s->nodes[i].receipts < s->nodes[i].closes)
			return false;
	return true;
}

bool receipts_are_final(const struct ring_session *s)
{
	for (size_t i = 0; i < s->n_nodes; i++)
		if (s->nodes[i].closes && (!s->nodes[i].final || s->nodes[i].receipts < s->nodes[i].closes))
			return false;
	return true;
}

void receipts_keep(struct ring_session *s)
{
	for (size_t i = 0; i < s->n_nodes; i++) {
		struct buf *receipt = &s->nodes[i].receipt;
		if (receipt->length && s->ring->config.receipt)
			s->ring->config.receipt(s->ring->config.arg, receipt->data, receipt->length);
		buf_release(receipt);
	}
}

static int send_receipt(struct ring *ring, const uint8_t node[KEY_BYTES], const uint8_t *countersignature, const uint8_t *record, size_t n)
{
	struct buf head, frame;
	struct pack_writer w;
	buf_init(&head, FRAME_HEAD_MAX);
	buf_init(&frame, FRAME_MAX);
	pack_writer_init(&w, &head);
	pack_map(&w, countersignature ? 1 : 0);
	if (countersignature)
		pack_kv_bin(&w, "countersignature", countersignature, SIGNATURE_BYTES);
	int err = w.err ? w.err : frame_encode(&frame, FRAME_RECEIPT, head.data, head.length, record, n);
	if (!err)
		err = ring_to_node(ring, node, &frame);
	buf_release(&head);
	buf_release(&frame);
	return err;
}

/* --- as a stage ------------------------------------------------------------------------------------- */

static int issue(struct ring *ring, const struct receipt_body *body, uint64_t sequence)
{
	struct record head = {.sequence = sequence, .issued = ring_now(ring)};
	head.expires = head.issued + RECEIPT_LIFE_S;
	memcpy(head.association, ring->config.association, KEY_BYTES);
	struct buf record;
	buf_init(&record, RECORD_MAX);
	int err = receipt_sign(&record, &head, body, ring->config.node_secret);
	if (!err)
		err = send_receipt(ring, body->home, NULL, record.data, record.length);
	buf_release(&record);
	return err;
}

void receipt_issue_due(struct ring *ring)
{
	for (struct tally *tally = ring->tallies; tally; tally = tally->next) {
		if (!tally->receipt_due || tally->open)
			continue;
		tally->receipt_due = false;
		if (tally->rows == tally->receipt_rows)
			continue;
		tally->receipt_rows = tally->rows;
		/* Room for the countersigned one, which is one later; and later than any of before a restart. */
		uint64_t now = ring_now(ring) << 16;
		tally->sequence = tally->sequence + 2 > now ? tally->sequence + 2 : now;
		struct receipt_body body = {.rows = tally->rows, .stage_microseconds = tally->microseconds};
		memcpy(body.node, ring->config.node, KEY_BYTES);
		memcpy(body.session, tally->session, SESSION_BYTES);
		memcpy(body.home, tally->home, KEY_BYTES);
		memcpy(body.home_association, tally->home_association, KEY_BYTES);
		memcpy(body.model, tally->model, KEY_BYTES);
		int err = issue(ring, &body, tally->sequence);
		if (err)
			log_debug("ring: a receipt could not be sent: %s", err_str(err));
	}
}

static int on_countersignature(struct ring *ring, const uint8_t from[KEY_BYTES], const struct frame *frame, const struct record *record,
			       struct receipt_body *body)
{
	struct pack_doc doc;
	if (!key_equal(from, body->home) || memcmp(body->countersignature, no_signature, SIGNATURE_BYTES))
		return ERR_DENIED;
	int err = pack_parse(&doc, frame->head, frame->head_length, &pack_limits_head);
	if (err)
		return err;
	pack_get_exact(pack_root(&doc, &err), "countersignature", body->countersignature, SIGNATURE_BYTES);
	pack_release(&doc);
	if (!err)
		err = receipt_verify_countersignature(body);
	return err ? err : issue(ring, body, record->sequence + 1);
}

/* --- as home ---------------------------------------------------------------------------------------- */

static int keep(struct home_node *node, const struct record *record, bool final)
{
	buf_clear(&node->receipt);
	node->final = final;
	return buf_append(&node->receipt, record->bytes, record->length);
}

static int on_receipt(struct ring_session *s, const uint8_t from[KEY_BYTES], const struct record *record, const struct receipt_body *body)
{
	struct ring *ring = s->ring;
	struct home_node *node = home_node(s, from, false);
	if (!node)
		return ERR_UNKNOWN;
	if (!key_equal(body->home, ring->config.node) || !key_equal(body->home_association, ring->config.association) ||
	    !key_equal(body->model, s->ask.plan.model))
		return ERR_DENIED;
	if (memcmp(body->countersignature, no_signature, SIGNATURE_BYTES)) {
		if (body->rows != node->rows || body->stage_microseconds != node->microseconds)
			return ERR_STALE;
		int err = receipt_verify_countersignature(body);
		return err ? err : keep(node, record, true);
	}
	node->receipts++;
	uint64_t passed_us = (ring_ms(ring) - s->began) * 1000 + CLOCK_GRACE_US;
	if (body->rows > node->asked || body->stage_microseconds > passed_us ||
	    body->millijoules > MILLIJOULES_MICROSECOND * body->stage_microseconds) {
		log_warning("ring: a node's receipt claims %llu rows in %.3f s where %llu rows were sent: not agreed to",
			    (unsigned long long)body->rows, (double)body->stage_microseconds * 1e-6, (unsigned long long)node->asked);
		return ERR_DENIED;
	}
	if (body->rows < node->rows)
		return ERR_STALE;
	node->rows = body->rows;
	node->microseconds = body->stage_microseconds;
	uint8_t countersignature[SIGNATURE_BYTES];
	int err = keep(node, record, false);
	if (!err)
		err = receipt_countersign(body, ring->config.node_secret, countersignature);
	if (!err)
		err = send_receipt(ring, from, countersignature, record->bytes, record->length);
	return err;
}

/* Sessions of any age: receipts come last. */
static struct ring_session *find_any(const struct ring *ring, const uint8_t id[SESSION_BYTES])
{
	for (struct ring_session *s = ring->sessions; s; s = s->next)
		if (s->state != SESSION_DEAD && !memcmp(s->id, id, SESSION_BYTES))
			return s;
	return NULL;
}

void receipt_on_frame(struct ring *ring, const uint8_t from[KEY_BYTES], const struct frame *frame)
{
	struct record record;
	struct receipt_body body;
	int err = record_open(&record, frame->tail, frame->tail_length);
	if (!err)
		err = receipt_read(&record, &body);
	if (!err && ring_is_self(ring, record.signer)) {
		err = on_countersignature(ring, from, frame, &record, &body);
	} else if (!err) {
		struct ring_session *s = key_equal(record.signer, from) ? find_any(ring, body.session) : NULL;
		err = s ? on_receipt(s, from, &record, &body) : ERR_UNKNOWN;
		if (s)
			home_end_if_counted(s);
	}
	if (err)
		log_debug("ring: a receipt is dropped: %s", err_str(err));
}
