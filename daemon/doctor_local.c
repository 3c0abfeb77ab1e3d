/* doctor_local.c: what this machine can see of itself.
 *
 * The folder and the keys are judged as their owner would use them, also when root looks.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <unistd.h>
#include <uv.h>

#include "daemon/doctor.h"
#include "proto/err.h"
#include "proto/template.h"
#include "proto/text.h"

static bool check_home(struct doctor_list *list, const char *home, struct stat *st)
{
	int failed = stat(home, st) ? -errno : S_ISDIR(st->st_mode) ? 0 : -ENOTDIR;
	if (failed) {
		doctor_add(list, "home", DOCTOR_BAD, NULL, "there is no home folder %s: %s", home, err_str(failed));
		doctor_remedy(list, "make it with: essaim --home %s init; or name another with --home DIR", home);
		return false;
	}
	if (st->st_mode & 007) {
		doctor_add(list, "home", DOCTOR_WARNING, NULL, "%s is open to every user of this machine", home);
		doctor_remedy(list, "run `chmod o= %s`; or `chmod 700` to keep its group out, too", home);
	} else
		doctor_add(list, "home", DOCTOR_GOOD, NULL, "%s", home);
	return true;
}

static void check_key(struct doctor_list *list, const char *path, const struct stat *home, size_t *bad)
{
	struct stat st;
	if (lstat(path, &st))
		return;
	if (!S_ISREG(st.st_mode)) {
		doctor_add(list, "keys", DOCTOR_BAD, NULL, "%s is no plain file", path);
		doctor_remedy(list, "look what it is, and delete it: ls -l %s", path);
	} else if (st.st_uid != home->st_uid && st.st_uid) {
		doctor_add(list, "keys", DOCTOR_BAD, NULL, "%s belongs to another user", path);
		doctor_remedy(list, "run `chown %u %s`", (unsigned)home->st_uid, path);
	} else if (st.st_mode & 077) {
		doctor_add(list, "keys", DOCTOR_BAD, NULL, "%s may be read by other users of this machine", path);
		doctor_remedy(list, "run `chmod 600 %s`, and make new keys if somebody may have read it", path);
	} else
		return;
	++*bad;
}

static void check_keys(struct doctor_list *list, const char *home, const struct stat *owner)
{
	static const char *const needed[] = {"node.key", "link.key"};
	char folder[4096], path[4096 + 300];
	struct stat st;
	size_t bad = 0, n = 0;
	snprintf(folder, sizeof folder, "%.4000s/keys", home);
	DIR *dir = opendir(folder);
	if (!dir) {
		doctor_add(list, "keys", DOCTOR_BAD, errno == EACCES ? N_("run this as the user that runs essaimd, or as root")
								      : N_("restore keys/ from the backup, or make a new home: essaim init"),
			   "%s: %s", folder, err_str(-errno));
		return;
	}
	for (struct dirent *entry; (entry = readdir(dir));) {
		snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
		if (entry->d_name[0] == '.')
			continue;
		n++;
		check_key(list, path, owner, &bad);
	}
	if (!fstat(dirfd(dir), &st) && st.st_mode & 077) {
		doctor_add(list, "keys", DOCTOR_BAD, NULL, "%s is open to other users of this machine", folder);
		doctor_remedy(list, "run `chmod 700 %s`", folder);
		bad++;
	}
	closedir(dir);
	for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
		snprintf(path, sizeof path, "%s/%s", folder, needed[i]);
		if (!access(path, F_OK))
			continue;
		doctor_add(list, "keys", DOCTOR_BAD, "restore keys/ from the backup, or make a new home: essaim init", "%s is missing", path);
		bad++;
	}
	if (!bad)
		doctor_add(list, "keys", DOCTOR_GOOD, NULL, "%zu files, for their owner alone", n);
}

static bool check_config(struct doctor_list *list, const char *home, struct config *config)
{
	char path[4200], why[512] = "";
	snprintf(path, sizeof path, "%.4000s/essaim.conf", home);
	if (access(path, F_OK)) {
		doctor_add(list, "configuration", DOCTOR_BAD, "make it with: essaim init", "%s is missing: this home was never set up whole", path);
		return false;
	}
	if (config_load(path, config, why, sizeof why)) {
		doctor_add(list, "configuration", DOCTOR_BAD, "mend that line: man essaim.conf", "%s", why);
		return false;
	}
	doctor_add(list, "configuration", DOCTOR_GOOD, NULL, "%s", path);
	return true;
}

static void check_machine(struct doctor_list *list, const char *home, const struct config *config, uint64_t wanted, uint64_t used)
{
	struct statvfs disk;
	if (!statvfs(home, &disk))
		doctor_disk(list, home, (uint64_t)disk.f_bavail * disk.f_frsize, wanted);
	if (config)
		doctor_memory(list, uv_get_total_memory(), uv_get_available_memory(), config->share_memory, used);
}

static void check_gpu(struct doctor_list *list, const struct config *c)
{
	struct doctor_gpu gpu = {.wanted = c->share_gpu[0], .any = !strcmp(c->share_gpu, "auto")};
	char path[300] = "";
	DIR *dir = opendir("/dev/dri");
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		if (!strncmp(entry->d_name, "renderD", 7) && !gpu.may_open) {
			snprintf(path, sizeof path, "/dev/dri/%s", entry->d_name);
			gpu.node = path;
			gpu.may_open = !access(path, R_OK | W_OK);
		}
	if (dir)
		closedir(dir);
	doctor_gpu(list, &gpu);
}

/* Whether a TCP port could be listened on: 0, or the error. */
static int try_port(const char *host, uint16_t port)
{
	struct sockaddr_storage address = {0};
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address;
	if (!*host)
		host = "::";                    /* any address */
	bool v6 = !uv_ip6_addr(host, port, six);
	int err = v6 ? 0 : uv_ip4_addr(host, port, (struct sockaddr_in *)&address), on = 1;
	if (err || !port)
		return err;                        /* 0 is any port */
	int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno == EAFNOSUPPORT ? 0 : -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&address, v6 ? sizeof *six : sizeof(struct sockaddr_in)) || listen(fd, 1))
		err = -errno;
	close(fd);
	return err;
}

