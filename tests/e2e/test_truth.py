"""What the log knows and says it does not know: origins, foreign writers, gaps, transactions, a lost index, a killed store."""

import json
import shutil
import threading
import time

import pytest
from bson import Binary, Int64
from dump import difference, dump
from judge import compare
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure
from sidecar import changes, run_cli
from validator import check_export, fold_lines
from waiting import eventually
from wire import Raw


def test_origin_with_authentication(lab):
    """SCRAM passes untouched; user, mechanism, application, driver, address, comment and traceparent stand in each record."""
    store = lab.store(auth=True)
    with store.client() as client:
        client.admin.command("createUser", "root", pwd="secret", roles=["root"])
    (lab.folder / "password").write_text("secret\n")
    config = f'[store]\nusername = "root"\nauth_source = "admin"\npassword_file = "{lab.folder / "password"}"\n'
    sidecar = lab.sidecar(store, config=config)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-1"):
        with sidecar.client(username="root", password="secret", authMechanism=mechanism, appname="till 7") as client:
            client["who"]["c"].insert_one({"m": mechanism}, comment={"why": "sale", "traceparent": trace})
    with sidecar.client(username="root", password="wrong") as client, pytest.raises(OperationFailure) as error:
        client["who"]["c"].insert_one({})
    assert error.value.code == 18
    with sidecar.client() as client, pytest.raises(OperationFailure) as error:
        client["who"]["c"].insert_one({})
    assert error.value.code == 13
    with sidecar.client() as client, pytest.raises(OperationFailure) as error:
        client["who"].command({"tidelogCut": 1})
    assert error.value.code == 13, "a stranger cut a window"
    with sidecar.client(username="root", password="secret") as client:
        assert client["who"].command({"tidelogCut": 1})["ok"] == 1
    found = changes(sidecar)
    assert len(found) == 2
    for record, mechanism in zip(found, ("SCRAM-SHA-256", "SCRAM-SHA-1")):
        origin = record["origin"]
        assert origin["user"] in ("root@admin", "admin.root") and origin["mechanism"] == mechanism
        assert origin["app"] == "till 7" and origin["driver"].startswith("PyMongo") and origin["client"].startswith("127.0.0.1:")
        assert record["traceparent"] == trace and "sale" in json.dumps(record["comment"])
    text = sidecar.process.output() + json.dumps(found)
    assert "secret" not in text, "a credential was written down"


def test_a_client_that_may_write_but_not_read(lab):
    """Its images are read by the sidecar's own user; a statement by any filter is judged by the store and its namespace verified."""
    store = lab.store(auth=True)
    with store.client() as client:
        client.admin.command("createUser", "root", pwd="secret", roles=["root"])
    (lab.folder / "password").write_text("secret\n")
    config = f'[store]\nusername = "root"\nauth_source = "admin"\npassword_file = "{lab.folder / "password"}"\n'
    sidecar = lab.sidecar(store, config=config)
    with sidecar.client(username="root", password="secret") as root:
        right = {"resource": {"db": "blind", "collection": ""}, "actions": ["insert", "update", "remove"]}
        root["blind"].command("createRole", "writer", privileges=[right], roles=[])
        root["blind"].command("createUser", "blind", pwd="secret", roles=[{"role": "writer", "db": "blind"}])
        with sidecar.client(username="blind", password="secret", authSource="blind") as client:
            documents = client["blind"]["c"]
            documents.insert_many([{"_id": n, "k": 7} for n in range(3)])
            documents.update_one({"_id": 0}, {"$inc": {"k": 1}})
            documents.update_one({"_id": 0}, {"$inc": {"k": 1}})
            assert documents.update_many({"k": 7}, {"$set": {"k": 8}}).modified_count == 2
            assert documents.delete_one({"_id": 1}).deleted_count == 1
            with pytest.raises(OperationFailure) as error:
                documents.find_one()
            assert error.value.code == 13
        sidecar.cut("end")
        compare("the log", fold_lines(sidecar.log_records()), dump(root))
    found = [(c["op"], c["origin"]["user"]) for c in changes(sidecar, "--namespace", "blind.c")]
    assert {user for _, user in found} == {"blind@blind"}, found
    assert [op for op, _ in found] == ["insert"] * 3 + ["update"] * 2 + ["observed"] * 2 + ["delete"], found


