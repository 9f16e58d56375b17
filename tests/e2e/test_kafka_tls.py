"""The Kafka sink and a real broker with TLS, SCRAM and mutual TLS: windows arrive whole and once; each mistake is told by name, a
secret never, and the sink goes on by itself when it is mended."""

import pathlib
import re
import shutil

from certificates import Authority, lock
from kafka import check_windows
from sidecar import ROOT, run_cli
from test_kafka import QUICK, error_of, lag
from waiting import eventually

# What must never be told; the right ones are a part of the wrong ones.
PASSWORD, KEY_PASSWORD = "correct-horse", "battery-staple"
HERE = "IP:127.0.0.1"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


def secure(lab, authority: Authority):
    """A broker. CLIENT: TLS and SCRAM; MUTUAL: TLS that wants a client's certificate; ELSEWHERE: TLS with a name that is not its own."""
    stores = {"client": authority.store("broker", HERE), "elsewhere": authority.store("elsewhere", "DNS:elsewhere.example")}
    stores["mutual"] = stores["client"]
    properties = {f"listener.name.{name}.ssl.keystore.location": path for name, path in stores.items()}
    properties |= {f"listener.name.{name}.ssl.keystore.type": "PEM" for name in stores}
    properties |= {f"listener.name.client.scram-sha-{bits}.sasl.jaas.config": SCRAM for bits in (256, 512)}
    properties |= {
        "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.mutual.ssl.truststore.type": "PEM",
        "listener.name.mutual.ssl.truststore.location": authority.certificate,
    }
    listeners = {"CLIENT": "SASL_SSL", "MUTUAL": "SSL", "ELSEWHERE": "SSL"}
    return lab.kafka(listeners=listeners, users={"tidelog": PASSWORD}, **properties)


def deliver(sidecar, kafka, sinks, through=()) -> None:
    """Everything arrives through each sink, whole and once."""
    for sink in sinks:
        eventually(lambda: lag(sidecar, sink) == 0, 60, f"sink {sink} has everything: {error_of(sidecar, sink)}")
    messages = kafka.read(through=through)
    for sink in sinks:
        found = [m for m in messages if m.headers["sink"] == sink]
        assert check_windows(found, sidecar.export) == len(list(sidecar.export.glob("window-*"))), sink


def write(sidecar, part: str) -> None:
    with sidecar.client() as client:
        client["shop"]["orders"].insert_many([{"_id": f"{part}-{n}", "n": n} for n in range(50)])
        client["shop"]["orders"].update_many({"n": {"$lt": 25}}, {"$inc": {"n": 100}})


def keeps(sidecar, key: pathlib.Path) -> None:
    """No secret is in what the sidecar says at its most talkative."""
    everything = (sidecar.folder / "sidecar.log").read_text() + run_cli("status", "--admin", sidecar.admin).stdout
    everything += run_cli("check", "--config", sidecar.folder / "tidelog.toml").stdout
    for path in ("/v1/status", "/metrics", "/readyz", "/healthz"):
        everything += sidecar.http(path)[1]
    for secret in (PASSWORD, KEY_PASSWORD, *key.read_text().splitlines()[1:-1]):
        assert secret not in everything, f"{secret} is told"


def test_the_page(lab):
    """The blocks about TLS on the page run as they stand, but for addresses, folder and password; so does the other kind of SCRAM."""
    authority = Authority(lab.folder / "certificates")
    kafka = secure(lab, authority)
    etc = lab.folder / "etc"
    etc.mkdir()
    certificate, key = authority.sign("tidelog")
    shutil.copy(authority.certificate, etc / "kafka-ca.pem")
    shutil.copy(certificate, etc / "tidelog.pem")
    shutil.copy(lock(key, KEY_PASSWORD), etc / "tidelog.key")
    page = (pathlib.Path(ROOT) / "deploy/docs/sinks-kafka.md").read_text()
    scram, mutual = [part.split("```")[0] for part in page.split("```toml\n")[2:]]
    for name, file in re.findall(r"# /etc/tidelog/(\S+)\n(.*?)```", page, re.DOTALL):
        (etc / name).write_text(file.replace("SECRET-OF-USER", PASSWORD).replace("SECRET-OF-KEY", KEY_PASSWORD))
    assert "SCRAM-SHA-512" in scram and len(list(etc.iterdir())) == 5
    scram = scram.replace("kafka.example.com:9093", kafka.address)
    other = scram.replace("SCRAM-SHA-512", "SCRAM-SHA-256").replace("[sinks.payments]", "[sinks.other]")
    mutual = mutual.replace("kafka.example.com:9094", kafka.at("MUTUAL"))
    blocks = (scram + other + mutual).replace("/etc/tidelog/", f"{etc}/")
    sidecar = lab.sidecar(lab.store(), config=QUICK + blocks, flags=["--log-level", "debug"])
    for part in range(3):
        write(sidecar, f"part {part}")
        sidecar.cut(f"part {part}")
    through = {"bootstrap.servers": kafka.address, "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-256"}
    through |= {"sasl.username": "tidelog", "sasl.password": PASSWORD, "ssl.ca.location": str(authority.certificate)}
    deliver(sidecar, kafka, ["payments", "other", "ledger"], through)
    keeps(sidecar, key)


