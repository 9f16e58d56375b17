"""Judges what a log says of changes that the store lost.

  A correction is an observed record. Where it takes an entity back to a state that it had before (or to none), what it takes
  back was lost: it must stand after `unproven` and before a `node` record, or a window may have told of it.
"""

from collections import Counter

from validator import expect


class Losses:
    """Give `see` to a fold as `watch`; `judge` afterwards."""

    def __init__(self):
        self.found: Counter[str] = Counter()
        self.nodes = 0
        self.corrected = 0
        self.reverts: list[tuple[int, int, str, str]] = []
        self.intervals: list[tuple[int, int]] = []
        self.states: dict[tuple[str, str], list[tuple[int, str]]] = {}

    def see(self, record) -> None:
        if record.control == "node":
            self.nodes += 1
            self.intervals.append((record.get("unproven"), record.lsn))
        if record.control is not None:
            return
        states = self.states.setdefault((record.ns, record.key), [(0, "")])
        if record.op == "observed":
            found = record.get("found")
            self.found[found] += 1
            back = [place for place, (_, sha) in enumerate(states) if sha == record.after_sha]
            if back and found != "recovery" and record.after_sha != states[-1][1]:
                lost = states[back[-1] + 1 :]
                self.reverts.append((lost[0][0], record.lsn, found, f"{record.ns} {record.key}"))
                self.corrected += len(lost)
        states.append((record.lsn, record.after_sha))

    def judge(self) -> None:
        """Each change taken back, and what takes it back, stand in one stretch in which no window ends."""
        for lost, correction, found, entity in self.reverts:
            inside = any(since < lost and correction < until for since, until in self.intervals)
            expect(inside, f"lsn {lost} was lost and corrected by lsn {correction} ({found}, {entity}), outside of {self.intervals}")
