"""Log against store: each difference by entity and side, no false alarms under load, repair, sampling, schedule, manifest."""

import json
import random

import pytest
from dump import dump
from judge import compare
from sidecar import changes, run_cli
from validator import check_export, fold_lines
from waiting import eventually
from writers import Writers

# Nothing else may find what the comparison shall find.
ALONE = "[follower]\nenabled = false\ncatch_up = false\n"


def reconcile(sidecar, *flags: str) -> tuple[int, dict]:
    done = run_cli("reconcile", "--admin", sidecar.admin, "--json", *flags, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_each_difference_is_named_and_repaired(lab, mode):
    """Changed, deleted and inserted behind the sidecar's back: told by entity and side; repaired; none the next time."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config=ALONE)
    with sidecar.client() as ours, store.client() as foreign:
        ours["r"]["c"].insert_many([{"_id": n} for n in range(1500)])
        ours["r"]["same"].insert_many([{"_id": n} for n in range(10)])
        assert reconcile(sidecar)[0] == 0
        foreign["r"]["c"].update_one({"_id": 1}, {"$set": {"x": 1}})
        foreign["r"]["c"].delete_one({"_id": 2})
        foreign["r"]["c"].insert_one({"_id": "new"})
        foreign["r"]["c"].insert_one({"_id": -1.5})
    status, report = reconcile(sidecar)
    assert status == 1 and (report["differing"], report["repaired"]) == (4, 0)
    told = {(d["ns"], d["id"], d["side"]) for d in report["differences"]}
    assert told == {
        ("r.c", '{"$numberInt":"1"}', "images"),
        ("r.c", '{"$numberInt":"2"}', "logOnly"),
        ("r.c", '"new"', "storeOnly"),
        ("r.c", '{"$numberDouble":"-1.5"}', "storeOnly"),
    }, told
    assert "observed" not in [r["op"] for r in changes(sidecar)], "a report changed the log"
    assert sidecar.metric("tidelog_reconcile_differing") == 4
    text = run_cli("reconcile", "--admin", sidecar.admin, "--namespace", "r.same").stdout
    assert "r.same" in text and "0 differences" in text and "r.c" not in text, text
    status, report = reconcile(sidecar, "--repair")
    assert status == 1 and (report["differing"], report["repaired"]) == (4, 4)
    assert reconcile(sidecar)[0] == 0
    assert [r["found"] for r in changes(sidecar) if r["op"] == "observed"] == ["reconcile"] * 4
    sidecar.cut()
    fold = fold_lines(sidecar.log_records())
    compare("the log", fold, dump(store.client()))
    _, manifests = check_export(sidecar.export)
    rows = [r for m in manifests for r in m["reconciled"] if r["ns"] == "r.c"]
    assert [(r["whole"], r["differing"], r["repaired"]) for r in rows] == [(True, 0, 0), (True, 4, 0), (True, 4, 4), (True, 0, 0)]
    row = next(c for c in report["compared"] if c["ns"] == "r.c")
    assert (row["alive"], row["fingerprint"]) == fold.fingerprint("r.c")
    # The manifest that tells the last comparison, and the metrics, show the same.
    last = [m for m in manifests if any(r["ns"] == "r.c" for r in m["reconciled"])][-1]
    told = next(n for n in last["namespaces"] if n["ns"] == "r.c")
    assert (told["alive"], told["fingerprint"]) == (row["alive"], row["fingerprint"])
    metrics = sidecar.metrics()
    assert metrics[f'tidelog_reconciled_info{{namespace="r.c",whole="true",fingerprint="{row["fingerprint"]}"}}'] == 1
    numbers = [metrics[f'tidelog_reconciled_{name}{{namespace="r.c"}}'] for name in ("entities", "differing", "repaired", "alive")]
    assert numbers == [row["alive"], 0, 0, row["alive"]], numbers
    assert len([name for name in metrics if name.startswith("tidelog_reconciled_info")]) == 2
    run_cli("verify", sidecar.export)


@pytest.mark.timeout(200)
def test_no_false_alarm_under_load(lab, mode):
    """Comparisons one after the other while clients write the same documents: nothing is told."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config=ALONE)
    with sidecar.client() as ours:
        for name in ("a", "b"):
            ours["load"][name].insert_many([{"_id": n} for n in range(1200)])
    writers = Writers(f"mongodb://{sidecar.listen}/", ["load.a", "load.b"], range(1200), seed, threads=4)
    for number in range(8):
        status, report = reconcile(sidecar, *(["--repair"] if number % 2 else []))
        assert status == 0, report["differences"][:5]
        assert report["entities"] > 1000
    assert writers.stop() > 100
    fold = fold_lines(sidecar.log_records())
    compare("the log", fold, dump(store.client()))
    assert "observed" not in fold.ops


def test_a_sample_reads_a_part(lab, mode):
    """A sample compares some ranges from both sides; many samples find what is there."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config=ALONE)
    with sidecar.client() as ours:
        for start in range(0, 12000, 4000):
            ours["s"]["c"].insert_many([{"_id": n} for n in range(start, start + 4000)])
    eventually(lambda: sidecar.metric("tidelog_index_overlay_entries") == 0, 20, "the index has caught up")
    status, report = reconcile(sidecar, "--sample", "20")
    assert status == 0 and report["entities"] < 10000 and not report["compared"][0]["whole"], report
    with store.client() as foreign:
        foreign["s"]["c"].delete_many({"_id": {"$gte": 3000, "$lt": 9000}})
        foreign["s"]["c"].insert_many([{"_id": n + 0.5} for n in range(3000, 9000)])
    sides = set()
    for _ in range(12):
        sides |= {d["side"] for d in reconcile(sidecar, "--sample", "40")[1]["differences"]}
    assert sides == {"logOnly", "storeOnly"}


def test_scheduled(lab):
    """The schedule compares by itself and repairs nothing; two at a time are refused; wrong calls are told."""
    store = lab.store()
    sidecar = lab.sidecar(store, config=ALONE + "[reconcile]\ninterval_ms = 300\n")
    with sidecar.client() as ours, store.client() as foreign:
        ours["t"]["c"].insert_many([{"_id": n} for n in range(10)])
        foreign["t"]["c"].delete_one({"_id": 1})
    eventually(lambda: sidecar.metric("tidelog_reconcile_differing") == 1, 20, "a scheduled comparison")
    eventually(lambda: sidecar.metric("tidelog_reconcile_runs_total") >= 2, 20, "another one")
    assert len([r for r in changes(sidecar) if r["op"] == "observed"]) == 0
    assert sidecar.http("/v1/reconcile?sample=0", "POST")[0] == 400
    assert sidecar.http("/v1/reconcile?namespace=x", "POST")[0] == 400
    done = run_cli("reconcile", "--admin", sidecar.admin, "--sample", "101", check=False)
    assert done.returncode == 2


def test_a_range(lab, mode):
    """From one `_id` (included) to another (left out), in the order of the store over types: nothing outside is told or repaired."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config=ALONE)
    with sidecar.client() as ours, store.client() as foreign:
        ours["r"]["c"].insert_many([{"_id": n} for n in range(3000)] + [{"_id": f"k{n}"} for n in range(10)])
        ours["r"]["other"].insert_one({"_id": 100})
        for _id in (99, 100, 150, 199, 200, 2500, "k3"):
            foreign["r"]["c"].update_one({"_id": _id}, {"$set": {"x": 1}})
        foreign["r"]["c"].delete_many({"_id": {"$in": [110, 2600, "k5"]}})
        foreign["r"]["c"].insert_many([{"_id": v} for v in (99.5, 120.5, 199.5, 200.5, None, "zz")])
        foreign["r"]["other"].delete_one({"_id": 100})

    def told(*flags) -> dict[str, str]:
        status, report = reconcile(sidecar, "--namespace", "r.c", *flags)
        assert status == (1 if report["differing"] else 0)
        (row,) = report["compared"]
        assert row["ns"] == "r.c" and row["range"] and not row["whole"]
        assert report["entities"] >= report["differing"] == len(report["differences"])
        return {d["id"]: d["side"] for d in report["differences"]}

    inside = {
        '{"$numberInt":"100"}': "images", '{"$numberInt":"110"}': "logOnly", '{"$numberDouble":"120.5"}': "storeOnly",
        '{"$numberInt":"150"}': "images", '{"$numberInt":"199"}': "images", '{"$numberDouble":"199.5"}': "storeOnly",
    }
    eventually(lambda: sidecar.metric("tidelog_index_overlay_entries") == 0, 20, "the index has caught up")
    # A bound is a value: 1e2 is 100.
    for first in ('{"$numberInt":"100"}', '{"$numberLong":"100"}', '{"$numberDouble":"100.0"}'):
        assert told("--from", first, "--to", '{"$numberInt":"200"}') == inside
    assert told("--from", '{"$numberDouble":"199.75"}', "--to", "200") == {}
    assert told("--to", '{"$minKey":1}') == {} and told("--to", "0") == {"null": "storeOnly"}
    strings = {'"k3"': "images", '"k5"': "logOnly", '"zz"': "storeOnly"}
    assert told("--from", '""') == strings and told("--from", '"k4"', "--to", '"k5"') == {}
    assert set(told("--from", '"k5"', "--to", '"zz"')) == {'"k5"'}
    assert told("--from", "100", "--to", "200", "--repair") == inside and told("--from", "100", "--to", "200") == {}
    assert [r["found"] for r in changes(sidecar) if r["op"] == "observed"] == ["reconcile"] * len(inside)
    text = run_cli("reconcile", "--admin", sidecar.admin, "--namespace", "r.c", "--from", "100", "--to", "200").stdout
    assert "a range" in text and "whole" not in text, text
    rest = {d["id"] for d in reconcile(sidecar)[1]["differences"] if d["ns"] == "r.c"}
    assert rest == set(strings) | {
        "null", '{"$numberInt":"99"}', '{"$numberDouble":"99.5"}', '{"$numberInt":"200"}', '{"$numberDouble":"200.5"}',
        '{"$numberInt":"2500"}', '{"$numberInt":"2600"}',
    }
    sidecar.cut()
    _, manifests = check_export(sidecar.export)
    rows = [r for m in manifests for r in m["reconciled"] if r["ns"] == "r.c"]
    assert [r["whole"] for r in rows].count(True) == 1, "a range is told as the whole"
    assert [(r["differing"], r["repaired"]) for r in rows if r["repaired"]] == [(6, 6)]


def test_a_wrong_range_is_told(lab):
    """Bad JSON, bounds in the wrong order, no namespace, a sample of it, a collation: each says what is wrong; nothing is compared."""
    store = lab.store()
    sidecar = lab.sidecar(store, config=ALONE)
    with sidecar.client() as client:
        client["r"].create_collection("collated", collation={"locale": "de", "strength": 1})
        client["r"]["collated"].insert_many([{"_id": "a"}, {"_id": "b"}])

    def wrong(*flags) -> str:
        done = run_cli("reconcile", "--admin", sidecar.admin, *flags, check=False)
        assert done.returncode == 2 and not done.stdout, (done.returncode, done.stdout)
        return done.stderr

    assert "--from: expected an `_id` as Extended JSON" in wrong("--namespace", "r.c", "--from", "abc")
    assert "--to: expected" in wrong("--namespace", "r.c", "--to", '{"$oid":"xyz"}')
    assert "array" in wrong("--namespace", "r.c", "--to", "[1]")
    assert "nothing lies between" in wrong("--namespace", "r.c", "--from", "2", "--to", "1")
    assert "--namespace" in wrong("--from", "2")
    assert "--sample" in wrong("--namespace", "r.c", "--from", "2", "--sample", "5")
    for query, part in (("namespace=r.c&from=abc", "Extended JSON"), ("from=1", "namespace"), ("namespace=r.c&from=1&sample=5", "whole")):
        status, text = sidecar.http(f"/v1/reconcile?{query}", "POST")
        assert status == 400 and part in text, (status, text)
    assert sidecar.metric("tidelog_reconcile_runs_total") == 0
    done = run_cli("reconcile", "--admin", sidecar.admin, "--namespace", "r.collated", "--from", '"a"', check=False)
    assert done.returncode == 1 and "default collation" in done.stderr, done.stderr
