"""A folder that turns bad for one process, and a death of that process at a chosen step in it. See bad_folder.c."""

import hashlib
import mmap
import os
import pathlib
import struct
import subprocess
import tempfile

SOURCE = pathlib.Path(__file__).parent / "bad_folder.c"
WRONG, STEPS, AT, HOW = range(4)
WELL, FAILS, FULL, READ_ONLY, HANGS, SLOW, LOSES, KILLS = range(8)
SIZE, PATH = 8192, 512


def library() -> pathlib.Path:
    """The compiled shim; made once for each version of its source."""
    name = f"tidelog-bad-folder-{os.getuid()}-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    built = pathlib.Path(tempfile.gettempdir()) / name
    if not built.exists():
        fresh = built.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O1", "-Wall", "-shared", "-fPIC", "-o", fresh, SOURCE, "-ldl"], check=True)
        fresh.rename(built)
    return built


class BadFolder:
    """The control of one folder. All is well until it is told otherwise."""

    def __init__(self, control: pathlib.Path, folder: pathlib.Path):
        path = str(folder).encode()
        assert folder.is_absolute() and len(path) < SIZE - PATH
        control.write_bytes(bytes(PATH) + path.ljust(SIZE - PATH, b"\0"))
        self.control = control
        with open(control, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), SIZE)

    def env(self) -> dict[str, str]:
        """What the process must be started with."""
        return {"LD_PRELOAD": str(library()), "TIDELOG_BAD_FOLDER": str(self.control)}

    def set(self, what: int, value: int) -> None:
        struct.pack_into("<q", self.map, what * 8, value)

    def get(self, what: int) -> int:
        return struct.unpack_from("<q", self.map, what * 8)[0]
