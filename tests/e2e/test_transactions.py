"""Transactions: whole in the log, nothing of an aborted one, no wait that deadlocks, across connections, kills and restarts."""

import threading
import time

import pytest
from bson import Binary, Int64
from dump import dump
from judge import compare
from pymongo import WriteConcern
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from sidecar import changes
from validator import check_export, fold_lines
from wire import Raw


def whole(sidecar, store) -> list[dict]:
    """The log and the export equal the store and hold every oracle; the changes."""
    sidecar.cut()
    held = dump(store.client())
    compare("the log", fold_lines(sidecar.log_records()), held)
    fold, _ = check_export(sidecar.export)
    compare("the windows", fold, held)
    return changes(sidecar)


def inside(number: int, session: int = 9) -> dict:
    """The fields of a command inside a transaction."""
    return {"lsid": {"id": Binary(bytes([session]) * 16, 4)}, "txnNumber": Int64(number), "autocommit": False}


def test_statements_of_every_kind_make_one_batch(lab, mode):
    """insert, update by id and filter, multi, replace, delete, upsert, findAndModify, bulkWrite, several on one entity."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        a, b = client["t"]["a"], client["u"]["b"]
        a.insert_many([{"_id": n, "g": n % 3, "v": 0} for n in range(12)])
        b.insert_one({"_id": "x", "v": 0})
        with client.start_session() as session, session.start_transaction():
            a.insert_one({"_id": 100, "v": 1}, session=session)
            a.insert_many([{"v": 1}, {"_id": 101}], session=session)
            assert a.update_one({"_id": 1}, {"$inc": {"v": 1}}, session=session).modified_count == 1
            assert a.update_one({"_id": 1}, {"$inc": {"v": 1}}, session=session).modified_count == 1
            assert a.update_many({"g": 2}, {"$set": {"v": 7}}, session=session).modified_count == 4
            assert a.update_one({"g": 0, "v": 0}, {"$set": {"first": True}}, session=session).modified_count == 1
            assert a.replace_one({"_id": 4}, {"r": 1}, session=session).modified_count == 1
            assert a.delete_one({"_id": 7}, session=session).deleted_count == 1
            assert a.delete_many({"_id": {"$in": [9, 10]}}, session=session).deleted_count == 2
            upserted = a.update_one({"k": 5}, {"$set": {"v": 5}}, upsert=True, session=session).upserted_id
            assert upserted is not None
            assert a.find_one_and_update({"_id": 3}, {"$inc": {"v": 9}}, session=session)["v"] == 0
            assert a.find_one_and_delete({"v": 7}, session=session)["v"] == 7
            # Made and gone inside: nothing of it; touched and put back: nothing of it.
            a.insert_one({"_id": "brief"}, session=session)
            a.delete_one({"_id": "brief"}, session=session)
            b.update_one({"_id": "x"}, {"$set": {"v": 1}}, session=session)
            b.update_one({"_id": "x"}, {"$set": {"v": 0}}, session=session)
            b.insert_one({"_id": "y"}, session=session)
            operations = [
                {"insert": 0, "document": {"_id": "z"}},
                {"update": 0, "filter": {"v": 0}, "updateMods": {"$set": {"bulk": 1}}},
                {"delete": 0, "filter": {"_id": "y"}},
            ]
            done = client.admin.command({"bulkWrite": 1, "ops": operations, "nsInfo": [{"ns": "u.b"}]}, session=session)
            assert (done["nInserted"], done["nMatched"], done["nDeleted"]) == (1, 1, 1)
            assert store.client()["t"]["a"].count_documents({}) == 12, "the store shows it before the commit"
    found = whole(sidecar, store)
    batch = [r for r in found if r["txn"]]
    assert [r["txn"]["index"] for r in batch] == list(range(1, len(batch) + 1))
    assert {r["txn"]["count"] for r in batch} == {len(batch)}
    assert [r["lsn"] for r in batch] == list(range(batch[0]["lsn"], batch[0]["lsn"] + len(batch)))
    assert [r["continued"] for r in batch] == [True] * (len(batch) - 1) + [False]
    entities = [(r["ns"], r["key"]) for r in batch]
    assert len(entities) == len(set(entities)), "an entity has two changes in one transaction"
    assert not any(r["op"] == "observed" for r in found)
    ops = {(r["ns"], str(r["id"])): r["op"] for r in batch}
    assert ops[("t.a", "{'$numberInt': '4'}")] == "replace" and ops[("t.a", "{'$numberInt': '7'}")] == "delete", ops
    assert ops[("u.b", "z")] == "insert" and ("u.b", "y") not in ops and ("t.a", "brief") not in ops
    twice = next(r for r in batch if r["id"] == {"$numberInt": "1"})
    assert (twice["before"]["v"], twice["after"]["v"]) == ({"$numberInt": "0"}, {"$numberInt": "2"})


def test_nothing_of_an_aborted_one(lab, mode):
    """By abort, by an error inside, by a newer number, by killSessions, by expiry in the store."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client, Raw(sidecar.listen) as raw:
        c = client["t"]["c"]
        c.insert_many([{"_id": n, "v": 0} for n in range(10)])
        with client.start_session() as session:
            session.start_transaction()
            c.update_one({"_id": 1}, {"$set": {"v": "aborted"}}, session=session)
            session.abort_transaction()
            session.start_transaction()
            c.update_one({"_id": 2}, {"$set": {"v": "error"}}, session=session)
            with pytest.raises(PyMongoError):
                c.insert_one({"_id": 3}, session=session)
            session.abort_transaction()
        update = {"update": "c", "updates": [{"q": {"_id": 4}, "u": {"$set": {"v": "older"}}}], "$db": "t"}
        assert raw.command({**update, "startTransaction": True, **inside(1)})["ok"] == 1
        newer = {"insert": "c", "documents": [{"_id": 50}], "$db": "t", "startTransaction": True, **inside(2)}
        assert raw.command(newer)["ok"] == 1
        assert raw.command({"commitTransaction": 1, "$db": "admin", **inside(1)})["ok"] == 0
        assert raw.command({"commitTransaction": 1, "$db": "admin", **inside(2)})["ok"] == 1
        assert raw.command({"commitTransaction": 1, "$db": "admin", **inside(2)})["ok"] == 1, "once more"
        killed = {"update": "c", "updates": [{"q": {"_id": 5}, "u": {"$set": {"v": "killed"}}}], "$db": "t"}
        assert raw.command({**killed, "startTransaction": True, **inside(1, 8)})["ok"] == 1
        raw.command({"killSessions": [inside(1, 8)["lsid"]], "$db": "admin"})
        gone = raw.command({"commitTransaction": 1, "$db": "admin", **inside(1, 8)})
        assert gone["code"] == 251 and "TransientTransactionError" in gone["errorLabels"], gone
        c.update_one({"_id": 5}, {"$set": {"v": "free"}})
    found = whole(sidecar, store)
    assert [r["id"] for r in found if r["txn"]] == [{"$numberInt": "50"}]
    assert sidecar.metric("tidelog_transactions_open") == 0


