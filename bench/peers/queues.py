"""Queues in files, and Kafka's own client with the cluster that it pretends to be.

Queues hold values only, and what is taken is gone: their `consume` is to take and to acknowledge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.peers.store import Bytes, Peer, Store
from bench.turns import DISK, KERNEL, MEMORY

_SECONDS = 60  # what takes longer hangs


class QueueStore(Store):
    """A queue of values, from which what is consumed is gone.  put: appends one."""

    def __init__(self, put: Callable[[bytes], object]) -> None:
        self._put = put

    def append_each(self, keys: Bytes, values: Bytes) -> None:
        put = self._put
        for value in values:
            put(value)


class PersistQueueStore(QueueStore):
    """persist-queue's queues: `put`, and `get` with `task_done`."""

    def __init__(self, queue: Any) -> None:
        super().__init__(queue.put)
        self._queue = queue

    def consume(self, count: int, commit_every: int) -> None:
        get, done = self._queue.get, self._queue.task_done
        for number in range(1, count + 1):
            get(timeout=_SECONDS)
            if number % commit_every == 0:
                done()


class DiskcacheStore(QueueStore):
    """diskcache.Deque; many appends in one of its transactions are a batch."""

    def __init__(self, deque: Any) -> None:
        super().__init__(deque.append)
        self._deque = deque

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        for _keys, values in batches:
            with self._deque.transact():
                self._deque.extend(values)

    def scan(self) -> int:
        count = 0
        for _value in self._deque:
            count += 1
        return count

    def consume(self, count: int, commit_every: int) -> None:
        popleft = self._deque.popleft
        for _ in range(count):
            popleft()


class LitequeueStore(QueueStore):
    """litequeue: `put`, and `pop` with `done` of each message."""

    def __init__(self, queue: Any) -> None:
        super().__init__(queue.put)
        self._queue = queue

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        for batch in batches:
            with self._queue.transaction():
                self.append_each(*batch)

    def consume(self, count: int, commit_every: int) -> None:
        pop, done = self._queue.pop, self._queue.done
        for _ in range(count):
            done(pop().message_id)


class KafkaMockStore(Store):
    """confluent-kafka's producer and the mock cluster within it, which keeps records in memory."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        produce, flush = self._producer.produce, self._producer.flush
        for keys, values in batches:
            for key, value in zip(keys, values, strict=True):
                produce("events", value, key, partition=0)
            assert flush(_SECONDS) == 0

    def append_each(self, keys: Bytes, values: Bytes) -> None:
        produce, flush = self._producer.produce, self._producer.flush
        for key, value in zip(keys, values, strict=True):
            produce("events", value, key, partition=0)
            assert flush(_SECONDS) == 0


@contextlib.contextmanager
def opened_file_queue(path: Path) -> Iterator[PersistQueueStore]:
    """Open persist-queue's queue in files, which syncs nothing."""
    import persistqueue

    yield PersistQueueStore(persistqueue.Queue(str(path), autosave=True))


@contextlib.contextmanager
def opened_sqlite_queue(path: Path) -> Iterator[PersistQueueStore]:
    """Open persist-queue's queue in SQLite, which commits and syncs each `put`."""
    import persistqueue

    queue = persistqueue.SQLiteQueue(str(path), auto_commit=True)
    try:
        yield PersistQueueStore(queue)
    finally:
        queue.close()


@contextlib.contextmanager
def opened_diskcache(path: Path) -> Iterator[DiskcacheStore]:
    """Open a deque; SQLite in WAL mode, synchronous = NORMAL."""
    import diskcache

    with diskcache.Cache(str(path)) as cache:
        yield DiskcacheStore(diskcache.Deque.fromcache(cache))


@contextlib.contextmanager
def opened_litequeue(path: Path) -> Iterator[LitequeueStore]:
    """Open a queue; SQLite in WAL mode, synchronous = NORMAL."""
    import litequeue

    path.mkdir()
    queue = litequeue.LiteQueue(path / "events")
    try:
        yield LitequeueStore(queue)
    finally:
        queue.conn.close()


@contextlib.contextmanager
def opened_mock(path: Path) -> Iterator[KafkaMockStore]:
    """Start a client with a mock cluster of one broker, and make the topic."""
    from confluent_kafka import Producer

    producer = Producer({"test.mock.num.brokers": 1, "linger.ms": 0})
    producer.produce("events", b"first", partition=0)
    producer.flush(_SECONDS)
    yield KafkaMockStore(producer)


PEERS = (
    Peer(
        "persist-queue-file", KERNEL, opened_file_queue, PersistQueueStore, "persistqueue", 400, 400
    ),
    Peer(
        "persist-queue-SQLite",
        DISK,
        opened_sqlite_queue,
        PersistQueueStore,
        "persistqueue",
        2,
        2,
    ),
    Peer("diskcache", KERNEL, opened_diskcache, DiskcacheStore, "diskcache", 100, 60),
    Peer("litequeue", KERNEL, opened_litequeue, LitequeueStore, "litequeue", 80, 30),
    Peer("confluent-kafka-mock", MEMORY, opened_mock, KafkaMockStore, "confluent_kafka", 200, 4),
)
