"""Drivers with default options through the sidecar: default connection string, `replicaSet=`, `directConnection`.

PyMongo is exercised here; Node.js and Go by the programs under tests/drivers/, whose lines are read. Each check also looks
from outside (/proc) whether any connection of the store belongs to somebody else than the sidecar.
"""

import json
import os
import pathlib
import shutil
import subprocess
import threading

import gridfs
import pytest
from dump import difference, dump
from peers import strangers
from pymongo import DeleteOne, InsertOne, MongoClient, ReplaceOne, UpdateOne, monitoring
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure
from validator import fold_lines
from waiting import eventually

DRIVERS = pathlib.Path(__file__).resolve().parents[1] / "drivers"


class Rig:
    """A store and a sidecar of one mode."""

    def __init__(self, lab, mode: str):
        self.mode = mode
        self.store = lab.store(mode)
        self.sidecar = lab.sidecar(self.store)

    def uris(self) -> dict[str, str]:
        with self.store.client() as client:
            name = client.admin.command("hello").get("setName")
        base = f"mongodb://{self.sidecar.listen}/"
        uris = {"default": base, "directConnection": f"{base}?directConnection=true"}
        return uris | ({"replicaSet": f"{base}?replicaSet={name}"} if name else {})


@pytest.fixture(scope="module", params=["replica", "standalone"])
def rig(request, tmp_path_factory):
    from conftest import Lab

    lab = Lab(tmp_path_factory.mktemp(f"drivers-{request.param}"))
    yield Rig(lab, request.param)
    lab.end()


@pytest.fixture(params=["default", "replicaSet", "directConnection"])
def uri(rig, request):
    uris = rig.uris()
    if request.param not in uris:
        # A standalone has no set to name: then the default string is used once more.
        return uris["default"]
    return uris[request.param]


class Watch(monitoring.CommandListener, monitoring.ServerListener, monitoring.TopologyListener, monitoring.ConnectionPoolListener):
    """Every address that the driver ever mentions, how many commands it sent, and how many with a retryable number."""

    def __init__(self):
        self.addresses, self.begun, self.ended, self.numbers = set(), 0, 0, 0

    def note(self, event):
        for field in ("connection_id", "server_address", "address"):
            address = getattr(event, field, None)
            if isinstance(address, tuple):
                self.addresses.add(f"{address[0]}:{address[1]}")

    def started(self, event):
        self.note(event)
        self.begun += 1
        self.numbers += "txnNumber" in event.command

    def succeeded(self, event):
        self.note(event)
        self.ended += 1

    def failed(self, event):
        self.succeeded(event)

    def description_changed(self, event):
        self.note(event)
        if hasattr(event.new_description, "server_descriptions"):
            self.addresses |= {f"{host}:{port}" for host, port in event.new_description.server_descriptions()}


POOL = "created ready cleared closed".split()
CONNECTION = "created ready closed check_out_started check_out_failed checked_out checked_in".split()
for hook in ["opened", "closed", *(f"pool_{p}" for p in POOL), *(f"connection_{c}" for c in CONNECTION)]:
    setattr(Watch, hook, Watch.note)
Watch.__abstractmethods__ = frozenset()


def test_pymongo(rig, uri):
    """CRUD with retryable writes, sessions, bulk of both levels, GridFS, change streams, monitoring; no way around."""
    watch = Watch()
    with MongoClient(uri, event_listeners=[watch], appname="python-check") as client:
        client.drop_database("py")
        crud(client)
        sessions(client)
        bulks(client)
        files(client)
        if rig.mode == "replica":
            change_stream(client)
            transactions(client)
            assert watch.numbers > 10, "no retryable write was sent"
        assert {f"{h}:{p}" for h, p in client.nodes} == {rig.sidecar.listen}
        assert watch.begun == watch.ended > 30
        eventually(lambda: not strangers(rig.store, rig.sidecar), 5, "only the sidecar is connected to the store")
    assert watch.addresses == {rig.sidecar.listen}


def crud(client) -> None:
    docs = client["py"]["docs"]
    docs.insert_one({"_id": 1, "n": 1})
    docs.insert_many([{"_id": 2, "n": 2}, {"n": 3}])
    assert docs.update_one({"_id": 1}, {"$inc": {"n": 9}}).modified_count == 1
    assert docs.update_many({}, [{"$set": {"twice": {"$multiply": ["$n", 2]}}}]).modified_count == 3
    assert docs.replace_one({"_id": 2}, {"r": True}).modified_count == 1
    assert docs.update_one({"name": "new"}, {"$set": {"x": 1}}, upsert=True).upserted_id
    assert docs.find_one_and_update({"_id": 1}, {"$inc": {"n": 1}})["n"] == 10
    assert docs.find_one_and_replace({"_id": 1}, {"n": 5})["n"] == 11
    assert docs.find_one_and_delete({"_id": 1}) == {"_id": 1, "n": 5}
    assert docs.delete_one({"_id": 2}).deleted_count == 1
    assert docs.count_documents({}) == 2
    docs.insert_one({"_id": "dup"})
    with pytest.raises(DuplicateKeyError):
        docs.insert_one({"_id": "dup"})


