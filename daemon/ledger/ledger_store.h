/* ledger_store.h: HOME/ledger.db, read once at start and written in batches. Blocks: a worker's, but for opening.
 *
 *   used     one row for each UTC day, user, provider, node, model, measured or estimated joules
 *   receipt  signed receipts as they travelled, the newest of each session and node, RECEIPTS_MAX in all
 *
 * Thread: one at a time. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef LEDGER_LEDGER_STORE_H
#define LEDGER_LEDGER_STORE_H

#include "daemon/ledger/ledger.h"

#define LEDGER_RECEIPTS_MAX 1000000          /* kept in the file; counted, not dated: a wrong clock deletes nothing */
#define LEDGER_DAYS_LOADED 8                 /* newest days whose sums live in memory */

struct ledger_row {                          /* what to add */
	uint32_t day;                        /* days since 1970-01-01 UTC */
	bool measured;
	uint8_t user[KEY_BYTES], provider[KEY_BYTES], node[KEY_BYTES], model[KEY_BYTES];
	struct ledger_sum sum;
};
struct ledger_receipt {
	uint32_t day;
	uint64_t sequence;
	struct receipt_body body;
	uint8_t *bytes;                      /* heap */
	size_t length;
};
struct ledger_batch {
	struct ledger_row *rows;
	size_t n_rows, rows_room;
	struct ledger_receipt *receipts;
	size_t n_receipts, receipts_room;
};

struct ledger_store;
int ledger_store_open(struct ledger_store **out, const char *home, char *why, size_t why_size);
void ledger_store_close(struct ledger_store *store);
/* All of the batch or nothing of it. err's sentence is in ledger_store_error(). */
int ledger_store_write(struct ledger_store *store, const struct ledger_batch *batch);
const char *ledger_store_error(const struct ledger_store *store);
/* The sums of the newest days, by day, user and provider. */
int ledger_store_sums(struct ledger_store *store,
		      int (*fn)(uint32_t day, const uint8_t *user, const uint8_t *provider, const struct ledger_sum *sum, void *arg), void *arg);

#endif
