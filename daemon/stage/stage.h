/* stage.h: this node's engines: spawned, watched, restarted, quarantined. One process per resident model.
 *
 * Frames for an engine are exactly those of proto/message.h. A crash is a clean fault for the sessions in flight and a restart
 * with backoff; a model whose engine died three times within ten minutes is quarantined until stage_clear().
 * Hang watch: an engine that owes an answer and shows no progress for `hang_seconds` is killed.
 * Thread: loop. Owner: main. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef STAGE_STAGE_H
#define STAGE_STAGE_H

#include <uv.h>

#include "proto/message.h"

struct stage;

enum stage_state { STAGE_NONE, STAGE_STARTING, STAGE_LOADING, STAGE_READY, STAGE_FAILED, STAGE_QUARANTINED };

struct stage_config {
	uv_loop_t *loop;
	const char *engine_path;           /* essaim-engine */
	unsigned threads;                  /* for each engine */
	const char *gpu;                   /* "auto" or "vulkan/N": engines of models open this device; NULL: none */
	unsigned hang_seconds;             /* 0: 120 */
	/* ROWS, TOKENS, READY and FAULT of an engine, as decoded frames. */
	void (*on_frame)(void *arg, const uint8_t model[KEY_BYTES], const struct frame *frame);
	/* state changed; on STAGE_FAILED/QUARANTINED `why` says what and what to do. All its sessions are gone. */
	void (*on_state)(void *arg, const uint8_t model[KEY_BYTES], enum stage_state state, const char *why);
	/* stage_device() has something to say. May be NULL. */
	void (*on_device)(void *arg);
	void *arg;
};
struct stage_device {
	bool known;                        /* it was looked at, or none is wanted */
	struct engine_device device;
	char why[400];                     /* why there is none though one is wanted; "" otherwise */
};
struct stage_load {                        /* what to make resident */
	uint8_t model[KEY_BYTES];
	size_t n_ranges;
	struct layer_range ranges[RANGES_MAX];
	uint32_t n_layer, context, sessions;
	uint64_t memory_max;               /* budget for this engine, without the device; 0: none */
	uint64_t device_max;               /* budget on the device */
	uint64_t data_limit;               /* RLIMIT_DATA for the process; 0: none */
	size_t n_fds;
	int fds[MODEL_FILES_MAX];          /* taken: closed by stage */
	size_t n_extents;
	struct model_extent *extents;      /* taken: freed by stage */
};
struct stage_info {
	enum stage_state state;
	pid_t pid;
	char engine[NAME_SIZE];
	bool sandboxed;
	size_t n_ranges;
	struct layer_range ranges[RANGES_MAX];
	uint64_t weight_bytes, kv_bytes, compute_bytes, device_bytes;     /* device_bytes: of the others, on the device */
	uint32_t device_layers;
	uint32_t context, sessions, sessions_open, layer_microseconds;
	enum truncate truncate;            /* can a session go back to a position */
	unsigned crashes;
	int err;                           /* of the last refusal or end: ERR_BUDGET did not fit, ERR_MODEL, ERR_ENGINE crashed, ... */
	char why[400];
};

int stage_open(struct stage **out, const struct stage_config *config);
void stage_close(struct stage *stage, void (*on_closed)(void *arg), void *arg);   /* SIGTERM, then SIGKILL after 2 s */

/* Starts (or replaces, when the ranges differ) the model's engine. Takes load's descriptors and extents. Restarting after a
 * crash needs them again: on_state(STAGE_FAILED) and then the caller calls stage_start() anew. */
int stage_start(struct stage *stage, struct stage_load *load);
void stage_stop(struct stage *stage, const uint8_t model[KEY_BYTES]);
int stage_quarantine(struct stage *stage, const uint8_t model[KEY_BYTES], const char *why);   /* as it was before a restart */
void stage_clear(struct stage *stage, const uint8_t model[KEY_BYTES]);            /* out of quarantine */
int stage_send(struct stage *stage, const uint8_t model[KEY_BYTES], struct buf *frame);   /* takes it, always; ERR_UNKNOWN, ERR_ENGINE, ERR_BUSY */
int stage_info(const struct stage *stage, const uint8_t model[KEY_BYTES], struct stage_info *out);

/* Text to tokens by a resident model. */
int stage_render(struct stage *stage, const uint8_t model[KEY_BYTES], const struct engine_render *render /* request is set here */,
		 void (*done)(void *arg, int err, const int32_t *tokens, size_t n, const char *why), void *arg);
/* The same with everything that was asked for: pieces, an embedding. Views last for the call; NULL with an error. */
int stage_text(struct stage *stage, const uint8_t model[KEY_BYTES], const struct engine_render *render,
	       void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *why), void *arg);
/* Runs an engine once over files (fds taken, always) to learn what they are. done() comes once unless this fails; the
 * body's memory is done()'s: manifest_free(). */
int stage_inspect(struct stage *stage, int *fds, size_t n_fds, const char *const *names, uint32_t context,
		  void (*progress)(void *arg, unsigned permille),
		  void (*done)(void *arg, int err, struct manifest_body *body /* moved out */, const char *why), void *arg);
/* An engine looks what the device is when stage opens, and ends again. */
const struct stage_device *stage_device(const struct stage *stage);
const char *stage_engine_name(const struct stage *stage);     /* "llama 0.7.0 ..." once any engine said hello, else "" */

#endif
