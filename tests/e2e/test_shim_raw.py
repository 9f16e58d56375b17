"""Bare commands, at each point at which their way to the store can break: through the sidecar the client gets what it gets without
it, its retry too, and the log folds to the store. The shim breaks them (see shim.py).
"""

import itertools

from bson import Binary, Int64
from dump import dump
from judge import compare
from normal import Normal, literals
from shim import WRITES, Rule, Shim
from shim_world import CUT_POINTS, ERRORS, RETRY, WAITS, in_parallel
from validator import fold_lines
from waiting import eventually
from wire import Closed, Raw

DOCS = [{"_id": i, "n": i, "s": "x", "a": [i]} for i in range(6)]
INC = {"$inc": {"n": 1}}


def updates(*statements, **more) -> dict:
    return {"update": "@", "updates": list(statements), **more}


def fam(**more) -> dict:
    return {"findAndModify": "@", **more}


RAW = {
    "insert": {"insert": "@", "documents": [{"_id": 50, "x": 1}]},
    "insert three": {"insert": "@", "documents": [{"_id": 50}, {"_id": 51}, {"_id": 52}]},
    "insert with a duplicate": {"insert": "@", "documents": [{"_id": 50}, {"_id": 1}, {"_id": 52}]},
    "insert unordered": {"insert": "@", "documents": [{"_id": 50}, {"_id": 1}, {"_id": 52}], "ordered": False},
    "update": updates({"q": {"_id": 1}, "u": INC}),
    "update to nothing new": updates({"q": {"_id": 1}, "u": {"$set": {"n": 1}}}),
    "update of nobody": updates({"q": {"_id": 99}, "u": INC}),
    "update with an error": updates({"q": {"_id": 1}, "u": {"$inc": {"s": 1}}}),
    "update by pipeline": updates({"q": {"_id": 2}, "u": [{"$set": {"n": {"$add": ["$n", 5]}}}]}),
    "update by filter": updates({"q": {"n": {"$gt": 3}}, "u": INC}),
    "update two": updates({"q": {"_id": 1}, "u": INC}, {"q": {"_id": 2}, "u": INC}),
    "update one twice": updates({"q": {"_id": 1}, "u": INC}, {"q": {"_id": 1}, "u": INC}),
    "update many": updates({"q": {"n": {"$lt": 4}}, "u": INC, "multi": True}),
    "replace": updates({"q": {"_id": 1}, "u": {"r": 1}}),
    "upsert": updates({"q": {"_id": 60}, "u": INC, "upsert": True}),
    "upsert of a living one": updates({"q": {"_id": 1}, "u": INC, "upsert": True}),
    "upsert by filter": updates({"q": {"n": 2}, "u": INC, "upsert": True}),
    "delete": {"delete": "@", "deletes": [{"q": {"_id": 1}, "limit": 1}]},
    "delete of nobody": {"delete": "@", "deletes": [{"q": {"_id": 99}, "limit": 1}]},
    "delete by filter": {"delete": "@", "deletes": [{"q": {"n": {"$gt": 3}}, "limit": 1}]},
    "delete many": {"delete": "@", "deletes": [{"q": {"n": {"$lt": 4}}, "limit": 0}]},
    "delete two": {"delete": "@", "deletes": [{"q": {"_id": 1}, "limit": 1}, {"q": {"_id": 2}, "limit": 1}]},
    "fam old": fam(query={"_id": 1}, update=INC),
    "fam new": fam(query={"_id": 1}, update=INC, new=True),
    "fam with fields": fam(query={"_id": 1}, update=INC, new=True, fields={"n": 1}),
    "fam sorted": fam(query={"n": {"$gt": 1}}, sort={"n": -1}, update=INC),
    "fam remove": fam(query={"_id": 1}, remove=True),
    "fam upsert": fam(query={"_id": 60}, update=INC, upsert=True, new=True),
    "fam replace": fam(query={"_id": 1}, update={"r": 2}),
    "fam of nobody": fam(query={"_id": 99}, update=INC),
    "bulk": {"bulkWrite": 1, "nsInfo": [{"ns": "t.@"}], "$db": "admin", "ops": [
        {"insert": 0, "document": {"_id": 50}}, {"update": 0, "filter": {"_id": 1}, "updateMods": INC}, {"delete": 0, "filter": {"_id": 2}}]},
    "bulk of one": {"bulkWrite": 1, "nsInfo": [{"ns": "t.@"}], "$db": "admin", "ops": [{"update": 0, "filter": {"_id": 1}, "updateMods": INC}]},
}
NOT_RETRYABLE = {"update many", "delete many"}
# The sidecar sends these as several commands, so a fault meets only the first: the replies differ, the end does not.
TAKEN_APART = {"update one twice"}


