"""Transactions: statements of every kind, committed and aborted; errors in them, conflicts, wrong numbers, ends that come twice, DDL
and reads inside. One connection speaks for several sessions, so the order of events is the table's."""

import uuid

from bson import Binary, Int64
from cases import Case, many
from cases.batches import BUMP, bulk, dele, ins, upd
from cases.deletes import delete
from cases.fam import fam
from cases.updates import DOCS, update

ADMIN = {"$db": "admin"}


def session(number: int) -> dict:
    """A session of this table's own."""
    return {"id": Binary(uuid.UUID(int=1_000_000 + number).bytes, 4)}


class Txn:
    """The commands of one transaction of one session."""

    numbers = iter(range(1, 1_000_000))

    def __init__(self, number: int = 1, lsid: dict | None = None):
        self.lsid = lsid or session(next(Txn.numbers))
        self.fields = {"lsid": self.lsid, "txnNumber": Int64(number), "autocommit": False}

    def first(self, command: dict, **more) -> dict:
        return command | self.fields | {"startTransaction": True} | more

    def then(self, command: dict, **more) -> dict:
        return command | self.fields | more

    def commit(self, **more) -> dict:
        return {"commitTransaction": 1} | ADMIN | self.fields | more

    def abort(self, **more) -> dict:
        return {"abortTransaction": 1} | ADMIN | self.fields | more

    def next(self, number: int = 2) -> "Txn":
        """Another transaction of the same session."""
        return Txn(number, self.lsid)


