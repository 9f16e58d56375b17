"""insert: every kind of document and `_id`, batches, errors."""

import dataclasses
import datetime

import bson
from bson import DBRef, Decimal128, Int64, ObjectId, Regex, Timestamp
from cases import Case, many
from ids import pool

DAY = datetime.datetime(2021, 5, 6, 7, 8, 9)


def one(name: str, document, **options) -> Case:
    return Case(f"insert {name}", [{"insert": "@", "documents": [document], **options}])


def element(kind: int, name: bytes, payload: bytes) -> bytes:
    """A document of one hand-made element after an `_id`."""
    body = b"\x10_id\0\1\0\0\0" + bytes([kind]) + name + b"\0" + payload
    return (len(body) + 5).to_bytes(4, "little") + body + b"\0"


def raw(name: str, document: bytes) -> Case:
    return Case(f"insert raw {name}", [({"insert": "@"}, {"documents": [document]})])


def cases() -> list[Case]:
    table = [one(f"_id #{n} {type(_id).__name__}", {"_id": _id, "x": n}) for n, _id in enumerate(pool())]
    table += [
        one("without _id", {"a": 1}),
        one("_id last", {"a": 1, "_id": 2}),
        one("empty", {}),
        one("_id array", {"_id": [1]}),
        one("_id regex", {"_id": Regex("a")}),
        one("_id with $", {"_id": {"$a": 1}}),
        one("_id DBRef", {"_id": DBRef("c", 1)}),
        one("empty timestamps", {"_id": 1, "a": Timestamp(0, 0), "b": {"c": Timestamp(0, 0)}, "d": [Timestamp(0, 0)]}),
        one("empty timestamp as _id", {"_id": Timestamp(0, 0), "a": 1}),
        one("dollar field", {"_id": 1, "$a": 1}),
        one("dotted field", {"_id": 1, "a.b": 1, "": 2}),
        one("all types", {"_id": 1, "d": DAY, "o": ObjectId("5" * 24), "l": Int64(5), "dec": Decimal128("1.10"), "r": Regex("a", "im"), "n": None}),
        one("comment", {"_id": 1}, comment={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}),
        one("string comment", {"_id": 1}, comment="why"),
        one("w 1", {"_id": 1}, writeConcern={"w": 1}),
        one("w majority j", {"_id": 1}, writeConcern={"w": "majority", "j": True}),
        one("w 5", {"_id": 1}, writeConcern={"w": 5, "wtimeout": 100}),
        # mongod condenses such a reply to {ok: 1}, as the sidecar does; secantusd adds {n: 0} whatever it did.
        dataclasses.replace(one("w 0 with a reply", {"_id": 1}, writeConcern={"w": 0}), free=("n",)),
        one("w unknown tag", {"_id": 1}, writeConcern={"w": "nowhere"}),
        one("maxTimeMS", {"_id": 1}, maxTimeMS=10000),
        one("api version", {"_id": 1}, apiVersion="1", apiStrict=True),
        one("ordered false", {"_id": 1}, ordered=False),
        one("bypass", {"_id": 1}, bypassDocumentValidation=True),
        one("1 MB", {"_id": 1, "s": "x" * 1_000_000}),
        one("near 16 MB", {"_id": 1, "s": "x" * (16 * 1024 * 1024 - 40)}),
        one("16 MB and a bit", {"_id": 1, "s": "x" * (16 * 1024 * 1024)}),
        one("near 16 MB, server-made _id", {"s": "x" * (16 * 1024 * 1024 - 30)}),
        one("deep", deep(90)),
        one("too deep", deep(250)),
        raw("duplicate field", element(0x10, b"_id2", b"\1\0\0\0")[:-1] + b"" + b"\0"),
        raw("twice the same field", twice()),
        raw("symbol", element(0x0E, b"s", b"\2\0\0\0x\0")),
        raw("undefined", element(0x06, b"u", b"")),
        raw("db pointer", element(0x0C, b"p", b"\2\0\0\0x\0" + b"\7" * 12)),
        raw("old binary", element(0x05, b"b", b"\6\0\0\0\2\2\0\0\0ab")),
        raw("nan payload", element(0x01, b"d", b"\1\0\0\0\0\0\xf8\x7f")),
        raw("odd array keys", element(0x04, b"a", bson.encode({"7": 1, "x": 2}))),
        raw("bad utf-8", element(0x02, b"s", b"\2\0\0\0\xff\0")),
        raw("bad length", element(0x02, b"s", b"\x7f\0\0\0x\0")),
        raw("unknown type", element(0x20, b"s", b"")),
    ]
    return table + batches()


