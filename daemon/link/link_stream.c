/* link_stream.c: after the handshake: frames become messages and messages frames.
 *
 * Out: frames wait in a queue of limited size. Once a turn of the loop (an idle handle, so that it runs before the loop
 * sleeps) as many as fit are sealed, straight from the frame's own memory, into one buffer, and that goes to the
 * kernel in one call. The link's own frames go between two others, before those that wait; they need no credit.
 *
 * In: one read buffer serves all links, since a read is used up before the callback returns; only the beginning of
 * a message that is not all there is copied and kept.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/link/link_internal.h"
#include "proto/err.h"
#include "proto/message.h"
#include "proto/pack.h"

#define READ_SIZE (128u << 10)             /* two whole messages */

#define FLUSH_TURNS 2                      /* times OUT_TARGET that one link seals before others get their turn: half a millisecond */
#define SLACK_MAX (32u << 10)              /* memory behind a waiting frame */

static uint8_t read_buffer[READ_SIZE];     /* loop thread only */

/* --- out ----------------------------------------------------------------------------------------- */

static void queue_drop_first(struct link *link)
{
	struct link_queued *q = link->first;
	link->first = q->next;
	if (!link->first)
		link->last = NULL;
	link->first_at = 0;
	buf_release(&q->frame);
	free(q);
}

void link_queue_clear(struct link *link)
{
	while (link->first)
		queue_drop_first(link);
	link->queued = 0;
}

bool link_has_output(const struct link *link)
{
	return link->first || link->control.length || link->out.length;
}

static int seal(struct link *link, const uint8_t *plain, size_t n)
{
	size_t at = link->out.length;
	uint8_t *prefix = buf_reserve(&link->out, LENGTH_PREFIX + n + CHANNEL_TAG);
	if (!prefix)
		return -ENOMEM;
	put_u16(prefix, (uint16_t)(n + CHANNEL_TAG));
	buf_grow(&link->out, LENGTH_PREFIX);
	int err = channel_seal(&link->channel, plain, n, &link->out);
	if (err)
		link->out.length = at;
	return err;
}

/* Seals one message of what waits: 1, 0 when nothing may go now, or an error. */
static int seal_next(struct link *link)
{
	struct link_queued *q = link->first;
	if (link->first_at == 0 && link->control.length) {
		int err = seal(link, link->control.data, link->control.length);
		buf_clear(&link->control);
		return err ? err : 1;
	}
	if (!q)
		return 0;
	size_t n = q->frame.length - link->first_at;
	if (link->first_at == 0) {
		if (!credit_may_send(&link->credit, n))
			return 0;
		link->credit.sent += n;
	}
	if (n > CHANNEL_PLAIN_MAX)
		n = CHANNEL_PLAIN_MAX;
	int err = seal(link, q->frame.data + link->first_at, n);
	if (err)
		return err;
	link->first_at += n;
	link->queued -= n;
	if (link->first_at == q->frame.length)
		queue_drop_first(link);
	return 1;
}

/* Something went out. Where frames wait for credit, answers to pings are no progress. */
static void moved(struct link *link)
{
	bool stuck = link->first && link->credit.sent == link->sent_seen && !link->first_at;
	link->sent_seen = link->credit.sent;
	if (link->state == LINK_UP && !stuck)
		heartbeat_moved(&link->heartbeat, uv_now(link->config.loop), link_has_output(link));
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
	struct link *link = request->data;
	free(request);
	link_done(link);
}

static void shut(struct link *link)
{
	link->shut = true;
	uv_shutdown_t *request = malloc(sizeof *request);
	if (!request) {
		link_destroy(link);
		return;
	}
	request->data = link;
	if (uv_shutdown(request, (uv_stream_t *)&link->tcp, on_shutdown)) {
		free(request);
		link_destroy(link);
		return;
	}
	link->pending++;
}

static void tell_drained(struct link *link)
{
	if (link->state != LINK_UP || !link->want_drain || link->queued > LINK_QUEUE_MAX / 2)
		return;
	link->want_drain = false;
	if (link->config.events.on_drain)
		link->config.events.on_drain(link->config.owner, link);
}

static void on_written(uv_write_t *request, int status)
{
	struct link *link = request->data;
	link->writing = false;
	link->kernel_left = 0;
	if (status == 0 && link->state != LINK_CLOSED) {
		link->bytes_out += link->out.length - link->out_at;
		buf_clear(&link->out);
		link->out_at = 0;
		moved(link);
		link_flush(link);
		tell_drained(link);
	} else if (link->state != LINK_CLOSED)
		link_fail(link, status, "connection to %s lost: %s", link->address, err_str(status));
	link_done(link);
}

