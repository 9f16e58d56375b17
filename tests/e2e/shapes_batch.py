"""Batches: insertMany, several statements in one command, errors in the middle, and the bulkWrite command."""

from pymongo import DeleteOne, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, ClientBulkWriteException
from shapes import COLD, HOT, Client, Outcome, shape


@shape(3)
def insert_many(c: Client) -> Outcome:
    ids = [f"{c.fresh_id()}-{i}" for i in range(c.random.choice([2, 5, 40]))]
    c.db[COLD].insert_many([c.document(i) for i in ids], ordered=c.random.random() < 0.5, comment=c.token)
    c.owned.extend(ids[:5])
    return Outcome(len(ids), see=True)


@shape(3)
def insert_error_in_the_middle(c: Client) -> Outcome:
    fresh = [f"{c.fresh_id()}-{i}" for i in range(4)]
    documents = [c.document(i) for i in (fresh[0], fresh[1], fresh[0], fresh[2], fresh[3])]
    if c.random.random() < 0.3:
        documents[3]["_id"] = ["an", "array"]
    command = {"insert": COLD, "documents": documents, "ordered": c.random.random() < 0.5, "comment": c.token}
    reply = c.ask(command)
    c.sure(reply["writeErrors"][0]["index"] == 2, reply)
    return Outcome(reply["n"], see=True)


@shape(3)
def update_batch(c: Client) -> Outcome:
    own = list(dict.fromkeys(c.random.choices(c.owned, k=4))) if c.owned else []
    statements = [{"q": {"_id": i}, "u": {"$set": {"t": c.token}, "$inc": {"n": 1}}} for i in own]
    statements.append({"q": {"_id": c.hot_id()}, "u": c.mark(), "upsert": True})
    reply = c.db.command({"update": HOT, "updates": statements[-1:], "comment": c.token})
    if own:
        reply = c.db.command({"update": COLD, "updates": statements[:-1], "ordered": False, "comment": c.token})
        return Outcome(reply["nModified"] + 1, see=True)
    return Outcome(1, see=True)


@shape(2)
def update_batch_error(c: Client) -> Outcome:
    statements = [
        {"q": {"_id": c.own_id()}, "u": {"$set": {"t": c.token}}},
        {"q": {"_id": c.own_id()}, "u": {"$inc": {"t": 1}}},
        {"q": {"_id": c.fresh_id()}, "u": {"$set": {"t": c.token, "owner": -1}}, "upsert": True},
    ]
    reply = c.ask({"update": COLD, "updates": statements, "ordered": c.random.random() < 0.5, "comment": c.token})
    return Outcome(reply["nModified"] + len(reply.get("upserted", [])))


@shape(2)
def same_entity_twice(c: Client) -> Outcome:
    where = {"_id": c.hot_id()}
    statements = [{"q": where, "u": c.mark(), "upsert": True}, {"q": where, "u": {"$inc": {"twice": 1}}}]
    c.db.command({"update": HOT, "updates": statements, "comment": c.token})
    return Outcome(least=1, see=True)


@shape(2)
def insert_delete_insert(c: Client) -> Outcome:
    """One entity through several lives in one bulk."""
    _id = c.fresh_id()
    work = [InsertOne(c.document(_id)), DeleteOne({"_id": _id}), InsertOne(c.document(_id)), UpdateOne({"_id": _id}, {"$inc": {"n": 1}})]
    c.db[COLD].bulk_write(work, comment=c.token)
    c.owned.append(_id)
    return Outcome(least=1, see=True)


@shape(2)
def delete_batch(c: Client) -> Outcome:
    if len(c.owned) < 10:
        return Outcome(0)
    gone = (c.owned.pop(), c.owned.pop(0))
    statements = [{"q": {"_id": gone[0]}, "limit": 1}, {"q": {"_id": gone[1]}, "limit": 0}, {"q": {"_id": "there is no such"}, "limit": 1}]
    reply = c.db.command({"delete": COLD, "deletes": statements, "comment": c.token})
    return Outcome(reply["n"], gone=gone)


