#!/usr/bin/env python3
"""A second implementation of the protocol, written from doc/PROTOCOL.md without a look at the programs' source, against real daemons.

It shows that the document says what a node does. A node in Python joins an association of two real ones, and another founds one that a real
node joins; their records count, and gossip agrees on digests; a question goes round a ring of which the Python node is home, and the answer is
that of a real node's HTTP API; what the document calls an error is one. Each part names its section of the document.

By hand: `contrib/quickstart run python3 tests/peers/test_protocol.py`. Exits 77 (skipped) without Python's nacl and msgpack.

SPDX-License-Identifier: AGPL-3.0-or-later
"""
import base64
import hashlib
import hmac
import math
import os
import queue
import re
import select
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "contrib"))
import nodes  # noqa: E402

try:
    import msgpack
    from nacl import bindings as sodium
    from nacl.signing import SigningKey, VerifyKey
except ImportError as e:
    print("skipped: %s (python3-nacl and python3-msgpack are needed)" % e)
    sys.exit(77)

DEMO_MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "contrib", "demo-model", "essaim-demo.gguf")


class ProtocolError(Exception):
    """Something that the document calls an error: its number in section 8, and words."""

    def __init__(self, code, words=""):
        super().__init__("%s %s" % (code, words))
        self.code = code


LIMIT, MALFORMED, SIGNATURE, EXPIRED, STALE, REPLAYED, DENIED, UNKNOWN = range(-1001, -1009, -1)
VERSION, CRYPTO, UNSUPPORTED, NEED_REPLAY, BUDGET, UNREACHABLE, USED, CLOCK = -1010, -1013, -1015, -1016, -1017, -1020, -1023, -1025


# ---- Section 1: conventions ----

def check(condition, code, words):
    if not condition:
        raise ProtocolError(code, words)


def blake(data, size=32):
    return hashlib.blake2b(data, digest_size=size).digest()


def pack(value):
    """The shortest encodings, maps in the order of their keys here."""
    return msgpack.packb(value, use_bin_type=True)


def no_twin(pairs):
    check(len({k for k, _ in pairs}) == len(pairs), MALFORMED, "a key twice")
    return dict(pairs)


def unpack(data, most=65536):
    check(len(data) <= most, LIMIT, "msgpack too long")
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False, object_pairs_hook=no_twin)
    except ValueError as e:
        raise ProtocolError(MALFORMED, str(e)) from e


# Checks of the values in tables: each raises.

def uint(most, least=0):
    def examine(v):
        check(type(v) is int and v >= 0, MALFORMED, "not a uint: %r" % (v,))
        check(least <= v <= most, LIMIT, "%d beyond %d" % (v, most))
    return examine


def integer(low, high):
    def examine(v):
        check(type(v) is int, MALFORMED, "not an int")
        check(low <= v <= high, LIMIT, "%d beyond %d .. %d" % (v, low, high))
    return examine


def binary(size=None, most=None):
    def examine(v):
        check(type(v) is bytes and (size is None or len(v) == size) and (most is None or len(v) <= most), MALFORMED, "bytes")
    return examine


def text(most, plain=False):
    def examine(v):
        check(type(v) is str and "\0" not in v, MALFORMED, "text")
        check(len(v.encode()) <= most, LIMIT, "text too long")
        check(not plain or not re.search("[\x00-\x1f\x7f-\x9f]", v), MALFORMED, "control characters")
    return examine


def name(v):
    text(63, True)(v)
    check(v and "/" not in v and "@" not in v and v.strip(" ") == v, MALFORMED, "name")


def boolean(v):
    check(type(v) is bool, MALFORMED, "bool")


def number(v):
    check(type(v) is float and math.isfinite(v), MALFORMED, "float")


def array(most, element, least=0):
    def examine(v):
        check(type(v) is list, MALFORMED, "array")
        check(least <= len(v) <= most, LIMIT, "array of %d" % len(v))
        for e in v:
            element(e)
    return examine


def row(*elements):
    """An array of which the first elements are named; more may follow."""
    def examine(v):
        check(type(v) is list and len(v) >= len(elements), MALFORMED, "short array")
        for e, examine_one in zip(v, elements):
            examine_one(e)
    return examine


def ranges(v):
    array(16, uint(1024))(v)
    check(len(v) % 2 == 0 and all(a < b for a, b in zip(v[::2], v[1::2])), MALFORMED, "ranges")


def address(v):
    text(71)(v)
    check(re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._][A-Za-z0-9._-]*):[1-9][0-9]{0,4}", v) and int(v.rsplit(":", 1)[1]) < 65536, MALFORMED, v)


def fields(table, value):
    """The map with its defaults, after every key of the table was looked at. A table's entry is a check, or (check, default)."""
    check(type(value) is dict, MALFORMED, "not a map")
    found = dict(value)
    for key, how in table.items():
        examine, *default = how if type(how) is tuple else (how,)
        check(key in value or default, MALFORMED, key + " is missing")
        if key in value:
            examine(value[key])
        else:
            found[key] = default[0]
    return found


U16, U32, U63, U64 = 2 ** 16 - 1, 2 ** 32 - 1, 2 ** 63 - 1, 2 ** 64 - 1
KEY = binary(32)


# ---- Section 2: frames ----

HELLO, PING, PONG, CREDIT, BYE = range(1, 6)
DIGEST, WANT, RECORDS, JOIN, JOINED, OBSERVED = range(16, 22)
TICKET, READY, ROWS, TOKENS, FAULT, CLOSE, RECEIPT, SEALED = range(32, 40)
E_HELLO, E_INSPECT, E_INSPECTED, E_LOAD, E_LOADED, E_OPEN, E_RENDER, E_RENDERED, E_FAULT, E_PROGRESS = range(64, 74)
GATEWAY_ASK, GATEWAY_START, GATEWAY_END = range(80, 83)
REACH, REACHED = 128, 129


def frame(kind, head, tail=b""):
    packed = pack(head)
    return struct.pack("<IBBHI", 8 + len(packed) + len(tail), kind, 0, 0, len(packed)) + packed + tail