class Side:
    """One way to a store: a listener to talk to, the shim behind it."""

    def __init__(self, address: str, shim: Shim):
        self.address, self.shim = address, shim

    def connect(self, app: str) -> Raw:
        raw = Raw(self.address, timeout=60)
        raw.command({"hello": 1, "client": {"application": {"name": app}, "driver": {"name": "raw", "version": "1"}}, "$db": "admin"})
        return raw


def raw_case(side: Side, name: str, app: str, collection: str, rule: Rule | None) -> tuple[list, int]:
    """The replies to the command, to its retry, and the documents afterwards; how many write messages the command made."""
    command = filled(RAW[name], collection)
    command.setdefault("$db", "t")
    if name not in NOT_RETRYABLE:
        command |= {"lsid": {"id": Binary(abs(hash(app)).to_bytes(16, "big"), 4)}, "txnNumber": Int64(1)}
    with side.connect(app) as raw:
        raw.command({"insert": collection, "documents": DOCS, "$db": "t"})
        names = side.shim.watch(app)
        if rule:
            side.shim.arm(rule)
        replies = [ask(raw, command)]
    if rule:
        assert rule.fired, f"the rule never met its message among {names}"
    writes = sum(n in WRITES for n in names)
    with side.connect(app) as raw:
        if name not in NOT_RETRYABLE:
            replies.append(ask(raw, command))
        replies.append(ask(raw, {"find": collection, "sort": {"_id": 1}, "$db": "t"}))
    return replies, writes


def warm_case(side: Side, raw_command: dict, app: str, collection: str, rule: Rule | None = None) -> list:
    """The replies to the command and the documents afterwards, on a connection that has written there before, without a number for a retry: nothing may be done twice."""
    command = filled(raw_command, collection)
    command.setdefault("$db", "t")
    with side.connect(app) as raw:
        raw.command({"insert": collection, "documents": DOCS, "$db": "t"})
        for _ in range(2):
            raw.command({"update": collection, "updates": [{"q": {"_id": 5}, "u": {"$set": {"w": 1}}}], "$db": "t"})
        names = side.shim.watch(app)
        if rule:
            side.shim.arm(rule)
        replies = [ask(raw, command)]
    if rule:
        assert rule.fired, f"the rule never met its message among {names}"
    with side.connect(app) as raw:
        replies.append(ask(raw, {"find": collection, "sort": {"_id": 1}, "$db": "t"}))
    return replies


def ask(raw: Raw, command: dict) -> dict:
    try:
        return raw.command(command)
    except Closed:
        return {"closed": True}


def filled(value, collection: str):
    """The command with "@" replaced."""
    if isinstance(value, str):
        return value.replace("@", collection)
    if isinstance(value, dict):
        return {k: filled(v, collection) for k, v in value.items()}
    return [filled(v, collection) for v in value] if isinstance(value, list) else value


def comparable(replies: list, command: dict) -> list:
    normal = Normal(literals([command, DOCS], set()))
    return [sorted(normal.reply(reply), key=lambda field: field[0]) for reply in replies]


