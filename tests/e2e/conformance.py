"""The sinks as the conformance suite (test_conformance.py) sees them: one adapter for each type.

A `Place` is somewhere that one sink delivers to, on a real server, with something in between that can make it fail. It tells what a
reader of that system sees, and does to it what is asked for. What the author of a new sink adds: a class here, its line in `SINKS`.
"""

import hashlib
import json
import pathlib
import re
import signal
import typing

from bad_folder import FAILS, FULL, HANGS, KILLS, LOSES, READ_ONLY, SLOW, STEPS, WELL, WRONG, BadFolder
from bad_folder import AT, HOW
from bad_world import DATA, BadWorld
from bad_world import FULL as DISK_FULL
from confluent_kafka.admin import AclBinding, AclBindingFilter, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from delta import Table, windows_told
from fault_proxy import FaultProxy
from kafka import Kafka as Broker
from kafka import check_order
from kafka_proxy import KafkaProxy
from receiver import TOKEN, Receiver
from s3 import KEYS, S3, folder_bytes

# The name of the sink that is tested.
NAME = "tested"
# What can be wrong with a whole place until it heals. `fails`: each change is answered with an error. `hangs`: nothing is answered.
# `loses answers`: what is asked for is done, the answer never comes. `gone`: there is nothing; what was delivered outlives it.
FAULTS = ["fails", "hangs", "slow", "loses answers", "read only", "full", "gone"]
FOLDER = re.compile(r"window-(\d{10})(?:\.amendment-(\d{4}))?")


class Window(typing.NamedTuple):
    """A window, or an amendment of one (0: itself), as a reader finds it."""

    number: int
    amendment: int
    manifest: bytes
    files: dict[str, bytes]


def windows_of(files: dict[str, bytes]) -> list[Window]:
    """The windows of a place that has folders: what has no manifest does not exist. Amendments stand at the end."""
    found: dict[tuple[int, int], dict[str, bytes]] = {}
    for path, content in files.items():
        folder, _, name = path.partition("/")
        if named := FOLDER.fullmatch(folder):
            found.setdefault((int(named[2] or 0), int(named[1])), {})[name] = content
    return [Window(at[1], at[0], of.pop("manifest.json"), of) for at, of in sorted(found.items()) if "manifest.json" in of]


def block(name: str, **settings) -> str:
    """A sink in the settings file."""
    return f"[sinks.{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in settings.items())


