/* check.c: see check.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/check.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/server.h"
#include "engine/wire.h"
#include "proto/err.h"
#include "proto/message.h"
#include "proto/text.h"

#define EXACT 1e-5
static const char own_prompt[] =
	"Once upon a time there was a small village between two hills. The people who lived there kept bees, and every spring they "
	"waited for the first warm day, when the hives woke up and the swarms began to fly. One morning a child saw that";

/* What `every` does: prompts of these lengths, each in two sessions, and tokens after each. */
static const unsigned every_prompts[] = { 1, 7, 64 };
#define EVERY_TOKENS 16
#define TALKS 2

struct node {
	pid_t pid;
	struct wire wire;
	float *logits;             /* shared with the process: (MODEL_VOCAB_MAX) */
	enum truncate truncate;    /* what it declared */
};
/* One session: prompt and what the whole model said. */
struct talk {
	uint8_t id[SESSION_BYTES];
	int32_t *text;
	size_t n_prompt;
	float *wanted;             /* (tokens, n_vocab): the whole model's logits */
	uint64_t sequence;         /* of the next block */
	uint32_t position;         /* of its first row */
	unsigned said;             /* tokens so far */
	int32_t token;             /* the last of them */
};
struct check {
	const struct check_options *options;
	struct node nodes[CHECK_STAGES_MAX + 1];       /* 0: the whole model; then the shards */
	size_t n_nodes;
	struct manifest_body manifest;
	uint32_t cuts[CHECK_STAGES_MAX + 1];
	unsigned stages, tokens;
	size_t context;
	struct talk talks[TALKS * sizeof every_prompts / sizeof every_prompts[0]];
	uint32_t epoch, needed;    /* ERR_NEED_REPLAY: from here */
	unsigned replays;          /* so often */
	unsigned splits, compared; /* tokens */
	struct buf out;
	char why[500];

	bool exact, bit_identical, same;        /* same: the tokens */
	struct engine_device device;            /* of the shards */
	uint32_t device_layers;
	double largest_difference, largest_logit;
	double seconds[2], ratio;
};

