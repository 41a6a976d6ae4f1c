"""The segments of a partition at one moment: an immutable snapshot that readers share.

Knows which segment holds an offset.  Must not know how segments are written or when they change.
A change makes a new `SegmentSet`, which is swapped in by one assignment; readers never lock.
Source: hashicorp/raft-wal `state.go`.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable

from pylog._native import Marks
from pylog.storage.descriptors import Descriptors
from pylog.storage.files import Directory
from pylog.storage.manifest import Manifest, SegmentFacts
from pylog.storage.segment import Segment, SegmentView


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentSet:
    """All segments by base offset; the last one is active.  Empty before the first append."""

    manifest: Manifest | None
    generation: int  # of the manifest this came from, 0 before there is one
    bases: tuple[int, ...]
    segments: tuple[Segment, ...]

    def floor(self, offset: int) -> int:
        """Return which of `segments` holds `offset`, the first one below it.  O(log n)."""
        return max(bisect.bisect_right(self.bases, offset) - 1, 0)

    def names(self, facts: SegmentFacts) -> bool:
        """Return whether the manifest names these files.  O(log n)."""
        place = bisect.bisect_left(self.bases, facts.base_offset)
        is_there = place < len(self.bases)
        return is_there and self.segments[place].facts.identity == facts.identity


NO_SEGMENTS = SegmentSet(None, 0, (), ())


def segments_of(
    manifest: Manifest,
    previous: SegmentSet,
    directory: Directory,
    *,
    descriptors: Descriptors,
    index_bytes: int,
    is_replaced: Callable[[SegmentFacts], bool],
) -> SegmentSet:
    """Return the set that `manifest` names; segments of `previous` keep their open files."""
    known = dict(zip(previous.bases, previous.segments, strict=True))

    def segment_of(facts: SegmentFacts) -> Segment:
        segment = known.get(facts.base_offset)
        if segment is not None and segment.facts == facts:
            return segment
        is_same = segment is not None and segment.facts.identity == facts.identity
        if segment is not None and is_same and segment.facts.end_offset <= facts.end_offset:
            # It was active and is sealed now, or its end was written down: the same files.
            segment.learn(facts)
            return segment
        return Segment(
            directory,
            facts,
            descriptors=descriptors,
            index_bytes=index_bytes,
            is_replaced=is_replaced,
        )

    segments = tuple(segment_of(facts) for facts in manifest.segments)
    return SegmentSet(
        manifest, manifest.generation, tuple(s.base_offset for s in segments), segments
    )


def is_active(segment: Segment, marks: Marks) -> bool:
    """Return whether a segment was the writable one at the moment of `marks`.

    Its snapshot may be newer: by then the segment may be sealed, and even cleaned, or the log may
    have been truncated and begun there anew.  Such files are of a later revision than the marks.
    """
    is_known = segment.facts.revision <= marks.generation
    return is_known and segment.base_offset == marks.base_offset


def view_of(segment: Segment, marks: Marks) -> SegmentView:
    """Return how much of a segment counts at the moment of `marks`."""
    if is_active(segment, marks):
        return SegmentView(
            marks.log_end_offset, marks.position, marks.index_entries, marks.time_entries
        )
    return segment.sealed_view()


def check_segments(segments: SegmentSet, marks: Marks) -> None:
    """Assert every invariant of marks and segments; see Partition.check."""
    assert 0 <= marks.log_start_offset <= marks.high_watermark <= marks.log_end_offset
    assert marks.durable_offset <= marks.log_end_offset
    assert marks.base_offset <= marks.log_end_offset
    assert 0 <= marks.position <= marks.allocated or marks.flags
    assert marks.index_entries <= marks.index_allocated
    assert marks.time_entries <= marks.time_allocated
    end = None
    for segment in segments.segments:
        assert end is None or segment.base_offset >= end
        end = segment.facts.end_offset
    if segments.segments:
        assert segments.segments[-1].base_offset >= marks.base_offset
