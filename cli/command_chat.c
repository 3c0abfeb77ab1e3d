/* chat: asks the node's own HTTP API and shows the answer as it comes. The conversation lives in this process's memory only.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <curl/curl.h>
#include <editline/readline.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "proto/buf.h"
#include "proto/text.h"

#define ANSWER_MAX (16u << 20)
#define TEMPERATURE 0.7              /* small models wander at OpenAI's default of 1 */

struct chat {
	struct cli *cli;
	char url[256], header[128];
	char model[160];
	const char *via;                  /* the node that is to answer in this one's place; NULL: none is named */
	bool completion;
	double temperature;
	unsigned long max_tokens;         /* 0: not said */
	long long seed;
	bool has_seed;
	const char *stops[4];
	size_t n_stops;
	yyjson_mut_doc *doc;              /* messages so far */
	yyjson_mut_val *messages;

	struct buf line, answer;          /* a part of an SSE line; the answer's text */
	struct fold fold;                 /* the answer as it is shown */
	long status;
	yyjson_doc *end;                  /* the last chunk: finish_reason and the disclosure */
	uint64_t tokens, prompt_tokens;
	char error[REASON_SIZE];
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
	(void)number;
	interrupted = 1;
}

/* --- the node's address and key ---------------------------------------------------------------------- */

static int find_api(struct chat *c)
{
	yyjson_doc *doc;
	int status = client_call(c->cli, "status", NULL, NULL, NULL, &doc);
	if (status)
		return status;
	yyjson_val *s = client_result(doc);
	const char *host = json_text(s, "http_host");
	if (!strcmp(host, "0.0.0.0") || !strcmp(host, "::"))
		host = "127.0.0.1";
	snprintf(c->url, sizeof c->url, strchr(host, ':') ? "http://[%s]:%llu" : "http://%s:%llu", host,
		 (unsigned long long)json_uint(yyjson_obj_get(s, "ports"), "http"));
	yyjson_doc_free(doc);
	status = client_call(c->cli, "api_key", NULL, NULL, NULL, &doc);
	if (status)
		return status;
	snprintf(c->header, sizeof c->header, "Authorization: Bearer %s", json_text(client_result(doc), "key"));
	yyjson_doc_free(doc);
	return 0;
}

/* A home made with init --demo-model: the model is published at the first chat. */
static int publish_demo(struct chat *c)
{
	char path[4096];
	struct bar bar = {.label = _("loading")};
	yyjson_mut_val *args;
	yyjson_doc *doc;
	char *whole = realpath(c->cli->home, NULL);
	snprintf(path, sizeof path, "%s/%s", whole ? whole : "", DEMO_MODEL);
	free(whole);
	if (access(path, R_OK))
		return EXIT_UNKNOWN;
	yyjson_mut_doc *request = client_args(&args);
	yyjson_mut_obj_add_str(request, args, "path", path);
	int status = client_call(c->cli, "model_add", request, NULL, NULL, &doc);
	if (status)
		return status;
	text_copy(c->model, sizeof c->model, json_text(yyjson_obj_get(client_result(doc), "model"), "name"));
	yyjson_doc_free(doc);
	bar_draw(c->cli, &bar, 0, "");
	request = client_args(&args);
	yyjson_mut_obj_add_str(request, args, "model", c->model);
	status = client_call(c->cli, "model_pull", request, NULL, NULL, &doc);
	bar_end(c->cli, &bar);
	if (!status)
		yyjson_doc_free(doc);
	return status;
}

/* Is it said in a way that only the daemon can resolve: name@association, or digits of the id. */
static bool is_full_name(const char *model)
{
	return strchr(model, '@') || (strspn(model, "0123456789abcdef") >= 8 && !model[strspn(model, "0123456789abcdef")]);
}

/* With no MODEL: the only one there is. A MODEL without a question is looked for before anybody types one; if it is none, and has blanks, it is the
 * question. */
