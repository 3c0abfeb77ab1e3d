/* essaim doctor: asks the daemon, or, where none runs, has essaimd look at the home without running.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define STATE_WIDTH 11

/* The findings without a daemon, the first of which is that there is none. */
static int look_without(struct cli *cli, yyjson_doc **out)
{
	const char *args[] = {"essaimd", "--home", cli->home, "--doctor", NULL};
	yyjson_doc *doc;
	int status = run_daemon(cli, args, &doc);
	if (status < 0)
		return EXIT_REFUSED;
	yyjson_val *checks = yyjson_obj_get(yyjson_doc_get_root(doc), "checks"), *c;
	if (!checks) {
		yyjson_doc_free(doc);
		return cli_fail(cli, EXIT_REFUSED, "EDOCTOR", "is essaimd of the same version as essaim?", "essaimd --doctor said nothing");
	}
	yyjson_mut_val *root;
	yyjson_mut_doc *mine = client_args(&root);
	yyjson_mut_val *result = yyjson_mut_obj_add_obj(mine, root, "result"), *list, *first;
	yyjson_mut_obj_add_bool(mine, result, "ok", false);
	list = yyjson_mut_obj_add_arr(mine, result, "checks");
	first = yyjson_mut_arr_add_obj(mine, list);
	yyjson_mut_obj_add_str(mine, first, "check", "daemon");
	yyjson_mut_obj_add_str(mine, first, "state", "bad");
	yyjson_mut_obj_add_strcpy(mine, first, "text", N_("no essaimd runs on this home, or you may not speak to it"));
	yyjson_mut_obj_add_strcpy(mine, first, "remedy", N_("start it (systemctl start essaimd, or essaimd --home DIR), or run this as root; its log says why it "
							     "ended (journalctl -u essaimd)"));
	size_t i, n;
	yyjson_arr_foreach(checks, i, n, c)
		yyjson_mut_arr_append(list, yyjson_val_mut_copy(mine, c));
	*out = yyjson_mut_doc_imut_copy(mine, NULL);
	yyjson_mut_doc_free(mine);
	yyjson_doc_free(doc);
	return 0;
}

/* What findings are about, and how bad they are. */
static const char *const words[] = {N_("home"), N_("configuration"), N_("keys"), N_("disk"), N_("memory"), N_("ports"), N_("clock"), N_("versions"), N_("peers"),
				    N_("node"), N_("reach"), N_("links"), N_("weights"), N_("router"), N_("daemon"), N_("skipped"), N_("warning"), N_("bad")};

/* A word from the daemon; one that is not among ours is shown as it is. */
static const char *word(const char *text)
{
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (!strcmp(words[i], text))
			return translated(text);
	return text;
}

int command_doctor(struct cli *cli, int argc, char **argv)
{
	if (argc > 1)
		return cli_usage(cli, argv[0], "doctor takes nothing more");
	yyjson_doc *doc = NULL;
	if (cli->progress && client_has_daemon(cli))
		fputs(_("Looking, and asking neighbours to dial this node (half a minute at most) ...\n"), stderr);
	int status = client_has_daemon(cli) ? client_call(cli, "doctor", NULL, NULL, NULL, &doc) : look_without(cli, &doc);
	if (status)
		return status;
	yyjson_val *result = client_result(doc), *c;
	bool ok = json_bool(result, "ok");
	size_t i, n;
	if (client_print_json(cli, doc))
		return ok ? EXIT_DONE : EXIT_REFUSED;
	yyjson_arr_foreach(yyjson_obj_get(result, "checks"), i, n, c)
	{
		char said[2048];
		const char *state = json_text(c, "state"), *name = word(json_text(c, "check"));
		bool good = !strcmp(state, "good"), skipped = !strcmp(state, "skipped");
		const char *on = good ? green(cli, true) : skipped ? dim(cli, true) : red(cli, true), *off = red(cli, false);
		const char *how = good ? _("ok") : word(state);
		printf(_("%s%s%*s%s%s%s%s: "), on, how, STATE_WIDTH - text_width(how), "", off, bold(cli, true), name, bold(cli, false));
		fold_print(stdout, STATE_WIDTH + text_width(name) + 2, STATE_WIDTH, "%s", plain_text((char *)json_said(c, "text", said, sizeof said)));
		if (*json_text(c, "remedy"))
			fold_print(stdout, 0, STATE_WIDTH + 3, "%*s-> %s", STATE_WIDTH, "", plain_text((char *)json_said(c, "remedy", said, sizeof said)));
	}
	printf("\n%s\n", ok ? _("Nothing is wrong.") : _("Something is wrong: what to do stands behind each arrow."));
	yyjson_doc_free(doc);
	return ok ? EXIT_DONE : EXIT_REFUSED;
}
