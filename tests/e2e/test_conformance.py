"""One suite for all sinks: whatever is done to a sink, in the end it has exactly the windows, once, in order, bytes equal.

Each case runs for each type of sink (conformance.py says what each one is and how it fails). The oracle is the same for all: the
export folder beside it in the same run has the true windows, or, for other forms, a second folder of that form (`Trial.check`).
"""

import contextlib
import hashlib
import json

import pytest
from conformance import FAULTS, NAME, SINKS, Servers, block, windows_of
from pymongo.errors import PyMongoError
from s3 import folder_bytes
from sidecar import run_cli
from test_dlq import letters
from validator import check_export
from waiting import eventually

# Windows close at once, and a sink that fails is tried again at once.
QUICK = "[windows]\nsettle_ms = 10\nidle_ms = 50\n[store]\njournal_ms = 0\n[export]\nretry_max_ms = 300\n"
# No delivery of a small window has more steps.
MOST_STEPS = 80


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.close()


@pytest.fixture(params=SINKS)
def place(request, servers):
    place = servers.place(request.param)
    yield place
    place.close()


class Trial:
    """A store and a sidecar with the export folder, the tested sink and, if it has a form of its own, a folder of that form."""

    def __init__(self, lab, place, name: str = NAME, config: str = "", env: dict | None = None, **form):
        form = place.plain | form
        self.lab, self.place, self.name, self.form = lab, place, name, form
        self.twin = lab.folder / f"twin-{name}" if form else None
        self.beside = block(f"twin-{name}", type="folder", dir=str(self.twin), **form) if form else ""
        self.config = place.block(name, **form) + self.beside
        self.sidecar = lab.sidecar(lab.store(), config=QUICK + (config or self.config), env=env or place.env)
        self.written = 0

    def write(self, count: int = 3) -> None:
        """A window's worth of changes, of about a kilobyte each."""
        number, self.written = self.written, self.written + 1
        with self.sidecar.client() as client, self.unless_killed():
            documents = [{"_id": f"{number}-{n}", "text": f"{number}" * 300} for n in range(count)]
            client["one"]["c"].insert_many(documents)
            client["two"]["c"].insert_one(documents[0])

    @contextlib.contextmanager
    def unless_killed(self):
        try:
            yield
        except PyMongoError:
            assert not self.sidecar.process.alive()

    def row(self, name: str = "") -> dict:
        """What the sidecar tells of a sink."""
        status, text = self.sidecar.http("/v1/status")
        assert status == 200, text
        return next(row for row in json.loads(text)["export"]["sinks"] if row["name"] == (name or self.name))

    def delivered(self, name: str = "") -> bool:
        return self.row(name)["lag_records"] == 0

    def await_delivery(self, seconds: float = 60) -> None:
        eventually(lambda: self.delivered() and self.delivered("folder"), seconds, "all is delivered", 0.01)

    def killed(self) -> bool:
        """Waits until it was killed, or until it has delivered all."""

        def ended():
            if not self.sidecar.process.alive():
                return "killed"
            with contextlib.suppress(AssertionError, StopIteration):
                return "delivered" if self.delivered() else ""

        return eventually(ended, 60, "killed, or all delivered", 0.005) == "killed"

    def kill_at(self, step: int) -> None:
        self.place.spoil(step, "kill", lambda: self.sidecar.process.kill())

    def die_at(self, step: int) -> int:
        """Dies on the way of a fresh window: at this step, or if it has fewer, at one before; which one it was."""
        while True:
            self.kill_at(step)
            self.write()
            if self.killed():
                return step
            step -= 1

    def checkpoint(self) -> tuple[int, str]:
        """The window that the sink's checkpoint names, and the hash of its manifest."""
        told = json.loads((self.sidecar.data / "checkpoints" / self.name).read_text())
        return told["window"], told["manifest_sha256"]

    def true_windows(self) -> list:
        return windows_of(folder_bytes(self.twin or self.sidecar.export))

    def check_prefix(self) -> None:
        """What a reader sees at this moment are the first windows, whole; the folder may be behind. Temporary files are nobody's."""

        def seen(windows):
            whole = [w for w in windows if not w.amendment]
            return [w._replace(files={name: raw for name, raw in w.files.items() if not name.endswith(".tmp")}) for w in whole]

        found, expected = seen(self.place.windows()), seen(self.place.expected(self.true_windows()))
        assert [w.number for w in found] == list(range(1, len(found) + 1))
        for ours, theirs in zip(expected, found):
            assert ours == theirs

    def settle(self, first: int = 1) -> list:
        """All is delivered; then the reader has exactly the windows from `first` on, once, in order, bytes equal."""
        self.place.heal()
        self.sidecar.await_ready()
        self.sidecar.cut("end")
        assert {self.row(name)["state"] for name in (self.name, "folder")} == {"delivering"}
        assert " delivering" in next(line for line in run_cli("status", "--admin", self.sidecar.admin).stdout.splitlines() if f"{self.name} (" in line)
        assert self.sidecar.stop() == 0
        check_export(self.sidecar.export)
        run_cli("verify", self.sidecar.export)
        return self.check(first)

    def check(self, first: int = 1) -> list:
        expected = [w for w in self.place.expected(self.true_windows()) if w.number >= first]
        found = self.place.windows()
        assert [(w.number, w.amendment) for w in found] == [(w.number, w.amendment) for w in expected]
        assert [w.number for w in found if not w.amendment] == list(range(first, first + len([w for w in found if not w.amendment])))
        previous = None
        for ours, theirs in zip(expected, found):
            if first == 1:
                assert theirs.manifest == ours.manifest, f"the manifest of window {ours.number}.{ours.amendment}"
            else:
                # A late beginning has a chain of its own.
                chained = json.loads(ours.manifest) | {"previous_manifest_sha256": previous}
                assert json.loads(theirs.manifest) == chained
            previous = hashlib.sha256(theirs.manifest).hexdigest()
            assert theirs.files == ours.files, f"window {ours.number}.{ours.amendment}"
        last = [w for w in found if not w.amendment][-1]
        rest = self.place.rest()
        if rest is not None:
            beside = {name: content for name, content in folder_bytes(self.twin or self.sidecar.export).items() if "/" not in name}
            latest = [json.loads(files.pop("_latest.json")) for files in (beside, rest)]
            assert latest[1] == latest[0] | {"first_window": first, "manifest_sha256": hashlib.sha256(last.manifest).hexdigest()}
            assert rest == beside
        assert self.checkpoint() == (last.number, hashlib.sha256(last.manifest).hexdigest())
        return found


