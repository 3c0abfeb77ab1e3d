/* link_handshake.c: messages 1 and 2 of Noise_IKpsk2, and who decides on what between them.
 *
 * Anyone who saw a message 1 can send it again. So the responder keeps nothing for it but this connection, which has five
 * seconds and counts against its source; whoever cannot answer message 2 never reaches on_up.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include <sodium.h>

#include "daemon/link/handshake.h"
#include "daemon/link/link_internal.h"
#include "proto/err.h"
#include "proto/pack.h"

static const struct pack_limits payload_limits = {.bytes = HANDSHAKE_MESSAGE_MAX, .depth = 2, .nodes = 64};

int handshake_encode(struct buf *out, const struct handshake_payload *p, bool first)
{
	struct pack_writer w;
	pack_writer_init(&w, out);
	pack_map(&w, 2 + (first ? 1 : 0) + (first && p->invited ? 1 : 0));
	if (first)
		pack_kv_uint(&w, "kind", p->kind);
	pack_kv_uint(&w, "time", p->time);
	pack_kv_bin(&w, "card", p->card, p->card_length);
	if (first && p->invited)
		pack_kv_bin(&w, "invitation", p->invitation, sizeof p->invitation);
	return w.err;
}

int handshake_decode(const uint8_t *bytes, size_t n, bool first, struct handshake_payload *out)
{
	*out = (struct handshake_payload){0};
	struct pack_doc doc;
	int err = pack_parse(&doc, bytes, n, &payload_limits);
	if (err)
		return err;
	struct pack_cursor c = pack_root(&doc, &err);
	if (first) {
		out->kind = (enum link_kind)pack_get_uint(c, "kind", LINK_BULK);
		out->invited = pack_has(c, "invitation");
		if (out->invited)
			pack_get_exact(c, "invitation", out->invitation, sizeof out->invitation);
		if (!err && out->kind != LINK_LATENCY && out->kind != LINK_BULK)
			err = ERR_MALFORMED;
	}
	out->time = pack_get_uint(c, "time", INT64_MAX);
	out->card = pack_borrow_bin(c, "card", HANDSHAKE_CARD_MAX, &out->card_length);
	pack_release(&doc);
	if (err)
		*out = (struct handshake_payload){0};
	return err;
}

int handshake_channel(struct channel *c, const char *network, const uint8_t link_secret[CHANNEL_KEY],
		      const uint8_t ephemeral[CHANNEL_KEY], const uint8_t *remote)
{
	char prologue[16 + NAME_SIZE];
	int n = snprintf(prologue, sizeof prologue, "essaim/1 %s", network);
	if (n < 0 || (size_t)n >= sizeof prologue)
		return ERR_LIMIT;
	return channel_init(c, remote ? CHANNEL_INITIATOR : CHANNEL_RESPONDER, prologue, (size_t)n, link_secret, ephemeral, remote);
}

int handshake_read_1(struct channel *c, const uint8_t *message, size_t n, struct buf *payload, struct link_peer *out)
{
	*out = (struct link_peer){0};
	int err = channel_read_1(c, message, n, payload);
	if (err)
		return err;
	struct handshake_payload p;
	err = handshake_decode(payload->data, payload->length, true, &p);
	if (err)
		return err;
	memcpy(out->link_key, c->remote_static, KEY_BYTES);
	out->card = p.card;
	out->card_length = p.card_length;
	out->time = p.time;
	out->kind = p.kind;
	out->invited = p.invited;
	memcpy(out->invitation, p.invitation, sizeof out->invitation);
	return 0;
}

static const uint8_t refusal_mark[8] = {'e', 's', 's', 'a', 'i', 'm', '/', '1'};

void handshake_refusal_encode(uint8_t out[HANDSHAKE_REFUSAL], int err)
{
	memcpy(out, refusal_mark, sizeof refusal_mark);
	put_u64(out + sizeof refusal_mark, (uint64_t)(int64_t)err);
}

int handshake_refusal_decode(const uint8_t *message, size_t n)
{
	if (n != HANDSHAKE_REFUSAL || memcmp(message, refusal_mark, sizeof refusal_mark))
		return 0;
	int64_t err = (int64_t)get_u64(message + sizeof refusal_mark);
	return err < 0 && err >= -4096 ? (int)err : ERR_DENIED;
}

static uint64_t wall_seconds(const struct link *link)
{
	if (link->config.now)
		return link->config.now(link->config.owner);
	struct timeval tv;
	gettimeofday(&tv, NULL);
	return (uint64_t)tv.tv_sec;
}

static int own_payload(struct link *link, struct buf *out, bool first)
{
	struct handshake_payload p = {.kind = link->kind, .time = wall_seconds(link), .invited = link->invited};
	memcpy(p.invitation, link->invitation, sizeof p.invitation);
	if (link->config.card)
		p.card = link->config.card(link->config.owner, &p.card_length);
	if (!p.card)
		return ERR_UNKNOWN;
	if (p.card_length > HANDSHAKE_CARD_MAX)
		return ERR_LIMIT;
	return handshake_encode(out, &p, first);
}

static int channel_begin(struct link *link, const uint8_t *remote)
{
	uint8_t ephemeral[CHANNEL_KEY];
	randombytes_buf(ephemeral, sizeof ephemeral);
	int err = handshake_channel(&link->channel, link->config.network, link->config.link_secret, ephemeral, remote);
	sodium_memzero(ephemeral, sizeof ephemeral);
	link->channel_live = !err;
	return err;
}

int link_handshake_start(struct link *link)
{
	struct buf payload, message;
	buf_init(&payload, HANDSHAKE_MESSAGE_MAX);
	buf_init(&message, HANDSHAKE_MESSAGE_MAX);
	int err = channel_begin(link, link->remote_link_key);
	if (!err) {
		channel_set_psk(&link->channel, link->psk);
		err = own_payload(link, &payload, true);
	}
	if (!err)
		err = channel_write_1(&link->channel, payload.data, payload.length, &message);
	if (!err)
		err = link_write_raw(link, &message);
	buf_release(&payload);
	buf_release(&message);
	return err;
}

/* Says why before the link fails. Who has an invitation learns what is wrong with it, and who means another node that it is not this one; who is merely
 * not admitted learns nothing. */
