/* neighbours.c: links to nodes: who is let in, which of two links is kept, what frame goes where, who is disconnected.
 *
 * A link proves a link key. The card that comes with it says whose that is: it must be signed by the node it is about
 * and name this very key; then trust says whether the node may talk to us. Both sides do that, the dialled one before it
 * answers.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "daemon/mesh/mesh_internal.h"
#include "proto/err.h"
#include "proto/log.h"
#include "proto/pack.h"
#include "proto/text.h"

#define CLOCK_WARNING_MS 30000
#define CLOCK_TROUBLE "their clock is"

struct neighbour *neighbours_find(const struct mesh *mesh, const uint8_t node[KEY_BYTES])
{
	for (size_t i = 0; i < mesh->n_neighbours; i++)
		if (!memcmp(mesh->neighbours[i]->node, node, KEY_BYTES))
			return mesh->neighbours[i];
	return NULL;
}

struct neighbour *neighbours_get(struct mesh *mesh, const uint8_t node[KEY_BYTES])
{
	struct neighbour *n = neighbours_find(mesh, node);
	if (n || mesh->n_neighbours == NEIGHBOURS_MAX)
		return n;
	n = calloc(1, sizeof *n);
	if (!n)
		return NULL;
	memcpy(n->node, node, KEY_BYTES);
	mesh->neighbours[mesh->n_neighbours++] = n;
	return n;
}

struct port *port_new(struct mesh *mesh, enum port_role role, enum link_kind kind, const uint8_t node[KEY_BYTES])
{
	struct port *port = calloc(1, sizeof *port);
	if (!port)
		return NULL;
	port->mesh = mesh;
	port->role = role;
	port->kind = kind;
	memcpy(port->node, node, KEY_BYTES);
	buf_init(&port->card, RECORD_MAX);
	port->next = mesh->ports;
	mesh->ports = port;
	return port;
}

void port_free(struct port *port)
{
	for (struct port **at = &port->mesh->ports; *at; at = &(*at)->next)
		if (*at == port) {
			*at = port->next;
			break;
		}
	buf_release(&port->card);
	free(port);
}

/* --- who is let in ------------------------------------------------------------------------------- */

/* A node that is admitted, or would be if nothing ended by time: when everything seems to have ended it may be our clock. */
static bool is_ours(const struct mesh *mesh, const uint8_t node[KEY_BYTES])
{
	return !trust_admits(mesh->config.trust, node, mesh_now(mesh)) || !trust_admits(mesh->config.trust, node, TRUST_ANY_TIME);
}

static uint64_t clocks_differ_by(const struct mesh *mesh, const struct link_peer *peer)
{
	uint64_t now = mesh_now(mesh);
	return peer->time > now ? peer->time - now : now - peer->time;
}

/* Unless both clocks agree roughly, "expired" and "not yet" mean nothing. Said to people when a node that we know says so. */
static int check_clock(struct mesh *mesh, const struct link_peer *peer, const uint8_t node[KEY_BYTES], char *why, size_t why_size)
{
	uint64_t now = mesh_now(mesh), off = clocks_differ_by(mesh, peer);
	struct neighbour *known = neighbours_find(mesh, node);
	if (known) {
		known->clock_known = true;
		known->clock_off = peer->time > now ? (int64_t)off : -(int64_t)off;
	}
	if (off < CLOCKS_DIFFER_MAX_S) {
		if (known && neighbours_clock_differs(known))
			known->trouble[0] = '\0';  /* whatever else keeps a link from coming up */
		return 0;
	}
	char text[40], who[2 * NAME_SIZE + 4];
	text_duration(off, text, sizeof text);
	if (peer->time > now)
		snprintf(why, why_size, CLOCK_TROUBLE " %s ahead of ours: one of the two is wrong (`timedatectl set-ntp true`)", text);
	else
		snprintf(why, why_size, CLOCK_TROUBLE " %s behind ours: one of the two is wrong (`timedatectl set-ntp true`)", text);
	struct neighbour *n = is_ours(mesh, node) ? neighbours_get(mesh, node) : NULL;
	if (n)
		text_copy(n->trouble, sizeof n->trouble, why);
	if (mesh_ms(mesh) >= mesh->clock_warned_ms) {
		mesh->clock_warned_ms = mesh_ms(mesh) + CLOCK_WARNING_MS;
		log_warning("%s cannot be linked with: its clock or ours is off by %s. Set both by NTP (`timedatectl set-ntp true`) and it will "
			    "come by itself.",
			    mesh_name(mesh, node, who), text);
	}
	return ERR_CLOCK;
}

