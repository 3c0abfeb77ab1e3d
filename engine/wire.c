/* wire.c: see wire.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/err.h"

#define READ_SIZE (256u << 10)

void wire_init(struct wire *wire, int fd)
{
	memset(wire, 0, sizeof *wire);
	wire->fd = fd;
	buf_init(&wire->in, FRAME_MAX + READ_SIZE);
}

void wire_release(struct wire *wire)
{
	for (size_t i = 0; i < wire->n_fds; i++)
		close(wire->fds[i]);
	wire->n_fds = 0;
	buf_release(&wire->in);
	if (wire->fd >= 0)
		close(wire->fd);
	wire->fd = -1;
}

static int take_control(struct wire *wire, struct msghdr *message)
{
	int err = message->msg_flags & MSG_CTRUNC ? ERR_LIMIT : 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (wire->n_fds < WIRE_FDS_MAX) {
				wire->fds[wire->n_fds++] = fd;
			} else {
				close(fd);
				err = ERR_LIMIT;
			}
		}
	}
	return err;
}

static int receive(struct wire *wire, int flags)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
	} control;
	struct iovec part = { .iov_len = READ_SIZE };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes };
	ssize_t n;
	int err;

	part.iov_base = buf_reserve(&wire->in, READ_SIZE);
	if (!part.iov_base)
		return -ENOMEM;
	do
		n = recvmsg(wire->fd, &message, MSG_CMSG_CLOEXEC | flags);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? ERR_CANCELLED : -errno;
	err = take_control(wire, &message);
	if (err)
		return err;
	if (n == 0)
		return ERR_CANCELLED;
	buf_grow(&wire->in, (size_t)n);
	return 0;
}

static int next(struct wire *wire, struct frame *out, int flags)
{
	int err;

	buf_consume(&wire->in, wire->consumed);
	wire->consumed = 0;
	for (;;) {
		err = frame_decode(wire->in.data, wire->in.length, out, &wire->consumed);
		if (err != -EAGAIN)
			break;
		wire->consumed = 0;
		err = receive(wire, flags);
		if (err)
			break;
	}
	if (err)
		wire->consumed = 0;
	return err;
}

int wire_next(struct wire *wire, struct frame *out)
{
	return next(wire, out, 0);
}

int wire_try(struct wire *wire, struct frame *out)
{
	return next(wire, out, MSG_DONTWAIT);
}

bool wire_wait(const struct wire *wire, int64_t microseconds)
{
	struct pollfd p = { .fd = wire->fd, .events = POLLIN };
	const struct timespec most = { .tv_sec = microseconds / 1000000, .tv_nsec = microseconds % 1000000 * 1000 };

	return ppoll(&p, 1, &most, NULL) > 0;
}

int wire_take_fds(struct wire *wire, int *out, size_t n)
{
	if (n > wire->n_fds)
		return ERR_MALFORMED;
	memcpy(out, wire->fds, n * sizeof *out);
	wire->n_fds -= n;
	memmove(wire->fds, wire->fds + n, wire->n_fds * sizeof *wire->fds);
	return 0;
}

int wire_send(struct wire *wire, struct buf *frame, const int *fds, size_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
	} control = { .bytes = { 0 } };
	size_t done = 0;

	if (n_fds > WIRE_FDS_MAX)
		return ERR_LIMIT;
	while (done < frame->length) {
		struct iovec part = { .iov_base = frame->data + done, .iov_len = frame->length - done };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
		ssize_t n;

		if (done == 0 && n_fds) {
			struct cmsghdr *c;

			message.msg_control = control.bytes;
			message.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
			c = CMSG_FIRSTHDR(&message);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
			memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
		}
		n = sendmsg(wire->fd, &message, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EPIPE || errno == ECONNRESET ? ERR_CANCELLED : -errno;
		done += (size_t)n;
	}
	buf_clear(frame);
	return 0;
}