def judge_raw(name: str, point: str, direct: tuple[list, int], through: tuple[list, int]) -> str:
    """What differs, in words; a command that the sidecar takes apart may break elsewhere, its end is the same all the same."""
    expected, found = (comparable(side[0], RAW[name]) for side in (direct, through))
    if through[1] > 1 or name in TAKEN_APART:
        failed = [f for f in through[0][0].items() if f[0] in ("closed", "code", "writeErrors", "writeConcernError")]
        if not failed and point not in WAITS:
            return f"no word of the fault in {through[0][0]}"
        expected, found = expected[-1:], found[-1:]
        if name in NOT_RETRYABLE or point in ("applied", "error", "concern"):
            return ""  # how far it came is the store's own business
    for at, (one, other) in enumerate(zip(expected, found)):
        if one != other:
            return f"reply {at + 1} of {len(expected)}\n   direct  {one}\n   through {other}"
    return ""


def test_raw_commands_at_each_point(world):
    """The client gets what it would get without the sidecar, and its retry too."""
    cases = [(n, Rule(p, WRITES, code=c, labels=l)) for n in RAW for p, c, l in ERRORS]
    cases += [(n, Rule(p, WRITES, seconds=0.02)) for n in RAW for p in (*CUT_POINTS, *WAITS)]
    direct, through = Side(world.direct.address, world.direct), Side(world.sidecar.listen, world.shim)

    def run(number: int, name: str, rule: Rule) -> str:
        sides = []
        for word, side in (("d", direct), ("t", through)):
            app = f"raw-{number}"
            mine = Rule(rule.point, WRITES, app=app, code=rule.code, labels=rule.labels, seconds=rule.seconds)
            sides.append(raw_case(side, name, app, f"c{number}", mine))
        return judge_raw(name, rule.point, *sides)

    wrong = in_parallel([(f"{n}, {r.point} {r.code if r.point not in CUT_POINTS + WAITS else ''} {r.labels}", run, (i, n, r)) for i, (n, r) in enumerate(cases)], 4)
    print(f"{len(cases)} raw cases, {len(wrong)} wrong")
    fold = fold_lines(world.sidecar.log_records())
    compare("the log", fold, dump(world.store.client()))
    assert not wrong, f"{len(wrong)} of {len(cases)} wrong:\n" + "\n".join(wrong[:40])


# An error that says that nothing ran lets the sidecar send the client's own command: the shim makes it once only, a store each time.
ONCE_ONLY = 8000
# What one document of one statement is told of, each on its own.
SINGLE = ["update", "update to nothing new", "update of nobody", "update by pipeline", "replace", "upsert", "upsert of a living one", "delete",
          "delete of nobody", "fam old", "fam new", "fam with fields", "fam remove", "fam upsert", "fam replace", "fam of nobody"]


def test_a_warm_connection_at_each_error(world):
    """The way by findAndModify: the client is told the store's error, and what the store did is done once and stands in the log."""
    direct, through = Side(world.direct.address, world.direct), Side(world.sidecar.listen, world.shim)

    def run(number: int, name: str, error: tuple) -> str:
        point, code, labels = error
        app = f"warm-{number}"
        rules = [Rule(point, WRITES, app=app, code=code, labels=labels) for _ in range(2)]
        sides = [warm_case(side, RAW[name], app, f"w{number}", rule) for side, rule in zip((direct, through), rules)]
        expected, found = (comparable(replies, RAW[name]) for replies in sides)
        return "" if expected == found else f"\n   direct  {expected}\n   through {found}"

    errors = [(p, c, l) for p, c, l in ERRORS if c != ONCE_ONLY]
    cases = list(itertools.product(SINGLE, errors))
    wrong = in_parallel([(f"{n}, {e}", run, (i, n, e)) for i, (n, e) in enumerate(cases)], 4)
    print(f"{len(cases)} warm cases, {len(wrong)} wrong")
    compare("the log", fold_lines(world.sidecar.log_records()), dump(world.store.client()))
    assert not wrong, f"{len(wrong)} of {len(cases)} wrong:\n" + "\n".join(wrong[:40])


