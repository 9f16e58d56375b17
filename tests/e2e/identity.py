"""What makes two `_id`s one entity: BSON comparison equality under the simple collation, told independently of the sidecar.

`same_key(raw)` gives a hashable value; two `_id`s are one entity exactly when their values are equal.
"""

import struct
from decimal import Decimal
from fractions import Fraction

from bson import Decimal128


def first_element(raw: bytes) -> tuple[int, bytes, bytes]:
    """Type, name and payload of the first element of a document's bytes."""
    for element in elements(raw):
        return element
    raise ValueError("an empty document has no _id")


def elements(raw: bytes):
    """Each element of a document: (type, name, payload)."""
    at = 4
    while raw[at] != 0:
        kind = raw[at]
        end = raw.index(b"\0", at + 1)
        name = raw[at + 1 : end]
        size = payload_size(kind, raw, end + 1)
        yield kind, name, raw[end + 1 : end + 1 + size]
        at = end + 1 + size


def payload_size(kind: int, raw: bytes, at: int) -> int:
    fixed = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0xFF: 0, 0x7F: 0}
    if kind in fixed:
        return fixed[kind]
    (length,) = struct.unpack_from("<i", raw, at)
    if kind in (0x02, 0x0D, 0x0E):
        return 4 + length
    if kind in (0x03, 0x04, 0x0F):
        return length
    if kind == 0x05:
        return 5 + length
    if kind == 0x0C:
        return 4 + length + 12
    if kind == 0x0B:
        first = raw.index(b"\0", at)
        return raw.index(b"\0", first + 1) + 1 - at
    raise ValueError(f"BSON type {kind:#x}")


def number(kind: int, payload: bytes):
    """An exact value; NaN and the infinities are words."""
    if kind == 0x01:
        (value,) = struct.unpack("<d", payload)
        if value != value or value in (float("inf"), float("-inf")):
            return "nan" if value != value else ("+inf" if value > 0 else "-inf")
        return Fraction(value)
    if kind in (0x10, 0x12):
        return Fraction(int.from_bytes(payload, "little", signed=True))
    value: Decimal = Decimal128.from_bid(payload).to_decimal()
    if value.is_nan():
        return "nan"
    if value.is_infinite():
        return "+inf" if value > 0 else "-inf"
    return Fraction(value)


def same_key(kind: int, payload: bytes):
    """The identity of one value."""
    if kind in (0x01, 0x10, 0x12, 0x13):
        return "number", number(kind, payload)
    if kind in (0x02, 0x0E):
        return "string", payload
    if kind in (0x03, 0x04):
        return kind, tuple((name, same_key(k, p)) for k, name, p in elements(payload))
    return kind, payload


def id_of(document: bytes) -> tuple[int, bytes]:
    """Type and payload of a document's `_id`."""
    for kind, name, payload in elements(document):
        if name == b"_id":
            return kind, payload
    raise ValueError("a document without _id")
