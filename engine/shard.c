/* shard.c: loading a virtual file into libllama, and computing with it. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/shard.h"

#include <errno.h>
#include <llama.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/device.h"
#include "engine/embedding.h"
#include "engine/guard.h"
#include "engine/quirks.h"
#include "proto/err.h"
#include "proto/log.h"
#include "proto/text.h"

#define POSITION_AXES 4      /* M-RoPE: time, height, width and one more, axis by axis; one axis otherwise */
#define TRIAL_ROWS 8         /* decodes of one row at load, to measure a layer; the fastest counts */
#define KEY_BLOCK 32         /* numbers of a q8_0 block */
#define QUANT_BLOCK_MAX 256  /* numbers */
#define FEW_ROWS 3           /* repacked weights have kernels for four rows and for one */

struct capture {
	char exit[32];           /* the tensor that leaves the shard; empty: none does */
	float *rows;             /* (SHARD_ROWS_MAX, n_embd) */
	const char *entry;       /* the tensor that is replaced by what came from the shard before; NULL: none is */
	const float *in;         /* by this, (SHARD_ROWS_MAX, n_embd) */
	size_t bytes;            /* of either, expected this time; 0: not armed */
	unsigned left, entered;  /* how often each was seen */
	bool odd;                /* one came with another size */
};

struct shard {
	const struct source *source;
	const struct directory *directory;
	struct layer_range range;
	enum virtual_kind kind;
	struct llama_model *model;
	struct llama_context *context;
	struct memory_use memory;
	struct capture capture;
	bool norm;               /* computes end at the last norm */
	bool tried;              /* it has computed its trial rows */
	uint32_t device_layers;  /* as in the configuration */
	uint32_t context_positions, layer_microseconds, joins;
	uint64_t output_bytes, layer_bytes;
	uint32_t sessions;
	bool doubtful[SHARD_SESSIONS_MAX];   /* its memory may hold what is not finite: computed, and no output of it looked at since */

	/* the batch, row by row */
	uint32_t n_rows;
	llama_token tokens[SHARD_ROWS_MAX];
	float *rows;             /* (SHARD_ROWS_MAX, n_embd) */
	llama_pos positions[SHARD_ROWS_MAX * POSITION_AXES];
	int32_t n_sequences[SHARD_ROWS_MAX];
	llama_seq_id sequence[SHARD_ROWS_MAX];
	llama_seq_id *sequences[SHARD_ROWS_MAX];
	int8_t outputs[SHARD_ROWS_MAX];
};

int shard_permitted(const struct directory *d, struct layer_range range, char *why, size_t why_size)
{
	if (range.first >= range.end || range.end > d->n_layer) {
		snprintf(why, why_size, "layers [%u, %u) are not part of a model with %u layers", range.first, range.end, d->n_layer);
		return ERR_LIMIT;
	}
	if (range.first == 0 && range.end == d->n_layer)
		return 0;
	if (!quirk_splittable(d, why, why_size))
		return ERR_UNSUPPORTED;
	if (!quirk_may_cut(d, range.first) || !quirk_may_cut(d, range.end)) {
		snprintf(why, why_size,
			 "%s cannot be cut exactly at layers [%u, %u): all kinds of its layers must stay in each shard, in whole groups",
			 d->architecture, range.first, range.end);
		return ERR_UNSUPPORTED;
	}
	return 0;
}

/* cb_eval: asked for every node, then given those that it asked for. Returning false there ends the graph. */
static bool on_eval(struct ggml_tensor *t, bool ask, void *arg)
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

struct progress {
	bool (*call)(void *arg, float done);
	void *arg;
};

static bool on_progress(float done, void *arg)
{
	struct progress *progress = arg;

	return progress->call(progress->arg, done);
}

