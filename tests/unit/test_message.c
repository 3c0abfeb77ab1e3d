/* Messages: every frame of message.h there and back, every limit, and views that stay inside the frame.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"
#include "tests/samples.h"

/* A frame with memory of its own, of exactly its size, so that ASan sees a read past it. */
struct owned {
	uint8_t *bytes;
	size_t n;
	struct frame frame;
};

static struct owned own(struct buf *encoded)
{
	struct owned o = { .n = encoded->length };
	size_t used;
	o.bytes = malloc(o.n);
	memcpy(o.bytes, encoded->data, o.n);
	assert_int_equal(frame_decode(o.bytes, o.n, &o.frame, &used), 0);
	assert_int_equal(used, o.n);
	buf_clear(encoded);
	return o;
}

static bool is_inside(const struct frame *f, const void *view, size_t n)
{
	const uint8_t *at = view;
	return at >= f->tail && at + n <= f->tail + f->tail_length;
}

static struct buf wire;      /* what is being encoded */

static int setup(void **state)
{
	samples_init();
	buf_init(&wire, FRAME_MAX);
	return 0;
}

static int teardown(void **state)
{
	buf_release(&wire);
	return 0;
}

/* Decodes a frame with the decoder of a type and throws the result away. */
static int decode_as(enum frame_type type, const struct frame *f)
{
	static struct rows_message rows;
	static struct tokens_message tokens;
	static struct engine_inspect inspect;
	struct ready_message ready;
	struct fault_message fault;
	struct close_message close;
	struct ticket_message ticket_message;
	struct engine_hello hello;
	struct engine_inspected inspected;
	struct engine_load load;
	struct engine_loaded loaded;
	struct engine_open open;
	struct engine_render render;
	struct engine_rendered rendered;
	struct engine_fault engine_fault;
	struct engine_progress progress;
	struct ticket ticket;
	int err;
	switch (type) {
	case FRAME_TICKET:
		err = ticket_message_decode(f, &ticket_message);
		assert_true(err || is_inside(f, ticket_message.ticket, ticket_message.ticket_length));
		return err ? err : ticket_open(&ticket, ticket_message.ticket, ticket_message.ticket_length);
	case FRAME_READY:
		return ready_decode(f, &ready);
	case FRAME_ROWS:
		err = rows_decode(f, &rows);
		assert_true(rows.n_blocks <= ROWS_BLOCKS_MAX && !err == !!rows.n_blocks);
		for (size_t i = 0; i < rows.n_blocks; i++)
			assert_true(is_inside(f, rows.blocks[i].rows, rows.blocks[i].rows_length));
		return err;
	case FRAME_TOKENS:
		err = tokens_decode(f, &tokens);
		assert_true(tokens.n_tokens <= TOKENS_MAX && (!err || !tokens.n_tokens));
		for (size_t i = 0; i < tokens.n_tokens; i++)
			assert_true(is_inside(f, tokens.tokens[i].piece, tokens.tokens[i].piece_length));
		return err;
	case FRAME_FAULT:
		return fault_decode(f, &fault);
	case FRAME_CLOSE:
		return close_decode(f, &close);
	case FRAME_ENGINE_HELLO:
		return engine_hello_decode(f, &hello);
	case FRAME_ENGINE_INSPECT:
		return engine_inspect_decode(f, &inspect);
	case FRAME_ENGINE_INSPECTED:
		err = engine_inspected_decode(f, &inspected);
		manifest_free(&inspected.manifest);
		return err;
	case FRAME_ENGINE_LOAD:
		err = engine_load_decode(f, &load);
		assert_true(!err || !load.extents);
		engine_load_free(&load);
		return err;
	case FRAME_ENGINE_LOADED:
		return engine_loaded_decode(f, &loaded);
	case FRAME_ENGINE_OPEN:
		return engine_open_decode(f, &open);
	case FRAME_ENGINE_RENDER:
		err = engine_render_decode(f, &render);
		for (size_t i = 0; i < render.n_messages; i++)
			assert_true(is_inside(f, render.messages[i].role, render.messages[i].role_length) &&
				    is_inside(f, render.messages[i].content, render.messages[i].content_length));
		assert_true(!err || !render.messages);
		engine_render_free(&render);
		return err;
	case FRAME_ENGINE_RENDERED:
		err = engine_rendered_decode(f, &rendered);
		assert_true(err || is_inside(f, rendered.tokens, 4 * rendered.n_tokens));
		return err;
	case FRAME_ENGINE_FAULT:
		return engine_fault_decode(f, &engine_fault);
	case FRAME_ENGINE_PROGRESS:
		return engine_progress_decode(f, &progress);
	default:
		return ERR_MALFORMED;
	}
}

static int decode_any(const struct frame *f)
{
	return decode_as(f->type, f);
}

/* --- all of them ------------------------------------------------------------------------------------------ */

static void message_of_every_type_decodes(void **state)
{
	for (size_t i = 0; i < samples_of_messages(); i++) {
		sample_message(&wire, i);
		struct owned o = own(&wire);
		assert_int_equal(decode_any(&o.frame), 0);
		free(o.bytes);
	}
}

static void message_of_another_type_is_refused(void **state)
{
	for (size_t i = 0; i < samples_of_messages(); i++) {
		sample_message(&wire, i);
		struct owned o = own(&wire);
		enum frame_type honest = o.frame.type;
		for (unsigned type = 1; type < 256; type++) {
			o.frame.type = type;
			if (honest != FRAME_TICKET)      /* whose tail is all there is */
				assert_int_equal(decode_as(honest, &o.frame), type == honest ? 0 : ERR_MALFORMED);
		}
		free(o.bytes);
	}
}

