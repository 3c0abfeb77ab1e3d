/* status, pause, resume, peers, ring. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static int call_plain(struct cli *cli, int argc, char **argv, const char *command, yyjson_doc **doc)
{
	if (argc > 1)
		return cli_usage(cli, argv[0], "%s takes nothing more", argv[0]);
	return client_call(cli, command, NULL, NULL, NULL, doc);
}

static void print_peers(struct cli *cli, yyjson_val *peers)
{
	static const char *const headings[] = {N_("node"), N_("association"), N_("link"), N_(">round trip"), N_(">received"), N_(">sent"), N_("address")};
	struct table table;
	yyjson_val *p;
	size_t i, n;
	table_init(&table, 7, headings);
	yyjson_arr_foreach(peers, i, n, p)
	{
		char rtt[32] = "", in[16], out[16], state[64], ago[32], said[REASON_SIZE];
		bool up = json_bool(p, "up");
		if (up && json_real(p, "rtt_ms") > 0)
			snprintf(rtt, sizeof rtt, "%.1f ms", json_real(p, "rtt_ms"));
		snprintf(state, sizeof state, "%s %s", up ? _("up") : _("down"), json_uint(p, "since") ? ago_text(json_uint(p, "since"), ago) : _("always"));
		table_row(&table, json_text(p, "name"), json_text(p, "association_name"), state, rtt, bytes_text(json_uint(p, "bytes_in"), in),
			  bytes_text(json_uint(p, "bytes_out"), out), up ? json_text(p, "address") : reason(json_text(p, "trouble"), said, sizeof said));
	}
	table_print(&table, cli, stdout);
}

int command_peers(struct cli *cli, int argc, char **argv)
{
	yyjson_doc *doc;
	int status = call_plain(cli, argc, argv, "peers", &doc);
	if (status || client_print_json(cli, doc))
		return status;
	yyjson_val *peers = yyjson_obj_get(client_result(doc), "peers");
	if (!yyjson_arr_size(peers))
		printf(_("No other node is known here yet. Bring one in: essaim invite --node, or essaim invite --partner\n"));
	else
		print_peers(cli, peers);
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

static void field(struct cli *cli, const char *name, const char *text)
{
	printf(_("  %s%s%s: "), bold(cli, true), name, bold(cli, false));
	fold_print(stdout, 4 + text_width(name), 4, "%s", text);
}

static void print_status_models(struct cli *cli, yyjson_val *models)
{
	yyjson_val *m;
	size_t i, n;
	yyjson_arr_foreach(models, i, n, m)
	{
		char layers[160], have[16], wanted[16], line[REASON_SIZE], said[REASON_SIZE];
		const char *state = json_text(m, "state");
		printf(_("\n%smodel%s: %s%s@%s%s\n"), green(cli, true), green(cli, false), bold(cli, true), json_text(m, "name"),
		       json_text(m, "association"), bold(cli, false));
		if (!json_bool(m, "approved")) {
			field(cli, _("state"), _("not approved by this association (essaim model pull NAME)"));
			continue;
		}
		snprintf(line, sizeof line, "%s%s%s", translated(state), *json_text(m, "why") ? _(": ") : "", reason(json_text(m, "why"), said, sizeof said));
		field(cli, _("state"), line);
		if (yyjson_arr_size(yyjson_obj_get(m, "placed"))) {
			snprintf(line, sizeof line, _("%s of %llu"), layers_text(yyjson_obj_get(m, "placed"), layers, sizeof layers),
				 (unsigned long long)json_uint(m, "layers"));
			field(cli, _("layers here"), line);
			snprintf(line, sizeof line, _("%s of %s"), bytes_text(json_uint(m, "bytes_have"), have), bytes_text(json_uint(m, "bytes_wanted"), wanted));
			field(cli, _("weights here"), line);
		}
		yyjson_val *engine = yyjson_obj_get(m, "engine");
		if (json_uint(engine, "sessions") && !strcmp(state, "ready")) {
			snprintf(line, sizeof line, _("%llu of %llu conversations, %llu kept for a follow-up"),
				 (unsigned long long)json_uint(engine, "sessions_open"), (unsigned long long)json_uint(engine, "sessions"),
				 (unsigned long long)json_uint(engine, "sessions_kept"));
			field(cli, _("in use"), line);
		}
	}
}

static void print_status_card(struct cli *cli, yyjson_val *gpu)
{
	char line[400], a[16], b[16];
	if (!strcmp(json_text(gpu, "kind"), "none"))
		return;
	snprintf(line, sizeof line, _("%s, %s of %s for models used"), json_text(gpu, "name"), bytes_text(json_uint(gpu, "used"), a),
		 bytes_text(json_uint(gpu, "budget"), b));
	field(cli, _("graphics card"), line);
	field(cli, _("sandbox"), strcmp(json_text(gpu, "sandbox"), "software") ? _("wider than usual: engines may speak to the graphics driver")
									       : _("wider than usual: engines may make code, for the software device"));
}

static void print_status(struct cli *cli, yyjson_val *s)
{
	yyjson_val *node = yyjson_obj_get(s, "node"), *association = yyjson_obj_get(s, "association"),
		   *ports = yyjson_obj_get(s, "ports"), *budget = yyjson_obj_get(s, "budget"),
		   *sharing = yyjson_obj_get(s, "sharing"), *o;
	char line[REASON_SIZE], said[REASON_SIZE], a[16], b[16], ago[32];
	size_t i, n;
	printf(_("%snode%s: %s%s%s\n"), green(cli, true), green(cli, false), bold(cli, true), json_text(node, "name"), bold(cli, false));
	snprintf(line, sizeof line, "%s%s", *json_text(association, "name") ? json_text(association, "name") : _("none yet"), json_bool(s, "steward") ? _(" (its steward key is here)") : "");
	field(cli, _("association"), line);
	snprintf(line, sizeof line, "%.16s...", json_text(node, "id"));
	field(cli, _("key"), line);
	snprintf(line, sizeof line, _("links %llu, HTTP %s:%llu, weights %llu"), (unsigned long long)json_uint(ports, "link"), json_text(s, "http_host"),
		 (unsigned long long)json_uint(ports, "http"), (unsigned long long)json_uint(ports, "torrent"));
	field(cli, _("ports"), line);
	o = yyjson_obj_get(s, "mapping");
	if (o && strcmp(json_text(o, "state"), "off"))
		field(cli, _("router"), json_said(o, "text", said, sizeof said));
	snprintf(line, sizeof line, _("%s, %s of it placed%s%s%s"), bytes_text(json_uint(budget, "bytes"), a), bytes_text(json_uint(budget, "used"), b),
		 strcmp(json_text(budget, "counts"), "weights") ? "" : _(" (weights only are counted)"), strcmp(json_text(sharing, "state"), "open") ? _("; nothing just now: ") : "",
		 strcmp(json_text(sharing, "state"), "open") ? json_said(sharing, "text", said, sizeof said) : "");
	field(cli, _("shares"), line);
	print_status_card(cli, yyjson_obj_get(s, "gpu"));
	field(cli, _("running for"), ago_text(json_uint(s, "started"), ago));
	print_status_models(cli, yyjson_obj_get(s, "models"));
	yyjson_arr_foreach(yyjson_obj_get(s, "peers"), i, n, o)
	{
		printf(_("\n%speer%s: %s%s%s of %s\n"), green(cli, true), green(cli, false), bold(cli, true), json_text(o, "name"), bold(cli, false),
		       json_text(o, "association_name"));
		if (json_bool(o, "up"))
			snprintf(line, sizeof line, _("up for %s, %s, %.1f ms"), ago_text(json_uint(o, "since"), ago), json_text(o, "address"), json_real(o, "rtt_ms"));
		else
			snprintf(line, sizeof line, *json_text(o, "trouble") ? _("%s%s: %s") : "%s%s%s", json_uint(o, "since") ? _("down for ") : _("never up"),
				 json_uint(o, "since") ? ago_text(json_uint(o, "since"), ago) : "", reason(json_text(o, "trouble"), said, sizeof said));
		field(cli, _("link"), line);
		snprintf(line, sizeof line, _("%s received, %s sent"), bytes_text(json_uint(o, "bytes_in"), a), bytes_text(json_uint(o, "bytes_out"), b));
		field(cli, _("transfer"), line);
	}
	yyjson_arr_foreach(yyjson_obj_get(s, "agreements"), i, n, o)
	{
		if (!i)
			printf(_("\n%sagreements%s:\n"), green(cli, true), green(cli, false));
		fold_print(stdout, 0, 4, "  %s (%s)", json_said(o, "text", said, sizeof said), translated(json_text(o, "state")));
	}
	yyjson_arr_foreach(yyjson_obj_get(s, "today"), i, n, o)
	{
		if (!i)
			printf(_("\n%stoday%s:\n"), green(cli, true), green(cli, false));
		printf(_("  %s used %s: %llu tokens, %.1f s of computing"), json_text(o, "user_name"), json_text(o, "provider_name"),
		       (unsigned long long)json_uint(o, "rows"), json_real(o, "stage_seconds"));
		if (json_real(o, "joules") > 0)
			printf(_(", about %.0f J (estimated)"), json_real(o, "joules"));
		printf("\n");
	}
	yyjson_arr_foreach(yyjson_obj_get(s, "warnings"), i, n, o)
	{
		printf(_("\n%swarning%s: "), red(cli, true), red(cli, false));
		fold_print(stdout, 2 + text_width(_("warning")), 2, "%s", json_said(o, "text", said, sizeof said));
		fold_print(stdout, 0, 5, "  -> %s", json_said(o, "remedy", said, sizeof said));
	}
}

static int status_once(struct cli *cli)
{
	yyjson_doc *doc;
	int status = client_call(cli, "status", NULL, NULL, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	print_status(cli, client_result(doc));
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

#define WATCH_SECONDS 1

/* In place, until it is interrupted: the screen is replaced by one write, so that it does not flicker. */
static int status_watch(struct cli *cli)
{
	static char buffer[1 << 16];
	if (!cli->terminal)
		return cli_usage(cli, "status", "--watch needs a terminal; for programs there is --json");
	setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
	for (;;) {
		fputs("\033[H\033[2J", stdout);
		int status = status_once(cli);
		fflush(stdout);
		if (status)
			return status;
		sleep(WATCH_SECONDS);
	}
}

