"""The fault shim: stands between sidecar and store, reads the messages, and does to them what a script says.

The store has no `failCommand`; this is what stands in its place, and it can do more. A `Rule` names a command (or a set of them),
which of its occurrences, whose connection (by the application name in `hello`), and a point:

  error    the store never sees it; the answer is `ok: 0` with this code and these labels
  applied  the store carries it out; its reply is replaced by that error (a node that steps down under a running write)
  concern  the store's own reply, with a `writeConcernError` of this code
  before   the connection is cut before the store saw the command
  half     the connection is cut in the middle of the request
  after    the connection is cut after the store carried it out
  middle   the connection is cut in the middle of the reply
  delay    the request is held back for `seconds`
  late     the reply is held back for `seconds`
  freeze   the request is held until `thaw`, the connection stays open
  frozen   the reply is held until `thaw`

The sidecar's own connection (application name `tidelog`) is let through unless a rule names it. It counts what it let through, so
that a test can first look which messages a command makes (`watch`) and then put a rule at each of them.
"""

import dataclasses
import random
import socket
import struct
import threading
import time

import bson
from bson.codec_options import CodecOptions
from bson.son import SON
from shim_log import ShimLog
from wire import OP_MSG, OP_QUERY

OWN = "tidelog"
WRITES = frozenset({"insert", "update", "delete", "findAndModify", "findandmodify", "bulkWrite"})
NAMES = {10107: "NotWritablePrimary", 91: "ShutdownInProgress", 11600: "InterruptedAtShutdown", 262: "ExceededTimeLimit", 112: "WriteConflict"}
NAMES |= {64: "WriteConcernFailed", 11602: "InterruptedDueToReplStateChange", 50: "MaxTimeMSExpired", 251: "NoSuchTransaction", 8000: "AtlasError"}
CUTS = frozenset({"before", "half", "after", "middle"})
PLAIN = CodecOptions(document_class=SON)


@dataclasses.dataclass(eq=False)
class Rule:
    """What happens to the `nth` matching message after it was armed, and to the `times - 1` after it."""

    point: str
    commands: frozenset | None = None
    nth: int = 1
    times: int = 1
    app: str | None = None
    code: int = 10107
    labels: tuple = ()
    seconds: float = 0.3
    # Only messages of this lsid and txnNumber's kind: None: any; True: within a transaction; False: outside.
    in_txn: bool | None = None
    seen: int = 0
    fired: int = 0

    def matches(self, app: str, name: str, body: SON) -> bool:
        """Counts the message when it is of the kind."""
        if (self.app or "") != app and (self.app is not None or app == OWN):
            return False
        if self.commands is not None and name not in self.commands:
            return False
        if self.in_txn is not None and self.in_txn != ("autocommit" in body):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


def error_document(rule: Rule) -> SON:
    """The error as the store would say it."""
    reply = SON(ok=0.0, errmsg=f"the shim says {rule.code}", code=rule.code, codeName=NAMES.get(rule.code, f"Location{rule.code}"))
    if rule.labels:
        reply["errorLabels"] = list(rule.labels)
    return reply


def packed(document: SON, response_to: int, number: int = 7) -> bytes:
    """An OP_MSG, mostly a reply."""
    body = b"\0\0\0\0\0" + bson.encode(document, codec_options=PLAIN)
    return struct.pack("<iiii", 16 + len(body), number, response_to, OP_MSG) + body


