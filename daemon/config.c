/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/config.h"

#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/err.h"
#include "proto/message.h"
#include "proto/text.h"

static int set_uint(const char *value, uint64_t max, uint64_t *out)
{
	char *end;
	errno = 0;
	unsigned long long v = strtoull(value, &end, 10);
	if (errno || end == value || *end || value[0] == '-' || v > max)
		return ERR_CONFIG;
	*out = v;
	return 0;
}

static int set_port(const char *value, uint16_t *out)
{
	uint64_t v;
	if (set_uint(value, 65535, &v))
		return ERR_CONFIG;
	*out = (uint16_t)v;
	return 0;
}

static int set_u32(const char *value, uint32_t low, uint32_t high, uint32_t *out)
{
	uint64_t v;
	if (set_uint(value, high, &v) || v < low)
		return ERR_CONFIG;
	*out = (uint32_t)v;
	return 0;
}

static int set_bool(const char *value, bool *out)
{
	static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false", "off", "0"};
	for (size_t i = 0; i < 4; i++) {
		if (!strcmp(value, yes[i]))
			return *out = true, 0;
		if (!strcmp(value, no[i]))
			return *out = false, 0;
	}
	return ERR_CONFIG;
}

static int set_node_name(struct config *c, const char *v)
{
	return *v && !text_is_name(v) ? ERR_CONFIG : text_copy(c->node_name, sizeof c->node_name, v);
}
static int set_network(struct config *c, const char *v)
{
	return text_is_name(v) ? text_copy(c->network, sizeof c->network, v) : ERR_CONFIG;
}
static int set_link_listen(struct config *c, const char *v)
{
	return text_copy(c->link_listen, sizeof c->link_listen, v);
}
static int set_link_port(struct config *c, const char *v)
{
	return set_port(v, &c->link_port);
}
static int set_map_ports(struct config *c, const char *v)
{
	return set_bool(v, &c->map_ports);
}
static int set_addresses(struct config *c, const char *v)
{
	c->n_addresses = 0;
	while (*v) {
		size_t n = strcspn(v, ", ");
		if (n) {
			if (c->n_addresses == CARD_ADDRESSES_MAX || n >= ADDRESS_SIZE)
				return ERR_CONFIG;
			char *address = c->addresses[c->n_addresses];
			memcpy(address, v, n);
			address[n] = 0;
			if (!card_address_is_valid(address))     /* the card could not be signed */
				return ERR_CONFIG;
			c->n_addresses++;
		}
		v += n + strspn(v + n, ", ");
	}
	return 0;
}
static int set_http_listen(struct config *c, const char *v)
{
	return text_copy(c->http_listen, sizeof c->http_listen, v);
}
static int set_http_port(struct config *c, const char *v)
{
	return set_port(v, &c->http_port);
}
static int set_http_cors(struct config *c, const char *v)
{
	return text_copy(c->http_cors, sizeof c->http_cors, v);
}
static int set_http_hosts(struct config *c, const char *v)
{
	return text_copy(c->http_hosts, sizeof c->http_hosts, v);
}
static int set_torrent_listen(struct config *c, const char *v)
{
	return text_copy(c->torrent_listen, sizeof c->torrent_listen, v);
}
static int set_torrent_port(struct config *c, const char *v)
{
	return set_port(v, &c->torrent_port);
}
static int set_share_memory(struct config *c, const char *v)
{
	return text_parse_bytes(v, &c->share_memory);
}
static int set_share_gpu(struct config *c, const char *v)
{
	const char *number = strncmp(v, "vulkan/", 7) ? NULL : v + 7;
	uint64_t n;
	if (strcmp(v, "no") && strcmp(v, "auto") && (!number || strlen(number) > 2 || set_uint(number, 99, &n)))
		return ERR_CONFIG;
	return text_copy(c->share_gpu, sizeof c->share_gpu, strcmp(v, "no") ? v : "");
}
static int set_share_gpu_memory(struct config *c, const char *v)
{
	c->share_gpu_memory = 0;
	return strcmp(v, "auto") ? text_parse_bytes(v, &c->share_gpu_memory) : 0;
}
static int set_share_counts(struct config *c, const char *v)
{
	c->share_weights_only = !strcmp(v, "weights");
	return c->share_weights_only || !strcmp(v, "all") ? 0 : ERR_CONFIG;
}
static int set_share_home(struct config *c, const char *v)
{
	return set_bool(v, &c->share_home);
}
static int set_share_paused(struct config *c, const char *v)
{
	return set_bool(v, &c->sharing.paused);
}
static int set_share_hours(struct config *c, const char *v)
{
	return sharing_parse_hours(v, &c->sharing.hours);
}
static int set_share_idle_only(struct config *c, const char *v)
{
	return set_bool(v, &c->sharing.idle_only);
}
static int set_share_idle_minutes(struct config *c, const char *v)
{
	return set_u32(v, 0, 1440, &c->sharing.idle_minutes);
}
static int set_share_busy_percent(struct config *c, const char *v)
{
	return set_u32(v, 1, 10000, &c->sharing.busy_percent);
}
static int set_share_threads(struct config *c, const char *v)
{
	if (strcmp(v, "auto"))
		return set_u32(v, 1, 512, &c->share_threads);
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	c->share_threads = n < 1 ? 1 : n > 512 ? 512 : (uint32_t)n;
	return 0;
}
static int set_share_context(struct config *c, const char *v)
{
	return set_u32(v, 32, 1u << 20, &c->share_context);
}
static int set_share_sessions(struct config *c, const char *v)
{
	return set_u32(v, 1, 64, &c->share_sessions);
}
static int set_share_keep(struct config *c, const char *v)
{
	return set_u32(v, 0, KEEP_S_MAX, &c->share_keep);
}
static int set_via(struct config *c, const char *v)
{
	return text_copy(c->via, sizeof c->via, v);
}
static int set_gateway(struct config *c, const char *v)
{
	static const char *const names[] = {[GATEWAY_OFF] = "off", [GATEWAY_ASSOCIATION] = "association", [GATEWAY_PARTNERS] = "partners"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (!strcmp(v, names[i])) {
			c->gateway = (enum gateway_for)i;
			return 0;
		}
	return ERR_CONFIG;
}
static int set_relay(struct config *c, const char *v)
{
	return set_bool(v, &c->relay);
}
static int set_engine_path(struct config *c, const char *v)
{
	return text_copy(c->engine_path, sizeof c->engine_path, v);
}
static int set_engine_data_limit(struct config *c, const char *v)
{
	return text_parse_bytes(v, &c->engine_data_limit);
}
static int set_engine_hang(struct config *c, const char *v)
{
	return set_u32(v, 5, 3600, &c->engine_hang_seconds);
}
static int set_watts(struct config *c, const char *v)
{
	return set_u32(v, 0, 10000, &c->watts);
}
static int set_log_level(struct config *c, const char *v)
{
	return log_level_parse(v, &c->log_level);
}

const struct config_key config_schema[] = {
	{"node", "name", "", false, "this node's name; empty: the host's name", set_node_name},
	{"mesh", "network", "essaim", false, "nodes of other networks are not spoken to", set_network},
	{"link", "listen", "::", false, "address for links from other nodes; :: is every address, IPv4 and IPv6", set_link_listen},
	{"link", "port", "7740", false, "TCP port for links; 0: any free one", set_link_port},
	{"link", "addresses", "", true, "HOST:PORT, ...: where others reach this node; empty: its own addresses", set_addresses},
	{"link", "map_ports", "no", true, "ask the router, by NAT-PMP or UPnP, to pass the ports for links and weights on to this machine", set_map_ports},
	{"http", "listen", "127.0.0.1", false, "address of the OpenAI API", set_http_listen},
	{"http", "port", "7741", false, "TCP port of the OpenAI API; 0: any free one", set_http_port},
	{"http", "cors", "", false, "web origins that browsers may call from, comma-separated; empty: none", set_http_cors},
	{"http", "hosts", "", false, "more names that requests may be addressed to, comma-separated", set_http_hosts},
	{"torrent", "listen", "", false, "address for model weights by BitTorrent; empty: every address", set_torrent_listen},
	{"torrent", "port", "7742", false, "TCP port for weights; 0: any free one", set_torrent_port},
	{"share", "memory", "2G", true, "memory for models: weights, contexts and working buffers together", set_share_memory},
	{"share", "gpu", "no", false, "graphics card that layers go to: no, auto (one with memory of its own) or vulkan/N", set_share_gpu},
	{"share", "gpu_memory", "auto", true, "of its memory, for models; auto: nine tenths of what a card has free", set_share_gpu_memory},
	{"share", "counts", "all", false, "what the budget counts: all, or weights (demonstrations with tiny models)", set_share_counts},
	{"share", "home", "yes", true, "answer here: keep the first and last layers, so that text stays on this node", set_share_home},
	{"share", "paused", "no", true, "share nothing for now", set_share_paused},
	{"share", "hours", "always", true, "when: always, or [mon-fri ]22:00-07:00, ... in local time", set_share_hours},
	{"share", "idle_only", "no", true, "share only while nobody else works on this machine", set_share_idle_only},
	{"share", "idle_minutes", "5", true, "with idle_only: how long it must have been idle", set_share_idle_minutes},
	{"share", "busy_percent", "30", true, "with idle_only: others' work that counts as somebody working, in percent of one core", set_share_busy_percent},
	{"share", "threads", "auto", false, "threads for computing; auto: one a core", set_share_threads},
	{"share", "context", "2048", false, "tokens of context promised to a conversation (or the model's own, if smaller)", set_share_context},
	{"share", "sessions", "4", false, "conversations at once on one model", set_share_sessions},
	{"share", "keep_seconds", "300", true, "an answered conversation stays in memory so long for its follow-up; 0: not at all", set_share_keep},
	{"share", "watts", "0", true, "what this machine draws at full load, for energy estimates; 0: not said", set_watts},
	{"route", "via", "", true, "the node that is asked, sealed, where this one cannot answer; it sees the text; empty: none", set_via},
	{"route", "gateway", "association", true, "for whom this node answers in their place: off, association or partners", set_gateway},
	{"route", "relay", "yes", true, "pass sealed frames on between neighbours that have no link", set_relay},
	{"engine", "path", "", false, "the essaim-engine program; empty: the installed one", set_engine_path},
	{"engine", "data_limit", "0", false, "RLIMIT_DATA of an engine process; 0: none", set_engine_data_limit},
	{"engine", "hang_seconds", "120", false, "an engine that makes no progress for this long is restarted", set_engine_hang},
	{"log", "level", "info", true, "error, warning, notice, info or debug", set_log_level},
	{NULL, NULL, NULL, false, NULL, NULL},
};

/* Levenshtein distance of short words; for "did you mean". */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[80];
	size_t n = strlen(b);
	if (n >= 79 || strlen(a) >= 79)
		return 99;
	for (size_t j = 0; j <= n; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; a[i - 1]; i++) {
		unsigned diagonal = row[0];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= n; j++) {
			unsigned up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
			if (up + 1 < best)
				best = up + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			diagonal = up;
			row[j] = best;
		}
	}
	return row[n];
}

