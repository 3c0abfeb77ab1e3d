/* test_cli.c: what `essaim` prints and returns.
 *
 * Tables and folded text are printed into memory. The program itself is run as a person would run it, against a home where nobody is,
 * and against a daemon that is a script: it takes one request and gives the lines that the test wants.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "cli/cli.h"

#define OUT_MAX 65536

/* --- the program ---------------------------------------------------------------------------------------------- */

struct run {
	int status;
	char out[OUT_MAX], err[OUT_MAX];
	char request[OUT_MAX];                 /* what the scripted daemon was asked; "" when it was not */
};

static char home[64];

static void read_all(int fd, char *text)
{
	size_t n = 0;
	ssize_t k;
	while (n < OUT_MAX - 1 && ((k = read(fd, text + n, OUT_MAX - 1 - n)) > 0 || (k < 0 && errno == EINTR)))
		n += k > 0 ? (size_t)k : 0;
	text[n] = '\0';
	close(fd);
}

/* Takes one connection and one line, and answers. Ends with the test. */
static pid_t start_daemon(const char *answer, int *request_fd)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int ends[2];
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(address.sun_path, sizeof address.sun_path, "%s/control.sock", home);
	unlink(address.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(pipe(ends), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char c;
		int client = accept(fd, NULL, NULL);
		while (read(client, &c, 1) == 1 && write(ends[1], &c, 1) == 1 && c != '\n')
			;
		if (write(client, answer, strlen(answer)) < 0)
			_exit(1);
		_exit(0);
	}
	close(fd);
	close(ends[1]);
	*request_fd = ends[0];
	return pid;
}

/* Runs essaim with these words; answer: of the scripted daemon, or NULL for none. Standard input is empty. */
static struct run *run(const char *answer, const char *words)
{
	static struct run r;
	char copy[1024], *argv[32] = {"essaim", "--home", home};
	size_t n = 3;
	int out[2], err[2], request_fd = -1;
	memset(&r, 0, sizeof r);
	pid_t daemon = answer ? start_daemon(answer, &request_fd) : 0;
	snprintf(copy, sizeof copy, "%s", words);
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
		argv[n++] = strcmp(word, "''") ? word : "";
	assert_int_equal(pipe(out), 0);
	assert_int_equal(pipe(err), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		dup2(err[1], STDERR_FILENO);
		close(out[0]);
		close(err[0]);
		execvp("essaim", argv);
		_exit(127);
	}
	close(out[1]);
	close(err[1]);
	read_all(out[0], r.out);
	read_all(err[0], r.err);
	waitpid(pid, &r.status, 0);
	assert_true(WIFEXITED(r.status));
	r.status = WEXITSTATUS(r.status);
	if (daemon) {
		if (r.status == EXIT_USAGE || r.status == EXIT_NO_DAEMON)
			kill(daemon, SIGTERM);         /* it was not asked */
		read_all(request_fd, r.request);
		waitpid(daemon, NULL, 0);
		char path[100];
		snprintf(path, sizeof path, "%s/control.sock", home);
		unlink(path);
	}
	if (r.status == 127)
		fail_msg("essaim is not in PATH");
	if (strstr(r.err, "Sanitizer") || strstr(r.err, "runtime error"))
		fail_msg("%s: %s", words, r.err);
	return &r;
}

/* --- what it returns --------------------------------------------------------------------------------------------- */

static void wrong_usage_is_said_and_returns_2(void **state)
{
	static const char *const words[] = {
		"", "fly", "--home", "init extra", "doctor extra", "init --flavour sweet", "status extra", "peers extra", "ring", "ring a b", "invite", "invite --partner extra",
		"invite --friend", "invite --node --hours soon", "invite --node --hours -5", "invite --node --hours 0", "join", "join a b", "agreement", "agreement fly", "agreement offer", "agreement offer A --tokens many", "agreement offer A --tokens -1",
		"agreement accept A --tokens 5", "agreement list extra", "roster", "roster fly", "roster remove", "model", "model fly", "model add",
		"model add --size", "model pull", "model pull a b", "model check", "model list extra", "chat a b c", "chat --temperature hot a b",
		"chat --max-tokens 5x a b", "chat --seed pepper a b", "chat --fly a b",
	};
	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		struct run *r = run(NULL, words[i]);
		if (r->status != EXIT_USAGE)
			fail_msg("'%s' returned %d: %s%s", words[i], r->status, r->out, r->err);
		assert_true(strstr(r->err, "Usage: essaim") || strstr(r->err, "--help"));
		assert_string_equal(r->out, "");
	}
}

