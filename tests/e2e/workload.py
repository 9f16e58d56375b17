"""Starts worker processes, and judges their diaries against the log."""

import json
import pathlib
import re
import sys
import time
from collections import Counter

from process import Process
from pymongo import MongoClient
from shapes import COLD, FOLDED, HOT, IDS
from txn_judge import Transactions
from validator import Record

TOKEN = re.compile(rb"T\d+-\d+-\d+~")
COLLATED = ["e2e." + FOLDED]
HERE = pathlib.Path(__file__).parent


def prepare(client: MongoClient) -> None:
    """The collections with options of their own; the others come to be by their first write."""
    db = client["e2e"]
    db.create_collection(FOLDED, collation={"locale": "en", "strength": 2})
    db.create_collection("validated", validator={"v": {"$type": "number", "$gte": 0}})
    db.create_collection(COLD)
    db["unique"].create_index("u", unique=True)
    assert db.name == "e2e" and HOT and IDS


def tokens_in(image: bytes) -> Counter[str]:
    """How often each stands in an image."""
    return Counter(t.decode() for t in TOKEN.findall(image))


class Workload:
    """`processes` × `threads` concurrent clients."""

    def __init__(self, folder: pathlib.Path, uri: str, seed: int, actions: int, processes: int = 4, threads: int = 3, **options):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.workers = []
        self.read: dict[str, tuple[int, int]] = {}
        for number in range(processes):
            config = {"folder": str(folder), "uri": uri, "seed": seed, "actions": actions, "threads": threads}
            config |= {"first": number * threads, "only": options.get("only"), "pause": options.get("pause", 0)}
            config |= {"forgetful": options.get("forgetful", False)}
            argv = [sys.executable, str(HERE / "worker.py"), json.dumps(config)]
            self.workers.append(Process(argv, folder / f"worker-{number}.log"))

    def running(self) -> bool:
        return any(w.alive() for w in self.workers)

    def await_progress(self, commands: int, seconds: float = 10) -> None:
        """Waits until the clients have made about this many commands more; goes on after `seconds`."""
        def written() -> int:
            return sum(p.stat().st_size for p in self.folder.glob("diary-*.jsonl"))

        goal, deadline = written() + commands * 320, time.monotonic() + seconds
        while written() < goal and time.monotonic() < deadline:
            time.sleep(0.01)

    def acks(self) -> int:
        """How many commands were acknowledged so far."""
        total = 0
        for path in self.folder.glob("diary-*.jsonl"):
            at, count = self.read.get(path.name, (0, 0))
            with open(path, "rb") as file:
                file.seek(at)
                fresh = file.read()
            whole = fresh.rfind(b"\n") + 1
            count += fresh[:whole].count(b'{"ack"')
            self.read[path.name] = (at + whole, count)
            total += count
        return total

    def ended(self) -> str:
        """What the workers said that ended."""
        return "\n".join(w.output()[-2000:] for w in self.workers if not w.alive())

    def stop(self) -> None:
        """Asks all threads to end after the action they are in."""
        (self.folder / "stop").touch()

    def kill(self) -> None:
        """kill -9: whatever they were doing."""
        for worker in self.workers:
            worker.kill()

    def wait(self, seconds: float) -> "Diaries":
        """Waits for all workers and reads what they wrote; a worker that failed is an error."""
        deadline = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > deadline:
                outputs = "\n".join(w.output()[-800:] for w in self.workers)
                raise AssertionError(f"clients hang: the workload did not end in {seconds} s\n{outputs}")
            time.sleep(0.05)
        diaries = Diaries(self.folder)
        assert not diaries.faults, diaries.faults[0]
        failed = [w.output()[-2000:] for w in self.workers if w.child.returncode]
        assert not failed, failed[0]
        return diaries


class Diaries:
    """What the clients did and were told."""

    def __init__(self, folder: pathlib.Path):
        self.tried: dict[str, str] = {}
        self.acks: list[dict] = []
        self.errors: list[dict] = []
        self.faults: list[str] = []
        self.folder = folder
        for path in sorted(folder.glob("diary-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                if "try" in entry:
                    self.tried[entry["try"]] = entry["shape"]
                elif "ack" in entry:
                    self.acks.append(entry)
                elif "error" in entry:
                    self.errors.append(entry)
                elif "fault" in entry:
                    self.faults.append(entry["fault"])

    def effective(self) -> Counter:
        """How many acknowledged commands of each shape changed something, as far as their replies tell."""
        return Counter(a["shape"] for a in self.acks if a["changed"] or a["least"] or a["see"])

    def codes(self) -> Counter:
        return Counter((e["shape"], e["kind"], e["code"]) for e in self.errors)


class Witness:
    """Collects from the log what the diaries are judged by; give `see` to the fold as `watch`."""

    def __init__(self):
        self.by_comment: Counter[str] = Counter()
        self.in_images: set[str] = set()
        self.gone: set[str] = set()
        # What was written, acknowledged, and no longer there when it was read.
        self.lost: set[str] = set()
        self.transactions = Transactions()

    def see(self, record: Record) -> None:
        if record.control is not None:
            return
        self.by_comment[record.get("comment") or ""] += 1
        self.transactions.see(record, tokens_in)
        if record.after is not None:
            self.in_images.update(tokens_in(record.after).keys())
        else:
            if record.op == "observed":
                self.lost.add(record.get("comment") or "")
            self.gone.add(record.get("id") if isinstance(record.get("id"), str) else "")

    def judge(self, diaries: Diaries, exact: bool, lossy: bool = False, forgets: bool = False) -> list[str]:
        """What is wrong. `exact`: nothing was killed, so the number of records of each command is known from its reply.
        `lossy`: the store may have lost what it acknowledged. `forgets`: it may have forgotten that it committed."""
        wrong = self.transactions.judge(diaries, lossy, forgets)
        for ack in diaries.acks:
            token, found = ack["ack"], self.by_comment[ack["ack"]]
            if ack["see"] and token not in self.in_images and not (lossy and token in self.lost):
                wrong.append(f"acknowledged, not in the log: {ack}")
            # Of the documents named, some may never have come to be (their insert was not acknowledged).
            if ack["gone"] and len(self.gone.intersection(ack["gone"])) < ack["changed"]:
                wrong.append(f"deleted, not in the log: {ack}")
            if exact and ack["changed"] is not None and found != ack["changed"]:
                wrong.append(f"{found} records for {ack}")
            if exact and found < ack["least"]:
                wrong.append(f"only {found} records for {ack}")
        ghosts = self.in_images - set(diaries.tried)
        wrong += [f"in the log, never written: {t}" for t in sorted(ghosts)[:5]]
        wrong += [f"comment of nobody: {t}" for t in self.by_comment if t and t not in diaries.tried][:5]
        return wrong


def twice_applied(client: MongoClient) -> list:
    """Shared documents in which one command has left two marks, or whose counter disagrees with their marks."""
    found = []
    for document in client["e2e"][HOT].find():
        marks = document.get("marks", [])
        if len(marks) != len(set(marks)) or document.get("n") != len(marks):
            found.append((document["_id"], document.get("n"), len(marks), len(set(marks))))
    return found
