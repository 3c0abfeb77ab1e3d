/* store.h: model files on this disk, and the torrents that bring them (DESIGN D14, D15).
 *
 * A model is known by its manifest (given by main, from verified records). Its files lie under HOME/models/ID/ or, for a
 * model published from a path, where the publisher has them (never modified, never deleted). What is wanted is a set of layer
 * ranges: pieces under those (plus header and shared groups) get priority, the others none. Only hash-checked
 * pieces are ever handed to an engine.
 *
 * libtorrent stands behind torrent.h (C); its thread only wakes the loop (uv_async_send). Resume data in
 * HOME/models/ID/resume are written on piece milestones, pause and close; after kill -9 the files are re-checked.
 * Thread: loop; hashing on workers. Owner: main. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <uv.h>

#include "proto/record.h"

struct store;
struct store_config {
	uv_loop_t *loop;
	const char *home;
	const char *listen_host;           /* torrents; "" = all */
	uint16_t listen_port;              /* 0: any */
	void (*on_change)(void *arg, const uint8_t model[KEY_BYTES]);     /* progress, at most twice a second a model; state at once */
	void *arg;
};

enum store_state {
	STORE_IDLE,                        /* known; nothing wanted */
	STORE_CHECKING,
	STORE_FETCHING,
	STORE_READY,                       /* everything wanted is verified */
	STORE_FAILED,                      /* see why */
};
struct store_status {
	enum store_state state;
	bool complete;                     /* every byte of every file */
	uint64_t bytes_total, bytes_wanted, bytes_have;      /* have: verified, of the wanted */
	uint64_t bytes_on_disk;            /* verified, in all */
	uint64_t rate;                     /* bytes a second, now */
	uint64_t seconds_left;             /* UINT64_MAX: unknown */
	unsigned peers;
	char why[200];
};

/* After an error, what was opened closes when the loop runs. */
int store_open(struct store **out, const struct store_config *config, char *why, size_t why_size);
void store_close(struct store *store, void (*on_closed)(void *arg), void *arg);   /* saves resume data first */
uint16_t store_port(const struct store *store);

/* Completes a manifest for files at absolute paths: sizes, v2 roots, SHA-256, metainfo, model id. body already has what
 * the engine found; done gets it filled (store keeps nothing yet), or NULL with an error. progress 0..1000. Files must not
 * change meanwhile: ERR_CHANGED. Errors come through done; only without memory is one returned, and body not moved. */
int store_hash(struct store *store, const char *const *paths, size_t n_paths, struct manifest_body *body /* moved in */,
	       void (*progress)(void *arg, unsigned permille),
	       void (*done)(void *arg, int err, struct manifest_body *body /* moved out */, const char *why), void *arg);

/* on_change is never called from inside one of these. */

/* Makes a model known. paths: NULL, or the publisher's own files (absolute; complete and trusted to match after a
 * check of size and mtime, remembered in HOME/models/ID/origin). Files that store_hash() did not read in this process
 * are read and checked first (STORE_CHECKING). Idempotent. ERR_BUSY: it was removed, and its files are still being
 * deleted; ERR_CHANGED: a path whose size is not the manifest's. */
int store_add(struct store *store, const uint8_t model[KEY_BYTES], const struct manifest_body *body, const char *const *paths);
int store_remove(struct store *store, const uint8_t model[KEY_BYTES]);      /* deletes only files it fetched itself */
/* Which ranges to have; n 0: nothing more (what is there stays). Too little room, or a file that cannot be written, is
 * STORE_FAILED with the remedy, and 0 here; asking again tries again. */
int store_want(struct store *store, const uint8_t model[KEY_BYTES], const struct layer_range *ranges, size_t n);
int store_status(const struct store *store, const uint8_t model[KEY_BYTES], struct store_status *out);
size_t store_models(const struct store *store, uint8_t (*out)[KEY_BYTES], size_t max);
const struct manifest_body *store_manifest(const struct store *store, const uint8_t model[KEY_BYTES]);  /* NULL: unknown */

/* For an engine: read-only descriptors (the caller closes them; fds has room for MODEL_FILES_MAX) and the verified extents
 * (heap, the caller frees): whole runs of hash-checked pieces, sorted by file and offset; their group is not set.
 * ERR_ARRIVING while a wanted piece is missing; ERR_CHANGED when a published file is no longer what was hashed. */
int store_open_files(struct store *store, const uint8_t model[KEY_BYTES], int *fds, size_t *n_fds,
		     struct model_extent **extents, size_t *n_extents);

/* Who may exchange pieces: "host:port" of connected, authorised peers' torrent ports. Everyone else is filtered. The whole
 * list each time. Port 0: any port of that host, which is not dialled. Names are resolved. A word that is no address
 * is left out, and ERR_MALFORMED says so. See torrent.h for what this does not protect against. */
int store_set_peers(struct store *store, const char *const *addresses, size_t n);

#endif
