"""Other writers: on a replica set the change stream hints at what they did, and it stands in the log within seconds."""

import datetime
import json
import random
import signal
import time

import pytest
from bson import SON
from dump import dump
from judge import compare
from sidecar import changes, run_cli
from test_gaps import await_none, open_gaps
from validator import check_export, fold_lines
from waiting import eventually
from writers import Writers


def state(sidecar) -> str:
    return json.loads(sidecar.http("/v1/status")[1])["follower"]["state"]


def await_following(sidecar) -> None:
    eventually(lambda: state(sidecar) == "following", 20, "the change stream is followed")


def found(sidecar, *filters: str) -> list[tuple]:
    return [(r["ns"], r["found"]) for r in changes(sidecar, *filters) if r["op"] == "observed"]


def await_same(sidecar, store, seconds: float = 15) -> None:
    """The log's fold becomes the store."""

    def same() -> bool:
        return fold_lines(sidecar.log_records()).documents() == dump(store.client())

    eventually(same, seconds, "the log is the store", every=0.2)


def test_another_writer_is_seen_within_seconds(lab):
    """Insert, update, delete, a transaction and a $merge past the sidecar: observed, told as bypass, each once."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    await_following(sidecar)
    with sidecar.client() as ours, store.client() as foreign:
        ours["f"]["c"].insert_many([{"_id": n} for n in range(10)])
        foreign["f"]["c"].insert_one({"_id": 100})
        foreign["f"]["c"].update_one({"_id": 1}, {"$set": {"x": 1}})
        foreign["f"]["c"].delete_one({"_id": 2})
        with foreign.start_session() as session, session.start_transaction():
            foreign["f"]["c"].update_one({"_id": 3}, {"$set": {"x": 1}}, session=session)
            foreign["f"]["c"].insert_one({"_id": 101}, session=session)
        foreign["f"]["c"].aggregate([{"$match": {"_id": {"$lt": 2}}}, {"$merge": "theirs"}])
        await_same(sidecar, store)
    told = found(sidecar)
    assert told.count(("f.c", "bypass")) == 5 and len(told) == 7, told
    fold = fold_lines(sidecar.log_records())
    assert fold.ops == fold.ops | {"insert": 10} and fold.ops["observed"] == 7
    assert sidecar.metric("tidelog_follower_up") == 1


def test_own_writes_cost_no_read(lab):
    """Thousands of own writes of every shape, transactions among them: no event of them is taken for another's."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    await_following(sidecar)
    with sidecar.client() as client:
        docs = client["own"]["c"]
        for n in range(300):
            docs.insert_one({"_id": n})
            docs.update_one({"_id": n}, {"$inc": {"v": 1}})
            docs.find_one_and_update({"_id": n}, {"$inc": {"v": 1}})
        docs.insert_many([{"_id": f"m{n}"} for n in range(500)])
        docs.update_many({}, {"$set": {"all": 1}})
        docs.delete_many({"_id": {"$gte": 200}})
        for n in range(20):
            with client.start_session() as session, session.start_transaction():
                docs.update_one({"_id": n}, {"$inc": {"v": 1}}, session=session)
                docs.update_one({"_id": n}, {"$inc": {"v": 1}}, session=session)
                docs.insert_one({"_id": f"t{n}"}, session=session)
        docs.rename("moved")
        client["own"]["moved"].drop()
        client["own"]["again"].insert_one({"_id": 1})
        client.drop_database("own")
    total = 300 * 3 + 500 + 800 + 100 + 20 * 3
    own = 'tidelog_follower_events_total{whose="own"}'
    eventually(lambda: sidecar.metrics()[own] >= total, 20, "all events are judged")
    time.sleep(0.5)
    numbers = sidecar.metrics()
    assert numbers['tidelog_follower_events_total{whose="foreign"}'] == 0, numbers
    fold = fold_lines(sidecar.log_records())
    assert "observed" not in fold.ops and fold.documents() == {}


