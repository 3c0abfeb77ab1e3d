/* mesh.c: opening and closing, the tick, and what the other rooms ask.
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
#include "proto/text.h"

uint64_t mesh_now(const struct mesh *mesh)
{
	return mesh->config.now(mesh->config.arg);
}

uint64_t mesh_ms(const struct mesh *mesh)
{
	return uv_now(mesh->config.loop);
}

struct gossip_clock mesh_clock(const struct mesh *mesh)
{
	return (struct gossip_clock){.now = mesh_now(mesh), .ms = mesh_ms(mesh)};
}

uint32_t mesh_random(void)
{
	return randombytes_random();
}

const char *mesh_name(const struct mesh *mesh, const uint8_t node[KEY_BYTES], char out[2 * NAME_SIZE + 4])
{
	struct card_body card;
	uint8_t association[KEY_BYTES];
	uint64_t now = mesh_now(mesh);
	if (!trust_card_of(mesh->config.trust, node, now, &card) && !trust_association_of(mesh->config.trust, node, now, association))
		snprintf(out, 2 * NAME_SIZE + 4, "%s (%s)", card.name, trust_association_name(mesh->config.trust, association));
	else {
		const struct neighbour *n = neighbours_find(mesh, node);
		if (n && n->name[0])
			memcpy(out, n->name, sizeof n->name);
		else {
			text_hex(node, 4, out);
			strcat(out, "...");
		}
	}
	return out;
}

/* --- gossip's way out ---------------------------------------------------------------------------- */

static int gossip_send(void *arg, const uint8_t node[KEY_BYTES], struct buf *frame)
{
	return mesh_send(arg, node, LINK_BULK, frame);
}

static void gossip_random(void *arg, void *out, size_t n)
{
	randombytes_buf(out, n);
}

static void gossip_changed(void *arg)
{
	mesh_changed(arg);
}

/* Most records change nothing about who is admitted. */
static void recheck(struct mesh *mesh)
{
	uint64_t grounds = trust_grounds(mesh->config.trust);
	if (grounds == mesh->grounds)
		return;
	mesh->grounds = grounds;
	neighbours_recheck(mesh);
}

void mesh_changed(struct mesh *mesh)
{
	uint64_t generation = trust_generation(mesh->config.trust);
	if (generation == mesh->generation)
		return;
	mesh->generation = generation;
	mesh->records_changed = mesh->targets_due = true;
	recheck(mesh);
	mesh_work_soon(mesh);
}

static void on_work(uv_idle_t *idle)
{
	struct mesh *mesh = idle->data;
	const uint8_t *bad;
	bool more = gossip_work(mesh->gossip, mesh_clock(mesh), &bad);
	if (bad)
		neighbours_disconnect(mesh, bad, ERR_SIGNATURE);
	if (!more && !mesh->closing)
		uv_idle_stop(idle);
	if (mesh->records_changed && !mesh->closing) {
		mesh->records_changed = false;
		if (mesh->config.on_records)
			mesh->config.on_records(mesh->config.arg);
	}
}

void mesh_work_soon(struct mesh *mesh)
{
	if (!mesh->closing)
		uv_idle_start(&mesh->work, on_work);
}

/* The clock was set, or the machine slept. Clocks are compared when a link is made: so all are made anew. */
static void look_at_clock(struct mesh *mesh)
{
	int64_t ahead = (int64_t)mesh_now(mesh) - (int64_t)(mesh_ms(mesh) / 1000), by = ahead - mesh->clock_ahead;
	if (mesh->clock_ahead && (by > CLOCKS_DIFFER_MAX_S || by < -CLOCKS_DIFFER_MAX_S)) {
		neighbours_relink(mesh);
		mesh->agreed_ms = 0;
	}
	mesh->clock_ahead = ahead;
}

static void on_tick(uv_timer_t *timer)
{
	struct mesh *mesh = timer->data;
	uint64_t ms = mesh_ms(mesh);
	look_at_clock(mesh);
	if (ms >= mesh->expire_ms) {
		mesh->expire_ms = ms + EXPIRE_MS;
		trust_expire(mesh->config.trust, mesh_now(mesh));
		/* Expiry shows in who is admitted even where nothing was dropped. */
		recheck(mesh);
	}
	mesh_changed(mesh);
	if (mesh->targets_due || ms >= mesh->targets_ms) {
		mesh->targets_due = false;
		mesh->targets_ms = ms + 60000;
		neighbours_refresh(mesh);
	}
	gossip_tick(mesh->gossip, mesh_clock(mesh));
	join_tick(mesh);
	probe_tick(mesh);
	neighbours_dial(mesh);
}

