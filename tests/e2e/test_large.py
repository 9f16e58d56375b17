"""Pieces that must be made smaller: images beyond the budget of one piece, and statements that touch more than one chunk."""

from dump import difference, dump
from pymongo import UpdateOne
from sidecar import changes
from validator import check_export, fold_lines

BIG = 12 << 20


def judge(store, sidecar):
    sidecar.cut("end")
    held = dump(store.client())
    assert not difference(fold_lines(sidecar.log_records()).documents(), held)
    exported, _ = check_export(sidecar.export)
    assert not difference(exported.documents(), held)


def test_images_beyond_the_budget(lab):
    """Seven documents of 12 MB are 84 MB of images: more than one piece may hold, by `_id`s in one batch and by a filter."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    documents = sidecar.client()["large"]["c"]
    for n in range(7):
        documents.insert_one({"_id": n, "v": 0, "pad": "x" * BIG})
    done = documents.bulk_write([UpdateOne({"_id": n}, {"$inc": {"v": 1}}) for n in range(7)])
    assert (done.matched_count, done.modified_count) == (7, 7)
    assert documents.update_many({"v": 1}, {"$inc": {"v": 1}, "$unset": {"pad": 1}}).modified_count == 7
    ops = [(c["op"], c["seq"]) for c in changes(sidecar, "--namespace", "large.c")]
    assert sorted(ops) == sorted([("insert", 1), ("update", 2), ("update", 3)] * 7)
    judge(store, sidecar)


def test_more_than_one_chunk(lab, mode):
    """An update and a delete of 1,300 documents each: several commands at the store, one reply, one record a document."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    documents = sidecar.client()["many"]["c"]
    documents.insert_many([{"_id": n, "k": n % 2} for n in range(1300)])
    done = documents.update_many({"k": {"$gte": 0}}, {"$inc": {"v": 1}})
    assert (done.matched_count, done.modified_count) == (1300, 1300)
    assert documents.delete_many({"v": 1, "_id": {"$lt": 1250}}).deleted_count == 1250
    found = [c["op"] for c in changes(sidecar, "--namespace", "many.c")]
    assert (found.count("insert"), found.count("update"), found.count("delete")) == (1300, 1300, 1250)
    judge(store, sidecar)
