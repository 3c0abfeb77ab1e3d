#!/usr/bin/env python3
"""Writes a GGUF model with random weights, for tests of memory, speed and splitting: the text it makes is noise.

    make_model.py OUT.gguf [--layers 24] [--embd 1536] [--ffn 4096] [--heads 12] [--kv-heads 4] [--vocab 4096] [--type q8_0] [--seed 1]
    make_model.py OUT.gguf --preset 1.1b          (the shape of TinyLlama-1.1B, Q4_0)
    make_model.py OUT.gguf --nan-layer 3          (poisoned: this layer's weights are no numbers)
    make_model.py OUT.gguf --nan-token 70         (poisoned: only this token's embedding is)

Architecture llama. The vocabulary is 3 control tokens, 256 byte tokens and fillers, so that any text can be asked. The same arguments give
the same bytes. The layout is that of the GGUF specification, version 3 (docs/gguf.md of the ggml project); block formats are ggml's
block_q8_0 (float16 scale, 32 int8) and block_q4_0 (float16 scale, 32 nibbles less 8). numpy is all it needs.
"""
import argparse
import struct

import numpy as np

F32, Q4_0, Q8_0 = 0, 2, 8
FILE_TYPE = {"f32": 0, "q4_0": 2, "q8_0": 7}
ALIGN = 32
ROWS_AT_ONCE = 1024


def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


class Header:
    def __init__(self):
        self.n, self.bytes = 0, b""

    def add(self, key, kind, payload):
        self.n += 1
        self.bytes += text(key) + struct.pack("<I", kind) + payload

    def u32(self, key, v):
        self.add(key, 4, struct.pack("<I", v))

    def f32(self, key, v):
        self.add(key, 6, struct.pack("<f", v))

    def str(self, key, v):
        self.add(key, 8, text(v))

    def array(self, key, kind, items):
        if kind == 8:
            body = b"".join(text(i) for i in items)
        else:
            body = np.asarray(items, {5: "<i4", 6: "<f4"}[kind]).tobytes()
        self.add(key, 9, struct.pack("<IQ", kind, len(items)) + body)


def row_bytes(kind, n):
    return {F32: 4 * n, Q8_0: n // 32 * 34, Q4_0: n // 32 * 18}[kind]


def random_rows(rng, kind, rows, n):
    """Rows of n weights with a standard deviation of about 1/sqrt(n)."""
    sigma = n ** -0.5
    if kind == F32:
        return rng.normal(0, sigma, (rows, n)).astype("<f4").tobytes()
    blocks = rows * n // 32
    scale = np.full((blocks, 1), sigma / (74 if kind == Q8_0 else 4.6), "<f2").view(np.uint8).reshape(blocks, 2)
    return np.concatenate([scale, rng.integers(0, 256, (blocks, 32 if kind == Q8_0 else 16), np.uint8)], 1).tobytes()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--preset", choices=["1.1b"])
    for name, value in (("layers", 24), ("embd", 1536), ("ffn", 4096), ("heads", 12), ("kv-heads", 4), ("vocab", 4096), ("context", 2048), ("seed", 1)):
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--type", choices=list(FILE_TYPE), default="q8_0")
    p.add_argument("--name", default="random")
    p.add_argument("--nan-layer", type=int)
    p.add_argument("--nan-token", type=int)
    a = p.parse_args()
    if a.preset:
        a.layers, a.embd, a.ffn, a.heads, a.kv_heads, a.vocab, a.type = 22, 2048, 5632, 32, 4, 32000, "q4_0"
    kind = {"f32": F32, "q8_0": Q8_0, "q4_0": Q4_0}[a.type]
    kv = a.embd // a.heads * a.kv_heads

    h = Header()
    h.str("general.architecture", "llama")
    h.str("general.name", a.name)
    h.str("general.license", "CC0-1.0")
    h.u32("general.file_type", FILE_TYPE[a.type])
    for key, value in (("context_length", a.context), ("embedding_length", a.embd), ("block_count", a.layers), ("feed_forward_length", a.ffn),
                       ("attention.head_count", a.heads), ("attention.head_count_kv", a.kv_heads), ("rope.dimension_count", a.embd // a.heads),
                       ("vocab_size", a.vocab)):
        h.u32("llama." + key, value)
    h.f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    h.f32("llama.rope.freq_base", 10000.0)
    tokens = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)]
    tokens += ["filler%d" % i for i in range(a.vocab - len(tokens))]
    h.str("tokenizer.ggml.model", "llama")
    h.array("tokenizer.ggml.tokens", 8, tokens)
    h.array("tokenizer.ggml.scores", 6, [0.0] * 259 + [-1000.0 - i for i in range(a.vocab - 259)])
    h.array("tokenizer.ggml.token_type", 5, [2, 3, 3] + [6] * 256 + [1] * (a.vocab - 259))
    h.u32("tokenizer.ggml.bos_token_id", 1)
    h.u32("tokenizer.ggml.eos_token_id", 2)
    h.u32("tokenizer.ggml.unknown_token_id", 0)

    tensors = [("token_embd.weight", a.embd, a.vocab, kind)]
    for i in range(a.layers):
        b = "blk.%d." % i
        tensors += [(b + "attn_norm.weight", a.embd, 0, F32), (b + "attn_q.weight", a.embd, a.embd, kind), (b + "attn_k.weight", a.embd, kv, kind),
                    (b + "attn_v.weight", a.embd, kv, kind), (b + "attn_output.weight", a.embd, a.embd, kind),
                    (b + "ffn_norm.weight", a.embd, 0, F32), (b + "ffn_gate.weight", a.embd, a.ffn, kind), (b + "ffn_up.weight", a.embd, a.ffn, kind),
                    (b + "ffn_down.weight", a.ffn, a.embd, kind)]
    tensors += [("output_norm.weight", a.embd, 0, F32), ("output.weight", a.embd, a.vocab, kind)]

    infos, at = b"", 0
    for name, n, rows, t in tensors:
        infos += text(name) + (struct.pack("<IQ", 1, n) if not rows else struct.pack("<IQQ", 2, n, rows)) + struct.pack("<IQ", t, at)
        at = -(-(at + row_bytes(t, n) * max(rows, 1)) // ALIGN) * ALIGN
    rng = np.random.default_rng(a.seed)
    with open(a.out, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), h.n) + h.bytes + infos)
        f.write(b"\0" * (-f.tell() % ALIGN))
        for name, n, rows, t in tensors:
            if not rows:
                f.write(np.full(n, np.nan if name == "blk.%s.ffn_norm.weight" % a.nan_layer else 1, "<f4").tobytes())
            start = f.tell()
            for first in range(0, rows, ROWS_AT_ONCE):
                f.write(random_rows(rng, t, min(ROWS_AT_ONCE, rows - first), n))
            if name == "token_embd.weight" and a.nan_token is not None:
                end, size = f.tell(), row_bytes(t, n)
                f.seek(start + a.nan_token * size)
                f.write(b"\xff" * size)       # no number, as float32 and as a block's float16 scale
                f.seek(end)
            f.write(b"\0" * (-f.tell() % ALIGN))


main()