def sessions(client) -> None:
    docs = client["py"]["docs"]
    with client.start_session(causal_consistency=True) as session:
        docs.insert_one({"_id": "s"}, session=session)
        docs.update_one({"_id": "s"}, {"$set": {"a": 1}}, session=session)
        assert docs.find_one({"_id": "s"}, session=session) == {"_id": "s", "a": 1}


def bulks(client) -> None:
    docs = client["py"]["docs"]
    work = [InsertOne({"_id": "b"}), UpdateOne({"_id": "b"}, {"$set": {"x": 1}}), ReplaceOne({"_id": "c"}, {"y": 1}, upsert=True), DeleteOne({"_id": "b"})]
    done = docs.bulk_write(work)
    assert (done.inserted_count, done.modified_count, done.upserted_count, done.deleted_count) == (1, 1, 1, 1)
    with pytest.raises(BulkWriteError) as error:
        docs.bulk_write([InsertOne({"_id": "c"}), InsertOne({"_id": "d"})], ordered=False)
    assert error.value.details["nInserted"] == 1
    spread = [InsertOne({"_id": 1}, namespace="py.one"), InsertOne({"_id": 1}, namespace="py.two"), UpdateOne({"_id": 1}, {"$set": {"x": 1}}, namespace="py.one")]
    done = client.bulk_write(spread, verbose_results=True)
    assert done.inserted_count == 2 and done.update_results[2].modified_count == 1


def files(client) -> None:
    bucket = gridfs.GridFSBucket(client["py"])
    content = os.urandom(1_500_000)
    _id = bucket.upload_from_stream("a file", content)
    assert bucket.open_download_stream(_id).read() == content
    bucket.rename(_id, "another name")
    bucket.delete(_id)
    assert client["py"]["fs.chunks"].count_documents({}) == 0


def change_stream(client) -> None:
    watched = client["py"]["watched"]
    with watched.watch(full_document="updateLookup") as stream:
        writer = threading.Timer(0.2, lambda: watched.insert_one({"_id": 1}))
        writer.start()
        event = stream.next()
        writer.join()
    assert (event["operationType"], event["fullDocument"]) == ("insert", {"_id": 1})


def transactions(client) -> None:
    """The driver's own retry of a whole transaction, and one that is aborted."""
    docs = client["py"]["docs"]
    with client.start_session() as session:
        session.with_transaction(lambda s: docs.insert_one({"_id": "t"}, session=s))
        session.start_transaction()
        docs.delete_one({"_id": "t"}, session=session)
        assert docs.find_one({"_id": "t"}, session=session) is None
        session.abort_transaction()
    assert docs.find_one({"_id": "t"}) == {"_id": "t"}


def run_program(argv: list[str], folder: pathlib.Path, env: dict | None = None) -> None:
    """Runs a driver program; each of its checks must hold."""
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=300, env=env)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines and "done" in lines[-1], f"{argv} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    bad = [line for line in lines[:-1] if not line["ok"]]
    assert not bad, bad
    assert lines[-1]["done"] == len(lines) - 1 >= 9


def test_node(rig, uri):
    program = pathlib.Path(os.environ.get("TIDELOG_NODE_CHECK", DRIVERS / "node"))
    assert (program / "node_modules").is_dir(), "the Node.js driver is not installed: run deploy/test.sh, or `npm ci` there"
    with rig.sidecar.client() as client:
        client.drop_database(f"node_{rig.mode}")
    run_program([shutil.which("node"), "check.js", uri, rig.sidecar.listen, rig.mode], program)


def test_go(rig, uri):
    program = os.environ.get("TIDELOG_GO_CHECK")
    argv = [program] if program else [shutil.which("go"), "run", "."]
    with rig.sidecar.client() as client:
        client.drop_database(f"go_{rig.mode}")
    run_program([*argv, uri, rig.sidecar.listen, rig.mode], DRIVERS / "go")


def test_what_drivers_did_is_logged(rig):
    """Runs after the drivers: the log folds to what they left in the store."""
    fold = fold_lines(rig.sidecar.log_records())
    with rig.store.client() as client:
        told = difference(fold.documents(), dump(client))
    assert not told, told
    assert {"python-check", "node-check", "go-check"} <= apps(rig), "the log does not name the applications"


def apps(rig) -> set:
    return {json.loads(line).get("origin", {}).get("app") for line in rig.sidecar.log_records() if '"origin"' in line}
