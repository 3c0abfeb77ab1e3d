/* test_ledger.c: sums by UTC day and pair, kept over restarts and full disks.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "tests/unit/trust_world.h"

#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>

#include "daemon/ledger/ledger.h"
#include "tests/unit/temp_home.h"

#define NOON (MORNING / DAY * DAY + DAY / 2)

static uv_loop_t loop;
static struct ledger *ledger;
static char why[400];
static int closed;
static struct people abeille, bourdon;

static void open_ledger(void)
{
	assert_int_equal(ledger_open(&ledger, &loop, temp_home, why, sizeof why), 0);
}

static void on_closed(void *arg)
{
	++*(int *)arg;
}

static void close_ledger(void)
{
	int before = closed;

	ledger_close(ledger, on_closed, &closed);
	assert_int_equal(closed, before);              /* asynchronous, always */
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(closed, before + 1);
}

static int setup(void **state)
{
	(void)state;
	abeille = people_of("Abeille");
	bourdon = people_of("Bourdon");
	world_now = NOON;
	closed = 0;
	return temp_home_make() || uv_loop_init(&loop);
}

static int teardown(void **state)
{
	(void)state;
	temp_home_remove();
	buf_release(&world_bytes);
	return uv_loop_close(&loop);                   /* fails while anything is left in flight */
}

static struct ledger_use use_of(uint8_t session, const struct people *user, const struct people *provider, uint64_t rows)
{
	struct ledger_use use = { .rows = rows, .stage_microseconds = 1000 * rows, .millijoules = 5 * rows };

	memset(use.session, session, sizeof use.session);
	memcpy(use.user, user->root.key, KEY_BYTES);
	memcpy(use.provider, provider->root.key, KEY_BYTES);
	memcpy(use.node, provider->node[0].key, KEY_BYTES);
	return use;
}

static void add(uint8_t session, const struct people *user, const struct people *provider, uint64_t rows, uint64_t now)
{
	struct ledger_use use = use_of(session, user, provider, rows);

	ledger_add(ledger, &use, now);
}

static struct ledger_sum today(const struct people *user, const struct people *provider, uint64_t now)
{
	return ledger_today(ledger, user->root.key, provider->root.key, now);
}

static void uses_of_a_pair_add_up_at_once(void **state)
{
	struct ledger_sum sum;

	(void)state;
	open_ledger();
	add(1, &bourdon, &abeille, 10, NOON);
	add(1, &bourdon, &abeille, 5, NOON + 1);
	add(2, &bourdon, &abeille, 1, NOON + 2);
	sum = today(&bourdon, &abeille, NOON + 3);
	assert_int_equal(sum.rows, 16);
	assert_int_equal(sum.stage_microseconds, 16000);
	assert_int_equal(sum.millijoules, 80);
	assert_int_equal(sum.sessions, 2);
	assert_int_equal(today(&abeille, &bourdon, NOON).rows, 0);    /* the other way round is another pair */
	close_ledger();
}

static void each_utc_day_has_its_own_sum(void **state)
{
	uint64_t midnight = NOON + DAY / 2;

	(void)state;
	open_ledger();
	add(1, &bourdon, &abeille, 10, midnight - 1);
	add(1, &bourdon, &abeille, 3, midnight);
	assert_int_equal(today(&bourdon, &abeille, midnight - 1).rows, 10);
	assert_int_equal(today(&bourdon, &abeille, midnight).rows, 3);
	assert_int_equal(today(&bourdon, &abeille, midnight).sessions, 1);
	assert_int_equal(today(&bourdon, &abeille, midnight + DAY).rows, 0);
	close_ledger();
}

static void sums_outlive_a_restart(void **state)
{
	struct ledger_sum before, after;

	(void)state;
	open_ledger();
	for (int i = 0; i < 500; i++)
		add((uint8_t)i, &bourdon, &abeille, (uint64_t)i, NOON + (uint64_t)i);
	add(9, &abeille, &bourdon, 7, NOON - DAY);
	before = today(&bourdon, &abeille, NOON);
	close_ledger();
	open_ledger();
	after = today(&bourdon, &abeille, NOON);
	assert_int_equal(after.rows, 499 * 500 / 2);
	assert_memory_equal(&before, &after, sizeof before);
	assert_int_equal(today(&abeille, &bourdon, NOON - DAY).rows, 7);
	assert_int_equal(today(&abeille, &bourdon, NOON).rows, 0);
	add(1, &bourdon, &abeille, 1, NOON);
	close_ledger();
	open_ledger();
	assert_int_equal(today(&bourdon, &abeille, NOON).rows, 499 * 500 / 2 + 1);
	close_ledger();
}

