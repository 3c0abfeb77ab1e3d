/* server.h: the engine's loop: frames of proto/message.h in, answers out, one model in one process.
 *
 *   INSPECT (files)           -> PROGRESS*, INSPECTED or ENGINE_FAULT
 *   LOAD (files, extents)     -> PROGRESS*, LOADED or ENGINE_FAULT; once a process (again after a fault)
 *   RENDER                    -> RENDERED or ENGINE_FAULT
 *   OPEN (session, stage)     -> READY or FAULT
 *   ROWS, each block          -> ROWS for stage + 1, or TOKENS where the range ends the model, or FAULT; nothing for a duplicate
 *   CLOSE                     -> nothing
 *
 * Every fault is about one session or one request; the process itself ends only when the other side closes, when it
 * breaks the framing, or when libllama aborts.
 *
 * Blocks wait in a line for each session, and blocks of several sessions are computed together (lines.h says which). Frames are read
 * between batches; answers of one session come in the order of its blocks, those of different sessions in any.
 *
 * Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_SERVER_H
#define ENGINE_SERVER_H

#include <stdbool.h>
#include <stddef.h>

struct server_config {
	int fd;                        /* the socketpair; taken */
	const char *gpu;               /* the device that is wanted, as device_open() takes it; NULL: none */
	bool sandboxed;
	char no_device[200];           /* why there is none though it was wanted; "" otherwise */
	bool uneven;                   /* `--check`: lines_init()'s */
	float *logits;                 /* NULL, or memory shared with `--check`: the last wanted row goes here */
	size_t n_logits;
};

/* "llama 0.7.0 q1a2b3c4 cpu": library, quirk table, back end. */
void server_engine_name(char *out, size_t size);

/* Until the other side closes: 0, or why it ended. */
int server_run(const struct server_config *config);

#endif
