"""The same commands on a fresh store directly and on another through the sidecar: same replies, same state, and a log that
folds to that state. The table is in cases/; the wire's own variants (hello, flags, legacy opcodes) are below it."""

import json
import re
import struct

import bson
import pytest
from bson.codec_options import CodecOptions
from bson.son import SON
from cases import all_cases, fill
from dump import difference, dump
from normal import Normal, literals
from validator import fold_lines
from waiting import eventually
from wire import CHECKSUM, EXHAUST, MORE_TO_COME, OP_MSG, PLAIN, Closed, Raw

TABLE = all_cases()
assert len(TABLE) >= 300


class Pair:
    """The two sides of one mode."""

    def __init__(self, lab, mode: str):
        self.mode = mode
        self.direct = lab.store(mode, "direct")
        self.behind = lab.store(mode, "behind")
        self.sidecar = lab.sidecar(self.behind)
        self.gaps: set[str] = set()

    def connections(self) -> tuple[Raw, Raw]:
        self.sidecar.process.must_live()
        return Raw(self.direct.address), Raw(self.sidecar.listen)


@pytest.fixture(scope="module", params=["replica", "standalone"])
def pair(request, tmp_path_factory):
    from conftest import Lab

    lab = Lab(tmp_path_factory.mktemp(f"pair-{request.param}"))
    yield Pair(lab, request.param)
    lab.end()


def run(raw: Raw, steps: list, collection: str) -> list:
    """Runs a case's steps; a closed connection is a reply of its own."""
    replies, known = [], set()
    for step in steps:
        if callable(step):
            step = step(replies)
        command, sequences = step if isinstance(step, tuple) else (step, None)
        command = fill(dict(command), collection)
        command.setdefault("$db", "t")
        literals([command, sequences], known)
        try:
            replies.append(raw.command(command, sequences))
        except Closed:
            replies.append(SON(closed=True))
            break
    state = [] if replies and replies[-1].get("closed") else [raw.command({"find": collection, "sort": {"_id": 1}, "batchSize": 9999, "$db": "t"})]
    normal = Normal(known)
    return [unordered(normal.reply(r)) for r in replies + state]


def unordered(reply: list) -> list:
    """The order of a reply's own fields and of its cursor's means nothing to a client; within the fields it is kept."""
    fields = [(name, unordered(value) if name == "cursor" and isinstance(value, list) else value) for name, value in reply]
    return sorted(fields, key=lambda field: field[0])


@pytest.mark.parametrize("number", range(len(TABLE)), ids=[re.sub(r"\W+", "_", c.name) for c in TABLE])
def test_same_reply_and_state(pair, number):
    case = TABLE[number]
    collection = f"c{number}"
    if case.gap or "capped" in case.name:
        pair.gaps |= {f"c{number}", f"c{number}o", f"c{number}m"}
    direct, through = pair.connections()
    with direct, through:
        expected, found = (
            [[field for field in reply if field[0] not in case.free] for reply in run(raw, case.steps, collection)]
            for raw in (direct, through)
        )
    for at, (one, other) in enumerate(zip(expected, found)):
        what = f"reply {at + 1} of {len(expected)}" if at < len(expected) - 1 else "the state afterwards"
        assert shorten(other) == shorten(one), f"{case.name}: {what}"
    assert len(expected) == len(found)


def shorten(value, limit: int = 3000):
    """Long replies are compared by their hash, so that a failure stays readable."""
    text = repr(value)
    return value if len(text) < limit else (text[:200], hash(text), len(text))


def test_whole_state_is_the_same(pair):
    """After the whole table: the same namespaces with the same documents."""
    known = set()
    for case in TABLE:
        literals([s for s in case.steps if not callable(s)], known)
    sides = []
    for store in (pair.direct, pair.behind):
        held = dump(store.client())
        normal = [(ns, sorted(repr(Normal(known).reply(bson.decode(d, PLAIN))) for d in docs)) for ns, docs in sorted(held.items())]
        sides.append(normal)
    assert [ns for ns, _ in sides[0]] == [ns for ns, _ in sides[1]]
    for (ns, one), (_, other) in zip(*sides):
        assert one == other, ns