/* Every head and tail cut at every byte, and every bit flipped: an error or a message, never a read outside. */
static void message_cut_or_flipped_anywhere_stays_inside_the_frame(void **state)
{
	for (size_t i = 0; i < samples_of_messages(); i++) {
		sample_message(&wire, i);
		struct owned o = own(&wire);
		struct frame f = o.frame;
		for (size_t n = 0; n < o.frame.head_length; n++) {
			f.head = malloc(n ? n : 1);
			memcpy((void *)f.head, o.frame.head, n);
			f.head_length = n;
			if (f.type != FRAME_TICKET)      /* whose head nobody reads */
				assert_true(decode_any(&f) < 0);
			free((void *)f.head);
		}
		f = o.frame;
		for (size_t n = 0; n < o.frame.tail_length; n++) {
			f.tail = malloc(n ? n : 1);
			memcpy((void *)f.tail, o.frame.tail, n);
			f.tail_length = n;
			int err = decode_any(&f);
			/* Whole extents and whole tokens are messages of their own. */
			if (f.type != FRAME_ENGINE_LOAD && f.type != FRAME_ENGINE_RENDERED)
				assert_true(err < 0);
			free((void *)f.tail);
		}
		for (size_t bit = FRAME_HEADER * 8; bit < o.n * 8; bit++) {
			o.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
			decode_any(&o.frame);
			o.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		free(o.bytes);
	}
}

static void message_without_a_tail_takes_none(void **state)
{
	static const enum frame_type none[] = { FRAME_READY, FRAME_FAULT, FRAME_CLOSE, FRAME_ENGINE_HELLO, FRAME_ENGINE_INSPECT,
						FRAME_ENGINE_LOADED, FRAME_ENGINE_OPEN, FRAME_ENGINE_FAULT, FRAME_ENGINE_PROGRESS };
	size_t seen = 0;
	for (size_t i = 0; i < samples_of_messages(); i++) {
		sample_message(&wire, i);
		struct owned o = own(&wire);
		for (size_t k = 0; k < sizeof(none) / sizeof(*none); k++) {
			if (o.frame.type != none[k])
				continue;
			o.frame.tail = (const uint8_t *)"x";
			o.frame.tail_length = 1;
			assert_int_equal(decode_any(&o.frame), ERR_MALFORMED);
			seen++;
		}
		free(o.bytes);
	}
	assert_int_equal(seen, sizeof(none) / sizeof(*none));
}

static void message_that_does_not_fit_leaves_the_buffer_alone(void **state)
{
	static const uint8_t rows[8];
	struct rows_message *m = calloc(1, sizeof(*m));
	*m = (struct rows_message){ .n_blocks = 1, .blocks = { { .count = 1, .encoding = ENCODING_F32, .rows = rows, .rows_length = 8 } } };
	assert_int_equal(rows_encode(&wire, m), 0);
	size_t n = wire.length;
	buf_clear(&wire);
	for (size_t room = 0; room <= n; room++) {
		assert_int_equal(buf_append(&wire, "before", 6), 0);
		wire.max = 6 + room;
		assert_int_equal(rows_encode(&wire, m), room < n ? ERR_LIMIT : 0);
		assert_int_equal(wire.length, room < n ? 6 : 6 + n);
		wire.max = FRAME_MAX;
		buf_clear(&wire);
	}
	free(m);
}

/* Heads written by hand. */
static int decode_head(enum frame_type type, const char *head, size_t n, const char *tail, size_t tail_length)
{
	assert_int_equal(frame_encode(&wire, type, head, n, tail, tail_length), 0);
	struct owned o = own(&wire);
	int err = decode_any(&o.frame);
	free(o.bytes);
	return err;
}
#define RAW(bytes) (bytes), sizeof(bytes) - 1

static void message_head_is_a_map_and_may_know_more_keys(void **state)
{
	assert_int_equal(decode_head(FRAME_ENGINE_PROGRESS, RAW("\x82\xa7request\x06\xa8permille\x01"), "", 0), 0);
	assert_int_equal(decode_head(FRAME_ENGINE_PROGRESS, RAW("\x83\xa7request\x06\xa5later\xc0\xa8permille\x01"), "", 0), 0);
	assert_int_equal(decode_head(FRAME_ENGINE_PROGRESS, RAW("\x81\xa7request\x06"), "", 0), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_PROGRESS, RAW("\x83\xa7request\x06\xa7request\x06\xa8permille\x01"), "", 0), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_PROGRESS, RAW("\x92\x06\x01"), "", 0), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_PROGRESS, RAW(""), "", 0), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_PROGRESS, RAW("\xdd\x10\x00\x00\x00"), "", 0), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_PROGRESS, RAW("\x82\xa7request\x06\xa8permille\xcd\x03\xe9"), "", 0), ERR_LIMIT);
	assert_int_equal(decode_head(FRAME_ENGINE_PROGRESS, RAW("\x82\xa7request\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa8permille\x01"), "", 0), ERR_LIMIT);
}

/* --- ROWS ------------------------------------------------------------------------------------------------- */

static struct rows_message rows_of(size_t n_blocks, const uint8_t *bytes)
{
	struct rows_message m = { .n_blocks = n_blocks };
	for (size_t i = 0; i < n_blocks && i < ROWS_BLOCKS_MAX; i++)
		m.blocks[i] = (struct rows_block){ .session = { (uint8_t)i }, .epoch = 3, .stage = 2, .sequence = i, .position = 64,
						   .count = 2, .want = 1, .encoding = ENCODING_F32, .microseconds = 7,
						   .rows = bytes, .rows_length = 2 * 12 };
	return m;
}

static void rows_of_several_sessions_share_a_frame(void **state)
{
	uint8_t bytes[24];
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)i;
	struct rows_message m = rows_of(ROWS_BLOCKS_MAX, bytes), *got = malloc(sizeof(*got));
	m.blocks[5].encoding = ENCODING_TOKEN;
	m.blocks[5].rows_length = 8;
	assert_int_equal(rows_encode(&wire, &m), 0);
	struct owned o = own(&wire);
	assert_int_equal(rows_decode(&o.frame, got), 0);
	assert_int_equal(got->n_blocks, ROWS_BLOCKS_MAX);
	const uint8_t *next = o.frame.tail;
	for (size_t i = 0; i < ROWS_BLOCKS_MAX; i++) {
		const struct rows_block *b = &got->blocks[i], *sent = &m.blocks[i];
		assert_memory_equal(b->session, sent->session, SESSION_BYTES);
		assert_int_equal(b->epoch, 3);
		assert_int_equal(b->stage, 2);
		assert_int_equal(b->sequence, i);
		assert_int_equal(b->position, 64);
		assert_int_equal(b->count, 2);
		assert_int_equal(b->want, 1);
		assert_int_equal(b->encoding, sent->encoding);
		assert_int_equal(b->microseconds, 7);
		assert_int_equal(b->rows_length, sent->rows_length);
		assert_ptr_equal(b->rows, next);
		assert_memory_equal(b->rows, bytes, b->rows_length);
		next += b->rows_length;
	}
	assert_ptr_equal(next, o.frame.tail + o.frame.tail_length);
	free(o.bytes);
	free(got);
}

static void rows_of_the_widest_chunk_fill_a_frame(void **state)
{
	uint8_t *bytes = calloc(1, FRAME_TAIL_MAX);
	struct rows_message *m = calloc(1, sizeof(*m));
	m->n_blocks = 1;
	m->blocks[0] = (struct rows_block){ .count = CHUNK_ROWS, .encoding = ENCODING_F32, .rows = bytes, .rows_length = FRAME_TAIL_MAX };
	assert_int_equal(rows_encode(&wire, m), 0);
	struct owned o = own(&wire);
	assert_int_equal(rows_decode(&o.frame, m), 0);
	assert_int_equal(m->blocks[0].rows_length, FRAME_TAIL_MAX);
	free(o.bytes);

	m->n_blocks = 2;         /* each within its limits, both past the frame's */
	m->blocks[1] = m->blocks[0];
	m->blocks[0].rows = m->blocks[1].rows = bytes;
	assert_int_equal(rows_encode(&wire, m), ERR_LIMIT);
	free(m);
	free(bytes);
}

static void rows_blocks_stay_in_their_limits(void **state)
{
	static const uint8_t bytes[4 * (MODEL_EMBD_MAX + 1)];
	static const struct { struct rows_block b; int err; } cases[] = {
#define BLOCK(...) { .count = 1, .want = 1, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 8, __VA_ARGS__ }
		{ BLOCK(.stage = RING_STAGES_MAX - 1), 0 },
		{ BLOCK(.stage = RING_STAGES_MAX), ERR_LIMIT },
		{ { .count = 1, .want = 0, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 8 }, 0 },
		{ { .count = 1, .want = 2, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 8 }, ERR_MALFORMED },
		{ { .count = 0, .want = 0, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 8 }, ERR_MALFORMED },
		{ { .count = 32, .want = 32, .encoding = ENCODING_TOKEN, .rows = bytes, .rows_length = 128 }, 0 },
		{ { .count = 33, .want = 0, .encoding = ENCODING_TOKEN, .rows = bytes, .rows_length = 132 }, ERR_LIMIT },
		{ BLOCK(.position = CONTEXT_MAX - 1), 0 },
		{ BLOCK(.position = CONTEXT_MAX), ERR_LIMIT },
		{ BLOCK(.position = UINT32_MAX), ERR_LIMIT },
		{ { .count = 2, .position = CONTEXT_MAX - 1, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 8 }, ERR_LIMIT },
		{ { .count = 2, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 12 }, ERR_MALFORMED },     /* one and a half */
		{ { .count = 2, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 9 }, ERR_MALFORMED },
		{ { .count = 1, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 6 }, ERR_MALFORMED },
		{ { .count = 1, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 0 }, ERR_MALFORMED },
		{ { .count = 1, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 4 * MODEL_EMBD_MAX }, 0 },
		{ { .count = 1, .encoding = ENCODING_F32, .rows = bytes, .rows_length = 4 * (MODEL_EMBD_MAX + 1) }, ERR_LIMIT },
		{ { .count = 2, .encoding = ENCODING_TOKEN, .rows = bytes, .rows_length = 4 }, ERR_MALFORMED },
		{ { .count = 1, .encoding = ENCODING_TOKEN, .rows = bytes, .rows_length = 8 }, ERR_MALFORMED },
		{ { .count = 1, .encoding = ENCODING_F16, .rows = bytes, .rows_length = 8 }, ERR_UNSUPPORTED },
		{ { .count = 1, .encoding = 0, .rows = bytes, .rows_length = 8 }, ERR_UNSUPPORTED },
#undef BLOCK
	};
	struct rows_message *m = calloc(1, sizeof(*m));
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		m->n_blocks = 1;
		m->blocks[0] = cases[i].b;
		assert_int_equal(rows_encode(&wire, m), cases[i].err);
		if (cases[i].err)
			assert_int_equal(wire.length, 0);
		buf_clear(&wire);

		/* The same from a peer that does not check itself. */
		struct buf head;
		struct pack_writer w;
		buf_init(&head, FRAME_HEAD_MAX);
		pack_writer_init(&w, &head);
		pack_map(&w, 1);
		pack_str(&w, "blocks");
		pack_array(&w, 1);
		const struct rows_block *b = &cases[i].b;
		pack_array(&w, 11);
		pack_bin(&w, b->session, SESSION_BYTES);
		const uint64_t numbers[] = { b->epoch, b->stage, b->sequence, b->position, b->count, b->want, b->encoding, b->microseconds, b->rows_length };
		for (size_t k = 0; k < 9; k++)
			pack_uint(&w, numbers[k]);
		pack_str(&w, "of a later version");
		assert_int_equal(w.err, 0);
		assert_int_equal(decode_head(FRAME_ROWS, (const char *)head.data, head.length, (const char *)b->rows, b->rows_length), cases[i].err);
		buf_release(&head);
	}
	m->n_blocks = 0;
	assert_int_equal(rows_encode(&wire, m), ERR_MALFORMED);
	m->n_blocks = ROWS_BLOCKS_MAX + 1;
	assert_int_equal(rows_encode(&wire, m), ERR_LIMIT);
	free(m);
}

