#!/usr/bin/env python3
"""Engines that die, hang, meet weights that are no numbers or have too little memory; on real nodes.

    Entier runs two models alone, "tiny" and "other": what befalls one must not reach the other.
    Colibri (home) ──> Abeille ──> Colibri: a ring for "tiny"; its stage hangs and comes back.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Failed, Node, settled, wait_for  # noqa: E402

PROMPT = "Once upon a time"
SANITIZED = "ESSAIM_SANITIZED" in os.environ
POISON = "~"                                  # the byte whose token's embedding is poisoned in "tilde"


def make(folder, name, *more):
    path = os.path.join(folder, name + ".gguf")
    subprocess.run([sys.executable, os.path.join(TOP, "tests/tools/make_model.py"), path, "--layers", "6", "--embd", "256", "--ffn", "512",
                    "--heads", "4", "--kv-heads", "2", "--vocab", "512", "--name", name, *more], check=True)
    return path


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        cls.nodes = []
        folder = cls.folder.name
        tiny, other = make(folder, "tiny"), make(folder, "other", "--seed", "2")
        settings = {"share.counts": "weights", "share.context": 1024, "share.sessions": 2, "engine.hang_seconds": 5, "log.level": "debug"}
        cls.whole = Node("Entier", folder, "1G", settings)
        cls.abeille = Node("Abeille", folder, "1G", {**settings, "share.home": "no"})
        cls.colibri = Node("Colibri", folder, 1, settings)
        cls.nodes = [cls.whole, cls.abeille, cls.colibri]
        for node in cls.nodes:
            node.start()
        for node in cls.nodes:
            node.wait_until_up()
        for file in (tiny, other, make(folder, "broken", "--nan-layer", "3"), make(folder, "tilde", "--nan-token", str(ord(POISON) + 3))):
            cls.whole.essaim("model", "add", file)
        part = cls.abeille.essaim("model", "add", tiny)["model"]["parts"]
        cls.colibri.essaim("join", cls.abeille.essaim("invite", "--partner")["url"])
        cls.colibri.essaim("agreement", "accept", "Abeille")
        cls.colibri.set_memory(2 * (part["header"] + part["shared"] + part["layer"]) + part["embedding"] + part["output"] + part["layer"] // 2)
        settled(cls.abeille, [cls.colibri], "tiny")
        cls.colibri.essaim("model", "pull", "tiny")
        wait_for("the ring", lambda: cls.colibri.essaim("ring", "tiny", ok=False).get("possible"))
        for name in ("tiny", "other", "tilde"):
            wait_for(name, lambda: cls.whole.model(name)["state"] == "ready")
        cls.expected = {name: cls.say(cls.whole, name, 300) for name in ("tiny", "other", "tilde")}

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

    def setUp(self):
        self.whole.essaim("model", "clear", "tiny")        # each test counts its own crashes
        wait_for("tiny", lambda: self.whole.model("tiny")["state"] == "ready")

    @classmethod
    def say(cls, node, name, tokens, on_text=lambda text: None, prompt=PROMPT):
        return node.ask(name, prompt, False, tokens, on_text, ignore_eos=True)[0]

    def pid(self, node, name):
        return node.model(name)["engine"]["pid"]

    def while_other_answers(self, harm):
        """The other model's answer runs while harm() is done to tiny, and is what it always was."""
        begun, answer = threading.Event(), []
        thread = threading.Thread(target=lambda: answer.append(self.say(self.whole, "other", 300, lambda text: begun.set())))
        before = self.pid(self.whole, "other")
        thread.start()
        begun.wait(60)
        harm()
        thread.join(120)
        self.assertEqual(answer, [self.expected["other"]])
        self.assertEqual(self.pid(self.whole, "other"), before)

    def harmed(self, number):
        """An answer of tiny's, in the middle of which its engine gets a signal; -> the error's words."""
        hit = []

        def on_text(text):
            if not hit:
                hit.append(self.pid(self.whole, "tiny"))
                os.kill(hit[0], number)

        with self.assertRaises(Failed) as caught:
            self.say(self.whole, "tiny", 900, on_text)
        self.assertTrue(hit)
        return str(caught.exception)

    def test_killed_engine_is_a_clear_error_and_another_model_goes_on(self):
        self.while_other_answers(lambda: self.assertIn("killed", self.harmed(signal.SIGKILL)))
        wait_for("tiny again", lambda: self.whole.model("tiny")["state"] == "ready")
        self.assertEqual(self.say(self.whole, "tiny", 300), self.expected["tiny"])

    def test_hung_engine_is_ended_and_started_again(self):
        self.while_other_answers(lambda: self.assertIn("no progress", self.harmed(signal.SIGSTOP)))
        wait_for("tiny again", lambda: self.whole.model("tiny")["state"] == "ready")
        self.assertEqual(self.say(self.whole, "tiny", 300), self.expected["tiny"])

    def test_hung_stage_of_a_ring_costs_a_pause(self):
        stopped = []

        def on_text(text):
            if not stopped:
                stopped.append(self.pid(self.abeille, "tiny"))
                os.kill(stopped[0], signal.SIGSTOP)

        self.assertEqual(self.say(self.colibri, "tiny", 300, on_text), self.expected["tiny"])
        self.assertNotEqual(self.pid(self.abeille, "tiny"), stopped[0])

    def test_third_crash_quarantines_until_it_is_cleared(self):
        def crash_three_times():
            for i in range(3):
                wait_for("tiny to be up", lambda: self.whole.model("tiny")["state"] == "ready")
                os.kill(self.pid(self.whole, "tiny"), signal.SIGABRT)
                wait_for("the end of it", lambda: self.whole.model("tiny")["engine"]["crashes"] == i + 1)
        self.while_other_answers(crash_three_times)
        self.assertEqual(self.whole.model("tiny")["engine"]["state"], "quarantined")
        with self.assertRaises(Failed) as caught:
            self.say(self.whole, "tiny", 10)
        self.assertIn("died 3 times", str(caught.exception))
        self.assertEqual(self.say(self.whole, "other", 300), self.expected["other"])
        self.whole.stop()                     # a restart is no clearing
        self.whole.reap()
        self.whole.start()
        self.whole.wait_until_up()
        wait_for("other", lambda: (self.whole.model("other") or {}).get("state") == "ready")
        model = self.whole.model("tiny")
        self.assertEqual(model["engine"]["state"], "quarantined")
        self.assertEqual(model["engine"]["pid"], 0)
        self.assertIn("died 3 times", model["why"])
        self.whole.essaim("model", "clear", "tiny")
        wait_for("tiny again", lambda: self.whole.model("tiny")["state"] == "ready")
        self.assertEqual(self.say(self.whole, "tiny", 300), self.expected["tiny"])
        self.assertEqual(os.listdir(os.path.join(self.whole.home, "quarantine")), [])

    def test_weights_that_are_no_numbers_are_refused(self):
        wait_for("the refusal", lambda: self.whole.model("broken")["state"] == "failed")
        model = self.whole.model("broken")
        self.assertIn("not finite", model["why"])
        self.assertEqual(model["engine"]["crashes"], 0)
        with self.assertRaises(Failed) as caught:
            self.say(self.whole, "broken", 10)
        self.assertIn("not finite", str(caught.exception))

    def test_token_that_is_poisoned_costs_its_question_only(self):
        pid = self.pid(self.whole, "tilde")
        for i in range(4):
            # both places, one after the other, and neither stays poisoned: an answer of 300 tokens reaches past where the poison lay
            errors = []

            def poisoned():
                try:
                    self.say(self.whole, "tilde", 10, prompt=PROMPT * 12 + POISON + PROMPT)
                except Failed as e:
                    errors.append(str(e))

            threads = [threading.Thread(target=poisoned) for _ in range(2)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual(len(errors), 2)
            self.assertTrue(all("not finite" in e for e in errors), errors)
            for _ in range(2):
                self.assertEqual(self.say(self.whole, "tilde", 300, prompt=PROMPT), self.expected["tilde"])
        self.assertEqual(self.pid(self.whole, "tilde"), pid)

    @unittest.skipIf(SANITIZED, "a sanitizer's own memory counts in the limit")
    def test_too_little_memory_is_said_and_nothing_dies(self):
        node = Node("Etroit", self.folder.name, "1G", {"share.counts": "weights", "share.context": 32768, "share.sessions": 32,
                                                      "engine.data_limit": "150M"})
        self.nodes.append(node)
        node.start()
        node.wait_until_up()
        node.essaim("model", "add", os.path.join(self.folder.name, "tiny.gguf"))
        wait_for("the refusal", lambda: node.model("tiny")["state"] == "failed")
        model = node.model("tiny")
        self.assertIn("limited to 150", model["why"])
        self.assertEqual(model["engine"]["crashes"], 0)
        self.assertEqual(node.essaim("status")["node"]["name"], "Etroit")
        node.stop()

    @unittest.skipIf(SANITIZED, "a sanitizer's own memory is taken away with it")
    def test_engine_whose_memory_is_taken_away_does_not_take_others_along(self):
        def starve():
            import resource
            pid = self.pid(self.whole, "tiny")
            resource.prlimit(pid, resource.RLIMIT_DATA, (1 << 20, 1 << 20))
            try:
                answer = self.say(self.whole, "tiny", 300, prompt=PROMPT * 20)
                self.assertTrue(answer)       # it had all it needs
            except Failed as e:
                self.assertRegex(str(e), "engine")
        self.while_other_answers(starve)
        wait_for("tiny again", lambda: self.whole.model("tiny")["state"] == "ready")
        self.assertEqual(self.say(self.whole, "tiny", 300), self.expected["tiny"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
