/* quota.h: what one association may still use of another's nodes today (DESIGN D9). Pure.
 *
 * Quotas bind a pair of associations for one UTC day. A row is one position computed at one stage; prompt and answer
 * count alike. Thread: any. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef LEDGER_QUOTA_H
#define LEDGER_QUOTA_H

#include "daemon/ledger/ledger.h"

#define QUOTA_UNLIMITED ((uint64_t)INT64_MAX)    /* and above; an agreement cannot say more */

struct quota_limits {
	uint64_t tokens_per_day;                 /* rows; 0: none at all */
	uint64_t stage_seconds_per_day;
};
struct quota_left {
	uint64_t rows, stage_microseconds;       /* UINT64_MAX: without end */
};

struct quota_left quota_left(const struct quota_limits *limits, const struct ledger_sum *today);
/* 0 while something of both is left, else ERR_BUSY: again tomorrow. */
int quota_check(const struct quota_limits *limits, const struct ledger_sum *today);
/* May a session of `context` positions open so that the quota cannot be exceeded, whatever it does? `reserved` are the rows
 * that the pair's open sessions may still use: the sum of their contexts, less what today's sum has of them.
 * ERR_BUSY: nothing is left today; ERR_BUDGET: a shorter context would fit, quota_left() says which. */
int quota_may_open(const struct quota_limits *limits, const struct ledger_sum *today, uint64_t reserved, uint32_t context);
/* Seconds until the next UTC day. */
uint64_t quota_resets_in(uint64_t now);

#endif