def test_ttl_is_told_as_such(lab):
    """Deletes of a TTL index are observed within seconds as ttl; a delete by another client beside them is a bypass."""
    store = lab.store()
    with store.client() as direct:
        direct.admin.command(SON([("setParameter", 1), ("ttlMonitorSleepSecs", 1)]))
    sidecar = lab.sidecar(store)
    await_following(sidecar)
    now = datetime.datetime.now(datetime.timezone.utc)
    with sidecar.client() as client, store.client() as foreign:
        client["ttl"]["c"].create_index("at", expireAfterSeconds=1)
        old = [{"_id": n, "at": now - datetime.timedelta(seconds=5)} for n in range(20)]
        new = [{"_id": n, "at": now + datetime.timedelta(hours=1)} for n in range(20, 30)]
        client["ttl"]["c"].insert_many(old + new)
        foreign["ttl"]["c"].delete_one({"_id": 25})
        eventually(lambda: foreign["ttl"]["c"].count_documents({}) == 9, 60, "the store lets documents expire")
        await_same(sidecar, store)
    told = [(r["id"], r["found"]) for r in changes(sidecar) if r["op"] == "observed"]
    by = {word: sum(1 for _, f in told if f == word) for _, word in told}
    assert by == {"ttl": 20, "bypass": 1}, by


def test_commands_of_others(lab):
    """drop, rename, dropDatabase, $out and create past the sidecar become records; nothing stands twice."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    await_following(sidecar)
    with sidecar.client() as ours, store.client() as foreign:
        for name in ("dropped", "renamed", "target", "kept"):
            ours["ddl"][name].insert_many([{"_id": n, "of": name} for n in range(5)])
        ours["gone"]["c"].insert_one({"_id": 1})
        foreign["ddl"]["dropped"].drop()
        foreign["ddl"]["renamed"].rename("target", dropTarget=True)
        foreign.drop_database("gone")
        foreign["ddl"]["kept"].aggregate([{"$set": {"x": 1}}, {"$out": "theirs"}])
        foreign["ddl"].create_collection("made")
        await_same(sidecar, store)
        ours["ddl"]["kept"].drop()
        eventually(lambda: sidecar.metric("tidelog_follower_events_total") > 0, 5, "events")
    fold = fold_lines(sidecar.log_records())
    compare("the log", fold, dump(store.client()))
    drops = [json.loads(line)["ns"] for line in sidecar.log_records() if '"control":"drop"' in line.replace(" ", "")]
    assert sorted(drops) == ["ddl.dropped", "ddl.kept", "ddl.renamed", "gone.c"], drops
    sidecar.cut()
    check_export(sidecar.export)


def test_what_happened_while_it_was_down(lab, mode):
    """Downtime: the stream tells it on a replica set, a comparison of everything on a standalone; nobody waits for it."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as ours:
        ours["down"]["c"].insert_many([{"_id": n} for n in range(2000)])
        ours["down"]["dropped"].insert_one({"_id": 1})
    if mode == "replica":
        await_following(sidecar)
        time.sleep(1.5)
    sidecar.kill()
    with store.client() as foreign:
        foreign["down"]["c"].update_one({"_id": 7}, {"$set": {"x": 1}})
        foreign["down"]["c"].delete_one({"_id": 8})
        foreign["down"]["c"].insert_one({"_id": "fresh"})
        foreign["down"]["dropped"].drop()
    sidecar.start()
    await_same(sidecar, store)
    told = found(sidecar, "--namespace", "down.c")
    assert sorted(told) == [("down.c", "catchUp")] * 3, told
    assert open_gaps(sidecar) == []


def test_a_lost_place_is_a_gap_until_all_is_compared(lab):
    """The oplog no longer reaches back to the place kept: a gap over everything opens, and closes when all is compared."""
    store = lab.store(extra=["--oplog-max-entries", "50"])
    sidecar = lab.sidecar(store)
    with sidecar.client() as ours:
        ours["lost"]["c"].insert_many([{"_id": n} for n in range(100)])
    await_following(sidecar)
    time.sleep(1.5)
    sidecar.kill()
    with store.client() as foreign:
        foreign["lost"]["c"].delete_one({"_id": 50})
        for n in range(300):
            foreign["lost"]["noise"].insert_one({"_id": n})
        try:
            foreign.admin.command("secantusAdmin.pruneOplog")
        except Exception as error:
            print(f"the oplog is pruned by itself: {error}")
    sidecar.start()
    await_following(sidecar)
    await_same(sidecar, store)
    await_none(sidecar)
    records = [json.loads(line) for line in sidecar.log_records()]
    causes = [(r["ns"], r["cause"]) for r in records if r.get("control") == "gapOpened"]
    told = [r["found"] for r in records if r.get("op") == "observed" and r["ns"] == "lost.c"]
    assert told == ["catchUp"], told
    assert causes == [("*.*", "stream")], causes
    sidecar.cut()
    _, manifests = check_export(sidecar.export)
    assert [g["cause"] for m in manifests for g in m["gaps"] if g["until_lsn"]] == ["stream"]
    run_cli("verify", sidecar.export)


