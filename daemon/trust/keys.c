/* keys.c: key files. Secrets are hexadecimal lines, so that a root key can be printed, carried and typed.
 *
 * The association file is written last by keys_create(): a home whose creation was cut off is completed by the
 * next one, while a home that has its association never gets another root, not even when root.key was moved away.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/trust/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/text.h"

#define FILE_MAX 256           /* bytes of a key file */
#define API_KEY_PREFIX "essaim-"

__attribute__((format(printf, 4, 5)))
static int fail(int err, char *why, size_t why_size, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why, why_size, format, args);
	va_end(args);
	return err;
}

static int path_of(char out[PATH_MAX], const char *home, const char *name, const char *suffix, char *why, size_t why_size)
{
	int n = snprintf(out, PATH_MAX, "%s/%s%s", home, name, suffix);

	return n < 0 || n >= PATH_MAX ? fail(-ENAMETOOLONG, why, why_size, "%s: the path of the home folder is too long", home) : 0;
}

static int write_all(int fd, const uint8_t *bytes, size_t n)
{
	while (n) {
		ssize_t done = write(fd, bytes, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		bytes += done;
		n -= (size_t)done;
	}
	return 0;
}

/* The folder of path, made when it is missing, open for fsync(2). */
static int open_folder(const char *path)
{
	char folder[PATH_MAX];
	int fd;

	strcpy(folder, path);
	*strrchr(folder, '/') = '\0';
	if (mkdir(folder, 0700) && errno != EEXIST)
		return -errno;
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int write_and_rename(int folder, const char *fresh, const char *path, const void *bytes, size_t n)
{
	int fd, err;

	if (unlink(fresh) && errno != ENOENT)          /* of a writer that was cut off */
		return -errno;
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	err = write_all(fd, bytes, n);
	if (!err && (fchmod(fd, 0600) || fsync(fd)))
		err = -errno;
	if (close(fd) && !err)
		err = -errno;
	if (!err && rename(fresh, path))
		err = -errno;
	if (err) {
		unlink(fresh);
		return err;
	}
	return fsync(folder) ? -errno : 0;
}

int keys_write_file(const char *home, const char *name, const void *bytes, size_t n, char *why, size_t why_size)
{
	char path[PATH_MAX], fresh[PATH_MAX];
	int folder, err = path_of(path, home, name, "", why, why_size);

	if (!err)
		err = path_of(fresh, home, name, ".new", why, why_size);
	if (err)
		return err;
	folder = open_folder(path);
	if (folder < 0)
		return fail(folder, why, why_size, "%s: cannot make its folder: %s", path, err_str(folder));
	err = write_and_rename(folder, fresh, path, bytes, n);
	close(folder);
	if (err)
		return fail(err, why, why_size, "%s: cannot write: %s%s", path, err_str(err),
			    err == -ENOSPC ? " (make room on this disk)" : err == -EACCES || err == -EROFS ? " (is the home folder this user's, and writable?)" : "");
	return 0;
}

static int check_mode(int fd, const char *path, bool secret, char *why, size_t why_size)
{
	struct stat st;

	if (fstat(fd, &st))
		return fail(-errno, why, why_size, "%s: %s", path, err_str(-errno));
	if (!S_ISREG(st.st_mode))
		return fail(ERR_DENIED, why, why_size, "%s is not a plain file", path);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return fail(ERR_DENIED, why, why_size, "%s belongs to another user: run `chown %u %s`", path, (unsigned)geteuid(), path);
	if (st.st_mode & (secret ? 077 : 022))
		return fail(ERR_DENIED, why, why_size, "%s may be %s by other users of this machine: run `chmod 600 %s`%s", path,
			    secret ? "read" : "changed", path, secret ? ", and make new keys if somebody may have read it" : "");
	return 0;
}

/* The file's text without the newline at its end; -ENOENT is not worth a sentence here. */
static int read_file(const char *home, const char *name, bool secret, char out[FILE_MAX], char *why, size_t why_size)
{
	char path[PATH_MAX];
	size_t length = 0;
	ssize_t got = 0;
	int fd, err = path_of(path, home, name, "", why, why_size);

	if (err)
		return err;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return fail(-ENOENT, why, why_size, "%s is missing", path);
	if (fd < 0)
		return fail(-errno, why, why_size, "%s: cannot open: %s", path, err_str(-errno));
	err = check_mode(fd, path, secret, why, why_size);
	while (!err && length < FILE_MAX && (got = read(fd, out + length, FILE_MAX - length)) != 0) {
		if (got > 0)
			length += (size_t)got;
		else if (errno != EINTR)
			err = fail(-errno, why, why_size, "%s: cannot read: %s", path, err_str(-errno));
	}
	close(fd);
	if (!err && (length == FILE_MAX || memchr(out, 0, length)))
		err = fail(ERR_MALFORMED, why, why_size, "%s is not a key file of Essaim: restore it from a backup", path);
	if (err)
		return err;
	if (length && out[length - 1] == '\n')
		length--;
	out[length] = '\0';
	return 0;
}

static int read_hex(const char *home, const char *name, bool secret, uint8_t *out, size_t n, char *why, size_t why_size)
{
	char text[FILE_MAX];
	int err = read_file(home, name, secret, text, why, why_size);

	if (!err && text_unhex(text, out, n))
		err = fail(ERR_MALFORMED, why, why_size, "%s/%s is damaged: restore it from a backup", home, name);
	sodium_memzero(text, sizeof text);
	return err;
}

static int write_hex(const char *home, const char *name, const uint8_t *bytes, size_t n, char *why, size_t why_size)
{
	char text[2 * SIGN_SECRET_BYTES + 2];
	int err;

	text_hex(bytes, n, text);
	text[2 * n] = '\n';
	err = keys_write_file(home, name, text, 2 * n + 1, why, why_size);
	sodium_memzero(text, sizeof text);
	return err;
}

/* An Ed25519 secret whose two halves belong together: a flipped bit would sign what nobody can verify. */
static int read_sign(const char *home, const char *name, uint8_t secret[SIGN_SECRET_BYTES], uint8_t public[KEY_BYTES], char *why, size_t why_size)
{
	uint8_t again[SIGN_SECRET_BYTES];
	int err = read_hex(home, name, true, secret, SIGN_SECRET_BYTES, why, why_size);

	if (err)
		return err;
	crypto_sign_seed_keypair(public, again, secret);       /* the seed is the first half */
	if (memcmp(again, secret, sizeof again)) {
		sodium_memzero(secret, SIGN_SECRET_BYTES);
		err = fail(ERR_CRYPTO, why, why_size, "%s/%s is damaged: restore it from a backup", home, name);
	}
	sodium_memzero(again, sizeof again);
	return err;
}

static int make_sign(const char *home, const char *name, uint8_t secret[SIGN_SECRET_BYTES], uint8_t public[KEY_BYTES], char *why, size_t why_size)
{
	int err = read_sign(home, name, secret, public, why, why_size);

	if (err != -ENOENT)
		return err;
	crypto_sign_keypair(public, secret);
	return write_hex(home, name, secret, SIGN_SECRET_BYTES, why, why_size);
}

static int read_link(const char *home, uint8_t secret[KEY_BYTES], uint8_t public[KEY_BYTES], char *why, size_t why_size)
{
	int err = read_hex(home, "keys/link.key", true, secret, KEY_BYTES, why, why_size);

	if (!err && crypto_scalarmult_base(public, secret))
		err = fail(ERR_CRYPTO, why, why_size, "%s/keys/link.key is damaged: restore it from a backup", home);
	return err;
}

static int make_link(const char *home, uint8_t secret[KEY_BYTES], uint8_t public[KEY_BYTES], char *why, size_t why_size)
{
	int err = read_link(home, secret, public, why, why_size);

	if (err != -ENOENT)
		return err;
	crypto_box_keypair(public, secret);
	return write_hex(home, "keys/link.key", secret, KEY_BYTES, why, why_size);
}

static int read_api(const char *home, char out[64], char *why, size_t why_size)
{
	char text[FILE_MAX];
	uint8_t bytes[32];
	size_t n = strlen(API_KEY_PREFIX), got;
	int err = read_file(home, "keys/api.key", true, text, why, why_size);

	if (!err && (strncmp(text, API_KEY_PREFIX, n) || text_unbase64(text + n, strlen(text + n), bytes, sizeof bytes, &got) ||
		     got != sizeof bytes || text_copy(out, 64, text)))
		err = fail(ERR_MALFORMED, why, why_size, "%s/keys/api.key is damaged: delete it and restart essaimd for a new one", home);
	sodium_memzero(text, sizeof text);
	sodium_memzero(bytes, sizeof bytes);
	return err;
}

static int make_api(const char *home, char out[64], char *why, size_t why_size)
{
	char line[64];
	uint8_t bytes[32];
	int n, err = read_api(home, out, why, why_size);

	if (err != -ENOENT)
		return err;
	randombytes_buf(bytes, sizeof bytes);
	strcpy(out, API_KEY_PREFIX);
	text_base64(bytes, sizeof bytes, out + strlen(out));
	n = snprintf(line, sizeof line, "%s\n", out);
	err = keys_write_file(home, "keys/api.key", line, (size_t)n, why, why_size);
	sodium_memzero(line, sizeof line);
	sodium_memzero(bytes, sizeof bytes);
	return err;
}

static int check_folder(const char *home, char *why, size_t why_size)
{
	char path[PATH_MAX];
	struct stat st;
	int err = path_of(path, home, "keys", "", why, why_size);

	if (err)
		return err;
	if (stat(path, &st))
		return errno == ENOENT ? 0 : fail(-errno, why, why_size, "%s: %s", path, err_str(-errno));
	if (st.st_mode & 022)
		return fail(ERR_DENIED, why, why_size, "%s may be changed by other users of this machine: run `chmod 700 %s`", path, path);
	return 0;
}

/* root and steward where they are here; -ENOENT for neither is no failure. */
static int load_offices(const char *home, struct keys *out, char *why, size_t why_size)
{
	uint8_t root[KEY_BYTES];
	int err = read_sign(home, "keys/root.key", out->root_secret, root, why, why_size);

	if (err && err != -ENOENT)
		return err;
	out->has_root = !err;
	if (out->has_root && memcmp(root, out->association, KEY_BYTES))
		return fail(ERR_CRYPTO, why, why_size, "%s/keys/root.key is not the root key of the association that this node belongs to: move it away", home);
	err = read_sign(home, "keys/steward.key", out->steward_secret, out->steward, why, why_size);
	if (err && err != -ENOENT)
		return err;
	out->has_steward = !err;
	return 0;
}

static int create(const char *home, bool with_association, struct keys *out, char *why, size_t why_size)
{
	int err = check_folder(home, why, why_size);

	if (!err)
		err = make_sign(home, "keys/node.key", out->node_secret, out->node, why, why_size);
	if (!err)
		err = make_link(home, out->link_secret, out->link, why, why_size);
	if (!err)
		err = make_api(home, out->api_key, why, why_size);
	if (err)
		return err;
	err = read_hex(home, "keys/association", false, out->association, KEY_BYTES, why, why_size);
	if (err == -ENOENT && with_association) {
		err = make_sign(home, "keys/root.key", out->root_secret, out->association, why, why_size);
		if (!err)
			err = make_sign(home, "keys/steward.key", out->steward_secret, out->steward, why, why_size);
		if (!err)
			err = write_hex(home, "keys/association", out->association, KEY_BYTES, why, why_size);
	} else if (err == -ENOENT) {
		memset(out->association, 0, KEY_BYTES);
		return 0;
	}
	return err ? err : load_offices(home, out, why, why_size);
}

int keys_create(const char *home, bool with_association, struct keys *out, char *why, size_t why_size)
{
	int err;

	*out = (struct keys){ 0 };
	if (mkdir(home, 0700) && errno != EEXIST)
		return fail(-errno, why, why_size, "%s: cannot make the home folder: %s", home, err_str(-errno));
	err = create(home, with_association, out, why, why_size);
	if (err)
		keys_wipe(out);
	return err;
}

int keys_load(const char *home, struct keys *out, char *why, size_t why_size)
{
	int err;

	*out = (struct keys){ 0 };
	err = check_folder(home, why, why_size);
	if (!err)
		err = read_sign(home, "keys/node.key", out->node_secret, out->node, why, why_size);
	if (!err)
		err = read_link(home, out->link_secret, out->link, why, why_size);
	if (err == -ENOENT)
		fail(err, why, why_size, "%s has no complete set of keys: run `essaim --home %s init`, or restore them from a backup", home, home);
	if (!err)
		err = make_api(home, out->api_key, why, why_size);     /* deleting it is how one asks for a new one */
	if (!err) {
		err = read_hex(home, "keys/association", false, out->association, KEY_BYTES, why, why_size);
		if (err == -ENOENT)
			err = 0;        /* made to join one, and has not yet: zeros */
		else if (!err)
			err = load_offices(home, out, why, why_size);
	}
	if (err)
		keys_wipe(out);
	return err;
}

int keys_new_steward(const char *home, struct keys *keys, char *why, size_t why_size)
{
	uint8_t secret[SIGN_SECRET_BYTES], public[KEY_BYTES];
	int err;

	crypto_sign_keypair(public, secret);
	err = write_hex(home, "keys/steward.key", secret, SIGN_SECRET_BYTES, why, why_size);
	if (!err) {
		memcpy(keys->steward_secret, secret, sizeof secret);
		memcpy(keys->steward, public, sizeof public);
		keys->has_steward = true;
	}
	sodium_memzero(secret, sizeof secret);
	return err;
}

void keys_wipe(struct keys *keys)
{
	sodium_memzero(keys, sizeof *keys);
}
