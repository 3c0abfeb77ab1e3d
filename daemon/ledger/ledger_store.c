/* ledger_store.c: the SQL.
 *
 * Write-ahead log with a sync at each commit: what a peer was told it used is still used after a power cut. Numbers
 * saturate at 2^63 - 1, SQLite's largest integer.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/ledger/ledger_store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/err.h"

#define SCHEMA_VERSION 1

struct ledger_store {
	sqlite3 *db;
	sqlite3_stmt *add, *receipt;
	char error[200];
};

static const char schema[] =
	"CREATE TABLE used (day INTEGER NOT NULL, user BLOB NOT NULL, provider BLOB NOT NULL, node BLOB NOT NULL,"
	" model BLOB NOT NULL, measured INTEGER NOT NULL, rows INTEGER NOT NULL, microseconds INTEGER NOT NULL,"
	" millijoules INTEGER NOT NULL, sessions INTEGER NOT NULL,"
	" PRIMARY KEY (day, user, provider, node, model, measured)) WITHOUT ROWID;"
	"CREATE TABLE receipt (id INTEGER PRIMARY KEY AUTOINCREMENT, session BLOB NOT NULL, node BLOB NOT NULL,"
	" sequence BLOB NOT NULL, day INTEGER NOT NULL, home_association BLOB NOT NULL, model BLOB NOT NULL,"
	" rows INTEGER NOT NULL, microseconds INTEGER NOT NULL, bytes BLOB NOT NULL, UNIQUE (session, node));"
	"PRAGMA user_version = 1;";

/* Sums of two that are not negative: an overflow would turn them into a floating-point number. */
#define SATURATE(c) #c " = CASE WHEN " #c " > 9223372036854775807 - excluded." #c " THEN 9223372036854775807 ELSE " #c " + excluded." #c " END"
static const char add_sql[] =
	"INSERT INTO used VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
	" ON CONFLICT DO UPDATE SET " SATURATE(rows) ", " SATURATE(microseconds) ", " SATURATE(millijoules) ", " SATURATE(sessions);
/* sequence is a big-endian blob: it may be past 2^63, and memcmp() orders it */
static const char receipt_sql[] =
	"INSERT INTO receipt (session, node, sequence, day, home_association, model, rows, microseconds, bytes)"
	" VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
	" ON CONFLICT (session, node) DO UPDATE SET sequence = excluded.sequence, day = excluded.day, rows = excluded.rows,"
	" microseconds = excluded.microseconds, bytes = excluded.bytes WHERE excluded.sequence > sequence";

static int error_of(const struct ledger_store *store)
{
	switch (sqlite3_errcode(store->db) & 0xff) {
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return ERR_MALFORMED;
	default:
		return -EIO;
	}
}

static int note(struct ledger_store *store)
{
	snprintf(store->error, sizeof store->error, "%s", sqlite3_errmsg(store->db));
	return error_of(store);
}

