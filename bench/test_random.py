"""Reading single records at random offsets, warm."""

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

ROUNDS = 41
READS = 1000
FEW = 10_000
PAGE = 4096


def filled_partition(log: pylog.Log, name: str, payload: Payload, count: int) -> Partition:
    """Append `count` records one by one, each a batch of its own: the usual case of a queue."""
    partition = log.create_topic(name, durability="os").partition(0)
    values = payload.values(Payload.BATCH)
    for start in range(0, count, Payload.BATCH):
        for value, key in zip(values, payload.keys(start, Payload.BATCH), strict=True):
            partition.append(value, key)
    return partition


def read_each(partition: Partition, offsets: list[int]) -> None:
    read = partition.read
    for offset in offsets:
        for record in read(offset, 1):
            record.value  # noqa: B018
            break


def pread_each(descriptor: int, positions: list[int]) -> None:
    read = os.pread
    for position in positions:
        read(descriptor, PAGE, position)


@pytest.fixture(scope="module")
def log(directory: Path) -> Iterator[pylog.Log]:
    with pylog.open(directory / "log") as opened:
        yield opened


@pytest.fixture(scope="module")
def random_reads(
    log: pylog.Log, directory: Path, payload: Payload, size: Callable[..., int]
) -> Iterator[Race]:
    """Some 60 MB in one segment, so that there is one file to compare with."""
    count = max(size(300_000, 300_000), Payload.BATCH)
    partition = filled_partition(log, "one-file", payload, count)
    path = Path(log.path) / "one-file-0" / f"{0:020}.log"
    values, keys = payload.values(count), payload.keys(0, count)
    limit = path.stat().st_size - PAGE

    def pylog_round() -> float:
        return timed(read_each, partition, payload.rows(count, READS))

    def pread_round() -> float:
        return timed(pread_each, descriptor, payload.rows(limit, READS))

    def lmdb_round() -> float:
        def get_each(wanted: list[bytes]) -> None:
            with environment.begin() as transaction:
                for key in wanted:
                    transaction.get(key)

        return timed(get_each, [keys[row] for row in payload.rows(count, READS)])

    with ExitStack() as stack:
        environment = stack.enter_context(stores.fresh_lmdb(directory, is_synced=False))
        put_batches(environment, keys, values, batch=Payload.BATCH)
        descriptor = os.open(path, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        record_bytes = Payload.KEY_BYTES + Payload.VALUE_BYTES
        contestants = {
            "pylog": Contestant(pylog_round, KERNEL, READS, READS * record_bytes),
            "os.pread": Contestant(pread_round, KERNEL, READS, READS * PAGE),
            "lmdb": Contestant(lmdb_round, KERNEL, READS, READS * record_bytes),
        }
        yield Race("random", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["pylog", "os.pread", "lmdb"])
def test_random_read(show: Callable[..., None], random_reads: Race, name: str) -> None:
    show(random_reads, name)


def pread_files(places: list[tuple[int, int]]) -> None:
    read = os.pread
    for descriptor, position in places:
        read(descriptor, PAGE, position)


@pytest.fixture(scope="module")
def growth(log: pylog.Log, payload: Payload, size: Callable[..., int]) -> Iterator[Race]:
    """The bare reads show what is due to memory: caches hold the few records and not the many."""
    many = size(1_000_000, 10_000_000)

    def reads(partition: Partition) -> Contestant:
        count = partition.log_end_offset

        def run() -> float:
            return timed(read_each, partition, payload.rows(count, READS))

        record_bytes = Payload.KEY_BYTES + Payload.VALUE_BYTES
        return Contestant(run, KERNEL, READS, READS * record_bytes)

    def bare(topic: str, stack: ExitStack) -> Contestant:
        descriptors = []
        for path in sorted((Path(log.path) / f"{topic}-0").glob("*.log")):
            descriptors.append(os.open(path, os.O_RDONLY))
            stack.callback(os.close, descriptors[-1])
        sizes = [os.fstat(descriptor).st_size for descriptor in descriptors]

        def run() -> float:
            files = payload.rows(len(descriptors), READS)
            # The last one may be shorter, so that a few positions are beyond its end.
            positions = payload.rows(sizes[0] - PAGE, READS)
            places = [(descriptors[f], p) for f, p in zip(files, positions, strict=True)]
            return timed(pread_files, places)

        return Contestant(run, KERNEL, READS, READS * PAGE)

    with ExitStack() as stack:
        yield Race(
            "random growth",
            {
                "pylog-few": reads(filled_partition(log, "few", payload, FEW)),
                "pylog-many": reads(filled_partition(log, "many", payload, many)),
                "os.pread-few": bare("few", stack),
                "os.pread-many": bare("many", stack),
            },
            rounds=ROUNDS,
        )


@pytest.mark.parametrize("name", ["pylog-few", "pylog-many", "os.pread-few", "os.pread-many"])
def test_random_read_grows(show: Callable[..., None], growth: Race, name: str) -> None:
    show(growth, name)
