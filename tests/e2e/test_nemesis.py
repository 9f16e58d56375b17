"""The nemesis against each kind of store: after any faults, in any order, every oracle holds.

TIDELOG_FAULTS   faults altogether (default 64); the long form: TIDELOG_FAULTS=2000 deploy/test.sh nemesis
TIDELOG_SEED     draws the same plan again
TIDELOG_EVIDENCE where a failed run leaves everything (see evidence.py; default: `tidelog-evidence` in the folder for temporary files)

Each kind of store has an equal part of the faults. The kinds may run at the same time in processes of their own, with the same number
and seed: deploy/test.sh nemesis -k replica-keeps (replica-loses, standalone-keeps, standalone-loses).
"""

import os
import random
import time
from collections import Counter

import evidence
import pytest
from judge import settle
from nemesis import START, Nemesis, plan
from validator import check_export
from workload import COLLATED, twice_applied

FAULTS = int(os.environ.get("TIDELOG_FAULTS", 64))
SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))
# A store that keeps what it acknowledged, and one that loses the last tenth of a second when it is killed.
KINDS = [("replica", True), ("replica", False), ("standalone", True), ("standalone", False)]
LOOK_EVERY = 50


@pytest.mark.timeout(600 + FAULTS * 20)
@pytest.mark.parametrize("mode, sync", KINDS, ids=[f"{m}-{'keeps' if s else 'loses'}" for m, s in KINDS])
def test_nemesis(lab, mode, sync):
    count = max(1, FAULTS // len(KINDS))
    seed = f"{SEED}/{mode}/{sync}"
    print(f"replay with TIDELOG_SEED={SEED} TIDELOG_FAULTS={FAULTS}")
    without = {"step_down"} if mode == "standalone" else set()
    steps, began, told = plan(seed, count, without), time.monotonic(), []
    nemesis = Nemesis(lab, mode, sync, seed)

    def tell(what: str) -> None:
        told.append(f"{time.strftime('%H:%M:%S')} {time.monotonic() - began:8.1f} s  {what}")
        print(told[-1], flush=True)

    try:
        for step in steps:
            tell(f"fault {step}")
            nemesis.carry_out(step)
            if step.number % LOOK_EVERY == 0:
                check_export(nemesis.sidecar.export, COLLATED)
        tell("the end")
        the_end(nemesis)
    except BaseException as error:
        tell(f"failed: {type(error).__name__}")
        name = f"nemesis-{mode}-{'keeps' if sync else 'loses'}-seed-{SEED}"
        kept = evidence.keep(name, lab, nemesis.sidecar, nemesis.store, error, told, nemesis.workload.kill)
        told.append(f"EVIDENCE {kept} (replay with TIDELOG_SEED={SEED} TIDELOG_FAULTS={FAULTS})")
        print(told[-1], flush=True)
        error.add_note(told[-1])
        raise
    finally:
        nemesis.close()
    kinds = Counter(kind for step in steps for kind in step.kinds)
    print(f"{sum(kinds.values())} faults in {time.monotonic() - began:.0f} s, seed {SEED}: {dict(kinds)}, {nemesis.restarts} starts of the sidecar, {nemesis.restarts_wanted} because its disk had failed")


def the_end(nemesis: Nemesis) -> None:
    """The clients end, the last outcomes are settled, and everything is judged."""
    nemesis.workload.stop()
    diaries = nemesis.workload.wait(300)
    nemesis.sidecar.await_ready(START)
    nemesis.find_others()
    settle(nemesis.sidecar, nemesis.store, diaries, lossy=nemesis.store_died)
    # The test store forgets its retryable writes when it restarts: then a retry applies again, with or without a sidecar.
    assert nemesis.store_died or not twice_applied(nemesis.store.client())
