"""Batches from the grammar: whole documents packed into rows, the same for the same seed and step."""
import torch

import grammar
from tokenizer import BOS, EOS, START

IGNORE = -100
QUESTION_WEIGHT = 0.3        # what the user says is read more than written


def weights(ids, assistant):
    """One weight a token: 1, or QUESTION_WEIGHT inside a user's or system's turn."""
    out, w = [], 1.0
    for i, t in enumerate(ids):
        if t == START:
            w = 1.0 if ids[i + 1:i + 1 + len(assistant)] == assistant else QUESTION_WEIGHT
        out.append(w)
    return out


def documents(tokenizer, seed, long, rich):
    writer = grammar.Writer(seed, rich)
    while True:
        yield tokenizer.encode(writer.document(long), bos=True)


def pack(stream, rows, length):
    """Fill ROWS rows of LENGTH + 1 tokens, each document whole, the longest that fits first."""
    pool, out = [], []
    for _ in range(rows):
        row = []
        while True:
            while len(pool) < 48:
                pool.append(next(stream)[:length + 1])
            room = length + 1 - len(row)
            fits = [i for i in range(len(pool)) if len(pool[i]) <= room]
            if not fits:
                break
            i = fits[0] if room > 200 else max(fits, key=lambda i: len(pool[i]))
            row += pool.pop(i)
        out.append(row)
    return out


def batch(tokenizer, seed, rows, length, long=False, rich=False):
    """-> inputs, targets (rows, length), weights; padding has the target IGNORE."""
    assistant = tokenizer.encode("assistant")
    ids = torch.full((rows, length), EOS)
    targets = torch.full((rows, length), IGNORE)
    scale = torch.zeros(rows, length)
    for r, row in enumerate(pack(documents(tokenizer, seed, long, rich), rows, length)):
        n = len(row) - 1
        ids[r, :n] = torch.tensor(row[:-1])
        targets[r, :n] = torch.tensor(row[1:])
        scale[r, :n] = torch.tensor(weights(row, assistant)[1:])
        targets[r, :n][targets[r, :n] == BOS] = IGNORE      # where a document ends is the packer's doing
        if (seed + r) % 10 == 0:                            # some texts arrive without BOS
            ids[r, :n - 1], targets[r, :n - 1], scale[r, :n - 1] = ids[r, 1:n].clone(), targets[r, 1:n].clone(), scale[r, 1:n].clone()
            targets[r, n - 1] = IGNORE
    return ids, targets, scale


def held_out(tokenizer, count=300):
    """Documents of a seed that training never uses."""
    stream = documents(tokenizer, 777, False, True)
    return [next(stream)[:513] for _ in range(count)]
