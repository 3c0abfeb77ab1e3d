/* Gateway mode between nodes of one process: sealed streams over fake links, and questions over them. What answers is the fake route below.
 *
 *   A ---- R ---- G        A asks, G answers, R is a neighbour of both; a test may put a link between A and G, too
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "daemon/route/gateway.h"
#include "proto/err.h"

#define NODES 3
#define WIRES_MAX 4096
#define PROMPT "the secret of the hive"

enum { A, R, G };

struct node {
	uint8_t key[KEY_BYTES], link_secret[KEY_BYTES], link_key[KEY_BYTES];
	struct gateway *gateway;
	bool links[NODES];
	bool relays;
	uint8_t claimed[KEY_BYTES];          /* the link key that its card names */
	int permit;                          /* what it says to those who want it to answer */
	uint64_t rows;                       /* charged */
};

static struct {
	struct node nodes[NODES];
	uint64_t ms;
	size_t n_wires;
	struct wire {
		size_t from, to;
		struct buf frame;
	} wires[WIRES_MAX];
	bool (*spy)(const struct wire *wire);      /* every frame on its way; false: dropped */
	struct buf seen;                           /* all that R was given to pass on */

	/* the fake route at G */
	struct route_ask asked;
	char model[GATEWAY_MODEL_MAX], content[64];
	bool running, cancelled, stopped;
	int refuse;

	/* what A hears */
	char text[256];
	uint32_t tokens, prompt_tokens;
	uint32_t enough_at;                        /* tokens after which A has enough; 0: never */
	bool started, ended;
	struct gateway_end end;
} w;

static struct route_question *const the_question = (struct route_question *)&w.running;

/* --- the route at G ----------------------------------------------------------------------------------- */

int route_find(struct route *route, const char *name, struct route_model *out, char *why, size_t why_size)
{
	(void)route;
	memset(out, 0, sizeof *out);
	if (strcmp(name, "tiny")) {
		snprintf(why, why_size, "no such model here");
		return ERR_UNKNOWN;
	}
	memset(out->id, 7, KEY_BYTES);
	return 0;
}

int route_ask(struct route *route, const struct route_ask *ask, struct route_question **out)
{
	(void)route;
	if (w.refuse)
		return w.refuse;
	w.asked = *ask;
	snprintf(w.model, sizeof w.model, "%s", ask->model);
	snprintf(w.content, sizeof w.content, "%.*s", (int)ask->messages[0].content_length, ask->messages[0].content);
	w.running = true;
	*out = the_question;
	return 0;
}

void route_cancel(struct route_question *question)
{
	assert_ptr_equal(question, the_question);
	w.cancelled = true;
	w.running = false;
}

void route_stop(struct route_question *question)
{
	assert_ptr_equal(question, the_question);
	w.stopped = true;
}

uint32_t route_explain(struct route *route, const char *model, int err, char *out, size_t size)
{
	(void)route;
	snprintf(out, size, "%s is still arriving (%d)", model, err);
	return 41;
}

static void say(const char *text)
{
	struct token token = {.id = 5, .logprob = -1.5f, .piece = (const uint8_t *)text, .piece_length = (uint32_t)strlen(text)};
	w.asked.on_text(w.asked.arg, text, strlen(text), &token);
}

static void finish(const char *how)
{
	struct route_result result = {.finish = how, .prompt_tokens = 9, .completion_tokens = 3, .prefill_us = 11, .decode_us = 22, .n_stages = 2};
	for (size_t i = 0; i < 2; i++) {
		memcpy(result.stages[i].node, w.nodes[i ? R : G].key, KEY_BYTES);
		result.stages[i].range = (struct layer_range){4 * (uint32_t)i, 4 * (uint32_t)i + 4};
		result.stages[i].text = !i;
		result.stages[i].rows = 12;
		result.stages[i].microseconds = 100;
	}
	w.running = false;
	w.asked.on_end(w.asked.arg, &result);
}

/* --- the world ------------------------------------------------------------------------------------------ */

static size_t index_of(const uint8_t *key)
{
	size_t i = 0;
	while (i < NODES && memcmp(w.nodes[i].key, key, KEY_BYTES))
		i++;
	return i;
}