@shape(3)
def collection_bulk(c: Client) -> Outcome:
    fresh = c.fresh_id()
    work = [
        InsertOne(c.document(fresh)),
        UpdateOne({"_id": fresh}, {"$inc": {"n": 1}}),
        UpdateMany({"owner": c.number, "g": 2}, {"$set": {"t": c.token}}),
        ReplaceOne({"_id": f"{fresh}-r"}, {"t": c.token, "owner": c.number}, upsert=True),
        InsertOne({"_id": fresh, "t": c.token}),
        DeleteOne({"_id": "nobody"}),
    ]
    c.owned.append(fresh)
    try:
        c.db[COLD].bulk_write(work, ordered=c.random.random() < 0.5, comment=c.token)
    except BulkWriteError as error:
        if error.details["writeConcernErrors"]:
            raise
        c.sure([e["code"] for e in error.details["writeErrors"]] == [11000], error.details)
    return Outcome(least=2, see=True)


def several_namespaces(c: Client) -> tuple[list, str]:
    """Operations for the bulkWrite command and the id that they make; index 4 is a duplicate key."""
    fresh = c.fresh_id()
    return [
        {"insert": 0, "document": c.document(fresh)},
        {"update": 1, "filter": {"_id": c.hot_id()}, "updateMods": c.mark(), "upsert": True},
        {"update": 0, "filter": {"owner": c.number, "g": 3}, "updateMods": [{"$set": {"t": c.token}}], "multi": True},
        {"insert": 2, "document": {"t": c.token, "other": True}},
        {"insert": 0, "document": {"_id": fresh, "t": c.token}},
        {"delete": 2, "filter": {"other": True, "t": {"$ne": c.token}}, "multi": c.random.random() < 0.5},
        {"update": 0, "filter": {"_id": fresh}, "updateMods": {"t": c.token, "owner": c.number, "replaced": True}},
    ], fresh


@shape(4)
def bulk_write_command(c: Client) -> Outcome:
    operations, fresh = several_namespaces(c)
    spaces = [{"ns": f"{c.db.name}.{COLD}"}, {"ns": f"{c.db.name}.{HOT}"}, {"ns": f"{c.other.name}.many"}]
    command = {"bulkWrite": 1, "ops": operations, "nsInfo": spaces, "ordered": c.random.random() < 0.5, "comment": c.token}
    command |= c.random.choice([{}, {"errorsOnly": True}, {"errorsOnly": False, "cursor": {"batchSize": 2}}])
    reply = c.client.admin.command(command)
    c.sure(reply["nErrors"] == 1, reply)
    items, cursor = list(reply["cursor"]["firstBatch"]), reply["cursor"]["id"]
    while cursor:
        more = c.client.admin.command({"getMore": cursor, "collection": "$cmd.bulkWrite", "batchSize": 2})
        items, cursor = items + more["cursor"]["nextBatch"], more["cursor"]["id"]
    wanted = 1 if command.get("errorsOnly") else (5 if command["ordered"] else 7)
    c.sure(len(items) == wanted, (command, items))
    c.owned.append(fresh)
    return Outcome(least=3, see=True)


@shape(2)
def client_bulk(c: Client) -> Outcome:
    if not c.bulk_write_supported:
        return bulk_write_command(c)
    ns, fresh = f"{c.db.name}.{COLD}", c.fresh_id()
    work = [InsertOne(c.document(fresh), namespace=ns), InsertOne({"_id": fresh}, namespace=ns), UpdateOne({"_id": fresh}, {"$inc": {"n": 1}}, namespace=ns)]
    verbose = c.random.random() < 0.5
    try:
        c.client.bulk_write(work, ordered=False, verbose_results=verbose, comment=c.token)
    except ClientBulkWriteException as error:
        if error.error is not None or error.write_concern_errors:  # it broke: nobody knows how far it came
            raise
        c.sure([e["code"] for e in error.write_errors] == [11000], error)
    c.owned.append(fresh)
    return Outcome(least=1, see=True)
