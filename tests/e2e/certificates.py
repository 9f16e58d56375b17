"""An authority of one test, and what it signs: keys and certificates as PEM, made by the command `openssl`."""

import pathlib
import subprocess


class Authority:
    """Its certificate is `certificate`; each thing that it signs lies in `folder`."""

    def __init__(self, folder: pathlib.Path, name: str = "authority"):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, name
        self.key, self.certificate = folder / f"{name}.key", folder / f"{name}.pem"
        openssl("req", "-x509", *NEW_KEY, "-subj", f"/CN={name}", "-days", "2", "-keyout", self.key, "-out", self.certificate)

    def sign(self, name: str, hosts: str = "") -> tuple[pathlib.Path, pathlib.Path]:
        """A certificate and its key, in files of that name. `hosts`: who it is, as OpenSSL writes it: `IP:127.0.0.1,DNS:localhost`."""
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        more = ["-addext", f"subjectAltName={hosts}"] if hosts else []
        signer = ["-CA", self.certificate, "-CAkey", self.key]
        openssl("req", "-x509", *signer, *NEW_KEY, "-subj", "/CN=somebody", *more, *END, "-days", "2", "-keyout", key, "-out", certificate)
        return certificate, key

    def store(self, name: str, hosts: str) -> pathlib.Path:
        """Key and certificate in one file, as a broker takes them."""
        certificate, key = self.sign(name, hosts)
        both = self.folder / f"{name}-store.pem"
        both.write_text(key.read_text() + certificate.read_text())
        return both


NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
END = ["-addext", "basicConstraints=CA:FALSE"]


def lock(key: pathlib.Path, password: str) -> pathlib.Path:
    """The key, encrypted."""
    locked = key.with_suffix(".locked")
    openssl("pkcs8", "-topk8", "-in", key, "-out", locked, "-v2", "aes256", "-passout", f"pass:{password}")
    return locked


def openssl(*arguments) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