/* Without the context; stream and file live until the model is read. */
static struct llama_model *load_model(struct virtual_file *file, const struct shard_config *config, bool simulate)
{
	struct llama_model_params params = llama_model_default_params();
	struct progress progress = { config->progress, config->arg };
	ggml_backend_dev_t devices[] = { config->device_layers ? device_handle() : NULL, NULL };
	struct llama_model *model = NULL;
	FILE *stream = virtual_open(file);

	if (!stream)
		return NULL;
	params.devices = devices;
	params.n_gpu_layers = (int32_t)config->device_layers;
	params.load_mode = LLAMA_LOAD_MODE_NONE; /* stream the tensors; never map or cache the file */
	params.no_alloc = simulate;
	params.load_mtp = false;
	if (config->progress && !simulate) {
		params.progress_callback = on_progress;
		params.progress_callback_user_data = &progress;
	}
	memory_clear_error();
	model = llama_model_load_from_file_ptr(stream, params);
	fclose(stream);
	return model;
}

/* Numbers of one head's key. */
static uint64_t key_length(const struct directory *d, uint32_t layer)
{
	const struct directory_key *heads = directory_find_own(d, "attention.head_count");
	uint64_t length = 0, n_head = 0;

	directory_uint(d, directory_find_own(d, "attention.key_length"), &length);
	directory_uint_at(d, heads, heads && heads->type == VALUE_ARRAY ? layer : 0, &n_head);
	return length ? length : n_head ? d->n_embd / n_head : 0;
}

/* May keys be kept in q8_0: blocks of 32 within each head, and values that are not a part of the keys (MLA). */
static bool keys_packed(const struct directory *d)
{
	const struct directory_key *heads = directory_find_own(d, "attention.head_count");
	uint32_t n = heads && heads->type == VALUE_ARRAY ? d->n_layer : 1;
	uint64_t swa = 0;

	directory_uint(d, directory_find_own(d, "attention.key_length_swa"), &swa);
	if (swa % KEY_BLOCK || directory_find_own(d, "attention.kv_lora_rank"))
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (key_length(d, i) % KEY_BLOCK)
			return false;
	return true;
}

/* libllama rounds a session's positions up to 256. */
static uint64_t positions_of(const struct shard_config *config)
{
	return ((uint64_t)config->context + 255) / 256 * 256 * config->sessions;
}

static struct llama_context *make_context(struct llama_model *model, const struct shard_config *config, bool ends, struct capture *capture)
{
	struct llama_context_params params = llama_context_default_params();
	uint32_t outputs = ends ? CHUNK_ROWS : SHARD_ROWS_MAX;   /* each output of the end takes a row of the vocabulary's size */

	params.n_ctx = (uint32_t)positions_of(config);
	params.n_batch = params.n_ubatch = SHARD_ROWS_MAX;
	params.n_seq_max = config->sessions;
	/* libllama reserves a graph in which each sequence has an output */
	params.n_outputs_max = config->sessions > outputs ? config->sessions : outputs;
	params.n_threads = params.n_threads_batch = (int32_t)config->threads;
	params.kv_unified = false;               /* D2: nobody else's rows move mine */
	/* Whose rows share a batch must not move bits. The CPU's flash attention has three ways to add up (64 rows and more, a single row
	 * from 512 positions on, the rest), which differ by 2 %. Keys that are neither float16 nor float32 leave it one, and it is fastest
	 * with q8_0; where keys cannot be kept so, with bfloat16.
	 * A device has fast kernels for float16, libllama's default, and its bits follow the number of rows anyhow (shard_joins()). */
	if (config->device_layers)
		params.op_offload = false;       /* a layer's matrices are computed where they are, however many rows there are */
	else
		params.type_k = keys_packed(config->directory) ? GGML_TYPE_Q8_0 : GGML_TYPE_BF16;
	params.swa_full = true;                  /* keeps every position, so that truncation is always possible (D4) */
	params.no_perf = true;
	if (capture) {
		params.cb_eval = on_eval;
		params.cb_eval_user_data = capture;
	}
	struct llama_context *context = llama_init_from_model(model, params);
	if (!context && params.type_v != params.type_k) {        /* where values are a part of the keys (MLA), both are of one type, or there is no context */
		params.type_v = params.type_k;
		context = llama_init_from_model(model, params);
	}
	return context;
}

