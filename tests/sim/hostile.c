/* hostile.c: a member that turned bad. It runs the same program as everybody, so that it is let in and takes part in rings; beside
 * that it sends what it likes on its links: what it heard before, to anybody; forged, altered, expired and former records; tickets
 * in others' names; rows, faults and ends of sessions that it saw; garbage. And as if it had guessed every session's name and how far it is: rows,
 * faults and ends that fit exactly, but come from the wrong node or are of a former epoch.
 *
 * It does not compute wrong rows where it is a rightful stage: against that there is no protection, and SECURITY.md says so.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/mesh/gossip.h"
#include "daemon/ring/ring_internal.h"
#include "proto/signed.h"
#include "tests/sim/sim.h"

#define HEARD_MAX 128

struct heard {
	enum link_kind kind;
	enum frame_type type;
	struct buf bytes;
};
static struct heard heard[HEARD_MAX];
static size_t n_heard;

static void forge_exactly(struct node *node);

void hostile_saw(struct node *node, struct node *from, enum link_kind kind, const uint8_t *bytes, size_t n)
{
	(void)from;
	if (sim.calm || n > 65536)
		return;
	/* It is a stage of a session that runs just now: the moment to say something about it. */
	if (kind == LINK_LATENCY && bytes[4] == FRAME_ROWS && sim_chance(100))
		forge_exactly(node);
	/* Old ones are kept, too: former rosters are the interesting ones. */
	struct heard *h = &heard[n_heard < HEARD_MAX ? n_heard : HEARD_MAX / 2 + sim_below(HEARD_MAX / 2)];
	n_heard += n_heard < HEARD_MAX;
	buf_release(&h->bytes);
	buf_init(&h->bytes, FRAME_MAX);
	h->kind = kind;
	h->type = (enum frame_type)bytes[4];
	if (buf_append(&h->bytes, bytes, n))
		abort();
}

/* --- one of its links ------------------------------------------------------------------------------------- */

struct choosing {
	struct link *link;
	struct node *peer;
	unsigned n;
};

static void choose(struct link *link, struct node *peer, void *arg)
{
	struct choosing *c = arg;
	if (sim_below(++c->n))
		return;
	c->link = link;
	c->peer = peer;
}

static struct link *some_link(struct node *node, enum link_kind kind, struct node **peer)
{
	struct choosing c = {0};
	wire_each_up(node, kind, choose, &c);
	if (peer)
		*peer = c.peer;
	return c.link;
}

static void say(struct link *link, struct buf *frame)
{
	sim.forged++;
	if (link && frame->length)
		link_send(link, frame);
	buf_release(frame);
}

static void send_frame(struct node *node, enum link_kind kind, enum frame_type type, const void *head, size_t head_length, const void *tail, size_t tail_length)
{
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	if (!frame_encode(&frame, type, head, head_length, tail, tail_length))
		say(some_link(node, kind, NULL), &frame);
	buf_release(&frame);
}

/* --- what it does ------------------------------------------------------------------------------------------- */

static const struct heard *some_heard(enum frame_type type /* 0: any */)
{
	size_t first = n_heard ? sim_below(n_heard) : 0;
	for (size_t i = 0; i < n_heard; i++) {
		const struct heard *h = &heard[(first + i) % n_heard];
		if (!type || h->type == type)
			return h;
	}
	return NULL;
}

static void replay(struct node *node)
{
	static const enum frame_type types[] = {0, FRAME_TICKET, FRAME_RECORDS, FRAME_ROWS, FRAME_CLOSE, FRAME_FAULT, FRAME_RECEIPT, FRAME_DIGEST};
	const struct heard *h = some_heard(types[sim_below(sizeof types / sizeof *types)]);
	struct buf frame;
	if (!h)
		return;
	buf_init(&frame, FRAME_MAX);
	if (buf_append(&frame, h->bytes.data, h->bytes.length))
		abort();
	sim.replayed_frames++;
	say(some_link(node, h->kind, NULL), &frame);
}

