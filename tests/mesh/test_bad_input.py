#!/usr/bin/env python3
"""What people, programs, files and strangers get wrong: each time a clear error, and a node that goes on and has lost nothing.

Rules that can be tested without a daemon are tested in tests/unit; here are the ones that need a real one. Every test ends with the same
question, whose answer must still be the same, from the same process.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import http.client
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Failed, Node, clock_off, wait_for  # noqa: E402

MODEL = os.path.join(TOP, "contrib", "demo-model", "essaim-demo.gguf")
QUESTION = "What is a ring?"
SETTINGS = {"share.counts": "weights", "share.context": 256, "share.sessions": 2}


class World(unittest.TestCase):
    """One node with the demonstration model, for all tests of a class."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        cls.node = Node("Ruche", cls.folder.name, "1G", SETTINGS)
        cls.node.start()
        cls.node.wait_until_up()
        cls.node.essaim("model", "add", MODEL, "--name", "demo")
        wait_for("the model", lambda: cls.node.model("demo")["state"] == "ready")
        cls.answer = cls.node.ask("demo", QUESTION, True, 16)[0]
        cls.pid = cls.node.process.pid

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()
        cls.node.reap()
        cls.folder.cleanup()

    def tearDown(self):
        self.assertIsNone(self.node.process.poll(), "essaimd has ended")
        self.assertEqual(self.node.ask("demo", QUESTION, True, 16)[0], self.answer)

    def refused(self, *args, says=()):
        """A command fails with an error that has a message saying all of these words."""
        error = self.node.essaim(*args, ok=False).get("error", {})
        self.assertTrue(error.get("message"), "%s was not refused" % (args,))
        for word in [says] if isinstance(says, str) else says:
            self.assertIn(word.lower(), (error["message"] + " " + error.get("remedy", "")).lower())
        return error


