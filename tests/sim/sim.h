/* sim.h: many nodes in one process, from one seed, on a clock that is a number (DESIGN D16).
 *
 *   what is real      proto, trust, mesh (gossip, dialing, joining, neighbours), ring, route, the ledger's sums, and daemon's own
 *                     records.c, residency.c, views.c: the code of essaimd, linked as it is
 *   what stands in    for link/    wire.c     streams that are slow, stall, break and end in half; no cryptography
 *                     for stage/   engine.c   engines that are arithmetic: a row is a hash of all tokens so far
 *                     for store/   disk.c     weights that arrive after a while; what a node has when it starts again
 *                     for libuv    loop.c     timers and workers on the simulated clock
 *                     for main.c   node.c     connects the rooms of one node as main.c does, stops it, kills it
 *
 *   story.c     what happens in a seed: who is there, what breaks, what people do; and then everything is mended
 *   people.c    what administrators do: invite, join, offer, accept, revoke, renew
 *   asker.c     questions, and the whole model's answer to compare with
 *   hostile.c   a node that also lies
 *   witness.c   what must hold: at every step, and in the end
 *   sim.c       seeds, workers, the report
 *
 * A connection is a reliable stream, as TCP and Noise make it: inside one nothing is lost, doubled or turned round, it is
 * only late, until the connection dies and takes what was under way with it. So loss is "the connection died", and what comes twice or in
 * another order comes over the other connection, after a reconnect, or from a hostile node, which sends whatever it likes.
 *
 * One world at a time: the variable sim. Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include "daemon/daemon.h"

#define SIM_NODES_MAX 208
#define SIM_ASSOCIATIONS_MAX 8
#define SIM_MODELS_MAX 2
#define SIM_LAYERS_MAX 12
#define SIM_CONTEXT 96
#define SIM_VOCABULARY 200
#define SIM_END_TOKEN 7
#define SIM_QUESTION_TOKENS (SIM_CONTEXT + 1)

/* Stated bounds, in milliseconds of simulated time. */
#define HEAL_MS 150000           /* after everything was mended: all know the same, nobody talks with the revoked */
#define ANSWER_MS 90000          /* after that: a question for which a ring is possible is answered */
#define DISCONNECT_MS 1500       /* from the record that says so: no link with a node that trust does not admit */

struct pair {
	uint8_t secret[SIGN_SECRET_BYTES], key[KEY_BYTES];
};

struct association_truth {
	char name[NAME_SIZE];
	struct pair root, steward;
	size_t founder;                        /* the node with the steward key */
	uint8_t rostered[SIM_NODES_MAX];       /* named by some roster of its steward, ever: 1 */
	uint8_t revoked[SIM_NODES_MAX];        /* left out of the newest one */
};

struct model_truth {
	uint8_t id[KEY_BYTES];
	struct manifest_body body;
	size_t publisher;
};

/* What is still there when a node starts again. */
struct disk {
	struct buf records;                    /* HOME/records/all */
	size_t n_rows, rows_room;
	struct ledger_row *rows;               /* ledger.db; see disk.c */
	bool have[SIM_MODELS_MAX][SIM_LAYERS_MAX];
	bool full;                             /* writing fails just now */
	unsigned saves;
};

struct loop;                                   /* loop.c */
struct boot;                                   /* node.c: an essaimd that runs */

struct node {
	size_t index;
	char name[NAME_SIZE], home[200], address[ADDRESS_SIZE];
	struct keys keys;
	struct disk disk;
	struct boot *boot;                     /* NULL: not running */
	unsigned boots;                        /* events of earlier ones are dropped */
	int64_t clock_ms;                      /* its wall clock is ahead of the world's by this */
	uint64_t memory;
	bool shares_home, paused, dying;       /* dying: whatever it says now, nobody hears */
	bool hostile, revoked, joiner;
	unsigned slow;                         /* its engine takes so many times longer */
	uint64_t refused_since[SIM_NODES_MAX]; /* a link is up although trust says no, since; 0 */
};

struct boot {
	struct daemon daemon;
	uv_loop_t loop;
	struct node *node;
	struct loop *works;                    /* loop.c */
};

struct event;
struct cable;
struct question;

struct sim {
	uint64_t seed, random, sodium_random;
	uint64_t ms, order, steps;             /* the world's clock; events so far */
	uint64_t epoch_s;                      /* Unix seconds at ms 0 */
	struct event **heap;
	size_t n_events, heap_room;
	const struct node *speaker;            /* whose rooms run: for what they log */
	size_t n_nodes;
	struct node nodes[SIM_NODES_MAX];
	size_t n_associations;
	struct association_truth associations[SIM_ASSOCIATIONS_MAX];
	size_t n_models;
	struct model_truth models[SIM_MODELS_MAX];
	bool blocked[SIM_NODES_MAX][SIM_NODES_MAX];     /* nothing gets from the one to the other */
	bool wild_clocks;                      /* some are hours or years off */
	bool thirsty;                          /* one association asks and asks, and little else happens: quotas are used up */
	bool calm;                             /* nothing breaks by itself any more */
	unsigned die_permille, late_permille, full_permille;    /* of frames: their connection dies, they are very late, the queue is full */
	uint64_t base_delay_ms;
	uint32_t keep_s;                       /* sessions are kept so long for a follow-up */
	struct cable *cables;
	struct question *questions;
	/* for the report */
	uint64_t frames, answered, failed_questions, tokens, joined, forged, replayed_frames, healed_ms, crashes;
};
extern struct sim sim;
extern bool sim_tracing, sim_tracing_frames;
extern char sim_folder[];                      /* for the homes of nodes */

