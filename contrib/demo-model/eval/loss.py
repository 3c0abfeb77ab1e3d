#!/usr/bin/env python3
"""Held-out loss, in nats a token, of the shipped files and of n-gram models counted over the same text.

    loss.py PROBE TARGET.gguf DRAFT.gguf

Held out: 300 documents of seed 777, each alone, BOS given; all tokens, those that the model itself would say (the answers
and the stories), and what users ask. The n-grams (interpolated Kneser-Ney, discount 0.75, orders 2 to 6) are counted over
every token that training drew for either model, cut answers and all: no model saw a text that they did not."""
import math
import os
import subprocess
import sys

import numpy

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import data
import train
from tokenizer import BOS, START, Tokenizer

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DISCOUNT, ORDERS = 0.75, 6


class KneserNey:
    """Runs of k tokens are numbered level by level: a run is (the number of its first k - 1 tokens) * vocab + its last
    token, looked up in a sorted array. The highest order counts occurrences, lower ones the distinct left neighbours."""

    def __init__(self, vocab, text, starts):
        """text: all tokens; starts: where documents begin, which no run crosses."""
        self.vocab = vocab
        since = numpy.arange(len(text)) - numpy.maximum.accumulate(numpy.where(starts, numpy.arange(len(text)), 0))
        number, self.levels, self.tails = numpy.zeros(len(text), dtype=numpy.int64), [], []
        for k in range(ORDERS):
            here = since >= k                               # positions where a run of k + 1 tokens ends
            ends = numpy.flatnonzero(here)
            before = numpy.zeros(len(ends), dtype=numpy.int64) if k == 0 else number[ends - 1]
            runs, inverse, counts = numpy.unique(before * vocab + text[ends], return_inverse=True, return_counts=True)
            if k:                                           # a run of k + 1 is a left neighbour of its last k tokens
                firsts = numpy.zeros(len(runs), dtype=numpy.int64)
                firsts[inverse] = number[ends]
                self.tails.append(firsts)
            number = numpy.full(len(text), -1, dtype=numpy.int64)
            number[ends] = inverse
            self.levels.append((runs, counts))

    def finish(self, order):
        """Totals for a model of ORDER."""
        self.order, self.counts = order, []
        for k in range(order):
            runs, counts = self.levels[k]
            if k < order - 1:                               # what only begins a document has no left neighbour: it counts once
                counts = numpy.maximum(numpy.bincount(self.tails[k], minlength=len(runs)), 1)
            heads = runs // self.vocab
            size = int(heads.max()) + 1
            self.counts.append((counts, numpy.bincount(heads, counts, size), numpy.bincount(heads, minlength=size)))

    def find(self, run):
        """-> the numbers of the run's beginnings, as far as they are known."""
        out, number = [], 0
        for k, token in enumerate(run):
            runs, key = self.levels[k][0], number * self.vocab + token
            number = int(numpy.searchsorted(runs, key))
            if number == len(runs) or runs[number] != key:
                break
            out.append(number)
        return out

    def p(self, history, token):
        p = 1.0 / self.vocab
        for k in range(min(len(history), self.order - 1) + 1):
            run = list(history[len(history) - k:]) + [token]
            known = self.find(run)
            if len(known) < k:                              # this history was never seen
                break
            head = known[k - 1] if k else 0
            counts, total, kinds = self.counts[k]
            if head >= len(total) or not total[head]:
                break
            n = counts[known[k]] if len(known) > k else 0
            p = max(n - DISCOUNT, 0) / total[head] + DISCOUNT * kinds[head] / total[head] * p
        return p


def answered(ids):
    """For each id from the second on: does the assistant (or a story without turns) say it?"""
    header, turn, out = answered.header, START not in ids, []
    for i, t in enumerate(ids):
        if t == START:
            turn = False
        if i:
            out.append(turn)
        if ids[max(0, i - len(header) + 1):i + 1] == header:
            turn = True
    return out


def report(name, docs, losses):
    told = [answered(d) for d in docs]
    every = [(x, is_answer) for row, t in zip(losses, told) for x, is_answer in zip(row, t)]
    answers, asked = [x for x, a in every if a], [x for x, a in every if not a]
    print("%-26s all %.4f, answers and stories %.4f, users' part %.4f nats a token"
          % (name, sum(x for x, _ in every) / len(every), sum(answers) / len(answers), sum(asked) / len(asked)), flush=True)


def drawn(tok):
    """Every token of training in order, and where documents begin."""
    text, starts = [], []
    steps = {(step, step >= train.LATE[name]) for name, points in train.COURSE.items() for step in range(points[-1][0])}
    for step, late in sorted(steps):
        rows, length = train.shape(step)
        for rank in range(train.WORKERS):
            stream = data.documents(tok, train.seed(step, rank), length == 512, late)
            for ids, _ in data.pack(stream, rows // train.WORKERS, length):
                text += ids
                starts += [i == 0 or t == BOS for i, t in enumerate(ids)]
    return numpy.array(text), numpy.array(starts)


def main():
    program, target, draft = sys.argv[1:4]
    tok = Tokenizer(os.path.join(HERE, "tokenizer.json"))
    answered.header = tok.encode("<|im_start|>assistant\n")
    docs = [d[:512] for d in data.held_out(tok)]
    lines = "".join(" ".join(map(str, d)) + "\n" for d in docs)
    for path in (target, draft):
        out = subprocess.run([program, "loss", path], input=lines, capture_output=True, text=True, check=True).stdout
        report(os.path.basename(path), docs, [[float(x) for x in line.split()] for line in out.splitlines()])
    text, starts = drawn(tok)
    grams = KneserNey(len(tok.tokens), text, starts)
    for order in range(2, ORDERS + 1):
        grams.finish(order)
        report("%d-gram (%.1f M tokens)" % (order, len(text) / 1e6), docs,
               [[-math.log(grams.p(d[max(0, i - order + 1):i], d[i])) for i in range(1, len(d))] for d in docs])


if __name__ == "__main__":
    main()
