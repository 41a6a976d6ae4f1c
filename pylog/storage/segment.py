"""One base offset: a `.log` file and its two indexes; read, seal and verify.

Knows its own files and how batches follow each other.  Must not know other segments, the shared
page or retention.  A segment object is immutable but for its caches: what grows (the end of the
active segment) is handed in as a `SegmentView` by the partition, taken from one copy of the marks.

Locks: none.  Any number of threads may read; files close when their last reader lets go.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Final

from pylog import _native
from pylog._native import check_batches
from pylog.errors import CorruptRangeError
from pylog.storage import layout
from pylog.storage.descriptors import Descriptors, Holder
from pylog.storage.files import Directory, File, Memory
from pylog.storage.index import OffsetIndex, TimeIndex
from pylog.storage.manifest import SegmentFacts
from pylog.storage.scan import REASONS, next_intact

logger = logging.getLogger("pylog")

# What a random read takes beyond the next index entry: enough for most single batches (guessed).
_READ_AHEAD: Final = 512
_MAX_RELATIVE_OFFSET: Final = 2**31 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentView:
    """How much of a segment counts, at one moment."""

    end_offset: int
    size: int
    index_entries: int
    time_entries: int


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a reader goes on without a lookup: `offset` is the base of the batch at `position`."""

    segment: Segment
    offset: int
    position: int


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """Whole, checked batches: data[first:end] holds offsets up to `next_offset`."""

    data: bytes
    first: int
    end: int
    next_offset: int
    place: Place


