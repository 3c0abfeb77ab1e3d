/* fuzz_reach.c: REACH and REACHED, from a neighbour.
 *
 * The first byte says which; the rest is the frame's head. What must hold:
 *   - an answer that is taken has no more results than a card has targets, addresses that could be dialled, and words that
 *     steer no terminal;
 *   - it is written again as it was read; one that is refused leaves nothing behind.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "daemon/mesh/reach.h"
#include "proto/fields.h"
#include "tests/fuzz/fuzz.h"

bool fuzz_seed(size_t i, struct buf *out)
{
	static const struct reach_answer answers[] = {
		{.request = 7, .code = 0, .n_results = 2, .results = {{"192.0.2.1:7740", false, 0, ""}, {"[2001:db8::1]:7742", true, -110, "timed out"}}},
		{.request = UINT32_MAX, .code = -1011},
	};
	struct buf frame;
	struct frame f;
	size_t used;
	if (i > 2)
		return false;
	buf_init(&frame, FRAME_MAX);
	must((i ? reached_encode(&frame, &answers[i - 1]) : reach_encode(&frame, 7)) == 0);
	must(frame_decode(frame.data, frame.length, &f, &used) == 0 && used == frame.length);
	must(buf_append(out, i ? "\1" : "\0", 1) == 0 && buf_append(out, f.head, f.head_length) == 0);
	buf_release(&frame);
	return true;
}

static void must_be_sound(const struct reach_answer *a)
{
	struct reach_answer again;
	struct buf frame;
	struct frame f;
	size_t used;
	must(a->n_results <= REACH_RESULTS_MAX && a->code <= 0);
	for (size_t i = 0; i < a->n_results; i++)
		must(a->results[i].code <= 0 && card_address_is_valid(a->results[i].address) && field_is_plain(a->results[i].detail));
	buf_init(&frame, FRAME_MAX);
	must(reached_encode(&frame, a) == 0);
	must(frame_decode(frame.data, frame.length, &f, &used) == 0);
	must(reached_decode(&f, &again) == 0 && !memcmp(&again, a, sizeof again));
	buf_release(&frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct reach_answer answer;
	uint32_t request;
	if (!n || n - 1 > FRAME_HEAD_MAX)
		return 0;
	struct frame frame = {.type = data[0] & 1 ? FRAME_REACHED : FRAME_REACH, .head = data + 1, .head_length = n - 1};
	if (frame.type == FRAME_REACH) {
		if (reach_decode(&frame, &request))
			must(request == 0);
	} else if (reached_decode(&frame, &answer)) {
		static const struct reach_answer nothing;
		must(!memcmp(&answer, &nothing, sizeof answer));
	} else {
		must_be_sound(&answer);
	}
	return 0;
}
