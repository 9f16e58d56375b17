"""The independent judge: reads records and windows with `json` and its own Extended JSON reader, and knows the rules.

Rules of a record stream (`Fold`):
  dense lsn; one log id; hlc never goes back; per (ns, key) seq is dense within an epoch and starts at 1 in a higher one;
  `before` is what the fold holds (an observed record tells it again); image hashes and the change hash are right;
  each change changes something; equal `_id`s have one key and unequal ones have two; a lower epoch never follows a higher one;
  `found` says why an observed change was read, and is there for no other; what belongs together stands together (validator_batch).
Rules of an export (`check_export`): see there.

A broken rule raises `Broken` and names the window, line and record.
"""

import base64
import hashlib
import json
import pathlib
from collections import Counter

import ejson
from identity import id_of, same_key
from validator_batch import Batches

MODULUS = 1 << 256
FOUND = {"touch", "snapshot", "recovery", "bypass", "ttl", "aggregation", "catchUp", "reconcile", "storeLoss"}


class Broken(AssertionError):
    """A rule does not hold."""


def sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


class Record:
    """One parsed line."""

    def __init__(self, line: str):
        self.fields = ejson.parse(line)
        self.lsn = int(self.get("lsn"))
        self.control = self.get("control")
        self.hlc = int(self.get("hlc"))
        if self.control is None:
            self.ns, self.key, self.op = self.get("ns"), self.get("key"), self.get("op")
            self.epoch, self.seq = int(self.get("epoch")), int(self.get("seq"))
            self.before, self.after = self._image("before"), self._image("after")
            self.before_sha, self.after_sha = self.get("before_sha256") or "", self.get("after_sha256") or ""

    def get(self, name: str):
        value = self.fields.get(name)
        return ejson.plain(value) if name not in ("before", "after", "id") or self.control else value

    def _image(self, side: str) -> bytes | None:
        encoded = self.fields.get(f"{side}_bson")
        if encoded is not None:
            return base64.b64decode(encoded, validate=True)
        pairs = self.fields.get(side)
        return ejson.document(pairs) if pairs is not None else None

    def change_hash(self) -> str:
        text = f"{self.epoch}:{self.seq}:{self.op}:{self.before_sha}:{self.after_sha}:{self.key}:{self.ns}"
        return sha(text.encode())


