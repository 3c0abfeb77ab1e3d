#!/usr/bin/env python3
"""The demonstration as a visitor runs it, and what it claims: contrib/demo --once --json.

    Colibri (asks) ──> Abeille (published the file) ──> Bourdon ──> Colibri

The model is the demonstration's own, or $ESSAIM_DEMO_MODEL; where there is neither, a generated one.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Failed, Node, wait_for  # noqa: E402

DEMO = os.path.join(TOP, "contrib", "demo")
loader = importlib.machinery.SourceFileLoader("demo", DEMO)
demo = importlib.util.module_from_spec(importlib.util.spec_from_loader("demo", loader))
loader.exec_module(demo)


def processes_of(folder):
    """Those that have folder on their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                if folder.encode() in f.read():
                    found.append(pid)
        except OSError:
            pass
    return found


class Demo(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        try:
            cls.model = demo.find_model(None)
        except Failed:
            cls.model = os.path.join(cls.folder.name, "tiny.gguf")
            subprocess.run([sys.executable, os.path.join(TOP, "tests/tools/make_model.py"), cls.model, "--layers", "9", "--embd", "256",
                            "--ffn", "512", "--heads", "4", "--kv-heads", "2", "--vocab", "512", "--name", "tiny"], check=True)
        cls.nodes = []
        # What it writes while it runs lies in a folder of ours, so that what it leaves can be seen.
        cls.temporary = os.path.join(cls.folder.name, "tmp")
        os.mkdir(cls.temporary)
        done = subprocess.run([sys.executable, DEMO, "--once", "--json", "--model", cls.model], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": cls.temporary}, timeout=600)
        cls.status, cls.said = done.returncode, done.stderr.decode("utf-8", "replace")
        lines = done.stdout.decode().splitlines()
        cls.result = json.loads(lines[-1]) if lines else None

    @classmethod
    def tearDownClass(cls):
        for node in cls.nodes:
            node.stop()
        for node in cls.nodes:
            node.reap()
        cls.folder.cleanup()

    def setUp(self):
        self.assertEqual(self.status, 0, self.said)

    def test_two_remote_stages_answered(self):
        self.assertEqual(self.result["ring"][0]["node"], "Colibri")
        remote = [e for e in self.result["ring"][1:] if e["node"] != "Colibri"]
        self.assertGreaterEqual(len(remote), 2)
        self.assertEqual(len({e["association"] for e in self.result["ring"]}), len(self.result["ring"]))
        self.assertEqual({e["node"] for e in self.result["ring"] if e["saw"] == "text"}, {"Colibri"})
        self.assertGreater(self.result["tokens"], 0)
        self.assertGreater(self.result["tokens_per_second"], 0)

    def test_every_layer_is_somewhere_and_just_once(self):
        layers = sorted(tuple(r) for e in self.result["ring"] for r in e["layers"])
        self.assertEqual(layers[0][0], 0)
        self.assertEqual([a for a, _ in layers[1:]], [b for _, b in layers[:-1]])

    def test_each_node_but_the_publisher_has_under_60_percent_on_disk(self):
        self.assertEqual(self.result["model_bytes"], os.path.getsize(self.model))
        guests = [e for e in self.result["ring"] if e["node"] != "Abeille"]
        self.assertEqual(len(guests), 2)
        for entry in guests:
            self.assertGreater(entry["model_bytes_on_disk"], 0)
            self.assertLess(entry["model_bytes_on_disk"], 0.6 * self.result["model_bytes"], entry["node"])

    def test_the_whole_model_on_one_node_says_the_same(self):
        whole = Node("Entier", self.folder.name, "4G", {"share.counts": "weights", "share.context": 512, "share.sessions": 2})
        self.nodes.append(whole)
        whole.start()
        whole.wait_until_up()
        added = whole.essaim("model", "add", self.model, ok=False)
        if "error" in added:
            added = whole.essaim("model", "add", self.model, "--licence", "LicenseRef-unknown")
        name, chat = added["model"]["name"], added["model"]["chat_template"]
        wait_for("the whole model", lambda: whole.model(name)["state"] == "ready")
        answer, tokens, disclosure = whole.ask(name, demo.CHAT_QUESTION if chat else demo.PLAIN_PROMPT, chat, demo.MAX_TOKENS)
        self.assertEqual({s["node"] for s in disclosure["stages"]}, {"Entier"})
        self.assertEqual(answer, self.result["answer"])
        self.assertEqual(tokens, self.result["tokens"])
        self.assertNotEqual(answer.strip(), "")

    def test_nothing_runs_or_lies_about_afterwards(self):
        self.assertEqual(processes_of(self.temporary), [])
        self.assertEqual(os.listdir(self.temporary), [])

    def test_no_line_is_wider_than_80_columns(self):
        for line in self.said.splitlines():
            self.assertLessEqual(len(line), 80, line)


if __name__ == "__main__":
    unittest.main(verbosity=2)