FIND = {"find": "@", "sort": {"_id": 1}}
INC = {"q": {"_id": 1}, "u": {"$inc": {"n": 1}}}
STATEMENTS = {
    "insert": many({"_id": 50, "x": 1}),
    "insert two": many({"_id": 50}, {"_id": 51}),
    "insert without _id": many({"x": 1}),
    "insert _id of another number type": many({"_id": 60.0}),
    "update": update(INC),
    "update two": update(INC, {"q": {"_id": 2}, "u": {"$inc": {"n": 1}}}),
    "update the same twice": update(INC, INC),
    "update by filter": update({"q": {"n": {"$gt": 6}}, "u": {"$inc": {"n": 1}}}),
    "update many": update({"q": {}, "u": {"$set": {"x": 1}}, "multi": True}),
    "update no-op": update({"q": {"_id": 1}, "u": {"$set": {"n": 5}}}),
    "update no match": update({"q": {"_id": 404}, "u": {"$set": {"n": 5}}}),
    "update by pipeline": update({"q": {"_id": 1}, "u": [{"$set": {"n": {"$add": ["$n", 1]}}}]}),
    "update with array filters": update({"q": {"_id": 1}, "u": {"$set": {"e.$[x].v": 7}}, "arrayFilters": [{"x.k": 2}]}),
    "update with let": update({"q": {"$expr": {"$eq": ["$_id", "$$id"]}}, "u": {"$set": {"x": 1}}}, let={"id": 2}),
    "update with hint and collation": update({"q": {"s": "aBc"}, "u": {"$set": {"x": 1}}, "hint": "_id_", "collation": {"locale": "en", "strength": 2}}),
    "replace": update({"q": {"_id": 1}, "u": {"r": 1}}),
    "upsert": update({"q": {"_id": 60}, "u": {"$inc": {"n": 1}}, "upsert": True}),
    "upsert by filter": update({"q": {"n": 600}, "u": {"$inc": {"m": 1}}, "upsert": True}),
    "upsert of a living one": update(INC | {"upsert": True}),
    "delete": delete({"q": {"_id": 1}, "limit": 1}),
    "delete by filter": delete({"q": {"n": {"$gt": 6}}, "limit": 1}),
    "delete many": delete({"q": {}, "limit": 0}),
    "delete none": delete({"q": {"_id": 404}, "limit": 1}),
    "fam old": fam(query={"_id": 1}, update=BUMP),
    "fam new": fam(query={"_id": 1}, update=BUMP, new=True),
    "fam sorted": fam(query={}, sort={"n": -1}, update=BUMP, fields={"n": 1}),
    "fam remove": fam(query={"_id": 1}, remove=True),
    "fam upsert": fam(query={"_id": 60}, update=BUMP, upsert=True, new=True),
    "fam none": fam(query={"_id": 404}, update=BUMP),
    "bulk": bulk([ins(50), upd({"_id": 1}, BUMP), dele({"_id": 2})]),
    "bulk many": bulk([upd({}, {"$set": {"x": 1}}, multi=True), dele({"n": {"$gt": 6}}, multi=True)]),
    "bulk errorsOnly": bulk([ins(50), upd({"_id": 1}, BUMP)], errorsOnly=True),
    "bulk two namespaces": bulk([ins(50), ins(50, at=1)], spaces=("t.@", "t.@2")),
    "insert into another collection": {"insert": "@other", "documents": [{"_id": 1}]},
}
FAILING = {
    "duplicate key": many({"_id": 1}),
    "duplicate in the middle": many({"_id": 50}, {"_id": 1}, {"_id": 51}),
    "duplicate unordered": many({"_id": 50}, {"_id": 1}, {"_id": 51}) | {"ordered": False},
    "update error": update({"q": {"_id": 1}, "u": {"$inc": {"s": 1}}}),
    "update error in the middle": update(INC, {"q": {"_id": 2}, "u": {"$inc": {"s": 1}}}, INC),
    "change of _id": update({"q": {"_id": 1}, "u": {"$set": {"_id": 2}}}),
    "upsert error": update({"q": {"_id": 70}, "u": {"$push": {"_id": 1}}, "upsert": True}),
    "fam error": fam(query={"_id": 1}, update={"$inc": {"s": 1}}),
    "fam wrong": fam(query={"_id": 1}),
    "unknown field": many({"_id": 50}) | {"frob": 1},
    "unknown operator": update({"q": {"_id": 1}, "u": {"$frob": {"n": 1}}}),
    "bad filter": update({"q": {"n": {"$frob": 1}}, "u": {"$set": {"x": 1}}}),
    "_id an array": many({"_id": [1]}),
    "bad find": {"find": "@", "filter": {"$frob": 1}},
    "unknown command": {"frobnicate": 1},
    "write concern inside": update(INC) | {"writeConcern": {"w": 1}},
    "w 0 inside": update(INC) | {"writeConcern": {"w": 0}},
    "read concern inside": FIND | {"readConcern": {"level": "snapshot"}},
    "count": {"count": "@"},
    "drop": {"drop": "@"},
    "drop database": {"dropDatabase": 1, "$db": "nothere"},
    "rename": {"renameCollection": "t.@", "to": "t.@r", "$db": "admin"},
    "collMod": {"collMod": "@", "validationLevel": "moderate"},
    "dropIndexes": {"dropIndexes": "@", "index": "*"},
    "create that is there": {"create": "@"},
    "createIndexes on a filled one": {"createIndexes": "@", "indexes": [{"key": {"n": 1}, "name": "n"}]},
    "aggregate $out": {"aggregate": "@", "pipeline": [{"$out": "@o"}], "cursor": {}},
    "aggregate $merge": {"aggregate": "@", "pipeline": [{"$merge": "@m"}], "cursor": {}},
    "listCollections": {"listCollections": 1},
    "write in local": {"insert": "x@", "documents": [{"_id": 1}], "$db": "local"},
    "write in config": {"insert": "x@", "documents": [{"_id": 1}], "$db": "config"},
    "write to a view": {"insert": "@v", "documents": [{"_id": 1}]},
    "empty batch": {"insert": "@", "documents": []},
    "stale write in its own session": update(INC) | {"stmtId": 5},
}
# mongod ends the transaction with these, as the sidecar does; secantusd lets it go on with the half of the command.
ENDING = {
    "bulk with an error": bulk([ins(50), ins(1), upd({"_id": 1}, BUMP)]),
    "bulk unordered with an error": bulk([ins(50), ins(1), upd({"_id": 1}, BUMP)], ordered=False),
}
READS = {
    "find": FIND,
    "find by _id": {"find": "@", "filter": {"_id": 1}},
    "aggregate": {"aggregate": "@", "pipeline": [{"$group": {"_id": None, "n": {"$sum": "$n"}}}], "cursor": {}},
    "distinct": {"distinct": "@", "key": "n"},
    "lookup": {"aggregate": "@", "pipeline": [{"$lookup": {"from": "@", "localField": "_id", "foreignField": "_id", "as": "x"}}, {"$sort": {"_id": 1}}], "cursor": {}},
}


