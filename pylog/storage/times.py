"""Find records by their timestamps: the first that is late enough, and the latest of all.

Knows how segments, time indexes and batches bound the timestamps of the records in them.  Must not
know clocks, nor who asks.  A time index may be wrong or lost; an entry is believed only if the
batch that it points at says the same, and without one the segment is read from its start.

Locks: none.  One list of spans is one moment; records that come later are not found.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from pylog._native import Marks, Reader, Record, Records
from pylog.errors import CorruptRangeError
from pylog.records import OffsetAndTimestamp
from pylog.storage.segment import Segment, SegmentView
from pylog.storage.segments import SegmentSet, is_active, view_of

logger = logging.getLogger("pylog")

_LOOK_BYTES: Final = (
    8 << 10
)  # at first: where timestamps rise, it is within an index interval or two
_READ_BYTES: Final = 256 << 10  # of whole batches at a time, when there is much to pass (guessed)


class Span(NamedTuple):
    """The part of a segment that can be read: offsets [start, end).

    max_timestamp: no record in it has a later one; -1 when none has any.
    """

    segment: Segment
    view: SegmentView
    start: int
    end: int
    max_timestamp: int


def visible_spans(segments: SegmentSet, marks: Marks) -> list[Span]:
    """Return what of each segment can be read, oldest first; empty spans are left out."""
    spans: list[Span] = []
    if segments.manifest is None:
        return spans
    # The manifest may be newer than the marks.
    log_start_offset = max(marks.log_start_offset, segments.manifest.log_start_offset)
    for segment in segments.segments:
        view = view_of(segment, marks)
        span = Span(
            segment,
            view,
            max(segment.base_offset, log_start_offset),
            min(view.end_offset, marks.high_watermark),
            marks.max_timestamp if is_active(segment, marks) else segment.facts.max_timestamp,
        )
        if span.start < span.end:
            spans.append(span)
    return spans


def first_at(reader: Reader, spans: Sequence[Span], timestamp: int) -> OffsetAndTimestamp | None:
    """Return the first record with at least this timestamp, None when there is none.

    Raises ValueError for a timestamp below 0 (Kafka's -1 and -2 are `high_watermark` and
    `log_start_offset` here), CorruptRangeError when damage lies where the record may be, OSError.
    Passes segments by their greatest timestamp; in one it is O(log n) and a read, if timestamps
    rise.  Source: Kafka UnifiedLog.fetchOffsetByTimestamp, LogSegment.findOffsetByTimestamp.
    """
    if timestamp < 0:
        raise ValueError(f"timestamp {timestamp}: expected at least 0")
    for span in spans:
        if span.max_timestamp >= timestamp:
            found = _first_in(reader, span, timestamp)
            if found is not None:
                return found
    return None


def latest_of(reader: Reader, spans: Sequence[Span]) -> OffsetAndTimestamp | None:
    """Return the record with the greatest timestamp, the first of several; None without any.

    A record without a timestamp (-1, as others may have written it) does not count.
    Raises what `first_at` raises.  Costs one `first_at`, and a pass over the first and the last
    segment when only a part of them can be read.  Source: KIP-734.
    """
    best: OffsetAndTimestamp | None = None
    for span in sorted(spans, key=lambda span: (-span.max_timestamp, span.start)):
        if span.max_timestamp < 0 or (best is not None and best.timestamp > span.max_timestamp):
            break
        found = _first_in(reader, span, span.max_timestamp) or _latest_in(reader, span)
        if found is not None and (best is None or _rank(found) < _rank(best)):
            best = found
        if found is not None and found.timestamp == span.max_timestamp:
            break
    return best


def _rank(found: OffsetAndTimestamp) -> tuple[int, int]:
    return -found.timestamp, found.offset


def _first_in(reader: Reader, span: Span, timestamp: int) -> OffsetAndTimestamp | None:
    for records in _reads(reader, span, _records_at_entry(reader, span, timestamp)):
        found = records.find_timestamp(timestamp, span.start)
        if found is not None:
            return _result(found)
    return None


def _latest_in(reader: Reader, span: Span) -> OffsetAndTimestamp | None:
    """Look at every record of a span, whose bound belongs to a record that cannot be read."""
    best: OffsetAndTimestamp | None = None
    for records in _reads(reader, span, None):
        timestamps = np.frombuffer(records.columns()[1], np.int64)
        latest = int(timestamps.max(initial=-1))
        if latest >= 0 and (best is None or latest > best.timestamp):
            # None when the batch's header denies it: then no lookup finds that record either.
            found = records.find_timestamp(latest, span.start)
            best = best if found is None else _result(found)
    return best


def _result(record: Record) -> OffsetAndTimestamp:
    # Kafka writes -1 for a batch that no leader stamped.
    epoch = record.leader_epoch if record.leader_epoch >= 0 else None
    return OffsetAndTimestamp(record.offset, record.timestamp, epoch)


def _reads(reader: Reader, span: Span, records: Records | None) -> Iterator[Records]:
    """Yield all that can be read of a span, beginning with `records` or at its start."""
    offset = span.start
    while records is not None or offset < span.end:
        if records is None:
            records = span.segment.read(reader, offset, span.view, span.end, _READ_BYTES)
            if records is None:
                return
        yield records
        offset, records = records.next_offset, None


def _records_at_entry(reader: Reader, span: Span, timestamp: int) -> Records | None:
    """Return the records from the batch on that the time index names, None without a good entry.

    What lies before that batch is earlier than `timestamp`.
    """
    segment, view = span.segment, span.view
    found = segment.timeindex(view).lookup(timestamp, view.time_entries, span.end)
    if found is None or found[1] < span.start:
        return None
    entry_timestamp, offset = found
    try:
        records = segment.read(reader, offset, view, span.end, _LOOK_BYTES)
    except CorruptRangeError:
        records = None
    if records is None or records.first_max_timestamp != entry_timestamp:
        logger.warning(
            "%s: its time index is wrong at offset %d; reading all of it", segment.path, offset
        )
        return None
    return records