@pytest.mark.timeout(300)
def test_both_write_the_same_documents(lab):
    """Clients of both sides hammer the same documents, the sidecar is killed now and then: the log ends as the store."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    store = lab.store()
    sidecar = lab.sidecar(store)
    await_following(sidecar)
    ours = Writers(f"mongodb://{sidecar.listen}/", ["both.a", "both.b"], range(40), seed)
    theirs = Writers(f"mongodb://{store.address}/?directConnection=true", ["both.a", "both.b"], range(40), seed + 100, pause=0.02)
    for _ in range(3):
        time.sleep(1.5)
        sidecar.kill()
        sidecar.start()
    time.sleep(1.5)
    assert ours.stop() > 50 and theirs.stop() > 50
    await_same(sidecar, store, 40)
    fold = fold_lines(sidecar.log_records())
    assert fold.found["bypass"] + fold.found["touch"] + fold.found["catchUp"] > 20, fold.found
    sidecar.cut()
    exported, _ = check_export(sidecar.export)
    compare("the windows", exported, dump(store.client()))


def test_a_standalone_says_so(lab):
    """There is no change stream: status says it."""
    sidecar = lab.sidecar(lab.store("standalone"))
    eventually(lambda: state(sidecar) == "off: a standalone has no change stream", 10, "the status")
    assert "off: a standalone" in run_cli("status", "--admin", sidecar.admin).stdout
    assert sidecar.metric("tidelog_follower_up") == 0


@pytest.mark.timeout(400)
def test_an_oplog_that_rolls_over_what_was_not_read(lab):
    """The sidecar stands still while the oplog forgets what somebody wrote. The store says nothing of that to an open stream: it is noticed,
    a gap opens over everything, and a comparison finds the change and closes it."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    await_following(sidecar)
    with sidecar.client() as ours, store.client() as foreign:
        ours["f"]["c"].insert_many([{"_id": n} for n in range(10)])
        foreign["f"]["c"].update_one({"_id": 1}, {"$set": {"seen": 1}})
        await_same(sidecar, store)
        # So long that the stream had nothing more to tell when the oplog was last looked at.
        time.sleep(5)
        sidecar.process.signal(signal.SIGSTOP)
        try:
            foreign["f"]["c"].update_one({"_id": 2}, {"$set": {"forgotten": 1}})
            oplog = foreign["local"]["oplog.rs"]
            wanted = foreign.admin.command("hello")["operationTime"]
            # Quickly: a driver that has stood still for long begins its stream anew, and is then told of the loss.
            for _ in range(40):
                foreign["f"]["busy"].insert_many([{"n": n} for n in range(5000)], ordered=False)
                if oplog.find_one(sort=[("$natural", 1)])["ts"] > wanted:
                    break
            else:
                pytest.skip("the oplog of this store is too large to roll over in a test")
            foreign["f"]["busy"].drop()
        finally:
            sidecar.process.signal(signal.SIGCONT)
        eventually(lambda: "is lost" in sidecar.process.output(), 60, "the loss is noticed")
        await_none(sidecar)
        await_same(sidecar, store, 60)
    opened = [json.loads(line) for line in sidecar.log_records() if '"control":"gapOpened"' in line]
    assert [(gap["ns"], gap["cause"]) for gap in opened] == [("*.*", "stream")], opened
    assert [ns for ns, _ in found(sidecar)] == ["f.c", "f.c"], found(sidecar)
    sidecar.cut()
    check_export(sidecar.export)
