"""Windows in a bucket of a real S3 server: the same bytes as in the folder beside it, each window once, whatever breaks."""

import json
import os
import random
import signal
import time

import pytest
from fault_proxy import FAULTS, FaultProxy
from judge import settle
from s3 import KEYS, folder_bytes, sink
from sidecar import ROOT, run_cli
from validator import check_export
from waiting import eventually
from workload import Workload, prepare

KILLS = int(os.environ.get("TIDELOG_KILLS", 12))
SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))
QUICK = "[windows]\nsettle_ms = 100\nidle_ms = 200\n"
ONCE = 'timeout = "2 seconds", connect_timeout = "2 seconds"'


def lake(lab, endpoint: str, config: str = QUICK, more: str = "", ready: bool = True, **options):
    """A store and a sidecar with the folder and the bucket."""
    block = config + sink(endpoint, "s3://lake/orders").replace(" }", f", {ONCE} }}") + more
    return lab.sidecar(lab.store(), config=block, env=KEYS, ready=ready, **options)


def same(s3, sidecar, prefix: str = "orders") -> None:
    """The bucket holds the folder: every file, byte for byte, and nothing else."""
    ours, theirs = folder_bytes(sidecar.export), s3.all("lake", prefix)
    assert sorted(theirs) == sorted(ours)
    different = [name for name in ours if ours[name] != theirs[name]]
    assert not different, different
    assert len([name for name in ours if name.endswith("manifest.json")]) > 0


def row(sidecar, name: str = "lake") -> dict:
    """What /v1/status tells of a sink."""
    status, text = sidecar.http("/v1/status")
    assert status == 200, text
    return next(s for s in json.loads(text)["export"]["sinks"] if s["name"] == name)


def page_block(page: str, heading: str) -> str:
    """The first block of TOML below a heading of a page of deploy/docs."""
    text = (ROOT / "deploy/docs" / page).read_text()
    return text.split(f"## {heading}\n", 1)[1].split("```toml\n", 1)[1].split("```", 1)[0]


def test_the_page_s_blocks_run(lab, s3):
    """The blocks of sinks-object.md, with the address of this server: parts, compression, a file of options, large files."""
    file = lab.folder / "keys"
    file.write_text(f"aws_access_key_id={KEYS['AWS_ACCESS_KEY_ID']}\naws_secret_access_key={KEYS['AWS_SECRET_ACCESS_KEY']}\n")
    config = QUICK + page_block("sinks-object.md", "Any server that speaks S3") + page_block("sinks-object.md", "In parts, compressed") + "\nlatest = true\n"
    config = config.replace("https://s3.example.com", s3.endpoint).replace("/etc/tidelog/lake.keys", str(file))
    config += f'[sinks.beside]\ntype = "folder"\ndir = "{lab.folder}/beside"\ncompression = "zstd"\nparts = 4\nlatest = true\n'
    assert 'aws_allow_http = "true"' in config and str(file) in config and s3.endpoint in config
    sidecar = lab.sidecar(lab.store(), config=config, ready=False)
    with sidecar.client() as client:
        for step in range(3):
            client["shop"]["orders"].insert_many([{"_id": f"{step}-{n}", "n": n} for n in range(200)])
            sidecar.cut(f"step {step}")
        # More than one part of an upload.
        for n in range(24):
            client["shop"]["large"].insert_one({"_id": n, "noise": os.urandom(1 << 20)})
        sidecar.cut("large")
    same(s3, sidecar)
    beside = folder_bytes(lab.folder / "beside")
    assert beside == s3.all("lake", "small") and all(any(f"/{kind}-0003-of-0004.jsonl.zst" in name for name in beside) for kind in ("records", "latest"))
    assert max(len(content) for content in s3.all("lake", "orders").values()) > 16 << 20
    check_export(sidecar.export)
    run_cli("verify", sidecar.export)


@pytest.mark.timeout(600 + KILLS * 20)
def test_kills(lab, s3):
    """kill -9 at random moments under load: in the end exactly the windows, once, with the folder's bytes."""
    print(f"replay with TIDELOG_SEED={SEED} TIDELOG_KILLS={KILLS}")
    moments = random.Random(SEED)
    proxy = FaultProxy(s3.endpoint)
    sidecar = lake(lab, proxy.endpoint, "[windows]\nmax_records = 200\nsettle_ms = 100\n")
    store = lab.running[-2]
    prepare(sidecar.client())
    workload = Workload(lab.folder / "work", f"mongodb://{sidecar.listen}/", SEED, 10**9, processes=2, pause=0.01)
    for _ in range(KILLS):
        workload.await_progress(30)
        # Half of the kills stand where the sink is: at one of its next requests.
        if moments.random() < 0.5:
            goal = len(proxy.seen) + moments.randrange(1, 12)
            deadline = time.monotonic() + 20
            while len(proxy.seen) < goal and time.monotonic() < deadline:
                time.sleep(0.001)
        else:
            time.sleep(moments.choice([0.02, 0.2, 0.6]) * moments.random())
        sidecar.kill()
        sidecar.start(ready=moments.random() < 0.7)
    workload.stop()
    diaries = workload.wait(120)
    settle(sidecar, store, diaries)
    same(s3, sidecar)
    assert len(list(sidecar.export.glob("window-*"))) > KILLS // 2
    proxy.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "slow"])
