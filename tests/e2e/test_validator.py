"""The judge is judged: a good stream and export pass, and each rule is seen to fail when it is broken."""

import base64
import hashlib
import json

import bson
import ejson
import pytest
from bson import Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, json_util
from identity import id_of, same_key
from ids import pool
from validator import Broken, Fold, about, check_export, fold_lines

MODULUS = 1 << 256


def sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def text(document: dict) -> str:
    return json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS)


def change(lsn: int, seq: int, op: str, before: dict | None, after: dict | None, **other) -> dict:
    """A record as the exporter writes it."""
    image = after or before
    record = {"log": "l", "lsn": lsn, "ns": "d.c", "id": json.loads(text({"x": image["_id"]}))["x"], "key": f"k{image['_id']}", "epoch": 1, "seq": seq, "op": op}
    for side, document in (("before", before), ("after", after)):
        record[side] = json.loads(text(document)) if document is not None else None
        record[f"{side}_sha256"] = sha(bson.encode(document)) if document is not None else None
    record |= {"hlc": f"{1000 + lsn}", "wall": "", "comment": "", "txn": None, "continued": False}
    record |= {"found": "touch" if op == "observed" else None} | other
    hashed = [record["epoch"], record["seq"], op, record["before_sha256"] or "", record["after_sha256"] or "", record["key"], record["ns"]]
    record["change_hash"] = sha(":".join(map(str, hashed)).encode())
    return record | other


def control(lsn: int, word: str, **fields) -> dict:
    """A control record as the exporter writes it."""
    return {"log": "l", "lsn": lsn, "control": word, **fields, "hlc": f"{1000 + lsn}", "wall": "", "continued": False}


def part(index: int, count: int, number: int = 7, lsid: str = "s") -> dict:
    """The fields that make a change the `index`th of a transaction of `count`."""
    return {"txn": {"lsid": lsid, "txn_number": number, "index": index, "count": count}, "continued": index < count}


ONE, TWO, THREE = {"_id": 1, "v": 1}, {"_id": 1, "v": Int64(2)}, {"_id": 1, "v": 2.5}


def stream() -> list[dict]:
    return [
        control(1, "opened", ns="d.c", complete=True),
        change(2, 1, "insert", None, ONE),
        change(3, 2, "update", ONE, TWO),
        change(4, 3, "delete", TWO, None),
        change(5, 4, "insert", None, THREE),
        change(6, 1, "insert", None, {"_id": 2, "v": 1}),
        control(7, "rename", **{"from": "d.c", "to": "d.e"}),
    ]


def fold(records: list[dict]):
    return fold_lines(json.dumps(r) for r in records)


def test_a_good_stream():
    documents = fold(stream()).documents()
    assert documents == {"d.e": sorted([bson.encode(THREE), bson.encode({"_id": 2, "v": 1})])}


BREAKS = {
    "a hole in lsn": lambda s: s[3].update(lsn=9),
    "another log": lambda s: s[2].update(log="m"),
    "the clock goes back": lambda s: s[3].update(hlc="0"),
    "a hole in seq": lambda s: s.__setitem__(2, change(3, 3, "update", ONE, TWO)),
    "seq again": lambda s: s.__setitem__(2, change(3, 1, "update", ONE, TWO)),
    "an epoch that does not start at 1": lambda s: s.__setitem__(2, change(3, 2, "update", ONE, TWO, epoch=2)),
    "before is not what was": lambda s: s.__setitem__(2, change(3, 2, "update", THREE, TWO)),
    "after hash": lambda s: s[2].update(after_sha256="0" * 64),
    "before hash": lambda s: s[2].update(before_sha256="0" * 64),
    "after bytes": lambda s: s[2].update(after={"_id": {"$numberInt": "1"}, "v": {"$numberInt": "2"}}),
    "change hash": lambda s: s[2].update(change_hash="0" * 64),
    "nothing changed": lambda s: s.__setitem__(2, change(3, 2, "update", ONE, ONE)),
    "insert over a living one": lambda s: s.__setitem__(2, change(3, 2, "insert", ONE, TWO)),
    "update of nothing": lambda s: s.__setitem__(1, change(2, 1, "update", None, ONE)),
    "one id, two keys": lambda s: s.__setitem__(5, change(6, 1, "insert", None, {"_id": 1.0}, key="other")),
    "two ids, one key": lambda s: s.__setitem__(5, change(6, 5, "update", THREE, {"_id": 2, "v": 1}, key="k1")),
    "a changed id": lambda s: s[1].update(id={"$numberInt": "7"}),
    "an unknown control": lambda s: s[6].update(control="frob"),
}


