"""Records by their timestamps, against a scan of all of them."""

from __future__ import annotations

import datetime
import gzip
import logging
import random
from itertools import islice
from pathlib import Path

import pytest
from partitions import NOW, logs_in, make_partition

import pylog
from pylog import Log, OffsetAndTimestamp, Partition
from pylog._native import make_batch
from pylog.engine.moments import milliseconds_of
from pylog.errors import CorruptRangeError
from pylog.storage.layout import log_name

UTC = datetime.UTC
LOG_APPEND_TIME = 0x08
GZIP = 0x01


def scanned(partition: Partition, timestamp: int) -> OffsetAndTimestamp | None:
    """The specification: look at every record."""
    for record in partition.records():
        if record.timestamp >= timestamp:
            return OffsetAndTimestamp(record.offset, record.timestamp, record.leader_epoch)
    return None


def latest_scanned(partition: Partition) -> tuple[int, int] | None:
    found = [(record.timestamp, -record.offset) for record in partition.records()]
    return (-max(found)[1], max(found)[0]) if found else None


def check_times(partition: Partition, rng: random.Random, count: int = 40) -> int:
    """Compare lookups with scans; return how many found a record."""
    timestamps = [record.timestamp for record in partition.records()] or [NOW]
    hits = 0
    for _ in range(count):
        target = max(rng.choice(timestamps) + rng.choice((-1000, -1, 0, 0, 1, 1000)), 0)
        expected = scanned(partition, target)
        assert partition.offset_for_time(target) == expected, target
        hits += expected is not None
    found = partition.max_timestamp
    assert (found and (found.offset, found.timestamp)) == latest_scanned(partition)
    return hits


def random_timestamps(rng: random.Random, count: int) -> list[int]:
    kind = rng.choice(("rising", "falling", "wild", "equal", "late", "far"))
    if kind == "rising":
        return [NOW + 7 * number + rng.randint(0, 20) for number in range(count)]
    if kind == "falling":
        return [NOW + 10_000 - 7 * number for number in range(count)]
    if kind == "equal":
        return [NOW] * count
    if kind == "late":
        return [NOW + number - rng.choice((0, 0, 0, 500)) for number in range(count)]
    if kind == "far":
        return [rng.choice((0, 1, NOW, 2**62, 2**63 - 1)) for _ in range(count)]
    return [NOW + rng.randrange(2000) for _ in range(count)]


