/* What route may see, what ring must ask, what Prometheus reads.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"
#include "daemon/ledger/quota.h"
#include "proto/text.h"

struct node_gathering {
	struct daemon *daemon;
	const uint8_t *model;
	struct routing_node *out;
	size_t n, max;
};

static bool on_advert(const struct record *record, void *arg)
{
	struct node_gathering *g = arg;
	struct daemon *d = g->daemon;
	uint64_t now = daemon_now(d);
	struct advert_body advert;
	if (g->n == g->max)
		return false;
	if (!memcmp(record->signer, d->keys.node, KEY_BYTES) || record_is_current(record, now) || advert_read(record, &advert))
		return true;
	for (size_t i = 0; i < advert.n_models; i++) {
		const struct advert_model *m = &advert.models[i];
		if (memcmp(m->model, g->model, KEY_BYTES) || !m->n_resident)
			continue;
		struct routing_node *node = &g->out[g->n++];
		struct trust_terms terms;
		memset(node, 0, sizeof *node);
		memcpy(node->node, record->signer, KEY_BYTES);
		node->n_resident = m->n_resident;
		memcpy(node->resident, m->resident, sizeof node->resident);
		node->load_permille = advert.load_permille;
		node->layer_microseconds = m->layer_microseconds;
		node->sessions_free = m->sessions_free;
		node->rtt_ms = mesh_rtt_ms(d->mesh, record->signer);
		node->usable = !advert.paused && mesh_is_up(d->mesh, record->signer) && routing_engines_join(advert.engine, stage_engine_name(d->stage)) &&
			       !trust_may_use(d->trust, d->keys.association, record->association, g->model, now, &terms);
		break;
	}
	advert_free(&advert);
	return true;
}

uint32_t views_sessions_free(const struct daemon *d, const uint8_t model[KEY_BYTES], const struct stage_info *info)
{
	uint32_t room = info->sessions + ring_kept(d->ring, model);
	return room > info->sessions_open ? room - info->sessions_open : 0;
}

uint32_t views_room(void *arg, const uint8_t model[KEY_BYTES])
{
	struct daemon *d = arg;
	struct stage_info info;
	if (stage_info(d->stage, model, &info) || info.state != STAGE_READY)
		return 1;                        /* that it takes none is said when it is asked */
	return info.sessions > info.sessions_open ? info.sessions - info.sessions_open : 0;
}

size_t views_nodes(void *arg, const uint8_t model[KEY_BYTES], struct routing_node *out, size_t max)
{
	struct daemon *d = arg;
	struct node_gathering g = {.daemon = d, .model = model, .out = out, .max = max};
	struct stage_info info;
	if (max && !stage_info(d->stage, model, &info) && info.state == STAGE_READY) {
		struct routing_node *self = &out[g.n++];
		memset(self, 0, sizeof *self);
		memcpy(self->node, d->keys.node, KEY_BYTES);
		self->self = self->usable = true;
		self->n_resident = info.n_ranges;
		memcpy(self->resident, info.ranges, sizeof self->resident);
		self->layer_microseconds = info.layer_microseconds;
		self->sessions_free = views_sessions_free(d, model, &info);
	}
	trust_each(d->trust, RECORD_ADVERT, on_advert, &g);
	return g.n;
}

/* Who published a model, and when: the alias's association and "created". */
struct publisher {
	const uint8_t *model;
	uint8_t association[KEY_BYTES];
	uint64_t issued;
};

static bool on_manifest(const struct record *record, void *arg)
{
	struct publisher *p = arg;
	if (memcmp(record->subject, p->model, KEY_BYTES) || (p->issued && p->issued <= record->issued))
		return true;
	p->issued = record->issued;
	memcpy(p->association, record->association, KEY_BYTES);
	return true;
}

