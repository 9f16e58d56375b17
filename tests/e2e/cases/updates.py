"""update: each operator in each form of the command."""

from bson import Int64, Timestamp
from cases import Case, many
from cases.inserts import unique, validated

DOCS = [
    {"_id": 1, "n": 5, "s": "abc", "a": [1, 5, 9], "o": {"x": 1, "y": [1]}, "e": [{"k": 1, "v": 1}, {"k": 2, "v": 2}]},
    {"_id": 2, "n": 7.5, "s": "ABC", "a": [], "o": {"x": 2}, "e": [{"k": 2, "v": 3}]},
    {"_id": 3, "n": Int64(9), "a": [3, 3], "e": []},
]
# Operators: name -> update document. All of them work on each of DOCS or fail on some: both is wanted.
OPERATORS = {
    "$set": {"$set": {"n": 6, "o.z": 1, "new.deep.er": True}},
    "$set same": {"$set": {"n": 5}},
    "$set order": {"$set": {"z": 1, "b": 2, "a0": 3}},
    "$set array index": {"$set": {"a.1": 50, "a.5": 1}},
    "$unset": {"$unset": {"n": "", "o.x": "", "nothing": ""}},
    "$inc int": {"$inc": {"n": 1, "m": -2}},
    "$inc double": {"$inc": {"n": 0.5}},
    "$inc to long": {"$inc": {"n": 2**40}},
    "$inc zero": {"$inc": {"n": 0}},
    "$inc string": {"$inc": {"s": 1}},
    "$mul": {"$mul": {"n": 3, "none": 2}},
    "$min": {"$min": {"n": 6}},
    "$max": {"$max": {"n": 6}},
    "$rename": {"$rename": {"n": "nn", "o.x": "ox"}},
    "$currentDate": {"$currentDate": {"d": True, "t": {"$type": "timestamp"}}},
    "$bit": {"$bit": {"b": {"or": 5}}},
    "$push": {"$push": {"a": 4}},
    "$push each": {"$push": {"a": {"$each": [7, 2], "$position": 0, "$sort": -1, "$slice": 3}}},
    "$push to a number": {"$push": {"n": 1}},
    "$addToSet": {"$addToSet": {"a": {"$each": [5, 6, 6]}}},
    "$pop": {"$pop": {"a": 1}},
    "$pull": {"$pull": {"a": {"$gte": 5}}},
    "$pullAll": {"$pullAll": {"a": [3, 9]}},
    "$pull documents": {"$pull": {"e": {"k": 2}}},
    "$[]": {"$inc": {"e.$[].v": 10}},
    "$setOnInsert": {"$setOnInsert": {"i": 1}},
    "several": {"$set": {"x": 1}, "$inc": {"n": 1}, "$push": {"a": 1}, "$unset": {"s": 1}},
    "conflict": {"$set": {"n": 1}, "$inc": {"n": 1}},
    "_id": {"$set": {"_id": 77}},
    "_id same": {"$set": {"_id": 1}},
    "unknown operator": {"$frob": {"a": 1}},
    "mixed": {"$set": {"a": 1}, "b": 1},
    "empty timestamp by $set": {"$set": {"ts": Timestamp(0, 0)}},
    "pipeline": [{"$set": {"sum": {"$sum": "$a"}, "n": {"$add": ["$n", 1]}}}],
    "pipeline $unset": [{"$unset": ["o.y", "s"]}],
    "pipeline $replaceWith": [{"$replaceWith": {"_id": "$_id", "all": "$$ROOT"}}],
    "pipeline $$NOW": [{"$set": {"now": "$$NOW"}}],
    "pipeline no-op": [{"$set": {"n": "$n"}}],
    "pipeline changes _id": [{"$set": {"_id": 99}}],
    "pipeline error": [{"$set": {"q": {"$divide": ["$n", 0]}}}],
    "pipeline bad stage": [{"$match": {}}],
    "empty pipeline": [],
    "replacement": {"r": 1, "a": [1]},
    "replacement with _id": {"_id": 1, "r": 2},
    "replacement with another _id": {"_id": 55, "r": 2},
    "replacement empty": {},
    "replacement empty timestamp": {"ts": Timestamp(0, 0), "in": {"ts": Timestamp(0, 0)}},
}
FORMS = {
    "one by _id": {"q": {"_id": 1}},
    "one by filter": {"q": {"n": {"$gt": 6}, "a": {"$exists": True}}},
    "many": {"q": {}, "multi": True},
    "upsert by _id": {"q": {"_id": 8}, "upsert": True},
    "upsert by filter": {"q": {"n": 1234, "o.x": 4}, "upsert": True},
}


