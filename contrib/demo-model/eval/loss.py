#!/usr/bin/env python3
"""Held-out loss, in nats a token, of the shipped files and of n-gram models trained on the same text.

    loss.py PROBE TARGET.gguf DRAFT.gguf

Held out: 300 documents of seed 777, each alone, BOS given; all tokens, and those that the model itself would say (the
answers and the stories: what users ask weighs little in training). The n-grams (interpolated Kneser-Ney, discount 0.75,
orders 2 to 6) are counted over what the target saw in all its steps."""
import collections
import math
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import data
import train
from tokenizer import BOS, START, Tokenizer

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DISCOUNT, ORDERS = 0.75, 6


class KneserNey:
    """counts[k]: runs of k + 1 tokens; the highest order counts occurrences, lower ones the distinct left neighbours."""

    def __init__(self, vocab, order):
        self.vocab, self.order = vocab, order
        self.seen = [collections.Counter() for _ in range(order)]

    def learn(self, ids):
        for k in range(self.order):
            self.seen[k].update(zip(*(ids[i:] for i in range(k + 1))))

    def finish(self, order):
        """Totals for a model of ORDER, from runs counted once."""
        self.levels = []
        for k in range(order):
            if k == order - 1:
                counts = self.seen[k]
            else:
                counts = collections.Counter(run[1:] for run in self.seen[k + 1])
                for run, n in self.seen[k].items():         # what only begins a document has no left neighbour
                    if run not in counts:
                        counts[run] = 1
            total, kinds = collections.Counter(), collections.Counter()
            for run, n in counts.items():
                total[run[:-1]] += n
                kinds[run[:-1]] += 1
            self.levels.append((counts, total, kinds))

    def p(self, history, token):
        p = 1.0 / self.vocab
        for k, (counts, total, kinds) in enumerate(self.levels):
            if k > len(history):
                break
            h = tuple(history[len(history) - k:])
            n = total.get(h)
            if n:
                p = max(counts.get(h + (token,), 0) - DISCOUNT, 0) / n + DISCOUNT * kinds[h] / n * p
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
    every = [x for row in losses for x in row]
    answers = [x for row, t in zip(losses, told) for x, is_answer in zip(row, t) if is_answer]
    print("%-24s all %.4f, answers and stories only %.4f nats a token" % (name, sum(every) / len(every), sum(answers) / len(answers)), flush=True)


def main():
    program, target, draft = sys.argv[1:4]
    steps = train.COURSE["target"][-1][0]
    tok = Tokenizer(os.path.join(HERE, "tokenizer.json"))
    answered.header = tok.encode("<|im_start|>assistant\n")
    docs = [d[:512] for d in data.held_out(tok)]
    lines = "".join(" ".join(map(str, d)) + "\n" for d in docs)
    for path in (target, draft):
        out = subprocess.run([program, "loss", path], input=lines, capture_output=True, text=True, check=True).stdout
        report(os.path.basename(path), docs, [[float(x) for x in line.split()] for line in out.splitlines()])
    grams, learnt = KneserNey(len(tok.tokens), ORDERS), 0
    for step in range(steps):
        rows, length, part = train.shape("target", step)
        for row in data.pack(data.documents(tok, train.SEED["target"] + step, length == 512, part), rows, length, part):
            start = 0
            for i in range(1, len(row) + 1):
                if i == len(row) or row[i] == BOS:
                    grams.learn(row[start:i])
                    start = i
            learnt += len(row)
    for order in range(2, ORDERS + 1):
        grams.finish(order)
        report("%d-gram (%.1f M tokens)" % (order, learnt / 1e6), docs,
               [[-math.log(grams.p(d[max(0, i - order + 1):i], d[i])) for i in range(1, len(d))] for d in docs])


if __name__ == "__main__":
    main()
