"""What a send returns: a future of the record's metadata, cheap because its batch does the work.

Knows batches as something that is pending, appended or failed.  Must not know who sends them.

Locks, in this order:
    _waiting    one for all batches, taken when one is done and by the waiting functions of
                concurrent.futures: they take a lock for each future, in the order of the futures'
                addresses, so with one lock a batch two of them could wait for each other
    condition   one a batch, shared by all of its futures
Callbacks run without them.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from typing import Any, Final

from pylog._native import RecordMetadata, Sent
from pylog.arguments import seconds
from pylog.callbacks import call_safely

_CALLBACK: Final = "a callback"
# The states that the waiting functions of concurrent.futures compare with.
_PENDING: Final = "PENDING"
_FINISHED: Final = "FINISHED"

_waiting = threading.Condition()


def _after_fork_in_child() -> None:
    global _waiting
    _waiting = threading.Condition()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork_in_child)


class Delivery:
    """What becomes of one batch, shared by the futures of its records.

    base_offset: of its first record.  append_time: in place of the records' timestamps, if given.
    is_told: done, and the callbacks that were there by then have returned.
    """

    __slots__ = (
        "append_time",
        "base_offset",
        "callbacks",
        "condition",
        "error",
        "is_done",
        "is_told",
        "partition",
        "topic",
        "waiters",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.base_offset = -1
        self.append_time: int | None = None
        self.error: BaseException | None = None
        self.is_done = False
        self.is_told = False
        self.condition = threading.Condition()
        self.callbacks: list[tuple[SendFuture, Callable[[SendFuture], object]]] = []
        self.waiters: dict[int, tuple[SendFuture, list[Any]]] = {}

    def resolve(self, base_offset: int, append_time: int | None = None) -> None:
        """Say that the batch was appended; callbacks run here."""
        self.base_offset = base_offset
        self.append_time = append_time
        self._finish()

    def fail(self, error: BaseException) -> None:
        """Say that it was not, or that nobody knows; callbacks run here."""
        self.error = error
        self._finish()

    def _finish(self) -> None:
        """Tell those who wait, then the callbacks, then who waits for these."""
        with _waiting, self.condition:
            self.is_done = True
            for future, waiters in self.waiters.values():
                for waiter in waiters:
                    tell = waiter.add_result if self.error is None else waiter.add_exception
                    tell(future)
            callbacks, self.callbacks = self.callbacks, []
            self.is_told = not callbacks
            self.condition.notify_all()
        try:
            for future, function in callbacks:
                call_safely(function, future, what=_CALLBACK)
        finally:
            if callbacks:
                with self.condition:
                    self.is_told = True
                    self.condition.notify_all()

    def wait(self, timeout: float | None) -> bool:
        """Return whether the batch is done, after at most `timeout` seconds."""
        with self.condition:
            return self.condition.wait_for(lambda: self.is_done, seconds(timeout))

    def wait_told(self, timeout: float | None) -> bool:
        """Return whether batch and callbacks are done, after at most `timeout` seconds."""
        with self.condition:
            return self.condition.wait_for(lambda: self.is_told, timeout)

    def after_fork(self, error: BaseException) -> None:
        """In a forked child: fail, whatever lock another thread of the parent held."""
        self.condition = threading.Condition()
        # What was asked for in the parent runs in the parent.
        self.callbacks, self.waiters = [], {}
        self.error = error
        self.is_done = self.is_told = True


class SendFuture(Sent, concurrent.futures.Future[RecordMetadata]):
    """The future of one record that was sent.

    As `concurrent.futures.Future`: `concurrent.futures.wait`, `as_completed` and
    `asyncio.wrap_future` take it.  A record cannot be taken back, so `cancel` returns False.
    """

    __slots__ = ()

    _batch: Delivery

    def cancel(self) -> bool:
        """Return False: it may be on its way."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def running(self) -> bool:
        """Return whether it is on its way."""
        return not self._batch.is_done

    def done(self) -> bool:
        """Return whether it is known what became of the record."""
        return self._batch.is_done

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Return where the record is, once it is acknowledged as the producer's `acks` asks.

        timeout: seconds, None for ever.  Raises TimeoutError after it, TypeError, ValueError for
        NaN, and what `exception` returns.  Blocks without the GIL; ends on Ctrl-C.
        """
        batch = self._batch
        if not (batch.is_done or batch.wait(timeout)):
            raise TimeoutError
        if batch.error is not None:
            # All records of the batch raise this one object: none shall keep the others' frames.
            raise batch.error.with_traceback(None)
        append_time = batch.append_time
        return RecordMetadata(
            batch.topic,
            batch.partition,
            batch.base_offset + self._index,
            self._timestamp if append_time is None else append_time,
        )

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return why the record was not acknowledged, None if it was.

        NotAppendedError and its kinds: it is certainly not in the log.  DurabilityUnknownError: it
        may be.  ClosedError: in a forked child, whose parent alone knows.
        timeout: as in `result`; raises TimeoutError after it, TypeError, ValueError for NaN.
        """
        if not (self._batch.is_done or self._batch.wait(timeout)):
            raise TimeoutError
        return self._batch.error

    def add_done_callback(self, function: Callable[[SendFuture], object]) -> None:
        """Call `function` with this future when it is done, or now if it is.

        In the producer's thread, in the order of a partition's records; what is slow there delays
        all that is sent.  What it raises is logged.
        """
        batch = self._batch
        with batch.condition:
            if not batch.is_done:
                batch.callbacks.append((self, function))
                return
        call_safely(function, self, what=_CALLBACK)

    def __repr__(self) -> str:
        batch = self._batch
        state = "pending"
        if batch.is_done:
            state = f"offset {batch.base_offset + self._index}"
            if batch.error is not None:
                state = f"failed: {batch.error!r}"
        return f"<SendFuture {batch.topic}-{batch.partition}: {state}>"

    # What `concurrent.futures.wait` and `as_completed` look at; no public way exists.

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        return _waiting

    @property
    def _state(self) -> str:  # type: ignore[override]
        return _FINISHED if self._batch.is_done else _PENDING

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        return self._batch.waiters.setdefault(self._index, (self, []))[1]
