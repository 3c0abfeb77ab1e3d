/* temp_home.h: a home folder in $TMPDIR for one test, removed with all that is in it.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_TEMP_HOME_H
#define TESTS_TEMP_HOME_H

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char temp_home[PATH_MAX / 2];

static inline int temp_home_make(void)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(temp_home, sizeof temp_home, "%s/essaim-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	return mkdtemp(temp_home) ? 0 : -1;
}

static inline void temp_empty(int folder_fd)
{
	DIR *folder = fdopendir(folder_fd);
	struct dirent *item;

	while (folder && (item = readdir(folder))) {
		int inner;

		if (!strcmp(item->d_name, ".") || !strcmp(item->d_name, ".."))
			continue;
		if (!unlinkat(dirfd(folder), item->d_name, 0))
			continue;
		inner = openat(dirfd(folder), item->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
		if (inner >= 0)
			temp_empty(inner);
		unlinkat(dirfd(folder), item->d_name, AT_REMOVEDIR);
	}
	if (folder)
		closedir(folder);
}

static inline void temp_remove(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);

	if (fd >= 0)
		temp_empty(fd);
	rmdir(path);
}

static inline void temp_home_remove(void)
{
	temp_remove(temp_home);
}

/* HOME/name; one at a time */
static inline const char *temp_path(const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof path, "%s/%s", temp_home, name);
	return path;
}

static inline int temp_mode(const char *name)
{
	struct stat st;

	return stat(temp_path(name), &st) ? -1 : (int)(st.st_mode & 0777);
}

static inline size_t temp_count(const char *name)
{
	DIR *folder = opendir(temp_path(name));
	struct dirent *item;
	size_t n = 0;

	while (folder && (item = readdir(folder)))
		n += item->d_name[0] != '.';
	if (folder)
		closedir(folder);
	return n;
}

static inline size_t temp_read(const char *name, void *out, size_t size)
{
	FILE *f = fopen(temp_path(name), "rb");
	size_t n = f ? fread(out, 1, size, f) : 0;

	if (f)
		fclose(f);
	return n;
}

static inline int temp_write(const char *name, const void *bytes, size_t n)
{
	FILE *f = fopen(temp_path(name), "wb");
	size_t written = f ? fwrite(bytes, 1, n, f) : 0;

	return f && !fclose(f) && written == n ? 0 : -1;
}

#endif
