/* wire.c: what link.h promises, between simulated nodes, and a network that breaks it in every way it may be broken.
 *
 * A cable is one connection. Its two directions keep their order; what is under way when it dies is lost. Between two nodes that are
 * blocked nothing arrives: it is sent again and again, as TCP does, until the way is free or one side has heard nothing
 * for 15 s and gives up; the other side may find out later. Whose process is killed, his system resets his connections; whose power
 * fails, from him nothing is heard.
 *
 * Of the handshake only what Noise proves is kept: the dialler must know the other's link key, the invitation's PSK must be the same on
 * both sides, and admit() is asked between messages 1 and 2. Message 1 can be heard and sent again by anybody, and it is.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"
#include "tests/sim/sim.h"

#define HANDSHAKE_MS 5000
#define SILENCE_MS 15000
#define LATE_MS 3000
#define REPLAY_PERMILLE 200

enum parcel_kind { MESSAGE_1, MESSAGE_2, HELLO, FRAME, BYE, RESET, PROBE };
struct parcel {
	struct parcel *next;
	enum parcel_kind kind;
	int why;
	struct buf bytes;                      /* a frame, or a card */
	uint64_t time;
};

enum link_state { DIALLING, ACCEPTING, UP, CLOSING };
struct link {
	struct cable *cable;
	int side;                              /* 0 dialled */
	enum link_state state;
	struct link_config config;
	struct link_peer peer;
	struct buf card;                       /* the other side's, for peer */
	void *user;
	char address[ADDRESS_SIZE], detail[160];
	int why;
	uint64_t bytes_in, bytes_out;
};

struct cable {
	struct cable *next, **at;              /* of sim.cables */
	unsigned refs;                         /* events under way, ends that live */
	bool dead;
	enum link_kind kind;
	struct node *nodes[2];
	struct link *ends[2];
	struct parcel *first[2], **last[2];    /* from that side */
	uint64_t free_at[2], delay_ms;
	uint8_t psk[2][CHANNEL_KEY], remote_key[KEY_BYTES], own_key[KEY_BYTES], invitation[16];
	bool invited, keyed;                   /* keyed: the dialler says whose link key it expects */
};

struct link_server {
	struct node *node;
	struct link_config config;
};

static struct link_server *servers[SIM_NODES_MAX];
static bool silent[SIM_NODES_MAX];             /* no power: not even a reset comes from there */
static uint64_t blocked_since[SIM_NODES_MAX][SIM_NODES_MAX];

static void unref(struct cable *c)
{
	if (--c->refs)
		return;
	*c->at = c->next;
	if (c->next)
		c->next->at = c->at;
	for (int side = 0; side < 2; side++)
		while (c->first[side]) {
			struct parcel *p = c->first[side];
			c->first[side] = p->next;
			buf_release(&p->bytes);
			free(p);
		}
	free(c);
}

static void later(struct cable *c, uint64_t ms, void (*fn)(void *arg, uint64_t number), uint64_t number)
{
	c->refs++;
	sim_after(ms, NULL, fn, c, number);
}

static struct link *link_new(struct cable *c, int side, const struct link_config *config, enum link_state state)
{
	struct link *link = calloc(1, sizeof *link);
	if (!link)
		abort();
	link->cable = c;
	link->side = side;
	link->config = *config;
	link->state = state;
	buf_init(&link->card, RECORD_MAX);
	c->ends[side] = link;
	c->refs++;
	return link;
}

/* Its owner is told, and it is gone. */
static void finish(struct link *link, int why, const char *detail)
{
	struct cable *c = link->cable;
	sim.speaker = c->nodes[link->side];
	c->ends[link->side] = NULL;
	link->state = CLOSING;
	link->config.events.on_closed(link->config.owner, link, why, detail);
	buf_release(&link->card);
	free(link);
	unref(c);
}

/* --- what travels ------------------------------------------------------------------------------------------ */

static void arrive(void *arg, uint64_t from);

