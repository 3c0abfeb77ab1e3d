/* test_store_faults.c: bytes that are not what they should be, restarts, kills and full disks. See store_world.h.
 *
 * Some tests run this program again as a child (to be killed, or to live in a mount namespace): see main().
 * tests/peers/test_torrent.sh uses --seed and --fetch.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "tests/unit/store_world.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "proto/log.h"
#include "proto/pack.h"
#include "proto/text.h"

/* --- bytes that are not what they should be ------------------------------------------------------------- */

static void a_flipped_byte_is_refused_and_noted(void **state)
{
	struct world w;
	char path[1024];

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 2, 4);
	await_state(&w, B, STORE_READY);
	path_at(&w, B, "model.gguf", path, sizeof path);
	flip(path, LAYERS_AT + 2 * LAYER_BYTES + 100000);

	know(&w, C);
	introduce(&w, B, 1 << C);
	introduce(&w, C, 1 << B);
	want(&w, C, 2, 4);
	await_why(&w, C, "hash");
	assert_int_equal(status_of(&w, C).state, STORE_FETCHING);
	assert_true(status_of(&w, C).bytes_have < status_of(&w, C).bytes_wanted);
	/* from an honest one the rest comes */
	introduce(&w, A, 1 << B | 1 << C);
	introduce(&w, C, 1 << A | 1 << B);
	await_state(&w, C, STORE_READY);
	check_files(&w, C, 2, 4);
	world_close(&w);
}

static void a_published_file_that_changes_is_not_seeded_and_never_written(void **state)
{
	struct world w;
	struct model_extent *extents;
	int fds[MODEL_FILES_MAX];
	size_t n_fds, n;
	uint8_t *now = NULL;
	struct stat before, after;

	world_open(&w, NULL);
	publish(&w);
	want(&w, A, 0, LAYERS);
	await_state(&w, A, STORE_READY);
	check_files(&w, A, 0, LAYERS);
	assert_int_equal(stat(w.source, &before), 0);

	/* the publisher's program writes a new version over it */
	flip(w.source, LAYERS_AT + 5);
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 0, 1);
	await_state(&w, A, STORE_FAILED);
	assert_non_null(strstr(status_of(&w, A).why, w.source));
	assert_int_equal(store_open_files(w.nodes[A].store, w.id, fds, &n_fds, &extents, &n), ERR_CHANGED);
	assert_int_equal(status_of(&w, B).state, STORE_FETCHING);
	assert_int_equal(status_of(&w, B).bytes_on_disk, 0);

	/* its bytes are the publisher's still */
	now = malloc(w.size);
	int fd = open(w.source, O_RDONLY);
	assert_int_equal(read(fd, now, w.size), w.size);
	close(fd);
	now[LAYERS_AT + 5] ^= 0x10;
	assert_memory_equal(now, w.bytes, w.size);
	free(now);

	/* put back as it was, time included: asked again, it is served again */
	flip(w.source, LAYERS_AT + 5);
	struct timespec times[2] = {before.st_mtim, before.st_mtim};
	assert_int_equal(utimensat(AT_FDCWD, w.source, times, 0), 0);
	assert_int_equal(stat(w.source, &after), 0);
	want(&w, A, 0, LAYERS);
	await_state(&w, A, STORE_READY);
	await_state(&w, B, STORE_READY);
	world_close(&w);
}

/* Same size, same time, other bytes: only the hash can tell, and it is asked before anything leaves. */
static void a_published_file_that_rots_silently_is_found_by_its_hash(void **state)
{
	struct world w;
	struct stat before;

	world_open(&w, NULL);
	publish(&w);
	assert_int_equal(stat(w.source, &before), 0);
	flip(w.source, LAYERS_AT + 100000);
	struct timespec times[2] = {before.st_mtim, before.st_mtim};
	assert_int_equal(utimensat(AT_FDCWD, w.source, times, 0), 0);
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 0, 1);
	await_state(&w, A, STORE_FAILED);
	assert_true(status_of(&w, B).bytes_have < status_of(&w, B).bytes_wanted);
	world_close(&w);
}

