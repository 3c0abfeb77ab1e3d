/* join.c: how an invitation is used (DESIGN D10).
 *
 *   joiner                                                    inviter
 *   dials each address with the PSK and the id in message 1   knows the id and gives its PSK, reserving nothing
 *   HELLO                                                -->   first valid transport message: consumes it, once
 *   JOIN {"role", "network"}, tail: its card and, as a
 *     partner, its association, steward and roster       -->   introduces the association, takes the records, asks main
 *                                                              (on_join: roster or agreement by the steward)
 *   introduces the inviter's association, takes records  <--   JOINED {"role", "name"}, tail: its records
 *   goodbye; both dial each other as neighbours, with the zero PSK, and gossip brings the rest
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "daemon/mesh/mesh_internal.h"
#include "proto/err.h"
#include "proto/log.h"
#include "proto/pack.h"
#include "proto/text.h"

#define FAILURES_SIZE 1200

#define NOT_YET 1

struct joining {
	struct invitation invitation;
	size_t next;                       /* address to dial */
	struct port *port;                 /* that is being tried, or NULL */
	bool asked;                        /* JOIN is sent */
	int err;                           /* NOT_YET until it is over */
	char detail[FAILURES_SIZE];
	void (*done)(void *arg, int err, const char *detail);
	void *arg;
};

/* --- both sides ---------------------------------------------------------------------------------- */

struct collecting {
	struct mesh *mesh;
	struct buf *tail;
	const uint8_t *association, *viewer;
	uint64_t now;
};

static bool collect_one(const struct record *r, void *arg)
{
	struct collecting *c = arg;
	if (memcmp(r->association, c->association, KEY_BYTES) || !trust_may_see(c->mesh->config.trust, r, c->viewer, c->now))
		return true;
	/* What does not fit comes by gossip. */
	return c->tail->length + r->length + 4 > c->tail->max || !gossip_append_record(c->tail, r->bytes, r->length);
}

/* An association's records that this node may see, in the order in which they can be believed. */
static void collect(struct mesh *mesh, struct buf *tail, const uint8_t *association, const uint8_t *viewer, enum record_kind most)
{
	struct collecting c = {.mesh = mesh, .tail = tail, .association = association, .viewer = viewer, .now = mesh_now(mesh)};
	for (int kind = RECORD_ASSOCIATION; kind <= (int)most; kind++)
		trust_each(mesh->config.trust, (enum record_kind)kind, collect_one, &c);
}

static int send_frame(struct port *port, enum frame_type type, enum invitation_role role, const char *key, const char *text, const struct buf *tail)
{
	struct buf head, frame;
	buf_init(&head, 1024);
	buf_init(&frame, FRAME_MAX);
	struct pack_writer w;
	pack_writer_init(&w, &head);
	pack_map(&w, 2);
	pack_kv_uint(&w, "role", role);
	pack_kv_str(&w, key, text);
	int err = w.err;
	if (!err)
		err = frame_encode(&frame, type, head.data, head.length, tail->data, tail->length);
	if (!err)
		err = link_send(port->link, &frame);
	buf_release(&head);
	buf_release(&frame);
	return err;
}

/* Takes the records of a tail, again while something more is believed. The first real fault, or 0. */
static int take_records(struct mesh *mesh, const struct frame *frame, const uint8_t *from)
{
	int fault = 0;
	for (bool gained = true; gained;) {
		const uint8_t *at = frame->tail, *record;
		size_t left = frame->tail_length, n;
		int err;
		gained = false;
		while (gossip_next_record(&at, &left, &record, &n, &err)) {
			int took = gossip_accept(mesh->gossip, record, n, from, mesh_clock(mesh));
			gained |= took == 1;
			if (took == ERR_SIGNATURE || took == ERR_MALFORMED)
				fault = took;
		}
		if (err)
			return err;
	}
	return fault;
}

/* --- inviter ------------------------------------------------------------------------------------- */

int join_admit(struct mesh *mesh, const struct link_peer *peer, uint8_t psk[CHANNEL_KEY], char *why, size_t why_size)
{
	struct invitation invitation = {0};
	if (peer->kind != LINK_BULK) {
		snprintf(why, why_size, "invitations are used on bulk links");
		return ERR_MALFORMED;
	}
	int err = invitation_find(mesh->config.home, peer->invitation, mesh_now(mesh), &invitation);
	if (err)
		snprintf(why, why_size, "its invitation is no good: %s", err_str(err));
	else
		memcpy(psk, invitation.psk, CHANNEL_KEY);
	sodium_memzero(&invitation, sizeof invitation);
	return err;
}