static void refuse(struct link *link, int err)
{
	struct buf message;
	uint8_t said[HANDSHAKE_REFUSAL];
	handshake_refusal_encode(said, err);
	buf_init(&message, sizeof said);
	if (!buf_append(&message, said, sizeof said))
		link_write_raw(link, &message);
	buf_release(&message);
	link->refused = true;
}

static void respond(struct link *link, const uint8_t *message, size_t n)
{
	struct buf payload, answer;
	buf_init(&payload, HANDSHAKE_MESSAGE_MAX);
	buf_init(&answer, HANDSHAKE_MESSAGE_MAX);
	uint8_t psk[CHANNEL_KEY] = {0};

	int err = channel_begin(link, NULL);
	if (!err)
		err = handshake_read_1(&link->channel, message, n, &link->peer_payload, &link->peer);
	if (err) {
		refuse(link, ERR_CRYPTO);
		link_fail(link, err, "%s began a handshake that does not verify (another network or key, or not Essaim)", link->address);
		goto out;
	}
	link->kind = link->peer.kind;
	err = link->config.events.admit ? link->config.events.admit(link->config.owner, &link->peer, psk) : ERR_DENIED;
	if (err) {
		if (link->peer.invited)
			refuse(link, err);
		link_fail(link, err, "%s was not let in: %s", link->address, err_str(err));
		goto out;
	}
	channel_set_psk(&link->channel, psk);
	err = own_payload(link, &payload, false);
	if (!err)
		err = channel_write_2(&link->channel, payload.data, payload.length, &answer);
	if (!err)
		err = link_write_raw(link, &answer);
	if (err)
		link_fail(link, err, "%s cannot be answered: %s", link->address, err_str(err));
	else
		link_stream_begin(link);
out:
	sodium_memzero(psk, sizeof psk);
	buf_release(&payload);
	buf_release(&answer);
}

static void finish(struct link *link, const uint8_t *message, size_t n)
{
	struct handshake_payload p;
	int err = handshake_refusal_decode(message, n);
	if (err) {
		link_fail(link, err, "%s turns this node away: %s", link->address,
			  err == ERR_CRYPTO ? "another node than expected, or of another network" : err_str(err));
		return;
	}
	err = channel_read_2(&link->channel, message, n, &link->peer_payload);
	if (!err)
		err = handshake_decode(link->peer_payload.data, link->peer_payload.length, false, &p);
	if (err) {
		link_fail(link, ERR_SIGNATURE, "%s does not prove that it is the node expected", link->address);
		return;
	}
	if (link->probe) {
		link_fail(link, 0, "it answers");
		return;
	}
	memcpy(link->peer.link_key, link->remote_link_key, KEY_BYTES);
	link->peer.card = p.card;
	link->peer.card_length = p.card_length;
	link->peer.time = p.time;
	link->peer.kind = link->kind;
	link->peer.invited = link->invited;
	memcpy(link->peer.invitation, link->invitation, sizeof link->peer.invitation);
	link_stream_begin(link);
}

void link_handshake_message(struct link *link, const uint8_t *message, size_t n)
{
	if (link->state == LINK_WAIT_1)
		respond(link, message, n);
	else
		finish(link, message, n);
}
