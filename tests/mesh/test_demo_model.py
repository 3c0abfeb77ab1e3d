#!/usr/bin/env python3
"""The demonstration model on one node: `init --demo-model`, `chat` without naming it, the same greedy text as llama-completion
(contrib/demo-model/eval/greedy.tsv), and bit-identical logits in 2, 3, 5 and 12 shards."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Node  # noqa: E402

MODEL = os.path.join(TOP, "contrib/demo-model/essaim-demo.gguf")
BEGIN, MIDDLE = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"


class DemoModel(unittest.TestCase):
    def test_first_chat_publishes_it_and_says_what_llama_completion_says(self):
        with tempfile.TemporaryDirectory(prefix="essaim-test.") as folder:
            node = Node("Ruche", folder, "1G", {"share.context": 512}, demo_model=True)
            node.start()
            try:
                node.wait_until_up()
                said = subprocess.run(["essaim", "--home", node.home, "--json", "chat", "--temperature", "0"], input=b"What is a ring?", stdout=subprocess.PIPE, timeout=120)
                self.assertEqual(said.returncode, 0, said.stdout)
                self.assertIn("layers", json.loads(said.stdout.splitlines()[-1])["answer"])
                with open(os.path.join(TOP, "contrib/demo-model/eval/greedy.tsv"), encoding="utf-8") as f:
                    lines = [line.rstrip("\n").replace("\\n", "\n").split("\t") for line in f.read().splitlines()]
                self.assertGreaterEqual(len(lines), 9)
                for prompt, expected in lines:
                    chat = prompt.startswith(BEGIN)
                    question = prompt[len(BEGIN):-len(MIDDLE)] if chat else prompt
                    answer, _, _ = node.ask("essaim-demo", question, chat, 96)
                    self.assertEqual(answer, expected, question)
            finally:
                node.stop()
                node.reap()

    def test_shards_say_bit_for_bit_what_the_whole_says(self):
        for stages in (2, 3, 5, 12):
            done = subprocess.run(["essaim", "--json", "model", "check", MODEL, "--stages", str(stages)], stdout=subprocess.PIPE, timeout=300)
            result = json.loads(done.stdout.splitlines()[-1])
            self.assertTrue(result["exact"] and result["bit_identical"], result)
            self.assertEqual(result["max_logit_difference"], 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