class Link:
    """One connection of the sidecar and its counterpart to the store."""

    def __init__(self, shim: "Shim", client: socket.socket, server: socket.socket, number: int):
        self.shim, self.client, self.server, self.number = shim, client, server, number
        self.app = ""
        self.pending: dict[int, Rule] = {}
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for work in (self._up, self._down):
            threading.Thread(target=self._guarded, args=(work,), daemon=True).start()

    def _guarded(self, work) -> None:
        try:
            work()
        except (OSError, struct.error):
            pass
        finally:
            self.close()

    def close(self, reset: bool = False) -> None:
        """Both ends go; with `reset` the other side sees a reset instead of an end."""
        if self.shim.forget(self) and self.shim.log:
            self.shim.log.write(self.number, f"closed {self.app or '-'}{' by a reset' if reset else ''}")
        for one in (self.client, self.server):
            try:
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # A thread that waits in recv keeps a socket open beyond its close: wake it.
                one.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()

    def _up(self) -> None:
        """Requests."""
        while True:
            message = read_message(self.client)
            rule = self._rule_for(message)
            if rule is None:
                self.server.sendall(message)
            elif not self._request(rule, message):
                return

    def _rule_for(self, message: bytes) -> Rule | None:
        name, body = command_of(message)
        if name is None:
            return None
        if name.lower() in ("hello", "ismaster"):
            self.app = body.get("client", {}).get("application", {}).get("name", self.app)
            return None
        rule = self.shim.rule_for(self.app, name, body)
        if self.shim.log:
            self.shim.log.request(self.number, self.app, message, name, body, rule)
        return rule

    def _request(self, rule: Rule, message: bytes) -> bool:
        """Carries out a rule on a request; False: this connection has ended."""
        number = struct.unpack_from("<i", message, 4)[0]
        if rule.point == "error":
            # The store answers something harmless in its turn, so that the error comes in its turn, too.
            self.pending[number] = rule
            self.server.sendall(packed(SON([("ping", 1), ("$db", "admin")]), 0, number))
            return True
        if rule.point == "before":
            return False
        if rule.point == "half":
            self.server.sendall(message[: len(message) // 2])
            return False
        if rule.point == "delay":
            time.sleep(rule.seconds)
        elif rule.point == "freeze":
            self.shim.thawed.wait()
        else:
            self.pending[number] = rule
        self.server.sendall(message)
        return True

    def _down(self) -> None:
        """Replies."""
        while True:
            message = read_message(self.server)
            rule = self.pending.pop(struct.unpack_from("<i", message, 8)[0], None)
            if self.shim.log:
                self.shim.log.reply(self.number, message, rule)
            if rule is not None:
                message = self._reply(rule, message)
                if message is None:
                    return
            self.client.sendall(message)

    def _reply(self, rule: Rule, message: bytes) -> bytes | None:
        """The reply as the sidecar gets it; None: the connection ends here."""
        if rule.point == "after":
            return None
        if rule.point == "middle":
            self.client.sendall(message[: max(1, len(message) // 2)])
            return None
        response_to = struct.unpack_from("<i", message, 8)[0]
        if rule.point in ("error", "applied"):
            return packed(error_document(rule), response_to)
        if rule.point == "concern":
            reply = bson.decode(message[21:], PLAIN)
            reply["writeConcernError"] = SON(code=rule.code, codeName=NAMES.get(rule.code, ""), errmsg=f"the shim says {rule.code}")
            if rule.labels:
                reply["errorLabels"] = list(rule.labels)
            return packed(reply, response_to)
        if rule.point == "late":
            time.sleep(rule.seconds)
        elif rule.point == "frozen":
            self.shim.thawed.wait()
        return message


def read_message(source: socket.socket) -> bytes:
    """The next whole message; an OSError at the end of the stream."""
    head = read_exact(source, 16)
    return head + read_exact(source, struct.unpack_from("<i", head)[0] - 16)


def read_exact(source: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = source.recv(min(size, 1 << 18))
        if not part:
            raise OSError("the stream ended")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def command_of(message: bytes) -> tuple[str | None, SON]:
    """Name and body of a request; (None, {}) for what is none. Document sequences are skipped, not read."""
    opcode = struct.unpack_from("<i", message, 12)[0]
    at, body = 20, None
    if opcode == OP_QUERY:
        at = message.index(b"\0", 20) + 9
        body = bson.decode(message[at : at + struct.unpack_from("<i", message, at)[0]], PLAIN)
    elif opcode == OP_MSG:
        end = len(message) - (4 if struct.unpack_from("<I", message, 16)[0] & 1 else 0)
        while at < end and body is None:
            size = struct.unpack_from("<i", message, at + 1)[0]
            if message[at] == 0:
                try:
                    body = bson.decode(message[at + 1 : at + 1 + size], PLAIN)
                except bson.errors.BSONError:
                    return None, SON()
            at += 1 + size
    return (next(iter(body), None), body) if body else (None, SON())


class Shim:
    """Listens on a port of its own and forwards to `target`, under the rules that are armed."""

    def __init__(self, target: str, log: ShimLog | None = None, port: int = 0):
        """`log` gets a line for each message. `port`: listen there (0: any free one)."""
        self.log = log
        host, target_port = target.rsplit(":", 1)
        self.target = (host, int(target_port))
        self.listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.lock = threading.Lock()
        self.links: set[Link] = set()
        self.rules: list[Rule] = []
        self.thawed = threading.Event()
        self.thawed.set()
        self.watched: dict[str, list[str]] = {}
        self.chance: Chance | None = None
        self.going = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        number = 0
        while self.going:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.target, timeout=5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            number += 1
            link = Link(self, client, server, number)
            with self.lock:
                self.links.add(link)
            link.start()

    def forget(self, link: Link) -> bool:
        """Whether it was known until now."""
        with self.lock:
            known = link in self.links
            self.links.discard(link)
            return known

    def arm(self, rule: Rule) -> Rule:
        """From now on this rule is in force; it goes when it has fired as often as it may, or with `disarm`."""
        with self.lock:
            self.rules.append(rule)
            if rule.point in ("freeze", "frozen"):
                self.thawed.clear()
        return rule

    def disarm(self, rule: Rule) -> None:
        with self.lock:
            if rule in self.rules:
                self.rules.remove(rule)

    def thaw(self) -> None:
        """Lets everything go on that a rule holds."""
        self.thawed.set()

    def watch(self, app: str) -> list[str]:
        """The names of the commands that connections of this application send from now on; a growing list."""
        with self.lock:
            self.watched[app] = []
            return self.watched[app]

    def rule_for(self, app: str, name: str, body: SON) -> Rule | None:
        """The first rule that fires for this message."""
        with self.lock:
            if app in self.watched:
                self.watched[app].append(name)
            for rule in list(self.rules):
                if rule.matches(app, name, body):
                    rule.fired += 1
                    if rule.fired == rule.times:
                        self.rules.remove(rule)
                    return rule
            return self.chance.draw(app, name) if self.chance else None

    def cut_all(self, reset: bool = True) -> int:
        """Every connection goes, the sidecar's own too."""
        with self.lock:
            links = list(self.links)
        for link in links:
            link.close(reset)
        return len(links)

    def close(self) -> None:
        self.going = False
        self.thaw()
        self.listener.close()
        self.cut_all()
        if self.log:
            self.log.close()


class Chance:
    """Rules drawn at random for the nemesis: each message of a client meets one with `probability`."""

    def __init__(self, seed: str, probability: float, points=("before", "half", "after", "middle", "late", "error", "applied"), own: bool = False):
        self.random = random.Random(seed)
        self.probability, self.points, self.own = probability, points, own
        self.fired = 0

    def draw(self, app: str, name: str) -> Rule | None:
        if (app == OWN and not self.own) or self.random.random() >= self.probability:
            return None
        self.fired += 1
        point = self.random.choice(self.points)
        code, labels = self.random.choice([(91, ("RetryableWriteError",)), (11602, ("RetryableWriteError",)), (262, ("RetryableWriteError",))])
        if point in ("error", "applied") and name not in WRITES:
            point = "before"
        return Rule(point, code=code, labels=labels, seconds=self.random.random())
