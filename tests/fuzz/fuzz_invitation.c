/* fuzz_invitation.c: the URL that a person pastes, whoever wrote it.
 *
 * What must hold:
 *   - a refusal has a sentence, and nothing of the invitation is left in the output;
 *   - what is taken has a role, a name, addresses that can be dialled, the PSK of its secret, and every string ends;
 *   - what is taken is written again as a URL that reads as the same, and no proper prefix of which is taken.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "daemon/trust/invitation.h"
#include "proto/text.h"
#include "tests/fuzz/fuzz.h"

bool fuzz_seed(size_t i, struct buf *out)
{
	struct invitation v = { .role = i ? INVITATION_PARTNER : INVITATION_NODE, .expires = 1700003600, .n_addresses = 1 + 7 * i };
	char url[INVITATION_URL_MAX];

	if (i > 1)
		return false;
	memset(v.id, 1, sizeof v.id);
	memset(v.secret, 2, sizeof v.secret);
	memset(v.link_key, 3, sizeof v.link_key);
	memset(v.node, 4, sizeof v.node);
	memset(v.association, 5, sizeof v.association);
	strcpy(v.name, i ? "Bourdon" : "A");
	strcpy(v.network, i ? "essaim" : "");
	for (size_t k = 0; k < v.n_addresses; k++)
		strcpy(v.addresses[k], k & 1 ? "[2001:db8::1]:7740" : "192.0.2.1:1");
	must(invitation_url(&v, url, sizeof url) == 0);
	must(buf_append_str(out, url) == 0);
	return true;
}

static bool is_zero(const void *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (((const uint8_t *)bytes)[i])
			return false;
	return true;
}

static void must_be_sound(const struct invitation *v)
{
	uint8_t psk[CHANNEL_KEY];

	must(v->role == INVITATION_NODE || v->role == INVITATION_PARTNER);
	must(memchr(v->name, 0, sizeof v->name) && text_is_name(v->name));
	must(memchr(v->network, 0, sizeof v->network) && (!*v->network || text_is_name(v->network)));
	must(v->n_addresses >= 1 && v->n_addresses <= CARD_ADDRESSES_MAX);
	for (size_t i = 0; i < v->n_addresses; i++)
		must(memchr(v->addresses[i], 0, ADDRESS_SIZE) && card_address_is_valid(v->addresses[i]));
	invitation_psk(v->secret, psk);
	must(!memcmp(psk, v->psk, sizeof psk));
}

static void must_come_again(const struct invitation *v)
{
	struct invitation again;
	char url[INVITATION_URL_MAX], why[200];

	must(invitation_url(v, url, sizeof url) == 0);
	must(invitation_parse(url, &again, why, sizeof why) == 0);
	must(!memcmp(v, &again, sizeof again));
	for (size_t n = strlen(url); n--;) {
		url[n] = '\0';
		must(invitation_parse(url, &again, why, sizeof why) == ERR_MALFORMED);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct invitation v;
	char why[200] = "";
	char *text = malloc(n + 1);

	must(text);
	memcpy(text, data, n);
	text[n] = '\0';
	memset(&v, 0xa5, sizeof v);
	if (invitation_parse(text, &v, why, sizeof why) == 0) {
		must_be_sound(&v);
		must_come_again(&v);
	} else {
		must(why[0] && text_is_utf8(why, strlen(why)));
		must(is_zero(&v, sizeof v));
	}
	free(text);
	return 0;
}
