/* session.c: see session.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

int sessions_init(struct sessions *sessions, size_t n_shards, size_t per_shard)
{
	sessions->n = n_shards * per_shard;
	sessions->per_shard = per_shard;
	sessions->all = calloc(sessions->n ? sessions->n : 1, sizeof *sessions->all);
	return sessions->all ? 0 : -ENOMEM;
}

void sessions_release(struct sessions *sessions)
{
	for (size_t i = 0; i < sessions->n; i++)
		if (sessions->all[i].open)
			session_close(&sessions->all[i]);
	free(sessions->all);
	sessions->all = NULL;
	sessions->n = 0;
}

size_t sessions_open_count(const struct sessions *sessions)
{
	size_t n = 0;

	for (size_t i = 0; i < sessions->n; i++)
		n += sessions->all[i].open;
	return n;
}

struct session *sessions_find(struct sessions *sessions, const uint8_t id[SESSION_BYTES], uint32_t stage)
{
	for (size_t i = 0; i < sessions->n; i++) {
		struct session *s = &sessions->all[i];

		if (s->open && s->stage == stage && !memcmp(s->id, id, SESSION_BYTES))
			return s;
	}
	return NULL;
}

static int history_grow(struct history *history, uint32_t capacity)
{
	int32_t *more;

	if (capacity <= history->capacity)
		return 0;
	more = calloc(capacity, sizeof *more);
	if (!more)
		return -ENOMEM;
	if (history->capacity)
		memcpy(more, history->tokens, history->capacity * sizeof *more);
	for (uint32_t i = history->capacity; i < capacity; i++)
		more[i] = -1;
	if (history->tokens)              /* what was said is not left in freed memory */
		explicit_bzero(history->tokens, history->capacity * sizeof *history->tokens);
	free(history->tokens);
	history->tokens = more;
	history->capacity = capacity;
	return 0;
}

static struct history *history_share(struct sessions *sessions, const uint8_t id[SESSION_BYTES], uint32_t capacity)
{
	struct history *history = NULL;

	for (size_t i = 0; i < sessions->n && !history; i++)
		if (sessions->all[i].open && !memcmp(sessions->all[i].id, id, SESSION_BYTES))
			history = sessions->all[i].history;
	if (!history) {
		history = calloc(1, sizeof *history);
		if (!history)
			return NULL;
		memcpy(history->id, id, SESSION_BYTES);
	}
	if (history_grow(history, capacity)) {
		if (!history->users)
			free(history);
		return NULL;
	}
	history->users++;
	return history;
}

static int take_sampling(struct session *s, const struct engine_open *open)
{
	struct sampling sampling;
	void *memory;
	int err = sampling_copy(&sampling, &open->sampling, &memory);

	if (err)
		return err;
	free(s->sampling_memory);
	s->sampling = sampling;
	s->sampling_memory = memory;
	s->prompt = open->prompt;
	return 0;
}

int sessions_open(struct sessions *sessions, const struct engine_open *open, size_t shard, struct session **out, bool *fresh)
{
	struct session *s = sessions_find(sessions, open->session, open->stage);
	struct history *history;

	*out = NULL;
	*fresh = false;
	if (s && open->epoch < s->epoch)
		return ERR_STALE;
	if (s && open->epoch == s->epoch) {
		*out = s;
		return s->shard == shard && s->range.end == open->range.end ? 0 : ERR_MALFORMED;
	}
	if (s && s->shard == shard && s->range.end == open->range.end) {
		int err = history_grow(s->history, open->context + 1);

		if (!err)
			err = take_sampling(s, open);
		if (err)
			return err;
		s->epoch = open->epoch;
		s->next = 0;
		s->faulted = false;
		s->context = open->context;
		*out = s;
		return 0;
	}
	if (s)                   /* other layers now: what it held is of no use */
		session_close(s);
	s = NULL;
	for (size_t i = shard * sessions->per_shard; i < (shard + 1) * sessions->per_shard && !s; i++)
		if (!sessions->all[i].open)
			s = &sessions->all[i];
	if (!s)
		return ERR_BUSY;
	history = history_share(sessions, open->session, open->context + 1);
	if (!history)
		return -ENOMEM;
	memset(s, 0, sizeof *s);
	memcpy(s->id, open->session, SESSION_BYTES);
	s->open = true;
	s->stage = open->stage;
	s->epoch = open->epoch;
	s->shard = shard;
	s->range = open->range;
	s->sequence = (unsigned)((size_t)(s - sessions->all) % sessions->per_shard);
	s->context = open->context;
	s->history = history;
	if (take_sampling(s, open)) {
		session_close(s);
		return -ENOMEM;
	}
	*fresh = true;
	*out = s;
	return 0;
}

