/* device.h: what computes: ggml's CPU back end always, and one graphics card where its owner shares one.
 *
 * Only what is asked for is loaded. ggml's own ggml_backend_load_all() takes every back end that is installed: they open drivers, and
 * some (BLAS) change the CPU's bits without anybody saying so. Vulkan is the one back end for cards that was tried.
 *
 * Everything happens before the sandbox (DESIGN D3); what a device needs of the kernel afterwards is in sandbox.c. State is global, as
 * ggml's is. Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_DEVICE_H
#define ENGINE_DEVICE_H

#include <ggml-backend.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/sandbox.h"
#include "proto/message.h"

bool device_is_wish(const char *text);
/* The CPU's back end, in the variant that suits this machine best; again is no work. */
void device_open_cpu(void);
/* wanted: "auto", the first card with memory of its own, or "vulkan/N", Vulkan's N-th device (`vulkaninfo --summary` numbers them), be it
 * an integrated one or software. 0, or ERR_UNSUPPORTED with the reason: then the CPU computes alone. */
int device_open(const char *wanted, char *why, size_t why_size);

/* NULL: there is none. */
ggml_backend_dev_t device_handle(void);
/* As libllama's log names it; "" without one. */
const char *device_log_name(void);
/* "cpu", or "vulkan": the last word of the engine's name. */
const char *device_back_end(void);
/* What hello says of it. */
const struct engine_device *device_info(void);
/* What the sandbox must leave for it. */
enum sandbox_for device_needs(void);

#endif
