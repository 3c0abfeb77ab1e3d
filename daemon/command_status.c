/* status, peers, ring, disclosure. Shapes: doc/CONTROL.md.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <config.h>
#include "daemon/daemon.h"
#include "proto/text.h"

#define EXPIRY_WARNING_S (14 * 86400)

/* What a neighbour says that it holds, of models known here. */
static void holds_into(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *array, const struct mesh_peer *p)
{
	struct advert_body advert;
	const struct record *record = trust_find(d->trust, RECORD_ADVERT, p->association, p->node, daemon_now(d));
	int err = record ? advert_read(record, &advert) : ERR_UNKNOWN;
	if (err == -ENOMEM)
		json_lost();
	if (err)
		return;
	for (size_t i = 0; i < advert.n_models; i++) {
		const struct advert_model *m = &advert.models[i];
		const struct manifest_body *manifest = store_manifest(d->store, m->model);
		if (!manifest)
			continue;
		yyjson_mut_val *o = yyjson_mut_arr_add_obj(doc, array);
		yyjson_mut_obj_add_strcpy(doc, o, "name", manifest->name);
		command_ranges_into(doc, o, "placed", m->placed, m->n_placed);
		command_ranges_into(doc, o, "resident", m->resident, m->n_resident);
	}
	advert_free(&advert);
}

void command_peers_into(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *array)
{
	struct mesh_peer peers[PLACEMENT_NODES_MAX];
	size_t n = mesh_peers(d->mesh, peers, PLACEMENT_NODES_MAX);
	for (size_t i = 0; i < n; i++) {
		const struct mesh_peer *p = &peers[i];
		yyjson_mut_val *o = yyjson_mut_arr_add_obj(doc, array);
		yyjson_mut_obj_add_str(doc, o, "node", json_hex(doc, p->node, KEY_BYTES));
		yyjson_mut_obj_add_strcpy(doc, o, "name", p->name);
		yyjson_mut_obj_add_str(doc, o, "association", json_hex(doc, p->association, KEY_BYTES));
		yyjson_mut_obj_add_strcpy(doc, o, "association_name", trust_association_name(d->trust, p->association));
		yyjson_mut_obj_add_bool(doc, o, "up", p->up);
		yyjson_mut_obj_add_strcpy(doc, o, "address", p->address);
		yyjson_mut_obj_add_real(doc, o, "rtt_ms", p->rtt_ms);
		yyjson_mut_obj_add_uint(doc, o, "bytes_in", p->bytes_in);
		yyjson_mut_obj_add_uint(doc, o, "bytes_out", p->bytes_out);
		yyjson_mut_obj_add_uint(doc, o, "since", p->since);
		yyjson_mut_obj_add_strcpy(doc, o, "trouble", p->trouble);
		holds_into(d, doc, yyjson_mut_obj_add_arr(doc, o, "models"), p);
	}
}

void command_peers(void *arg, struct control_request *r, yyjson_val *args)
{
	(void)args;
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	command_peers_into(arg, doc, yyjson_mut_obj_add_arr(doc, root, "peers"));
	control_done(r, doc);
}

struct day_list {
	struct daemon *daemon;
	yyjson_mut_doc *doc;
	yyjson_mut_val *array;
};

static void on_pair_today(const uint8_t user[KEY_BYTES], const uint8_t provider[KEY_BYTES], const struct ledger_sum *sum, void *arg)
{
	struct day_list *l = arg;
	yyjson_mut_val *o = yyjson_mut_arr_add_obj(l->doc, l->array);
	yyjson_mut_obj_add_str(l->doc, o, "user", json_hex(l->doc, user, KEY_BYTES));
	yyjson_mut_obj_add_strcpy(l->doc, o, "user_name", trust_association_name(l->daemon->trust, user));
	yyjson_mut_obj_add_str(l->doc, o, "provider", json_hex(l->doc, provider, KEY_BYTES));
	yyjson_mut_obj_add_strcpy(l->doc, o, "provider_name", trust_association_name(l->daemon->trust, provider));
	yyjson_mut_obj_add_uint(l->doc, o, "rows", sum->rows);
	yyjson_mut_obj_add_real(l->doc, o, "stage_seconds", (double)sum->stage_microseconds * 1e-6);
	yyjson_mut_obj_add_real(l->doc, o, "joules", (double)sum->millijoules * 1e-3);
	yyjson_mut_obj_add_uint(l->doc, o, "sessions", sum->sessions);
}