static void a_clock_that_was_wrong_for_a_moment_forgets_nothing(void **state)
{
	(void)state;
	open_ledger();
	add(1, &bourdon, &abeille, 10, NOON);
	add(2, &bourdon, &abeille, 1, NOON + 700 * DAY);
	assert_int_equal(today(&bourdon, &abeille, NOON).rows, 10);
	close_ledger();
	open_ledger();
	assert_int_equal(today(&bourdon, &abeille, NOON).rows, 10);
	close_ledger();
}

static void sums_do_not_wrap(void **state)
{
	(void)state;
	open_ledger();
	add(1, &bourdon, &abeille, INT64_MAX / 1000, NOON);
	for (int i = 0; i < 5; i++) {
		struct ledger_use use = use_of(2, &bourdon, &abeille, 0);

		use.rows = use.stage_microseconds = UINT64_MAX;
		ledger_add(ledger, &use, NOON);
		uv_run(&loop, UV_RUN_DEFAULT);
	}
	assert_true(today(&bourdon, &abeille, NOON).rows == INT64_MAX);
	close_ledger();
	open_ledger();
	assert_true(today(&bourdon, &abeille, NOON).rows >= INT64_MAX / 2);
	assert_true(today(&bourdon, &abeille, NOON).rows <= INT64_MAX);
	close_ledger();
}

static bool no_memory;

void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size)
{
	return no_memory ? NULL : __real_realloc(old, size);
}

static void without_memory_no_use_is_free(void **state)
{
	(void)state;
	open_ledger();
	add(1, &bourdon, &abeille, 10, NOON);
	no_memory = true;
	for (uint8_t i = 0; i < 40; i++) {
		struct people other = people_of((char[]){ (char)('a' + i), 0 });

		add(1, &other, &abeille, 1, NOON);
	}
	no_memory = false;
	/* 15 found the room that there was. Whose the other 25 are is not known, so they are everybody's. */
	assert_int_equal(today(&bourdon, &abeille, NOON).rows, 10 + 25);
	assert_int_equal(today(&abeille, &bourdon, NOON).rows, 25);
	add(1, &abeille, &bourdon, 7, NOON);
	assert_int_equal(today(&abeille, &bourdon, NOON).rows, 7 + 25);
	assert_int_equal(today(&abeille, &bourdon, NOON + DAY).rows, 0);
	close_ledger();

	/* The file has what found room in the batch, and the daemon goes by the file after a restart. */
	open_ledger();
	assert_int_equal(today(&bourdon, &abeille, NOON).rows, 10);
	assert_int_equal(today(&abeille, &bourdon, NOON).rows, 7);
	close_ledger();
	no_memory = true;
	assert_int_equal(ledger_open(&ledger, &loop, temp_home, why, sizeof why), -ENOMEM);
	no_memory = false;
	assert_non_null(strstr(why, "ledger.db: "));
}

struct listed {
	int n;
	uint64_t rows;
};

static void list(const uint8_t user[KEY_BYTES], const uint8_t provider[KEY_BYTES], const struct ledger_sum *sum, void *arg)
{
	struct listed *listed = arg;

	assert_memory_not_equal(user, provider, KEY_BYTES);
	listed->n++;
	listed->rows += sum->rows;
}

static void every_pair_of_today_is_listed(void **state)
{
	struct listed listed = { 0 };

	(void)state;
	open_ledger();
	add(1, &bourdon, &abeille, 10, NOON);
	add(2, &abeille, &bourdon, 20, NOON);
	add(3, &abeille, &bourdon, 40, NOON - DAY);
	ledger_each_today(ledger, NOON, list, &listed);
	assert_int_equal(listed.n, 2);
	assert_int_equal(listed.rows, 30);
	close_ledger();
}