class Frames:
    """Cuts a stream into frames."""

    def __init__(self):
        self.bytes = bytearray()

    def feed(self, more):
        self.bytes += more
        while len(self.bytes) >= 12:
            length, kind, flags, reserved, head = struct.unpack_from("<IBBHI", self.bytes)
            check(length <= 8454152 and head <= 65536 and length - 8 - head <= 8388608, LIMIT, "frame")
            check(length >= 8 and head <= length - 8 and kind and not flags and not reserved, MALFORMED, "frame")
            if len(self.bytes) < length + 4:
                return
            body = bytes(self.bytes[12:4 + length])
            del self.bytes[:4 + length]
            yield kind, unpack(body[:head]) if head else {}, body[head:], length + 4


def pieces(tail):
    """(length u32, record) each."""
    found = []
    while tail:
        check(len(tail) >= 4, MALFORMED, "tail")
        size, = struct.unpack_from("<I", tail)
        check(size <= 262144, LIMIT, "record")
        check(len(tail) >= 4 + size, MALFORMED, "tail")
        found.append(tail[4:4 + size])
        tail = tail[4 + size:]
    return found


def joined(records):
    return b"".join(struct.pack("<I", len(r.bytes)) + r.bytes for r in records)


# ---- Section 3: records ----

KINDS = ["", "association", "steward", "roster", "card", "advert", "agreement", "acceptance", "manifest", "approval", "receipt"]
COMMON = {"kind": uint(U16), "signer": KEY, "association": KEY, "subject": KEY, "sequence": uint(U64), "issued": uint(U64), "expires": uint(U64)}
ADVERT_MODEL = row(KEY, ranges, ranges, uint(1), uint(U32), uint(U32))
BODIES = {
    "association": {"name": name},
    "steward": {"steward": KEY},
    "roster": {"nodes": array(256, KEY)},
    "card": {"name": name, "link_key": KEY, "version_low": uint(U16, 1), "version_high": uint(U16, 1), "addresses": array(8, address),
             "torrent_port": uint(U16), "left": (boolean, False)},
    "advert": {"budget": uint(U63), "free": uint(U63), "load": uint(1000), "paused": (boolean, False), "home": (boolean, False),
               "engine": text(63, True), "models": array(64, ADVERT_MODEL)},
    "agreement": {"revoked": boolean, "models": array(32, KEY), "tokens_per_day": uint(U63), "stage_seconds_per_day": uint(U63),
                  "priority": uint(9)},
    "acceptance": {"agreement": KEY, "declined": boolean},
    "manifest": {"name": name, "architecture": text(31, True), "quantisation": text(31, True), "licence": text(63, True), "languages": text(63, True),
                 "private": (boolean, True), "n_layer": uint(1024, 1), "n_embd": uint(65536, 1), "n_vocab": uint(2 ** 24, 1),
                 "context": uint(2 ** 24, 1),
                 "parameters": uint(U63), "splittable": (boolean, False), "why_whole": text(127, True), "no_cut": (binary(), b""),
                 "row_bytes": uint(4 * 65536), "kv_bytes": uint(2 ** 46), "memory_permille": (uint(4000, 1000), 1000), "compute_bytes": uint(2 ** 46),
                 "chat_template": (boolean, False), "files": array(64, row(text(255, True), uint(2 ** 46, 1), KEY, KEY), 1),
                 "extents": array(4096, row(uint(U32), uint(63), uint(2 ** 46), uint(2 ** 46, 1))), "info": binary()},
    "approval": {"withdrawn": boolean},
    "receipt": {"session": binary(16), "home": KEY, "home_association": KEY, "model": KEY, "rows": uint(U63), "microseconds": uint(U63),
                "millijoules": uint(U63), "measured": (boolean, False), "countersignature": binary(64)},
}


def signed(domain, key, payload):
    """The one encoding of [payload, signature] that records and tickets have."""
    return pack([payload, key.sign(domain + payload).signature])


def opened(data, most):
    """-> payload, signature."""
    check(len(data) <= most, LIMIT, "too long")
    pair = unpack(data, most)
    check(type(pair) is list and len(pair) == 2 and type(pair[0]) is type(pair[1]) is bytes and len(pair[1]) == 64 and pack(pair) == data,
          MALFORMED, "not the one encoding")
    return pair


