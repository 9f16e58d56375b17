"""A write that outlives the sidecar that sent it: killed in between, found by the second look or at the next touch."""

import json
import threading

from forwarder import Forwarder
from pymongo.errors import PyMongoError
from sidecar import changes
from validator import check_export, fold_lines
from dump import difference, dump
from waiting import eventually

TOKEN = b"OUTLIVES"


class Holder(Forwarder):
    """A network that keeps the message with the token back, and the store's end of its connection open."""

    def __init__(self, target: str):
        super().__init__(target)
        self.held = None

    def _move(self, source) -> None:
        data = b"" if self.held and source is self.held[0] else self._received(source)
        if data is None:
            return
        if TOKEN in data and self.held is None:
            self.held = (self.pairs[source], data)
            self._part(source)
        elif not data:
            self._end(source)
        else:
            try:
                self.pairs[source].sendall(data)
            except OSError:
                self._end(source)

    def _received(self, source):
        try:
            return source.recv(1 << 16)
        except OSError:
            return b""

    def _part(self, client) -> None:
        """The client's end stays as it is; the store's end waits for the release."""
        store = self.pairs.pop(client)
        self.pairs.pop(store)
        self.selector.unregister(client)
        self.selector.unregister(store)
        self.client = client

    def release(self) -> bytes:
        """Lets the message go; the store's reply."""
        store, data = self.held
        store.sendall(data)
        store.settimeout(10)
        reply = store.recv(1 << 16)
        store.close()
        return reply


def outlive(lab, mode, second_look_ms):
    """Kills the sidecar while its update is on the way; starts it again; then the update lands."""
    store = lab.store(mode)
    holder = Holder(store.address)
    sidecar = lab.sidecar(holder.address, config=f"[capture]\nsecond_look_ms = {second_look_ms}\n")
    documents = sidecar.client(serverSelectionTimeoutMS=2000)["shop"]["carts"]
    documents.insert_one({"_id": 1, "v": 0})
    documents.update_one({"_id": 1}, {"$inc": {"v": 1}})

    def write():
        try:
            documents.update_one({"_id": 1}, {"$set": {"v": 2, "by": TOKEN.decode()}})
        except PyMongoError:
            pass  # its sidecar is killed

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    eventually(lambda: holder.held, 30, "the update is on its way")
    sidecar.kill()
    documents.database.client.close()
    sidecar.start()
    assert [c["after"]["v"] for c in changes(sidecar)] == [{"$numberInt": "0"}, {"$numberInt": "1"}]
    assert TOKEN not in json.dumps(changes(sidecar)).encode()
    assert b"lastErrorObject" in holder.release(), "the store did not run it"
    assert store.client()["shop"]["carts"].find_one({"_id": 1})["v"] == 2
    return store, sidecar


def judge(store, sidecar):
    """Every oracle, and both folds against the store."""
    sidecar.cut("end")
    held = dump(store.client())
    assert not difference(fold_lines(sidecar.log_records()).documents(), held)
    exported, _ = check_export(sidecar.export)
    assert not difference(exported.documents(), held)


def test_second_look_finds_it(lab, mode):
    store, sidecar = outlive(lab, mode, 3000)
    last = eventually(lambda: [c for c in changes(sidecar) if c["op"] == "observed"], 30, "the second look", every=0.5)[-1]
    assert last["after"]["by"] == TOKEN.decode() and last["seq"] == 3
    judge(store, sidecar)


def test_next_touch_finds_it(lab, mode):
    store, sidecar = outlive(lab, mode, 600_000)
    sidecar.client()["shop"]["carts"].update_one({"_id": 1}, {"$inc": {"v": 1}})
    assert [(c["op"], c["seq"]) for c in changes(sidecar)][2:] == [("observed", 3), ("update", 4)]
    judge(store, sidecar)