static void a_published_file_is_remembered_and_stays_where_it_is(void **state)
{
	struct world w;
	char path[1024];

	world_open(&w, NULL);
	publish(&w);
	node_close(&w, A);
	know(&w, A);                            /* after a restart: nobody says the path */
	while (!status_of(&w, A).complete)
		uv_run(&w.loop, UV_RUN_ONCE);
	want(&w, A, 0, LAYERS);
	await_state(&w, A, STORE_READY);
	check_files(&w, A, 0, LAYERS);
	path_at(&w, A, "model.gguf", path, sizeof path);
	assert_int_equal(access(path, F_OK), -1);
	node_close(&w, A);

	/* changed while the daemon was down */
	flip(w.source, 7);
	know(&w, A);
	assert_int_equal(status_of(&w, A).state, STORE_FAILED);
	assert_non_null(strstr(status_of(&w, A).why, w.source));
	world_close(&w);
}

/* The record of an earlier run brings it back; in the same breath somebody publishes its file. */
static void a_fetched_model_may_become_a_published_one(void **state)
{
	struct world w;
	const char *paths[] = {w.source};

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 0, 3);
	await_state(&w, B, STORE_READY);
	node_close(&w, B);
	know(&w, B);
	assert_int_equal(store_add(w.nodes[B].store, w.id, &w.body, paths), 0);
	assert_int_equal(store_add(w.nodes[B].store, w.id, &w.body, paths), 0);
	while (!status_of(&w, B).complete)
		uv_run(&w.loop, UV_RUN_ONCE);
	want(&w, B, 0, LAYERS);
	await_state(&w, B, STORE_READY);
	check_files(&w, B, 0, LAYERS);
	world_close(&w);
}

/* A file that this process did not hash is read first; a wrong one is found. */
static void a_file_published_by_path_alone_is_checked(void **state)
{
	struct world w;
	const char *paths[] = {w.source};

	world_open(&w, NULL);
	publish(&w);
	node_open(&w, B);
	assert_int_equal(store_add(w.nodes[B].store, w.id, &w.body, paths), 0);
	assert_int_equal(status_of(&w, B).state, STORE_CHECKING);
	while (!status_of(&w, B).complete)
		uv_run(&w.loop, UV_RUN_ONCE);

	flip(w.source, 99);
	node_open(&w, C);
	assert_int_equal(store_add(w.nodes[C].store, w.id, &w.body, paths), 0);
	await_state(&w, C, STORE_FAILED);
	assert_int_equal(truncate(w.source, 1000), 0);
	node_close(&w, C);
	node_open(&w, C);
	assert_int_equal(store_add(w.nodes[C].store, w.id, &w.body, paths), ERR_CHANGED);
	world_close(&w);
}