def update(*statements, **options) -> dict:
    return {"update": "@", "updates": list(statements), **options}


def cases() -> list[Case]:
    table = []
    for operator, u in OPERATORS.items():
        for form, statement in FORMS.items():
            table.append(Case(f"update {operator}, {form}", [many(*DOCS), update(statement | {"u": u})]))
    return table + special() + folded() + batches()


def special() -> list[Case]:
    """Options and filters of their own kind."""
    rows = {
        "array filters": {"q": {"_id": 1}, "u": {"$set": {"e.$[x].v": 9}}, "arrayFilters": [{"x.k": 2}]},
        "array filters multi": {"q": {}, "u": {"$set": {"e.$[x].v": 9}}, "arrayFilters": [{"x.k": {"$gt": 1}}], "multi": True},
        "array filters unused": {"q": {"_id": 1}, "u": {"$set": {"n": 1}}, "arrayFilters": [{"x.k": 2}]},
        "array filters missing": {"q": {"_id": 1}, "u": {"$set": {"e.$[x].v": 9}}},
        "array filters with a pipeline": {"q": {"_id": 1}, "u": [{"$set": {"n": 1}}], "arrayFilters": [{"x": 1}]},
        "positional": {"q": {"e.k": 2}, "u": {"$inc": {"e.$.v": 5}}},
        "positional multi": {"q": {"e.k": 2}, "u": {"$inc": {"e.$.v": 5}}, "multi": True},
        "positional by elemMatch": {"q": {"e": {"$elemMatch": {"k": 2, "v": 3}}}, "u": {"$set": {"e.$": "x"}}},
        "positional on an array of values": {"q": {"_id": 1, "a": {"$gte": 5}}, "u": {"$set": {"a.$": 0}}},
        "positional without a match": {"q": {"_id": 1}, "u": {"$set": {"a.$": 0}}},
        "collation": {"q": {"s": "abc"}, "u": {"$set": {"hit": 1}}, "multi": True, "collation": {"locale": "en", "strength": 2}},
        "collation one": {"q": {"s": "aBc"}, "u": {"$set": {"hit": 1}}, "collation": {"locale": "en", "strength": 2}},
        "hint": {"q": {"n": 5}, "u": {"$inc": {"n": 1}}, "hint": {"_id": 1}},
        "hint by name": {"q": {"n": 5}, "u": {"$inc": {"n": 1}}, "hint": "_id_"},
        "hint bad": {"q": {"n": 5}, "u": {"$inc": {"n": 1}}, "hint": "nothing_1"},
        "sort": {"q": {}, "u": {"$set": {"first": 1}}, "sort": {"n": -1}},
        "sort with multi": {"q": {}, "u": {"$set": {"first": 1}}, "sort": {"n": -1}, "multi": True},
        "constants": {"q": {"_id": 1}, "u": [{"$set": {"c": "$$k"}}], "c": {"k": 4}},
        "no match": {"q": {"_id": 404}, "u": {"$set": {"x": 1}}},
        "no match multi": {"q": {"n": "none"}, "u": {"$set": {"x": 1}}, "multi": True},
        "$or": {"q": {"$or": [{"_id": 1}, {"_id": 2}]}, "u": {"$inc": {"n": 1}}, "multi": True},
        "$in on _id": {"q": {"_id": {"$in": [3, 1, 44]}}, "u": {"$inc": {"n": 1}}, "multi": True},
        "_id range": {"q": {"_id": {"$gte": 2}}, "u": {"$inc": {"n": 1}}, "multi": True},
        "_id $eq": {"q": {"_id": {"$eq": 2.0}}, "u": {"$inc": {"n": 1}}},
        "_id and more": {"q": {"_id": 1, "n": 99}, "u": {"$inc": {"n": 1}}},
        "_id and more, upsert": {"q": {"_id": 1, "n": 99}, "u": {"$set": {"x": 1}}, "upsert": True},
        "_id of another number type": {"q": {"_id": Int64(1)}, "u": {"$inc": {"n": 1}}},
        "$expr": {"q": {"$expr": {"$gt": [{"$size": "$a"}, 1]}}, "u": {"$set": {"big": 1}}, "multi": True},
        "$where": {"q": {"$where": "this.n > 1"}, "u": {"$set": {"w": 1}}},
        "$text without index": {"q": {"$text": {"$search": "x"}}, "u": {"$set": {"w": 1}}},
        "$near without index": {"q": {"g": {"$near": [0, 0]}}, "u": {"$set": {"w": 1}}},
        "bad filter": {"q": {"$frob": 1}, "u": {"$set": {"w": 1}}},
        "$comment": {"q": {"_id": 1, "$comment": "x"}, "u": {"$set": {"w": 1}}},
        "jsonSchema": {"q": {"$jsonSchema": {"required": ["s"]}}, "u": {"$set": {"w": 1}}, "multi": True},
        "replacement multi": {"q": {}, "u": {"x": 1}, "multi": True},
        "replacement upsert _id from filter": {"q": {"_id": {"$eq": 12}}, "u": {"x": 1}, "upsert": True},
        "replacement upsert _id in u": {"q": {"n": -1}, "u": {"_id": 13, "x": 1}, "upsert": True},
        "upsert multi": {"q": {"n": -1}, "u": {"$set": {"x": 1}}, "upsert": True, "multi": True},
        "upsert that matches": {"q": {"n": 5}, "u": {"$set": {"x": 1}}, "upsert": True},
        "upsert with $setOnInsert": {"q": {"_id": 20}, "u": {"$setOnInsert": {"a": Timestamp(0, 0)}, "$inc": {"n": 1}}, "upsert": True},
        "upsert $or": {"q": {"$or": [{"_id": 21}]}, "u": {"$set": {"x": 1}}, "upsert": True},
        "upsert pipeline": {"q": {"_id": 22, "p": 1}, "u": [{"$set": {"q": {"$add": ["$p", 1]}}}], "upsert": True},
        "upsert of _id in and": {"q": {"$and": [{"_id": 23}, {"x": 5}]}, "u": {"$set": {"y": 1}}, "upsert": True},
        "upsert _id null": {"q": {"_id": None}, "u": {"$set": {"y": 1}}, "upsert": True},
        "upsert _id array": {"q": {"_id": [1]}, "u": {"$set": {"y": 1}}, "upsert": True},
        "upsert _id conflict": {"q": {"_id": 24}, "u": {"$set": {"_id": 25}}, "upsert": True},
        "extra field": {"q": {}, "u": {"$set": {"x": 1}}, "frob": 1},
        "no u": {"q": {}},
        "no q": {"u": {"$set": {"x": 1}}},
        "u a number": {"q": {}, "u": 5},
    }
    return [Case(f"update: {name}", [many(*DOCS), update(statement)]) for name, statement in rows.items()]


