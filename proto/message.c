/* message.c: the heads of ring frames; message_engine.c has those that only the socketpair sees.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/message.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/fields.h"
#include "proto/message_heads.h"

/* --- heads ------------------------------------------------------------------------------------------- */

void head_begin(struct head_writer *head, size_t pairs)
{
	buf_init(&head->bytes, FRAME_HEAD_MAX);
	pack_writer_init(&head->w, &head->bytes);
	pack_map(&head->w, pairs);
}

int head_end(struct head_writer *head, struct buf *out, enum frame_type type, const void *tail, size_t tail_length)
{
	int err = head->w.err;
	if (!err)
		err = frame_encode(out, type, head->bytes.data, head->bytes.length, tail, tail_length);
	buf_release(&head->bytes);
	return err;
}

int head_open(struct head_reader *head, const struct frame *f, enum frame_type type, bool with_tail)
{
	if (f->type != type || (!with_tail && f->tail_length))
		return ERR_MALFORMED;
	int err = pack_parse(&head->doc, f->head, f->head_length, &pack_limits_head);
	if (err)
		return err;
	head->c = pack_root(&head->doc, &head->err);
	if (!pack_is_map(head->c)) {
		pack_release(&head->doc);
		return ERR_MALFORMED;
	}
	return 0;
}

int head_close(struct head_reader *head)
{
	pack_release(&head->doc);
	return head->err;
}

static void put_session(struct head_writer *head, const uint8_t session[SESSION_BYTES], uint32_t epoch)
{
	pack_kv_bin(&head->w, "session", session, SESSION_BYTES);
	pack_kv_uint(&head->w, "epoch", epoch);
}

static void get_session(struct head_reader *head, uint8_t session[SESSION_BYTES], uint32_t *epoch)
{
	pack_get_exact(head->c, "session", session, SESSION_BYTES);
	*epoch = (uint32_t)pack_get_uint(head->c, "epoch", UINT32_MAX);
}

/* --- ROWS --------------------------------------------------------------------------------------------
 *
 * Head {"blocks": [[session, epoch, stage, sequence, position, count, want, encoding, microseconds, length], ...]};
 * tail: the blocks' rows in that order, without gaps. Arrays, because this is what every token costs on every hop. */

enum { BLOCK_FIELDS = 10 };

/* The rules of one block, for both directions. */
static int check_block(const struct rows_block *b)
{
	if (b->count == 0 || b->want > b->count)
		return ERR_MALFORMED;
	if (b->count > CHUNK_ROWS || b->stage >= RING_STAGES_MAX || b->position >= CONTEXT_MAX ||
	    b->count > CONTEXT_MAX - b->position)
		return ERR_LIMIT;

	size_t row = b->rows_length / b->count;
	if (row * b->count != b->rows_length)
		return ERR_MALFORMED;
	switch (b->encoding) {
	case ENCODING_TOKEN:
		return row == sizeof(int32_t) ? 0 : ERR_MALFORMED;
	case ENCODING_F32:
		if (row == 0 || row % sizeof(float))
			return ERR_MALFORMED;
		return row / sizeof(float) > MODEL_EMBD_MAX ? ERR_LIMIT : 0;
	case ENCODING_F16:
		break;
	}
	return ERR_UNSUPPORTED;
}

static void put_block(struct pack_writer *w, const struct rows_block *b)
{
	pack_array(w, BLOCK_FIELDS);
	pack_bin(w, b->session, SESSION_BYTES);
	pack_uint(w, b->epoch);
	pack_uint(w, b->stage);
	pack_uint(w, b->sequence);
	pack_uint(w, b->position);
	pack_uint(w, b->count);
	pack_uint(w, b->want);
	pack_uint(w, b->encoding);
	pack_uint(w, b->microseconds);
	pack_uint(w, b->rows_length);
}

int rows_encode(struct buf *out, const struct rows_message *m)
{
	if (m->n_blocks == 0)
		return ERR_MALFORMED;
	if (m->n_blocks > ROWS_BLOCKS_MAX)
		return ERR_LIMIT;
	struct head_writer head;
	head_begin(&head, 1);
	pack_str(&head.w, "blocks");
	pack_array(&head.w, m->n_blocks);
	int err = 0;
	for (size_t i = 0; !err && i < m->n_blocks; i++) {
		err = check_block(&m->blocks[i]);
		put_block(&head.w, &m->blocks[i]);
	}

	/* One block, by far the most usual: its rows go straight into the frame. */
	struct buf joined;
	buf_init(&joined, FRAME_TAIL_MAX);
	for (size_t i = 0; !err && m->n_blocks > 1 && i < m->n_blocks; i++)
		err = buf_append(&joined, m->blocks[i].rows, m->blocks[i].rows_length);
	if (err)
		head.w.err = err;
	if (m->n_blocks == 1)
		err = head_end(&head, out, FRAME_ROWS, m->blocks[0].rows, m->blocks[0].rows_length);
	else
		err = head_end(&head, out, FRAME_ROWS, joined.data, joined.length);
	buf_release(&joined);
	return err;
}