/* A new warning; its text is still to be said. serious: something does not work until it is mended. */
static yyjson_mut_val *warning(yyjson_mut_doc *doc, yyjson_mut_val *array, bool serious, const char *remedy)
{
	yyjson_mut_val *o = yyjson_mut_arr_add_obj(doc, array);
	yyjson_mut_obj_add_bool(doc, o, "serious", serious);
	yyjson_mut_obj_add_str(doc, o, "remedy", remedy);
	return o;
}

/* Nodes with which no link stands because the clocks differ. */
static void warn_of_clocks(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *array)
{
	struct mesh_peer *peers = calloc(PLACEMENT_NODES_MAX, sizeof *peers);
	size_t n = peers ? mesh_peers(d->mesh, peers, PLACEMENT_NODES_MAX) : 0;
	if (!peers)
		json_lost();
	for (size_t i = 0; i < n; i++) {
		if (peers[i].up || !peers[i].clock_differs)
			continue;
		yyjson_mut_val *w = warning(doc, array, true, "compare `date` here with another clock; on the machine that is wrong: timedatectl set-ntp true");
		control_say(doc, w, "text", "no link with %s: %s", peers[i].name, peers[i].trouble);
	}
	free(peers);
}

struct ending_agreements {
	struct daemon *daemon;
	yyjson_mut_doc *doc;
	yyjson_mut_val *array;
	uint64_t now;
};

static bool warn_of_its_end(const struct record *record, void *arg)
{
	struct ending_agreements *e = arg;
	struct daemon *d = e->daemon;
	bool granted = !memcmp(record->association, d->keys.association, KEY_BYTES);
	bool over = record->expires <= e->now;
	/* Also one that has ended, as long as it is remembered: whoever uses it is refused, and would look for the reason elsewhere. */
	if ((!granted && memcmp(record->subject, d->keys.association, KEY_BYTES)) || record->expires >= e->now + EXPIRY_WARNING_S ||
	    !trust_agreement_in_force(d->trust, record->association, record->subject, over ? TRUST_ANY_TIME : e->now))
		return true;
	const char *other = trust_association_name(d->trust, granted ? record->subject : record->association);
	unsigned long long days = over ? 0 : (record->expires - e->now) / 86400;
	yyjson_mut_val *w;
	if (granted) {
		w = warning(e->doc, e->array, false, "renew it, where the steward key is: essaim agreement offer ASSOCIATION; they accept it again");
		if (over)
			control_say(e->doc, w, "text", "the agreement that let %s use this association's nodes has ended", other);
		else
			control_say(e->doc, w, "text", "the agreement that lets %s use this association's nodes ends in %llu days", other, days);
	} else {
		w = warning(e->doc, e->array, false, "ask them for a new offer, then: essaim agreement accept ASSOCIATION");
		if (over)
			control_say(e->doc, w, "text", "the agreement that let this association use %s's nodes has ended", other);
		else
			control_say(e->doc, w, "text", "the agreement that lets this association use %s's nodes ends in %llu days", other, days);
	}
	return true;
}

void command_mapping_into(const struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *o, const char *key)
{
	struct portmap_answer a;
	enum portmap_state state = portmap_state(d->portmap, &a);
	unsigned link = mesh_port(d->mesh), torrent = store_port(d->store);
	if (state == PORTMAP_OFF) {
		control_say(doc, o, key, "the router is not asked for ports ([link] map_ports)");
	} else if (state == PORTMAP_ASKING) {
		control_say(doc, o, key, "the router is being asked for ports %u and %u", link, torrent);
	} else if (state == PORTMAP_MAPPED) {
		control_say(doc, o, key, "the router passes ports %u and %u of %s on to this machine (%s)", link, torrent, a.host, a.by);
	} else if (a.trouble == PORTMAP_NO_ROUTER) {
		control_say(doc, o, key, "the router does not pass ports %u and %u on: none answers to NAT-PMP or UPnP", link, torrent);
	} else if (a.trouble == PORTMAP_TAKEN) {
		control_say(doc, o, key, "the router does not pass port %u on: another machine has it", a.port);
	} else if (a.trouble == PORTMAP_OFFLINE) {
		control_say(doc, o, key, "the router does not pass ports %u and %u on: it says that it has no connection itself", link, torrent);
	} else if (a.trouble == PORTMAP_PRIVATE) {
		control_say(doc, o, key, "the router passes ports %u and %u on, but its own address %s is not public: another router stands before it, or the provider "
			    "gives one address to many", link, torrent, *a.host ? a.host : "?");
	} else {
		control_say(doc, o, key, "the router refuses to pass port %u on (%s error %d)", a.port, a.by, a.code);
	}
}

