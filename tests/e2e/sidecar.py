"""A `tidelog run` for one test, and the command line of `tidelog` beside it."""

import json
import os
import pathlib
import re
import subprocess
import time
import urllib.error
import urllib.request

from process import Process
from pymongo import MongoClient

ROOT = pathlib.Path(__file__).resolve().parents[2]
LISTENING = re.compile(r"\blisten(?:ing)?\b\W+(?:on\W+)?(127\.0\.0\.1:\d+)")
ADMIN = re.compile(r"\badmin\b\W+(?:on\W+)?(?:http://)?(127\.0\.0\.1:\d+)")


def binary() -> str:
    """$TIDELOG_BIN, or the debug build of this tree."""
    path = os.environ.get("TIDELOG_BIN", str(ROOT / "target" / "debug" / "tidelog"))
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"no sidecar at {path}: cargo build, or set TIDELOG_BIN")
    return path


def run_cli(*arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess:
    """Runs `tidelog …` to its end."""
    done = subprocess.run([binary(), *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise AssertionError(f"tidelog {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


class Sidecar:
    """One sidecar with its own folders. Ports are drawn at the first start and kept at each later one."""

    def __init__(self, folder: pathlib.Path, upstream: str, config: str = "", flags=(), env: dict | None = None, listen="127.0.0.1:0", admin="127.0.0.1:0"):
        self.folder = folder
        self.data = folder / "data"
        self.export = folder / "export"
        self.upstream = upstream
        self.config = config
        self.flags = list(flags)
        self.env = env or {}
        self.listen, self.admin = listen, admin
        self.process: Process | None = None

    def start(self, ready: bool = True) -> "Sidecar":
        """Starts it and waits for its addresses and, with `ready`, for /readyz."""
        return self.spawn().await_addresses(ready)

    def spawn(self) -> "Sidecar":
        """Starts its process. The thread that does must outlive it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        argv = [binary(), "run", "--listen", self.listen, "--upstream", self.upstream]
        argv += ["--data", str(self.data), "--export", str(self.export), "--admin", self.admin]
        if self.config:
            file = self.folder / "tidelog.toml"
            file.write_text(self.config)
            argv += ["--config", str(file)]
        env = dict(os.environ, NO_COLOR="1", RUST_BACKTRACE="1", **self.env)
        self.process = Process(argv + self.flags, self.folder / "sidecar.log", env)
        return self

    def await_addresses(self, ready: bool = True) -> "Sidecar":
        """Waits until it serves; it does when it has settled with the store what its last process left open."""
        self._await(lambda: self._addresses(), 120, "its addresses")
        if ready:
            self.await_ready()
        return self

    def _addresses(self) -> bool:
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.process.output())
        listen, admin = LISTENING.search(text), ADMIN.search(text)
        if listen and admin:
            self.listen, self.admin = listen[1], admin[1]
        return bool(listen and admin)

    def _await(self, condition, seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.process.must_live()
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {what} within {seconds} s:\n{self.process.output()[-4000:]}")
            time.sleep(0.02)

    def await_ready(self, seconds: float = 60) -> None:
        self._await(lambda: self.http("/readyz")[0] == 200, seconds, "/readyz 200")

    def http(self, path: str, method: str = "GET", body: dict | None = None) -> tuple[int, str]:
        """Status and text of a request to the admin address; (0, reason) when it does not answer."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://{self.admin}{path}", method=method, data=data)
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels."""
        status, text = self.http("/metrics")
        assert status == 200, text
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def metric(self, name: str) -> float:
        """The sum over all label sets of one metric."""
        found = [v for k, v in self.metrics().items() if k == name or k.startswith(name + "{")]
        assert found, f"no metric {name}"
        return sum(found)

    def client(self, **options) -> MongoClient:
        """A driver's client with default options."""
        return MongoClient(f"mongodb://{self.listen}/", **options)

    def cut(self, label: str | None = None, timeout: float = 300) -> str:
        """`tidelog cut`: closes a window and returns when it is exported; what it printed."""
        return run_cli("cut", "--admin", self.admin, *(["--label", label] if label else []), timeout=timeout).stdout

    def log_records(self, *filters: str) -> list[str]:
        """Lines of `tidelog log` over the data folder."""
        return run_cli("log", self.data, *filters, timeout=900).stdout.split("\n")[:-1]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def stop(self, seconds: float = 40) -> int:
        """SIGTERM; the exit status."""
        return self.process.terminate(seconds) if self.process else 0


def changes(sidecar: Sidecar, *filters: str) -> list[dict]:
    """Change records of `tidelog log`, control records left out."""
    records = [json.loads(line) for line in sidecar.log_records(*filters)]
    return [r for r in records if "control" not in r]
