"""Writes a checkpoint as a GGUF file in Q8_0.

    python3 export.py target|draft BUILD/NAME.ckpt OUT.gguf

GGUF 3: magic, version, counts, typed key-value pairs, tensor table, then the data, each tensor on a 32-byte border
(ggml's doc/gguf.md). Q8_0: blocks of 32 values, a float16 scale and 32 signed bytes; the rows of norms stay float32.
"""
import os
import struct
import sys

import numpy
import torch

import model
from tokenizer import BOS, EOS, UNK, Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
ALIGN = 32
F32, Q8_0 = 0, 8
U32, I32, FLOAT, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
SCALAR = {U32: "<I", I32: "<i", FLOAT: "<f", BOOL: "<?"}

TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' "
            "+ '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, v):
    return text(v) if kind == STRING else struct.pack(SCALAR[kind], v)


def pair(key, kind, v):
    """One metadata entry; a list becomes an array of KIND."""
    if isinstance(v, list):
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(value(kind, x) for x in v)
    return text(key) + struct.pack("<I", kind) + value(kind, v)


def q8_0(matrix):
    """float32 (rows, a multiple of 32) -> bytes, as ggml's reference quantiser rounds."""
    x = numpy.ascontiguousarray(matrix, numpy.float32).reshape(-1, 32)
    scale = numpy.abs(x).max(1, keepdims=True) / numpy.float32(127)
    inverse = numpy.divide(numpy.float32(1), scale, out=numpy.zeros_like(scale), where=scale > 0)
    y = x * inverse
    blocks = numpy.zeros(len(x), dtype=[("scale", "<f2"), ("values", "i1", 32)])
    blocks["scale"] = scale[:, 0].astype(numpy.float16)
    blocks["values"] = numpy.trunc(y + numpy.copysign(numpy.float32(0.5), y)).astype(numpy.int8)
    return blocks.tobytes()


def tensors(state, config):
    width = config["heads"] * model.HEAD
    yield "token_embd.weight", state["embed.weight"]
    for i in range(config["layers"]):
        old, new = "blocks.%d." % i, "blk.%d." % i
        yield new + "attn_norm.weight", state[old + "attn_norm.weight"]
        q, k, v = state[old + "qkv.weight"].split(width)
        yield new + "attn_q.weight", q
        yield new + "attn_k.weight", k
        yield new + "attn_v.weight", v
        yield new + "attn_output.weight", state[old + "out.weight"]
        gate, up = state[old + "gate_up.weight"].chunk(2)
        yield new + "ffn_norm.weight", state[old + "ffn_norm.weight"]
        yield new + "ffn_gate.weight", gate
        yield new + "ffn_up.weight", up
        yield new + "ffn_down.weight", state[old + "down.weight"]
    yield "output_norm.weight", state["norm.weight"]


def metadata(name, config, tok):
    title = "essaim-demo" if name == "target" else "essaim-demo-draft"
    yield pair("general.architecture", STRING, "llama")
    yield pair("general.type", STRING, "model")
    yield pair("general.name", STRING, title)
    yield pair("general.description", STRING, "Essaim's demonstration model: %s, French and English, trained from nothing on "
               "text written by the project's own grammar" % ("the target" if name == "target" else "the draft of essaim-demo"))
    yield pair("general.author", STRING, "The Essaim project")
    yield pair("general.license", STRING, "CC0-1.0")
    yield pair("general.languages", STRING, ["fr", "en"])
    yield pair("general.file_type", U32, 7)
    yield pair("general.quantization_version", U32, 2)
    yield pair("llama.vocab_size", U32, len(tok.tokens))
    yield pair("llama.context_length", U32, model.CONTEXT)
    yield pair("llama.embedding_length", U32, config["width"])
    yield pair("llama.block_count", U32, config["layers"])
    yield pair("llama.feed_forward_length", U32, config["ffn"])
    yield pair("llama.attention.head_count", U32, config["heads"])
    yield pair("llama.attention.head_count_kv", U32, config["heads"])
    yield pair("llama.attention.layer_norm_rms_epsilon", FLOAT, model.EPS)
    yield pair("llama.rope.dimension_count", U32, model.HEAD)
    yield pair("llama.rope.freq_base", FLOAT, model.ROPE_BASE)
    yield pair("tokenizer.ggml.model", STRING, "llama")
    yield pair("tokenizer.ggml.tokens", STRING, tok.tokens)
    yield pair("tokenizer.ggml.scores", FLOAT, tok.scores)
    yield pair("tokenizer.ggml.token_type", I32, tok.types)
    yield pair("tokenizer.ggml.unknown_token_id", U32, UNK)
    yield pair("tokenizer.ggml.bos_token_id", U32, BOS)
    yield pair("tokenizer.ggml.eos_token_id", U32, EOS)
    yield pair("tokenizer.ggml.eot_token_id", U32, EOS)
    yield pair("tokenizer.ggml.add_bos_token", BOOL, True)
    yield pair("tokenizer.ggml.add_eos_token", BOOL, False)
    yield pair("tokenizer.ggml.add_space_prefix", BOOL, False)
    yield pair("tokenizer.chat_template", STRING, TEMPLATE)


def write(path, name, state):
    config, tok = model.CONFIGS[name], Tokenizer(os.path.join(HERE, "tokenizer.json"))
    pairs = list(metadata(name, config, tok))
    table, blobs, offset = [], [], 0
    for key, tensor in tensors(state, config):
        array = tensor.float().numpy()
        blob = q8_0(array) if array.ndim == 2 else array.astype("<f4").tobytes()
        shape = array.shape[::-1]                            # ggml counts the row's length first
        table.append(text(key) + struct.pack("<I%dQIQ" % len(shape), len(shape), *shape, Q8_0 if array.ndim == 2 else F32, offset))
        blob += bytes(-len(blob) % ALIGN)
        blobs.append(blob)
        offset += len(blob)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(table), len(pairs)) + b"".join(pairs) + b"".join(table)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGN))
        f.writelines(blobs)


if __name__ == "__main__":
    checkpoint = torch.load(sys.argv[2])
    write(sys.argv[3], sys.argv[1], checkpoint["ema"])
    print("%s: step %d, %d bytes" % (sys.argv[3], checkpoint["step"], os.path.getsize(sys.argv[3])))