static void manifests_that_contradict_themselves_are_refused(void **state)
{
	struct world w;
	uint8_t other[KEY_BYTES] = {7};

	world_open(&w, NULL);
	publish(&w);
	node_open(&w, B);
	assert_int_equal(store_add(w.nodes[B].store, other, &w.body, NULL), ERR_MALFORMED);
	/* a root that the metainfo does not have */
	w.body.files[0].root[0] ^= 1;
	model_id(other, w.body.files, 1);
	assert_int_equal(store_add(w.nodes[B].store, other, &w.body, NULL), ERR_MALFORMED);
	w.body.files[0].root[0] ^= 1;
	w.body.extents[4].length = UINT64_MAX;
	assert_int_equal(store_add(w.nodes[B].store, w.id, &w.body, NULL), ERR_MALFORMED);
	w.body.extents[4].length = LAYER_BYTES;
	log_set_level(LOG_LEVEL_ERROR);
	for (size_t cut = 0; cut < w.body.info_length; cut += 97) {
		size_t whole = w.body.info_length;

		w.body.info_length = cut;
		if (cut > 0)
			assert_int_equal(store_add(w.nodes[B].store, w.id, &w.body, NULL), ERR_MALFORMED);
		w.body.info_length = whole;
	}
	log_set_level(LOG_LEVEL_INFO);
	/* a torrent that would have us talk to somebody else */
	static const char tracker[] = "8:announce21:http://127.0.0.1:9/ann", seed[] = "8:url-list19:http://127.0.0.1:9/";
	for (int k = 0; k < 2; k++) {
		const char *more = k ? seed : tracker;
		struct manifest_body b = w.body;

		b.info_length += strlen(more);
		b.info = malloc(b.info_length);
		assert_non_null(b.info);
		size_t at = k ? w.body.info_length - 1 : 1;
		memcpy(b.info, w.body.info, at);
		memcpy(b.info + at, more, strlen(more));
		memcpy(b.info + at + strlen(more), w.body.info + at, w.body.info_length - at);
		assert_int_equal(store_add(w.nodes[B].store, w.id, &b, NULL), ERR_MALFORMED);
		free(b.info);
	}
	/* and whatever a flipped bit makes of it: refused, or a model like any other */
	for (size_t k = 0; k < 300; k++) {
		struct manifest_body b = w.body;
		size_t at = k * 7919 % b.info_length;

		b.info = malloc(b.info_length);
		assert_non_null(b.info);
		memcpy(b.info, w.body.info, b.info_length);
		b.info[at] ^= (uint8_t)(1u << k % 8);
		int err;
		while ((err = store_add(w.nodes[B].store, w.id, &b, NULL)) == ERR_BUSY)
			uv_run(&w.loop, UV_RUN_ONCE);
		free(b.info);
		if (err != 0 && err != ERR_MALFORMED)
			fail_msg("bit %zu of byte %zu: %d", k % 8, at, err);
		if (err == 0)
			assert_int_equal(store_remove(w.nodes[B].store, w.id), 0);
	}
	/* files that would lie where the store keeps its own notes, or elsewhere altogether */
	static const char *const names[] = {"resume", "origin.new", "..", ".", "", "../../x", "/etc/x", ".hidden"};
	for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
		strcpy(w.body.files[0].name, names[k]);
		assert_int_equal(store_add(w.nodes[B].store, w.id, &w.body, NULL), ERR_MALFORMED);
	}
	strcpy(w.body.files[0].name, "model.gguf");
	assert_int_equal(store_models(w.nodes[B].store, &other, 1), 0);
	int err;
	while ((err = store_add(w.nodes[B].store, w.id, &w.body, NULL)) == ERR_BUSY)
		uv_run(&w.loop, UV_RUN_ONCE);
	assert_int_equal(err, 0);
	assert_int_equal(store_add(w.nodes[B].store, w.id, &w.body, NULL), 0);
	assert_int_equal(store_models(w.nodes[B].store, &other, 1), 1);
	assert_memory_equal(other, w.id, KEY_BYTES);
	struct layer_range bad = {0, LAYERS + 1};
	assert_int_equal(store_want(w.nodes[B].store, w.id, &bad, 1), ERR_LIMIT);
	world_close(&w);
}

static void removing_deletes_what_was_fetched_and_nothing_else(void **state)
{
	struct world w;
	char path[1024], folder[1024];
	struct store_status s;

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 0, 2);
	await_state(&w, B, STORE_READY);
	path_at(&w, B, "model.gguf", path, sizeof path);
	path_at(&w, B, ".", folder, sizeof folder);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(store_remove(w.nodes[B].store, w.id), 0);
	assert_int_equal(store_status(w.nodes[B].store, w.id, &s), ERR_UNKNOWN);
	while (access(folder, F_OK) == 0)
		uv_run(&w.loop, UV_RUN_ONCE);
	int err;
	while ((err = store_add(w.nodes[B].store, w.id, &w.body, NULL)) == ERR_BUSY)
		uv_run(&w.loop, UV_RUN_ONCE);
	assert_int_equal(err, 0);
	want(&w, B, 0, 1);
	await_state(&w, B, STORE_READY);
	check_files(&w, B, 0, 1);

	assert_int_equal(store_remove(w.nodes[A].store, w.id), 0);
	path_at(&w, A, ".", folder, sizeof folder);
	while (access(folder, F_OK) == 0)
		uv_run(&w.loop, UV_RUN_ONCE);
	assert_int_equal(access(w.source, F_OK), 0);
	world_close(&w);
}

/* --- restarts ------------------------------------------------------------------------------------------- */

static void what_was_fetched_is_there_after_a_restart_without_any_peer(void **state)
{
	struct world w;
	struct store_status s, again;

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 3, 5);
	s = await_state(&w, B, STORE_READY);
	node_close(&w, B);
	know(&w, B);
	again = await_state(&w, B, STORE_IDLE);
	assert_int_equal(again.bytes_on_disk, s.bytes_on_disk);
	want(&w, B, 3, 5);
	assert_int_equal(status_of(&w, B).state, STORE_READY);
	check_files(&w, B, 3, 5);
	world_close(&w);
}

