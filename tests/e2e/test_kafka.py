"""The Kafka sink on a real broker: a reader of committed messages finds each window whole and once, whatever breaks meanwhile.

The long form: `TIDELOG_KILLS=100 deploy/test.sh e2e test_kafka.py`. A run prints its seed; `TIDELOG_SEED=n` draws the same moments.
"""

import hashlib
import json
import os
import pathlib
import random
import shutil
import time

import pytest
from kafka import WINDOWS, check_order, check_windows, manifests
from kafka_proxy import KafkaProxy
from sidecar import ROOT, run_cli
from waiting import eventually
from writers import Writers

KILLS = int(os.environ.get("TIDELOG_KILLS", 10))
SEED = int(os.environ.get("TIDELOG_SEED", random.SystemRandom().randrange(1 << 30)))
QUICK = "[windows]\nsettle_ms = 50\nidle_ms = 200\nmax_age_ms = 500\n"


def config(kafka, windows: str = QUICK, name: str = "events", **options) -> str:
    """A configuration with a Kafka sink beside the folder."""
    told = ", ".join(f'"{key}" = "{value}"' for key, value in options.items())
    return f'{windows}\n[sinks.{name}]\ntype = "kafka"\nbrokers = "{kafka.address}"\noptions = {{ {told} }}\n'


def lag(sidecar, sink: str = "events") -> float:
    return sidecar.metrics()[f'tidelog_export_lag_records{{sink="{sink}"}}']


def row(sidecar, sink: str) -> dict:
    """What the sidecar tells of a sink."""
    status, text = sidecar.http("/v1/status")
    assert status == 200, text
    return next(s for s in json.loads(text)["export"]["sinks"] if s["name"] == sink)


def window_of(sidecar, sink: str) -> int:
    return row(sidecar, sink)["exported_window"]


def error_of(sidecar, sink: str = "events") -> str:
    return row(sidecar, sink)["error"]


def test_windows_as_transactions(lab, mode):
    """Records, keys, headers, topics and manifests are those of the folder, in order."""
    kafka = lab.kafka()
    sidecar = lab.sidecar(lab.store(mode), config=config(kafka, partitions=2))
    with sidecar.client() as client:
        for part in range(3):
            client["shop"]["orders"].insert_many([{"_id": f"{part}-{n}", "n": n} for n in range(50)])
            client["shop"]["orders"].update_many({"n": {"$lt": 25}}, {"$inc": {"n": 100}})
            client["shop"]["odd näme"].insert_one({"_id": part})
            sidecar.cut(f"part {part}")
        client["shop"]["orders"].drop()
        client["gone"]["c"].insert_one({"_id": 1})
        client.drop_database("gone")
        sidecar.cut("empty")
        sidecar.cut("empty too")
    messages = kafka.read()
    assert check_windows(messages, sidecar.export) == len(list(sidecar.export.glob("window-*")))
    assert [json.loads(m.value)["label"] for m in manifests(messages)][-1] == "empty too"
    topics = kafka.topics()
    assert {"tidelog.shop.orders", "tidelog.gone.c", WINDOWS} < set(topics) and len(topics) == 4, topics
    (odd,) = (topic for topic in topics if topic.startswith("tidelog.shop.odd_n_me-"))
    for message in messages:
        if message.kind != "manifest":
            line = json.loads(message.value)
            ns = line.get("ns") or line.get("from") or ""
            assert message.topic == {"shop.odd näme": odd}.get(ns, f"tidelog.{ns}" if ns else WINDOWS)
    assert len({m.partition for m in messages if m.topic == "tidelog.shop.orders" and m.kind == "change"}) == 2


