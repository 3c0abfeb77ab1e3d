/* ring_internal.h: what the files of ring/ share; nobody else includes it.
 *
 *   ring.c       tables, dispatch, time, what is sent
 *   home.c       a question asked here: set-up, prefill, decode, the end
 *   lost.c       a question whose ring lost a stage: blame, a new plan, replay
 *   prefix.c     what a question has in common with sessions of before
 *   kept.c       sessions between two questions, and places in the own engine
 *   transit.c    a stage served here for another node's question
 *   receipts.c   who did how much, signed by both sides
 *   seen.c       tickets that were used
 *
 * Callbacks may call back into the ring (a token may cancel its session, a charge may withdraw a permit). So every entry is
 * bracketed by ring_enter() and ring_leave(): what is dead is freed, and what is in trouble is dealt with, only when
 * the outermost entry leaves. Thread: loop.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef RING_RING_INTERNAL_H
#define RING_RING_INTERNAL_H

#include "daemon/ring/prefix.h"
#include "daemon/ring/ring.h"
#include "daemon/ring/seen.h"

#define SETUP_MS 10000               /* home: every stage has said READY by then */
#define NEXT_UP_MS 5000              /* stage: its way to the next one stands by then */
#define SILENCE_MS 30000             /* home: an answer to one row */
#define SILENCE_ROW_MS 1000          /* and for every further row in flight: a slow machine may prefill for minutes */
#define FLIGHT_MAX 4                 /* home: blocks of one session on their way */
#define LOST_MAX 8                   /* new plans without a token between them */
#define BARREN_MAX 1                 /* engines of others that died again without one more token */
#define PATIENCE_MS 20000            /* home: so long a stage may be missing (an engine restarts, a node reboots its service) */
#define AGAIN_MS 500                 /* home: between two attempts meanwhile */
#define REPLAYS_MAX 16               /* NEED_REPLAY in one question */
#define RECEIPT_WAIT_MS 500          /* home: on_end waits so long for what the stages counted */
#define LINGER_MS 10000              /* home: an ended session still takes receipts */
#define RENEW_S 120                  /* home: a ring is set up anew so long before its tickets expire */
#define USED_ROWS 64                 /* stage: used() after so many rows */
#define TRANSITS_MAX 1024
#define QUEUE_MS 3000                /* stage: a ticket waits so long for a place in the engine */
#define KEPT_MAX 256                 /* home: sessions kept; the engines' places are fewer */
#define TRANSIT_FLIGHT_MAX 64        /* stage: blocks in the engine at once, for one session */
#define TALLIES_MAX 4096
#define HOME_NODES_MAX 64            /* nodes that one question ever used */
#define OUTBOX_MAX (64u << 20)       /* bytes waiting for links whose queue is full */
#define RECEIPT_LIFE_S (400u * 86400)
#define LATE_MAX 64                  /* CLOSEs that could not be sent and are tried again at each tick */

/* --- home ------------------------------------------------------------------------------------------- */

enum session_state {
	SESSION_SETUP,               /* tickets are out */
	SESSION_RUNNING,
	SESSION_WAITING,             /* a stage is missing and nobody can take its place yet; its last trouble is kept */
	SESSION_CLOSING,             /* answered; waits shortly for receipts, then on_end */
	SESSION_KEPT,                /* as ENDED, and its stages hold what they computed, for the next question */
	SESSION_ENDED,               /* the asker has forgotten it; still takes receipts */
	SESSION_DEAD,                /* freed when the outermost entry leaves */
};

struct home_stage {                  /* beside ask.plan.stages[i] */
	bool self, asked, ready;
	uint64_t next_sequence;      /* of rows that come in for an own stage */
	uint64_t rows, microseconds;
	struct home_node *node;      /* of a remote stage; NULL: not counted */
};

struct flight {                      /* a block that the last stage has not answered yet */
	uint64_t sequence;
	uint32_t position, count, want;
};

struct home_node {                   /* one remote node over all epochs of the question */
	uint8_t node[KEY_BYTES];
	uint64_t asked;              /* rows that it can have computed, at most */
	uint64_t rows, microseconds; /* by its receipt */
	uint64_t rows_before, microseconds_before;   /* of them, for questions before this one */
	unsigned closes, receipts;   /* sent, fresh ones got; of this question */
	bool final;                  /* the receipt kept is countersigned */
	struct buf receipt;          /* the newest of it */
};

struct ring_session {
	struct ring_session *next;
	struct ring *ring;
	uint8_t id[SESSION_BYTES];
	uint32_t epoch;
	enum session_state state;
	struct ring_ask ask;         /* the prompt lives in tokens */
	struct home_stage stages[RING_STAGES_MAX];

	int32_t *tokens;             /* prompt and committed tokens */
	size_t n_tokens, capacity;
	uint32_t generated;
	size_t row_bytes;            /* as the first own stage makes them; 0: not known yet */

