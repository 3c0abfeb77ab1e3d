#!/usr/bin/env python3
"""Two servers of one association: the second is invited onto the roster, shares a model's layers, and is taken off again."""
import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Failed, Node, clock_off, wait_for  # noqa: E402


WITHIN_S = 10                           # OPERATING.md: ten seconds, wherever it can be heard


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


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

    def restart(self, node, environment=None):
        node.stop()
        node.reap()
        node.start(environment)
        node.wait_until_up()

    def warned(self, node, *words):
        return next((w["text"] for w in node.essaim("status")["warnings"] if all(x in w["text"] + w["remedy"] for x in words)), None)

    def test_after_a_season_and_after_a_year_they_find_each_other(self):
        """Sept and Huit are servers of one association, Neuf is a partner's; all are off for longer than a steward's key lasts."""
        if not clock_off("+1d"):
            self.skipTest("libfaketime is not installed")
        ports = free_ports(3)          # they find each other by what they knew before

        def settings(i):
            return {"share.home": "no", "link.port": ports[i]}

        seven = self.node("Sept", 1, settings(0))
        eight = self.node("Huit", 1, settings(1), association=False)
        nine = self.node("Neuf", 1, settings(2))
        eight.essaim("join", seven.essaim("invite", "--node")["url"])
        self.restart(eight)
        nine.essaim("join", seven.essaim("invite", "--partner")["url"])
        nine.essaim("agreement", "accept", "Sept")
        all_of_them = ((seven, {"Huit", "Neuf"}), (eight, {"Sept", "Neuf"}), (nine, {"Sept", "Huit"}))

        def all_linked(when):
            for node, others in all_of_them:
                wait_for("%s to reach the others, %s" % (node.name, when), lambda: self.links(node) >= others, 150)

        all_linked("at first")
        for days, when in ((100, "after a season"), (500, "after a year and more")):
            later = clock_off("+%dd" % days)
            for node, _ in all_of_them:
                self.restart(node, later)
            for node, _ in all_of_them:
                self.assertTrue(self.warned(node, "steward key has expired", "essaim steward renew"), node.essaim("status"))
                self.assertEqual(self.links(node), set())
            for node in (seven, nine):
                node.essaim("steward", "renew")
            if days < 365:
                all_linked(when)
            else:                               # the agreement has ended, and with it what Huit and Neuf had to do with each other
                wait_for("Sept to reach both, %s" % when, lambda: self.links(seven) >= {"Huit", "Neuf"}, 150)
            for node, _ in all_of_them:
                wait_for("%s to have no serious warning, %s" % (node.name, when),
                         lambda: not [w for w in node.essaim("status")["warnings"] if w["serious"]])
            for node in (seven, eight):         # their cards are theirs again, too
                wait_for("%s to know both by name, %s" % (node.name, when),
                         lambda: {n["name"] for n in node.essaim("roster", "list")["nodes"]} == {"Sept", "Huit"})
            self.assertEqual(bool(self.warned(seven, "has ended", "essaim agreement offer")), days > 365)
        seven.essaim("agreement", "offer", "Neuf")
        wait_for("the new offer to be accepted", lambda: not nine.essaim("agreement", "accept", "Sept", ok=False).get("error"))
        wait_for("no agreement to have ended", lambda: not self.warned(seven, "has ended"))
        all_linked("with a new agreement")

    def links(self, node):
        return {p["name"] for p in node.essaim("peers")["peers"] if p["up"]}

    def test_leaving_revoking_and_a_new_steward_reach_every_node(self):
        """Quatre and Cinq are servers of one association, Six is a partner's. What ends is over on every node within WITHIN_S."""
        settings = {"share.home": "no"}
        four = self.node("Quatre", 1, settings)
        five = self.node("Cinq", 1, settings, association=False)
        six = self.node("Six", 1, settings)
        five.essaim("join", four.essaim("invite", "--node")["url"])
        refused = five.essaim("join", six.essaim("invite", "--node")["url"], ok=False)["error"]
        self.assertIn("not started again", refused["message"])
        self.assertIn("still good", refused["remedy"])
        self.restart(five)
        six.essaim("join", four.essaim("invite", "--partner")["url"])
        six.essaim("agreement", "accept", "Quatre")
        six.essaim("agreement", "offer", "Quatre")
        wait_for("the offer", lambda: not four.essaim("agreement", "accept", "Six", ok=False).get("error"))
        for node, others in ((four, {"Cinq", "Six"}), (five, {"Quatre", "Six"}), (six, {"Quatre", "Cinq"})):
            wait_for("%s to reach the others" % node.name, lambda: self.links(node) >= others)

        # A new steward key, made on another node than the old one: the root key is needed.
        refused = five.essaim("steward", "new", ok=False)["error"]
        self.assertIn("root.key", refused["remedy"])
        os.rename(os.path.join(four.home, "keys/root.key"), os.path.join(five.home, "keys/root.key"))
        new = five.essaim("steward", "new")
        self.assertEqual((new["nodes"], new["agreements"], new["acceptances"], new["failed"]), (2, 1, 1, 0))
        os.rename(os.path.join(five.home, "keys/root.key"), os.path.join(self.folder.name, "root.key"))
        wait_for("the old key to be told that it is none", lambda: any("steward key was replaced" in x["text"] for x in four.essaim("status")["warnings"]),
                 WITHIN_S)
        self.assertIn("error", four.essaim("invite", "--node", ok=False))
        # Nobody lost a link over it, nor after the time in which the old roster still counts.
        wait_for("the old roster to end", lambda: time.monotonic() > self.later(12), 20)
        self.assertEqual(self.links(four), {"Cinq", "Six"})
        self.assertEqual(self.links(six), {"Quatre", "Cinq"})
        state = {a["direction"]: a["state"] for a in six.essaim("agreement", "list")["agreements"]}
        self.assertEqual(state, {"received": "offered", "granted": "in force"})
        six.essaim("agreement", "accept", "Quatre")
        wait_for("five to hear it", lambda: all(a["state"] == "in force" for a in five.essaim("agreement", "list")["agreements"]), WITHIN_S)

        # What is granted ends by one side's word.
        five.essaim("agreement", "revoke", "Six")
        wait_for("Six to hear that it may not any more",
                 lambda: any(a["direction"] == "received" and a["state"] == "revoked" for a in six.essaim("agreement", "list")["agreements"]), WITHIN_S)
        wait_for("Quatre to hear it", lambda: any(a["state"] == "revoked" for a in four.essaim("agreement", "list")["agreements"]), WITHIN_S)

        # A node leaves by itself, and is off the roster.
        self.assertIn("Quatre", four.essaim("leave", "Someone", ok=False)["error"]["message"])
        refused = five.essaim("leave", "Quatre", ok=False)["error"]
        self.assertIn("administers", refused["message"])
        os.unlink(os.path.join(four.home, "keys/steward.key"))
        four.essaim("leave", "Quatre")
        for node in (five, six):
            wait_for("%s to drop its links" % node.name, lambda: "Quatre" not in self.links(node), WITHIN_S)
        wait_for("the roster without it", lambda: {n["name"] for n in five.essaim("roster", "list")["nodes"]} == {"Cinq"}, WITHIN_S)
        self.restart(four)
        self.assertEqual(four.essaim("peers")["peers"], [])
        self.assertEqual(four.essaim("status")["association"]["name"], "")
        # And may come back.
        four.essaim("join", five.essaim("invite", "--node")["url"])
        self.restart(four)
        wait_for("Quatre to be back", lambda: self.links(four) >= {"Cinq"})
        # Whoever belongs to one association is not taken into another.
        refused = four.essaim("join", six.essaim("invite", "--node")["url"], ok=False)["error"]
        self.assertIn("belongs to Quatre", refused["message"])
        self.assertIn("essaim leave", refused["remedy"])

    def later(self, seconds):
        if not hasattr(self, "end"):
            self.end = time.monotonic() + seconds
        return self.end


if __name__ == "__main__":
    unittest.main(verbosity=2)