static void wrong_usage_with_json_is_one_object(void **state)
{
	static const char *const words[] = {"--json fly", "status extra --json", "--json ring", "--json model pull", "--json invite"};
	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		struct run *r = run(NULL, words[i]);
		assert_int_equal(r->status, EXIT_USAGE);
		yyjson_doc *doc = yyjson_read(r->out, strlen(r->out), 0);
		assert_non_null(doc);
		assert_string_equal(yyjson_get_str(yyjson_doc_ptr_get(doc, "/error/code")), "EINVAL");
		assert_ptr_equal(strchr(r->out, '\n'), r->out + strlen(r->out) - 1);
		yyjson_doc_free(doc);
	}
}

static void help_is_printed_for_each_command(void **state)
{
	static const char *const words[] = {"init", "doctor", "status", "peers", "invite", "join", "agreement", "roster", "model", "ring", "chat"};
	struct run *r = run(NULL, "--help");
	assert_int_equal(r->status, EXIT_DONE);
	assert_string_equal(r->err, "");
	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		r = run(NULL, "--help");
		assert_non_null(strstr(r->out, words[i]));
		char text[64], usage[64];
		snprintf(text, sizeof text, "%s --help", words[i]);
		snprintf(usage, sizeof usage, "Usage: essaim %s ", words[i]);
		r = run(NULL, text);
		assert_int_equal(r->status, EXIT_DONE);
		assert_ptr_equal(strstr(r->out, usage), r->out);
	}
	r = run(NULL, "--version");
	assert_int_equal(r->status, EXIT_DONE);
	assert_ptr_equal(strstr(r->out, "essaim "), r->out);
}

static void where_no_daemon_runs_it_returns_3_and_says_how_to_start_one(void **state)
{
	static const char *const words[] = {"status", "peers", "model list", "ring histoires", "invite --node", "agreement list", "roster list", "chat histoires Bonjour"};
	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		struct run *r = run(NULL, words[i]);
		assert_int_equal(r->status, EXIT_NO_DAEMON);
		assert_non_null(strstr(r->err, "no essaimd runs on"));
		assert_non_null(strstr(r->err, "  -> "));
	}
	struct run *r = run(NULL, "--home /nowhere/at/all status");
	assert_int_equal(r->status, EXIT_NO_DAEMON);
	assert_non_null(strstr(r->err, "/nowhere/at/all"));
	r = run(NULL, "--json status");
	assert_int_equal(r->status, EXIT_NO_DAEMON);
	assert_non_null(strstr(r->out, "\"code\":\"ENODAEMON\""));
	assert_string_equal(r->err, "");
}

static void what_the_daemon_refuses_has_its_status(void **state)
{
	static const struct { const char *code; int status; } cases[] = {
		{"UNKNOWN", EXIT_UNKNOWN}, {"AMBIGUOUS", EXIT_UNKNOWN}, {"BUSY", EXIT_LATER}, {"ARRIVING", EXIT_LATER}, {"DENIED", EXIT_REFUSED},
		{"something new", EXIT_REFUSED},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char answer[200];
		snprintf(answer, sizeof answer, "{\"ok\":false,\"error\":{\"code\":\"%s\",\"message\":\"not\\u001bnow\",\"remedy\":\"wait\"}}\n", cases[i].code);
		struct run *r = run(answer, "model remove histoires");
		assert_int_equal(r->status, cases[i].status);
		assert_string_equal(r->err, "essaim: not?now\n  -> wait\n");
		r = run(answer, "--json model remove histoires");
		assert_int_equal(r->status, cases[i].status);
		yyjson_doc *doc = yyjson_read(r->out, strlen(r->out), 0);
		assert_string_equal(yyjson_get_str(yyjson_doc_ptr_get(doc, "/error/code")), cases[i].code);
		assert_string_equal(yyjson_get_str(yyjson_doc_ptr_get(doc, "/error/remedy")), "wait");
		yyjson_doc_free(doc);
	}
}

