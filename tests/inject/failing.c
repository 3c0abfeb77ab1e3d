/* failing.c: a library for LD_PRELOAD that lets the n-th call fail. See tests/inject/test_failures.py
 *
 * $ESSAIM_FAIL is a file that is mapped by both sides, made by the test: a struct failing below. There are two sorts of call,
 * each with a counter of its own: memory (malloc, calloc, realloc, strdup) and I/O. The test writes which call shall fail, by
 * setting `fail_at` and then `seen` to zero; afterwards it reads how many there were. fail_at 0: none.
 *
 * Only calls made by the program itself and by the libraries of C that it stands on are counted; a libtorrent or a
 * libllama without memory ends the process, by its own design, and it is not what is looked for here.
 *
 * Thread: any. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MEMORY, IO, SORTS };

struct failing {
	struct {
		_Atomic uint64_t seen, fail_at, failed;
		uint64_t burst;          /* how many fail in a row; 0 is one */
		uint64_t error;          /* errno */
		char what[32];           /* the function that failed last */
		char object[32];         /* where it was called: the end of this file's name (empty: the program), and the offset in it */
		uint64_t from;
	} sort[SORTS];
};

static struct failing *shared;

/* Address ranges of code whose calls count. */
static struct range { uintptr_t from, to, base; const char *object; } ranges[32];
static size_t n_ranges;

static int look(struct dl_phdr_info *info, size_t size, void *arg)
{
	static const char *const names[] = { "libuv.", "libsqlite3.", "libmicrohttpd.", "libmsgpack", "libyyjson.", "libinih." };
	const char *slash = strrchr(info->dlpi_name, '/');
	bool ours = !info->dlpi_name[0];

	(void)size;
	(void)arg;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		ours = ours || strstr(info->dlpi_name, names[i]);
	for (int i = 0; ours && i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		if (p->p_type != PT_LOAD || !(p->p_flags & PF_X) || n_ranges == sizeof ranges / sizeof *ranges)
			continue;
		uintptr_t from = info->dlpi_addr + p->p_vaddr;
		ranges[n_ranges++] = (struct range){ from, from + p->p_memsz, info->dlpi_addr, slash ? slash + 1 : "" };
	}
	return 0;
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("ESSAIM_FAIL");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	void *at = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	dl_iterate_phdr(look, NULL);
	if (at != MAP_FAILED)
		shared = at;
}

static bool fails(int sort, const char *what, void *caller)
{
	uintptr_t from = (uintptr_t)caller;
	size_t i = 0;

	if (!shared || sort == SORTS)
		return false;
	while (i < n_ranges && (from < ranges[i].from || from >= ranges[i].to))
		i++;
	if (i == n_ranges)
		return false;
	uint64_t n = ++shared->sort[sort].seen, at = shared->sort[sort].fail_at, burst = shared->sort[sort].burst;
	if (!at || n < at || n >= at + (burst ? burst : 1))
		return false;
	strncpy(shared->sort[sort].what, what, sizeof shared->sort[sort].what - 1);
	strncpy(shared->sort[sort].object, ranges[i].object, sizeof shared->sort[sort].object - 1);
	shared->sort[sort].from = from - ranges[i].base;
	shared->sort[sort].failed++;
	errno = sort == MEMORY ? ENOMEM : (int)shared->sort[sort].error;
	return true;
}

#define SHOWN __attribute__((visibility("default")))
#define FAILING(sort, result, bad, name, parameters, ...)                        \
	SHOWN result name parameters                                             \
	{                                                                        \
		static result (*real) parameters;                                \
		if (!real)                                                       \
			real = (result (*) parameters)dlsym(RTLD_NEXT, #name);   \
		if (fails(sort, #name, __builtin_return_address(0)))             \
			return bad;                                              \
		return real(__VA_ARGS__);                                        \
	}

/* dlsym() may allocate before the real functions are known. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t n);

SHOWN void *malloc(size_t n)
{
	return fails(MEMORY, "malloc", __builtin_return_address(0)) ? NULL : __libc_malloc(n);
}

SHOWN void *calloc(size_t n, size_t size)
{
	return fails(MEMORY, "calloc", __builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

SHOWN void *realloc(void *old, size_t n)
{
	return fails(MEMORY, "realloc", __builtin_return_address(0)) ? NULL : __libc_realloc(old, n);
}

FAILING(MEMORY, char *, NULL, strdup, (const char *text), text)
FAILING(MEMORY, char *, NULL, strndup, (const char *text, size_t n), text, n)

/* Pipes and eventfds are how a loop wakes itself: they do not fail, and libuv ends the process if they do. */
static int sort_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode)) ? IO : SORTS;
}

