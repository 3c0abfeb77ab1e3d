/* daemon.h: the whole node: every room, and what connects them. Only the files of daemon/ itself include it.
 *
 *   main.c          start-up table, signals, drain
 *   init.c          essaimd --init: a new home folder
 *   config.c        essaim.conf
 *   records.c       this node's own records (card, advert, steward's), saving all records
 *   records_steward.c  more of the steward's office
 *   residency.c     placement -> store -> stage: what this node holds and runs
 *   sharing_watch.c when it shares: opens and closes (rules: sharing.h; load: machine.h)
 *   doctor*.c       what is wrong and what to do: judgements, this machine; doctor.h
 *   dialled.c       how an address failed, in words
 *   quarantine.c    models whose engines died again and again, over restarts
 *   views.c         read-only views for route, permission for ring, metrics
 *   views_gateway.c the same for gateway mode
 *   command_*.c     what the command line asks for, over control/
 *
 * Thread: loop. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include <pthread.h>
#include <uv.h>
#include <yyjson.h>

#include "daemon/api/api.h"
#include "daemon/config.h"
#include "daemon/control/control.h"
#include "daemon/control/json.h"
#include "daemon/ledger/ledger.h"
#include "daemon/machine.h"
#include "daemon/mesh/mesh.h"
#include "daemon/portmap/portmap.h"
#include "daemon/ring/ring.h"
#include "daemon/route/gateway.h"
#include "daemon/route/placement.h"
#include "daemon/route/route.h"
#include "daemon/stage/stage.h"
#include "daemon/store/store.h"
#include "daemon/trust/trust.h"

#define DAEMON_MODELS_MAX 64

/* A model that this node knows of, and how far it has come here. Owner: residency.c. */
struct residency {
	uint8_t model[KEY_BYTES];
	bool approved;                              /* this association runs it */
	size_t n_placed;
	struct layer_range placed[RANGES_MAX];      /* chosen by placement */
	uint64_t cost;                              /* of placed, against the budget */
	uint64_t loaded;                            /* the same of what its engine was started with, until that has ended */
	uint32_t memory_permille;                   /* of weights, when the engine found more than the manifest says; 0 */
	enum stage_state state;
	bool start_pending;                         /* start the engine when the store is ready */
	bool complete;                              /* all of its files are here, as the adverts say */
	uint64_t retry_at;                          /* monotonic ms; 0: not waiting */
	uint64_t store_retry_at;                    /* the same, for weights that could not be fetched */
	unsigned attempts;
	char why[400];
};

/* The machine's load is the difference between two looks; [0] is the later one. Owner: sharing_watch.c. */
struct machine_samples {
	unsigned n;
	uint64_t at[2];                             /* monotonic ms */
	struct machine_ticks ticks[2];
};

struct daemon {
	uv_loop_t *loop;
	const char *home;
	struct config config;
	struct keys keys;
	int lock_fd;
	bool left;                                  /* has left its association: nothing is saved any more */
	bool joined;                                /* an association, to which it belongs from its next start on */
	bool steward_replaced;                      /* the steward key here is no longer the association's */
	bool draining, closing;

	struct trust *trust;
	struct ledger *ledger;
	struct mesh *mesh;
	struct store *store;
	struct stage *stage;
	struct ring *ring;
	struct route *route;
	struct gateway *gateway;
	struct api *api;
	struct control *control;
	struct portmap *portmap;

	uv_timer_t tick;                            /* 250 ms */
	uv_signal_t sigterm, sigint, sighup;
	unsigned open_handles;

	size_t n_models;
	struct residency models[DAEMON_MODELS_MAX];
	bool placement_due;
	uint64_t placement_at, torrent_peers_at;    /* monotonic ms */
	uint64_t trust_generation;

	struct sharing sharing;
	struct machine_samples machine;
	uint64_t unload_at;                         /* monotonic ms: when closed, engines end then; 0: nothing to do */

	bool advert_due, card_due, saving, save_due;
	int save_err;                               /* of the last saving of records */
	pthread_mutex_t save_lock;                  /* of the file, and of saved_version */
	uint64_t save_version, saved_version;       /* of the copies made, and of the one that is in the file */
	uint64_t advert_at, card_at, roster_at, save_at;     /* monotonic ms of the next */
	uint64_t addresses_at;                      /* the next look at the machine's addresses */
	uint8_t card_addresses[16];                 /* hash of those in the card */
	char mapped[ADDRESS_SIZE];                  /* where the router passes on to links; "" nowhere */
	uint64_t last_sequence;
	int64_t clock_ahead;                        /* seconds of the wall clock before the monotonic one at the last tick; 0: no tick yet */
	bool future_due;                            /* what was signed in the future, by a clock that was wrong, is still to be signed again */

