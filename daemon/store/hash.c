/* hash.c: hashing what is published and, once a whole file is here, checking its publisher's SHA-256. On workers;
 * progress is read by the store's timer.
 *
 * Each file is read once, from its first byte to its last: SHA-1 and SHA-256 pieces and the file's SHA-256 are computed in
 * that pass (torrent_maker_*). Size and time are taken from the open descriptor before and after; a difference means
 * that the hashes are of something that never existed, and the job fails.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/store/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"
#include "proto/text.h"

#define CHUNK (1u << 20)                 /* bytes a read */
#define INFO_MAX (208u << 10)            /* of metainfo in a manifest; extents and the rest need the other 48 KiB */

struct hash_job {
	struct hash_job *next;
	char **paths;
	size_t n;
	struct torrent_stamp stamps[MODEL_FILES_MAX];
	struct manifest_body body;
	atomic_uint permille;
	unsigned told;
	atomic_bool *cancel;
	void (*progress)(void *arg, unsigned permille);
	void (*done)(void *arg, int err, struct manifest_body *body, const char *why);
	void *arg;
	int early;                       /* refused before it began */
};

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* One file into the maker. Worker. */
static int feed_file(struct hash_job *job, size_t i, struct torrent_maker *maker, uint64_t total, uint64_t *read_so_far,
		     char *why, size_t why_size)
{
	int fd = open(job->paths[i], O_RDONLY | O_CLOEXEC), err = 0;
	uint8_t *chunk = malloc(CHUNK);
	struct torrent_stamp after;

	if (fd < 0 || !chunk) {
		err = fd < 0 ? -errno : -ENOMEM;
		goto out;
	}
	posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	for (;;) {
		ssize_t got = read(fd, chunk, CHUNK);

		if (atomic_load(job->cancel)) {
			err = ERR_CANCELLED;
			goto out;
		}
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			err = -errno;
			goto out;
		}
		if (got == 0)
			break;
		err = torrent_maker_feed(maker, i, chunk, (size_t)got);
		if (err)
			goto out;
		*read_so_far += (uint64_t)got;
		atomic_store(&job->permille, (unsigned)((double)*read_so_far * 1000 / (double)total));
	}
	err = disk_stamp(job->paths[i], &after);
	if (!err && (after.size != job->stamps[i].size || after.mtime_ns != job->stamps[i].mtime_ns))
		err = ERR_CHANGED;
out:
	if (err && err != ERR_CANCELLED && !*why)
		snprintf(why, why_size, err == ERR_CHANGED ? "%s changed while it was read: add it when it is complete (%s)" : "%s: %s",
			 job->paths[i], err_str(err));
	free(chunk);
	if (fd >= 0)
		close(fd);
	return err;
}

/* Sizes and names, before anything is read. Worker. */
static int look_at_files(struct hash_job *job, uint64_t *sizes, uint64_t *total, char *why, size_t why_size)
{
	for (size_t i = 0; i < job->n; i++) {
		const char *name = base_name(job->paths[i]);
		int err = disk_stamp(job->paths[i], &job->stamps[i]);

		if (err) {
			snprintf(why, why_size, "%s: %s", job->paths[i], err == ERR_CHANGED ? "is not a file" : err_str(err));
			return err == ERR_CHANGED ? ERR_MODEL : err;
		}
		if (job->stamps[i].size == 0) {
			snprintf(why, why_size, "%s is empty", job->paths[i]);
			return ERR_MODEL;
		}
		if (strlen(name) >= sizeof job->body.files[i].name || !text_is_utf8(name, strlen(name)) || *name == '.' || disk_is_ours(name)) {
			snprintf(why, why_size, "%s: its name is too long, not UTF-8, reserved or begins with a dot: rename it", job->paths[i]);
			return ERR_MODEL;
		}
		sizes[i] = job->stamps[i].size;
		*total += sizes[i];
	}
	return 0;
}