def test_the_short_way_takes_no_more_than_the_long_one(world):
    """`findAndModify` takes `upsert: 1`, `update` does not; and errors of statements are worded as those of the client's command."""
    direct, through = Side(world.direct.address, world.direct), Side(world.sidecar.listen, world.shim)
    odd = {
        "upsert a number": updates({"q": {"_id": 70}, "u": {"$set": {"x": 1}}, "upsert": 1}),
        "upsert a string": updates({"q": {"_id": 70}, "u": {"$set": {"x": 1}}, "upsert": "yes"}),
        "increment of a string": updates({"q": {"_id": 1}, "u": {"$inc": {"s": 1}}}),
        "change of the _id": updates({"q": {"_id": 1}, "u": {"$set": {"_id": 9}}}),
        "an unknown operator": updates({"q": {"_id": 1}, "u": {"$nosuch": {"x": 1}}}),
        "two that conflict": updates({"q": {"_id": 1}, "u": {"$set": {"x": 1}, "$inc": {"x": 1}}}),
        "a path through a number": updates({"q": {"_id": 1}, "u": {"$set": {"n.x": 1}}}),
        "bad arrayFilters": updates({"q": {"_id": 1}, "u": {"$set": {"a.$[i]": 1}}, "arrayFilters": 5}),
    }
    wrong = []
    for number, (name, command) in enumerate(odd.items()):
        expected, found = (comparable(warm_case(side, command, f"odd-{number}", f"o{number}"), command) for side in (direct, through))
        if expected != found:
            wrong.append(f"{name}\n   direct  {expected}\n   through {found}")
    assert not wrong, "\n".join(wrong)
    compare("the log", fold_lines(world.sidecar.log_records()), dump(world.store.client()))


def test_what_the_sidecar_asks_in_between(world):
    """The sidecar's own reads on the client's connection break: the client gets an error or an end, and its retry ends well."""
    side = Side(world.sidecar.listen, world.shim)
    reads = frozenset({"find", "getMore", "aggregate"})

    def run(number: int, name: str, nth: int, point: str) -> str:
        app, collection = f"read-{number}", f"r{number}"
        rule = Rule(point, reads, nth, app=app, code=91, labels=RETRY, seconds=0.02)
        command = filled(RAW[name], collection) | ({} if name in NOT_RETRYABLE else {"lsid": {"id": Binary(number.to_bytes(16, "big"), 4)}, "txnNumber": Int64(1)})
        command.setdefault("$db", "t")
        with side.connect(app) as raw:
            raw.command({"insert": collection, "documents": DOCS, "$db": "t"})
            world.shim.arm(rule)
            first = ask(raw, command)
        world.shim.disarm(rule)
        met.append(rule.fired)
        with side.connect(app) as raw:
            last = first if name in NOT_RETRYABLE else ask(raw, command)
            state = ask(raw, {"find": collection, "sort": {"_id": 1}, "$db": "t"})["cursor"]["firstBatch"]
        if last.get("closed") or (not last["ok"] and name not in NOT_RETRYABLE and name != "update with an error"):
            return "" if name in NOT_RETRYABLE else f"the retry ended with {last} after {first}"
        usual = usually.get(name)
        return "" if name in NOT_RETRYABLE or usual is None or state == usual else f"the end is {state}, usually {usual}; first {first}, then {last}"

    met: list[int] = []
    usually: dict[str, list] = {}
    for number, name in enumerate(RAW):
        replies, _ = raw_case(side, name, f"usual-{number}", f"u{number}", None)
        usually[name] = replies[-1]["cursor"]["firstBatch"]
    points = [p for p in (*CUT_POINTS, "error", "applied", "late")]
    cases = list(itertools.product(RAW, (1, 2), points))
    wrong = in_parallel([(f"{n}, read {nth}, {p}", run, (i, n, nth, p)) for i, (n, nth, p) in enumerate(cases, 1)], 4)
    print(f"{sum(met)} reads broken in {len(cases)} commands, {len(wrong)} wrong")
    compare("the log", fold_lines(world.sidecar.log_records()), dump(world.store.client()))
    assert sum(met) > 100 and not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong[:40])