/* One block of 8 bytes, whose length field and whose tail say what they are told to. */
static int decode_rows(unsigned blocks, uint64_t length, size_t tail_length)
{
	struct buf head;
	struct pack_writer w;
	static const char tail[64];
	buf_init(&head, FRAME_HEAD_MAX);
	pack_writer_init(&w, &head);
	pack_map(&w, 1);
	pack_str(&w, "blocks");
	pack_array(&w, blocks);
	for (unsigned i = 0; i < blocks; i++) {
		static const uint8_t session[SESSION_BYTES];
		pack_array(&w, 10);
		pack_bin(&w, session, SESSION_BYTES);
		const uint64_t numbers[] = { 0, 0, 0, 0, 1, 0, ENCODING_F32, 0, length };
		for (size_t k = 0; k < 9; k++)
			pack_uint(&w, numbers[k]);
	}
	int err = decode_head(FRAME_ROWS, (const char *)head.data, head.length, tail, tail_length);
	buf_release(&head);
	return err;
}

static void rows_and_tail_have_the_same_length(void **state)
{
	assert_int_equal(decode_rows(1, 8, 8), 0);
	assert_int_equal(decode_rows(2, 8, 16), 0);
	assert_int_equal(decode_rows(1, 8, 9), ERR_MALFORMED);          /* bytes that nobody claims */
	assert_int_equal(decode_rows(1, 8, 4), ERR_MALFORMED);
	assert_int_equal(decode_rows(2, 8, 8), ERR_MALFORMED);
	assert_int_equal(decode_rows(1, 8, 0), ERR_MALFORMED);
	assert_int_equal(decode_rows(1, FRAME_TAIL_MAX + 4, 8), ERR_LIMIT);
	assert_int_equal(decode_rows(1, UINT64_MAX - 7, 8), ERR_LIMIT);
	assert_int_equal(decode_rows(0, 8, 0), ERR_MALFORMED);
	assert_int_equal(decode_rows(ROWS_BLOCKS_MAX + 1, 4, 4 * 1), ERR_LIMIT);
}

/* --- TOKENS, READY, FAULT, CLOSE --------------------------------------------------------------------------- */

static void tokens_round_trip_up_to_their_limits(void **state)
{
	static uint8_t piece[PIECE_MAX + 1];
	struct tokens_message *m = calloc(1, sizeof(*m)), *got = malloc(sizeof(*got));
	memset(piece, 0xc3, sizeof(piece));             /* half a character each: any bytes are fine */
	m->epoch = UINT32_MAX;
	m->sequence = UINT64_MAX;
	m->position = CONTEXT_MAX;
	m->microseconds = UINT32_MAX;
	m->n_tokens = TOKENS_MAX;
	for (size_t i = 0; i < TOKENS_MAX; i++)
		m->tokens[i] = (struct token){ .id = INT32_MAX, .logprob = -12.5f, .end = i == 63, .piece_length = (uint32_t)(i ? PIECE_MAX : 0),
					       .piece = piece };
	assert_int_equal(tokens_encode(&wire, m), 0);
	struct owned o = own(&wire);
	assert_int_equal(tokens_decode(&o.frame, got), 0);
	assert_int_equal(got->epoch, UINT32_MAX);
	assert_int_equal(got->sequence, UINT64_MAX);
	assert_int_equal(got->position, CONTEXT_MAX);
	assert_int_equal(got->microseconds, UINT32_MAX);
	assert_int_equal(got->n_tokens, TOKENS_MAX);
	assert_int_equal(got->tokens[0].piece_length, 0);
	assert_false(got->tokens[62].end);
	assert_true(got->tokens[63].end);
	assert_int_equal(got->tokens[63].id, INT32_MAX);
	assert_true(got->tokens[63].logprob == -12.5f);
	assert_memory_equal(got->tokens[63].piece, piece, PIECE_MAX);
	free(o.bytes);

	m->n_tokens = 0;          /* prefill: nothing was wanted */
	assert_int_equal(tokens_encode(&wire, m), 0);
	o = own(&wire);
	assert_int_equal(tokens_decode(&o.frame, got), 0);
	assert_int_equal(got->n_tokens, 0);
	free(o.bytes);

	m->n_tokens = TOKENS_MAX + 1;
	assert_int_equal(tokens_encode(&wire, m), ERR_LIMIT);
	m->n_tokens = 1;
	m->tokens[0].piece_length = PIECE_MAX + 1;
	assert_int_equal(tokens_encode(&wire, m), ERR_LIMIT);
	m->tokens[0].piece_length = 0;
	m->tokens[0].id = -1;
	assert_int_equal(tokens_encode(&wire, m), ERR_MALFORMED);
	m->tokens[0].id = 0;
	m->tokens[0].logprob = NAN;
	assert_int_equal(tokens_encode(&wire, m), ERR_MALFORMED);
	m->tokens[0].logprob = -INFINITY;
	assert_int_equal(tokens_encode(&wire, m), ERR_MALFORMED);
	m->tokens[0].logprob = 0;
	m->position = CONTEXT_MAX + 1;
	assert_int_equal(tokens_encode(&wire, m), ERR_LIMIT);
	assert_int_equal(wire.length, 0);
	free(m);
	free(got);
}

