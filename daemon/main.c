/* essaimd: one node. Start-up is a table of ordered subsystems; stopping runs it backwards.
 *
 * SIGTERM and SIGINT drain: no new questions, those that run get DRAIN_MS, then everything closes. SIGHUP reads the configuration again and
 * applies the keys marked as reloadable. Type=notify: READY=1 once the ports listen.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <config.h>
#include "daemon/daemon.h"
#include "daemon/doctor.h"
#include "proto/log.h"
#include "proto/sanitized.h"
#include "proto/text.h"

#define TICK_MS 250
#define DRAIN_MS 10000

uint64_t daemon_now(const struct daemon *d)
{
	(void)d;
	return (uint64_t)time(NULL);
}

uint64_t daemon_now_ms(const struct daemon *d)
{
	struct timespec now;
	(void)d;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t daemon_ms(const struct daemon *d)
{
	(void)d;
	return uv_hrtime() / 1000000;
}

static uint64_t clock_now(void *arg)
{
	return daemon_now(arg);
}

static uint64_t clock_ms(void *arg)
{
	return daemon_ms(arg);
}

static uint64_t clock_us(void *arg)
{
	(void)arg;
	return uv_hrtime() / 1000;
}

static void random_bytes(void *arg, void *out, size_t n)
{
	(void)arg;
	randombytes_buf(out, n);
}

/* sd_notify(3)'s protocol: one datagram to $NOTIFY_SOCKET. */
static void notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof address.sun_path)
		return;
	memcpy(address.sun_path, path, strlen(path));
	if (path[0] == '@')
		address.sun_path[0] = 0;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, size) < 0)
		log_debug("systemd was not told \"%s\": %s", state, strerror(errno));
	close(fd);
}

/* --- what connects the rooms ---------------------------------------------------------------------- */

static int on_mesh_frame(void *arg, const uint8_t node[KEY_BYTES], const struct frame *frame)
{
	struct daemon *d = arg;
	if (frame->type != FRAME_SEALED)
		return d->ring ? ring_on_frame(d->ring, node, frame) : 0;
	if (d->gateway)
		gateway_on_frame(d->gateway, node, frame);
	return 0;
}

static void on_mesh_peer(void *arg, const uint8_t node[KEY_BYTES], bool up)
{
	struct daemon *d = arg;
	if (d->ring)
		ring_on_peer(d->ring, node, up);
	if (d->gateway && !up)
		gateway_on_down(d->gateway, node);
	d->torrent_peers_at = 0;
	residency_refresh(d);
}

static void on_mesh_records(void *arg)
{
	records_changed(arg);
}

static int latency_send(void *arg, const uint8_t node[KEY_BYTES], struct buf *frame)
{
	return mesh_send(((struct daemon *)arg)->mesh, node, LINK_LATENCY, frame);
}

static int ring_engine(void *arg, const uint8_t model[KEY_BYTES], struct buf *frame)
{
	return stage_send(((struct daemon *)arg)->stage, model, frame);
}

static bool link_is_up(void *arg, const uint8_t node[KEY_BYTES])
{
	return mesh_is_up(((struct daemon *)arg)->mesh, node);
}

static void ring_used(void *arg, const struct ring_use *use, bool final)
{
	struct daemon *d = arg;
	struct ledger_use entry = {.rows = use->rows, .stage_microseconds = use->microseconds};
	/* What one layer stack costs, by the machine's stated draw: an estimate, and marked as one. */
	entry.millijoules = (uint64_t)((double)use->microseconds * 1e-6 * d->config.watts * 1000.0);
	memcpy(entry.session, use->session, sizeof entry.session);
	memcpy(entry.user, use->home_association, KEY_BYTES);
	memcpy(entry.provider, d->keys.association, KEY_BYTES);
	memcpy(entry.node, d->keys.node, KEY_BYTES);
	memcpy(entry.model, use->model, KEY_BYTES);
	ledger_add(d->ledger, &entry, daemon_now(d));
	if (final)
		d->advert_due = true;
	else
		ring_recheck(d->ring);       /* the quota may be used up now */
}

