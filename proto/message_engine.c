/* message_engine.c: the heads of the frames that only the socketpair between daemon and engine sees.
 *
 * The daemon trusts the engine no more than a peer: a hostile model may run its code. The engine trusts the
 * daemon, but checks the same limits, because a mistake is cheaper to find at the door.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/fields.h"
#include "proto/message_heads.h"
#include "proto/text.h"

#define SESSIONS_MAX 65536u
#define THREADS_MAX 1024u
#define EXTENT_BYTES 20        /* file u32, offset u64, length u64, little-endian */

/* --- hello ------------------------------------------------------------------------------------------- */

int engine_hello_encode(struct buf *out, const struct engine_hello *m)
{
	struct head_writer head;
	char why[sizeof m->no_device];
	field_make_plain(why, sizeof why, m->no_device);
	head_begin(&head, 7);
	pack_kv_str(&head.w, "engine", m->engine);
	pack_kv_bool(&head.w, "sandboxed", m->sandboxed);
	pack_kv_uint(&head.w, "device_kind", m->device.kind);
	pack_kv_str(&head.w, "device", m->device.name);
	pack_kv_uint(&head.w, "device_bytes", m->device.bytes);
	pack_kv_uint(&head.w, "device_free", m->device.free_bytes);
	pack_kv_str(&head.w, "no_device", why);
	return head_end(&head, out, FRAME_ENGINE_HELLO, NULL, 0);
}

int engine_hello_decode(const struct frame *f, struct engine_hello *m)
{
	struct head_reader head;
	*m = (struct engine_hello){ 0 };
	int err = head_open(&head, f, FRAME_ENGINE_HELLO, false);
	if (err)
		return err;
	field_get_plain(head.c, "engine", m->engine, sizeof(m->engine));
	m->sandboxed = pack_get_bool_or(head.c, "sandboxed", false);
	m->device.kind = (enum device_kind)pack_get_uint_or(head.c, "device_kind", DEVICE_SOFTWARE, DEVICE_NONE);
	m->device.bytes = pack_get_uint_or(head.c, "device_bytes", MODEL_FILE_MAX, 0);
	m->device.free_bytes = pack_get_uint_or(head.c, "device_free", MODEL_FILE_MAX, 0);
	field_get_plain_or(head.c, "device", m->device.name, sizeof m->device.name);
	field_get_plain_or(head.c, "no_device", m->no_device, sizeof m->no_device);
	return head_close(&head);
}

/* --- inspect ----------------------------------------------------------------------------------------- */

int engine_inspect_encode(struct buf *out, const struct engine_inspect *m)
{
	if (m->n_files < 1)
		return ERR_MALFORMED;
	if (m->n_files > MODEL_FILES_MAX || m->context > CONTEXT_MAX)
		return ERR_LIMIT;
	for (size_t i = 0; i < m->n_files; i++)
		if (!field_is_file_name(m->names[i]))
			return ERR_MALFORMED;

	struct head_writer head;
	head_begin(&head, 3);
	pack_kv_uint(&head.w, "request", m->request);
	pack_kv_uint(&head.w, "context", m->context);
	pack_str(&head.w, "names");
	pack_array(&head.w, m->n_files);
	for (size_t i = 0; i < m->n_files; i++)
		pack_str(&head.w, m->names[i]);
	return head_end(&head, out, FRAME_ENGINE_INSPECT, NULL, 0);
}

int engine_inspect_decode(const struct frame *f, struct engine_inspect *m)
{
	struct head_reader head;
	*m = (struct engine_inspect){ 0 };
	int err = head_open(&head, f, FRAME_ENGINE_INSPECT, false);
	if (err)
		return err;
	m->request = (uint32_t)pack_get_uint(head.c, "request", UINT32_MAX);
	m->context = (uint32_t)pack_get_uint(head.c, "context", CONTEXT_MAX);
	struct pack_cursor list = pack_get(head.c, "names");
	size_t n = pack_count(list);
	if (n > MODEL_FILES_MAX)
		field_fail(head.c, ERR_LIMIT);
	if (!head.err && n == 0)
		field_fail(head.c, ERR_MALFORMED);
	for (size_t i = 0; !head.err && i < n; i++) {
		pack_at_str(list, i, m->names[i], sizeof(m->names[i]));
		if (!field_is_file_name(m->names[i]))
			field_fail(head.c, ERR_MALFORMED);
	}
	err = head_close(&head);
	m->n_files = err ? 0 : (uint32_t)n;
	return err;
}

