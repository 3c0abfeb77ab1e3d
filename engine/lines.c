/* lines.c: see lines.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GATHER_US_MAX 3000     /* and no longer than an eighth of what the urgent rows take */
#define NEWS 0.25              /* what the latest batch counts in a moving average */
#define FORGET 0.998           /* an estimate that keeps a size from being tried fades, so that it is tried again: one part of a hundred or so */
#define UNEVEN_MOST 16         /* rows; a power of two */
#define KERNEL_ROWS 4          /* matrix kernels work by so many rows; sizes between two that were measured are multiples of it */

int lines_init(struct lines *lines, struct sessions *sessions, size_t n_shards, bool uneven)
{
	memset(lines, 0, sizeof *lines);
	lines->sessions = sessions;
	lines->n_shards = n_shards;
	lines->uneven = uneven;
	lines->all = calloc(sessions->n ? sessions->n : 1, sizeof *lines->all);
	lines->paces = calloc(n_shards ? n_shards : 1, sizeof *lines->paces);
	return lines->all && lines->paces ? 0 : -ENOMEM;
}

static struct line *line_of(const struct lines *lines, const struct session *session)
{
	return &lines->all[session - lines->sessions->all];
}

static void drop_first(struct lines *lines, struct line *line)
{
	struct waiting *w = line->first;

	line->first = w->next;
	if (!line->first)
		line->last = NULL;
	lines->bytes -= w->bytes;
	lines->blocks--;
	explicit_bzero(w, w->bytes);       /* what was said is not left in freed memory */
	free(w);
}

void lines_clear(struct lines *lines, const struct session *session)
{
	struct line *line = line_of(lines, session);

	while (line->first)
		drop_first(lines, line);
	memset(line, 0, sizeof *line);
}

void lines_release(struct lines *lines)
{
	for (size_t i = 0; lines->all && i < lines->sessions->n; i++)
		lines_clear(lines, &lines->sessions->all[i]);
	free(lines->all);
	free(lines->paces);
	memset(lines, 0, sizeof *lines);
}

int lines_push(struct lines *lines, const struct session *session, const struct rows_block *b, uint32_t n_embd, bool states, int64_t now)
{
	struct line *line = line_of(lines, session);
	size_t row_bytes = states || b->encoding == ENCODING_F32 ? n_embd * sizeof(float) : 0;
	size_t token_bytes = b->encoding == ENCODING_TOKEN ? b->count * sizeof(int32_t) : 0;
	struct waiting *w = calloc(1, sizeof *w + b->count * row_bytes + token_bytes);

	if (!w)
		return -ENOMEM;
	w->block = *b;
	w->block.rows = NULL;
	w->bytes = sizeof *w + b->count * row_bytes + token_bytes;
	w->rows = row_bytes ? (float *)(w + 1) : NULL;
	w->tokens = token_bytes ? (int32_t *)((uint8_t *)(w + 1) + b->count * row_bytes) : NULL;
	if (w->tokens)
		for (uint32_t i = 0; i < b->count; i++)
			w->tokens[i] = (int32_t)get_u32(b->rows + 4 * i);
	else
		memcpy(w->rows, b->rows, b->rows_length);
	if (line->last)
		line->last->next = w;
	else
		line->first = w;
	line->last = w;
	lines->bytes += w->bytes;
	lines->blocks++;
	if (line->answered_at) {           /* it may have waited in the socket while a batch was computed: shorter times count more */
		uint32_t turn = (uint32_t)(now - line->answered_at) + 1;

		line->turn_us = line->turn_us && turn > line->turn_us ? line->turn_us + (turn - line->turn_us) / 8 : turn;
		line->answered_at = 0;
	}
	return 0;
}

struct waiting *lines_first(const struct lines *lines, const struct session *session)
{
	return line_of(lines, session)->first;
}

void lines_pop(struct lines *lines, const struct session *session, bool urgent, int64_t now)
{
	struct line *line = line_of(lines, session);

	drop_first(lines, line);
	line->answered_at = urgent && !line->first ? now : 0;
}

/* --- who is next ------------------------------------------------------------------------------------ */

static uint32_t left(const struct waiting *w)
{
	return w->block.count - w->done;
}

static bool is_urgent(const struct waiting *w)
{
	return w && (left(w) == 1 || w->block.want > 1);
}

static uint32_t layers_of(const struct session *s)
{
	return s->range.end - s->range.first;
}

static void add(struct lines_batch *out, struct session *session, uint32_t rows)
{
	out->parts[out->n++] = (struct lines_part){ session, rows };
	out->n_rows += rows;
}

