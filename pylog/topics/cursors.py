"""Where reading of partitions goes on: each by its turn, from where the last read of it stopped.

Knows partitions, offsets, and what is left of a read.  Must not know which partitions are asked
for, where reading begins, nor when to wait.

Locks: none; one thread at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from pylog._native import Record, RecordsIterator
from pylog.errors import CorruptRangeError, OffsetOutOfRangeError
from pylog.storage.partition import Partition

# Returns where reading begins: when nobody said so, or when what was said is out of range.
Locate = Callable[[Partition, OffsetOutOfRangeError | None], int]

_NOBODY: Final = -1  # before the first one's turn


class Cursor:
    """Where reading of one partition goes on.

    rest: what the last read has left to give; who iterates over it moves the position.
    """

    __slots__ = ("_epoch", "_locate", "_offset", "is_paused", "partition", "rest")

    def __init__(self, partition: Partition, locate: Locate) -> None:
        self.partition = partition
        self.rest: RecordsIterator | None = None
        self.is_paused = False
        self._locate = locate
        self._offset: int | None = None
        self._epoch: int | None = None

    @property
    def leader_epoch(self) -> int | None:
        """That of the last record that was given, or of `seek`; None when there is none."""
        if self.rest is not None and self.rest.leader_epoch >= 0:
            return self.rest.leader_epoch
        return self._epoch

    @property
    def position(self) -> int:
        """The offset behind the last record that was given.  Raises what `locate` raises."""
        if self.rest is not None:
            return self.rest.next_offset
        if self._offset is None:
            self._offset = self._locate(self.partition, None)
        return self._offset

    @property
    def distance(self) -> int | None:
        """How many offsets lie before the high watermark: negative behind it, None if unknown.

        Unknown is where it begins, before the first look at the partition.  Copies the marks.
        Raises what `Partition.high_watermark` raises.
        """
        if self.rest is None and self._offset is None:
            return None
        return self.partition.high_watermark - self.position

    def seek(self, offset: int, *, leader_epoch: int | None = None) -> None:
        """Go on at `offset`; who iterates over `rest` is at its end.

        leader_epoch: what `leader_epoch` is then: in which the log was seen to reach that far.
        """
        self.stop()
        self._offset, self._epoch = offset, leader_epoch

    def stop(self) -> None:
        """Let go of the last read; who iterates over `rest` is at its end.  The position stays."""
        if self.rest is not None:
            self._epoch = self.leader_epoch
            self._offset = self.rest.next_offset
            self.rest.stop()
            self.rest = None

    def has_more(self, max_bytes: int) -> bool:
        """Return whether `rest` may have something to give, after reading if it had not.

        Raises what `Partition.read` and `locate` raise; the position stays then.
        """
        rest = self.rest
        if rest is not None:
            if not rest.has_ended and not rest.has_failed:
                return True
            self.stop()
        while True:
            offset = self.position
            try:
                records = self.partition.read(offset, max_bytes)
            except OffsetOutOfRangeError as error:
                self._name(error)
                self._offset = self._locate(self.partition, error)
            except CorruptRangeError as error:
                self._name(error)
                raise
            else:
                if records.next_offset == offset:
                    return False
                self.rest = iter(records)
                return True

    def take(self, count: int, into: list[Record]) -> None:
        """Append up to `count` records of `rest` to a list; after an error those before it.

        Raises what iterating over Records raises.
        """
        if self.rest is not None:
            try:
                into.extend(itertools.islice(self.rest, count))
            except CorruptRangeError as error:
                self._name(error)
                raise

    def _name(self, error: CorruptRangeError | OffsetOutOfRangeError) -> None:
        error.topic, error.partition = self.partition.topic, self.partition.number


class Followed(NamedTuple):
    """What `Cursors.follow` changed."""

    added: list[Cursor]
    gone: list[Cursor]


class Cursors:
    """The cursors of several partitions, which take turns."""

    def __init__(self, locate: Locate) -> None:
        self._locate = locate
        self._cursors: dict[tuple[str, int], Cursor] = {}
        self._order: list[Cursor] = []
        self._turn = _NOBODY

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Cursor]:
        return iter(self._order)

    def get(self, topic: str, number: int) -> Cursor | None:
        """Return the cursor of a partition, None when it is not read."""
        return self._cursors.get((topic, number))

    def stop(self) -> None:
        """Let go of all reads; who iterates over them is at their end.  The positions stay."""
        for cursor in self._order:
            cursor.stop()

    def follow(self, partitions: Sequence[Partition]) -> Followed:
        """Read just these from now on; return the cursors that are new, and those that are gone.

        The new ones come in the order given.  Those that stay are not disturbed.  A topic
        that was made anew has new partitions.
        """
        before, self._cursors = self._cursors, {}
        added = []
        for partition in partitions:
            name = (partition.topic, partition.number)
            cursor = before.get(name)
            if cursor is None or cursor.partition is not partition:
                cursor = Cursor(partition, self._locate)
                added.append(cursor)
            else:
                del before[name]
            self._cursors[name] = cursor
        gone = list(before.values())
        for cursor in gone:
            cursor.stop()
        self._order = list(self._cursors.values())
        return Followed(added, gone)

    def next_ready(self, max_bytes: int) -> Cursor | None:
        """Return the next one, in turn, whose `rest` may have something to give; None if none has.

        max_bytes: of one read.  Raises what `Cursor.has_more` raises, in the turn of the one that
        it is about: the next call goes on behind it.
        """
        order = self._order
        for _ in range(len(order)):
            self._turn = (self._turn + 1) % len(order)
            cursor = order[self._turn]
            if not cursor.is_paused and cursor.has_more(max_bytes):
                return cursor
        return None
