"""What compaction may go over, when it is due, and which segments it puts together: pure rules."""

from __future__ import annotations

import itertools
import random

import pytest
from partitions import NOW

from pylog.storage.manifest import SegmentFacts
from pylog.storage.policy import (
    OFFSETS_PER_SEGMENT,
    DirtyRange,
    compaction_groups,
    dirty_range,
    is_compaction_due,
    oldest_append,
)

HOUR = 3_600_000


def facts(*sizes: int, **common: int) -> tuple[SegmentFacts, ...]:
    """Segments of ten offsets each; the last append to each is an hour after that before it."""
    return tuple(
        SegmentFacts(
            base_offset=10 * n,
            end_offset=10 * n + 10,
            size=size,
            max_timestamp=NOW + n * HOUR,
            append_time=NOW + n * HOUR,
            **common,
        )
        for n, size in enumerate(sizes)
    )


def dirty(segments: tuple[SegmentFacts, ...], cleaned: int = 0, **changes: int) -> DirtyRange:
    given = {
        "log_start_offset": 0,
        "high_watermark": segments[-1].end_offset,
        "now": NOW + 100 * HOUR,
        "min_compaction_lag_ms": 0,
    }
    return dirty_range(segments, cleaned_offset=cleaned, **(given | changes))


def test_everything_but_the_active_segment_is_dirty_before_the_first_compaction() -> None:
    found = dirty(facts(5, 6, 7))
    assert found == DirtyRange(start=0, end=20, clean_bytes=0, dirty_bytes=11)
    assert found.ratio == 1.0


def test_the_ratio_is_that_of_bytes_of_whole_segments() -> None:
    found = dirty(facts(6, 1, 1, 9), cleaned=10)
    assert (found.start, found.end) == (10, 30)
    assert found.ratio == 2 / 8
    assert dirty(facts(6, 1, 1, 9), cleaned=30).ratio == 0.0
    assert dirty(facts(0, 0, 9)).ratio == 0.0


def test_a_round_that_ended_inside_a_segment_leaves_it_dirty() -> None:
    found = dirty(facts(6, 2, 1, 9), cleaned=15)
    assert (found.start, found.end, found.clean_bytes, found.dirty_bytes) == (15, 30, 6, 3)


def test_the_active_segment_is_never_touched() -> None:
    assert dirty(facts(5)) == DirtyRange(start=0, end=0)
    assert dirty(facts(5, 5), cleaned=13).end == 13  # a log that others compacted further


def test_compaction_ends_at_the_segment_that_the_high_watermark_is_in() -> None:
    assert [dirty(facts(1, 1, 1, 1), high_watermark=n).end for n in (0, 9, 10, 19, 20, 40)] == [
        0, 0, 10, 10, 20, 30,
    ]  # fmt: skip


@pytest.mark.parametrize(("cleaned", "start"), [(25, 25), (24, 25), (0, 25), (40, 40), (41, 25)])
def test_a_position_outside_the_log_begins_anew_at_its_start(cleaned: int, start: int) -> None:
    assert dirty(facts(1, 1, 1, 1), cleaned, log_start_offset=25).start == start


def test_what_was_appended_lately_is_left_alone() -> None:
    segments = facts(1, 1, 1, 1)
    now = NOW + 2 * HOUR
    assert [
        dirty(segments, now=now, min_compaction_lag_ms=lag).end
        for lag in (0, 1, HOUR, HOUR + 1, 2 * HOUR, 2 * HOUR + 1)
    ] == [30, 20, 20, 10, 10, 0]
    # What is clean already is not young again.
    assert dirty(segments, 20, now=now, min_compaction_lag_ms=9 * HOUR) == DirtyRange(
        start=20, end=20, clean_bytes=2
    )


def test_age_is_counted_from_the_append_and_not_from_timestamps_of_records() -> None:
    (first, *_) = facts(1, 1)
    assert first.append_time == first.max_timestamp
    old = SegmentFacts(base_offset=0, end_offset=10, size=1, max_timestamp=5, append_time=NOW)
    segments = (old, facts(1, 1)[1])
    assert dirty(segments, now=NOW + 1, min_compaction_lag_ms=HOUR).end == 0


