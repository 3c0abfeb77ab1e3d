/* stage_internal.h: what the files of stage/ share; nobody else includes it.
 *
 *   stage.c       models and their engines: start, replace, stop, state
 *   requests.c    rendering and inspecting: one question, one answer
 *   spawn.c       a process with nothing but descriptor 3
 *   engine_io.c   frames in and out, descriptors with them
 *   watch.c       who owes an answer; how often a model's engine died (pure)
 *
 * An engine (a process) and a resident (a model) are two things: a model may wait for its old engine to end before its
 * new one starts, and an inspection has an engine without a model. An inspection reads what nobody has approved, so it never gets the
 * device.
 *
 * Thread: loop. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef STAGE_STAGE_INTERNAL_H
#define STAGE_STAGE_INTERNAL_H

#include "daemon/stage/stage.h"
#include "daemon/stage/watch.h"

#define TICK_MS 250
#define HELLO_MS 60000                 /* back ends may look for devices for a while */
#define TERM_MS 2000                   /* from SIGTERM to SIGKILL */
#define HANG_SECONDS 120
#define ENGINE_QUEUE_MAX (256u << 20)  /* bytes waiting for one engine to read them */
#define RENDERS_MAX 256                /* waiting for one engine */

/* --- engine_io.c ------------------------------------------------------------------------------------- */

struct engine_out;
struct engine_io {
	uv_poll_t poll;
	int fd;                        /* -1 once closing */
	bool ended;                    /* the other side is gone; on_end was called */
	struct buf in;
	struct engine_out *first, *last;
	size_t queued;
	void (*on_frame)(void *owner, const struct frame *frame);
	void (*on_end)(void *owner, int err);      /* once: 0 when the other side closed */
	void (*on_closed)(void *owner);            /* after engine_io_close(); the storage is the owner's again */
	void *owner;
};
/* Takes fd, also when it fails. */
int engine_io_open(struct engine_io *io, uv_loop_t *loop, int fd);
/* Takes the frame and the descriptors always. ERR_BUSY: the engine does not read. */
int engine_io_send(struct engine_io *io, struct buf *frame, const int *fds, size_t n_fds);
void engine_io_drain(struct engine_io *io);        /* reads what is still there, at the end of a process */
void engine_io_close(struct engine_io *io);        /* idempotent */

/* --- spawn.c ----------------------------------------------------------------------------------------- */

/* all_cores: it computes with as many threads as there are cores. *fd is our end of the socketpair, close-on-exec. why: a sentence with a remedy. */
int engine_spawn(const char *path, uint64_t data_limit, const char *gpu, bool all_cores, pid_t *pid, int *fd, char *why, size_t why_size);

/* --- stage.c ----------------------------------------------------------------------------------------- */

struct resident;
struct inspection;
struct render {
	struct render *next;
	uint32_t request;
	void (*done)(void *arg, int err, const int32_t *tokens, size_t n, const char *why);     /* one of the two */
	void (*done_text)(void *arg, int err, const struct engine_rendered *rendered, const char *why);
	void *arg;
};

struct engine {
	struct engine *next;
	struct stage *stage;
	struct resident *resident;     /* NULL: none any more, or an inspection's */
	struct inspection *inspection; /* NULL: none any more, or a model's */
	bool looks;                    /* it has neither: only what it says of the device is wanted */
	pid_t pid;
	bool exited, io_closed, stopping, said_hello;
	int exit_status;               /* as waitpid() gives it */
	char fault[400];               /* the last ENGINE_FAULT about the whole or the load */
	uint64_t deadline;             /* loop ms: HELLO until then; SIGKILL then when stopping. 0: none */
	uint64_t progress_at;          /* loop ms: it last said something, or began to owe */
	bool hung;
	char name[NAME_SIZE];
	bool sandboxed;
	struct engine_io io;
};

struct resident {
	struct resident *next;
	uint8_t model[KEY_BYTES];
	struct stage_info info;
	struct engine *engine;         /* NULL: none */
	bool load_waits;               /* load is to be given to the next engine */
	struct stage_load load;
	uint32_t load_request;         /* 0: none under way */
	struct owed owed;
	struct render *renders;
	size_t n_renders;
	struct crashes crashes;
};

struct stage {
	struct stage_config config;
	char *engine_path, *gpu;
	struct stage_device device;
	uv_signal_t sigchld;
	uv_timer_t timer;
	unsigned open_handles;
	struct resident *residents;
	struct engine *engines;
	uint32_t last_request;
	char engine_name[NAME_SIZE];
	bool closing;
	void (*on_closed)(void *arg);
	void *closed_arg;
};

int engine_new(struct stage *stage, uint64_t data_limit, const char *gpu, struct engine **out, char *why, size_t why_size);
void engine_stop(struct engine *engine);               /* SIGTERM and end of file; SIGKILL later */
uint32_t stage_next_request(struct stage *stage);
struct resident *stage_find(const struct stage *stage, const uint8_t model[KEY_BYTES]);

/* requests.c */
int render_on_frame(struct resident *r, const struct frame *frame);     /* what the decoder says */
bool render_on_fault(struct resident *r, const struct engine_fault *fault);    /* false: not one of its requests */
void render_fail_all(struct resident *r, int err, const char *why);
void inspection_on_hello(struct engine *engine);
void inspection_on_frame(struct engine *engine, const struct frame *frame);
void inspection_fail(struct engine *engine, int err, const char *why);         /* no-op when it was answered */

#endif
