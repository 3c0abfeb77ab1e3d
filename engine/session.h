/* session.h: who may write where: (session, stage) -> shard and sequence, epochs, strict order (DESIGN D4, D5).
 *
 * Pure: no libllama, no I/O. The server asks here whether a block may be computed, then truncates and computes in the shard.
 *
 * A block is taken when its sequence number is the next one. An earlier one is a duplicate and is dropped without a word; a
 * later one is a gap: an error. After an error other than ERR_NEED_REPLAY a session takes nothing more until it is opened
 * with a higher epoch or closed, so that blocks in flight behind the bad one are not answered one by one.
 *
 * Stages of one session in one engine share a history: which token stands at which position, as far as known (ids that
 * came to the first shard, tokens that the last one sampled). Penalties need it.
 *
 * Owner: server. Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_SESSION_H
#define ENGINE_SESSION_H

#include "proto/message.h"

struct history {
	uint8_t id[SESSION_BYTES];
	unsigned users;
	uint32_t capacity;
	int32_t *tokens;                  /* -1: not known */
	uint32_t end;                     /* nothing is known from here on */
	bool given;                       /* ids come in through the first shard: it alone forgets */
};

struct session {
	bool open;
	uint8_t id[SESSION_BYTES];
	uint32_t stage, epoch;
	size_t shard;                     /* index into the engine's */
	struct layer_range range;         /* the shard's, or one that ends earlier */
	unsigned sequence;                /* of that shard */
	uint64_t next;                    /* sequence number of the next block */
	uint32_t context;
	bool faulted;
	uint32_t prompt;                  /* positions of the question */
	struct sampling sampling;
	void *sampling_memory;            /* what its views point into */
	struct history *history;
};

struct sessions {
	size_t n;                         /* shards * sequences of each */
	size_t per_shard;
	struct session *all;              /* heap */
};

int sessions_init(struct sessions *sessions, size_t n_shards, size_t per_shard);
void sessions_release(struct sessions *sessions);
size_t sessions_open_count(const struct sessions *sessions);

struct session *sessions_find(struct sessions *sessions, const uint8_t id[SESSION_BYTES], uint32_t stage);

/* *fresh: the sequence holds nothing of this session (clear it). Opening again with the same epoch is a repetition and
 * harmless; a higher epoch starts the numbering anew and keeps what the sequence holds (writing truncates), with any context.
 * ERR_STALE: an older epoch. ERR_BUSY: every sequence of the shard is taken. */
int sessions_open(struct sessions *sessions, const struct engine_open *open, size_t shard, struct session **out, bool *fresh);
/* Frees the sequence for others; the server clears it in the shard. */
void session_close(struct session *session);
/* What is known of another session's tokens is known of this new one's: its sequence was copied. */
void session_fork(struct session *session, const struct session *from);

enum session_verdict { SESSION_COMPUTE, SESSION_DROP, SESSION_FAULT };
/* Looks at epoch and order alone. SESSION_FAULT: *err and why say what to answer. SESSION_COMPUTE consumes the number. */
enum session_verdict session_take(struct session *session, const struct rows_block *block, int *err, char *why, size_t why_size);

/* A block of ids that the first shard computes: what stood behind it is no longer part of the text. */
void session_given(struct session *session, uint32_t position, const int32_t *tokens, uint32_t count);
/* The last shard computes a block that ends before `end`; then it samples tokens. Blocks may be in flight between the two
 * shards, so the last one forgets only where no first shard is here to do it. */
void session_reached(struct session *session, uint32_t end);
void session_sampled(struct session *session, uint32_t position, int32_t token);
/* Up to max known tokens just before position, oldest first. */
size_t session_recent(const struct session *session, uint32_t position, int32_t *out, size_t max);
/* The answer's tokens before position: a view, and how many. ERR_NEED_REPLAY: one is not known, the first of them at *missing. */
int session_answer(const struct session *session, uint32_t position, const int32_t **tokens, size_t *n, uint32_t *missing);

#endif
