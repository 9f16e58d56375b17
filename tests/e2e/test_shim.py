"""Each write shape of the workload through a real driver, at each point at which its way to the store can break: its retry ends
well, what it is told is what was done to it, and every oracle holds afterwards. Then the sidecar's own connection breaks.

TIDELOG_SEED replays a run; TIDELOG_SHIM=all runs every case instead of two fifths (a fifth on a standalone).
"""

import json
import os
import queue
import random
import threading
import time

import pytest
from dump import dump
from judge import compare, settle
from pymongo import DeleteOne, MongoClient, monitoring
from pymongo.errors import PyMongoError
from shapes import Client, load
from shim import CUTS, WRITES, Chance, Rule
from shim_world import CUT_POINTS, ERRORS, EXPECTED_ERRORS, LIFETIME, RETRY, SEED, WAITS, World, in_parallel
from sidecar import run_cli
from validator import fold_lines
from waiting import eventually
from worker import Diary, act
from workload import Diaries, Workload, prepare

# All cases, or (they are some thousands) as many as CI has time for, others with each seed.
EVERY = os.environ.get("TIDELOG_SHIM") == "all"
# The ends of a transaction: a driver sends them again whatever they are a part of.
ENDS = ("commitTransaction", "abortTransaction")


class Listener(monitoring.CommandListener):
    """Which commands of a client failed, and whether a driver may retry them."""

    def __init__(self):
        self.retryable: dict[int, bool] = {}
        self.lost: list[tuple[str, bool]] = []

    def started(self, event):
        ends = event.command_name in ENDS
        self.retryable[event.request_id] = "txnNumber" in event.command and (ends or "autocommit" not in event.command)

    def succeeded(self, event):
        self.retryable.pop(event.request_id, None)

    def failed(self, event):
        self.lost.append((event.command_name, self.retryable.pop(event.request_id, False)))


class Worker:
    """One application with retries on, whose commands are broken one at a time."""

    def __init__(self, world: World, folder, number: int):
        self.world, self.app = world, f"driver-{number}"
        self.listener = Listener()
        mongo = MongoClient(f"mongodb://{world.sidecar.listen}/", appname=self.app, heartbeatFrequencyMS=500, serverSelectionTimeoutMS=30000,
                            event_listeners=[self.listener])
        self.client = Client(mongo, SEED, number)
        self.client.bulk_write_supported = mongo.admin.command("hello")["maxWireVersion"] >= 25
        self.diary = Diary(f"{folder}/diary-{number}.jsonl")
        self.outcome: dict = {}
        self.fired = 0

    def run(self, name: str, function, rule: Rule | None) -> str:
        """One action under one fault; what is wrong with how it ended."""
        if rule:
            self._barrier()
        self.listener.lost.clear()
        if rule:
            rule.app = self.app
            self.world.shim.arm(rule)
        before, began = self.diary.last, time.monotonic()
        try:
            act(self.client, name, function, self.diary)
        finally:
            if rule:
                self.world.shim.disarm(rule)
        ended = self.diary.last
        assert ended is not before
        if not rule or not rule.fired:
            return "" if "ack" in ended or not rule else self._unasked(name, ended)
        self.fired += 1
        return self._judge(rule, ended, time.monotonic() - began)

    def _barrier(self) -> None:
        """A write that nobody waits for may have lost its connection after its action ended: the next is not to find that out."""
        for _ in range(5):
            try:
                self.client.client.admin.command("ping")
                return
            except PyMongoError:
                continue

    def _unasked(self, name: str, ended: dict) -> str:
        return "" if expected(ended) else f"failed without a fault: {ended}"

    def _judge(self, rule: Rule, ended: dict, took: float) -> str:
        if "ack" in ended:
            return ""
        if took >= LIFETIME and ended["code"] == 251 and ended["shape"].startswith("txn_"):
            return ""  # on a machine with much to do: the store ended the transaction before its commit was tried again
        # Drivers try nothing again where there is no replica set, commits neither.
        promised = self.world.mode == "replica" and (rule.point in CUTS or RETRY[0] in rule.labels)
        if promised and self.listener.lost and all(retryable for _, retryable in self.listener.lost):
            return f"the retry did not end well: {ended}"
        named = ended["code"] in (None, rule.code) or "BulkWrite" in ended["kind"]
        if not named and not expected(ended):
            return f"an error that nobody made: {ended}"
        return ""


def expected(ended: dict) -> bool:
    """The store says so without any fault: here and there by its nature, and in transactions that meet."""
    conflict = ended["shape"].startswith("txn_") and ended["code"] in (112, 251)
    return conflict or (ended["shape"], ended["kind"], ended["code"]) in EXPECTED_ERRORS


