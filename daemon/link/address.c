/* address.c: "host:port" and back.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/link/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "proto/err.h"

int address_split(const char *address, char host[ADDRESS_HOST_SIZE], uint16_t *port)
{
	const char *from = address, *to, *colon;
	if (*address == '[') {
		from = address + 1;
		to = strchr(from, ']');
		if (!to || to[1] != ':')
			return ERR_MALFORMED;
		colon = to + 1;
	} else {
		to = colon = strchr(address, ':');
		if (!colon || strchr(colon + 1, ':'))
			return ERR_MALFORMED;
	}
	size_t n = (size_t)(to - from);
	if (!n || n >= ADDRESS_HOST_SIZE)
		return ERR_MALFORMED;

	unsigned value = 0;
	const char *digit = colon + 1;
	for (; *digit >= '0' && *digit <= '9' && value <= UINT16_MAX; digit++)
		value = value * 10 + (unsigned)(*digit - '0');
	if (*digit || value == 0 || value > UINT16_MAX)
		return ERR_MALFORMED;

	memcpy(host, from, n);
	host[n] = '\0';
	*port = (uint16_t)value;
	return 0;
}

int address_join(const char *host, uint16_t port, char *out, size_t size)
{
	int n = snprintf(out, size, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
	return n < 0 || (size_t)n >= size ? ERR_LIMIT : 0;
}

void address_text(const struct sockaddr *address, char *out, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "";
	uint16_t port = 0;
	if (address->sa_family == AF_INET) {
		const struct sockaddr_in *v4 = (const void *)address;
		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
		port = ntohs(v4->sin_port);
	} else if (address->sa_family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const void *)address;
		if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
			inet_ntop(AF_INET, v6->sin6_addr.s6_addr + 12, host, sizeof host);
		else
			inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
		port = ntohs(v6->sin6_port);
	}
	if (!host[0] || address_join(host, port, out, size))
		snprintf(out, size, "?");
}