class Files(World):
    def file(self, name, content):
        path = os.path.join(self.folder.name, name)
        with open(path, "wb") as f:
            f.write(content)
        return path

    def model_bytes(self):
        with open(MODEL, "rb") as f:
            return bytearray(f.read())

    def add(self, name, content, says=()):
        self.refused("model", "add", self.file(name, content), "--name", "bad", "--licence", "CC0-1.0", says=says)
        self.assertIsNone(self.node.model("bad"))

    def test_what_is_no_model_is_refused(self):
        self.add("empty.gguf", b"")
        self.add("garbage.gguf", random.Random(1).randbytes(100000))
        self.add("text.gguf", b"Once upon a time there was a file.\n" * 100)
        self.refused("model", "add", os.path.join(self.folder.name, "nothing.gguf"))
        self.refused("model", "add", self.folder.name)
        self.refused("model", "add", "/dev/zero")

    def test_old_and_future_versions_are_refused(self):
        for version in (1, 0, 99):
            content = self.model_bytes()
            content[4:8] = struct.pack("<I", version)
            self.add("version.gguf", content)

    def test_truncated_models_are_refused(self):
        whole = self.model_bytes()
        for part in (3, 8, 23, 24, 1000, 40000, len(whole) // 2, len(whole) - 1):
            self.add("cut.gguf", whole[:part])

    def test_counts_that_claim_the_world_are_refused(self):
        for where in (8, 16):                   # number of tensors, of keys
            for count in (1 << 62, 0xffffffff, 1 << 20):
                content = self.model_bytes()
                content[where:where + 8] = struct.pack("<Q", count)
                self.add("count.gguf", content)

    def test_flipped_bits_are_refused_or_make_another_model_but_end_nothing(self):
        rng = random.Random(7)
        for _ in range(6):
            content = self.model_bytes()
            for _ in range(4):
                at = rng.randrange(24, 60000)
                content[at] ^= 1 << rng.randrange(8)
            path = self.file("flipped.gguf", content)
            self.node.essaim("model", "add", path, "--name", "flipped", "--licence", "CC0-1.0", ok=False)
            self.node.essaim("model", "remove", "flipped", ok=False)

    def test_licence_is_asked_for_where_the_file_says_none(self):
        content = bytes(self.model_bytes())
        self.assertIn(b"general.license", content[:100000])
        path = self.file("unlicensed.gguf", content.replace(b"general.license", b"general.nothing", 1))
        self.refused("model", "add", path, says="--licence")

    def test_licence_that_forbids_passing_on_is_kept_private(self):
        content = bytes(self.model_bytes())
        for licence in ("proprietary", "All Rights Reserved", "unlicensed", "LicenseRef-Proprietary"):
            self.refused("model", "add", MODEL, "--name", "theirs", "--licence", licence, says=("passed on", "--private"))
        for licence in ("other", "unknown"):
            self.refused("model", "add", MODEL, "--name", "theirs", "--licence", licence, says="does not say its licence")
        path = self.file("theirs.gguf", content[:-4] + b"\x05\x06\x07\x08")
        self.node.essaim("model", "add", path, "--name", "theirs", "--licence", "proprietary", "--private")
        self.node.essaim("model", "remove", "theirs")

    def test_more_behind_the_last_tensor_is_refused_or_carried_along(self):
        path = self.file("long.gguf", bytes(self.model_bytes()))
        os.truncate(path, 3 << 30)               # sparse: 3 GB of zeros behind it
        answer = self.node.essaim("model", "add", path, "--name", "long", "--licence", "CC0-1.0", ok=False)
        if "error" in answer:
            self.assertTrue(answer["error"]["message"])
            self.assertIsNone(self.node.model("long"))
        else:
            self.node.essaim("model", "remove", "long")

    def test_names_that_are_none_are_refused(self):
        for name in ("", "a/b", "a@b", "x" * 64, " a", "a\nb", "\x1b[31m"):
            self.refused("model", "add", MODEL, "--name", name, "--licence", "CC0-1.0", says="name")

    def test_published_file_that_vanishes_or_changes_is_said(self):
        path = self.file("vanishing.gguf", self.model_bytes()[:-4] + b"\x01\x02\x03\x04")
        self.node.essaim("model", "add", path, "--name", "vanishing", "--licence", "CC0-1.0")
        wait_for("it", lambda: self.node.model("vanishing")["state"] == "ready")
        with open(path, "r+b") as f:
            f.truncate(1000)
        answer = None
        try:                                    # its weights are in memory already, or it fails: both are clean
            answer = self.node.ask("vanishing", QUESTION, True, 4)[0]
        except Failed:
            pass
        self.assertIsNot(answer, "")
        os.unlink(path)
        os.kill(self.node.model("vanishing")["engine"]["pid"], signal.SIGKILL)
        wait_for("the loss to be told", lambda: re.search("not the file that was published", self.node.model("vanishing")["why"]), 60)
        self.node.essaim("model", "remove", "vanishing")


class Commands(World):
    def test_invitations_that_are_none_are_refused(self):
        url = self.node.essaim("invite", "--partner")["url"]
        for bad in ("", "essaim://join/#", "http://example.org", url[:-20], url[:40], url + "AAAA", url.replace("#", "#A", 1), "x" * 100000):
            self.refused("join", bad)
        self.refused("join", url, says="this very node")
        self.refused("invite", "--partner", "--address", "nonsense", says="HOST:PORT")
        self.refused("invite", "--partner", "--address", "[::1", says="HOST:PORT")

    def test_names_that_nobody_has_are_named_back(self):
        self.refused("model", "pull", "nonesuch", says="nonesuch")
        self.refused("agreement", "offer", "nonesuch", says="nonesuch")
        self.refused("agreement", "accept", "nonesuch", says="nonesuch")
        self.refused("roster", "remove", "nonesuch", says="nonesuch")
        self.refused("ring", "nonesuch", says="nonesuch")

    def test_control_socket_takes_no_nonsense(self):
        for line in (b"\n", b"{}\n", b"[]\n", b"nonsense\n", b'{"command": 7}\n', b'{"command": "status", "args": []}\n', b"\xff\xfe\n", b"{" * 100000 + b"\n",
                     b'{"command": "model_add", "args": {"path": 5}}\n', b'{"command": "invite", "args": {"role": "node", "hours": -1}}\n'):
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(20)
                s.connect(os.path.join(self.node.home, "control.sock"))
                s.sendall(line)
                answer = s.recv(65536)
                if answer:
                    self.assertIn(b'"ok":', answer.replace(b'"ok" :', b'"ok":'))

    def test_second_daemon_on_one_home_is_refused(self):
        done = subprocess.run(["essaimd", "--home", self.node.home], capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"another essaimd runs", done.stdout + done.stderr)


class Http(World):
    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.node.essaim("status")["ports"]["http"]), timeout=60)
        self.addCleanup(s.close)
        return s

    def post(self, body, path="/v1/chat/completions", headers=None):
        connection = self.node.http()
        self.addCleanup(connection.close)
        head = {"Authorization": "Bearer " + self.node.api_key(), "Content-Type": "application/json"}
        head.update(headers or {})
        connection.request("POST", path, body if isinstance(body, (bytes, str)) else json.dumps(body), {k: v for k, v in head.items() if v is not None})
        response = connection.getresponse()
        text = response.read()
        return response.status, text

    def is_error(self, status, body, expected, says=()):
        self.assertEqual(status, expected, body[:300])
        error = json.loads(body)["error"]
        self.assertTrue(error["message"])
        for word in [says] if isinstance(says, str) else says:
            self.assertIn(word, error["message"])

    def chat(self, **more):
        return {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, **more}

    def test_bodies_that_are_no_request_are_refused(self):
        for body in (b"", b"{", b"[]", b"null", b'{"model": "demo"', b"\x00\x01\x02", b'{"model": "demo", "messages": "hello"}', b'{"messages": []}',
                     b'{"model": "demo", "messages": [{"role": "user", "content": "\xff\xfe"}]}', b"[" * 20000 + b"]" * 20000):
            self.is_error(*self.post(body), 400)

    def test_fields_out_of_range_are_named(self):
        for field, value in (("max_tokens", -1), ("max_tokens", "many"), ("temperature", -1), ("temperature", 100), ("top_p", 2), ("n", -3), ("stop", 7),
                             ("seed", "x"), ("stream", "yes"), ("messages", [{"role": "user"}]), ("messages", [{"role": 5, "content": "x"}])):
            with self.subTest(field=field, value=value):
                self.is_error(*self.post(self.chat(**{field: value})), 400, field)

    def test_fields_that_nobody_knows_are_named_or_left_alone(self):
        status, body = self.post(self.chat(nonsense_field=1))
        if status != 200:
            self.is_error(status, body, 400, "nonsense_field")

    def test_unknown_model_is_named(self):
        self.is_error(*self.post(self.chat(model="nonesuch")), 404, "no such model")

    def test_prompt_past_the_context_is_told_with_numbers(self):
        self.is_error(*self.post(self.chat(messages=[{"role": "user", "content": "word " * 2000}])), 400, "256")

    def test_ten_megabytes_are_refused(self):
        try:
            status, body = self.post(self.chat(messages=[{"role": "user", "content": "x" * (10 << 20)}]))
        except (BrokenPipeError, ConnectionResetError):
            return                              # told to stop sending
        self.assertIn(status, (400, 413), body[:200])

    def test_no_key_and_a_wrong_host_are_refused(self):
        self.is_error(*self.post(self.chat(), headers={"Authorization": None}), 401)
        self.is_error(*self.post(self.chat(), headers={"Authorization": "Bearer wrong"}), 401)
        self.is_error(*self.post(self.chat(), headers={"Host": "evil.example"}), 403)

    def test_headers_without_end_are_cut_off(self):
        s = self.connect()
        s.sendall(b"GET /v1/models HTTP/1.1\r\n")
        sent = 0
        try:
            while sent < 16 << 20:
                s.sendall(b"X-Filler: %s\r\n" % (b"y" * 4096))
                sent += 4096
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.assertLess(sent, 16 << 20)

    def test_clients_that_leave_or_stop_reading_cost_nothing(self):
        request = json.dumps(self.chat(max_tokens=200, stream=True)).encode()
        head = ("POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
                "Content-Length: %d\r\n\r\n" % (self.node.api_key(), len(request))).encode()
        stuck = []
        for i in range(6):
            s = self.connect()
            s.sendall(head + request[:len(request) if i % 2 else len(request) // 2])
            if i % 3:
                s.close()
            else:
                stuck.append(s)
        wait_for("a place", lambda: self.node.essaim("status")["sessions"]["home"] == 0, 60)
        for s in stuck:
            s.close()

    def test_two_thousand_idle_connections_leave_room_for_a_question(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2000
        if hard != resource.RLIM_INFINITY and hard < wanted + 100:
            self.skipTest("this process may not open %d files" % wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 100), hard))
        port = self.node.essaim("status")["ports"]["http"]
        idle = []
        try:
            for _ in range(wanted):
                try:
                    s = socket.create_connection(("127.0.0.1", port), timeout=5)
                except OSError:
                    break
                idle.append(s)
            self.assertGreater(len(idle), 50)
            # The command line needs no place among them; a question may have to wait for one, but gets it.
            self.assertIn("node", self.node.essaim("status"))
        finally:
            for s in idle:
                s.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wait_for("the places", lambda: self.post(self.chat())[0] == 200, 60)


class Strangers(World):
    """Whoever can reach the port for links."""

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.node.essaim("status")["ports"]["link"]), timeout=20)
        self.addCleanup(s.close)
        return s

    def closed(self, s):
        """The node closes it without a word."""
        s.settimeout(60)
        try:
            return s.recv(4096) == b""
        except (ConnectionResetError, BrokenPipeError):
            return True

    def test_garbage_is_cut_off(self):
        rng = random.Random(3)
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\xdd\x10\x00\x00\x00" * 100, b"\x81" * 4000, rng.randbytes(5000), b"\x00" * 5000, b"\xff" * 5000):
            s = self.connect()
            try:
                s.sendall(junk)
            except (BrokenPipeError, ConnectionResetError):
                continue
            self.assertTrue(self.closed(s), junk[:20])

    def test_a_thousand_connections_and_slow_ones_leave_the_node_alone(self):
        crowd = []
        port = self.node.essaim("status")["ports"]["link"]
        try:
            for i in range(900):
                try:
                    s = socket.create_connection(("127.0.0.1", port), timeout=5)
                except OSError:
                    break
                crowd.append(s)
                try:
                    s.sendall(b"\x01")
                except OSError:
                    pass
            self.assertEqual(self.node.ask("demo", QUESTION, True, 16)[0], self.answer)
            with open("/proc/%d/status" % self.pid) as f:
                kib = int(next(line for line in f if line.startswith("VmRSS")).split()[1])
            self.assertLess(kib, 512 << 10)
        finally:
            for s in crowd:
                s.close()
        deadline = time.monotonic() + 60
        while len(os.listdir("/proc/%d/fd" % self.pid)) > 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        self.assertLess(len(os.listdir("/proc/%d/fd" % self.pid)), 200)