/* A row of each session from this one on, up to the last one with an urgent row before somebody has none or another exit. */
static size_t urgent_run(struct lines *lines, size_t from, struct lines_batch *out)
{
	struct session *all = lines->sessions->all;
	uint32_t joins = lines->paces[all[from].shard].joins;
	size_t end = from + 1;

	*out = (struct lines_batch){ .shard = all[from].shard, .layers = layers_of(&all[from]), .urgent = true };
	add(out, &all[from], left(lines->all[from].first));
	if (out->n_rows > 1)
		return end;
	for (size_t i = from + 1; i < lines->sessions->n && i - from < joins; i++) {
		const struct waiting *w = lines->all[i].first;

		if (!w || all[i].shard != out->shard || layers_of(&all[i]) != out->layers || w->block.want > 1 ||
		    (left(w) > 1 && joins < SHARD_ROWS_MAX))
			break;
		if (left(w) == 1)
			end = i + 1;
	}
	for (size_t i = from + 1; i < end; i++)
		add(out, &all[i], 1);
	return end;
}

static uint32_t part_limit(struct pace *pace, int64_t now)
{
	double most = pace->urgent_us * LINES_PROMPT_SHARE, guess = pace->part_us[0], more;
	uint32_t rows = LINES_PART_MIN;

	if (!pace->urgent_at || now - pace->urgent_at > LINES_URGENT_US)
		return SHARD_ROWS_MAX;
	if (most < pace->unfelt_us)
		most = pace->unfelt_us;
	for (unsigned i = 1; i < LINES_PARTS && guess > 0; i++) {
		more = pace->part_us[i] > 0 ? pace->part_us[i] : 2 * guess;
		if (more > most) {
			pace->part_us[i] *= FORGET;
			if (rows >= KERNEL_ROWS && guess < most)
				rows += (uint32_t)(rows * (most - guess) / (more - guess)) / KERNEL_ROWS * KERNEL_ROWS;
			break;
		}
		guess = more;
		rows = LINES_PART_MIN << i;
	}
	return rows;
}

static uint32_t uneven_limit(struct lines *lines)
{
	lines->uneven = 1 + (5 * (lines->uneven - 1) + 3) % UNEVEN_MOST;       /* each of them in turn (Hull and Dobell 1962) */
	return lines->uneven;
}

/* Blocks behind the first one go along where they go on from it and it wants nothing itself. */
static uint32_t part_rows(const struct lines *lines, size_t i, uint32_t limit)
{
	const struct waiting *w = lines->all[i].first;
	uint32_t rows = left(w);

	if (lines->paces[lines->sessions->all[i].shard].joins < SHARD_ROWS_MAX)
		return rows;
	for (; rows < limit && !w->block.want && w->next && w->next->block.want <= 1 &&
	       w->next->block.position == w->block.position + w->block.count; w = w->next)
		rows += w->next->block.count;
	return rows < limit ? rows : limit;
}

bool lines_next(struct lines *lines, int64_t now, struct lines_batch *out)
{
	size_t n = lines->sessions ? lines->sessions->n : 0;

	for (unsigned walk = 0; lines->blocks && walk < 2; walk++) {
		for (; lines->at < n; lines->at++)
			if (is_urgent(lines->all[lines->at].first)) {
				lines->at = urgent_run(lines, lines->at, out);
				return true;
			}
		lines->at = 0;
		for (size_t k = 1; k <= n; k++) {
			size_t i = (lines->turn + k) % n;
			struct session *session = &lines->sessions->all[i];

			if (!lines->all[i].first || is_urgent(lines->all[i].first))
				continue;
			lines->turn = i;
			*out = (struct lines_batch){ .shard = session->shard, .layers = layers_of(session) };
			add(out, session, part_rows(lines, i, lines->uneven ? uneven_limit(lines) : part_limit(&lines->paces[session->shard], now)));
			return true;
		}
	}
	return false;
}

void lines_again(struct lines *lines, const struct session *session)
{
	lines->at = (size_t)(session - lines->sessions->all);
}

/* --- what it took ----------------------------------------------------------------------------------- */

static void learn(double *average, double news)
{
	*average = *average > 0 ? *average + NEWS * (news - *average) : news;
}

void lines_took(struct lines *lines, const struct lines_batch *batch, int64_t began, int64_t ended)
{
	struct pace *pace = &lines->paces[batch->shard];
	double took = (double)(ended - began) + 1;
	unsigned i = 0;

	if (batch->urgent) {
		learn(&pace->urgent_us, took);
		pace->urgent_at = ended;
		return;
	}
	while (i + 1 < LINES_PARTS && (LINES_PART_MIN << i) < batch->n_rows)
		i++;
	learn(&pace->part_us[i], took * (LINES_PART_MIN << i) / batch->n_rows);
}

int64_t lines_gather(const struct lines *lines, int64_t now)
{
	int64_t until = 0;

	for (size_t i = 0; lines->sessions && i < lines->sessions->n; i++) {
		const struct line *line = &lines->all[i];
		int64_t most = (int64_t)lines->paces[lines->sessions->all[i].shard].urgent_us / 8, end;

		if (!line->answered_at || !line->turn_us)
			continue;
		if (most > GATHER_US_MAX)
			most = GATHER_US_MAX;
		end = line->answered_at + 4 * (int64_t)line->turn_us;
		if (end > line->answered_at + most)
			end = line->answered_at + most;
		if (line->turn_us <= most && end > now && end > until)
			until = end;
	}
	return until;
}
