/* story.c: one seed, from its first node to its end.
 *
 *   who         2 to 8 nodes in nine seeds of ten, up to 40 in the rest, 200 in one of a hundred; one to four associations, some with
 *               agreements; a model or two; nodes that join later; in a quarter of the seeds one node that lies
 *   settling    everything starts, at somewhat different times
 *   trouble     questions; links that die, stall, are slow; partitions, also in one direction only; nodes killed, cut off from power,
 *               restarted; engines that crash, hang, forget; clocks that jump, in some seeds by hours or years; full disks; revocations,
 *               agreements, invitations
 *   healing     in one seed of twenty first everything sleeps for longer than a steward's key lasts. Then everything is mended, everybody
 *               runs. Within HEAL_MS all must know the same and hold their links, and nobody may admit a revoked node
 *   answering   then every question for which a ring is possible must be answered within ANSWER_MS, and when all is over no session may
 *               be left anywhere
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <ftw.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/text.h"
#include "tests/sim/sim.h"

#define LATER_S (100u * 86400)       /* longer than a steward's or a roster's life */
#define POSSIBLE_MS 8000             /* so long a node waits for a ring to become possible: engines load, weights arrive */

/* --- who ----------------------------------------------------------------------------------------------------- */

static void make_model(size_t m)
{
	struct model_truth *model = &sim.models[m];
	struct manifest_body *b = &model->body;
	uint32_t n_layer = 4 + (uint32_t)sim_below(SIM_LAYERS_MAX - 3);
	*b = (struct manifest_body){.n_layer = n_layer, .n_embd = 4, .n_vocab = SIM_VOCABULARY, .context = 4096, .parameters = 1000, .splittable = true,
				    .row_bytes = 16, .kv_bytes_token_layer = 16, .memory_permille = 1000, .compute_bytes = 1000, .n_files = 1,
				    .n_extents = n_layer + 3};
	snprintf(b->name, sizeof b->name, "model-%zu", m);
	strcpy(b->architecture, "llama");
	strcpy(b->licence, "Apache-2.0");
	strcpy(b->quantisation, "Q8_0");
	b->files = calloc(1, sizeof *b->files);
	b->extents = calloc(b->n_extents, sizeof *b->extents);
	if (!b->files || !b->extents)
		abort();
	strcpy(b->files[0].name, "model.gguf");
	randombytes_buf(b->files[0].root, KEY_BYTES);
	uint64_t at = 0;
	for (size_t i = 0; i < b->n_extents; i++) {
		static const uint32_t groups[] = {GROUP_HEADER, GROUP_EMBEDDING, GROUP_OUTPUT};
		uint64_t length = i == 0 ? 100 : 1000;
		b->extents[i] = (struct model_extent){.group = i < 3 ? groups[i] : GROUP_LAYER + (uint32_t)i - 3, .offset = at, .length = length};
		at += length;
	}
	b->files[0].size = at;
	model_id(model->id, b->files, 1);
}

static uint64_t of_100(uint64_t seed)
{
	return sim_mix(seed ^ 0x515) % 100;
}

bool story_is_large(uint64_t seed)
{
	return of_100(seed) == 0;
}

static size_t how_many(void)
{
	if (story_is_large(sim.seed))
		return 200;
	if (of_100(sim.seed) < 10)
		return 9 + sim_below(32);
	return 2 + sim_below(7);
}

/* A clock that nobody set: by an hour, five, a day, or two years, in both directions. Two that are wrong in the same way agree. */
static int64_t far_off(void)
{
	static const int64_t hours[] = {1, 5, 24, 730 * 24};
	int64_t ms = hours[sim_below(4)] * 3600000 + (int64_t)sim_below(20000);
	return sim_chance(500) ? ms : -ms;
}

