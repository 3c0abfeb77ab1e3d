#!/bin/sh
# may_include.sh: fails when a file includes what its folder may not (doc/ARCHITECTURE.md, "Folders").
#
#   may_include.sh [TOP]     first tests itself on small trees with one broken rule each, then checks TOP
#                            (default: the tree that this script is in)
#
# Includes are read as written, one #include line at a time; each file answers for its own lines.
# SPDX-License-Identifier: AGPL-3.0-or-later
set -eu

# Which folders of this tree each folder may include, besides itself. The daemon's rooms are connected by
# callbacks in daemon/*.c alone.
rules='
proto
engine          proto
cli             proto
daemon          proto daemon/api daemon/control daemon/route daemon/ring daemon/stage daemon/link daemon/mesh daemon/trust daemon/store daemon/ledger daemon/portmap
daemon/link     proto
daemon/stage    proto
daemon/trust    proto
daemon/store    proto
daemon/ledger   proto
daemon/portmap  proto
daemon/mesh     proto daemon/link daemon/trust
daemon/ring     proto daemon/link daemon/stage
daemon/route    proto daemon/ring daemon/mesh daemon/trust daemon/store daemon/ledger
daemon/api      proto daemon/route
daemon/control  proto daemon/route
'

# Outside headers that only some folders may use (a trailing * is any ending): proto is pure, no daemon parses
# a model, BitTorrent stays behind the store's C header.
outside='
llama*          engine
ggml*           engine
gguf*           engine
libtorrent/*    daemon/store
microhttpd.h    daemon/api
sqlite3.h       daemon/ledger
miniupnpc/*     daemon/portmap
natpmp.h        daemon/portmap
'
impure='uv.h pthread.h threads.h time.h sys/time.h sys/socket.h netinet/* netdb.h arpa/* poll.h sys/epoll.h curl/*'

# Prints "FILE:LINE: what is wrong" for the tree $1; nothing when all is well.
check_tree() {
	(
		cd "$1"
		find proto engine cli daemon -type f \( -name '*.c' -o -name '*.h' -o -name '*.cpp' -o -name '*.hpp' \) \
			2>/dev/null | LC_ALL=C sort | xargs awk -v rules="$rules" -v outside="$outside" -v impure="$impure" "$program"
	)
}

program='
BEGIN {
	n_rules = split(rules, lines, "\n")
	for (i = 1; i <= n_rules; i++) {
		n = split(lines[i], words, " ")
		if (n == 0)
			continue
		known[words[1]] = 1
		for (j = 2; j <= n; j++) {
			allowed[words[1], words[j]] = 1
			list[words[1]] = list[words[1]] " " words[j]
		}
	}
	n_outside = split(outside, outsides, "\n")
	n_impure = split(impure, impures, " ")
}

function matches(header, pattern) {
	if (pattern ~ /[*]$/)
		return index(header, substr(pattern, 1, length(pattern) - 1)) == 1
	return header == pattern
}

function wrong(what) {
	print FILENAME ":" FNR ": " what
}

function inside(header,    target) {
	target = header
	sub("/[^/]*$", "", target)
	if (target == folder || (folder, target) in allowed)
		return
	if (!(folder in known))
		wrong("tests/may_include.sh has no rule for " folder "/: add one, with its reason")
	else
		wrong(folder "/ may not include " target "/ (\"" header "\"); it may include" \
			(list[folder] ? ":" list[folder] : " only itself"))
}

function from_outside(header,    i, n, words, j, ok) {
	if (folder == "proto")
		for (i = 1; i <= n_impure; i++)
			if (matches(header, impures[i]))
				wrong("proto/ is pure (no sockets, clock or threads): <" header "> does not belong")
	for (i = 1; i <= n_outside; i++) {
		n = split(outsides[i], words, " ")
		if (n == 0 || !matches(header, words[1]))
			continue
		ok = 0
		for (j = 2; j <= n; j++)
			if (words[j] == folder)
				ok = 1
		if (!ok)
			wrong("<" header "> may be included only by: " substr(outsides[i], index(outsides[i], words[2])))
	}
}

/^[ \t]*#[ \t]*include/ {
	folder = FILENAME
	sub("/[^/]*$", "", folder)
	header = $0
	sub(/^[ \t]*#[ \t]*include[ \t]*/, "", header)
	quote = substr(header, 1, 1)
	if (quote != "<" && quote != "\"") {
		wrong("#include of a macro cannot be checked: name the header")
		next
	}
	header = substr(header, 2)
	sub(/[">].*/, "", header)

	if (header ~ /^\// || header ~ /(^|\/)[.][.]?\//)
		wrong("\"" header "\": write the path from the top of the tree")
	else if (header == "config.h")
		next
	else if (header ~ /^(proto|engine|cli|daemon|tests|contrib)\//)
		inside(header)
	else if (quote == "<")
		from_outside(header)
	else if ((getline ignored < (folder "/" header)) >= 0)
		wrong("\"" header "\": write \"" folder "/" header "\"")
	else
		wrong("\"" header "\" is no file of this tree; outside headers go in <>")
}
'

# --- the script's own test: a tree that keeps every rule, then one line a tree that breaks one ---

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

fresh_tree() {
	rm -rf "$scratch/tree"
	for each in $(printf '%s\n' "$rules" | awk '{ print $1 }'); do
		mkdir -p "$scratch/tree/$each"
		printf '#include <stdio.h>\n' >"$scratch/tree/$each/one.h"
		printf '#include "%s/one.h"\n' "$each" >"$scratch/tree/$each/one.c"
	done
}

# expect WHAT FILE INCLUDE: WHAT is "good" or a piece of the message that must come.
expect() {
	fresh_tree
	printf '/* a line before */\n%s\n' "$3" >"$scratch/tree/$2"
	found=$(check_tree "$scratch/tree")
	case $1 in
	good)
		[ -z "$found" ] && return
		echo "may_include.sh: self-test: '$3' in $2 was refused: $found" >&2
		;;
	*)
		case $found in
		"$2:2: "*"$1"*) return ;;
		esac
		echo "may_include.sh: self-test: '$3' in $2 should give '$1', gave '$found'" >&2
		;;
	esac
	exit 1
}