def folded() -> list[Case]:
    """A collection whose own collation makes "a" and "A" one `_id`, and other kinds of collection."""
    fold = {"create": "@", "collation": {"locale": "en", "strength": 2}}
    bump, up = {"$inc": {"n": 1}}, {"upsert": True}
    return [
        Case("update folded _id", [fold, many({"_id": "a", "n": 1}), update({"q": {"_id": "A"}, "u": bump})]),
        Case("update folded _id upsert", [fold, many({"_id": "a"}), update({"q": {"_id": "A"}, "u": bump, **up}), update({"q": {"_id": "É"}, "u": bump, **up})]),
        Case("update folded _id simple collation", [fold, many({"_id": "a"}), update({"q": {"_id": "A"}, "u": bump, "collation": {"locale": "simple"}})]),
        Case("update folded replacement", [fold, many({"_id": "a"}), update({"q": {"_id": "A"}, "u": {"_id": "A", "x": 1}})]),
        Case("update unique conflict", [unique(), many({"_id": 1, "u": 1}, {"_id": 2, "u": 2}), update({"q": {"_id": 1}, "u": {"$set": {"u": 2}}})]),
        Case("update unique conflict in many", [unique(), many(*({"_id": i, "u": i} for i in range(4))), update({"q": {"u": {"$gt": 1}}, "u": {"$set": {"u": 0}}, "multi": True})]),
        Case("update validator", [validated(), many({"_id": 1, "v": 1}), update({"q": {"_id": 1}, "u": {"$set": {"v": "x"}}})]),
        Case("update validator many", [validated(), many({"_id": 1, "v": 1}, {"_id": 2, "v": 2}), update({"q": {}, "u": [{"$set": {"v": {"$cond": [{"$eq": ["$_id", 2]}, "x", 5]}}}], "multi": True})]),
        Case("update validator bypassed", [validated(), many({"_id": 1, "v": 1}), update({"q": {"_id": 1}, "u": {"$set": {"v": "x"}}}, bypassDocumentValidation=True)]),
        Case("update in no collection", [update({"q": {"_id": 1}, "u": {"$set": {"x": 1}}})]),
        Case("update many 2500", [({"insert": "@"}, {"documents": [{"_id": i, "g": i % 3} for i in range(2500)]}), update({"q": {"g": 1}, "u": {"$set": {"hit": 1}}, "multi": True})]),
        Case("update grows past 16 MB", [many({"_id": 1, "s": "x" * 9_000_000}), update({"q": {"_id": 1}, "u": [{"$set": {"t": "$s"}}]})]),
        Case("update capped grows", [{"create": "@", "capped": True, "size": 4096}, many({"_id": 1, "s": "x"}), update({"q": {"_id": 1}, "u": {"$set": {"s": "y" * 50}}})]),
    ]