def rules(names: list[str]):
    """The faults for a shape that makes these messages."""
    for nth in range(1, min(len(names), 3) + 1):
        for point in CUT_POINTS:
            yield Rule(point, nth=nth)
    for commands, most in ((WRITES, 2), *((frozenset({end}), 1) for end in ENDS)):
        count = sum(name in commands for name in names)
        for nth in range(1, min(count, most) + 1):
            for point, code, labels in ERRORS:
                yield Rule(point, commands, nth, code=code, labels=labels)
        for point in WAITS if count else ():
            yield Rule(point, commands, seconds=0.2)
        for point in CUT_POINTS if count and commands != WRITES else ():
            yield Rule(point, commands)


@pytest.mark.timeout(900)
def test_each_shape_at_each_point(world, lab):
    """All write shapes of the workload, each of its messages, each fault; several clients at a time; then every oracle."""
    print(f"replay with TIDELOG_SEED={SEED}")
    prepare(world.sidecar.client())
    folder = lab.folder / "work"
    folder.mkdir()
    shapes = load()
    workers = [Worker(world, folder, n) for n in range(8)]
    idle: queue.SimpleQueue = queue.SimpleQueue()
    for worker in workers:
        for _ in range(3):
            for name in ("insert_one", "insert_many", "update_hot_upsert"):
                worker.run(name, shapes[name][1], None)
        idle.put(worker)
    cases = []
    for name, (_, function) in shapes.items():
        names = world.shim.watch(workers[0].app)
        workers[0].run(name, function, None)
        cases += [(name, function, rule) for rule in rules(names)]
    random.Random(SEED).shuffle(cases)
    if not EVERY:
        del cases[len(cases) * (2 if world.mode == "replica" else 1) // 5 :]

    def run(name: str, function, rule: Rule) -> str:
        worker = idle.get()
        try:
            return worker.run(name, function, rule)
        finally:
            idle.put(worker)

    named = [(f"{n}, {r.point} of {'/'.join(sorted(r.commands)[:1]) if r.commands else 'message'} {r.nth} {r.code if r.commands else ''} {r.labels}", run, (n, f, r)) for n, f, r in cases]
    wrong = in_parallel(named, len(workers))
    print(f"{len(cases)} cases, {sum(w.fired for w in workers)} faults met, {len(wrong)} wrong")
    settle(world.sidecar, world.store, Diaries(folder))
    assert not wrong, f"{len(wrong)} of {len(cases)} wrong:\n" + "\n".join(wrong[:40])



def test_frozen_writes(world):
    """A write that hangs holds up its own document and nothing else; its client gives up, its retry ends well after the thaw."""
    uri = f"mongodb://{world.sidecar.listen}/"
    with world.sidecar.client() as client:
        client["ice"]["c"].insert_many([{"_id": n, "n": 0} for n in range(4)])
    for at, point in enumerate(("freeze", "frozen")):
        rule = world.shim.arm(Rule(point, WRITES, app="cold"))
        with MongoClient(uri, appname="cold", socketTimeoutMS=1500) as cold, MongoClient(uri, appname="warm") as warm:
            stuck = threading.Thread(target=lambda: attempt(cold["ice"]["c"].update_one, {"_id": 0}, {"$inc": {"n": 1}}))
            stuck.start()
            eventually(lambda: rule.fired, 10, "the write is frozen")
            behind = threading.Thread(target=lambda: warm["ice"]["c"].update_one({"_id": 0}, {"$inc": {"n": 10}}))
            behind.start()
            for n in (1, 2, 3):
                warm["ice"]["c"].update_one({"_id": n}, {"$inc": {"n": 1}})
            stuck.join(2)
            world.shim.thaw()
            stuck.join(20)
            behind.join(20)
            assert not stuck.is_alive() and not behind.is_alive(), "a client hangs though the ice is gone"
            eventually(lambda: warm["ice"]["c"].find_one({"_id": 0})["n"] in (10 * (at + 1), 10 * (at + 1) + 1, 10 * (at + 1) + 2), 10, "both writes")
    assert [d["n"] for d in world.store.client()["ice"]["c"].find({"_id": {"$gt": 0}})] == [2, 2, 2]
    eventually(lambda: not differs(world), 20, "the log folds to the store", every=0.5)


def attempt(function, *arguments) -> None:
    """Runs it; a driver's error is one of the allowed ends."""
    try:
        function(*arguments)
    except PyMongoError:
        pass


def differs(world: World) -> bool:
    return fold_lines(world.sidecar.log_records()).documents() != dump(world.store.client())


def test_a_change_that_another_hides_has_its_record(world):
    """Between the sidecar's *before* and the client's write somebody writes past it, so that *after* is as *before*: the
    acknowledged write stands in the log all the same."""
    uri, past = f"mongodb://{world.sidecar.listen}/", world.store.client()["hidden"]["c"]
    with world.sidecar.client() as client:
        client["hidden"]["c"].insert_many([{"_id": n, "v": n} for n in range(4)])
    cases = [
        ("delete", lambda c: c.delete_one({"_id": 9}), lambda: past.insert_one({"_id": 9}), [(9, None)]),
        ("deletes", lambda c: c.bulk_write([DeleteOne({"_id": n}) for n in (0, 8)]), lambda: past.insert_one({"_id": 8}), [(0, None), (8, None)]),
        ("update", lambda c: c.update_one({"_id": 1}, {"$set": {"v": 1}}), lambda: past.update_one({"_id": 1}, {"$set": {"v": 0}}), [(1, 1)]),
        ("many", lambda c: c.update_many({"_id": {"$in": [2, 3]}}, {"$set": {"v": 3}}), lambda: past.update_one({"_id": 3}, {"$set": {"v": 0}}), [(2, 3), (3, 3)]),
    ]
    for name, write, between, _ in cases:
        app = f"hidden-{name}"
        rule = world.shim.arm(Rule("freeze", WRITES, app=app))
        with MongoClient(uri, appname=app) as client:
            writer = threading.Thread(target=write, args=(client["hidden"]["c"],))
            writer.start()
            eventually(lambda: rule.fired, 10, "the write is frozen")  # noqa: B023
            between()
            world.shim.thaw()
            writer.join(20)
            assert not writer.is_alive()
    records = world.sidecar.log_records()
    for name, _, _, expected in cases:
        changes = [json.loads(r) for r in records if f'"hidden-{name}"' in r]
        held = {int(c["id"]["$numberInt"]): c["after"] and int(c["after"]["v"]["$numberInt"]) for c in changes}
        assert held == dict(expected), (name, changes)
    compare("the log", fold_lines(records), dump(world.store.client()))
    world.sidecar.cut()
    run_cli("verify", world.sidecar.export)


def test_frozen_then_cut(world):
    """A write that hangs when all connections go: it was applied or it was not, and the log says which."""
    with world.sidecar.client() as client:
        client["ice"]["c"].insert_many([{"_id": n, "n": 0} for n in range(8)])
    for number, point in enumerate(("freeze", "frozen") * 3):
        rule = world.shim.arm(Rule(point, WRITES, app=f"cold-{number}"))
        with MongoClient(f"mongodb://{world.sidecar.listen}/", appname=f"cold-{number}") as cold:
            done: list = []
            add = lambda: done.append(cold["ice"]["c"].update_one({"_id": number}, {"$inc": {"n": 1}}).modified_count)  # noqa: E731
            stuck = threading.Thread(target=attempt, args=(add,))
            stuck.start()
            eventually(lambda: rule.fired, 10, "the write is frozen")
            world.shim.cut_all()
            world.shim.thaw()
            stuck.join(30)
            # Drivers retry on a replica set only.
            assert done == ([1] if world.mode == "replica" else []), "the driver's retry did not end well"
    applied = [1] * 6 if world.mode == "replica" else [0, 1] * 3
    assert [d["n"] for d in world.store.client()["ice"]["c"].find().sort("_id")] == applied + [0, 0]
    eventually(lambda: not differs(world), 20, "the log folds to the store", every=0.5)


def test_its_own_connection_breaks(world, lab):
    """The sidecar's own reads are cut, refused and held up, while clients break too, so that it needs them: no oracle suffers."""
    print(f"replay with TIDELOG_SEED={SEED}")
    prepare(world.sidecar.client())
    workload = Workload(lab.folder / "work", f"mongodb://{world.sidecar.listen}/?directConnection=true", SEED, 10**9, processes=2, pause=0.005)
    workload.await_progress(50)
    world.shim.chance = Chance(f"{SEED}", 0.03, own=True)
    chance = world.shim.chance
    eventually(lambda: chance.fired >= 25, 60, "enough faults")
    world.shim.chance = None
    workload.stop()
    diaries = workload.wait(120)
    print(f"{chance.fired} faults, {len(diaries.acks)} acknowledged, {len(diaries.errors)} errors")
    settle(world.sidecar, world.store, diaries)
