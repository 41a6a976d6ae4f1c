"""Find out what a partition's producers sent: from snapshot files, and from the log itself.

Knows where snapshots lie and which batches still count.  Must not know what a producer may send.
A snapshot is a cache: recovery removes those of offsets that were not known to be on disk, and one
that does not parse is passed by; the log says the same, slower.

Locks: none; the caller's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Final

from pylog._native import Marks, Reader, Records
from pylog.errors import CorruptFileError, CorruptRangeError
from pylog.storage import layout
from pylog.storage.files import Directory, read_file, replace_file
from pylog.storage.producer_state import (
    EXPIRATION_MS,
    ProducedBatch,
    ProducerState,
    parse_snapshot,
)
from pylog.storage.segment_files import remove_snapshots, snapshot_offsets
from pylog.storage.segments import SegmentSet, view_of

logger = logging.getLogger("pylog")

_READ_BYTES: Final = 1 << 20
# So much of the log's end is read when a state is loaded, because a snapshot holds only the last
# batch of each producer.  A default segment; 20 ms from the page cache (measured: 3 GB/s).
_RECALL_BYTES: Final = 64 << 20
_MAX_SNAPSHOT_BYTES: Final = 256 << 20  # five million producers
_KEPT_SNAPSHOTS: Final = 2  # Kafka keeps one a segment for truncation, which reads on from any


def load_state(
    directory: Directory, reader: Reader, segments: SegmentSet, marks: Marks, *, now: int
) -> ProducerState:
    """Return the state of all offsets below the marks' end.

    segments: as in `catch_up`, of a log that has records or had some.
    Begins with the newest snapshot, if any; else with the oldest segment that may hold a batch of a
    producer that is not forgotten.  Reads, besides, the end of the log, also what is deleted of it:
    it says as much of its producer as before.  Raises OSError.
    """
    snapshot = _newest_snapshot(directory, segments.bases[0], marks.log_end_offset)
    start = _recalled_from(segments, marks)
    if snapshot is not None:
        start = min(start, snapshot.end_offset)
    else:
        start = min(start, _remembered_from(segments, marks, now))
    state = ProducerState(start)
    catch_up(state, reader, segments, marks, marks.log_end_offset, now=now)
    if snapshot is not None:
        state.complete(snapshot)
    return state


def _newest_snapshot(directory: Directory, start: int, end: int) -> ProducerState | None:
    """Return the newest of those from which the log itself tells the rest: it has [start, end)."""
    for offset in reversed(snapshot_offsets(directory)):
        if not start <= offset <= end:
            continue
        name = layout.snapshot_name(offset)
        path = f"{directory.path}/{name}"
        data = read_file(directory, name, max_bytes=_MAX_SNAPSHOT_BYTES)
        try:
            return parse_snapshot(data or b"", offset, path=path)
        except CorruptFileError as error:
            logger.warning("%s; an older one or the log itself is read instead", error)
    return None


def _recalled_from(segments: SegmentSet, marks: Marks) -> int:
    """Return the base offset of the oldest of the newest segments that are read in any case."""
    left = _RECALL_BYTES
    base = marks.log_end_offset
    for segment in reversed(segments.segments):
        left -= view_of(segment, marks).size
        if left < 0:
            break
        base = segment.base_offset
    return base


def _remembered_from(segments: SegmentSet, marks: Marks, now: int) -> int:
    """Return the base offset of the oldest segment that was appended to not long ago.

    Batches may bear any timestamps; these count only where it is not known when others appended.
    """
    for segment in segments.segments:
        latest = max(segment.facts.append_time, segment.facts.max_timestamp)
        if segment.base_offset == marks.base_offset:
            latest = max(marks.append_time, marks.max_timestamp) if marks.append_time >= 0 else now
        if now - latest < EXPIRATION_MS:
            return segment.base_offset
    return marks.log_end_offset


def catch_up(
    state: ProducerState,
    reader: Reader,
    segments: SegmentSet,
    marks: Marks,
    end_offset: int,
    *,
    now: int,
) -> None:
    """Add to a state what was appended up to `end_offset`; without news it does nothing.

    segments: at least as new as `marks`.  now: when it is heard of.  Raises OSError with the state
    of what was read by then.
    """
    if state.end_offset < end_offset:
        for records in _reads_between(reader, segments, marks, state.end_offset, end_offset):
            for fields in records.producers():
                state.add(ProducedBatch(*fields), now)
            state.end_offset = records.next_offset
        state.end_offset = end_offset


def _reads_between(
    reader: Reader, segments: SegmentSet, marks: Marks, start: int, end_offset: int
) -> Iterator[Records]:
    """Yield all that can be read in [start, end_offset); what is damaged says nothing."""
    for segment in segments.segments[segments.floor(start) :]:
        view = view_of(segment, marks)
        offset = max(start, segment.base_offset)
        end = min(view.end_offset, end_offset)
        while offset < end:
            try:
                records = segment.read(reader, offset, view, end, _READ_BYTES)
            except CorruptRangeError as error:
                offset = error.last + 1
                continue
            if records is None:
                break
            yield records
            offset = records.next_offset


# ------------------------------------------------------------------ files


def save_snapshot(directory: Directory, state: ProducerState) -> None:
    """Write a snapshot of a state, unless it is there, and remove all but the newest.

    A failure is reported only: the log says the same.
    """
    if state.end_offset == 0:
        return
    try:
        offsets = snapshot_offsets(directory)
        if state.end_offset not in offsets:
            name = layout.snapshot_name(state.end_offset)
            # Another process may write the same one at the same moment, and has renamed it then; if
            # the two got mixed up, its CRC says so.
            with contextlib.suppress(FileNotFoundError):
                replace_file(directory, name, state.encode(), sync_directory=False)
            offsets = sorted([*offsets, state.end_offset])
        remove_snapshots(directory, offsets[:-_KEPT_SNAPSHOTS])
    except FileNotFoundError:
        # Another process wrote the same one, under the same temporary name.
        logger.debug("%s: producers' snapshot of %d taken", directory.path, state.end_offset)
    except OSError as error:
        logger.warning("%s: producers' snapshot not written: %s", directory.path, error)
