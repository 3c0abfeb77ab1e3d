// guard.cpp: see guard.h. SPDX-License-Identifier: AGPL-3.0-or-later
#include "engine/guard.h"

#include <cstdio>
#include <cstring>
#include <exception>

extern "C" {
#include "proto/err.h"
}

int guard_decode(struct llama_context *context, struct llama_batch batch, char *why, size_t why_size)
{
	try {
		return llama_decode(context, batch);
	} catch (const std::exception &e) {
		bool memory = strstr(e.what(), "Memory") || strstr(e.what(), "memory") || strstr(e.what(), "bad_alloc");

		snprintf(why, why_size, "%s (%s)", memory ? "the device is out of memory: lower [share] gpu_memory" : "the device failed", e.what());
		return memory ? ERR_BUDGET : ERR_ENGINE;
	}
}
