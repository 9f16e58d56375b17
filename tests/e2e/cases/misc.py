"""Collections that come and go, reads, cursors, aggregations, indexes, files, and commands that only pass."""

import uuid

from bson import Binary, Int64, ObjectId
from cases import Case, many
from cases.updates import DOCS, update


def more(batch: int = 2):
    def step(replies):
        return {"getMore": replies[-1]["cursor"]["id"], "collection": "@", "batchSize": batch}

    return step


def cases() -> list[Case]:
    return ddl() + reads() + pipelines() + files() + passing()


def ddl() -> list[Case]:
    rename = {"renameCollection": "t.@", "to": "t.@b", "$db": "admin"}
    two = {"insert": "@b", "documents": [{"_id": 1, "b": 1}, {"_id": 99}]}
    other = {"insert": "@", "documents": [{"_id": 1}], "$db": "gone@"}
    return [
        Case("create", [{"create": "@"}]),
        Case("create twice", [{"create": "@"}, {"create": "@"}]),
        Case("create with options", [{"create": "@", "validator": {"a": 1}, "collation": {"locale": "fr"}}, {"listCollections": 1, "filter": {"name": "@"}}]),
        Case("create view", [many(*DOCS), {"create": "@v", "viewOn": "@", "pipeline": [{"$match": {"n": 5}}]}, {"find": "@v"}]),
        Case("create time series", [{"create": "@", "timeseries": {"timeField": "at"}}, {"listCollections": 1, "filter": {"name": "@"}, "nameOnly": True}, {"drop": "@"}]),
        Case("drop", [many(*DOCS), {"drop": "@"}, {"find": "@"}]),
        Case("drop and fill again", [many(*DOCS), {"drop": "@"}, many(*DOCS), update({"q": {"_id": 1}, "u": {"$inc": {"n": 1}}})]),
        Case("drop a view", [many(*DOCS), {"create": "@v", "viewOn": "@", "pipeline": []}, {"drop": "@v"}]),
        Case("rename", [many(*DOCS), rename, many({"_id": 1, "again": True}), update({"q": {}, "u": {"$inc": {"n": 1}}, "multi": True}) | {"update": "@b"}]),
        Case("rename onto one that is there", [many(*DOCS), two, rename]),
        Case("rename with dropTarget", [many(*DOCS), two, rename | {"dropTarget": True}, {"find": "@b", "sort": {"_id": 1}}]),
        Case("rename there and back", [many(*DOCS), rename, {"renameCollection": "t.@b", "to": "t.@", "$db": "admin"}, update({"q": {"_id": 1}, "u": {"$inc": {"n": 1}}})]),
        Case("rename to another database", [many(*DOCS), rename | {"to": "t2.@"}, {"find": "@", "$db": "t2", "sort": {"_id": 1}}]),
        Case("dropDatabase", [other, {"dropDatabase": 1, "$db": "gone@"}, {"find": "@", "$db": "gone@"}]),
        Case("dropDatabase and fill again", [other, {"dropDatabase": 1, "$db": "gone@"}, other]),
        Case("dropDatabase nothing", [{"dropDatabase": 1, "$db": "never@"}]),
        Case("collMod", [many(*DOCS), {"collMod": "@", "validator": {"n": {"$gt": 0}}}, many({"_id": 9, "n": -1})]),
        Case("collMod pre-images", [many(*DOCS), {"collMod": "@", "changeStreamPreAndPostImages": {"enabled": True}}]),
        Case("indexes", [many(*DOCS), {"createIndexes": "@", "indexes": [{"key": {"n": 1}, "name": "n"}]}, {"listIndexes": "@"}, {"dropIndexes": "@", "index": "n"}]),
        Case("index unique violated", [many({"_id": 1, "u": 1}, {"_id": 2, "u": 1}), {"createIndexes": "@", "indexes": [{"key": {"u": 1}, "name": "u", "unique": True}]}]),
        Case("convertToCapped refused or not", [{"listCollections": 1, "nameOnly": True, "filter": {"name": "@"}}]),
    ]


def reads() -> list[Case]:
    docs = [{"_id": i, "v": i * i} for i in range(7)]
    return [
        Case("find", [many(*docs), {"find": "@", "sort": {"_id": 1}}]),
        Case("find with a cursor", [many(*docs), {"find": "@", "sort": {"_id": 1}, "batchSize": 3}, more(2), more(5)]),
        Case("find and kill", [many(*docs), {"find": "@", "batchSize": 1}, lambda r: {"killCursors": "@", "cursors": [r[-1]["cursor"]["id"]]}]),
        Case("find one", [many(*docs), {"find": "@", "filter": {"_id": 3}, "limit": 1, "singleBatch": True}]),
        Case("find options", [many(*docs), {"find": "@", "filter": {"v": {"$gt": 1}}, "projection": {"v": 1}, "sort": {"v": -1}, "skip": 1, "limit": 2, "comment": "c"}]),
        Case("find collation", [many({"_id": "a"}, {"_id": "B"}), {"find": "@", "sort": {"_id": 1}, "collation": {"locale": "en"}}]),
        Case("find bad", [{"find": "@", "filter": {"$frob": 1}}]),
        Case("find unknown field", [{"find": "@", "frob": 1}]),
        Case("find 5 MB", [many({"_id": 1, "s": "x" * 5_000_000}), {"find": "@"}]),
        Case("count", [many(*docs), {"count": "@", "query": {"v": {"$gt": 4}}}]),
        Case("distinct", [many(*docs), {"distinct": "@", "key": "v"}]),
        Case("explain of an update", [many(*docs), {"explain": update({"q": {"_id": 1}, "u": {"$set": {"v": 0}}}), "verbosity": "queryPlanner"}, {"find": "@", "filter": {"_id": 1}}]),
        Case("read concern", [many(*docs), {"find": "@", "filter": {"_id": 1}, "readConcern": {"level": "majority"}}]),
        Case("read preference", [many(*docs), {"find": "@", "filter": {"_id": 1}, "$readPreference": {"mode": "nearest"}}]),
        Case("listDatabases bad", [{"listDatabases": 1, "frob": 1, "$db": "admin"}]),
        Case("listCollections", [many(*docs), {"listCollections": 1, "filter": {"name": "@"}}]),
        Case("collStats", [many(*docs), {"aggregate": "@", "pipeline": [{"$collStats": {"count": {}}}, {"$project": {"count": 1}}], "cursor": {}}]),
    ]


