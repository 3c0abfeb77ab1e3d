#!/bin/sh
# The unit tests of proto under valgrind: nothing is read before it was written, nothing is left behind. Those that flip every bit take
# minutes each: with ESSAIM_VALGRIND_ALL only (`contrib/quickstart check --long`).
# SPDX-License-Identifier: AGPL-3.0-or-later
set -u
tests='buf err frame log template text ticket'
[ -z "${ESSAIM_VALGRIND_ALL:-}" ] || tests="$tests channel gbnf manifest message pack proto_memory record"
found=''
for name in $tests; do
	[ -x "tests/unit/test_$name" ] && found="$found $name"
done
[ -n "$found" ] || { echo "no unit tests here (cmocka was not found by configure)"; exit 77; }
command -v valgrind >/dev/null || { echo "valgrind is not installed (contrib/packages.txt)"; exit 77; }
! nm tests/unit/test_buf | grep -qE '__[at]san_init' || { echo "a program with a sanitizer does not run under valgrind"; exit 77; }
wrong=0
for name in $found; do
	output=$(valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=all --errors-for-leak-kinds=all \
		"tests/unit/test_$name" 2>&1)
	status=$?
	echo "test_$name: $status"
	[ $status = 0 ] || { wrong=1; echo "$output" | tail -n 60; }
done
exit $wrong
