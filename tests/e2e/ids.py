"""`_id`s of every legal type, with several spellings of equal values.

Left out, because stores differ: the same bytes under two binary subtypes, and the same code with and without a scope (two keys
for mongod, one for secantusd 0.5.3-beta.196).
"""

import datetime
import functools

from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp


@functools.cache
def pool() -> list:
    """Values that are legal `_id`s; some are equal to each other under BSON comparison."""
    numbers = [0, 1, Int64(1), 1.0, Decimal128("1"), Decimal128("1.00"), -0.0, Decimal128("-0"), 2**31, 2**53, float(2**53)]
    numbers += [Int64(2**53 + 1), Decimal128("9007199254740993"), Int64(2**63 - 1), float(2**63), 0.5, Decimal128("0.5"), 0.1]
    numbers += [Decimal128("0.1"), float("inf"), Decimal128("Infinity"), float("-inf"), Decimal128("1E+6000"), 1e308, -17, -17.0]
    words = ["", "a", "A", "é", "x" * 900, "$odd.name", ObjectId("0123456789abcdef01234567"), True, False, None]
    moments = [datetime.datetime(2020, 2, 29), datetime.datetime(1960, 1, 1), Timestamp(1, 2), MinKey(), MaxKey()]
    raw = [b"", b"\x00\x01", Binary(b"\x01" * 16, 4), Binary(b"\x02" * 16, 3), Binary(b"\x00\x03", 5), Binary(b"\x00\x04", 0x80)]
    nested = [{}, {"a": 1}, {"a": 1.0}, {"a": Int64(1)}, {"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": {"b": [1, {"c": None}]}}]
    nested += [{"a": {"b": [1.0, {"c": None}]}}, {"a": "x"}, {"a": [1, 2]}, {"a": []}]
    return numbers + words + moments + raw + nested + [Code("f"), Code("g", {"x": 1})]


def dbref() -> DBRef:
    """Not part of the pool: stores differ in whether `$ref` may stand in an `_id`."""
    return DBRef("c", 1)
