#!/usr/bin/env python3
"""contrib/bench with a tiny model: that it measures what it says it does. Its figures mean nothing here.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
BENCH = os.path.join(TOP, "contrib", "bench")
loader = importlib.machinery.SourceFileLoader("bench", BENCH)
bench = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench", loader))
loader.exec_module(bench)

EMBD = 256


class Bench(unittest.TestCase):
    def test_interval_is_of_order_statistics_and_none_is_made_up(self):
        # Binomial tables: 15 values, the 4th and the 12th; under 6 there is no such interval.
        self.assertEqual(bench.interval(list(range(15, 0, -1))), [4, 12])
        self.assertEqual(bench.interval([3, 1, 2, 6, 5, 4]), [1, 6])
        self.assertIsNone(bench.interval([1, 2, 3, 4, 5]))

    def test_what_lacks_is_said_and_no_figure_is_given(self):
        nothing = {**os.environ, "PATH": "/nonexistent"}
        for key in ("torrent_over_copy", "node_over_llama_server"):
            done = subprocess.run([sys.executable, BENCH, "--json", key], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=nothing)
            result = json.loads(done.stdout.decode().splitlines()[-1])
            self.assertNotEqual(done.returncode, 0)
            self.assertNotIn(key, result)
            self.assertIn("not installed", result["missing"][key])

    def test_ring_and_whole_are_compared(self):
        with tempfile.TemporaryDirectory(prefix="essaim-test.") as folder:
            file, temporary = os.path.join(folder, "tiny.gguf"), os.path.join(folder, "tmp")
            os.mkdir(temporary)
            subprocess.run([sys.executable, os.path.join(TOP, "tests/tools/make_model.py"), file, "--layers", "8", "--embd", str(EMBD), "--ffn", "512",
                            "--heads", "4", "--kv-heads", "2", "--vocab", "16000", "--name", bench.RANDOM["model"]], check=True)
            done = subprocess.run([sys.executable, BENCH, "--json", "--pairs", "1", "--model", file, "ring_over_whole", "ring_prefill_over_whole"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": temporary}, timeout=600)
            self.assertEqual(done.returncode, 0, done.stderr.decode("utf-8", "replace"))
            self.assertEqual(os.listdir(temporary), [])
        result = json.loads(done.stdout.decode().splitlines()[-1])
        medians = result["medians"]
        for what in ("decode", "prefill"):
            key = {"decode": "ring_over_whole", "prefill": "ring_prefill_over_whole"}[what]
            speeds = [medians["%s_%s_tokens_per_second" % (side, what)] for side in ("ring", "whole")]
            self.assertAlmostEqual(result[key] / (speeds[0] / speeds[1]), 1, 2)
            self.assertIsNone(result[key + "_interval"])        # of one pair
        # Three links carry a row of float32 each; frames, and what nodes say to each other besides, add to it.
        self.assertGreater(medians["ring_decode_wire_bytes_per_token"], 3 * EMBD * 4)
        self.assertNotIn("whole_decode_wire_bytes_per_token", medians)


if __name__ == "__main__":
    unittest.main(verbosity=2)
