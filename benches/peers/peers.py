"""The same changes, drained by Tidelog, rivet and Debezium, one after the other, from one store in one run.

Two thirds of the changes are inserts of 400-byte documents, the others updates of them. They are written once, through the
sidecar, so that they lie in our changelog and in the store's oplog. Then each reads its backlog into files: seconds from the start of
its process to its last event, processor seconds, peak memory; for Debezium also the rate between its first and last event,
since its start takes seconds by itself. A store that is read by change stream works too: its processor time is told beside.
"""

import json
import os
import pathlib
import sys
import tempfile
import time

import pyarrow.parquet
from pymongo import InsertOne, MongoClient, UpdateOne


sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import programs  # noqa: E402
from programs import Process, metrics, until  # noqa: E402

# Closed by their count, or after some seconds without a write.
WINDOWS = "max_records = 1000000\nmax_bytes = 4294967296\n"


class Bench(programs.Bench):
    def __init__(self, folder: pathlib.Path, changes: int):
        super().__init__(folder, oplog=5_000_000)
        self.changes = changes
        self.rows: list[list] = []

    def sidecar(self, config: str = "", windows: str = "idle_ms = 2000\n") -> tuple[Process, int, int]:
        return super().sidecar(config, WINDOWS + windows)

    def load(self) -> None:
        """Writes the changes through the sidecar, and waits until a window holds them."""
        process, listen, admin = self.sidecar(f'[sinks.meanwhile]\ntype = "folder"\ndir = "{self.folder}/meanwhile"\n')
        until(lambda: process.lives() and metrics(admin).get("tidelog_ready") == 1, "sidecar")
        self.client["shop"].create_collection("orders", changeStreamPreAndPostImages={"enabled": True})
        self.anchor()
        orders = MongoClient(f"mongodb://127.0.0.1:{listen}/?directConnection=true")["shop"]["orders"]
        inserts, began = self.changes * 2 // 3, time.monotonic()
        for first in range(0, inserts, 1_000):
            ids = range(first, min(first + 1_000, inserts))
            orders.bulk_write([InsertOne({"_id": n, "status": "new", "text": "x" * 340, "n": n}) for n in ids], ordered=False)
        for first in range(inserts, self.changes, 1_000):
            ids = range(first, min(first + 1_000, self.changes))
            orders.bulk_write([UpdateOne({"_id": n - inserts}, {"$set": {"status": "paid"}}) for n in ids], ordered=False)
        print(f"load: {self.changes / (time.monotonic() - began):,.0f} changes/s through the sidecar", flush=True)
        until(lambda: metrics(admin).get("tidelog_settling_records") == 0, "settled log")
        process.end()

    def latency(self, seconds: int = 20) -> None:
        """From a write's ok to its window's manifest in the folder, with windows of a second: 200 writes a second."""
        out = self.folder / "ticks"
        process, listen, admin = self.sidecar(
            f'[sinks.ticks]\ntype = "folder"\ndir = "{out}"\nstart = "now"\nnamespaces = ["shop.ticks"]\n',
            "max_age_ms = 1000\nidle_ms = 600000\nsettle_ms = 500\n",
        )
        until(lambda: process.lives() and metrics(admin).get("tidelog_ready") == 1, "sidecar")
        ticks = MongoClient(f"mongodb://127.0.0.1:{listen}/?directConnection=true")["shop"]["ticks"]
        acknowledged, begun = {}, time.time()
        while time.time() < begun + seconds:
            number = len(acknowledged)
            time.sleep(max(0.0, begun + number / 200 - time.time()))
            ticks.insert_one({"_id": number})
            acknowledged[number] = time.time()
        until(lambda: metrics(admin).get('tidelog_export_lag_records{sink="ticks"}') == 0, "the last window")
        process.end()
        waits = []
        for manifest in out.glob("window-*/manifest.json"):
            with (manifest.parent / "records.jsonl").open() as lines:
                numbers = [int(line["id"]["$numberInt"]) for line in map(json.loads, lines) if line.get("op")]
            waits += [manifest.stat().st_mtime - acknowledged[number] for number in numbers]
        assert len(waits) == len(acknowledged), (len(waits), len(acknowledged))
        waits.sort()
        p50, p99 = (round(waits[int(len(waits) * part)] * 1000) for part in (0.5, 0.99))
        print(f"write -> durable in the folder, {len(waits)} writes, windows of 1000 ms, settle time 500 ms: p50 {p50} ms, p99 {p99} ms", flush=True)

    def anchor(self) -> None:
        """Both others note where the stream is now."""
        rivet = self.folder / "rivet.yaml"
        rivet.write_text(
            f'source: {{type: mongo, url: "mongodb://127.0.0.1:{self.port}/shop?directConnection=true"}}\n'
            f"exports:\n  - name: orders\n    table: orders\n    mode: cdc\n    format: parquet\n"
            f"    cdc: {{checkpoint: {self.folder}/rivet.checkpoint}}\n    destination: {{type: local, path: {self.folder}/rivet}}\n"
        )
        process = self.rivet()
        # It anchors at once, and then waits for an event.
        until(lambda: process.lives() and (self.folder / "rivet.checkpoint").exists(), "rivet's anchor")
        time.sleep(1)
        process.child.kill()
        process.child.wait()
        drain = self.drain(1, "anchor.jsonl")
        until(lambda: "ready" in drain.log.read_text() or drain.lives() and False, "Debezium")
        mark = iter(range(1_000_000))

        def ended() -> bool:
            self.client["shop"]["orders"].insert_one({"_id": f"mark {next(mark)}"})
            time.sleep(0.5)
            return drain.child.poll() is not None

        until(ended, "Debezium's first event")
        self.client["shop"]["orders"].delete_many({"_id": {"$type": "string"}})

    def rivet(self) -> Process:
        program = pathlib.Path(sys.executable).with_name("rivet")
        return Process([program, "run", "--config", self.folder / "rivet.yaml"], self.folder / "rivet.log", dict(os.environ, HOME=str(self.folder)))

    def drain(self, events: int, out: str) -> Process:
        where = f"mongodb://127.0.0.1:{self.port}/?replicaSet={self.name}"
        jars = f"{os.environ['DRAIN']}:{os.environ['DRAIN']}/jars/*"
        log = self.folder / f"debezium-{out}.log"
        return Process(["java", "-cp", jars, "Drain", where, self.folder / "offsets", "shop", "orders", events, self.folder / out], log)

    def row(self, name: str, events: int, wall: float, cpu: float, store: float, peak: int, note: str = "") -> None:
        self.rows.append([name, f"{events / wall:,.0f}", f"{wall:.1f}", f"{cpu:.1f}", f"{store:.1f}", f"{peak / 1024:.0f} MB", note])
        print(f"{name}: {events} events in {wall:.1f} s", flush=True)

    def ours(self, form: str, settings: str) -> None:
        """A sidecar starts with a new sink that wants everything: from the start of its process until the sink has it."""
        out = self.folder / f"tidelog-{form}"
        before = self.store.cpu()
        process, _, admin = self.sidecar(f'[sinks.fresh-{form}]\ntype = "folder"\ndir = "{out}"\n{settings}\n')
        label = f'{{sink="fresh-{form}"}}'

        def there() -> bool:
            process.lives()
            process.look()
            now = metrics(admin)
            return now.get(f"tidelog_exported_records_total{label}", 0) > self.changes and now.get(f"tidelog_export_lag_records{label}", 1) == 0

        until(there, "our windows")
        wall, cpu, peak = time.monotonic() - process.began, process.cpu(), process.peak
        process.end()
        told = [json.loads(file.read_text())["counts"].get("shop.orders", {}) for file in out.glob("window-*/manifest.json")]
        events = sum(counts.get("insert", 0) + counts.get("update", 0) for counts in told)
        assert events >= self.changes, events
        self.row(f"tidelog, {form}", events, wall, cpu, self.store.cpu() - before, peak, "start of the sidecar and closing of the window included")

    def theirs(self) -> None:
        before = self.store.cpu()
        process = self.rivet()
        wall, cpu = process.wait()
        files = list((self.folder / "rivet").rglob("*.parquet"))
        events = sum(pyarrow.parquet.ParquetFile(file).metadata.num_rows for file in files)
        self.row("rivet 0.32.2, parquet", events, wall, cpu, self.store.cpu() - before, process.peak)
        before = self.store.cpu()
        process = self.drain(self.changes, "debezium.jsonl")
        wall, cpu = process.wait()
        ms = int(process.log.read_text().split(" ms ")[1].split()[0])
        with (self.folder / "debezium.jsonl").open("rb") as lines:
            events = sum(1 for _ in lines)
        note = f"{events * 1000 / max(ms, 1):,.0f} events/s from first to last"
        self.row("Debezium 3.6.1, JSON", events, wall, cpu, self.store.cpu() - before, process.peak, note)


def main() -> None:
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    with tempfile.TemporaryDirectory(prefix="tidelog-peers-") as folder:
        bench = Bench(pathlib.Path(folder), changes)
        try:
            bench.load()
            bench.ours("jsonl", 'format = "jsonl"')
            bench.theirs()
            bench.ours("parquet", 'format = "parquet"\ncompression = "zstd"')
            bench.latency()
        finally:
            bench.end()
    head = ["", "events/s", "wall s", "processor s", "store's processor s", "peak memory", ""]
    for row in [head, ["---"] * len(head), *bench.rows]:
        print("| " + " | ".join(row) + " |")


main()
