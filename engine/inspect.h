/* inspect.h: what a model file is made of, for its manifest (DESIGN D15): the publisher's engine parses it inside the
 * sandbox, so that no daemon ever parses GGUF.
 *
 * Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_INSPECT_H
#define ENGINE_INSPECT_H

#include "engine/directory.h"

/* Fills everything but roots, hashes and the torrent. The model is taken through a simulated load on the way, so a file that
 * libllama cannot use is refused here. context: to measure buffers for; 0: the model's own, but at most INSPECT_CONTEXT.
 * manifest_free() also when it fails. */
#define INSPECT_CONTEXT 8192
int inspect_model(struct manifest_body *body, const struct source *source, const struct directory *directory, uint32_t context,
		  char *why, size_t why_size);

#endif
