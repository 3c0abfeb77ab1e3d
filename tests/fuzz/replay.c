/* replay.c: runs a fuzz target over its committed seeds without a fuzzer, for `make check`.
 *
 *   replay_NAME [FILE or FOLDER]...     default: $ESSAIM_TOP/tests/fuzz/corpus/NAME, and fuzz_seed()'s examples
 *   replay_NAME --write FOLDER          writes those examples, for a fuzzer to start from
 *
 * Besides each seed as it is: the seed cut at every length and with every byte changed in a few ways, so that
 * also a machine without libFuzzer searches around what is known; of a long seed, at 1,024 places. No seeds at all is a failure.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

#define SEED_MAX (1u << 20)
#define MUTATED_MAX 1024 /* of larger seeds so many places are tried: the work grows with the square */

static unsigned seeds, runs;

/* On heap of its exact size, so that a sanitizer sees a read past it. */
static void run(const uint8_t *bytes, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1);
	must(copy);
	memcpy(copy, bytes, n);
	LLVMFuzzerTestOneInput(copy, n);
	free(copy);
	runs++;
}

static void run_around(uint8_t *bytes, size_t n)
{
	static const uint8_t masks[] = { 0x01, 0x10, 0x7f, 0x80, 0xff };
	run(bytes, n);
	/* Odd, so that it falls on every byte of the numbers that lie at even distances. */
	size_t step = n > MUTATED_MAX ? n / MUTATED_MAX | 1 : 1;
	for (size_t part = 0; part < n; part += step)
		run(bytes, part);
	for (size_t i = 0; i < n; i += step)
		for (size_t k = 0; k < sizeof(masks); k++) {
			bytes[i] ^= masks[k];
			run(bytes, n);
			bytes[i] ^= masks[k];
		}
}

static bool replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	if (!file) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return false;
	}
	uint8_t *bytes = malloc(SEED_MAX);
	must(bytes);
	size_t n = fread(bytes, 1, SEED_MAX, file);
	bool good = !ferror(file) && n < SEED_MAX;
	fclose(file);
	if (good) {
		seeds++;
		run_around(bytes, n);
	} else {
		fprintf(stderr, "%s: cannot be read whole, or is over 1 MiB\n", path);
	}
	free(bytes);
	return good;
}

static bool replay(const char *path)
{
	struct stat st;
	if (stat(path, &st)) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return false;
	}
	if (!S_ISDIR(st.st_mode))
		return replay_file(path);

	struct dirent **entries;
	int n = scandir(path, &entries, NULL, alphasort);
	bool good = n >= 0;
	for (int i = 0; i < n; i++) {
		char below[4096];
		snprintf(below, sizeof(below), "%s/%s", path, entries[i]->d_name);
		if (entries[i]->d_name[0] != '.')
			good &= replay(below);
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	return good;
}

/* To a file of the folder, or, without one, to the target. */
static bool run_examples(const char *folder)
{
	bool good = true;
	struct buf out;
	buf_init(&out, SEED_MAX);
	for (size_t i = 0; fuzz_seed && fuzz_seed(i, &out); i++) {
		if (folder) {
			char path[4096];
			snprintf(path, sizeof(path), "%s/example-%zu", folder, i);
			FILE *file = fopen(path, "wb");
			bool written = file && fwrite(out.data, 1, out.length, file) == out.length;
			if (file && fclose(file))
				written = false;
			if (!written)
				fprintf(stderr, "%s: %s\n", path, strerror(errno));
			good &= written;
		} else {
			seeds++;
			run_around(out.data, out.length);
		}
		buf_clear(&out);
	}
	buf_release(&out);
	return good;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--write"))
		return run_examples(argv[2]) ? 0 : 1;

	bool good = true;
	for (int i = 1; i < argc; i++)
		good &= replay(argv[i]);
	if (argc == 1) {
		const char *top = getenv("ESSAIM_TOP");
		char path[4096];
		snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/" FUZZ_NAME, top ? top : ".");
		bool has_corpus = access(path, F_OK) == 0 || !fuzz_seed;
		good = (!has_corpus || replay(path)) && run_examples(NULL);
	}
	printf("%s: %u seeds, %u inputs\n", FUZZ_NAME, seeds, runs);
	if (!seeds)
		fprintf(stderr, "no seeds: set ESSAIM_TOP to the source tree, or name the files\n");
	return good && seeds ? 0 : 1;
}
