/* frame.c: the header of twelve bytes, checked as far as it has arrived.
 *
 * A wrong length is refused with the first four bytes: nobody reserves memory for a frame that will be refused.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/frame.h"

#include <errno.h>

#include "proto/err.h"

#define LENGTH_FIELD 4 /* bytes of the length, which it does not count itself */

int frame_decode(const uint8_t *bytes, size_t n, struct frame *out, size_t *used)
{
	*out = (struct frame){ 0 };
	*used = 0;

	if (n < LENGTH_FIELD)
		return -EAGAIN;
	size_t length = get_u32(bytes);
	if (length > FRAME_MAX - LENGTH_FIELD)
		return ERR_LIMIT;
	if (length < FRAME_HEADER - LENGTH_FIELD)
		return ERR_MALFORMED;

	if (n > 4 && bytes[4] == 0)
		return ERR_MALFORMED; /* no type */
	if (n > 5 && bytes[5] != 0)
		return ERR_MALFORMED; /* flags of a later version, which it may not send to this one */
	if ((n > 6 && bytes[6] != 0) || (n > 7 && bytes[7] != 0))
		return ERR_MALFORMED; /* reserved */
	if (n < FRAME_HEADER)
		return -EAGAIN;

	size_t head_length = get_u32(bytes + 8);
	size_t body = length - (FRAME_HEADER - LENGTH_FIELD);
	if (head_length > FRAME_HEAD_MAX)
		return ERR_LIMIT;
	if (head_length > body)
		return ERR_MALFORMED;
	if (body - head_length > FRAME_TAIL_MAX)
		return ERR_LIMIT;
	if (n < LENGTH_FIELD + length)
		return -EAGAIN;

	*out = (struct frame){
		.type = bytes[4],
		.flags = bytes[5],
		.head = bytes + FRAME_HEADER,
		.head_length = head_length,
		.tail = bytes + FRAME_HEADER + head_length,
		.tail_length = body - head_length,
	};
	*used = LENGTH_FIELD + length;
	return 0;
}

int frame_encode(struct buf *out, enum frame_type type, const void *head, size_t head_length, const void *tail,
		 size_t tail_length)
{
	if (head_length > FRAME_HEAD_MAX || tail_length > FRAME_TAIL_MAX)
		return ERR_LIMIT;
	if (type < 1 || type > UINT8_MAX)
		return ERR_MALFORMED;

	/* Room for everything first: either the whole frame is appended or nothing. */
	size_t size = FRAME_HEADER + head_length + tail_length;
	if (size > out->max - out->length)
		return ERR_LIMIT;
	if (!buf_reserve(out, size))
		return -ENOMEM;

	uint8_t header[FRAME_HEADER] = { 0 };
	put_u32(header, (uint32_t)(size - LENGTH_FIELD));
	header[4] = (uint8_t)type;
	put_u32(header + 8, (uint32_t)head_length);

	int err = buf_append(out, header, sizeof(header));
	if (!err)
		err = buf_append(out, head, head_length);
	if (!err)
		err = buf_append(out, tail, tail_length);
	return err;
}
