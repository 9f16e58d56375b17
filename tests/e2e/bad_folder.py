"""A folder that turns bad for one process, and a death of that process at a chosen step in it. See bad_folder.c."""

import mmap
import pathlib
import struct

from preload import compiled

SOURCE = pathlib.Path(__file__).parent / "bad_folder.c"
WRONG, STEPS, AT, HOW = range(4)
WELL, FAILS, FULL, READ_ONLY, HANGS, SLOW, LOSES, KILLS = range(8)
SIZE, PATH = 8192, 512


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
        return {"LD_PRELOAD": str(compiled(SOURCE)), "TIDELOG_BAD_FOLDER": str(self.control)}

    def set(self, what: int, value: int) -> None:
        struct.pack_into("<q", self.map, what * 8, value)

    def get(self, what: int) -> int:
        return struct.unpack_from("<q", self.map, what * 8)[0]