static void make_world(const char *folder)
{
	sim.n_nodes = how_many();
	bool big = sim.n_nodes > 40;
	size_t most = big ? 6 : sim.n_nodes < 4 ? sim.n_nodes : 4;
	sim.n_associations = 1 + sim_below(most);
	if (big && sim.n_associations < 2)
		sim.n_associations = 2;
	size_t joiners = !big && sim_chance(300) ? 1 + sim_below(2) : 0;
	/* Some morning or night, so that midnight falls into some seeds. */
	sim.epoch_s = 1800000000 + sim_below(86400);
	sim.base_delay_ms = 1 + sim_below(80);
	sim.die_permille = sim_chance(500) ? (unsigned)sim_below(4) : 0;
	sim.late_permille = sim_chance(500) ? (unsigned)sim_below(20) : 0;
	sim.full_permille = sim_chance(200) ? (unsigned)sim_below(50) : 0;
	sim.wild_clocks = sim_chance(200);
	sim.thirsty = !sim.wild_clocks && sim.n_associations > 1 && !big && sim_chance(150);
	sim.keep_s = sim_chance(500) ? 5 + (uint32_t)sim_below(300) : 0;
	sim.n_models = sim_chance(200) ? 2 : 1;
	for (size_t m = 0; m < sim.n_models; m++) {
		make_model(m);
		sim.models[m].publisher = sim_below(sim.n_nodes);
	}
	for (size_t k = 0; k < sim.n_associations; k++)
		sim.associations[k].founder = k;
	uint64_t whole = 0;
	for (size_t m = 0; m < sim.n_models; m++)
		whole += manifest_bytes(&sim.models[m].body, &(struct layer_range){0, sim.models[m].body.n_layer}, 1);
	for (size_t i = 0; i < sim.n_nodes + joiners; i++) {
		struct node *node = &sim.nodes[i];
		node->index = i;
		node->joiner = i >= sim.n_nodes;
		snprintf(node->name, sizeof node->name, "n%zu", i);
		snprintf(node->home, sizeof node->home, "%.180s/n%zu", folder, i);
		mkdir(node->home, 0700);
		snprintf(node->address, sizeof node->address, "10.1.%zu.%zu:7740", i / 250, i % 250 + 1);
		node->shares_home = sim_chance(800);
		node->memory = sim_chance(150) ? whole + 1000 : sim.n_models * 4200 + sim_below(whole);
		node->slow = sim_chance(200) ? (unsigned)sim_below(10) : 0;
		node->clock_ms = sim.wild_clocks && sim_chance(200) ? far_off() : (int64_t)sim_below(120000) - 60000;
	}
	sim.n_nodes += joiners;
	if (sim.n_nodes >= 3 && sim_chance(250)) {
		size_t bad = sim.n_associations + sim_below(sim.n_nodes);
		bool publishes = false;
		for (size_t m = 0; m < sim.n_models; m++)
			publishes |= sim.models[m].publisher == bad;
		if (bad < sim.n_nodes && !sim.nodes[bad].joiner && !publishes)
			sim.nodes[bad].hostile = true;
	}
	people_found();
}

/* --- trouble ------------------------------------------------------------------------------------------------------ */

static struct node *some_node(bool running)
{
	size_t first = sim_below(sim.n_nodes);
	for (size_t i = 0; i < sim.n_nodes; i++) {
		struct node *node = &sim.nodes[(first + i) % sim.n_nodes];
		if (!running == !node->boot)
			return node;
	}
	return NULL;
}

static void set_paused(struct node *node, bool paused)
{
	struct daemon *d = daemon_of(node);
	node->paused = d->config.sharing.paused = paused;
	d->card_due = d->advert_due = true;
	residency_refresh(d);
}

static void ask(void)
{
	struct node *node = some_node(true);
	for (size_t i = 0; sim.thirsty && node && i < sim.n_nodes; i++)
		if (people_association_of(node->keys.association) != sim.n_associations - 1)
			node = &sim.nodes[(node->index + 1) % sim.n_nodes];
	if (node && node->boot && !node->hostile && !node->joiner && asker_open() < 12)
		asker_ask(node, sim_below(sim.n_models), true);
}

