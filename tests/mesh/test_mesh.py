#!/usr/bin/env python3
"""Three real essaimd on loopback: the main job, and what may go wrong with it.

    Colibri (home) ──> Abeille ──> Bourdon ──> Colibri          A publishes; B and C fetch their layers by BitTorrent;
                                                                A and B let C use their nodes
"""
import base64
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from nodes import Failed, Node, partners, settled, wait_for  # noqa: E402

PROMPT = "Once upon a time"
TOKENS = 24
LAYERS = 12


def ready(node, name):
    model = node.model(name)
    return model and model["state"] == "ready"


def reachable(node, name):
    return node.essaim("ring", name, ok=False).get("possible")


def forms(text):
    """A text as it might be found again: UTF-8, UTF-16, base64 at each alignment, token ids of this model (a byte is a token)."""
    raw = text.encode()
    found = [raw, text.encode("utf-16-le"), b"".join(struct.pack("<i", b + 3) for b in raw), ", ".join(str(b + 3) for b in raw).encode()]
    for lead in range(3):
        found.append(base64.b64encode(b"\0" * lead + raw)[4 if lead else 0:(lead + len(raw)) // 3 * 4])
    return found


def memory(pid):
    """Every part of a process's memory that it may write; what a core file would hold. None where we may not look."""
    parts = []
    try:
        with open("/proc/%d/maps" % pid) as maps, open("/proc/%d/mem" % pid, "rb") as mem:
            for line in maps:
                span, rights = line.split()[:2]
                begin, end = (int(x, 16) for x in span.split("-"))
                if not rights.startswith("rw") or end - begin > 1 << 30:      # a sanitizer's shadow is terabytes
                    continue
                try:
                    mem.seek(begin)
                    parts.append(mem.read(end - begin))
                except (OSError, ValueError, OverflowError):
                    continue                  # a mapping of the kernel's, or gone by now
    except PermissionError:
        return None
    return b"".join(parts)


class Mesh(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        cls.nodes = []
        cls.file = os.path.join(cls.folder.name, "tiny.gguf")
        subprocess.run([sys.executable, os.path.join(TOP, "tests/tools/make_model.py"), cls.file, "--layers", str(LAYERS), "--embd", "256", "--ffn",
                        "512", "--heads", "4", "--kv-heads", "2", "--vocab", "512", "--name", "tiny"], check=True)
        settings = {"share.counts": "weights", "share.context": 512, "share.sessions": 2, "log.level": "debug"}
        cls.whole = Node("Entier", cls.folder.name, "1G", settings)
        cls.abeille = Node("Abeille", cls.folder.name, 1, {**settings, "share.home": "no"})
        cls.bourdon = Node("Bourdon", cls.folder.name, 1, {**settings, "share.home": "no"})
        cls.colibri = Node("Colibri", cls.folder.name, 1, settings)
        cls.nodes = [cls.whole, cls.abeille, cls.bourdon, cls.colibri]
        for node in cls.nodes:
            node.start()
        for node in cls.nodes:
            node.wait_until_up()
        cls.whole.essaim("model", "add", cls.file)
        partners(cls.abeille, cls.bourdon, cls.colibri)
        added = cls.abeille.essaim("model", "add", cls.file)["model"]
        cls.bytes = added["bytes"]
        part = added["parts"]
        every = part["header"] + part["shared"]
        cls.abeille.set_memory(every + 5 * part["layer"] + part["layer"] // 2)
        cls.bourdon.set_memory(every + 5 * part["layer"] + part["layer"] // 2)
        cls.colibri.set_memory(2 * (every + part["layer"]) + part["embedding"] + part["output"] + part["layer"] // 2)
        for node in (cls.bourdon, cls.colibri):
            settled(cls.abeille, [node], "tiny")
            node.essaim("model", "pull", "tiny")
        wait_for("the ring", lambda: reachable(cls.colibri, "tiny"))
        wait_for("the whole", lambda: ready(cls.whole, "tiny"))
        cls.expected = cls.whole.ask("tiny", PROMPT, False, TOKENS, ignore_eos=True)[0]

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

    def ask(self, tokens=TOKENS, **more):
        return self.colibri.ask("tiny", PROMPT, False, tokens, ignore_eos=True, **more)

    def heal(self):
        """Until the ring answers as it did. That it is possible is not enough: a node that went is believed as long as its last advert."""
        def answer():
            try:
                return self.ask()[0]
            except Failed:
                return None
        wait_for("the ring to be whole again", lambda: reachable(self.colibri, "tiny"), 60)
        self.assertEqual(wait_for("the ring to answer again", answer, 60), self.expected)

    def test_ring_answers_as_the_whole_model_does(self):
        answer, tokens, disclosure = self.ask()
        self.assertEqual(answer, self.expected)
        self.assertEqual(tokens, TOKENS)
        stages = disclosure["stages"]
        self.assertEqual(stages[0]["node"], "Colibri")
        self.assertEqual(stages[-1]["node"], "Colibri")
        self.assertEqual({s["node"] for s in stages}, {"Abeille", "Bourdon", "Colibri"})
        self.assertEqual({s["node"] for s in stages if s["saw"] == "text"}, {"Colibri"})
        self.assertEqual([s["layers"][0] for s in stages[1:]], [s["layers"][1] for s in stages[:-1]])

    def test_each_guest_holds_under_60_percent_of_the_model(self):
        for node in (self.bourdon, self.colibri):
            model = node.model("tiny")
            self.assertLess(model["bytes_on_disk"], 0.6 * self.bytes, node.name)
            self.assertFalse(model["complete"])
            blocks = 0
            for folder, _, files in os.walk(os.path.join(node.home, "models")):
                blocks += sum(os.stat(os.path.join(folder, f)).st_blocks * 512 for f in files if f.endswith(".gguf"))
            self.assertGreater(blocks, 0)
            self.assertLess(blocks, 0.65 * self.bytes, "%s's file is sparse" % node.name)

    def test_official_client_streams_and_does_not(self):
        try:
            import openai
        except ImportError:
            self.skipTest("python3-openai is not installed")
        port = self.colibri.essaim("status")["ports"]["http"]
        client = openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % port, api_key=self.colibri.api_key(), max_retries=0)
        self.assertIn("tiny", [m.id for m in client.models.list()])
        done = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=TOKENS, temperature=0, extra_body={"ignore_eos": True})
        self.assertEqual(done.choices[0].text, self.expected)
        self.assertEqual(done.choices[0].finish_reason, "length")
        self.assertEqual(done.usage.completion_tokens, TOKENS)
        chunks = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=TOKENS, temperature=0, stream=True,
                                           extra_body={"ignore_eos": True})
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), self.expected)
        with self.assertRaises(openai.NotFoundError):
            client.completions.create(model="nothing", prompt="x")
        with self.assertRaises(openai.AuthenticationError):
            openai.OpenAI(base_url=client.base_url, api_key="wrong", max_retries=0).models.list()
        with self.assertRaises(openai.BadRequestError):
            client.completions.create(model="tiny", prompt="x", max_tokens=-1)
        with self.assertRaises(openai.BadRequestError):
            client.completions.create(model="tiny", prompt="x " * 2000)

    def test_same_seed_gives_the_same_answer(self):
        first = self.ask(temperature=0.9, seed=7)[0]
        self.assertEqual(self.ask(temperature=0.9, seed=7)[0], first)
        self.assertNotEqual(self.ask(temperature=0.9, seed=8)[0], first)

    def test_engine_killed_in_mid_answer_costs_a_pause_not_the_answer(self):
        killed = []

        def on_text(text):
            if not killed:
                killed.append(self.bourdon.model("tiny")["engine"]["pid"])
                os.kill(killed[0], signal.SIGKILL)

        answer, tokens, _ = self.colibri.ask("tiny", PROMPT, False, 200, on_text, ignore_eos=True)
        self.assertTrue(killed)
        self.assertEqual(tokens, 200)
        self.assertEqual(answer, self.whole.ask("tiny", PROMPT, False, 200, ignore_eos=True)[0])
        self.heal()

    def test_own_engine_killed_leaves_the_daemon_answering(self):
        os.kill(self.colibri.model("tiny")["engine"]["pid"], signal.SIGKILL)
        self.heal()

    def test_client_that_leaves_ends_its_session(self):
        connection = self.colibri.http()
        connection.request("POST", "/v1/completions",
                           json.dumps({"model": "tiny", "prompt": PROMPT, "max_tokens": 400, "temperature": 0, "stream": True, "ignore_eos": True}),
                           {"Authorization": "Bearer " + self.colibri.api_key(), "Content-Type": "application/json"})
        response = connection.getresponse()
        response.readline()
        response.close()
        connection.close()
        wait_for("the session to end everywhere", lambda: not any(
            n.essaim("status")["sessions"]["home"] + n.essaim("status")["sessions"]["serving"] for n in (self.abeille, self.bourdon, self.colibri)), 20)
        self.assertEqual(self.ask()[0], self.expected)

    def test_node_restarted_rejoins_by_itself_and_serves_again(self):
        self.bourdon.stop()
        self.bourdon.reap()
        wait_for("the ring to be open", lambda: not reachable(self.colibri, "tiny"), 60)
        with self.assertRaises(Failed):
            self.ask()
        self.bourdon.start()
        self.bourdon.wait_until_up()
        self.heal()

    def test_node_killed_outright_keeps_its_pieces(self):
        before = self.bourdon.model("tiny")["bytes_on_disk"]
        self.bourdon.process.kill()
        self.bourdon.reap()
        self.bourdon.start()
        self.bourdon.wait_until_up()
        wait_for("its layers", lambda: ready(self.bourdon, "tiny"), 60)
        self.assertEqual(self.bourdon.model("tiny")["bytes_on_disk"], before)
        self.heal()

    def test_sigterm_finishes_the_answer_first(self):
        asked = []

        def on_text(text):
            if not asked:
                asked.append(True)
                self.colibri.stop()

        _, tokens, _ = self.colibri.ask("tiny", PROMPT, False, 100, on_text, ignore_eos=True)
        self.assertEqual(tokens, 100)
        self.assertEqual(self.colibri.process.wait(30), 0)
        self.colibri.start()
        self.colibri.wait_until_up()
        self.heal()

    def test_second_daemon_on_one_home_is_refused(self):
        done = subprocess.run(["essaimd", "--home", self.colibri.home], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"another essaimd runs", done.stdout)

    def test_stranger_gets_nothing(self):
        stranger = Node("Frelon", self.folder.name, "1G", {"share.counts": "weights"})
        self.nodes.append(stranger)
        stranger.start()
        stranger.wait_until_up()
        used = self.abeille.essaim("invite", "--partner")["url"]
        with self.assertRaises(Failed):
            stranger.essaim("join", used[:-8])
        self.assertEqual(stranger.essaim("peers")["peers"], [])
        self.assertEqual(stranger.essaim("model", "list")["models"], [])
        stranger.stop()

    def test_nothing_said_is_kept(self):
        canary = "Zwieback-Quokka-%d" % os.getpid()
        answer, tokens, _ = self.colibri.ask("tiny", canary, False, 40, ignore_eos=True, temperature=1.0, seed=3)
        self.assertEqual(tokens, 40)
        with self.assertRaises(Failed):       # an error in mid-request must not quote it either
            self.colibri.ask("tiny", canary * 60, False, 400)
        connection = self.colibri.http()
        connection.request("GET", "/metrics", headers={"Authorization": "Bearer " + self.colibri.api_key()})
        metrics = connection.getresponse().read()
        connection.close()
        self.assertIn(b"essaim_questions_total", metrics)
        needles = forms(canary) + (forms(answer[:24]) if len(answer) >= 24 else [])
        places = [("the metrics", metrics), ("the last disclosure", json.dumps(self.colibri.essaim("status")).encode())]
        for folder, _, files in os.walk(self.folder.name):
            for name in files:
                if name.endswith((".gguf", ".sock")):
                    continue
                with open(os.path.join(folder, name), "rb") as f:
                    places.append((os.path.join(folder, name), f.read()))
        self.assertGreater(len(places), 20)
        # Whoever computes in between has never held it, in whatever message it might have come: not even in memory.
        for node in (self.abeille, self.bourdon):
            for pid in (node.process.pid, node.model("tiny")["engine"]["pid"]):
                places.append(("%s's memory (process %d)" % (node.name, pid), memory(pid) or b""))
        found = memory(self.colibri.process.pid)
        if found is not None:                 # it is found where it must be: there its text was
            self.assertIn(self.colibri.api_key().encode(), found)
        for place, content in places:
            for needle in needles:
                self.assertNotIn(needle, content, "something said is in %s" % place)
        for node in (self.abeille, self.bourdon, self.colibri):
            for pid in (node.process.pid, node.model("tiny")["engine"]["pid"]):
                with open("/proc/%d/limits" % pid) as f:
                    line = next(line for line in f if line.startswith("Max core file size"))
                self.assertEqual(line.split()[4:6], ["0", "0"])

    def test_model_that_is_still_arriving_is_said_to_be(self):
        late = Node("Tardif", self.folder.name, "1G", {"share.counts": "weights", "share.context": 512})
        self.nodes.append(late)
        late.start()
        late.wait_until_up()
        late.essaim("join", self.abeille.essaim("invite", "--partner")["url"])
        wait_for("the model to be known", lambda: late.model("tiny"))
        self.abeille.stop()                   # the only one who has all of it
        self.abeille.reap()
        try:
            late.essaim("model", "pull", "tiny", "--no-wait")
            wait_for("the fetching", lambda: late.model("tiny")["state"] == "arriving")
            connection = late.http()
            connection.request("POST", "/v1/completions", json.dumps({"model": "tiny", "prompt": "x"}),
                               {"Authorization": "Bearer " + late.api_key(), "Content-Type": "application/json"})
            response = connection.getresponse()
            error = json.loads(response.read())["error"]
            connection.close()
            self.assertEqual(response.status, 503)
            self.assertGreater(int(response.headers["Retry-After"]), 0)
            self.assertEqual(error["code"], "model_arriving")
            self.assertIn("arriving", error["message"])
        finally:
            late.stop()
            self.abeille.start()
            self.abeille.wait_until_up()
        wait_for("Abeille's layers", lambda: ready(self.abeille, "tiny"), 60)      # its advert of before is still believed
        self.heal()

    def test_zz_revocation_in_mid_answer_ends_it(self):
        revoked = []

        def on_text(text):
            if not revoked:
                revoked.append(time.monotonic())
                self.bourdon.essaim("agreement", "revoke", "Colibri")

        with self.assertRaises(Failed) as ended:
            self.colibri.ask("tiny", PROMPT, False, 450, on_text, ignore_eos=True)
        self.assertTrue(revoked, ended.exception)
        wait_for("the ring to be refused", lambda: not reachable(self.colibri, "tiny"), 20)
        self.bourdon.essaim("agreement", "offer", "Colibri")
        wait_for("the new offer", lambda: not self.colibri.essaim("agreement", "accept", "Bourdon", ok=False).get("error"))
        self.heal()


if __name__ == "__main__":
    unittest.main(verbosity=2)
