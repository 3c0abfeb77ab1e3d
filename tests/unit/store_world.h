/* store_world.h: what the store's tests share: stores that exchange a generated file over loopback, with real torrents.
 *
 *   A publishes 3 MB: header, embedding, eight layers of 300,000 bytes, output. 16 KiB pieces.
 *   B, C fetch layers of it. Each has a home of its own and is told who its peers are.
 *
 * Everything waits for events with one deadline; nothing sleeps. Helpers abort when the world itself is broken, so that
 * children (which are no cmocka tests) can use them. Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_STORE_WORLD_H
#define TESTS_STORE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <uv.h>

#include "daemon/store/store.h"

#define PIECE 16384u
#define LAYERS 8u
#define LAYER_BYTES 300000u
#define LAYERS_AT 300000u
#define SIZE (LAYERS_AT + LAYERS * LAYER_BYTES + 300123u)
#define SKIPPED 77

#define MUST(fact) must(fact, #fact)
#define assert_within(value, least, most) assert_true((uint64_t)(value) >= (least) && (uint64_t)(value) <= (most))

enum { A, B, C, NODES };

struct node {
	struct store *store;
	char home[512];
	unsigned changes;                    /* on_change() calls */
};
struct world {
	uv_loop_t loop;
	uv_timer_t deadline;
	char dir[256];
	char source[512];                    /* the published file */
	uint8_t *bytes;                      /* what it holds */
	size_t size;
	struct node nodes[NODES];
	struct manifest_body body;
	uint8_t id[KEY_BYTES];
};
struct hashing {
	bool over;
	int err;
	unsigned permille;
	struct manifest_body body;
	char why[200];
};

void must(bool fact, const char *what);
void world_open(struct world *w, const char *dir /* NULL: a temporary one */);
void world_close(struct world *w);           /* and deletes dir */
void node_open(struct world *w, int i);
void node_close(struct world *w, int i);
void on_closed(void *arg /* bool: set */);

void publish(struct world *w);               /* A: writes, hashes and adds the file */
void know(struct world *w, int i);           /* another node: opens it, adds the manifest */
void introduce(struct world *w, int i, int others /* 1 << B | ... */);       /* i's peers: all of them */
void want(struct world *w, int i, uint32_t first, uint32_t end);

struct store_status status_of(struct world *w, int i);
struct store_status await_state(struct world *w, int i, enum store_state state);
void await_why(struct world *w, int i, const char *word);

struct manifest_body sketch(void);           /* what an engine would have found */
void hash_files(struct world *w, const char *const *paths, size_t n, struct manifest_body body, struct hashing *h);
void on_hashed(void *arg, int err, struct manifest_body *body, const char *why);

void generate(uint8_t *bytes, size_t n, uint32_t seed);
void write_file(const char *path, const uint8_t *bytes, size_t n);
void flip(const char *path, uint64_t offset);        /* one bit */
void path_at(const struct world *w, int i, const char *name, char *out, size_t size);

/* The extents that a node hands out hold the published bytes, the wanted groups lie inside them, and outside there is
 * nothing but zeros. Returns how many bytes they are. */
uint64_t check_files(struct world *w, int i, uint32_t first, uint32_t end);

#endif