def test_a_write_outside_waits_and_a_conflict_is_told_at_once(lab, mode):
    """As without the sidecar: the second transaction hears of the conflict at once; a plain write waits for the end."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client, sidecar.client() as other:
        c = client["t"]["c"].with_options(write_concern=WriteConcern("majority"))
        c.insert_many([{"_id": n, "v": 0} for n in range(4)])
        with client.start_session() as session:
            session.start_transaction(read_concern=ReadConcern("snapshot"))
            c.update_one({"_id": 0}, {"$inc": {"v": 1}}, session=session)
            with other.start_session() as second:
                second.start_transaction()
                began = time.monotonic()
                with pytest.raises(OperationFailure) as conflict:
                    other["t"]["c"].update_one({"_id": 0}, {"$inc": {"v": 1}}, session=second)
                assert conflict.value.code == 112 and conflict.value.has_error_label("TransientTransactionError")
                assert time.monotonic() - began < 4, "the conflict waited"
            limited = {"update": "c", "updates": [{"q": {"_id": 0}, "u": {"$inc": {"v": 1}}}], "maxTimeMS": 300}
            with pytest.raises(OperationFailure) as late:
                other["t"].command(limited)
            assert late.value.code == 50
            done = []
            waiting = threading.Thread(target=lambda: done.append(other["t"]["c"].update_many({"_id": {"$lte": 1}}, {"$inc": {"v": 10}})))
            waiting.start()
            other["t"]["c"].update_one({"_id": 2}, {"$inc": {"v": 1}})
            time.sleep(0.3)
            assert not done, "it did not wait"
            # What the waiting write also wants is not in its hands.
            c.update_one({"_id": 1}, {"$inc": {"v": 1}}, session=session)
            session.commit_transaction()
            waiting.join(20)
            assert done and done[0].modified_count == 2
        assert [d["v"] for d in c.find().sort("_id")] == [11, 11, 1, 0]
    whole(sidecar, store)


def test_with_transaction_under_contention(lab, mode):
    """Concurrent transfers by the driver's own retry: the sum stays, every transaction is whole."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    accounts, workers, rounds = 6, 6, 25
    with sidecar.client() as client:
        client["bank"]["accounts"].insert_many([{"_id": n, "amount": 100} for n in range(accounts)])
        client["bank"]["ledger"].insert_one({"_id": "first"})
        errors = []

        def transfer(worker: int) -> None:
            try:
                with sidecar.client() as mine, mine.start_session() as session:
                    for n in range(rounds):
                        source, target = (worker + n) % accounts, (worker * 5 + n * 3 + 1) % accounts

                        def move(session, source=source, target=target, n=n):
                            mine["bank"]["accounts"].update_one({"_id": source}, {"$inc": {"amount": -1}}, session=session)
                            mine["bank"]["accounts"].update_one({"_id": target}, {"$inc": {"amount": 1}}, session=session)
                            mine["bank"]["ledger"].insert_one({"_id": f"{worker}-{n}"}, session=session)

                        if n % 5 == 4:
                            mine["bank"]["accounts"].update_one({"_id": source}, {"$set": {f"seen{worker}": n}})
                        session.with_transaction(move)
            except Exception as error:  # told below
                errors.append(error)

        threads = [threading.Thread(target=transfer, args=(w,)) for w in range(workers)]
        [t.start() for t in threads]
        [t.join(200) for t in threads]
        assert not errors, errors[0]
        assert sum(d["amount"] for d in client["bank"]["accounts"].find()) == 100 * accounts
    found = whole(sidecar, store)
    transfers = [r for r in found if r["ns"] == "bank.ledger" and r["txn"]]
    assert len(transfers) == workers * rounds
    assert not any(r["op"] == "observed" for r in found)


