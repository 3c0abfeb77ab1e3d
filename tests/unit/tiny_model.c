/* tiny_model.c: see tiny_model.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef _GNU_SOURCE
#endif
#include "tests/unit/tiny_model.h"

#include <assert.h>
#include <ggml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/directory.h"

#define HEADS 4
#define KV_HEADS 2
#define HEAD_DIM (TINY_EMBD / HEADS)
#define FFN 128
#define INNER 128
#define TENSORS_MAX 1024

struct tensor {
	char name[64];
	uint32_t n_dims;
	int64_t ne[2];
	uint32_t type;
};
struct making {
	const struct tiny_model *model;
	struct buf keys;
	uint64_t n_keys;
	struct tensor tensors[TENSORS_MAX];
	size_t n_tensors;
	uint64_t random;
};

static void put(struct buf *b, const void *bytes, size_t n)
{
	assert(buf_append(b, bytes, n) == 0);
}

static void put32(struct buf *b, uint32_t v)
{
	uint8_t bytes[4];

	put_u32(bytes, v);
	put(b, bytes, 4);
}

static void put64(struct buf *b, uint64_t v)
{
	uint8_t bytes[8];

	put_u64(bytes, v);
	put(b, bytes, 8);
}

static void put_string(struct buf *b, const char *text)
{
	put64(b, strlen(text));
	put(b, text, strlen(text));
}

static void key(struct making *m, const char *name, uint32_t type)
{
	char full[128];

	snprintf(full, sizeof full, "%s%s%s", name[0] == '.' ? m->model->architecture : "", name, "");
	put_string(&m->keys, full);
	put32(&m->keys, type);
	m->n_keys++;
}

static void key_u32(struct making *m, const char *name, uint32_t v)
{
	key(m, name, VALUE_U32);
	put32(&m->keys, v);
}

static void key_f32(struct making *m, const char *name, float v)
{
	uint32_t bits;

	memcpy(&bits, &v, 4);
	key(m, name, VALUE_F32);
	put32(&m->keys, bits);
}

static void key_str(struct making *m, const char *name, const char *v)
{
	key(m, name, VALUE_STRING);
	put_string(&m->keys, v);
}

static void key_array(struct making *m, const char *name, uint32_t item, uint64_t n)
{
	key(m, name, VALUE_ARRAY);
	put32(&m->keys, item);
	put64(&m->keys, n);
}

static void vocabulary(struct making *m)
{
	char text[16];

	key_str(m, "tokenizer.ggml.model", "llama");
	key_str(m, "tokenizer.ggml.pre", "default");
	key_array(m, "tokenizer.ggml.tokens", VALUE_STRING, TINY_VOCAB);
	for (int i = 0; i < TINY_VOCAB; i++) {
		if (i < 3)
			snprintf(text, sizeof text, "%s", i == 0 ? "<unk>" : i == 1 ? "<s>" : "</s>");
		else if (i < 259)
			snprintf(text, sizeof text, "<0x%02X>", (unsigned)(i - 3));
		else
			snprintf(text, sizeof text, "\u2581w%d", i - 259);
		put_string(&m->keys, text);
	}
	key_array(m, "tokenizer.ggml.scores", VALUE_F32, TINY_VOCAB);
	for (int i = 0; i < TINY_VOCAB; i++) {
		float score = -(float)i;
		uint32_t bits;

		memcpy(&bits, &score, 4);
		put32(&m->keys, bits);
	}
	key_array(m, "tokenizer.ggml.token_type", VALUE_I32, TINY_VOCAB);
	for (int i = 0; i < TINY_VOCAB; i++)
		put32(&m->keys, i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1);
	key_u32(m, "tokenizer.ggml.bos_token_id", 1);
	key_u32(m, "tokenizer.ggml.eos_token_id", 2);
	if (m->model->chat)
		key_str(m, "tokenizer.chat_template",
			"{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n");
}

static void keys(struct making *m)
{
	const struct tiny_model *t = m->model;

	key_str(m, "general.architecture", t->architecture);
	key_str(m, "general.name", "tiny test/model");
	key_str(m, "general.license", "mit");
	key_u32(m, ".context_length", TINY_CONTEXT);
	key_u32(m, ".embedding_length", TINY_EMBD);
	key_u32(m, ".block_count", t->n_layer);
	key_u32(m, ".feed_forward_length", FFN);
	if (!strcmp(t->architecture, "mamba")) {
		key_u32(m, ".ssm.conv_kernel", 4);
		key_u32(m, ".ssm.inner_size", INNER);
		key_u32(m, ".ssm.state_size", 16);
		key_u32(m, ".ssm.time_step_rank", 4);
	}
	key_u32(m, ".attention.head_count", HEADS);
	if (t->kv_heads_array) {
		key_array(m, ".attention.head_count_kv", VALUE_I32, t->n_layer);
		for (uint32_t i = 0; i < t->n_layer; i++)
			put32(&m->keys, t->attention_every && i % t->attention_every ? 0 : KV_HEADS);
	} else {
		key_u32(m, ".attention.head_count_kv", KV_HEADS);
	}
	key_u32(m, ".attention.key_length", HEAD_DIM);
	key_u32(m, ".attention.value_length", HEAD_DIM);
	key_f32(m, ".attention.layer_norm_rms_epsilon", 1e-6f);
	key_f32(m, ".rope.freq_base", 10000);
	key_u32(m, ".vocab_size", TINY_VOCAB);
	if (t->window)
		key_u32(m, ".attention.sliding_window", t->window);
	vocabulary(m);
}

static void tensor(struct making *m, const char *name, int64_t ne0, int64_t ne1)
{
	struct tensor *t = &m->tensors[m->n_tensors++];

	assert(m->n_tensors <= TENSORS_MAX);
	snprintf(t->name, sizeof t->name, "%s", name);
	t->n_dims = ne1 ? 2 : 1;
	t->ne[0] = ne0;
	t->ne[1] = ne1 ? ne1 : 1;
	t->type = ne1 ? m->model->type : GGML_TYPE_F32;
}

struct part {
	const char *name;
	int64_t ne0, ne1;
	const char *only;         /* architectures; NULL: all but mamba */
};

