"""Each form that a sink can have says the same: read by DuckDB, PyArrow and Polars, held against the plain lines."""

import json
import shutil

import duckdb
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
from conftest import Lab
from mixed import write
from sidecar import run_cli
from validator import check_export, windows_of
from waiting import eventually

FORMS = {
    "zstd": 'format = "parquet"\ncompression = "zstd"\nbson = true\nparts = 4',
    "plain": 'format = "parquet"\nbson = true',
    "needed": 'format = "parquet"\ncompression = "zstd"',
    "lines": 'format = "jsonl"\ncompression = "zstd"\nparts = 3',
}


# Windows close when the test says so: one file holds all of the large documents.
WINDOWS = "[windows]\nidle_ms = 600000\nmax_age_ms = 600000\nmax_bytes = 1073741824\n"


class Sinks:
    """A sidecar whose windows go to the plain folder and, in each form, to a folder of their own."""

    def __init__(self, lab):
        self.folders = {name: lab.folder / name for name in FORMS}
        tables = (f'[sinks.{name}]\ntype = "folder"\ndir = "{self.folders[name]}"\n{form}\n' for name, form in FORMS.items())
        self.sidecar = lab.sidecar(lab.store(), config=WINDOWS + "\n".join(tables))
        self.plain = self.sidecar.export

    def files(self, name: str) -> list:
        return sorted(self.folders[name].glob("window-*/records*"))

    def await_all(self) -> None:
        count = len(windows_of(self.plain))
        for name, folder in self.folders.items():
            eventually(lambda: len(list(folder.glob("window-*/manifest.json"))) == count, 120, f"all windows in {name}")

    def lines(self) -> list[dict]:
        """The plain lines, by number."""
        texts = (line for file in sorted(self.plain.glob("window-*/records.jsonl")) for line in file.open("rb"))
        return [json.loads(text) for text in texts]


@pytest.fixture(scope="module")
def sinks(tmp_path_factory):
    """One for all tests here: the last one, which restarts it, takes nothing away."""
    lab = Lab(tmp_path_factory.mktemp("formats"))
    try:
        yield filled(Sinks(lab))
    finally:
        lab.end()


def filled(sinks: Sinks) -> Sinks:
    with sinks.sidecar.client() as client:
        write(client)
        sinks.sidecar.cut("first")
        write(client, "more", large=False)
        sinks.sidecar.cut("second")
    sinks.await_all()
    check_export(sinks.plain)
    return sinks


def identity(line: dict) -> tuple:
    return line["lsn"], line.get("key"), line.get("seq"), line.get("op"), line.get("control"), line.get("ns")


def image(text: str | None):
    return None if text is None else json.loads(text)


def test_parquet_is_read_by_all(sinks):
    """DuckDB, PyArrow and Polars get the same rows, and those of the plain lines; images and hashes too."""
    lines = sinks.lines()
    assert {"insert", "update", "replace", "delete"} <= {line.get("op") for line in lines}
    assert {"started", "opened", "create", "rename", "drop"} <= {line.get("control") for line in lines}
    names = ["lsn", "key", "seq", "op", "control", "ns"]
    told = [identity(line) for line in lines]
    for name in ("zstd", "plain", "needed"):
        files = [str(file) for file in sinks.files(name)]
        sql = duckdb.connect()
        sql.execute(f"create view r as select * from read_parquet({files})")
        assert sql.execute(f"select {', '.join(names)} from r order by lsn").fetchall() == told
        arrow = pyarrow.dataset.dataset(files).to_table(columns=names).sort_by("lsn")
        assert list(zip(*(column.to_pylist() for column in arrow.columns), strict=True)) == told
        frame = polars.read_parquet(files, columns=names).select(names).sort("lsn")
        assert frame.rows() == told
        check_values(sql, lines)
        check_hashes(sql, everywhere=name != "needed")


def check_values(sql, lines: list[dict]) -> None:
    """The other columns say what the lines say."""
    flat = {
        "id": lambda line: line.get("id"),
        "before": lambda line: line.get("before"),
        "after": lambda line: line.get("after"),
        "control_detail": lambda line: {k: v for k, v in line.items() if k not in COMMON} if "control" in line else None,
    }
    for column, of in flat.items():
        cursor = sql.execute(f"select {column} from r order by lsn")
        for line in lines:
            assert image(cursor.fetchone()[0]) == of(line), (column, line["lsn"])
    same = ["log", "epoch", "before_sha256", "after_sha256", "change_hash", "found", "comment", "traceparent", "correlation", "continued"]
    same += [f"{whole}.{field}" for whole, fields in NESTED.items() for field in fields]
    for name in same:
        whole, _, field = name.partition(".")
        expected = [(line.get(whole) or {}).get(field) if field else line.get(whole) for line in lines]
        if name == "epoch":
            expected = [None if "control" in line else line["epoch"] for line in lines]
        assert [row[0] for row in sql.execute(f"select {name.replace('.', '_')} from r order by lsn").fetchall()] == expected, name
    times = sql.execute("select hlc::varchar, strftime(wall at time zone 'UTC', '%Y-%m-%dT%H:%M:%S.%gZ') from r order by lsn").fetchall()
    assert times == [(line["hlc"], line["wall"]) for line in lines]