static int choose_model(struct chat *c, const char *given, const char **question)
{
	/* The demonstration model may be asked for by its name before it is there. */
	size_t length = strlen(c->model);
	bool demo = given && !strncmp(c->model, DEMO_MODEL, length) && !strcmp(&DEMO_MODEL[length], ".gguf");
	if (given && !demo && (*question || c->via || is_full_name(given)))
		return 0;                        /* the answer says what is wrong with it */
	yyjson_doc *doc;
	int status = client_call(c->cli, "model_list", NULL, NULL, NULL, &doc);
	if (status)
		return status;
	yyjson_val *m;
	size_t i, n, found = 0;
	char names[512] = "", only[sizeof c->model] = "";
	bool known = false;
	yyjson_arr_foreach(yyjson_obj_get(client_result(doc), "models"), i, n, m)
	{
		const char *name = json_text(m, "name");
		known |= given && !strcmp(name, given);
		if (!json_bool(m, "approved") || (demo && strcmp(name, given)))
			continue;
		size_t used = strlen(names);
		snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", name);
		text_copy(only, sizeof only, name);
		found++;
	}
	yyjson_doc_free(doc);
	if (given && !demo) {
		if (known)
			return 0;
		if (!strchr(given, ' '))
			return cli_fail(c->cli, EXIT_UNKNOWN, "UNKNOWN", "essaim model list",
					N_("no model called %s is known here; '%s' may have been published by a node that this one does not hear yet"), given,
					given);
		*question = given;
	}
	text_copy(c->model, sizeof c->model, only);
	if (found == 1)
		return 0;
	if (!found && (status = publish_demo(c)) != EXIT_UNKNOWN)
		return status;
	if (demo) {
		text_copy(c->model, sizeof c->model, given);
		return 0;
	}
	return found ? cli_fail(c->cli, EXIT_USAGE, "AMBIGUOUS", "essaim chat MODEL", "which model: %s?", names)
		     : cli_fail(c->cli, EXIT_UNKNOWN, "UNKNOWN", "essaim model list, then essaim model pull MODEL", "this node runs no model yet");
}

/* --- one answer ---------------------------------------------------------------------------------------- */

static void on_text(struct chat *c, const char *text, size_t n)
{
	buf_append(&c->answer, text, n);
	if (!c->cli->json)
		fold_add(&c->fold, text, n);
}

/* What the HTTP API says is English; people read it in their language. */
static void keep_error(struct chat *c, const char *message)
{
	char said[REASON_SIZE];
	text_copy(c->error, sizeof c->error, c->cli->json ? message : reason(message, said, sizeof said));
}

static void on_event(struct chat *c, const char *text, size_t n)
{
	if (n == 6 && !memcmp(text, "[DONE]", 6))
		return;
	yyjson_doc *doc = yyjson_read(text, n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc);
	yyjson_val *error = yyjson_obj_get(root, "error"), *usage = yyjson_obj_get(root, "usage");
	yyjson_val *choice = yyjson_arr_get_first(yyjson_obj_get(root, "choices"));
	yyjson_val *piece = c->completion ? yyjson_obj_get(choice, "text") : yyjson_obj_get(yyjson_obj_get(choice, "delta"), "content");
	if (error)
		keep_error(c, json_text(error, "message"));
	if (yyjson_is_str(piece))
		on_text(c, yyjson_get_str(piece), yyjson_get_len(piece));
	if (yyjson_is_obj(usage)) {
		c->tokens = json_uint(usage, "completion_tokens");
		c->prompt_tokens = json_uint(usage, "prompt_tokens");
	}
	if (yyjson_is_str(yyjson_obj_get(choice, "finish_reason"))) {
		yyjson_doc_free(c->end);
		c->end = doc;
		return;
	}
	yyjson_doc_free(doc);
}

static size_t on_bytes(char *bytes, size_t size, size_t n, void *arg)
{
	struct chat *c = arg;
	n *= size;
	if (buf_append(&c->line, bytes, n))
		return 0;
	for (;;) {
		uint8_t *end = c->line.length ? memchr(c->line.data, '\n', c->line.length) : NULL;
		if (!end)
			return n;
		size_t length = (size_t)(end - c->line.data);
		if (length > 6 && !memcmp(c->line.data, "data: ", 6))
			on_event(c, (char *)c->line.data + 6, length - 6);
		buf_consume(&c->line, length + 1);
	}
}

