"""Several sinks at once: each has its own form, namespaces, parts and beginning; each is proved by `tidelog verify` and against the folder."""

import hashlib
import json
import shutil

import duckdb
import pytest
import zstandard
from dump import dump
from judge import compare
from sidecar import ROOT, run_cli
from validator import check_export, windows_of
from waiting import eventually


def block(name: str, **settings) -> str:
    """A sink in the settings file."""
    written = {key: json.dumps(value) for key, value in settings.items()}
    return f"[sinks.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in written.items())


def verdict(folder, holds: bool = True) -> dict:
    """What `tidelog verify` says."""
    told = run_cli("verify", folder, "--json", check=False)
    assert (told.returncode == 0) == holds, told.stdout + told.stderr
    return json.loads(told.stdout)


def folders_of(folder) -> list:
    """The windows' folders, with whatever number they begin."""
    return sorted(folder.glob("window-*"))


def lines_of(folder, pattern: str = "*") -> list[bytes]:
    """All lines of a sink's windows, window by window."""
    found = []
    for window in folders_of(folder):
        for file in sorted(window.glob(f"records{pattern}")):
            raw = file.read_bytes()
            if file.suffix == ".zst":
                raw = zstandard.ZstdDecompressor().stream_reader(raw).read()
            found += raw.splitlines(keepends=True)
    return found


def status_of(sidecar, name: str) -> dict:
    """A sink's row of the status."""
    told = json.loads(sidecar.http("/v1/status")[1])
    return next(row for row in told["export"]["sinks"] if row["name"] == name)


def load(client, rounds: int = 3) -> None:
    """Inserts, updates, deletes, a transaction and a dropped collection, in two databases."""
    for n in range(rounds):
        for ns in (client["shop"]["orders"], client["shop"]["lines"], client["crm"]["people"]):
            ns.insert_many([{"_id": f"{n}-{i}", "n": i, "text": "x" * 50} for i in range(20)])
            ns.update_many({"n": {"$lt": 7}}, {"$inc": {"n": 100}})
            ns.delete_many({"n": {"$gt": 17, "$lt": 100}})
        client["shop"]["gone"].insert_one({"n": n})
        client["shop"]["gone"].drop()
        with client.start_session() as session, session.start_transaction():
            client["shop"]["orders"].insert_one({"_id": f"t{n}"}, session=session)
            client["crm"]["people"].insert_one({"_id": f"t{n}"}, session=session)


def part_of(record: dict, parts: int) -> int:
    """The part of a record, from the words of the docs."""
    if "key" not in record:
        return 0
    words = record["ns"].encode() + b"\0" + bytes.fromhex(record["key"])
    return int.from_bytes(hashlib.sha256(words).digest()[:8], "big") % parts


def test_sinks_side_by_side(lab):
    """Compressed, in parts, and a selection, beside the folder: the same records, each proved for itself."""
    out = lab.folder / "out"
    config = block("packed", type="folder", dir=str(out / "packed"), compression="zstd")
    config += block("parts", type="folder", dir=str(out / "parts"), parts=5, compression="zstd")
    config += block("crm", type="folder", dir=str(out / "crm"), namespaces=["crm.*"])
    config += block("rest", type="folder", dir=str(out / "rest"), exclude=["crm.*", "shop.lines"], parts=3)
    store = lab.store()
    sidecar = lab.sidecar(store, config=config)
    with sidecar.client() as client:
        load(client)
        sidecar.cut("one")
        load_more = client["shop"]["orders"].insert_one({"late": True})
        assert load_more.acknowledged
        sidecar.cut("two")
    names = ["folder", "packed", "parts", "crm", "rest"]
    rows = [status_of(sidecar, name) for name in names]
    assert all(row["state"] == "delivering" and row["lag_records"] == 0 for row in rows), rows
    metrics = sidecar.metrics()
    assert all(metrics[f'tidelog_windows_exported_total{{sink="{name}"}}'] >= 2 for name in names)
    assert sidecar.stop() == 0
    check_export(sidecar.export)
    plain = lines_of(sidecar.export)
    records = [json.loads(line) for line in plain]
    assert lines_of(out / "packed") == plain
    for number in range(5):
        mine = [line for line, record in zip(plain, records) if part_of(record, 5) == number]
        assert lines_of(out / "parts", f"-{number:04}-of-*") == mine, f"part {number}"
    assert all(verdict(out / name)["unread"] == 0 for name in names[1:])
    about = [record.get("ns") or record.get("db") or record.get("from") or "" for record in records]
    crm = [line for line, ns in zip(plain, about) if ns == "" or ns.split(".")[0] == "crm"]
    assert lines_of(out / "crm") == crm
    rest = [line for line, ns in zip(plain, about) if ns.split(".")[0] != "crm" and ns != "shop.lines"]
    assert sorted(lines_of(out / "rest")) == sorted(rest)
    told = {entry["ns"] for entry in verdict(out / "rest")["namespaces"]}
    assert "shop.orders" in told and "shop.lines" not in told and not any(ns.startswith("crm") for ns in told)
    manifest = json.loads((folders_of(out / "rest")[0] / "manifest.json").read_text())
    assert manifest["selection"] == {"namespaces": [], "exclude": ["crm.*", "shop.lines"]}
    assert manifest["form"] == {"format": "jsonl", "envelope": "tidelog", "compression": "none", "parts": 3}


