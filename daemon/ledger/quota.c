/* quota.c: sums against limits.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/ledger/quota.h"

#include "proto/err.h"

#define DAY_S 86400
#define SECOND_US 1000000

static uint64_t less(uint64_t limit, uint64_t used)
{
	if (limit >= QUOTA_UNLIMITED)
		return UINT64_MAX;
	return used < limit ? limit - used : 0;
}

struct quota_left quota_left(const struct quota_limits *limits, const struct ledger_sum *today)
{
	uint64_t seconds = limits->stage_seconds_per_day;
	uint64_t microseconds = seconds > QUOTA_UNLIMITED / SECOND_US ? QUOTA_UNLIMITED : seconds * SECOND_US;

	return (struct quota_left){ .rows = less(limits->tokens_per_day, today->rows),
				    .stage_microseconds = less(microseconds, today->stage_microseconds) };
}

int quota_check(const struct quota_limits *limits, const struct ledger_sum *today)
{
	struct quota_left left = quota_left(limits, today);

	return left.rows && left.stage_microseconds ? 0 : ERR_BUSY;
}

int quota_may_open(const struct quota_limits *limits, const struct ledger_sum *today, uint64_t reserved, uint32_t context)
{
	struct quota_left left = quota_left(limits, today);

	if (!left.rows || !left.stage_microseconds)
		return ERR_BUSY;
	if (left.rows == UINT64_MAX)
		return 0;
	if (reserved >= left.rows)
		return ERR_BUSY;
	return context <= left.rows - reserved ? 0 : ERR_BUDGET;
}

uint64_t quota_resets_in(uint64_t now)
{
	return DAY_S - now % DAY_S;
}
