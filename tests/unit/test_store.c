/* test_store.c: stores that exchange a generated file over loopback, with real torrents.
 *
 *   A publishes 3 MB: header, embedding, eight layers of 300,000 bytes, output. 16 KiB pieces.
 *   B, C fetch layers of it. Each has a home of its own and is told who its peers are.
 *
 * Everything waits for events with one deadline; nothing sleeps. Some tests run this program again as a child
 * (to be killed, or to live in a mount namespace): see main(). tests/peers/test_torrent.sh uses --seed.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
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

#include "daemon/store/store.h"
#include "proto/log.h"
#include "proto/pack.h"
#include "proto/text.h"

#define PIECE 16384u
#define LAYERS 8u
#define LAYER_BYTES 300000u
#define LAYERS_AT 300000u
#define SIZE (LAYERS_AT + LAYERS * LAYER_BYTES + 300123u)
#define DEADLINE_MS 60000
#define SKIPPED 77

enum { A, B, C, NODES };

struct node {
	struct store *store;
	char home[512];
	unsigned changes;
};
struct world {
	uv_loop_t loop;
	uv_timer_t deadline;
	char dir[256];
	char source[512];
	uint8_t *bytes;
	size_t size;
	struct node nodes[NODES];
	struct manifest_body body;
	uint8_t id[KEY_BYTES];
};

/* --- the world ------------------------------------------------------------------------------------------ */

static void on_deadline(uv_timer_t *timer)
{
	static const char text[] = "test_store: the deadline passed while waiting for an event\n";

	if (write(2, text, sizeof text - 1) < 0)
		abort();
	abort();
}

static void must(bool fact, const char *what)
{
	if (!fact) {
		fprintf(stderr, "test_store: not so: %s (%s)\n", what, strerror(errno));
		abort();
	}
}
#define MUST(fact) must(fact, #fact)
#define assert_within(value, least, most) assert_true((uint64_t)(value) >= (least) && (uint64_t)(value) <= (most))