static int on_curl_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t d, curl_off_t e)
{
	(void)arg, (void)a, (void)b, (void)d, (void)e;
	return interrupted;
}

static char *make_body(struct chat *c)
{
	yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
	yyjson_mut_val *root = yyjson_mut_obj(doc), *options, *stops;
	yyjson_mut_doc_set_root(doc, root);
	yyjson_mut_obj_add_str(doc, root, "model", c->model);
	if (c->completion)
		yyjson_mut_obj_add_val(doc, root, "prompt",
				       yyjson_mut_val_mut_copy(doc, yyjson_mut_obj_get(yyjson_mut_arr_get_last(c->messages), "content")));
	else
		yyjson_mut_obj_add_val(doc, root, "messages", yyjson_mut_val_mut_copy(doc, c->messages));
	yyjson_mut_obj_add_bool(doc, root, "stream", true);
	options = yyjson_mut_obj_add_obj(doc, root, "stream_options");
	yyjson_mut_obj_add_bool(doc, options, "include_usage", true);
	yyjson_mut_obj_add_real(doc, root, "temperature", c->temperature);
	if (c->via)
		yyjson_mut_obj_add_str(doc, root, "via", c->via);
	if (c->max_tokens)
		yyjson_mut_obj_add_uint(doc, root, "max_tokens", c->max_tokens);
	if (c->has_seed)
		yyjson_mut_obj_add_sint(doc, root, "seed", c->seed);
	if (c->n_stops) {
		stops = yyjson_mut_obj_add_arr(doc, root, "stop");
		for (size_t i = 0; i < c->n_stops; i++)
			yyjson_mut_arr_add_str(doc, stops, c->stops[i]);
	}
	char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
	yyjson_mut_doc_free(doc);
	return text;
}

/* 0, or an exit status; the error's words are in c->error. */
static int post(struct chat *c)
{
	char url[300];
	CURL *curl = curl_easy_init();
	char *body = make_body(c);
	struct curl_slist *headers = curl_slist_append(curl_slist_append(NULL, c->header), "Content-Type: application/json");
	snprintf(url, sizeof url, "%s/v1/%s", c->url, c->completion ? "completions" : "chat/completions");
	buf_clear(&c->line);
	buf_clear(&c->answer);
	fold_init(&c->fold, stdout);
	c->error[0] = 0;
	c->tokens = c->prompt_tokens = 0;
	yyjson_doc_free(c->end);
	c->end = NULL;
	interrupted = 0;
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_curl_progress);
	CURLcode code = curl_easy_perform(curl);
	c->status = 0;
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &c->status);
	curl_slist_free_all(headers);
	curl_easy_cleanup(curl);
	free(body);
	if (!c->cli->json)
		fold_end(&c->fold);
	if (interrupted)
		return EXIT_DONE;
	if (code != CURLE_OK && !c->error[0]) {
		snprintf(c->error, sizeof c->error, _("the node's HTTP port does not answer: %s"), curl_easy_strerror(code));
		return EXIT_NO_DAEMON;
	}
	if (c->status != 200) {
		yyjson_doc *doc = yyjson_read((char *)c->line.data, c->line.length, 0);
		const char *message = json_text(yyjson_obj_get(yyjson_doc_get_root(doc), "error"), "message");
		if (!c->error[0])
			keep_error(c, *message ? message : N_("the node refused without a word"));
		yyjson_doc_free(doc);
		return c->status == 404 ? EXIT_UNKNOWN : c->status == 503 || c->status == 429 ? EXIT_LATER : EXIT_REFUSED;
	}
	return c->error[0] ? EXIT_REFUSED : EXIT_DONE;
}

