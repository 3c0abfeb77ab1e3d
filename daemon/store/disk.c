/* disk.c: what the store keeps beside the weights. See catalog.h.
 *
 * HOME/models/ID/resume says which pieces are good, and the size and time of each file at that moment. It is believed
 * only while every file still has exactly that size and time: any later write, a killed daemon's or a stranger's,
 * changes the time, and then every piece is read and checked again. The order when writing it is therefore: take the
 * bits, flush the files, take their times, write. Pieces that come meanwhile are missing in the bits, never wrong.
 *
 * HOME/models/ID/origin says where a publisher's own files are, and their size and time when they were hashed.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/store/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "proto/log.h"
#include "proto/pack.h"

#define STATE_FILE_MAX (512u << 10)      /* bytes of a resume or origin file: 64 paths, 7,000 pieces */
static const struct pack_limits state_limits = {.bytes = STATE_FILE_MAX, .depth = 4, .nodes = 1024};

char *disk_join(const char *a, const char *b)
{
	size_t n = strlen(a), size = n + strlen(b) + 2;
	char *out = malloc(size);

	if (out)
		snprintf(out, size, "%s%s%s", a, *b ? "/" : "", b);
	return out;
}

static const char *const ours[] = {"resume", "resume.new", "origin", "origin.new"};

bool disk_is_ours(const char *name)
{
	for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
		if (strcmp(name, ours[i]) == 0)
			return true;
	}
	return false;
}

int disk_make_folder(const char *path)
{
	return mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : -errno;
}

static struct torrent_stamp stamp_of(const struct stat *st)
{
	return (struct torrent_stamp){.size = (uint64_t)st->st_size,
				      .mtime_ns = st->st_mtim.tv_sec * INT64_C(1000000000) + st->st_mtim.tv_nsec};
}

int disk_stamp(const char *path, struct torrent_stamp *out)
{
	struct stat st;

	if (stat(path, &st) != 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return ERR_CHANGED;
	*out = stamp_of(&st);
	return 0;
}

bool disk_unchanged(const struct model *m, const char **which)
{
	for (size_t i = 0; i < m->body.n_files; i++) {
		struct torrent_stamp now;

		if (disk_stamp(m->paths[i], &now) || now.size != m->stamps[i].size || now.mtime_ns != m->stamps[i].mtime_ns) {
			*which = m->paths[i];
			return false;
		}
	}
	return true;
}

uint64_t disk_free(const char *folder)
{
	struct statvfs st;

	if (statvfs(folder, &st) != 0)
		return UINT64_MAX;
	return (uint64_t)st.f_bavail * st.f_frsize;
}

uint64_t disk_allocated(const struct model *m)
{
	uint64_t bytes = 0;
	struct stat st;

	for (size_t i = 0; i < m->body.n_files; i++) {
		if (stat(m->paths[i], &st) == 0)
			bytes += (uint64_t)st.st_blocks * 512;
	}
	return bytes;
}

int disk_prepare(const struct model *m, bool *fresh, char *why, size_t why_size)
{
	int err = disk_make_folder(m->folder);

	*fresh = true;
	if (err) {
		snprintf(why, why_size, "%s cannot be made: %s", m->folder, err_str(err));
		return err;
	}
	for (size_t i = 0; i < m->body.n_files; i++) {
		int fd = open(m->paths[i], O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		struct stat st;

		if (fd < 0 || fstat(fd, &st) != 0 || (!S_ISREG(st.st_mode) && (errno = EINVAL))) {
			err = -errno;
		} else {
			if (st.st_size > 0)
				*fresh = false;
			if ((uint64_t)st.st_size != m->body.files[i].size && ftruncate(fd, (off_t)m->body.files[i].size) != 0)
				err = -errno;
		}
		if (fd >= 0)
			close(fd);
		if (err) {
			snprintf(why, why_size, "%s cannot be written: %s; see to it, then pull the model again", m->paths[i], err_str(err));
			return err;
		}
	}
	return 0;
}

/* --- small state files ------------------------------------------------------------------------------- */

static int read_state(const char *path, uint8_t **out, size_t *n_out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), err = 0;
	struct stat st;
	uint8_t *bytes = NULL;
	size_t n = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > (off_t)STATE_FILE_MAX) {
		err = ERR_MALFORMED;
		goto out;
	}
	bytes = malloc((size_t)st.st_size);
	if (!bytes) {
		err = -ENOMEM;
		goto out;
	}
	while (n < (size_t)st.st_size) {
		ssize_t got = read(fd, bytes + n, (size_t)st.st_size - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			err = got < 0 ? -errno : ERR_MALFORMED;
			goto out;
		}
		n += (size_t)got;
	}
	*out = bytes;
	*n_out = n;
	bytes = NULL;
out:
	free(bytes);
	close(fd);
	return err;
}

