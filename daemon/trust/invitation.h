/* invitation.h: one URL that lets one node in, once (DESIGN D10).
 *
 *   essaim://join/#BASE64URL      the fragment is a msgpack map, at most 1,024 bytes:
 *     "v" 1, "addresses" [str], "link" bin 32 (inviter's X25519), "node" bin 32, "association" bin 32, "name" str,
 *     "id" bin 16, "secret" bin 32, "role" 1 node | 2 partner, "expires" uint, "network" str
 *
 * PSK = BLAKE2b-256("essaim-invite-1" || secret). The inviter keeps the PSK, never the secret, in
 * HOME/invitations/ID (0600) and consumes it atomically when the joiner's first valid transport message is there.
 * Pure but for the invitation_keep/find/consume/list functions, which touch HOME/invitations.
 * Thread: loop. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TRUST_INVITATION_H
#define TRUST_INVITATION_H

#include "proto/channel.h"
#include "proto/record.h"

#define INVITATION_URL_MAX 2048
#define INVITATION_ID_BYTES 16

enum invitation_role { INVITATION_NODE = 1, INVITATION_PARTNER = 2 };

struct invitation {
	enum invitation_role role;
	uint8_t id[INVITATION_ID_BYTES];
	uint8_t secret[32];                     /* in the URL only */
	uint8_t psk[CHANNEL_KEY];
	uint8_t link_key[KEY_BYTES], node[KEY_BYTES], association[KEY_BYTES];
	char name[NAME_SIZE];                   /* inviter's association */
	char network[NAME_SIZE];
	uint64_t expires;
	size_t n_addresses;
	char addresses[CARD_ADDRESSES_MAX][ADDRESS_SIZE];
};

void invitation_psk(const uint8_t secret[32], uint8_t psk[CHANNEL_KEY]);
int invitation_url(const struct invitation *invitation, char *out, size_t size);
/* ERR_MALFORMED with a sentence in why ("this invitation was cut short: copy it whole") */
int invitation_parse(const char *url, struct invitation *out, char *why, size_t why_size);

int invitation_keep(const char *home, const struct invitation *invitation);           /* psk, role, expiry; not the secret */
int invitation_find(const char *home, const uint8_t id[INVITATION_ID_BYTES], uint64_t now, struct invitation *out);  /* ERR_UNKNOWN, ERR_EXPIRED, ERR_USED */
int invitation_consume(const char *home, const uint8_t id[INVITATION_ID_BYTES]);      /* 0 exactly once; then ERR_USED */
int invitation_list(const char *home, bool (*fn)(const struct invitation *i, bool used, void *arg), void *arg);

#endif
