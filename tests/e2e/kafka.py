"""A real Apache Kafka broker for one test, and what a reader of committed messages finds in it.

One node that is broker and controller (KRaft), in a temporary folder, on loopback ports that the system chose. Three listeners: CLIENT
is what the sidecar uses (its advertised address may be a proxy's), DIRECT what tests use, CONTROLLER the broker's own; a test may ask for more.
The jars are in $TIDELOG_KAFKA (deploy/lib.sh: ensure_kafka). Nothing here falls back to a fake: without a broker the suite fails.
"""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import time
import uuid

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from process import Process
from store import free_port
from waiting import eventually

JAVA = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
WINDOWS = "tidelog.windows"


def kafka_jars() -> str:
    """The class path of the broker, or a loud error that says how to get one."""
    tools = pathlib.Path(os.environ.get("TIDELOG_TOOLS", "~/.cache/tidelog")).expanduser()
    named = os.environ.get("TIDELOG_KAFKA")
    for folder in [pathlib.Path(named)] if named else sorted(tools.glob("kafka-*")):
        if (folder / "complete").exists():
            return f"{folder}/jars/*"
    raise RuntimeError("no Kafka: run deploy/test.sh, which installs one, or name its folder with TIDELOG_KAFKA")


class Kafka:
    """One broker. `proxy`: called with the broker's CLIENT address, gives the one to advertise instead. `env`: its environment.
    `listeners`: their security protocols, by name. `users`: with their passwords, for SCRAM."""

    def __init__(self, folder: pathlib.Path, proxy=None, env: dict | None = None, listeners=(), users=(), **properties):
        self.folder, self.properties, self.env, self.users = folder, properties, env, dict(users)
        self.protocols = dict.fromkeys(("CLIENT", "DIRECT", "CONTROLLER"), "PLAINTEXT") | dict(listeners)
        self.ports = {name: free_port() for name in self.protocols}
        self.proxy = proxy(f"127.0.0.1:{self.ports['CLIENT']}") if proxy else None
        self.address = self.proxy.address if self.proxy else f"127.0.0.1:{self.ports['CLIENT']}"
        self.direct = f"127.0.0.1:{self.ports['DIRECT']}"
        self.process: Process | None = None

    def at(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def start(self) -> "Kafka":
        """Starts it (again on the same ports and folder after the first time) and waits until it answers."""
        self.spawn()
        return self.await_answer()

    def spawn(self) -> None:
        config = self.folder / "server.properties"
        if not config.exists():
            self.folder.mkdir(parents=True)
            config.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
            identity = uuid.uuid4().hex[:22]
            argv = [*JAVA, "-cp", kafka_jars(), "kafka.tools.StorageTool", "format", "-t", identity, "-c", str(config)]
            for name, password in self.users.items():
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                    argv += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"the broker's folder could not be formatted:\n{done.stdout}\n{done.stderr}"
        argv = [*JAVA, "-cp", kafka_jars(), "kafka.Kafka", str(config)]
        self.process = Process(argv, self.folder.parent / f"{self.folder.name}.log", self.env and dict(os.environ, **self.env))

    def _properties(self) -> dict[str, str]:
        listeners = ",".join(f"{name}://{self.at(name)}" for name in self.ports)
        advertised = {name: self.at(name) for name in self.ports if name != "CONTROLLER"} | {"CLIENT": self.address}
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.ports['CONTROLLER']}",
            "listeners": listeners,
            "advertised.listeners": ",".join(f"{name}://{address}" for name, address in advertised.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in self.protocols.items()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "DIRECT",
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            "num.partitions": "3",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        } | {name if "." in name else name.replace("_", "."): str(value) for name, value in self.properties.items()}

    def await_answer(self, seconds: float = 90) -> "Kafka":
        def answers() -> bool:
            self.process.must_live()
            try:
                return bool(self.admin().list_topics(timeout=2).brokers)
            except Exception:
                return False

        eventually(answers, seconds, "the broker answers", every=0.2)
        return self

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.direct, "log_level": 0})

    def create(self, topic: str, partitions: int = 1, **config) -> None:
        settings = {name.replace("_", "."): str(value) for name, value in config.items()}
        admin = self.admin()
        for future in admin.create_topics([NewTopic(topic, partitions, 1, config=settings)]).values():
            future.result(30)

    def delete(self, topic: str) -> None:
        admin = self.admin()
        for future in admin.delete_topics([topic]).values():
            future.result(30)

    def alter(self, topic: str, name: str, value) -> None:
        """Sets a property of a topic."""
        self._alter(ResourceType.TOPIC, topic, name, value)

    def alter_broker(self, name: str, value) -> None:
        """Sets a property of the running broker."""
        self._alter(ResourceType.BROKER, "1", name, value)

    def _alter(self, kind: ResourceType, of: str, name: str, value) -> None:
        entry = ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
        admin, change = self.admin(), ConfigResource(kind, of, incremental_configs=[entry])
        for future in admin.incremental_alter_configs([change]).values():
            future.result(30)

    def ends(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """The end of a partition for readers of committed messages, and the real one."""
        ends = []
        for isolation in ("read_committed", "read_uncommitted"):
            consumer = Consumer({"bootstrap.servers": self.direct, "group.id": "ends", "isolation.level": isolation, "log_level": 0})
            ends.append(consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1])
            consumer.close()
        return ends[0], ends[1]

    def topics(self) -> list[str]:
        return sorted(name for name in self.admin().list_topics(timeout=10).topics if not name.startswith("__"))

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def stop(self) -> None:
        self.process.terminate(60)

    def hang(self) -> None:
        """It keeps its connections and answers nothing."""
        self.process.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.signal(signal.SIGCONT)

    def read(self, *topics: str, isolation: str = "read_committed", seconds: float = 60, through=()) -> list["Message"]:
        """All messages of the topics (default: all topics), each partition in its order. `through`: settings for another listener."""
        consumer = Consumer({
            "bootstrap.servers": self.direct, "group.id": f"reader-{uuid.uuid4()}", "isolation.level": isolation,
            "enable.auto.commit": False, "enable.partition.eof": True, "auto.offset.reset": "earliest", "log_level": 0,
            "receive.message.max.bytes": 512 << 20, "fetch.max.bytes": 256 << 20,
        } | dict(through))  # fmt: skip
        found, known = [], consumer.list_topics(timeout=10).topics
        ends = {(t, p) for t in topics or self.topics() for p in known[t].partitions}
        consumer.assign([TopicPartition(t, p, OFFSET_BEGINNING) for t, p in ends])
        deadline = time.monotonic() + seconds
        while ends:
            message = consumer.poll(0.5)
            assert time.monotonic() < deadline, f"not read to the end within {seconds} s: {ends}"
            if message is None:
                continue
            if message.error():
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                ends.discard((message.topic(), message.partition()))
                continue
            found.append(Message(message))
        consumer.close()
        return found