def test_log_folds_to_the_state(pair):
    """The log of all those commands, right and wrong, is the store's state (but for collections that are not recorded)."""
    def open_gaps() -> dict[str, str]:
        return {gap["ns"]: gap["cause"] for gap in json.loads(pair.sidecar.http("/v1/status")[1])["gaps"]}

    eventually(lambda: set(open_gaps().values()) <= {"capped", "timeseries"}, 60, "gaps that can be closed are closed")
    fold = fold_lines(pair.sidecar.log_records(), collated=Everything())
    held = dump(pair.behind.client())
    gaps = {gap["ns"] for gap in fold.gaps.values()}
    assert {ns.split(".", 1)[1] for ns in gaps} <= pair.gaps, "a gap where none may be"
    assert not pair.gaps or fold.ops["control:gapOpened"], "$out and $merge ran, and no gap was in the log"
    told = difference(*({ns: d for ns, d in side.items() if ns not in gaps} for side in (fold.documents(), held)))
    assert not told, told


class Everything:
    """Some cases make collections with a collation: identity is not judged here."""

    def __iter__(self):
        return iter(())

    def __contains__(self, _):
        return True


HELLOS = {
    "hello": {"hello": 1},
    "isMaster": {"isMaster": 1},
    "ismaster": {"ismaster": 1},
    "helloOk": {"isMaster": 1, "helloOk": True},
    "with client": {"hello": 1, "client": {"driver": {"name": "d", "version": "1"}, "os": {"type": "x"}, "application": {"name": "a"}}},
    "sasl mechanisms": {"hello": 1, "saslSupportedMechs": "admin.nobody"},
    "topologyVersion alone": {"hello": 1, "topologyVersion": {"processId": bson.ObjectId("7" * 24), "counter": bson.Int64(0)}},
    "unknown field": {"hello": 1, "frob": 1},
}
HOSTS = ("hosts", "passives", "arbiters", "primary", "me")


def hosts_are_ours(reply: SON, address: str) -> None:
    """No address in a hello leads around the sidecar."""
    told = [reply.get("primary"), reply.get("me"), *reply.get("hosts", [])]
    assert {h for h in told if h} <= {address}, told
    assert not reply.get("passives") and not reply.get("arbiters")


@pytest.mark.parametrize("name", list(HELLOS))
@pytest.mark.parametrize("form", ["msg", "query"])
def test_hello(pair, name, form):
    """Each form of hello: the same reply but for the addresses, which are the sidecar's."""
    sides = []
    for raw in pair.connections():
        with raw:
            command = dict(HELLOS[name])
            reply = raw.query("admin.$cmd", command) if form == "query" else raw.command(command | {"$db": "admin"})
            sides.append(reply)
    hosts_are_ours(sides[1], pair.sidecar.listen)
    direct, through = (Normal(set()).reply(SON((k, v) for k, v in s.items() if k not in HOSTS)) for s in sides)
    assert through == direct
    assert [k for k in sides[0] if k in HOSTS] == [k for k in sides[1] if k in HOSTS]


def test_compression_is_settled(pair):
    """What the sidecar lets a client negotiate it also understands: nothing, or the real thing."""
    with Raw(pair.sidecar.listen) as raw:
        assert not raw.command({"hello": 1, "compression": ["zlib", "snappy"], "$db": "admin"}).get("compression")


def test_no_unknown_host(pair):
    """All that the node says of hosts is the node itself: no alarm."""
    assert pair.sidecar.metric("tidelog_unknown_hosts_total") == 0


