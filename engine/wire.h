/* wire.h: frames and descriptors over a unix stream socket, blocking. Both ends: the engine, and whoever drives one without
 * an event loop (`--check`, tests).
 *
 * Descriptors (SCM_RIGHTS) come with the first byte of the frame that they belong to; the kernel never joins bytes from
 * before and after a set of them in one recvmsg(), so order is kept.
 *
 * Owner: the caller's storage. Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_WIRE_H
#define ENGINE_WIRE_H

#include "proto/frame.h"

#define WIRE_FDS_MAX 128

struct wire {
	int fd;
	struct buf in;
	size_t consumed;          /* of in: the frame that wire_next() gave last */
	int fds[WIRE_FDS_MAX];    /* received, not taken yet */
	size_t n_fds;
};

void wire_init(struct wire *wire, int fd);
void wire_release(struct wire *wire);             /* closes fd and what was not taken */
/* The next frame; its bytes last until the next call. ERR_CANCELLED: the other side closed; others end the connection. */
int wire_next(struct wire *wire, struct frame *out);
/* The same without waiting: -EAGAIN when no whole frame is there. */
int wire_try(struct wire *wire, struct frame *out);
/* Waits for more bytes: false when none came in time. */
bool wire_wait(const struct wire *wire, int64_t microseconds);
/* The first n descriptors that came; they are the caller's now. ERR_MALFORMED: fewer came (none are taken). */
int wire_take_fds(struct wire *wire, int *out, size_t n);
/* All of a buffer, then clears it. */
int wire_send(struct wire *wire, struct buf *frame, const int *fds, size_t n_fds);

#endif