def committed(name: str, statement: dict) -> list[Case]:
    """A statement that begins a transaction, one that follows a read, both ends, and what is seen inside and outside."""
    a, b, c = Txn(), Txn(), Txn()
    return [
        Case(f"txn {name}, commit", [many(*DOCS), a.first(statement), a.then(FIND), FIND, a.commit()]),
        Case(f"txn {name}, abort", [many(*DOCS), b.first(statement), b.then(FIND), b.abort()]),
        Case(f"txn {name}, after a read", [many(*DOCS), c.first(FIND), c.then(statement), c.then(update(INC)), c.commit(), c.commit()]),
    ]


def failed(name: str, statement: dict) -> list[Case]:
    """A statement that fails or may fail: what becomes of what stood before it, and of the end."""
    a, b = Txn(), Txn()
    view = {"create": "@v", "viewOn": "@", "pipeline": []}
    return [
        Case(f"txn with {name}, commit", [many(*DOCS), view, a.first(update({"q": {"_id": 3}, "u": {"$set": {"m": 1}}})), a.then(statement), a.then(FIND), a.commit()]),
        # A read of the sidecar may have begun it: the number is known to the store then, and the words differ.
        Case(f"txn with {name} first, abort", [many(*DOCS), view, b.first(statement), b.abort(), b.abort()], free=("errmsg",)),
    ]


def cases() -> list[Case]:
    table = [case for name, s in STATEMENTS.items() for case in committed(name, s)]
    table += [case for name, s in FAILING.items() for case in failed(name, s)]
    for name, s in ENDING.items():
        t = Txn()
        table.append(Case(f"txn with {name}, abort", [many(*DOCS), t.first(update(INC)), t.then(s), t.abort()], free=("ok", "code", "codeName", "errmsg", "errorLabels")))
    for name, read in READS.items():
        t = Txn()
        table.append(Case(f"txn read {name}", [many(*DOCS), t.first(update(INC)), t.then(read), update({"q": {"_id": 2}, "u": {"$set": {"x": 9}}}), t.then(read), t.commit()]))
    return table + ends() + numbers() + conflicts() + ddl() + options()


def ends() -> list[Case]:
    """Commits and aborts, too early, too late, twice."""
    rows = {
        "commit twice": lambda t: [t.first(update(INC)), t.commit(), t.commit()],
        "commit and abort": lambda t: [t.first(update(INC)), t.commit(), t.abort()],
        "abort and commit": lambda t: [t.first(update(INC)), t.abort(), t.commit()],
        "abort twice": lambda t: [t.first(update(INC)), t.abort(), t.abort()],
        "commit of an unknown one": lambda t: [t.commit()],
        "abort of an unknown one": lambda t: [t.abort()],
        "statement of an unknown one": lambda t: [t.then(update(INC))],
        "read of an unknown one": lambda t: [t.then(FIND)],
        "statement after the commit": lambda t: [t.first(update(INC)), t.commit(), t.then(update(INC))],
        "statement after the abort": lambda t: [t.first(update(INC)), t.abort(), t.then(update(INC))],
        "begins again after the commit": lambda t: [t.first(update(INC)), t.commit(), t.first(update(INC))],
        "begins again after the abort": lambda t: [t.first(update(INC)), t.abort(), t.first(update(INC)), t.commit()],
        "begins twice": lambda t: [t.first(update(INC)), t.first(update(INC)), t.commit()],
        "only reads": lambda t: [t.first(FIND), t.commit()],
        "only reads, aborted": lambda t: [t.first(FIND), t.abort()],
        "commit majority": lambda t: [t.first(update(INC)), t.commit(writeConcern={"w": "majority", "wtimeout": 10000})],
        "commit with too many nodes": lambda t: [t.first(update(INC)), t.commit(writeConcern={"w": 7, "wtimeout": 10})],
        "commit with j": lambda t: [t.first(update(INC)), t.commit(writeConcern={"j": True})],
        "commit not on admin": lambda t: [t.first(update(INC)), t.commit() | {"$db": "t"}, t.abort()],
        "abort not on admin": lambda t: [t.first(update(INC)), t.abort() | {"$db": "t"}],
        "commit without autocommit": lambda t: [t.first(update(INC)), {"commitTransaction": 1, **ADMIN, "lsid": t.lsid, "txnNumber": Int64(1)}, t.abort()],
        "commit without a session": lambda t: [{"commitTransaction": 1, **ADMIN}],
        "commit that begins": lambda t: [t.commit(startTransaction=True)],
        "kill of its session": lambda t: [t.first(update(INC)), {"killSessions": [t.lsid], **ADMIN}, t.commit()],
        "end of its session": lambda t: [t.first(update(INC)), {"endSessions": [t.lsid], **ADMIN}, t.abort()],
        "commit with a comment": lambda t: [t.first(update(INC) | {"comment": "one"}), t.commit(comment="two")],
        "commit with maxTimeMS": lambda t: [t.first(update(INC)), t.commit(maxTimeMS=10000)],
        "commit with an unknown field": lambda t: [t.first(update(INC)), t.commit(frob=1), t.abort()],
    }
    return [Case(f"txn end: {name}", [many(*DOCS), *steps(Txn())]) for name, steps in rows.items()]


