"""The judge of transactions is judged: whole ones pass; halves, aborted ones, doubles and lost money are found."""

import json
from types import SimpleNamespace

import bson
import pytest
from test_validator import change, part
from validator import Broken, Record
from traces import Trace
from workload import Witness

A, B, C = "T1-0-1~", "T1-0-2~", "T1-0-3~"
LEDGER = "e2e.accounts"


def account(number: int, balance: int, *marks: str) -> dict:
    return {"_id": number, "balance": balance, "marks": list(marks)}


def stream() -> list[dict]:
    """A moves money; B is observed by nobody (aborted); C has one document, and its outcome was never told."""
    return [
        change(1, 1, "insert", None, account(1, -5, A), ns=LEDGER, **part(1, 2)),
        change(2, 1, "insert", None, account(2, 5, A), ns=LEDGER, **part(2, 2)),
        change(3, 1, "insert", None, {"_id": 3, "t": C}, **part(1, 1, number=9)),
        change(4, 2, "update", {"_id": 3, "t": C}, {"_id": 3, "t": C, "n": 1}),
    ]


def ack(token: str, txn: int | None, none: bool = False) -> dict:
    return {"ack": token, "shape": "s", "changed": None, "least": 0, "see": False, "gone": (), "txn": txn, "none": none}


def diaries(acks=(), errors=()):
    acks = list(acks) or [ack(A, 2), ack(B, None, none=True)]
    errors = list(errors) or [{"error": C, "txn": 1, "committing": True}]
    return SimpleNamespace(acks=acks, errors=errors, tried={A: "s", B: "s", C: "s"})


def judged(records: list[dict], told, lossy: bool = False, forgets: bool = False) -> list[str]:
    witness = Witness()
    for record in records:
        witness.see(Record(json.dumps(record)))
    return witness.judge(told, exact=False, lossy=lossy, forgets=forgets)


def test_whole_ones_pass():
    assert judged(stream(), diaries()) == []
    assert judged(stream(), diaries(), lossy=True) == []


def test_run_again_over_the_same_account():
    """The store forgot that it had committed; the second run draws one account of the first: two whole transactions."""
    again = [
        change(5, 2, "update", account(2, 5, A), account(2, 0, A, A), ns=LEDGER, **part(1, 2, number=8)),
        change(6, 1, "insert", None, account(4, 5, A), ns=LEDGER, **part(2, 2, number=8)),
    ]
    assert judged([*stream(), *again], diaries(), lossy=True) == []
    assert judged([*stream(), *again], diaries()) != []
    again[0] = change(5, 2, "update", account(2, 5, A), account(2, 0, A), ns=LEDGER, **part(1, 2, number=8))
    assert judged([*stream(), *again], diaries(), lossy=True) != []


def test_a_store_that_forgets_makes_the_drivers_loop_run_again():
    """The first run was found by recovery, the second is a transaction: whole both, or wrong; and only for the driver's own loop."""
    found = [
        change(1, 1, "observed", None, account(1, -5, A), ns=LEDGER) | {"found": "recovery"},
        change(2, 1, "observed", None, account(2, 5, A), ns=LEDGER) | {"found": "recovery"},
    ]
    again = [
        change(3, 2, "update", account(2, 5, A), account(2, 0, A, A), ns=LEDGER, **part(1, 2)),
        change(4, 1, "insert", None, account(4, 5, A), ns=LEDGER, **part(2, 2)),
    ]
    loop, once = (diaries(acks=[ack(A, 2) | {"shape": shape}], errors=[{"error": C, "txn": 0, "committing": True, "shape": "s"}]) for shape in ("m_repeated", "m"))
    assert judged([*found, *again], loop, forgets=True) == []
    assert judged([*found, *again], loop) != [] and judged([*found, *again], once, forgets=True) != []
    half = change(5, 1, "observed", None, account(9, 0, A), ns=LEDGER) | {"found": "recovery"}
    assert judged([*found, *again, half], loop, forgets=True) != []


WRONG = {
    "acknowledged and absent": (stream, diaries(acks=[ack(B, 2)])),
    "acknowledged and too few": (stream, diaries(acks=[ack(A, 3)])),
    "acknowledged and too many": (stream, diaries(acks=[ack(A, 1)])),
    "aborted and there": (stream, diaries(acks=[ack(A, None, none=True)])),
    "unknown and half": (stream, diaries(errors=[{"error": A, "txn": 3, "committing": True}])),
    "never committed and there": (stream, diaries(errors=[{"error": C, "txn": 1, "committing": False}])),
    "by two transactions": (lambda: [*stream()[:2], change(3, 1, "insert", None, {"_id": 3, "t": A}, **part(1, 1, number=9))], diaries(acks=[ack(A, 3)])),
    "partly past its transaction": (lambda: [*stream()[:2], change(3, 1, "insert", None, {"_id": 3, "t": A})], diaries(acks=[ack(A, 3)])),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_wrong_ones_are_found(what):
    records, told = WRONG[what]
    assert judged(records(), told)


def test_half_is_found_in_a_lossy_store():
    assert judged(stream(), diaries(acks=[ack(A, 3)]), lossy=True)


def test_lost_money_is_found():
    records = stream()
    records[0]["continued"] = False
    with pytest.raises(Broken, match="balances"):
        judged(records, diaries())


def test_a_hole_is_told_from_what_the_store_has_not(tmp_path):
    """Two documents of a transaction are missing in the log: the store has one of them."""
    said = {"said": A, "command": "insert", "on": "c", "ids": ["x", "y", "z"], "lsid": "00", "number": 1, "reply": {"n": 3}}
    (tmp_path / "diary-0.jsonl").write_text(json.dumps(said) + "\n")
    trace = Trace()
    trace.see(Record(json.dumps(change(1, 1, "insert", None, {"_id": "x", "t": A}, ns="d.c", **part(1, 3)))), {A}, set())
    told = trace.tell(A, {"d.c": [bson.encode({"_id": "x"}), bson.encode({"_id": "y", "t": A})]}, tmp_path)
    assert "LOG lsn 1 d.c 'x'" in told and "without the token" in told
    assert "STORE d.c 'y' has the token, and no record of the LOG brought it: a hole" in told
    assert "c y: no record of the LOG, the STORE has the document" in told
    assert "c z: no record of the LOG, the STORE does not have the document" in told
    assert "neither LOG nor STORE" in trace.tell(B, {}, tmp_path)
