/* fuzz_peer.c: an admitted neighbour that says whatever it likes, to nodes that have sessions running. Stateful.
 *
 * Nodes 0 (home), 1 and 2 make the ring 0 > 1 > 2 > 0 of tests/unit/ring_world.h; node 3 holds links to all of them, is in no ring of theirs, and its
 * frames are the input: made up, or the others' frames that it saw (as if it knew them), sent again, changed, to anyone, at any moment.
 * What must hold:
 *   - each question of node 0 is answered, and exactly as the whole model answers it: node 3 changes nothing, ends nothing and delays
 *     nothing without end;
 *   - when all is quiet no session is left in any engine, but those that node 3 opened with tickets of its own.
 *
 * The input is a program of steps, one byte that says which and then its arguments; past the input all arguments are 0.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/unit/ring_world.h"

#define QUESTIONS_MAX 3
#define STEPS_MAX 60
#define SEEN_MAX 64
#define TOKENS 12
#define PROMPT 40
#define HOSTILE 3

enum step { STEP_TIME, STEP_ASK, STEP_MADE_UP, STEP_AGAIN, STEP_CHANGED, STEP_LINK, STEP_OWN, STEPS };

struct seen {
	size_t to;
	size_t length;
	uint8_t *bytes;
};

static struct seen seen[SEEN_MAX];
static size_t n_seen;

static const uint8_t *input;
static size_t left;

static uint8_t next(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

/* Keeps what honest nodes send each other. */
static unsigned watch(struct world *w, size_t from, size_t to, const struct frame *frame)
{
	(void)w;
	if (from == HOSTILE || n_seen == SEEN_MAX)
		return 1;
	struct buf bytes;
	buf_init(&bytes, FRAME_MAX);
	must(!frame_encode(&bytes, frame->type, frame->head, frame->head_length, frame->tail, frame->tail_length));
	struct seen *s = &seen[n_seen++];
	s->to = to;
	s->length = bytes.length;
	s->bytes = malloc(bytes.length);
	must(s->bytes);
	memcpy(s->bytes, bytes.data, bytes.length);
	buf_release(&bytes);
	return 1;
}

static void send(struct world *w, size_t to, const uint8_t *bytes, size_t n)
{
	struct frame view;
	size_t used;
	/* Frames out of shape end at the link; fuzz_frame.c is about those. */
	if (frame_decode(bytes, n, &view, &used) || used != n)
		return;
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	must(!buf_append(&frame, bytes, n));
	world_inject(w, HOSTILE, to, &frame);
	buf_release(&frame);
}

static void made_up(struct world *w)
{
	static const enum frame_type types[] = {FRAME_TICKET, FRAME_READY, FRAME_ROWS, FRAME_FAULT, FRAME_CLOSE, FRAME_RECEIPT, FRAME_TOKENS};
	size_t to = next() % HOSTILE, length = next() % 64, tail = next() % 64;
	enum frame_type type = types[next() % (sizeof types / sizeof *types)];
	uint8_t head[64], rest[64];
	for (size_t i = 0; i < length; i++)
		head[i] = next();
	for (size_t i = 0; i < tail; i++)
		rest[i] = next();
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	if (!frame_encode(&frame, type, head, length, rest, tail))
		send(w, to, frame.data, frame.length);
	buf_release(&frame);
}

static void changed(struct world *w, bool change)
{
	if (!n_seen)
		return;
	const struct seen *s = &seen[next() % n_seen];
	uint8_t where = next();
	size_t to = where & 3 ? (size_t)(where & 3) - 1 : s->to;
	uint8_t *copy = malloc(s->length);
	must(copy);
	memcpy(copy, s->bytes, s->length);
	for (unsigned k = change ? 1 + next() % 3 : 0; k; k--) {
		size_t at = ((size_t)next() << 8 | next()) % s->length;
		copy[at] ^= next();
	}
	if (to != HOSTILE)
		send(w, to, copy, s->length);
	free(copy);
}

struct asked {
	struct world_answer answer;
	int32_t prompt[PROMPT];
	uint64_t seed;
};