static uint64_t now(void *arg)
{
	(void)arg;
	return w.ms;
}

static void random_bytes(void *arg, void *out, size_t n)
{
	(void)arg;
	randombytes_buf(out, n);
}

static bool is_up(void *arg, const uint8_t node[KEY_BYTES])
{
	size_t i = index_of(node);
	return i < NODES && ((struct node *)arg)->links[i];
}

static int send_frame(void *arg, const uint8_t neighbour[KEY_BYTES], struct buf *frame)
{
	struct node *from = arg;
	if (!is_up(arg, neighbour))
		return ERR_UNREACHABLE;
	assert_true(w.n_wires < WIRES_MAX);
	struct wire *wire = &w.wires[w.n_wires++];
	wire->from = (size_t)(from - w.nodes);
	wire->to = index_of(neighbour);
	wire->frame = *frame;
	buf_init(frame, FRAME_MAX);
	return 0;
}

static size_t neighbours(void *arg, uint8_t (*out)[KEY_BYTES], size_t max)
{
	struct node *node = arg;
	size_t n = 0;
	for (size_t i = 0; i < NODES && n < max; i++)
		if (node->links[i])
			memcpy(out[n++], w.nodes[i].key, KEY_BYTES);
	return n;
}

static int link_key(void *arg, const uint8_t node[KEY_BYTES], uint8_t out[KEY_BYTES])
{
	(void)arg;
	size_t i = index_of(node);
	if (i == NODES)
		return ERR_UNKNOWN;
	memcpy(out, w.nodes[i].claimed, KEY_BYTES);
	return 0;
}

static bool relays(void *arg)
{
	return ((struct node *)arg)->relays;
}

static int permit(void *arg, const uint8_t node[KEY_BYTES], const uint8_t model[KEY_BYTES], char *detail, size_t size)
{
	struct node *self = arg;
	(void)model;
	assert_true(index_of(node) < NODES);
	if (self->permit)
		snprintf(detail, size, "it answers for no other node");
	return self->permit;
}

static void used(void *arg, const struct gateway_use *use)
{
	((struct node *)arg)->rows += use->rows;
}

static void deliver(const struct wire *wire)
{
	struct frame frame;
	size_t used_bytes;
	assert_int_equal(frame_decode(wire->frame.data, wire->frame.length, &frame, &used_bytes), 0);
	assert_int_equal(frame.type, FRAME_SEALED);
	if (wire->to == R)
		buf_append(&w.seen, wire->frame.data, wire->frame.length);
	gateway_on_frame(w.nodes[wire->to].gateway, w.nodes[wire->from].key, &frame);
}

static void pump(void)
{
	for (size_t i = 0; i < w.n_wires; i++) {
		struct wire wire = w.wires[i];
		if (!w.spy || w.spy(&wire))
			deliver(&wire);
		buf_release(&wire.frame);
	}
	w.n_wires = 0;
}

static void tick(uint64_t ms)
{
	w.ms += ms;
	for (size_t i = 0; i < NODES; i++)
		gateway_tick(w.nodes[i].gateway);
	pump();
}

static void connect(size_t a, size_t b, bool up)
{
	w.nodes[a].links[b] = w.nodes[b].links[a] = up;
	if (!up) {
		gateway_on_down(w.nodes[a].gateway, w.nodes[b].key);
		gateway_on_down(w.nodes[b].gateway, w.nodes[a].key);
	}
}

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof w);
	w.ms = 1000;
	buf_init(&w.seen, 64u << 20);
	for (size_t i = 0; i < NODES; i++) {
		struct node *n = &w.nodes[i];
		struct gateway_config config = {
			.sealed = {.link_secret = n->link_secret, .network = "essaim", .monotonic_ms = now, .random = random_bytes, .send = send_frame,
				   .is_up = is_up, .neighbours = neighbours, .link_key = link_key, .relays = relays, .arg = n},
			.permit = permit, .used = used, .arg = n,
		};
		memset(n->key, (int)i + 1, KEY_BYTES);
		randombytes_buf(n->link_secret, KEY_BYTES);
		crypto_scalarmult_base(n->link_key, n->link_secret);
		memcpy(n->claimed, n->link_key, KEY_BYTES);
		n->relays = true;
		memcpy(config.sealed.node, n->key, KEY_BYTES);
		assert_int_equal(gateway_new(&n->gateway, &config), 0);
	}
	connect(A, R, true);
	connect(R, G, true);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (size_t i = 0; i < NODES; i++)
		gateway_free(w.nodes[i].gateway);
	for (size_t i = 0; i < w.n_wires; i++)
		buf_release(&w.wires[i].frame);
	buf_release(&w.seen);
	return 0;
}

