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

struct node {
	pid_t pid;
	struct wire wire;
	float *logits;             /* shared with the process: (MODEL_VOCAB_MAX) */
};
struct check {
	const struct check_options *options;
	struct node nodes[CHECK_STAGES_MAX + 1];       /* 0: the whole model; then the shards */
	size_t n_nodes;
	struct manifest_body manifest;
	uint32_t cuts[CHECK_STAGES_MAX + 1];
	unsigned stages, tokens;
	int32_t *text;             /* prompt and what the whole model said */
	size_t n_prompt, context;
	float *wanted;             /* (tokens, n_vocab): the whole model's logits */
	uint64_t sequence[2];
	struct buf out;
	char why[500];

	bool exact, bit_identical;
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
		struct server_config config = { .fd = pair[1], .logits = node->logits, .n_logits = MODEL_VOCAB_MAX };

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

static void stop_nodes(struct check *c)
{
	for (size_t i = 0; i < c->n_nodes; i++)
		wire_release(&c->nodes[i].wire);
	for (size_t i = 0; i < c->n_nodes; i++) {
		waitpid(c->nodes[i].pid, NULL, 0);
		munmap(c->nodes[i].logits, (size_t)MODEL_VOCAB_MAX * sizeof(float));
	}
	c->n_nodes = 0;
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
				 .n_layer = c->manifest.n_layer, .context = (uint32_t)c->context, .sessions = 1,
				 .threads = c->options->threads ? c->options->threads : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN) };
	struct frame frame;
	int err;

	m.extents = calloc(c->manifest.n_files, sizeof *m.extents);
	if (!m.extents)
		return -ENOMEM;
	m.n_extents = c->manifest.n_files;
	for (uint32_t i = 0; i < c->manifest.n_files; i++)
		m.extents[i] = (struct model_extent){ .file = i, .length = c->manifest.files[i].size };
	err = engine_load_encode(&c->out, &m);
	free(m.extents);
	if (!err)
		err = send_with_files(c, node);
	return err ? err : answer(c, node, FRAME_ENGINE_LOADED, &frame);
}