COMMON = ("log", "lsn", "control", "hlc", "wall", "continued")
NESTED = {
    "operation_time": ["t", "i"],
    "retry": ["lsid", "txn_number", "stmt_id"],
    "txn": ["lsid", "txn_number", "index", "count"],
    "origin": ["connection", "client", "user", "mechanism", "app", "driver"],
}


def check_hashes(sql, everywhere: bool) -> None:
    """One expression of SQL proves each image; another each change."""
    wrong = "select lsn from r where sha256(after_bson) <> after_sha256 or sha256(before_bson) <> before_sha256"
    assert sql.execute(wrong).fetchall() == []
    carried, images = sql.execute("select count(after_bson), count(after_sha256) from r").fetchone()
    assert carried == images > 0 if everywhere else 0 < carried < images
    wrong = """select lsn from r where change_hash <> sha256(concat_ws(':', epoch, seq, op, coalesce(before_sha256, ''),
               coalesce(after_sha256, ''), key, ns))"""
    assert sql.execute(wrong).fetchall() == []


def test_verify_reads_every_form(sinks):
    """`tidelog verify` reads the records of each form, documents of 16 MB among them."""
    records = len(sinks.lines())
    for name, folder in sinks.folders.items():
        told = run_cli("verify", folder, "--json")
        found = json.loads(told.stdout)
        assert (found["unread"], found["records"], found["finding"]) == (0, records, None) and records > 500, name


def test_filters_skip_row_groups(sinks):
    """Statistics of row groups: disjoint in `lsn`, and filters on `lsn` and `ns` leave most of them unread."""
    file = next(f for f in sinks.files("plain") if pyarrow.parquet.ParquetFile(f).metadata.num_row_groups > 2)
    metadata = pyarrow.parquet.ParquetFile(file).metadata
    columns = {metadata.schema.column(n).name: n for n in range(metadata.num_columns)}
    bounds = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        told = group.column(columns["lsn"]).statistics
        bounds.append((told.min, told.max))
        assert all(group.column(columns[c]).statistics.has_min_max for c in ("ns", "key", "seq", "wall"))
        assert group.column(columns["after"]).statistics is None
        assert all(group.column(columns[c]).has_offset_index for c in columns)
    assert all(this[1] < after[0] for this, after in zip(bounds, bounds[1:], strict=False)), bounds
    (fragment,) = pyarrow.dataset.dataset(file).get_fragments()
    field = pyarrow.dataset.field

    def read(condition) -> int:
        return len(fragment.split_by_row_group(condition))

    assert read(field("lsn") > 0) == metadata.num_row_groups
    assert read(field("lsn") == bounds[0][0]) == read(field("lsn") >= bounds[-1][0]) == 1
    assert read(field("ns") == "mix.types") < metadata.num_row_groups
    # Arrow does not skip a group that has a row without `ns`, whatever the bounds of the others.
    assert read(field("ns") == "zzz.none") == sum(metadata.row_group(n).column(columns["ns"]).statistics.null_count > 0 for n in range(len(bounds))) < len(bounds)


def test_lines_compressed_and_in_parts(sinks):
    """The same lines as in the plain file, each entity's in one part."""
    whole, homes = [], {}
    for file in sinks.files("lines"):
        with pyarrow.input_stream(str(file), compression="zstd") as stream:
            lines = stream.read().split(b"\n")[:-1]
        whole += lines
        for line in map(json.loads, lines):
            if "op" in line:
                homes.setdefault((line["ns"], line["key"]), set()).add(file.name)
    plain = [line for file in sorted(sinks.plain.glob("window-*/records.jsonl")) for line in file.read_bytes().split(b"\n")[:-1]]
    assert sorted(whole) == sorted(plain)
    assert all(len(parts) == 1 for parts in homes.values())
    assert len(set.union(*homes.values())) == 3


def test_the_same_bytes_again(sinks):
    """A sink whose folder and checkpoint are gone gets every window again, byte for byte."""
    def held() -> dict:
        return {str(f): f.read_bytes() for d in sinks.folders.values() for f in d.rglob("*") if f.is_file()}

    before = held()
    assert sinks.sidecar.stop() == 0
    windows = len(windows_of(sinks.plain))
    for name, folder in sinks.folders.items():
        shutil.rmtree(folder)
        checkpoints = [f for f in (sinks.sidecar.data / "checkpoints").iterdir() if f.name.split(".")[0] == name]
        assert checkpoints, name
        for checkpoint in checkpoints:
            checkpoint.unlink()
    sinks.sidecar.start()
    for name, folder in sinks.folders.items():
        eventually(lambda: len(list(folder.glob("window-*/manifest.json"))) >= windows, 120, f"all windows again in {name}")
    after = held()
    assert all(after[path] == bytes_ for path, bytes_ in before.items())
