/* engine_environment.h: what the libraries of an engine read when they are loaded, before its main().
 *
 * essaimd starts engines with it; an engine that somebody else starts, starts over with it. What is set already stays.
 * Pure. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_ENGINE_ENVIRONMENT_H
#define PROTO_ENGINE_ENVIRONMENT_H

static const struct {
	const char *name, *value;
} engine_environment[] = {
	/* With libgomp's default an idle engine's threads spin and take the cores from the engine that works: 20 instead of 37 tokens a second
	 * (DESIGN D1). */
	{ "GOMP_SPINCOUNT", "4000" },
	/* Where the kernel gives huge pages only to those who ask, malloc() asks for weights and caches (tunables(7)): 1.1 times the tokens a
	 * second. */
	{ "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1" },
};
#define ENGINE_ENVIRONMENT_N (sizeof engine_environment / sizeof *engine_environment)

#endif