class Record:
    """One statement, verified."""

    def __init__(self, data):
        self.bytes = bytes(data)
        self.hash = blake(self.bytes)
        self.payload, signature = opened(self.bytes, 262144)
        value = fields(COMMON, unpack(self.payload, 262144))
        check(1 <= value["kind"] <= 10, UNSUPPORTED, "kind %d" % value["kind"])
        self.kind = KINDS[value["kind"]]
        self.number = value["kind"]
        self.value = value = fields(BODIES[self.kind], value)
        try:
            VerifyKey(value["signer"]).verify(b"essaim-record-1\0" + self.kind.encode() + b"\0" + self.payload, signature)
        except Exception as e:
            raise ProtocolError(SIGNATURE, self.kind) from e
        check(value["expires"] > value["issued"], MALFORMED, "expires")
        self.signer, self.association, self.subject = value["signer"], value["association"], value["subject"]
        self.name = self.number, self.association, self.subject
        getattr(self, "_" + self.kind, lambda v: None)(value)

    def _association(self, v):
        check(self.signer == self.association == self.subject, MALFORMED, "not the root's own")

    def _steward(self, v):
        self._association(v)
        check(v["expires"] - v["issued"] <= 7776000, LIMIT, "a steward for too long")

    def _roster(self, v):
        check(self.subject == self.association, MALFORMED, "subject")

    def _card(self, v):
        check(self.subject == self.signer, MALFORMED, "subject")
        check("version_low" not in v or v["version_low"] <= v["version_high"], MALFORMED, "versions")

    def _advert(self, v):
        check(self.subject == self.signer, MALFORMED, "subject")
        check(len({m[0] for m in v["models"]}) == len(v["models"]), MALFORMED, "a model twice")

    def _receipt(self, v):
        check(self.subject == v["session"] + bytes(16), MALFORMED, "subject")

    def _manifest(self, v):
        check(self.subject == blake(b"essaim-model-1" + b"".join(f[2] for f in v["files"])), MALFORMED, "model id")
        check(v["row_bytes"] == 4 * v["n_embd"], MALFORMED, "row_bytes")
        check(len(v["no_cut"]) in (0, v["n_layer"] // 8 + 1), MALFORMED, "no_cut")
        names = [f[0] for f in v["files"]]
        check(len(set(names)) == len(names) and not any("/" in n or n.startswith(".") or not n for n in names), MALFORMED, "file names")
        check(sorted(v["extents"]) == v["extents"], MALFORMED, "order of extents")
        for before, (group, file, offset, length, *_) in zip([None] + v["extents"], v["extents"]):
            check(group < 4 or 16 <= group < 16 + v["n_layer"], MALFORMED, "group")
            check(file < len(names) and offset + length <= v["files"][file][1], MALFORMED, "extent")
            check(not before or before[:2] != [group, file] or before[2] + before[3] <= offset, MALFORMED, "overlap")

    def current(self, now):
        return self.value["issued"] - 300 <= now <= self.value["expires"]


def make_record(kind, key, association, subject, lifetime, body, sequence=None):
    now = int(time.time())
    payload = {"kind": KINDS.index(kind), "signer": key.verify_key.encode(), "association": association, "subject": subject,
               "sequence": sequence if sequence is not None else int(time.time() * 1000), "issued": now, "expires": now + lifetime, **body}
    return Record(signed(b"essaim-record-1\0" + kind.encode() + b"\0", key, pack(payload)))


# ---- Section 5: the channel ----

def dh(secret, public):
    try:
        return sodium.crypto_scalarmult(secret, public)
    except Exception as e:
        raise ProtocolError(CRYPTO, "a point of small order") from e


def hkdf(chaining, material, n):
    temp = hmac.digest(chaining, material, "sha256")
    found, last = [], b""
    for i in range(n):
        last = hmac.digest(temp, last + bytes([i + 1]), "sha256")
        found.append(last)
    return found


class Cipher:
    """Noise's CipherState with ChaChaPoly."""

    def __init__(self, key):
        self.key, self.nonce, self.messages, self.amount, self.rekeyed = key, 0, 0, 0, 0

    @staticmethod
    def _nonce(n):
        return struct.pack("<IQ", 0, n)

    def encrypt(self, data, associated=b""):
        sealed = sodium.crypto_aead_chacha20poly1305_ietf_encrypt(data, associated, self._nonce(self.nonce), self.key)
        self.nonce += 1
        return sealed

    def decrypt(self, data, associated=b""):
        try:
            plain = sodium.crypto_aead_chacha20poly1305_ietf_decrypt(data, associated, self._nonce(self.nonce), self.key)
        except Exception as e:
            raise ProtocolError(SIGNATURE, "tag") from e
        self.nonce += 1
        return plain

    def counted(self, size):
        """After each transport message: rekeys when it is due."""
        self.messages += 1
        self.amount += size
        if self.messages >= 65536 or self.amount >= 1 << 30:
            self.key = sodium.crypto_aead_chacha20poly1305_ietf_encrypt(bytes(32), b"", self._nonce(U64), self.key)[:32]
            self.messages = self.amount = 0
            self.rekeyed += 1


class Channel:
    """Noise_IKpsk2_25519_ChaChaPoly_SHA256: a handshake, then two ciphers."""

    def __init__(self, prologue, static, remote=None):
        """static: our X25519 secret. remote: the responder's key, where we begin."""
        self.static, self.public = static, sodium.crypto_scalarmult_base(static)
        self.remote = remote
        self.chaining = self.hash = hashlib.sha256(b"Noise_IKpsk2_25519_ChaChaPoly_SHA256").digest()
        self.cipher = None
        self.mix_hash(prologue)
        self.mix_hash(remote or self.public)

    def mix_hash(self, data):
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, material):
        self.chaining, key = hkdf(self.chaining, material, 2)
        self.cipher = Cipher(key)

    def mix_psk(self, psk):
        self.chaining, temp, key = hkdf(self.chaining, psk, 3)
        self.mix_hash(temp)
        self.cipher = Cipher(key)

    def mix_ephemeral(self, public):
        self.mix_hash(public)
        self.mix_key(public)

    def seal(self, data):
        sealed = self.cipher.encrypt(data, self.hash)
        self.mix_hash(sealed)
        return sealed

    def unseal(self, data):
        plain = self.cipher.decrypt(data, self.hash)
        self.mix_hash(data)
        return plain

    def new_ephemeral(self):
        self.secret = os.urandom(32)
        public = sodium.crypto_scalarmult_base(self.secret)
        self.mix_ephemeral(public)
        return public

    def split(self, initiator):
        keys = hkdf(self.chaining, b"", 2)
        self.out, self.into = (Cipher(k) for k in (keys if initiator else reversed(keys)))

    def write_1(self, payload):
        message = self.new_ephemeral()
        self.mix_key(dh(self.secret, self.remote))
        message += self.seal(self.public)
        self.mix_key(dh(self.static, self.remote))
        return message + self.seal(payload)

    def read_1(self, message):
        check(len(message) >= 96, MALFORMED, "message 1")
        self.theirs = message[:32]
        self.mix_ephemeral(self.theirs)
        self.mix_key(dh(self.static, self.theirs))
        self.remote = self.unseal(message[32:80])
        self.mix_key(dh(self.static, self.remote))
        return self.unseal(message[80:])

    def write_2(self, payload, psk=bytes(32)):
        message = self.new_ephemeral()
        self.mix_key(dh(self.secret, self.theirs))
        self.mix_key(dh(self.secret, self.remote))
        self.mix_psk(psk)
        message += self.seal(payload)
        self.split(False)
        return message

    def read_2(self, message, psk=bytes(32)):
        check(len(message) >= 48, MALFORMED, "message 2")
        self.mix_ephemeral(message[:32])
        self.mix_key(dh(self.secret, message[:32]))
        self.mix_key(dh(self.static, message[:32]))
        self.mix_psk(psk)
        payload = self.unseal(message[32:])
        self.split(True)
        return payload

    def encrypt(self, plain):
        sealed = self.out.encrypt(plain)
        self.out.counted(len(plain))
        return sealed

    def decrypt(self, sealed):
        check(16 <= len(sealed), MALFORMED, "transport message")
        plain = self.into.decrypt(sealed)
        self.into.counted(len(plain))
        return plain


# ---- Section 6: links ----

LATENCY, BULK = 1, 2
WINDOW = 16 << 20
LINK_HEADS = {
    HELLO: {"low": uint(U32), "high": uint(U32), "window": uint(U32)}, PING: {"id": uint(U64)}, PONG: {"id": uint(U64)},
    CREDIT: {"consumed": uint(U64)}, BYE: {"why": integer(-4096, 0)},
    DIGEST: {"level": uint(2), "root": KEY, "answer": (boolean, False)}, WANT: {}, RECORDS: {"last": (boolean, False)},
    JOIN: {"role": uint(2), "network": text(63)}, JOINED: {"role": uint(2), "name": text(63)}, OBSERVED: {"address": text(71)},
}


def receive_exactly(sock, size):
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def receive_message(sock):
    size, = struct.unpack("<H", receive_exactly(sock, 2))
    return receive_exactly(sock, size)


def send_message(sock, data):
    sock.sendall(struct.pack("<H", len(data)) + data)


class Link:
    """One connection to a neighbour after its handshake: section 6, *Stream*. Frames of type 16 and above go to on_frame(link, type, head, tail)."""

    def __init__(self, sock, channel, kind, peer, on_frame, invitation=None):
        self.sock, self.channel, self.kind, self.peer, self.on_frame, self.invitation = sock, channel, kind, peer, on_frame, invitation
        self.frames = Frames()
        self.write_lock = threading.Condition()
        self.sent = self.consumed = 0         # bytes that need credit: what we sent, and what they said that they read
        self.read = self.told = 0             # the same in the other direction
        self.window = None
        self.pongs = queue.Queue()
        self.why = None                       # what ended it: BYE's number, a ProtocolError's code, or "closed"
        self.over = threading.Event()
        sock.settimeout(15)
        self.send(HELLO, {"low": 1, "high": 1, "window": WINDOW})
        self.send(PING, {"id": 1})
        threading.Thread(target=self._run, daemon=True).start()

    def send(self, kind, head, tail=b""):
        self.send_bytes(frame(kind, head, tail), kind >= 16)

    def send_bytes(self, data, counted):
        with self.write_lock:
            if counted:
                fits = self.write_lock.wait_for(lambda: self.over.is_set() or self.window is not None
                                                and self.sent + len(data) - self.consumed <= self.window, 20)
                if not fits or self.over.is_set():
                    raise ConnectionError("no credit, or closed: %s" % self.why)
                self.sent += len(data)
            for at in range(0, len(data), 65519):
                send_message(self.sock, self.channel.encrypt(data[at:at + 65519]))

    def _run(self):
        next_ping, ping = time.monotonic() + 5, 1
        try:
            while self.why is None:
                if not select.select([self.sock], [], [], max(0, next_ping - time.monotonic()))[0]:
                    ping += 1
                    next_ping += 5
                    self.send(PING, {"id": ping})
                    continue
                for arrived in self.frames.feed(self.channel.decrypt(receive_message(self.sock))):
                    self._take(*arrived)
        except ProtocolError as e:
            self.why = self.why or e
            self.send(BYE, {"why": e.code})
        except (OSError, ValueError) as e:
            self.why = self.why or str(e)
        self.over.set()
        with self.write_lock:
            self.write_lock.notify_all()
        self.sock.close()

    def _take(self, kind, head, tail, size):
        check(self.window is not None or kind == HELLO, MALFORMED, "the first frame is HELLO")
        if kind in LINK_HEADS:
            head = fields(LINK_HEADS[kind], head)
        if kind == HELLO:
            check(head["low"] <= 1 <= head["high"], VERSION, "versions")
            with self.write_lock:
                self.window = head["window"]
                self.write_lock.notify_all()
        elif kind == PING:
            self.send(PONG, {"id": head["id"]})
        elif kind == PONG:
            self.pongs.put(head["id"])
        elif kind == CREDIT:
            with self.write_lock:
                check(self.consumed <= head["consumed"] <= self.sent, MALFORMED, "credit")
                self.consumed = head["consumed"]
                self.write_lock.notify_all()
        elif kind == BYE:
            self.why = head["why"]
        else:
            self.read += size
            check(not (self.kind == LATENCY and 16 <= kind < 32 or self.kind == BULK and 32 <= kind < 64 or 64 <= kind < 128),
                  MALFORMED, "type %d on the wrong connection" % kind)
            if self.read - self.told >= WINDOW // 4:
                self.told = self.read
                self.send(CREDIT, {"consumed": self.read})
            self.on_frame(self, kind, head, tail)

    def close(self, why=0):
        try:
            self.send(BYE, {"why": why})
        except OSError:
            pass
        self.over.wait(2)
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class Refused(ProtocolError):
    """The responder closed in the handshake; code is what it said, or None."""


def dial(where, prologue, static, remote, payload, psk=bytes(32)):
    """-> socket, channel, payload of message 2."""
    host, port = where.rsplit(":", 1)
    sock = socket.create_connection((host.strip("[]"), int(port)), 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel = Channel(prologue, static, remote)
    send_message(sock, channel.write_1(pack(payload)))
    try:
        answer = receive_message(sock)
        if len(answer) == 16 and answer.startswith(b"essaim/1"):
            raise Refused(struct.unpack("<q", answer[8:])[0])
        return sock, channel, unpack(channel.read_2(answer, psk), 8192)
    except (ConnectionError, ProtocolError) as e:
        sock.close()
        raise Refused(None) if isinstance(e, ConnectionError) else e


# ---- Section 6.2: invitations ----

INVITATION = {"v": uint(U32), "addresses": array(8, address, 1), "link": KEY, "node": KEY, "association": KEY, "name": name, "id": binary(16),
              "secret": KEY, "role": uint(2, 1), "expires": uint(U64), "network": text(63)}


def read_invitation(url):
    check(url.startswith("essaim://join/#"), MALFORMED, "url")
    body = url[len("essaim://join/#"):]
    data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    value = fields(INVITATION, unpack(data, 1024))
    check(value["v"] == 1, VERSION, "invitation")
    return value


# ---- Section 6.1: gossip. Section 3: who may say what ----

class Store:
    """The newest record of each (kind, association, subject) that somebody entitled signed."""

    def __init__(self):
        self.records = {}

    def get(self, kind, association, subject):
        return self.records.get((KINDS.index(kind), association, subject))

    def of(self, kind):
        return [r for r in self.records.values() if r.kind == kind]

    def entitled(self, r):
        if r.kind in ("association", "steward"):
            return True
        if r.kind in ("roster", "agreement", "acceptance", "approval"):
            steward = self.get("steward", r.association, r.association)
            return bool(steward) and steward.value["steward"] == r.signer
        roster = self.get("roster", r.association, r.association)
        return bool(roster) and r.signer in roster.value["nodes"]

    def add(self, r):
        """-> whether it is news. Raises EXPIRED, DENIED."""
        check(r.current(time.time()), EXPIRED, r.kind)
        check(self.entitled(r), DENIED, r.kind)
        held = self.records.get(r.name)
        if held and (held.value["sequence"], r.hash) >= (r.value["sequence"], held.hash):      # of two with one number the smaller hash
            return False
        self.records[r.name] = r
        return True


def may_see(r, association):
    """Whether a neighbour of this association may see it."""
    if r.association == association:
        return True
    return not (r.kind == "manifest" and r.value["private"]) and (r.kind != "receipt" or r.value["home_association"] == association)


def buckets(records, association):
    """(kind u8, association 32) -> hashes, of what that side may see now."""
    found = {}
    for r in records:
        if may_see(r, association) and r.current(time.time()):
            found.setdefault(bytes([r.number]) + r.association, []).append(r.hash)
    return found


def bucket_sum(hashes):
    total = sum(int.from_bytes(h, "little") for h in hashes) % (1 << 256)
    return blake(total.to_bytes(32, "little") + struct.pack("<I", len(hashes)), 16)


def root_of(found):
    return blake(b"".join(name + bucket_sum(found[name]) for name in sorted(found)))


def level_1(found):
    return b"".join(n + struct.pack("<I", len(h)) + bucket_sum(h) for n, h in found.items())


def level_2(found):
    return b"".join(n + struct.pack("<I", len(h)) + b"".join(h) for n, h in found.items())


def read_level_1(tail):
    check(len(tail) % 53 == 0, MALFORMED, "digest 1")
    return {tail[i:i + 33]: tail[i + 37:i + 53] for i in range(0, len(tail), 53)}


def read_level_2(tail):
    found = {}
    while tail:
        check(len(tail) >= 37, MALFORMED, "digest 2")
        size = 37 + 32 * struct.unpack_from("<I", tail, 33)[0]
        check(len(tail) >= size, MALFORMED, "digest 2")
        found[tail[:33]] = [tail[i:i + 32] for i in range(37, size, 32)]
        tail = tail[size:]
    return found


MESSAGE_1 = {"kind": uint(2, 1), "time": uint(U63), "card": binary(most=4096), "invitation": (binary(16), None)}
MESSAGE_2 = {"time": uint(U63), "card": binary(most=4096)}


class Node:
    """A node of an association: its keys, records and links. With found() it is also root and steward of one."""

    def __init__(self, called, network="essaim"):
        self.name, self.network = called, network
        self.key, self.link_key = SigningKey(os.urandom(32)), os.urandom(32)
        self.id, self.link_public = self.key.verify_key.encode(), sodium.crypto_scalarmult_base(self.link_key)
        self.association = self.steward = self.address = None
        self.store, self.links, self.invitations = Store(), {}, {}      # links: (node key, kind) -> Link; invitations: id -> PSK
        self.heard = []                                                 # (type, head, records) of gossip's frames, oldest first
        self.ring, self.joined = queue.Queue(), queue.Queue()           # frames of latency links: (node key, type, head, tail); JOINED
        self.refused = []                                               # (record, error) of what gossip brought and was not taken
        self.lock = threading.RLock()

    def found(self, called):
        """Section 3.1: an association of this node's own."""
        root, self.steward = SigningKey(os.urandom(32)), SigningKey(os.urandom(32))
        self.association = root.verify_key.encode()
        self.publish("association", self.association, 3650 * 86400, {"name": called}, root)
        self.publish("steward", self.association, 90 * 86400, {"steward": self.steward.verify_key.encode()}, root)
        self.publish("roster", self.association, 90 * 86400, {"nodes": [self.id]}, self.steward)
        self.card = self.new_card()
        self.take([self.card])

    def as_member_of(self, association):
        self.association = association
        self.card = self.new_card()
        return self

    def publish(self, kind, subject, lifetime, body, key=None, pass_on=True):
        r = make_record(kind, key or self.key, self.association, subject, lifetime, body)
        self.take([r], pass_on=pass_on)
        return r

    def new_card(self):
        return make_record("card", self.key, self.association, self.id, 30 * 86400,
                           {"name": self.name, "link_key": self.link_public, "version_low": 1, "version_high": 1,
                            "addresses": [self.address] if self.address else [], "torrent_port": 0})

    def prologue(self):
        return b"essaim/1 " + self.network.encode()

    # Links, dialled and answered

    def connect(self, where, remote, expected, kind, psk=bytes(32), **more):
        """One connection to the node with these keys. more: other keys of message 1's payload."""
        payload = {"kind": kind, "time": int(time.time()), "card": self.card.bytes, **more}
        sock, channel, answer = dial(where, self.prologue(), self.link_key, remote, payload, psk)
        answer = fields(MESSAGE_2, answer)
        card = self.proven(answer["card"], channel)
        check(card.signer == expected, DENIED, "another node")
        link = Link(sock, channel, kind, card, self.on_frame)
        return link if "invitation" in more else self.came(link, True)

    def proven(self, data, channel):
        card = Record(data)
        check(card.kind == "card" and card.value["link_key"] == channel.remote and card.current(time.time()), DENIED, "card")
        return card

    def came(self, link, dialled):
        """Section 6, *Two connections of one kind*."""
        link.dialled, link.since = dialled, time.monotonic()
        with self.lock:
            before = self.links.get((link.peer.signer, link.kind))
            both_dialled = before and not before.over.is_set() and before.dialled != dialled and link.since - before.since < 5
            stays = before if both_dialled and before.dialled == (self.id < link.peer.signer) else link
            self.links[link.peer.signer, link.kind] = stays
        if before:
            (link if stays is before else before).close()
        return link

    def call(self, where, remote, expected):
        """Both connections to a neighbour."""
        return [self.connect(where, remote, expected, kind) for kind in (BULK, LATENCY)]

    def listen(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock = self.server.accept()[0]
            except OSError:
                return
            try:
                self._answer(sock)
            except (ProtocolError, OSError):
                sock.close()

    def _answer(self, sock):
        sock.settimeout(5)
        channel = Channel(self.prologue(), self.link_key)
        try:
            head = fields(MESSAGE_1, unpack(channel.read_1(receive_message(sock)), 8192))
        except ProtocolError:
            send_message(sock, b"essaim/1" + struct.pack("<q", CRYPTO))
            raise
        card = self.proven(head["card"], channel)
        psk = self.invitations.get(head["invitation"]) if head["kind"] == BULK else None
        check(psk or self.store.entitled(card), DENIED, "on no roster")
        answer = {"time": int(time.time()), "card": self.card.bytes}
        send_message(sock, channel.write_2(pack(answer), psk or bytes(32)))
        link = Link(sock, channel, head["kind"], card, self.on_frame, head["invitation"] if psk else None)
        if not psk:
            self.came(link, False)

    # Section 6.2

    def join(self, url, extra=()):
        """As the joiner. extra: association, steward and roster, as a partner."""
        v = self.inviter = read_invitation(url)
        self.network = v["network"] or "essaim"
        self.as_member_of(v["association"] if v["role"] == 1 else self.association)
        link = self.connect(v["addresses"][0], v["link"], v["node"], BULK, blake(b"essaim-invite-1" + v["secret"]), invitation=v["id"])
        link.send(JOIN, {"role": v["role"], "network": self.network}, joined([self.card, *extra]))
        head, tail = self.joined.get(timeout=10)
        check(head["role"] == v["role"] and head["name"] == v["name"], MALFORMED, "JOINED")
        link.close()
        self.take(sorted((Record(r) for r in pieces(tail)), key=lambda r: r.number))

    def invite(self):
        """As the inviter: an invitation for a node."""
        secret, v = os.urandom(32), os.urandom(16)
        self.invitations[v] = blake(b"essaim-invite-1" + secret)
        body = {"v": 1, "addresses": [self.address], "link": self.link_public, "node": self.id, "association": self.association,
                "name": self.store.get("association", self.association, self.association).value["name"], "id": v, "secret": secret, "role": 1,
                "expires": int(time.time()) + 3600, "network": self.network}
        return "essaim://join/#" + base64.urlsafe_b64encode(pack(body)).decode().rstrip("=")

    def _join(self, link, head, tail):
        card = Record(pieces(tail)[0])
        check(self.invitations.pop(link.invitation, None), USED, "invitation")
        check(head["role"] == 1 and card.bytes == link.peer.bytes, DENIED, "JOIN")
        on_it = self.store.get("roster", self.association, self.association).value["nodes"]
        self.publish("roster", self.association, 90 * 86400, {"nodes": [*on_it, card.signer]}, self.steward)
        own = self.store.get("association", self.association, self.association)
        link.send(JOINED, {"role": 1, "name": own.value["name"]}, joined(sorted(self.store.records.values(), key=lambda r: r.number)))

    # Section 6.1

    def take(self, records, source=None, pass_on=True):
        news = []
        with self.lock:
            for r in records:
                try:
                    if self.store.add(r):
                        news.append(r)
                except ProtocolError as e:
                    self.refused.append((r, e))
        for (_, kind), link in list(self.links.items()) if pass_on else ():
            seen = [r for r in news if may_see(r, link.peer.association)]
            if kind == BULK and link is not source and not link.over.is_set() and seen:
                link.send(RECORDS, {"last": False}, joined(seen))

    def mine(self, link):
        with self.lock:
            return buckets(self.store.records.values(), link.peer.association)

    def begin_exchange(self, link):
        link.send(DIGEST, {"level": 0, "root": root_of(self.mine(link))})

    def on_frame(self, link, kind, head, tail):
        if kind == JOIN:
            self._join(link, head, tail)
        elif kind == JOINED:
            self.joined.put((head, tail))
        elif link.kind == LATENCY:
            self.ring.put((link.peer.signer, kind, head, tail))
        else:
            arrived = [Record(r) for r in pieces(tail)] if kind == RECORDS else []
            self.heard.append((kind, head, arrived or tail))
            self.take(arrived, link)
            if kind == DIGEST:
                self._digest(link, head, tail)
            elif kind == WANT:
                check(len(tail) % 32 == 0, MALFORMED, "WANT")
                check(len(tail) <= 32 * 1024, LIMIT, "WANT")
                wanted = {tail[i:i + 32] for i in range(0, len(tail), 32)}
                with self.lock:
                    found = [r for r in self.store.records.values() if r.hash in wanted and may_see(r, link.peer.association)]
                link.send(RECORDS, {"last": True}, joined(sorted(found, key=lambda r: r.number)))

    def _digest(self, link, head, tail):
        mine = self.mine(link)
        root = root_of(mine)
        if head["level"] == 0:
            if head["root"] != root:
                link.send(DIGEST, {"level": 1, "root": root}, level_1(mine))
        elif head["level"] == 1:
            theirs = read_level_1(tail)
            differ = {n: mine.get(n, []) for n in {*theirs, *mine} if n not in theirs or theirs[n] != bucket_sum(mine.get(n, []))}
            link.send(DIGEST, {"level": 2, "root": root}, level_2(differ))
        else:
            theirs = read_level_2(tail)
            if not head["answer"]:
                link.send(DIGEST, {"level": 2, "root": root, "answer": True}, level_2({n: mine.get(n, []) for n in theirs}))
            lacking = [h for n, hashes in theirs.items() for h in hashes if h not in mine.get(n, [])]
            for i in range(0, len(lacking), 1024):
                link.send(WANT, {}, b"".join(lacking[i:i + 1024]))

    def close(self):
        for link in self.links.values():
            link.close()
        if self.address:
            self.server.close()


# ---- Section 7: the ring, with this node as its home; section 7.8: its engine; section 7.9: sealed streams ----

BLOCK = row(binary(16), uint(U32), uint(31), uint(U64), uint(2 ** 24 - 1), uint(32, 1), uint(32), uint(2, 1), uint(U32), uint(8388608))
TOKEN = row(uint(2 ** 31 - 1), number, uint(1), uint(256))
STAGE = {"session": binary(16), "epoch": uint(U32), "stage": uint(31)}
HEADS = {
    READY: STAGE, ROWS: {"blocks": array(64, BLOCK, 1)}, RECEIPT: {},
    TOKENS: {"session": binary(16), "epoch": uint(U32), "sequence": uint(U64), "position": uint(2 ** 24), "microseconds": uint(U32),
             "tokens": array(64, TOKEN)},
    FAULT: {**STAGE, "code": integer(-2 ** 31, -1), "position": uint(2 ** 24), "detail": text(199, True)},
    SEALED: {"from": KEY, "to": KEY, "channel": binary(16), "step": uint(4, 1), "code": integer(-32768, 0)},
    E_HELLO: {"engine": text(63, True), "sandboxed": (boolean, False)},
    E_LOADED: {"request": uint(U32), "weight_bytes": uint(2 ** 46), "kv_bytes": uint(2 ** 46), "compute_bytes": uint(2 ** 46),
               "n_embd": uint(65536, 1), "n_vocab": uint(2 ** 24), "truncate": uint(2), "layer_microseconds": uint(U32)},
    E_RENDERED: {"request": uint(U32), "n_tokens": uint(2 ** 20), "pieces": (uint(8388608), 0), "n_embd": (uint(65536), 0)},
    E_FAULT: {"request": uint(U32), "code": integer(-2 ** 31, -1), "detail": text(399, True)},
    E_PROGRESS: {"request": uint(U32), "permille": uint(1000)},
    GATEWAY_START: {"model": text(63, True), "association": text(63, True), "prompt_tokens": uint(2 ** 24)},
    GATEWAY_END: {"err": integer(-2 ** 31, 0), "detail": text(299, True), "length": (boolean, False), "retry_after": uint(86400),
                  "prompt_tokens": uint(2 ** 24), "completion_tokens": uint(2 ** 24), "prefill_us": uint(U63), "decode_us": uint(U63),
                  "stages": array(32, row(KEY, uint(1), uint(1024), uint(1024), uint(U63), uint(U63)))},
    BYE: LINK_HEADS[BYE],
}


def render(prompt):
    """Section 7.8: head and tail of a RENDER of one text."""
    return {"request": 2, "chat": False, "add_special": True, "parse_special": True, "pieces": False, "embed": False,
            "lengths": [0, len(prompt)]}, prompt


class Engine:
    """Section 7.8: an essaim-engine of this node's own."""

    def __init__(self):
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(60)
        program = os.environ["ESSAIM_ENGINE"]
        self.pid = os.posix_spawn(program, [program], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)])
        theirs.close()
        self.frames, self.waiting = Frames(), []
        self.text = self.wait(E_HELLO)[0]["engine"]

    def send(self, kind, head, tail=b"", files=()):
        data = frame(kind, head, tail)
        if files:
            socket.send_fds(self.sock, [data[:1]], [f.fileno() for f in files])
            data = data[1:]
        self.sock.sendall(data)

    def wait(self, wanted):
        """The next frame of that type, past PROGRESS -> head, tail."""
        while True:
            while not self.waiting:
                more = self.sock.recv(65536)
                check(more, -1018, "the engine ended")
                self.waiting += self.frames.feed(more)
            kind, head, tail, _ = self.waiting.pop(0)
            head = fields(HEADS[kind], head)
            if kind == wanted:
                return head, tail
            check(kind == E_PROGRESS, head.get("code", MALFORMED), "%d instead of %d: %s" % (kind, wanted, head))

    def load(self, path, n_layer, held, context):
        with open(path, "rb") as f:
            self.send(E_LOAD, {"request": 1, "n_files": 1, "ranges": held, "n_layer": n_layer, "context": context, "sessions": 2, "threads": 1,
                               "memory_max": 0}, struct.pack("<IQQ", 0, 0, os.path.getsize(path)), [f])
            return self.wait(E_LOADED)[0]

    def tokens(self, prompt):
        self.send(E_RENDER, *render(prompt))
        head, tail = self.wait(E_RENDERED)
        return list(struct.unpack_from("<%di" % head["n_tokens"], tail))

    def close(self):
        self.sock.close()
        os.waitpid(self.pid, 0)


class Ring:
    """One session of which this node is home. stages: (node key, first, end); the first and the last are this node's own engine's."""

    def __init__(self, node, model, stages, engine=None, context=128):
        self.node, self.model, self.stages, self.engine, self.context = node, model, stages, engine, context
        self.session, self.epoch, self.sequence = os.urandom(16), 1, 0
        self.last = len(stages) - 1

    def send(self, stage, kind, head, tail=b""):
        self.node.links[self.stages[stage][0], LATENCY].send(kind, head, tail)

    def next(self, *wanted, seconds=60):
        """The next frame of this session and of one of these types -> sender, type, head, tail. Another FAULT is raised."""
        while True:
            sender, kind, head, tail = self.node.ring.get(timeout=seconds)
            head = fields(HEADS[kind], head)
            record = Record(tail) if kind == RECEIPT else None
            session = record.value["session"] if record else head["blocks"][0][0] if kind == ROWS else head.get("session")
            if session != self.session:
                continue
            if kind in wanted:
                return sender, kind, head, record or tail
            check(kind != FAULT, head["code"], "FAULT of stage %d: %s" % (head["stage"], head["detail"]))

    def ticket(self, i, key=None, **other):
        """Section 4."""
        n, now = len(self.stages), int(time.time())
        payload = {"session": self.session, "epoch": self.epoch, "home": self.node.id, "home_association": self.node.association,
                   "model": self.model, "stage": i, "n_stages": n, "first": self.stages[i][1], "end": self.stages[i][2],
                   "node": self.stages[i][0], "previous": self.stages[i - 1][0], "next": self.stages[(i + 1) % n][0],
                   "context": self.context, "issued": now, "expires": now + 600, **other}
        return signed(b"essaim-ticket-1\0", key or self.node.key, pack(payload))

    def open(self):
        for i in (0, self.last):
            _, first, end = self.stages[i]
            self.engine.send(E_OPEN, {"session": self.session, "epoch": self.epoch, "stage": i, "first": first, "end": end,
                                      "context": self.context, "sampling": {}})
            self.engine.wait(READY)
        for i in range(self.last - 1, 0, -1):
            self.send(i, TICKET, {}, self.ticket(i))
        for _ in range(self.last - 1):
            sender, _, head, _ = self.next(READY)
            check(head["epoch"] == self.epoch and self.stages[head["stage"]][0] == sender, MALFORMED, "READY")

    def block(self, stage, position, count, want, size, encoding=2):
        return [self.session, self.epoch, stage, self.sequence, position, count, want, encoding, 0, size]

    def go_round(self, position, ids, want):
        """A block of token ids goes round -> the token that follows, as (id, end, bytes), where one is wanted."""
        def rows_of(head, tail, stage):
            found, = head["blocks"]
            check(found[:8] + found[9:] == (expected := self.block(stage, position, len(ids), want, len(tail)))[:8] + expected[9:], MALFORMED, "rows")
            return {"blocks": [expected]}, tail

        tail = struct.pack("<%di" % len(ids), *ids)
        self.engine.send(ROWS, {"blocks": [self.block(0, position, len(ids), want, len(tail), 1)]}, tail)
        self.send(1, ROWS, *rows_of(*self.engine.wait(ROWS), 1))
        sender, _, head, tail = self.next(ROWS)
        check(sender == self.stages[-2][0], MALFORMED, "rows from elsewhere")
        self.engine.send(ROWS, *rows_of(head, tail, self.last))
        head, tail = self.engine.wait(TOKENS)
        check(head["session"] == self.session and head["sequence"] == self.sequence and len(head["tokens"]) == want, MALFORMED, "TOKENS")
        self.sequence += 1
        return [(t[0], t[2], tail) for t in head["tokens"]]

    def answer(self, prompt, most):
        """The likeliest tokens after a prompt, by chunks that end at multiples of 32 -> bytes."""
        ids, position, said = self.engine.tokens(prompt), 0, b""
        while most:
            part = ids[position:(position // 32 + 1) * 32]
            found = self.go_round(position, part, int(position + len(part) == len(ids)))
            self.positions = position = position + len(part)
            for token, end, piece in found:
                if end:
                    return said
                said, most = said + piece, most - 1
                ids.append(token)
        return said

    def close(self):
        """Sections 7.6, 7.7, 3.5 -> the receipts, signed again with home's countersignature in them."""
        others = {node: i for i, (node, _, _) in enumerate(self.stages) if node != self.node.id}
        self.engine.send(CLOSE, {"session": self.session, "epoch": self.epoch, "stage": U32, "reason": 0})
        for i in others.values():
            self.send(i, CLOSE, {"session": self.session, "epoch": self.epoch, "stage": i, "reason": 0})
        first, final = {}, {}
        while len(final) < len(others):
            sender, _, _, r = self.next(RECEIPT)
            v = {"node": r.signer, **r.value}
            check((r.kind, r.signer, v["model"]) == ("receipt", sender, self.model), MALFORMED, "receipt")
            check((v["home"], v["home_association"]) == (self.node.id, self.node.association), MALFORMED, "receipt of another home")
            agreed = pack({k: v[k] for k in ("node", "session", "home", "home_association", "model", "rows", "microseconds", "millijoules",
                                             "measured")})
            countersignature = self.node.key.sign(b"essaim-receipt-1\0" + agreed).signature
            if sender not in first:
                check(v["countersignature"] == bytes(64), MALFORMED, "countersigned before home agreed")
                first[sender] = v["sequence"]
                self.node.links[sender, LATENCY].send(RECEIPT, {"countersignature": countersignature}, r.bytes)
            else:
                check((v["countersignature"], v["sequence"]) == (countersignature, first[sender] + 1), MALFORMED, "countersignature")
                final[sender] = r
        return final


class Sealed:
    """Section 7.9: a stream to another node, opened by this one, perhaps by way of a third."""

    def __init__(self, node, card, by=None):
        self.node, self.to, self.id, self.by = node, card.signer, os.urandom(16), by or card.signer
        self.frames, self.waiting = Frames(), []
        prologue = b"essaim-sealed/1 " + node.network.encode() + b"\0" + node.id + self.to + self.id
        self.channel = Channel(prologue, node.link_key, card.value["link_key"])
        self.step(1, self.channel.write_1(b""))
        check(self.channel.read_2(self.receive(2)) == b"", MALFORMED, "a payload")

    def step(self, step, tail):
        head = {"from": self.node.id, "to": self.to, "channel": self.id, "step": step, "code": 0}
        self.node.links[self.by, LATENCY].send(SEALED, head, tail)

    def receive(self, step):
        while True:
            sender, kind, head, tail = self.node.ring.get(timeout=30)
            head = fields(HEADS[kind], head)
            if kind == SEALED and head["channel"] == self.id:
                check(sender == self.by and (head["from"], head["to"]) == (self.to, self.node.id), MALFORMED, "SEALED")
                check(head["step"] == step, head["code"] or MALFORMED, "SEALED")
                return tail

    def send(self, kind, head, tail=b""):
        self.step(3, self.channel.encrypt(frame(kind, head, tail)))

    def next(self):
        """-> type, head, tail of the next frame."""
        while not self.waiting:
            self.waiting += self.frames.feed(self.channel.decrypt(self.receive(3)))
        kind, head, tail, _ = self.waiting.pop(0)
        return kind, fields(HEADS[kind], head), tail


# ---- Tests ----

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
