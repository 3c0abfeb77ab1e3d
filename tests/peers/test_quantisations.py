#!/usr/bin/env python3
"""test_quantisations.py: rings against the whole file in the types that models come in.

    test_quantisations.py [TYPE ...]

A model of random 32-bit floats (tests/tools/make_model.py) is quantised by llama.cpp's own llama-quantize (Debian: llama.cpp-tools) and
compared whole and in shards: essaim-engine --check --every, which test_architectures.py describes. Once more with the file in three
parts, as gguf-split writes them. Exits 77 (skipped) where llama-quantize is not installed.

SPDX-License-Identifier: AGPL-3.0-or-later
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOLS = os.path.join(TOP, "tests", "tools")
sys.path.insert(0, TOOLS)
sys.dont_write_bytecode = True
from stack_model import Model  # noqa: E402

ENGINE = os.environ.get("ESSAIM_ENGINE", "engine/essaim-engine")
SHAPE = "--layers 5 --embd 256 --ffn 512 --heads 4 --kv-heads 2 --vocab 512 --type f32".split()
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "IQ4_XS", "MXFP4"]
PARTS = 3


def quantise(source, out, kind, *more):
    """Every matrix of the type: llama-quantize's names mean mixtures, and it has none of MXFP4 for models without experts."""
    mixture = {"MXFP4": "Q8_0", "Q4_K": "Q4_K_S"}.get(kind, kind)
    subprocess.run(["llama-quantize", "--tensor-type", ".*=" + kind.lower(), *more, source, out, mixture, "1"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def types_in(path):
    """ggml's numbers of the types of matrices."""
    return {kind for _, shape, kind in Model(path, data=False).directory if len(shape) > 1}


def check(paths):
    run = subprocess.run([ENGINE, "--check", *paths, "--every", "--threads", "1", "--json"], capture_output=True, text=True, timeout=900)
    try:
        return json.loads(run.stdout)
    except ValueError:
        return {"exact": False, "error": "no answer, exit status %d: %s" % (run.returncode, run.stderr[-300:])}


def report(name, said, single):
    good = said["exact"] and single
    if good:
        text = "exact%s: %d splits, %d tokens" % (", bit-identical" if said["bit_identical"] else "", said["splits"], said["tokens"])
    else:
        text = json.dumps(said) if single else "llama-quantize left matrices of other types"
    print("%-4s %-20s %s" % ("ok" if good else "FAIL", name, text), flush=True)
    return good


def main():
    if not shutil.which("llama-quantize"):
        print("llama-quantize is not installed (Debian: llama.cpp-tools)")
        return 77
    good = True
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "F32.gguf")
        subprocess.run([sys.executable, os.path.join(TOOLS, "make_model.py"), source, *SHAPE], check=True, stdout=subprocess.DEVNULL)
        for kind in sys.argv[1:] or TYPES:
            path = os.path.join(folder, kind + ".gguf")
            if kind != "F32":
                quantise(source, path, kind)
            good = report(kind, check([path]), len(types_in(path)) == 1) and good
        stem = os.path.join(folder, "parts")
        Model(source).write_parts(stem, PARTS)
        names = ["%s-%05d-of-%05d.gguf" % (os.path.join(folder, "q"), i + 1, PARTS) for i in range(PARTS)]
        quantise("%s-00001-of-%05d.gguf" % (stem, PARTS), os.path.join(folder, "q.gguf"), "Q4_K", "--keep-split")
        good = report("Q4_K in %d parts" % PARTS, check(names), True) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