/* Gives `out` to the kernel: 1 when all of it went, 0 when the rest is on its way, or an error. */
static int write_out(struct link *link)
{
	uv_buf_t b = uv_buf_init((char *)link->out.data, (unsigned)link->out.length);
	int n = uv_try_write((uv_stream_t *)&link->tcp, &b, 1);
	if (n < 0 && n != UV_EAGAIN)
		return n;
	size_t done = n > 0 ? (size_t)n : 0;
	link->bytes_out += done;
	if (done == link->out.length) {
		buf_clear(&link->out);
		return 1;
	}
	link->out_at = done;
	b = uv_buf_init((char *)link->out.data + done, (unsigned)(link->out.length - done));
	int err = uv_write(&link->write, (uv_stream_t *)&link->tcp, &b, 1, on_written);
	if (err)
		return err;
	link->pending++;
	link->writing = true;
	link->kernel_left = link->out.length - done;
	if (done)
		moved(link);
	return 0;
}

void link_flush(struct link *link)
{
	if (link->writing || link->state == LINK_CLOSED)
		return;
	for (int turns = 0;; turns++) {
		if (turns == FLUSH_TURNS) {
			link_flush_soon(link);     /* others are to have their turn of the loop */
			return;
		}
		int err = 1;
		while (link->out.length < OUT_TARGET && (err = seal_next(link)) > 0)
			;
		if (!err && !link->out.length)
			break;
		if (err >= 0)
			err = write_out(link);
		if (err < 0) {
			link_fail(link, err, "connection to %s lost: %s", link->address, err_str(err));
			return;
		}
		if (err == 0)
			return;
		moved(link);
	}
	/* With credit used up something may wait here: on_credit() goes on. */
	if (link->state == LINK_LINGERING && !link->shut)
		shut(link);
}

static void on_idle(uv_idle_t *idle)
{
	struct link *link = idle->data;
	uv_idle_stop(idle);
	link_flush(link);
	tell_drained(link);
}

void link_flush_soon(struct link *link)
{
	if (link->state != LINK_CLOSED)
		uv_idle_start(&link->flush, on_idle);
}

static int enqueue(struct link *link, struct buf *frame)
{
	struct link_queued *q = calloc(1, sizeof *q);
	if (!q)
		return -ENOMEM;
	buf_move(&q->frame, frame);
	/* Buffers grow by doubling; what waits is counted by its length and so must not hold more. */
	if (q->frame.capacity - q->frame.length > SLACK_MAX) {
		uint8_t *less = realloc(q->frame.data, q->frame.length);
		if (less) {
			q->frame.data = less;
			q->frame.capacity = q->frame.length;
		}
	}
	link->queued += q->frame.length;
	if (link->last)
		link->last->next = q;
	else
		link->first = q;
	link->last = q;
	return 0;
}

void link_queue_goodbye(struct link *link, const struct buf *head)
{
	struct buf frame;
	buf_init(&frame, CONTROL_MAX);
	if (!frame_encode(&frame, FRAME_BYE, head->data, head->length, NULL, 0))
		enqueue(link, &frame);
	buf_release(&frame);
}

int link_send(struct link *link, struct buf *frame)
{
	if (link->state != LINK_UP)
		return ERR_UNREACHABLE;
	if (!frame->length)
		return ERR_MALFORMED;
	if (frame->length > FRAME_MAX)
		return ERR_LIMIT;
	if (link->queued + frame->length > LINK_QUEUE_MAX) {
		link->want_drain = true;
		return -EAGAIN;
	}
	int err = enqueue(link, frame);
	if (err)
		return err;
	heartbeat_waits(&link->heartbeat, uv_now(link->config.loop));
	link_flush_soon(link);
	return 0;
}

int link_control(struct link *link, enum frame_type type, const struct buf *head)
{
	static const uint8_t empty_map[] = {0x80};
	if (head)
		return frame_encode(&link->control, type, head->data, head->length, NULL, 0);
	return frame_encode(&link->control, type, empty_map, sizeof empty_map, NULL, 0);
}

int link_write_raw(struct link *link, const struct buf *message)
{
	uint8_t prefix[LENGTH_PREFIX];
	put_u16(prefix, (uint16_t)message->length);
	int err = buf_append(&link->out, prefix, sizeof prefix);
	if (!err)
		err = buf_append(&link->out, message->data, message->length);
	if (!err)
		link_flush_soon(link);
	return err;
}

/* --- the link's own frames ----------------------------------------------------------------------- */

static void number_frame(struct link *link, enum frame_type type, const char *key, uint64_t value)
{
	struct buf head;
	buf_init(&head, 64);
	struct pack_writer w;
	pack_writer_init(&w, &head);
	pack_map(&w, 1);
	pack_kv_uint(&w, key, value);
	int err = w.err ? w.err : link_control(link, type, &head);
	buf_release(&head);
	if (err)
		link_fail(link, ERR_LIMIT, "%s asks and does not read the answers", link->address);
	else
		link_flush_soon(link);
}

