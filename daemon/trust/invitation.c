/* invitation.c: invitations as URLs, and the folder where the inviter keeps what it needs to answer one.
 *
 *   HOME/invitations/ID         msgpack map "v" 1, "role", "expires", "psk" bin 32, "name", "network"; 0600
 *   HOME/invitations/ID.used    the same after the one use, its PSK overwritten with zeros
 *
 * The use is a rename(2): of any number of callers, in any number of processes, one succeeds. The folder is synced
 * before that one is told so; a crash may burn an invitation but never lets it be used twice.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/trust/invitation.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/trust/keys.h"
#include "proto/log.h"
#include "proto/text.h"

#define URL_PREFIX "essaim://join/#"
#define FRAGMENT_MAX 1024      /* bytes of the map */
#define KEPT_MAX 512           /* bytes of a kept file */
#define HEX_ID (2 * INVITATION_ID_BYTES)

static const struct pack_limits fragment_limits = { .bytes = FRAGMENT_MAX, .depth = 3, .nodes = 64 };
static const struct pack_limits kept_limits = { .bytes = KEPT_MAX, .depth = 2, .nodes = 32 };

void invitation_psk(const uint8_t secret[32], uint8_t psk[CHANNEL_KEY])
{
	static const char domain[] = "essaim-invite-1";
	crypto_generichash_state state;

	crypto_generichash_init(&state, NULL, 0, CHANNEL_KEY);
	crypto_generichash_update(&state, (const uint8_t *)domain, sizeof domain - 1);
	crypto_generichash_update(&state, secret, 32);
	crypto_generichash_final(&state, psk, CHANNEL_KEY);
	sodium_memzero(&state, sizeof state);
}

/* --- the URL ----------------------------------------------------------------------------------------- */

/* It is shown to people: the rules of a name, or nothing. */
static bool network_is_valid(const char *network)
{
	return !*network || text_is_name(network);
}

static bool role_is_known(uint64_t role)
{
	return role == INVITATION_NODE || role == INVITATION_PARTNER;
}

int invitation_url(const struct invitation *v, char *out, size_t size)
{
	struct pack_writer w;
	struct buf map;
	int err;

	if (!v->n_addresses || v->n_addresses > CARD_ADDRESSES_MAX || !role_is_known(v->role) || !text_is_name(v->name) ||
	    !network_is_valid(v->network))
		return ERR_MALFORMED;
	for (size_t i = 0; i < v->n_addresses; i++)
		if (!card_address_is_valid(v->addresses[i]))
			return ERR_MALFORMED;
	buf_init(&map, FRAGMENT_MAX);
	pack_writer_init(&w, &map);
	pack_map(&w, 11);
	pack_kv_uint(&w, "v", 1);
	pack_str(&w, "addresses");
	pack_array(&w, v->n_addresses);
	for (size_t i = 0; i < v->n_addresses; i++)
		pack_str(&w, v->addresses[i]);
	pack_kv_bin(&w, "link", v->link_key, KEY_BYTES);
	pack_kv_bin(&w, "node", v->node, KEY_BYTES);
	pack_kv_bin(&w, "association", v->association, KEY_BYTES);
	pack_kv_str(&w, "name", v->name);
	pack_kv_bin(&w, "id", v->id, INVITATION_ID_BYTES);
	pack_kv_bin(&w, "secret", v->secret, sizeof v->secret);
	pack_kv_uint(&w, "role", v->role);
	pack_kv_uint(&w, "expires", v->expires);
	pack_kv_str(&w, "network", v->network);
	err = w.err;
	if (!err && strlen(URL_PREFIX) + text_base64_size(map.length) > size)
		err = ERR_LIMIT;
	if (!err) {
		strcpy(out, URL_PREFIX);
		text_base64(map.data, map.length, out + strlen(URL_PREFIX));
	}
	if (map.data)
		sodium_memzero(map.data, map.length);
	buf_release(&map);
	return err;
}

static int refuse(char *why, size_t size, const char *sentence)
{
	snprintf(why, size, "%s", sentence);
	return ERR_MALFORMED;
}

static const char cut_short[] = "this invitation was cut short or changed on its way: copy the whole line, from essaim:// to its end";

