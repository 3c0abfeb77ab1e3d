/* server_internal.h: what the server's files share; nobody else includes it.
 *
 *   server.c      the loop, loading, rendering, opening and closing sessions
 *   rows.c        blocks of rows: taken, computed in batches, answered
 *
 * Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_SERVER_INTERNAL_H
#define ENGINE_SERVER_INTERNAL_H

#include "engine/lines.h"
#include "engine/sample.h"
#include "engine/server.h"
#include "engine/shard.h"
#include "engine/wire.h"

#define WHY 400

struct server {
	const struct server_config *config;
	struct wire wire;
	struct buf out;
	bool loaded;
	struct source source;              /* of the loaded model */
	struct directory directory;
	size_t n_shards;
	struct shard *shards[RANGES_MAX];
	uint32_t device_layers[RANGES_MAX];        /* of each, as shard_fit() chose */
	struct sessions sessions;
	struct lines lines;
	struct grammar **grammars;         /* one for each of sessions.all, NULL where it has none */
	struct llama_model *vocabulary;    /* NULL when a shard has one, or none is needed */
	struct sample sample;
	float *embedding;                  /* n_embd: the last one that was asked for */
	uint32_t request;                  /* being worked on, for progress */
	unsigned permille;
};

int server_send(struct server *s);                 /* what is in s->out */
int server_fault(struct server *s, const uint8_t *session, uint32_t epoch, uint32_t stage, int code, uint32_t position, const char *detail);

/* Puts the frame's blocks into their lines; 0, or an error that ends the connection. */
int rows_take(struct server *s, const struct frame *frame);
/* Computes and answers one batch, if anything waits. */
int rows_step(struct server *s);
/* Computes until nothing of this session waits any more. */
int rows_finish(struct server *s, const struct session *session);

#endif
