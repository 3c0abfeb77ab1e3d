/* samples.h: one honest example of everything that proto signs or frames, from fixed keys.
 *
 * For unit tests and for the seeds of the fuzzers. Nothing here is random, so that failures repeat.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_SAMPLES_H
#define TESTS_SAMPLES_H

#include "proto/message.h"
#include "proto/record.h"
#include "proto/ticket.h"

#define SAMPLE_ISSUED 1700000000u
#define SAMPLE_EXPIRES (SAMPLE_ISSUED + 86400u)
#define SAMPLE_LAYERS 4u

struct sample_key {
	uint8_t public[KEY_BYTES];
	uint8_t secret[SIGN_SECRET_BYTES];
};
extern struct sample_key sample_root, sample_steward, sample_node, sample_home, sample_other;

void samples_init(void);         /* sodium_init() and the keys; aborts when it cannot */

struct record sample_head(void); /* association, subject, sequence, issued, expires */
/* Signs one record of the kind; the subject and the signer follow the table in record.h. */
void sample_record(struct buf *out, enum record_kind kind);
const struct sample_key *sample_signer(enum record_kind kind);

void sample_manifest(struct manifest_body *b);      /* manifest_free() */
struct ticket sample_ticket(void);                  /* home: sample_home */

/* The frames of message.h, in order of their types; how many there are. Each call appends one. */
size_t samples_of_messages(void);
void sample_message(struct buf *out, size_t i);

/* Payload signed as record_sign() would, but unchecked: for what no honest signer makes. */
void sample_forge(struct buf *out, enum record_kind kind, const struct buf *payload, const struct sample_key *signer);

#endif
