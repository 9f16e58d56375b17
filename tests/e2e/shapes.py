"""Every shape of write command that the sidecar captures, as small random actions of one client.

A shape is a function of a `Client`; it sends one command and returns an `Outcome`. Each command carries its token as
`comment`; documents of one owner carry it as `t`, hot documents, which many clients share, collect tokens in `marks`. So
a judge can tell from the log alone whose write is in it.

`changed` counts the records that the command must have made (None: not known from the reply, at least `least`).
`see`: the token stands in an image of the log after the ack, whatever happened in between. `gone`: these ids are deleted.
`txn`: it stands in exactly so many documents, changed by one transaction. `none`: it stands nowhere.
"""

import dataclasses
import random

from bson import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure

HOT, COLD, IDS, FOLDED = "hot", "cold", "ids", "folded"
SHAPES: dict[str, tuple[int, object]] = {}


@dataclasses.dataclass
class Outcome:
    """What an acknowledged command has done."""

    changed: int | None = None
    least: int = 0
    see: bool = False
    gone: tuple = ()
    txn: int | None = None
    none: bool = False


class Client:
    """One application thread: its random stream, its documents, its tokens."""

    def __init__(self, client: MongoClient, seed: int, number: int):
        self.client = client
        self.random = random.Random(f"{seed}/{number}")
        self.number = number
        self.seed = seed
        self.made = 0
        self.owned: list[str] = []
        self.token = ""
        # The store forgets its retryable writes when it restarts, and may be killed: a driver's retry may be a second write.
        self.forgetful = False
        self.txn: int | None = None
        self.committing = False
        self.db = client["e2e"]
        self.other = client["e2e_other"]

    def next_token(self) -> str:
        self.made += 1
        self.token = f"T{self.seed}-{self.number}-{self.made}~"
        self.txn, self.committing = None, False
        return self.token

    def begin_txn(self, count: int) -> None:
        """A transaction that will leave the token in `count` documents; `committing` is set when its commit may be sent."""
        self.txn, self.committing = count, False

    def hot_id(self) -> str:
        """One of eight shared documents; others take their place as the work goes on, so that images stay small."""
        return f"h{self.made // 120}-{self.random.randrange(8)}"

    def fresh_id(self) -> str:
        """An `_id` of this client's own, not used before."""
        return f"o{self.number}-{self.made}-{self.random.randrange(1 << 30)}"

    def own_id(self) -> str | None:
        """The `_id` of a living document of this client."""
        return self.random.choice(self.owned) if self.owned else None

    def document(self, _id) -> dict:
        """A document as applications have them: nested, with several types and sizes."""
        r = self.random
        body = {"_id": _id, "t": self.token, "owner": self.number, "n": r.randrange(100), "g": r.randrange(4)}
        body["tags"] = [{"k": r.choice("abcd"), "v": r.randrange(10)} for _ in range(r.randrange(4))]
        if r.random() < 0.2:
            body["text"] = "é\u2028\x00\"\\" * r.randrange(1, 200)
        if r.random() < 0.2:
            body["stamp"] = Timestamp(0, 0)
        if r.random() < 0.1:
            body.update({"f": 1.5, "nan": float("nan"), "none": None, "raw": r.randbytes(40), "deep": {"a": [{"b": []}, {}]}})
        return body

    def sure(self, condition: bool, what) -> None:
        """Asserts what holds unless a retry was a second write."""
        assert condition or self.forgetful, what

    def ask(self, command: dict) -> dict:
        """Runs a command in whose reply single statements may have failed; one that failed as a whole raises."""
        reply = self.db.command(command, check=False)
        if not reply["ok"]:
            raise OperationFailure(reply["errmsg"], reply["code"], reply)
        return reply

    def mark(self) -> dict:
        """The modifier by which a shared document remembers this command."""
        return {"$push": {"marks": self.token}, "$inc": {"n": 1}}


def shape(weight: int = 2):
    """Registers a shape under its function's name."""

    def register(function):
        SHAPES[function.__name__] = (weight, function)
        return function

    return register


def load() -> dict[str, tuple[int, object]]:
    """All shapes, from all files."""
    import shapes_batch
    import shapes_ddl
    import shapes_fam
    import shapes_single
    import shapes_txn

    assert shapes_batch and shapes_ddl and shapes_fam and shapes_single and shapes_txn
    return SHAPES
