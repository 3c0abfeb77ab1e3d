/* ledger.h: who did how much for whom, in SQLite (HOME/ledger.db): tokens, stage-seconds, joules; quotas bind
 * pairs of associations (DESIGN D9). Never text, tokens or anything said.
 *
 * The running sums of today (UTC day) live in memory, so that a check on the loop costs no SQL; writes go to
 * a worker in batches (uv_queue_work) and are flushed by ledger_close(). Thread: loop, but for that worker.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef LEDGER_LEDGER_H
#define LEDGER_LEDGER_H

#include <uv.h>

#include "proto/record.h"

struct ledger;
struct ledger_use {                     /* what one session used here, or what we used elsewhere */
	uint8_t session[16];
	uint8_t user[KEY_BYTES];        /* association that asked */
	uint8_t provider[KEY_BYTES];    /* association that computed */
	uint8_t node[KEY_BYTES];        /* node that computed */
	uint8_t model[KEY_BYTES];
	uint64_t rows, stage_microseconds, millijoules;
	bool joules_measured;
};
struct ledger_sum {
	uint64_t rows, stage_microseconds, millijoules, sessions;
};

int ledger_open(struct ledger **out, uv_loop_t *loop, const char *home, char *why, size_t why_size);
void ledger_close(struct ledger *ledger, void (*on_closed)(void *arg), void *arg);   /* asynchronous; flushes */
/* Always counted for today; without memory a line in the log says that the file will lack it. */
void ledger_add(struct ledger *ledger, const struct ledger_use *use, uint64_t now);
int ledger_add_receipt(struct ledger *ledger, const uint8_t *record, size_t n, uint64_t now);
/* Sums of the UTC day of `now` for the pair. A use that found no memory for its pair is in every pair's sum of that day: none is used for nothing. */
struct ledger_sum ledger_today(const struct ledger *ledger, const uint8_t user[KEY_BYTES], const uint8_t provider[KEY_BYTES], uint64_t now);
/* Every pair of today, for status. */
void ledger_each_today(const struct ledger *ledger, uint64_t now,
		       void (*fn)(const uint8_t user[KEY_BYTES], const uint8_t provider[KEY_BYTES], const struct ledger_sum *sum, void *arg), void *arg);

#endif
