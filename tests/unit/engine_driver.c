/* engine_driver.c: see engine_driver.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tests/unit/engine_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

const char *program(void)
{
	const char *path = getenv("ESSAIM_ENGINE");

	return path ? path : "engine/essaim-engine";
}

void engine_start(struct engine *e, const char *memory_max)
{
	int pair[2];

	memset(e, 0, sizeof *e);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	e->pid = fork();
	assert_true(e->pid >= 0);
	if (e->pid == 0) {
		if (pair[1] == 3)
			fcntl(3, F_SETFD, 0);
		else
			dup2(pair[1], 3);
		/* tests make many faults on purpose; $ESSAIM_TEST_LOG shows more */
		const char *quiet = getenv("ESSAIM_TEST_LOG");

		if (memory_max)
			execl(program(), "essaim-engine", "--log-level", "error", "--memory-max", memory_max, NULL);
		else
			execl(program(), "essaim-engine", "--log-level", quiet ? quiet : "error", NULL);
		_exit(127);
	}
	close(pair[1]);
	wire_init(&e->wire, pair[0]);
	buf_init(&e->out, FRAME_MAX);
	assert_int_equal(wire_next(&e->wire, &e->frame), 0);
	assert_int_equal(e->frame.type, FRAME_ENGINE_HELLO);
}

