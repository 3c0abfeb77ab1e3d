/* sandbox.c: the seccomp filter. Everything that is not listed fails with EPERM, so that a library which tries something
 * optional goes on without it; opening files says EACCES, and clone3 ENOSYS, so that thread creation falls back to clone,
 * whose flags a filter can see. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/err.h"
#include "proto/sanitized.h"
#if SANITIZED
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef ARCH_REQ_XCOMP_PERM
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif

static const char *const allowed[] = {
	/* descriptors it holds: model files, the socketpair, standard error */
	"read", "readv", "pread64", "write", "writev", "lseek", "_llseek", "close", "recvmsg", "sendmsg", "recvfrom", "sendto", "poll", "ppoll",
	"fstat", "fstat64",
	/* memory; mmap and mprotect below */
	"brk", "munmap", "mremap", "madvise",
	/* threads and what they wait on */
	"futex", "futex_time64", "set_robust_list", "get_robust_list", "rseq", "set_tid_address", "sched_yield", "sched_getaffinity", "sched_setaffinity",
	"gettid", "getpid", "membarrier", "exit", "exit_group", "restart_syscall", "getcpu",
	/* signals: abort() and handlers; tgkill is limited to itself below */
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "rt_sigtimedwait",
	/* time, randomness, its own limits and use */
	"clock_gettime", "clock_gettime64", "clock_getres", "clock_nanosleep", "clock_nanosleep_time64", "nanosleep", "gettimeofday", "time",
	"getrandom", "getrusage", "getrlimit", "ugetrlimit", "sysinfo", "uname",
};

static const char *const no_files[] = {      /* EACCES: the library sees a file that it may not open */
	"open", "openat", "openat2", "creat", "access", "faccessat", "faccessat2", "stat", "stat64", "lstat", "lstat64", "newfstatat", "fstatat64", "statx",
	"readlink", "readlinkat",
};

static int add(scmp_filter_ctx filter, uint32_t action, const char *name)
{
	int number = seccomp_syscall_resolve_name(name);

	if (number == __NR_SCMP_ERROR)       /* not on this architecture */
		return 0;
	return seccomp_rule_add(filter, action, number, 0);
}

static struct scmp_arg_cmp equal(unsigned argument, uint64_t value)
{
	return (struct scmp_arg_cmp){ .arg = argument, .op = SCMP_CMP_EQ, .datum_a = value };
}

static struct scmp_arg_cmp lacks(unsigned argument, uint64_t bits)
{
	return (struct scmp_arg_cmp){ .arg = argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = bits, .datum_b = 0 };
}

/* Kernels know a graphics driver's calls by this letter in the request's number, whatever the card; all other devices' calls, the
 * terminal's too, have other letters. */
#define DRM_LETTER 'd'

static int add_device(scmp_filter_ctx filter)
{
	struct scmp_arg_cmp drm = { .arg = 1, .op = SCMP_CMP_MASKED_EQ, .datum_a = 0xff00, .datum_b = (uint64_t)DRM_LETTER << 8 };

	return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, drm);
}

/* Memory, but never to execute: all code there will be is loaded. A software device's driver compiles what it is to compute. */
static int add_memory(scmp_filter_ctx filter, bool code)
{
	uint64_t never = code ? 0 : PROT_EXEC;
	int err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, lacks(2, never));

	return err ? err : seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, lacks(2, never));
}

static int add_special(scmp_filter_ctx filter)
{
	/* threads only: sharing everything, so it is this process still */
	uint64_t thread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	int err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread));

	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	/* signals to itself: abort() */
	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, equal(0, (uint64_t)getpid()));
	/* thread names; nothing else of prctl */
	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, equal(0, PR_SET_NAME));
	/* glibc names anonymous mappings */
#ifdef PR_SET_VMA
	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, equal(0, PR_SET_VMA));
#endif
	/* reading its own limits, not setting them */
	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2, equal(0, 0), equal(2, 0));
	/* descriptor flags that stdio asks for */
	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, equal(1, F_GETFL));
	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, equal(1, F_GETFD));
#ifdef __x86_64__
	/* matrix units (AMX) are asked for by ggml's CPU back end */
	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(arch_prctl), 1, equal(0, ARCH_REQ_XCOMP_PERM));
#endif
	return err;
}

