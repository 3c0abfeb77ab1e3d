/* sandbox.h: what an engine may still ask of the kernel once a model is parsed (DESIGN D3).
 *
 * Order: ggml_backend_load_all() (it opens libraries) -> devices -> sandbox_enter() -> descriptors -> parsing. After
 * sandbox_enter() the process and every thread it will ever have can compute, allocate memory, start threads, read
 * descriptors that it holds, and read and write its socketpair. It cannot open files, make sockets, start processes, gain
 * privileges or dump core. The allow list with its reasons is in sandbox.c.
 *
 * A device makes it wider: a graphics card's driver speaks to the kernel by ioctl(2) over the descriptor of /dev/dri that it opened
 * before, and a driver that computes in software makes code. Nothing else is added.
 *
 * Thread: call from the only one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_SANDBOX_H
#define ENGINE_SANDBOX_H

#include <stddef.h>

enum sandbox_for { SANDBOX_FOR_CPU, SANDBOX_FOR_CARD, SANDBOX_FOR_SOFTWARE };

/* 0, or an error with why: the engine must not go on. */
int sandbox_enter(enum sandbox_for use, char *why, size_t why_size);

/* Tries what must be denied, from inside: prints one line each, returns the number that was wrongly allowed.
 * `essaim-engine --check-sandbox`. */
int sandbox_prove(enum sandbox_for use);

#endif