static int open_stage(struct check *c, struct node *node, uint32_t stage, struct layer_range range)
{
	struct engine_open m = { .session = "check", .stage = stage, .range = range, .context = (uint32_t)c->context,
				 .sampling = { .top_p = 1, .repeat_penalty = 1, .ignore_end = true } };
	struct frame frame;
	int err = engine_open_encode(&c->out, &m);

	if (!err)
		err = wire_send(&node->wire, &c->out, NULL, 0);
	return err ? err : answer(c, node, FRAME_READY, &frame);
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

static int take_prompt(struct check *c)
{
	const char *text = c->options->prompt ? c->options->prompt : own_prompt;
	struct render_message message = { .role = "", .content = text, .content_length = strlen(text) };
	struct engine_render m = { .request = 3, .add_special = true, .n_messages = 1, .messages = &message };
	struct engine_rendered rendered = { 0 };
	struct frame frame;
	int err = engine_render_encode(&c->out, &m);

	if (!err)
		err = wire_send(&c->nodes[0].wire, &c->out, NULL, 0);
	if (!err)
		err = answer(c, &c->nodes[0], FRAME_ENGINE_RENDERED, &frame);
	if (!err)
		err = engine_rendered_decode(&frame, &rendered);
	if (err && err != ERR_UNSUPPORTED)
		return err;
	c->n_prompt = rendered.n_tokens;
	if (err || !c->n_prompt)           /* a model without a vocabulary: any ids will do */
		c->n_prompt = 45;
	if (c->n_prompt + c->tokens > c->context) {
		snprintf(c->why, sizeof c->why, "the prompt has %zu tokens; with %u to generate there is room for %zu", c->n_prompt, c->tokens,
			 c->context - c->tokens);
		return ERR_CONTEXT;
	}
	for (size_t i = 0; i < c->n_prompt; i++)
		c->text[i] = rendered.n_tokens ? (int32_t)get_u32(rendered.tokens + 4 * i) : (int32_t)((i * 37 + 11) % c->manifest.n_vocab);
	return 0;
}

/* --- runs ------------------------------------------------------------------------------------------ */

/* One block through all nodes of a side; *token: what was sampled, when wanted. */
static int pass_block(struct check *c, struct node *nodes, size_t n, unsigned side, uint32_t position, uint32_t count, bool want, int32_t *token)
{
	static struct tokens_message said;
	struct rows_message m = { .n_blocks = 1 };
	struct rows_block *b = &m.blocks[0];
	uint8_t ids[CHUNK_ROWS * 4];
	struct frame frame;
	int err;

	*b = (struct rows_block){ .session = "check", .sequence = c->sequence[side]++, .position = position, .count = count, .want = want,
				  .encoding = ENCODING_TOKEN, .rows = ids, .rows_length = count * 4 };
	for (uint32_t i = 0; i < count; i++)
		put_u32(ids + 4 * i, (uint32_t)c->text[position + i]);
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
		*token = said.tokens[0].id;
	return err;
}

static void compare(struct check *c, unsigned i, const float *logits)
{
	const float *wanted = c->wanted + (size_t)i * c->manifest.n_vocab;

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

/* Prompt, then tokens one by one. The first run of the whole model decides the text; every other run is given it and must say
 * the same. */
static int run_side(struct check *c, unsigned side, bool decide, double *seconds)
{
	struct node *nodes = side ? &c->nodes[1] : &c->nodes[0];
	size_t n = side ? c->stages : 1;
	const float *logits = nodes[n - 1].logits;
	uint32_t position = 0, end;
	int32_t token = -1;
	int err = 0;

	*seconds = 0;
	while (position < c->n_prompt && !err) {
		end = (position / CHUNK_ROWS + 1) * CHUNK_ROWS;
		if (end > c->n_prompt)
			end = (uint32_t)c->n_prompt;
		err = pass_block(c, nodes, n, side, position, end - position, end == c->n_prompt, &token);
		position = end;
	}
	for (unsigned i = 0; i < c->tokens && !err; i++) {
		double begin;

		if (decide) {
			c->text[c->n_prompt + i] = token;
			memcpy(c->wanted + (size_t)i * c->manifest.n_vocab, logits, c->manifest.n_vocab * sizeof *logits);
		} else {
			c->exact = c->exact && c->text[c->n_prompt + i] == token;
			compare(c, i, logits);
		}
		if (i + 1 == c->tokens)
			break;
		if (i % 8 == 0)
			progress(c, side ? "tokens by the shards" : "tokens by the whole model", i, c->tokens);
		begin = now();
		err = pass_block(c, nodes, n, side, position++, 1, true, &token);
		*seconds += now() - begin;
	}
	return err;
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

	c->exact = c->bit_identical = true;
	for (unsigned i = 0; i < pairs && !err; i++) {
		err = run_side(c, 0, i == 0, &took[0]);
		if (!err)
			err = run_side(c, 1, false, &took[1]);
		if (err)
			break;
		c->seconds[0] += took[0];
		c->seconds[1] += took[1];
		ratios[i] = took[1] > 0 ? took[0] / took[1] : 0;
	}
	if (!err) {
		qsort(ratios, pairs, sizeof *ratios, compare_doubles);
		c->ratio = pairs % 2 ? ratios[pairs / 2] : (ratios[pairs / 2 - 1] + ratios[pairs / 2]) / 2;
		c->exact = c->exact && c->largest_difference <= EXACT * c->largest_logit;
	}
	free(ratios);
	return err;
}

static int run_all(struct check *c)
{
	struct layer_range all;
	int err = 0;

	for (unsigned i = 0; i <= c->stages && !err; i++)
		err = start_node(c, &c->nodes[i]);
	for (unsigned i = 0; i <= c->stages && !err; i++) {
		struct frame frame;

		err = answer(c, &c->nodes[i], FRAME_ENGINE_HELLO, &frame);
	}
	if (!err)
		err = inspect(c);
	if (!err)
		err = choose_cuts(c);
	if (err)
		return err;
	c->context = (own_prompt == c->options->prompt || !c->options->prompt ? 512u : strlen(c->options->prompt) + 64) + c->tokens;
	if (c->context > c->manifest.context)
		c->context = c->manifest.context;
	if (c->tokens >= c->context) {
		snprintf(c->why, sizeof c->why, "the model's context of %u is too short for %u tokens", c->manifest.context, c->tokens);
		return ERR_CONTEXT;
	}
	c->text = calloc(c->context, sizeof *c->text);
	c->wanted = calloc((size_t)c->tokens * c->manifest.n_vocab, sizeof *c->wanted);
	if (!c->text || !c->wanted)
		return -ENOMEM;
	all = (struct layer_range){ 0, c->manifest.n_layer };
	progress(c, "loading the whole model", 0, 0);
	err = load(c, &c->nodes[0], all);
	if (!err)
		err = open_stage(c, &c->nodes[0], 0, all);
	for (unsigned i = 0; i < c->stages && !err; i++) {
		struct layer_range range = { c->cuts[i], c->cuts[i + 1] };

		progress(c, "loading shards", i, c->stages);
		err = load(c, &c->nodes[i + 1], range);
		if (!err)
			err = open_stage(c, &c->nodes[i + 1], i, range);
	}
	if (!err)
		err = take_prompt(c);
	if (!err)
		err = run_pairs(c);
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
		printf("{\"exact\": %s, \"bit_identical\": %s, \"max_logit_difference\": %g, \"tokens\": %u, "
		       "\"whole_tokens_per_second\": %.2f, \"sharded_tokens_per_second\": %.2f, \"ratio\": %.4f, \"largest_logit\": %g, "
		       "\"architecture\": ", c->exact ? "true" : "false", c->bit_identical ? "true" : "false", c->largest_difference, c->tokens,
		       whole * pairs, sharded * pairs, c->ratio, c->largest_logit);
		print_json_text(c->manifest.architecture);
		printf(", \"layers\": [");
		for (unsigned i = 0; i < c->stages; i++)
			printf("%s[%u, %u]", i ? ", " : "", c->cuts[i], c->cuts[i + 1]);
		printf("]}\n");
	} else {
		printf("%s, %u layers as", c->manifest.architecture, c->manifest.n_layer);
		for (unsigned i = 0; i < c->stages; i++)
			printf(" [%u, %u)", c->cuts[i], c->cuts[i + 1]);
		printf("\n%s%s: %u tokens compared, largest difference of a logit %g of %g\n", c->exact ? "exact" : "NOT EXACT",
		       c->bit_identical ? ", bit-identical" : "", c->tokens, c->largest_difference, c->largest_logit);
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
	c->stages = options->stages ? options->stages : 2;
	c->tokens = options->tokens ? options->tokens : 64;
	buf_init(&c->out, FRAME_MAX);
	if (c->stages > CHECK_STAGES_MAX) {
		snprintf(c->why, sizeof c->why, "at most %d stages", CHECK_STAGES_MAX);
		err = ERR_LIMIT;
	} else {
		err = run_all(c);
	}
	stop_nodes(c);
	print_result(c, err);
	err = err ? 2 : c->exact ? 0 : 1;
	manifest_free(&c->manifest);
	buf_release(&c->out);
	free(c->text);
	free(c->wanted);
	free(c);
	return err;
}
