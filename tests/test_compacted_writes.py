"""A compacted topic keeps the latest record of each key, so it takes no record without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tail_memory import TailMemory

import pylog
from pylog import Log, Topic, _native
from pylog.errors import InvalidRecordError

POLICIES = ["compact", "compact,delete"]


def keyless_ways(log: Log, topic: Topic) -> dict[str, Callable[[], Any]]:
    """Every way to append a record without a key, by name."""
    partition = topic.partition(0)
    picked = log.topic(topic.name, partitioner=lambda *_: 0)
    return {
        "Partition.append": lambda: partition.append(b"v"),
        "Partition.append, key=None": lambda: partition.append(b"v", key=None),
        "Partition.append at an offset": lambda: partition.append(
            b"v", expected_offset=partition.log_end_offset
        ),
        "Topic.append": lambda: topic.append(b"v"),
        "Topic.append to a partition": lambda: topic.append(b"v", partition=0),
        "Partition.append_many": lambda: partition.append_many([b"v"]),
        "Partition.append_many, one of two": lambda: partition.append_many(
            [b"v", b"w"], keys=[b"k", None]
        ),
        "Topic.append_many": lambda: topic.append_many([b"v"]),
        "Topic.append_many, one of two": lambda: topic.append_many([b"v", b"w"], keys=[b"k", None]),
        "a partitioner's append_many": lambda: picked.append_many([b"v"]),
    }


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_way_in_takes_a_record_without_a_key(log: Log, policy: str, durability: str) -> None:
    topic = log.create_topic("t", partitions=2, durability=durability, cleanup_policy=policy)
    # Before the files are open, and through the maps afterwards.
    for key in (b"first", b"second"):
        ends = [partition.log_end_offset for partition in topic.partitions]
        for name, append in keyless_ways(log, topic).items():
            with pytest.raises(InvalidRecordError, match="no key"):
                append()
            assert [p.log_end_offset for p in topic.partitions] == ends, name
        for partition in topic.partitions:
            partition.append(b"v", key)


def test_compressed_records_need_keys_too(log: Log) -> None:
    topic = log.create_topic(
        "t", durability="os", cleanup_policy="compact", compression_type="gzip"
    )
    for name, append in keyless_ways(log, topic).items():
        with pytest.raises(InvalidRecordError, match="no key"):
            append()
        assert topic.partition(0).log_end_offset == 0, name


def test_empty_key_and_a_tombstone_are_taken(log: Log) -> None:
    topic = log.create_topic("t", durability="os", cleanup_policy="compact")
    topic.append(None, b"k")
    topic.append(b"v", b"")
    topic.append_many([None, b"v"], keys=[b"k", b""])
    topic.append_many([])
    assert [record.key for record in topic.partition(0).records()] == [b"k", b"", b"k", b""]


def test_producer_refuses_a_record_without_a_key_where_it_is_sent(log: Log) -> None:
    topic = log.create_topic("t", durability="os", cleanup_policy="compact")
    with log.producer(linger_ms=60_000) as producer:
        for key in (b"first", b"second"):  # as the first of a batch, and as a later one
            with pytest.raises(InvalidRecordError, match="no key"):
                producer.send("t", b"v")
            producer.send("t", b"v", key)
    assert [record.key for record in topic.partition(0).records()] == [b"first", b"second"]


def test_keys_are_needed_from_when_another_handle_makes_the_topic_compacted(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        topic = one.create_topic("t", durability="os")
        for append in keyless_ways(one, topic).values():
            append()
        other.alter_topic("t", cleanup_policy="compact")
        for append in keyless_ways(one, topic).values():
            with pytest.raises(InvalidRecordError, match="no key"):
                append()
        other.alter_topic("t", cleanup_policy="delete")
        for append in keyless_ways(one, topic).values():
            append()


def test_tail_hands_on_what_has_no_key() -> None:
    memory = TailMemory(rules={"needs_key": True}).initialize()
    assert memory.tail.append(b"v") == _native.NOT_OPEN
    assert memory.tail.append(b"v", None) == _native.NOT_OPEN
    assert memory.tail.append(b"v", key=None) == _native.NOT_OPEN
    assert isinstance(memory.tail.append(b"v", b""), _native.RecordMetadata)
    assert memory.page.marks().log_end_offset == 1
