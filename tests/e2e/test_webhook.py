"""Windows at an HTTP receiver: each once, with the folder's bytes, whatever becomes of requests, answers and processes."""

import json
import os
import random
import signal
import time

import pytest
from fault_proxy import FAULTS, FaultProxy
from receiver import TOKEN, Receiver
from s3 import folder_bytes
from sidecar import ROOT
from waiting import eventually

KILLS = int(os.environ.get("TIDELOG_KILLS", 10))
SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))
QUICK = "[windows]\nsettle_ms = 100\nidle_ms = 200\n"


@pytest.fixture
def receiver(lab):
    receiver = Receiver(lab.folder / "received")
    lab.running.append(receiver)
    return receiver.start()


def hook(lab, endpoint: str, config: str = QUICK, token: str = TOKEN, options: str = 'chunk_bytes = "4096", timeout_ms = "2000"', **more):
    """A store and a sidecar with the folder and the receiver."""
    file = lab.folder / "hook.headers"
    file.write_text(f"authorization=Bearer {token}\n")
    config += f'[sinks.hook]\ntype = "webhook"\nurl = "{endpoint}/windows"\noptions = {{ {options} }}\noptions_file = "{file}"\n'
    return lab.sidecar(lab.store(), config=config, **more)


def row(sidecar, name: str = "hook") -> dict:
    status, text = sidecar.http("/v1/status")
    assert status == 200, text
    return next(s for s in json.loads(text)["export"]["sinks"] if s["name"] == name)


def same(receiver, folder, least: int = 1) -> None:
    """The receiver's windows are the folder's, byte for byte, and nothing was wrong on the way."""
    wrong = receiver.folder / "wrong.txt"
    assert not wrong.exists(), wrong.read_text()

    def of(root):
        return {name: content for name, content in folder_bytes(root).items() if name.startswith("window-") and not name.endswith(".new")}

    ours, theirs = of(folder), of(receiver.folder)
    assert sorted(theirs) == sorted(ours)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert len([name for name in ours if name.endswith("manifest.json")]) >= least


def test_the_page_s_block_runs(lab, receiver):
    """The block of sinks-webhook.md with the address of this receiver; and another form beside it."""
    text = (ROOT / "deploy/docs/sinks-webhook.md").read_text().split("```toml\n", 1)[1].split("```", 1)[0]
    file = lab.folder / "hook.headers"
    file.write_text(f"authorization=Bearer {TOKEN}\n")
    assert "https://windows.example.com/tidelog" in text and "/etc/tidelog/hook.headers" in text
    text = text.replace("https://windows.example.com/tidelog", receiver.url).replace("/etc/tidelog/hook.headers", str(file))
    other = Receiver(lab.folder / "zipped").start()
    lab.running.append(other)
    form = 'compression = "zstd"\nparts = 3\n'
    text += f'[sinks.zipped]\ntype = "webhook"\nurl = "{other.url}"\n{form}options = {{ chunk_bytes = "20000" }}\noptions_file = "{file}"\n'
    text += f'[sinks.beside]\ntype = "folder"\ndir = "{lab.folder}/beside"\n{form}'
    sidecar = lab.sidecar(lab.store(), config=QUICK + text)
    with sidecar.client() as client:
        for step in range(3):
            client["w"]["c"].insert_many([{"_id": f"{step}-{n}", "noise": os.urandom(3000).hex()} for n in range(100)])
            sidecar.cut()
    same(receiver, sidecar.export, 3)
    same(other, lab.folder / "beside", 3)
    chunks = list((receiver.folder / "chunks").glob("*/0.*"))
    assert len(chunks) > 3 and all(chunk.read_bytes().endswith(b"\n") for chunk in chunks)


@pytest.mark.timeout(900)
def test_kills_of_both_under_faults(lab, receiver):
    """Sidecar and receiver are killed in turns while a fifth of the requests is spoilt; in the end each window once."""
    print(f"replay with TIDELOG_SEED={SEED} TIDELOG_KILLS={KILLS}")
    chance = random.Random(SEED)
    proxy = FaultProxy(receiver.url)
    proxy.choose = lambda *_: chance.choice(FAULTS) if chance.random() < 0.2 else None
    sidecar = hook(lab, proxy.endpoint, "[windows]\nsettle_ms = 50\nmax_records = 30\n")
    for number in range(KILLS):
        with sidecar.client() as client:
            goal, deadline, n = len(proxy.seen) + chance.randrange(1, 9), time.monotonic() + 150, 0
            while len(proxy.seen) < goal or n < 40:
                assert time.monotonic() < deadline, "the sink sends nothing"
                client["k"]["c"].insert_one({"_id": f"{number}-{n}", "s": "x" * 500})
                n += 1
        if number % 2:
            receiver.kill()
            receiver.start()
        else:
            sidecar.kill()
            sidecar.start()
    proxy.choose = lambda *_: None
    sidecar.cut("end")
    same(receiver, sidecar.export, KILLS)
    proxy.close()


def test_the_receiver_hangs_and_dies(lab, receiver):
    """Stopped, then killed: the folder goes on, the sink is told as failing and why; then all arrives."""
    sidecar = hook(lab, receiver.url)
    with sidecar.client() as client:
        for what, told in (("hangs", "no answer in time"), ("dead", "nobody listens")):
            receiver.process.signal(signal.SIGSTOP) if what == "hangs" else receiver.kill()
            before = row(sidecar, "folder")["exported_window"]
            client["h"]["c"].insert_one({"_id": what})
            eventually(lambda: row(sidecar, "folder")["exported_window"] > before, 30, f"{what}: the folder goes on")
            eventually(lambda: told in row(sidecar)["error"], 60, f"{what}: the reason is told")
            assert "sink" in sidecar.http("/readyz")[1]
            receiver.process.signal(signal.SIGCONT) if what == "hangs" else receiver.start()
            eventually(lambda: row(sidecar)["lag_records"] == 0, 90, f"{what}: all is delivered again")
    same(receiver, sidecar.export, 2)


def test_wrong_token(lab, receiver):
    """401 stops the sink and says what to check; the token is shown nowhere, though the receiver repeats it; a corrected file
    is enough."""
    sidecar = hook(lab, receiver.url, token="a-wrong-token", ready=False)
    with sidecar.client() as client:
        client["t"]["c"].insert_one({"_id": 1})
    eventually(lambda: "check `authorization`" in sidecar.http("/readyz")[1], 30, "/readyz says what to do")
    assert row(sidecar)["state"] == "stopped" and "401" in row(sidecar)["error"]
    (lab.folder / "hook.headers").write_text(f"authorization=Bearer {TOKEN}\n")
    eventually(lambda: row(sidecar)["lag_records"] == 0, 60, "it goes on without a restart")
    told = sidecar.process.output() + sidecar.http("/v1/status")[1] + sidecar.http("/metrics")[1]
    assert TOKEN not in told and "a-wrong-token" not in told
    same(receiver, sidecar.export)
