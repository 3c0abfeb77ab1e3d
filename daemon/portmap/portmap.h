/* portmap.h: asks the router in front of this node to pass two TCP ports on to it ([link] map_ports), by NAT-PMP (RFC 6886) or UPnP IGD.
 *
 * Off unless it is switched on. The port outside is always the one inside: others are told one number, and whoever forwards by hand
 * forwards the same. A mapping is asked for anew every PORTMAP_RENEW_MS, well before its lease ends, so that a router that was
 * restarted has it again; it is taken back when it is switched off and at the end. IPv4 only: IPv6 needs no mapping, only a firewall that
 * lets the port in.
 *
 * Whatever answers in the local network is believed: it can say a wrong address, which then stands in this node's card and which nobody reaches;
 * links are authenticated all the same. The libraries' parsers of XML and datagrams stand behind portmap_ask.c.
 * Thread: loop; the asking blocks for some seconds and is done on a worker. Owner: main. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PORTMAP_PORTMAP_H
#define PORTMAP_PORTMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define PORTMAP_PORTS 2
#define PORTMAP_LEASE_S 3600
#define PORTMAP_RENEW_MS (600u * 1000)
#define PORTMAP_AGAIN_MS (300u * 1000)     /* after a failure */

enum portmap_trouble {
	PORTMAP_WELL,
	PORTMAP_NO_ROUTER,                 /* nobody answered */
	PORTMAP_REFUSED,                   /* by: code */
	PORTMAP_TAKEN,                     /* port is another machine's */
	PORTMAP_OFFLINE,                   /* the router has no connection itself */
	PORTMAP_PRIVATE,                   /* host is no public address: another router stands before this one */
};
struct portmap_answer {
	enum portmap_trouble trouble;
	const char *by;                    /* "NAT-PMP", "UPnP", or "" */
	char host[16];                     /* the router's address outside, in figures; "" unknown */
	uint16_t port;                     /* that the trouble is about */
	int code;                          /* the protocol's own */
	bool given[PORTMAP_PORTS];         /* these are ours now */
	char control[256], service[128];   /* UPnP: where to take them back */
};

enum portmap_state { PORTMAP_OFF, PORTMAP_ASKING, PORTMAP_MAPPED, PORTMAP_FAILED };

struct portmap;
struct portmap_config {
	uv_loop_t *loop;
	uint16_t ports[PORTMAP_PORTS];     /* inside and outside */
	void (*on_change)(void *arg);      /* state or address; never from open or close */
	void *arg;
	/* portmap_ask() and portmap_take_back(), or a test's. Worker. */
	void (*ask)(const uint16_t ports[PORTMAP_PORTS], struct portmap_answer *out);
	void (*take_back)(const uint16_t ports[PORTMAP_PORTS], const struct portmap_answer *given);
};

int portmap_open(struct portmap **out, const struct portmap_config *config);
void portmap_tick(struct portmap *portmap, bool wanted, uint64_t ms /* monotonic */);
/* out: the last answer; before there is one, nothing in it. */
enum portmap_state portmap_state(const struct portmap *portmap, struct portmap_answer *out);
void portmap_close(struct portmap *portmap, void (*on_closed)(void *arg), void *arg);     /* takes back first: some seconds at worst */

/* portmap_ask.c: blocking, any thread. */
void portmap_ask(const uint16_t ports[PORTMAP_PORTS], struct portmap_answer *out);
void portmap_take_back(const uint16_t ports[PORTMAP_PORTS], const struct portmap_answer *given);
/* Whether an IPv4 address in figures can be reached from everywhere: not those of RFC 1918, RFC 6598 (shared by a provider's customers), link-local,
 * loopback, 0/8. */
bool portmap_is_public(const char *host);

#endif