/* A manifest is bigger than a head may be, so it is the tail, under a record's limits. */
int engine_inspected_encode(struct buf *out, const struct engine_inspected *m)
{
	struct buf body;
	struct pack_writer w;
	buf_init(&body, pack_limits_record.bytes);
	pack_writer_init(&w, &body);
	int err = manifest_pack(&w, &m->manifest);

	struct head_writer head;
	head_begin(&head, 1);
	pack_kv_uint(&head.w, "request", m->request);
	if (err)
		head.w.err = err;
	err = head_end(&head, out, FRAME_ENGINE_INSPECTED, body.data, body.length);
	buf_release(&body);
	return err;
}

int engine_inspected_decode(const struct frame *f, struct engine_inspected *m)
{
	struct head_reader head;
	*m = (struct engine_inspected){ 0 };
	int err = head_open(&head, f, FRAME_ENGINE_INSPECTED, true);
	if (err)
		return err;
	m->request = (uint32_t)pack_get_uint(head.c, "request", UINT32_MAX);
	err = head_close(&head);
	if (err)
		return err;

	struct pack_doc doc;
	err = pack_parse(&doc, f->tail, f->tail_length, &pack_limits_record);
	if (err)
		return err;
	int sticky;
	err = manifest_unpack(pack_root(&doc, &sticky), &m->manifest);
	pack_release(&doc);
	return err;
}

/* --- load -------------------------------------------------------------------------------------------- */

static int check_load(const struct engine_load *m)
{
	if (m->n_files < 1 || m->n_ranges < 1 || m->n_layer < 1 || m->context < 1 || m->sessions < 1 || m->threads < 1)
		return ERR_MALFORMED;
	if (m->n_files > MODEL_FILES_MAX || m->n_ranges > RANGES_MAX || m->n_layer > MODEL_LAYERS_MAX ||
	    m->context > CONTEXT_MAX || m->sessions > SESSIONS_MAX || m->threads > THREADS_MAX ||
	    m->memory_max > INT64_MAX || m->device_max > INT64_MAX || m->n_extents > MODEL_EXTENTS_MAX)
		return ERR_LIMIT;
	for (size_t i = 0; i < m->n_ranges; i++)
		if (!field_is_range(&m->ranges[i], m->n_layer))
			return ERR_MALFORMED;
	for (size_t i = 0; i < m->n_extents; i++) {
		const struct model_extent *e = &m->extents[i];
		if (e->file >= m->n_files || e->length == 0 || e->offset > MODEL_FILE_MAX ||
		    e->length > MODEL_FILE_MAX - e->offset)
			return ERR_MALFORMED;
	}
	return 0;
}

int engine_load_encode(struct buf *out, const struct engine_load *m)
{
	int err = check_load(m);
	if (err)
		return err;
	struct buf tail;
	buf_init(&tail, FRAME_TAIL_MAX);
	for (size_t i = 0; !err && i < m->n_extents; i++) {
		uint8_t bytes[EXTENT_BYTES];
		put_u32(bytes, m->extents[i].file);
		put_u64(bytes + 4, m->extents[i].offset);
		put_u64(bytes + 12, m->extents[i].length);
		err = buf_append(&tail, bytes, sizeof(bytes));
	}

	struct head_writer head;
	head_begin(&head, 9);
	pack_kv_uint(&head.w, "request", m->request);
	pack_kv_uint(&head.w, "n_files", m->n_files);
	pack_str(&head.w, "ranges");
	field_put_layers(&head.w, m->ranges, m->n_ranges);
	pack_kv_uint(&head.w, "n_layer", m->n_layer);
	pack_kv_uint(&head.w, "context", m->context);
	pack_kv_uint(&head.w, "sessions", m->sessions);
	pack_kv_uint(&head.w, "threads", m->threads);
	pack_kv_uint(&head.w, "memory_max", m->memory_max);
	pack_kv_uint(&head.w, "device_max", m->device_max);
	if (err)
		head.w.err = err;
	err = head_end(&head, out, FRAME_ENGINE_LOAD, tail.data, tail.length);
	buf_release(&tail);
	return err;
}