	char *last_answer;                          /* JSON of the last disclosure; figures, never text. Heap */
	uint64_t started;                           /* Unix seconds */
};

/* main.c */
uint64_t daemon_now(const struct daemon *d);        /* Unix seconds */
uint64_t daemon_now_ms(const struct daemon *d);     /* the same in milliseconds */
uint64_t daemon_ms(const struct daemon *d);         /* monotonic milliseconds */

/* init.c */
int init_run(const char *home, int argc, char **argv);   /* an exit status */

/* records.c: sign, publish, save */
struct records_renewed {                                 /* what a new steward key has signed; in: begin anew, with this node alone? */
	bool fresh;
	size_t nodes, agreements, acceptances, approvals, failed;
};
/* Of a record that begins now and lasts `life` seconds; subject NULL: the association. Its sequence is larger than any this node has used. */
struct record records_head(struct daemon *d, enum record_kind kind, const uint8_t *subject, uint64_t life);
int records_publish(struct daemon *d, struct buf *record);   /* into trust and the mesh; releases it */
/* The same for what the steward signs, which is on disk before anybody hears it: else, after a loss of power, others would hold against him what
 * he does not know of. Not published when it cannot be saved. Blocks. */
int records_publish_saved(struct daemon *d, struct buf *record);
/* May the steward sign now: 0; ERR_DENIED: no key here; ERR_CLOCK: his own record is of the future, so this clock is behind, unless
 * another node agrees with it. */
int records_may_sign(const struct daemon *d);
int records_publish_roster(struct daemon *d, const uint8_t (*nodes)[KEY_BYTES], size_t n);
/* What is offered where nobody says otherwise: to a partner who joins, and by `essaim agreement offer` without options. */
#define OFFER_TOKENS 1000000              /* a day */
#define OFFER_STAGE_SECONDS 36000         /* a day */
#define OFFER_PRIORITY 5
#define OFFER_DAYS 365
int records_offer(struct daemon *d, const uint8_t association[KEY_BYTES], const struct agreement_body *terms, uint32_t days);
int records_accept(struct daemon *d, const uint8_t grantor[KEY_BYTES], bool declined);
int records_leave(struct daemon *d);                     /* says so to everybody; nothing is saved from then on */
int records_renew_steward(struct daemon *d, const uint8_t root_secret[SIGN_SECRET_BYTES]);   /* the same key, 90 days more */
int records_approve(struct daemon *d, const uint8_t model[KEY_BYTES], bool withdrawn);
void records_tick(struct daemon *d);                     /* card, advert, roster, saving when due */
void records_changed(struct daemon *d);                  /* trust changed: save soon, look again at everything */
int records_load(struct daemon *d, char *why, size_t why_size);
int records_save_now(struct daemon *d);                  /* blocks */
/* A node that joined belongs to that association from its next start on; nothing is changed unless what it learned is on disk. Blocks. */
int records_take_over(struct daemon *d, const uint8_t association[KEY_BYTES], char *why, size_t why_size);
int records_on_join(void *arg, enum invitation_role role, const uint8_t node[KEY_BYTES], const uint8_t association[KEY_BYTES],
		    const uint8_t invitation[16]);

struct record records_head(struct daemon *d, enum record_kind kind, const uint8_t *subject, uint64_t life);   /* about us; subject NULL: the association */

/* records_steward.c */
void records_look_at_steward(struct daemon *d);          /* is the key here still the association's? */
bool records_sign_future(struct daemon *d);              /* again, what a wrong clock dated too late: nobody else would take it. False: not all */
void records_drop_left(struct daemon *d);                /* off the roster with who said that he has left */
int records_sign_again(struct daemon *d, const uint8_t root_secret[SIGN_SECRET_BYTES], struct records_renewed *out);   /* by d->keys' new steward */

/* residency.c */
void residency_tick(struct daemon *d);
void residency_refresh(struct daemon *d);                /* manifests, approvals, adverts changed */
void residency_retry(struct daemon *d, struct residency *r);   /* fetches again what the store gave up */
struct residency *residency_find(struct daemon *d, const uint8_t model[KEY_BYTES]);
void residency_on_store(void *arg, const uint8_t model[KEY_BYTES]);
void residency_on_stage(void *arg, const uint8_t model[KEY_BYTES], enum stage_state state, const char *why);
void residency_unload(struct daemon *d);                 /* sharing closed: engines end; what was placed stays placed */
void residency_open(struct daemon *d);                   /* and open again: load it */
uint64_t residency_used(const struct daemon *d);
uint64_t residency_budget(const struct daemon *d);             /* with the device's memory */
uint64_t residency_device_budget(const struct daemon *d);
uint64_t residency_device_used(const struct daemon *d);
void residency_on_device(void *arg);
uint32_t residency_context(const struct daemon *d, const struct manifest_body *manifest);

