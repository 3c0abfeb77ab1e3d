/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/route/sealed.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/log.h"

enum stream_state {
	STREAM_WAIT_SECOND,                  /* ours: message 1 is out */
	STREAM_WAIT_FIRST,                   /* theirs: message 2 is out */
	STREAM_UP,
	STREAM_CLOSED,                       /* forgotten at the next turn */
};

struct sealed_stream {
	struct sealed *sealed;
	struct sealed_stream *next;
	enum stream_state state;
	bool ours;                           /* we opened it */
	void *user;
	uint8_t node[KEY_BYTES], via[KEY_BYTES];
	uint8_t id[CHANNEL_ID_BYTES];
	struct channel channel;
	struct buf in;                       /* plaintext that is no whole frame yet */
	uint64_t began, heard, said;         /* ms */
	size_t n_tries, next_try;
	uint8_t tries[SEALED_TRIES_MAX][KEY_BYTES];
	char trouble[160];
};

struct bucket {                              /* what we still pass on for a neighbour */
	uint8_t node[KEY_BYTES];
	uint64_t bytes, at;
};

struct sealed {
	struct sealed_config config;
	struct sealed_stream *streams;
	size_t n_buckets;
	struct bucket buckets[SEALED_BUCKETS_MAX];
	struct sealed_counts counts;
};

static uint64_t now_ms(const struct sealed *s)
{
	return s->config.monotonic_ms(s->config.arg);
}

/* --- streams ---------------------------------------------------------------------------------------- */

static struct sealed_stream *stream_new(struct sealed *s, const uint8_t *node)
{
	struct sealed_stream *stream = calloc(1, sizeof *stream);
	if (!stream)
		return NULL;
	stream->sealed = s;
	memcpy(stream->node, node, KEY_BYTES);
	buf_init(&stream->in, SEALED_FRAME_MAX);
	stream->began = stream->heard = stream->said = now_ms(s);
	stream->next = s->streams;
	s->streams = stream;
	return stream;
}

static void stream_free(struct sealed_stream *stream)
{
	channel_release(&stream->channel);
	buf_release(&stream->in);
	free(stream);
}

/* Frees what was closed: never while a stream's own verb runs. */
static void forget_closed(struct sealed *s)
{
	for (struct sealed_stream **at = &s->streams; *at;) {
		struct sealed_stream *stream = *at;
		if (stream->state != STREAM_CLOSED) {
			at = &stream->next;
			continue;
		}
		*at = stream->next;
		stream_free(stream);
	}
}

static size_t count(const struct sealed *s, bool ours, const uint8_t *node)
{
	size_t n = 0;
	for (const struct sealed_stream *i = s->streams; i; i = i->next)
		n += i->state != STREAM_CLOSED && i->ours == ours && (!node || !memcmp(i->node, node, KEY_BYTES));
	return n;
}

/* The prologue binds a handshake to the two nodes, in their roles, and to this stream. */
static int begin_channel(struct sealed_stream *stream, const uint8_t *remote_key)
{
	const struct sealed_config *c = &stream->sealed->config;
	uint8_t prologue[32 + NAME_SIZE + 2 * KEY_BYTES + CHANNEL_ID_BYTES], ephemeral[CHANNEL_KEY];
	int n = snprintf((char *)prologue, 32 + NAME_SIZE, "essaim-sealed/1 %s", c->network);
	if (n < 0 || n >= 32 + NAME_SIZE)
		return ERR_LIMIT;
	size_t used = (size_t)n + 1;         /* with the NUL, which no name has */
	memcpy(prologue + used, stream->ours ? c->node : stream->node, KEY_BYTES);
	memcpy(prologue + used + KEY_BYTES, stream->ours ? stream->node : c->node, KEY_BYTES);
	memcpy(prologue + used + 2 * KEY_BYTES, stream->id, CHANNEL_ID_BYTES);
	used += 2 * KEY_BYTES + CHANNEL_ID_BYTES;
	c->random(c->arg, ephemeral, sizeof ephemeral);
	int err = channel_init(&stream->channel, remote_key ? CHANNEL_INITIATOR : CHANNEL_RESPONDER, prologue, used, c->link_secret, ephemeral,
			       remote_key);
	sodium_memzero(ephemeral, sizeof ephemeral);
	return err;
}

