"""A sink's own pace, how far its delivery is, and whether it is tried."""

import json

from sidecar import run_cli
from validator import check_export, windows_of
from waiting import eventually

SLOW = '[windows]\nsettle_ms = 100\nmax_records = 3000\nidle_ms = 600000\n[sinks.slow]\ntype = "folder"\ndir = "{}"\nbytes_per_second = {}\n'


def of(sidecar, name: str) -> dict:
    (row,) = [row for row in json.loads(run_cli("status", "--admin", sidecar.admin, "--json").stdout)["export"]["sinks"] if row["name"] == name]
    return row


def test_a_slow_pace_holds_up_nobody_and_shows_how_far_it_is(lab):
    """A window of some megabytes at a pace that would take minutes: the other sink has it, the status tells records that go
    up, and a stop does not wait for the pace; with another pace the window is delivered whole."""
    slow = lab.folder / "slow"
    sidecar = lab.sidecar(lab.store(), config=SLOW.format(slow, 100_000))
    with sidecar.client() as client:
        client["p"]["c"].insert_many([{"_id": n, "text": "x" * 4_000} for n in range(6_000)])
    eventually(lambda: len(windows_of(sidecar.export)) >= 1, 60, "the window is at the plain folder")
    first = of(sidecar, "slow")
    assert (first["delivering_window"], first["exported_window"]) == (1, 0)
    eventually(lambda: of(sidecar, "slow")["delivering_records"] > first["delivering_records"], 60, "the delivery goes on")
    shown = run_cli("status", "--admin", sidecar.admin).stdout
    assert "window 1 under way: " in shown and f"of {first['delivering_of']:,} records" in shown
    assert first["circuit"] == "closed" and list(slow.glob("window-*/manifest.json")) == []
    assert sidecar.stop() == 0
    assert list(slow.glob("window-*/manifest.json")) == []
    sidecar.config = SLOW.format(slow, 0)
    sidecar.start()
    eventually(lambda: of(sidecar, "slow")["exported_window"] >= 1, 60, "the window is delivered")
    check_export(slow)
    for window in windows_of(slow):
        assert (window / "records.jsonl").read_bytes() == (sidecar.export / window.name / "records.jsonl").read_bytes()


def test_the_circuit_is_told(lab):
    """A folder that cannot be written opens the circuit, is tried again, and closes it when it is mended."""
    sidecar = lab.sidecar(lab.store(), config="[windows]\nsettle_ms = 100\nidle_ms = 200\n")
    label = 'tidelog_sink_circuit{sink="folder"}'
    with sidecar.client() as client:
        client["s"]["c"].insert_one({"_id": 1})
        sidecar.cut()
        assert sidecar.metrics()[label] == 0
        away = sidecar.export.with_name("away")
        sidecar.export.rename(away)
        sidecar.export.write_text("in the way")
        client["s"]["c"].insert_one({"_id": 2})
        eventually(lambda: sidecar.metrics()[label] in (1, 2, 3), 20, "the circuit is open")
        eventually(lambda: sidecar.metric("tidelog_sink_failures") >= 2, 60, "it is tried again")
        lag = of(sidecar, "folder")["lag_ms"]
        eventually(lambda: of(sidecar, "folder")["lag_ms"] > lag, 20, "the lag grows though nothing comes")
        assert of(sidecar, "folder")["circuit"] in ("open", "half open", "stopped")
        sidecar.export.unlink()
        away.rename(sidecar.export)
        eventually(lambda: sidecar.metrics()[label] == 0, 60, "the circuit is closed")
        assert sidecar.metric("tidelog_sink_failures") == 0
    check_export(sidecar.export)
