/* ledger.c: today's sums in memory, and one batch at a time on its way to the disk.
 *
 * What is added waits in `pending`, where uses of one day, user, provider, node and model are one line, so that a
 * disk that is full for hours costs a few lines and no use is lost. As soon as no batch is on its way, pending becomes
 * `writing` and a worker takes it. A batch that fails stays in `writing` and is tried again with the next addition
 * and at the end; it is written whole or not at all.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/ledger/ledger.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/ledger/ledger_store.h"
#include "proto/err.h"
#include "proto/log.h"

#define DAY_S 86400
#define PENDING_RECEIPTS_MAX 4096
#define PAIRS_KEPT 2048
#define SEEN 8192              /* sessions known to have been counted; a power of two */

struct pair {
	uint32_t day;
	uint8_t user[KEY_BYTES], provider[KEY_BYTES];
	struct ledger_sum sum;
};

struct ledger {
	uv_loop_t *loop;
	struct ledger_store *store;
	struct pair *pairs;
	size_t n_pairs, pairs_room;
	/* Uses of a day that found no memory for their pair: whose they were is not known any more, so each pair counts them as its own. */
	struct ledger_sum anonymous;
	uint32_t anonymous_day;
	uint64_t seen[SEEN];
	uint8_t seen_key[crypto_shorthash_KEYBYTES];
	struct ledger_batch pending, writing;
	uv_work_t work;
	bool working, closing, failed;
	int err;               /* of the last batch */
	void (*on_closed)(void *arg);
	void *arg;
};

static uint64_t plus(uint64_t a, uint64_t b)
{
	return a > INT64_MAX || b > INT64_MAX - a ? INT64_MAX : a + b;
}

static void sum_add(struct ledger_sum *to, const struct ledger_sum *more)
{
	to->rows = plus(to->rows, more->rows);
	to->stage_microseconds = plus(to->stage_microseconds, more->stage_microseconds);
	to->millijoules = plus(to->millijoules, more->millijoules);
	to->sessions = plus(to->sessions, more->sessions);
}

static uint32_t day_of(uint64_t now)
{
	return now / DAY_S > UINT32_MAX ? UINT32_MAX : (uint32_t)(now / DAY_S);
}

/* Room for one more element at the end of a growing array; false: no memory, and the array is as it was. */
static bool grow(void *array_at, size_t n, size_t *room, size_t size)
{
	void *old, *array;
	size_t wanted = *room ? 2 * *room : 16;

	if (n < *room)
		return true;
	memcpy(&old, array_at, sizeof old);
	array = realloc(old, wanted * size);
	if (!array)
		return false;
	memcpy(array_at, &array, sizeof array);
	*room = wanted;
	return true;
}

/* --- sums -------------------------------------------------------------------------------------------- */

static struct pair *pair_find(const struct ledger *ledger, uint32_t day, const uint8_t *user, const uint8_t *provider)
{
	for (size_t i = 0; i < ledger->n_pairs; i++) {
		struct pair *p = &ledger->pairs[i];

		if (p->day == day && !memcmp(p->user, user, KEY_BYTES) && !memcmp(p->provider, provider, KEY_BYTES))
			return p;
	}
	return NULL;
}

/* Days long past are on disk. Not before there are many pairs: a clock that is wrong for a moment shall not make us
 * forget what was used today. */
static void forget_old_days(struct ledger *ledger, uint32_t day)
{
	size_t kept = 0;

	if (ledger->n_pairs < PAIRS_KEPT)
		return;
	for (size_t i = 0; i < ledger->n_pairs; i++) {
		uint32_t d = ledger->pairs[i].day;

		if (d >= day || day - d < LEDGER_DAYS_LOADED)
			ledger->pairs[kept++] = ledger->pairs[i];
	}
	ledger->n_pairs = kept;
}

/* NULL: no memory. */
static struct pair *pair_make(struct ledger *ledger, uint32_t day, const uint8_t *user, const uint8_t *provider)
{
	struct pair *p = pair_find(ledger, day, user, provider);

	if (p)
		return p;
	forget_old_days(ledger, day);
	if (!grow(&ledger->pairs, ledger->n_pairs, &ledger->pairs_room, sizeof *ledger->pairs))
		return NULL;
	p = &ledger->pairs[ledger->n_pairs++];
	*p = (struct pair){ .day = day };
	memcpy(p->user, user, KEY_BYTES);
	memcpy(p->provider, provider, KEY_BYTES);
	return p;
}

static void count_for_each(struct ledger *ledger, uint32_t day, const struct ledger_sum *sum)
{
	if (ledger->anonymous_day != day)
		ledger->anonymous = (struct ledger_sum){ 0 };
	ledger->anonymous_day = day;
	sum_add(&ledger->anonymous, sum);
}

