/* Meshes in one loop, over 127.0.0.1, each with its own keys, trust and home folder:
 *
 *   Abeille 0 ---invites--- Bourdon 0           and, once agreements tie all three, Bourdon 0 --- Colibri 0
 *        |  \---invites---- Colibri 0
 *   Abeille 1 (a node that joins by invitation)
 *
 * Time is moved by hand, some milliseconds a turn of the loop.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <ftw.h>

#include "daemon/mesh/mesh_internal.h"
#include "proto/err.h"
#include "proto/log.h"
#include "proto/message.h"
#include "proto/pack.h"
#include "tests/unit/trust_world.h"

static int64_t clock_ahead_ms;

/* libuv shall call this one: programs are built with hidden symbols. */
__attribute__((visibility("default"))) int clock_gettime(clockid_t id, struct timespec *out)
{
	int err = (int)syscall(SYS_clock_gettime, id, out);
	out->tv_sec += clock_ahead_ms / 1000;
	out->tv_nsec += clock_ahead_ms % 1000 * 1000000;
	if (out->tv_nsec >= 1000000000) {
		out->tv_nsec -= 1000000000;
		out->tv_sec++;
	}
	return err;
}

#define SITES 4
enum { A, B, C, A1 };

struct site {
	struct people *people;
	int number;
	struct keys keys;
	struct trust *trust;
	struct mesh *mesh;
	char home[64];
	uint16_t port;
	int64_t clock_off;                     /* seconds */
	uint64_t sequence;
	int frame_fails;                       /* what on_frame() answers */
	unsigned frames, records, joins, peers_up, peers_down, closed;
	enum frame_type frame_type;
	uint8_t frame_from[KEY_BYTES];
	size_t frame_tail;
	int joined;                            /* result of mesh_join(); 1: not yet */
	unsigned joined_calls;
	bool refuses;                          /* its administrator's side fails, as with a full disk */
	char joined_detail[600];
};

static uv_loop_t loop;
static struct people people[3];
static struct site sites[SITES];
static uint64_t base_ms;

static uint64_t loop_ms(void)
{
	return uv_now(&loop) - base_ms;
}

static uint64_t site_now(void *arg)
{
	struct site *s = arg;
	return (uint64_t)((int64_t)(MORNING + loop_ms() / 1000) + s->clock_off);
}

static int site_frame(void *arg, const uint8_t node[KEY_BYTES], const struct frame *frame)
{
	struct site *s = arg;
	s->frames++;
	s->frame_type = frame->type;
	s->frame_tail = frame->tail_length;
	memcpy(s->frame_from, node, KEY_BYTES);
	return s->frame_fails;
}

static void site_peer(void *arg, const uint8_t node[KEY_BYTES], bool up)
{
	struct site *s = arg;
	*(up ? &s->peers_up : &s->peers_down) += 1;
}

static void site_records(void *arg)
{
	((struct site *)arg)->records++;
}

static void publish(struct site *s)
{
	assert_true(mesh_publish(s->mesh, world_bytes.data, world_bytes.length) >= 0);
}

static int site_join(void *arg, enum invitation_role role, const uint8_t node[KEY_BYTES], const uint8_t association[KEY_BYTES],
		     const uint8_t invitation[16])
{
	struct site *s = arg;
	s->joins++;
	if (s->refuses)
		return -ENOSPC;
	world_now = site_now(s);
	if (role == INVITATION_NODE) {
		sign_roster(s->people, 3, ++s->sequence);
		publish(s);
		return 0;
	}
	for (int i = 0; i < 3; i++)
		if (!memcmp(people[i].root.key, association, KEY_BYTES)) {
			sign_agreement(s->people, &people[i], (struct grant){.tokens = 1000, .seconds = 10}, ++s->sequence);
			publish(s);
			return 0;
		}
	return ERR_UNKNOWN;
}

static void site_joined(void *arg, int err, const char *detail)
{
	struct site *s = arg;
	s->joined = err;
	s->joined_calls++;
	snprintf(s->joined_detail, sizeof s->joined_detail, "%s", detail);
}

static void publish_card(struct site *s)
{
	world_now = site_now(s);
	struct record head = head_of(s->people, NULL, ++s->sequence);
	memcpy(head.association, s->keys.association, KEY_BYTES);
	struct card_body b = {.version_low = 1, .version_high = 1, .n_addresses = 1};
	snprintf(b.name, sizeof b.name, "n%d", s->number);
	memcpy(b.link_key, s->keys.link, KEY_BYTES);
	snprintf(b.addresses[0], ADDRESS_SIZE, "127.0.0.1:%u", s->port);
	assert_int_equal(card_sign(&world_bytes, &head, &b, s->keys.node_secret), 0);
	publish(s);
}

static void open_mesh(struct site *s)
{
	struct mesh_config config = {
		.loop = &loop, .trust = s->trust, .keys = &s->keys, .home = s->home, .network = "test", .listen_host = "127.0.0.1", .listen_port = s->port,
		.now = site_now, .on_frame = site_frame, .on_peer = site_peer, .on_records = site_records, .on_join = site_join, .arg = s,
	};
	char why[300] = "";
	int err = mesh_open(&s->mesh, &config, why, sizeof why);
	assert_string_equal(why, "");
	assert_int_equal(err, 0);
	s->port = mesh_port(s->mesh);
	publish_card(s);
}