def test_two_sinks_share_the_windows_topic(lab):
    """Each with its own records and manifests; one of them gets some namespaces only, on one topic."""
    kafka = lab.kafka()
    more = 'topic = "orders"\nnamespaces = ["shop.*"]\n'
    sidecar = lab.sidecar(lab.store(), config=config(kafka) + config(kafka, windows="", name="orders") + more)
    with sidecar.client() as client:
        for part in range(3):
            client["shop"]["orders"].insert_many([{"_id": f"{part}-{n}"} for n in range(20)])
            client["other"]["c"].insert_many([{"_id": f"{part}-{n}"} for n in range(20)])
            client["shop"]["more"].insert_one({"_id": part})
            sidecar.cut()
    messages = kafka.read()
    check_windows([m for m in messages if m.headers["sink"] == "events"], sidecar.export)
    mine = [m for m in messages if m.headers["sink"] == "orders"]
    check_order(mine)
    changes = [json.loads(m.value)["ns"] for m in mine if m.kind == "change"]
    assert sorted(set(changes)) == ["shop.more", "shop.orders"] and len(changes) == 63
    assert {m.topic for m in mine if m.kind == "change"} == {"orders"}
    for manifest in manifests(mine):
        told = json.loads(manifest.value)
        records = sorted((m for m in mine if m.kind != "manifest" and m.window == manifest.window), key=lambda m: m.lsn)
        lines = b"".join(m.value + b"\n" for m in records)
        assert told["records"] == len({m.lsn for m in records}) == len(records)
        assert told["files"][0]["sha256"] == hashlib.sha256(lines).hexdigest()


def write(sidecar, **options) -> Writers:
    """A load of changes in two namespaces."""
    with sidecar.client() as client:
        for name in ("a", "b"):
            client["load"][name].insert_many([{"_id": n, "n": 0, "fill": "x" * 500} for n in range(100)])
    return Writers(f"mongodb://{sidecar.listen}/", ["load.a", "load.b"], range(100), SEED, **options)


def settle(sidecar, kafka, writers=None) -> None:
    """Ends the load and delivers everything; then both sinks must have the same, whole."""
    if writers:
        writers.stop()
        assert not writers.broken, writers.broken[:3]
    sidecar.await_ready()
    sidecar.cut("the end")
    eventually(lambda: lag(sidecar) == 0, 60, "the Kafka sink has everything")
    assert check_windows(kafka.read(), sidecar.export) == len(list(sidecar.export.glob("window-*")))


@pytest.mark.timeout(600 + KILLS * 30)
def test_kills(lab):
    """kill -9 of the sidecar at random moments under load: each record once, windows whole."""
    print(f"replay with TIDELOG_SEED={SEED} TIDELOG_KILLS={KILLS}")
    moments = random.Random(SEED)
    kafka = lab.kafka()
    sidecar = lab.sidecar(lab.store(), config=config(kafka, "[windows]\nsettle_ms = 50\nmax_records = 150\nidle_ms = 100\n"))
    writers = write(sidecar)
    for number in range(KILLS):
        at = window_of(sidecar, "events")
        eventually(lambda: window_of(sidecar, "events") > at, 60, "a window more is in Kafka")
        time.sleep(moments.random() * moments.choice([0.02, 0.1, 0.4]))
        sidecar.kill()
        if number % 5 == 4:
            check_windows(kafka.read(), sidecar.export)
        sidecar.start()
    settle(sidecar, kafka, writers)
    everything = kafka.read(isolation="read_uncommitted")
    aborted = len(everything) - len(kafka.read())
    print(f"{KILLS} kills, {len(everything)} messages, {aborted} of them in transactions that were aborted")


def test_documents_of_16_megabytes(lab):
    """A broker that does not take them: the record waits among the dead letters, the transaction is not left open; once it does, a
    retry brings it, and later ones pass."""
    kafka = lab.kafka()
    sidecar = lab.sidecar(lab.store(), config=config(kafka, partitions=1))

    def letters() -> list[dict]:
        return json.loads(run_cli("dlq", "list", "--admin", sidecar.admin, "--json").stdout)

    with sidecar.client() as client:
        client["big"]["c"].insert_one({"_id": "small"})
        sidecar.cut("small")
        client["big"]["c"].insert_one({"_id": "big", "fill": "x" * (16_000_000)})
        (letter,) = eventually(letters, 60, "the record is told")
        lsn = letter["lsn"]
        assert next(json.loads(line)["lsn"] for line in sidecar.log_records() if '"id":"big"' in line) == lsn
        assert "max.message.bytes" in letter["reason"] and (letter["sink"], letter["state"]) == ("events", "waiting")
        eventually(lambda: lag(sidecar) == 0, 60, "the rest of its window goes on")
        assert [m.lsn for m in kafka.read("tidelog.big.c") if m.lsn == lsn] == []
        committed, end = kafka.ends("tidelog.big.c")
        assert committed == end > 1, "the transaction was left open"
        kafka.alter("tidelog.big.c", "max.message.bytes", 100_000_000)
        run_cli("dlq", "retry", "--admin", sidecar.admin)
        eventually(lambda: letters()[0]["state"] == "delivered", 120, "it comes in an amendment")
        client["big"]["c"].update_one({"_id": "big"}, {"$set": {"n": 1}})
    sidecar.cut("the end")
    eventually(lambda: lag(sidecar) == 0, 120, "the Kafka sink has everything")
    messages = kafka.read()
    found = sorted(m.lsn for m in messages if m.lsn is not None)
    assert found == list(range(1, len(found) + 1)) and lsn in found
    assert max(len(m.value) for m in messages if m.topic == "tidelog.big.c") > 32_000_000


