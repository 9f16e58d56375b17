"""A real store for one test: started on an ephemeral loopback port in a temporary folder, ended by the test.

The binary is $TIDELOG_STORE_BIN (secantusd-rs or mongod). Nothing here falls back to a fake: without a store the suite fails.
"""

import os
import pathlib
import random
import re
import shutil
import socket
import time

from pymongo import MongoClient
from process import Process

READY = re.compile(r"listening on ([\d.]+):(\d+)")


def store_binary() -> str:
    """The store's path, or a loud error that says how to get one."""
    for candidate in (
        os.environ.get("TIDELOG_STORE_BIN"),
        shutil.which("mongod"),
        os.path.expanduser(os.environ.get("TIDELOG_TOOLS", "~/.cache/tidelog") + "/bin/secantusd-rs"),
    ):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise RuntimeError("no store: set TIDELOG_STORE_BIN, or run deploy/test.sh, which installs one")


def free_port() -> int:
    """A port that was free a moment ago, below those that the kernel gives to outgoing connections: who listens there can be killed
    and started again without anybody's connection having taken its place meanwhile."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Store:
    """One node: `mode` is "replica" (a one-node set) or "standalone"."""

    def __init__(self, folder: pathlib.Path, mode: str = "replica", sync: bool = False, auth: bool = False, extra=()):
        self.binary = store_binary()
        self.folder = folder
        self.mode = mode
        self.sync = sync
        self.auth = auth
        self.extra = list(extra)
        self.port = 0
        self.process: Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def is_mongod(self) -> bool:
        return os.path.basename(self.binary).startswith("mongod")

    def start(self) -> "Store":
        """Starts it (again on the same port after the first time) and waits until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.port:
            self.port = free_port()
        self.process = Process([self.binary, *self._arguments()], self.folder.parent / f"{self.folder.name}.log")
        self._await_primary()
        return self

    def _arguments(self) -> list[str]:
        if self.is_mongod:
            args = ["--port", str(self.port), "--bind_ip", "127.0.0.1", "--dbpath", str(self.folder)]
            if self.mode == "replica":
                args += ["--replSet", "rs0"]
            return args + (["--auth"] if self.auth else []) + self.extra
        args = ["--host", "127.0.0.1", "--port", str(self.port), "--storage-path", str(self.folder)]
        args += [] if "--cache-size" in self.extra else ["--cache-size", "256M"]
        args += ["--log-file-max", "4MB"]
        if self.mode == "standalone":
            args.append("--standalone")
        if self.sync:
            args.append("--sync-on-commit")
        return args + (["--auth"] if self.auth else []) + self.extra

    def _await_primary(self) -> None:
        deadline = time.monotonic() + 120
        last = None
        while time.monotonic() < deadline:
            self.process.must_live()
            try:
                with self.client(serverSelectionTimeoutMS=1000) as client:
                    hello = client.admin.command("hello")
                    if hello.get("isWritablePrimary"):
                        return
                    if self.is_mongod and not hello.get("setName"):
                        member = {"_id": 0, "host": self.address}
                        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
            except Exception as error:  # not up yet
                last = error
            time.sleep(0.05)
        raise RuntimeError(f"the store did not come up: {last}")

    def client(self, **options) -> MongoClient:
        """A client that goes to the store itself, past the sidecar."""
        return MongoClient(self.address, directConnection=True, **options)

    def make_tables(self) -> None:
        """Makes the sixteen tables that the test store keeps all collections in, by a hash of their names, each when it is first
        needed. Killed in the midst of making one, it does not start again (see store-divergences.md)."""
        with self.client() as client:
            for letter in "abcdefghijklmnop":  # the hash ends in another half byte for each
                client["tables"].create_collection(letter)
            client.drop_database("tables")
        time.sleep(0.2)  # it writes its journal every 100 ms

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def stop(self) -> None:
        """Ends it in an orderly way."""
        if self.process:
            self.process.terminate(20)


class SecondStore(Store):
    """A server that shares no code with the first one: mongo-java-server with H2, installed by deploy/test.sh."""

    def __init__(self, folder: pathlib.Path, mode: str = "second"):
        super().__init__(folder, mode)
        self.home = os.environ.get("TIDELOG_SECOND_STORE", "")
        if not os.path.exists(f"{self.home}/complete"):
            raise RuntimeError("no second store: run deploy/test.sh e2e, which installs one, or set TIDELOG_SECOND_STORE")

    def start(self) -> "SecondStore":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        argv = ["java", "-Xmx512m", "-cp", f"{self.home}:{self.home}/jars/*", "SecondStore", str(self.port), str(self.folder / "h2.mv")]
        self.process = Process(argv, self.folder.parent / f"{self.folder.name}.log")
        deadline = time.monotonic() + 60
        while "listening on" not in self.process.output():
            self.process.must_live()
            if time.monotonic() > deadline:
                raise RuntimeError("the second store did not come up")
            time.sleep(0.05)
        return self