/* No byte more may be written for a while: what is added meanwhile is on disk in the end. */
static void a_full_disk_loses_nothing_while_the_node_runs(void **state)
{
	struct rlimit before, none;

	(void)state;
	open_ledger();
	add(1, &bourdon, &abeille, 1, NOON);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	signal(SIGXFSZ, SIG_IGN);
	none = (struct rlimit){ .rlim_cur = 1, .rlim_max = before.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	for (int i = 0; i < 10; i++) {
		add((uint8_t)(10 + i), &bourdon, &abeille, 10, NOON);
		uv_run(&loop, UV_RUN_DEFAULT);
	}
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(today(&bourdon, &abeille, NOON).rows, 101);
	close_ledger();
	open_ledger();
	assert_int_equal(today(&bourdon, &abeille, NOON).rows, 101);
	assert_int_equal(today(&bourdon, &abeille, NOON).sessions, 11);
	close_ledger();
}

static void only_its_owner_reads_the_ledger(void **state)
{
	mode_t before = umask(0);

	(void)state;
	open_ledger();
	add(1, &bourdon, &abeille, 1, NOON);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(temp_mode("ledger.db"), 0600);
	assert_int_equal(temp_mode("ledger.db-wal"), 0600);
	close_ledger();
	umask(before);
}

static void a_damaged_ledger_is_refused_with_a_remedy(void **state)
{
	char garbage[4096];

	(void)state;
	memset(garbage, 'x', sizeof garbage);
	assert_int_equal(temp_write("ledger.db", garbage, sizeof garbage), 0);
	assert_true(ledger_open(&ledger, &loop, temp_home, why, sizeof why) < 0);
	assert_non_null(strstr(why, "move it away"));
}

static int64_t ask(const char *sql)
{
	sqlite3 *db;
	sqlite3_stmt *s;
	int64_t value;

	assert_int_equal(sqlite3_open(temp_path("ledger.db"), &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	value = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	sqlite3_close(db);
	return value;
}

static void the_newest_receipt_of_a_session_is_kept(void **state)
{
	(void)state;
	open_ledger();
	sign_receipt(&abeille, 0, &bourdon, 2);
	assert_int_equal(ledger_add_receipt(ledger, world_bytes.data, world_bytes.length, NOON), 0);
	sign_receipt(&abeille, 0, &bourdon, UINT64_MAX);
	assert_int_equal(ledger_add_receipt(ledger, world_bytes.data, world_bytes.length, NOON), 0);
	sign_receipt(&abeille, 0, &bourdon, 1);
	assert_int_equal(ledger_add_receipt(ledger, world_bytes.data, world_bytes.length, NOON), 0);
	sign_receipt(&abeille, 1, &bourdon, 1);
	assert_int_equal(ledger_add_receipt(ledger, world_bytes.data, world_bytes.length, NOON), 0);
	close_ledger();
	assert_int_equal(ask("SELECT count(*) FROM receipt"), 2);
	assert_int_equal(ask("SELECT count(*) FROM receipt WHERE sequence = x'ffffffffffffffff'"), 1);
}

static void what_is_no_receipt_is_refused(void **state)
{
	(void)state;
	open_ledger();
	sign_card(&abeille, 0, 1);
	assert_int_equal(ledger_add_receipt(ledger, world_bytes.data, world_bytes.length, NOON), ERR_MALFORMED);
	sign_receipt(&abeille, 0, &bourdon, 1);
	world_bytes.data[world_bytes.length - 1] ^= 1;
	assert_int_equal(ledger_add_receipt(ledger, world_bytes.data, world_bytes.length, NOON), ERR_SIGNATURE);
	world_bytes.data[world_bytes.length - 1] ^= 1;
	assert_int_equal(ledger_add_receipt(ledger, world_bytes.data, world_bytes.length, NOON + 100 * DAY), ERR_EXPIRED);
	assert_int_equal(ledger_add_receipt(ledger, world_bytes.data, world_bytes.length - 1, NOON), ERR_MALFORMED);
	close_ledger();
	assert_int_equal(ask("SELECT count(*) FROM receipt"), 0);
}

#define FACT(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		FACT(uses_of_a_pair_add_up_at_once),
		FACT(each_utc_day_has_its_own_sum),
		FACT(sums_outlive_a_restart),
		FACT(a_clock_that_was_wrong_for_a_moment_forgets_nothing),
		FACT(sums_do_not_wrap),
		FACT(without_memory_no_use_is_free),
		FACT(every_pair_of_today_is_listed),
		FACT(a_full_disk_loses_nothing_while_the_node_runs),
		FACT(only_its_owner_reads_the_ledger),
		FACT(a_damaged_ledger_is_refused_with_a_remedy),
		FACT(the_newest_receipt_of_a_session_is_kept),
		FACT(what_is_no_receipt_is_refused),
	};

	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
