/* model_add, model_list, model_pull, model_remove, model_clear. Shapes: doc/CONTROL.md.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "proto/log.h"
#include "proto/text.h"

void command_ranges_into(yyjson_mut_doc *doc, yyjson_mut_val *o, const char *key, const struct layer_range *ranges, size_t n)
{
	yyjson_mut_val *array = yyjson_mut_obj_add_arr(doc, o, key);
	for (size_t i = 0; i < n; i++) {
		yyjson_mut_val *pair = yyjson_mut_arr_add_arr(doc, array);
		yyjson_mut_arr_add_uint(doc, pair, ranges[i].first);
		yyjson_mut_arr_add_uint(doc, pair, ranges[i].end);
	}
}

/* What a budget has to count with: the parts that come once, and the largest layer. */
static void parts_into(yyjson_mut_doc *doc, yyjson_mut_val *o, const struct manifest_body *m)
{
	uint64_t once[GROUP_SHARED + 1] = {0}, layers[MODEL_LAYERS_MAX] = {0}, largest = 0;
	for (size_t i = 0; i < m->n_extents; i++) {
		const struct model_extent *e = &m->extents[i];
		if (e->group <= GROUP_SHARED)
			once[e->group] += e->length;
		else if (e->group >= GROUP_LAYER && e->group - GROUP_LAYER < m->n_layer)
			layers[e->group - GROUP_LAYER] += e->length;
	}
	for (uint32_t i = 0; i < m->n_layer; i++)
		if (layers[i] > largest)
			largest = layers[i];
	yyjson_mut_val *parts = yyjson_mut_obj_add_obj(doc, o, "parts");
	yyjson_mut_obj_add_uint(doc, parts, "header", once[GROUP_HEADER]);
	yyjson_mut_obj_add_uint(doc, parts, "embedding", once[GROUP_EMBEDDING]);
	yyjson_mut_obj_add_uint(doc, parts, "output", once[GROUP_OUTPUT]);
	yyjson_mut_obj_add_uint(doc, parts, "shared", once[GROUP_SHARED]);
	yyjson_mut_obj_add_uint(doc, parts, "layer", largest);
}

static const char *state_of(const struct daemon *d, const struct residency *r, const struct store_status *status)
{
	if (r->state == STAGE_READY && r->n_placed && !r->start_pending)
		return N_("ready");
	if (r->state == STAGE_QUARANTINED || r->state == STAGE_FAILED || status->state == STORE_FAILED)
		return N_("failed");
	return r->n_placed && sharing_is_open(&d->sharing) ? N_("arriving") : N_("idle");
}

