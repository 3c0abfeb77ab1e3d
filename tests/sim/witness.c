/* witness.c: what must hold. It judges by what it knows of the world (who holds which key, who was put on which roster, which
 * tickets were signed), not by what the rooms conclude.
 *
 *   records    whatever trust takes verifies by libsodium itself, is in force by the node's clock and signed by whoever really may
 *   frames     a frame changes only sessions in which its sender has a part, none of another epoch; an engine computes only rows of a
 *              session that its home signed a ticket for, that come from the ticket's previous node
 *   links      a node that trust no longer admits is disconnected within DISCONNECT_MS
 *   budgets    what is loaded fits the memory shared; rows computed for an association in a day stay within what was granted, and the
 *              slack that the protocol allows (quota_slack())
 *   invitations are used once; tokens: asker.c
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/ring/ring_internal.h"
#include "proto/signed.h"
#include "tests/sim/sim.h"

#define TICKETS_MAX 16384
#define INVITATIONS_MAX 256
#define BIG 40                       /* nodes; above, what costs the square of them is sampled */

/* --- records --------------------------------------------------------------------------------------------------- */

static uint64_t roster_sequence[SIM_ASSOCIATIONS_MAX];     /* of the newest that is held */

static size_t index_of(const uint8_t key[KEY_BYTES])
{
	const struct node *node = node_by_key(key);
	return node ? node->index : SIZE_MAX;
}

static void note_roster(size_t association, const struct record *r)
{
	struct association_truth *a = &sim.associations[association];
	struct roster_body roster = {0};
	uint8_t named[SIM_NODES_MAX] = {0};
	if (roster_read(r, &roster))
		return;
	for (size_t i = 0; i < roster.n_nodes; i++) {
		size_t node = index_of(roster.nodes[i]);
		if (node != SIZE_MAX)
			a->rostered[node] = named[node] = 1;
	}
	if (r->sequence >= roster_sequence[association]) {
		roster_sequence[association] = r->sequence;
		for (size_t i = 0; i < sim.n_nodes; i++)
			a->revoked[i] = a->rostered[i] && !named[i];
	}
	roster_free(&roster);
}

/* Who really may sign that. */
static bool may_sign(size_t association, const struct record *r)
{
	const struct association_truth *a = &sim.associations[association];
	size_t node;
	switch (r->kind) {
	case RECORD_ASSOCIATION:
	case RECORD_STEWARD:
		return !memcmp(r->signer, a->root.key, KEY_BYTES);
	case RECORD_ROSTER:
	case RECORD_AGREEMENT:
	case RECORD_ACCEPTANCE:
	case RECORD_APPROVAL:
		return !memcmp(r->signer, a->steward.key, KEY_BYTES);
	default:
		node = index_of(r->signer);
		return node != SIZE_MAX && a->rostered[node];
	}
}

static void check_record(const struct node *node, const uint8_t *bytes, size_t n, uint64_t now, bool comes)
{
	struct record r;
	char message[SIGNED_DOMAIN_MAX + RECORD_MAX];        /* the domain with its two NULs, and the payload */
	if (record_parse(&r, bytes, n))
		sim_fail(node, "trust takes what is no record");
	size_t length = (size_t)snprintf(message, SIGNED_DOMAIN_MAX, "essaim-record-1%c%s", 0, record_kind_name(r.kind)) + 1;
	memcpy(message + length, r.payload, r.payload_length);
	if (crypto_sign_verify_detached(r.payload + r.payload_length + 2, (const uint8_t *)message, length + r.payload_length, r.signer))
		sim_fail(node, "trust takes a record of kind %d whose signature does not verify", r.kind);
	/* Of the future is what comes from there; what a clock that was ahead let in stays (daemon/trust/trust.h). */
	if (r.expires < now || (comes && r.issued > now + RECORD_FUTURE_S))
		sim_fail(node, "trust takes a record of kind %d that is not in force: issued %lld s ago, ends in %lld s", r.kind,
			 (long long)(now - r.issued), (long long)(r.expires - now));
	size_t association = people_association_of(r.association);
	if (association == sim.n_associations)
		sim_fail(node, "trust takes a record of an association that there is not");
	if (r.kind == RECORD_ROSTER && may_sign(association, &r))
		note_roster(association, &r);
	if (!may_sign(association, &r))
		sim_fail(node, "trust takes a record of kind %d of %s from a signer who never had a say", r.kind, sim.associations[association].name);
}

