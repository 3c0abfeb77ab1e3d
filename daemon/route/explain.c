/* Why a model cannot answer now, in words for whoever asked. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdio.h>

#include "daemon/route/route.h"
#include "proto/text.h"

uint32_t route_seconds_until(const struct route_model *m)
{
	return m->seconds_left == UINT64_MAX ? 10 : (uint32_t)(m->seconds_left > 3600 ? 3600 : m->seconds_left + 1);
}

static uint32_t explain_model(struct route *r, const char *name, int err, char *out, size_t size)
{
	struct route_model m;
	char why[300] = "", have[32], wanted[32], left[32];
	if (route_find(r, name, &m, why, sizeof why)) {
		snprintf(out, size, "%s", why);
		return 0;
	}
	if (m.state == ROUTE_ARRIVING && m.bytes_wanted) {
		snprintf(out, size, "%s is still arriving: %s of %s are here, %s left", m.name, text_bytes(m.bytes_have, have, sizeof have),
			 text_bytes(m.bytes_wanted, wanted, sizeof wanted),
			 m.seconds_left == UINT64_MAX ? "time unknown" : text_duration(m.seconds_left, left, sizeof left));
		return route_seconds_until(&m);
	}
	if (m.state != ROUTE_READY) {
		snprintf(out, size, m.state == ROUTE_ARRIVING ? "%s is still arriving: %s" : "%s cannot answer now: %s", m.name, m.why);
		return 10;
	}
	snprintf(out, size, "%s", err == ERR_BUSY ? "this node answers as many questions as it can: try again in a moment" : err_str(err));
	return err == ERR_BUSY ? ROUTE_RETRY_BUSY_S : 0;
}

uint32_t route_explain(struct route *r, const char *name, int err, char *out, size_t size)
{
	if (!*route_why(r))
		return explain_model(r, name, err, out, size);
	char here[400];
	struct route_model m;
	uint32_t seconds = explain_model(r, name, err, here, sizeof here);
	/* Where this node could answer there is nothing to say of it. */
	if (!route_find(r, name, &m, NULL, 0) && m.state == ROUTE_READY)
		snprintf(out, size, "%s", route_why(r));
	else
		snprintf(out, size, "%s. Here: %s", route_why(r), here);
	return seconds ? seconds : ROUTE_RETRY_BUSY_S;
}