static struct parcel *put(struct cable *c, int from, enum parcel_kind kind)
{
	struct parcel *p = calloc(1, sizeof *p);
	if (!p)
		abort();
	p->kind = kind;
	buf_init(&p->bytes, FRAME_MAX);
	if (!c->last[from] || !c->first[from])
		c->last[from] = &c->first[from];
	*c->last[from] = p;
	c->last[from] = &p->next;
	uint64_t at = sim.ms + c->delay_ms + sim_below(1 + c->delay_ms / 4);
	if (!sim.calm && sim_chance(sim.late_permille))
		at += 1 + sim_below(LATE_MS);
	if (at < c->free_at[from])
		at = c->free_at[from];
	c->free_at[from] = at;
	later(c, at - sim.ms, arrive, (uint64_t)from);
	return p;
}

/* One end finds out that the connection is gone; the other does, too, when the way is free. */
static void end_dies(void *arg, uint64_t number)
{
	struct cable *c = arg;
	int side = (int)(number & 1);
	bool timeout = number & 2;
	if (c->ends[side])
		finish(c->ends[side], timeout ? UV_ETIMEDOUT : UV_ECONNRESET, timeout ? "nothing was heard for 15 s" : "connection lost");
	unref(c);
}

static void die(struct cable *c)
{
	if (c->dead)
		return;
	c->dead = true;
	/* One end knows soon; the other as soon, or when it has heard nothing for long enough. */
	int first = (int)sim_below(2);
	later(c, sim_below(50), end_dies, (uint64_t)first);
	if (sim_chance(500))
		later(c, sim_below(300), end_dies, (uint64_t)!first);
	else
		later(c, SILENCE_MS + sim_below(1000), end_dies, (uint64_t)!first | 2);
}

static void gone_silent(void *arg, uint64_t side)
{
	struct cable *c = arg;
	size_t own = c->nodes[side]->index, other = c->nodes[!side]->index;
	bool in = sim.blocked[other][own] && sim.ms - blocked_since[other][own] >= SILENCE_MS;
	bool out = sim.blocked[own][other] && sim.ms - blocked_since[own][other] >= SILENCE_MS;
	if ((in || out) && c->ends[side] && !c->dead) {
		put(c, (int)side, RESET);
		finish(c->ends[side], UV_ETIMEDOUT, "nothing was heard for 15 s");
	}
	unref(c);
}

static void handshake_late(void *arg, uint64_t side)
{
	struct cable *c = arg;
	struct link *link = c->ends[side];
	if (link && (link->state == DIALLING || link->state == ACCEPTING)) {
		put(c, (int)side, RESET);
		finish(link, UV_ETIMEDOUT, "the handshake was not finished in time");
	}
	unref(c);
}

/* --- the handshake ------------------------------------------------------------------------------------------ */

static void fill_peer(struct link *link, const struct parcel *p)
{
	struct cable *c = link->cable;
	buf_clear(&link->card);
	if (buf_append(&link->card, p->bytes.data, p->bytes.length))
		abort();
	link->peer = (struct link_peer){.card = link->card.data, .card_length = link->card.length, .time = p->time, .kind = c->kind, .invited = c->invited};
	memcpy(link->peer.link_key, link->side ? c->own_key : c->remote_key, KEY_BYTES);
	memcpy(link->peer.invitation, c->invitation, sizeof link->peer.invitation);
}

static int put_card(struct link *link, enum parcel_kind kind)
{
	size_t n = 0;
	const uint8_t *card = link->config.card(link->config.owner, &n);
	if (!card)
		return ERR_UNKNOWN;
	struct parcel *p = put(link->cable, link->side, kind);
	p->time = link->config.now(link->config.owner);
	return buf_append(&p->bytes, card, n);
}

/* Somebody who heard message 1 sends it again. He has no key, so nothing follows. */
struct heard {
	struct node *to;
	struct link_peer peer;
	struct buf card;
};

static void replay_message_1(void *arg, uint64_t number)
{
	struct heard *h = arg;
	uint8_t psk[CHANNEL_KEY];
	(void)number;
	struct link_server *server = servers[h->to->index];
	if (server)
		server->config.events.admit(server->config.owner, &h->peer, psk);
	buf_release(&h->card);
	free(h);
}

static void hear(const struct link *link)
{
	struct heard *h = calloc(1, sizeof *h);
	if (!h)
		abort();
	h->to = link->cable->nodes[1];
	h->peer = link->peer;
	buf_init(&h->card, RECORD_MAX);
	if (buf_append(&h->card, link->card.data, link->card.length))
		abort();
	h->peer.card = h->card.data;
	sim_after(sim_below(20000), NULL, replay_message_1, h, 0);
	sim.replayed_frames++;
}

