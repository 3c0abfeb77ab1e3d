/* routing.h: which stages answer one request (DESIGN D8). Pure: a shortest path over what is advertised.
 *
 * A stage starts exactly where a resident range starts and may end early; the last one must end the model. Home takes the first and
 * the last stage where it holds them. The price of a plan: every hop between different nodes half of both nodes' measured round trips
 * plus a fixed price, every layer its measured time times (1 + load). Nodes in `avoid` are left out.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ROUTE_ROUTING_H
#define ROUTE_ROUTING_H

#include "daemon/ring/ring.h"
#include "proto/record.h"

struct routing_node {
	uint8_t node[KEY_BYTES];
	bool self;
	bool usable;                    /* up, agreement in force, quota left, not paused, engines that may share a ring */
	double rtt_ms;                  /* from home; self 0 */
	uint32_t load_permille, layer_microseconds, sessions_free;
	size_t n_resident;
	struct layer_range resident[RANGES_MAX];
};

/* Bits follow library, quirk table and back end, so a ring joins only nodes whose engines say the same of themselves (DESIGN D2), or that
 * differ in the back end alone, where the pair was tested to give logits within 5 % (tests/peers/test_gpu.py). */
bool routing_engines_join(const char *a, const char *b);

/* 0; ERR_UNREACHABLE when no chain of stages covers the model: then missing says which layers nobody usable has (one range, the first);
 * ERR_BUSY when only nodes without free sessions would cover it; ERR_DENIED when home lacks an end and text would have to
 * leave it (gateway mode is another matter). */
int routing_plan(const uint8_t model[KEY_BYTES], uint32_t n_layer, const struct routing_node *nodes, size_t n,
		 const uint8_t (*avoid)[KEY_BYTES], size_t n_avoid, struct ring_plan *plan, struct layer_range *missing);

#endif