static void read_block(struct pack_cursor c, const struct frame *f, size_t *offset, struct rows_block *b)
{
	if (!*c.err && !pack_is_array(c))
		field_fail(c, ERR_MALFORMED);
	pack_at_exact(c, 0, b->session, SESSION_BYTES);
	b->epoch = (uint32_t)pack_at_uint(c, 1, UINT32_MAX);
	b->stage = (uint32_t)pack_at_uint(c, 2, RING_STAGES_MAX - 1);
	b->sequence = pack_at_uint(c, 3, UINT64_MAX);
	b->position = (uint32_t)pack_at_uint(c, 4, CONTEXT_MAX - 1);
	b->count = (uint32_t)pack_at_uint(c, 5, CHUNK_ROWS);
	b->want = (uint32_t)pack_at_uint(c, 6, CHUNK_ROWS);
	b->encoding = (enum encoding)pack_at_uint(c, 7, UINT16_MAX);
	b->microseconds = (uint32_t)pack_at_uint(c, 8, UINT32_MAX);
	b->rows_length = (size_t)pack_at_uint(c, 9, FRAME_TAIL_MAX);
	if (*c.err)
		return;
	if (b->rows_length > f->tail_length - *offset) {
		field_fail(c, ERR_MALFORMED);
		return;
	}
	b->rows = f->tail + *offset;
	*offset += b->rows_length;
	int err = check_block(b);
	if (err)
		field_fail(c, err);
}

int rows_decode(const struct frame *f, struct rows_message *m)
{
	struct head_reader head;
	m->n_blocks = 0;
	int err = head_open(&head, f, FRAME_ROWS, true);
	if (err)
		return err;

	struct pack_cursor list = pack_get(head.c, "blocks");
	size_t n = pack_count(list), offset = 0;
	if (n > ROWS_BLOCKS_MAX)
		field_fail(head.c, ERR_LIMIT);
	if (!head.err && (n == 0 || !pack_is_array(list)))
		field_fail(head.c, ERR_MALFORMED);
	for (size_t i = 0; !head.err && i < n; i++)
		read_block(pack_at(list, i), f, &offset, &m->blocks[i]);
	if (!head.err && offset != f->tail_length)
		field_fail(head.c, ERR_MALFORMED);
	err = head_close(&head);
	if (!err)
		m->n_blocks = n;
	return err;
}

/* --- TOKENS ------------------------------------------------------------------------------------------
 *
 * Head {session, epoch, "sequence", "position", "microseconds", "tokens": [[id, logprob, end, length, top], ...]}, where top, a
 * later addition, is [id, logprob, length, id, logprob, length, ...]; tail: the pieces in that order, without gaps. */

enum { TOKEN_FIELDS = 5, TOP_FIELDS = 3 };

/* A token's piece, or one of its neighbours': the rules are the same. */
static int put_piece(struct pack_writer *w, struct buf *tail, int32_t id, float logprob, const uint8_t *piece, uint32_t length)
{
	if (id < 0 || !isfinite(logprob))
		return ERR_MALFORMED;
	if (length > PIECE_MAX)
		return ERR_LIMIT;
	pack_uint(w, (uint64_t)id);
	pack_double(w, logprob);
	return length ? buf_append(tail, piece, length) : 0;
}

int tokens_encode(struct buf *out, const struct tokens_message *m)
{
	if (m->n_tokens > TOKENS_MAX || m->position > CONTEXT_MAX)
		return ERR_LIMIT;
	struct head_writer head;
	head_begin(&head, 6);
	put_session(&head, m->session, m->epoch);
	pack_kv_uint(&head.w, "sequence", m->sequence);
	pack_kv_uint(&head.w, "position", m->position);
	pack_kv_uint(&head.w, "microseconds", m->microseconds);
	pack_str(&head.w, "tokens");
	pack_array(&head.w, m->n_tokens);

	struct buf tail;
	size_t tops = 0;
	int err = 0;
	buf_init(&tail, FRAME_TAIL_MAX);
	for (size_t i = 0; !err && i < m->n_tokens; i++) {
		const struct token *t = &m->tokens[i];
		tops += t->n_top;
		if (t->n_top > TOP_LOGPROBS_MAX || tops > TOPS_MAX)
			err = ERR_LIMIT;
		if (err)
			break;
		pack_array(&head.w, TOKEN_FIELDS);
		err = put_piece(&head.w, &tail, t->id, t->logprob, t->piece, t->piece_length);
		pack_uint(&head.w, t->end);
		pack_uint(&head.w, t->piece_length);
		pack_array(&head.w, TOP_FIELDS * t->n_top);
		for (size_t k = 0; !err && k < t->n_top; k++) {
			err = put_piece(&head.w, &tail, t->top[k].id, t->top[k].logprob, t->top[k].piece, t->top[k].piece_length);
			pack_uint(&head.w, t->top[k].piece_length);
		}
	}
	if (err)
		head.w.err = err;
	err = head_end(&head, out, FRAME_TOKENS, tail.data, tail.length);
	buf_release(&tail);
	return err;
}