static int on_stored_sum(uint32_t day, const uint8_t *user, const uint8_t *provider, const struct ledger_sum *sum, void *arg)
{
	struct ledger *ledger = arg;

	if (!grow(&ledger->pairs, ledger->n_pairs, &ledger->pairs_room, sizeof *ledger->pairs))
		return -ENOMEM;
	ledger->pairs[ledger->n_pairs] = (struct pair){ .day = day, .sum = *sum };
	memcpy(ledger->pairs[ledger->n_pairs].user, user, KEY_BYTES);
	memcpy(ledger->pairs[ledger->n_pairs].provider, provider, KEY_BYTES);
	ledger->n_pairs++;
	return 0;
}

struct ledger_sum ledger_today(const struct ledger *ledger, const uint8_t user[KEY_BYTES], const uint8_t provider[KEY_BYTES], uint64_t now)
{
	uint32_t day = day_of(now);
	const struct pair *p = pair_find(ledger, day, user, provider);
	struct ledger_sum sum = p ? p->sum : (struct ledger_sum){ 0 };

	if (ledger->anonymous_day == day)
		sum_add(&sum, &ledger->anonymous);
	return sum;
}

void ledger_each_today(const struct ledger *ledger, uint64_t now,
		       void (*fn)(const uint8_t user[KEY_BYTES], const uint8_t provider[KEY_BYTES], const struct ledger_sum *sum, void *arg), void *arg)
{
	uint32_t day = day_of(now);

	for (size_t i = 0; i < ledger->n_pairs; i++)
		if (ledger->pairs[i].day == day)
			fn(ledger->pairs[i].user, ledger->pairs[i].provider, &ledger->pairs[i].sum, arg);
}

/* True the first time a session is seen on a day. A table without chains: two sessions in one place may be counted
 * again, once in a while and only with thousands of them at a time. */
static bool is_new_session(struct ledger *ledger, uint32_t day, const struct ledger_use *use)
{
	struct { uint32_t day; uint8_t session[16], user[KEY_BYTES], provider[KEY_BYTES]; } key = { .day = day };
	uint64_t tag, *place;

	memcpy(key.session, use->session, sizeof key.session);
	memcpy(key.user, use->user, KEY_BYTES);
	memcpy(key.provider, use->provider, KEY_BYTES);
	crypto_shorthash((uint8_t *)&tag, (const uint8_t *)&key, sizeof key, ledger->seen_key);
	place = &ledger->seen[tag & (SEEN - 1)];
	if (*place == tag)
		return false;
	*place = tag;
	return true;
}

/* --- batches ------------------------------------------------------------------------------------------ */

static bool batch_is_empty(const struct ledger_batch *batch)
{
	return !batch->n_rows && !batch->n_receipts;
}

static void batch_clear(struct ledger_batch *batch)
{
	for (size_t i = 0; i < batch->n_receipts; i++)
		free(batch->receipts[i].bytes);
	batch->n_rows = batch->n_receipts = 0;
}

static void batch_release(struct ledger_batch *batch)
{
	batch_clear(batch);
	free(batch->rows);
	free(batch->receipts);
	*batch = (struct ledger_batch){ 0 };
}

/* False: no memory. */
static bool batch_add(struct ledger_batch *batch, const struct ledger_row *row)
{
	for (size_t i = 0; i < batch->n_rows; i++) {
		struct ledger_row *r = &batch->rows[i];

		if (r->day == row->day && r->measured == row->measured && !memcmp(r->user, row->user, KEY_BYTES) &&
		    !memcmp(r->provider, row->provider, KEY_BYTES) && !memcmp(r->node, row->node, KEY_BYTES) &&
		    !memcmp(r->model, row->model, KEY_BYTES)) {
			sum_add(&r->sum, &row->sum);
			return true;
		}
	}
	if (!grow(&batch->rows, batch->n_rows, &batch->rows_room, sizeof *batch->rows))
		return false;
	batch->rows[batch->n_rows++] = *row;
	return true;
}

/* --- the worker --------------------------------------------------------------------------------------- */

static void finish(struct ledger *ledger);

static void on_work(uv_work_t *work)
{
	struct ledger *ledger = work->data;

	ledger->err = ledger_store_write(ledger->store, &ledger->writing);
}

static void note_result(struct ledger *ledger)
{
	if (ledger->err && !ledger->failed)
		log_error("the ledger cannot be written: %s (make room in the home folder; nothing is lost while this node runs)",
			  ledger_store_error(ledger->store));
	if (!ledger->err && ledger->failed)
		log_notice("the ledger is written again");
	ledger->failed = ledger->err != 0;
	if (!ledger->err)
		batch_clear(&ledger->writing);
}

static void start(struct ledger *ledger);

static void on_work_done(uv_work_t *work, int status)
{
	struct ledger *ledger = work->data;

	ledger->working = false;
	if (status)
		ledger->err = status;
	note_result(ledger);
	if (!ledger->err && !batch_is_empty(&ledger->pending))
		start(ledger);
	else if (ledger->closing)
		finish(ledger);
}