/* Worker. All or nothing, also when the power goes. */
/* Two workers may have something to note of one model: one after the other. */
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static int write_state(const char *folder, const char *name, const struct buf *bytes)
{
	char *path = disk_join(folder, name), *temporary = path ? malloc(strlen(path) + 5) : NULL;
	int fd, dir, err = 0;

	if (!temporary) {
		free(path);
		return -ENOMEM;
	}
	sprintf(temporary, "%s.new", path);
	pthread_mutex_lock(&writing);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		err = -errno;
		goto out;
	}
	for (size_t at = 0; at < bytes->length && !err;) {
		ssize_t put = write(fd, bytes->data + at, bytes->length - at);

		if (put < 0 && errno != EINTR)
			err = -errno;
		else if (put > 0)
			at += (size_t)put;
	}
	if (!err && fsync(fd) != 0)
		err = -errno;
	close(fd);
	if (!err && rename(temporary, path) != 0)
		err = -errno;
	if (err)
		unlink(temporary);
	dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir >= 0) {
		fsync(dir);
		close(dir);
	}
out:
	pthread_mutex_unlock(&writing);
	free(temporary);
	free(path);
	return err;
}

static void write_stamps(struct pack_writer *w, const struct torrent_stamp *stamps, char *const *paths, size_t n)
{
	pack_str(w, "files");
	pack_array(w, n);
	for (size_t i = 0; i < n; i++) {
		pack_array(w, 3);
		pack_str(w, paths[i]);
		pack_uint(w, stamps[i].size);
		pack_int(w, stamps[i].mtime_ns);
	}
}

/* --- resume ------------------------------------------------------------------------------------------ */

bool disk_read_resume(struct model *m, uint8_t *have)
{
	char *path = disk_join(m->folder, "resume");
	uint8_t *bytes = NULL;
	const uint8_t *pieces;
	struct pack_doc doc;
	size_t n = 0, n_pieces = 0;
	int err = path ? read_state(path, &bytes, &n) : -ENOMEM, sticky = 0;

	free(path);
	if (err)
		return false;
	err = pack_parse(&doc, bytes, n, &state_limits);
	if (err) {
		free(bytes);
		return false;
	}
	struct pack_cursor root = pack_root(&doc, &sticky), files = pack_get(root, "files");

	pieces = pack_borrow_bin(root, "pieces", PIECES_BYTES(PIECES_MAX), &n_pieces);
	m->claim = (enum claim)pack_get_uint_or(root, "claim", CLAIM_FALSE, CLAIM_UNCHECKED);
	if (sticky || n_pieces != PIECES_BYTES(m->layout.n_pieces) || pack_count(files) != m->body.n_files)
		err = ERR_MALFORMED;
	for (size_t i = 0; i < m->body.n_files && !err; i++) {
		struct pack_cursor file = pack_at(files, i);
		struct torrent_stamp then = {.size = pack_at_uint(file, 1, UINT64_MAX), .mtime_ns = pack_at_int(file, 2)}, now;

		if (sticky || disk_stamp(m->paths[i], &now) || now.size != then.size || now.mtime_ns != then.mtime_ns)
			err = ERR_CHANGED;
	}
	if (!err)
		memcpy(have, pieces, n_pieces);
	else
		m->claim = CLAIM_UNCHECKED;
	pack_release(&doc);
	free(bytes);
	return !err;
}

struct save {
	uint8_t *have;           /* resume */
	size_t n;
	enum claim claim;
	struct buf bytes;        /* origin */
};

static void save_free(struct save *save)
{
	free(save->have);
	buf_release(&save->bytes);
	free(save);
}

