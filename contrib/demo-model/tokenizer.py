"""One small byte-fallback vocabulary for both models, in the form that libllama calls "llama" (SPM).

Pieces are learnt by byte-pair encoding over words; a piece's score is minus its rank, and encoding merges the
neighbouring pair of the best score again and again, as libllama's llm_tokenizer_spm does. Differences from the
usual: no space is put before a text (tokenizer.ggml.add_space_prefix = false), and a line feed is a byte token.

    python3 tokenizer.py train OUT.json     learns the vocabulary from the grammar (seed 1)
    python3 tokenizer.py encode FILE.json   text on stdin, ids on stdout
"""
import collections
import json
import re
import sys

import grammar

SPECIAL = ["<unk>", "<s>", "<|im_end|>", "<|im_start|>"]
UNK, BOS, EOS, START = range(4)
FIRST_BYTE = len(SPECIAL)
SIZE = 2048
SPACE = "\u2581"
# No piece crosses these borders, so that a word can be encoded alone and remembered.
WORD = re.compile(SPACE + r"?[^\W\d_" + SPACE + r"]+'?|" + SPACE + r"?\d|" + SPACE + r"?[^\w\s" + SPACE + r"]|" + SPACE + r"|_|\s")
CONTROL = re.compile(r"(<unk>|<\|im_start\|>|<\|im_end\|>|<s>)")


def train(documents, size=SIZE):
    """-> list of pieces, best first, after the special and byte tokens."""
    words = collections.Counter()
    for doc in documents:
        for part in CONTROL.split(doc):
            if not CONTROL.match(part):
                words.update(WORD.findall(part.replace(" ", SPACE)))
    chars = collections.Counter()
    for word, n in words.items():
        for c in word:
            if c not in "\n":
                chars[c] += n
    for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789éèêëàâäîïôöûùüçœæÉÈÀÇŒ.,;:!?'\"()-«»/+*=_%€@#&":
        chars[c] += 1
    alphabet = sorted(chars, key=lambda c: (-chars[c], c))
    words = {w: n for w, n in words.items() if n > 1}
    split = {w: list(w) for w in words}
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for w, n in words.items():
        for a, b in zip(split[w], split[w][1:]):
            pairs[a, b] += n
            where[a, b].add(w)
    pieces, known = [], set(alphabet)
    while len(pieces) < size - FIRST_BYTE - 256 - len(alphabet):
        (a, b) = max(pairs, key=lambda p: (pairs[p], p))
        merged = a + b
        if merged not in known:
            pieces.append(merged)
            known.add(merged)
        for w in list(where[a, b]):
            old, n = split[w], words[w]
            for x, y in zip(old, old[1:]):
                pairs[x, y] -= n
                if pairs[x, y] <= 0:
                    del pairs[x, y]
                where[x, y].discard(w)
            new, i = [], 0
            while i < len(old):
                if i + 1 < len(old) and old[i] == a and old[i + 1] == b:
                    new.append(merged)
                    i += 2
                else:
                    new.append(old[i])
                    i += 1
            split[w] = new
            for x, y in zip(new, new[1:]):
                pairs[x, y] += n
                where[x, y].add(w)
    return pieces + alphabet


class Tokenizer:
    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            pieces = json.load(f)
        self.tokens = SPECIAL + ["<0x%02X>" % b for b in range(256)] + pieces
        self.scores = [0.0] * (FIRST_BYTE + 256) + [-float(i) for i in range(len(pieces))]
        self.types = [2, 3, 3, 3] + [6] * 256 + [1] * len(pieces)
        self.ids = {t: i for i, t in enumerate(self.tokens)}
        self.words = {}

    def _word(self, word):
        """Greedy merging: the best score first, the leftmost of equals."""
        ids = self.words.get(word)
        if ids is not None:
            return ids
        parts = list(word)
        while True:
            best = None
            for i in range(len(parts) - 1):
                t = self.ids.get(parts[i] + parts[i + 1])
                if t is not None and self.types[t] == 1 and (best is None or self.scores[t] > best[0]):
                    best = (self.scores[t], i)
            if best is None:
                break
            i = best[1]
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        ids = []
        for p in parts:
            t = self.ids.get(p)
            if t is not None and self.types[t] == 1:
                ids.append(t)
            else:
                ids += [FIRST_BYTE + b for b in p.encode()]
        self.words[word] = ids
        return ids

    def encode(self, text, bos=False):
        out = [BOS] if bos else []
        for part in CONTROL.split(text):
            if CONTROL.fullmatch(part):
                out.append(self.ids[part])
                continue
            part = part.replace(" ", SPACE)
            end = 0
            for m in WORD.finditer(part):
                assert m.start() == end, part[end:m.end()]
                end = m.end()
                out += self._word(m.group())
            assert end == len(part), part[end:]
        return out

    def decode(self, ids, control=False):
        out = b""
        for t in ids:
            if self.types[t] == 6:
                out += bytes([t - FIRST_BYTE])
            elif self.types[t] == 1:
                out += self.tokens[t].replace(SPACE, " ").encode()
            elif control:
                out += self.tokens[t].encode()
        return out.decode("utf-8", "replace")


if __name__ == "__main__":
    if sys.argv[1] == "train":
        writer = grammar.Writer(1)
        pieces = train([writer.document() for _ in range(20000)])
        with open(sys.argv[2], "w", encoding="utf-8") as f:
            json.dump(pieces, f, ensure_ascii=False, indent=0)
            f.write("\n")
    else:
        print(Tokenizer(sys.argv[2]).encode(sys.stdin.read()))
