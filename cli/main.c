/* essaim: the command line. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include <config.h>

static const struct {
	const char *name;
	int (*run)(struct cli *cli, int argc, char **argv);
	const char *usage, *help;
} commands[] = {
	{"init", command_init, "[--association NAME | --joining] [--name NAME] [--memory SIZE] [--demo-model] [--set SECTION.KEY=VALUE]...",
	 N_("make a home: keys, configuration, an association")},
	{"status", command_status, "[--watch]", N_("who this node is, who sees it, what it shares, what is wrong")},
	{"pause", command_pause, "[--for DURATION]", N_("share nothing, until resume or for a while (30m, 2h, 1d); memory is given back")},
	{"resume", command_resume, "", N_("share again after a pause")},
	{"doctor", command_doctor, "", N_("look for what is wrong, and say what to do")},
	{"peers", command_peers, "", N_("the other nodes and the links to them")},
	{"invite", command_invite, "--partner | --node [--address HOST:PORT]... [--hours N]", N_("let another association, or another node of this one, in")},
	{"join", command_join, "URL", N_("use an invitation")},
	{"agreement", command_agreement,
	 "offer ASSOCIATION [--model MODEL]... [--tokens N] [--seconds N] [--priority 0-9] [--days N]\n"
	 "       essaim agreement accept | decline | revoke ASSOCIATION\n       essaim agreement list", N_("who may use whose nodes, and how much")},
	{"roster", command_roster, "list\n       essaim roster remove NODE", N_("the nodes of this association")},
	{"steward", command_steward, "renew\n       essaim steward new [--fresh]", N_("with the root key: the steward key for another 90 days, or a new one")},
	{"leave", command_leave, "ASSOCIATION", N_("no longer be a node of this association")},
	{"model", command_model,
	 "add FILE [--name NAME] [--licence SPDX] [--private]\n       essaim model list\n       essaim model pull MODEL [--no-wait]\n"
	 "       essaim model check FILE [--stages K] [--tokens N] [--prompt TEXT]\n       essaim model remove | clear MODEL", N_("publish, fetch and check models")},
	{"ring", command_ring, "MODEL", N_("which nodes would answer with a model, and what each sees")},
	{"chat", command_chat, "[MODEL] [PROMPT] [--system TEXT] [--temperature T] [--max-tokens N] [--seed N] [--stop TEXT] [--completion] [--via NODE]",
	 N_("ask; without a PROMPT, a conversation")},
};
#define COMMANDS (sizeof commands / sizeof *commands)

static void print_help(FILE *out)
{
	fprintf(out, _("Usage: essaim [--home DIR] [--json] COMMAND ...\n\n"));
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(out, "  %-10s %s\n", commands[i].name, _(commands[i].help));
	fprintf(out, _("\nessaim COMMAND --help says more. The home is --home, else $ESSAIM_HOME, else\n"
		     "/var/lib/essaim/home when it can be read, else ~/.local/share/essaim.\n\n"
		     "Exit status: 0 done, 1 refused, 2 wrong usage, 3 essaimd does not run,\n"
		     "4 not found, 5 busy or still arriving.\n"));
}

int cli_usage(struct cli *cli, const char *command, const char *format, ...)
{
	va_list ap;
	char text[512];
	va_start(ap, format);
	vsnprintf(text, sizeof text, cli->json ? format : _(format), ap);
	va_end(ap);
	for (size_t i = 0; i < COMMANDS; i++)
		if (!strcmp(commands[i].name, command) && !cli->json) {
			fprintf(stderr, _("essaim: %s\nUsage: essaim %s %s\n"), text, command, commands[i].usage);
			return EXIT_USAGE;
		}
	return cli_fail(cli, EXIT_USAGE, "EINVAL", NULL, "%s", text);
}

static const char *default_home(void)
{
	static char path[4096];
	const char *set = getenv("ESSAIM_HOME"), *user = getenv("HOME");
	if (set && *set)
		return set;
	if (!access("/var/lib/essaim/home", R_OK | X_OK))
		return "/var/lib/essaim/home";
	snprintf(path, sizeof path, "%s/.local/share/essaim", user ? user : "");
	/* Who is not in the service's group is told so, rather than that he has no home of his own. */
	if (access(path, F_OK) && !access("/var/lib/essaim/home", F_OK))
		return "/var/lib/essaim/home";
	return path;
}

const char *find_program(const char *variable, const char *name, const char *build_folder, const char *installed)
{
	static char found[4][4096];
	static int used;
	char self[4096];
	char *out = found[used++ & 3];
	const char *set = getenv(variable);
	if (set && *set)
		return set;
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n > 0) {
		self[n] = 0;
		char *slash = strrchr(self, '/');
		*slash = 0;
		snprintf(out, 4096, "%.3000s/%s", self, name);
		if (!access(out, X_OK))
			return out;
		snprintf(out, 4096, "%.3000s/../%s/%s", self, build_folder, name);
		if (!access(out, X_OK))
			return out;
	}
	return access(installed, X_OK) ? NULL : installed;
}

int main(int argc, char **argv)
{
	struct cli cli = {.home = default_home(), .terminal = isatty(STDOUT_FILENO)};
	const char *plain = getenv("NO_COLOR");
	language_choose();
	/* --home, --json and --help may stand anywhere: take them out, and leave the rest to the command. */
	char **rest = calloc((size_t)argc + 1, sizeof *rest);
	int n = 0;
	bool help = false;
	if (!rest)
		return EXIT_REFUSED;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--")) {
			while (i < argc)
				rest[n++] = argv[i++];
		} else if (!strcmp(argv[i], "--json")) {
			cli.json = true;
		} else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			help = true;
		} else if (!strncmp(argv[i], "--home=", 7)) {
			cli.home = argv[i] + 7;
		} else if (!strcmp(argv[i], "--home") && i + 1 < argc) {
			cli.home = argv[++i];
		} else {
			rest[n++] = argv[i];
		}
	}
	cli.progress = !cli.json && isatty(STDERR_FILENO);
	if (cli.json || (plain && *plain))
		cli.terminal = false;
	if (n && !strcmp(rest[0], "--version")) {
		printf("essaim %s\n", PACKAGE_VERSION);
		free(rest);
		return 0;
	}
	if (!n) {
		print_help(help ? stdout : stderr);
		free(rest);
		return help ? EXIT_DONE : EXIT_USAGE;
	}
	int status = -1;
	for (size_t i = 0; i < COMMANDS && status < 0; i++) {
		if (strcmp(commands[i].name, rest[0]))
			continue;
		if (help) {
			printf(_("Usage: essaim %s %s\n\n%s\n"), commands[i].name, commands[i].usage, _(commands[i].help));
			status = EXIT_DONE;
		} else {
			optind = 0;
			status = commands[i].run(&cli, n, rest);
		}
	}
	if (status < 0)
		status = cli_fail(&cli, EXIT_USAGE, "EINVAL", "essaim --help lists the commands", "there is no command '%s'", rest[0]);
	free(rest);
	return status;
}
