"""Windows as commits of a Delta table: read back by `deltalake` and DuckDB, each once, whoever else commits. What every sink owes is
in test_conformance.py."""

import hashlib
import json
import os
import pathlib
import random
import time

import pyarrow
import pytest
from delta import Table, s3_options, sink, windows_at
from deltalake import DeltaTable, write_deltalake
from fault_proxy import FaultProxy
from judge import settle
from mixed import write
from s3 import KEYS
from sidecar import run_cli
from test_dlq import letters, work
from test_object import page_block, row
from validator import check_export, windows_of
from waiting import eventually
from workload import Workload, prepare

KILLS = int(os.environ.get("TIDELOG_KILLS", 12))
SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))
QUICK = "[windows]\nsettle_ms = 100\nidle_ms = 200\n"
BY_HAND = "[windows]\nidle_ms = 600000\nmax_age_ms = 600000\n"


def lines_of(export: pathlib.Path) -> list[dict]:
    return [json.loads(line) for w in windows_of(export) for line in (w / "records.jsonl").open("rb")]


SAME = ["lsn", "key", "seq", "op", "control", "ns", "before_sha256", "after_sha256", "change_hash"]


def same(sidecar, table: Table, amended: bool = False) -> None:
    """The table holds the folder's records, each once; a commit for each window, with its transaction and its manifest."""
    lines = lines_of(sidecar.export)
    expected = [tuple(line.get(name) for name in SAME) for line in lines]
    rows = table.arrow(columns=SAME)
    assert list(zip(*(column.to_pylist() for column in rows.columns), strict=True)) == expected
    assert table.sql(f"select {', '.join(SAME)} from t order by lsn") == expected
    assert table.sql("select hlc::varchar from t order by lsn") == [(line["hlc"],) for line in lines]
    if table.s3 is None:
        assert table.scan(f"select {', '.join(SAME)} from t order by lsn") == expected
        assert table.scan("select lsn from t where lsn = 2") == [(2,)]
        proved(sidecar, table)
    if not amended:
        chain(sidecar, table)


def verified(table: Table, *, holds: bool = True) -> dict:
    """What `tidelog verify` says of a local table."""
    verdict = json.loads(run_cli("verify", table.url.removeprefix("file://"), "--json", check=False).stdout)
    assert (verdict["finding"] is None) == holds, verdict
    return verdict


def proved(sidecar, table: Table) -> dict:
    """`tidelog verify` proves of the table what it proves of the folder, gaps and fingerprints included."""
    plain, told = json.loads(run_cli("verify", sidecar.export, "--json").stdout), verified(table)
    for field in ("log", "windows", "last_lsn", "namespaces", "gaps"):
        assert told[field] == plain[field], field
    lacking = told["missing"] + told["amended"]
    assert told["records"] == plain["records"] - lacking and told["missing"] == told["unread"] == 0, told
    return told


def chain(sidecar, table: Table) -> None:
    """One commit a window; the manifests hang together; records, files and hashes are what they say."""
    folders, told = windows_of(sidecar.export), table.windows()
    found = windows_at(table.url, table.s3)
    log = json.loads((sidecar.export / "tidelog.json").read_text())["log"]
    assert [w["txn"]["version"] for w in told] == list(range(1, len(folders) + 1))
    assert len({w["txn"]["appId"] for w in told}) == 1 and told[0]["txn"]["appId"].startswith(f"tidelog:{log}:")
    previous = None
    for folder, commit in zip(folders, told, strict=True):
        plain = json.loads((folder / "manifest.json").read_text())
        raw = table.read(commit["about"]["manifest"])
        manifest = json.loads(raw)
        assert hashlib.sha256(raw).hexdigest() == commit["about"]["manifest_sha256"]
        assert manifest["previous_manifest_sha256"] == previous
        previous = commit["about"]["manifest_sha256"]
        for field in ("window", "first_lsn", "last_lsn", "label", "records", "counts", "namespaces", "gaps", "first_wall", "last_hlc"):
            assert manifest[field] == plain[field], field
        assert [commit["about"][f] for f in ("window", "first_lsn", "last_lsn", "label")] == [plain[f] for f in ("window", "first_lsn", "last_lsn", "label")]
        assert len(manifest["files"]) == len(commit["adds"])
        for file, add in zip(manifest["files"], commit["adds"], strict=True):
            assert add["path"] == f"{commit['about']['folder']}/{file['name']}" and add["size"] == file["bytes"]
            assert json.loads(add["stats"])["numRecords"] == file["records"]
            assert hashlib.sha256(table.read(add["path"])).hexdigest() == file["sha256"]
    assert [numbers for numbers, _ in found] == [[json.loads(x)["lsn"] for x in (w / "records.jsonl").open("rb")] for w in folders]


