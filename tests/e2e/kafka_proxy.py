"""A TCP proxy before a Kafka broker that loses requests and answers, holds them back, and tells when the client is to be killed.

Kafka's framing (kafka.apache.org/protocol): a length of four bytes, then in a request api key, api version (two bytes each) and
correlation id. An answer begins with the correlation id.
"""

import socket
import struct
import threading
import time

END_TXN = 26
# What a delivery consists of, each one a step: Fetch and ListOffsets, which change nothing; Produce, CreateTopics, InitProducerId,
# AddPartitionsToTxn, EndTxn, which do.
READS = {1, 2}
CHANGES = {0, 19, 22, 24, END_TXN}


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
        self.delay = 0.0
        self.spoil(0, "")
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, answers: int, on_lost=None) -> None:
        """Arms it: the next so many answers are lost; `on_lost` is called when the broker has given each."""
        with self.lock:
            self.to_lose, self.on_lost = answers, on_lost

    def spoil(self, at: int, how: str, then=None) -> None:
        """Something happens at the step `at` from now (0: nothing). `lost`: its answer is, with the connection; `then` is called when
        the broker has given it, and only what changes something counts. `reset`: it does not reach the broker, the connection ends. `held`: it does, and no answer comes."""
        with self.lock:
            self.steps, self.at, self.how, self.then = 0, at, how, then
            self.counted = CHANGES if then else CHANGES | READS

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _step(self, api: int) -> str:
        """What is to happen to this request."""
        with self.lock:
            if api == self.api and self.to_lose > 0:
                self.to_lose -= 1
                return "lost"
            self.steps += api in self.counted
            return self.how if api in self.counted and self.steps == self.at else ""

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.target, timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        doomed: dict[int, str] = {}
        back = threading.Thread(target=self._answers, args=(server, client, doomed), daemon=True)
        back.start()
        try:
            while frame := read_frame(client):
                api, _, correlation = struct.unpack(">hhi", frame[4:12])
                how = self._step(api)
                if how == "reset":
                    break
                if how:
                    doomed[correlation] = how
                server.sendall(frame)
        except OSError:
            pass
        end(client, server)

    def _answers(self, server: socket.socket, client: socket.socket, doomed: dict[int, str]) -> None:
        try:
            while frame := read_frame(server):
                (correlation,) = struct.unpack(">i", frame[4:8])
                how = doomed.get(correlation)
                if how == "lost":
                    with self.lock:
                        self.lost += 1
                        then = self.then if self.at else self.on_lost
                    if then:
                        then()
                    break
                if how != "held":
                    time.sleep(self.delay)
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
