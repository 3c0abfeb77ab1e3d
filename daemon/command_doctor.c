/* doctor: the local findings, what status warns of, what peers say; the answer waits for the neighbours that were asked to dial us.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>

#include "daemon/daemon.h"
#include "daemon/doctor.h"
#include "proto/text.h"

struct examination {
	struct daemon *daemon;
	struct control_request *request;
	struct doctor_list list;
	size_t n_peers, n_up;
	struct mesh_peer peers[PLACEMENT_NODES_MAX];
	size_t n_asked, waiting;
	struct doctor_reached asked[DOCTOR_ASKED_MAX];
	uint8_t who[DOCTOR_ASKED_MAX][KEY_BYTES];
};

static uint64_t still_to_come(struct daemon *d)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < d->n_models; i++) {
		struct store_status status;
		if (d->models[i].n_placed && !store_status(d->store, d->models[i].model, &status) && status.bytes_wanted > status.bytes_have)
			sum += status.bytes_wanted - status.bytes_have;
	}
	return sum;
}

static void check_clocks(struct examination *e)
{
	struct doctor_clock *clocks = calloc(PLACEMENT_NODES_MAX, sizeof *clocks);
	struct timex clock = {0};
	size_t n = 0;
	for (size_t i = 0; clocks && i < e->n_peers; i++)
		if (e->peers[i].clock_known)
			clocks[n++] = (struct doctor_clock){e->peers[i].name, e->peers[i].clock_off};
	int state = adjtimex(&clock);      /* a hardened service may not ask: then only others are compared with */
	doctor_clocks(&e->list, clocks, n, state < 0 ? -1 : !(clock.status & STA_UNSYNC));
	free(clocks);
}

static void check_device(struct examination *e)
{
	const struct engine_device *device = &stage_device(e->daemon->stage)->device;
	char used[32], budget[32];
	if (!device->kind)
		return;                            /* a warning of status, where one is wanted */
	text_bytes(residency_device_used(e->daemon), used, sizeof used);
	text_bytes(residency_device_budget(e->daemon), budget, sizeof budget);
	doctor_add(&e->list, "gpu", DOCTOR_GOOD, NULL, "engines use %s: %s of %s; their sandbox is wider for it", device->name, used, budget);
}

static void check_peers(struct examination *e)
{
	for (size_t i = 0; i < e->n_peers; i++)
		if (!e->peers[i].up && !e->peers[i].clock_differs)
			doctor_add(&e->list, "peers", DOCTOR_WARNING, "ask who runs it; essaim peers shows when it was there last", "no link with %s: %s", e->peers[i].name,
				   e->peers[i].trouble[0] ? e->peers[i].trouble : N_("not tried yet"));
	if (!e->n_peers)
		doctor_add(&e->list, "peers", DOCTOR_SKIPPED, NULL, "no other node is known here yet (essaim invite --node, essaim invite --partner)");
	else if (e->n_up)
		doctor_add(&e->list, "peers", DOCTOR_GOOD, NULL, "linked with %zu of %zu other nodes", e->n_up, e->n_peers);
}

static void check_versions(struct examination *e)
{
	struct daemon *d = e->daemon;
	struct doctor_version *versions = calloc(PLACEMENT_NODES_MAX, sizeof *versions);
	char (*engines)[NAME_SIZE] = calloc(PLACEMENT_NODES_MAX, sizeof *engines);
	size_t n = 0;
	for (size_t i = 0; versions && engines && i < e->n_peers; i++) {
		struct advert_body advert;
		const struct record *record = trust_find(d->trust, RECORD_ADVERT, e->peers[i].association, e->peers[i].node, daemon_now(d));
		if (!e->peers[i].up || !record || advert_read(record, &advert))
			continue;
		text_copy(engines[n], sizeof engines[n], advert.engine);
		versions[n] = (struct doctor_version){e->peers[i].name, engines[n]};
		n++;
		advert_free(&advert);
	}
	doctor_versions(&e->list, stage_engine_name(d->stage), versions, n);
	free(versions);
	free(engines);
}

/* What `essaim status` warns of: records about to expire, models in trouble, the root key. They are said already, so they go behind the findings
 * as they are. */