static void ring_receipt(void *arg, const uint8_t *record, size_t n)
{
	struct daemon *d = arg;
	int err = ledger_add_receipt(d->ledger, record, n, daemon_now(d));
	if (err)
		log_debug("a receipt is not kept: %s", err_str(err));
}

static bool relays(void *arg)
{
	return ((struct daemon *)arg)->config.relay;
}

static const char *asked_gateway(void *arg)
{
	return ((struct daemon *)arg)->config.via;
}

/* What we answered in another node's place: its association's use of ours, whoever computed it. Among ourselves the ring's own counts say
 * it already. */
static void gateway_used(void *arg, const struct gateway_use *use)
{
	struct daemon *d = arg;
	struct ledger_use entry = {.rows = use->rows, .stage_microseconds = use->microseconds};
	entry.millijoules = (uint64_t)((double)use->microseconds * 1e-6 * d->config.watts * 1000.0);
	memcpy(entry.session, use->session, sizeof entry.session);
	memcpy(entry.provider, d->keys.association, KEY_BYTES);
	memcpy(entry.node, d->keys.node, KEY_BYTES);
	memcpy(entry.model, use->model, KEY_BYTES);
	if (!trust_association_of(d->trust, use->node, daemon_now(d), entry.user) && memcmp(entry.user, d->keys.association, KEY_BYTES))
		ledger_add(d->ledger, &entry, daemon_now(d));
}

static void on_engine_frame(void *arg, const uint8_t model[KEY_BYTES], const struct frame *frame)
{
	struct daemon *d = arg;
	if (d->ring)
		ring_on_engine(d->ring, model, frame);
}

/* --- start-up -------------------------------------------------------------------------------------- */

static int start_home(struct daemon *d, char *why, size_t size)
{
	char path[4096];
	struct stat st;
	if (stat(d->home, &st) || !S_ISDIR(st.st_mode)) {
		snprintf(why, size, "%s is not a home folder; make one with: essaim --home %s init", d->home, d->home);
		return -ENOENT;
	}
	if (chdir(d->home)) {
		snprintf(why, size, "%s: %s", d->home, strerror(errno));
		return -errno;
	}
	snprintf(path, sizeof path, "%s/lock", d->home);
	d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->lock_fd < 0) {
		snprintf(why, size, "%s: %s (the home folder must be writable by the user that runs essaimd)", path, strerror(errno));
		return -errno;
	}
	if (flock(d->lock_fd, LOCK_EX | LOCK_NB)) {
		snprintf(why, size, "another essaimd runs on %s (its process id: see %s); stop it first or choose another --home", d->home, path);
		return -EBUSY;
	}
	char pid[32];
	int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
	if (ftruncate(d->lock_fd, 0) || pwrite(d->lock_fd, pid, (size_t)n, 0) != n) {
		snprintf(why, size, "%s: %s (is the disk full?)", path, strerror(errno));
		return -EIO;
	}
	return 0;
}

static int start_config(struct daemon *d, char *why, size_t size)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/essaim.conf", d->home);
	int err = config_load(path, &d->config, why, size);
	if (!err)
		log_set_level(d->config.log_level);
	return err;
}

static int start_keys(struct daemon *d, char *why, size_t size)
{
	return keys_load(d->home, &d->keys, why, size);
}

static int start_trust(struct daemon *d, char *why, size_t size)
{
	d->trust = trust_new(d->keys.association, d->keys.node);
	return d->trust ? records_load(d, why, size) : -ENOMEM;
}

static int start_ledger(struct daemon *d, char *why, size_t size)
{
	return ledger_open(&d->ledger, d->loop, d->home, why, size);
}

