#!/usr/bin/env python3
"""The main job with a model of over 600 MB that no engine here could hold whole.

Budgets count weights, KV and compute buffers as the engine reports them, and every engine runs under an RLIMIT_DATA below the model's
size. The same limit is then shown to refuse the model whole.
"""
import os
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Failed, Node, partners, settled, wait_for  # noqa: E402

PROMPT = "Several associations"
TOKENS = 8
CONTEXT, SESSIONS = 256, 1


class Large(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Files of this size lie on a disk: /tmp may be memory.
        disk = "/var/tmp" if tempfile.gettempdir() == "/tmp" and os.access("/var/tmp", os.W_OK | os.X_OK) else None
        cls.folder = tempfile.TemporaryDirectory(prefix="essaim-test.", dir=disk)
        cls.file = os.path.join(cls.folder.name, "large.gguf")
        subprocess.run([sys.executable, os.path.join(TOP, "tests/tools/make_model.py"), cls.file, "--name", "large"], check=True)
        cls.bytes = os.path.getsize(cls.file)
        cls.limit = cls.bytes * 3 // 4
        cls.settings = {"share.context": CONTEXT, "share.sessions": SESSIONS, "engine.data_limit": cls.limit}
        cls.nodes = []
        for name in ("Abeille", "Bourdon", "Colibri"):
            cls.nodes.append(Node(name, cls.folder.name, 1, {**cls.settings, "share.home": "yes" if name == "Colibri" else "no"}))
        for node in cls.nodes:
            node.start()
        for node in cls.nodes:
            node.wait_until_up()
        partners(*cls.nodes)

    @classmethod
    def tearDownClass(cls):
        for node in cls.nodes:
            node.stop()
        for node in cls.nodes:
            node.reap()
        cls.folder.cleanup()

    def test_three_nodes_answer_what_none_could_hold(self):
        abeille, bourdon, colibri = three = self.nodes[:3]
        self.assertGreaterEqual(self.bytes, 600e6)
        added = abeille.essaim("model", "add", self.file)["model"]
        budget = int(self.bytes * 0.55)
        for node in three:
            node.set_memory(budget)
        for node in (bourdon, colibri):
            settled(abeille, [node], "large")
            node.essaim("model", "pull", "large")
        wait_for("the ring", lambda: colibri.essaim("ring", "large", ok=False).get("possible"))
        for node in three:
            model = node.model("large")
            engine = model["engine"]
            used = engine["weight_bytes"] + engine["kv_bytes"] + engine["compute_bytes"]
            self.assertLessEqual(used, budget, "%s keeps to its budget" % node.name)
            self.assertGreater(engine["kv_bytes"], 0)
            self.assertGreater(engine["compute_bytes"], 0)
            with open("/proc/%d/limits" % engine["pid"]) as f:
                line = next(line for line in f if line.startswith("Max data size"))
            self.assertEqual(int(line.split()[3]), self.limit)
            self.assertLess(self.limit, self.bytes)
            if node is not abeille:
                self.assertLess(model["bytes_on_disk"], 0.6 * self.bytes, node.name)
        answer, tokens, disclosure = colibri.ask("large", PROMPT, False, TOKENS, ignore_eos=True)
        self.assertEqual(tokens, TOKENS)
        self.assertGreaterEqual(len({s["node"] for s in disclosure["stages"]} - {"Colibri"}), 2)

        # The whole model on one node, without the limit, says the same.
        whole = Node("Entier", self.folder.name, "4G", {"share.context": CONTEXT, "share.sessions": SESSIONS})
        self.nodes.append(whole)
        whole.start()
        whole.wait_until_up()
        whole.essaim("model", "add", self.file)
        wait_for("the whole model", lambda: whole.model("large")["state"] == "ready")
        self.assertEqual(whole.ask("large", PROMPT, False, TOKENS, ignore_eos=True)[0], answer)
        whole.stop()

    def test_the_same_limit_refuses_the_model_whole(self):
        alone = Node("Seul", self.folder.name, "4G", self.settings)
        self.nodes.append(alone)
        alone.start()
        alone.wait_until_up()
        alone.essaim("model", "add", self.file)
        model = wait_for("the refusal", lambda: alone.model("large") if alone.model("large")["why"] else None)
        self.assertNotEqual(model["state"], "ready")
        self.assertRegex(model["why"], r"[Mm]emory|limit|budget|fit")
        with self.assertRaises(Failed):
            alone.ask("large", PROMPT, False, 1)
        alone.stop()


if __name__ == "__main__":
    if "ESSAIM_SANITIZED" in os.environ:
        print("skipped: a sanitizer's own memory counts in the engines' limits")
        sys.exit(77)
    unittest.main(verbosity=2)
