#!/usr/bin/env python3
"""test_architectures.py: llama.cpp's own suite of tiny models, one or more for each architecture, against the engine's table of quirks.

    test_architectures.py [--layers N] [--models DIR] [NAME ...]

Each model that test-llama-archs writes (Debian: llama.cpp-tests) is run whole and in shards, by the frames that a ring uses
(essaim-engine --check --every: each legal cut alone and all at once, prompts of 1, 7 and 64 tokens and 16 more one by one, two sessions
whose blocks alternate, all logits compared, and one of them sent back twice: into its answer, and into its prompt):

    the table says     then the engine must
    rings              be exact: every token the same, no logit off by more than 1e-5 of the largest
    whole, or nothing  refuse before it loads a shard, with the reason; never crash, never answer something else

Layers are stacked first (tests/tools/stack_model.py), to as few as make two cuts legal, so that there is a shard with neither end; with
--layers N to N. Exits 77 (skipped) where the suite is not installed.

SPDX-License-Identifier: AGPL-3.0-or-later
"""
import argparse
import concurrent.futures
import glob
import json
import os
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "tools"))
sys.dont_write_bytecode = True
from stack_model import Model  # noqa: E402

ENGINE = os.environ.get("ESSAIM_ENGINE", "engine/essaim-engine")
SUITE = glob.glob("/usr/libexec/*/llama.cpp-tests/test-llama-archs") + glob.glob("/usr/libexec/llama.cpp-tests/test-llama-archs")
ENOUGH = (3, 6, 12, 24)          # layers to try: up to three of the longest period
REASON_MAX = 127                 # characters of a manifest's reason


def table():
    lines = subprocess.run([ENGINE, "--list-architectures"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split("\t")[0]: line.split("\t")[1] == "rings" for line in lines}


def check(path):
    run = subprocess.run([ENGINE, "--check", path, "--every", "--threads", "1", "--json"], capture_output=True, text=True, timeout=900)
    try:
        return json.loads(run.stdout)
    except ValueError:
        return {"exact": False, "error": "no answer, exit status %d: %s" % (run.returncode, run.stderr[-300:]), "code": "none"}


def stacked(path, scratch, layers):
    out = os.path.join(scratch, os.path.basename(path))
    model = Model(path)
    model.stack(layers)
    model.write(out)
    return out


def one(path, known, scratch, layers):
    """One model: (good, what to say)."""
    try:
        if not known.get(Model(path).architecture, False):
            said = check(path)
            reason = said.get("error", "")
            good = said.get("code") == "UNSUPPORTED" and 0 < len(reason) < REASON_MAX
            return good, "refused: " + reason if good else "not refused: " + json.dumps(said)
        for more in (layers,) if layers else ENOUGH:
            said = check(stacked(path, scratch, more))
            if said.get("splits", 0) > 1 or said.get("code", "UNSUPPORTED") != "UNSUPPORTED":
                break
        # A stack that libllama does not take even whole is no model (k2-horizon's values have experts where its networks have): then as it came.
        if said.get("code") == "MODEL" and said["error"].startswith("layers [0, %d)" % more):
            said = check(path)
        if not said["exact"]:
            return False, "NOT EXACT: " + json.dumps(said)
        return True, "exact%s, %d layers, %d splits, %d tokens, truncation %s" % (
            ", bit-identical" if said["bit_identical"] else "", said["layers"][-1][1], said["splits"], said["tokens"],
            "refused" if said["replays"] else "done")
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        return False, "%s: %s" % (type(error).__name__, error)
    finally:
        if os.path.exists(os.path.join(scratch, os.path.basename(path))):
            os.unlink(os.path.join(scratch, os.path.basename(path)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--models")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()

    if not args.models and not SUITE:
        print("test-llama-archs is not installed (Debian: llama.cpp-tests)")
        return 77
    known, seen, failed, exact = table(), set(), 0, 0
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(2) as pool:
        models = args.models
        if not models:
            models = os.path.join(scratch, "models")
            os.mkdir(models)
            subprocess.run([SUITE[0], "-o", models], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.mkdir(os.path.join(scratch, "stacked"))
        paths = [p for p in sorted(glob.glob(os.path.join(models, "*.gguf"))) if not args.names or os.path.basename(p)[:-5] in args.names]
        jobs = [(p, pool.submit(one, p, known, os.path.join(scratch, "stacked"), args.layers)) for p in paths]
        for path, job in jobs:
            good, text = job.result()
            seen.add(Model(path).architecture)
            failed += not good
            exact += bool(good) and text.startswith("exact")
            print("%-4s %-24s %s" % ("ok" if good else "FAIL", os.path.basename(path)[:-5], text), flush=True)
    untested = sorted(name for name in known if known[name] and name not in seen)
    if untested and not args.names:
        print("FAIL in the table but not in the suite: " + ", ".join(untested))
        failed += 1
    print("%d models: %d exact in shards, %d refused, %d failed" % (len(jobs), exact, len(jobs) - exact - failed, failed))
    return 1 if failed or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
