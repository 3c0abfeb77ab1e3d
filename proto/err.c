/* err.c: names and sentences for every error number.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "proto/err.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "proto/template.h"

struct entry {
	int err;
	const char *name;
	const char *text;
};

static const struct entry entries[] = {
	{ 0, "OK", N_("success") },

	{ ERR_LIMIT, "LIMIT", N_("past a documented limit") },
	{ ERR_MALFORMED, "MALFORMED", N_("malformed data") },
	{ ERR_SIGNATURE, "SIGNATURE", N_("signature or authentication tag does not verify") },
	{ ERR_EXPIRED, "EXPIRED", N_("expired, or issued in the future (is the clock right?)") },
	{ ERR_STALE, "STALE", N_("older than what is held already") },
	{ ERR_REPLAYED, "REPLAYED", N_("seen before and valid only once") },
	{ ERR_DENIED, "DENIED", N_("not allowed by roster, agreement, key or policy") },
	{ ERR_UNKNOWN, "UNKNOWN", N_("no such model, node, session or command") },
	{ ERR_AMBIGUOUS, "AMBIGUOUS", N_("several things have this name") },
	{ ERR_VERSION, "VERSION", N_("no protocol version in common (one side needs an upgrade)") },
	{ ERR_BUSY, "BUSY", N_("busy: queue, quota or budget is used up, try again later") },
	{ ERR_CANCELLED, "CANCELLED", N_("cancelled: the asker went away") },
	{ ERR_CRYPTO, "CRYPTO", N_("key or handshake is not usable") },
	{ ERR_MODEL, "MODEL", N_("model file cannot be used") },
	{ ERR_UNSUPPORTED, "UNSUPPORTED", N_("this version cannot do that") },
	{ ERR_NEED_REPLAY, "NEED_REPLAY", N_("a stage no longer has the earlier positions") },
	{ ERR_BUDGET, "BUDGET", N_("does not fit the memory or quota granted") },
	{ ERR_ENGINE, "ENGINE", N_("the engine process ended or answered nonsense") },
	{ ERR_ARRIVING, "ARRIVING", N_("the model's weights are still being fetched") },
	{ ERR_UNREACHABLE, "UNREACHABLE", N_("no stage, node or address could be reached") },
	{ ERR_CONTEXT, "CONTEXT", N_("the prompt is longer than the model's context") },
	{ ERR_CONFIG, "CONFIG", N_("configuration cannot be used") },
	{ ERR_USED, "USED", N_("the invitation was used before") },
	{ ERR_CHANGED, "CHANGED", N_("the file changed or vanished while it was in use") },
	{ ERR_CLOCK, "CLOCK", N_("the two clocks differ by more than five minutes") },

	/* The errno that people meet, in this project's case; the rest is the C library's text. */
	{ -EACCES, "EACCES", N_("permission denied") },
	{ -EADDRINUSE, "EADDRINUSE", N_("address already in use") },
	{ -EADDRNOTAVAIL, "EADDRNOTAVAIL", N_("address not available on this machine") },
	{ -EAGAIN, "EAGAIN", N_("not ready yet") },
	{ -EBADF, "EBADF", N_("bad file descriptor") },
	{ -EBUSY, "EBUSY", N_("device or resource busy") },
	{ -ECONNABORTED, "ECONNABORTED", N_("connection aborted") },
	{ -ECONNREFUSED, "ECONNREFUSED", N_("connection refused") },
	{ -ECONNRESET, "ECONNRESET", N_("connection reset by the other side") },
	{ -EDQUOT, "EDQUOT", N_("disk quota exceeded") },
	{ -EEXIST, "EEXIST", N_("file exists already") },
	{ -EFBIG, "EFBIG", N_("file too large") },
	{ -EHOSTUNREACH, "EHOSTUNREACH", N_("no route to the host") },
	{ -EINTR, "EINTR", N_("interrupted") },
	{ -EINVAL, "EINVAL", N_("invalid argument") },
	{ -EIO, "EIO", N_("input/output error") },
	{ -EISDIR, "EISDIR", N_("is a directory") },
	{ -EMFILE, "EMFILE", N_("too many open files in this process") },
	{ -ENAMETOOLONG, "ENAMETOOLONG", N_("file name too long") },
	{ -ENETUNREACH, "ENETUNREACH", N_("network is unreachable") },
	{ -ENFILE, "ENFILE", N_("too many open files on this machine") },
	{ -ENOENT, "ENOENT", N_("no such file or directory") },
	{ -ENOMEM, "ENOMEM", N_("out of memory") },
	{ -ENOSPC, "ENOSPC", N_("no space left on the disk") },
	{ -ENOTCONN, "ENOTCONN", N_("not connected") },
	{ -ENOTDIR, "ENOTDIR", N_("not a directory") },
	{ -ENOTEMPTY, "ENOTEMPTY", N_("directory not empty") },
	{ -EPERM, "EPERM", N_("operation not permitted") },
	{ -EPIPE, "EPIPE", N_("the other side closed the pipe") },
	{ -EROFS, "EROFS", N_("read-only file system") },
	{ -ETIMEDOUT, "ETIMEDOUT", N_("timed out") },

	/* libuv's own, which are no errno on Linux (uv/errno.h); proto does not link libuv. */
	{ -3000, "EAI_ADDRFAMILY", "the host has no address of this family" },
	{ -3001, "EAI_AGAIN", "name resolution failed for now" },
	{ -3002, "EAI_BADFLAGS", "bad flags for name resolution" },
	{ -3003, "EAI_CANCELED", "name resolution cancelled" },
	{ -3004, "EAI_FAIL", "name resolution failed for good" },
	{ -3005, "EAI_FAMILY", "address family not supported" },
	{ -3006, "EAI_MEMORY", "out of memory in name resolution" },
	{ -3007, "EAI_NODATA", "the host name has no address" },
	{ -3008, "EAI_NONAME", "unknown host name or service" },
	{ -3009, "EAI_OVERFLOW", "argument buffer overflow in name resolution" },
	{ -3010, "EAI_SERVICE", "service not available for this kind of socket" },
	{ -3011, "EAI_SOCKTYPE", "socket type not supported" },
	{ -3013, "EAI_BADHINTS", "bad hints for name resolution" },
	{ -3014, "EAI_PROTOCOL", "resolved protocol is unknown" },
	{ -4028, "EFTYPE", "inappropriate file type or format" },
	{ -4080, "ECHARSET", "invalid Unicode character" },
	{ -4094, "EUNKNOWN", "unknown system error" },
	{ -4095, "EOF", "end of file" },
};

static const struct entry *find(int err)
{
	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
		if (entries[i].err == err)
			return &entries[i];
	return NULL;
}

const char *err_str(int err)
{
	const struct entry *entry = find(err);
	if (entry)
		return entry->text;
	const char *text = err < 0 && err > -1000 ? strerrordesc_np(-err) : NULL;
	return text ? text : "unknown error";
}

const char *err_name(int err)
{
	const struct entry *entry = find(err);
	if (entry)
		return entry->name;
	const char *name = err < 0 && err > -1000 ? strerrorname_np(-err) : NULL;
	return name ? name : "ERROR";
}
