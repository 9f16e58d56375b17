"""Retryable writes: the same session and number again, older ones, wrong ones."""

import uuid

from bson import Binary, Int64
from cases import Case, many
from cases.batches import BUMP, bulk, ins, upd
from cases.deletes import delete
from cases.fam import fam
from cases.updates import DOCS, update


def sessions():
    """Distinct session ids, the same ones on each side."""
    number = 0
    while True:
        number += 1
        yield {"id": Binary(uuid.UUID(int=number).bytes, 4)}


def cases() -> list[Case]:
    one = {"q": {"_id": 1}, "u": {"$inc": {"n": 1}}}
    up = {"q": {"_id": 60}, "u": {"$inc": {"n": 1}}, "upsert": True}
    rows = {
        "insert": many({"_id": 50}),
        "insert three": many({"_id": 50}, {"_id": 51}, {"_id": 52}),
        "insert without _id": many({"x": 1}),
        "insert with a duplicate": many({"_id": 50}, {"_id": 1}, {"_id": 52}),
        "insert unordered with a duplicate": many({"_id": 50}, {"_id": 1}, {"_id": 52}) | {"ordered": False},
        "update": update(one),
        "update two": update(one, {"q": {"_id": 2}, "u": {"$inc": {"n": 1}}}),
        "update by filter": update({"q": {"n": {"$gt": 6}}, "u": {"$inc": {"n": 1}}}),
        "update the same twice": update(one, one),
        "update no-op": update({"q": {"_id": 1}, "u": {"$set": {"n": 5}}}),
        "update no match": update({"q": {"_id": 404}, "u": {"$set": {"n": 5}}}),
        "replacement": update({"q": {"_id": 1}, "u": {"r": 1}}),
        "pipeline": update({"q": {"_id": 1}, "u": [{"$set": {"n": {"$add": ["$n", 1]}}}]}),
        "upsert": update(up),
        "upsert by filter": update({"q": {"n": 600}, "u": {"$inc": {"m": 1}}, "upsert": True}),
        "update error": update({"q": {"_id": 1}, "u": {"$inc": {"s": 1}}}),
        "delete": delete({"q": {"_id": 1}, "limit": 1}),
        "delete by filter": delete({"q": {"n": {"$gt": 6}}, "limit": 1}),
        "delete none": delete({"q": {"_id": 404}, "limit": 1}),
        "fam old": fam(query={"_id": 1}, update={"$inc": {"n": 1}}),
        "fam new": fam(query={"_id": 1}, update={"$inc": {"n": 1}}, new=True),
        "fam sorted": fam(query={}, sort={"n": -1}, update={"$inc": {"n": 1}}, new=True),
        "fam remove": fam(query={"_id": 1}, remove=True),
        "fam upsert": fam(query={"_id": 60}, update={"$inc": {"n": 1}}, upsert=True, new=True),
        "fam none": fam(query={"_id": 404}, update={"$inc": {"n": 1}}),
        "bulk": bulk([ins(50), upd({"_id": 1}, BUMP), upd({"_id": 61}, BUMP, upsert=True)]),
        "bulk errorsOnly": bulk([ins(50), ins(1), upd({"_id": 1}, BUMP)], errorsOnly=True, ordered=False),
    }
    table, session = [], sessions()
    for name, step in rows.items():
        again = step | {"lsid": next(session), "txnNumber": Int64(1)}
        table.append(Case(f"retry {name}", [many(*DOCS), again, again, again]))
    first = update(one) | {"txnNumber": Int64(5)}
    lsids = [next(session) for _ in range(12)]
    return table + [
        Case("retry after another write", [many(*DOCS), first | {"lsid": lsids[0]}, update({"q": {"_id": 1}, "u": {"$set": {"n": 100}}}), first | {"lsid": lsids[0]}]),
        Case("retry of an older number", [many(*DOCS), first | {"lsid": lsids[1]}, update(one) | {"lsid": lsids[1], "txnNumber": Int64(4)}]),
        Case("retry with the next number", [many(*DOCS), first | {"lsid": lsids[2]}, update(one) | {"lsid": lsids[2], "txnNumber": Int64(6)}]),
        Case("retry multi refused", [many(*DOCS), update({"q": {}, "u": {"$inc": {"n": 1}}, "multi": True}) | {"lsid": lsids[3], "txnNumber": Int64(1)}]),
        Case("retry limit 0 refused", [many(*DOCS), delete({"q": {}, "limit": 0}) | {"lsid": lsids[4], "txnNumber": Int64(1)}]),
        Case("retry number int32", [many(*DOCS), update(one) | {"lsid": lsids[5], "txnNumber": 1}]),
        Case("retry without lsid", [many(*DOCS), update(one) | {"txnNumber": Int64(1)}]),
        Case("retry negative number", [many(*DOCS), update(one) | {"lsid": lsids[6], "txnNumber": Int64(-1)}]),
        Case("retry stmtIds", [many(*DOCS), update(one, one) | {"lsid": lsids[7], "txnNumber": Int64(1), "stmtIds": [4, 5]}, update(one) | {"lsid": lsids[7], "txnNumber": Int64(1), "stmtIds": [5]}]),
        Case("retry stmtId", [many(*DOCS), update(one) | {"lsid": lsids[8], "txnNumber": Int64(1), "stmtId": 3}, update(one) | {"lsid": lsids[8], "txnNumber": Int64(1), "stmtId": 3}]),
        Case("session without number", [many(*DOCS), update(one) | {"lsid": lsids[9]}, update(one) | {"lsid": lsids[9]}]),
        Case("session bad", [many(*DOCS), update(one) | {"lsid": {"id": 5}}]),
        Case("endSessions", [{"endSessions": [lsids[10]], "$db": "admin"}, {"startSession": 1}]),
    ]