def batches() -> list[Case]:
    """Several statements in one command."""
    a, b = {"q": {"_id": 1}, "u": {"$inc": {"n": 1}}}, {"q": {"_id": 2}, "u": {"$set": {"x": 1}}}
    bad, up = {"q": {"_id": 3}, "u": {"$inc": {"e": 1}}}, {"q": {"_id": 40}, "u": {"$set": {"x": 1}}, "upsert": True}
    up2 = {"q": {"n": 4000}, "u": {"$set": {"x": 1}}, "upsert": True}
    multi = {"q": {"n": {"$gt": 1}}, "u": {"$inc": {"n": 1}}, "multi": True}
    rows = {
        "two": [a, b],
        "the same twice": [a, a],
        "twice, second cannot": [{"q": {"_id": 1, "n": 5}, "u": {"$set": {"n": 6}}}, {"q": {"_id": 1, "n": 5}, "u": {"$set": {"z": 6}}}],
        "error in the middle": [a, bad, b],
        "upserts": [a, up, b, up2],
        "upsert then update": [up, {"q": {"_id": 40}, "u": {"$set": {"y": 1}}}],
        "multi among singles": [a, multi, b, multi],
        "error last": [a, b, bad],
        "all bad": [bad, bad],
        "no-ops": [{"q": {"_id": 1}, "u": {"$set": {"n": 5}}}, {"q": {"_id": 404}, "u": {"$set": {"n": 5}}}],
        "replacement and modifiers": [{"q": {"_id": 1}, "u": {"r": 1}}, {"q": {"_id": 1}, "u": {"$set": {"s": 2}}}],
        "parse error in the second": [a, {"q": {}, "u": {"$frob": {"x": 1}}}, b],
    }
    table = []
    for name, statements in rows.items():
        table.append(Case(f"update batch {name}", [many(*DOCS), update(*statements)]))
        table.append(Case(f"update batch {name}, unordered", [many(*DOCS), update(*statements, ordered=False)]))
    table += [
        Case("update as a sequence", [many(*DOCS), ({"update": "@"}, {"updates": [a, b, up]})]),
        Case("update let", [many(*DOCS), update({"q": {"$expr": {"$eq": ["$n", "$$x"]}}, "u": [{"$set": {"by": "$$x"}}]}, let={"x": 5})]),
        Case("update let missing", [many(*DOCS), update({"q": {"$expr": {"$eq": ["$n", "$$x"]}}, "u": {"$set": {"by": 1}}})]),
        Case("update w 5", [many(*DOCS), update(a, writeConcern={"w": 5})]),
        Case("update multi w 5", [many(*DOCS), update(multi, writeConcern={"w": 5})]),
        Case("update w majority", [many(*DOCS), update(a, writeConcern={"w": "majority"})]),
        Case("update no statements", [update()]),
        Case("update 1000 statements", [many(*DOCS), update(*({"q": {"_id": i}, "u": {"$set": {"x": i}}, "upsert": True} for i in range(1000)))]),
    ]
    return table
