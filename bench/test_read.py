"""Reading everything once, warm: as records, and as columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import pylog
from bench import stores
from bench.conftest import Payload
from bench.stores import put_batches
from bench.turns import KERNEL, Contestant, Race, timed
from pylog.storage.partition import Partition

ROUNDS = 15
BLOCK = 1 << 20


class Stored:
    """The same pairs in two partitions, in batches and one by one, and in lmdb."""

    def __init__(self, stack: ExitStack, directory: Path, payload: Payload, count: int) -> None:
        self.count = count
        self.bytes = count * (Payload.KEY_BYTES + Payload.VALUE_BYTES)
        self.path = directory / "log"
        self.log = stack.enter_context(pylog.open(self.path))
        self.batches = self.log.create_topic("batches", durability="os").partition(0)
        self.singles = self.log.create_topic("singles", durability="os").partition(0)
        self.environment = stack.enter_context(stores.fresh_lmdb(directory, is_synced=False))
        batch = min(Payload.BATCH, count)
        for start in range(0, count, batch):
            values, keys = payload.values(batch), payload.keys(start, batch)
            self.batches.append_many(values, keys)
            put_batches(self.environment, keys, values, batch=batch)
            if start < count // 4:
                for key, value in zip(keys, values, strict=True):
                    self.singles.append(value, key)


@pytest.fixture(scope="module")
def stored(directory: Path, payload: Payload, size: Callable[..., int]) -> Iterator[Stored]:
    with ExitStack() as stack:
        yield Stored(stack, directory, payload, size(200_000, 10_000_000))


def touch_records(partition: Partition) -> None:
    count = 0
    for record in partition.records():
        record.key  # noqa: B018
        record.value  # noqa: B018
        count += 1
    assert count == partition.log_end_offset


def touch_reads(partition: Partition) -> None:
    offset, end = 0, partition.log_end_offset
    while offset < end:
        records = partition.read(offset)
        for record in records:
            record.key  # noqa: B018
            record.value  # noqa: B018
        offset = records.next_offset


@pytest.fixture(scope="module")
def sequential(stored: Stored) -> Race:
    def lmdb() -> float:
        def touch() -> None:
            count = 0
            with stored.environment.begin() as transaction:
                for _key, _value in transaction.cursor():
                    count += 1
            assert count == stored.count

        return timed(touch)

    def contestant(run: Callable[[], float], count: int) -> Contestant:
        return Contestant(run, KERNEL, count, count * stored.bytes // stored.count)

    singles = stored.singles.log_end_offset
    contestants = {
        "pylog": contestant(lambda: timed(touch_records, stored.batches), stored.count),
        "pylog-read": contestant(lambda: timed(touch_reads, stored.batches), stored.count),
        "pylog-single-batches": contestant(lambda: timed(touch_records, stored.singles), singles),
        "lmdb": contestant(lmdb, stored.count),
    }
    return Race("sequential", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["pylog", "pylog-read", "pylog-single-batches", "lmdb"])
def test_iterate_records(show: Callable[..., None], sequential: Race, name: str) -> None:
    show(sequential, name)


def read_all_columns(partition: Partition) -> None:
    offset, end = 0, partition.log_end_offset
    while offset < end:
        offset = partition.read_columns(offset).next_offset


def read_all_bytes(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            while os.read(descriptor, BLOCK):
                pass
        finally:
            os.close(descriptor)


@pytest.fixture(scope="module")
def columns(stored: Stored) -> Race:
    """The bytes are those of the `.log` files up to the log's end, headers of batches included."""
    paths = sorted((stored.path / "batches-0").glob("*.log"))
    total = sum(path.stat().st_size for path in paths)
    read = lambda: timed(read_all_columns, stored.batches)  # noqa: E731
    contestants = {
        "pylog": Contestant(read, KERNEL, stored.count, total),
        "os.read": Contestant(lambda: timed(read_all_bytes, paths), KERNEL, stored.count, total),
    }
    return Race("columns", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["pylog", "os.read"])
def test_read_columns(show: Callable[..., None], columns: Race, name: str) -> None:
    show(columns, name)