static struct node *judge;                     /* whose trust takes it; found by its address */

static const struct node *owner_of(const struct trust *trust)
{
	if (judge && judge->boot && judge->boot->daemon.trust == trust)
		return judge;
	for (size_t i = 0; i < sim.n_nodes; i++)
		if (sim.nodes[i].boot && sim.nodes[i].boot->daemon.trust == trust)
			return judge = &sim.nodes[i];
	return NULL;
}

int __real_trust_accept(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now);
int __wrap_trust_accept(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now);
int __wrap_trust_accept(struct trust *trust, const uint8_t *bytes, size_t n, uint64_t now)
{
	int err = __real_trust_accept(trust, bytes, n, now);
	if (err == 1)
		check_record(owner_of(trust), bytes, n, now, true);
	return err;
}

/* What a node has just signed itself must count as newer than all that it ever signed, whatever its clock did. */
int __real_mesh_publish(struct mesh *mesh, const uint8_t *bytes, size_t n);
int __wrap_mesh_publish(struct mesh *mesh, const uint8_t *bytes, size_t n);
int __wrap_mesh_publish(struct mesh *mesh, const uint8_t *bytes, size_t n)
{
	struct record r;
	int err = __real_mesh_publish(mesh, bytes, n);
	if (err == ERR_STALE && !record_parse(&r, bytes, n))
		sim_fail(node_by_key(r.signer), "a record of kind %d that was just signed is older than what is held", r.kind);
	return err;
}

/* --- invitations -------------------------------------------------------------------------------------------------- */

static uint8_t used[INVITATIONS_MAX][16];
static size_t n_used;

void witness_joined(struct node *node, const uint8_t invitation[16])
{
	for (size_t i = 0; i < n_used; i++)
		if (!memcmp(used[i], invitation, 16))
			sim_fail(node, "an invitation is used a second time");
	if (n_used < INVITATIONS_MAX)
		memcpy(used[n_used++], invitation, 16);
}

/* --- tickets ----------------------------------------------------------------------------------------------------------- */

struct ticket_truth {
	uint8_t session[SESSION_BYTES];
	uint32_t epoch, stage;
	uint8_t node[KEY_BYTES], previous[KEY_BYTES];
};
static struct ticket_truth tickets[TICKETS_MAX];       /* the newest; a ring of them */
static size_t n_tickets;

int __real_ticket_sign(struct buf *out, const struct ticket *ticket, const uint8_t home_secret[SIGN_SECRET_BYTES]);
int __wrap_ticket_sign(struct buf *out, const struct ticket *ticket, const uint8_t home_secret[SIGN_SECRET_BYTES]);
int __wrap_ticket_sign(struct buf *out, const struct ticket *ticket, const uint8_t home_secret[SIGN_SECRET_BYTES])
{
	struct ticket_truth *t = &tickets[n_tickets++ % TICKETS_MAX];
	*t = (struct ticket_truth){.epoch = ticket->epoch, .stage = ticket->stage};
	memcpy(t->session, ticket->session, SESSION_BYTES);
	memcpy(t->node, ticket->node, KEY_BYTES);
	memcpy(t->previous, ticket->previous, KEY_BYTES);
	return __real_ticket_sign(out, ticket, home_secret);
}

