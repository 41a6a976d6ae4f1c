"""Opening what was closed cleanly: it must not cost more with more records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

import pylog
from bench.conftest import Payload
from bench.stores import put_batches
from bench.turns import KERNEL, Contestant, Race, timed

ROUNDS = 31


@pytest.fixture(scope="module")
def opens(directory: Path, payload: Payload, size: Callable[..., int]) -> Race:
    count = size(1_000_000, 5_000_000)
    values = payload.values(Payload.BATCH)

    def fill(name: str, count: int) -> Path:
        path = directory / name
        with pylog.open(path) as log:
            topic = log.create_topic("events", durability="os")
            for start in range(0, count, Payload.BATCH):
                topic.append_many(values, payload.keys(start, Payload.BATCH))
        return path

    def fill_lmdb() -> Path:
        path = directory / "lmdb"
        with lmdb.open(str(path), map_size=64 << 30, sync=False) as environment:
            for start in range(0, count, Payload.BATCH):
                keys = payload.keys(start, Payload.BATCH)
                put_batches(environment, keys, values, batch=Payload.BATCH)
            environment.sync(True)
        return path

    def open_pylog(path: Path, count: int) -> float:
        def look() -> None:
            opened.append(pylog.open(path, create=False))
            assert opened[0].topic("events").partition(0).log_end_offset == count

        opened: list[pylog.Log] = []
        seconds = timed(look)
        opened[0].close()
        return seconds

    def open_lmdb(path: Path) -> float:
        def look() -> None:
            opened.append(lmdb.open(str(path), map_size=64 << 30, sync=False))
            assert opened[0].stat()["entries"] == count

        opened: list[lmdb.Environment] = []
        seconds = timed(look)
        opened[0].close()
        return seconds

    many, one, empty, other = fill("many", count), fill("one", 1), fill("empty", 0), fill_lmdb()
    contestants = {
        "pylog-many": Contestant(lambda: open_pylog(many, count), KERNEL, 1, 0),
        "pylog-one-batch": Contestant(lambda: open_pylog(one, Payload.BATCH), KERNEL, 1, 0),
        "pylog-empty": Contestant(lambda: open_pylog(empty, 0), KERNEL, 1, 0),
        "lmdb-many": Contestant(lambda: open_lmdb(other), KERNEL, 1, 0),
    }
    return Race("open", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["pylog-many", "pylog-one-batch", "pylog-empty", "lmdb-many"])
def test_clean_open(show: Callable[..., None], opens: Race, name: str) -> None:
    show(opens, name)