static void check_ports(struct doctor_list *list, const struct config *c)
{
	const struct {
		const char *what, *key, *host;
		uint16_t port;
	} ports[] = {{N_("the links"), "link", c->link_listen, c->link_port}, {N_("the HTTP API"), "http", c->http_listen, c->http_port}, {N_("the weights"), "torrent", c->torrent_listen, c->torrent_port}};
	size_t bad = 0;
	for (size_t i = 0; i < 3; i++) {
		int err = try_port(ports[i].host, ports[i].port);
		if (!err)
			continue;
		bad++;
		doctor_add(list, "ports", DOCTOR_BAD, NULL, "port %u for %s cannot be listened on at %s: %s", ports[i].port, ports[i].what, ports[i].host, err_str(err));
		if (err == -EADDRINUSE)
			doctor_remedy(list, "`ss -ltnp 'sport = :%u'` names who has it: stop that, or write another [%s] port into essaim.conf", ports[i].port, ports[i].key);
		else
			doctor_remedy(list, "write a [%s] listen address of this machine, and a port above 1023, into essaim.conf", ports[i].key);
	}
	if (!bad)
		doctor_add(list, "ports", DOCTOR_GOOD, NULL, "links %u, HTTP %u, weights %u can be listened on", c->link_port, c->http_port, c->torrent_port);
}

void doctor_local(struct doctor_list *list, const char *home, bool running, uint64_t wanted, uint64_t used)
{
	struct stat st;
	struct config config;
	if (!check_home(list, home, &st))
		return;
	bool configured = check_config(list, home, &config);
	check_keys(list, home, &st);
	check_machine(list, home, configured ? &config : NULL, wanted, used);
	if (configured)
		check_gpu(list, &config);
	if (configured && !running)
		check_ports(list, &config);
}

int doctor_run(const char *home)
{
	struct doctor_list *list = calloc(1, sizeof *list);
	struct timex clock = {0};
	if (!list)
		return 1;
	doctor_local(list, home, false, 0, 0);
	int state = adjtimex(&clock);
	doctor_clocks(list, NULL, 0, state < 0 ? -1 : !(clock.status & STA_UNSYNC));
	char *text = doctor_json(list);
	puts(text ? text : "{}");
	free(text);
	int status = doctor_is_bad(list);
	free(list);
	return status;
}
