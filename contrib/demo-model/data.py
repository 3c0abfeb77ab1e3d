"""Batches from the grammar: whole documents packed into rows, the same for the same seed."""
import torch

import grammar
from tokenizer import BOS, EOS, START

IGNORE = -100
QUESTION_WEIGHT = 0.5                                       # what the user says is read more than written
OPENING, OPENING_WEIGHT = 4, (3.0, 5.0)                     # an answer's first tokens decide what it is about
COPY_WEIGHT = 3.0                                           # a name that came before must come again unchanged
GLIMPSES, GLIMPSE = (0.3, 0.8), 8                           # share of short exchanges whose answer is cut, and to how many tokens


def weights(ids, assistant, names, late):
    """One weight a token: less inside a user's or system's turn, more at the start of an answer and where the assistant
    says again one of NAMES (runs of tokens) that came before."""
    out, w, opens = [], 1.0, -1
    for i, t in enumerate(ids):
        if t == START:
            answers = ids[i + 1:i + 1 + len(assistant)] == assistant
            w, opens = (1.0, i + 1 + len(assistant)) if answers else (QUESTION_WEIGHT, -1)
        out.append(OPENING_WEIGHT[late] if opens >= 0 and opens <= i < opens + OPENING else w)
    for name in names:
        seen = False
        for i in range(len(ids) - len(name) + 1):
            if ids[i] == name[0] and ids[i:i + len(name)] == name:
                if seen and out[i] >= 1:
                    out[i:i + len(name)] = [COPY_WEIGHT] * len(name)
                seen = True
    return out


def documents(tokenizer, seed, long, late):
    """-> (ids, weights) without end. late: mostly questions. Some answers are cut after a few tokens: more questions for the same work."""
    writer, header = grammar.Writer(seed, late), tokenizer.encode("<|im_start|>assistant\n")
    while True:
        text = writer.document(long)
        ids = tokenizer.encode(text, bos=True)
        if text.count(grammar.START + "assistant") == 1 and len(ids) < 140 and writer.rng.random() < GLIMPSES[late]:
            at = max(i for i in range(len(ids)) if ids[i:i + len(header)] == header)
            ids = ids[:at + len(header) + GLIMPSE]
        names = [tokenizer.encode(" " + n) for n in sorted(writer.names)]
        yield ids, weights(ids, header[1:], names, late)


def pack(stream, rows, length):
    """Fill ROWS rows of LENGTH + 1 tokens, each document whole: the first that fits, and at a row's end the longest."""
    pool, out = [], []
    for _ in range(rows):
        ids, scale = [], []
        while True:
            while len(pool) < 48:
                pool.append(tuple(x[:length + 1] for x in next(stream)))
            room = length + 1 - len(ids)
            fits = [i for i in range(len(pool)) if len(pool[i][0]) <= room]
            if not fits:
                break
            i = fits[0] if room > 100 else max(fits, key=lambda i: len(pool[i][0]))
            doc = pool.pop(i)
            ids, scale = ids + doc[0], scale + doc[1]
        out.append((ids, scale))
    return out


def batch(tokenizer, seed, rows, length, late):
    """-> inputs, targets (rows, length), weights; padding has the target IGNORE."""
    ids = torch.full((rows, length), EOS)
    targets = torch.full((rows, length), IGNORE)
    scale = torch.zeros(rows, length)
    for r, (row, weight) in enumerate(pack(documents(tokenizer, seed, length == 512, late), rows, length)):
        n = len(row) - 1
        ids[r, :n] = torch.tensor(row[:-1])
        targets[r, :n] = torch.tensor(row[1:])
        scale[r, :n] = torch.tensor(weight[1:])
        targets[r, :n][targets[r, :n] == BOS] = IGNORE      # where a document ends is the packer's doing
        if (seed + r) % 10 == 0:                            # some texts arrive without BOS
            ids[r, :n - 1], targets[r, :n - 1], scale[r, :n - 1] = ids[r, 1:n].clone(), targets[r, 1:n].clone(), scale[r, 1:n].clone()
            targets[r, n - 1] = IGNORE
    scale[targets == IGNORE] = 0
    return ids, targets, scale


def held_out(tokenizer, count=300):
    """Documents of a seed that training never uses, none cut."""
    writer = grammar.Writer(777)
    return [tokenizer.encode(writer.document(), bos=True)[:513] for _ in range(count)]
