"""What a store lost, judged from the log: nothing that it lost may have been before the point that the sidecar had proved.

A store that acknowledges before it journals goes back when it is killed. The sidecar then writes `observed` records with
`found: storeLoss`, and a `node` record that says up to where it had proof (`unproven`). Since no window ends past that point
before the node record, a loss that reaches behind it would have been exported.
"""

from collections import defaultdict

from validator import Record, expect


# The store and writers past the sidecar delete here: what looks taken back may be their doing.
OTHERS = ("e2e.bypassed", "e2e.ttl")


class Losses:
    """Follows the images of each entity; give `see` to a fold as `watch`."""

    def __init__(self):
        self.history: dict[tuple, list[tuple[int, str]]] = defaultdict(list)
        self.waiting: list[tuple[int, tuple, str]] = []
        self.judged = 0
        self.unknown = 0
        self.lost_changes = 0

    def see(self, record: Record) -> None:
        if record.control is None:
            entity = (record.ns, record.key)
            if record.op == "observed" and record.get("found") == "storeLoss":
                self.waiting.append((record.lsn, entity, record.after_sha))
            self.history[entity].append((record.lsn, record.after_sha))
        elif record.control in ("drop", "rename", "dropDatabase"):
            self._moved(record)
        elif record.control == "node":
            for loss in self.waiting:
                self._judge(record, *loss)
            self.waiting.clear()

    def _moved(self, record: Record) -> None:
        """Images moved in other ways than by changes: what the store may go back to is not known from here on."""
        named = {record.get("ns"), record.get("from"), record.get("to")}
        for ns, key in [e for e in self.history if e[0] in named or e[0].split(".", 1)[0] == record.get("db")]:
            self.history[ns, key] = [(record.lsn, "unknown")]

    def _judge(self, node: Record, lsn: int, entity: tuple, back_to: str) -> None:
        before = [h for h in self.history[entity] if h[0] < lsn]
        known = [at for at, sha in before if sha == back_to]
        if entity[0] in OTHERS or not known and (back_to or any(sha == "unknown" for _, sha in before)):
            self.unknown += 1  # a state that the log never saw: somebody else's write was lost or kept
            return
        reached = known[-1] if known else 0
        lost = [at for at, _ in before if at > reached]
        behind = [at for at in lost if at <= node.get("unproven")]
        expect(not behind, f"{entity}: the store lost lsn {behind}, proved were those up to {node.get('unproven')} (corrected at {lsn})")
        self.judged += 1
        self.lost_changes += len(lost)