def options(**told) -> str:
    return "".join(f"{name}={value}\n" for name, value in {"message.timeout.ms": 4000, "debug": "conf,security"}.items() | told.items())


def test_mistakes_are_told_and_mended(lab):
    """Many sinks, each with one mistake: what is told, and that each delivers everything, without a restart, when it is mended."""
    authority, stranger = Authority(lab.folder / "certificates"), Authority(lab.folder / "strangers", "stranger")
    kafka = secure(lab, authority)
    certificate, key = authority.sign("tidelog")
    trusted = {"ssl.ca.location": authority.certificate}
    tls = {"security.protocol": "SSL"} | trusted
    user = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "tidelog", "sasl.password": PASSWORD}
    scram = tls | user | {"security.protocol": "SASL_SSL"}
    mutual = tls | {"ssl.certificate.location": certificate, "ssl.key.location": lock(key, KEY_PASSWORD)}
    right = mutual | {"ssl.key.password": KEY_PASSWORD}
    absent, late = lab.folder / "absent.pem", lab.folder / "late.pem"
    shutil.copy(stranger.certificate, late)
    # The sink: its listener, its options, what is told, and its options when mended (None: something else is mended).
    table = {
        "password": ("CLIENT", scram | {"sasl.password": f"{PASSWORD}-wrong"}, "Check user and password", scram),
        "absent": ("CLIENT", scram | {"ssl.ca.location": absent}, "absent.pem: No such file", None),
        "stranger": ("CLIENT", scram | {"ssl.ca.location": late}, "is of no authority in `ssl.ca.location`", None),
        "elsewhere": ("ELSEWHERE", tls, "does not have the name or address told here", None),
        "nobody": ("MUTUAL", tls, "refuses this client's certificate, or that it has none", right),
        "locked": ("MUTUAL", mutual | {"ssl.key.password": f"{KEY_PASSWORD}-wrong"}, "`ssl.key.password`", right),
        "plain": ("CLIENT", {}, "check that `security.protocol`", scram),
        "secured": ("DIRECT", tls, "`security.protocol`", {}),
    }
    config = QUICK + "[export]\nretry_max_ms = 1000\n"
    for name, (listener, wrong, _, _) in table.items():
        file = lab.folder / f"{name}.options"
        file.write_text(options(**wrong))
        config += f'[sinks.{name}]\ntype = "kafka"\nbrokers = "{kafka.at(listener)}"\noptions_file = "{file}"\n'
    sidecar = lab.sidecar(lab.store(), config=config, ready=False, flags=["--log-level", "debug"])
    write(sidecar, "before")
    for name, (_, _, words, _) in table.items():
        eventually(lambda: error_of(sidecar, name), 60, f"{name}: it is told")
        eventually(lambda: words in error_of(sidecar, name), 20, f"{name}: {error_of(sidecar, name)}")
        print(f"{name}: {error_of(sidecar, name)}")
    shutil.copy(authority.certificate, absent)
    shutil.copy(authority.certificate, late)
    # A running broker takes a new certificate if it names the old hosts too.
    here = authority.store("here", f"DNS:elsewhere.example,{HERE}")
    kafka.alter_broker("listener.name.elsewhere.ssl.keystore.location", here)
    for name, (_, _, _, mended) in table.items():
        if mended is not None:
            (lab.folder / f"{name}.options").write_text(options(**mended))
    write(sidecar, "after")
    run_cli("cut", "--admin", sidecar.admin, check=False)  # It fails while a sink has not looked again.
    deliver(sidecar, kafka, table)
    assert "kafka client" in sidecar.process.output(), "the client's own lines are looked at too"
    keeps(sidecar, key)
