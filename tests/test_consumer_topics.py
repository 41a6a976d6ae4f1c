"""Which partitions a consumer reads: by names, by a pattern, or one by one; as they come and go."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from consuming import append, make, places, rest
from tail_memory import in_thread

import pylog
from pylog import Consumer, Log, TopicPartition
from pylog.errors import (
    NotAssignedError,
    UnknownTopicOrPartitionError,
)

# ---------------------------------------------------------------- what is read


def test_topics_that_match_the_pattern_are_read_also_those_made_later(log: Log) -> None:
    make(log, "orders-de", records=1)
    make(log, "myorders-de", records=1)
    make(log, "orders-de.old", records=1)
    consumer = log.consumer(pattern="orders-[a-z]*")
    assert [record.topic for record in consumer.poll(0)] == ["orders-de"]
    assert consumer.subscription() == {"orders-de"}
    make(log, "orders-fr", 2, records=1)
    assert [record.topic for record in consumer.poll(0)] == ["orders-fr"] * 2
    assert consumer.assignment() == {("orders-de", 0), ("orders-fr", 0), ("orders-fr", 1)}


def test_a_wait_ends_when_another_process_makes_a_topic_that_matches(
    log: Log, tmp_path: Path
) -> None:
    with pylog.open(tmp_path) as other, log.consumer(pattern="t") as consumer:
        thread = in_thread(lambda: make(other, "t", records=1))
        assert places([next(iter(consumer))]) == [(0, 0)]
        thread.join()


def test_a_topic_that_matched_and_is_deleted_is_read_no_more(log: Log) -> None:
    make(log, "a", records=1)
    make(log, "b", records=3)
    consumer = log.consumer(pattern="[ab]")
    assert len(consumer.poll(0)) == 4
    log.delete_topic("a")
    append(log.topic("b"), 0, 1)
    assert places(consumer.poll(0)) == [(0, 3)]
    assert consumer.poll(0) == []
    assert consumer.assignment() == {("b", 0)}


def test_a_named_topic_that_is_deleted_is_missed_and_read_when_it_is_made_anew(log: Log) -> None:
    make(log, "a", records=2)
    make(log, "b", records=1)
    consumer = log.consumer("a", "b")
    assert len(consumer.poll(0)) == 3
    log.delete_topic("a")
    for _ in range(2):
        with pytest.raises(UnknownTopicOrPartitionError, match="'a'"):
            consumer.poll(0)
    make(log, "a", 2, records=1)
    assert sorted(places(consumer.poll(0))) == [(0, 0), (1, 0)]


def test_a_topic_deleted_while_a_consumer_waits_ends_the_wait(log: Log) -> None:
    make(log, "t", records=1)
    records = iter(log.consumer("t"))
    next(records)
    thread = in_thread(lambda: log.delete_topic("t"))
    with pytest.raises(UnknownTopicOrPartitionError):
        next(records)
    thread.join()


def test_added_partitions_are_read_from_their_beginning_and_others_go_on(log: Log) -> None:
    topic = make(log, "t", records=5)
    for reset in ("earliest", "latest"):
        consumer = log.consumer("t", auto_offset_reset=reset)
        count = len(topic)
        list(consumer.records(timeout=0))
        topic.add_partitions(count + 1)
        append(topic, count, 3)
        append(topic, 0, 1)
        got = rest(consumer)
        assert got == [(0, consumer.position("t", 0) - 1), *((count, n) for n in range(3))]


def test_what_is_sought_in_an_added_partition_counts(log: Log) -> None:
    topic = make(log, "t")
    consumer = log.consumer("t", auto_offset_reset="latest")
    topic.add_partitions(2)
    append(topic, 1, 3)
    assert consumer.assignment() == {("t", 0), ("t", 1)}
    consumer.seek("t", 1, offset=2)
    assert rest(consumer) == [(1, 2)]


def test_a_topic_that_does_not_exist_is_an_error_and_changes_nothing(log: Log) -> None:
    make(log, "t", records=3)
    with pytest.raises(UnknownTopicOrPartitionError):
        log.consumer("nowhere")
    consumer = log.consumer("t")
    consumer.poll(0, 2)
    for change in (
        lambda: consumer.subscribe("nowhere"),
        lambda: consumer.assign([("t", 1)]),
        lambda: consumer.assign([("nowhere", 0)]),
    ):
        with pytest.raises(UnknownTopicOrPartitionError):
            change()
    assert places(consumer.poll(0)) == [(0, 2)]


@pytest.mark.parametrize(
    ("topics", "pattern", "error"),
    [
        ((), None, ValueError),
        (("t",), "t", ValueError),
        ((b"t",), None, TypeError),
        ((), "(", re.error),
    ],
)
def test_a_subscription_is_to_names_or_to_a_pattern(
    log: Log, topics: tuple[str, ...], pattern: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        log.consumer().subscribe(*topics, pattern=pattern)


def test_a_new_subscription_leaves_alone_what_is_read_already(log: Log) -> None:
    make(log, "a", 2, records=10)
    make(log, "b", records=1)
    consumer = log.consumer("a")
    consumer.seek("a", 0, offset=8)
    consumer.pause(("a", 1))
    consumer.subscribe("b", "a")
    assert consumer.paused() == {("a", 1)}
    assert rest(consumer) == [(0, 0), (0, 8), (0, 9)]


def test_partitions_that_are_assigned_are_read_and_no_others(log: Log) -> None:
    make(log, "a", 3, records=2)
    make(log, "b", records=1)
    consumer = log.consumer()
    with pytest.raises(NotAssignedError, match="nothing"):
        consumer.poll(0)
    consumer.assign([("a", 1), TopicPartition("b", 0)])
    assert consumer.assignment() == {TopicPartition("a", 1), TopicPartition("b", 0)}
    assert consumer.subscription() == set()
    assert rest(consumer) == [(0, 0), (1, 0), (1, 1)]
    log.topic("a").add_partitions(5)
    append(log.topic("a"), 4, 1)
    assert consumer.poll(0) == []


def test_a_loop_gets_nothing_more_of_what_was_unsubscribed_in_it(log: Log) -> None:
    make(log, "a", records=3000)
    make(log, "b", records=1)
    consumer = log.consumer("a")
    seen = []
    for record in consumer.records(timeout=0):
        seen.append((record.topic, record.offset))
        if record.offset == 1500:
            consumer.subscribe("b")
    assert seen == [*(("a", offset) for offset in range(1501)), ("b", 0)]


@pytest.mark.parametrize("end", [Consumer.unsubscribe, lambda consumer: consumer.assign(())])
def test_who_unsubscribed_reads_nothing(log: Log, end: Callable[[Consumer], None]) -> None:
    make(log, "t", records=5000)
    consumer = log.consumer("t")
    for record in consumer.records(timeout=0):
        if record.offset == 99:
            end(consumer)
            break
    assert consumer.assignment() == consumer.subscription() == set()
    with pytest.raises(NotAssignedError):
        consumer.poll(0)
    consumer.subscribe("t")
    assert consumer.position("t", 0) == 0
