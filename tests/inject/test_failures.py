#!/usr/bin/env python3
"""The n-th allocation fails, or the n-th call that reads, writes, opens or connects: of a real daemon while it starts, joins, makes
a ring and answers, and is asked by `essaim`; of an engine while it loads and answers. Each time: no crash, no hang, no record lost; a clear error or none, and
the next try without failures succeeds.

    ESSAIM_FAIL_EVERY=1 tests/inject/test_failures.py      every n (`contrib/quickstart check --long`); `make check` takes some of them,
                                                           and all of joining and of `essaim`'s commands

What fails is decided by tests/inject/failing.c, which lies between the program and the C library.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import errno
import http.client
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BUILD = os.environ.get("ESSAIM_BUILD", os.path.join(TOP, ".essaim", "build"))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Failed, Node, wait_for  # noqa: E402

LIBRARY = os.path.join(BUILD, "tests/inject/failing.so")
EVERY = bool(os.environ.get("ESSAIM_FAIL_EVERY"))
SAMPLES = 12                                  # of each sort and each part of a node's life, in `make check`
MEMORY, IO = 0, 1
SORTS = {MEMORY: (errno.ENOMEM,), IO: (errno.EIO, errno.ENOSPC, errno.EMFILE)}
QUESTION = "What is a ring?"
SETTINGS = {"share.counts": "weights", "share.context": 256, "share.sessions": 2}
MODEL = os.path.join(TOP, "contrib", "demo-model", "essaim-demo.gguf")


class Failing:
    """The struct of failing.c, shared with a process."""
    SORT = struct.Struct("=QQQQQ32s32sQ")

    def __init__(self, path):
        self.path = path
        with open(path, "w+b") as f:
            f.truncate(2 * self.SORT.size)
            self.map = mmap.mmap(f.fileno(), 0)

    def environment(self):
        return {"ESSAIM_FAIL": self.path, "LD_PRELOAD": LIBRARY}

    def arm(self, sort, at, error=errno.ENOMEM, burst=1):
        for s in (MEMORY, IO):
            self.map[s * self.SORT.size:(s + 1) * self.SORT.size] = self.SORT.pack(0, at if s == sort else 0, 0, burst, error, b"", b"", 0)

    def seen(self, sort):
        return self.SORT.unpack_from(self.map, sort * self.SORT.size)[0]

    def told(self, sort):
        """What failed, for whoever must find out why."""
        _, at, failed, _, error, what, place, where = self.SORT.unpack_from(self.map, sort * self.SORT.size)
        return "call %d (%s from %s 0x%x): %s; failed %d times" % (
            at, what.rstrip(b"\0").decode(), place.rstrip(b"\0").decode() or "the program", where, errno.errorcode.get(error), failed)


def some(n, seed, every):
    """Which of n calls are to fail: all, or a sample with both ends in it."""
    numbers = range(1, n + 1)
    if EVERY or every or n <= SAMPLES:
        return list(numbers)
    return sorted({1, n} | set(random.Random(seed).sample(numbers, SAMPLES - 2)))


def keys_of(value):
    """What an answer has in it, whatever the values. Not what its lists have: they say what there is at that moment."""
    return {key: keys_of(below) for key, below in value.items()} if isinstance(value, dict) else None


@unittest.skipUnless(os.path.exists(LIBRARY), "tests/inject/failing.so was not built")
class Failures(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        self.addCleanup(self.folder.cleanup)
        self.failing = Failing(os.path.join(self.folder.name, "failing"))
        self.nodes, self.ports = [], {}
        self.addCleanup(self.end)

    def end(self):
        for node in self.nodes:
            node.stop()
        for node in self.nodes:
            node.reap()

    def new(self, name, memory="1G", association=None, **settings):
        node = Node(name, self.folder.name, memory, {**SETTINGS, **settings}, association)
        self.nodes.append(node)
        return node

    def up(self, node, environment=None):
        open(node.log_path, "w").close()
        node.start(environment)
        node.wait_until_up()
        self.ports[node] = node.essaim("status")["ports"]["http"]

    def down(self, node):
        node.stop()
        self.assertEqual(node.process.wait(60), 0, self.log(node))

    def log(self, node):
        with open(node.log_path, errors="replace") as log:
            return log.read()[-3000:]

    def cases(self, count, try_one, every=False):
        """try_one(sort, at, error) for every sort, place and error; count(sort) says how many calls there are. All are tried before it fails.
        every: also in `make check`, because each takes a tenth of a second."""
        wrong = []
        for sort, errors in SORTS.items():
            n = count(sort)
            self.assertGreater(n, 0, "nothing was counted")
            print("%s: %d %s" % (self.id().split(".")[-1], n, ("allocations", "calls")[sort]), flush=True)
            for at in some(n, sort, every):
                try:
                    try_one(sort, at, errors[at % len(errors)])
                except (AssertionError, Failed, OSError, http.client.HTTPException) as e:
                    wrong.append(str(e))
                    print("WRONG:", e, flush=True)
        self.assertFalse(wrong, "\n".join(wrong))

    def alive(self, node, told):
        """Or, so that the other cases can be tried, started anew and told."""
        status = node.process.poll()
        if status is not None:
            log = self.log(node)
            self.up(node, self.failing.environment())
            self.fail("%s ended with %d: %s\n%s" % (node.name, status, told, log))

    def know(self, node):
        """What it must never lose."""
        status = node.essaim("status")
        return status["node"]["id"], status["node"].get("association"), node.essaim("agreement", "list")

    def test_start_up(self):
        node = self.new("Ruche")
        self.up(node)
        known = self.know(node)
        self.down(node)

        def start(sort, at, error):
            self.failing.arm(sort, at, error)
            open(node.log_path, "w").close()
            node.start(self.failing.environment())
            end = time.monotonic() + 60
            while time.monotonic() < end:
                if node.process.poll() is not None:
                    return False
                if "node" in node.essaim("status", ok=False):
                    return True
                time.sleep(0.05)
            self.fail("neither up nor ended. %s\n%s" % (self.failing.told(sort), self.log(node)))

        def count(sort):
            self.assertTrue(start(sort, 0, 0))
            n = self.failing.seen(sort)
            self.down(node)
            return n

        def try_one(sort, at, error):
            started = start(sort, at, error)
            told = self.failing.told(sort)
            try:
                if started:
                    node.stop()
                status = node.process.wait(60)
                # Where libuv finds no memory for its table of descriptors, it takes the handle for active and asserts when it is closed.
                if not (status == -signal.SIGABRT and "libuv" in told and "uv__stream_close: Assertion" in self.log(node)):
                    self.assertEqual(status, 0 if started else 1, told + "\n" + self.log(node))
                self.assertTrue(started or self.log(node), told + ": it ended without a word")
            except subprocess.TimeoutExpired:
                node.process.kill()
                self.fail("does not end. %s\n%s" % (told, self.log(node)))
            self.up(node)
            self.assertEqual(self.know(node), known, told)
            self.down(node)

        self.cases(count, try_one)

    def test_joining(self):
        """The one who joins, then the one who invited."""
        host, guest = self.new("Ruche"), self.new("Abeille")
        for who, other in ((guest, host), (host, guest)):
            self.up(who, self.failing.environment())
            self.up(other)

            def join(sort, at, error):
                url = host.essaim("invite", "--partner")["url"]
                self.failing.arm(sort, at, error)
                answer = guest.essaim("join", url, ok=False)
                if "error" in answer:
                    self.assertTrue(answer["error"]["message"], self.failing.told(sort))
                time.sleep(0.05)
                n, told = self.failing.seen(sort), self.failing.told(sort)
                self.failing.arm(sort, 0)
                return n, told

            def try_one(sort, at, error):
                told = join(sort, at, error)[1]
                self.alive(who, told)
                guest.essaim("join", host.essaim("invite", "--partner")["url"])
                wait_for("the link after " + told, lambda: any(p["up"] for p in guest.essaim("peers")["peers"]), 60)

            self.cases(lambda sort: join(sort, 0, 0)[0], try_one, every=True)
            known = {node: self.know(node) for node in (host, guest)}
            self.down(who)
            self.down(other)
            for node in (host, guest):      # what was agreed upon is on the disk
                self.up(node)
                self.assertEqual(self.know(node), known[node])
                self.down(node)

    def test_commands(self):
        """What `essaim` asks of a node that knows another one and has a model: a whole answer or an error, and the daemon goes on."""
        abeille, ruche = self.new("Abeille"), self.new("Ruche")
        self.up(abeille)
        self.up(ruche, self.failing.environment())
        ruche.essaim("join", abeille.essaim("invite", "--partner")["url"])
        ruche.essaim("agreement", "offer", "Abeille")
        ruche.essaim("model", "add", MODEL, "--name", "demo")
        wait_for("the model", lambda: ruche.model("demo")["state"] == "ready")
        for command in (("status",), ("peers",), ("model", "list"), ("ring", "demo"), ("agreement", "list"), ("agreement", "offer", "Abeille"),
                        ("agreement", "revoke", "Nobody"), ("roster", "list"), ("invite", "--partner"), ("model", "pull", "demo"),
                        ("model", "clear", "demo"), ("pause",), ("resume",), ("doctor",)):
            with self.subTest(command=command):
                expected = ruche.essaim(*command, ok=False)

                def count(sort):
                    self.failing.arm(sort, 0)
                    ruche.essaim(*command, ok=False)
                    return self.failing.seen(sort)

                def try_one(sort, at, error):
                    self.failing.arm(sort, at, error)
                    answer = ruche.essaim(*command, ok=False)
                    told = "%s: %s" % (" ".join(command), self.failing.told(sort))
                    self.failing.arm(sort, 0)
                    self.alive(ruche, told)
                    if "error" in answer:
                        self.assertTrue(answer["error"]["message"], told)
                    else:
                        self.assertEqual(keys_of(answer), keys_of(expected), told)

                self.cases(count, try_one, every=True)

    def ask(self, node):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[node], timeout=60)
        try:
            connection.request("POST", "/v1/completions",
                               json.dumps({"model": "demo", "prompt": QUESTION, "max_tokens": 8, "temperature": 0, "ignore_eos": True}),
                               {"Authorization": "Bearer " + node.api_key(), "Content-Type": "application/json"})
            response = connection.getresponse()
            body = response.read()
        except (ConnectionError, http.client.HTTPException):
            return None, "the connection was closed"      # its own recv() or send() failed
        finally:
            connection.close()
        if response.status == 200:
            choice = json.loads(body)["choices"][0]
            return choice["text"], choice["finish_reason"]
        return None, json.loads(body)["error"]["message"]

    def ring(self, failing_node, environment):
        """Colibri (home) ──> Abeille ──> Colibri; one of them with the library in it."""
        abeille = self.new("Abeille", **{"share.home": "no"})
        colibri = self.new("Colibri", 1)
        for node in (abeille, colibri):
            self.up(node, environment if node.name == failing_node else None)
        colibri.essaim("join", abeille.essaim("invite", "--partner")["url"])
        colibri.essaim("agreement", "accept", "Abeille")
        part = abeille.essaim("model", "add", MODEL, "--name", "demo")["model"]["parts"]
        wait_for("Abeille", lambda: abeille.model("demo")["state"] == "ready")
        colibri.set_memory(2 * (part["header"] + part["shared"] + part["layer"]) + part["embedding"] + part["output"] + part["layer"] // 2)
        wait_for("the model", lambda: colibri.model("demo"))
        colibri.essaim("model", "pull", "demo")
        wait_for("the ring", lambda: colibri.essaim("ring", "demo", ok=False).get("possible"))
        return abeille, colibri

    def clear(self, node):
        """Three ends of an engine within ten minutes put a model into quarantine; here they are many."""
        model = node.model("demo")
        if model["state"] == "failed" or model["engine"].get("state") == "quarantined":
            node.essaim("model", "clear", "demo", ok=False)

    def answers(self, name):
        abeille, colibri = self.ring(name, self.failing.environment())
        who = colibri if name == "Colibri" else abeille
        expected = self.ask(colibri)
        self.assertTrue(expected[0])

        def count(sort):
            self.failing.arm(sort, 0)
            self.assertEqual(self.ask(colibri), expected)
            return self.failing.seen(sort)

        def try_one(sort, at, error):
            self.failing.arm(sort, at, error)
            answer = self.ask(colibri)
            told = self.failing.told(sort)
            self.failing.arm(sort, 0)
            self.alive(who, told)
            if answer[0] is None:
                self.assertTrue(answer[1], told)
            else:
                self.assertEqual(answer, expected, told)
            end = time.monotonic() + 60
            while True:                     # an engine may have to start again, a link to be made again
                for node in (abeille, colibri):
                    self.clear(node)
                answer = self.ask(colibri)
                if answer[0] is not None or time.monotonic() > end:
                    break
                time.sleep(0.1)
            self.assertEqual(answer, expected, "%s\n%s" % (told, self.log(who)))
            for node in (abeille, colibri):
                wait_for("%s's sessions to end after %s" % (node.name, told),
                         lambda: not any(node.essaim("status")["sessions"][k] for k in ("home", "serving")), 60)

        self.cases(count, try_one)

    def test_answer_at_home(self):
        self.answers("Colibri")

    def test_answer_at_a_stage(self):
        self.answers("Abeille")

    def test_engine(self):
        """Its own allocations and calls while it loads and answers: it may end, with a word why; then it is started again."""
        wrapper = os.path.join(self.folder.name, "engine")
        with open(wrapper, "w") as f:
            f.write("#!/bin/sh\nexport ESSAIM_FAIL='%s' LD_PRELOAD='%s'\nexec '%s' \"$@\"\n" % (self.failing.path, LIBRARY, os.environ["ESSAIM_ENGINE"]))
        os.chmod(wrapper, 0o755)
        node = self.new("Ruche")
        self.up(node, {"ESSAIM_ENGINE": wrapper})
        pid = node.process.pid
        node.essaim("model", "add", MODEL, "--name", "demo")
        wait_for("the model", lambda: node.model("demo")["state"] == "ready")
        expected = self.ask(node)

        def again():
            """A new engine, and a question to it."""
            engine = node.model("demo")["engine"]["pid"]
            if engine:
                os.kill(engine, signal.SIGKILL)
            node.essaim("model", "clear", "demo", ok=False)

        def settled():
            model = node.model("demo")
            return (model["state"] == "ready" and self.ask(node)) or (model["state"] == "failed" and (None, model["why"]))

        def count(sort):
            self.failing.arm(sort, 0)
            again()
            wait_for("an answer", lambda: (settled() or [None])[0])
            return self.failing.seen(sort)

        def try_one(sort, at, error):
            self.failing.arm(sort, at, error)
            again()
            answer = wait_for("an answer or an error", settled)
            told = self.failing.told(sort)
            self.failing.arm(sort, 0)
            self.assertTrue(answer == expected or answer[1], told)
            node.essaim("model", "clear", "demo", ok=False)

            def mended():
                self.clear(node)
                return self.ask(node) == expected
            wait_for("the answer of before, after %s" % told, mended)
            self.assertEqual(node.process.pid, pid, told)

        self.cases(count, try_one)


if __name__ == "__main__":
    unittest.main(verbosity=2)