def test_index_is_derived(lab, mode):
    """The entity index deleted, the sidecar started again: numbers go on and the chain holds."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        docs = client["derived"]["c"]
        docs.insert_many([{"_id": n, "v": 0} for n in range(200)])
        docs.update_many({}, {"$inc": {"v": 1}})
        docs.delete_many({"_id": {"$lt": 20}})
        client["derived"]["gone"].insert_one({"_id": 1})
        client["derived"].drop_collection("gone")
    assert sidecar.stop() == 0
    removed = [p for p in sidecar.data.iterdir() if p.is_dir() and "index" in p.name]
    assert removed, [p.name for p in sidecar.data.iterdir()]
    for folder in removed:
        shutil.rmtree(folder)
    sidecar.start()
    with sidecar.client() as client:
        docs = client["derived"]["c"]
        docs.update_many({}, {"$inc": {"v": 1}})
        docs.insert_one({"_id": 5, "life": 2})
        client["derived"]["gone"].insert_one({"_id": 1, "life": 2})
    fold = fold_lines(sidecar.log_records())
    compare("the log", fold, dump(store.client()))
    assert "observed" not in fold.ops, "a rebuilt index forgot something"
    seqs = {r["id"] if isinstance(r["id"], str) else json.dumps(r["id"]): r["seq"] for r in changes(sidecar) if r["ns"] == "derived.c"}
    assert seqs['{"$numberInt": "100"}'] == 3 and seqs['{"$numberInt": "5"}'] == 4


def test_foreign_writer_is_seen_at_the_next_touch(lab, mode):
    """A write past the sidecar becomes an observed record when its entity is touched again; the chain never breaks."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as ours, store.client() as foreign:
        ours["f"]["c"].insert_many([{"_id": n} for n in range(3)])
        foreign["f"]["c"].update_one({"_id": 0}, {"$set": {"x": "foreign"}})
        foreign["f"]["c"].delete_one({"_id": 1})
        foreign["f"]["c"].insert_one({"_id": 9})
        ours["f"]["c"].update_one({"_id": 0}, {"$set": {"y": 1}})
        ours["f"]["c"].update_one({"_id": 1}, {"$set": {"y": 1}}, upsert=True)
        ours["f"]["c"].delete_one({"_id": 9})
    fold = fold_lines(sidecar.log_records())
    compare("the log", fold, dump(store.client()))
    assert fold.ops["observed"] == 3


def test_store_with_documents_is_told_incomplete(lab, mode):
    """What was there before the sidecar: the namespace is incomplete in each manifest; touched documents begin with an observed record."""
    store = lab.store(mode)
    with store.client() as client:
        client["old"]["c"].insert_many([{"_id": n} for n in range(5)])
    sidecar = lab.sidecar(store, config="[snapshot]\nenabled = false\n[follower]\nenabled = false\n")
    with sidecar.client() as client:
        client["old"]["c"].update_one({"_id": 1}, {"$set": {"x": 1}})
        client["old"]["new"].insert_one({"_id": 1})
    sidecar.cut()
    _, manifests = check_export(sidecar.export)
    told = {n["ns"]: n["complete"] for n in manifests[-1]["namespaces"]}
    assert told == {"old.c": False, "old.new": True}
    assert [r["op"] for r in changes(sidecar) if r["ns"] == "old.c"] == ["observed", "update"]


def test_write_in_a_transaction_can_be_refused(lab, mode):
    """By configuration. All write commands inside a transaction: a clear error that names the setting; reads in it go through."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config='[capture]\ntransactions = "refuse"\n')
    lsid = {"id": Binary(b"\x09" * 16, 4)}
    writes = [
        {"insert": "c", "documents": [{"_id": 2}]},
        {"update": "c", "updates": [{"q": {"_id": 1}, "u": {"$set": {"x": 1}}}]},
        {"delete": "c", "deletes": [{"q": {"_id": 1}, "limit": 1}]},
        {"findAndModify": "c", "query": {"_id": 1}, "update": {"$set": {"x": 1}}},
        {"bulkWrite": 1, "ops": [{"insert": 0, "document": {"_id": 3}}], "nsInfo": [{"ns": "t.c"}], "$db": "admin"},
    ]
    with Raw(sidecar.listen) as raw:
        raw.command({"insert": "c", "documents": [{"_id": 1}], "$db": "t"})
        for number, write in enumerate(writes, 1):
            inside = {"lsid": lsid, "txnNumber": Int64(number), "autocommit": False}
            read = raw.command({"find": "c", "$db": "t", "startTransaction": True, **inside})
            assert read["cursor"]["firstBatch"] == [{"_id": 1}]
            refused = raw.command({**write, "$db": write.get("$db", "t"), **inside})
            assert refused["ok"] == 0 and "capture.transactions" in refused["errmsg"], refused
            raw.command({"abortTransaction": 1, "$db": "admin", **inside})
            first = raw.command({**write, "$db": write.get("$db", "t"), **inside, "txnNumber": Int64(100 + number), "startTransaction": True})
            assert first["ok"] == 0 and "capture.transactions" in first["errmsg"], first
    held = dump(store.client())
    assert len(held["t.c"]) == 1
    compare("the log", fold_lines(sidecar.log_records()), held)
    assert sidecar.metrics()['tidelog_commands_refused_total{reason="transaction"}'] == 2 * len(writes)


def test_unsupported_is_refused(lab):
    """Commands that would change data unseen are answered with an error of ours and do not reach the store."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    with Raw(sidecar.listen) as raw:
        raw.command({"insert": "c", "documents": [{"_id": 1}], "$db": "t"})
        for command in ({"applyOps": [{"op": "i", "ns": "t.c", "o": {"_id": 2}}], "$db": "admin"}, {"convertToCapped": "c", "size": 9999, "$db": "t"}, {"cloneCollectionAsCapped": "c", "toCollection": "d", "size": 9999, "$db": "t"}):
            reply = raw.command(command)
            assert reply["ok"] == 0 and reply["errmsg"], reply
    assert len(dump(store.client())["t.c"]) == 1


