"""The beginning of the changelog goes: numbers of documents go on all the same, whatever happens to the index; what somebody
still needs stays, and who that is is told; where the numbers are lost, nothing begins at 1 again.

The long form: `TIDELOG_RETENTION_KILLS=40 deploy/test.sh e2e test_retention.py`. A run prints its seed.
"""

import json
import os
import random
import shutil
import time

import pytest
from dump import dump
from judge import compare
from sidecar import changes, run_cli
from test_sinks import block, folders_of, status_of
from validator import check_export
from waiting import eventually

KILLS = int(os.environ.get("TIDELOG_RETENTION_KILLS", 6))
SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))
LIMIT = 200_000
SETTINGS = f"""
[log]
segment_bytes = 65536
[windows]
max_records = 60
idle_ms = 100
settle_ms = 50
[retention]
log_max_bytes = {LIMIT}
every_ms = 100
"""


def status(sidecar) -> dict:
    return json.loads(sidecar.http("/v1/status")[1])


def first_lsn(sidecar) -> int:
    return status(sidecar)["log"]["first_lsn"]


def tail_lsn(sidecar) -> int:
    return status(sidecar)["log"]["tail_lsn"]


def churn(client, rounds: int = 1, name: str = "churn") -> None:
    """About 130 kB of the log a round."""
    docs = client["r"][name]
    for n in range(rounds):
        docs.insert_many([{"_id": f"{time.monotonic_ns()}-{i}", "text": "x" * 1000} for i in range(50)])
        docs.update_many({}, {"$set": {"n": n}})
        docs.delete_many({})


def roll_past(sidecar, client, lsn: int) -> None:
    """Writes until no record up to `lsn` is in the log any more."""

    def gone() -> bool:
        churn(client)
        return first_lsn(sidecar) > lsn

    eventually(gone, 120, f"record {lsn} goes")


def old_documents(client) -> None:
    """Documents of every kind whose records go: alive, changed, dead, dead by a drop, under a new name."""
    old = client["r"]["old"]
    old.insert_many([{"_id": n, "v": 0} for n in range(30)])
    old.update_many({"_id": {"$lt": 20}}, {"$inc": {"v": 1}})
    old.delete_many({"_id": {"$gte": 25}})
    client["r"]["dropped"].insert_many([{"_id": n} for n in range(5)])
    client["r"]["dropped"].drop()
    client["r"]["before"].insert_many([{"_id": n} for n in range(5)])
    client["r"]["before"].rename("after")


def touch_old(client) -> None:
    """Each of them once more: the living are changed, the dead come back (and die again)."""
    old = client["r"]["old"]
    old.update_many({"_id": {"$lt": 25}}, {"$inc": {"v": 1}})
    old.insert_many([{"_id": n, "again": 1} for n in range(25, 30)])
    old.delete_many({"_id": {"$gte": 25}})
    client["r"]["dropped"].insert_many([{"_id": n} for n in range(5)])
    client["r"]["dropped"].delete_many({})
    client["r"]["after"].update_many({}, {"$inc": {"v": 1}})


def prove(sidecar, store) -> dict:
    """All windows since the first one: numbers without a hole, each before is the after before it, and the fold is the store."""
    sidecar.cut("end")
    fold, _ = check_export(sidecar.export)
    compare("the windows", fold, dump(store.client()))
    run_cli("verify", sidecar.export)
    return fold


def numbers(sidecar, ns: str, key) -> list[tuple]:
    """(epoch, seq) of a document, over all windows."""
    lines = (line for window in folders_of(sidecar.export) for line in (window / "records.jsonl").read_text().splitlines())
    records = (json.loads(line) for line in lines)
    return [(r["epoch"], r["seq"]) for r in records if r.get("ns") == ns and r.get("id") == key and "control" not in r]


