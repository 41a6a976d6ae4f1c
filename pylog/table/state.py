"""What a table holds and how far it has come: in memory, or where store.py keeps it.

Knows how records that were read become keys and values.  Must not know when to read, nor who looks.

Locks: none here.  One thread takes in records at a time, any number look.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Final

from pylog._native import Records
from pylog.errors import TombstonesDroppedError, TopicTruncatedError
from pylog.storage.partition import Partition
from pylog.table.position import check_start

# Half of a processor's second cache.  Measured: 1 MiB takes 10 % longer, 64 KiB 2 %.
_MEMORY_READ_BYTES: Final = 256 << 10


class TableState(ABC):
    """The keys with their latest values, and for each partition the offset to read from next."""

    read_bytes: int

    def __init__(self) -> None:
        self.offsets: dict[int, int] = {}
        self.keyless_records = 0
        # Partitions of which nothing was read: that their first records go is no loss.
        self._untouched: set[int] = set()
        # Of each partition, up to where tombstones had been dropped when it was read last.
        self._dropped_ends: dict[int, int] = {}

    def begin(self, partition: Partition) -> int:
        """Return the offset to read from next.

        Raises RecordsMissedError and TopicTruncatedError when the partition does not go on from
        where this stands, and what a read raises.
        """
        number = partition.number
        if number not in self.offsets:
            self.offsets[number] = self._resume(partition)
        if number in self._untouched:
            self._dropped_ends[number] = partition.dropped_tombstones_end
            self.offsets[number] = partition.log_start_offset
        offset, high_watermark = self.offsets[number], partition.high_watermark
        if offset > high_watermark:
            raise TopicTruncatedError(partition.topic, number, offset, high_watermark)
        check_start(partition, offset)
        return offset

    def _resume(self, partition: Partition) -> int:
        """Return where to begin in a partition that was not read since this was opened."""
        self._untouched.add(partition.number)
        return partition.log_start_offset

    def is_whole(self, partition: Partition) -> bool:
        """Return whether what was just read from the offset that is next is all that was there.

        If not, it must not be taken in: begin again.
        A tombstone is dropped after all that it takes away, so it is missed only by who has read
        some of that, and comes to its offset when it is gone.  Below what had been dropped when
        this began to read there was nothing left for tombstones to take away.
        Raises TombstonesDroppedError if what was read before is of no use any more, ClosedError,
        CorruptFileError, OSError.
        """
        number = partition.number
        offset, dropped_end = self.offsets[number], partition.dropped_tombstones_end
        if dropped_end <= max(offset, self._dropped_ends[number]):
            return True
        if number in self._untouched:
            return False
        raise TombstonesDroppedError(partition.topic, number, offset, dropped_end)

    def fold(self, number: int, records: Records) -> None:
        """Take in records of one partition that were read from the offset that is next.

        Raises CorruptRangeError, InvalidRecordError and MissingExtraError as iterating them does,
        and what the store raises: some of them may be in then, and will be taken in again.
        """
        # First: should it fail, some are in already.
        self._untouched.discard(number)
        self.keyless_records += self._take(number, records)
        # Last, so that who sees the offset sees what is below it.
        self.offsets[number] = records.next_offset

    @abstractmethod
    def _take(self, number: int, records: Records) -> int:
        """Take in records; return how many of them had no key."""

    @abstractmethod
    def restarted(self) -> TableState:
        """Return an empty state to begin anew with, which may be this one."""

    @abstractmethod
    def value(self, key: bytes) -> bytes:
        """Return the value of a key.  Raises KeyError."""

    @abstractmethod
    def keys(self) -> list[bytes]:
        """Return all keys of one moment."""

    @abstractmethod
    def copy(self) -> dict[bytes, bytes]:
        """Return all keys and values of one moment."""

    @abstractmethod
    def __len__(self) -> int: ...

    def check(self) -> None:
        """Assert every invariant."""
        assert all(offset >= 0 for offset in self.offsets.values()), self.offsets
        assert self._untouched <= self.offsets.keys()
        assert len(self.keys()) == len(self)

    @abstractmethod
    def after_fork(self, lock: threading.RLock) -> None:
        """In a forked child: use this lock, if any."""


class MemoryState(TableState):
    """A dict.  Looking is one operation of it, so it needs no lock."""

    read_bytes = _MEMORY_READ_BYTES

    def __init__(self) -> None:
        super().__init__()
        self._items: dict[bytes, bytes] = {}

    def _take(self, number: int, records: Records) -> int:
        return records.fold(self._items, False)[1]

    def restarted(self) -> MemoryState:
        """Return another one: who looks sees this one until the other is complete."""
        return MemoryState()

    def value(self, key: bytes) -> bytes:
        """Return the value of a key.  Raises KeyError."""
        return self._items[key]

    def keys(self) -> list[bytes]:
        """Return all keys of one moment."""
        return list(self._items)

    def copy(self) -> dict[bytes, bytes]:
        """Return all keys and values of one moment."""
        return self._items.copy()

    def __len__(self) -> int:
        return len(self._items)

    def after_fork(self, lock: threading.RLock) -> None:
        """In a forked child: one operation of a dict is done or not."""
