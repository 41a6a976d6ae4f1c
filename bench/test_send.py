"""Sending one by one in the background, next to confluent-kafka's client and its mock cluster.

Both end a round with a flush: every record is acknowledged.  The mock keeps records in memory; what
pylog acknowledges here survives kill -9.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import stores
from bench.conftest import Payload
from bench.turns import KERNEL, MEMORY, Contestant, Race, timed

ROUNDS = 9
SECONDS = 120  # a flush that takes longer has lost something


@contextlib.contextmanager
def mock_producer(count: int) -> Iterator[Any]:
    """Open a client of a mock cluster that it runs itself, with room in its queue for a round."""
    from confluent_kafka import Producer

    producer = Producer(
        {
            "test.mock.num.brokers": 1,
            "queue.buffering.max.messages": count + 1,
            "queue.buffering.max.kbytes": 1 << 21,
        }
    )
    # The first record waits for the topic to be made.
    producer.produce("events", b"first", partition=0)
    producer.flush(SECONDS)
    yield producer


def send_all(producer: Any, values: list[bytes], key: bytes) -> None:
    send = producer.send
    for value in values:
        send("events", value, key)
    assert producer.flush(SECONDS)


def produce_all(producer: Any, values: list[bytes], key: bytes) -> None:
    produce = producer.produce
    for value in values:
        produce("events", value, key)
    assert producer.flush(SECONDS) == 0


@pytest.fixture(scope="module")
def sends(directory: Path, payload: Payload, size: Callable[..., int]) -> Race:
    if importlib.util.find_spec("confluent_kafka") is None:
        pytest.skip("confluent-kafka is not installed; it is in the extra `kafka`")
    count = size(200_000, 2_000_000)
    values, key = payload.values(count), b"%016d" % 7

    def pylog() -> float:
        with stores.fresh_log(directory, "os") as log, log.producer() as producer:
            return timed(send_all, producer, values, key)

    def confluent() -> float:
        with mock_producer(count) as producer:
            return timed(produce_all, producer, values, key)

    plain = count * (Payload.KEY_BYTES + Payload.VALUE_BYTES)
    contestants = {
        "pylog": Contestant(pylog, KERNEL, count, plain),
        "confluent-kafka-mock": Contestant(confluent, MEMORY, count, plain),
    }
    return Race("send one by one", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["pylog", "confluent-kafka-mock"])
def test_send_one_by_one(show: Callable[..., None], sends: Race, name: str) -> None:
    show(sends, name)
