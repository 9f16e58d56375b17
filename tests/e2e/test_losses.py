"""The judge of losses is judged."""

import json

import pytest
from losses import Losses
from test_validator import ONE, THREE, TWO, change, control
from validator import Broken, Record


def seen(records: list[dict]) -> Losses:
    losses = Losses()
    for record in records:
        losses.see(Record(json.dumps(record)))
    losses.judge_store()
    return losses


def stream(unproven: int) -> list[dict]:
    return [
        change(1, 1, "insert", None, ONE),
        change(2, 2, "update", ONE, TWO),
        change(3, 3, "update", TWO, THREE),
        change(4, 4, "observed", THREE, ONE, found="storeLoss"),
        control(5, "node", process="b", term=1, rbid=1, epoch=1, unproven=unproven),
    ]


def test_what_was_not_proved_may_be_lost():
    for unproven in (0, 1):
        losses = seen(stream(unproven))
        assert (len(losses.corrected), losses.lost_changes, losses.unknown) == (1, 2, 0)


@pytest.mark.parametrize("unproven", [2, 3])
def test_what_was_proved_may_not(unproven):
    with pytest.raises(Broken, match="the store lost"):
        seen(stream(unproven))


def test_a_lost_insert():
    records = [change(1, 1, "insert", None, ONE), change(2, 2, "observed", ONE, None, found="storeLoss")]
    assert seen([*records, control(3, "node", process="b", term=1, rbid=1, epoch=1, unproven=0)]).lost_changes == 1
    with pytest.raises(Broken):
        seen([*records, control(3, "node", process="b", term=1, rbid=1, epoch=1, unproven=1)])


def test_a_state_that_the_log_never_saw():
    records = [change(1, 1, "insert", None, ONE), change(2, 2, "observed", ONE, TWO, found="storeLoss")]
    assert seen([*records, control(3, "node", process="b", term=1, rbid=1, epoch=1, unproven=1)]).unknown == 1


def test_what_is_taken_back_by_whoever_stands_in_a_stretch():
    taken = change(4, 4, "observed", THREE, ONE, found="touch")
    records = [record if record["lsn"] != 4 else taken for record in stream(1)]
    losses = seen(records)
    losses.judge()
    assert [(r.lost, r.found) for r in losses.reverts] == [([2, 3], "touch")] and not losses.corrected
    records[-1]["unproven"] = 2
    with pytest.raises(Broken, match="outside of"):
        seen(records).judge()
    with pytest.raises(Broken, match="outside of"):
        seen(records[:-1]).judge()


def test_where_collections_come_and_go_a_missing_document_is_not_judged():
    for ns, unknown in (("ddl_2.z", 1), ("e2e.bypassed", 1), ("d.c", 0)):
        records = [change(1, 1, "insert", None, ONE), change(2, 2, "update", ONE, TWO), change(3, 3, "observed", TWO, None, found="storeLoss")]
        losses = seen([record | {"ns": ns} for record in records])
        assert losses.unknown == unknown and bool(losses.reverts) != bool(unknown)


def test_a_drop_forgets_what_was_before_it():
    records = [
        change(1, 1, "insert", None, ONE),
        control(2, "drop", ns="d.c"),
        change(3, 2, "insert", None, TWO),
        change(4, 3, "observed", TWO, None, found="storeLoss"),
        control(5, "node", process="b", term=1, rbid=1, epoch=1, unproven=2),
    ]
    assert seen(records).unknown == 1
