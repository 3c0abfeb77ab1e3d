/* watch.h: what an engine owes, and how often it died. Pure: no processes, time comes in.
 *
 * An engine owes one answer for every ENGINE_OPEN (READY or FAULT) and every block of rows (rows, tokens or FAULT). One that owes and
 * says nothing for long is hung. After a fault or a CLOSE a session owes nothing: it is better to miss a hang than to
 * kill an engine that works.
 *
 * Owner: the caller's storage. Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef STAGE_WATCH_H
#define STAGE_WATCH_H

#include "proto/message.h"

struct owed_session {
	uint8_t id[SESSION_BYTES];
	uint32_t epoch, stages;            /* bit i: stage i was opened */
	uint64_t answers;
};
struct owed {
	struct owed_session *sessions;     /* heap */
	size_t n, capacity;
};
void owed_release(struct owed *owed);
/* A frame on its way to the engine, or come from it; others than those above change nothing. */
int owed_sent(struct owed *owed, const struct frame *frame);       /* -ENOMEM */
int owed_got(struct owed *owed, const struct frame *frame);        /* what the decoders say: the engine is not to be trusted any more */
bool owed_any(const struct owed *owed);

#define CRASHES_MAX 3
#define CRASHES_WINDOW_S 600
struct crashes {
	uint64_t at[CRASHES_MAX];          /* seconds of any monotonic clock + 1; 0: none */
	unsigned n;                        /* in all */
};
/* True when this was the third within ten minutes. */
bool crashes_add(struct crashes *crashes, uint64_t now_s);
void crashes_clear(struct crashes *crashes);

#endif
