/* guard.h: libllama where it throws. A device's driver says by an exception that it is out of memory or gone; in C that would end the
 * process. Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_GUARD_H
#define ENGINE_GUARD_H

#include <llama.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* llama_decode()'s result. ERR_BUDGET: the device is out of memory, ERR_ENGINE: it failed otherwise, with why; the context must not be
 * used again. */
int guard_decode(struct llama_context *context, struct llama_batch batch, char *why, size_t why_size);

#ifdef __cplusplus
}
#endif
#endif
