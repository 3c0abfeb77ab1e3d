/* text.h: bytes as text people can copy, and strings with a size.
 *
 * Hexadecimal for identities in logs and JSON, base64url (RFC 4648 section 5, without padding) inside
 * URLs and keys. Decoders accept only what the encoders make. Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_TEXT_H
#define PROTO_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void text_hex(const uint8_t *bytes, size_t n, char *out /* 2 n + 1 */);
int text_unhex(const char *text, uint8_t *out, size_t n);       /* exactly n bytes or ERR_MALFORMED */

size_t text_base64_size(size_t n);                              /* characters and the NUL */
void text_base64(const uint8_t *bytes, size_t n, char *out);
int text_unbase64(const char *text, size_t length, uint8_t *out, size_t size, size_t *n);

/* Copies at most size - 1 bytes and always ends with NUL; ERR_LIMIT when it had to cut. */
int text_copy(char *out, size_t size, const char *text);

/* True when the bytes are valid UTF-8 (RFC 3629) without NUL. */
bool text_is_utf8(const char *text, size_t n);

/* How many of the n bytes form whole characters: the rest is the beginning of one that is not
 * complete yet (0 to 3 bytes). Bytes that can never become UTF-8 count as whole. */
size_t text_utf8_whole(const char *text, size_t n);

/* A name for an association, node or model: 1 to 63 bytes of UTF-8, no control characters, no '/', '@'
 * or space at either end. */
bool text_is_name(const char *text);

/* "1.3 GiB", "344 KiB", "12 B"; size is at least 16. Returns out. */
char *text_bytes(uint64_t n, char *out, size_t size);
/* "2 h 05 min", "41 s"; size is at least 16. Returns out. */
char *text_duration(uint64_t seconds, char *out, size_t size);
/* "1 000 000", by thousands (ISO 80000-1) with a no-break space; size is at least 40. Returns out. */
char *text_count(uint64_t n, char *out, size_t size);
/* "512M", "1.5 GiB", "80000": bytes; suffixes K M G T with or without iB/B are powers of 1024. */
int text_parse_bytes(const char *text, uint64_t *out);

#endif