class Fold:
    """The state that a stream of records makes, and the rules it must keep on the way."""

    def __init__(self):
        self.log = None
        self.lsn = 0
        self.hlc = -1
        self.images: dict[tuple[str, str], bytes] = {}
        self.counters: dict[tuple[str, str], tuple[int, int]] = {}
        self.sums: Counter[str] = Counter()
        self.alive: Counter[str] = Counter()
        self.complete: dict[str, bool] = {}
        self.gaps: dict[int, dict] = {}
        self.closed: list[tuple[int, int]] = []
        self.reconciled: list[dict] = []
        self.identities: dict[tuple[str, object], str] = {}
        self.keys: dict[tuple[str, str], object] = {}
        self.ops: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.batches = Batches()
        self.collated: set[str] = set()

    def apply(self, line: str) -> Record:
        """Takes the next line."""
        record = Record(line)
        try:
            self._order(record)
            self.batches.see(record, expect)
            if record.control is None:
                self._change(record)
            else:
                self._control(record)
        except Broken as broken:
            raise Broken(f"lsn {record.lsn}: {broken}: {line[:600]}") from None
        return record

    def _order(self, r: Record) -> None:
        expect(self.log in (None, r.get("log")), "another log id")
        self.log = r.get("log")
        expect(r.lsn == self.lsn + 1, f"lsn after {self.lsn}")
        expect(r.hlc >= self.hlc, f"the clock went back from {self.hlc}")
        self.lsn, self.hlc = r.lsn, r.hlc

    def _change(self, r: Record) -> None:
        entity = (r.ns, r.key)
        epoch, seq = self.counters.get(entity, (0, 0))
        expect(r.epoch >= epoch, f"epoch {r.epoch} after {epoch}")
        expect((r.epoch, r.seq) == (epoch, seq + 1) or (r.epoch > epoch and r.seq == 1), f"(epoch, seq) after {(epoch, seq)}")
        self.counters[entity] = (r.epoch, r.seq)
        held = self.images.get(entity)
        expect(r.before_sha == (sha(held) if held is not None else ""), "before_sha256 is not the image before")
        expect(r.before == held or (r.op == "observed" and r.before is None), "before is not the image before")
        expect(r.after_sha == (sha(r.after) if r.after is not None else ""), "after_sha256 is not that of after")
        expect(r.get("change_hash") == r.change_hash(), "change_hash")
        expect(r.after != held or r.op == "observed", "nothing changed")
        shape = (held is not None, r.after is not None)
        allowed = {"insert": [(False, True)], "update": [(True, True)], "replace": [(True, True)], "delete": [(True, False)]}
        expect(r.op == "observed" or shape in allowed.get(r.op, []), f"{r.op} with before/after {shape}")
        found = r.get("found")
        expect((found is not None) == (r.op == "observed"), f"{r.op} with found {found!r}")
        expect(found is None or found in FOUND, f"found {found!r}")
        self.found[found or ""] += 1
        self._identity(r)
        self._put(entity, r.after)
        self.ops[r.op] += 1

    def _identity(self, r: Record) -> None:
        ids = {id_of(image) for image in (r.before, r.after) if image is not None}
        expect(len({same_key(*i) for i in ids}) <= 1, "_id changed")
        told = ejson.value_bytes(r.get("id")) if r.fields.get("id_bson") is None else None
        expect(told is None or not ids or told in ids, "id is not the image's _id")
        if r.ns in self.collated or not ids:
            return
        identity = same_key(*ids.pop())
        expect(self.identities.setdefault((r.ns, identity), r.key) == r.key, "one _id, two keys")
        expect(self.keys.setdefault((r.ns, r.key), identity) == identity, "one key, two _ids")

    def _put(self, entity: tuple[str, str], image: bytes | None) -> None:
        ns = entity[0]
        old = self.images.pop(entity, None)
        if old is not None:
            self.sums[ns] -= int(sha(old), 16)
            self.alive[ns] -= 1
        if image is not None:
            self.images[entity] = image
            self.sums[ns] += int(sha(image), 16)
            self.alive[ns] += 1

    def _control(self, r: Record) -> None:
        kind = r.control
        self.ops[f"control:{kind}"] += 1
        if kind == "drop":
            self._clear(lambda ns: ns == r.get("ns"))
        elif kind == "dropDatabase":
            self._clear(lambda ns: ns.split(".", 1)[0] == r.get("db"))
        elif kind == "rename":
            self._rename(r.get("from"), r.get("to"))
        elif kind == "opened":
            self.complete[r.get("ns")] = self.complete.get(r.get("ns"), True) and r.get("complete")
        elif kind == "gapOpened":
            self.gaps[r.get("id")] = r.fields.plain()
        elif kind == "gapClosed":
            expect(self.gaps.pop(r.get("id"), None) is not None, "a gap closes that was not open")
            self.closed.append((r.get("id"), r.lsn))
        elif kind == "completed":
            expect(r.get("ns") in self.complete, "a namespace is completed that was never opened")
            self.complete[r.get("ns")] = True
        elif kind == "reconciled":
            expect(0 <= r.get("repaired") <= r.get("differing") <= r.get("entities"), "repaired ≤ differing ≤ entities")
            counted = {name: r.get(name) for name in ("ns", "whole", "entities", "differing", "repaired")}
            self.reconciled.append(counted | {"lsn": r.lsn})
        elif kind == "node":
            self.batches.node(r, expect)
        elif kind not in ("create", "collMod", "started"):
            raise Broken(f"unknown control {kind!r}")

    def _clear(self, gone) -> None:
        for entity in [e for e in self.images if gone(e[0])]:
            self._put(entity, None)
        self.complete.update({ns: True for ns in self.complete if gone(ns)})

    def _rename(self, source: str, target: str) -> None:
        self._clear(lambda ns: ns == target)
        for entity in [e for e in self.images if e[0] == source]:
            image = self.images[entity]
            self._put(entity, None)
            self._put((target, entity[1]), image)
        self.complete[target] = self.complete.get(source, True)
        self.complete[source] = True

    def fingerprint(self, ns: str) -> tuple[int, str]:
        """Entities alive and the sum of their hashes."""
        return self.alive[ns], f"{self.sums[ns] % MODULUS:064x}"

    def documents(self) -> dict[str, list[bytes]]:
        """namespace -> sorted images, to be compared with a dump."""
        found: dict[str, list[bytes]] = {}
        for (ns, _), image in self.images.items():
            found.setdefault(ns, []).append(image)
        return {ns: sorted(images) for ns, images in found.items()}


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Broken(what)


def fold_lines(lines, collated=(), watch=None) -> Fold:
    """Folds `tidelog log` output; `watch` sees each record."""
    fold = Fold()
    fold.collated = set(collated)
    for line in lines:
        record = fold.apply(line)
        if watch:
            watch(record)
    fold.batches.end(expect)
    return fold


