/* engine_io.c: frames in and out of an engine's socketpair, with descriptors at a frame's first byte.
 *
 * A uv_poll_t and plain system calls: libuv's pipes cannot send several descriptors with a byte. What the engine does
 * not take at once waits in a queue.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/stage/stage_internal.h"

#define READ_BYTES (256u << 10)
#define READS_A_TURN 16              /* then others get their turn on the loop */

struct engine_out {
	struct engine_out *next;
	struct buf frame;
	size_t at;                   /* bytes written */
	size_t n_fds;                /* not sent yet */
	int fds[MODEL_FILES_MAX];
};

static void free_out(struct engine_out *out)
{
	for (size_t i = 0; i < out->n_fds; i++)
		close(out->fds[i]);
	buf_release(&out->frame);
	free(out);
}

static void end(struct engine_io *io, int err)
{
	if (io->ended)
		return;
	io->ended = true;
	uv_poll_stop(&io->poll);
	io->on_end(io->owner, err);
}

static int on_ready_events(const struct engine_io *io)
{
	return UV_READABLE | UV_DISCONNECT | (io->first ? UV_WRITABLE : 0);
}

/* --- out -------------------------------------------------------------------------------------------- */

/* Writes what the socket takes: 0 when something waits or all is written. */
static int write_some(struct engine_io *io)
{
	while (io->first) {
		struct engine_out *out = io->first;
		union {
			struct cmsghdr header;
			char bytes[CMSG_SPACE(sizeof out->fds)];
		} control;
		struct iovec part = {out->frame.data + out->at, out->frame.length - out->at};
		struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
		if (out->n_fds) {
			memset(&control, 0, sizeof control);
			message.msg_control = &control;
			message.msg_controllen = CMSG_SPACE(out->n_fds * sizeof(int));
			struct cmsghdr *c = CMSG_FIRSTHDR(&message);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(out->n_fds * sizeof(int));
			memcpy(CMSG_DATA(c), out->fds, out->n_fds * sizeof(int));
		}
		ssize_t n = sendmsg(io->fd, &message, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n < 0)
			return -errno;
		for (size_t i = 0; i < out->n_fds; i++)
			close(out->fds[i]);
		out->n_fds = 0;          /* they went with the first byte */
		out->at += (size_t)n;
		io->queued -= (size_t)n;
		if (out->at < out->frame.length)
			continue;
		io->first = out->next;
		if (!io->first)
			io->last = NULL;
		free_out(out);
	}
	return 0;
}

static void on_poll(uv_poll_t *poll, int status, int events);

int engine_io_send(struct engine_io *io, struct buf *frame, const int *fds, size_t n_fds)
{
	struct engine_out *out = NULL;
	int err = 0;
	if (io->fd < 0 || io->ended)
		err = ERR_ENGINE;
	else if (n_fds > MODEL_FILES_MAX)
		err = ERR_LIMIT;
	else if (frame->length > ENGINE_QUEUE_MAX - io->queued)
		err = ERR_BUSY;
	else if (!(out = calloc(1, sizeof *out)))
		err = -ENOMEM;
	if (err) {
		for (size_t i = 0; i < n_fds; i++)
			close(fds[i]);
		buf_release(frame);
		return err;
	}
	buf_move(&out->frame, frame);
	memcpy(out->fds, fds ? fds : out->fds, n_fds * sizeof *fds);
	out->n_fds = n_fds;
	io->queued += out->frame.length;
	bool waited = io->first;
	if (io->last)
		io->last->next = out;
	else
		io->first = out;
	io->last = out;
	if (waited)
		return 0;
	/* An error to write is found again, and told, by the reading side. */
	if (write_some(io) || io->first)
		uv_poll_start(&io->poll, on_ready_events(io), on_poll);
	return 0;
}

/* --- in --------------------------------------------------------------------------------------------- */

/* All whole frames that are there. */
static int take_frames(struct engine_io *io)
{
	size_t at = 0;
	int err = 0;
	while (io->fd >= 0 && !err) {
		struct frame frame;
		size_t used;
		err = frame_decode(io->in.data + at, io->in.length - at, &frame, &used);
		if (err)
			break;
		at += used;
		io->on_frame(io->owner, &frame);
	}
	buf_consume(&io->in, at);
	return err == -EAGAIN ? 0 : err;
}

/* 1: more may be there. 0: nothing just now. Negative: the end. ERR_CANCELLED: the other side closed; where it died before
 * it had read all that we sent, the kernel calls that ECONNRESET, once everything that it said has been read. */
static int read_some(struct engine_io *io)
{
	uint8_t *at = buf_reserve(&io->in, READ_BYTES);
	if (!at)
		return -ENOMEM;
	ssize_t n = recv(io->fd, at, READ_BYTES, 0);
	if (n < 0)
		return errno == EINTR ? 1 : errno == EAGAIN || errno == EWOULDBLOCK ? 0 : errno == ECONNRESET ? ERR_CANCELLED : -errno;
	if (n == 0)
		return ERR_CANCELLED;
	buf_grow(&io->in, (size_t)n);
	int err = take_frames(io);
	return err ? err : (size_t)n == READ_BYTES;
}

void engine_io_drain(struct engine_io *io)
{
	int more = 1;
	while (io->fd >= 0 && !io->ended && more > 0)
		more = read_some(io);
	if (io->fd >= 0)
		end(io, more == ERR_CANCELLED ? 0 : more);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct engine_io *io = poll->data;
	int more = 1;
	if (io->fd < 0 || io->ended)
		return;
	if (events & UV_WRITABLE) {
		bool waited = io->first;
		if (!write_some(io) && waited && !io->first)
			uv_poll_start(&io->poll, on_ready_events(io), on_poll);
	}
	if (!(events & (UV_READABLE | UV_DISCONNECT)) && status >= 0)
		return;
	for (int i = 0; i < READS_A_TURN && io->fd >= 0 && !io->ended && more > 0; i++)
		more = read_some(io);
	if (io->fd >= 0 && more < 0)
		end(io, more == ERR_CANCELLED ? 0 : more);
}

/* --- life ------------------------------------------------------------------------------------------- */

int engine_io_open(struct engine_io *io, uv_loop_t *loop, int fd)
{
	io->fd = fd;
	io->ended = false;
	io->first = io->last = NULL;
	io->queued = 0;
	buf_init(&io->in, FRAME_MAX + READ_BYTES);
	int err = uv_poll_init(loop, &io->poll, fd);       /* makes it non-blocking */
	if (err) {
		close(fd);
		io->fd = -1;
		return err;
	}
	io->poll.data = io;
	return uv_poll_start(&io->poll, on_ready_events(io), on_poll);
}

static void on_poll_closed(uv_handle_t *handle)
{
	struct engine_io *io = handle->data;
	while (io->first) {
		struct engine_out *out = io->first;
		io->first = out->next;
		free_out(out);
	}
	buf_release(&io->in);
	io->on_closed(io->owner);
}

void engine_io_close(struct engine_io *io)
{
	if (io->fd < 0)
		return;
	uv_poll_stop(&io->poll);
	close(io->fd);
	io->fd = -1;
	uv_close((uv_handle_t *)&io->poll, on_poll_closed);
}
