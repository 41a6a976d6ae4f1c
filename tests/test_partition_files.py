"""A partition's files: when segments are rolled, what stands on disk, what Kafka wrote there."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka_clients import KafkaPythonBatch, KafkaPythonBuilder
from partitions import NOW, bases, logs_in, make_partition, values
from processes import children
from reference import Header, Record, batches, encode_batch, index_segment

import pylog
from pylog import Log, Partition
from pylog._native import crc32c
from pylog.errors import (
    CorruptFileError,
    CorruptRangeError,
    OffsetOutOfRangeError,
)
from pylog.storage.files import OsFile
from pylog.storage.layout import parse_leader_epochs, parse_partition_metadata
from pylog.storage.manifest import (
    ActiveFacts,
    Manifest,
    SegmentFacts,
    encode_manifest,
    parse_manifest,
)

HEADER_BYTES = 61


@pytest.fixture
def make(log: Log) -> Callable[..., Partition]:
    def make(**settings: Any) -> Partition:
        return make_partition(log, **settings)

    return make


@pytest.fixture
def partition(log: Log) -> Partition:
    return make_partition(log)


# ---------------------------------------------------------------- rolls


def test_a_segment_is_rolled_before_it_outgrows_segment_bytes(
    make: Callable[..., Partition], tmp_path: Path
) -> None:
    partition = make(segment_bytes=1_000)
    for n in range(50):
        partition.append(bytes(n * 13 % 200))
    sizes = [path.stat().st_size for path in logs_in(tmp_path)[:-1]]
    assert len(sizes) > 5
    assert all(700 < size <= 1_000 for size in sizes)
    assert partition.log_end_offset == len(values(partition)) == 50
    partition.check()


def test_a_batch_larger_than_a_segment_gets_one_of_its_own(
    make: Callable[..., Partition], tmp_path: Path
) -> None:
    partition = make(segment_bytes=500)
    for size in (10, 3_000, 10, 100_000, 10):
        partition.append(bytes(size))
    assert bases(tmp_path) == [0, 1, 2, 3, 4]
    assert [len(v or b"") for v in values(partition)] == [10, 3_000, 10, 100_000, 10]


def test_a_segment_is_rolled_by_the_age_of_its_first_record(
    make: Callable[..., Partition], tmp_path: Path
) -> None:
    partition = make(segment_ms=1_000)
    for timestamp in (NOW, NOW + 1_000, NOW - 5_000, NOW + 1_001, NOW + 2_001, NOW + 2_002):
        partition.append(b"x", timestamp=timestamp)
    assert bases(tmp_path) == [0, 3, 5]
    partition.append_many([b"x", b"x"], timestamps=[NOW + 2_002, NOW + 9_000])
    assert bases(tmp_path) == [0, 3, 5, 6]


def test_a_segment_is_rolled_when_its_index_is_full(
    make: Callable[..., Partition], tmp_path: Path
) -> None:
    partition = make(segment_index_bytes=120, index_interval_bytes=100)
    for _ in range(100):
        partition.append(bytes(60))
    indexes = sorted((tmp_path / "t-0").glob("*.index"))
    assert len(indexes) > 5
    assert all(path.stat().st_size <= 120 for path in indexes[:-1])
    times = sorted((tmp_path / "t-0").glob("*.timeindex"))
    assert all(path.stat().st_size <= 120 for path in times[:-1])
    assert len(values(partition)) == 100


def test_large_and_small_writes_mix(make: Callable[..., Partition]) -> None:
    """From 64 KiB on a batch is written by pwrite; others through the map of the same bytes."""
    partition = make(segment_bytes=1 << 20)
    order = random.Random(5)
    expected = []
    for n in range(80):
        size = order.choice((0, 10, 5_000, 65_400, 65_480, 65_536, 100_000, 300_000))
        expected.append(bytes([n]) * size)
        partition.append(expected[-1])
    assert values(partition) == expected
    partition.check()
    partition.close()


def test_a_large_first_batch_leaves_the_index_in_use(
    make: Callable[..., Partition], caplog: pytest.LogCaptureFixture
) -> None:
    """A reader once scanned such a segment from its start for ever, and warned of its index."""
    partition = make()
    partition.append(bytes(150_000))
    assert len(list(partition.read(0, 1))) == 1
    attachment = partition._attachment
    assert attachment is not None
    (segment,) = attachment._segments.current.segments
    (record,) = partition.records(0, 1, max_bytes=10)
    assert record.offset == 0
    for _ in range(3_000):
        partition.append(bytes(100))
    for offset in (2_000, 1_000, 2_500):
        partition._place = None
        assert next(iter(partition.read(offset, 1))).offset == offset
    assert segment._index is not None and segment._index.capacity > 0 and not segment._is_rebuilt
    assert caplog.records == []


def test_an_index_that_was_empty_when_it_was_mapped_is_used_when_it_is_not(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t", durability="os").append(b"x")
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert len(list(partition.read(0))) == 1
        for _ in range(2_000):
            partition.append(bytes(100))
        for offset in (1_500, 500):
            assert next(iter(partition.read(offset, 1))).offset == offset
        attachment = partition._attachment
        assert attachment is not None
        (segment,) = attachment._segments.current.segments
        assert segment._index is not None and segment._index.capacity > 0


def test_a_sealed_index_that_was_cut_kills_nobody(tmp_path: Path) -> None:
    """It was mapped as large as it may be, and a look past the end of the file was a SIGBUS."""
    with pylog.open(tmp_path) as log:
        topic = log.create_topic(
            "t", durability="os", segment_bytes=1 << 20, index_interval_bytes=0
        )
        for start in range(0, 16_000, 4):
            topic.append_many([b"%d" % n + bytes(60) for n in range(start, start + 4)])
    indexes = sorted((tmp_path / "t-0").glob("*.index"))
    assert len(indexes) > 1 and indexes[0].stat().st_size > 3 * 4096

    def read() -> None:
        for size in (8_000, 4_096, 104, 7, 0):
            os.truncate(indexes[0], size)
            with pylog.open(tmp_path) as log:
                partition = log.topic("t").partition(0)
                for offset in (9_000, 11_000, 5):
                    assert next(iter(partition.read(offset, 1))).value == b"%d" % offset + bytes(60)

    with children() as start_child:
        start_child(read).join()


# ---------------------------------------------------------------- on disk


@pytest.mark.parametrize("interval", [0, 100, 4096])
@pytest.mark.parametrize("seed", range(5))
def test_index_files_hold_what_the_rules_say(tmp_path: Path, interval: int, seed: int) -> None:
    order = random.Random(seed)
    with pylog.open(tmp_path) as log:
        partition = log.create_topic(
            "t", durability="os", segment_bytes=30_000, index_interval_bytes=interval
        ).partition(0)
        for _ in range(200):
            count = order.choice((1, 1, 1, 2, 10))
            partition.append_many(
                [bytes(order.randrange(1_000)) for _ in range(count)],
                timestamps=[NOW + order.randrange(10_000) for _ in range(count)],
            )
            if order.random() < 0.02:
                partition.append(bytes(70_000), timestamp=NOW + order.randrange(10_000))

    assert len(logs_in(tmp_path)) > 3
    for path in logs_in(tmp_path):
        indexes = index_segment(
            path.read_bytes(), base_offset=int(path.stem), interval_bytes=interval
        )
        assert path.with_suffix(".index").read_bytes() == indexes.index_bytes()
        assert path.with_suffix(".timeindex").read_bytes() == indexes.timeindex_bytes()


def test_indexes_of_a_segment_that_was_reopened_are_true_and_rising(tmp_path: Path) -> None:
    """Each close seals the time index, as Kafka's does, so it may hold more than the rules ask."""
    order = random.Random(1)
    for _ in range(20):
        with pylog.open(tmp_path) as log:
            topic = log.create_topic("t", durability="os", index_interval_bytes=100, if_exists="ok")
            for _ in range(order.randrange(6)):
                topic.append(bytes(60), timestamp=NOW + order.randrange(10_000))
    (path,) = logs_in(tmp_path)
    data = path.read_bytes()
    headers = [(header, position) for position, header, _, _ in batches(data)]
    rules = index_segment(data, base_offset=0, interval_bytes=100)
    assert path.with_suffix(".index").read_bytes() == rules.index_bytes()
    entries = list(struct.iter_unpack(">qi", path.with_suffix(".timeindex").read_bytes()))
    assert set(rules.time_entries) <= set(entries)
    assert entries == sorted(set(entries))
    for timestamp, offset in entries:
        assert headers[offset][0].max_timestamp == timestamp
        assert timestamp == max(header.max_timestamp for header, _ in headers[: offset + 1])


