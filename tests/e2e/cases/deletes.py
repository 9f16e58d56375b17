"""delete: one, many, options, batches."""

from bson import Int64
from cases import Case, many
from cases.updates import DOCS


def delete(*statements, **options) -> dict:
    return {"delete": "@", "deletes": list(statements), **options}


def cases() -> list[Case]:
    rows = {
        "one by _id": {"q": {"_id": 1}, "limit": 1},
        "one by _id of another number type": {"q": {"_id": Int64(1)}, "limit": 1},
        "limit 0 by _id": {"q": {"_id": 1}, "limit": 0},
        "one by filter": {"q": {"n": {"$gt": 6}}, "limit": 1},
        "many": {"q": {"n": {"$gt": 6}}, "limit": 0},
        "all": {"q": {}, "limit": 0},
        "none": {"q": {"_id": 44}, "limit": 1},
        "none many": {"q": {"n": "x"}, "limit": 0},
        "collation": {"q": {"s": "aBc"}, "limit": 0, "collation": {"locale": "en", "strength": 2}},
        "hint": {"q": {"n": 5}, "limit": 1, "hint": "_id_"},
        "hint bad": {"q": {"n": 5}, "limit": 1, "hint": "none"},
        "limit 2": {"q": {}, "limit": 2},
        "limit missing": {"q": {}},
        "limit a word": {"q": {}, "limit": "one"},
        "limit double": {"q": {"_id": 2}, "limit": 1.0},
        "q missing": {"limit": 1},
        "q wrong": {"q": 5, "limit": 1},
        "bad operator": {"q": {"$frob": 1}, "limit": 1},
        "extra field": {"q": {}, "limit": 1, "frob": 1},
        "$in": {"q": {"_id": {"$in": [1, 3, 9]}}, "limit": 0},
        "$expr": {"q": {"$expr": {"$eq": [{"$size": "$a"}, 0]}}, "limit": 0},
    }
    table = [Case(f"delete {name}", [many(*DOCS), delete(statement)]) for name, statement in rows.items()]
    one, all_, bad = {"q": {"_id": 1}, "limit": 1}, {"q": {}, "limit": 0}, {"q": {"$frob": 1}, "limit": 1}
    batches = {
        "two": [one, {"q": {"_id": 2}, "limit": 1}],
        "the same twice": [one, one],
        "error in the middle": [one, bad, {"q": {"_id": 2}, "limit": 1}],
        "one then all": [one, all_, one],
    }
    for name, statements in batches.items():
        table.append(Case(f"delete batch {name}", [many(*DOCS), delete(*statements)]))
        table.append(Case(f"delete batch {name}, unordered", [many(*DOCS), delete(*statements, ordered=False)]))
    return table + [
        Case("delete as a sequence", [many(*DOCS), ({"delete": "@"}, {"deletes": [one]})]),
        Case("delete let", [many(*DOCS), delete({"q": {"$expr": {"$eq": ["$n", "$$x"]}}, "limit": 0}, let={"x": 5})]),
        Case("delete w 5", [many(*DOCS), delete(one, writeConcern={"w": 5})]),
        Case("delete many w 5", [many(*DOCS), delete(all_, writeConcern={"w": 5})]),
        Case("delete in no collection", [delete(one)]),
        Case("delete nothing listed", [delete()]),
        Case("delete and insert again", [many(*DOCS), delete(one), many({"_id": 1, "life": 2}), delete(one), many({"_id": 1, "life": 3})]),
        Case("delete 2500", [({"insert": "@"}, {"documents": [{"_id": i, "g": i % 3} for i in range(2500)]}), delete({"q": {"g": 1}, "limit": 0})]),
        Case("delete folded _id", [{"create": "@", "collation": {"locale": "en", "strength": 2}}, many({"_id": "a"}), delete({"q": {"_id": "A"}, "limit": 1})]),
        Case("delete from capped", [{"create": "@", "capped": True, "size": 4096}, many({"_id": 1}), delete(one)]),
    ]
