"""findAndModify: each operator with the image before and after, remove, options, wrong calls."""

from cases import Case, many
from cases.inserts import unique, validated
from cases.updates import DOCS, OPERATORS


def fam(**options) -> dict:
    return {"findAndModify": "@", **options}


def cases() -> list[Case]:
    table = []
    for name, u in OPERATORS.items():
        table.append(Case(f"fam {name}, old", [many(*DOCS), fam(query={"_id": 1}, update=u)]))
        table.append(Case(f"fam {name}, new", [many(*DOCS), fam(query={"n": {"$gt": 6}}, sort={"n": -1}, update=u, new=True)]))
        table.append(Case(f"fam {name}, upsert", [many(*DOCS), fam(query={"_id": 30}, update=u, upsert=True, new=True)]))
    bump = {"$inc": {"n": 1}}
    rows = {
        "lower case": {"findandmodify": "@", "query": {"_id": 1}, "update": bump},
        "fields": fam(query={"_id": 1}, update=bump, fields={"n": 1, "_id": 0}),
        "fields new": fam(query={"_id": 1}, update=bump, fields={"e": {"$slice": 1}}, new=True),
        "fields by expression": fam(query={"_id": 1}, update=bump, fields={"m": {"$add": ["$n", 1]}}, new=True),
        "fields bad": fam(query={"_id": 1}, update=bump, fields={"a": 1, "b": 0}),
        "sort": fam(query={}, sort={"n": -1}, update=bump),
        "sort and remove": fam(query={}, sort={"_id": -1}, remove=True),
        "remove by _id": fam(query={"_id": 1}, remove=True),
        "remove with fields": fam(query={"_id": 1}, remove=True, fields={"s": 1}),
        "remove none": fam(query={"_id": 9}, remove=True),
        "remove and update": fam(query={"_id": 1}, remove=True, update=bump),
        "remove and new": fam(query={"_id": 1}, remove=True, new=True),
        "remove and upsert": fam(query={"_id": 1}, remove=True, upsert=True),
        "neither": fam(query={"_id": 1}),
        "no query": fam(update=bump),
        "none": fam(query={"_id": 9}, update=bump),
        "none new": fam(query={"_id": 9}, update=bump, new=True),
        "upsert old": fam(query={"_id": 9}, update=bump, upsert=True),
        "upsert server-made _id": fam(query={"n": 999}, update=bump, upsert=True, new=True),
        "array filters": fam(query={"_id": 1}, update={"$set": {"e.$[x].v": 7}}, arrayFilters=[{"x.k": 2}], new=True),
        "positional": fam(query={"e.k": 2}, sort={"_id": 1}, update={"$set": {"e.$.v": 7}}, new=True),
        "collation": fam(query={"s": "aBC"}, sort={"_id": 1}, update=bump, collation={"locale": "en", "strength": 2}),
        "hint": fam(query={"n": 5}, update=bump, hint={"_id": 1}),
        "hint bad": fam(query={"n": 5}, update=bump, hint="none"),
        "let": fam(query={"$expr": {"$eq": ["$n", "$$x"]}}, update=[{"$set": {"by": "$$x"}}], let={"x": 5}, new=True),
        "w 5": fam(query={"_id": 1}, update=bump, writeConcern={"w": 5}),
        "w 0": fam(query={"_id": 1}, update=bump, writeConcern={"w": 0}),
        "maxTimeMS": fam(query={"_id": 1}, update=bump, maxTimeMS=10000),
        "comment": fam(query={"_id": 1}, update=bump, comment={"a": 1}),
        "unknown field": fam(query={"_id": 1}, update=bump, frob=1),
        "query wrong": fam(query=5, update=bump),
        "update wrong": fam(query={}, update=5),
        "new a number": fam(query={"_id": 1}, update=bump, new=1),
        "remove a word": fam(query={"_id": 1}, remove="yes"),
        "bypass": fam(query={"_id": 1}, update=bump, bypassDocumentValidation=True),
    }
    table += [Case(f"fam: {name}", [many(*DOCS), step]) for name, step in rows.items()]
    return table + [
        Case("fam duplicate key", [unique(), many({"_id": 1, "u": 1}, {"_id": 2, "u": 2}), fam(query={"_id": 1}, update={"$set": {"u": 2}})]),
        Case("fam upsert duplicate key", [unique(), many({"_id": 1, "u": 1}), fam(query={"_id": 5}, update={"$set": {"u": 1}}, upsert=True)]),
        Case("fam validator", [validated(), many({"_id": 1, "v": 1}), fam(query={"_id": 1}, update={"$set": {"v": "x"}})]),
        Case("fam in no collection", [fam(query={"_id": 1}, update=bump)]),
        Case("fam upsert in no collection", [fam(query={"_id": 1}, update=bump, upsert=True)]),
        Case("fam folded _id", [{"create": "@", "collation": {"locale": "en", "strength": 2}}, many({"_id": "a"}), fam(query={"_id": "A"}, update=bump, new=True, upsert=True)]),
        Case("fam 9 MB", [many({"_id": 1, "s": "x" * 9_000_000}), fam(query={"_id": 1}, update=bump, fields={"n": 1})]),
    ]