class Segment:
    """The files of one base offset."""

    def __init__(
        self,
        directory: Directory,
        facts: SegmentFacts,
        *,
        descriptors: Descriptors,
        index_bytes: int,
    ) -> None:
        self.base_offset = facts.base_offset
        self.facts = facts
        self._directory = directory
        self._descriptors = descriptors
        self._index_bytes = index_bytes
        self.holder = Holder()
        self._index: OffsetIndex | None = None
        self._timeindex: TimeIndex | None = None
        self._sealed_view: SegmentView | None = None
        self._rebuilt_entries: int | None = None  # set when the index file was found to be wrong

    def learn(self, facts: SegmentFacts) -> None:
        """Take newer facts of the same files; readers see the old or the new ones, whole."""
        assert facts.base_offset == self.base_offset
        self.facts = facts
        self._sealed_view = None

    @property
    def log_name(self) -> str:
        return layout.log_name(self.base_offset)

    @property
    def path(self) -> str:
        return f"{self._directory.path}/{self.log_name}"

    # Files

    def file(self) -> File:
        """Return the open `.log` file.  Raises OSError."""
        file = self.holder.file
        if file is None:
            return self._descriptors.open(self.holder, self._open_log)
        self.holder.was_used = True
        return file

    def _open_log(self) -> File:
        return self._directory.open(self.log_name, writable=True)

    def index(self) -> OffsetIndex:
        """Return the mapped offset index; an empty one when its file is missing."""
        if self._index is None:
            memory = self._map(layout.index_name(self.base_offset))
            self._index = OffsetIndex(memory, base_offset=self.base_offset)
        return self._index

    def timeindex(self) -> TimeIndex:
        """Return the mapped time index; an empty one when its file is missing."""
        if self._timeindex is None:
            memory = self._map(layout.timeindex_name(self.base_offset))
            self._timeindex = TimeIndex(memory, base_offset=self.base_offset)
        return self._timeindex

    def _map(self, name: str) -> Memory | bytes:
        try:
            file = self._directory.open(name)
        except FileNotFoundError:
            return b""
        try:
            # The active segment's index grows: its map is larger than the file, and nobody looks
            # at entries that were not published.
            return file.map(self._index_bytes, writable=False) if file.size() else b""
        finally:
            file.close()

    def sealed_view(self) -> SegmentView:
        """Return the view of a sealed segment: its recorded end, and the entries its files hold."""
        view = self._sealed_view
        if view is None:
            view = self._sealed_view = SegmentView(
                self.facts.end_offset,
                self.facts.size,
                self._count_entries(layout.index_name(self.base_offset), 8),
                self._count_entries(layout.timeindex_name(self.base_offset), 12),
            )
        return view

    def _count_entries(self, name: str, entry_bytes: int) -> int:
        try:
            file = self._directory.open(name)
        except FileNotFoundError:
            return 0
        try:
            return min(file.size(), self._index_bytes) // entry_bytes
        finally:
            file.close()

    def forget_files(self) -> None:
        """Let go of the descriptor; maps go with the last reader."""
        self._descriptors.forget(self.holder)

    # Reading

    def read(
        self, offset: int, view: SegmentView, *, limit_offset: int, max_bytes: int
    ) -> Slice | None:
        """Return the batches from the one that holds `offset` on, None when there is none.

        offset: absolute, in [base_offset, view.end_offset); the first batch may begin before it.
        limit_offset: no batch that starts at or after it is returned.
        max_bytes: at least one batch is returned, however large.
        Raises CorruptRangeError when `offset` lies in damaged bytes, OSError.
        One lookup, one pread in the usual case; checks the CRC of what it returns.
        """
        position, entry_offset, following = self.index().lookup(offset, self._entries_of(view))
        if following < 0:
            following = min(view.size, position + _READ_AHEAD)
        size = max(max_bytes, following - position + _READ_AHEAD)
        expected = self.base_offset if entry_offset < 0 else -1
        return self._read_from(
            position, size, expected, offset, view, limit_offset, max_bytes, entry_offset
        )

    def read_on(
        self, place: Place, view: SegmentView, *, limit_offset: int, max_bytes: int
    ) -> Slice | None:
        """Return the batches from `place` on; like `read`, without the lookup."""
        return self._read_from(
            place.position, max_bytes, place.offset, place.offset, view, limit_offset, max_bytes, -1
        )

    def _read_from(
        self,
        position: int,
        size: int,
        expected: int,
        offset: int,
        view: SegmentView,
        limit_offset: int,
        max_bytes: int,
        entry_offset: int,
    ) -> Slice | None:
        file = self.file()
        strict = not self.facts.is_compacted
        while position < view.size:
            asked = min(size, view.size - position)
            data = file.pread(asked, position)
            is_whole = len(data) == asked
            status, first, end, next_offset, needed = check_batches(
                data, 0, offset, limit_offset, max_bytes, expected, strict, entry_offset
            )
            if end > first:
                place = Place(self, next_offset, position + end)
                return Slice(data, first, end, next_offset, place)
            if status == _native.LIMIT:
                return None
            if status == _native.INCOMPLETE and is_whole and position + end + needed <= view.size:
                # The batch is larger than what was read: read just that one, whole.
                position, expected, entry_offset = position + end, next_offset, -1
                size = max(needed, size)
                continue
            if status == _native.END and is_whole:
                position, expected, entry_offset = position + end, next_offset, -1
                continue
            if entry_offset >= 0 and end == 0:
                return self._read_without_index(offset, view, limit_offset, max_bytes)
            position, expected = self._pass_damage(
                file, position + end, next_offset, offset, status, view
            )
            entry_offset = -1
        return None

    def _entries_of(self, view: SegmentView) -> int:
        rebuilt = self._rebuilt_entries
        return view.index_entries if rebuilt is None else rebuilt

    def _read_without_index(
        self, offset: int, view: SegmentView, limit_offset: int, max_bytes: int
    ) -> Slice | None:
        """Read when the index points at no such batch: distrust it and scan from the start.

        The entry may be wrong, or the batch it points at; the scan tells, and `recovery` rebuilds
        the file the next time it runs.  Here only this object's copy is dropped.
        """
        if self._rebuilt_entries is None:
            logger.warning("%s: its index does not match the log; scanning without it", self.path)
        self._rebuilt_entries = 0
        return self._read_from(
            0, 1 << 20, self.base_offset, offset, view, limit_offset, max_bytes, -1
        )

    def _pass_damage(
        self, file: File, position: int, expected: int, offset: int, status: int, view: SegmentView
    ) -> tuple[int, int]:
        """Return (position, base offset) of the next intact batch at or before `offset`.

        Raises CorruptRangeError when `offset` lies in the damaged range itself.
        """
        expected = self.base_offset if expected < 0 else expected
        intact = next_intact(
            file,
            start=position + 1,
            end=view.size,
            minimum_offset=expected,
            maximum_offset=min(view.end_offset, self.base_offset + _MAX_RELATIVE_OFFSET),
        )
        end_offset = view.end_offset if intact is None else intact.base_offset
        if intact is None or offset < end_offset:
            reason = REASONS.get(status, f"status {status}")
            raise CorruptRangeError(
                first=expected,
                last=max(expected, end_offset - 1),
                path=self.path,
                position=position,
                reason=reason,
            )
        return intact.position, intact.base_offset
