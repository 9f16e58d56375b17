"""What a person who runs it relies on: signals, limits, metrics, readiness, commands, markers, refusals, origins, recovery."""

import json
import shutil
import signal
import threading
import time

import pytest
from bson import Binary, Int64
from dump import difference, dump
from judge import compare
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, ConnectionFailure, OperationFailure
from sidecar import run_cli
from validator import check_export, fold_lines, windows_of
from waiting import eventually
from wire import Closed, Raw

GB = 1 << 30


def lines(sidecar, *filters) -> list[dict]:
    return [json.loads(line) for line in sidecar.log_records(*filters)]


def changes(sidecar) -> list[dict]:
    return [r for r in lines(sidecar) if "control" not in r]


def test_sigterm_drains(lab, mode):
    """Under load: exit 0 in bounded time, every acknowledged write in the log, no client left hanging."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    acked, stop = [], threading.Event()

    def write(number: int) -> None:
        with sidecar.client(serverSelectionTimeoutMS=500, retryWrites=False) as client:
            for n in range(10**6):
                if stop.is_set():
                    return
                try:
                    client["term"]["docs"].insert_one({"_id": f"{number}-{n}"})
                    acked.append(f"{number}-{n}")
                except ConnectionFailure:
                    return
                except OperationFailure as error:
                    assert error.code in (91, 11600, 11602, 262, 462), error
                    return

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(acked) > 100, 30, "a hundred writes")
    began = time.monotonic()
    assert sidecar.stop(40) == 0
    assert time.monotonic() - began < 20
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a client hangs"
    logged = {r["id"] for r in changes(sidecar)}
    assert set(acked) <= logged
    sidecar.start()
    sidecar.cut()
    fold, _ = check_export(sidecar.export)
    compare("the windows", fold, dump(store.client()))


def test_sigterm_without_load_is_quick(lab):
    sidecar = lab.sidecar(lab.store())
    with sidecar.client() as client:
        client.admin.command("ping")
        began = time.monotonic()
        assert sidecar.stop(30) == 0
        assert time.monotonic() - began < 5, "idle connections held it up"


def test_limit_of_connections(lab):
    """Past the limit new connections are closed at once; those that are open go on; a place that gets free is used."""
    sidecar = lab.sidecar(lab.store(), config="[limits]\nconnections = 5\n")
    held = [Raw(sidecar.listen) for _ in range(5)]
    for raw in held:
        assert raw.command({"ping": 1, "$db": "admin"})["ok"] == 1
    with pytest.raises((Closed, OSError)):
        with Raw(sidecar.listen) as raw:
            raw.command({"ping": 1, "$db": "admin"})
    assert sidecar.metric("tidelog_connections_refused_total") >= 1
    held.pop().socket.close()

    def again() -> bool:
        try:
            with Raw(sidecar.listen) as raw:
                return raw.command({"ping": 1, "$db": "admin"})["ok"] == 1
        except (Closed, OSError):
            return False

    eventually(again, 10, "a free place")
    for raw in held:
        assert raw.command({"ping": 1, "$db": "admin"})["ok"] == 1


def test_limit_of_message_and_idle(lab):
    sidecar = lab.sidecar(lab.store(), config="[limits]\nmessage_bytes = 100000\nidle_ms = 700\n")
    with Raw(sidecar.listen) as raw:
        with pytest.raises((Closed, OSError)):
            reply = raw.command({"insert": "c", "documents": [{"s": "x" * 200_000}], "$db": "t"})
            assert reply["ok"] == 0
            raise Closed
    with Raw(sidecar.listen, timeout=10) as raw:
        assert raw.command({"ping": 1, "$db": "admin"})["ok"] == 1
        with pytest.raises(Closed):
            raw.receive()


def test_slow_reader_is_no_memory(lab):
    """A client that asks for much and reads nothing makes the store wait, not the sidecar's memory grow."""
    store = lab.store()
    sidecar = lab.sidecar(store, config="[limits]\ninflight_bytes = 134217728\n")
    with store.client() as client:
        client["slow"]["docs"].insert_many([{"_id": i, "s": "x" * 4_000_000} for i in range(4)])
    before = resident(sidecar)
    stuck = []
    for _ in range(20):
        raw = Raw(sidecar.listen)
        for _ in range(4):
            raw.message({"find": "docs", "$db": "slow"})
        stuck.append(raw)
    time.sleep(3)
    assert resident(sidecar) - before < 700 << 20
    for raw in stuck:
        raw.socket.close()
    with Raw(sidecar.listen) as raw:
        assert raw.command({"ping": 1, "$db": "admin"})["ok"] == 1


