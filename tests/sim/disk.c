/* disk.c: what store.h and ledger_store.h promise, and the file of records: everything of a node that outlives its process.
 *
 * Weights arrive a while after they were wanted, layer by layer. A disk that is full takes no records and no ledger. The files
 * of invitations are real ones: invitation.c is used as it is.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/ledger/ledger_store.h"
#include "daemon/trust/records_file.h"
#include "tests/sim/sim.h"

/* --- records: records_file.c's two functions that touch a disk (the linker's --wrap) ------------------------ */

int __wrap_records_file_write(const char *home, const uint8_t *bytes, size_t n);
int __wrap_records_file_load(const char *home, struct trust *trust, uint64_t now, struct records_file_report *report, char *why, size_t why_size);

int __wrap_records_file_write(const char *home, const uint8_t *bytes, size_t n)
{
	struct node *node = node_by_home(home);
	if (node->disk.full)
		return -ENOSPC;
	buf_release(&node->disk.records);
	buf_init(&node->disk.records, RECORDS_FILE_MAX);
	node->disk.saves++;
	return buf_append(&node->disk.records, bytes, n);
}

int __wrap_records_file_load(const char *home, struct trust *trust, uint64_t now, struct records_file_report *report, char *why, size_t why_size)
{
	struct node *node = node_by_home(home);
	(void)why, (void)why_size;
	records_file_restore(trust, node->disk.records.data, node->disk.records.length, now, report);
	return 0;
}

/* --- the ledger's file ---------------------------------------------------------------------------------------- */

struct ledger_store {
	struct node *node;
};

int ledger_store_open(struct ledger_store **out, const char *home, char *why, size_t why_size)
{
	struct ledger_store *store = calloc(1, sizeof *store);
	(void)why, (void)why_size;
	assert(store);
	store->node = node_by_home(home);
	*out = store;
	return 0;
}

void ledger_store_close(struct ledger_store *store)
{
	free(store);
}

int ledger_store_write(struct ledger_store *store, const struct ledger_batch *batch)
{
	struct disk *disk = &store->node->disk;
	if (disk->full || store->node->dying)
		return -ENOSPC;
	for (size_t i = 0; i < batch->n_rows; i++) {
		if (disk->n_rows == disk->rows_room) {
			disk->rows_room = disk->rows_room ? 2 * disk->rows_room : 16;
			disk->rows = realloc(disk->rows, disk->rows_room * sizeof *disk->rows);
			assert(disk->rows);
		}
		disk->rows[disk->n_rows++] = batch->rows[i];
	}
	return 0;
}

const char *ledger_store_error(const struct ledger_store *store)
{
	(void)store;
	return "the disk is full";
}

static bool same_sum(const struct ledger_row *a, const struct ledger_row *b)
{
	return a->day == b->day && !memcmp(a->user, b->user, KEY_BYTES) && !memcmp(a->provider, b->provider, KEY_BYTES);
}

int ledger_store_sums(struct ledger_store *store, int (*fn)(uint32_t day, const uint8_t *user, const uint8_t *provider, const struct ledger_sum *sum, void *arg),
		      void *arg)
{
	const struct disk *disk = &store->node->disk;
	for (size_t i = 0; i < disk->n_rows; i++) {
		const struct ledger_row *row = &disk->rows[i];
		struct ledger_sum sum = {0};
		bool first = true;
		for (size_t k = 0; k < disk->n_rows; k++) {
			if (!same_sum(row, &disk->rows[k]))
				continue;
			first &= k >= i;
			sum.rows += disk->rows[k].sum.rows;
			sum.stage_microseconds += disk->rows[k].sum.stage_microseconds;
			sum.sessions += disk->rows[k].sum.sessions;
		}
		int err = first ? fn(row->day, row->user, row->provider, &sum, arg) : 0;
		if (err)
			return err;
	}
	return 0;
}

void disk_release(struct disk *disk)
{
	buf_release(&disk->records);
	free(disk->rows);
	*disk = (struct disk){0};
}

/* --- the store --------------------------------------------------------------------------------------------------- */

struct shelf {                                 /* one model */
	bool known;
	size_t n_ranges;
	struct layer_range ranges[RANGES_MAX];
	unsigned wish;                         /* arrivals for an earlier one come to nothing */
};

struct store {
	struct store_config config;
	struct node *node;
	struct shelf shelves[SIM_MODELS_MAX];
};