/* --- A asks --------------------------------------------------------------------------------------------- */

static void on_start(void *arg, const struct gateway_start *start)
{
	(void)arg;
	assert_string_equal(start->model, "tiny");
	assert_string_equal(start->association, "Bourdons");
	w.started = true;
	w.prompt_tokens = start->prompt_tokens;
}

static bool on_token(void *arg, const struct token *token)
{
	(void)arg;
	assert_true(token->logprob == -1.5f);
	strncat(w.text, (const char *)token->piece, token->piece_length);
	return ++w.tokens != w.enough_at;
}

static void on_end(void *arg, const struct gateway_end *end)
{
	(void)arg;
	assert_false(w.ended);
	w.ended = true;
	w.end = *end;
}

static int ask(const char *model, struct gateway_call **call)
{
	struct render_message message = {.role = "user", .role_length = 4, .content = PROMPT, .content_length = strlen(PROMPT)};
	struct gateway_question question = {
		.model = model, .chat = true, .n_messages = 1, .messages = &message, .max_tokens = 77,
		.sampling = {.temperature = 0.25f, .top_p = 0.5f, .min_p = 0.125f, .top_k = 40, .repeat_penalty = 1.5f, .presence_penalty = -1,
			     .frequency_penalty = 2, .seed = UINT64_MAX - 3, .ignore_end = true},
		.on_start = on_start, .on_token = on_token, .on_end = on_end,
	};
	return gateway_ask(w.nodes[A].gateway, w.nodes[G].key, &question, call);
}

/* A question that G has begun to answer. */
static struct gateway_call *asked(void)
{
	struct gateway_call *call;
	assert_int_equal(ask("tiny", &call), 0);
	pump();
	assert_true(w.running);
	return call;
}

static void answer_in_full(void)
{
	w.asked.on_start(w.asked.arg, "tiny@Bourdons", 9);
	say("one ");
	say("two ");
	say("three");
	finish("length");
	pump();
	assert_true(w.started);
	assert_int_equal(w.prompt_tokens, 9);
	assert_string_equal(w.text, "one two three");
	assert_true(w.ended);
	assert_int_equal(w.end.err, 0);
	assert_true(w.end.length);
	assert_int_equal(w.end.completion_tokens, 3);
	assert_int_equal(w.end.n_stages, 2);
	assert_true(w.end.stages[0].text);
	assert_false(w.end.stages[1].text);
	assert_int_equal(w.end.stages[1].range.end, 8);
	assert_memory_equal(w.end.stages[1].node, w.nodes[R].key, KEY_BYTES);
}

static void a_question_is_answered_over_a_link(void **state)
{
	(void)state;
	connect(A, G, true);
	asked();
	assert_string_equal(w.model, "tiny");
	assert_string_equal(w.content, PROMPT);
	assert_true(w.asked.chat);
	assert_true(w.asked.here);
	assert_int_equal(w.asked.max_tokens, 77);
	const struct sampling *s = &w.asked.sampling;
	assert_true(s->temperature == 0.25f && s->top_p == 0.5f && s->min_p == 0.125f && s->top_k == 40 && s->repeat_penalty == 1.5f);
	assert_true(s->presence_penalty == -1 && s->frequency_penalty == 2 && s->seed == UINT64_MAX - 3 && s->ignore_end);
	answer_in_full();
	assert_int_equal(w.nodes[G].rows, 24);
	assert_int_equal(gateway_counts(w.nodes[R].gateway).sealed.relayed_frames, 0);
}

