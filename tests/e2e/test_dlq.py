"""Dead letters: a record that a sink refuses alone is told, the rest goes on, and a retry brings exactly what is missing."""

import concurrent.futures
import json

from sidecar import run_cli
from test_sinks import block, folders_of, lines_of, status_of, verdict
from validator import check_export
from waiting import eventually


def letters(sidecar, *arguments: str) -> list[dict]:
    """`tidelog dlq list` as JSON."""
    return json.loads(run_cli("dlq", "list", "--admin", sidecar.admin, "--json", *arguments).stdout)


def missing_of(folder) -> list[dict]:
    """What the manifests of the windows say is missing."""
    manifests = [json.loads((w / "manifest.json").read_text()) for w in folders_of(folder) if ".amendment-" not in w.name]
    return [entry for manifest in manifests for entry in manifest.get("missing", [])]


def work(client) -> None:
    """Small and large documents; the large ones are changed, put into a transaction and deleted."""
    orders = client["shop"]["orders"]
    orders.insert_many([{"_id": n, "text": "s" * 50} for n in range(20)])
    orders.insert_one({"_id": "large", "text": "l" * 5000})
    orders.update_one({"_id": "large"}, {"$set": {"more": 1}})
    with client.start_session() as session, session.start_transaction():
        orders.insert_one({"_id": "in", "text": "s"}, session=session)
        orders.insert_one({"_id": "large-in", "text": "l" * 4000}, session=session)
        orders.insert_one({"_id": "in-2", "text": "s"}, session=session)
    orders.delete_one({"_id": "large"})
    orders.update_many({"_id": {"$lt": 5}}, {"$set": {"n": 1}})


def test_a_record_that_is_too_large_waits_and_comes_later(lab):
    """Its window goes on and says what it lacks; with the bound raised, a retry delivers exactly that, killed or not."""
    out = lab.folder / "small"
    bound = block("small", type="folder", dir=str(out), max_record_bytes=2000, parts=2, compression="zstd")
    sidecar = lab.sidecar(lab.store(), config=bound)
    with sidecar.client() as client:
        work(client)
        sidecar.cut("one")
        client["shop"]["orders"].insert_one({"_id": "again", "text": "l" * 3000})
        sidecar.cut("two")
    plain = {json.loads(line)["lsn"]: line for line in lines_of(sidecar.export)}
    large = {lsn for lsn, line in plain.items() if len(line) > 2500}
    told = letters(sidecar)
    assert {row["lsn"] for row in told} == large and len(large) == 5, told
    assert all(row["state"] == "waiting" and row["attempts"] == 1 and "max_record_bytes" in row["reason"] for row in told)
    assert {entry["lsn"] for entry in missing_of(out)} == large
    assert {json.loads(line)["lsn"] for line in lines_of(out)} == set(plain) - large
    assert verdict(out)["missing"] == 5 and verdict(out)["namespaces"] == verdict(sidecar.export)["namespaces"]
    assert status_of(sidecar, "small")["dead_letters"] == 5 and status_of(sidecar, "small")["state"] == "delivering"
    assert sidecar.metrics()['tidelog_dead_letters{sink="small"}'] == 5
    shown = run_cli("dlq", "show", "--admin", sidecar.admin, str(min(large))).stdout
    assert f"--from-lsn {min(large)} --to-lsn {min(large)}" in shown and "shop.orders" in shown, shown
    listed = run_cli("dlq", "list", "--admin", sidecar.admin).stdout
    assert "5 letters, 5 waiting" in listed, listed
    # The cause stands: it is refused again, and waits again.
    run_cli("dlq", "retry", "--admin", sidecar.admin, "--sink", "small", str(min(large)))
    eventually(lambda: letters(sidecar)[0]["attempts"] == 2, 30, "the second refusal")
    eventually(lambda: letters(sidecar)[0]["state"] == "waiting", 30, "that it waits")
    kept = {w.name: {f.name: f.read_bytes() for f in w.iterdir()} for w in folders_of(out) if ".amendment-" not in w.name}
    # The cause is mended; the sidecar is killed at once after the order.
    sidecar.kill()
    sidecar.config = bound.replace("2000", "0")
    sidecar.start()
    some = sorted(large)[:3]
    run_cli("dlq", "retry", "--admin", sidecar.admin, *map(str, some))
    sidecar.kill()
    sidecar.start()
    eventually(lambda: all(row["state"] == "delivered" for row in letters(sidecar) if row["lsn"] in some), 30, "the amendment")
    run_cli("dlq", "retry", "--admin", sidecar.admin)
    eventually(lambda: all(row["state"] == "delivered" for row in letters(sidecar)), 30, "the other amendments")
    with sidecar.client() as client:
        client["shop"]["orders"].delete_one({"_id": "again"})
        sidecar.cut("three")
    assert run_cli("dlq", "retry", "--admin", sidecar.admin, check=False).returncode == 1, "none waits"
    assert sidecar.stop() == 0
    check_export(sidecar.export)
    for name, files in kept.items():
        assert {f.name: f.read_bytes() for f in (out / name).iterdir()} == files, f"{name} changed"
    amendments = [w for w in folders_of(out) if ".amendment-" in w.name]
    # The record refused twice made no amendment of its own; those of the first window came in two orders.
    assert len(amendments) == 3, amendments
    told = verdict(out)
    assert (told["missing"], told["amended"]) == (0, 5) and told["namespaces"] == verdict(sidecar.export)["namespaces"]
    plain = lines_of(sidecar.export)
    assert sorted(lines_of(out)) == sorted(plain), "with its amendments the sink has every line once"
    manifest = json.loads((amendments[0] / "manifest.json").read_text())
    assert manifest["amendment"] == 1 and manifest["records"] == len(some), manifest
    # An amendment that is changed, or that brings what is not missing, is found; one that is gone leaves its records missing.
    for file in amendments[-1].glob("records-*"):
        file.write_bytes(b"")
    assert verdict(out, holds=False)["finding"]["kind"] == "file-hash"
    for file in list(amendments[-1].iterdir()):
        file.unlink()
    amendments[-1].rmdir()
    assert verdict(out)["missing"] > 0