static const struct ticket_truth *find_ticket(const uint8_t *session, uint32_t epoch, uint32_t stage)
{
	for (size_t i = 0; i < n_tickets && i < TICKETS_MAX; i++) {
		const struct ticket_truth *t = &tickets[(n_tickets - 1 - i) % TICKETS_MAX];
		if (t->epoch == epoch && t->stage == stage && !memcmp(t->session, session, SESSION_BYTES))
			return t;
	}
	return NULL;
}

/* --- what one frame may change ------------------------------------------------------------------------------------------- */

struct state {
	uint8_t session[SESSION_BYTES];
	uint32_t stage;                        /* UINT32_MAX: home's side */
	uint64_t hash;
	bool protected_;                       /* this frame has no business with it */
};
static struct state before[512];
static size_t n_before;
static const uint8_t *frame_from;              /* while a ring frame is dealt with */

static const char *name_of(const uint8_t key[KEY_BYTES])
{
	const struct node *node = node_by_key(key);
	return node ? node->name : "nobody";
}

void witness_tell_sessions(const struct node *node)
{
	const struct ring *ring = daemon_of(node)->ring;
	for (const struct transit *t = ring->transits; t; t = t->next)
		sim_trace(node, "stage %u of session %02x%02x of %s: epoch %u, state %d, %u blocks in the engine; between %s and %s", t->ticket.stage,
			  t->ticket.session[0], t->ticket.session[1], name_of(t->ticket.home), t->ticket.epoch, t->state, t->flight, name_of(t->ticket.previous),
			  name_of(t->ticket.next));
	for (const struct ring_session *s = ring->sessions; s; s = s->next)
		sim_trace(node, "own session %02x%02x: epoch %u, state %d, %zu of its tokens sent, %zu blocks under way", s->id[0], s->id[1], s->epoch, s->state,
			  s->sent, s->n_flight);
}

size_t witness_hostile_stages(const struct node *node)
{
	size_t n = 0;
	for (const struct transit *t = daemon_of(node)->ring->transits; t; t = t->next) {
		const struct node *home = node_by_key(t->ticket.home);
		n += t->state != TRANSIT_DEAD && home && home->hostile;
	}
	return n;
}

static uint64_t mix_in(uint64_t hash, uint64_t value)
{
	return sim_mix(hash * 31 + value);
}

static uint64_t hash_transit(const struct transit *t)
{
	uint64_t h = mix_in(t->ticket.epoch, (uint64_t)t->state);
	h = mix_in(h, t->next_sequence);
	h = mix_in(h, t->flight);
	return mix_in(h, t->rows);
}

static uint64_t hash_session(const struct ring_session *s)
{
	uint64_t h = mix_in(s->epoch, (uint64_t)s->state);
	h = mix_in(h, s->n_tokens);
	h = mix_in(h, s->sent);
	h = mix_in(h, s->n_flight);
	h = mix_in(h, s->sequence);
	for (size_t i = 0; i < s->ask.plan.n_stages; i++) {
		h = mix_in(h, s->stages[i].ready);
		h = mix_in(h, s->stages[i].next_sequence);
	}
	return mix_in(h, s->trouble);
}

/* Which session, stage and epoch a frame is about, as far as it is about one. */
struct about {
	bool known;
	uint8_t session[SESSION_BYTES];
	uint32_t stage, epoch;
};

