"""What the grammar can say: its words, its runs of three words, and its questions. Built from the text that training saw.

Names are drawn without end, so all of them count as one word, NAME: in the grammar's text what it drew, in a text to
judge a capitalised word that is none of the grammar's others. Whether a name is the right one is coherence.py's affair."""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import grammar

NAME = "Somebody"
WORDS = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*|[^\w\s]")
SENTENCE = re.compile(r"[A-ZÀÂÉÈÊŒ«\"](.|\n)*[.!?»\"]$")
MARKS = {"en": "the a is and of to it i you that for what your in are".split(),
         "fr": "le la les un une est et de du des je vous que pour qui dans à il d'une l'anneau".split()}


def words(text):
    return [w.lower() for w in WORDS.findall(text)]


def triples(text):
    w = ["^"] + words(text) + ["$"]
    return set(zip(w, w[1:], w[2:]))


def turns(document):
    """-> [(role, text)] of a document; a story without turns is the assistant's."""
    if grammar.START not in document:
        return [("assistant", document.replace(grammar.END, ""))]
    out = []
    for turn in document.split(grammar.START)[1:]:
        role, text = turn.split("\n", 1)
        out.append((role, text.split(grammar.END)[0]))
    return out


class Lexicon:
    def __init__(self, documents=60000, seed=1):
        self.words, self.triples, self.asked = set(), set(), set()
        writer = grammar.Writer(seed)
        for _ in range(documents):
            document = writer.document()
            drawn = re.compile(r"\b(%s)\b" % "|".join(map(re.escape, writer.names))) if writer.names else None
            for role, text in turns(document):
                if role == "assistant":
                    text = drawn.sub(NAME, text) if drawn else text
                    self.words.update(words(text))
                    self.triples |= triples(text)
                elif role == "user":
                    self.asked.add(" ".join(words(text)))

    def plain(self, text):
        return WORDS.sub(lambda m: m[0] if not m[0][0].isupper() or m[0].lower() in self.words else re.sub(r"^\w+", NAME, m[0]), text)

    def language(self, text):
        w = words(text.replace("'", " ").replace("’", " "))
        count = {l: sum(x in MARKS[l] for x in w) for l in MARKS}
        return max(count, key=count.get)

    def strange_words(self, text):
        return [w for w in words(self.plain(text)) if w not in self.words]

    def strange_triples(self, text):
        return [t for t in triples(self.plain(text)) if t not in self.triples]