void views_publisher(const struct daemon *d, const uint8_t model[KEY_BYTES], char association[NAME_SIZE], uint64_t *created)
{
	struct publisher p = {.model = model};
	trust_each(d->trust, RECORD_MANIFEST, on_manifest, &p);
	*created = p.issued;
	text_copy(association, NAME_SIZE, p.issued ? trust_association_name(d->trust, p.association) : "");
}

/* Does some node in reach have parts of the model placed that are not resident yet? */
struct arriving {
	const uint8_t *model;
	uint64_t now;
	bool found;
};

static bool on_arriving(const struct record *record, void *arg)
{
	struct arriving *a = arg;
	struct advert_body advert;
	if (record_is_current(record, a->now) || advert_read(record, &advert))
		return true;
	for (size_t i = 0; i < advert.n_models; i++)
		a->found |= !advert.paused && !memcmp(advert.models[i].model, a->model, KEY_BYTES) && advert.models[i].n_placed && !advert.models[i].n_resident;
	advert_free(&advert);
	return !a->found;
}

static bool arriving_elsewhere(const struct daemon *d, const uint8_t model[KEY_BYTES], uint64_t now)
{
	struct arriving a = {.model = model, .now = now};
	trust_each(d->trust, RECORD_ADVERT, on_arriving, &a);
	return a.found;
}

size_t views_models(void *arg, struct route_model *out, size_t max)
{
	struct daemon *d = arg;
	uint64_t now = daemon_now(d);
	struct routing_node *nodes = calloc(PLACEMENT_NODES_MAX, sizeof *nodes);
	size_t n = 0;
	for (size_t i = 0; nodes && i < d->n_models && n < max; i++) {
		const struct residency *r = &d->models[i];
		const struct manifest_body *manifest = store_manifest(d->store, r->model);
		if (!r->approved || !manifest)
			continue;
		struct route_model *m = &out[n++];
		memset(m, 0, sizeof *m);
		memcpy(m->id, r->model, KEY_BYTES);
		text_copy(m->name, sizeof m->name, manifest->name);
		m->n_layer = manifest->n_layer;
		m->context = residency_context(d, manifest);
		m->chat_template = manifest->chat_template;
		struct stage_info info;
		m->truncates = !stage_info(d->stage, r->model, &info) && info.truncate == TRUNCATE_ANY;
		m->seconds_left = UINT64_MAX;
		views_publisher(d, r->model, m->association, &m->created);

		struct ring_plan plan;
		struct layer_range missing = {0, 0};
		size_t n_nodes = views_nodes(d, r->model, nodes, PLACEMENT_NODES_MAX);
		int err = routing_plan(r->model, manifest->n_layer, nodes, n_nodes, NULL, 0, &plan, &missing);
		if (!err || err == ERR_BUSY) {
			m->state = ROUTE_READY;
			continue;
		}
		struct store_status status;
		m->state = ROUTE_UNAVAILABLE;
		bool fetching = r->n_placed && sharing_is_open(&d->sharing) && !store_status(d->store, r->model, &status) &&
				(status.state == STORE_FETCHING || status.state == STORE_CHECKING || (r->start_pending && !r->why[0]) ||
				 r->state == STAGE_STARTING || r->state == STAGE_LOADING);
		if (fetching) {
			m->state = ROUTE_ARRIVING;
			m->bytes_wanted = status.bytes_wanted;
			m->bytes_have = status.bytes_have;
			m->seconds_left = status.seconds_left;
			snprintf(m->why, sizeof m->why, "its weights are still arriving here");
		} else if (!sharing_is_open(&d->sharing)) {
			char text[150];
			snprintf(m->why, sizeof m->why, "this node computes nothing just now: %s", sharing_text(d, text, sizeof text));
		} else if (r->why[0]) {
			snprintf(m->why, sizeof m->why, "%.190s", r->why);
		} else if (err == ERR_DENIED && d->config.share_home) {
			m->state = ROUTE_ARRIVING;
			snprintf(m->why, sizeof m->why, "its first and last layers are not loaded here yet");
		} else if (err == ERR_DENIED) {
			snprintf(m->why, sizeof m->why, "this node does not keep the first and last layers ([share] home = no): ask at a node that does");
		} else {
			if (arriving_elsewhere(d, r->model, now))
				m->state = ROUTE_ARRIVING;
			unsigned last = missing.end ? missing.end - 1 : 0;
			if (m->state == ROUTE_ARRIVING)
				snprintf(m->why, sizeof m->why, "no node that answers this association has layers %u to %u ready; another node is still fetching",
					 missing.first, last);
			else
				snprintf(m->why, sizeof m->why, "no node that answers this association has layers %u to %u ready (see `essaim peers` and `essaim "
					 "agreement list`)", missing.first, last);
		}
	}
	free(nodes);
	return n;
}

