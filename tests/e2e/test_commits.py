"""Commits of which the outcome is not told: whole in the log exactly once if the store has them, absent if it has not."""

import json
import os
import pathlib
import shutil
import threading

import pytest
from bson import Int64
from dump import dump
from judge import compare
from pymongo.errors import AutoReconnect
from shim import Rule, Shim
from sidecar import changes
from test_transactions import inside, whole
from validator import fold_lines
from waiting import eventually
from wire import Closed, Raw

COMMIT = frozenset({"commitTransaction"})


@pytest.fixture
def rig(lab, mode):
    """Store, shim, sidecar and three documents."""
    store = lab.store(mode)
    shim = Shim(store.address)
    sidecar = lab.sidecar(shim.address)
    with sidecar.client() as client:
        client["t"]["c"].insert_many([{"_id": n, "v": 0} for n in range(3)])
    yield store, shim, sidecar
    shim.close()


def begun(raw: Raw, number: int) -> None:
    """Two changes in a transaction of session 9."""
    statements = [{"q": {"_id": 0}, "u": {"$inc": {"v": 1}}}, {"q": {"v": {"$lt": 1}, "_id": {"$gt": 0}}, "u": {"$set": {"n": number}}}]
    for n, statement in enumerate(statements):
        start = {"startTransaction": True} if n == 0 else {}
        assert raw.command({"update": "c", "updates": [statement], "$db": "t", **start, **inside(number)})["n"] == 1


def commit(raw: Raw, number: int) -> dict:
    return raw.command({"commitTransaction": 1, "$db": "admin", **inside(number)})


@pytest.mark.parametrize("point", ["before", "half", "after", "middle"])
def test_a_commit_whose_reply_never_came(rig, point):
    """The connection is cut around the commit: the driver's own retry gets the outcome, the log has it whole and once."""
    store, shim, sidecar = rig
    with sidecar.client() as client, client.start_session() as session:
        shim.arm(Rule(point, COMMIT))
        session.start_transaction()
        client["t"]["c"].update_many({}, {"$inc": {"v": 1}}, session=session)
        client["t"]["d"].insert_one({"_id": 1}, session=session)
        try:
            session.commit_transaction()
        except AutoReconnect:
            # Drivers try again by themselves where there is a replica set.
            assert store.mode == "standalone"
            session.commit_transaction()
        assert client["t"]["d"].find_one({"_id": 1})
        client["t"]["c"].update_one({"_id": 1}, {"$inc": {"v": 1}})
    found = whole(sidecar, store)
    assert [r["txn"]["count"] for r in found if r["txn"]] == [4] * 4
    assert not any(r["op"] == "observed" for r in found)


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_commit_that_nobody_asks_for_again(rig, point):
    """The client goes too. What the store has committed is in the log whole; what it has not never gets there."""
    store, shim, sidecar = rig
    shim.arm(Rule(point, COMMIT))
    with Raw(sidecar.listen) as raw:
        begun(raw, 1)
        with pytest.raises(Closed):
            commit(raw, 1)
    if point == "before":
        # Still open in the store: a newer number of the session ends it.
        with Raw(sidecar.listen) as raw:
            assert raw.command({"insert": "c", "documents": [{"_id": 77}], "$db": "t", "lsid": inside(1)["lsid"], "txnNumber": Int64(2)})["n"] == 1
    with sidecar.client() as client:
        client["t"]["c"].update_one({"_id": 0}, {"$set": {"after": True}})
    found = whole(sidecar, store)
    assert [r["txn"]["count"] for r in found if r["txn"]] == ([] if point == "before" else [2, 2])
    assert sidecar.metric("tidelog_transactions_open") == 0


@pytest.mark.parametrize("point", ["freeze", "frozen"])
def test_a_sidecar_killed_in_a_commit(rig, point):
    """The next process finds what was to be logged: at once if the store has committed, with the client's retry if not yet."""
    store, shim, sidecar = rig
    shim.arm(Rule(point, COMMIT))
    raw = Raw(sidecar.listen)
    begun(raw, 1)
    asked = threading.Thread(target=lambda: pytest.raises(Exception, commit, raw, 1))
    asked.start()
    direct = store.client()["t"]["c"]
    if point == "frozen":
        eventually(lambda: direct.find_one({"_id": 0})["v"] == 1, 10, "the store has committed")
    else:
        eventually(lambda: not shim.rules, 10, "the commit is on its way")
    sidecar.kill()
    shim.cut_all()
    shim.thaw()
    asked.join(20)
    sidecar.start()
    if point == "frozen":
        assert [r["txn"]["count"] for r in changes(sidecar) if r["txn"]] == [2, 2], "settled before anyone is served"
    with Raw(sidecar.listen) as again:
        assert commit(again, 1)["ok"] == 1
        assert commit(again, 1)["ok"] == 1
    with sidecar.client() as client:
        client["t"]["c"].update_one({"_id": 0}, {"$inc": {"v": 1}})
    assert [r["txn"]["count"] for r in whole(sidecar, store) if r["txn"]] == [2, 2]


