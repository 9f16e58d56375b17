"""A receiver of windows as a process of its own (webhook_receiver.py)."""

import pathlib
import socket
import sys

from process import Process
from store import free_port
from sidecar import ROOT
from waiting import eventually

TOKEN = "a-token-of-the-test"


class Receiver:
    """The program webhook_receiver.py; what it took outlives it."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: Process | None = None

    def start(self) -> "Receiver":
        self.folder.mkdir(parents=True, exist_ok=True)
        program = ROOT / "tests/e2e/webhook_receiver.py"
        argv = [sys.executable, str(program), str(self.port), str(self.folder), TOKEN]
        self.process = Process(argv, self.folder.with_suffix(".log"))
        eventually(self._answers, 30, "the receiver listens")
        return self

    def _answers(self) -> bool:
        self.process.must_live()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def kill(self) -> None:
        self.process.kill()
