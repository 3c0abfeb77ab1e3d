/* test_stage.c: engines started, fed, lost, hung, replaced and quarantined; then the real one, where it is built.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/stage/stage.h"
#include "daemon/stage/watch.h"
#include "tests/samples.h"
#include "tests/unit/fake_engine.h"

#define DEADLINE_MS 60000              /* a test that waits so long has failed */

static char own_path[4096];
static const uint8_t model_a[KEY_BYTES] = {1}, model_b[KEY_BYTES] = {2};

/* --- one stage on one loop, and all that it said -------------------------------------------------------- */

struct bench {
	uv_loop_t loop;
	uv_timer_t deadline;
	struct stage *stage;
	bool late, closed;
	enum stage_state state;            /* the last, of any model */
	unsigned states[STAGE_QUARANTINED + 1];
	char why[400];
	unsigned ready, rows, tokens, faults;
	struct fault_message fault;
	int32_t token;
	uint32_t rows_stage;
	const uint8_t *expected;           /* rows that come must be these; NULL: any */
	int done;                          /* 1: a done() came */
	int err;
	size_t n_tokens;
	int32_t rendered[64];
	unsigned permille;
	struct manifest_body manifest;
};

static void on_frame(void *arg, const uint8_t model[KEY_BYTES], const struct frame *frame)
{
	struct bench *b = arg;
	static struct rows_message rows;
	struct tokens_message tokens;
	switch (frame->type) {
	case FRAME_READY:
		b->ready++;
		break;
	case FRAME_ROWS:
		assert_int_equal(rows_decode(frame, &rows), 0);
		b->rows_stage = rows.blocks[0].stage;
		if (b->expected)
			assert_memory_equal(rows.blocks[0].rows, b->expected, rows.blocks[0].rows_length);
		b->rows++;
		break;
	case FRAME_TOKENS:
		assert_int_equal(tokens_decode(frame, &tokens), 0);
		b->tokens++;
		if (tokens.n_tokens)
			b->token = tokens.tokens[0].id;
		break;
	case FRAME_FAULT:
		b->faults++;
		assert_int_equal(fault_decode(frame, &b->fault), 0);
		break;
	default:
		fail_msg("a frame of type %d reached ring", frame->type);
	}
}

static void on_state(void *arg, const uint8_t model[KEY_BYTES], enum stage_state state, const char *why)
{
	struct bench *b = arg;
	struct stage_info info;
	assert_int_equal(stage_info(b->stage, model, &info), 0);       /* main looks from inside */
	assert_int_equal(info.state, state);
	b->state = state;
	b->states[state]++;
	snprintf(b->why, sizeof b->why, "%s", why ? why : "");
}

static void on_deadline(uv_timer_t *timer)
{
	((struct bench *)timer->data)->late = true;
}

static void open_bench_with(struct bench *b, const char *engine, unsigned hang_seconds, unsigned threads)
{
	memset(b, 0, sizeof *b);
	assert_int_equal(uv_loop_init(&b->loop), 0);
	uv_timer_init(&b->loop, &b->deadline);
	b->deadline.data = b;
	uv_timer_start(&b->deadline, on_deadline, DEADLINE_MS, 0);
	struct stage_config config = {.loop = &b->loop, .engine_path = engine, .threads = threads, .hang_seconds = hang_seconds, .on_frame = on_frame,
				      .on_state = on_state, .arg = b};
	assert_int_equal(stage_open(&b->stage, &config), 0);
}

static void open_bench(struct bench *b, const char *engine, unsigned hang_seconds)
{
	open_bench_with(b, engine, hang_seconds, 2);
}

#define wait_for(b, condition) \
	do { \
		while (!(condition) && !(b)->late) \
			uv_run(&(b)->loop, UV_RUN_ONCE); \
		if (!(condition)) \
			fail_msg("waited in vain for %s (state %d: %s)", #condition, (b)->state, (b)->why); \
	} while (0)

static void on_closed(void *arg)
{
	((struct bench *)arg)->closed = true;
}

static void close_bench(struct bench *b)
{
	stage_close(b->stage, on_closed, b);
	wait_for(b, b->closed);
	uv_close((uv_handle_t *)&b->deadline, NULL);
	uv_run(&b->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&b->loop), 0);
	manifest_free(&b->manifest);
}

