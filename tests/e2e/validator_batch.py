"""What the validator demands of records that belong together: transactions, `continued`, and the stretch before a `node` record.

  A transaction's changes have one `lsid`, `txn_number` and `count`, stand side by side with `index` 1, 2 … `count`, each but the
  last says `continued`, and the transaction is there once. Nothing stands between them.
  Whatever says `continued` is followed by a record; neither a window nor a log ends there.
  No window ends between `unproven` of a `node` record and that record.
"""


class Batches:
    """The batch that is open, the transactions that were seen, and the forbidden ends."""

    def __init__(self):
        self.open: dict | None = None
        self.continued = False
        self.seen: dict[tuple, int] = {}
        self.sizes: dict[tuple, int] = {}
        self.forbidden: list[tuple[int, int]] = []
        self.node_epoch = 0

    def see(self, record, expect) -> None:
        """Takes the next record; `expect(condition, what)` raises."""
        txn = record.get("txn") if record.control is None else None
        if self.open is not None:
            expect(txn is not None, f"something stands inside transaction {self.open}")
        if txn is not None:
            self._part(record, txn, expect)
        self.continued = record.get("continued")
        expect(isinstance(self.continued, bool), "continued is neither true nor false")

    def _part(self, record, txn: dict, expect) -> None:
        index, count = txn["index"], txn["count"]
        name = ((record.get("origin") or {}).get("user"), txn["lsid"], txn["txn_number"])
        if self.open is None:
            expect(index == 1, f"a transaction begins with its index {index}")
            expect(name not in self.seen, f"a transaction that was there at lsn {self.seen.get(name)}")
            expect(record.op != "observed", "an observed change inside a transaction")
            self.seen[name], self.sizes[name] = record.lsn, count
        else:
            last = self.open
            expect(name == last["name"], "two transactions are mixed")
            expect(count == last["count"], f"count was {last['count']}")
            expect(index == last["index"] + 1, f"index after {last['index']}")
            expect(record.op != "observed", "an observed change inside a transaction")
        expect(1 <= index <= count, f"index {index} of {count}")
        expect(record.get("continued") is (index < count), f"continued at index {index} of {count}")
        self.open = {"name": name, "count": count, "index": index} if index < count else None

    def node(self, record, expect) -> None:
        """Takes a `node` record."""
        unproven, epoch = record.get("unproven"), record.get("epoch")
        expect(0 <= unproven < record.lsn, f"unproven {unproven} of a record that stands before it")
        expect(epoch >= self.node_epoch, f"the epoch went back from {self.node_epoch}")
        self.node_epoch = epoch
        self.forbidden.append((unproven, record.lsn))

    def end(self, expect) -> None:
        """A window or a log ends after the last record."""
        expect(self.open is None, f"it ends inside transaction {self.open}")
        expect(not self.continued, "it ends after a record that is continued")

    def ends(self, lasts: list[int], expect) -> None:
        """Windows end after these lsn; some of them may only later turn out to be forbidden."""
        for since, until in self.forbidden:
            inside = [lsn for lsn in lasts if since < lsn < until]
            expect(not inside, f"a window ends at lsn {inside[:1]}, between what was unproven ({since}) and the node record {until}")
