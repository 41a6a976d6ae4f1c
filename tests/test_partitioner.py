"""A user's partitioner: what it is asked, what its answers do, and what wrong ones do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pylog
from pylog import Log
from pylog.errors import PartitionerError, UnknownTopicOrPartitionError

Asked = tuple[str, bytes | None, bytes | None, int]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path) as log:
        log.create_topic("t", partitions=3, durability="os")
        yield log


def by_length(topic: str, key: bytes | None, value: bytes | None, partitions: int) -> int:
    return len(key or b"") % partitions


KEYS = [b"", b"a", b"bb", None, b"dddd", b"a"]
EXPECTED = [0, 1, 2, 0, 1, 1]


def test_appends_go_where_it_says(log: Log) -> None:
    topic = log.topic("t", partitioner=by_length)
    assert [topic.append(b"x", key=key).partition for key in KEYS] == EXPECTED
    rows = topic.append_many([b"%d" % row for row in range(6)], keys=KEYS)
    assert [row.partition for row in rows] == EXPECTED
    assert [row.offset for row in rows] == [2, 3, 1, 3, 4, 5]
    assert [record.value for record in topic.read(1)][3:] == [b"1", b"4", b"5"]


def test_a_producer_asks_it_too(log: Log) -> None:
    with log.producer(partitioner=by_length) as producer:
        futures = [producer.send("t", b"x", key=key) for key in KEYS]
        assert [future.result().partition for future in futures] == EXPECTED
        with pytest.raises(UnknownTopicOrPartitionError):
            producer.send("other", b"x")


def test_it_is_told_topic_key_value_and_count(log: Log) -> None:
    asked: list[Asked] = []

    def pick(*facts: Any) -> int:
        asked.append(facts)
        return 0

    topic = log.topic("t", partitioner=pick)
    topic.append(b"v", key=b"k")
    topic.append_many([b"v", None])
    log.topic("t").add_partitions(5)
    topic.append(None)
    assert asked == [
        ("t", b"k", b"v", 3), ("t", None, b"v", 3), ("t", None, None, 3), ("t", None, None, 5)
    ]  # fmt: skip


def test_a_topic_of_one_partition_asks_it_too(log: Log) -> None:
    log.create_topic("one", durability="os")
    topic = log.topic("one", partitioner=lambda *_: 1)
    for append in (lambda: topic.append(b"x"), lambda: topic.append_many([b"x"])):
        with pytest.raises(PartitionerError):
            append()


def test_an_explicit_partition_wins(log: Log) -> None:
    def refuse(*_: Any) -> int:
        raise AssertionError

    topic = log.topic("t", partitioner=refuse)
    assert topic.append(b"x", key=b"k", partition=2).partition == 2
    assert topic.append_many([b"x"], keys=[b"k"], partition=1)[0].partition == 1


@pytest.mark.parametrize("result", [-1, 3, 2**70, None, "1", 1.0])
def test_a_wrong_answer_is_refused_before_anything_is_appended(log: Log, result: Any) -> None:
    def pick(topic: str, key: bytes | None, value: bytes | None, partitions: int) -> int:
        return 0 if key == b"good" else result  # type: ignore[no-any-return]

    topic = log.topic("t", partitioner=pick)
    for append in (
        lambda: topic.append(b"x", key=b"bad"),
        lambda: topic.append_many([b"x"] * 3, keys=[b"good", b"good", b"bad"]),
        lambda: log.producer(partitioner=pick).send("t", b"x", key=b"bad"),
    ):
        with pytest.raises(PartitionerError) as caught:
            append()
        assert (caught.value.topic, caught.value.result, caught.value.partitions) == (
            "t",
            result,
            3,
        )
    assert [one.log_end_offset for one in topic.partitions] == [0, 0, 0]


def test_numbers_of_numpy_are_numbers(log: Log) -> None:
    topic = log.topic("t", partitioner=lambda *_: np.int32(2))  # type: ignore
    assert topic.append(b"x").partition == 2


def test_what_it_raises_passes_and_nothing_is_appended(log: Log) -> None:
    def pick(topic: str, key: bytes | None, value: bytes | None, partitions: int) -> int:
        return {b"known": 1}[key or b""]

    topic = log.topic("t", partitioner=pick)
    with pytest.raises(KeyError):
        topic.append_many([b"x", b"x"], keys=[b"known", b"other"])
    with pytest.raises(KeyError):
        topic.append(b"x", key=b"other")
    assert topic.append(b"x", key=b"known").offset == 0


def test_others_keep_their_own(log: Log) -> None:
    mine = log.topic("t", partitioner=lambda *_: 2)
    assert mine.append(b"x", key=b"k").partition == 2
    assert log.topic("t") is log.topic("t")
    assert log.topic("t").append(b"x", key=b"customer-7").partition != 2
    assert mine.partition(2) is log.topic("t").partition(2)


def test_what_cannot_be_called_is_no_partitioner(log: Log) -> None:
    with pytest.raises(TypeError, match="callable"):
        log.topic("t", partitioner=3)  # type: ignore[arg-type]


def test_a_producer_sends_to_added_partitions(log: Log) -> None:
    # Story: a producer routed over the number of partitions that there were at its first record.
    topic = log.topic("t")
    with log.producer() as producer:
        producer.send("t", b"x", key=b"k").result()
        topic.add_partitions(50)
        keys = [b"%d" % number for number in range(200)]
        futures = [producer.send("t", b"x", key=key) for key in keys]
        found = [future.result().partition for future in futures]
    assert found == [topic.append(b"x", key=key).partition for key in keys]
    assert max(found) > 40
