"""append_many of a topic: as record by record, whole, and told what was appended."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka_clients import kafka_murmur2
from tail_memory import run_threads, tiny_switch_interval

import pylog
from pylog import Log, Topic
from pylog.errors import DurabilityUnknownError, InvalidRecordError, PartitionFullError
from pylog.storage.partition import Partition
from pylog.topics.keyed import KeyedAppender

SEED = int(os.environ.get("PYLOG_KEYED_SEED", "0")) or random.randrange(1 << 30)
NOW = 1_700_000_000_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path / "log") as log:
        yield log


def facts_of(topic: Topic) -> list[list[tuple[Any, ...]]]:
    return [
        [
            (record.offset, record.timestamp, record.key, record.value, record.headers)
            for record in partition.records()
        ]
        for partition in topic.partitions
    ]


def some_bytes(generator: random.Random) -> bytes | None:
    size = generator.choice((-1, 0, 1, 15, 100, 300))
    return None if size < 0 else generator.randbytes(size)


def some_rows(generator: random.Random, count: int) -> dict[str, Any]:
    """Arguments of append_many, each record with a key."""
    return {
        "values": [some_bytes(generator) for _ in range(count)],
        "keys": [some_bytes(generator) or b"key" for _ in range(count)],
        "headers": [generator.choice((None, [], [("a", b"b"), ("c", None)])) for _ in range(count)],
        "timestamps": [NOW + generator.randrange(1000) for _ in range(count)],
    }


@pytest.mark.parametrize("compression", ["producer", "uncompressed", "gzip", "lz4"])
@pytest.mark.parametrize("partitions", [1, 2, 13])
def test_many_at_once_are_what_one_by_one_are(log: Log, partitions: int, compression: str) -> None:
    print("seed", SEED)
    generator = random.Random(SEED + partitions)
    settings: dict[str, Any] = {
        "partitions": partitions,
        "compression_type": compression,
        "durability": generator.choice(("fsync", "os")),
        "segment_bytes": 30_000,
        "max_message_bytes": 5000,
    }
    together = log.create_topic("together", **settings)
    alone = log.create_topic("alone", **settings)
    for count in (0, 1, 7, 60, 700):
        rows = some_rows(generator, count)
        appended = together.append_many(**rows)
        one_by_one = [alone.append(*row) for row in zip(*rows.values(), strict=True)]
        assert [
            (metadata.partition, metadata.offset, metadata.timestamp) for metadata in appended
        ] == [(metadata.partition, metadata.offset, metadata.timestamp) for metadata in one_by_one]
    assert facts_of(together) == facts_of(alone)
    for number, records in enumerate(facts_of(together)):
        for _, _, key, _, _ in records:
            assert (kafka_murmur2(key) & 0x7FFFFFFF) % partitions == number
    for partition in together.partitions:
        partition.check()


@pytest.mark.parametrize("compression", ["producer", "lz4"])
def test_records_without_a_key_go_to_one_partition_and_then_to_the_next(
    log: Log, compression: str
) -> None:
    topic = log.create_topic("t", partitions=3, durability="os", compression_type=compression)
    used = []
    for _ in range(4):
        (number,) = set(topic.append_many([bytes(1000)] * 20).partitions.tolist())
        used.append(number)
    assert used == [0, 1, 2, 0]
    mixed = topic.append_many([b"v"] * 4, [None, b"k", None, b"k"]).partitions.tolist()
    assert mixed[0] == mixed[2] == 1 and mixed[1] == mixed[3]


def test_one_huge_record_among_small_ones(log: Log) -> None:
    topic = log.create_topic("t", partitions=4, durability="os", max_message_bytes=4 << 20)
    huge = random.Random(SEED).randbytes(3 << 20)
    values = [b"a", huge, b"c", b"d"]
    appended = topic.append_many(values, keys=[b"1", b"1", b"2", b"1"])
    found = [
        next(iter(topic.partition(metadata.partition).read(metadata.offset))).value
        for metadata in appended
    ]
    assert found == values
    assert appended.offsets.tolist() == [0, 1, 0, 2]


def test_log_append_time_is_one_for_all_and_the_callers_is_ignored(log: Log) -> None:
    topic = log.create_topic(
        "t", partitions=3, durability="os", message_timestamp_type="LogAppendTime"
    )
    appended = topic.append_many(
        [b"v"] * 9, [b"%d" % n for n in range(9)], timestamps=list(range(9))
    )
    (stamp,) = set(appended.timestamps.tolist())
    assert stamp > NOW
    records = [record for partition in topic.partitions for record in partition.records()]
    assert {(record.timestamp, record.timestamp_type) for record in records} == {(stamp, 1)}


def test_a_timestamp_outside_the_bounds_leaves_nothing_behind(log: Log) -> None:
    topic = log.create_topic("t", partitions=3, message_timestamp_before_max_ms=1000)
    with pytest.raises(InvalidRecordError):
        topic.append_many([b"v"] * 3, [b"1", b"2", b"3"], timestamps=[2**50, 5, 5])
    assert [partition.log_end_offset for partition in topic.partitions] == [0] * 3


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Callable[[], Exception]) -> None:
    """Let one method fail for partition 2."""
    method = getattr(Partition, name)

    def fail(self: Partition, *arguments: Any) -> Any:
        if self.number == 2:
            raise error()
        return method(self, *arguments)

    monkeypatch.setattr(Partition, name, fail)


@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("is_attached", [True, False])
def test_a_full_partition_is_told_with_what_the_others_took(
    log: Log, monkeypatch: pytest.MonkeyPatch, durability: str, is_attached: bool
) -> None:
    topic = log.create_topic("t", partitions=4, durability=durability)
    rows = {"values": [b"%d" % n for n in range(40)], "keys": [b"%d" % n for n in range(40)]}
    if is_attached:
        topic.append_many(**rows)
        topic.partition(2).appender.use(None)
    before = [partition.log_end_offset for partition in topic.partitions]
    failing(monkeypatch, "place", lambda: PartitionFullError("t-2: full"))

    with pytest.raises(PartitionFullError) as caught:
        topic.append_many(**rows)

    appended = caught.value.appended
    assert appended is not None
    after = [partition.log_end_offset for partition in topic.partitions]
    assert after[2] == before[2]
    assert len(appended) == sum(after) - sum(before)
    if is_attached:
        assert len(appended) > 0
    for metadata in appended:
        partition = topic.partition(metadata.partition)
        assert partition.high_watermark > metadata.offset >= before[metadata.partition]
        if durability == "fsync":
            assert partition.durable_offset > metadata.offset


def test_all_partitions_are_waited_for_when_the_sync_of_one_fails(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t", partitions=4)
    rows = {"values": [b"%d" % n for n in range(40)], "keys": [b"%d" % n for n in range(40)]}
    topic.append_many(**rows)
    failing(monkeypatch, "wait_durable", lambda: DurabilityUnknownError("t-2: no sync", 5, 0, 9))
    with pytest.raises(DurabilityUnknownError):
        topic.append_many(**rows)
    for partition in topic.partitions:
        if partition.number != 2:
            assert partition.durable_offset == partition.log_end_offset


def test_threads_that_append_many_and_one_lose_nothing_and_keep_their_order(log: Log) -> None:
    topic = log.create_topic("t", partitions=6, durability="os", segment_bytes=50_000)
    rounds, size = 12, 300

    def many(thread: int) -> None:
        for turn in range(rounds):
            numbers = range(turn * size, (turn + 1) * size)
            topic.append_many(
                [b"%d %40d" % (thread, n) for n in numbers], [b"%d" % (n % 31) for n in numbers]
            )

    def one(thread: int) -> None:
        for n in range(rounds * size):
            topic.append(b"%d %40d" % (thread, n), b"%d" % (n % 31))

    with tiny_switch_interval():
        run_threads(lambda: many(0), lambda: many(1), lambda: one(2))

    seen: dict[int, set[int]] = {}
    for partition in topic.partitions:
        last: dict[int, int] = {}
        for record in partition.records():
            thread, n = map(int, (record.value or b"").split())
            assert last.get(thread, -1) < n
            last[thread] = n
            seen.setdefault(thread, set()).add(n)
    assert seen == {thread: set(range(rounds * size)) for thread in range(3)}


def test_partitions_that_were_added_are_used(log: Log) -> None:
    topic = log.create_topic("t", partitions=2, durability="os")
    rows = {"values": [b"v"] * 99, "keys": [b"%d" % n for n in range(99)]}
    topic.append_many(**rows)
    if not hasattr(topic, "add_partitions"):
        pytest.skip("nothing adds partitions yet")
    topic.add_partitions(5)
    assert set(topic.append_many(**rows).partitions.tolist()) == set(range(5))


@pytest.mark.parametrize(("before", "after"), [("fsync", "os"), ("os", "fsync")])
def test_durability_that_changes_during_the_call_hides_nothing(
    log: Log, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    topic = log.create_topic("t", partitions=3, durability=before)
    keys = [b"%d" % number for number in range(50)]
    topic.append_many(keys, keys=keys)
    place_left = KeyedAppender._place_left

    def alter_first(self: KeyedAppender, *given: Any) -> Exception | None:
        log.alter_topic("t", durability=after)
        return place_left(self, *given)

    monkeypatch.setattr(KeyedAppender, "_place_left", alter_first)
    topic.append_many(keys, keys=keys)
    assert len(list(log.read("t"))) == 100


def test_threads_that_outlive_the_main_thread_append_to_many_partitions(tmp_path: Path) -> None:
    program = f"""