/* A line on a terminal's standard error that is written over; elsewhere nothing. */
static void progress(const struct check *c, const char *what, unsigned done, unsigned of)
{
	if (c->options->json || !isatty(STDERR_FILENO))
		return;
	if (!what)
		fputs("\r\033[K", stderr);
	else if (of)
		fprintf(stderr, "\r\033[K%s: %u of %u", what, done, of);
	else
		fprintf(stderr, "\r\033[K%s", what);
	fflush(stderr);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- processes ------------------------------------------------------------------------------------- */

static int start_node(struct check *c, struct node *node)
{
	size_t bytes = (size_t)MODEL_VOCAB_MAX * sizeof(float);
	int pair[2];

	node->logits = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (node->logits == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	fflush(NULL);
	node->pid = fork();
	if (node->pid < 0)
		return -errno;
	if (node->pid == 0) {
		struct server_config config = { .fd = pair[1], .logits = node->logits, .n_logits = MODEL_VOCAB_MAX,
						.uneven = c->n_nodes && c->options->every,
						.gpu = c->n_nodes ? c->options->gpu : NULL };

		/* the others' ends too, or an engine would not see that we are gone */
		for (size_t i = 0; i < c->n_nodes; i++)
			close(c->nodes[i].wire.fd);
		close(pair[0]);
		_exit(engine_serve(&config) ? 1 : 0);
	}
	close(pair[1]);
	wire_init(&node->wire, pair[0]);
	c->n_nodes++;
	return 0;
}

/* Ends the processes from the first on. */
static void stop_nodes(struct check *c, size_t first)
{
	for (size_t i = first; i < c->n_nodes; i++)
		wire_release(&c->nodes[i].wire);
	for (size_t i = first; i < c->n_nodes; i++) {
		waitpid(c->nodes[i].pid, NULL, 0);
		munmap(c->nodes[i].logits, (size_t)MODEL_VOCAB_MAX * sizeof(float));
	}
	if (c->n_nodes > first)
		c->n_nodes = first;
}

/* The next frame that is not about progress; faults become errors. */
static int answer(struct check *c, struct node *node, enum frame_type type, struct frame *frame)
{
	int err;

	do
		err = wire_next(&node->wire, frame);
	while (!err && frame->type == FRAME_ENGINE_PROGRESS);
	if (err) {
		snprintf(c->why, sizeof c->why, "an engine process ended (%s)", err_str(err));
		return ERR_ENGINE;
	}
	if (frame->type == type)
		return 0;
	if (frame->type == FRAME_ENGINE_FAULT) {
		struct engine_fault fault;

		err = engine_fault_decode(frame, &fault);
		text_copy(c->why, sizeof c->why, fault.detail);
		return err ? err : fault.code;
	}
	if (frame->type == FRAME_FAULT) {
		struct fault_message fault;

		err = fault_decode(frame, &fault);
		text_copy(c->why, sizeof c->why, fault.detail);
		c->needed = fault.position;
		return err ? err : fault.code;
	}
	snprintf(c->why, sizeof c->why, "an engine process answered something else");
	return ERR_ENGINE;
}

static int open_files(struct check *c, int *fds)
{
	for (size_t i = 0; i < c->options->n_paths; i++) {
		fds[i] = open(c->options->paths[i], O_RDONLY | O_CLOEXEC);
		if (fds[i] < 0) {
			int err = -errno;

			snprintf(c->why, sizeof c->why, "%s: %s", c->options->paths[i], err_str(err));
			while (i--)
				close(fds[i]);
			return err;
		}
	}
	return 0;
}

static int send_with_files(struct check *c, struct node *node)
{
	int fds[MODEL_FILES_MAX];
	int err = open_files(c, fds);

	if (err)
		return err;
	err = wire_send(&node->wire, &c->out, fds, c->options->n_paths);
	for (size_t i = 0; i < c->options->n_paths; i++)
		close(fds[i]);
	return err;
}

static int inspect(struct check *c)
{
	struct engine_inspect *m = calloc(1, sizeof *m);
	struct engine_inspected inspected;
	struct frame frame;
	int err;

	if (!m)
		return -ENOMEM;
	m->request = 1;
	m->n_files = (uint32_t)c->options->n_paths;
	for (size_t i = 0; i < c->options->n_paths; i++) {
		const char *slash = strrchr(c->options->paths[i], '/');

		text_copy(m->names[i], sizeof m->names[i], slash ? slash + 1 : c->options->paths[i]);
	}
	err = engine_inspect_encode(&c->out, m);
	free(m);
	if (!err)
		err = send_with_files(c, &c->nodes[0]);
	if (!err)
		err = answer(c, &c->nodes[0], FRAME_ENGINE_INSPECTED, &frame);
	if (!err)
		err = engine_inspected_decode(&frame, &inspected);
	if (!err)
		c->manifest = inspected.manifest;
	return err;
}

static int load(struct check *c, struct node *node, struct layer_range range)
{
	struct engine_load m = { .request = 2, .n_files = (uint32_t)c->options->n_paths, .n_ranges = 1, .ranges = { range },
				 .n_layer = c->manifest.n_layer, .context = (uint32_t)c->context,
				 .sessions = c->options->every ? TALKS : 1,
				 .device_max = node == c->nodes ? 0 : INT64_MAX,
				 .threads = c->options->threads ? c->options->threads : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN) };
	struct engine_loaded loaded;
	struct frame frame;
	int err;

	/* what a node holds that was placed these layers, and nothing else */
	m.extents = calloc(c->manifest.n_extents, sizeof *m.extents);
	if (!m.extents)
		return -ENOMEM;
	for (size_t i = 0; i < c->manifest.n_extents; i++)
		if (manifest_group_in(&c->manifest, c->manifest.extents[i].group, &range, 1))
			m.extents[m.n_extents++] = c->manifest.extents[i];
	err = engine_load_encode(&c->out, &m);
	free(m.extents);
	if (!err)
		err = send_with_files(c, node);
	if (!err)
		err = answer(c, node, FRAME_ENGINE_LOADED, &frame);
	if (!err)
		err = engine_loaded_decode(&frame, &loaded);
	if (!err)
		node->truncate = loaded.truncate;
	if (!err)
		c->device_layers += loaded.device_layers;
	return err;
}

/* Everywhere on a side, from position 0. What an older epoch computed is still there. */
static int open_talk(struct check *c, struct talk *talk, struct node *nodes, size_t n)
{
	const uint32_t all[] = { 0, c->manifest.n_layer }, *cuts = nodes == c->nodes ? all : c->cuts;
	int err = 0;

	for (size_t i = 0; i < n && !err; i++) {
		struct engine_open m = { .stage = (uint32_t)i, .epoch = c->epoch, .range = { cuts[i], cuts[i + 1] }, .context = (uint32_t)c->context,
					 .sampling = { .top_p = 1, .repeat_penalty = 1, .ignore_end = true } };
		struct frame frame;

		memcpy(m.session, talk->id, sizeof m.session);
		err = engine_open_encode(&c->out, &m);
		if (!err)
			err = wire_send(&nodes[i].wire, &c->out, NULL, 0);
		if (!err)
			err = answer(c, &nodes[i], FRAME_READY, &frame);
	}
	talk->sequence = talk->position = talk->said = 0;
	return err;
}

/* As even as the legal boundaries allow. */
static int choose_cuts(struct check *c)
{
	uint32_t n = c->manifest.n_layer, at = 0;

	if (c->stages > 1 && !c->manifest.splittable) {
		snprintf(c->why, sizeof c->why, "%s", c->manifest.why_whole);
		return ERR_UNSUPPORTED;
	}
	for (unsigned i = 1; i <= c->stages; i++) {
		uint32_t ideal = n * i / c->stages, best = 0;

		for (uint32_t cut = at + 1; cut <= n; cut++)
			if (manifest_may_cut(&c->manifest, cut) &&
			    (!best || labs((long)cut - (long)ideal) < labs((long)best - (long)ideal)))
				best = cut;
		if (i == c->stages)
			best = n;
		if (best <= at || (i < c->stages && best == n)) {
			snprintf(c->why, sizeof c->why, "a model with %u layers that may be cut at few places cannot make %u shards", n, c->stages);
			return ERR_UNSUPPORTED;
		}
		c->cuts[i] = at = best;
	}
	return 0;
}

/* --- text ------------------------------------------------------------------------------------------ */

static int make_talk(struct check *c, struct talk *talk, const char *id, size_t room)
{
	snprintf((char *)talk->id, sizeof talk->id, "%s", id);
	talk->text = calloc(room, sizeof *talk->text);
	talk->wanted = calloc((size_t)c->tokens * c->manifest.n_vocab, sizeof *talk->wanted);
	return talk->text && talk->wanted ? 0 : -ENOMEM;
}

static void make_up(struct check *c, struct talk *talk, size_t n, size_t seed)
{
	talk->n_prompt = n;
	for (size_t i = 0; i < n; i++)
		talk->text[i] = (int32_t)(((i + seed) * 37 + 11) % c->manifest.n_vocab);
}

static int take_prompt(struct check *c, struct talk *talk)
{
	const char *text = c->options->prompt ? c->options->prompt : own_prompt;
	struct render_message message = { .role = "", .content = text, .content_length = strlen(text) };
	struct engine_render m = { .request = 3, .add_special = true, .n_messages = 1, .messages = &message };
	struct engine_rendered rendered = { 0 };
	struct frame frame;
	int err = make_talk(c, talk, "check", c->context);

	if (!err)
		err = engine_render_encode(&c->out, &m);
	if (!err)
		err = wire_send(&c->nodes[0].wire, &c->out, NULL, 0);
	if (!err)
		err = answer(c, &c->nodes[0], FRAME_ENGINE_RENDERED, &frame);
	if (!err)
		err = engine_rendered_decode(&frame, &rendered);
	if (err && err != ERR_UNSUPPORTED)
		return err;
	if (err)
		rendered.n_tokens = 0;
	talk->n_prompt = rendered.n_tokens ? rendered.n_tokens : 45;      /* a model without a vocabulary: any ids will do */
	if (talk->n_prompt + c->tokens > c->context) {
		snprintf(c->why, sizeof c->why, "the prompt has %zu tokens; with %u to generate there is room for %zu", talk->n_prompt, c->tokens,
			 c->context - c->tokens);
		return ERR_CONTEXT;
	}
	if (!rendered.n_tokens)
		make_up(c, talk, talk->n_prompt, 0);
	for (size_t i = 0; i < rendered.n_tokens; i++)
		talk->text[i] = (int32_t)get_u32(rendered.tokens + 4 * i);
	return 0;
}

/* --- runs ------------------------------------------------------------------------------------------ */

/* The talk's next block through all nodes of a side. */
static int pass_block(struct check *c, struct talk *talk, struct node *nodes, size_t n, uint32_t count, bool want)
{
	static struct tokens_message said;
	struct rows_message m = { .n_blocks = 1 };
	struct rows_block *b = &m.blocks[0];
	uint8_t ids[CHUNK_ROWS * 4];
	struct frame frame;
	int err;

	*b = (struct rows_block){ .sequence = talk->sequence++, .position = talk->position, .count = count, .want = want,
				  .encoding = ENCODING_TOKEN, .rows = ids, .rows_length = count * 4 };
	memcpy(b->session, talk->id, sizeof b->session);
	b->epoch = c->epoch;
	for (uint32_t i = 0; i < count; i++)
		put_u32(ids + 4 * i, (uint32_t)talk->text[talk->position + i]);
	talk->position += count;
	err = rows_encode(&c->out, &m);
	for (size_t i = 0; i < n && !err; i++) {
		err = wire_send(&nodes[i].wire, &c->out, NULL, 0);
		if (!err)
			err = answer(c, &nodes[i], i + 1 < n ? FRAME_ROWS : FRAME_TOKENS, &frame);
		if (!err && i + 1 < n)
			err = frame_encode(&c->out, frame.type, frame.head, frame.head_length, frame.tail, frame.tail_length);
	}
	if (!err)
		err = tokens_decode(&frame, &said);
	if (!err && said.n_tokens != want)
		err = ERR_ENGINE;
	if (!err && want)
		talk->token = said.tokens[0].id;
	return err;
}

static void compare(struct check *c, const float *wanted, const float *logits)
{
	if (memcmp(wanted, logits, c->manifest.n_vocab * sizeof *wanted))
		c->bit_identical = false;
	for (uint32_t k = 0; k < c->manifest.n_vocab; k++) {
		double difference = fabs((double)wanted[k] - logits[k]);

		if (difference > c->largest_difference)
			c->largest_difference = difference;
		if (fabs(wanted[k]) > c->largest_logit)
			c->largest_logit = fabs(wanted[k]);
	}
}

/* The talk's next block: of the prompt up to the next chunk's end, or the last token. What the whole model says first decides the
 * text; every other run is given it and must say the same. */
static int step(struct check *c, struct talk *talk, struct node *nodes, size_t n, bool decide, double *seconds)
{
	bool prompt = talk->position < talk->n_prompt;
	uint32_t end = prompt ? (talk->position / CHUNK_ROWS + 1) * CHUNK_ROWS : talk->position + 1;
	float *wanted = talk->wanted + (size_t)talk->said * c->manifest.n_vocab;
	const float *logits = nodes[n - 1].logits;
	double begin = now();
	bool want;
	int err;

	if (prompt && end > talk->n_prompt)
		end = (uint32_t)talk->n_prompt;
	want = end >= talk->n_prompt;
	err = pass_block(c, talk, nodes, n, end - talk->position, want);
	if (!prompt)
		*seconds += now() - begin;
	if (err || !want)
		return err;
	if (decide) {
		talk->text[talk->n_prompt + talk->said] = talk->token;
		memcpy(wanted, logits, c->manifest.n_vocab * sizeof *logits);
	} else {
		c->same = c->same && talk->text[talk->n_prompt + talk->said] == talk->token;
		c->exact = c->exact && c->same;
		compare(c, wanted, logits);
		c->compared++;
	}
	talk->said++;
	return 0;
}

/* Goes on with the talks until each has said all its tokens, block by block in turns. */
static int talk_on(struct check *c, struct talk *talks, size_t n_talks, struct node *nodes, size_t n, bool decide, double *seconds)
{
	bool more = true;
	int err = 0;

	while (more && !err) {
		more = false;
		for (size_t i = 0; i < n_talks && !err; i++) {
			if (talks[i].said % 8 == 1)
				progress(c, nodes == c->nodes ? "tokens by the whole model" : "tokens by the shards", talks[i].said, c->tokens);
			if (talks[i].said < c->tokens)
				err = step(c, &talks[i], nodes, n, decide, seconds);
			more = more || talks[i].said < c->tokens;
		}
	}
	return err;
}

static struct node *side_nodes(struct check *c, unsigned side, size_t *n)
{
	*n = side ? c->stages : 1;
	return &c->nodes[side ? 1 : 0];
}

/* Prompts, then tokens one by one. */
static int run_side(struct check *c, unsigned side, struct talk *talks, size_t n_talks, bool decide, double *seconds)
{
	struct node *nodes;
	size_t n;
	int err = 0;

	nodes = side_nodes(c, side, &n);
	*seconds = 0;
	c->epoch++;
	for (size_t i = 0; i < n_talks && !err; i++)
		err = open_talk(c, &talks[i], nodes, n);
	return err ? err : talk_on(c, talks, n_talks, nodes, n, decide, seconds);
}

/* Writing again from a position is truncating: what comes after must be the same, or be answered with NEED_REPLAY by one that declared
 * it; then all of it comes again. */
static int go_back(struct check *c, unsigned side, struct talk *talk, uint32_t position)
{
	bool may_refuse = false;
	struct node *nodes;
	double seconds;
	size_t n;
	int err;

	nodes = side_nodes(c, side, &n);
	for (size_t i = 0; i < n; i++)
		may_refuse = may_refuse || nodes[i].truncate != TRUNCATE_ANY;
	c->epoch++;
	err = open_talk(c, talk, nodes, n);
	if (err)
		return err;
	talk->position = position;
	talk->said = position < talk->n_prompt ? 0 : position + 1 - (uint32_t)talk->n_prompt;
	err = talk_on(c, talk, 1, nodes, n, false, &seconds);
	if (err != ERR_NEED_REPLAY)
		return err;
	if (!may_refuse || c->needed != 0) {
		snprintf(c->why, sizeof c->why, "a shard that can go back, as it declared, does not to position %u: it wants all from %u on",
			 position, c->needed);
		return ERR_ENGINE;
	}
	c->replays++;
	c->epoch++;
	err = open_talk(c, talk, nodes, n);
	return err ? err : talk_on(c, talk, 1, nodes, n, false, &seconds);
}

/* The second talk of the longest prompts: into its answer, and to its prompt's second chunk. */
static int go_back_twice(struct check *c, unsigned side)
{
	struct talk *talk = &c->talks[sizeof c->talks / sizeof c->talks[0] - 1];
	int err = go_back(c, side, talk, (uint32_t)talk->n_prompt + EVERY_TOKENS / 2);

	return err ? err : go_back(c, side, talk, CHUNK_ROWS);
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int run_pairs(struct check *c)
{
	unsigned pairs = c->options->pairs ? c->options->pairs : 1;
	double *ratios = calloc(pairs, sizeof *ratios), took[2];
	int err = ratios ? 0 : -ENOMEM;

	for (unsigned i = 0; i < pairs && !err; i++) {
		err = run_side(c, 0, c->talks, 1, i == 0, &took[0]);
		if (!err)
			err = run_side(c, 1, c->talks, 1, false, &took[1]);
		if (err)
			break;
		c->seconds[0] += took[0];
		c->seconds[1] += took[1];
		ratios[i] = took[1] > 0 ? took[0] / took[1] : 0;
	}
	if (!err) {
		qsort(ratios, pairs, sizeof *ratios, compare_doubles);
		c->ratio = pairs % 2 ? ratios[pairs / 2] : (ratios[pairs / 2 - 1] + ratios[pairs / 2]) / 2;
	}
	free(ratios);
	return err;
}

/* A process for each of the shards that the cuts make, loaded. */
static int start_shards(struct check *c)
{
	struct frame frame;
	int err = 0;

	for (unsigned i = 1; i <= c->stages && !err; i++)
		err = start_node(c, &c->nodes[i]);
	for (unsigned i = 1; i <= c->stages && !err; i++) {
		struct engine_hello hello;

		err = answer(c, &c->nodes[i], FRAME_ENGINE_HELLO, &frame);
		if (!err)
			err = engine_hello_decode(&frame, &hello);
		if (!err && c->options->gpu && !hello.device.kind) {
			snprintf(c->why, sizeof c->why, "%s", hello.no_device);
			err = ERR_UNSUPPORTED;
		}
		c->device = hello.device;
		progress(c, "loading shards", i - 1, c->stages);
		if (!err)
			err = load(c, &c->nodes[i], (struct layer_range){ c->cuts[i - 1], c->cuts[i] });
	}
	return err;
}

static int check_split(struct check *c)
{
	double seconds;
	int err = start_shards(c);

	for (size_t i = 0; i < sizeof c->talks / sizeof c->talks[0] && !err; i += TALKS)
		err = run_side(c, 1, &c->talks[i], TALKS, false, &seconds);
	if (!err)
		err = go_back_twice(c, 1);
	stop_nodes(c, 1);
	c->splits++;
	c->exact = c->exact && c->largest_difference <= EXACT * c->largest_logit;
	return err;
}

static int run_every(struct check *c)
{
	uint32_t n = c->manifest.n_layer, cuts = 0;
	double seconds;
	int err = 0;

	for (size_t i = 0; i < sizeof c->talks / sizeof c->talks[0] && !err; i++) {
		err = make_talk(c, &c->talks[i], i % TALKS ? "check-b" : "check-a", c->context);
		if (!err)
			make_up(c, &c->talks[i], every_prompts[i / TALKS], 5 * i);
	}
	for (size_t i = 0; i < sizeof c->talks / sizeof c->talks[0] && !err; i += TALKS)
		err = run_side(c, 0, &c->talks[i], TALKS, true, &seconds);
	if (!err)
		err = go_back_twice(c, 0);
	c->stages = 2;
	c->cuts[2] = n;
	for (uint32_t cut = 1; cut < n && !err && c->exact; cut++)
		if (manifest_may_cut(&c->manifest, cut)) {
			c->cuts[1] = cut;
			cuts++;
			err = check_split(c);
		}
	if (err || !c->exact || cuts < 2)
		return err;
	c->stages = 0;
	for (uint32_t cut = 1; cut <= n; cut++)      /* all at once, as far as there may be shards */
		if (cut == n || (manifest_may_cut(&c->manifest, cut) && c->stages + 1 < CHECK_STAGES_MAX))
			c->cuts[++c->stages] = cut;
	return check_split(c);
}

static int run_one(struct check *c)
{
	int err = start_shards(c);

	if (!err)
		err = take_prompt(c, &c->talks[0]);
	if (!err)
		err = run_pairs(c);
	c->splits = 1;
	return err;
}

static int run_all(struct check *c)
{
	struct frame frame;
	int err = start_node(c, &c->nodes[0]);

	if (!err)
		err = answer(c, &c->nodes[0], FRAME_ENGINE_HELLO, &frame);
	if (!err)
		err = inspect(c);
	if (!err)
		err = choose_cuts(c);
	if (err)
		return err;
	c->context = (!c->options->prompt ? 512u : strlen(c->options->prompt) + 64) + c->tokens;
	if (c->context > c->manifest.context)
		c->context = c->manifest.context;
	if (c->tokens >= c->context || (c->options->every && c->context < 64 + EVERY_TOKENS)) {
		snprintf(c->why, sizeof c->why, "the model's context of %u is too short for %u tokens", c->manifest.context, c->tokens);
		return ERR_CONTEXT;
	}
	progress(c, "loading the whole model", 0, 0);
	err = load(c, &c->nodes[0], (struct layer_range){ 0, c->manifest.n_layer });
	if (err)
		return err;
	c->exact = c->bit_identical = c->same = true;
	err = c->options->every ? run_every(c) : run_one(c);
	c->exact = c->exact && c->largest_difference <= EXACT * c->largest_logit;
	progress(c, NULL, 0, 0);
	return err;
}

/* --- what it says ---------------------------------------------------------------------------------- */

static void print_json_text(const char *text)
{
	putchar('"');
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p == '"' || *p == '\\')
			printf("\\%c", *p);
		else if (*p < 0x20)
			printf("\\u%04x", *p);
		else
			putchar(*p);
	}
	putchar('"');
}

