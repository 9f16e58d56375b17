"""How much memory the sidecar takes as the number of entities grows: ten million of them, in one command.

    ~/.cache/tidelog/venv/bin/python tests/e2e/long/entities.py [COUNT] [FOLDER]

Starts a store and a sidecar (the same binaries as the tests: TIDELOG_BIN, TIDELOG_STORE_BIN), inserts COUNT small documents (default 10,000,000)
in batches of 5,000 over two connections, then updates every 1,000th of them one by one, and prints what the sidecar's process had in
memory at each tenth: all of it (RSS), and what is its own (RssAnon: heap and stacks, without pages of files that the kernel
may take back). Ends with 1 when its own memory went above 150 MB plus the index's cache (64 MB). Nothing is verified here; `test_limits.py` does the
same with few entities and all oracles.
"""

import pathlib
import re
import struct
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import bson  # noqa: E402
from bson.son import SON  # noqa: E402
from sidecar import Sidecar  # noqa: E402
from store import Store  # noqa: E402
from wire import Raw  # noqa: E402

BATCH = 5_000
BOUND_MB = 150 + 64


def memory(pid: int) -> tuple[int, int]:
    """(RSS, RssAnon) in MB."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return tuple(int(re.search(rf"{name}:\s+(\d+)", text)[1]) // 1024 for name in ("VmRSS", "RssAnon"))


def documents(first: int, count: int) -> list[bytes]:
    """Small documents, packed by hand: {_id: int64, n: int32, t: 24 bytes of text}."""
    text = b"\2t\0" + struct.pack("<i", 25) + b"twenty-four bytes of it." + b"\0"
    body = [b"\x12_id\0" + struct.pack("<q", n) + b"\x10n\0" + struct.pack("<i", n % 1000) + text + b"\0" for n in range(first, first + count)]
    return [struct.pack("<i", len(b) + 4) + b for b in body]


class Load:
    """Inserts from a few connections; `peak` is looked at by the one who prints."""

    def __init__(self, sidecar: Sidecar, first: int, count: int, connections: int = 2):
        self.sidecar, self.end, self.done = sidecar, first + count, 0
        self.lock = threading.Lock()
        self.next = first
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(connections)]
        for thread in self.threads:
            thread.start()

    def _work(self) -> None:
        with Raw(self.sidecar.listen, timeout=600) as raw:
            while True:
                with self.lock:
                    first, self.next = self.next, self.next + BATCH
                if first >= self.end:
                    return
                packed = documents(first, min(BATCH, self.end - first))
                reply = raw.command(SON({"insert": "c", "$db": "many"}), {"documents": packed})
                assert reply.get("n") == len(packed), reply
                with self.lock:
                    self.done += len(packed)

    def running(self) -> bool:
        return any(t.is_alive() for t in self.threads)


def grow(sidecar: Sidecar, count: int, start: int = 0) -> int:
    """Inserts `count` entities; tells the greatest own memory in MB."""
    load, peak, told, began = Load(sidecar, start, count), 0, 0, time.monotonic()
    while load.running():
        time.sleep(0.1)
        sidecar.process.must_live()
        rss, own = memory(sidecar.process.pid)
        peak = max(peak, own)
        if load.done >= told:
            rate = load.done / (time.monotonic() - began)
            print(f"{load.done:>12,} entities  {rss:>5} MB RSS  {own:>5} MB own  {peak:>5} MB own at most  {rate:>8,.0f}/s", flush=True)
            told += max(1, count // 10)
    assert load.done == count, "an insert failed; see above"
    return peak


def touch(sidecar: Sidecar, count: int) -> int:
    """Updates every thousandth, one at a time; tells the greatest own memory in MB."""
    peak = 0
    with sidecar.client(directConnection=True) as client:
        collection = client["many"]["c"]
        for n in range(0, count, 1_000):
            assert collection.update_one({"_id": bson.Int64(n)}, {"$inc": {"n": 1}}).modified_count == 1
            if n % 50_000 == 0:
                peak = max(peak, memory(sidecar.process.pid)[1])
    return peak


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        place = pathlib.Path(folder)
        store = Store(place / "store").start()
        sidecar = Sidecar(place / "tidelog", store.address).start()
        try:
            peak = grow(sidecar, count)
            peak = max(peak, touch(sidecar, count))
            sidecar.cut()
            rss, own = memory(sidecar.process.pid)
            print(f"after the last window {rss} MB RSS, {own} MB own; at most {peak} MB own; the bound is {BOUND_MB} MB")
            sidecar.kill()
            began = time.monotonic()
            sidecar.start()
            rss, own = memory(sidecar.process.pid)
            print(f"started again in {time.monotonic() - began:.1f} s: {rss} MB RSS, {own} MB own")
            return 0 if max(peak, own) <= BOUND_MB else 1
        finally:
            sidecar.kill()
            store.kill()


if __name__ == "__main__":
    sys.exit(main())