/* Bits of a frame turned. Not of rows: a rightful stage's wrong rows nobody can tell from right ones. */
static void alter(struct node *node)
{
	const struct heard *h = some_heard(0);
	struct buf frame;
	if (!h || h->type == FRAME_ROWS)
		return;
	buf_init(&frame, FRAME_MAX);
	if (buf_append(&frame, h->bytes.data, h->bytes.length))
		abort();
	for (uint64_t i = 0, n = 1 + sim_below(4); i < n; i++)
		frame.data[8 + sim_below(frame.length - 8)] ^= (uint8_t)(1 << sim_below(8));
	say(some_link(node, h->kind, NULL), &frame);
}

static void garbage(struct node *node)
{
	uint8_t bytes[300];
	size_t n = sim_below(sizeof bytes);
	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)sim_random();
	size_t head = n ? sim_below(n) : 0;
	if (sim_chance(500))
		send_frame(node, LINK_LATENCY, (enum frame_type)(FRAME_TICKET + sim_below(8)), bytes, head, bytes + head, n - head);
	else
		send_frame(node, LINK_BULK, (enum frame_type)(FRAME_DIGEST + sim_below(6)), bytes, head, bytes + head, n - head);
}

/* Sessions that it saw, spoken of as if it had a part in them. */
static void meddle(struct node *node)
{
	static struct rows_message rows;
	const struct heard *h = some_heard(sim_chance(500) ? FRAME_ROWS : FRAME_TICKET);
	struct frame frame;
	struct ticket ticket;
	uint8_t session[SESSION_BYTES];
	uint32_t epoch, stage;
	size_t used;
	if (!h || frame_decode(h->bytes.data, h->bytes.length, &frame, &used))
		return;
	bool is_rows = frame.type == FRAME_ROWS && !rows_decode(&frame, &rows) && rows.n_blocks;
	if (is_rows) {
		memcpy(session, rows.blocks[0].session, SESSION_BYTES);
		epoch = rows.blocks[0].epoch;
		stage = rows.blocks[0].stage;
	} else if (frame.type == FRAME_TICKET && !ticket_open(&ticket, frame.tail, frame.tail_length)) {
		memcpy(session, ticket.session, SESSION_BYTES);
		epoch = ticket.epoch;
		stage = ticket.stage;
	} else
		return;
	epoch += (uint32_t)sim_below(3) - (sim_chance(300) ? 1 : 0);
	stage += (uint32_t)sim_below(3) - 1;
	struct buf out;
	buf_init(&out, FRAME_MAX);
	int err = 0;
	switch (sim_below(4)) {
	case 0: {
		struct fault_message m = {.epoch = epoch, .stage = stage, .code = sim_chance(500) ? ERR_NEED_REPLAY : ERR_ENGINE};
		memcpy(m.session, session, SESSION_BYTES);
		err = fault_encode(&out, &m);
		break;
	}
	case 1: {
		struct close_message m = {.epoch = epoch, .stage = sim_chance(500) ? UINT32_MAX : stage, .reason = ERR_CANCELLED};
		memcpy(m.session, session, SESSION_BYTES);
		err = close_encode(&out, &m);
		break;
	}
	case 2: {
		struct ready_message m = {.epoch = epoch, .stage = stage};
		memcpy(m.session, session, SESSION_BYTES);
		err = ready_encode(&out, &m);
		break;
	}
	default:
		/* Of another epoch than any that is: never a rightful stage's next block. */
		if (!is_rows)
			break;
		rows.blocks[0].epoch += 1000;
		if (sim_chance(300))
			rows.blocks[0].epoch = 0;
		if (rows.blocks[0].epoch || epoch > 1)
			err = rows_encode(&out, &rows);
	}
	if (!err)
		say(some_link(node, LINK_LATENCY, NULL), &out);
	buf_release(&out);
}

struct target {                                /* a session at one of its neighbours */
	struct link *link;
	uint8_t session[SESSION_BYTES];
	uint32_t epoch, stage, position;
	uint64_t sequence;
	size_t row_bytes;
	bool own;                              /* it is that stage's previous node, so only another epoch is wrong */
	unsigned n;
};

