/* memory.c: adding up what libllama says it allocates. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "proto/log.h"
#include "proto/sanitized.h"
#include "proto/text.h"

static struct memory_use *watching;
static const char *device = "";
static char last_error[300];
static int statm = -1;
static uint64_t shadow;      /* bytes of data that a sanitizer had mapped before main(); else 0 */

/* "llama_context:        CPU  output buffer size =     0.24 MiB" */
static uint64_t mebibytes(const char *line, const char *label)
{
	const char *at = strstr(line, label);
	double value;

	if (!at || sscanf(at + strlen(label), " = %lf MiB", &value) != 1 || !(value > 0))
		return 0;
	return (uint64_t)(value * 1048576.0);
}

static void add(struct memory_use *use, const char *line)
{
	uint64_t weights = mebibytes(line, "model buffer size"), kv = mebibytes(line, "KV buffer size") + mebibytes(line, "RS buffer size");
	uint64_t compute = mebibytes(line, "compute buffer size") + mebibytes(line, "output buffer size");
	const char *at = *device ? strstr(line, device) : NULL;

	use->weights += weights;
	use->compute += compute;
	if (at && at[strlen(device)] == ' ')       /* not its host's buffer, "Vulkan_Host" */
		use->device += weights + kv + compute;
	/* the cache's own line, which a simulated load prints too; its buffer's line says 0 then */
	if (strstr(line, "llama_kv_cache: size =") || strstr(line, "llama_memory_recurrent: size ="))
		use->kv += mebibytes(line, ": size");
}

static void on_log(enum ggml_log_level level, const char *text, void *arg)
{
	static char line[1024];
	static size_t length;
	size_t n = strlen(text);

	(void)arg;
	/* lines may come in pieces */
	if (n > sizeof line - 1 - length)
		n = sizeof line - 1 - length;
	memcpy(line + length, text, n);
	length += n;
	line[length] = 0;
	if (length == 0 || (line[length - 1] != '\n' && length < sizeof line - 1))
		return;
	line[strcspn(line, "\n")] = 0;
	length = 0;
	if (watching)
		add(watching, line);
	if (level == GGML_LOG_LEVEL_ERROR) {
		if (!last_error[0] || !strstr(line, ": failed to load model"))       /* which says less than the line before */
			text_copy(last_error, sizeof last_error, line);
		log_error("libllama: %s", line);
	} else if (level == GGML_LOG_LEVEL_WARN) {
		log_info("libllama: %s", line);
	}
}

void memory_watch_install(void)
{
	llama_log_set(on_log, NULL);
}

void memory_watch(struct memory_use *use)
{
	watching = use;
}

void memory_watch_device(const char *name)
{
	device = name;
}

const char *memory_last_error(void)
{
	return last_error;
}

void memory_clear_error(void)
{
	last_error[0] = 0;
}

void memory_open(void)
{
	if (statm < 0)
		statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
}

/* Bytes that the kernel counts. 0: it cannot be known. */
static uint64_t data_bytes(void)
{
	unsigned long long data = 0;
	char text[128];
	ssize_t n = statm < 0 ? -1 : pread(statm, text, sizeof text - 1, 0);

	if (n <= 0)
		return 0;
	text[n] = 0;
	/* proc_pid_statm(5): size resident shared text lib data dt, in pages */
	if (sscanf(text, "%*u %*u %*u %*u %*u %llu", &data) != 1)
		return 0;
	return data * (uint64_t)sysconf(_SC_PAGESIZE);
}

int memory_limit(uint64_t bytes)
{
	if (bytes == 0)
		return 0;
	if (SANITIZED) {
		memory_open();
		shadow = data_bytes();
	}
	struct rlimit limit = { .rlim_cur = bytes + shadow, .rlim_max = bytes + shadow };

	return setrlimit(RLIMIT_DATA, &limit) < 0 ? -errno : 0;
}

uint64_t memory_data(uint64_t *out)
{
	struct rlimit limit = { .rlim_cur = RLIM_INFINITY };
	uint64_t data = data_bytes();

	if (getrlimit(RLIMIT_DATA, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
		*out = UINT64_MAX;
	else
		*out = limit.rlim_cur - shadow;
	return data > shadow ? data - shadow : 0;
}
