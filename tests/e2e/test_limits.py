"""No limit that the store does not have: the greatest documents, batches, messages and `_id`s; what is not captured says so."""

import json

import bson
import pytest
from bson import Binary, Int64
from bson.son import SON
from dump import difference, dump
from pymongo.errors import OperationFailure
from sidecar import changes
from long.entities import grow, memory, touch
from test_large import judge
from validator import check_export, fold_lines
from wire import Raw

FULL = 16 << 20


def document_of(size: int, _id, filler: str) -> dict:
    """A document of exactly `size` bytes."""
    rest = size - len(bson.encode({"_id": _id, "pad": ""}))
    return {"_id": _id, "pad": filler * rest}


def test_documents_of_16_mib_before_and_after(lab):
    """The greatest document, replaced by another as great, updated, deleted: records of 32 MiB and more."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        full = client["limit"]["full"]
        full.insert_one(document_of(FULL, 1, "a"))
        assert full.replace_one({"_id": 1}, document_of(FULL, 1, "b")).modified_count == 1
        found = full.find_one_and_replace({"_id": 1}, document_of(FULL, 1, "c"))
        assert found["pad"][:1] == "b"
        assert full.update_one({"_id": 1}, {"$unset": {"pad": 1}}).modified_count == 1
        with pytest.raises(Exception) as refused:
            full.update_one({"_id": 1}, {"$set": {"a": "x" * (9 << 20), "b": "y" * (8 << 20)}})
        assert "large" in str(refused.value).lower() or "size" in str(refused.value).lower(), str(refused.value)[:300]
        full.insert_one(document_of(FULL, 2, "d"))
        assert full.delete_one({"_id": 2}).deleted_count == 1
    ops = [(c["op"], c["seq"]) for c in changes(sidecar, "--namespace", "limit.full")]
    assert ops == [("insert", 1), ("replace", 2), ("replace", 3), ("update", 4), ("insert", 1), ("delete", 2)]
    judge(store, sidecar)


def test_a_batch_of_100000_and_a_message_of_48_mb(lab):
    """One command with as many documents, and one with as many bytes, as a driver may send."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    with Raw(sidecar.listen, timeout=300) as raw:
        def insert(collection: str, documents: list[bytes]) -> dict:
            return raw.command(SON({"insert": collection, "ordered": True, "$db": "limit"}), {"documents": documents})

        assert insert("many", [bson.encode({"_id": n, "v": n % 7}) for n in range(100_000)])["n"] == 100_000
        each = bson.encode(document_of(12 << 20, 0, "x"))
        room = 48_000_000 - 3 * len(each) - 400
        rest = [bson.encode(document_of(len(each), n, "x")) for n in range(3)] + [bson.encode(document_of(room, 3, "y"))]
        assert insert("bytes", rest)["n"] == 4
    with sidecar.client() as client:
        assert client["limit"]["many"].update_many({"_id": {"$lt": 20_000}}, {"$inc": {"v": 1}}).modified_count == 20_000
        assert client["limit"]["many"].delete_many({"_id": {"$gte": 90_000}}).deleted_count == 10_000
    judge(store, sidecar)
    metrics = sidecar.metrics()
    found = [metrics[f'tidelog_changes_total{{op="{op}"}}'] for op in ("insert", "update", "delete", "observed")]
    assert found == [100_004, 20_000, 10_000, 0]


def test_large_and_strange_ids(lab):
    """`_id`s that are documents: large, nested, empty, with fields in another order; each is its own entity."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    ids = [
        SON(a=1, b=2), SON(b=2, a=1), SON(), SON(a=SON(b=SON(c=[1, {"d": None}]))), SON(text="é" * 20_000),
        SON((f"field{n}", n) for n in range(2_000)), Binary(b"x" * 30_000), "s" * 100_000, SON(a=Int64(1), b=2.0),
    ]
    with sidecar.client() as client:
        collection = client["limit"]["ids"]
        # The last one equals the first.
        for number, _id in enumerate(ids[:-1]):
            collection.insert_one(SON(_id=_id, n=number))
        with pytest.raises(OperationFailure) as twice:
            collection.insert_one(SON(_id=ids[-1], n=99))
        assert twice.value.code == 11000
        for _id in ids[:-1]:
            assert collection.update_one({"_id": _id}, {"$inc": {"n": 1}}).modified_count == 1
        assert collection.delete_one({"_id": ids[4]}).deleted_count == 1
        assert collection.update_many({}, {"$set": {"all": True}}).modified_count == len(ids) - 2
    found = changes(sidecar, "--namespace", "limit.ids")
    assert len(found) == 2 * 8 + 1 + 7 and len({c["key"] for c in found}) == 8
    judge(store, sidecar)


def test_encrypted_fields_are_values_like_others(lab):
    """Client-side encrypted fields (binary subtype 6) pass and are logged byte by byte."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        secret = client["limit"]["secret"]
        cipher = [Binary(bytes([1 + n]) + b"\x00\xff" * 40, 6) for n in range(3)]
        secret.insert_one({"_id": 1, "ssn": cipher[0]})
        assert secret.update_one({"ssn": cipher[0]}, {"$set": {"ssn": cipher[1], "more": [cipher[2]]}}).modified_count == 1
        assert secret.find_one_and_update({"ssn": cipher[1]}, {"$unset": {"more": 1}})["more"] == [cipher[2]]
    judge(store, sidecar)


def test_what_is_not_captured_says_so(lab, mode):
    """Views cannot be written; `system.*`, `config`, `local` are the server's; time series and capped collections open a gap, in
    the status and in the manifest, and their writes go through."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        db = client["limit"]
        db["base"].insert_one({"_id": 1})
        db.create_collection("view", viewOn="base", pipeline=[])
        with pytest.raises(OperationFailure) as refused:
            db["view"].insert_one({"_id": 2})
        assert refused.value.code == 166
        db.create_collection("capped", capped=True, size=1 << 20, max=3)
        for n in range(5):
            db["capped"].insert_one({"_id": n})
        db.create_collection("series", timeseries={"timeField": "t"})
        import datetime

        db["series"].insert_many({"t": datetime.datetime(2026, 1, 1, n), "v": n} for n in range(4))
        assert [d["_id"] for d in db["capped"].find()] == [2, 3, 4] and db["series"].count_documents({}) == 4
        assert [d["_id"] for d in db["view"].find()] == [1]
    sidecar.cut()
    _, manifests = check_export(sidecar.export)
    gaps = {(g["ns"], g["cause"]) for g in manifests[-1]["gaps"]}
    assert gaps == {("limit.capped", "capped"), ("limit.series", "timeseries")}
    told = {(g["ns"], g["cause"]) for g in json.loads(sidecar.http("/v1/status")[1])["gaps"]}
    assert told == gaps
    fold = fold_lines(sidecar.log_records())
    held = {ns: docs for ns, docs in dump(store.client()).items() if ns not in ("limit.capped", "limit.series")}
    assert not difference(fold.documents(), held)
    assert not [ns for ns in fold.alive if "system." in ns]


def test_memory_does_not_grow_with_entities(lab):
    """60,000 entities: what comes after the first third costs nothing more. The long form: long/entities.py, ten million."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    first = grow(sidecar, 20_000)
    assert touch(sidecar, 20_000) < 150
    second = grow(sidecar, 40_000, start=20_000)
    assert second < 150 and second < first + 40, f"{first} MB, then {second} MB"
    judge(store, sidecar)
    assert memory(sidecar.process.pid)[1] < 150