/* Its place in the tail; moves *offset behind it. */
static const uint8_t *take_piece(struct pack_cursor c, const struct frame *f, size_t *offset, double logprob, uint32_t length)
{
	if (*c.err)
		return NULL;
	if (fabs(logprob) > FLT_MAX || length > f->tail_length - *offset) {
		field_fail(c, ERR_MALFORMED);
		return NULL;
	}
	const uint8_t *piece = f->tail + *offset;
	*offset += length;
	return piece;
}

static void read_tops(struct pack_cursor list, const struct frame *f, size_t *offset, size_t *tops, struct token *t)
{
	size_t n = pack_count(list) / TOP_FIELDS;
	t->n_top = 0;
	if (*list.err)
		return;
	if (!pack_is_array(list) || pack_count(list) % TOP_FIELDS) {
		field_fail(list, ERR_MALFORMED);
		return;
	}
	*tops += n;
	if (n > TOP_LOGPROBS_MAX || *tops > TOPS_MAX) {
		field_fail(list, ERR_LIMIT);
		return;
	}
	for (size_t k = 0; k < n; k++) {
		struct token_top *top = &t->top[k];
		top->id = (int32_t)pack_at_uint(list, TOP_FIELDS * k, INT32_MAX);
		double logprob = pack_at_double(list, TOP_FIELDS * k + 1);
		top->piece_length = (uint32_t)pack_at_uint(list, TOP_FIELDS * k + 2, PIECE_MAX);
		top->piece = take_piece(list, f, offset, logprob, top->piece_length);
		top->logprob = top->piece ? (float)logprob : 0;
	}
	t->n_top = *list.err ? 0 : (uint32_t)n;
}

static void read_token(struct pack_cursor c, const struct frame *f, size_t *offset, size_t *tops, struct token *t)
{
	if (!*c.err && !pack_is_array(c))
		field_fail(c, ERR_MALFORMED);
	t->id = (int32_t)pack_at_uint(c, 0, INT32_MAX);
	double logprob = pack_at_double(c, 1);
	t->end = pack_at_uint(c, 2, 1);
	t->piece_length = (uint32_t)pack_at_uint(c, 3, PIECE_MAX);
	t->piece = take_piece(c, f, offset, logprob, t->piece_length);
	if (*c.err)
		return;
	t->logprob = (float)logprob;
	t->n_top = 0;
	if (pack_count(c) > TOKEN_FIELDS - 1)
		read_tops(pack_at(c, TOKEN_FIELDS - 1), f, offset, tops, t);
}

int tokens_decode(const struct frame *f, struct tokens_message *m)
{
	struct head_reader head;
	m->n_tokens = 0;
	int err = head_open(&head, f, FRAME_TOKENS, true);
	if (err)
		return err;

	get_session(&head, m->session, &m->epoch);
	m->sequence = pack_get_uint(head.c, "sequence", UINT64_MAX);
	m->position = (uint32_t)pack_get_uint(head.c, "position", CONTEXT_MAX);
	m->microseconds = (uint32_t)pack_get_uint(head.c, "microseconds", UINT32_MAX);
	struct pack_cursor list = pack_get(head.c, "tokens");
	size_t n = pack_count(list), offset = 0, tops = 0;
	if (n > TOKENS_MAX)
		field_fail(head.c, ERR_LIMIT);
	if (!head.err && !pack_is_array(list))
		field_fail(head.c, ERR_MALFORMED);
	for (size_t i = 0; !head.err && i < n; i++)
		read_token(pack_at(list, i), f, &offset, &tops, &m->tokens[i]);
	if (!head.err && offset != f->tail_length)
		field_fail(head.c, ERR_MALFORMED);
	err = head_close(&head);
	if (!err)
		m->n_tokens = n;
	return err;
}

/* --- READY, FAULT, CLOSE ----------------------------------------------------------------------------- */

int ticket_message_encode(struct buf *out, const struct ticket_message *m)
{
	if (!m->ticket_length)
		return ERR_MALFORMED;
	if (m->ticket_length > TICKET_MAX)
		return ERR_LIMIT;
	struct head_writer head;
	head_begin(&head, m->forks ? 1 : 0);
	if (m->forks)
		pack_kv_bin(&head.w, "from", m->from, SESSION_BYTES);
	return head_end(&head, out, FRAME_TICKET, m->ticket, m->ticket_length);
}

