"""The Debezium envelope, read by Debezium's own transform through Kafka Connect's converter, on a real export."""

import base64
import collections
import datetime
import hashlib
import json
import os
import subprocess

import duckdb
import pyarrow.parquet
import pytest
from bson import Binary, Decimal128, Int64, ObjectId, json_util
from mixed import write
from sidecar import changes, run_cli
from validator import check_export
from waiting import eventually

DAY = datetime.datetime(2026, 2, 3, 4, 5, 6, 789000, datetime.timezone.utc)
FULL = {
    "text": "é \"quoted\" \n", "int": 5, "long": Int64(2**53 + 1), "double": 1.5, "flag": True, "nothing": None, "when": DAY,
    "decimal": Decimal128("12.50"), "raw": b"\x00\xff", "sub": {"x": 1, "y": {"z": "w"}}, "list": [1, 2], "subs": [{"a": 1}, {"a": 2}],
}


def flat(value):
    """What the transform makes of a value: https://debezium.io/documentation/reference/3.6/transformations/mongodb-event-flattening.html"""
    if isinstance(value, dict):
        return {name: flat(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [flat(inner) for inner in value]
    if isinstance(value, ObjectId | Decimal128):
        return str(value)
    if isinstance(value, datetime.datetime):
        return int(value.timestamp() * 1000)
    if isinstance(value, bytes | Binary):
        return base64.b64encode(value).decode()
    return value


def transformed(file) -> dict[int, dict]:
    """What Debezium's transform says of each line, by the record's number."""
    home = os.environ.get("TIDELOG_DEBEZIUM_CHECK", "")
    if not os.path.exists(f"{home}/complete"):
        raise RuntimeError("no Debezium: run deploy/test.sh e2e, which installs it, or set TIDELOG_DEBEZIUM_CHECK")
    argv = ["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{home}:{home}/jars/*", "DebeziumCheck", str(file), "dbz"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    told = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    return {one["lsn"]: one for one in told}


@pytest.fixture
def exported(lab):
    """A first read, writes of all kinds, and one past the sidecar; the folder of the sink and the plain lines."""
    store = lab.store()
    store.client()["dbz"]["seed"].insert_many([{"_id": n, **FULL} for n in range(3)])
    folder = lab.folder / "debezium"
    form = f'[sinks.debezium]\ntype = "folder"\ndir = "{folder}"\nenvelope = "debezium"\n'
    form += f'[sinks.rows]\ntype = "folder"\ndir = "{lab.folder}/rows"\nformat = "parquet"\nenvelope = "debezium"\ncompression = "zstd"\n'
    sidecar = lab.sidecar(store, config="[windows]\nidle_ms = 600000\nmax_age_ms = 600000\n" + form)
    with sidecar.client() as client:
        some = client["dbz"]["some"]
        ids = some.insert_many([dict(FULL) for _ in range(20)]).inserted_ids
        some.update_many({}, {"$set": {"int": 6}, "$unset": {"flag": ""}})
        some.replace_one({"_id": ids[0]}, {"replaced": Int64(1)})
        some.delete_many({"_id": {"$in": ids[5:10]}})
        with client.start_session() as session, session.start_transaction():
            some.insert_one({"_id": "t", "in": "transaction"}, session=session)
            some.delete_one({"_id": ids[1]}, session=session)
        write(client, large=False)
        store.client()["dbz"]["some"].insert_one({"_id": "past", "the": "sidecar"})
        def found() -> set:
            return {change["found"] for change in changes(sidecar)}
        eventually(lambda: {"snapshot", "bypass"} <= found(), 120, "the first read and the write past the sidecar")
        sidecar.cut()
    for place in (folder, lab.folder / "rows"):
        eventually(lambda: len(list(place.glob("window-*/manifest.json"))) >= 1, 60, f"the window in {place}")
    check_export(sidecar.export)
    plain = [json.loads(line) for file in sorted(sidecar.export.glob("window-*/records.jsonl")) for line in file.open("rb")]
    return folder, plain


def test_debezium_flattens_it(exported):
    """Flattened documents are the after images, deletes are `__deleted` or tombstones; every image has the right hash."""
    folder, plain = exported
    (window,) = folder.glob("window-*")
    told = transformed(window / "records.jsonl")
    written = [line for line in plain if "op" in line]
    assert set(told) == {line["lsn"] for line in written} and {"c", "u", "d", "r"} == {one["op"] for one in told.values()}
    flattened = 0
    for line in written:
        one = told[line["lsn"]]
        for side in ("before", "after"):
            if line.get(f"{side}_bson") is None and line[side] is not None:
                assert one[side] == line[f"{side}_sha256"], line
            assert (one[side] is None) == (line[side] is None)
        assert (one["op"] == "d") == (line["after"] is None)
        assert (one["op"] == "r") == (one["snapshot"] == "true") == (line["found"] == "snapshot")
        if not line["ns"].startswith("dbz."):
            continue
        flattened += 1
        before, after = (line[side] and flat(json_util.loads(json.dumps(line[side]), json_options=json_util.CANONICAL_JSON_OPTIONS)) for side in ("before", "after"))
        if after is None:
            assert one["rewrite"] == before | {"__deleted": True} and one["tombstone"] is None, line["lsn"]
        else:
            assert one["rewrite"] == after | {"__deleted": False} and one["tombstone"] == after, line["lsn"]
    assert flattened > 50


def test_verify_reads_the_envelope(exported):
    """`tidelog verify` proves each change in it, and finds one that differs though the hashes around it were mended."""
    folder, plain = exported
    written = sum("op" in line for line in plain)

    def verify() -> dict:
        return json.loads(run_cli("verify", folder, "--json", check=False).stdout)

    told = verify()
    assert (told["finding"], told["unread"], told["changes"], told["records"]) == (None, 0, written, written) and written > 500
    assert told["changes_only"] == told["windows"] == 1
    (window,) = folder.glob("window-*")
    file, path = window / "records.jsonl", window / "manifest.json"
    lines = file.read_bytes().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if json.loads(line)["tidelog"]["op"] == "update")
    spoiled = json.loads(lines[number])
    spoiled["tidelog"]["seq"] += 1
    lines[number] = json.dumps(spoiled, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    file.write_bytes(b"".join(lines))
    manifest = json.loads(path.read_text())
    manifest["files"][0] |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    found = verify()["finding"]
    assert (found["kind"], found["line"]) == ("change-hash", number + 1), found


def test_rows_of_the_envelope(exported):
    """As Parquet: PyArrow and DuckDB read what the lines say, and `tidelog verify` proves it."""
    folder, plain = exported
    rows = folder.parent / "rows"
    lines = [json.loads(line) for line in next(folder.glob("window-*/records.jsonl")).open("rb")]
    (file,) = rows.glob("window-*/records.parquet")
    found = pyarrow.parquet.read_table(file).to_pylist()
    for row in found:
        ours = row["tidelog"]
        ours["id"], ours["hlc"] = json.loads(ours["id"]), str(ours["hlc"])
        for name in ("before_bson", "after_bson"):
            raw = ours.pop(name)
            if raw is not None:
                ours[name] = base64.b64encode(raw).decode()
    assert found == lines and any("after_bson" in line["tidelog"] for line in lines)
    query = "select source.db, source.collection, op, count(*) from read_parquet(?) group by all"
    counted = collections.Counter((line["source"]["db"], line["source"]["collection"], line["op"]) for line in lines)
    assert {tuple(key): n for *key, n in duckdb.execute(query, [str(file)]).fetchall()} == dict(counted)
    told = json.loads(run_cli("verify", rows, "--json").stdout)
    assert (told["finding"], told["unread"], told["changes"], told["changes_only"]) == (None, 0, len(lines), 1)


def test_the_manifest_counts_lines(exported):
    """Control records have no line: `records` counts what is in the file, `counts` what the window holds."""
    folder, plain = exported
    (window,) = folder.glob("window-*")
    manifest = json.loads((window / "manifest.json").read_text())
    lines = (window / "records.jsonl").read_bytes().split(b"\n")[:-1]
    assert manifest["records"] == sum(file["records"] for file in manifest["files"]) == len(lines)
    counted = sum(n for of in manifest["counts"].values() for n in of.values())
    controls = sum("control" in line for line in plain)
    assert controls > 0 and counted == len(plain) == len(lines) + controls
