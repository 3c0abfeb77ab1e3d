#!/usr/bin/env python3
"""How many stories stay with what was asked and with themselves: at temperature 0 and 0.8, forty requests a
language.

    coherence.py PROBE MODEL.gguf [-v] [KIND...]

Each request names a kind of story (of KINDs, or of all) and a person, bee or cat, half of the time with a name that nobody bears; the requests
are those of a seed that training never uses. A story is read back with the grammar's own lines: each sentence is looked
for among the lines of all kinds, with what stands in their slots.
  subject    more of its sentences are lines of the kind that was asked for than of any other
  name       the name asked for is told, and at least twice
  one cast   everyone of a role (hero, friend, bee, cat) has one name from the first sentence to the last
  one sex    "he" and "she" agree with it all the way
A story passes if all of these hold."""
import collections
import os
import re
import sys

from check import probe

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import grammar

NAME = r"[A-ZÀ-Þ][\w'-]*"
NAMED = ("hero", "friend", "bee", "pet")
ASKS = {"en": {"bee": " named {bee}", "cat": " with {hero}"}, "fr": {"bee": ", elle s'appelle {bee}", "cat": " avec {hero}"}}
COUNT, TOKENS = 40, 260


def pattern(line):
    """A line of a story's grammar -> a regular expression; the slots' values are in groups NAME_i, the sexes in sex_ROLE_m_i."""
    out, i, n = "", 0, 0
    line = line.lstrip("? ").strip()
    while i < len(line):
        slot = re.match(r"\{(\w+)\}", line[i:])
        sex = re.match(r"\{([hfo]):([^/{}]*)/([^/{}]*)\}", line[i:])
        if slot:
            n += 1
            out += r"(?P<%s_%d>%s)" % (slot[1], n, NAME) if slot[1] in NAMED + ("town",) else r"(?P<%s_%d>[^.,;!?»\"]+?)" % (slot[1], n)
            i += len(slot[0])
        elif sex:
            n += 1
            out += r"(?:(?P<sex_%s_m_%d>%s)|(?P<sex_%s_f_%d>%s))" % (sex[1], n, re.escape(sex[2]), sex[1], n, re.escape(sex[3]))
            i += len(sex[0])
        else:
            out += {"[": "(?:", "]": ")", "|": "|"}.get(line[i], re.escape(line[i]))
            i += 1
    return out.replace(r"\ ", r"\s+")


LINES = {l: [(kind, re.compile(pattern(line))) for kind, (_, lines) in grammar.STORIES[l].items() for line in lines]
         for l in grammar.LANGS}


def read(story, lang):
    """-> how many lines of each kind the story has, and what stands in each slot."""
    kinds, slots = collections.Counter(), collections.defaultdict(set)
    for kind, line in LINES[lang]:
        for m in line.finditer(story):
            if m.end() - m.start() < 12:
                continue
            kinds[kind] += 1
            for group, value in m.groupdict().items():
                if value is None:
                    continue
                parts = group.split("_")
                if parts[0] == "sex":
                    slots["sex_" + parts[1]].add(parts[2])
                else:
                    slots[kind + ":" + "_".join(parts[:-1])].add(value)
    return kinds, slots


def judge(story, lang, kind, name):
    kinds, slots = read(story, lang)
    faults = []
    told = kinds.most_common(1)[0][0] if kinds else None
    if told != kind:
        faults.append("subject")
    if len(re.findall(r"\b%s\b" % re.escape(name), story)) < 2:
        faults.append("name")
    if any(len(slots["%s:%s" % (told, role)]) > 1 for role in NAMED):
        faults.append("one cast")
    if len(slots["sex_h"]) > 1 or len(slots["sex_f"]) > 1:
        faults.append("one sex")
    return faults


def requests(lang, kinds):
    """-> [(kind, name, request)], the kinds in turn."""
    writer, out = grammar.Writer(780), []
    for i in range(COUNT):
        kind, slots = kinds[i % len(kinds)], writer.story_slots(lang)
        ask = writer.rng.choice(grammar.STORY_ASK[lang]).replace("{k}", writer.rng.choice(grammar.STORIES[lang][kind][0]))
        ask += ASKS[lang].get(kind, " with {hero}" if lang == "en" else " avec {hero}")
        text = grammar.capital(grammar.expand(ask, writer.rng, slots, False)) + "."
        out.append((kind, slots["bee" if kind == "bee" else "hero"], text))
    return out


def main():
    program, model = sys.argv[1:3]
    for temperature in ("0", "0.8"):
        for lang in grammar.LANGS:
            asked = requests(lang, [a for a in sys.argv[3:] if a != "-v"] or list(grammar.STORIES[lang]))
            prompts = probe([program, "template", model], [q for _, _, q in asked])
            told = probe([program, "answer", model, str(TOKENS), temperature, "42"], prompts)
            found, passed = collections.Counter(), 0
            for (kind, name, question), story in zip(asked, told):
                faults = judge(story.replace("\\n", "\n"), lang, kind, name)
                passed += not faults
                found.update(faults)
                if "-v" in sys.argv:
                    print("%s %s\nQ %s\nA %s\n" % (lang, ", ".join(faults) or "pass", question, story))
            print("%s, temperature %s: %d of %d stories hold together (subject %d, name %d, one cast %d, one sex %d)"
                  % (lang, temperature, passed, len(asked), *(len(asked) - found[x] for x in ("subject", "name", "one cast", "one sex"))))


if __name__ == "__main__":
    main()
