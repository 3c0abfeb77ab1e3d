/* address.h: "host:port" and "[v6]:port", to and from what sockets want. Pure. Thread: any.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef LINK_ADDRESS_H
#define LINK_ADDRESS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define ADDRESS_HOST_SIZE 64       /* host part of an ADDRESS_SIZE text, with the NUL */

/* ERR_MALFORMED unless it is HOST:PORT with a port from 1 to 65535 and brackets around IPv6. */
int address_split(const char *address, char host[ADDRESS_HOST_SIZE], uint16_t *port);
int address_join(const char *host, uint16_t port, char *out, size_t size);     /* ERR_LIMIT when it does not fit */
/* "[::1]:7740", "192.0.2.1:7740"; IPv4 inside IPv6 is written as IPv4. "?" for other families. */
void address_text(const struct sockaddr *address, char *out, size_t size);

#endif