@pytest.mark.parametrize("what", list(BREAKS))
def test_broken_streams(what):
    records = stream()
    BREAKS[what](records)
    with pytest.raises(Broken):
        fold(records)


def rich() -> list[dict]:
    """Transactions, observations and the controls of an eventful life."""
    return [
        control(1, "opened", ns="d.c", complete=False),
        change(2, 1, "observed", None, ONE, found="snapshot"),
        control(3, "completed", ns="d.c"),
        change(4, 2, "update", ONE, TWO, **part(1, 3)),
        change(5, 1, "insert", None, {"_id": 2}, **part(2, 3)),
        change(6, 3, "update", {"_id": 1, "v": Int64(2)}, THREE, **part(3, 3)),
        change(7, 4, "update", THREE, ONE, **part(1, 1, number=8)),
        control(8, "reconciled", ns="d.c", whole=True, entities=2, differing=1, repaired=1),
        change(9, 2, "observed", {"_id": 2}, None, found="storeLoss"),
        control(10, "node", process="ab", term=2, rbid=1, epoch=2, unproven=8),
        change(11, 1, "update", ONE, TWO, epoch=2),
        control(12, "node", process="ac", term=2, rbid=1, epoch=2, unproven=11),
    ]


def test_a_rich_stream():
    found = fold(rich())
    assert found.documents() == {"d.c": [bson.encode(TWO)]} and found.complete == {"d.c": True}
    assert found.found == {"snapshot": 1, "storeLoss": 1, "": 5}


def swapped(records: list[dict], one: int, other: int) -> None:
    """Two records change their places and keep the numbers and clocks of the places."""
    a, b = records[one], records[other]
    for field in ("lsn", "hlc"):
        a[field], b[field] = b[field], a[field]
    records[one], records[other] = b, a


RICH_BREAKS = {
    "a change between": lambda s: s[4].update(txn=None),
    "a control between": lambda s: s.__setitem__(4, control(5, "create", ns="d.e", options="")),
    "begins with 2": lambda s: s[3]["txn"].update(index=2),
    "an index twice": lambda s: s[4]["txn"].update(index=1),
    "an index left out": lambda s: s[4]["txn"].update(index=3),
    "index past count": lambda s: s[6]["txn"].update(index=2),
    "index 0": lambda s: s[6]["txn"].update(index=0),
    "two counts": lambda s: s[4]["txn"].update(count=4),
    "two numbers": lambda s: s[4]["txn"].update(txn_number=9),
    "two sessions": lambda s: s[4]["txn"].update(lsid="other"),
    "two users": lambda s: s[4].update(origin={"user": "other"}),
    "not continued": lambda s: s[4].update(continued=False),
    "continued past its end": lambda s: s[5].update(continued=True),
    "continued is missing": lambda s: s[1].pop("continued"),
    "there twice": lambda s: s[6]["txn"].update(txn_number=7),
    "observed inside": lambda s: s.__setitem__(4, change(5, 1, "observed", None, {"_id": 2}, **part(2, 3))),
    "observed begins": lambda s: s.__setitem__(6, change(7, 4, "observed", THREE, ONE, **part(1, 1, number=8))),
    "ends inside": lambda s: s.__delitem__(slice(5, None)),
    "ends continued": lambda s: s[-1].update(continued=True),
    "observed without found": lambda s: s[1].update(found=None),
    "found of a write": lambda s: s[10].update(found="touch"),
    "found is no word": lambda s: s[1].update(found="luck"),
    "completed but not opened": lambda s: s[2].update(ns="d.x"),
    "more repaired than differ": lambda s: s[7].update(repaired=2),
    "more differ than are": lambda s: s[7].update(differing=3),
    "the epoch of nodes goes back": lambda s: s[11].update(epoch=1),
    "unproven is later": lambda s: s[9].update(unproven=10),
    "an epoch goes back": lambda s: s.__setitem__(11, change(12, 5, "update", TWO, THREE)),
    "order within a transaction": lambda s: swapped(s, 3, 5),
}


