"""The gap ledger: what the log does not prove is an entry with cause and remedy, and closes only when a verify has proved it."""

import json

from dump import dump
from judge import compare
from sidecar import changes, run_cli
from validator import check_export, fold_lines
from waiting import eventually


def open_gaps(sidecar) -> list[dict]:
    return json.loads(sidecar.http("/v1/status")[1])["gaps"]


def await_none(sidecar, but=(), seconds: float = 30) -> None:
    eventually(lambda: all(g["cause"] in but for g in open_gaps(sidecar)), seconds, "gaps that can be closed are closed", every=0.1)


def test_out_and_merge_open_and_close(lab, mode):
    """$out, $merge (also into another database): an entry each, observed records told as aggregation, then closed."""
    store = lab.store(mode)
    # A slow pace keeps the gaps open long enough to be seen.
    sidecar = lab.sidecar(store, config="[snapshot]\ndocuments_per_second = 40\n")
    with sidecar.client() as client:
        client["g"]["c"].insert_many([{"_id": n, "v": n} for n in range(60)])
        client["g2"]["merged"].insert_one({"_id": 1, "old": True})
        client["g"]["c"].aggregate([{"$out": "copy"}])
        client["g"]["c"].aggregate([{"$set": {"x": 1}}, {"$merge": {"into": {"db": "g2", "coll": "merged"}}}])
        status = json.loads(run_cli("status", "--admin", sidecar.admin, "--json").stdout)
        assert {(g["ns"], g["cause"]) for g in status["gaps"]} == {("g.copy", "out"), ("g2.merged", "merge")}
        assert all("compared with the store" in g["remedy"] for g in status["gaps"])
        assert sidecar.metric("tidelog_gaps_open") == 2
        sidecar.cut("open")
        sidecar.kill()
        sidecar.start()
        await_none(sidecar)
        client["g"]["copy"].update_one({"_id": 3}, {"$inc": {"v": 1}})
    sidecar.cut("closed")
    fold = fold_lines(sidecar.log_records())
    compare("the log", fold, dump(store.client()))
    assert set(fold.found) - {""} <= {"aggregation", "catchUp", "recovery"} and fold.found["aggregation"] > 90, fold.found
    _, manifests = check_export(sidecar.export)
    first = next(m for m in manifests if m["label"] == "open")
    assert {(g["cause"], g["until_lsn"]) for g in first["gaps"]} == {("out", None), ("merge", None)}
    closed = [g for m in manifests for g in m["gaps"] if g["until_lsn"]]
    assert {g["cause"] for g in closed} == {"out", "merge"} and all(g["since_lsn"] < g["until_lsn"] for g in closed)
    assert not [g for g in manifests[-1]["gaps"] if not g["until_lsn"]]
    run_cli("verify", sidecar.export)


def test_a_gap_that_closes_inside_a_window_is_told_there(lab, mode):
    """Opened and closed between two cuts: the one manifest lists it with both ends."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config="[windows]\nidle_ms = 60000\n")
    with sidecar.client() as client:
        client["in"]["c"].insert_many([{"_id": n} for n in range(5)])
        sidecar.cut("before")
        client["in"]["c"].aggregate([{"$out": "copy"}])
        client["in"]["c"].aggregate([{"$out": "copy"}])
    await_none(sidecar)
    sidecar.cut("after")
    _, manifests = check_export(sidecar.export)
    assert manifests[-1]["label"] == "after"
    gaps = manifests[-1]["gaps"]
    assert gaps and {(g["ns"], g["cause"]) for g in gaps} == {("in.copy", "out")} and all(g["until_lsn"] for g in gaps)
    assert [r["op"] for r in changes(sidecar, "--namespace", "in.copy")] == ["observed"] * 5


def test_capped_stays(lab, mode):
    """A capped collection is not recorded: its gap stays, and says so; when it is dropped and made anew plain, the gap closes."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        client["cap"].create_collection("c", capped=True, size=100000)
        client["cap"]["c"].insert_one({"_id": 1})
        client["cap"]["plain"].insert_one({"_id": 1})
        client["cap"]["plain"].aggregate([{"$out": "copy"}])
    await_none(sidecar, but=("capped",))
    (gap,) = open_gaps(sidecar)
    assert gap["cause"] == "capped" and gap["remedy"].startswith("none while the collection is what it is")
    text = run_cli("status", "--admin", sidecar.admin).stdout
    assert f"gap {gap['id']}: none while" in text, text
    assert changes(sidecar, "--namespace", "cap.c") == []


def test_writes_while_a_gap_is_proved(lab, mode):
    """Clients write the target of an $out, and another $out comes, while the first is being proved: the log is the store."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config="[snapshot]\ndocuments_per_second = 400\n")
    with sidecar.client() as client:
        source, copy = client["busy"]["c"], client["busy"]["copy"]
        source.insert_many([{"_id": n, "v": 0} for n in range(600)])
        source.aggregate([{"$out": "copy"}])
        for n in range(60):
            copy.update_one({"_id": n * 10}, {"$inc": {"v": 1}})
            copy.delete_one({"_id": n * 10 + 1})
            copy.insert_one({"_id": f"new {n}"})
            if n == 30:
                source.aggregate([{"$set": {"again": True}}, {"$out": "copy"}])
        await_none(sidecar)
    compare("the log", fold_lines(sidecar.log_records()), dump(store.client()))