static struct about about(const struct frame *frame)
{
	struct about a = {0};
	struct ready_message ready;
	struct fault_message fault;
	struct close_message close;
	struct ticket ticket;
	static struct rows_message rows;
	if (frame->type == FRAME_READY && !ready_decode(frame, &ready)) {
		a = (struct about){.known = true, .stage = ready.stage, .epoch = ready.epoch};
		memcpy(a.session, ready.session, SESSION_BYTES);
	} else if (frame->type == FRAME_FAULT && !fault_decode(frame, &fault)) {
		a = (struct about){.known = true, .stage = fault.stage, .epoch = fault.epoch};
		memcpy(a.session, fault.session, SESSION_BYTES);
	} else if (frame->type == FRAME_CLOSE && !close_decode(frame, &close)) {
		a = (struct about){.known = true, .stage = close.stage, .epoch = close.epoch};
		memcpy(a.session, close.session, SESSION_BYTES);
	} else if (frame->type == FRAME_TICKET && !ticket_open(&ticket, frame->tail, frame->tail_length)) {
		a = (struct about){.known = true, .stage = ticket.stage, .epoch = ticket.epoch};
		memcpy(a.session, ticket.session, SESSION_BYTES);
	} else if (frame->type == FRAME_ROWS && !rows_decode(frame, &rows) && rows.n_blocks == 1) {
		a = (struct about){.known = true, .stage = rows.blocks[0].stage, .epoch = rows.blocks[0].epoch};
		memcpy(a.session, rows.blocks[0].session, SESSION_BYTES);
	}
	return a;
}

static bool concerns_transit(const struct transit *t, const uint8_t *from, const struct frame *frame, const struct about *a)
{
	if (!a->known || memcmp(a->session, t->ticket.session, SESSION_BYTES))
		return false;
	switch (frame->type) {
	case FRAME_TICKET:                     /* home's, and newer */
		return !memcmp(from, t->ticket.home, KEY_BYTES) && a->epoch > t->ticket.epoch;
	case FRAME_CLOSE:
		return !memcmp(from, t->ticket.home, KEY_BYTES) && a->epoch >= t->ticket.epoch;
	case FRAME_ROWS:
		return !memcmp(from, t->ticket.previous, KEY_BYTES) && a->epoch == t->ticket.epoch && a->stage == t->ticket.stage;
	default:
		return false;
	}
}

static bool concerns_session(const struct ring_session *s, const uint8_t *from, const struct frame *frame, const struct about *a)
{
	if (frame->type == FRAME_RECEIPT)
		return true;                   /* may end the wait for them; figures only */
	if (!a->known || memcmp(a->session, s->id, SESSION_BYTES) || a->epoch != s->epoch)
		return false;
	for (size_t i = 0; i < s->ask.plan.n_stages; i++)
		if (!memcmp(s->ask.plan.stages[i].node, from, KEY_BYTES))
			return frame->type == FRAME_READY || frame->type == FRAME_FAULT || frame->type == FRAME_ROWS;
	return false;
}

void witness_frame_before(struct node *node, const uint8_t from[KEY_BYTES], const struct frame *frame)
{
	const struct daemon *d = daemon_of(node);
	const struct ring *ring = d->ring;
	struct about a = about(frame);
	frame_from = from;
	if (trust_admits(d->trust, from, daemon_now(d)))
		sim_fail(node, "a ring frame of a node that trust does not admit reaches the ring");
	n_before = 0;
	for (const struct transit *t = ring->transits; t && n_before < 512; t = t->next) {
		/* Others may be given the place of one that waits or is kept. */
		if (t->state == TRANSIT_DEAD || t->state == TRANSIT_KEPT || t->state == TRANSIT_QUEUED)
			continue;
		struct state *s = &before[n_before++];
		*s = (struct state){.stage = t->ticket.stage, .hash = hash_transit(t), .protected_ = !concerns_transit(t, from, frame, &a)};
		memcpy(s->session, t->ticket.session, SESSION_BYTES);
	}
	for (const struct ring_session *s = ring->sessions; s && n_before < 512; s = s->next) {
		if (s->state > SESSION_CLOSING)
			continue;
		struct state *state = &before[n_before++];
		/* Trouble that was found before is dealt with at the end of whatever comes next. */
		*state = (struct state){.stage = UINT32_MAX, .hash = hash_session(s), .protected_ = !s->trouble && !concerns_session(s, from, frame, &a)};
		memcpy(state->session, s->id, SESSION_BYTES);
	}
	if (ring->recheck_due)
		n_before = 0;
}