bool neighbours_clock_differs(const struct neighbour *n)
{
	return !strncmp(n->trouble, CLOCK_TROUBLE, strlen(CLOCK_TROUBLE));
}

int neighbours_read_card(const struct mesh *mesh, const struct link_peer *peer, struct record *out, char *why, size_t why_size)
{
	struct card_body card;
	int err = record_open(out, peer->card, peer->card_length);
	if (!err && out->kind != RECORD_CARD)
		err = ERR_MALFORMED;
	if (!err)
		err = card_read(out, &card);
	if (err) {
		snprintf(why, why_size, "its card is not sound: %s", err_str(err));
		return err;
	}
	if (memcmp(out->signer, out->subject, KEY_BYTES) || memcmp(card.link_key, peer->link_key, KEY_BYTES)) {
		snprintf(why, why_size, "its card is another node's");
		return ERR_DENIED;
	}
	/* A card that was replaced must not bring back the key that it named. */
	const struct record *held = trust_find(mesh->config.trust, RECORD_CARD, out->association, out->subject, mesh_now(mesh));
	struct card_body newer;
	if (held && held->sequence > out->sequence && !card_read(held, &newer) && memcmp(newer.link_key, card.link_key, KEY_BYTES)) {
		snprintf(why, why_size, "its card names a key that was replaced");
		return ERR_STALE;
	}
	return 0;
}

/* Why a node that is not let in is answered all the same. */
enum answer {
	ANSWER_NOTHING,
	ANSWER_CLOCK,                      /* nothing is wrong with it but its clock: it is to see ours and say so */
	ANSWER_LAST_WORD,                  /* it may not know that our association has ended what there was: trust_owes() */
	ANSWER_LAPSED,                     /* it would be let in if nothing ended by time: see lapsed.c */
};

/* All that can be said about a node from its handshake. psk: for a joiner of ours; NULL where we dialled. */
static int check_peer(struct mesh *mesh, const struct link_peer *peer, struct record *card, uint8_t *psk, enum answer *answer, char *why, size_t why_size)
{
	uint8_t association[KEY_BYTES];
	*answer = ANSWER_NOTHING;
	int err = neighbours_read_card(mesh, peer, card, why, why_size);
	if (err)
		return err;
	if (peer->invited) {
		if (psk)
			err = join_admit(mesh, peer, psk, why, why_size);
	} else if (!is_ours(mesh, card->subject)) {
		snprintf(why, why_size, "no roster that is known here names it");
		err = ERR_DENIED;
		if (psk && trust_owes(mesh->config.trust, card->subject, association))
			*answer = ANSWER_LAST_WORD;
	}
	if (err)
		return err;
	/* Before expiry, which would blame records for what the clock does. */
	err = check_clock(mesh, peer, card->subject, why, why_size);
	*answer = err ? ANSWER_CLOCK : ANSWER_NOTHING;
	if (err)
		return err;
	err = peer->invited ? 0 : trust_admits(mesh->config.trust, card->subject, mesh_now(mesh));
	if (err) {
		snprintf(why, why_size, "no roster in force that is known here names it");
		*answer = ANSWER_LAPSED;
		return err;
	}
	err = record_is_current(card, mesh_now(mesh));
	if (err)
		snprintf(why, why_size, "its card has expired");
	return err;
}

int neighbours_admit(void *owner, const struct link_peer *peer, uint8_t psk[CHANNEL_KEY])
{
	struct mesh *mesh = owner;
	struct record card;
	char why[160] = "";
	enum answer answer;
	int err = check_peer(mesh, peer, &card, psk, &answer, why, sizeof why);
	if (answer == ANSWER_CLOCK || (answer != ANSWER_NOTHING && peer->kind == LINK_BULK))
		return 0;                  /* the link ends as soon as everything is said */
	/* Strangers shall not fill the log. */
	if (err)
		log_debug("a node that dialled was not let in: %s", why);
	return err;
}

static void tell_the_owed(struct mesh *mesh, struct link *link, const uint8_t node[KEY_BYTES])
{
	uint8_t association[KEY_BYTES];
	if (trust_owes(mesh->config.trust, node, association))
		lapsed_say_last_word(mesh, link, association);
}

