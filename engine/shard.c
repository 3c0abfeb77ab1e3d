/* shard.c: computing with what was loaded. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/shard_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/embedding.h"
#include "engine/guard.h"
#include "engine/quirks.h"
#include "proto/err.h"
#include "proto/log.h"
#include "proto/text.h"

/* cb_eval: asked for every node, then given those that it asked for. Returning false there ends the graph. */
bool shard_on_eval(struct ggml_tensor *t, bool ask, void *arg)
{
	struct capture *capture = arg;
	bool enters = capture->bytes && capture->entry && !strcmp(t->name, capture->entry);
	bool leaves = capture->bytes && capture->exit[0] && !strcmp(t->name, capture->exit);

	if (ask || (!enters && !leaves))
		return !ask || enters || leaves;
	if (t->type != GGML_TYPE_F32 || ggml_nbytes(t) != capture->bytes) {
		capture->odd = true;
		return false;
	}
	if (enters) {
		ggml_backend_tensor_set(t, capture->in, 0, capture->bytes);
		capture->entered++;
		return true;
	}
	ggml_backend_tensor_get(t, capture->rows, 0, capture->bytes);
	capture->left++;
	return false;
}

/* What leaves the shard's layer n - 1, where n may be fewer than it has. */
static void name_exit(struct shard *shard, uint32_t n)
{
	const struct quirk *quirk = quirk_find(shard->directory->architecture);
	const char *exit = quirk && quirk->exit ? quirk->exit : "l_out-";
	bool numbered = exit[strlen(exit) - 1] == '-', last = n == shard->range.end - shard->range.first;

	if (shard_ends(shard))
		text_copy(shard->capture.exit, sizeof shard->capture.exit, shard->norm ? "result_norm" : "");
	else if (numbered || !last)
		snprintf(shard->capture.exit, sizeof shard->capture.exit, "%s%u", numbered ? exit : "l_out-", n - 1);
	else
		text_copy(shard->capture.exit, sizeof shard->capture.exit, exit);
}

static bool all_finite(const float *values, size_t n)
{
	uint32_t bad = 0, bits;

	for (size_t i = 0; i < n; i++) {         /* all ones in the exponent; written so that it vectorises */
		memcpy(&bits, &values[i], sizeof bits);
		bad |= (bits & 0x7f800000u) == 0x7f800000u;
	}
	return !bad;
}

/* Writes the rows' inputs behind those that are there. */
static int take_input(struct shard *shard, const struct shard_rows *in, char *why, size_t why_size)
{
	const struct directory *d = shard->directory;
	float *rows = shard->rows + (size_t)shard->n_rows * d->n_embd;

	if (in->tokens && shard->range.first != 0) {
		snprintf(why, why_size, "token ids came to a shard that does not start the model");
		return ERR_MALFORMED;
	}
	if (!in->tokens && shard->range.first == 0) {
		snprintf(why, why_size, "hidden states came to the shard that starts the model");
		return ERR_MALFORMED;
	}
	for (uint32_t i = 0; i < in->count; i++) {
		shard->tokens[shard->n_rows + i] = 0;
		if (shard->kind != VIRTUAL_WHOLE)
			continue;
		if (in->tokens[i] < 0 || (uint32_t)in->tokens[i] >= d->n_vocab) {
			snprintf(why, why_size, "a token id is outside the vocabulary of %u", d->n_vocab);
			return ERR_MALFORMED;
		}
		shard->tokens[shard->n_rows + i] = in->tokens[i];
	}
	if (shard->kind == VIRTUAL_WHOLE)
		return 0;
	if (in->tokens)
		return embedding_rows(d, shard->source, in->tokens, in->count, rows, why, why_size);
	memcpy(rows, in->rows, (size_t)in->count * d->n_embd * sizeof *rows);
	if (!all_finite(rows, (size_t)in->count * d->n_embd)) {
		snprintf(why, why_size, "the rows hold values that are not finite");
		return ERR_MALFORMED;
	}
	return 0;
}

