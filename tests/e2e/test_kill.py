"""kill -9 of the sidecar at random moments under load: nothing acknowledged is lost, nothing is doubled, no chain breaks.

The long form: `TIDELOG_KILLS=200 deploy/test.sh kills`. A run prints its seed; `TIDELOG_SEED=n` draws the same moments and
the same clients again (the interleaving is the machine's).
"""

import os
import random
import time

import pytest
from forwarder import Forwarder
from judge import settle
from workload import Workload, prepare, twice_applied

KILLS = int(os.environ.get("TIDELOG_KILLS", 10))
SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))


@pytest.mark.timeout(600 + KILLS * 20)
def test_kills(lab, mode):
    """Random kills, each followed by a start on the same folders and ports, clients going on all the while."""
    print(f"replay with TIDELOG_SEED={SEED} TIDELOG_KILLS={KILLS}")
    moments = random.Random(SEED)
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config="[windows]\nmax_records = 500\n")
    prepare(sidecar.client())
    options = {"processes": 3, "pause": 0.01}
    workload = Workload(lab.folder / "work", f"mongodb://{sidecar.listen}/", SEED, 10**9, **options)
    for number in range(KILLS):
        # Drivers wait half a second and more before they look for a lost server again: kill only what is at work.
        workload.await_progress(30)
        time.sleep(moments.choice([0.02, 0.2, 0.6]) * moments.random())
        sidecar.kill()
        if moments.random() < 0.3:
            time.sleep(moments.random())
        sidecar.start(ready=moments.random() < 0.7)
        print(f"kill {number + 1} of {KILLS}", flush=True)
    sidecar.await_ready()
    workload.stop()
    diaries = workload.wait(120)
    assert len(diaries.acks) > 20 * KILLS, "hardly anything was acknowledged"
    settle(sidecar, store, diaries)
    assert not twice_applied(store.client())


def test_kill_when_idle_loses_nothing(lab, mode):
    """Each acknowledged insert is in the log after a kill right after its ack."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    for number in range(5):
        with sidecar.client() as client:
            client["one"]["by"].insert_one({"_id": number})
        sidecar.kill()
        found = [line for line in sidecar.log_records() if '"insert"' in line]
        assert len(found) == number + 1
        sidecar.start()


def test_connections_break(lab, mode):
    """Connections to the store and to the clients break in the midst of writes: what had happened is found by verify."""
    print(f"replay with TIDELOG_SEED={SEED}")
    chance = random.Random(SEED)
    store = lab.store(mode)
    behind = Forwarder(store.address)
    sidecar = lab.sidecar(behind.address, config="[windows]\nmax_records = 500\n")
    front = Forwarder(sidecar.listen)
    prepare(sidecar.client())
    uri = f"mongodb://{front.address}/?directConnection=true"
    workload = Workload(lab.folder / "work", uri, SEED, 10**9, processes=3, pause=0.01)
    for _ in range(40):
        time.sleep(chance.random() * 0.3)
        (behind if chance.random() < 0.6 else front).break_some(chance, 0.3)
    workload.stop()
    diaries = workload.wait(120)
    assert behind.broken > 20 and front.broken > 5 and len(diaries.acks) > 100
    settle(sidecar, store, diaries)
    assert not twice_applied(store.client())
    behind.close()
    front.close()
