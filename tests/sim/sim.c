/* sim.c: seeds, the processes that run them, and the report.
 *
 *   simulate [--seeds N] [--first SEED] [--large N] [--jobs N]
 *                                                   N worlds, less those of 200 nodes after so many of them; the first seed that fails is
 *                                                   told, with the command that repeats it
 *   simulate --seed SEED [--trace | --trace-frames]
 *                                                   one world, told step by step
 *
 * Exit status: 0 all hold, 1 some seed failed, 2 wrong usage.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "proto/log.h"
#include "tests/sim/sim.h"

#define SEEDS 2000                    /* what a check has time for (doc/ARCHITECTURE.md, section 9) */
#define CHECK_SECONDS 300            /* after which a run without --seeds begins no more of them */
#define LARGE_IN_CHECK 2              /* worlds of 200 nodes: each takes about a minute */
#define SEED_SECONDS 600             /* of processor time: a world that takes longer turns in circles */
#define FAILURES_MAX 64

struct sim sim;
bool sim_tracing, sim_tracing_frames;
char sim_folder[160];
static const char *program;

struct totals {
	uint64_t seeds, nodes, steps, simulated_ms, frames, answered, failed_questions, tokens, joined, forged, replayed, crashes, healed_most_ms, healed_most_seed,
		healed_sum_ms;
};
struct shared {                      /* between the processes */
	_Atomic int large;           /* worlds of 200 nodes that are still run; the others are left out */
	_Atomic uint64_t next;
	_Atomic uint64_t running[64];
	_Atomic unsigned n_failures;
	uint64_t failures[FAILURES_MAX];
	struct totals totals[64];
};

/* --- numbers: splitmix64 (Steele, Lea, Flood 2014) ------------------------------------------------------------ */

uint64_t sim_mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

uint64_t sim_random(void)
{
	sim.random += UINT64_C(0x9e3779b97f4a7c15);
	return sim_mix(sim.random);
}

uint64_t sim_below(uint64_t n)
{
	return sim_random() % n;
}

bool sim_chance(unsigned permille)
{
	return sim_below(1000) < permille;
}

/* All of libsodium's random numbers, so of keys, too, come from the seed. */
static const char *sodium_name(void)
{
	return "sim";
}

static uint32_t sodium_u32(void)
{
	sim.sodium_random += UINT64_C(0x9e3779b97f4a7c15);
	return (uint32_t)(sim_mix(sim.sodium_random) >> 16);
}

static void sodium_buf(void *const out, const size_t n)
{
	uint8_t *at = out;
	for (size_t i = 0; i < n; i++)
		at[i] = (uint8_t)sodium_u32();
}

/* --- what is told ------------------------------------------------------------------------------------------------ */

static void tell(const struct node *node, const char *format, va_list args)
{
	fprintf(stderr, "%8.3f  %-5s ", (double)sim.ms / 1000, node ? node->name : "");
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
}

void sim_trace(const struct node *node, const char *format, ...)
{
	if (!sim_tracing)
		return;
	va_list args;
	va_start(args, format);
	tell(node, format, args);
	va_end(args);
}

void sim_fail(const struct node *node, const char *format, ...)
{
	fprintf(stderr, "\nseed %llu fails, at %.3f s of %zu nodes:\n", (unsigned long long)sim.seed, (double)sim.ms / 1000, sim.n_nodes);
	va_list args;
	va_start(args, format);
	tell(node, format, args);
	va_end(args);
	fprintf(stderr, "see it again, step by step:  %s --seed %llu --trace\n", program, (unsigned long long)sim.seed);
	fflush(stderr);
	_exit(1);
}

