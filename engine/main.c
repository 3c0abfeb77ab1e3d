/* main.c: essaim-engine, one process per resident model (DESIGN, The engine).
 *
 * essaimd starts it with one end of a unix stream socketpair as descriptor 3. Order of start (D3): environment and limits, ggml's
 * back ends (they open libraries), devices, sandbox, hello; only then do descriptors of model files come in.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <llama.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/check.h"
#include "engine/device.h"
#include "engine/memory.h"
#include "engine/quirks.h"
#include "engine/sandbox.h"
#include "engine/server.h"
#include "proto/engine_environment.h"
#include "proto/err.h"
#include "proto/log.h"
#include "proto/text.h"

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "0"
#endif

#define DAEMON_FD 3

static void set_environment(char **argv)
{
	bool changed = false;

	for (size_t i = 0; i < ENGINE_ENVIRONMENT_N; i++)
		if (!getenv(engine_environment[i].name) && setenv(engine_environment[i].name, engine_environment[i].value, 1) == 0)
			changed = true;
	if (changed && !getenv("OMP_PROC_BIND"))        /* which has bound this thread to a core by now, and what it starts with it */
		execv("/proc/self/exe", argv);
	/* without /proc it goes on, only slower */
	prctl(PR_SET_NAME, "essaim-engine");           /* and not "exe", which pgrep(1) and ps(1) would say now */
}

/* Anything that a model's first tensor would otherwise make ggml set up later, behind the sandbox. */
static void open_devices(const char *gpu, char *why, size_t why_size)
{
	device_open_cpu();
	llama_backend_init();
	if (gpu && device_open(gpu, why, why_size))
		log_warning("no device is used: %s", why);
	memory_watch_device(device_log_name());
}

int engine_serve(struct server_config *config)
{
	char why[200] = "";
	int err;

	signal(SIGPIPE, SIG_IGN);
	setenv("GGML_NO_BACKTRACE", "1", 1);     /* an assertion of ggml's would try to start a debugger */
	memory_open();
	memory_watch_install();
	open_devices(config->gpu, config->no_device, sizeof config->no_device);
	err = sandbox_enter(device_needs(), why, sizeof why);
	if (err) {
		log_error("%s", why);
		return err;
	}
	config->sandboxed = true;
	return server_run(config);
}

static int usage(FILE *to)
{
	fprintf(to,
		"essaim-engine: runs layers of a model for essaimd, which starts it.\n"
		"\n"
		"  essaim-engine [--memory-max BYTES] [--gpu auto|vulkan/N] [--log-level LEVEL]      with a socket as descriptor 3\n"
		"  essaim-engine --check FILE... [--stages K] [--tokens N] [--prompt TEXT] [--threads T] [--pairs P] [--json]\n"
		"                  runs the model whole and as K shards, and compares every logit\n"
		"  essaim-engine --check FILE... --every [--threads T] [--json]\n"
		"                  the same for each legal cut and for all at once, two sessions, prompts of 1, 7 and 64 tokens\n"
		"                  exit status: 0 exact, 1 not exact, 2 could not be checked\n"
		"                  with --gpu auto|vulkan/N the shards are computed there, and their logits must be within 5 hundredths of the largest\n"
		"  essaim-engine --check-sandbox [--gpu auto|vulkan/N]      tries from inside what the sandbox must deny\n"
		"  essaim-engine --list-architectures      a line each: name, \"rings\" or \"whole\", and where it may be cut or why not at all\n");
	return to == stdout ? 0 : 2;
}

static int check_sandbox(const char *gpu)
{
	char why[200] = "";
	int wrong;

	memory_watch_install();
	open_devices(gpu, why, sizeof why);
	if (gpu && !device_handle()) {
		fprintf(stderr, "essaim-engine: %s\n", why);
		return 2;
	}
	if (sandbox_enter(device_needs(), why, sizeof why)) {
		fprintf(stderr, "essaim-engine: %s\n", why);
		return 2;
	}
	wrong = sandbox_prove(device_needs());
	return wrong ? 1 : 0;
}

static int serve_daemon(uint64_t memory_max, const char *gpu)
{
	struct server_config config = { .fd = DAEMON_FD, .gpu = gpu };
	struct stat st;
	int err;

	if (fstat(DAEMON_FD, &st) < 0 || !S_ISSOCK(st.st_mode)) {
		fprintf(stderr, "essaim-engine: descriptor %d is not a socket; essaimd starts this program\n", DAEMON_FD);
		return usage(stderr);
	}
	close_range(DAEMON_FD + 1, ~0u, 0);      /* whatever leaked into this process is none of its business */
	err = memory_limit(memory_max);
	if (err) {
		log_error("the memory limit of %llu bytes cannot be set: %s", (unsigned long long)memory_max, err_str(err));
		return 1;
	}
	if (chdir("/") < 0)                      /* ggml also looks for libraries in the current folder */
		log_warning("cannot leave the current folder: %s", err_str(-errno));
	return engine_serve(&config) ? 1 : 0;
}