def test_store_killed_under_load(lab, mode):
    """kill -9 of a store that keeps what it acknowledged: after it is back, log and windows are its state."""
    store = lab.store(mode, sync=True)
    sidecar = lab.sidecar(store)
    stop = threading.Event()

    def write(number: int) -> None:
        with MongoClient(sidecar.listen, serverSelectionTimeoutMS=20000) as client:
            n = 0
            while not stop.is_set():
                n += 1
                try:
                    client["k"]["c"].update_one({"_id": n % 50}, {"$push": {"by": number}}, upsert=True)
                except (AutoReconnect, OperationFailure):
                    time.sleep(0.05)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.7)
        store.kill()
        store.start()
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    sidecar.await_ready()

    def same() -> bool:
        fold = fold_lines(sidecar.log_records())
        return not difference(fold.documents(), dump(store.client()))

    eventually(same, 60, "the log folds to the store's state", every=1)
    sidecar.cut()
    fold, _ = check_export(sidecar.export)
    compare("the windows", fold, dump(store.client()))




def test_records_explain_themselves(lab):
    """Retry identity, correlation, clocks and namespaces; `tidelog log` finds them by namespace, entity and lsn."""
    sidecar = lab.sidecar(lab.store())
    with sidecar.client() as client:
        client["x"]["c"].insert_many([{"_id": n} for n in range(3)])
        client["x"]["c"].update_one({"_id": 1}, {"$set": {"y": 1}})
        client["x"]["d"].insert_one({"_id": 1})
    found = changes(sidecar)
    batch, update = found[:3], found[3]
    assert [r["retry"]["stmt_id"] for r in batch] == [0, 1, 2]
    assert len({r["retry"]["lsid"] for r in found}) == 1 and update["retry"]["txn_number"] == batch[0]["retry"]["txn_number"] + 1
    assert len({r["correlation"] for r in batch}) == 1 and update["correlation"] != batch[0]["correlation"]
    assert all(r["operation_time"]["t"] > 1_600_000_000 for r in found)
    assert [r["lsn"] for r in changes(sidecar, "--namespace", "x.d")] == [found[4]["lsn"]]
    assert "x.c" in json.dumps(changes(sidecar, "--namespace", "x.c"))


def test_step_down(lab):
    """The node steps down and up again under load: drivers see it through the sidecar, and nothing acknowledged is lost."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    acked, stop = [], threading.Event()

    def write() -> None:
        with sidecar.client() as client:
            n = 0
            while not stop.is_set():
                n += 1
                try:
                    client["down"]["c"].insert_one({"_id": n})
                    acked.append(n)
                except (AutoReconnect, OperationFailure):
                    time.sleep(0.05)

    thread = threading.Thread(target=write)
    thread.start()
    eventually(lambda: len(acked) > 50, 30, "some writes")
    with store.client() as direct:
        direct.admin.command({"replSetStepDown": 2, "secondaryCatchUpPeriodSecs": 0, "force": True})
    before = len(acked)
    eventually(lambda: len(acked) > before + 50, 40, "writes go on")
    stop.set()
    thread.join(30)
    assert {r["id"]["$numberInt"] for r in changes(sidecar)} >= {str(n) for n in acked}
    compare("the log", fold_lines(sidecar.log_records()), dump(store.client()))