static int config_check(const struct shard_config *config, char *why, size_t why_size)
{
	if (config->sessions == 0 || config->sessions > SHARD_SESSIONS_MAX ||
	    config->sessions > llama_max_parallel_sequences()) {
		snprintf(why, why_size, "%u sessions: 1 to %d are possible", config->sessions, SHARD_SESSIONS_MAX);
		return ERR_LIMIT;
	}
	if (config->context == 0 || config->context > 1u << 24 ||
	    (uint64_t)(config->context + 255) * config->sessions > INT32_MAX) {
		snprintf(why, why_size, "a context of %u positions for %u sessions is out of range", config->context, config->sessions);
		return ERR_LIMIT;
	}
	return 0;
}

/* Why libllama refused, in its own words where it gave any. */
static int load_failed(const struct virtual_file *file, const struct shard_config *config, const char *what, char *why, size_t why_size)
{
	const char *said = memory_last_error();

	if (file->err) {
		snprintf(why, why_size, "%s", file->why);
		return file->err;
	}
	snprintf(why, why_size, "layers [%u, %u) of %s: %s%s%s", config->range.first, config->range.end, config->directory->architecture,
		 what, said[0] ? ": " : "", said);
	/* Another program may have taken the device's memory since it was looked at. */
	return config->device_layers && strstr(said, "allocate") ? ERR_BUDGET : ERR_MODEL;
}

static uint64_t tensor_bytes(const struct directory *d, const char *name)
{
	const struct directory_tensor *t = directory_tensor(d, name);

	return t ? t->size : 0;
}

/* Bytes of one matrix in the layout that takes the most room: kernels for a CPU with special units keep weights repacked, some
 * types with extra fields. Which layout libllama will choose is its secret, so the largest is counted. A device has its own. */
static uint64_t matrix_in_memory(const struct directory_tensor *t, bool on_device)
{
	ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
	ggml_backend_buffer_type_t own[] = { on_device ? ggml_backend_dev_buffer_type(device_handle()) : NULL, NULL }, *types = own;
	ggml_backend_dev_get_extra_bufts_t get = NULL;
	struct ggml_init_params params = { .mem_size = ggml_tensor_overhead() * 2, .no_alloc = true };
	struct ggml_context *context;
	struct ggml_tensor *tensor;
	uint64_t most = t->size;

	if (!on_device && cpu && t->n_dims > 1)
		get = (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu),
											    "ggml_backend_dev_get_extra_bufts");
	if (get)
		types = get(cpu);
	if (!types || !*types)
		return most;
	context = ggml_init(params);
	if (!context)
		return most;
	tensor = ggml_new_tensor(context, (enum ggml_type)t->type, (int)t->n_dims, t->ne);
	for (; *types; types++) {
		uint64_t size = ggml_backend_buft_get_alloc_size(*types, tensor);

		if (size > most)
			most = size;
	}
	ggml_free(context);
	return most;
}

/* Is a layer of the range, 0 its first, on the device; the one after the last is the output. */
static bool is_on_device(const struct shard_config *config, uint32_t layer)
{
	return layer + config->device_layers >= config->range.end - config->range.first + 1;
}

