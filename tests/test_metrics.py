"""Metrics: what they count, that they count all of it, and that looking opens nothing."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from tail_memory import run_threads, tiny_switch_interval

import pylog
from pylog import Log, Partition
from pylog._native import Counters


def numbers_of(log: Log, name: str = "t-0") -> dict[str, Any]:
    numbers: dict[str, Any] = log.metrics()["partitions"][name]
    return numbers


def size_on_disk(path: Path) -> int:
    """Return the bytes of all segments; exact when the log was closed."""
    return sum(file.stat().st_size for file in path.glob("*.log"))


def test_metrics_of_a_partition_are_its_marks_and_what_was_done(log: Log, tmp_path: Path) -> None:
    topic = log.create_topic("t", durability="os")
    partition = topic.partition(0)
    for number in range(10):
        topic.append(b"value %d" % number)
    topic.append_many([b"x"] * 90)
    assert sum(1 for _ in topic.read(0)) == 100
    numbers = numbers_of(log)
    size = numbers["size_bytes"]
    assert numbers == {
        "topic": "t",
        "partition": 0,
        "state": "open",
        "log_start_offset": 0,
        "high_watermark": 100,
        "log_end_offset": 100,
        "durable_offset": 0,
        "segments": 1,
        "size_bytes": size,
        "appended_records": 100,
        "appended_bytes": size,
        "read_records": 100,
        "read_bytes": size,
        "syncs": 0,
        "sync_seconds": 0.0,
        "last_sync_seconds": 0.0,
        "dirty_ratio": None,
        "compacted_at": None,
        "compaction_error": None,
    }
    partition.flush()
    numbers = numbers_of(log)
    assert (numbers["durable_offset"], numbers["syncs"]) == (100, 1)
    assert numbers["sync_seconds"] == numbers["last_sync_seconds"] > 0
    log.close()
    assert size_on_disk(tmp_path / "t-0") == size


def test_metrics_are_json_and_name_the_log(log: Log, tmp_path: Path) -> None:
    log.create_topic("t", partitions=3, durability="os").append(b"x", partition=2)
    log.create_topic("unused", partitions=7)
    metrics = log.metrics()
    assert json.loads(json.dumps(metrics)) == metrics
    assert metrics["path"] == str(tmp_path)
    assert metrics["log_id"] == str(log._engine.log_id)
    assert metrics["partitions_known"] == 10
    assert sorted(metrics["partitions"]) == ["__metadata-0", "t-2"]
    assert metrics["partitions_attached"] == 2
    assert metrics["open_descriptors"] >= 2


def test_every_way_to_append_is_counted(log: Log, tmp_path: Path) -> None:
    topic = log.create_topic("t", partitions=2, durability="os", segment_bytes=1 << 20)
    values = [bytes(100)] * 50
    keys = [b"%d" % number for number in range(50)]
    topic.append(bytes(100), partition=0)
    topic.append_many(values, partition=0)
    topic.append_many(values, keys=keys)
    topic.append_many([bytes(200_000)] * 20, keys=keys[:20])  # large: by pwrite, with rolls
    topic.partition(1).append_many([bytes(200_000)] * 20)
    log.alter_topic("t", compression_type="lz4")
    topic.append(bytes(1000), key=b"k")
    topic.append_many(values, keys=keys)
    with log.producer(linger_ms=0) as producer:
        producer.send("t", bytes(10), key=b"k").result()
    found = [numbers_of(log, f"t-{number}") for number in range(2)]
    assert sum(one["appended_records"] for one in found) == 193
    for number, one in enumerate(found):
        assert one["appended_records"] == topic.partition(number).log_end_offset
        assert one["appended_bytes"] == one["size_bytes"]
        assert one["segments"] == len(list((tmp_path / f"t-{number}").glob("*.log"))) > 1
    log.close()
    for number, one in enumerate(found):
        assert one["size_bytes"] == size_on_disk(tmp_path / f"t-{number}")


def test_reading_counts_the_offsets_that_were_asked_for(log: Log) -> None:
    partition = log.create_topic("t", durability="os").partition(0)
    partition.append_many([b"x"] * 10)
    for offset, expected in ((0, 10), (7, 13), (10, 13)):
        partition.read(offset)
        assert numbers_of(log)["read_records"] == expected
    list(partition.records(2, 5))
    assert numbers_of(log)["read_records"] == 16
    partition.offset_for_time(5)
    assert numbers_of(log)["read_records"] == 16


def test_counts_are_exact_with_many_threads(log: Log) -> None:
    topic = log.create_topic("t", partitions=2, durability="os")
    barrier = threading.Barrier(4)

    def work(seed: int) -> None:
        source = random.Random(seed)
        barrier.wait()
        for number in range(300):
            topic.append(bytes(source.randrange(100)), key=b"%d" % number)
            if number % 10 == 0:
                topic.append_many([b"x"] * 100, keys=[b"%d" % key for key in range(100)])
            if number % 50 == 0:
                topic.partition(number % 2).read(0)

    with tiny_switch_interval():
        run_threads(*(lambda seed=seed: work(seed) for seed in range(4)))
    found = [numbers_of(log, f"t-{number}") for number in range(2)]
    assert sum(one["appended_records"] for one in found) == 4 * (300 + 30 * 100)
    for one in found:
        assert one["appended_records"] == one["log_end_offset"]
        assert one["appended_bytes"] == one["size_bytes"]


def test_what_another_process_did_is_in_the_marks_only(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log, pylog.open(tmp_path) as other:
        log.create_topic("t", durability="os").append(b"mine")
        other.topic("t").append(b"theirs")
        numbers = numbers_of(log)
        assert (numbers["log_end_offset"], numbers["appended_records"]) == (2, 1)


def test_counts_outlive_a_suspension(log: Log) -> None:
    partition = log.create_topic("t", durability="os").partition(0)
    partition.append(b"x")
    assert partition.suspend()
    assert "t-0" not in log.metrics()["partitions"]
    partition.append(b"y")
    assert numbers_of(log)["appended_records"] == 2


def test_looking_opens_nothing_and_waits_for_nobody(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = log.create_topic("t", partitions=5, durability="os").partition(0)
    partition.append(b"x")
    attachment = partition._attached()
    assert attachment is not None

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("looking at metrics must not do this")

    monkeypatch.setattr(Partition, "_attached", refuse)
    monkeypatch.setattr(type(log._registry), "_refresh_locked", refuse)
    found: list[dict[str, Any]] = []
    with attachment.page:
        thread = threading.Thread(target=lambda: found.append(log.metrics()))
        with partition._lock, log._engine._lock, log._registry._lock:
            thread.start()
            thread.join()
    assert [list(metrics["partitions"]) for metrics in found] == [["__metadata-0", "t-0"]]


def test_a_closed_log_has_no_open_partitions(tmp_path: Path) -> None:
    log = pylog.open(tmp_path)
    log.create_topic("t").append(b"x")
    log.close()
    metrics = log.metrics()
    assert (metrics["partitions"], metrics["open_descriptors"]) == ({}, 0)


def test_counters_take_what_they_are_given() -> None:
    counters = Counters()
    counters.note_sync(0.5)
    counters.note_sync(0.25)
    assert (counters.syncs, counters.sync_seconds, counters.last_sync_seconds) == (2, 0.75, 0.25)
    with pytest.raises(TypeError):
        counters.note_sync("soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Counters(1)  # type: ignore[call-arg]