static void begin_site(int i, struct people *p, int number, bool member)
{
	struct site *s = &sites[i];
	*s = (struct site){.people = p, .number = number, .sequence = 10, .joined = 1};
	memcpy(s->keys.node_secret, p->node[number].secret, SIGN_SECRET_BYTES);
	memcpy(s->keys.node, p->node[number].key, KEY_BYTES);
	randombytes_buf(s->keys.link_secret, KEY_BYTES);
	crypto_scalarmult_base(s->keys.link, s->keys.link_secret);
	if (member)
		memcpy(s->keys.association, p->root.key, KEY_BYTES);
	snprintf(s->home, sizeof s->home, "/tmp/essaim-mesh-XXXXXX");
	assert_non_null(mkdtemp(s->home));
	char folder[100];
	snprintf(folder, sizeof folder, "%s/invitations", s->home);
	assert_int_equal(mkdir(folder, 0700), 0);
	s->trust = trust_new(s->keys.association, s->keys.node);
	if (member) {
		world_now = MORNING;
		sign_association(p, 1);
		assert_int_equal(take(s->trust), 1);
		sign_steward(p, &p->steward, 1);
		assert_int_equal(take(s->trust), 1);
		sign_roster(p, 1, 1);
		assert_int_equal(take(s->trust), 1);
	}
	open_mesh(s);
}

static int set_up(void **state)
{
	static const char *const names[] = {"Abeille", "Bourdon", "Colibri"};
	clock_ahead_ms = 0;
	assert_int_equal(uv_loop_init(&loop), 0);
	base_ms = uv_now(&loop);
	for (int i = 0; i < 3; i++) {
		people[i] = people_of(names[i]);
		begin_site(i, &people[i], 0, true);
	}
	begin_site(A1, &people[0], 1, false);
	return 0;
}

static void site_closed(void *arg)
{
	struct site *s = arg;
	s->closed++;
	s->mesh = NULL;
}

