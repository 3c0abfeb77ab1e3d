/* engine_driver.h: essaim-engine as a program over a socketpair, for tests that drive one as essaimd does. Failures end the test.
 *
 * The program is $ESSAIM_ENGINE, or engine/essaim-engine below the build folder; $ESSAIM_TEST_LOG is its log level.
 *
 * Owner: the test's storage. Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_UNIT_ENGINE_DRIVER_H
#define TESTS_UNIT_ENGINE_DRIVER_H

#include <sys/types.h>

#include "engine/wire.h"
#include "proto/message.h"
#include "tests/unit/tiny_model.h"

#define CONTEXT 256
#define PROMPT 45         /* two chunks */

struct engine {
	pid_t pid;
	struct wire wire;
	struct buf out;
	struct frame frame;
	uint64_t sequence;         /* of the next block, where a test has one session on it */
};

struct ids {
	uint8_t session;
	uint32_t epoch, stage;
	uint64_t sequence;
	uint32_t position, count, want;
};

const char *program(void);
void engine_start(struct engine *e, const char *memory_max);
/* The engine ends by itself when its descriptor closes. Its exit status, or -1 when a signal ended it. */
int engine_stop(struct engine *e);
void post(struct engine *e);
/* The next frame, past PROGRESS, is of this type. */
void expect(struct engine *e, enum frame_type type);
struct engine_fault expect_engine_fault(struct engine *e, int code);
struct fault_message expect_fault(struct engine *e, int code);
/* Takes fd. */
void post_load(struct engine *e, int fd, const struct engine_load *load);
/* All of the file is verified: one extent. */
struct engine_load load_of(const struct layer_range *ranges, size_t n, uint32_t n_layer, uint32_t sessions, int fd, struct model_extent *extent);
struct engine_loaded load(struct engine *e, const struct tiny_model *model, const struct layer_range *ranges, size_t n, uint32_t sessions);
void post_open(struct engine *e, uint8_t session, uint32_t epoch, uint32_t stage, struct layer_range range, const struct sampling *sampling);
void open_stage(struct engine *e, uint8_t session, uint32_t epoch, uint32_t stage, struct layer_range range, const struct sampling *sampling);
void post_ids(struct engine *e, struct ids i, const int32_t *ids);
void post_floats(struct engine *e, struct ids i, const float *rows, uint32_t width);
/* What one engine answered goes to the next as it is: a ROWS frame says stage + 1 already. */
void forward(struct engine *from, struct engine *to);
/* Until the next call. */
struct tokens_message *tokens(struct engine *e);
/* CONTEXT ids. */
const int32_t *prompt(void);

#endif