# --- transactions ------------------------------------------------------------------------------------------------------------

ENDS = {"commitTransaction": 1, "abortTransaction": 1}


def txn_case(side: Side, name: str, end: str, app: str, collection: str, rule: Rule) -> list:
    """A statement, the end, the end once more as a driver sends it after an error, and the documents. Each on a connection of its own."""
    fields = {"lsid": {"id": Binary(abs(hash(app)).to_bytes(16, "big"), 4)}, "txnNumber": Int64(1), "autocommit": False}
    with side.connect("setup") as raw:
        raw.command({"insert": collection, "documents": DOCS, "$db": "t"})
    first = filled(RAW[name], collection) | fields | {"startTransaction": True}
    first.setdefault("$db", "t")
    last = {end: 1, "$db": "admin"} | fields
    side.shim.arm(rule)
    replies = []
    for command in (first, last, last):
        with side.connect(app) as raw:
            replies.append(ask(raw, command))
    side.shim.disarm(rule)
    with side.connect("setup") as raw:
        replies.append(ask(raw, {"find": collection, "sort": {"_id": 1}, "$db": "t"}))
    assert rule.fired, "the rule never met its message"
    return replies


def judge_txn(direct: list, through: list, name: str) -> str:
    """The same words at each step; where a statement was cut, the sidecar has ended a transaction that may still be open directly, so
    only the codes that a driver acts on and the end count there."""
    told = [[("closed" if r.get("closed") else r.get("code", "ok"), tuple(r.get("errorLabels", ()))) for r in side[:3]] for side in (direct, through)]
    ends = [comparable(side[3:], RAW[name]) for side in (direct, through)]
    # An error that says that the transaction is over is believed, though this store never said it.
    broken = told[0][0][0] != "ok" or told[1][0][0] != "ok" or told[0][1][0] == 112
    if broken:
        said_yes = through[1].get("ok") == 1.0 or through[2].get("ok") == 1.0
        return "" if ends[0] == ends[1] or not said_yes else f"committed otherwise: {told} {ends}"
    return "" if told[0] == told[1] and ends[0] == ends[1] else f"direct {told[0]}\n   through {told[1]}\n   {ends}"


def test_transactions_at_each_point(world):
    """A statement, the commit and the abort of a transaction, each fault: the client is told what it is told directly."""
    names = ["insert", "update", "update by filter", "delete", "fam new", "upsert"]
    faults = [(p, c, labels) for p, c, labels in ERRORS if c != 112] + [("error", 112, ("TransientTransactionError",))]
    faults += [(p, 0, ()) for p in (*CUT_POINTS, *WAITS)]
    cases = []
    for name, end, (point, code, labels) in itertools.product(names, ENDS, faults):
        cases.append((name, end, frozenset({end}), point, code, labels))
        if point != "concern":  # inside a transaction there is none
            cases.append((name, end, WRITES, point, code, labels))
    direct, through = Side(world.direct.address, world.direct), Side(world.sidecar.listen, world.shim)

    def run(number: int, name: str, end: str, commands: frozenset, point: str, code: int, labels: tuple) -> str:
        sides = []
        for side in (direct, through):
            app = f"txn-{number}"
            rule = Rule(point, commands, app=app, code=code, labels=labels, seconds=0.02)
            sides.append(txn_case(side, name, end, app, f"x{number}", rule))
        return judge_txn(*sides, name)

    named = [(f"{n}, {e}, {p} of {'the end' if e in w else 'the statement'} {c} {labels}", run, (i, n, e, w, p, c, labels)) for i, (n, e, w, p, c, labels) in enumerate(cases)]
    wrong = in_parallel(named, 4)
    print(f"{len(cases)} transactions, {len(wrong)} wrong")
    eventually(lambda: fold_lines(world.sidecar.log_records()).documents() == dump(world.store.client()), 20, "the log folds to the store", every=0.5)
    assert not wrong, f"{len(wrong)} of {len(cases)} wrong:\n" + "\n".join(wrong[:40])
