"""findAndModify in all its forms and both spellings."""

from bson import Timestamp
from pymongo import ReturnDocument
from shapes import COLD, HOT, Client, Outcome, shape


def changed(reply: dict) -> int:
    """Whether a findAndModify reply tells of a change (an update that matched may still have changed nothing)."""
    return reply["lastErrorObject"]["n"]


@shape(4)
def fam_update_new(c: Client) -> Outcome:
    found = c.db[HOT].find_one_and_update(
        {"_id": c.hot_id()}, c.mark(), upsert=True, return_document=ReturnDocument.AFTER, comment=c.token
    )
    assert c.token in found["marks"], "new:true did not return the document after the change"
    return Outcome(1, see=True)


@shape(4)
def fam_update_old(c: Client) -> Outcome:
    found = c.db[HOT].find_one_and_update({"_id": c.hot_id()}, c.mark(), projection={"marks": 1}, comment=c.token)
    c.sure(found is None or c.token not in found.get("marks", []), "new:false returned the document after the change")
    return Outcome(int(found is not None), see=found is not None)


@shape(2)
def fam_lower_case(c: Client) -> Outcome:
    command = {"findandmodify": COLD, "query": {"owner": c.number}, "sort": {"n": 1}, "update": {"$set": {"t": c.token}, "$inc": {"n": 9}}}
    reply = c.db.command(command | {"fields": {"_id": 0, "n": 1}, "new": True, "comment": c.token})
    return Outcome(changed(reply), see=changed(reply) > 0)


@shape(2)
def fam_pipeline(c: Client) -> Outcome:
    command = {"findAndModify": COLD, "query": {"$expr": {"$eq": ["$owner", "$$me"]}}, "let": {"me": c.number}, "hint": {"_id": 1}}
    steps = [{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"t": c.token, "me": "$$me", "now": "$$NOW"}]}}]
    reply = c.db.command(command | {"update": steps, "comment": c.token})
    return Outcome(changed(reply), see=changed(reply) > 0)


@shape(2)
def fam_replace(c: Client) -> Outcome:
    _id = c.fresh_id()
    body = c.document(_id) | {"at": Timestamp(0, 0)}
    c.db[COLD].find_one_and_replace({"_id": _id}, body, upsert=True, comment=c.token)
    c.owned.append(_id)
    return Outcome(1, see=True)


@shape(2)
def fam_array_filters(c: Client) -> Outcome:
    command = {"findAndModify": COLD, "query": {"_id": c.own_id()}, "arrayFilters": [{"e.k": "a"}], "collation": {"locale": "en"}}
    reply = c.db.command(command | {"update": {"$set": {"tags.$[e].v": c.made, "t": c.token}}, "comment": c.token})
    return Outcome(changed(reply), see=changed(reply) > 0)


@shape(2)
def fam_remove(c: Client) -> Outcome:
    if len(c.owned) < 6:
        return Outcome(0)
    _id = c.owned.pop()
    found = c.db[COLD].find_one_and_delete({"_id": _id}, comment=c.token)
    return Outcome(int(found is not None), gone=(_id,))


@shape(1)
def fam_remove_sorted(c: Client) -> Outcome:
    command = {"findAndModify": COLD, "query": {"owner": c.number, "nobody": {"$exists": True}}, "sort": {"_id": -1}, "remove": True}
    reply = c.db.command(command | {"comment": c.token})
    return Outcome(changed(reply))


@shape(1)
def fam_nothing(c: Client) -> Outcome:
    found = c.db[COLD].find_one_and_update({"_id": "there is no such"}, {"$set": {"t": c.token}}, comment=c.token)
    assert found is None
    return Outcome(0)