static int read_load_extents(const struct frame *f, struct engine_load *m)
{
	if (f->tail_length % EXTENT_BYTES)
		return ERR_MALFORMED;
	size_t n = f->tail_length / EXTENT_BYTES;
	if (n > MODEL_EXTENTS_MAX)
		return ERR_LIMIT;
	if (n == 0)
		return 0;
	m->extents = calloc(n, sizeof(*m->extents));
	if (!m->extents)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const uint8_t *at = f->tail + i * EXTENT_BYTES;
		m->extents[i].file = get_u32(at);
		m->extents[i].offset = get_u64(at + 4);
		m->extents[i].length = get_u64(at + 12);
	}
	m->n_extents = n;
	return 0;
}

int engine_load_decode(const struct frame *f, struct engine_load *m)
{
	struct head_reader head;
	*m = (struct engine_load){ 0 };
	int err = head_open(&head, f, FRAME_ENGINE_LOAD, true);
	if (err)
		return err;
	m->request = (uint32_t)pack_get_uint(head.c, "request", UINT32_MAX);
	m->n_files = (uint32_t)pack_get_uint(head.c, "n_files", MODEL_FILES_MAX);
	m->n_layer = (uint32_t)pack_get_uint(head.c, "n_layer", MODEL_LAYERS_MAX);
	field_get_layers(head.c, "ranges", m->ranges, RANGES_MAX, &m->n_ranges, m->n_layer);
	m->context = (uint32_t)pack_get_uint(head.c, "context", CONTEXT_MAX);
	m->sessions = (uint32_t)pack_get_uint(head.c, "sessions", SESSIONS_MAX);
	m->threads = (uint32_t)pack_get_uint(head.c, "threads", THREADS_MAX);
	m->memory_max = pack_get_uint(head.c, "memory_max", INT64_MAX);
	m->device_max = pack_get_uint_or(head.c, "device_max", INT64_MAX, 0);
	err = head_close(&head);
	if (!err)
		err = read_load_extents(f, m);
	if (!err)
		err = check_load(m);
	if (err)
		engine_load_free(m);
	return err;
}

void engine_load_free(struct engine_load *m)
{
	free(m->extents);
	*m = (struct engine_load){ 0 };
}

int engine_loaded_encode(struct buf *out, const struct engine_loaded *m)
{
	struct head_writer head;
	head_begin(&head, 10);
	pack_kv_uint(&head.w, "request", m->request);
	pack_kv_uint(&head.w, "weight_bytes", m->weight_bytes);
	pack_kv_uint(&head.w, "kv_bytes", m->kv_bytes);
	pack_kv_uint(&head.w, "compute_bytes", m->compute_bytes);
	pack_kv_uint(&head.w, "device_bytes", m->device_bytes);
	pack_kv_uint(&head.w, "device_layers", m->device_layers);
	pack_kv_uint(&head.w, "n_embd", m->n_embd);
	pack_kv_uint(&head.w, "n_vocab", m->n_vocab);
	pack_kv_uint(&head.w, "truncate", m->truncate);
	pack_kv_uint(&head.w, "layer_microseconds", m->layer_microseconds);
	return head_end(&head, out, FRAME_ENGINE_LOADED, NULL, 0);
}