static void a_name_is_one_word_for_a_shell(void **state)
{
	char out[64], small[9];
	assert_string_equal(shell_word("essaim-demo@Ruche", out, sizeof out), "essaim-demo@Ruche");
	assert_string_equal(shell_word("m@L'été $(x)", out, sizeof out), "'m@L'\\''été $(x)'");
	assert_string_equal(shell_word("", out, sizeof out), "''");
	assert_string_equal(shell_word("'''''''''", small, sizeof small), "''\\'''");     /* cut, and still closed */
}

static void a_daemon_that_answers_nonsense_or_ends_is_said(void **state)
{
	static const char *const answers[] = {"", "nonsense\n", "{\"ok\":true", "{}\n", "[]\n", "{\"ok\":\"yes\"}\n"};
	for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
		struct run *r = run(answers[i], "peers");
		assert_int_equal(r->status, EXIT_REFUSED);
		assert_true(*r->err);
	}
}

static void answers_without_their_fields_do_no_harm(void **state)
{
	static const char *const words[] = {"status", "peers", "model list", "ring histoires", "invite --node", "agreement list", "roster list",
					    "join essaim://join/#x", "model pull histoires", "agreement accept A", "roster remove A"};
	static const char *const answers[] = {"{\"ok\":true}\n", "{\"ok\":true,\"result\":{}}\n", "{\"ok\":true,\"result\":[]}\n",
					      ("{\"progress\":7}\n{\"ok\":true,\"result\":{\"peers\":[7],\"models\":[{}],\"stages\":\"x\",\"nodes\":[null],"
					      "\"agreements\":[[]],\"warnings\":{},\"possible\":true,\"addresses\":[\"a\"]}}\n")};
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		for (size_t k = 0; k < sizeof answers / sizeof *answers; k++) {
			struct run *r = run(answers[k], words[i]);
			assert_true(r->status == EXIT_DONE || r->status == EXIT_LATER || r->status == EXIT_REFUSED);
		}
}

static void what_was_said_is_what_is_asked(void **state)
{
	struct run *r = run("{\"ok\":true,\"result\":{}}\n", "--json agreement offer Bourdon --tokens 1000 --priority 3 --model histoires");
	assert_int_equal(r->status, EXIT_DONE);
	yyjson_doc *doc = yyjson_read(r->request, strlen(r->request), 0);
	assert_non_null(doc);
	assert_string_equal(yyjson_get_str(yyjson_doc_ptr_get(doc, "/command")), "agreement_offer");
	assert_string_equal(yyjson_get_str(yyjson_doc_ptr_get(doc, "/args/association")), "Bourdon");
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/args/tokens_per_day")), 1000);
	assert_int_equal(yyjson_get_uint(yyjson_doc_ptr_get(doc, "/args/priority")), 3);
	assert_string_equal(yyjson_get_str(yyjson_doc_ptr_get(doc, "/args/models/0")), "histoires");
	yyjson_doc_free(doc);
	assert_string_equal(r->out, "{}\n");
}

static void a_ring_that_is_not_possible_returns_5(void **state)
{
	static const char answer[] = "{\"ok\":true,\"result\":{\"name\":\"histoires\",\"possible\":false,\"why\":\"nobody has layers 1 to 4\"}}\n";
	struct run *r = run(answer, "ring histoires");
	assert_int_equal(r->status, EXIT_LATER);
	assert_non_null(strstr(r->err, "nobody has layers 1 to 4"));
	r = run(answer, "--json ring histoires");
	assert_int_equal(r->status, EXIT_LATER);
	assert_non_null(strstr(r->out, "\"possible\":false"));
}

