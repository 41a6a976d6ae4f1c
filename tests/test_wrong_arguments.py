"""Wrong arguments: refused by a typed error that says what was given, with the log unchanged."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pylog
from pylog import Log, Topic
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