static void partition(void)
{
	size_t from = sim_below(sim.n_nodes);
	if (sim_chance(300)) {                 /* one pair, one direction */
		size_t to = sim_below(sim.n_nodes);
		sim_trace(NULL, "nothing gets from n%zu to n%zu any more", from, to);
		wire_block(from, to, true);
		return;
	}
	uint64_t sides = sim_chance(400) ? UINT64_C(1) << sim_below(8) : sim_random();
	sim_trace(NULL, "the network falls into two, by %llx", (unsigned long long)sides & 0xff);
	for (size_t i = 0; i < sim.n_nodes; i++)
		for (size_t k = 0; k < sim.n_nodes; k++)
			if ((sides >> i % 64 & 1) != (sides >> k % 64 & 1))
				wire_block(i, k, true);
}

static void kill_or_stop(void)
{
	struct node *node = some_node(true);
	if (!node)
		return;
	if (sim_chance(300))
		node_stop(node);
	else
		node_kill(node, sim_chance(500));
}

static void start_one(void)
{
	struct node *node = some_node(false);
	if (node)
		node_start(node);
}

static void harm_engine(void)
{
	struct node *node = some_node(true);
	size_t model = sim_below(sim.n_models);
	if (!node)
		return;
	switch (sim_below(4)) {
	case 0:
		engine_hang(node, model, 500 + sim_below(8000));
		break;
	case 1:
		engine_forget(node, model);
		break;
	default:
		engine_crash(node, model);
	}
}

static void turn_clock(void)
{
	struct node *node = some_node(true);
	if (!node)
		return;
	/* Any two stay within the five minutes that records and links allow, unless they are wild. */
	node->clock_ms = sim.wild_clocks && sim_chance(600) ? far_off() : (int64_t)sim_below(280000) - 140000;
	sim_trace(node, "its clock is %lld s off now", (long long)node->clock_ms / 1000);
}

static void administer(void)
{
	size_t k = sim_below(sim.n_associations), other = sim_below(sim.n_associations), node = sim_below(sim.n_nodes);
	switch (sim_below(8)) {
	case 0:
	case 1:
		if (node != sim.associations[k].founder && !sim.nodes[node].keys.has_steward && sim.associations[k].rostered[node])
			people_roster(k, node, sim.associations[k].revoked[node]);
		break;
	case 2:
	case 3:
		if (k != other)
			people_offer(k, other, 20 + sim_below(400), sim_chance(300));
		break;
	case 4:
		people_approve(k, sim_below(sim.n_models), sim_chance(400));
		break;
	case 5:
		people_renew_steward(k);
		break;
	case 6: {
		struct node *joiner = NULL, *another = NULL;
		for (size_t i = 0; i < sim.n_nodes; i++)
			if (sim.nodes[i].joiner) {
				another = joiner;
				joiner = &sim.nodes[i];
			}
		if (joiner)
			people_invite(k, INVITATION_NODE, joiner, sim_chance(500) ? another : NULL);
		break;
	}
	default:
		if (k != other)
			people_invite(k, INVITATION_PARTNER, &sim.nodes[sim.associations[other].founder], NULL);
	}
}