@pytest.mark.timeout(300)
def test_killed_at_each_step(lab, place):
    """kill -9 after the first, the second, the third … step of a window took effect, each window twice: on its first way to the sink,
    and on the way after the start. The last step is the one after which only the checkpoint is missing. At each death a reader sees
    the first windows, whole, and nothing else."""
    trial = Trial(lab, place)
    trial.write()
    trial.await_delivery()
    warm, cold, step = 0, 0, 0
    while not (warm and cold):
        step += 1
        assert step < MOST_STEPS
        died = trial.die_at(warm or step)
        warm = warm or (died if died < step else 0)
        trial.check_prefix()
        if not cold:
            trial.kill_at(step)
            trial.sidecar.spawn()
            if trial.killed():
                trial.check_prefix()
            else:
                cold = step - 1
                trial.sidecar.kill()
        trial.kill_at(0)
        trial.sidecar.start()
        trial.await_delivery()
        place.tend()
    print(f"{warm} steps of a window, {cold} with the opening")
    assert warm >= 2 and cold >= 2
    trial.settle()


@pytest.mark.timeout(300)
def test_each_step_spoilt(lab, place):
    """The first, the second, the third … step of a window fails once, in each way that the adapter knows; then the next window."""
    trial = Trial(lab, place)
    trial.write()
    trial.await_delivery()
    for how in place.spoils:
        for step in range(1, MOST_STEPS):
            place.spoil(step, how)
            trial.write()
            trial.await_delivery()
            if place.steps() < step:
                break
        assert step > 2, f"{how}: hardly a step was spoilt"
    place.spoil(0, "kill")
    trial.settle()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS)
def test_broken_for_a_while(lab, place, fault):
    """The sink fails until it heals; meanwhile the folder gets its windows, and people are told. Twice, the second time across a kill."""
    trial = Trial(lab, place)
    trial.write()
    trial.await_delivery()
    for kill in (False, True):
        place.fault(fault)
        for _ in range(3):
            trial.write()
            eventually(lambda: trial.delivered("folder"), 30, "the folder goes on", 0.01)
        if kill:
            trial.sidecar.kill()
            trial.sidecar.start(ready=False)
        if fault == "slow":
            trial.await_delivery()
        elif fault in place.untold:
            assert not trial.delivered()
        else:
            eventually(lambda: trial.row()["failures"] > 0 and trial.row()["error"], 60, "the failure is told")
            assert trial.row()["state"] in ("failing", "stopped") and not trial.delivered()
            assert f"warning: sink: {NAME}: " in trial.sidecar.http("/readyz")[1]
        place.heal()
        trial.await_delivery()
    trial.settle()


