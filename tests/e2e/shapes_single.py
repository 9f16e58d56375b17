"""insert, update and delete of single documents, through the driver and as plain commands."""

import datetime

from bson import Timestamp
from pymongo import WriteConcern
from ids import pool
from shapes import COLD, FOLDED, HOT, IDS, Client, Outcome, shape


@shape(6)
def insert_one(c: Client) -> Outcome:
    _id = c.fresh_id()
    c.db[COLD].insert_one(c.document(_id), comment=c.token)
    c.owned.append(_id)
    return Outcome(1, see=True)


@shape(3)
def insert_server_made_id(c: Client) -> Outcome:
    body = c.document(None)
    del body["_id"]
    reply = c.db.command({"insert": COLD, "documents": [body], "comment": c.token})
    return Outcome(reply["n"], see=True)


@shape(2)
def insert_id_not_first(c: Client) -> Outcome:
    _id = c.fresh_id()
    body = {"t": c.token, "owner": c.number, "at": Timestamp(0, 0), "inner": {"at": Timestamp(0, 0)}, "_id": _id}
    reply = c.db.command({"insert": COLD, "documents": [body], "comment": c.token})
    c.owned.append(_id)
    return Outcome(reply["n"], see=True)


@shape(2)
def insert_duplicate(c: Client) -> Outcome:
    _id = c.own_id() or "nobody"
    reply = c.ask({"insert": COLD, "documents": [{"_id": _id, "t": c.token}], "comment": c.token})
    if reply["n"]:
        c.owned.append(_id)
    return Outcome(reply["n"])


@shape(8)
def update_hot_upsert(c: Client) -> Outcome:
    done = c.db[HOT].update_one({"_id": c.hot_id()}, c.mark(), upsert=True, comment=c.token)
    return Outcome(done.modified_count + (done.upserted_id is not None), see=True)


@shape(4)
def update_hot_by_filter(c: Client) -> Outcome:
    where = {"n": {"$gte": c.random.randrange(5)}, "marks.0": {"$exists": True}}
    done = c.db[HOT].update_one(where, c.mark(), comment=c.token)
    return Outcome(done.modified_count, see=done.modified_count > 0)


@shape(3)
def update_hot_pipeline(c: Client) -> Outcome:
    marks = {"$concatArrays": [{"$ifNull": ["$marks", []]}, [c.token]]}
    steps = [{"$set": {"marks": marks, "n": {"$add": [{"$ifNull": ["$n", 0]}, 1]}, "at": "$$NOW", "rand": {"$rand": {}}}}]
    done = c.db[HOT].update_one({"_id": c.hot_id()}, steps, upsert=True, comment=c.token)
    return Outcome(done.modified_count + (done.upserted_id is not None), see=True)


@shape(3)
def update_own(c: Client) -> Outcome:
    change = {"$set": {"t": c.token, "x.y": c.random.random()}, "$currentDate": {"d": True, "ts": {"$type": "timestamp"}}}
    change |= c.random.choice([{"$inc": {"n": 2}}, {"$mul": {"n": 3}}, {"$min": {"n": -5}}, {"$unset": {"text": ""}}, {"$rename": {"f": "ff"}}])
    done = c.db[COLD].update_one({"_id": c.own_id()}, change, comment=c.token)
    return Outcome(done.modified_count, see=done.modified_count > 0)


@shape(3)
def replace_own(c: Client) -> Outcome:
    _id = c.own_id()
    done = c.db[COLD].replace_one({"_id": _id}, c.document(_id), comment=c.token)
    return Outcome(done.modified_count, see=done.modified_count > 0)


@shape(2)
def replace_upsert(c: Client) -> Outcome:
    _id = c.fresh_id()
    body = c.document(_id)
    del body["_id"]
    c.db[COLD].replace_one({"_id": _id}, body, upsert=True, comment=c.token)
    c.owned.append(_id)
    return Outcome(1, see=True)


@shape(2)
def upsert_server_made_id(c: Client) -> Outcome:
    change = {"$set": {"t": c.token, "owner": c.number}, "$setOnInsert": {"at": Timestamp(0, 0)}}
    done = c.db[COLD].update_one({"nobody": c.token, "g": 9}, change, upsert=True, comment=c.token)
    return Outcome(1 if done.upserted_id else 0, see=True)


@shape(2)
def update_no_op(c: Client) -> Outcome:
    done = c.db[COLD].update_one({"_id": c.own_id()}, {"$set": {"owner": c.number}}, comment=c.token)
    return Outcome(done.modified_count)


@shape(3)
def update_many_own(c: Client) -> Outcome:
    where = {"owner": c.number, "g": c.random.randrange(4)}
    done = c.db[COLD].update_many(where, {"$set": {"t": c.token}, "$inc": {"n": 1}}, comment=c.token)
    return Outcome(done.modified_count, see=done.modified_count > 0)


@shape(1)
def update_many_shared(c: Client) -> Outcome:
    steps = [{"$set": {"last": c.token, "rand": {"$rand": {}}, "at": "$$NOW"}}]
    done = c.db[COLD].update_many({"n": {"$mod": [7, c.random.randrange(7)]}}, steps, comment=c.token)
    return Outcome(done.modified_count)