def delivered(sidecar, name: str = "table") -> None:
    """Everything that the folder has is in the table."""
    last = len(windows_of(sidecar.export))
    eventually(lambda: row(sidecar, name)["exported_window"] >= last, 120, f"all windows in {name}: {row(sidecar, name)}")


def checkpoint_of(sidecar, name: str = "table") -> pathlib.Path:
    (found,) = sidecar.data.glob(f"checkpoints/*{name}*")
    return found


def test_the_page_s_block_runs(lab):
    """The block of sinks-delta.md, with a folder of this test: all types, large documents, parts, compression, bounds of files."""
    folder = lab.folder / "tables" / "orders"
    config = BY_HAND + page_block("sinks-delta.md", "A folder").replace("/srv/lake/orders", str(folder))
    assert f"file://{folder}" in config and "parts = 2" in config
    sidecar = lab.sidecar(lab.store(), config=config)
    with sidecar.client() as client:
        write(client)
        sidecar.cut("first")
        write(client, "more", large=False)
        sidecar.cut("second \"quoted\"")
        sidecar.cut("nothing")
    delivered(sidecar, "orders")
    table = Table(f"file://{folder}")
    same(sidecar, table)
    check_export(sidecar.export)
    opened = table.open()
    assert (opened.protocol().min_reader_version, opened.protocol().min_writer_version) == (1, 2)
    history = opened.history()
    assert [h["operation"] for h in history] == ["WRITE"] * len(windows_of(sidecar.export)) + ["CREATE TABLE"]
    assert "second \"quoted\"" in [json.loads(h["userMetadata"])["label"] for h in history if "userMetadata" in h]
    check_bounds(table)


def check_bounds(table: Table) -> None:
    """Bounds of files: what `deltalake` makes of them holds for the rows."""
    actions = pyarrow.table(table.open().get_add_actions(flatten=True)).to_pylist()
    assert len(actions) > 2 and sum(a["num_records"] for a in actions) == table.arrow(["lsn"]).num_rows
    proved = 0
    for action in actions:
        with table.files.open_input_file(action["path"]) as file:
            rows = pyarrow.parquet.read_table(file, columns=["lsn", "wall", "ns", "key"]).to_pydict()
        for name, values in rows.items():
            there = [v for v in values if v is not None]
            assert action[f"null_count.{name}"] == len(values) - len(there)
            if not there:
                continue
            least, most = action[f"min.{name}"], action[f"max.{name}"]
            assert least <= min(there) and most >= max(there), (name, least, most, min(there), max(there))
            if name in ("lsn", "wall"):
                assert (least, most) == (min(there), max(there))
            proved += 1
    assert proved > 8
    # A filter leaves all other files unread, and finds the row.
    for lsn in (1, table.arrow(["lsn"]).num_rows):
        dataset = table.open().to_pyarrow_dataset()
        files = list(dataset.get_fragments(filter=pyarrow.compute.field("lsn") == lsn))
        assert len(files) < len(actions)
        assert dataset.to_table(columns=["lsn"], filter=pyarrow.compute.field("lsn") == lsn).num_rows == 1


@pytest.mark.timeout(600 + KILLS * 20)
@pytest.mark.parametrize("where", ["folder", "s3"])
def test_kills(lab, where, request):
    """kill -9 at random moments under load, at some of them the checkpoint is lost too: nothing twice, nothing missing."""
    print(f"replay with TIDELOG_SEED={SEED} TIDELOG_KILLS={KILLS}")
    moments, config, env, proxy = random.Random(SEED), "[windows]\nmax_records = 50\nsettle_ms = 100\n", {}, None
    if where == "s3":
        s3 = request.getfixturevalue("s3")
        proxy = FaultProxy(s3.endpoint)
        table, env = Table("s3://lake/orders", s3), KEYS
        config += sink(table.url, more=s3_options(proxy.endpoint))
    else:
        table = Table(f"file://{lab.folder}/orders")
        config += sink(table.url)
    store = lab.store()
    sidecar = lab.sidecar(store, config=config, env=env)
    prepare(sidecar.client())
    workload = Workload(lab.folder / "work", f"mongodb://{sidecar.listen}/", SEED, 10**9, processes=2, pause=0.01)
    for kill in range(KILLS):
        workload.await_progress(30)
        if proxy and moments.random() < 0.6:
            goal = len(proxy.seen) + moments.randrange(1, 12)
            deadline = time.monotonic() + 20
            while len(proxy.seen) < goal and time.monotonic() < deadline:
                time.sleep(0.001)
        else:
            time.sleep(moments.choice([0.02, 0.2, 0.6]) * moments.random())
        sidecar.kill()
        if kill % 4 == 3:
            for lost in sidecar.data.glob("checkpoints/*table*"):
                lost.unlink()
        sidecar.start(ready=moments.random() < 0.7)
    workload.stop()
    diaries = workload.wait(120)
    settle(sidecar, store, diaries)
    delivered(sidecar)
    same(sidecar, table)
    assert len(windows_of(sidecar.export)) > KILLS // 2
    if proxy:
        proxy.close()


