/* records_file.c: see the header for the format.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/trust/records_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/trust/keys.h"
#include "daemon/trust/trust_set.h"
#include "proto/log.h"

#define MAGIC "essaim-records-1"
#define MAGIC_BYTES 16
#define SUM_BYTES 16
#define HEAD_BYTES (4 + 1 + 4 + SUM_BYTES)

enum { TYPE_RECORD = 1, TYPE_INTRODUCED = 2 };
static const uint8_t marker[4] = { 0xe5, 'R', 'E', 'C' };

/* --- writing ----------------------------------------------------------------------------------------- */

static void checksum(uint8_t out[SUM_BYTES], uint8_t type, const uint8_t *bytes, size_t n)
{
	crypto_generichash_state state;
	uint8_t head[5] = { type };

	put_u32(head + 1, (uint32_t)n);
	crypto_generichash_init(&state, NULL, 0, SUM_BYTES);
	crypto_generichash_update(&state, head, sizeof head);
	crypto_generichash_update(&state, bytes, n);
	crypto_generichash_final(&state, out, SUM_BYTES);
}

static int append(struct buf *all, uint8_t type, const uint8_t *bytes, size_t n)
{
	size_t before = all->length;
	uint8_t head[HEAD_BYTES];
	int err = 0;

	if (n > RECORD_MAX)
		return ERR_LIMIT;
	memcpy(head, marker, sizeof marker);
	head[4] = type;
	put_u32(head + 5, (uint32_t)n);
	checksum(head + 9, type, bytes, n);
	if (!before)
		err = buf_append(all, MAGIC, MAGIC_BYTES);
	if (!err)
		err = buf_append(all, head, sizeof head);
	if (!err)
		err = buf_append(all, bytes, n);
	if (err)
		all->length = before;
	return err;
}

int records_file_append(struct buf *all, const uint8_t *record, size_t n)
{
	return append(all, TYPE_RECORD, record, n);
}

int records_file_collect(const struct trust *trust, struct buf *all)
{
	int err = 0;

	if (!all->length)
		err = buf_append(all, MAGIC, MAGIC_BYTES);
	for (size_t i = 0; !err && i < SLOTS_MAX; i++)
		if (trust->slots[i].introduced)
			err = append(all, TYPE_INTRODUCED, trust->slots[i].key, KEY_BYTES);
	/* Those that are in force for nobody just now as well: only trust_expire() may decide to lose one. */
	for (size_t i = 0; !err && i < trust->n_entries; i++)
		if (trust->entries[i])
			err = append(all, TYPE_RECORD, trust->entries[i]->bytes, trust->entries[i]->record.length);
	return err;
}

int records_file_write(const char *home, const uint8_t *bytes, size_t n)
{
	char why[512];

	return keys_write_file(home, "records/all", bytes, n, why, sizeof why);
}

/* --- reading ----------------------------------------------------------------------------------------- */

