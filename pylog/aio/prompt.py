"""A consumer that can be asked, without waiting and without I/O, whether there is anything to do.

Knows what a look would do.  Must not know event loops.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

from pylog._native import Record
from pylog.consumer.consumer import Consumer
from pylog.consumer.gate import alone
from pylog.errors import ClosedError, PylogError, UnknownTopicOrPartitionError
from pylog.topics.cursors import Cursor

_PIECE_SECONDS: Final = (
    0.005  # so long may a loop keep others waiting that awaits nothing (guessed)
)


class Outlook(enum.Enum):
    """What a look would bring."""

    NOTHING = enum.auto()
    NEWS = enum.auto()  # a few records that were just appended, so that they are in memory
    WORK = enum.auto()  # more than that, which may write and wait for a disk


class PromptConsumer(Consumer):
    """What `pylog.aio.Consumer` is made of: a consumer, and what can be had of it at once."""

    def outlook(self) -> Outlook:
        """Return what a look would bring.  Copies marks.

        What goes wrong here is work: a look meets it again, and mends it, or raises it.
        """
        try:
            return self._outlook()
        except (PylogError, OSError):
            return Outlook.WORK

    def _outlook(self) -> Outlook:
        part, commits = self._part, self._commits
        if self.gate.is_called or part is None or part.is_due():
            return Outlook.WORK
        if commits is not None and commits.is_due(self._monotonic()):
            return Outlook.WORK
        total = 0
        for cursor in self._cursors:
            distance = 0 if cursor.is_paused else cursor.distance
            if distance is None or distance < 0:
                return Outlook.WORK
            total += distance
        if total == 0:
            return Outlook.NOTHING
        return Outlook.NEWS if total <= self.config.max_poll_records else Outlook.WORK

    def limit(self, max_records: int | None) -> int:
        """Return how many records `poll` returns at most.  Raises ValueError."""
        return self._limit(max_records)

    @alone
    def take(self, limit: int) -> list[Record]:
        """Return records as `poll(0, limit)`, and do nothing else that is due."""
        self._ask()
        return self._collect(self._next_at_once, limit)

    @alone
    def take_piece(self) -> Iterator[Record] | None:
        """Return records as `next_piece`, and do nothing else that is due."""
        self._ask()
        cursor = self._next_at_once()
        return None if cursor is None else self._piece(cursor, _PIECE_SECONDS)

    @alone
    def next_piece(self) -> Iterator[Record] | None:
        """Return some records for a loop, None if there are none."""
        cursor = self._await(self._deadline(0))
        return None if cursor is None else self._piece(cursor, _PIECE_SECONDS)

    @alone
    def give_back(self, records: list[Record]) -> None:
        """Give these again, which `poll` returned, and nobody got."""
        is_back = set()
        for record in records:
            place = (record.topic, record.partition)
            cursor = self._cursors.get(*place)
            if cursor is not None and place not in is_back:
                self._seek(cursor, record.offset)
            is_back.add(place)

    def _ask(self) -> None:
        # Who asks for more is done with what it got.
        if self._commits is not None:
            self._commits.settle()

    def _next_at_once(self) -> Cursor | None:
        try:
            return self._cursors.next_ready(self._read_bytes)
        except (UnknownTopicOrPartitionError, ClosedError):
            # A topic was deleted just now; a look that does all that is due sees to that.
            return None
