"""Changing a topic's settings: what changes, who sees it when, what appends then wait for."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import children
from tail_memory import run_threads, tiny_switch_interval

import pylog
from pylog import Log, Partition, TopicConfig
from pylog.errors import (
    ClosedError,
    InvalidConfigurationError,
    RecordTooLargeError,
    UnknownSettingError,
    UnknownTopicOrPartitionError,
)
from pylog.topics import verification


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[tuple[Log, Log]]:
    """One directory, opened twice: to each the other is another process."""
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        yield one, other


def values(partition: Partition) -> list[bytes | None]:
    return [record.value for record in partition.records()]


# ---------------------------------------------------------------- what changes


def test_given_settings_change_and_the_others_stay(log: Log) -> None:
    topic = log.create_topic("t", durability="os", retention_ms=77, segment_bytes=999)
    log.alter_topic("t", retention_ms=88, segment_ms=5)
    expected = TopicConfig(durability="os", retention_ms=88, segment_bytes=999, segment_ms=5)
    assert topic.config == log.topic("t").config == topic.partition(0).config == expected


def test_none_returns_a_setting_to_its_default(log: Log) -> None:
    topic = log.create_topic("t", durability="os", retention_ms=77)
    log.alter_topic("t", retention_ms=None)
    assert topic.config == TopicConfig(durability="os")


def test_changed_settings_are_there_after_a_reopen(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t")
        log.alter_topic("t", durability="interval", flush_ms=7)
    with pylog.open(tmp_path) as log:
        assert log.topic("t").config == TopicConfig(durability="interval", flush_ms=7)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"retention_sm": 5}, UnknownSettingError, "retention_ms"),
        ({"retention_sm": None}, UnknownSettingError, "retention_ms"),
        ({"segment_bytes": 1}, InvalidConfigurationError, r"\[14, "),
        ({"durability": "sometimes"}, InvalidConfigurationError, "one of fsync, interval, os"),
        ({"retention_ms": 5, "flush_ms": 0}, InvalidConfigurationError, "flush_ms"),
        ({"min_compaction_lag_ms": 9}, InvalidConfigurationError, "max_compaction_lag_ms"),
    ],
)
def test_a_refused_change_changes_nothing(
    log: Log, settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    topic = log.create_topic("t", max_compaction_lag_ms=8)
    before, end = topic.config, log._registry.metadata.log_end_offset
    with pytest.raises(error, match=text):
        log.alter_topic("t", **settings)
    assert topic.config == before
    assert log._registry.metadata.log_end_offset == end


def test_what_does_not_change_anything_appends_nothing(log: Log) -> None:
    log.create_topic("t", retention_ms=5)
    end = log._registry.metadata.log_end_offset
    log.alter_topic("t")
    log.alter_topic("t", retention_ms=5)
    assert log._registry.metadata.log_end_offset == end


def test_an_unknown_or_deleted_topic_is_not_changed(log: Log) -> None:
    log.create_topic("gone")
    log.delete_topic("gone")
    for name in ("never", "gone", "__metadata"):
        with pytest.raises(UnknownTopicOrPartitionError):
            log.alter_topic(name, retention_ms=5)


def test_changes_of_two_processes_at_once_are_both_made(logs: tuple[Log, Log]) -> None:
    logs[0].create_topic("t")

    def alter(log: Log, name: str) -> None:
        for number in range(1, 31):
            log.alter_topic("t", **{name: number})

    with tiny_switch_interval():
        run_threads(
            lambda: alter(logs[0], "retention_ms"), lambda: alter(logs[1], "delete_retention_ms")
        )
    for log in logs:
        config = log.topic("t").config
        assert (config.retention_ms, config.delete_retention_ms) == (30, 30)


def test_settings_of_what_is_no_more_stay_as_they_were(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        kept = log.create_topic("kept", retention_ms=5)
        gone = log.create_topic("gone", retention_ms=5)
        log.delete_topic("gone")
        log.alter_topic("kept", retention_ms=6)
    with pylog.open(tmp_path) as log:
        log.alter_topic("kept", retention_ms=7)
    for topic in (kept, gone):
        assert topic.config.retention_ms in (5, 6)
        with pytest.raises((ClosedError, UnknownTopicOrPartitionError)):
            topic.append(b"x")


# ---------------------------------------------------------------- who sees it when


@pytest.mark.parametrize("is_attached", [True, False])
def test_another_process_follows_without_opening_again(
    logs: tuple[Log, Log], is_attached: bool
) -> None:
    log, other = logs
    log.create_topic("t", durability="os", max_message_bytes=200)
    append = other.topic("t").partition(0).append
    if is_attached:
        append(b"x")
    with pytest.raises(RecordTooLargeError):
        append(bytes(300))
    log.alter_topic("t", max_message_bytes=400)
    append(bytes(300))
    log.alter_topic("t", max_message_bytes=100)
    with pytest.raises(RecordTooLargeError):
        append(bytes(150))
    with pytest.raises(RecordTooLargeError):
        other.topic("t").append_many([bytes(150)])


def test_segments_are_rolled_by_the_new_size_at_once(logs: tuple[Log, Log], tmp_path: Path) -> None:
    log, other = logs
    log.create_topic("t", durability="os")
    append = other.topic("t").append
    for _ in range(3):
        append(bytes(500))
    log.alter_topic("t", segment_bytes=1000)
    for _ in range(3):
        append(bytes(500))
    assert len(list((tmp_path / "t-0").glob("*.log"))) == 4


def test_a_change_whose_maker_was_killed_before_it_told_is_told_by_who_reads_it(
    tmp_path: Path,
) -> None:
    # Killed when the record is durable, and nobody was told.
    with pylog.open(tmp_path) as log, children() as start:
        topic = log.create_topic("t", durability="os")
        append = topic.partition(0).append
        append(b"x")

        def alter_and_die() -> None:
            with pylog.open(tmp_path) as mine:
                commit = mine._registry._commit

                def die(*how: Any) -> bool:
                    commit(*how)
                    os.kill(os.getpid(), signal.SIGKILL)
                    return True

                mine._registry._commit = die  # type: ignore[method-assign]
                mine.alter_topic("t", durability="fsync")

        child = start(alter_and_die)
        _, status = os.waitpid(child.pid, 0)
        child.pid = 0
        assert os.WTERMSIG(status) == signal.SIGKILL
        append(b"y")
        assert topic.config.durability == "os"

        with pylog.open(tmp_path) as other:  # reads, and tells
            assert other.topic("t").config.durability == "fsync"
        append(b"z")
        assert topic.partition(0).durable_offset == 3


def test_indexes_made_under_another_bound_are_read_whole(tmp_path: Path) -> None:
    # Story: only as much of them was mapped as the topic allows now, and reading scanned for it.
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t", durability="os", index_interval_bytes=0)
        for _ in range(1000):
            topic.append(b"x")
        log.alter_topic("t", segment_index_bytes=24)
        topic.append(b"rolls")
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert [record.offset for record in partition.read(900, 1)] == [900]
        attachment = partition._attached()
        assert attachment is not None
        segment = attachment.known_segments().segments[0]
        view = segment.sealed_view()
        assert segment.index(view).capacity >= view.index_entries > 900


# ---------------------------------------------------------------- at random


CHANGES: dict[str, list[Any]] = {
    "durability": ["os", "fsync", "interval"],
    "segment_bytes": [14, 900, 5000, 1 << 20],
    "segment_ms": [1, 1000, None],
    "segment_index_bytes": [24, 60, 4096, None],
    "index_interval_bytes": [0, 100, None],
    "max_message_bytes": [400, 5000, None],
    "compression_type": ["producer", "lz4", None],
}


@pytest.mark.parametrize("seed", range(8))
def test_random_changes_appends_and_reopens_lose_nothing(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    logs = [pylog.open(tmp_path) for _ in range(2)]
    partitions = [logs[0].create_topic("t").partition(0), logs[1].topic("t").partition(0)]
    appends = [partition.append for partition in partitions]
    expected: list[bytes | None] = []
    config = TopicConfig()
    for _ in range(120):
        actor = source.randrange(2)
        partition, step = partitions[actor], source.random()
        if step < 0.3:
            name = source.choice(list(CHANGES))
            change = {name: source.choice(CHANGES[name])}
            config = config.altered(**change)
            logs[actor].alter_topic("t", **change)
        elif step < 0.35:
            logs[actor].close()
            logs[actor] = pylog.open(tmp_path)
            partitions[actor] = logs[actor].topic("t").partition(0)
            appends[actor] = partitions[actor].append
        elif step < 0.7:
            value = source.randbytes(source.randrange(300))
            assert appends[actor](value).offset == len(expected)
            expected.append(value)
        else:
            count = source.randrange(1, 40)
            many = [source.randbytes(source.randrange(200)) for _ in range(count)]
            assert partition.append_many(many)[0].offset == len(expected)
            expected.extend(many)
        check(partitions, config, expected)
    for log in logs:
        log.close()
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert values(partition) == expected
        assert log.topic("t").config == config
    reports = list(verification.verify(str(tmp_path)))
    assert len(reports) >= 2
    assert [finding for report in reports for finding in report.findings] == []


def check(partitions: list[Partition], config: TopicConfig, expected: list[bytes | None]) -> None:
    for partition in partitions:
        partition.check()
        assert partition.config == config
        # Acknowledged is visible, whatever the durability was and is.
        assert partition.high_watermark == partition.log_end_offset == len(expected)
        if config.durability == "fsync" and partition.log_end_offset:
            start = max(0, len(expected) - 5)
            assert [record.value for record in partition.records(start)] == expected[start:]