static int send_message(struct sealed *s, const uint8_t *via, const struct sealed_message *m)
{
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err = sealed_encode(&frame, m);
	if (!err)
		err = s->config.send(s->config.arg, via, &frame);
	buf_release(&frame);
	return err;
}

static int send_step(struct sealed_stream *stream, enum sealed_step step, int code, const struct buf *bytes)
{
	struct sealed_message m = {.step = step, .code = code};
	memcpy(m.from, stream->sealed->config.node, KEY_BYTES);
	memcpy(m.to, stream->node, KEY_BYTES);
	memcpy(m.channel, stream->id, CHANNEL_ID_BYTES);
	if (bytes) {
		m.bytes = bytes->data;
		m.n = bytes->length;
	}
	stream->said = now_ms(stream->sealed);
	return send_message(stream->sealed, stream->via, &m);
}

static void end(struct sealed_stream *stream, int why, const char *detail)
{
	struct sealed *s = stream->sealed;
	void *user = stream->user;
	char text[sizeof stream->trouble];
	if (stream->state == STREAM_CLOSED)
		return;
	stream->state = STREAM_CLOSED;
	stream->user = NULL;
	snprintf(text, sizeof text, "%s", detail);           /* it may be the stream's own */
	if (user)
		s->config.on_closed(s->config.owner, user, why, text);
}

/* --- opening ---------------------------------------------------------------------------------------- */

/* Over the next neighbour that takes it; ERR_UNREACHABLE when there is none left. */
static int try_next(struct sealed_stream *stream)
{
	const struct sealed_config *c = &stream->sealed->config;
	uint8_t key[KEY_BYTES];
	int err = c->link_key(c->arg, stream->node, key);
	while (!err && stream->next_try < stream->n_tries) {
		struct buf message;
		memcpy(stream->via, stream->tries[stream->next_try++], KEY_BYTES);
		if (!c->is_up(c->arg, stream->via))
			continue;
		channel_release(&stream->channel);
		c->random(c->arg, stream->id, sizeof stream->id);
		buf_init(&message, CHANNEL_MESSAGE_MAX);
		err = begin_channel(stream, key);
		if (!err)
			err = channel_write_1(&stream->channel, NULL, 0, &message);
		int sent = err ? err : send_step(stream, SEALED_FIRST, 0, &message);
		buf_release(&message);
		stream->began = now_ms(stream->sealed);
		if (!err && !sent)
			return 0;
	}
	return err ? err : ERR_UNREACHABLE;
}

int sealed_open(struct sealed *s, const uint8_t node[KEY_BYTES], void *user, struct sealed_stream **out)
{
	const struct sealed_config *c = &s->config;
	uint8_t neighbours[SEALED_TRIES_MAX][KEY_BYTES];
	*out = NULL;
	forget_closed(s);
	if (!memcmp(node, c->node, KEY_BYTES))
		return ERR_DENIED;
	if (count(s, true, NULL) >= SEALED_STREAMS_MAX / 2)
		return ERR_BUSY;
	struct sealed_stream *stream = stream_new(s, node);
	if (!stream)
		return -ENOMEM;
	stream->ours = true;
	if (c->is_up(c->arg, node))
		memcpy(stream->tries[stream->n_tries++], node, KEY_BYTES);
	size_t n = c->neighbours(c->arg, neighbours, SEALED_TRIES_MAX);
	for (size_t i = 0; i < n && stream->n_tries < SEALED_TRIES_MAX; i++)
		if (memcmp(neighbours[i], node, KEY_BYTES))
			memcpy(stream->tries[stream->n_tries++], neighbours[i], KEY_BYTES);
	snprintf(stream->trouble, sizeof stream->trouble, "no neighbour passes on to it");
	int err = try_next(stream);
	if (err) {
		stream->state = STREAM_CLOSED;
		return err;
	}
	stream->user = user;
	*out = stream;
	return 0;
}

