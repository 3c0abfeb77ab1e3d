/* doctor.h: what is wrong with a node and what to do about it, as a list of findings for `essaim doctor`.
 *
 *   doctor.c           judgements: figures in, findings out. Pure (DESIGN D16)
 *   doctor_local.c     what one machine can see of itself: files and their rights, ports, disk, memory. Blocks; needs no daemon
 *   command_doctor.c   what the running daemon adds: peers' clocks and versions, records, whether others can reach us
 *
 * A finding that is not good carries a remedy that a person without the source can follow. Nothing is changed by looking.
 * Thread: loop, or that of `essaimd --doctor`. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef DAEMON_DOCTOR_H
#define DAEMON_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/config.h"
#include "daemon/mesh/reach.h"

#define DOCTOR_CHECKS_MAX 48               /* what comes after them is left out */
#define DOCTOR_CLOCK_WARNING_S 60
#define DOCTOR_CLOCK_BAD_S 300             /* nodes refuse each other from here on (mesh) */
#define DOCTOR_EXPIRY_S (14 * 86400)
#define DOCTOR_ASKED_MAX 3                 /* neighbours asked to dial us */

enum doctor_state { DOCTOR_GOOD, DOCTOR_SKIPPED, DOCTOR_WARNING, DOCTOR_BAD };

struct doctor_text {                       /* as it is, and as who says it in another language takes it (proto/template.h) */
	char text[700];
	const char *format;                /* static; NULL: no text */
	size_t n_values;
	char values[1000];                 /* one after the other, each with its NUL */
};
struct doctor_check {
	const char *name;                  /* one word, static */
	enum doctor_state state;
	struct doctor_text text, remedy;   /* remedy: none when good */
};
struct doctor_list {
	size_t n;
	bool full;                         /* something was left out */
	struct doctor_check checks[DOCTOR_CHECKS_MAX];
};

/* remedy: without values, or NULL. Formats are marked for translation where they stand; so are values that are words of ours. */
void doctor_add(struct doctor_list *list, const char *name, enum doctor_state state, const char *remedy, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
/* The remedy of what was added last, with values. */
void doctor_remedy(struct doctor_list *list, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool doctor_is_bad(const struct doctor_list *list);
/* {"ok": no check is bad, "checks": [{"check", "state", "text", "remedy"}]} with templates and values beside text and remedy
 * (doc/CONTROL.md), as one line; heap. */
char *doctor_json(const struct doctor_list *list);

/* --- judgements ------------------------------------------------------------------------------------ */

/* wanted: bytes of weights still to come. */
void doctor_disk(struct doctor_list *list, const char *home, uint64_t free_bytes, uint64_t wanted);
/* budget: what is shared, of which used is loaded already. */
void doctor_memory(struct doctor_list *list, uint64_t total, uint64_t available, uint64_t budget, uint64_t used);

struct doctor_clock {
	const char *name;
	int64_t off;                       /* seconds ahead of ours */
};
/* With most of the others in agreement the one that differs from them is wrong, be it ours or theirs. synchronized: 1, 0, or -1
 * where the system does not say; counts where there is nobody to compare with. */
void doctor_clocks(struct doctor_list *list, const struct doctor_clock *clocks, size_t n, int synchronized);

struct doctor_version {
	const char *name, *engine;         /* what its advert says */
};
void doctor_versions(struct doctor_list *list, const char *own, const struct doctor_version *peers, size_t n);

struct doctor_reached {                    /* one neighbour's answer, or why there is none */
	const char *name;
	int err;
	struct reach_answer answer;
};
/* observed: from where others see us come, or "". ports: ours, for the remedy. how: an error in words (dialled_how()). */
void doctor_reach(struct doctor_list *list, const struct doctor_reached *asked, size_t n, const char *observed, uint16_t link_port,
		  uint16_t torrent_port, const char *(*how)(int why));

struct doctor_gpu {
	bool wanted, any;                  /* [share] gpu is not no; it is auto */
	const char *node;                  /* /dev/dri/renderD128, or NULL: there is none */
	bool may_open;                     /* this user, that node */
};
/* What the machine has, whether or not an engine runs. */
void doctor_gpu(struct doctor_list *list, const struct doctor_gpu *gpu);

/* --- this machine ---------------------------------------------------------------------------------- */

/* Everything that needs no daemon. running: it does, so that its ports are taken rightly and need no look. wanted, used: as
 * above. */
void doctor_local(struct doctor_list *list, const char *home, bool running, uint64_t wanted, uint64_t used);
/* `essaimd --home DIR --doctor`: prints doctor_json(); an exit status. */
int doctor_run(const char *home);

#endif
