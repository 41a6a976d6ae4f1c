"""`Consumer` for asyncio: as `pylog.Consumer`, with `await` and `async for`.

Knows when a consumer has to look, and where.  Must not know how it reads.

Locks: `_turn`, an asyncio one around each use of the consumer; not held while it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from pylog._native import Record
from pylog.aio.calls import Caller, Calls, awaited
from pylog.aio.closing import Closing
from pylog.aio.listening import Listening
from pylog.aio.prompt import Outlook, PromptConsumer
from pylog.aio.watch import Room
from pylog.arguments import seconds
from pylog.consumer.consumer import Consumer as SyncConsumer
from pylog.consumer.group_part import Listener
from pylog.errors import ClosedError, ConcurrentUseError

_Result = TypeVar("_Result")


class Consumer(Caller, Closing):
    """A `pylog.Consumer` for the tasks of one event loop.  Made by `pylog.aio.Log.consumer`.

    Methods are those of `pylog.Consumer`, which says what they do and raise, as coroutines; only
    `wakeup` is none.  An asynchronous iterator, and an asynchronous context manager.
    Several tasks may use it: their calls take turns.  Only one at a time may ask for records: who
    asks for more is done with what it got.  A second one gets ConcurrentUseError.
    A call that is cancelled leaves it usable, and loses no record: what a cancelled `poll` would
    have returned comes again.  A cancelled commit may be done or not.
    While it waits it has no thread, nor a call in one.  What was just appended is read in the
    loop, as it is in memory; what may wait for a disk is done in threads.
    """

    def __init__(self, core: PromptConsumer, calls: Calls, room: Room) -> None:
        super().__init__(core, calls)
        self._core = core
        self._room = room
        self._turn = asyncio.Lock()
        self._listening = Listening(calls.loop)
        self._is_asked = False
        self._waiting: asyncio.Future[None] | None = None

    # ------------------------------------------------------------------ records

    async def poll(
        self, timeout: float | None = None, max_records: int | None = None
    ) -> list[Record]:
        """Return the next records, as `pylog.Consumer.poll`; other tasks run while it waits."""
        limit = self._core.limit(max_records)
        records = await self._ask(
            functools.partial(self._core.poll, 0, limit),
            functools.partial(self._core.take, limit),
            timeout,
            unclaimed=self._give_back,
        )
        return records or []

    def __aiter__(self) -> AsyncIterator[Record]:
        """Iterate over the records as they come, for ever; see `records`."""
        return self.records()

    async def records(self, timeout: float | None = None) -> AsyncIterator[Record]:
        """Iterate over the records, and end when none came for `timeout` seconds.

        As `pylog.Consumer.records`.  Other tasks run at least every few milliseconds.
        """
        core = self._core
        while (piece := await self._ask(core.next_piece, core.take_piece, timeout)) is not None:
            for record in piece:
                yield record

    async def batches(
        self, max_records: int | None = None, *, timeout: float | None = None
    ) -> AsyncIterator[list[Record]]:
        """Iterate over lists of records, as `poll` returns them; ends as `records` does."""
        while records := await self.poll(timeout, max_records):
            yield records

    async def _ask(
        self,
        work: Callable[[], _Result | None],
        take: Callable[[], _Result | None],
        timeout: float | None,
        unclaimed: Callable[[_Result | None], object] = lambda result: None,
    ) -> _Result | None:
        """Return what one of the two gives; None, or what is false, after the timeout.

        work: does all that is due, in a thread.  take: just gives what is in memory.
        """
        if self._is_asked or self._listening.is_inside:
            raise ConcurrentUseError
        self._calls.check_loop()
        loop = self._calls.loop
        timeout = seconds(timeout)
        deadline = None if timeout is None else loop.time() + timeout
        self._is_asked = True
        try:
            # Who always finds something lets others run, too.  Not later: it would lose that.
            await asyncio.sleep(0)
            while True:
                seen = self._room.events.value
                result = await self._look(work, take, unclaimed)
                if result:
                    return result
                left = None if deadline is None else deadline - loop.time()
                if left is not None and left <= 0:
                    return result
                self._waiting = loop.create_future()
                await self._room.wait(self._waiting, self._is_due, seen, left)
        finally:
            self._is_asked = False

    async def _look(
        self,
        work: Callable[[], _Result | None],
        take: Callable[[], _Result | None],
        unclaimed: Callable[[_Result | None], object],
    ) -> _Result | None:
        """Return what there is now, without waiting for more; see `_ask`."""
        await self._turn.acquire()
        is_ours = True
        try:
            outlook = self._core.outlook()
            if outlook is Outlook.WORK:
                is_ours = False
                return await self._calls.make(work, ended=self._turn.release, unclaimed=unclaimed)
            return take() if outlook is Outlook.NEWS else None
        finally:
            if is_ours:
                self._turn.release()

    def _is_due(self) -> bool:
        # Whose turn it is wakes who waits, at its end.
        return not self._turn.locked() and self._core.outlook() is not Outlook.NOTHING

    def _give_back(self, records: list[Record] | None) -> None:
        with contextlib.suppress(ClosedError):
            self._core.give_back(records or [])

    # ------------------------------------------------------------------ what is read, and commits

    async def subscribe(
        self,
        *topics: str,
        pattern: str | re.Pattern[str] | None = None,
        on_assigned: Listener | None = None,
        on_revoked: Listener | None = None,
        on_lost: Listener | None = None,
    ) -> None:
        """Read these topics from now on, as `pylog.Consumer.subscribe` says.

        Listeners are functions or coroutine functions; they run in the event loop, and what they
        return is awaited before anything else happens to the partitions.  In them, this consumer
        can commit and seek, not ask for records or leave.  They may await all else of the log but
        other consumers: eight of these at most are in such calls at a time.
        """
        await self._make(
            functools.partial(
                self._core.subscribe,
                *topics,
                pattern=pattern,
                on_assigned=self._listening.listener(on_assigned),
                on_revoked=self._listening.listener(on_revoked),
                on_lost=self._listening.listener(on_lost),
            )
        )

    assign = awaited(SyncConsumer.assign)
    unsubscribe = awaited(SyncConsumer.unsubscribe)
    subscription = awaited(SyncConsumer.subscription)
    assignment = awaited(SyncConsumer.assignment)
    position = awaited(SyncConsumer.position)
    seek = awaited(SyncConsumer.seek)
    seek_to_time = awaited(SyncConsumer.seek_to_time)
    seek_to_beginning = awaited(SyncConsumer.seek_to_beginning)
    seek_to_end = awaited(SyncConsumer.seek_to_end)
    pause = awaited(SyncConsumer.pause)
    resume = awaited(SyncConsumer.resume)
    paused = awaited(SyncConsumer.paused)
    lag = awaited(SyncConsumer.lag)
    commit = awaited(SyncConsumer.commit)
    committed = awaited(SyncConsumer.committed)

    def wakeup(self) -> None:
        """Let the wait that is going on, or the next one, raise WakeupError; from any thread."""
        self._core.wakeup()

    async def close(self) -> None:
        """End, and leave the group, as `pylog.Consumer.close`; when cancelled, it goes on.

        Who waits for records gets ClosedError.
        """
        # The log may be closed, and the consumer with it.
        with contextlib.suppress(ClosedError):
            await self._make(self._core.close)

    async def _make(self, call: Callable[[], _Result]) -> _Result:
        """Make a call of the consumer in a thread, when it is its turn."""
        self._calls.check_loop()
        if self._listening.is_inside:
            return await self._listening.make(call)
        await self._turn.acquire()
        return await self._calls.make(call, ended=self._end_turn)

    def _end_turn(self) -> None:
        self._turn.release()
        # What was sought or resumed may be there already.
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def __repr__(self) -> str:
        return f"<aio.{repr(self._core)[1:]}"
