/* link.c: one link from its first handle to its last: what makes it tick, fail, say goodbye and go.
 *
 * A link that fails with a channel standing lingers for a moment: what waited (when it is closed in peace), then BYE, then the
 * write side is shut and what still arrives is thrown away until the other side closes too. Closing at once with
 * unread bytes would make the kernel send a reset, which overtakes the goodbye.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "daemon/link/link_internal.h"
#include "proto/err.h"
#include "proto/pack.h"

#define TICK_MS 1000
#define BIG_PLAIN (256u << 10)             /* memory that an idle link gives back */
#define BIG_PLAIN_KEPT_MS 5000



struct link *link_new(const struct link_config *config)
{
	struct link *link = calloc(1, sizeof *link);
	if (!link)
		return NULL;
	link->config = *config;
	if (uv_tcp_init(config->loop, &link->tcp)) {
		free(link);
		return NULL;
	}
	uv_timer_init(config->loop, &link->timer);
	uv_idle_init(config->loop, &link->flush);
	link->pending = 3;
	link->tcp.data = link->timer.data = link->flush.data = link;
	link->connect.data = link->resolve.data = link->write.data = link;
	buf_init(&link->peer_payload, HANDSHAKE_MESSAGE_MAX);
	buf_init(&link->partial, LENGTH_PREFIX + CHANNEL_MESSAGE_MAX);
	buf_init(&link->plain, FRAME_MAX + CHANNEL_PLAIN_MAX);
	buf_init(&link->control, CONTROL_MAX);
	buf_init(&link->out, OUT_TARGET + LENGTH_PREFIX + CHANNEL_MESSAGE_MAX);
	uv_timer_start(&link->timer, link_on_timer, HANDSHAKE_MS, 0);
	return link;
}

static void link_free(struct link *link)
{
	link_server_handshake_done(link);
	if (link->channel_live)
		channel_release(&link->channel);
	link_queue_clear(link);
	buf_release(&link->peer_payload);
	buf_release(&link->partial);
	buf_release(&link->plain);
	buf_release(&link->control);
	buf_release(&link->out);
	sodium_memzero(link->psk, sizeof link->psk);
	free(link);
}

void link_done(struct link *link)
{
	assert(link->pending > 0);
	if (--link->pending)
		return;
	if (link->config.events.on_closed)
		link->config.events.on_closed(link->config.owner, link, link->why, link->detail);
	link_free(link);
}

static void on_handle_closed(uv_handle_t *handle)
{
	link_done(handle->data);
}

void link_destroy(struct link *link)
{
	if (link->state == LINK_CLOSED)
		return;
	link->state = LINK_CLOSED;
	uv_cancel((uv_req_t *)&link->resolve);     /* fails harmlessly when none is queued */
	if (!link->reopening)                      /* otherwise it is closing already and will tell */
		uv_close((uv_handle_t *)&link->tcp, on_handle_closed);
	uv_close((uv_handle_t *)&link->timer, on_handle_closed);
	uv_close((uv_handle_t *)&link->flush, on_handle_closed);
}

static bool can_say_goodbye(const struct link *link, int why)
{
	if (link->state != LINK_UP && link->state != LINK_WAIT_FIRST)
		return false;
	return why != UV_EOF && why != UV_ECONNRESET && why != UV_EPIPE && why != UV_ETIMEDOUT;
}

static void linger(struct link *link)
{
	link->state = LINK_LINGERING;
	uv_timer_start(&link->timer, link_on_timer, LINGER_MS, 0);
	link_flush_soon(link);
}

static void say_goodbye(struct link *link, int why)
{
	struct buf head;
	buf_init(&head, 64);
	struct pack_writer w;
	pack_writer_init(&w, &head);
	pack_map(&w, 1);
	pack_kv_int(&w, "why", why);
	if (!w.err && !why && link->first)
		link_queue_goodbye(link, &head);   /* behind what waits */
	else if (!w.err && link->first_at == 0)
		link_control(link, FRAME_BYE, &head);
	if (why)                                   /* a frame that was begun ends the stream without a BYE */
		link_queue_clear(link);
	buf_release(&head);
	linger(link);
}

void link_fail(struct link *link, int why, const char *format, ...)
{
	if (link->state == LINK_CLOSED)
		return;
	if (link->state == LINK_LINGERING) {
		if (why)
			link_destroy(link);        /* it cannot even be said */
		return;
	}
	link->why = why;
	va_list args;
	va_start(args, format);
	vsnprintf(link->detail, sizeof link->detail, format, args);
	va_end(args);
	if (can_say_goodbye(link, why))
		say_goodbye(link, why);
	else if (link->refused)
		linger(link);
	else
		link_destroy(link);
}