def test_batches_that_are_too_large_blame_no_record(lab):
    """A topic that takes less than a batch: no record is blamed that would pass alone; the remedy that is told works."""
    kafka = lab.kafka()
    kafka.create("tidelog.small.c", max_message_bytes=20_000)
    sidecar = lab.sidecar(lab.store(), config=config(kafka, **{"linger.ms": 200}))
    with sidecar.client() as client:
        client["small"]["c"].insert_many([{"n": n, "fill": "x" * 1000} for n in range(200)])
        eventually(lambda: error_of(sidecar), 60, "it is told")
    assert "batch.size" in error_of(sidecar) and "is refused" not in error_of(sidecar)
    sidecar.stop()
    sidecar.config = config(kafka, **{"linger.ms": 200, "batch.size": 20_000})
    sidecar.start()
    settle(sidecar, kafka)


def test_zombie(lab):
    """A sidecar on a copy of DATA takes over while the first is frozen: the first cannot add anything when it wakes up."""
    kafka, store = lab.kafka(), lab.store()
    first = lab.sidecar(store, config=config(kafka, "[windows]\nsettle_ms = 50\nmax_records = 200\nidle_ms = 5000\n"))
    writers = write(first)
    eventually(lambda: window_of(first, "events") > 0, 60, "a window is in Kafka")
    writers.stop()
    with first.client() as client:
        client["load"]["a"].insert_one({"_id": "in the window under way"})
        first.process.signal(19)
    (lab.folder / "second").mkdir()
    shutil.copytree(first.data, lab.folder / "second" / "data")
    shutil.copytree(first.export, lab.folder / "second" / "export")
    second = lab.sidecar(store, name="second", config=first.config)
    with second.client() as client:
        client["load"]["a"].insert_one({"_id": "of the second"})
    second.cut("second")
    places = sorted((m.topic, m.partition, m.offset) for m in kafka.read())
    first.process.signal(18)
    stopped = ("with another manifest", "but this log has closed only")
    eventually(lambda: any(words in error_of(first) for words in stopped), 90, "the first stops")
    assert sorted((m.topic, m.partition, m.offset) for m in kafka.read()) == places
    settle(second, kafka)
    told = [line for line in first.process.output().splitlines() if "was not delivered" in line]
    # Frozen for longer than a message may take, it gives its own messages up before the broker can say no.
    assert "fenced" in told[0].lower() or "MessageTimedOut" in told[0], f"the broker let the first in: {told}"


def test_transaction_of_somebody_else(lab):
    """An open transaction of another producer on the windows topic hides what was committed behind it: nothing is sent twice."""
    from confluent_kafka import Producer

    kafka = lab.kafka(proxy=KafkaProxy)
    sidecar = lab.sidecar(lab.store(), config=config(kafka))
    with sidecar.client() as client:
        client["o"]["c"].insert_one({"_id": 1})
        sidecar.cut()
        other = Producer({"bootstrap.servers": kafka.direct, "transactional.id": "other", "transaction.timeout.ms": 600_000})
        other.init_transactions(30)
        other.begin_transaction()
        other.produce(WINDOWS, partition=0, key="other", value="x", headers={"kind": "manifest", "window": "1"})
        other.flush(30)
        kafka.proxy.lose(1, sidecar.process.kill)
        client["o"]["c"].insert_one({"_id": 2})
        eventually(lambda: not sidecar.process.alive(), 60, "killed between commit and checkpoint")
    sidecar.start(ready=False)
    eventually(lambda: "of somebody else" in error_of(sidecar), 60, "it waits and says so")
    other.abort_transaction(30)
    eventually(lambda: not error_of(sidecar), 60, "it goes on")
    settle(sidecar, kafka)
    kafka.proxy.close()


