/* config.h: HOME/essaim.conf, read by inih and checked against one table.
 *
 * The table (config_schema) is what the documents are compared with; a key that it does not have is an error that names
 * the nearest one. Thread: start-up and SIGHUP. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef DAEMON_CONFIG_H
#define DAEMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/sharing.h"
#include "proto/log.h"
#include "proto/record.h"

struct config {
	char node_name[NAME_SIZE];
	char network[NAME_SIZE];
	char link_listen[ADDRESS_SIZE];
	uint16_t link_port;
	bool map_ports;                                  /* asks the router for link_port and torrent_port */
	size_t n_addresses;                              /* announced; empty: those of the interfaces */
	char addresses[CARD_ADDRESSES_MAX][ADDRESS_SIZE];
	char http_listen[ADDRESS_SIZE];
	uint16_t http_port;
	char http_cors[512], http_hosts[512];
	char torrent_listen[ADDRESS_SIZE];
	uint16_t torrent_port;
	uint64_t share_memory;                           /* bytes; 0: shares nothing */
	char share_gpu[16];                              /* "" none, "auto", "vulkan/N" */
	uint64_t share_gpu_memory;                       /* bytes; 0: most of what a card has free */
	bool share_weights_only, share_home;
	struct sharing_rule sharing;
	uint32_t share_threads, share_context, share_sessions, share_keep;
	char via[2 * NAME_SIZE];                         /* the node that is asked where this one cannot answer; "" none */
	enum gateway_for { GATEWAY_OFF, GATEWAY_ASSOCIATION, GATEWAY_PARTNERS } gateway;   /* for whom this node answers in their place */
	bool relay;                                      /* passes sealed frames on between neighbours */
	char engine_path[512];
	uint64_t engine_data_limit;                      /* bytes; 0: none */
	uint32_t engine_hang_seconds;
	uint32_t watts;                                  /* what this machine draws at full load, for estimates; 0: not said */
	enum log_level log_level;
};

struct config_key {
	const char *section, *name;
	const char *otherwise;                           /* default, as it would be written */
	bool reload;                                     /* SIGHUP applies it */
	const char *help;
	int (*set)(struct config *config, const char *value);    /* 0, or negative: the value is no good */
};
extern const struct config_key config_schema[];          /* ends with section NULL */

/* NULL: there is no such key; why names the nearest. */
const struct config_key *config_find(const char *section, const char *name, char *why, size_t why_size);

/* Defaults, then the file (which need not exist). why: file, line, key, the nearest key and what is expected. */
int config_load(const char *path, struct config *out, char *why, size_t why_size);

#endif
