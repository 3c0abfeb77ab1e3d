/* What this node holds and runs: placement decides, store fetches, stage loads, the advert says so.
 *
 * Runs when manifests, approvals or adverts changed, a little later (others change at the same time), and each model goes through
 *   known -> approved -> placed -> fetched -> resident.
 * Only this association's approvals and this node's budget decide (DESIGN D8): no peer makes a node download or evict.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "proto/log.h"
#include "proto/text.h"

#define SETTLE_MS 300            /* after a change, before placement runs */
#define TORRENT_PEERS_MS 1000
#define RETRY_LEAST_MS 1000
#define ROOM_AGAIN_MS 500
#define RETRY_MOST_MS 60000
#define OVERHEAD_STEP 60         /* permille: an engine that did not fit makes its model count for so much more */
#define OVERHEAD_MOST 2000

struct residency *residency_find(struct daemon *d, const uint8_t model[KEY_BYTES])
{
	for (size_t i = 0; i < d->n_models; i++)
		if (!memcmp(d->models[i].model, model, KEY_BYTES))
			return &d->models[i];
	return NULL;
}

uint64_t residency_used(const struct daemon *d)
{
	uint64_t used = 0;
	for (size_t i = 0; i < d->n_models; i++)
		used += d->models[i].cost;
	return used;
}

/* Of the device's memory. An integrated one has none of its own, so its owner says how much of the machine's it may take. */
uint64_t residency_device_budget(const struct daemon *d)
{
	const struct engine_device *device = &stage_device(d->stage)->device;
	if (device->kind == DEVICE_NONE)
		return 0;
	if (d->config.share_gpu_memory)
		return d->config.share_gpu_memory < device->bytes ? d->config.share_gpu_memory : device->bytes;
	return device->kind == DEVICE_CARD ? device->free_bytes / 10 * 9 : 0;
}

uint64_t residency_budget(const struct daemon *d)
{
	return d->config.share_memory + residency_device_budget(d);
}

uint64_t residency_device_used(const struct daemon *d)
{
	uint64_t used = 0;
	struct stage_info info;
	for (size_t i = 0; i < d->n_models; i++)
		if (!stage_info(d->stage, d->models[i].model, &info))
			used += info.device_bytes;
	return used;
}

/* What is left for one more engine, in the machine's memory and on the device. */
static void grant(const struct daemon *d, const struct residency *r, struct stage_load *load)
{
	uint64_t device = residency_device_budget(d), elsewhere = 0, on_device = 0;
	for (size_t i = 0; i < d->n_models; i++) {
		struct stage_info info;
		const struct residency *other = &d->models[i];
		uint64_t there = other != r && !stage_info(d->stage, other->model, &info) ? info.device_bytes : 0;
		on_device += there;
		if (other != r && other->cost > there)
			elsewhere += other->cost - there;
	}
	load->device_max = device > on_device ? device - on_device : 0;
	if (!d->config.share_weights_only)     /* 1: none at all, where 0 would be no limit */
		load->memory_max = d->config.share_memory > elsewhere ? d->config.share_memory - elsewhere : 1;
}

/* What a device has left is known when nobody is about to take it. */
static bool somebody_loads(const struct daemon *d, const struct residency *r)
{
	for (size_t i = 0; i < d->n_models; i++)
		if (&d->models[i] != r && (d->models[i].state == STAGE_STARTING || d->models[i].state == STAGE_LOADING))
			return true;
	return false;
}

void residency_on_device(void *arg)
{
	struct daemon *d = arg;
	const struct stage_device *device = stage_device(d->stage);
	char bytes[32];
	text_bytes(residency_device_budget(d), bytes, sizeof bytes);
	if (device->device.kind)
		log_notice("layers go to %s, up to %s", device->device.name, bytes);
	else
		log_warning("no graphics card is used: %s", device->why);
	d->advert_due = true;
	residency_refresh(d);
}

uint32_t residency_context(const struct daemon *d, const struct manifest_body *manifest)
{
	return manifest->context < d->config.share_context ? manifest->context : d->config.share_context;
}

static struct placement_model placement_model_of(const struct daemon *d, const struct manifest_body *manifest)
{
	return (struct placement_model){
		.manifest = manifest,
		.weights_only = d->config.share_weights_only,
		.context = residency_context(d, manifest),
		.sessions = d->config.share_sessions,
	};
}

