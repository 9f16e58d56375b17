"""What the log, the store and the client's diary say of one command, side by side: so that one who reads of half a transaction sees
whether a change is missing in the log (a hole) or in the store as well.
"""

import json
import pathlib
from collections import defaultdict

import bson
from bson.codec_options import CodecOptions
from identity import id_of

SHOWN = CodecOptions(unicode_decode_error_handler="backslashreplace")


class Trace:
    """The records of the log by the token that came or went with them, or that their command carried as its comment."""

    def __init__(self):
        self.of: dict[str, list[tuple]] = defaultdict(list)

    def see(self, record, came: set[str], gone: set[str]) -> None:
        comment = record.get("comment") or ""
        image = record.after if record.after is not None else record.before
        identity = id_of(image) if image is not None else None
        txn = record.get("txn")
        part = f"{txn['lsid'][:8]}/{txn['txn_number']} {txn['index']} of {txn['count']}" if txn else "no transaction"
        for token in came | gone | ({comment} if comment else set()):
            how = "brings the token" if token in came else "takes the token away" if token in gone else "has it as its comment"
            self.of[token].append((record.lsn, record.ns, identity, record.op, record.get("found"), part, how))

    def tell(self, token: str, held: dict[str, list[bytes]], diaries: pathlib.Path | None) -> str:
        """Everything known of a token; `held` is the store now."""
        places = {(ns, id_of(raw)): token.encode() in raw for ns, documents in held.items() for raw in documents}
        lines, logged = [f"--- {token}"], set()
        for lsn, ns, identity, op, found, part, how in self.of.get(token, []):
            logged.add((ns, identity))
            now = {None: "the STORE does not have the document", True: "the STORE has the document with the token"}
            told = now.get(places.get((ns, identity)), "the STORE has the document, without the token")
            lines.append(f"  LOG lsn {lsn} {ns} {shown(identity)} {op}{f' found {found}' if found else ''} ({part}) {how}; {told}")
        lines += [
            f"  STORE {ns} {shown(identity)} has the token, and no record of the LOG brought it: a hole"
            for (ns, identity), there in places.items() if there and (ns, identity) not in logged
        ]
        if len(lines) == 1:
            lines.append("  neither LOG nor STORE has it")
        written = diary_of(token, diaries)
        lines += [f"  DIARY {line[:700]}" for line in written]
        return "\n".join(lines + named(written, places, logged))


def diary_of(token: str, diaries: pathlib.Path | None) -> list[str]:
    """The client's lines about a token."""
    found = []
    for path in sorted(diaries.glob("diary-*.jsonl")) if diaries else ():
        with open(path, encoding="utf-8") as file:
            found += [line.rstrip() for line in file if token in line]
    return found


def named(written: list[str], places: dict, logged: set) -> list[str]:
    """What became of the documents that statements named, where the log has nothing of them."""
    known = {(ns.split(".", 1)[1], shown(identity).strip("'")) for ns, identity in logged}
    there = {(ns.split(".", 1)[1], shown(identity).strip("'")) for ns, identity in places}
    lines = []
    for said in filter(lambda entry: "said" in entry, map(json.loads, written)):
        for one in [(said["on"], text) for text in said["ids"]]:
            if one not in known:
                has = "has" if one in there else "does not have"
                lines.append(f"  NAMED by {said['command']} {said['lsid']}/{said['number']}: {one[0]} {one[1]}: no record of the LOG, the STORE {has} the document")
    return lines


def shown(identity: tuple[int, bytes] | None) -> str:
    """An `_id` for people."""
    if identity is None:
        return "?"
    kind, payload = identity
    size = 4 + 1 + len("_id") + 1 + len(payload) + 1
    raw = size.to_bytes(4, "little") + bytes([kind]) + b"_id\0" + payload + b"\0"
    return repr(bson.decode(raw, SHOWN)["_id"])[:120]