/* A line each, fields parted by tabs; doc/models.sh makes doc/MODELS.md from it. */
static int list_architectures(void)
{
	const struct quirk *quirk;

	for (size_t i = 0; (quirk = quirk_at(i)); i++) {
		const char *and = "";

		printf("%s\t%s\t", quirk->architecture, quirk->whole ? "whole" : "rings");
		if (quirk->whole)
			printf("%s", quirk->whole);
		if (quirk->window_period) {
			printf("layers with a window and without in each shard");
			if (quirk->window_period > 1)
				printf(" (period %u where the file says none)", quirk->window_period);
			and = "; ";
		}
		if (quirk->state_period) {
			printf("%sa period in each shard (%u where the file says none)", and, quirk->state_period);
			and = "; ";
		}
		if (quirk->past_dense) {
			printf("%spast the leading dense layers", and);
			and = "; ";
		}
		if (quirk->step) {
			printf("%sonly at multiples of %u layers", and, quirk->step);
			and = "; ";
		}
		for (size_t k = 0; k < QUIRK_COUNTS && quirk->counts[k]; k++) {
			printf("%s%u", k ? " or " : and, quirk->counts[k]);
			and = "; ";
		}
		if (quirk->counts[0])
			printf(" layers neither whole nor in a shard%s%s", quirk->zero_key ? ", where the file says " : "",
			       quirk->zero_key ? quirk->zero_key : "");
		for (size_t k = 0; k < QUIRK_KEYS && quirk->must_say[k]; k++) {
			printf("%sthe file must say %s", and, quirk->must_say[k]);
			and = "; ";
		}
		putchar('\n');
	}
	return 0;
}

static bool number(const char *text, unsigned most, unsigned *out)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	*out = (unsigned)v;
	return *text >= '0' && *text <= '9' && !*end && v >= 1 && v <= most;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "memory-max", required_argument, NULL, 'm' }, { "log-level", required_argument, NULL, 'l' },
		{ "check", required_argument, NULL, 'c' },	{ "stages", required_argument, NULL, 's' },
		{ "tokens", required_argument, NULL, 'n' },	{ "prompt", required_argument, NULL, 'p' },
		{ "threads", required_argument, NULL, 't' },	{ "pairs", required_argument, NULL, 'r' },
		{ "every", no_argument, NULL, 'e' },
		{ "gpu", required_argument, NULL, 'g' },
		{ "json", no_argument, NULL, 'j' },		{ "check-sandbox", no_argument, NULL, 'b' },
		{ "list-architectures", no_argument, NULL, 'a' },
		{ "help", no_argument, NULL, 'h' },		{ "version", no_argument, NULL, 'v' },
		{ NULL, 0, NULL, 0 },
	};
	enum log_level level = LOG_LEVEL_WARNING;
	struct check_options check = { 0 };
	bool sandbox = false, good = true;
	const char *gpu = NULL;
	uint64_t memory_max = 0;
	int option, status;

	set_environment(argv);
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'm': good = good && text_parse_bytes(optarg, &memory_max) == 0; break;
		case 'l': good = good && log_level_parse(optarg, &level) == 0; break;
		case 'c': check.paths[0] = optarg; check.n_paths = 1; break;
		case 's': good = good && number(optarg, CHECK_STAGES_MAX, &check.stages); break;
		case 'n': good = good && number(optarg, 4096, &check.tokens); break;
		case 't': good = good && number(optarg, 256, &check.threads); break;
		case 'r': good = good && number(optarg, 1000, &check.pairs); break;
		case 'p': check.prompt = optarg; break;
		case 'e': check.every = true; break;
		case 'g': gpu = optarg; good = good && device_is_wish(gpu); break;
		case 'j': check.json = true; break;
		case 'b': sandbox = true; break;
		case 'a': return list_architectures();
		case 'v': printf("essaim-engine %s, libllama %s\n", PACKAGE_VERSION, llama_version()); return 0;
		case 'h': return usage(stdout);
		default: good = false; break;
		}
	}
	if (!good || (optind < argc && !check.n_paths) || argc - optind > 63)
		return usage(stderr);
	for (int i = optind; i < argc; i++)
		check.paths[check.n_paths++] = argv[i];
	check.gpu = gpu;
	log_open("essaim-engine", level);
	if (sandbox)
		status = check_sandbox(gpu);
	else if (check.n_paths)
		status = check_run(&check);
	else
		status = serve_daemon(memory_max, gpu);
	fflush(stdout);
	_exit(status);       /* libraries' exit handlers have nothing to do that the sandbox would allow */
}
