/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/gateway.h"

#include <string.h>

#include "proto/fields.h"
#include "proto/message_heads.h"

#define RETRY_AFTER_MAX 86400
#define BYE_MAX 4096

/* --- SEALED ------------------------------------------------------------------------------------------ */

static int check_sealed(const struct sealed_message *m)
{
	bool failed = m->step == SEALED_FAILED;
	if (m->step < SEALED_FIRST || m->step > SEALED_FAILED || failed != (m->code < 0) || m->code > 0 || m->code < INT16_MIN)
		return ERR_MALFORMED;
	if (failed ? m->n > 0 : m->n < CHANNEL_TAG)
		return ERR_MALFORMED;
	if (m->n > CHANNEL_MESSAGE_MAX)
		return ERR_LIMIT;
	return memcmp(m->from, m->to, KEY_BYTES) ? 0 : ERR_MALFORMED;
}

int sealed_encode(struct buf *out, const struct sealed_message *m)
{
	int err = check_sealed(m);
	if (err)
		return err;
	struct head_writer head;
	head_begin(&head, 5);
	pack_kv_bin(&head.w, "from", m->from, KEY_BYTES);
	pack_kv_bin(&head.w, "to", m->to, KEY_BYTES);
	pack_kv_bin(&head.w, "channel", m->channel, CHANNEL_ID_BYTES);
	pack_kv_uint(&head.w, "step", m->step);
	pack_kv_int(&head.w, "code", m->code);
	return head_end(&head, out, FRAME_SEALED, m->bytes, m->n);
}

int sealed_decode(const struct frame *f, struct sealed_message *m)
{
	struct head_reader head;
	*m = (struct sealed_message){0};
	int err = head_open(&head, f, FRAME_SEALED, true);
	if (err)
		return err;
	pack_get_exact(head.c, "from", m->from, KEY_BYTES);
	pack_get_exact(head.c, "to", m->to, KEY_BYTES);
	pack_get_exact(head.c, "channel", m->channel, CHANNEL_ID_BYTES);
	m->step = (enum sealed_step)pack_get_uint(head.c, "step", SEALED_FAILED);
	m->code = field_get_code(head.c, "code", 0);
	m->bytes = f->tail;
	m->n = f->tail_length;
	err = head_close(&head);
	return err ? err : check_sealed(m);
}

/* --- ASK, START --------------------------------------------------------------------------------------- */

int gateway_ask_encode(struct buf *out, const struct gateway_ask *m)
{
	if (!m->model[0] || !field_is_plain(m->model) || m->max_tokens > CONTEXT_MAX)
		return ERR_MALFORMED;
	struct head_writer head;
	head_begin(&head, 2);
	pack_kv_str(&head.w, "model", m->model);
	pack_kv_uint(&head.w, "max_tokens", m->max_tokens);
	return head_end(&head, out, FRAME_GATEWAY_ASK, NULL, 0);
}

int gateway_ask_decode(const struct frame *f, struct gateway_ask *m)
{
	struct head_reader head;
	*m = (struct gateway_ask){0};
	int err = head_open(&head, f, FRAME_GATEWAY_ASK, false);
	if (err)
		return err;
	field_get_plain(head.c, "model", m->model, sizeof m->model);
	m->max_tokens = (uint32_t)pack_get_uint(head.c, "max_tokens", CONTEXT_MAX);
	err = head_close(&head);
	return err ? err : m->model[0] ? 0 : ERR_MALFORMED;
}

int gateway_start_encode(struct buf *out, const struct gateway_start *m)
{
	if (!field_is_plain(m->model) || !field_is_plain(m->association) || m->prompt_tokens > CONTEXT_MAX)
		return ERR_MALFORMED;
	struct head_writer head;
	head_begin(&head, 3);
	pack_kv_str(&head.w, "model", m->model);
	pack_kv_str(&head.w, "association", m->association);
	pack_kv_uint(&head.w, "prompt_tokens", m->prompt_tokens);
	return head_end(&head, out, FRAME_GATEWAY_START, NULL, 0);
}

int gateway_start_decode(const struct frame *f, struct gateway_start *m)
{
	struct head_reader head;
	*m = (struct gateway_start){0};
	int err = head_open(&head, f, FRAME_GATEWAY_START, false);
	if (err)
		return err;
	field_get_plain(head.c, "model", m->model, sizeof m->model);
	field_get_plain(head.c, "association", m->association, sizeof m->association);
	m->prompt_tokens = (uint32_t)pack_get_uint(head.c, "prompt_tokens", CONTEXT_MAX);
	return head_close(&head);
}

/* --- END ------------------------------------------------------------------------------------------------
 *
 * "stages": [[node, text, first, end, rows, microseconds], ...] */

enum { STAGE_FIELDS = 6 };

