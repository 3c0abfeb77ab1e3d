#!/usr/bin/env python3
"""Joining, asking and leaving, again and again: descriptors, memory and sessions are afterwards what they were before.

    Ruche (stage) <── Abeille (home): joins by a new invitation, accepts the agreement, asks; then Ruche revokes the agreement, and
                                      no question can be answered until the next cycle; every tenth time Abeille goes and comes back

    ESSAIM_CYCLES=1000 tests/mesh/test_cycles.py        `contrib/quickstart check --long`; `make check` does 30
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import os
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Failed, Node, settled, wait_for  # noqa: E402

CYCLES = int(os.environ.get("ESSAIM_CYCLES", "30"))
WARM = 10                                     # cycles before it is measured: allocators and caches fill up
GROWTH = 4 << 20                              # bytes that a heap may wander
PROMPT = "Once upon a time"


def anonymous(pid):
    """Bytes of memory that belong to this process alone and to no file."""
    with open("/proc/%d/status" % pid) as f:
        return int(next(line for line in f if line.startswith("RssAnon")).split()[1]) << 10


def descriptors(pid):
    found = {}
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            to = os.readlink("/proc/%d/fd/%s" % (pid, fd)).split(":")[0]
        except OSError:
            continue
        found[to] = found.get(to, 0) + 1
    return found


class Cycles(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        self.addCleanup(self.folder.cleanup)
        file = os.path.join(self.folder.name, "tiny.gguf")
        subprocess.run([sys.executable, os.path.join(TOP, "tests/tools/make_model.py"), file, "--layers", "4", "--embd", "256", "--ffn", "512",
                        "--heads", "4", "--kv-heads", "2", "--vocab", "512", "--name", "tiny"], check=True)
        settings = {"share.counts": "weights", "share.context": 256, "share.sessions": 2}
        self.ruche = Node("Ruche", self.folder.name, "1G", {**settings, "share.home": "no"})
        self.abeille = Node("Abeille", self.folder.name, 1, settings)
        self.nodes = [self.ruche, self.abeille]
        self.addCleanup(self.end)
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_until_up()
        part = self.ruche.essaim("model", "add", file)["model"]["parts"]
        self.abeille.set_memory(2 * (part["header"] + part["shared"] + part["layer"]) + part["embedding"] + part["output"] + part["layer"] // 2)

    def end(self):
        for node in self.nodes:
            node.stop()
        for node in self.nodes:
            node.reap()

    def possible(self):
        return self.abeille.essaim("ring", "tiny", ok=False).get("possible")

    def answer(self):
        try:
            return self.abeille.ask("tiny", PROMPT, False, 8, ignore_eos=True)[0]
        except Failed as e:
            if "no agreement in force" not in str(e):
                raise
            return None

    def cycle(self, number):
        self.abeille.essaim("join", self.ruche.essaim("invite", "--partner")["url"])
        wait_for("the offer", lambda: not self.abeille.essaim("agreement", "accept", "Ruche", ok=False).get("error"))
        if number == 0:
            settled(self.ruche, [self.abeille], "tiny")
            self.abeille.essaim("model", "pull", "tiny")
        wait_for("the ring", self.possible)
        answer = wait_for("the acceptance to arrive, and an answer", self.answer)
        self.expected = answer if number == 0 else self.expected
        self.assertEqual(answer, self.expected)
        self.ruche.essaim("agreement", "revoke", "Abeille")
        wait_for("the ring to be open", lambda: not self.possible())
        if number % 10 == 9:
            self.abeille.stop()
            self.abeille.reap()
            self.abeille.start()
            self.abeille.wait_until_up()

    def measure(self, node):
        pids = [node.process.pid, node.model("tiny")["engine"]["pid"]]
        return sum(map(anonymous, pids)), descriptors(node.process.pid), node.essaim("status")["sessions"]

    def test_leave_nothing_behind(self):
        for number in range(WARM):
            self.cycle(number)
        wait_for("sessions to end", lambda: not any(self.measure(self.ruche)[2][k] for k in ("home", "serving")))
        memory, open_before, _ = self.measure(self.ruche)
        engine = self.ruche.model("tiny")["engine"]["pid"]
        for number in range(WARM, CYCLES):
            self.cycle(number)
        wait_for("sessions to end", lambda: not any(self.measure(self.ruche)[2][k] for k in ("home", "serving")))

        def back():
            now = self.measure(self.ruche)[1]
            return all(now[kind] <= open_before.get(kind, 0) for kind in now)
        wait_for("descriptors to be what they were: %s, now %s" % (open_before, self.measure(self.ruche)[1]), back, 30)
        after = self.measure(self.ruche)[0]
        print("%d cycles: %d descriptors, memory %+d KiB" % (CYCLES - WARM, sum(open_before.values()), (after - memory) >> 10), flush=True)
        if "ESSAIM_SANITIZED" not in os.environ:       # a sanitizer keeps what was freed
            self.assertLess(after, memory + GROWTH)
        self.assertEqual(self.ruche.model("tiny")["engine"]["pid"], engine)


if __name__ == "__main__":
    unittest.main(verbosity=2)