static void ask(struct world *w, struct asked *q, size_t home, const size_t *nodes, size_t n_nodes)
{
	struct ring_plan plan = world_plan(w, nodes, n_nodes);
	memset(q, 0, sizeof *q);
	world_prompt(w, q->prompt, PROMPT);
	q->seed = lasting_seed(q->prompt, PROMPT, TOKENS);
	world_ask_at(w, home, &q->answer, &plan, q->prompt, PROMPT, TOKENS, q->seed);
}

static void check(struct world *w, const struct asked *q)
{
	int32_t expected[WORLD_CONTEXT];
	const char *finished;
	size_t n = whole_answer(q->prompt, PROMPT, TOKENS, q->seed, expected, &finished);
	(void)w;
	must(q->answer.ended);
	must(q->answer.err == 0);
	must(q->answer.n == n && !memcmp(q->answer.tokens, expected, n * sizeof *expected));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static struct world world;
	static struct asked questions[QUESTIONS_MAX], own;
	static const size_t ring[] = {0, 1, 2, 0}, others[] = {HOSTILE, 1, HOSTILE};
	size_t asked = 0;
	bool own_asked = false;
	input = data;
	left = n;
	world_init(&world, 1 + next(), HOSTILE + 1);
	world.filter = watch;
	ask(&world, &questions[asked++], 0, ring, 4);
	for (unsigned i = 0; i < STEPS_MAX && left; i++)
		switch ((enum step)(next() % STEPS)) {
		case STEP_TIME:
			world_run_ms(&world, 1 + next());
			break;
		case STEP_ASK:
			if (asked < QUESTIONS_MAX)
				ask(&world, &questions[asked++], 0, ring, 4);
			break;
		case STEP_MADE_UP:
			made_up(&world);
			break;
		case STEP_AGAIN:
			changed(&world, false);
			break;
		case STEP_CHANGED:
			changed(&world, true);
			break;
		case STEP_LINK:
			world_link(&world, HOSTILE, next() % HOSTILE, next() & 1);
			break;
		case STEP_OWN:
			if (!own_asked)
				ask(&world, &own, HOSTILE, others, 3);
			own_asked = true;
			break;
		default:
			break;
		}
	for (size_t i = 0; i < asked; i++) {
		world_run(&world, &questions[i].answer);
		check(&world, &questions[i]);
	}
	if (own_asked && !own.answer.ended)
		world_run(&world, &own.answer);
	/* Longer than anything is kept or waited for; nothing happens in it, so it goes by in larger steps. */
	world.tick_ms = 5000;
	world_run_ms(&world, 1000ull * (WORLD_KEEP_S + 900));
	for (size_t i = 0; i < 3; i++)
		must(world_engine_sessions(&world, i) == 0);
	world_release(&world);
	while (n_seen)
		free(seen[--n_seen].bytes);
	return 0;
}

bool fuzz_seed(size_t i, struct buf *out)
{
	static const uint8_t seeds[][24] = {
		{1, STEP_TIME, 30, STEP_AGAIN, 0, 0, STEP_AGAIN, 1, 2, STEP_TIME, 40, STEP_CHANGED, 3, 0, 1, 0, 12, 0xff, STEP_TIME, 100},
		{2, STEP_OWN, STEP_TIME, 60, STEP_ASK, STEP_TIME, 20, STEP_CHANGED, 5, 1, 2, 0, 40, 1, 0, 60, 128, 0, 9, 7, STEP_TIME, 9},
		{3, STEP_TIME, 200, STEP_MADE_UP, 0, 4, 2, 2, 0x81, 0xa1, 0x73, 0xc0, 1, 2, STEP_LINK, 1, 0, STEP_TIME, 50, STEP_LINK, 1, 1},
		{4, STEP_TIME, 90, STEP_AGAIN, 2, 0, STEP_AGAIN, 3, 0, STEP_AGAIN, 4, 0, STEP_AGAIN, 5, 0, STEP_AGAIN, 6, 0, STEP_TIME, 1, STEP_ASK},
	};
	if (i >= sizeof seeds / sizeof *seeds)
		return false;
	must(!buf_append(out, seeds[i], sizeof seeds[i]));
	return true;
}
