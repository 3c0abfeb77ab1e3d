/* requests.c: what an engine is asked outside of sessions: text to tokens, and what a file is.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/stage/stage_internal.h"
#include "proto/log.h"
#include "proto/text.h"

/* --- rendering -------------------------------------------------------------------------------------- */

static int ask(struct stage *stage, const uint8_t model[KEY_BYTES], const struct engine_render *render, const struct render *how)
{
	struct resident *r = stage_find(stage, model);
	if (!r)
		return ERR_UNKNOWN;
	if (r->info.state != STAGE_READY || !r->engine)
		return ERR_ENGINE;
	if (r->n_renders == RENDERS_MAX)
		return ERR_BUSY;
	struct render *waiting = calloc(1, sizeof *waiting);
	if (!waiting)
		return -ENOMEM;
	struct engine_render m = *render;
	*waiting = *how;
	m.request = waiting->request = stage_next_request(stage);
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err = engine_render_encode(&frame, &m);
	if (err)
		buf_release(&frame);
	else
		err = engine_io_send(&r->engine->io, &frame, NULL, 0);
	if (err) {
		free(waiting);
		return err;
	}
	if (!r->renders && !owed_any(&r->owed))
		r->engine->progress_at = uv_now(stage->config.loop);
	waiting->next = r->renders;
	r->renders = waiting;
	r->n_renders++;
	return 0;
}

int stage_render(struct stage *stage, const uint8_t model[KEY_BYTES], const struct engine_render *render,
		 void (*done)(void *arg, int err, const int32_t *tokens, size_t n, const char *why), void *arg)
{
	return ask(stage, model, render, &(struct render){.done = done, .arg = arg});
}

int stage_text(struct stage *stage, const uint8_t model[KEY_BYTES], const struct engine_render *render,
	       void (*done)(void *arg, int err, const struct engine_rendered *rendered, const char *why), void *arg)
{
	return ask(stage, model, render, &(struct render){.done_text = done, .arg = arg});
}

static void fail(struct render *waiting, int err, const char *why)
{
	if (waiting->done)
		waiting->done(waiting->arg, err, NULL, 0, why);
	else
		waiting->done_text(waiting->arg, err, NULL, why);
	free(waiting);
}

static struct render *take_render(struct resident *r, uint32_t request)
{
	for (struct render **at = &r->renders; *at; at = &(*at)->next)
		if ((*at)->request == request) {
			struct render *found = *at;
			*at = found->next;
			r->n_renders--;
			return found;
		}
	return NULL;
}

int render_on_frame(struct resident *r, const struct frame *frame)
{
	struct engine_rendered m;
	int err = engine_rendered_decode(frame, &m);
	struct render *waiting = err ? NULL : take_render(r, m.request);
	if (!waiting)
		return err;
	if (waiting->done_text) {
		waiting->done_text(waiting->arg, 0, &m, "");
		free(waiting);
		return 0;
	}
	int32_t *tokens = malloc((m.n_tokens ? m.n_tokens : 1) * sizeof *tokens);
	if (tokens) {
		for (size_t i = 0; i < m.n_tokens; i++)
			tokens[i] = (int32_t)get_u32(m.tokens + 4 * i);
		waiting->done(waiting->arg, 0, tokens, m.n_tokens, "");
		sodium_memzero(tokens, m.n_tokens * sizeof *tokens);     /* what was said stays nowhere */
		free(waiting);
	} else {
		fail(waiting, -ENOMEM, "no memory for the prompt");
	}
	free(tokens);
	return 0;
}

bool render_on_fault(struct resident *r, const struct engine_fault *fault)
{
	struct render *waiting = take_render(r, fault->request);
	if (!waiting)
		return false;
	fail(waiting, fault->code < 0 ? fault->code : ERR_ENGINE, fault->detail);
	return true;
}

void render_fail_all(struct resident *r, int err, const char *why)
{
	struct render *all = r->renders;
	r->renders = NULL;
	r->n_renders = 0;
	while (all) {
		struct render *next = all->next;
		fail(all, err, why);
		all = next;
	}
}