static void invited_up(struct port *port, const struct link_peer *peer, const struct record *card)
{
	struct mesh *mesh = port->mesh;
	struct invitation invitation = {0};
	int err = invitation_find(mesh->config.home, peer->invitation, mesh_now(mesh), &invitation);
	port->invited_as = invitation.role;
	sodium_memzero(&invitation, sizeof invitation);
	if (!err)
		err = invitation_consume(mesh->config.home, peer->invitation);
	if (!err)
		err = buf_append(&port->card, card->bytes, card->length);
	if (err) {
		log_warning("%s used an invitation that is no good: %s", link_address(port->link), err_str(err));
		link_close(port->link, err);
		return;
	}
	port->deadline_ms = mesh_ms(mesh) + JOIN_ANSWER_MS;
}

static int read_join(const struct frame *frame, enum invitation_role *role)
{
	struct pack_doc doc;
	int err = pack_parse(&doc, frame->head, frame->head_length, &pack_limits_head);
	if (err)
		return err;
	*role = (enum invitation_role)pack_get_uint(pack_root(&doc, &err), "role", INVITATION_PARTNER);
	pack_release(&doc);
	return err;
}

/* The joiner's association is believed from here on: whoever holds the invitation's secret speaks for it. */
static int take_partner(struct mesh *mesh, struct port *port, const struct frame *frame)
{
	if (!memcmp(port->association, mesh->config.keys->association, KEY_BYTES))
		return ERR_DENIED;
	int err = trust_introduce(mesh->config.trust, port->association);
	if (!err)
		err = take_records(mesh, frame, port->node);
	return err ? err : trust_admits(mesh->config.trust, port->node, mesh_now(mesh));
}

static int answer(struct mesh *mesh, struct port *port)
{
	struct buf tail;
	buf_init(&tail, JOIN_TAIL_MAX);
	/* Adverts grow old in a minute and receipts are none of a joiner's business: gossip has them. */
	collect(mesh, &tail, mesh->config.keys->association, port->node, RECORD_CARD);
	struct collecting c = {.mesh = mesh, .tail = &tail, .association = mesh->config.keys->association, .viewer = port->node, .now = mesh_now(mesh)};
	static const enum record_kind more[] = {RECORD_AGREEMENT, RECORD_ACCEPTANCE, RECORD_APPROVAL, RECORD_MANIFEST};
	for (size_t i = 0; i < sizeof more / sizeof *more; i++)
		trust_each(mesh->config.trust, more[i], collect_one, &c);
	int err = send_frame(port, FRAME_JOINED, port->invited_as, "name",
			     trust_association_name(mesh->config.trust, mesh->config.keys->association), &tail);
	buf_release(&tail);
	return err;
}

static int invited_frame(struct port *port, const struct frame *frame)
{
	struct mesh *mesh = port->mesh;
	enum invitation_role role;
	if (frame->type != FRAME_JOIN || port->answered)
		return ERR_MALFORMED;
	port->answered = true;
	int err = read_join(frame, &role);
	if (err)
		return err;
	if (role != port->invited_as)
		return ERR_DENIED;
	bool known = trust_in_reach(mesh->config.trust, port->association);
	if (role == INVITATION_PARTNER)
		err = take_partner(mesh, port, frame);
	if (!err && mesh->config.on_join)
		err = mesh->config.on_join(mesh->config.arg, role, port->node, port->association, port->invitation);
	if (!err)
		err = trust_admits(mesh->config.trust, port->node, mesh_now(mesh));
	/* A new node's card is believed once the roster names it; with another association's name in it, when it has restarted. */
	if (!err)
		gossip_accept(mesh->gossip, port->card.data, port->card.length, port->node, mesh_clock(mesh));
	if (!err)
		err = answer(mesh, port);
	/* Nobody there knows of us: nothing that they say later would reach us. */
	if (err && role == INVITATION_PARTNER && !known)
		trust_forget(mesh->config.trust, port->association);
	char who[2 * NAME_SIZE + 4];
	if (err)
		log_warning("a joiner at %s cannot be taken in: %s", link_address(port->link), err_str(err));
	else
		log_notice("%s has joined by invitation, as %s", mesh_name(mesh, port->node, who),
			   role == INVITATION_PARTNER ? "a partner" : "a node of this association");
	mesh_changed(mesh);
	return err;
}

