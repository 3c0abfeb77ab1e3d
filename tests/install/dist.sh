#!/bin/sh
# dist.sh: the archive of the sources is the same twice, whatever the clock and the files' times, and holds what git holds.
# Run in the build folder. SPDX-License-Identifier: AGPL-3.0-or-later
set -eu
[ -f Makefile ] || { echo "dist.sh: no Makefile here: run it in the build folder" >&2; exit 1; }
command -v xz >/dev/null || { echo "dist.sh: xz is not here"; exit 77; }
top=${ESSAIM_TOP:-$(dirname "$0")/../..}
[ -w "$top" ] || { echo "dist.sh: the sources are read-only here (make distcheck)"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for i in 1 2; do
	touch "$top/README.md"
	SOURCE_DATE_EPOCH=1700000000 make --no-print-directory dist-xz >"$scratch/log" 2>&1 || { tail -n 20 "$scratch/log" >&2; exit 1; }
	mv essaim-*.tar.xz "$scratch/$i.tar.xz"
done
cmp "$scratch/1.tar.xz" "$scratch/2.tar.xz" || { echo "dist.sh: two archives of the same sources differ" >&2; exit 1; }
tar -tf "$scratch/1.tar.xz" | sed 's|^[^/]*/||' | sort >"$scratch/has"
if git -C "$top" rev-parse --git-dir >/dev/null 2>&1; then
	git -C "$top" ls-files | grep -vE '(^|/)\.git(ignore|attributes)$' | sort >"$scratch/git"
	lacks=$(comm -23 "$scratch/git" "$scratch/has")
	[ -z "$lacks" ] || { printf 'dist.sh: the archive lacks (EXTRA_DIST?):\n%s\n' "$lacks" >&2; exit 1; }
fi
echo "dist.sh: $(wc -l <"$scratch/has") files, the same bytes twice"
