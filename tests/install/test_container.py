#!/usr/bin/env python3
"""contrib/Containerfile, as far as it can be tried without a container engine: its form, that what it copies is there and is all
that the build needs, that its packages are those of packages.txt, and its step that finds what the second image needs.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BUILD = os.getcwd()
sys.dont_write_bytecode = True


def instructions():
    with open(os.path.join(TOP, "contrib/Containerfile")) as f:
        text = "".join(line for line in f if not line.startswith("#"))
    return [line.split(None, 1) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


class Container(unittest.TestCase):
    def test_every_instruction_is_one_and_every_run_is_a_script(self):
        stages = []
        for word, rest in instructions():
            self.assertIn(word, ("FROM", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "CMD"))
            if word == "FROM":
                stages.append(rest)
            if word == "RUN":
                self.assertEqual(subprocess.run(["sh", "-n", "-c", rest], stderr=subprocess.PIPE).stderr, b"", rest)
        self.assertEqual(stages, ["debian:testing AS build", "debian:testing"])

    def test_what_it_copies_is_there_and_is_what_the_build_includes(self):
        copied = set()
        for word, rest in instructions():
            if word == "COPY" and not rest.startswith("--from"):
                for name in rest.split()[:-1]:
                    self.assertTrue(os.path.exists(os.path.join(TOP, name)), name)
                    copied.add(name)
        with open(os.path.join(TOP, "Makefile.am")) as f:
            needed = {line.split()[1].split("/")[0] for line in f if line.startswith("include ")}
        self.assertEqual(needed - copied, set())

    def test_its_packages_are_those_of_the_list(self):
        step = next(rest for word, rest in instructions() if word == "RUN" and "packages.txt" in rest)
        sed = re.search(r"sed -n '[^']*' \S+", step).group(0).replace("/src/", TOP + "/")
        found = subprocess.run(["sh", "-c", sed], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        self.assertIn("libllama-dev", found)
        self.assertNotIn("libcmocka-dev", found)
        self.assertTrue(all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name) for name in found), found)

    @unittest.skipUnless(shutil.which("dpkg-query"), "no dpkg here")
    def test_the_packages_of_the_second_image_are_found(self):
        with tempfile.TemporaryDirectory(prefix="essaim-out.") as out:
            for name in ("cli/essaim", "daemon/essaimd", "engine/essaim-engine"):
                shutil.copy(os.path.join(BUILD, name), out)
            found = subprocess.run([os.path.join(TOP, "contrib/quickstart.d/runtime"), out], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        for part in ("libllama", "libtorrent-rasterbar", "libmicrohttpd", "libc6", "libggml0"):
            self.assertTrue(any(name.startswith(part) for name in found), part)
        for name in found:
            self.assertNotRegex(name, "-dev$")
            self.assertEqual(subprocess.run(["dpkg-query", "--show", name], stdout=subprocess.DEVNULL).returncode, 0, name)


if __name__ == "__main__":
    unittest.main()