static void aim(struct target *t, struct link *link, const uint8_t *session, uint32_t epoch, uint32_t stage, uint32_t position, uint64_t sequence,
		size_t row_bytes, bool own)
{
	if (sim_below(++t->n))
		return;
	*t = (struct target){.link = link, .epoch = epoch, .stage = stage, .position = position, .sequence = sequence,
			     .row_bytes = row_bytes ? row_bytes : 16, .own = own, .n = t->n};
	memcpy(t->session, session, SESSION_BYTES);
}

static const struct node *myself;

static void look_for_targets(struct link *link, struct node *peer, void *arg)
{
	struct target *t = arg;
	const struct ring *ring = peer->boot ? daemon_of(peer)->ring : NULL;
	const uint8_t *me = myself->keys.node;
	if (!ring || peer->hostile)
		return;
	for (const struct transit *at = ring->transits; at; at = at->next)
		if (at->state == TRANSIT_READY && (memcmp(at->ticket.home, me, KEY_BYTES) || !memcmp(at->ticket.previous, me, KEY_BYTES)))
			aim(t, link, at->ticket.session, at->ticket.epoch, at->ticket.stage, at->reach, at->next_sequence, at->row_bytes,
			    !memcmp(at->ticket.previous, me, KEY_BYTES));
	for (const struct ring_session *s = ring->sessions; s; s = s->next)
		for (size_t i = 1; s->state == SESSION_RUNNING && i < s->ask.plan.n_stages; i++)
			if (s->stages[i].self)
				aim(t, link, s->id, s->epoch, (uint32_t)i, (uint32_t)s->sent, s->stages[i].next_sequence, s->row_bytes,
				    !memcmp(s->ask.plan.stages[i - 1].node, me, KEY_BYTES));
}

static void forge_exactly(struct node *node)
{
	static const uint8_t zeros[1024];
	struct target t = {0};
	struct buf out;
	int err;
	myself = node;
	wire_each_up(node, LINK_LATENCY, look_for_targets, &t);
	if (!t.link)
		return;
	bool former = t.own || sim_chance(200);
	if (former && (t.epoch < 2 || t.row_bytes > sizeof zeros))
		t.epoch += 2;          /* there is none: the next but this, of which nobody knows, either */
	else if (former)
		t.epoch--;
	buf_init(&out, FRAME_MAX);
	unsigned what = (unsigned)sim_below(t.own ? 1 : 5);
	if (what == 4) {
		struct fault_message m = {.epoch = t.epoch, .stage = t.stage, .code = ERR_ENGINE};
		memcpy(m.session, t.session, SESSION_BYTES);
		err = fault_encode(&out, &m);
	} else if (what == 3) {
		struct close_message m = {.epoch = t.epoch, .stage = UINT32_MAX, .reason = ERR_CANCELLED};
		memcpy(m.session, t.session, SESSION_BYTES);
		err = close_encode(&out, &m);
	} else {
		static struct rows_message m;
		m = (struct rows_message){.n_blocks = 1};
		m.blocks[0] = (struct rows_block){.epoch = t.epoch, .stage = t.stage, .sequence = t.sequence, .position = t.position, .count = 1, .want = 1,
						  .encoding = ENCODING_F32, .rows = zeros, .rows_length = t.row_bytes <= sizeof zeros ? t.row_bytes : 16};
		memcpy(m.blocks[0].session, t.session, SESSION_BYTES);
		err = rows_encode(&out, &m);
	}
	if (!err)
		say(t.link, &out);
	buf_release(&out);
}

