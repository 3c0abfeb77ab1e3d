/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "daemon/link/address.h"
#include "daemon/mesh/reach.h"
#include "proto/err.h"
#include "proto/fields.h"
#include "proto/message_heads.h"
#include "proto/text.h"

/* The host of an address with the port for weights; false where there is none. */
static bool weights_address(const char *address, uint16_t port, char out[ADDRESS_SIZE])
{
	char host[ADDRESS_HOST_SIZE];
	uint16_t ignored;
	return port && !address_split(address, host, &ignored) && !address_join(host, port, out, ADDRESS_SIZE);
}

static bool is_listed(const struct reach_result *list, size_t n, const struct reach_result *one)
{
	for (size_t i = 0; i < n; i++)
		if (list[i].weights == one->weights && !strcmp(list[i].address, one->address))
			return true;
	return false;
}

size_t reach_targets(const struct card_body *card, struct reach_result out[REACH_RESULTS_MAX])
{
	size_t n = 0;
	for (size_t i = 0; i < card->n_addresses; i++) {
		struct reach_result link = {0}, weights = {.weights = true};
		text_copy(link.address, sizeof link.address, card->addresses[i]);
		if (!is_listed(out, n, &link))
			out[n++] = link;
		if (weights_address(card->addresses[i], card->torrent_port, weights.address) && !is_listed(out, n, &weights))
			out[n++] = weights;
	}
	return n;
}

int reach_encode(struct buf *out, uint32_t request)
{
	struct head_writer head;
	head_begin(&head, 1);
	pack_kv_uint(&head.w, "request", request);
	return head_end(&head, out, FRAME_REACH, NULL, 0);
}

int reach_decode(const struct frame *frame, uint32_t *request)
{
	struct head_reader head;
	*request = 0;
	int err = head_open(&head, frame, FRAME_REACH, false);
	if (err)
		return err;
	*request = (uint32_t)pack_get_uint(head.c, "request", UINT32_MAX);
	return head_close(&head);
}

int reached_encode(struct buf *out, const struct reach_answer *answer)
{
	if (answer->n_results > REACH_RESULTS_MAX)
		return ERR_LIMIT;
	struct head_writer head;
	head_begin(&head, 3);
	pack_kv_uint(&head.w, "request", answer->request);
	pack_kv_int(&head.w, "code", answer->code);
	pack_str(&head.w, "results");
	pack_array(&head.w, answer->n_results);
	for (size_t i = 0; i < answer->n_results; i++) {
		const struct reach_result *r = &answer->results[i];
		char detail[REACH_DETAIL];
		field_make_plain(detail, sizeof detail, r->detail);
		pack_map(&head.w, 4);
		pack_kv_str(&head.w, "address", r->address);
		pack_kv_bool(&head.w, "weights", r->weights);
		pack_kv_int(&head.w, "code", r->code);
		pack_kv_str(&head.w, "detail", detail);
	}
	return head_end(&head, out, FRAME_REACHED, NULL, 0);
}

int reached_decode(const struct frame *frame, struct reach_answer *answer)
{
	struct head_reader head;
	*answer = (struct reach_answer){0};
	int err = head_open(&head, frame, FRAME_REACHED, false);
	if (err)
		return err;
	answer->request = (uint32_t)pack_get_uint(head.c, "request", UINT32_MAX);
	answer->code = field_get_code(head.c, "code", 0);
	struct pack_cursor results = pack_get(head.c, "results");
	size_t n = pack_count(results);
	if (!head.err && !pack_is_array(results))
		field_fail(head.c, ERR_MALFORMED);
	if (n > REACH_RESULTS_MAX)
		field_fail(head.c, ERR_LIMIT);
	for (size_t i = 0; i < n && !head.err; i++) {
		struct pack_cursor c = pack_at(results, i);
		struct reach_result *r = &answer->results[i];
		pack_get_str(c, "address", r->address, sizeof r->address);
		r->weights = pack_get_bool_or(c, "weights", false);
		r->code = field_get_code(c, "code", 0);
		field_get_plain(c, "detail", r->detail, sizeof r->detail);
		if (!head.err && !card_address_is_valid(r->address))
			field_fail(c, ERR_MALFORMED);
	}
	answer->n_results = n;
	err = head_close(&head);
	if (err)
		*answer = (struct reach_answer){0};
	return err;
}
