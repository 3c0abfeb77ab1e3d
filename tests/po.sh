#!/bin/sh
# po.sh [TOP]: every text for people has a French one, and each keeps its values (%s and the like).
# SPDX-License-Identifier: AGPL-3.0-or-later
set -eu
built=$PWD
cd "${1:-$(dirname "$0")/..}"
for tool in xgettext msgcmp msgfmt msgcat; do
	command -v "$tool" >/dev/null || { echo "SKIP po.sh: $tool is not installed (package gettext)"; exit 77; }
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
po/extract >"$scratch/essaim.pot"
msgfmt -c -o "$scratch/fr.mo" po/fr.po

# It must be able to fail: without its last text, and with a value lost.
sed '$d' po/fr.po | sed '$d' >"$scratch/short.po"
if msgcmp "$scratch/short.po" "$scratch/essaim.pot" 2>/dev/null; then
	echo "po.sh: a missing text is not noticed" >&2
	exit 1
fi
printf 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n#, c-format\nmsgid "%%s of %%u"\nmsgstr "%%s"\n' >"$scratch/lost.po"
if msgfmt -c -o /dev/null "$scratch/lost.po" 2>/dev/null; then
	echo "po.sh: a lost value is not noticed" >&2
	exit 1
fi

if ! msgcmp po/fr.po "$scratch/essaim.pot"; then
	echo "po.sh: po/fr.po lacks texts: run make po-update and translate them" >&2
	exit 1
fi
# And it is what people see, where this machine has a French locale.
if [ -x "$built/cli/essaim" ] && locale -a 2>/dev/null | grep -qi '^fr'; then
	french=$(env -u LC_ALL -u LANGUAGE -u LC_MESSAGES LANG=fr_FR.UTF-8 "$built/cli/essaim" nonesuch 2>&1 || true)
	english=$(env -u LANGUAGE LC_ALL=C "$built/cli/essaim" nonesuch 2>&1 || true)
	case $french in
	*"il n'y a pas de commande 'nonesuch'"*) ;;
	*) echo "po.sh: in French essaim says: $french" >&2; exit 1 ;;
	esac
	case $english in
	*"there is no command 'nonesuch'"*) ;;
	*) echo "po.sh: in English essaim says: $english" >&2; exit 1 ;;
	esac
fi
echo "po.sh: $(grep -c '^msgid ' "$scratch/essaim.pot") texts are in French too"
