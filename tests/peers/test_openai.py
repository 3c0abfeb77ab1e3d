#!/usr/bin/env python3
"""The HTTP API as others see it: asked by OpenAI's own client, compared with llama.cpp's server on the same file, and with llama.cpp's
lists of texts and their tokens.

Skipped: the client without python3-openai, the comparison without llama-server, the lists without $ESSAIM_SHARED/models.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
import urllib.request

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Node, wait_for  # noqa: E402

try:
    import openai
except ImportError:
    openai = None

MODEL = os.path.join(TOP, "contrib", "demo-model", "essaim-demo.gguf")
LISTS = os.path.join(os.environ.get("ESSAIM_SHARED", os.path.join(TOP, "..", "shared")), "models")
SETTINGS = {"share.counts": "weights", "share.context": 256, "share.sessions": 2}
QUESTION = [{"role": "user", "content": "What is a ring?"}]
PROMPT = "A ring is"


def setUpModule():
    global folder, node
    folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
    node = Node("Ruche", folder.name, "1G", SETTINGS)
    node.start()
    node.wait_until_up()
    node.essaim("model", "add", MODEL, "--name", "demo")
    wait_for("the model", lambda: node.model("demo")["state"] == "ready")


def tearDownModule():
    node.stop()
    node.reap()
    folder.cleanup()


def post(url, body, key=None):
    head = {"Content-Type": "application/json", **({"Authorization": "Bearer " + key} if key else {})}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), head), timeout=120) as response:
        return json.load(response)


def ours(path, **body):
    return post("http://127.0.0.1:%d%s" % (node.essaim("status")["ports"]["http"], path), body, node.api_key())


@unittest.skipUnless(openai, "python3-openai is not installed")
class Client(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.client = openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % node.essaim("status")["ports"]["http"], api_key=node.api_key(), max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()

    def chat(self, **more):
        return self.client.chat.completions.create(model="demo", messages=QUESTION, **{"max_tokens": 24, "temperature": 0, **more})

    def test_chat_whole_and_streamed_is_the_same(self):
        whole = self.chat()
        self.assertIn(whole.choices[0].finish_reason, ("stop", "length"))
        self.assertEqual(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens)
        text, usage = "", None
        for chunk in self.chat(stream=True, stream_options={"include_usage": True}):
            usage = chunk.usage or usage
            text += "".join(c.delta.content or "" for c in chunk.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(usage.completion_tokens, whole.usage.completion_tokens)

    def test_same_seed_same_answer_beside_others(self):
        hot = {"temperature": 2, "seed": 7, "presence_penalty": 0.5, "frequency_penalty": 0.5, "extra_body": {"repeat_penalty": 1.3, "min_p": 0.001, "top_k": 300}}
        alone = self.chat(**hot).choices[0].message.content
        several = self.chat(n=3, **hot)
        self.assertEqual([c.index for c in several.choices], [0, 1, 2])
        self.assertEqual(several.choices[0].message.content, alone)
        self.assertEqual(several.choices[1].message.content, self.chat(**{**hot, "seed": 8}).choices[0].message.content)
        self.assertGreater(len({c.message.content for c in several.choices}), 1)
        texts = ["", "", ""]
        for chunk in self.chat(n=3, stream=True, **hot):
            for c in chunk.choices:
                texts[c.index] += c.delta.content or ""
        self.assertEqual(texts, [c.message.content for c in several.choices])

    def test_logprobs_belong_to_the_text(self):
        answer = self.chat(logprobs=True, top_logprobs=3).choices[0]
        content = answer.logprobs.content
        self.assertEqual(b"".join(bytes(t.bytes) for t in content).decode(), answer.message.content)
        for t in content:
            self.assertLessEqual(t.logprob, 0)
            self.assertEqual(t.top_logprobs[0].bytes, t.bytes)      # temperature 0
            self.assertEqual(len(t.top_logprobs), 3)
        streamed = [t for chunk in self.chat(logprobs=True, stream=True) for c in chunk.choices if c.logprobs for t in c.logprobs.content]
        self.assertEqual([t.logprob for t in streamed], [t.logprob for t in content])
        legacy = self.client.completions.create(model="demo", prompt=PROMPT, max_tokens=8, temperature=0, logprobs=2).choices[0]
        self.assertEqual("".join(legacy.logprobs.tokens), legacy.text)
        self.assertEqual(legacy.text[legacy.logprobs.text_offset[3]:], "".join(legacy.logprobs.tokens[3:]))

    def test_json_comes_out_as_asked(self):
        for seed in range(4):
            said = self.chat(temperature=1.2, seed=seed, max_tokens=200, response_format={"type": "json_object"}).choices[0]
            if said.finish_reason == "stop":
                self.assertIsInstance(json.loads(said.message.content), dict)
        schema = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9},
                                                   "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
                                                   "note": {"type": ["string", "null"], "maxLength": 5}},
                  "required": ["colour", "count", "tags"], "additionalProperties": False}
        for seed in range(6):
            said = self.chat(temperature=1.2, seed=seed, max_tokens=180,
                             response_format={"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": schema}}).choices[0]
            self.assertEqual(said.finish_reason, "stop", said.message.content)
            thing = json.loads(said.message.content)
            self.assertIn(thing["colour"], ("red", "green"))
            self.assertIn(thing["count"], range(1, 10))
            self.assertLessEqual(len(thing["tags"]), 2)
            self.assertLessEqual(set(thing), set(schema["properties"]))

    def test_grammar_bias_and_stop(self):
        said = self.chat(extra_body={"grammar": 'root ::= ("ja" | "nein") "!"'}).choices[0].message.content
        self.assertIn(said, ("ja!", "nein!"))
        first = self.chat(max_tokens=1, logprobs=True).choices[0]
        ids = ours("/tokenize", model="demo", content=first.message.content)["tokens"]
        banned = self.chat(max_tokens=1, logit_bias={str(i): -100 for i in ids}).choices[0].message.content
        self.assertNotEqual(banned, first.message.content)
        text = self.chat().choices[0].message.content
        self.assertEqual(self.chat(stop=[text[5:9]]).choices[0].message.content, text[:text.index(text[5:9])])

    def test_embeddings_are_of_length_one_and_alike_for_like_texts(self):
        def of(text, **more):
            return self.client.embeddings.create(model="demo", input=text, **more)
        both = of(["A ring is a list of stages.", "Les abeilles"], encoding_format="float")
        one = of("A ring is a list of stages.")                     # this client asks for base64
        self.assertAlmostEqual(sum(x * x for x in both.data[1].embedding), 1, places=4)
        self.assertEqual([d.index for d in both.data], [0, 1])
        for a, b in zip(one.data[0].embedding, both.data[0].embedding):
            self.assertAlmostEqual(a, b, places=6)
        self.assertGreater(both.usage.prompt_tokens, one.usage.prompt_tokens)
        raw = ours("/v1/embeddings", model="demo", input="Les abeilles", encoding_format="base64")["data"][0]["embedding"]
        floats = struct.unpack("<%df" % len(both.data[1].embedding), base64.b64decode(raw))
        self.assertAlmostEqual(floats[3], both.data[1].embedding[3], places=6)

    def test_errors_are_the_clients_errors(self):
        for kind, more in ((openai.BadRequestError, {"temperature": 3}), (openai.BadRequestError, {"extra_body": {"nonsense": 1}}),
                           (openai.BadRequestError, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
                           (openai.BadRequestError, {"logit_bias": {"99999999": 1}}), (openai.NotFoundError, {"extra_body": {"model": "nonesuch"}})):
            with self.subTest(more=more), self.assertRaises(kind) as caught:
                self.chat(**more)
            self.assertTrue(caught.exception.message)
        self.assertEqual(self.client.models.list().data[0].id, "demo")


@unittest.skipUnless(shutil.which("llama-server"), "llama-server is not installed")
class Beside(unittest.TestCase):
    """llama.cpp's server, with the same chunks and the same type of keys (engine/shard_load.c says which): what both can be asked must come out
    alike."""

    @classmethod
    def setUpClass(cls):
        with socket.create_server(("127.0.0.1", 0)) as s:
            port = s.getsockname()[1]
        cls.url = "http://127.0.0.1:%d" % port
        cls.server = subprocess.Popen(["llama-server", "-m", MODEL, "--port", str(port), "--host", "127.0.0.1", "-c", "512", "-np", "1", "-b", "32", "-ub", "32", "-fa", "on", "-ctk", "q8_0",
                                       "-t", "2", "--no-warmup"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        def up():
            try:
                return urllib.request.urlopen(cls.url + "/health", timeout=5).status == 200
            except OSError:
                return False
        wait_for("llama-server", up)

    @classmethod
    def tearDownClass(cls):
        cls.server.terminate()
        cls.server.wait()

    def theirs(self, path, **body):
        return post(self.url + path, body)

    def both(self, **body):
        body = {"prompt": PROMPT, "max_tokens": 32, "temperature": 0, "logprobs": 5, **body}
        return ours("/v1/completions", model="demo", **body)["choices"][0], self.theirs("/v1/completions", **body)["choices"][0]

    def test_greedy_text_and_probabilities_agree(self):
        for prompt in (PROMPT, "Once upon a time", "Un anneau est", "x " * 60):
            us, them = self.both(prompt=prompt)
            self.assertEqual(us["text"], them["text"])
            content = them["logprobs"]["content"]
            worst = max(abs(a - b["logprob"]) for a, b in zip(us["logprobs"]["token_logprobs"], content))
            self.assertLess(worst, 1e-3, prompt)
            for top, b in zip(us["logprobs"]["top_logprobs"], content):
                for t in b["top_logprobs"]:
                    if t["token"] in top:
                        self.assertLess(abs(top[t["token"]] - t["logprob"]), 1e-3)

    def test_penalties_and_biases_agree(self):
        for more in ({"repeat_penalty": 1.5}, {"presence_penalty": 1.2}, {"frequency_penalty": 0.9},
                     {"repeat_penalty": 1.2, "presence_penalty": -0.5, "frequency_penalty": 0.4}):
            with self.subTest(more=more):
                us, them = self.both(prompt="the the the ring of the ring", **more)
                self.assertEqual(us["text"], them["text"])
        ids = self.theirs("/tokenize", content=" stages")["tokens"]
        us, them = self.both(logit_bias={str(i): 7 for i in ids}, max_tokens=6)
        self.assertEqual(us["text"], them["text"])

    def test_grammars_agree(self):
        for grammar in ('root ::= "the " [a-z]{3,8} " of " ("rings" | "stages")', 'root ::= ([a-f] [0-9]){4}'):
            us, them = self.both(grammar=grammar)
            self.assertEqual(us["text"], them["text"])

    def test_tokens_and_texts_agree(self):
        for text in ("Hello, ring!", " deux  espaces", "\u00e9t\u00e9 \U0001F41D", "", "a\nb\tc"):
            for special in (False, True):
                self.assertEqual(ours("/tokenize", content=text, add_special=special)["tokens"], self.theirs("/tokenize", content=text, add_special=special)["tokens"])
            tokens = ours("/v1/tokenize", model="demo", content=text)["tokens"]
            self.assertEqual(ours("/detokenize", tokens=tokens)["content"], self.theirs("/detokenize", tokens=tokens)["content"])
        us, them = ours("/tokenize", content="\u00e9t\u00e9 \U0001F41D", with_pieces=True), self.theirs("/tokenize", content="\u00e9t\u00e9 \U0001F41D", with_pieces=True)
        self.assertEqual(us["tokens"], them["tokens"])


def write_model(vocabulary, path):
    """The tokenizer of one GGUF file, and weights that mean nothing: what a node needs to load it."""
    with open(vocabulary, "rb") as f:
        data = f.read()
    n_pairs = struct.unpack_from("<Q", data, 16)[0]
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    at, kept, n_vocab = 24, [], 0

    def skip(kind, at):
        if kind == 8:
            return at + 8 + struct.unpack_from("<Q", data, at)[0]
        if kind != 9:
            return at + sizes[kind]
        inner, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if inner in sizes:
            return at + sizes[inner] * count
        for _ in range(count):
            at = skip(inner, at)
        return at
    for _ in range(n_pairs):
        begin, n = at, struct.unpack_from("<Q", data, at)[0]
        key = data[at + 8:at + 8 + n]
        kind = struct.unpack_from("<I", data, at + 8 + n)[0]
        value = at + 12 + n
        at = skip(kind, value)
        if key.startswith(b"tokenizer."):
            kept.append(data[begin:at])
        if key == b"tokenizer.ggml.tokens":
            n_vocab = struct.unpack_from("<Q", data, value + 4)[0]

    def pair(key, kind, packed):
        return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + packed
    kept.append(pair("general.architecture", 8, struct.pack("<Q", 5) + b"llama"))
    for key, number in (("context_length", 128), ("embedding_length", 32), ("block_count", 1), ("feed_forward_length", 32), ("attention.head_count", 2),
                        ("attention.head_count_kv", 2), ("rope.dimension_count", 16)):
        kept.append(pair("llama." + key, 4, struct.pack("<I", number)))
    kept.append(pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)))
    tensors = [("token_embd.weight", (32, n_vocab)), ("output_norm.weight", (32,))]
    tensors += [("blk.0.%s.weight" % n, (32, 32)) for n in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")]
    tensors += [("blk.0.%s.weight" % n, (32,)) for n in ("attn_norm", "ffn_norm")]
    head, offset = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(kept)) + b"".join(kept), 0
    for name, shape in tensors:
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape)) + struct.pack("<%dQ" % len(shape), *shape)
        head += struct.pack("<IQ", 1 if len(shape) > 1 else 0, offset)
        offset += (2 * shape[0] * shape[1] if len(shape) > 1 else 4 * shape[0]) + 31 & ~31
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32))
        for _, shape in tensors:
            packed = struct.pack("<e", 0.01) * shape[0] * shape[1] if len(shape) > 1 else struct.pack("<f", 1) * shape[0]
            f.write(packed + b"\0" * (-len(packed) % 32))


@unittest.skipUnless(os.path.isdir(LISTS), "$ESSAIM_SHARED/models is not there")
class Tokenizers(unittest.TestCase):
    def test_every_text_becomes_the_tokens_of_the_list(self):
        for name in ("gpt-2", "phi-3", "qwen3"):
            source = os.path.join(LISTS, "ggml-vocab-%s.gguf" % name)
            path = os.path.join(folder.name, name + ".gguf")
            write_model(source, path)
            node.essaim("model", "add", path, "--name", name, "--private")
            wait_for(name, lambda: node.model(name)["state"] == "ready")
            with open(source + ".inp", encoding="utf-8", newline="") as f:
                texts = f.read().split("\n__ggml_vocab_test__\n")[:-1]
            with open(source + ".out", encoding="utf-8") as f:
                expected = [[int(i) for i in line.split()] for line in f]
            self.assertGreater(len(texts), 30)
            self.assertEqual(len(texts), len(expected))
            for text, ids in zip(texts, expected):
                said = ours("/tokenize", model=name, content=text, add_special=False, parse_special=False)["tokens"]
                self.assertEqual(said, ids, "%s: %r" % (name, text))


if __name__ == "__main__":
    unittest.main()