/* --- step 1: models that records tell of ---------------------------------------------------------- */

static bool forget_one(struct daemon *d)
{
	for (size_t i = 0; i < d->n_models; i++) {
		struct residency *r = &d->models[i];
		if (r->approved || r->n_placed || r->state != STAGE_NONE || store_remove(d->store, r->model))
			continue;
		*r = d->models[--d->n_models];
		return true;
	}
	log_warning("this node runs %d models: another one is not looked at", DAEMON_MODELS_MAX);
	return false;
}

static bool on_manifest(const struct record *record, void *arg)
{
	struct daemon *d = arg;
	if (record_is_current(record, daemon_now(d)) || residency_find(d, record->subject))
		return true;
	/* What nobody here approved makes room for what somebody did: a neighbour cannot fill the table with manifests. */
	bool approved = trust_approved(d->trust, d->keys.association, record->subject, daemon_now(d));
	if (d->n_models == DAEMON_MODELS_MAX && (!approved || !forget_one(d)))
		return true;
	struct manifest_body body;
	if (manifest_read(record, &body))
		return true;
	int err = store_add(d->store, record->subject, &body, NULL);
	if (err)
		log_warning("model %s cannot be kept: %s", body.name, err_str(err));
	else {
		struct residency *r = &d->models[d->n_models++];
		memset(r, 0, sizeof *r);
		memcpy(r->model, record->subject, KEY_BYTES);
		if (quarantine_read(d->home, r->model, r->why, sizeof r->why))
			stage_quarantine(d->stage, r->model, r->why);
	}
	manifest_free(&body);
	return true;
}

/* --- step 2: which part of each is ours ------------------------------------------------------------ */

struct gathering {
	struct daemon *daemon;
	const struct placement_model *model;
	const uint8_t *id;
	size_t n, self;
	struct placement_node *nodes;    /* PLACEMENT_NODES_MAX */
};

/* What a node's other models take of its budget, as far as their manifests are known here. */
static uint64_t cost_of_others(const struct gathering *g, const struct advert_body *advert)
{
	uint64_t cost = 0;
	for (size_t i = 0; i < advert->n_models; i++) {
		const struct advert_model *m = &advert->models[i];
		const struct manifest_body *manifest = store_manifest(g->daemon->store, m->model);
		if (!memcmp(m->model, g->id, KEY_BYTES) || !manifest)
			continue;
		struct placement_model other = placement_model_of(g->daemon, manifest);
		cost += placement_cost(&other, m->placed, m->n_placed);
	}
	return cost;
}

static bool on_advert(const struct record *record, void *arg)
{
	struct gathering *g = arg;
	struct daemon *d = g->daemon;
	uint64_t now = daemon_now(d);
	if (g->n == PLACEMENT_NODES_MAX || !memcmp(record->signer, d->keys.node, KEY_BYTES) || record_is_current(record, now) ||
	    !trust_approved(d->trust, record->association, g->id, now) || trust_admits(d->trust, record->signer, now))
		return true;
	struct advert_body advert;
	if (advert_read(record, &advert))
		return true;
	if (!advert.paused) {
		struct placement_node *node = &g->nodes[g->n++];
		memset(node, 0, sizeof *node);
		memcpy(node->node, record->signer, KEY_BYTES);
		uint64_t others = cost_of_others(g, &advert);
		node->budget = advert.budget_bytes > others ? advert.budget_bytes - others : 0;
		node->home = advert.home;
		for (size_t i = 0; i < advert.n_models; i++)
			if (!memcmp(advert.models[i].model, g->id, KEY_BYTES)) {
				node->n_placed = advert.models[i].n_placed;
				memcpy(node->placed, advert.models[i].placed, sizeof node->placed);
			}
	}
	advert_free(&advert);
	return true;
}