static void model_into(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *o, const struct residency *r)
{
	const struct manifest_body *m = store_manifest(d->store, r->model);
	struct store_status status = {0};
	struct stage_info info = {0};
	char association[NAME_SIZE];
	uint64_t created;
	store_status(d->store, r->model, &status);
	stage_info(d->stage, r->model, &info);
	views_publisher(d, r->model, association, &created);
	yyjson_mut_obj_add_str(doc, o, "id", json_hex(doc, r->model, KEY_BYTES));
	yyjson_mut_obj_add_strcpy(doc, o, "name", m->name);
	yyjson_mut_obj_add_strcpy(doc, o, "association", association);
	yyjson_mut_obj_add_strcpy(doc, o, "licence", m->licence);
	yyjson_mut_obj_add_strcpy(doc, o, "architecture", m->architecture);
	yyjson_mut_obj_add_strcpy(doc, o, "quantisation", m->quantisation);
	yyjson_mut_obj_add_uint(doc, o, "bytes", status.bytes_total);
	yyjson_mut_obj_add_uint(doc, o, "parameters", m->parameters);
	yyjson_mut_obj_add_uint(doc, o, "layers", m->n_layer);
	parts_into(doc, o, m);
	yyjson_mut_obj_add_uint(doc, o, "context", residency_context(d, m));
	yyjson_mut_obj_add_bool(doc, o, "splittable", m->splittable);
	yyjson_mut_obj_add_bool(doc, o, "approved", r->approved);
	yyjson_mut_obj_add_bool(doc, o, "chat_template", m->chat_template);
	yyjson_mut_obj_add_str(doc, o, "state", state_of(d, r, &status));
	command_ranges_into(doc, o, "placed", r->placed, r->n_placed);
	command_ranges_into(doc, o, "resident", info.ranges, info.state == STAGE_READY ? info.n_ranges : 0);
	yyjson_mut_val *engine = yyjson_mut_obj_add_obj(doc, o, "engine");
	static const char *const states[] = {"none", "starting", "loading", "ready", "failed", "quarantined"};
	yyjson_mut_obj_add_str(doc, engine, "state", states[info.state]);
	yyjson_mut_obj_add_uint(doc, engine, "pid", (uint64_t)(info.pid > 0 ? info.pid : 0));
	yyjson_mut_obj_add_bool(doc, engine, "sandboxed", info.sandboxed);
	yyjson_mut_obj_add_uint(doc, engine, "weight_bytes", info.weight_bytes);
	yyjson_mut_obj_add_uint(doc, engine, "kv_bytes", info.kv_bytes);
	yyjson_mut_obj_add_uint(doc, engine, "compute_bytes", info.compute_bytes);
	yyjson_mut_obj_add_uint(doc, engine, "device_bytes", info.device_bytes);
	yyjson_mut_obj_add_uint(doc, engine, "device_layers", info.device_layers);
	yyjson_mut_obj_add_uint(doc, engine, "sessions", info.sessions);
	uint32_t kept = ring_kept(d->ring, r->model);
	yyjson_mut_obj_add_uint(doc, engine, "sessions_open", info.sessions_open > kept ? info.sessions_open - kept : 0);
	yyjson_mut_obj_add_uint(doc, engine, "sessions_kept", kept);
	yyjson_mut_obj_add_uint(doc, engine, "layer_microseconds", info.layer_microseconds);
	yyjson_mut_obj_add_uint(doc, engine, "crashes", info.crashes);
	yyjson_mut_obj_add_uint(doc, o, "bytes_wanted", status.bytes_wanted);
	yyjson_mut_obj_add_uint(doc, o, "bytes_have", status.bytes_have);
	yyjson_mut_obj_add_uint(doc, o, "bytes_on_disk", status.bytes_on_disk);
	yyjson_mut_obj_add_bool(doc, o, "complete", status.complete);
	yyjson_mut_obj_add_uint(doc, o, "rate", status.rate);
	if (status.seconds_left == UINT64_MAX)
		yyjson_mut_obj_add_null(doc, o, "seconds_left");
	else
		yyjson_mut_obj_add_uint(doc, o, "seconds_left", status.seconds_left);
	yyjson_mut_obj_add_uint(doc, o, "peers", status.peers);
	yyjson_mut_obj_add_uint(doc, o, "cost", r->cost);
	yyjson_mut_obj_add_strcpy(doc, o, "why", r->why[0] ? r->why : status.why);
}

void command_models_into(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *array, const uint8_t *only)
{
	for (size_t i = 0; i < d->n_models; i++)
		if ((!only || !memcmp(only, d->models[i].model, KEY_BYTES)) && store_manifest(d->store, d->models[i].model))
			model_into(d, doc, yyjson_mut_arr_add_obj(doc, array), &d->models[i]);
}

static void done_with_model(struct daemon *d, struct control_request *r, const uint8_t model[KEY_BYTES])
{
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	const struct residency *residency = residency_find(d, model);
	yyjson_mut_val *o = yyjson_mut_obj_add_obj(doc, root, "model");
	if (residency && store_manifest(d->store, model))
		model_into(d, doc, o, residency);
	control_done(r, doc);
}

void command_model_list(void *arg, struct control_request *r, yyjson_val *args)
{
	(void)args;
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	command_models_into(arg, doc, yyjson_mut_obj_add_arr(doc, root, "models"), NULL);
	control_done(r, doc);
}

/* --- model_add: the engine reads the file, the store hashes it, this node signs the manifest ----------- */

struct adding {
	struct daemon *daemon;
	struct control_request *request;
	char name[NAME_SIZE], licence[64];
	bool private_;
	size_t n_paths;
	char *paths[MODEL_FILES_MAX];
	const char *step;
};

static void adding_free(struct adding *a)
{
	for (size_t i = 0; i < a->n_paths; i++)
		free(a->paths[i]);
	free(a);
}

