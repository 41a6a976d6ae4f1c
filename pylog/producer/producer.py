"""`Producer`: sends records in the background, batched, and tells what became of each.

Knows topics and which partition a record goes to.  Must not know files or segments.

Locks: none; what is shared with the sender's thread is the accumulator's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pylog._native import system_clock
from pylog.arguments import check_callable, seconds
from pylog.closing import Closing
from pylog.errors import ClosedError
from pylog.producer.accumulator import Accumulator, Given
from pylog.producer.config import ProducerConfig
from pylog.producer.futures import SendFuture
from pylog.producer.sender import Sender
from pylog.storage.encoding import Headers, check_timestamp
from pylog.topics.topic import Partitioner, Topic

Append = Callable[..., SendFuture | None]


class _Target:
    """A topic that is sent to: how to pick a partition, and the open batches of each."""

    __slots__ = ("appends", "pick", "topic")

    def __init__(self, topic: Topic, *, sticky_bytes: int, partitioner: Partitioner | None) -> None:
        self.topic = topic
        # By partition: adds a record to its open batch, or returns None.
        self.appends: dict[int, Append] = {}
        self.pick = topic.picker(sticky_bytes=sticky_bytes, partitioner=partitioner)


class Producer(Closing):
    """Sends records to topics, in batches, from one background thread.

    Made by `Log.producer`.  A context manager; also closed with the log, and at exit.  Any number
    of threads may use it at once.  Records that one thread sends to one partition keep their order.
    After fork, a child may go on using it: it starts empty, and the futures of what the parent had
    not finished raise ClosedError there.
    """

    def __init__(
        self,
        topic: Callable[[str], Topic],
        config: ProducerConfig,
        *,
        partitioner: Partitioner | None = None,
        clock: Callable[[], int] = system_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._topic = topic
        self._partitioner = partitioner
        self._targets: dict[str, _Target] = {}
        accumulator = Accumulator(config, clock=clock, monotonic=monotonic)
        self._accumulator = accumulator
        # Not a method of this object: the thread must not keep alive who would close it.
        self.sender = Sender(accumulator, config, on_fork=self._targets.clear)

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = None,
        timestamp: int | None = None,
        partition: int | None = None,
        on_delivery: Callable[[SendFuture], object] | None = None,
    ) -> SendFuture:
        """Send one record; return a future of its RecordMetadata.

        value, key: bytes-like, copied here; None for null.  headers: (name, value) pairs.
        timestamp: milliseconds since the epoch, by default now.  partition: by default the one that
        the producer's partitioner picks; else by the key's murmur2 hash, as Kafka's Java client
        does; records without a key fill one batch after the other.  on_delivery: as the future's
        `add_done_callback`.
        Raises TypeError, InvalidRecordError also for a record without a key in a compacted topic,
        InvalidTimestampError, RecordTooLargeError, PartitionerError, UnknownTopicOrPartitionError,
        BufferExhaustedError after `max_block_ms` without room, and ClosedError; then nothing was
        taken.  What happens later is the future's: see `SendFuture.exception`.
        About 0.5 us; blocks only for want of memory.  Source: Kafka KafkaProducer.send.
        """
        if on_delivery is not None:
            check_callable("on_delivery", on_delivery)
        if timestamp is not None:
            self._check_timestamp(topic, timestamp)
        number = partition
        target = self._targets.get(topic)
        if target is not None:
            if number is None:
                number = target.pick(key, value)
            append = target.appends.get(number)
            if append is not None:
                future = append(value, key, headers, timestamp)
                if future is not None:
                    if on_delivery is not None:
                        future.add_done_callback(on_delivery)
                    return future
        future = self._send_slowly(topic, Given(value, key, headers, timestamp), number)
        if on_delivery is not None:
            future.add_done_callback(on_delivery)
        return future

    def _check_timestamp(self, name: str, timestamp: int) -> None:
        if not isinstance(timestamp, int):
            raise TypeError(f"timestamp must be an int, not {type(timestamp).__name__}")
        target = self._targets.get(name) or self._target(name)
        check_timestamp(timestamp, now=self._accumulator.clock(), config=target.topic.config)

    def _send_slowly(self, name: str, given: Given, number: int | None) -> SendFuture:
        """Send a record for which no open batch has room."""
        if self._accumulator.is_closing:
            raise ClosedError("the producer is closed")
        target = self._target(name)
        if number is None:
            number = target.pick(given.key, given.value)
        self.sender.start()
        future, builder = self._accumulator.append(target.topic.partition(number), given)
        target.appends[number] = builder.append
        return future

    def _target(self, name: str) -> _Target:
        """Return how a topic is sent to now: it may have been deleted or got more partitions."""
        topic = self._topic(name)
        target = self._targets.get(name)
        if target is None or target.topic is not topic:
            target = _Target(
                topic, sticky_bytes=self.config.batch_size, partitioner=self._partitioner
            )
            self._targets[name] = target
        return target

    def flush(self, timeout: float | None = None) -> bool:
        """Send what was sent so far without lingering; return whether all of it is done.

        timeout: seconds, None for ever.  Returns False after it.  What failed is done, too: ask
        the futures.  Callbacks have returned by then.  Raises RuntimeError in one of them, which
        would wait for itself; TypeError, ValueError for NaN.  Ends on Ctrl-C.
        """
        self.sender.check_thread()
        timeout, monotonic = seconds(timeout), self._accumulator.monotonic
        deadline = None if timeout is None else monotonic() + timeout
        return all(
            batch.wait_told(None if deadline is None else max(deadline - monotonic(), 0.0))
            for batch in self._accumulator.flush_begin()
        )

    def close(self, timeout: float | None = None) -> None:
        """Send what is left, and end.  Idempotent.

        timeout: seconds, None for as long as it takes, at most `delivery_timeout_ms`.  What was not
        begun by then fails with DeliveryTimeoutError: it is certainly not appended.
        Raises TypeError, ValueError for NaN, with nothing done.
        """
        timeout = seconds(timeout)
        self._targets.clear()
        self.sender.close(timeout)

    def __del__(self) -> None:
        # Whoever dropped it does not wait; the thread sends what is left, and ends.
        self._accumulator.close()

    def __repr__(self) -> str:
        return f"<Producer{' (closed)' if self._accumulator.is_closing else ''}>"
