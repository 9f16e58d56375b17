"""Windows as a stranger sees them: causes, labels, immutability, damage that the audit finds, and SQL over the lines."""

import json
import shutil

import duckdb
import pytest
from dump import dump
from judge import compare
from sidecar import run_cli
from validator import check_export, windows_of
from waiting import eventually


def damage(folder, what: str) -> None:
    """Changes an export as a bad disk or a bad person would."""
    second = windows_of(folder)[1]
    records, manifest = second / "records.jsonl", second / "manifest.json"
    if what == "a byte of a record":
        raw = records.read_bytes()
        records.write_bytes(raw.replace(b'"word":"two"', b'"word":"owt"', 1))
    elif what == "a record less":
        records.write_bytes(records.read_bytes().split(b"\n", 1)[1])
    elif what == "the file gone":
        records.unlink()
    elif what == "a manifest gone":
        manifest.unlink()
    elif what == "a window gone":
        shutil.rmtree(second)
    elif what == "a count":
        told = json.loads(manifest.read_text())
        told["last_lsn"] += 1
        manifest.write_text(json.dumps(told))
    elif what == "a fingerprint":
        text = manifest.read_text()
        told = json.loads(text)["namespaces"][0]["fingerprint"]
        manifest.write_text(text.replace(told, told[::-1]))


DAMAGES = ["a byte of a record", "a record less", "the file gone", "a manifest gone", "a window gone", "a count", "a fingerprint"]


def test_verify_finds_damage(lab):
    """Each damage is found by `tidelog verify` (exit 1, naming the window) and by the validator of this suite."""
    sidecar = lab.sidecar(lab.store())
    with sidecar.client() as client:
        for word in ("one", "two", "three"):
            client["v"]["c"].insert_many([{"word": word, "n": n} for n in range(3)])
            sidecar.cut(word)
    sidecar.stop()
    assert run_cli("verify", sidecar.export).returncode == 0
    for what in DAMAGES:
        copy = lab.folder / what.replace(" ", "-")
        shutil.copytree(sidecar.export, copy)
        damage(copy, what)
        verdict = run_cli("verify", copy, check=False)
        assert verdict.returncode == 1, f"{what}: not found\n{verdict.stdout}"
        assert "0000000002" in verdict.stdout + verdict.stderr or "window 2" in verdict.stdout + verdict.stderr or "window 3" in verdict.stdout + verdict.stderr, f"{what}: not named\n{verdict.stdout}{verdict.stderr}"
        with pytest.raises((AssertionError, OSError)):
            check_export(copy)


def test_marker_on_the_wire(lab, mode):
    """{tidelogCut: 1, label}: answered by the sidecar, closes a window with that label; the store never sees it."""
    sidecar = lab.sidecar(lab.store(mode))
    with sidecar.client() as client:
        client["mark"]["c"].insert_one({"_id": 1})
        reply = client["mark"].command({"tidelogCut": 1, "label": "month-end"})
        assert reply["ok"] == 1
        client["mark"]["c"].insert_one({"_id": 2})
        sidecar.cut("after")
    _, manifests = check_export(sidecar.export)
    marked = next(m for m in manifests if m["label"] == "month-end")
    after = next(m for m in manifests if m["label"] == "after")
    assert marked["cause"] == "cut" and marked["counts"]["mark.c"]["insert"] == after["counts"]["mark.c"]["insert"] == 1
    assert reply.get("window") in (None, marked["window"])


def test_export_again_gives_the_same_bytes(lab):
    """A window that is deleted at the sink before a restart, or half written, comes again byte by byte, or the loss is told."""
    sidecar = lab.sidecar(lab.store())
    with sidecar.client() as client:
        for number in range(3):
            client["again"]["c"].insert_one({"_id": number, "f": 1.5, "s": "é"})
            sidecar.cut(str(number))
    last = windows_of(sidecar.export)[-1]
    before = {p.name: p.read_bytes() for p in last.iterdir()}
    sidecar.kill()
    sidecar.start()
    assert {p.name: p.read_bytes() for p in last.iterdir()} == before
    run_cli("verify", sidecar.export)



