/* portmap_ask.c: the router is asked by NAT-PMP, which costs one datagram, and where nobody answers by UPnP IGD.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/portmap/portmap.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include <miniupnpc/miniupnpc.h>
#include <miniupnpc/upnpcommands.h>
#include <natpmp.h>

#include "proto/text.h"

#define NATPMP_TRIES 4                    /* 250 ms, and twice as long each time (RFC 6886, 3.1): 3.75 s in all */
#define DISCOVER_MS 2000
#define UPNP_CONFLICT 718                 /* IGD: ConflictInMappingEntry */
#define UPNP_PERMANENT_ONLY 725           /* OnlyPermanentLeasesSupported */

static const char *const names[PORTMAP_PORTS] = {"essaim links", "essaim weights"};

bool portmap_is_public(const char *host)
{
	static const struct {
		uint32_t net;
		int bits;
	} ours[] = {{0x00000000, 8}, {0x0a000000, 8}, {0x64400000, 10}, {0x7f000000, 8}, {0xa9fe0000, 16}, {0xac100000, 12}, {0xc0a80000, 16}};
	struct in_addr address;
	if (inet_pton(AF_INET, host, &address) != 1)
		return false;
	for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
		if (!((ntohl(address.s_addr) ^ ours[i].net) >> (32 - ours[i].bits)))
			return false;
	return true;
}

/* --- NAT-PMP --------------------------------------------------------------------------------------- */

/* The answer to what was just sent; negative: NATPMP_ERR_*. */
static int natpmp_answer(natpmp_t *n, natpmpresp_t *out)
{
	int err = NATPMP_TRYAGAIN;
	while (err == NATPMP_TRYAGAIN && n->try_number <= NATPMP_TRIES) {
		struct timeval left;
		struct pollfd wait = {.fd = n->s, .events = POLLIN};
		if (getnatpmprequesttimeout(n, &left))
			left = (struct timeval){0};
		poll(&wait, 1, (int)(left.tv_sec * 1000 + left.tv_usec / 1000) + 1);
		err = readnatpmpresponseorretry(n, out);
	}
	return err == NATPMP_TRYAGAIN ? NATPMP_ERR_NOGATEWAYSUPPORT : err;
}

static int natpmp_map(natpmp_t *n, uint16_t port, uint32_t lease, natpmpresp_t *out)
{
	int err = sendnewportmappingrequest(n, NATPMP_PROTOCOL_TCP, port, lease ? port : 0, lease);
	return err < 0 ? err : natpmp_answer(n, out);
}

/* Whether a router speaks NAT-PMP at all: then out is filled. */
static bool ask_natpmp(const uint16_t ports[PORTMAP_PORTS], struct portmap_answer *out)
{
	natpmp_t n;
	natpmpresp_t said = {0};
	if (initnatpmp(&n, 0, 0))
		return false;
	int err = sendpublicaddressrequest(&n);
	if (err >= 0)
		err = natpmp_answer(&n, &said);
	if (err) {
		closenatpmp(&n);
		return false;
	}
	out->by = "NAT-PMP";
	inet_ntop(AF_INET, &said.pnu.publicaddress.addr, out->host, sizeof out->host);
	for (size_t i = 0; i < PORTMAP_PORTS && !out->trouble; i++) {
		err = natpmp_map(&n, ports[i], PORTMAP_LEASE_S, &said);
		out->port = ports[i];
		out->code = err;
		if (err) {
			out->trouble = PORTMAP_REFUSED;
		} else if (said.pnu.newportmapping.mappedpublicport != ports[i]) {
			/* It gave another one: of no use, and given back. */
			natpmp_map(&n, ports[i], 0, &said);
			out->trouble = PORTMAP_TAKEN;
		} else {
			out->given[i] = true;
		}
	}
	closenatpmp(&n);
	return true;
}

/* --- UPnP ------------------------------------------------------------------------------------------ */

static bool upnp_map(struct portmap_answer *out, uint16_t port, const char *name, const char *inside)
{
	char number[8], lease[12];
	snprintf(number, sizeof number, "%u", port);
	snprintf(lease, sizeof lease, "%u", PORTMAP_LEASE_S);
	out->port = port;
	out->code = UPNP_AddPortMapping(out->control, out->service, number, number, inside, name, "TCP", NULL, lease);
	if (out->code == UPNP_PERMANENT_ONLY)
		out->code = UPNP_AddPortMapping(out->control, out->service, number, number, inside, name, "TCP", NULL, "0");
	if (out->code)
		out->trouble = out->code == UPNP_CONFLICT ? PORTMAP_TAKEN : PORTMAP_REFUSED;
	return !out->code;
}

static void ask_upnp(const uint16_t ports[PORTMAP_PORTS], struct portmap_answer *out)
{
	int err = 0;
	struct UPNPDev *found = upnpDiscover(DISCOVER_MS, NULL, NULL, UPNP_LOCAL_PORT_ANY, 0, 2, &err);
	struct UPNPUrls urls = {0};
	struct IGDdatas data = {0};
	char inside[64] = "", outside[64] = "";
	int kind = found ? UPNP_GetValidIGD(found, &urls, &data, inside, sizeof inside, outside, sizeof outside) : UPNP_NO_IGD;
	out->trouble = PORTMAP_NO_ROUTER;
	if (kind == UPNP_NO_IGD || kind == UPNP_UNKNOWN_DEVICE)
		goto out;
	out->by = "UPnP";
	out->trouble = kind == UPNP_DISCONNECTED_IGD ? PORTMAP_OFFLINE : PORTMAP_WELL;
	if (text_copy(out->control, sizeof out->control, urls.controlURL ? urls.controlURL : "") ||
	    text_copy(out->service, sizeof out->service, data.first.servicetype))
		out->trouble = PORTMAP_REFUSED;
	if (!out->trouble && UPNP_GetExternalIPAddress(out->control, out->service, outside) == UPNPCOMMAND_SUCCESS &&
	    text_copy(out->host, sizeof out->host, outside))
		out->host[0] = 0;
	for (size_t i = 0; i < PORTMAP_PORTS && !out->trouble; i++)
		out->given[i] = upnp_map(out, ports[i], names[i], inside);
out:
	if (kind != UPNP_NO_IGD)
		FreeUPNPUrls(&urls);
	freeUPNPDevlist(found);
}

/* --------------------------------------------------------------------------------------------------- */

void portmap_ask(const uint16_t ports[PORTMAP_PORTS], struct portmap_answer *out)
{
	*out = (struct portmap_answer){.by = ""};
	if (!ask_natpmp(ports, out))
		ask_upnp(ports, out);
	if (!out->trouble && !portmap_is_public(out->host))
		out->trouble = PORTMAP_PRIVATE;
}

void portmap_take_back(const uint16_t ports[PORTMAP_PORTS], const struct portmap_answer *given)
{
	natpmp_t n;
	natpmpresp_t said;
	if (*given->control) {
		for (size_t i = 0; i < PORTMAP_PORTS; i++) {
			char number[8];
			snprintf(number, sizeof number, "%u", ports[i]);
			if (given->given[i])
				UPNP_DeletePortMapping(given->control, given->service, number, "TCP", NULL);
		}
	} else if (*given->by && !initnatpmp(&n, 0, 0)) {
		for (size_t i = 0; i < PORTMAP_PORTS; i++)
			if (given->given[i])
				natpmp_map(&n, ports[i], 0, &said);
		closenatpmp(&n);
	}
}