static void print_figures(struct chat *c)
{
	yyjson_val *e = yyjson_obj_get(yyjson_doc_get_root(c->end), "essaim"), *s;
	char line[1024];
	const char *saw = "";             /* the one node that saw text */
	size_t i, n, used;
	if (!e)
		return;
	double decode = json_real(e, "decode_seconds");
	used = (size_t)snprintf(line, sizeof line, _("%llu tokens"), (unsigned long long)c->tokens);
	if (c->tokens > 1 && decode > 0)
		used += (size_t)snprintf(line + used, sizeof line - used, _(", %.1f tok/s"), (double)(c->tokens - 1) / decode);
	yyjson_arr_foreach(yyjson_obj_get(e, "stages"), i, n, s)
	{
		int k = snprintf(line + used, sizeof line - used, "%s%s", i ? " > " : _("; by "), json_text(s, "node"));
		if (k < 0 || (size_t)k >= sizeof line - used)
			break;
		used += (size_t)k;
		if (!strcmp(json_text(s, "saw"), "text") && saw)
			saw = !*saw || !strcmp(saw, json_text(s, "node")) ? json_text(s, "node") : NULL;
	}
	const char *via = json_text(yyjson_obj_get(e, "via"), "node");
	if (*via)
		snprintf(line + used, sizeof line - used, _("; %s answered in this node's place and saw the text"), via);
	else if (saw && *saw && n > 1)
		snprintf(line + used, sizeof line - used, _("; text was seen at %s only"), saw);
	struct fold fold;
	fold_init(&fold, stderr);
	if (c->cli->progress)
		fputs("\033[2m", stderr);
	fold_add(&fold, line, strlen(line));
	fold_end(&fold);
	fputs(c->cli->progress ? "\033[0m\n" : "\n", stderr);
}

static void add_message(struct chat *c, const char *role, const char *text, size_t n)
{
	yyjson_mut_val *m = yyjson_mut_arr_add_obj(c->doc, c->messages);
	yyjson_mut_obj_add_strcpy(c->doc, m, "role", role);
	yyjson_mut_obj_add_strncpy(c->doc, m, "content", text, n);
}

static int ask_once(struct chat *c, const char *prompt)
{
	add_message(c, "user", prompt, strlen(prompt));
	int status = post(c);
	if (status) {
		if (!c->cli->json && c->answer.length)
			putchar('\n');
		return cli_fail(c->cli, status, status == EXIT_LATER ? "BUSY" : "REFUSED", status == EXIT_LATER ? N_("essaim model list shows how far it is") : NULL,
				"%s", c->error);
	}
	if (!c->cli->json) {
		putchar('\n');
		fflush(stdout);
		print_figures(c);
		return EXIT_DONE;
	}
	yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
	yyjson_mut_val *root = yyjson_mut_obj(doc), *e;
	yyjson_mut_doc_set_root(doc, root);
	yyjson_mut_obj_add_str(doc, root, "model", c->model);
	yyjson_mut_obj_add_strn(doc, root, "answer", c->answer.data ? (char *)c->answer.data : "", c->answer.length);
	yyjson_mut_obj_add_uint(doc, root, "tokens", c->tokens);
	yyjson_mut_obj_add_uint(doc, root, "prompt_tokens", c->prompt_tokens);
	yyjson_val *end = yyjson_doc_get_root(c->end);
	yyjson_mut_obj_add_strcpy(doc, root, "finish", json_text(yyjson_arr_get_first(yyjson_obj_get(end, "choices")), "finish_reason"));
	e = yyjson_val_mut_copy(doc, yyjson_obj_get(end, "essaim"));
	if (e)
		yyjson_mut_obj_add_val(doc, root, "essaim", e);
	char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
	puts(text ? text : "{}");
	free(text);
	yyjson_mut_doc_free(doc);
	return EXIT_DONE;
}

