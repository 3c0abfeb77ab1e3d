/* fuzz.h: what a fuzz target is made of.
 *
 * A target is a file fuzz_NAME.c with LLVMFuzzerTestOneInput(), which returns 0 and aborts where something that
 * must hold does not. `make fuzz` builds it with clang and libFuzzer and looks for new inputs; `make check` links it
 * with replay.c instead and runs the committed seeds of corpus/NAME/ with any compiler.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Optional: appends the i-th honest example, made by the encoders of today, so that a schema that grows does not leave
 * the seeds behind; false when there are no more. */
bool fuzz_seed(size_t i, struct buf *out) __attribute__((weak));

/* Like assert(), but never compiled away, and an abort() that every fuzzer sees. */
#define must(condition)                                                                    \
	do {                                                                               \
		if (!(condition)) {                                                        \
			fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                           \
		}                                                                          \
	} while (0)

#endif
