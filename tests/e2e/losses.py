"""What a store lost, judged from the log: nothing that it lost may have been before the point that the sidecar had proved.

A store that acknowledges before it journals goes back when it is killed. The sidecar then writes `observed` records with
`found: storeLoss`, and a `node` record that says up to where it had proof (`unproven`). Since no window ends past that point
before the node record, a loss that reaches behind it would have been exported.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

from validator import Record, expect

# The store and writers past the sidecar delete here: what looks taken back may be their doing.
OTHERS = ("e2e.bypassed", "e2e.ttl")
# Collections come and go here: a drop whose reply was lost is found as documents that are gone, and cannot be told from a loss.
DROPPED = "ddl_"
UNKNOWN = "unknown"


class Revert(NamedTuple):
    """An observed record that takes an entity back to a state which it had before, or to none."""

    lsn: int
    found: str
    entity: tuple[str, str]
    lost: list[int]


class Losses:
    """Follows the images of each entity; give `see` to a fold as `watch`, and judge afterwards."""

    def __init__(self):
        self.history: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        self.found: Counter[str] = Counter()
        self.reverts: list[Revert] = []
        self.waiting: list[Revert] = []
        # Each with what was proved when it was corrected.
        self.corrected: list[tuple[int, Revert]] = []
        self.intervals: list[tuple[int, int]] = []
        self.unknown = 0

    @property
    def lost_changes(self) -> int:
        """Changes that the store lost."""
        return sum(len(loss.lost) for _, loss in self.corrected)

    @property
    def nodes(self) -> int:
        """Node records."""
        return len(self.intervals)

    def see(self, record: Record) -> None:
        if record.control is None:
            entity = (record.ns, record.key)
            if record.op == "observed":
                self._observed(record, entity)
            self.history[entity].append((record.lsn, record.after_sha))
        elif record.control in ("drop", "rename", "dropDatabase"):
            self._moved(record)
        elif record.control == "node":
            self.intervals.append((record.get("unproven"), record.lsn))
            self.corrected += [(record.get("unproven"), loss) for loss in self.waiting]
            self.waiting.clear()

    def _observed(self, record: Record, entity: tuple[str, str]) -> None:
        found, back_to, before = record.get("found"), record.after_sha, self.history[entity]
        self.found[found] += 1
        if found == "recovery" or (before and before[-1][1] == back_to):
            return
        known = [at for at, sha in before if sha == back_to]
        unseen = not known and (back_to or any(sha == UNKNOWN for _, sha in before))
        dropped = not back_to and record.ns.startswith(DROPPED)
        if unseen or dropped or record.ns in OTHERS:
            # A state that the log never saw, or somebody else's doing.
            self.unknown += found == "storeLoss"
            return
        lost = [at for at, _ in before if at > (known[-1] if known else 0)]
        if lost:
            revert = Revert(record.lsn, found, entity, lost)
            self.reverts.append(revert)
            if found == "storeLoss":
                self.waiting.append(revert)

    def _moved(self, record: Record) -> None:
        """Images moved in other ways than by changes: what the store may go back to is not known from here on."""
        named = {record.get("ns"), record.get("from"), record.get("to")}
        for ns, key in [e for e in self.history if e[0] in named or e[0].split(".", 1)[0] == record.get("db")]:
            self.history[ns, key] = [(record.lsn, UNKNOWN)]

    def judge_store(self) -> None:
        """Whatever the store lost was not proved, wherever else writers take documents back."""
        for unproven, loss in self.corrected:
            behind = [at for at in loss.lost if at <= unproven]
            expect(not behind, f"{loss.entity}: the store lost lsn {behind}, proved were those up to {unproven} (corrected at {loss.lsn})")

    def judge(self) -> None:
        """Where nobody else writes: whatever is taken back, as what takes it back, stands in a stretch in which no window ends."""
        for lsn, found, entity, lost in self.reverts:
            inside = any(since < lost[0] and lsn < until for since, until in self.intervals)
            expect(inside, f"lsn {lost} was lost and corrected by lsn {lsn} ({found}, {entity}), outside of {self.intervals}")
