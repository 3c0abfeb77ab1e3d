/* message_heads.h: how message.c, message_engine.c and gateway.c write and read a frame's head.
 *
 * Only for these files. Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_MESSAGE_HEADS_H
#define PROTO_MESSAGE_HEADS_H

#include "proto/message.h"
#include "proto/pack.h"

/* One head being written. */
struct head_writer {
	struct buf bytes;
	struct pack_writer w;
};
void head_begin(struct head_writer *head, size_t pairs);
/* Appends the frame, or nothing, and releases the head. */
int head_end(struct head_writer *head, struct buf *out, enum frame_type type, const void *tail, size_t tail_length);

/* One head being read. Every head is a map. */
struct head_reader {
	struct pack_doc doc;
	struct pack_cursor c;
	int err;
};
/* ERR_MALFORMED for another type, and for a tail where this type has none. On failure there is nothing to end. */
int head_open(struct head_reader *head, const struct frame *f, enum frame_type type, bool with_tail);
int head_close(struct head_reader *head);      /* releases; the sticky error */

#endif
