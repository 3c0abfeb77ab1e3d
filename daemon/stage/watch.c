/* watch.c: what an engine owes, and how often it died.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/stage/watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct owed_session *find(const struct owed *owed, const uint8_t id[SESSION_BYTES])
{
	for (size_t i = 0; i < owed->n; i++)
		if (!memcmp(owed->sessions[i].id, id, SESSION_BYTES))
			return &owed->sessions[i];
	return NULL;
}

static struct owed_session *make(struct owed *owed, const uint8_t id[SESSION_BYTES])
{
	struct owed_session *s = find(owed, id);
	if (s)
		return s;
	if (owed->n == owed->capacity) {
		size_t capacity = owed->capacity ? owed->capacity * 2 : 8;
		struct owed_session *sessions = realloc(owed->sessions, capacity * sizeof *sessions);
		if (!sessions)
			return NULL;
		owed->sessions = sessions;
		owed->capacity = capacity;
	}
	s = &owed->sessions[owed->n++];
	*s = (struct owed_session){0};
	memcpy(s->id, id, SESSION_BYTES);
	return s;
}

static void close_stage(struct owed *owed, const struct close_message *close)
{
	struct owed_session *s = find(owed, close->session);
	if (!s || close->epoch < s->epoch)
		return;
	s->answers = 0;
	if (close->stage < 32)
		s->stages &= ~(UINT32_C(1) << close->stage);
	else
		s->stages = 0;
	if (!s->stages)
		*s = owed->sessions[--owed->n];
}

void owed_release(struct owed *owed)
{
	free(owed->sessions);
	*owed = (struct owed){0};
}

int owed_sent(struct owed *owed, const struct frame *frame)
{
	struct engine_open open;
	struct rows_message rows;
	struct close_message close;
	struct owed_session *s;
	int err = 0;
	switch (frame->type) {
	case FRAME_ENGINE_OPEN:
		err = engine_open_decode(frame, &open);
		s = err ? NULL : make(owed, open.session);
		if (!err && !s)
			err = -ENOMEM;
		if (s) {
			s->epoch = open.epoch;
			if (open.stage < 32)
				s->stages |= UINT32_C(1) << open.stage;
			s->answers++;
		}
		break;
	case FRAME_ROWS:
		err = rows_decode(frame, &rows);
		for (size_t i = 0; !err && i < rows.n_blocks; i++) {
			s = find(owed, rows.blocks[i].session);
			if (s)
				s->answers++;
		}
		break;
	case FRAME_CLOSE:
		err = close_decode(frame, &close);
		if (!err)
			close_stage(owed, &close);
		break;
	default:
		break;
	}
	return err;
}

static void answered(struct owed *owed, const uint8_t id[SESSION_BYTES])
{
	struct owed_session *s = find(owed, id);
	if (s && s->answers)
		s->answers--;
}

int owed_got(struct owed *owed, const struct frame *frame)
{
	struct rows_message rows;
	struct tokens_message tokens;
	struct ready_message ready;
	struct fault_message fault;
	int err = 0;
	switch (frame->type) {
	case FRAME_ROWS:
		err = rows_decode(frame, &rows);
		for (size_t i = 0; !err && i < rows.n_blocks; i++)
			answered(owed, rows.blocks[i].session);
		break;
	case FRAME_TOKENS:
		err = tokens_decode(frame, &tokens);
		if (!err)
			answered(owed, tokens.session);
		break;
	case FRAME_READY:
		err = ready_decode(frame, &ready);
		if (!err)
			answered(owed, ready.session);
		break;
	case FRAME_FAULT:
		err = fault_decode(frame, &fault);
		if (err)
			break;
		struct owed_session *s = find(owed, fault.session);
		if (s && fault.code == ERR_NEED_REPLAY)
			answered(owed, fault.session);
		else if (s)
			s->answers = 0;
		break;
	default:
		break;
	}
	return err;
}

bool owed_any(const struct owed *owed)
{
	for (size_t i = 0; i < owed->n; i++)
		if (owed->sessions[i].answers)
			return true;
	return false;
}

/* --- crashes ---------------------------------------------------------------------------------------- */

bool crashes_add(struct crashes *crashes, uint64_t now_s)
{
	size_t recent = 0;
	crashes->at[crashes->n % CRASHES_MAX] = now_s + 1;
	crashes->n++;
	for (size_t i = 0; i < CRASHES_MAX; i++)
		recent += crashes->at[i] && now_s + 1 - crashes->at[i] < CRASHES_WINDOW_S;
	return recent >= CRASHES_MAX;
}

void crashes_clear(struct crashes *crashes)
{
	*crashes = (struct crashes){0};
}
