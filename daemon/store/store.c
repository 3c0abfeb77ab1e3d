/* store.c: the catalogue of models and the store's public verbs. See store.h and catalog.h.
 *
 * A model is put into the torrent session when there is something to exchange: files in its folder, a publisher's files,
 * or wanted ranges. on_change is never called from inside one of these verbs: they owe it, and the wake handle
 * pays on the loop's next turn, so that a caller may call back.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/store/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"
#include "proto/text.h"

#define DRAIN_MS 3000                    /* closing waits so long for a last status */

static void *copy(const void *from, size_t bytes)
{
	void *to = NULL;

	if (bytes) {
		to = malloc(bytes);
		if (to)
			memcpy(to, from, bytes);
	}
	return to;
}

static void on_wake(void *arg)           /* libtorrent's thread */
{
	struct store *store = arg;

	uv_async_send(&store->wake);
}

/* --- workers ----------------------------------------------------------------------------------------- */

static void work_run(uv_work_t *request)
{
	struct store_work *work = request->data;

	work->run(work);
}

static void work_done(uv_work_t *request, int status)
{
	struct store_work *work = request->data;
	struct store *store = work->store;
	struct model *m = work->model;

	store->works--;
	if (m)
		m->works--;
	work->done(work);
	free(work);
	if (m)
		model_free_if_removed(store, m);
	store_close_step(store);
}

int store_work(struct store *store, struct model *m, void (*run)(struct store_work *), void (*done)(struct store_work *),
	       void *arg)
{
	struct store_work *work = calloc(1, sizeof *work);
	int err;

	if (!work)
		return -ENOMEM;
	work->request.data = work;
	work->store = store;
	work->model = m;
	work->paths = m ? m->paths : NULL;
	work->run = run;
	work->done = done;
	work->arg = arg;
	err = uv_queue_work(store->loop, &work->request, work_run, work_done);
	if (err) {
		free(work);
		return err;
	}
	store->works++;
	if (m)
		m->works++;
	return 0;
}

/* --- models ------------------------------------------------------------------------------------------ */

struct model *model_find(const struct store *store, const uint8_t id[KEY_BYTES])
{
	for (struct model *m = store->models; m; m = m->next) {
		if (!m->removing && memcmp(m->id, id, KEY_BYTES) == 0)
			return m;
	}
	return NULL;
}

static void free_paths(char **paths, size_t n)
{
	for (size_t i = 0; paths && i < n; i++)
		free(paths[i]);
	free(paths);
}

static void model_free(struct model *m)
{
	free_paths(m->paths, m->body.n_files);
	while (m->retired) {
		struct retired_paths *r = m->retired;

		m->retired = r->next;
		free_paths(r->paths, m->body.n_files);
		free(r);
	}
	free(m->folder);
	free(m->stamps);
	free(m->have);
	free(m->want);
	free(m->first);
	manifest_free(&m->body);
	free(m);
}

void model_free_if_removed(struct store *store, struct model *m)
{
	if (!m->removing || m->works || m->torrent)
		return;
	/* Nothing holds its files any more: delete them, and come back here without a folder. */
	if (m->folder && store->phase != STORE_CLOSING && disk_delete(store, m) == 0)
		return;
	for (struct model **at = &store->models; *at; at = &(*at)->next) {
		if (*at == m) {
			*at = m->next;
			break;
		}
	}
	model_free(m);
}

void model_fail(struct store *store, struct model *m, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(m->why, sizeof m->why, format, args);
	va_end(args);
	if (!m->failed)
		log_warning("model %s: %s", m->body.name, m->why);
	m->failed = true;
	progress_update(store, m);
}

void model_leave_session(struct store *store, struct model *m)
{
	if (m->torrent)
		torrent_session_remove(store->torrents, m->torrent);
	m->torrent = 0;
	m->known = false;
	m->rate = m->peers = 0;
	if (m->have)
		memset(m->have, 0, PIECES_BYTES(m->layout.n_pieces));
}