static int start_stage(struct daemon *d, char *why, size_t size)
{
	const char *engine = d->config.engine_path[0] ? d->config.engine_path : getenv("ESSAIM_ENGINE");
	struct stage_config config = {
		.loop = d->loop,
		.engine_path = engine && *engine ? engine : ENGINE_PATH,
		.threads = d->config.share_threads,
		.gpu = d->config.share_gpu[0] ? d->config.share_gpu : NULL,
		.hang_seconds = d->config.engine_hang_seconds,
		.on_frame = on_engine_frame,
		.on_state = residency_on_stage,
		.on_device = residency_on_device,
		.arg = d,
	};
	if (access(config.engine_path, X_OK)) {
		snprintf(why, size, "the engine %s cannot be executed: %s (install it, or set [engine] path or $ESSAIM_ENGINE)", config.engine_path,
			 strerror(errno));
		return -errno;
	}
	int err = stage_open(&d->stage, &config);
	if (err)
		snprintf(why, size, "engines cannot be watched: %s", err_str(err));
	return err;
}

static int start_store(struct daemon *d, char *why, size_t size)
{
	struct store_config config = {.loop = d->loop, .home = d->home, .listen_host = d->config.torrent_listen,
				      .listen_port = d->config.torrent_port, .on_change = residency_on_store, .arg = d};
	int err = store_open(&d->store, &config, why, size);
	if (err && !why[0])
		snprintf(why, size, "the store of weights cannot be opened: %s (out of memory or of descriptors? raise LimitNOFILE)", err_str(err));
	return err;
}

static int start_mesh(struct daemon *d, char *why, size_t size)
{
	struct mesh_config config = {
		.loop = d->loop, .trust = d->trust, .keys = &d->keys, .home = d->home, .network = d->config.network,
		.listen_host = d->config.link_listen, .listen_port = d->config.link_port, .now = clock_now,
		.on_frame = on_mesh_frame, .on_peer = on_mesh_peer, .on_records = on_mesh_records, .on_join = records_on_join, .arg = d,
	};
	return mesh_open(&d->mesh, &config, why, size);
}

static int start_ring(struct daemon *d, char *why, size_t size)
{
	struct ring_config config = {
		.node_secret = d->keys.node_secret, .now = clock_now, .monotonic_ms = clock_ms, .random = random_bytes, .send = latency_send,
		.engine = ring_engine, .is_up = link_is_up, .room = views_room, .permit = views_permit, .used = ring_used, .receipt = ring_receipt,
		.keep_s = d->config.share_keep, .arg = d,
	};
	memcpy(config.node, d->keys.node, KEY_BYTES);
	memcpy(config.association, d->keys.association, KEY_BYTES);
	int err = ring_new(&d->ring, &config);
	if (err)
		snprintf(why, size, "%s", err_str(err));
	return err;
}

static int start_route(struct daemon *d, char *why, size_t size)
{
	struct route_config config = {
		.ring = d->ring, .monotonic_us = clock_us, .random = random_bytes, .models = views_models, .nodes = views_nodes,
		.render = views_render, .text = views_text, .describe = views_describe, .answered = command_answered, .find_node = views_find_node,
		.gateway = asked_gateway, .arg = d,
	};
	int err = route_new(&d->route, &config);
	if (err)
		snprintf(why, size, "%s", err_str(err));
	return err;
}

static int start_gateway(struct daemon *d, char *why, size_t size)
{
	struct gateway_config config = {
		.sealed = {.link_secret = d->keys.link_secret, .network = d->config.network, .monotonic_ms = clock_ms, .random = random_bytes,
			   .send = latency_send, .is_up = link_is_up, .neighbours = views_neighbours, .link_key = views_link_key, .relays = relays,
			   .arg = d},
		.route = d->route, .permit = views_permit_gateway, .used = gateway_used, .arg = d,
	};
	memcpy(config.sealed.node, d->keys.node, KEY_BYTES);
	int err = gateway_new(&d->gateway, &config);
	if (err)
		snprintf(why, size, "%s", err_str(err));
	else
		route_set_gateway(d->route, d->gateway);
	return err;
}