def pipelines() -> list[Case]:
    def agg(*stages, **options) -> dict:
        return {"aggregate": "@", "pipeline": list(stages), "cursor": {}, **options}

    inline = {"mapReduce": "@", "map": "function(){}", "reduce": "function(){}", "out": {"inline": 1}}
    return [
        Case("aggregate", [many(*DOCS), agg({"$match": {"n": {"$gt": 5}}}, {"$group": {"_id": None, "n": {"$sum": "$n"}}})]),
        Case("aggregate cursor", [many(*DOCS), agg({"$sort": {"_id": 1}}, cursor={"batchSize": 1}), more(1), more(1)]),
        Case("aggregate without cursor", [many(*DOCS), {"aggregate": "@", "pipeline": []}]),
        Case("aggregate $lookup", [many(*DOCS), agg({"$lookup": {"from": "@", "localField": "_id", "foreignField": "_id", "as": "j"}}, {"$sort": {"_id": 1}})]),
        Case("aggregate bad stage", [agg({"$frob": 1})]),
        Case("aggregate of the database", [{"aggregate": 1, "pipeline": [{"$documents": [{"x": 1}]}], "cursor": {}}]),
        Case("aggregate $out", [many(*DOCS), agg({"$match": {"n": {"$gt": 6}}}, {"$out": "@o"}), {"find": "@o", "sort": {"_id": 1}}], gap=True),
        Case("aggregate $out elsewhere", [many(*DOCS), agg({"$out": {"db": "t2", "coll": "@o"}}), {"find": "@o", "$db": "t2", "sort": {"_id": 1}}], gap=True),
        Case("aggregate $merge", [many(*DOCS), agg({"$set": {"m": 1}}, {"$merge": {"into": "@m", "whenMatched": "replace"}}), {"find": "@m", "sort": {"_id": 1}}], gap=True),
        Case("aggregate $merge into itself", [many(*DOCS), agg({"$set": {"m": 1}}, {"$merge": {"into": "@"}}), {"find": "@", "sort": {"_id": 1}}], gap=True),
        Case("aggregate $merge fails", [many(*DOCS), agg({"$merge": {"into": "@m", "whenNotMatched": "fail"}})], gap=True),
        Case("aggregate $out not last", [many(*DOCS), agg({"$out": "@o"}, {"$match": {}})], gap=True),
        Case("mapReduce inline", [many(*DOCS), inline]),
        Case("change stream on standalone or not", [agg({"$changeStream": {}}, cursor={"batchSize": 0})]),
    ]


def files() -> list[Case]:
    """What GridFS does, as plain commands."""
    _id = ObjectId("6" * 24)
    chunks = [{"_id": ObjectId(f"{i:024x}"), "files_id": _id, "n": i, "data": bytes([i]) * 200_000} for i in range(3)]
    index = {"createIndexes": "@.chunks", "indexes": [{"key": {"files_id": 1, "n": 1}, "name": "f", "unique": True}]}
    return [
        Case("files in and out", [
            index,
            ({"insert": "@.chunks"}, {"documents": chunks}),
            {"insert": "@.files", "documents": [{"_id": _id, "length": Int64(600_000), "chunkSize": 200_000, "filename": "f"}]},
            {"find": "@.chunks", "filter": {"files_id": _id}, "sort": {"n": 1}},
            {"delete": "@.files", "deletes": [{"q": {"_id": _id}, "limit": 1}]},
            {"delete": "@.chunks", "deletes": [{"q": {"files_id": _id}, "limit": 0}]},
        ]),
        Case("files chunk twice", [index, {"insert": "@.chunks", "documents": chunks[:2]}, {"insert": "@.chunks", "documents": [chunks[0] | {"_id": 5}]}]),
    ]


def passing() -> list[Case]:
    session = {"id": Binary(uuid.UUID(int=1 << 64).bytes, 4)}
    rows = {
        "ping": {"ping": 1},
        "ping with a session": {"ping": 1, "lsid": session},
        "ping with extra field": {"ping": 1, "frob": 2},
        "connectionStatus": {"connectionStatus": 1},
        "whatsmyuri bad": {"whatsmyuri": 1, "frob": 1},
        "getParameter": {"getParameter": 1, "transactionLifetimeLimitSeconds": 1, "$db": "admin"},
        "getParameter unknown": {"getParameter": 1, "frob": 1, "$db": "admin"},
        "getParameter not on admin": {"getParameter": 1, "transactionLifetimeLimitSeconds": 1},
        "killSessions": {"killSessions": [], "$db": "admin"},
        "refreshSessions": {"refreshSessions": [session], "$db": "admin"},
        "isMaster with wrong type": {"isMaster": "x"},
        "saslStart unknown": {"saslStart": 1, "mechanism": "FROB", "payload": b""},
        "saslContinue nothing": {"saslContinue": 1, "conversationId": 1, "payload": b""},
        "logout": {"logout": 1},
        "profile": {"profile": -1},
        "validate nothing": {"validate": "@"},
    }
    return [Case(f"pass: {name}", [step]) for name, step in rows.items()]
