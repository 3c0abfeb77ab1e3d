#!/bin/bash
# completion.sh: in bash every command, its words and its options complete, as the program itself names them.
# SPDX-License-Identifier: AGPL-3.0-or-later
set -eu
top=${ESSAIM_TOP:-$(dirname "$0")/../..}
command -v essaim >/dev/null || { echo "completion.sh: essaim is not on the PATH"; exit 77; }
# shellcheck source=completion/essaim
. "$top/contrib/completion/essaim"

# gives LINE: the completions of the last word of LINE.
gives() {
	read -ra COMP_WORDS <<<"$1"
	[[ $1 != *' ' ]] || COMP_WORDS+=("")
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
	_essaim
	echo "${COMPREPLY[*]}"
}

n=0
must() {     # must LINE WORD...: each WORD is among the completions
	local line=$1 got word
	shift
	got=" $(gives "$line") "
	for word; do
		n=$((n + 1))
		[[ $got == *" $word "* ]] || { echo "completion.sh: '$line' does not give $word, but:$got" >&2; exit 1; }
	done
}
must_not() {
	local got
	got=" $(gives "$1") "
	n=$((n + 1))
	[[ $got != *" $2 "* ]] || { echo "completion.sh: '$1' gives $2:$got" >&2; exit 1; }
}

mapfile -t commands < <(sed -nE '/commands\[\] = \{/,/^\};/s/^\t\{"([a-z]+)", command_.*/\1/p' "$top/cli/main.c")
[[ ${#commands[@]} -ge 10 ]] || { echo "completion.sh: cli/main.c has no commands: has its form changed?" >&2; exit 1; }
must "essaim " "${commands[@]}"
must "essaim --" --home --json --help --version
must "essaim st" status steward
must_not "essaim st" init
for command in "${commands[@]}"; do
	mapfile -t options < <(essaim "$command" --help | grep -oE -- '--[a-z-]+' | sort -u)
	must "essaim --json --home /tmp $command --" --json "${options[@]}"
done
must "essaim init --" --association --joining --memory --demo-model
must "essaim agreement " offer accept decline revoke list
must "essaim agreement offer A --" --tokens --days
must_not "essaim agreement accept A --" --tokens
must "essaim model " add list pull check remove clear
must "essaim model check x.gguf --" --stages
must "essaim roster " list remove
must "essaim steward " renew
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
: >"$folder/a.gguf"
: >"$folder/b.txt"
must "essaim model add $folder/" "$folder/a.gguf"
must_not "essaim model add $folder/" "$folder/b.txt"
echo "completion.sh: $n completions are right"
