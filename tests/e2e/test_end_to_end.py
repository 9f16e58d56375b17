"""The main promise: under a random workload of all write shapes, what the log and the windows say is what the store holds."""

import os
import random

import pytest
from dump import difference, dump
from judge import end_of_run
from shapes import load
from sidecar import run_cli
from workload import Workload, prepare, twice_applied

# What may go wrong in a sound run, by shape and code: the store says so with or without a sidecar.
EXPECTED_ERRORS = {("fam_array_filters", "OperationFailure", 2)}
SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))
ACTIONS = int(os.environ.get("TIDELOG_ACTIONS", 250))


@pytest.mark.timeout(900)
def test_fold_equals_dump(lab, mode):
    """Twelve concurrent clients; cuts on the way; then every oracle, and the fold of log and windows equals the dump."""
    print(f"replay with TIDELOG_SEED={SEED} TIDELOG_ACTIONS={ACTIONS}")
    store = lab.store(mode)
    sidecar = lab.sidecar(store, config='[windows]\nmax_records = 700\n')
    prepare(sidecar.client())
    workload = Workload(lab.folder / "work", f"mongodb://{sidecar.listen}/", SEED, ACTIONS)
    while workload.running():
        run_cli("cut", "--admin", sidecar.admin, "--label", "under way")
    diaries = workload.wait(600)
    end_of_run(sidecar, store, diaries, exact=True)
    # A transaction that meets another one is told so at once, as without the sidecar.
    unexpected = {c for c in diaries.codes() if c not in EXPECTED_ERRORS and not (c[0].startswith("txn_") and c[2] == 112)}
    assert not unexpected, [e for e in diaries.errors if (e["shape"], e["kind"], e["code"]) in unexpected][:5]
    never = [s for s in load() if s not in {a["shape"] for a in diaries.acks}]
    assert not never, f"shapes that never succeeded: {never}"
    assert not twice_applied(store.client())


def test_state_after_cut(lab, mode):
    """A cut in the midst of a quiet moment is a state: its windows fold to exactly what the store held then."""
    store = lab.store(mode)
    sidecar = lab.sidecar(store)
    prepare(sidecar.client())
    from validator import check_export

    for step in range(3):
        Workload(lab.folder / f"work{step}", f"mongodb://{sidecar.listen}/", SEED + step, 40).wait(300)
        sidecar.cut(f"step {step}")
        held = dump(store.client())
        fold, _ = check_export(sidecar.export, collated=["e2e.folded"])
        assert not difference(fold.documents(), held), difference(fold.documents(), held)
