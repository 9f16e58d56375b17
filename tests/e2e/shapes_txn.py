"""Transactions as applications have them: several collections, money that moves, aborts of every kind, conflicts, long ones.

Each leaves its token in `count` documents (`Client.txn`), so that a judge can tell whether it is whole: after a commit in all of
them, after an abort in none, after a commit of unknown outcome in all or none. `accounts` holds money: whatever is committed, the
sum of all balances stays 0.
"""

import random
import time

from pymongo import DeleteOne, InsertOne, ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError, OperationFailure
from shapes import COLD, HOT, Client, Outcome, shape

ACCOUNTS = "accounts"


class Undone(Exception):
    """The application changed its mind."""


def transaction(c: Client, body, count: int, abort: bool = False) -> Outcome:
    """Runs `body(session)` in a transaction that leaves the token in `count` documents."""
    with c.client.start_session() as session:
        c.begin_txn(count)
        session.start_transaction()
        try:
            body(session)
        except BaseException:
            if session.in_transaction:
                session.abort_transaction()
            raise
        if abort:
            session.abort_transaction()
            return Outcome(none=True)
        c.committing = True
        session.commit_transaction()
    return Outcome(txn=count)


def repeated(c: Client, body, count: int) -> Outcome:
    """The driver's own loop: it runs `body` again after a transient error, and the commit after an unknown one."""
    with c.client.start_session() as session:
        c.begin_txn(count)
        c.committing = True
        session.with_transaction(lambda s: body(s))
    return Outcome(txn=count)


def move(c: Client, session) -> None:
    """Money from one account to another, in a random order so that transactions meet."""
    one, other = c.random.sample(range(10), 2)
    amount = c.random.randrange(1, 100)
    for account, change in ((one, -amount), (other, amount)):
        c.db[ACCOUNTS].update_one({"_id": account}, c.mark() | {"$inc": {"balance": change}}, upsert=True, session=session, comment=c.token)


@shape(6)
def txn_move(c: Client) -> Outcome:
    return transaction(c, lambda s: move(c, s), 2)


@shape(4)
def txn_move_repeated(c: Client) -> Outcome:
    return repeated(c, lambda s: move(c, s), 2)


@shape(3)
def txn_move_aborted(c: Client) -> Outcome:
    return transaction(c, lambda s: move(c, s), 2, abort=True)


@shape(3)
def txn_several_collections(c: Client) -> Outcome:
    fresh, hot = c.fresh_id(), c.hot_id()

    def body(s):
        c.db[COLD].insert_one(c.document(fresh), session=s, comment=c.token)
        c.db[HOT].update_one({"_id": hot}, c.mark(), upsert=True, session=s, comment=c.token)
        c.other["many"].insert_one({"t": c.token, "txn": True}, session=s, comment=c.token)

    done = transaction(c, body, 3)
    c.owned.append(fresh)
    return done


@shape(2)
def txn_one_document_often(c: Client) -> Outcome:
    """Several statements on one entity are one change."""
    fresh = c.fresh_id()

    def body(s):
        c.db[COLD].insert_one(c.document(fresh), session=s)
        for _ in range(3):
            c.db[COLD].update_one({"_id": fresh}, {"$inc": {"n": 1}}, session=s)
        assert c.db[COLD].find_one({"_id": fresh}, session=s)["t"] == c.token, "a transaction does not see its own write"
        c.db[COLD].replace_one({"_id": fresh}, c.document(fresh) | {"last": True}, session=s)

    done = transaction(c, body, 1)
    c.owned.append(fresh)
    return done


@shape(2)
def txn_come_and_gone(c: Client) -> Outcome:
    """What comes and goes within a transaction is no change; another document beside it is."""
    fresh = c.fresh_id()

    def body(s):
        c.db[COLD].insert_one(c.document(fresh), session=s)
        c.db[COLD].delete_one({"_id": fresh}, session=s)
        c.db[COLD].insert_one(c.document(f"{fresh}-stays"), session=s)

    return transaction(c, body, 1)


@shape(2)
def txn_delete_and_insert(c: Client) -> Outcome:
    """A document is replaced by way of a delete."""
    if len(c.owned) < 6:
        return Outcome(0)
    _id = c.owned[-1]

    def body(s):
        assert c.db[COLD].delete_one({"_id": _id}, session=s).deleted_count <= 1
        c.db[COLD].insert_one(c.document(_id) | {"life": c.made}, session=s)

    return transaction(c, body, 1)


@shape(2)
def txn_bulk_and_fam(c: Client) -> Outcome:
    fresh = [f"{c.fresh_id()}-{i}" for i in range(3)]

    def body(s):
        work = [InsertOne(c.document(fresh[0])), UpdateOne({"_id": fresh[0]}, {"$inc": {"n": 1}}), InsertOne(c.document(fresh[1])), DeleteOne({"_id": "nobody"})]
        # PyMongo forgets all but the first statement of a bulk write, and says nothing, when it must try again to get a connection.
        if c.db[COLD].bulk_write(work, session=s, comment=c.token).inserted_count < 2:
            raise Undone
        found = c.db[HOT].find_one_and_update({"_id": c.hot_id()}, c.mark(), upsert=True, return_document=ReturnDocument.AFTER, session=s)
        assert c.token in found["marks"], "new:true did not return the document after the change"
        c.db[COLD].find_one_and_update({"_id": fresh[2]}, {"$set": {"t": c.token, "owner": c.number}}, upsert=True, session=s)

    try:
        done = transaction(c, body, 4)
    except Undone:
        c.committing = False
        return Outcome(none=True)
    c.owned += fresh
    return done


