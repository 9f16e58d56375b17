"""Latest files: whoever applies them alone, window by window, holds what the store holds at each window's end."""

import collections
import hashlib
import io
import json
import pathlib
import shutil

import duckdb
import pyarrow.parquet
import pytest
import zstandard
from dump import dump
from mixed import write
from sidecar import run_cli
from test_sinks import block, folders_of, verdict
from validator import MODULUS, Record

FORMS = {
    "lines": {"latest": True},
    "packed": {"latest": True, "compression": "zstd", "parts": 4},
    "table": {"latest": True, "format": "parquet", "bson": True},
    "tables": {"latest": True, "format": "parquet", "compression": "zstd", "bson": True, "parts": 4},
}
# Windows close when the test says so.
WINDOWS = "[windows]\nidle_ms = 600000\nmax_age_ms = 600000\nmax_bytes = 1073741824\n"


class Consumer:
    """Knows nothing but latest files."""

    def __init__(self):
        self.namespaces = collections.defaultdict(dict)

    def apply(self, window: pathlib.Path) -> None:
        records = sorted((record for file in sorted(window.glob("latest*")) for record in records_of(file)), key=lambda r: r["lsn"])
        for record in records:
            if record["control"] == "drop":
                self.namespaces.pop(record["ns"], None)
            elif record["control"] == "dropDatabase":
                for ns in [ns for ns in self.namespaces if ns.split(".", 1)[0] == record["db"]]:
                    del self.namespaces[ns]
            elif record["control"] == "rename":
                self.namespaces[record["to"]] = self.namespaces.pop(record["from"], {})
            else:
                assert record["control"] is None, record
                if record["after"] is None:
                    self.namespaces[record["ns"]].pop(record["key"], None)
                else:
                    self.namespaces[record["ns"]][record["key"]] = record["after"]

    def state(self) -> dict:
        """Alive and fingerprint of each namespace that holds something."""
        prints = {ns: sum(int(hashlib.sha256(raw).hexdigest(), 16) for raw in docs.values()) % MODULUS for ns, docs in self.namespaces.items()}
        return {ns: (len(docs), f"{prints[ns]:064x}") for ns, docs in self.namespaces.items() if docs}


def records_of(file: pathlib.Path) -> list[dict]:
    """What a consumer takes of each record of a file."""
    found = []
    if file.suffix == ".parquet":
        for row in pyarrow.parquet.read_table(file).to_pylist():
            assert (row["after_bson"] is None) == (row["after_sha256"] is None)
            detail = json.loads(row["control_detail"] or "{}")
            found.append({"lsn": row["lsn"], "control": row["control"], "ns": row["ns"], "key": row["key"], "after": row["after_bson"], **detail})
        return found
    raw = file.read_bytes()
    if file.suffix == ".zst":
        raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)).read()
    for line in raw.decode().split("\n")[:-1]:
        record = Record(line)
        told = {"lsn": record.lsn, "control": record.control} | {name: record.get(name) for name in ("ns", "db", "from", "to", "key")}
        found.append(told | {"after": record.after if record.control is None else None})
    return found


def manifest_of(window: pathlib.Path) -> dict:
    return json.loads((window / "manifest.json").read_text())


def told(manifest: dict) -> dict:
    return {entry["ns"]: (entry["alive"], entry["fingerprint"]) for entry in manifest["namespaces"] if entry["alive"]}