static int run(struct ledger_store *store, const char *sql)
{
	return sqlite3_exec(store->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : note(store);
}

static int version_of(struct ledger_store *store, int *version)
{
	sqlite3_stmt *s = NULL;
	int err = 0;

	if (sqlite3_prepare_v2(store->db, "PRAGMA user_version", -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
		err = note(store);
	else
		*version = sqlite3_column_int(s, 0);
	sqlite3_finalize(s);
	return err;
}

static int prepare(struct ledger_store *store)
{
	int version = 0, err = run(store, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;");

	if (!err)
		err = version_of(store, &version);
	if (!err && version > SCHEMA_VERSION) {
		snprintf(store->error, sizeof store->error, "it was written by a newer Essaim (version %d of it): upgrade this one", version);
		return ERR_VERSION;
	}
	if (!err && version == 0) {
		err = run(store, "BEGIN IMMEDIATE");
		if (!err)
			err = run(store, schema);
		if (!err)
			err = run(store, "COMMIT");
	}
	if (!err && (sqlite3_prepare_v2(store->db, add_sql, -1, &store->add, NULL) != SQLITE_OK ||
		     sqlite3_prepare_v2(store->db, receipt_sql, -1, &store->receipt, NULL) != SQLITE_OK))
		err = note(store);
	return err;
}

int ledger_store_open(struct ledger_store **out, const char *home, char *why, size_t why_size)
{
	struct ledger_store *store = calloc(1, sizeof *store);
	char path[PATH_MAX];
	int n = snprintf(path, sizeof path, "%s/ledger.db", home), fd, err = 0;

	*out = NULL;
	if (!store || n < 0 || n >= PATH_MAX) {
		free(store);
		return store ? -ENAMETOOLONG : -ENOMEM;
	}
	/* SQLite would use the umask; its other files take the mode of this one */
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0) {
		err = -errno;
		snprintf(why, why_size, "%s: cannot open: %s (is the home folder this user's, and writable?)", path, err_str(err));
		free(store);
		return err;
	}
	close(fd);
	if (sqlite3_open_v2(path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL) != SQLITE_OK) {
		err = store->db ? note(store) : -ENOMEM;
	} else {
		sqlite3_busy_timeout(store->db, 2000);
		err = prepare(store);
	}
	if (err) {
		snprintf(why, why_size, "%s: %s%s", path, store->error,
			 err == ERR_MALFORMED ? " (move it away: the sums of today begin at zero, nothing else is lost)" : "");
		ledger_store_close(store);
		return err;
	}
	*out = store;
	return 0;
}

void ledger_store_close(struct ledger_store *store)
{
	if (!store)
		return;
	sqlite3_finalize(store->add);
	sqlite3_finalize(store->receipt);
	sqlite3_close(store->db);
	free(store);
}

const char *ledger_store_error(const struct ledger_store *store)
{
	return store->error;
}

static sqlite3_int64 number(uint64_t v)
{
	return v > INT64_MAX ? INT64_MAX : (sqlite3_int64)v;
}

static int step(struct ledger_store *store, sqlite3_stmt *s)
{
	int err = sqlite3_step(s) == SQLITE_DONE ? 0 : note(store);

	sqlite3_reset(s);
	sqlite3_clear_bindings(s);
	return err;
}

static int write_row(struct ledger_store *store, const struct ledger_row *row)
{
	sqlite3_stmt *s = store->add;

	sqlite3_bind_int64(s, 1, row->day);
	sqlite3_bind_blob(s, 2, row->user, KEY_BYTES, SQLITE_STATIC);
	sqlite3_bind_blob(s, 3, row->provider, KEY_BYTES, SQLITE_STATIC);
	sqlite3_bind_blob(s, 4, row->node, KEY_BYTES, SQLITE_STATIC);
	sqlite3_bind_blob(s, 5, row->model, KEY_BYTES, SQLITE_STATIC);
	sqlite3_bind_int(s, 6, row->measured);
	sqlite3_bind_int64(s, 7, number(row->sum.rows));
	sqlite3_bind_int64(s, 8, number(row->sum.stage_microseconds));
	sqlite3_bind_int64(s, 9, number(row->sum.millijoules));
	sqlite3_bind_int64(s, 10, number(row->sum.sessions));
	return step(store, s);
}

static int write_receipt(struct ledger_store *store, const struct ledger_receipt *r)
{
	sqlite3_stmt *s = store->receipt;
	uint8_t sequence[8];

	for (int i = 0; i < 8; i++)
		sequence[i] = (uint8_t)(r->sequence >> (56 - 8 * i));
	sqlite3_bind_blob(s, 1, r->body.session, sizeof r->body.session, SQLITE_STATIC);
	sqlite3_bind_blob(s, 2, r->body.node, KEY_BYTES, SQLITE_STATIC);
	sqlite3_bind_blob(s, 3, sequence, sizeof sequence, SQLITE_STATIC);
	sqlite3_bind_int64(s, 4, r->day);
	sqlite3_bind_blob(s, 5, r->body.home_association, KEY_BYTES, SQLITE_STATIC);
	sqlite3_bind_blob(s, 6, r->body.model, KEY_BYTES, SQLITE_STATIC);
	sqlite3_bind_int64(s, 7, number(r->body.rows));
	sqlite3_bind_int64(s, 8, number(r->body.stage_microseconds));
	sqlite3_bind_blob(s, 9, r->bytes, (int)r->length, SQLITE_STATIC);
	return step(store, s);
}

#define TEXT(x) #x
#define NUMBER(x) TEXT(x)

int ledger_store_write(struct ledger_store *store, const struct ledger_batch *batch)
{
	int err = run(store, "BEGIN IMMEDIATE");

	for (size_t i = 0; !err && i < batch->n_rows; i++)
		err = write_row(store, &batch->rows[i]);
	for (size_t i = 0; !err && i < batch->n_receipts; i++)
		err = write_receipt(store, &batch->receipts[i]);
	if (!err && batch->n_receipts)
		err = run(store, "DELETE FROM receipt WHERE id <= (SELECT max(id) FROM receipt) - " NUMBER(LEDGER_RECEIPTS_MAX));
	if (!err)
		err = run(store, "COMMIT");
	if (err && !sqlite3_get_autocommit(store->db))
		sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
	return err;
}

int ledger_store_sums(struct ledger_store *store,
		      int (*fn)(uint32_t day, const uint8_t *user, const uint8_t *provider, const struct ledger_sum *sum, void *arg), void *arg)
{
	/* total() instead of sum(): an overflow is a large number there, not an error */
	static const char sql[] =
		"SELECT day, user, provider, total(rows), total(microseconds), total(millijoules), total(sessions) FROM used"
		" WHERE day IN (SELECT DISTINCT day FROM used ORDER BY day DESC LIMIT " NUMBER(LEDGER_DAYS_LOADED) ")"
		" GROUP BY day, user, provider";
	sqlite3_stmt *s = NULL;
	int err = 0, got = SQLITE_DONE;

	if (sqlite3_prepare_v2(store->db, sql, -1, &s, NULL) != SQLITE_OK)
		return note(store);
	while (!err && (got = sqlite3_step(s)) == SQLITE_ROW) {
		struct ledger_sum sum;
		double values[4];

		if (sqlite3_column_bytes(s, 1) != KEY_BYTES || sqlite3_column_bytes(s, 2) != KEY_BYTES)
			continue;
		for (int i = 0; i < 4; i++)
			values[i] = sqlite3_column_double(s, 3 + i);
		for (int i = 0; i < 4; i++)
			values[i] = values[i] < 0 ? 0 : values[i] > 9e18 ? 9e18 : values[i];
		sum = (struct ledger_sum){ .rows = (uint64_t)values[0], .stage_microseconds = (uint64_t)values[1],
					   .millijoules = (uint64_t)values[2], .sessions = (uint64_t)values[3] };
		err = fn((uint32_t)sqlite3_column_int64(s, 0), sqlite3_column_blob(s, 1), sqlite3_column_blob(s, 2), &sum, arg);
	}
	if (!err && got != SQLITE_DONE)
		err = note(store);
	sqlite3_finalize(s);
	return err;
}
