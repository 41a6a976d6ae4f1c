"""Rules of a partition, pure: facts in, plan out.  No files, no clock, no state.

Another module executes what these functions decide.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from typing import Final

from pylog._native import BATCH_HEADER_BYTES, crc32c
from pylog.config import TopicConfig
from pylog.storage.manifest import Clock, SegmentFacts

PAGE: Final = 4096  # what files are grown by, so that a mapped page is never half past their end
MIN_GROWTH: Final = 64 << 10  # the design's first window
MAX_GROWTH: Final = 1 << 20  # and its largest: a fresh 1 MiB write still runs at 4-8 GB/s
GROWTH_TOGETHER: Final = 256 << 20  # zeros ahead in all open files of a process (guessed)
INDEX_GROWTH: Final = 512  # entries; covers 2 MiB of log at the default interval (guessed)
WINDOW_BYTES: Final = 64 << 20  # address space mapped at a time; a default segment fits whole
INDEX_ENTRY_BYTES: Final = 8  # drawn in index.py
TIME_ENTRY_BYTES: Final = 12
OFFSETS_PER_SEGMENT: Final = 2**31  # [base, base + this): relative offsets are Kafka's int32
LARGE_WRITE: Final = 64 << 10  # from here one pwrite beats page faults of the map (measured: bench)
# A clock that is further ahead is doubted, for a while: true jumps, of a log that was closed, cost
# an hour then; wrong ones, of a machine without a battery, are years.  Both guessed.
MAX_CLOCK_JUMP_MS: Final = 30 * 86_400_000
CLOCK_PROBATION_MS: Final = 3_600_000
# A process that is killed between a change and its event tells nobody: who waits looks by itself.
LOOK_AGAIN_SECONDS: Final = 1.0  # what such a death may cost (guessed)


def should_roll(
    *,
    position: int,
    size: int,
    first_timestamp: int,
    timestamp: int,
    relative_offset: int,
    index_entries: int,
    segment_bytes: int,
    segment_ms: int,
    max_index_entries: int,
) -> bool:
    """Return whether an append of `size` bytes must go to a new segment.

    position: bytes in the active segment; timestamp: the append's greatest; relative_offset: of its
    last record to the segment's base.  An empty segment is never rolled: it takes what comes.
    Source: Kafka LogSegment.shouldRoll.
    """
    if position == 0:
        return False
    return (
        position + size > segment_bytes
        or (first_timestamp >= 0 and timestamp - first_timestamp > segment_ms)
        or index_entries >= max_index_entries
        or relative_offset >= OFFSETS_PER_SEGMENT
    )


def is_compacted(config: TopicConfig) -> bool:
    """Return whether a topic keeps the latest record of each key, and so needs keys."""
    return "compact" in config.cleanup_policy


def rolling_ms(config: TopicConfig, partition: str) -> int:
    """Return after how much time a segment of this partition is rolled.

    partition: its name, by which partitions that began together roll at different times.
    Source: Kafka LogConfig.maxSegmentMs, less its randomSegmentJitter, which here is not random.
    """
    longest = config.segment_ms
    if is_compacted(config):
        # What may not be compacted for long must not stay in the active segment.
        longest = min(longest, config.max_compaction_lag_ms)
    jitter = min(config.segment_jitter_ms, longest)
    return longest - (crc32c(partition.encode()) % jitter if jitter else 0)


def segments_from(
    segments: tuple[SegmentFacts, ...], log_start_offset: int
) -> tuple[SegmentFacts, ...]:
    """Return the segments that hold records at or above `log_start_offset`, and the active one.

    A segment goes when the next one begins at or below the log start, so gaps between them, as
    compaction leaves them, belong to the former.
    Source: Kafka UnifiedLog.deleteLogStartOffsetBreachedSegments.
    """
    kept = len(segments) - 1
    while kept > 0 and segments[kept].base_offset > log_start_offset:
        kept -= 1
    return segments[kept:]


def judged_clock(clock: Clock, *, now: int) -> tuple[Clock, bool]:
    """Return what is known of the clock after it says `now`, and whether that is to be believed.

    clock: what was known before, at least that a time has passed.  A clock that is set back is
    believed: nothing looks older by it.  One that is far ahead of what was known (the log may have
    been closed for long, or the clock be wrong) is believed when it still says so a while later.
    Source: RELIABILITY C8, after KAFKA-14991.
    """
    if now <= clock.trusted + MAX_CLOCK_JUMP_MS:
        return Clock(max(clock.trusted, now)), True
    if 0 <= clock.doubted <= now - CLOCK_PROBATION_MS:
        return Clock(now), True
    return Clock(clock.trusted, clock.doubted if 0 <= clock.doubted <= now else now), False


def settled_times(segments: tuple[SegmentFacts, ...], *, now: int) -> tuple[SegmentFacts, ...]:
    """Return the segments with append times that are known and can be meant.

    now: believed, and not before a time that the clock is known to have passed.
    An append time far ahead of it was taken while the clock was wrong; that of a segment which
    others wrote is not known, and its greatest timestamp serves, unless it has none or it lies far
    ahead.  All these count from now on, which is never too early.
    """

    def settled(facts: SegmentFacts) -> SegmentFacts:
        is_settled = 0 <= time_of(facts) <= now + MAX_CLOCK_JUMP_MS
        return facts if is_settled else dataclasses.replace(facts, append_time=now)

    return tuple(map(settled, segments))


def time_of(facts: SegmentFacts) -> int:
    """Return from when on a segment is kept: its last append, or, if unknown, what it says."""
    return facts.append_time if facts.append_time >= 0 else facts.max_timestamp


def expired_segments(segments: tuple[SegmentFacts, ...], *, now: int, retention_ms: int) -> int:
    """Return how many of the oldest segments are older than `retention_ms`.

    segments: settled.  A segment is as old as its last append, not as its records' timestamps say,
    which any producer's wrong clock may have made: Kafka goes by these (RELIABILITY C8).
    """
    for count, facts in enumerate(segments):
        if now - time_of(facts) <= retention_ms:
            return count
    return len(segments)


def excess_segments(segments: tuple[SegmentFacts, ...], *, retention_bytes: int) -> int:
    """Return how many of the oldest segments leave at least `retention_bytes` when they go.

    Source: Kafka UnifiedLog.deleteRetentionSizeBreachedSegments.
    """
    excess = sum(facts.size for facts in segments) - retention_bytes
    for count, facts in enumerate(segments):
        excess -= facts.size
        if excess < 0:
            return count
    return len(segments)


def segments_to_delete(
    segments: tuple[SegmentFacts, ...],
    *,
    high_watermark: int,
    now: int | None,
    retention_ms: int,
    retention_bytes: int,
) -> int:
    """Return how many of the oldest segments retention deletes; all: the active one, too.

    now: None while the clock is in doubt, then none is too old.  retention_ms, retention_bytes: -1
    for no limit.  Nothing above the high watermark goes, and no segment that is empty and active.
    """
    by_time = by_size = 0
    if now is not None and retention_ms >= 0:
        by_time = expired_segments(segments, now=now, retention_ms=retention_ms)
    if retention_bytes >= 0:
        by_size = excess_segments(segments, retention_bytes=retention_bytes)
    count = max(by_time, by_size)
    if count == len(segments) and segments[-1].size == 0:
        count -= 1
    while count > 0 and segments[count - 1].end_offset > high_watermark:
        count -= 1
    return count


# ------------------------------------------------------------------ compaction


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DirtyRange:
    """The offsets [start, end) that compaction has not seen and may go over now.

    Both ends lie between segments, but for a start in the middle of one, where a round ended that
    could not remember more keys.  dirty_bytes: of the segments of the range.  clean_bytes: of those
    before it.
    """

    start: int
    end: int
    clean_bytes: int = 0
    dirty_bytes: int = 0

    def until(self, end: int) -> DirtyRange:
        """Return the part of the range below `end`, which lies between segments, too."""
        return dataclasses.replace(self, end=min(self.end, end))

    @property
    def ratio(self) -> float:
        """The part of the bytes that is dirty, from 0 to 1; 0 when there are none."""
        total = self.clean_bytes + self.dirty_bytes
        return self.dirty_bytes / total if total else 0.0


def dirty_range(
    segments: tuple[SegmentFacts, ...],
    *,
    cleaned_offset: int,
    log_start_offset: int,
    high_watermark: int,
    now: int,
    min_compaction_lag_ms: int,
) -> DirtyRange:
    """Return what compaction may go over: sealed segments, below the high watermark, old enough.

    segments: settled; the last one is active.  now: the log's clock; while it is in doubt, a time
    that has passed for sure.  A segment is as old as its last append, as in `expired_segments`.
    Source: Kafka LogCleanerManager.cleanableOffsets and LogToClean; its segment in which the dirty
    part begins counts as clean and as dirty, here as dirty.
    """
    end_offset = segments[-1].end_offset
    start = cleaned_offset if log_start_offset <= cleaned_offset <= end_offset else log_start_offset
    end, clean_bytes, dirty_bytes = start, 0, 0
    for facts, following in itertools.pairwise(segments):
        if following.base_offset <= start:
            clean_bytes += facts.size
            continue
        is_young = min_compaction_lag_ms > 0 and time_of(facts) > now - min_compaction_lag_ms
        if following.base_offset > high_watermark or is_young:
            break
        dirty_bytes += facts.size
        end = following.base_offset
    return DirtyRange(start=start, end=end, clean_bytes=clean_bytes, dirty_bytes=dirty_bytes)


def is_compaction_due(
    dirty: DirtyRange,
    *,
    min_cleanable_dirty_ratio: float,
    oldest: int,
    now: int,
    max_compaction_lag_ms: int,
) -> bool:
    """Return whether compaction is worth its price now, or promised.

    oldest: when the first dirty record was appended, as far as is known; -1 when it is not.
    Source: Kafka LogCleanerManager.grabFilthiestCompactedLog, KIP-354.
    """
    is_late = 0 <= oldest < now - max_compaction_lag_ms and dirty.dirty_bytes > 0
    return dirty.ratio > min_cleanable_dirty_ratio or is_late


def oldest_append(segments: tuple[SegmentFacts, ...], place: int, first_timestamp: int) -> int:
    """Return when the first record of a segment was appended, as well as that is known; or -1.

    segments: settled.  first_timestamp: what its first batch says, which may be any producer's
    wrong clock: it was neither before the last append to the segment before, nor after its own
    last.
    """
    earliest = time_of(segments[place - 1]) if place else -1
    return min(max(first_timestamp, earliest), time_of(segments[place]))


def compaction_groups(
    segments: tuple[SegmentFacts, ...],
    *,
    end_offset: int,
    segment_bytes: int,
    segment_index_bytes: int,
) -> list[tuple[SegmentFacts, ...]]:
    """Return the segments below `end_offset` in groups, each of which becomes one segment.

    segments: of the whole log, the last one active.  A group holds as many as one segment could
    without being cleaned; one that is larger than that is a group of its own.
    Source: Kafka Cleaner.groupSegmentsBySize.
    """
    groups: list[list[SegmentFacts]] = []
    sizes = (0, 0, 0)
    limits = (segment_bytes, segment_index_bytes, segment_index_bytes)
    for facts, following in itertools.pairwise(segments):
        if facts.base_offset >= end_offset:
            break
        own = (
            facts.size,
            facts.index_entries * INDEX_ENTRY_BYTES,
            facts.time_entries * TIME_ENTRY_BYTES,
        )
        together = tuple(map(operator.add, sizes, own))
        fits = all(size <= limit for size, limit in zip(together, limits, strict=True))
        # Its last offset is known only as one before the next segment's first.
        if groups and facts.size > 0:
            fits &= following.base_offset - groups[-1][0].base_offset <= OFFSETS_PER_SEGMENT
        if groups and fits:
            groups[-1].append(facts)
            sizes = together
        else:
            groups.append([facts])
            sizes = own
    return [tuple(group) for group in groups]


# ------------------------------------------------------------------ room


def max_index_entries(segment_index_bytes: int) -> int:
    """Return how many entries both indexes may hold; the time index is full one entry early."""
    return min(
        segment_index_bytes // INDEX_ENTRY_BYTES, segment_index_bytes // TIME_ENTRY_BYTES - 1
    )


def growth_limit(open_files: int) -> int:
    """Return the largest step by which a log grows in a process that has so many files open.

    A thousand partitions that all grow by the largest step at about the same time would stop for
    as long as it takes to fill a gigabyte.
    """
    share = GROWTH_TOGETHER // max(open_files, 1) // MIN_GROWTH * MIN_GROWTH
    return min(max(share, MIN_GROWTH), MAX_GROWTH)


def grown_size(
    *, allocated: int, needed: int, segment_bytes: int, max_growth: int = MAX_GROWTH
) -> int:
    """Return the size to which a file with `allocated` bytes grows so that `needed` fit.

    Doubles between steps of 64 KiB and max_growth, and stops at the segment's end, as far as
    `needed` lets it.  The result is a multiple of the page size.
    """
    step = min(max(allocated, MIN_GROWTH), max_growth)
    return rounded_up(max(min(allocated + step, segment_bytes), needed))


def index_entries_needed(size: int, index_interval_bytes: int) -> int:
    """Return how many entries `size` bytes of batches may add to an index, and one for the seal."""
    return size // max(index_interval_bytes, BATCH_HEADER_BYTES) + 2


def grown_entries(*, allocated: int, needed: int, maximum: int) -> int:
    """Return how many entries an index file with `allocated` grows to so that `needed` fit.

    It stops at `maximum`, where the segment is rolled, as far as `needed` lets it.
    """
    if needed <= allocated:
        return allocated
    return max(min(allocated + INDEX_GROWTH, maximum), needed)


def rounded_up(size: int) -> int:
    """Return the smallest multiple of the page size that is at least `size`."""
    return -(-size // PAGE) * PAGE


def window_of(*, position: int, needed: int, segment_bytes: int) -> tuple[int, int]:
    """Return (position, size) of the map through which a segment is written at `position`.

    The map may reach past the file's end; nobody touches bytes that are not allocated.
    """
    start = position // PAGE * PAGE
    if segment_bytes <= WINDOW_BYTES:
        start = 0
    end = max(min(start + WINDOW_BYTES, segment_bytes), needed) + LARGE_WRITE
    return start, rounded_up(end - start)