def test_streaming_hello(pair):
    """An exhaust hello streams: each reply answers the one before, and its addresses are ours."""
    with Raw(pair.sidecar.listen) as raw:
        version = raw.command({"hello": 1, "$db": "admin"})["topologyVersion"]
        asked = raw.message({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 100, "$db": "admin"}, flags=EXHAUST)
        before = asked
        for _ in range(3):
            number, to, _, flags, document = raw.receive()
            # mongod answers the reply before, secantusd the request: what the store says goes through.
            assert to in (asked, before) and flags & MORE_TO_COME
            hosts_are_ours(bson.decode(document, CodecOptions(document_class=SON)), pair.sidecar.listen)
            before = number


def test_exhaust_get_more(pair):
    """An exhaust cursor streams through, batch by batch."""
    sides = []
    for raw in pair.connections():
        with raw:
            raw.command({"insert": "exhaust", "documents": [{"_id": i} for i in range(20)], "$db": "t"})
            cursor = raw.command({"find": "exhaust", "batchSize": 2, "sort": {"_id": 1}, "$db": "t"})["cursor"]
            raw.message({"getMore": cursor["id"], "collection": "exhaust", "batchSize": 3, "$db": "t"}, flags=EXHAUST)
            seen, flags = [d["_id"] for d in cursor["firstBatch"]], MORE_TO_COME
            while flags & MORE_TO_COME:
                _, _, _, flags, document = raw.receive()
                seen += [d["_id"] for d in bson.decode(document)["cursor"]["nextBatch"]]
            assert raw.command({"ping": 1, "$db": "t"})["ok"] == 1
            sides.append(seen)
    assert sides[0] == sides[1] == list(range(20))


def test_checksums(pair):
    """A request with a right checksum is answered; one whose bytes do not match it is not applied."""
    with Raw(pair.sidecar.listen) as raw:
        command = {"insert": "checksum", "documents": [{"_id": 1}], "$db": "t"}
        assert raw.command(command, flags=CHECKSUM)["n"] == 1
        assert raw.command({"ping": 1, "$db": "t"}, flags=CHECKSUM)["ok"] == 1
    with Raw(pair.sidecar.listen) as raw:
        body = struct.pack("<I", CHECKSUM) + b"\0" + bson.encode({"insert": "checksum", "documents": [{"_id": 2}], "$db": "t"})
        raw.socket.sendall(framed(OP_MSG, body + b"\1\2\3\4"))
        try:
            _, _, _, _, document = raw.receive()
            assert bson.decode(document)["ok"] == 0
        except Closed:
            pass
    assert pair.behind.client()["t"]["checksum"].count_documents({}) == 1


def test_unacknowledged(pair):
    """moreToCome writes get no reply, keep their order, and are in store and log."""
    for raw in pair.connections():
        with raw:
            for number in range(50):
                raw.message({"insert": "w0", "documents": [{"_id": number}], "writeConcern": {"w": 0}, "$db": "t"}, flags=MORE_TO_COME)
                change = {"q": {"_id": number}, "u": {"$set": {"x": number}}}
                raw.message({"update": "w0", "updates": [change], "writeConcern": {"w": 0}, "$db": "t"}, flags=MORE_TO_COME)
            raw.message({"insert": "w0", "documents": [{"_id": 0}], "writeConcern": {"w": 0}, "$db": "t"}, flags=MORE_TO_COME)
            reply = raw.command({"count": "w0", "query": {"x": {"$gte": 0}}, "$db": "t"})
            assert reply["n"] == 50
    found = [line for line in pair.sidecar.log_records() if '"ns":"t.w0"' in line and '"op"' in line]
    assert len(found) == 100


