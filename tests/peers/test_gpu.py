#!/usr/bin/env python3
"""A device beside the CPU, on Mesa's software Vulkan (Debian: mesa-vulkan-drivers, libggml0-backend-vulkan): real engines and daemons.

  the sandbox that is wider for it still denies the rest; the demonstration model's greedy texts are the CPU's, no logit is further off than 5 % of the largest;
  what does not fit is refused; nobody gets a software device without naming it; status, advert and doctor say what is used

The first engine that computes compiles for a minute or more, so deadlines are long. Exits 77 (skipped) where there is no such device.

SPDX-License-Identifier: AGPL-3.0-or-later
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Node, wait_for  # noqa: E402

ENGINE = os.environ.get("ESSAIM_ENGINE", "engine/essaim-engine")
MODEL = os.path.join(TOP, "contrib/demo-model/essaim-demo.gguf")
BEGIN, MIDDLE = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
DEVICE = "vulkan/0"
LAYERS = 12
TOKENS = 24
DEADLINE_S = 3000
PATIENT = {"engine.hang_seconds": 3600, "share.context": 512, "share.sessions": 1}


def sandbox(*options):
    return subprocess.run([ENGINE, "--check-sandbox", *options], capture_output=True, text=True, timeout=120)


def check(*options, environment=None):
    run = subprocess.run([ENGINE, "--check", MODEL, "--gpu", DEVICE, "--json", *options], capture_output=True, text=True, timeout=DEADLINE_S,
                         env={**os.environ, **(environment or {})})
    return json.loads(run.stdout)


def prompts():
    """(question, is it a chat, what llama-completion says on the CPU): contrib/demo-model/eval/README says how it was made."""
    with open(os.path.join(TOP, "contrib/demo-model/eval/greedy.tsv"), encoding="utf-8") as f:
        for line in f.read().splitlines():
            prompt, expected = line.rstrip("\n").replace("\\n", "\n").split("\t")
            chat = prompt.startswith(BEGIN)
            yield prompt[len(BEGIN):-len(MIDDLE)] if chat else prompt, chat, expected


class Engine(unittest.TestCase):
    def test_sandbox_denies_with_a_device_what_it_denies_without(self):
        usual, wider = sandbox(), sandbox("--gpu", DEVICE)
        self.assertEqual((usual.returncode, wider.returncode), (0, 0), wider.stdout + wider.stderr)
        self.assertNotIn("ALLOWED", usual.stdout + wider.stdout)
        denied = [{line.split(" (")[0] for line in run.stdout.splitlines() if line.startswith("denied: ")} for run in (usual, wider)]
        self.assertEqual(denied[0] - denied[1], {"denied: map new code", "denied: turn data into code"})
        self.assertIn("denied: open a file", denied[1])
        self.assertIn("denied: make an internet socket", denied[1])

    def test_a_software_device_is_never_chosen_by_itself(self):
        run = sandbox("--gpu", "auto")
        if run.returncode == 0:
            self.skipTest("this machine has a real card")
        self.assertEqual(run.returncode, 2)
        self.assertIn("no card with memory of its own", run.stderr)

    def test_a_device_that_is_not_there_is_said(self):
        run = sandbox("--gpu", "vulkan/77")
        self.assertEqual(run.returncode, 2, run.stdout)
        self.assertIn("no device 77", run.stderr)

    def test_two_shards_are_within_the_tolerance_of_the_cpu(self):
        said = check("--stages", "2", "--tokens", "32")
        print(said)
        self.assertTrue(said["close"], said)
        self.assertLessEqual(said["max_logit_difference"], 0.05 * said["largest_logit"])
        self.assertFalse(said["bit_identical"], "it was the CPU that computed")
        self.assertEqual(said["device_layers"], LAYERS)

    def test_a_device_without_room_is_a_refusal(self):
        said = check("--stages", "1", "--tokens", "4", environment={"GGML_VK_FORCE_MAX_BUFFER_SIZE": "1500000"})
        self.assertEqual(said["code"], "BUDGET", said)
        self.assertIn("allocate", said["error"])


class Nodes(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        self.nodes = []

    def tearDown(self):
        for node in self.nodes:
            node.stop()
        for node in self.nodes:
            node.reap()
        self.folder.cleanup()

    def node(self, name, memory, settings, **more):
        node = Node(name, self.folder.name, memory, {**PATIENT, **settings}, **more)
        self.nodes.append(node)
        node.start()
        node.wait_until_up()
        return node

    def publisher(self, name, memory, settings):
        node = self.node(name, memory, settings)
        node.essaim("model", "add", MODEL)
        return node

    def resident(self, node, name="essaim-demo"):
        def ready():
            model = node.model(name)
            self.assertNotEqual(model and model["engine"]["state"], "failed", model)
            return model and model["engine"]["state"] == "ready" and model
        return wait_for("%s to load" % node.name, ready, DEADLINE_S)

    def checks(self, node, name):
        return [c for c in node.essaim("doctor", ok=False)["checks"] if c["check"] == name]

    def test_without_being_asked_nothing_changes(self):
        node = self.publisher("Ruche", "1G", {})
        self.resident(node)
        status = node.essaim("status")
        self.assertEqual(status["gpu"]["kind"], "none")
        self.assertEqual(status["gpu"]["sandbox"], "usual")
        self.assertTrue(status["engine"].endswith(" cpu"), status["engine"])
        self.assertEqual(node.model("essaim-demo")["engine"]["device_layers"], 0)

    def test_a_card_that_is_wanted_and_not_there_leaves_the_cpu(self):
        if sandbox("--gpu", "auto").returncode == 0:
            self.skipTest("this machine has a real card")
        node = self.publisher("Ruche", "1G", {"share.gpu": "auto"})
        self.resident(node)
        status = node.essaim("status")
        self.assertEqual(status["gpu"]["kind"], "none")
        self.assertIn("no card", status["gpu"]["why"])
        self.assertTrue(any("[share] gpu asks for one" in w["text"] for w in status["warnings"]), status["warnings"])
        self.assertTrue(status["engine"].endswith(" cpu"), status["engine"])
        self.assertTrue(any("asks for one" in c["text"] and c["remedy"] for c in self.checks(node, "node")))

    def test_a_whole_model_on_the_device_answers_as_the_cpu_does(self):
        node = self.publisher("Carte", "64M", {"share.gpu": DEVICE, "share.gpu_memory": "256M"})
        engine = self.resident(node)["engine"]
        self.assertTrue(engine["sandboxed"])
        self.assertEqual(engine["device_layers"], LAYERS)
        self.assertGreater(engine["device_bytes"], 4 << 20)
        status = node.essaim("status")
        gpu = status["gpu"]
        self.assertEqual((gpu["wanted"], gpu["kind"], gpu["sandbox"], gpu["budget"]), (DEVICE, "software", "software", 256 << 20))
        self.assertEqual(gpu["used"], engine["device_bytes"])
        self.assertIn("llvmpipe", gpu["name"])
        self.assertEqual(status["budget"]["bytes"], (64 + 256) << 20)
        self.assertTrue(status["engine"].endswith(" vulkan"), status["engine"])
        self.assertTrue(any("llvmpipe" in c["text"] and c["state"] == "good" for c in self.checks(node, "gpu")))
        for question, chat, expected in prompts():
            answer, _, _ = node.ask("essaim-demo", question, chat, TOKENS)
            self.assertTrue(answer and expected.startswith(answer), (question, answer, expected))

    def test_a_ring_of_a_processor_and_a_device(self):
        """The ends here, the rest there, where the device holds some layers of it."""
        size = os.path.getsize(MODEL)
        home = self.node("Colibri", size * 4 // 10, {"share.counts": "weights"}, association="Ruche")
        card = self.node("Carte", size * 7 // 10, {"share.counts": "weights", "share.gpu": DEVICE, "share.gpu_memory": "3M", "share.home": "no"},
                         association=False)
        card.essaim("join", home.essaim("invite", "--node")["url"])
        card.stop()
        card.reap()
        card.start()
        card.wait_until_up()
        home.essaim("model", "add", MODEL)

        def ready():
            return home.essaim("ring", "essaim-demo", ok=False).get("possible")
        wait_for("a ring", ready, DEADLINE_S)
        stages = home.essaim("ring", "essaim-demo")["stages"]
        self.assertIn("Carte", [s["name"] for s in stages])
        engine = card.model("essaim-demo")["engine"]
        self.assertTrue(0 < engine["device_layers"] < LAYERS, engine)
        self.assertLessEqual(engine["device_bytes"], 3 << 20)
        self.assertTrue(home.essaim("status")["engine"].endswith(" cpu"))
        self.assertTrue(card.essaim("status")["engine"].endswith(" vulkan"))
        for question, chat, expected in list(prompts())[:4]:
            answer, _, _ = home.ask("essaim-demo", question, chat, TOKENS)
            self.assertTrue(answer and expected.startswith(answer), (question, answer, expected))


if __name__ == "__main__":
    probe = sandbox("--gpu", DEVICE)
    if probe.returncode == 2:
        print("no Vulkan device: %s" % probe.stderr.strip())
        sys.exit(77)
    unittest.main(verbosity=2)