@pytest.mark.parametrize("what", list(RICH_BREAKS))
def test_broken_rich_streams(what):
    records = rich()
    RICH_BREAKS[what](records)
    with pytest.raises(Broken):
        fold(records)


def bare_export(folder, records: list[dict], ends: list[int]) -> None:
    """Windows that end at these lsn, with manifests made from what the fold says."""
    previous, begin, made = None, 0, Fold()
    for number, end in enumerate(ends, 1):
        window = folder / f"window-{number:010d}"
        window.mkdir(parents=True)
        inside, counts = records[begin:end], {}
        content = "".join(json.dumps(r) + "\n" for r in inside).encode()
        (window / "records.jsonl").write_bytes(content)
        for record in map(made.apply, content.decode().splitlines()):
            ns, word = about(record)
            counts.setdefault(ns, {}).setdefault(word, 0)
            counts[ns][word] += 1
        alive, print_ = made.fingerprint("d.c")
        manifest = {"window": number, "first_lsn": begin + 1, "last_lsn": end, "first_hlc": inside[0]["hlc"], "last_hlc": inside[-1]["hlc"]}
        gaps = [{"id": n, "until_lsn": lsn, "remedy": "it is closed"} for n, lsn in made.closed]
        gaps += [{"id": n, "until_lsn": None, "remedy": "wait"} for n in sorted(made.gaps)]
        manifest |= {"records": len(inside), "counts": counts, "gaps": gaps, "previous_manifest_sha256": previous}
        manifest["reconciled"], made.closed, made.reconciled = made.reconciled, [], []
        manifest["namespaces"] = [{"ns": "d.c", "alive": alive, "fingerprint": print_, "complete": made.complete["d.c"]}]
        manifest["files"] = [{"name": "records.jsonl", "bytes": len(content), "records": len(inside), "sha256": sha(content)}]
        (window / "manifest.json").write_text(json.dumps(manifest))
        previous, begin = sha((window / "manifest.json").read_bytes()), end


@pytest.mark.parametrize("ends", [[1, 3, 6, 8, 10, 12], [12], [2, 7, 11]], ids=str)
def test_windows_that_may_end_there(tmp_path, ends):
    bare_export(tmp_path, rich(), ends)
    check_export(tmp_path)


@pytest.mark.parametrize("ends", [[4, 12], [5, 12], [9, 12]], ids=str)
def test_windows_that_may_not_end_there(tmp_path, ends):
    """Inside a transaction, and between what was unproven and the node record."""
    bare_export(tmp_path, rich(), ends)
    with pytest.raises(Broken, match="it ends|a window ends"):
        check_export(tmp_path)


CLOSED = {"id": 1, "until_lsn": 5, "remedy": "it is closed"}


@pytest.mark.parametrize("edit", [lambda m: m["gaps"].append(CLOSED), lambda m: m["reconciled"].pop()], ids=["gap", "comparison"])
def test_gaps_and_comparisons_are_compared(tmp_path, edit):
    """A gap that never closed inside the window is told, or a comparison that ended in it is not."""
    bare_export(tmp_path, rich(), [12])
    path = tmp_path / "window-0000000001" / "manifest.json"
    told = json.loads(path.read_text())
    edit(told)
    path.write_text(json.dumps(told))
    with pytest.raises(Broken, match="gaps|comparisons"):
        check_export(tmp_path)


def test_completeness_is_compared(tmp_path):
    bare_export(tmp_path, rich(), [2, 12])
    path = tmp_path / "window-0000000002" / "manifest.json"
    told = json.loads(path.read_text())
    told["namespaces"][0]["complete"] = False
    path.write_text(json.dumps(told))
    with pytest.raises(Broken, match="complete"):
        check_export(tmp_path)