int command_status(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"watch", no_argument, NULL, 'w'}, {NULL, 0, NULL, 0}};
	bool watch = false;
	int option;
	while ((option = getopt_long(argc, argv, "w", options, NULL)) != -1) {
		if (option != 'w')
			return cli_usage(cli, "status", "that is no option of status");
		watch = true;
	}
	if (optind < argc)
		return cli_usage(cli, "status", "status takes nothing more");
	return watch ? status_watch(cli) : status_once(cli);
}

/* "90", "30m", "2h", "1d" in seconds; 0: not a duration. */
static uint64_t duration_of(const char *text)
{
	char *end;
	unsigned long long n = strtoull(text, &end, 10), unit = 0;
	static const struct { const char *suffix; unsigned seconds; } units[] = {{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
	for (size_t i = 0; i < sizeof units / sizeof *units; i++)
		if (!strcmp(end, units[i].suffix))
			unit = units[i].seconds;
	return end == text || text[0] == '-' || n * unit > 366 * 86400ull || n > 366 * 86400ull ? 0 : n * unit;
}

static int call_sharing(struct cli *cli, const char *command, yyjson_mut_doc *args)
{
	yyjson_doc *doc;
	int status = client_call(cli, command, args, NULL, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	yyjson_val *sharing = client_result(doc);
	char said[400];
	if (strcmp(json_text(sharing, "state"), "open"))
		printf(_("This node shares nothing just now: %s.\n"), json_said(sharing, "text", said, sizeof said));
	else
		printf(_("This node shares again.\n"));
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

int command_pause(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {{"for", required_argument, NULL, 'f'}, {NULL, 0, NULL, 0}};
	uint64_t seconds = 0;
	int option;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option != 'f')
			return cli_usage(cli, "pause", "that is no option of pause");
		seconds = duration_of(optarg);
		if (!seconds)
			return cli_usage(cli, "pause", "'%s' is no duration: write 30m, 2h or 1d, at most a year", optarg);
	}
	if (optind < argc)
		return cli_usage(cli, "pause", "pause takes nothing more");
	yyjson_mut_val *args;
	yyjson_mut_doc *request = client_args(&args);
	if (seconds)
		yyjson_mut_obj_add_uint(request, args, "seconds", seconds);
	return call_sharing(cli, "pause", request);
}

int command_resume(struct cli *cli, int argc, char **argv)
{
	if (argc > 1)
		return cli_usage(cli, argv[0], "%s takes nothing more", argv[0]);
	return call_sharing(cli, "resume", NULL);
}

int command_ring(struct cli *cli, int argc, char **argv)
{
	if (argc != 2)
		return cli_usage(cli, "ring", "which model?");
	yyjson_mut_val *args;
	yyjson_mut_doc *request = client_args(&args);
	yyjson_mut_obj_add_str(request, args, "model", argv[1]);
	yyjson_doc *doc;
	int status = client_call(cli, "ring", request, NULL, NULL, &doc);
	if (status)
		return status;
	yyjson_val *r = client_result(doc), *stages = yyjson_obj_get(r, "stages"), *s;
	bool possible = json_bool(r, "possible");
	char size[16], said[REASON_SIZE];
	size_t i, n;
	if (client_print_json(cli, doc))
		return possible ? EXIT_DONE : EXIT_LATER;
	if (!possible) {
		status = cli_fail(cli, EXIT_LATER, "UNREACHABLE", "essaim model list, essaim peers", "%s has no ring now: %s", json_text(r, "name"),
				  cli->json ? json_text(r, "why") : reason(json_text(r, "why"), said, sizeof said));
		yyjson_doc_free(doc);
		return status;
	}
	printf(_("%s: %llu layers, %s\n\n"), json_text(r, "name"), (unsigned long long)json_uint(r, "layers"), bytes_text(json_uint(r, "bytes"), size));
	yyjson_arr_foreach(stages, i, n, s)
	{
		yyjson_val *l = yyjson_obj_get(s, "layers");
		unsigned long long first = yyjson_get_uint(yyjson_arr_get(l, 0)), end = yyjson_get_uint(yyjson_arr_get(l, 1));
		printf(_("  %s %s%s%s (%s)  layers %llu-%llu  sees %s\n"), n == 1 ? "──" : i ? i + 1 == n ? "└>" : "├>" : "┌─", bold(cli, true), json_text(s, "name"),
		       bold(cli, false), json_text(s, "association"), first, end - 1, translated(json_text(s, "saw")));
	}
	if (n > 1)
		printf(_("\n  Each token goes round once. Activations are not secret from those who compute\n"
		       "  them: most of the text can be recovered. Choose operators that you trust.\n"));
	yyjson_doc_free(doc);
	return EXIT_DONE;
}
