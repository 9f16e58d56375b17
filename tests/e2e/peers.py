"""Who is connected to a port, seen from the kernel: /proc/net/tcp and the sockets of processes."""

import os
import pathlib


def established(port: int) -> list[tuple[int, str]]:
    """(peer port, socket inode of the peer's end) of each established loopback connection to `port`."""
    found = []
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote, state, inode = fields[1], fields[2], fields[3], fields[9]
        if state == "01" and int(remote.split(":")[1], 16) == port:
            found.append((int(local.split(":")[1], 16), inode))
    return found


def sockets_of(pid: int) -> set[str]:
    """Inodes of a process's sockets."""
    inodes = set()
    for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    return inodes


def strangers(store, sidecar) -> list[int]:
    """Ports of connections to the store that are not the sidecar's."""
    ours = sockets_of(sidecar.process.pid)
    return [port for port, inode in established(store.port) if inode not in ours]
