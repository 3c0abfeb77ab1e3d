"""second.py: the protocol once more, written from doc/PROTOCOL.md without a look at the programs' source: what test_protocol.py speaks.

Each part names its section of the document. Where Python's nacl or msgpack is missing, importing it ends with 77 (skipped).

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
import socket
import struct
import sys
import threading
import time

try:
    import msgpack
    from nacl import bindings as sodium
    from nacl.signing import SigningKey, VerifyKey
except ImportError as e:
    print("skipped: %s (python3-nacl and python3-msgpack are needed)" % e)
    sys.exit(77)


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
        check(type(v) is int and v >= least, MALFORMED, "not a uint from %d on: %r" % (least, v))
        check(v <= most, LIMIT, "%d beyond %d" % (v, most))
    return examine


def integer(low, high):
    def examine(v):
        check(type(v) is int and low <= v <= high, MALFORMED, "no int of %d .. %d" % (low, high))
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
            yield kind, unpack(body[:head]), body[head:], length + 4


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
