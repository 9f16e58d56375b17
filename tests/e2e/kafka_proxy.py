"""A TCP proxy before a Kafka broker that loses answers: the request arrives and is obeyed, its answer does not come.

Kafka's framing (kafka.apache.org/protocol): a length of four bytes, then in a request api key, api version (two bytes each) and
correlation id. The api of the end of a transaction is EndTxn, 26.
"""

import socket
import struct
import threading

END_TXN = 26


class KafkaProxy:
    """Forwards each connection to `target`. While armed, the answer to a request of `api` is lost and its connection reset."""

    def __init__(self, target: str, api: int = END_TXN):
        host, port = target.rsplit(":", 1)
        self.target, self.api = (host, int(port)), api
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.lock = threading.Lock()
        self.to_lose, self.lost = 0, 0
        self.on_lost = None
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, answers: int, on_lost=None) -> None:
        """Arms it: the next so many answers are lost; `on_lost` is called when the broker has given each."""
        with self.lock:
            self.to_lose, self.on_lost = answers, on_lost

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.target, timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        doomed: set[int] = set()
        back = threading.Thread(target=self._answers, args=(server, client, doomed), daemon=True)
        back.start()
        try:
            while frame := read_frame(client):
                api, _, correlation = struct.unpack(">hhi", frame[4:12])
                with self.lock:
                    if api == self.api and self.to_lose > 0:
                        self.to_lose -= 1
                        doomed.add(correlation)
                server.sendall(frame)
        except OSError:
            pass
        end(client, server)

    def _answers(self, server: socket.socket, client: socket.socket, doomed: set[int]) -> None:
        try:
            while frame := read_frame(server):
                (correlation,) = struct.unpack(">i", frame[4:8])
                if correlation in doomed:
                    with self.lock:
                        self.lost += 1
                    if self.on_lost:
                        self.on_lost()
                    break
                client.sendall(frame)
        except OSError:
            pass
        end(client, server)


def read_frame(source: socket.socket) -> bytes:
    """A whole frame with its length, or nothing at the end."""
    head = read_all(source, 4)
    return head + read_all(source, struct.unpack(">i", head)[0]) if len(head) == 4 else b""


def read_all(source: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = source.recv(min(count, 1 << 20))
        if not part:
            raise OSError("the connection ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def end(*sockets: socket.socket) -> None:
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        one.close()
