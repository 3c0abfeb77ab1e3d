/* loop.c: the few functions of libuv that the rooms call, on the simulated clock. A worker takes a moment, as a disk does; when its
 * node dies before that, the work was never done.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdlib.h>

#include "tests/sim/sim.h"

struct loop {                                  /* a work that waits */
	struct loop *next;
	uv_work_t *request;
	uv_work_cb work;
	uv_after_work_cb after;
};

static struct boot *boot_of(const uv_loop_t *loop)
{
	return (struct boot *)((char *)(uintptr_t)loop - offsetof(struct boot, loop));
}

void loop_init(struct boot *boot)
{
	boot->works = NULL;
	boot->daemon.loop = &boot->loop;
}

uint64_t uv_now(const uv_loop_t *loop)
{
	(void)loop;
	return sim.ms + 1;                     /* 0 means never in some rooms */
}

/* --- timers: an event carries the number of the start that made it, so that a stopped one comes to nothing --- */

static void on_timer(void *arg, uint64_t number)
{
	uv_timer_t *timer = arg;
	if (timer->start_id != number || !timer->timer_cb)
		return;
	if (timer->repeat)
		sim_after(timer->repeat, boot_of(timer->loop)->node, on_timer, timer, number);
	timer->timer_cb(timer);
}

int uv_timer_init(uv_loop_t *loop, uv_timer_t *timer)
{
	timer->loop = loop;
	timer->timer_cb = NULL;
	timer->start_id = 0;
	return 0;
}

int uv_timer_start(uv_timer_t *timer, uv_timer_cb cb, uint64_t timeout, uint64_t repeat)
{
	timer->timer_cb = cb;
	timer->repeat = repeat;
	timer->start_id++;
	/* Nodes do not tick in step. */
	sim_after(timeout + (repeat ? sim_below(repeat) : 0), boot_of(timer->loop)->node, on_timer, timer, timer->start_id);
	return 0;
}

int uv_timer_stop(uv_timer_t *timer)
{
	timer->timer_cb = NULL;
	timer->start_id++;
	return 0;
}

/* --- idle handles: u.fd says that an event is under way -------------------------------------------- */

static void on_idle(void *arg, uint64_t number);

static void idle_soon(uv_idle_t *idle)
{
	if (idle->u.fd)
		return;
	idle->u.fd = 1;
	sim_after(0, boot_of(idle->loop)->node, on_idle, idle, 0);
}

static void on_idle(void *arg, uint64_t number)
{
	uv_idle_t *idle = arg;
	(void)number;
	idle->u.fd = 0;
	if (idle->idle_cb)
		idle->idle_cb(idle);
	if (idle->idle_cb)
		idle_soon(idle);
}

int uv_idle_init(uv_loop_t *loop, uv_idle_t *idle)
{
	idle->loop = loop;
	idle->idle_cb = NULL;
	idle->u.fd = 0;
	return 0;
}

int uv_idle_start(uv_idle_t *idle, uv_idle_cb cb)
{
	idle->idle_cb = cb;
	idle_soon(idle);
	return 0;
}

int uv_idle_stop(uv_idle_t *idle)
{
	idle->idle_cb = NULL;
	return 0;
}

/* Handles are closed when their node stops, and its events with it: there is nothing to wait for. */
void uv_close(uv_handle_t *handle, uv_close_cb cb)
{
	if (cb)
		cb(handle);
}

/* --- workers ----------------------------------------------------------------------------------------- */

static void on_worked(void *arg, uint64_t number)
{
	struct loop *w = arg;
	struct boot *boot = boot_of(w->request->loop);
	struct loop **at = &boot->works;
	(void)number;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	w->work(w->request);
	w->after(w->request, 0);
	free(w);
}

int uv_queue_work(uv_loop_t *loop, uv_work_t *request, uv_work_cb work, uv_after_work_cb after)
{
	struct boot *boot = boot_of(loop);
	struct loop *w = calloc(1, sizeof *w);
	if (!w)
		return UV_ENOMEM;
	*w = (struct loop){.next = boot->works, .request = request, .work = work, .after = after};
	request->loop = loop;
	boot->works = w;
	sim_after(1 + sim_below(20), boot->node, on_worked, w, 0);
	return 0;
}

void loop_drain(struct boot *boot)
{
	while (boot->works) {
		struct loop *w = boot->works;
		boot->works = w->next;
		if (!boot->node->dying)
			w->work(w->request);
		w->after(w->request, boot->node->dying ? UV_ECANCELED : 0);
		free(w);
	}
}

void uv_loadavg(double average[3])
{
	average[0] = average[1] = average[2] = 0;
}