static void run_save_resume(struct store_work *work)     /* worker */
{
	struct save *save = work->arg;
	struct model *m = work->model;
	struct torrent_stamp stamps[MODEL_FILES_MAX];
	struct pack_writer w;

	for (size_t i = 0; i < m->body.n_files && !work->err; i++) {
		int fd = open(work->paths[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		struct stat st;

		if (fd < 0 || fdatasync(fd) != 0 || fstat(fd, &st) != 0)
			work->err = -errno;
		else
			stamps[i] = stamp_of(&st);
		if (fd >= 0)
			close(fd);
	}
	if (work->err)
		return;
	buf_init(&save->bytes, STATE_FILE_MAX);
	pack_writer_init(&w, &save->bytes);
	pack_map(&w, 4);
	pack_kv_uint(&w, "version", 1);
	pack_kv_bin(&w, "pieces", save->have, save->n);
	pack_kv_uint(&w, "claim", save->claim);
	write_stamps(&w, stamps, work->paths, m->body.n_files);
	work->err = w.err ? w.err : write_state(m->folder, "resume", &save->bytes);
}

static void done_save(struct store_work *work)
{
	if (work->err && !work->model->removing)
		log_warning("model %s: what is on disk could not be noted in %s (%s); it will be checked again at the next start",
			    work->model->body.name, work->model->folder, err_str(work->err));
	save_free(work->arg);
}

int disk_save_resume(struct store *store, struct model *m)
{
	struct save *save = calloc(1, sizeof *save);
	int err;

	if (!save)
		return -ENOMEM;
	save->n = PIECES_BYTES(m->layout.n_pieces);
	save->claim = m->claim;
	save->have = malloc(save->n);
	if (!save->have) {
		free(save);
		return -ENOMEM;
	}
	memcpy(save->have, m->have, save->n);
	err = store_work(store, m, run_save_resume, done_save, save);
	if (err) {
		save_free(save);
		return err;
	}
	m->save_due = false;
	m->saved_bytes = m->status.bytes_on_disk;
	m->saved_at = uv_now(store->loop);
	return 0;
}

/* --- origin ------------------------------------------------------------------------------------------ */

int disk_read_origin(struct model *m)
{
	char *path = disk_join(m->folder, "origin");
	uint8_t *bytes = NULL;
	struct pack_doc doc;
	size_t n = 0;
	int err = path ? read_state(path, &bytes, &n) : -ENOMEM, sticky = 0;

	free(path);
	if (err)
		return err;
	err = pack_parse(&doc, bytes, n, &state_limits);
	if (err)
		goto out;
	struct pack_cursor files = pack_get(pack_root(&doc, &sticky), "files");

	if (pack_count(files) != m->body.n_files)
		err = ERR_MALFORMED;
	for (size_t i = 0; i < m->body.n_files && !err; i++) {
		struct pack_cursor file = pack_at(files, i);
		char text[STORE_PATH_MAX];

		pack_at_str(file, 0, text, sizeof text);
		m->stamps[i].size = pack_at_uint(file, 1, UINT64_MAX);
		m->stamps[i].mtime_ns = pack_at_int(file, 2);
		if (sticky || text[0] != '/') {
			err = ERR_MALFORMED;
			break;
		}
		free(m->paths[i]);
		m->paths[i] = disk_join(text, "");
		if (!m->paths[i])
			err = -ENOMEM;
	}
	pack_release(&doc);
	m->published = m->trusted = true;    /* also when it could not be read: these paths are not ours to write */
	if (!err && sticky)
		err = ERR_MALFORMED;
out:
	free(bytes);
	return err;
}

static void run_save_origin(struct store_work *work)     /* worker */
{
	struct save *save = work->arg;

	work->err = write_state(work->model->folder, "origin", &save->bytes);
}

int disk_save_origin(struct store *store, struct model *m)
{
	struct save *save = calloc(1, sizeof *save);
	struct pack_writer w;
	int err;

	if (!save)
		return -ENOMEM;
	buf_init(&save->bytes, STATE_FILE_MAX);
	pack_writer_init(&w, &save->bytes);
	pack_map(&w, 2);
	pack_kv_uint(&w, "version", 1);
	write_stamps(&w, m->stamps, m->paths, m->body.n_files);
	err = w.err ? w.err : store_work(store, m, run_save_origin, done_save, save);
	if (err)
		save_free(save);
	return err;
}

/* --- removal ----------------------------------------------------------------------------------------- */

/* Only names that the store itself gives lie in the folder; anything else stays, and so does the folder then. */
static void run_delete(struct store_work *work)          /* worker */
{
	struct model *m = work->model;

	for (size_t i = 0; i < m->body.n_files; i++) {
		char *path = disk_join(m->folder, m->body.files[i].name);

		if (!path)
			work->err = -ENOMEM;
		else if (unlink(path) != 0 && errno != ENOENT)
			work->err = -errno;
		free(path);
	}
	for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
		char *path = disk_join(m->folder, ours[i]);

		if (path)
			unlink(path);
		free(path);
	}
	if (rmdir(m->folder) != 0 && errno != ENOENT)
		work->err = -errno;
}

static void done_delete(struct store_work *work)
{
	struct model *m = work->model;

	if (work->err)
		log_warning("%s could not be removed entirely: %s", m->folder, err_str(work->err));
	free(m->folder);
	m->folder = NULL;
}

int disk_delete(struct store *store, struct model *m)
{
	return store_work(store, m, run_delete, done_delete, NULL);
}