static const char *mapping_remedy(const struct portmap_answer *a)
{
	if (a->trouble == PORTMAP_TAKEN)
		return N_("end that in the router's settings, or write other ports for [link] and [torrent] into essaim.conf here and restart");
	if (a->trouble == PORTMAP_PRIVATE)
		return N_("ask the provider for an IPv4 address of your own, or use IPv6; else let the other side be the one that can be reached");
	return N_("switch NAT-PMP or UPnP on in the router's settings, or forward these TCP ports to this machine there by hand and write map_ports = no");
}

void command_warnings_into(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *array)
{
	uint64_t now = daemon_now(d);
	char ahead[40];
	yyjson_mut_val *w;
	const struct record *steward = trust_find(d->trust, RECORD_STEWARD, d->keys.association, d->keys.association, now);
	bool alone = sodium_is_zero(d->keys.association, KEY_BYTES);
	warn_of_clocks(d, doc, array);          /* first: it may be why all the rest seems to have ended */
	if (d->joined) {
		w = warning(doc, array, true, "restart essaimd: systemctl restart essaimd, or stop it and start it again");
		control_say(doc, w, "text", "this node has joined an association, and belongs to it from its next start on");
	} else if (alone) {
		w = warning(doc, array, true, "join one with an invitation: on a node of that association run essaim invite --node, here essaim join URL");
		control_say(doc, w, "text", "this node belongs to no association yet");
	} else if (!steward) {
		w = warning(doc, array, true, "compare `date` here with another clock; if it is right, on a node that has the root key: essaim steward renew");
		control_say(doc, w, "text", "by this machine's clock this association's steward key has expired, so its records do not count (they are kept)");
	} else if (record_is_current(steward, now)) {
		w = warning(doc, array, true, "compare `date` here with another clock; if it is right, on a node that has the root key: essaim steward renew");
		control_say(doc, w, "text", "the steward key was signed %s in the future: this machine's clock is behind, or another was ahead",
			    text_duration(steward->issued - now, ahead, sizeof ahead));
	} else if (steward->expires < now + EXPIRY_WARNING_S) {
		w = warning(doc, array, false, "bring the root key back and renew it: essaim steward renew");
		control_say(doc, w, "text", "this association's steward key expires in %llu days", (unsigned long long)((steward->expires - now) / 86400));
	}
	uint8_t association[KEY_BYTES];
	if (steward && trust_association_of(d->trust, d->keys.node, now, association) && !trust_association_of(d->trust, d->keys.node, TRUST_ANY_TIME, association)) {
		w = warning(doc, array, true, "compare `date` here with another clock; if it is right, start the node that has the steward key: it signs a new one");
		control_say(doc, w, "text", "by this machine's clock this association's roster has expired: other nodes will not speak to this one");
	} else if (!alone && !d->joined && trust_association_of(d->trust, d->keys.node, TRUST_ANY_TIME, association)) {
		w = warning(doc, array, true, "join with an invitation: on a node of the association run essaim invite --node, here essaim join URL");
		control_say(doc, w, "text", "this node is not on its association's roster: other nodes will not speak to it");
	}
	if (!access("keys/root.key", F_OK)) {       /* the working folder is the home */
		w = warning(doc, array, false, "copy keys/root.key to a safe place off this machine and delete it here");
		control_say(doc, w, "text", "the association's root key still lies on this node");
	}
	if (d->steward_replaced)
		control_say(doc, warning(doc, array, true, N_("delete keys/steward.key here; if none of you replaced it, name a new one: essaim steward new")),
			    "text", N_("this node's steward key was replaced by another one: what it signs does not count"));
	if (d->left)
		control_say(doc, warning(doc, array, true, N_("restart essaimd; then it can join another: essaim join URL")), "text",
			    N_("this node has left its association"));
	if (d->save_err) {
		w = warning(doc, array, true, "free some space, or mend the rights of the folder; it is tried again every 30 seconds");
		control_say(doc, w, "text", "what this node learns cannot be saved in %s/records: %s", d->home, err_str(d->save_err));
	}
	struct portmap_answer mapping;
	if (portmap_state(d->portmap, &mapping) == PORTMAP_FAILED)
		command_mapping_into(d, doc, warning(doc, array, true, mapping_remedy(&mapping)), "text");
	if (stage_device(d->stage)->known && stage_device(d->stage)->why[0]) {
		w = warning(doc, array, false, N_("see essaim doctor and \"A graphics card\" in doc/OPERATING.md; then restart essaimd"));
		control_say(doc, w, "text", "no graphics card is used though [share] gpu asks for one: %s", stage_device(d->stage)->why);
	} else if (stage_device(d->stage)->device.kind && !residency_device_budget(d)) {
		w = warning(doc, array, false, N_("write [share] gpu_memory = SIZE into essaim.conf, and share so much less memory; then reload"));
		control_say(doc, w, "text", "%s has no memory of its own, so nothing goes there before you say how much it may take", stage_device(d->stage)->device.name);
	}
	struct ending_agreements ending = {d, doc, array, now};
	trust_each_at(d->trust, RECORD_AGREEMENT, TRUST_ANY_TIME, warn_of_its_end, &ending);
	for (size_t i = 0; i < d->n_models; i++) {
		const struct residency *m = &d->models[i];
		const struct manifest_body *manifest = store_manifest(d->store, m->model);
		if (!m->approved || !m->why[0] || !manifest)
			continue;
		w = warning(doc, array, m->state == STAGE_QUARANTINED || m->state == STAGE_FAILED,
			    m->state == STAGE_QUARANTINED ? N_("essaim model check FILE, then essaim model clear MODEL") : N_("see essaim model list"));
		control_say(doc, w, "text", "model %s: %s", manifest->name, m->why);
	}
}