static void place(struct daemon *d, struct residency *r)
{
	const struct manifest_body *manifest = store_manifest(d->store, r->model);
	if (!manifest || !sharing_is_open(&d->sharing))
		return;
	struct placement_model model = placement_model_of(d, manifest);
	model.memory_permille = r->memory_permille;
	struct gathering g = {.daemon = d, .model = &model, .id = r->model};
	g.nodes = calloc(PLACEMENT_NODES_MAX + 1, sizeof *g.nodes);
	if (!g.nodes)
		return;
	trust_each(d->trust, RECORD_ADVERT, on_advert, &g);
	g.self = g.n;
	struct placement_node *self = &g.nodes[g.n++];
	memcpy(self->node, d->keys.node, KEY_BYTES);
	uint64_t others = residency_used(d) - r->cost;
	uint64_t all = residency_budget(d);
	uint64_t left = all > others ? all - others : 0;
	self->budget = left;
	self->home = d->config.share_home;
	self->n_placed = r->n_placed;
	memcpy(self->placed, r->placed, sizeof self->placed);

	struct layer_range ranges[RANGES_MAX];
	size_t n_ranges = 0;
	if (r->state != STAGE_FAILED && r->state != STAGE_QUARANTINED)     /* what is wrong with its engine stays said */
		r->why[0] = 0;
	int err = placement_choose(&model, g.nodes, g.n, g.self, ranges, &n_ranges);
	free(g.nodes);
	if (err) {
		char budget[32], bytes[32];
		text_bytes(left, budget, sizeof budget);
		text_bytes(placement_cost(&model, &(struct layer_range){0, manifest->n_layer}, 1), bytes, sizeof bytes);
		if (err == ERR_UNSUPPORTED)
			snprintf(r->why, sizeof r->why, "it can only run whole (%s), which takes %s of memory; %s are shared here", manifest->why_whole,
				 bytes, budget);
		else
			snprintf(r->why, sizeof r->why, "not even its smallest useful part fits into the %s that are left of what is shared", budget);
		n_ranges = 0;
	}
	if (n_ranges == r->n_placed && !memcmp(ranges, r->placed, n_ranges * sizeof *ranges)) {
		struct store_status status;
		if (!store_status(d->store, r->model, &status) && status.state == STORE_FAILED)
			text_copy(r->why, sizeof r->why, status.why);
		return;
	}
	r->n_placed = n_ranges;
	memcpy(r->placed, ranges, sizeof r->placed);
	r->cost = placement_cost(&model, ranges, n_ranges);
	d->advert_due = true;
	if (!n_ranges) {
		stage_stop(d->stage, r->model);
		store_want(d->store, r->model, NULL, 0);
		return;
	}
	char text[160] = "";
	for (size_t i = 0; i < n_ranges; i++) {
		size_t used = strlen(text);
		snprintf(text + used, sizeof text - used, "%s%u-%u", i ? ", " : "", ranges[i].first, ranges[i].end - 1);
	}
	log_info("model %s: this node takes layers %s of %u", manifest->name, text, manifest->n_layer);
	r->start_pending = true;
	/* Where every piece of the new layers is here already, the store has nothing to tell: residency_tick() looks. */
	r->retry_at = daemon_ms(d);
	err = store_want(d->store, r->model, ranges, n_ranges);
	if (err)
		snprintf(r->why, sizeof r->why, "its weights cannot be fetched: %s", err_str(err));
}

/* --- step 3: from disk into memory ----------------------------------------------------------------- */

/* Another model's engine may still hold what was placed there before, while its new layers arrive. */
static bool has_room(const struct daemon *d, const struct residency *r)
{
	uint64_t used = r->cost;
	for (size_t i = 0; i < d->n_models; i++)
		used += &d->models[i] == r ? 0 : d->models[i].loaded;
	return used <= residency_budget(d);
}

