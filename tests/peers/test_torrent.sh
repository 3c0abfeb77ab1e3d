#!/bin/sh
# test_torrent.sh: BitTorrent with a client that nobody here wrote (aria2c: BEP 3, no libtorrent inside).
#
#   our publisher --> aria2c --> a second node of ours
#
# aria2c gets the whole file from our seed by the .torrent that is in the manifest; then it seeds, and our store
# fetches layers from it alone, through hash checks of both versions. No tracker, DHT or exchange of peers: our side
# dials aria2c's port. Run in the build folder. Exits 77 (skipped) where aria2c is not installed.
#
# SPDX-License-Identifier: AGPL-3.0-or-later
set -u

store=${TEST_STORE:-tests/unit/test_store_faults}
command -v aria2c >/dev/null || { echo "aria2c is not installed (Debian: aria2)"; exit 77; }
[ -x "$store" ] || { echo "$store is not built"; exit 77; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/test_torrent.XXXXXX") || exit 99
mkdir "$dir/ours" "$dir/theirs" "$dir/second"
mkfifo "$dir/stop"
seed= client= second=
finish() {
	for process in $seed $client $second; do
		kill "$process" 2>/dev/null
	done
	wait
	rm -rf "$dir"
}
trap finish EXIT

fail() {
	echo "FAIL: $*"
	for log in "$dir"/*.log; do
		echo "--- $log"
		tail -n 20 "$log"
	done
	exit 1
}

# await SECONDS COMMAND...: until it succeeds
await() {
	left=$(($1 * 5))
	shift
	until "$@"; do
		left=$((left - 1))
		[ $left -gt 0 ] || return 1
		sleep 0.2
	done
}

port=$((20000 + $$ % 20000))

# The publisher, who may exchange with that port and nobody else. It ends when its standard input does.
exec 3<>"$dir/stop"
"$store" --seed "$dir/ours" "127.0.0.1:$port" <&3 >"$dir/seed.log" 2>&1 &
seed=$!
await 20 grep -q 'seeding on port' "$dir/seed.log" || fail "our store does not seed"

aria2c --no-conf --enable-dht=false --enable-dht6=false --bt-enable-lpd=false --enable-peer-exchange=false \
	--follow-torrent=false --seed-time=5 --listen-port="$port" --dir="$dir/theirs" --summary-interval=0 \
	--file-allocation=none --bt-hash-check-seed=true "$dir/ours/model.torrent" >"$dir/aria2c.log" 2>&1 &
client=$!

same() {
	cmp -s "$dir/ours/model.gguf" "$dir/theirs/model.gguf"
}
await 60 same || fail "aria2c did not get the file"
echo "ok: aria2c has the whole file from our seed"

# Ours gone: what the second node has, it has from aria2c.
kill "$seed"
wait "$seed" 2>/dev/null
seed=
"$store" --fetch "$dir/second" "$dir/ours/manifest" "127.0.0.1:$port" 2 5 >"$dir/second.log" 2>&1 &
second=$!
await 60 grep -q ready "$dir/second.log" || fail "our store did not get its layers from aria2c"
echo "ok: our store has its layers from aria2c, and checked their hashes"