/* A recurrent layer: state of 16 for each of 128 channels. */
static const struct part mamba_parts[] = {
	{ "attn_norm.weight", TINY_EMBD, 0, NULL },
	{ "ssm_in.weight", TINY_EMBD, 2 * INNER, NULL },
	{ "ssm_conv1d.weight", 4, INNER, NULL },
	{ "ssm_conv1d.bias", INNER, 0, NULL },
	{ "ssm_x.weight", INNER, 4 + 2 * 16, NULL },
	{ "ssm_dt.weight", 4, INNER, NULL },
	{ "ssm_dt.bias", INNER, 0, NULL },
	{ "ssm_a", 16, INNER, NULL },
	{ "ssm_d", INNER, 0, NULL },
	{ "ssm_out.weight", INNER, TINY_EMBD, NULL },
	{ NULL, 0, 0, NULL },
};

/* Is a name one of several, parted by spaces. */
static bool is_listed(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = strstr(list, name); p; p = strstr(p + n, name))
		if ((p == list || p[-1] == ' ') && (p[n] == 0 || p[n] == ' '))
			return true;
	return false;
}

static void layer(struct making *m, uint32_t i)
{
	static const struct part attention_parts[] = {
		{ "attn_norm.weight", TINY_EMBD, 0, NULL },
		{ "attn_q.weight", TINY_EMBD, HEADS * HEAD_DIM, NULL },
		{ "attn_k.weight", TINY_EMBD, KV_HEADS * HEAD_DIM, NULL },
		{ "attn_v.weight", TINY_EMBD, KV_HEADS * HEAD_DIM, NULL },
		{ "attn_q.bias", HEADS * HEAD_DIM, 0, "qwen2" },
		{ "attn_k.bias", KV_HEADS * HEAD_DIM, 0, "qwen2" },
		{ "attn_v.bias", KV_HEADS * HEAD_DIM, 0, "qwen2" },
		{ "attn_output.weight", HEADS * HEAD_DIM, TINY_EMBD, NULL },
		{ "attn_q_norm.weight", HEAD_DIM, 0, "qwen3 gemma3" },
		{ "attn_k_norm.weight", HEAD_DIM, 0, "qwen3 gemma3" },
		{ "post_attention_norm.weight", TINY_EMBD, 0, "gemma3" },
		{ "ffn_norm.weight", TINY_EMBD, 0, NULL },
		{ "ffn_gate.weight", TINY_EMBD, FFN, NULL },
		{ "ffn_up.weight", TINY_EMBD, FFN, NULL },
		{ "ffn_down.weight", FFN, TINY_EMBD, NULL },
		{ "post_ffw_norm.weight", TINY_EMBD, 0, "gemma3" },
		{ NULL, 0, 0, NULL },
	};
	const struct part *parts = strcmp(m->model->architecture, "mamba") ? attention_parts : mamba_parts;
	char name[64];

	for (size_t k = 0; parts[k].name; k++) {
		if (parts[k].only && !is_listed(parts[k].only, m->model->architecture))
			continue;
		snprintf(name, sizeof name, "blk.%u.%s", i, parts[k].name);
		tensor(m, name, parts[k].ne0, parts[k].ne1);
	}
}