import threading
import pylog
log = pylog.open({str(tmp_path)!r})
topic = log.create_topic("t", partitions=40)
main = threading.main_thread()
keys = [b"%d" % number for number in range(200)]
def work():
    main.join()
    topic.append_many(keys, keys=keys)
    assert sum(partition.durable_offset for partition in topic.partitions) == 200
    print("done")
threading.Thread(target=work).start()
"""
    call = [sys.executable, "-c", program]
    assert subprocess.run(call, capture_output=True, check=True).stdout == b"done\n"


@pytest.mark.parametrize("compression", ["producer", "lz4"])
@pytest.mark.parametrize("durability", ["fsync", "interval", "os"])
def test_an_observer_is_told_of_every_record(
    tmp_path: Path, durability: str, compression: str
) -> None:
    told: list[pylog.AppendEvent] = []
    with pylog.open(tmp_path / "log", on_append=told.append) as log:
        topic = log.create_topic(
            "t", partitions=12, durability=durability, compression_type=compression
        )
        for _ in range(2):
            topic.append_many([b"v"] * 90, [b"%d" % n for n in range(90)])
        topic.append_many([b"v"] * 9)
        ends = [partition.log_end_offset for partition in topic.partitions]
    for number, end in enumerate(ends):
        mine = [event for event in told if event.partition == number]
        assert sum(event.records for event in mine) == end