static void a_question_is_answered_by_way_of_a_neighbour_who_sees_no_text(void **state)
{
	(void)state;
	asked();
	assert_string_equal(w.content, PROMPT);
	answer_in_full();
	assert_true(gateway_counts(w.nodes[R].gateway).sealed.relayed_frames > 5);
	assert_null(memmem(w.seen.data, w.seen.length, PROMPT, strlen(PROMPT)));
	assert_null(memmem(w.seen.data, w.seen.length, "three", 5));
	assert_null(memmem(w.seen.data, w.seen.length, "tiny", 4));
	assert_int_equal(w.nodes[R].rows, 0);
}

static void streams_are_forgotten_when_they_are_over(void **state)
{
	(void)state;
	for (int i = 0; i < 100; i++) {
		w.ended = w.started = false;
		w.text[0] = 0;
		asked();
		answer_in_full();
	}
	tick(10);
	for (size_t i = 0; i < NODES; i++)
		assert_int_equal(gateway_counts(w.nodes[i].gateway).sealed.streams, 0);
}

static void enough_is_said_and_the_end_still_comes(void **state)
{
	(void)state;
	w.enough_at = 1;
	asked();
	say("one");
	pump();
	assert_true(w.stopped);
	say("two");              /* was on its way */
	finish("stop");
	pump();
	assert_string_equal(w.text, "one");
	assert_true(w.ended);
	assert_int_equal(w.end.err, 0);
	assert_int_equal(w.end.n_stages, 2);
}

static void what_was_cancelled_stops_there_and_is_charged(void **state)
{
	(void)state;
	struct gateway_call *call = asked();
	w.asked.on_start(w.asked.arg, "tiny@Bourdons", 9);
	say("one");
	pump();
	gateway_cancel(call);
	pump();
	assert_true(w.cancelled);
	assert_false(w.ended);
	assert_int_equal(w.nodes[G].rows, 10);
}

static void who_is_not_permitted_is_told_why(void **state)
{
	(void)state;
	struct gateway_call *call;
	w.nodes[G].permit = ERR_DENIED;
	assert_int_equal(ask("tiny", &call), 0);
	pump();
	assert_false(w.running);
	assert_true(w.ended);
	assert_int_equal(w.end.err, ERR_DENIED);
	assert_string_equal(w.end.detail, "it answers for no other node");
	assert_int_equal(w.nodes[G].rows, 0);
}

static void permission_that_ends_ends_the_answer(void **state)
{
	(void)state;
	asked();
	say("one");
	w.nodes[G].permit = ERR_BUDGET;
	gateway_recheck(w.nodes[G].gateway);
	pump();
	assert_true(w.cancelled);
	assert_true(w.ended);
	assert_int_equal(w.end.err, ERR_BUDGET);
}

static void permission_is_asked_again_while_tokens_come(void **state)
{
	(void)state;
	asked();
	w.nodes[G].permit = ERR_BUDGET;
	for (int i = 0; i < GATEWAY_PERMIT_TOKENS; i++) {
		assert_false(w.cancelled);
		say("x");
	}
	assert_true(w.cancelled);
	pump();
	assert_int_equal(w.end.err, ERR_BUDGET);
}

static void a_model_that_is_not_there_is_said(void **state)
{
	(void)state;
	struct gateway_call *call;
	assert_int_equal(ask("huge", &call), 0);
	pump();
	assert_int_equal(w.end.err, ERR_UNKNOWN);
	assert_string_equal(w.end.detail, "no such model here");
	w.ended = false;
	w.refuse = ERR_ARRIVING;
	assert_int_equal(ask("tiny", &call), 0);
	pump();
	assert_int_equal(w.end.err, ERR_ARRIVING);
	assert_int_equal(w.end.retry_after, 41);
}

/* --- who cannot be reached, and what is tampered with ---------------------------------------------------- */

static void without_any_neighbour_it_is_said_at_once(void **state)
{
	(void)state;
	struct gateway_call *call;
	connect(A, R, false);
	assert_int_equal(ask("tiny", &call), ERR_UNREACHABLE);
	assert_null(call);
}

static void a_neighbour_that_does_not_pass_on_ends_the_attempt(void **state)
{
	(void)state;
	struct gateway_call *call;
	w.nodes[R].relays = false;
	assert_int_equal(ask("tiny", &call), 0);
	pump();
	assert_true(w.ended);
	assert_int_equal(w.end.err, ERR_DENIED);
}

