#!/usr/bin/env python3
"""Copying from far back, at temperature 0: what the user told and asks for again, a line to repeat, and a question on two
sentences; sixty of each, of a seed that training never uses. The last answer must be right to the letter.

    memory.py PROBE MODEL.gguf [-v]"""
import os
import sys

from check import probe

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import grammar

TURN = grammar.START + "%s\n%s"


def main():
    program, model = sys.argv[1:3]
    writer = grammar.Writer(781)
    for kind in ("memory", "reading", "repeat"):
        prompts, expected = [], []
        for i in range(60):
            turns = getattr(writer, kind)(grammar.LANGS[i % 2])
            said = "".join(TURN % ("user", u) + grammar.END + "\n" + TURN % ("assistant", a) + grammar.END + "\n" for u, a in turns)
            cut = len(turns[-1][1]) + len(grammar.END) + 1
            prompts.append(said[:-cut].replace("\n", "\\n"))
            expected.append(turns[-1][1])
        answers = probe([program, "answer", model, "60"], prompts)
        if "-v" in sys.argv:
            for prompt, right, answer in zip(prompts, expected, answers):
                print("%s\n  %s\n  %s" % (prompt, right, answer))
        print("%s: %d of %d right" % (kind, sum(a == b for a, b in zip(answers, expected)), len(expected)))


if __name__ == "__main__":
    main()
