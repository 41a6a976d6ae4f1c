"""Consuming everything once, warm: alone and in a group, beside plain reading; and commits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pylog
from bench.conftest import Payload
from bench.turns import KERNEL, Contestant, Race, timed
from pylog import Log

ROUNDS = 15
PARTITIONS = 6


COMMIT_EVERY = 1000


def read(log: Log, count: int) -> None:
    seen = 0
    for record in log.read("events"):
        record.value  # noqa: B018
        seen += 1
        if seen % COMMIT_EVERY == 0:
            pass
    assert seen == count


def loop(log: Log, count: int) -> None:
    seen = 0
    with log.consumer("events") as consumer:
        for record in consumer.records(timeout=0):
            record.value  # noqa: B018
            seen += 1
            if seen % COMMIT_EVERY == 0:
                pass
    assert seen == count


def poll(log: Log, count: int) -> None:
    seen = 0
    with log.consumer("events") as consumer:
        for records in consumer.batches(timeout=0):
            for record in records:
                record.value  # noqa: B018
            seen += len(records)
    assert seen == count


class Groups:
    """Each round is another group, so that it begins at the beginning."""

    def __init__(self) -> None:
        self._names = map(str, itertools.count())

    def loop(self, log: Log, count: int) -> None:
        """Commit all positions every so many records."""
        seen = 0
        with log.consumer("events", group=next(self._names), enable_auto_commit=False) as consumer:
            for record in consumer.records(timeout=0):
                record.value  # noqa: B018
                seen += 1
                if seen % COMMIT_EVERY == 0:
                    consumer.commit()
        assert seen == count

    def loop_by_itself(self, log: Log, count: int) -> None:
        """Leave the commits to the consumer."""
        seen = 0
        with log.consumer("events", group=next(self._names)) as consumer:
            for record in consumer.records(timeout=0):
                record.value  # noqa: B018
                seen += 1
                if seen % COMMIT_EVERY == 0:
                    pass
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

        groups = Groups()
        log.consumer("events", group="first").close()  # makes the topic of commits
        log.alter_topic("__consumer_offsets", durability="os")
        contestants = {
            "log.read": contestant(read),
            "consumer": contestant(loop),
            "consumer-poll": contestant(poll),
            "group-commits": contestant(groups.loop),
            "group": contestant(groups.loop_by_itself),
        }
        yield Race("consume", contestants, rounds=ROUNDS)


@pytest.mark.parametrize(
    "name", ["log.read", "consumer", "consumer-poll", "group-commits", "group"]
)
def test_consume(show: Callable[..., None], consuming: Race, name: str) -> None:
    show(consuming, name)


@pytest.fixture(scope="module")
def committing(directory: Path, size: Callable[..., int]) -> Iterator[Race]:
    count = size(20_000, 1_000_000)
    with pylog.open(directory / "commits") as log:
        events = log.create_topic("events", durability="os")
        events.append_many([b""] * count)
        with log.consumer("events", group="g", enable_auto_commit=False) as consumer:
            records = consumer.poll(0, count)
            log.alter_topic("__consumer_offsets", durability="os")

            def commit_each() -> None:
                for record in records:
                    consumer.commit(record)

            def append_each() -> None:
                for _ in range(count):
                    events.append(b"")

            contestants = {
                "commit": Contestant(lambda: timed(commit_each), KERNEL, count, count),
                "append": Contestant(lambda: timed(append_each), KERNEL, count, count),
            }
            yield Race("commit", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["commit", "append"])
def test_commit(show: Callable[..., None], committing: Race, name: str) -> None:
    show(committing, name)