def test_each_request_of_a_large_window_spoilt(lab, s3, fault):
    """The first, the second, the third … request of a window that goes up in parts is spoilt, once; then the next window."""
    proxy = FaultProxy(s3.endpoint)
    sidecar = lake(lab, proxy.endpoint)
    large, hits = "x" * 900_000, 0
    with sidecar.client() as client:
        for at in range(12):
            start = len(proxy.seen)
            proxy.choose = lambda number, *_: fault if number == start + at else None
            client["f"]["c"].insert_many([{"n": n, "s": large} for n in range(10)])
            sidecar.cut()
            proxy.choose = lambda *_: None
            hits += any(found for _, _, found in proxy.seen[start:])
    same(s3, sidecar)
    check_export(sidecar.export)
    # Mark, list, begin, two parts, end, list, manifest, read back, latest.
    assert hits >= 10, f"only {hits} requests were spoilt"
    proxy.close()


def test_the_server_hangs_dies_and_comes_back(lab, s3):
    """Stopped, then killed, then started again: the folder goes on, /readyz says which sink fails and why."""
    sidecar = lake(lab, s3.endpoint)
    with sidecar.client() as client:
        for what in ("hangs", "dead"):
            s3.process.signal(signal.SIGSTOP) if what == "hangs" else s3.kill()
            before = row(sidecar, "folder")["exported_window"]
            client["h"]["c"].insert_one({"_id": what})
            eventually(lambda: row(sidecar, "folder")["exported_window"] > before, 30, f"{what}: the folder goes on")
            eventually(lambda: row(sidecar)["failures"] > 0, 60, f"{what}: the sink is told as failing")
            told = row(sidecar)["error"]
            assert ("did not answer in time" if what == "hangs" else "nobody listens") in told, told
            assert row(sidecar)["state"] == "failing"
            s3.process.signal(signal.SIGCONT) if what == "hangs" else s3.start()
            eventually(lambda: row(sidecar)["lag_records"] == 0, 90, f"{what}: all is delivered again")
    same(s3, sidecar)


def test_the_bucket_is_not_there_yet(lab, s3):
    """/readyz says that it is to be created; when it is, all arrives without a restart."""
    s3.client().delete_bucket(Bucket="lake")
    sidecar = lake(lab, s3.endpoint, ready=False)
    with sidecar.client() as client:
        client["b"]["c"].insert_one({"_id": 1})
        eventually(lambda: "create it" in sidecar.http("/readyz")[1], 30, "/readyz says what to do")
        assert sidecar.http("/readyz")[0] == 200 and row(sidecar)["state"] == "stopped"
        eventually(lambda: row(sidecar, "folder")["lag_records"] == 0, 30, "the folder goes on")
        s3.make("lake")
        eventually(lambda: row(sidecar)["lag_records"] == 0, 60, "it goes on without a restart")
    sidecar.await_ready()
    same(s3, sidecar)


def test_wrong_credentials(lab, s3):
    """They are refused and said to be, shown nowhere; a corrected file is enough."""
    file = lab.folder / "keys"
    file.write_text("aws_access_key_id=wrongkeyname\naws_secret_access_key=wrongkeysecret\n")
    sidecar = lake(lab, s3.endpoint, more=f'options_file = "{file}"\n', ready=False)
    with sidecar.client() as client:
        client["k"]["c"].insert_one({"_id": 1})
        eventually(lambda: "credentials" in sidecar.http("/readyz")[1], 30, "/readyz says what to do")
        told = sidecar.http("/readyz")[1] + sidecar.http("/v1/status")[1] + sidecar.process.output()
        assert "wrongkey" not in told and KEYS["AWS_SECRET_ACCESS_KEY"] not in told
        file.write_text(file.read_text().replace("wrongkeyname", KEYS["AWS_ACCESS_KEY_ID"]))
        time.sleep(0.1)
        file.write_text("\n".join(f"{name.lower()}={value}" for name, value in KEYS.items()))
        eventually(lambda: row(sidecar)["lag_records"] == 0, 60, "it goes on without a restart")
    same(s3, sidecar)
    told = sidecar.process.output() + sidecar.http("/metrics")[1]
    assert all(value not in told for value in KEYS.values())


def test_what_differs_stops_the_sink(lab, s3):
    """Another log's bucket, and a window that was changed there: never overwritten."""
    sidecar = lake(lab, s3.endpoint)
    with sidecar.client() as client:
        for n in range(2):
            client["d"]["c"].insert_one({"_id": n})
            sidecar.cut()
    sidecar.kill()
    # A crash after the manifest, before the checkpoint: the window is delivered again over a file that was changed.
    (checkpoint,) = sidecar.data.glob("checkpoints/*lake*")
    checkpoint.unlink()
    key = "orders/window-0000000002/records.jsonl"
    good = s3.read("lake", key)
    s3.client().put_object(Bucket="lake", Key=key, Body=b"changed\n")
    sidecar.start(ready=False)
    eventually(lambda: row(sidecar)["state"] == "stopped", 30, "the sink stops")
    assert "window-0000000002/records.jsonl" in row(sidecar)["error"] and s3.read("lake", key) == b"changed\n"
    s3.client().put_object(Bucket="lake", Key=key, Body=good)
    eventually(lambda: row(sidecar)["lag_records"] == 0, 60, "it goes on when it was put right")
    same(s3, sidecar)
    other = lake_of_another(lab, s3)
    eventually(lambda: "belongs to log" in row(other)["error"], 30, "a stranger is noticed")
    same(s3, sidecar)


def lake_of_another(lab, s3):
    block = QUICK + sink(s3.endpoint, "s3://lake/orders")
    store = lab.running[-1].upstream
    return lab.sidecar(store, name="other", config=block, env=KEYS, ready=False)
