/* invite, join, agreement, roster. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <getopt.h>
#include <qrencode.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define HOURS_MAX 720               /* the daemon says so too */

/* Two modules a character, dark on light whatever the terminal's colours. */
static void print_qr(struct cli *cli, const char *text)
{
	QRcode *code = cli->terminal ? QRcode_encodeString8bit(text, 0, QR_ECLEVEL_L) : NULL;
	if (!code)
		return;
	int w = code->width;
	for (int y = -2; y < w + 2; y += 2) {
		fputs("  \033[30;107m", stdout);
		for (int x = -2; x < w + 2; x++) {
			bool upper = x >= 0 && x < w && y >= 0 && y < w && code->data[y * w + x] & 1;
			bool lower = x >= 0 && x < w && y + 1 >= 0 && y + 1 < w && code->data[(y + 1) * w + x] & 1;
			fputs(upper ? lower ? "█" : "▀" : lower ? "▄" : " ", stdout);
		}
		fputs("\033[0m\n", stdout);
	}
	QRcode_free(code);
}

int command_invite(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{"partner", no_argument, NULL, 'p'}, {"node", no_argument, NULL, 'n'}, {"address", required_argument, NULL, 'a'},
		{"hours", required_argument, NULL, 'h'}, {NULL, 0, NULL, 0},
	};
	const char *role = NULL;
	unsigned long hours = 72;
	char *end = "";
	int option;
	yyjson_mut_val *args;
	yyjson_mut_doc *request = client_args(&args);
	yyjson_mut_val *addresses = yyjson_mut_arr(request);
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'p' || option == 'n')
			role = option == 'p' ? "partner" : "node";
		else if (option == 'a')
			yyjson_mut_arr_add_str(request, addresses, optarg);
		else if (option == 'h')
			hours = strtoul(optarg, &end, 10);
		else
			role = "";
	}
	if (*end || !hours || hours > HOURS_MAX) {
		yyjson_mut_doc_free(request);
		return cli_usage(cli, "invite", "--hours takes a number from 1 to %d", HOURS_MAX);
	}
	if (!role || !*role || optind < argc) {
		yyjson_mut_doc_free(request);
		return cli_usage(cli, "invite", "whom: --partner (another association) or --node (a server of this one)?");
	}
	yyjson_mut_obj_add_str(request, args, "role", role);
	yyjson_mut_obj_add_val(request, args, "addresses", addresses);
	yyjson_mut_obj_add_uint(request, args, "hours", hours);
	yyjson_doc *doc;
	int status = client_call(cli, "invite", request, NULL, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	yyjson_val *r = client_result(doc), *a;
	char when[32], said[REASON_SIZE];
	size_t i, n;
	printf("%s\n\n", json_text(r, "url"));
	print_qr(cli, json_text(r, "url"));
	putchar('\n');
	fold_print(stdout, 0, 0, _("Good once, until %s. Give it to %s over a channel you trust; there:\n  essaim join 'essaim://join/#...'"),
		   when_text(json_uint(r, "expires"), when), strcmp(role, "node") ? _("the other association's administrator") : _("your other server"));
	printf(_("\nIt will look for this node at:\n"));
	yyjson_arr_foreach(yyjson_obj_get(r, "addresses"), i, n, a)
		printf("  %s\n", yyjson_get_str(a));
	if (yyjson_obj_get(r, "hint"))
		fold_print(stdout, 0, 2, "-> %s", json_said(r, "hint", said, sizeof said));
	else
		printf(_("If none of these can be reached from there:\n  essaim invite --%s --address HOST:PORT\n"), role);
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

static void on_join_progress(struct cli *cli, yyjson_val *progress, void *arg)
{
	(void)arg;
	if (cli->progress)
		fprintf(stderr, "  %s\n", translated(json_text(progress, "text")));
}

static void print_agreements(struct cli *cli, yyjson_val *agreements)
{
	yyjson_val *a;
	size_t i, n;
	char when[32], said[400];
	yyjson_arr_foreach(agreements, i, n, a)
	{
		bool force = !strcmp(json_text(a, "state"), "in force");
		when_text(json_uint(a, "expires"), when);
		printf("  %s%s%s ", force ? green(cli, true) : bold(cli, true), translated(json_text(a, "state")), force ? green(cli, false) : bold(cli, false));
		fold_print(stdout, 3 + text_width(translated(json_text(a, "state"))), 4, _("until %.10s: %s"), when, json_said(a, "text", said, sizeof said));
	}
}

int command_join(struct cli *cli, int argc, char **argv)
{
	if (argc != 2)
		return cli_usage(cli, "join", "paste the whole invitation, in quotes");
	yyjson_mut_val *args;
	yyjson_mut_doc *request = client_args(&args);
	yyjson_mut_obj_add_str(request, args, "url", argv[1]);
	yyjson_doc *doc;
	int status = client_call(cli, "join", request, on_join_progress, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	yyjson_val *r = client_result(doc), *text;
	size_t i, n;
	bool partner = !strcmp(json_text(r, "role"), "partner");
	printf(partner ? _("You and %s know each other now.\n") : _("This node belongs to %s now.\n"), json_text(r, "association_name"));
	if (json_bool(r, "restart"))
		printf(_("Restart essaimd to begin.\n"));
	print_agreements(cli, yyjson_obj_get(r, "agreements"));
	yyjson_arr_foreach(yyjson_obj_get(r, "next"), i, n, text)
	{
		if (!i)
			printf(_("\nNext:\n"));
		fold_print(stdout, 0, 4, "  %s", translated(yyjson_get_str(text)));
	}
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

static int agreement_list(struct cli *cli)
{
	yyjson_doc *doc;
	int status = client_call(cli, "agreement_list", NULL, NULL, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	yyjson_val *agreements = yyjson_obj_get(client_result(doc), "agreements");
	if (!yyjson_arr_size(agreements))
		printf(_("No agreements. They begin with: essaim invite --partner\n"));
	print_agreements(cli, agreements);
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

static int agreement_change(struct cli *cli, const char *command, yyjson_mut_doc *request)
{
	yyjson_doc *doc;
	int status = client_call(cli, command, request, NULL, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	yyjson_val *a = yyjson_obj_get(client_result(doc), "agreement");
	char said[400];
	fold_print(stdout, 0, 2, _("%s: %s"), translated(json_text(a, "state")), json_said(a, "text", said, sizeof said));
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

int command_agreement(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{"model", required_argument, NULL, 'm'}, {"tokens", required_argument, NULL, 't'}, {"seconds", required_argument, NULL, 's'},
		{"priority", required_argument, NULL, 'p'}, {"days", required_argument, NULL, 'd'}, {NULL, 0, NULL, 0},
	};
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "list") && argc == 2)
		return agreement_list(cli);
	bool decline = !strcmp(what, "decline"), offer = !strcmp(what, "offer");
	if (!offer && !decline && strcmp(what, "accept") && strcmp(what, "revoke"))
		return cli_usage(cli, "agreement", "offer, accept, decline, revoke or list?");
	yyjson_mut_val *args;
	yyjson_mut_doc *request = client_args(&args);
	yyjson_mut_val *models = yyjson_mut_arr(request);
	int option;
	bool wrong = false;
	argc--;
	argv++;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		static const struct {
			int letter;
			const char *key;
		} keys[] = {{'t', "tokens_per_day"}, {'s', "stage_seconds_per_day"}, {'p', "priority"}, {'d', "days"}};
		wrong |= option == '?' || !offer;
		if (option == 'm')
			yyjson_mut_arr_add_str(request, models, optarg);
		for (size_t i = 0; i < 4; i++)
			if (keys[i].letter == option) {
				char *end;
				yyjson_mut_obj_add_uint(request, args, keys[i].key, strtoull(optarg, &end, 10));
				wrong |= *end || !*optarg || *optarg == '-';
			}
	}
	if (wrong || argc - optind != 1) {
		yyjson_mut_doc_free(request);
		return cli_usage(cli, "agreement", "with which association?");
	}
	yyjson_mut_obj_add_str(request, args, "association", argv[optind]);
	if (yyjson_mut_arr_size(models))
		yyjson_mut_obj_add_val(request, args, "models", models);
	if (decline)
		yyjson_mut_obj_add_bool(request, args, "declined", true);
	return agreement_change(cli, offer ? "agreement_offer" : !strcmp(what, "revoke") ? "agreement_revoke" : "agreement_accept", request);
}

int command_roster(struct cli *cli, int argc, char **argv)
{
	yyjson_doc *doc;
	int status;
	if (argc == 3 && !strcmp(argv[1], "remove")) {
		yyjson_mut_val *args;
		yyjson_mut_doc *request = client_args(&args);
		yyjson_mut_obj_add_str(request, args, "node", argv[2]);
		status = client_call(cli, "roster_remove", request, NULL, NULL, &doc);
		if (status || client_print_json(cli, doc))
			return status;
		printf(_("%s is off the roster. Nodes that hear it drop their links to it within a second.\n"), json_text(client_result(doc), "name"));
		yyjson_doc_free(doc);
		return EXIT_DONE;
	}
	if (argc != 2 || strcmp(argv[1], "list"))
		return cli_usage(cli, "roster", "list, or remove NODE?");
	status = client_call(cli, "roster_list", NULL, NULL, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	static const char *const headings[] = {N_("node"), N_("key"), N_("now")};
	struct table table;
	yyjson_val *o;
	size_t i, n;
	table_init(&table, 3, headings);
	yyjson_arr_foreach(yyjson_obj_get(client_result(doc), "nodes"), i, n, o)
	{
		char key[20];
		snprintf(key, sizeof key, "%.16s", json_text(o, "node"));
		table_row(&table, json_text(o, "name"), key, json_bool(o, "self") ? _("this node") : json_bool(o, "up") ? _("up") : _("down"));
	}
	table_print(&table, cli, stdout);
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

static int steward_new(struct cli *cli, bool fresh)
{
	yyjson_doc *doc;
	yyjson_mut_val *args;
	char when[32];
	yyjson_mut_doc *request = client_args(&args);
	yyjson_mut_obj_add_bool(request, args, "fresh", fresh);
	int status = client_call(cli, "steward_new", request, NULL, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	yyjson_val *r = client_result(doc);
	printf(_("A new steward key is here, good until %.10s. The old one signs nothing any more.\n"), when_text(json_uint(r, "expires"), when));
	printf(_("Signed with it: a roster of %llu nodes, %llu agreements, %llu acceptances, %llu approvals.\n"),
	       (unsigned long long)json_uint(r, "nodes"), (unsigned long long)json_uint(r, "agreements"), (unsigned long long)json_uint(r, "acceptances"),
	       (unsigned long long)json_uint(r, "approvals"));
	if (json_uint(r, "failed"))
		printf(_("%llu could not be signed again: essaim agreement list, essaim model list\n"), (unsigned long long)json_uint(r, "failed"));
	printf(_("\nNext:\n  look for what is not yours: essaim roster list, essaim agreement list\n"
		 "  partners accept your agreements again: essaim agreement accept\n  take keys/root.key away again\n"));
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

int command_leave(struct cli *cli, int argc, char **argv)
{
	if (argc != 2)
		return cli_usage(cli, "leave", "which association? essaim status names it");
	yyjson_doc *doc;
	yyjson_mut_val *args;
	yyjson_mut_doc *request = client_args(&args);
	yyjson_mut_obj_add_str(request, args, "association", argv[1]);
	int status = client_call(cli, "leave", request, NULL, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	printf(_("This node has left %s. Nodes that hear it drop their links to it within a second.\n"
		 "Restart essaimd; then it can join another: essaim join URL. Weights stay in models/.\n"),
	       json_text(client_result(doc), "association_name"));
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

int command_steward(struct cli *cli, int argc, char **argv)
{
	yyjson_doc *doc;
	char when[32];
	if (argc >= 2 && !strcmp(argv[1], "new") && (argc == 2 || (argc == 3 && !strcmp(argv[2], "--fresh"))))
		return steward_new(cli, argc == 3);
	if (argc != 2 || strcmp(argv[1], "renew"))
		return cli_usage(cli, "steward", "renew, or new?");
	int status = client_call(cli, "steward_renew", NULL, NULL, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	printf(_("The steward key is good until %.10s. Take keys/root.key away again.\n"),
	       when_text(json_uint(client_result(doc), "expires"), when));
	yyjson_doc_free(doc);
	return EXIT_DONE;
}
