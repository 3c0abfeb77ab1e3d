/* ring.h: sessions on rings of stages (DESIGN D4 to D7). Pure: frames go in and out through callbacks, time and randomness are
 * parameters; the simulator runs hundreds of these in one process.
 *
 * Home: opens the ring from the tail (TICKET to each remote stage, ENGINE_OPEN to its own engine), announces it when every stage
 * said READY, sends prefill in fixed chunks (CHUNK_ROWS, cut at multiples of it, several in flight) and then a row a token.
 * Home owns the committed tokens: when a stage dies the ring is set up anew with a higher epoch (route chooses the stages)
 * and the committed tokens are replayed in the same chunks.
 *
 * An answered session is kept for a while: its stages hold what they computed, and a question of the same API key on the same ring goes on
 * from the last chunk boundary that both have in common, in it or in a copy (prefix.h). Kept sessions take places that nobody else wants:
 * the one used longest ago is closed when a new one needs its place. A stage may forget what it keeps at any time; then it says NEED_REPLAY.
 *
 * Stage: verifies tickets, opens a session in the own engine, takes rows only from the ticket's previous node, passes its
 * results to the next; ends it on CLOSE, expiry, or when home's agreement ends. Counts rows and compute time and signs a receipt.
 *
 * Thread: loop. Owner: main. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef RING_RING_H
#define RING_RING_H

#include "proto/message.h"

struct ring;
struct ring_session;

struct ring_stage {                        /* one stop of a planned ring */
	uint8_t node[KEY_BYTES];
	struct layer_range range;
};
struct ring_plan {
	uint8_t model[KEY_BYTES];
	uint32_t n_layer;
	size_t n_stages;                   /* the ranges follow each other from 0 to n_layer */
	struct ring_stage stages[RING_STAGES_MAX];
};

struct ring_use {                          /* for receipts, the ledger and disclosures */
	uint8_t session[SESSION_BYTES];
	uint8_t home[KEY_BYTES], home_association[KEY_BYTES], model[KEY_BYTES], node[KEY_BYTES];
	uint64_t rows, microseconds;
};

struct ring_claim {                        /* what a ticket may come to, in rows of the quota */
	bool opens;                        /* false: it was granted before; may it go on? */
	uint32_t rows;                     /* that it may compute here, unless it has to replay */
	uint64_t reserved;                 /* that other sessions of its home's association may still compute here */
};

struct ring_config {
	uint8_t node[KEY_BYTES], association[KEY_BYTES];
	const uint8_t *node_secret;        /* SIGN_SECRET_BYTES */
	uint64_t (*now)(void *arg);                            /* Unix seconds */
	uint64_t (*monotonic_ms)(void *arg);
	void (*random)(void *arg, void *out, size_t n);
	/* Latency link; takes it on success. -EAGAIN: its queue is full, ring keeps the frame and tries again. */
	int (*send)(void *arg, const uint8_t node[KEY_BYTES], struct buf *frame);
	int (*engine)(void *arg, const uint8_t model[KEY_BYTES], struct buf *frame);    /* own engine; takes it */
	bool (*is_up)(void *arg, const uint8_t node[KEY_BYTES]);
	/* Sessions that the own engine has a place for, beside all that it has now, kept ones too. */
	uint32_t (*room)(void *arg, const uint8_t model[KEY_BYTES]);
	/* May this home use our stage for this ticket: trust, quota, resident; 0 or an enum err with detail. *priority: who waits for a place
	 * gets it before those with a lower one. */
	int (*permit)(void *arg, const struct ticket *ticket, const struct ring_claim *claim, uint32_t *priority, char *detail, size_t size);
	/* as a stage: every 64 rows and at the end; rows and microseconds since the last call for this session's stage */
	void (*used)(void *arg, const struct ring_use *use, bool final);
	/* as home: what to keep of a node's receipts, a moment after each answer; countersigned unless the node went away before
	 * that. All of the session's rows there, over every epoch and question: a later one stands for those before it. */
	void (*receipt)(void *arg, const uint8_t *record, size_t n);
	uint32_t keep_s;                   /* sessions are kept so long without a question, as home and as a stage; 0: not at all */
	void *arg;
};

