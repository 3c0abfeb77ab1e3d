#!/usr/bin/env python3
"""cli/reasons.c has every reason that the daemon puts into words where it knows no reader, so that essaim can say it in another language, and none
that it does not say. Prints what lacks; --list prints them all.   SPDX-License-Identifier: AGPL-3.0-or-later"""
import os
import re
import sys

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
FILES = """route/route.h route/route.c route/explain.c views.c views_gateway.c ring/lost.c ring/home.c ring/transit.c residency.c stage/stage.c stage/spawn.c store/store.c
store/progress.c store/disk.c mesh/neighbours.c link/link.c link/link_dial.c link/link_stream.c link/link_handshake.c api/api_ask.c sharing_watch.c trust/invitation.c""".split()
SAYS = re.compile(r'\b(?:snprintf|link_fail|trouble|fail|refuse|engine_lost|text_copy|api_error_set|say)\(([^;"]*)((?:"(?:[^"\\]|\\.)*"[^;"]*?)+)[,)]')
NAMED = re.compile(r'(static const char \w+\[\] =|#define ROUTE_NO_MEMORY) ("[^"]*")')
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')


def sentences(name):
    with open(os.path.join(TOP, "daemon", name)) as f:
        source = re.sub(r'"\s*\n\s*"', "", f.read()).replace('CLOCK_TROUBLE " ', '"their clock is ').replace('" URL_PREFIX', 'essaim://join/#"')
    found = []
    for call in list(SAYS.finditer(source)) + list(NAMED.finditer(source)):
        found += [text for text in TEXT.findall(call.group(2)) if re.search(r"[a-z]+ [a-z]+ |\. Here:", re.sub("%[.0-9]*[a-z]+", "", text)) and "%s@" not in text]
    return found


def main():
    # Where the daemon cuts a value is its own business.
    said = {re.sub(r"%\.\d+s", "%s", text) for name in FILES for text in sentences(name)}
    if "--list" in sys.argv:
        print("\n".join(sorted(said)))
        return 0
    with open(os.path.join(TOP, "cli/reasons.c")) as f:
        table = re.sub(r'"\s*\n\s*"', "", f.read())
    listed = set(re.findall(r'N_\("((?:[^"\\]|\\.)*)"\)', table))
    for text in sorted(said - listed):
        print("cli/reasons.c lacks: " + text)
    for text in sorted(listed - said):
        print("cli/reasons.c has, and the daemon does not say: " + text)
    if len(said) < 50:
        print("the reasons are not found in the code any more: has its form changed?")
    return int(said != listed or len(said) < 50)


if __name__ == "__main__":
    sys.exit(main())
