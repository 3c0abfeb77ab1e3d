/* reach.h: can others reach us? A neighbour is asked to dial the addresses of our own card, and says how each answered.
 *
 * REACH: head {request: uint32}, without addresses: only those of the asker's card are dialled, which neighbours dial anyway.
 * REACHED: head {request, code, results: [{address, weights, code, detail}]}; weights: the torrent port at that address's host,
 * for which a TCP connection is enough; for links the key is proven too. Both frames are above 127, so that older nodes pass
 * them over. This header is pure (DESIGN D16); the dialling is in probe.c.
 *
 * Limits: one question of a neighbour every REACH_EVERY_MS, REACH_PROBES_MAX answered at once; past them the answer is ERR_BUSY.
 * Thread: any. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef MESH_REACH_H
#define MESH_REACH_H

#include <stdbool.h>

#include "proto/frame.h"
#include "proto/record.h"

#define REACH_EVERY_MS 10000
#define REACH_PROBES_MAX 4
#define REACH_ANSWER_MS 30000              /* a name may stand for four addresses of five seconds each */
#define REACH_RESULTS_MAX (2 * CARD_ADDRESSES_MAX)
#define REACH_DETAIL 160

struct reach_result {
	char address[ADDRESS_SIZE];        /* that was dialled */
	bool weights;
	int code;                          /* 0: it answered, or an error */
	char detail[REACH_DETAIL];         /* how it failed, for people; a peer's words */
};
struct reach_answer {
	uint32_t request;
	int code;                          /* 0, or why nothing was dialled */
	size_t n_results;
	struct reach_result results[REACH_RESULTS_MAX];
};

/* What is dialled for a card: results with address and weights, no code yet. */
size_t reach_targets(const struct card_body *card, struct reach_result out[REACH_RESULTS_MAX]);

/* Whole frames, appended. Decoding checks every field: ERR_MALFORMED, ERR_LIMIT. */
int reach_encode(struct buf *out, uint32_t request);
int reach_decode(const struct frame *frame, uint32_t *request);
int reached_encode(struct buf *out, const struct reach_answer *answer);
int reached_decode(const struct frame *frame, struct reach_answer *answer);

#endif
