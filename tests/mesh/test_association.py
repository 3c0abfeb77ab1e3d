#!/usr/bin/env python3
"""Two servers of one association: the second is invited onto the roster, shares a model's layers, and is taken off again."""
import os
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Failed, Node, wait_for  # noqa: E402


class Association(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        cls.nodes = []

    @classmethod
    def tearDownClass(cls):
        for node in cls.nodes:
            node.stop()
        for node in cls.nodes:
            node.reap()
        cls.folder.cleanup()

    def node(self, name, memory, settings, association=None):
        node = Node(name, self.folder.name, memory, settings, association)
        self.nodes.append(node)
        node.start()
        node.wait_until_up()
        return node

    def test_second_server_joins_shares_and_leaves(self):
        file = os.path.join(self.folder.name, "tiny.gguf")
        subprocess.run([sys.executable, os.path.join(TOP, "tests/tools/make_model.py"), file, "--layers", "8", "--embd", "256", "--ffn", "512",
                        "--heads", "4", "--kv-heads", "2", "--vocab", "512", "--name", "tiny"], check=True)
        settings = {"share.counts": "weights", "share.context": 256, "share.sessions": 2}
        first = self.node("Un", 1, settings)
        second = self.node("Deux", 1, {**settings, "share.home": "no"}, association=False)
        with self.assertRaises(Failed):
            second.essaim("invite", "--node")          # it belongs to no association yet
        url = first.essaim("invite", "--node")["url"]
        joined = second.essaim("join", url)
        self.assertEqual(joined["role"], "node")
        self.assertEqual(joined["association_name"], "Un")
        if joined.get("restart"):
            second.stop()
            second.reap()
            second.start()
            second.wait_until_up()
        self.assertEqual(second.essaim("status")["association"]["name"], "Un")
        wait_for("both to hold links", lambda: all(p["up"] for n in (first, second) for p in n.essaim("peers")["peers"] or [{"up": False}]))
        self.assertEqual({n["name"] for n in first.essaim("roster", "list")["nodes"]}, {"Un", "Deux"})

        # An invitation is good once.
        third = self.node("Trois", 1, settings, association=False)
        with self.assertRaises(Failed):
            third.essaim("join", url)

        part = first.essaim("model", "add", file)["model"]["parts"]
        every = part["header"] + part["shared"]
        first.set_memory(2 * (every + part["layer"]) + part["embedding"] + part["output"] + part["layer"] // 2)
        second.set_memory(every + 6 * part["layer"] + part["layer"] // 2)
        # The steward's approval reaches the second server by itself, and no agreement is needed within an association.
        wait_for("the ring", lambda: first.essaim("ring", "tiny", ok=False).get("possible"))
        answer, tokens, disclosure = first.ask("tiny", "bonjour", False, 8, ignore_eos=True)
        self.assertEqual(tokens, 8)
        self.assertEqual({s["node"] for s in disclosure["stages"]}, {"Un", "Deux"})

        first.essaim("roster", "remove", "Deux")
        wait_for("the link to end", lambda: not any(p["up"] for p in first.essaim("peers")["peers"]), 10)
        wait_for("the ring to open", lambda: not first.essaim("ring", "tiny", ok=False).get("possible"), 10)


if __name__ == "__main__":
    unittest.main(verbosity=2)