void link_stream_begin(struct link *link)
{
	struct buf head;
	buf_init(&head, 128);
	struct pack_writer w;
	pack_writer_init(&w, &head);
	pack_map(&w, 3);
	pack_kv_uint(&w, "low", PROTOCOL_VERSION);
	pack_kv_uint(&w, "high", PROTOCOL_VERSION);
	pack_kv_uint(&w, "window", LINK_WINDOW);
	int err = w.err ? w.err : link_control(link, FRAME_HELLO, &head);
	buf_release(&head);
	link->state = LINK_WAIT_FIRST;
	if (err)
		link_fail(link, err, "no memory for %s", link->address);
	else
		link_flush_soon(link);
}

static int on_hello(struct link *link, struct pack_cursor c, int *err)
{
	uint64_t low = pack_get_uint(c, "low", UINT32_MAX), high = pack_get_uint(c, "high", UINT32_MAX);
	uint64_t window = pack_get_uint(c, "window", UINT32_MAX);
	if (*err)
		return *err;
	if (low > PROTOCOL_VERSION || high < PROTOCOL_VERSION || low > high) {
		link_fail(link, ERR_VERSION, "%s speaks versions %u to %u of the protocol, this node version %d: update the older of the two",
			  link->address, (unsigned)low, (unsigned)high, PROTOCOL_VERSION);
		return 0;
	}
	*err = credit_init(&link->credit, window);
	if (!*err)
		link_is_up(link);
	return *err;
}

static int on_credit(struct link *link, struct pack_cursor c, int *err)
{
	uint64_t total = pack_get_uint(c, "consumed", UINT64_MAX);
	if (*err)
		return *err;
	*err = credit_received(&link->credit, total);
	if (!*err && link->first) {
		heartbeat_moved(&link->heartbeat, uv_now(link->config.loop), true);
		link_flush_soon(link);
	}
	return *err;
}

static void on_pong(struct link *link, uint64_t id)
{
	if (!link->ping_us || id != link->ping_id)
		return;                            /* an answer to an older ping */
	double ms = (double)(uv_hrtime() / 1000 - link->ping_us) / 1000.0;
	/* A busy moment only ever adds to a round trip: less is believed sooner than more. */
	double weight = ms < link->rtt_ms ? 0.5 : 0.125;
	link->rtt_ms = link->rtt_ms > 0 ? link->rtt_ms * (1 - weight) + ms * weight : ms;
	link->ping_us = 0;
}

static void own_frame(struct link *link, const struct frame *f)
{
	struct pack_doc doc;
	int err = pack_parse(&doc, f->head, f->head_length, &pack_limits_head);
	if (err) {
		link_fail(link, ERR_MALFORMED, "%s sent a frame that cannot be read", link->address);
		return;
	}
	int sticky;
	struct pack_cursor c = pack_root(&doc, &sticky);
	bool up = link->state == LINK_UP;
	err = ERR_MALFORMED;
	if (f->type == FRAME_HELLO && !up)
		err = on_hello(link, c, &sticky);
	else if (f->type == FRAME_PING && up) {
		uint64_t id = pack_get_uint(c, "id", UINT64_MAX);
		err = sticky;
		if (!err)
			number_frame(link, FRAME_PONG, "id", id);
	} else if (f->type == FRAME_PONG && up) {
		uint64_t id = pack_get_uint(c, "id", UINT64_MAX);
		err = sticky;
		if (!err)
			on_pong(link, id);
	} else if (f->type == FRAME_CREDIT && up)
		err = on_credit(link, c, &sticky);
	else if (f->type == FRAME_BYE) {
		int64_t why = pack_get_int(c, "why");
		if (sticky || why > 0 || why < -4096)
			why = ERR_MALFORMED;
		link->why = (int)why;
		snprintf(link->detail, sizeof link->detail, "%s closed the link: %s", link->address, why ? err_str((int)why) : "goodbye");
		link_destroy(link);
		err = 0;
	} else if (f->type > FRAME_BYE)
		err = ERR_UNSUPPORTED;
	pack_release(&doc);
	if (err)
		link_fail(link, err, "%s sent a frame of type %u that does not belong there", link->address, (unsigned)f->type);
}

/* --- in ------------------------------------------------------------------------------------------ */