def test_sql_over_the_lines(lab):
    """DuckDB reads the lines as they are: dense numbers, counts as in the manifests, each before the after before it."""
    sidecar = lab.sidecar(lab.store())
    with sidecar.client() as client:
        for part in range(3):
            client["sql"]["c"].insert_many([{"_id": f"{part}-{n}", "n": n} for n in range(50)])
            client["sql"]["c"].update_many({"n": {"$lt": 25}}, {"$inc": {"n": 100}})
            client["sql"]["c"].delete_many({"n": {"$gt": 110}})
            sidecar.cut()
    _, manifests = check_export(sidecar.export)
    told = {}
    for manifest in manifests:
        for op, n in manifest["counts"].get("sql.c", {}).items():
            told[op] = told.get(op, 0) + n
    sql = duckdb.connect()
    sql.execute(f"create view r as select * from read_json('{sidecar.export}/window-*/records.jsonl', union_by_name = true)")
    assert dict(sql.execute("select coalesce(op, control), count(*) from r where ns = 'sql.c' group by all").fetchall()) == told
    assert sql.execute("select max(lsn) = count(*) and min(lsn) = 1 from r").fetchone() == (True,)
    chain = """select count(*) from (select before_sha256 b, lag(after_sha256) over (partition by ns, key order by epoch, seq) a,
               seq from r where op is not null) where seq > 1 and b is distinct from a"""
    assert sql.execute(chain).fetchone() == (0,)


BOUNDS = {
    "count": "max_records = 10\nidle_ms = 600000\nmax_age_ms = 600000",
    "size": "max_bytes = 4096\nidle_ms = 600000\nmax_age_ms = 600000",
    "age": "max_age_ms = 800\nidle_ms = 600000",
    "idle": "max_age_ms = 600000\nidle_ms = 800",
}


@pytest.mark.parametrize("cause", list(BOUNDS))
def test_windows_close_by(lab, cause):
    """Each bound closes windows of its own accord, and they tell it as their cause."""
    sidecar = lab.sidecar(lab.store(), config=f"[windows]\nsettle_ms = 100\n{BOUNDS[cause]}\n")
    with sidecar.client() as client:
        for n in range(40):
            client["w"]["c"].insert_one({"_id": n, "s": "x" * 200})
    eventually(lambda: len(windows_of(sidecar.export)) >= 1, 20, f"a window closed by {cause}")
    _, manifests = check_export(sidecar.export)
    assert {m["cause"] for m in manifests} == {cause}
    if cause == "count":
        assert all(m["records"] <= 10 for m in manifests)


def test_sink_that_fails(lab):
    """The export folder cannot be written: writes go on, /readyz and the metric say so; then everything is delivered."""
    store = lab.store()
    sidecar = lab.sidecar(store, config="[windows]\nsettle_ms = 100\nidle_ms = 200\n")
    with sidecar.client() as client:
        client["s"]["c"].insert_one({"_id": 1})
        sidecar.cut()
        away = sidecar.export.with_name("away")
        sidecar.export.rename(away)
        sidecar.export.write_text("in the way")
        client["s"]["c"].insert_one({"_id": 2})
        eventually(lambda: sidecar.metric("tidelog_sink_failing") == 1, 20, "the sink is told as failing")
        assert "sink" in sidecar.http("/readyz")[1]
        client["s"]["c"].insert_one({"_id": 3})
        sidecar.export.unlink()
        away.rename(sidecar.export)
        eventually(lambda: sidecar.metric("tidelog_export_lag_records") == 0, 60, "everything is delivered")
    sidecar.await_ready()
    sidecar.cut()
    fold, _ = check_export(sidecar.export)
    compare("the windows", fold, dump(store.client()))


