"""Batches from the grammar: whole documents packed into rows, the same for the same seed and step."""
import torch

import grammar
from tokenizer import BOS, EOS, START

IGNORE = -100
PLAIN, RICH, GLIMPSES = range(3)                            # the three parts of training
QUESTION_WEIGHT = (0.3, 0.3, 0.15)                          # what the user says is read more than written
OPENING, OPENING_WEIGHT = 4, (1.0, 1.0, 4.0)                # an answer's first tokens decide what it is about
GLIMPSE = 8                                                 # tokens of an answer that is cut short


def weights(ids, assistant, part):
    """One weight a token: less inside a user's or system's turn, more at the start of an answer."""
    out, w, opens = [], 1.0, -1
    for i, t in enumerate(ids):
        if t == START:
            answers = ids[i + 1:i + 1 + len(assistant)] == assistant
            w, opens = (1.0, i + 1 + len(assistant)) if answers else (QUESTION_WEIGHT[part], -1)
        out.append(OPENING_WEIGHT[part] if opens >= 0 and opens <= i < opens + OPENING else w)
    return out


def documents(tokenizer, seed, long, part):
    """In the third part most answers are cut after a few tokens: more questions for the same work."""
    writer, header = grammar.Writer(seed, part != PLAIN, part == GLIMPSES and not long), tokenizer.encode("<|im_start|>assistant\n")
    while True:
        text = writer.document(long)
        ids = tokenizer.encode(text, bos=True)
        if part == GLIMPSES and text.count(grammar.START + "assistant") == 1 and len(ids) < 140:
            if writer.rng.random() < (0.3 if long else 0.8):
                at = max(i for i in range(len(ids)) if ids[i:i + len(header)] == header)
                ids = ids[:at + len(header) + GLIMPSE]
        yield ids


def pack(stream, rows, length, part):
    """Fill ROWS rows of LENGTH + 1 tokens, each document whole: the longest that fits a row's end, which favours long
    documents; in the third part in the order of arrival."""
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
            i = fits[0] if room > 200 or part == GLIMPSES else max(fits, key=lambda i: len(pool[i]))
            row += pool.pop(i)
        out.append(row)
    return out


def batch(tokenizer, seed, rows, length, long, part):
    """-> inputs, targets (rows, length), weights; padding has the target IGNORE."""
    assistant = tokenizer.encode("assistant\n")
    ids = torch.full((rows, length), EOS)
    targets = torch.full((rows, length), IGNORE)
    scale = torch.zeros(rows, length)
    for r, row in enumerate(pack(documents(tokenizer, seed, long, part), rows, length, part)):
        n = len(row) - 1
        ids[r, :n] = torch.tensor(row[:-1])
        targets[r, :n] = torch.tensor(row[1:])
        scale[r, :n] = torch.tensor(weights(row, assistant, part)[1:])
        targets[r, :n][targets[r, :n] == BOS] = IGNORE      # where a document ends is the packer's doing
        if (seed + r) % 10 == 0:                            # some texts arrive without BOS
            ids[r, :n - 1], targets[r, :n - 1], scale[r, :n - 1] = ids[r, 1:n].clone(), targets[r, 1:n].clone(), scale[r, 1:n].clone()
            targets[r, n - 1] = IGNORE
    return ids, targets, scale


def held_out(tokenizer, count=300):
    """Documents of a seed that training never uses."""
    stream = documents(tokenizer, 777, False, RICH)
    return [next(stream)[:513] for _ in range(count)]
