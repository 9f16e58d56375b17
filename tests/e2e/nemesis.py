"""The adversary: a plan of random faults under a seed, carried out on one store, one sidecar and their clients.

A plan is made of the seed alone: the same seed gives the same faults with the same parameters in the same order; how the threads
interleave is the machine's. A fault is a generator: it does harm, yields how long that may last, and mends. Some faults overlap.

After each fault everything is mended and the clients must get on: a sidecar that ended although its disk was well, one that does
not become ready, or clients that make no progress are failures in themselves.
"""

import contextlib
import dataclasses
import datetime
import random
import signal
import time

from bad_world import CLOCK, DATA, EXPORT, FULL, SLOW, SYNC_FAILS, BadWorld
from pymongo.errors import PyMongoError
from shapes import COLD, HOT
from shim import Chance, Shim
from shim_log import ShimLog
from sidecar import run_cli
from store import free_port
from waiting import eventually
from workload import Workload, prepare

BYPASS, TTL = "bypassed", "ttl"
# How long a loaded machine may take to start a process, to make it ready, or to let clients get on, seconds.
START, PROGRESS = 120, 240
HOURS_NS = 3600 * 10**9
# How often each kind is drawn.
KINDS = {
    "kill_sidecar": 12, "kill_store": 8, "kill_both": 5, "end_sidecar": 4, "stop_sidecar": 4, "stop_store": 4, "cut_store_side": 8,
    "cut_client_side": 6, "cut_all": 4, "bypass": 6, "ttl": 2, "drop": 2, "rename": 2, "disk_full": 5, "sync_fails": 4, "slow_disk": 4,
    "sink_full": 3, "clock_jump": 5, "step_down": 4,
}
# What is mended first when faults overlap: a sidecar cannot start on a bad disk, nor become ready without its store.
FIRST = ("disk_full", "sync_fails", "slow_disk", "sink_full", "clock_jump", "stop_store", "kill_store", "kill_both")


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of the plan."""

    number: int
    kinds: tuple[str, ...]

    def __str__(self):
        return f"{self.number}: {' and '.join(self.kinds)}"


def plan(seed: str, count: int, without=()) -> list[Step]:
    """The faults of a seed. Every kind is there before any comes a third time more often than its weight says."""
    chance = random.Random(f"plan/{seed}")
    kinds = {k: w for k, w in KINDS.items() if k not in without}
    first = list(kinds)
    chance.shuffle(first)
    steps = []
    while len(steps) < count:
        kind = first.pop() if first else chance.choices(list(kinds), kinds.values())[0]
        several = (kind,)
        if chance.random() < 0.15:
            other = chance.choices(list(kinds), kinds.values())[0]
            several = (kind, other) if clear(kind) != clear(other) else several
        steps.append(Step(len(steps) + 1, several))
    return steps


def clear(kind: str) -> str:
    """What a fault is done to: two faults on one thing do not overlap."""
    if kind in ("disk_full", "sync_fails", "slow_disk", "sink_full"):
        return "disk"
    return "process" if kind.endswith(("_sidecar", "_store", "_both", "step_down")) else kind


class Nemesis:
    """One world and what is done to it."""

    def __init__(self, lab, mode: str, sync: bool, seed: str):
        self.seed, self.mode, self.sync = seed, mode, sync
        self.world = BadWorld(lab.folder / "tidelog")
        self.store = lab.store(mode, sync=sync)
        self.store.make_tables()
        self.behind = Shim(self.store.address, ShimLog(lab.folder / "shim-behind.log"), free_port())
        config = "[windows]\nmax_records = 400\nidle_ms = 500\n[capture]\nsecond_look_ms = 3000\ntransaction_lifetime_ms = 6000\n"
        addresses = {name: f"127.0.0.1:{free_port()}" for name in ("listen", "admin")}
        self.sidecar = lab.sidecar(self.behind.address, config=config, env=self.world.env(), **addresses)
        self.front = Shim(self.sidecar.listen, ShimLog(lab.folder / "shim-front.log"), free_port())
        self.store_died = False
        self.restarts, self.restarts_wanted = 0, 0
        prepare(self.sidecar.client())
        self._prepare()
        uri = f"mongodb://{self.front.address}/?directConnection=true"
        options = {"processes": 3, "threads": 3, "pause": 0.03, "forgetful": True}
        self.workload = Workload(lab.folder / "work", uri, int(seed.split("/")[0]), 10**9, **options)

    def _prepare(self) -> None:
        with self.sidecar.client() as client:
            client["e2e"][BYPASS].insert_many([{"_id": n, "n": 0} for n in range(40)])
            client["e2e"][TTL].create_index("at", expireAfterSeconds=0)
        self._settings()

    def _settings(self) -> None:
        """A transaction whose client lost its way to the end blocks others for as long as the store lets it."""
        with contextlib.suppress(PyMongoError), self.store.client() as client:
            client.admin.command({"setParameter": 1, "ttlMonitorSleepSecs": 1})
            client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 3})

    def carry_out(self, step: Step) -> None:
        """A step, and the way back to a sound world."""
        chance = random.Random(f"{self.seed}/{step.number}")
        order = sorted(step.kinds, key=lambda k: FIRST.index(k) if k in FIRST else len(FIRST))
        running = [(kind, getattr(self, kind)(chance)) for kind in order]
        time.sleep(max(next(fault, 0) for _, fault in running))
        for _, fault in running:
            for _ in fault:
                pass
        self._mend(step)

    def _mend(self, step: Step) -> None:
        """Everything lives and works again; what ended by itself had a reason."""
        self.world.heal_disk()
        self.behind.chance = self.front.chance = None
        if not self.sidecar.process.alive():
            disk = any(clear(kind) == "disk" for kind in step.kinds)
            assert disk, f"the sidecar ended by itself after {step}:\n{self.sidecar.process.output()[-3000:]}"
            self._start_sidecar()
        if self._wants_a_restart():
            self.restarts_wanted += 1
            self.sidecar.kill()
            self._start_sidecar()
        self.sidecar.await_ready(START)
        self._await_progress(step)

    def _wants_a_restart(self) -> bool:
        """After a bad disk the log or the index is stopped until a person restarts the sidecar; /readyz says so."""
        said = self.sidecar.http("/readyz")[1]
        return "changelog is poisoned" in said or "stopped after an earlier error" in said

    def _await_progress(self, step: Step) -> None:
        """The clients get on: acknowledgements, not only attempts."""
        before, deadline = self.workload.acks(), time.monotonic() + PROGRESS
        while self.workload.acks() < before + 10:
            assert time.monotonic() < deadline, f"clients make no progress after {step}:\n{self.sidecar.process.output()[-3000:]}"
            assert self.workload.running(), f"the clients ended: {self.workload.ended()}"
            time.sleep(0.05)

    def _start_sidecar(self) -> None:
        self.sidecar.start(ready=False)
        self.restarts += 1

    def _start_store(self) -> None:
        self.store.start()
        self.store_died = True
        self._settings()

    # --- processes

    def kill_sidecar(self, chance):
        time.sleep(chance.random() * 0.3)
        self.sidecar.kill()
        yield chance.choice([0, 0.1, 0.8])
        self._start_sidecar()

    def end_sidecar(self, chance):
        """The orderly way."""
        sick = any(self.world.get(what) for what in (SYNC_FAILS, FULL))
        assert self.sidecar.stop(START) == 0 or sick, self.sidecar.process.output()[-3000:]
        yield chance.choice([0, 0.5])
        self._start_sidecar()

    def kill_store(self, chance):
        time.sleep(chance.random() * 0.3)
        self.store.kill()
        yield chance.choice([0, 0.2, 1.5])
        self._start_store()

    def kill_both(self, chance):
        first, then = (self.store, self.sidecar) if chance.random() < 0.5 else (self.sidecar, self.store)
        first.kill()
        time.sleep(chance.choice([0, 0, 0.01, 0.1]))
        then.kill()
        yield chance.choice([0, 0.5])
        if chance.random() < 0.5:
            self._start_store()
            self._start_sidecar()
        else:  # it waits for the store before it lets clients in
            self.sidecar.spawn()
            time.sleep(chance.random())
            self._start_store()
            self.sidecar.await_addresses(ready=False)
            self.restarts += 1

    def stop_sidecar(self, chance):
        self.sidecar.process.signal(signal.SIGSTOP)
        yield chance.choice([0.05, 0.5, 2])
        self.sidecar.process.signal(signal.SIGCONT)

    def stop_store(self, chance):
        self.store.process.signal(signal.SIGSTOP)
        yield chance.choice([0.05, 0.5, 2])
        self.store.process.signal(signal.SIGCONT)

    def step_down(self, chance):
        """The node stops being primary for a second."""
        with contextlib.suppress(PyMongoError), self.store.client() as client:
            client.admin.command({"replSetStepDown": 1, "secondaryCatchUpPeriodSecs": 0, "force": True})
        yield 1.1 + chance.random() * 0.3

    # --- network

    def cut_store_side(self, chance):
        """Errors, cuts and delays at random messages between sidecar and store; sometimes of its own connection too."""
        self.behind.chance = Chance(f"{chance.random()}", chance.choice([0.02, 0.2]), own=chance.random() < 0.5)
        yield 0.3 + chance.random()
        self.behind.chance = None

    def cut_client_side(self, chance):
        self.front.chance = Chance(f"{chance.random()}", chance.choice([0.02, 0.2]), points=("before", "half", "after", "middle", "late"))
        yield 0.3 + chance.random()
        self.front.chance = None

    def cut_all(self, chance):
        chance.choice([self.behind, self.front]).cut_all(reset=chance.random() < 0.5)
        yield 0

    # --- other writers

    def bypass(self, chance):
        """Somebody writes straight into the store: into documents of its own and into those of everybody."""
        with contextlib.suppress(PyMongoError), self.store.client(serverSelectionTimeoutMS=2000) as client:
            for _ in range(chance.randrange(1, 12)):
                self._bypass_one(client["e2e"], chance)
        yield 0

    def _bypass_one(self, db, chance) -> None:
        _id = chance.randrange(60)
        if chance.random() < 0.3:
            found = next(db[chance.choice([HOT, COLD])].aggregate([{"$sample": {"size": 1}}]), None)
            if found:
                name = HOT if str(found["_id"]).startswith("h") else COLD
                db[name].update_one({"_id": found["_id"]}, {"$set": {"foreign": chance.random()}})
            return
        chance.choice([
            lambda: db[BYPASS].update_one({"_id": _id}, {"$inc": {"n": 1}}, upsert=True),
            lambda: db[BYPASS].replace_one({"_id": _id}, {"r": chance.random()}, upsert=True),
            lambda: db[BYPASS].delete_one({"_id": _id}),
        ])()

    def ttl(self, chance):
        """Documents that the store deletes by itself."""
        now = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=1)
        ids = [chance.randrange(1 << 30) for _ in range(4)]
        with contextlib.suppress(PyMongoError), self.sidecar.client(serverSelectionTimeoutMS=2000) as client:
            client["e2e"][TTL].insert_many([{"_id": i, "at": now} for i in ids])
        yield 1.5

    def drop(self, chance):
        with contextlib.suppress(PyMongoError), self.sidecar.client(serverSelectionTimeoutMS=2000) as client:
            client["e2e_other"].drop_collection("many")
        yield 0

    def rename(self, chance):
        command = {"renameCollection": "e2e_other.many", "to": f"e2e_other.many_{chance.randrange(3)}", "dropTarget": True}
        with contextlib.suppress(PyMongoError), self.sidecar.client(serverSelectionTimeoutMS=2000) as client:
            client.admin.command(command)
        yield 0

    # --- the machine

    def disk_full(self, chance):
        self.world.set(FULL, chance.choice([DATA, DATA | EXPORT]))
        yield 0.2 + chance.random()
        self.world.set(FULL, 0)

    def sink_full(self, chance):
        self.world.set(FULL, EXPORT)
        yield 0.5 + chance.random()
        self.world.set(FULL, 0)

    def sync_fails(self, chance):
        self.world.set(SYNC_FAILS, chance.choice([DATA, EXPORT]))
        yield 0.2 + chance.random() * 0.5
        self.world.set(SYNC_FAILS, 0)

    def slow_disk(self, chance):
        self.world.set(SLOW, chance.choice([20_000, 200_000, 700_000]))
        yield 1.0
        self.world.set(SLOW, 0)

    def clock_jump(self, chance):
        """The wall clock of the sidecar jumps, and stays there until the next jump."""
        self.world.set(CLOCK, int(chance.choice([0, -48, -1, -0.01, 0.01, 1, 30]) * HOURS_NS))
        yield 0.2

    def find_others(self) -> None:
        """What others wrote is found: on a replica set by the change stream alone, on a standalone by a comparison."""
        if self.mode == "standalone":
            for name in (BYPASS, TTL, HOT, COLD):
                eventually(lambda: self._same(f"e2e.{name}"), START, f"log and store agree on e2e.{name} once others have been found")

    def _same(self, ns: str) -> bool:
        """Compares and repairs; a second comparison then finds nothing, unless the store has deleted one more by itself."""
        return run_cli("reconcile", "--admin", self.sidecar.admin, "--namespace", ns, "--repair", check=False, timeout=600).returncode == 0

    def close(self) -> None:
        self.behind.close()
        self.front.close()
