/* fuzz_config.c: essaim.conf, as an administrator in a hurry may leave it.
 *
 * What must hold:
 *   - a refusal has a sentence that names the file;
 *   - what is taken is within the limits of config.h, every string ends, and the addresses can be announced in a card.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/config.h"
#include "proto/text.h"
#include "tests/fuzz/fuzz.h"

/* Every key with its default; then with other values, and what people get wrong. */
bool fuzz_seed(size_t i, struct buf *out)
{
	static const char *const others[] = {
		"[link]\naddresses = a.example:7740, [2001:db8::1]:7740,192.0.2.1:1\nport=0\n[share]\nmemory = 1.5 GiB ; half\ncounts = weights\nhome=no\n",
		"\xef\xbb\xbf[share]\r\nthreads = auto\r\ncontext = 32\r\nsessions=64\r\npaused: on\r\n# watts\nwatts = 10000\n",
		"[share]\nmemroy = 5G\n",
		"[http]\ncors = https://a.example,\n https://b.example\nhosts = x, y\n[log]\nlevel = debug\n[engine]\ndata_limit = 4G\nhang_seconds = 5\n",
	};
	if (i == 0) {
		for (const struct config_key *k = config_schema; k->section; k++)
			must(buf_printf(out, "[%s]\n%s = %s\n", k->section, k->name, k->otherwise) == 0);
		return true;
	}
	if (i > sizeof others / sizeof *others)
		return false;
	must(buf_append_str(out, others[i - 1]) == 0);
	return true;
}

#define must_end(array) must(memchr(array, 0, sizeof(array)))

static void must_be_sound(const struct config *c)
{
	must_end(c->node_name);
	must_end(c->network);
	must_end(c->link_listen);
	must_end(c->http_listen);
	must_end(c->http_cors);
	must_end(c->http_hosts);
	must_end(c->torrent_listen);
	must_end(c->engine_path);
	must(text_is_name(c->node_name) && text_is_name(c->network));
	must(c->n_addresses <= CARD_ADDRESSES_MAX);
	for (size_t i = 0; i < c->n_addresses; i++) {
		must_end(c->addresses[i]);
		must(card_address_is_valid(c->addresses[i]));
	}
	must(c->share_threads >= 1 && c->share_threads <= 512);
	must(c->share_context >= 32 && c->share_context <= 1u << 20);
	must(c->share_sessions >= 1 && c->share_sessions <= 64);
	must(c->engine_hang_seconds >= 5 && c->engine_hang_seconds <= 3600);
	must(c->watts <= 10000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct config c;
	char path[64], why[400] = "";
	int fd = memfd_create("essaim.conf", MFD_CLOEXEC);

	must(fd >= 0 && write(fd, data, n) == (ssize_t)n);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (config_load(path, &c, why, sizeof why))
		must(strstr(why, path));
	else
		must_be_sound(&c);
	close(fd);
	return 0;
}