def test_a_window_that_differs(lab):
    """The checkpoint is lost, and the manifest of a window was changed meanwhile: the sink stops there; put right, it goes on."""
    table = Table(f"file://{lab.folder}/orders")
    sidecar = lab.sidecar(lab.store(), config=BY_HAND + sink(table.url))
    with sidecar.client() as client:
        for n in range(4):
            client["d"]["c"].insert_one({"_id": n})
            sidecar.cut()
    delivered(sidecar)
    before = table.commits()
    sidecar.kill()
    checkpoint_of(sidecar).unlink()
    path = pathlib.Path(table.url.removeprefix("file://")) / "_tidelog/window-0000000002.manifest.json"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"window": 2', b'"window": 9'))
    sidecar.start(ready=False)
    eventually(lambda: row(sidecar, "table")["state"] == "stopped", 30, "the sink stops")
    assert path.name in row(sidecar, "table")["error"] and table.commits() == before
    path.write_bytes(good)
    delivered(sidecar)
    assert table.commits() == before
    same(sidecar, table)


def test_places_that_are_refused(lab):
    """Another program's table, another log's, one that lost windows, one that asks for more: told, and left as they are."""
    ours = Table(f"file://{lab.folder}/ours")
    theirs = Table(f"file://{lab.folder}/theirs")
    write_deltalake(theirs.url, pyarrow.table({"lsn": pyarrow.array([1, 2], pyarrow.int64())}))
    store = lab.store()
    config = BY_HAND + sink(ours.url) + sink(theirs.url, "wrong")
    sidecar = lab.sidecar(store, config=config, ready=False)
    eventually(lambda: row(sidecar, "wrong")["state"] == "stopped", 30, "a stranger's table is noticed")
    assert "choose another `url`" in row(sidecar, "wrong")["error"] and "somebody else" in row(sidecar, "wrong")["error"]
    assert len(theirs.commits()) == 1 and theirs.open().to_pyarrow_table().num_rows == 2
    with sidecar.client() as client:
        for n in range(2):
            client["d"]["c"].insert_one({"_id": n})
            # It waits for all sinks, and says that one has stopped.
            assert "choose another `url`" in run_cli("cut", "--admin", sidecar.admin, check=False).stderr
    delivered(sidecar)
    other = lab.sidecar(sidecar.upstream, name="other", config=BY_HAND + sink(ours.url), ready=False)
    eventually(lambda: row(other, "table")["state"] == "stopped", 30, "another log's table is noticed")
    assert "holds data of tidelog:" in row(other, "table")["error"]
    other.kill()
    # The newest window is taken away, as a table restored from an older copy has it.
    sidecar.kill()
    newest = pathlib.Path(ours.url.removeprefix("file://")) / "_delta_log" / f"{2:020}.json"
    kept = newest.read_bytes()
    newest.unlink()
    sidecar.start(ready=False)
    eventually(lambda: row(sidecar, "table")["state"] == "stopped", 30, "windows that are gone are noticed")
    assert "the table has windows up to 1, but 2 was delivered" in row(sidecar, "table")["error"]
    newest.write_bytes(kept)
    run_cli("cut", "--admin", sidecar.admin, check=False)
    eventually(lambda: row(sidecar, "table")["exported_window"] == 3, 60, "it goes on when it was put right")
    same(sidecar, ours)