expect good proto/a.c '#include <stdint.h>'
expect good proto/a.c '#include "config.h"'
expect good daemon/a.c '#include "daemon/ledger/one.h"'
expect good daemon/mesh/a.c '#include "daemon/trust/one.h"'
expect good daemon/ring/a.c '#  include "daemon/stage/one.h"'
expect good daemon/route/a.h '#include "daemon/mesh/one.h"'
expect good daemon/store/a.cpp '#include <libtorrent/session.hpp>'
expect good engine/a.c '#include <llama.h>'
for folder in link stage trust store ledger portmap; do
	for other in link stage trust store ledger portmap mesh ring route api control; do
		[ $folder = $other ] ||
			expect "daemon/$folder/ may not include daemon/$other/" daemon/$folder/a.c "#include \"daemon/$other/one.h\""
	done
	expect good daemon/$folder/a.c '#include "proto/one.h"'
done
expect 'proto/ may not include daemon/' proto/a.h '#include "daemon/one.h"'
expect 'it may include only itself' proto/a.h '#include "daemon/one.h"'
expect 'engine/ may not include daemon/link/' engine/a.c '#include "daemon/link/one.h"'
expect 'cli/ may not include engine/' cli/a.c '#include "engine/one.h"'
expect 'daemon/ may not include engine/' daemon/a.c '#include "engine/one.h"'
expect 'daemon/mesh/ may not include daemon/ring/' daemon/mesh/a.c '#include "daemon/ring/one.h"'
expect 'daemon/ring/ may not include daemon/mesh/' daemon/ring/a.c '#include <daemon/mesh/one.h>'
expect 'daemon/api/ may not include daemon/ring/' daemon/api/a.c '	#	include "daemon/ring/one.h"'
expect 'daemon/control/ may not include daemon/api/' daemon/control/a.c '#include "daemon/api/one.h"'
expect 'it may include: proto daemon/link daemon/trust' daemon/mesh/a.c '#include "daemon/ring/one.h"'
expect 'may not include tests/' daemon/a.c '#include "tests/unit/one.h"'
expect 'from the top of the tree' daemon/mesh/a.c '#include "../ring/one.h"'
expect 'from the top of the tree' daemon/mesh/a.c '#include "daemon/mesh/../ring/one.h"'
expect 'write "daemon/mesh/one.h"' daemon/mesh/a.c '#include "one.h"'
expect 'is no file of this tree' daemon/mesh/a.c '#include "nowhere.h"'
expect 'macro cannot be checked' daemon/mesh/a.c '#include WHERE'
expect 'only by: engine' daemon/stage/a.c '#include <llama.h>'
expect 'only by: engine' cli/a.c '#include <ggml-backend.h>'
expect 'only by: daemon/store' daemon/a.c '#include <libtorrent/session.hpp>'
expect 'proto/ is pure' proto/a.c '#include <sys/socket.h>'
expect 'proto/ is pure' proto/a.h '#include <uv.h>'

fresh_tree
mkdir "$scratch/tree/daemon/newroom"
echo '#include "proto/one.h"' >"$scratch/tree/daemon/newroom/a.c"
case $(check_tree "$scratch/tree") in
*'has no rule for daemon/newroom/'*) ;;
*) echo "may_include.sh: self-test: a folder without a rule went unnoticed" >&2 && exit 1 ;;
esac

# --- the real tree ---

top=${1:-$(dirname "$0")/..}
if ! [ -f "$top/proto/err.h" ]; then
	echo "may_include.sh: $top is not the source tree (no proto/err.h); give its path as the first argument" >&2
	exit 1
fi
found=$(check_tree "$top")
if [ -n "$found" ]; then
	printf '%s\n' "$found" >&2
	echo "may_include.sh: the rules are in tests/may_include.sh and doc/ARCHITECTURE.md" >&2
	exit 1
fi
echo "may_include.sh: $(find "$top/proto" "$top/engine" "$top/cli" "$top/daemon" -name '*.[ch]*' | wc -l) files keep the rules"