def resident(sidecar) -> int:
    for line in open(f"/proc/{sidecar.process.pid}/status", encoding="ascii"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


def test_health_and_metrics(lab, mode):
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    assert sidecar.http("/healthz")[0] == 200
    with sidecar.client() as client:
        client["m"]["c"].insert_many([{"_id": i} for i in range(10)])
        client["m"]["c"].update_one({"_id": 1}, {"$set": {"x": 1}})
    sidecar.cut()
    metrics = sidecar.metrics()
    assert metrics['tidelog_changes_total{op="insert"}'] == 10 and metrics['tidelog_changes_total{op="update"}'] == 1
    assert metrics["tidelog_log_tail_lsn"] >= 11 and metrics["tidelog_ready"] == 1
    assert sidecar.metric("tidelog_export_lag_records") == 0
    text = sidecar.http("/metrics")[1]
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert names == {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    page = run_cli("docs", "metrics").stdout
    assert all(name in page for name in names)


def test_ready_says_why_not(lab, mode):
    """The store gone: alive, not ready, with the reason; the store back: ready again, and writes go on."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        client["r"]["c"].insert_one({"_id": 1})
    store.stop()
    status, text = eventually(lambda: (r := sidecar.http("/readyz"))[0] != 200 and r, 20, "not ready")
    assert status == 503 and "upstream" in text, text
    assert sidecar.http("/healthz")[0] == 200
    assert run_cli("status", "--admin", sidecar.admin, check=False).returncode == 1
    store.start()
    sidecar.await_ready(30)
    with sidecar.client() as client:
        client["r"]["c"].update_one({"_id": 1}, {"$set": {"x": 1}})
    compare("the log", fold_lines(sidecar.log_records()), dump(store.client()))


def test_starts_before_the_store(lab):
    """A sidecar whose store is not there yet says so and serves once it is."""
    store = lab.store()
    store.stop()
    sidecar = lab.sidecar(store, ready=False)
    assert sidecar.http("/readyz")[0] == 503
    store.start()
    sidecar.await_ready(30)
    with sidecar.client() as client:
        client["b"]["c"].insert_one({"_id": 1})
    assert [r["op"] for r in changes(sidecar)] == ["insert"]


def test_commands(lab, mode):
    """cut, status, windows, log, verify: for people and as JSON, with their exit states."""
    sidecar = lab.sidecar(lab.store(mode))
    with sidecar.client() as client:
        for number in range(3):
            client["cli"]["c"].insert_one({"_id": number})
            client["cli"]["other"].insert_one({"_id": number})
            assert str(number + 1) in sidecar.cut(f"part {number}")
    status = json.loads(run_cli("status", "--admin", sidecar.admin, "--json").stdout)
    assert status["ready"] and status["export"]["exported_window"] >= 3
    assert "ready" in run_cli("status", "--admin", sidecar.admin).stdout
    for where in ([sidecar.export], ["--admin", sidecar.admin]):
        rows = json.loads(run_cli("windows", *where, "--json").stdout)
        assert [r["label"] for r in rows if r["label"]] == ["part 0", "part 1", "part 2"]
    log = [json.loads(line) for line in run_cli("log", sidecar.data, "--namespace", "cli.c").stdout.splitlines()]
    assert [r["ns"] for r in log if "control" not in r] == ["cli.c"] * 3
    assert run_cli("verify", sidecar.export).returncode == 0
    for wrong in (["verify"], ["frob"], ["log"], ["cut", "--admin", "nonsense"]):
        assert run_cli(*wrong, check=False).returncode == 2, wrong
    assert run_cli("cut", "--admin", "127.0.0.1:1", check=False).returncode == 1


def damage(folder, what: str) -> None:
    """Changes an export as a bad disk or a bad person would."""
    second = windows_of(folder)[1]
    records, manifest = second / "records.jsonl", second / "manifest.json"
    if what == "a byte of a record":
        raw = records.read_bytes()
        records.write_bytes(raw.replace(b'"word":"two"', b'"word":"owt"', 1))
    elif what == "a record less":
        records.write_bytes(records.read_bytes().split(b"\n", 1)[1])
    elif what == "the file gone":
        records.unlink()
    elif what == "a manifest gone":
        manifest.unlink()
    elif what == "a window gone":
        shutil.rmtree(second)
    elif what == "a count":
        told = json.loads(manifest.read_text())
        told["last_lsn"] += 1
        manifest.write_text(json.dumps(told))
    elif what == "a fingerprint":
        text = manifest.read_text()
        told = json.loads(text)["namespaces"][0]["fingerprint"]
        manifest.write_text(text.replace(told, told[::-1]))


DAMAGES = ["a byte of a record", "a record less", "the file gone", "a manifest gone", "a window gone", "a count", "a fingerprint"]


def test_verify_finds_damage(lab):
    """Each damage is found by `tidelog verify` (exit 1, naming the window) and by the validator of this suite."""
    sidecar = lab.sidecar(lab.store())
    with sidecar.client() as client:
        for word in ("one", "two", "three"):
            client["v"]["c"].insert_many([{"word": word, "n": n} for n in range(3)])
            sidecar.cut(word)
    sidecar.stop()
    assert run_cli("verify", sidecar.export).returncode == 0
    for what in DAMAGES:
        copy = lab.folder / what.replace(" ", "-")
        shutil.copytree(sidecar.export, copy)
        damage(copy, what)
        verdict = run_cli("verify", copy, check=False)
        assert verdict.returncode == 1, f"{what}: not found\n{verdict.stdout}"
        assert "0000000002" in verdict.stdout + verdict.stderr or "window 2" in verdict.stdout + verdict.stderr or "window 3" in verdict.stdout + verdict.stderr, f"{what}: not named\n{verdict.stdout}{verdict.stderr}"
        with pytest.raises((AssertionError, OSError)):
            check_export(copy)


def test_marker_on_the_wire(lab, mode):
    """{tidelogCut: 1, label}: answered by the sidecar, closes a window with that label; the store never sees it."""
    sidecar = lab.sidecar(lab.store(mode))
    with sidecar.client() as client:
        client["mark"]["c"].insert_one({"_id": 1})
        reply = client["mark"].command({"tidelogCut": 1, "label": "month-end"})
        assert reply["ok"] == 1
        client["mark"]["c"].insert_one({"_id": 2})
        sidecar.cut("after")
    _, manifests = check_export(sidecar.export)
    marked = next(m for m in manifests if m["label"] == "month-end")
    after = next(m for m in manifests if m["label"] == "after")
    assert marked["cause"] == "cut" and marked["counts"]["mark.c"] == {"insert": 1} and after["counts"]["mark.c"] == {"insert": 1}
    assert reply.get("window") in (None, marked["window"])


def test_export_again_gives_the_same_bytes(lab):
    """A window that is deleted at the sink before a restart, or half written, comes again byte by byte, or the loss is told."""
    sidecar = lab.sidecar(lab.store())
    with sidecar.client() as client:
        for number in range(3):
            client["again"]["c"].insert_one({"_id": number, "f": 1.5, "s": "é"})
            sidecar.cut(str(number))
    last = windows_of(sidecar.export)[-1]
    before = {p.name: p.read_bytes() for p in last.iterdir()}
    sidecar.kill()
    sidecar.start()
    assert {p.name: p.read_bytes() for p in last.iterdir()} == before
    run_cli("verify", sidecar.export)


def test_disk_nearly_full(lab, mode):
    """Less free space than asked for: writes are refused before they are forwarded, with an error that drivers retry; reads go on."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        client["full"]["c"].insert_one({"_id": 1})
    sidecar.stop()
    sidecar.config = f"[log]\nmin_free_bytes = {1 << 43}\n"
    sidecar.start(ready=False)
    status, text = eventually(lambda: (r := sidecar.http("/readyz"))[0] == 503 and r, 10, "not ready")
    assert "disk" in text
    with Raw(sidecar.listen) as raw:
        refused = raw.command({"insert": "c", "documents": [{"_id": 2}], "$db": "full", "lsid": {"id": Binary(b"\7" * 16, 4)}, "txnNumber": Int64(1)})
        assert refused["ok"] == 0 and "RetryableWriteError" in refused["errorLabels"], refused
        assert raw.command({"find": "c", "$db": "full"})["cursor"]["firstBatch"] == [{"_id": 1}]
    assert dump(store.client()).keys() == {"full.c"} and len(dump(store.client())["full.c"]) == 1
    assert sidecar.metric("tidelog_disk_low") == 1


def test_origin_with_authentication(lab):
    """SCRAM passes untouched; user, mechanism, application, driver, address, comment and traceparent stand in each record."""
    store = lab.store(auth=True)
    with store.client() as client:
        client.admin.command("createUser", "root", pwd="secret", roles=["root"])
    (lab.folder / "password").write_text("secret\n")
    config = f'[store]\nusername = "root"\nauth_source = "admin"\npassword_file = "{lab.folder / "password"}"\n'
    sidecar = lab.sidecar(store, config=config)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-1"):
        with sidecar.client(username="root", password="secret", authMechanism=mechanism, appname="till 7") as client:
            client["who"]["c"].insert_one({"m": mechanism}, comment={"why": "sale", "traceparent": trace})
    with sidecar.client(username="root", password="wrong") as client, pytest.raises(OperationFailure) as error:
        client["who"]["c"].insert_one({})
    assert error.value.code == 18
    with sidecar.client() as client, pytest.raises(OperationFailure) as error:
        client["who"]["c"].insert_one({})
    assert error.value.code == 13
    found = changes(sidecar)
    assert len(found) == 2
    for record, mechanism in zip(found, ("SCRAM-SHA-256", "SCRAM-SHA-1")):
        origin = record["origin"]
        assert origin["user"] in ("root@admin", "admin.root") and origin["mechanism"] == mechanism
        assert origin["app"] == "till 7" and origin["driver"].startswith("PyMongo") and origin["client"].startswith("127.0.0.1:")
        assert record["traceparent"] == trace and "sale" in json.dumps(record["comment"])
    text = sidecar.process.output() + json.dumps(found)
    assert "secret" not in text, "a credential was written down"


def test_index_is_derived(lab, mode):
    """The entity index deleted, the sidecar started again: numbers go on and the chain holds."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        docs = client["derived"]["c"]
        docs.insert_many([{"_id": n, "v": 0} for n in range(200)])
        docs.update_many({}, {"$inc": {"v": 1}})
        docs.delete_many({"_id": {"$lt": 20}})
        client["derived"]["gone"].insert_one({"_id": 1})
        client["derived"].drop_collection("gone")
    assert sidecar.stop() == 0
    removed = [p for p in sidecar.data.iterdir() if p.is_dir() and "index" in p.name]
    assert removed, [p.name for p in sidecar.data.iterdir()]
    for folder in removed:
        shutil.rmtree(folder)
    sidecar.start()
    with sidecar.client() as client:
        docs = client["derived"]["c"]
        docs.update_many({}, {"$inc": {"v": 1}})
        docs.insert_one({"_id": 5, "life": 2})
        client["derived"]["gone"].insert_one({"_id": 1, "life": 2})
    fold = fold_lines(sidecar.log_records())
    compare("the log", fold, dump(store.client()))
    assert "observed" not in fold.ops, "a rebuilt index forgot something"
    seqs = {r["id"] if isinstance(r["id"], str) else json.dumps(r["id"]): r["seq"] for r in changes(sidecar) if r["ns"] == "derived.c"}
    assert seqs['{"$numberInt": "100"}'] == 3 and seqs['{"$numberInt": "5"}'] == 4


def test_foreign_writer_is_seen_at_the_next_touch(lab, mode):
    """A write past the sidecar becomes an observed record when its entity is touched again; the chain never breaks."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as ours, store.client() as foreign:
        ours["f"]["c"].insert_many([{"_id": n} for n in range(3)])
        foreign["f"]["c"].update_one({"_id": 0}, {"$set": {"x": "foreign"}})
        foreign["f"]["c"].delete_one({"_id": 1})
        foreign["f"]["c"].insert_one({"_id": 9})
        ours["f"]["c"].update_one({"_id": 0}, {"$set": {"y": 1}})
        ours["f"]["c"].update_one({"_id": 1}, {"$set": {"y": 1}}, upsert=True)
        ours["f"]["c"].delete_one({"_id": 9})
    fold = fold_lines(sidecar.log_records())
    compare("the log", fold, dump(store.client()))
    assert fold.ops["observed"] == 3


def test_store_with_documents_is_told_incomplete(lab, mode):
    """What was there before the sidecar: the namespace is incomplete in each manifest; touched documents begin with an observed record."""
    store = lab.store(mode)
    with store.client() as client:
        client["old"]["c"].insert_many([{"_id": n} for n in range(5)])
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        client["old"]["c"].update_one({"_id": 1}, {"$set": {"x": 1}})
        client["old"]["new"].insert_one({"_id": 1})
    sidecar.cut()
    _, manifests = check_export(sidecar.export)
    told = {n["ns"]: n["complete"] for n in manifests[-1]["namespaces"]}
    assert told == {"old.c": False, "old.new": True}
    assert [r["op"] for r in changes(sidecar) if r["ns"] == "old.c"] == ["observed", "update"]


def test_write_in_a_transaction_is_refused(lab, mode):
    """All write commands inside a transaction: a clear error that names the setting; reads in it go through."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    lsid = {"id": Binary(b"\x09" * 16, 4)}
    writes = [
        {"insert": "c", "documents": [{"_id": 2}]},
        {"update": "c", "updates": [{"q": {"_id": 1}, "u": {"$set": {"x": 1}}}]},
        {"delete": "c", "deletes": [{"q": {"_id": 1}, "limit": 1}]},
        {"findAndModify": "c", "query": {"_id": 1}, "update": {"$set": {"x": 1}}},
        {"bulkWrite": 1, "ops": [{"insert": 0, "document": {"_id": 3}}], "nsInfo": [{"ns": "t.c"}], "$db": "admin"},
    ]
    with Raw(sidecar.listen) as raw:
        raw.command({"insert": "c", "documents": [{"_id": 1}], "$db": "t"})
        for number, write in enumerate(writes, 1):
            inside = {"lsid": lsid, "txnNumber": Int64(number), "autocommit": False}
            read = raw.command({"find": "c", "$db": "t", "startTransaction": True, **inside})
            assert read["cursor"]["firstBatch"] == [{"_id": 1}]
            refused = raw.command({"$db": "t", **write, **inside})
            assert refused["ok"] == 0 and "capture.transactions" in refused["errmsg"], refused
            raw.command({"abortTransaction": 1, "$db": "admin", **inside})
            first = raw.command({"$db": "t", **write, **inside, "txnNumber": Int64(100 + number), "startTransaction": True})
            assert first["ok"] == 0 and "capture.transactions" in first["errmsg"], first
    held = dump(store.client())
    assert len(held["t.c"]) == 1
    compare("the log", fold_lines(sidecar.log_records()), held)
    assert sidecar.metrics()['tidelog_commands_refused_total{reason="transaction"}'] == 2 * len(writes)


def test_out_and_merge_are_gaps(lab, mode):
    """$out and $merge are forwarded and stand in the gap ledger: log, metric, status, manifest; also after a restart."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    with sidecar.client() as client:
        client["g"]["c"].insert_many([{"_id": n} for n in range(3)])
        assert sidecar.metric("tidelog_gaps_open") == 0
        client["g"]["c"].aggregate([{"$out": "copy"}])
        client["g"]["c"].aggregate([{"$set": {"x": 1}}, {"$merge": {"into": {"db": "g2", "coll": "merged"}}}])
        assert client["g"]["copy"].count_documents({}) == 3
    assert sidecar.metric("tidelog_gaps_open") == 2
    status = json.loads(run_cli("status", "--admin", sidecar.admin, "--json").stdout)
    assert {(g["ns"], g["cause"]) for g in status["gaps"]} == {("g.copy", "out"), ("g2.merged", "merge")}
    sidecar.cut()
    _, manifests = check_export(sidecar.export)
    assert len(manifests[-1]["gaps"]) == 2
    sidecar.kill()
    sidecar.start()
    assert sidecar.metric("tidelog_gaps_open") == 2


def test_unsupported_is_refused(lab):
    """Commands that would change data unseen are answered with an error of ours and do not reach the store."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    with Raw(sidecar.listen) as raw:
        raw.command({"insert": "c", "documents": [{"_id": 1}], "$db": "t"})
        for command in ({"applyOps": [{"op": "i", "ns": "t.c", "o": {"_id": 2}}], "$db": "admin"}, {"convertToCapped": "c", "size": 9999, "$db": "t"}, {"cloneCollectionAsCapped": "c", "toCollection": "d", "size": 9999, "$db": "t"}):
            reply = raw.command(command)
            assert reply["ok"] == 0 and reply["errmsg"], reply
    assert len(dump(store.client())["t.c"]) == 1


def test_one_owner(lab):
    """A second sidecar on the same folder does not start, and says why."""
    store = lab.store()
    first = lab.sidecar(store)
    argv = ["run", "--listen", "127.0.0.1:0", "--upstream", store.address, "--data", first.data, "--export", lab.folder / "e", "--admin", "127.0.0.1:0"]
    second = run_cli(*argv, check=False, timeout=30)
    assert second.returncode == 1 and str(first.process.pid) in second.stderr + second.stdout, second.stderr
    assert first.process.alive()


def test_settings_are_checked(lab):
    """`tidelog check` says file, line and what was expected, exit 2; a good file is 0; the example is good."""
    bad = lab.folder / "bad.toml"
    bad.write_text('[proxy]\nlisten = "127.0.0.1:1"\n[log]\nqueue_byte = 5\n')
    verdict = run_cli("check", "--config", bad, check=False)
    assert verdict.returncode == 2
    text = verdict.stdout + verdict.stderr
    assert "bad.toml" in text and "4" in text and "queue_byte" in text, text
    example = lab.folder / "example.toml"
    example.write_text(run_cli("docs", "example").stdout)
    assert run_cli("check", "--config", example).returncode == 0


def test_store_killed_under_load(lab, mode):
    """kill -9 of a store that keeps what it acknowledged: after it is back, log and windows are its state."""
    store = lab.store(mode, sync=True)
    sidecar = lab.sidecar(store)
    stop = threading.Event()

    def write(number: int) -> None:
        with MongoClient(sidecar.listen, serverSelectionTimeoutMS=20000) as client:
            n = 0
            while not stop.is_set():
                n += 1
                try:
                    client["k"]["c"].update_one({"_id": n % 50}, {"$push": {"by": number}}, upsert=True)
                except (AutoReconnect, OperationFailure):
                    time.sleep(0.05)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.7)
        store.kill()
        store.start()
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    sidecar.await_ready()

    def same() -> bool:
        fold = fold_lines(sidecar.log_records())
        return not difference(fold.documents(), dump(store.client()))

    eventually(same, 60, "the log folds to the store's state", every=1)
    sidecar.cut()
    fold, _ = check_export(sidecar.export)
    compare("the windows", fold, dump(store.client()))


def test_sigkill_then_sigterm_signals_are_bounded(lab):
    """A second SIGTERM ends a drain at once."""
    store = lab.store()
    sidecar = lab.sidecar(store)
    with Raw(sidecar.listen) as raw:
        raw.command({"ping": 1, "$db": "admin"})
        sidecar.process.signal(signal.SIGSTOP)
        sidecar.process.signal(signal.SIGTERM)
        sidecar.process.signal(signal.SIGCONT)
        sidecar.process.signal(signal.SIGTERM)
        sidecar.process.child.wait(10)