static void mapping_into(const struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *o)
{
	static const char *const states[] = {"off", "asking", "mapped", "failed"};
	struct portmap_answer answer;
	yyjson_mut_obj_add_str(doc, o, "state", states[portmap_state(d->portmap, &answer)]);
	yyjson_mut_obj_add_strcpy(doc, o, "address", d->mapped);
	command_mapping_into(d, doc, o, "text");
}

struct saying {
	yyjson_mut_doc *doc;
	yyjson_mut_val *object;
};

static void say_sharing(void *arg, const char *format, ...)
{
	struct saying *s = arg;
	va_list ap;
	va_start(ap, format);
	control_vsay(s->doc, s->object, "text", format, ap);
	va_end(ap);
}

static void sharing_into(const struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *o)
{
	static const char *const states[] = {"open", "paused", "hours", "busy"};
	yyjson_mut_obj_add_str(doc, o, "state", states[d->sharing.state]);
	yyjson_mut_obj_add_bool(doc, o, "idle_only", d->config.sharing.idle_only);
	sharing_say(d, say_sharing, &(struct saying){doc, o});
}

/* The graphics card, and how much wider than usual the sandbox is for it. */
static void device_into(const struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *o)
{
	static const char *const kinds[] = {"none", "card", "integrated", "software"}, *const sandboxes[] = {"usual", "card", "card", "software"};
	const struct stage_device *s = stage_device(d->stage);
	yyjson_mut_obj_add_strcpy(doc, o, "wanted", d->config.share_gpu[0] ? d->config.share_gpu : "no");
	yyjson_mut_obj_add_str(doc, o, "kind", kinds[s->device.kind]);
	yyjson_mut_obj_add_strcpy(doc, o, "name", s->device.name);
	yyjson_mut_obj_add_uint(doc, o, "bytes", s->device.bytes);
	yyjson_mut_obj_add_uint(doc, o, "budget", residency_device_budget(d));
	yyjson_mut_obj_add_uint(doc, o, "used", residency_device_used(d));
	yyjson_mut_obj_add_str(doc, o, "sandbox", sandboxes[s->device.kind]);
	yyjson_mut_obj_add_strcpy(doc, o, "why", s->why);
}

void command_pause(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	uint64_t seconds = yyjson_get_uint(yyjson_obj_get(args, "seconds")), now = daemon_now(d);
	int err = sharing_pause(d, !seconds || seconds >= SHARING_FOR_EVER - now ? SHARING_FOR_EVER : now + seconds);
	if (err) {
		control_fail(r, err, "see whether the disk is full", "sharing is paused now, but the pause could not be written down: it ends when essaimd ends (%s)",
			     err_str(err));
		return;
	}
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	sharing_into(d, doc, root);
	control_done(r, doc);
}