static void tokens_come_with_their_neighbours_up_to_the_limits(void **state)
{
	static uint8_t piece[PIECE_MAX];
	struct tokens_message *m = calloc(1, sizeof(*m)), *got = malloc(sizeof(*got));
	memset(piece, 'x', sizeof(piece));
	m->n_tokens = CHUNK_ROWS;
	for (size_t i = 0; i < CHUNK_ROWS; i++) {
		m->tokens[i] = (struct token){ .id = (int32_t)i, .piece_length = 1, .piece = piece, .n_top = TOP_LOGPROBS_MAX };
		for (size_t k = 0; k < TOP_LOGPROBS_MAX; k++)
			m->tokens[i].top[k] = (struct token_top){ .id = INT32_MAX - (int32_t)k, .logprob = -0.5f, .piece_length = PIECE_MAX, .piece = piece };
	}
	assert_int_equal(tokens_encode(&wire, m), 0);
	struct owned o = own(&wire);
	assert_int_equal(tokens_decode(&o.frame, got), 0);
	assert_int_equal(got->tokens[31].n_top, TOP_LOGPROBS_MAX);
	assert_int_equal(got->tokens[31].top[19].id, INT32_MAX - 19);
	assert_true(got->tokens[31].top[19].logprob == -0.5f);
	assert_int_equal(got->tokens[31].top[19].piece_length, PIECE_MAX);
	assert_memory_equal(got->tokens[31].top[19].piece, piece, PIECE_MAX);
	free(o.bytes);

	m->tokens[0].n_top = TOP_LOGPROBS_MAX + 1;
	assert_int_equal(tokens_encode(&wire, m), ERR_LIMIT);
	m->tokens[0].n_top = TOP_LOGPROBS_MAX;
	m->tokens[CHUNK_ROWS] = m->tokens[0];
	m->n_tokens = CHUNK_ROWS + 1;                   /* more neighbours than a frame may carry */
	assert_int_equal(tokens_encode(&wire, m), ERR_LIMIT);
	m->n_tokens = 1;
	m->tokens[0].top[3].logprob = NAN;
	assert_int_equal(tokens_encode(&wire, m), ERR_MALFORMED);
	m->tokens[0].top[3].logprob = 0;
	m->tokens[0].top[3].id = -1;
	assert_int_equal(tokens_encode(&wire, m), ERR_MALFORMED);
	m->tokens[0].top[3].id = 1;
	m->tokens[0].top[3].piece_length = PIECE_MAX + 1;
	assert_int_equal(tokens_encode(&wire, m), ERR_LIMIT);
	assert_int_equal(wire.length, 0);
	free(m);
	free(got);
}

/* One token from a peer that does not check itself: raw is [id, logprob, end, length]. */
static int decode_token(const char *raw, size_t n, size_t tail_length)
{
	struct buf head;
	struct pack_writer w;
	static const uint8_t session[SESSION_BYTES];
	static const char tail[PIECE_MAX + 1];
	buf_init(&head, FRAME_HEAD_MAX);
	pack_writer_init(&w, &head);
	pack_map(&w, 6);
	pack_kv_bin(&w, "session", session, SESSION_BYTES);
	pack_kv_uint(&w, "epoch", 0);
	pack_kv_uint(&w, "sequence", 0);
	pack_kv_uint(&w, "position", 0);
	pack_kv_uint(&w, "microseconds", 0);
	pack_str(&w, "tokens");
	pack_array(&w, 1);
	buf_append(&head, raw, n);
	int err = decode_head(FRAME_TOKENS, (const char *)head.data, head.length, tail, tail_length);
	buf_release(&head);
	return err;
}

static void tokens_from_a_careless_peer_are_checked(void **state)
{
	assert_int_equal(decode_token(RAW("\x94\x05\xca\xbf\x80\x00\x00\x00\x03"), 3), 0);
	assert_int_equal(decode_token(RAW("\x95\x05\xca\xbf\x80\x00\x00\x00\x03\x90"), 3), 0);             /* no neighbours */
	assert_int_equal(decode_token(RAW("\x95\x05\xca\xbf\x80\x00\x00\x00\x03\x93\x06\xca\xc0\x00\x00\x00\x01"), 4), 0);    /* one */
	assert_int_equal(decode_token(RAW("\x96\x05\xca\xbf\x80\x00\x00\x00\x03\x90\xc0"), 3), 0);         /* a later field */
	assert_int_equal(decode_token(RAW("\x95\x05\xca\xbf\x80\x00\x00\x00\x03\xc0"), 3), ERR_MALFORMED);
	assert_int_equal(decode_token(RAW("\x95\x05\xca\xbf\x80\x00\x00\x00\x03\x92\x06\xca\xc0\x00\x00"), 3), ERR_MALFORMED);
	assert_int_equal(decode_token(RAW("\x95\x05\xca\xbf\x80\x00\x00\x00\x03\x93\x06\xca\xc0\x00\x00\x00\x02"), 4), ERR_MALFORMED);
	assert_int_equal(decode_token(RAW("\x95\x05\xca\xbf\x80\x00\x00\x00\x03\x93\xff\xca\xc0\x00\x00\x00\x01"), 4), ERR_MALFORMED);
	assert_int_equal(decode_token(RAW("\x95\x05\xca\xbf\x80\x00\x00\x00\x03\x93\x06\xca\x7f\xc0\x00\x00\x01"), 4), ERR_MALFORMED);
	assert_int_equal(decode_token(RAW("\x94\x05\xca\xbf\x80\x00\x00\x00\x03"), 2), ERR_MALFORMED);
	assert_int_equal(decode_token(RAW("\x94\x05\xca\xbf\x80\x00\x00\x00\x03"), 4), ERR_MALFORMED);
	assert_int_equal(decode_token(RAW("\x93\x05\xca\xbf\x80\x00\x00\x00"), 0), ERR_MALFORMED);
	assert_int_equal(decode_token(RAW("\x94\xff\xca\xbf\x80\x00\x00\x00\x00"), 0), ERR_MALFORMED);     /* id -1 */
	assert_int_equal(decode_token(RAW("\x94\xce\x80\x00\x00\x00\xca\xbf\x80\x00\x00\x00\x00"), 0), ERR_LIMIT);
	assert_int_equal(decode_token(RAW("\x94\x05\xca\x7f\xc0\x00\x00\x00\x00"), 0), ERR_MALFORMED);     /* NaN */
	assert_int_equal(decode_token(RAW("\x94\x05\xcb\xff\xef\xff\xff\xff\xff\xff\xff\x00\x00"), 0), ERR_MALFORMED);   /* no float */
	assert_int_equal(decode_token(RAW("\x94\x05\xca\xbf\x80\x00\x00\x02\x00"), 0), ERR_LIMIT);         /* end: 0 or 1 */
	assert_int_equal(decode_token(RAW("\x94\x05\xca\xbf\x80\x00\x00\x00\xcd\x01\x01"), PIECE_MAX + 1), ERR_LIMIT);
}

static void tickets_travel_with_the_session_they_fork_from(void **state)
{
	static const uint8_t body[TICKET_MAX + 1] = "a ticket's bytes are ticket.h's business";
	struct ticket_message m = { .ticket = body, .ticket_length = 40 }, got;
	for (int forks = 0; forks < 2; forks++) {
		m.forks = forks;
		memset(m.from, forks ? 0x5c : 0, sizeof m.from);
		assert_int_equal(ticket_message_encode(&wire, &m), 0);
		struct owned o = own(&wire);
		assert_int_equal(ticket_message_decode(&o.frame, &got), 0);
		assert_int_equal(got.forks, forks);
		assert_memory_equal(got.from, m.from, sizeof m.from);
		assert_int_equal(got.ticket_length, 40);
		assert_memory_equal(got.ticket, body, 40);
		free(o.bytes);
	}
	m.ticket_length = TICKET_MAX + 1;
	assert_int_equal(ticket_message_encode(&wire, &m), ERR_LIMIT);
	m.ticket_length = 0;
	assert_int_equal(ticket_message_encode(&wire, &m), ERR_MALFORMED);
	assert_int_equal(wire.length, 0);
	assert_int_equal(decode_head(FRAME_TICKET, RAW("\x81\xa4" "from\xc4\x0f" "0123456789abcde"), "x", 1), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_TICKET, RAW("\x81\xa4" "from\x05"), "x", 1), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_TICKET, RAW("\x80"), "", 0), ERR_MALFORMED);
}