void session_close(struct session *s)
{
	if (!s->open)
		return;
	s->open = false;
	free(s->sampling_memory);
	s->sampling_memory = NULL;
	if (--s->history->users == 0) {
		explicit_bzero(s->history->tokens, s->history->capacity * sizeof *s->history->tokens);
		free(s->history->tokens);
		free(s->history);
	}
	s->history = NULL;
}

void session_fork(struct session *s, const struct session *from)
{
	struct history *to = s->history;

	if (to->end)                      /* another stage of it was there before */
		return;
	to->end = from->history->end < to->capacity ? from->history->end : to->capacity;
	if (to->end)
		memcpy(to->tokens, from->history->tokens, to->end * sizeof *to->tokens);
}

enum session_verdict session_take(struct session *s, const struct rows_block *b, int *err, char *why, size_t why_size)
{
	*err = 0;
	if (b->epoch < s->epoch) {
		*err = ERR_STALE;
		snprintf(why, why_size, "epoch %u is over; %u is open", b->epoch, s->epoch);
		return SESSION_FAULT;
	}
	if (b->epoch > s->epoch) {
		*err = ERR_UNKNOWN;
		snprintf(why, why_size, "epoch %u was not opened here; %u is", b->epoch, s->epoch);
		return SESSION_FAULT;
	}
	if (s->faulted || b->sequence < s->next)
		return SESSION_DROP;
	if (b->sequence > s->next) {
		*err = ERR_MALFORMED;
		snprintf(why, why_size, "block %" PRIu64 " came where %" PRIu64 " was due", b->sequence, s->next);
		s->faulted = true;
		return SESSION_FAULT;
	}
	if (b->position >= s->context || b->count > s->context - b->position) {
		*err = ERR_CONTEXT;
		snprintf(why, why_size, "positions %u to %" PRIu64 " do not fit the session's context of %u", b->position,
			 (uint64_t)b->position + b->count, s->context);
		s->faulted = true;
		return SESSION_FAULT;
	}
	s->next++;
	return SESSION_COMPUTE;
}

static void forget(struct history *h, uint32_t position)
{
	for (uint32_t i = position; i < h->end; i++)
		h->tokens[i] = -1;
	if (h->end > position)
		h->end = position;
}

static void note(struct history *h, uint32_t position, int32_t token)
{
	if (position >= h->capacity)
		return;
	h->tokens[position] = token;
	if (h->end <= position)
		h->end = position + 1;
}

void session_given(struct session *s, uint32_t position, const int32_t *tokens, uint32_t count)
{
	s->history->given = true;
	forget(s->history, position);
	for (uint32_t i = 0; i < count; i++)
		note(s->history, position + i, tokens[i]);
}

void session_reached(struct session *s, uint32_t end)
{
	if (!s->history->given)
		forget(s->history, end);
}

void session_sampled(struct session *s, uint32_t position, int32_t token)
{
	note(s->history, position, token);
}

size_t session_recent(const struct session *s, uint32_t position, int32_t *out, size_t max)
{
	uint32_t first = position > max ? position - (uint32_t)max : 0;
	size_t n = 0;

	for (uint32_t i = first; i < position && i < s->history->capacity; i++)
		if (s->history->tokens[i] >= 0)
			out[n++] = s->history->tokens[i];
	return n;
}

int session_answer(const struct session *s, uint32_t position, const int32_t **tokens, size_t *n, uint32_t *missing)
{
	*n = position > s->prompt ? position - s->prompt : 0;
	*tokens = s->history->tokens + (*n ? s->prompt : 0);
	for (size_t i = 0; i < *n; i++)
		if (s->prompt + i >= s->history->capacity || (*tokens)[i] < 0) {
			*missing = s->prompt + (uint32_t)i;
			return ERR_NEED_REPLAY;
		}
	return 0;
}