def numbers() -> list[Case]:
    """Numbers, flags and sessions that are wrong."""
    rows = {
        "older number": lambda t: [t.next(5).first(update(INC)), t.first(update(INC)), t.next(5).commit()],
        "older number without beginning": lambda t: [t.next(5).first(update(INC)), t.then(update(INC)), t.next(5).commit()],
        "newer number ends the open one": lambda t: [t.first(update(INC)), t.next().first(update({"q": {"_id": 2}, "u": {"$set": {"x": 1}}})), t.commit(), t.next().commit()],
        "newer number not begun": lambda t: [t.first(update(INC)), t.next().then(update(INC)), t.commit()],
        "newer retryable write ends the open one": lambda t: [t.first(update(INC)), update({"q": {"_id": 2}, "u": {"$set": {"x": 1}}}) | {"lsid": t.lsid, "txnNumber": Int64(2)}, t.commit()],
        "number of a retryable write": lambda t: [update(INC) | {"lsid": t.lsid, "txnNumber": Int64(1)}, t.first(update(INC)), t.abort()],
        "retryable write with its number": lambda t: [t.first(update(INC)), t.commit(), update(INC) | {"lsid": t.lsid, "txnNumber": Int64(1)}],
        "next transaction of the session": lambda t: [t.first(update(INC)), t.commit(), t.next().first(update(INC)), t.next().commit()],
        "number int32": lambda t: [update(INC) | {"lsid": t.lsid, "txnNumber": 1, "autocommit": False, "startTransaction": True}],
        "number negative": lambda t: [Txn(-1, t.lsid).first(update(INC))],
        "no number": lambda t: [update(INC) | {"lsid": t.lsid, "autocommit": False, "startTransaction": True}],
        "no session": lambda t: [update(INC) | {"txnNumber": Int64(1), "autocommit": False, "startTransaction": True}],
        "autocommit true": lambda t: [update(INC) | {"lsid": t.lsid, "txnNumber": Int64(1), "autocommit": True}],
        "begins with autocommit true": lambda t: [update(INC) | {"lsid": t.lsid, "txnNumber": Int64(1), "autocommit": True, "startTransaction": True}],
        "begins without autocommit": lambda t: [update(INC) | {"lsid": t.lsid, "txnNumber": Int64(1), "startTransaction": True}],
        "startTransaction false": lambda t: [t.then(update(INC), startTransaction=False)],
        "autocommit a number": lambda t: [update(INC) | {"lsid": t.lsid, "txnNumber": Int64(1), "autocommit": 0, "startTransaction": True}],
        "session bad": lambda t: [update(INC) | {"lsid": {"id": 5}, "txnNumber": Int64(1), "autocommit": False, "startTransaction": True}],
        "plain write of the session beside it": lambda t: [t.first(update(INC)), update({"q": {"_id": 2}, "u": {"$set": {"x": 1}}}) | {"lsid": t.lsid}, t.commit()],
        "plain read of the session beside it": lambda t: [t.first(update(INC)), FIND | {"lsid": t.lsid}, t.commit()],
    }
    return [Case(f"txn number: {name}", [many(*DOCS), *steps(Txn())]) for name, steps in rows.items()]