static int path_of(char out[PATH_MAX], const char *home, const char *suffix)
{
	int n = snprintf(out, PATH_MAX, "%s/records/all%s", home, suffix);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static int read_all(int fd, struct buf *all)
{
	for (;;) {
		uint8_t *at = buf_reserve(all, 64 << 10);
		ssize_t n;

		if (!at)
			return ERR_LIMIT;
		n = read(fd, at, 64 << 10);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		buf_grow(all, (size_t)n);
	}
}

int records_file_read(const char *home, struct buf *all)
{
	char path[PATH_MAX];
	int fd, err = path_of(path, home, "");

	if (err)
		return err;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = read_all(fd, all);
	close(fd);
	return err;
}

struct item {
	uint8_t type;
	const uint8_t *bytes;
	size_t length;
};

/* A whole item at `at`, or false. */
static bool item_at(const uint8_t *bytes, size_t n, size_t at, struct item *out)
{
	uint8_t sum[SUM_BYTES];

	if (n - at < HEAD_BYTES || memcmp(bytes + at, marker, sizeof marker))
		return false;
	*out = (struct item){ .type = bytes[at + 4], .length = get_u32(bytes + at + 5), .bytes = bytes + at + HEAD_BYTES };
	if (out->length > RECORD_MAX || out->length > n - at - HEAD_BYTES)
		return false;
	checksum(sum, out->type, out->bytes, out->length);
	return !memcmp(sum, bytes + at + 9, SUM_BYTES);
}

struct items {
	struct item *list;
	size_t n, room;
};

static bool items_add(struct items *items, const struct item *item)
{
	if (items->n == items->room) {
		size_t room = items->room ? 2 * items->room : 256;
		struct item *list = realloc(items->list, room * sizeof *list);

		if (!list)
			return false;
		items->list = list;
		items->room = room;
	}
	items->list[items->n++] = *item;
	return true;
}

static void scan(const uint8_t *bytes, size_t n, struct items *items, struct records_file_report *report)
{
	size_t at = n >= MAGIC_BYTES && !memcmp(bytes, MAGIC, MAGIC_BYTES) ? MAGIC_BYTES : 0;
	bool lost = false;

	while (at < n) {
		struct item item;

		if (item_at(bytes, n, at, &item)) {
			items_add(items, &item);
			at += HEAD_BYTES + item.length;
			lost = false;
			continue;
		}
		report->damaged += !lost;
		report->damaged_bytes++;
		lost = true;
		at++;
	}
}

/* One round over what is left; what trust has taken or will never take goes. How many were taken. */
static size_t offer(struct trust *trust, struct items *items, uint64_t now, struct records_file_report *report)
{
	size_t taken = 0, left = 0;

	for (size_t i = 0; i < items->n; i++) {
		const struct item *item = &items->list[i];
		int got = ERR_DENIED;

		if (item->type == TYPE_INTRODUCED && item->length == KEY_BYTES)
			trust_introduce(trust, item->bytes);     /* anew each round: a revocation read meanwhile is older */
		if (item->type == TYPE_RECORD)
			got = trust_restore(trust, item->bytes, item->length, now);
		taken += got == 1;
		report->refused += got < 0 && got != ERR_DENIED;
		if (got == ERR_DENIED)
			items->list[left++] = *item;
	}
	items->n = left;
	return taken;
}

void records_file_restore(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now, struct records_file_report *report)
{
	struct items items = { 0 };
	size_t taken;

	*report = (struct records_file_report){ 0 };
	scan(bytes, n, &items, report);
	do {
		taken = offer(trust, &items, now, report);
		report->kept += taken;
	} while (taken);
	for (size_t i = 0; i < items.n; i++)
		report->refused += items.list[i].type == TYPE_RECORD;
	free(items.list);
}

/* The damaged file keeps a second name; the next save takes the first one. Where it cannot, the rest matters more. */
static void set_aside(const char *home)
{
	char path[PATH_MAX], aside[PATH_MAX];

	if (path_of(path, home, "") || path_of(aside, home, ".damaged"))
		return;
	unlink(aside);
	if (link(path, aside))
		log_debug("%s: no copy can be kept beside it: %s", path, err_str(-errno));
}

int records_file_load(const char *home, struct trust *trust, uint64_t now, struct records_file_report *report, char *why, size_t why_size)
{
	struct buf all;
	int err;

	*report = (struct records_file_report){ 0 };
	buf_init(&all, RECORDS_FILE_MAX);
	err = records_file_read(home, &all);
	if (err == -ENOENT) {
		buf_release(&all);
		return 0;
	}
	if (err)
		snprintf(why, why_size, "%s/records/all: cannot read: %s%s", home, err_str(err),
			 err == -EACCES ? " (is the home folder this user's?)" : "");
	else
		records_file_restore(trust, all.data, all.length, now, report);
	if (!err && report->damaged)
		set_aside(home);
	buf_release(&all);
	return err;
}
