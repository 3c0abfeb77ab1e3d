/* memory.h: what libllama allocates, and the limit it must stay under.
 *
 * libllama's public interface does not say how large its buffers are, but it logs each of them; the watch adds those lines
 * up. It is exact to 0.01 MiB a buffer and works for a simulated load too (llama_model_params.no_alloc), so a load that
 * cannot fit is refused before anything is allocated: ggml aborts on failed allocations.
 *
 * State is global, as libllama's log callback is. Thread: one.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_MEMORY_H
#define ENGINE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

struct memory_use {                /* bytes */
	uint64_t weights;          /* model buffers, repacked copies included; 0 in a simulated load */
	uint64_t kv;               /* KV or recurrent state of all sessions */
	uint64_t compute;          /* compute and output buffers */
	uint64_t device;           /* of these, on the device; 0 in a simulated load but for compute */
	uint64_t planned;          /* mapped by ggml's graph planner and hardly touched; counts towards RLIMIT_DATA all the same */
};

/* Takes over libllama's log: errors and warnings go to our log, the rest to debug. Call before anything of libllama. */
void memory_watch_install(void);
/* Until the next call, buffers that are logged are added to use; NULL: to nothing. */
void memory_watch(struct memory_use *use);
/* A device of this name in such a line is the device; "" none is. Static. */
void memory_watch_device(const char *name);
/* The last error line that libllama logged since this was last called with clear; "" when there was none. */
const char *memory_last_error(void);
void memory_clear_error(void);

/* Caps this process's data (heap and private mappings, RLIMIT_DATA), a sanitizer's not counted; 0 leaves it alone. 0 or -errno. */
int memory_limit(uint64_t bytes);
/* Opens what memory_data() needs; before the sandbox. */
void memory_open(void);
/* Bytes that count towards the limit now, and the limit (UINT64_MAX: none). 0 used when it cannot be known. */
uint64_t memory_data(uint64_t *limit);

#endif
