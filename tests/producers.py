"""What the tests of producers share: partitions that do as told, and a clock by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pylog import Partition, ProducerConfig, SendFuture, TopicConfig
from pylog._native import batch_headers, make_batch
from pylog.codecs import Compression
from pylog.producer.accumulator import Accumulator, Given
from pylog.producer.sender import Sender
from pylog.storage.partition import Placed
from pylog.storage.producer_state import ProducedBatch
from pylog.storage.role import NO_ROLE, Role

NOW = 1_700_000_000_000


class StubPartition:
    """Keeps the batches it is given.  `answers` come first: an error is raised, None appends."""

    def __init__(self, topic: str = "t", number: int = 0, *, max_message_bytes: int = 1 << 20):
        self.topic = topic
        self.number = number
        self.config = TopicConfig(max_message_bytes=max_message_bytes)
        self.batches: list[bytes] = []
        self.end = 0
        self.syncs: list[tuple[int, int]] = []
        self.answers: list[BaseException | None] = []
        self.sync_answers: list[BaseException] = []
        self.on_sync: Callable[[], object] = lambda: None
        self.gate = threading.Event()
        self.gate.set()

    def begin_append(self, *, waits_for_all: bool | None = None) -> Role | None:
        return NO_ROLE if waits_for_all else None

    def place_batch(
        self,
        data: bytearray,
        count: int,
        timestamp: int,
        compression: Compression,
        produced: ProducedBatch | None,
    ) -> Placed:
        self.gate.wait()
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        header = batch_headers(data)[0]
        assert (header["count"], header["max_timestamp"]) == (count, timestamp)
        self.batches.append(bytes(data))
        first, self.end = self.end, self.end + count
        numbers = (header["producer_id"], header["producer_epoch"], header["base_sequence"])
        assert numbers == ((-1, -1, -1) if produced is None else produced[:3])
        return Placed(first, None)

    def wait_durable(self, start: int, end_offset: int, role: Role | None) -> None:
        self.syncs.append((start, end_offset))
        self.on_sync()
        if self.sync_answers:
            raise self.sync_answers.pop(0)

    def headers(self) -> list[dict[str, int]]:
        return [batch_headers(batch)[0] for batch in self.batches]


class Bench:
    """An accumulator and a sender without a thread; time stands still until it is told to move."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.config = ProducerConfig(**settings)
        self.accumulator = Accumulator(self.config, clock=lambda: NOW, monotonic=lambda: self.now)
        self.sender = Sender(self.accumulator, self.config, on_fork=lambda: None)

    def put(self, partition: Any, value: bytes = b"v", key: bytes | None = None) -> SendFuture:
        future, _ = self.accumulator.append(partition, Given(value, key, None, None))
        return future

    def run(self) -> int:
        """Send what is due now; return the number of batches that were tried."""
        due = self.accumulator.take_due(self.now)
        self.sender.send(due)
        return sum(len(batches) for _, batches in due)


PRODUCER = 4242


def numbered(sequence: int, *, producer: int = PRODUCER, epoch: int = 0) -> bytes:
    """One record that says who sent it, with which sequence."""
    value = b"%d %d" % (producer, sequence)
    header: dict[str, Any] = {"base_timestamp": NOW, "max_timestamp": NOW, "leader_epoch": -1}
    header |= {"producer_id": producer, "producer_epoch": epoch, "base_sequence": sequence}
    return make_batch([(0, 0, None, value)], **header)


def send(partition: Partition, sequence: int, **how: int) -> int:
    """Append a numbered batch; return its offset."""
    [offsets] = partition.append_batches(numbered(sequence, **how))
    assert len(offsets) == 1
    return offsets.start


def sequences(partition: Partition, producer: int = PRODUCER) -> list[int]:
    found = [(record.value or b"").split() for record in partition.records()]
    return [int(parts[1]) for parts in found if parts and int(parts[0]) == producer]