@pytest.mark.parametrize("damage", ["a part swapped", "a byte of a frame", "a part gone"])
def test_damage_in_other_forms_is_found(lab, damage):
    """What `tidelog verify` finds in lines it finds in compressed parts too."""
    out = lab.folder / "parts"
    config = block("parts", type="folder", dir=str(out), parts=2, compression="zstd")
    sidecar = lab.sidecar(lab.store(), config=config)
    with sidecar.client() as client:
        client["d"]["c"].insert_many([{"n": n} for n in range(30)])
        sidecar.cut()
    assert sidecar.stop() == 0
    assert verdict(out)["finding"] is None
    first, second = sorted(folders_of(out)[0].glob("records-*"))
    if damage == "a part swapped":
        bytes_of = first.read_bytes(), second.read_bytes()
        first.write_bytes(bytes_of[1])
        second.write_bytes(bytes_of[0])
    elif damage == "a byte of a frame":
        raw = bytearray(first.read_bytes())
        raw[len(raw) // 2] ^= 0x55
        first.write_bytes(raw)
    else:
        second.unlink()
    assert verdict(out, holds=False)["finding"]["window"] == 1


def test_a_sink_comes_goes_and_comes_back(lab):
    """A new sink begins where its settings say; one that is taken out and put back goes on where it was; none moves another."""
    out = lab.folder / "out"
    store = lab.store()
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        load(client, 1)
        sidecar.cut("one")
        client["shop"]["orders"].update_many({}, {"$inc": {"n": 1}})
        sidecar.cut("two")
        client["shop"]["orders"].insert_one({"_id": "third"})
        sidecar.cut("three")
    assert sidecar.stop() == 0
    labels = {json.loads((w / "manifest.json").read_text())["label"]: w.name for w in windows_of(sidecar.export)}
    second = int(labels["two"].removeprefix("window-"))
    begin = {"all": "oldest", "late": second, "fresh": "now"}
    blocks = {name: block(name, type="folder", dir=str(out / name), start=start) for name, start in begin.items()}
    sidecar.config = "".join(blocks.values())
    sidecar.start()
    with sidecar.client() as client:
        client["shop"]["orders"].delete_many({"n": {"$gt": 100}})
        sidecar.cut("four")
    assert sidecar.stop() == 0
    # One of them is taken out while more happens, then put back; its beginning is told otherwise, which is not asked again.
    sidecar.config = blocks["all"] + blocks["fresh"]
    sidecar.start()
    with sidecar.client() as client:
        client["crm"]["people"].update_many({}, {"$set": {"seen": True}})
        sidecar.cut("five")
    assert sidecar.stop() == 0
    sidecar.config = blocks["all"] + blocks["late"].replace(f"start = {second}", 'start = "now"') + blocks["fresh"]
    sidecar.start()
    with sidecar.client() as client:
        client["crm"]["people"].delete_one({"_id": "t0"})
        sidecar.cut("six")
    with store.client() as direct:
        after = dump(direct)
    assert sidecar.stop() == 0
    fold, _ = check_export(sidecar.export)
    compare("the folder", fold, after)
    expected = {w.name: (w / "records.jsonl").read_bytes() for w in windows_of(sidecar.export)}
    for name in begin:
        found = {w.name: (w / "records.jsonl").read_bytes() for w in folders_of(out / name)}
        assert list(found) == list(expected)[-len(found):] and all(expected[w] == raw for w, raw in found.items()), name
        told = verdict(out / name)
        assert told["namespaces"] == verdict(sidecar.export)["namespaces"], name
    assert folders_of(out / "all")[0].name == "window-0000000001"
    assert folders_of(out / "late")[0].name == labels["two"]
    assert len(folders_of(out / "fresh")) < len(folders_of(out / "late"))
    # The first window of a late beginning cannot be taken away unseen.
    shutil.rmtree(folders_of(out / "late")[0])
    assert verdict(out / "late", holds=False)["finding"]["kind"] == "window-missing"


def test_a_sink_that_is_to_begin_later_waits_alone(lab):
    """`start` with a window that is not closed yet: the sink is stopped, says so, and begins by itself when it is."""
    out = lab.folder / "out"
    config = block("late", type="folder", dir=str(out), start=4) + "[export]\nretry_max_ms = 200\n"
    sidecar = lab.sidecar(lab.store(), config=config)
    with sidecar.client() as client:
        load(client, 1)
        eventually(lambda: len(windows_of(sidecar.export)) >= 1, 60, "the other sink has a window")
        eventually(lambda: "is to start with window 4" in sidecar.http("/readyz")[1], 30, "/readyz says why")
        assert sidecar.http("/readyz")[0] == 200 and not out.exists()
        for number in range(5):
            client["shop"]["orders"].insert_one({"_id": f"more {number}"})
            sidecar.http(f"/v1/cut?label={number}", "POST")
        eventually(lambda: len(folders_of(out)) >= 2, 60, "it has begun")
    sidecar.await_ready()
    sidecar.cut("end")
    assert folders_of(out)[0].name == "window-0000000004"
    assert [w.name for w in folders_of(out)] == [w.name for w in windows_of(sidecar.export)[3:]]
    verdict(out)


def test_a_sink_that_fails_holds_up_no_other(lab):
    """Its place is somebody else's: it stops alone and says so; mended, it goes on without a restart."""
    bad = lab.folder / "bad"
    bad.mkdir()
    (bad / "tidelog.json").write_text('{"log": "another"}\n')
    sidecar = lab.sidecar(lab.store(), config=block("bad", type="folder", dir=str(bad)), ready=False)
    with sidecar.client() as client:
        client["d"]["c"].insert_many([{"n": n} for n in range(10)])
        eventually(lambda: status_of(sidecar, "folder")["exported_window"] >= 1, 30, "a window in the folder")
        row = status_of(sidecar, "bad")
        assert row["state"] == "stopped" and "belongs to log another" in row["error"], row
        # Applications go on: a balancer must not take the node away from them because a sink fails.
        status, text = sidecar.http("/readyz")
        assert status == 200 and "warning: sink: bad: " in text, text
        shown = run_cli("status", "--admin", sidecar.admin).stdout
        assert "bad (folder) stopped" in shown and "choose another folder" in shown, shown
        (bad / "tidelog.json").unlink()
        eventually(lambda: status_of(sidecar, "bad")["state"] == "delivering", 60, "the sink delivering")
        sidecar.cut()
    assert sidecar.stop() == 0
    assert lines_of(bad) == lines_of(sidecar.export)


WRONG = [
    ('[sinks.lake]\ntype = "folder"\n', 'sinks.lake.dir: expected: a sink of type "folder" needs it'),
    ('[sinks.folder]\ntype = "folder"\ndir = "/x"\n', "the sink of `export.dir`"),
    ('[sinks.lake]\ntype = "folder"\ndir = "/x"\ntopic = "t"\n', 'a sink of type "folder" has no such setting'),
    ('[sinks.lake]\ntype = "folder"\ndir = "/x"\nparts = 0\n', "a whole number from 1 to 1024"),
    ('[sinks.lake]\ntype = "folder"\ndir = "/x"\nstart = "soon"\n', 'expected "oldest", "now" or the number of a window'),
    ('[sinks.lake]\ntype = "folder"\ndir = "/x"\nnamespaces = ["shop"]\n', "expected `db.collection` or `db.*`"),
    ('[sinks.lake]\ntype = "moon"\ndir = "/x"\n', "unknown variant `moon`"),
    ('[sinks.lake]\ntype = "delta"\nurl = "file:///x"\nformat = "parquet"\nenvelope = "debezium"\n', "a table has the columns of our own record"),
]


@pytest.mark.parametrize("text, said", WRONG)
def test_wrong_settings_are_told_with_their_place(tmp_path, text, said):
    """What is wrong with a sink is told by file, line and name."""
    file = tmp_path / "t.toml"
    file.write_text("# settings\n" + text)
    done = run_cli("check", "--config", file, check=False)
    told = done.stdout + done.stderr
    assert done.returncode != 0 and said in told and f"{file}:" in told, told


def test_the_page_runs(lab):
    """The settings of the page, and its SQL for parts."""
    page = (ROOT / "deploy" / "docs" / "sinks.md").read_text()
    config = page.split("```toml\n# sinks: side by side\n")[1].split("```")[0].replace("/srv/", f"{lab.folder}/srv-")
    sidecar = lab.sidecar(lab.store(), config=config)
    with sidecar.client() as client:
        load(client, 1)
        client["crm"]["sessions"].insert_one({"n": 1})
        sidecar.cut()
    assert sidecar.stop() == 0
    archive, crm = lab.folder / "srv-archive", lab.folder / "srv-crm"
    assert verdict(archive)["namespaces"] == verdict(sidecar.export)["namespaces"]
    told = {entry["ns"] for entry in verdict(crm)["namespaces"]}
    assert "crm.people" in told and "crm.sessions" not in told and not any(ns.startswith("shop") for ns in told)
    words = page.split("In DuckDB:\n  `")[1].split("`")[0]
    query = f"SELECT filename, {words} AS part FROM read_json(?, columns = {{ns: 'VARCHAR', key: 'VARCHAR'}}, filename = true) WHERE key IS NOT NULL"
    rows = duckdb.execute(query, [str(archive / "window-*" / "records-*.jsonl.zst")]).fetchall()
    assert rows and all(f"records-{part:04}-of-0004" in name for name, part in rows), rows[:5]