static void trouble(uint64_t ms)
{
	struct {
		unsigned weight;
		void (*fn)(void);
	} list[] = {
		{sim_chance(800) ? 40 : 5, ask}, {(unsigned)sim_below(6), partition}, {(unsigned)sim_below(8), wire_heal}, {(unsigned)sim_below(6), kill_or_stop},
		{4 + (unsigned)sim_below(6), start_one}, {(unsigned)sim_below(6), harm_engine}, {sim.wild_clocks ? 3 : sim_chance(300) ? 2 : 0, turn_clock},
		{(unsigned)sim_below(10), administer},
	};
	const size_t n = sizeof list / sizeof *list;
	unsigned total = 6, pace = 100 + (unsigned)sim_below(1500);
	if (sim.thirsty) {
		pace = 150;
		total = 0;
		for (size_t i = 1; i < n; i++)
			list[i].weight = 0;
	}
	for (size_t i = 0; i < n; i++)
		total += list[i].weight;
	for (uint64_t until = sim.ms + ms; sim.ms < until;) {
		sim_run_ms(1 + sim_below(pace));
		uint64_t pick = sim_below(total);
		size_t i = 0;
		for (; i < n && pick >= list[i].weight; i++)
			pick -= list[i].weight;
		struct node *node = some_node(true);
		if (i < n)
			list[i].fn();
		else if (pick == 0)
			wire_break(10 + (unsigned)sim_below(300));
		else if (pick == 1 && node)
			node->disk.full = !node->disk.full;
		else if (pick == 2 && node)
			set_paused(node, !node->paused);
	}
}

/* --- healing and answering -------------------------------------------------------------------------------------------- */

static void clear_quarantine(struct node *node)
{
	struct daemon *d = daemon_of(node);
	for (size_t i = 0; i < d->n_models; i++) {             /* as command_model_clear() */
		struct residency *r = &d->models[i];
		struct stage_info info;
		if (stage_info(d->stage, r->model, &info) || info.state != STAGE_QUARANTINED)
			continue;
		stage_clear(d->stage, r->model);
		quarantine_remove(d->home, r->model);
		r->state = STAGE_NONE;
		r->attempts = 0;
		r->retry_at = daemon_ms(d);
	}
}

static void mend_node(struct node *node)
{
	node->disk.full = false;
	node->clock_ms = (int64_t)sim_below(40000) - 20000;
	if (!node->boot)
		node_start(node);
	set_paused(node, false);
	clear_quarantine(node);
}

static void heal(void)
{
	if (sim_mix(sim.seed ^ 0x1a7e) % 20 == 0) {
		sim_trace(NULL, "all machines sleep for %u days", LATER_S / 86400);
		sim.epoch_s += LATER_S;
	}
	sim_trace(NULL, "everything is mended");
	sim.calm = true;
	wire_heal();
	for (size_t i = 0; i < sim.n_nodes; i++)
		mend_node(&sim.nodes[i]);
	for (size_t i = sim.n_associations; i < sim.n_nodes; i++)
		for (size_t k = 0; sim.nodes[i].hostile && k < sim.n_associations; k++)
			if (sim.associations[k].rostered[i] && !sim.associations[k].revoked[i] && sim_chance(500))
				people_roster(k, i, false);
	for (size_t k = 0; k < sim.n_associations; k++)
		for (size_t m = 0; m < sim.n_models; m++)
			people_approve(k, m, false);
	char why[300] = "";
	uint64_t began = sim.ms;
	while (!witness_converged(why, sizeof why)) {
		if (sim.ms - began > HEAL_MS)
			sim_fail(NULL, "%d s after everything was mended %s", HEAL_MS / 1000, why);
		sim_run_ms(500);
	}
	sim.healed_ms = sim.ms - began;
	sim_trace(NULL, "all know the same");
}

/* Until it is answered: what was placed a moment ago may still load, and a stage may be full. */
static void must_answer(struct node *node, size_t model)
{
	struct question *q = NULL;
	int err = 0;
	uint64_t possible_since = 0;
	for (uint64_t until = sim.ms + POSSIBLE_MS; sim.ms < until; sim_run_ms(500)) {
		if (!witness_ring_possible(node, model)) {
			if (possible_since)
				until = sim.ms + POSSIBLE_MS;
			possible_since = 0;
			continue;
		}
		if (!possible_since) {
			possible_since = sim.ms;
			until = sim.ms + ANSWER_MS;
		}
		if (q && !asker_ended(q, &err))
			continue;
		if (q && !err)
			return;
		q = asker_ask(node, model, false);
	}
	if (possible_since && witness_ring_possible(node, model) && !(q && asker_ended(q, &err) && !err))
		sim_fail(node, "a ring for model %zu is possible, and for %d s no question was answered: %s", model, ANSWER_MS / 1000,
			 q ? asker_detail(q) : "refused at once");
}