static bool drop_from_a_to_g(const struct wire *wire)
{
	return !(wire->from == A && wire->to == G);
}

static void the_next_neighbour_is_tried_when_the_first_is_silent(void **state)
{
	(void)state;
	struct gateway_call *call;
	connect(A, G, true);
	w.spy = drop_from_a_to_g;
	assert_int_equal(ask("tiny", &call), 0);
	pump();
	assert_false(w.running);
	tick(SEALED_SETUP_MS);
	assert_true(w.running);
	answer_in_full();
}

static bool drop_all(const struct wire *wire)
{
	(void)wire;
	return false;
}

static void silence_ends_both_sides(void **state)
{
	(void)state;
	asked();
	for (int i = 0; i < 20; i++)
		tick(SEALED_ALIVE_MS);       /* nothing is said, and both are there */
	assert_false(w.ended);
	w.spy = drop_all;
	for (int i = 0; i < 5; i++)
		tick(SEALED_ALIVE_MS);
	assert_true(w.cancelled);
	assert_true(w.ended);
	assert_int_equal(w.end.err, ERR_UNREACHABLE);
}

static void a_link_that_goes_ends_what_went_over_it(void **state)
{
	(void)state;
	asked();
	connect(A, R, false);
	assert_true(w.ended);
	assert_int_equal(w.end.err, ERR_UNREACHABLE);
}

static bool flip_a_bit_of_what_g_says(const struct wire *wire)
{
	if (wire->from == R && wire->to == A)
		wire->frame.data[wire->frame.length - 1] ^= 1;
	return true;
}

static void a_changed_bit_ends_the_answer(void **state)
{
	(void)state;
	asked();
	w.spy = flip_a_bit_of_what_g_says;
	say("one");
	pump();
	assert_true(w.ended);
	assert_int_equal(w.end.err, ERR_SIGNATURE);
	assert_int_equal(w.tokens, 0);
}

static void a_node_whose_card_names_another_key_is_refused(void **state)
{
	(void)state;
	struct gateway_call *call;
	connect(A, G, true);
	connect(A, R, false);
	w.nodes[A].claimed[0] ^= 1;
	assert_int_equal(ask("tiny", &call), 0);
	pump();
	assert_true(w.ended);
	assert_int_equal(w.end.err, ERR_DENIED);
	assert_false(w.running);
}

static struct buf recorded;

static bool record_the_first(const struct wire *wire)
{
	if (wire->to == G && !recorded.length)
		assert_int_equal(buf_append(&recorded, wire->frame.data, wire->frame.length), 0);
	return true;
}

static void a_first_message_that_is_replayed_opens_nothing(void **state)
{
	(void)state;
	buf_init(&recorded, FRAME_MAX);
	w.spy = record_the_first;
	asked();
	answer_in_full();
	w.running = false;
	tick(10);
	struct frame frame;
	size_t n;
	assert_int_equal(frame_decode(recorded.data, recorded.length, &frame, &n), 0);
	for (int i = 0; i < 20; i++) {
		gateway_on_frame(w.nodes[G].gateway, w.nodes[R].key, &frame);
		pump();
	}
	assert_false(w.running);
	assert_int_equal(gateway_counts(w.nodes[G].gateway).sealed.streams, 1);      /* waits for a word that nobody can say */
	tick(SEALED_SETUP_MS);
	tick(10);
	assert_int_equal(gateway_counts(w.nodes[G].gateway).sealed.streams, 0);
	buf_release(&recorded);
}

static void give(size_t to, size_t from, const struct sealed_message *m)
{
	struct buf bytes;
	struct frame frame;
	size_t n;
	buf_init(&bytes, FRAME_MAX);
	assert_int_equal(sealed_encode(&bytes, m), 0);
	assert_int_equal(frame_decode(bytes.data, bytes.length, &frame, &n), 0);
	gateway_on_frame(w.nodes[to].gateway, w.nodes[from].key, &frame);
	buf_release(&bytes);
}

