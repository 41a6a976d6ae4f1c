"""Where a consumer goes on: what is sought, paused, gone or damaged, and where it begins."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from consuming import append, make, places, rest

import pylog
from pylog import Consumer, ConsumerConfig, Log, _native
from pylog.errors import (
    CorruptRangeError,
    InvalidConfigurationError,
    NoOffsetForPartitionError,
    NotAssignedError,
    OffsetOutOfRangeError,
)
from pylog.storage.encoding import Chunk

DAY = 86_400_000


# ---------------------------------------------------------------- seek, pause


def test_seek_takes_effect_with_the_next_record_of_a_loop(log: Log) -> None:
    make(log, "t", records=3000)
    consumer = log.consumer("t")
    offsets = []
    for record in consumer.records(timeout=0):
        offsets.append(record.offset)
        if len(offsets) == 2500:
            consumer.seek("t", 0, offset=10)
            assert consumer.position("t", 0) == 10
    assert offsets == [*range(2500), *range(10, 3000)]


def test_seek_by_time_to_the_beginning_and_to_the_end(log: Log) -> None:
    topic = log.create_topic("t", partitions=2, durability="os")
    for number in range(2):
        times = [1000 * (number + 1) + 10 * n for n in range(5)]
        topic.append_many([b"x"] * 5, timestamps=times, partition=number)
    consumer = log.consumer("t")
    consumer.seek_to_time(1020)
    assert rest(consumer) == [(0, 2), (0, 3), (0, 4), *((1, n) for n in range(5))]
    consumer.seek_to_time(datetime.datetime.fromtimestamp(2.035, datetime.UTC), ("t", 1))
    assert rest(consumer) == [(1, 4)]
    consumer.seek_to_beginning(("t", 0))
    assert len(rest(consumer)) == 5
    consumer.seek_to_beginning()
    consumer.seek_to_end(("t", 1))
    topic.append(b"new", partition=1)
    assert rest(consumer) == [*((0, n) for n in range(5)), (1, 5)]
    consumer.seek_to_time(10**15)
    assert rest(consumer) == []


def test_a_paused_partition_gives_nothing_until_it_is_resumed(log: Log) -> None:
    make(log, "t", 2, records=2000)
    consumer = log.consumer("t")
    seen = Counter[int]()
    for record in consumer.records(timeout=0):
        seen[record.partition] += 1
        if seen[1] == 100 and not consumer.paused():
            consumer.pause(("t", 1))
    assert seen == {0: 2000, 1: 100}
    assert consumer.position("t", 1) == 100
    assert consumer.poll(0) == []
    consumer.resume()
    assert rest(consumer) == [(1, offset) for offset in range(100, 2000)]


def test_lag_counts_what_is_not_given_yet(log: Log) -> None:
    topic = make(log, "t", 2, records=10)
    consumer = log.consumer("t")
    assert consumer.lag() == {("t", 0): 10, ("t", 1): 10}
    consumer.seek("t", 1, offset=7)
    append(topic, 0, 5)
    assert consumer.lag() == {("t", 0): 15, ("t", 1): 3}
    list(consumer.records(timeout=0))
    assert consumer.lag() == {("t", 0): 0, ("t", 1): 0}


def test_a_partition_that_is_not_read_is_named(log: Log) -> None:
    make(log, "t", 2)
    consumer = log.consumer()
    consumer.assign([("t", 0)])
    for ask in (
        lambda: consumer.position("t", 1),
        lambda: consumer.seek("t", 1, offset=0),
        lambda: consumer.seek_to_end(("t", 0), ("t", 1)),
        lambda: consumer.pause(("t", 1)),
    ):
        with pytest.raises(NotAssignedError) as caught:
            ask()
        assert (caught.value.topic, caught.value.partition) == ("t", 1)
    with pytest.raises(ValueError, match="at least 0"):
        consumer.seek("t", 0, offset=-1)
    with pytest.raises(TypeError):
        consumer.seek("t", 0, offset="3")  # type: ignore[arg-type]


# ---------------------------------------------------------------- where reading begins


def test_latest_begins_with_what_is_appended_after_the_consumer_was_made(log: Log) -> None:
    topic = make(log, "t", records=5)
    consumer = log.consumer("t", auto_offset_reset="latest")
    append(topic, 0, 2)
    assert places(consumer.poll(0)) == [(0, 5), (0, 6)]


def test_topics_made_after_a_consumer_of_the_latest_are_read_from_their_beginning(log: Log) -> None:
    make(log, "t1", records=5)
    consumer = log.consumer(pattern="t.*", auto_offset_reset="latest")
    make(log, "t2", records=2)
    assert [record.topic for record in consumer.poll(0)] == ["t2", "t2"]


def test_without_a_policy_a_partition_has_to_be_sought(log: Log) -> None:
    make(log, "t", 2, records=3)
    consumer = log.consumer("t", auto_offset_reset="none")
    consumer.seek("t", 0, offset=2)
    for _ in range(3):
        with pytest.raises(NoOffsetForPartitionError) as caught:
            list(consumer.records(timeout=0))
        assert (caught.value.topic, caught.value.partition) == ("t", 1)
    consumer.seek_to_beginning(("t", 1))
    assert rest(consumer) in ([(1, 0), (1, 1), (1, 2)], [(0, 2), (1, 0), (1, 1), (1, 2)])


@pytest.mark.parametrize("reset", ["by_duration:PT1H", datetime.timedelta(hours=1)])
def test_by_duration_begins_with_the_first_record_that_is_young_enough(
    log: Log, reset: str | datetime.timedelta
) -> None:
    topic = log.create_topic("t", durability="os")
    now = 1_700_000_000_000
    topic.append_many([b""] * 4, timestamps=[now - n * 1_800_000 for n in (3, 2, 1, 0)])
    config = ConsumerConfig(auto_offset_reset=reset)
    consumer = Consumer(log._registry, config, clock=lambda: now)
    consumer.subscribe("t")
    assert rest(consumer) == [(0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize(
    ("duration", "milliseconds"),
    [
        ("PT0S", 0),
        ("P2D", 2 * DAY),
        ("P1DT2H3M4.5S", DAY + 7_384_500),
        ("pt36h", 36 * 3_600_000),
        ("PT0.000999999S", 0),
        ("PT15M", 900_000),
    ],
)
def test_durations_are_read_as_java_reads_them(duration: str, milliseconds: int) -> None:
    assert ConsumerConfig(auto_offset_reset=f"by_duration:{duration}").reset_ms == milliseconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("auto_offset_reset", value)
            for value in (
                *("newest", "by_duration:", "by_duration:P", "by_duration:PT", "by_duration:P1DT"),
                *("by_duration:-PT1S", "by_duration:PT1.5H", "by_duration:1H", "by_duration:P1Y"),
                *(None, 7, datetime.timedelta(-1), "by_duration:PT1S ", b"latest", []),
            )
        ),
        ("max_poll_records", 0),
        ("max_poll_records", True),
        ("fetch_max_bytes", 0),
        ("max_partition_fetch_bytes", 1.5),
    ],
)
def test_a_wrong_setting_is_named(log: Log, name: str, value: Any) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        log.consumer(**{name: value})
    assert (caught.value.setting, caught.value.value) == (name, value)


# ---------------------------------------------------------------- what is gone


@pytest.fixture
def overtaken(log: Log, caplog: pytest.LogCaptureFixture) -> Callable[[str], Consumer]:
    """Make a consumer at offset 2 of a partition that holds [6, 10) by then."""
    topic = make(log, "t", records=10)

    def make_consumer(reset: str) -> Consumer:
        consumer = log.consumer("t", auto_offset_reset=reset)
        consumer.seek("t", 0, offset=0)
        assert len(consumer.poll(0, 2)) == 2
        consumer.seek("t", 0, offset=2)
        topic.delete_records({0: 6})
        return consumer

    return make_consumer


def test_what_retention_took_is_passed_over_and_said(
    overtaken: Callable[[str], Consumer], caplog: pytest.LogCaptureFixture
) -> None:
    assert rest(overtaken("earliest")) == [(0, 6), (0, 7), (0, 8), (0, 9)]
    assert "offset 2 is outside [6, 10]; going on at 6" in caplog.text


def test_latest_goes_on_at_the_end_when_its_place_is_gone(
    overtaken: Callable[[str], Consumer], log: Log
) -> None:
    consumer = overtaken("latest")
    assert consumer.poll(0) == []
    append(log.topic("t"), 0, 1)
    assert places(consumer.poll(0)) == [(0, 10)]


def test_without_a_policy_what_is_gone_is_an_error(overtaken: Callable[[str], Consumer]) -> None:
    consumer = overtaken("none")
    for _ in range(2):
        with pytest.raises(OffsetOutOfRangeError) as caught:
            consumer.poll(0)
        error = caught.value
        assert (error.topic, error.partition, error.offset, error.start) == ("t", 0, 2, 6)
    consumer.seek_to_beginning()
    assert len(rest(consumer)) == 4


def test_an_offset_that_nobody_wrote_yet_is_out_of_range_too(log: Log) -> None:
    make(log, "t", records=3)
    consumer = log.consumer("t")
    consumer.seek("t", 0, offset=100)
    assert consumer.lag() == {("t", 0): 0}
    assert rest(consumer) == [(0, 0), (0, 1), (0, 2)]


# ---------------------------------------------------------------- damage


def test_damage_names_its_partition_and_the_others_are_read(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t", partitions=2, durability="os")
        for value in range(6):
            topic.append(b"value-%d" % value, partition=0)
        append(topic, 1, 5)
    path = tmp_path / "t-0" / "00000000000000000000.log"
    path.write_bytes(path.read_bytes().replace(b"value-3", b"damaged"))
    with pylog.open(tmp_path) as log:
        consumer = log.consumer("t")
        assert sorted(places(consumer.poll(0))) == [
            *((0, n) for n in range(3)),
            *((1, n) for n in range(5)),
        ]
        for read in (lambda: consumer.poll(0), lambda: next(iter(consumer))):
            with pytest.raises(CorruptRangeError) as caught:
                read()
            error = caught.value
            assert (error.topic, error.partition, error.first) == ("t", 0, 3)
            assert consumer.position("t", 0) == 3
        append(log.topic("t"), 1, 1)
        assert places(consumer.poll(0)) == [(1, 5)]
        consumer.seek("t", 0, offset=error.last + 1)
        assert places(consumer.poll(0)) == [(0, 4), (0, 5)]


def test_a_record_that_does_not_parse_is_not_passed_over_by_who_asks_again(log: Log) -> None:
    topic = make(log, "t", records=2)
    bad = _native.make_batch([], payload=b"nothing good", count=1)
    topic.partition(0).place(Chunk(bytearray(bad), 1, 0))
    append(topic, 0, 1)
    consumer = log.consumer("t")
    assert places(consumer.poll(0)) == [(0, 0), (0, 1)]
    for _ in range(2):
        with pytest.raises(CorruptRangeError) as caught:
            consumer.poll(0)
        assert (caught.value.topic, caught.value.partition) == ("t", 0)
        with pytest.raises(CorruptRangeError):
            next(consumer.records(timeout=0))
    consumer.seek("t", 0, offset=caught.value.last + 1)
    assert places(consumer.poll(0)) == [(0, 3)]
