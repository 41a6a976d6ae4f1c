"""Batches that a follower in another directory has too when they are acknowledged.

Next to the same batches in a log of its own: that one syncs once, this one twice, of which one
waits for the other in part.  And beside 1,400 partitions that rest, next to 8: what rests is not to
be paid for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import pylog
from bench.conftest import Payload
from bench.turns import DISK, Contestant, Race, timed

BATCHES = 20
ROUNDS = 15
RESTING = (8, 1400)
CONFIG = pylog.ReplicationConfig(min_insync_replicas=2)


def append_batches(partition: pylog.Partition, values: list[bytes], batches: int) -> None:
    for _ in range(batches):
        partition.append_many(values)


@pytest.fixture(scope="module")
def replicated(directory: Path, payload: Payload, size: Callable[..., int]) -> Iterator[Race]:
    count = size(Payload.BATCH, Payload.BATCH)
    values, names = payload.values(count), itertools.count()
    with ExitStack() as stack:
        alone = stack.enter_context(pylog.open(directory / "alone"))
        leader = stack.enter_context(pylog.open(directory / "leader"))
        leader.promote(1, [pylog.DirectoryTransport(directory / "follower")], config=CONFIG)
        leader.replication.wait_in_sync(2)

        def run(log: pylog.Log) -> float:
            partition = log.create_topic(f"events-{next(names)}").partition(0)
            partition.append(b"first")  # the files are made
            return timed(append_batches, partition, values, BATCHES)

        records = BATCHES * count
        plain = records * Payload.VALUE_BYTES
        contestants = {
            "acks-all": Contestant(lambda: run(leader), DISK, records, plain),
            "acks-1": Contestant(lambda: run(alone), DISK, records, plain),
        }
        yield Race("replicate", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["acks-all", "acks-1"])
def test_append_batches_replicated(show: Callable[..., None], replicated: Race, name: str) -> None:
    show(replicated, name)


@pytest.fixture(scope="module")
def beside(directory: Path, payload: Payload, size: Callable[..., int]) -> Iterator[Race]:
    values = payload.values(size(Payload.BATCH, Payload.BATCH))[:BATCHES]
    with ExitStack() as stack:
        contestants = {}
        for count in RESTING:
            log = stack.enter_context(pylog.open(directory / f"leader-{count}"))
            copy = pylog.DirectoryTransport(directory / f"follower-{count}")
            log.promote(1, [copy], config=CONFIG)
            log.replication.wait_in_sync(2)
            log.create_topic("resting", partitions=count)
            partition = log.create_topic("events").partition(0)
            partition.append(b"first")

            def run(partition: pylog.Partition = partition) -> float:
                return timed(append_one_by_one, partition, values)

            plain = len(values) * Payload.VALUE_BYTES
            contestants[f"of-{count}"] = Contestant(run, DISK, len(values), plain)
        yield Race("replicate-many", contestants, rounds=ROUNDS)


def append_one_by_one(partition: pylog.Partition, values: list[bytes]) -> None:
    for value in values:
        partition.append(value)


@pytest.mark.parametrize("name", [f"of-{count}" for count in RESTING])
def test_append_beside_resting_partitions(
    show: Callable[..., None], beside: Race, name: str
) -> None:
    show(beside, name)
