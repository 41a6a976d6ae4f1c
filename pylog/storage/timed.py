"""A partition asked by time: the first record that is late enough, the latest, where to begin.

Knows which moment a question is about, and asks anew when segments were replaced meanwhile.  How
records are found is in times.py.

Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable

from pylog._native import Reader
from pylog.arguments import whole_number
from pylog.errors import ClosedError
from pylog.records import OffsetAndTimestamp
from pylog.storage.compacted import CompactedPartition
from pylog.storage.segment import ReplacedError
from pylog.storage.times import Span, first_at, latest_of, visible_spans


class TimedPartition(CompactedPartition):
    """What of a partition was when."""

    _searcher: Reader

    def offset_for_time(self, timestamp: int) -> OffsetAndTimestamp | None:
        """Return the first record with at least this timestamp, None when there is none yet.

        timestamp: milliseconds since the epoch, at least 0.  Records may have been given timestamps
        in any order; it is the first in the order of offsets.
        Raises TypeError, ValueError for a number below 0, CorruptRangeError when damage lies where
        the record may be, ClosedError, OSError, and what opening raises.
        By the time index: O(log n) and a read where timestamps rise, else a pass over a segment.
        Source: Kafka UnifiedLog.fetchOffsetByTimestamp.
        """
        timestamp = whole_number("timestamp", timestamp)
        return self._search(lambda spans: first_at(self._searcher, spans, timestamp))

    @property
    def max_timestamp(self) -> OffsetAndTimestamp | None:
        """The record with the greatest timestamp, the first of several; None without records.

        Raises and costs what `offset_for_time` does.  Source: KIP-734.
        """
        return self._search(lambda spans: latest_of(self._searcher, spans))

    def _search(
        self, search: Callable[[list[Span]], OffsetAndTimestamp | None]
    ) -> OffsetAndTimestamp | None:
        while True:
            try:
                return search(self._visible_spans())
            except ReplacedError:
                continue  # segments were deleted or cleaned meanwhile

    def _visible_spans(self) -> list[Span]:
        attachment = self._attachment or self._attached()
        if attachment is None:
            return []
        try:
            marks = attachment.page.marks()
        except ClosedError:
            return self._again(attachment)._visible_spans()
        return visible_spans(attachment.segments(marks), marks)

    def first_offset(self, timestamp: int) -> int:
        """Return where reading from a point in time begins.

        That is the first record with at least this timestamp, or the high watermark while there is
        none.  Raises what `offset_for_time` raises.
        """
        # Looked at first: what becomes visible during the search is not passed over.
        end = self.high_watermark
        found = self.offset_for_time(timestamp)
        return end if found is None else found.offset