int engine_loaded_decode(const struct frame *f, struct engine_loaded *m)
{
	struct head_reader head;
	*m = (struct engine_loaded){ 0 };
	int err = head_open(&head, f, FRAME_ENGINE_LOADED, false);
	if (err)
		return err;
	m->request = (uint32_t)pack_get_uint(head.c, "request", UINT32_MAX);
	m->weight_bytes = pack_get_uint(head.c, "weight_bytes", MODEL_FILE_MAX);
	m->kv_bytes = pack_get_uint(head.c, "kv_bytes", MODEL_FILE_MAX);
	m->compute_bytes = pack_get_uint(head.c, "compute_bytes", MODEL_FILE_MAX);
	m->device_bytes = pack_get_uint_or(head.c, "device_bytes", MODEL_FILE_MAX, 0);
	m->device_layers = (uint32_t)pack_get_uint_or(head.c, "device_layers", MODEL_LAYERS_MAX, 0);
	m->n_embd = (uint32_t)field_get_range(head.c, "n_embd", 1, MODEL_EMBD_MAX);
	m->n_vocab = (uint32_t)pack_get_uint(head.c, "n_vocab", MODEL_VOCAB_MAX);
	m->truncate = (enum truncate)pack_get_uint(head.c, "truncate", TRUNCATE_NONE);
	m->layer_microseconds = (uint32_t)pack_get_uint(head.c, "layer_microseconds", UINT32_MAX);
	return head_close(&head);
}

/* --- open --------------------------------------------------------------------------------------------
 *
 * Tail: the biases of logits, then the grammar; the head says how many and how long. */

#define PENALTY_MAX 100.0f
#define BIAS_MAX 100.0f

void logit_bias_put(uint8_t out[LOGIT_BIAS_BYTES], struct logit_bias bias)
{
	uint32_t bits;
	memcpy(&bits, &bias.bias, sizeof bits);
	put_u32(out, (uint32_t)bias.id);
	put_u32(out + 4, bits);
}

struct logit_bias logit_bias_get(const struct sampling *s, size_t i)
{
	struct logit_bias bias = { .id = (int32_t)get_u32(s->bias + i * LOGIT_BIAS_BYTES) };
	uint32_t bits = get_u32(s->bias + i * LOGIT_BIAS_BYTES + 4);
	memcpy(&bias.bias, &bits, sizeof bits);
	return bias;
}

int sampling_copy(struct sampling *out, const struct sampling *from, void **memory)
{
	size_t bytes = from->n_bias * LOGIT_BIAS_BYTES;
	uint8_t *own = malloc(bytes + from->grammar_length + 1);
	if (!own)
		return -ENOMEM;
	if (bytes)
		memcpy(own, from->bias, bytes);
	if (from->grammar_length)
		memcpy(own + bytes, from->grammar, from->grammar_length);
	own[bytes + from->grammar_length] = 0;
	*out = *from;
	out->bias = own;
	out->grammar = (const char *)own + bytes;
	*memory = own;
	return 0;
}

static bool is_within(float v, float min, float max)
{
	return isfinite(v) && v >= min && v <= max;
}

static int check_open(const struct engine_open *m)
{
	const struct sampling *s = &m->sampling;
	if (m->stage >= RING_STAGES_MAX || m->context > CONTEXT_MAX || m->prompt > CONTEXT_MAX)
		return ERR_LIMIT;
	if (m->context < 1 || !field_is_range(&m->range, MODEL_LAYERS_MAX))
		return ERR_MALFORMED;
	if (!is_within(s->temperature, 0, PENALTY_MAX) || !is_within(s->top_p, 0, 1) || !is_within(s->min_p, 0, 1) ||
	    s->top_k < 0 || !is_within(s->repeat_penalty, 0, PENALTY_MAX) ||
	    !is_within(s->presence_penalty, -PENALTY_MAX, PENALTY_MAX) ||
	    !is_within(s->frequency_penalty, -PENALTY_MAX, PENALTY_MAX) || s->top > TOP_LOGPROBS_MAX || s->n_bias > LOGIT_BIAS_MAX ||
	    s->grammar_length > GRAMMAR_BYTES_MAX)
		return ERR_LIMIT;
	for (size_t i = 0; i < s->n_bias; i++)
		if (logit_bias_get(s, i).id < 0 || !is_within(logit_bias_get(s, i).bias, -BIAS_MAX, BIAS_MAX))
			return ERR_LIMIT;
	return text_is_utf8(s->grammar_length ? s->grammar : "", s->grammar_length) ? 0 : ERR_MALFORMED;
}