def test_delivered_again(lab, place):
    """The checkpoint is lost, or is an older one: all of it is delivered again, and nothing is there twice."""
    trial = Trial(lab, place)
    trial.write()
    trial.await_delivery()
    file = trial.sidecar.data / "checkpoints" / NAME
    older = file.read_bytes()
    for content in (None, older):
        trial.write()
        trial.await_delivery()
        trial.sidecar.kill()
        file.write_bytes(content) if content else file.unlink()
        trial.sidecar.start()
        trial.write()
        trial.await_delivery()
    trial.settle()


@pytest.mark.timeout(300)
def test_away_for_many_windows(lab, place):
    """The place is gone while 60 windows close, then it comes back. What waits is on disk: the sidecar's own memory does not grow by
    it. An hour's clock cannot be turned here; what an hour makes is the windows."""
    trial = Trial(lab, place)
    trial.write()
    trial.await_delivery()
    place.fault("gone")
    before = 0
    for number in range(60):
        with trial.sidecar.client() as client:
            client["away"]["c"].insert_one({"_id": number, "fill": f"{number:05}" * 50_000})
        eventually(lambda: trial.delivered("folder"), 30, "the folder goes on", 0.01)
        # The first ones fill what has a bound.
        before = memory(trial) if number == 19 else before
    grown = memory(trial) - before
    print(f"40 windows of 250 KB: the memory grew by {grown >> 10} KB")
    assert not trial.delivered() and trial.row()["failures"] > 0
    assert grown < 5 << 20
    place.heal()
    trial.await_delivery(120)
    assert len(trial.settle()) > 60


def memory(trial) -> int:
    """What the process has of its own, in bytes."""
    with open(f"/proc/{trial.sidecar.process.pid}/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:"))


def test_what_it_lacked_comes_later(lab, place):
    """Records that the sink's settings refuse are missing and told; when the settings change, a retry brings exactly them in an
    amendment, though the sidecar is killed after each step of its delivery, and though the windows go on."""
    trial = Trial(lab, place, max_record_bytes=2000)
    for number in range(3):
        with trial.sidecar.client() as client:
            client["one"]["large"].insert_many([{"_id": f"{number}-{n}", "fill": "x" * (5000 if n % 2 else 50)} for n in range(6)])
        trial.write()
        trial.await_delivery()
    waiting = [row["lsn"] for row in letters(trial.sidecar, "--sink", NAME)]
    assert len(waiting) == 9
    trial.sidecar.kill()
    trial.sidecar.config = trial.sidecar.config.replace("max_record_bytes = 2000", "max_record_bytes = 0")
    trial.sidecar.start()

    def open_letters(*lsns: int) -> list:
        return [row for row in letters(trial.sidecar) if row["state"] != "delivered" and (not lsns or row["lsn"] in lsns)]

    run_cli("dlq", "retry", "--admin", trial.sidecar.admin, "--sink", f"twin-{NAME}", str(waiting[0]))
    eventually(lambda: len(open_letters(waiting[0])) == 1, 30, "the folder's amendment")
    # Nothing else is on its way: the first step from now on is the amendment's.
    trial.sidecar.cut("quiet")
    trial.await_delivery()
    for step in range(1, MOST_STEPS):
        trial.kill_at(step)
        if step == 1:
            # The order itself is durable when it is answered.
            run_cli("dlq", "retry", "--admin", trial.sidecar.admin, "--sink", NAME, str(waiting[0]), check=False)
        else:
            trial.sidecar.spawn()
        if not eventually(lambda: not trial.sidecar.process.alive() or done(trial), 60, "killed, or delivered", 0.01) or trial.sidecar.process.alive():
            break
    assert step > 2, "hardly a step was reached"
    trial.kill_at(0)
    trial.sidecar.kill()
    trial.sidecar.start()
    run_cli("dlq", "retry", "--admin", trial.sidecar.admin)
    trial.write()
    eventually(lambda: not open_letters(), 30, "all amendments")
    found = trial.settle()
    assert [(w.number, w.amendment) for w in found if w.amendment].count((1, 2)) <= 1
    assert sum(json.loads(w.manifest)["records"] for w in found if w.amendment) == 9
    verdict = json.loads(run_cli("verify", trial.twin, "--json").stdout)
    assert (verdict["missing"], verdict["amended"]) == (0, 9)


