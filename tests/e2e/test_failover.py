"""Two sidecars with data folders of their own, one beside each member; the primary moves when the test says so.

Per-entity order over both logs is that of (epoch, seq): `deploy/docs/order.md`.
"""

import json
import random
import time

import pytest
from dump import difference, dump
from failover import Member
from losses import Losses
from pymongo import MongoClient
from pymongo.errors import NotPrimaryError, PyMongoError
from validator import check_export, expect
from waiting import eventually

WINDOWS = "[windows]\nmax_records = 200\nidle_ms = 200\nmax_age_ms = 1500\n[follower]\nenabled = false\ncatch_up = false\n[snapshot]\nenabled = false\n"


class Merge:
    """All change records of several logs, each entity's in the order of (epoch, seq); ties by the clock."""

    def __init__(self):
        self.records: dict[tuple, list] = {}
        self.places: dict[tuple, set] = {}

    def see(self, record) -> None:
        if record.control is None:
            self.records.setdefault((record.ns, record.key), []).append((record.epoch, record.seq, record.hlc, record.after, record.op))

    def documents(self) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for (ns, _), records in self.records.items():
            last = max(records, key=lambda r: r[:3])
            if last[3] is not None:
                found.setdefault(ns, []).append(last[3])
        return {ns: sorted(images) for ns, images in found.items()}

    def no_number_twice(self) -> None:
        for entity, records in self.records.items():
            numbers = [r[:2] for r in records]
            expect(len(numbers) == len(set(numbers)), f"{entity}: two records have the same (epoch, seq): {sorted(numbers)}")


class Pair:
    """Two members, two sidecars, and a client of each."""

    def __init__(self, lab):
        self.store = lab.store()
        self.members = [Member(self.store.address, True, 1), Member(self.store.address, False, 1)]
        self.sidecars = [lab.sidecar(m.address, name=f"tidelog-{n}", config=WINDOWS) for n, m in enumerate(self.members)]
        # The members do not stream what hello says.
        options = {"directConnection": True, "retryWrites": False, "serverMonitoringMode": "poll"}
        self.clients = [MongoClient(f"mongodb://{s.listen}/", **options) for s in self.sidecars]

    def elect(self, who: int, term: int) -> None:
        """The other one hears of it first."""
        self.members[1 - who].become(False, term)
        self.members[who].become(True, term)

    def status(self, who: int) -> dict:
        return json.loads(self.sidecars[who].http("/v1/status")[1])

    def proved(self, who: int) -> bool:
        log = self.status(who)["log"]
        return log["proven_lsn"] == log["tail_lsn"]

    def merged(self) -> tuple[Merge, list[Losses]]:
        merge, losses = Merge(), [Losses(), Losses()]
        for who, sidecar in enumerate(self.sidecars):
            sidecar.cut()

            def see(record, loss=losses[who]):
                merge.see(record)
                loss.see(record)

            check_export(sidecar.export, watch=see)
        return merge, losses


def work(collection, chance: random.Random, tag: str) -> None:
    """One random write of a few shared documents."""
    _id, what = chance.randrange(12), chance.random()
    if what < 0.45:
        collection.update_one({"_id": _id}, {"$push": {"by": tag}}, upsert=True)
    elif what < 0.6:
        collection.delete_one({"_id": _id})
    elif what < 0.8:
        collection.find_one_and_update({"_id": _id}, {"$inc": {"n": 1}})
    else:
        collection.update_many({"_id": {"$lt": _id}}, {"$set": {"tag": tag}})


def test_the_primary_moves_and_moves_back(lab):
    """Six terms, each with writes at the primary and refused ones at the other; no number twice, the merge is the store."""
    pair, chance = Pair(lab), random.Random(7)
    for term in range(1, 7):
        who = (term + 1) % 2
        pair.elect(who, term)
        here, there = (pair.clients[n]["fail"]["over"] for n in (who, 1 - who))
        with pytest.raises(NotPrimaryError):
            there.insert_one({"_id": "never"})
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            work(here, chance, f"t{term}")
        eventually(lambda: pair.status(who)["log"]["epoch"] == term, 5, "the epoch is the term")
    assert all(m.refused for m in pair.members)
    merge, _ = pair.merged()
    merge.no_number_twice()
    assert {r[0] for records in merge.records.values() for r in records} == set(range(1, 7)), "each term has records"
    assert not difference(merge.documents(), dump(pair.store.client()))


def test_the_first_write_after_a_fail_over_has_the_new_epoch(lab):
    """Nobody waits for anything: the primary moves away, writes, moves back, and writes at once."""
    pair = Pair(lab)
    here, there = (c["fail"]["over"] for c in pair.clients)
    here.insert_one({"_id": 1, "n": 0})
    for term in range(2, 8):
        time.sleep(0.7)  # an election takes longer than half a second, the time between two looks
        pair.elect((term + 1) % 2, term)
        (here if term % 2 else there).update_one({"_id": 1}, {"$inc": {"n": 1}})
    merge, _ = pair.merged()
    merge.no_number_twice()
    (records,) = merge.records.values()
    updates = [r[0] for r in sorted(records) if r[4] == "update"]
    assert updates == [2, 3, 4, 5, 6, 7], sorted(r[:2] + r[4:] for r in records)
    assert not difference(merge.documents(), dump(pair.store.client()))