/* --- opening and closing ------------------------------------------------------------------------- */

static void mesh_free(struct mesh *mesh)
{
	gossip_free(mesh->gossip);
	dialing_free(mesh->dialing);
	for (size_t i = 0; i < mesh->n_neighbours; i++)
		free(mesh->neighbours[i]);
	buf_release(&mesh->own_card);
	free(mesh);
}

void mesh_closed_maybe(struct mesh *mesh)
{
	if (!mesh->closing || mesh->ports || mesh->open_handles)
		return;
	void (*on_closed)(void *arg) = mesh->on_closed;
	void *arg = mesh->on_closed_arg;
	mesh_free(mesh);
	if (on_closed)
		on_closed(arg);
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct mesh *mesh = handle->data;
	mesh->open_handles--;
	mesh_closed_maybe(mesh);
}

const uint8_t *mesh_card(void *owner, size_t *n)
{
	struct mesh *mesh = owner;
	if (mesh->own_card.length) {
		*n = mesh->own_card.length;
		return mesh->own_card.data;
	}
	const struct keys *keys = mesh->config.keys;
	const struct record *r = trust_find(mesh->config.trust, RECORD_CARD, keys->association, keys->node, mesh_now(mesh));
	*n = r ? r->length : 0;
	return r ? r->bytes : NULL;
}

static uint64_t link_now(void *owner)
{
	return mesh_now(owner);
}

int mesh_open(struct mesh **out, const struct mesh_config *config, char *why, size_t why_size)
{
	*out = NULL;
	struct mesh *mesh = calloc(1, sizeof *mesh);
	if (!mesh) {
		snprintf(why, why_size, "no memory for the mesh");
		return -ENOMEM;
	}
	mesh->config = *config;
	buf_init(&mesh->own_card, RECORD_MAX);
	struct gossip_config gossip = {
		.trust = config->trust, .send = gossip_send, .random = gossip_random, .changed = gossip_changed, .arg = mesh,
	};
	memcpy(gossip.node, config->keys->node, KEY_BYTES);
	mesh->gossip = gossip_new(&gossip);
	mesh->dialing = dialing_new(config->keys->node);
	mesh->link_config = (struct link_config){
		.loop = config->loop,
		.network = config->network,
		.link_secret = config->keys->link_secret,
		.card = mesh_card,
		.now = link_now,
		.events = {.admit = neighbours_admit, .on_up = neighbours_on_up, .on_frame = neighbours_on_frame, .on_closed = neighbours_on_closed},
		.owner = mesh,
	};
	int err = -ENOMEM;
	if (!mesh->gossip || !mesh->dialing) {
		snprintf(why, why_size, "no memory for the mesh");
		goto out;
	}
	err = link_listen(&mesh->server, &mesh->link_config, config->listen_host, config->listen_port, why, why_size);
	if (err)
		goto out;
	mesh->targets_due = true;
	uv_timer_init(config->loop, &mesh->tick);
	uv_idle_init(config->loop, &mesh->work);
	mesh->tick.data = mesh->work.data = mesh;
	mesh->open_handles = 2;
	uv_timer_start(&mesh->tick, on_tick, TICK_MS, TICK_MS);
	*out = mesh;
	return 0;
out:
	mesh_free(mesh);
	return err;
}

void mesh_close(struct mesh *mesh, void (*on_closed)(void *arg), void *arg)
{
	if (mesh->closing)
		return;
	join_cancel(mesh);
	probe_cancel(mesh);
	mesh->closing = true;
	mesh->on_closed = on_closed;
	mesh->on_closed_arg = arg;
	link_server_close(mesh->server);
	for (struct port *p = mesh->ports; p; p = p->next)
		link_close(p->link, 0);
	uv_close((uv_handle_t *)&mesh->tick, on_handle_closed);
	uv_close((uv_handle_t *)&mesh->work, on_handle_closed);
}

uint16_t mesh_port(const struct mesh *mesh)
{
	return link_server_port(mesh->server);
}

/* --- what others ask ----------------------------------------------------------------------------- */

static void keep_own_card(struct mesh *mesh, const uint8_t *bytes, size_t n, bool *is_card)
{
	struct record r;
	*is_card = !record_parse(&r, bytes, n) && r.kind == RECORD_CARD && !memcmp(r.signer, mesh->config.keys->node, KEY_BYTES);
	if (!*is_card)
		return;
	buf_clear(&mesh->own_card);
	if (buf_append(&mesh->own_card, bytes, n))
		log_error("no memory to keep this node's card");
}