static void write_file(const char *path, const uint8_t *bytes, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	MUST(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
	close(fd);
}

static void generate(uint8_t *bytes, size_t n, uint32_t seed)
{
	uint8_t key[randombytes_SEEDBYTES] = {0};

	put_u32(key, seed);
	randombytes_buf_deterministic(bytes, n, key);
}

static struct manifest_body sketch(void)
{
	struct manifest_body b = {.name = "generated", .architecture = "none", .licence = "CC0-1.0", .n_layer = LAYERS, .n_embd = 4, .row_bytes = 16,
				  .n_vocab = 10, .context = 100, .splittable = true};

	b.n_files = 1;
	b.files = calloc(1, sizeof *b.files);
	b.n_extents = 3 + LAYERS;
	b.extents = calloc(b.n_extents, sizeof *b.extents);
	b.extents[0] = (struct model_extent){GROUP_HEADER, 0, 0, 5000};
	b.extents[1] = (struct model_extent){GROUP_EMBEDDING, 0, 5000, 200000};
	b.extents[2] = (struct model_extent){GROUP_OUTPUT, 0, LAYERS_AT + LAYERS * LAYER_BYTES, 300123};
	for (uint32_t i = 0; i < LAYERS; i++)
		b.extents[3 + i] = (struct model_extent){GROUP_LAYER + i, 0, LAYERS_AT + i * LAYER_BYTES, LAYER_BYTES};
	return b;
}

static void on_change(void *arg, const uint8_t model[KEY_BYTES])
{
	struct node *node = arg;

	node->changes++;
}

static void node_open(struct world *w, int i)
{
	struct node *node = &w->nodes[i];
	struct store_config config = {.loop = &w->loop, .home = node->home, .listen_host = "127.0.0.1", .on_change = on_change, .arg = node};
	char why[200] = "";

	snprintf(node->home, sizeof node->home, "%s/%c", w->dir, 'a' + i);
	mkdir(node->home, 0700);
	if (store_open(&node->store, &config, why, sizeof why)) {
		fprintf(stderr, "%s\n", why);
		abort();
	}
	MUST(store_port(node->store) != 0);
}

static void on_closed(void *arg)
{
	*(bool *)arg = true;
}
static void node_close(struct world *w, int i)
{
	bool closed = false;

	store_close(w->nodes[i].store, on_closed, &closed);
	while (!closed)
		uv_run(&w->loop, UV_RUN_ONCE);
	w->nodes[i].store = NULL;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	return remove(path);
}

static void world_open(struct world *w, const char *dir)
{
	memset(w, 0, sizeof *w);
	if (dir) {
		snprintf(w->dir, sizeof w->dir, "%s", dir);
	} else {
		snprintf(w->dir, sizeof w->dir, "%s/test_store.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
		MUST(mkdtemp(w->dir) != NULL);
	}
	uv_loop_init(&w->loop);
	uv_timer_init(&w->loop, &w->deadline);
	uv_timer_start(&w->deadline, on_deadline, DEADLINE_MS, 0);
	uv_unref((uv_handle_t *)&w->deadline);
	w->size = SIZE;
	w->bytes = malloc(SIZE);
	MUST(w->bytes != NULL);
	generate(w->bytes, SIZE, 1);
	snprintf(w->source, sizeof w->source, "%s/model.gguf", w->dir);
}

static void world_close(struct world *w)
{
	for (int i = 0; i < NODES; i++) {
		if (w->nodes[i].store)
			node_close(w, i);
	}
	manifest_free(&w->body);
	free(w->bytes);
	uv_close((uv_handle_t *)&w->deadline, NULL);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&w->loop), 0);
	nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Until a model at a node is as wished, or the deadline. */
static struct store_status status_of(struct world *w, int i)
{
	struct store_status status;

	MUST(store_status(w->nodes[i].store, w->id, &status) == 0);
	return status;
}
static struct store_status await_state(struct world *w, int i, enum store_state state)
{
	while (status_of(w, i).state != state)
		uv_run(&w->loop, UV_RUN_ONCE);
	return status_of(w, i);
}
static void await_why(struct world *w, int i, const char *word)
{
	while (!strstr(status_of(w, i).why, word))
		uv_run(&w->loop, UV_RUN_ONCE);
}

struct hashing {
	bool over;
	int err;
	unsigned permille;
	struct manifest_body body;
	char why[200];
};
static void on_hash_progress(void *arg, unsigned permille)
{
	struct hashing *h = arg;

	MUST(permille >= h->permille && permille <= 1000);
	h->permille = permille;
}
static void on_hashed(void *arg, int err, struct manifest_body *body, const char *why)
{
	struct hashing *h = arg;

	h->over = true;
	h->err = err;
	snprintf(h->why, sizeof h->why, "%s", why);
	if (body)
		h->body = *body;
}
static void hash(struct world *w, const char *const *paths, size_t n, struct manifest_body body, struct hashing *h)
{
	memset(h, 0, sizeof *h);
	MUST(store_hash(w->nodes[A].store, paths, n, &body, on_hash_progress, on_hashed, h) == 0);
	while (!h->over)
		uv_run(&w->loop, UV_RUN_ONCE);
}

/* A publishes the generated file. */
static void publish(struct world *w)
{
	const char *paths[] = {w->source};
	struct hashing h;

	node_open(w, A);
	write_file(w->source, w->bytes, w->size);
	hash(w, paths, 1, sketch(), &h);
	MUST(h.err == 0);
	w->body = h.body;
	model_id(w->id, w->body.files, 1);
	MUST(store_add(w->nodes[A].store, w->id, &w->body, paths) == 0);
	while (!status_of(w, A).complete)
		uv_run(&w->loop, UV_RUN_ONCE);
}

static void introduce(struct world *w, int i, int others)
{
	char text[NODES][32];
	const char *list[NODES];
	size_t n = 0;

	for (int k = 0; k < NODES; k++) {
		if (!(others >> k & 1))
			continue;
		snprintf(text[n], sizeof text[n], "127.0.0.1:%u", store_port(w->nodes[k].store));
		list[n] = text[n];
		n++;
	}
	MUST(store_set_peers(w->nodes[i].store, list, n) == 0);
}
static void want(struct world *w, int i, uint32_t first, uint32_t end)
{
	struct layer_range range = {first, end};

	MUST(store_want(w->nodes[i].store, w->id, &range, 1) == 0);
}
static void know(struct world *w, int i)
{
	node_open(w, i);
	MUST(store_add(w->nodes[i].store, w->id, &w->body, NULL) == 0);
}

static void path_at(const struct world *w, int i, const char *name, char *out, size_t size)
{
	char hex[2 * KEY_BYTES + 1];

	text_hex(w->id, KEY_BYTES, hex);
	snprintf(out, size, "%s/models/%s/%s", w->nodes[i].home, hex, name);
}

/* The extents that a node hands out hold the published bytes, the wanted groups lie inside them, and outside there is
 * nothing but zeros. Returns how many bytes they are. */
static uint64_t check_files(struct world *w, int i, uint32_t first, uint32_t end)
{
	struct layer_range range = {first, end};
	struct model_extent *extents;
	int fds[MODEL_FILES_MAX];
	size_t n_fds, n;
	uint64_t total = 0;
	uint8_t *got = calloc(1, w->size), *verified = calloc(1, w->size);

	assert_int_equal(store_open_files(w->nodes[i].store, w->id, fds, &n_fds, &extents, &n), 0);
	assert_int_equal(n_fds, 1);
	assert_int_equal(pread(fds[0], got, w->size, 0), w->size);
	assert_int_equal(write(fds[0], "x", 1), -1);
	for (size_t e = 0; e < n; e++) {
		assert_true(extents[e].offset + extents[e].length <= w->size);
		assert_memory_equal(got + extents[e].offset, w->bytes + extents[e].offset, extents[e].length);
		memset(verified + extents[e].offset, 1, extents[e].length);
		total += extents[e].length;
	}
	for (size_t e = 0; e < w->body.n_extents; e++) {
		const struct model_extent *x = &w->body.extents[e];

		for (uint64_t k = 0; k < x->length && manifest_group_in(&w->body, x->group, &range, 1); k++)
			assert_true(verified[x->offset + k]);
	}
	for (size_t k = 0; k < w->size; k++)
		assert_true(verified[k] || got[k] == 0);
	for (size_t k = 0; k < n_fds; k++)
		close(fds[k]);
	free(extents);
	free(got);
	free(verified);
	return total;
}

/* --- hashing -------------------------------------------------------------------------------------------- */

static void a_file_becomes_a_manifest_with_its_sha256_root_and_metainfo(void **state)
{
	struct world w;
	uint8_t sha256[KEY_BYTES];
	const char *paths[] = {w.source};
	struct hashing h;

	world_open(&w, NULL);
	publish(&w);
	crypto_hash_sha256(sha256, w.bytes, w.size);
	assert_memory_equal(w.body.files[0].sha256, sha256, KEY_BYTES);
	assert_string_equal(w.body.files[0].name, "model.gguf");
	assert_int_equal(w.body.files[0].size, w.size);
	assert_true(w.body.info_length > 52 * (w.size / PIECE));
	assert_int_equal(w.body.n_extents, 3 + LAYERS);

	/* the same file, the same manifest: two publishers make one swarm */
	hash(&w, paths, 1, sketch(), &h);
	assert_int_equal(h.err, 0);
	assert_int_equal(h.permille, 1000);
	assert_int_equal(h.body.info_length, w.body.info_length);
	assert_memory_equal(h.body.info, w.body.info, w.body.info_length);
	assert_memory_equal(h.body.files[0].root, w.body.files[0].root, KEY_BYTES);
	manifest_free(&h.body);

	/* and it fits a record */
	struct buf record;
	struct record head = {.sequence = 1, .issued = 1, .expires = 2};
	uint8_t public[32], secret[64];
	crypto_sign_keypair(public, secret);
	memcpy(head.subject, w.id, KEY_BYTES);
	buf_init(&record, RECORD_MAX);
	assert_int_equal(manifest_sign(&record, &head, &w.body, secret), 0);
	buf_release(&record);
	world_close(&w);
}

/* BEP 52 in ten lines: leaves of 16 KiB, zero leaves up to a power of two. An independent sum. */
static void tree(const uint8_t *bytes, size_t n, size_t leaves, uint8_t out[KEY_BYTES])
{
	uint8_t pair[2 * KEY_BYTES];

	if (leaves == 1) {
		if (n == 0)
			memset(out, 0, KEY_BYTES);
		else
			crypto_hash_sha256(out, bytes, n);
		return;
	}
	size_t half = leaves / 2 * PIECE, left = n < half ? n : half;
	tree(bytes, left, leaves / 2, pair);
	tree(bytes + left, n - left, leaves / 2, pair + KEY_BYTES);
	crypto_hash_sha256(out, pair, sizeof pair);
}

static void the_root_is_bep_52s_for_any_size(void **state)
{
	static const size_t sizes[] = {1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE, 5 * PIECE + 7, 64 * PIECE, 65 * PIECE, SIZE};
	struct world w;

	world_open(&w, NULL);
	node_open(&w, A);
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		const char *paths[] = {w.source};
		struct manifest_body body = {.name = "x"};
		uint8_t root[KEY_BYTES];
		size_t leaves = 1;
		struct hashing h;

		write_file(w.source, w.bytes, sizes[i]);
		hash(&w, paths, 1, body, &h);
		assert_int_equal(h.err, 0);
		while (leaves * PIECE < sizes[i])
			leaves *= 2;
		tree(w.bytes, sizes[i], leaves, root);
		assert_memory_equal(h.body.files[0].root, root, KEY_BYTES);
		manifest_free(&h.body);
	}
	world_close(&w);
}