static int check_end(const struct gateway_end *m)
{
	if (m->err > 0 || m->n_stages > RING_STAGES_MAX || m->retry_after > RETRY_AFTER_MAX || m->prompt_tokens > CONTEXT_MAX ||
	    m->completion_tokens > CONTEXT_MAX)
		return ERR_MALFORMED;
	for (size_t i = 0; i < m->n_stages; i++)
		if (!field_is_range(&m->stages[i].range, MODEL_LAYERS_MAX))
			return ERR_MALFORMED;
	return 0;
}

int gateway_end_encode(struct buf *out, const struct gateway_end *m)
{
	char detail[sizeof m->detail];
	int err = check_end(m);
	if (err)
		return err;
	struct head_writer head;
	head_begin(&head, 9);
	field_make_plain(detail, sizeof detail, m->detail);
	pack_kv_int(&head.w, "err", m->err);
	pack_kv_str(&head.w, "detail", detail);
	pack_kv_bool(&head.w, "length", m->length);
	pack_kv_uint(&head.w, "retry_after", m->retry_after);
	pack_kv_uint(&head.w, "prompt_tokens", m->prompt_tokens);
	pack_kv_uint(&head.w, "completion_tokens", m->completion_tokens);
	pack_kv_uint(&head.w, "prefill_us", m->prefill_us);
	pack_kv_uint(&head.w, "decode_us", m->decode_us);
	pack_str(&head.w, "stages");
	pack_array(&head.w, m->n_stages);
	for (size_t i = 0; i < m->n_stages; i++) {
		const struct gateway_stage *s = &m->stages[i];
		pack_array(&head.w, STAGE_FIELDS);
		pack_bin(&head.w, s->node, KEY_BYTES);
		pack_uint(&head.w, s->text);
		pack_uint(&head.w, s->range.first);
		pack_uint(&head.w, s->range.end);
		pack_uint(&head.w, s->rows);
		pack_uint(&head.w, s->microseconds);
	}
	return head_end(&head, out, FRAME_GATEWAY_END, NULL, 0);
}

static void read_stages(struct pack_cursor list, struct gateway_end *m)
{
	size_t n = pack_count(list);
	if (n > RING_STAGES_MAX)
		field_fail(list, ERR_LIMIT);
	if (*list.err)
		return;
	for (m->n_stages = 0; m->n_stages < n; m->n_stages++) {
		struct pack_cursor c = pack_at(list, m->n_stages);
		struct gateway_stage *s = &m->stages[m->n_stages];
		pack_at_exact(c, 0, s->node, KEY_BYTES);
		s->text = pack_at_uint(c, 1, 1);
		s->range.first = (uint32_t)pack_at_uint(c, 2, MODEL_LAYERS_MAX);
		s->range.end = (uint32_t)pack_at_uint(c, 3, MODEL_LAYERS_MAX);
		s->rows = pack_at_uint(c, 4, INT64_MAX);
		s->microseconds = pack_at_uint(c, 5, INT64_MAX);
	}
}

int gateway_end_decode(const struct frame *f, struct gateway_end *m)
{
	struct head_reader head;
	*m = (struct gateway_end){0};
	int err = head_open(&head, f, FRAME_GATEWAY_END, false);
	if (err)
		return err;
	m->err = field_get_code(head.c, "err", 0);
	field_get_plain(head.c, "detail", m->detail, sizeof m->detail);
	m->length = pack_get_bool_or(head.c, "length", false);
	m->retry_after = (uint32_t)pack_get_uint(head.c, "retry_after", RETRY_AFTER_MAX);
	m->prompt_tokens = (uint32_t)pack_get_uint(head.c, "prompt_tokens", CONTEXT_MAX);
	m->completion_tokens = (uint32_t)pack_get_uint(head.c, "completion_tokens", CONTEXT_MAX);
	m->prefill_us = pack_get_uint(head.c, "prefill_us", INT64_MAX);
	m->decode_us = pack_get_uint(head.c, "decode_us", INT64_MAX);
	read_stages(pack_get(head.c, "stages"), m);
	err = head_close(&head);
	return err ? err : check_end(m);
}

/* --- BYE ---------------------------------------------------------------------------------------------- */

int gateway_bye_encode(struct buf *out, int why)
{
	struct head_writer head;
	if (why > 0 || why < -BYE_MAX)
		return ERR_MALFORMED;
	head_begin(&head, 1);
	pack_kv_int(&head.w, "why", why);
	return head_end(&head, out, FRAME_BYE, NULL, 0);
}

int gateway_bye_decode(const struct frame *f, int *why)
{
	struct head_reader head;
	int err = head_open(&head, f, FRAME_BYE, false);
	*why = ERR_MALFORMED;
	if (err)
		return err;
	int said = field_get_code(head.c, "why", 0);
	err = head_close(&head);
	if (!err && said < -BYE_MAX)
		err = ERR_MALFORMED;
	if (!err)
		*why = said;
	return err;
}