static void run_hash(struct store_work *work)            /* worker */
{
	struct hash_job *job = work->arg;
	struct manifest_body *body = &job->body;
	struct torrent_maker *maker = NULL;
	const char *names[MODEL_FILES_MAX];
	uint64_t sizes[MODEL_FILES_MAX], total = 0, read_so_far = 0;
	uint8_t roots[MODEL_FILES_MAX][KEY_BYTES], sha256[MODEL_FILES_MAX][KEY_BYTES];

	work->err = job->early;
	if (work->err)
		return;
	if (body->n_files != job->n) {
		free(body->files);
		body->files = calloc(job->n, sizeof *body->files);
		body->n_files = body->files ? job->n : 0;
		if (!body->files) {
			work->err = -ENOMEM;
			return;
		}
	}
	work->err = look_at_files(job, sizes, &total, work->why, sizeof work->why);
	if (work->err)
		return;
	for (size_t i = 0; i < job->n; i++)
		names[i] = base_name(job->paths[i]);
	work->err = torrent_maker_new(&maker, text_is_name(body->name) && body->name[0] != '.' ? body->name : "model", names, sizes, job->n, work->why,
				      sizeof work->why);
	for (size_t i = 0; i < job->n && !work->err; i++)
		work->err = feed_file(job, i, maker, total, &read_so_far, work->why, sizeof work->why);
	if (!work->err) {
		free(body->info);
		body->info = NULL;
		body->info_length = 0;
		work->err = torrent_maker_finish(maker, &body->info, &body->info_length, roots, sha256, work->why, sizeof work->why);
	}
	torrent_maker_free(maker);
	for (size_t i = 0; i < job->n && !work->err; i++) {
		memset(&body->files[i], 0, sizeof body->files[i]);
		text_copy(body->files[i].name, sizeof body->files[i].name, names[i]);
		body->files[i].size = sizes[i];
		memcpy(body->files[i].root, roots[i], KEY_BYTES);
		memcpy(body->files[i].sha256, sha256[i], KEY_BYTES);
	}
	if (!work->err && body->info_length > INFO_MAX) {
		snprintf(work->why, sizeof work->why, "the hashes of its pieces take %zu bytes, more than a manifest carries: publish "
			 "fewer files at once", body->info_length);
		work->err = ERR_LIMIT;
	}
}

static void job_free(struct hash_job *job)
{
	for (size_t i = 0; i < job->n; i++)
		free(job->paths[i]);
	free(job->paths);
	manifest_free(&job->body);
	free(job);
}

static void remember(struct store *store, const char *path, const struct torrent_stamp *stamp, const uint8_t *root)
{
	struct hashed *at = &store->hashed[store->n_hashed++ % HASHED_MAX];

	free(at->path);
	at->path = disk_join(path, "");
	at->stamp = *stamp;
	memcpy(at->root, root, KEY_BYTES);
}

bool hash_was_here(const struct store *store, const char *path, const struct torrent_stamp *stamp, const uint8_t *root)
{
	for (size_t i = 0; i < HASHED_MAX; i++) {
		const struct hashed *h = &store->hashed[i];

		if (h->path && strcmp(h->path, path) == 0 && h->stamp.size == stamp->size && h->stamp.mtime_ns == stamp->mtime_ns &&
		    memcmp(h->root, root, KEY_BYTES) == 0)
			return true;
	}
	return false;
}

static void done_hash(struct store_work *work)
{
	struct hash_job *job = work->arg;
	struct store *store = work->store;

	for (struct hash_job **at = &store->jobs; *at; at = &(*at)->next) {
		if (*at == job) {
			*at = job->next;
			break;
		}
	}
	for (size_t i = 0; i < job->n && !work->err; i++)
		remember(store, job->paths[i], &job->stamps[i], job->body.files[i].root);
	if (!work->err && job->progress && job->told != 1000)
		job->progress(job->arg, 1000);
	job->done(job->arg, work->err, work->err ? NULL : &job->body, work->err && !work->why[0] ? err_str(work->err) : work->why);
	if (!work->err)
		memset(&job->body, 0, sizeof job->body);     /* moved out */
	job_free(job);
}