static void files_that_cannot_be_published_are_refused_by_name(void **state)
{
	struct world w;
	struct hashing h;
	char twin[600];

	world_open(&w, NULL);
	node_open(&w, A);
	hash(&w, (const char *[]){w.source}, 1, sketch(), &h);
	assert_int_equal(h.err, -ENOENT);
	assert_non_null(strstr(h.why, "model.gguf"));
	write_file(w.source, w.bytes, 0);
	hash(&w, (const char *[]){w.source}, 1, sketch(), &h);
	assert_int_equal(h.err, ERR_MODEL);
	hash(&w, (const char *[]){w.dir}, 1, sketch(), &h);
	assert_int_equal(h.err, ERR_MODEL);
	hash(&w, (const char *[]){"relative.gguf"}, 1, sketch(), &h);
	assert_int_equal(h.err, -EINVAL);
	hash(&w, NULL, 0, sketch(), &h);
	assert_int_equal(h.err, ERR_LIMIT);
	write_file(w.source, w.bytes, 100);
	snprintf(twin, sizeof twin, "%s/a/model.gguf", w.dir);
	write_file(twin, w.bytes, 100);
	hash(&w, (const char *[]){w.source, twin}, 2, sketch(), &h);
	assert_int_equal(h.err, ERR_MODEL);
	assert_non_null(strstr(h.why, "rename"));
	world_close(&w);
}

