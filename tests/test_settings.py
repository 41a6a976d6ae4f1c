"""Changing a topic's settings: what changes, who sees it when, what appends then wait for."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Numbers, children
from tail_memory import run_threads, tiny_switch_interval, wait_until

import pylog
from pylog import Log, Partition, TopicConfig, verification
from pylog._native import encode
from pylog.errors import (
    ClosedError,
    InvalidConfigurationError,
    RecordTooLargeError,
    UnknownSettingError,
    UnknownTopicOrPartitionError,
)
from pylog.metadata import METADATA_TOPIC
from pylog.storage.attachment import Attachment
from pylog.storage.produced import Piece


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path) as log:
        yield log


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[tuple[Log, Log]]:
    """One directory, opened twice: to each the other is another process."""
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        yield one, other


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[Attachment]:
    """Who synced a user's topic for waiting appenders, in order."""
    seen: list[Attachment] = []
    sync_segments = Attachment._sync_segments

    def sync(self: Attachment, *how: Any) -> None:
        if self._topic != METADATA_TOPIC:
            seen.append(self)
        sync_segments(self, *how)

    monkeypatch.setattr(Attachment, "_sync_segments", sync)
    return seen


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


# ---------------------------------------------------------------- durability


@pytest.mark.parametrize("kind", ["topic", "partition", "slow"])
@pytest.mark.parametrize("before", ["os", "interval"])
def test_a_bound_append_waits_for_the_sync_when_the_topic_asks_for_it(
    logs: tuple[Log, Log], kind: str, before: str, syncs: list[Attachment]
) -> None:
    log, other = logs
    topic = other.topic(log.create_topic("t", durability=before, flush_ms=10**9).name)
    partition = topic.partition(0)
    append = {"topic": topic.append, "partition": partition.append, "slow": topic.append}[kind]
    append(b"a")
    assert partition.durable_offset == 0
    log.alter_topic("t", durability="fsync")
    for number in range(2, 5):
        if kind == "slow":
            topic.append_many([b"b"], partition=0)
        else:
            append(b"b")
        assert partition.durable_offset == number
    assert len(syncs) == 3


def test_another_process_keeps_the_durability_of_every_moment(tmp_path: Path) -> None:
    # An odd round says that the topic has been "fsync" since before it was noted.
    told = Numbers(2)
    rounds = 12
    with pylog.open(tmp_path) as log, children() as start:
        log.create_topic("t", durability="os")

        def append_all_the_time() -> None:
            with pylog.open(tmp_path) as mine:
                partition = mine.topic("t").partition(0)
                append = partition.append
                while (begun := told[0]) < rounds:
                    offset = append(b"x").offset
                    assert partition.high_watermark > offset
                    if begun % 2 and told[0] == begun:
                        assert partition.durable_offset > offset
                    if told[0] == begun:
                        told[1] = begun

        child = start(append_all_the_time)
        for number in range(1, rounds):
            log.alter_topic("t", durability="fsync" if number % 2 else "os")
            told[0] = number
            wait_until(lambda number=number: told[1] == number)
            told[0] = number + 1 if number % 2 else number
        told[0] = rounds
        child.join()
        assert log.topic("t").partition(0).log_end_offset >= rounds - 1


def test_a_bound_append_waits_no_longer_when_the_topic_does_not_ask_for_it(
    logs: tuple[Log, Log], syncs: list[Attachment]
) -> None:
    log, other = logs
    log.create_topic("t", durability="fsync")
    append = other.topic("t").append
    append(b"a")
    assert len(syncs) == 1
    log.alter_topic("t", durability="os")
    for _ in range(3):
        append(b"b")
    assert len(syncs) == 1
    assert values(log.topic("t").partition(0)) == [b"a", b"b", b"b", b"b"]


def test_records_stay_visible_and_are_synced_with_the_next_one(logs: tuple[Log, Log]) -> None:
    log, other = logs
    log.create_topic("t", durability="os")
    mine, theirs = log.topic("t").partition(0), other.topic("t").partition(0)
    mine.append(b"a")
    theirs.append(b"b")
    log.alter_topic("t", durability="fsync")
    assert (mine.high_watermark, mine.durable_offset) == (2, 0)
    theirs.append(b"c")
    assert (mine.high_watermark, mine.durable_offset) == (3, 3)


def test_what_a_killed_writer_left_unsynced_shows_with_the_next_record(
    logs: tuple[Log, Log],
) -> None:
    log, other = logs
    log.create_topic("t", durability="fsync")
    mine, theirs = log.topic("t").partition(0), other.topic("t").partition(0)
    mine.append(b"a")
    attachment = theirs._attached()
    assert attachment is not None
    theirs._newest_settings()
    theirs.append(b"b")
    attachment.tail.native.append(b"c")  # as if killed here: placed, not synced
    assert mine.high_watermark == 2
    log.alter_topic("t", durability="os")
    mine.append(b"d")
    assert values(mine) == [b"a", b"b", b"c", b"d"]