static void attempt_failed(struct sealed_stream *stream, int why, const char *detail)
{
	snprintf(stream->trouble, sizeof stream->trouble, "%s", detail);
	if (try_next(stream))
		end(stream, why, stream->trouble);
}

/* --- saying ----------------------------------------------------------------------------------------- */

static int seal(struct sealed_stream *stream, const uint8_t *bytes, size_t n)
{
	struct buf message;
	buf_init(&message, CHANNEL_MESSAGE_MAX);
	int err = channel_seal(&stream->channel, bytes, n, &message);
	if (!err)
		err = send_step(stream, SEALED_DATA, 0, &message);
	buf_release(&message);
	return err;
}

int sealed_send(struct sealed_stream *stream, const struct buf *frame)
{
	if (stream->state != STREAM_UP)
		return ERR_UNREACHABLE;
	if (frame->length > SEALED_FRAME_MAX)
		return ERR_LIMIT;
	int err = 0;
	for (size_t at = 0; !err && at < frame->length;) {
		size_t n = frame->length - at < CHANNEL_PLAIN_MAX ? frame->length - at : CHANNEL_PLAIN_MAX;
		err = seal(stream, frame->data + at, n);
		at += n;
	}
	return err;
}

void sealed_close(struct sealed_stream *stream, int why)
{
	struct buf frame;
	buf_init(&frame, 256);
	if (stream->state == STREAM_UP && !gateway_bye_encode(&frame, why < -4096 ? ERR_CANCELLED : why))
		sealed_send(stream, &frame);
	buf_release(&frame);
	stream->state = STREAM_CLOSED;
	stream->user = NULL;
}

const uint8_t *sealed_via(const struct sealed_stream *stream)
{
	return stream->via;
}

/* --- hearing ---------------------------------------------------------------------------------------- */

/* Tells both: the other side why, and the owner. */
static void break_off(struct sealed_stream *stream, int err, const char *detail)
{
	void *user = stream->user;
	sealed_close(stream, err);
	if (user)
		stream->sealed->config.on_closed(stream->sealed->config.owner, user, err, detail);
}

static void take_frames(struct sealed_stream *stream)
{
	struct sealed *s = stream->sealed;
	while (stream->state == STREAM_UP) {
		struct frame frame;
		size_t used;
		int err = frame_decode(stream->in.data, stream->in.length, &frame, &used), why = 0;
		if (err == -EAGAIN)
			return;
		if (err) {
			break_off(stream, err, "it sent what is no frame");
			return;
		}
		if (frame.type == FRAME_BYE) {
			err = gateway_bye_decode(&frame, &why);
			end(stream, err ? err : why ? why : ERR_CANCELLED, err || why ? err_str(err ? err : why) : "it said goodbye");
			return;
		}
		err = s->config.on_frame(s->config.owner, stream->user, &frame);
		if (stream->state != STREAM_UP)
			return;
		if (err) {
			break_off(stream, err, "it said what cannot be understood");
			return;
		}
		buf_consume(&stream->in, used);
	}
}

static void on_data(struct sealed_stream *stream, const struct sealed_message *m)
{
	struct sealed *s = stream->sealed;
	if (stream->state == STREAM_WAIT_SECOND)
		return;
	int err = channel_open(&stream->channel, m->bytes, m->n, &stream->in);
	if (err) {
		end(stream, err, "what arrives does not verify");
		return;
	}
	stream->heard = now_ms(s);
	if (stream->state == STREAM_WAIT_FIRST) {
		stream->state = STREAM_UP;
		stream->user = s->config.on_open(s->config.owner, stream, stream->node);
		if (!stream->user)
			sealed_close(stream, ERR_BUSY);
	}
	take_frames(stream);
}

static void on_second(struct sealed_stream *stream, const struct sealed_message *m)
{
	struct sealed *s = stream->sealed;
	struct buf payload;
	if (stream->state != STREAM_WAIT_SECOND)
		return;
	buf_init(&payload, CHANNEL_MESSAGE_MAX);
	int err = channel_read_2(&stream->channel, m->bytes, m->n, &payload);
	buf_release(&payload);
	if (err) {
		attempt_failed(stream, err, "another key answers there than its card names");
		return;
	}
	stream->state = STREAM_UP;
	stream->heard = now_ms(s);
	seal(stream, NULL, 0);               /* our first message: it knows from it that we are alive */
	s->config.on_up(s->config.owner, stream->user);
}