static void closing_ends_a_hash_that_is_under_way(void **state)
{
	struct world w;
	struct hashing h = {0};
	struct manifest_body body = sketch();
	int fd;

	world_open(&w, NULL);
	node_open(&w, A);
	fd = open(w.source, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(ftruncate(fd, 20ll << 30), 0);      /* sparse: minutes of reading */
	close(fd);
	assert_int_equal(store_hash(w.nodes[A].store, (const char *[]){w.source}, 1, &body, NULL, on_hashed, &h), 0);
	node_close(&w, A);
	assert_true(h.over);
	assert_int_equal(h.err, ERR_CANCELLED);
	world_close(&w);
}

/* --- what is fetched ------------------------------------------------------------------------------------ */

static void a_node_fetches_exactly_the_pieces_under_its_layers(void **state)
{
	struct world w;
	struct store_status s;
	struct stat st;
	char path[1024];

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	assert_int_equal(status_of(&w, B).state, STORE_IDLE);
	want(&w, B, 2, 4);
	s = await_state(&w, B, STORE_READY);
	assert_int_equal(s.bytes_have, s.bytes_wanted);
	assert_int_equal(s.bytes_on_disk, s.bytes_wanted);
	assert_false(s.complete);
	/* two layers and the header, by whole pieces: at most one more at each end of each */
	assert_within(s.bytes_on_disk, 2 * LAYER_BYTES + 5000, 2 * LAYER_BYTES + 5000 + 4 * PIECE);
	assert_int_equal(check_files(&w, B, 2, 4), s.bytes_on_disk);

	path_at(&w, B, "model.gguf", path, sizeof path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, w.size);
	assert_within(st.st_blocks * 512, 1, s.bytes_on_disk + (64 << 10));
	assert_true(w.nodes[B].changes > 0);

	/* more is wanted: what is there stays */
	want(&w, B, 2, 6);
	s = await_state(&w, B, STORE_READY);
	assert_int_equal(check_files(&w, B, 2, 6), s.bytes_on_disk);
	assert_within(s.bytes_on_disk, 4 * LAYER_BYTES + 5000, 4 * LAYER_BYTES + 5000 + 4 * PIECE);

	/* nothing more: what is there stays too */
	assert_int_equal(store_want(w.nodes[B].store, w.id, NULL, 0), 0);
	assert_int_equal(status_of(&w, B).state, STORE_IDLE);
	assert_int_equal(status_of(&w, B).bytes_on_disk, s.bytes_on_disk);
	world_close(&w);
}

static void nothing_is_handed_out_before_it_is_all_there(void **state)
{
	struct world w;
	struct model_extent *extents;
	int fds[MODEL_FILES_MAX];
	size_t n_fds, n;

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	assert_int_equal(store_open_files(w.nodes[B].store, w.id, fds, &n_fds, &extents, &n), ERR_ARRIVING);
	want(&w, B, 0, 2);
	await_state(&w, B, STORE_FETCHING);
	assert_int_equal(store_open_files(w.nodes[B].store, w.id, fds, &n_fds, &extents, &n), ERR_ARRIVING);
	assert_int_equal(n_fds, 0);
	assert_null(extents);
	uint8_t other[KEY_BYTES] = {1};
	assert_int_equal(store_open_files(w.nodes[B].store, other, fds, &n_fds, &extents, &n), ERR_UNKNOWN);
	world_close(&w);
}

/* A -- B -- C: C never meets A, and B itself has a part only. */
static void a_node_with_a_part_passes_it_on(void **state)
{
	struct world w;

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 4, 8);
	await_state(&w, B, STORE_READY);
	node_close(&w, A);

	know(&w, C);
	introduce(&w, B, 1 << C);
	introduce(&w, C, 1 << B);
	want(&w, C, 5, 7);
	await_state(&w, C, STORE_READY);
	check_files(&w, C, 5, 7);
	world_close(&w);
}