/* --- sim.c: numbers, and what is told --------------------------------------------------------------- */
uint64_t sim_random(void);
uint64_t sim_below(uint64_t n);                /* 0 .. n - 1; n > 0 */
bool sim_chance(unsigned permille);
uint64_t sim_mix(uint64_t x);
bool story_is_large(uint64_t seed);         /* 200 nodes */
/* node NULL: of nobody. Only with --trace. */
void sim_trace(const struct node *node, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* An invariant does not hold: tells what, where and how to see it again; does not return. */
void sim_fail(const struct node *node, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

/* --- node.c: events and lives ------------------------------------------------------------------------ */
/* fn(arg, number) in so many ms. node not NULL: not if it has stopped or restarted meanwhile; then fn never comes. */
void sim_after(uint64_t ms, const struct node *node, void (*fn)(void *arg, uint64_t number), void *arg, uint64_t number);
bool sim_step(void);                           /* the next event; false: there is none */
void sim_run_ms(uint64_t ms);
void sim_clear_events(void);

void node_start(struct node *node);
void node_stop(struct node *node);             /* as by SIGTERM: says goodbye, saves */
void node_kill(struct node *node, bool power);         /* power: nobody is told; else its system resets the connections */
uint64_t node_now(const struct node *node);    /* Unix seconds on its own clock */
struct node *node_of(const struct daemon *d);
struct node *node_by_key(const uint8_t key[KEY_BYTES]);        /* NULL: nobody's */
struct node *node_by_home(const char *home);
static inline struct daemon *daemon_of(const struct node *node) { return &node->boot->daemon; }
static inline bool is_honest(const struct node *node) { return !node->hostile; }

/* --- loop.c ------------------------------------------------------------------------------------------- */
void loop_init(struct boot *boot);
void loop_drain(struct boot *boot);            /* works that wait end now, cancelled */

/* --- wire.c: link.h's functions, and the network ------------------------------------------------------- */
void wire_block(size_t from, size_t to, bool blocked);
void wire_heal(void);
void wire_break(unsigned permille);            /* so many of the connections die now */
void wire_node_gone(struct node *node, bool power);
void wire_node_finish(struct node *node);      /* what is left of its ends, without a word to anybody */
void wire_release(void);
/* For hostile nodes: a frame on each of its links of that kind that is up. */
void wire_each_up(struct node *node, enum link_kind kind, void (*fn)(struct link *link, struct node *peer, void *arg), void *arg);
size_t wire_open(void);

/* --- engine.c: stage.h's functions, and the model ------------------------------------------------------ */
/* What the whole model answers; how many tokens, without the end token. */
size_t engine_whole(const struct model_truth *model, const int32_t *prompt, size_t n_prompt, uint32_t max_tokens, uint64_t seed, int32_t *out,
		    const char **finish);
void engine_prompt(uint64_t number, size_t n, int32_t *out);
void engine_crash(struct node *node, size_t model);
void engine_hang(struct node *node, size_t model, uint64_t ms);
void engine_forget(struct node *node, size_t model);
uint64_t engine_memory(const struct node *node);       /* of what is loaded */
size_t engine_sessions(const struct node *node);
bool engine_resident(const struct node *node, size_t model, struct layer_range *out, size_t *n);

/* --- disk.c: store.h's and ledger_store.h's functions ---------------------------------------------------- */
void disk_release(struct disk *disk);

/* --- people.c -------------------------------------------------------------------------------------------- */
void people_found(void);                       /* keys, associations, first records: everybody's disk before the first start */
void people_tick(struct node *node);           /* an administrator accepts what was offered, and so on */
void people_invite(size_t association, enum invitation_role role, struct node *a, struct node *b);   /* b: tries the same one; or NULL */
void people_offer(size_t grantor, size_t grantee, uint64_t tokens_per_day, bool revoked);
void people_roster(size_t association, size_t node, bool named);
void people_approve(size_t association, size_t model, bool withdrawn);
void people_renew_steward(size_t association);
size_t people_association_of(const uint8_t key[KEY_BYTES]);    /* index; n_associations: none */

/* --- asker.c ----------------------------------------------------------------------------------------------- */
struct question *asker_ask(struct node *node, size_t model, bool may_cancel);  /* NULL: it was refused at once */
bool asker_ended(const struct question *q, int *err);          /* and whether: a question ends with its node, too */
void asker_node_gone(struct node *node);
const char *asker_detail(const struct question *q);
void asker_release(void);
size_t asker_open(void);

/* --- hostile.c --------------------------------------------------------------------------------------------- */
void hostile_saw(struct node *node, struct node *from, enum link_kind kind, const uint8_t *bytes, size_t n);
void hostile_tick(struct node *node);
void hostile_release(void);

/* --- witness.c --------------------------------------------------------------------------------------------- */
void witness_reset(void);
/* Around a ring frame that a node gets from another. */
void witness_frame_before(struct node *node, const uint8_t from[KEY_BYTES], const struct frame *frame);
void witness_frame_after(struct node *node, const uint8_t from[KEY_BYTES], const struct frame *frame);
void witness_engine_gets(struct node *node, size_t model, const struct frame *frame);
void witness_computed(struct node *node, const uint8_t session[SESSION_BYTES], uint32_t stage, uint32_t rows);
void witness_joined(struct node *node, const uint8_t invitation[16]);
void witness_granted(size_t grantor, size_t grantee, uint64_t tokens_per_day);
void witness_sweep(struct node *node);         /* all that can be seen of one node */
bool witness_converged(char *why, size_t size);        /* after healing */
size_t witness_hostile_stages(const struct node *node);        /* served here for hostile homes */
void witness_tell_sessions(const struct node *node);           /* into the trace */
bool witness_ring_possible(struct node *home, size_t model);

/* --- story.c ------------------------------------------------------------------------------------------------- */
void story_run(uint64_t seed);

#endif
