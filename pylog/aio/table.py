"""`Table` for asyncio: a topic as a mapping, which is brought up to date before each look.

Knows when that has to be done.  Must not know how.
"""

from __future__ import annotations

import contextlib
import functools

from pylog._native import RecordMetadata
from pylog.aio.calls import Caller, Calls
from pylog.aio.closing import Closing
from pylog.aio.watch import Room
from pylog.arguments import seconds
from pylog.errors import ClosedError
from pylog.table.table import Table as SyncTable


class Table(Caller, Closing):
    """The latest value of each key of a topic.  Made by `pylog.aio.Log.table`.

    All that was acknowledged before a look is seen by it; it reads in a thread, if anything was
    appended to the log.  Methods are those of `pylog.Table`, which says what they do and raise.
    """

    def __init__(self, table: SyncTable, calls: Calls, room: Room) -> None:
        """table: one that is refreshed by hand."""
        super().__init__(table, calls)
        self._table = table
        self._room = room
        self._seen: int | None = None

    async def refresh(self) -> dict[int, int]:
        """Take in all that is visible now, as `pylog.Table.refresh`."""
        seen = self._room.events.value
        offsets = await self._make(self._table.refresh)
        self._seen = seen
        return offsets

    async def _come_up_to_date(self) -> None:
        if self._seen != self._room.events.value:
            await self.refresh()

    async def get(self, key: bytes, default: bytes | None = None) -> bytes | None:
        """Return the value of a key, or the default."""
        await self._come_up_to_date()
        return await self._make(functools.partial(self._table.get, key, default))

    async def snapshot(self) -> dict[bytes, bytes]:
        """Return the keys and values of this moment, as `pylog.Table.snapshot`."""
        await self._come_up_to_date()
        return await self._make(self._table.snapshot)

    async def wait_for(
        self,
        offset: int | RecordMetadata,
        *,
        partition: int | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Wait until the record at an offset is in the table, as `pylog.Table.wait_for`."""
        loop, timeout = self._calls.loop, seconds(timeout)
        deadline = None if timeout is None else loop.time() + timeout
        look = functools.partial(self._table.wait_for, offset, partition=partition, timeout=0)
        while True:
            seen = self._room.events.value
            if await self._make(look):
                return True
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                return False
            await self._room.wait(loop.create_future(), lambda: True, seen, left)

    async def close(self) -> None:
        """End, as `pylog.Table.close`."""
        with contextlib.suppress(ClosedError):  # with its log
            await self._make(self._table.close)
