#!/usr/bin/env python3
"""Puts the fifty held-out questions to a model at temperature 0 and judges the answers.

    check.py PROBE MODEL.gguf [-v]

An answer passes if all of these hold:
  topic      it contains the regular expression beside its question in questions.tsv;
  language   more of its common words (lexicon.MARKS) belong to the question's language than to the other;
  whole      it begins with a capital, ends with a full stop, question or exclamation mark, and has at most 80 words;
  grammar    every word, and every run of three words (its beginning and end counted), occurs in the assistant's turns of
             60,000 documents of the grammar: the answer is made of seams that the grammar makes.
The questions themselves must not be among those documents' questions, openings and punctuation aside."""
import os
import re
import subprocess
import sys

from lexicon import SENTENCE, Lexicon, words

HERE = os.path.dirname(os.path.abspath(__file__))


def questions():
    with open(os.path.join(HERE, "questions.tsv"), encoding="utf-8") as f:
        return [line.rstrip("\n").split("\t") for line in f if line.strip() and line[0] != "#"]


def probe(arguments, lines):
    """One line in, one line out; a line feed inside is written \\n."""
    done = subprocess.run(arguments, input="".join(l + "\n" for l in lines), capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


def judge(lexicon, lang, criterion, answer):
    faults = []
    if not re.search(criterion, answer, re.I):
        faults.append("topic")
    if lexicon.language(answer) != lang:
        faults.append("language")
    if not SENTENCE.match(answer) or len(words(answer)) > 80:
        faults.append("whole")
    if lexicon.strange_words(answer) or lexicon.strange_triples(answer):
        faults.append("grammar")
    return faults


def main():
    program, model = sys.argv[1:3]
    asked, lexicon = questions(), Lexicon()
    leaked = [q for _, _, _, q in asked if " ".join(words(q)) in lexicon.asked]
    prompts = probe([program, "template", model], [q for _, _, _, q in asked])
    answers = probe([program, "answer", model, "160"], prompts)
    passed = {"en": 0, "fr": 0}
    for (lang, about, criterion, question), answer in zip(asked, answers):
        faults = judge(lexicon, lang, criterion, answer.replace("\\n", "\n"))
        passed[lang] += not faults
        if faults or "-v" in sys.argv:
            print("%s %-11s %s\n      Q %s\n      A %s" % (lang, about, "FAIL: " + ", ".join(faults) if faults else "pass", question, answer))
    print("passed %d of 50 (English %d of 25, French %d of 25); questions seen in training: %d"
          % (sum(passed.values()), passed["en"], passed["fr"], len(leaked)))
    return 0 if sum(passed.values()) >= 45 and not leaked else 1


if __name__ == "__main__":
    sys.exit(main())