/* --- inspecting ------------------------------------------------------------------------------------- */

struct inspection {
	uint32_t request, context;
	size_t n_fds;
	int fds[MODEL_FILES_MAX];
	char names[MODEL_FILES_MAX][256];
	void (*progress)(void *arg, unsigned permille);
	void (*done)(void *arg, int err, struct manifest_body *body, const char *why);
	void *arg;
};

int stage_inspect(struct stage *stage, int *fds, size_t n_fds, const char *const *names, uint32_t context,
		  void (*progress)(void *arg, unsigned permille), void (*done)(void *arg, int err, struct manifest_body *body, const char *why),
		  void *arg)
{
	struct engine *e = NULL;
	char why[400] = "";
	struct inspection *i = n_fds && n_fds <= MODEL_FILES_MAX && !stage->closing ? calloc(1, sizeof *i) : NULL;
	int err = i ? engine_new(stage, 0, NULL, &e, why, sizeof why) : !n_fds || n_fds > MODEL_FILES_MAX ? ERR_LIMIT : stage->closing ? ERR_CANCELLED : -ENOMEM;
	if (err) {
		if (why[0])
			log_error("%s", why);
		for (size_t k = 0; k < n_fds; k++)
			close(fds[k]);
		free(i);
		return err;
	}
	*i = (struct inspection){.context = context, .n_fds = n_fds, .progress = progress, .done = done, .arg = arg};
	memcpy(i->fds, fds, n_fds * sizeof *fds);
	for (size_t k = 0; k < n_fds; k++)
		text_copy(i->names[k], sizeof i->names[k], names[k]);
	e->inspection = i;
	return 0;
}

static void finish(struct engine *e, int err, struct manifest_body *body, const char *why)
{
	struct inspection *i = e->inspection;
	if (!i)
		return;
	e->inspection = NULL;
	for (size_t k = 0; k < i->n_fds; k++)
		close(i->fds[k]);
	engine_stop(e);
	i->done(i->arg, err, body, why);
	free(i);
}

void inspection_on_hello(struct engine *e)
{
	struct inspection *i = e->inspection;
	struct engine_inspect *m = calloc(1, sizeof *m);
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err = m ? 0 : -ENOMEM;
	if (!err) {
		m->request = i->request = stage_next_request(e->stage);
		m->n_files = (uint32_t)i->n_fds;
		m->context = i->context;
		memcpy(m->names, i->names, sizeof m->names);
		err = engine_inspect_encode(&frame, m);
	}
	if (!err) {
		err = engine_io_send(&e->io, &frame, i->fds, i->n_fds);
		i->n_fds = 0;            /* taken */
	}
	buf_release(&frame);
	free(m);
	if (err)
		finish(e, err, NULL, "the engine could not be asked about the file");
}

void inspection_on_frame(struct engine *e, const struct frame *frame)
{
	struct inspection *i = e->inspection;
	struct engine_progress progress;
	struct engine_inspected inspected;
	struct engine_fault fault;
	int err;
	switch (frame->type) {
	case FRAME_ENGINE_PROGRESS:
		if (!engine_progress_decode(frame, &progress) && i->progress)
			i->progress(i->arg, progress.permille);
		break;
	case FRAME_ENGINE_INSPECTED:
		err = engine_inspected_decode(frame, &inspected);
		if (err) {
			finish(e, ERR_ENGINE, NULL, "the engine's findings cannot be read");
			break;
		}
		if (e->inspection)
			finish(e, 0, &inspected.manifest, "");   /* its memory is done()'s now */
		break;
	case FRAME_ENGINE_FAULT:
		err = engine_fault_decode(frame, &fault);
		if (err)
			finish(e, ERR_ENGINE, NULL, "the engine's findings cannot be read");
		else
			finish(e, fault.code < 0 ? fault.code : ERR_ENGINE, NULL, fault.detail);
		break;
	default:
		if (frame->type < 128)
			finish(e, ERR_ENGINE, NULL, "the engine answered nonsense");
	}
}

void inspection_fail(struct engine *e, int err, const char *why)
{
	finish(e, err, NULL, why);
}