static void ready_fault_and_close_round_trip(void **state)
{
	struct ready_message ready = { .session = { 1, 2 }, .epoch = 9, .stage = RING_STAGES_MAX - 1 }, ready_got;
	assert_int_equal(ready_encode(&wire, &ready), 0);
	struct owned o = own(&wire);
	assert_int_equal(ready_decode(&o.frame, &ready_got), 0);
	assert_memory_equal(&ready, &ready_got, sizeof(ready));
	free(o.bytes);
	ready.stage++;
	assert_int_equal(ready_encode(&wire, &ready), ERR_LIMIT);

	struct fault_message fault = { .session = { 3 }, .epoch = 9, .stage = 1, .code = ERR_NEED_REPLAY, .position = 77, .detail = "why" }, fault_got;
	assert_int_equal(fault_encode(&wire, &fault), 0);
	o = own(&wire);
	assert_int_equal(fault_decode(&o.frame, &fault_got), 0);
	assert_memory_equal(&fault, &fault_got, sizeof(fault));
	free(o.bytes);
	fault.code = 0;
	assert_int_equal(fault_encode(&wire, &fault), ERR_MALFORMED);
	fault.code = 5;
	assert_int_equal(fault_encode(&wire, &fault), ERR_MALFORMED);

	struct close_message close = { .session = { 4 }, .epoch = 9, .stage = UINT32_MAX, .reason = 0 }, close_got;
	assert_int_equal(close_encode(&wire, &close), 0);
	o = own(&wire);
	assert_int_equal(close_decode(&o.frame, &close_got), 0);
	assert_memory_equal(&close, &close_got, sizeof(close));
	free(o.bytes);
	close.keep_s = KEEP_S_MAX;
	assert_int_equal(close_encode(&wire, &close), 0);
	o = own(&wire);
	assert_int_equal(close_decode(&o.frame, &close_got), 0);
	assert_int_equal(close_got.keep_s, KEEP_S_MAX);
	free(o.bytes);
	close.keep_s++;
	assert_int_equal(close_encode(&wire, &close), ERR_LIMIT);
	close.keep_s = 0;
	close.stage = RING_STAGES_MAX;
	assert_int_equal(close_encode(&wire, &close), ERR_LIMIT);
	close.stage = 0;
	close.reason = 1;
	assert_int_equal(close_encode(&wire, &close), ERR_MALFORMED);
	assert_int_equal(wire.length, 0);

	static const char session[] = "\xa7session\xc4\x10" "0123456789abcdef\xa5" "epoch\x01\xa5stage";
	char head[128];
	size_t n = sizeof(session) - 1;
	head[0] = '\x84';
	memcpy(head + 1, session, n);
	memcpy(head + 1 + n, "\xce\x00\x00\x00\x20\xa6reason\x00", 13);
	assert_int_equal(decode_head(FRAME_CLOSE, head, 1 + n + 13, "", 0), ERR_LIMIT);           /* stage 32 */
	memcpy(head + 1 + n, "\xce\x00\x00\x00\x1f\xa6reason\x01", 13);
	assert_int_equal(decode_head(FRAME_CLOSE, head, 1 + n + 13, "", 0), ERR_MALFORMED);       /* reason 1 */
	memcpy(head + 1 + n, "\xce\x00\x00\x00\x1f\xa6reason\xff", 13);
	assert_int_equal(decode_head(FRAME_CLOSE, head, 1 + n + 13, "", 0), 0);
}

static void fault_details_get_through_made_plain(void **state)
{
	static const struct { const char *said, *heard; } details[] = {
		{ "", "" },
		{ "two\nlines\t.", "two?lines?." },
		{ "\x1b[31mred", "?[31mred" },
		{ "caf\xc3\xa9", "caf\xc3\xa9" },
		{ "c1 \xc2\x9b x", "c1 ?? x" },
		{ "half \xc3", "half ?" },
		{ "bad \xff\xfe \xc3\xa9", "bad ?? ??" },
	};
	for (size_t i = 0; i < sizeof(details) / sizeof(*details); i++) {
		struct fault_message m = { .code = ERR_ENGINE }, got;
		strcpy(m.detail, details[i].said);
		assert_int_equal(fault_encode(&wire, &m), 0);
		struct owned o = own(&wire);
		assert_int_equal(fault_decode(&o.frame, &got), 0);
		assert_string_equal(got.detail, details[i].heard);
		free(o.bytes);
	}
	/* Every two bytes: whatever a library says, the fault is a message that the other side takes. */
	for (unsigned pair = 0; pair < 65536; pair++) {
		struct engine_fault m = { .code = ERR_ENGINE }, got;
		m.detail[0] = 'x';
		m.detail[1] = (char)(pair >> 8);
		m.detail[2] = (char)pair;
		m.detail[3] = '\x80';
		buf_clear(&wire);
		assert_int_equal(engine_fault_encode(&wire, &m), 0);
		struct frame f;
		size_t used;
		assert_int_equal(frame_decode(wire.data, wire.length, &f, &used), 0);
		assert_int_equal(engine_fault_decode(&f, &got), 0);
	}
	buf_clear(&wire);

	/* A detail that forgot its NUL is cut between characters. */
	struct engine_fault full = { .code = ERR_ENGINE }, got;
	for (size_t i = 0; i + 1 < sizeof(full.detail); i += 2)
		memcpy(full.detail + i, "\xc3\xa9", 2);
	assert_int_equal(engine_fault_encode(&wire, &full), 0);
	struct owned o = own(&wire);
	assert_int_equal(engine_fault_decode(&o.frame, &got), 0);
	assert_int_equal(strlen(got.detail), sizeof(full.detail) - 2);
	free(o.bytes);

	/* A peer's own is refused when it could move a terminal's cursor. */
	assert_int_equal(decode_head(FRAME_ENGINE_FAULT, RAW("\x83\xa7request\x00\xa4" "code\xff\xa6" "detail\xa2\x1b" "c"), "", 0), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_FAULT, RAW("\x83\xa7request\x00\xa4" "code\xff\xa6" "detail\xa2" "ok"), "", 0), 0);
	assert_int_equal(decode_head(FRAME_ENGINE_FAULT, RAW("\x83\xa7request\x00\xa4" "code\x00\xa6" "detail\xa2" "ok"), "", 0), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_FAULT, RAW("\x83\xa7request\x00\xa4" "code\xd3\xff\xff\xff\xff\x00\x00\x00\x00\xa6" "detail\xa2" "ok"), "", 0), ERR_MALFORMED);
}

/* --- engine ----------------------------------------------------------------------------------------------- */

static void engine_hello_inspect_and_inspected_round_trip(void **state)
{
	struct engine_hello hello = { .engine = "llama", .sandboxed = true }, hello_got;
	assert_int_equal(engine_hello_encode(&wire, &hello), 0);
	struct owned o = own(&wire);
	assert_int_equal(engine_hello_decode(&o.frame, &hello_got), 0);
	assert_memory_equal(&hello, &hello_got, sizeof(hello));
	free(o.bytes);

	struct engine_inspect *inspect = calloc(2, sizeof(*inspect));
	inspect->request = 5;
	inspect->context = CONTEXT_MAX;
	inspect->n_files = MODEL_FILES_MAX;
	for (size_t i = 0; i < MODEL_FILES_MAX; i++)
		memset(inspect->names[i], 'a' + (int)i % 26, 255);
	assert_int_equal(engine_inspect_encode(&wire, inspect), 0);
	o = own(&wire);
	assert_int_equal(engine_inspect_decode(&o.frame, inspect + 1), 0);
	assert_memory_equal(inspect, inspect + 1, sizeof(*inspect));
	free(o.bytes);
	strcpy(inspect->names[3], "../../etc/shadow");
	assert_int_equal(engine_inspect_encode(&wire, inspect), ERR_MALFORMED);
	inspect->n_files = MODEL_FILES_MAX + 1;
	assert_int_equal(engine_inspect_encode(&wire, inspect), ERR_LIMIT);
	inspect->n_files = 0;
	assert_int_equal(engine_inspect_encode(&wire, inspect), ERR_MALFORMED);
	inspect->n_files = 1;
	inspect->context = CONTEXT_MAX + 1;
	assert_int_equal(engine_inspect_encode(&wire, inspect), ERR_LIMIT);
	free(inspect);
	assert_int_equal(decode_head(FRAME_ENGINE_INSPECT, RAW("\x83\xa7request\x01\xa7" "context\x00\xa5names\x91\xa2.."), "", 0), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_INSPECT, RAW("\x83\xa7request\x01\xa7" "context\x00\xa5names\x90"), "", 0), ERR_MALFORMED);

	struct engine_inspected inspected = { .request = 5 }, inspected_got;
	sample_manifest(&inspected.manifest);
	memset(inspected.manifest.files[0].root, 0, KEY_BYTES);       /* the store has not hashed it yet */
	assert_int_equal(engine_inspected_encode(&wire, &inspected), 0);
	o = own(&wire);
	assert_int_equal(engine_inspected_decode(&o.frame, &inspected_got), 0);
	assert_int_equal(inspected_got.request, 5);
	assert_int_equal(inspected_got.manifest.n_extents, inspected.manifest.n_extents);
	assert_string_equal(inspected_got.manifest.files[1].name, inspected.manifest.files[1].name);
	manifest_free(&inspected_got.manifest);
	manifest_free(&inspected.manifest);
	free(o.bytes);
}

