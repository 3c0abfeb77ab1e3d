/* What gateway mode must know of the other rooms: which node is meant, who may pass on, whose key is whose, who may have us answer.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"
#include "daemon/ledger/quota.h"
#include "proto/text.h"

int views_find_node(void *arg, const char *name, uint8_t node[KEY_BYTES], char *why, size_t why_size)
{
	struct daemon *d = arg;
	struct mesh_peer *peers = calloc(PLACEMENT_NODES_MAX, sizeof *peers);
	size_t n = peers ? mesh_peers(d->mesh, peers, PLACEMENT_NODES_MAX) : 0, found = 0;
	for (size_t i = 0; i < n; i++) {
		char full[2 * NAME_SIZE], hex[2 * KEY_BYTES + 1];
		snprintf(full, sizeof full, "%s@%s", peers[i].name, trust_association_name(d->trust, peers[i].association));
		text_hex(peers[i].node, KEY_BYTES, hex);
		if (strcmp(name, peers[i].name) && strcmp(name, full) && (strlen(name) < 8 || strncmp(name, hex, strlen(name))))
			continue;
		memcpy(node, peers[i].node, KEY_BYTES);
		found++;
	}
	free(peers);
	if (!found)
		snprintf(why, why_size, "no node called '%.60s' is known here (essaim peers lists them)", name);
	if (found > 1)
		snprintf(why, why_size, "several nodes are called '%.60s': write NODE@ASSOCIATION, or eight digits of its key", name);
	return found == 1 ? 0 : found ? ERR_AMBIGUOUS : ERR_UNKNOWN;
}

size_t views_neighbours(void *arg, uint8_t (*out)[KEY_BYTES], size_t max)
{
	struct daemon *d = arg;
	struct mesh_peer *peers = calloc(PLACEMENT_NODES_MAX, sizeof *peers);
	size_t n = peers ? mesh_peers(d->mesh, peers, PLACEMENT_NODES_MAX) : 0, used = 0;
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < n && used < max; i++) {
			bool ours = !memcmp(peers[i].association, d->keys.association, KEY_BYTES);
			if (peers[i].up && ours == !pass)
				memcpy(out[used++], peers[i].node, KEY_BYTES);
		}
	free(peers);
	return used;
}

int views_link_key(void *arg, const uint8_t node[KEY_BYTES], uint8_t out[KEY_BYTES])
{
	struct daemon *d = arg;
	struct card_body card;
	uint64_t now = daemon_now(d);
	int err = trust_admits(d->trust, node, now);
	if (!err)
		err = trust_card_of(d->trust, node, now, &card);
	if (!err)
		memcpy(out, card.link_key, KEY_BYTES);
	return err;
}

int views_permit_gateway(void *arg, const uint8_t node[KEY_BYTES], const uint8_t model[KEY_BYTES], char *detail, size_t size)
{
	struct daemon *d = arg;
	uint64_t now = daemon_now(d);
	uint8_t association[KEY_BYTES];
	struct trust_terms terms;
	if (trust_association_of(d->trust, node, now, association)) {
		snprintf(detail, size, "the asking node is on no roster that is known there");
		return ERR_DENIED;
	}
	bool ours = !memcmp(association, d->keys.association, KEY_BYTES);
	if (d->config.gateway == GATEWAY_OFF || (d->config.gateway == GATEWAY_ASSOCIATION && !ours)) {
		snprintf(detail, size, "it answers for %s ([route] gateway in its configuration)",
			 d->config.gateway == GATEWAY_OFF ? "no other node" : "nodes of its own association only");
		return ERR_DENIED;
	}
	if (trust_may_use(d->trust, association, d->keys.association, model, now, &terms)) {
		snprintf(detail, size, "no agreement in force lets the association use it for this model");
		return ERR_DENIED;
	}
	if (d->draining || !sharing_is_open(&d->sharing)) {
		snprintf(detail, size, "it shares nothing just now");
		return ERR_BUSY;
	}
	struct ledger_sum today = ledger_today(d->ledger, association, d->keys.association, now);
	struct quota_limits limits = {.tokens_per_day = terms.tokens_per_day, .stage_seconds_per_day = terms.stage_seconds_per_day};
	int err = quota_check(&limits, &today);
	if (err)
		snprintf(detail, size, "today's share of the agreement is used up; it begins anew at midnight UTC");
	return err;
}