def test_a_batch_that_is_logged_already(rig, tmp_path):
    """A process killed after its batch was durable and before it forgot the intent, or a crash of the machine that brought an intent
    back after others wrote (one of them as it was before): the next one logs nothing twice."""
    store, shim, sidecar = rig
    shim.arm(Rule("frozen", COMMIT))
    raw = Raw(sidecar.listen)
    begun(raw, 1)
    asked = threading.Thread(target=lambda: pytest.raises(Exception, commit, raw, 1))
    asked.start()
    eventually(lambda: store.client()["t"]["c"].find_one({"_id": 0})["v"] == 1, 10, "the store has committed")
    sidecar.kill()
    shim.cut_all()
    shim.thaw()
    asked.join(20)
    intents = sidecar.data / "intents" / "transactions"
    kept = shutil.copytree(intents, tmp_path / "kept")
    for _ in range(2):
        sidecar.start()
        assert [r["txn"]["count"] for r in changes(sidecar) if r["txn"]] == [2, 2]
        sidecar.kill()
        shutil.copytree(kept, intents, dirs_exist_ok=True)
    sidecar.start()
    with sidecar.client() as client:
        client["t"]["c"].update_one({"_id": 0}, {"$inc": {"v": 10}})
        client["t"]["c"].replace_one({"_id": 1}, {"v": 0})
    sidecar.kill()
    shutil.copytree(kept, intents, dirs_exist_ok=True)
    sidecar.start()
    found = whole(sidecar, store)
    assert len(found) == 7 and not any(r["op"] == "observed" for r in found)
    assert not list(intents.iterdir()), "what is settled is forgotten"


def test_a_commit_file_that_a_crash_of_the_machine_has_torn(rig):
    """What was sent cannot be read any more: the sidecar serves, says that nothing is proved, compares everything, and closes the gap."""
    store, shim, sidecar = rig
    shim.arm(Rule("frozen", COMMIT))
    raw = Raw(sidecar.listen)
    begun(raw, 1)
    asked = threading.Thread(target=lambda: pytest.raises(Exception, commit, raw, 1))
    asked.start()
    eventually(lambda: store.client()["t"]["c"].find_one({"_id": 0})["v"] == 1, 10, "the store has committed")
    sidecar.kill()
    shim.cut_all()
    shim.thaw()
    asked.join(20)
    (torn,) = (sidecar.data / "intents" / "transactions").iterdir()
    size = torn.stat().st_size
    assert size > 4096
    os.truncate(torn, size - 100)
    sidecar.start()
    eventually(lambda: any(gap["cause"] == "commit" and gap["until_lsn"] for gap in ledger(sidecar)), 20, "the gap opens and closes")
    assert not torn.exists()
    found = [r for r in changes(sidecar) if r["op"] == "observed"]
    assert len(found) == 2 and {r["found"] for r in found} <= {"recovery", "touch", "bypass", "catchUp"}
    with Raw(sidecar.listen) as again:
        commit(again, 1)
    whole(sidecar, store)


def ledger(sidecar) -> list[dict]:
    """The gaps that the windows so far tell of."""
    sidecar.cut()
    manifests = sorted(sidecar.export.glob("**/manifest*.json"))
    return [gap for path in manifests for gap in json.loads(path.read_text())["gaps"]]


