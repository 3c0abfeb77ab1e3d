#!/bin/sh
# mutants.sh: can the simulator fail? Puts one real mistake at a time into a copy of the tree, builds the simulator there and runs
# seeds until one finds it. A mistake that no seed finds is a failure of this script.
#
#   mutants.sh BUILD [SEEDS]     BUILD: a configured build folder, for its compiler and libraries; SEEDS: at most so many each (400)
#
# All were found when this was last run: by seeds 1 (sequence numbers, the revocation that is not told), 2 (the roster), 3 (the invitation,
# digests), 8 (signatures, rows and CLOSE from anybody, another epoch), 9 (another epoch at a stage), 12 (clocks; who was off for long), 33 (quotas) and
# 3147 (the revocation that one's own do not tell).
#
# Each mistake is a file, what stands there and what it becomes; what stands there must be found exactly once.
# SPDX-License-Identifier: AGPL-3.0-or-later
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:?"which build folder? mutants.sh BUILD [SEEDS]"}
build=$(cd "$build" && pwd)
seeds=${2:-400}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

mkdir "$scratch/source" "$scratch/build"
(cd "$top" && tar cf - --exclude=.git --exclude=.essaim .) | (cd "$scratch/source" && tar xf -)
(cd "$scratch/build" && eval "'$scratch/source/configure' $(cd "$build" && ./config.status --config)") >"$scratch/log" 2>&1 ||
	{ tail -5 "$scratch/log"; exit 1; }

mistakes=0 found=0
# mutant NAME FILE OLD NEW [FIRST]: FIRST: the first of the seeds, where the first 400 do not find it
mutant() {
	mistakes=$((mistakes + 1))
	cp "$top/$2" "$scratch/source/$2"
	OLD=$3 NEW=$4 python3 - "$scratch/source/$2" <<'PYTHON' || { echo "$1: what it changes is not in $2 any more: mend mutants.sh"; return; }
import os, sys
path = sys.argv[1]
text = open(path).read()
if text.count(os.environ["OLD"]) != 1:
    sys.exit(1)
open(path, "w").write(text.replace(os.environ["OLD"], os.environ["NEW"]))
PYTHON
	if ! make -s -j2 -C "$scratch/build" tests/sim/simulate >"$scratch/log" 2>&1; then
		echo "$1: does not build:"
		tail -5 "$scratch/log"
	elif "$scratch/build/tests/sim/simulate" --first "${5:-1}" --seeds "$seeds" >"$scratch/out" 2>"$scratch/err"; then
		echo "$1: NOT FOUND by $seeds seeds"
	else
		echo "$1: $(grep -A1 '^seed' "$scratch/err" | head -2 | tr '\n' ' ')"
		found=$((found + 1))
	fi
	cp "$top/$2" "$scratch/source/$2"
	touch "$scratch/source/$2"
}

mutant "an invitation is not consumed" daemon/mesh/join.c \
	'		err = invitation_consume(mesh->config.home, peer->invitation);' \
	'		err = 0;'

mutant "signatures of records are not checked" daemon/trust/trust.c \
	'	err = record_open(&e.record, bytes, n);         /* the dear part comes last: 76 us */' \
	'	err = record_parse(&e.record, bytes, n);'

mutant "whoever was left out of a roster keeps his links" daemon/mesh/neighbours.c \
	'		if ((n->ports[0] || n->ports[1]) && trust_admits(mesh->config.trust, n->node, now)) {' \
	'		if (0 && (n->ports[0] || n->ports[1]) && trust_admits(mesh->config.trust, n->node, now)) {'

mutant "rumour only, no digests" daemon/mesh/gossip.c \
	'	if (!gossip_index_update(&g->index, g->config.trust))' \
	'	if (0 && !gossip_index_update(&g->index, g->config.trust))'

mutant "sequence numbers follow the clock alone" daemon/records.c \
	'	if (held > d->last_sequence)' \
	'	if (0 && held > d->last_sequence)'

mutant "rows are taken from anybody" daemon/ring/transit.c \
	'	    !key_equal(from, ticket->previous) || block->sequence < t->next_sequence)' \
	'	    block->sequence < t->next_sequence)'

mutant "frames of another epoch are taken" daemon/ring/home.c \
	'	if (s->state != SESSION_RUNNING || s->trouble || block->epoch != s->epoch || !at ||' \
	'	if (s->state != SESSION_RUNNING || s->trouble || !at ||'

mutant "frames of another epoch are taken by a stage that is not home" daemon/ring/transit.c \
	'	if (t->state != TRANSIT_READY || block->epoch != ticket->epoch || ticket->epoch < t->tally->epoch ||' \
	'	if (t->state != TRANSIT_READY || ticket->epoch < t->tally->epoch ||'

mutant "anybody may close a stage" daemon/ring/transit.c \
	'SESSION_BYTES) && key_equal(from, t->ticket.home) && t->ticket.epoch <= close->epoch &&' \
	'SESSION_BYTES) && t->ticket.epoch <= close->epoch &&'

mutant "quotas are not looked at" daemon/views.c \
	'	err = claim->opens ? quota_may_open(&limits, &today, claim->reserved, claim->rows) : quota_check(&limits, &today);' \
	'	err = 0 * (claim->opens ? quota_may_open(&limits, &today, claim->reserved, claim->rows) : quota_check(&limits, &today));'

mutant "what has ended by a clock that is wrong is lost" daemon/trust/trust.c \
	'	if (now > e->remember && passes(e->record.kind))' \
	'	if (now > e->remember)'

mutant "who revokes does not tell whom it is about" daemon/mesh/neighbours.c \
	'		if (psk && trust_owes(' \
	'		if (0 && trust_owes('

mutant "who was off for longer than a steward's key lasts is not told of the new one" daemon/mesh/neighbours.c \
	'		*answer = ANSWER_LAPSED;' \
	'		*answer = ANSWER_NOTHING;'

mutant "nobody hears of a revocation from his own" daemon/trust/trust_rules.c \
	'	if (!a->accepted || a->in_reach)' \
	'	if (1 || a->in_reach)' 3101

echo "$found of $mistakes mistakes found"
[ "$found" = "$mistakes" ]