@pytest.mark.parametrize("number", range(12))
def test_lookups_agree_with_a_scan_of_all_records(log: Log, number: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    partition = make_partition(
        log,
        segment_bytes=rng.choice((400, 3000, 64 << 20)),
        index_interval_bytes=rng.choice((0, 100, 4096)),
        segment_index_bytes=rng.choice((48, 10 << 20)),
        segment_ms=2**62,
        message_timestamp_after_max_ms=2**63 - 1,
    )
    assert check_times(partition, rng, 2) == 0
    assert partition.max_timestamp is None
    hits = 0
    for _ in range(4):
        timestamps = random_timestamps(rng, rng.choice((1, 20, 200)))
        if rng.random() < 0.5:
            partition.append_many([b"x"] * len(timestamps), timestamps=timestamps)
        else:
            for timestamp in timestamps:
                partition.append(b"y" * rng.randrange(40), timestamp=timestamp)
        hits += check_times(partition, rng)
        if rng.random() < 0.3:
            partition.suspend()
    assert hits > 10


def kafka_batches(rng: random.Random, count: int) -> tuple[bytes, int]:
    """Return batches as other clients write them, and their end offset: gaps, codecs, no times."""
    data, offset = b"", 0
    for _ in range(count):
        size = rng.randint(1, 5)
        start = NOW + rng.randrange(3000)
        deltas = [rng.randrange(500) for _ in range(size)]
        rows = [(row, deltas[row], None, b"v" * rng.randrange(30)) for row in range(size)]
        attributes = rng.choice((0, 0, GZIP, LOG_APPEND_TIME, LOG_APPEND_TIME | GZIP))
        if rng.random() < 0.1:
            start, deltas = -1, [0] * size
            rows = [(row, 0, None, b"no time") for row in range(size)]
        fields = {
            "base_offset": offset,
            "leader_epoch": 0,
            "base_timestamp": start,
            "max_timestamp": start + max(deltas),
            "attributes": attributes,
        }
        batch = make_batch(rows, **fields)
        if attributes & GZIP:
            payload = gzip.compress(batch[61:])
            batch = make_batch(
                [], payload=payload, count=size, last_offset_delta=size - 1, **fields
            )
        data += batch
        offset += size + rng.choice((0, 0, 0, 2))
    return data, offset


@pytest.mark.parametrize("number", range(6))
def test_compressed_and_log_append_times_are_found_as_a_scan_finds_them(
    tmp_path: Path, number: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    (tmp_path / "t-0").mkdir(parents=True)
    data, end = kafka_batches(rng, 40)
    (tmp_path / "t-0" / log_name(0)).write_bytes(data)
    (tmp_path / "t-0" / log_name(end)).write_bytes(
        make_batch([(0, 0, None, b"last")], base_offset=end, base_timestamp=NOW, leader_epoch=0)
    )
    with pylog.open(tmp_path) as log:
        partition = make_partition(log)
        assert check_times(partition, rng) > 20


def test_a_batch_that_is_too_early_is_not_decompressed(tmp_path: Path) -> None:
    (tmp_path / "t-0").mkdir(parents=True)
    broken = make_batch(
        [], payload=b"no gzip", count=1, attributes=GZIP, leader_epoch=0, max_timestamp=NOW
    )
    good = make_batch([(0, 0, None, b"x")], base_offset=1, leader_epoch=0, base_timestamp=NOW + 1)
    (tmp_path / "t-0" / log_name(0)).write_bytes(broken + good)
    with pylog.open(tmp_path) as log:
        assert make_partition(log).offset_for_time(NOW + 1) == OffsetAndTimestamp(1, NOW + 1, 0)


# ---------------------------------------------------------------- what counts


def test_equal_timestamps_give_the_first_record(log: Log) -> None:
    partition = make_partition(log, index_interval_bytes=0)
    for _ in range(10):
        partition.append(b"x", timestamp=NOW)
    assert partition.offset_for_time(NOW) == OffsetAndTimestamp(0, NOW, 0)
    assert partition.max_timestamp == OffsetAndTimestamp(0, NOW, 0)


def test_a_record_inside_a_batch_is_found_though_the_index_names_its_end(log: Log) -> None:
    partition = make_partition(log, index_interval_bytes=0)
    partition.append_many([b"a"] * 5, timestamps=NOW)
    partition.append_many([b"b"] * 5, timestamps=[NOW + 9, NOW + 1, NOW + 2, NOW + 3, NOW + 4])
    partition.append_many([b"c"] * 5, timestamps=NOW + 20)
    assert partition.offset_for_time(NOW + 9) == OffsetAndTimestamp(5, NOW + 9, 0)


def test_what_is_not_visible_yet_is_not_found(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = make_partition(log, durability="fsync", index_interval_bytes=0)
    partition.append(b"seen", timestamp=NOW)
    attachment = partition._attached()
    assert attachment is not None
    # Placed and not synced, as another thread's append looks for an instant.
    for later in range(1, 20):
        attachment.tail.native.append(b"unsynced", timestamp=NOW + later)
    assert partition.log_end_offset == 20
    assert partition.offset_for_time(NOW + 1) is None
    assert partition.max_timestamp == OffsetAndTimestamp(0, NOW, 0)
    partition.flush()
    assert partition.offset_for_time(NOW + 1) == OffsetAndTimestamp(1, NOW + 1, 0)
    assert partition.max_timestamp == OffsetAndTimestamp(19, NOW + 19, 0)


def fill(log: Log) -> Partition:
    partition = make_partition(log, index_interval_bytes=0, segment_bytes=3000)
    for number in range(100):
        partition.append(b"x" * 20, timestamp=NOW + number)
    return partition


def test_a_wrong_time_index_costs_time_and_hides_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pylog.open(tmp_path) as log:
        fill(log)
    first = logs_in(tmp_path)[0].with_suffix(".timeindex")
    entries = first.read_bytes()
    rng = random.Random(7)
    for _ in range(20):
        # An entry that moves its time ahead would have a lookup begin behind the record.
        damaged = bytearray(entries)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        first.write_bytes(damaged)
        with pylog.open(tmp_path) as log, caplog.at_level(logging.CRITICAL):
            check_times(log.topic("t").partition(0), rng)


def test_a_time_index_of_zeros_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # KAFKA-10207: zeros at its end made a broker delete data too early.
    with pylog.open(tmp_path) as log:
        fill(log)
    first = logs_in(tmp_path)[0].with_suffix(".timeindex")
    first.write_bytes(bytes(first.stat().st_size))
    with pylog.open(tmp_path) as log:
        assert log.topic("t").partition(0).offset_for_time(NOW + 20) == scanned(
            log.topic("t").partition(0), NOW + 20
        )
    assert "its time index is wrong" in caplog.text


def test_a_missing_time_index_is_done_without(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        fill(log)
    logs_in(tmp_path)[0].with_suffix(".timeindex").unlink()
    with pylog.open(tmp_path) as log:
        assert check_times(log.topic("t").partition(0), random.Random(1)) > 10


def test_damage_where_the_record_may_be_is_said(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        fill(log)
    path = logs_in(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    path.with_suffix(".timeindex").unlink()
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        with pytest.raises(CorruptRangeError) as caught:
            partition.offset_for_time(NOW + 30)
        assert caught.value.last < 30
        assert partition.offset_for_time(NOW + 50) == OffsetAndTimestamp(50, NOW + 50, 0)


# ---------------------------------------------------------------- points in time


def test_a_datetime_means_its_millisecond_or_the_next_one() -> None:
    moment = datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert milliseconds_of(moment) == NOW
    assert milliseconds_of(moment + datetime.timedelta(microseconds=1)) == NOW + 1
    assert milliseconds_of(moment + datetime.timedelta(microseconds=1000)) == NOW + 1
    elsewhere = moment.astimezone(datetime.timezone(datetime.timedelta(hours=-7)))
    assert milliseconds_of(elsewhere) == NOW
    assert milliseconds_of(datetime.datetime(1066, 10, 14, tzinfo=UTC)) == 0
    assert milliseconds_of(NOW) == NOW


@pytest.mark.parametrize(
    ("when", "error", "text"),
    [
        (datetime.datetime(2023, 11, 14), ValueError, "has no time zone"),
        (-1, ValueError, "expected at least 0"),
        (1.5, TypeError, "not float"),
        ("2023-11-14", TypeError, "not str"),
        (datetime.date(2023, 11, 14), TypeError, "not date"),
    ],
)
def test_what_is_no_point_in_time_is_refused(
    log: Log, when: object, error: type[Exception], text: str
) -> None:
    topic = log.create_topic("t", partitions=2)
    with pytest.raises(error, match=text):
        topic.offsets_for_times(when)  # type: ignore[arg-type]


def test_a_partition_takes_milliseconds_only(log: Log) -> None:
    partition = make_partition(log)
    with pytest.raises(TypeError, match="timestamp must be an int, not datetime"):
        partition.offset_for_time(datetime.datetime.now(UTC))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected at least 0"):
        partition.first_offset(-1)


def test_a_topic_answers_for_each_partition(log: Log) -> None:
    topic = log.create_topic("t", partitions=3)
    topic.append(b"x", timestamp=NOW, partition=0)
    topic.append(b"x", timestamp=NOW + 5, partition=2)
    moment = datetime.datetime.fromtimestamp((NOW + 1) / 1000, UTC)
    assert topic.offsets_for_times(moment) == {
        0: None,
        1: None,
        2: OffsetAndTimestamp(0, NOW + 5, 0),
    }
    assert topic.offsets_for_times(NOW)[0] == OffsetAndTimestamp(0, NOW, 0)


def test_reading_begins_at_a_time(log: Log) -> None:
    topic = log.create_topic("t", partitions=2, durability="os")
    for number in range(10):
        topic.append(b"%d" % number, timestamp=NOW + number, partition=number % 2)
    moment = datetime.datetime.fromtimestamp((NOW + 6) / 1000, UTC)
    assert [record.value for record in log.read("t", start=moment)] == [b"6", b"8", b"7", b"9"]
    one = log.read("t", partition=1, start=moment)
    assert [record.value for record in one] == [b"7", b"9"]
    followed = list(islice(log.read("t", start=moment, follow=True), 4))
    assert {record.value for record in followed} == {b"6", b"8", b"7", b"9"}
    assert list(log.read("t", start=moment + datetime.timedelta(days=1))) == []


def test_following_from_a_time_that_is_not_reached_begins_at_the_end(log: Log) -> None:
    topic = log.create_topic("t", durability="os")
    topic.append(b"old", timestamp=NOW)
    later = datetime.datetime.fromtimestamp(NOW / 1000 + 60, UTC)
    assert list(topic.read(start=later)) == []
    records = topic.read(start=later, follow=True)
    topic.append(b"new", timestamp=NOW + 1)
    assert next(records).value == b"new"


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_time_without_a_zone_is_refused_before_anything_is_read(
    log: Log, partitions: int
) -> None:
    log.create_topic("t", partitions=partitions)
    with pytest.raises(ValueError, match="has no time zone"):
        log.read("t", start=datetime.datetime(2023, 11, 14))