static void a_whole_model_is_complete_and_its_sha256_is_checked(void **state)
{
	struct world w;
	struct store_status s;

	world_open(&w, NULL);
	publish(&w);
	w.body.files[0].sha256[0] ^= 1;         /* a claim that is not so; id and pieces do not depend on it */
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 0, LAYERS);
	s = await_state(&w, B, STORE_READY);
	/* between embedding and layer 0 lie bytes of no group: a piece or more stays away */
	assert_false(s.complete);
	assert_true(s.bytes_on_disk < w.size);
	world_close(&w);

	/* with an extent over them, everything is wanted */
	world_open(&w, NULL);
	publish(&w);
	w.body.extents[1].length = LAYERS_AT - 5000;
	w.body.files[0].sha256[0] ^= 1;
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 0, LAYERS);
	s = await_state(&w, B, STORE_READY);
	assert_true(s.complete);
	assert_int_equal(s.bytes_on_disk, w.size);
	await_why(&w, B, "SHA-256");
	assert_int_equal(status_of(&w, B).state, STORE_READY);
	world_close(&w);
}

static void a_model_of_two_files_arrives_whole_in_the_manifests_order(void **state)
{
	struct world w;
	struct manifest_body body = {.name = "two", .n_layer = 2, .n_vocab = 1, .splittable = true};
	char one[512], two[512];
	const char *paths[] = {one, two};
	struct hashing h;
	struct model_extent *extents;
	int fds[MODEL_FILES_MAX];
	size_t n_fds, n;
	uint8_t got[100];

	world_open(&w, NULL);
	node_open(&w, A);
	snprintf(one, sizeof one, "%s/zz-first.gguf", w.dir);      /* the torrent sorts by name, the manifest does not */
	snprintf(two, sizeof two, "%s/aa-second.gguf", w.dir);
	write_file(one, w.bytes, 3 * PIECE + 50);
	write_file(two, w.bytes + 100000, 9 * PIECE + 1);
	body.n_extents = 4;
	body.extents = calloc(4, sizeof *body.extents);
	body.extents[0] = (struct model_extent){GROUP_HEADER, 0, 0, 10};
	body.extents[1] = (struct model_extent){GROUP_HEADER, 1, 0, 10};
	body.extents[2] = (struct model_extent){GROUP_LAYER + 0, 0, 3 * PIECE, 50};
	body.extents[3] = (struct model_extent){GROUP_LAYER + 1, 1, 4 * PIECE, 5 * PIECE + 1};
	hash(&w, paths, 2, body, &h);
	assert_int_equal(h.err, 0);
	w.body = h.body;
	assert_string_equal(w.body.files[0].name, "zz-first.gguf");
	model_id(w.id, w.body.files, 2);
	assert_int_equal(store_add(w.nodes[A].store, w.id, &w.body, paths), 0);

	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 0, 1);
	await_state(&w, B, STORE_READY);
	/* of the second file the header alone */
	assert_int_equal(status_of(&w, B).bytes_on_disk, PIECE + 50 + PIECE);
	want(&w, B, 1, 2);
	await_state(&w, B, STORE_READY);
	assert_int_equal(store_open_files(w.nodes[B].store, w.id, fds, &n_fds, &extents, &n), 0);
	assert_int_equal(n_fds, 2);
	assert_int_equal(n, 4);
	assert_int_equal(pread(fds[0], got, 50, 3 * PIECE), 50);
	assert_memory_equal(got, w.bytes + 3 * PIECE, 50);
	assert_int_equal(pread(fds[1], got, 100, 9 * PIECE - 99), 100);
	assert_memory_equal(got, w.bytes + 100000 + 9 * PIECE - 99, 100);
	close(fds[0]);
	close(fds[1]);
	free(extents);
	world_close(&w);
}

