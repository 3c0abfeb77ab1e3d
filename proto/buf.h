/* buf.h: bytes with an owner and a maximum.
 *
 * Every size that comes from a peer, a file or a model passes through one of these: growing past max
 * is ERR_LIMIT, running out of memory is -ENOMEM, and both leave the contents as they were.
 * Owner: the caller's storage. Thread: one at a time.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_BUF_H
#define PROTO_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data;   /* heap; NULL while capacity is 0 */
	size_t length;   /* bytes in use */
	size_t capacity;
	size_t max;      /* bytes; growing past it is ERR_LIMIT */
	bool lost;       /* something found no room or no memory since it was cleared: for those who write a text piece by piece and look once */
};

void buf_init(struct buf *buf, size_t max);
void buf_release(struct buf *buf);          /* frees; the buffer may be used again */
void buf_clear(struct buf *buf);            /* keeps the memory */

int buf_append(struct buf *buf, const void *bytes, size_t n);
int buf_append_str(struct buf *buf, const char *text);        /* without the final NUL */
int buf_printf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Makes room for n more bytes and returns where they go, or NULL; length grows by n only through
 * buf_grow(). */
uint8_t *buf_reserve(struct buf *buf, size_t n);
void buf_grow(struct buf *buf, size_t n);   /* n <= what was reserved */

void buf_consume(struct buf *buf, size_t n);             /* drops the first n bytes */
void buf_move(struct buf *to, struct buf *from);         /* releases to, takes from's memory and max; from is empty */
const char *buf_cstr(struct buf *buf);                   /* contents with a NUL behind, which does not count towards max; NULL without memory */

/* --- small helpers over plain bytes, little-endian as everything on Essaim's wire --- */

static inline void put_u16(uint8_t *at, uint16_t v) { at[0] = v & 0xff; at[1] = v >> 8; }
static inline void put_u32(uint8_t *at, uint32_t v) { put_u16(at, v & 0xffff); put_u16(at + 2, v >> 16); }
static inline void put_u64(uint8_t *at, uint64_t v) { put_u32(at, (uint32_t)v); put_u32(at + 4, v >> 32); }
static inline uint16_t get_u16(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }
static inline uint32_t get_u32(const uint8_t *at) { return get_u16(at) | (uint32_t)get_u16(at + 2) << 16; }
static inline uint64_t get_u64(const uint8_t *at) { return get_u32(at) | (uint64_t)get_u32(at + 4) << 32; }

#endif