	uint64_t began;              /* monotonic ms */
	size_t sent;                 /* positions sent in this epoch, or held by every stage */
	uint32_t cached;             /* of the prompt, what was held when it was asked */
	bool forks;                  /* the next set-up begins with what session `from` holds */
	uint8_t from[SESSION_BYTES];
	bool keeps;                  /* becomes KEPT after CLOSING */
	uint64_t used_at;            /* monotonic ms: when its answer ended, or it was copied from */
	uint64_t sequence;           /* of the next block */
	unsigned replays;
	size_t n_flight;
	struct flight flight[FLIGHT_MAX];

	uint64_t deadline;           /* monotonic ms; what it means goes with the state */
	uint64_t renew_at;           /* Unix seconds */

	bool trouble;                /* to be dealt with when the outermost entry leaves */
	bool trouble_ends;           /* no new plan helps */
	int trouble_code;
	char trouble_detail[240];
	unsigned lost;               /* new plans since the last token */
	unsigned barren;             /* since then, engines that died while running */
	uint64_t lost_since;         /* monotonic ms of the first loss since the last token; 0: none */
	size_t n_failed;
	uint8_t failed[RING_STAGES_MAX][KEY_BYTES];

	size_t n_nodes;
	struct home_node nodes[HOME_NODES_MAX];
	int err;                     /* what on_end will say */
	const char *finished;
	char detail[300];
};

/* --- stage ------------------------------------------------------------------------------------------ */

struct tally {                       /* what one session used here, over all its epochs and stages */
	struct tally *next;
	uint8_t session[SESSION_BYTES];
	uint8_t home[KEY_BYTES], home_association[KEY_BYTES], model[KEY_BYTES];
	uint32_t epoch;              /* the newest */
	unsigned open, kept;         /* transits */
	bool receipt_due;
	uint64_t rows, microseconds, receipt_rows;
	uint64_t sequence;           /* of the last receipt */
	uint64_t expires;            /* Unix seconds: no ticket of it is good any more */
};

enum transit_state {
	TRANSIT_QUEUED,              /* for a place in the engine */
	TRANSIT_OPENING, TRANSIT_WAITING, TRANSIT_READY,
	TRANSIT_KEPT,                /* closed, settled; the engine still holds it */
	TRANSIT_DEAD,
};
struct transit {
	struct transit *next;
	enum transit_state state;
	struct ticket ticket;
	struct tally *tally;
	uint64_t deadline;           /* monotonic ms: until it has a place, until READY, while KEPT */
	uint32_t priority;
	uint64_t arrived;            /* in this order among equals */
	bool forks;                  /* as in the ticket's message */
	uint8_t from[SESSION_BYTES];
	uint32_t held;               /* positions that it had when it was opened */
	uint32_t reach;              /* up to here it computed */
	uint64_t told;               /* rows told to used() */
	uint64_t used_at;            /* monotonic ms: when it was kept, or copied from */
	uint64_t next_sequence;
	uint32_t flight;             /* blocks in the engine */
	size_t row_bytes;            /* as the own engine makes them; 0: not known yet */
	uint64_t rows, microseconds; /* not told to used() yet */
};

/* --- both ------------------------------------------------------------------------------------------- */

struct outgoing {                    /* waits for room in its link's queue */
	struct outgoing *next;
	uint8_t node[KEY_BYTES];
	struct buf frame;
};

struct late_close {
	bool far;                    /* to a node; else to the own engine */
	uint8_t node[KEY_BYTES], model[KEY_BYTES];
	struct close_message close;
};

struct ring {
	struct ring_config config;
	unsigned depth;
	bool recheck_due;
	struct ring_session *sessions;
	struct transit *transits;
	struct tally *tallies;
	size_t n_transits, n_tallies;
	uint64_t arrivals;
	struct seen seen;
	struct outgoing *outbox;
	size_t outbox_bytes;
	size_t n_late;
	struct late_close late[LATE_MAX];
	uint64_t rows, tokens, faults, cached;
};

static inline uint64_t ring_ms(const struct ring *ring) { return ring->config.monotonic_ms(ring->config.arg); }
static inline uint64_t ring_now(const struct ring *ring) { return ring->config.now(ring->config.arg); }

/* ring.c */
bool key_equal(const uint8_t a[KEY_BYTES], const uint8_t b[KEY_BYTES]);
bool ring_is_self(const struct ring *ring, const uint8_t node[KEY_BYTES]);
void ring_enter(struct ring *ring);
void ring_leave(struct ring *ring);
struct ring_session *ring_find_session(const struct ring *ring, const uint8_t id[SESSION_BYTES]);   /* setting up, running or closing */
int ring_to_node(struct ring *ring, const uint8_t node[KEY_BYTES], struct buf *frame);          /* takes the frame always */
int ring_to_engine(struct ring *ring, const uint8_t model[KEY_BYTES], struct buf *frame);       /* takes the frame always */
/* Tried again at each tick where there was no memory for it. */
int ring_send_close(struct ring *ring, const uint8_t *node /* NULL: own engine */, const uint8_t model[KEY_BYTES],
		    const struct close_message *close);
