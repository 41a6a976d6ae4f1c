"""Timestamps of appends: whose they are, how far from now they may lie, what the index keeps."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from crash_checks import Process
from kafka_clients import AiokafkaBatch, KafkaPythonBatch
from memory_files import MemoryFiles

import pylog
from pylog import _native
from pylog.config import NEVER, TopicConfig
from pylog.errors import InvalidRecordError, InvalidTimestampError
from pylog.storage.layout import log_name
from pylog.storage.partition import Partition

NOW = 1_700_000_000_000
HOUR = 3_600_000


class Topic:
    """One partition in memory, with a clock that a test sets."""

    def __init__(self, **settings: Any) -> None:
        self.process = Process(MemoryFiles())
        self.process.now = NOW
        # Small files: memory for a window of the usual size takes longer than any test.
        settings = {"durability": "os", "segment_bytes": 1 << 20} | settings
        self.partition = self.process.partition(TopicConfig(**settings))

    def set_clock(self, now: int) -> None:
        self.process.now = now

    @property
    def stored(self) -> bytes:
        marks = self.partition.marks()
        assert marks is not None and marks.base_offset == 0
        file = self.process.files.root().directory("topic-0").open(log_name(0))
        return file.pread(marks.position, 0)

    @property
    def headers(self) -> list[dict[str, int]]:
        return _native.batch_headers(self.stored)

    @property
    def timestamps(self) -> list[int]:
        return [record.timestamp for record in self.partition.records()]


def append_singly(partition: Partition, timestamps: list[int]) -> list[int]:
    return [partition.append(b"x", timestamp=timestamp).timestamp for timestamp in timestamps]


def append_together(partition: Partition, timestamps: list[int]) -> list[int]:
    appended = partition.append_many([b"x"] * len(timestamps), timestamps=timestamps)
    return [metadata.timestamp for metadata in appended]


appends = pytest.mark.parametrize("append", [append_singly, append_together])


# ---------------------------------------------------------------- log append time


@appends
@pytest.mark.parametrize("codec", ["uncompressed", "gzip", "lz4"])
def test_log_append_time_is_the_clocks_whatever_the_caller_says(append: Any, codec: str) -> None:
    topic = Topic(message_timestamp_type="LogAppendTime", compression_type=codec)
    assert append(topic.partition, [5, NOW, 2**63 - 1]) == [NOW] * 3
    topic.set_clock(NOW + 7)
    assert append(topic.partition, [5, -1]) == [NOW + 7] * 2
    records = list(topic.partition.records())
    assert [record.timestamp for record in records] == [NOW] * 3 + [NOW + 7] * 2
    assert {record.timestamp_type for record in records} == {1}
    for header in topic.headers:
        assert header["attributes"] & 8
        assert header["base_timestamp"] == header["max_timestamp"]


@pytest.mark.parametrize("codec", ["uncompressed", "gzip"])
def test_log_append_time_does_not_even_look_at_timestamps(codec: str) -> None:
    topic = Topic(message_timestamp_type="LogAppendTime", compression_type=codec)
    for given in ("ignored", -1, 2**99):
        assert topic.partition.append(b"x", timestamp=given).timestamp == NOW
    ignored: Any = ["ignored"]
    appended = topic.partition.append_many([b"x"] * 2, timestamps=ignored)
    assert list(appended.timestamps) == [NOW] * 2


def test_log_append_time_needs_no_timestamp() -> None:
    topic = Topic(message_timestamp_type="LogAppendTime", message_timestamp_before_max_ms=0)
    assert topic.partition.append(b"x").timestamp == NOW
    appended = topic.partition.append_many([b"x"] * 3)
    assert list(appended.timestamps) == [NOW] * 3
    assert topic.timestamps == [NOW] * 4


@pytest.mark.parametrize("reader", [KafkaPythonBatch, AiokafkaBatch])
@pytest.mark.parametrize("codec", ["uncompressed", "gzip"])
def test_kafka_clients_see_the_log_append_time(reader: Any, codec: str) -> None:
    topic = Topic(message_timestamp_type="LogAppendTime", compression_type=codec)
    topic.partition.append_many([b"a", b"b"], timestamps=[5, 6])
    batch = reader(topic.stored)
    assert batch.validate_crc()
    assert [(record.timestamp, record.timestamp_type) for record in batch] == [(NOW, 1)] * 2


def test_create_time_says_so() -> None:
    topic = Topic()
    topic.partition.append_many([b"a", b"b"], timestamps=[5, 6])
    assert [(r.timestamp, r.timestamp_type) for r in topic.partition.records()] == [(5, 0), (6, 0)]


# ---------------------------------------------------------------- bounds


@appends
def test_by_default_a_timestamp_may_be_an_hour_ahead_and_as_old_as_it_likes(append: Any) -> None:
    topic = Topic()
    assert append(topic.partition, [0, NOW + HOUR]) == [0, NOW + HOUR]
    for timestamp in (NOW + HOUR + 1, 2**63 - 1):
        with pytest.raises(InvalidTimestampError) as caught:
            append(topic.partition, [timestamp])
        assert caught.value.timestamp == timestamp
        assert (caught.value.earliest, caught.value.latest) == (0, NOW + HOUR)
        assert isinstance(caught.value, InvalidRecordError)
    assert topic.partition.log_end_offset == 2


def test_one_timestamp_out_of_bounds_appends_nothing() -> None:
    topic = Topic(message_timestamp_before_max_ms=1000)
    with pytest.raises(InvalidTimestampError, match=rf"{NOW - 1001} is outside \[{NOW - 1000}, "):
        topic.partition.append_many([b"x"] * 3, timestamps=[NOW, NOW - 1001, NOW])
    with pytest.raises(InvalidTimestampError):
        topic.partition.append_many([b"x"] * 3, timestamps=NOW - 1001)
    assert topic.partition.log_end_offset == 0


def test_bounds_move_with_the_clock() -> None:
    topic = Topic(message_timestamp_before_max_ms=0, message_timestamp_after_max_ms=0)
    for now in (NOW, NOW + 1, NOW - 5):
        topic.set_clock(now)
        topic.partition.append(b"x", timestamp=now)
        for other in (now - 1, now + 1):
            with pytest.raises(InvalidTimestampError):
                topic.partition.append(b"x", timestamp=other)
    assert topic.timestamps == [NOW, NOW + 1, NOW - 5]


@pytest.mark.parametrize("timestamp", [2**63, -(2**63) - 1, 2**200])
@appends
def test_what_is_no_64_bit_number_is_an_overflow(append: Any, timestamp: int) -> None:
    topic = Topic()
    with pytest.raises(OverflowError):
        append(topic.partition, [timestamp])
    assert topic.partition.log_end_offset == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_timestamps_are_judged_alike_on_every_way(seed: int) -> None:
    """The specification is Kafka's LogValidator: now - t <= before and t - now <= after."""
    print("seed", seed)
    source = random.Random(seed)
    distances = [0, 1, 999, HOUR, NOW, 2**62, NEVER - 1, NEVER]
    settings = {
        "message_timestamp_before_max_ms": source.choice(distances),
        "message_timestamp_after_max_ms": source.choice(distances),
    }
    # A topic with a codec takes no single append in C, so that the other way is looked at, too.
    topics = [Topic(**settings), Topic(**settings, compression_type="gzip")]
    expected: list[int] = []
    refused = 0
    for _ in range(60):
        now = source.choice([0, 1, NOW, NOW + source.randrange(-(10**6), 10**6), 2**62, 2**63 - 1])
        before, after = settings.values()
        near = now + source.choice([-1, 0, 1]) + source.choice([-before, 0, after])
        timestamp = source.choice([near, near, source.randrange(2**63), -source.randrange(2**63)])
        timestamp = max(-(2**63), min(timestamp, 2**63 - 1))
        is_allowed = timestamp >= 0 and now - timestamp <= before and timestamp - now <= after
        for topic in topics:
            topic.set_clock(now)
            for append in (append_singly, append_together):
                if is_allowed:
                    assert append(topic.partition, [timestamp]) == [timestamp]
                else:
                    with pytest.raises(InvalidTimestampError, match=f"^timestamp {timestamp} "):
                        append(topic.partition, [timestamp])
        expected += [timestamp, timestamp] if is_allowed else []
        refused += not is_allowed
    for topic in topics:
        assert topic.timestamps == expected
        topic.partition.check()
    assert refused > 5