static void start_engine(struct daemon *d, struct residency *r)
{
	if (r->state == STAGE_QUARANTINED) {
		r->retry_at = 0;
		return;
	}
	const struct manifest_body *manifest = store_manifest(d->store, r->model);
	struct stage_load load = {0};
	r->retry_at = 0;
	if (!sharing_is_open(&d->sharing))
		return;          /* residency_open() comes back to it */
	if (!has_room(d, r)) {
		r->retry_at = daemon_ms(d) + ROOM_AGAIN_MS;
		return;
	}
	if (residency_device_budget(d) && somebody_loads(d, r)) {
		r->retry_at = daemon_ms(d) + RETRY_LEAST_MS;
		return;
	}
	int err = manifest ? store_open_files(d->store, r->model, load.fds, &load.n_fds, &load.extents, &load.n_extents) : ERR_UNKNOWN;
	if (err == ERR_ARRIVING)
		return;
	if (!err) {
		memcpy(load.model, r->model, KEY_BYTES);
		load.n_ranges = r->n_placed;
		memcpy(load.ranges, r->placed, sizeof load.ranges);
		load.n_layer = manifest->n_layer;
		load.context = residency_context(d, manifest);
		load.sessions = d->config.share_sessions;
		load.data_limit = d->config.engine_data_limit;
		grant(d, r, &load);
		err = stage_start(d->stage, &load);
	}
	if (err) {
		snprintf(r->why, sizeof r->why, "its engine cannot be started: %s", err_str(err));
		log_error("model %s: %s", manifest ? manifest->name : "?", r->why);
		r->retry_at = daemon_ms(d) + RETRY_MOST_MS;
	} else {
		r->start_pending = false;
		r->loaded = r->cost;
	}
}

void residency_on_store(void *arg, const uint8_t model[KEY_BYTES])
{
	struct daemon *d = arg;
	struct residency *r = residency_find(d, model);
	struct store_status status;
	if (!r || store_status(d->store, model, &status))
		return;
	if (status.state == STORE_FAILED) {
		text_copy(r->why, sizeof r->why, status.why);
		if (!r->store_retry_at)         /* room may have been made by then */
			r->store_retry_at = daemon_ms(d) + RETRY_MOST_MS;
	}
	if (status.state == STORE_READY && r->start_pending && !d->draining)
		start_engine(d, r);
	if (status.complete != r->complete)
		d->advert_due = true;
	r->complete = status.complete;
}

/* This machine's engine keeps weights in a larger layout than the publisher's: count with more, and choose anew. */
static bool does_not_fit(struct daemon *d, struct residency *r, const struct manifest_body *manifest)
{
	struct stage_info info;
	if (!manifest || d->config.share_weights_only || stage_info(d->stage, r->model, &info) || info.err != ERR_BUDGET)
		return false;
	uint32_t permille = r->memory_permille ? r->memory_permille : manifest->memory_permille;
	if (permille >= OVERHEAD_MOST)
		return false;
	r->memory_permille = permille + permille * OVERHEAD_STEP / 1000;
	log_info("model %s takes more memory here than its manifest says: counting %u %% more from now on", manifest->name,
		 (r->memory_permille - 1000) / 10);
	return true;
}

void residency_on_stage(void *arg, const uint8_t model[KEY_BYTES], enum stage_state state, const char *why)
{
	struct daemon *d = arg;
	struct residency *r = residency_find(d, model);
	if (!r)
		return;
	const struct manifest_body *manifest = store_manifest(d->store, model);
	r->state = state;
	if (state == STAGE_NONE || state == STAGE_FAILED || state == STAGE_QUARANTINED)
		r->loaded = 0;
	d->advert_due = true;
	switch (state) {
	case STAGE_READY:
		log_info("model %s is resident", manifest ? manifest->name : "?");
		r->attempts = 0;
		r->why[0] = 0;
		break;
	case STAGE_FAILED:
		if (why)
			text_copy(r->why, sizeof r->why, why);
		log_warning("model %s: engine ended: %s", manifest ? manifest->name : "?", why ? why : "");
		ring_on_engine_lost(d->ring, model, why ? why : "the engine ended");
		if (does_not_fit(d, r, manifest)) {
			residency_refresh(d);
			break;
		}
		/* What is wrong with weights that were verified stays wrong: `essaim model clear` tries again. */
		struct stage_info info;
		bool broken = !stage_info(d->stage, model, &info) && info.err == ERR_MODEL;
		if (!d->draining && r->n_placed && !broken) {
			uint64_t wait = RETRY_LEAST_MS << (r->attempts < 6 ? r->attempts : 6);
			r->attempts++;
			r->retry_at = daemon_ms(d) + (r->attempts == 1 ? 1 : wait < RETRY_MOST_MS ? wait : RETRY_MOST_MS);
		}
		break;
	case STAGE_QUARANTINED:
		if (why)
			text_copy(r->why, sizeof r->why, why);
		log_error("model %s is quarantined: %s (look into it, then `essaim model clear`)", manifest ? manifest->name : "?", why ? why : "");
		ring_on_engine_lost(d->ring, model, why ? why : "the model is quarantined");
		quarantine_write(d->home, model, r->why);
		break;
	default:
		break;
	}
}

