"""torrent_over_copy: how long two nodes take to fetch one file from a third, over the time that one copy takes at best.

    publisher        first          second          network namespaces; each link is 100 Mbit/s (tbf) in each direction
        |              |              |
        +--------- a router ----------+

Without sharing between the two the publisher's link has to carry both copies: 2.0. With it, each sends on what it has. The ideal
is the file's bytes over the link's rate: no header of any protocol is taken off.

Python's standard library only; numpy for the model. SPDX-License-Identifier: AGPL-3.0-or-later
"""
import os
import shutil
import subprocess
import sys
import time

from machines import Machine, machines_not_permitted, wire
from nodes import Node, wait_for

RATE_BITS = 100_000_000
MODEL = "copied"
SHAPE = ["--layers", "11", "--embd", "2048", "--ffn", "5632", "--heads", "32", "--kv-heads", "4", "--vocab", "512", "--type", "q4_0"]
LEAST_BYTES = 256_000_000
FETCH_S = 300


def why_not():
    """What lacks here, or None."""
    return machines_not_permitted(["tc", "-Version"])


def limit(machine, device):
    machine.run("tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", "%dbit" % RATE_BITS, "burst", "64kb", "latency", "100ms")


class Field:
    """Three nodes behind one router."""

    def __init__(self, folder):
        self.nodes, self.machines = [], [Machine()]
        router = self.machines[0]
        router.forward()
        for i, name in enumerate(("Source", "Premier", "Second")):
            machine = Machine()
            self.machines.append(machine)
            wire(machine, "eth0", router, "to%d" % i)
            machine.address("eth0", "10.74.%d.2/24" % i)
            router.address("to%d" % i, "10.74.%d.1/24" % i)
            machine.gateway("10.74.%d.1" % i)
            limit(machine, "eth0")
            limit(router, "to%d" % i)
            settings = {"link.listen": "10.74.%d.2" % i, "torrent.listen": "10.74.%d.2" % i, "share.counts": "weights", "share.context": 64}
            node = Node(name, folder, "4G", settings, "Champ" if i == 0 else False, within=machine.within)
            self.nodes.append(node)
            node.start()
            node.wait_until_up()

    def join(self):
        source = self.nodes[0]
        for node in self.nodes[1:]:
            node.essaim("join", source.essaim("invite", "--node")["url"])
            node.stop()
            node.reap()
            node.start()
            node.wait_until_up()
        for node in self.nodes:
            wait_for("%s to reach the others" % node.name, lambda: sum(p["up"] for p in node.essaim("peers")["peers"]) == 2)

    def end(self):
        for node in self.nodes:
            node.stop()
        for node in self.nodes:
            node.reap()
        for machine in self.machines:
            machine.close()


def fetch(guests):
    """Both begin at once, with nothing -> seconds until both have every byte."""
    begin = time.monotonic()
    for guest in guests:
        guest.essaim("resume")

    def done(node):
        model = next((m for m in node.essaim("model", "list")["models"] if m["name"] == MODEL), None)
        return model and model["bytes_wanted"] and model["bytes_have"] == model["bytes_wanted"] and model["complete"]
    for node in guests:
        wait_for("%s to have it all" % node.name, lambda: done(node), FETCH_S)
    return time.monotonic() - begin


def measure(folder, times, say):
    """-> ratios"""
    field, values = None, []
    path = os.path.join(folder, MODEL + ".gguf")
    maker = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "tools", "make_model.py")
    subprocess.run([sys.executable, maker, path, *SHAPE, "--name", MODEL], check=True)
    size = os.path.getsize(path)
    assert size >= LEAST_BYTES, size
    try:
        field = Field(folder)
        field.join()
        source, guests = field.nodes[0], field.nodes[1:]
        ideal = size * 8 / RATE_BITS
        for number in range(1, times + 1):
            for guest in guests:
                guest.essaim("pause")
            source.essaim("model", "add", path, "--licence", "CC0-1.0")
            for guest in guests:
                wait_for("%s to hear of it" % guest.name, lambda: any(m["approved"] for m in guest.essaim("model", "list")["models"]))
            values.append(fetch(guests) / ideal)
            source.essaim("model", "remove", MODEL)
            for guest in guests:
                guest.stop()
                guest.reap()
                shutil.rmtree(os.path.join(guest.home, "models"))
                guest.start()
                guest.wait_until_up()
            say("  torrent  %2d/%d  %.1f s, ideal %.1f s  ->  %.3f" % (number, times, values[-1] * ideal, ideal, values[-1]))
    finally:
        if field:
            field.end()
    return values
