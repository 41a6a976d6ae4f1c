"""The rules of a partition that are pure: the clock, what retention deletes, when segments roll."""

from __future__ import annotations

import pytest
from partitions import NOW

from pylog import TopicConfig
from pylog.storage.manifest import Clock, SegmentFacts
from pylog.storage.policy import (
    CLOCK_PROBATION_MS,
    MAX_CLOCK_JUMP_MS,
    judged_clock,
    rolling_ms,
    segments_to_delete,
)

HOUR = 3_600_000
DAY = 24 * HOUR
YEAR = 365 * DAY


def test_the_clock_is_judged_by_what_was_known_of_it() -> None:
    known = Clock(NOW)
    assert judged_clock(known, now=NOW + 5) == (Clock(NOW + 5), True)
    assert judged_clock(known, now=NOW - YEAR) == (Clock(NOW), True)
    edge = NOW + MAX_CLOCK_JUMP_MS
    assert judged_clock(known, now=edge) == (Clock(edge), True)
    doubted, is_trusted = judged_clock(known, now=edge + 1)
    assert (doubted, is_trusted) == (Clock(NOW, edge + 1), False)
    assert judged_clock(doubted, now=edge + CLOCK_PROBATION_MS) == (doubted, False)
    confirmed = edge + 1 + CLOCK_PROBATION_MS
    assert judged_clock(doubted, now=confirmed) == (Clock(confirmed), True)
    # A time before the one in doubt begins the doubt anew; one that fits ends it.
    assert judged_clock(Clock(NOW, edge + YEAR), now=edge + 1) == (Clock(NOW, edge + 1), False)
    assert judged_clock(Clock(NOW, edge + YEAR), now=NOW + 5) == (Clock(NOW + 5), True)


def facts(*sizes: int) -> tuple[SegmentFacts, ...]:
    """Segments of ten offsets each; the last append of each is its base in milliseconds."""
    return tuple(
        SegmentFacts(
            base_offset=10 * n,
            end_offset=10 * n + 10,
            size=size,
            max_timestamp=0,
            append_time=10 * n,
        )
        for n, size in enumerate(sizes)
    )


@pytest.mark.parametrize(
    ("sizes", "retention_bytes", "count"),
    [
        ((5, 5, 5), -1, 0),
        ((5, 5, 5), 15, 0),
        ((5, 5, 5), 11, 0),
        ((5, 5, 5), 10, 1),
        ((5, 5, 5), 6, 1),
        ((5, 5, 5), 5, 2),
        ((5, 5, 5), 1, 2),
        ((5, 5, 5), 0, 3),
        ((5, 5, 0), 0, 2),
        ((9, 1, 1), 1, 2),
        ((1, 9, 1), 9, 1),
    ],
)
def test_size_counts_as_in_kafka(sizes: tuple[int, ...], retention_bytes: int, count: int) -> None:
    assert (
        segments_to_delete(
            facts(*sizes),
            high_watermark=30,
            now=None,
            retention_ms=0,
            retention_bytes=retention_bytes,
        )
        == count
    )


def test_both_limits_hold_and_the_high_watermark_bounds_them() -> None:
    limits = {"retention_ms": 5, "retention_bytes": 10, "now": 16}
    assert segments_to_delete(facts(5, 5, 5, 5), high_watermark=40, **limits) == 2
    assert segments_to_delete(facts(5, 5, 5, 5), high_watermark=19, **limits) == 1
    limits["now"] = 26
    assert segments_to_delete(facts(5, 5, 5, 5), high_watermark=40, **limits) == 3


def test_jitter_spreads_partitions_and_stays_below_its_bound() -> None:
    config = TopicConfig(segment_ms=DAY, segment_jitter_ms=HOUR)
    times = {rolling_ms(config, f"orders-{number}") for number in range(100)}
    assert len(times) > 90
    assert min(times) > DAY - HOUR
    assert max(times) <= DAY
    assert rolling_ms(config, "orders-7") == rolling_ms(config, "orders-7")
    assert rolling_ms(TopicConfig(segment_ms=DAY), "orders-7") == DAY
    wide = TopicConfig(segment_ms=10, segment_jitter_ms=DAY)
    assert 0 < rolling_ms(wide, "orders-7") <= 10