static void only_what_is_a_neighbours_own_is_passed_on_and_only_so_much(void **state)
{
	(void)state;
	static uint8_t bytes[CHANNEL_MESSAGE_MAX];
	struct sealed_message m = {.step = SEALED_DATA, .bytes = bytes, .n = sizeof bytes};
	memcpy(m.from, w.nodes[G].key, KEY_BYTES);      /* says A, in G's name: it would have been passed on before */
	memcpy(m.to, w.nodes[A].key, KEY_BYTES);
	give(R, A, &m);
	assert_int_equal(gateway_counts(w.nodes[R].gateway).sealed.refused, 1);
	memcpy(m.from, w.nodes[A].key, KEY_BYTES);
	memset(m.to, 9, KEY_BYTES);                     /* nobody R knows */
	give(R, A, &m);
	assert_int_equal(gateway_counts(w.nodes[R].gateway).sealed.refused, 2);
	assert_int_equal(gateway_counts(w.nodes[R].gateway).sealed.relayed_frames, 0);

	memcpy(m.to, w.nodes[G].key, KEY_BYTES);
	for (int i = 0; i < 200; i++)
		give(R, A, &m);
	struct sealed_counts counts = gateway_counts(w.nodes[R].gateway).sealed;
	assert_true(counts.relayed_bytes <= SEALED_RELAY_BURST);
	assert_int_equal(counts.relayed_frames + counts.refused, 202);
	pump();
	w.ms += 1000;
	for (int i = 0; i < 200; i++)
		give(R, A, &m);
	assert_true(gateway_counts(w.nodes[R].gateway).sealed.relayed_bytes - counts.relayed_bytes <= SEALED_RELAY_RATE);
	/* Another neighbour has a bucket of its own. */
	memcpy(m.from, w.nodes[G].key, KEY_BYTES);
	memcpy(m.to, w.nodes[A].key, KEY_BYTES);
	uint64_t before = gateway_counts(w.nodes[R].gateway).sealed.relayed_frames;
	give(R, G, &m);
	assert_int_equal(gateway_counts(w.nodes[R].gateway).sealed.relayed_frames, before + 1);
}

static void one_node_cannot_take_all_streams(void **state)
{
	(void)state;
	struct gateway_call *calls[SEALED_STREAMS_NODE_MAX + 1];
	connect(A, G, true);
	for (size_t i = 0; i < SEALED_STREAMS_NODE_MAX; i++) {
		assert_int_equal(ask("tiny", &calls[i]), 0);
		pump();
	}
	assert_false(w.ended);
	assert_int_equal(ask("tiny", &calls[SEALED_STREAMS_NODE_MAX]), 0);
	connect(A, R, false);
	pump();
	assert_true(w.ended);
	assert_int_equal(w.end.err, ERR_BUSY);
	for (size_t i = 0; i < SEALED_STREAMS_NODE_MAX; i++)
		gateway_cancel(calls[i]);
	pump();
}

static void a_question_that_is_too_long_is_refused_before_it_is_sent(void **state)
{
	(void)state;
	char *text = calloc(1, GATEWAY_TEXT_MAX + FRAME_HEAD_MAX + 1);
	memset(text, 'a', GATEWAY_TEXT_MAX + FRAME_HEAD_MAX);
	struct render_message message = {.role = "", .content = text, .content_length = GATEWAY_TEXT_MAX + FRAME_HEAD_MAX};
	struct gateway_question question = {.model = "tiny", .n_messages = 1, .messages = &message, .sampling = {.top_p = 1, .repeat_penalty = 1},
					    .on_start = on_start, .on_token = on_token, .on_end = on_end};
	struct gateway_call *call;
	assert_int_equal(gateway_ask(w.nodes[A].gateway, w.nodes[G].key, &question, &call), ERR_LIMIT);
	assert_int_equal(w.n_wires, 0);
	/* What just fits arrives whole, in many messages. */
	message.content_length = GATEWAY_TEXT_MAX;
	assert_int_equal(gateway_ask(w.nodes[A].gateway, w.nodes[G].key, &question, &call), 0);
	pump();
	assert_true(w.running);
	assert_false(w.asked.chat);
	gateway_cancel(call);
	pump();
	free(text);
}

/* --- what travels ----------------------------------------------------------------------------------------- */

