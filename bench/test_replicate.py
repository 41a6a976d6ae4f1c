"""Batches that a follower in another directory has too when they are acknowledged.

Next to the same batches in a log of its own: that one syncs once, this one twice, of which one
waits for the other in part.
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
