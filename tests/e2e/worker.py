"""A process of several client threads that write at random until they have made their actions or a stop file appears.

Called by workload.py with one JSON argument; writes one JSON line for each attempt to its diary:
  {"try": token, "shape": name}                                       before the command is sent
  {"ack": token, "shape": name, "changed", "least", "see", "gone", "txn", "none"}    after its success
  {"error": token, "shape": name, "kind": class, "code": n, "txn", "committing"}     after an error
  {"said": token, "command": name, "on", "ids", "lsid", "number", "reply"}           what a statement of a transaction was answered
  {"fault": traceback}                                                 when an action found something that must not be
A diary is flushed before each command, so that an acknowledged write is never unknown to the judge.
"""

import dataclasses
import json
import os
import sys
import threading
import time
import traceback

from pymongo import MongoClient, monitoring
from pymongo.errors import PyMongoError
from shapes import Client, load


class Diary:
    """Lines of one thread, kept in the order in which they happened."""

    def __init__(self, path: str):
        self.file = open(path, "w", encoding="utf-8")
        self.last: dict = {}

    def write(self, **fields) -> None:
        self.last = fields
        self.note(json.dumps(fields))

    def note(self, line: str) -> None:
        self.file.write(line + "\n")
        self.file.flush()


class Statements(monitoring.CommandListener):
    """Writes what each command of a transaction was answered into the diary of the thread that sent it."""

    KEPT = ("ok", "n", "nModified", "upserted", "writeErrors", "writeConcernError", "code", "errmsg", "errorLabels", "retriedStmtIds", "retriedStmtId")
    KEPT += ("lastErrorObject", "nInserted", "nMatched", "nUpserted", "nDeleted", "nErrors")

    def __init__(self):
        self.thread = threading.local()

    def serve(self, client: Client, diary: Diary) -> None:
        """What this thread sends from now on belongs to `diary`."""
        self.thread.client, self.thread.diary, self.thread.asked = client, diary, {}

    def started(self, event) -> None:
        command = event.command
        if "autocommit" in command and hasattr(self.thread, "diary"):
            self.thread.asked = {event.request_id: {
                "command": event.command_name, "on": str(command[event.command_name]), "ids": ids_of(command),
                "lsid": bytes(command["lsid"]["id"]).hex()[:8], "number": int(command["txnNumber"]),
            }}

    def succeeded(self, event) -> None:
        self._answered(event, event.reply)

    def failed(self, event) -> None:
        self._answered(event, event.failure)

    def _answered(self, event, reply) -> None:
        asked = getattr(self.thread, "asked", {}).pop(event.request_id, None)
        if asked is not None:
            reply = reply if isinstance(reply, dict) else {"error": repr(reply)[:300]}
            kept = {name: reply[name] for name in (*self.KEPT, "error") if name in reply}
            said = {"said": self.thread.client.token} | asked | {"reply": kept}
            self.thread.diary.note(json.dumps(said, default=repr))


def ids_of(command) -> list[str]:
    """The `_id`s that a statement names, as far as they are easily had."""
    found = [d.get("_id") for d in command.get("documents", [])[:10] if isinstance(d, dict)]
    for field in ("updates", "deletes"):
        found += [s["q"].get("_id") for s in command.get(field, [])[:10] if isinstance(s, dict)]
    found += [command["query"].get("_id")] if "query" in command else []
    return [str(i) for i in found]


STATEMENTS = Statements()


def act(client: Client, name: str, function, diary: Diary) -> None:
    """One action with its lines in the diary."""
    token = client.next_token()
    diary.write(**{"try": token, "shape": name})
    try:
        done = function(client)
        diary.write(ack=token, shape=name, **dataclasses.asdict(done))
    except PyMongoError as error:
        told = {"kind": type(error).__name__, "code": getattr(error, "code", None), "text": str(error)[:300]}
        diary.write(error=token, shape=name, **told, txn=client.txn, committing=client.committing)
        if getattr(error, "code", None) is None:
            time.sleep(0.02)


def work(config: dict, number: int, mongo: MongoClient, wire: int) -> None:
    """One thread's life."""
    diary = Diary(f"{config['folder']}/diary-{number}.jsonl")
    try:
        client = Client(mongo, config["seed"], number)
        STATEMENTS.serve(client, diary)
        client.bulk_write_supported, client.forgetful = wire >= 25, config["forgetful"]
        shapes = {k: v for k, v in load().items() if not config["only"] or k in config["only"]}
        names, weights = list(shapes), [w for w, _ in shapes.values()]
        while client.made < config["actions"] and not os.path.exists(f"{config['folder']}/stop"):
            (name,) = client.random.choices(names, weights)
            act(client, name, shapes[name][1], diary)
            if config["pause"]:
                time.sleep(client.random.random() * config["pause"])
    except BaseException:
        diary.write(fault=traceback.format_exc())
        raise


def wire_version(mongo: MongoClient) -> int:
    """What the server speaks; a network that breaks already now is asked again."""
    deadline = time.monotonic() + 180
    while True:
        try:
            return mongo.admin.command("hello")["maxWireVersion"]
        except PyMongoError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> None:
    config = json.loads(sys.argv[1])
    mongo = MongoClient(config["uri"], appname=f"worker-{config['first']}", serverSelectionTimeoutMS=60000, event_listeners=[STATEMENTS])
    wire = wire_version(mongo)
    numbers = range(config["first"], config["first"] + config["threads"])
    threads = [threading.Thread(target=work, args=(config, n, mongo, wire)) for n in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
