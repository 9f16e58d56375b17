"""An HTTP proxy of loopback that spoils chosen requests: answers lost, refused, late, cut in the middle."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What can be done to a request. `lost`: it reaches the server, the answer is dropped. `failed`: it reaches the server, 500 is
# answered. `busy`: 503 at once. `cut`: half of its body reaches the server, then both connections end. `reset`: nothing
# reaches the server. `hang`: nothing is answered until the client gives up. `slow`: all is well, a little later.
FAULTS = ["lost", "failed", "busy", "cut", "reset", "hang", "slow"]
# And, chosen by name only: `denied`: 403 at once; `full`: 507 at once; `killed`: it reaches the server, then `kill` is called.
REFUSALS = {
    "busy": (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"),
    "denied": (403, b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"),
    "full": (507, b"<Error><Code>XMinioStorageFull</Code><Message>Storage backend has reached its minimum free drive threshold.</Message></Error>"),
}


class FaultProxy:
    """Forwards to `target`. `choose(number, method, path)` names the fault of each request, or nothing."""

    def __init__(self, target: str):
        self.host, self.port = target.removeprefix("http://").rsplit(":", 1)
        self.choose = lambda number, method, path: None
        self.kill = lambda: None
        self.lock = threading.Lock()
        self.seen: list[tuple[str, str, str | None]] = []
        self.going = True
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def __getattr__(self, name):
                if name.startswith("do_"):
                    return lambda: proxy.serve(self)
                raise AttributeError(name)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def serve(self, client: BaseHTTPRequestHandler) -> None:
        with self.lock:
            fault = self.choose(len(self.seen), client.command, client.path)
            self.seen.append((client.command, client.path, fault))
        body = client.rfile.read(int(client.headers.get("content-length", 0)))
        if fault == "slow":
            time.sleep(0.3)
        if fault in REFUSALS:
            status, text = REFUSALS[fault]
            return self.answer(client, status, [], text)
        if fault == "hang":
            while self.going and self.waits(client):
                time.sleep(0.05)
        if fault in ("hang", "reset"):
            client.close_connection = True
            return None
        if fault == "cut":
            self.forward(client, body[: len(body) // 2], cut=True)
            client.close_connection = True
            return None
        status, headers, content = self.forward(client, body)
        if fault == "killed":
            self.kill()
        if fault in ("lost", "killed"):
            client.close_connection = True
        elif fault == "failed":
            self.answer(client, 500, [], b"<Error><Code>InternalError</Code><Message>We failed.</Message></Error>")
        else:
            self.answer(client, status, headers, content)
        return None

    @staticmethod
    def waits(client: BaseHTTPRequestHandler) -> bool:
        """Whether the client still holds the connection."""
        client.connection.setblocking(False)
        try:
            return client.connection.recv(1) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            client.connection.setblocking(True)

    def forward(self, client: BaseHTTPRequestHandler, body: bytes, cut: bool = False):
        server = http.client.HTTPConnection(self.host, int(self.port), timeout=60)
        try:
            server.putrequest(client.command, client.path, skip_host=True, skip_accept_encoding=True)
            for name, value in client.headers.items():
                if name.lower() != "connection":
                    server.putheader(name, value)
            server.putheader("Connection", "close")
            server.endheaders()
            server.send(body)
            if cut:
                return None
            reply = server.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        except OSError as error:
            return 502, [], f"<Error><Code>BadGateway</Code><Message>{error}</Message></Error>".encode()
        finally:
            server.close()

    @staticmethod
    def answer(client: BaseHTTPRequestHandler, status: int, headers, content: bytes) -> None:
        client.send_response_only(status)
        named = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding"):
                client.send_header(name, value)
        if "content-length" not in named and status not in (204, 304):
            client.send_header("content-length", str(len(content)))
        client.end_headers()
        if client.command != "HEAD":
            client.wfile.write(content)

    def close(self) -> None:
        self.going = False
        self.server.shutdown()
        self.server.server_close()
