/* node.c: events, and the life of a node: its rooms are connected as daemon/main.c connects them.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define TICK_MS 250

/* --- events: a heap, first by time and then by the order in which they were made ----------------------- */

struct event {
	uint64_t at, order;
	const struct node *node;
	unsigned boot;
	void (*fn)(void *arg, uint64_t number);
	void *arg;
	uint64_t number;
};

static bool is_before(const struct event *a, const struct event *b)
{
	return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void sim_after(uint64_t ms, const struct node *node, void (*fn)(void *arg, uint64_t number), void *arg, uint64_t number)
{
	struct event *e = malloc(sizeof *e);
	if (sim.n_events == sim.heap_room) {
		sim.heap_room = sim.heap_room ? 2 * sim.heap_room : 1024;
		sim.heap = realloc(sim.heap, sim.heap_room * sizeof *sim.heap);
	}
	if (!e || !sim.heap)
		abort();
	*e = (struct event){.at = sim.ms + ms, .order = sim.order++, .node = node, .boot = node ? node->boots : 0, .fn = fn, .arg = arg, .number = number};
	size_t i = sim.n_events++;
	for (; i && is_before(e, sim.heap[(i - 1) / 2]); i = (i - 1) / 2)
		sim.heap[i] = sim.heap[(i - 1) / 2];
	sim.heap[i] = e;
}

static struct event *take_first(void)
{
	struct event *first = sim.heap[0], *last = sim.heap[--sim.n_events];
	size_t i = 0;
	for (size_t child = 1; child < sim.n_events; child = 2 * i + 1) {
		if (child + 1 < sim.n_events && is_before(sim.heap[child + 1], sim.heap[child]))
			child++;
		if (!is_before(sim.heap[child], last))
			break;
		sim.heap[i] = sim.heap[child];
		i = child;
	}
	sim.heap[i] = last;
	return first;
}

bool sim_step(void)
{
	if (!sim.n_events)
		return false;
	struct event *e = take_first();
	sim.ms = e->at;
	sim.steps++;
	sim.speaker = e->node;
	if (!e->node || (e->node->boot && e->node->boots == e->boot))
		e->fn(e->arg, e->number);
	free(e);
	return true;
}

void sim_run_ms(uint64_t ms)
{
	uint64_t until = sim.ms + ms;
	while (sim.n_events && sim.heap[0]->at <= until)
		sim_step();
	sim.ms = until;
}

void sim_clear_events(void)
{
	for (size_t i = 0; i < sim.n_events; i++)
		free(sim.heap[i]);
	free(sim.heap);
	sim.heap = NULL;
	sim.n_events = sim.heap_room = 0;
}

/* --- whose is what --------------------------------------------------------------------------------------- */

struct node *node_of(const struct daemon *d)
{
	return ((const struct boot *)d)->node;         /* its first member */
}

struct node *node_by_key(const uint8_t key[KEY_BYTES])
{
	for (size_t i = 0; i < sim.n_nodes; i++)
		if (!memcmp(sim.nodes[i].keys.node, key, KEY_BYTES))
			return &sim.nodes[i];
	return NULL;
}

struct node *node_by_home(const char *home)
{
	for (size_t i = 0; i < sim.n_nodes; i++)
		if (!strcmp(sim.nodes[i].home, home))
			return &sim.nodes[i];
	return NULL;
}

/* --- what main.c gives the rooms --------------------------------------------------------------------------- */

static uint64_t wall_ms(const struct node *node)
{
	return sim.epoch_s * 1000 + sim.ms + (uint64_t)node->clock_ms;
}

uint64_t node_now(const struct node *node)
{
	return wall_ms(node) / 1000;
}

uint64_t daemon_now(const struct daemon *d)
{
	return node_now(node_of(d));
}

uint64_t daemon_now_ms(const struct daemon *d)
{
	return wall_ms(node_of(d));
}

uint64_t daemon_ms(const struct daemon *d)
{
	(void)d;
	return sim.ms + 1;
}

static uint64_t clock_now(void *arg)
{
	return daemon_now(arg);
}

static uint64_t clock_ms(void *arg)
{
	return daemon_ms(arg);
}

static uint64_t clock_us(void *arg)
{
	return daemon_ms(arg) * 1000;
}

static void random_bytes(void *arg, void *out, size_t n)
{
	uint8_t *at = out;
	(void)arg;
	for (size_t i = 0; i < n; i++)
		at[i] = (uint8_t)sim_random();
}

static int on_frame(void *arg, const uint8_t from[KEY_BYTES], const struct frame *frame)
{
	struct daemon *d = arg;
	if (frame->type == FRAME_SEALED && d->gateway)
		gateway_on_frame(d->gateway, from, frame);
	if (frame->type == FRAME_SEALED || !d->ring)
		return 0;
	struct node *node = node_of(d);
	witness_frame_before(node, from, frame);
	int err = ring_on_frame(d->ring, from, frame);
	witness_frame_after(node, from, frame);
	return err;
}

static void on_peer(void *arg, const uint8_t key[KEY_BYTES], bool up)
{
	struct daemon *d = arg;
	if (d->ring)
		ring_on_peer(d->ring, key, up);
	if (d->gateway && !up)
		gateway_on_down(d->gateway, key);
	d->torrent_peers_at = 0;
	residency_refresh(d);
}

static void on_records(void *arg)
{
	records_changed(arg);
}

static int on_join(void *arg, enum invitation_role role, const uint8_t node[KEY_BYTES], const uint8_t association[KEY_BYTES],
		   const uint8_t invitation[16])
{
	witness_joined(node_of(arg), invitation);
	const struct daemon *d = arg;
	if (role == INVITATION_PARTNER)        /* what it offers to a partner */
		witness_granted(people_association_of(d->keys.association), people_association_of(association), OFFER_TOKENS);
	return records_on_join(arg, role, node, association, invitation);
}

static int latency_send(void *arg, const uint8_t node[KEY_BYTES], struct buf *frame)
{
	return mesh_send(((struct daemon *)arg)->mesh, node, LINK_LATENCY, frame);
}

static int ring_engine(void *arg, const uint8_t model[KEY_BYTES], struct buf *frame)
{
	return stage_send(((struct daemon *)arg)->stage, model, frame);
}

static bool link_is_up(void *arg, const uint8_t node[KEY_BYTES])
{
	return mesh_is_up(((struct daemon *)arg)->mesh, node);
}

static void ring_used(void *arg, const struct ring_use *use, bool final)
{
	struct daemon *d = arg;
	struct ledger_use entry = {.rows = use->rows, .stage_microseconds = use->microseconds};
	memcpy(entry.session, use->session, sizeof entry.session);
	memcpy(entry.user, use->home_association, KEY_BYTES);
	memcpy(entry.provider, d->keys.association, KEY_BYTES);
	memcpy(entry.node, d->keys.node, KEY_BYTES);
	memcpy(entry.model, use->model, KEY_BYTES);
	ledger_add(d->ledger, &entry, daemon_now(d));
	if (final)
		d->advert_due = true;
	else
		ring_recheck(d->ring);
}

static bool relays(void *arg)
{
	(void)arg;
	return true;
}

/* Nobody asks another node to answer in its place here: what is sealed comes from hostile nodes only. */
static void gateway_used(void *arg, const struct gateway_use *use)
{
	(void)use;
	sim_fail(node_of(arg), "it answers in another node's place, and nobody asked it to");
}

static void ring_receipt(void *arg, const uint8_t *record, size_t n)
{
	struct daemon *d = arg;
	int err = ledger_add_receipt(d->ledger, record, n, daemon_now(d));
	/* What a ring hands over it has judged: a receipt that the ledger refuses is somebody's mistake. Clocks may differ. */
	if (err && err != ERR_EXPIRED && err != ERR_BUSY)
		sim_fail(node_of(d), "the ledger refuses a receipt that the ring kept: %s", err_str(err));
}

static void on_engine_frame(void *arg, const uint8_t model[KEY_BYTES], const struct frame *frame)
{
	struct daemon *d = arg;
	if (d->ring)
		ring_on_engine(d->ring, model, frame);
}

static void on_tick(void *arg, uint64_t number)
{
	struct node *node = arg;
	struct daemon *d = daemon_of(node);
	(void)number;
	sim_after(TICK_MS, node, on_tick, node, 0);
	trust_expire(d->trust, daemon_now(d));
	if (trust_generation(d->trust) != d->trust_generation)
		records_changed(d);
	sharing_tick(d);
	records_tick(d);
	residency_tick(d);
	ring_tick(d->ring);
	route_tick(d->route);
	gateway_tick(d->gateway);
	people_tick(node);
	if (node->hostile)
		hostile_tick(node);
	witness_sweep(node);
}

static void must(const struct node *node, int err, const char *what)
{
	if (err)
		sim_fail(node, "%s: %s", what, err_str(err));
}

/* --- starting and ending ------------------------------------------------------------------------------------- */

void node_start(struct node *node)
{
	struct boot *boot = calloc(1, sizeof *boot);
	char why[500] = "";
	if (!boot || node->boot)
		abort();
	boot->node = node;
	node->boot = boot;
	node->boots++;
	loop_init(boot);
	struct daemon *d = &boot->daemon;
	pthread_mutex_init(&d->save_lock, NULL);
	d->home = node->home;
	d->keys = node->keys;
	d->config = (struct config){.n_addresses = 1, .share_memory = node->memory, .share_weights_only = true, .share_home = node->shares_home,
				    .share_threads = 2, .share_context = SIM_CONTEXT, .share_sessions = 3, .share_keep = sim.keep_s};
	d->config.sharing.paused = node->paused;
	must(node, sharing_parse_hours("always", &d->config.sharing.hours), "hours");
	snprintf(d->config.node_name, sizeof d->config.node_name, "%s", node->name);
	strcpy(d->config.network, "sim");
	strcpy(d->config.link_listen, "::");
	strcpy(d->config.addresses[0], node->address);
	d->trust = trust_new(d->keys.association, d->keys.node);
	must(node, d->trust ? 0 : ERR_LIMIT, "trust");
	must(node, records_load(d, why, sizeof why), "records");
	must(node, ledger_open(&d->ledger, d->loop, d->home, why, sizeof why), "ledger");
	struct stage_config stage = {.loop = d->loop, .engine_path = "", .on_frame = on_engine_frame, .on_state = residency_on_stage, .arg = d};
	must(node, stage_open(&d->stage, &stage), "stage");
	struct store_config store = {.loop = d->loop, .home = d->home, .on_change = residency_on_store, .arg = d};
	must(node, store_open(&d->store, &store, why, sizeof why), "store");
	struct mesh_config mesh = {.loop = d->loop, .trust = d->trust, .keys = &d->keys, .home = d->home, .network = d->config.network,
				   .listen_host = "::", .listen_port = 7740, .now = clock_now, .on_frame = on_frame, .on_peer = on_peer,
				   .on_records = on_records, .on_join = on_join, .arg = d};
	must(node, mesh_open(&d->mesh, &mesh, why, sizeof why), "mesh");
	struct ring_config ring = {.node_secret = d->keys.node_secret, .now = clock_now, .monotonic_ms = clock_ms, .random = random_bytes,
				   .send = latency_send, .engine = ring_engine, .is_up = link_is_up, .room = views_room,
				   .permit = views_permit, .used = ring_used, .receipt = ring_receipt, .keep_s = d->config.share_keep, .arg = d};
	memcpy(ring.node, d->keys.node, KEY_BYTES);
	memcpy(ring.association, d->keys.association, KEY_BYTES);
	must(node, ring_new(&d->ring, &ring), "ring");
	struct route_config route = {.ring = d->ring, .monotonic_us = clock_us, .random = random_bytes, .models = views_models, .nodes = views_nodes,
				     .render = views_render, .text = views_text, .describe = views_describe, .find_node = views_find_node, .arg = d};
	must(node, route_new(&d->route, &route), "route");
	struct gateway_config gateway = {
		.sealed = {.link_secret = d->keys.link_secret, .network = d->config.network, .monotonic_ms = clock_ms, .random = random_bytes,
			   .send = latency_send, .is_up = link_is_up, .neighbours = views_neighbours, .link_key = views_link_key, .relays = relays, .arg = d},
		.route = d->route, .permit = views_permit_gateway, .used = gateway_used, .arg = d,
	};
	memcpy(gateway.sealed.node, d->keys.node, KEY_BYTES);
	must(node, gateway_new(&d->gateway, &gateway), "gateway");
	route_set_gateway(d->route, d->gateway);
	d->card_due = d->advert_due = true;
	sharing_tick(d);
	residency_refresh(d);
	sim_trace(node, "starts");
	sim_after(1 + sim_below(TICK_MS), node, on_tick, node, 0);
}

static void end(struct node *node)
{
	struct boot *boot = node->boot;
	struct daemon *d = &boot->daemon;
	asker_node_gone(node);
	route_set_gateway(d->route, NULL);
	gateway_free(d->gateway);
	d->gateway = NULL;
	route_free(d->route);
	d->route = NULL;
	ring_free(d->ring);
	d->ring = NULL;
	mesh_close(d->mesh, NULL, NULL);
	wire_node_finish(node);
	d->mesh = NULL;
	store_close(d->store, NULL, NULL);
	stage_close(d->stage, NULL, NULL);
	if (!node->dying)
		records_save_now(d);
	loop_drain(boot);
	ledger_close(d->ledger, NULL, NULL);
	loop_drain(boot);
	trust_free(d->trust);
	free(d->last_answer);
	free(boot);
	node->boot = NULL;
	node->boots++;
	memset(node->refused_since, 0, sizeof node->refused_since);
}

void node_stop(struct node *node)
{
	sim_trace(node, "stops");
	end(node);
	wire_node_gone(node, false);
}

void node_kill(struct node *node, bool power)
{
	sim_trace(node, power ? "loses power" : "is killed");
	sim.crashes++;
	node->dying = true;
	wire_node_gone(node, power);
	end(node);
	node->dying = false;
}
