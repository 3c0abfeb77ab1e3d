"""Real nodes on this machine, driven as anyone would: by the command line and HTTP. For the demonstration, the tests and the benches.
Python's standard library only.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import glob
import http.client
import json
import os
import re
import signal
import subprocess
import time

DEADLINE_S = 120


class Failed(Exception):
    """What was asked cannot be had; its words say why."""


class Stuck(Failed):
    """Something did not come in time: the nodes' logs may say why."""


class Node:
    """One essaimd with its home under folder. settings: {"section.key": value}; ports are any free ones, on loopback. association: its name (the
    node's own when not said), or False for a node that will join one. within: words before every command, those that put it into a
    machine of its own; the settings are then all there are."""

    def __init__(self, name, folder, memory, settings, association=None, demo_model=False, within=()):
        self.name, self.home = name, os.path.join(folder, name.lower())
        self.log_path = self.home + ".log"
        self.within = list(within)
        self.process = None
        every = {} if within else {"link.listen": "127.0.0.1", "link.port": 0, "http.port": 0, "torrent.listen": "127.0.0.1", "torrent.port": 0}
        options = []
        for key, value in {**every, **settings}.items():
            options += ["--set", "%s=%s" % (key, value)]
        options += ["--joining"] if association is False else ["--association", association or name]
        options += ["--demo-model"] if demo_model else []
        self.essaim("init", "--name", name, "--memory", str(memory), *options)

    def essaim(self, *args, ok=True):
        """Runs one command with --json and returns its object."""
        done = subprocess.run([*self.within, "essaim", "--home", self.home, "--json", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        answer = json.loads(lines[-1]) if lines else {}
        if ok and done.returncode:
            error = answer.get("error", {})
            raise Failed("%s: essaim %s: %s%s" % (self.name, args[0], error.get("message", "failed"),
                                                 "\n  -> " + error["remedy"] if error.get("remedy") else ""))
        return answer

    def start(self, environment=None):
        log = open(self.log_path, "ab")
        # In a session of its own: Ctrl-C at the terminal is not meant for it.
        self.process = subprocess.Popen([*self.within, "essaimd", "--home", self.home], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                        start_new_session=True, env={**os.environ, **(environment or {})})
        log.close()

    def wait_until_up(self):
        def up():
            if self.process.poll() is not None:
                with open(self.log_path, errors="replace") as log:
                    raise Failed("%s did not start (exit status %d):\n%s" % (self.name, self.process.returncode, log.read()[-2000:]))
            return "node" in self.essaim("status", ok=False)
        wait_for("%s to start" % self.name, up, 30)

    def set_memory(self, size):
        """Writes [share] memory and has the daemon read it again, as an administrator would."""
        path = os.path.join(self.home, "essaim.conf")
        with open(path) as f:
            lines = f.read().splitlines()
        lines = ["memory = %d" % size if line.startswith("memory =") else line for line in lines]
        with open(path, "w") as f:
            f.write("\n".join(lines) + "\n")
        self.process.send_signal(signal.SIGHUP)

    def model(self, name):
        for model in self.essaim("model", "list")["models"]:
            if model["name"] == name:
                return model
        return None

    def hears_of(self, other, model):
        """What it has heard that other runs of the model: layers that are loaded there."""
        for peer in self.essaim("peers")["peers"]:
            if peer["name"] == other.name:
                return next((m["resident"] for m in peer["models"] if m["name"] == model), [])
        return []

    def ask(self, model, question, chat, max_tokens, on_text=lambda text: None, **more):
        """One streamed question through the OpenAI endpoint -> (answer, tokens, disclosure)."""
        body = {"model": model, "temperature": 0, "max_tokens": max_tokens, "stream": True, "stream_options": {"include_usage": True}, **more}
        body.update({"messages": [{"role": "user", "content": question}]} if chat else {"prompt": question})
        connection = self.http()
        try:
            return self._stream(connection, chat, body, on_text)
        finally:
            connection.close()

    def _stream(self, connection, chat, body, on_text):
        connection.request("POST", "/v1/chat/completions" if chat else "/v1/completions", json.dumps(body),
                           {"Authorization": "Bearer " + self.api_key(), "Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise Failed("%s answered %d: %s" % (self.name, response.status, response.read().decode("utf-8", "replace")))
        answer, tokens, disclosure = "", 0, {}
        for line in response:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise Failed("the answer broke off: %s" % event["error"]["message"])
            disclosure = event.get("essaim", disclosure)
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            for choice in event["choices"]:
                text = choice["delta"].get("content", "") if chat else choice["text"]
                answer += text
                on_text(text)
        return answer, tokens, disclosure

    def http(self):
        port = self.essaim("status")["ports"]["http"]
        return http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)

    def api_key(self):
        with open(os.path.join(self.home, "keys", "api.key")) as f:
            return f.read().strip()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()

    def reap(self):
        if not self.process:
            return
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with open(self.log_path, errors="replace") as log:      # where it was built with --enable-sanitize
            said = log.read()
        report = re.search(r"runtime error: |(ERROR|WARNING): [A-Z]\w+Sanitizer", said)
        if report:
            begins = said.rfind("\n", 0, report.start()) + 1
            raise Failed("%s: %s" % (self.name, said[begins:begins + 8000]))


def partners(abeille, bourdon, colibri):
    """Bourdon and Colibri join Abeille by invitation; Abeille and Bourdon let Colibri use their nodes; all hold links."""
    for guest in (bourdon, colibri):
        guest.essaim("join", abeille.essaim("invite", "--partner")["url"])
        guest.essaim("agreement", "accept", abeille.name)
    wait_for("%s to hear of %s" % (bourdon.name, colibri.name),
             lambda: not bourdon.essaim("agreement", "offer", colibri.name, ok=False).get("error"))
    wait_for("%s to hear %s's offer" % (colibri.name, bourdon.name),
             lambda: not colibri.essaim("agreement", "accept", bourdon.name, ok=False).get("error"))
    for node in (abeille, bourdon, colibri):
        wait_for("%s to reach the others" % node.name, lambda: sum(p["up"] for p in node.essaim("peers")["peers"]) == 2)


def clock_off(by):
    """For Node.start(): the process's clock is off, "+1h" or "-2d". None where libfaketime is not installed."""
    found = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    # A sanitizer in the program, which wants to be loaded first, is not disturbed by it.
    asan = ":".join(filter(None, (os.environ.get("ASAN_OPTIONS"), "verify_asan_link_order=0")))
    return {"LD_PRELOAD": found[0], "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "ASAN_OPTIONS": asan} if found else None


def settled(publisher, guests, name):
    """The publisher keeps to its memory, and the guests know which layers that leaves: until then two may choose the same."""
    def same():
        model = publisher.model(name)
        resident = model["resident"]
        return model["state"] == "ready" and resident == model["placed"] and all(g.hears_of(publisher, name) == resident for g in guests)
    wait_for("%s to keep to its memory" % publisher.name, same)


def wait_for(what, condition, seconds=DEADLINE_S):
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise Stuck("waited %d s for %s" % (seconds, what))
        time.sleep(0.1)