static int start_api(struct daemon *d, char *why, size_t size)
{
	struct api_config config = {
		.loop = d->loop, .route = d->route, .host = d->config.http_listen, .port = d->config.http_port, .api_key = d->keys.api_key,
		.cors_origins = d->config.http_cors, .hosts = d->config.http_hosts, .metrics = views_metrics, .arg = d,
	};
	return api_open(&d->api, &config, why, size);
}

/* A public address that leads here goes into the card. */
static void on_mapping(void *arg)
{
	struct daemon *d = arg;
	struct portmap_answer answer;
	enum portmap_state state = portmap_state(d->portmap, &answer);
	d->mapped[0] = 0;
	if (state == PORTMAP_MAPPED)
		snprintf(d->mapped, sizeof d->mapped, "%s:%u", answer.host, mesh_port(d->mesh));
	if (state == PORTMAP_MAPPED)
		log_notice("the router passes %s on to this node (%s)", d->mapped, answer.by);
	else if (state == PORTMAP_FAILED)
		log_warning("the router passes no ports on to this node: essaim doctor says why");
	d->addresses_at = 0;
}

static int start_portmap(struct daemon *d, char *why, size_t size)
{
	struct portmap_config config = {.loop = d->loop, .ports = {mesh_port(d->mesh), store_port(d->store)}, .on_change = on_mapping, .arg = d,
					.ask = portmap_ask, .take_back = portmap_take_back};
	int err = portmap_open(&d->portmap, &config);
	if (err)
		snprintf(why, size, "%s", err_str(err));
	return err;
}

static int start_control(struct daemon *d, char *why, size_t size)
{
	return control_open(&d->control, d->loop, d->home, command_table, d, why, size);
}

static void on_tick(uv_timer_t *timer);
static void on_stop_signal(uv_signal_t *handle, int number);
static void on_reload_signal(uv_signal_t *handle, int number);

static int start_clock(struct daemon *d, char *why, size_t size)
{
	(void)why;
	(void)size;
	uv_timer_init(d->loop, &d->tick);
	d->tick.data = d;
	uv_timer_start(&d->tick, on_tick, 10, TICK_MS);
	d->card_due = d->advert_due = true;
	sharing_start(d);
	residency_refresh(d);
	return 0;
}

/* Last, so that a signal during start-up just ends it. */
static int start_signals(struct daemon *d, char *why, size_t size)
{
	struct {
		uv_signal_t *handle;
		uv_signal_cb fn;
		int number;
	} list[] = {{&d->sigterm, on_stop_signal, SIGTERM}, {&d->sigint, on_stop_signal, SIGINT}, {&d->sighup, on_reload_signal, SIGHUP}};
	for (size_t i = 0; i < 3; i++) {
		int err = uv_signal_init(d->loop, list[i].handle);
		size_t open = err ? i : i + 1;
		list[i].handle->data = d;
		if (!err)
			err = uv_signal_start(list[i].handle, list[i].fn, list[i].number);
		if (err) {
			snprintf(why, size, "signals cannot be watched: %s", err_str(err));
			while (open)
				uv_close((uv_handle_t *)list[--open].handle, NULL);
			return err;
		}
	}
	return 0;
}

/* --- stopping: each entry's stop calls stop_next() when it is done ------------------------------------ */

static void stop_next(void *arg);

static void stop_clock(struct daemon *d)
{
	uv_close((uv_handle_t *)&d->tick, NULL);
	stop_next(d);
}
static void stop_signals(struct daemon *d)
{
	uv_close((uv_handle_t *)&d->sigterm, NULL);
	uv_close((uv_handle_t *)&d->sigint, NULL);
	uv_close((uv_handle_t *)&d->sighup, NULL);
	stop_next(d);
}
static void stop_control(struct daemon *d)
{
	control_close(d->control, stop_next, d);
}
static void stop_api(struct daemon *d)
{
	api_close(d->api, stop_next, d);
}
static void stop_route(struct daemon *d)
{
	route_free(d->route);
	d->route = NULL;
	stop_next(d);
}
static void stop_gateway(struct daemon *d)
{
	route_set_gateway(d->route, NULL);
	gateway_free(d->gateway);
	d->gateway = NULL;
	stop_next(d);
}
static void stop_ring(struct daemon *d)
{
	ring_free(d->ring);
	d->ring = NULL;
	stop_next(d);
}
static void stop_portmap(struct daemon *d)
{
	portmap_close(d->portmap, stop_next, d);
}
static void stop_mesh(struct daemon *d)
{
	mesh_close(d->mesh, stop_next, d);
	d->mesh = NULL;
}
static void stop_store(struct daemon *d)
{
	store_close(d->store, stop_next, d);
}
static void stop_stage(struct daemon *d)
{
	stage_close(d->stage, stop_next, d);
}
static void stop_ledger(struct daemon *d)
{
	ledger_close(d->ledger, stop_next, d);
}
static void stop_trust(struct daemon *d)
{
	records_save_now(d);
	trust_free(d->trust);
	stop_next(d);
}