/* *device: those of them that are on the device. */
static uint64_t weights_in_memory(const struct shard_config *config, const struct virtual_file *file, enum virtual_kind kind, uint64_t *device)
{
	const struct directory *d = config->directory;
	struct layer_range range = config->range;
	uint64_t bytes = file->size - file->header.length;       /* zeros too */

	*device = 0;
	for (size_t i = 0; i < d->n_tensors; i++) {
		const struct directory_tensor *t = &d->tensors[i];
		bool layer = t->layer >= (int32_t)range.first && t->layer < (int32_t)range.end;
		bool embeds = d->tied && kind != VIRTUAL_INNER && !strcmp(t->name, "token_embd.weight");
		bool output = embeds || (kind != VIRTUAL_INNER && !strcmp(t->name, "output.weight"));
		bool there = config->device_layers && is_on_device(config, layer ? (uint32_t)t->layer - range.first : range.end - range.first);
		uint64_t size = layer || output ? matrix_in_memory(t, there) : 0;

		if (!layer && !output)
			continue;
		bytes += size;
		if (!embeds || (kind == VIRTUAL_END && !quirk_holds_embedding(d)))
			bytes -= t->size;        /* it is in the file; else it is there once to look up rows, once to multiply */
		if (there)
			*device += size;
	}
	return bytes;
}

uint64_t shard_kv_bytes(const struct directory *d, uint32_t layer)
{
	const struct directory_key *heads = directory_find_own(d, "attention.head_count"), *kv = directory_find_own(d, "attention.head_count_kv");
	uint64_t keys = key_length(d, layer), values = 0, n_head = 0, n_kv;

	directory_uint(d, directory_find_own(d, "attention.value_length"), &values);
	directory_uint_at(d, heads, heads && heads->type == VALUE_ARRAY ? layer : 0, &n_head);
	if (!directory_uint_at(d, kv, kv && kv->type == VALUE_ARRAY ? layer : 0, &n_kv))
		n_kv = n_head;
	if (n_head == 0 || n_kv > 65536 || keys > 65536 || values > 65536)
		return 0;
	keys = keys_packed(d) ? keys / KEY_BLOCK * (KEY_BLOCK + 2) : 2 * keys;
	return n_kv * (keys + 2 * (values ? values : d->n_embd / n_head));
}

/* ggml_backend_sched_new() makes room for up to 60 tensors, and a few numbers, for each node that a graph may have; libllama asks
 * for 8 nodes a tensor of the model, 1,024 at least. */
static uint64_t planner_bytes(size_t n_tensors)
{
	uint64_t nodes = n_tensors * 8 > 1024 ? n_tensors * 8 : 1024;

	return nodes * (64 * sizeof(struct ggml_tensor) + 2048);
}

int shard_lower_bound(const struct shard_config *config, struct memory_use *use, char *why, size_t why_size)
{
	const struct directory *d = config->directory;
	enum virtual_kind kind = virtual_kind_of(d, config->range);
	struct virtual_file file;
	uint64_t device;
	int err;

	memset(use, 0, sizeof *use);
	err = config_check(config, why, why_size);
	if (!err)
		err = shard_permitted(d, config->range, why, why_size);
	if (err)
		return err;
	err = virtual_init(&file, config->source, d, config->range, kind, why, why_size);
	if (!err) {
		use->weights = weights_in_memory(config, &file, kind, &device);
		use->planned = planner_bytes(file.n_extents);
		for (uint32_t i = config->range.first; quirk_find(d->architecture) && i < config->range.end; i++)
			use->kv += shard_kv_bytes(d, i) * positions_of(config);
	}
	virtual_release(&file);
	return err;
}

/* A share of what all layers of the range take alike. */
static uint64_t on_device_of(const struct shard_config *config, uint64_t bytes)
{
	uint32_t n = config->range.end - config->range.first, there = config->device_layers > n ? n : config->device_layers ? config->device_layers - 1 : 0;

	return bytes / n * there;
}