static float uniform(struct making *m)
{
	m->random = m->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (float)(m->random >> 40) / (float)(1 << 24) - 0.5f;
}

static uint64_t tensor_size(const struct tensor *t)
{
	return ggml_row_size((enum ggml_type)t->type, t->ne[0]) * (uint64_t)t->ne[1];
}

static void write_tensor(struct making *m, const struct tensor *t, struct buf *out)
{
	size_t n = (size_t)(t->ne[0] * t->ne[1]);
	float *values = malloc(n * sizeof *values);
	uint8_t *to = buf_reserve(out, tensor_size(t));

	assert(values && to);
	for (size_t i = 0; i < n; i++)
		values[i] = t->n_dims == 1 ? 1 + 0.2f * uniform(m) : 0.4f * uniform(m);
	if (t->type == GGML_TYPE_F32)
		memcpy(to, values, n * sizeof *values);
	else
		ggml_quantize_chunk((enum ggml_type)t->type, values, to, 0, t->ne[1], t->ne[0], NULL);
	buf_grow(out, tensor_size(t));
	free(values);
}

static void pad(struct buf *b)
{
	while (b->length % 32)
		put(b, "", 1);
}

void tiny_model_write(const struct tiny_model *model, struct buf *out)
{
	struct making *m = calloc(1, sizeof *m);
	size_t first = 0, end;
	uint64_t at = 0;

	assert(m);
	m->model = model;
	m->random = model->seed * 7919u + 17;
	buf_init(&m->keys, 16u << 20);
	tensor(m, "token_embd.weight", TINY_EMBD, TINY_VOCAB);
	if (model->once)
		tensor(m, "position_embd.weight", TINY_EMBD, TINY_CONTEXT);
	for (uint32_t i = 0; i < model->n_layer; i++)
		layer(m, i);
	tensor(m, "output_norm.weight", TINY_EMBD, 0);
	if (!model->tied)
		tensor(m, "output.weight", TINY_EMBD, TINY_VOCAB);
	end = m->n_tensors;
	if (model->part == 0)
		keys(m);
	if (model->once) {
		key_u32(m, ".leading_dense_block_count", 3);
		key_f32(m, ".embedding_scale", 12);
		key_array(m, ".rope.dimension_sections", VALUE_I32, 4);
		for (uint32_t i = 0; i < 4; i++)
			put32(&m->keys, i);
	}
	if (model->parts) {
		first = m->n_tensors * model->part / model->parts;
		end = m->n_tensors * (model->part + 1) / model->parts;
		key(m, "split.no", VALUE_U16);
		put(&m->keys, (uint8_t[]){ (uint8_t)model->part, 0 }, 2);
		key(m, "split.count", VALUE_U16);
		put(&m->keys, (uint8_t[]){ (uint8_t)model->parts, 0 }, 2);
	}
	put(out, "GGUF", 4);
	put32(out, 3);
	put64(out, end - first);
	put64(out, m->n_keys);
	put(out, m->keys.data, m->keys.length);
	for (size_t i = first; i < end; i++) {
		put_string(out, m->tensors[i].name);
		put32(out, m->tensors[i].n_dims);
		for (uint32_t k = 0; k < m->tensors[i].n_dims; k++)
			put64(out, (uint64_t)m->tensors[i].ne[k]);
		put32(out, m->tensors[i].type);
		put64(out, at);
		at += (tensor_size(&m->tensors[i]) + 31) / 32 * 32;
	}
	pad(out);
	for (size_t i = 0; i < m->n_tensors; i++) {
		struct buf skipped;

		/* drawn also where another part holds them, so that parts together are the whole file */
		buf_init(&skipped, 16u << 20);
		write_tensor(m, &m->tensors[i], i >= first && i < end ? out : &skipped);
		if (i >= first && i < end)
			pad(out);
		buf_release(&skipped);
	}
	buf_release(&m->keys);
	free(m);
}

int tiny_file(const void *bytes, size_t n)
{
	int fd = memfd_create("tiny", MFD_CLOEXEC);

	assert(fd >= 0);
	for (size_t done = 0; done < n;) {
		ssize_t r = write(fd, (const char *)bytes + done, n - done);

		assert(r > 0);
		done += (size_t)r;
	}
	return fd;
}

int tiny_model_open(const struct tiny_model *model)
{
	struct buf bytes;
	int fd;

	buf_init(&bytes, 64u << 20);
	tiny_model_write(model, &bytes);
	fd = tiny_file(bytes.data, bytes.length);
	buf_release(&bytes);
	return fd;
}