static void answer(void)
{
	size_t step = sim.n_nodes > 40 ? sim.n_nodes / 3 : sim.n_nodes > 8 ? sim.n_nodes / 6 : 1;
	for (size_t i = 0; i < sim.n_nodes; i += step) {
		struct node *node = &sim.nodes[i];
		if (node->boot && !node->hostile && !node->revoked && !node->joiner)
			for (size_t m = 0; m < sim.n_models; m++)
				must_answer(node, m);
	}
	/* Sessions of homes that died end with their links; receipts may take 10 s. */
	for (uint64_t until = sim.ms + 60000; asker_open() && sim.ms < until;)
		sim_run_ms(500);
	for (size_t i = 0; asker_open() && i < sim.n_nodes; i++)
		if (sim.nodes[i].boot)
			witness_tell_sessions(&sim.nodes[i]);
	if (asker_open())
		sim_fail(NULL, "%zu questions never end", asker_open());
	for (size_t i = 0; i < sim.n_nodes; i++)
		ring_set_keep(daemon_of(&sim.nodes[i])->ring, 0);
	sim_run_ms(12000);
	for (size_t i = 0; i < sim.n_nodes; i++) {
		const struct node *node = &sim.nodes[i];
		if (!node->boot || node->hostile)
			continue;
		struct ring_counts counts = ring_counts(daemon_of(node)->ring);
		/* A hostile home may keep what it opened until its ticket expires. */
		size_t kept = witness_hostile_stages(node);
		if (counts.home || counts.serving > kept || engine_sessions(node) > kept) {
			witness_tell_sessions(node);
			sim_fail(node, "all questions have ended, and %zu sessions of its own, %zu stages and %zu sessions of its engines are left", counts.home,
				 counts.serving, engine_sessions(node));
		}
	}
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st, (void)type, (void)at;
	return remove(path);
}

void story_run(uint64_t seed)
{
	char folder[200];
	snprintf(folder, sizeof folder, "%.150s/%llu", sim_folder, (unsigned long long)seed);
	mkdir(folder, 0700);
	sim = (struct sim){.seed = seed, .random = sim_mix(seed + 1), .sodium_random = sim_mix(seed + 2)};
	witness_reset();
	make_world(folder);
	sim_trace(NULL, "seed %llu: %zu nodes, %zu associations, %zu models; connections die %u, lateness %u, full queues %u permille; %llu ms%s", (unsigned long long)seed,
		  sim.n_nodes, sim.n_associations, sim.n_models, sim.die_permille, sim.late_permille, sim.full_permille, (unsigned long long)sim.base_delay_ms,
		  sim.wild_clocks ? "; clocks are wild" : sim.thirsty ? "; one association is thirsty" : "");
	for (size_t i = 0; i < sim.n_nodes; i++) {
		sim_run_ms(sim_below(6000 / sim.n_nodes + 1));
		if (sim.nodes[i].hostile)
			sim_trace(&sim.nodes[i], "is hostile");
		node_start(&sim.nodes[i]);
	}
	/* What 200 nodes cost is their links, so time is short there. */
	sim_run_ms(4000 + sim_below(sim.n_nodes > 40 ? 1000 : 10000));
	trouble(sim.n_nodes > 40 ? 6000 : 10000 + sim_below(60000));
	heal();
	answer();
	for (size_t i = 0; i < sim.n_nodes; i++)
		if (sim.nodes[i].boot)
			node_kill(&sim.nodes[i], true);
	asker_release();
	hostile_release();
	sim_clear_events();
	wire_release();
	for (size_t i = 0; i < sim.n_nodes; i++)
		disk_release(&sim.nodes[i].disk);
	for (size_t m = 0; m < sim.n_models; m++)
		manifest_free(&sim.models[m].body);
	nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