static size_t model_index(const uint8_t id[KEY_BYTES])
{
	size_t i = 0;
	while (i < sim.n_models && memcmp(sim.models[i].id, id, KEY_BYTES))
		i++;
	return i;
}

static struct shelf *find(const struct store *store, const uint8_t id[KEY_BYTES])
{
	size_t i = model_index(id);
	return i < sim.n_models && store->shelves[i].known ? (struct shelf *)&store->shelves[i] : NULL;
}

static bool all_there(const struct store *store, size_t model)
{
	const struct shelf *shelf = &store->shelves[model];
	for (size_t i = 0; i < shelf->n_ranges; i++)
		for (uint32_t l = shelf->ranges[i].first; l < shelf->ranges[i].end; l++)
			if (!store->node->disk.have[model][l])
				return false;
	return true;
}

int store_open(struct store **out, const struct store_config *config, char *why, size_t why_size)
{
	struct store *store = calloc(1, sizeof *store);
	(void)why, (void)why_size;
	assert(store);
	store->config = *config;
	store->node = node_of(config->arg);
	*out = store;
	return 0;
}

void store_close(struct store *store, void (*on_closed)(void *arg), void *arg)
{
	free(store);
	if (on_closed)
		on_closed(arg);
}

uint16_t store_port(const struct store *store)
{
	(void)store;
	return 7741;
}

int store_add(struct store *store, const uint8_t model[KEY_BYTES], const struct manifest_body *body, const char *const *paths)
{
	size_t i = model_index(model);
	(void)body, (void)paths;
	if (i == sim.n_models)
		return ERR_UNKNOWN;
	store->shelves[i].known = true;
	return 0;
}

int store_remove(struct store *store, const uint8_t model[KEY_BYTES])
{
	struct shelf *shelf = find(store, model);
	if (!shelf)
		return ERR_UNKNOWN;
	shelf->known = false;
	return 0;
}

static void arrived(void *arg, uint64_t number)
{
	struct node *node = arg;
	struct store *store = node->boot->daemon.store;
	size_t model = number & 0xff;
	struct shelf *shelf = &store->shelves[model];
	if (shelf->wish != number >> 8)
		return;
	for (size_t i = 0; i < shelf->n_ranges; i++)
		for (uint32_t l = shelf->ranges[i].first; l < shelf->ranges[i].end; l++)
			node->disk.have[model][l] = true;
	store->config.on_change(store->config.arg, sim.models[model].id);
}

int store_want(struct store *store, const uint8_t model[KEY_BYTES], const struct layer_range *ranges, size_t n)
{
	size_t i = model_index(model);
	struct shelf *shelf = find(store, model);
	if (!shelf)
		return ERR_UNKNOWN;
	shelf->n_ranges = n;
	if (n)
		memcpy(shelf->ranges, ranges, n * sizeof *ranges);
	shelf->wish++;
	if (n && !all_there(store, i))
		sim_after(100 + sim_below(4000), store->node, arrived, store->node, (uint64_t)shelf->wish << 8 | i);
	return 0;
}

int store_status(const struct store *store, const uint8_t model[KEY_BYTES], struct store_status *out)
{
	size_t i = model_index(model);
	const struct shelf *shelf = find(store, model);
	*out = (struct store_status){0};
	if (!shelf)
		return ERR_UNKNOWN;
	out->complete = true;
	for (uint32_t l = 0; l < sim.models[i].body.n_layer; l++)
		out->complete &= store->node->disk.have[i][l];
	out->state = !shelf->n_ranges ? STORE_IDLE : all_there(store, i) ? STORE_READY : STORE_FETCHING;
	out->seconds_left = UINT64_MAX;
	return 0;
}

const struct manifest_body *store_manifest(const struct store *store, const uint8_t model[KEY_BYTES])
{
	return find(store, model) ? &sim.models[model_index(model)].body : NULL;
}

int store_open_files(struct store *store, const uint8_t model[KEY_BYTES], int *fds, size_t *n_fds, struct model_extent **extents, size_t *n_extents)
{
	(void)fds;
	if (!find(store, model))
		return ERR_UNKNOWN;
	if (!all_there(store, model_index(model)))
		return ERR_ARRIVING;
	*n_fds = *n_extents = 0;
	*extents = NULL;
	return 0;
}

int store_set_peers(struct store *store, const char *const *addresses, size_t n)
{
	(void)store, (void)addresses, (void)n;
	return 0;
}

/* A simulated disk is as safe as memory. */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	(void)fd;
	return 0;
}