static void resume_data_are_not_believed_when_a_file_changed_meanwhile(void **state)
{
	struct world w;
	struct store_status s, again;
	char path[1024];

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 3, 5);
	s = await_state(&w, B, STORE_READY);
	node_close(&w, B);
	path_at(&w, B, "model.gguf", path, sizeof path);
	flip(path, LAYERS_AT + 3 * LAYER_BYTES + 1000);
	know(&w, B);
	assert_int_equal(status_of(&w, B).state, STORE_CHECKING);
	again = await_state(&w, B, STORE_IDLE);
	assert_int_equal(again.bytes_on_disk, s.bytes_on_disk - PIECE);
	introduce(&w, B, 1 << A);
	introduce(&w, A, 1 << B);
	want(&w, B, 3, 5);
	await_state(&w, B, STORE_READY);
	check_files(&w, B, 3, 5);
	world_close(&w);
}

/* --- children ------------------------------------------------------------------------------------------- */

struct child {
	uv_process_t process;
	uv_pipe_t out;
	char text[4096];
	size_t n;
	bool exited;
	int64_t status;
	int signal;
};

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct child *c = handle->data;

	*buf = uv_buf_init(c->text + c->n, (unsigned)(sizeof c->text - 1 - c->n));
}
static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct child *c = stream->data;

	if (n > 0)
		c->n += (size_t)n;
	else if (n < 0)
		uv_read_stop(stream);
	c->text[c->n] = 0;
}
static void on_exit_child(uv_process_t *process, int64_t status, int signal)
{
	struct child *c = process->data;

	c->exited = true;
	c->status = status;
	c->signal = signal;
}
static void child_start(struct world *w, struct child *c, char *const *arguments)
{
	uv_stdio_container_t stdio[3] = {{.flags = UV_IGNORE}, {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE}, {.flags = UV_INHERIT_FD, .data.fd = 2}};
	uv_process_options_t options = {.exit_cb = on_exit_child, .file = "/proc/self/exe", .args = (char **)arguments, .stdio_count = 3,
					.stdio = stdio};

	memset(c, 0, sizeof *c);
	c->process.data = c;
	uv_pipe_init(&w->loop, &c->out, 0);
	c->out.data = c;
	stdio[1].data.stream = (uv_stream_t *)&c->out;
	MUST(uv_spawn(&w->loop, &c->process, &options) == 0);
	uv_read_start((uv_stream_t *)&c->out, on_alloc, on_read);
}
static void child_await(struct world *w, struct child *c, const char *word)
{
	while (!strstr(c->text, word) && !c->exited)
		uv_run(&w->loop, UV_RUN_ONCE);
	MUST(strstr(c->text, word) != NULL);
}
static void child_end(struct world *w, struct child *c)
{
	while (!c->exited)
		uv_run(&w->loop, UV_RUN_ONCE);
	uv_close((uv_handle_t *)&c->process, NULL);
	uv_close((uv_handle_t *)&c->out, NULL);
	uv_run(&w->loop, UV_RUN_NOWAIT);
}

static void write_manifest(struct world *w, char *path, size_t size)
{
	struct buf packed;
	struct pack_writer writer;

	buf_init(&packed, RECORD_MAX);
	pack_writer_init(&writer, &packed);
	MUST(manifest_pack(&writer, &w->body) == 0);
	snprintf(path, size, "%s/manifest", w->dir);
	write_file(path, packed.data, packed.length);
	buf_release(&packed);
}

/* --fetch DIR MANIFEST PEER FIRST END: node B of the world in DIR; ends only when killed. */
static void child_fetch(char **argv)
{
	struct world w;
	struct pack_doc doc;
	uint8_t bytes[RECORD_MAX];
	const char *peers[] = {argv[4]};
	int fd = open(argv[3], O_RDONLY), err;
	ssize_t n = read(fd, bytes, sizeof bytes);

	MUST(n > 0);
	close(fd);
	world_open(&w, argv[2]);
	MUST(pack_parse(&doc, bytes, (size_t)n, &pack_limits_record) == 0);
	MUST(manifest_unpack(pack_root(&doc, &err), &w.body) == 0);
	pack_release(&doc);
	model_id(w.id, w.body.files, w.body.n_files);
	know(&w, B);
	printf("port %u.\n", store_port(w.nodes[B].store));
	fflush(stdout);
	MUST(store_set_peers(w.nodes[B].store, peers, 1) == 0);
	want(&w, B, (uint32_t)atoi(argv[5]), (uint32_t)atoi(argv[6]));
	for (bool told = false;; uv_run(&w.loop, UV_RUN_ONCE)) {
		if (!told && status_of(&w, B).state == STORE_READY) {
			told = true;
			printf("ready\n");
			fflush(stdout);
		}
	}
}

