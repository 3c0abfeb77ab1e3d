#!/usr/bin/env python3
"""Held-out loss, in nats a token, of the shipped files and of n-gram models trained on the same text.

    loss.py PROBE TARGET.gguf DRAFT.gguf

Held out: 300 documents of seed 777, each alone, BOS given. The n-grams (interpolated Kneser-Ney, discount 0.75,
orders 2 to 6) are counted over what the target saw in all its steps."""
import collections
import math
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import data
import train
from tokenizer import Tokenizer

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


def main():
    program, target, draft = sys.argv[1:4]
    steps = train.COURSE["target"][-1][0]
    tok = Tokenizer(os.path.join(HERE, "tokenizer.json"))
    docs = data.held_out(tok)
    lines = "".join(" ".join(map(str, d[:512])) + "\n" for d in docs)
    for path in (target, draft):
        out = subprocess.run([program, "loss", path], input=lines, capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in out.splitlines()]
        nats, count = sum(float(r[0]) for r in rows), sum(int(r[1]) for r in rows)
        print("%-32s %.4f nats a token (perplexity %.3f)" % (os.path.basename(path), nats / count, math.exp(nats / count)), flush=True)
    grams, learnt = KneserNey(len(tok.tokens), ORDERS), 0
    for step in range(steps):
        rows, length, part = train.shape("target", step)
        for row in data.pack(data.documents(tok, train.SEED["target"] + step, length == 512, part), rows, length, part):
            start = 0
            for i in range(1, len(row) + 1):
                if i == len(row) or row[i] == 1:
                    grams.learn(row[start:i])
                    start = i
            learnt += len(row)
    for order in range(2, ORDERS + 1):
        grams.finish(order)
        nats = count = 0
        for d in docs:
            d = d[:512]
            for i in range(1, len(d)):
                nats -= math.log(grams.p(d[max(0, i - order + 1):i], d[i]))
                count += 1
        print("%d-gram, %.1f M tokens           %.4f nats a token (perplexity %.3f)"
              % (order, learnt / 1e6, nats / count, math.exp(nats / count)), flush=True)


if __name__ == "__main__":
    main()