/* --- up and down --------------------------------------------------------------------------------- */

static void set_up(struct mesh *mesh, struct neighbour *n, bool up)
{
	char who[2 * NAME_SIZE + 4];
	if (n->up == up)
		return;
	n->up = up;
	n->since = mesh_now(mesh);
	if (up)
		log_info("link with %s is up (%s)", mesh_name(mesh, n->node, who), n->address);
	else
		log_info("link with %s is down%s%s", mesh_name(mesh, n->node, who), n->trouble[0] ? ": " : "", n->trouble);
	if (mesh->config.on_peer && !mesh->closing)
		mesh->config.on_peer(mesh->config.arg, n->node, up);
}

static void tell_observed(struct port *port)
{
	struct buf head, frame;
	buf_init(&head, 256);
	buf_init(&frame, 512);
	struct pack_writer w;
	pack_writer_init(&w, &head);
	pack_map(&w, 1);
	pack_kv_str(&w, "address", link_address(port->link));
	if (!w.err && !frame_encode(&frame, FRAME_OBSERVED, head.data, head.length, NULL, 0))
		link_send(port->link, &frame);
	buf_release(&head);
	buf_release(&frame);
}

/* Of the two, the link that the smaller node key dialled. */
static bool by_smaller(const struct port *port)
{
	bool we_are_smaller = memcmp(port->mesh->config.keys->node, port->node, KEY_BYTES) < 0;
	return port->dialled == we_are_smaller;
}

/* A second link of one kind to one node. Dialled by both at once: the rule. Otherwise the other side thinks that it has none, which
 * it knows best: the newer one. */
static bool replaces(const struct port *new, const struct port *held)
{
	bool at_once = new->up_ms < held->up_ms + BOTH_DIALLED_MS;
	return !at_once || new->dialled == held->dialled || by_smaller(new);
}

static void attach(struct port *port)
{
	struct mesh *mesh = port->mesh;
	struct neighbour *n = neighbours_get(mesh, port->node);
	if (!n) {
		link_close(port->link, ERR_BUSY);
		return;
	}
	dialing_up(mesh->dialing, port->node, port->kind, port->dialled, mesh_ms(mesh));
	struct port **slot = &n->ports[port->kind == LINK_BULK], *held = *slot;
	if (held && !replaces(port, held)) {
		link_close(port->link, 0);
		return;
	}
	if (port->dialled)
		text_copy(n->proven, sizeof n->proven, port->address);
	else {
		uint16_t ignored;
		address_split(link_address(port->link), n->seen_host, &ignored);
		dialing_hurry(mesh->dialing, port->node, mesh_ms(mesh));
	}
	*slot = port;
	char who[sizeof n->name];
	memcpy(n->name, mesh_name(mesh, n->node, who), sizeof who);
	if (held) {
		/* What is under way on the held one is lost, and the other side may have started anew: sessions must know. */
		if (port->kind == LINK_LATENCY)
			set_up(mesh, n, false);
		link_close(held->link, 0);
	}
	if (port->kind == LINK_BULK) {
		tell_observed(port);
		gossip_peer_up(mesh->gossip, port->node, mesh_clock(mesh));
	} else {
		text_copy(n->address, sizeof n->address, link_address(port->link));
		n->trouble[0] = '\0';
		set_up(mesh, n, true);
	}
}

/* An accepted link gets its port when it is up: message 1 alone costs nothing here. */
static struct port *accepted_port(struct mesh *mesh, struct link *link, const struct link_peer *peer, const struct record *card)
{
	struct port *port = port_new(mesh, peer->invited ? PORT_INVITED : PORT_NEIGHBOUR, link_kind(link), card->subject);
	if (!port)
		return NULL;
	port->link = link;
	memcpy(port->association, card->association, KEY_BYTES);
	memcpy(port->invitation, peer->invitation, sizeof port->invitation);
	link_set_user(link, port);
	return port;
}

/* False: it is closed like any other link with a node that is not let in. */
static bool take_lapsed(struct mesh *mesh, struct link *link, struct port *port, const struct link_peer *peer, const struct record *card)
{
	uint8_t association[KEY_BYTES];
	if (link_kind(link) != LINK_BULK || (port && memcmp(port->node, card->subject, KEY_BYTES)) ||
	    trust_association_of(mesh->config.trust, card->subject, TRUST_ANY_TIME, association))
		return false;
	if (!port)
		port = accepted_port(mesh, link, peer, card);
	if (port)
		lapsed_up(port, association);
	return port != NULL;
}

