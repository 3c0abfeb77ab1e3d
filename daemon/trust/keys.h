/* keys.h: the keys of a home folder, as files of mode 0600 under HOME/keys.
 *
 *   root.key     Ed25519, used by `init` and to renew the steward; to be moved away after `init`
 *   steward.key  Ed25519, signed by the root key for 90 days at a time; on the nodes that administer the association
 *   node.key     Ed25519, this node's identity
 *   link.key     X25519, this node's static key for links
 *   api.key      "essaim-" + 43 base64url characters: what programs put behind "Authorization: Bearer"
 *   association  the root's public key, hexadecimal: which association this node belongs to
 *
 * Files are written whole: a temporary name, fsync, rename. A file that others may read is refused with a remedy.
 * Thread: start-up and commands only. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TRUST_KEYS_H
#define TRUST_KEYS_H

#include <stdbool.h>

#include "proto/record.h"

struct keys {
	bool has_root, has_steward;
	uint8_t root_secret[SIGN_SECRET_BYTES];
	uint8_t steward_secret[SIGN_SECRET_BYTES], steward[KEY_BYTES];
	uint8_t node_secret[SIGN_SECRET_BYTES], node[KEY_BYTES];
	uint8_t link_secret[KEY_BYTES], link[KEY_BYTES];
	uint8_t association[KEY_BYTES];
	char api_key[64];
};

/* Makes what is missing of a new home; with_association false leaves root and steward out (a node that will
 * join one). why gets a sentence with a remedy on failure. */
int keys_create(const char *home, bool with_association, struct keys *out, char *why, size_t why_size);
int keys_load(const char *home, struct keys *out, char *why, size_t why_size);
/* A new steward key in the place of the one that is there, if any. */
int keys_new_steward(const char *home, struct keys *keys, char *why, size_t why_size);
void keys_wipe(struct keys *keys);
/* Puts bytes into HOME/name atomically, mode 0600. */
int keys_write_file(const char *home, const char *name, const void *bytes, size_t n, char *why, size_t why_size);

#endif
