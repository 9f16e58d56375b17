"""What the benches with real programs share: programs that are watched, waiting, metrics, a store."""

import os
import pathlib
import resource
import signal
import socket
import subprocess
import time
import urllib.request

from pymongo import MongoClient

TICK = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A program that is watched: its processor time and its peak memory, with its children."""

    def __init__(self, argv: list, log: pathlib.Path, env: dict | None = None):
        self.log = log
        self.began = time.monotonic()
        with log.open("ab") as out:
            self.child = subprocess.Popen([str(word) for word in argv], stdout=out, stderr=subprocess.STDOUT, env=env)
        self.peak = 0

    def cpu(self) -> float:
        try:
            fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return sum(int(fields[n]) for n in (11, 12)) / TICK

    def lives(self) -> bool:
        if self.child.poll() is not None:
            raise SystemExit(f"{self.log.name} ended:\n{self.log.read_text()[-3000:]}")
        return True

    def look(self) -> None:
        """Takes note of the peak memory."""
        try:
            status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        except OSError:
            return
        told = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
        self.peak = max([self.peak, *map(int, told)])

    def wait(self, seconds: float = 1800) -> tuple[float, float]:
        """Waits for its end; wall and processor seconds."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        deadline = time.monotonic() + seconds
        while self.child.poll() is None:
            self.look()
            if time.monotonic() > deadline:
                self.child.kill()
                raise SystemExit(f"{self.log.name}: not done in {seconds} s:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        wall, after = time.monotonic() - self.began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if self.child.returncode != 0:
            raise SystemExit(f"{self.log.name}: ended with {self.child.returncode}:\n{self.log.read_text()[-3000:]}")
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def end(self) -> None:
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(60)


def until(condition, what: str, seconds: float = 900):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"no {what} in {seconds} s")
        time.sleep(0.02)
    return found


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def metrics(admin: int) -> dict[str, float]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
    except OSError:
        return {}
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")}


class Bench:
    """A store in a folder, and sidecars before it. `oplog`: so many entries are kept for those who read the store's stream."""

    def __init__(self, folder: pathlib.Path, oplog: int):
        self.folder = folder
        self.port = free_port()
        words = [os.environ["STORE_BIN"], "--port", self.port]
        if "secantusd" in words[0]:
            words += ["--storage-path", folder / "store", "--cache-size", "1G", "--oplog-max-entries", oplog, "--oplog-retention-seconds", 36_000]
        else:
            (folder / "store").mkdir()
            words += ["--dbpath", folder / "store", "--bind_ip", "127.0.0.1", "--replSet", "bench", "--oplogSize", 8_192]
        self.store = Process(words, folder / "store.log")
        until(lambda: answers(self.port), "store")
        self.client = MongoClient(f"mongodb://127.0.0.1:{self.port}/?directConnection=true")
        if "secantusd" not in words[0]:
            self.client.admin.command("replSetInitiate")
            until(lambda: self.client.admin.command("hello").get("isWritablePrimary"), "primary")
        self.name = self.client.admin.command("hello")["setName"]

    def sidecar(self, config: str, windows: str) -> tuple[Process, int, int]:
        """A sidecar that accepts clients; its ports, for them and for the admin API."""
        listen, admin = free_port(), free_port()
        file = self.folder / "tidelog.toml"
        file.write_text(f'[windows]\n{windows}[export]\ndir = ""\n{config}')
        words = [os.environ["TIDELOG_BIN"], "run", "--config", file, "--listen", f"127.0.0.1:{listen}", "--upstream", f"127.0.0.1:{self.port}"]
        words += ["--data", self.folder / "data", "--admin", f"127.0.0.1:{admin}"]
        return Process(words, self.folder / "sidecar.log"), listen, admin

    def end(self) -> None:
        self.store.end()
