/* ring_world.h: up to six nodes with rings, engines that are arithmetic, wires that delay and break, and one clock, all from a seed.
 *
 *      ring 0 --- engine 0          every pair of nodes has a wire; a wire keeps its order and takes
 *        |  \                       1 to 20 ms for a frame; it can go down and come up
 *      ring 1 - ring 2 ...
 *
 * The model: a row is four float32, each a whole number below 65,536, together 64 bits. A layer mixes its row with everything that it
 * saw at the positions before, so that one row lost, doubled or computed on old state gives another answer.
 * whole_answer() is the same arithmetic without any ring.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_RING_WORLD_H
#define TESTS_RING_WORLD_H

#include "daemon/ring/ring.h"

#define WORLD_NODES 6
#define WORLD_LAYERS 12
#define WORLD_CONTEXT 256
#define WORLD_END_TOKEN 7

struct world;
struct event;
struct engine_session;

struct world_node {
	struct world *world;
	size_t index;
	uint8_t key[KEY_BYTES], secret[SIGN_SECRET_BYTES], association[KEY_BYTES];
	struct ring *ring;
	/* its engine */
	struct engine_session *sessions;
	bool engine_dead, engine_silent, engine_swallows_opens;
	unsigned no_memory_to_close;           /* so many CLOSEs to the engine fail */
	uint64_t engine_back_at;               /* a dead engine lives again at this time; 0: never */
	uint64_t engine_ms;                    /* extra time of each answer */
	int forget_at;                         /* loses all positions once, at a block from this position on; -1: never */
	uint32_t places;                       /* sessions at once; 0: without end */
	size_t n_taken;
	struct { uint8_t session[SESSION_BYTES]; uint32_t stages; } taken[64];
	unsigned opens, forks, blocks, closes; /* that reached the engine */
	uint64_t engine_rows;                  /* computed */
	/* what the ring said */
	int permit;                            /* what permit() answers */
	uint32_t priority[WORLD_NODES];        /* of tickets from each home */
	struct ring_claim claim;               /* the last that would open a session */
	unsigned permits;
	uint64_t used_rows, used_us;
	unsigned used_final;
	uint64_t quota;                        /* rows after which used() withdraws the permit; 0: none */
	unsigned receipts;                     /* kept as home */
	struct receipt_body receipt[64];
	bool receipt_countersigned[64];
};

struct world {
	uint64_t random;                       /* splitmix64's state */
	uint64_t ms, order;
	struct event *events;
	size_t n_nodes;
	struct world_node nodes[WORLD_NODES];
	bool down[WORLD_NODES][WORLD_NODES];
	uint64_t last_at[2 * WORLD_NODES + WORLD_NODES * WORLD_NODES];
	unsigned full_permille;                /* how often a link's queue is full */
	uint64_t next_tick, tick_ms;
	/* Sees each frame between nodes before it travels: 0 drops it, n lets it arrive n times. */
	unsigned (*filter)(struct world *world, size_t from, size_t to, const struct frame *frame);
	void *user;
	uint8_t model[KEY_BYTES];
	unsigned frames;
};

struct world_answer {                          /* of one question */
	struct world *world;
	struct ring_session *session;
	int32_t tokens[WORLD_CONTEXT];
	size_t n;
	bool ended;
	int err;
	const char *finished;
	char detail[300];
	uint8_t tenant;                        /* 0: nobody's */
	uint32_t cached;
	size_t enough;                         /* on_token says false at this many; 0: never */
	size_t cancel_at;                      /* on_token cancels at this many; 0: never */
	bool cancelled;
	/* on_lost: */
	unsigned lost;
	size_t n_failed;
	uint8_t failed[RING_STAGES_MAX][KEY_BYTES];
	bool use_spares;                       /* a new plan with any node that is up and not in failed */
	bool forgives;                         /* the same plan again, whoever failed */
	struct ring_plan plan;
	struct ring_use use[RING_STAGES_MAX];
	size_t n_use;
	void (*on_token)(struct world_answer *answer);
};

#define WORLD_KEEP_S 300
void world_init(struct world *world, uint64_t seed, size_t n_nodes);
void world_release(struct world *world);
uint64_t world_random(struct world *world);
uint64_t world_below(struct world *world, uint64_t n);

/* Stages by node index, layers shared out evenly. */
struct ring_plan world_plan(struct world *world, const size_t *nodes, size_t n);
/* Asks at node 0, or at another one. prompt: numbers from the seed. */
void world_ask(struct world *world, struct world_answer *answer, const struct ring_plan *plan, const int32_t *prompt, size_t n_prompt,
	       uint32_t max_tokens, uint64_t seed);
void world_ask_at(struct world *world, size_t home, struct world_answer *answer, const struct ring_plan *plan, const int32_t *prompt,
		  size_t n_prompt, uint32_t max_tokens, uint64_t seed);
void world_prompt(struct world *world, int32_t *out, size_t n);
/* Runs until the answer ended, or everything is quiet for a minute of its time. */
void world_run(struct world *world, const struct world_answer *answer);
void world_run_ms(struct world *world, uint64_t ms);
void world_link(struct world *world, size_t a, size_t b, bool up);
void world_isolate(struct world *world, size_t node, bool up);
/* A frame out of nothing, as if `from` had sent it. */
void world_inject(struct world *world, size_t from, size_t to, struct buf *frame);
size_t world_engine_sessions(const struct world *world, size_t node);

size_t whole_answer(const int32_t *prompt, size_t n_prompt, uint32_t max_tokens, uint64_t seed, int32_t *out, const char **finished);

/* A seed whose answer has no end token before max_tokens. */
uint64_t lasting_seed(const int32_t *prompt, size_t n_prompt, uint32_t max_tokens);

#endif