int shard_add(struct shard *shard, const struct shard_rows *in, char *why, size_t why_size)
{
	int err;

	if (in->count == 0 || in->count > SHARD_ROWS_MAX - shard->n_rows || in->want > in->count || (!in->tokens && !in->rows)) {
		snprintf(why, why_size, "a block of %u rows with %u outputs is impossible", in->count, in->want);
		return ERR_MALFORMED;
	}
	if (in->position > shard->context_positions || in->count > shard->context_positions - in->position) {
		snprintf(why, why_size, "positions %u to %u do not fit the context of %u", in->position, in->position + in->count,
			 shard->context_positions);
		return ERR_CONTEXT;
	}
	err = take_input(shard, in, why, why_size);
	if (err)
		return err;
	for (uint32_t i = 0; i < in->count; i++) {
		uint32_t row = shard->n_rows + i;

		shard->sequence[row] = (llama_seq_id)in->sequence;
		shard->positions[row] = (llama_pos)(in->position + i);
		/* A shard that does not end the model must say "output" for each row: the last layer computes only those. */
		shard->outputs[row] = !shard_ends(shard) || i >= in->count - in->want;
	}
	shard->n_rows += in->count;
	shard->doubtful[in->sequence] = true;
	return 0;
}

void shard_drop(struct shard *shard, uint32_t n)
{
	if (shard->n_rows > n)
		shard->n_rows = n;
}

static int decode_failed(int result, char *why, size_t why_size)
{
	if (result == 1) {
		snprintf(why, why_size, "no room in the session's context");
		return ERR_CONTEXT;
	}
	snprintf(why, why_size, "libllama failed to compute (%d)%s%s", result, memory_last_error()[0] ? ": " : "", memory_last_error());
	return ERR_ENGINE;
}

/* ggml's kernels leave the upper halves of vector registers in use. Until they are cleared, processors pay for each instruction of the older
 * kind, which is all that Debian's compilers make of code for amd64: drawing a token took four times as long on an AMD Zen 5 (Intel,
 * Optimization Reference Manual, "Mixing AVX code with SSE code"). */
#ifdef __x86_64__
__attribute__((target("avx"))) static void clear_upper_halves(void)
{
	__builtin_ia32_vzeroupper();
}
#endif

static void after_kernels(void)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx"))
		clear_upper_halves();
#endif
}

int shard_compute(struct shard *shard, uint32_t layers, char *why, size_t why_size)
{
	const struct quirk *quirk = quirk_find(shard->directory->architecture);
	uint32_t n = shard->n_rows, all = shard->range.end - shard->range.first;
	struct llama_batch batch = { .n_tokens = (int32_t)n, .pos = shard->positions, .n_seq_id = shard->n_sequences,
				     .seq_id = shard->sequences, .logits = shard->outputs };
	int err = 0, result;

	shard->n_rows = 0;
	if (shard->kind == VIRTUAL_WHOLE || (quirk && quirk->by_id))
		batch.token = shard->tokens;
	else
		batch.embd = shard->rows;
	for (uint32_t i = 0; i < n; i++) {
		/* rows have all axes, while for ids libllama fills them in: text lies on the diagonal */
		shard->positions[i + n] = shard->positions[i + 2 * n] = shard->positions[i];
		shard->positions[i + 3 * n] = 0;
	}
	shard->capture.left = shard->capture.entered = 0;
	shard->capture.odd = false;
	name_exit(shard, layers && layers < all ? layers : all);
	shard->capture.bytes = (size_t)n * shard->directory->n_embd * sizeof(float);
	memory_clear_error();
	result = guard_decode(shard->context, batch, why, why_size);
	after_kernels();
	shard->capture.bytes = 0;
	if (result == ERR_BUDGET || result == ERR_ENGINE) {
		if (shard->tried) {              /* nothing that it computes from here on is to be trusted: a new engine is */
			log_error("%s", why);
			abort();
		}
		return result;
	}
	if (result != 0) {
		err = decode_failed(result, why, why_size);
	} else if (shard->capture.odd || shard->capture.left != (shard->capture.exit[0] != 0) || shard->capture.entered != (shard->capture.entry != NULL)) {
		snprintf(why, why_size, "libllama did not pass %s (%s)",
			 shard->capture.entry && !shard->capture.entered ? shard->capture.entry : shard->capture.exit,
			 shard->capture.odd ? "another shape" : "not there");
		err = ERR_UNSUPPORTED;
	}
	for (uint32_t i = n; err && i-- > 0;)
		llama_memory_seq_rm(llama_get_memory(shard->context), shard->sequence[i], shard->positions[i], -1);
	return err;
}

const float *shard_output(struct shard *shard, uint32_t row, uint32_t n)
{
	const float *rows = shard->capture.rows + (size_t)row * shard->directory->n_embd;

	if (!all_finite(rows, (size_t)n * shard->directory->n_embd))
		return NULL;
	shard->doubtful[shard->sequence[row]] = false;
	return rows;
}

