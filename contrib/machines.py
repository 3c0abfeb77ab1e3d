"""Machines on one machine: network namespaces with wires between them, for tests and figures. Python's standard library only.
SPDX-License-Identifier: AGPL-3.0-or-later
"""
import subprocess


class Machine:
    """A network namespace, as long as its holder lives."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        self.within = ["nsenter", "--net=/proc/%d/ns/net" % self.holder.pid]
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *command, **more):
        return subprocess.run([*self.within, *command], check=True, stdout=subprocess.PIPE, **more).stdout

    def address(self, device, *addresses):
        for address in addresses:
            self.run("ip", "addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        self.run("ip", "link", "set", device, "up")

    def gateway(self, *addresses):
        for address in addresses:
            self.run("ip", "-6" if ":" in address else "-4", "route", "add", "default", "via", address)

    def forward(self):
        self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")

    def close(self):
        self.holder.stdin.close()
        self.holder.stdout.close()
        self.holder.wait()


def wire(a, name_a, b, name_b):
    a.run("ip", "link", "add", "name", name_a, "type", "veth", "peer", "name", name_b, "netns", str(b.holder.pid))


def machines_not_permitted(*more):
    """Why there cannot be such machines here, or None; more: commands that are needed too."""
    for command in (["unshare", "--net", "true"], ["ip", "-Version"], ["nsenter", "--version"], *more):
        try:
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except FileNotFoundError:
            return "%s is not installed (contrib/packages.txt)" % command[0]
        if done.returncode:
            return "%s: %s" % (" ".join(command), done.stderr.decode("utf-8", "replace").strip() or "refused")
    return None
