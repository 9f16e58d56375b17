"""Simple writers that go on over restarts of the sidecar: random inserts, updates, replacements and deletes in given collections."""

import random
import threading

from pymongo import MongoClient
from pymongo.errors import PyMongoError


class Writers:
    """Threads that write through `uri` until told to stop. `ids` gives the `_id`s to choose from."""

    def __init__(self, uri: str, collections: list[str], ids, seed: int, threads: int = 3, pause: float = 0.0):
        self.client = MongoClient(uri, serverSelectionTimeoutMS=60000)
        self.collections, self.ids, self.pause = collections, ids, pause
        self.ended = threading.Event()
        self.acked = 0
        self.broken: list[str] = []
        self.threads = [threading.Thread(target=self._run, args=(random.Random(seed + n), n)) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self, chance: random.Random, number: int) -> None:
        made = 0
        while not self.ended.is_set():
            docs = self._collection(chance.choice(self.collections))
            made += 1
            try:
                self._act(chance, docs, f"new-{number}-{made}")
                self.acked += 1
            except PyMongoError as error:
                if getattr(error, "code", None) not in (None, 11000, 11600, 91):
                    self.broken.append(repr(error))
            if self.pause:
                self.ended.wait(self.pause * chance.random())

    def _collection(self, full: str):
        database, name = full.split(".", 1)
        return self.client[database][name]

    def _act(self, chance: random.Random, docs, fresh: str) -> None:
        one = {"_id": chance.choice(self.ids)}
        kind = chance.random()
        if kind < 0.45:
            docs.update_one(one, {"$inc": {"n": 1}})
        elif kind < 0.6:
            docs.replace_one(one, {"replaced": fresh})
        elif kind < 0.75:
            docs.delete_one(one)
        elif kind < 0.9:
            docs.insert_one({"_id": fresh})
        else:
            docs.update_one(one, {"$set": {"back": fresh}}, upsert=True)

    def stop(self) -> int:
        """Ends them; how many writes were acknowledged."""
        self.ended.set()
        for thread in self.threads:
            thread.join(90)
            assert not thread.is_alive(), "a writer hangs"
        assert not self.broken, self.broken[0]
        return self.acked