void residency_unload(struct daemon *d)
{
	for (size_t i = 0; i < d->n_models; i++) {
		struct residency *r = &d->models[i];
		if (r->state == STAGE_NONE || r->state == STAGE_QUARANTINED)
			continue;
		stage_stop(d->stage, r->model);
		ring_on_engine_lost(d->ring, r->model, "this node shares nothing just now");
	}
}

void residency_open(struct daemon *d)
{
	for (size_t i = 0; i < d->n_models; i++)
		if (d->models[i].n_placed) {
			d->models[i].start_pending = true;
			d->models[i].retry_at = daemon_ms(d);
		}
	d->torrent_peers_at = 0;
	residency_refresh(d);
}

void residency_retry(struct daemon *d, struct residency *r)
{
	struct store_status status;
	r->store_retry_at = 0;
	if (!r->n_placed || store_status(d->store, r->model, &status) || status.state != STORE_FAILED)
		return;
	r->why[0] = 0;
	r->start_pending = true;
	r->retry_at = daemon_ms(d);
	int err = store_want(d->store, r->model, r->placed, r->n_placed);
	if (err)
		snprintf(r->why, sizeof r->why, "its weights cannot be fetched: %s", err_str(err));
}

/* --- time ------------------------------------------------------------------------------------------ */

void residency_refresh(struct daemon *d)
{
	if (!d->placement_due) {
		d->placement_due = true;
		d->placement_at = daemon_ms(d) + SETTLE_MS;
	}
}

/* Weights are exchanged only with nodes that we hold a link with: their links' hosts, their cards' torrent ports. While nothing is
 * shared, with nobody. */
static void refresh_torrent_peers(struct daemon *d)
{
	struct mesh_peer peers[PLACEMENT_NODES_MAX];
	size_t n = sharing_is_open(&d->sharing) ? mesh_peers(d->mesh, peers, PLACEMENT_NODES_MAX) : 0, n_addresses = 0;
	static char text[PLACEMENT_NODES_MAX][ADDRESS_SIZE];
	const char *addresses[PLACEMENT_NODES_MAX];
	for (size_t i = 0; i < n; i++) {
		struct card_body card;
		char host[ADDRESS_SIZE];
		if (!peers[i].up || trust_card_of(d->trust, peers[i].node, daemon_now(d), &card) || !card.torrent_port)
			continue;
		text_copy(host, sizeof host, peers[i].address);
		char *colon = strrchr(host, ':');
		if (!colon)
			continue;
		*colon = 0;
		if (snprintf(text[n_addresses], ADDRESS_SIZE, "%s:%u", host, card.torrent_port) < ADDRESS_SIZE) {
			addresses[n_addresses] = text[n_addresses];
			n_addresses++;
		}
	}
	store_set_peers(d->store, addresses, n_addresses);
}

void residency_tick(struct daemon *d)
{
	uint64_t ms = daemon_ms(d);
	if (d->placement_due && ms >= d->placement_at && stage_device(d->stage)->known) {
		d->placement_due = false;
		trust_each(d->trust, RECORD_MANIFEST, on_manifest, d);
		for (size_t i = 0; i < d->n_models; i++) {
			struct residency *r = &d->models[i];
			r->approved = trust_approved(d->trust, d->keys.association, r->model, daemon_now(d));
			if (r->approved)
				place(d, r);
			else if (r->n_placed) {
				r->n_placed = 0;
				r->cost = 0;
				stage_stop(d->stage, r->model);
				store_want(d->store, r->model, NULL, 0);
				d->advert_due = true;
			}
		}
	}
	if (ms >= d->torrent_peers_at) {
		d->torrent_peers_at = ms + TORRENT_PEERS_MS;
		refresh_torrent_peers(d);
	}
	for (size_t i = 0; i < d->n_models; i++) {
		struct residency *r = &d->models[i];
		struct store_status status;
		if (r->retry_at && ms >= r->retry_at && !d->draining && !store_status(d->store, r->model, &status) && status.state == STORE_READY)
			start_engine(d, r);
		if (r->store_retry_at && ms >= r->store_retry_at)
			residency_retry(d, r);
	}
}
