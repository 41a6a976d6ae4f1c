"""Wrong arguments: refused by a typed error that says what was given, with the log unchanged."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
import os
from collections.abc import Awaitable, Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pylog
from pylog import Log, OffsetAndMetadata, Topic, aio
from pylog.config import TopicConfig
from pylog.errors import (
    ClosedError,
    CorruptionError,
    InvalidConfigurationError,
    UnknownSettingError,
)
from pylog.table.position import parse_position
from pylog.topics.metadata import parse_topic

NO_OFFSETS: list[Any] = [math.nan, math.inf, 1.5, "1", b"1", [1]]
NO_FUNCTIONS: list[Any] = [0, "print", [], object()]
DEEP = b"[" * 100_000  # more than a parser that calls itself takes


@pytest.fixture
def topic(log: Log) -> Topic:
    topic = log.create_topic("t", durability="os", cleanup_policy="compact,delete")
    topic.append_many([b"1", b"2", b"3"], keys=[b"a", b"b", b"a"])
    return topic


def offsets(topic: Topic) -> list[int]:
    return [record.offset for record in topic.read()]


@pytest.mark.parametrize("wrong", NO_OFFSETS)
def test_an_offset_that_is_no_whole_number_is_a_type_error(topic: Topic, wrong: Any) -> None:
    partition = topic.partition(0)
    calls: list[Callable[[], object]] = [
        lambda: list(topic.read(0, wrong)),
        lambda: list(topic.read(0, 0, wrong)),
        lambda: list(partition.records(wrong)),
        lambda: list(partition.records(wrong, 1)),
        lambda: next(partition.records(wrong, follow=True)),
        lambda: partition.read(0, 100, wrong),
        lambda: partition.wait(wrong, timeout=0),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"must be an int, not {type(wrong).__name__}"):
            call()


def waits(log: Log, topic: Topic) -> dict[str, Callable[[Any], object]]:
    """Return all calls that take a time-out, none of which finds what it waits for."""
    consumer, table = log.consumer("t"), log.table("t")
    consumer.seek_to_end()
    producer = log.producer(linger_ms=100_000)
    pending = producer.send("t", b"4", b"a")
    return {
        "partition": lambda timeout: topic.partition(0).wait(99, timeout),
        "poll": lambda timeout: consumer.poll(timeout),
        "records": lambda timeout: list(consumer.records(timeout)),
        "batches": lambda timeout: list(consumer.batches(timeout=timeout)),
        "table": lambda timeout: table.wait_for(99, timeout=timeout),
        "result": pending.result,
        "exception": pending.exception,
        "flush": producer.flush,  # keeps it alive, so that it sends nothing before
        "close": lambda timeout: log.producer().close(timeout),
    }


@pytest.mark.parametrize("wrong", ["1", b"1", [], datetime.timedelta(seconds=1), 1j])
def test_a_timeout_that_is_no_number_is_a_type_error(log: Log, topic: Topic, wrong: Any) -> None:
    for name, wait in waits(log, topic).items():
        with pytest.raises(TypeError, match="timeout must be seconds or None, not"):
            pytest.fail(f"{name}: {wait(wrong)}")


def test_a_timeout_that_is_not_a_number_waits_not_at_all(log: Log, topic: Topic) -> None:
    for name, wait in waits(log, topic).items():
        with pytest.raises(ValueError, match="timeout is not a number"):
            pytest.fail(f"{name}: {wait(math.nan)}")


@pytest.mark.parametrize("timeout", [0, -1, -math.inf, np.float32(0), Fraction(0), Decimal(0)])
def test_any_number_is_a_timeout(log: Log, topic: Topic, timeout: Any) -> None:
    calls = waits(log, topic)
    for name in ("result", "exception"):
        with pytest.raises(TimeoutError):
            calls[name](timeout)
    assert not any(calls[name](timeout) for name in ("partition", "poll", "records", "table"))


@pytest.mark.parametrize("forever", [math.inf, 1e300, 2**70, 10**400])
def test_a_timeout_that_nobody_lives_to_see_is_one(log: Log, topic: Topic, forever: Any) -> None:
    consumer, producer = log.consumer("t"), log.producer(linger_ms=0)
    sent = producer.send("t", b"4", b"a")
    assert sent.result(forever).offset == 3
    assert sent.exception(forever) is None
    assert producer.flush(forever)
    assert topic.partition(0).wait(3, forever)
    assert consumer.poll(forever)
    assert log.table("t").wait_for(3, timeout=forever)
    producer.send("t", b"5", b"a")
    producer.close(forever)
    assert offsets(topic) == [0, 1, 2, 3, 4]


def test_asynchronous_waits_take_the_same_timeouts(topic: Topic, tmp_path: Path) -> None:
    async def wait(timeout: Any) -> None:
        async with aio.open(tmp_path) as log:
            consumer, table = await log.consumer("t"), await log.table("t")
            producer = await log.producer()
            waits: list[Callable[[], Awaitable[object]]] = [
                lambda: consumer.poll(timeout),
                lambda: table.wait_for(2, timeout=timeout),
                lambda: producer.flush(timeout),
                lambda: producer.close(timeout),
            ]
            await producer.send("t", b"4", b"a")
            for wait in waits:
                if math.isnan(timeout):
                    with pytest.raises(ValueError, match="timeout is not a number"):
                        await wait()
                else:
                    assert await wait() is not False

    asyncio.run(wait(math.nan))
    asyncio.run(wait(math.inf))


def test_records_are_asked_for_by_a_whole_number(log: Log, topic: Topic) -> None:
    consumer = log.consumer("t")
    for wrong in (1.5, math.nan, "1"):
        with pytest.raises(TypeError, match="max_records must be an int, not"):
            consumer.poll(0, wrong)  # type: ignore[arg-type]
    assert len(consumer.poll(0, np.int64(2))) == 2  # type: ignore[arg-type]


def test_what_is_said_with_a_commit_is_text(log: Log, topic: Topic) -> None:
    consumer = log.consumer("t", group="g")
    consumer.poll(0)
    wrong: Any = b"text"
    for commit in (
        lambda: consumer.commit(metadata=wrong),
        lambda: consumer.commit({("t", 0): 1}, metadata=wrong),
        lambda: consumer.commit({("t", 0): pylog.OffsetAndMetadata(1, wrong)}),
    ):
        with pytest.raises(TypeError, match="metadata must be a str, not bytes"):
            commit()
    assert consumer.committed(("t", 0)) == {("t", 0): None}


def test_numbers_of_numpy_are_numbers(topic: Topic) -> None:
    appended = topic.append_many([b"4", b"5"], keys=[b"c", b"d"])
    number, offset = appended.partitions[1], appended.offsets[1]
    assert topic.partition(number) is topic.partition(0)
    assert [record.value for record in topic.read(number, offset, offset + 1)] == [b"5"]
    assert topic.append_many([b"6"], [b"e"], partition=number).offsets.tolist() == [5]


@pytest.mark.parametrize("wrong", NO_FUNCTIONS)
def test_what_cannot_be_called_is_refused_where_it_is_given(
    log: Log, topic: Topic, tmp_path: Path, wrong: Any
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "on_append": lambda: pylog.open(tmp_path, on_append=wrong),
        "on_read": lambda: pylog.open(tmp_path, on_read=wrong),
        "on_change": lambda: log.table("t", on_change=wrong),
        "progress": lambda: topic.compact(progress=wrong),
        "partitioner": lambda: log.producer(partitioner=wrong),
        "on_delivery": lambda: log.producer().send("t", b"4", b"a", on_delivery=wrong),
        "on_assigned": lambda: log.consumer("t", group="g", on_assigned=wrong),
        "on_revoked": lambda: log.consumer("t", group="g", on_revoked=wrong),
        "on_lost": lambda: log.consumer("t", group="g", on_lost=wrong),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=f"{name} must be callable, not {type(wrong).__name__}"):
            call()
    assert offsets(topic) == [0, 1, 2]


@pytest.mark.parametrize("wrong", [1, "store", [b"x"], {b"x"}])
def test_a_store_that_is_no_mapping_is_a_type_error(log: Log, topic: Topic, wrong: Any) -> None:
    with pytest.raises(TypeError, match="store must be a mutable mapping, not"):
        log.table("t", store=wrong)


@pytest.mark.parametrize("wrong", [[1], {1}, "", 3])
def test_offsets_to_delete_below_come_by_partition(topic: Topic, wrong: Any) -> None:
    with pytest.raises(TypeError, match="before must be a mapping, not"):
        topic.delete_records(wrong)
    assert offsets(topic) == [0, 1, 2]


def test_a_cleaner_is_a_cleaner_config(tmp_path: Path) -> None:
    wrong: Any = np.arange(3)
    with pytest.raises(TypeError, match="cleaner must be a CleanerConfig, not ndarray"):
        pylog.open(tmp_path, cleaner=wrong)
    assert list(tmp_path.iterdir()) == []


def test_settings_by_kafkas_names_are_a_mapping_of_names(log: Log) -> None:
    for wrong in (None, 3, "retention.ms", ["retention.ms"]):
        with pytest.raises(TypeError, match="settings must be a mapping"):
            TopicConfig.from_kafka(wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownSettingError):
        TopicConfig.from_kafka({7: 7})  # type: ignore[dict-item]


@pytest.mark.parametrize("wrong", [0.0, np.bool_(True), True, "2", None])
def test_acks_are_zero_one_or_all(log: Log, wrong: Any) -> None:
    with pytest.raises(InvalidConfigurationError, match="acks="):
        log.producer(acks=wrong)


def test_a_closed_log_gives_no_producer(tmp_path: Path) -> None:
    log = pylog.open(tmp_path)
    log.close()
    with pytest.raises(ClosedError):
        log.producer()


def test_an_empty_path_is_not_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        pylog.open("")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("field", ["partitions", "id", "config", "version"])
@pytest.mark.parametrize("value", ["1e999", "null", "[[]]", "7", '{"7": [7]}', DEEP.decode()])
def test_a_topic_that_cannot_be_understood_is_corruption(field: str, value: str) -> None:
    fields = {"version": "1", "id": '"00"', "partitions": "1", "config": "{}"} | {field: value}
    text = ", ".join(f'"{name}": {one}' for name, one in fields.items())
    with pytest.raises(CorruptionError, match="topic 't'"):
        parse_topic("t", f'{{{text}, "is_deleting": false}}'.encode())


@pytest.mark.parametrize("value", [DEEP, b"[1e999]", b"{}", b"\xff", b""])
def test_a_position_that_cannot_be_understood_is_corruption(
    log: Log, topic: Topic, value: bytes
) -> None:
    with pytest.raises(CorruptionError, match="a table's position in its store"):
        parse_position(value)
    store: dict[bytes, bytes] = {}
    log.table("t", store=store).close()
    (key,) = (key for key, text in store.items() if json.loads(text)["topic"] == "t")
    with pytest.raises(CorruptionError, match="a table's topic in its store"):
        log.table("t", store={key: value})


@pytest.mark.parametrize("is_member", [True, False])
@pytest.mark.parametrize(
    ("pair", "error"),
    [
        (("t", "0"), TypeError),
        (("t", 0.5), TypeError),
        (("t", None), TypeError),
        ((b"t", 0), TypeError),
        ((7, 0), TypeError),
        (("t",), TypeError),
        (("t", 0, 1), TypeError),
        ("t0", TypeError),
        ("t", TypeError),
        (("t", -1), ValueError),
        (("t", 2**31), ValueError),
    ],
)
def test_what_names_no_partition_is_refused_before_it_is_written_down(
    log: Log, topic: Topic, pair: Any, error: type[Exception], is_member: bool
) -> None:
    consumer = log.consumer(group="g")
    if is_member:
        consumer.subscribe("t")
    else:
        consumer.commit({("t", 0): 0})
    written = log.topic("__consumer_offsets").partition(0)
    end = written.log_end_offset
    calls: list[Callable[[], object]] = [
        lambda: consumer.commit({pair: 1}),
        lambda: consumer.commit({("t", 0): 1, pair: 1}),
        lambda: consumer.committed(pair),
        lambda: consumer.assign([pair]),
        lambda: log.groups.alter_offsets("other", {pair: OffsetAndMetadata(1)}),
    ]
    for call in calls:
        with pytest.raises(error):
            call()
    assert written.log_end_offset == end


def test_a_wrong_argument_about_a_group_is_a_type_error(log: Log, topic: Topic) -> None:
    groups: Any = log.groups
    offsets = {("t", 0): OffsetAndMetadata(1)}
    calls: list[tuple[str, Callable[..., object]]] = [
        ("a group must be a str, not int", lambda: groups.alter_offsets(5, offsets)),
        ("a group must be a str, not bytes", lambda: groups.reset_offsets(b"g", ["t"], to=1)),
        ("OffsetAndMetadata, not int", lambda: groups.alter_offsets("g", {("t", 0): 5})),
        ("by partition, not list", lambda: groups.alter_offsets("g", [("t", 0)])),
        ("to must be an int, not float", lambda: groups.reset_offsets("g", ["t"], to=1.5)),
        ("shift must be an int, not str", lambda: groups.reset_offsets("g", ["t"], shift="1")),
    ]
    for text, call in calls:
        with pytest.raises(TypeError, match=text):
            call()
    assert groups.list() == []