static struct engine_load honest_load(struct model_extent *extents)
{
	return (struct engine_load){ .request = 6, .n_files = 2, .n_ranges = 2, .ranges = { { 0, 2 }, { 3, 4 } }, .n_layer = 4, .context = 2048,
				     .sessions = 4, .threads = 2, .memory_max = 1u << 30, .n_extents = 2, .extents = extents };
}

static void engine_load_round_trips_and_keeps_its_limits(void **state)
{
	struct model_extent extents[] = { { .file = 1, .offset = 70, .length = 5 }, { .file = 0, .offset = MODEL_FILE_MAX - 1, .length = 1 } };
	struct engine_load m = honest_load(extents), got;
	assert_int_equal(engine_load_encode(&wire, &m), 0);
	struct owned o = own(&wire);
	assert_int_equal(o.frame.tail_length, 40);
	assert_int_equal(engine_load_decode(&o.frame, &got), 0);
	assert_int_equal(got.request, 6);
	assert_int_equal(got.n_files, 2);
	assert_int_equal(got.n_ranges, 2);
	assert_memory_equal(got.ranges, m.ranges, sizeof(m.ranges));
	assert_int_equal(got.n_layer, 4);
	assert_int_equal(got.context, 2048);
	assert_int_equal(got.sessions, 4);
	assert_int_equal(got.threads, 2);
	assert_int_equal(got.memory_max, 1u << 30);
	assert_int_equal(got.n_extents, 2);
	assert_memory_equal(got.extents, extents, sizeof(extents));
	engine_load_free(&got);
	free(o.bytes);

	for (size_t i = 0; i < 17; i++) {
		struct model_extent e[] = { extents[0], extents[1] };
		m = honest_load(e);
		int err = ERR_MALFORMED;
		switch (i) {
		case 0: m.n_files = 1; break;                          /* extent in file 1 */
		case 1: m.n_files = 0; break;
		case 2: m.n_ranges = 0; break;
		case 3: m.ranges[1] = (struct layer_range){ 3, 3 }; break;
		case 4: m.ranges[1] = (struct layer_range){ 3, 5 }; break;
		case 5: m.context = 0; break;
		case 6: m.sessions = 0; break;
		case 7: m.threads = 0; break;
		case 8: e[0].length = 0; break;
		case 9: e[0].offset = UINT64_MAX; break;               /* + 5 wraps to 4 */
		case 10: e[1].length = 2; break;
		case 11: m.n_files = MODEL_FILES_MAX + 1; err = ERR_LIMIT; break;
		case 12: m.n_ranges = RANGES_MAX + 1; err = ERR_LIMIT; break;
		case 13: m.n_layer = MODEL_LAYERS_MAX + 1; err = ERR_LIMIT; break;
		case 14: m.context = CONTEXT_MAX + 1; err = ERR_LIMIT; break;
		case 15: m.n_extents = MODEL_EXTENTS_MAX + 1; err = ERR_LIMIT; break;
		case 16: m.memory_max = UINT64_MAX; err = ERR_LIMIT; break;
		}
		assert_int_equal(engine_load_encode(&wire, &m), err);
		assert_int_equal(wire.length, 0);
	}

	/* From someone who does not check: a tail that is no whole number of extents, too many, and one that lies. */
	m = honest_load(extents);
	assert_int_equal(engine_load_encode(&wire, &m), 0);
	o = own(&wire);
	o.frame.tail_length--;
	assert_int_equal(decode_any(&o.frame), ERR_MALFORMED);
	o.frame.tail_length++;
	put_u64(o.bytes + (o.frame.tail - o.bytes) + 4, UINT64_MAX - 2);
	assert_int_equal(decode_any(&o.frame), ERR_MALFORMED);
	uint8_t *tail = calloc(MODEL_EXTENTS_MAX + 1, 20);
	o.frame.tail = tail;
	o.frame.tail_length = 20 * (MODEL_EXTENTS_MAX + 1);
	assert_int_equal(decode_any(&o.frame), ERR_LIMIT);
	free(tail);
	free(o.bytes);
}

static void engine_loaded_and_open_round_trip(void **state)
{
	static struct engine_loaded loaded = { .request = 6, .weight_bytes = 1, .kv_bytes = 2, .compute_bytes = 3, .n_embd = 4, .n_vocab = 5,
					.truncate = TRUNCATE_NONE, .layer_microseconds = 6 }, loaded_got;
	assert_int_equal(engine_loaded_encode(&wire, &loaded), 0);
	struct owned o = own(&wire);
	assert_int_equal(engine_loaded_decode(&o.frame, &loaded_got), 0);
	assert_memory_equal(&loaded, &loaded_got, sizeof(loaded));
	free(o.bytes);
	loaded.truncate = 3;
	assert_int_equal(engine_loaded_encode(&wire, &loaded), 0);
	o = own(&wire);
	assert_int_equal(engine_loaded_decode(&o.frame, &loaded_got), ERR_LIMIT);
	free(o.bytes);

	struct engine_open good = { .session = { 8 }, .epoch = 2, .stage = 2, .range = { 2, 4 }, .context = 2048, .sampling = {
		.temperature = 0.7f, .top_p = 0.95f, .min_p = 0.05f, .top_k = 40, .repeat_penalty = 1.1f, .presence_penalty = -0.5f,
		.frequency_penalty = 0.25f, .seed = UINT64_MAX, .ignore_end = true } }, m, got;
	assert_int_equal(engine_open_encode(&wire, &good), 0);
	o = own(&wire);
	assert_int_equal(engine_open_decode(&o.frame, &got), 0);
	assert_memory_equal(good.session, got.session, SESSION_BYTES);
	assert_false(got.forks);
	assert_int_equal(got.epoch, 2);
	assert_int_equal(got.stage, 2);
	assert_int_equal(got.range.first, 2);
	assert_int_equal(got.range.end, 4);
	assert_int_equal(got.context, 2048);
	const struct sampling *s = &got.sampling, *g = &good.sampling;
	assert_true(s->temperature == g->temperature && s->top_p == g->top_p && s->min_p == g->min_p && s->top_k == 40);   /* to the bit */
	assert_true(s->repeat_penalty == g->repeat_penalty && s->presence_penalty == g->presence_penalty &&
		    s->frequency_penalty == g->frequency_penalty && s->seed == UINT64_MAX && s->ignore_end);
	free(o.bytes);

	m = good;
	m.forks = true;
	memset(m.from, 0x5c, sizeof m.from);
	assert_int_equal(engine_open_encode(&wire, &m), 0);
	o = own(&wire);
	assert_int_equal(engine_open_decode(&o.frame, &got), 0);
	assert_true(got.forks);
	assert_memory_equal(got.from, m.from, sizeof m.from);
	free(o.bytes);

	for (size_t i = 0; i < 16; i++) {
		m = good;
		int err = ERR_LIMIT;
		switch (i) {
		case 0: m.sampling.temperature = -1; break;
		case 1: m.sampling.temperature = NAN; break;
		case 2: m.sampling.temperature = INFINITY; break;
		case 3: m.sampling.top_p = 1.5f; break;
		case 4: m.sampling.top_p = -0.5f; break;
		case 5: m.sampling.min_p = 2; break;
		case 6: m.sampling.top_k = -1; break;
		case 7: m.sampling.repeat_penalty = -1; break;
		case 8: m.sampling.presence_penalty = 101; break;
		case 9: m.sampling.frequency_penalty = -101; break;
		case 10: m.stage = RING_STAGES_MAX; break;
		case 11: m.context = CONTEXT_MAX + 1; break;
		case 12: m.context = 0; err = ERR_MALFORMED; break;
		case 13: m.range.end = 2; err = ERR_MALFORMED; break;
		case 14: m.range.end = MODEL_LAYERS_MAX + 1; err = ERR_MALFORMED; break;
		case 15: m.sampling = (struct sampling){ 0 }; err = 0; break;
		}
		assert_int_equal(engine_open_encode(&wire, &m), err);
		buf_clear(&wire);
	}

	/* Sampling that is not said is greedy and without penalties; what no float holds is refused. */
#define OPEN "\x87\xa7session\xc4\x10" "0123456789abcdef\xa5" "epoch\x01\xa5stage\x00\xa5" "first\x00\xa3" "end\x01\xa7" "context\x01\xa8sampling"
	assert_int_equal(frame_encode(&wire, FRAME_ENGINE_OPEN, RAW(OPEN "\x80"), NULL, 0), 0);
	o = own(&wire);
	assert_int_equal(engine_open_decode(&o.frame, &got), 0);
	assert_true(got.sampling.temperature == 0 && got.sampling.top_p == 1 && got.sampling.min_p == 0 && got.sampling.repeat_penalty == 1);
	free(o.bytes);
	assert_int_equal(decode_head(FRAME_ENGINE_OPEN, RAW(OPEN "\x81\xabtemperature\xcb\x7f\xef\xff\xff\xff\xff\xff\xff"), "", 0), ERR_LIMIT);
	assert_int_equal(decode_head(FRAME_ENGINE_OPEN, RAW(OPEN "\x81\xa5top_p\xca\x7f\xc0\x00\x00"), "", 0), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_OPEN, RAW(OPEN "\x90"), "", 0), ERR_MALFORMED);