int engine_open_encode(struct buf *out, const struct engine_open *m)
{
	int err = check_open(m);
	if (err)
		return err;
	const struct sampling *s = &m->sampling;
	struct head_writer head;
	struct buf tail;
	head_begin(&head, m->forks ? 9 : 8);
	pack_kv_bin(&head.w, "session", m->session, SESSION_BYTES);
	if (m->forks)
		pack_kv_bin(&head.w, "from", m->from, SESSION_BYTES);
	pack_kv_uint(&head.w, "epoch", m->epoch);
	pack_kv_uint(&head.w, "stage", m->stage);
	pack_kv_uint(&head.w, "first", m->range.first);
	pack_kv_uint(&head.w, "end", m->range.end);
	pack_kv_uint(&head.w, "context", m->context);
	pack_kv_uint(&head.w, "prompt", m->prompt);
	pack_str(&head.w, "sampling");
	pack_map(&head.w, 12);
	pack_kv_double(&head.w, "temperature", s->temperature);
	pack_kv_double(&head.w, "top_p", s->top_p);
	pack_kv_double(&head.w, "min_p", s->min_p);
	pack_kv_uint(&head.w, "top_k", (uint64_t)s->top_k);
	pack_kv_double(&head.w, "repeat_penalty", s->repeat_penalty);
	pack_kv_double(&head.w, "presence_penalty", s->presence_penalty);
	pack_kv_double(&head.w, "frequency_penalty", s->frequency_penalty);
	pack_kv_uint(&head.w, "seed", s->seed);
	pack_kv_bool(&head.w, "ignore_end", s->ignore_end);
	pack_kv_uint(&head.w, "top", s->top);
	pack_kv_uint(&head.w, "n_bias", s->n_bias);
	pack_kv_uint(&head.w, "grammar", s->grammar_length);
	buf_init(&tail, FRAME_TAIL_MAX);
	err = buf_append(&tail, s->bias, s->n_bias * LOGIT_BIAS_BYTES);
	if (!err)
		err = buf_append(&tail, s->grammar, s->grammar_length);
	if (err)
		head.w.err = err;
	err = head_end(&head, out, FRAME_ENGINE_OPEN, tail.data, tail.length);
	buf_release(&tail);
	return err;
}

/* A float in a double's clothes: what no float can hold becomes infinite, which check_open() refuses. */
static float get_float(struct pack_cursor c, const char *key, float otherwise)
{
	double v = pack_get_double_or(c, key, otherwise);
	return fabs(v) <= 1e30 ? (float)v : INFINITY;
}

static void read_sampling(struct pack_cursor c, const struct frame *f, struct sampling *s)
{
	s->temperature = get_float(c, "temperature", 0);
	s->top_p = get_float(c, "top_p", 1);
	s->min_p = get_float(c, "min_p", 0);
	s->top_k = (int32_t)pack_get_uint_or(c, "top_k", INT32_MAX, 0);
	s->repeat_penalty = get_float(c, "repeat_penalty", 1);
	s->presence_penalty = get_float(c, "presence_penalty", 0);
	s->frequency_penalty = get_float(c, "frequency_penalty", 0);
	s->seed = pack_get_uint_or(c, "seed", UINT64_MAX, 0);
	s->ignore_end = pack_get_bool_or(c, "ignore_end", false);
	s->top = (uint32_t)pack_get_uint_or(c, "top", TOP_LOGPROBS_MAX, 0);
	s->n_bias = (size_t)pack_get_uint_or(c, "n_bias", LOGIT_BIAS_MAX, 0);
	s->grammar_length = (size_t)pack_get_uint_or(c, "grammar", GRAMMAR_BYTES_MAX, 0);
	if (s->n_bias * LOGIT_BIAS_BYTES + s->grammar_length != f->tail_length)
		field_fail(c, ERR_MALFORMED);
	s->bias = f->tail;
	s->grammar = f->tail_length ? (const char *)f->tail + s->n_bias * LOGIT_BIAS_BYTES : NULL;
}

