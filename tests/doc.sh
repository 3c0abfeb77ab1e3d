#!/bin/sh
# doc.sh: the man pages and doc/CONTROL.md against the tables in the code: nothing is missing, nothing is left over.
#
#   doc.sh [TOP]     first tests itself on copies with one broken line each, then checks TOP (default: the tree that this
#                    script is in)
#
#   essaim.conf(5)     sections, keys, defaults and "reload" of config_schema (daemon/config.c)
#   essaim(1)          commands, options and exit statuses (cli/)
#   essaimd(8), essaim-engine(8)     options
#   doc/CONTROL.md     commands (daemon/command.c), and every JSON key and argument in daemon/command_*.c
#   doc/PROTOCOL.md    numbers of errors (proto/err.h) and of frames (proto/frame.h)
#   doc/ARCHITECTURE.md     what each folder may include, as in tests/may_include.sh
#   *.md               links to files of this tree
#
# SPDX-License-Identifier: AGPL-3.0-or-later
set -eu
LC_ALL=C
export LC_ALL

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

# differ WHAT CODE PAGE: prints one line for each line that only one of the two files has.
differ() {
	sort -u "$2" >"$2.sorted"
	sort -u "$3" >"$3.sorted"
	[ -s "$2.sorted" ] || echo "$1: nothing was found in the code: has its form changed? then change tests/doc.sh"
	comm -23 "$2.sorted" "$3.sorted" | sed "s|^|$1: lacks: |"
	comm -13 "$2.sorted" "$3.sorted" | sed "s|^|$1: has, but the code does not: |"
}

# Long options in getopt tables, as --name.
options() {
	sed -nE 's/\{ *"[a-z]/\n&/gp' "$@" | sed -nE 's/^\{ *"([a-z-]+)", *(no|required)_argument.*/--\1/p'
}

# Options that a page names: Fl -name, or "| -name" behind one.
page_options() {
	grep -oE '(Fl|\|) -[a-z][a-z-]*' "$1" | sed -E 's/^(Fl|\|) /-/'
}