#undef OPEN
}

static void engine_open_carries_biases_and_a_grammar(void **state)
{
	uint8_t *biases = calloc(LOGIT_BIAS_MAX + 1, LOGIT_BIAS_BYTES);
	char *grammar = malloc(GRAMMAR_BYTES_MAX + 1);
	memset(grammar, 'a', GRAMMAR_BYTES_MAX + 1);
	for (int32_t i = 0; i <= LOGIT_BIAS_MAX; i++)
		logit_bias_put(biases + i * LOGIT_BIAS_BYTES, (struct logit_bias){ i * 1000, i % 2 ? -100 : 0.25f });
	struct engine_open m = { .range = { 0, 1 }, .context = 8, .prompt = CONTEXT_MAX, .sampling = { .top_p = 1, .top = TOP_LOGPROBS_MAX,
		.n_bias = LOGIT_BIAS_MAX, .bias = biases, .grammar = grammar, .grammar_length = GRAMMAR_BYTES_MAX } }, got;
	assert_int_equal(engine_open_encode(&wire, &m), 0);
	struct owned o = own(&wire);
	assert_int_equal(engine_open_decode(&o.frame, &got), 0);
	assert_int_equal(got.prompt, CONTEXT_MAX);
	assert_int_equal(got.sampling.top, TOP_LOGPROBS_MAX);
	assert_int_equal(got.sampling.n_bias, LOGIT_BIAS_MAX);
	assert_int_equal(logit_bias_get(&got.sampling, 1023).id, 1023000);
	assert_true(logit_bias_get(&got.sampling, 1023).bias == -100 && logit_bias_get(&got.sampling, 2).bias == 0.25f);
	assert_int_equal(got.sampling.grammar_length, GRAMMAR_BYTES_MAX);
	assert_memory_equal(got.sampling.grammar, grammar, GRAMMAR_BYTES_MAX);

	/* A copy lives longer than the frame, and its grammar ends. */
	struct sampling copy;
	void *memory;
	assert_int_equal(sampling_copy(&copy, &got.sampling, &memory), 0);
	free(o.bytes);
	assert_int_equal(strlen(copy.grammar), GRAMMAR_BYTES_MAX);
	assert_int_equal(logit_bias_get(&copy, 1023).id, 1023000);
	free(memory);

	struct engine_open bad = m;
	bad.sampling.top++;
	assert_int_equal(engine_open_encode(&wire, &bad), ERR_LIMIT);
	bad = m;
	bad.sampling.n_bias++;
	assert_int_equal(engine_open_encode(&wire, &bad), ERR_LIMIT);
	bad = m;
	bad.sampling.grammar_length++;
	assert_int_equal(engine_open_encode(&wire, &bad), ERR_LIMIT);
	bad = m;
	bad.prompt++;
	assert_int_equal(engine_open_encode(&wire, &bad), ERR_LIMIT);
	logit_bias_put(biases, (struct logit_bias){ -1, 0 });
	assert_int_equal(engine_open_encode(&wire, &m), ERR_LIMIT);
	logit_bias_put(biases, (struct logit_bias){ 0, 100.5f });
	assert_int_equal(engine_open_encode(&wire, &m), ERR_LIMIT);
	logit_bias_put(biases, (struct logit_bias){ 0, NAN });
	assert_int_equal(engine_open_encode(&wire, &m), ERR_LIMIT);
	logit_bias_put(biases, (struct logit_bias){ 0, 1 });
	grammar[5] = 0;
	assert_int_equal(engine_open_encode(&wire, &m), ERR_MALFORMED);
	grammar[5] = (char)0xff;
	assert_int_equal(engine_open_encode(&wire, &m), ERR_MALFORMED);
	assert_int_equal(wire.length, 0);

	/* A tail that is longer or shorter than the head says. */
#define OPEN "\x87\xa7session\xc4\x10" "0123456789abcdef\xa5" "epoch\x01\xa5stage\x00\xa5" "first\x00\xa3" "end\x01\xa7" "context\x01\xa8sampling"
	assert_int_equal(decode_head(FRAME_ENGINE_OPEN, RAW(OPEN "\x81\xa7grammar\x03"), "abc", 3), 0);
	assert_int_equal(decode_head(FRAME_ENGINE_OPEN, RAW(OPEN "\x81\xa7grammar\x03"), "abcd", 4), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_OPEN, RAW(OPEN "\x81\xa6n_bias\x01"), "abcdefg", 7), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_OPEN, RAW(OPEN "\x80"), "a", 1), ERR_MALFORMED);
#undef OPEN
	free(biases);
	free(grammar);
}