static int file_with(const char *text)
{
	int fd = memfd_create("model", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	return fd;
}

static struct stage_load load_of(const uint8_t *model, uint32_t context)
{
	struct stage_load load = {.n_ranges = 2, .ranges = {{0, 1}, {3, 4}}, .n_layer = 4, .context = context, .sessions = 2, .n_fds = 2,
				  .n_extents = 3};
	memcpy(load.model, model, KEY_BYTES);
	load.fds[0] = file_with("1200");
	load.fds[1] = file_with("34");
	load.extents = calloc(3, sizeof *load.extents);
	assert_non_null(load.extents);
	for (uint32_t i = 0; i < 3; i++)
		load.extents[i] = (struct model_extent){.file = 0, .offset = 10 * i, .length = 5};
	return load;
}

static void start(struct bench *b, const uint8_t *model, uint32_t context)
{
	struct stage_load load = load_of(model, context);
	assert_int_equal(stage_start(b->stage, &load), 0);
}

static const uint8_t session_one[SESSION_BYTES] = {7};

static int open_session(struct bench *b, const uint8_t *model, uint32_t stage)
{
	struct engine_open open = {.epoch = 3, .stage = stage, .range = {0, 1}, .context = 64, .sampling = {.top_p = 1, .repeat_penalty = 1}};
	struct buf frame;
	memcpy(open.session, session_one, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	assert_int_equal(engine_open_encode(&frame, &open), 0);
	return stage_send(b->stage, model, &frame);
}

static int send_block(struct bench *b, const uint8_t *model, uint32_t position)
{
	static const uint8_t row[16];
	struct rows_message m = {.n_blocks = 1};
	struct buf frame;
	m.blocks[0] = (struct rows_block){.epoch = 3, .position = position, .count = 1, .want = 1, .encoding = ENCODING_F32, .rows = row,
					  .rows_length = sizeof row};
	memcpy(m.blocks[0].session, session_one, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	assert_int_equal(rows_encode(&frame, &m), 0);
	return stage_send(b->stage, model, &frame);
}

static void on_rendered(void *arg, int err, const int32_t *tokens, size_t n, const char *why)
{
	struct bench *b = arg;
	b->done++;
	b->err = err;
	b->n_tokens = n;
	if (n)
		memcpy(b->rendered, tokens, (n < 64 ? n : 64) * sizeof *tokens);
	if (err)
		snprintf(b->why, sizeof b->why, "%s", why);
}

static void render(struct bench *b, const char *text)
{
	struct render_message message = {.role = "user", .role_length = 4, .content = text, .content_length = strlen(text)};
	struct engine_render m = {.n_messages = 1, .messages = &message};
	b->done = 0;
	assert_int_equal(stage_render(b->stage, model_a, &m, on_rendered, b), 0);
	wait_for(b, b->done);
}

static void on_inspected(void *arg, int err, struct manifest_body *body, const char *why)
{
	struct bench *b = arg;
	b->done++;
	b->err = err;
	snprintf(b->why, sizeof b->why, "%s", why);
	if (!err) {
		manifest_free(&b->manifest);
		b->manifest = *body;
	}
}

/* --- life ----------------------------------------------------------------------------------------------- */

static void an_engine_is_started_loaded_and_answers(void **state)
{
	struct bench b;
	struct stage_info info;
	open_bench(&b, own_path, 0);
	assert_string_equal(stage_engine_name(b.stage), "");
	assert_int_equal(stage_info(b.stage, model_a, &info), ERR_UNKNOWN);
	assert_int_equal(send_block(&b, model_a, 0), ERR_UNKNOWN);
	start(&b, model_a, 64);
	assert_int_equal(b.state, STAGE_STARTING);
	assert_int_equal(send_block(&b, model_a, 0), ERR_ENGINE);
	wait_for(&b, b.state == STAGE_READY);
	assert_int_equal(b.states[STAGE_LOADING], 1);
	assert_string_equal(stage_engine_name(b.stage), "fake 1.0 q00000000 cpu");
	assert_int_equal(stage_info(b.stage, model_a, &info), 0);
	assert_int_equal(info.weight_bytes, 1234);     /* both descriptors came, in order and readable */
	assert_int_equal(info.kv_bytes, 2);
	assert_int_equal(info.compute_bytes, 3);
	assert_int_equal(info.layer_microseconds, 2);
	assert_int_equal(info.n_ranges, 2);
	assert_int_equal(info.ranges[1].first, 3);
	assert_int_equal(info.context, 64);
	assert_true(info.sandboxed && info.pid > 0);
	assert_int_equal(info.sessions_open, 0);

	assert_int_equal(open_session(&b, model_a, 0), 0);
	wait_for(&b, b.ready == 1);
	assert_int_equal(open_session(&b, model_a, 3), 0);
	wait_for(&b, b.ready == 2);
	assert_int_equal(stage_info(b.stage, model_a, &info), 0);
	assert_int_equal(info.sessions_open, 1);       /* two stages of one session */
	assert_int_equal(send_block(&b, model_a, 0), 0);
	wait_for(&b, b.rows == 1);
	assert_int_equal(b.rows_stage, 1);

	stage_stop(b.stage, model_a);
	assert_int_equal(b.state, STAGE_NONE);
	assert_int_equal(b.faults, 2);                 /* ring hears of both stages */
	assert_int_equal(b.fault.epoch, 3);
	assert_int_equal(b.fault.code, ERR_ENGINE);
	assert_int_equal(send_block(&b, model_a, 0), ERR_ENGINE);
	close_bench(&b);
}

static void an_engine_knows_nothing_of_the_daemon_but_descriptor_3(void **state)
{
	struct bench b;
	int leak = fcntl(STDIN_FILENO, F_DUPFD, 10);   /* a library forgot O_CLOEXEC */
	assert_true(leak >= 10);
	assert_int_equal(setenv("CREDENTIALS_DIRECTORY", "12", 1), 0);
	assert_int_equal(unsetenv("GOMP_SPINCOUNT"), 0);
	open_bench(&b, own_path, 0);
	struct stage_load load = load_of(model_a, 64);
	load.data_limit = 123456789;
	assert_int_equal(stage_start(b.stage, &load), 0);
	wait_for(&b, b.state == STAGE_READY);
	render(&b, "descriptors");
	assert_int_equal(b.n_tokens, 4);
	for (size_t i = 0; i < b.n_tokens; i++)
		assert_true(b.rendered[i] >= 0 && b.rendered[i] <= 3);
	render(&b, "environment CREDENTIALS_DIRECTORY");
	assert_int_equal(b.rendered[0], FAKE_UNDEFINED);
	render(&b, "environment GOMP_SPINCOUNT");
	assert_int_equal(b.rendered[0], 4000);
	render(&b, "options");
	static const char options[] = "--memory-max 123456789";
	assert_int_equal(b.n_tokens, strlen(options));
	for (size_t i = 0; options[i]; i++)
		assert_int_equal(b.rendered[i], options[i]);
	close_bench(&b);
	assert_int_equal(setenv("GOMP_SPINCOUNT", "77", 1), 0);        /* somebody's own choice */
	open_bench(&b, own_path, 0);
	start(&b, model_a, 64);
	wait_for(&b, b.state == STAGE_READY);
	render(&b, "environment GOMP_SPINCOUNT");
	assert_int_equal(b.rendered[0], 77);
	close_bench(&b);
	assert_int_equal(unsetenv("GOMP_SPINCOUNT"), 0);
	close(leak);
}

static void threads_keep_to_cores_where_there_is_one_for_each(void **state)
{
	unsigned cores = uv_available_parallelism();
	struct bench b;
	unsetenv("OMP_PLACES");
	unsetenv("OMP_PROC_BIND");
	for (unsigned threads = cores; threads && threads + 1 >= cores; threads--) {
		open_bench_with(&b, own_path, 0, threads);
		start(&b, model_a, 64);
		wait_for(&b, b.state == STAGE_READY);
		render(&b, "environment OMP_PLACES");
		assert_int_equal(b.rendered[0], threads == cores ? 0 /* no number: "cores" */ : FAKE_UNDEFINED);
		close_bench(&b);
	}
	assert_int_equal(setenv("OMP_PROC_BIND", "false", 1), 0);      /* somebody's own choice */
	open_bench_with(&b, own_path, 0, cores);
	start(&b, model_a, 64);
	wait_for(&b, b.state == STAGE_READY);
	render(&b, "environment OMP_PLACES");
	assert_int_equal(b.rendered[0], FAKE_UNDEFINED);
	close_bench(&b);
	assert_int_equal(unsetenv("OMP_PROC_BIND"), 0);
}

static void other_ranges_replace_the_engine_the_same_ones_do_not(void **state)
{
	struct bench b;
	struct stage_info before, after;
	open_bench(&b, own_path, 0);
	start(&b, model_a, 64);
	wait_for(&b, b.state == STAGE_READY);
	assert_int_equal(stage_info(b.stage, model_a, &before), 0);
	start(&b, model_a, 64);
	assert_int_equal(stage_info(b.stage, model_a, &after), 0);
	assert_int_equal(after.pid, before.pid);
	assert_int_equal(after.state, STAGE_READY);

	assert_int_equal(open_session(&b, model_a, 0), 0);
	struct stage_load load = load_of(model_a, 64);
	load.ranges[1] = (struct layer_range){2, 4};
	assert_int_equal(stage_start(b.stage, &load), 0);
	assert_int_equal(b.faults, 1);                 /* the session on the old engine */
	assert_int_equal(b.state, STAGE_STARTING);
	wait_for(&b, b.state == STAGE_READY);
	assert_int_equal(stage_info(b.stage, model_a, &after), 0);
	assert_int_not_equal(after.pid, before.pid);
	assert_int_equal(after.ranges[1].first, 2);
	assert_int_equal(after.sessions_open, 0);
	assert_int_equal(kill(before.pid, 0), -1);     /* the old one was gone first: memory for one is enough */
	assert_int_equal(b.states[STAGE_FAILED], 0);
	close_bench(&b);
}

static void two_models_have_an_engine_each(void **state)
{
	struct bench b;
	struct stage_info info;
	open_bench(&b, own_path, 0);
	start(&b, model_a, 64);
	start(&b, model_b, 64);
	wait_for(&b, b.states[STAGE_READY] == 2);
	assert_int_equal(open_session(&b, model_a, 0), 0);
	wait_for(&b, b.ready == 1);
	assert_int_equal(send_block(&b, model_a, FAKE_CRASH_AT), 0);
	wait_for(&b, b.state == STAGE_FAILED);
	assert_int_equal(stage_info(b.stage, model_b, &info), 0);
	assert_int_equal(info.state, STAGE_READY);     /* undisturbed */
	assert_int_equal(open_session(&b, model_b, 0), 0);
	wait_for(&b, b.ready == 2);
	close_bench(&b);
}

/* --- crashes, hangs --------------------------------------------------------------------------------------- */

static void a_dead_engine_is_told_and_started_anew_by_the_caller(void **state)
{
	static const uint32_t at[] = {FAKE_CRASH_AT, FAKE_LEAVE_AT, FAKE_NONSENSE_AT, FAKE_TICKET_AT, FAKE_HANG_AT};
	static const char *const words[] = {"signal 6", "status 5", "nonsense", "nonsense", "no progress"};
	for (size_t i = 0; i < 5; i++) {
		struct bench b;
		struct stage_info info;
		open_bench(&b, own_path, 1);
		start(&b, model_a, 64);
		wait_for(&b, b.state == STAGE_READY);
		assert_int_equal(open_session(&b, model_a, 0), 0);
		wait_for(&b, b.ready == 1);
		assert_int_equal(send_block(&b, model_a, at[i]), 0);
		wait_for(&b, b.state == STAGE_FAILED);
		assert_non_null(strstr(b.why, words[i]));
		assert_int_equal(stage_info(b.stage, model_a, &info), 0);
		assert_int_equal(info.crashes, 1);
		assert_int_equal(info.sessions_open, 0);
		assert_int_equal(send_block(&b, model_a, 0), ERR_ENGINE);
		start(&b, model_a, 64);
		wait_for(&b, b.state == STAGE_READY);
		assert_int_equal(open_session(&b, model_a, 0), 0);
		wait_for(&b, b.ready == 2);
		close_bench(&b);
	}
}

static void an_engine_killed_from_outside_is_told(void **state)
{
	struct bench b;
	struct stage_info info;
	open_bench(&b, own_path, 0);
	start(&b, model_a, 64);
	wait_for(&b, b.state == STAGE_READY);
	assert_int_equal(stage_info(b.stage, model_a, &info), 0);
	kill(info.pid, SIGKILL);
	wait_for(&b, b.state == STAGE_FAILED);
	assert_non_null(strstr(b.why, "was killed"));
	close_bench(&b);
}

static void an_engine_killed_before_it_read_all_was_killed_and_said_no_nonsense(void **state)
{
	struct bench b;
	struct stage_info info;
	open_bench(&b, own_path, 0);
	start(&b, model_a, 64);
	wait_for(&b, b.state == STAGE_READY);
	assert_int_equal(stage_info(b.stage, model_a, &info), 0);
	kill(info.pid, SIGSTOP);
	assert_int_equal(open_session(&b, model_a, 0), 0);         /* lies in its socket when it dies: ECONNRESET */
	kill(info.pid, SIGKILL);
	wait_for(&b, b.state == STAGE_FAILED);
	assert_non_null(strstr(b.why, "was killed"));
	close_bench(&b);
}

static void an_engine_that_dies_three_times_is_quarantined_until_cleared(void **state)
{
	struct bench b;
	open_bench(&b, own_path, 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(b.states[STAGE_QUARANTINED], 0);
		start(&b, model_a, FAKE_CRASH_LOADING);
		wait_for(&b, b.states[STAGE_FAILED] + b.states[STAGE_QUARANTINED] == i + 1);
	}
	assert_int_equal(b.state, STAGE_QUARANTINED);
	assert_non_null(strstr(b.why, "3 times"));
	struct stage_load load = load_of(model_a, 64);
	assert_int_equal(stage_start(b.stage, &load), ERR_ENGINE);
	stage_clear(b.stage, model_a);
	assert_int_equal(b.state, STAGE_NONE);
	start(&b, model_a, 64);
	wait_for(&b, b.state == STAGE_READY);
	close_bench(&b);
}

static void a_quarantine_of_before_a_restart_goes_on(void **state)
{
	struct bench b;
	struct stage_info info;
	open_bench(&b, own_path, 0);
	assert_int_equal(stage_quarantine(b.stage, model_a, "it died 3 times"), 0);
	assert_int_equal(b.state, STAGE_QUARANTINED);
	assert_string_equal(b.why, "it died 3 times");
	struct stage_load load = load_of(model_a, 64);
	assert_int_equal(stage_start(b.stage, &load), ERR_ENGINE);
	stage_clear(b.stage, model_a);
	start(&b, model_a, 64);
	wait_for(&b, b.state == STAGE_READY);
	assert_int_equal(stage_quarantine(b.stage, model_a, "enough"), 0);       /* also from a running one */
	assert_int_equal(stage_info(b.stage, model_a, &info), 0);
	assert_int_equal(info.state, STAGE_QUARANTINED);
	assert_int_equal(info.pid, 0);
	close_bench(&b);
}

static void a_refusal_is_no_crash(void **state)
{
	struct bench b;
	struct stage_info info;
	open_bench(&b, own_path, 0);
	for (unsigned i = 0; i < 4; i++) {
		start(&b, model_a, FAKE_REFUSE_LOADING);
		wait_for(&b, b.states[STAGE_FAILED] == i + 1);
		assert_string_equal(b.why, "it does not fit");
	}
	assert_int_equal(stage_info(b.stage, model_a, &info), 0);
	assert_int_equal(info.crashes, 0);
	close_bench(&b);
}

static void a_load_that_hangs_is_ended(void **state)
{
	struct bench b;
	open_bench(&b, own_path, 1);
	start(&b, model_a, FAKE_HANG_LOADING);
	wait_for(&b, b.state == STAGE_FAILED);
	assert_non_null(strstr(b.why, "no progress"));
	close_bench(&b);
}

static void an_engine_that_ignores_the_end_is_killed(void **state)
{
	struct bench b;
	struct stage_info info;
	open_bench(&b, own_path, 0);
	start(&b, model_a, FAKE_STUBBORN);
	wait_for(&b, b.state == STAGE_READY);
	assert_int_equal(stage_info(b.stage, model_a, &info), 0);
	close_bench(&b);
	assert_int_equal(kill(info.pid, 0), -1);
}

static void a_missing_program_is_an_error_at_once(void **state)
{
	struct bench b;
	open_bench(&b, "/nonexistent/essaim-engine", 0);
	struct stage_load load = load_of(model_a, 64);
	assert_int_equal(stage_start(b.stage, &load), -ENOENT);
	assert_int_equal(b.state, STAGE_FAILED);
	assert_non_null(strstr(b.why, "/nonexistent/essaim-engine"));
	close_bench(&b);
}

static void the_largest_frames_go_there_and_back(void **state)
{
	struct bench b;
	static uint8_t rows[CHUNK_ROWS * 65536 * 4];
	struct rows_message m = {.n_blocks = 1};
	struct buf frame;
	for (size_t i = 0; i < sizeof rows; i += 4096)
		rows[i] = (uint8_t)(i >> 12);
	open_bench(&b, own_path, 0);
	start(&b, model_a, 64);
	wait_for(&b, b.state == STAGE_READY);
	assert_int_equal(open_session(&b, model_a, 0), 0);
	m.blocks[0] = (struct rows_block){.epoch = 3, .count = CHUNK_ROWS, .encoding = ENCODING_F32, .rows = rows, .rows_length = sizeof rows};
	memcpy(m.blocks[0].session, session_one, SESSION_BYTES);
	b.expected = rows;
	for (unsigned i = 0; i < 4; i++) {             /* more than any socket buffer takes */
		m.blocks[0].sequence = i;
		buf_init(&frame, FRAME_MAX);
		assert_int_equal(rows_encode(&frame, &m), 0);
		assert_int_equal(stage_send(b.stage, model_a, &frame), 0);
	}
	wait_for(&b, b.rows == 4);
	close_bench(&b);
}

static size_t open_descriptors(void)
{
	size_t n = 0;
	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void nothing_is_left_open_whatever_happened(void **state)
{
	struct bench b;
	size_t before = open_descriptors();
	static const char *const names[] = {"crash.gguf"};
	open_bench(&b, own_path, 0);
	for (unsigned i = 0; i < 3; i++) {
		start(&b, model_a, i == 1 ? FAKE_REFUSE_LOADING : i == 2 ? FAKE_CRASH_LOADING : 64);
		wait_for(&b, b.states[STAGE_READY] + b.states[STAGE_FAILED] == i + 1);
		start(&b, model_a, 65);
		stage_stop(b.stage, model_a);          /* before it said hello */
		b.done = 0;
		int fd = file_with("0");
		assert_int_equal(stage_inspect(b.stage, &fd, 1, names, 0, NULL, on_inspected, &b), 0);
		wait_for(&b, b.done);
	}
	struct stage_load load = load_of(model_a, 66);
	assert_int_equal(stage_start(b.stage, &load), 0);
	close_bench(&b);
	assert_int_equal(open_descriptors(), before);
}

/* --- requests --------------------------------------------------------------------------------------------- */

static void a_rendering_comes_back_is_refused_or_dies_with_the_engine(void **state)
{
	struct bench b;
	open_bench(&b, own_path, 0);
	start(&b, model_a, 64);
	wait_for(&b, b.state == STAGE_READY);
	render(&b, "options");
	assert_int_equal(b.err, 0);
	assert_int_equal(b.n_tokens, 0);
	render(&b, "refuse");
	assert_int_equal(b.err, ERR_UNSUPPORTED);
	assert_string_equal(b.why, "no template");
	assert_int_equal(b.state, STAGE_READY);
	render(&b, "crash");
	assert_int_equal(b.err, ERR_ENGINE);
	wait_for(&b, b.state == STAGE_FAILED);
	struct engine_render m = {0};
	assert_int_equal(stage_render(b.stage, model_a, &m, on_rendered, &b), ERR_ENGINE);
	assert_int_equal(stage_render(b.stage, model_b, &m, on_rendered, &b), ERR_UNKNOWN);
	close_bench(&b);
}

static void on_progress(void *arg, unsigned permille)
{
	((struct bench *)arg)->permille = permille;
}

static void a_file_is_inspected_once_and_the_engine_ends(void **state)
{
	struct bench b;
	static const char *const good[] = {"one.gguf", "two.gguf"}, *const bad[] = {"bad.gguf"}, *const crash[] = {"crash.gguf"};
	int fds[2] = {file_with("40"), file_with("2")};
	open_bench(&b, own_path, 0);
	assert_int_equal(stage_inspect(b.stage, fds, 2, good, 0, on_progress, on_inspected, &b), 0);
	wait_for(&b, b.done);
	assert_int_equal(b.err, 0);
	assert_int_equal(b.permille, 250);
	assert_string_equal(b.manifest.name, "files-2");
	assert_int_equal(b.manifest.parameters, 42);
	assert_string_equal(stage_engine_name(b.stage), "fake 1.0 q00000000 cpu");
	b.done = 0;
	fds[0] = file_with("0");
	assert_int_equal(stage_inspect(b.stage, fds, 1, bad, 0, on_progress, on_inspected, &b), 0);
	wait_for(&b, b.done);
	assert_int_equal(b.err, ERR_MODEL);
	assert_string_equal(b.why, "bad.gguf: no model");
	b.done = 0;
	fds[0] = file_with("0");
	assert_int_equal(stage_inspect(b.stage, fds, 1, crash, 0, on_progress, on_inspected, &b), 0);
	wait_for(&b, b.done);
	assert_int_equal(b.err, ERR_ENGINE);
	assert_non_null(strstr(b.why, "signal 6"));
	b.done = 0;
	fds[0] = file_with("0");
	assert_int_equal(stage_inspect(b.stage, fds, 1, good, 0, on_progress, on_inspected, &b), 0);
	close_bench(&b);                               /* while it runs */
	assert_int_equal(b.done, 1);
	assert_int_equal(b.err, ERR_CANCELLED);
}

/* --- the pure part ---------------------------------------------------------------------------------------- */

static void crashes_count_within_ten_minutes(void **state)
{
	struct crashes c = {0};
	assert_false(crashes_add(&c, 0));
	assert_false(crashes_add(&c, 10));
	assert_false(crashes_add(&c, 700));
	assert_false(crashes_add(&c, 1290));           /* 700 and 1290 */
	assert_true(crashes_add(&c, 1299));
	assert_int_equal(c.n, 5);
	crashes_clear(&c);
	assert_false(crashes_add(&c, 1299));
}

static void view_of(const struct buf *bytes, struct frame *frame)
{
	size_t used;
	assert_int_equal(frame_decode(bytes->data, bytes->length, frame, &used), 0);
}

static void an_engine_owes_until_it_answered_or_was_told_to_close(void **state)
{
	struct owed owed = {0};
	struct engine_open open = {.stage = 1, .range = {0, 1}, .context = 8, .sampling = {.top_p = 1, .repeat_penalty = 1}};
	struct ready_message ready = {.stage = 1};
	struct fault_message fault = {.stage = 1, .code = ERR_NEED_REPLAY};
	struct close_message close_all = {.stage = UINT32_MAX};
	struct rows_message rows = {.n_blocks = 2};
	static const uint8_t row[4];
	struct buf bytes;
	struct frame frame;
	buf_init(&bytes, FRAME_MAX);
#define SEND(encoded) do { buf_clear(&bytes); assert_int_equal(encoded, 0); view_of(&bytes, &frame); assert_int_equal(owed_sent(&owed, &frame), 0); } while (0)
#define GET(encoded) do { buf_clear(&bytes); assert_int_equal(encoded, 0); view_of(&bytes, &frame); assert_int_equal(owed_got(&owed, &frame), 0); } while (0)
	assert_false(owed_any(&owed));
	SEND(engine_open_encode(&bytes, &open));
	assert_true(owed_any(&owed));
	GET(ready_encode(&bytes, &ready));
	assert_false(owed_any(&owed));
	for (size_t i = 0; i < 2; i++)
		rows.blocks[i] = (struct rows_block){.stage = 1, .sequence = i, .position = (uint32_t)i, .count = 1, .encoding = ENCODING_F32,
						     .rows = row, .rows_length = 4};
	SEND(rows_encode(&bytes, &rows));
	GET(fault_encode(&bytes, &fault));             /* one block of two */
	assert_true(owed_any(&owed));
	rows.n_blocks = 1;
	GET(rows_encode(&bytes, &rows));
	assert_false(owed_any(&owed));
	rows.n_blocks = 2;
	SEND(rows_encode(&bytes, &rows));
	fault.code = ERR_ENGINE;
	GET(fault_encode(&bytes, &fault));             /* nothing more comes after such a fault */
	assert_false(owed_any(&owed));
	SEND(rows_encode(&bytes, &rows));
	SEND(close_encode(&bytes, &close_all));
	assert_false(owed_any(&owed));
	assert_int_equal(owed.n, 0);
#undef SEND
#undef GET
	buf_release(&bytes);
	owed_release(&owed);
}

/* --- the real engine -------------------------------------------------------------------------------------- */

static char real_engine[4096], real_model[4096];

static bool have_real(void)
{
	const char *engine = getenv("ESSAIM_ENGINE"), *shared = getenv("ESSAIM_SHARED");
	if (!realpath(engine ? engine : "engine/essaim-engine", real_engine) || !shared)
		return false;
	snprintf(real_model, sizeof real_model, "%s/models/stories260K-q8_0.gguf", shared);
	return !access(real_engine, X_OK) && !access(real_model, R_OK);
}

static void the_real_engine_inspects_loads_and_answers(void **state)
{
	struct bench b;
	static const char *const names[] = {"stories260K-q8_0.gguf"};
	if (!have_real())
		skip();
	open_bench(&b, real_engine, 0);
	int fd = open(real_model, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(stage_inspect(b.stage, &fd, 1, names, 0, on_progress, on_inspected, &b), 0);
	wait_for(&b, b.done);
	assert_string_equal(b.why, "");
	assert_int_equal(b.err, 0);
	assert_true(b.manifest.n_layer > 1);

	struct stage_load load = {.n_ranges = 1, .ranges = {{0, b.manifest.n_layer}}, .n_layer = b.manifest.n_layer, .context = 64, .sessions = 1,
				  .n_fds = 1, .n_extents = 1};
	memcpy(load.model, model_a, KEY_BYTES);
	load.fds[0] = open(real_model, O_RDONLY | O_CLOEXEC);
	load.extents = calloc(1, sizeof *load.extents);
	assert_non_null(load.extents);
	load.extents[0].length = (uint64_t)lseek(load.fds[0], 0, SEEK_END);
	assert_int_equal(stage_start(b.stage, &load), 0);
	wait_for(&b, b.state == STAGE_READY || b.state == STAGE_FAILED);
	assert_string_equal(b.why, "");
	struct stage_info info;
	assert_int_equal(stage_info(b.stage, model_a, &info), 0);
	assert_true(info.sandboxed && info.weight_bytes > 100000 && info.kv_bytes > 0);

	render(&b, "Once upon a time");
	assert_int_equal(b.err, 0);
	assert_true(b.n_tokens >= 4);

	struct engine_open open = {.range = {0, b.manifest.n_layer}, .context = 64, .sampling = {.top_p = 1, .repeat_penalty = 1}};
	struct buf frame;
	memcpy(open.session, session_one, SESSION_BYTES);
	buf_init(&frame, FRAME_MAX);
	assert_int_equal(engine_open_encode(&frame, &open), 0);
	assert_int_equal(stage_send(b.stage, model_a, &frame), 0);
	wait_for(&b, b.ready || b.faults);
	assert_string_equal(b.fault.detail, "");

	uint8_t ids[64 * 4];
	struct rows_message m = {.n_blocks = 1};
	for (size_t i = 0; i < b.n_tokens; i++)
		put_u32(ids + 4 * i, (uint32_t)b.rendered[i]);
	m.blocks[0] = (struct rows_block){.count = (uint32_t)b.n_tokens, .want = 1, .encoding = ENCODING_TOKEN, .rows = ids, .rows_length = 4 * b.n_tokens};
	memcpy(m.blocks[0].session, session_one, SESSION_BYTES);
	assert_int_equal(rows_encode(&frame, &m), 0);
	assert_int_equal(stage_send(b.stage, model_a, &frame), 0);
	wait_for(&b, b.tokens || b.faults);
	assert_string_equal(b.fault.detail, "");
	assert_true(b.token > 0);
	close_bench(&b);
}

static void the_real_engine_survives_what_is_no_model(void **state)
{
	struct bench b;
	static const char *const names[] = {"x.gguf"};
	if (!have_real())
		skip();
	open_bench(&b, real_engine, 0);
	int fd = file_with("this is a text, and no model at all, whatever its name says");
	assert_int_equal(stage_inspect(b.stage, &fd, 1, names, 0, on_progress, on_inspected, &b), 0);
	wait_for(&b, b.done);
	assert_int_equal(b.err, ERR_MODEL);
	assert_non_null(strstr(b.why, "x.gguf"));
	close_bench(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_engine_is_started_loaded_and_answers),
		cmocka_unit_test(an_engine_knows_nothing_of_the_daemon_but_descriptor_3),
		cmocka_unit_test(threads_keep_to_cores_where_there_is_one_for_each),
		cmocka_unit_test(other_ranges_replace_the_engine_the_same_ones_do_not),
		cmocka_unit_test(two_models_have_an_engine_each),
		cmocka_unit_test(a_dead_engine_is_told_and_started_anew_by_the_caller),
		cmocka_unit_test(an_engine_killed_from_outside_is_told),
		cmocka_unit_test(an_engine_killed_before_it_read_all_was_killed_and_said_no_nonsense),
		cmocka_unit_test(an_engine_that_dies_three_times_is_quarantined_until_cleared),
		cmocka_unit_test(a_quarantine_of_before_a_restart_goes_on),
		cmocka_unit_test(a_refusal_is_no_crash),
		cmocka_unit_test(a_load_that_hangs_is_ended),
		cmocka_unit_test(an_engine_that_ignores_the_end_is_killed),
		cmocka_unit_test(a_missing_program_is_an_error_at_once),
		cmocka_unit_test(the_largest_frames_go_there_and_back),
		cmocka_unit_test(nothing_is_left_open_whatever_happened),
		cmocka_unit_test(a_rendering_comes_back_is_refused_or_dies_with_the_engine),
		cmocka_unit_test(a_file_is_inspected_once_and_the_engine_ends),
		cmocka_unit_test(crashes_count_within_ten_minutes),
		cmocka_unit_test(an_engine_owes_until_it_answered_or_was_told_to_close),
		cmocka_unit_test(the_real_engine_inspects_loads_and_answers),
		cmocka_unit_test(the_real_engine_survives_what_is_no_model),
	};
	if (!strcmp(argv[0], "essaim-engine"))
		return fake_engine_main(argc, argv);
	if (readlink("/proc/self/exe", own_path, sizeof own_path - 1) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