static int model_new(struct store *store, const uint8_t id[KEY_BYTES], const struct manifest_body *body, struct model **out)
{
	struct model *m;
	char hex[2 * KEY_BYTES + 1], why[200] = "";
	uint8_t computed[KEY_BYTES];
	size_t bytes;
	int err = 0;

	if (body->n_files == 0 || body->n_files > MODEL_FILES_MAX)
		return ERR_MALFORMED;
	model_id(computed, body->files, body->n_files);
	if (memcmp(computed, id, KEY_BYTES) != 0)
		return ERR_MALFORMED;
	for (size_t i = 0; i < body->n_files; i++) {
		const char *name = body->files[i].name;

		/* manifest_read() saw to the first three; what is written to disk is looked at twice */
		if (!*name || *name == '.' || strchr(name, '/') || disk_is_ours(name))
			return ERR_MALFORMED;
	}
	m = calloc(1, sizeof *m);
	if (!m)
		return -ENOMEM;
	memcpy(m->id, id, KEY_BYTES);
	m->body = *body;
	m->body.files = copy(body->files, body->n_files * sizeof *body->files);
	m->body.extents = copy(body->extents, body->n_extents * sizeof *body->extents);
	m->body.info = copy(body->info, body->info_length);
	if (!m->body.files || (body->n_extents && !m->body.extents) || (body->info_length && !m->body.info)) {
		err = -ENOMEM;
		goto fail;
	}
	if (body->info_length) {
		err = torrent_layout(&m->body, &m->layout, why, sizeof why);
		if (err) {
			log_warning("model %s is refused: %s", body->name, why);
			goto fail;
		}
		m->fetchable = true;
		bytes = PIECES_BYTES(m->layout.n_pieces);
		m->have = calloc(1, bytes);
		m->want = calloc(1, bytes);
		m->first = calloc(1, bytes);
		if (!m->have || !m->want || !m->first) {
			err = -ENOMEM;
			goto fail;
		}
		err = extents_wanted(&m->layout, &m->body, NULL, 0, m->want, m->first);
		if (err)
			goto fail;
	}
	text_hex(id, KEY_BYTES, hex);
	char *models = disk_join(store->home, "models");
	m->folder = models ? disk_join(models, hex) : NULL;
	free(models);
	m->paths = calloc(body->n_files, sizeof *m->paths);
	m->stamps = calloc(body->n_files, sizeof *m->stamps);
	bool found_memory = m->folder && m->paths && m->stamps;
	for (size_t i = 0; found_memory && i < body->n_files; i++) {
		m->paths[i] = disk_join(m->folder, body->files[i].name);
		found_memory = m->paths[i] != NULL;
	}
	if (!found_memory) {
		err = -ENOMEM;
		goto fail;
	}
	m->next = store->models;
	store->models = m;
	*out = m;
	progress_update(store, m);
	return 0;
fail:
	model_free(m);
	return err;
}

/* Published files: trusted when they are what was hashed here; else every piece is read again. */
static int start_published(struct store *store, struct model *m, struct torrent_add *add, uint8_t *have)
{
	const char *which = "";

	if (!disk_unchanged(m, &which)) {
		model_fail(store, m, "%s is not the file that was published any more; put the original back, or remove this "
			   "model and add the new file", which);
		return 0;
	}
	add->stamps = m->stamps;
	if (m->trusted) {
		memset(have, 0xff, PIECES_BYTES(m->layout.n_pieces));
		add->have = have;
	}
	return 1;
}

static int start_fetched(struct store *store, struct model *m, struct torrent_add *add, uint8_t *have)
{
	bool fresh;
	char why[200];

	if (disk_prepare(m, &fresh, why, sizeof why)) {
		model_fail(store, m, "%s", why);
		return 0;
	}
	if (fresh || disk_read_resume(m, have))
		add->have = have;
	return 1;
}

