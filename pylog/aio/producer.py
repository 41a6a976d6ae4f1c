"""`Producer` for asyncio: as `pylog.Producer`, with futures of the event loop.

Knows what was sent and is not acknowledged yet.  Must not know how it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Final

from pylog._native import RecordMetadata
from pylog.aio.calls import Calls
from pylog.aio.closing import Closing
from pylog.arguments import seconds
from pylog.callbacks import call_safely
from pylog.errors import BufferExhaustedError, ClosedError
from pylog.producer.futures import Delivery, SendFuture
from pylog.producer.producer import Producer as SyncProducer
from pylog.storage.encoding import Headers

# Memory is given back some moments after a batch is done.
_ROOM_SECONDS: Final = 0.005  # guessed
_TURN: Final = 256  # records that one task may send before others run: 0.3 ms (measured)

Sent = tuple[SendFuture, "asyncio.Future[RecordMetadata]", "Callable[[SendFuture], object] | None"]

NOT_SENT: Final = "the record was not sent"
SENT: Final = "the record was sent: it is or will be appended, unless the producer says otherwise"


class _Pending:
    """A batch that is not acknowledged yet: what was sent in it, and its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.sent: list[Sent] = []
        self.done: asyncio.Future[None] = loop.create_future()


class Producer(Closing):
    """A `pylog.Producer` for the tasks of one event loop.  Made by `pylog.aio.Log.producer`.

    Any number of tasks may use it at once.  Records that one task sends to one partition keep their
    order.  An asynchronous context manager.
    """

    def __init__(self, producer: SyncProducer, calls: Calls, *, max_block: float) -> None:
        """producer: one that never blocks.  max_block: seconds that `send` waits for memory."""
        self._producer = producer
        self._calls = calls
        self._max_block = max_block
        self._pending: dict[Delivery, _Pending] = {}
        self._count = 0

    async def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = None,
        timestamp: int | None = None,
        partition: int | None = None,
        on_delivery: Callable[[SendFuture], object] | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        """Send one record, waiting for memory if need be; return a future of its RecordMetadata.

        Arguments and errors as `pylog.Producer.send`.  on_delivery: called in the event loop, also
        when nobody waits for the future any more.
        When this is cancelled, the record is not sent.  When it has returned, it is, and cancelling
        the future does not take it back; `asyncio.shield` keeps it for who wants to know later.
        """
        self._calls.check_loop()
        self._count += 1
        if self._count % _TURN == 0:
            await asyncio.sleep(0)
        deadline: float | None = None
        while True:
            try:
                sent = self._producer.send(topic, value, key, headers, timestamp, partition)
                break
            except BufferExhaustedError as error:
                deadline = await self._wait_for_room(error, deadline)
        loop = self._calls.loop
        future: asyncio.Future[RecordMetadata] = loop.create_future()
        batch = sent._batch
        pending = self._pending.get(batch)
        if pending is None:
            pending = self._pending[batch] = _Pending(loop)
            sent.add_done_callback(self._delivered)
        pending.sent.append((sent, future, on_delivery))
        return future

    async def send_and_wait(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = None,
        timestamp: int | None = None,
        partition: int | None = None,
    ) -> RecordMetadata:
        """Send one record; return where it is, once it is acknowledged.

        Raises what `send` raises, and what its future does.  When it is cancelled, a note of the
        CancelledError says whether the record was sent.
        """
        try:
            future = await self.send(topic, value, key, headers, timestamp, partition)
        except asyncio.CancelledError as error:
            error.add_note(NOT_SENT)
            raise
        try:
            return await future
        except asyncio.CancelledError as error:
            error.add_note(SENT)
            raise

    async def _wait_for_room(self, error: BufferExhaustedError, deadline: float | None) -> float:
        """Wait until memory may have been given back; return the time at which to give up."""
        now = self._calls.loop.time()
        if deadline is None:
            deadline = now + self._max_block
        if now >= deadline:
            raise BufferExhaustedError(error.used, round(self._max_block * 1000))
        # What lingers would only make that longer.
        self._flush_begin()
        pause = min(deadline - now, _ROOM_SECONDS)
        oldest = next(iter(self._pending.values()), None)
        if oldest is None:
            await asyncio.sleep(pause)
        else:
            await asyncio.wait([oldest.done], timeout=pause)
        return deadline

    def _flush_begin(self) -> None:
        self._producer.sender.accumulator.flush_begin()

    def _delivered(self, sent: SendFuture) -> None:
        """Resolve a batch in the loop; called by the producer's thread, for the first record."""
        # With the loop, all who wait are gone.
        with contextlib.suppress(RuntimeError):
            self._calls.loop.call_soon_threadsafe(self._resolve, sent._batch)

    def _resolve(self, batch: Delivery) -> None:
        pending, error = self._pending.pop(batch), batch.error
        for sent, future, on_delivery in pending.sent:
            if not future.done():
                if error is None:
                    future.set_result(sent.result())
                else:
                    future.set_exception(error)
            if on_delivery is not None:
                call_safely(on_delivery, sent, what="a callback")
        pending.done.set_result(None)

    async def flush(self, timeout: float | None = None) -> bool:
        """Send what was sent so far without lingering; return whether all of it is done.

        timeout: seconds, None for ever.  Returns False after it.  What failed is done, too: ask
        the futures.
        """
        self._calls.check_loop()
        timeout = seconds(timeout)
        self._flush_begin()
        batches = [pending.done for pending in self._pending.values()]
        if not batches:
            return True
        _, late = await asyncio.wait(batches, timeout=timeout)
        return not late

    async def close(self, timeout: float | None = None) -> None:
        """Send what is left, and end, as `pylog.Producer.close`.  Idempotent.

        When this is cancelled, it goes on in a thread.
        """
        self._calls.check_loop()
        with contextlib.suppress(ClosedError):  # with its log
            await self._calls.make(functools.partial(self._producer.close, timeout))

    def __repr__(self) -> str:
        return f"<aio.{repr(self._producer)[1:]}"