def rounds(client) -> list:
    """What happens in each window."""
    db, other = client["shop"], client["crm"]

    def first():
        db["orders"].insert_many([{"_id": n, "n": 0} for n in range(200)])
        db["orders"].update_many({}, {"$inc": {"n": 1}})
        db["orders"].delete_many({"_id": {"$gte": 150}})
        other["people"].insert_many([{"_id": f"p{n}"} for n in range(20)])

    def second():
        with client.start_session() as session, session.start_transaction():
            db["orders"].insert_one({"_id": 150, "again": True}, session=session)
            other["people"].update_one({"_id": "p1"}, {"$set": {"in": "transaction"}}, session=session)
            db["orders"].delete_one({"_id": 0}, session=session)
        db["orders"].insert_one({"_id": 0, "reborn": True})
        db["gone"].insert_many([{"_id": n} for n in range(10)])
        db["gone"].drop()
        db["gone"].insert_one({"_id": 3, "after": "the drop"})

    def third():
        db["orders"].update_many({"_id": {"$lt": 10}}, {"$set": {"before": "the rename"}})
        db["orders"].rename("archive")
        db["orders"].insert_many([{"_id": n, "new": True} for n in range(5)])
        db["archive"].update_one({"_id": 5}, {"$set": {"after": "the rename"}})

    def fourth():
        other["people"].insert_one({"_id": "late"})
        client.drop_database("crm")
        other["people"].insert_one({"_id": "p1", "new": True})
        db["archive"].insert_one({"_id": "short"})
        db["orders"].rename("archive", dropTarget=True)

    def fifth():
        write(client, large=False)

    def nothing():
        pass

    return [first, second, third, fourth, nothing, fifth]


@pytest.fixture
def run(lab):
    """A sidecar with a sink in each form, and windows of everything that can happen."""
    folders = {name: lab.folder / name for name in FORMS}
    sinks = "".join(block(name, type="folder", dir=str(folders[name]), **form) for name, form in FORMS.items())
    store = lab.store()
    sidecar = lab.sidecar(store, config=WINDOWS + "[export]\nlatest = true\n" + sinks)
    dumps = []
    with sidecar.client() as client, store.client() as direct:
        for number, step in enumerate(rounds(client)):
            step()
            sidecar.cut(f"round {number}")
            dumps.append(dump(direct))
    assert sidecar.stop() == 0
    return folders | {"plain": sidecar.export}, dumps


def state_of(dumped: dict) -> dict:
    """The same of the store itself."""
    prints = {ns: sum(int(hashlib.sha256(raw).hexdigest(), 16) for raw in documents) % MODULUS for ns, documents in dumped.items()}
    return {ns: (len(documents), f"{prints[ns]:064x}") for ns, documents in dumped.items() if documents}


def test_latest_files_alone_give_the_store(run):
    """In each form: after each window the consumer holds what the manifest and the store say; `tidelog verify` proves the files."""
    folders, dumps = run
    for name, folder in folders.items():
        consumer, ends = Consumer(), []
        for window in folders_of(folder):
            manifest = manifest_of(window)
            consumer.apply(window)
            assert consumer.state() == told(manifest), (name, window.name)
            if manifest["label"]:
                ends.append(consumer.state())
            check_entries(window, manifest)
        assert ends == [state_of(dumped) for dumped in dumps], name
        found = verdict(folder)
        assert found["latest"] == found["windows"] == len(folders_of(folder)) and found["unread"] == 0, found
        assert found["records"] > 500, found


def check_entries(window: pathlib.Path, manifest: dict) -> None:
    """The manifest tells the files apart and counts the history alone."""
    history = [file for file in manifest["files"] if "role" not in file]
    latest = [file for file in manifest["files"] if file.get("role") == "latest"]
    assert history + latest == manifest["files"] and len(history) == len(latest) >= 1
    assert manifest["records"] == sum(file["records"] for file in history) == sum(sum(ops.values()) for ops in manifest["counts"].values())
    assert all(file["name"].startswith("latest") and len(records_of(window / file["name"])) == file["records"] for file in latest)
    assert sum(file["records"] for file in latest) <= manifest["records"]