def conflicts() -> list[Case]:
    """Two sessions on one document."""
    other = {"q": {"_id": 1}, "u": {"$set": {"x": "other"}}}
    rows = {
        "both update": lambda a, b: [a.first(update(INC)), b.first(update(other)), b.then(FIND), b.commit(), a.commit()],
        "update by filter": lambda a, b: [a.first(update(INC)), b.first(update({"q": {"n": {"$lt": 7}}, "u": {"$set": {"x": 1}}})), b.abort(), a.commit()],
        "update many": lambda a, b: [a.first(update(INC)), b.first(update({"q": {}, "u": {"$set": {"x": 1}}, "multi": True})), b.abort(), a.commit()],
        "delete": lambda a, b: [a.first(update(INC)), b.first(delete({"q": {"_id": 1}, "limit": 1})), b.abort(), a.commit()],
        "fam": lambda a, b: [a.first(update(INC)), b.first(fam(query={"_id": 1}, update=BUMP)), b.abort(), a.commit()],
        "fam remove": lambda a, b: [a.first(fam(query={"_id": 1}, remove=True)), b.first(fam(query={"_id": 1}, update=BUMP)), b.abort(), a.commit()],
        "upsert": lambda a, b: [a.first(update({"q": {"_id": 77}, "u": BUMP, "upsert": True})), b.first(update({"q": {"_id": 77}, "u": BUMP, "upsert": True})), b.abort(), a.commit()],
        "insert": lambda a, b: [a.first(many({"_id": 77})), b.first(many({"_id": 77, "x": 1})), b.abort(), a.commit()],
        "insert in the middle": lambda a, b: [a.first(many({"_id": 77})), b.first(many({"_id": 76}, {"_id": 77, "x": 1}, {"_id": 78})), b.abort(), a.commit()],
        "the first aborts": lambda a, b: [a.first(update(INC)), b.first(update(other)), a.abort(), b.next().first(update(other)), b.next().commit()],
        "old snapshot": lambda a, b: [b.first(FIND), a.first(update(INC)), a.commit(), b.then(update(other)), b.commit()],
        "old snapshot, plain write": lambda a, b: [b.first(FIND), update(INC), b.then(update(other)), b.abort()],
        "old snapshot, deleted": lambda a, b: [b.first(FIND), delete({"q": {"_id": 1}, "limit": 1}), b.then(FIND), b.then(update(other)), b.abort()],
        "old snapshot, inserted": lambda a, b: [b.first(FIND), many({"_id": 77}), b.then(FIND), b.then(many({"_id": 77, "x": 1})), b.abort()],
        "different documents": lambda a, b: [a.first(update(INC)), b.first(update({"q": {"_id": 2}, "u": BUMP})), a.commit(), b.commit()],
        "after the commit": lambda a, b: [a.first(update(INC)), a.commit(), b.first(update(other)), b.commit()],
    }
    return [Case(f"txn conflict: {name}", [many(*DOCS), *steps(Txn(), Txn())]) for name, steps in rows.items()]


