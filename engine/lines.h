/* lines.h: the blocks that wait, a line for each session, and whose rows are computed next. This is what makes batching continuous:
 * after every batch everybody's line is looked at anew.
 *
 * Urgent: a single row (somebody watches the next word appear), or several that are all wanted (a draft being verified). The rest is
 * prompts. In turn: one row of everybody who has an urgent one, then some rows of one prompt, the prompts taking turns. So a prompt
 * never stops those who are answered, and they never stop it.
 *
 * How many rows of a prompt: while somebody is being answered only so many that this takes no longer than PROMPT_SHARE of what the
 * urgent rows take, by what earlier batches took, or than what nobody feels; LINES_PART_MIN at least. Otherwise as many as a batch
 * has. Blocks are cut and joined for that, where shard_joins() found that a row's bits do not depend on how many come with it (DESIGN
 * D2); elsewhere each is computed whole.
 *
 * Urgent rows of sequences that follow each other are one batch. A prompt that stands between two of them gives its first row, so
 * that they are not two.
 *
 * Pure: no libllama, no clock (microseconds come in). Owner: server. Thread: one. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_LINES_H
#define ENGINE_LINES_H

#include "engine/session.h"
#include "engine/shard.h"

#define LINES_BYTES_MAX (32u << 20)       /* when more waits, the server reads no more frames for a while */
#define LINES_PART_MIN 1u
#define LINES_PARTS 7                     /* 1, 2, 4, 8, 16, 32 and 64 rows are measured */
#define LINES_PROMPT_SHARE 1.5
#define LINES_UNFELT_US 20000.0           /* nobody reads so fast that so much more between two words is felt; of all layers together */
#define LINES_URGENT_US 1000000           /* so long after an urgent row prompts still make room */

struct waiting {
	struct waiting *next;
	struct rows_block block;          /* block.rows is not used */
	int32_t *tokens;                  /* what came: ids, or NULL: */
	float *rows;                      /* (count, n_embd): what came, and what the shard makes of it; NULL: ids came and tokens go */
	uint32_t done;                    /* rows computed */
	uint64_t microseconds;            /* its share of the batches it was in */
	size_t bytes;
};

struct line {
	struct waiting *first, *last;
	int64_t answered_at;              /* 0: nothing is expected */
	uint32_t turn_us;                 /* usual time from an answer to the next block; 0: not known */
};

struct pace {                             /* of one shard; microseconds, moving averages, 0: not known */
	uint32_t joins;                   /* shard_joins() */
	double unfelt_us;                 /* this shard's part of LINES_UNFELT_US */
	double urgent_us, part_us[LINES_PARTS];
	int64_t urgent_at;
};

struct lines {
	struct sessions *sessions;
	struct line *all;                 /* heap; one for each of sessions->all */
	struct pace *paces;               /* heap; one a shard */
	size_t n_shards, bytes, blocks;
	size_t at;                        /* urgent rows: where the walk through all sessions stands */
	size_t turn;                      /* the prompt that was served last */
	uint32_t uneven;                  /* rows of the last part, where parts are to have all sizes; 0: they follow what they take */
};

struct lines_part {
	struct session *session;
	uint32_t rows;                    /* of what waits in its line, from the first on */
};
struct lines_batch {                      /* of one shard and one exit; sequences follow each other, and all have as many rows */
	size_t shard;
	uint32_t layers;
	bool urgent;
	uint32_t n_rows;                  /* of all parts */
	size_t n;
	struct lines_part parts[SHARD_ROWS_MAX];
};

/* uneven: parts of prompts have changing sizes, whatever they take, as they come about beside answers. For tests. */
int lines_init(struct lines *lines, struct sessions *sessions, size_t n_shards, bool uneven);
void lines_release(struct lines *lines);

/* A copy of the block, for a session that may compute it. states: keep room for (count, n_embd) that leave. -ENOMEM. */
int lines_push(struct lines *lines, const struct session *session, const struct rows_block *block, uint32_t n_embd, bool states, int64_t now);
struct waiting *lines_first(const struct lines *lines, const struct session *session);
/* Its first block was answered. urgent: the next one is expected soon. */
void lines_pop(struct lines *lines, const struct session *session, bool urgent, int64_t now);
void lines_clear(struct lines *lines, const struct session *session);     /* everything of a session, also what is expected */

/* False: nothing waits. */
bool lines_next(struct lines *lines, int64_t now, struct lines_batch *out);
/* The batch ended before this part: it is served next. */
void lines_again(struct lines *lines, const struct session *session);
void lines_took(struct lines *lines, const struct lines_batch *batch, int64_t began, int64_t ended);
/* Until when it pays to wait for those who were just answered, so that they go together; 0: it does not. */
int64_t lines_gather(const struct lines *lines, int64_t now);

#endif