static void sealed_frames_are_checked(void **state)
{
	(void)state;
	uint8_t bytes[64] = {0};
	struct buf out;
	struct sealed_message m = {.from = {1}, .to = {2}, .step = SEALED_DATA, .bytes = bytes, .n = sizeof bytes}, again;
	struct frame frame;
	size_t n;
	buf_init(&out, FRAME_MAX);
	assert_int_equal(sealed_encode(&out, &m), 0);
	assert_int_equal(frame_decode(out.data, out.length, &frame, &n), 0);
	assert_int_equal(sealed_decode(&frame, &again), 0);
	assert_int_equal(again.n, sizeof bytes);
	frame.tail_length = CHANNEL_TAG - 1;
	assert_int_equal(sealed_decode(&frame, &again), ERR_MALFORMED);
	frame.tail_length = CHANNEL_MESSAGE_MAX + 1;
	assert_int_equal(sealed_decode(&frame, &again), ERR_LIMIT);
	m.code = ERR_BUSY;                              /* only where it failed */
	assert_int_equal(sealed_encode(&out, &m), ERR_MALFORMED);
	m.step = SEALED_FAILED;                         /* and then there is no message */
	assert_int_equal(sealed_encode(&out, &m), ERR_MALFORMED);
	m.n = 0;
	assert_int_equal(sealed_encode(&out, &m), 0);
	m.to[0] = 1;                                    /* to oneself */
	assert_int_equal(sealed_encode(&out, &m), ERR_MALFORMED);
	buf_release(&out);
}

static void the_end_has_limits(void **state)
{
	(void)state;
	struct buf out;
	struct gateway_end end = {.n_stages = 1, .stages = {{.range = {0, 1}}}};
	buf_init(&out, FRAME_MAX);
	assert_int_equal(gateway_end_encode(&out, &end), 0);
	end.stages[0].range.end = 0;
	assert_int_equal(gateway_end_encode(&out, &end), ERR_MALFORMED);
	end.stages[0].range.end = 1;
	end.n_stages = RING_STAGES_MAX + 1;
	assert_int_equal(gateway_end_encode(&out, &end), ERR_MALFORMED);
	end.n_stages = 0;
	end.err = 1;
	assert_int_equal(gateway_end_encode(&out, &end), ERR_MALFORMED);
	buf_release(&out);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_question_is_answered_over_a_link, setup, teardown),
		cmocka_unit_test_setup_teardown(a_question_is_answered_by_way_of_a_neighbour_who_sees_no_text, setup, teardown),
		cmocka_unit_test_setup_teardown(streams_are_forgotten_when_they_are_over, setup, teardown),
		cmocka_unit_test_setup_teardown(enough_is_said_and_the_end_still_comes, setup, teardown),
		cmocka_unit_test_setup_teardown(what_was_cancelled_stops_there_and_is_charged, setup, teardown),
		cmocka_unit_test_setup_teardown(who_is_not_permitted_is_told_why, setup, teardown),
		cmocka_unit_test_setup_teardown(permission_that_ends_ends_the_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(permission_is_asked_again_while_tokens_come, setup, teardown),
		cmocka_unit_test_setup_teardown(a_model_that_is_not_there_is_said, setup, teardown),
		cmocka_unit_test_setup_teardown(without_any_neighbour_it_is_said_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(a_neighbour_that_does_not_pass_on_ends_the_attempt, setup, teardown),
		cmocka_unit_test_setup_teardown(the_next_neighbour_is_tried_when_the_first_is_silent, setup, teardown),
		cmocka_unit_test_setup_teardown(silence_ends_both_sides, setup, teardown),
		cmocka_unit_test_setup_teardown(a_link_that_goes_ends_what_went_over_it, setup, teardown),
		cmocka_unit_test_setup_teardown(a_changed_bit_ends_the_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(a_node_whose_card_names_another_key_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_first_message_that_is_replayed_opens_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(only_what_is_a_neighbours_own_is_passed_on_and_only_so_much, setup, teardown),
		cmocka_unit_test_setup_teardown(one_node_cannot_take_all_streams, setup, teardown),
		cmocka_unit_test_setup_teardown(a_question_that_is_too_long_is_refused_before_it_is_sent, setup, teardown),
		cmocka_unit_test(sealed_frames_are_checked),
		cmocka_unit_test(the_end_has_limits),
	};
	if (sodium_init() < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