@pytest.mark.parametrize(
    ("dirty_bytes", "oldest", "is_due"),
    [
        (50, NOW, False),  # the ratio must be greater
        (51, NOW, True),
        (1, NOW - HOUR, False),
        (1, NOW - HOUR - 1, True),  # promised by max_compaction_lag_ms
        (0, NOW - HOUR - 1, False),
        (1, -1, False),
    ],
)
def test_compaction_is_due_by_ratio_or_by_age(dirty_bytes: int, oldest: int, is_due: bool) -> None:
    found = DirtyRange(start=0, end=1, clean_bytes=100 - dirty_bytes, dirty_bytes=dirty_bytes)
    assert is_due == is_compaction_due(
        found,
        min_cleanable_dirty_ratio=0.5,
        oldest=oldest,
        now=NOW,
        max_compaction_lag_ms=HOUR,
    )


def test_a_wrong_timestamp_neither_hastens_nor_delays_what_age_demands() -> None:
    segments = facts(1, 1, 1)
    assert oldest_append(segments, 1, NOW + 5) == NOW + 5
    assert oldest_append(segments, 1, 0) == NOW  # not before the last append to the one before
    assert oldest_append(segments, 1, NOW + 99 * HOUR) == NOW + HOUR
    assert oldest_append(segments, 0, 7) == 7


def groups(segments: tuple[SegmentFacts, ...], end: int, **limits: int) -> list[list[int]]:
    given = {"segment_bytes": 10, "segment_index_bytes": 240} | limits
    found = compaction_groups(segments, end_offset=end, **given)
    return [[one.base_offset for one in group] for group in found]


def test_small_segments_are_put_together_up_to_the_size_of_one() -> None:
    assert groups(facts(5, 5, 1, 9, 1, 30, 1, 1), 70) == [[0, 10], [20, 30], [40], [50], [60]]
    assert groups(facts(5, 5), 10) == [[0]]
    assert groups(facts(5, 5), 5) == [[0]]  # partly mapped, and cleaned as a whole
    assert groups(facts(5, 5, 5), 10) == [[0]]
    assert groups(facts(5, 5), 0) == []


def test_indexes_bound_a_group_too() -> None:
    assert groups(facts(1, 1, 1, 1, index_entries=15), 30) == [[0, 10], [20]]
    assert groups(facts(1, 1, 1, 1, time_entries=10), 30) == [[0, 10], [20]]
    assert groups(facts(1, 1, 1, 1, time_entries=10, index_entries=10), 30) == [[0, 10], [20]]


def at(base: int, end: int, size: int) -> SegmentFacts:
    return SegmentFacts(base_offset=base, end_offset=end, size=size, max_timestamp=0)


def test_offsets_in_a_group_stay_within_four_bytes() -> None:
    limit = OFFSETS_PER_SEGMENT
    # The last offset of the second is known only as one before the next segment's first.
    near = (at(0, 1, 1), at(1, 5, 1), at(limit, limit, 0))
    assert groups(near, limit) == [[0, 1]]
    far = (at(0, 1, 1), at(1, 5, 1), at(limit + 1, limit + 1, 0))
    assert groups(far, limit) == [[0], [1]]
    empty = (at(0, 1, 1), at(1, 5, 0), at(limit + 1, limit + 1, 0))
    assert groups(empty, limit) == [[0, 1]]


def test_groups_cover_every_segment_once_and_no_group_could_take_the_next() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(200):
        segments = facts(*(rng.randint(0, 12) for _ in range(rng.randint(1, 12))))
        end = rng.randint(0, 130)
        found = compaction_groups(
            segments, end_offset=end, segment_bytes=10, segment_index_bytes=240
        )
        flat = [one for group in found for one in group]
        assert flat == [one for one in segments[:-1] if one.base_offset < end]
        for group, following in itertools.pairwise(found):
            assert len(group) == 1 or sum(one.size for one in group) <= 10
            assert sum(one.size for one in group) + following[0].size > 10