/* A turn of the loop, and some time with it. */
static void turn(unsigned ms)
{
	clock_ahead_ms += ms;
	uv_run(&loop, UV_RUN_NOWAIT);
}
#define TURN_MS 5
#define WAIT(condition)                                                                     \
	do {                                                                                \
		uint64_t wait_from = loop_ms();                                             \
		while (!(condition)) {                                                      \
			turn(TURN_MS);                                                      \
			if (loop_ms() > wait_from + 300000)                                 \
				fail_msg("%s did not come to pass", #condition);            \
		}                                                                           \
	} while (0)

static void close_mesh(struct site *s)
{
	unsigned before = s->closed;
	mesh_close(s->mesh, site_closed, s);
	WAIT(s->closed == before + 1);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int tear_down(void **state)
{
	for (int i = 0; i < SITES; i++)
		if (sites[i].mesh)
			mesh_close(sites[i].mesh, site_closed, &sites[i]);
	for (int i = 0; i < SITES; i++)
		WAIT(!sites[i].mesh);
	uv_run(&loop, UV_RUN_DEFAULT);
	for (int i = 0; i < SITES; i++) {
		trust_free(sites[i].trust);
		nftw(sites[i].home, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	}
	buf_release(&world_bytes);
	return uv_loop_close(&loop);
}

static struct invitation invite(struct site *s, enum invitation_role role)
{
	struct invitation v = {.role = role, .expires = site_now(s) + 3600, .n_addresses = 1};
	randombytes_buf(v.id, sizeof v.id);
	randombytes_buf(v.secret, sizeof v.secret);
	invitation_psk(v.secret, v.psk);
	memcpy(v.link_key, s->keys.link, KEY_BYTES);
	memcpy(v.node, s->keys.node, KEY_BYTES);
	memcpy(v.association, s->keys.association, KEY_BYTES);
	strcpy(v.name, s->people->name);
	strcpy(v.network, "test");
	snprintf(v.addresses[0], ADDRESS_SIZE, "127.0.0.1:%u", s->port);
	assert_int_equal(invitation_keep(s->home, &v), 0);
	/* as it arrives at the other side: by its URL */
	char url[INVITATION_URL_MAX], why[300];
	assert_int_equal(invitation_url(&v, url, sizeof url), 0);
	struct invitation parsed;
	assert_int_equal(invitation_parse(url, &parsed, why, sizeof why), 0);
	return parsed;
}

static void join(struct site *s, const struct invitation *v)
{
	s->joined = 1;
	assert_int_equal(mesh_join(s->mesh, v, site_joined, s), 0);
	WAIT(s->joined != 1);
}

static bool linked(int a, int b)
{
	return mesh_is_up(sites[a].mesh, sites[b].keys.node) && mesh_is_up(sites[b].mesh, sites[a].keys.node);
}

static void accept_offer(int grantee, int grantor)
{
	struct site *s = &sites[grantee];
	const struct record *offer;
	WAIT((offer = trust_find(s->trust, RECORD_AGREEMENT, people[grantor].root.key, people[grantee].root.key, site_now(s))) != NULL);
	world_now = site_now(s);
	uint8_t hash[KEY_BYTES];
	memcpy(hash, offer->hash, KEY_BYTES);
	sign_acceptance(s->people, &people[grantor], hash, false, ++s->sequence);
	publish(s);
}

/* Two who dial each other at once have three or four connections for a moment, and what travels on those that go is lost. */
static bool settled(int at)
{
	size_t n = 0;
	for (const struct port *p = sites[at].mesh->ports; p; p = p->next)
		n += p->up ? 1 : 5;
	return n == 4;                     /* two neighbours, two kinds */
}

static void partners(void)
{
	for (int i = B; i <= C; i++) {
		struct invitation v = invite(&sites[A], INVITATION_PARTNER);
		join(&sites[i], &v);
		assert_int_equal(sites[i].joined, 0);
		accept_offer(i, A);
	}
	WAIT(settled(A) && settled(B) && settled(C) && linked(A, B) && linked(A, C) && linked(B, C));
}

static const struct mesh_peer *peer_of(int at, int whom)
{
	static struct mesh_peer peers[16];
	size_t n = mesh_peers(sites[at].mesh, peers, 16);
	for (size_t i = 0; i < n; i++)
		if (!memcmp(peers[i].node, sites[whom].keys.node, KEY_BYTES))
			return &peers[i];
	return NULL;
}

static void send_to(int from, int to, enum link_kind kind, enum frame_type type, size_t tail)
{
	struct buf frame;
	uint8_t *zeros = calloc(1, tail + 1);
	buf_init(&frame, FRAME_MAX);
	assert_int_equal(frame_encode(&frame, type, "\x80", 1, zeros, tail), 0);
	assert_int_equal(mesh_send(sites[from].mesh, sites[to].keys.node, kind, &frame), 0);
	free(zeros);
}

/* --- facts ---------------------------------------------------------------------------------------- */

static void partners_join_and_find_each_other_through_the_inviter(void **state)
{
	partners();
	assert_int_equal(sites[A].joins, 2);
	assert_true(sites[A].records > 0 && sites[B].records > 0 && sites[C].records > 0);
	/* Bourdon and Colibri never met: gossip brought the card, a link of their own followed */
	const struct mesh_peer *p = peer_of(B, C);
	assert_non_null(p);
	assert_true(p->up);
	assert_string_equal(p->name, "n0");
	assert_memory_equal(p->association, people[2].root.key, KEY_BYTES);
	assert_true(p->bytes_in > 0 && p->bytes_out > 0);
	WAIT(mesh_rtt_ms(sites[B].mesh, sites[C].keys.node) > 0);
	assert_true(trust_agreement_in_force(sites[C].trust, people[0].root.key, people[1].root.key, site_now(&sites[C])));
}

static void links_settle_to_one_of_each_kind(void **state)
{
	partners();
	unsigned downs = sites[A].peers_down + sites[B].peers_down + sites[C].peers_down;
	uint64_t from = loop_ms();
	while (loop_ms() < from + 60000)
		turn(20);
	assert_true(linked(A, B) && linked(A, C) && linked(B, C));
	assert_int_equal(sites[A].peers_down + sites[B].peers_down + sites[C].peers_down, downs);
}

static void ring_frames_travel_on_latency_links(void **state)
{
	partners();
	send_to(B, C, LINK_LATENCY, FRAME_ROWS, 100000);
	WAIT(sites[C].frames == 1);
	assert_int_equal(sites[C].frame_type, FRAME_ROWS);
	assert_int_equal(sites[C].frame_tail, 100000);
	assert_memory_equal(sites[C].frame_from, sites[B].keys.node, KEY_BYTES);
	struct buf frame;
	buf_init(&frame, 100);
	frame_encode(&frame, FRAME_ROWS, "\x80", 1, NULL, 0);
	assert_int_equal(mesh_send(sites[B].mesh, sites[A1].keys.node, LINK_LATENCY, &frame), ERR_UNREACHABLE);
	buf_release(&frame);
}

static void a_frame_that_is_lost_costs_its_link(void **state)
{
	partners();
	sites[C].frame_fails = -ENOMEM;
	unsigned down[2] = {sites[B].peers_down, sites[C].peers_down};
	send_to(B, C, LINK_LATENCY, FRAME_CLOSE, 10);
	WAIT(sites[B].peers_down > down[0] && sites[C].peers_down > down[1]);
	sites[C].frame_fails = 0;
	WAIT(linked(B, C));
}

static void frames_on_the_wrong_link_cost_that_link(void **state)
{
	static const struct {
		enum link_kind kind;
		enum frame_type type;
	} wrong[] = {
		{LINK_LATENCY, FRAME_DIGEST}, {LINK_LATENCY, FRAME_OBSERVED}, {LINK_LATENCY, 60}, {LINK_LATENCY, FRAME_JOINED},
	};
	partners();
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		unsigned before = sites[C].peers_down;
		send_to(B, C, wrong[i].kind, wrong[i].type, 10);
		WAIT(sites[C].peers_down > before);
		/* both are still admitted, and so they meet again */
		WAIT(linked(B, C));
	}
	assert_int_equal(sites[C].frames, 0);
	/* a ring frame over bulk: nothing reaches the ring */
	send_to(B, C, LINK_BULK, FRAME_ROWS, 10);
	for (int i = 0; i < 1000; i++)
		turn(TURN_MS);
	assert_int_equal(sites[C].frames, 0);
	WAIT(linked(B, C));
}

static void a_revoked_partner_is_disconnected_everywhere_at_once(void **state)
{
	partners();
	world_now = site_now(&sites[A]);
	sign_agreement(&people[0], &people[2], (struct grant){.revoked = true}, ++sites[A].sequence);
	uint64_t from = loop_ms();
	publish(&sites[A]);
	assert_false(mesh_is_up(sites[A].mesh, sites[C].keys.node));
	WAIT(!mesh_is_up(sites[B].mesh, sites[C].keys.node));
	assert_true(loop_ms() - from <= 1000);
	assert_true(linked(A, B));
	WAIT(!mesh_is_up(sites[C].mesh, sites[A].keys.node) && !mesh_is_up(sites[C].mesh, sites[B].keys.node));
	/* it goes on dialling, in vain */
	unsigned ups = sites[C].peers_up;
	for (int i = 0; i < 4000; i++)
		turn(20);
	assert_int_equal(sites[C].peers_up, ups);
	assert_false(mesh_is_up(sites[A].mesh, sites[C].keys.node));
	/* Nobody speaks with it any more, but it was told why. */
	struct agreement_body terms;
	const struct record *r = trust_find(sites[C].trust, RECORD_AGREEMENT, people[0].root.key, people[2].root.key, site_now(&sites[C]));
	assert_non_null(r);
	assert_int_equal(agreement_read(r, &terms), 0);
	assert_true(terms.revoked);
}

static void a_node_joins_and_a_roster_without_it_puts_it_out(void **state)
{
	struct invitation v = invite(&sites[A], INVITATION_NODE);
	join(&sites[A1], &v);
	assert_int_equal(sites[A1].joined, 0);
	assert_non_null(strstr(sites[A1].joined_detail, "joined Abeille"));
	assert_int_equal(sites[A].joins, 1);
	/* it is linked with at once, and restarts as a member, with the records that it saved */
	struct site *s = &sites[A1];
	WAIT(linked(A, A1));
	const struct record *card = trust_find(s->trust, RECORD_CARD, people[0].root.key, sites[A].keys.node, site_now(s));
	assert_non_null(card);
	struct buf saved;
	buf_init(&saved, RECORD_MAX);
	buf_append(&saved, card->bytes, card->length);
	close_mesh(s);
	trust_free(s->trust);
	memcpy(s->keys.association, people[0].root.key, KEY_BYTES);
	s->trust = trust_new(s->keys.association, s->keys.node);
	world_now = site_now(s);
	sign_association(&people[0], 1);
	take(s->trust);
	sign_steward(&people[0], &people[0].steward, 1);
	take(s->trust);
	sign_roster(&people[0], 3, sites[A].sequence);
	take(s->trust);
	assert_int_equal(trust_accept(s->trust, saved.data, saved.length, site_now(s)), 1);
	buf_release(&saved);
	open_mesh(s);
	WAIT(linked(A, A1));
	WAIT(peer_of(A, A1) && peer_of(A1, A));
	world_now = site_now(&sites[A]);
	sign_roster(&people[0], 1, ++sites[A].sequence);
	publish(&sites[A]);
	assert_false(mesh_is_up(sites[A].mesh, s->keys.node));
	WAIT(!mesh_is_up(s->mesh, sites[A].keys.node));
	assert_null(peer_of(A, A1));
}

static void an_invitation_is_used_once(void **state)
{
	struct invitation v = invite(&sites[A], INVITATION_PARTNER);
	join(&sites[B], &v);
	assert_int_equal(sites[B].joined, 0);
	join(&sites[C], &v);
	assert_int_equal(sites[C].joined, ERR_UNREACHABLE);
	assert_non_null(strstr(sites[C].joined_detail, "used"));
	assert_int_equal(sites[A].joins, 1);
	assert_false(trust_in_reach(sites[A].trust, people[2].root.key));
	assert_false(trust_in_reach(sites[C].trust, people[0].root.key));
}

/* Nobody there would know of us: what they say later, that a node was revoked, would not come here. */
static void a_partner_whose_joining_fails_is_forgotten(void **state)
{
	struct invitation v = invite(&sites[A], INVITATION_PARTNER);
	sites[A].refuses = true;
	join(&sites[B], &v);
	assert_int_not_equal(sites[B].joined, 0);
	assert_int_equal(sites[A].joins, 1);
	assert_false(trust_in_reach(sites[A].trust, people[1].root.key));
	assert_false(trust_in_reach(sites[B].trust, people[0].root.key));
	/* and with another invitation it is welcome */
	sites[A].refuses = false;
	v = invite(&sites[A], INVITATION_PARTNER);
	join(&sites[B], &v);
	assert_int_equal(sites[B].joined, 0);
	WAIT(linked(A, B));
}

static void two_at_once_do_not_both_get_in(void **state)
{
	struct invitation v = invite(&sites[A], INVITATION_PARTNER);
	assert_int_equal(mesh_join(sites[B].mesh, &v, site_joined, &sites[B]), 0);
	assert_int_equal(mesh_join(sites[C].mesh, &v, site_joined, &sites[C]), 0);
	assert_int_equal(mesh_join(sites[C].mesh, &v, site_joined, &sites[C]), ERR_BUSY);
	WAIT(sites[B].joined != 1 && sites[C].joined != 1);
	assert_int_equal(sites[A].joins, 1);
	assert_true((sites[B].joined == 0) != (sites[C].joined == 0));
	assert_int_equal(sites[B].joined_calls, 1);
	assert_int_equal(sites[C].joined_calls, 1);
}

static void a_wrong_secret_or_an_expired_one_lets_nobody_in(void **state)
{
	struct invitation v = invite(&sites[A], INVITATION_PARTNER), forged = v;
	forged.secret[0] ^= 1;
	invitation_psk(forged.secret, forged.psk);
	join(&sites[B], &forged);
	assert_int_equal(sites[B].joined, ERR_UNREACHABLE);
	assert_int_equal(sites[A].joins, 0);
	forged = v;
	forged.expires = site_now(&sites[B]) - 1;
	join(&sites[B], &forged);
	assert_int_equal(sites[B].joined, ERR_EXPIRED);
	/* the role is the inviter's to say */
	forged = v;
	forged.role = INVITATION_NODE;
	join(&sites[B], &forged);
	assert_true(sites[B].joined < 0);
	assert_int_equal(sites[A].joins, 0);
}

static void forging_does_not_use_an_invitation_up(void **state)
{
	struct invitation v = invite(&sites[A], INVITATION_PARTNER), forged = v;
	forged.secret[0] ^= 1;
	invitation_psk(forged.secret, forged.psk);
	join(&sites[B], &forged);
	join(&sites[C], &v);
	assert_int_equal(sites[C].joined, 0);
}

static void each_address_that_fails_is_named(void **state)
{
	struct invitation v = invite(&sites[A], INVITATION_PARTNER);
	uint16_t port = sites[B].port;
	close_mesh(&sites[B]);                 /* nobody listens there any more */
	v.n_addresses = 3;
	strcpy(v.addresses[2], v.addresses[0]);
	snprintf(v.addresses[0], ADDRESS_SIZE, "127.0.0.1:%u", port);
	snprintf(v.addresses[1], ADDRESS_SIZE, "127.0.0.1:%u", sites[A1].port);   /* another node than the invitation says */
	join(&sites[C], &v);
	assert_int_equal(sites[C].joined, 0);
	v = invite(&sites[A], INVITATION_PARTNER);
	v.n_addresses = 2;
	snprintf(v.addresses[0], ADDRESS_SIZE, "127.0.0.1:%u", port);
	snprintf(v.addresses[1], ADDRESS_SIZE, "127.0.0.1:%u", sites[A1].port);
	join(&sites[C], &v);
	assert_int_equal(sites[C].joined, ERR_UNREACHABLE);
	assert_non_null(strstr(sites[C].joined_detail, v.addresses[0]));
	assert_non_null(strstr(sites[C].joined_detail, "nothing listens there"));
	assert_non_null(strstr(sites[C].joined_detail, v.addresses[1]));
	assert_non_null(strstr(sites[C].joined_detail, "another node than expected"));
	size_t n;
	const struct mesh_join_failure *failures = mesh_join_failures(sites[C].mesh, &n);
	assert_int_equal(n, 2);
	assert_string_equal(failures[0].address, v.addresses[0]);
	assert_int_equal(failures[0].why, UV_ECONNREFUSED);
	assert_int_equal(failures[1].why, ERR_CRYPTO);
}

static void a_clock_that_is_off_is_said_to_be(void **state)
{
	partners();
	close_mesh(&sites[B]);
	sites[B].clock_off = 3700;
	WAIT(!mesh_is_up(sites[A].mesh, sites[B].keys.node));
	sites[B].sequence += 100;
	open_mesh(&sites[B]);
	WAIT(peer_of(A, B) && strstr(peer_of(A, B)->trouble, "clock"));
	assert_non_null(strstr(peer_of(A, B)->trouble, "1 h 01 min ahead of ours"));
	assert_non_null(strstr(peer_of(A, B)->trouble, "timedatectl"));
	assert_false(linked(A, B));
	close_mesh(&sites[B]);
	sites[B].clock_off = 100;
	open_mesh(&sites[B]);
	WAIT(linked(A, B));
}

static void a_restarted_node_comes_back_by_itself(void **state)
{
	partners();
	for (int round = 0; round < 3; round++) {
		close_mesh(&sites[C]);
		WAIT(!mesh_is_up(sites[A].mesh, sites[C].keys.node) && !mesh_is_up(sites[B].mesh, sites[C].keys.node));
		for (int i = 0; i < 2000; i++)
			turn(20);
		open_mesh(&sites[C]);
		uint64_t from = loop_ms();
		WAIT(linked(A, C) && linked(B, C));
		assert_true(loop_ms() - from < 10000);
	}
}

static void a_new_address_is_followed(void **state)
{
	partners();
	close_mesh(&sites[C]);
	WAIT(!mesh_is_up(sites[A].mesh, sites[C].keys.node));
	sites[C].port = 0;
	open_mesh(&sites[C]);
	WAIT(linked(A, C) && linked(B, C));
}

static void strangers_get_nothing(void **state)
{
	/* Bourdon believes in Abeille, Abeille has never heard of Bourdon */
	struct site *b = &sites[B];
	assert_int_equal(trust_introduce(b->trust, people[0].root.key), 0);
	world_now = site_now(b);
	sign_association(&people[0], 1);
	take(b->trust);
	sign_steward(&people[0], &people[0].steward, 1);
	take(b->trust);
	sign_roster(&people[0], 1, 1);
	take(b->trust);
	publish_card(&sites[A]);
	assert_int_equal(take(b->trust), 1);
	WAIT(peer_of(B, A) && peer_of(B, A)->trouble[0]);
	assert_non_null(strstr(peer_of(B, A)->trouble, "does not admit this node"));
	for (int i = 0; i < 3000; i++)
		turn(20);
	assert_false(mesh_is_up(b->mesh, sites[A].keys.node));
	assert_false(mesh_is_up(sites[A].mesh, b->keys.node));
	assert_int_equal(sites[A].peers_up, 0);
}

static void closing_while_joining_says_so(void **state)
{
	struct invitation v = invite(&sites[A], INVITATION_PARTNER);
	assert_int_equal(mesh_join(sites[B].mesh, &v, site_joined, &sites[B]), 0);
	turn(1);
	close_mesh(&sites[B]);
	assert_int_equal(sites[B].joined, ERR_CANCELLED);
	assert_int_equal(sites[B].joined_calls, 1);
}

static void the_other_side_says_from_where_it_sees_us(void **state)
{
	char address[ADDRESS_SIZE];
	partners();
	WAIT(mesh_observed(sites[B].mesh, address));
	assert_non_null(strstr(address, "127.0.0.1:"));
}

struct reached {
	unsigned calls;
	int err;
	struct reach_answer answer;
};

static void on_reached(void *arg, const uint8_t node[KEY_BYTES], int err, const struct reach_answer *answer)
{
	struct reached *r = arg;
	r->calls++;
	r->err = err;
	if (answer)
		r->answer = *answer;
}

/* Colibri's card, with ports of this machine as its addresses. */
static void publish_odd_card(uint16_t torrent_port, const uint16_t *ports, size_t n)
{
	struct site *c = &sites[C];
	world_now = site_now(c);
	struct record head = head_of(c->people, NULL, ++c->sequence);
	struct card_body b = {.version_low = 1, .version_high = 1, .n_addresses = n, .torrent_port = torrent_port};
	memcpy(head.association, c->keys.association, KEY_BYTES);
	strcpy(b.name, "odd");
	memcpy(b.link_key, c->keys.link, KEY_BYTES);
	for (size_t i = 0; i < n; i++)
		snprintf(b.addresses[i], ADDRESS_SIZE, "127.0.0.1:%u", ports[i]);
	assert_int_equal(card_sign(&world_bytes, &head, &b, c->keys.node_secret), 0);
	publish(c);
}

static void a_card_with_another_nodes_address_leads_nobody_astray(void **state)
{
	partners();
	publish_odd_card(0, &sites[A].port, 1);
	WAIT(peer_of(B, C) && !strcmp(peer_of(B, C)->name, "odd"));
	close_mesh(&sites[C]);
	WAIT(!mesh_is_up(sites[B].mesh, sites[C].keys.node));
	unsigned ups = sites[B].peers_up, downs = sites[B].peers_down, seen = sites[A].peers_up;
	WAIT(peer_of(B, C)->trouble[0] && strstr(peer_of(B, C)->trouble, "another node"));
	for (int i = 0; i < 3000; i++)
		turn(20);
	/* Who is there is not taken for Colibri, and is not disturbed. */
	assert_false(mesh_is_up(sites[B].mesh, sites[C].keys.node));
	assert_true(linked(A, B));
	assert_int_equal(sites[B].peers_up, ups);
	assert_int_equal(sites[B].peers_down, downs);
	assert_int_equal(sites[A].peers_up, seen);
}

static const struct reach_result *result_for(const struct reached *r, uint16_t port, bool weights)
{
	char address[ADDRESS_SIZE];
	snprintf(address, sizeof address, "127.0.0.1:%u", port);
	for (size_t i = 0; i < r->answer.n_results; i++)
		if (r->answer.results[i].weights == weights && !strcmp(r->answer.results[i].address, address))
			return &r->answer.results[i];
	fail_msg("nothing is said about %s", address);
	return NULL;
}

static void a_neighbour_says_how_each_address_of_ours_answered(void **state)
{
	struct reached r = {0};
	partners();
	/* where it is, where nothing listens, and where Abeille is; weights where Bourdon is */
	publish_odd_card(sites[B].port, (const uint16_t[]){sites[C].port, 1, sites[A].port}, 3);
	WAIT(peer_of(B, C) && !strcmp(peer_of(B, C)->name, "odd"));
	unsigned ups = sites[B].peers_up, downs = sites[B].peers_down;
	assert_int_equal(mesh_reach(sites[C].mesh, sites[B].keys.node, on_reached, &r), 0);
	assert_int_equal(r.calls, 0);
	WAIT(r.calls);
	assert_int_equal(r.err, 0);
	assert_int_equal(r.answer.n_results, 4);
	assert_int_equal(result_for(&r, sites[C].port, false)->code, 0);
	assert_int_equal(result_for(&r, 1, false)->code, UV_ECONNREFUSED);
	assert_int_not_equal(result_for(&r, sites[A].port, false)->code, 0);
	assert_string_not_equal(result_for(&r, sites[A].port, false)->detail, "");
	assert_int_equal(result_for(&r, sites[B].port, true)->code, 0);
	/* links in use were left alone */
	for (int i = 0; i < 200; i++)
		turn(TURN_MS);
	assert_true(linked(B, C));
	assert_int_equal(sites[B].peers_up, ups);
	assert_int_equal(sites[B].peers_down, downs);
	assert_int_equal(r.calls, 1);
}

static void who_asks_too_often_is_told_so(void **state)
{
	struct reached first = {0}, second = {0}, later = {0};
	partners();
	assert_int_equal(mesh_reach(sites[C].mesh, sites[B].keys.node, on_reached, &first), 0);
	assert_int_equal(mesh_reach(sites[C].mesh, sites[B].keys.node, on_reached, &second), 0);
	WAIT(first.calls && second.calls);
	assert_int_equal(first.err, 0);
	assert_int_equal(second.err, ERR_BUSY);
	uint64_t from = loop_ms();
	WAIT(loop_ms() > from + REACH_EVERY_MS && linked(C, B));        /* a busy machine may have let the link fall meanwhile */
	assert_int_equal(mesh_reach(sites[C].mesh, sites[B].keys.node, on_reached, &later), 0);
	WAIT(later.calls);
	assert_int_equal(later.err, 0);
}

static void who_cannot_be_asked_is_an_error(void **state)
{
	struct reached r = {0};
	assert_int_equal(mesh_reach(sites[B].mesh, sites[C].keys.node, on_reached, &r), ERR_UNREACHABLE);
	partners();
	assert_int_equal(mesh_reach(sites[B].mesh, sites[C].keys.node, on_reached, &r), 0);
	close_mesh(&sites[B]);
	assert_int_equal(r.calls, 1);
	assert_int_equal(r.err, ERR_CANCELLED);
}

static void reach_on_a_latency_link_costs_that_link(void **state)
{
	partners();
	unsigned downs = sites[B].peers_down;
	send_to(C, B, LINK_LATENCY, FRAME_REACH, 0);
	WAIT(sites[B].peers_down > downs);
}

static void clocks_are_compared_when_links_come_up(void **state)
{
	sites[C].clock_off = 100;
	publish_card(&sites[C]);
	partners();
	assert_true(peer_of(A, C)->clock_known);
	assert_true(llabs((long long)peer_of(A, C)->clock_off - 100) <= 2);
	assert_true(llabs((long long)peer_of(C, A)->clock_off + 100) <= 2);
	assert_true(llabs((long long)peer_of(A, B)->clock_off) <= 2);
}

static void sign_anew(int i)
{
	struct site *s = &sites[i];
	world_now = site_now(s);
	sign_steward(s->people, &s->people->steward, ++s->sequence);
	publish(s);
	sign_roster(s->people, 1, ++s->sequence);
	publish(s);
	publish_card(s);
}

/* A month after all that was signed has ended two associations sign anew, and nobody else can tell them of each other. */
static void who_comes_back_after_everything_has_ended_is_told_what_was_signed_since(void **state)
{
	struct invitation v = invite(&sites[A], INVITATION_PARTNER);
	join(&sites[B], &v);
	assert_int_equal(sites[B].joined, 0);
	accept_offer(B, A);
	WAIT(linked(A, B));
	/* One clock after the other: what was said of it is not said any longer when they agree, though no link comes up. */
	sites[A].clock_off += 60 * DAY;
	const struct neighbour *n;
	WAIT((n = neighbours_find(sites[A].mesh, sites[B].keys.node)) && neighbours_clock_differs(n));
	for (int i = B; i < SITES; i++)
		sites[i].clock_off += 60 * DAY;
	WAIT((n = neighbours_find(sites[A].mesh, sites[B].keys.node)) && !neighbours_clock_differs(n));
	assert_false(linked(A, B));
	for (int i = 0; i < 4000; i++)
		turn(20);
	assert_false(linked(A, B));
	assert_int_equal(trust_admits(sites[A].trust, sites[B].keys.node, site_now(&sites[A])), ERR_DENIED);
	sign_anew(A);
	/* A tells B, and is not told anything that counts yet. */
	WAIT(!trust_admits(sites[B].trust, sites[A].keys.node, site_now(&sites[B])));
	assert_int_equal(trust_admits(sites[A].trust, sites[B].keys.node, site_now(&sites[A])), ERR_DENIED);
	sign_anew(B);
	WAIT(linked(A, B));
}

/* Whoever revoked the only agreement it had has no neighbour left whose clock it could compare. */
static void who_is_told_our_last_word_tells_us_what_time_it_is(void **state)
{
	struct invitation v = invite(&sites[A], INVITATION_PARTNER);
	join(&sites[B], &v);
	accept_offer(B, A);
	WAIT(linked(A, B));
	assert_true(mesh_agrees(sites[A].mesh));
	close_mesh(&sites[B]);
	WAIT(!mesh_is_up(sites[A].mesh, sites[B].keys.node));
	world_now = site_now(&sites[A]);
	sign_agreement(&people[0], &people[1], (struct grant){.revoked = true}, ++sites[A].sequence);
	publish(&sites[A]);
	for (int i = 0; i < 700; i++)
		turn(1000);
	assert_false(mesh_agrees(sites[A].mesh));
	sites[B].sequence += 10;
	open_mesh(&sites[B]);
	WAIT(mesh_agrees(sites[A].mesh));
	assert_false(mesh_is_up(sites[A].mesh, sites[B].keys.node));
	/* not when our clock was set since */
	sites[A].clock_off = 86400;
	WAIT(!mesh_agrees(sites[A].mesh));
}

static void a_flood_of_new_records_reaches_all(void **state)
{
	partners();
	uint8_t model[KEY_BYTES] = {0}, hash[KEY_BYTES];
	for (uint64_t i = 0; i < 500; i++) {
		put_u64(model, i);
		world_now = site_now(&sites[B]);
		sign_approval(&people[1], model, false, ++sites[B].sequence);
		publish(&sites[B]);
	}
	hash_last(hash);
	WAIT(trust_by_hash(sites[A].trust, hash) && trust_by_hash(sites[C].trust, hash));
	WAIT(count_of(sites[C].trust, RECORD_APPROVAL) == 500 && count_of(sites[A].trust, RECORD_APPROVAL) == 500);
}

#define IN_A_LOOP(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	if (sodium_init() < 0)
		return 1;
	log_open(NULL, LOG_LEVEL_ERROR);
	const struct CMUnitTest tests[] = {
		IN_A_LOOP(partners_join_and_find_each_other_through_the_inviter),
		IN_A_LOOP(links_settle_to_one_of_each_kind),
		IN_A_LOOP(ring_frames_travel_on_latency_links),
		IN_A_LOOP(a_frame_that_is_lost_costs_its_link),
		IN_A_LOOP(frames_on_the_wrong_link_cost_that_link),
		IN_A_LOOP(a_revoked_partner_is_disconnected_everywhere_at_once),
		IN_A_LOOP(a_node_joins_and_a_roster_without_it_puts_it_out),
		IN_A_LOOP(an_invitation_is_used_once),
		IN_A_LOOP(a_partner_whose_joining_fails_is_forgotten),
		IN_A_LOOP(two_at_once_do_not_both_get_in),
		IN_A_LOOP(a_wrong_secret_or_an_expired_one_lets_nobody_in),
		IN_A_LOOP(forging_does_not_use_an_invitation_up),
		IN_A_LOOP(each_address_that_fails_is_named),
		IN_A_LOOP(a_clock_that_is_off_is_said_to_be),
		IN_A_LOOP(a_restarted_node_comes_back_by_itself),
		IN_A_LOOP(a_new_address_is_followed),
		IN_A_LOOP(strangers_get_nothing),
		IN_A_LOOP(closing_while_joining_says_so),
		IN_A_LOOP(the_other_side_says_from_where_it_sees_us),
		IN_A_LOOP(a_neighbour_says_how_each_address_of_ours_answered),
		IN_A_LOOP(a_card_with_another_nodes_address_leads_nobody_astray),
		IN_A_LOOP(who_asks_too_often_is_told_so),
		IN_A_LOOP(who_cannot_be_asked_is_an_error),
		IN_A_LOOP(reach_on_a_latency_link_costs_that_link),
		IN_A_LOOP(clocks_are_compared_when_links_come_up),
		IN_A_LOOP(who_comes_back_after_everything_has_ended_is_told_what_was_signed_since),
		IN_A_LOOP(who_is_told_our_last_word_tells_us_what_time_it_is),
		IN_A_LOOP(a_flood_of_new_records_reaches_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
