/* fuzz_frame.c: a stream of frames, cut into pieces as a socket would.
 *
 * The first byte says how the stream is cut, the rest is the stream. What must hold:
 *   - the frames and the final error are the same however the stream is cut, and no piece changes a verdict;
 *   - "not all there yet" is said only while the header is acceptable;
 *   - a decoded frame, encoded again, is the same bytes, and nothing else.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <string.h>

#include "proto/err.h"
#include "proto/frame.h"
#include "tests/fuzz/fuzz.h"

struct outcome {
	unsigned frames;
	size_t bytes;   /* of whole frames */
	int err;        /* -EAGAIN: the stream ended well */
};

static void check_frame(const struct frame *f, const uint8_t *bytes, size_t used)
{
	must(used >= FRAME_HEADER && used <= FRAME_MAX);
	must(used == FRAME_HEADER + f->head_length + f->tail_length);
	must(f->head_length <= FRAME_HEAD_MAX && f->tail_length <= FRAME_TAIL_MAX);
	must(f->head == bytes + FRAME_HEADER && f->tail == f->head + f->head_length);
	must(f->type != 0 && f->flags == 0);

	struct buf again;
	buf_init(&again, used);
	must(frame_encode(&again, f->type, f->head, f->head_length, f->tail, f->tail_length) == 0);
	must(again.length == used && !memcmp(again.data, bytes, used));
	must(frame_encode(&again, FRAME_PING, NULL, 0, NULL, 0) == ERR_LIMIT && again.length == used);
	buf_release(&again);
}

/* Hands the stream over in pieces of at most `piece` bytes, and takes frames out as a link does. */
static struct outcome feed(const uint8_t *bytes, size_t n, size_t piece)
{
	struct outcome outcome = { .err = -EAGAIN };
	struct buf in;
	buf_init(&in, FRAME_MAX + n);
	for (size_t at = 0; at < n && outcome.err == -EAGAIN; at += piece) {
		must(buf_append(&in, bytes + at, n - at < piece ? n - at : piece) == 0);
		for (;;) {
			struct frame f;
			size_t used;
			outcome.err = frame_decode(in.data, in.length, &f, &used);
			if (outcome.err)
				break;
			check_frame(&f, in.data, used);
			outcome.frames++;
			outcome.bytes += used;
			buf_consume(&in, used);
		}
		must(outcome.err == -EAGAIN || outcome.err == ERR_LIMIT || outcome.err == ERR_MALFORMED);
	}
	buf_release(&in);
	return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n == 0 || n > 4096)
		return 0; /* longer streams say nothing new and are slow byte by byte */
	size_t piece = 1 + *data;
	struct outcome whole = feed(data + 1, n - 1, n);
	struct outcome pieces = feed(data + 1, n - 1, piece);
	struct outcome single = feed(data + 1, n - 1, 1);
	must(whole.frames == pieces.frames && whole.bytes == pieces.bytes && whole.err == pieces.err);
	must(whole.frames == single.frames && whole.bytes == single.bytes && whole.err == single.err);
	return 0;
}
