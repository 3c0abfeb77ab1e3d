#!/usr/bin/env python3
"""The first evening of doc/OPERATING.md, on three machines that are network namespaces: from nothing to the first answer, and what
may go wrong afterwards.

    ruche (Abeilles)            pc (Abeilles)                 nid (Bourdons)
    IPv4 and IPv6               IPv4, behind a router that    IPv6 only
    192.0.2.2, 2001:db8:1::2    masquerades and lets          2001:db8:3::2
          |                     nothing in                         |
          |                          |                             |
          +------- the internet -----+-----------------------------+

pc and nid have no way to each other but through ruche.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from machines import Machine, machines_not_permitted, wire  # noqa: E402
from nodes import Node, Stuck, clock_off, wait_for  # noqa: E402

FIRST_ANSWER_S = 60                     # from `invite` to an answer, where the weights are at hand
NAT = """
add table ip nat
add chain ip nat out { type nat hook postrouting priority srcnat; }
add rule ip nat out oifname "wan" masquerade
add table inet door
add chain inet door in { type filter hook forward priority filter; policy drop; }
add rule inet door in iifname "lan" accept
add rule inet door in ct state established,related accept
"""


class Evening(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        cls.nodes, cls.machines = [], []
        cls.file = os.path.join(cls.folder.name, "tiny.gguf")
        make_model(cls.file, "tiny")
        internet, ruche, box, pc, nid = cls.machines = [Machine() for _ in range(5)]
        cls.nid_machine = nid
        wire(ruche, "eth0", internet, "ruche")
        wire(box, "wan", internet, "box")
        wire(pc, "eth0", box, "lan")
        wire(nid, "eth0", internet, "nid")
        internet.address("ruche", "192.0.2.1/24", "2001:db8:1::1/64")
        internet.address("box", "198.51.100.1/24")
        internet.address("nid", "2001:db8:3::1/64")
        ruche.address("eth0", "192.0.2.2/24", "2001:db8:1::2/64")
        ruche.gateway("192.0.2.1", "2001:db8:1::1")
        box.address("wan", "198.51.100.2/24")
        box.address("lan", "192.168.1.1/24")
        box.gateway("198.51.100.1")
        box.run("nft", "-f", "-", input=NAT.encode())
        pc.address("eth0", "192.168.1.2/24")
        pc.gateway("192.168.1.1")
        nid.address("eth0", "2001:db8:3::2/64")
        nid.gateway("2001:db8:3::1")
        internet.forward()
        box.forward()
        cls.within = {"ruche": ruche.within, "pc": pc.within, "nid": nid.within}

    @classmethod
    def tearDownClass(cls):
        for node in cls.nodes:
            node.stop()
        for node in cls.nodes:
            node.reap()
        for machine in cls.machines:
            machine.close()
        cls.folder.cleanup()

    def node(self, name, memory, association):
        node = Node(name, self.folder.name, memory, {}, association, within=self.within[name])
        self.nodes.append(node)
        node.start()
        node.wait_until_up()
        return node

    def answer(self, node, *more):
        done = node.essaim("chat", "tiny", "bonjour", "--completion", "--max-tokens", "4", "--temperature", "0", *more)
        self.assertEqual(done["finish"], "length")
        return done

    def answers(self, node, *more):
        """Its answer, when it has one."""
        done = node.essaim("chat", "tiny", "bonjour", "--completion", "--max-tokens", "4", "--temperature", "0", *more, ok=False)
        return done if done.get("finish") == "length" else None

    def linked(self, node, *others):
        up = {p["name"] for p in node.essaim("peers")["peers"] if p["up"]}
        return up >= {other.name for other in others}

    def warned(self, node, *words):
        """The warning of `essaim status` that has all these words."""
        for w in node.essaim("status")["warnings"]:
            text = w["text"] + " " + w["remedy"]
            if all(word in text for word in words):
                return text
        return None

    def all_is_well(self):
        ruche, pc, nid = self.nodes
        wait_for("ruche to reach both", lambda: self.linked(ruche, pc, nid))
        for node in self.nodes:
            wait_for("%s to answer" % node.name, lambda: self.answers(node))

    def restart(self, node, environment=None):
        node.stop()
        node.reap()
        node.start(environment)
        node.wait_until_up()

    def test_evening(self):
        self.walk()
        self.by_way_of_another()
        self.reboot()
        self.changed_address()
        self.wrong_clock()
        self.full_disk()

    # --- from nothing to the first answer: OPERATING.md, steps 1 to 6 ---------------------------------

    def walk(self):
        ruche = self.node("ruche", "1G", "Abeilles")
        self.assertTrue(self.warned(ruche, "root key"))
        os.rename(os.path.join(ruche.home, "keys/root.key"), os.path.join(self.folder.name, "root.key"))
        self.assertFalse(self.warned(ruche, "root key"))

        began = time.monotonic()
        invited = ruche.essaim("invite", "--node")
        self.assertEqual(invited["addresses"], ["192.0.2.2:7740", "[2001:db8:1::2]:7740"])
        pc = self.node("pc", "1G", False)
        pc.essaim("join", invited["url"])
        self.restart(pc)
        wait_for("the roster to name both", lambda: {n["name"] for n in ruche.essaim("roster", "list")["nodes"]} == {"ruche", "pc"})
        wait_for("pc to reach ruche", lambda: self.linked(pc, ruche))
        ruche.essaim("model", "add", self.file, "--licence", "Apache-2.0")
        wait_for("ruche to answer", lambda: self.answers(ruche))
        wait_for("pc to answer", lambda: self.answers(pc))
        self.note("from `invite --node` to the joiner's first answer, the model published between", began)

        nid = self.node("nid", "1G", "Bourdons")
        # Addresses that lead nowhere are named with how, and cost the invitation nothing.
        wrong = ruche.essaim("invite", "--partner", "--address", "[2001:db8:1::2]:1", "--address", "[2001:db8:9::9]:7740")["url"]
        failed = nid.essaim("join", wrong, ok=False)["error"]
        said = [d["text"] for d in failed["details"]]
        self.assertIn("[2001:db8:1::2]:1: connection refused", said[0])
        self.assertIn("[2001:db8:9::9]:7740: no ", said[1])
        self.assertIn("port", failed["remedy"])
        print("nid: %s -> %s" % ("; ".join(said), failed["remedy"]), flush=True)
        began = time.monotonic()
        joined = nid.essaim("join", ruche.essaim("invite", "--partner")["url"])
        self.assertEqual(joined["association_name"], "Abeilles")
        nid.essaim("agreement", "accept", "Abeilles")
        nid.essaim("agreement", "offer", "Abeilles")
        wait_for("Abeilles to hear the offer", lambda: not ruche.essaim("agreement", "accept", "Bourdons", ok=False).get("error"))
        wait_for("Bourdons to hear of the model", lambda: nid.model("tiny"))
        nid.essaim("model", "pull", "tiny")
        self.answer(nid)
        self.note("from `invite --partner` to the partner's first answer", began)

    def note(self, what, began):
        took = time.monotonic() - began
        print("%s: %.1f s (bar: %d s%s)" % (what, took, FIRST_ANSWER_S, "" if took < FIRST_ANSWER_S else "; MISSED"), flush=True)

    # --- gateway mode ------------------------------------------------------------------------------------

    def configure(self, node, text):
        with open(os.path.join(node.home, "essaim.conf"), "a") as f:
            f.write(text)
        node.process.send_signal(signal.SIGHUP)

    def by_way_of_another(self):
        ruche, pc, nid = self.nodes
        here = self.answer(pc)
        self.assertNotIn("via", here["essaim"])
        there = self.answer(pc, "--via", "ruche")
        self.assertEqual(there["essaim"]["via"], {"node": "ruche", "association": "Abeilles"})
        self.assertEqual(there["answer"], here["answer"])
        self.assertIn("ruche", {s["node"] for s in there["essaim"]["stages"] if s["saw"] == "text"})

        # pc has no way to nid but through ruche; and nid answers for its own association only, until it is told otherwise.
        self.assertFalse(self.linked(pc, nid))
        wait_for("pc to hear of nid", lambda: any(p["name"] == "nid" for p in pc.essaim("peers")["peers"]))
        refused = pc.essaim("chat", "tiny", "bonjour", "--completion", "--via", "nid", ok=False)["error"]["message"]
        self.assertIn("own association only", refused)
        self.configure(nid, "[route]\ngateway = partners\n")
        there = wait_for("nid to answer for pc", lambda: self.answers(pc, "--via", "nid"))
        self.assertEqual(there["essaim"]["via"], {"node": "nid", "association": "Bourdons"})
        self.assertEqual(there["answer"], here["answer"])
        self.assertTrue([t for t in nid.essaim("status")["today"] if t["user_name"] == "Abeilles" and t["provider_name"] == "Bourdons" and t["rows"]])

        # What the asker cuts, it cuts of another node's answer too.
        stop = here["answer"][2:6]
        cut = pc.essaim("chat", "tiny", "bonjour", "--completion", "--max-tokens", "4", "--temperature", "0", "--via", "ruche", "--stop", stop)
        self.assertEqual((cut["answer"], cut["finish"]), (here["answer"].split(stop)[0], "stop"))

        unknown = pc.essaim("chat", "tiny", "bonjour", "--completion", "--via", "nobody", ok=False)["error"]["message"]
        self.assertIn("no node called 'nobody'", unknown)

    # --- afterwards -------------------------------------------------------------------------------------

    def reboot(self):
        for node in self.nodes:
            node.process.kill()
        for node in self.nodes:
            node.reap()
            node.start()
        for node in self.nodes:
            node.wait_until_up()
        began = time.monotonic()
        self.all_is_well()
        print("after all were killed at once, all answered within %.1f s" % (time.monotonic() - began), flush=True)

    def changed_address(self):
        nid = self.nid_machine
        nid.run("ip", "addr", "del", "2001:db8:3::2/64", "dev", "eth0")
        nid.address("eth0", "2001:db8:3::77/64")
        nid.run("ip", "-6", "route", "replace", "default", "via", "2001:db8:3::1")
        began = time.monotonic()
        wait_for("ruche to reach nid where it is now",
                 lambda: any(p["name"] == "nid" and p["up"] and "3::77" in p["address"] for p in self.nodes[0].essaim("peers")["peers"]))
        self.all_is_well()
        print("nid's new address was found within %.1f s" % (time.monotonic() - began), flush=True)

    def wrong_clock(self):
        """Of pc, which nobody can dial: it must find out by itself. Then it is put right."""
        ruche, pc, _ = self.nodes
        if not clock_off("+1h"):
            print("skipped: a clock that is an hour wrong needs libfaketime (contrib/packages.txt)", flush=True)
            return
        # Two years on everything that pc holds has ended; before that, everything is of the future. Neither may cost it anything.
        for off in ("+1h", "+17521h", "-17521h"):
            self.restart(pc, clock_off(off))
            for node in (pc, ruche):
                text = wait_for("%s to say what is wrong" % node.name, lambda: self.warned(node, "clock", "timedatectl set-ntp true"))
                print("%s: %s" % (node.name, text), flush=True)
            self.assertFalse(self.warned(pc, "essaim join"), "no new invitation is needed")
            checks = [c for c in pc.essaim("doctor", ok=False)["checks"] if c["check"] == "clock"]
            self.assertTrue(any("set-ntp true" in (c.get("remedy") or "") for c in checks), checks)
            self.restart(pc)
            self.all_is_well()
            self.assertFalse(self.warned(pc, "clock"))

    def full_disk(self):
        """Of pc: a model arrives that does not fit any more. Then there is room again."""
        ruche, pc, _ = self.nodes
        disk = os.path.join(self.folder.name, "disk")
        os.mkdir(disk)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", disk]).returncode:
            print("skipped: a full disk needs a tmpfs, which may not be mounted here", flush=True)
            return
        self.addCleanup(subprocess.run, ["umount", "--lazy", disk])
        pc.stop()
        pc.reap()
        pc.home = shutil.copytree(pc.home, os.path.join(disk, "pc"))
        room = os.statvfs(disk)
        filler = os.path.join(disk, "filler")
        with open(filler, "wb") as f:
            f.write(bytes(room.f_bavail * room.f_bsize - (256 << 10)))
        pc.start()
        pc.wait_until_up()
        other = os.path.join(self.folder.name, "other.gguf")
        make_model(other, "other")
        ruche.essaim("model", "add", other, "--licence", "Apache-2.0")
        text = wait_for("pc to say what is wrong", lambda: self.warned(pc, "other", "free"))
        print("pc: %s" % text, flush=True)
        wait_for("what was there before to answer as before", lambda: self.answers(pc))
        # Meanwhile another node may answer, where the owner says so.
        question = ("chat", "other", "bonjour", "--completion", "--max-tokens", "4", "--temperature", "0")
        self.assertIn("free", pc.essaim(*question, ok=False)["error"]["message"])
        self.configure(pc, "[route]\nvia = ruche\n")
        there = wait_for("ruche to answer for pc", lambda: pc.essaim(*question, ok=False).get("essaim"))
        self.assertEqual(there["via"]["node"], "ruche")
        os.unlink(filler)
        pc.essaim("model", "pull", "other")
        self.all_is_well()
        self.assertEqual(pc.model("other")["state"], "ready")
        self.assertFalse(self.warned(pc, "free"))


def make_model(file, name):
    subprocess.run([sys.executable, os.path.join(TOP, "tests/tools/make_model.py"), file, "--layers", "8", "--embd", "256", "--ffn", "512",
                    "--heads", "4", "--kv-heads", "2", "--vocab", "512", "--name", name], check=True)


if __name__ == "__main__":
    why = machines_not_permitted(["nft", "--version"])
    if why:
        print("skipped: the evening needs network namespaces of its own: " + why)
        sys.exit(77)
    unittest.main(verbosity=2)
