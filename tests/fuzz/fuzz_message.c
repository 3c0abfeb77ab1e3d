/* fuzz_message.c: every decoder of message.h on one frame.
 *
 * The input is a frame. What must hold for whatever a decoder takes: its encoder takes it too (a limit that only one
 * of them knows is a bug), the encoding decodes again, and encodes to the same bytes. And all that a decoder refuses
 * leaves nothing to free.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "proto/err.h"
#include "proto/message.h"
#include "tests/fuzz/fuzz.h"
#include "tests/samples.h"

static struct frame frame_of(const struct buf *bytes)
{
	struct frame f;
	size_t used;
	must(frame_decode(bytes->data, bytes->length, &f, &used) == 0 && used == bytes->length);
	return f;
}

static void nothing_to_free(void *m)
{
}
static void free_inspected(void *m)
{
	manifest_free(&((struct engine_inspected *)m)->manifest);
}
static void free_load(void *m)
{
	engine_load_free(m);
}
static void free_render(void *m)
{
	engine_render_free(m);
}

/* Static messages, because some are large; filled with rubbish first, so that what a decoder leaves unset shows. */
#define ROUND_TRIP(name, message, release)                                       \
	static void name##_round_trip(const struct frame *f)                     \
	{                                                                        \
		static struct message m;                                         \
		memset(&m, 0xa5, sizeof(m));                                     \
		int err = name##_decode(f, &m);                                  \
		if (err) {                                                       \
			must(err < 0);                                           \
			return;                                                  \
		}                                                                \
		struct buf first, second;                                        \
		buf_init(&first, FRAME_MAX);                                     \
		buf_init(&second, FRAME_MAX);                                    \
		must(name##_encode(&first, &m) == 0);                            \
		release(&m);                                                     \
		struct frame again = frame_of(&first);                           \
		memset(&m, 0x5a, sizeof(m));                                     \
		must(name##_decode(&again, &m) == 0);                            \
		must(name##_encode(&second, &m) == 0);                           \
		release(&m);                                                     \
		must(first.length == second.length);                             \
		must(memcmp(first.data, second.data, first.length) == 0);        \
		buf_release(&first);                                             \
		buf_release(&second);                                            \
	}
ROUND_TRIP(rows, rows_message, nothing_to_free)
ROUND_TRIP(tokens, tokens_message, nothing_to_free)
ROUND_TRIP(ready, ready_message, nothing_to_free)
ROUND_TRIP(fault, fault_message, nothing_to_free)
ROUND_TRIP(close, close_message, nothing_to_free)
ROUND_TRIP(ticket_message, ticket_message, nothing_to_free)
ROUND_TRIP(engine_hello, engine_hello, nothing_to_free)
ROUND_TRIP(engine_inspect, engine_inspect, nothing_to_free)
ROUND_TRIP(engine_inspected, engine_inspected, free_inspected)
ROUND_TRIP(engine_load, engine_load, free_load)
ROUND_TRIP(engine_loaded, engine_loaded, nothing_to_free)
ROUND_TRIP(engine_open, engine_open, nothing_to_free)
ROUND_TRIP(engine_render, engine_render, free_render)
ROUND_TRIP(engine_rendered, engine_rendered, nothing_to_free)
ROUND_TRIP(engine_fault, engine_fault, nothing_to_free)
ROUND_TRIP(engine_progress, engine_progress, nothing_to_free)

static const struct {
	enum frame_type type;
	void (*round_trip)(const struct frame *f);
} decoders[] = {
	{ FRAME_ROWS, rows_round_trip },
	{ FRAME_TOKENS, tokens_round_trip },
	{ FRAME_READY, ready_round_trip },
	{ FRAME_FAULT, fault_round_trip },
	{ FRAME_CLOSE, close_round_trip },
	{ FRAME_TICKET, ticket_message_round_trip },
	{ FRAME_ENGINE_HELLO, engine_hello_round_trip },
	{ FRAME_ENGINE_INSPECT, engine_inspect_round_trip },
	{ FRAME_ENGINE_INSPECTED, engine_inspected_round_trip },
	{ FRAME_ENGINE_LOAD, engine_load_round_trip },
	{ FRAME_ENGINE_LOADED, engine_loaded_round_trip },
	{ FRAME_ENGINE_OPEN, engine_open_round_trip },
	{ FRAME_ENGINE_RENDER, engine_render_round_trip },
	{ FRAME_ENGINE_RENDERED, engine_rendered_round_trip },
	{ FRAME_ENGINE_FAULT, engine_fault_round_trip },
	{ FRAME_ENGINE_PROGRESS, engine_progress_round_trip },
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct frame f;
	size_t used;
	if (frame_decode(data, n, &f, &used))
		return 0;
	for (size_t i = 0; i < sizeof(decoders) / sizeof(decoders[0]); i++)
		if (decoders[i].type == f.type)
			decoders[i].round_trip(&f);

	/* The wrong decoder refuses the frame, whatever is in it. */
	struct ready_message ready;
	must(f.type == FRAME_READY || ready_decode(&f, &ready) == ERR_MALFORMED);
	struct close_message closing;
	must(f.type == FRAME_CLOSE || close_decode(&f, &closing) == ERR_MALFORMED);
	return 0;
}

bool fuzz_seed(size_t i, struct buf *out)
{
	if (i == 0)
		samples_init();
	if (i >= samples_of_messages())
		return false;
	sample_message(out, i);
	return true;
}
