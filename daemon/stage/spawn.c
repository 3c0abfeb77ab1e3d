/* spawn.c: a process with nothing of ours but one end of a socketpair, as descriptor 3.
 *
 * posix_spawn(3) and not uv_spawn(): the child must get no descriptor that some library forgot to mark close-on-exec,
 * and libuv cannot close "all from 4 on". The environment is a list of what an engine may know; the daemon's own
 * (paths of credentials, say) is not in it.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/stage/stage_internal.h"
#include "proto/engine_environment.h"
#include "proto/text.h"

#define ENGINE_FD 3
#define BUFFER_BYTES (1 << 20)
#define ENVIRONMENT_MAX 64

extern char **environ;

static bool may_know(const char *entry)
{
	static const char *const names[] = {"PATH=", "LANG=", "LC_", "TZ=", "OMP_", "GOMP_", "GLIBC_TUNABLES=", "GGML_", "ESSAIM_BACKENDS=", "LLAMA_", "LD_LIBRARY_PATH=", "VK_",
					    "JOURNAL_STREAM=", "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS=", "TSAN_OPTIONS="};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (!strncmp(entry, names[i], strlen(names[i])))
			return true;
	return false;
}

/* What an engine may know of our own environment, and what it needs (set, a buffer for it). all_cores: each of its threads keeps to a core of its
 * own (OpenMP 5.0, 6.4), unless somebody has said otherwise. */
static void make_environment(char **out, char set[ENGINE_ENVIRONMENT_N][64], bool all_cores)
{
	static char bind[] = "OMP_PROC_BIND=true", places[] = "OMP_PLACES=cores";
	size_t n = 0;
	for (char **entry = environ; *entry && n < ENVIRONMENT_MAX - 3 - ENGINE_ENVIRONMENT_N; entry++)
		if (may_know(*entry))
			out[n++] = *entry;
	for (size_t i = 0; i < ENGINE_ENVIRONMENT_N; i++)
		if (!getenv(engine_environment[i].name)) {
			snprintf(set[i], sizeof set[i], "%s=%s", engine_environment[i].name, engine_environment[i].value);
			out[n++] = set[i];
		}
	if (all_cores && !getenv("OMP_PROC_BIND") && !getenv("OMP_PLACES") && !getenv("GOMP_CPU_AFFINITY")) {
		out[n++] = bind;
		out[n++] = places;
	}
	out[n] = NULL;
}

static int prepare(posix_spawn_file_actions_t *actions, posix_spawnattr_t *attributes, int fd)
{
	sigset_t none, all;
	sigemptyset(&none);
	sigfillset(&all);
	int err = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	if (!err)
		err = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	if (!err)
		err = posix_spawn_file_actions_adddup2(actions, fd, ENGINE_FD);
	if (!err)
		err = posix_spawn_file_actions_addclosefrom_np(actions, ENGINE_FD + 1);
	if (!err)
		err = posix_spawnattr_setsigmask(attributes, &none);
	if (!err)
		err = posix_spawnattr_setsigdefault(attributes, &all);
	/* A group of its own: Ctrl-C is for the daemon, which then ends its engines in order. */
	if (!err)
		err = posix_spawnattr_setpgroup(attributes, 0);
	if (!err)
		err = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	return -err;
}

int engine_spawn(const char *path, uint64_t data_limit, const char *gpu, bool all_cores, pid_t *pid, int *fd, char *why, size_t why_size)
{
	int pair[2];
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	char limit[32], *environment[ENVIRONMENT_MAX], set[ENGINE_ENVIRONMENT_N][64];
	char program[] = "essaim-engine", option[] = "--memory-max", option_gpu[] = "--gpu", device[32];
	char *arguments[6] = {program};
	size_t n = 1;
	if (data_limit) {
		arguments[n++] = option;
		arguments[n++] = limit;
	}
	if (gpu) {
		arguments[n++] = option_gpu;
		arguments[n++] = device;
		text_copy(device, sizeof device, gpu);
	}
	snprintf(limit, sizeof limit, "%" PRIu64, data_limit);
	make_environment(environment, set, all_cores);

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		int err = -errno;
		snprintf(why, why_size, "no socketpair for an engine: %s (raise LimitNOFILE?)", err_str(err));
		return err;
	}
	int size = BUFFER_BYTES;     /* the kernel may give less; a chunk of rows in one write is only faster */
	for (int i = 0; i < 2; i++) {
		setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
		setsockopt(pair[i], SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	}
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	int err = prepare(&actions, &attributes, pair[1]);
	if (!err)
		err = -posix_spawn(pid, path, &actions, &attributes, arguments, environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	close(pair[1]);
	if (err) {
		snprintf(why, why_size, "%s cannot be started: %s (is Essaim installed whole?)", path, err_str(err));
		close(pair[0]);
		return err;
	}
	*fd = pair[0];
	return 0;
}
