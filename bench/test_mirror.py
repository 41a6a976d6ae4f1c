"""Mirroring a topic into a cluster, next to a bare loop over the same records in memory.

Both write to the same mock cluster of librdkafka, which runs in this process, with key, timestamp
and partition, from four partitions in turns, and end with every record acknowledged.  The mirror
reads the records from its log first.  Its time counts from when it knows where to go on: asking the
cluster takes a tenth of a second, however much there is to send.
"""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pylog
from bench.conftest import Payload
from bench.turns import MEMORY, Contestant, Race, timed

ROUNDS = 9
PARTITIONS = 4  # as many as the mock gives a topic
SECONDS = 120  # a flush that takes longer has lost something
TIMESTAMP = 1_700_000_000_000
STATE_TOPIC = "mirror-state"


class Mock:
    """A mock cluster, and topics in it that are made one after the other."""

    def __init__(self) -> None:
        import confluent_kafka

        self._producer = confluent_kafka.Producer
        self._anchor = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
        brokers = self._anchor.list_topics(timeout=SECONDS).brokers.values()
        self.bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        self._names = (f"target-{number}" for number in itertools.count())
        self.new_topic(STATE_TOPIC)

    def new_topic(self, name: str | None = None) -> str:
        name = name or next(self._names)
        self.client(1).list_topics(name, timeout=SECONDS)
        return name

    def client(self, count: int) -> Any:
        """Return a client with room in its queue for a round."""
        return self._producer(
            {
                "bootstrap.servers": self.bootstrap,
                "queue.buffering.max.messages": count + 1,
                "queue.buffering.max.kbytes": 1 << 21,
            }
        )


def produce_all(producer: Any, topic: str, rows: list[tuple[bytes, bytes, int, int]]) -> None:
    produce = producer.produce
    for value, key, partition, timestamp in rows:
        produce(topic, value, key, partition, None, None, timestamp)
    assert producer.flush(SECONDS) == 0


@pytest.fixture(scope="module")
def mirrors(directory: Path, payload: Payload, size: Callable[..., int]) -> Iterator[Race]:
    if importlib.util.find_spec("confluent_kafka") is None:
        pytest.skip("confluent-kafka is not installed; it is in the extra `kafka`")
    from pylog.interop import kafka

    count = size(200_000, 2_000_000)
    values, keys = payload.values(count), payload.keys(0, count)
    rows = [
        (value, key, row * PARTITIONS // count, TIMESTAMP + row)
        for row, (value, key) in enumerate(zip(values, keys, strict=True))
    ]
    mock = Mock()
    with pylog.open(directory / "mirrored") as log:
        topic = log.create_topic("events", PARTITIONS, durability="os")
        for number in range(PARTITIONS):
            own = [row for row in rows if row[2] == number]
            topic.append_many(
                [row[0] for row in own],
                keys=[row[1] for row in own],
                timestamps=[row[3] for row in own],
                partition=number,
            )

        def mirror() -> float:
            target, began = mock.new_topic(), list[float]()
            one = kafka.Mirror(
                log,
                mock.bootstrap,
                topics=["events"],
                rename=lambda name: target,
                state_topic=STATE_TOPIC,
            )
            positions = one.run(progress=lambda _: began.append(time.perf_counter()))
            seconds = time.perf_counter() - began[PARTITIONS - 1]
            assert sum(position.records for position in positions.values()) == count
            return seconds

        def bare() -> float:
            target, producer = mock.new_topic(), mock.client(count)
            producer.list_topics(target, timeout=SECONDS)
            return timed(produce_all, producer, target, rows)

        plain = count * (Payload.KEY_BYTES + Payload.VALUE_BYTES)
        contestants = {
            "mirror": Contestant(mirror, MEMORY, count, plain),
            "confluent-kafka": Contestant(bare, MEMORY, count, plain),
        }
        yield Race("mirror", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["mirror", "confluent-kafka"])
def test_mirror(show: Callable[..., None], mirrors: Race, name: str) -> None:
    show(mirrors, name)