static void on_message_1(struct cable *c, const struct parcel *p)
{
	struct node *to = c->nodes[1];
	struct link_server *server = servers[to->index];
	if (!server) {
		if (!silent[to->index])
			put(c, 1, RESET);
		return;
	}
	struct link *link = link_new(c, 1, &server->config, ACCEPTING);
	snprintf(link->address, sizeof link->address, "10.1.%zu.%zu:%u", c->nodes[0]->index / 250, c->nodes[0]->index % 250 + 1,
		 (unsigned)(30000 + sim_below(30000)));
	fill_peer(link, p);
	later(c, HANDSHAKE_MS, handshake_late, 1);
	int err = memcmp(c->remote_key, to->keys.link, KEY_BYTES) ? ERR_CRYPTO : 0;
	if (!err)
		err = server->config.events.admit(server->config.owner, &link->peer, c->psk[1]);
	if (!sim.calm && !err && sim_chance(c->invited ? 500 : REPLAY_PERMILLE / 20))
		hear(link);
	if (!err)
		err = put_card(link, MESSAGE_2);
	if (err) {
		put(c, 1, RESET);
		finish(link, err, err_str(err));
	}
}

static void on_message_2(struct link *link, const struct parcel *p)
{
	struct cable *c = link->cable;
	if (link->state != DIALLING)
		return;
	if (memcmp(c->psk[0], c->psk[1], CHANNEL_KEY)) {
		put(c, 0, RESET);
		finish(link, ERR_CRYPTO, "message 2 does not verify");
		return;
	}
	fill_peer(link, p);
	link->state = UP;
	put(c, 0, HELLO);
	link->config.events.on_up(link->config.owner, link, &link->peer);
}

/* --- arrivals ------------------------------------------------------------------------------------------------ */

static void on_bytes(struct link *link, const struct parcel *p)
{
	struct node *node = link->cable->nodes[link->side], *from = link->cable->nodes[!link->side];
	struct frame frame;
	size_t used;
	link->bytes_in += p->bytes.length;
	if (link->state != UP)
		return;
	int err = frame_decode(p->bytes.data, p->bytes.length, &frame, &used);
	if (!err && frame.type < 16)
		return;                                /* the link's own: nothing that matters here */
	if (!err && frame.type >= FRAME_ENGINE_HELLO && frame.type < 128)
		err = ERR_MALFORMED;
	if (err) {
		link_close(link, err);
		return;
	}
	if (frame.type >= 128 && frame.type != FRAME_REACH && frame.type != FRAME_REACHED)
		return;
	if (node->hostile)
		hostile_saw(node, from, link->cable->kind, p->bytes.data, p->bytes.length);
	if (sim_tracing_frames)
		sim_trace(node, "frame %d of %zu bytes from %s", frame.type, p->bytes.length, from->name);
	link->config.events.on_frame(link->config.owner, link, &frame);
}

static void arrive(void *arg, uint64_t from)
{
	struct cable *c = arg;
	struct parcel *p = c->first[from];
	struct node *to = c->nodes[!from];
	if (p && !c->dead && sim.blocked[c->nodes[from]->index][to->index]) {
		sim_after(300 + sim_below(1200), NULL, arrive, c, from);     /* keeps the reference */
		return;
	}
	sim.speaker = to;
	if (p) {
		c->first[from] = p->next;
		struct link *link = c->ends[!from];
		if (c->dead || (!link && p->kind != MESSAGE_1 && p->kind != PROBE))
			;                              /* lost */
		else if (p->kind == PROBE)
			put(c, 1, servers[to->index] && (!c->keyed || !memcmp(c->remote_key, to->keys.link, KEY_BYTES)) ? BYE : RESET);
		else if (p->kind == MESSAGE_1)
			on_message_1(c, p);
		else if (p->kind == MESSAGE_2)
			on_message_2(link, p);
		else if (p->kind == HELLO && link->state == ACCEPTING) {
			link->state = UP;
			link->config.events.on_up(link->config.owner, link, &link->peer);
		} else if (p->kind == FRAME)
			on_bytes(link, p);
		else if (p->kind == BYE)
			finish(link, p->why, "the other side closed the link");
		else if (p->kind == RESET)
			finish(link, UV_ECONNRESET, "connection lost");
		buf_release(&p->bytes);
		free(p);
	}
	unref(c);
}