def test_what_kafka_has_and_the_checkpoint_says(lab):
    """A lost checkpoint sends nothing twice; a lost topic stops the sink, and so does DATA from an older copy."""
    kafka, store = lab.kafka(), lab.store()
    sidecar = lab.sidecar(store, config=config(kafka))
    with sidecar.client() as client:
        for number in range(5):
            client["c"]["c"].insert_one({"_id": number})
            sidecar.cut(str(number))
    sidecar.stop()
    older = lab.folder / "older"
    shutil.copytree(sidecar.data, older)
    (checkpoint,) = (sidecar.data / "checkpoints").glob("events*")
    checkpoint.unlink()
    sidecar.start()
    settle(sidecar, kafka)
    with sidecar.client() as client:
        client["c"]["c"].insert_one({"_id": "newer"})
        sidecar.cut("newer")
    sidecar.stop()
    newer = lab.folder / "newer"
    shutil.move(sidecar.data, newer)
    shutil.move(older, sidecar.data)
    sidecar.start(ready=False)
    eventually(lambda: "this log has closed only" in error_of(sidecar) or "another manifest" in error_of(sidecar), 60, "it is told")
    sidecar.stop()
    shutil.rmtree(sidecar.data)
    shutil.move(newer, sidecar.data)
    kafka.delete(WINDOWS)
    sidecar.start(ready=False)
    eventually(lambda: "was the topic deleted" in error_of(sidecar), 60, "it is told")


MISTAKES = {
    "replication": ({"replication.factor": "3"}, "replication.factor"),
    "unknown": ({"linger.seconds": "1"}, "linger.seconds"),
    "ours": ({"acks": "1"}, "itself"),
    "secret": ({"sasl.password": "hunter2"}, "options_file"),
    "timeout": ({"transaction.timeout.ms": "3600000"}, "transaction.max.timeout.ms"),
}


def test_mistakes_are_told(lab):
    """What a person has to change is told by name, a secret never; the folder goes on."""
    kafka, store = lab.kafka(), lab.store()
    for name, (options, words) in MISTAKES.items():
        sidecar = lab.sidecar(store, name=name, config=config(kafka, **options), ready=False)
        eventually(lambda: error_of(sidecar), 60, "it is told")
        assert words in error_of(sidecar), f"{name}: {error_of(sidecar)}"
        assert "hunter2" not in sidecar.process.output()
        eventually(lambda: list(sidecar.export.glob("window-*")), 30, "the folder goes on")
        sidecar.stop()


SASL = {
    "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.client.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'user_tidelog="correct-horse";',
}


def test_password(lab):
    """A wrong password is told without it; the right one in `options_file`, or in the environment, is taken."""
    kafka = lab.kafka(**SASL)
    file = lab.folder / "options"
    told = config(kafka, **{"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "PLAIN"})
    sidecar = lab.sidecar(lab.store(), config=f'{told}options_file = "{file}"\n', ready=False)
    eventually(lambda: "options_file" in error_of(sidecar), 60, "the missing file is told")
    sidecar.stop()
    file.write_text("# not here\nsasl.username = tidelog\nsasl.password = wrong-horse\n")
    sidecar.start(ready=False)
    eventually(lambda: "Check user and password" in error_of(sidecar), 60, "the wrong password is told")
    sidecar.stop()
    file.write_text("sasl.username = tidelog\nsasl.password = correct-horse\n")
    sidecar.start()
    settle(sidecar, kafka)
    sidecar.stop()
    sidecar.config, sidecar.env = told, {"KAFKA_SASL_USERNAME": "tidelog", "KAFKA_SASL_PASSWORD": "correct-horse"}
    sidecar.start()
    settle(sidecar, kafka)
    assert "horse" not in (sidecar.folder / "sidecar.log").read_text() + sidecar.http("/v1/status")[1]


def test_the_page(lab):
    """The first configuration on the page runs as it stands, but for the address. Those with TLS: test_kafka_tls.py."""
    kafka = lab.kafka()
    page = (pathlib.Path(ROOT) / "deploy/docs/sinks-kafka.md").read_text()
    block = page.split("```toml\n")[1].split("```")[0]
    assert block.count("127.0.0.1:9092") == 1
    sidecar = lab.sidecar(lab.store(), config=QUICK + block.replace("127.0.0.1:9092", kafka.address))
    with sidecar.client() as client:
        client["page"]["c"].insert_many([{"_id": n} for n in range(100)])
    settle(sidecar, kafka)
    assert len({m.partition for m in kafka.read("tidelog.page.c")}) == 6
