/* What a model makes of a text without answering it: no ring, only this node's own engine.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/route/route.h"

struct route_text {
	void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *model, const char *why);
	void *arg;
	bool cancelled;
	char model[2 * NAME_SIZE];
};

static void on_done(void *arg, int err, const struct engine_rendered *rendered, const char *why)
{
	struct route_text *t = arg;
	if (!t->cancelled)
		t->done(t->arg, err, rendered, t->model, why);
	free(t);
}

static int find_only(struct route *route, struct route_model *out)
{
	struct route_model *models = calloc(ROUTE_MODELS_MAX, sizeof *models);
	size_t n = models ? route_models(route, models, ROUTE_MODELS_MAX) : 0;
	int err = !models ? -ENOMEM : n == 1 ? 0 : n ? ERR_AMBIGUOUS : ERR_UNKNOWN;
	if (!err)
		*out = models[0];
	free(models);
	return err;
}

int route_text(struct route *route, const char *name, const struct engine_render *render,
	       void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *model, const char *why), void *arg,
	       struct route_text **out)
{
	struct route_model model;
	char why[300];
	*out = NULL;
	int err = name ? route_find(route, name, &model, why, sizeof why) : find_only(route, &model);
	if (!err && model.state != ROUTE_READY)
		err = model.state == ROUTE_ARRIVING ? ERR_ARRIVING : ERR_UNREACHABLE;
	if (err)
		return err;
	struct route_text *t = calloc(1, sizeof *t);
	if (!t)
		return -ENOMEM;
	t->done = done;
	t->arg = arg;
	snprintf(t->model, sizeof t->model, model.association[0] ? "%s@%s" : "%s", model.name, model.association);
	err = route_engine_text(route, model.id, render, on_done, t);
	if (err)
		free(t);
	else
		*out = t;
	return err;
}

void route_text_cancel(struct route_text *t)
{
	t->cancelled = true;
}