def ddl() -> list[Case]:
    """Collections and indexes that come to be inside."""
    fill = {"insert": "@n", "documents": [{"_id": 1}]}
    rows = {
        "create": lambda t: [t.first({"create": "@n"}), t.then(fill), t.commit(), {"find": "@n"}],
        "create, aborted": lambda t: [t.first({"create": "@n"}), t.then(fill), t.abort(), {"find": "@n"}, {"listCollections": 1, "filter": {"name": "@n"}}],
        "create after a statement": lambda t: [t.first(update(INC)), t.then({"create": "@n"}), t.then(fill), t.commit(), {"find": "@n"}],
        "create with options": lambda t: [t.first({"create": "@n", "validator": {"x": 1}}), t.then(fill), t.commit()],
        "implied by an insert": lambda t: [t.first(fill), t.commit(), {"find": "@n"}],
        "implied by an upsert": lambda t: [t.first({"update": "@n", "updates": [{"q": {"_id": 1}, "u": BUMP, "upsert": True}]}), t.commit(), {"find": "@n"}],
        "implied, aborted": lambda t: [t.first(fill), t.abort(), {"listCollections": 1, "filter": {"name": "@n"}}],
        "index on a new collection": lambda t: [t.first({"create": "@n"}), t.then({"createIndexes": "@n", "indexes": [{"key": {"u": 1}, "name": "u", "unique": True}]}), t.then(fill), t.commit(), {"listIndexes": "@n"}],
        "unique index, broken inside": lambda t: [
            t.first({"createIndexes": "@n", "indexes": [{"key": {"u": 1}, "name": "u", "unique": True}]}),
            t.then({"insert": "@n", "documents": [{"_id": 1, "u": 1}, {"_id": 2, "u": 1}]}), t.commit(), {"find": "@n"},
        ],
        "write to a missing collection": lambda t: [t.first({"update": "@n", "updates": [INC]}), t.then({"delete": "@n", "deletes": [{"q": {}, "limit": 0}]}), t.commit()],
        "read of a missing collection": lambda t: [t.first({"find": "@n"}), t.then(fill), t.then({"find": "@n"}), t.commit()],
        "two databases": lambda t: [t.first(update(INC)), t.then({"insert": "@", "documents": [{"_id": 1}], "$db": "t2"}), t.commit(), {"find": "@", "$db": "t2"}],
        "validator": lambda t: [{"create": "@n", "validator": {"x": {"$gt": 0}}}, t.first({"insert": "@n", "documents": [{"_id": 1, "x": 1}]}), t.then({"insert": "@n", "documents": [{"_id": 2, "x": 0}]}), t.commit(), {"find": "@n"}],
    }
    return [Case(f"txn ddl: {name}", [many(*DOCS), *steps(Txn())]) for name, steps in rows.items()]


def options() -> list[Case]:
    """Read concerns, API versions, cursors, several statements on one document."""
    def cursor(replies):
        return {"getMore": replies[-1]["cursor"]["id"], "collection": "@", "batchSize": 9}

    rows = {
        **{f"read concern {level}": (lambda t, level=level: [t.first(update(INC), readConcern={"level": level}), t.then(FIND), t.commit()]) for level in ("local", "majority", "snapshot", "available", "linearizable", "none such")},
        "api version": lambda t: [t.first(update(INC), apiVersion="1", apiStrict=True), t.then(update(INC), apiVersion="1", apiStrict=True), t.commit(apiVersion="1", apiStrict=True)],
        "maxTimeMS": lambda t: [t.first(update(INC), maxTimeMS=10000), t.then(FIND, maxTimeMS=10000), t.commit()],
        "getMore": lambda t: [t.first(FIND | {"batchSize": 1}), lambda r: t.then(cursor(r)), t.commit()],
        "cursor after the commit": lambda t: [t.first(FIND | {"batchSize": 1}), t.commit(), lambda r: cursor(r[:-1])],
        "come and gone": lambda t: [t.first(many({"_id": 50})), t.then(delete({"q": {"_id": 50}, "limit": 1})), t.commit()],
        "gone and come": lambda t: [t.first(delete({"q": {"_id": 1}, "limit": 1})), t.then(many({"_id": 1, "life": 2})), t.commit()],
        "there and back": lambda t: [t.first(update(INC)), t.then(update({"q": {"_id": 1}, "u": {"$inc": {"n": -1}}})), t.commit()],
        "many on one": lambda t: [t.first(update(INC)), t.then(update(INC)), t.then(fam(query={"_id": 1}, update=BUMP, new=True)), t.then(update({"q": {"_id": 1}, "u": {"r": 1}})), t.commit()],
        "deleted and updated": lambda t: [t.first(delete({"q": {"_id": 1}, "limit": 1})), t.then(update(INC)), t.then(update(INC | {"upsert": True})), t.commit()],
        "statement sent twice": lambda t: [t.first(update(INC) | {"stmtId": 0}), t.then(update(INC) | {"stmtId": 0}), t.commit()],
        "a thousand": lambda t: [t.first({"insert": "@", "documents": [{"_id": 1000 + n, "n": n} for n in range(1000)]}), t.then(update({"q": {"n": {"$gte": 500}}, "u": BUMP, "multi": True})), t.then(delete({"q": {"_id": {"$gte": 1900}}, "limit": 0})), t.commit()],
    }
    return [Case(f"txn: {name}", [many(*DOCS), *steps(Txn())]) for name, steps in rows.items()]