/* --- link.h ---------------------------------------------------------------------------------------------------- */

static struct node *node_of_config(const struct link_config *config)
{
	return ((struct boot *)((char *)config->loop - offsetof(struct boot, loop)))->node;
}

int link_listen(struct link_server **out, const struct link_config *config, const char *host, uint16_t port, char *why, size_t why_size)
{
	struct link_server *server = calloc(1, sizeof *server);
	(void)host, (void)port, (void)why, (void)why_size;
	if (!server)
		abort();
	server->node = node_of_config(config);
	server->config = *config;
	servers[server->node->index] = server;
	silent[server->node->index] = false;
	*out = server;
	return 0;
}

uint16_t link_server_port(const struct link_server *server)
{
	(void)server;
	return 7740;
}

void link_server_close(struct link_server *server)
{
	/* Who is still shaking hands is hung up on. */
	for (struct cable *c = sim.cables; c; c = c->next)
		if (c->nodes[1] == server->node && c->ends[1] && c->ends[1]->state == ACCEPTING && !server->node->dying)
			put(c, 1, RESET);
	servers[server->node->index] = NULL;
	free(server);
}

static struct node *node_at(const char *address)
{
	for (size_t i = 0; i < sim.n_nodes; i++)
		if (!strcmp(sim.nodes[i].address, address))
			return &sim.nodes[i];
	return NULL;
}

static struct link *dial(const struct link_config *config, const char *address, const uint8_t *remote_link_key, enum link_kind kind)
{
	struct node *node = node_of_config(config), *to = node_at(address);
	struct cable *c = to ? calloc(1, sizeof *c) : NULL;
	if (!c)
		return NULL;
	c->next = sim.cables;
	c->at = &sim.cables;
	if (c->next)
		c->next->at = &c->next;
	sim.cables = c;
	c->kind = kind;
	c->nodes[0] = node;
	c->nodes[1] = to;
	size_t low = node->index < to->index ? node->index : to->index, high = node->index ^ to->index ^ low;
	c->delay_ms = 1 + sim_mix(sim.seed ^ (low << 20 | high)) % sim.base_delay_ms;
	c->keyed = remote_link_key != NULL;
	if (c->keyed)
		memcpy(c->remote_key, remote_link_key, KEY_BYTES);
	memcpy(c->own_key, node->keys.link, KEY_BYTES);
	struct link *link = link_new(c, 0, config, DIALLING);
	text_copy(link->address, sizeof link->address, address);
	later(c, HANDSHAKE_MS, handshake_late, 0);
	return link;
}

int link_dial(struct link **out, const struct link_config *config, const char *address, const uint8_t remote_link_key[KEY_BYTES],
	      enum link_kind kind, const uint8_t *psk, const uint8_t *invitation)
{
	struct link *link = dial(config, address, remote_link_key, kind);
	if (!link)
		return UV_EHOSTUNREACH;
	if (psk)
		memcpy(link->cable->psk[0], psk, CHANNEL_KEY);
	link->cable->invited = invitation != NULL;
	if (invitation)
		memcpy(link->cable->invitation, invitation, sizeof link->cable->invitation);
	if (put_card(link, MESSAGE_1))
		abort();
	*out = link;
	return 0;
}

int link_probe(struct link **out, const struct link_config *config, const char *address, const uint8_t *remote_link_key)
{
	*out = dial(config, address, remote_link_key, LINK_BULK);
	if (!*out)
		return UV_EHOSTUNREACH;
	put((*out)->cable, 0, PROBE);
	return 0;
}

int link_send(struct link *link, struct buf *frame)
{
	struct cable *c = link->cable;
	struct node *node = c->nodes[link->side];
	if (link->state != UP)
		return ERR_UNREACHABLE;
	if (!sim.calm && sim_chance(sim.full_permille))
		return -EAGAIN;
	sim.frames++;
	if (node->dying) {
		buf_release(frame);
		return 0;
	}
	link->bytes_out += frame->length;
	struct parcel *p = put(c, link->side, FRAME);
	buf_move(&p->bytes, frame);
	if (!sim.calm && sim_chance(sim.die_permille))
		die(c);
	return 0;
}