/* proto/log.h: what the rooms say is part of the trace. */
void log_line(enum log_level level, const char *format, ...)
{
	if (!sim_tracing || level > LOG_LEVEL_DEBUG)
		return;
	fprintf(stderr, "%8.3f  %-5s | ", (double)sim.ms / 1000, sim.speaker ? sim.speaker->name : "");
	va_list args;
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

/* --- seeds -------------------------------------------------------------------------------------------------------- */

static void on_alarm(int number)
{
	(void)number;
	sim_fail(NULL, "this seed takes more than %d s of processor time", SEED_SECONDS);
}

static void one_seed(uint64_t seed, struct totals *t)
{
	setitimer(ITIMER_PROF, &(struct itimerval){.it_value.tv_sec = SEED_SECONDS}, NULL);
	story_run(seed);
	t->seeds++;
	t->nodes += sim.n_nodes;
	t->steps += sim.steps;
	t->simulated_ms += sim.ms;
	t->frames += sim.frames;
	t->answered += sim.answered;
	t->failed_questions += sim.failed_questions;
	t->tokens += sim.tokens;
	t->joined += sim.joined;
	t->forged += sim.forged;
	t->replayed += sim.replayed_frames;
	t->crashes += sim.crashes;
	t->healed_sum_ms += sim.healed_ms;
	if (sim.healed_ms >= t->healed_most_ms) {
		t->healed_most_ms = sim.healed_ms;
		t->healed_most_seed = seed;
	}
}

static void make_folder(void)
{
	struct stat st;
	const char *base = getenv("TMPDIR");
	if (!base)
		base = !stat("/dev/shm", &st) && S_ISDIR(st.st_mode) && !access("/dev/shm", W_OK) ? "/dev/shm" : "/tmp";
	snprintf(sim_folder, sizeof sim_folder, "%.120s/essaim-sim-XXXXXX", base);
	if (!mkdtemp(sim_folder)) {
		fprintf(stderr, "%s: %s (set TMPDIR to a folder that can be written)\n", sim_folder, strerror(errno));
		exit(2);
	}
}

static void remove_folder(void)
{
	char command[256];
	snprintf(command, sizeof command, "rm -rf '%s'", sim_folder);
	if (system(command))
		fprintf(stderr, "%s could not be removed\n", sim_folder);
}

static void work(struct shared *shared, unsigned worker, uint64_t end)
{
	for (;;) {
		uint64_t seed = atomic_fetch_add(&shared->next, 1);
		if (seed >= end)
			break;
		if (story_is_large(seed) && atomic_fetch_sub(&shared->large, 1) <= 0)
			continue;
		atomic_store(&shared->running[worker], seed + 1);
		one_seed(seed, &shared->totals[worker]);
	}
	_exit(0);
}

static pid_t start_worker(struct shared *shared, unsigned worker, uint64_t end)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		work(shared, worker, end);
	if (pid < 0) {
		fprintf(stderr, "%s: no process can be started: %s\n", program, strerror(errno));
		exit(2);
	}
	return pid;
}

static void worker_failed(struct shared *shared, unsigned worker, int status)
{
	uint64_t seed = shared->running[worker] - 1;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 1)
		fprintf(stderr, "\nseed %llu ends its process (%s %d)\nsee it again, step by step:  %s --seed %llu --trace\n", (unsigned long long)seed,
			WIFSIGNALED(status) ? "signal" : "exit status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), program,
			(unsigned long long)seed);
	unsigned n = atomic_fetch_add(&shared->n_failures, 1);
	if (n < FAILURES_MAX)
		shared->failures[n] = seed;
}

static void report(const struct shared *shared, unsigned jobs, double seconds)
{
	struct totals t = {0};
	for (unsigned i = 0; i < jobs; i++) {
		const struct totals *w = &shared->totals[i];
		const uint64_t *from = (const uint64_t *)w;
		uint64_t *to = (uint64_t *)&t, most = t.healed_most_ms, seed = t.healed_most_seed;
		for (size_t k = 0; k < sizeof t / sizeof *to; k++)
			to[k] += from[k];
		t.healed_most_ms = most > w->healed_most_ms ? most : w->healed_most_ms;
		t.healed_most_seed = most > w->healed_most_ms ? seed : w->healed_most_seed;
	}
	printf("%llu seeds with %llu nodes hold, in %.0f s: %.1f days of simulated time, %llu events, %llu frames (%llu of them forged, %llu replayed), %llu crashes of "
	       "nodes, %llu invitations used, %llu questions answered with %llu tokens, %llu not\n",
	       (unsigned long long)t.seeds, (unsigned long long)t.nodes, seconds, (double)t.simulated_ms / 86400000, (unsigned long long)t.steps,
	       (unsigned long long)t.frames, (unsigned long long)t.forged, (unsigned long long)t.replayed, (unsigned long long)t.crashes, (unsigned long long)t.joined,
	       (unsigned long long)t.answered, (unsigned long long)t.tokens, (unsigned long long)t.failed_questions);
	if (t.seeds)
		printf("after healing all know the same within %.1f s on average, %.1f s at most (seed %llu; %d s are allowed)\n",
		       (double)t.healed_sum_ms / 1000 / (double)t.seeds, (double)t.healed_most_ms / 1000, (unsigned long long)t.healed_most_seed, HEAL_MS / 1000);
	unsigned failures = shared->n_failures;
	if (failures) {
		printf("%u seeds fail:", failures);
		for (unsigned i = 0; i < failures && i < FAILURES_MAX; i++)
			printf(" %llu", (unsigned long long)shared->failures[i]);
		printf("\n");
	}
}

