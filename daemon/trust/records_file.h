/* records_file.h: every record held, in one file, HOME/records/all.
 *
 *   "essaim-records-1"                                               16 bytes
 *   then for each: E5 'R' 'E' 'C', type u8, length u32, BLAKE2b-128 of type, length and bytes, bytes
 *
 * type 1 is a record as it travels, 2 the key of an introduced association; others are for later versions and are passed
 * over. Integers are little-endian. The file is replaced whole (a temporary name, fsync, rename, fsync of the folder), so
 * that a crash leaves the old one or the new one. Where bytes are damaged all the same, what lies between is lost, counted
 * and told; the rest is kept, and the damaged file stays beside as HOME/records/all.damaged.
 *
 * Thread: append and collect where trust lives (loop); write and read anywhere, a worker for the running daemon;
 * restore and load where trust lives. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TRUST_RECORDS_FILE_H
#define TRUST_RECORDS_FILE_H

#include "daemon/trust/trust.h"

#define RECORDS_FILE_MAX (TRUST_BYTES_MAX + (4u << 20))     /* max of a buffer that takes any set */

/* One more record to the end of all; begins the file in an empty buffer. */
int records_file_append(struct buf *all, const uint8_t *record, size_t n);
/* All that trust holds and introduced. */
int records_file_collect(const struct trust *trust, struct buf *all);
int records_file_write(const char *home, const uint8_t *bytes, size_t n);

/* The file as it is; -ENOENT when there is none yet. */
int records_file_read(const char *home, struct buf *all);

struct records_file_report {
	size_t kept;             /* records that trust took */
	size_t refused;          /* expired since, out of reach, ... */
	size_t damaged;          /* places where bytes were lost */
	size_t damaged_bytes;
};
/* Offers everything to trust, again and again while something more is taken, so that order does not matter. */
void records_file_restore(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now, struct records_file_report *report);
/* Reads and restores. A missing file is an empty one. Damage is no error: the report says, for the caller to tell, and the
 * damaged file is set aside. */
int records_file_load(const char *home, struct trust *trust, uint64_t now, struct records_file_report *report, char *why, size_t why_size);

#endif
