#!/usr/bin/env python3
"""Follow-ups, shared beginnings and full houses, on real nodes.

    Colibri (home) ──> Abeille ──> Colibri      a ring; Entier runs all of the same model alone, and keeps nothing
"""
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Node, settled, wait_for  # noqa: E402

SYSTEM = "You are the gardener of a small town and answer in short sentences about plants, soil, rain and the seasons of the year. "


def post(node, prompt, tokens, key=None, **more):
    """-> (status, headers, object)"""
    connection = node.http()
    try:
        body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}
        connection.request("POST", "/v1/completions", json.dumps(body),
                           {"Authorization": "Bearer " + (key or node.api_key()), "Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read())
    finally:
        connection.close()


class Kept(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        cls.nodes = []
        file = os.path.join(cls.folder.name, "tiny.gguf")
        subprocess.run([sys.executable, os.path.join(TOP, "tests/tools/make_model.py"), file, "--layers", "6", "--embd", "256", "--ffn",
                        "512", "--heads", "4", "--kv-heads", "2", "--vocab", "512", "--name", "tiny"], check=True)
        settings = {"share.counts": "weights", "share.context": 1024, "share.sessions": 3, "log.level": "debug"}
        cls.whole = Node("Entier", cls.folder.name, "1G", {**settings, "share.keep_seconds": 0})
        cls.abeille = Node("Abeille", cls.folder.name, "1G", {**settings, "share.home": "no"})
        cls.colibri = Node("Colibri", cls.folder.name, 1, settings)
        cls.nodes = [cls.whole, cls.abeille, cls.colibri]
        for node in cls.nodes:
            node.start()
        for node in cls.nodes:
            node.wait_until_up()
        cls.whole.essaim("model", "add", file)
        part = cls.abeille.essaim("model", "add", file)["model"]["parts"]
        every = part["header"] + part["shared"]
        cls.colibri.essaim("join", cls.abeille.essaim("invite", "--partner")["url"])
        cls.colibri.essaim("agreement", "accept", "Abeille")
        cls.colibri.set_memory(2 * (every + part["layer"]) + part["embedding"] + part["output"] + part["layer"] // 2)
        settled(cls.abeille, [cls.colibri], "tiny")
        cls.colibri.essaim("model", "pull", "tiny")
        wait_for("the ring", lambda: cls.colibri.essaim("ring", "tiny", ok=False).get("possible"))
        wait_for("the whole", lambda: cls.whole.model("tiny")["state"] == "ready")

    @classmethod
    def tearDownClass(cls):
        for node in cls.nodes:
            node.stop()
        for node in cls.nodes:
            node.reap()
        if os.environ.get("ESSAIM_KEEP_LOGS"):
            for node in cls.nodes:
                with open(node.log_path, errors="replace") as log:
                    sys.stderr.write("--- %s\n%s\n" % (node.name, log.read()))
        cls.folder.cleanup()

    def ask(self, prompt, tokens=24, **more):
        """The ring's answer, which is the whole model's; -> (text, cached tokens, rows that Abeille computed, prompt's tokens)."""
        status, _, answer = post(self.colibri, prompt, tokens, **more)
        self.assertEqual(status, 200, answer)
        status, _, alone = post(self.whole, prompt, tokens, **more)
        self.assertEqual(status, 200, alone)
        self.assertEqual(alone["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        text = answer["choices"][0]["text"]
        self.assertEqual(text, alone["choices"][0]["text"])
        rows = sum(s["rows"] for s in answer["essaim"]["stages"] if s["node"] == "Abeille")
        usage = answer["usage"]
        self.assertEqual(rows, usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] + tokens - 1)
        return text, usage["prompt_tokens_details"]["cached_tokens"], rows, usage["prompt_tokens"]

    def test_a_follow_up_says_the_same_and_computes_only_what_is_new(self):
        talk = "When shall I sow the beans, and how deep, if the winter was long? "
        text, cached, _, n = self.ask(talk, temperature=0.8, seed=1)
        self.assertEqual(cached, 0)
        for turn in range(3):
            talk += text + " And then? "
            held = n + 23                     # the last token of an answer is never computed
            text, cached, rows, n = self.ask(talk, temperature=0.8, seed=1)
            self.assertGreaterEqual(cached, held - held % 32 - 64)     # bytes that are no text come back as others
            self.assertGreater(cached, 0)
            self.assertLess(rows, n)

    def test_a_shared_beginning_is_computed_once(self):
        _, cached, _, n = self.ask(SYSTEM + "What about the roses?")
        self.assertEqual(cached, 0)
        common = len(SYSTEM) + 10
        for question in ("What about the roots?", "What about the rosemary, then?"):
            _, cached, _, _ = self.ask(SYSTEM + question)
            self.assertGreaterEqual(cached, common - 42)
        _, cached, _, _ = self.ask(SYSTEM + "What about the roses?")
        self.assertEqual(cached, (n - 1) - (n - 1) % 32)

    def test_a_full_house_waits_and_then_says_when_to_come_back(self):
        port, key, answers = self.whole.essaim("status")["ports"]["http"], self.whole.api_key(), []

        def one(i):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            connection.request("POST", "/v1/completions", json.dumps({
                "model": "tiny", "prompt": "Question number %d, and a long answer please. " % i, "max_tokens": 200, "ignore_eos": True}),
                {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
            response = connection.getresponse()
            answers.append((response.status, response.headers, json.loads(response.read())))
            connection.close()

        threads = [threading.Thread(target=one, args=(i,)) for i in range(48)]      # three places, and 32 may wait
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        served = [a for a in answers if a[0] == 200]
        refused = [a for a in answers if a[0] == 429]
        self.assertEqual(len(served) + len(refused), 48)
        self.assertGreater(len(served), 3)
        self.assertGreater(len(refused), 0)
        for _, headers, body in refused:
            self.assertGreater(int(headers["Retry-After"]), 0)
            self.assertEqual(body["error"]["code"], "busy")
            self.assertIn("place", body["error"]["message"])
        engine = self.whole.model("tiny")["engine"]
        self.assertEqual(engine["sessions_open"] + engine["sessions_kept"], 0)
        self.assertEqual(engine["crashes"], 0)

    def offer(self, tokens):
        self.abeille.essaim("agreement", "offer", "Colibri", "--tokens", str(tokens))
        wait_for("the offer", lambda: any(a["tokens_per_day"] == tokens for a in self.colibri.essaim("agreement", "list")["agreements"]))
        self.colibri.essaim("agreement", "accept", "Abeille")
        wait_for("both to hear of it", lambda: all(any(a["tokens_per_day"] == tokens and a["state"] == "in force" for a in
                                                       node.essaim("agreement", "list")["agreements"]) for node in (self.abeille, self.colibri)))
        wait_for("the ring", lambda: self.colibri.essaim("ring", "tiny", ok=False).get("possible"))

    def test_a_quota_is_granted_before_it_is_used(self):
        self.assertEqual(post(self.colibri, "Something to begin the day with. ", 40)[0], 200)
        used = next(u["rows"] for u in self.abeille.essaim("status")["today"] if u["user_name"] == "Colibri")
        self.offer(used + 200)
        try:
            status, headers, answer = post(self.colibri, "What may this cost? ", 200)
            self.assertEqual(status, 429, answer)
            self.assertGreater(int(headers["Retry-After"]), 0)
            self.assertRegex(answer["error"]["message"], "200 tokens are left .* of up to 2[0-9][0-9] was asked for")
            self.assertEqual(post(self.colibri, "What may this cost? ", 100)[0], 200)
            self.assertEqual(post(self.colibri, "And what may this cost? ", 100)[0], 429)
        finally:
            self.offer(1000000)

    def test_what_is_kept_is_said_and_gives_way(self):
        for i in range(5):                    # one after the other, more than there are places
            self.assertEqual(post(self.colibri, "Another conversation, which begins otherwise: %d " % i * 3, 8)[0], 200)
        engine = self.colibri.model("tiny")["engine"]
        self.assertEqual(engine["sessions_open"], 0)
        self.assertEqual(engine["sessions_kept"], 3)
        wait_for("the places to be free", lambda: self.colibri.essaim("status")["sessions"]["home"] == 0)
        path = os.path.join(self.colibri.home, "essaim.conf")
        with open(path) as f:
            before = f.read()
        try:
            with open(path, "w") as f:
                f.write(before.replace("[share]", "[share]\nkeep_seconds = 0", 1))
            self.colibri.process.send_signal(1)
            for node in (self.colibri, self.abeille):
                wait_for("%s to forget" % node.name, lambda: node.model("tiny")["engine"]["sessions_kept"] == 0)
        finally:
            with open(path, "w") as f:
                f.write(before)
            self.colibri.process.send_signal(1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
