"""What the tests of the shim share: a store behind shim and sidecar, one behind a shim alone, the faults, and threads."""

import os
import queue
import random
import threading
import traceback

from shim import Shim

SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))
# The store says so with or without a sidecar.
EXPECTED_ERRORS = {("fam_array_filters", "OperationFailure", 2)}
RETRY = ("RetryableWriteError",)
ERRORS = [
    ("error", 10107, ()), ("error", 10107, RETRY), ("error", 91, RETRY), ("error", 11600, (*RETRY, "NoWritesPerformed")), ("error", 262, RETRY),
    ("error", 112, ()), ("error", 8000, ()), ("applied", 11602, RETRY), ("applied", 91, ()), ("concern", 64, ()), ("concern", 91, RETRY),
]
# Seconds after which the store ends a transaction: one that lost its client holds others up for so long.
LIFETIME = 2
CUT_POINTS = ("before", "half", "after", "middle")
WAITS = ("delay", "late")


class World:
    """A store, a shim before it, a sidecar before that; and a second store with a shim alone, to compare with."""

    def __init__(self, lab, mode: str):
        self.mode = mode
        self.store, self.direct_store = lab.store(mode, "behind"), lab.store(mode, "direct")
        self.shim, self.direct = Shim(self.store.address), Shim(self.direct_store.address)
        config = "[windows]\nmax_records = 2000\n[capture]\ntransaction_lifetime_ms = 4000\n"
        self.sidecar = lab.sidecar(self.shim.address, config=config)
        for store in (self.store, self.direct_store):
            with store.client() as client:
                client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": LIFETIME})

    def close(self) -> None:
        self.shim.close()
        self.direct.close()


def in_parallel(cases: list, workers: int) -> list[str]:
    """Runs (name, function, arguments) in threads; the words of those that failed."""
    todo: queue.SimpleQueue = queue.SimpleQueue()
    for case in cases:
        todo.put(case)
    wrong: list[str] = []

    def work() -> None:
        while True:
            try:
                name, function, arguments = todo.get_nowait()
            except queue.Empty:
                return
            try:
                said = function(*arguments)
            except Exception:
                said = traceback.format_exc(limit=-2)
            if said:
                wrong.append(f"{name}: {said}")

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(wrong)