void neighbours_on_up(void *owner, struct link *link, const struct link_peer *peer)
{
	struct mesh *mesh = owner;
	struct port *port = link_user(link);
	struct record card;
	char why[160] = "";
	uint8_t psk[CHANNEL_KEY];
	enum answer answer;
	int err = check_peer(mesh, peer, &card, port ? NULL : psk, &answer, why, sizeof why);
	sodium_memzero(psk, sizeof psk);
	if (!err && port && memcmp(port->node, card.subject, KEY_BYTES)) {
		snprintf(why, sizeof why, "another node answers with that link key");
		err = ERR_DENIED;
	}
	if ((!err || answer != ANSWER_NOTHING) && !peer->invited && clocks_differ_by(mesh, peer) < CLOCKS_DIFFER_MAX_S)
		mesh->agreed_ms = mesh_ms(mesh);
	if (answer == ANSWER_LAPSED && take_lapsed(mesh, link, port, peer, &card))
		return;
	if (!err && !port) {
		port = accepted_port(mesh, link, peer, &card);
		if (!port)
			err = -ENOMEM;
	}
	if (err) {
		log_debug("a link with %s ends: %s", link_address(link), why);
		if (port)
			text_copy(port->why, sizeof port->why, why);
		if (answer == ANSWER_LAST_WORD)
			tell_the_owed(mesh, link, card.subject);
		link_close(link, answer == ANSWER_LAST_WORD ? 0 : err);         /* in peace: what was sent arrives */
		return;
	}
	port->up = true;
	port->up_ms = mesh_ms(mesh);
	if (port->role != PORT_NEIGHBOUR) {
		join_up(port, peer, &card);
		return;
	}
	/* It may be newer than the one we hold: other addresses, another name. */
	gossip_accept(mesh->gossip, peer->card, peer->card_length, port->node, mesh_clock(mesh));
	attach(port);
}

static void account(struct neighbour *n, const struct link *link)
{
	n->bytes_in += link_bytes_in(link);
	n->bytes_out += link_bytes_out(link);
}

static void neighbour_closed(struct port *port, int why, const char *detail)
{
	struct mesh *mesh = port->mesh;
	struct neighbour *n = neighbours_find(mesh, port->node);
	uint64_t ms = mesh_ms(mesh);
	bool was_up = port->up;
	int slot = port->kind == LINK_BULK;
	if (n)
		account(n, port->link);
	if (!was_up) {
		dialing_failed(mesh->dialing, port->node, port->kind, ms, mesh_random());
		/* A clock that differs is the better reason for being turned away. */
		if (n && !n->up && !neighbours_clock_differs(n))
			text_copy(n->trouble, sizeof n->trouble, detail);
	}
	if (n && n->ports[slot] == port) {
		n->ports[slot] = NULL;
		dialing_lost(mesh->dialing, port->node, port->kind, ms, mesh_random());
		if (port->kind == LINK_LATENCY) {
			text_copy(n->trouble, sizeof n->trouble, detail);
			set_up(mesh, n, false);
		}
	}
	if (port->kind == LINK_BULK && was_up && !(n && n->ports[1])) {
		if (!mesh->closing)
			gossip_finish(mesh->gossip, port->node, mesh_clock(mesh));
		gossip_peer_down(mesh->gossip, port->node);
	}
}

void neighbours_on_closed(void *owner, struct link *link, int why, const char *detail)
{
	struct mesh *mesh = owner;
	struct port *port = link_user(link);
	if (!port) {
		log_debug("a link that never came up: %s", detail);
		return;
	}
	if (port->why[0])
		detail = port->why;
	if (port->role == PORT_NEIGHBOUR)
		neighbour_closed(port, why, detail);
	else if (port->role == PORT_PROBE)
		probe_closed(port, why, detail);
	else if (port->role == PORT_LAPSED)
		lapsed_closed(port);
	else
		join_closed(port, why, detail);
	port_free(port);
	mesh_closed_maybe(mesh);
}