# ---------------------------------------------------------------- the time index


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", ["CreateTime", "LogAppendTime"])
def test_time_index_ascends_whatever_clock_and_callers_say(seed: int, kind: str) -> None:
    """Kafka's rule: an entry for a later timestamp only; recovery derives the same from the log."""
    print("seed", seed)
    source = random.Random(seed)
    topic = Topic(
        message_timestamp_type=kind,
        message_timestamp_after_max_ms=NEVER,
        index_interval_bytes=200,
        segment_ms=NEVER,
    )
    partition = topic.partition
    latest: list[int] = []
    for _ in range(150):
        topic.set_clock(source.choice([NOW, NOW + source.randrange(10**6), 0, 2**63 - 1]))
        if source.random() < 0.1:
            topic.set_clock(source.randrange(2**63))
        given = [
            source.choice([None, NOW + source.randrange(-(10**6), 10**6)])
            for _ in range(source.randrange(1, 8))
        ]
        for timestamp in given:
            latest.append(partition.append(b"x" * 50, timestamp=timestamp).timestamp)
    partition.check()
    marks = partition.marks()
    assert marks is not None
    assert topic.timestamps == latest
    assert (marks.max_timestamp, marks.max_timestamp_offset) == (
        max(latest),
        latest.index(max(latest)),
    )
    scanner = _native.Scanner(base_offset=0, next_offset=0, index_interval_bytes=200)
    scanner.feed(topic.stored)
    directory = topic.process.files.root().directory("topic-0")
    name = log_name(0).removesuffix("log") + "timeindex"
    entries = directory.open(name).pread(12 * marks.time_entries, 0)
    assert entries == scanner.timeindex
    stamps = [
        int.from_bytes(entries[start : start + 8], "big") for start in range(0, len(entries), 12)
    ]
    assert stamps == sorted(set(stamps))
    assert len(stamps) >= 1


def test_change_of_bounds_counts_for_the_next_append(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", durability="os").partition(0)
        partition.append(b"x", timestamp=5)
        log.alter_topic("t", message_timestamp_before_max_ms=1000)
        with pytest.raises(InvalidTimestampError):
            partition.append(b"x", timestamp=5)
        log.alter_topic("t", message_timestamp_before_max_ms=NEVER)
        partition.append(b"x", timestamp=6)
        log.alter_topic("t", message_timestamp_type="LogAppendTime")
        partition.append(b"x", timestamp=7)
        records = list(partition.records())
    assert [record.timestamp for record in records[:2]] == [5, 6]
    assert records[2].timestamp > NOW
    assert [record.timestamp_type for record in records] == [0, 0, 1]