int shard_estimate(const struct shard_config *config, struct memory_use *use, char *why, size_t why_size)
{
	const struct directory *d = config->directory;
	enum virtual_kind kind = virtual_kind_of(d, config->range);
	struct llama_context *context = NULL;
	struct llama_model *model = NULL;
	struct capture capture = { 0 };
	struct virtual_file file;
	uint64_t device;
	int err;

	memset(use, 0, sizeof *use);
	err = config_check(config, why, why_size);
	if (err)
		return err;
	err = virtual_init(&file, config->source, d, config->range, kind, why, why_size);
	if (err)
		goto out;
	memory_watch(use);
	model = load_model(&file, config, true);
	if (!model) {
		err = load_failed(&file, config, "libllama cannot use it", why, why_size);
		goto out;
	}
	context = make_context(model, config, kind != VIRTUAL_INNER, kind == VIRTUAL_WHOLE ? NULL : &capture);
	if (!context) {
		err = load_failed(&file, config, "no context", why, why_size);
		goto out;
	}
	use->weights = weights_in_memory(config, &file, kind, &device);    /* a simulated load logs no model buffers */
	use->device += device + on_device_of(config, use->kv);
	use->planned = planner_bytes(file.n_extents);
out:
	memory_watch(NULL);
	if (context)
		llama_free(context);
	if (model)
		llama_model_free(model);
	virtual_release(&file);
	return err;
}

/* A simulated load takes a while, so how many layers are too many is guessed by what a layer takes. */
int shard_fit(struct shard_config *config, uint64_t *room, struct memory_use *use, char *why, size_t why_size)
{
	uint32_t all = config->range.end - config->range.first + 1;
	int err;

	for (config->device_layers = *room ? all : 0;;) {
		uint64_t layer = 1, excess;

		err = shard_estimate(config, use, why, why_size);
		if (err || !config->device_layers || use->device <= *room)
			break;
		excess = use->device - *room;
		for (size_t i = 0; i < config->directory->n_tensors; i++)
			if (config->directory->tensors[i].layer == (int32_t)config->range.first)
				layer += config->directory->tensors[i].size;
		layer += use->kv / (all - 1);
		config->device_layers -= excess / layer >= config->device_layers ? config->device_layers : (uint32_t)(excess / layer) + (excess < layer);
	}
	*room -= err ? 0 : use->device;
	return err;
}

static uint32_t microseconds_now(void)
{
	return (uint32_t)ggml_time_us();
}

/* Some number in [-1, 1), without a pattern: sums of what lies on a grid are exact in any order, and hide what the order does. */
static float some_number(uint32_t position, size_t column)
{
	uint32_t x = (position * 40503u + (uint32_t)column) * 2654435761u;      /* multiplicative hashing (Knuth) */

	x = (x ^ x >> 15) * 2246822519u;
	return (float)((int32_t)(x ^ x >> 13) / 2147483648.0);
}

/* Rows [from, from + n) of something into the batch; the last one is wanted. */
static int add_trial(struct shard *shard, uint32_t from, uint32_t n, char *why, size_t why_size)
{
	size_t n_embd = shard->directory->n_embd;
	int32_t tokens[SHARD_ROWS_MAX];
	struct shard_rows in = { .position = from, .count = n, .want = 1 };
	float *rows = calloc(n * n_embd, sizeof *rows);
	int err;

	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)((from + i) * 7 % shard->directory->n_vocab);
	for (size_t k = 0; rows && k < n * n_embd; k++)
		rows[k] = some_number(from + (uint32_t)(k / n_embd), k % n_embd);
	if (shard->range.first == 0)
		in.tokens = tokens;
	else
		in.rows = rows;
	err = rows ? shard_add(shard, &in, why, why_size) : -ENOMEM;
	free(rows);
	return err;
}

/* What the batch makes of its row: *out lasts until the next batch. */
static int compute_trial(struct shard *shard, uint32_t row, const float **out, char *why, size_t why_size)
{
	int err = shard_compute(shard, 0, why, why_size);

	if (err)
		return err;
	*out = shard_ends(shard) ? shard_logits(shard, row) : shard_output(shard, row, 1);
	if (*out)
		return 0;
	snprintf(why, why_size, "the model computed values that are not finite");
	return ERR_MODEL;
}

/* Kernels for the quantisations of 256 numbers a block (K-quants, IQ4_XS) round activations in fours otherwise than alone, now and then by one
 * step, so that a few rows need not show it. AMX has one way for all. */