static void on_add_progress(void *arg, unsigned permille)
{
	struct adding *a = arg;
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_str(doc, root, "step", a->step);
	yyjson_mut_obj_add_uint(doc, root, "permille", permille);
	control_progress(a->request, doc);
}

static void on_hashed(void *arg, int err, struct manifest_body *body, const char *why)
{
	struct adding *a = arg;
	struct daemon *d = a->daemon;
	uint8_t id[KEY_BYTES];
	if (err) {
		control_fail(a->request, err, NULL, "%s", why && *why ? why : err_str(err));
		adding_free(a);
		return;
	}
	model_id(id, body->files, body->n_files);
	struct record head = records_head(d, RECORD_MANIFEST, id, 365ull * 86400);
	struct buf record;
	buf_init(&record, RECORD_MAX);
	err = manifest_sign(&record, &head, body, d->keys.node_secret);
	if (!err)
		err = store_add(d->store, id, body, (const char *const *)a->paths);
	if (!err && !residency_find(d, id)) {
		if (d->n_models == DAEMON_MODELS_MAX)
			err = ERR_LIMIT;
		else {
			struct residency *r = &d->models[d->n_models++];
			memset(r, 0, sizeof *r);
			memcpy(r->model, id, KEY_BYTES);
		}
	}
	if (!err)
		err = records_publish(d, &record);
	else
		buf_release(&record);
	if (!err && d->keys.has_steward && !(err = records_approve(d, id, false)))
		residency_find(d, id)->approved = true;
	manifest_free(body);
	if (err)
		control_fail(a->request, err, NULL, "the model cannot be published: %s", err_str(err));
	else {
		log_notice("model %s is published", a->name);
		residency_refresh(d);
		done_with_model(d, a->request, id);
	}
	adding_free(a);
}

/* How a licence is told: nothing (0), something that lets others have the file (1), or that it is not to be passed on (-1). What is not in
 * these lists is the publisher's word. */
static int licence_passes_on(const char *licence)
{
	static const char *const nothing[] = {"", "none", "other", "unknown", "unspecified"};
	static const char *const nobody[] = {"all rights reserved", "commercial", "confidential", "internal", "proprietary", "unlicensed",
					     "licenseref proprietary"};
	char plain[64];
	text_copy(plain, sizeof plain, licence);
	for (char *c = plain; *c; c++)
		*c = *c == '-' || *c == '_' ? ' ' : *c;
	for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++)
		if (!strcasecmp(plain, nothing[i]))
			return 0;
	for (size_t i = 0; i < sizeof nobody / sizeof *nobody; i++)
		if (!strcasecmp(plain, nobody[i]))
			return -1;
	return 1;
}

static void on_inspected(void *arg, int err, struct manifest_body *body, const char *why)
{
	struct adding *a = arg;
	if (err) {
		control_fail(a->request, err, "if it was downloaded, compare its size and SHA-256 with its origin", "%s", why && *why ? why : err_str(err));
		adding_free(a);
		return;
	}
	if (a->name[0])
		text_copy(body->name, sizeof body->name, a->name);
	else
		text_copy(a->name, sizeof a->name, body->name);
	if (a->licence[0])
		text_copy(body->licence, sizeof body->licence, a->licence);
	body->private_ = a->private_;
	if (a->private_ && !a->licence[0])
		text_copy(body->licence, sizeof body->licence, "private");
	int passes = a->private_ ? 1 : licence_passes_on(body->licence);
	if (passes <= 0) {
		if (passes)
			control_fail(a->request, ERR_DENIED, "--private keeps it within this association's own nodes, if you may do that",
				     "its licence (%s) does not let it be passed on", body->licence);
		else
			control_fail(a->request, ERR_DENIED, "say --licence SPDX-NAME if you may pass it on, or --private for this association's own nodes only",
				     "the file does not say its licence");
		manifest_free(body);
		adding_free(a);
		return;
	}
	a->step = "hashing";
	store_hash(a->daemon->store, (const char *const *)a->paths, a->n_paths, body, on_add_progress, on_hashed, a);
}