int sandbox_enter(enum sandbox_for use, char *why, size_t why_size)
{
	struct rlimit none = { 0, 0 };
	scmp_filter_ctx filter = NULL;
	int err = 0;

#if SANITIZED
	/* It reads /proc/self/maps now, so that a report behind the filter still says where: in which file, at which offset. */
	__sanitizer_sandbox_on_notify(&(__sanitizer_sandbox_arguments){ 0 });
#endif
	if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
		err = -errno;
		snprintf(why, why_size, "the sandbox cannot be built: %s", err_str(err));
		return err;
	}
	filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	if (!filter) {
		snprintf(why, why_size, "the sandbox cannot be built: no memory");
		return -ENOMEM;
	}
	for (size_t i = 0; i < sizeof allowed / sizeof allowed[0] && !err; i++)
		err = add(filter, SCMP_ACT_ALLOW, allowed[i]);
	for (size_t i = 0; i < sizeof no_files / sizeof no_files[0] && !err; i++)
		err = add(filter, SCMP_ACT_ERRNO(EACCES), no_files[i]);
	if (!err)
		err = add_special(filter);
	if (!err)
		err = add_memory(filter, use == SANDBOX_FOR_SOFTWARE);
	if (!err && use == SANDBOX_FOR_CARD)
		err = add_device(filter);
	if (!err && use == SANDBOX_FOR_SOFTWARE)      /* its memory is a memfd that it holds and lets grow; models' files are open to read only */
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ftruncate), 0);
	if (!err)        /* threads that libraries may have started already */
		err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!err)
		err = seccomp_load(filter);
	if (err)
		snprintf(why, why_size, "the kernel refuses the seccomp filter (%s); the engine needs a kernel with CONFIG_SECCOMP_FILTER",
			 err_str(err));
	seccomp_release(filter);
	return err;
}

/* --- proof ----------------------------------------------------------------------------------------- */

static int open_file(void)
{
	return open("/etc/passwd", O_RDONLY);
}

static int create_file(void)
{
	return open("/tmp/essaim-engine-was-here", O_WRONLY | O_CREAT, 0600);
}

static int make_socket(void)
{
	return socket(AF_INET, SOCK_STREAM, 0);
}

static int make_unix_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static int execute(void)
{
	char *const arguments[] = { "/bin/true", NULL };

	return execve("/bin/true", arguments, NULL);
}

static int start_process(void)
{
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

	if (pid == 0)
		_exit(0);
	return pid;
}

static int start_clone3(void)
{
	struct clone_args arguments = { .exit_signal = SIGCHLD };
	long pid = syscall(SYS_clone3, &arguments, sizeof arguments);

	if (pid == 0)
		_exit(0);
	return (int)pid;
}

static int kill_parent(void)
{
	return kill(getppid(), 0);
}

static int trace_self(void)
{
	return (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static int raise_limit(void)
{
	struct rlimit limit = { 1, 1 };

	return setrlimit(RLIMIT_CORE, &limit);
}

static int take_privileges(void)
{
	return setuid(0);
}

static int make_folder(void)
{
	return (int)syscall(SYS_mkdirat, AT_FDCWD, "/tmp/essaim-engine-was-here.d", 0700);
}

static int read_memory_of_others(void)
{
	return (int)syscall(SYS_process_vm_readv, getppid(), NULL, 0ul, NULL, 0ul, 0ul);
}

static int ring_of_io(void)
{
	return (int)syscall(SYS_io_uring_setup, 1, NULL);
}

static int terminal_input(void)
{
	return ioctl(2, TIOCSTI, "x");
}

static int other_device(void)
{
	return ioctl(2, _IO('K', 1));
}

static int new_code(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? -1 : 0;
}

static int code_from_data(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? 0 : mprotect(p, 4096, PROT_READ | PROT_EXEC);
}

static void *thread_runs(void *arg)
{
	*(int *)arg = 1;
	return NULL;
}

int sandbox_prove(enum sandbox_for use)
{
	static const struct { const char *what; int (*attempt)(void); int expected; } attempts[] = {
		{ "open a file", open_file, EACCES },
		{ "create a file", create_file, EACCES },
		{ "make an internet socket", make_socket, EPERM },
		{ "make a unix socket", make_unix_socket, EPERM },
		{ "execute a program", execute, EPERM },
		{ "start a process", start_process, EPERM },
		{ "start a process by clone3", start_clone3, ENOSYS },
		{ "signal the parent", kill_parent, EPERM },
		{ "be traced", trace_self, EPERM },
		{ "set a limit", raise_limit, EPERM },
		{ "change user", take_privileges, EPERM },
		{ "make a folder", make_folder, EPERM },
		{ "read another process", read_memory_of_others, EPERM },
		{ "map new code", new_code, EPERM },
		{ "turn data into code", code_from_data, EPERM },
		{ "set up io_uring", ring_of_io, EPERM },
		{ "type into the terminal", terminal_input, EPERM },
		{ "speak to a device that is no graphics card", other_device, EPERM },
	};
	int wrong = 0, ran = 0;
	pthread_t thread;

	for (size_t i = 0; i < sizeof attempts / sizeof attempts[0]; i++) {
		int result, denied, granted;

		errno = 0;
		result = attempts[i].attempt();
		denied = result < 0 && errno == attempts[i].expected;
		granted = use == SANDBOX_FOR_SOFTWARE && (attempts[i].attempt == new_code || attempts[i].attempt == code_from_data);
		wrong += denied == granted;
		printf("%s: %s (%s)\n", denied ? "denied" : granted ? "allowed, for the software device" : "ALLOWED", attempts[i].what,
		       result < 0 ? strerror(errno) : "it worked");
	}
	if (pthread_create(&thread, NULL, thread_runs, &ran) == 0)
		pthread_join(thread, NULL);
	printf("%s: start a thread\n", ran ? "allowed" : "DENIED");
	wrong += !ran;
	wrong += prctl(PR_SET_NAME, "essaim-engine", 0, 0, 0) != 0;
	fflush(stdout);
	return wrong;
}
