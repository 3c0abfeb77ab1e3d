/* Models in quarantine, over restarts: a model that kills its engine would otherwise do so three times again after each.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "proto/log.h"
#include "proto/text.h"

static void path_of(const char *home, const uint8_t model[KEY_BYTES], char *out, size_t size)
{
	char hex[2 * KEY_BYTES + 1];
	text_hex(model, KEY_BYTES, hex);
	snprintf(out, size, "%s/quarantine/%s", home, hex);
}

bool quarantine_read(const char *home, const uint8_t model[KEY_BYTES], char *why, size_t size)
{
	char path[4096];
	path_of(home, model, path, sizeof path);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	if (!fgets(why, (int)size, f) || !text_is_utf8(why, strlen(why)))
		why[0] = 0;
	why[strcspn(why, "\n")] = 0;
	fclose(f);
	return true;
}

void quarantine_write(const char *home, const uint8_t model[KEY_BYTES], const char *why)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/quarantine", home);
	if (mkdir(path, 0700) && errno != EEXIST)
		log_warning("%s: %s: the quarantine is forgotten at a restart", path, strerror(errno));
	path_of(home, model, path, sizeof path);
	FILE *f = fopen(path, "we");
	bool bad = !f || fprintf(f, "%s\n", why) < 0;
	if (f && fclose(f))
		bad = true;
	if (bad)
		log_warning("%s: %s: the quarantine is forgotten at a restart", path, strerror(errno));
}

void quarantine_remove(const char *home, const uint8_t model[KEY_BYTES])
{
	char path[4096];
	path_of(home, model, path, sizeof path);
	if (unlink(path) && errno != ENOENT)
		log_warning("%s: %s: the model will be in quarantine again after a restart", path, strerror(errno));
}