static void after_kill_9_nothing_is_lost_and_nothing_unchecked_is_trusted(void **state)
{
	struct world w;
	struct child c;
	char manifest[600], peer[32], port[32];
	const char *peers[1] = {port};
	uint64_t on_disk;

	world_open(&w, NULL);
	publish(&w);
	write_manifest(&w, manifest, sizeof manifest);
	snprintf(peer, sizeof peer, "127.0.0.1:%u", store_port(w.nodes[A].store));

	child_start(&w, &c, (char *[]){"test_store_faults", "--fetch", w.dir, manifest, peer, "1", "4", NULL});
	child_await(&w, &c, ".\n");
	snprintf(port, sizeof port, "127.0.0.1:%d", atoi(c.text + strlen("port ")));
	assert_int_equal(store_set_peers(w.nodes[A].store, peers, 1), 0);
	child_await(&w, &c, "ready");
	uv_process_kill(&c.process, SIGKILL);
	child_end(&w, &c);
	assert_int_equal(c.signal, SIGKILL);

	/* no peer at all: what is there now was on the disk */
	know(&w, B);
	on_disk = await_state(&w, B, STORE_IDLE).bytes_on_disk;
	assert_within(on_disk, 3 * LAYER_BYTES, 3 * LAYER_BYTES + 5000 + 4 * PIECE);
	want(&w, B, 1, 4);
	assert_int_equal(status_of(&w, B).state, STORE_READY);
	check_files(&w, B, 1, 4);
	node_close(&w, B);

	/* the same without resume data: everything is read again */
	char path[1024];
	path_at(&w, B, "resume", path, sizeof path);
	assert_int_equal(unlink(path), 0);
	know(&w, B);
	assert_int_equal(status_of(&w, B).state, STORE_CHECKING);
	assert_int_equal(await_state(&w, B, STORE_IDLE).bytes_on_disk, on_disk);
	world_close(&w);
}

/* What the file system says when it is full, in two ways. */
static void fill_and_recover(struct world *w, void (*fill)(struct world *w, bool full))
{
	/* room enough when asked, none when the bytes come */
	publish(w);
	know(w, B);
	want(w, B, 0, LAYERS);
	MUST(status_of(w, B).state != STORE_FAILED);
	fill(w, true);
	introduce(w, A, 1 << B);
	introduce(w, B, 1 << A);
	await_state(w, B, STORE_FAILED);
	MUST(strstr(status_of(w, B).why, "free some space") != NULL);
	/* asked again while it is still full */
	want(w, B, 0, LAYERS);
	await_state(w, B, STORE_FAILED);
	MUST(strstr(status_of(w, B).why, "free") != NULL);
	fill(w, false);
	want(w, B, 0, LAYERS);
	await_state(w, B, STORE_READY);
	check_files(w, B, 0, LAYERS);
}

