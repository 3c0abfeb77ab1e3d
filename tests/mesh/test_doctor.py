#!/usr/bin/env python3
"""essaim doctor, on real nodes:  Abeille <──> Bourdon, and Abeille's home when nothing runs.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Node, wait_for  # noqa: E402

SETTINGS = {"share.counts": "weights"}


def findings(node, check):
    return [c for c in node.essaim("doctor", ok=False)["checks"] if c["check"] == check]


class Running(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        cls.nodes = [Node(name, cls.folder.name, "64M", SETTINGS) for name in ("Abeille", "Bourdon")]
        for node in cls.nodes:
            node.start()
        for node in cls.nodes:
            node.wait_until_up()
        cls.abeille, cls.bourdon = cls.nodes
        cls.bourdon.essaim("join", cls.abeille.essaim("invite", "--partner")["url"])
        cls.bourdon.essaim("agreement", "accept", "Abeille")
        wait_for("the link", lambda: all(p["up"] for n in cls.nodes for p in n.essaim("peers")["peers"] or [{"up": False}]))

    @classmethod
    def tearDownClass(cls):
        for node in cls.nodes:
            node.stop()
        for node in cls.nodes:
            node.reap()
        cls.folder.cleanup()

    def test_what_is_in_order_is_said_to_be(self):
        for check in ("home", "configuration", "keys", "disk", "ports", "clock", "peers"):
            self.assertEqual([c["state"] for c in findings(self.abeille, check)][:1], ["good"], check)
        self.assertIn("root key", findings(self.abeille, "node")[0]["text"])

    def test_a_neighbour_says_that_it_reaches_us(self):
        # A neighbour answers once in ten seconds, and the other tests ask, too.
        def reached():
            found = findings(self.bourdon, "reach")
            return found if found and found[0]["state"] != "skipped" else None
        found = wait_for("an answer about reach", reached, 60)
        self.assertEqual([c["state"] for c in found], ["good", "good"], found)
        self.assertIn("weights", found[1]["text"])
        self.assertIn("from Abeille: it answers", wait_for("each address", lambda: findings(self.bourdon, "links"), 60)[0]["text"])

    def test_it_is_all_said_in_french(self):
        done = subprocess.run(["essaim", "--home", self.abeille.home, "doctor"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                              env={**os.environ, "LC_ALL": "", "LANGUAGE": "", "LANG": "fr_FR.UTF-8"})
        text = done.stdout.decode()
        if not shutil.which("msgfmt"):
            self.skipTest("gettext is not installed")
        self.assertIn("la clé racine", text)
        for english in (" the ", " free", " other ", "->  write", " links "):
            self.assertNotIn(english, text)

    def test_whatever_is_not_good_says_what_to_do(self):
        for c in self.abeille.essaim("doctor", ok=False)["checks"]:
            self.assertIn(c["state"], ("good", "skipped", "warning", "bad"))
            if c["state"] in ("warning", "bad"):
                self.assertTrue(c["remedy"], c)

    def test_a_key_that_others_may_read_is_bad_and_shows_in_the_exit_status(self):
        key = os.path.join(self.abeille.home, "keys", "node.key")
        os.chmod(key, 0o644)
        try:
            done = subprocess.run(["essaim", "--home", self.abeille.home, "doctor"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        finally:
            os.chmod(key, 0o600)
        text = done.stdout.decode()
        self.assertEqual(done.returncode, 1, text)
        self.assertIn("chmod 600 " + key, text)


class Stopped(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        self.addCleanup(self.folder.cleanup)

    def node(self, **settings):
        return Node("Ruche", self.folder.name, "64M", {**SETTINGS, **settings})

    def test_without_a_daemon_the_home_is_looked_at(self):
        found = self.node().essaim("doctor", ok=False)
        self.assertFalse(found["ok"])
        self.assertEqual(found["checks"][0]["check"], "daemon")
        self.assertEqual(found["checks"][0]["state"], "bad")
        self.assertEqual({c["check"]: c["state"] for c in found["checks"]}["ports"], "good")

    def test_a_port_that_is_taken_is_named(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            found = findings(self.node(**{"http.port": port}), "ports")
        self.assertEqual([c["state"] for c in found], ["bad"])
        self.assertIn(str(port), found[0]["remedy"])

    def test_a_home_that_is_not_there_and_one_that_is_damaged(self):
        node = self.node()
        os.remove(os.path.join(node.home, "keys", "link.key"))
        os.chmod(node.home, 0o755)
        self.assertIn("link.key is missing", findings(node, "keys")[0]["text"])
        self.assertEqual(findings(node, "home")[0]["state"], "warning")
        node.home += ".nowhere"
        self.assertIn("init", findings(node, "home")[0]["remedy"])

    def test_more_memory_than_the_machine_has(self):
        node = self.node()
        path = os.path.join(node.home, "essaim.conf")
        with open(path) as f:
            text = f.read()
        with open(path, "w") as f:
            f.write(text.replace("memory = 64M", "memory = 4096G"))
        self.assertEqual(findings(node, "memory")[0]["state"], "bad")


if __name__ == "__main__":
    unittest.main()