static void fault(struct sealed *s, const uint8_t *neighbour, const struct sealed_message *about, int code)
{
	struct sealed_message m = {.step = SEALED_FAILED, .code = code};
	s->counts.refused++;
	if (about->step == SEALED_FAILED)
		return;
	memcpy(m.from, about->to, KEY_BYTES);
	memcpy(m.to, about->from, KEY_BYTES);
	memcpy(m.channel, about->channel, CHANNEL_ID_BYTES);
	send_message(s, neighbour, &m);
}

static int accept(struct sealed *s, const uint8_t *neighbour, const struct sealed_message *m)
{
	const struct sealed_config *c = &s->config;
	uint8_t key[KEY_BYTES];
	struct buf payload, answer;
	int err = c->link_key(c->arg, m->from, key);
	if (err)
		return ERR_DENIED;
	if (count(s, false, NULL) >= SEALED_STREAMS_MAX / 2 || count(s, false, m->from) >= SEALED_STREAMS_NODE_MAX)
		return ERR_BUSY;
	struct sealed_stream *stream = stream_new(s, m->from);
	if (!stream)
		return ERR_BUSY;
	stream->state = STREAM_WAIT_FIRST;
	memcpy(stream->via, neighbour, KEY_BYTES);
	memcpy(stream->id, m->channel, CHANNEL_ID_BYTES);
	buf_init(&payload, CHANNEL_MESSAGE_MAX);
	buf_init(&answer, CHANNEL_MESSAGE_MAX);
	err = begin_channel(stream, NULL);
	if (!err)
		err = channel_read_1(&stream->channel, m->bytes, m->n, &payload);
	if (!err && memcmp(stream->channel.remote_static, key, KEY_BYTES))
		err = ERR_DENIED;
	if (!err)
		err = channel_write_2(&stream->channel, NULL, 0, &answer);
	if (!err)
		err = send_step(stream, SEALED_SECOND, 0, &answer);
	buf_release(&payload);
	buf_release(&answer);
	if (err)
		stream->state = STREAM_CLOSED;
	return err;
}

/* Ours to read. `neighbour` is who sent it: `from` itself, or the one in the middle. */
static void on_own(struct sealed *s, const uint8_t *neighbour, const struct sealed_message *m)
{
	struct sealed_stream *stream = s->streams;
	while (stream && (stream->state == STREAM_CLOSED || memcmp(stream->id, m->channel, CHANNEL_ID_BYTES) ||
			  memcmp(stream->node, m->from, KEY_BYTES) || memcmp(stream->via, neighbour, KEY_BYTES)))
		stream = stream->next;
	if (m->step == SEALED_FIRST) {
		int err = stream ? ERR_REPLAYED : accept(s, neighbour, m);
		if (err)
			fault(s, neighbour, m, err);
	} else if (!stream) {
		if (m->step == SEALED_DATA)
			fault(s, neighbour, m, ERR_UNKNOWN);
	} else if (m->step == SEALED_SECOND) {
		on_second(stream, m);
	} else if (m->step == SEALED_DATA) {
		on_data(stream, m);
	} else if (stream->state == STREAM_WAIT_SECOND) {
		attempt_failed(stream, m->code, err_str(m->code));
	} else {
		end(stream, m->code, err_str(m->code));
	}
}

/* --- passing on ------------------------------------------------------------------------------------- */

static struct bucket *bucket_of(struct sealed *s, const uint8_t *node)
{
	uint64_t now = now_ms(s);
	struct bucket *oldest = s->buckets;
	for (size_t i = 0; i < s->n_buckets; i++) {
		if (!memcmp(s->buckets[i].node, node, KEY_BYTES))
			return &s->buckets[i];
		if (s->buckets[i].at < oldest->at)
			oldest = &s->buckets[i];
	}
	struct bucket *b = s->n_buckets < SEALED_BUCKETS_MAX ? &s->buckets[s->n_buckets++] : oldest;
	*b = (struct bucket){.bytes = SEALED_RELAY_BURST, .at = now};
	memcpy(b->node, node, KEY_BYTES);
	return b;
}

