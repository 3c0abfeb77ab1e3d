/* catalog.h: inside the store: what it knows of each model, and who does what with it.
 *
 * store.c     the public verbs, the catalogue, closing
 * progress.c  what libtorrent tells; states, and who is told of them
 * disk.c      folders, the resume and origin files; blocking work on workers
 * hash.c      hashing what is published, checking what came
 * peers.c     names to addresses
 * torrent.cpp libtorrent; extents.c pieces and bytes (pure)
 *
 * Thread: loop, except functions that say "worker". Owner: store.c. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef STORE_CATALOG_H
#define STORE_CATALOG_H

#include <stdatomic.h>

#include "daemon/store/extents.h"
#include "daemon/store/store.h"
#include "daemon/store/torrent.h"

#include <uv.h>

#define STORE_POLL_MS 500
#define STORE_PATH_MAX 4096

enum claim { CLAIM_UNCHECKED = 0, CLAIM_TRUE = 1, CLAIM_FALSE = 2 };       /* the manifest's SHA-256 */

struct retired_paths {
	struct retired_paths *next;
	char **paths;
};

struct model {
	struct model *next;
	uint8_t id[KEY_BYTES];
	struct manifest_body body;           /* a copy */
	struct layout layout;
	bool fetchable;                      /* has metainfo, and so a layout */
	char *folder;                        /* HOME/models/ID */
	char **paths;                        /* of the files: under folder, or the publisher's */
	struct retired_paths *retired;       /* earlier ones: a worker may still read them */
	bool published;
	bool trusted;                        /* published: the stamps are those of the hashed files */
	struct torrent_stamp *stamps;        /* published: one a file */

	uint32_t torrent;                    /* 0: not in the session */
	bool known;                          /* have says what is there */
	uint8_t *have, *want, *first;        /* PIECES_BYTES(layout.n_pieces) each */
	size_t n_ranges;
	struct layer_range ranges[RANGES_MAX];

	bool failed;
	char why[200];                       /* failed: what and what to do; else a note, or "" */
	unsigned bad_pieces;                 /* refused since the start */
	unsigned permille;                   /* of checking */
	uint64_t rate;                       /* as libtorrent said last */
	unsigned peers;
	struct store_status status;
	bool told_due, told_now;             /* on_change is owed: within half a second; at once */
	uint64_t told_at;                    /* loop's ms */

	uint64_t saved_bytes;                /* verified when resume was last written */
	uint64_t saved_at;
	bool save_due;
	enum claim claim;
	bool claim_running;
	bool removing;                       /* store_remove(): nobody finds it any more */
	unsigned works;                      /* workers that hold it */
};

/* One piece of blocking work. run is on a worker and touches only its own arg and the model's fixed fields
 * (folder, layout, body); done is on the loop, always, and frees arg. */
struct store_work {
	uv_work_t request;
	struct store *store;
	struct model *model;                 /* NULL: of none */
	char *const *paths;                  /* the model's when the work began */
	void (*run)(struct store_work *work);
	void (*done)(struct store_work *work);
	void *arg;
	int err;
	char why[200];
};

#define HASHED_MAX 64
struct hashed {                              /* a file that store_hash() read here */
	char *path;
	struct torrent_stamp stamp;
	uint8_t root[KEY_BYTES];
};

struct store {
	uv_loop_t *loop;
	struct store_config config;
	char *home;
	struct torrent_session *torrents;
	uv_async_t wake;
	uv_timer_t timer;
	unsigned handles;                    /* open */
	unsigned works;                      /* on workers, or being resolved */
	uint64_t ticks;
	uint32_t next_torrent;
	struct model *models;
	struct hash_job *jobs;               /* of hash.c */
	struct hashed hashed[HASHED_MAX];
	size_t n_hashed;
	struct peers *peers;                 /* of peers.c */

	atomic_bool cancel;                  /* workers stop early */
	enum { STORE_OPEN, STORE_DRAINING, STORE_SAVING, STORE_CLOSING } phase;
	uint64_t drain_until;
	void (*on_closed)(void *arg);
	void *on_closed_arg;
};

/* store.c */
struct model *model_find(const struct store *store, const uint8_t id[KEY_BYTES]);
int model_start(struct store *store, struct model *m);               /* puts it into the session */
void model_fail(struct store *store, struct model *m, const char *format, ...) __attribute__((format(printf, 3, 4)));
void model_leave_session(struct store *store, struct model *m);      /* its pieces become unknown */
void model_free_if_removed(struct store *store, struct model *m);    /* call when a work or the torrent ended */
int store_work(struct store *store, struct model *m, void (*run)(struct store_work *), void (*done)(struct store_work *),
	       void *arg);
void store_close_step(struct store *store);                          /* goes on closing when it can */

/* progress.c */
void progress_update(struct store *store, struct model *m);          /* recomputes the status; owes on_change if it differs */
void progress_wake(uv_async_t *wake);
void progress_tick(uv_timer_t *timer);

/* disk.c */
int disk_make_folder(const char *path);
char *disk_join(const char *a, const char *b);                       /* heap; NULL: no memory */
bool disk_is_ours(const char *name);                                 /* a name of the store's own notes */
int disk_stamp(const char *path, struct torrent_stamp *out);         /* ERR_CHANGED when it is no regular file */
bool disk_unchanged(const struct model *m, const char **which);      /* published files against their stamps */
/* Makes folder and files, full size and sparse. fresh: there were none before. why on failure. */
int disk_prepare(const struct model *m, bool *fresh, char *why, size_t why_size);
uint64_t disk_free(const char *folder);                              /* bytes; UINT64_MAX when unknown */
uint64_t disk_allocated(const struct model *m);                      /* bytes its own files take */
bool disk_read_resume(struct model *m, uint8_t *have);               /* true: have is exact; the claim is read too */
int disk_save_resume(struct store *store, struct model *m);          /* on a worker */
int disk_read_origin(struct model *m);                               /* fills paths and stamps; -ENOENT: none */
int disk_save_origin(struct store *store, struct model *m);          /* on a worker */
int disk_delete(struct store *store, struct model *m);               /* on a worker: what was fetched; then frees it */

/* hash.c */
void hash_check_claim(struct store *store, struct model *m);
void hash_report(struct store *store);                               /* progress of running jobs */
bool hash_was_here(const struct store *store, const char *path, const struct torrent_stamp *stamp, const uint8_t *root);
void hash_release(struct store *store);

/* peers.c */
void peers_release(struct store *store);

#endif