int mesh_publish(struct mesh *mesh, const uint8_t *record, size_t n)
{
	bool is_card;
	keep_own_card(mesh, record, n, &is_card);
	int err = gossip_publish(mesh->gossip, record, n, mesh_clock(mesh));
	/* A node that will join an association has a card before that association's roster names it. */
	return is_card && err == ERR_DENIED ? 0 : err;
}

int mesh_send(struct mesh *mesh, const uint8_t node[KEY_BYTES], enum link_kind kind, struct buf *frame)
{
	const struct neighbour *n = neighbours_find(mesh, node);
	const struct port *port = n ? n->ports[kind == LINK_BULK] : NULL;
	if (!port || mesh->closing)
		return ERR_UNREACHABLE;
	return link_send(port->link, frame);
}

bool mesh_is_up(const struct mesh *mesh, const uint8_t node[KEY_BYTES])
{
	const struct neighbour *n = neighbours_find(mesh, node);
	return n && n->up;
}

double mesh_rtt_ms(const struct mesh *mesh, const uint8_t node[KEY_BYTES])
{
	const struct neighbour *n = neighbours_find(mesh, node);
	return n && n->ports[0] ? link_rtt_ms(n->ports[0]->link) : 0;
}

bool mesh_observed(const struct mesh *mesh, char out[ADDRESS_SIZE])
{
	memcpy(out, mesh->observed, ADDRESS_SIZE);
	return out[0] != '\0';
}

struct listing {
	const struct mesh *mesh;
	struct mesh_peer *out;
	size_t n, max;
};

static bool list_peer(const struct record *r, void *arg)
{
	struct listing *l = arg;
	const struct mesh *mesh = l->mesh;
	uint64_t now = mesh_now(mesh);
	struct card_body card;
	uint8_t association[KEY_BYTES];
	const struct neighbour *n = neighbours_find(mesh, r->subject);
	/* Whose roster seems to have ended only because of a clock. */
	if (n && !n->up && neighbours_clock_differs(n) && trust_admits(mesh->config.trust, r->subject, now))
		now = TRUST_ANY_TIME;
	/* Of several cards of one node only the one of the association that answers for it. */
	if (trust_admits(mesh->config.trust, r->subject, now) || trust_association_of(mesh->config.trust, r->subject, now, association) ||
	    memcmp(association, r->association, KEY_BYTES))
		return true;
	int err = card_read(r, &card);
	if (err && err != -ENOMEM)
		return true;
	if (l->n == l->max)
		return false;
	struct mesh_peer *p = &l->out[l->n++];
	*p = (struct mesh_peer){0};
	memcpy(p->node, r->subject, KEY_BYTES);
	memcpy(p->association, association, KEY_BYTES);
	if (!err)                                /* without memory for its card the node is there all the same */
		text_copy(p->name, sizeof p->name, card.name);
	if (!err && card.n_addresses)
		text_copy(p->address, sizeof p->address, card.addresses[0]);
	if (!n)
		return true;
	p->up = n->up;
	p->since = n->since;
	p->bytes_in = n->bytes_in;
	p->bytes_out = n->bytes_out;
	p->clock_known = n->clock_known;
	p->clock_off = n->clock_off;
	if (n->address[0])
		text_copy(p->address, sizeof p->address, n->address);
	if (!n->up) {
		text_copy(p->trouble, sizeof p->trouble, n->trouble);
		p->clock_differs = neighbours_clock_differs(n);
	}
	for (int k = 0; k < 2; k++)
		if (n->ports[k]) {
			p->bytes_in += link_bytes_in(n->ports[k]->link);
			p->bytes_out += link_bytes_out(n->ports[k]->link);
		}
	p->rtt_ms = mesh_rtt_ms(mesh, r->subject);
	return true;
}

size_t mesh_peers(const struct mesh *mesh, struct mesh_peer *out, size_t max)
{
	struct listing l = {.mesh = mesh, .out = out, .max = max};
	trust_each_at(mesh->config.trust, RECORD_CARD, TRUST_ANY_TIME, list_peer, &l);
	return l.n;
}

bool mesh_agrees(const struct mesh *mesh)
{
	size_t agree = mesh->agreed_ms && mesh_ms(mesh) < mesh->agreed_ms + AGREED_MS, differ = 0;
	for (size_t i = 0; i < mesh->n_neighbours; i++) {
		agree += mesh->neighbours[i]->up;
		differ += !mesh->neighbours[i]->up && neighbours_clock_differs(mesh->neighbours[i]);
	}
	return agree > differ;
}
