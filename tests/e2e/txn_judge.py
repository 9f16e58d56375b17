"""Judges transactions by the tokens that they leave in documents, and by the money, whose sum is 0 wherever the log may be cut."""

import bson
from collections import Counter, defaultdict
from shapes_txn import ACCOUNTS
from traces import Trace
from validator import Record, expect

LEDGER = f"e2e.{ACCOUNTS}"


class Money:
    """The balances as the log goes by."""

    def __init__(self):
        self.balances: dict[str, int] = {}
        self.correcting = False

    def see(self, record: Record) -> None:
        """After each record that is not continued the sum is 0; only observed ones, which correct one account after the other, may
        go through another sum on the way (and no window ends there)."""
        if record.control is None and record.ns == LEDGER:
            self.balances[record.key] = bson.decode(record.after)["balance"] if record.after is not None else 0
            total = sum(self.balances.values())
            inside = record.get("continued")
            # The sum of half a transaction says nothing of the correction under way.
            self.correcting = (inside or total != 0) and (self.correcting or record.op == "observed")
            whole = inside or self.correcting or total == 0
            expect(whole, f"lsn {record.lsn}: the balances make {total}: half a transaction")


class Transactions:
    """Which token came into how many documents, by which transaction."""

    def __init__(self):
        self.where: dict[str, Counter] = defaultdict(Counter)
        self.held: dict[tuple[str, str], Counter[str]] = {}
        self.trace = Trace()
        self.forgets = False
        self.money = Money()

    def see(self, record: Record, tokens) -> None:
        """`tokens(image)` counts those of an image. A transaction that a client runs again, since the store forgot that it had
        committed, may meet a document which has its token from the first run: it then stands there once more."""
        if record.control is not None:
            return
        txn = record.get("txn")
        name = (txn["lsid"], txn["txn_number"]) if txn else None
        entity, now = (record.ns, record.key), tokens(record.after) if record.after else Counter()
        # An observed record may tell the image before by its hash alone.
        before = tokens(record.before) if record.before else self.held.get(entity, Counter()) if record.before_sha else Counter()
        came, gone = set(now - before), set(before) - set(now)
        for token in came:
            self.where[token][name] += 1
        self.trace.see(record, came, gone)
        self.held[entity] = now
        self.money.see(record)

    def judge(self, diaries, lossy: bool, forgets: bool = False) -> list[str]:
        """What is wrong. `lossy`: the store may lose what it acknowledged, so that one token may come twice. `forgets`: it loses
        nothing, but does not know after a restart that it had committed, so that the driver's own loop may run a transaction again."""
        wrong = []
        self.forgets = forgets
        for ack in diaries.acks:
            found = self.where.get(ack["ack"], Counter())
            if ack["none"] and found:
                wrong.append(f"aborted, but in the log: {ack} {dict(found)}")
            if ack["txn"] is not None and not ack["none"]:
                wrong += self._whole(ack, ack["ack"], ack["txn"], found, lossy, must=True)
        for error in diaries.errors:
            found = self.where.get(error["error"], Counter())
            if error["txn"] is None:
                continue
            if not error["committing"] and found:
                wrong.append(f"never committed, but in the log: {error} {dict(found)}")
            else:
                wrong += self._whole(error, error["error"], error["txn"], found, lossy, must=False)
        return wrong

    def _whole(self, entry: dict, token: str, count: int, found: Counter, lossy: bool, must: bool) -> list[str]:
        """All or, unless it must be there, nothing."""
        if not found and (count == 0 or not must):
            return []
        parts = [n for name, n in found.items() if name is not None]
        if lossy:
            return [f"half of it: {entry} {dict(found)}"] if any(n != count for n in parts) else []
        if self.forgets and entry["shape"].endswith("_repeated"):
            # Each run is whole; one that recovery found bears no transaction's name.
            halves = any(n != count for n in parts) or found.get(None, 0) % max(count, 1)
            return [f"{token}: {count} changes expected of each run, found {dict(found)}: {entry}"] if halves else []
        if sum(found.values()) != count or len(found) > 1:
            return [f"{token}: {count} changes of one transaction expected, found {dict(found)}: {entry}"]
        return []