static bool find_state(const struct ring *ring, const struct state *wanted, uint64_t *hash)
{
	if (wanted->stage == UINT32_MAX) {
		for (const struct ring_session *s = ring->sessions; s; s = s->next)
			if (s->state <= SESSION_CLOSING && !memcmp(s->id, wanted->session, SESSION_BYTES)) {
				*hash = hash_session(s);
				return true;
			}
		return false;
	}
	for (const struct transit *t = ring->transits; t; t = t->next)
		if (t->state != TRANSIT_DEAD && t->ticket.stage == wanted->stage && !memcmp(t->ticket.session, wanted->session, SESSION_BYTES)) {
			*hash = hash_transit(t);
			return true;
		}
	return false;
}

void witness_frame_after(struct node *node, const uint8_t from[KEY_BYTES], const struct frame *frame)
{
	const struct ring *ring = daemon_of(node)->ring;
	const struct node *sender = node_by_key(from);
	for (size_t i = 0; i < n_before; i++) {
		uint64_t hash;
		if (before[i].protected_ && (!find_state(ring, &before[i], &hash) || hash != before[i].hash))
			sim_fail(node, "a frame of type %d from %s changes a session (stage %d) that it has no business with", frame->type,
				 sender ? sender->name : "nobody", (int)before[i].stage);
	}
	frame_from = NULL;
}

static void check_block(struct node *node, const struct ring *ring, const struct rows_block *b)
{
	const struct ring_session *s = ring_find_session(ring, b->session);
	if (s) {
		if (b->epoch != s->epoch || b->stage >= s->ask.plan.n_stages || !s->stages[b->stage].self)
			sim_fail(node, "its engine gets rows of an own session's other epoch or stage");
		return;
	}
	const struct transit *t = transit_find((struct ring *)(uintptr_t)ring, b->session, b->stage);
	if (!t)
		sim_fail(node, "its engine gets rows of a session without a ticket");
	const struct ticket_truth *truth = find_ticket(b->session, b->epoch, b->stage);
	if (!truth || memcmp(truth->node, node->keys.node, KEY_BYTES))
		sim_fail(node, "its engine gets rows of stage %u, epoch %u, for which home signed no ticket", b->stage, b->epoch);
	bool from_itself = !memcmp(truth->previous, node->keys.node, KEY_BYTES);
	if (!from_itself && (!frame_from || memcmp(frame_from, truth->previous, KEY_BYTES)))
		sim_fail(node, "its engine gets rows that do not come from the ticket's previous node");
}

void witness_engine_gets(struct node *node, size_t model, const struct frame *frame)
{
	static struct rows_message rows;
	(void)model;
	if (frame->type != FRAME_ROWS || rows_decode(frame, &rows))
		return;
	for (size_t i = 0; i < rows.n_blocks; i++)
		check_block(node, daemon_of(node)->ring, &rows.blocks[i]);
}

/* --- budgets and quotas ----------------------------------------------------------------------------------------------------- */

static uint64_t granted[SIM_ASSOCIATIONS_MAX][SIM_ASSOCIATIONS_MAX];   /* the most that was ever offered, a day */
struct computed {
	uint64_t day, rows, most_open;
};
static struct computed computed[SIM_NODES_MAX][SIM_ASSOCIATIONS_MAX];

void witness_granted(size_t grantor, size_t grantee, uint64_t tokens_per_day)
{
	if (granted[grantor][grantee] < tokens_per_day)
		granted[grantor][grantee] = tokens_per_day;
}

/* Quotas are checked when a session opens and when 64 rows of it were computed. So each open session may be ahead by the rows not
 * counted yet, and by the blocks that are in the engine when it ends. Each node counts what it computed itself. */
static uint64_t quota_slack(const struct computed *c)
{
	return c->most_open * (USED_ROWS + CHUNK_ROWS + FLIGHT_MAX * CHUNK_ROWS);
}

