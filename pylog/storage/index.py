"""The offset index and the time index of a segment: sparse maps that may always be rebuilt.

Knows their packed entries (numpy views of a memory map, lookup in C).  Must not know batches or the
data file.  Kafka writes no checksum into these files, so every answer is a hint: the reader checks
it against the batch that it points at.

    .index      8 bytes  | relative offset (int32) | position (int32) |      big-endian
    .timeindex 12 bytes  | timestamp (int64) | relative offset (int32) |     big-endian

Source: Kafka OffsetIndex, TimeIndex, AbstractIndex.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pylog._native import lookup_offset, lookup_timestamp
from pylog.storage.files import Memory
from pylog.storage.policy import INDEX_ENTRY_BYTES, TIME_ENTRY_BYTES

OFFSET_ENTRY: Final = np.dtype([("offset", ">i4"), ("position", ">i4")])
TIME_ENTRY: Final = np.dtype([("timestamp", ">i8"), ("offset", ">i4")])
assert OFFSET_ENTRY.itemsize == INDEX_ENTRY_BYTES
assert TIME_ENTRY.itemsize == TIME_ENTRY_BYTES


class OffsetIndex:
    """Offsets to positions.  An entry holds a batch's last offset and the position it starts at."""

    __slots__ = ("_base_offset", "memory")

    def __init__(self, memory: Memory | bytes, *, base_offset: int) -> None:
        self.memory = memory
        self._base_offset = base_offset

    @property
    def capacity(self) -> int:
        """How many entries the memory can hold; how many are valid is the caller's to know."""
        return len(self.memory) // OFFSET_ENTRY.itemsize

    def lookup(self, offset: int, count: int) -> tuple[int, int]:
        """Return the position of the last entry at or before `offset`, and the entry's offset.

        offset: absolute, >= the base offset; count: the number of valid entries.
        Returns (0, -1) when there is none, so that a scan always has a place to begin; a segment's
        start needs no check against an entry.
        O(log n) over mapped memory; no syscalls; no lock.  Source: Kafka OffsetIndex.lookup.
        """
        count = min(count, self.capacity)
        found = lookup_offset(self.memory, count, offset - self._base_offset)
        if found < 0:
            return 0, -1
        entry_offset, position = self.entries(count)[found].item()
        return position, self._base_offset + entry_offset

    def entries(self, count: int) -> npt.NDArray[Any]:
        """Return the first `count` entries as a structured array (a view, no copy)."""
        return view_entries(self.memory, OFFSET_ENTRY)[:count]


class TimeIndex:
    """Timestamps to offsets.  An entry holds the max timestamp up to and including its offset."""

    __slots__ = ("_base_offset", "_entries", "_memory")

    def __init__(self, memory: Memory | bytes, *, base_offset: int) -> None:
        self._memory = memory
        self._base_offset = base_offset
        self._entries = view_entries(memory, TIME_ENTRY)

    @property
    def capacity(self) -> int:
        """How many entries the memory can hold; how many are valid is the caller's to know."""
        return len(self._entries)

    def lookup(self, timestamp: int, count: int, end_offset: int) -> tuple[int, int] | None:
        """Return (timestamp, offset) of the last entry at or before `timestamp`, None without one.

        count: the number of valid entries; end_offset: absolute, entries from there on are not
        looked at.
        O(log n) over mapped memory; no syscalls; no lock.  Source: Kafka TimeIndex.lookup.
        """
        count = min(count, self.capacity)
        found = lookup_timestamp(self._memory, count, timestamp)
        while found >= 0:
            entry_timestamp, offset = self._entries[found].item()
            if self._base_offset + offset < end_offset:
                return entry_timestamp, self._base_offset + offset
            found -= 1
        return None

    def entries(self, count: int) -> npt.NDArray[Any]:
        """Return the first `count` entries as a structured array (a view, no copy)."""
        return self._entries[:count]


def view_entries(memory: Memory | bytes, entry: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return whole entries of `memory` as a numpy view; trailing bytes are left out."""
    # A memoryview, because numpy's types do not know of other buffers.
    return np.frombuffer(memoryview(memory), dtype=entry, count=len(memory) // entry.itemsize)


def entries_agree(index: bytes, timeindex: bytes, *, size: int, offsets: int) -> bool:
    """Return whether the entries of a sealed segment can be what was written.

    size: of its log in bytes; offsets: how many it spans.  Entries ascend and stay inside; zeros,
    as a power cut leaves them, do not.  O(entries); the batches themselves are not looked at.
    """
    places = np.frombuffer(index, OFFSET_ENTRY)
    times = np.frombuffer(timeindex, TIME_ENTRY)
    return (
        _ascends(places["offset"], 0, offsets)
        and _ascends(places["position"], 1, size)
        and _ascends(times["offset"], 0, offsets)
        and bool(np.all(np.diff(times["timestamp"]) > 0))
        # A first entry of zeros may be true, but hardly ever is: it costs a needless rebuild then.
        and timeindex[: TIME_ENTRY.itemsize] != bytes(TIME_ENTRY.itemsize)
    )


def _ascends(values: npt.NDArray[Any], first: int, end: int) -> bool:
    if not len(values):
        return True
    return bool(values[0] >= first and values[-1] < end and np.all(np.diff(values) > 0))
