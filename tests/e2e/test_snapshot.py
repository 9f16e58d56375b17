"""The first read of a store that is already full: one cut with the stream while clients write, resumable at any kill."""

import datetime
import json
import os
import random

import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from dump import dump
from judge import compare
from sidecar import changes, run_cli
from validator import Fold, check_export, fold_lines, windows_of
from waiting import eventually
from writers import Writers

SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))
KILLS = int(os.environ.get("TIDELOG_SNAPSHOT_KILLS", 6))
SLOW = "[snapshot]\ndocuments_per_second = {}\n[windows]\nmax_records = 300\nidle_ms = 200\n"


def every_kind() -> list:
    """An `_id` of each type, and some that sort as neighbours of others."""
    kinds = [MinKey(), None, float("nan"), float("-inf"), -5, Int64(7), 2.5, Decimal128("9.5"), float("inf"), "", "a", "ä", {}]
    kinds += [{"a": 1}, {"a": {"b": 2}}, {"k": "x" * 1500, "n": 1}, {"k": "x" * 1500, "n": 2}, {"k": "x" * 1500, "n": 3}]
    kinds += [Binary(b"x"), Binary(b"yy", 4), ObjectId(), False, True, datetime.datetime(2020, 1, 1), Timestamp(5, 1), Code("x"), MaxKey()]
    return kinds


def completed(sidecar) -> bool:
    """Every namespace known is in the log whole."""
    told = json.loads(sidecar.http("/v1/status")[1])["snapshot"]
    return told["waiting"] == 0 and not told["error"]


def await_completed(sidecar, namespaces, seconds: float = 60) -> None:
    def done() -> bool:
        told = {r["ns"] for r in map(json.loads, sidecar.log_records()) if r.get("control") == "completed"}
        return told >= set(namespaces) and completed(sidecar)

    eventually(done, seconds, f"the first read of {namespaces}", every=0.3)


def test_every_kind_of_id_is_read_once(lab, mode):
    """Documents of each type of `_id`, a collated collection, views, capped and empty ones: the log becomes the store."""
    store = lab.store(mode)
    with store.client() as client:
        db = client["full"]
        for number, kind in enumerate(every_kind()):
            db["kinds"].insert_one({"_id": kind, "n": number})
        db["many"].insert_many([{"_id": n, "v": "x" * 50} for n in range(2500)])
        db.create_collection("collated", collation={"locale": "en", "strength": 2})
        db["collated"].insert_many([{"_id": text} for text in ("b", "A", "c", "Z", "ä", "Ö")] + [{"_id": n} for n in range(30)])
        db.create_collection("empty")
        db.create_collection("view", viewOn="many", pipeline=[])
        db.create_collection("capped", capped=True, size=100000)
        db["capped"].insert_one({"_id": 1})
        db["big"].insert_many([{"_id": n, "v": "y" * 3_000_000} for n in range(9)])
        client["other"]["c"].insert_one({"_id": 1})
    before = dump(store.client())
    sidecar = lab.sidecar(store)
    full = ["full.kinds", "full.many", "full.collated", "full.big", "other.c"]
    await_completed(sidecar, full)
    assert dump(store.client()) == before, "the first read changed the store"
    sidecar.cut("end")
    before.pop("full.capped")
    fold = fold_lines(sidecar.log_records(), ["full.collated"])
    compare("the log", fold, before)
    exported, manifests = check_export(sidecar.export, ["full.collated"])
    compare("the windows", exported, before)
    assert all(n["complete"] for n in manifests[-1]["namespaces"])
    assert [g["cause"] for g in manifests[-1]["gaps"]] == ["capped"]
    total = sum(len(documents) for documents in before.values())
    assert fold.found == {"snapshot": total} and fold.ops["observed"] == total
    assert sidecar.metric("tidelog_snapshot_documents_total") == total
    run_cli("verify", sidecar.export)
    # A start on a store that is whole reads nothing.
    assert sidecar.stop() == 0
    sidecar.start()
    eventually(lambda: completed(sidecar), 20, "a look at the store")
    assert sidecar.metric("tidelog_snapshot_documents_total") == 0


def test_serves_at_once_and_shows_progress(lab):
    """Applications are served while the read goes on at its rate; status, metrics and log lines say how far it is."""
    store = lab.store()
    with store.client() as client:
        client["slow"]["c"].insert_many([{"_id": n} for n in range(1000)])
    sidecar = lab.sidecar(store, config=SLOW.format(200))
    with sidecar.client() as client:
        client["slow"]["c"].update_one({"_id": 999}, {"$set": {"x": 1}})
        client["slow"]["new"].insert_one({"_id": 1})

    def reading():
        told = json.loads(sidecar.http("/v1/status")[1])["snapshot"]
        return told if told["reading"] == "slow.c" and told["percent"] > 10 else None

    told = eventually(reading, 20, "progress")
    assert told["estimated"] == 1000 and told["read"] < 1000, told
    # Never more than the bound, from the first page on: what is told as left is then never less than what the bound makes of it.
    assert 0 < told["per_second"] <= 200, told
    assert told["left_ms"] >= (told["estimated"] - told["read"]) * 1000 // 200 > 0, told
    text = run_cli("status", "--admin", sidecar.admin).stdout
    assert "slow.c:" in text and "1 namespace incomplete" in text, text
    assert 0 < sidecar.metric("tidelog_snapshot_percent") < 100 and sidecar.metric("tidelog_snapshot_waiting") == 1
    sidecar.cut("early")
    await_completed(sidecar, ["slow.c"])
    sidecar.cut("late")
    _, manifests = check_export(sidecar.export)
    told = {m["label"]: {n["ns"]: n["complete"] for n in m["namespaces"]} for m in manifests if m["label"]}
    assert told == {"early": {"slow.c": False, "slow.new": True}, "late": {"slow.c": True, "slow.new": True}}
    assert "first read of a namespace" in sidecar.process.output()
    compare("the log", fold_lines(sidecar.log_records()), dump(store.client()))


