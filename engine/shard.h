/* shard.h: one range of layers of one model, loaded: a llama_model and a llama_context.
 *
 * Rows go in as token ids (only a shard that is the whole model, or starts it) or as hidden states, and come out as hidden
 * states, or as logits where the range ends the model. Each session is a sequence with its own KV (kv_unified = false), so
 * that nobody else's rows move its bits (DESIGN D2). The hidden state leaves through cb_eval on "l_out-<last>"; the graph stops
 * there, so the dummy output matrix is never multiplied. Where libllama does something to the embedding in every shard (a scale, a
 * norm), the rows of the shard before are written over the result of it, in the same way: quirks.h says over which tensor.
 *
 * shard_add() puts rows into a batch, shard_compute() computes the batch at once. A batch is one sequence's rows, or as many rows
 * each of sequences whose numbers follow each other: that is what libllama computes in one piece when each sequence has its own KV.
 * shard_joins() says how many rows may share a batch without a row's bits depending on that.
 *
 * Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_SHARD_H
#define ENGINE_SHARD_H

#include "engine/memory.h"
#include "engine/virtual.h"
#include "proto/message.h"

struct shard;

struct shard_config {
	const struct source *source;               /* must outlive the shard, as must the directory */
	const struct directory *directory;
	struct layer_range range;
	uint32_t context;                          /* positions of one session */
	uint32_t sessions;                         /* sequences, 1 .. SHARD_SESSIONS_MAX */
	uint32_t threads;
	uint32_t device_layers;                    /* so many are on the device: the output, then the range's last layers; 0: none */
	bool (*progress)(void *arg, float done);   /* 0..1 while loading; false gives up. May be NULL */
	void *arg;
};
#define SHARD_SESSIONS_MAX 256

/* May this range be cut out of this model: ERR_UNSUPPORTED with the reason, ERR_LIMIT for a range outside it. */
int shard_permitted(const struct directory *directory, struct layer_range range, char *why, size_t why_size);
/* K (q8_0, or 16 bits) and V (16 bits) of one position in one layer; 0 when the file does not describe attention that way. */
uint64_t shard_kv_bytes(const struct directory *directory, uint32_t layer);
/* What shard_load() will at least allocate, by arithmetic on the directory; compute is not known yet. Cannot abort. */
int shard_lower_bound(const struct shard_config *config, struct memory_use *use, char *why, size_t why_size);
/* What shard_load() would allocate, by a simulated load; it needs `planned` bytes itself. */
int shard_estimate(const struct shard_config *config, struct memory_use *use, char *why, size_t why_size);
/* The same with as many layers on the device as *room bytes there hold, which become fewer: sets config->device_layers. */
int shard_fit(struct shard_config *config, uint64_t *room, struct memory_use *use, char *why, size_t why_size);
int shard_load(struct shard **out, const struct shard_config *config, char *why, size_t why_size);
void shard_free(struct shard *shard);

#define SHARD_ROWS_MAX 64                          /* of a batch */
struct shard_rows {                                /* of one sequence, positions [position, position + count) */
	unsigned sequence;
	uint32_t position, count;
	uint32_t want;                             /* logits of the last rows, where the range ends the model */
	const int32_t *tokens;                     /* count ids, or NULL: */
	const float *rows;                         /* (count, n_embd) */
};
/* After shard_truncate() made room. ERR_MALFORMED (token id, value that is not finite), ERR_CONTEXT: nothing was added. */
int shard_add(struct shard *shard, const struct shard_rows *rows, char *why, size_t why_size);
void shard_drop(struct shard *shard, uint32_t n);  /* the batch's rows from the n-th on are not in it any more */
/* Stops after so many of the range's layers; 0: all. Not where it ends the model. The batch is empty afterwards. On an error its
 * sequences are cut back to where they were: ERR_CONTEXT, ERR_ENGINE, ERR_UNSUPPORTED. */
int shard_compute(struct shard *shard, uint32_t layers, char *why, size_t why_size);
/* Of the last compute, until the next: NULL where the model computed a value that is not finite. */
const float *shard_output(struct shard *shard, uint32_t row, uint32_t n);    /* (n, n_embd), when the range does not end the model */
const float *shard_logits(struct shard *shard, uint32_t row);                /* n_vocab, of a wanted row, when it does */
/* So many rows of several sequences may be one batch: measured at load. SHARD_ROWS_MAX: blocks may be cut and joined as one likes,
 * too. 1: everybody is computed alone, in whole blocks (always so where state is carried from row to row). */
uint32_t shard_joins(const struct shard *shard);

/* Drops positions >= position, so that exactly [0, position) is there; ERR_NEED_REPLAY when it cannot be: *have says up to
 * where the sequence still reaches (0: it was emptied). */
int shard_truncate(struct shard *shard, unsigned sequence, uint32_t position, uint32_t *have);
void shard_clear(struct shard *shard, unsigned sequence);
/* Makes `to`, which is empty, hold what `from` holds; false where the model cannot (recurrent state cannot be cut back afterwards). */
bool shard_copy(struct shard *shard, unsigned from, unsigned to);

struct layer_range shard_range(const struct shard *shard);
uint32_t shard_context(const struct shard *shard); /* positions of one session */
bool shard_ends(const struct shard *shard);        /* has the output matrix */
const struct memory_use *shard_memory(const struct shard *shard);
uint32_t shard_device_layers(const struct shard *shard);          /* of the range's layers, without the output */
enum truncate shard_can_truncate(const struct shard *shard);
uint32_t shard_layer_microseconds(const struct shard *shard);     /* measured at load */
const struct llama_vocab *shard_vocab(const struct shard *shard); /* NULL: this shard has none */
const struct llama_model *shard_model(const struct shard *shard);
/* From now on, in a shard that is the whole model: shard_compute() stops at the last norm, before the output matrix, and shard_output() gives
 * those rows, all of which must be wanted. What the norm is called is libllama's; ERR_UNSUPPORTED where it is not. */
void shard_end_at_norm(struct shard *shard, bool norm);
const struct directory *shard_directory(const struct shard *shard);

#endif
