"""A sink that is away while clients write: what it costs, and how fast the rest comes when it is back.

Two sinks, JSON Lines and Parquet, whose folders lie on something that is not mounted. Two thirds of the changes are inserts of
400-byte documents, the others updates of them, at a steady rate through the sidecar (or as fast as one client goes). Memory is
that of the sidecar's process, as the kernel counts it. Then the mount is there: the two take turns on what the sidecar has at
hand, so each is measured alone, one after the other. At the end every window is verified and counted.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from pymongo import InsertOne, MongoClient, UpdateOne

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from programs import Bench, Process, metrics, until  # noqa: E402

BATCH = 60
FORMS = {"jsonl": 'format = "jsonl"\n', "parquet": 'format = "parquet"\ncompression = "zstd"\n'}


class Memory(threading.Thread):
    """The process's resident memory, looked at again and again; `since` begins a new highest."""

    def __init__(self, process: Process):
        super().__init__(daemon=True)
        self.path = pathlib.Path(f"/proc/{process.child.pid}/status")
        self.highest = 0
        self.start()

    def now(self) -> int:
        told = [line.split()[1] for line in self.path.read_text().splitlines() if line.startswith("VmRSS:")]
        return int(told[0]) >> 10 if told else 0

    def run(self) -> None:
        while self.path.exists():
            try:
                self.highest = max(self.highest, self.now())
            except OSError:
                return
            time.sleep(0.25)

    def since(self) -> int:
        """The highest since the last call, MB."""
        told, self.highest = self.highest, 0
        return told


def on_disk(folder: pathlib.Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()) >> 20


def load(listen: int, seconds: float, rate: float, each_minute) -> tuple[int, float]:
    """Writes for so long; changes, and a second's."""
    orders = MongoClient(f"mongodb://127.0.0.1:{listen}/?directConnection=true")["shop"]["orders"]
    changes, inserts, began, told = 0, 0, time.monotonic(), 60.0
    while (spent := time.monotonic() - began) < seconds:
        if rate and changes > rate * spent:
            time.sleep(changes / rate - spent)
            continue
        more = range(inserts, inserts + BATCH * 2 // 3)
        writes = [InsertOne({"_id": n, "status": "new", "text": "x" * 340, "n": n}) for n in more]
        inserts += len(writes)
        writes += [UpdateOne({"_id": n}, {"$set": {"status": f"paid {changes}"}}) for n in more[::2]]
        orders.bulk_write(writes, ordered=False)
        changes += len(writes)
        if spent > told:
            told += 60.0
            each_minute()
    return changes, changes / (time.monotonic() - began)


def delivered(folder: pathlib.Path) -> int:
    """Changes of the orders in windows that verify."""
    done = subprocess.run([os.environ["TIDELOG_BIN"], "verify", folder, "--json"], capture_output=True, text=True)
    verdict = json.loads(done.stdout)
    assert done.returncode == 0 and verdict["finding"] is None, done.stdout + done.stderr
    return verdict["changes"]


def main() -> None:
    seconds, rate = (float(sys.argv[n]) if len(sys.argv) > n else default for n, default in ((1, 120), (2, 0)))
    rows = []
    with tempfile.TemporaryDirectory(prefix="tidelog-outage-") as name:
        folder = pathlib.Path(name)
        bench = Bench(folder, oplog=100_000)
        try:
            mounts = {form: folder / f"mount-{form}" for form in FORMS}
            sinks = ""
            for form, mount in mounts.items():
                mount.symlink_to(folder / f"not-there-{form}")
                sinks += f'[sinks.{form}]\ntype = "folder"\ndir = "{mount}/export"\n{FORMS[form]}'
            process, listen, admin = bench.sidecar(sinks, "idle_ms = 1000\n")
            until(lambda: process.lives() and metrics(admin).get("tidelog_ready") == 1, "sidecar")
            memory = Memory(process)
            each = []
            changes, told = load(listen, seconds, rate, lambda: each.append(memory.since()))
            each.append(memory.since())
            until(lambda: metrics(admin).get("tidelog_settling_records") == 0, "settled log")
            lag = {form: metrics(admin)[f'tidelog_export_lag_records{{sink="{form}"}}'] for form in FORMS}
            assert all(records >= changes for records in lag.values()), lag
            print(f"{changes:,} changes in {seconds:,.0f} s, {told:,.0f} a second; the sinks were away, the log has {on_disk(folder / 'data'):,} MB")
            print(f"memory of the sidecar, highest of each minute, MB: {' '.join(map(str, each))}", flush=True)
            for form, mount in mounts.items():
                (folder / f"not-there-{form}").mkdir()
                label, memory.highest = f'{{sink="{form}"}}', 0
                began, first = time.monotonic(), None

                def caught_up(label=label) -> bool:
                    nonlocal first
                    now = metrics(admin)
                    if first is None and now.get(f"tidelog_exported_records_total{label}", 0):
                        first = time.monotonic()
                    return process.lives() and now.get(f"tidelog_export_lag_records{label}", 1) == 0

                until(caught_up, form, 7_200)
                took = time.monotonic() - began
                row = [form, f"{took:.1f}", f"{first - began:.1f}", f"{lag[form] / took:,.0f}", f"{lag[form] / took / told:.1f}", f"{memory.since()}"]
                rows.append(row)
                print(f"{form} is there", flush=True)
            process.end()
            for form, mount in mounts.items():
                counted = delivered(mount / "export")
                assert counted == changes, (form, counted, changes)
        finally:
            bench.end()
    head = ["", "caught up in s", "of it until the first window", "records/s", "times the load's rate", "memory at most, MB"]
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |")
    print("every window verified, every change counted")


main()
