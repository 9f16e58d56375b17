"""A real S3 server on loopback, and a reader that shares nothing with the sidecar."""

import os
import pathlib

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from process import Process
from store import free_port
from waiting import eventually

KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "not-so-secret"}


def server_binary() -> str:
    """$TIDELOG_S3_SERVER, or what deploy/lib.sh built."""
    tools = pathlib.Path(os.environ.get("TIDELOG_TOOLS", pathlib.Path.home() / ".cache/tidelog"))
    built = sorted(tools.glob("versitygw-*/versitygw"))
    path = os.environ.get("TIDELOG_S3_SERVER") or (str(built[-1]) if built else "")
    if not os.access(path, os.X_OK):
        raise RuntimeError("no S3 server: call ensure_s3_server of deploy/lib.sh, or set TIDELOG_S3_SERVER")
    return path


class S3:
    """The server; its objects are files below `folder`, so they outlive it."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.process: Process | None = None
        self.read_already: dict[tuple, bytes] = {}

    def start(self) -> "S3":
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)
        argv = [server_binary(), "--port", f"127.0.0.1:{self.port}", "--keep-alive", "--quiet", "posix", str(self.folder / "objects")]
        env = dict(os.environ, ROOT_ACCESS_KEY=KEYS["AWS_ACCESS_KEY_ID"], ROOT_SECRET_KEY=KEYS["AWS_SECRET_ACCESS_KEY"])
        self.process = Process(argv, self.folder / "s3.log", env)
        eventually(self._answers, 30, "the S3 server answers")
        return self

    def _answers(self) -> bool:
        self.process.must_live()
        try:
            return bool(self.client().list_buckets())
        except (BotoCoreError, ClientError):
            return False

    def kill(self) -> None:
        self.process.kill()

    def client(self):
        config = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 1})
        keys = {"aws_access_key_id": KEYS["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"]}
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", config=config, **keys)

    def make(self, bucket: str) -> None:
        self.client().create_bucket(Bucket=bucket)

    def names(self, bucket: str) -> list[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(o["Key"] for page in pages for o in page.get("Contents", []))

    def read(self, bucket: str, key: str) -> bytes:
        return self.client().get_object(Bucket=bucket, Key=key)["Body"].read()

    def all(self, bucket: str, prefix: str) -> dict[str, bytes]:
        """Every object below the prefix, by its name there. What the listing tells as unchanged is not read again."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/")
        found = {}
        for told in (o for page in pages for o in page.get("Contents", [])):
            known = bucket, told["Key"], told["ETag"], told["LastModified"], told["Size"]
            if known not in self.read_already:
                self.read_already[known] = self.read(bucket, told["Key"])
            found[told["Key"].removeprefix(prefix + "/")] = self.read_already[known]
        return found


def sink(endpoint: str, url: str, name: str = "lake", more: str = "") -> str:
    """A block of configuration."""
    options = f'aws_endpoint = "{endpoint}", aws_region = "us-east-1", aws_allow_http = "true"'
    return f'[sinks.{name}]\ntype = "object"\nurl = "{url}"\noptions = {{ {options} }}\n{more}\n'


def folder_bytes(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file of an export folder, as `S3.all` tells objects."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