class Impostor:
    """Something that listens on loopback and is no Essaim: behave(connection) is called for each who comes."""

    def __init__(self, behave):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.behave, self.held = behave, []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
                self.held.append(connection)
                self.behave(connection)
            except OSError:
                return

    def close(self):
        for s in self.held + [self.listener]:
            s.close()


def as_a_web_server(connection):
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


class Joining(unittest.TestCase):
    """What `join` says of each address that does not lead to who invited.   Ruche invites, Nid joins, Autre is somebody else."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        cls.nodes = [Node(name, cls.folder.name, "64M", SETTINGS) for name in ("Ruche", "Nid", "Autre")]
        for node in cls.nodes:
            node.start()
        for node in cls.nodes:
            node.wait_until_up()
        cls.ruche, cls.nid, cls.autre = cls.nodes

    @classmethod
    def tearDownClass(cls):
        for node in cls.nodes:
            node.stop()
        for node in cls.nodes:
            node.reap()
        cls.folder.cleanup()

    def url(self, *addresses):
        words = [word for address in addresses for word in ("--address", address)]
        return self.ruche.essaim("invite", "--partner", *words)["url"]

    def port(self, node, which="link"):
        return "127.0.0.1:%d" % node.essaim("status")["ports"][which]

    def impostor(self, behave):
        found = Impostor(behave)
        self.addCleanup(found.close)
        return found.address

    def fails(self, url, by=None):
        """The error, and what it says of each address."""
        error = (by or self.nid).essaim("join", url, ok=False)["error"]
        self.assertTrue(error["remedy"])
        return error, dict(d["text"].split(": ", 1) for d in error["details"])

    def test_each_address_is_named_with_how_it_failed(self):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = "127.0.0.1:%d" % closed.getsockname()[1]
        web, http = self.impostor(as_a_web_server), self.port(self.ruche, "http")
        silent, closes = self.impostor(lambda connection: None), self.impostor(lambda connection: connection.close())
        other = self.port(self.autre)
        error, said = self.fails(self.url(nobody, web, http, silent, closes, other))
        self.assertEqual(list(said), [nobody, web, http, silent, closes, other])
        self.assertIn("refused", said[nobody])
        self.assertIn("not Essaim: another program", said[web])
        self.assertIn("not Essaim", said[http])
        self.assertIn("says nothing", said[silent])
        self.assertIn("closes it without a word", said[closes])
        self.assertIn("another node than expected", said[other])
        self.assertIn(nobody.rsplit(":")[1], error["remedy"])

    def test_addresses_that_fail_cost_the_invitation_nothing(self):
        other = self.port(self.autre)
        self.assertEqual(self.nid.essaim("join", self.url(other, self.port(self.ruche)))["association_name"], "Ruche")

    def test_a_home_that_takes_nothing_costs_the_invitation_nothing(self):
        url, records = self.url(), os.path.join(self.nid.home, "records")
        os.rename(records, records + ".away")
        with open(records, "w"):
            pass
        try:
            error = self.nid.essaim("join", url, ok=False)["error"]
        finally:
            os.unlink(records)
            os.rename(records + ".away", records)
        self.assertIn("records cannot be written", error["message"])
        self.assertIn("still good", error["remedy"])
        self.assertEqual(self.nid.essaim("join", url)["association_name"], "Ruche")

    def test_an_invitation_that_was_used_is_said_to_be_and_one_that_was_altered(self):
        url = self.url()
        self.nid.essaim("join", url)
        error, said = self.fails(url, self.autre)
        self.assertIn("used before", said[self.port(self.ruche)])
        self.assertIn("new invitation", error["remedy"])
        for path in os.listdir(os.path.join(self.ruche.home, "invitations")):
            os.unlink(os.path.join(self.ruche.home, "invitations", path))
        error, said = self.fails(url, self.autre)
        self.assertIn("does not know this invitation", said[self.port(self.ruche)])

    def test_a_clock_that_differs_is_said_and_costs_the_invitation_nothing(self):
        hour_ahead = clock_off("+1h")
        if not hour_ahead:
            self.skipTest("libfaketime is not installed")
        late = Node("Tard", self.folder.name, "64M", SETTINGS)
        late.start(hour_ahead)
        self.addCleanup(late.reap)
        self.addCleanup(late.stop)
        late.wait_until_up()
        url = self.url()
        error, said = self.fails(url, late)
        self.assertIn("clock", said[self.port(self.ruche)])
        self.assertIn("still good", error["remedy"])
        self.nid.essaim("join", url)

    def test_what_the_http_api_says_is_in_french_for_people(self):
        french = {**os.environ, "LC_ALL": "", "LANGUAGE": "", "LANG": "fr_FR.UTF-8"}
        asked = subprocess.run(["essaim", "--home", self.nid.home, "chat", "nonesuch", "bonjour", "--via", "personne"], stdin=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=french)
        self.assertNotEqual(asked.returncode, 0)
        self.assertIn("aucun nœud nommé « personne »", (asked.stderr + asked.stdout).replace("\n", " "))

    def test_in_french(self):
        other = self.port(self.autre)
        done = subprocess.run(["essaim", "--home", self.nid.home, "join", self.url(other)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, "LC_ALL": "", "LANGUAGE": "", "LANG": "fr_FR.UTF-8"})
        self.assertEqual(done.returncode, 1)
        self.assertIn("impossible de rejoindre", done.stderr)
        self.assertIn("un autre nœud que celui attendu y répond", done.stderr.replace("\n", " "))
        self.assertIn("->", done.stderr)


def own_mounts():
    """The command that runs another one with mounts of its own, or None. In a chroot / is no mount point, so that its propagation cannot be
    changed; it need not be where nothing is shared."""
    with open("/proc/self/mountinfo") as f:
        shared = any(" shared:" in line for line in f)
    command = ["unshare", "--mount", "--propagation", "private" if shared else "unchanged"]
    return None if subprocess.run(command + ["true"], capture_output=True).returncode else command


class Machine(unittest.TestCase):
    """What the machine itself may lack when the node starts."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        self.addCleanup(self.folder.cleanup)

    def node(self, **settings):
        return Node("Ruche", self.folder.name, "1G", {**SETTINGS, **{k.replace("__", "."): v for k, v in settings.items()}})

    def fails(self, node, *words, **how):
        done = subprocess.run(["essaimd", "--home", node.home], capture_output=True, text=True, timeout=60, **how)
        self.assertEqual(done.returncode, 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stdout + done.stderr)
        return done.stderr

    def test_unknown_key_is_answered_with_the_nearest(self):
        node = self.node()
        with open(os.path.join(node.home, "essaim.conf"), "a") as f:
            f.write("\n[share]\nmemroy = 2G\n")
        self.fails(node, "memroy", "did you mean 'memory'")

    def test_set_with_an_unknown_key_makes_no_home(self):
        for setting, word in (("share.memroy=2G", "did you mean 'memory' in [share]"), ("torrents.listen=::1", "'listen' in ["),
                              ("memory=2G", "SECTION.KEY=VALUE"), ("share.memory", "SECTION.KEY=VALUE"),
                              ("share.memory=2G\nx=1", "SECTION.KEY=VALUE"), ("share" * 20 + ".x=1", "SECTION.KEY=VALUE")):
            home = os.path.join(self.folder.name, "none")
            done = subprocess.run(["essaim", "--home", home, "init", "--association", "A", "--name", "n", "--memory", "1G", "--set", setting],
                                  capture_output=True, text=True, timeout=60)
            self.assertNotEqual(done.returncode, 0, setting)
            self.assertIn(word, done.stderr, setting)
            self.assertFalse(os.path.exists(os.path.join(home, "essaim.conf")), setting)

    def test_values_that_make_no_sense_name_the_key(self):
        for section, key, value in (("share", "memory", "lots"), ("http", "port", "70000"), ("share", "hours", "sometimes"), ("log", "level", "loud")):
            node = self.node()
            with open(os.path.join(node.home, "essaim.conf"), "a") as f:
                f.write("\n[%s]\n%s = %s\n" % (section, key, value))
            self.fails(node, key, value)
            shutil.rmtree(node.home)

    def test_ports_in_use_are_named(self):
        for key in ("link__port", "http__port"):
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                node = self.node(**{key: taken.getsockname()[1]})
                self.fails(node, str(taken.getsockname()[1]))
            shutil.rmtree(node.home)

    def test_too_few_descriptors_are_said_or_lived_with(self):
        node = self.node()
        done = subprocess.Popen(["essaimd", "--home", node.home], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)))
        node.process = done
        try:
            output, _ = done.communicate(timeout=15)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(output, r"(?i)too many open files|descriptors")
        except subprocess.TimeoutExpired:       # it lives: then it answers commands, and ends when told
            self.assertIn("node", node.essaim("status"))
            node.stop()
            done.communicate(timeout=30)
            self.assertEqual(done.returncode, 0)

    def test_home_that_cannot_be_written_is_said(self):
        node = self.node()
        mounts = own_mounts()
        if not mounts:
            self.skipTest("mounts are not permitted here")
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec essaimd --home "$0"'
        done = subprocess.run(mounts + ["sh", "-c", script, node.home], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr, r"(?i)read-only")

    def test_keys_that_others_can_read_or_that_are_damaged_are_said(self):
        node = self.node()
        path = os.path.join(node.home, "keys", "node.key")
        with open(path, "rb") as f:
            key = f.read()
        with open(path, "wb") as f:
            f.write(key[:-3])
        self.fails(node, "node.key")
        with open(path, "wb") as f:
            f.write(key)
        os.chmod(path, 0o644)
        done = subprocess.Popen(["essaimd", "--home", node.home], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        node.process = done
        try:
            output, _ = done.communicate(timeout=5)
            self.assertIn("node.key", output)
        except subprocess.TimeoutExpired:
            node.stop()
            output, _ = done.communicate(timeout=30)
            self.assertIn("node.key", output, "nothing is said of a key that everybody can read")

    def test_sigterm_at_any_moment_of_start_up_ends_it_cleanly(self):
        node = self.node()
        for delay in (0, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4):
            done = subprocess.Popen(["essaimd", "--home", node.home], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            time.sleep(delay)
            done.terminate()
            output, _ = done.communicate(timeout=60)
            self.assertIn(done.returncode, (0, -signal.SIGTERM), output)
        node.start()
        node.wait_until_up()
        node.stop()
        node.reap()

    def stop_and_start(self, node, then):
        """SIGTERM ends it with status 0; started again it is as before."""
        node.stop()
        with open(node.log_path, errors="replace") as log:
            self.assertEqual(node.process.wait(60), 0, log.read()[-2000:])
        node.start()
        node.wait_until_up()
        wait_for("its model", lambda: (node.model("demo") or {}).get("state") == "ready")
        self.assertEqual(node.ask("demo", QUESTION, True, 8)[0], then)

    def test_sigterm_while_fetching_and_while_asking_ends_it_cleanly(self):
        abeille, colibri = (Node(name, self.folder.name, "1G", SETTINGS) for name in ("Abeille", "Colibri"))
        nodes = (abeille, colibri)
        try:
            for node in nodes:
                node.start()
            for node in nodes:
                node.wait_until_up()
            colibri.essaim("join", abeille.essaim("invite", "--partner")["url"])
            abeille.essaim("model", "add", MODEL, "--name", "demo")
            wait_for("the model", lambda: abeille.model("demo")["state"] == "ready")
            answer = abeille.ask("demo", QUESTION, True, 8)[0]
            wait_for("the manifest", lambda: colibri.model("demo"))
            colibri.essaim("model", "pull", "demo", "--no-wait")
            for delay in (0, 0.1, 0.4):
                time.sleep(delay)                 # in the middle of fetching, or of loading
                self.stop_and_start(colibri, answer)
            for delay in (0, 0.01, 0.03, 0.1):
                said = []

                def ask():
                    try:
                        said.append(colibri.ask("demo", QUESTION, True, 8)[0])
                    except (Failed, OSError, http.client.HTTPException):
                        said.append(None)         # it had closed its doors

                asking = threading.Thread(target=ask)
                asking.start()
                time.sleep(delay)                 # before, during and after the ring is set up
                self.stop_and_start(colibri, answer)
                asking.join(60)
                self.assertIn(said, ([answer], [None]))
        finally:
            for node in nodes:
                node.stop()
            for node in nodes:
                node.reap()

    def test_disk_that_is_full_loses_nothing_and_is_said(self):
        mounts = own_mounts()
        if not mounts:
            self.skipTest("mounts are not permitted here")
        node = self.node()
        # The home on a disk of 2 MB, filled to the last block; started, asked, stopped and started again.
        script = r'''
set -e
disk=$(dirname "$0")/disk; mkdir -p "$disk"
mount -t tmpfs -o size=2m tmpfs "$disk"; cp -a "$0/." "$disk/"
essaimd --home "$disk" >"$disk.log" 2>&1 & pid=$!
for i in $(seq 100); do essaim --home "$disk" --json status >/dev/null 2>&1 && break; sleep 0.2; done
cat /dev/zero >"$disk/filler" 2>/dev/null || true
before=$(cat "$disk/records/all" | cksum)
essaim --home "$disk" --json invite --partner && echo "invited on a full disk" >&2
kill -HUP $pid; sleep 1
essaim --home "$disk" --json status >"$disk.status"
kill $pid; wait $pid
rm "$disk/filler"
test -s "$disk/records/all"
essaimd --home "$disk" >"$disk.log2" 2>&1 & pid=$!
for i in $(seq 100); do essaim --home "$disk" --json status >"$disk.status2" 2>/dev/null && break; sleep 0.2; done
essaim --home "$disk" --json invite --partner >/dev/null
kill $pid; wait $pid
'''
        done = subprocess.run(mounts + ["bash", "-c", script, node.home], capture_output=True, text=True, timeout=180)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("no space left", done.stdout.lower())
        self.assertNotIn("invited on a full disk", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
