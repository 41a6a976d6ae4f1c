"""Consuming everything once, warm: a consumer's loop and its poll beside plain reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pylog
from bench.conftest import Payload
from bench.turns import KERNEL, Contestant, Race, timed
from pylog import Log

ROUNDS = 15
PARTITIONS = 6


def read(log: Log, count: int) -> None:
    seen = 0
    for record in log.read("events"):
        record.value  # noqa: B018
        seen += 1
    assert seen == count


def loop(log: Log, count: int) -> None:
    seen = 0
    with log.consumer("events") as consumer:
        for record in consumer.records(timeout=0):
            record.value  # noqa: B018
            seen += 1
    assert seen == count


def poll(log: Log, count: int) -> None:
    seen = 0
    with log.consumer("events") as consumer:
        for records in consumer.batches(timeout=0):
            for record in records:
                record.value  # noqa: B018
            seen += len(records)
    assert seen == count


@pytest.fixture(scope="module")
def consuming(directory: Path, payload: Payload, size: Callable[..., int]) -> Iterator[Race]:
    count = size(300_000, 6_000_000)
    with pylog.open(directory / "log") as log:
        events = log.create_topic("events", partitions=PARTITIONS, durability="os")
        for start in range(0, count, Payload.BATCH):
            batch = min(Payload.BATCH, count - start)
            events.append_many(payload.values(batch), payload.keys(start, batch))
        total = count * (Payload.KEY_BYTES + Payload.VALUE_BYTES)

        def contestant(run: Callable[[Log, int], None]) -> Contestant:
            return Contestant(lambda: timed(run, log, count), KERNEL, count, total)

        contestants = {
            "log.read": contestant(read),
            "consumer": contestant(loop),
            "consumer-poll": contestant(poll),
        }
        yield Race("consume", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["log.read", "consumer", "consumer-poll"])
def test_consume(show: Callable[..., None], consuming: Race, name: str) -> None:
    show(consuming, name)