def done(trial) -> bool:
    """Whether all windows are delivered, and all that was asked for."""
    with contextlib.suppress(AssertionError, StopIteration):
        asked = [row for row in letters(trial.sidecar, "--sink", NAME) if row["state"] == "asked"]
        return trial.delivered() and not asked
    return False


@pytest.mark.parametrize("number", range(4))
def test_forms(lab, place, number):
    """Each form that the sink takes, at a pace of its own: what a folder of that form has."""
    if number >= len(place.forms):
        pytest.skip(f"a sink of type {kind_of(place)} takes {len(place.forms)} forms beside the plain one")
    trial = Trial(lab, place, bytes_per_second=50_000, **place.forms[number])
    for _ in range(3):
        trial.write(40)
        with trial.sidecar.client() as client:
            client["two"]["c"].update_many({}, {"$inc": {"n": 1}})
            client["one"]["c"].delete_many({"_id": {"$regex": "-1$"}})
    trial.settle()


def kind_of(place) -> str:
    return next(kind for kind, cls in SINKS.items() if cls is type(place))


def test_comes_goes_and_comes_back(lab, servers, place):
    """Added, it begins where its settings say: with the first window, with that number, or now. Taken out, the others go on; put back, it
    goes on where it was, also when its settings say another beginning by then."""
    trial = Trial(lab, place)
    places = {"tested": place} | {name: servers.place(kind_of(place)) for name in ("late", "fresh")}

    def restart(**starts) -> None:
        """These sinks, and a window."""
        assert trial.sidecar.stop() == 0
        blocks = [places[name].block(name, start=start, **place.plain) for name, start in starts.items()]
        trial.sidecar.config = QUICK + trial.beside + "".join(blocks)
        trial.sidecar.env = {name: value for one in places.values() for name, value in one.env.items()}
        trial.sidecar.start()
        trial.write()
        trial.sidecar.cut("window")

    try:
        for _ in range(4):
            trial.write()
            trial.sidecar.cut("window")
        closed = len(trial.true_windows())
        restart(tested="oldest", late=3, fresh="now")
        restart(late=3)
        restart(tested="now", late="oldest", fresh="oldest")
        for name, first in (("late", 3), ("fresh", closed + 1)):
            trial.name, trial.place = name, places[name]
            trial.check(first)
        trial.name, trial.place = NAME, place
        trial.settle()
    finally:
        for name in ("late", "fresh"):
            places[name].close()


@pytest.mark.timeout(400)
def test_all_at_once(lab, servers):
    """A sink of each type in one sidecar, each with its own form, namespaces and pace; they break and heal in turns, two at a time,
    with a kill in between; each one has in the end what it should, and none waited for another."""
    places = {f"to-{kind}": servers.place(kind) for kind in SINKS}
    forms = {kind: place.plain | place.forms[-1 - number % 2] for number, (kind, place) in enumerate(places.items())}
    env = {name: value for place in places.values() for name, value in place.env.items()}
    first, *others = places
    try:
        config = "".join(
            places[kind].block(kind, **form) + block(f"twin-{kind}", type="folder", dir=str(lab.folder / f"twin-{kind}"), **form)
            for kind, form in forms.items()
        )
        trial = Trial(lab, places[first], first, config, env, **forms[first])
        trial.write()
        eventually(lambda: all(trial.delivered(kind) for kind in places), 60, "the first window everywhere")
        kinds = list(places)
        for number, kind in enumerate(kinds):
            broken = {kind, kinds[(number + 1) % len(kinds)]}
            for one in broken:
                places[one].fault("fails")
            for _ in range(2):
                trial.write()
                eventually(lambda: all(trial.delivered(one) for one in places if one not in broken), 60, "the others have it")
            assert not any(trial.delivered(one) for one in broken)
            if number == 1:
                trial.sidecar.kill()
                trial.sidecar.start(ready=False)
            for one in broken:
                places[one].heal()
            eventually(lambda: all(trial.delivered(one) for one in places), 60, "all have all")
        trial.settle()
        for kind in others:
            trial.name, trial.place, trial.twin = kind, places[kind], lab.folder / f"twin-{kind}"
            trial.check()
    finally:
        for place in places.values():
            place.close()