void witness_computed(struct node *node, const uint8_t session[SESSION_BYTES], uint32_t stage, uint32_t rows)
{
	const struct daemon *d = daemon_of(node);
	const struct transit *t = d->ring ? transit_find(d->ring, session, stage) : NULL;
	size_t own = people_association_of(d->keys.association);
	if (!t || own == sim.n_associations)
		return;
	size_t user = people_association_of(t->ticket.home_association);
	if (user == own || user == sim.n_associations)
		return;
	struct computed *c = &computed[node->index][user];
	uint64_t day = node_now(node) / 86400;
	if (c->day != day)
		*c = (struct computed){.day = day};
	uint64_t open = 0;
	for (const struct transit *other = d->ring->transits; other; other = other->next)
		open += !memcmp(other->ticket.home_association, t->ticket.home_association, KEY_BYTES);
	if (open > c->most_open)
		c->most_open = open;
	c->rows += rows;
	/* A process that is killed forgets what it had not written; a disk that is full takes nothing. Then nothing can be said. */
	if (node->disk.full || node->boots > 1)
		return;
	if (c->rows > granted[own][user] + quota_slack(c))
		sim_fail(node, "computed %llu rows for %s today; %llu were granted, and %llu may be in flight", (unsigned long long)c->rows,
			 sim.associations[user].name, (unsigned long long)granted[own][user], (unsigned long long)quota_slack(c));
}

/* --- now and then --------------------------------------------------------------------------------------------------------------- */

static void sweep_links(struct node *node)
{
	const struct daemon *d = daemon_of(node);
	for (size_t i = 0; i < sim.n_nodes; i++) {
		const uint8_t *key = sim.nodes[i].keys.node;
		uint64_t *since = &node->refused_since[i];
		if (i == node->index || !mesh_is_up(d->mesh, key) || !trust_admits(d->trust, key, daemon_now(d)))
			*since = 0;
		else if (!*since)
			*since = sim.ms;
		else if (sim.ms - *since > DISCONNECT_MS)
			sim_fail(node, "a link with %s is up %llu ms after trust stopped to admit it", sim.nodes[i].name,
				 (unsigned long long)(sim.ms - *since));
	}
}

static bool check_held(const struct record *r, void *arg)
{
	const struct node *node = arg;
	check_record(node, r->bytes, r->length, daemon_of(node)->trust ? node_now(node) : 0, false);
	return true;
}

void witness_sweep(struct node *node)
{
	const struct daemon *d = daemon_of(node);
	if (engine_memory(node) > node->memory)
		sim_fail(node, "%llu bytes are loaded, %llu are shared", (unsigned long long)engine_memory(node), (unsigned long long)node->memory);
	if (residency_used(d) > node->memory)
		sim_fail(node, "%llu bytes are placed, %llu are shared", (unsigned long long)residency_used(d), (unsigned long long)node->memory);
	if (sim.n_nodes <= BIG || sim_mix(sim.ms + node->index) % 20 == 0)
		sweep_links(node);
	if (sim_mix(sim.ms ^ node->index) % 64 == 0) {
		trust_expire(d->trust, daemon_now(d));
		trust_each(d->trust, 0, check_held, node);
	}
}

/* --- the end --------------------------------------------------------------------------------------------------------------------- */

struct comparing {
	const struct node *a, *b;
	char *why;
	size_t size;
	bool same;
};

static bool compare_record(const struct record *r, void *arg)
{
	struct comparing *c = arg;
	const struct daemon *a = daemon_of(c->a), *b = daemon_of(c->b);
	if (r->kind == RECORD_ADVERT || r->kind == RECORD_RECEIPT || !trust_may_see(a->trust, r, b->keys.node, daemon_now(a)) ||
	    !trust_in_reach(b->trust, r->association) || trust_by_hash(b->trust, r->hash) || record_is_current(r, daemon_now(b)))
		return true;                   /* what was dated ahead is taken when its time has come */
	snprintf(c->why, c->size, "%s holds a record of kind %d of %s, sequence %llu, that %s lacks", c->a->name, r->kind,
		 people_association_of(r->association) < sim.n_associations ? sim.associations[people_association_of(r->association)].name : "?",
		 (unsigned long long)r->sequence, c->b->name);
	c->same = false;
	return false;
}