/* Everything but the version, which says how to read the rest. */
static void read_map(struct pack_cursor c, struct invitation *out)
{
	struct pack_cursor list = pack_get(c, "addresses");

	out->n_addresses = pack_count(list);
	if (!*c.err && (!out->n_addresses || out->n_addresses > CARD_ADDRESSES_MAX))
		*c.err = ERR_MALFORMED;
	for (size_t i = 0; !*c.err && i < out->n_addresses; i++) {
		pack_at_str(list, i, out->addresses[i], ADDRESS_SIZE);
		if (!*c.err && !card_address_is_valid(out->addresses[i]))
			*c.err = ERR_MALFORMED;
	}
	pack_get_exact(c, "link", out->link_key, KEY_BYTES);
	pack_get_exact(c, "node", out->node, KEY_BYTES);
	pack_get_exact(c, "association", out->association, KEY_BYTES);
	pack_get_str(c, "name", out->name, sizeof out->name);
	pack_get_exact(c, "id", out->id, INVITATION_ID_BYTES);
	pack_get_exact(c, "secret", out->secret, sizeof out->secret);
	out->role = (enum invitation_role)pack_get_uint(c, "role", UINT32_MAX);
	out->expires = pack_get_uint(c, "expires", UINT64_MAX);
	pack_get_str(c, "network", out->network, sizeof out->network);
	if (!*c.err && (!text_is_name(out->name) || !network_is_valid(out->network) || !role_is_known(out->role)))
		*c.err = ERR_MALFORMED;
}

static int parse_fragment(const uint8_t *bytes, size_t n, struct invitation *out, char *why, size_t why_size)
{
	struct pack_doc doc;
	struct pack_cursor c;
	uint64_t version;
	int err;

	if (pack_parse(&doc, bytes, n, &fragment_limits))
		return refuse(why, why_size, cut_short);
	c = pack_root(&doc, &err);
	version = pack_get_uint(c, "v", UINT32_MAX);
	if (!err && version != 1) {
		snprintf(why, why_size, "this invitation comes from a newer Essaim (version %llu of invitations): upgrade this one first",
			 (unsigned long long)version);
		pack_release(&doc);
		return ERR_VERSION;
	}
	if (!err)
		read_map(c, out);
	pack_release(&doc);
	return err ? refuse(why, why_size, cut_short) : 0;
}

int invitation_parse(const char *url, struct invitation *out, char *why, size_t why_size)
{
	uint8_t bytes[FRAGMENT_MAX];
	size_t length, n;
	int err;

	memset(out, 0, sizeof *out);
	while (isspace((unsigned char)*url))
		url++;
	length = strlen(url);
	while (length && isspace((unsigned char)url[length - 1]))
		length--;
	if (strncmp(url, URL_PREFIX, length < strlen(URL_PREFIX) ? length : strlen(URL_PREFIX)) || !length)
		return refuse(why, why_size, "this is not an invitation: one begins with " URL_PREFIX);
	if (length >= INVITATION_URL_MAX)
		return refuse(why, why_size, "this is longer than any invitation: copy that one line alone");
	for (size_t i = 0; i < length; i++)
		if (isspace((unsigned char)url[i]))
			return refuse(why, why_size, "this invitation has a space or a line break inside: copy it as one line");
	if (length < strlen(URL_PREFIX) ||
	    text_unbase64(url + strlen(URL_PREFIX), length - strlen(URL_PREFIX), bytes, sizeof bytes, &n))
		return refuse(why, why_size, cut_short);
	err = parse_fragment(bytes, n, out, why, why_size);
	if (!err)
		invitation_psk(out->secret, out->psk);
	else
		sodium_memzero(out, sizeof *out);
	sodium_memzero(bytes, sizeof bytes);
	return err;
}

/* --- the inviter's folder ----------------------------------------------------------------------------- */

static int name_of(char out[64], const uint8_t id[INVITATION_ID_BYTES], const char *suffix)
{
	char hex[HEX_ID + 1];

	text_hex(id, INVITATION_ID_BYTES, hex);
	return snprintf(out, 64, "invitations/%s%s", hex, suffix);
}

static int path_of(char out[PATH_MAX], const char *home, const uint8_t id[INVITATION_ID_BYTES], const char *suffix)
{
	char name[64];
	int n;

	name_of(name, id, suffix);
	n = snprintf(out, PATH_MAX, "%s/%s", home, name);
	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static int write_kept(const char *home, const struct invitation *v, bool used)
{
	static const uint8_t zeros[CHANNEL_KEY];
	char name[64], why[256];
	struct pack_writer w;
	struct buf map;
	int err;

	buf_init(&map, KEPT_MAX);
	pack_writer_init(&w, &map);
	pack_map(&w, 6);
	pack_kv_uint(&w, "v", 1);
	pack_kv_uint(&w, "role", v->role);
	pack_kv_uint(&w, "expires", v->expires);
	pack_kv_bin(&w, "psk", used ? zeros : v->psk, CHANNEL_KEY);
	pack_kv_str(&w, "name", v->name);
	pack_kv_str(&w, "network", v->network);
	name_of(name, v->id, used ? ".used" : "");
	err = w.err;
	if (!err) {
		err = keys_write_file(home, name, map.data, map.length, why, sizeof why);
		if (err)
			log_error("%s", why);
	}
	if (map.data)
		sodium_memzero(map.data, map.length);
	buf_release(&map);
	return err;
}

static int read_kept(const char *path, struct invitation *out)
{
	uint8_t bytes[KEPT_MAX + 1];
	struct pack_doc doc;
	struct pack_cursor c;
	struct stat st;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), err;

	if (fd < 0)
		return errno == ENOENT ? ERR_UNKNOWN : -errno;
	err = fstat(fd, &st) ? -errno : st.st_mode & 077 ? ERR_DENIED : 0;
	n = err ? 0 : read(fd, bytes, sizeof bytes);
	if (n < 0)
		err = -errno;
	close(fd);
	if (err == ERR_DENIED)
		log_error("%s may be read by other users of this machine, so it invites nobody any more: delete it and make another", path);
	if (err)
		return err;
	err = pack_parse(&doc, bytes, (size_t)n, &kept_limits);
	if (!err) {
		c = pack_root(&doc, &err);
		pack_get_uint(c, "v", 1);
		out->role = (enum invitation_role)pack_get_uint(c, "role", UINT32_MAX);
		out->expires = pack_get_uint(c, "expires", UINT64_MAX);
		pack_get_exact(c, "psk", out->psk, CHANNEL_KEY);
		pack_get_str(c, "name", out->name, sizeof out->name);
		pack_get_str(c, "network", out->network, sizeof out->network);
		pack_release(&doc);
	}
	sodium_memzero(bytes, sizeof bytes);
	if (!err && !role_is_known(out->role))
		err = ERR_MALFORMED;
	return err;
}