FAILING(sort_of(fd), ssize_t, -1, read, (int fd, void *to, size_t n), fd, to, n)
FAILING(sort_of(fd), ssize_t, -1, write, (int fd, const void *from, size_t n), fd, from, n)
FAILING(IO, ssize_t, -1, readv, (int fd, const struct iovec *to, int n), fd, to, n)
FAILING(IO, ssize_t, -1, writev, (int fd, const struct iovec *from, int n), fd, from, n)
FAILING(IO, ssize_t, -1, pread, (int fd, void *to, size_t n, off_t at), fd, to, n, at)
FAILING(IO, ssize_t, -1, pread64, (int fd, void *to, size_t n, off64_t at), fd, to, n, at)
FAILING(IO, ssize_t, -1, pwrite, (int fd, const void *from, size_t n, off_t at), fd, from, n, at)
FAILING(IO, ssize_t, -1, pwrite64, (int fd, const void *from, size_t n, off64_t at), fd, from, n, at)
FAILING(IO, int, -1, fsync, (int fd), fd)
FAILING(IO, int, -1, fdatasync, (int fd), fd)
FAILING(IO, int, -1, ftruncate, (int fd, off_t n), fd, n)
FAILING(IO, int, -1, ftruncate64, (int fd, off64_t n), fd, n)
FAILING(IO, int, -1, rename, (const char *from, const char *to), from, to)
FAILING(IO, int, -1, mkdir, (const char *path, mode_t mode), path, mode)
FAILING(IO, int, -1, unlink, (const char *path), path)
FAILING(IO, int, -1, socket, (int domain, int type, int protocol), domain, type, protocol)
FAILING(IO, int, -1, socketpair, (int domain, int type, int protocol, int pair[2]), domain, type, protocol, pair)
FAILING(IO, int, -1, bind, (int fd, const struct sockaddr *to, socklen_t n), fd, to, n)
FAILING(IO, int, -1, listen, (int fd, int backlog), fd, backlog)
FAILING(IO, int, -1, connect, (int fd, const struct sockaddr *to, socklen_t n), fd, to, n)
FAILING(IO, int, -1, accept4, (int fd, struct sockaddr *from, socklen_t *n, int flags), fd, from, n, flags)
FAILING(IO, ssize_t, -1, sendmsg, (int fd, const struct msghdr *message, int flags), fd, message, flags)
FAILING(IO, ssize_t, -1, recvmsg, (int fd, struct msghdr *message, int flags), fd, message, flags)
FAILING(IO, ssize_t, -1, send, (int fd, const void *from, size_t n, int flags), fd, from, n, flags)
FAILING(IO, ssize_t, -1, recv, (int fd, void *to, size_t n, int flags), fd, to, n, flags)

FAILING(IO, int, -1, __open_2, (const char *path, int flags), path, flags)
FAILING(IO, int, -1, __open64_2, (const char *path, int flags), path, flags)
FAILING(IO, FILE *, NULL, fopen, (const char *path, const char *mode), path, mode)
FAILING(IO, size_t, 0, fwrite, (const void *from, size_t size, size_t n, FILE *file), from, size, n, file)
FAILING(IO, DIR *, NULL, opendir, (const char *path), path)

/* With O_CREAT or O_TMPFILE these take a mode. */
#define FAILING_OPEN(name)                                                                          \
	SHOWN int name(const char *path, int flags, ...)                                            \
	{                                                                                           \
		static int (*real)(const char *path, int flags, ...);                               \
		mode_t mode = 0;                                                                    \
		if (!real)                                                                          \
			real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);            \
		if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {                          \
			va_list more;                                                               \
			va_start(more, flags);                                                      \
			mode = va_arg(more, mode_t);                                                \
			va_end(more);                                                               \
		}                                                                                   \
		return fails(IO, #name, __builtin_return_address(0)) ? -1 : real(path, flags, mode);\
	}
FAILING_OPEN(open)
FAILING_OPEN(open64)