static void take_frame(struct link *link, const struct frame *f, size_t size)
{
	if (f->type < FRAME_DIGEST) {
		own_frame(link, f);
		return;
	}
	if (link->state != LINK_UP) {
		link_fail(link, ERR_MALFORMED, "%s did not say HELLO first", link->address);
		return;
	}
	if (f->type >= FRAME_ENGINE_HELLO && f->type < FRAME_IGNORABLE) {
		link_fail(link, ERR_MALFORMED, "%s sent an engine's frame", link->address);
		return;
	}
	bool known = f->type < FRAME_IGNORABLE || f->type == FRAME_REACH || f->type == FRAME_REACHED;
	if (known && link->config.events.on_frame)
		link->config.events.on_frame(link->config.owner, link, f);
	if (link->state != LINK_UP)
		return;
	link->credit.consumed += size;
	if (credit_is_due(&link->credit)) {
		credit_told(&link->credit);
		number_frame(link, FRAME_CREDIT, "consumed", link->credit.consumed);
	}
}

static void transport_message(struct link *link, const uint8_t *message, size_t n)
{
	int err = channel_open(&link->channel, message, n, &link->plain);
	if (err) {
		link_fail(link, err, "a message from %s does not verify", link->address);
		return;
	}
	uint64_t now = uv_now(link->config.loop);
	if (link->state == LINK_UP)
		heartbeat_heard(&link->heartbeat, now);
	if (link->plain.capacity > CHANNEL_MESSAGE_MAX)
		link->big_at = now;

	size_t at = 0;
	while (link->state == LINK_UP || link->state == LINK_WAIT_FIRST) {
		struct frame frame;
		size_t used;
		err = frame_decode(link->plain.data + at, link->plain.length - at, &frame, &used);
		if (err == -EAGAIN)
			break;
		if (err) {
			link_fail(link, err, "%s sent what is not a frame", link->address);
			return;
		}
		at += used;
		take_frame(link, &frame, used);
	}
	buf_consume(&link->plain, at);
}

static void take_message(struct link *link, const uint8_t *message, size_t n)
{
	if (link->state == LINK_WAIT_1 || link->state == LINK_WAIT_2)
		link_handshake_message(link, message, n);
	else if (link->state == LINK_WAIT_FIRST || link->state == LINK_UP)
		transport_message(link, message, n);
}

/* The length of a message, checked before a byte of it is kept. */
static bool length_is_good(struct link *link, size_t n)
{
	bool handshake = link->state == LINK_WAIT_1 || link->state == LINK_WAIT_2;
	if (n >= CHANNEL_TAG && (!handshake || n <= HANDSHAKE_MESSAGE_MAX))
		return true;
	link_fail(link, ERR_MALFORMED, "what answers at %s does not speak Essaim's protocol", link->address);
	return false;
}

static void feed(struct link *link, const uint8_t *bytes, size_t n)
{
	while (n && link->state < LINK_LINGERING) {
		if (!link->partial.length && n >= LENGTH_PREFIX) {
			size_t length = get_u16(bytes);
			if (!length_is_good(link, length))
				return;
			if (n >= LENGTH_PREFIX + length) {
				take_message(link, bytes + LENGTH_PREFIX, length);
				bytes += LENGTH_PREFIX + length;
				n -= LENGTH_PREFIX + length;
				continue;
			}
		}
		/* Only a piece: keep it, up to the end of its message. */
		size_t want = LENGTH_PREFIX;
		if (link->partial.length >= LENGTH_PREFIX)
			want += get_u16(link->partial.data);
		size_t take = want - link->partial.length;
		if (take > n)
			take = n;
		if (buf_append(&link->partial, bytes, take)) {
			link_fail(link, -ENOMEM, "no memory for a message from %s", link->address);
			return;
		}
		bytes += take;
		n -= take;
		if (link->partial.length < LENGTH_PREFIX)
			continue;
		size_t length = get_u16(link->partial.data);
		if (!length_is_good(link, length))
			return;
		if (link->partial.length < LENGTH_PREFIX + length)
			continue;
		take_message(link, link->partial.data + LENGTH_PREFIX, length);
		buf_clear(&link->partial);
	}
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
	*out = uv_buf_init((char *)read_buffer, sizeof read_buffer);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
	struct link *link = stream->data;
	if (n > 0) {
		link->bytes_in += (uint64_t)n;
		feed(link, (const uint8_t *)b->base, (size_t)n);
		return;
	}
	if (n == 0)
		return;
	if (link->state == LINK_LINGERING) {
		link_destroy(link);
		return;
	}
	const char *lost = n == UV_EOF ? "it closed" : err_str((int)n);
	if (link->dialled && link->state <= LINK_WAIT_FIRST)
		link_fail(link, (int)n,
			  "%s closed the connection during the handshake: it does not admit this node, or is not Essaim",
			  link->address);
	else
		link_fail(link, (int)n, "connection to %s lost: %s", link->address, lost);
}

void link_read_start(struct link *link)
{
	int err = uv_read_start((uv_stream_t *)&link->tcp, on_alloc, on_read);
	if (err)
		link_fail(link, err, "cannot read from %s: %s", link->address, err_str(err));
}