def test_letters_that_are_given_up_stay_missing(lab):
    """`drop` is an end: the window stays as it is, and says so for good."""
    out = lab.folder / "small"
    config = block("small", type="folder", dir=str(out), max_record_bytes=2000)
    sidecar = lab.sidecar(lab.store(), config=config)
    with sidecar.client() as client:
        work(client)
        sidecar.cut()
        assert run_cli("dlq", "drop", "--admin", sidecar.admin, check=False).returncode == 2, "all must be said"
        assert run_cli("dlq", "drop", "--admin", sidecar.admin, "--sink", "nobody", "--all", check=False).returncode == 1
        run_cli("dlq", "drop", "--admin", sidecar.admin, "--all")
        assert {row["state"] for row in letters(sidecar)} == {"dropped"}
        assert run_cli("dlq", "retry", "--admin", sidecar.admin, check=False).returncode == 1
        assert status_of(sidecar, "small")["dead_letters"] == 0
    assert sidecar.stop() == 0
    assert verdict(out)["missing"] == 4 == len(missing_of(out))


def test_a_sink_that_refuses_everything_stops_alone(lab):
    """More than single records: it is the sink that is wrong, and it stops until that is mended."""
    out = lab.folder / "small"
    config = block("small", type="folder", dir=str(out), max_record_bytes=10)
    sidecar = lab.sidecar(lab.store(), config=config)
    with sidecar.client() as client:
        client["d"]["c"].insert_many([{"n": n} for n in range(1500)])
        eventually(lambda: status_of(sidecar, "folder")["lag_records"] == 0, 30, "the folder has all")
        eventually(lambda: status_of(sidecar, "small")["state"] == "stopped", 30, "the sink is stopped")
        row = status_of(sidecar, "small")
        assert "more records are refused than single ones" in row["error"] and row["exported_window"] == 0, row
        assert letters(sidecar) == []
    assert sidecar.stop() == 0
    sidecar.config = config.replace("10\n", "0\n")
    sidecar.start()
    eventually(lambda: status_of(sidecar, "small")["lag_records"] == 0, 30, "all is delivered")
    assert sidecar.stop() == 0
    assert lines_of(out) == lines_of(sidecar.export)


def test_consumers_wait_for_the_next_window(lab):
    """`GET /v1/windows?after=N` answers with what there is, or when there is more; `sink` asks for what is durable there."""
    sidecar = lab.sidecar(lab.store())
    with sidecar.client() as client:
        client["d"]["c"].insert_one({"n": 1})
        sidecar.cut("one")
        rows = json.loads(sidecar.http("/v1/windows?after=0&sink=folder")[1])
        last = rows[-1]["id"]
        assert [row["label"] for row in rows][-1] == "one" and all(row["exported"] for row in rows)
        assert json.loads(sidecar.http(f"/v1/windows?after={last}&wait_ms=100")[1]) == []
        assert sidecar.http("/v1/windows?after=0&sink=nobody")[0] == 404
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waiting = pool.submit(sidecar.http, f"/v1/windows?after={last}&wait_ms=60000&sink=folder")
            client["d"]["c"].insert_one({"n": 2})
            sidecar.cut("two")
            status, text = waiting.result(timeout=60)
        assert status == 200 and json.loads(text)[0]["id"] == last + 1, text
    assert sidecar.stop() == 0