int model_start(struct store *store, struct model *m)
{
	struct torrent_add add = {.body = &m->body, .layout = &m->layout, .paths = (const char *const *)m->paths,
				  .want = m->want, .first = m->first};
	uint8_t *have = calloc(1, PIECES_BYTES(m->layout.n_pieces));
	int err = 0;

	if (!have)
		return -ENOMEM;
	if ((m->published ? start_published : start_fetched)(store, m, &add, have)) {
		err = torrent_session_add(store->torrents, ++store->next_torrent, &add, m->why, sizeof m->why);
		if (err) {
			model_fail(store, m, "its torrent cannot be started: %s", err_str(err));
		} else {
			m->torrent = store->next_torrent;
			m->known = false;
			m->failed = false;
			m->why[0] = 0;
			m->saved_at = uv_now(store->loop);
		}
	}
	free(have);
	progress_update(store, m);
	return err;
}

/* --- open and close ---------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle)
{
	struct store *store = handle->data;
	void (*on_closed)(void *) = store->on_closed;
	void *arg = store->on_closed_arg;

	if (--store->handles)
		return;
	while (store->models) {
		struct model *m = store->models;

		store->models = m->next;
		model_free(m);
	}
	hash_release(store);
	peers_release(store);
	free(store->home);
	free(store);
	if (on_closed)
		on_closed(arg);
}

/* What is left of the store goes when both are closed. */
static void close_handles(struct store *store)
{
	uv_close((uv_handle_t *)&store->timer, on_handle_closed);
	uv_close((uv_handle_t *)&store->wake, on_handle_closed);
}

int store_open(struct store **out, const struct store_config *config, char *why, size_t why_size)
{
	struct store *store = calloc(1, sizeof *store);
	char *models;
	int err;

	if (!store)
		return -ENOMEM;
	store->loop = config->loop;
	store->config = *config;
	store->home = disk_join(config->home, "");
	models = disk_join(config->home, "models");
	err = store->home && models ? disk_make_folder(models) : -ENOMEM;
	if (err) {
		snprintf(why, why_size, "%s/models: %s", config->home, err_str(err));
		goto fail;
	}
	err = uv_async_init(store->loop, &store->wake, progress_wake);
	if (err)
		goto fail;
	uv_timer_init(store->loop, &store->timer);
	store->timer.data = store->wake.data = store;
	store->handles = 2;
	/* Its thread may wake us before this returns. */
	err = torrent_session_open(&store->torrents, config->listen_host, config->listen_port, on_wake, store, why, why_size);
	if (err) {
		close_handles(store);
		goto out;
	}
	uv_timer_start(&store->timer, progress_tick, STORE_POLL_MS, STORE_POLL_MS);
	uv_async_send(&store->wake);
	*out = store;
out:
	free(models);
	return err;
fail:
	free(models);
	free(store->home);
	free(store);
	return err;
}

uint16_t store_port(const struct store *store)
{
	return torrent_session_port(store->torrents);
}

static void close_session(struct store_work *work)       /* worker */
{
	torrent_session_close(work->store->torrents);
}

static void on_session_closed(struct store_work *work)
{
	struct store *store = work->store;

	store->torrents = NULL;
	for (struct model *m = store->models, *next; m; m = next) {
		next = m->next;
		m->torrent = 0;
		if (m->removing)
			model_free_if_removed(store, m);
		else if (!m->published && m->known && m->save_due)
			disk_save_resume(store, m);
	}
}

/* DRAINING: libtorrent tells what is there. SAVING: its session ends, then resume data are written. */
void store_close_step(struct store *store)
{
	if (store->phase == STORE_DRAINING && uv_now(store->loop) >= store->drain_until) {
		store->phase = STORE_SAVING;
		if (store_work(store, NULL, close_session, on_session_closed, NULL) == 0)
			return;
		torrent_session_close(store->torrents);
		store->torrents = NULL;
	}
	if (store->phase == STORE_SAVING && store->works == 0) {
		store->phase = STORE_CLOSING;
		close_handles(store);
	}
}

void store_close(struct store *store, void (*on_closed)(void *arg), void *arg)
{
	if (store->phase != STORE_OPEN)
		return;
	store->on_closed = on_closed;
	store->on_closed_arg = arg;
	store->phase = STORE_DRAINING;
	uv_update_time(store->loop);
	store->drain_until = uv_now(store->loop) + DRAIN_MS;
	atomic_store(&store->cancel, true);
	torrent_session_drain(store->torrents);
}

/* --- the verbs --------------------------------------------------------------------------------------- */