def test_other_people_s_commits(lab):
    """Checkpoints, OPTIMIZE, VACUUM, a row of somebody else, in between and while windows arrive: ours are all there, once."""
    table = Table(f"file://{lab.folder}/orders")
    sidecar = lab.sidecar(lab.store(), config=QUICK + sink(table.url))
    with sidecar.client() as client:
        for n in range(12):
            client["o"]["c"].insert_many([{"n": n, "i": i} for i in range(30)])
            before = row(sidecar, "table")["exported_window"] or 0
            eventually(lambda: (row(sidecar, "table")["exported_window"] or 0) > before, 60, "a window")
            act(table, n)
            if n % 4 == 3:
                # Read anew: from a checkpoint and what came after it.
                sidecar.kill()
                if n == 7:
                    checkpoint_of(sidecar).unlink()
                sidecar.start()
        sidecar.cut("end")
    delivered(sidecar)
    # How far we are stands in somebody else's checkpoint alone, and our own is lost.
    sidecar.kill()
    checkpoint_of(sidecar).unlink()
    table.open().create_checkpoint()
    before = len(table.windows())
    sidecar.start()
    sidecar.cut("after the start")
    delivered(sidecar)
    assert [w["txn"]["version"] for w in table.windows()][:before] == list(range(1, before + 1))
    same(sidecar, table, amended=True)
    operations = [h["operation"] for h in table.open().history()]
    assert operations.count("OPTIMIZE") >= 2 and "VACUUM END" in operations, operations
    told = table.windows()
    assert all(hashlib.sha256(table.read(w["about"]["manifest"])).hexdigest() == w["about"]["manifest_sha256"] for w in told)
    versions = [w["txn"]["version"] for w in told]
    assert versions == list(range(1, len(windows_of(sidecar.export)) + 1))


def act(table: Table, n: int) -> None:
    """What people do with tables."""
    opened = table.open()
    match n % 4:
        case 0:
            opened.optimize.compact()
        case 1:
            opened.create_checkpoint()
        case 2:
            opened.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
        case 3:
            opened.optimize.z_order(["lsn"])


def test_a_table_made_by_somebody_else(lab):
    """An empty table with our columns, and more of its own, is taken; what it lacks is added."""
    table = Table(f"file://{lab.folder}/orders")
    fields = [("lsn", pyarrow.int64()), ("log", pyarrow.string()), ("mine", pyarrow.string())]
    DeltaTable.create(table.url, pyarrow.schema(fields), name="orders", configuration={"delta.logRetentionDuration": "interval 60 days"})
    sidecar = lab.sidecar(lab.store(), config=BY_HAND + sink(table.url))
    with sidecar.client() as client:
        client["d"]["c"].insert_one({"_id": 1})
        sidecar.cut()
    delivered(sidecar)
    same(sidecar, table)
    opened = table.open()
    assert opened.metadata().name == "orders" and "delta.logRetentionDuration" in opened.metadata().configuration
    names = [field.name for field in opened.schema().fields]
    assert names[:3] == ["lsn", "log", "mine"] and {"wall", "after_bson", "schema_version"} <= set(names)
    assert table.sql("select count(mine) from t") == [(0,)]


def test_settings_that_change(lab):
    """Parts, compression and `bson` may change between windows: the schema stays, all rows are there; what is delivered again is known."""
    table = Table(f"file://{lab.folder}/orders")
    sidecar = lab.sidecar(lab.store(), config=BY_HAND + sink(table.url))
    for more in ("", "bson = true\nparts = 3\n", 'compression = "zstd"\n'):
        sidecar.kill()
        sidecar.config = BY_HAND + sink(table.url, more=more)
        sidecar.start()
        with sidecar.client() as client:
            client["d"]["c"].insert_many([{"more": more, "n": n} for n in range(50)])
            sidecar.cut()
    delivered(sidecar)
    same(sidecar, table)
    assert [len(w["adds"]) for w in table.windows()] == [1, 3, 1]
    assert sum("metaData" in action for commit in table.commits() for action in commit) == 1
    assert table.scan("select count(after_bson) from t where after is not null") == [(50,)]