int engine_stop(struct engine *e)
{
	int status;

	wire_release(&e->wire);
	buf_release(&e->out);
	assert_int_equal(waitpid(e->pid, &status, 0), e->pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void post(struct engine *e)
{
	assert_int_equal(wire_send(&e->wire, &e->out, NULL, 0), 0);
}

void expect(struct engine *e, enum frame_type type)
{
	do
		assert_int_equal(wire_next(&e->wire, &e->frame), 0);
	while (e->frame.type == FRAME_ENGINE_PROGRESS && type != FRAME_ENGINE_PROGRESS);
	if (e->frame.type == FRAME_ENGINE_FAULT && type != FRAME_ENGINE_FAULT) {
		struct engine_fault fault;

		assert_int_equal(engine_fault_decode(&e->frame, &fault), 0);
		print_error("engine fault %d: %s\n", fault.code, fault.detail);
	}
	if (e->frame.type == FRAME_FAULT && type != FRAME_FAULT) {
		struct fault_message fault;

		assert_int_equal(fault_decode(&e->frame, &fault), 0);
		print_error("fault %d: %s\n", fault.code, fault.detail);
	}
	assert_int_equal(e->frame.type, type);
}

struct engine_fault expect_engine_fault(struct engine *e, int code)
{
	struct engine_fault fault;

	expect(e, FRAME_ENGINE_FAULT);
	assert_int_equal(engine_fault_decode(&e->frame, &fault), 0);
	if (fault.code != code)
		print_error("%s\n", fault.detail);
	assert_int_equal(fault.code, code);
	assert_true(fault.detail[0]);
	return fault;
}

struct fault_message expect_fault(struct engine *e, int code)
{
	struct fault_message fault;

	expect(e, FRAME_FAULT);
	assert_int_equal(fault_decode(&e->frame, &fault), 0);
	if (fault.code != code)
		print_error("%s\n", fault.detail);
	assert_int_equal(fault.code, code);
	return fault;
}

/* --- requests -------------------------------------------------------------------------------------- */

void post_load(struct engine *e, int fd, const struct engine_load *load)
{
	assert_int_equal(engine_load_encode(&e->out, load), 0);
	assert_int_equal(wire_send(&e->wire, &e->out, &fd, 1), 0);
	close(fd);
}

struct engine_load load_of(const struct layer_range *ranges, size_t n, uint32_t n_layer, uint32_t sessions, int fd,
				  struct model_extent *extent)
{
	struct engine_load m = { .request = 9, .n_files = 1, .n_ranges = n, .n_layer = n_layer, .context = CONTEXT, .sessions = sessions,
				 .threads = 1, .n_extents = 1, .extents = extent };
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	*extent = (struct model_extent){ .length = (uint64_t)st.st_size };
	memcpy(m.ranges, ranges, n * sizeof *ranges);
	return m;
}

struct engine_loaded load(struct engine *e, const struct tiny_model *model, const struct layer_range *ranges, size_t n, uint32_t sessions)
{
	int fd = tiny_model_open(model);
	struct engine_loaded loaded;
	struct model_extent extent;
	struct engine_load m = load_of(ranges, n, model->n_layer, sessions, fd, &extent);

	post_load(e, fd, &m);
	expect(e, FRAME_ENGINE_LOADED);
	assert_int_equal(engine_loaded_decode(&e->frame, &loaded), 0);
	assert_int_equal(loaded.request, 9);
	return loaded;
}

void post_open(struct engine *e, uint8_t session, uint32_t epoch, uint32_t stage, struct layer_range range, const struct sampling *sampling)
{
	struct engine_open m = { .session = { session }, .epoch = epoch, .stage = stage, .range = range, .context = CONTEXT,
				 .sampling = { .top_p = 1, .repeat_penalty = 1, .ignore_end = true } };

	if (sampling)
		m.sampling = *sampling;
	assert_int_equal(engine_open_encode(&e->out, &m), 0);
	post(e);
}

void open_stage(struct engine *e, uint8_t session, uint32_t epoch, uint32_t stage, struct layer_range range, const struct sampling *sampling)
{
	struct ready_message ready;

	post_open(e, session, epoch, stage, range, sampling);
	expect(e, FRAME_READY);
	assert_int_equal(ready_decode(&e->frame, &ready), 0);
	assert_int_equal(ready.session[0], session);
	assert_int_equal(ready.stage, stage);
	assert_int_equal(ready.epoch, epoch);
}

void post_ids(struct engine *e, struct ids i, const int32_t *ids)
{
	uint8_t bytes[CHUNK_ROWS * 4];
	struct rows_message m = { .n_blocks = 1 };

	for (uint32_t k = 0; k < i.count; k++)
		put_u32(bytes + 4 * k, (uint32_t)ids[k]);
	m.blocks[0] = (struct rows_block){ .session = { i.session }, .epoch = i.epoch, .stage = i.stage, .sequence = i.sequence,
					   .position = i.position, .count = i.count, .want = i.want, .encoding = ENCODING_TOKEN,
					   .rows = bytes, .rows_length = i.count * 4 };
	assert_int_equal(rows_encode(&e->out, &m), 0);
	post(e);
}

void post_floats(struct engine *e, struct ids i, const float *rows, uint32_t width)
{
	struct rows_message m = { .n_blocks = 1 };

	m.blocks[0] = (struct rows_block){ .session = { i.session }, .epoch = i.epoch, .stage = i.stage, .sequence = i.sequence,
					   .position = i.position, .count = i.count, .want = i.want, .encoding = ENCODING_F32,
					   .rows = (const uint8_t *)rows, .rows_length = (size_t)i.count * width * 4 };
	assert_int_equal(rows_encode(&e->out, &m), 0);
	post(e);
}

void forward(struct engine *from, struct engine *to)
{
	expect(from, FRAME_ROWS);
	assert_int_equal(frame_encode(&to->out, from->frame.type, from->frame.head, from->frame.head_length, from->frame.tail,
				      from->frame.tail_length), 0);
	post(to);
}

struct tokens_message *tokens(struct engine *e)
{
	static struct tokens_message m;

	expect(e, FRAME_TOKENS);
	assert_int_equal(tokens_decode(&e->frame, &m), 0);
	return &m;
}

const int32_t *prompt(void)
{
	static int32_t ids[CONTEXT];

	for (int i = 0; i < CONTEXT; i++)
		ids[i] = (i * 37 + 11) % TINY_VOCAB;
	return ids;
}
