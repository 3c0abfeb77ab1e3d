/* probe.c: REACH on both sides: asking a neighbour to dial us, and dialling for a neighbour that asks.
 *
 * A probe is a link that ends where the other side has proven its key, before anything is said on it, so that it replaces no
 * link that is in use. What is dialled stands on the asker's card; whoever could write an address there to make us dial a stranger
 * can do so without asking, because cards are dialled anyway.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/mesh/mesh_internal.h"
#include "proto/err.h"
#include "proto/log.h"
#include "proto/text.h"

struct probing {                           /* for a neighbour */
	struct probing *next;
	struct mesh *mesh;
	uint8_t node[KEY_BYTES];
	size_t waiting;                    /* links that are still trying */
	struct reach_answer answer;
};

struct asking {                            /* of a neighbour */
	struct asking *next;
	uint8_t node[KEY_BYTES];
	uint32_t request;
	uint64_t deadline_ms;
	mesh_reach_done *done;
	void *arg;
};

static void send_bulk(struct mesh *mesh, const uint8_t node[KEY_BYTES], struct buf *frame, int err)
{
	if (!err)
		err = mesh_send(mesh, node, LINK_BULK, frame);
	if (err)
		log_debug("an answer about reach is lost: %s", err_str(err));
	buf_release(frame);
}

static void answer(struct mesh *mesh, const uint8_t node[KEY_BYTES], const struct reach_answer *a)
{
	struct buf frame;
	buf_init(&frame, FRAME_HEADER + FRAME_HEAD_MAX);
	send_bulk(mesh, node, &frame, reached_encode(&frame, a));
}

static void probing_done(struct probing *p)
{
	struct mesh *mesh = p->mesh;
	for (struct probing **at = &mesh->probings; *at; at = &(*at)->next)
		if (*at == p) {
			*at = p->next;
			break;
		}
	if (!mesh->closing)
		answer(mesh, p->node, &p->answer);
	free(p);
}

void probe_closed(struct port *port, int why, const char *detail)
{
	struct probing *p = port->probing;
	struct reach_result *r = &p->answer.results[port->probe];
	r->code = why > 0 ? -why : why;
	if (why)
		text_copy(r->detail, sizeof r->detail, detail);
	if (!--p->waiting)
		probing_done(p);
}

static int probe(struct probing *p, size_t i, const struct card_body *card)
{
	struct mesh *mesh = p->mesh;
	struct reach_result *r = &p->answer.results[i];
	struct port *port = port_new(mesh, PORT_PROBE, LINK_BULK, p->node);
	if (!port)
		return -ENOMEM;
	port->probing = p;
	port->probe = i;
	int err = link_probe(&port->link, &mesh->link_config, r->address, r->weights ? NULL : card->link_key);
	if (err)
		port_free(port);
	else
		link_set_user(port->link, port);
	return err;
}

/* Who asks too often, or while too many are answered, gets a reason instead. */
static int may_ask(struct mesh *mesh, struct neighbour *n)
{
	size_t running = 0;
	for (const struct probing *p = mesh->probings; p; p = p->next) {
		running++;
		if (!memcmp(p->node, n->node, KEY_BYTES))
			return ERR_BUSY;
	}
	if (running >= REACH_PROBES_MAX || (n->probed_ms && mesh_ms(mesh) < n->probed_ms + REACH_EVERY_MS))
		return ERR_BUSY;
	n->probed_ms = mesh_ms(mesh);
	return 0;
}

static int asked(struct port *port, const struct frame *frame)
{
	struct mesh *mesh = port->mesh;
	struct neighbour *n = neighbours_find(mesh, port->node);
	struct card_body card;
	uint32_t request;
	int err = reach_decode(frame, &request);
	if (err || !n)
		return err;
	struct probing *p = calloc(1, sizeof *p);
	if (!p)
		return 0;
	p->mesh = mesh;
	p->answer.request = request;
	memcpy(p->node, port->node, KEY_BYTES);
	err = may_ask(mesh, n);
	if (!err)
		err = trust_card_of(mesh->config.trust, port->node, mesh_now(mesh), &card);
	if (err) {
		p->answer.code = err;
		answer(mesh, p->node, &p->answer);
		free(p);
		return 0;
	}
	p->next = mesh->probings;
	mesh->probings = p;
	p->answer.n_results = reach_targets(&card, p->answer.results);
	p->waiting = 1;                    /* until all are on their way */
	for (size_t i = 0; i < p->answer.n_results; i++) {
		err = probe(p, i, &card);
		if (!err)
			p->waiting++;
		else {
			p->answer.results[i].code = err;
			text_copy(p->answer.results[i].detail, REACH_DETAIL, err_str(err));
		}
	}
	if (!--p->waiting)
		probing_done(p);
	return 0;
}

/* --- asking ---------------------------------------------------------------------------------------- */

static void asking_done(struct mesh *mesh, struct asking **at, int err, const struct reach_answer *a)
{
	struct asking *one = *at;
	*at = one->next;
	one->done(one->arg, one->node, err, a);
	free(one);
}

static int answered(struct port *port, const struct frame *frame)
{
	struct reach_answer a;
	int err = reached_decode(frame, &a);
	if (err)
		return err;
	for (struct asking **at = &port->mesh->askings; *at; at = &(*at)->next)
		if ((*at)->request == a.request && !memcmp((*at)->node, port->node, KEY_BYTES)) {
			asking_done(port->mesh, at, a.code, &a);
			break;             /* others, or none: late, or made up */
		}
	return 0;
}

int mesh_reach(struct mesh *mesh, const uint8_t node[KEY_BYTES], mesh_reach_done *done, void *arg)
{
	struct buf frame;
	struct asking *one = calloc(1, sizeof *one);
	if (!one)
		return -ENOMEM;
	memcpy(one->node, node, KEY_BYTES);
	one->request = mesh_random();
	one->deadline_ms = mesh_ms(mesh) + REACH_ANSWER_MS;
	one->done = done;
	one->arg = arg;
	buf_init(&frame, 256);
	int err = reach_encode(&frame, one->request);
	if (!err)
		err = mesh_send(mesh, node, LINK_BULK, &frame);
	buf_release(&frame);
	if (err) {
		free(one);
		return err;
	}
	one->next = mesh->askings;
	mesh->askings = one;
	return 0;
}

int probe_frame(struct port *port, const struct frame *frame)
{
	if (port->kind != LINK_BULK)
		return ERR_MALFORMED;
	return frame->type == FRAME_REACH ? asked(port, frame) : answered(port, frame);
}

void probe_tick(struct mesh *mesh)
{
	for (struct asking **at = &mesh->askings; *at;)
		if (mesh_ms(mesh) >= (*at)->deadline_ms)
			asking_done(mesh, at, UV_ETIMEDOUT, NULL);
		else
			at = &(*at)->next;
}

void probe_cancel(struct mesh *mesh)
{
	while (mesh->askings)
		asking_done(mesh, &mesh->askings, ERR_CANCELLED, NULL);
}