def test_a_commit_that_lands_after_the_kill(rig):
    """It was in the network when the sidecar died, and the store carries it out after the next one has started."""
    store, shim, sidecar = rig
    shim.arm(Rule("freeze", COMMIT))
    raw = Raw(sidecar.listen)
    begun(raw, 1)
    asked = threading.Thread(target=lambda: pytest.raises(Exception, commit, raw, 1))
    asked.start()
    eventually(lambda: not shim.rules, 10, "the commit is on its way")
    sidecar.kill()
    asked.join(20)
    sidecar.start()
    assert not [r for r in changes(sidecar) if r["txn"]]
    written = []
    with sidecar.client() as client:
        waits = threading.Thread(target=lambda: written.append(client["t"]["c"].update_one({"_id": 0}, {"$inc": {"v": 10}})))
        waits.start()
        waits.join(0.5)
        assert waits.is_alive(), "it went ahead of a commit that may still land"
        shim.thaw()
        waits.join(20)
        assert written and client["t"]["c"].find_one({"_id": 0})["v"] == 11
    found = whole(sidecar, store)
    assert [r["txn"]["count"] for r in found if r["txn"]] == [2, 2]
    assert not any(r["op"] == "observed" for r in found)


def test_a_connection_cut_in_a_statement(rig):
    """The transaction is over for its client; the store is told before anything more of it goes there."""
    store, shim, sidecar = rig
    for number, point in enumerate(("before", "after", "middle"), 1):
        with Raw(sidecar.listen) as raw:
            begun(raw, number)
        with Raw(sidecar.listen) as raw:
            shim.arm(Rule(point, frozenset({"insert"})))
            with pytest.raises(Closed):
                raw.command({"insert": "c", "documents": [{"_id": f"x{number}"}], "$db": "t", **inside(number)})
        with Raw(sidecar.listen) as raw:
            told = commit(raw, number)
            assert told["code"] == 251 and "TransientTransactionError" in told["errorLabels"], told
    with sidecar.client() as client:
        client["t"]["c"].update_many({}, {"$set": {"free": True}})
    assert not [r for r in whole(sidecar, store) if r["txn"]]


@pytest.mark.parametrize("code, labels", [(91, ()), (11602, ()), (262, ()), (251, ("TransientTransactionError",)), (112, ("TransientTransactionError",))])
@pytest.mark.parametrize("point", ["error", "applied"])
def test_a_commit_that_is_answered_with_an_error(rig, point, code, labels):
    """Whatever the error says, the log says what the store did."""
    store, shim, sidecar = rig
    if labels and point == "applied":
        pytest.skip("a store that says that it is over has not committed")
    shim.arm(Rule(point, COMMIT, code=code, labels=labels))
    with Raw(sidecar.listen) as raw:
        begun(raw, 1)
        assert commit(raw, 1)["code"] == code
        told = commit(raw, 1)
        raw.command({"abortTransaction": 1, "$db": "admin", **inside(1)})
    with sidecar.client() as client:
        client["t"]["c"].update_one({"_id": 0}, {"$inc": {"v": 1}})
    found = whole(sidecar, store)
    assert [r["txn"]["count"] for r in found if r["txn"]] == ([2, 2] if told["ok"] == 1 else [])


def rss(sidecar, what: str = "VmHWM") -> int:
    """Megabytes that the sidecar has, or has had at most."""
    status = pathlib.Path(f"/proc/{sidecar.process.pid}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) // 1024


def test_a_transaction_larger_than_memory(lab):
    """$TIDELOG_LARGE changes (11,000 in CI; 1,000,000 by hand) in one transaction: one batch, one window, bounded memory."""
    count = int(os.environ.get("TIDELOG_LARGE", "11000"))
    store = lab.store(extra=["--cache-size", "16G"] if count > 100_000 else [])
    store.client().admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 3600})
    sidecar = lab.sidecar(store, config="[capture]\ntransaction_lifetime_ms = 3600000\n")
    with sidecar.client() as client:
        client["big"]["old"].insert_many([{"_id": n, "v": "x" * 50} for n in range(1000)])
        with client.start_session() as session, session.start_transaction():
            client["big"]["old"].update_many({}, {"$set": {"v": "y"}}, session=session)
            for first in range(0, count, 10_000):
                documents = [{"_id": n, "text": "z" * 40} for n in range(first, min(first + 10_000, count))]
                client["big"]["c"].insert_many(documents, session=session)
        client["big"]["c"].update_one({"_id": 5}, {"$set": {"after": True}})
    sidecar.cut()
    used = rss(sidecar)
    print(f"{count} changes, the sidecar had at most {used} MB")
    if count > 100_000:
        assert used < 300, f"{used} MB"
        return
    held = dump(store.client())
    compare("the log", fold_lines(sidecar.log_records()), held)
    batch = [r["txn"]["count"] for r in changes(sidecar) if r["txn"]]
    assert batch == [count + 1000] * (count + 1000)