int ticket_message_decode(const struct frame *f, struct ticket_message *m)
{
	struct head_reader head;
	*m = (struct ticket_message){ .ticket = f->tail, .ticket_length = f->tail_length };
	int err = head_open(&head, f, FRAME_TICKET, true);
	if (err)
		return err;
	m->forks = pack_has(head.c, "from");
	if (m->forks)
		pack_get_exact(head.c, "from", m->from, SESSION_BYTES);
	if (!head.err && !m->ticket_length)
		field_fail(head.c, ERR_MALFORMED);
	if (!head.err && m->ticket_length > TICKET_MAX)
		field_fail(head.c, ERR_LIMIT);
	return head_close(&head);
}

int ready_encode(struct buf *out, const struct ready_message *m)
{
	if (m->stage >= RING_STAGES_MAX)
		return ERR_LIMIT;
	struct head_writer head;
	head_begin(&head, 3);
	put_session(&head, m->session, m->epoch);
	pack_kv_uint(&head.w, "stage", m->stage);
	return head_end(&head, out, FRAME_READY, NULL, 0);
}

int ready_decode(const struct frame *f, struct ready_message *m)
{
	struct head_reader head;
	*m = (struct ready_message){ 0 };
	int err = head_open(&head, f, FRAME_READY, false);
	if (err)
		return err;
	get_session(&head, m->session, &m->epoch);
	m->stage = (uint32_t)pack_get_uint(head.c, "stage", RING_STAGES_MAX - 1);
	return head_close(&head);
}

int fault_encode(struct buf *out, const struct fault_message *m)
{
	if (m->code >= 0)
		return ERR_MALFORMED;
	if (m->stage >= RING_STAGES_MAX || m->position > CONTEXT_MAX)
		return ERR_LIMIT;
	/* The detail often quotes a library's message: it is made plain, not refused, so that the fault gets through. */
	char detail[sizeof(m->detail)];
	field_make_plain(detail, sizeof(detail), m->detail);
	struct head_writer head;
	head_begin(&head, 6);
	put_session(&head, m->session, m->epoch);
	pack_kv_uint(&head.w, "stage", m->stage);
	pack_kv_int(&head.w, "code", m->code);
	pack_kv_uint(&head.w, "position", m->position);
	pack_kv_str(&head.w, "detail", detail);
	return head_end(&head, out, FRAME_FAULT, NULL, 0);
}

int fault_decode(const struct frame *f, struct fault_message *m)
{
	struct head_reader head;
	*m = (struct fault_message){ 0 };
	int err = head_open(&head, f, FRAME_FAULT, false);
	if (err)
		return err;
	get_session(&head, m->session, &m->epoch);
	m->stage = (uint32_t)pack_get_uint(head.c, "stage", RING_STAGES_MAX - 1);
	m->code = field_get_code(head.c, "code", -1);
	m->position = (uint32_t)pack_get_uint(head.c, "position", CONTEXT_MAX);
	field_get_plain(head.c, "detail", m->detail, sizeof(m->detail));
	return head_close(&head);
}

int close_encode(struct buf *out, const struct close_message *m)
{
	if (m->reason > 0)
		return ERR_MALFORMED;
	if ((m->stage >= RING_STAGES_MAX && m->stage != UINT32_MAX) || m->keep_s > KEEP_S_MAX)
		return ERR_LIMIT;
	struct head_writer head;
	head_begin(&head, m->keep_s ? 5 : 4);
	put_session(&head, m->session, m->epoch);
	pack_kv_uint(&head.w, "stage", m->stage);
	pack_kv_int(&head.w, "reason", m->reason);
	if (m->keep_s)
		pack_kv_uint(&head.w, "keep", m->keep_s);
	return head_end(&head, out, FRAME_CLOSE, NULL, 0);
}

int close_decode(const struct frame *f, struct close_message *m)
{
	struct head_reader head;
	*m = (struct close_message){ 0 };
	int err = head_open(&head, f, FRAME_CLOSE, false);
	if (err)
		return err;
	get_session(&head, m->session, &m->epoch);
	m->stage = (uint32_t)pack_get_uint(head.c, "stage", UINT32_MAX);
	m->reason = field_get_code(head.c, "reason", 0);
	m->keep_s = (uint32_t)pack_get_uint_or(head.c, "keep", KEEP_S_MAX, 0);
	if (!head.err && m->stage >= RING_STAGES_MAX && m->stage != UINT32_MAX)
		field_fail(head.c, ERR_LIMIT);
	return head_close(&head);
}