/* SIGINT, SIGTERM, and SIGALRM when the time is over: the seeds that run are finished, and what was seen is told. */
static struct shared *stopping;

static void on_stop(int number)
{
	(void)number;
	atomic_store(&stopping->next, UINT64_MAX / 2);
}

static int many(uint64_t first, uint64_t seeds, unsigned jobs, unsigned failures_max, int large)
{
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct timespec began, ended;
	pid_t pids[64];
	if (shared == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	atomic_store(&shared->next, first);
	atomic_store(&shared->large, large);
	stopping = shared;
	signal(SIGINT, on_stop);
	signal(SIGTERM, on_stop);
	signal(SIGALRM, on_stop);
	clock_gettime(CLOCK_MONOTONIC, &began);
	for (unsigned i = 0; i < jobs; i++)
		pids[i] = start_worker(shared, i, first + seeds);
	for (unsigned left = jobs; left;) {
		int status;
		pid_t pid = wait(&status);
		unsigned worker = 0;
		while (worker < jobs && pids[worker] != pid)
			worker++;
		if (pid < 0 || worker == jobs)
			continue;
		left--;
		if (!status)
			continue;
		worker_failed(shared, worker, status);
		if (shared->n_failures < failures_max) {
			pids[worker] = start_worker(shared, worker, first + seeds);
			left++;
		} else
			atomic_store(&shared->next, first + seeds);
	}
	clock_gettime(CLOCK_MONOTONIC, &ended);
	report(shared, jobs, (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9);
	return shared->n_failures ? 1 : 0;
}

static int usage(void)
{
	fprintf(stderr, "Usage: %s [--seeds N] [--first SEED] [--large N] [--jobs N] [--failures N]\n"
			"       %s --seed SEED [--trace | --trace-frames]\n", program, program);
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"seeds", required_argument, NULL, 'n'}, {"first", required_argument, NULL, 'f'}, {"jobs", required_argument, NULL, 'j'},
		{"large", required_argument, NULL, 'l'}, {"seed", required_argument, NULL, 's'}, {"failures", required_argument, NULL, 'F'}, {"trace", no_argument, NULL, 't'},
		{"trace-frames", no_argument, NULL, 'T'}, {NULL, 0, NULL, 0},
	};
	static struct randombytes_implementation random = {.implementation_name = sodium_name, .random = sodium_u32, .buf = sodium_buf};
	const char *given = getenv("SIM_SEEDS");
	uint64_t seeds = given && *given ? strtoull(given, NULL, 10) : SEEDS, first = 1, seed = 0;
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned jobs = cores > 1 ? 2 : 1, failures = 1;
	int large = -1, option;
	bool one = false;
	program = argv[0];
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'n':
			seeds = strtoull(optarg, NULL, 10);
			break;
		case 'f':
			first = strtoull(optarg, NULL, 10);
			break;
		case 'l':
			large = atoi(optarg);
			break;
		case 'j':
			jobs = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'F':
			failures = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 's':
			one = true;
			seed = strtoull(optarg, NULL, 10);
			break;
		case 'T':
			sim_tracing_frames = true;
			/* fall through */
		case 't':
			sim_tracing = true;
			break;
		default:
			return usage();
		}
	}
	if (optind < argc || !jobs || jobs > 64 || !failures)
		return usage();
	randombytes_set_implementation(&random);
	if (sodium_init() < 0)
		return 2;
	signal(SIGPROF, on_alarm);
	make_folder();
	atexit(remove_folder);
	if (!one) {
		if (seeds == SEEDS)
			alarm(CHECK_SECONDS);
		return many(first, seeds, jobs, failures, large >= 0 ? large : seeds == SEEDS ? LARGE_IN_CHECK : INT_MAX);
	}
	struct totals t = {0};
	sim_tracing_frames &= sim_tracing;
	one_seed(seed, &t);
	printf("seed %llu holds: %zu nodes, %.0f s, %llu events, %llu questions answered, %llu not\n", (unsigned long long)seed, sim.n_nodes,
	       (double)sim.ms / 1000, (unsigned long long)sim.steps, (unsigned long long)sim.answered, (unsigned long long)sim.failed_questions);
	return 0;
}