def test_amendments(lab):
    """Records that were refused come later, as a commit with a transaction of its own; asked for again, nothing is doubled."""
    table = Table(f"file://{lab.folder}/orders")
    config = BY_HAND + sink(table.url, more="max_record_bytes = 2000")
    sidecar = lab.sidecar(lab.store(), config=config)
    with sidecar.client() as client:
        work(client)
        sidecar.cut("one")
        client["shop"]["orders"].insert_one({"_id": "again", "text": "l" * 3000})
        sidecar.cut("two")
    delivered(sidecar)
    waiting = {letter["lsn"] for letter in letters(sidecar)}
    assert len(waiting) == 5
    assert {n for (n,) in table.sql("select lsn from t")} == {line["lsn"] for line in lines_of(sidecar.export)} - waiting
    sidecar.kill()
    sidecar.config = config.replace("2000", "0")
    sidecar.start()
    run_cli("dlq", "retry", "--admin", sidecar.admin, str(min(waiting)))
    sidecar.kill()
    sidecar.start()
    run_cli("dlq", "retry", "--admin", sidecar.admin, check=False)
    eventually(lambda: all(letter["state"] == "delivered" for letter in letters(sidecar)), 60, "the amendments")
    same(sidecar, table, amended=True)
    told = [w for w in table.windows() if w["about"]["amendment"] is not None]
    assert len(told) >= 2 and len({(w["txn"]["appId"], w["txn"]["version"]) for w in told}) == len(told)
    for commit in told:
        about = commit["about"]
        assert commit["txn"]["appId"].endswith(f":table:amendments:{about['window']}") and commit["txn"]["version"] == about["amendment"]
        assert about["manifest"] == f"_tidelog/window-{about['window']:010}.amendment-{about['amendment']:04}.manifest.json"
        raw = table.read(about["manifest"])
        assert hashlib.sha256(raw).hexdigest() == about["manifest_sha256"] and json.loads(raw)["amendment"] == about["amendment"]


def test_verify_reads_the_table(lab):
    """With what a killed try left, and files merged but still there: all rows are proved. Damage is told. Merged and removed, and
    commits cleaned away: that is told too, and the windows after them are proved on."""
    folder = lab.folder / "orders"
    table = Table(f"file://{folder}")
    sidecar = lab.sidecar(lab.store(), config=BY_HAND + sink(table.url, more="parts = 2"))
    with sidecar.client() as client:
        for n in range(4):
            client["d"]["c"].insert_many([{"_id": f"{n}-{i}", "n": n} for i in range(20)])
            client["d"]["c"].update_many({}, {"$inc": {"n": 1}})
            sidecar.cut()
            if n == 2:
                delivered(sidecar)
                table.open().optimize.compact()
    delivered(sidecar)
    left = folder / "window-0000000002/0123456789ab/records.0.parquet"
    left.parent.mkdir()
    left.write_bytes(b"PAR1")
    told = proved(sidecar, table)
    assert told["merged"] == told["cleaned"] == 0 and told["windows"] == 4
    spoiled = [
        ("file-hash", 4, folder / table.windows()[3]["adds"][0]["path"], lambda raw: raw[:50] + bytes([raw[50] ^ 1]) + raw[51:]),
        ("file-hash", 2, folder / table.windows()[1]["adds"][1]["path"], lambda raw: raw[:-1]),
        ("commit", 4, max((folder / "_delta_log").glob("*.json")), lambda raw: raw.replace(b'"size":', b'"size":1')),
        ("commit", 4, folder / "_tidelog/window-0000000004.manifest.json", lambda raw: raw.replace(b'"label": null', b'"label": "x"')),
    ]
    for kind, window, path, spoil in spoiled:
        good = path.read_bytes()
        assert spoil(good) != good, path
        path.write_bytes(spoil(good))
        found = verified(table, holds=False)["finding"]
        assert (found["kind"], found["window"]) == (kind, window), found
        path.write_bytes(good)
    table.open().vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert proved(sidecar, table)["merged"] == 3
    assert "were merged and removed" in run_cli("verify", folder).stdout
    opened = table.open()
    opened.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    opened.create_checkpoint()
    opened.cleanup_metadata()
    told = proved(sidecar, table)
    assert told["cleaned"] > 0 and told["merged"] >= 3, told
    with sidecar.client() as client:
        client["d"]["c"].delete_many({"n": 4})
        sidecar.cut()
    delivered(sidecar)
    proved(sidecar, table)
    table.open().delete(f"lsn = {told['last_lsn'] + 1}")
    found = verified(table, holds=False)["finding"]
    assert (found["kind"], found["window"]) == ("rows-removed", 5) and "(DELETE)" in found["what"], found


def test_a_store_without_conditional_writes(lab, s3):
    """There a commit cannot be made safely: the sink says so and writes none."""
    table = Table("s3://lake/orders", s3)
    options = s3_options(s3.endpoint).replace(" }", ', aws_conditional_put = "disabled" }')
    sidecar = lab.sidecar(lab.store(), config=BY_HAND + sink(table.url, more=options), env=KEYS, ready=False)
    eventually(lambda: row(sidecar, "table")["state"] == "stopped", 30, "the sink stops")
    assert "this store cannot do it" in row(sidecar, "table")["error"]
    assert not [name for name in s3.names("lake") if "_delta_log" in name]
    told = sidecar.process.output() + sidecar.http("/metrics")[1] + sidecar.http("/v1/status")[1]
    assert all(value not in told for value in KEYS.values())