def test_rows_written_anew(run, tmp_path):
    """Rows that PyArrow wrote anew, with the hash in the manifest mended, are the same records for `tidelog verify`, unless one differs."""
    folders, _ = run
    copy = tmp_path / "copy"
    shutil.copytree(folders["table"], copy)
    # The last window: no manifest after it has the hash of its own.
    window = sorted(copy.glob("window-*"))[-1]
    file, table = window / "records.parquet", pyarrow.parquet.read_table(window / "records.parquet")
    assert verify_anew(window, file, table)["finding"] is None
    row = next(n for n, op in enumerate(table.column("op").to_pylist()) if op == "update")
    for column, spoil, kind in (
        ("after_bson", lambda value: value[:-2] + b"\x01\x00", "image-hash"),
        ("seq", lambda value: value + 1, "change-hash"),
        ("lsn", lambda value: value + 1, "lsn"),
        ("before_sha256", lambda value: "00" * 32, "image-hash"),
    ):
        values = table.column(column).to_pylist()
        values[row] = spoil(values[row])
        place = table.schema.get_field_index(column)
        field = table.schema.field(column)
        found = verify_anew(window, file, table.set_column(place, field, pyarrow.array(values, field.type)))
        assert found["finding"]["kind"] == kind, (column, found["finding"])
        assert found["finding"]["file"] == file.name, found["finding"]


def verify_anew(window, file, table) -> dict:
    """Puts the table into the file, its hash into the manifest, and asks `tidelog verify`."""
    pyarrow.parquet.write_table(table, file, compression="zstd")
    path = window / "manifest.json"
    manifest = json.loads(path.read_text())
    raw = file.read_bytes()
    manifest["files"][0] |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return json.loads(run_cli("verify", window.parent, "--json", check=False).stdout)


def test_duckdb_reads_them(run):
    """In a window without drops: for each document one row, that of the greatest number; in SQL, from lines and from Parquet."""
    folders, _ = run
    sql = duckdb.connect()
    for name, read in (("plain", "read_json"), ("packed", "read_json"), ("table", "read_parquet"), ("tables", "read_parquet")):
        window = folders_of(folders[name])[0]
        ending = "" if read == "read_parquet" else ", format = 'newline_delimited', union_by_name = true"
        rows = {
            kind: sql.execute(
                f"select ns, key, max(lsn), count(*), arg_max(coalesce(after_sha256, ''), lsn) from {read}('{window}/{kind}*'{ending}) where op is not null group by all order by ns, key"
            ).fetchall()
            for kind in ("records", "latest")
        }
        assert len(rows["latest"]) == 220 and all(row[3] == 1 for row in rows["latest"]), name
        assert [row[:3] + row[4:] for row in rows["latest"]] == [row[:3] + row[4:] for row in rows["records"]], name


def test_the_same_bytes_again(lab):
    """A sink that lost its checkpoint gets the same windows again, and has no conflict."""
    out = lab.folder / "out"
    sidecar = lab.sidecar(lab.store(), config=block("out", type="folder", dir=str(out), latest=True, parts=2, compression="zstd"))
    with sidecar.client() as client:
        write(client, large=False)
        sidecar.cut("one")
    assert sidecar.stop() == 0
    held = {file: file.read_bytes() for file in out.rglob("latest*")}
    assert len(held) == 2 * len(folders_of(out))
    for file in (sidecar.data / "checkpoints").iterdir():
        if file.name.split(".")[0] == "out":
            file.unlink()
    for file in list(held)[:1]:
        file.unlink()
        (file.parent / "manifest.json").unlink()
    sidecar.start()
    sidecar.cut("two")
    assert sidecar.stop() == 0
    assert {file: file.read_bytes() for file in held} == held
    assert verdict(out)["latest"] == len(folders_of(out))
    assert not list((sidecar.data / "tmp").glob("*")) if (sidecar.data / "tmp").exists() else True


@pytest.mark.parametrize("kind", ["kafka", "webhook", "debezium"])
def test_it_is_refused_where_it_makes_no_sense(lab, kind):
    """A sink without files, or whose records tell no drops: the start says so, and names the setting."""
    settings = {
        "kafka": {"type": "kafka", "brokers": "127.0.0.1:9"},
        "webhook": {"type": "webhook", "url": "http://127.0.0.1:9/"},
        "debezium": {"type": "folder", "dir": str(lab.folder / "d"), "envelope": "debezium"},
    }[kind]
    with pytest.raises(RuntimeError, match=r"sinks\.odd\.latest"):
        lab.sidecar(lab.store(), config=block("odd", latest=True, **settings))