int engine_open_decode(const struct frame *f, struct engine_open *m)
{
	struct head_reader head;
	*m = (struct engine_open){ 0 };
	int err = head_open(&head, f, FRAME_ENGINE_OPEN, true);
	if (err)
		return err;
	pack_get_exact(head.c, "session", m->session, SESSION_BYTES);
	m->epoch = (uint32_t)pack_get_uint(head.c, "epoch", UINT32_MAX);
	m->stage = (uint32_t)pack_get_uint(head.c, "stage", RING_STAGES_MAX - 1);
	m->range.first = (uint32_t)pack_get_uint(head.c, "first", MODEL_LAYERS_MAX);
	m->range.end = (uint32_t)pack_get_uint(head.c, "end", MODEL_LAYERS_MAX);
	m->context = (uint32_t)pack_get_uint(head.c, "context", CONTEXT_MAX);
	m->prompt = (uint32_t)pack_get_uint_or(head.c, "prompt", CONTEXT_MAX, 0);
	read_sampling(pack_get(head.c, "sampling"), f, &m->sampling);
	m->forks = pack_has(head.c, "from");
	if (m->forks)
		pack_get_exact(head.c, "from", m->from, SESSION_BYTES);
	err = head_close(&head);
	return err ? err : check_open(m);
}

/* --- render ------------------------------------------------------------------------------------------
 *
 * Head {"request", "chat", "add_special", "parse_special", "pieces", "embed", "lengths": [role, content, role, content, ...]}; tail: the
 * texts in that order. They are UTF-8 without NUL, because a tokenizer that meets anything else may abort. Without lengths the tail
 * is token ids. RENDERED answers in its tail with ids, then pieces, then an embedding; its head says how many, how long, how wide. */

static bool are_ids(const uint8_t *tokens, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (tokens[4 * i + 3] & 0x80)
			return false;        /* no token has a negative id */
	return true;
}

static int check_text(const char *text, size_t n, size_t *total)
{
	if (n > RENDER_BYTES_MAX - *total)
		return ERR_LIMIT;
	*total += n;
	return text_is_utf8(n ? text : "", n) ? 0 : ERR_MALFORMED;
}

int engine_render_encode(struct buf *out, const struct engine_render *m)
{
	if ((m->n_messages < 1) == (m->n_tokens < 1))
		return ERR_MALFORMED;
	if (m->n_messages > RENDER_MESSAGES_MAX || m->n_tokens > RENDER_TOKENS_MAX)
		return ERR_LIMIT;
	if (!are_ids(m->tokens, m->n_tokens))
		return ERR_MALFORMED;

	struct head_writer head;
	struct buf tail;
	buf_init(&tail, RENDER_BYTES_MAX);
	head_begin(&head, 7);
	pack_kv_uint(&head.w, "request", m->request);
	pack_kv_bool(&head.w, "chat", m->chat);
	pack_kv_bool(&head.w, "add_special", m->add_special);
	pack_kv_bool(&head.w, "parse_special", m->parse_special);
	pack_kv_bool(&head.w, "pieces", m->pieces);
	pack_kv_bool(&head.w, "embed", m->embed);
	pack_str(&head.w, "lengths");
	pack_array(&head.w, 2 * m->n_messages);
	size_t total = 0;
	int err = 0;
	for (size_t i = 0; !err && i < m->n_messages; i++) {
		const struct render_message *text = &m->messages[i];
		pack_uint(&head.w, text->role_length);
		pack_uint(&head.w, text->content_length);
		err = check_text(text->role, text->role_length, &total);
		if (!err)
			err = check_text(text->content, text->content_length, &total);
		if (!err)
			err = buf_append(&tail, text->role, text->role_length);
		if (!err)
			err = buf_append(&tail, text->content, text->content_length);
	}
	if (!err)
		err = buf_append(&tail, m->tokens, 4 * m->n_tokens);
	if (err)
		head.w.err = err;
	err = head_end(&head, out, FRAME_ENGINE_RENDER, tail.data, tail.length);
	buf_release(&tail);
	return err;
}