static int converse(struct chat *c)
{
	struct sigaction action = {.sa_handler = on_interrupt}, before;
	sigaction(SIGINT, &action, &before);
	fprintf(stderr, _("%s. Ctrl-C stops an answer, Ctrl-D ends. Nothing is kept.\n"), c->model);
	for (;;) {
		interrupted = 0;         /* by the end of the answer before, perhaps */
		char *prompt = readline("> ");
		if (!prompt && interrupted) {
			putchar('\n');
			continue;
		}
		if (!prompt)
			break;
		if (*prompt) {
			add_message(c, "user", prompt, strlen(prompt));
			int status = post(c);
			putchar('\n');
			if (interrupted) {
				add_message(c, "assistant", c->answer.data ? (char *)c->answer.data : "", c->answer.length);
			} else if (status) {
				cli_fail(c->cli, status, "", NULL, "%s", c->error);
				yyjson_mut_arr_remove_last(c->messages);         /* the question may be asked again */
			} else {
				add_message(c, "assistant", c->answer.data ? (char *)c->answer.data : "", c->answer.length);
				print_figures(c);
			}
		}
		memset(prompt, 0, strlen(prompt));
		free(prompt);
	}
	putchar('\n');
	sigaction(SIGINT, &before, NULL);
	return EXIT_DONE;
}

int command_chat(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{"system", required_argument, NULL, 'S'}, {"temperature", required_argument, NULL, 't'}, {"max-tokens", required_argument, NULL, 'm'},
		{"via", required_argument, NULL, 'v'}, {"seed", required_argument, NULL, 's'}, {"stop", required_argument, NULL, 'x'}, {"completion", no_argument, NULL, 'c'}, {NULL, 0, NULL, 0},
	};
	struct chat c = {.cli = cli, .temperature = TEMPERATURE};
	const char *system = NULL;
	int option, status;
	bool wrong = false;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		char *end = "";
		if (option == 'S')
			system = optarg;
		else if (option == 't')
			c.temperature = strtod(optarg, &end);
		else if (option == 'm')
			c.max_tokens = strtoul(optarg, &end, 10);
		else if (option == 's') {
			c.seed = strtoll(optarg, &end, 10);
			c.has_seed = true;
		} else if (option == 'x' && c.n_stops < 4)
			c.stops[c.n_stops++] = optarg;
		else if (option == 'c')
			c.completion = true;
		else if (option == 'v')
			c.via = optarg;
		else
			wrong = true;
		wrong |= *end != 0;
	}
	int words = argc - optind;
	if (wrong || words > 2)
		return cli_usage(cli, "chat", wrong ? N_("that option or its value is not usable") : N_("put the prompt in quotes"));
	const char *given = words ? argv[optind] : NULL, *question = words == 2 ? argv[optind + 1] : NULL;
	text_copy(c.model, sizeof c.model, given ? given : "");
	if ((status = choose_model(&c, given, &question)))
		return status;
	bool conversation = !question && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !cli->json;
	if (!question && !conversation && isatty(STDIN_FILENO))
		return cli_usage(cli, "chat", "what is the question? essaim chat MODEL \"PROMPT\"");
	if ((status = find_api(&c)))
		return status;
	curl_global_init(CURL_GLOBAL_DEFAULT);
	buf_init(&c.line, ANSWER_MAX);
	buf_init(&c.answer, ANSWER_MAX);
	c.doc = yyjson_mut_doc_new(NULL);
	c.messages = yyjson_mut_arr(c.doc);
	if (system)
		add_message(&c, "system", system, strlen(system));
	if (conversation) {
		status = converse(&c);
	} else if (question) {
		status = ask_once(&c, question);
	} else {
		struct buf prompt;               /* from a pipe */
		char part[4096];
		size_t n;
		buf_init(&prompt, ANSWER_MAX);
		while ((n = fread(part, 1, sizeof part, stdin)) && !buf_append(&prompt, part, n))
			;
		status = prompt.length ? ask_once(&c, buf_cstr(&prompt)) : cli_usage(cli, "chat", "standard input had no question");
		buf_release(&prompt);
	}
	yyjson_mut_doc_free(c.doc);
	yyjson_doc_free(c.end);
	buf_release(&c.line);
	buf_release(&c.answer);
	curl_global_cleanup();
	return status;
}
