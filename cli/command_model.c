/* model add, list, pull, check, clear, remove. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include <config.h>
#include "proto/text.h"

static void on_add_progress(struct cli *cli, yyjson_val *p, void *arg)
{
	struct bar *bar = arg;
	char figures[32];
	bar->label = strcmp(json_text(p, "step"), "hashing") ? _("reading") : _("hashing");
	snprintf(figures, sizeof figures, " ");
	bar_draw(cli, bar, (double)json_uint(p, "permille") / 1000, figures);
}

static int model_add(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{"name", required_argument, NULL, 'n'}, {"licence", required_argument, NULL, 'l'}, {"license", required_argument, NULL, 'l'},
		{"private", no_argument, NULL, 'p'}, {NULL, 0, NULL, 0},
	};
	yyjson_mut_val *args;
	yyjson_mut_doc *request = client_args(&args);
	int option;
	bool wrong = false;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'n')
			yyjson_mut_obj_add_str(request, args, "name", optarg);
		else if (option == 'l')
			yyjson_mut_obj_add_str(request, args, "licence", optarg);
		else if (option == 'p')
			yyjson_mut_obj_add_bool(request, args, "private", true);
		else
			wrong = true;
	}
	if (wrong || argc - optind != 1) {
		yyjson_mut_doc_free(request);
		return cli_usage(cli, "model", "which GGUF file?");
	}
	char *path = realpath(argv[optind], NULL);
	if (!path) {
		yyjson_mut_doc_free(request);
		return cli_fail(cli, EXIT_UNKNOWN, "ENOENT", NULL, "%s: %s", argv[optind], strerror(errno));
	}
	yyjson_mut_obj_add_strcpy(request, args, "path", path);
	free(path);
	struct bar bar = {.label = _("reading")};
	yyjson_doc *doc;
	int status = client_call(cli, "model_add", request, on_add_progress, &bar, &doc);
	bar_end(cli, &bar);
	if (status || client_print_json(cli, doc))
		return status;
	yyjson_val *m = yyjson_obj_get(client_result(doc), "model");
	char size[16], full[512], word[1024];
	snprintf(full, sizeof full, "%s@%s", json_text(m, "name"), json_text(m, "association"));
	printf(_("%s%s%s is published: %s, %llu layers, licence %s.\nOther associations approve it with:\n  essaim model pull %s\n"), bold(cli, true),
	       json_text(m, "name"), bold(cli, false), bytes_text(json_uint(m, "bytes"), size), (unsigned long long)json_uint(m, "layers"),
	       json_text(m, "licence"), shell_word(full, word, sizeof word));
	if (!json_bool(m, "splittable"))
		fold_print(stdout, 0, 2, _("It cannot be split over several nodes: %s"), json_text(m, "why"));
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

static int model_list(struct cli *cli)
{
	yyjson_doc *doc;
	int status = client_call(cli, "model_list", NULL, NULL, NULL, &doc);
	if (status || client_print_json(cli, doc))
		return status;
	static const char *const headings[] = {N_("model"), N_(">size"), N_(">layers"), N_("here"), N_(">on disk"), N_("state"), ""};
	yyjson_val *models = yyjson_obj_get(client_result(doc), "models"), *m;
	struct table table;
	size_t i, n;
	if (!yyjson_arr_size(models)) {
		printf(_("No models yet. Publish one with: essaim model add FILE.gguf --licence SPDX-NAME\n"));
		yyjson_doc_free(doc);
		return EXIT_DONE;
	}
	table_init(&table, 7, headings);
	yyjson_arr_foreach(models, i, n, m)
	{
		char name[160], size[16], layers[16], here[160], disk[16], state[64], part[32], said[REASON_SIZE];
		snprintf(name, sizeof name, "%s@%s", json_text(m, "name"), json_text(m, "association"));
		snprintf(layers, sizeof layers, "%llu", (unsigned long long)json_uint(m, "layers"));
		layers_text(yyjson_obj_get(m, "placed"), here, sizeof here);
		snprintf(state, sizeof state, "%s", json_bool(m, "approved") ? json_text(m, "state") : N_("not approved"));
		if (!strcmp(state, "arriving") && json_uint(m, "bytes_wanted")) {
			snprintf(part, sizeof part, " %llu %%", (unsigned long long)(json_uint(m, "bytes_have") * 100 / json_uint(m, "bytes_wanted")));
			text_copy(state, sizeof state, _("arriving"));
			strcat(state, part);
		}
		table_row(&table, name, bytes_text(json_uint(m, "bytes"), size), layers, here, bytes_text(json_uint(m, "bytes_on_disk"), disk), translated(state),
			  reason(json_text(m, "why"), said, sizeof said));
	}
	table_print(&table, cli, stdout);
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

static void on_pull_progress(struct cli *cli, yyjson_val *p, void *arg)
{
	struct bar *bar = arg;
	char have[16], wanted[16], rate[16], left[32] = "", figures[200];
	uint64_t n = json_uint(p, "bytes_wanted"), k = json_uint(p, "bytes_have");
	yyjson_val *seconds = yyjson_obj_get(p, "seconds_left");
	if (seconds && k < n)
		snprintf(left, sizeof left, _("%s left, "), text_duration(yyjson_get_uint(seconds), have, sizeof have));
	snprintf(figures, sizeof figures, _("%s of %s, %s/s, %s%llu peers"), bytes_text(k, have), bytes_text(n, wanted), bytes_text(json_uint(p, "rate"), rate),
		 left, (unsigned long long)json_uint(p, "peers"));
	bar->label = strcmp(json_text(p, "state"), "loading") ? _("fetching") : _("loading");
	bar_draw(cli, bar, n ? (double)k / (double)n : 0, figures);
}

static int model_simple(struct cli *cli, const char *command, const char *model, bool wait)
{
	yyjson_mut_val *args;
	yyjson_mut_doc *request = client_args(&args);
	struct bar bar = {.label = _("fetching")};
	yyjson_doc *doc;
	yyjson_mut_obj_add_str(request, args, "model", model);
	if (!wait)
		yyjson_mut_obj_add_bool(request, args, "wait", false);
	int status = client_call(cli, command, request, on_pull_progress, &bar, &doc);
	bar_end(cli, &bar);
	if (status || client_print_json(cli, doc))
		return status;
	yyjson_val *r = client_result(doc), *m = yyjson_obj_get(r, "model");
	char here[160], disk[16], size[16];
	if (!strcmp(command, "model_remove"))
		printf(_("%s is no longer run here; what had been fetched is deleted.\n"), json_text(r, "name"));
	else
		printf(_("%s: %s, layers %s here, %s of %s on disk\n"), json_text(m, "name"), translated(json_text(m, "state")),
		       layers_text(yyjson_obj_get(m, "placed"), here, sizeof here), bytes_text(json_uint(m, "bytes_on_disk"), disk),
		       bytes_text(json_uint(m, "bytes"), size));
	yyjson_doc_free(doc);
	return EXIT_DONE;
}

/* Runs the engine, which prints the table or the object itself. */
static int model_check(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{"stages", required_argument, NULL, 'k'}, {"tokens", required_argument, NULL, 't'}, {"prompt", required_argument, NULL, 'p'},
		{NULL, 0, NULL, 0},
	};
	const char *stages = "2", *tokens = NULL, *prompt = NULL;
	int option;
	bool wrong = false;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'k')
			stages = optarg;
		else if (option == 't')
			tokens = optarg;
		else if (option == 'p')
			prompt = optarg;
		else
			wrong = true;
	}
	if (wrong || argc - optind != 1)
		return cli_usage(cli, "model", "which GGUF file?");
	const char *engine = find_program("ESSAIM_ENGINE", "essaim-engine", "engine", LIBEXECDIR "/essaim-engine");
	if (!engine)
		return cli_fail(cli, EXIT_REFUSED, "ENOENT", "install it, or set $ESSAIM_ENGINE to its path", "essaim-engine is not found");
	const char *args[16] = {"essaim-engine", "--check", argv[optind], "--stages", stages};
	size_t n = 5;
	if (tokens) {
		args[n++] = "--tokens";
		args[n++] = tokens;
	}
	if (prompt) {
		args[n++] = "--prompt";
		args[n++] = prompt;
	}
	if (cli->json)
		args[n++] = "--json";
	fflush(NULL);
	execv(engine, (char *const *)args);
	return cli_fail(cli, EXIT_REFUSED, "EEXEC", NULL, "%s: %s", engine, strerror(errno));
}

int command_model(struct cli *cli, int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "add"))
		return model_add(cli, argc - 1, argv + 1);
	if (!strcmp(what, "check"))
		return model_check(cli, argc - 1, argv + 1);
	if (!strcmp(what, "list") && argc == 2)
		return model_list(cli);
	if (!strcmp(what, "pull") && (argc == 3 || (argc == 4 && !strcmp(argv[3], "--no-wait"))))
		return model_simple(cli, "model_pull", argv[2], argc == 3);
	if (!strcmp(what, "remove") && argc == 3)
		return model_simple(cli, "model_remove", argv[2], true);
	if (!strcmp(what, "clear") && argc == 3)
		return model_simple(cli, "model_clear", argv[2], true);
	return cli_usage(cli, "model", "add, list, pull, check, remove or clear?");
}