static void chat_says_before_the_first_question_that_there_is_no_such_model(void **state)
{
	const char *answer = "{\"ok\":true,\"result\":{\"models\":[{\"name\":\"histoires\",\"approved\":true},{\"name\":\"contes\",\"approved\":true}]}}\n";
	struct run *r = run(answer, "chat histoire");
	(void)state;
	assert_int_equal(r->status, EXIT_UNKNOWN);
	assert_non_null(strstr(r->err, "no model called histoire is known here"));
	assert_non_null(strstr(r->request, "model_list"));
	r = run(answer, "chat");
	assert_int_equal(r->status, EXIT_USAGE);
	assert_non_null(strstr(r->err, "which model: histoires, contes?"));
}

static void progress_is_not_part_of_the_answer(void **state)
{
	struct run *r = run("{\"progress\":{\"bytes_have\":1,\"bytes_wanted\":2}}\n{\"progress\":{}}\n{\"ok\":true,\"result\":{\"model\":{\"name\":\"histoires\"}}}\n",
			    "--json model pull histoires");
	assert_int_equal(r->status, EXIT_DONE);
	assert_string_equal(r->out, "{\"model\":{\"name\":\"histoires\"}}\n");
}

/* --- what it prints ----------------------------------------------------------------------------------------------- */

static char *printed(struct cli *cli, struct table *table)
{
	char *text = NULL;
	size_t n;
	FILE *out = open_memstream(&text, &n);
	assert_non_null(out);
	table_print(table, cli, out);
	fclose(out);
	return text;
}

static void columns_are_as_wide_as_their_widest_cell(void **state)
{
	static const char *const headings[] = {"node", ">size", "why"};
	struct cli cli = {.terminal = true};
	struct table t;
	table_init(&t, 3, headings);
	table_row(&t, "Abeille", "7 B", "ready");
	table_row(&t, "\xc3\xa9t\xc3\xa9", "1023 KiB", "");
	table_row(&t, "\xe8\x9c\x82\xe8\x9c\x82", "", NULL);      /* two bees, two columns each */
	char *text = printed(&cli, &t);
	assert_string_equal(text, "\033[2mnode         size  why\n\033[0m"
				  "Abeille       7 B  ready\n"
				  "\xc3\xa9t\xc3\xa9      1023 KiB  \n"
				  "\xe8\x9c\x82\xe8\x9c\x82               \n");
	free(text);
}

static void programs_get_tabs(void **state)
{
	static const char *const headings[] = {"node", ">size"};
	struct cli cli = {0};
	struct table t;
	table_init(&t, 2, headings);
	table_row(&t, "Abeille", "7 B");
	char *text = printed(&cli, &t);
	assert_string_equal(text, "node\tsize\nAbeille\t7 B\n");
	free(text);
}

static void nothing_from_others_steers_the_terminal(void **state)
{
	static const char *const headings[] = {"node", "why"};
	struct cli cli = {.terminal = true};
	struct table t;
	table_init(&t, 2, headings);
	table_row(&t, "\033[2JAbeille\n", "a\x7f\xc2\x9b" "b\r\xc3\xa9");
	char *text = printed(&cli, &t);
	assert_non_null(strstr(text, "?[2JAbeille?  a???b?\xc3\xa9\n"));
	free(text);

	struct fold fold = {.width = 80};
	size_t n;
	fold.out = open_memstream(&text, &n);
	fold_add(&fold, "oui \033]0;titre\007 non", strlen("oui \033]0;titre\007 non"));
	fold_end(&fold);
	fclose(fold.out);
	assert_string_equal(text, "oui ?]0;titre? non");
	free(text);
}

