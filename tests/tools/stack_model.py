#!/usr/bin/env python3
"""stack_model.py: a GGUF model with its layers repeated until there are as many as asked for.

    stack_model.py MODEL.gguf OUT.gguf LAYERS

llama.cpp's own suite (test-llama-archs -o DIR) writes models of two layers. That is too few to see what depends on a layer's
number: sliding windows, states beside attention, positions that every fourth layer leaves out, layers with experts. All layers
follow in turn, tensors and per-layer arrays, but the feed-forward networks of leading dense layers (leading_dense_block_count)
stay at the front: a layer is one's attention with another's network. So does what is looked up by an index, where dense layers have none.
Used by test_architectures.py; also a module.

SPDX-License-Identifier: AGPL-3.0-or-later
"""
import struct
import sys

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ALIGNMENT = 32
FEED_FORWARD = ("ffn_", "exp_probs", "feed_forward", "expert")       # parts of names, of tensors and keys
# The file's types of tensors that the suite writes: bytes of an element.
ELEMENT = {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        value = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value if len(value) > 1 else value[0]

    def text(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at].decode("utf-8", "surrogateescape")

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            item, n = self.take("IQ")
            return item, [self.value(item) for _ in range(n)]
        return self.take(NUMBERS[kind])


class Model:
    """keys: name -> (type, value); tensors: [name, shape, type, bytes]; directory: (name, shape, type) of each."""

    def __init__(self, path, data=True):
        with open(path, "rb") as file:
            reader = Reader(file.read())
        magic, version, n_tensors, n_keys = reader.take("4sIQQ")
        if magic != b"GGUF" or version != 3:
            raise ValueError(path + " is not a GGUF file of version 3")
        self.keys, self.tensors = {}, []
        for _ in range(n_keys):
            name = reader.text()
            kind = reader.take("I")
            self.keys[name] = (kind, reader.value(kind))
        places = []
        for _ in range(n_tensors):
            name = reader.text()
            shape = [reader.take("Q") for _ in range(reader.take("I"))]
            places.append((name, shape, reader.take("I"), reader.take("Q")))
        base = -(-reader.at // ALIGNMENT) * ALIGNMENT
        self.directory = [place[:3] for place in places]
        for name, shape, kind, offset in places if data else []:
            size = ELEMENT[kind]
            for n in shape:
                size *= n
            self.tensors.append([name, shape, kind, reader.data[base + offset:base + offset + size]])
        self.architecture = self.keys["general.architecture"][1]

    def own(self, name, otherwise=None):
        key = self.keys.get(self.architecture + "." + name)
        return key[1] if key else otherwise

    def set_own(self, name, kind, value):
        self.keys[self.architecture + "." + name] = (kind, value)

    def stack(self, n_layer):
        have = self.own("block_count")
        dense = self.own("leading_dense_block_count", 0)
        if not 0 <= dense < have:
            dense = 0
        parts = FEED_FORWARD if any(t[0].startswith("blk.0.indexer") for t in self.tensors) else FEED_FORWARD + ("indexer.",)
        feeds = [i if i < dense else dense + (i - dense) % (have - dense) for i in range(n_layer)]

        def source(name, i):
            return feeds[i] if any(part in name for part in parts) else i % have

        for name, (kind, value) in self.keys.items():
            if kind == ARRAY and name.startswith(self.architecture + ".") and len(value[1]) == have:
                self.keys[name] = (kind, (value[0], [value[1][source(name, i)] for i in range(n_layer)]))
        self.set_own("block_count", 4, n_layer)
        layers, rest = {}, []
        for tensor in self.tensors:
            part = tensor[0].split(".", 2)
            if part[0] == "blk":
                layers.setdefault(int(part[1]), []).append((part[2], tensor))
            else:
                rest.append(tensor)
        for i in range(n_layer):
            for k in range(have):
                rest += [["blk.%d.%s" % (i, name)] + tensor[1:] for name, tensor in layers.get(k, []) if source(name, i) == k]
        self.tensors = rest

    def write_parts(self, stem, n):
        """STEM-00001-of-0000N.gguf and so on, as gguf-split writes them: all keys in the first, tensors in turn."""
        keys, tensors = self.keys, self.tensors
        for i in range(n):
            split = {"split.no": (2, i), "split.count": (2, n), "split.tensors.count": (5, len(tensors))}
            self.keys = {**keys, **split} if i == 0 else split
            self.tensors = tensors[len(tensors) * i // n:len(tensors) * (i + 1) // n]
            self.write("%s-%05d-of-%05d.gguf" % (stem, i + 1, n))
        self.keys, self.tensors = keys, tensors

    def write(self, path):
        out = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(self.tensors), len(self.keys)))

        def text(value):
            raw = value.encode("utf-8", "surrogateescape")
            return struct.pack("<Q", len(raw)) + raw

        def put(kind, value):
            if kind == STRING:
                return text(value)
            if kind == ARRAY:
                return struct.pack("<IQ", value[0], len(value[1])) + b"".join(put(value[0], v) for v in value[1])
            return struct.pack("<" + NUMBERS[kind], value)

        for name, (kind, value) in self.keys.items():
            out += text(name) + struct.pack("<I", kind) + put(kind, value)
        at = 0
        for name, shape, kind, data in self.tensors:
            out += text(name) + struct.pack("<I%dQIQ" % len(shape), len(shape), *shape, kind, at)
            at += -(-len(data) // ALIGNMENT) * ALIGNMENT
        with open(path, "wb") as file:
            file.write(out + bytes(-len(out) % ALIGNMENT))
            for tensor in self.tensors:
                file.write(tensor[3] + bytes(-len(tensor[3]) % ALIGNMENT))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    model = Model(sys.argv[1])
    model.stack(int(sys.argv[3]))
    model.write(sys.argv[2])