const float *shard_logits(struct shard *shard, uint32_t row)
{
	const float *logits = llama_get_logits_ith(shard->context, (int32_t)row);

	if (!logits || !all_finite(logits, shard->directory->n_vocab))
		return NULL;
	shard->doubtful[shard->sequence[row]] = false;       /* it leans on every position before it */
	return logits;
}

int shard_truncate(struct shard *shard, unsigned sequence, uint32_t position, uint32_t *have)
{
	llama_memory_t memory = llama_get_memory(shard->context);
	llama_seq_id id = (llama_seq_id)sequence;
	int64_t end = (int64_t)llama_memory_seq_pos_max(memory, id) + 1;

	*have = (uint32_t)end;
	if (end < position)
		return ERR_NEED_REPLAY;
	if (end > position && !llama_memory_seq_rm(memory, id, (llama_pos)position, -1)) {
		/* recurrent state cannot go back: start over */
		shard_clear(shard, sequence);
		*have = 0;
		return position ? ERR_NEED_REPLAY : 0;
	}
	/* What a window slid over is gone for good; with swa_full nothing should be, but the library has the last word. */
	if (position && shard_can_truncate(shard) != TRUNCATE_NONE && llama_memory_seq_pos_min(memory, id) > 0) {
		shard_clear(shard, sequence);
		*have = 0;
		return ERR_NEED_REPLAY;
	}
	*have = position;
	return 0;
}

/* libllama forgets positions, not bytes, and masks what nobody holds by adding to it: an old NaN there would reach whoever gets the
 * sequence next. Another one's memory is copied over it, or everything is wiped and the others replay. */
static void scrub(struct shard *shard, unsigned sequence)
{
	llama_memory_t memory = llama_get_memory(shard->context);

	for (unsigned clean = 0; clean < shard->sessions; clean++)
		if (!shard->doubtful[clean] && shard_copy(shard, clean, sequence)) {
			llama_memory_seq_rm(memory, (llama_seq_id)sequence, -1, -1);
			return;
		}
	llama_memory_clear(memory, true);
	memset(shard->doubtful, 0, sizeof shard->doubtful);
}

void shard_clear(struct shard *shard, unsigned sequence)
{
	llama_memory_seq_rm(llama_get_memory(shard->context), (llama_seq_id)sequence, -1, -1);
	if (shard->doubtful[sequence])
		scrub(shard, sequence);
	shard->doubtful[sequence] = false;
}

bool shard_copy(struct shard *shard, unsigned from, unsigned to)
{
	if (from == to || shard_can_truncate(shard) != TRUNCATE_ANY)
		return false;
	/* Sequences have memory of their own, so libllama copies all of it or nothing, before the next llama_decode(). */
	llama_memory_seq_cp(llama_get_memory(shard->context), (llama_seq_id)from, (llama_seq_id)to, -1, -1);
	shard->doubtful[to] = shard->doubtful[from];
	return true;
}

struct layer_range shard_range(const struct shard *shard)
{
	return shard->range;
}

uint32_t shard_context(const struct shard *shard)
{
	return shard->context_positions;
}

bool shard_ends(const struct shard *shard)
{
	return shard->kind != VIRTUAL_INNER;
}

const struct memory_use *shard_memory(const struct shard *shard)
{
	return &shard->memory;
}

uint32_t shard_device_layers(const struct shard *shard)
{
	uint32_t n = shard->range.end - shard->range.first;

	return shard->device_layers > n ? n : shard->device_layers ? shard->device_layers - 1 : 0;
}

enum truncate shard_can_truncate(const struct shard *shard)
{
	return llama_model_is_recurrent(shard->model) || llama_model_is_hybrid(shard->model) ? TRUNCATE_NONE : TRUNCATE_ANY;
}

uint32_t shard_joins(const struct shard *shard)
{
	return shard->joins;
}

uint32_t shard_layer_microseconds(const struct shard *shard)
{
	return shard->layer_microseconds;
}

const struct llama_vocab *shard_vocab(const struct shard *shard)
{
	return shard_ends(shard) ? llama_model_get_vocab(shard->model) : NULL;
}

const struct llama_model *shard_model(const struct shard *shard)
{
	return shard->model;
}

void shard_end_at_norm(struct shard *shard, bool norm)
{
	shard->norm = norm;
}

const struct directory *shard_directory(const struct shard *shard)
{
	return shard->directory;
}
