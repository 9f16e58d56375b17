"""Readers of our Delta tables that share nothing with the sidecar: the `deltalake` package, DuckDB over it, and DuckDB's own extension."""

import hashlib
import json
import os
import pathlib
import subprocess

import duckdb
import pyarrow.fs
import pyarrow.parquet
from deltalake import DeltaTable
from s3 import KEYS, S3
from sidecar import ROOT


def scan_python() -> str:
    """$TIDELOG_DELTA_SCAN, or what deploy/lib.sh installed: the Python that has DuckDB's Delta extension."""
    tools = pathlib.Path(os.environ.get("TIDELOG_TOOLS", pathlib.Path.home() / ".cache/tidelog"))
    number = hashlib.sha256((ROOT / "tests/delta/requirements.txt").read_bytes()).hexdigest()[:16]
    path = os.environ.get("TIDELOG_DELTA_SCAN") or str(tools / f"venv-{number}/bin/python")
    if not os.access(path, os.X_OK):
        raise RuntimeError("no DuckDB with its Delta extension: call ensure_delta_scan of deploy/lib.sh, or set TIDELOG_DELTA_SCAN")
    return path


def sink(url: str, name: str = "table", more: str = "") -> str:
    """A block of configuration."""
    return f'[sinks.{name}]\ntype = "delta"\nformat = "parquet"\nurl = "{url}"\n{more}\n'


def s3_options(endpoint: str) -> str:
    """The line of options for a server on loopback."""
    return f'options = {{ aws_endpoint = "{endpoint}", aws_region = "us-east-1", aws_allow_http = "true" }}'


def windows_told(commits: list[list[dict]]) -> list[dict]:
    """What the commits of windows and amendments say, in order: `txn`, `about` (userMetadata), `adds` and `info`."""
    told = []
    for actions in commits:
        merged = {key: action[key] for action in actions for key in action if key != "add"}
        if merged.get("txn", {}).get("appId", "").startswith("tidelog:"):
            about = json.loads(merged["commitInfo"]["userMetadata"])
            adds = [action["add"] for action in actions if "add" in action]
            told.append({"txn": merged["txn"], "about": about, "adds": adds, "info": merged["commitInfo"]})
    return told


class Table:
    """A table in a local folder, or in a bucket of the server `s3`."""

    def __init__(self, url: str, s3: S3 | None = None):
        self.url, self.s3 = url, s3
        self.options = {"AWS_ENDPOINT_URL": s3.endpoint, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true", **KEYS} if s3 else {}
        if s3:
            keys = {"access_key": KEYS["AWS_ACCESS_KEY_ID"], "secret_key": KEYS["AWS_SECRET_ACCESS_KEY"]}
            system = pyarrow.fs.S3FileSystem(endpoint_override=s3.endpoint, region="us-east-1", scheme="http", **keys)
            self.files = pyarrow.fs.SubTreeFileSystem(url.removeprefix("s3://"), system)
        else:
            self.files = pyarrow.fs.SubTreeFileSystem(url.removeprefix("file://"), pyarrow.fs.LocalFileSystem())

    def open(self) -> DeltaTable:
        return DeltaTable(self.url, storage_options=self.options)

    def read(self, name: str) -> bytes:
        with self.files.open_input_stream(name) as stream:
            return stream.read()

    def commits(self) -> list[list[dict]]:
        """The actions of each commit whose JSON is there, in order."""
        found = self.files.get_file_info(pyarrow.fs.FileSelector("_delta_log"))
        names = sorted(f.path for f in found if f.base_name.endswith(".json") and f.base_name.count(".") == 1)
        return [[json.loads(line) for line in self.read(name).splitlines()] for name in names]

    def windows(self) -> list[dict]:
        return windows_told(self.commits())

    def arrow(self, columns=None):
        """All rows, as the `deltalake` package reads them, by number."""
        return self.open().to_pyarrow_dataset().to_table(columns=columns).sort_by("lsn")

    def sql(self, query: str) -> list[tuple]:
        """DuckDB over the dataset of the `deltalake` package; the table is `t`."""
        dataset = self.open().to_pyarrow_dataset()
        connection = duckdb.connect()
        connection.register("t", dataset)
        return connection.execute(query).fetchall()

    def scan(self, query: str) -> list[tuple]:
        """DuckDB's own reader, `delta_scan`, over a local folder; the table is `t`."""
        argv = [scan_python(), str(ROOT / "tests/delta/scan.py"), self.url.removeprefix("file://"), query]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return [tuple(line) for line in json.loads(done.stdout)]


def windows_at(url: str, s3: S3 | None = None) -> list[tuple[list[int], bytes]]:
    """Each window in order: the numbers of its records, and the bytes of its manifest. Read through the commits alone."""
    table = Table(url, s3)
    found = []
    for told in table.windows():
        if told["about"]["amendment"] is not None:
            continue
        lsns: list[int] = []
        for add in told["adds"]:
            with table.files.open_input_file(add["path"]) as file:
                lsns += pyarrow.parquet.read_table(file, columns=["lsn"])["lsn"].to_pylist()
        found.append((sorted(lsns), table.read(told["about"]["manifest"])))
    return found
