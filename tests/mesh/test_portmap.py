#!/usr/bin/env python3
"""[link] map_ports: a node asks its router for its ports, and a node outside dials in. The machines are network namespaces, and the router's
daemon is Debian's miniupnpd.

    pc                       box: masquerades, lets nothing in,       ruche
    192.168.1.2  ---lan---   but for what miniupnpd was asked  ---    192.0.2.2
                             198.51.100.2                             no way to pc but the box

SPDX-License-Identifier: AGPL-3.0-or-later
"""
import os
import signal
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "contrib"))
from machines import Machine, machines_not_permitted, wire  # noqa: E402
from nodes import Node, wait_for  # noqa: E402

MINIUPNPD = "/usr/sbin/miniupnpd"
RULES = """
table inet filter {
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
    chain forward { type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "lan" accept
        jump miniupnpd
    }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; oifname "wan" masquerade; }
}
"""
# The addresses of examples count as reserved there; what a provider's shared address is must be tried as well.
CONF = """
ext_ifname=wan
ext_allow_private_ipv4=yes
listening_ip=lan
enable_upnp={upnp}
enable_pcp_pmp={pmp}
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
secure_mode=yes
system_uptime=yes
uuid=7a91f911-fdc1-43aa-9c5d-df13d9489e11
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


class Portmap(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="essaim-test.")
        self.addCleanup(self.folder.cleanup)
        self.machines = [Machine() for _ in range(3)]
        self.pc, self.box, self.ruche = self.machines
        for machine in self.machines:
            self.addCleanup(machine.close)
        wire(self.pc, "eth0", self.box, "lan")
        wire(self.ruche, "eth0", self.box, "wan")
        self.pc.address("eth0", "192.168.1.2/24")
        self.pc.gateway("192.168.1.1")
        self.box.address("lan", "192.168.1.1/24")
        self.ruche.address("eth0", "192.0.2.2/24")
        self.ruche.run("ip", "route", "add", "default", "dev", "eth0")

    def route(self, outside="198.51.100.2/24"):
        self.box.address("wan", outside)
        self.box.run("ip", "route", "add", "default", "dev", "wan")
        self.box.run("nft", "-f", "-", input=RULES.encode())
        self.box.forward()

    def miniupnpd(self, **how):
        conf = os.path.join(self.folder.name, "miniupnpd.conf")
        with open(conf, "w") as f:
            f.write(CONF.format(**how))
        with open(os.path.join(self.folder.name, "miniupnpd.log"), "ab") as log:
            daemon = subprocess.Popen([*self.box.within, MINIUPNPD, "-d", "-f", conf, "-P", os.path.join(self.folder.name, "pid")], stdin=subprocess.DEVNULL,
                                      stdout=log, stderr=log)

        def end():
            daemon.terminate()
            daemon.wait()
        self.addCleanup(end)
        return end

    def node(self, name, machine, settings):
        node = Node(name, self.folder.name, "64M", settings, within=machine.within)
        self.addCleanup(node.reap)
        self.addCleanup(node.stop)
        node.start()
        node.wait_until_up()
        return node

    def mapping(self, node, state):
        return wait_for("the mapping to be %s" % state, lambda: (lambda m: m if m["state"] == state else None)(node.essaim("status")["mapping"]))

    def passed_on(self):
        return self.box.run("nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd").decode()

    def is_reached_from_outside(self, by):
        pc = self.node("pc", self.pc, {"link.map_ports": "yes"})
        mapping = self.mapping(pc, "mapped")
        self.assertEqual(mapping["address"], "198.51.100.2:7740")
        self.assertIn(by, mapping["text"])
        for port in ("7740", "7742"):
            self.assertIn(port, self.passed_on())

        # The address enters invitations and the card; the other side dials it.
        invited = wait_for("the invitation to name it", lambda: (lambda i: i if "198.51.100.2:7740" in i["addresses"] else None)(pc.essaim("invite", "--partner")))
        self.assertEqual(invited["addresses"][0], "198.51.100.2:7740")
        ruche = self.node("ruche", self.ruche, {})
        self.assertEqual(ruche.essaim("join", invited["url"])["association_name"], "pc")
        peer = wait_for("a link", lambda: [p for p in ruche.essaim("peers")["peers"] if p["up"]])[0]
        self.assertEqual(peer["name"], "pc")
        found = wait_for("a doctor's answer", lambda: (lambda c: c if any(k["check"] == "reach" and k["state"] == "good" for k in c) else None)(
            pc.essaim("doctor", ok=False)["checks"]))
        self.assertIn("198.51.100.2", [c for c in found if c["check"] == "router"][0]["text"])
        # For weights, too, though nothing is wanted: the port is open.
        self.assertTrue([c for c in found if c["check"] == "weights" and c["state"] == "good"], found)
        return pc

    def switched_off(self, node):
        with open(os.path.join(node.home, "essaim.conf")) as f:
            text = f.read()
        with open(os.path.join(node.home, "essaim.conf"), "w") as f:
            f.write(text.replace("map_ports = yes", "map_ports = no"))
        node.process.send_signal(signal.SIGHUP)
        self.mapping(node, "off")
        wait_for("the router to have them back", lambda: "7740" not in self.passed_on() and "7742" not in self.passed_on())
        wait_for("the invitation to name it no more", lambda: "198.51.100.2:7740" not in node.essaim("invite", "--partner")["addresses"])

    def test_by_upnp_and_taken_back_when_it_stops(self):
        self.route()
        self.miniupnpd(upnp="yes", pmp="no")
        pc = self.is_reached_from_outside("UPnP")
        pc.stop()
        pc.reap()
        self.assertEqual(pc.process.returncode, 0)
        self.assertNotIn("7740", self.passed_on())
        self.assertNotIn("7742", self.passed_on())

    def test_by_nat_pmp_and_taken_back_when_it_is_switched_off(self):
        self.route()
        self.miniupnpd(upnp="no", pmp="yes")
        self.switched_off(self.is_reached_from_outside("NAT-PMP"))

    def warned(self, node):
        self.mapping(node, "failed")
        found = [w for w in node.essaim("status")["warnings"] if "router" in w["text"]]
        self.assertEqual(len(found), 1)
        self.assertNotIn("198.51.100.2:7740", node.essaim("invite", "--partner")["addresses"])
        self.assertTrue([c for c in node.essaim("doctor", ok=False)["checks"] if c["text"] == found[0]["text"] and c["state"] == "bad"])
        return found[0]

    def test_a_router_that_does_not_answer_is_said_with_what_to_do_by_hand(self):
        self.route()
        found = self.warned(self.node("pc", self.pc, {"link.map_ports": "yes"}))
        self.assertIn("7740 and 7742", found["text"])
        self.assertIn("by hand", found["remedy"])

    def test_an_address_that_is_not_public_is_said(self):
        self.route("100.64.0.2/24")
        self.miniupnpd(upnp="yes", pmp="yes")
        found = self.warned(self.node("pc", self.pc, {"link.map_ports": "yes"}))
        self.assertIn("100.64.0.2 is not public", found["text"])

    def test_a_port_that_another_machine_has_is_said_and_left_to_it(self):
        self.route()
        self.miniupnpd(upnp="yes", pmp="no")
        self.pc.run("ip", "addr", "add", "192.168.1.3/24", "dev", "eth0")
        wait_for("another machine to have it", lambda: not subprocess.run(
            [*self.pc.within, sys.executable, "-c", OTHER, "192.168.1.3", "7740"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode)
        pc = self.node("pc", self.pc, {"link.map_ports": "yes"})
        self.assertIn("7740", self.warned(pc)["text"])
        pc.stop()
        pc.reap()
        self.assertIn("192.168.1.3", self.passed_on())

    def test_it_is_off_unless_asked_for(self):
        self.route()
        self.miniupnpd(upnp="yes", pmp="yes")
        pc = self.node("pc", self.pc, {})
        self.assertEqual(pc.essaim("status")["mapping"]["state"], "off")
        self.assertNotIn("7740", self.passed_on())


# Another machine's mapping, by UPnP: found by its description's port, asked from its own address.
OTHER = r'''
import re, socket, sys, urllib.request
inside, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((inside, 0))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(inside))
s.settimeout(3)
s.sendto(b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: upnp:rootdevice\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\r\n", ("239.255.255.250", 1900))
place = re.search(rb"(?i)location: *(\S+)", s.recv(2000)).group(1).decode()
top = re.match(r"http://([^/:]+):(\d+)", place)
service = "urn:schemas-upnp-org:service:WANIPConnection:1"
page = urllib.request.urlopen(place, timeout=5).read().decode()
control = re.search(r"<controlURL>([^<]*(?:IPCon|IPConn)[^<]*)</controlURL>", page).group(1)
body = ("<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\">"
        "<s:Body><u:AddPortMapping xmlns:u=\"%s\"><NewRemoteHost></NewRemoteHost><NewExternalPort>%d</NewExternalPort><NewProtocol>TCP</NewProtocol>"
        "<NewInternalPort>%d</NewInternalPort><NewInternalClient>%s</NewInternalClient><NewEnabled>1</NewEnabled><NewPortMappingDescription>other"
        "</NewPortMappingDescription><NewLeaseDuration>3600</NewLeaseDuration></u:AddPortMapping></s:Body></s:Envelope>" % (service, port, port, inside))
c = socket.create_connection((top.group(1), int(top.group(2))), 5, (inside, 0))
c.sendall(("POST %s HTTP/1.0\r\nHost: %s:%s\r\nSOAPAction: \"%s#AddPortMapping\"\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%s"
           % (control, top.group(1), top.group(2), service, len(body), body)).encode())
sys.exit(b" 200 " not in c.recv(4000).split(b"\r\n")[0])
'''


if __name__ == "__main__":
    why = machines_not_permitted(["nft", "--version"], [MINIUPNPD, "--version"])
    if why and "miniupnpd --version" not in why:        # it knows no such option, but it is there
        print("skipped: a router needs network namespaces and miniupnpd: " + why)
        sys.exit(77)
    unittest.main(verbosity=2)