def test_state_belongs_to_the_session(lab, mode):
    """Each command of a transaction on a connection of its own, the first a read; a first command that reads is a beginning."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        client["t"]["c"].insert_one({"_id": 1, "v": 0})
    commands = [
        {"find": "c", "filter": {}, "$db": "t", "startTransaction": True},
        {"update": "c", "updates": [{"q": {"v": 0}, "u": {"$set": {"v": 1}}}], "$db": "t"},
        {"insert": "c", "documents": [{"_id": 2}], "$db": "t"},
        {"commitTransaction": 1, "$db": "admin"},
    ]
    for command in commands:
        with Raw(sidecar.listen) as raw:
            assert raw.command({**command, **inside(3)})["ok"] == 1
    assert [r["txn"]["count"] for r in whole(sidecar, store) if r["txn"]] == [2, 2]


def test_a_restart_in_the_middle(lab, mode):
    """The new process ends a transaction that it did not see begin; the driver runs it again; nothing is torn."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        client["t"]["c"].insert_many([{"_id": n, "v": 0} for n in range(3)])
    kinds = ({"insert": "c", "documents": [{"_id": 9}], "$db": "t"}, {"commitTransaction": 1, "$db": "admin"}, {"find": "c", "$db": "t"})
    for number, kind in enumerate(kinds, 1):
        with Raw(sidecar.listen) as raw:
            update = {"update": "c", "updates": [{"q": {"_id": 1}, "u": {"$inc": {"v": 1}}}], "$db": "t"}
            assert raw.command({**update, "startTransaction": True, **inside(number)})["ok"] == 1
        sidecar.kill()
        sidecar.start()
        with Raw(sidecar.listen) as raw:
            told = raw.command({**kind, **inside(number)})
            assert told["code"] == 251 and "TransientTransactionError" in told["errorLabels"], told
        with sidecar.client() as client:
            assert client["t"]["c"].update_one({"_id": 1}, {"$inc": {"v": 1}}).modified_count == 1, "still locked"
    with sidecar.client(retryReads=True) as client, client.start_session() as session:
        turns = []

        def body(session):
            turns.append(1)
            client["t"]["c"].update_one({"_id": 2}, {"$inc": {"v": 1}}, session=session)
            if len(turns) == 1:
                sidecar.kill()
                sidecar.start()
            client["t"]["c"].insert_one({"_id": 10}, session=session)

        session.with_transaction(body)
        assert len(turns) == 2
    found = whole(sidecar, store)
    assert [r["txn"]["count"] for r in found if r["txn"]] == [2, 2]


