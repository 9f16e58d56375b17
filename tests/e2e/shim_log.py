"""What went through a shim, as lines: for the hour in which a run of thousands of faults has failed.

Bounded: when a file is full it takes the place of the one before, so that the last `2 × limit` bytes are there.
"""

import pathlib
import struct
import threading
import time

import bson
from bson.codec_options import CodecOptions

PLAIN = CodecOptions(unicode_decode_error_handler="replace")
ASKED = ("txnNumber", "startTransaction", "autocommit", "comment", "upsert", "new", "remove")
ANSWERED = ("ok", "n", "nModified", "nInserted", "nUpserted", "nMatched", "nDeleted", "nErrors", "code", "errmsg", "errorLabels")
QUIET = frozenset({"hello", "ismaster", "isMaster", "ping"})
# A reply that is larger is told by its size.
READ = 1 << 16


class ShimLog:
    """Lines of one shim."""

    def __init__(self, path: pathlib.Path, limit: int = 64 << 20):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.limit = path, limit
        self.lock = threading.Lock()
        self.file = open(path, "w", encoding="utf-8")

    def write(self, link: int, text: str) -> None:
        with self.lock:
            if self.file.closed:
                return
            self.file.write(f"{time.time():.4f} {link} {text}\n")
            self.file.flush()
            if self.file.tell() > self.limit:
                self.file.close()
                self.path.replace(self.path.with_suffix(".before"))
                self.file = open(self.path, "w", encoding="utf-8")

    def request(self, link: int, app: str, message: bytes, name: str | None, body, rule) -> None:
        if name in QUIET and rule is None:
            return
        lsid = body.get("lsid", {}).get("id")
        told = [f"{field}={body[field]!r}" for field in ASKED if field in body]
        told += [f"lsid={bytes(lsid).hex()[:8]}"] if lsid is not None else []
        told += [f"RULE {rule.point} {rule.code}"] if rule else []
        number = struct.unpack_from("<i", message, 4)[0]
        self.write(link, f"-> {number} {app or '-'} {name} {body.get(name)!r} {len(message)} B {' '.join(told)}")

    def reply(self, link: int, message: bytes, rule) -> None:
        answers = struct.unpack_from("<i", message, 8)[0]
        told = f"RULE {rule.point}" if rule else ""
        self.write(link, f"<- {answers} {len(message)} B {answered(message)} {told}")

    def close(self) -> None:
        with self.lock:
            self.file.close()


def answered(message: bytes) -> str:
    """The part of a reply that says what was done."""
    if len(message) > READ or struct.unpack_from("<i", message, 12)[0] != 2013 or message[20] != 0:
        return ""
    try:
        body = bson.decode(message[21 : 21 + struct.unpack_from("<i", message, 21)[0]], PLAIN)
    except bson.errors.BSONError:
        return "not read"
    told = [f"{field}={body[field]!r}" for field in ANSWERED if field in body]
    told += [f"{len(body['writeErrors'])} writeErrors, the first {body['writeErrors'][0].get('code')}"] if body.get("writeErrors") else []
    told += [f"lastErrorObject={body['lastErrorObject']!r}"] if "lastErrorObject" in body else []
    told += [f"{len(body['cursor'].get('firstBatch', []))} in the batch"] if "cursor" in body else []
    return " ".join(told)