def windows_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """Complete windows in order: those with a manifest."""
    found = sorted(p for p in folder.glob("window-*") if (p / "manifest.json").exists())
    for number, path in enumerate(found, 1):
        expect(path.name == f"window-{number:010d}", f"{path.name} stands where window {number} belongs")
    return found


def check_export(folder: pathlib.Path, collated=(), watch=None, ended=None) -> tuple[Fold, list[dict]]:
    """Folds all windows and checks each manifest: ids and lsn follow each other, the previous manifest's hash, bytes, count
    and SHA-256 of each file, counts by namespace and operation, clock range, fingerprints and completeness at the end, and that
    it does not end where none may. `watch` sees each record, `ended` the fold and the manifest at the end of each window."""
    fold, manifests, previous = Fold(), [], ""
    fold.collated = set(collated)
    for number, window in enumerate(windows_of(folder), 1):
        raw = (window / "manifest.json").read_bytes()
        manifest = json.loads(raw)
        try:
            check_window(fold, window, manifest, number, previous, watch)
        except Broken as broken:
            raise Broken(f"{window.name}: {broken}") from None
        previous = sha(raw)
        manifests.append(manifest)
        if ended:
            ended(fold, manifest)
    fold.batches.ends([m["last_lsn"] for m in manifests], expect)
    return fold, manifests


def check_window(fold: Fold, window: pathlib.Path, manifest: dict, number: int, previous: str, watch) -> None:
    expect(manifest["window"] == number, f"window id {manifest['window']}")
    expect((manifest.get("previous_manifest_sha256") or "") == previous, "hash of the previous manifest")
    first, clocks, counts = fold.lsn + 1, [], Counter()
    for file in manifest["files"]:
        content = (window / file["name"]).read_bytes()
        expect(len(content) == file["bytes"] and sha(content) == file["sha256"], f"{file['name']}: bytes or hash")
        expect(not content or content.endswith(b"\n"), f"{file['name']}: the last line is not ended")
        lines = content.decode().split("\n")[:-1]
        expect(len(lines) == file["records"], f"{file['name']}: {len(lines)} records")
        for line in lines:
            record = fold.apply(line)
            clocks.append(record.hlc)
            counts[about(record)] += 1
            if watch:
                watch(record)
    fold.batches.end(expect)
    check_ranges(manifest, first, fold.lsn, clocks)
    check_counts(manifest, counts)
    check_namespaces(fold, manifest)


def about(record: Record) -> tuple[str, str]:
    """Under which namespace (or database; empty: the whole log) and word a record is counted."""
    if record.control is None:
        return record.ns, record.op
    return record.get("ns") or record.get("db") or record.get("from") or "", record.control


def check_ranges(manifest: dict, first: int, last: int, clocks: list[int]) -> None:
    expect(manifest["first_lsn"] == first and manifest["last_lsn"] == last, f"lsn range, found {first}..{last}")
    expect(manifest["records"] == last - first + 1, "records")
    if clocks:
        expect((int(manifest["first_hlc"]), int(manifest["last_hlc"])) == (clocks[0], clocks[-1]), "clock range")


def check_counts(manifest: dict, found: Counter) -> None:
    told = Counter({(ns, word): n for ns, words in manifest["counts"].items() for word, n in words.items()})
    expect(told == found, f"counts {dict(told - found)} too many, {dict(found - told)} too few")


def check_namespaces(fold: Fold, manifest: dict) -> None:
    told = {n["ns"]: n for n in manifest["namespaces"]}
    for ns, entry in told.items():
        expect((entry["alive"], entry["fingerprint"]) == fold.fingerprint(ns), f"fingerprint of {ns}: {fold.fingerprint(ns)}")
        complete = fold.complete.get(ns, True)
        expect(entry["complete"] == complete, f"complete of {ns} is {entry['complete']}, the records say {complete}")
    silent = [ns for ns, n in fold.alive.items() if n and ns not in told]
    expect(not silent, f"namespaces without a fingerprint: {silent}")
    check_events(fold, manifest)


def check_events(fold: Fold, manifest: dict) -> None:
    """Gaps that closed inside the window, then those open at its end; comparisons that ended in it."""
    told = [(g["id"], g.get("until_lsn")) for g in manifest["gaps"]]
    found = fold.closed + [(n, None) for n in sorted(fold.gaps)]
    expect(told == found, f"gaps {told} told, {found} found")
    expect(all(g["remedy"] for g in manifest["gaps"]), "a gap without a remedy")
    expect(manifest.get("reconciled", []) == fold.reconciled, f"comparisons told {manifest.get('reconciled')}, found {fold.reconciled}")
    fold.closed, fold.reconciled = [], []
