/* dialing.c: targets, their addresses, and when the next attempt is due.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/mesh/dialing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define KINDS 2
#define NEXT_ADDRESS_MS 50                 /* between two addresses of one node */
#define HEAD_START_MS 300                  /* of the smaller key */

struct attempt {                           /* of one kind of link to one node */
	bool flying, up;
	uint64_t due, up_at;
	unsigned tried;                    /* addresses since the last pause or success */
	unsigned rounds;                   /* all addresses failed so often in a row */
	size_t cursor;                     /* of addresses: the one that worked last, or the next */
};
struct target {
	uint8_t node[KEY_BYTES];
	bool named;                        /* since dialing_begin() */
	size_t n_addresses;
	struct dialing_address addresses[DIALING_ADDRESSES_MAX];
	struct attempt attempts[KINDS];
};
struct dialing {
	uint8_t own[KEY_BYTES];
	size_t n, turn, flying;
	struct target *targets[DIALING_TARGETS_MAX];
};

struct dialing *dialing_new(const uint8_t own[KEY_BYTES])
{
	struct dialing *d = calloc(1, sizeof *d);
	if (d)
		memcpy(d->own, own, KEY_BYTES);
	return d;
}

void dialing_free(struct dialing *d)
{
	if (!d)
		return;
	for (size_t i = 0; i < d->n; i++)
		free(d->targets[i]);
	free(d);
}

static struct target *find(struct dialing *d, const uint8_t *node, size_t *at)
{
	for (size_t i = 0; i < d->n; i++)
		if (!memcmp(d->targets[i]->node, node, KEY_BYTES)) {
			if (at)
				*at = i;
			return d->targets[i];
		}
	return NULL;
}

static struct attempt *attempt_of(struct dialing *d, const uint8_t *node, enum link_kind kind)
{
	struct target *t = find(d, node, NULL);
	return t ? &t->attempts[kind == LINK_BULK] : NULL;
}

static void land(struct dialing *d, struct attempt *a)
{
	if (a->flying)
		d->flying--;
	a->flying = false;
}

static void drop(struct dialing *d, size_t i)
{
	for (int k = 0; k < KINDS; k++)
		land(d, &d->targets[i]->attempts[k]);
	free(d->targets[i]);
	d->targets[i] = d->targets[--d->n];
}

/* At random within a short while; the larger key of the two lets the smaller begin. */
static uint64_t soon(const struct dialing *d, const uint8_t *node, uint32_t random)
{
	uint64_t head_start = memcmp(d->own, node, KEY_BYTES) < 0 ? 0 : 2 * HEAD_START_MS;
	return head_start + random % HEAD_START_MS;
}

void dialing_begin(struct dialing *d)
{
	for (size_t i = 0; i < d->n; i++)
		d->targets[i]->named = false;
}

int dialing_target(struct dialing *d, const uint8_t node[KEY_BYTES], const struct dialing_address *addresses, size_t n, uint64_t now, uint32_t random)
{
	if (n > DIALING_ADDRESSES_MAX)
		n = DIALING_ADDRESSES_MAX;
	struct target *t = find(d, node, NULL);
	if (t) {
		t->named = true;
		if (t->n_addresses == n && (!n || !memcmp(t->addresses, addresses, n * sizeof *addresses)))
			return 0;
	} else {
		if (d->n == DIALING_TARGETS_MAX)
			return ERR_LIMIT;
		t = calloc(1, sizeof *t);
		if (!t)
			return -ENOMEM;
		memcpy(t->node, node, KEY_BYTES);
		t->named = true;
		d->targets[d->n++] = t;
	}
	if (n)
		memcpy(t->addresses, addresses, n * sizeof *addresses);
	t->n_addresses = n;
	for (int k = 0; k < KINDS; k++) {
		struct attempt *a = &t->attempts[k];
		a->cursor = a->tried = a->rounds = 0;
		a->due = now + soon(d, node, random);
	}
	return 0;
}

void dialing_end(struct dialing *d)
{
	for (size_t i = d->n; i-- > 0;)
		if (!d->targets[i]->named)
			drop(d, i);
}

void dialing_forget(struct dialing *d, const uint8_t node[KEY_BYTES])
{
	size_t i;
	if (find(d, node, &i))
		drop(d, i);
}

bool dialing_next(struct dialing *d, uint64_t now, struct dial *out)
{
	if (d->flying >= DIALING_FLYING_MAX)
		return false;
	/* In turn, so that a long list of unreachable nodes does not hold up the rest. */
	for (size_t i = 0; i < d->n * KINDS; i++) {
		size_t at = d->turn++ % (d->n * KINDS);
		struct target *t = d->targets[at / KINDS];
		struct attempt *a = &t->attempts[at % KINDS];
		if (a->flying || a->up || !t->n_addresses || a->due > now)
			continue;
		a->flying = true;
		d->flying++;
		memcpy(out->node, t->node, KEY_BYTES);
		out->kind = at % KINDS ? LINK_BULK : LINK_LATENCY;
		memcpy(out->address, t->addresses[a->cursor % t->n_addresses].text, ADDRESS_SIZE);
		return true;
	}
	return false;
}

void dialing_up(struct dialing *d, const uint8_t node[KEY_BYTES], enum link_kind kind, bool dialled, uint64_t now)
{
	struct attempt *a = attempt_of(d, node, kind);
	if (!a)
		return;
	if (dialled)
		land(d, a);
	a->up = true;
	a->up_at = now;
}

static void pause_for(struct attempt *a, uint64_t now, uint32_t random)
{
	a->tried = 0;
	uint64_t pause = DIALING_PAUSE_FIRST_MS;
	for (unsigned i = 0; i < a->rounds && pause < DIALING_PAUSE_MAX_MS; i++)
		pause *= 2;
	if (pause > DIALING_PAUSE_MAX_MS)
		pause = DIALING_PAUSE_MAX_MS;
	a->rounds++;
	a->due = now + pause / 2 + random % pause;
}

void dialing_failed(struct dialing *d, const uint8_t node[KEY_BYTES], enum link_kind kind, uint64_t now, uint32_t random)
{
	struct attempt *a = attempt_of(d, node, kind);
	if (!a)
		return;
	land(d, a);
	if (a->up)
		return;
	size_t n = find(d, node, NULL)->n_addresses;
	a->cursor = n ? (a->cursor + 1) % n : 0;
	if (++a->tried < n)
		a->due = now + NEXT_ADDRESS_MS;
	else
		pause_for(a, now, random);
}

void dialing_lost(struct dialing *d, const uint8_t node[KEY_BYTES], enum link_kind kind, uint64_t now, uint32_t random)
{
	struct attempt *a = attempt_of(d, node, kind);
	if (!a || !a->up)
		return;
	a->up = false;
	if (now >= a->up_at + DIALING_STABLE_MS) {
		a->tried = a->rounds = 0;
		a->due = now + soon(d, node, random);
	} else
		/* A link that comes up and falls at once, again and again, is paced like one that fails. */
		pause_for(a, now, random);
}

void dialing_hurry(struct dialing *d, const uint8_t node[KEY_BYTES], uint64_t now)
{
	struct target *t = find(d, node, NULL);
	for (int k = 0; t && k < KINDS; k++) {
		struct attempt *a = &t->attempts[k];
		a->tried = a->rounds = 0;
		if (a->due > now + 2 * HEAD_START_MS)
			a->due = now + 2 * HEAD_START_MS;
	}
}