def toml(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {toml(inner)}' for key, inner in value.items()) + " }"
    return json.dumps(value)


class Place:
    """What every adapter has. `server`: what `serve` gave, one for all places of the type; `folder`: its own; `name`: free there."""

    # What one step of a delivery can suffer, beside `kill`: the step took effect and the sidecar dies before it learns so.
    spoils: typing.ClassVar[list[str]] = []
    # Faults that no error tells of, only the lag.
    untold: typing.ClassVar[set[str]] = {"slow"}
    # What every form of this type says, the plain one too.
    plain: typing.ClassVar[dict] = {}
    # Forms that this type takes, beside the plain one.
    forms: typing.ClassVar[list[dict]] = [
        {"compression": "zstd", "parts": 3},
        {"format": "parquet", "parts": 2},
        {"envelope": "debezium"},
        {"namespaces": ["two.*"], "bson": True},
    ]

    def __init__(self, server, folder: pathlib.Path, name: str):
        self.server, self.folder, self.name = server, folder, name
        self.env: dict[str, str] = {}
        folder.mkdir(parents=True)

    @classmethod
    def serve(cls, folder: pathlib.Path):
        """Starts the server that all places of this type share, if there is one; it has `kill()`."""

    def block(self, name: str = NAME, **settings) -> str:
        """The sink in the settings file, with these settings of its form."""
        raise NotImplementedError

    def windows(self) -> list[Window]:
        """What a reader sees at this moment: windows in the order in which it sees them, then amendments."""
        raise NotImplementedError

    def expected(self, windows: list[Window]) -> list[Window]:
        """These windows of a folder of the same form, as a reader of this place would have to see them."""
        return windows

    def rest(self) -> dict[str, bytes] | None:
        """What else lies there; None: nothing that compares with a folder."""

    def tend(self) -> None:
        """What people do to such a place now and then, so that it stays quick."""

    def fault(self, what: str) -> None:
        """Makes it wrong, with one of FAULTS."""
        raise NotImplementedError

    def heal(self) -> None:
        """All is well again."""
        raise NotImplementedError

    def spoil(self, step: int, how: str, kill=None) -> None:
        """At the step so many from now (0: at none) something happens once: one of `spoils`, or `kill`."""
        raise NotImplementedError

    def steps(self) -> int:
        """Steps since `spoil`."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what this place alone has."""


class Folder(Place):
    """A folder, behind a library that stands between the sidecar and its disk."""

    modes: typing.ClassVar = {"fails": FAILS, "hangs": HANGS, "slow": SLOW, "loses answers": LOSES, "read only": READ_ONLY, "full": FULL, "kill": KILLS}
    spoils: typing.ClassVar = ["fails", "loses answers", "full"]
    # A call of the local file system that hangs cannot be given up.
    untold: typing.ClassVar = {"slow", "hangs"}

    def __init__(self, server, folder, name):
        super().__init__(server, folder, name)
        self.dir, self.away = folder.resolve() / "sunk", folder / "unmounted"
        self.bad = BadFolder(folder / "control", self.dir)
        self.env = self.bad.env()
        self.base = 0

    def block(self, name=NAME, **settings):
        return block(name, type="folder", dir=str(self.dir), **settings)

    def windows(self):
        return windows_of(folder_bytes(self.dir))

    def rest(self):
        return {name: content for name, content in folder_bytes(self.dir).items() if "/" not in name}

    def fault(self, what):
        if what == "gone":
            # A volume that is not mounted: its mount point is empty.
            self.dir.rename(self.away)
            self.dir.mkdir()
        else:
            self.bad.set(WRONG, self.modes[what])

    def heal(self):
        self.bad.set(WRONG, WELL)
        if self.away.exists():
            assert not list(self.dir.iterdir()), "something was written into the empty mount point"
            self.dir.rmdir()
            self.away.rename(self.dir)

    def spoil(self, step, how, kill=None):
        self.base = self.bad.get(STEPS)
        self.bad.set(HOW, self.modes[how])
        self.bad.set(AT, self.base + step if step else 0)

    def steps(self):
        return self.bad.get(STEPS) - self.base


class Http(Place):
    """A server of HTTP requests behind a proxy. `target` has `kill()` and `start()`, and what it took outlives it."""

    modes: typing.ClassVar = {"fails": "failed", "hangs": "hang", "slow": "slow", "loses answers": "lost", "read only": "denied", "full": "full"}
    spoils: typing.ClassVar = ["lost", "failed", "busy", "cut", "reset", "hang"]

    def behind(self, target, address: str) -> None:
        """Puts the proxy before it."""
        self.target, self.proxy = target, FaultProxy(address)
        self.wrong, self.at, self.how, self.count, self.down = "", 0, "", 0, False
        self.proxy.choose = self._choose

    def _choose(self, _number, method, _path):
        self.count += 1
        if self.count == self.at:
            return self.how
        looks = method in ("GET", "HEAD")
        return None if looks and self.wrong in ("denied", "full") else self.wrong

    def fault(self, what):
        if what == "gone":
            self.target.kill()
            self.wrong, self.down = "reset", True
        else:
            self.wrong = self.modes[what]

    def heal(self):
        self.wrong = ""
        if self.down:
            self.target.start()
            self.down = False

    def spoil(self, step, how, kill=None):
        with self.proxy.lock:
            self.count, self.at, self.how = 0, step, "killed" if how == "kill" else how
            self.proxy.kill = kill

    def steps(self):
        return self.count

    def close(self):
        self.heal()
        self.proxy.close()


class Object(Http):
    """A prefix of a bucket."""

    BUCKET = "conformance"

    def __init__(self, server, folder, name):
        super().__init__(server, folder, name)
        self.behind(server, server.endpoint)
        self.env = KEYS

    @classmethod
    def serve(cls, folder):
        server = S3(folder / "s3").start()
        server.make(cls.BUCKET)
        return server

    def block(self, name=NAME, **settings):
        options = {"aws_endpoint": self.proxy.endpoint, "aws_region": "us-east-1", "aws_allow_http": "true", "timeout": "1 seconds"}
        return block(name, **{"type": "object", "url": f"s3://{self.BUCKET}/{self.name}", "options": options} | settings)

    def windows(self):
        return windows_of(self.server.all(self.BUCKET, self.name))

    def rest(self):
        return {name: content for name, content in self.server.all(self.BUCKET, self.name).items() if "/" not in name}


class Delta(Object):
    """A Delta table in the bucket. Its windows are what the commits name; other objects are nothing to a reader."""

    plain: typing.ClassVar = {"format": "parquet"}
    forms: typing.ClassVar = [{"compression": "zstd"}, {"parts": 2}, {"namespaces": ["two.*"], "bson": True}]

    def __init__(self, server, folder, name):
        super().__init__(server, folder, name)
        self.table = Table(f"s3://{self.BUCKET}/{name}", server)

    def block(self, name=NAME, **settings):
        return super().block(name, type="delta", **settings)

    def windows(self):
        objects = self.server.all(self.BUCKET, self.name)
        commits = [objects[name].splitlines() for name in sorted(objects) if re.fullmatch(r"_delta_log/\d{20}\.json", name)]
        told = windows_told([[json.loads(line) for line in lines] for lines in commits])
        # What the `deltalake` package makes of the log: the same files, nothing else.
        named = sorted(add["path"] for window in told for add in window["adds"])
        assert not commits or sorted(uri.removeprefix(self.table.url + "/") for uri in self.table.open().file_uris()) == named
        found = [self._window(window, objects) for window in told]
        return [w for w in found if not w.amendment] + sorted((w for w in found if w.amendment), key=lambda w: (w.amendment, w.number))

    @staticmethod
    def _window(told: dict, objects: dict[str, bytes]) -> Window:
        about, manifest = told["about"], objects[told["about"]["manifest"]]
        assert about["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
        number, amendment = about["window"], about["amendment"] or 0
        assert told["txn"]["version"] == (amendment or number)
        paths = {add["path"].removeprefix(about["folder"] + "/"): add["path"] for add in told["adds"]}
        assert len(paths) == len(told["adds"]) and not set(paths.values()) - set(objects), f"window {number}: files that are not there, or twice"
        files = {name: objects[path] for name, path in paths.items()}
        return Window(number, amendment, manifest, files)

    def rest(self):
        """Nothing that compares: beside the windows there is the log, and what a killed try left until it is removed."""

    def tend(self):
        self.table.open().create_checkpoint()


class Webhook(Http):
    """A receiver of its own."""

    def __init__(self, server, folder, name):
        super().__init__(server, folder, name)
        receiver = Receiver(folder / "received").start()
        self.behind(receiver, receiver.url)
        (folder / "headers").write_text(f"authorization=Bearer {TOKEN}\n")

    def block(self, name=NAME, **settings):
        options = {"chunk_bytes": "1500", "timeout_ms": "1000"}
        return block(name, type="webhook", url=self.proxy.endpoint, options=options, options_file=str(self.folder / "headers"), **settings)

    def windows(self):
        wrong = self.target.folder / "wrong.txt"
        assert not wrong.exists(), wrong.read_text()
        taken = folder_bytes(self.target.folder)
        return windows_of({name: content for name, content in taken.items() if name.startswith("window-") and not name.endswith(".new")})

    def close(self):
        super().close()
        self.target.kill()


class Kafka(Place):
    """Topics of a broker: its own errors where it has them, else those of the proxy before it."""

    spoils: typing.ClassVar = ["lost", "reset", "held"]
    forms: typing.ClassVar = [{"envelope": "debezium"}, {"exclude": ["one.*"]}, {"bson": True}, {"namespaces": ["two.*"], "envelope": "debezium"}]
    USER = "User:tidelog"
    LISTENER: typing.ClassVar = {
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required user_tidelog=\"x\";",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
    }

    def __init__(self, server, folder, name):
        super().__init__(server, folder, name)
        (folder / "options").write_text("sasl.username=tidelog\nsasl.password=x\n")
        self.wrong = ""

    @classmethod
    def serve(cls, folder):
        world = BadWorld(folder / "world")
        broker = Broker(folder / "kafka", proxy=KafkaProxy, env=world.env(), **cls.LISTENER)
        broker.world = world
        return broker.start()

    def block(self, name=NAME, **settings):
        options = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "PLAIN", "partitions": "2", "delivery.timeout.ms": "3000", "socket.timeout.ms": "1500"}
        topics = {"topic": f"{self.name}.{{ns}}", "windows_topic": f"{self.name}.windows"}
        return block(name, type="kafka", brokers=self.server.address, options=options, options_file=str(self.folder / "options"), **topics, **settings)

    def topics(self) -> list[str]:
        return [topic for topic in self.server.topics() if topic.startswith(f"{self.name}.")]

    def windows(self):
        topics = self.topics()
        messages = self.server.read(*topics) if topics else []
        check_order([m for m in messages if "amendment" not in m.headers])
        records: dict[tuple[int, int], dict[int, bytes]] = {}
        told = []
        for message in messages:
            at = message.window, int(message.headers.get("amendment", 0))
            if message.kind == "manifest":
                told.append((at, message.value))
                continue
            lines = records.setdefault(at, {})
            assert message.lsn not in lines, f"twice: {message}"
            lines[message.lsn] = message.value + b"\n"
        assert set(records) <= {at for at, _ in told}, "records without a manifest"
        found = [Window(*at, value, self._files(value, records.get(at, {}))) for at, value in told]
        return [w for w in found if not w.amendment] + sorted((w for w in found if w.amendment), key=lambda w: (w.amendment, w.number))

    @staticmethod
    def _files(manifest: bytes, lines: dict[int, bytes]) -> dict[str, bytes]:
        (file,) = json.loads(manifest)["files"]
        return {file["name"]: b"".join(lines[lsn] for lsn in sorted(lines))}

    def fault(self, what):
        self.wrong = what
        server = self.server
        if what == "fails":
            # The broker answers each message with INVALID_TIMESTAMP: they are all older than that.
            for topic in self.topics():
                server.alter(topic, "message.timestamp.before.max.ms", 1)
        elif what == "read only":
            admin = server.admin()
            self._permit(admin.create_acls(self._acls(AclBinding)))
        elif what == "full":
            # The broker ends itself when its only disk takes nothing more.
            server.world.set(DISK_FULL, DATA)
        elif what == "hangs":
            server.hang()
        elif what == "gone":
            server.kill()
        elif what == "slow":
            server.proxy.delay = 0.05
        elif what == "loses answers":
            server.proxy.lose(10**6)

    def heal(self):
        server, wrong = self.server, self.wrong
        self.wrong = ""
        server.proxy.delay = 0.0
        server.proxy.lose(0)
        server.world.heal_disk()
        if wrong == "hangs":
            server.go_on()
        elif wrong in ("full", "gone"):
            server.kill()
            server.start()
        elif wrong == "fails":
            for topic in self.topics():
                server.alter(topic, "message.timestamp.before.max.ms", (1 << 63) - 1)
        elif wrong == "read only":
            admin = server.admin()
            self._permit(admin.delete_acls(self._acls(AclBindingFilter)))

    def _acls(self, kind) -> list:
        """All is allowed, but to write."""
        at = (ResourceType.TOPIC, f"{self.name}.", ResourcePatternType.PREFIXED, self.USER, "*")
        rules = ((AclOperation.ALL, AclPermissionType.ALLOW), (AclOperation.WRITE, AclPermissionType.DENY))
        return [kind(*at, operation, permission) for operation, permission in rules]

    @staticmethod
    def _permit(futures) -> None:
        for future in futures.values():
            future.result(30)

    def spoil(self, step, how, kill=None):
        self.server.proxy.spoil(step, "lost" if how == "kill" else how, kill)

    def steps(self):
        return self.server.proxy.steps

    def close(self):
        self.heal()
        self.spoil(0, "")


SINKS: dict[str, type[Place]] = {
    "folder": Folder,
    "object": Object,
    "delta": Delta,
    "kafka": Kafka,
    "webhook": Webhook,
}


class Servers:
    """What the places need, started when the first one asks."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.running, self.made = folder, {}, 0

    def place(self, kind: str) -> Place:
        """A fresh place of this type."""
        cls = SINKS[kind]
        server = cls.serve.__qualname__
        if server not in self.running:
            self.running[server] = cls.serve(self.folder / server.lower())
        self.made += 1
        return cls(self.running[server], self.folder / f"place-{self.made}", f"p{self.made}")

    def close(self) -> None:
        for server in filter(None, self.running.values()):
            if server.process.alive():
                server.process.signal(signal.SIGCONT)
                server.kill()