/* "x-00001-of-00003.gguf" stands for all its parts. */
static int split_paths(struct adding *a, const char *path)
{
	size_t length = strlen(path);
	unsigned part, parts;
	int used = 0;
	if (length > 20 && sscanf(path + length - 20, "-%5u-of-%5u.gguf%n", &part, &parts, &used) == 2 && used == 20 && parts && parts <= MODEL_FILES_MAX) {
		for (unsigned i = 1; i <= parts; i++)
			if (asprintf(&a->paths[a->n_paths], "%.*s-%05u-of-%05u.gguf", (int)(length - 20), path, i, parts) < 0)
				return -ENOMEM;
			else
				a->n_paths++;
		return 0;
	}
	a->paths[0] = strdup(path);
	a->n_paths = a->paths[0] ? 1 : 0;
	return a->n_paths ? 0 : -ENOMEM;
}

void command_model_add(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	const char *path = yyjson_get_str(yyjson_obj_get(args, "path"));
	const char *name = yyjson_get_str(yyjson_obj_get(args, "name")), *licence = yyjson_get_str(yyjson_obj_get(args, "licence"));
	if (!path || path[0] != '/') {
		control_fail(r, ERR_UNKNOWN, NULL, "which file? give the path of a GGUF file");
		return;
	}
	if (name && !text_is_name(name)) {
		control_fail(r, ERR_MALFORMED, NULL, "'%s' is no name: 1 to 63 characters, without / or @", name);
		return;
	}
	uint8_t association[KEY_BYTES];
	if (trust_association_of(d->trust, d->keys.node, daemon_now(d), association)) {
		control_fail(r, ERR_DENIED, "join an association first", "this node is not on a roster: nobody would believe its manifest");
		return;
	}
	struct adding *a = calloc(1, sizeof *a);
	if (!a || split_paths(a, path)) {
		control_fail(r, UV_ENOMEM, NULL, "out of memory");
		if (a)
			adding_free(a);
		return;
	}
	a->daemon = d;
	a->request = r;
	a->private_ = yyjson_get_bool(yyjson_obj_get(args, "private"));
	if (name)
		text_copy(a->name, sizeof a->name, name);
	if (licence)
		text_copy(a->licence, sizeof a->licence, licence);
	a->step = "reading";
	int fds[MODEL_FILES_MAX];
	const char *names[MODEL_FILES_MAX];
	size_t n = 0;
	int err = 0;
	for (; n < a->n_paths; n++) {
		struct stat st;
		fds[n] = open(a->paths[n], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fds[n] >= 0 && (fstat(fds[n], &st) || !S_ISREG(st.st_mode))) {
			close(fds[n]);
			fds[n] = -1;
			errno = EINVAL;
		}
		if (fds[n] < 0) {
			err = -errno;
			control_fail(r, err, "the daemon's user must be able to read it; an installed service sees only /var/lib/essaim/files", "%s: %s", a->paths[n],
				     err == -EINVAL ? N_("it is not a file") : strerror(errno));
			break;
		}
		const char *slash = strrchr(a->paths[n], '/');
		names[n] = slash ? slash + 1 : a->paths[n];
	}
	if (!err) {
		err = stage_inspect(d->stage, fds, n, names, d->config.share_context, on_add_progress, on_inspected, a);
		if (!err)
			return;
		control_fail(r, err, NULL, "the engine cannot look at the file: %s", err_str(err));
	} else {
		while (n)
			close(fds[--n]);
	}
	adding_free(a);
}

/* --- model_pull: approve, then follow until it is resident ---------------------------------------------- */

struct pulling {
	struct daemon *daemon;
	struct control_request *request;
	uint8_t model[KEY_BYTES];
	uv_timer_t timer;
};

