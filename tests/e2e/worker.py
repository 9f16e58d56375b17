"""A process of several client threads that write at random until they have made their actions or a stop file appears.

Called by workload.py with one JSON argument; writes one JSON line for each attempt to its diary:
  {"try": token, "shape": name}                                       before the command is sent
  {"ack": token, "shape": name, "changed", "least", "see", "gone", "txn", "none"}    after its success
  {"error": token, "shape": name, "kind": class, "code": n, "txn", "committing"}     after an error
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

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from shapes import Client, load


class Diary:
    """Lines of one thread, kept in the order in which they happened."""

    def __init__(self, path: str):
        self.file = open(path, "w", encoding="utf-8")
        self.last: dict = {}

    def write(self, **fields) -> None:
        self.last = fields
        self.file.write(json.dumps(fields) + "\n")
        self.file.flush()


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
    deadline = time.monotonic() + 60
    while True:
        try:
            return mongo.admin.command("hello")["maxWireVersion"]
        except PyMongoError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> None:
    config = json.loads(sys.argv[1])
    mongo = MongoClient(config["uri"], appname=f"worker-{config['first']}", serverSelectionTimeoutMS=60000)
    wire = wire_version(mongo)
    numbers = range(config["first"], config["first"] + config["threads"])
    threads = [threading.Thread(target=work, args=(config, n, mongo, wire)) for n in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