static bool admits(const struct node *a, const struct node *b)
{
	const struct daemon *d = daemon_of(a);
	return !trust_admits(d->trust, b->keys.node, daemon_now(d));
}

/* On no roster any more; a joiner that never came to be is on none either. */
static bool is_out(size_t node)
{
	bool was = false;
	for (size_t k = 0; k < sim.n_associations; k++) {
		const struct association_truth *a = &sim.associations[k];
		if (a->rostered[node] && !a->revoked[node])
			return false;
		was |= a->revoked[node];
	}
	return was;
}

/* Is there anybody from whom it could hear of the roster that leaves this one out. Whoever was introduced to an association that does not deal with
 * him (any more) hears nothing from it, and its last roster holds there until it expires. */
static bool could_hear(const struct node *a, const struct node *revoked)
{
	uint8_t of[KEY_BYTES];
	if (trust_association_of(daemon_of(a)->trust, revoked->keys.node, node_now(a), of))
		return true;
	for (size_t i = 0; i < sim.n_nodes; i++) {
		const struct node *c = &sim.nodes[i];
		if (c != a && c != revoked && c->boot && !c->hostile && !c->revoked && admits(a, c) && admits(c, a) && !admits(c, revoked) &&
		    trust_find(daemon_of(c)->trust, RECORD_ROSTER, of, of, node_now(c)))
			return true;
	}
	return false;
}

/* By what one node holds, has the grantor's association offered the grantee's the use of its nodes. */
static bool grants(const struct node *holder, const struct node *grantor, const struct node *grantee)
{
	const struct record *r = trust_find(daemon_of(holder)->trust, RECORD_AGREEMENT, grantor->keys.association, grantee->keys.association, node_now(holder));
	struct agreement_body terms;
	return r && !agreement_read(r, &terms) && !terms.revoked;
}

static bool pair_converged(struct node *a, struct node *b, char *why, size_t size)
{
	uint8_t owed[KEY_BYTES];
	bool brothers = !memcmp(a->keys.association, b->keys.association, KEY_BYTES) && !a->joiner && !b->joiner;
	if (brothers && (!admits(a, b) || !admits(b, a))) {
		snprintf(why, size, "%s and %s are on one roster, and %s does not admit the other", a->name, b->name, admits(a, b) ? b->name : a->name);
		return false;
	}
	if (admits(a, b) && grants(a, b, a) && !grants(b, b, a) && trust_owes(daemon_of(b)->trust, a->keys.node, owed)) {
		snprintf(why, size, "%s goes by an agreement that the association of %s has revoked, as it would tell whoever dials", a->name, b->name);
		return false;
	}
	if (!admits(a, b) || !admits(b, a))
		return true;
	if (!mesh_is_up(daemon_of(a)->mesh, b->keys.node) || !mesh_is_up(daemon_of(b)->mesh, a->keys.node)) {
		snprintf(why, size, "%s and %s admit each other, and have no link", a->name, b->name);
		return false;
	}
	struct comparing c = {.a = a, .b = b, .why = why, .size = size, .same = true};
	trust_each(daemon_of(a)->trust, 0, compare_record, &c);
	return c.same;
}

static bool see_roster(const struct record *r, void *arg)
{
	(void)arg;
	note_roster(people_association_of(r->association), r);
	return true;
}

static size_t a_at, b_at;                      /* where it failed last: most likely there again */