static void on_pull_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void on_pull_tick(uv_timer_t *timer)
{
	struct pulling *p = timer->data;
	struct daemon *d = p->daemon;
	struct residency *r = residency_find(d, p->model);
	struct store_status status;
	if (control_is_gone(p->request) || d->closing || !r || store_status(d->store, p->model, &status)) {
		control_fail(p->request, ERR_CANCELLED, NULL, "no longer followed");
	} else if (r->state == STAGE_READY && !r->start_pending && r->n_placed) {
		done_with_model(d, p->request, p->model);
	} else if (r->state == STAGE_QUARANTINED || status.state == STORE_FAILED || (!r->n_placed && r->why[0])) {
		control_fail(p->request, ERR_MODEL, "essaim model list", "%s", r->why[0] ? r->why : status.why);
	} else {
		yyjson_mut_val *root;
		yyjson_mut_doc *doc = json_object(&root);
		static const char *const states[] = {"idle", "checking", "fetching", "loading", "failed"};
		yyjson_mut_obj_add_uint(doc, root, "bytes_wanted", status.bytes_wanted);
		yyjson_mut_obj_add_uint(doc, root, "bytes_have", status.bytes_have);
		yyjson_mut_obj_add_uint(doc, root, "rate", status.rate);
		if (status.seconds_left != UINT64_MAX)
			yyjson_mut_obj_add_uint(doc, root, "seconds_left", status.seconds_left);
		yyjson_mut_obj_add_uint(doc, root, "peers", status.peers);
		yyjson_mut_obj_add_str(doc, root, "state", states[status.state]);
		control_progress(p->request, doc);
		return;
	}
	uv_timer_stop(timer);
	uv_close((uv_handle_t *)timer, on_pull_closed);
}

void command_model_pull(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	uint8_t model[KEY_BYTES];
	if (command_find_model(d, r, args, model))
		return;
	if (!trust_approved(d->trust, d->keys.association, model, daemon_now(d))) {
		int err = records_approve(d, model, false);
		if (err) {
			control_fail(r, err, "run it on the node with the steward key: its approval reaches this node by itself", "%s",
				     err == ERR_DENIED ? N_("this node cannot approve a model for its association") : err_str(err));
			return;
		}
	}
	struct residency *here = residency_find(d, model);
	if (here)
		residency_retry(d, here);
	residency_refresh(d);
	yyjson_val *wait = yyjson_obj_get(args, "wait");
	struct pulling *p = wait && !yyjson_get_bool(wait) ? NULL : calloc(1, sizeof *p);
	if (!p) {
		done_with_model(d, r, model);
		return;
	}
	p->daemon = d;
	p->request = r;
	memcpy(p->model, model, KEY_BYTES);
	uv_timer_init(d->loop, &p->timer);
	p->timer.data = p;
	uv_timer_start(&p->timer, on_pull_tick, 50, 250);
}

void command_model_remove(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	uint8_t model[KEY_BYTES];
	struct ring_counts counts = ring_counts(d->ring);
	if (command_find_model(d, r, args, model))
		return;
	struct stage_info info;
	if (!stage_info(d->stage, model, &info) && info.sessions_open && counts.home + counts.serving) {
		control_fail(r, ERR_BUSY, "wait until its sessions have ended", "the model is in use: %u sessions", info.sessions_open);
		return;
	}
	const struct manifest_body *m = store_manifest(d->store, model);
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_str(doc, root, "id", json_hex(doc, model, KEY_BYTES));
	yyjson_mut_obj_add_strcpy(doc, root, "name", m->name);
	int err = records_approve(d, model, true);
	if (err) {
		yyjson_mut_doc_free(doc);
		control_fail(r, err, "run it on the node with the steward key", "this node cannot withdraw the approval: %s", err_str(err));
		return;
	}
	struct residency *residency = residency_find(d, model);
	residency->approved = false;
	residency->n_placed = 0;
	residency->cost = 0;
	stage_stop(d->stage, model);
	store_want(d->store, model, NULL, 0);
	err = store_remove(d->store, model);
	if (!err) {
		*residency = d->models[--d->n_models];
		d->advert_due = true;
		control_done(r, doc);
		return;
	}
	yyjson_mut_doc_free(doc);
	control_fail(r, err, NULL, "its files cannot be removed: %s", err_str(err));
}

void command_model_clear(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	uint8_t model[KEY_BYTES];
	if (command_find_model(d, r, args, model))
		return;
	struct residency *residency = residency_find(d, model);
	bool ended = residency->state == STAGE_QUARANTINED || residency->state == STAGE_FAILED;
	stage_clear(d->stage, model);
	quarantine_remove(d->home, model);
	if (ended) {
		residency->state = STAGE_NONE;
		residency->why[0] = 0;
		residency->retry_at = daemon_ms(d);
	}
	residency->attempts = 0;
	done_with_model(d, r, model);
}