/* paths become the model's; their stamps are taken. */
static int publish(struct store *store, struct model *m, const char *const *paths)
{
	struct torrent_stamp stamps[MODEL_FILES_MAX];
	bool trusted = true;
	int err;

	for (size_t i = 0; i < m->body.n_files; i++) {
		err = disk_stamp(paths[i], &stamps[i]);
		if (err)
			return err;
		if (stamps[i].size != m->body.files[i].size)
			return ERR_CHANGED;
		trusted = trusted && hash_was_here(store, paths[i], &stamps[i], m->body.files[i].root);
	}
	if (m->published && !m->failed) {
		bool same = true;

		for (size_t i = 0; i < m->body.n_files; i++)
			same = same && strcmp(m->paths[i], paths[i]) == 0 && m->stamps[i].mtime_ns == stamps[i].mtime_ns;
		if (same)
			return 0;
	}
	err = disk_make_folder(m->folder);
	if (err)
		return err;
	struct retired_paths *old = calloc(1, sizeof *old);
	char **now = calloc(m->body.n_files, sizeof *now);
	bool found_memory = old && now;
	for (size_t i = 0; found_memory && i < m->body.n_files; i++) {
		now[i] = disk_join(paths[i], "");
		found_memory = now[i] != NULL;
	}
	if (!found_memory) {
		free(old);
		free_paths(now, m->body.n_files);
		return -ENOMEM;
	}
	model_leave_session(store, m);
	*old = (struct retired_paths){m->retired, m->paths};
	m->retired = old;
	m->paths = now;
	memcpy(m->stamps, stamps, m->body.n_files * sizeof *stamps);
	m->published = true;
	m->trusted = trusted;
	m->failed = false;
	m->why[0] = 0;
	if (trusted)
		disk_save_origin(store, m);
	return model_start(store, m);
}

int store_add(struct store *store, const uint8_t model[KEY_BYTES], const struct manifest_body *body, const char *const *paths)
{
	struct model *m = model_find(store, model);
	struct stat st;
	bool created = false;
	int err = 0;

	if (store->phase != STORE_OPEN)
		return ERR_CANCELLED;
	if (!m) {
		for (m = store->models; m; m = m->next) {
			if (memcmp(m->id, model, KEY_BYTES) == 0)
				return ERR_BUSY;       /* its files are still being deleted */
		}
		err = model_new(store, model, body, &m);
		if (err)
			return err;
		created = true;
	}
	if (!m->fetchable)
		return paths ? ERR_UNSUPPORTED : 0;    /* nothing can be exchanged without metainfo */
	if (paths) {
		err = publish(store, m, paths);
	} else if (created && stat(m->folder, &st) == 0) {
		err = disk_read_origin(m);
		if (err == 0)
			err = model_start(store, m);
		else if (err != -ENOENT)
			model_fail(store, m, "%s/origin cannot be read (%s); remove this model and add its file again", m->folder, err_str(err));
		else
			err = model_start(store, m);   /* what an earlier run fetched */
	}
	if (err && created && paths) {
		store->models = m->next;
		model_leave_session(store, m);
		model_free(m);
	}
	return paths ? err : 0;
}

int store_remove(struct store *store, const uint8_t model[KEY_BYTES])
{
	struct model *m = model_find(store, model);

	if (!m)
		return ERR_UNKNOWN;
	m->removing = true;
	if (m->torrent)
		torrent_session_remove(store->torrents, m->torrent);   /* TORRENT_REMOVED goes on */
	else
		model_free_if_removed(store, m);
	return 0;
}

/* Asked before the first byte: an answer now is worth more than a full disk in an hour. */
static bool enough_room(struct store *store, struct model *m)
{
	uint64_t wanted = extents_bytes(&m->layout, m->want, NULL), there = disk_allocated(m);
	uint64_t needed = wanted > there ? wanted - there : 0, room = disk_free(store->home);
	char a[32], b[32];

	if (needed <= room)
		return true;
	model_fail(store, m, "%s more are needed for the wanted layers, and %s is free in %s: free some space, or share less "
		   "memory so that fewer layers are chosen", text_bytes(needed, a, sizeof a), text_bytes(room, b, sizeof b), store->home);
	return false;
}

