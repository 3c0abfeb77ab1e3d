/* test_store.c: what is published, what is fetched, and who gets it. See store_world.h.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "tests/unit/store_world.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/store/torrent.h"

#define QUIET_MS 1500                /* three looks at libtorrent */
#define NOISE_MS 10000               /* libtorrent's rates take a minute to come down to 0 */

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
	hash_files(&w, paths, 1, sketch(), &h);
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
		hash_files(&w, paths, 1, body, &h);
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
	hash_files(&w, (const char *[]){w.source}, 1, sketch(), &h);
	assert_int_equal(h.err, -ENOENT);
	assert_non_null(strstr(h.why, "model.gguf"));
	write_file(w.source, w.bytes, 0);
	hash_files(&w, (const char *[]){w.source}, 1, sketch(), &h);
	assert_int_equal(h.err, ERR_MODEL);
	hash_files(&w, (const char *[]){w.dir}, 1, sketch(), &h);
	assert_int_equal(h.err, ERR_MODEL);
	hash_files(&w, (const char *[]){"relative.gguf"}, 1, sketch(), &h);
	assert_int_equal(h.err, -EINVAL);
	hash_files(&w, NULL, 0, sketch(), &h);
	assert_int_equal(h.err, ERR_LIMIT);
	write_file(w.source, w.bytes, 100);
	snprintf(twin, sizeof twin, "%s/a/model.gguf", w.dir);
	write_file(twin, w.bytes, 100);
	hash_files(&w, (const char *[]){w.source, twin}, 2, sketch(), &h);
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

/* Whoever is told acts on it: when nothing happens, nothing may be told. */
static void await_quiet(struct world *w, int i)
{
	unsigned changes = w->nodes[i].changes;
	uint64_t since = uv_now(&w->loop), begun = since;

	while (uv_now(&w->loop) - since < QUIET_MS) {
		must(uv_now(&w->loop) - begun < NOISE_MS, "the store to have nothing to tell");
		uv_run(&w->loop, UV_RUN_ONCE);
		if (w->nodes[i].changes != changes)
			since = uv_now(&w->loop);
		changes = w->nodes[i].changes;
	}
}

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
	await_quiet(&w, B);

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
	hash_files(&w, paths, 2, body, &h);
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

/* Every session here wakes the loop before it is known to be open, as libtorrent's thread may. */
int __real_torrent_session_open(struct torrent_session **out, const char *host, uint16_t port, void (*wake)(void *arg), void *arg, char *why,
				size_t why_size);
int __wrap_torrent_session_open(struct torrent_session **out, const char *host, uint16_t port, void (*wake)(void *arg), void *arg, char *why,
				size_t why_size);
int __wrap_torrent_session_open(struct torrent_session **out, const char *host, uint16_t port, void (*wake)(void *arg), void *arg, char *why,
				size_t why_size)
{
	wake(arg);
	return __real_torrent_session_open(out, host, port, wake, arg, why, why_size);
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
	};

	MUST(sodium_init() >= 0);
	if (argc == 2)           /* one test by its name */
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
