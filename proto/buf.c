/* buf.c: bytes with an owner and a maximum.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define CAPACITY_FIRST 64

void buf_init(struct buf *buf, size_t max)
{
	/* One byte is kept for the NUL of buf_cstr(), which does not count. */
	*buf = (struct buf){ .max = max < SIZE_MAX ? max : SIZE_MAX - 1 };
}

void buf_release(struct buf *buf)
{
	free(buf->data);
	buf->data = NULL;
	buf->length = buf->capacity = 0;
	buf->lost = false;
}

void buf_clear(struct buf *buf)
{
	buf->length = 0;
	buf->lost = false;
}

/* Memory for n more bytes, which count towards max, and for a NUL behind them when nul is 1. */
static int find_room(struct buf *buf, size_t n, size_t nul)
{
	if (n > buf->max - buf->length)
		return ERR_LIMIT;

	size_t need = buf->length + n + nul;
	if (need <= buf->capacity && buf->data)
		return 0;

	/* Doubling, so that appending is linear in all, but never past what max can use. */
	size_t most = buf->max + 1;
	size_t capacity = buf->capacity ? buf->capacity : CAPACITY_FIRST;
	while (capacity < need)
		capacity = capacity > most / 2 ? most : capacity * 2;
	if (capacity > most)
		capacity = most;

	uint8_t *data = realloc(buf->data, capacity);
	if (!data)
		return -ENOMEM;
	buf->data = data;
	buf->capacity = capacity;
	return 0;
}

static int make_room(struct buf *buf, size_t n, size_t nul)
{
	int err = find_room(buf, n, nul);
	if (err)
		buf->lost = true;
	return err;
}

int buf_append(struct buf *buf, const void *bytes, size_t n)
{
	if (n == 0)
		return 0;
	int err = make_room(buf, n, 0);
	if (err)
		return err;
	memcpy(buf->data + buf->length, bytes, n);
	buf->length += n;
	return 0;
}

int buf_append_str(struct buf *buf, const char *text)
{
	return buf_append(buf, text, strlen(text));
}

int buf_printf(struct buf *buf, const char *format, ...)
{
	va_list args, again;
	va_start(args, format);
	va_copy(again, args);

	int err = ERR_MALFORMED;
	int n = vsnprintf(NULL, 0, format, args);
	if (n < 0)
		goto out;
	err = make_room(buf, (size_t)n, 1);
	if (err)
		goto out;
	vsnprintf((char *)buf->data + buf->length, (size_t)n + 1, format, again);
	buf->length += (size_t)n;
out:
	va_end(again);
	va_end(args);
	return err;
}

uint8_t *buf_reserve(struct buf *buf, size_t n)
{
	return make_room(buf, n, 0) ? NULL : buf->data + buf->length;
}

void buf_grow(struct buf *buf, size_t n)
{
	assert(n <= buf->capacity - buf->length && n <= buf->max - buf->length);
	buf->length += n;
}

void buf_consume(struct buf *buf, size_t n)
{
	assert(n <= buf->length);
	if (n == 0)
		return;
	buf->length -= n;
	memmove(buf->data, buf->data + n, buf->length);
}

void buf_move(struct buf *to, struct buf *from)
{
	if (to == from)
		return;
	buf_release(to);
	*to = *from;
	buf_init(from, from->max);
}

const char *buf_cstr(struct buf *buf)
{
	if (make_room(buf, 0, 1))
		return NULL;
	buf->data[buf->length] = '\0';
	return (const char *)buf->data;
}
