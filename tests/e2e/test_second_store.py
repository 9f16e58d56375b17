"""The same table of commands on a second, unrelated server (mongo-java-server with H2): whatever that server can do, it does
through the sidecar as it does directly, and the log folds to what it holds. So the sidecar relies on the protocol and not on the
habits of one store.

What the server cannot do is left out: it has no transactions, no retryable writes, no sessions, no bulkWrite command.
"""

import re
from collections import Counter

import pytest
from cases import all_cases, transactions
from dump import difference, dump
from store import SecondStore
from test_differential import Everything, run, shorten
from validator import fold_lines
from wire import Raw

# The server's words for what it cannot do.
CANNOT = re.compile(r"no such command|not (yet )?(implemented|supported)|Unknown (modifier|operator|top level)|unknown (command|operator|group)|Unrecognized", re.I)
LEAST = 700
# Where the two ways differ, and why. Fields that count what other cases left are not compared.
COUNTS = {"numIndexesBefore", "numIndexesAfter"}
LISTS = "lists all collections, also those of cases that the server cannot do"
APPENDS_ID = "the server appends an _id that it makes; the sidecar puts it first, as mongod does"
NO_LAST_ERROR = "a findAndModify that finds nothing has no lastErrorObject here (mongod: always): the sidecar cannot read it and closes the connection"
DIFFER = {
    "insert without _id": APPENDS_ID, "insert without ids, many": APPENDS_ID, "retry insert without _id": APPENDS_ID,
    "insert w 0 with a reply": "the server answers a write with w: 0 in full; the sidecar says {ok: 1} as mongod does",
    "update: sort": "the server does not know an update's sort; the sidecar resolves it",
    "update batch all bad": "the server goes on where an ordered batch must end; taken apart by the sidecar it ends",
    "fam: sort and remove": "the server does not find by a narrowed filter with a sort",
    "update folded _id upsert": NO_LAST_ERROR, "delete and insert again": NO_LAST_ERROR, "retry update no match": NO_LAST_ERROR,
    "retry delete": NO_LAST_ERROR, "retry delete none": NO_LAST_ERROR,
    "create with options": LISTS, "create time series": LISTS, "convertToCapped refused or not": LISTS, "listCollections": LISTS,
    "indexes": "listed in any order",
    "wrong: insert collection empty": "the server answers with write errors; the sidecar's own read of that name fails and it closes the connection",
    "wrong: rename bad": "the same for a rename without a database",
}
# The server takes an upsert that makes another _id than its filter names; mongod refuses it (66, or takes the filter's null). The
# sidecar has guarded the _id of the filter: what the server made instead is found by a comparison later, not by the write.
OTHER_ID = {"update _id, upsert by _id": 8, "update: upsert _id null": None, "update: upsert _id conflict": 24, "fam _id, upsert": 8}
# What the server stores is not what it was sent, with the sidecar as without it; mongod stores the bytes (or refuses them). The log
# has what was sent, in mongod's form.
REWRITES = {
    "insert _id #46 Binary": "a binary value of subtype 128 becomes one of subtype 0",
    "insert _id last": "_id is left where it was; mongod moves it to the front, and so does the log",
    "insert raw undefined": "undefined becomes null",
    "insert raw odd array keys": "the keys of an array are numbered anew",
    "insert raw bad utf-8": "bytes that are no UTF-8 are replaced",
}


class Second:
    """Two servers, one of them behind a sidecar."""

    def __init__(self, lab):
        self.direct, self.behind = (SecondStore(lab.folder / name) for name in ("direct", "behind"))
        for store in (self.direct, self.behind):
            lab.running.append(store)
            store.start()
        self.sidecar = lab.sidecar(self.behind)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    from conftest import Lab

    lab = Lab(tmp_path_factory.mktemp("second"))
    yield Second(lab)
    lab.end()


def cannot(replies: list) -> str:
    """Why the server itself cannot do a case; empty: it can."""
    for reply in replies:
        fields = dict(reply)
        if "closed" in fields:
            return "closed"
        found = CANNOT.search(str(fields.get("errmsg", "")) + str(fields.get("$err", "")) + str(fields.get("writeErrors", "")))
        if found:
            return found[0]
    return ""


def goes_on(reply: dict) -> bool:
    """The server carries an ordered batch on after an error, and says so: the log rightly believes the protocol."""
    errors = reply.get("writeErrors")
    return bool(errors) and reply["n"][1] > dict(errors[0])["index"][1]


def test_the_part_that_it_can(second):
    """All cases, one after the other; the differences at the end."""
    left, wrong, same, commands, differ = Counter(), [], 0, 0, 0
    beyond, direct = {case.name for case in transactions.cases()}, second.direct.client()
    for number, case in enumerate(all_cases()):
        if case.name in beyond or case.gap or "capped" in case.name:
            left["transactions, gaps, capped"] += 1
            continue
        if case.name.startswith("insert collection") or " db" in case.name or "capitals" in case.name:
            left["names that it takes though no MongoDB does"] += 1
            continue
        try:
            with Raw(second.direct.address, timeout=5) as raw:
                expected = run(raw, case.steps, f"c{number}")
        except (KeyError, TimeoutError) as error:  # a reply lacks what the next step needs, or there is none
            left[type(error).__name__] += 1
            continue
        if why := cannot(expected):
            left[why] += 1
            continue
        if any(goes_on(dict(reply)) for reply in expected):
            left["goes on after an error"] += 1
            continue
        if case.name in OTHER_ID:
            ids = [found["_id"] for found in direct["t"][f"c{number}"].find()]
            assert len(ids) > 3 and OTHER_ID[case.name] not in ids, f"{case.name}: the server no longer differs by itself: {ids}"
            left["makes another _id than the filter names"] += 1
            continue
        with Raw(second.sidecar.listen) as raw:
            found = run(raw, case.steps, f"c{number}")
        same += 1
        commands += len(case.steps)
        for at, (one, other) in enumerate(zip(expected, found)):
            one, other = ([field for field in reply if field[0] not in COUNTS] for reply in (one, other))
            if one != other and case.name not in DIFFER:
                wrong.append(f"{case.name}: reply {at + 1}\n   direct  {shorten(one, 400)}\n   through {shorten(other, 400)}")
                break
            differ += one != other
    print(f"{same} cases, {commands} commands, {len(wrong)} wrong, {differ} replies differ for a known reason; left out: {dict(left)}")
    fold = fold_lines(second.sidecar.log_records(), collated=Everything())
    ours = re.compile(r"t\.c\d+")
    held, alone = (dump(store.client(), lambda database, collection: ours.fullmatch(f"{database}.{collection}")) for store in (second.behind, second.direct))
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:40])
    folded, names = fold.documents(), {f"t.c{number}": case.name for number, case in enumerate(all_cases())}
    told = {}
    for ns in sorted(set(held) | set(filter(ours.fullmatch, folded))):
        what = difference({ns: folded.get(ns, [])}, {ns: held.get(ns, [])})
        if names[ns] in REWRITES:
            assert what and held[ns] == alone[ns], f"{names[ns]}: the server no longer differs by itself"
        elif what:
            told[names[ns]] = what
    assert not told, f"the log is not the store in {len(told)}:\n" + "\n".join(f"{name}: {what}" for name, what in list(told.items())[:20])
    assert same >= LEAST, f"only {same} cases"
