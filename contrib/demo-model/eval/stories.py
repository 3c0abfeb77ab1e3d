#!/usr/bin/env python3
"""Stories at temperature 0.8: twenty requests a language, 200 tokens each; what share of the words, and of the runs of
three words, the grammar knows.

    stories.py PROBE MODEL.gguf [-v]"""
import os
import sys

from check import probe
from lexicon import Lexicon, triples, words

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import grammar


def main():
    program, model = sys.argv[1:3]
    lexicon, writer = Lexicon(), grammar.Writer(779)
    for lang in grammar.LANGS:
        asked = [writer.story_turn(lang)[0] for _ in range(20)]
        told = probe([program, "answer", model, "200", "0.8", "42"], probe([program, "template", model], asked))
        n = bad = runs = strange = right = 0
        for question, story in zip(asked, told):
            w, t = words(story), triples(story)
            n, bad = n + len(w), bad + len(lexicon.strange_words(story))
            runs, strange = runs + len(t), strange + len(lexicon.strange_triples(story))
            right += lexicon.language(story) == lang
            if "-v" in sys.argv:
                print("Q %s\nA %s\n" % (question, story))
        print("%s: %d words, %.2f %% known; runs of three words %.1f %% known; %d of %d stories in the language asked"
              % (lang, n, 100 - 100 * bad / n, 100 - 100 * strange / runs, right, len(asked)))


if __name__ == "__main__":
    main()
