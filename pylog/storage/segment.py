"""One base offset: a `.log` file and its two indexes; read, seal and verify.

Knows its own files and how batches follow each other.  Must not know other segments, the shared
page or retention.  A segment object is immutable but for its caches: what grows (the end of the
active segment) is handed in as a `SegmentView` by the partition, taken from one copy of the marks.

Compaction puts new files in the place of old ones, under the same names.  An object stands for one
revision of them, and never reads another: files that it holds open stay what they are, and for
those that it opens later there is a rule, which cleaned_files.py states and proves.

Locks: none.  Any number of threads may read; files close when their last reader lets go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from pylog import _native
from pylog._native import BATCH_HEADER_BYTES, Reader, Records, Scanner, check_batches
from pylog.errors import CorruptRangeError
from pylog.storage import layout
from pylog.storage.cleaned_files import open_revision
from pylog.storage.descriptors import Descriptors, Holder
from pylog.storage.files import Directory, File, Memory
from pylog.storage.index import OffsetIndex, TimeIndex
from pylog.storage.manifest import SegmentFacts
from pylog.storage.policy import OFFSETS_PER_SEGMENT
from pylog.storage.scan import REASONS, KnownEnd, Walk, walk_log

logger = logging.getLogger("pylog")

_MAX_TIMESTAMP: Final = slice(35, 43)  # of a batch: drawn in batch.h
_CAREFUL_BYTES: Final = 64 << 10  # read at a time where the quick way gave up (guessed)


class SegmentView(NamedTuple):
    """How much of a segment counts, at one moment."""

    end_offset: int
    size: int
    index_entries: int
    time_entries: int


class ReplacedError(Exception):
    """The files of this revision are gone: whoever reads has to look for the segment anew."""


def _view_of(facts: SegmentFacts) -> SegmentView:
    return SegmentView(facts.end_offset, facts.size, facts.index_entries, facts.time_entries)


class Segment:
    """The files of one base offset, of one revision.

    is_replaced: whether a manifest that was published by now no longer names this revision.
    """

    def __init__(
        self,
        directory: Directory,
        facts: SegmentFacts,
        *,
        descriptors: Descriptors,
        index_bytes: int,
        is_replaced: Callable[[SegmentFacts], bool],
    ) -> None:
        self._is_replaced = is_replaced
        self.base_offset = facts.base_offset
        self.facts = facts
        self._directory = directory
        self._descriptors = descriptors
        self._index_bytes = index_bytes
        self.holder = Holder()
        self._index: OffsetIndex | None = None
        self._timeindex: TimeIndex | None = None
        self._sealed_view = _view_of(facts)
        self._is_rebuilt = False  # whether `_index` is not the file's
        self._stands_in = False  # whether that is because the file had no entries

    def learn(self, facts: SegmentFacts) -> None:
        """Take newer facts of the same files; readers see the old or the new ones, whole.

        A thread that read an older manifest may come late with what that said: it is not listened
        to, because a segment only grows, and readers of the newer set hold this very object.  One
        that is truncated gets a new object.
        """
        assert facts.identity == self.facts.identity
        if facts.end_offset >= self.facts.end_offset:
            # The view first: who finds these facts here takes the object for up to date.
            self._sealed_view = _view_of(facts)
            self.facts = facts

    @property
    def log_name(self) -> str:
        """The name of the `.log` file."""
        return layout.log_name(self.base_offset)

    @property
    def path(self) -> str:
        """The path of the `.log` file, for messages."""
        return f"{self._directory.path}/{self.log_name}"

    # Files

    def file(self) -> File:
        """Return the open `.log` file.  Raises ReplacedError, CorruptRangeError, OSError."""
        file = self.holder.file
        if file is None:
            return self._descriptors.open(self.holder, self._open_log)
        self.holder.was_used = True
        return file

    def _open(self, name: str, *, writable: bool = False) -> File:
        """Open one of the files, and be sure that it is of this revision; see cleaned_files.py.

        Raises ReplacedError, OSError.
        """
        try:
            return open_revision(self._directory, name, self.facts.revision, writable=writable)
        finally:
            if self._is_replaced(self.facts):
                raise ReplacedError(self.path)

    def _open_log(self) -> File:
        try:
            return self._open(self.log_name, writable=True)
        except FileNotFoundError as error:
            end_offset = self.facts.end_offset
            raise self._damage(0, self.base_offset, end_offset, "the file is missing") from error

    def index(self, view: SegmentView) -> OffsetIndex:
        """Return the mapped offset index; an empty one when its file is missing."""
        if self._index is None:
            memory = self._map(layout.index_name(self.base_offset), view)
            self._index = OffsetIndex(memory, base_offset=self.base_offset)
        return self._index

    def timeindex(self, view: SegmentView) -> TimeIndex:
        """Return the mapped time index; an empty one when its file is missing."""
        known = self._timeindex
        # One that was empty when it was mapped may have entries now.
        if known is None or known.capacity == 0 < view.time_entries:
            memory = self._map(layout.timeindex_name(self.base_offset), view)
            known = self._timeindex = TimeIndex(memory, base_offset=self.base_offset)
        return known

    def _map(self, name: str, view: SegmentView) -> Memory | bytes:
        """Map an index file: what is there of a sealed one, room to grow for the active one."""
        try:
            file = self._open(name)
        except FileNotFoundError:
            return b""
        try:
            size = file.size()
            # A sealed file may have been cut: touching a map past its end would kill the process.
            # Nobody looks at entries of the active one that were not published.
            is_sealed = view is self._sealed_view
            # Either may be larger than the topic's setting: that may have been lowered since.
            map_bytes = size if is_sealed else max(size, self._index_bytes)
            return file.map(map_bytes, writable=False) if size else b""
        finally:
            file.close()

    def first_timestamp(self) -> int:
        """Return the max timestamp of the first batch, -1 without one.  Raises as `file`, OSError.

        Source: Kafka LogSegment.getFirstBatchTimestamp.
        """
        header = self.file().pread(BATCH_HEADER_BYTES, 0)
        return int.from_bytes(header[_MAX_TIMESTAMP], "big", signed=True) if header else -1

    def sealed_view(self) -> SegmentView:
        """Return the view of a sealed segment, as the manifest has it."""
        return self._sealed_view

    def forget_files(self) -> None:
        """Let go of the descriptor; maps go with the last reader."""
        self._descriptors.forget(self.holder)

    def forget_indexes(self) -> None:
        """Let go of the maps of the indexes: reading goes on without them, by scanning."""
        self._index = self._timeindex = None

    # Reading

    def read(
        self, reader: Reader, offset: int, view: SegmentView, limit_offset: int, max_bytes: int
    ) -> Records | None:
        """Return the records from `offset` on, None when there is none before the segment's end.

        offset: absolute, in [base_offset, view.end_offset).  limit_offset: no batch that starts at
        or after it is returned.  max_bytes: at least one batch is returned, however large.
        Raises CorruptRangeError when `offset` lies in damaged bytes, OSError.
        One lookup and one pread in the usual case; checks the CRC of what it returns.
        """
        index = self._index or self.index(view)
        is_strict = not self.facts.is_compacted
        file = self.holder.file or self.file()
        self.holder.was_used = True
        records = reader.read(
            file.pread, index.memory, view.index_entries, self.base_offset, offset,
            limit_offset, max_bytes, view.size, is_strict,
        )  # fmt: skip
        if records is not None:
            return records
        return self._read_carefully(reader, offset, view, limit_offset, max_bytes)

    def read_on(
        self,
        reader: Reader,
        position: int,
        offset: int,
        view: SegmentView,
        limit_offset: int,
        max_bytes: int,
    ) -> Records | None:
        """Return the records from the batch at `position`, whose base is `offset`; see `read`."""
        file = self.holder.file or self.file()
        self.holder.was_used = True
        return reader.read_on(
            file.pread, position, offset, limit_offset, max_bytes, view.size,
            not self.facts.is_compacted,
        )  # fmt: skip

    def _read_carefully(
        self, reader: Reader, offset: int, view: SegmentView, limit_offset: int, max_bytes: int
    ) -> Records | None:
        """Read where the quick way gave up: a large batch, the end, a wrong index, or damage."""
        position, entry_offset = self._start_of_scan(offset, view)
        expected = self.base_offset if entry_offset < 0 else -1
        file, size = self.file(), max(max_bytes, _CAREFUL_BYTES)
        is_walked = False
        while position < view.size or not (is_walked or self.facts.is_compacted):
            if position >= view.size:
                position, expected = self._pass_damage(offset, view)
                is_walked = True
            asked = min(size, view.size - position)
            data = file.pread(asked, position)
            status, first, end, next_offset, needed = check_batches(
                data, 0, offset, limit_offset, max_bytes, expected,
                not self.facts.is_compacted, entry_offset,
            )  # fmt: skip
            if end > first:
                return reader.wrap(
                    data, first, end, next_offset, offset, limit_offset, position + end
                )
            if status == _native.LIMIT:
                return None
            goes_on = position + end + needed <= view.size and len(data) == asked
            if goes_on and status in (_native.END, _native.INCOMPLETE):
                # The next batch is larger than what was read, or begins where that ended.
                position, expected, entry_offset = position + end, next_offset, -1
                size = max(needed, size)
            elif entry_offset >= 0 and end == 0:
                # The entry is wrong, or the batch that it points at: a scan from the start tells.
                if not self._is_rebuilt:
                    logger.warning("%s: its index is wrong; using a rebuilt one", self.path)
                self._rebuild_index(view)
                position, expected, entry_offset = 0, self.base_offset, -1
            elif is_walked:
                break  # the disk gave other bytes than a moment ago
            else:
                position, expected = self._pass_damage(offset, view)
                entry_offset, is_walked = -1, True
        if self.facts.is_compacted:
            return None
        raise self._damage(position, expected, view.end_offset, REASONS[_native.END])

    def _start_of_scan(self, offset: int, view: SegmentView) -> tuple[int, int]:
        """Return (position, last offset of the batch there or -1) of the best index entry."""
        if self._stands_in and view.index_entries > 0:
            # The segment is active and has grown: its file says more than what stood in for it.
            self._index, self._is_rebuilt, self._stands_in = None, False, False
        if view.index_entries == 0 and view.size > _CAREFUL_BYTES and not self._is_rebuilt:
            # Lost, or one large batch: the first needs no entry.
            self._rebuild_index(view)
            self._stands_in = True
        mapped = None if self._is_rebuilt else self._index
        if mapped is not None and mapped.capacity == 0 < view.index_entries:
            # Its file was empty when it was mapped; not any more.
            self._index = None
        index = self.index(view)
        count = index.capacity if self._is_rebuilt else view.index_entries
        position, entry_offset = index.lookup(offset, count)
        # An entry that points past the end is wrong; the segment's start needs none.
        return (position, entry_offset) if position < view.size else (0, -1)

    def _rebuild_index(self, view: SegmentView) -> None:
        """Replace this object's copy of an index that is missing or wrong; the file is left."""
        scanner = Scanner(
            base_offset=self.base_offset,
            next_offset=self.base_offset,
            strict=not self.facts.is_compacted,
        )
        self._walk(scanner, view)
        self._index = OffsetIndex(scanner.index, base_offset=self.base_offset)
        self._is_rebuilt = True

    def _pass_damage(self, offset: int, view: SegmentView) -> tuple[int, int]:
        """Return (position, base offset) of a batch from which all is intact up to `offset`.

        Walks the segment from its start with every CRC checked: a batch that was skipped unchecked
        may have lied about its length.
        Raises CorruptRangeError when `offset` lies in the damaged range itself.
        """
        position, expected = 0, self.base_offset
        scanner = Scanner(
            base_offset=expected, next_offset=expected, strict=not self.facts.is_compacted
        )
        walk = self._walk(scanner, view)
        for damage in walk.damages:
            if damage.end_offset > offset:
                break
            position, expected = damage.end, damage.end_offset
        else:
            if offset < walk.next_offset:
                return position, expected
            raise self._damage(walk.position, walk.next_offset, view.end_offset, walk.reason)
        if offset < damage.first_offset:
            return position, expected
        raise self._damage(damage.start, damage.first_offset, damage.end_offset, damage.reason)

    def _walk(self, scanner: Scanner, view: SegmentView) -> Walk:
        return walk_log(
            self.file(),
            scanner,
            end=view.size,
            maximum_offset=min(view.end_offset, self.base_offset + OFFSETS_PER_SEGMENT),
            known=KnownEnd(view.size, view.end_offset),
        )

    def _damage(self, position: int, first: int, end_offset: int, reason: str) -> CorruptRangeError:
        return CorruptRangeError(
            first=first,
            last=max(first, end_offset - 1),
            path=self.path,
            position=position,
            reason=reason,
        )
