"""A world that turns bad for one process: its disk is full, its syncs fail or are slow, its clock jumps. See bad_world.c."""

import mmap
import pathlib
import struct

from preload import compiled

SOURCE = pathlib.Path(__file__).parent / "bad_world.c"
CLOCK, SYNC_FAILS, FULL, SLOW, FAILED = range(5)
DATA, EXPORT = 1, 2


class BadWorld:
    """The control of one process's world. All is well until it is told otherwise."""

    def __init__(self, folder: pathlib.Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "world"
        self.path.write_bytes(bytes(4096))
        self.file = open(self.path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), 4096)

    def env(self) -> dict[str, str]:
        """What the process must be started with."""
        return {"LD_PRELOAD": str(compiled(SOURCE)), "TIDELOG_BAD_WORLD": str(self.path)}

    def set(self, what: int, value: int) -> None:
        struct.pack_into("<q", self.map, what * 8, value)

    def get(self, what: int) -> int:
        return struct.unpack_from("<q", self.map, what * 8)[0]

    def heal_disk(self) -> None:
        for what in (SYNC_FAILS, FULL, SLOW):
            self.set(what, 0)