static void closed(void *arg, uint64_t side)
{
	struct cable *c = arg;
	struct link *link = c->ends[side];
	if (link)
		finish(link, link->why, link->detail);
	unref(c);
}

void link_close(struct link *link, int why)
{
	struct cable *c = link->cable;
	if (link->state == CLOSING)
		return;
	if (!c->nodes[link->side]->dying)
		put(c, link->side, link->state == UP ? BYE : RESET)->why = why;
	link->state = CLOSING;
	link->why = why;
	text_copy(link->detail, sizeof link->detail, why ? err_str(why) : "closed here");
	later(c, 0, closed, (uint64_t)link->side);
}

void link_set_user(struct link *link, void *user)
{
	link->user = user;
}

void *link_user(const struct link *link)
{
	return link->user;
}

enum link_kind link_kind(const struct link *link)
{
	return link->cable->kind;
}

bool link_dialled(const struct link *link)
{
	return !link->side;
}

double link_rtt_ms(const struct link *link)
{
	return 2.0 * (double)link->cable->delay_ms;
}

const char *link_address(const struct link *link)
{
	return link->address;
}

uint64_t link_bytes_in(const struct link *link)
{
	return link->bytes_in;
}

uint64_t link_bytes_out(const struct link *link)
{
	return link->bytes_out;
}

/* --- what the story does to it -------------------------------------------------------------------------------- */

void wire_block(size_t from, size_t to, bool blocked)
{
	if (sim.blocked[from][to] == blocked)
		return;
	sim.blocked[from][to] = blocked;
	blocked_since[from][to] = sim.ms;
	if (!blocked)
		return;
	for (struct cable *c = sim.cables; c; c = c->next) {
		size_t a = c->nodes[0]->index, b = c->nodes[1]->index;
		if (!((a == from && b == to) || (a == to && b == from)))
			continue;
		uint64_t receiver = a == from;
		later(c, SILENCE_MS + sim_below(1000), gone_silent, receiver);
		later(c, SILENCE_MS + 1000 + sim_below(5000), gone_silent, !receiver);
	}
}

void wire_heal(void)
{
	memset(sim.blocked, 0, sizeof sim.blocked);
}

void wire_break(unsigned permille)
{
	for (struct cable *c = sim.cables; c; c = c->next)
		if (sim_chance(permille))
			die(c);
}

void wire_node_gone(struct node *node, bool power)
{
	silent[node->index] = power;
	for (struct cable *c = sim.cables; c; c = c->next)
		for (int side = 0; side < 2; side++) {
			if (c->nodes[side] != node || c->dead)
				continue;
			if (power) {
				c->dead = true;
				later(c, SILENCE_MS + sim_below(1000), end_dies, (uint64_t)!side | 2);
			} else if (node->dying)
				put(c, side, RESET);
		}
}

void wire_node_finish(struct node *node)
{
	for (bool again = true; again;) {
		again = false;
		for (struct cable *c = sim.cables, *next; c; c = next) {
			c->refs++;
			for (int side = 0; side < 2; side++)
				if (c->nodes[side] == node && c->ends[side]) {
					struct link *link = c->ends[side];
					finish(link, link->why, "the node stopped");
					again = true;
				}
			next = c->next;
			unref(c);
		}
	}
}

void wire_each_up(struct node *node, enum link_kind kind, void (*fn)(struct link *link, struct node *peer, void *arg), void *arg)
{
	for (struct cable *c = sim.cables; c; c = c->next)
		for (int side = 0; side < 2; side++)
			if (c->nodes[side] == node && c->kind == kind && !c->invited && c->ends[side] && c->ends[side]->state == UP)
				fn(c->ends[side], c->nodes[!side], arg);
}

void wire_release(void)
{
	while (sim.cables) {
		sim.cables->refs = 1;
		unref(sim.cables);
	}
	memset(silent, 0, sizeof silent);
	memset(blocked_since, 0, sizeof blocked_since);
}