static void start(struct ledger *ledger)
{
	if (ledger->working)
		return;
	if (batch_is_empty(&ledger->writing)) {
		struct ledger_batch empty = ledger->writing;

		ledger->writing = ledger->pending;
		ledger->pending = empty;
	}
	if (batch_is_empty(&ledger->writing))
		return;
	ledger->work.data = ledger;
	ledger->working = uv_queue_work(ledger->loop, &ledger->work, on_work, on_work_done) == 0;
}

static void on_close_work(uv_work_t *work)
{
	struct ledger *ledger = work->data;

	ledger_store_close(ledger->store);
	ledger->store = NULL;
}

static void on_close_done(uv_work_t *work, int status)
{
	struct ledger *ledger = work->data;
	void (*on_closed)(void *arg) = ledger->on_closed;
	void *arg = ledger->arg;

	(void)status;
	ledger_store_close(ledger->store);
	batch_release(&ledger->pending);
	batch_release(&ledger->writing);
	free(ledger->pairs);
	free(ledger);
	if (on_closed)
		on_closed(arg);
}

static void finish(struct ledger *ledger)
{
	size_t lost = ledger->pending.n_rows + ledger->writing.n_rows + ledger->pending.n_receipts + ledger->writing.n_receipts;

	if (lost)
		log_error("the ledger could not be written at the end: %zu sums and receipts are lost", lost);
	ledger->work.data = ledger;
	if (uv_queue_work(ledger->loop, &ledger->work, on_close_work, on_close_done))
		on_close_done(&ledger->work, 0);
}

/* --- the rest ------------------------------------------------------------------------------------------ */

int ledger_open(struct ledger **out, uv_loop_t *loop, const char *home, char *why, size_t why_size)
{
	struct ledger *ledger = calloc(1, sizeof *ledger);
	int err;

	*out = NULL;
	if (!ledger)
		return -ENOMEM;
	ledger->loop = loop;
	randombytes_buf(ledger->seen_key, sizeof ledger->seen_key);
	err = ledger_store_open(&ledger->store, home, why, why_size);
	if (!err) {
		err = ledger_store_sums(ledger->store, on_stored_sum, ledger);
		if (err)
			snprintf(why, why_size, "%s/ledger.db: %s", home, err == -ENOMEM ? err_str(err) : ledger_store_error(ledger->store));
	}
	if (err) {
		ledger_store_close(ledger->store);
		free(ledger->pairs);
		free(ledger);
		return err;
	}
	*out = ledger;
	return 0;
}

void ledger_close(struct ledger *ledger, void (*on_closed)(void *arg), void *arg)
{
	ledger->closing = true;
	ledger->on_closed = on_closed;
	ledger->arg = arg;
	start(ledger);
	if (!ledger->working)
		finish(ledger);
}

void ledger_add(struct ledger *ledger, const struct ledger_use *use, uint64_t now)
{
	struct ledger_row row = { .day = day_of(now), .measured = use->joules_measured };
	struct pair *pair;

	row.sum = (struct ledger_sum){ .rows = use->rows, .stage_microseconds = use->stage_microseconds, .millijoules = use->millijoules };
	row.sum.sessions = is_new_session(ledger, row.day, use);
	memcpy(row.user, use->user, KEY_BYTES);
	memcpy(row.provider, use->provider, KEY_BYTES);
	memcpy(row.node, use->node, KEY_BYTES);
	memcpy(row.model, use->model, KEY_BYTES);
	pair = pair_make(ledger, row.day, row.user, row.provider);
	if (pair)
		sum_add(&pair->sum, &row.sum);
	else
		count_for_each(ledger, row.day, &row.sum);
	if (!batch_add(&ledger->pending, &row))
		log_error("no memory: the use of %llu tokens will not be in the ledger's file", (unsigned long long)row.sum.rows);
	start(ledger);
}

int ledger_add_receipt(struct ledger *ledger, const uint8_t *bytes, size_t n, uint64_t now)
{
	struct ledger_receipt receipt = { .day = day_of(now), .length = n };
	struct record record;
	int err = record_open(&record, bytes, n);

	if (!err && record.kind != RECORD_RECEIPT)
		err = ERR_MALFORMED;
	if (!err)
		err = record_is_current(&record, now);
	if (!err)
		err = receipt_read(&record, &receipt.body);
	if (err)
		return err;
	if (ledger->pending.n_receipts >= PENDING_RECEIPTS_MAX)
		return ERR_BUSY;
	receipt.sequence = record.sequence;
	receipt.bytes = malloc(n);
	if (!receipt.bytes)
		return -ENOMEM;
	memcpy(receipt.bytes, bytes, n);
	if (!grow(&ledger->pending.receipts, ledger->pending.n_receipts, &ledger->pending.receipts_room, sizeof receipt)) {
		free(receipt.bytes);
		return -ENOMEM;
	}
	ledger->pending.receipts[ledger->pending.n_receipts++] = receipt;
	start(ledger);
	return 0;
}