def test_damage_in_the_log(lab):
    """A torn tail is cut; damage elsewhere stops the sidecar with the segment and the offset."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        for n in range(50):
            client["d"]["c"].insert_one({"_id": n, "word": f"number-{n}-of-fifty"})
    sidecar.stop()
    (segment,) = sorted(sidecar.data.rglob("seg-*.tdl"))[-1:]
    whole = segment.read_bytes()
    segment.write_bytes(whole + b"\x99" * 100)
    sidecar.start()
    assert sidecar.metric("tidelog_log_cut_bytes_total") > 0
    sidecar.stop()
    after = segment.read_bytes()
    at = after.index(b"number-20-of-fifty")
    segment.write_bytes(after[:at] + b"NUMBER" + after[at + 6 :])
    with pytest.raises(RuntimeError) as error:
        sidecar.start(ready=False)
        sidecar.process.child.wait(20)
        sidecar.process.must_live()
    assert segment.name in str(error.value) and any(c.isdigit() for c in str(error.value).split(segment.name)[1]), error.value
    assert run_cli("log", sidecar.data, check=False).returncode == 1


MARKERS = """
[windows]
idle_ms = 600000
max_age_ms = 600000
settle_ms = 100

[markers.day]
namespace = "ops.events"
fields = { kind = "day-end", "run.n" = 2 }
label = "day {date} run {run.n}"

[markers.any]
namespace = "flags.*"
"""


def test_documents_that_close_windows(lab):
    """A document that comes to be as a marker says ends its window, with a label of its fields; once, and within no batch."""
    sidecar = lab.sidecar(lab.store(), config=MARKERS)
    with sidecar.client() as client:
        events, shop = client["ops"]["events"], client["shop"]["c"]
        shop.insert_many([{"_id": n} for n in range(5)])
        events.insert_one({"_id": 1, "kind": "day-end", "date": "2026-11-25", "run": {"n": 1}})
        shop.insert_one({"_id": "between"})
        events.update_one({"_id": 1}, {"$inc": {"run.n": 1}})
        eventually(lambda: len(windows_of(sidecar.export)) == 1, 30, "the first window")
        events.update_one({"_id": 1}, {"$set": {"more": True}})
        shop.insert_one({"_id": "after"})
        with client.start_session() as session, session.start_transaction():
            client["flags"]["f"].insert_one({"_id": "in a transaction"}, session=session)
            shop.insert_one({"_id": "behind it"}, session=session)
        eventually(lambda: len(windows_of(sidecar.export)) == 2, 30, "the second window")
        shop.insert_one({"_id": "open"})
    assert sidecar.stop() == 0
    sidecar.start()
    assert sidecar.stop() == 0
    check_export(sidecar.export)
    first, second = (json.loads((w / "manifest.json").read_text()) for w in windows_of(sidecar.export)[:2])
    assert (first["cause"], first["label"]) == ("marker", "day 2026-11-25 run 2") and first["counts"]["ops.events"] == {"opened": 1, "insert": 1, "update": 1}
    assert (second["cause"], second["label"]) == ("marker", "any")
    lines = [json.loads(line) for line in (windows_of(sidecar.export)[1] / "records.jsonl").read_text().splitlines()]
    assert lines[-1]["id"] == "behind it" and lines[-1]["txn"]["index"] == 2


def test_a_schedule_closes_windows(lab):
    """At the minute a window closes, in its zone, whatever else is set."""
    config = MARKERS.replace("[windows]", '[windows]\nschedule = "* * * * *"\ntime_zone = "Asia/Kolkata"')
    sidecar = lab.sidecar(lab.store(), config=config)
    with sidecar.client() as client:
        client["d"]["c"].insert_one({"_id": 1})
        eventually(lambda: len(windows_of(sidecar.export)) >= 1, 90, "a window")
    assert sidecar.stop() == 0
    manifests = [json.loads((w / "manifest.json").read_text()) for w in windows_of(sidecar.export)]
    assert all(m["cause"] == "schedule" and m["label"].endswith(":00+05:30") for m in manifests), manifests
    assert len({m["label"] for m in manifests}) == len(manifests)
    verdict = run_cli("verify", sidecar.export)
    assert verdict.returncode == 0
