"""The batches of a producer that are not acknowledged yet: filled by its callers, taken when due.

Knows batches, when they are due and how much memory they take.  Must not know how they are sent.
Source: Kafka RecordAccumulator, BufferPool.

Locks: one, with two conditions: `_work` for the sender, `_room` for callers who wait for memory. A
record that fits its partition's open batch takes none: it is one C call, see `Lane.append`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, NamedTuple

from pylog._native import BatchBuilder, batch_size
from pylog.errors import (
    BufferExhaustedError,
    ClosedError,
    DeliveryTimeoutError,
    RecordTooLargeError,
)
from pylog.producer.config import ProducerConfig
from pylog.producer.futures import Delivery, SendFuture
from pylog.storage import policy
from pylog.storage.encoding import Headers, fitting_bytes
from pylog.storage.partition import Partition

_MS: Final = 1000


class Given(NamedTuple):
    """One record as a caller gave it."""

    value: bytes | None
    key: bytes | None
    headers: Headers
    timestamp: int | None


class Batch(Delivery):
    """Records of one partition that are sent together.

    created: when its first record came, seconds.  size: bytes of memory reserved for it.
    """

    __slots__ = ("builder", "created", "is_due", "lane", "size")

    builder: BatchBuilder

    def __init__(self, lane: Lane, *, created: float, size: int) -> None:
        super().__init__(lane.partition.topic, lane.partition.number)
        self.lane = lane
        self.created = created
        self.size = size
        self.is_due = False


class Lane:
    """The batches of one partition, oldest first; the last may be open."""

    __slots__ = ("batches", "epoch", "error", "opened", "partition", "retry_at", "sequence")

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.batches: deque[Batch] = deque()
        self.opened: Batch | None = None
        self.retry_at: float | None = None
        self.error: BaseException | None = None  # why it is tried again
        # What the next batch of an idempotent producer gets.
        self.epoch = 0
        self.sequence = 0

    def close_open(self) -> None:
        """Let the open batch take no more records."""
        if self.opened is not None:
            self.opened.builder.close()
            self.opened = None


class Accumulator:
    """Collects records into batches, within `buffer_memory`.

    clock: milliseconds since the epoch, for records without a timestamp.  monotonic: seconds.
    """

    def __init__(
        self,
        config: ProducerConfig,
        *,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._config = config
        self.clock = clock
        self.monotonic = monotonic
        self._linger = config.linger_ms / _MS
        self._backoff = config.retry_backoff_ms / _MS
        self._delivery_timeout = config.delivery_timeout_ms / _MS
        self.is_closing = False
        self.is_aborted = False
        self._begin()

    def _begin(self) -> None:
        # Reentrant: a producer that is collected while its sender is in here closes itself.
        lock = threading.RLock()
        self._work = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._lanes: dict[Partition, Lane] = {}
        self._lingering: OrderedDict[Batch, None] = OrderedDict()  # open ones, next due first
        self._ready: dict[Lane, None] = {}  # have a batch that is due
        self._resting: dict[Lane, None] = {}  # are tried again at their `retry_at`
        self._unresolved: dict[Batch, None] = {}
        self.used = 0
        self.waiting = 0

    # ------------------------------------------------------------------ callers

    def append(self, partition: Partition, given: Given) -> tuple[SendFuture, BatchBuilder]:
        """Add a record to a batch of its partition, opening one if need be; return that, too.

        Waits for memory.  Raises BufferExhaustedError, RecordTooLargeError, ClosedError.
        """
        with self._work:
            lane = self._lanes.get(partition)
            if lane is None:
                lane = self._lanes[partition] = Lane(partition)
            deadline: float | None = None
            while True:
                if self.is_closing:
                    raise ClosedError("the producer is closed")
                batch = lane.opened
                if batch is None:
                    # Measured in each turn: a bytearray may have grown while its owner waited.
                    size = self._batch_bytes(partition, given)
                    if self.used != 0 and self.used + size > self._config.buffer_memory:
                        deadline = self._wait_for_room_locked(deadline)
                        continue
                    batch = self._new_batch(lane, size)
                future: SendFuture | None = batch.builder.append(*given)
                if future is not None:
                    if lane.opened is not batch:
                        self._open_locked(batch)
                    return future, batch.builder
                if lane.opened is batch:
                    self._make_due_locked(batch)

    def _batch_bytes(self, partition: Partition, given: Given) -> int:
        """Return the size of a new batch that begins with this record."""
        needed = batch_size(given.value, given.key, given.headers)
        limit = partition.config.max_message_bytes
        if needed > limit:
            raise RecordTooLargeError(needed, limit)
        return max(needed, min(self._config.batch_size, fitting_bytes(limit)))

    def _new_batch(self, lane: Lane, size: int) -> Batch:
        batch = Batch(lane, created=self.monotonic(), size=size)
        needs_key = policy.is_compacted(lane.partition.config)
        batch.builder = BatchBuilder(SendFuture, batch, size, self.clock, needs_key)
        return batch

    def _open_locked(self, batch: Batch) -> None:
        """Let a batch that has its first record take more; an interrupt leaves nothing behind."""
        lane, used = batch.lane, self.used
        try:
            lane.batches.append(batch)
            self._unresolved[batch] = None
            self.used += batch.size
            lane.opened = batch
            self._lingering[batch] = None
            # Who is first sets the sender's alarm; the others come after it anyway.
            if len(self._lingering) == 1:
                self._work.notify()
        except BaseException:
            self._take_out_locked(batch)
            self._unresolved.pop(batch, None)
            self.used = used
            raise

    def _make_due_locked(self, batch: Batch) -> None:
        """Close an open batch and have it sent.

        In this order, so that who looks after an interrupt finds it open still, or due.
        """
        lane = batch.lane
        batch.is_due = True
        if lane.retry_at is None:
            self._ready[lane] = None
        self._lingering.pop(batch, None)
        batch.builder.close()
        if lane.opened is batch:
            lane.opened = None
        self._work.notify()

    def _wait_for_room_locked(self, deadline: float | None) -> float:
        """Wait until memory is given back; returns the time at which to give up."""
        now = self.monotonic()
        if deadline is None:
            deadline = now + self._config.max_block_ms / _MS
        if now >= deadline:
            raise BufferExhaustedError(self.used, self._config.max_block_ms)
        self.waiting += 1
        try:
            self._work.notify()
            self._room.wait(min(deadline - now, threading.TIMEOUT_MAX))
        finally:
            self.waiting -= 1
        return deadline

    def flush_begin(self) -> list[Batch]:
        """Have all batches sent without delay; return those that are not done yet."""
        with self._work:
            self._linger_no_more_locked()
            self._work.notify()
            return list(self._unresolved)

    def _linger_no_more_locked(self) -> None:
        for batch in list(self._lingering):
            self._make_due_locked(batch)

    def close(self) -> None:
        """Take no more records, and have all there are sent without delay."""
        self.is_closing = True
        with self._work:
            self._work.notify()
            self._room.notify_all()

    def abort(self) -> list[Batch]:
        """Take back all batches that nobody is sending, for the caller to fail."""
        with self._work:
            self.is_aborted = True
            taken = [batch for lane in self._lanes.values() for batch in lane.batches]
            for lane in self._lanes.values():
                lane.close_open()
                lane.batches.clear()
            self._lingering.clear()
            self._ready.clear()
            self._resting.clear()
            self._work.notify()
        return taken

    # ------------------------------------------------------------------ the sender

    def wait_for_due(self) -> list[tuple[Lane, list[Batch]]] | None:
        """Return what is due, by partition, waiting for it; None at the end of a closed producer.

        Each lane's batches are in the order in which they must be sent.
        """
        with self._work:
            while True:
                now = self.monotonic()
                due = self.take_due(now)
                if due:
                    return due
                if self.is_closing and not self._unresolved:
                    return None
                if self.is_aborted:
                    return None
                self._work.wait(self._next_due_locked(now))

    def take_due(self, now: float) -> list[tuple[Lane, list[Batch]]]:
        """Take what is due at `now` out of the lanes; each batch list is in the order to send."""
        with self._work:
            if self.is_closing or self.waiting:
                # Somebody waits for memory: what lingers would only make that longer.
                self._linger_no_more_locked()
            while self._lingering and self._first_due_locked() <= now:
                self._make_due_locked(next(iter(self._lingering)))
            for lane in [lane for lane in self._resting if (lane.retry_at or 0.0) <= now]:
                del self._resting[lane]
                lane.retry_at = None
                self._ready[lane] = None
            ready, self._ready = self._ready, {}
            return [(lane, batches) for lane in ready if (batches := self._take_locked(lane))]

    def _take_locked(self, lane: Lane) -> list[Batch]:
        """Take the batches off a lane that are due."""
        taken = []
        while lane.batches and lane.batches[0].is_due:
            taken.append(lane.batches[0])
            self._take_out_locked(lane.batches[0])
        return taken

    def _take_out_locked(self, batch: Batch) -> None:
        """Forget a batch that is its lane's first, or its last, or not there yet."""
        lane = batch.lane
        batch.builder.close()
        if lane.opened is batch:
            lane.opened = None
        self._lingering.pop(batch, None)
        if batch in lane.batches:
            lane.batches.remove(batch)

    def _first_due_locked(self) -> float:
        return next(iter(self._lingering)).created + self._linger

    def _next_due_locked(self, now: float) -> float | None:
        """Return the seconds until something is due by itself, None for never."""
        times = [lane.retry_at for lane in self._resting if lane.retry_at is not None]
        if self._lingering:
            times.append(self._first_due_locked())
        return min(max(min(times) - now, 0.0), threading.TIMEOUT_MAX) if times else None

    def is_late(self, batch: Batch) -> bool:
        """Return whether a batch may not be sent any more: its time is over."""
        return batch.created + self._delivery_timeout <= self.monotonic()

    def late_error(self, lane: Lane) -> DeliveryTimeoutError:
        """Return what becomes of a batch that is late."""
        error = DeliveryTimeoutError(
            f"not appended within delivery_timeout_ms={self._config.delivery_timeout_ms}"
        )
        error.__cause__ = lane.error
        return error

    def put_back(self, lane: Lane, batches: list[Batch], error: BaseException) -> bool:
        """Keep batches that could not be appended now, to be tried again after a while.

        Returns False if the producer was aborted meanwhile: the caller fails them.
        """
        with self._work:
            if self.is_aborted:
                return False
            lane.error = error
            lane.batches.extendleft(reversed(batches))
            lane.retry_at = self.monotonic() + self._backoff
            self._ready.pop(lane, None)
            self._resting[lane] = None
            return True

    def release(self, batches: list[Batch]) -> None:
        """Give back the memory of batches that are done."""
        with self._work:
            for batch in batches:
                if batch in self._unresolved:
                    del self._unresolved[batch]
                    self.used -= batch.size
                    del batch.builder
            self._room.notify_all()
            if self.is_closing:
                self._work.notify()

    def after_fork(self) -> list[Batch]:
        """In a forked child: begin empty; return what was the parent's, for the caller to fail."""
        unresolved = list(self._unresolved)
        for lane in self._lanes.values():
            lane.close_open()
        self._begin()
        return unresolved