static bool rounds_in_fours(const struct shard *shard)
{
	const struct directory *d = shard->directory;

#if defined(__x86_64__)
	if (__builtin_cpu_supports("amx-int8"))
		return false;
#endif
	for (size_t i = 0; i < d->n_tensors; i++)
		if (ggml_blck_size(d->tensors[i].type) == QUANT_BLOCK_MAX)
			return true;
	return false;
}

/* A few rows through the shard, so that adverts can say how fast it is; also proves that the capture works at all. A row reads every
 * weight once, so the output matrix's share of the time is taken to be its share of the bytes.
 *
 * Then the same rows at once, and among many: kernels differ by CPU and quantisation, and some add up in another order for four rows
 * than for one. How many rows may share a batch is what this shows (shard_joins()). */
static int try_rows(struct shard *shard, char *why, size_t why_size)
{
	size_t width = shard_ends(shard) ? shard->directory->n_vocab : shard->directory->n_embd;
	uint32_t n_layer = shard->range.end - shard->range.first, best = UINT32_MAX, n = TRIAL_ROWS, have;
	const uint32_t most = shard->context_positions < SHARD_ROWS_MAX ? shard->context_positions : SHARD_ROWS_MAX;
	const uint32_t ends[] = { FEW_ROWS, TRIAL_ROWS }, counts[] = { FEW_ROWS, most };
	float *alone[] = { calloc(width, sizeof(float)), calloc(width, sizeof(float)) };
	const float *out;
	int err = alone[0] && alone[1] ? 0 : -ENOMEM;

	shard->joins = 1;
	if (n > shard->context_positions)
		n = shard->context_positions;
	for (uint32_t i = 0; i < n && !err; i++) {
		uint32_t begin = microseconds_now(), took;

		err = shard_truncate(shard, 0, i, &have);
		if (!err)
			err = add_trial(shard, i, 1, why, why_size);
		if (!err)
			err = compute_trial(shard, 0, &out, why, why_size);
		took = microseconds_now() - begin;
		if (took < best)
			best = took;
		for (size_t k = 0; k < 2 && !err; k++)
			if (i + 1 == ends[k])
				memcpy(alone[k], out, width * sizeof *out);
	}
	if (!err) {
		double share = (double)shard->layer_bytes / (double)(shard->layer_bytes + shard->output_bytes);

		shard->layer_microseconds = (uint32_t)(best * share / n_layer + 0.999);
	}
	for (size_t k = 0; k < 2 && !err && n == TRIAL_ROWS && shard_can_truncate(shard) == TRUNCATE_ANY; k++) {
		shard_clear(shard, 0);
		err = add_trial(shard, 0, ends[k], why, why_size);
		if (!err && counts[k] > ends[k])
			err = add_trial(shard, ends[k], counts[k] - ends[k], why, why_size);
		if (!err)
			err = compute_trial(shard, ends[k] - 1, &out, why, why_size);
		if (!err && memcmp(out, alone[k], width * sizeof *out))
			break;
		shard->joins = k && !rounds_in_fours(shard) ? SHARD_ROWS_MAX : FEW_ROWS;
	}
	shard_clear(shard, 0);
	/* A device takes memory and compiles for a block when it sees the first: now, where a lack of memory is a refusal. */
	if (!err && shard->device_layers) {
		err = add_trial(shard, 0, most < CHUNK_ROWS ? most : CHUNK_ROWS, why, why_size);
		if (!err)
			err = compute_trial(shard, (most < CHUNK_ROWS ? most : CHUNK_ROWS) - 1, &out, why, why_size);
		shard_clear(shard, 0);
	}
	free(alone[0]);
	free(alone[1]);
	return err;
}

/* Does something of the graph have to be seen or replaced. */
static bool is_watched(const struct shard *shard)
{
	return shard->kind == VIRTUAL_INNER || shard->capture.entry;
}