def test_pipelined(pair):
    """Two hundred commands sent before the first reply is read, writes and reads mixed: replies in order."""
    for raw in pair.connections():
        with raw:
            numbers = []
            for i in range(100):
                numbers.append(raw.message({"insert": "pipe", "documents": [{"_id": i}], "$db": "t"}))
                numbers.append(raw.message({"count": "pipe", "$db": "t"}))
            for at, number in enumerate(numbers):
                _, to, _, _, document = raw.receive()
                reply = bson.decode(document)
                assert to == number and reply["n"] == (1 if at % 2 == 0 else at // 2 + 1)


def test_sections_in_any_order(pair):
    """Document sequences before the body, and two of them."""
    for raw in pair.connections():
        with raw:
            reply = raw.command({"insert": "order", "$db": "t"}, {"documents": [{"_id": 1}, {"_id": 2}]}, body_last=True)
            assert reply["n"] == 2
            operations = [{"insert": 0, "document": {"_id": 3}}]
            reply = raw.command({"bulkWrite": 1, "$db": "admin"}, {"nsInfo": [{"ns": "t.order"}], "ops": operations}, body_last=True)
            assert reply["nInserted"] == 1


def framed(opcode: int, body: bytes, length: int | None = None) -> bytes:
    """A header before `body`; `length` lies about it."""
    return struct.pack("<iiii", len(body) + 16 if length is None else length, 1, 0, opcode) + body


BAD = {
    "short length": framed(OP_MSG, b"", 15),
    "negative length": framed(OP_MSG, b"", -1),
    "huge length": framed(OP_MSG, b"", 0x7FFFFFFF),
    "length just past the limit": framed(OP_MSG, b"", 48_000_001),
    "unknown opcode": framed(2457, b"\0\0\0\0"),
    "legacy insert": framed(2002, b"\0\0\0\0t.c\0" + bson.encode({"_id": 1})),
    "legacy update": framed(2001, b"\0\0\0\0t.c\0\0\0\0\0" + bson.encode({}) + bson.encode({"x": 1})),
    "legacy delete": framed(2006, b"\0\0\0\0t.c\0\0\0\0\0" + bson.encode({})),
    "message of nothing": framed(OP_MSG, b""),
    "flags only": framed(OP_MSG, b"\0\0\0\0"),
    "unknown section": framed(OP_MSG, b"\0\0\0\0\x09\5\0\0\0\0"),
    "sequence longer than the message": framed(OP_MSG, b"\0\0\0\0\1\xff\0\0\0abc\0"),
    "document longer than the message": framed(OP_MSG, b"\0\0\0\0\0\xff\0\0\0\0"),
    "sequences and no body": framed(OP_MSG, b"\0\0\0\0\1\x0f\0\0\0ops\0\5\0\0\0\0"),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_bytes(pair, name):
    """Bad bytes end their connection or get an error; the process and the others go on."""
    with Raw(pair.sidecar.listen, timeout=10) as raw:
        raw.socket.sendall(BAD[name])
        try:
            raw.receive()
        except (Closed, TimeoutError) as outcome:
            assert isinstance(outcome, Closed), "neither an answer nor an end"
    with Raw(pair.sidecar.listen) as raw:
        assert raw.command({"ping": 1, "$db": "t"})["ok"] == 1


def test_half_a_message(pair):
    """A client that goes away within a message leaves nothing behind."""
    raw = Raw(pair.sidecar.listen)
    body = b"\0\0\0\0\0" + bson.encode({"insert": "half", "documents": [{"_id": 1}], "$db": "t"})
    raw.socket.sendall((16 + len(body)).to_bytes(4, "little") + b"\1\0\0\0\0\0\0\0" + OP_MSG.to_bytes(4, "little") + body[:-5])
    raw.socket.close()
    with Raw(pair.sidecar.listen) as other:
        assert other.command({"count": "half", "$db": "t"})["n"] == 0


def test_write_then_gone(pair):
    """A client that sends a whole write and closes at once: it is applied and logged."""
    raw = Raw(pair.sidecar.listen)
    raw.message({"insert": "gone", "documents": [{"_id": 1}], "$db": "t"})
    raw.socket.close()
    from waiting import eventually

    eventually(lambda: pair.behind.client()["t"]["gone"].count_documents({}) == 1, 10, "the write applied")
    eventually(lambda: any('"ns":"t.gone"' in line and '"insert"' in line for line in pair.sidecar.log_records()), 10, "the write logged")