int invitation_keep(const char *home, const struct invitation *invitation)
{
	char used[PATH_MAX];
	struct stat st;
	int err = path_of(used, home, invitation->id, ".used");

	if (err)
		return err;
	if (!stat(used, &st))
		return ERR_USED;
	return write_kept(home, invitation, false);
}

int invitation_find(const char *home, const uint8_t id[INVITATION_ID_BYTES], uint64_t now, struct invitation *out)
{
	char path[PATH_MAX];
	struct stat st;
	int err;

	memset(out, 0, sizeof *out);
	err = path_of(path, home, id, ".used");
	if (err)
		return err;
	if (!stat(path, &st))
		return ERR_USED;
	err = path_of(path, home, id, "");
	if (!err)
		err = read_kept(path, out);
	if (!err && now > out->expires)
		err = ERR_EXPIRED;
	if (err)
		sodium_memzero(out, sizeof *out);
	else
		memcpy(out->id, id, INVITATION_ID_BYTES);
	return err;
}

static int sync_folder(const char *home)
{
	char path[PATH_MAX];
	int fd, n = snprintf(path, sizeof path, "%s/invitations", home), err = 0;

	if (n < 0 || n >= PATH_MAX)
		return -ENAMETOOLONG;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fsync(fd))
		err = -errno;
	close(fd);
	return err;
}

int invitation_consume(const char *home, const uint8_t id[INVITATION_ID_BYTES])
{
	char from[PATH_MAX], to[PATH_MAX];
	struct invitation kept = { 0 };
	struct stat st;
	int err = path_of(from, home, id, "");

	if (!err)
		err = path_of(to, home, id, ".used");
	if (err)
		return err;
	if (!stat(to, &st))
		return ERR_USED;
	if (rename(from, to))
		return errno != ENOENT ? -errno : stat(to, &st) ? ERR_UNKNOWN : ERR_USED;
	err = sync_folder(home);
	/* What is left of the PSK goes; that it could not is no reason to turn the joiner away. */
	if (!err && !read_kept(to, &kept)) {
		memcpy(kept.id, id, INVITATION_ID_BYTES);
		write_kept(home, &kept, true);
	}
	sodium_memzero(&kept, sizeof kept);
	return err;
}

/* ID or ID.used, and nothing else that may lie there. */
static bool is_kept_name(const char *name, uint8_t id[INVITATION_ID_BYTES], bool *used)
{
	char hex[HEX_ID + 1];
	size_t n = strlen(name);

	*used = n > HEX_ID;
	if (n < HEX_ID || strcmp(name + HEX_ID, *used ? ".used" : ""))
		return false;
	memcpy(hex, name, HEX_ID);
	hex[HEX_ID] = '\0';
	return !text_unhex(hex, id, INVITATION_ID_BYTES);
}

int invitation_list(const char *home, bool (*fn)(const struct invitation *i, bool used, void *arg), void *arg)
{
	char path[PATH_MAX];
	struct invitation v;
	struct dirent *item;
	DIR *folder;
	int n = snprintf(path, sizeof path, "%s/invitations", home);
	bool used, more = true;

	if (n < 0 || n >= PATH_MAX)
		return -ENAMETOOLONG;
	folder = opendir(path);
	if (!folder)
		return errno == ENOENT ? 0 : -errno;
	while (more && (item = readdir(folder))) {
		memset(&v, 0, sizeof v);
		if (!is_kept_name(item->d_name, v.id, &used))
			continue;
		if (!path_of(path, home, v.id, used ? ".used" : "") && !read_kept(path, &v))
			more = fn(&v, used, arg);
		sodium_memzero(&v, sizeof v);
	}
	closedir(folder);
	return 0;
}
