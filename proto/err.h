/* err.h: one space of error numbers for the three programs.
 *
 * 0 is success. Negative errno values and libuv's UV_E* (which are the same numbers on Linux) travel as
 * they are; Essaim's own start at -1001. A function that fails returns one of these and has changed
 * nothing, unless its header says otherwise. Thread: any.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_ERR_H
#define PROTO_ERR_H

enum err {
	ERR_LIMIT = -1001,       /* past a documented limit */
	ERR_MALFORMED = -1002,   /* bytes that no honest peer would send */
	ERR_SIGNATURE = -1003,   /* signature or authentication tag does not verify */
	ERR_EXPIRED = -1004,     /* past its expiry, or issued in the future */
	ERR_STALE = -1005,       /* an older sequence number or epoch than the one held */
	ERR_REPLAYED = -1006,    /* seen before and valid once only */
	ERR_DENIED = -1007,      /* not allowed by roster, agreement, key or policy */
	ERR_UNKNOWN = -1008,     /* no such model, node, session, command */
	ERR_AMBIGUOUS = -1009,   /* a name that several things answer to */
	ERR_VERSION = -1010,     /* no protocol version in common */
	ERR_BUSY = -1011,        /* try again later: queue, quota or budget is used up */
	ERR_CANCELLED = -1012,   /* the asker went away */
	ERR_CRYPTO = -1013,      /* a key or a handshake is not usable */
	ERR_MODEL = -1014,       /* a model file that cannot be used */
	ERR_UNSUPPORTED = -1015, /* honest input that this build cannot do */
	ERR_NEED_REPLAY = -1016, /* a stage no longer has the positions before this one */
	ERR_BUDGET = -1017,      /* does not fit the memory or quota that was granted */
	ERR_ENGINE = -1018,      /* the engine process ended or answered nonsense */
	ERR_ARRIVING = -1019,    /* the model's weights are still being fetched */
	ERR_UNREACHABLE = -1020, /* no stage, node or address could be reached */
	ERR_CONTEXT = -1021,     /* the prompt is longer than the model's context */
	ERR_CONFIG = -1022,      /* a configuration that cannot be used */
	ERR_USED = -1023,        /* an invitation that was consumed */
	ERR_CHANGED = -1024,     /* a file changed or vanished while it was in use */
	ERR_CLOCK = -1025,       /* the clocks of two nodes differ by more than they may */
};

/* A short lower-case sentence without a full stop, for any number above, errno or UV_E*; never NULL. */
const char *err_str(int err);

/* A stable upper-case word ("DENIED", "ENOENT", ...) for JSON, metrics and exit codes; never NULL. */
const char *err_name(int err);

#endif