struct subsystem {
	const char *name;
	int (*start)(struct daemon *d, char *why, size_t size);
	void (*stop)(struct daemon *d);                  /* NULL: nothing to stop */
};
static const struct subsystem subsystems[] = {
	{"home", start_home, NULL},
	{"configuration", start_config, NULL},
	{"keys", start_keys, NULL},
	{"trust", start_trust, stop_trust},
	{"ledger", start_ledger, stop_ledger},
	{"engines", start_stage, stop_stage},
	{"store", start_store, stop_store},
	{"mesh", start_mesh, stop_mesh},
	{"port mapping", start_portmap, stop_portmap},
	{"ring", start_ring, stop_ring},
	{"route", start_route, stop_route},
	{"gateway", start_gateway, stop_gateway},
	{"http", start_api, stop_api},
	{"control", start_control, stop_control},
	{"clock", start_clock, stop_clock},
	{"signals", start_signals, stop_signals},
};
#define SUBSYSTEMS (sizeof subsystems / sizeof *subsystems)

static struct daemon node;
static size_t running;                                   /* subsystems that are up */
static uint64_t drain_until;

static void stop_next(void *arg)
{
	struct daemon *d = arg;
	while (running) {
		const struct subsystem *s = &subsystems[--running];
		if (s->stop) {
			log_debug("stopping %s", s->name);
			s->stop(d);              /* comes back here */
			return;
		}
	}
}

static void stop_everything(struct daemon *d)
{
	if (d->closing)
		return;
	d->closing = true;
	stop_next(d);
}

static void on_stop_signal(uv_signal_t *handle, int number)
{
	struct daemon *d = handle->data;
	if (d->draining) {
		stop_everything(d);              /* asked twice: at once */
		return;
	}
	notify("STOPPING=1");
	d->draining = true;
	d->advert_due = true;
	api_drain(d->api);
	ring_set_keep(d->ring, 0);
	drain_until = daemon_ms(d) + DRAIN_MS;
	log_notice("%s: finishing %zu answers (%d s at most), then stopping", number == SIGTERM ? "SIGTERM" : "SIGINT", api_running(d->api),
		   DRAIN_MS / 1000);
}

static void on_reload_signal(uv_signal_t *handle, int number)
{
	(void)number;
	struct daemon *d = handle->data;
	char path[4096], why[512] = "";
	struct config fresh;
	notify("RELOADING=1");
	snprintf(path, sizeof path, "%s/essaim.conf", d->home);
	if (config_load(path, &fresh, why, sizeof why)) {
		log_error("the configuration is left as it was: %s", why);
		notify("READY=1");
		return;
	}
	struct config *c = &d->config;
	c->n_addresses = fresh.n_addresses;
	memcpy(c->addresses, fresh.addresses, sizeof c->addresses);
	c->map_ports = fresh.map_ports;
	c->share_memory = fresh.share_memory;
	c->share_gpu_memory = fresh.share_gpu_memory;
	c->share_home = fresh.share_home;
	c->sharing = fresh.sharing;
	c->watts = fresh.watts;
	c->share_keep = fresh.share_keep;
	ring_set_keep(d->ring, c->share_keep);
	memcpy(c->via, fresh.via, sizeof c->via);
	c->gateway = fresh.gateway;
	c->relay = fresh.relay;
	c->log_level = fresh.log_level;
	log_set_level(c->log_level);
	d->card_due = d->advert_due = true;
	residency_refresh(d);
	log_notice("configuration read again (other keys apply after a restart)");
	notify("READY=1");
}

