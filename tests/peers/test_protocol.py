#!/usr/bin/env python3
"""A second implementation of the protocol, written from doc/PROTOCOL.md without a look at the programs' source, against real daemons.

It shows that the document says what a node does. A node in Python joins an association of two real ones, and another founds one that a real
node joins; their records count, and gossip agrees on digests; a question goes round a ring of which the Python node is home, and the answer is
that of a real node's HTTP API; what the document calls an error is one. What it says and hears is in second.py.

By hand: `contrib/quickstart run python3 tests/peers/test_protocol.py`. Exits 77 (skipped) without Python's nacl and msgpack.

SPDX-License-Identifier: AGPL-3.0-or-later
"""
import os
import queue
import shutil
import struct
import sys
import tempfile
import time
import unittest

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "contrib")]
sys.dont_write_bytecode = True
import nodes  # noqa: E402
from second import (BODIES, BUDGET, BULK, CLOCK, CLOSE, CREDIT, CRYPTO, DENIED, DIGEST, EXPIRED, E_HELLO, E_OPEN, E_RENDER, FAULT, GATEWAY_ASK,
                    GATEWAY_END, GATEWAY_START, LATENCY, LIMIT, MALFORMED, NEED_REPLAY, PING, REACHED, READY, RECEIPT, RECORDS, ROWS, SIGNATURE, TICKET,
                    TOKENS, U32, UNKNOWN, UNREACHABLE, UNSUPPORTED, USED, WANT, blake, bucket_sum, frame, joined, make_record, pack, render, root_of, signed,
                    Engine, Node, ProtocolError, Record, Refused, Ring, Sealed)  # noqa: E402
from nacl.signing import SigningKey  # noqa: E402

DEMO_MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "contrib", "demo-model", "essaim-demo.gguf")


class Examples(unittest.TestCase):
    """Section 10, without a daemon."""

    def test_ticket(self):
        home, node, other = (SigningKey(bytes([n]) * 32).verify_key.encode() for n in (4, 3, 5))
        ring = Ring(Node("Home"), b"Q" * 32, [(home, 0, 8), (node, 8, 16), (b"\x91" * 32, 16, 24)], context=4096)
        ring.session, ring.epoch = b"q" * 16, 2
        ticket = ring.ticket(1, SigningKey(bytes([4]) * 32), home=home, home_association=other, issued=1700000000, expires=1700000600)
        self.assertEqual(len(ticket), 420)
        self.assertEqual(ticket[-64:].hex(), "e1836dadd4652cb8ba201897b20895d7d0561f035e35520c57b5b3869f79453e"
                         "a1a444a19db570c3289e7150ae34814501abe81f7a972d607ca46ff33df88b0e")

    def test_approval(self):
        def seed(n):
            return SigningKey(bytes([n]) * 32)
        payload = {"kind": 9, "signer": seed(2).verify_key.encode(), "association": seed(1).verify_key.encode(),
                   "subject": seed(5).verify_key.encode(), "sequence": 7, "issued": 1700000000, "expires": 1700086400, "withdrawn": False}
        r = Record(signed(b"essaim-record-1\0approval\0", seed(2), pack(payload)))
        self.assertEqual(len(r.bytes), 251)
        self.assertEqual(r.bytes[-64:].hex(), "7e458ba469c1e6b12cf437015b7904fcfbbb2a6d6545ad420e534c28cbdb6cbc"
                         "efca678381bed321738fbc6f08208d00fc3f9ea1ac9df4e1debdf6578bbef30e")
        self.assertEqual(r.hash.hex(), "96b2e3388c52ccd2ace1eb89431b20b27f25116e0ddecf009a98fa966ad1fd33")
        self.assertEqual(bucket_sum([r.hash]).hex(), "64427be6768f9a74fdb9fc0ddfa805fa")
        self.assertEqual(root_of({bytes([9]) + r.association: [r.hash]}).hex(), "e91144295944750ecff123ad2e03ed2560f3874016d97d1da54f1999d60ca1a5")

    def test_rows(self):
        blocks = [[b"q" * 16, 2, 0, 0, 0, 3, 0, 1, 0, 12], [b"r" * 16, 1, 1, 41, 512, 1, 1, 2, 5200, 16]]
        data = frame(ROWS, {"blocks": blocks}, struct.pack("<3i4f", 1, 258, 131075, 1, 2, 3, 4))
        self.assertEqual(len(data), 109)
        self.assertEqual(data, bytes.fromhex(
            "69000000220000004500000081a6626c6f636b73929ac4107171717171717171717171717171717102000000030001000c"
            "9ac4107272727272727272727272727272727201" "0129cd02000101" "02cd145010" "010000000201000003000200"
            "0000803f000000400000404000008040"))


