"""What a failed run leaves behind: everything by which somebody can find out later what happened.

The folder is below $TIDELOG_EVIDENCE (default: `tidelog-evidence` in the system's folder for temporary files):
  why.txt            the failure, with its stack
  plan.txt           the faults up to there
  status.json, metrics.txt   what the sidecar said of itself at the end, if it still answered
  store.jsonl        a dump of the store: one line for each document
  log.jsonl          `tidelog log` of the data folder
  world/             the test's own folder: store, data and export folder, diaries, logs of sidecar, store, clients and shims
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
import time
import traceback

from bson import decode
from bson.json_util import CANONICAL_JSON_OPTIONS, dumps
from dump import SHOWN, dump
from sidecar import run_cli


def place(name: str) -> pathlib.Path:
    """A fresh folder."""
    root = pathlib.Path(os.environ.get("TIDELOG_EVIDENCE") or pathlib.Path(tempfile.gettempdir()) / "tidelog-evidence")
    folder = root / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir(parents=True)
    return folder


def keep(name: str, lab, sidecar, store, error: BaseException, told: list[str], halt=lambda: None) -> pathlib.Path:
    """Takes everything that can still be had; `halt` ends who writes. Processes are ended before their folders are copied."""
    folder = place(name)
    (folder / "why.txt").write_text("".join(traceback.format_exception(error)))
    (folder / "plan.txt").write_text("\n".join(told) + "\n")
    steps = [
        lambda: (folder / "status.json").write_text(sidecar.http("/v1/status")[1]),
        lambda: (folder / "metrics.txt").write_text(sidecar.http("/metrics")[1]),
        halt,
        lambda: dump_store(store, folder / "store.jsonl"),
        lab.end,
        lambda: (folder / "log.jsonl").write_text(run_cli("log", sidecar.data, check=False, timeout=600).stdout),
        lambda: shutil.copytree(lab.folder, folder / "world", ignore_dangling_symlinks=True),
    ]
    for step in steps:
        try:
            step()
        except Exception:  # what is left is kept all the same
            with open(folder / "why.txt", "a") as file:
                file.write("\nwhile the evidence was taken:\n" + traceback.format_exc())
    return folder


def dump_store(store, path: pathlib.Path) -> None:
    """Every document as canonical Extended JSON. A store that is down is started again for it."""
    if not store.process.alive():
        store.start()
    with store.client(serverSelectionTimeoutMS=30000) as client, open(path, "w") as out:
        for ns, documents in dump(client).items():
            for raw in documents:
                with contextlib.suppress(ValueError):
                    out.write(dumps({"ns": ns, "document": decode(raw, SHOWN)}, json_options=CANONICAL_JSON_OPTIONS) + "\n")