static void on_tick(uv_timer_t *timer)
{
	struct daemon *d = timer->data;
	if (d->draining && (!api_running(d->api) || daemon_ms(d) >= drain_until)) {
		stop_everything(d);
		return;
	}
	trust_expire(d->trust, daemon_now(d));
	if (trust_generation(d->trust) != d->trust_generation)
		records_changed(d);
	sharing_tick(d);
	records_tick(d);
	residency_tick(d);
	ring_tick(d->ring);
	route_tick(d->route);
	gateway_tick(d->gateway);
	portmap_tick(d->portmap, d->config.map_ports && !d->draining, daemon_ms(d));
}

static const char usage[] =
	"Usage: essaimd --home DIR            run a node in the foreground\n"
	"       essaimd --home DIR --init ... make a home folder (see essaim init)\n"
	"       essaimd --home DIR --doctor   look at the home and the machine, without running (see essaim doctor)\n"
	"       essaimd --version | --help\n"
	"\n"
	"Signals: TERM and INT finish the running answers and stop, HUP reads DIR/essaim.conf again.\n"
	"Exit status: 0 stopped when asked, 1 could not start, 2 wrong usage.\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"home", required_argument, NULL, 'H'}, {"init", no_argument, NULL, 'i'}, {"doctor", no_argument, NULL, 'd'}, {"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0},
	};
	const char *home = NULL;
	bool init = false, doctor = false;
	int option;
	while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		switch (option) {
		case 'H':
			home = optarg;
			break;
		case 'i':
			init = true;
			break;
		case 'd':
			doctor = true;
			break;
		case 'V':
			printf("essaimd %s (protocol %d)\n", PACKAGE_VERSION, PROTOCOL_VERSION);
			return 0;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
		if (init)
			break;                  /* the rest belongs to init */
	}
	if (!home || (!init && optind < argc)) {
		fputs(usage, stderr);
		return 2;
	}
	log_open("essaimd", LOG_LEVEL_INFO);
	signal(SIGPIPE, SIG_IGN);
	umask(0077);
	if (sodium_init() < 0) {
		log_error("libsodium cannot be used on this machine");
		return 1;
	}
	if (init)
		return init_run(home, argc - optind, argv + optind);
	if (doctor)
		return doctor_run(home);

	/* Keys and whatever passes through memory stay out of core files (D18). */
	if (!SANITIZED)                          /* which looks for leaks by tracing itself */
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});

	struct daemon *d = &node;
	char why[1024] = "";
	char absolute[4096];
	d->home = realpath(home, absolute) ? absolute : home;
	d->lock_fd = -1;
	d->loop = uv_default_loop();
	if (!d->loop) {
		log_error("no event loop: out of memory or of descriptors (raise LimitNOFILE?)");
		return 1;
	}
	pthread_mutex_init(&d->save_lock, NULL);
	d->started = daemon_now(d);
	int status = 0;
	for (running = 0; running < SUBSYSTEMS; running++) {
		int err = subsystems[running].start(d, why, sizeof why);
		if (err) {
			log_error("%s", why[0] ? why : err_str(err));
			status = 1;
			break;
		}
	}
	if (status) {
		d->closing = true;
		stop_next(d);
	} else {
		log_notice("version %s: node %s, links on port %u, HTTP on port %u, weights on port %u", PACKAGE_VERSION, d->config.node_name,
			   mesh_port(d->mesh), api_port(d->api), store_port(d->store));
		notify("READY=1");
	}
	uv_run(d->loop, UV_RUN_DEFAULT);
	keys_wipe(&d->keys);
	if (!status)
		log_notice("stopped");
	return status;
}