void command_resume(void *arg, struct control_request *r, yyjson_val *args)
{
	(void)args;
	struct daemon *d = arg;
	int err = sharing_pause(d, 0);
	if (err) {
		control_fail(r, err, "delete the file 'paused' in the home", "sharing goes on now, but the pause that was written down could not be removed (%s)",
			     err_str(err));
		return;
	}
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	sharing_into(d, doc, root);
	control_done(r, doc);
}

/* For members of a service's group, who may ask here but cannot read the keys' folder. */
void command_api_key(void *arg, struct control_request *r, yyjson_val *args)
{
	(void)args;
	struct daemon *d = arg;
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_strcpy(doc, root, "key", d->keys.api_key);
	control_done(r, doc);
}

void command_status(void *arg, struct control_request *r, yyjson_val *args)
{
	(void)args;
	struct daemon *d = arg;
	yyjson_mut_val *root, *o;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_str(doc, root, "version", PACKAGE_VERSION);
	yyjson_mut_obj_add_strcpy(doc, root, "home", d->home);
	yyjson_mut_obj_add_strcpy(doc, root, "engine", stage_engine_name(d->stage));
	yyjson_mut_obj_add_uint(doc, root, "pid", (uint64_t)getpid());
	yyjson_mut_obj_add_uint(doc, root, "started", d->started);
	o = yyjson_mut_obj_add_obj(doc, root, "node");
	yyjson_mut_obj_add_str(doc, o, "id", json_hex(doc, d->keys.node, KEY_BYTES));
	yyjson_mut_obj_add_strcpy(doc, o, "name", d->config.node_name);
	o = yyjson_mut_obj_add_obj(doc, root, "association");
	yyjson_mut_obj_add_str(doc, o, "id", json_hex(doc, d->keys.association, KEY_BYTES));
	yyjson_mut_obj_add_strcpy(doc, o, "name", trust_association_name(d->trust, d->keys.association));
	o = yyjson_mut_obj_add_obj(doc, root, "ports");
	yyjson_mut_obj_add_uint(doc, o, "link", mesh_port(d->mesh));
	yyjson_mut_obj_add_uint(doc, o, "http", api_port(d->api));
	yyjson_mut_obj_add_uint(doc, o, "torrent", store_port(d->store));
	yyjson_mut_obj_add_strcpy(doc, root, "http_host", d->config.http_listen);
	mapping_into(d, doc, yyjson_mut_obj_add_obj(doc, root, "mapping"));
	sharing_into(d, doc, yyjson_mut_obj_add_obj(doc, root, "sharing"));
	yyjson_mut_obj_add_bool(doc, root, "draining", d->draining);
	o = yyjson_mut_obj_add_obj(doc, root, "budget");
	yyjson_mut_obj_add_uint(doc, o, "bytes", residency_budget(d));
	yyjson_mut_obj_add_uint(doc, o, "used", residency_used(d));
	yyjson_mut_obj_add_str(doc, o, "counts", d->config.share_weights_only ? "weights" : "all");
	device_into(d, doc, yyjson_mut_obj_add_obj(doc, root, "gpu"));
	yyjson_mut_obj_add_bool(doc, root, "steward", d->keys.has_steward);
	command_peers_into(d, doc, yyjson_mut_obj_add_arr(doc, root, "peers"));
	command_models_into(d, doc, yyjson_mut_obj_add_arr(doc, root, "models"), NULL);
	struct ring_counts counts = ring_counts(d->ring);
	o = yyjson_mut_obj_add_obj(doc, root, "sessions");
	yyjson_mut_obj_add_uint(doc, o, "home", counts.home);
	yyjson_mut_obj_add_uint(doc, o, "serving", counts.serving);
	command_agreements_into(d, doc, yyjson_mut_obj_add_arr(doc, root, "agreements"));
	struct day_list today = {d, doc, yyjson_mut_obj_add_arr(doc, root, "today")};
	ledger_each_today(d->ledger, daemon_now(d), on_pair_today, &today);
	command_warnings_into(d, doc, yyjson_mut_obj_add_arr(doc, root, "warnings"));
	control_done(r, doc);
}

static void range_into(yyjson_mut_doc *doc, yyjson_mut_val *o, const char *key, struct layer_range range)
{
	yyjson_mut_val *pair = yyjson_mut_obj_add_arr(doc, o, key);
	yyjson_mut_arr_add_uint(doc, pair, range.first);
	yyjson_mut_arr_add_uint(doc, pair, range.end);
}