/* --- who gets it ---------------------------------------------------------------------------------------- */

/* C knows A's address and the metainfo, and asks; A was told of B alone, on the same host. */
static void a_stranger_on_an_allowed_host_gets_nothing(void **state)
{
	struct world w;

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	know(&w, C);
	introduce(&w, A, 1 << B);
	introduce(&w, C, 1 << A);
	want(&w, C, 0, LAYERS);
	await_state(&w, C, STORE_FETCHING);
	/* C dials first; B, who may, starts later and finishes. C has been refused for longer than that took, twice. */
	for (int round = 0; round < 2; round++) {
		introduce(&w, B, 1 << A);
		want(&w, B, 4u * (unsigned)round, 4u * (unsigned)round + 4);
		await_state(&w, B, STORE_READY);
	}
	assert_int_equal(status_of(&w, C).bytes_on_disk, 0);
	/* the very same C, once it is known */
	introduce(&w, A, 1 << B | 1 << C);
	await_state(&w, C, STORE_READY);
	check_files(&w, C, 0, LAYERS);
	world_close(&w);
}

static void a_peer_that_is_no_longer_listed_gets_nothing_more(void **state)
{
	struct world w;
	struct store_status s;

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	introduce(&w, A, 1 << B);
	introduce(&w, B, 1 << A);
	want(&w, B, 0, 2);
	s = await_state(&w, B, STORE_READY);
	introduce(&w, A, 0);
	while (status_of(&w, A).peers || status_of(&w, B).peers)
		uv_run(&w.loop, UV_RUN_ONCE);
	want(&w, B, 0, LAYERS);
	/* a third, allowed one is served meanwhile; B asks all the time */
	know(&w, C);
	introduce(&w, A, 1 << C);
	introduce(&w, C, 1 << A);
	want(&w, C, 0, LAYERS);
	await_state(&w, C, STORE_READY);
	assert_int_equal(status_of(&w, B).state, STORE_FETCHING);
	assert_int_equal(status_of(&w, B).bytes_on_disk, s.bytes_on_disk);
	world_close(&w);
}

static void a_peer_may_be_a_name_and_a_word_that_is_none_is_told(void **state)
{
	struct world w;
	char a[32], b[32];

	world_open(&w, NULL);
	publish(&w);
	know(&w, B);
	snprintf(a, sizeof a, "localhost:%u", store_port(w.nodes[A].store));
	snprintf(b, sizeof b, "localhost:%u", store_port(w.nodes[B].store));
	assert_int_equal(store_set_peers(w.nodes[A].store, (const char *[]){"no port", b}, 2), ERR_MALFORMED);
	assert_int_equal(store_set_peers(w.nodes[B].store, (const char *[]){a}, 1), 0);
	want(&w, B, 0, 1);
	await_state(&w, B, STORE_READY);
	/* said again: the connection stays */
	while (!status_of(&w, B).peers)
		uv_run(&w.loop, UV_RUN_ONCE);
	assert_int_equal(store_set_peers(w.nodes[B].store, (const char *[]){a}, 1), 0);
	want(&w, B, 0, 2);
	while (status_of(&w, B).state != STORE_READY) {
		assert_true(status_of(&w, B).peers >= 1);
		uv_run(&w.loop, UV_RUN_ONCE);
	}
	assert_int_equal(store_set_peers(w.nodes[A].store, (const char *[]){"[::1]:x"}, 1), ERR_MALFORMED);
	assert_int_equal(store_set_peers(w.nodes[A].store, (const char *[]){"1.2.3.4:65536"}, 1), ERR_MALFORMED);
	assert_int_equal(store_set_peers(w.nodes[A].store, (const char *[]){":1"}, 1), ERR_MALFORMED);
	assert_int_equal(store_set_peers(w.nodes[A].store, (const char *[]){"[::1]:80", "1.2.3.4:0"}, 2), 0);
	world_close(&w);
}