def test_checkpoint_and_metadata_are_kafkas_text(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t").append(b"x")
        assert (tmp_path / "t-0" / "leader-epoch-checkpoint").read_bytes() == b"0\n1\n0 0\n"
        metadata = (tmp_path / "t-0" / "partition.metadata").read_bytes()
    topic_id = parse_partition_metadata(metadata, path="")
    assert metadata.startswith(b"version: 0\ntopic_id: ") and topic_id.int
    with pylog.open(tmp_path) as log:
        log.topic("t").append(b"y")
    assert (tmp_path / "t-0" / "partition.metadata").read_bytes() == metadata
    epochs = (tmp_path / "t-0" / "leader-epoch-checkpoint").read_bytes()
    assert parse_leader_epochs(epochs, path="") == ((0, 0),)


def test_the_manifest_names_the_segments(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", segment_bytes=300).partition(0)
        for n in range(10):
            partition.append(bytes(60), timestamp=NOW + n)
    manifest = parse_manifest((tmp_path / "t-0" / "manifest").read_bytes(), path="")
    assert manifest.is_clean and manifest.log_end_offset == manifest.durable_offset == 10
    assert [facts.base_offset for facts in manifest.segments] == bases(tmp_path)
    assert [facts.size for facts in manifest.segments] == [
        path.stat().st_size for path in logs_in(tmp_path)
    ]
    assert manifest.segments[-1].max_timestamp == NOW + 9


def test_kafka_python_reads_every_closed_segment(tmp_path: Path) -> None:
    order = random.Random(3)
    expected = []
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", durability="os", segment_bytes=5_000).partition(0)
        for n in range(60):
            rows = [
                (
                    n * 100 + m,
                    order.choice((None, b"", b"key %d" % n)),
                    order.choice((None, b"", bytes(order.randrange(500)))),
                    order.choice(([], [("h", b"1")], [("h", None), ("i", b"")])),
                )
                for m in range(order.choice((1, 1, 4)))
            ]
            times, keys, contents, headers = zip(*rows, strict=True)
            partition.append_many(contents, keys, headers, times)
            expected += rows

    got = []
    for path in logs_in(tmp_path):
        data = path.read_bytes()
        for position, _, _, size in batches(data):
            batch = KafkaPythonBatch(data[position : position + size])
            assert batch.validate_crc()
            got += [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in batch]
    assert len(logs_in(tmp_path)) > 3
    assert got == [(offset, *row) for offset, row in enumerate(expected)]


def kafka_python_batch(base_offset: int, count: int) -> bytes:
    builder = KafkaPythonBuilder(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1,
        base_sequence=-1, batch_size=1 << 20,
    )  # fmt: skip
    for n in range(count):
        builder.append(n, NOW + n, b"key %d" % n, b"value %d" % (base_offset + n), [("h", b"1")])
    data = bytearray(builder.build())
    data[:8] = base_offset.to_bytes(8, "big")
    return bytes(data)


@pytest.mark.parametrize("has_indexes", [True, False])
def test_segments_that_kafka_wrote_open_without_a_manifest(
    tmp_path: Path, has_indexes: bool
) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t", index_interval_bytes=100)
    directory = tmp_path / "t-0"
    directory.mkdir()
    for base in (0, 40):
        data = b"".join(kafka_python_batch(base + n, 4) for n in range(0, 40, 4))
        (directory / f"{base:020}.log").write_bytes(data)
        if has_indexes:
            indexes = index_segment(data, base_offset=base, interval_bytes=100)
            (directory / f"{base:020}.index").write_bytes(indexes.index_bytes())
            (directory / f"{base:020}.timeindex").write_bytes(indexes.timeindex_bytes())

    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert (partition.log_start_offset, partition.high_watermark) == (0, 80)
        assert values(partition) == [b"value %d" % n for n in range(80)]
        for start in range(80):
            assert next(iter(partition.read(start, 1))).offset == start
        assert partition.append(b"ours").offset == 80
        partition.check()
    with pylog.open(tmp_path) as log:
        assert log.topic("t").partition(0).log_end_offset == 81


def test_a_segment_that_begins_later_sets_the_start(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t")
    (tmp_path / "t-0").mkdir()
    (tmp_path / "t-0" / f"{1000:020}.log").write_bytes(kafka_python_batch(1000, 4))
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert (partition.log_start_offset, partition.log_end_offset) == (1000, 1004)
        assert [r.offset for r in partition.records()] == [1000, 1001, 1002, 1003]
        for offset in (0, 999, 1005):
            with pytest.raises(OffsetOutOfRangeError) as caught:
                partition.read(offset)
            assert (caught.value.start, caught.value.end) == (1000, 1004)


def test_damage_is_one_range_and_the_rest_is_readable(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t")
        sizes = [topic.append(b"%d" % n).offset for n in range(10)]
        assert sizes == list(range(10))
    path = logs_in(tmp_path)[0]
    data = bytearray(path.read_bytes())
    size = len(data) // 10
    data[5 * size + HEADER_BYTES + 2] ^= 1
    path.write_bytes(data)
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        with pytest.raises(CorruptRangeError) as caught:
            partition.read(5)
        assert (caught.value.first, caught.value.last) == (5, 5)
        assert [r.offset for r in partition.read(0)] == [0, 1, 2, 3, 4]
        assert [r.offset for r in partition.records(caught.value.last + 1)] == [6, 7, 8, 9]


def test_control_batches_are_passed_over(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t")
    (tmp_path / "t-0").mkdir()
    control = encode_batch(
        Header(base_offset=1, attributes=0x20, count=1, leader_epoch=0),
        Record(0, 0, b"\0\0\0\1", b"\0\0\0\0\0\0").encode(),
    )
    data = kafka_python_batch(0, 1) + control + kafka_python_batch(2, 1)
    (tmp_path / "t-0" / f"{0:020}.log").write_bytes(data)
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert [r.offset for r in partition.records()] == [0, 2]
        assert list(partition.read(1, 1)) == []
        assert partition.read(1, 1).next_offset == 2
        assert partition.log_end_offset == 3


# ---------------------------------------------------------------- manifests


@pytest.mark.parametrize(
    "line",
    [
        "generation 9999999999999999999",
        f"generation {2**63 - 1}",
        "generation -1",
        "durable_offset 9999999999999999999",
        "active -1 9999999999999999999 0 0",
        "cleaned 9999999999999999999 -1",
        "0 1 -1 5 0 0 0 -1 0",
        "0 1 69 5 -1 0 0 -1 0",
        "0 1 69 5 0 0 0 -1 -1",
        "0 1 69 5 0 0 0 -1",
        "-1 1 69 5 0 0 0 -1 0",
        "1 0 69 5 0 0 0 -1 0",
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(line: str) -> None:
    # Story: they went on to the shared page, or into names of files, and failed there.
    facts = SegmentFacts(base_offset=0, end_offset=1, size=69, max_timestamp=5)
    whole = Manifest(
        generation=7,
        is_clean=True,
        log_start_offset=0,
        durable_offset=1,
        active=ActiveFacts(),
        segments=(facts,),
    )
    lines = encode_manifest(whole).decode().splitlines()[:-1]
    name = line.split(" ")[0] if line[0].isalpha() else "0"
    body = "".join(f"{line if old.split(' ')[0] == name else old}\n" for old in lines).encode()
    data = body + b"crc32c %08x\n" % crc32c(body)

    with pytest.raises(CorruptFileError):
        parse_manifest(data, path="manifest")


def test_a_synced_append_goes_through_the_file_and_not_through_its_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store into a page that was synced before would be a page fault."""
    real_map = OsFile.map

    def mapped(self: OsFile, size: int, *, position: int = 0, writable: bool) -> Any:
        if "t-0" in self.path and self.path.endswith(".log"):
            return memoryview(bytearray(size))
        return real_map(self, size, position=position, writable=writable)

    monkeypatch.setattr(OsFile, "map", mapped)
    with pylog.open(tmp_path) as log:
        partition = make_partition(log, durability="fsync")
        for value in (b"one", b"two", b"three"):
            partition.append(value)

        assert values(partition) == [b"one", b"two", b"three"]