void command_ring(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	uint8_t model[KEY_BYTES];
	char why[300] = "";
	if (command_find_model(d, r, args, model))
		return;
	const struct manifest_body *manifest = store_manifest(d->store, model);
	struct ring_plan plan = {0};
	int err = route_plan(d->route, model, &plan, why, sizeof why);
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_str(doc, root, "model", json_hex(doc, model, KEY_BYTES));
	yyjson_mut_obj_add_strcpy(doc, root, "name", manifest->name);
	yyjson_mut_obj_add_bool(doc, root, "possible", !err);
	yyjson_mut_obj_add_strcpy(doc, root, "why", why);
	yyjson_mut_obj_add_uint(doc, root, "layers", manifest->n_layer);
	yyjson_mut_obj_add_uint(doc, root, "bytes", manifest_bytes(manifest, &(struct layer_range){0, manifest->n_layer}, 1));
	yyjson_mut_val *stages = yyjson_mut_obj_add_arr(doc, root, "stages");
	for (size_t i = 0; !err && i < plan.n_stages; i++) {
		char name[NAME_SIZE], association[NAME_SIZE];
		bool self = !memcmp(plan.stages[i].node, d->keys.node, KEY_BYTES);
		views_describe(d, plan.stages[i].node, name, association);
		yyjson_mut_val *o = yyjson_mut_arr_add_obj(doc, stages);
		yyjson_mut_obj_add_str(doc, o, "node", json_hex(doc, plan.stages[i].node, KEY_BYTES));
		yyjson_mut_obj_add_strcpy(doc, o, "name", name);
		yyjson_mut_obj_add_strcpy(doc, o, "association", association);
		range_into(doc, o, "layers", plan.stages[i].range);
		yyjson_mut_obj_add_str(doc, o, "saw", self ? N_("text") : N_("activations"));
	}
	control_done(r, doc);
}

/* Kept as JSON, figures only: what the last answer took and who saw what. */
void command_answered(void *arg, const struct route_result *result)
{
	struct daemon *d = arg;
	if (result->err || !result->n_stages)
		return;
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_strcpy(doc, root, "model", result->model);
	yyjson_mut_obj_add_uint(doc, root, "tokens", result->completion_tokens);
	yyjson_mut_obj_add_uint(doc, root, "prompt_tokens", result->prompt_tokens);
	yyjson_mut_obj_add_real(doc, root, "prefill_seconds", (double)result->prefill_us * 1e-6);
	yyjson_mut_obj_add_real(doc, root, "decode_seconds", (double)result->decode_us * 1e-6);
	if (result->via[0]) {
		yyjson_mut_val *via = yyjson_mut_obj_add_obj(doc, root, "via");
		yyjson_mut_obj_add_strcpy(doc, via, "node", result->via);
		yyjson_mut_obj_add_strcpy(doc, via, "association", result->via_association);
	}
	yyjson_mut_val *stages = yyjson_mut_obj_add_arr(doc, root, "stages");
	for (size_t i = 0; i < result->n_stages; i++) {
		const struct route_stage *s = &result->stages[i];
		yyjson_mut_val *o = yyjson_mut_arr_add_obj(doc, stages);
		yyjson_mut_obj_add_str(doc, o, "node", json_hex(doc, s->node, KEY_BYTES));
		yyjson_mut_obj_add_strcpy(doc, o, "name", s->name);
		yyjson_mut_obj_add_strcpy(doc, o, "association", s->association);
		range_into(doc, o, "layers", s->range);
		yyjson_mut_obj_add_uint(doc, o, "rows", s->rows);
		yyjson_mut_obj_add_real(doc, o, "compute_seconds", (double)s->microseconds * 1e-6);
		yyjson_mut_obj_add_str(doc, o, "saw", s->text ? N_("text") : N_("activations"));
	}
	free(d->last_answer);
	d->last_answer = json_line(doc, NULL);
}

void command_disclosure(void *arg, struct control_request *r, yyjson_val *args)
{
	(void)args;
	struct daemon *d = arg;
	if (!d->last_answer) {
		control_fail(r, ERR_UNKNOWN, "essaim chat", "nothing has been answered here since this node started");
		return;
	}
	yyjson_doc *doc = yyjson_read(d->last_answer, strlen(d->last_answer), 0);
	control_done(r, json_copy(doc));
	yyjson_doc_free(doc);
}