static const struct config_key *nearest(const char *section, const char *name)
{
	const struct config_key *best = config_schema;
	unsigned best_distance = 1000;
	for (const struct config_key *k = config_schema; k->section; k++) {
		unsigned d = distance(name, k->name) + (strcmp(section, k->section) ? 2 : 0);
		if (d < best_distance) {
			best_distance = d;
			best = k;
		}
	}
	return best;
}

const struct config_key *config_find(const char *section, const char *name, char *why, size_t why_size)
{
	for (const struct config_key *k = config_schema; k->section; k++)
		if (!strcmp(k->section, section) && !strcmp(k->name, name))
			return k;
	const struct config_key *near_key = nearest(section, name);
	snprintf(why, why_size, "there is no key '%s' in [%s]; did you mean '%s' in [%s]?", name, section, near_key->name, near_key->section);
	return NULL;
}

struct reading {
	struct config *config;
	const char *path;
	char *why;
	size_t why_size;
	int err;
};

static int on_pair(void *user, const char *section, const char *name, const char *value)
{
	struct reading *r = user;
	if (r->err)
		return 1;
	char unknown[300];
	const struct config_key *key = config_find(section, name, unknown, sizeof unknown);
	if (!key) {
		snprintf(r->why, r->why_size, "%s: %s", r->path, unknown);
		r->err = ERR_CONFIG;
	} else if (key->set(r->config, value)) {
		snprintf(r->why, r->why_size, "%s: [%s] %s = %s is not usable; it says: %s (default: %s)", r->path, section, name, value,
			 key->help, *key->otherwise ? key->otherwise : "empty");
		r->err = ERR_CONFIG;
	}
	return 1;
}

int config_load(const char *path, struct config *out, char *why, size_t why_size)
{
	memset(out, 0, sizeof *out);
	for (const struct config_key *k = config_schema; k->section; k++)
		k->set(out, k->otherwise);
	struct reading r = {.config = out, .path = path, .why = why, .why_size = why_size};
	int line = access(path, F_OK) ? 0 : ini_parse(path, on_pair, &r);
	if (r.err)
		return r.err;
	if (line) {
		if (line > 0)
			snprintf(why, why_size, "%s: line %d is neither [section] nor key = value", path, line);
		else
			snprintf(why, why_size, "%s cannot be read: %s (it must belong to the user that runs essaimd)", path, strerror(errno));
		return ERR_CONFIG;
	}
	if (!out->node_name[0]) {
		char host[256] = "node";
		gethostname(host, sizeof host - 1);
		host[strcspn(host, ".")] = 0;
		text_copy(out->node_name, sizeof out->node_name, text_is_name(host) ? host : "node");
	}
	return 0;
}