def test_what_is_rolled_back_was_never_exported(lab):
    """Writes that no majority has are in no window; the new term takes them back, and the log says so before windows go on."""
    pair = Pair(lab)
    here, there = (c["fail"]["over"] for c in pair.clients)
    here.insert_many({"_id": i, "v": "kept"} for i in range(10))
    eventually(lambda: pair.proved(0), 20, "all is proved")
    pair.members[0].hold_commit()
    here.update_many({"_id": {"$lt": 5}}, {"$set": {"v": "lost"}})
    here.insert_one({"_id": 100, "v": "lost"})
    here.delete_one({"_id": 9})
    eventually(lambda: "majority" in pair.status(0)["log"]["held"], 20, "the status says why windows wait")
    exported = pair.status(0)["export"]["closed_window"]
    # The other one is elected; it has none of this, and the old primary goes back to the common point.
    with pair.store.client() as client:
        past = client["fail"]["over"]
        past.update_many({"v": "lost", "_id": {"$lt": 5}}, {"$set": {"v": "kept"}})
        past.delete_one({"_id": 100})
        past.insert_one({"_id": 9, "v": "kept"})
    pair.members[0].commit = None
    pair.elect(1, 2)
    there.update_one({"_id": 0}, {"$set": {"v": "new"}})
    eventually(lambda: pair.proved(0) and pair.status(0)["export"]["closed_window"] > exported, 20, "windows go on")
    merge, losses = pair.merged()
    losses[0].judge()
    # One of the seven may have its new state already when it is read.
    assert losses[0].lost_changes in (6, 7) and losses[0].found["storeLoss"] == 7, (losses[0].lost_changes, losses[0].found)
    merge.no_number_twice()
    assert not difference(merge.documents(), dump(pair.store.client()))


def test_a_real_step_down(lab):
    """The store steps down and comes back by itself: clients try again, the log is the store, nothing needed correction."""
    store = lab.store()
    sidecar = lab.sidecar(store, config=WINDOWS)
    with sidecar.client() as client:
        collection = client["step"]["down"]
        collection.insert_one({"_id": 0, "n": 0})
        for _ in range(2):
            client.admin.command({"replSetStepDown": 2, "secondaryCatchUpPeriodSecs": 0, "force": True})
            done, end = 0, time.monotonic() + 30
            while done < 20 and time.monotonic() < end:
                try:
                    done += collection.update_one({"_id": 0}, {"$inc": {"n": 1}}).modified_count
                except PyMongoError:
                    time.sleep(0.05)
            assert done == 20
    sidecar.cut()
    losses = Losses()
    fold, _ = check_export(sidecar.export, watch=losses.see)
    assert losses.nodes == 1 and not losses.reverts
    assert not difference(fold.documents(), dump(store.client()))


def test_a_rollback_id_alone_is_noticed(lab):
    """The same process, the same term, no connection lost; only the counter of rollbacks is another: all is read again, and said."""
    pair = Pair(lab)
    here = pair.clients[0]["fail"]["over"]
    here.insert_many({"_id": i} for i in range(5))
    eventually(lambda: pair.proved(0), 20, "all is proved")
    pair.members[0].hold_commit()
    here.insert_one({"_id": 100})
    with pair.store.client() as client:
        client["fail"]["over"].delete_one({"_id": 100})
    pair.members[0].rbid += 1
    name = 'tidelog_node_changes_total{kind="rollback"}'
    eventually(lambda: pair.sidecars[0].metrics()[name] == 1, 30, "the rollback is noticed")
    pair.members[0].commit = None
    records = [json.loads(line) for line in pair.sidecars[0].log_records()]
    last = [r for r in records if r.get("control") == "node"][-1]
    assert (last["rbid"], last["term"]) == (2, 1), last
    assert [r["found"] for r in records if r.get("op") == "observed"] == ["storeLoss"]
    eventually(lambda: pair.proved(0), 20, "windows go on")


def test_a_correction_reads_each_document_once(lab):
    """Two documents with a thousand changes that nobody has proved, and another term: what is read again is the documents, not
    the changes."""
    pair = Pair(lab)
    here = pair.clients[0]["fail"]["over"]
    here.insert_many({"_id": i, "n": 0} for i in range(2))
    eventually(lambda: pair.proved(0), 20, "all is proved")
    pair.members[0].hold_commit()
    for n in range(1_000):
        here.update_one({"_id": n % 2}, {"$inc": {"n": 1}})
    read = pair.sidecars[0].metric("tidelog_verify_entities_total")
    checked = pair.sidecars[0].metric("tidelog_node_checked_total")
    pair.members[0].commit = None
    pair.members[0].become(True, 2)
    eventually(lambda: pair.sidecars[0].metrics().get('tidelog_node_changes_total{kind="term"}') == 1, 30, "the term is seen")
    assert pair.sidecars[0].metric("tidelog_node_checked_total") - checked >= 1_000
    assert 2 <= pair.sidecars[0].metric("tidelog_verify_entities_total") - read <= 10
    eventually(lambda: pair.proved(0), 20, "windows go on")


def test_two_elections_between_two_looks(lab):
    """There and back, faster than anybody looks: the sidecar sees the same primary two terms on, and counts in the new one."""
    pair = Pair(lab)
    here = pair.clients[0]["fail"]["over"]
    here.insert_one({"_id": 1})
    eventually(lambda: pair.proved(0), 20, "all is proved")
    pair.elect(1, 2)
    pair.elect(0, 3)
    eventually(lambda: pair.status(0)["log"]["epoch"] == 3, 10, "the new term is seen")
    here.insert_one({"_id": 2})
    records = [json.loads(line) for line in pair.sidecars[0].log_records()]
    assert [(r["epoch"], r["seq"]) for r in records if r.get("op") == "insert"] == [(1, 1), (3, 1)]