def test_collections_made_inside(lab):
    """create, explicit and implicit, inside a transaction: with it in the log, or not at all."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    with sidecar.client() as client, client.start_session() as session:
        with session.start_transaction():
            client["n"].create_collection("made", session=session, check_exists=False)
            client["n"]["made"].insert_one({"_id": 1}, session=session)
            client["n"]["implied"].insert_one({"_id": 1}, session=session)
        session.start_transaction()
        client["n"]["never"].insert_one({"_id": 1}, session=session)
        session.abort_transaction()
    fold = fold_lines(sidecar.log_records())
    assert fold.complete["n.made"] and fold.complete["n.implied"]
    whole(sidecar, store)


def test_a_commit_that_fails_says_nothing_of_what_is(lab, mode):
    """Two transactions make the same collection; the later commit fails, and the log holds nothing of what its snapshot saw."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client, client.start_session() as late, client.start_session() as early:
        documents = client["snap"]["c"]
        early.start_transaction()
        late.start_transaction()
        documents.update_one({"_id": 4}, {"$set": {"by": "early"}}, upsert=True, session=early)
        try:
            documents.update_one({"_id": 4}, {"$set": {"by": "late"}}, upsert=True, session=late)
            early.commit_transaction()
            late.commit_transaction()
        except OperationFailure as error:
            assert error.code == 112 and error.has_error_label("TransientTransactionError")
        else:
            raise AssertionError("both were committed")
        if early.in_transaction:
            early.commit_transaction()
    assert [(r["op"], r["seq"], r["after"]["by"]) for r in whole(sidecar, store)] == [("insert", 1, "early")]


def test_an_error_that_ends_nothing(lab, mode):
    """A command that no transaction may run, or that cannot be read: the transaction lives on, as without the sidecar."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    wrong = [{"count": "c", "$db": "t"}, {"update": "c", "updates": [{"q": {}, "u": {"$set": {"v": 1}}}], "nonsense": 1, "$db": "t"}]
    with Raw(sidecar.listen) as raw:
        raw.command({"insert": "c", "documents": [{"_id": 1, "v": 0}], "$db": "t"})
        for number, command in enumerate(wrong, 1):
            update = {"update": "c", "updates": [{"q": {"_id": 1}, "u": {"$inc": {"v": 1}}}], "$db": "t"}
            assert raw.command({**update, "startTransaction": True, **inside(number)})["n"] == 1
            assert raw.command({**command, **inside(number)})["ok"] == 0
            assert raw.command({**update, **inside(number)})["n"] == 1
            assert raw.command({"commitTransaction": 1, "$db": "admin", **inside(number)})["ok"] == 1
    assert [r["after"]["v"] for r in whole(sidecar, store) if r["txn"]] == [{"$numberInt": "2"}, {"$numberInt": "4"}]