static void engine_render_round_trips_and_keeps_its_limits(void **state)
{
	struct render_message *messages = calloc(RENDER_MESSAGES_MAX + 1, sizeof(*messages));
	for (size_t i = 0; i <= RENDER_MESSAGES_MAX; i++)
		messages[i] = (struct render_message){ "user", 4, "h\xc3\xa9", 3 };
	struct engine_render m = { .request = 7, .chat = true, .parse_special = true, .n_messages = RENDER_MESSAGES_MAX, .messages = messages }, got;
	assert_int_equal(engine_render_encode(&wire, &m), 0);
	struct owned o = own(&wire);
	assert_int_equal(engine_render_decode(&o.frame, &got), 0);
	assert_int_equal(got.request, 7);
	assert_true(got.chat && !got.add_special && got.parse_special);
	assert_int_equal(got.n_messages, RENDER_MESSAGES_MAX);
	assert_int_equal(got.messages[1023].role_length, 4);
	assert_memory_equal(got.messages[1023].role, "user", 4);
	assert_int_equal(got.messages[1023].content_length, 3);
	assert_memory_equal(got.messages[1023].content, "h\xc3\xa9", 3);
	engine_render_free(&got);
	free(o.bytes);

	m.n_messages++;
	assert_int_equal(engine_render_encode(&wire, &m), ERR_LIMIT);
	m.n_messages = 0;
	assert_int_equal(engine_render_encode(&wire, &m), ERR_MALFORMED);

	/* As much text as there may be, and a byte more. */
	char *text = malloc(RENDER_BYTES_MAX + 1);
	memset(text, 'x', RENDER_BYTES_MAX + 1);
	m.n_messages = 1;
	messages[0] = (struct render_message){ NULL, 0, text, RENDER_BYTES_MAX };
	assert_int_equal(engine_render_encode(&wire, &m), 0);
	o = own(&wire);
	assert_int_equal(engine_render_decode(&o.frame, &got), 0);
	assert_int_equal(got.messages[0].content_length, RENDER_BYTES_MAX);
	engine_render_free(&got);
	free(o.bytes);
	messages[0].role = text;
	messages[0].role_length = 1;
	assert_int_equal(engine_render_encode(&wire, &m), ERR_LIMIT);
	messages[0] = (struct render_message){ "user", 4, "\xff", 1 };
	assert_int_equal(engine_render_encode(&wire, &m), ERR_MALFORMED);
	messages[0] = (struct render_message){ "user", 4, "a\0b", 3 };
	assert_int_equal(engine_render_encode(&wire, &m), ERR_MALFORMED);
	assert_int_equal(wire.length, 0);
	free(text);
	free(messages);

#define RENDER(lengths) RAW("\x85\xa7request\x01\xa4" "chat\xc2\xab" "add_special\xc2\xad" "parse_special\xc2\xa7lengths" lengths)
	assert_int_equal(decode_head(FRAME_ENGINE_RENDER, RENDER("\x92\x01\x02"), RAW("abc")), 0);
	assert_int_equal(decode_head(FRAME_ENGINE_RENDER, RENDER("\x92\x01\x02"), RAW("abcd")), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_RENDER, RENDER("\x92\x01\x03"), RAW("abc")), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_RENDER, RENDER("\x91\x01"), RAW("a")), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_RENDER, RENDER("\x90"), RAW("")), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_RENDER, RENDER("\x92\x01\xce\xff\xff\xff\xff"), RAW("abc")), ERR_LIMIT);
	/* a character that two texts share is one in neither */
	assert_int_equal(decode_head(FRAME_ENGINE_RENDER, RENDER("\x92\x01\x01"), RAW("\xc3\xa9")), ERR_MALFORMED);
#undef RENDER
}

static void engine_rendered_and_progress_round_trip(void **state)
{
	static const uint8_t tokens[8] = { 1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f };
	struct engine_rendered m = { .request = 7, .n_tokens = 2, .tokens = tokens }, got;
	assert_int_equal(engine_rendered_encode(&wire, &m), 0);
	struct owned o = own(&wire);
	assert_int_equal(engine_rendered_decode(&o.frame, &got), 0);
	assert_int_equal(got.request, 7);
	assert_int_equal(got.n_tokens, 2);
	assert_memory_equal(got.tokens, tokens, 8);
	free(o.bytes);
	assert_int_equal(decode_head(FRAME_ENGINE_RENDERED, RAW("\x81\xa7request\x01"), RAW("")), 0);
	assert_int_equal(decode_head(FRAME_ENGINE_RENDERED, RAW("\x81\xa7request\x01"), RAW("abc")), ERR_MALFORMED);
	assert_int_equal(decode_head(FRAME_ENGINE_RENDERED, RAW("\x81\xa7request\x01"), RAW("abc\x80")), ERR_MALFORMED);
	m.n_tokens = FRAME_TAIL_MAX / 4 + 1;
	assert_int_equal(engine_rendered_encode(&wire, &m), ERR_LIMIT);

	struct engine_progress p = { .request = 1, .permille = 1000 }, p_got;
	assert_int_equal(engine_progress_encode(&wire, &p), 0);
	o = own(&wire);
	assert_int_equal(engine_progress_decode(&o.frame, &p_got), 0);
	assert_int_equal(p_got.permille, 1000);
	free(o.bytes);
	p.permille++;
	assert_int_equal(engine_progress_encode(&wire, &p), ERR_LIMIT);
}

/* --- the examples of doc/PROTOCOL.md ------------------------------------------------------------------------ */

/* The bytes of the n-th indented block behind the heading: hexadecimal, with spaces for people. */
static void read_example(FILE *doc, unsigned wanted, struct buf *out)
{
	char line[512], digits[512];
	unsigned block = 0;
	bool examples = false, inside = false;
	rewind(doc);
	while (fgets(line, sizeof(line), doc)) {
		if (!strncmp(line, "## ", 3))
			examples = strstr(line, "Examples") != NULL;
		bool indented = examples && !strncmp(line, "    ", 4);
		block += indented && !inside;
		inside = indented;
		if (!inside || block != wanted)
			continue;
		size_t n = 0;
		for (const char *at = line; *at; at++)
			if (*at != ' ' && *at != '\n')
				digits[n++] = *at;
		digits[n] = '\0';
		uint8_t *bytes = buf_reserve(out, n / 2);
		assert_non_null(bytes);
		assert_int_equal(text_unhex(digits, bytes, n / 2), 0);
		buf_grow(out, n / 2);
	}
}

static void examples_of_the_protocol_s_page_are_what_the_code_makes(void **state)
{
	const char *top = getenv("ESSAIM_TOP");
	char path[4096];
	snprintf(path, sizeof(path), "%s/doc/PROTOCOL.md", top ? top : ".");
	FILE *doc = fopen(path, "r");
	if (!doc) {
		print_message("%s is not there (set ESSAIM_TOP to the source tree)\n", path);
		skip();
	}
	struct buf example;
	buf_init(&example, FRAME_MAX);
	read_example(doc, 1, &example);
	sample_record(&wire, RECORD_APPROVAL);
	assert_int_equal(example.length, wire.length);
	assert_memory_equal(example.data, wire.data, wire.length);

	buf_clear(&wire);
	buf_clear(&example);
	read_example(doc, 2, &example);
	sample_message(&wire, 2);
	assert_int_equal(example.length, wire.length);
	assert_memory_equal(example.data, wire.data, wire.length);
	buf_clear(&wire);
	buf_clear(&example);
	read_example(doc, 3, &example);
	struct ticket ticket = sample_ticket();
	assert_int_equal(ticket_sign(&wire, &ticket, sample_home.secret), 0);
	assert_int_equal(example.length, wire.length);
	assert_memory_equal(example.data, wire.data, wire.length);

	buf_clear(&wire);
	buf_release(&example);
	fclose(doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(message_of_every_type_decodes),
		cmocka_unit_test(message_of_another_type_is_refused),
		cmocka_unit_test(message_cut_or_flipped_anywhere_stays_inside_the_frame),
		cmocka_unit_test(message_without_a_tail_takes_none),
		cmocka_unit_test(message_that_does_not_fit_leaves_the_buffer_alone),
		cmocka_unit_test(message_head_is_a_map_and_may_know_more_keys),
		cmocka_unit_test(rows_of_several_sessions_share_a_frame),
		cmocka_unit_test(rows_of_the_widest_chunk_fill_a_frame),
		cmocka_unit_test(rows_blocks_stay_in_their_limits),
		cmocka_unit_test(rows_and_tail_have_the_same_length),
		cmocka_unit_test(tokens_round_trip_up_to_their_limits),
		cmocka_unit_test(tokens_come_with_their_neighbours_up_to_the_limits),
		cmocka_unit_test(engine_open_carries_biases_and_a_grammar),
		cmocka_unit_test(tokens_from_a_careless_peer_are_checked),
		cmocka_unit_test(tickets_travel_with_the_session_they_fork_from),
		cmocka_unit_test(ready_fault_and_close_round_trip),
		cmocka_unit_test(fault_details_get_through_made_plain),
		cmocka_unit_test(engine_hello_inspect_and_inspected_round_trip),
		cmocka_unit_test(engine_load_round_trips_and_keeps_its_limits),
		cmocka_unit_test(engine_loaded_and_open_round_trip),
		cmocka_unit_test(engine_render_round_trips_and_keeps_its_limits),
		cmocka_unit_test(engine_rendered_and_progress_round_trip),
		cmocka_unit_test(examples_of_the_protocol_s_page_are_what_the_code_makes),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
