"""Fixtures: a fresh store and a fresh sidecar for each test that asks."""

import os
import pathlib
import random
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from sidecar import Sidecar, binary  # noqa: E402
from store import Store, store_binary  # noqa: E402


# Before any test module is read: two workers that share the tests must make the same ones.
os.environ.setdefault("TIDELOG_SEED", str(random.SystemRandom().randrange(1 << 30)))


def pytest_sessionstart(session):
    """A missing backend ends the run at once and says how to get it."""
    print(f"store {store_binary()}\nsidecar {binary()}")


class Lab:
    """Starts stores and sidecars for one test and ends them all."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.running = []

    def store(self, mode: str = "replica", name: str = "store", **options) -> Store:
        store = Store(self.folder / name, mode, **options)
        self.running.append(store)
        return store.start()

    def sidecar(self, upstream, name: str = "tidelog", ready: bool = True, **options) -> Sidecar:
        address = upstream if isinstance(upstream, str) else upstream.address
        sidecar = Sidecar(self.folder / name, address, **options)
        self.running.append(sidecar)
        return sidecar.start(ready)

    def kafka(self, name: str = "kafka", **options):
        from kafka import Kafka

        kafka = Kafka(self.folder / name, **options)
        self.running.append(kafka)
        return kafka.start()

    def end(self) -> None:
        for one in reversed(self.running):
            if one.process and one.process.alive():
                one.kill()


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.end()


@pytest.fixture
def s3(lab):
    """An S3 server with the bucket `lake`."""
    from s3 import S3

    server = S3(lab.folder / "s3")
    lab.running.append(server)
    server.start()
    server.make("lake")
    return server


@pytest.fixture(params=["replica", "standalone"])
def mode(request):
    return request.param


@pytest.fixture
def world(lab, mode):
    """A store behind shim and sidecar, and one behind a shim alone."""
    from shim_world import World

    world = World(lab, mode)
    yield world
    world.close()