def test_who_need_not_wait_any_more_has_a_visible_record(log: Log) -> None:
    # The record is placed by the old settings, and its writer comes back to find the new ones.
    topic = log.create_topic("t", durability="fsync")
    partition = topic.partition(0)
    partition.append(b"a")
    attachment = partition._attached()
    assert attachment is not None
    assert not isinstance(attachment.tail.native.append(b"b"), int)
    assert partition.high_watermark == 1
    log.alter_topic("t", durability="os")
    with partition._lock:
        partition._follow_settings(attachment)  # another thread's append, before it places
    assert partition.high_watermark == 2
    assert not partition._waits_for_sync


def test_nothing_placed_by_new_settings_is_shown_by_old_ones(logs: tuple[Log, Log]) -> None:
    # Who still writes by "os" shows all that is placed, so it must notice before it places.
    log, other = logs
    log.create_topic("t", durability="os")
    mine, theirs = log.topic("t").partition(0), other.topic("t").partition(0)
    for partition in (mine, theirs):
        partition.append(b"a")
    log.alter_topic("t", durability="fsync")
    attachment = mine._attached()
    assert attachment is not None
    with mine._lock:
        mine._follow_settings(attachment)
    assert attachment.tail.native.append(b"unsynced") == pylog._native.NOT_OPEN
    with mine._lock:
        attachment.write(bytearray(100), 1, 0, -1, is_large=False)  # makes room, places nothing
    assert not isinstance(attachment.tail.native.append(b"unsynced"), int)
    assert mine.high_watermark == 2
    theirs_attachment = theirs._attached()
    assert theirs_attachment is not None
    assert theirs_attachment.tail.native.append(b"shown?") == pylog._native.NOT_OPEN
    assert mine.high_watermark == 2


def test_a_change_in_the_middle_of_an_append_under_the_page_lock_is_followed(log: Log) -> None:
    # Story: the append of a producer's batch asserted that nobody had changed any settings.
    partition = log.create_topic("t", durability="os").partition(0)
    produced = partition._produced_log()
    attach, changes = produced._attach, [1, 2]

    def attach_and_see_a_change() -> Attachment:
        attachment = attach()
        if changes:
            log.alter_topic("t", retention_ms=changes.pop())
        return attachment

    produced._attach = attach_and_see_a_change
    data, _ = encode((b"x",), None, None, 0, 1000)
    assert produced._append_alone([Piece(data, 1, 0, None)]) == [range(1)]
    assert changes == []
    assert values(partition) == [b"x"]


def test_a_roll_makes_durable_what_another_durability_left_unsynced(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Story: the roll synced the active segment only, and vouched for those before it.
    topic = log.create_topic("t", durability="os", segment_bytes=1000)
    partition = topic.partition(0)
    monkeypatch.setattr(log._engine, "_flush_sealed_soon", lambda partition: None)
    monkeypatch.setattr(type(partition), "flush_sealed", lambda self: None)
    for _ in range(6):
        partition.append(bytes(400))
    assert partition.durable_offset == 0
    attachment = partition._attached()
    assert attachment is not None
    log.alter_topic("t", durability="fsync")

    synced: list[str] = []
    sync_locked = pylog.storage.lifecycle._sync_locked

    def note(page: Any, segment: Any) -> None:
        synced.append(segment.log_name)
        sync_locked(page, segment)

    monkeypatch.setattr(pylog.storage.lifecycle, "_sync_locked", note)
    partition.append(bytes(400))
    assert [int(name.removesuffix(".log")) for name in synced] == [0, 2, 4]
    assert partition.durable_offset == 7


def test_interval_begins_to_sync_with_the_next_append(log: Log) -> None:
    partition = log.create_topic("t", durability="os").partition(0)
    partition.append(b"a")
    log.alter_topic("t", durability="interval", flush_ms=1)
    partition.append(b"b")
    wait_until(lambda: partition.durable_offset == 2)
    assert partition.high_watermark == 2


def test_a_shorter_interval_does_not_wait_for_the_longer_one(log: Log) -> None:
    partition = log.create_topic("t", durability="interval", flush_ms=10**9).partition(0)
    partition.append(b"a")
    log.alter_topic("t", flush_ms=1)
    partition.append(b"b")
    wait_until(lambda: partition.durable_offset == 2)
    assert partition.high_watermark == 2


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