def test_switched_off(lab, mode):
    """Without it a namespace stays incomplete, and says so."""
    store = lab.store(mode)
    with store.client() as client:
        client["old"]["c"].insert_many([{"_id": n} for n in range(5)])
    sidecar = lab.sidecar(store, config="[snapshot]\nenabled = false\n[follower]\nenabled = false\ncatch_up = false\n")
    with sidecar.client() as client:
        client["old"]["c"].update_one({"_id": 1}, {"$set": {"x": 1}})
    sidecar.cut()
    _, manifests = check_export(sidecar.export)
    assert [n["complete"] for n in manifests[-1]["namespaces"]] == [False]
    assert "off: 1 namespace incomplete" in run_cli("status", "--admin", sidecar.admin).stdout
    assert [r["op"] for r in changes(sidecar)] == ["observed", "update"]


def first_complete(sidecar, namespaces) -> tuple[Fold, dict]:
    """The fold of the windows up to the first one that tells all namespaces complete, and its manifest."""
    fold = Fold()
    for window in windows_of(sidecar.export):
        for line in (window / "records.jsonl").read_text().split("\n")[:-1]:
            fold.apply(line)
        manifest = json.loads((window / "manifest.json").read_text())
        told = {n["ns"]: n["complete"] for n in manifest["namespaces"]}
        if all(told.get(ns) for ns in namespaces):
            return fold, manifest
    raise AssertionError("no window is complete")


@pytest.mark.timeout(600)
def test_kills_under_load(lab, mode):
    """kill -9 again and again in the middle of the read, clients writing all the while: whole at the end, nothing read twice."""
    print(f"replay with TIDELOG_SEED={SEED}")
    chance = random.Random(SEED)
    store = lab.store(mode)
    total, names = 9000, ["load.a", "load.b", "load.c"]
    with store.client() as client:
        for number, name in enumerate(names):
            documents = [{"_id": n, "v": "x" * 40} for n in range(total // 3)]
            client["load"][name[-1]].insert_many(documents)
    config = SLOW.format(900) + "[follower]\nenabled = false\ncatch_up = false\n"
    sidecar = lab.sidecar(store, config=config)
    writers = Writers(f"mongodb://{sidecar.listen}/", names, range(total // 3 + 200), SEED, pause=0.01)
    read = 0.0
    for _ in range(KILLS):
        already = sidecar.metric("tidelog_snapshot_documents_total")
        goal = already + chance.randrange(200, 1200)
        eventually(lambda: sidecar.metric("tidelog_snapshot_documents_total") >= goal or completed(sidecar), 30, "some reading")
        read += sidecar.metric("tidelog_snapshot_documents_total")
        sidecar.kill()
        sidecar.start()
    await_completed(sidecar, names, 120)
    assert writers.stop() > 100
    read += sidecar.metric("tidelog_snapshot_documents_total")
    assert read <= total + 300 + KILLS * 900, f"{read} documents were read of about {total}"
    sidecar.cut("end")
    held = dump(store.client())
    compare("the log", fold_lines(sidecar.log_records()), held)
    exported, manifests = check_export(sidecar.export)
    compare("the windows", exported, held)
    told = [all(n["complete"] for n in m["namespaces"] if n["ns"] in names) for m in manifests if m["namespaces"]]
    assert told == sorted(told) and told[-1] and not told[0], "complete, then incomplete again"
    run_cli("verify", sidecar.export)


def test_the_first_complete_window_is_a_dump(lab, mode):
    """The first window that tells a namespace complete folds to what the store held at its end."""
    print(f"replay with TIDELOG_SEED={SEED}")
    store = lab.store(mode)
    with store.client() as client:
        client["cut"]["c"].insert_many([{"_id": n} for n in range(2000)])
    sidecar = lab.sidecar(store, config=SLOW.format(1000).replace("max_records = 300", "max_records = 100000").replace("idle_ms = 200", "idle_ms = 60000"))
    writers = Writers(f"mongodb://{sidecar.listen}/", ["cut.c"], range(2000), SEED)
    eventually(lambda: sidecar.metric("tidelog_snapshot_percent") > 20, 20, "some reading")
    sidecar.cut("before")
    await_completed(sidecar, ["cut.c"])
    writers.stop()
    sidecar.cut("whole")
    fold, manifest = first_complete(sidecar, ["cut.c"])
    assert manifest["label"] == "whole"
    compare("the first complete window", fold, dump(store.client()))


def test_drop_and_rename_in_the_middle(lab, mode):
    """A namespace that is dropped or renamed while it is read: the new name is read whole, the old one is empty."""
    store = lab.store(mode)
    with store.client() as client:
        for name in ("a", "b"):
            client["ddl"][name].insert_many([{"_id": n, "of": name} for n in range(1500)])
    sidecar = lab.sidecar(store, config=SLOW.format(500))
    with sidecar.client() as client:
        eventually(lambda: sidecar.metric("tidelog_snapshot_documents_total") > 200, 20, "some reading")
        client["ddl"]["a"].rename("moved")
        client["ddl"]["b"].drop()
        client["ddl"]["b"].insert_one({"_id": 5, "of": "life 2"})
    await_completed(sidecar, ["ddl.moved"])
    sidecar.cut()
    fold = fold_lines(sidecar.log_records())
    compare("the log", fold, dump(store.client()))
    _, manifests = check_export(sidecar.export)
    assert all(n["complete"] for n in manifests[-1]["namespaces"]), manifests[-1]["namespaces"]