/* --- joiner -------------------------------------------------------------------------------------- */

static void note(struct joining *j, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void note(struct joining *j, const char *format, ...)
{
	size_t n = strlen(j->detail);
	if (n && n + 2 < sizeof j->detail)
		n += (size_t)snprintf(j->detail + n, sizeof j->detail - n, "; ");
	va_list args;
	va_start(args, format);
	vsnprintf(j->detail + n, sizeof j->detail - n, format, args);
	va_end(args);
}

static void note_failure(struct mesh *mesh, struct joining *j, const char *address, int why, const char *detail)
{
	note(j, "%s: %s", address, detail);
	if (mesh->n_join_failures == CARD_ADDRESSES_MAX)
		return;
	struct mesh_join_failure *f = &mesh->join_failures[mesh->n_join_failures++];
	text_copy(f->address, sizeof f->address, address);
	f->why = why;
}

const struct mesh_join_failure *mesh_join_failures(const struct mesh *mesh, size_t *n)
{
	*n = mesh->n_join_failures;
	return mesh->join_failures;
}

/* The callback comes from join_tick(), never from inside mesh_join() or a link's callback. */
static void finish(struct joining *j, int err)
{
	if (j->err == NOT_YET)
		j->err = err;
}

static void dial_next(struct mesh *mesh, struct joining *j)
{
	const struct invitation *v = &j->invitation;
	while (!j->port && j->next < v->n_addresses) {
		const char *address = v->addresses[j->next++];
		struct port *port = port_new(mesh, PORT_JOINER, LINK_BULK, v->node);
		if (!port) {
			finish(j, -ENOMEM);
			return;
		}
		port->dialled = true;
		text_copy(port->address, sizeof port->address, address);
		int err = link_dial(&port->link, &mesh->link_config, address, v->link_key, LINK_BULK, v->psk, v->id);
		if (err) {
			port_free(port);
			note_failure(mesh, j, address, err, err_str(err));
			continue;
		}
		link_set_user(port->link, port);
		j->port = port;
	}
	if (!j->port)
		finish(j, ERR_UNREACHABLE);
}

int mesh_join(struct mesh *mesh, const struct invitation *invitation, void (*done)(void *arg, int err, const char *detail), void *arg)
{
	if (mesh->closing)
		return ERR_CANCELLED;
	if (mesh->joining)
		return ERR_BUSY;
	struct joining *j = calloc(1, sizeof *j);
	if (!j)
		return -ENOMEM;
	j->invitation = *invitation;
	if (!sodium_is_zero(invitation->secret, sizeof invitation->secret))
		invitation_psk(invitation->secret, j->invitation.psk);
	j->done = done;
	j->arg = arg;
	j->err = NOT_YET;
	mesh->joining = j;
	mesh->n_join_failures = 0;

	const struct keys *keys = mesh->config.keys;
	size_t n;
	if (strcmp(invitation->network, mesh->config.network)) {
		note(j, "the invitation is for the network \"%s\", this node is in \"%s\" (`network` under [mesh] in essaim.conf)", invitation->network,
		     mesh->config.network);
		finish(j, ERR_DENIED);
	} else if (invitation->expires <= mesh_now(mesh)) {
		note(j, "the invitation has expired: ask for a new one");
		finish(j, ERR_EXPIRED);
	} else if (!memcmp(invitation->node, keys->node, KEY_BYTES)) {
		note(j, "this node made the invitation itself: use it on the other machine");
		finish(j, ERR_DENIED);
	} else if (invitation->role == INVITATION_PARTNER && !memcmp(invitation->association, keys->association, KEY_BYTES)) {
		note(j, "the invitation comes from this node's own association, which needs none to be its own partner");
		finish(j, ERR_DENIED);
	} else if (!mesh_card(mesh, &n)) {
		note(j, "this node has no card yet: try again in a moment");
		finish(j, ERR_BUSY);
	} else
		dial_next(mesh, j);
	return 0;
}

static void joiner_up(struct port *port)
{
	struct mesh *mesh = port->mesh;
	struct joining *j = mesh->joining;
	const struct keys *keys = mesh->config.keys;
	struct buf tail;
	buf_init(&tail, JOIN_TAIL_MAX);
	size_t n = 0;
	const uint8_t *card = mesh_card(mesh, &n);
	int err = 0;
	if (j->invitation.role == INVITATION_PARTNER)
		collect(mesh, &tail, keys->association, keys->node, RECORD_ROSTER);
	if (card)
		err = gossip_append_record(&tail, card, n);
	if (!err)
		err = send_frame(port, FRAME_JOIN, j->invitation.role, "network", mesh->config.network, &tail);
	buf_release(&tail);
	j->asked = true;
	port->deadline_ms = mesh_ms(mesh) + JOIN_ANSWER_MS;
	if (err)
		link_close(port->link, err);
}

static int joiner_frame(struct port *port, const struct frame *frame)
{
	struct mesh *mesh = port->mesh;
	struct joining *j = mesh->joining;
	if (frame->type != FRAME_JOINED || !j || j->port != port || j->err != NOT_YET)
		return ERR_MALFORMED;
	const struct invitation *v = &j->invitation;
	bool known = trust_in_reach(mesh->config.trust, v->association);
	int err = trust_introduce(mesh->config.trust, v->association);
	if (!err)
		err = take_records(mesh, frame, port->node);
	if (!err)
		err = trust_admits(mesh->config.trust, v->node, mesh_now(mesh));
	if (err) {
		if (!known)
			trust_forget(mesh->config.trust, v->association);
		note(j, "%s answered with records that cannot be believed: %s", link_address(port->link), err_str(err));
		finish(j, err);
		return err;
	}
	/* The address that worked is tried first from now on, whatever the card says. */
	struct neighbour *n = neighbours_get(mesh, v->node);
	if (n)
		text_copy(n->proven, sizeof n->proven, port->address);
	/* Where the roster names us now, our own card is believed, too. */
	if (mesh->own_card.length)
		gossip_publish(mesh->gossip, mesh->own_card.data, mesh->own_card.length, mesh_clock(mesh));
	const char *name = trust_association_name(mesh->config.trust, v->association);
	j->detail[0] = '\0';
	note(j, "joined %s by %s", name[0] ? name : v->name, port->address);
	log_notice("%s", j->detail);
	finish(j, 0);
	mesh_changed(mesh);
	link_close(port->link, 0);
	return 0;
}

static void joiner_closed(struct port *port, int why, const char *detail)
{
	struct mesh *mesh = port->mesh;
	struct joining *j = mesh->joining;
	if (!j || j->port != port)
		return;
	j->port = NULL;
	if (j->err != NOT_YET)
		return;
	note_failure(mesh, j, port->address, why ? why : ERR_CANCELLED, detail);
	/* Once asked, the invitation is used up: another address of the same node would be turned away. */
	if (j->asked)
		finish(j, why ? why : ERR_CANCELLED);
	else
		dial_next(mesh, j);
}

static void joining_end(struct mesh *mesh)
{
	struct joining *j = mesh->joining;
	mesh->joining = NULL;
	if (j->port)
		link_close(j->port->link, 0);
	if (j->done)
		j->done(j->arg, j->err, j->detail);
	sodium_memzero(j, sizeof *j);
	free(j);
}

void join_tick(struct mesh *mesh)
{
	for (struct port *p = mesh->ports; p; p = p->next)
		if (p->up && p->role != PORT_NEIGHBOUR && mesh_ms(mesh) >= p->deadline_ms)
			link_close(p->link, UV_ETIMEDOUT);
	if (mesh->joining && mesh->joining->err != NOT_YET)
		joining_end(mesh);
}

void join_cancel(struct mesh *mesh)
{
	if (!mesh->joining)
		return;
	if (mesh->joining->err == NOT_YET)
		note(mesh->joining, "this node is stopping");
	finish(mesh->joining, ERR_CANCELLED);
	joining_end(mesh);
}

/* --- what neighbours.c calls --------------------------------------------------------------------- */

void join_up(struct port *port, const struct link_peer *peer, const struct record *card)
{
	if (port->role == PORT_INVITED)
		invited_up(port, peer, card);
	else if (port->mesh->joining && port->mesh->joining->port == port)
		joiner_up(port);
	else
		link_close(port->link, 0);
}

void join_frame(struct port *port, const struct frame *frame)
{
	int err = port->role == PORT_INVITED ? invited_frame(port, frame) : joiner_frame(port, frame);
	if (err)
		link_close(port->link, err);
}

void join_closed(struct port *port, int why, const char *detail)
{
	if (port->role == PORT_JOINER)
		joiner_closed(port, why, detail);
}