int store_want(struct store *store, const uint8_t model[KEY_BYTES], const struct layer_range *ranges, size_t n)
{
	struct model *m = model_find(store, model);
	bool retry;
	int err = 0;

	if (!m)
		return ERR_UNKNOWN;
	if (store->phase != STORE_OPEN)
		return ERR_CANCELLED;
	if (!m->fetchable)
		return n ? ERR_UNSUPPORTED : 0;
	err = extents_wanted(&m->layout, &m->body, ranges, n, m->want, m->first);
	if (err) {
		extents_wanted(&m->layout, &m->body, m->ranges, m->n_ranges, m->want, m->first);
		return err;
	}
	if (n)
		memcpy(m->ranges, ranges, n * sizeof *ranges);
	m->n_ranges = n;
	retry = m->failed;
	m->failed = false;
	if (retry)
		m->why[0] = 0;
	if (n && !m->published && !enough_room(store, m)) {
		if (m->torrent)
			torrent_session_want(store->torrents, m->torrent, NULL, NULL);
	} else if (!m->torrent) {
		if (n || m->published)
			err = model_start(store, m);
	} else {
		torrent_session_want(store->torrents, m->torrent, m->want, m->first);
		if (retry)
			torrent_session_retry(store->torrents, m->torrent);
	}
	progress_update(store, m);
	return err;
}

int store_status(const struct store *store, const uint8_t model[KEY_BYTES], struct store_status *out)
{
	const struct model *m = model_find(store, model);

	if (!m)
		return ERR_UNKNOWN;
	*out = m->status;
	return 0;
}

size_t store_models(const struct store *store, uint8_t (*out)[KEY_BYTES], size_t max)
{
	size_t n = 0;

	for (const struct model *m = store->models; m && n < max; m = m->next) {
		if (!m->removing)
			memcpy(out[n++], m->id, KEY_BYTES);
	}
	return n;
}

const struct manifest_body *store_manifest(const struct store *store, const uint8_t model[KEY_BYTES])
{
	const struct model *m = model_find(store, model);

	return m ? &m->body : NULL;
}

/* One file, with what was promised of it checked on the open descriptor itself. */
static int open_file(const struct model *m, size_t i, int *out)
{
	int fd = open(m->paths[i], O_RDONLY | O_CLOEXEC | (m->published ? 0 : O_NOFOLLOW));
	struct stat st;

	if (fd < 0)
		return ERR_CHANGED;
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != m->body.files[i].size ||
	    (m->published && st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec != m->stamps[i].mtime_ns)) {
		close(fd);
		return ERR_CHANGED;
	}
	*out = fd;
	return 0;
}

int store_open_files(struct store *store, const uint8_t model[KEY_BYTES], int *fds, size_t *n_fds,
		     struct model_extent **extents, size_t *n_extents)
{
	struct model *m = model_find(store, model);
	size_t opened = 0;
	int err = 0;

	*n_fds = 0;
	*extents = NULL;
	*n_extents = 0;
	if (!m)
		return ERR_UNKNOWN;
	if (m->failed && m->published)
		return ERR_CHANGED;
	if (!m->fetchable || !m->known || m->status.bytes_on_disk == 0 || !pieces_cover(m->have, m->want, m->layout.n_pieces))
		return ERR_ARRIVING;
	for (; opened < m->body.n_files; opened++) {
		err = open_file(m, opened, &fds[opened]);
		if (err)
			goto fail;
	}
	err = extents_verified(&m->layout, m->have, extents, n_extents);
	if (err)
		goto fail;
	*n_fds = opened;
	return 0;
fail:
	if (err == ERR_CHANGED) {
		model_leave_session(store, m);
		model_fail(store, m, m->published ? "%s is not the file that was published any more; put the original back, or remove "
						    "this model and add the new file"
						  : "%s vanished or was altered; it will be checked and completed when it is wanted again",
			   m->paths[opened]);
	}
	while (opened > 0)
		close(fds[--opened]);
	return err;
}