static void limit_files(struct world *w, bool full)
{
	struct rlimit limit = {full ? 1 << 20 : RLIM_INFINITY, RLIM_INFINITY};

	MUST(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static void fill_tmpfs(struct world *w, bool full)
{
	static const uint8_t megabyte[1 << 20];
	char path[700];
	int fd;

	snprintf(path, sizeof path, "%s/ballast", w->nodes[B].home);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	MUST(fd >= 0);
	for (int i = 0; i < 5 && full; i++)
		MUST(write(fd, megabyte, sizeof megabyte) > 0);
	close(fd);
}

/* A mount namespace in which mounts under dir are nobody else's. */
static bool alone_with_mounts(const char *dir)
{
	char path[512], map[64];
	unsigned uid = getuid(), gid = getgid();

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) {
		snprintf(map, sizeof map, "0 %u 1", uid);
		write_file("/proc/self/uid_map", (const uint8_t *)map, strlen(map));
		write_file("/proc/self/setgroups", (const uint8_t *)"deny", 4);
		snprintf(map, sizeof map, "0 %u 1", gid);
		write_file("/proc/self/gid_map", (const uint8_t *)map, strlen(map));
		return true;
	}
	if (unshare(CLONE_NEWNS) != 0)
		return false;
	/* in a chroot "/" is no mount point: the nearest one above dir */
	snprintf(path, sizeof path, "%s", dir);
	while (mount("none", path, NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
		char *slash = strrchr(path, '/');

		if (!slash || strcmp(path, "/") == 0)
			return false;
		slash[slash == path] = 0;
	}
	return true;
}

/* --full-disk KIND DIR */
static int child_full_disk(char **argv)
{
	struct world w;
	char home[600];
	bool limit = strcmp(argv[2], "limit") == 0;

	snprintf(home, sizeof home, "%s/b", argv[3]);
	mkdir(home, 0700);
	if (!limit && (!alone_with_mounts(argv[3]) || mount("tmpfs", home, "tmpfs", 0, "size=6M") != 0))
		return SKIPPED;
	signal(SIGXFSZ, SIG_IGN);
	world_open(&w, argv[3]);
	fill_and_recover(&w, limit ? limit_files : fill_tmpfs);
	node_close(&w, B);
	if (!limit)
		umount(home);
	world_close(&w);
	return 0;
}

static void run_full_disk(const char *kind)
{
	struct world w;
	struct child c;
	int64_t status;

	world_open(&w, NULL);
	child_start(&w, &c, (char *[]){"test_store_faults", "--full-disk", (char *)kind, w.dir, NULL});
	child_end(&w, &c);
	status = c.status;
	assert_int_equal(c.signal, 0);
	world_close(&w);
	if (status == SKIPPED)
		skip();          /* no mount namespace for us here */
	assert_int_equal(status, 0);
}

static void a_full_disk_is_told_and_tried_again_when_asked(void **state)
{
	run_full_disk("tmpfs");
}
static void a_limit_on_files_is_told_and_tried_again_when_asked(void **state)
{
	run_full_disk("limit");
}

/* --seed DIR HOST:PORT: publishes the generated file to one peer, for other clients; ends with its standard input. */
static void on_stdin(uv_poll_t *poll, int status, int events)
{
	*(bool *)poll->data = true;
}
static int child_seed(char **argv)
{
	struct world w;
	char torrent[600], manifest[600];
	const char *peers[] = {argv[3]};
	bool end = false;
	uv_poll_t poll;

	world_open(&w, argv[2]);
	uv_timer_stop(&w.deadline);
	publish(&w);
	snprintf(torrent, sizeof torrent, "%s/model.torrent", w.dir);
	write_file(torrent, w.body.info, w.body.info_length);
	write_manifest(&w, manifest, sizeof manifest);
	MUST(store_set_peers(w.nodes[A].store, peers, 1) == 0);
	printf("seeding on port %u\n", store_port(w.nodes[A].store));
	fflush(stdout);
	uv_poll_init(&w.loop, &poll, 0);
	poll.data = &end;
	uv_poll_start(&poll, UV_READABLE | UV_DISCONNECT, on_stdin);
	while (!end)
		uv_run(&w.loop, UV_RUN_ONCE);
	uv_close((uv_handle_t *)&poll, NULL);
	node_close(&w, A);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_flipped_byte_is_refused_and_noted),
		cmocka_unit_test(a_published_file_that_changes_is_not_seeded_and_never_written),
		cmocka_unit_test(a_published_file_that_rots_silently_is_found_by_its_hash),
		cmocka_unit_test(a_published_file_is_remembered_and_stays_where_it_is),
		cmocka_unit_test(a_fetched_model_may_become_a_published_one),
		cmocka_unit_test(a_file_published_by_path_alone_is_checked),
		cmocka_unit_test(manifests_that_contradict_themselves_are_refused),
		cmocka_unit_test(removing_deletes_what_was_fetched_and_nothing_else),
		cmocka_unit_test(what_was_fetched_is_there_after_a_restart_without_any_peer),
		cmocka_unit_test(resume_data_are_not_believed_when_a_file_changed_meanwhile),
		cmocka_unit_test(after_kill_9_nothing_is_lost_and_nothing_unchecked_is_trusted),
		cmocka_unit_test(a_full_disk_is_told_and_tried_again_when_asked),
		cmocka_unit_test(a_limit_on_files_is_told_and_tried_again_when_asked),
	};

	MUST(sodium_init() >= 0);
	if (argc == 7 && strcmp(argv[1], "--fetch") == 0)
		child_fetch(argv);
	if (argc == 4 && strcmp(argv[1], "--full-disk") == 0)
		return child_full_disk(argv);
	if (argc == 4 && strcmp(argv[1], "--seed") == 0)
		return child_seed(argv);
	if (argc == 2)           /* one test by its name */
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
