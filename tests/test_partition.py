"""One partition through its public face: append, read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from partitions import NOW, bases, contents, logs_in, make_partition, values

import pylog
from pylog import Log, Partition
from pylog.errors import (
    ClosedError,
    InvalidTimestampError,
    OffsetMismatchError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
)


@pytest.fixture
def make(log: Log) -> Callable[..., Partition]:
    def make(**settings: Any) -> Partition:
        return make_partition(log, **settings)

    return make


@pytest.fixture
def partition(log: Log) -> Partition:
    return make_partition(log)


# ---------------------------------------------------------------- append


def test_a_record_comes_back_as_it_was_appended(partition: Partition) -> None:
    metadata = partition.append(b"value", b"key", [("a", b"1"), ("a", None), ("", b"")], NOW)
    assert (metadata.topic, metadata.partition) == ("t", 0)
    assert (metadata.offset, metadata.timestamp) == (0, NOW)
    (record,) = partition.read(0)
    assert (record.topic, record.partition, record.offset) == ("t", 0, 0)
    assert (record.key, record.value, record.timestamp) == (b"key", b"value", NOW)
    assert record.headers == (("a", b"1"), ("a", None), ("", b""))
    assert (record.leader_epoch, record.timestamp_type) == (0, 0)


@pytest.mark.parametrize(
    "value", [b"", None, b"\0", bytes(100_000), bytearray(b"x"), memoryview(b"y")]
)
@pytest.mark.parametrize("key", [b"", None, b"k"])
def test_empty_null_and_large_are_different_things(
    partition: Partition, value: Any, key: bytes | None
) -> None:
    partition.append(value, key)
    (record,) = partition.read(0)
    expected = None if value is None else bytes(value)
    assert (record.value, record.key) == (expected, key)


def test_the_timestamp_is_now_unless_given(partition: Partition) -> None:
    before = pylog._native.system_clock()
    metadata = partition.append(b"x")
    appended = partition.append_many([b"x"])
    after = pylog._native.system_clock()
    assert before <= metadata.timestamp <= appended[0].timestamp <= after
    assert partition.append(b"x", timestamp=0).timestamp == 0
    assert [r.timestamp for r in partition.records()][2] == 0


def test_an_expected_offset_is_met_or_nothing_is_appended(partition: Partition) -> None:
    assert partition.append(b"0", expected_offset=0).offset == 0
    for wrong in (0, 2, 2**62):
        with pytest.raises(OffsetMismatchError) as caught:
            partition.append(b"no", expected_offset=wrong)
        assert (caught.value.expected, caught.value.actual) == (wrong, 1)
        with pytest.raises(OffsetMismatchError):
            partition.append(bytes(100_000), expected_offset=wrong)
    assert partition.append(bytes(100_000), expected_offset=1).offset == 1
    assert partition.log_end_offset == 2


@pytest.mark.parametrize("timestamps", [NOW, [NOW + n for n in range(5)], (NOW,) * 5])
def test_append_many_keeps_order_and_rows(partition: Partition, timestamps: Any) -> None:
    partition.append(b"before")
    appended = partition.append_many(
        [b"0", None, b"", b"3", b"4"],
        [None, b"1", b"", b"3", None],
        [None, [("h", b"1")], [], None, [("i", None), ("j", b"2")]],
        timestamps,
    )
    times = [NOW] * 5 if timestamps == NOW else list(timestamps)
    assert appended.offsets.tolist() == [1, 2, 3, 4, 5]
    assert appended.partitions.tolist() == [0] * 5
    assert appended.timestamps.tolist() == times
    assert [(m.offset, m.timestamp) for m in appended[1:3]] == [(2, times[1]), (3, times[2])]
    assert appended[-1].offset == 5
    records = list(partition.read(1))
    assert [r.value for r in records] == [b"0", None, b"", b"3", b"4"]
    assert [r.key for r in records] == [None, b"1", b"", b"3", None]
    assert [r.headers for r in records] == [(), (("h", b"1"),), (), (), (("i", None), ("j", b"2"))]
    assert [r.timestamp for r in records] == times


def test_append_many_of_nothing_is_nothing(partition: Partition) -> None:
    assert len(partition.append_many([])) == 0
    assert partition.log_end_offset == 0


def test_a_chunk_is_all_or_nothing_in_one_segment(
    make: Callable[..., Partition], tmp_path: Path
) -> None:
    partition = make(segment_bytes=20_000)
    partition.append(b"x")
    partition.append_many([bytes(1_000)] * 15)
    assert bases(tmp_path) == [0]
    partition.append_many([bytes(1_000)] * 15)
    assert bases(tmp_path) == [0, 16]


def test_append_many_larger_than_a_segment_fills_many(
    make: Callable[..., Partition], tmp_path: Path
) -> None:
    partition = make(segment_bytes=10_000, max_message_bytes=3_000)
    expected = [b"%d" % n + bytes(n % 900) for n in range(300)]
    appended = partition.append_many(expected)
    assert appended.offsets.tolist() == list(range(300))
    assert values(partition) == expected
    assert len(bases(tmp_path)) > 3
    assert max(path.stat().st_size for path in logs_in(tmp_path)[:-1]) <= 10_000
    partition.check()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"value": "text"}, TypeError, "must be bytes-like or None, not str"),
        ({"value": 1}, TypeError, "must be bytes-like or None, not int"),
        ({"value": b"", "key": "text"}, TypeError, "must be bytes-like or None, not str"),
        ({"value": b"", "headers": [("h",)]}, TypeError, "header"),
        ({"value": b"", "headers": [(b"h", b"")]}, TypeError, "header"),
        ({"value": b"", "headers": [("h", "text")]}, TypeError, "header's value .* not str"),
        ({"value": b"", "headers": 5}, TypeError, ""),
        ({"value": b"", "headers": [("\ud800", b"")]}, ValueError, ""),
        ({"value": b"", "timestamp": -1}, InvalidTimestampError, "timestamp -1"),
        ({"value": b"", "timestamp": 1.5}, TypeError, "timestamp must be an int, not float"),
        ({"value": b"", "timestamp": 2**63}, (OverflowError, ValueError), ""),
        ({"value": b"", "expected_offset": "1"}, TypeError, "expected_offset must be an int"),
        ({"value": b"", "expected_offset": -1}, ValueError, "-1"),
        ({"value": b"", "expected_offset": -5}, ValueError, "-5"),
        ({"value": b"", "expected_offset": 2**63}, (OverflowError, ValueError), ""),
        ({}, TypeError, "value"),
        ({"value": b"", "colour": 1}, TypeError, "colour"),
    ],
)
@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_a_wrong_argument_is_refused_and_nothing_changed(
    make: Callable[..., Partition],
    tmp_path: Path,
    arguments: dict[str, Any],
    error: type[Exception],
    text: str,
    is_open: bool,
    durability: str,
) -> None:
    partition = make(durability=durability)
    if is_open:
        partition.append(b"x", timestamp=NOW)
        before = contents(tmp_path)
    with pytest.raises(error, match=text or None):
        partition.append(**arguments)
    assert partition.log_end_offset == is_open
    if is_open:
        assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"values": [b"a", "b"]}, TypeError, r"values\[1\] must be bytes-like or None, not str"),
        ({"values": [b"a"] * 2, "keys": [b"k"]}, ValueError, "keys has 1 elements, values has 2"),
        ({"values": [b"a"], "keys": [b"k", b"l"]}, ValueError, "keys has 2 elements, values has 1"),
        ({"values": [b"a"], "headers": []}, ValueError, "headers has 0 elements, values has 1"),
        ({"values": [b"a"], "timestamps": [1, 2]}, ValueError, "timestamps has 2 elements"),
        ({"values": [b"a", b"b"], "timestamps": [1, "2"]}, TypeError, "timestamp"),
        (
            {"values": [b"a", b"b"], "timestamps": [1, -2]},
            InvalidTimestampError,
            "timestamp -2 is outside",
        ),
        ({"values": [b"a"], "timestamps": -7}, InvalidTimestampError, "-7"),
        ({"values": 5}, TypeError, ""),
        ({"values": b"abc"}, TypeError, ""),
        ({"values": iter([b"a"])}, TypeError, ""),
        ({"values": [bytes(1_000)] * 100 + ["text"]}, TypeError, r"values\[100\]"),
        ({"values": [bytes(1_000)] * 100 + [bytes(6_000)]}, RecordTooLargeError, "5000"),
    ],
)
def test_a_wrong_argument_of_append_many_is_refused_and_nothing_changed(
    make: Callable[..., Partition],
    tmp_path: Path,
    arguments: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    partition = make(segment_bytes=10_000, max_message_bytes=5_000)
    partition.append(b"x")
    before = contents(tmp_path)
    with pytest.raises(error, match=text or None):
        partition.append_many(**arguments)
    assert partition.log_end_offset == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("limit", [200, 70_000, 2_000_000])
def test_a_batch_may_be_as_large_as_max_message_bytes(
    make: Callable[..., Partition], limit: int
) -> None:
    partition = make(max_message_bytes=limit)
    with pytest.raises(RecordTooLargeError) as caught:
        partition.append(bytes(limit))
    overhead = caught.value.size - limit
    assert caught.value.limit == limit
    partition.append(bytes(limit - overhead))
    with pytest.raises(RecordTooLargeError) as caught:
        partition.append(bytes(limit - overhead + 1))
    assert (caught.value.size, caught.value.limit) == (limit + 1, limit)
    with pytest.raises(RecordTooLargeError):
        partition.append_many([b"a", bytes(limit)])
    with pytest.raises(RecordTooLargeError):
        partition.append(b"", b"", [("h", bytes(limit))])
    assert [record.value for record in partition.records()] == [bytes(limit - overhead)]


# ---------------------------------------------------------------- read


@pytest.mark.parametrize("offset", [-1, 4, 100, 2**62])
def test_an_offset_out_of_range_names_the_range(partition: Partition, offset: int) -> None:
    partition.append_many([b"0", b"1", b"2"])
    calls: list[Callable[[], object]] = [
        lambda: partition.read(offset),
        lambda: partition.read_columns(offset),
        lambda: list(partition.records(offset)),
        lambda: next(iter(partition.records(offset, follow=True))),
    ]
    for call in calls:
        with pytest.raises(OffsetOutOfRangeError) as caught:
            call()
        assert (caught.value.offset, caught.value.start, caught.value.end) == (offset, 0, 3)


@pytest.mark.parametrize("offset", ["0", None, 1.0, b"0"])
def test_an_offset_that_is_no_number_is_a_type_error(partition: Partition, offset: Any) -> None:
    partition.append(b"x")
    with pytest.raises(TypeError):
        partition.read(offset)


@pytest.mark.parametrize("size", [0, -1])
def test_max_bytes_is_at_least_one(partition: Partition, size: int) -> None:
    partition.append(b"x")
    with pytest.raises(ValueError, match=str(size)):
        partition.read(0, size)


def test_reading_an_empty_partition_gives_nothing(partition: Partition) -> None:
    assert partition.marks() is None
    for _ in range(2):
        records = partition.read(0)
        assert (list(records), records.next_offset, len(records)) == ([], 0, 0)
        assert len(partition.read_columns(0)) == 0
        assert list(partition.records()) == []
        with pytest.raises(OffsetOutOfRangeError):
            partition.read(1)
        assert partition.flush() == 0
        partition.wait(0, timeout=0)  # this makes the files


def test_a_read_ends_where_it_was_asked_to(partition: Partition) -> None:
    partition.append_many([b"%d" % n for n in range(10)])
    for offset in range(11):
        for end in range(13):
            records = partition.read(offset, 1 << 20, end)
            expected = range(offset, min(end, 10))
            assert [record.offset for record in records] == list(expected)
            assert records.next_offset == max(offset, min(end, 10))


def test_reading_at_the_end_gives_nothing(partition: Partition) -> None:
    partition.append_many([b"0", b"1"])
    records = partition.read(2)
    assert (list(records), records.next_offset) == ([], 2)
    assert list(partition.records(2)) == []
    partition.append(b"2")
    assert [record.value for record in partition.read(2)] == [b"2"]


def test_every_start_gives_the_records_from_there(make: Callable[..., Partition]) -> None:
    partition = make(segment_bytes=900, index_interval_bytes=100)
    expected = []
    for n in range(30):
        batch = [b"%d %d" % (n, m) for m in range(n % 5 + 1)]
        partition.append_many(batch)
        expected += batch
    for start in range(len(expected) + 1):
        assert [r.offset for r in partition.records(start)] == list(range(start, len(expected)))
        first = partition.read(start, 1)
        assert [r.value for r in first] == expected[start : first.next_offset]
        assert first.next_offset > start or start == len(expected)
    for start, end in ((0, 0), (3, 3), (5, 20), (20, 5), (0, len(expected)), (40, 1_000)):
        if end <= len(expected):
            got = [r.value for r in partition.records(start, end)]
            assert got == expected[start:end]


@pytest.mark.parametrize("max_bytes", [1, 100, 500, 5_000, 1 << 20])
def test_sequential_reading_with_any_max_bytes_sees_all(
    make: Callable[..., Partition], max_bytes: int
) -> None:
    partition = make(segment_bytes=2_000, index_interval_bytes=300)
    expected = [bytes([n % 256]) * (n % 700) for n in range(120)]
    for start in range(0, 120, 3):
        partition.append_many(expected[start : start + 3])

    got, offset, reads = [], 0, 0
    while offset < 120:
        records = partition.read(offset, max_bytes)
        assert records.nbytes <= max(max_bytes, 3 * 700 + 200)
        got += [record.value for record in records]
        offset, reads = records.next_offset, reads + 1
    assert got == expected
    assert reads >= 40 if max_bytes < 100 else reads >= len(got) * 0 + 1
    assert [r.value for r in partition.records(max_bytes=max_bytes)] == expected


def test_columns_agree_with_records(make: Callable[..., Partition]) -> None:
    partition = make()
    keys = [None, b"", b"key"] * 20
    partition.append_many([None, b"", b"v" * 50] * 20, keys, timestamps=list(range(60)))
    partition.append(b"alone", timestamp=7)
    for start in (0, 1, 59, 60):
        columns, records = partition.read_columns(start), list(partition.read(start))
        assert columns.offsets.tolist() == [r.offset for r in records]
        assert columns.timestamps.tolist() == [r.timestamp for r in records]
        assert [columns.key(row) for row in range(len(columns))] == [r.key for r in records]
        assert [columns.value(row) for row in range(len(columns))] == [r.value for r in records]
        assert columns.next_offset == 61
        assert columns.offsets.dtype == np.int64
        with pytest.raises(IndexError):
            columns.value(len(columns))


def test_records_outlive_their_log(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t").partition(0)
        partition.append(b"value", b"key")
        records, columns = partition.read(0), partition.read_columns(0)
    assert [(r.key, r.value) for r in records] == [(b"key", b"value")]
    assert columns.value(0) == b"value"


def test_following_yields_what_comes(make: Callable[..., Partition]) -> None:
    partition = make(segment_bytes=150)
    follower = partition.records(follow=True)
    for n in range(20):
        partition.append(b"%d" % n)
        record = next(iter(follower))
        assert (record.offset, record.value) == (n, b"%d" % n)


def test_following_ends_at_an_end(partition: Partition) -> None:
    partition.append_many([b"0", b"1", b"2"])
    assert [r.offset for r in partition.records(1, 3, follow=True)] == [1, 2]


def test_a_replay_ends_at_the_high_watermark_of_its_beginning(partition: Partition) -> None:
    partition.append_many([b"0", b"1"])
    seen = []
    for record in partition.records(max_bytes=1):
        seen.append(record.offset)
        partition.append(b"more")
    assert seen == [0, 1]


# ---------------------------------------------------------------- facts


def test_marks_move_as_durability_says(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        lazy = log.create_topic("lazy", durability="os").partition(0)
        lazy.append(b"x")
        assert (lazy.high_watermark, lazy.log_end_offset, lazy.durable_offset) == (1, 1, 0)
        assert lazy.flush() == lazy.durable_offset == 1
        sure = log.create_topic("sure").partition(0)
        sure.append(b"x")
        assert (sure.high_watermark, sure.log_end_offset, sure.durable_offset) == (1, 1, 1)
        for partition in (lazy, sure):
            assert (partition.log_start_offset, partition.state) == (0, "open")
            partition.check()


def test_a_closed_partition_refuses(partition: Partition) -> None:
    partition.append(b"x")
    partition.close()
    partition.close()
    for call in (
        lambda: partition.append(b"x"),
        lambda: partition.append_many([b"x"]),
        lambda: partition.read(0),
        lambda: partition.flush(),
        lambda: partition.wait(5),
    ):
        with pytest.raises(ClosedError, match="t-0"):
            call()
