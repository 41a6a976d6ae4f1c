"""A partition that is read: from an offset on, as records, as columns, one read after the other.

Knows how marks, segments and the place of the last read make one read.  Must not know how records
came there.

Locks: none.  A read takes one copy of the marks and one immutable snapshot of the segments.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from typing import Final

from pylog._native import Marks, Reader, Record, Records
from pylog.arguments import whole_number
from pylog.errors import ClosedError, CorruptRangeError, OffsetOutOfRangeError
from pylog.records import Columns, columns_of
from pylog.storage.attachment import Attachment
from pylog.storage.segment import ReplacedError, Segment
from pylog.storage.segments import SegmentSet, view_of
from pylog.storage.timed import TimedPartition

DEFAULT_READ_BYTES: Final = 1 << 20


class ReadablePartition(TimedPartition):
    """What is in a partition."""

    _reader: Reader
    # Where the next sequential read goes on without a lookup: offset, segment, position, and the
    # truncation by which that may be another place.
    _place: tuple[int, Segment, int, int] | None = None

    def read(
        self, offset: int, max_bytes: int = DEFAULT_READ_BYTES, end: int | None = None
    ) -> Records:
        """Return the records from `offset` on, below the high watermark, and below `end`.

        offset: in [log_start_offset, log_end_offset]; at or above the high watermark the result is
        empty.  max_bytes: of whole batches; at least one batch is returned, however large.
        end: an offset, by default none; at or below `offset` the result is empty.
        The result is iterated for `Record`s; its `next_offset` is where to go on.  It holds on to
        the bytes that were read, and so does each of its records.
        Raises OffsetOutOfRangeError, CorruptRangeError when `offset` lies in damaged bytes (go on
        at its `last` + 1), TypeError, ValueError for max_bytes below 1, ClosedError, OSError, and
        what opening raises.  Iterating raises CorruptRangeError for a record that does not parse,
        InvalidRecordError and MissingExtraError for a batch that cannot be decompressed.
        O(log n), one pread, no lock; CRCs are checked.  Source: Kafka UnifiedLog.read.
        """
        if end is not None:
            end = whole_number("end", end)
        return self._read_below(offset, max_bytes, end)

    def _read_below(self, offset: int, max_bytes: int, end: int | None) -> Records:
        """Read as `read` does, below `end` if it is given."""
        attachment = self._attachment or self._attached()
        if attachment is None:
            return self._nothing_at(offset, max_bytes, None)
        try:
            marks = attachment.page.marks()
        except ClosedError:
            return ReadablePartition._read_below(self._again(attachment), offset, max_bytes, end)
        limit = marks.high_watermark
        if end is not None and end < limit:
            limit = end
        if not marks.log_start_offset <= offset < limit or max_bytes < 1:
            return self._nothing_at(offset, max_bytes, marks)
        place, records = self._place, None
        if place is not None and place[0] == offset and place[3] == marks.truncated_at:
            _, segment, position, _ = place
            view = view_of(segment, marks)
            try:
                records = segment.read_on(self._reader, position, offset, view, limit, max_bytes)
            except ReplacedError:
                # Deleted or cleaned: another segment goes on here.
                self._place = None
        if records is None:
            try:
                found = self._found_at_once(attachment, marks, offset, limit, max_bytes)
                if found is None:
                    found = self._find(attachment, marks, offset, limit, max_bytes)
            except ReplacedError:
                return ReadablePartition._read_below(self, offset, max_bytes, end)
            if found is None:
                return Records(b"", next_offset=limit, topic=self.topic, partition=self.number)
            segment, records = found
        # One assignment: another thread sees the old place or the new one.
        self._place = records.next_offset, segment, records.end_position, marks.truncated_at
        return records

    def read_placed(self, offset: int, max_bytes: int = DEFAULT_READ_BYTES) -> Records:
        """Read as `read` does, also what is placed and not visible yet.

        For who only appends behind what it read: after a power cut none of that is there without
        what it was decided from.
        """
        attachment = self._attachment or self._attached()
        if attachment is None:
            return self._nothing_at(offset, max_bytes, None)
        try:
            marks = attachment.page.marks()
        except ClosedError:
            return self._again(attachment).read_placed(offset, max_bytes)
        limit = marks.log_end_offset
        if not marks.log_start_offset <= offset < limit:
            return self._nothing_at(offset, max_bytes, marks)
        try:
            found = self._find(attachment, marks, offset, limit, max_bytes)
        except ReplacedError:
            return self.read_placed(offset, max_bytes)
        if found is None:
            return Records(b"", next_offset=limit, topic=self.topic, partition=self.number)
        return found[1]

    def _found_at_once(
        self, attachment: Attachment, marks: Marks, offset: int, limit: int, max_bytes: int
    ) -> tuple[Segment, Records] | None:
        """Return what `_find` returns when the first segment that it looks into has it, else None.

        The usual case, written out: a read of one record is mostly calls of Python.
        """
        self._was_used = True
        segments = attachment.segments(marks)
        manifest = segments.manifest
        place = bisect.bisect_right(segments.bases, offset) - 1
        if place < 0 or manifest is None or offset < manifest.log_start_offset:
            return None
        segment = segments.segments[place]
        view = view_of(segment, marks)
        if offset >= view.end_offset:
            return None
        try:
            records = segment.read(self._reader, offset, view, limit, max_bytes)
        except (ReplacedError, CorruptRangeError):
            return None  # _find tells what has become of it
        return None if records is None else (segment, records)

    def _find(
        self, attachment: Attachment, marks: Marks, offset: int, limit: int, max_bytes: int
    ) -> tuple[Segment, Records] | None:
        """Return the first records at or after `offset`, and the segment that holds them.

        Raises ReplacedError when there are none, and the log was truncated since the marks.
        """
        self._was_used = True
        truncated_at = marks.truncated_at
        while True:
            segments = attachment.segments(marks)
            assert segments.manifest is not None, "there are records"
            # The manifest may be newer than the marks: then segments that it leaves out are gone.
            self._check_start(offset, segments.manifest.log_start_offset)
            try:
                found = self._find_in(segments, marks, offset, limit, max_bytes)
            except ReplacedError:
                # Newer marks find a newer snapshot; what they show besides can wait.
                marks = attachment.page.marks()
                continue
            except CorruptRangeError:
                if attachment.page.marks().truncated_at == truncated_at:
                    raise
                found = None
            if found is None and attachment.page.marks().truncated_at != truncated_at:
                raise ReplacedError(repr(self))
            return found

    def _find_in(
        self, segments: SegmentSet, marks: Marks, offset: int, limit: int, max_bytes: int
    ) -> tuple[Segment, Records] | None:
        for position in range(segments.floor(offset), len(segments.segments)):
            segment = segments.segments[position]
            view = view_of(segment, marks)
            start = max(offset, segment.base_offset)
            if start < view.end_offset:
                records = segment.read(self._reader, start, view, limit, max_bytes)
                if records is not None:
                    return segment, records
        return None

    def _check_start(self, offset: int, log_start_offset: int) -> None:
        if offset < log_start_offset:
            raise OffsetOutOfRangeError(offset, log_start_offset, self.log_end_offset)

    def _nothing_at(self, offset: int, max_bytes: int, marks: Marks | None) -> Records:
        start, end = (0, 0) if marks is None else (marks.log_start_offset, marks.log_end_offset)
        if not start <= offset <= end:
            raise OffsetOutOfRangeError(offset, start, end)
        if max_bytes < 1:
            raise ValueError(f"max_bytes={max_bytes}: expected at least 1")
        return Records(b"", next_offset=offset, topic=self.topic, partition=self.number)

    def read_columns(self, offset: int, max_bytes: int = DEFAULT_READ_BYTES) -> Columns:
        """Return the records from `offset` on as numpy arrays, one row a record.

        Arguments, errors and cost as `read`, without an object per record.
        """
        return columns_of(self.read(offset, max_bytes))

    def records(
        self,
        start: int | None = None,
        end: int | None = None,
        *,
        follow: bool = False,
        max_bytes: int = DEFAULT_READ_BYTES,
    ) -> Iterator[Record]:
        """Iterate over the records in [start, end).

        start: by default the log start offset.  end: by default the high watermark at the first
        step, or never with `follow`, which waits for records to be appended by anybody.
        Raises what `read` raises.  A wait holds no GIL and ends on Ctrl-C.
        """
        # A chain asks for the next read only when one is used up; per record it costs no frame.
        return itertools.chain.from_iterable(self._reads(start, end, max_bytes, follow=follow))

    def _reads(
        self, start: int | None, end: int | None, max_bytes: int, *, follow: bool
    ) -> Iterator[Records]:
        """Yield what is read, one read after the other; see `records`."""
        offset = self.log_start_offset if start is None else whole_number("start", start)
        if end is not None:
            end = whole_number("end", end)
        elif not follow:
            end = self.high_watermark
            if offset >= end:
                self.read(offset)  # raises when the offset is out of range
        while end is None or offset < end:
            try:
                records = self._read_below(offset, max_bytes, end)
            except OffsetOutOfRangeError:
                if start is not None:
                    raise
                # Retention was faster than this first read, which is to begin where the log does.
                offset = self.log_start_offset
                continue
            start = offset
            yield records
            if records.next_offset == offset:
                if not follow:
                    return
                self.wait(offset)
            offset = records.next_offset
