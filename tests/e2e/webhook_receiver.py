"""A receiver of windows, as a user would write one: durable, by idempotency key, a window only with its manifest.

  python webhook_receiver.py PORT FOLDER TOKEN

Chunks are kept below FOLDER/chunks by their key; when the manifest comes, the window's files are put together, compared with it,
and stand below FOLDER/window-…, the manifest last. What is not as promised is answered with 422 and noted in FOLDER/wrong.txt.
"""

import hashlib
import json
import os
import pathlib
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = re.compile(r"^[0-9a-f]{32}:[a-z0-9_-]+:(\d+)(?:\.(\d+))?:(\d+\.\d+|manifest)$")


def keep(path: pathlib.Path, content: bytes) -> None:
    """Durable when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.{id(content)}.new")
    with open(new, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: pathlib.Path
    token: str

    def log_message(self, *_):
        pass

    def do_POST(self):
        size = int(self.headers["content-length"])
        body = self.rfile.read(size)
        if len(body) != size:
            self.close_connection = True
        elif self.headers.get("authorization") != f"Bearer {self.token}":
            self.answer(401, f"{self.headers.get('authorization')} is not known here")
        else:
            self.answer(*self.take(body))

    def answer(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def take(self, body: bytes) -> tuple[int, str]:
        key = KEY.match(self.headers["idempotency-key"])
        if not key or key[1] != self.headers["tidelog-window"] or key[2] != self.headers["tidelog-amendment"]:
            return self.wrong("a key that is none")
        amendment = f".amendment-{int(key[2]):04}" if key[2] else ""
        window = self.folder / f"window-{int(key[1]):010}{amendment}"
        chunks = self.folder / "chunks" / window.name
        if key[3] == "manifest":
            return self.manifest(window, chunks, body)
        head = {"file": self.headers["tidelog-file"], "offset": int(self.headers["tidelog-offset"]), "type": self.headers["content-type"]}
        content = json.dumps(head).encode() + b"\n" + body
        path = chunks / key[3]
        if path.exists() and path.read_bytes() != content:
            return self.wrong(f"{key[0]} came again with other bytes")
        if self.headers["content-type"] == "application/x-ndjson" and not body.endswith(b"\n"):
            return self.wrong(f"{key[0]} ends within a line")
        keep(path, content)
        return 204, ""

    def manifest(self, window: pathlib.Path, chunks: pathlib.Path, body: bytes) -> tuple[int, str]:
        path = window / "manifest.json"
        if path.exists():
            return (200, "known") if path.read_bytes() == body else self.wrong(f"{window.name} came again with another manifest")
        if not self.is_next(window):
            return self.wrong(f"{window.name} came before the one before it")
        for number, file in enumerate(json.loads(body)["files"]):
            content = b""
            found = [p for p in chunks.glob(f"{number}.*") if not p.name.endswith(".new")] if chunks.exists() else []
            for chunk in sorted(found, key=lambda p: int(p.name.split(".")[1])):
                head, part = chunk.read_bytes().split(b"\n", 1)
                told = json.loads(head)
                if (told["file"], told["offset"]) != (file["name"], len(content)):
                    return self.wrong(f"{window.name}: {told} at {len(content)} of {file['name']}")
                content += part
            if hashlib.sha256(content).hexdigest() != file["sha256"] or len(content) != file["bytes"]:
                return self.wrong(f"{window.name}: {file['name']} is not what the manifest says")
            keep(window / file["name"], content)
        keep(path, body)
        return 200, "taken"

    def is_next(self, window: pathlib.Path) -> bool:
        """The first one may be any; an amendment comes after its window, or the amendment before."""
        number, _, amendment = window.name.removeprefix("window-").partition(".amendment-")
        if int(amendment or 0) > 1:
            last = f"window-{number}.amendment-{int(amendment) - 1:04}"
        else:
            last = f"window-{number}" if amendment else f"window-{int(number) - 1:010}"
        return (window.with_name(last) / "manifest.json").exists() or not amendment and not any(self.folder.glob("window-*/manifest.json"))

    def wrong(self, what: str) -> tuple[int, str]:
        with open(self.folder / "wrong.txt", "a") as file:
            file.write(what + "\n")
        return 422, what


if __name__ == "__main__":
    Receiver.folder, Receiver.token = pathlib.Path(sys.argv[2]), sys.argv[3]
    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever(0.05)
