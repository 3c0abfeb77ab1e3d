#!/usr/bin/env python3
"""Share of the draft's greedy tokens that the target accepts, over the held-out questions and over story requests.

    accept.py PROBE TARGET.gguf DRAFT.gguf [LENGTH=4]"""
import os
import sys

from check import probe, questions

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import grammar


def share(program, target, draft, length, asked):
    prompts = probe([program, "template", target], asked)
    rows = [[int(x) for x in line.split()] for line in probe([program, "accept", target, draft, "200", length], prompts)]
    accepted, proposed, made = (sum(r[i] for r in rows) for i in range(3))
    return accepted, proposed, made


def main():
    program, target, draft = sys.argv[1:4]
    length = sys.argv[4] if len(sys.argv) > 4 else "4"
    writer = grammar.Writer(778)
    stories = [writer.story_turn(grammar.LANGS[i % 2])[0] for i in range(40)]
    for name, asked in (("50 held-out questions", [q for _, _, _, q in questions()]), ("40 story requests", stories)):
        accepted, proposed, made = share(program, target, draft, length, asked)
        print("%s: %d of %d proposed tokens accepted: %.1f %% (%d tokens in all)"
              % (name, accepted, proposed, 100 * accepted / proposed, made))


if __name__ == "__main__":
    main()