class Message:
    """A message as a reader gets it."""

    def __init__(self, message):
        self.topic, self.partition, self.offset = message.topic(), message.partition(), message.offset()
        self.key, self.value = message.key().decode(), message.value()
        self.headers = {name: value.decode() for name, value in message.headers()}
        self.wall_ms = message.timestamp()[1]
        self.kind, self.window = self.headers["kind"], int(self.headers["window"])
        self.lsn = int(self.headers["lsn"]) if "lsn" in self.headers else None

    def __repr__(self):
        return f"{self.topic}/{self.partition}@{self.offset} {self.headers}"


def manifests(messages: list[Message]) -> list[Message]:
    return [m for m in messages if m.kind == "manifest"]


def check_windows(messages: list[Message], export: pathlib.Path) -> int:
    """What a reader of committed messages found is what the folder has, byte by byte: windows whole, records once, in order. Returns how
    many windows there are. Windows that only one of the two has yet are left out at the end, never in between."""
    by_window: dict[int, dict[int, Message]] = {}
    for message in messages:
        if message.kind != "manifest":
            records = by_window.setdefault(message.window, {})
            assert message.lsn not in records, f"twice: {records[message.lsn]} and {message}"
            records[message.lsn] = message
    told = manifests(messages)
    assert [m.window for m in told] == list(range(1, len(told) + 1)), "windows are missing, twice or out of order"
    assert set(by_window) <= {m.window for m in told}, "records without a manifest"
    for manifest in told:
        assert manifest.topic == WINDOWS and manifest.partition == 0
        check_window(json.loads(manifest.value), by_window.get(manifest.window, {}))
        folder = export / f"window-{manifest.window:010}"
        if (folder / "manifest.json").exists():
            assert manifest.value == (folder / "manifest.json").read_bytes()
    check_order(messages)
    return len(told)


def check_window(manifest: dict, records: dict[int, Message]) -> None:
    """The window is whole: the lines are those that its manifest vouches for."""
    assert sorted(records) == list(range(manifest["first_lsn"], manifest["last_lsn"] + 1))
    lines = b"".join(records[lsn].value + b"\n" for lsn in sorted(records))
    (file,) = manifest["files"]
    assert (hashlib.sha256(lines).hexdigest(), len(lines)) == (file["sha256"], file["bytes"])
    for lsn, message in records.items():
        line = json.loads(message.value)
        assert line["lsn"] == lsn and line["log"] == message.headers["log"] == manifest["log"]
        if message.kind == "change":
            assert message.key == line["key"]
        else:
            assert message.key == "control" and "control" in line


def check_order(messages: list[Message]) -> None:
    """In each partition numbers go up, and all records of an entity are in one partition."""
    last, places = {}, {}
    for message in messages:
        if message.lsn is not None:
            place = (message.topic, message.partition)
            assert message.lsn > last.get(place, 0), f"out of order: {message}"
            last[place] = message.lsn
            if message.kind == "change":
                assert places.setdefault((message.topic, message.key), message.partition) == message.partition
