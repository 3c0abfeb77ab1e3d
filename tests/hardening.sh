#!/bin/sh
# hardening.sh: what the compiler and linker were told shows in the programs that were built (configure.ac, "hardening").
#
#   hardening.sh [PROGRAM...]     first tests itself on a program without any of it, then looks at these (default: the three
#                                 in the build folder that this is run in)
#
# Asked of each program: position independent, RELRO and BIND_NOW, a stack that cannot be executed, a stack protector, checked
# variants of libc's functions (FORTIFY_SOURCE), on x86-64 landing pads for indirect branches (endbr64; Debian's own crt1.o lacks the note
# that would make the loader ask for them), no text relocations, no path to search for libraries.
# SPDX-License-Identifier: AGPL-3.0-or-later
set -eu
LC_ALL=C
export LC_ALL

# Prints what PROGRAM lacks, a line each.
lacks() {
	headers=$(readelf -hlW "$1")
	dynamic=$(readelf -dW "$1")
	symbols=$(readelf -W --dyn-syms "$1")
	case $headers in *"Type:"*"DYN "*) ;; *) echo "position independence (-pie)" ;; esac
	case $headers in *GNU_RELRO*) ;; *) echo "RELRO (-z relro)" ;; esac
	case $dynamic in *"Flags:"*NOW*) ;; *) echo "BIND_NOW (-z now)" ;; esac
	printf '%s\n' "$headers" | grep -q 'GNU_STACK.* RWE ' && echo "a stack that cannot be executed (-z noexecstack)"
	case $symbols in *__stack_chk_fail*) ;; *) echo "a stack protector (-fstack-protector-strong)" ;; esac
	printf '%s\n' "$symbols" | grep -qE '__[a-z]+_chk(@| |$)' || echo "checked functions (-D_FORTIFY_SOURCE=3)"
	case $dynamic in *TEXTREL*) echo "freedom from text relocations" ;; esac
	case $dynamic in *RPATH* | *RUNPATH*) echo "freedom from RPATH" ;; esac
	if printf '%s\n' "$headers" | grep -q 'Machine:.*X86-64'; then
		[ "$(objdump -d --no-show-raw-insn -j .text "$1" | grep -c endbr64)" -ge 20 ] || echo "control-flow protection (-fcf-protection=full)"
	fi
	return 0
}

command -v readelf >/dev/null || { echo "hardening.sh: readelf is not here"; exit 77; }

# --- the script's own test: a program without any of it ---
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
printf '#include <string.h>\nint main(int n, char **a) { char b[64]; strcpy(b, a[0]); return b[n]; }\n' >"$scratch/soft.c"
if ${CC:-cc} -O2 -no-pie -fno-pie -fno-stack-protector -U_FORTIFY_SOURCE -fcf-protection=none -Wl,-z,norelro -Wl,-z,lazy -Wl,-z,execstack \
	-o "$scratch/soft" "$scratch/soft.c" 2>/dev/null; then
	n=$(lacks "$scratch/soft" | wc -l)
	[ "$n" -ge 6 ] || { echo "hardening.sh: self-test: a program without hardening lacks only: $(lacks "$scratch/soft")" >&2; exit 1; }
fi

[ "$#" -gt 0 ] || set -- cli/essaim daemon/essaimd engine/essaim-engine
bad=0
for program; do
	found=$(lacks "$program")
	[ -z "$found" ] && continue
	printf '%s\n' "$found" | sed "s|^|hardening.sh: $program lacks |" >&2
	bad=1
done
[ $bad = 0 ] && echo "hardening.sh: $# programs are built as they should be"
exit $bad
