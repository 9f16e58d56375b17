"""A bare MongoDB connection: messages as the test wants them, no driver in between to mend or to refuse them."""

import itertools
import socket
import struct

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from bson.son import SON

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
CHECKSUM, MORE_TO_COME, EXHAUST = 1, 2, 1 << 16
PLAIN = CodecOptions(document_class=SON, datetime_conversion=DatetimeConversion.DATETIME_MS)


class Closed(Exception):
    """The other side closed the connection."""


def encode(document) -> bytes:
    """BSON bytes of a dict; bytes and RawBSONDocument go as they are."""
    if isinstance(document, bytes):
        return document
    return document.raw if isinstance(document, RawBSONDocument) else bson.encode(document)


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit: for a few short messages."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Raw:
    """One connection. Requests are numbered from 1001 so that a reply's responseTo can be checked."""

    def __init__(self, address: str, timeout: float = 30):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ids = itertools.count(1001)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, opcode: int, body: bytes) -> int:
        """Sends one message; its request id."""
        number = next(self.ids)
        self.socket.sendall(struct.pack("<iiii", 16 + len(body), number, 0, opcode) + body)
        return number

    def message(self, document, sequences: dict | None = None, flags: int = 0, body_last: bool = False) -> int:
        """Sends an OP_MSG."""
        kind0 = b"\0" + encode(document)
        kind1 = b""
        for name, documents in (sequences or {}).items():
            packed = name.encode() + b"\0" + b"".join(map(encode, documents))
            kind1 += b"\1" + struct.pack("<i", len(packed) + 4) + packed
        body = struct.pack("<I", flags) + (kind1 + kind0 if body_last else kind0 + kind1)
        if not flags & CHECKSUM:
            return self.send(OP_MSG, body)
        number = next(self.ids)
        framed = struct.pack("<iiii", 20 + len(body), number, 0, OP_MSG) + body
        self.socket.sendall(framed + struct.pack("<I", crc32c(framed)))
        return number

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = self.socket.recv(min(size, 1 << 20))
            except ConnectionError:
                part = b""
            if not part:
                raise Closed
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def receive(self) -> tuple[int, int, int, int, bytes]:
        """(request id, response to, opcode, flags, document bytes) of the next message."""
        length, number, to, opcode = struct.unpack("<iiii", self.read(16))
        body = self.read(length - 16)
        if opcode == OP_REPLY:
            return number, to, opcode, struct.unpack_from("<i", body)[0], body[20:]
        (flags,) = struct.unpack_from("<I", body)
        assert opcode == OP_MSG and body[4] == 0, (opcode, body[:8])
        return number, to, opcode, flags, body[5 : len(body) - (4 if flags & CHECKSUM else 0)]

    def command(self, document, sequences: dict | None = None, flags: int = 0, body_last: bool = False) -> SON:
        """Sends a command and returns its reply, fields in order."""
        number = self.message(document, sequences, flags, body_last)
        _, to, _, _, raw = self.receive()
        assert to == number, f"responseTo {to}, request {number}"
        return bson.decode(raw, PLAIN)

    def query(self, collection: str, document) -> SON:
        """An OP_QUERY for one document."""
        number = self.send(OP_QUERY, struct.pack("<i", 0) + collection.encode() + b"\0" + struct.pack("<ii", 0, -1) + encode(document))
        _, to, opcode, _, raw = self.receive()
        assert to == number and opcode == OP_REPLY
        return bson.decode(raw, PLAIN)