int store_hash(struct store *store, const char *const *paths, size_t n, struct manifest_body *body,
	       void (*progress)(void *arg, unsigned permille),
	       void (*done)(void *arg, int err, struct manifest_body *body, const char *why), void *arg)
{
	struct hash_job *job;
	int err;

	job = calloc(1, sizeof *job);
	if (!job)
		return -ENOMEM;
	job->n = n <= MODEL_FILES_MAX ? n : 0;
	job->early = store->phase != STORE_OPEN ? ERR_CANCELLED : job->n == 0 ? ERR_LIMIT : 0;
	job->paths = calloc(job->n + 1, sizeof *job->paths);
	if (!job->paths) {
		free(job);
		return -ENOMEM;
	}
	for (size_t i = 0; i < job->n; i++) {
		job->paths[i] = disk_join(paths[i], "");
		if (!job->paths[i])
			job->early = -ENOMEM;
		else if (paths[i][0] != '/')
			job->early = -EINVAL;
	}
	job->body = *body;
	memset(body, 0, sizeof *body);
	job->cancel = &store->cancel;
	job->progress = progress;
	job->done = done;
	job->arg = arg;
	err = store_work(store, NULL, run_hash, done_hash, job);
	if (err) {
		*body = job->body;
		memset(&job->body, 0, sizeof job->body);
		job_free(job);
		return err;
	}
	job->next = store->jobs;
	store->jobs = job;
	return 0;
}

void hash_report(struct store *store)
{
	for (struct hash_job *job = store->jobs; job; job = job->next) {
		unsigned permille = atomic_load(&job->permille);

		if (job->progress && permille != job->told) {
			job->told = permille;
			job->progress(job->arg, permille);
		}
	}
}

void hash_release(struct store *store)
{
	for (size_t i = 0; i < HASHED_MAX; i++)
		free(store->hashed[i].path);
}

/* --- the publisher's claim --------------------------------------------------------------------------- */

static void run_claim(struct store_work *work)           /* worker */
{
	struct model *m = work->model;
	static const uint8_t none[KEY_BYTES];
	uint8_t *chunk = malloc(CHUNK), hash[crypto_hash_sha256_BYTES];

	if (!chunk) {
		work->err = -ENOMEM;
		return;
	}
	for (size_t i = 0; i < m->body.n_files && !work->err; i++) {
		crypto_hash_sha256_state state;
		ssize_t got = 0;
		int fd;

		if (memcmp(m->body.files[i].sha256, none, KEY_BYTES) == 0)
			continue;
		fd = open(work->paths[i], O_RDONLY | O_CLOEXEC);
		if (fd < 0) {
			work->err = -errno;
			break;
		}
		crypto_hash_sha256_init(&state);
		while (!work->err && ((got = read(fd, chunk, CHUNK)) > 0 || (got < 0 && errno == EINTR))) {
			if (atomic_load(&work->store->cancel))
				work->err = ERR_CANCELLED;
			else if (got > 0)
				crypto_hash_sha256_update(&state, chunk, (size_t)got);
		}
		if (got < 0 && !work->err)
			work->err = -errno;
		close(fd);
		crypto_hash_sha256_final(&state, hash);
		if (!work->err && memcmp(hash, m->body.files[i].sha256, KEY_BYTES) != 0) {
			snprintf(work->why, sizeof work->why, "%.80s does not have the SHA-256 that its publisher claims; its pieces "
				 "are those of this model, but ask the publisher", m->body.files[i].name);
			work->err = ERR_SIGNATURE;
		}
	}
	free(chunk);
}

static void done_claim(struct store_work *work)
{
	struct model *m = work->model;

	m->claim_running = false;
	if (m->removing || (work->err && work->err != ERR_SIGNATURE))
		return;                  /* again at the next start */
	m->claim = work->err ? CLAIM_FALSE : CLAIM_TRUE;
	m->save_due = true;
	if (work->err) {
		log_warning("model %s: %s", m->body.name, work->why);
		if (!m->failed)
			text_copy(m->why, sizeof m->why, work->why);
	}
	progress_update(work->store, m);
	if (work->store->phase == STORE_OPEN)
		disk_save_resume(work->store, m);
}

void hash_check_claim(struct store *store, struct model *m)
{
	if (!m->claim_running && store_work(store, m, run_claim, done_claim, NULL) == 0)
		m->claim_running = true;
}
