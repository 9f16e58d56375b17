"""A write that a killed sidecar left waiting in the store behind somebody's transaction: it lands after the second look, the third finds it.

Nothing else may find it: no touch, no change stream, no comparison.
"""

import threading

import pytest
from bson import Binary, Int64
from pymongo.errors import PyMongoError
from sidecar import changes
from test_outlive import judge
from waiting import eventually

CONFIG = (
    "[capture]\nsecond_look_ms = 500\ntransaction_lifetime_ms = 8000\n"
    "[follower]\nenabled = false\ncatch_up = false\n[snapshot]\nenabled = false\n"
)


class Orphan:
    """A transaction opened at the store itself that holds one document."""

    def __init__(self, store, ns: tuple[str, str], _id):
        self.client = store.client()
        self.fields = {"lsid": {"id": Binary(b"O" * 16, 4)}, "txnNumber": Int64(1), "autocommit": False}
        update = {"q": {"_id": _id}, "u": {"$set": {"held": True}}}
        self.client[ns[0]].command({"update": ns[1], "updates": [update], **self.fields, "startTransaction": True})

    def abort(self) -> None:
        self.client.admin.command({"abortTransaction": 1, **self.fields})
        self.client.close()


def looks(sidecar, which: str) -> float:
    return sidecar.metrics()[f'tidelog_looks_total{{look="{which}"}}']


def left(sidecar, generation: int) -> list:
    return list((sidecar.data / "intents").glob(f"g{generation}-*.slot"))


@pytest.mark.parametrize("kills", [1, 2])
def test_the_third_look_finds_it(lab, kills):
    """Killed once; or again between the second look and the third, which the next process does."""
    store = lab.store("replica")
    sidecar = lab.sidecar(store, config=CONFIG)
    documents = sidecar.client(serverSelectionTimeoutMS=2000)["shop"]["carts"]
    documents.insert_many([{"_id": n, "v": 0} for n in range(3)])
    orphan = Orphan(store, ("shop", "carts"), 1)

    def write():
        try:
            documents.update_one({"_id": 1}, {"$set": {"v": 7}})
        except PyMongoError:
            pass  # its sidecar is killed

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    eventually(lambda: sidecar.metric("tidelog_intents_open") == 1, 20, "the update is on its way")
    with pytest.raises(PyMongoError):  # it is in the store, and waits: so does another one
        store.client()["shop"].command({"update": "carts", "updates": [{"q": {"_id": 1}, "u": {"$set": {"v": 9}}}], "maxTimeMS": 300})
    for _ in range(kills):
        sidecar.kill()
        documents.database.client.close()
        sidecar.start()
        assert left(sidecar, 1), "the intent went away before the last look"
        eventually(lambda: looks(sidecar, "second") >= 1, 20, "the second look")
    assert sidecar.metric("tidelog_looks_waiting") == 1
    assert [c["after"]["v"] for c in changes(sidecar)] == [{"$numberInt": "0"}] * 3
    orphan.abort()
    with store.client() as client:
        eventually(lambda: client["shop"]["carts"].find_one({"_id": 1})["v"] == 7, 20, "the write lands")
    assert looks(sidecar, "third") == 0, "this machine is too slow for the test: it shows nothing"
    eventually(lambda: looks(sidecar, "third") == 1, 40, "the third look")
    (found,) = [c for c in changes(sidecar) if c["op"] == "observed"]
    assert (found["after"]["v"], found["found"], found["seq"]) == ({"$numberInt": "7"}, "recovery", 2), found
    eventually(lambda: not left(sidecar, 1), 10, "nothing is left open")
    assert sidecar.metric("tidelog_looks_waiting") == 0
    judge(store, sidecar)
