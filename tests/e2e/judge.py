"""The end of a run: cut, then every oracle on the log and on the windows, and both folds against the store."""

import time

import bson
from dump import difference, dump
from losses import Losses
from sidecar import Sidecar, run_cli
from store import Store
from txn_judge import LEDGER
from validator import Broken, check_export, fold_lines
from workload import COLLATED, Diaries, Witness, tokens_in

PATIENCE = 120.0


def settle(sidecar, store, diaries, lossy: bool = False) -> None:
    """A write that outlived its sidecar is found by the second look within a bounded time: wait for it, then judge."""
    deadline, tries = time.monotonic() + PATIENCE, 0
    while True:
        try:
            return end_of_run(sidecar, store, diaries, exact=False, lossy=lossy)
        except Broken:
            raise
        except AssertionError as error:
            # A look at a long log may take longer than the patience: what it saw is old by then.
            tries += 1
            if "is not the store" not in str(error) or (time.monotonic() > deadline and tries >= 3):
                raise
            time.sleep(1)


def end_of_run(sidecar: Sidecar, store: Store, diaries: Diaries, exact: bool, lossy: bool = False, forgets: bool = False) -> None:
    """Raises at the first oracle that does not hold. `lossy`: the store was killed, and may have lost what it acknowledged;
    `forgets`: it has kept everything, but not that a transaction was committed (see store-divergences.md)."""
    sidecar.cut("end")
    held = dump(store.client())
    witness, losses = Witness(), Losses()

    def watch(record) -> None:
        witness.see(record)
        losses.see(record)

    fold = fold_lines(sidecar.log_records(), COLLATED, watch)
    losses.judge_store()
    wrong = witness.judge(diaries, exact, lossy, forgets)
    assert not wrong, f"{len(wrong)} wrong, the first:\n" + "\n".join(wrong[:5]) + traced(wrong[:5], witness, held, diaries)
    compare("the log", fold, held)
    exported, manifests = check_export(sidecar.export, COLLATED, ended=money_is_right)
    compare("the windows", exported, held)
    assert fold.gaps == {} and all(gap["until_lsn"] for gap in manifests[-1]["gaps"]), "a gap is open in a run without gaps"
    for ns, count in fold.alive.items():
        assert fold.complete.get(ns, True), f"{ns} is told incomplete though it began empty ({count})"
    run_cli("verify", sidecar.export, timeout=900)
    told = f"{len(diaries.acks)} acknowledged, {fold.lsn} records, {len(manifests)} windows, {len(fold.batches.seen)} transactions"
    print(f"{told}, {dict(fold.ops)}, found {dict(fold.found)}")
    if losses.corrected or losses.unknown:
        documents = len(losses.corrected)
        print(f"the store lost {losses.lost_changes} changes of {documents} documents, all past the proved point; {losses.unknown} not judged")


def traced(wrong: list[str], witness: Witness, held: dict, diaries: Diaries) -> str:
    """For each token named: which of its changes the log has, whether the store has the documents, what the client was told."""
    tokens = {token: None for line in wrong for token in tokens_in(line.encode())}
    return "\n" + "\n".join(witness.transactions.trace.tell(token, held, diaries.folder) for token in tokens)


def money_is_right(fold, manifest: dict) -> None:
    """At the end of each window the balances make 0: no transaction straddles it."""
    balances = [bson.decode(image)["balance"] for (ns, _), image in fold.images.items() if ns == LEDGER]
    assert sum(balances) == 0, f"window {manifest['window']} ends where the balances make {sum(balances)}"


def compare(what: str, fold, held: dict) -> None:
    """The documents that a fold makes against what the store holds, byte by byte."""
    told = difference(fold.documents(), held)
    assert not told, f"fold of {what} is not the store:\n{told}"
