"""Consumers: their checkpoints hold windows back, show how far they are behind, and bring a reader each window exactly once, whoever is killed."""

import concurrent.futures
import json
import os
import random
import sqlite3
import sys
import time
import urllib.error
import urllib.request

import pytest
from process import Process
from s3 import KEYS, S3, sink
from sidecar import ROOT, run_cli
from test_sinks import block, status_of, verdict
from waiting import eventually

KILLS = int(os.environ.get("TIDELOG_KILLS", 10))
SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))
QUICK = "[windows]\nsettle_ms = 50\nidle_ms = 100\n"
TINY = QUICK + "[export]\nkeep_bytes = 1\n"


def consumers(sidecar) -> dict[str, dict]:
    """`tidelog consumers list` by name."""
    return {row["name"]: row for row in json.loads(run_cli("consumers", "list", "--admin", sidecar.admin, "--json").stdout)}


def put(sidecar, name: str, query: str = "", body: dict | None = None) -> tuple[int, dict]:
    status, text = sidecar.http(f"/v1/consumers/{name}{query}", "PUT", body)
    return status, json.loads(text)


def fill(sidecar, count: int, start: int = 0) -> None:
    """So many windows, each with a few records."""
    with sidecar.client() as client:
        for n in range(start, start + count):
            client["shop"]["orders"].insert_many([{"_id": f"{n}-{i}", "n": i} for i in range(5)])
            client["shop"]["orders"].update_many({"n": {"$lt": 2}}, {"$inc": {"n": 10}})
            sidecar.cut(f"window {n}")


def folder_windows(folder) -> list[int]:
    """The windows of a folder: those that have a manifest."""
    return sorted(int(m.parent.name.removeprefix("window-")) for m in folder.glob("window-*/manifest.json") if "amend" not in m.parent.name)


class Folder:
    """Windows in the export folder."""

    def __init__(self, lab):
        self.name, self.config, self.env = "folder", TINY, {}

    def download(self, sidecar):
        return sidecar.export

    def rest(self) -> None:
        """What a killed process asked for has happened, or never will."""

    def latest(self, sidecar) -> dict:
        return json.loads((sidecar.export / "_latest.json").read_text())