void views_describe(void *arg, const uint8_t node[KEY_BYTES], char name[NAME_SIZE], char association[NAME_SIZE])
{
	struct daemon *d = arg;
	struct card_body card;
	uint8_t of[KEY_BYTES];
	uint64_t now = daemon_now(d);
	if (!trust_card_of(d->trust, node, now, &card))
		text_copy(name, NAME_SIZE, card.name);
	else
		text_hex(node, 8, name);
	text_copy(association, NAME_SIZE, trust_association_of(d->trust, node, now, of) ? "" : trust_association_name(d->trust, of));
}

int views_render(void *arg, const uint8_t model[KEY_BYTES], const struct engine_render *render,
		 void (*done)(void *arg, int err, const int32_t *tokens, size_t n, const char *why), void *done_arg)
{
	struct daemon *d = arg;
	return stage_render(d->stage, model, render, done, done_arg);
}

int views_text(void *arg, const uint8_t model[KEY_BYTES], const struct engine_render *render,
	       void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *why), void *done_arg)
{
	struct daemon *d = arg;
	return stage_text(d->stage, model, render, done, done_arg);
}

/* A range that we have loaded: it starts there and ends there or, inside the model, earlier. */
static bool is_resident(const struct stage_info *info, const struct layer_range *range, uint32_t n_layer)
{
	for (size_t i = 0; i < info->n_ranges; i++)
		if (info->ranges[i].first == range->first &&
		    (info->ranges[i].end == range->end || (range->end < info->ranges[i].end && info->ranges[i].end < n_layer)))
			return true;
	return false;
}

int views_permit(void *arg, const struct ticket *ticket, const struct ring_claim *claim, uint32_t *priority, char *detail, size_t size)
{
	struct daemon *d = arg;
	uint64_t now = daemon_now(d);
	uint8_t association[KEY_BYTES];
	struct trust_terms terms;
	struct stage_info info;
	const struct manifest_body *manifest = store_manifest(d->store, ticket->model);
	int err = trust_association_of(d->trust, ticket->home, now, association);
	if (err || memcmp(association, ticket->home_association, KEY_BYTES)) {
		snprintf(detail, size, "the asking node is not on the roster of the association it names");
		return ERR_DENIED;
	}
	err = trust_may_use(d->trust, association, d->keys.association, ticket->model, now, &terms);
	if (err) {
		snprintf(detail, size, "no agreement in force lets the association use this node for this model");
		return err;
	}
	*priority = terms.priority;
	if (d->draining || !sharing_is_open(&d->sharing)) {
		snprintf(detail, size, "this node shares nothing just now");
		return ERR_BUSY;
	}
	if (!manifest || stage_info(d->stage, ticket->model, &info) || info.state != STAGE_READY ||
	    !is_resident(&info, &ticket->range, manifest->n_layer)) {
		snprintf(detail, size, "layers %u to %u are not resident here", ticket->range.first, ticket->range.end ? ticket->range.end - 1 : 0);
		return ERR_UNKNOWN;
	}
	if (ticket->context > info.context) {
		snprintf(detail, size, "a context of %u was asked for; %u is what this node promises", ticket->context, info.context);
		return ERR_BUDGET;
	}
	struct ledger_sum today = ledger_today(d->ledger, association, d->keys.association, now);
	struct quota_limits limits = {.tokens_per_day = terms.tokens_per_day, .stage_seconds_per_day = terms.stage_seconds_per_day};
	/* What is open may yet use what it was granted: the next one gets only what is left after that. */
	err = claim->opens ? quota_may_open(&limits, &today, claim->reserved, claim->rows) : quota_check(&limits, &today);
	unsigned minutes = (unsigned)(quota_resets_in(now) / 60) + 1;
	if (err == ERR_BUDGET)
		snprintf(detail, size, "%llu tokens are left of today's share of the agreement, and a conversation of up to %u was asked for: ask for fewer, "
			 "or again in %u min", (unsigned long long)(quota_left(&limits, &today).rows - claim->reserved), claim->rows, minutes);
	else if (err && !quota_check(&limits, &today))
		snprintf(detail, size, "what is left of today's share of the agreement is granted to conversations that run: ask again when they have ended");
	else if (err)
		snprintf(detail, size, "today's share of the agreement is used up; it begins anew in %u min, at midnight UTC", minutes);
	return err;
}

