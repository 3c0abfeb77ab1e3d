/* probe.c: measures the demonstration models with libllama itself, on the files that are shipped.
 *
 *   cc -O2 probe.c $(pkg-config --cflags --libs llama) -o probe
 *   probe tokens MODEL                     each line of stdin -> its ids (control tokens recognised, no BOS)
 *   probe template MODEL                   each line of stdin as a user's question -> the prompt, by the model's own template
 *   probe answer MODEL N [TEMP [SEED]]     each line of stdin, a prompt -> what follows, at most N tokens (greedy at 0)
 *   probe loss MODEL                       each line of stdin: ids -> the loss in nats of each id from the second on
 *   probe accept TARGET DRAFT N LENGTH     each line of stdin, a prompt -> "accepted proposed tokens"
 *
 * Lines in and out write a line feed as \n. BOS is put before prompts. One thread, so that two runs agree. */
#include <llama.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 512, LINE = 65536, DRAFT_MAX = 16 };

struct side {
	struct llama_model *model;
	struct llama_context *context;
	const struct llama_vocab *vocab;
	int n_vocab;
};

static void quiet(enum ggml_log_level level, const char *text, void *data)
{
	(void)data;
	if (level == GGML_LOG_LEVEL_ERROR)
		fputs(text, stderr);
}

static int side_open(struct side *side, const char *path)
{
	struct llama_context_params params = llama_context_default_params();

	side->model = llama_model_load_from_file(path, llama_model_default_params());
	if (!side->model)
		return -1;
	params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT;
	params.n_threads = params.n_threads_batch = 1;
	side->context = llama_init_from_model(side->model, params);
	side->vocab = llama_model_get_vocab(side->model);
	side->n_vocab = llama_vocab_n_tokens(side->vocab);
	return side->context ? 0 : -1;
}

/* Decodes tokens at position p; what lay there is dropped first. want: logits of all rows, else of the last. */
static void decode(struct side *side, const llama_token *tokens, int n, int p, int want)
{
	struct llama_batch batch = llama_batch_init(n, 0, 1);

	llama_memory_seq_rm(llama_get_memory(side->context), 0, p, -1);
	for (int i = 0; i < n; i++) {
		batch.token[i] = tokens[i];
		batch.pos[i] = p + i;
		batch.n_seq_id[i] = 1;
		batch.seq_id[i][0] = 0;
		batch.logits[i] = want || i == n - 1;
	}
	batch.n_tokens = n;
	if (llama_decode(side->context, batch)) {
		fputs("probe: llama_decode failed\n", stderr);
		exit(1);
	}
	llama_batch_free(batch);
}

static llama_token best(struct side *side)
{
	const float *logits = llama_get_logits_ith(side->context, -1);
	llama_token at = 0;

	for (llama_token t = 1; t < side->n_vocab; t++)
		if (logits[t] > logits[at])
			at = t;
	return at;
}

static llama_token drawn(struct side *side, float temperature)
{
	const float *logits = llama_get_logits_ith(side->context, -1);
	double top = logits[best(side)], sum = 0, x;

	for (int t = 0; t < side->n_vocab; t++)
		sum += exp((logits[t] - top) / temperature);
	x = drand48() * sum;
	for (int t = 0; t < side->n_vocab; t++)
		if ((x -= exp((logits[t] - top) / temperature)) <= 0)
			return t;
	return best(side);
}

static int read_line(char *line)
{
	char *to = line;

	if (!fgets(line, LINE, stdin))
		return 0;
	line[strcspn(line, "\n")] = 0;
	for (char *from = line; *from; from++) {
		if (from[0] == '\\' && from[1] == 'n') {
			*to++ = '\n';
			from++;
		} else {
			*to++ = *from;
		}
	}
	*to = 0;
	return 1;
}

static void write_text(const char *text, int n)
{
	for (int i = 0; i < n; i++) {
		if (text[i] == '\n')
			fputs("\\n", stdout);
		else
			putchar(text[i]);
	}
}

static int tokens_of(struct side *side, const char *line, llama_token *tokens, int bos)
{
	int n = llama_tokenize(side->vocab, line, (int)strlen(line), tokens, CONTEXT, bos, true);

	if (n < 0) {
		fputs("probe: a line is longer than the context\n", stderr);
		exit(1);
	}
	return n;
}