def test_numbers_go_on_whatever_happens_to_the_index(lab, mode):
    """Documents whose records are gone are written again: after a restart, without the index, with one from before the log begins."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config=SETTINGS)
    copy = lab.folder / "older-index"
    with sidecar.client() as client:
        old_documents(client)
        sidecar.stop()
        shutil.copytree(sidecar.data / "index", copy)
        sidecar.start()
        last = tail_lsn(sidecar)
        roll_past(sidecar, client, last)
        assert sidecar.metric("tidelog_log_removed_bytes_total") > 0 and sidecar.metric("tidelog_log_first_lsn") > last
        assert len(list((sidecar.data / "index-snapshot").iterdir())) == 1
        touch_old(client)
        roll_past(sidecar, client, tail_lsn(sidecar))
        sidecar.stop()
        sidecar.start()
        touch_old(client)
        roll_past(sidecar, client, tail_lsn(sidecar))
        # The index is gone: it is made from its copy, and the log after that.
        sidecar.kill()
        shutil.rmtree(sidecar.data / "index")
        sidecar.start()
        touch_old(client)
        roll_past(sidecar, client, tail_lsn(sidecar))
        # An older index, from before the log begins, is no good; made of it, numbers would be given twice.
        sidecar.stop()
        shutil.rmtree(sidecar.data / "index")
        shutil.copytree(copy, sidecar.data / "index")
        sidecar.start()
        assert sidecar.metric("tidelog_index_rebuilds_total") == 1
        touch_old(client)
        assert len(dump(store.client())["r.old"]) == 25
    prove(sidecar, store)
    told = numbers(sidecar, "r.old", {"$numberInt": "7"}) or numbers(sidecar, "r.old", 7)
    assert [seq for _, seq in told] == list(range(1, 7)) and len({epoch for epoch, _ in told}) == 1, told
    dead = numbers(sidecar, "r.old", {"$numberInt": "27"}) or numbers(sidecar, "r.old", 27)
    assert [seq for _, seq in dead] == list(range(1, 11)), dead
    # What is gone is gone; what is there is told.
    records = [json.loads(line) for line in sidecar.log_records()]
    assert records[0]["lsn"] == first_lsn(sidecar) > last


def test_what_others_did_to_a_document_whose_image_is_gone(lab, mode):
    """The image before is not in the log any more: the record has its hash, and the chain stands. A delete is found too."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config=SETTINGS)
    with sidecar.client() as client, store.client() as foreign:
        client["r"]["old"].insert_many([{"_id": n, "v": 0} for n in range(9)] + [{"_id": f"s{n}"} for n in range(3)])
        roll_past(sidecar, client, tail_lsn(sidecar))
        foreign["r"]["old"].update_one({"_id": 1}, {"$set": {"v": "theirs"}})
        foreign["r"]["old"].delete_one({"_id": 2})
        client["r"]["old"].update_one({"_id": 1}, {"$set": {"w": "ours"}})
        sidecar.stop()
        foreign["r"]["old"].delete_one({"_id": 3})
        foreign["r"]["old"].delete_one({"_id": "s1"})
        sidecar.start()
        observed = lambda: [r for r in changes(sidecar, "--namespace", "r.old") if r["op"] == "observed"]  # noqa: E731
        eventually(lambda: len(observed()) >= 4, 60, "all four are found")
    told = {str(r["id"]): r for r in observed()}
    assert all(r["before"] is None and r["before_sha256"] for r in told.values()), told
    assert sum(r["after"] is None for r in told.values()) == 3
    eventually(lambda: sidecar.metric("tidelog_gaps_open") == 0, 60, "the comparison closes its gap")
    prove(sidecar, store)


@pytest.mark.timeout(200 + KILLS * 20)
def test_killed_while_it_lets_go(lab):
    """kill -9 again and again while records come and go; sometimes the index is lost with it."""
    print(f"replay with TIDELOG_SEED={SEED} TIDELOG_RETENTION_KILLS={KILLS}")
    moments = random.Random(SEED)
    store = lab.store()
    # Each turn makes a copy: the log keeps next to nothing.
    sidecar = lab.sidecar(store, config=SETTINGS.replace(str(LIMIT), "1"))
    with sidecar.client() as client:
        old_documents(client)
        for number in range(KILLS):
            last = first_lsn(sidecar)
            churn(client, 1 + moments.randrange(3))
            touch_old(client)
            time.sleep(moments.random() * 0.6)
            sidecar.kill()
            if moments.random() < 0.5:
                shutil.rmtree(sidecar.data / "index")
            sidecar.start()
            assert first_lsn(sidecar) >= last
            print(f"kill {number + 1} of {KILLS}, the log begins at {first_lsn(sidecar)}", flush=True)
        roll_past(sidecar, client, tail_lsn(sidecar))
    prove(sidecar, store)


def test_records_go_by_age(lab):
    """What is older than the bound goes, whatever the log's size; what is younger stays."""
    store = lab.store()
    settings = SETTINGS.replace(f"log_max_bytes = {LIMIT}", "log_max_age_ms = 3000")
    sidecar = lab.sidecar(store, config=settings)
    with sidecar.client() as client:
        old_documents(client)
        last = tail_lsn(sidecar)
        churn(client)  # fills the segments that they are in
        eventually(lambda: first_lsn(sidecar) > last, 30, "they are old enough")
        touch_old(client)
        assert status(sidecar)["log"]["held_bytes"] == 0
    prove(sidecar, store)


def kept(sidecar) -> list[dict]:
    return status(sidecar)["log"]["holders"]