/* One text of the tail: moves *offset behind it. */
static const char *take_text(struct pack_cursor list, size_t i, const struct frame *f, size_t *offset, size_t *length)
{
	size_t n = (size_t)pack_at_uint(list, i, RENDER_BYTES_MAX);
	*length = 0;
	if (*list.err)
		return NULL;
	const char *text = (const char *)f->tail + *offset;
	if (n > f->tail_length - *offset || !text_is_utf8(text, n)) {
		field_fail(list, ERR_MALFORMED);
		return NULL;
	}
	*offset += n;
	*length = n;
	return text;
}

int engine_render_decode(const struct frame *f, struct engine_render *m)
{
	struct head_reader head;
	*m = (struct engine_render){ 0 };
	if (f->type == FRAME_ENGINE_RENDER && f->tail_length > RENDER_BYTES_MAX)
		return ERR_LIMIT;
	int err = head_open(&head, f, FRAME_ENGINE_RENDER, true);
	if (err)
		return err;

	m->request = (uint32_t)pack_get_uint(head.c, "request", UINT32_MAX);
	m->chat = pack_get_bool_or(head.c, "chat", false);
	m->add_special = pack_get_bool_or(head.c, "add_special", false);
	m->parse_special = pack_get_bool_or(head.c, "parse_special", false);
	m->pieces = pack_get_bool_or(head.c, "pieces", false);
	m->embed = pack_get_bool_or(head.c, "embed", false);
	struct pack_cursor list = pack_get(head.c, "lengths");
	size_t n = pack_count(list), offset = 0;
	if (!head.err && (n % 2 || !pack_is_array(list)))
		field_fail(head.c, ERR_MALFORMED);
	if (!head.err && n == 0) {
		if (f->tail_length == 0 || f->tail_length % 4 || !are_ids(f->tail, f->tail_length / 4))
			field_fail(head.c, ERR_MALFORMED);
		m->tokens = f->tail;
		m->n_tokens = offset = f->tail_length;
		m->n_tokens /= 4;
	}
	if (n > 2 * RENDER_MESSAGES_MAX)
		field_fail(head.c, ERR_LIMIT);
	if (!head.err && n) {
		m->messages = calloc(n / 2, sizeof(*m->messages));
		m->n_messages = n / 2;
		if (!m->messages)
			field_fail(head.c, -ENOMEM);
	}
	for (size_t i = 0; !head.err && i < n; i += 2) {
		struct render_message *text = &m->messages[i / 2];
		text->role = take_text(list, i, f, &offset, &text->role_length);
		text->content = take_text(list, i + 1, f, &offset, &text->content_length);
	}
	if (!head.err && offset != f->tail_length)
		field_fail(head.c, ERR_MALFORMED);
	err = head_close(&head);
	if (err)
		engine_render_free(m);
	return err;
}

void engine_render_free(struct engine_render *m)
{
	free(m->messages);
	*m = (struct engine_render){ 0 };
}

const uint8_t *rendered_piece(const struct engine_rendered *m, size_t *at, size_t *length)
{
	const uint8_t *piece = m->pieces + *at + 2;
	*length = get_u16(m->pieces + *at);
	*at += 2 + *length;
	return piece;
}

static int check_rendered(const struct engine_rendered *m)
{
	size_t at = 0;
	if (m->n_tokens > RENDER_TOKENS_MAX || m->pieces_length > FRAME_TAIL_MAX || m->n_embd > MODEL_EMBD_MAX)
		return ERR_LIMIT;
	if (!are_ids(m->tokens, m->n_tokens))
		return ERR_MALFORMED;
	for (size_t i = 0; m->pieces_length && i < m->n_tokens; i++) {
		if (m->pieces_length - at < 2 || m->pieces_length - at - 2 < get_u16(m->pieces + at))
			return ERR_MALFORMED;
		at += 2 + (size_t)get_u16(m->pieces + at);
	}
	if (at != m->pieces_length)
		return ERR_MALFORMED;
	for (uint32_t i = 0; i < m->n_embd; i++)
		if ((get_u32(m->embedding + 4 * (size_t)i) & 0x7f800000u) == 0x7f800000u)
			return ERR_MALFORMED;
	return 0;
}