/* A ticket in its own name for another association's quota, or one signed by itself in another's name. */
static void forge_ticket(struct node *node)
{
	const struct daemon *d = daemon_of(node);
	struct node *peer;
	struct link *link = some_link(node, LINK_LATENCY, &peer);
	if (!link)
		return;
	size_t other = sim_below(sim.n_associations);
	struct ticket ticket = {.epoch = 1, .stage = 1, .n_stages = 3, .range = {1, 2}, .context = SIM_CONTEXT, .issued = daemon_now(d),
				.expires = daemon_now(d) + (sim_chance(200) ? 0 : 3000)};
	randombytes_buf(ticket.session, SESSION_BYTES);
	memcpy(ticket.home, node->keys.node, KEY_BYTES);
	memcpy(ticket.home_association, sim.associations[other].root.key, KEY_BYTES);
	memcpy(ticket.model, sim.models[0].id, KEY_BYTES);
	memcpy(ticket.node, peer->keys.node, KEY_BYTES);
	memcpy(ticket.previous, node->keys.node, KEY_BYTES);
	memcpy(ticket.next, node->keys.node, KEY_BYTES);
	struct buf bytes, frame;
	static const uint8_t empty_map = 0x80;
	buf_init(&bytes, TICKET_MAX);
	buf_init(&frame, FRAME_MAX);
	if (!ticket_sign(&bytes, &ticket, node->keys.node_secret)) {
		if (sim_chance(500) && bytes.length > 40)
			bytes.data[10 + sim_below(bytes.length - 10)] ^= 1;
		if (!frame_encode(&frame, FRAME_TICKET, &empty_map, 1, bytes.data, bytes.length))
			say(link, &frame);
	}
	buf_release(&bytes);
	buf_release(&frame);
}

static bool pick_record(const struct record *r, void *arg)
{
	const struct record **picked = arg;
	if (!*picked || sim_chance(100))
		*picked = r;
	return true;
}

/* A record that says what it may not, or whose bytes were changed. */
static void forge_record(struct node *node)
{
	const struct daemon *d = daemon_of(node);
	const struct record *picked = NULL;
	struct buf record, tail;
	static const uint8_t empty_map = 0x80;
	buf_init(&record, RECORD_MAX);
	buf_init(&tail, FRAME_TAIL_MAX);
	struct record head = {.sequence = (daemon_now(d) + 100) * 1000, .issued = daemon_now(d), .expires = daemon_now(d) + 86400};
	memcpy(head.association, sim_chance(500) ? d->keys.association : sim.associations[sim_below(sim.n_associations)].root.key, KEY_BYTES);
	int err = 0;
	switch (sim_below(5)) {
	case 0: {                              /* a roster of its own making, with itself on it */
		uint8_t nodes[1][KEY_BYTES];
		memcpy(nodes[0], node->keys.node, KEY_BYTES);
		struct roster_body roster = {.n_nodes = 1, .nodes = nodes};
		err = roster_sign(&record, &head, &roster, node->keys.node_secret);
		break;
	}
	case 1: {                              /* an agreement that nobody made */
		struct agreement_body terms = {.tokens_per_day = 1000000, .stage_seconds_per_day = 36000};
		memcpy(head.subject, d->keys.association, KEY_BYTES);
		memcpy(head.association, sim.associations[sim_below(sim.n_associations)].root.key, KEY_BYTES);
		err = agreement_sign(&record, &head, &terms, node->keys.node_secret);
		break;
	}
	case 2: {                              /* an own advert, expired or of the future */
		struct advert_body advert = {.budget_bytes = 1};
		head.issued = sim_chance(500) ? head.issued - 1000 : head.issued + 100000;
		head.expires = head.issued + 180;
		memcpy(head.subject, node->keys.node, KEY_BYTES);
		err = advert_sign(&record, &head, &advert, node->keys.node_secret);
		break;
	}
	default:                               /* somebody's, with a bit turned */
		trust_each(d->trust, 0, pick_record, &picked);
		if (picked)
			err = buf_append(&record, picked->bytes, picked->length);
		if (record.length > 8)
			record.data[8 + sim_below(record.length - 8)] ^= (uint8_t)(1 << sim_below(8));
	}
	if (!err && record.length && !gossip_append_record(&tail, record.data, record.length))
		send_frame(node, LINK_BULK, FRAME_RECORDS, &empty_map, 1, tail.data, tail.length);
	buf_release(&record);
	buf_release(&tail);
}

void hostile_tick(struct node *node)
{
	static void (*const tricks[])(struct node *node) = {replay, replay, alter, garbage, meddle, meddle, forge_ticket, forge_record};
	if (sim.calm)
		return;
	if (sim_chance(400))
		tricks[sim_below(sizeof tricks / sizeof *tricks)](node);
	if (sim_chance(700))
		forge_exactly(node);
}

void hostile_release(void)
{
	for (size_t i = 0; i < HEARD_MAX; i++)
		buf_release(&heard[i].bytes);
	n_heard = 0;
}