@shape(2)
def update_array_filters(c: Client) -> Outcome:
    change = {"$set": {"tags.$[e].v": c.random.randrange(1000), "t": c.token}}
    done = c.db[COLD].update_many({"owner": c.number, "g": 1}, change, array_filters=[{"e.k": c.random.choice("abcd")}], comment=c.token)
    return Outcome(done.modified_count, see=done.modified_count > 0)


@shape(2)
def update_positional(c: Client) -> Outcome:
    where = {"owner": c.number, "tags.k": c.random.choice("abcd")}
    done = c.db[COLD].update_one(where, {"$inc": {"tags.$.v": 1, "tags.$[].w": 1}, "$set": {"t": c.token}}, comment=c.token)
    return Outcome(done.modified_count, see=done.modified_count > 0)


@shape(2)
def update_hint_let_collation(c: Client) -> Outcome:
    statement = {"q": {"$expr": {"$eq": ["$owner", "$$me"]}, "g": c.random.randrange(4)}, "u": [{"$set": {"t": c.token, "by": "$$me"}}]}
    statement |= {"hint": "_id_", "multi": c.random.random() < 0.5, "collation": {"locale": "en", "strength": 2}}
    reply = c.db.command({"update": COLD, "updates": [statement], "let": {"me": c.number}, "comment": c.token})
    return Outcome(reply["nModified"], see=reply["nModified"] > 0)


@shape(2)
def update_sorted(c: Client) -> Outcome:
    statement = {"q": {"owner": c.number}, "u": {"$set": {"t": c.token}}, "sort": {"n": -1, "_id": 1}}
    reply = c.db.command({"update": COLD, "updates": [statement], "comment": c.token})
    return Outcome(reply["nModified"], see=reply["nModified"] > 0)


@shape(3)
def delete_own(c: Client) -> Outcome:
    if len(c.owned) < 6:
        return Outcome(0)
    _id = c.owned.pop(c.random.randrange(len(c.owned)))
    done = c.db[COLD].delete_one({"_id": _id}, comment=c.token)
    return Outcome(done.deleted_count, gone=(_id,))


@shape(1)
def delete_by_filter(c: Client) -> Outcome:
    done = c.db[COLD].delete_one({"nobody": {"$exists": True}, "owner": c.number}, comment=c.token)
    return Outcome(done.deleted_count)


@shape(1)
def delete_many_own(c: Client) -> Outcome:
    statement = {"q": {"owner": c.number, "nobody": {"$exists": True}}, "limit": 0, "collation": {"locale": "en"}}
    reply = c.db.command({"delete": COLD, "deletes": [statement], "comment": c.token})
    return Outcome(reply["n"])


@shape(2)
def unacknowledged(c: Client) -> Outcome:
    collection = c.db[COLD].with_options(write_concern=WriteConcern(w=0))
    c.random.choice([
        lambda: collection.insert_one({"t": c.token, "owner": c.number, "nobody": "w0"}, comment=c.token),
        lambda: collection.update_one({"owner": c.number}, {"$inc": {"w0": 1}}, comment=c.token),
        lambda: collection.delete_one({"nobody": "w0", "owner": c.number}, comment=c.token),
    ])()
    return Outcome()


@shape(6)
def ids_of_all_types(c: Client) -> Outcome:
    _id = c.random.choice(pool())
    change = {"$set": {"when": datetime.datetime.now(datetime.timezone.utc)}} | c.mark()
    reply = c.random.choice([
        lambda: c.ask({"insert": IDS, "documents": [{"_id": _id, "t": c.token}], "comment": c.token}),
        lambda: c.ask({"update": IDS, "updates": [{"q": {"_id": _id}, "u": change, "upsert": True}], "comment": c.token}),
        lambda: c.ask({"update": IDS, "updates": [{"q": {"_id": {"$eq": _id}}, "u": {"r": c.token}}], "comment": c.token}),
        lambda: c.db.command({"delete": IDS, "deletes": [{"q": {"_id": _id}, "limit": c.random.randrange(2)}], "comment": c.token}),
    ])()
    if "nModified" in reply:
        return Outcome(reply["nModified"] + len(reply.get("upserted", [])))
    return Outcome(reply["n"])


@shape(4)
def own_collation(c: Client) -> Outcome:
    """A collection whose default collation folds case: "a" and "A" are one `_id` there."""
    _id = c.random.choice(["a", "A", "b", "B", "é", "É", "e", 1, 1.0])
    reply = c.random.choice([
        lambda: c.ask({"insert": FOLDED, "documents": [{"_id": _id, "t": c.token}], "comment": c.token}),
        lambda: c.ask({"update": FOLDED, "updates": [{"q": {"_id": _id}, "u": c.mark(), "upsert": True}], "comment": c.token}),
        lambda: c.db.command({"delete": FOLDED, "deletes": [{"q": {"_id": _id}, "limit": 1}], "comment": c.token}),
    ])()
    if "nModified" in reply:
        return Outcome(reply["nModified"] + len(reply.get("upserted", [])))
    return Outcome(reply["n"])
