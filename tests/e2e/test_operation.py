"""What a person who runs it relies on: signals, limits, metrics, readiness, commands, settings, refusals."""

import json
import signal
import threading
import time

import pytest
from bson import Binary, Int64
from dump import dump
from judge import compare
from pymongo.errors import ConnectionFailure, OperationFailure
from sidecar import changes, run_cli
from validator import check_export, fold_lines
from waiting import eventually
from wire import Closed, Raw


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
