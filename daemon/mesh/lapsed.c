/* lapsed.c: nodes that would be let in if nothing ended by time. One of the two was off for long, or a steward's key was renewed after its end: what
 * was signed since is what it lacks, and no neighbour is left that could bring it.
 *
 * So each tells the other on a bulk link what its association said last (gossip_last_word()), the side that has nothing against the other as the
 * answer to a WANT that names nothing. Whatever is believed of it is taken, the link ends, and the next one is as any other.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/mesh/mesh_internal.h"
#include "proto/log.h"

#define ANSWER_MS 5000
#define WORDS_MAX 4                        /* records of a last word; of more nothing is taken */

void lapsed_say_last_word(struct mesh *mesh, struct link *link, const uint8_t association[KEY_BYTES])
{
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	if (!gossip_last_word(&frame, mesh->config.trust, association, mesh_now(mesh)))
		link_send(link, &frame);
	buf_release(&frame);
}

static void ask(struct link *link)
{
	static const uint8_t empty_map[] = {0x80};
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	if (!frame_encode(&frame, FRAME_WANT, empty_map, sizeof empty_map, NULL, 0))
		link_send(link, &frame);
	buf_release(&frame);
}

void lapsed_up(struct port *port, const uint8_t association[KEY_BYTES])
{
	struct mesh *mesh = port->mesh;
	port->role = PORT_LAPSED;
	port->up = true;
	port->deadline_ms = mesh_ms(mesh) + ANSWER_MS;
	lapsed_say_last_word(mesh, port->link, association);
	ask(port->link);
}

void lapsed_frame(struct port *port, const struct frame *frame)
{
	struct mesh *mesh = port->mesh;
	const uint8_t *at = frame->tail, *record;
	size_t left = frame->tail_length, n, words = 0;
	bool gained = false;
	int err;
	if (frame->type != FRAME_RECORDS || !left)
		return;                            /* to the other side this is a link like any other */
	while (gossip_next_record(&at, &left, &record, &n, &err) && words++ < WORDS_MAX)
		gained |= gossip_accept(mesh->gossip, record, n, port->node, mesh_clock(mesh)) == 1;
	if (gained) {
		char who[2 * NAME_SIZE + 4];
		log_notice("%s has told what was signed while this node could not hear it", mesh_name(mesh, port->node, who));
		dialing_hurry(mesh->dialing, port->node, mesh_ms(mesh));
	}
	link_close(port->link, err);
}

void lapsed_closed(struct port *port)
{
	struct mesh *mesh = port->mesh;
	if (port->dialled)
		dialing_failed(mesh->dialing, port->node, port->kind, mesh_ms(mesh), mesh_random());
}