class Bucket:
    """The same in a bucket; what is there is downloaded to be looked at."""

    def __init__(self, lab):
        self.s3 = S3(lab.folder / "s3")
        lab.running.append(self.s3)
        self.s3.start()
        self.s3.make("lake")
        self.name, self.env, self.lab, self.count = "lake", KEYS, lab, 0
        self.config = QUICK + sink(self.s3.endpoint, "s3://lake/orders", more="keep_bytes = 1")

    def download(self, sidecar):
        self.count += 1
        there = self.lab.folder / f"downloaded-{self.count}"
        client = self.s3.client()
        for key in self.s3.names("lake"):
            try:
                content = self.s3.read("lake", key)
            except client.exceptions.NoSuchKey:
                continue  # removed since it was listed
            file = there / key.removeprefix("orders/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return there

    def latest(self, sidecar) -> dict:
        return json.loads(self.s3.read("lake", "orders/_latest.json"))

    def rest(self) -> None:
        """The server still does what a killed process had sent it; nothing tells when it is done but that nothing changes."""
        def seen() -> tuple:
            return sorted(self.s3.names("lake")), self.latest(None)

        before = seen()
        while time.sleep(0.3) or seen() != before:
            before = seen()


@pytest.fixture(params=[Folder, Bucket], ids=["folder", "bucket"])
def place(request, lab):
    return request.param(lab)


def last_of(sidecar, name: str) -> int:
    return status_of(sidecar, name)["exported_window"]


def test_a_checkpoint_holds_windows_and_says_so(lab, place):
    """Lag moves; what is due is held and named; moving lets it go, so does dropping; all of that survives a restart."""
    sidecar = lab.sidecar(lab.store(), config=place.config, env=place.env)
    status, made = put(sidecar, "books", body={"sink": place.name, "note": "the ledger"})
    # The first window may be there already, and gone.
    begin = made["window"]
    assert status == 200 and begin <= 1, made
    fill(sidecar, 5)
    last = last_of(sidecar, place.name)
    row = consumers(sidecar)["books"]
    assert (row["window"], row["lag_windows"], row["sink"], row["note"]) == (begin, last - begin, place.name, "the ledger"), row
    records = sum(w["records"] for w in json.loads(sidecar.http("/v1/windows")[1]) if w["id"] > begin)
    assert row["lag_records"] == records and row["lag_ms"] > 0, row
    eventually(lambda: consumers(sidecar)["books"]["lag_ms"] > row["lag_ms"], 10, "the lag grows though nothing comes")
    held = eventually(lambda: (h := status_of(sidecar, place.name)["retained"]["held"]) and h["windows"] == last - begin - 1 and h, 20, "that it is held")
    assert held["first"] == begin + 1 and f"consumer books (done with {begin})" in held["by"], held
    status, text = sidecar.http("/readyz")
    assert status == 200 and f"warning: retention: {place.name}: " in text and "tidelog consumers drop books" in text, text
    shown = run_cli("status", "--admin", sidecar.admin).stdout
    assert "cannot be removed yet" in shown and f"held by consumer books (done with {begin})" in shown, shown
    lag = 'tidelog_consumer_lag_windows{consumer="books"}'
    samples = eventually(lambda: (m := sidecar.metrics()).get(lag) == last - begin and m, 20, "metrics")
    assert samples['tidelog_consumer_lag_records{consumer="books"}'] == records
    assert samples['tidelog_consumer_lag_seconds{consumer="books"}'] > 0
    assert samples[f'tidelog_windows_held{{sink="{place.name}"}}'] == last - begin - 1
    assert samples[f'tidelog_kept_bytes{{sink="{place.name}"}}'] > 0
    assert place.latest(sidecar)["first_window"] == begin + 1
    assert folder_windows(place.download(sidecar)) == list(range(begin + 1, last + 1))
    # It reads on: what it is done with goes, no more.
    run_cli("consumers", "set", "--admin", sidecar.admin, "books", "--window", "2")
    eventually(lambda: place.latest(sidecar)["first_window"] == 3, 20, "windows are gone")
    eventually(lambda: folder_windows(place.download(sidecar)) == list(range(3, last + 1)), 20, "their files too")
    assert put(sidecar, "books", "?window=1&back=true")[0] == 409, "window 2 is gone"
    # Killed and started: the checkpoint holds as before.
    sidecar.kill()
    sidecar.start()
    assert consumers(sidecar)["books"]["window"] == 2
    fill(sidecar, 1, 10)
    last = last_of(sidecar, place.name)
    held = eventually(lambda: status_of(sidecar, place.name)["retained"]["held"], 20, "that it is held again")
    assert held["first"] == 3 and folder_windows(place.download(sidecar)) == list(range(3, last + 1))
    here = place.download(sidecar)
    told = verdict(here)
    assert told["first_window"] == 3 and "begin with window 3" in run_cli("verify", here).stdout, told
    assert "dropped" in run_cli("consumers", "drop", "--admin", sidecar.admin, "books").stdout
    eventually(lambda: folder_windows(place.download(sidecar)) == [last_of(sidecar, place.name)], 20, "only the newest is left")
    assert not status_of(sidecar, place.name)["retained"]["held"] and "retention" not in sidecar.http("/readyz")[1]
    assert sidecar.metrics()[f'tidelog_windows_removed_total{{sink="{place.name}"}}'] > 0
    assert not any("consumer_lag" in name for name in sidecar.metrics())
    assert sidecar.stop() == 0
    here = place.download(sidecar)
    assert verdict(here)["windows"] == 1
    # What is missing though it is promised is found.
    (only,) = here.glob("window-*")
    only.rename(here / "window-0000000099")
    assert verdict(here, holds=False)["finding"]["kind"] == "window-missing"


def test_kills_while_windows_are_removed(lab, place):
    """kill -9 at random moments of removals: what is promised is whole before and after each start, and nothing is left over."""
    print(f"replay with TIDELOG_SEED={SEED} TIDELOG_KILLS={KILLS}")
    moments = random.Random(SEED)
    sidecar = lab.sidecar(lab.store(), config=place.config, env=place.env)
    for attempt in range(KILLS):
        put(sidecar, "dam", f"?sink={place.name}")
        fill(sidecar, 6, attempt * 10)
        eventually(lambda: status_of(sidecar, place.name)["retained"]["held"], 20, "windows are held")
        first = place.latest(sidecar)["first_window"]
        assert sidecar.http("/v1/consumers/dam", "DELETE")[0] == 200
        time.sleep(moments.choice([0.0, 0.01, 0.05]) * moments.random())
        sidecar.kill()
        place.rest()
        here, latest = place.download(sidecar), place.latest(sidecar)
        told = verdict(here)
        assert latest["first_window"] >= first and told["windows"] == latest["window"] - latest["first_window"] + 1, told
        sidecar.start()

        # At most one window was under way; it goes with its folder, and the rest after it. The start has a record of its own,
        # hence a window: what is looked at below is at rest only after it.
        def only_the_newest() -> bool:
            if status_of(sidecar, place.name)["lag_records"]:
                return False
            left = [w.name for w in place.download(sidecar).glob("window-*")]
            return left == [f"window-{place.latest(sidecar)['first_window']:010}"] == [f"window-{last_of(sidecar, place.name):010}"]

        eventually(only_the_newest, 60, "the rest is removed")
        here = place.download(sidecar)
        assert verdict(here)["finding"] is None
    assert sidecar.stop() == 0


class Reader:
    """The program of the page."""

    def __init__(self, lab, sidecar):
        page = (ROOT / "deploy/docs/consumers.md").read_text()
        self.lab, self.sidecar = lab, sidecar
        self.program, self.database = lab.folder / "consumer.py", lab.folder / "read.db"
        self.program.write_text(page.split("```python\n")[1].split("```")[0])
        self.process = None

    def start(self):
        argv = [sys.executable, str(self.program), self.sidecar.admin, "sqlite", str(self.sidecar.export), str(self.database)]
        self.process = Process(argv, self.lab.folder / "consumer.log", dict(os.environ))

    def kill(self):
        self.process.kill()


@pytest.mark.timeout(300 + KILLS * 20)
def test_the_page_s_consumer_gets_every_window_once(lab):
    """Killed and restarted at random, as is the sidecar, while windows are removed behind it: in the end it has the log, once."""
    print(f"replay with TIDELOG_SEED={SEED} TIDELOG_KILLS={KILLS}")
    moments = random.Random(SEED)
    sidecar = lab.sidecar(lab.store(), config=TINY)
    reader = Reader(lab, sidecar)
    lab.running.append(reader)
    put(sidecar, "sqlite", "?sink=folder")
    for attempt in range(KILLS):
        reader.start()
        fill(sidecar, 3, attempt * 10)
        time.sleep(0.3 * moments.random())
        reader.process.kill()
        if attempt == 1 or moments.random() < 0.3:
            sidecar.kill()
            sidecar.start()
    reader.start()
    fill(sidecar, 1, 5_000)
    eventually(lambda: consumers(sidecar)["sqlite"]["lag_windows"] == 0, 60, "the consumer is done with all")
    reader.process.kill()
    last = last_of(sidecar, "folder")
    assert last > 3 * KILLS
    eventually(lambda: folder_windows(sidecar.export) == [last_of(sidecar, "folder")], 20, "all that it is done with is removed")
    assert sidecar.stop() == 0
    records = [json.loads(line) for line in sidecar.log_records()]
    with sqlite3.connect(reader.database) as database:
        done = [window for (window,) in database.execute("SELECT window FROM done ORDER BY window")]
        lines = [json.loads(line) for (line,) in database.execute("SELECT line FROM records ORDER BY lsn")]
    assert done == list(range(1, done[-1] + 1)) and done[-1] >= last
    assert lines == records[: len(lines)] and len(lines) == lines[-1]["lsn"]


def test_a_reader_of_latest_and_one_of_the_long_poll(lab, place):
    """Each gets every window once, in order; one that retention overtook can see it."""
    absent = place.s3.client().exceptions.NoSuchKey if place.name == "lake" else FileNotFoundError
    sidecar = lab.sidecar(lab.store(), config=place.config.replace("keep_bytes = 1", "keep_bytes = 0"), env=place.env)
    seen, polled, end = [], [], 8

    def follow():
        while not seen or seen[-1] < end:
            try:
                latest = place.latest(sidecar)
            except absent:
                time.sleep(0.05)
                continue
            assert latest["first_window"] == 1
            at = seen[-1] if seen else 0
            for window in range(at + 1, latest["window"] + 1):
                where = f"window-{window:010}/manifest.json"
                raw = (sidecar.export / where).read_bytes() if place.name == "folder" else place.s3.read("lake", f"orders/{where}")
                assert json.loads(raw)["window"] == window
                seen.append(window)
            time.sleep(0.01)

    def poll():
        while not polled or polled[-1] < end:
            after = polled[-1] if polled else 0
            status, text = sidecar.http(f"/v1/windows?after={after}&sink={place.name}&wait_ms=20000")
            assert status == 200, text
            polled.extend(row["id"] for row in json.loads(text))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        readers = [pool.submit(follow), pool.submit(poll)]
        fill(sidecar, end)
        for reader in readers:
            reader.result(timeout=60)
    for ids in (seen, polled):
        assert ids == list(range(1, ids[-1] + 1)), ids
    assert sidecar.stop() == 0
    sidecar.config = place.config
    sidecar.start()
    sidecar.cut("the start is in a window")
    last = last_of(sidecar, place.name)
    eventually(lambda: place.latest(sidecar)["first_window"] == last, 20, "retention is faster than a reader who is not named")
    rows = json.loads(sidecar.http(f"/v1/windows?after=0&sink={place.name}")[1])
    assert [row["id"] for row in rows] == [last], "windows that are gone are not offered"


def test_dead_letters_hold_their_window(lab):
    """A window that lacks a record which may still come stays; dropped, it goes."""
    out = lab.folder / "small"
    config = QUICK + block("small", type="folder", dir=str(out), max_record_bytes=2000, keep_age_ms=1)
    sidecar = lab.sidecar(lab.store(), config=config)
    with sidecar.client() as client:
        sidecar.cut("before")
        client["d"]["c"].insert_one({"_id": 1, "text": "l" * 5000})
        sidecar.cut("large")
    fill(sidecar, 3)
    held = eventually(lambda: status_of(sidecar, "small")["retained"]["held"], 20, "that it is held")
    assert held["by"] == ["dead letters"] and "tidelog dlq" in held["remedies"][0], held
    first = held["first"]
    assert folder_windows(out)[0] == first and json.loads((out / f"window-{first:010}/manifest.json").read_text())["missing"]
    # By age alone nothing is too large: no warning.
    assert "retention" not in sidecar.http("/readyz")[1]
    run_cli("dlq", "drop", "--admin", sidecar.admin, "--all")
    eventually(lambda: len(folder_windows(out)) == 1, 20, "all but the newest are gone")
    assert len(folder_windows(sidecar.export)) > 4, "the other sink keeps its windows"
    assert sidecar.stop() == 0
    assert verdict(out)["first_window"] > first


def test_a_checkpoint_stands_where_it_can(lab):
    """What cannot be is refused with its reason; the same again changes nothing; a page in a browser can do nothing."""
    sidecar = lab.sidecar(lab.store(), config=QUICK)
    fill(sidecar, 4)
    last = last_of(sidecar, "folder")
    refused = [
        ("a%2Fb", "", 400, "a consumer's name"),
        ("Upper", "", 400, "a consumer's name"),
        ("a", "?window=soon", 400, "expected"),
        ("a", "?wndow=3", 400, "unknown field"),
        ("a", "?sink=moon", 404, "there is no sink `moon`"),
        ("a", f"?window={last + 1}", 409, f"window {last + 1} is not there yet: the last of the log is {last}"),
    ]
    for name, query, status, said in refused:
        found, text = sidecar.http(f"/v1/consumers/{name}{query}", "PUT")
        assert found == status and said in text, (query, found, text)
    assert consumers(sidecar) == {} and "no consumers" in run_cli("consumers", "list", "--admin", sidecar.admin).stdout
    assert put(sidecar, "a", "?window=2")[1]["window"] == 2
    row = put(sidecar, "a", "?window=2")[1]
    assert put(sidecar, "a", body={"window": 2})[1]["since"] == row["since"]
    assert put(sidecar, "a", body={"window": 1})[0] == 409 and put(sidecar, "a", "?back=true", {"window": 1})[1]["window"] == 1
    assert put(sidecar, "a", "?sink=folder")[0] == 409, "it reads the log"
    assert put(sidecar, "now", "?window=now")[1]["window"] == last_of(sidecar, "folder")
    ids = [w["id"] for w in json.loads(sidecar.http("/v1/windows?consumer=a")[1])]
    assert ids[0] == 2, ids
    assert sidecar.http("/v1/windows?consumer=nobody")[0] == 404 and sidecar.http("/v1/windows?consumer=a&after=1")[0] == 400
    assert sidecar.http("/v1/consumers/nobody", "DELETE")[0] == 404
    told = run_cli("consumers", "set", "--admin", sidecar.admin, "a", "--window", "1000", check=False)
    assert told.returncode == 1 and "is not there yet" in told.stderr, told.stderr
    shown = run_cli("consumers", "set", "--admin", sidecar.admin, "a", "--window", "now", "--note", "a & b").stdout
    assert "a is done with window" in shown and "0 windows behind" in shown, shown
    listed = run_cli("consumers", "list", "--admin", sidecar.admin).stdout
    assert "a & b" in listed and "2 consumers" in listed, listed
    request = urllib.request.Request(f"http://{sidecar.admin}/v1/consumers/a", method="DELETE", headers={"Origin": "http://x"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=30)
    assert "a" in consumers(sidecar)
    # A damaged file does not keep the sidecar from starting; it says so.
    assert sidecar.stop() == 0
    (sidecar.data / "consumers/a.json").write_text("{")
    sidecar.start()
    assert "set it anew or drop it" in run_cli("consumers", "list", "--admin", sidecar.admin).stdout
    assert sidecar.http("/v1/consumers/a", "DELETE")[0] == 200
    assert sidecar.stop() == 0


REFUSED = [
    ('[sinks.k]\ntype = "kafka"\nbrokers = "b:1"\nkeep_bytes = 5\n', "the topic's own `retention.ms`"),
    ('[sinks.w]\ntype = "webhook"\nurl = "http://h/"\nkeep_age_ms = 5\n', "for the receiver to remove"),
    ('[sinks.d]\ntype = "delta"\nurl = "file:///x"\nformat = "parquet"\nkeep_age_ms = 5\n', "VACUUM of the table"),
]


@pytest.mark.parametrize("text, said", REFUSED, ids=["kafka", "webhook", "delta"])
def test_sinks_that_keep_by_their_own_rules(tmp_path, text, said):
    """The settings are refused there, and say what to use instead."""
    file = tmp_path / "t.toml"
    file.write_text(text)
    done = run_cli("check", "--config", file, check=False)
    assert done.returncode == 2 and said in done.stdout + done.stderr, done.stderr


def test_the_page_s_settings_hold(tmp_path):
    page = (ROOT / "deploy/docs/consumers.md").read_text()
    file = tmp_path / "t.toml"
    file.write_text(page.split("```toml\n# consumers: what is kept\n")[1].split("```")[0])
    run_cli("check", "--config", file)
