/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/portmap/portmap.h"

#include <stdlib.h>
#include <string.h>

struct portmap {
	struct portmap_config config;
	uv_work_t work;
	bool wanted, working, taking_back, closing;
	enum portmap_state state;
	struct portmap_answer answer;      /* of the last round; worker's while working */
	struct portmap_answer held;        /* what the router may have of ours; the same while it is taken back */
	struct portmap_answer shown;
	uint64_t at;                       /* monotonic ms of the next round */
	uint64_t ms;
	bool changed;
	void (*on_closed)(void *arg);
	void *on_closed_arg;
};

static void on_work(uv_work_t *work)
{
	struct portmap *p = work->data;
	if (p->taking_back)
		p->config.take_back(p->config.ports, &p->held);
	else
		p->config.ask(p->config.ports, &p->answer);
}

static void show(struct portmap *p, enum portmap_state state)
{
	p->changed |= state != p->state || strcmp(p->shown.host, p->answer.host) || p->shown.trouble != p->answer.trouble;
	p->state = state;
	p->shown = p->answer;
}

static void tell(struct portmap *p)
{
	if (p->changed)
		p->config.on_change(p->config.arg);
	p->changed = false;
}

static void on_work_done(uv_work_t *work, int status);

static bool holds(const struct portmap *p)
{
	bool any = false;
	for (size_t i = 0; i < PORTMAP_PORTS; i++)
		any |= p->held.given[i];
	return any;
}

/* Also after trouble with one port the other may be ours, and that of an earlier round still is. */
static void hold(struct portmap *p)
{
	bool before[PORTMAP_PORTS];
	memcpy(before, p->held.given, sizeof before);
	if (!*p->answer.by)
		return;
	p->held = p->answer;
	for (size_t i = 0; i < PORTMAP_PORTS; i++)
		p->held.given[i] |= before[i];
}

static bool start(struct portmap *p, bool taking_back)
{
	p->taking_back = taking_back;
	p->work.data = p;
	p->working = !uv_queue_work(p->config.loop, &p->work, on_work, on_work_done);
	return p->working;
}

static void closed(struct portmap *p)
{
	void (*on_closed)(void *) = p->on_closed;
	void *arg = p->on_closed_arg;
	free(p);
	if (on_closed)
		on_closed(arg);
}

static void on_work_done(uv_work_t *work, int status)
{
	struct portmap *p = work->data;
	(void)status;
	p->working = false;
	if (p->taking_back) {
		p->held = (struct portmap_answer){.by = ""};
	} else {
		hold(p);
		p->at = p->ms + (p->answer.trouble ? PORTMAP_AGAIN_MS : PORTMAP_RENEW_MS);
		if (p->wanted)
			show(p, p->answer.trouble ? PORTMAP_FAILED : PORTMAP_MAPPED);
	}
	if (p->closing && !(holds(p) && start(p, true)))
		closed(p);
	else if (!p->closing)
		tell(p);
}

int portmap_open(struct portmap **out, const struct portmap_config *config)
{
	struct portmap *p = calloc(1, sizeof *p);
	if (!p)
		return UV_ENOMEM;
	p->config = *config;
	p->answer.by = p->held.by = p->shown.by = "";
	*out = p;
	return 0;
}

void portmap_tick(struct portmap *p, bool wanted, uint64_t ms)
{
	p->ms = ms;
	if (wanted != p->wanted) {
		p->wanted = wanted;
		p->at = ms;
		p->changed = true;
		p->state = wanted ? PORTMAP_ASKING : PORTMAP_OFF;
		p->shown = (struct portmap_answer){.by = ""};
	}
	if (p->wanted && !p->working && ms >= p->at)
		start(p, false);
	else if (!p->wanted && !p->working && holds(p))
		start(p, true);
	tell(p);
}

enum portmap_state portmap_state(const struct portmap *p, struct portmap_answer *out)
{
	*out = p->shown;
	return p->state;
}

void portmap_close(struct portmap *p, void (*on_closed)(void *arg), void *arg)
{
	p->closing = true;
	p->on_closed = on_closed;
	p->on_closed_arg = arg;
	if (!p->working && !(holds(p) && start(p, true)))
		closed(p);
}