bool witness_converged(char *why, size_t size)
{
	bool first = true;
	/* Who is revoked, by what is held: a roster whose only copy was lost with its node never was. */
	memset(roster_sequence, 0, sizeof roster_sequence);
	for (size_t i = 0; i < sim.n_nodes; i++)
		if (sim.nodes[i].boot && !sim.nodes[i].hostile)
			trust_each(daemon_of(&sim.nodes[i])->trust, RECORD_ROSTER, see_roster, NULL);
	for (size_t i = 0; i < sim.n_nodes; i++)
		sim.nodes[i].revoked = is_out(i);
	for (size_t k = 0; k < sim.n_nodes; k++)
		for (size_t m = 0; m < sim.n_nodes; m++) {
			size_t i = first ? a_at % sim.n_nodes : k, j = first ? b_at % sim.n_nodes : m;
			struct node *a = &sim.nodes[i], *b = &sim.nodes[j];
			if (first) {
				first = false;
				m--;
			}
			if (i == j || !a->boot || !b->boot || a->revoked || a->hostile)
				continue;
			a_at = i;
			b_at = j;
			if (b->revoked && (admits(a, b) || mesh_is_up(daemon_of(a)->mesh, b->keys.node)) && could_hear(a, b)) {
				snprintf(why, size, "%s still admits %s, which was revoked", a->name, b->name);
				return false;
			}
			if (b->revoked || b->hostile)
				continue;
			if (sim.n_nodes > BIG && sim_mix(i << 16 ^ j) % 16)
				continue;
			if (!pair_converged(a, b, why, size))
				return false;
		}
	return true;
}

bool witness_ring_possible(struct node *home, size_t model)
{
	static struct routing_node nodes[SIM_NODES_MAX];
	size_t n = 0;
	struct ring_plan plan;
	struct layer_range missing;
	const struct model_truth *m = &sim.models[model];
	if (!trust_approved(daemon_of(home)->trust, home->keys.association, m->id, node_now(home)))
		return false;
	for (size_t i = 0; i < sim.n_nodes; i++) {
		struct node *node = &sim.nodes[i];
		struct routing_node *r = &nodes[n];
		*r = (struct routing_node){.self = node == home, .usable = true, .sessions_free = 1};
		if (!node->boot || node->hostile || !engine_resident(node, model, r->resident, &r->n_resident))
			continue;
		/* A member who lies may fill a node's places until his tickets expire; against that nothing is promised (doc/SECURITY.md). */
		if (witness_hostile_stages(node) >= daemon_of(node)->config.share_sessions)
			continue;
		memcpy(r->node, node->keys.node, KEY_BYTES);
		if (node != home) {
			struct trust_terms terms;
			struct ring_claim claim = {.opens = true, .rows = SIM_CONTEXT};
			uint32_t priority;
			struct ticket ticket = {.stage = 1, .n_stages = 3, .range = r->resident[0], .context = SIM_CONTEXT};
			char detail[300];
			memcpy(ticket.home, home->keys.node, KEY_BYTES);
			memcpy(ticket.home_association, home->keys.association, KEY_BYTES);
			memcpy(ticket.model, m->id, KEY_BYTES);
			if (!admits(home, node) || views_permit(daemon_of(node), &ticket, &claim, &priority, detail, sizeof detail) ||
			    trust_may_use(daemon_of(home)->trust, home->keys.association, node->keys.association, m->id, node_now(home), &terms))
				continue;
			/* A quota that is nearly used up may end in the middle. */
			struct ledger_sum today = ledger_today(daemon_of(node)->ledger, home->keys.association, node->keys.association, node_now(node));
			if (terms.tokens_per_day < today.rows + 8 * SIM_CONTEXT)
				continue;
		}
		n++;
	}
	return !routing_plan(m->id, m->body.n_layer, nodes, n, NULL, 0, &plan, &missing);
}

void witness_reset(void)
{
	n_tickets = n_used = n_before = a_at = b_at = 0;
	frame_from = NULL;
	judge = NULL;
	memset(roster_sequence, 0, sizeof roster_sequence);
	memset(granted, 0, sizeof granted);
	memset(computed, 0, sizeof computed);
}
