/* essaim init: at most three questions, then `essaimd --init` does it. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include <config.h>
#include "proto/text.h"

/* Half of what the machine has free now, in whole GiB; at least one. */
static uint64_t propose_memory(void)
{
	char line[256];
	unsigned long long kib = 2u << 20;
	FILE *f = fopen("/proc/meminfo", "re");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	uint64_t gib = kib / 2 >> 20;
	return gib ? gib : 1;
}

static const char *question(const char *text, const char *proposal, char *out, size_t size)
{
	fprintf(stderr, "%s [%s]: ", text, proposal);
	fflush(stderr);
	if (!fgets(out, (int)size, stdin))
		out[0] = 0;
	out[strcspn(out, "\n")] = 0;
	if (!out[0])
		text_copy(out, size, proposal);
	return out;
}

int run_daemon(struct cli *cli, const char *const *args, yyjson_doc **out)
{
	const char *daemon = find_program("ESSAIM_DAEMON", "essaimd", "daemon", BINDIR "/essaimd");
	int ends[2];
	*out = NULL;
	if (!daemon) {
		cli_fail(cli, EXIT_REFUSED, "ENOENT", "install it, or set $ESSAIM_DAEMON to its path", "essaimd is not found");
		return -1;
	}
	if (pipe(ends)) {
		cli_fail(cli, EXIT_REFUSED, "EPIPE", NULL, "%s", strerror(errno));
		return -1;
	}
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		execv(daemon, (char *const *)args);
		_exit(127);
	}
	close(ends[1]);
	char text[1 << 16];
	size_t n = 0;
	ssize_t k;
	while (n < sizeof text - 1 && (k = read(ends[0], text + n, sizeof text - 1 - n)) > 0)
		n += (size_t)k;
	close(ends[0]);
	int status = 0;
	waitpid(pid, &status, 0);
	*out = yyjson_read(text, n, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_REFUSED;
}

/* Runs the daemon with --init and reads its one line. */
static int run_init(struct cli *cli, const char *const *args, yyjson_doc **out)
{
	if (run_daemon(cli, args, out) < 0)
		return EXIT_REFUSED;
	yyjson_val *root = yyjson_doc_get_root(*out);
	if (json_bool(root, "ok"))
		return 0;
	yyjson_val *error = yyjson_obj_get(root, "error");
	const char *message = json_text(error, "message");
	int result = cli_fail(cli, EXIT_REFUSED, error ? json_text(error, "code") : "EINIT", NULL, "%s", *message ? translated(message) : _("essaimd --init failed"));
	yyjson_doc_free(*out);
	*out = NULL;
	return result;
}

int install_demo_model(struct cli *cli)
{
	char to[4096], part[1 << 16];
	const char *set = getenv("ESSAIM_DEMO_MODEL");
	const char *places[] = {set && *set ? set : NULL, PKGDATADIR "/" DEMO_MODEL, SRCDIR "/contrib/demo-model/" DEMO_MODEL};
	FILE *in = NULL, *out;
	size_t n;
	for (size_t i = 0; i < 3 && !in; i++)
		in = places[i] ? fopen(places[i], "re") : NULL;
	if (!in)
		return cli_fail(cli, EXIT_UNKNOWN, "ENOENT", "set $ESSAIM_DEMO_MODEL to a GGUF file", "the demonstration model is not installed here");
	snprintf(to, sizeof to, "%s/%s", cli->home, DEMO_MODEL);
	out = fopen(to, "wxe");
	while (out && (n = fread(part, 1, sizeof part, in)))
		if (fwrite(part, 1, n, out) != n)
			break;
	bool failed = !out || ferror(in) || ferror(out);
	fclose(in);
	if (out && (fclose(out) || failed)) {
		failed = true;
		remove(to);
	}
	return failed ? cli_fail(cli, EXIT_REFUSED, "EIO", "make room, or mend the folder's rights", "%s cannot be written: %s", to, strerror(errno))
		      : EXIT_DONE;
}

