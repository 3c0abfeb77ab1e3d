/* gateway.h: a question answered by one other node (DESIGN D6): asked there in this node's place, or here for another.
 *
 * For a node that cannot be a ring's home: too weak, or its layers still arriving. The other node sees the text and answers as if it
 * had been asked itself; what goes there and back is sealed end to end (sealed.h, proto/gateway.h). Whether it does so for whom is
 * `permit`'s to say, and it is asked again every GATEWAY_PERMIT_TOKENS tokens. What was computed is charged to the asker's association.
 *
 * Nothing of a question or an answer is logged. Pure but for route.h, which answers. Thread: loop. Owner: main.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ROUTE_GATEWAY_H
#define ROUTE_GATEWAY_H

#include "daemon/route/route.h"
#include "daemon/route/sealed.h"

#define GATEWAY_PERMIT_TOKENS 64

struct gateway;
struct gateway_call;                     /* a question of ours at another node */

struct gateway_use {                     /* for the ledger: what a question of theirs took, over all stages */
	uint8_t node[KEY_BYTES];         /* who asked */
	uint8_t model[KEY_BYTES];
	uint8_t session[SESSION_BYTES];  /* random, of this question */
	uint64_t rows, microseconds;
};
struct gateway_config {
	struct sealed_config sealed;     /* but for its owner and the callbacks to it */
	struct route *route;
	/* May that node have us answer with this model? 0, or an enum err with words. */
	int (*permit)(void *arg, const uint8_t node[KEY_BYTES], const uint8_t model[KEY_BYTES], char *detail, size_t size);
	void (*used)(void *arg, const struct gateway_use *use);
	void *arg;
};
int gateway_new(struct gateway **out, const struct gateway_config *config);
void gateway_free(struct gateway *gateway);      /* our questions end with ERR_CANCELLED, those of others are cancelled */

struct gateway_question {
	const char *model;
	bool chat;
	size_t n_messages;
	const struct render_message *messages;
	uint32_t max_tokens;
	struct sampling sampling;
	void (*on_start)(void *arg, const struct gateway_start *start);
	bool (*on_token)(void *arg, const struct token *token);          /* false: enough; on_end follows */
	void (*on_end)(void *arg, const struct gateway_end *end);        /* exactly once, last, never from inside gateway_ask() */
	void *arg;
};
/* ERR_LIMIT: longer than GATEWAY_TEXT_MAX; as sealed_open(). */
int gateway_ask(struct gateway *gateway, const uint8_t node[KEY_BYTES], const struct gateway_question *question, struct gateway_call **out);
void gateway_cancel(struct gateway_call *call);  /* no callbacks any more */

void gateway_on_frame(struct gateway *gateway, const uint8_t neighbour[KEY_BYTES], const struct frame *frame);   /* SEALED */
void gateway_on_down(struct gateway *gateway, const uint8_t neighbour[KEY_BYTES]);
void gateway_recheck(struct gateway *gateway);   /* trust or configuration changed: asks permit() again */
void gateway_tick(struct gateway *gateway);

struct gateway_counts { uint64_t asked, served; size_t serving; struct sealed_counts sealed; };
struct gateway_counts gateway_counts(const struct gateway *gateway);

#endif