void views_metrics(void *arg, struct buf *out)
{
	struct daemon *d = arg;
	struct ring_counts counts = ring_counts(d->ring);
	size_t up = 0, n;
	struct mesh_peer peers[PLACEMENT_NODES_MAX];
	n = mesh_peers(d->mesh, peers, PLACEMENT_NODES_MAX);
	for (size_t i = 0; i < n; i++)
		up += peers[i].up;
	buf_printf(out, "# HELP essaim_peers_up Nodes that this node holds links with.\n# TYPE essaim_peers_up gauge\nessaim_peers_up %zu\n", up);
	buf_printf(out, "# HELP essaim_sessions_serving Sessions that this node computes a stage of, for others.\n"
			"# TYPE essaim_sessions_serving gauge\nessaim_sessions_serving %zu\n", counts.serving);
	buf_printf(out, "# HELP essaim_sessions_home Sessions asked at this node.\n# TYPE essaim_sessions_home gauge\nessaim_sessions_home %zu\n",
		   counts.home);
	buf_printf(out, "# HELP essaim_sessions_kept Sessions that wait in memory for a follow-up.\n# TYPE essaim_sessions_kept gauge\n"
			"essaim_sessions_kept %zu\n", counts.kept);
	buf_printf(out, "# HELP essaim_tickets_waiting Others' sessions that wait for a place here.\n# TYPE essaim_tickets_waiting gauge\n"
			"essaim_tickets_waiting %zu\n", counts.waiting);
	buf_printf(out, "# HELP essaim_prompt_tokens_cached_total Tokens of prompts that were not computed again.\n"
			"# TYPE essaim_prompt_tokens_cached_total counter\nessaim_prompt_tokens_cached_total %llu\n", (unsigned long long)counts.cached);
	buf_printf(out, "# HELP essaim_rows_total Rows computed by this node's stages.\n# TYPE essaim_rows_total counter\nessaim_rows_total %llu\n",
		   (unsigned long long)counts.rows);
	buf_printf(out, "# HELP essaim_faults_total Stages lost or refused in running sessions.\n# TYPE essaim_faults_total counter\n"
			"essaim_faults_total %llu\n", (unsigned long long)counts.faults);
	buf_printf(out, "# HELP essaim_memory_shared_bytes Memory shared for models.\n# TYPE essaim_memory_shared_bytes gauge\n"
			"essaim_memory_shared_bytes %llu\n", (unsigned long long)residency_budget(d));
	buf_printf(out, "# HELP essaim_memory_placed_bytes Of it, what placed layers take.\n# TYPE essaim_memory_placed_bytes gauge\n"
			"essaim_memory_placed_bytes %llu\n", (unsigned long long)residency_used(d));
}
