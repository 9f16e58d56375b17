"""A child process with captured output that cannot outlive the test run."""

import ctypes
import pathlib
import signal
import subprocess

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Asks the kernel to kill this process when the test runner dies."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A running program; its output is appended to `log`."""

    def __init__(self, argv: list[str], log: pathlib.Path, env: dict | None = None):
        self.argv = argv
        self.log = log
        self.start_of_output = log.stat().st_size if log.exists() else 0
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, preexec_fn=die_with_parent, env=env
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    def output(self) -> str:
        """What this run has said so far."""
        with open(self.log, "rb") as f:
            f.seek(self.start_of_output)
            return f.read().decode(errors="replace")

    def alive(self) -> bool:
        return self.child.poll() is None

    def must_live(self) -> None:
        """Raises with the last output when the process has ended."""
        if not self.alive():
            raise RuntimeError(f"{self.argv[0]} ended with {self.child.returncode}:\n{self.output()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self.child.kill()
        self.child.wait()

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def terminate(self, seconds: float) -> int:
        """SIGTERM; the exit status. A process that does not end in `seconds` is killed and told as an error."""
        if self.alive():
            self.child.terminate()
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise RuntimeError(f"{self.argv[0]} did not end within {seconds} s of SIGTERM:\n{self.output()[-4000:]}")
        return self.child.returncode