static const char *entry_of(const struct shard *shard)
{
	const struct quirk *quirk = quirk_find(shard->directory->architecture);

	return quirk && shard->kind != VIRTUAL_WHOLE && (shard->range.first > 0 || quirk->by_id) ? quirk->entry : NULL;
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

int shard_load(struct shard **out, const struct shard_config *config, char *why, size_t why_size)
{
	const struct directory *d = config->directory;
	struct virtual_file file = { 0 };
	struct shard *shard = NULL;
	int err;

	*out = NULL;
	err = config_check(config, why, why_size);
	if (!err)
		err = shard_permitted(d, config->range, why, why_size);
	if (err)
		return err;
	shard = calloc(1, sizeof *shard);
	if (!shard)
		return -ENOMEM;
	shard->source = config->source;
	shard->directory = d;
	shard->range = config->range;
	shard->kind = virtual_kind_of(d, config->range);
	shard->context_positions = config->context;
	shard->sessions = config->sessions;
	shard->device_layers = config->device_layers;
	shard->rows = calloc((size_t)SHARD_ROWS_MAX * d->n_embd, sizeof *shard->rows);
	shard->capture.rows = calloc((size_t)SHARD_ROWS_MAX * d->n_embd, sizeof *shard->capture.rows);
	shard->capture.in = shard->rows;
	shard->capture.entry = entry_of(shard);
	if (!shard->rows || !shard->capture.rows) {
		err = -ENOMEM;
		goto out;
	}
	for (size_t i = 0; i < SHARD_ROWS_MAX; i++) {
		shard->n_sequences[i] = 1;
		shard->sequences[i] = &shard->sequence[i];
	}
	err = virtual_init(&file, config->source, d, config->range, shard->kind, why, why_size);
	if (err)
		goto out;
	memory_watch(&shard->memory);
	shard->model = load_model(&file, config, false);
	if (!shard->model) {
		err = load_failed(&file, config, "libllama cannot use it", why, why_size);
		goto out;
	}
	if (shard->kind != VIRTUAL_WHOLE && (uint32_t)llama_model_n_embd_inp(shard->model) != d->n_embd) {
		snprintf(why, why_size, "architecture %s wants rows that are wider than its hidden state; it runs whole on one node",
			 d->architecture);
		err = ERR_UNSUPPORTED;
		goto out;
	}
	if (llama_model_has_encoder(shard->model) || !llama_model_has_decoder(shard->model) || llama_model_is_diffusion(shard->model)) {
		snprintf(why, why_size, "architecture %s does not continue text token by token; Essaim cannot serve it", d->architecture);
		err = ERR_UNSUPPORTED;
		goto out;
	}
	shard->context = make_context(shard->model, config, shard_ends(shard), is_watched(shard) || shard->kind == VIRTUAL_WHOLE ? &shard->capture : NULL);
	if (!shard->context || !llama_get_memory(shard->context)) {
		err = load_failed(&file, config, "no context", why, why_size);
		goto out;
	}
	memory_watch(NULL);
	for (size_t i = 0; i < d->n_tensors; i++)
		if (d->tensors[i].layer >= (int32_t)config->range.first && d->tensors[i].layer < (int32_t)config->range.end)
			shard->layer_bytes += d->tensors[i].size;
	if (shard_ends(shard))
		shard->output_bytes = tensor_bytes(d, d->tied ? "token_embd.weight" : "output.weight");
	err = try_rows(shard, why, why_size);
	shard->tried = true;
out:
	memory_watch(NULL);
	virtual_release(&file);
	if (err)
		shard_free(shard);
	else
		*out = shard;
	return err;
}

void shard_free(struct shard *shard)
{
	if (!shard)
		return;
	if (shard->context)
		llama_free(shard->context);
	if (shard->model)
		llama_model_free(shard->model);
	free(shard->rows);
	free(shard->capture.rows);
	free(shard);
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