void link_close(struct link *link, int why)
{
	if (link->state >= LINK_LINGERING)
		return;
	link_fail(link, why, "%s", why ? err_str(why) : "closed here");
}

void link_connected(struct link *link)
{
	uv_tcp_nodelay(&link->tcp, 1);
	uv_timer_start(&link->timer, link_on_timer, HANDSHAKE_MS, 0);

	struct sockaddr_storage name;
	int n = sizeof name;
	if (!uv_tcp_getpeername(&link->tcp, (struct sockaddr *)&name, &n))
		address_text((struct sockaddr *)&name, link->address, sizeof link->address);

	if (link->probe_tcp) {
		link_fail(link, 0, "it answers");
	} else if (link->dialled) {
		int err = link_handshake_start(link);
		if (err) {
			link_fail(link, err, "no handshake with %s: %s", link->address, err_str(err));
			return;
		}
		link->state = LINK_WAIT_2;
	} else
		link->state = LINK_WAIT_1;
	link_read_start(link);
}

void link_is_up(struct link *link)
{
	link->state = LINK_UP;
	link_server_handshake_done(link);
	heartbeat_init(&link->heartbeat, uv_now(link->config.loop));
	uv_timer_start(&link->timer, link_on_timer, 0, TICK_MS);
	if (link->config.events.on_up)
		link->config.events.on_up(link->config.owner, link, &link->peer);
	buf_release(&link->peer_payload);
	link->peer.card = NULL;
	link->peer.card_length = 0;
}

static void ping(struct link *link)
{
	struct buf head;
	buf_init(&head, 64);
	struct pack_writer w;
	pack_writer_init(&w, &head);
	pack_map(&w, 1);
	pack_kv_uint(&w, "id", ++link->ping_id);
	link->ping_us = uv_hrtime() / 1000;
	if (!w.err && !link_control(link, FRAME_PING, &head))
		link_flush_soon(link);
	buf_release(&head);
}

static void tick_up(struct link *link)
{
	uint64_t now = uv_now(link->config.loop);
	size_t left = link->writing ? uv_stream_get_write_queue_size((uv_stream_t *)&link->tcp) : 0;
	if (left < link->kernel_left)
		heartbeat_moved(&link->heartbeat, now, true);
	link->kernel_left = left;

	if (link->plain.capacity > BIG_PLAIN && !link->plain.length && now >= link->big_at + BIG_PLAIN_KEPT_MS)
		buf_release(&link->plain);

	switch (heartbeat_tick(&link->heartbeat, now)) {
	case HEARTBEAT_PING:
		ping(link);
		break;
	case HEARTBEAT_SILENT:
		link_fail(link, UV_ETIMEDOUT, "nothing valid from %s for %d s", link->address, HEARTBEAT_SILENCE_MS / 1000);
		break;
	case HEARTBEAT_STALLED:
		link_fail(link, UV_ETIMEDOUT, "%s reads nothing for %d s", link->address, HEARTBEAT_STALL_MS / 1000);
		break;
	case HEARTBEAT_NONE:
		break;
	}
}

void link_on_timer(uv_timer_t *timer)
{
	struct link *link = timer->data;
	switch (link->state) {
	case LINK_RESOLVING:
	case LINK_CONNECTING:
		link_fail(link, UV_ETIMEDOUT, "no answer from %s within %d s (is it on, and is the port open in its firewall?)",
			  link->target, HANDSHAKE_MS / 1000);
		break;
	case LINK_WAIT_1:
	case LINK_WAIT_2:
	case LINK_WAIT_FIRST:
		link_fail(link, link->dialled ? -ETIME : UV_ETIMEDOUT, "%s did not finish the handshake within %d s", link->address, HANDSHAKE_MS / 1000);
		break;
	case LINK_UP:
		tick_up(link);
		break;
	case LINK_LINGERING:
		link_destroy(link);
		break;
	case LINK_CLOSED:
		break;
	}
}

/* --- what others ask ----------------------------------------------------------------------------- */

void link_set_user(struct link *link, void *user)
{
	link->user = user;
}

void *link_user(const struct link *link)
{
	return link->user;
}

enum link_kind link_kind(const struct link *link)
{
	return link->kind;
}

bool link_dialled(const struct link *link)
{
	return link->dialled;
}

double link_rtt_ms(const struct link *link)
{
	return link->rtt_ms;
}

const char *link_address(const struct link *link)
{
	return link->address[0] ? link->address : link->target;
}

uint64_t link_bytes_in(const struct link *link)
{
	return link->bytes_in;
}

uint64_t link_bytes_out(const struct link *link)
{
	return link->bytes_out;
}
