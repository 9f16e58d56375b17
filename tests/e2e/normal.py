"""Makes two replies comparable: values that cannot be equal on two stores are replaced by words, everything else stays.

Replaced: cluster clocks, connection numbers, process ids, cursor ids, addresses, UUIDs, ObjectIds that the server made (each
becomes oid-1, oid-2 … in order of appearance, so that their equality is still compared), and dates and timestamps of now.
"""

import re
import time

from bson import Binary, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.son import SON

CLOCKS = {"operationTime", "$clusterTime", "opTime", "electionId", "localTime", "connectionId", "topologyVersion", "lastWrite"}
CLOCKS |= {"atClusterTime", "uptime", "uptimeMillis", "uptimeEstimate", "pid", "resumeAfter", "postBatchResumeToken"}
CLOCKS |= {"cursorsKilled", "cursorsNotFound", "serverInfo"}
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ADDRESS = re.compile(r"(?:\b127\.0\.0\.1|--host):(?:\d+|--port)")
HOUR_MS = 3_600_000


class Normal:
    """The words given so far on one side."""

    def __init__(self, known: set):
        self.known = known
        self.oids: dict[ObjectId, str] = {}

    def reply(self, value, name: str = ""):
        """A comparable copy. Field order is kept."""
        if name in CLOCKS:
            return f"<{name}>"
        if isinstance(value, (SON, dict)):
            return [(k, self.reply(v, "cursor-id" if name == "cursor" and k == "id" else k)) for k, v in value.items()]
        if isinstance(value, list):
            return [self.reply(v) for v in value]
        if name == "cursor-id":
            return "<open>" if value else 0
        return self.scalar(value)

    def scalar(self, value):
        if isinstance(value, ObjectId) and value not in self.known:
            return self.oids.setdefault(value, f"oid-{len(self.oids) + 1}")
        if isinstance(value, Binary) and value.subtype == 4 and value not in self.known:
            return "<uuid>"
        if isinstance(value, DatetimeMS) and abs(int(value) - time.time() * 1000) < HOUR_MS:
            return "<now>"
        if isinstance(value, Timestamp) and abs(value.time - time.time()) < 3600:
            return "<tick>"
        if isinstance(value, str):
            text = UUID.sub("<uuid>", ADDRESS.sub("<address>", value))
            for oid, word in self.oids.items():
                text = text.replace(str(oid), word)
            text = re.sub(r"\bcursor \d+", "cursor <id>", text)
            return re.sub(r"[0-9a-f]{24}", lambda m: m[0] if ObjectId(m[0]) in self.known else "<oid>", text)
        if isinstance(value, float) and value != value:
            return "<nan>"
        return type(value).__name__, value


def literals(value, found: set) -> set:
    """ObjectIds and UUIDs that the test itself wrote."""
    if isinstance(value, dict):
        for v in value.values():
            literals(v, found)
    elif isinstance(value, (list, tuple)):
        for v in value:
            literals(v, found)
    elif isinstance(value, ObjectId) or (isinstance(value, Binary) and value.subtype == 4):
        found.add(value)
    return found