static bool is_close(const struct check *c)
{
	return c->largest_difference <= CHECK_CLOSE * c->largest_logit;
}

static void print_result(const struct check *c, int err)
{
	double whole = c->seconds[0] > 0 ? (c->tokens - 1) / c->seconds[0] : 0, sharded = c->seconds[1] > 0 ? (c->tokens - 1) / c->seconds[1] : 0;
	unsigned pairs = c->options->pairs ? c->options->pairs : 1;

	if (err && c->options->json) {
		printf("{\"exact\": false, \"error\": ");
		print_json_text(c->why[0] ? c->why : err_str(err));
		printf(", \"code\": \"%s\"}\n", err_name(err));
	} else if (err) {
		fprintf(stderr, "essaim-engine: cannot be checked: %s\n", c->why[0] ? c->why : err_str(err));
	} else if (c->options->json) {
		printf("{\"exact\": %s, \"bit_identical\": %s, \"max_logit_difference\": %g, \"tokens\": %u, \"splits\": %u, \"replays\": %u, "
		       "\"whole_tokens_per_second\": %.2f, \"sharded_tokens_per_second\": %.2f, \"ratio\": %.4f, \"largest_logit\": %g, "
		       "\"architecture\": ", c->exact ? "true" : "false", c->bit_identical ? "true" : "false", c->largest_difference,
		       c->compared, c->splits, c->replays, whole * pairs, sharded * pairs, c->ratio, c->largest_logit);
		print_json_text(c->manifest.architecture);
		printf(", \"same_tokens\": %s, \"close\": %s, \"device_layers\": %u, \"device\": ", c->same ? "true" : "false", is_close(c) ? "true" : "false",
		       c->device_layers);
		print_json_text(c->device.name);
		printf(", \"layers\": [");
		for (unsigned i = 0; i < c->stages; i++)
			printf("%s[%u, %u]", i ? ", " : "", c->cuts[i], c->cuts[i + 1]);
		printf("]}\n");
	} else {
		printf("%s, %u layers as", c->manifest.architecture, c->manifest.n_layer);
		if (c->splits > 1)
			printf(" %u splits, at last", c->splits);
		for (unsigned i = 0; i < c->stages; i++)
			printf(" [%u, %u)", c->cuts[i], c->cuts[i + 1]);
		if (c->options->gpu)
			printf("\n%u layers on %s: %s", c->device_layers, c->device.name, is_close(c) ? c->same ? "close, the same tokens" : "close, not all tokens the same" : "NOT CLOSE");
		printf("\n%s%s: %u tokens compared, largest difference of a logit %g of %g\n", c->exact ? "exact" : "NOT EXACT",
		       c->bit_identical ? ", bit-identical" : "", c->compared, c->largest_difference, c->largest_logit);
		if (!c->options->every)
			printf("whole %.2f tokens/s, sharded %.2f tokens/s, ratio %.3f\n", whole * pairs, sharded * pairs, c->ratio);
	}
	fflush(stdout);
}

int check_run(const struct check_options *options)
{
	struct check *c = calloc(1, sizeof *c);
	int err;

	if (!c)
		return 2;
	c->options = options;
	c->stages = options->stages && !options->every ? options->stages : 2;
	c->tokens = options->every ? EVERY_TOKENS : options->tokens ? options->tokens : 64;
	buf_init(&c->out, FRAME_MAX);
	if (c->stages > CHECK_STAGES_MAX) {
		snprintf(c->why, sizeof c->why, "at most %d stages", CHECK_STAGES_MAX);
		err = ERR_LIMIT;
	} else {
		err = run_all(c);
	}
	stop_nodes(c, 0);
	print_result(c, err);
	err = err ? 2 : c->exact || (options->gpu && is_close(c)) ? 0 : 1;
	manifest_free(&c->manifest);
	buf_release(&c->out);
	for (size_t i = 0; i < sizeof c->talks / sizeof c->talks[0]; i++) {
		free(c->talks[i].text);
		free(c->talks[i].wanted);
	}
	free(c);
	return err;
}