static bool spend(struct sealed *s, const uint8_t *node, size_t n)
{
	struct bucket *b = bucket_of(s, node);
	uint64_t now = now_ms(s), more = (now - b->at) * SEALED_RELAY_RATE / 1000;
	if (more) {
		b->bytes = more > SEALED_RELAY_BURST - b->bytes ? SEALED_RELAY_BURST : b->bytes + more;
		b->at = now;
	}
	if (b->bytes < n)
		return false;
	b->bytes -= n;
	return true;
}

static void pass_on(struct sealed *s, const uint8_t *neighbour, const struct sealed_message *m)
{
	const struct sealed_config *c = &s->config;
	int err = 0;
	/* One in the middle and no more: what comes from somebody else than it says was passed on before. */
	if (memcmp(m->from, neighbour, KEY_BYTES) || !c->relays(c->arg))
		err = ERR_DENIED;
	else if (!c->is_up(c->arg, m->to))
		err = ERR_UNREACHABLE;
	else if (!spend(s, neighbour, m->n + FRAME_HEADER))
		err = ERR_BUSY;
	else
		err = send_message(s, m->to, m);
	if (err) {
		fault(s, neighbour, m, err >= INT16_MIN ? err : ERR_BUSY);
		return;
	}
	s->counts.relayed_frames++;
	s->counts.relayed_bytes += m->n;
}

void sealed_on_frame(struct sealed *s, const uint8_t neighbour[KEY_BYTES], const struct frame *frame)
{
	struct sealed_message m;
	forget_closed(s);
	int err = sealed_decode(frame, &m);
	if (err) {
		s->counts.refused++;
		log_debug("a sealed frame that cannot be read was dropped: %s", err_str(err));
	} else if (!memcmp(m.to, s->config.node, KEY_BYTES)) {
		on_own(s, neighbour, &m);
	} else {
		pass_on(s, neighbour, &m);
	}
}

/* --- time ------------------------------------------------------------------------------------------- */

void sealed_on_down(struct sealed *s, const uint8_t neighbour[KEY_BYTES])
{
	for (struct sealed_stream *i = s->streams, *next; i; i = next) {
		next = i->next;
		if (i->state == STREAM_CLOSED || memcmp(i->via, neighbour, KEY_BYTES))
			continue;
		if (i->state == STREAM_WAIT_SECOND)
			attempt_failed(i, ERR_UNREACHABLE, "the link went down");
		else
			end(i, ERR_UNREACHABLE, "the link on the way went down");
	}
}

void sealed_tick(struct sealed *s)
{
	uint64_t now = now_ms(s);
	forget_closed(s);
	for (struct sealed_stream *i = s->streams, *next; i; i = next) {
		next = i->next;
		if (i->state == STREAM_WAIT_SECOND && now >= i->began + SEALED_SETUP_MS)
			attempt_failed(i, ERR_UNREACHABLE, "it does not answer");
		else if (i->state == STREAM_WAIT_FIRST && now >= i->began + SEALED_SETUP_MS)
			end(i, ERR_UNREACHABLE, "it does not answer");
		else if (i->state == STREAM_UP && now >= i->heard + SEALED_SILENCE_MS)
			end(i, ERR_UNREACHABLE, "it fell silent");
		else if (i->state == STREAM_UP && now >= i->said + SEALED_ALIVE_MS)
			seal(i, NULL, 0);
	}
}

struct sealed_counts sealed_counts(const struct sealed *s)
{
	struct sealed_counts counts = s->counts;
	counts.streams = count(s, true, NULL) + count(s, false, NULL);
	return counts;
}

int sealed_new(struct sealed **out, const struct sealed_config *config)
{
	struct sealed *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->config = *config;
	*out = s;
	return 0;
}

void sealed_free(struct sealed *s)
{
	while (s && s->streams) {
		struct sealed_stream *stream = s->streams;
		s->streams = stream->next;
		stream_free(stream);
	}
	free(s);
}
