"""A TCP forwarder of loopback that breaks its connections when it is told to: the network between two parties."""

import random
import selectors
import socket
import struct
import threading


class Forwarder:
    """Forwards each connection to `target`; one thread for all of them."""

    def __init__(self, target: str):
        host, port = target.rsplit(":", 1)
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.lock = threading.Lock()
        self.pairs: dict[socket.socket, socket.socket] = {}
        self.going = True
        self.broken = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while self.going:
            for key, _ in self.selector.select(0.1):
                with self.lock:
                    if key.fileobj is self.listener:
                        self._accept()
                    elif key.fileobj in self.pairs:
                        self._move(key.fileobj)

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        try:
            server = socket.create_connection(self.target, timeout=5)
        except OSError:
            client.close()
            return
        for one, other in ((client, server), (server, client)):
            one.settimeout(10)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.pairs[one] = other
            self.selector.register(one, selectors.EVENT_READ)

    def _move(self, source: socket.socket) -> None:
        try:
            data = source.recv(1 << 16)
            if not data:
                raise OSError
            self.pairs[source].sendall(data)
        except OSError:
            self._end(source)

    def _end(self, one: socket.socket, reset: bool = False) -> None:
        other = self.pairs.pop(one)
        self.pairs.pop(other)
        for end in (one, other):
            self.selector.unregister(end)
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()

    def break_some(self, chance: random.Random, part: float) -> None:
        """Breaks this part of the connections, some with a reset."""
        with self.lock:
            for one in list(self.pairs):
                if one in self.pairs and chance.random() < part / 2:
                    self._end(one, reset=chance.random() < 0.5)
                    self.broken += 1

    def close(self) -> None:
        """Ends it and all its connections."""
        self.going = False
        self.thread.join()
        with self.lock:
            for one in list(self.pairs):
                if one in self.pairs:
                    self._end(one)
            self.listener.close()
