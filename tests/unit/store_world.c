/* store_world.c: see store_world.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "tests/unit/store_world.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/text.h"

#define DEADLINE_MS 60000

static void on_deadline(uv_timer_t *timer)
{
	static const char text[] = "test_store: the deadline passed while waiting for an event\n";

	if (write(2, text, sizeof text - 1) < 0)
		abort();
	abort();
}

void must(bool fact, const char *what)
{
	if (!fact) {
		fprintf(stderr, "test_store: not so: %s (%s)\n", what, strerror(errno));
		abort();
	}
}

void write_file(const char *path, const uint8_t *bytes, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	MUST(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
	close(fd);
}

void generate(uint8_t *bytes, size_t n, uint32_t seed)
{
	uint8_t key[randombytes_SEEDBYTES] = {0};

	put_u32(key, seed);
	randombytes_buf_deterministic(bytes, n, key);
}

struct manifest_body sketch(void)
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

void node_open(struct world *w, int i)
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

void on_closed(void *arg)
{
	*(bool *)arg = true;
}
void node_close(struct world *w, int i)
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

void world_open(struct world *w, const char *dir)
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

void world_close(struct world *w)
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
struct store_status status_of(struct world *w, int i)
{
	struct store_status status;

	MUST(store_status(w->nodes[i].store, w->id, &status) == 0);
	return status;
}
struct store_status await_state(struct world *w, int i, enum store_state state)
{
	while (status_of(w, i).state != state)
		uv_run(&w->loop, UV_RUN_ONCE);
	return status_of(w, i);
}
void await_why(struct world *w, int i, const char *word)
{
	while (!strstr(status_of(w, i).why, word))
		uv_run(&w->loop, UV_RUN_ONCE);
}

static void on_hash_progress(void *arg, unsigned permille)
{
	struct hashing *h = arg;

	MUST(permille >= h->permille && permille <= 1000);
	h->permille = permille;
}
void on_hashed(void *arg, int err, struct manifest_body *body, const char *why)
{
	struct hashing *h = arg;

	h->over = true;
	h->err = err;
	snprintf(h->why, sizeof h->why, "%s", why);
	if (body)
		h->body = *body;
}
void hash_files(struct world *w, const char *const *paths, size_t n, struct manifest_body body, struct hashing *h)
{
	memset(h, 0, sizeof *h);
	MUST(store_hash(w->nodes[A].store, paths, n, &body, on_hash_progress, on_hashed, h) == 0);
	while (!h->over)
		uv_run(&w->loop, UV_RUN_ONCE);
}

/* A publishes the generated file. */
void publish(struct world *w)
{
	const char *paths[] = {w->source};
	struct hashing h;

	node_open(w, A);
	write_file(w->source, w->bytes, w->size);
	hash_files(w, paths, 1, sketch(), &h);
	MUST(h.err == 0);
	w->body = h.body;
	model_id(w->id, w->body.files, 1);
	MUST(store_add(w->nodes[A].store, w->id, &w->body, paths) == 0);
	while (!status_of(w, A).complete)
		uv_run(&w->loop, UV_RUN_ONCE);
}

void introduce(struct world *w, int i, int others)
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
void want(struct world *w, int i, uint32_t first, uint32_t end)
{
	struct layer_range range = {first, end};

	MUST(store_want(w->nodes[i].store, w->id, &range, 1) == 0);
}
void know(struct world *w, int i)
{
	node_open(w, i);
	MUST(store_add(w->nodes[i].store, w->id, &w->body, NULL) == 0);
}

void path_at(const struct world *w, int i, const char *name, char *out, size_t size)
{
	char hex[2 * KEY_BYTES + 1];

	text_hex(w->id, KEY_BYTES, hex);
	snprintf(out, size, "%s/models/%s/%s", w->nodes[i].home, hex, name);
}

uint64_t check_files(struct world *w, int i, uint32_t first, uint32_t end)
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

void flip(const char *path, uint64_t offset)
{
	int fd = open(path, O_RDWR);
	uint8_t byte = 0;

	MUST(fd >= 0 && pread(fd, &byte, 1, (off_t)offset) == 1);
	byte ^= 0x10;
	MUST(pwrite(fd, &byte, 1, (off_t)offset) == 1);
	close(fd);
}