SETTINGS = {"share.threads": 1, "share.context": 256, "share.counts": "weights", "share.sessions": 16}
LAYERS = 12                                   # of the demonstration's model


class WithNodes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp()
        cls.nodes = []
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.model_path = shutil.copy(DEMO_MODEL, os.path.join(cls.folder, "demo.gguf"))

    @classmethod
    def real(cls, called, memory, association=None):
        found = nodes.Node(called, cls.folder, memory, SETTINGS, association=association)
        cls.nodes.append(found)
        cls.addClassCleanup(found.reap)
        cls.addClassCleanup(found.stop)
        found.start()
        found.wait_until_up()
        return found

    @classmethod
    def restart(cls, node):
        node.stop()
        node.reap()
        node.start()
        node.wait_until_up()

    def sees(self, node, called):
        return next((p for p in node.essaim("peers")["peers"] if p["name"] == called), {"up": False, "models": []})


class Member(WithNodes):
    """Alpha and Beta are real nodes of one association, each with a part of a model; Second joins it, and is home of a ring over both."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.alpha = cls.real("Alpha", 3200000, "Ruche")
        cls.beta = cls.real("Beta", 3200000, False)
        cls.beta.essaim("join", cls.alpha.essaim("invite", "--node")["url"])
        cls.restart(cls.beta)
        cls.model = bytes.fromhex(cls.alpha.essaim("model", "add", cls.model_path, "--name", "demo")["model"]["id"])
        cls.me = Node("Second")
        cls.addClassCleanup(lambda: cls.me.close())
        cls.me.join(cls.alpha.essaim("invite", "--node")["url"])
        inviter = cls.me.inviter
        cls.a, cls.there = inviter["node"], (inviter["addresses"][0], inviter["link"], inviter["node"])
        cls.me.call(*cls.there)
        cls.me.begin_exchange(cls.me.links[cls.a, BULK])
        beta = nodes.wait_for("Beta's card", lambda: [c for c in cls.me.store.of("card") if c.value["name"] == "Beta"])[0]
        cls.b = beta.signer
        nodes.wait_for("Beta to have heard of us", lambda: cls.admitted(beta))
        cls.engine = Engine()
        cls.addClassCleanup(cls.engine.close)
        loaded = cls.engine.load(cls.model_path, LAYERS, [0, 1, LAYERS - 1, LAYERS], 256)
        ends = [0, 1, LAYERS - 1, LAYERS]
        cls.advert = {"budget": 1 << 22, "free": 0, "load": 0, "home": True, "engine": cls.engine.text,
                      "models": [[cls.model, ends, ends, 1, loaded["layer_microseconds"], 2]]}
        cls.me.publish("advert", cls.me.id, 180, cls.advert)
        nodes.wait_for("two real nodes to share the layers between the ends", cls.settled)
        cls.third = Node("Third")             # whose links may be spoiled
        cls.third.join(cls.alpha.essaim("invite", "--node")["url"])

    @classmethod
    def admitted(cls, card):
        try:
            return cls.me.call(card.value["addresses"][0], card.value["link_key"], card.signer)
        except Refused:
            return None

    @classmethod
    def settled(cls):
        before = cls.windows()
        time.sleep(1)
        return before and before == cls.windows()

    @classmethod
    def windows(cls):
        """By the adverts that gossip brought: (node, first, end) that follow each other from layer 1 to the last but one."""
        shards = {first: (r.signer, first, end) for r in cls.me.store.of("advert") if r.signer != cls.me.id
                  for model, placed, resident, *_ in r.value["models"] if model == cls.model and placed == resident
                  for first, end in zip(resident[::2], resident[1::2]) if 0 < first and end < LAYERS}
        found, at = [], 1
        while at in shards:
            found.append(shards[at])
            at = found[-1][2]
        return found if len(found) == 2 and at == LAYERS - 1 else None

    def ring(self):
        own = self.me.id
        return Ring(self.me, self.model, [(own, 0, 1), *self.windows(), (own, LAYERS - 1, LAYERS)], self.engine, 200)

    def small_ring(self):
        """A session of which one real node computes a stage, for rows of our own making."""
        node, first, end = self.windows()[0]
        return Ring(self.me, self.model, [(self.me.id, 0, first), (node, first, end), (self.me.id, end, LAYERS)])

    # Sections 3 and 6.1

    def test_records_verify(self):
        kinds = {r.kind for r in self.me.store.records.values()}
        self.assertLessEqual({"association", "steward", "roster", "card", "advert", "manifest", "approval"}, kinds)
        self.assertEqual([], self.me.refused)
        manifest, = self.me.store.of("manifest")
        self.assertEqual((manifest.subject, manifest.value["n_layer"], manifest.value["name"]), (self.model, LAYERS, "demo"))

    def test_published_records_are_seen(self):
        for node in (self.alpha, self.beta):
            peer = nodes.wait_for("our advert", lambda n=node: (p := self.sees(n, "Second"))["models"] and p)
            self.assertTrue(peer["up"])
            self.assertEqual(peer["models"][0]["resident"], [[0, 1], [LAYERS - 1, LAYERS]])

    def test_digests(self):
        link = self.me.links[self.a, BULK]

        def same():                           # our root is theirs: the sums and the order of section 6.1 are as we understood them
            with self.me.lock:
                roots = [head["root"] for kind, head, _ in self.me.heard if kind == DIGEST]
                return roots and roots[-1] == root_of(self.me.mine(link))
        nodes.wait_for("a digest with our root", same)
        for begins in (True, False):          # what we did not tell is found and asked for, whoever begins
            silent = self.me.publish("advert", self.me.id, 180, {**self.advert, "free": 1 + begins}, pass_on=False)
            self.me.heard.clear()
            if begins:
                self.me.begin_exchange(link)
            nodes.wait_for("a WANT", lambda: any(kind == WANT and silent.hash in tail for kind, _, tail in list(self.me.heard)))
            self.assertEqual([silent.hash], self.held(silent))

    def held(self, *records):
        """Which of these the real node has, by a WANT; one at least. What it was sent a moment ago it may not have looked at yet."""
        hashes = {r.hash for r in records}

        def asked():
            self.me.heard.clear()
            self.me.links[self.a, BULK].send(WANT, {}, b"".join(hashes))
            time.sleep(0.5)
            return [r.hash for kind, head, t in list(self.me.heard) if kind == RECORDS and head["last"] for r in t if r.hash in hashes]
        time.sleep(0.5)
        return nodes.wait_for("RECORDS", asked, 20)

    def test_two_records_of_one_sequence(self):
        """Of two with one sequence the one with the smaller hash counts, whichever comes first."""
        for turn in range(2):
            sequence = int(time.time() * 1000)
            two = [make_record("advert", self.me.key, self.me.association, self.me.id, 180, {**self.advert, "free": n}, sequence) for n in (2, 3)]
            two.sort(key=lambda r: r.hash, reverse=bool(turn))
            for r in two:
                self.me.links[self.a, BULK].send(RECORDS, {"last": False}, joined([r]))
            self.me.take(two, pass_on=False)
            self.assertEqual([min(r.hash for r in two)], self.held(*two))

    def test_records_that_are_not_taken(self):
        """They are passed over, and the rest of the frame counts; a bad signature in a record that would count ends the link."""
        body, own = self.advert, (self.me.key, self.me.association, self.me.id)
        stranger = SigningKey(os.urandom(32))
        bad = [make_record("advert", *own, 180, body, 1),                           # stale, and from who may not say that
               make_record("advert", stranger, self.me.association, stranger.verify_key.encode(), 180, body),
               make_record("roster", self.me.key, self.me.association, self.me.association, 180, {"nodes": [self.me.id]})]
        good = make_record("advert", *own, 180, {**body, "later": [1]})             # an unknown key is ignored
        self.me.links[self.a, BULK].send(RECORDS, {"last": False}, joined([*bad, good]))
        self.me.take([good], pass_on=False)
        self.assertEqual([good.hash], self.held(*bad, good))
        link = self.third.connect(*self.there, BULK)
        forged = bytearray(make_record("card", self.third.key, self.third.association, self.third.id, 86400, {
            k: self.third.card.value[k] for k in BODIES["card"]}).bytes)
        forged[-1] ^= 1
        link.send(RECORDS, {"last": False}, struct.pack("<I", len(forged)) + forged)
        self.ended(link, SIGNATURE)

    # Sections 4 and 7

    def test_answers_like_a_real_node(self):
        for prompt in ("The river is", "A river ran through the forest, and the people of the village came to it each morning. " * 3):
            with self.subTest(prompt=prompt[:20]):
                ring = self.ring()
                ring.open()
                said = ring.answer(prompt.encode(), 24)
                receipts = ring.close()
                self.assertEqual(self.alpha.ask("demo", prompt, False, 24)[0], said.decode())
                self.assertEqual({self.a, self.b}, set(receipts))
                self.assertEqual({ring.positions}, {r.value["rows"] for r in receipts.values()})

    def test_tickets_that_are_refused(self):
        def told(**other):
            ring = self.small_ring()
            ring.send(1, TICKET, {}, ring.ticket(1, **other))
            with self.assertRaises(ProtocolError) as found:
                ring.next(READY)
            return found.exception.code
        now = int(time.time())
        self.assertEqual(EXPIRED, told(issued=now - 1000, expires=now - 1))
        self.assertEqual(EXPIRED, told(issued=now + 1000, expires=now + 2000))
        self.assertEqual(UNKNOWN, told(model=bytes(32)))
        self.assertEqual(UNKNOWN, told(first=2, end=4))
        self.assertEqual(DENIED, told(home_association=bytes(32)))
        self.assertEqual(BUDGET, told(context=100000))
        self.assertEqual(UNSUPPORTED, told(stage=0))

    def test_tickets_that_are_dropped(self):
        """Forged ones, those for another node and those that were seen are dropped without a word."""
        ring = self.small_ring()
        forged = bytearray(ring.ticket(1))
        forged[-1] ^= 1
        too_long = ring.ticket(1, expires=int(time.time()) + 3700)
        others = ring.ticket(1, SigningKey(os.urandom(32)))
        for ticket in (bytes(forged), others, ring.ticket(1, node=self.me.id), too_long, ring.ticket(1, n_stages=33)):
            ring.send(1, TICKET, {}, ticket)
        self.assertSilent(ring)
        ticket = ring.ticket(1)
        ring.send(1, TICKET, {}, ticket)
        ring.next(READY)
        ring.epoch = 0
        for again in (ticket, ring.ticket(1)):         # seen before, and of an older epoch
            ring.send(1, TICKET, {}, again)
        self.assertSilent(ring)
        ring.send(1, CLOSE, {"session": ring.session, "epoch": 1, "stage": U32, "reason": 0})

    def assertSilent(self, ring, seconds=1):
        with self.assertRaises(queue.Empty):
            ring.next(READY, ROWS, RECEIPT, FAULT, seconds=seconds)

    def test_rows(self):
        """Sequence, truncation, NEED_REPLAY, and a kept session."""
        ring = self.small_ring()
        width = struct.pack("<160f", *[((i * 37) % 19 - 9) / 100 for i in range(160)])

        def send(position, **other):
            head = ring.block(1, position, 1, 1, len(width))
            for key, value in other.items():
                head[["session", "epoch", "stage", "sequence"].index(key)] = value
            ring.send(1, ROWS, {"blocks": [head]}, width)
            ring.sequence += not other

        def rows():
            _, _, head, tail = ring.next(ROWS)
            return head["blocks"][0][2:5], tail

        ring.send(1, TICKET, {}, ring.ticket(1))
        ring.next(READY)
        send(0)
        place, first = rows()
        self.assertEqual(place, [2, 0, 0])
        for other in ({"sequence": 0}, {"epoch": 0}, {"stage": 2}, {"session": bytes(16)}):       # had it; not of this ring: no word
            send(0, **other)
        send(1)
        self.assertEqual(rows()[0], [2, 1, 1])
        send(0)                               # writing is truncating
        self.assertEqual(rows(), ([2, 2, 0], first))
        send(9)
        _, _, head, _ = ring.next(FAULT)
        self.assertEqual((head["code"], head["position"], head["stage"]), (NEED_REPLAY, 1, 1))
        send(1)                               # the block that was refused had its number
        self.assertEqual(rows()[0], [2, 4, 1])
        for keep in (60, 0):
            ring.send(1, CLOSE, {"session": ring.session, "epoch": ring.epoch, "stage": 1, "reason": 0, "keep": keep})
            self.assertEqual(ring.next(RECEIPT)[3].value["countersignature"], bytes(64))
            ring.epoch, ring.sequence = ring.epoch + 1, 0
            ring.send(1, TICKET, {}, ring.ticket(1))
            ring.next(READY)
            send(2)
            if keep:
                self.assertEqual(rows()[0], [2, 0, 2])
            else:
                self.assertEqual(ring.next(FAULT)[2]["code"], NEED_REPLAY)
        send(0, sequence=9)                   # a gap: the stage before is to blame
        _, _, head, _ = ring.next(FAULT)
        self.assertEqual((head["code"], head["stage"]), (MALFORMED, 0))

    # Section 7.9

    def test_gateway(self):
        cards = [self.me.store.get("card", self.me.association, node) for node in (self.a, self.b)]
        for card, by in ((cards[0], None), (cards[1], self.a)):
            stream = Sealed(self.me, card, by)
            stream.send(200, {"of a later version": 1}, b"passed over")
            stream.send(GATEWAY_ASK, {"model": "demo", "max_tokens": 8})
            stream.send(E_OPEN, {"session": bytes(16), "epoch": 0, "stage": 0, "first": 0, "end": 1, "context": 1, "sampling": {}})
            stream.send(E_RENDER, *render(b"The river is"))
            kind, start, _ = stream.next()
            self.assertEqual((kind, start["model"], start["association"]), (GATEWAY_START, "demo", "Ruche"))
            said, (kind, end, tail) = b"", stream.next()
            while kind == TOKENS:
                said += tail
                kind, end, tail = stream.next()
            self.assertEqual((kind, end["err"], end["prompt_tokens"]), (GATEWAY_END, 0, start["prompt_tokens"]))
            self.assertEqual(self.alpha.ask("demo", "The river is", False, 8)[0], said.decode())
            stages = end["stages"]
            self.assertEqual((stages[0][:2], [s[2] for s in stages[1:]] + [LAYERS]), ([card.signer, 1], [s[3] for s in stages]))
        with self.assertRaises(ProtocolError) as found:
            Sealed(self.me, Node("Nobody").as_member_of(self.me.association).card, self.a)
        self.assertEqual(found.exception.code, UNREACHABLE)

    # Sections 2, 5 and 6

    def ended(self, link, code):
        self.assertTrue(link.over.wait(10), "it goes on")
        self.assertEqual(link.why, code)

    def test_frames_that_end_a_link(self):
        def header(length, kind=PING, flags=0, reserved=0, head=0):
            return struct.pack("<IBBHI", length, kind, flags, reserved, head)
        for code, connection, data in (
                (LIMIT, BULK, struct.pack("<I", 8454153)), (MALFORMED, BULK, struct.pack("<I", 7)), (MALFORMED, LATENCY, header(8, 0)),
                (MALFORMED, BULK, header(8, PING, 1)), (MALFORMED, LATENCY, header(8, PING, 0, 1)), (LIMIT, BULK, header(70008, PING, 0, 0, 65537)),
                (MALFORMED, BULK, header(8, PING, 0, 0, 1)), (LIMIT, LATENCY, header(8388617, 200)),
                (UNSUPPORTED, BULK, frame(6, {})), (UNSUPPORTED, LATENCY, frame(60, {})), (MALFORMED, LATENCY, frame(E_HELLO, {})),
                (MALFORMED, BULK, frame(GATEWAY_ASK, {})), (MALFORMED, BULK, frame(TICKET, {}, b"x")), (MALFORMED, LATENCY, frame(WANT, {})),
                (MALFORMED, BULK, frame(PING, {})), (MALFORMED, BULK, header(16, PING, 0, 0, 9)[:12] + b"\x82\xa2id\x01\xa2id"),
                (MALFORMED, LATENCY, frame(CREDIT, {"consumed": 1 << 40})), (LIMIT, BULK, frame(DIGEST, {"level": 3, "root": bytes(32)})),
                (MALFORMED, BULK, frame(DIGEST, {"level": 1, "root": bytes(32)}, b"x")), (LIMIT, BULK, frame(WANT, {}, bytes(32 * 1025)))):
            with self.subTest(data=data[:40].hex()):
                link = self.third.connect(*self.there, connection)
                link.send_bytes(data, data[4:5] >= b"\x10" and len(data) > 12)
                self.ended(link, code)

    def test_what_is_passed_over(self):
        link = self.third.connect(*self.there, BULK)
        link.send(200, {"later": 1})
        link.send(REACHED, {"request": 1, "code": 0, "results": []})
        link.send(PING, {"id": 77, "later": 1}, b"and a tail")
        while link.pongs.get(timeout=10) != 77:
            pass

    def test_credit(self):
        """Due when a quarter of the window was read; what counts is frames from their first byte to their last."""
        link = self.third.connect(*self.there, LATENCY)
        nodes.wait_for("HELLO", lambda: link.window)
        data = frame(200, {}, bytes(1 << 20))
        for _ in range(link.window // 4 // len(data) + 1):
            self.assertEqual(link.consumed, 0)
            link.send_bytes(data, True)
        nodes.wait_for("CREDIT", lambda: link.consumed)
        self.assertEqual(link.consumed % len(data), 0)
        self.assertGreaterEqual(link.sent - link.consumed, 0)

    def test_rekeying(self):
        """65,536 messages in each direction, and some more."""
        link = self.third.connect(*self.there, BULK)
        for i in range(65600):                # one by one: what waits may share a message
            link.send(PING, {"id": 1000 + i})
            while link.pongs.get(timeout=20) != 1000 + i:
                pass
        self.assertEqual((link.channel.out.rekeyed, link.channel.into.rekeyed), (1, 1))

    def test_handshakes_that_are_refused(self):
        def refused(node, where=self.there, network=None, **more):
            before, node.network = node.network, network or node.network
            try:
                link = node.connect(*where, BULK, **more)
            except Refused as e:
                return e.code
            finally:
                node.network = before
            self.assertTrue(link.over.wait(10), "it goes on")
            return link.why
        host, _, key = self.there
        stranger = Node("Stranger").as_member_of(self.me.association)
        used = self.third.inviter
        psk = blake(b"essaim-invite-1" + used["secret"])
        self.assertEqual(CRYPTO, refused(self.third, network="other"))
        self.assertEqual(CRYPTO, refused(self.third, where=(host, self.third.link_public, key)))
        self.assertEqual(USED, refused(stranger, psk=psk, invitation=used["id"]))
        self.assertEqual(UNKNOWN, refused(stranger, psk=psk, invitation=os.urandom(16)))
        self.assertEqual(None, refused(stranger))
        self.assertEqual(CLOCK, refused(self.third, time=int(time.time()) - 400))


class Founder(WithNodes):
    """Second has an association of its own: a real node joins it, another association is its partner."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gamma = cls.real("Gamma", "1G", False)
        cls.delta = cls.real("Delta", 0, "Deltas")
        cls.me = Node("Second")
        cls.addClassCleanup(lambda: cls.me.close())
        cls.me.listen()
        cls.me.found("Founders")

    def test_a_real_node_joins(self):
        self.assertEqual(self.gamma.essaim("join", self.me.invite())["association_name"], "Founders")
        self.restart(self.gamma)
        nodes.wait_for("Gamma to dial us", lambda: len([k for k, link in self.me.links.items() if not link.over.is_set()]) == 2)
        self.assertEqual({n["name"] for n in self.gamma.essaim("roster", "list")["nodes"]}, {"Second", "Gamma"})
        self.assertTrue(self.sees(self.gamma, "Second")["up"])
        self.assertFalse(self.gamma.essaim("model", "add", self.model_path, "--name", "demo")["model"]["approved"])
        manifest = nodes.wait_for("the manifest", lambda: self.me.store.of("manifest"))[0]
        self.me.publish("approval", manifest.subject, 86400, {"withdrawn": False}, self.me.steward)
        nodes.wait_for("Gamma to act on our approval", lambda: (m := self.gamma.model("demo"))["approved"] and m["resident"] == [[0, LAYERS]])
        self.me.publish("roster", self.me.association, 90 * 86400, {"nodes": [self.me.id]}, self.me.steward)
        nodes.wait_for("Gamma to know that it was taken off", lambda: any("roster" in w["text"] for w in self.gamma.essaim("status")["warnings"]))

    def test_partners(self):
        own = [self.me.store.get(kind, self.me.association, self.me.association) for kind in ("association", "steward", "roster")]
        self.me.join(self.delta.essaim("invite", "--partner")["url"], own)
        v = self.me.inviter
        there = v["addresses"][0], v["link"], v["node"]
        self.me.call(*there)
        offer = nodes.wait_for("the offer", lambda: self.me.store.get("agreement", v["association"], self.me.association))
        self.me.publish("acceptance", v["association"], 86400, {"agreement": offer.hash, "declined": False}, self.me.steward)
        nodes.wait_for("Delta to take our acceptance", lambda: self.delta.essaim("agreement", "list")["agreements"][0]["state"] == "in force")

        def last_word():
            return [[r.kind for r in t] for kind, _, t in list(self.me.heard) if kind == RECORDS and t and t[0].kind == "steward"]
        # Delta has our card and may have dialled at the same time: one of each kind is left.
        time.sleep(2)
        links = [self.me.links[v["node"], kind] for kind in (BULK, LATENCY)]
        self.assertEqual([False, False], [link.over.is_set() for link in links])
        self.me.heard.clear()
        links[0].send(WANT, {})
        self.assertEqual(nodes.wait_for("its last word", last_word), [["steward", "roster", "agreement"]])
        self.delta.essaim("agreement", "revoke", "Founders")
        for link in links:
            self.assertTrue(link.over.wait(10))
            self.assertEqual(link.why, DENIED)
        self.me.heard.clear()
        link = self.me.connect(*there, BULK)   # who may not have heard of it is told
        self.assertTrue(link.over.wait(10))
        self.assertEqual((link.why, last_word()), (0, [["steward", "roster", "agreement"]]))
        self.assertTrue(self.me.store.get("agreement", v["association"], self.me.association).value["revoked"])
        with self.assertRaises(Refused):
            self.me.connect(*there, LATENCY)


if __name__ == "__main__":
    unittest.main()