@shape(2)
def txn_bulk_command(c: Client) -> Outcome:
    fresh = c.fresh_id()
    operations = [
        {"insert": 0, "document": c.document(fresh)},
        {"update": 1, "filter": {"_id": c.hot_id()}, "updateMods": c.mark(), "upsert": True},
        {"update": 0, "filter": {"_id": fresh}, "updateMods": {"$inc": {"n": 1}}},
    ]
    spaces = [{"ns": f"{c.db.name}.{COLD}"}, {"ns": f"{c.db.name}.{HOT}"}]

    def body(s):
        reply = c.client.admin.command({"bulkWrite": 1, "ops": operations, "nsInfo": spaces, "comment": c.token}, session=s)
        failed = [item for item in reply["cursor"]["firstBatch"] if not item["ok"]]
        if failed:  # mongod tells a conflict as the command's own error, secantusd as an item's
            assert failed[0]["code"] == 112, reply
            raise OperationFailure(failed[0]["errmsg"], failed[0]["code"], failed[0])

    done = transaction(c, body, 2)
    c.owned.append(fresh)
    return done


@shape(2)
def txn_many(c: Client) -> Outcome:
    """Multi statements inside: many documents by filter, changed and deleted."""
    group = c.fresh_id()
    ids = [f"{group}-{i}" for i in range(8)]

    def body(s):
        c.db[COLD].insert_many([c.document(i) | {"group": group} for i in ids], session=s)
        assert c.db[COLD].update_many({"group": group}, {"$inc": {"n": 1}}, session=s).modified_count == 8
        assert c.db[COLD].delete_many({"group": group, "_id": {"$in": ids[:3]}}, session=s).deleted_count == 3

    return transaction(c, body, 5)


@shape(1)
def txn_in_new_collection(c: Client) -> Outcome:
    """Collections that are created inside, by a command and by their first insert."""
    name = f"made_{c.number}_{c.made}"

    def body(s):
        c.other.create_collection(name, session=s)
        c.other[name].insert_one({"t": c.token}, session=s)
        c.other[f"{name}_i"].insert_one({"t": c.token}, session=s)

    done = transaction(c, body, 2, abort=False)
    if c.random.random() < 0.7:
        c.other.drop_collection(name)
        c.other.drop_collection(f"{name}_i")
    return done


@shape(1)
def txn_new_collection_aborted(c: Client) -> Outcome:
    name = f"unmade_{c.number}_{c.made}"

    def body(s):
        c.other.create_collection(name, session=s)
        c.other[name].insert_one({"t": c.token}, session=s)

    return transaction(c, body, 1, abort=True)


@shape(2)
def txn_duplicate_key(c: Client) -> Outcome:
    """A duplicate key ends it."""
    fresh = c.fresh_id()

    def body(s):
        c.db[COLD].insert_one(c.document(fresh), session=s)
        c.db[COLD].insert_one(c.document(fresh), session=s)

    try:
        transaction(c, body, 1)
    except DuplicateKeyError:
        return Outcome(none=True)
    raise AssertionError("a duplicate key within a transaction was no error")


@shape(2)
def txn_error_inside(c: Client) -> Outcome:
    """An error of a statement ends it; the commit after it is refused."""
    fresh = c.fresh_id()
    with c.client.start_session() as session:
        c.begin_txn(1)
        session.start_transaction()
        c.db[COLD].insert_one(c.document(fresh), session=session)
        try:
            c.db[COLD].update_one({"_id": fresh}, {"$inc": {"t": 1}}, session=session)
            raise AssertionError("$inc of a text was no error")
        except OperationFailure as error:
            if error.code != 14:
                raise
        try:
            session.commit_transaction()
            raise AssertionError("a transaction in which a statement failed was committed")
        except OperationFailure as error:
            if error.code != 251:
                raise
    return Outcome(none=True)


@shape(1)
def txn_left_open(c: Client) -> Outcome:
    """The client forgets it; the end of its session aborts it."""
    with c.client.start_session() as session:
        c.begin_txn(1)
        session.start_transaction()
        c.db[COLD].insert_one(c.document(c.fresh_id()), session=session)
    return Outcome(none=True)


@shape(1)
def txn_long(c: Client) -> Outcome:
    """Holds a shared document for a while; others wait for it or conflict with it."""
    hot = c.hot_id()

    def body(s):
        c.db[HOT].update_one({"_id": hot}, c.mark(), upsert=True, session=s)
        time.sleep(random.random() * 0.3)
        assert c.token in c.db[HOT].find_one({"_id": hot}, session=s)["marks"]

    return transaction(c, body, 1)


@shape(1)
def txn_reads(c: Client) -> Outcome:
    """Only reads: the money is right in each snapshot."""

    def body(s):
        total = sum(a["balance"] for a in c.db[ACCOUNTS].find({}, session=s))
        assert total == 0, f"a snapshot in which the balances make {total}"

    return transaction(c, body, 0)


@shape(2)
def txn_changed_mind(c: Client) -> Outcome:
    """with_transaction whose callback raises."""

    def body(s):
        move(c, s)
        raise Undone

    try:
        repeated(c, body, 2)
    except Undone:
        c.committing = False
        return Outcome(none=True)
    raise AssertionError("with_transaction swallowed an exception")
