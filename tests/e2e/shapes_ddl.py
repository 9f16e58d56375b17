"""Collections and databases that come, go and change their names under running writers; unique keys and validators."""

from pymongo.errors import OperationFailure
from shapes import Client, Outcome, shape


def tolerate(c: Client, db, command: dict, *codes: int) -> dict:
    """Runs a command; the named error codes are part of life here (another client was faster)."""
    reply = db.command(command, check=False)
    if not reply["ok"] and reply["code"] not in codes:
        raise OperationFailure(reply["errmsg"], reply["code"], reply)
    return reply


def shared_db(c: Client):
    return c.client[f"ddl_{c.random.randrange(3)}"]


@shape(2)
def ddl_create(c: Client) -> Outcome:
    options = c.random.choice([{}, {"validator": {"n": {"$not": {"$gt": 10**9}}}}, {"collation": {"locale": "fr"}}])
    tolerate(c, shared_db(c), {"create": c.random.choice("xyz"), **options, "comment": c.token}, 48)
    return Outcome()


@shape(4)
def ddl_fill(c: Client) -> Outcome:
    db = shared_db(c)
    documents = [{"_id": f"{c.token}{i}", "t": c.token} for i in range(5)]
    reply = db.command({"insert": c.random.choice("xyz"), "documents": documents, "comment": c.token})
    return Outcome(reply["n"], see=True)


@shape(2)
def ddl_change(c: Client) -> Outcome:
    db = shared_db(c)
    reply = db.command({"update": c.random.choice("xyz"), "updates": [{"q": {}, "u": {"$inc": {"n": 1}}, "multi": True}], "comment": c.token})
    return Outcome(reply["nModified"])


@shape(2)
def ddl_rename(c: Client) -> Outcome:
    db = shared_db(c)
    source, target = c.random.sample("xyz", 2)
    command = {"renameCollection": f"{db.name}.{source}", "to": f"{db.name}.{target}", "dropTarget": c.random.random() < 0.7}
    tolerate(c, c.client.admin, command | {"comment": c.token}, 26, 48)
    return Outcome()


@shape(1)
def ddl_rename_to_other_database(c: Client) -> Outcome:
    command = {"renameCollection": f"ddl_0.{c.random.choice('xyz')}", "to": f"ddl_1.{c.random.choice('xyz')}", "dropTarget": True}
    tolerate(c, c.client.admin, command, 26, 48, 20)
    return Outcome()


@shape(1)
def ddl_drop(c: Client) -> Outcome:
    tolerate(c, shared_db(c), {"drop": c.random.choice("xyz"), "comment": c.token}, 26)
    return Outcome()


@shape(1)
def ddl_drop_database(c: Client) -> Outcome:
    tolerate(c, shared_db(c), {"dropDatabase": 1, "comment": c.token})
    return Outcome()


@shape(1)
def ddl_coll_mod(c: Client) -> Outcome:
    command = {"collMod": c.random.choice("xyz"), "validationLevel": "moderate", "comment": c.token}
    tolerate(c, shared_db(c), command, 26)
    return Outcome()


@shape(1)
def ddl_index(c: Client) -> Outcome:
    db = shared_db(c)
    key = c.random.choice(["n", "t"])
    tolerate(c, db, {"createIndexes": c.random.choice("xyz"), "indexes": [{"key": {key: 1}, "name": key}]})
    return Outcome()


@shape(2)
def unique_key(c: Client) -> Outcome:
    """A unique index on `u`: upserts and updates run into each other."""
    statement = {"q": {"u": c.random.randrange(12)}, "u": {"$set": {"t": c.token}, "$inc": {"n": 1}}, "upsert": True}
    if c.random.random() < 0.3:
        statement = {"q": {"u": c.random.randrange(12)}, "u": {"$set": {"u": c.random.randrange(12), "t": c.token}}}
    reply = c.ask({"update": "unique", "updates": [statement], "comment": c.token})
    return Outcome(reply["nModified"] + len(reply.get("upserted", [])))


@shape(2)
def validated(c: Client) -> Outcome:
    """A collection with a validator: half of the documents are refused."""
    documents = [{"t": c.token, "v": c.random.choice([1, "no", -1, 5])} for _ in range(3)]
    command = {"insert": "validated", "documents": documents, "ordered": False, "comment": c.token}
    if c.random.random() < 0.2:
        command["bypassDocumentValidation"] = True
    reply = c.ask(command)
    return Outcome(reply["n"])
