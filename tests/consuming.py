"""What the tests of consumers share: topics whose records say where they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from pylog import Consumer, Log, Topic, TopicPartition


def make(log: Log, name: str, partitions: int = 1, records: int = 0) -> Topic:
    """Make a topic with so many records in each partition: b"name-partition-offset"."""
    topic = log.create_topic(name, partitions=partitions, durability="os")
    for number in range(partitions):
        append(topic, number, records)
    return topic


def append(topic: Topic, number: int, records: int) -> None:
    start = topic.partition(number).log_end_offset
    values = [b"%s-%d-%d" % (topic.name.encode(), number, start + n) for n in range(records)]
    topic.append_many(values, partition=number)


def places(records: Iterator[Any] | list[Any]) -> list[tuple[int, int]]:
    return [(record.partition, record.offset) for record in records]


def rest(consumer: Consumer) -> list[tuple[int, int]]:
    """Return where the records come from that are left, sorted."""
    return sorted(places(consumer.records(timeout=0)))


def told_when_waiting(consumer: Consumer) -> threading.Event:
    """Return an event that is set when the consumer begins to wait."""
    is_waiting, events = threading.Event(), consumer._events

    class Told:
        @property
        def value(self) -> int:
            return events.value

        def wait(self, *arguments: Any) -> bool:
            is_waiting.set()
            return events.wait(*arguments)

    consumer._events = Told()  # type: ignore[assignment]
    return is_waiting


class Told:
    """Listeners that write down what they are told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []

    def listeners(self) -> dict[str, Any]:
        return {name: self._noting(name) for name in ("on_assigned", "on_revoked", "on_lost")}

    def _noting(self, name: str) -> Any:
        def note(partitions: set[TopicPartition]) -> None:
            self.calls.append((name.removeprefix("on_"), sorted(one[1] for one in partitions)))

        return note

    def take(self) -> list[tuple[str, list[int]]]:
        calls, self.calls = self.calls, []
        return calls


def member(log: Log, told: Told | None = None, **settings: Any) -> Consumer:
    """Return a member of group g that wants topic t."""
    listeners = {} if told is None else told.listeners()
    return log.consumer("t", group="g", **listeners, **settings)


def numbers(consumer: Consumer) -> list[int]:
    """Return the partitions that it has."""
    return sorted(number for _, number in consumer.assignment())


def next_offset(log: Log) -> int:
    """Return where the next member of group g begins in t-0."""
    with member(log, enable_auto_commit=False) as consumer:
        consumer.poll(0, 1)
        return consumer.position("t", 0) - 1
