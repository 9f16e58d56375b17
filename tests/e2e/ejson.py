"""Canonical Extended JSON v2 text to BSON bytes, exactly: field order, number types and subtypes are kept.

Written for the validator, so that what the exporter wrote is judged by other code than its own. It reads canonical form
only; a relaxed number or an unknown type wrapper is an error. Objects are taken as pairs, in order.
"""

import base64
import json
import struct

from bson import Decimal128


class Pairs(list):
    """A JSON object: (key, value) in the order in which they stand."""

    def get(self, key, default=None):
        for name, value in self:
            if name == key:
                return value
        return default

    def plain(self):
        """As a dict, for what is not a document (manifests, origins)."""
        return {k: plain(v) for k, v in self}


def plain(value):
    """Turns Pairs into dicts, all the way down."""
    if isinstance(value, Pairs):
        return value.plain()
    return [plain(v) for v in value] if isinstance(value, list) else value


def parse(line: str):
    """JSON text with objects as Pairs."""
    return json.loads(line, object_pairs_hook=Pairs)


def cstring(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    assert b"\0" not in raw, "a NUL in a field name"
    return raw + b"\0"


def string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<i", len(raw) + 1) + raw + b"\0"


def document(pairs: Pairs) -> bytes:
    """A document's BSON bytes."""
    body = b"".join(element(cstring(name), value) for name, value in pairs)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def element(name: bytes, value) -> bytes:
    """Type byte, name, payload."""
    tag, payload = value_bytes(value)
    return bytes([tag]) + name + payload


def value_bytes(value) -> tuple[int, bytes]:
    """Type byte and payload of a value."""
    if isinstance(value, Pairs):
        wrapper = WRAPPERS.get(value[0][0]) if value else None
        return wrapper(value) if wrapper else (0x03, document(value))
    if isinstance(value, list):
        body = b"".join(element(str(i).encode() + b"\0", v) for i, v in enumerate(value))
        return 0x04, struct.pack("<i", len(body) + 5) + body + b"\0"
    if isinstance(value, str):
        return 0x02, string(value)
    if isinstance(value, bool):
        return 0x08, b"\1" if value else b"\0"
    if value is None:
        return 0x0A, b""
    raise ValueError(f"not canonical: {value!r}")


def only(pairs: Pairs, *names: str):
    """The values of a wrapper that has exactly these fields."""
    assert tuple(k for k, _ in pairs) == names, f"a wrapper with fields {[k for k, _ in pairs]}"
    values = [v for _, v in pairs]
    return values[0] if len(values) == 1 else values


def double(pairs) -> tuple[int, bytes]:
    text = only(pairs, "$numberDouble")
    return 0x01, struct.pack("<d", float(text.replace("Infinity", "inf").replace("NaN", "nan")))


def binary(pairs) -> tuple[int, bytes]:
    inner = only(pairs, "$binary")
    raw, subtype = base64.b64decode(inner.get("base64"), validate=True), int(inner.get("subType"), 16)
    if subtype == 2:
        raw = struct.pack("<i", len(raw)) + raw
    return 0x05, struct.pack("<i", len(raw)) + bytes([subtype]) + raw


def code(pairs) -> tuple[int, bytes]:
    if len(pairs) == 1:
        return 0x0D, string(only(pairs, "$code"))
    text, scope = only(pairs, "$code", "$scope")
    body = string(text) + document(scope)
    return 0x0F, struct.pack("<i", len(body) + 4) + body


def regex(pairs) -> tuple[int, bytes]:
    inner = only(pairs, "$regularExpression")
    return 0x0B, cstring(inner.get("pattern")) + cstring(inner.get("options"))


def pointer(pairs) -> tuple[int, bytes]:
    inner = only(pairs, "$dbPointer")
    return 0x0C, string(inner.get("$ref")) + bytes.fromhex(inner.get("$id").get("$oid"))


def timestamp(pairs) -> tuple[int, bytes]:
    inner = only(pairs, "$timestamp")
    return 0x11, struct.pack("<II", inner.get("i"), inner.get("t"))


WRAPPERS = {
    "$numberDouble": double,
    "$oid": lambda p: (0x07, bytes.fromhex(only(p, "$oid"))),
    "$binary": binary,
    "$undefined": lambda p: (0x06, b""),
    "$date": lambda p: (0x09, struct.pack("<q", int(only(p, "$date").get("$numberLong")))),
    "$regularExpression": regex,
    "$dbPointer": pointer,
    "$code": code,
    "$symbol": lambda p: (0x0E, string(only(p, "$symbol"))),
    "$numberInt": lambda p: (0x10, struct.pack("<i", int(only(p, "$numberInt")))),
    "$timestamp": timestamp,
    "$numberLong": lambda p: (0x12, struct.pack("<q", int(only(p, "$numberLong")))),
    "$numberDecimal": lambda p: (0x13, Decimal128(only(p, "$numberDecimal")).bid),
    "$minKey": lambda p: (0xFF, b""),
    "$maxKey": lambda p: (0x7F, b""),
}