static void a_port_that_is_taken_is_an_error_that_says_so(void **state)
{
	struct world w;
	struct store *everywhere = NULL, *second = NULL;
	struct store_config config = {.listen_host = ""};
	char why[200] = "", home[512];
	bool closed = false;

	world_open(&w, NULL);
	config.loop = &w.loop;
	config.home = w.dir;
	assert_int_equal(store_open(&everywhere, &config, why, sizeof why), 0);
	assert_true(store_port(everywhere) != 0);
	config.listen_port = store_port(everywhere);
	snprintf(home, sizeof home, "%s/other", w.dir);
	mkdir(home, 0700);
	config.home = home;
	assert_int_equal(store_open(&second, &config, why, sizeof why), -EADDRINUSE);
	assert_non_null(strstr(why, "another port"));
	config.home = "/nonexistent/home";
	assert_int_equal(store_open(&second, &config, why, sizeof why), -ENOENT);
	assert_non_null(strstr(why, "/nonexistent/home"));
	store_close(everywhere, on_closed, &closed);
	while (!closed)
		uv_run(&w.loop, UV_RUN_ONCE);
	world_close(&w);
}

/* --- bytes that are not what they should be ------------------------------------------------------------- */

static void flip(const char *path, uint64_t offset)
{
	int fd = open(path, O_RDWR);
	uint8_t byte;

	MUST(fd >= 0 && pread(fd, &byte, 1, (off_t)offset) == 1);
	byte ^= 0x10;
	MUST(pwrite(fd, &byte, 1, (off_t)offset) == 1);
	close(fd);
}

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
	/* a file that would lie where the store keeps its own notes */
	strcpy(w.body.files[0].name, "resume");
	assert_int_equal(store_add(w.nodes[B].store, w.id, &w.body, NULL), ERR_MALFORMED);
	strcpy(w.body.files[0].name, "model.gguf");
	assert_int_equal(store_models(w.nodes[B].store, &other, 1), 0);
	assert_int_equal(store_add(w.nodes[B].store, w.id, &w.body, NULL), 0);
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

	child_start(&w, &c, (char *[]){"test_store", "--fetch", w.dir, manifest, peer, "1", "4", NULL});
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
	child_start(&w, &c, (char *[]){"test_store", "--full-disk", (char *)kind, w.dir, NULL});
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
		cmocka_unit_test(a_file_becomes_a_manifest_with_its_sha256_root_and_metainfo),
		cmocka_unit_test(the_root_is_bep_52s_for_any_size),
		cmocka_unit_test(files_that_cannot_be_published_are_refused_by_name),
		cmocka_unit_test(closing_ends_a_hash_that_is_under_way),
		cmocka_unit_test(a_node_fetches_exactly_the_pieces_under_its_layers),
		cmocka_unit_test(nothing_is_handed_out_before_it_is_all_there),
		cmocka_unit_test(a_node_with_a_part_passes_it_on),
		cmocka_unit_test(a_whole_model_is_complete_and_its_sha256_is_checked),
		cmocka_unit_test(a_model_of_two_files_arrives_whole_in_the_manifests_order),
		cmocka_unit_test(a_stranger_on_an_allowed_host_gets_nothing),
		cmocka_unit_test(a_peer_that_is_no_longer_listed_gets_nothing_more),
		cmocka_unit_test(a_peer_may_be_a_name_and_a_word_that_is_none_is_told),
		cmocka_unit_test(a_port_that_is_taken_is_an_error_that_says_so),
		cmocka_unit_test(a_flipped_byte_is_refused_and_noted),
		cmocka_unit_test(a_published_file_that_changes_is_not_seeded_and_never_written),
		cmocka_unit_test(a_published_file_that_rots_silently_is_found_by_its_hash),
		cmocka_unit_test(a_published_file_is_remembered_and_stays_where_it_is),
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