/* The folder of a service is there before its home is made, and belongs to the service's user: root makes the home as that user. */
static int become_owner(struct cli *cli)
{
	struct stat st;
	if (geteuid() || stat(cli->home, &st) || !st.st_uid)
		return 0;
	if (setgroups(0, NULL) || setresgid(st.st_gid, st.st_gid, st.st_gid) || setresuid(st.st_uid, st.st_uid, st.st_uid))
		return cli_fail(cli, EXIT_REFUSED, "EPERM", "run this as that user", "%s belongs to user %u, who cannot be become: %s", cli->home,
				(unsigned)st.st_uid, strerror(errno));
	return 0;
}

int command_init(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{"association", required_argument, NULL, 'a'}, {"name", required_argument, NULL, 'n'}, {"memory", required_argument, NULL, 'm'},
		{"joining", no_argument, NULL, 'j'}, {"demo-model", no_argument, NULL, 'd'}, {"set", required_argument, NULL, 's'}, {NULL, 0, NULL, 0},
	};
	const char *association = NULL, *name = NULL, *memory = NULL, *settings[32];
	char answers[3][128], host[64] = "node", proposal[32];
	bool joining = false, demo = false;
	size_t n_settings = 0;
	int option;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'a')
			association = optarg;
		else if (option == 'n')
			name = optarg;
		else if (option == 'm')
			memory = optarg;
		else if (option == 'j')
			joining = true;
		else if (option == 'd')
			demo = true;
		else if (option == 's' && n_settings < 32)
			settings[n_settings++] = optarg;
		else
			return cli_usage(cli, "init", "that is no option of init");
	}
	if (optind < argc)
		return cli_usage(cli, "init", "init takes options only");
	bool ask = isatty(STDIN_FILENO) && isatty(STDERR_FILENO) && !cli->json;
	gethostname(host, sizeof host - 1);
	host[strcspn(host, ".")] = 0;
	if (!association && !joining && ask)
		association = question(_("Your association's name"), _("My association"), answers[0], sizeof answers[0]);
	if (!association && !joining)
		return cli_usage(cli, "init", "say --association NAME, or --joining if this machine will join one");
	if (!name)
		name = ask ? question(_("This machine's name"), host, answers[1], sizeof answers[1]) : host;
	if (!memory) {
		snprintf(proposal, sizeof proposal, "%lluG", (unsigned long long)propose_memory());
		memory = ask ? question(_("Memory to share for models"), proposal, answers[2], sizeof answers[2]) : proposal;
	}
	const char *args[96] = {"essaimd", "--home", cli->home, "--init", "--name", name, "--memory", memory};
	size_t n = 8;
	if (joining) {
		args[n++] = "--joining";
	} else {
		args[n++] = "--association";
		args[n++] = association;
	}
	for (size_t i = 0; i < n_settings; i++) {
		args[n++] = "--set";
		args[n++] = settings[i];
	}
	yyjson_doc *doc;
	int status = become_owner(cli);
	if (status)
		return status;
	status = run_init(cli, args, &doc);
	if (!status && demo && (status = install_demo_model(cli)))
		yyjson_doc_free(doc);
	if (status || client_print_json(cli, doc))
		return status;
	printf(_("%sThis home is ready:%s %s\n\n"), bold(cli, true), bold(cli, false), cli->home);
	printf(_("  essaim.conf     what this machine shares (%s of memory) and its ports\n"), memory);
	printf(_("  keys/api.key    the key that programs need to ask here\n"));
	if (!joining) {
		printf(_("  keys/root.key   %s's root key. It can make and\n"
		       "                  unmake the association: copy it to a safe place off this\n"
		       "                  machine (a USB stick in a drawer), then delete it here. It is\n"
		       "                  needed again within %d days, to renew the steward key.\n"), association, 90);
	}
	if (demo)
		printf(_("  %-15s a small model to try it with: essaim chat\n"), DEMO_MODEL);
	/* A service's home: it is the service that runs there. */
	char start[4200] = "systemctl start essaimd";
	if (strcmp(cli->home, "/var/lib/essaim/home"))
		snprintf(start, sizeof start, "essaimd --home %s", cli->home);
	printf(_("\nNext: start the node\n  %s\nthen %s\n"), start,
	       joining ? _("join, with the invitation made by `essaim invite --node` on the other server\n  essaim join URL")
		       : _("bring others in\n  essaim invite --node       (a second server of yours)\n  essaim invite --partner    (another association)"));
	yyjson_doc_free(doc);
	return EXIT_DONE;
}