def export(folder, records: list[dict], edit=lambda manifest: None) -> None:
    """Writes the stream as two windows."""
    previous, sums = None, []
    for number, part in enumerate((records[:4], records[4:]), 1):
        window = folder / f"window-{number:010d}"
        window.mkdir(parents=True)
        content = "".join(json.dumps(r) + "\n" for r in part).encode()
        (window / "records.jsonl").write_bytes(content)
        counts = {}
        for r in part:
            word = r.get("op") or r["control"]
            counts.setdefault("d.c", {}).setdefault(word, 0)
            counts["d.c"][word] += 1
        alive = [] if number == 1 else [bson.encode(THREE), bson.encode({"_id": 2, "v": 1})]
        sums = f"{sum(int(sha(d), 16) for d in alive) % MODULUS:064x}"
        zero = {"ns": "d.c", "alive": 0, "fingerprint": "0" * 64, "complete": True}
        spaces = [zero] if number == 1 else [zero, {"ns": "d.e", "alive": 2, "fingerprint": sums, "complete": True}]
        manifest = {"window": number, "first_lsn": part[0]["lsn"], "last_lsn": part[-1]["lsn"], "first_hlc": part[0]["hlc"], "last_hlc": part[-1]["hlc"]}
        manifest |= {"records": len(part), "counts": counts, "namespaces": spaces, "gaps": [], "previous_manifest_sha256": previous}
        manifest["files"] = [{"name": "records.jsonl", "bytes": len(content), "records": len(part), "sha256": sha(content)}]
        if number == 2:
            edit(manifest)
        (window / "manifest.json").write_text(json.dumps(manifest))
        previous = sha((window / "manifest.json").read_bytes())


def test_a_good_export(tmp_path):
    export(tmp_path, stream())
    found, manifests = check_export(tmp_path)
    assert len(manifests) == 2 and found.lsn == 7


EDITS = {
    "window id": lambda m: m.update(window=3),
    "first lsn": lambda m: m.update(first_lsn=4),
    "last lsn": lambda m: m.update(last_lsn=8),
    "clock": lambda m: m.update(last_hlc="9"),
    "previous": lambda m: m.update(previous_manifest_sha256="0" * 64),
    "bytes": lambda m: m["files"][0].update(bytes=1),
    "records": lambda m: m["files"][0].update(records=1),
    "file hash": lambda m: m["files"][0].update(sha256="0" * 64),
    "count": lambda m: m["counts"]["d.c"].update(insert=3),
    "a count of nothing": lambda m: m["counts"].update({"d.x": {"delete": 1}}),
    "alive": lambda m: m["namespaces"][1].update(alive=1),
    "fingerprint": lambda m: m["namespaces"][1].update(fingerprint="0" * 64),
    "a namespace less": lambda m: m["namespaces"].pop(),
    "a gap that is none": lambda m: m["gaps"].append({"id": 1}),
}


@pytest.mark.parametrize("what", list(EDITS))
def test_broken_exports(tmp_path, what):
    export(tmp_path, stream(), EDITS[what])
    with pytest.raises(Broken):
        check_export(tmp_path)


def test_extended_json_is_exact():
    """Each canonical text that PyMongo writes becomes the bytes from which it was written."""
    values = [*pool(), 1.5, -0.0, float("inf"), 2**40, Int64(3), Decimal128("1.10"), Regex("a/b", "im"), Timestamp(7, 9), ObjectId()]
    values += [MinKey(), MaxKey(), Code("x"), Code("x", {"y": 1}), [1, [2, {"a": []}]], {"a": {"b": None}}, "é\u2028\x00", b"raw", True]
    for value in values:
        document = {"_id": 1, "v": value, "w": [value]}
        assert ejson.document(ejson.parse(text(document))) == bson.encode(document), value


def test_images_as_base64():
    record = change(1, 1, "insert", None, ONE)
    record["after_bson"] = base64.b64encode(bson.encode(ONE)).decode()
    record["after"] = {"lossy": True}
    assert fold([record]).documents() == {"d.c": [bson.encode(ONE)]}


def test_identity():
    def key(value):
        return same_key(*id_of(bson.encode({"_id": value})))

    same = [[1, Int64(1), 1.0, Decimal128("1.0")], [0, -0.0, Decimal128("-0")], [{"a": 1}, {"a": 1.0}], [float("nan"), Decimal128("NaN")], [0.5, Decimal128("0.5")]]
    for group in same:
        assert len({key(v) for v in group}) == 1, group
    different = [0.1, Decimal128("0.1"), 2**53, Int64(2**53 + 1), "1", 1, True, None, {"a": 1}, {"a": 1, "b": 1}, {"b": 1, "a": 1}, b"1"]
    assert len({key(v) for v in different}) == len(different)
