"""The bulkWrite command: several namespaces, errors, cursors, wrong calls."""

from bson import Timestamp
from cases import Case, many
from cases.updates import DOCS


def bulk(operations: list, spaces=("t.@",), **options) -> dict:
    return {"bulkWrite": 1, "ops": operations, "nsInfo": [{"ns": ns} for ns in spaces], "$db": "admin", **options}


def more(batch: int = 2):
    """A step that goes on with the cursor of the reply before."""

    def step(replies):
        return {"getMore": replies[-1]["cursor"]["id"], "collection": "$cmd.bulkWrite", "batchSize": batch, "$db": "admin"}

    return step


def ins(_id, at: int = 0) -> dict:
    return {"insert": at, "document": {"_id": _id, "b": 1}}


def upd(where: dict, change, at: int = 0, **options) -> dict:
    return {"update": at, "filter": where, "updateMods": change, **options}


def dele(where: dict, at: int = 0, **options) -> dict:
    return {"delete": at, "filter": where, **options}


BUMP = {"$inc": {"n": 1}}
ROWS = {
    "insert": [ins(10)],
    "insert without _id": [{"insert": 0, "document": {"a": 1}}, {"insert": 0, "document": {"a": Timestamp(0, 0)}}],
    "insert, update, delete": [ins(10), upd({"_id": 10}, BUMP), dele({"_id": 1})],
    "same entity over and over": [ins(10), upd({"_id": 10}, BUMP), upd({"_id": 10}, BUMP), dele({"_id": 10}), ins(10)],
    "duplicate in the middle": [ins(10), ins(10), ins(11)],
    "update many": [upd({}, BUMP, multi=True), upd({"n": {"$gt": 7}}, {"$set": {"x": 1}}, multi=True)],
    "upsert by _id": [upd({"_id": 20}, BUMP, upsert=True), upd({"_id": 21}, {"r": 1}, upsert=True)],
    "upsert by filter": [upd({"n": 500}, {"$set": {"x": 1}}, upsert=True)],
    "pipeline": [upd({"_id": 1}, [{"$set": {"m": {"$add": ["$n", 1]}, "at": "$$NOW"}}])],
    "pipeline constants": [upd({"_id": 1}, [{"$set": {"m": "$$c"}}], constants={"c": 3})],
    "array filters": [upd({"_id": 1}, {"$set": {"e.$[x].v": 9}}, arrayFilters=[{"x.k": 2}])],
    "collation and hint": [upd({"s": "aBC"}, BUMP, collation={"locale": "en", "strength": 2}, hint="_id_"), dele({"s": "Abc"}, collation={"locale": "en", "strength": 2})],
    "sort": [upd({}, {"$set": {"first": 1}}, sort={"_id": -1})],
    "delete many": [dele({"n": {"$gt": 6}}, multi=True), dele({"_id": 404})],
    "no-ops": [upd({"_id": 1}, {"$set": {"n": 5}}), upd({"_id": 404}, BUMP)],
    "type error in the middle": [upd({"_id": 1}, BUMP), upd({"_id": 2}, {"$inc": {"o": 1}}), upd({"_id": 3}, BUMP)],
    "bad operator in the middle": [ins(10), upd({"_id": 1}, {"$frob": 1}), ins(11)],
    "array _id": [ins([1]), ins(12)],
    "_id changed": [upd({"_id": 1}, {"$set": {"_id": 2}})],
}


def cases() -> list[Case]:
    table = []
    for name, operations in ROWS.items():
        table.append(Case(f"bulk {name}", [many(*DOCS), bulk(operations)]))
        table.append(Case(f"bulk {name}, unordered", [many(*DOCS), bulk(operations, ordered=False)]))
        table.append(Case(f"bulk {name}, errorsOnly", [many(*DOCS), bulk(operations, errorsOnly=True, ordered=False)]))
    two = ("t.@", "t2.@")
    spread = [ins(1, 0), ins(1, 1), upd({"_id": 1}, BUMP, 1), dele({"_id": 1}, 0), ins(1, 1), ins(2, 0)]
    five = [ins(i) for i in range(5)]
    table += [
        Case("bulk two namespaces", [bulk(spread, two)]),
        Case("bulk two namespaces unordered", [bulk(spread, two, ordered=False)]),
        Case("bulk as sequences", [({"bulkWrite": 1, "$db": "admin"}, {"ops": five, "nsInfo": [{"ns": "t.@"}]})]),
        Case("bulk cursor", [bulk(five, cursor={"batchSize": 2}), more(), more()]),
        Case("bulk cursor one by one", [bulk(five[:3], cursor={"batchSize": 1}), more(1), more(1)]),
        Case("bulk cursor 0", [bulk(five[:3], cursor={"batchSize": 0}), more(2), more(5)]),
        Case("bulk cursor killed", [bulk(five, cursor={"batchSize": 1}), lambda r: {"killCursors": "$cmd.bulkWrite", "cursors": [r[-1]["cursor"]["id"]], "$db": "admin"}]),
        Case("bulk errorsOnly cursor", [bulk(five + five, errorsOnly=True, ordered=False, cursor={"batchSize": 2}), more(), more()]),
        Case("bulk let", [many(*DOCS), bulk([upd({"$expr": {"$eq": ["$n", "$$x"]}}, [{"$set": {"by": "$$x"}}])], let={"x": 5})]),
        Case("bulk 1500", [bulk([ins(i) for i in range(1500)], errorsOnly=True)]),
        Case("bulk w 5", [bulk(five, writeConcern={"w": 5})]),
        Case("bulk validator", [{"create": "@", "validator": {"b": {"$type": "string"}}}, bulk(five[:2], ordered=False)]),
        Case("bulk validator bypassed", [{"create": "@", "validator": {"b": {"$type": "string"}}}, bulk(five[:2], bypassDocumentValidation=True)]),
        Case("bulk not on admin", [bulk(five) | {"$db": "t"}]),
        Case("bulk no ops", [bulk([])]),
        Case("bulk no nsInfo", [{"bulkWrite": 1, "ops": five, "$db": "admin"}]),
        Case("bulk namespace out of range", [bulk([ins(1, 3)])]),
        Case("bulk namespace unused", [bulk([ins(1)], ("t.@", "t.@unused"))]),
        Case("bulk bad namespace", [bulk([ins(1)], ("nodot",))]),
        Case("bulk namespace twice", [bulk([ins(1)], ("t.@", "t.@"))]),
        Case("bulk unknown op", [bulk([{"frob": 0}])]),
        Case("bulk op not a document", [bulk([5])]),
        Case("bulk unknown field", [bulk(five, frob=1)]),
        Case("bulk unknown op field", [bulk([ins(1) | {"frob": 1}])]),
        Case("bulk empty update", [many(*DOCS), bulk([upd({"_id": 1}, {})])]),
    ]
    return table