int engine_rendered_encode(struct buf *out, const struct engine_rendered *m)
{
	struct head_writer head;
	struct buf tail;
	int err = check_rendered(m);
	if (err)
		return err;
	buf_init(&tail, FRAME_TAIL_MAX);
	head_begin(&head, 4);
	pack_kv_uint(&head.w, "request", m->request);
	pack_kv_uint(&head.w, "n_tokens", m->n_tokens);
	pack_kv_uint(&head.w, "pieces", m->pieces_length);
	pack_kv_uint(&head.w, "n_embd", m->n_embd);
	err = buf_append(&tail, m->tokens, 4 * m->n_tokens);
	if (!err)
		err = buf_append(&tail, m->pieces, m->pieces_length);
	if (!err)
		err = buf_append(&tail, m->embedding, 4 * (size_t)m->n_embd);
	if (err)
		head.w.err = err;
	err = head_end(&head, out, FRAME_ENGINE_RENDERED, tail.data, tail.length);
	buf_release(&tail);
	return err;
}

int engine_rendered_decode(const struct frame *f, struct engine_rendered *m)
{
	struct head_reader head;
	*m = (struct engine_rendered){ 0 };
	int err = head_open(&head, f, FRAME_ENGINE_RENDERED, true);
	if (err)
		return err;
	m->request = (uint32_t)pack_get_uint(head.c, "request", UINT32_MAX);
	m->n_tokens = (size_t)pack_get_uint_or(head.c, "n_tokens", RENDER_TOKENS_MAX, f->tail_length / 4);
	m->pieces_length = (size_t)pack_get_uint_or(head.c, "pieces", FRAME_TAIL_MAX, 0);
	m->n_embd = (uint32_t)pack_get_uint_or(head.c, "n_embd", MODEL_EMBD_MAX, 0);
	if (4 * m->n_tokens + m->pieces_length + 4 * (size_t)m->n_embd != f->tail_length)
		field_fail(head.c, ERR_MALFORMED);
	m->tokens = f->tail;
	m->pieces = f->tail + 4 * m->n_tokens;
	m->embedding = m->pieces + m->pieces_length;
	err = head_close(&head);
	if (!err)
		err = check_rendered(m);
	if (err)
		*m = (struct engine_rendered){ 0 };
	return err;
}

/* --- fault, progress --------------------------------------------------------------------------------- */

int engine_fault_encode(struct buf *out, const struct engine_fault *m)
{
	if (m->code >= 0)
		return ERR_MALFORMED;
	char detail[sizeof(m->detail)];
	field_make_plain(detail, sizeof(detail), m->detail);
	struct head_writer head;
	head_begin(&head, 3);
	pack_kv_uint(&head.w, "request", m->request);
	pack_kv_int(&head.w, "code", m->code);
	pack_kv_str(&head.w, "detail", detail);
	return head_end(&head, out, FRAME_ENGINE_FAULT, NULL, 0);
}

int engine_fault_decode(const struct frame *f, struct engine_fault *m)
{
	struct head_reader head;
	*m = (struct engine_fault){ 0 };
	int err = head_open(&head, f, FRAME_ENGINE_FAULT, false);
	if (err)
		return err;
	m->request = (uint32_t)pack_get_uint(head.c, "request", UINT32_MAX);
	m->code = field_get_code(head.c, "code", -1);
	field_get_plain(head.c, "detail", m->detail, sizeof(m->detail));
	return head_close(&head);
}

int engine_progress_encode(struct buf *out, const struct engine_progress *m)
{
	if (m->permille > 1000)
		return ERR_LIMIT;
	struct head_writer head;
	head_begin(&head, 2);
	pack_kv_uint(&head.w, "request", m->request);
	pack_kv_uint(&head.w, "permille", m->permille);
	return head_end(&head, out, FRAME_ENGINE_PROGRESS, NULL, 0);
}

int engine_progress_decode(const struct frame *f, struct engine_progress *m)
{
	struct head_reader head;
	*m = (struct engine_progress){ 0 };
	int err = head_open(&head, f, FRAME_ENGINE_PROGRESS, false);
	if (err)
		return err;
	m->request = (uint32_t)pack_get_uint(head.c, "request", UINT32_MAX);
	m->permille = (uint32_t)pack_get_uint(head.c, "permille", 1000);
	return head_close(&head);
}