def test_who_holds_the_log_is_told(lab):
    """A sink that stands still, and a dead letter, keep what they need; let go, it goes. A new sink begins with what is whole."""
    store = lab.store()
    blocked = lab.folder / "a-file"
    blocked.write_text("in the way")
    stuck = block("stuck", type="folder", dir=str(blocked / "x"))
    small = block("small", type="folder", dir=str(lab.folder / "small"), max_record_bytes=3000)
    sidecar = lab.sidecar(store, config=SETTINGS + stuck + small)
    with sidecar.client() as client:
        client["r"]["big"].insert_one({"_id": 1, "text": "x" * 4000})
        sidecar_held = lambda: sidecar.metric("tidelog_retention_held_bytes") > 0  # noqa: E731

        def grows() -> bool:
            churn(client)
            return sidecar_held()

        eventually(grows, 60, "the log grows beyond its bound")
        assert first_lsn(sidecar) == 1
        eventually(lambda: kept(sidecar)[0] == {"who": "sink stuck", "needs_lsn": 1, "window": 1}, 30, "the sink that stands still holds")
        eventually(lambda: all(words in sidecar.http("/readyz")[1] for words in ("sink stuck", "log_max_bytes")), 30, "/readyz names it")
        assert sidecar.http("/readyz")[0] == 200
        shown = run_cli("status", "--admin", sidecar.admin, check=False).stdout
        assert "sink stuck" in shown and "would go but for it" in shown, shown
        assert "sink stuck" in sidecar.process.output()
        # The sink is let go; the dead letter of the other still holds its window.
        sidecar.stop()
        sidecar.config = SETTINGS + small
        sidecar.start()
        eventually(lambda: status_of(sidecar, "small")["lag_records"] == 0, 30, "it catches up")
        churn(client)
        eventually(lambda: kept(sidecar)[0]["who"] == "dead letters of sink small", 30, "the dead letter holds")
        eventually(sidecar_held, 10, "that is told")
        assert kept(sidecar)[0]["window"] == json.loads(run_cli("dlq", "list", "--admin", sidecar.admin, "--json").stdout)[0]["window"]
        run_cli("dlq", "drop", "--admin", sidecar.admin, "--all")
        eventually(lambda: first_lsn(sidecar) > 1 and not sidecar_held(), 30, "what nobody needs goes")
        assert "log_max_bytes" not in sidecar.http("/readyz")[1]
        # A consumer of the log itself holds what it has not read; one of a sink does not.
        sidecar.cut("for the consumers")
        assert sidecar.http("/v1/consumers/books?window=now", "PUT")[0] == 200
        assert sidecar.http("/v1/consumers/shelf?sink=folder&window=now", "PUT")[0] == 200
        eventually(lambda: churn(client) or kept(sidecar)[:1] and kept(sidecar)[0]["who"] == "consumer books", 60, "the consumer holds")
        assert all("shelf" not in holder["who"] for holder in kept(sidecar))
        run_cli("consumers", "drop", "--admin", sidecar.admin, "books")
        eventually(lambda: not sidecar_held(), 30, "dropped, it holds no more")
        # New sinks on a log that has lost its beginning.
        roll_past(sidecar, client, 300)
        sidecar.stop()
        sidecar.config = SETTINGS + small + block("new", type="folder", dir=str(lab.folder / "new"), start=1)
        sidecar.start()
        eventually(lambda: status_of(sidecar, "new")["state"] == "stopped", 30, "it is stopped, alone")
        assert "whose records retention removed; the oldest window" in sidecar.http("/readyz")[1]
        sidecar.stop()
        sidecar.config = SETTINGS + small + block("new", type="folder", dir=str(lab.folder / "new"))
        sidecar.start()
        begins = first_lsn(sidecar)
        sidecar.cut("new")
        first = json.loads((folders_of(lab.folder / "new")[0] / "manifest.json").read_text())
        plain = json.loads((sidecar.export / f"window-{first['window']:010}" / "manifest.json").read_text())
        before = json.loads((sidecar.export / f"window-{first['window'] - 1:010}" / "manifest.json").read_text())
        assert before["first_lsn"] < begins <= first["first_lsn"] == plain["first_lsn"]
        assert run_cli("verify", lab.folder / "new", check=False).returncode == 0
    prove(sidecar, store)


def test_without_index_and_copy_it_does_not_begin_anew(lab):
    """The copy of the index is damaged and the index is gone: the start is refused and says what is lost; put back, it goes on."""
    store = lab.store()
    sidecar = lab.sidecar(store, config=SETTINGS)
    with sidecar.client() as client:
        old_documents(client)
        roll_past(sidecar, client, tail_lsn(sidecar))
        begins = first_lsn(sidecar)
        sidecar.stop()
        [snapshot] = (sidecar.data / "index-snapshot").iterdir()
        good = snapshot.read_bytes()
        snapshot.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])
        # With its index it does not need the copy, and makes another before more goes.
        sidecar.start()
        roll_past(sidecar, client, tail_lsn(sidecar))
        sidecar.stop()
        [snapshot] = (sidecar.data / "index-snapshot").iterdir()
        good = snapshot.read_bytes()
        snapshot.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        shutil.rmtree(sidecar.data / "index")
        for _ in range(2):
            process = sidecar.spawn().process
            eventually(lambda: not process.alive(), 30, "it ends")  # noqa: B023
            told = process.output()
            assert "was removed by retention" in told and "checksum" in told and "Remedy: restore" in told and "index-snapshot" in told, told
        snapshot.write_bytes(good)
        sidecar.start()
        assert first_lsn(sidecar) > begins
        touch_old(client)
    prove(sidecar, store)