void neighbours_disconnect(struct mesh *mesh, const uint8_t node[KEY_BYTES], int why)
{
	uint8_t key[KEY_BYTES];
	memcpy(key, node, KEY_BYTES);              /* node may lie in what goes away */
	for (struct port *p = mesh->ports; p; p = p->next)
		if (p->role == PORT_NEIGHBOUR && !memcmp(p->node, key, KEY_BYTES))
			link_close(p->link, why);
	struct neighbour *n = neighbours_find(mesh, key);
	if (!n)
		return;
	/* From now on nothing goes there, although the links take a moment to end. */
	for (int k = 0; k < 2; k++)
		if (n->ports[k]) {
			dialing_lost(mesh->dialing, key, k ? LINK_BULK : LINK_LATENCY, mesh_ms(mesh), mesh_random());
			n->ports[k] = NULL;
		}
	text_copy(n->trouble, sizeof n->trouble, err_str(why));
	set_up(mesh, n, false);
}

void neighbours_recheck(struct mesh *mesh)
{
	uint64_t now = mesh_now(mesh);
	for (size_t i = 0; i < mesh->n_neighbours; i++) {
		struct neighbour *n = mesh->neighbours[i];
		if ((n->ports[0] || n->ports[1]) && trust_admits(mesh->config.trust, n->node, now)) {
			char who[2 * NAME_SIZE + 4];
			log_notice("%s is no longer admitted: disconnected", mesh_name(mesh, n->node, who));
			dialing_forget(mesh->dialing, n->node);
			neighbours_disconnect(mesh, n->node, ERR_DENIED);
		}
	}
}

void neighbours_relink(struct mesh *mesh)
{
	for (size_t i = 0; i < mesh->n_neighbours; i++) {
		struct neighbour *n = mesh->neighbours[i];
		if (n->ports[0] || n->ports[1])
			neighbours_disconnect(mesh, n->node, ERR_CLOCK);
		dialing_hurry(mesh->dialing, n->node, mesh_ms(mesh));
	}
}

/* --- frames -------------------------------------------------------------------------------------- */

static int on_observed(struct mesh *mesh, const struct frame *frame)
{
	struct pack_doc doc;
	int err = pack_parse(&doc, frame->head, frame->head_length, &pack_limits_head);
	if (err)
		return err;
	char address[ADDRESS_SIZE], host[ADDRESS_HOST_SIZE];
	uint16_t port;
	pack_get_str(pack_root(&doc, &err), "address", address, sizeof address);
	pack_release(&doc);
	if (err)
		return err;
	err = address_split(address, host, &port);
	if (!err)
		text_copy(mesh->observed, sizeof mesh->observed, address);
	return err;
}

static int mesh_frame(struct port *port, const struct frame *frame)
{
	struct mesh *mesh = port->mesh;
	if (port->kind != LINK_BULK)
		return ERR_MALFORMED;
	switch (frame->type) {
	case FRAME_DIGEST:
	case FRAME_WANT:
	case FRAME_RECORDS: {
		struct neighbour *n = neighbours_find(mesh, port->node);
		if (!n || n->ports[1] != port)
			return 0;                  /* a link that was just replaced */
		int err = gossip_frame(mesh->gossip, port->node, frame, mesh_clock(mesh));
		if (gossip_has_work(mesh->gossip))
			mesh_work_soon(mesh);
		return err;
	}
	case FRAME_OBSERVED:
		return on_observed(mesh, frame);
	default:
		return ERR_MALFORMED;              /* JOIN and JOINED have links of their own */
	}
}

void neighbours_on_frame(void *owner, struct link *link, const struct frame *frame)
{
	struct mesh *mesh = owner;
	struct port *port = link_user(link);
	int err = 0;
	if (port->role == PORT_LAPSED) {
		lapsed_frame(port, frame);
		return;
	}
	if (port->role != PORT_NEIGHBOUR) {
		join_frame(port, frame);
		return;
	}
	if (trust_admits(mesh->config.trust, port->node, mesh_now(mesh)))
		err = ERR_DENIED;
	else if (frame->type >= FRAME_DIGEST && frame->type <= FRAME_OBSERVED)
		err = mesh_frame(port, frame);
	else if (frame->type >= FRAME_TICKET && frame->type <= FRAME_SEALED) {
		if (port->kind != LINK_LATENCY)
			err = ERR_MALFORMED;
		else if (mesh->config.on_frame)
			err = mesh->config.on_frame(mesh->config.arg, port->node, frame);
	} else if (frame->type == FRAME_REACH || frame->type == FRAME_REACHED)
		err = probe_frame(port, frame);
	else
		err = ERR_UNSUPPORTED;
	if (err)
		link_close(link, err);
}

