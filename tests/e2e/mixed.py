"""A small workload with something of everything, for tests of what sinks get."""

import datetime
import uuid

from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import UuidRepresentation

LARGE = 16 * 1024 * 1024 - 4096


def documents() -> list[dict]:
    """Documents of all types that a driver still writes."""
    when = datetime.datetime(2026, 2, 3, 4, 5, 6, 789000, datetime.timezone.utc)
    return [
        {"_id": ObjectId("65f0000000000000000000aa"), "when": when, "old": datetime.datetime(1931, 1, 1)},
        {"_id": "decimals", "d": Decimal128("1234.50"), "nan": Decimal128("NaN"), "double": 0.1, "neg": -0.0, "inf": float("inf")},
        {"_id": Int64(7), "long": Int64(2**53 + 1), "int": 1, "flag": True, "nothing": None},
        {"_id": Binary.from_uuid(uuid.UUID(int=5), UuidRepresentation.STANDARD), "raw": b"\x00\xff\x80", "sub": Binary(b"x", 128)},
        {"_id": {"a": 1, "b": [1, "two"]}, "nested": {"list": [1, {"deep": [[], {}]}], "empty": {}}, "é": "ü \"quoted\" \\ \n \u2028 😀"},
        {"_id": 3.5, "re": Regex("^a.*b$", "im"), "code": Code("f()"), "ts": Timestamp(5, 6), "min": MinKey(), "max": MaxKey()},
        {"_id": "dollar", "$odd": 1, "a.b": 2},
    ]


def write(client, name: str = "mix", transactions: bool = True, large: bool = True) -> None:
    """Writes it into the database `name`."""
    db = client[name]
    db["types"].insert_many(documents())
    db["types"].replace_one({"_id": 3.5}, {"replaced": Decimal128("0E-10")})
    db["types"].update_many({}, {"$set": {"touched": datetime.datetime(2026, 1, 1)}}, comment={"job": 5})
    db["types"].delete_one({"_id": "decimals"})
    db["many"].insert_many([{"_id": n, "text": "x" * 40, "n": n} for n in range(300)])
    db["many"].update_many({"n": {"$lt": 150}}, {"$inc": {"n": 1000}})
    db["many"].delete_many({"n": {"$gte": 250, "$lt": 1000}})
    if transactions:
        with client.start_session() as session, session.start_transaction():
            db["many"].insert_one({"_id": "t1"}, session=session)
            db["many"].update_one({"_id": 3}, {"$set": {"in": "transaction"}}, session=session)
            db["many"].delete_one({"_id": 4}, session=session)
    if large:
        db["large"].insert_one({"_id": 1, "text": "y" * (LARGE - 100)})
        db["large"].update_one({"_id": 1}, {"$set": {"n": 1}})
        db["large"].delete_one({"_id": 1})
    db.create_collection("made", collation={"locale": "en", "strength": 2})
    db["made"].insert_one({"_id": "A"})
    db["made"].rename("renamed")
    db["renamed"].drop()