static void widths_are_columns_not_bytes(void **state)
{
	assert_int_equal(text_width(""), 0);
	assert_int_equal(text_width("abc"), 3);
	assert_int_equal(text_width("\xc3\xa9t\xc3\xa9"), 3);
	assert_int_equal(text_width("e\xcc\x81"), 1);                    /* an e and an accent that joins it */
	assert_int_equal(text_width("\xe8\x9c\x82"), 2);
	assert_int_equal(text_width("a\xff\xfe"), 3);
}

/* Fed in pieces of every size, the same comes out, and no line is longer than the terminal is wide. */
static void folded_text_keeps_its_words_and_lines(void **state)
{
	static const char text[] = "Il \xc3\xa9tait une fois une abeille  qui\n\nallait tr\xc3\xa8s-loin-jusqu-au-bout-du-monde et revint.";
	static const char want[] = "Il \xc3\xa9tait une fois\nune abeille  qui\n\nallait\ntr\xc3\xa8s-loin-jusqu-au-bout-du-monde\net revint.";
	for (size_t step = 1; step < sizeof text; step++) {
		struct fold fold = {.width = 20};
		char *out = NULL;
		size_t n;
		fold.out = open_memstream(&out, &n);
		for (size_t at = 0; at < sizeof text - 1; at += step)
			fold_add(&fold, text + at, step < sizeof text - 1 - at ? step : sizeof text - 1 - at);
		fold_end(&fold);
		fclose(fold.out);
		assert_string_equal(out, want);
		free(out);
	}
}

static void layers_are_listed_as_people_count_them(void **state)
{
	static const struct { const char *json, *text; } cases[] = {
		{"[[0,3],[11,12]]", "0-2, 11"}, {"[]", ""}, {"[[4,5]]", "4"}, {"[[0,12]]", "0-11"},
	};
	char out[160], tight[8];
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		yyjson_doc *doc = yyjson_read(cases[i].json, strlen(cases[i].json), 0);
		assert_string_equal(layers_text(yyjson_doc_get_root(doc), out, sizeof out), cases[i].text);
		yyjson_doc_free(doc);
	}
	assert_string_equal(layers_text(NULL, out, sizeof out), "");
	yyjson_doc *doc = yyjson_read("[[100,200],[300,400]]", 21, 0);
	layers_text(yyjson_doc_get_root(doc), tight, sizeof tight);
	assert_true(strlen(tight) < sizeof tight);
	yyjson_doc_free(doc);
}

static int set_up(void **state)
{
	strcpy(home, "/tmp/essaim-cli-XXXXXX");
	unsetenv("ESSAIM_HOME");
	return mkdtemp(home) && setlocale(LC_CTYPE, "C.UTF-8") ? 0 : -1;
}

static int take_down(void **state)
{
	return rmdir(home);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_usage_is_said_and_returns_2),
		cmocka_unit_test(wrong_usage_with_json_is_one_object),
		cmocka_unit_test(help_is_printed_for_each_command),
		cmocka_unit_test(where_no_daemon_runs_it_returns_3_and_says_how_to_start_one),
		cmocka_unit_test(what_the_daemon_refuses_has_its_status),
		cmocka_unit_test(a_name_is_one_word_for_a_shell),
		cmocka_unit_test(a_daemon_that_answers_nonsense_or_ends_is_said),
		cmocka_unit_test(answers_without_their_fields_do_no_harm),
		cmocka_unit_test(what_was_said_is_what_is_asked),
		cmocka_unit_test(a_ring_that_is_not_possible_returns_5),
		cmocka_unit_test(progress_is_not_part_of_the_answer),
		cmocka_unit_test(columns_are_as_wide_as_their_widest_cell),
		cmocka_unit_test(programs_get_tabs),
		cmocka_unit_test(nothing_from_others_steers_the_terminal),
		cmocka_unit_test(widths_are_columns_not_bytes),
		cmocka_unit_test(folded_text_keeps_its_words_and_lines),
		cmocka_unit_test(layers_are_listed_as_people_count_them),
		cmocka_unit_test(chat_says_before_the_first_question_that_there_is_no_such_model),
	};
	return cmocka_run_group_tests(tests, set_up, take_down);
}
