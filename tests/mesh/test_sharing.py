#!/usr/bin/env python3
"""The owner's machine is the owner's: a real node is paused, restarted while paused, and resumed.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import os
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Failed, Node, wait_for  # noqa: E402

MODEL = os.path.join(TOP, "contrib", "demo-model", "essaim-demo.gguf")


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Sharing(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        self.node = Node("Ruche", self.folder.name, "1G", {"share.counts": "weights", "share.context": 256, "share.sessions": 2})
        self.node.start()
        self.node.wait_until_up()
        self.node.essaim("model", "add", MODEL, "--name", "demo")
        self.ready()

    def tearDown(self):
        self.node.stop()
        self.node.reap()
        self.folder.cleanup()

    def ready(self):
        wait_for("the model to be resident", lambda: self.node.model("demo")["state"] == "ready")

    def engine(self):
        return self.node.model("demo")["engine"]["pid"]

    def ask(self):
        return self.node.ask("demo", "What is a ring?", True, 12)[0]

    def test_a_pause_gives_the_machine_back_and_outlives_a_restart(self):
        answer, pid, placed = self.ask(), self.engine(), self.node.model("demo")["placed"]
        self.assertEqual(self.node.essaim("status")["sharing"]["state"], "open")
        self.assertEqual(self.node.essaim("pause", "--for", "2h")["state"], "paused")
        wait_for("the engine to end", lambda: not alive(pid), 10)
        with self.assertRaises(Failed) as refused:
            self.ask()
        self.assertIn("paused", str(refused.exception))
        self.assertEqual(self.node.model("demo")["placed"], placed, "what was placed stays placed")

        self.node.stop()
        self.node.reap()
        self.node.start()
        self.node.wait_until_up()
        self.assertEqual(self.node.essaim("status")["sharing"]["state"], "paused")
        wait_for("the model to be known", lambda: self.node.model("demo"))
        self.assertFalse(self.engine())

        self.assertEqual(self.node.essaim("resume")["state"], "open")
        self.ready()
        self.assertEqual(self.ask(), answer)

    def test_hours_that_are_over_close_like_a_pause(self):
        path = os.path.join(self.node.home, "essaim.conf")
        pid = self.engine()
        with open(path) as f:
            before = f.read()
        # One minute of the week, which is not now unless the test runs at that very minute: then it waits for the next.
        with open(path, "w") as f:
            f.write(before + "\n[share]\nhours = thu 03:33-03:34\n")
        self.node.process.send_signal(1)
        wait_for("the hours to be over", lambda: self.node.essaim("status")["sharing"]["state"] == "hours", 90)
        wait_for("the engine to end", lambda: not alive(pid), 10)
        with open(path, "w") as f:
            f.write(before)
        self.node.process.send_signal(1)
        self.ready()

    def test_a_machine_that_somebody_works_on_is_left_alone(self):
        pid = self.engine()
        path = os.path.join(self.node.home, "essaim.conf")
        with open(path, "a") as f:
            f.write("\n[share]\nidle_only = yes\nidle_minutes = 60\n")
        self.node.process.send_signal(1)
        wait_for("it to wait for idleness", lambda: self.node.essaim("status")["sharing"]["state"] == "busy", 10)
        wait_for("the engine to end", lambda: not alive(pid), 10)

    def test_durations_that_make_no_sense_are_refused(self):
        for text in ("", "0", "-1h", "2w", "h", "9999999d"):
            error = self.node.essaim("pause", "--for", text, ok=False).get("error", {})
            self.assertIn("duration", error.get("message", ""), text)
        self.assertEqual(self.node.essaim("status")["sharing"]["state"], "open")


if __name__ == "__main__":
    unittest.main(verbosity=2)
