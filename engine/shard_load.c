/* shard_load.c: loading a virtual file into libllama, and what memory that takes. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/shard_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/device.h"
#include "engine/quirks.h"
#include "proto/err.h"

#define KEY_BLOCK 32         /* numbers of a q8_0 block */

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
	 * from 256 positions on, the rest), which differ by 2 %. Keys that are neither float16 nor float32 leave it one, and it is fastest
	 * with q8_0; where keys cannot be kept so, with bfloat16.
	 * A device has fast kernels for float16, libllama's default, and its bits follow the number of rows anyhow (shard_joins()). */
	if (config->device_layers)
		params.op_offload = false;       /* a layer's matrices are computed where they are, however many rows there are */
	else
		params.type_k = keys_packed(config->directory) ? GGML_TYPE_Q8_0 : GGML_TYPE_BF16;
	params.swa_full = true;                  /* keeps every position, so that truncation is always possible (D4) */
	params.no_perf = true;
	if (capture) {
		params.cb_eval = shard_on_eval;
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
	err = shard_try_rows(shard, why, why_size);
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