def twice() -> bytes:
    body = b"\x10_id\0\1\0\0\0\x10a\0\1\0\0\0\x10a\0\2\0\0\0"
    return (len(body) + 5).to_bytes(4, "little") + body + b"\0"


def deep(levels: int) -> dict:
    inner = {"x": 1}
    for _ in range(levels):
        inner = {"d": inner}
    return {"_id": 1, "d": inner}


def batches() -> list[Case]:
    """Several documents in one command."""
    docs = [{"_id": i, "v": i} for i in range(5)]
    broken = [docs[0], docs[1], docs[1], docs[2]]
    later = [docs[0], {"_id": [1]}, docs[0], docs[3]]
    return [
        Case("insert many in the body", [many(*docs)]),
        Case("insert many as a sequence", [({"insert": "@"}, {"documents": docs})]),
        Case("insert many ordered, duplicate inside", [{"insert": "@", "documents": broken}]),
        Case("insert many unordered, duplicate inside", [{"insert": "@", "documents": broken, "ordered": False}]),
        Case("insert many unordered, several errors", [{"insert": "@", "documents": later, "ordered": False}]),
        Case("insert many ordered, first bad", [{"insert": "@", "documents": later[1:]}]),
        Case("insert duplicate of a stored one", [many(*docs), {"insert": "@", "documents": [{"_id": 9}, {"_id": 3, "v": 77}, {"_id": 10}]}]),
        Case("insert duplicate by numeric equality", [many({"_id": 1}), many({"_id": 1.0}), many({"_id": Int64(1)}), many({"_id": Decimal128("1")})]),
        Case("insert 3000", [({"insert": "@"}, {"documents": [{"_id": i} for i in range(3000)]})]),
        Case("insert without ids, many", [{"insert": "@", "documents": [{"a": i} for i in range(20)]}]),
        Case("insert no documents", [{"insert": "@", "documents": []}]),
        Case("insert unique index", [unique(), many({"_id": 1, "u": 1}, {"_id": 2, "u": 1}, {"_id": 3, "u": 2})]),
        Case("insert unique index unordered", [unique(), {"insert": "@", "documents": [{"_id": i, "u": i % 2} for i in range(6)], "ordered": False}]),
        Case("insert validator", [validated(), {"insert": "@", "documents": [{"_id": 1, "v": 1}, {"_id": 2, "v": "x"}, {"_id": 3, "v": 3}]}]),
        Case("insert validator unordered", [validated(), {"insert": "@", "documents": [{"_id": 1}, {"_id": 2, "v": 1}], "ordered": False}]),
        Case("insert validator bypassed", [validated(), {"insert": "@", "documents": [{"_id": 1}], "bypassDocumentValidation": True}]),
        Case("insert folded collation", [{"create": "@", "collation": {"locale": "en", "strength": 2}}, many({"_id": "a"}), many({"_id": "A"}), many({"_id": "b"})]),
        Case("insert into a view", [{"create": "@v", "viewOn": "@", "pipeline": []}, {"insert": "@v", "documents": [{"_id": 1}]}]),
        Case("insert capped", [{"create": "@", "capped": True, "size": 4096, "max": 100}, many(*docs)]),
        Case("insert clustered", [{"create": "@", "clusteredIndex": {"key": {"_id": 1}, "unique": True}}, many(*docs), many(docs[0])]),
    ]


def unique() -> dict:
    return {"createIndexes": "@", "indexes": [{"key": {"u": 1}, "name": "u", "unique": True}]}


def validated() -> dict:
    return {"create": "@", "validator": {"v": {"$type": "number"}}}