int ring_send_block(struct ring *ring, const uint8_t *node /* NULL: own engine */, const uint8_t model[KEY_BYTES],
		    const struct rows_block *block);

/* home.c */
void home_set_up(struct ring_session *s);                       /* the plan as it stands; everything is sent from the first position on */
void home_set_up_again(struct ring_session *s, size_t position);   /* the same stages, which keep what they hold; sent from position on */
void home_close_stages(struct ring_session *s, int reason);
void home_keep_stages(struct ring_session *s);                  /* remote ones settle, and may keep what they hold */
void home_pump(struct ring_session *s);
void home_finish(struct ring_session *s, int err, const char *finished, const char *detail);
void home_on_ready(struct ring_session *s, const uint8_t *from /* NULL: own engine */, const struct ready_message *ready);
void home_on_rows(struct ring_session *s, const uint8_t from[KEY_BYTES], const struct rows_block *block);
void home_on_own_rows(struct ring_session *s, const struct rows_block *block);
void home_on_own_tokens(struct ring_session *s, const struct tokens_message *m);
void home_tick(struct ring_session *s);
void home_end_if_counted(struct ring_session *s);
void home_free(struct ring_session *s);
int home_check_plan(const struct ring *ring, const struct ring_plan *plan);

/* lost.c. stage SIZE_MAX: nobody in particular. Deals with it later, when the outermost entry leaves. */
void home_trouble(struct ring_session *s, size_t stage, int code, const char *format, ...) __attribute__((format(printf, 4, 5)));
void home_trouble_ends(struct ring_session *s, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void home_on_fault(struct ring_session *s, const uint8_t *from /* NULL: own engine */, const struct fault_message *fault);
void home_on_peer_down(struct ring_session *s, const uint8_t node[KEY_BYTES]);
void home_settle(struct ring_session *s);
void home_try_again(struct ring_session *s);

/* kept.c */
/* The session to begin with, from position on: to take over, or to copy. NULL: none. */
struct ring_session *kept_find(struct ring *ring, const struct ring_ask *ask, uint32_t *position, bool *fork);
bool kept_may_keep(const struct ring_session *s);
void kept_keep(struct ring_session *s);                         /* from now on it is */
void kept_forget(struct ring_session *s);
void kept_tick(struct ring_session *s);
/* Makes a place in the own engine, if need be by closing the kept session that was used longest ago; `except` (may be NULL) only when there
 * is no other. false: all are in use. */
bool kept_make_room(struct ring *ring, const uint8_t model[KEY_BYTES], const uint8_t *except);
void kept_on_engine_lost(struct ring *ring, const uint8_t model[KEY_BYTES]);
void kept_on_peer_down(struct ring *ring, const uint8_t node[KEY_BYTES]);
void kept_on_own_fault(struct ring *ring, const uint8_t model[KEY_BYTES], const struct fault_message *fault);
size_t kept_computed(const struct ring_session *s);             /* positions that every stage holds */

/* transit.c */
void transit_close_kept(struct ring *ring, const uint8_t session[SESSION_BYTES]);
void transit_serve_queue(struct ring *ring);
void transit_on_ticket(struct ring *ring, const uint8_t from[KEY_BYTES], const struct frame *frame);
struct transit *transit_find(const struct ring *ring, const uint8_t session[SESSION_BYTES], uint32_t stage);
void transit_on_rows(struct ring *ring, struct transit *t, const uint8_t from[KEY_BYTES], const struct rows_block *block);
void transit_on_close(struct ring *ring, const uint8_t from[KEY_BYTES], const struct close_message *close);
void transit_on_own_ready(struct ring *ring, struct transit *t);
void transit_on_own_rows(struct ring *ring, struct transit *t, const struct rows_block *block);
void transit_on_own_fault(struct ring *ring, struct transit *t, const struct fault_message *fault);
void transit_on_engine_lost(struct ring *ring, const uint8_t model[KEY_BYTES], const char *why);
void transit_on_peer(struct ring *ring, const uint8_t node[KEY_BYTES], bool up);
void transit_recheck(struct ring *ring);
void transit_tick(struct ring *ring);
void transit_reap(struct ring *ring, bool all);

/* receipts.c */
struct home_node *home_node(struct ring_session *s, const uint8_t node[KEY_BYTES], bool make);
void receipt_issue_due(struct ring *ring);                      /* stage: for tallies whose last transit closed */
void receipt_on_frame(struct ring *ring, const uint8_t from[KEY_BYTES], const struct frame *frame);
bool receipts_are_in(const struct ring_session *s);             /* home: nothing more to wait for before on_end */
bool receipts_are_final(const struct ring_session *s);
void receipts_keep(struct ring_session *s);                     /* home: hands each node's newest to the callback, once */

#endif
