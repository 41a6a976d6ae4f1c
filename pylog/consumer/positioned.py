"""Where a consumer is in its partitions: what is asked of that, and told.

Knows the cursors of its partitions.  Must not know which partitions those are, nor who commits.

Locks: the gate's, which lets one thread in at a time.
"""

from __future__ import annotations

import datetime
import operator
from abc import ABC, abstractmethod

from pylog.consumer.gate import Gate, alone
from pylog.engine.moments import milliseconds_of
from pylog.errors import NotAssignedError
from pylog.records import TopicPartition
from pylog.topics.cursors import Cursor, Cursors


class PositionedConsumer(ABC):
    """The positions of a consumer."""

    gate: Gate
    _cursors: Cursors

    @abstractmethod
    def _refresh(self) -> bool:
        """Follow topics that were made, grew or were deleted; return whether any was."""

    @alone
    def position(self, topic: str, partition: int) -> int:
        """Return the offset behind the last record that was given: of the next one to come.

        Raises NotAssignedError, NoOffsetForPartitionError, and what `Partition.first_offset`
        raises when `auto_offset_reset` asks for it.
        """
        return self._cursor(topic, partition).position

    @alone
    def seek(self, topic: str, partition: int, *, offset: int) -> None:
        """Go on with the record at `offset` of a partition, or the next one after it.

        offset: at least 0.  Where there is none, the next read does what `auto_offset_reset` says.
        Raises NotAssignedError, TypeError, ValueError.  No I/O.
        """
        cursor = self._cursor(topic, partition)
        offset = operator.index(offset)
        if offset < 0:
            raise ValueError(f"offset {offset}: expected at least 0")
        self._seek(cursor, offset)

    @alone
    def seek_to_time(self, when: int | datetime.datetime, *partitions: tuple[str, int]) -> None:
        """Go on with the first record that is at least as late as `when`, else with what comes.

        when: milliseconds since the epoch, or an aware datetime.  partitions: (topic, number)
        pairs, by default all that are read; each is looked up now.
        Raises NotAssignedError and what `Partition.offset_for_time` raises; partitions before the
        one that it is about are sought then.
        """
        timestamp = milliseconds_of(when)
        for cursor in self._chosen(partitions):
            self._seek(cursor, cursor.partition.first_offset(timestamp))

    @alone
    def seek_to_beginning(self, *partitions: tuple[str, int]) -> None:
        """Go on with the first record; partitions as in `seek_to_time`.

        Raises NotAssignedError.
        """
        for cursor in self._chosen(partitions):
            self._seek(cursor, cursor.partition.log_start_offset)

    @alone
    def seek_to_end(self, *partitions: tuple[str, int]) -> None:
        """Go on with what is appended from now on; partitions as in `seek_to_time`.

        Raises NotAssignedError.
        """
        for cursor in self._chosen(partitions):
            self._seek(cursor, cursor.partition.high_watermark)

    @alone
    def pause(self, *partitions: tuple[str, int]) -> None:
        """Give no records of these partitions until `resume`; by default of all that are read.

        Raises NotAssignedError.
        """
        for cursor in self._chosen(partitions):
            cursor.is_paused = True
            cursor.stop()

    @alone
    def resume(self, *partitions: tuple[str, int]) -> None:
        """Give records of these partitions again; by default of all.  Raises NotAssignedError."""
        for cursor in self._chosen(partitions):
            cursor.is_paused = False

    @alone
    def paused(self) -> set[TopicPartition]:
        """Return the partitions that are paused."""
        return {name_of(cursor) for cursor in self._cursors if cursor.is_paused}

    @alone
    def lag(self) -> dict[TopicPartition, int]:
        """Return for each partition that is read how many offsets lie before the high watermark.

        Raises what `position` raises.  Copies the marks of each; reads nothing.
        """
        self._refresh()
        return {
            name_of(cursor): max(cursor.partition.high_watermark - cursor.position, 0)
            for cursor in self._cursors
        }

    def _cursor(self, topic: str, number: int) -> Cursor:
        cursor = self._cursors.get(topic, number)
        if cursor is None:
            raise NotAssignedError(topic, number)
        return cursor

    def _chosen(self, partitions: tuple[tuple[str, int], ...]) -> list[Cursor]:
        if not partitions:
            return list(self._cursors)
        return [self._cursor(topic, number) for topic, number in partitions]

    def _seek(self, cursor: Cursor, offset: int) -> None:
        cursor.seek(offset)


def name_of(cursor: Cursor) -> TopicPartition:
    """Return the name of a cursor's partition."""
    return TopicPartition(cursor.partition.topic, cursor.partition.number)