/* sharing_watch.c */
void sharing_start(struct daemon *d);
void sharing_tick(struct daemon *d);
int sharing_pause(struct daemon *d, uint64_t until);     /* Unix seconds, SHARING_FOR_EVER, or 0: no longer */
/* Says once whether it is open, or why not: "paused for another 2 h". */
void sharing_say(const struct daemon *d, void (*say)(void *arg, const char *format, ...) __attribute__((format(printf, 2, 3))), void *arg);
char *sharing_text(const struct daemon *d, char *out, size_t size);     /* the same, as text; returns out */

/* quarantine.c: HOME/quarantine/MODEL, a line that says why; it lasts until `essaim model clear` */
bool quarantine_read(const char *home, const uint8_t model[KEY_BYTES], char *why, size_t size);
void quarantine_write(const char *home, const uint8_t model[KEY_BYTES], const char *why);
void quarantine_remove(const char *home, const uint8_t model[KEY_BYTES]);

/* views.c */
size_t views_models(void *arg, struct route_model *out, size_t max);
size_t views_nodes(void *arg, const uint8_t model[KEY_BYTES], struct routing_node *out, size_t max);
void views_describe(void *arg, const uint8_t node[KEY_BYTES], char name[NAME_SIZE], char association[NAME_SIZE]);
int views_render(void *arg, const uint8_t model[KEY_BYTES], const struct engine_render *render,
		 void (*done)(void *arg, int err, const int32_t *tokens, size_t n, const char *why), void *done_arg);
int views_text(void *arg, const uint8_t model[KEY_BYTES], const struct engine_render *render,
	       void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *why), void *done_arg);
int views_permit(void *arg, const struct ticket *ticket, const struct ring_claim *claim, uint32_t *priority, char *detail, size_t size);
uint32_t views_room(void *arg, const uint8_t model[KEY_BYTES]);
/* Sessions that a model's engine takes yet; those that are only kept give way. */
uint32_t views_sessions_free(const struct daemon *d, const uint8_t model[KEY_BYTES], const struct stage_info *info);
void views_metrics(void *arg, struct buf *out);
void views_publisher(const struct daemon *d, const uint8_t model[KEY_BYTES], char association[NAME_SIZE], uint64_t *created);

/* views_gateway.c */
/* NODE as people write it: a name, name@association, or eight digits of the key. Of the nodes that this one may speak with. */
int views_find_node(void *arg, const char *name, uint8_t node[KEY_BYTES], char *why, size_t why_size);
size_t views_neighbours(void *arg, uint8_t (*out)[KEY_BYTES], size_t max);       /* with links; of our own association first */
int views_link_key(void *arg, const uint8_t node[KEY_BYTES], uint8_t out[KEY_BYTES]);
int views_permit_gateway(void *arg, const uint8_t node[KEY_BYTES], const uint8_t model[KEY_BYTES], char *detail, size_t size);

/* dialled.c */
const char *dialled_how(int why);                  /* an error as link.h's on_closed has it; 0: it answers. Marked for translation */

/* command_*.c */
extern const char command_steward_remedy[];      /* what who lacks the steward key is told to do */
extern const struct control_command command_table[];
/* Once: whether the router passes the ports on, and why not. */
void command_mapping_into(const struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *object, const char *key);
control_handler command_doctor, command_api_key, command_status, command_pause, command_resume, command_peers, command_disclosure, command_ring;
control_handler command_invite, command_join, command_agreement_offer, command_agreement_accept, command_agreement_revoke,
	command_agreement_list, command_roster_list, command_roster_remove, command_steward_renew, command_steward_new,
	command_leave;
control_handler command_model_add, command_model_list, command_model_pull, command_model_remove, command_model_clear;
void command_ranges_into(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *key, const struct layer_range *ranges, size_t n);
void command_models_into(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *array, const uint8_t *only);
void command_agreements_into(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *array);
void command_warnings_into(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *array);
void command_peers_into(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *array);
/* MODEL, NODE and ASSOCIATION arguments; on failure the request has been answered and the result is negative. */
int command_find_model(struct daemon *d, struct control_request *r, yyjson_val *args, uint8_t model[KEY_BYTES]);
int command_find_association(struct daemon *d, struct control_request *r, yyjson_val *args, uint8_t association[KEY_BYTES]);
void command_answered(void *arg, const struct route_result *result);      /* for `essaim` disclosures; figures, never text */
const char *json_hex(yyjson_mut_doc *doc, const uint8_t *bytes, size_t n);   /* text owned by doc; NULL: no memory */

#endif