/* --- whom to dial -------------------------------------------------------------------------------- */

static void add_address(struct dialing_address *list, size_t *n, const char *text)
{
	char host[ADDRESS_HOST_SIZE];
	uint16_t port;
	if (*n == DIALING_ADDRESSES_MAX || address_split(text, host, &port))
		return;
	for (size_t i = 0; i < *n; i++)
		if (!strcmp(list[i].text, text))
			return;
	memset(list[*n].text, 0, ADDRESS_SIZE);
	text_copy(list[(*n)++].text, ADDRESS_SIZE, text);
}

/* Where it was reached, where it says it is, and where it was seen coming from, with the port that it says it has: its
 * card may know only addresses of its own network. */
static size_t addresses_of(const struct neighbour *n, const struct card_body *card, struct dialing_address *list)
{
	size_t count = 0;
	if (n && n->proven[0])
		add_address(list, &count, n->proven);
	for (size_t i = 0; i < card->n_addresses; i++)
		add_address(list, &count, card->addresses[i]);
	char host[ADDRESS_HOST_SIZE], text[ADDRESS_SIZE];
	uint16_t port;
	if (n && n->seen_host[0] && card->n_addresses && !address_split(card->addresses[0], host, &port) &&
	    !address_join(n->seen_host, port, text, sizeof text))
		add_address(list, &count, text);
	return count;
}

static bool name_target(const struct record *r, void *arg)
{
	struct mesh *mesh = arg;
	uint64_t now = mesh_now(mesh);
	struct card_body card;
	uint8_t association[KEY_BYTES];
	if (trust_admits(mesh->config.trust, r->subject, now))
		now = TRUST_ANY_TIME;              /* it is asked what time it is: see is_ours() */
	if (trust_admits(mesh->config.trust, r->subject, now) || trust_association_of(mesh->config.trust, r->subject, now, association) ||
	    memcmp(association, r->association, KEY_BYTES) || card_read(r, &card))
		return true;
	struct dialing_address list[DIALING_ADDRESSES_MAX];
	size_t n = addresses_of(neighbours_find(mesh, r->subject), &card, list);
	dialing_target(mesh->dialing, r->subject, list, n, mesh_ms(mesh), mesh_random());
	return true;
}

void neighbours_refresh(struct mesh *mesh)
{
	dialing_begin(mesh->dialing);
	trust_each_at(mesh->config.trust, RECORD_CARD, TRUST_ANY_TIME, name_target, mesh);
	dialing_end(mesh->dialing);
	for (size_t i = mesh->n_neighbours; i-- > 0;) {
		struct neighbour *n = mesh->neighbours[i];
		if (n->ports[0] || n->ports[1] || is_ours(mesh, n->node))
			continue;
		free(n);
		mesh->neighbours[i] = mesh->neighbours[--mesh->n_neighbours];
	}
}

static void dial(struct mesh *mesh, const struct dial *d)
{
	struct card_body card;
	int err = trust_card_of(mesh->config.trust, d->node, mesh_now(mesh), &card);
	if (err)
		err = trust_card_of(mesh->config.trust, d->node, TRUST_ANY_TIME, &card);
	struct neighbour *n = neighbours_get(mesh, d->node);
	struct port *port = err ? NULL : port_new(mesh, PORT_NEIGHBOUR, d->kind, d->node);
	if (!err && (!port || !n))
		err = -ENOMEM;
	if (!err) {
		port->dialled = true;
		text_copy(port->address, sizeof port->address, d->address);
		err = link_dial(&port->link, &mesh->link_config, d->address, card.link_key, d->kind, NULL, NULL);
	}
	if (!err) {
		link_set_user(port->link, port);
		return;
	}
	if (n && !n->up)
		snprintf(n->trouble, sizeof n->trouble, "%s: %s", d->address, err_str(err));
	if (port)
		port_free(port);
	dialing_failed(mesh->dialing, d->node, d->kind, mesh_ms(mesh), mesh_random());
}

void neighbours_dial(struct mesh *mesh)
{
	size_t n;
	struct dial d;
	if (!mesh_card(mesh, &n))
		return;                            /* nothing to show yet */
	while (dialing_next(mesh->dialing, mesh_ms(mesh), &d))
		dial(mesh, &d);
}