check_tree() {
	(
		cd "$1"
		a=$scratch/code b=$scratch/page

		sed -nE 's/^\t\{"([a-z]+)", "([a-z_]+)", "([^"]*)", (true|false), .*/\1.\2 = \3 \4/p' daemon/config.c >"$a"
		awk '/^\.Ss \[/ { section = substr($2, 2, length($2) - 2) }
			/^\.It Cm / {
				value = ""
				for (i = 4; i <= NF; i++)
					if ($i == "Ar")
						value = $(i + 1)
				print section "." $3 " = " value " " ($0 ~ / Pq Em reload$/ ? "true" : "false")
			}' doc/essaim.conf.5 >"$b"
		differ "doc/essaim.conf.5 (section.key = default reload)" "$a" "$b"

		sed -nE '/commands\[\] = \{/,/^\};/s/^\t\{"([a-z]+)", command_.*/\1/p' cli/main.c >"$a"
		awk '/^\.Sh / { here = $2 == "COMMANDS" } here && /^\.It Ic / { print $3 }' doc/essaim.1 >"$b"
		differ "doc/essaim.1, commands" "$a" "$b"

		# --home=DIR is the same as --home DIR; -h is not written about.
		{ options cli/*.c; grep -ohE 'strcmp\([^"]*"--[a-z-]+"' cli/*.c | sed -E 's/.*"(.*)"/\1/'; } >"$a"
		page_options doc/essaim.1 >"$b"
		differ "doc/essaim.1, options" "$a" "$b"

		sed -nE '/^enum exit_status/,/^\};/s/^\tEXIT_[A-Z_]+ = ([0-9]+),.*/\1/p' cli/cli.h >"$a"
		awk '/^\.Sh / { here = $2 == "EXIT" } here && /^\.It / { print $2 }' doc/essaim.1 >"$b"
		differ "doc/essaim.1, exit statuses" "$a" "$b"

		options daemon/main.c daemon/init.c >"$a"
		page_options doc/essaimd.8 >"$b"
		differ "doc/essaimd.8, options" "$a" "$b"

		options engine/main.c >"$a"
		page_options doc/essaim-engine.8 >"$b"
		differ "doc/essaim-engine.8, options" "$a" "$b"

		sed -nE '/command_table\[\] = \{/,/^\};/s/^\t\{"([a-z_]+)", command_.*/\1/p' daemon/command.c >"$a"
		awk -F'`' '/^## / { here = $0 == "## Commands" } here && /^\| `/ { print $2 }' doc/CONTROL.md >"$b"
		differ "doc/CONTROL.md, commands" "$a" "$b"

		{
			grep -ohE 'yyjson_mut_obj_add_[a-z]+\([^"]*"[a-z_]+"' daemon/command*.c
			grep -ohE 'yyjson_obj_get\(args, "[a-z_]+"' daemon/command*.c
			grep -ohE '(ranges?_into|uint_or)\([^"]*"[a-z_]+"' daemon/command*.c
		} | sed -E 's/.*"([a-z_]+)"/\1/' | sort -u >"$a"
		[ -s "$a" ] || echo "doc/CONTROL.md: no keys were found in daemon/command*.c"
		while read -r key; do
			grep -qE "(^|[^a-z_])$key([^a-z_]|\$)" doc/CONTROL.md || echo "doc/CONTROL.md, keys: lacks: $key"
		done <"$a"

		sed -nE 's/^\tERR_([A-Z_]+) = -([0-9]+),.*/\2 \1/p' proto/err.h >"$a"
		sed -nE 's/^\| −([0-9]+) \| ([A-Z_]+) \|.*/\1 \2/p' doc/PROTOCOL.md >"$b"
		differ "doc/PROTOCOL.md, errors" "$a" "$b"

		# ENGINE_* frames are a range in the list of types and rows without the prefix in a table of their own.
		sed -nE 's/^\tFRAME_(ENGINE_)?([A-Z_]+) = ([0-9]+),.*/\3 \2/p' proto/frame.h >"$a"
		sed -nE '/^## 2\./,/^## 3\./p; /^### 7\.8/,/^## 8\./p' doc/PROTOCOL.md |
			grep -oE '(\| |, )[0-9]+ [A-Z][A-Z_]{2,}' | sed -E 's/^(\| |, )//' >"$b"
		differ "doc/PROTOCOL.md, frames" "$a" "$b"

		# daemon/ itself may include every room.
		sed -nE "/^rules='/,/^'/s/^([a-z]+(\/[a-z]+)?)( .*)?\$/\1 \3/p" tests/may_include.sh | sed 's| daemon/| |g' |
			awk '$1 != "daemon" { for (i = 2; i <= NF; i++) print $1, $i }' >"$a"
		awk -F'|' '/^\| `[a-z]+(\/[a-z]+)?\/` \|/ && NF == 6 {
				folder = $2
				gsub(/[ `]|\/`/, "", folder)
				sub(/\/$/, "", folder)
				n = split($5, words, /[^a-z]+/)
				for (i = 1; i <= n; i++)
					if (words[i] ~ /^(proto|link|stage|trust|store|ledger|mesh|ring|route)$/)
						print folder, words[i]
			}' doc/ARCHITECTURE.md >"$b"
		differ "doc/ARCHITECTURE.md, may include" "$a" "$b"

		for page in *.md doc/*.md; do
			grep -oE '\]\([^)#]+' "$page" | sed 's/^](//' | while read -r target; do
				case $target in
				*://*) continue ;;
				esac
				[ -e "$(dirname "$page")/$target" ] || echo "$page: links to $target, which is not there"
			done
		done
	)
}

top=${1:-$(dirname "$0")/..}
if ! [ -f "$top/doc/essaim.conf.5" ]; then
	echo "doc.sh: $top is not the source tree (no doc/essaim.conf.5); give its path as the first argument" >&2
	exit 1
fi
found=$(check_tree "$top")
if [ -n "$found" ]; then
	printf '%s\n' "$found" >&2
	echo "doc.sh: the documents and the code differ" >&2
	exit 1
fi

# --- the script's own test: what it must notice ---

fresh_tree() {
	rm -rf "$scratch/tree"
	mkdir -p "$scratch/tree/daemon" "$scratch/tree/cli" "$scratch/tree/engine" "$scratch/tree/proto" "$scratch/tree/tests"
	cp "$top"/proto/err.h "$top"/proto/frame.h "$scratch/tree/proto/"
	cp "$top"/tests/may_include.sh "$scratch/tree/tests/"
	cp "$top"/daemon/config.c "$top"/daemon/command*.c "$top"/daemon/main.c "$top"/daemon/init.c "$scratch/tree/daemon/"
	cp "$top"/cli/*.[ch] "$scratch/tree/cli/"
	cp "$top"/engine/main.c "$scratch/tree/engine/"
	cp -R "$top/doc" "$scratch/tree/doc"
	: >"$scratch/tree/README.md"
}

# expect MESSAGE FILE SED: after SED is applied to FILE a line with MESSAGE must come.
expect() {
	fresh_tree
	chmod -R u+w "$scratch/tree"
	cp "$scratch/tree/$2" "$scratch/before"
	sed -E "$3" "$scratch/before" >"$scratch/tree/$2"
	if cmp -s "$scratch/before" "$scratch/tree/$2"; then
		echo "doc.sh: self-test: '$3' changes nothing in $2" >&2
		exit 1
	fi
	case $(check_tree "$scratch/tree") in
	*"$1"*) ;;
	*)
		echo "doc.sh: self-test: '$3' in $2 went unnoticed; it should give '$1'" >&2
		exit 1
		;;
	esac
}

expect 'lacks: link.port = 7740 false' doc/essaim.conf.5 '/^\.It Cm port No = Ar 7740/d'
expect 'lacks: share.watts = 0 true' doc/essaim.conf.5 '/^\.It Cm watts/s/ Pq Em reload//'
expect 'lacks: share.memory = 3G true' daemon/config.c 's/"memory", "2G"/"memory", "3G"/'
expect 'does not: log.level = info true' daemon/config.c '/^\t\{"log", "level"/d'
expect 'commands: lacks: chat' doc/essaim.1 '/^\.It Ic chat/s/chat/talk/'
expect 'commands: has, but the code does not: ring' cli/main.c '/^\t\{"ring", command_ring/d'
expect 'options: lacks: --hours' doc/essaim.1 's/Fl -hours/Fl -days/'
expect 'exit statuses: lacks: 4' doc/essaim.1 '/^\.It 4$/d'
expect 'options: lacks: --joining' doc/essaimd.8 's/-joining/-association/'
expect 'options: lacks: --pairs' doc/essaim-engine.8 's/-pairs/-tokens/'
expect 'commands: lacks: model_pull' doc/CONTROL.md '/^\| `model_pull`/d'
expect 'keys: lacks: seconds_left' doc/CONTROL.md 's/seconds_left/seconds/g'
expect 'errors: lacks: 1011 BUSY' doc/PROTOCOL.md '/^\| −1011 /d'
expect 'frames: lacks: 35 TOKENS' doc/PROTOCOL.md 's/35 TOKENS/45 TOKENS/'
expect 'frames: lacks: 67 LOAD' doc/PROTOCOL.md '/^\| 67 LOAD/d'
expect 'may include: lacks: daemon/mesh trust' doc/ARCHITECTURE.md '/^\| `daemon\/mesh\/`/s/, trust//'
expect 'may include: has, but the code does not: cli route' doc/ARCHITECTURE.md '/^\| `cli\/`/s/proto/proto, route/'
expect 'links to nowhere.md' doc/CONTROL.md '$s/$/ [x](nowhere.md)/'

echo "doc.sh: $(grep -c '^\.It Cm' "$top/doc/essaim.conf.5") keys, $(grep -c '^\.It Ic' "$top/doc/essaim.1") commands, $(awk -F'`' '/^\| `/ { n++ } END { print n }' "$top/doc/CONTROL.md") control commands are as in the code"