static void warnings_into(struct daemon *d, yyjson_mut_doc *doc)
{
	yyjson_mut_val *root = yyjson_mut_doc_get_root(doc), *checks = yyjson_mut_obj_get(root, "checks"), *warnings = yyjson_mut_arr(doc), *w;
	size_t i, n;
	command_warnings_into(d, doc, warnings);
	yyjson_mut_arr_foreach(warnings, i, n, w)
	{
		bool serious = yyjson_mut_get_bool(yyjson_mut_obj_remove_key(w, "serious"));
		yyjson_mut_obj_add_str(doc, w, "check", "node");
		yyjson_mut_obj_add_str(doc, w, "state", serious ? "bad" : "warning");
		yyjson_mut_arr_append(checks, yyjson_mut_val_mut_copy(doc, w));
		if (serious)
			yyjson_mut_set_bool(yyjson_mut_obj_get(root, "ok"), false);
	}
	if (n)
		return;
	w = yyjson_mut_arr_add_obj(doc, checks);
	yyjson_mut_obj_add_str(doc, w, "check", "node");
	yyjson_mut_obj_add_str(doc, w, "state", "good");
	control_say(doc, w, "text", "its records are in force, its models are in order");
	yyjson_mut_obj_add_str(doc, w, "remedy", "");
}

/* A router that fails is among the warnings. */
static void check_mapping(struct examination *e)
{
	struct portmap_answer a;
	struct daemon *d = e->daemon;
	if (portmap_state(d->portmap, &a) == PORTMAP_MAPPED)
		doctor_add(&e->list, "router", DOCTOR_GOOD, NULL, "the router passes ports %u and %u of %s on to this machine (%s)", mesh_port(d->mesh), store_port(d->store),
			   a.host, a.by);
}

static void finish(struct examination *e)
{
	struct daemon *d = e->daemon;
	char observed[ADDRESS_SIZE] = "";
	if (!d->closing && mesh_observed(d->mesh, observed))
		observed[sizeof observed - 1] = 0;
	doctor_reach(&e->list, e->asked, e->n_asked, observed, d->closing ? 0 : mesh_port(d->mesh), d->closing ? 0 : store_port(d->store), dialled_how);
	char *text = doctor_json(&e->list);
	yyjson_doc *read = text ? yyjson_read(text, strlen(text), 0) : NULL;
	yyjson_mut_doc *doc = json_copy(read);
	if (read && !d->closing)
		warnings_into(d, doc);
	control_done(e->request, doc);
	yyjson_doc_free(read);
	free(text);
	free(e);
}

static void on_reach(void *arg, const uint8_t node[KEY_BYTES], int err, const struct reach_answer *answer)
{
	struct examination *e = arg;
	for (size_t i = 0; i < e->n_asked; i++)
		if (!memcmp(e->who[i], node, KEY_BYTES)) {
			e->asked[i].err = err;
			if (answer)
				e->asked[i].answer = *answer;
		}
	if (!--e->waiting)
		finish(e);
}

/* Others' nodes first: a machine beside this one says little about what the world sees. */
static void ask_to_be_dialled(struct examination *e)
{
	for (int own = 0; own < 2; own++)
		for (size_t i = 0; i < e->n_peers && e->n_asked < DOCTOR_ASKED_MAX; i++) {
			const struct mesh_peer *p = &e->peers[i];
			bool ours = !memcmp(p->association, e->daemon->keys.association, KEY_BYTES);
			if (!p->up || ours != (own == 1) || mesh_reach(e->daemon->mesh, p->node, on_reach, e))
				continue;
			memcpy(e->who[e->n_asked], p->node, KEY_BYTES);
			e->asked[e->n_asked++].name = p->name;
			e->waiting++;
		}
}

void command_doctor(void *arg, struct control_request *r, yyjson_val *args)
{
	(void)args;
	struct daemon *d = arg;
	struct examination *e = calloc(1, sizeof *e);
	if (!e) {
		control_fail(r, -ENOMEM, NULL, "no memory to look with");
		return;
	}
	e->daemon = d;
	e->request = r;
	e->n_peers = mesh_peers(d->mesh, e->peers, PLACEMENT_NODES_MAX);
	for (size_t i = 0; i < e->n_peers; i++)
		e->n_up += e->peers[i].up;
	/* what is on a device does not wait for this machine's memory */
	doctor_local(&e->list, d->home, true, still_to_come(d), residency_used(d) > residency_device_used(d) ? residency_used(d) - residency_device_used(d) : 0);
	check_device(e);
	doctor_add(&e->list, "ports", DOCTOR_GOOD, NULL, "listens: links %u, HTTP %u, weights %u", mesh_port(d->mesh), api_port(d->api), store_port(d->store));
	check_clocks(e);
	check_peers(e);
	check_versions(e);
	check_mapping(e);
	ask_to_be_dialled(e);
	if (!e->waiting)
		finish(e);
}