struct ring_ask {
	struct ring_plan plan;
	uint8_t tenant[KEY_BYTES];         /* whose question: only the same one's sessions are gone on with; zeros: nobody's, nothing is kept */
	const int32_t *prompt;             /* copied */
	size_t n_prompt;
	uint32_t max_tokens;               /* to generate; prompt + max_tokens <= context */
	uint32_t context;
	struct sampling sampling;          /* what it points to must last until on_end or ring_cancel() */
	/* One committed token; its text view lasts for the call. false: enough (a stop string), the ring closes with reason 0.
	 * Not called for the end token, unless sampling.ignore_end. */
	bool (*on_token)(void *arg, const struct token *token);
	/* The ring lost a stage: give a new plan (0), or an error. failed lists nodes not to use if others will do; it may be empty when
	 * nobody knows who was silent (the same plan will do: its set-up shows it). After an error it is asked again every 500 ms for
	 * 20 s, unless a stage refused (ERR_DENIED, ERR_BUSY, ERR_BUDGET): an engine may be back by then. NULL: any loss ends it. */
	int (*on_lost)(void *arg, const uint8_t (*failed)[KEY_BYTES], size_t n_failed, struct ring_plan *plan);
	/* Exactly once, last, never from inside ring_ask(): err 0 with finished "stop" (end token or enough) or "length". The
	 * session is no longer the caller's when it returns; ring_session_use() may be called from inside. It comes up to 500 ms after
	 * the last token, when the stages have said what they counted. */
	void (*on_end)(void *arg, int err, const char *finished, const char *detail);
	void *arg;
};

int ring_new(struct ring **out, const struct ring_config *config);
void ring_free(struct ring *ring);                     /* tells stages and homes; no callbacks of sessions */

/* ERR_CONTEXT, ERR_DENIED (another node at an end of the plan would see text), -EINVAL. What goes wrong later comes by on_end. */
int ring_ask(struct ring *ring, const struct ring_ask *ask, struct ring_session **out);
void ring_cancel(struct ring_session *session);        /* closes every stage; on_end is not called */
/* Per stage of the running or last plan: rows and compute time, as home knows them (remote compute time by receipt; 0 until then). */
size_t ring_session_use(const struct ring_session *session, struct ring_use *out, size_t max);
/* Of the prompt, tokens that were not computed again. */
uint32_t ring_session_cached(const struct ring_session *session);
const uint8_t *ring_session_id(const struct ring_session *session);

/* The ring of the tenant's session that has most in common with this prompt: asked on the same plan, that part is not computed again. */
bool ring_recall(const struct ring *ring, const uint8_t tenant[KEY_BYTES], const uint8_t model[KEY_BYTES], const int32_t *prompt,
		 size_t n_prompt, struct ring_plan *plan);
/* Sessions in the own engine that nobody asks anything: their places are free for others. */
uint32_t ring_kept(const struct ring *ring, const uint8_t model[KEY_BYTES]);
/* Gives one of them up where the engine has no other place; false: all its places are in use. */
bool ring_make_room(struct ring *ring, const uint8_t model[KEY_BYTES]);
void ring_set_keep(struct ring *ring, uint32_t seconds);     /* 0 forgets all that is kept, at once */

/* Inputs. Frames from a neighbour (TICKET, READY, ROWS, FAULT, CLOSE, RECEIPT), frames from the own engine (ROWS, TOKENS, READY,
 * FAULT), a link that went down or a node that may no longer use us, an engine that died, and time. */
/* 0, or -ENOMEM: the frame is lost, so the link should be, too, whose loss both sides know how to deal with. */
int ring_on_frame(struct ring *ring, const uint8_t from[KEY_BYTES], const struct frame *frame);
void ring_on_engine(struct ring *ring, const uint8_t model[KEY_BYTES], const struct frame *frame);
void ring_on_engine_lost(struct ring *ring, const uint8_t model[KEY_BYTES], const char *why);
void ring_on_peer(struct ring *ring, const uint8_t node[KEY_BYTES], bool up);
void ring_recheck(struct ring *ring);                  /* trust changed: asks permit() again for every session we serve */
void ring_tick(struct ring *ring);                     /* about every 250 ms: deadlines, expiry */

struct ring_counts { size_t home, serving, waiting, kept; uint64_t rows, tokens, faults, cached; };
struct ring_counts ring_counts(const struct ring *ring);

#endif