/* Continues a prompt of n tokens in place; returns the new length, the end-of-turn token included if it came. */
static int go_on(struct side *side, llama_token *tokens, int n, int most, float temperature)
{
	int end = n + most > CONTEXT ? CONTEXT : n + most;

	decode(side, tokens, n, 0, 0);
	while (n < end) {
		tokens[n] = temperature > 0 ? drawn(side, temperature) : best(side);
		if (llama_vocab_is_eog(side->vocab, tokens[n++]) || n == end)
			break;
		decode(side, tokens + n - 1, 1, n - 1, 0);
	}
	return n;
}

static void write_tokens(struct side *side, const llama_token *tokens, int n)
{
	char piece[256];

	for (int i = 0; i < n; i++) {
		int size = llama_token_to_piece(side->vocab, tokens[i], piece, sizeof piece, 0, false);
		write_text(piece, size > 0 ? size : 0);
	}
	putchar('\n');
}

static void loss(struct side *side, char *line)
{
	llama_token tokens[CONTEXT];
	int n = 0;

	for (char *at = line, *end; n < CONTEXT; at = end) {
		long id = strtol(at, &end, 10);
		if (end == at)
			break;
		tokens[n++] = (llama_token)id;
	}
	decode(side, tokens, n - 1, 0, 1);
	for (int i = 0; i + 1 < n; i++) {
		const float *logits = llama_get_logits_ith(side->context, i);
		double top = logits[0], sum = 0;
		for (int t = 1; t < side->n_vocab; t++)
			top = logits[t] > top ? logits[t] : top;
		for (int t = 0; t < side->n_vocab; t++)
			sum += exp(logits[t] - top);
		printf("%s%.5f", i ? " " : "", top + log(sum) - logits[tokens[i + 1]]);
	}
	putchar('\n');
}

/* The target's greedy text is what speculation yields; the draft guesses ahead of it, length tokens at a time. */
static void acceptance(struct side *target, struct side *draft, char *line, int most, int length)
{
	llama_token tokens[CONTEXT + DRAFT_MAX], guess[DRAFT_MAX];
	int n = tokens_of(target, line, tokens, 1), at = n, accepted = 0, proposed = 0, known = 0;
	int end = go_on(target, tokens, n, most, 0);

	while (at < end) {
		int made = 0, good = 0;
		decode(draft, tokens + known, at - known, known, 0);
		known = at;
		while (made < length && at + made < end) {
			guess[made] = best(draft);
			made++;
			if (llama_vocab_is_eog(draft->vocab, guess[made - 1]) || made == length || at + made >= end)
				break;
			decode(draft, guess + made - 1, 1, at + made - 1, 0);
		}
		while (good < made && guess[good] == tokens[at + good])
			good++;
		proposed += made;
		accepted += good;
		at += good + 1;             /* the target's own token follows what it accepted */
	}
	printf("%d %d %d\n", accepted, proposed, end - n);
}

int main(int argc, char **argv)
{
	struct side target, draft;
	char *line = malloc(LINE), *prompt = malloc(LINE);
	const char *verb = argc > 2 ? argv[1] : "";
	llama_token tokens[CONTEXT + DRAFT_MAX];

	llama_log_set(quiet, NULL);
	ggml_backend_load_all();
	if (argc < 3 || side_open(&target, argv[2]) || (!strcmp(verb, "accept") && (argc < 6 || side_open(&draft, argv[3])))) {
		fputs("usage: probe tokens|template|answer|loss|accept MODEL ... (see probe.c)\n", stderr);
		return 1;
	}
	srand48(argc > 5 ? atol(argv[5]) : 1);
	while (read_line(line)) {
		if (!strcmp(verb, "tokens")) {
			int n = tokens_of(&target, line, tokens, 0);
			for (int i = 0; i < n; i++)
				printf("%s%d", i ? " " : "", tokens[i]);
			putchar('\n');
		} else if (!strcmp(verb, "template")) {
			struct llama_chat_message message = { "user", line };
			int n = llama_chat_apply_template(llama_model_chat_template(target.model, NULL), &message, 1, true, prompt, LINE);
			write_text(prompt, n > 0 ? n : 0);
			putchar('\n');
		} else if (!strcmp(verb, "answer")) {
			int n = tokens_of(&target, line, tokens, 1);
			int end = go_on(&target, tokens, n, atoi(argv[3]), argc > 4 ? (float)atof(argv[4]) : 0);
			write_tokens(&target, tokens + n, end - n);
		} else if (!strcmp(verb, "loss")) {
			loss(&target, line);
		} else if (!strcmp(verb, "accept")) {
			acceptance(&target, &draft, line, atoi(argv[4]), atoi(argv[5]) < DRAFT_MAX ? atoi(argv[5]) : DRAFT_MAX);
		}
		fflush(stdout);
	}
	return 0;
}
